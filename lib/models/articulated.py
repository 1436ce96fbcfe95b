"""One image to a posed, textured animal: a network that moves the handles of a template.

Source: Kokkinos & Kokkinos, "Learning monocular 3D reconstruction of articulated categories from motion", CVPR 2021,
sections 3.1 and 4. Encoder, camera and texture are those of `lib.models.category`: here the texture is a flow, whereas
the paper decodes colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib import rendering
from lib.checks import check_tensor
from lib.datasets import check_batch
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import Mesh
from lib.losses.keypoints import camera_loss, keypoint_loss
from lib.losses.mesh import edge_rigidity, laplacian_loss, ring_pairs
from lib.losses.motion import pair_motion
from lib.losses.silhouette import mask_loss
from lib.models.category import CategoryNetwork, with_sum

# Keys of a picture that `Articulated.loss` learns from.
LEARNED = ("image", "mask", "keypoints", "keypoint_visible", "camera")


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of `Articulated.loss` and of a pose's cost, those of chapter 6; 0 leaves a term out.

    motion is of pairs of frames, which chapter 7 brings.
    """

    keypoint: float = 30.0
    mask: float = 10.0
    rigidity: float = 2.0
    laplacian: float = 10.0
    camera: float = 5.0
    texture: float = 1.0
    motion: float = 0.0


class PoseCost(nn.Module):
    """Costs of seeing a posed template in pictures, by name: keypoints, mask, local rigidity, Laplacian.

    template (V vertices, at rest); keypoint_vertices (K,): the vertex that each keypoint is. keep_details: the
    Laplacian of the *difference* from the template is punished, ‖L (V − T)‖, and not that of the mesh, which would
    flatten what the template has.
    """

    def __init__(self, template: Mesh, keypoint_vertices: Int[Tensor, "K"], keep_details: bool = False) -> None:
        super().__init__()
        self.keep_details = keep_details
        check_tensor("keypoint_vertices", keypoint_vertices, "K", kind="integer")
        self.register_buffer("rest", template.verts.detach().clone(), persistent=False)
        self.register_buffer("faces", template.faces.clone(), persistent=False)
        self.register_buffer("keypoint_vertices", keypoint_vertices.clone(), persistent=False)
        self.register_buffer("pairs", ring_pairs(template.faces, 2), persistent=False)

    def forward(
        self,
        verts: Float[Tensor, "B V 3"],
        camera: WeakPerspective,
        batch: dict[str, Tensor],
        weights: Weights = Weights(),
    ) -> dict[str, Tensor]:
        """Compute the terms. batch: mask, keypoints and keypoint_visible, as `lib.datasets.KEYS` describes them.

        The rigidity is `edge_rigidity` of all pairs of vertices at most two edges apart.
        """
        projected, terms = camera.project(verts), {}
        if weights.keypoint:
            seen = projected[:, self.keypoint_vertices, :2]
            error = keypoint_loss(seen, batch["keypoints"], batch["keypoint_visible"])
            terms["keypoint"] = weights.keypoint * error
        if weights.mask:
            drawn = rendering.silhouette(projected, self.faces, batch["mask"].shape[-1])
            terms["mask"] = weights.mask * mask_loss(drawn, batch["mask"])
        if weights.rigidity:
            terms["rigidity"] = weights.rigidity * edge_rigidity(verts, self.rest, self.pairs).mean()
        if weights.laplacian:
            bent = verts - self.rest if self.keep_details else verts
            terms["laplacian"] = weights.laplacian * laplacian_loss(bent, self.faces)
        return terms


class Articulated(CategoryNetwork):
    """A template, the deformation that moves it, and the network that predicts the motion from an image.

    template: of size about 1. sphere (V, 3): unit vectors, where each vertex of the template lies on the sphere that
    carries the texture. deformation: a layer of `lib.deformation` made for this template; what it learns is learned
    with the network, and its `offset_shape` says how many numbers the network predicts. keypoint_vertices (K,): the
    vertex that each keypoint is, which only `loss` needs. keep_details: see `PoseCost`. posing: the offsets are read by
    two layers from the code, the keypoints of the heat maps and the camera, and not by one layer from the code; a pose
    in the animal's own frame follows from where its keypoints are seen and from which side. sizes: see
    `CategoryNetwork`.

    Raises ValueError for a sphere of another size, or a deformation that does not tell its offset_shape.
    """

    def __init__(
        self,
        template: Mesh,
        sphere: Float[Tensor, "V 3"],
        deformation: nn.Module,
        keypoint_vertices: Int[Tensor, "K"] | None = None,
        *,
        keep_details: bool = False,
        posing: bool = False,
        **sizes: int,
    ) -> None:
        check_tensor("sphere", sphere, f"{len(template.verts)} 3", finite=True)
        shape = getattr(deformation, "offset_shape", None)
        if shape is None:
            raise ValueError(
                f"deformation must tell its offset_shape, which {type(deformation).__name__} does not; "
                "pass a HandleLayer, LinearBasis or FreeVertices"
            )
        super().__init__(template.faces, sphere, math.prod(shape), **sizes)
        self.deformation = deformation
        self.cost = None if keypoint_vertices is None else PoseCost(template, keypoint_vertices, keep_details)
        self.posing = posing
        if posing:
            read = self.camera_head.in_features + 7
            self.offset_head = nn.Sequential(nn.Linear(read, 128), nn.ReLU(), nn.Linear(128, math.prod(shape)))
            nn.init.normal_(self.offset_head[-1].weight, std=1e-3)
            nn.init.zeros_(self.offset_head[-1].bias)

    def seen_by_shape(
        self, code: Float[Tensor, "B F"], keypoints: Float[Tensor, "B K 2"], camera: Float[Tensor, "B 7"]
    ) -> Float[Tensor, "B G"]:
        """Return what the head of the shape reads. No gradient of the pose reaches the heat maps or the camera."""
        return torch.cat([code, keypoints.detach().flatten(1), camera.detach()], 1) if self.posing else code

    def shape(self, code: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B V 3"]]:
        """Return offsets, in the form that the deformation takes, and the posed mesh for codes of the encoder."""
        offsets = self.offset_head(code).unflatten(-1, self.deformation.offset_shape)
        return offsets, self.deformation(offsets)

    def keypoints(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K 3"]:
        """Return the keypoints, a vertex each."""
        if self.cost is None:
            raise ValueError("the model has no keypoints; make it with keypoint_vertices")
        return verts[:, self.cost.keypoint_vertices]

    def loss(
        self,
        batch: dict[str, Tensor],
        weights: Weights = Weights(),
        *,
        features: Callable[[Tensor], list[Tensor]] | None = None,
        rotation: str = "quaternion",
    ) -> dict[str, Tensor]:
        """Compute the terms by name, weighted, and their sum "loss": the pose's cost, the camera's and the texture's.

        batch: image, mask, keypoints, keypoint_visible and camera, as `lib.datasets.KEYS` describes them. All that
            projects uses the batch's camera; the predicted camera is only asked to agree with it.
        features: for the texture, see `CategoryNetwork.texture_loss`. rotation: see `camera_loss`.

        A network with heat maps also pays for the keypoints that they show, with the weight `keypoint`.

        A batch of pairs of frames has all of these keys a second time, with "next_" before the name, for the second
        frames. All terms are of both frames then. With a weight of `motion` it also has flow and flow_mask, from the
        first to the second, and `motion_loss` compares them with the motion of the vertices under the *predicted*
        cameras, so that the camera learns from it, too.

        Raises ValueError for a batch that lacks a key, or a model that was made without keypoint_vertices.
        """
        if self.cost is None:
            raise ValueError("the model has no keypoints; make it with keypoint_vertices to compute its loss")
        check_batch(batch, *LEARNED)
        pairs = "next_image" in batch
        if weights.motion and not pairs:
            raise ValueError("weights.motion needs a batch of pairs of frames, with next_image and flow")
        if pairs:
            moving = ("flow", "flow_mask") if weights.motion else ()
            check_batch(batch, *(f"next_{name}" for name in LEARNED), *moving)
            flow, known = batch.get("flow"), batch.get("flow_mask")
            batch = {name: torch.cat([batch[name], batch[f"next_{name}"]]) for name in LEARNED}
        camera, prediction = WeakPerspective.from_vector(batch["camera"]), self(batch["image"])
        terms = self.cost(prediction.verts, camera, batch, weights)
        if weights.camera:
            terms["camera"] = weights.camera * camera_loss(prediction.camera, batch["camera"], rotation)
        if self.heat_maps is not None and weights.keypoint:
            error = keypoint_loss(prediction.keypoints, batch["keypoints"], batch["keypoint_visible"])
            terms["heat maps"] = weights.keypoint * error
        if weights.texture:
            look = self.texture_loss(batch, prediction.flow, prediction.verts, camera, features)
            terms["texture"] = weights.texture * look
        if pairs and weights.motion:
            own, frames = WeakPerspective.from_vector(prediction.camera), torch.arange(len(camera), device=flow.device)
            motion = pair_motion(prediction.verts, own, self.faces, *frames.chunk(2), flow, known, flow.shape[-1])
            terms["motion"] = weights.motion * motion
        return with_sum(terms)
