"""Correspondences first: a network that says where each vertex of a template is seen, and nothing else.

Camera and shape are not regressed. They are what fits the points best, found by optimisation, in training and in use.
Source: Kokkinos & Kokkinos, "To The Point: correspondence-driven monocular 3D category reconstruction", NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lib import rendering
from lib.checks import check_tensor, whole_number
from lib.datasets import check_batch
from lib.deformation.basis import LinearBasis, smooth_modes
from lib.estimation.pose import solve_weak_perspective
from lib.estimation.pose_and_shape import PoseAndShape, solve_coefficients, solve_pose_and_shape
from lib.geometry.cameras import WeakPerspective
from lib.geometry.geodesics import farthest_points
from lib.geometry.image_plane import sample_image
from lib.geometry.laplacian import interpolation_matrix
from lib.geometry.mesh import Mesh
from lib.layers.convolutional import Encoder
from lib.layers.heat_maps import HeatMapHead, soft_argmax
from lib.losses.keypoints import keypoint_loss
from lib.losses.mesh import arap_energy
from lib.losses.silhouette import mask_loss
from lib.models.category import with_sum

HEADS = ("heat maps", "linear")
FIT = 3e-3  # the ridge for bending the template to the annotation, as `solve_coefficients` takes it
SOLVERS = ("none", "closed form", "implicit")


class Points(NamedTuple):
    """points (B, V, 2): where each vertex is in the image plane; visibility (B, V): the probability that it is seen."""

    points: Float[Tensor, "B V 2"]
    visibility: Float[Tensor, "B V"]


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of `ToThePoint.loss`, chapter 8's; a term of weight 0 is not computed."""

    points: float = 1.0
    visibility: float = 0.1
    keypoint: float = 0.0
    mask: float = 0.0
    rigidity: float = 0.0
    equivariance: float = 0.0


class ToThePoint(nn.Module):
    """Image → a point and a visibility for every vertex of a template, and a basis of shapes that is learned beside.

    template: of size about 1. keypoint_vertices (K,): the vertex that each keypoint is. spots: so many vertices, far
    from each other, and the keypoints' are looked for in the picture; the points of all others lie smoothly between
    theirs (`laplacian.interpolation_matrix`). modes: the size of the linear
    basis; 0 for a rigid template. head: "heat maps" (their expectation) or "linear" (coordinates from the code, as in
    the paper's release). image_size, width, map_channels, features: of the `Encoder`.

    Raises ValueError for an unknown head.
    """

    def __init__(
        self,
        template: Mesh,
        keypoint_vertices: Int[Tensor, "K"],
        *,
        spots: int = 128,
        modes: int = 30,
        head: str = "heat maps",
        image_size: int = 256,
        width: int = 64,
        map_channels: int = 256,
        features: int = 200,
    ) -> None:
        super().__init__()
        check_tensor("keypoint_vertices", keypoint_vertices, "K", kind="integer")
        if head not in HEADS:
            raise ValueError(f"head={head!r} is unknown; use one of {', '.join(map(repr, HEADS))}")
        count = len(template.verts)
        far = farthest_points(template.verts, template.faces, whole_number("spots", spots))
        chosen = torch.cat([far, keypoint_vertices.to(far)]).unique()
        spread = interpolation_matrix(template.verts, template.faces, chosen)
        self.register_buffer("template", template.verts.detach().clone(), persistent=False)
        self.register_buffer("faces", template.faces.clone(), persistent=False)
        self.register_buffer("keypoint_vertices", keypoint_vertices.clone(), persistent=False)
        self.register_buffer("chosen", chosen, persistent=False)
        self.register_buffer("spread", spread, persistent=False)
        self.encoder = Encoder(image_size, width, map_channels, features)
        self.heat_maps = HeatMapHead(self.encoder.trunk, len(chosen)) if head == "heat maps" else None
        self.linear = nn.Linear(features, 2 * len(chosen)) if head == "linear" else None
        self.visibility = nn.Linear(features, count)
        self.basis = LinearBasis(template, modes) if modes else None
        if modes:
            with torch.no_grad():
                self.basis.modes.copy_(smooth_modes(template, modes))
        self.register_buffer("fitting", smooth_modes(template, 30), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Points:
        points, logits = self.regress(images)
        return Points(points, logits.sigmoid())

    def regress(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B V 2"], Float[Tensor, "B V"]]:
        """Return the points, and the logits of their visibilities."""
        code, stages = self.encoder.with_stages(images)
        scores = None if self.heat_maps is None else self.heat_maps(stages).float()
        code = code.float()
        with torch.autocast(images.device.type, enabled=False):
            spots = self.linear(code).unflatten(-1, (-1, 2)).tanh() if scores is None else soft_argmax(scores)
            return self.spread @ spots, self.visibility(code)

    def keypoints(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K 3"]:
        """Return the keypoints, a vertex each."""
        return verts[:, self.keypoint_vertices]

    def solve(self, found: Points, *, refine: bool = True, rigid: bool = False, ridge: float = 1e-3) -> PoseAndShape:
        """Find camera and shape from points, differentiably.

        refine: False takes the closed form. rigid: leave the basis alone; the closed form always does.
        """
        points, visibility = found
        if self.basis is None or rigid or not refine:
            verts = self.template.expand(len(points), -1, -1)
            pose = solve_weak_perspective(verts, points, visibility, refine=refine)
            return PoseAndShape(pose.camera, points.new_zeros(len(points), 0), verts, pose.error, pose.solved)
        return solve_pose_and_shape(self.template, self.basis.modes, points, visibility, ridge=ridge)

    def texture(self, images: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B V 2"]) -> Float[Tensor, "B V 3"]:
        """Pick each vertex's colour where the network sees it."""
        return sample_image(images, points[:, None])[:, :, 0].mT

    @torch.no_grad()
    def targets(self, batch: dict[str, Tensor]) -> tuple[Float[Tensor, "B V 2"], Bool[Tensor, "B V"]]:
        """Return where the vertices are under the given camera, and which of them are seen.

        The template is first bent by its smooth modes, so that its keypoints meet the visible annotated ones.
        """
        camera, at = WeakPerspective.from_vector(batch["camera"]), self.keypoint_vertices
        weights = batch["keypoint_visible"] / batch["keypoint_visible"].sum(1, keepdim=True).clamp(min=1)
        found = torch.where(batch["keypoint_visible"][..., None], batch["keypoints"], 0)
        c = solve_coefficients(self.template[at], self.fitting[:, at], camera, found, weights, FIT)
        verts = self.template + torch.einsum("bm,mvx->bvx", c, self.fitting)
        projected = camera.project(verts)
        return projected[..., :2], rendering.visible_vertices(projected, self.faces, batch["image"].shape[-1])

    def loss(
        self,
        batch: dict[str, Tensor],
        weights: Weights = Weights(),
        *,
        through: str = "none",
        rigid: bool = True,
    ) -> dict[str, Tensor]:
        """Compute the terms by name, weighted, and their sum "loss".

        batch: image, mask, keypoints, keypoint_visible and camera (the given one, from the annotation), as
            `lib.datasets.KEYS` describes them.
        through: how camera and shape are solved for the terms keypoint, mask and rigidity, which gradients pass:
            "closed form", "implicit" (L-BFGS, and the implicit function theorem), or "none", without these terms.
        rigid: leave the basis alone.

        points: the mean distance of the points from those of the template under the given camera, hidden ones too; not
        its square, so that a picture that the network takes for its twin does not outweigh all others.
        equivariance: a picture that is turned, shifted and scaled has its points turned, shifted and scaled.

        Raises ValueError for a batch that lacks a key, or an unknown `through`.
        """
        check_batch(batch, "image", "mask", "keypoints", "keypoint_visible", "camera")
        if through not in SOLVERS:
            raise ValueError(f"through={through!r} is unknown; use one of {', '.join(map(repr, SOLVERS))}")
        size, terms = batch["image"].shape[-1], {}
        points, logits = self.regress(batch["image"])
        wanted, seen = self.targets(batch)
        if weights.points:
            distance = (points - wanted)[:, self.chosen].square().sum(-1)
            terms["points"] = weights.points * (distance + 1e-8).sqrt().mean()
        if weights.visibility:
            terms["visibility"] = weights.visibility * F.binary_cross_entropy_with_logits(logits, seen.float())
        if through != "none":
            solved = self.solve(Points(points, logits.sigmoid()), refine=through == "implicit", rigid=rigid)
            projected = solved.camera.project(solved.verts)
            if weights.keypoint:
                error = keypoint_loss(
                    projected[:, self.keypoint_vertices, :2], batch["keypoints"], batch["keypoint_visible"]
                )
                terms["keypoint"] = weights.keypoint * error
            if weights.mask:
                drawn = rendering.silhouette(projected, self.faces, size)
                terms["mask"] = weights.mask * mask_loss(drawn, batch["mask"])
            if weights.rigidity and not rigid:
                energy = arap_energy(solved.verts, self.template, self.faces).mean()
                terms["rigidity"] = weights.rigidity * energy
        if weights.equivariance:
            matrix, shift = random_similarity(len(points), points)
            moved, _ = self.regress(transform_images(batch["image"], matrix, shift))
            aim = points.detach() @ matrix.mT + shift[:, None]
            inside = (aim.abs() <= 1).all(-1)
            distance = (inside * (moved - aim).square().sum(-1)).sum(-1) / inside.sum(-1).clamp(min=1)
            terms["equivariance"] = weights.equivariance * (distance + 1e-8).sqrt().mean()
        return with_sum(terms)


def random_similarity(
    count: int, like: Tensor, *, angle: float = 40.0, shift: float = 0.15, zoom: tuple[float, float] = (0.7, 1.2)
) -> tuple[Float[Tensor, "B 2 2"], Float[Tensor, "B 2"]]:
    """Draw maps u → M u + b of the image plane: turns up to ± `angle` degrees, shifts up to `shift`, a zoom."""
    draw = torch.rand(4, count, device=like.device, dtype=like.dtype)
    turn = torch.deg2rad(angle * (2 * draw[0] - 1))
    size = zoom[0] + (zoom[1] - zoom[0]) * draw[1]
    cos, sin = size * turn.cos(), size * turn.sin()
    matrix = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    return matrix, shift * (2 * draw[2:].T - 1)


def transform_images(
    images: Float[Tensor, "B 3 H W"], matrix: Float[Tensor, "B 2 2"], shift: Float[Tensor, "B 2"]
) -> Float[Tensor, "B 3 H W"]:
    """Move what is seen at u to M u + b; beyond the old picture its border is repeated."""
    inverse = torch.linalg.inv(matrix)
    theta = torch.cat([inverse, -inverse @ shift[..., None]], -1)
    return sample_image(images, F.affine_grid(theta, list(images.shape), align_corners=False))
