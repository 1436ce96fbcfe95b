"""One image to a textured mesh of a known category: shape, camera and texture of the category-mesh model.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction from image collections",
ECCV 2018. The docstrings mark the differences from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib import rendering
from lib.checks import check_tensor
from lib.datasets import check_batch
from lib.geometry.cameras import WeakPerspective
from lib.geometry.laplacian import smoothing_matrix
from lib.losses.keypoints import assignment_entropy, camera_loss, keypoint_loss, visible_distance
from lib.losses.mesh import laplacian_loss
from lib.losses.photometric import outside_loss
from lib.losses.silhouette import mask_loss
from lib.models.category import CategoryNetwork, with_sum


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of `CMR.loss`; a term of weight 0 is not computed.

    The defaults are chapter 5's, for some hundred steps. The paper has mask 2, laplacian 30 and deformation 10, which
    go with several hundred thousand. It has no `heat_map` (of a network with heat maps) and no `pointing`.
    """

    keypoint: float = 30.0
    mask: float = 20.0
    camera: float = 2.0
    laplacian: float = 4.0
    deformation: float = 2.0
    entropy: float = 0.16
    texture: float = 0.5
    outside: float = 0.25
    heat_map: float = 4.0
    pointing: float = 1.0


class CMR(CategoryNetwork):
    """A category: its learned mean shape and keypoint assignment, and the network that adapts them to an image.

    verts (V, 3), faces (F, 3): the shape to start from, mirror-symmetric about z = 0 under `mirror` (V,); sphere
    (V, 3): unit vectors, where each vertex lies on the sphere that carries the texture. keypoint_permutation (K,):
    for each keypoint the one on the other side. symmetric_offsets: True as in the paper; False gives every vertex an
    offset of its own, so that an animal can put one leg before the other. smoothing: λ of `smoothing_matrix`, through
    which mean shape and offsets are learned; 0 learns them vertex by vertex, as in the paper. sizes: see
    `CategoryNetwork`. The predicted offsets are ΔV (B, V, 3), the difference of this animal from the mean shape.

    Half of the mean shape's vertices are free, the others are their mirror images. The assignment A is symmetric in
    the same way: a left keypoint is the mirror image of the right one. (The paper's code leaves A free.) A vertex that
    would cross the mirror plane is put back to its own side by the sign of its z. (In the paper nothing holds it.)
    """

    def __init__(
        self,
        verts: Float[Tensor, "V 3"],
        faces: Int[Tensor, "F 3"],
        sphere: Float[Tensor, "V 3"],
        mirror: Int[Tensor, "V"],
        keypoint_permutation: Int[Tensor, "K"],
        *,
        symmetric_offsets: bool = True,
        smoothing: float = 0.0,
        **sizes: int,
    ) -> None:
        check_tensor("verts", verts, "V 3", finite=True)
        check_tensor("sphere", sphere, f"{len(verts)} 3", finite=True)
        check_tensor("mirror", mirror, str(len(verts)), kind="integer")
        check_tensor("keypoint_permutation", keypoint_permutation, "K", kind="integer")
        vertex = torch.arange(len(verts), device=verts.device)
        free = torch.where(mirror >= vertex)[0]
        # Find for every vertex the free vertex that it is, or that it mirrors, and the signs of its coordinates.
        source = torch.searchsorted(free, torch.minimum(vertex, mirror))
        sign = torch.ones(len(verts), 3, device=verts.device)
        sign[:, 2] = (mirror > vertex).float() - (mirror < vertex).float()
        super().__init__(faces, sphere, 3 * len(free if symmetric_offsets else verts), **sizes)
        self.symmetric_offsets = symmetric_offsets
        for name, value in (("mirror", mirror), ("source", source)):
            self.register_buffer(name, value.clone(), persistent=False)
        self.register_buffer("sign", sign, persistent=False)
        self.register_buffer("side", torch.where(mirror == vertex, 0.0, sphere[:, 2].sign()), persistent=False)
        self.register_buffer("keypoint_permutation", keypoint_permutation.clone(), persistent=False)

        self.smoothing = smoothing
        if smoothing:
            smooth = smoothing_matrix(faces, len(verts), smoothing)
            self.register_buffer("smooth", smooth, persistent=False)
            verts = torch.linalg.solve(smooth.double(), verts.double()).float()
        self.mean_half = nn.Parameter(verts[free].clone())
        self.logits = nn.Parameter(torch.zeros(len(keypoint_permutation), len(verts), device=verts.device))

    def symmetric(self, half: Float[Tensor, "... H 3"]) -> Float[Tensor, "... V 3"]:
        """Complete the free vertices by their mirror images; vertices of the midline are put onto the mirror plane."""
        return half[..., self.source, :] * self.sign

    @property
    def mean_shape(self) -> Float[Tensor, "V 3"]:
        return self.keep_sides(self.spread(self.symmetric(self.mean_half)))

    def spread(self, values: Float[Tensor, "... V 3"]) -> Float[Tensor, "... V 3"]:
        """Turn what is learned into places of vertices, or their offsets: smoothed, if the model is made so."""
        if not self.smoothing:
            return values
        # One product for the whole batch: some ten times faster than one for each picture.
        columns = values.movedim(-2, 0)
        return (self.smooth @ columns.flatten(1)).view_as(columns).movedim(0, -2)

    def keep_sides(self, verts: Float[Tensor, "... V 3"]) -> Float[Tensor, "... V 3"]:
        """Fold vertices that have crossed the mirror plane back to their own side; those of the midline are free."""
        x, y, z = verts.unbind(-1)
        return torch.stack([x, y, torch.where(self.side == 0, z, self.side * z.abs())], -1)

    @property
    def assignment(self) -> Float[Tensor, "K V"]:
        """The matrix A: for every keypoint a distribution over the vertices, uniform at the start."""
        mirrored = self.logits[self.keypoint_permutation][:, self.mirror]
        return ((self.logits + mirrored) / 2).softmax(-1)

    def keypoints(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K 3"]:
        """Return the keypoints as expected vertices, A V."""
        return self.assignment @ verts

    def shape(self, code: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B V 3"], Float[Tensor, "B V 3"]]:
        """Return ΔV, and the vertices V̄ + ΔV, for codes of the encoder."""
        offsets = self.offset_head(code).unflatten(-1, (-1, 3))
        if self.symmetric_offsets:
            offsets = self.symmetric(offsets)
        mean, offsets = self.mean_shape, self.spread(offsets)
        verts = self.keep_sides(mean + offsets)
        return verts - mean, verts

    def loss(
        self,
        batch: dict[str, Tensor],
        weights: Weights = Weights(),
        *,
        features: Callable[[Tensor], list[Tensor]] | None = None,
        deform: bool = True,
        rotation: str = "chordal",
    ) -> dict[str, Tensor]:
        """Compute the terms of the paper's objective by name, weighted, and their sum "loss" (section 3.2 and 3.3).

        batch: image, mask, keypoints, keypoint_visible, camera, and for the weight `outside` also distances, as
            `lib.datasets.KEYS` describes them. All that projects uses the batch's camera; the predicted camera is only
            asked to agree with it, so that a bad one cannot spoil the shape.
        features: for the texture, see `CategoryNetwork.texture_loss`.
        deform: False leaves ΔV out: the mean shape by itself, for everybody. (The network is then called for camera or
            texture only.)
        rotation: see `camera_loss`; the paper's is "quaternion".

        Raises ValueError for a batch that lacks a key.
        """
        needed = ["image", "mask", "keypoints", "keypoint_visible", "camera"]
        check_batch(batch, *needed, *(["distances"] if weights.outside else []))
        camera, terms = WeakPerspective.from_vector(batch["camera"]), {}
        verts = self.mean_shape.expand(len(batch["image"]), -1, -1)
        if deform or weights.camera or weights.texture or weights.outside or weights.pointing:
            prediction = self(batch["image"])
        if weights.camera:
            terms["camera"] = weights.camera * camera_loss(prediction.camera, batch["camera"], rotation)
        if weights.heat_map and weights.camera and self.heat_maps is not None:
            error = visible_distance(prediction.keypoints, batch["keypoints"], batch["keypoint_visible"])
            terms["heat_map"] = weights.heat_map * error
        if deform:
            verts = prediction.verts
            if weights.deformation:
                terms["deformation"] = weights.deformation * prediction.offsets.norm(dim=-1).mean()
        projected = camera.project(verts)
        if weights.keypoint:
            seen = self.assignment @ projected[..., :2]
            error = keypoint_loss(seen, batch["keypoints"], batch["keypoint_visible"])
            terms["keypoint"] = weights.keypoint * error
        if weights.laplacian:
            terms["laplacian"] = weights.laplacian * laplacian_loss(verts, self.faces)
        if weights.entropy:
            terms["entropy"] = weights.entropy * assignment_entropy(self.assignment)
        if weights.mask:
            drawn = rendering.silhouette(projected, self.faces, batch["mask"].shape[-1])
            terms["mask"] = weights.mask * mask_loss(drawn, batch["mask"])
        if weights.texture:
            look = self.texture_loss(batch, prediction.flow, verts, camera, features)
            terms["texture"] = weights.texture * look
        if weights.outside:
            terms["outside"] = weights.outside * outside_loss(prediction.flow, batch["distances"])
        if weights.pointing:
            terms["pointing"] = weights.pointing * self.pointing_loss(prediction.flow, projected, batch["mask"])
        return with_sum(terms)
