"""One image to a posed, textured animal: a network that moves the handles of a template.

Source: Kokkinos & Kokkinos, "Learning monocular 3D reconstruction of articulated categories from motion", CVPR 2021,
sections 3.1 and 4. Encoder, camera and texture are those of `lib.models.cmr`: here the texture is a flow, whereas the
paper decodes colours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.checks import check_tensor
from lib.geometry.mesh import Mesh
from lib.models.cmr import CategoryNetwork


class Articulation(NamedTuple):
    """Prediction for B images.

    offsets: the numbers that pose the template, in the form that its deformation takes: handle offsets (B, K, 3),
    coefficients (B, 3·K) of a basis, or vertex offsets (B, V, 3); verts (B, V, 3): the posed mesh; camera (B, 7):
    `WeakPerspective.to_vector`; flow (B, S, 2·S, 2): for each point of the sphere image, the point of the image plane
    where its colour is to be picked.
    """

    offsets: Float[Tensor, "B ..."]
    verts: Float[Tensor, "B V 3"]
    camera: Float[Tensor, "B 7"]
    flow: Float[Tensor, "B S 2*S 2"]


class Articulated(CategoryNetwork):
    """A template, the deformation that moves it, and the network that predicts the motion from an image.

    template: of size about 1. sphere (V, 3): unit vectors, where each vertex of the template lies on the sphere that
    carries the texture. deformation: a layer of `lib.deformation` made for this template; what it learns is learned
    with the network, and its `offset_shape` says how many numbers the network predicts. sizes: see `CategoryNetwork`.

    Raises ValueError for a sphere of another size, or a deformation that does not tell its offset_shape.
    """

    def __init__(self, template: Mesh, sphere: Float[Tensor, "V 3"], deformation: nn.Module, **sizes: int) -> None:
        check_tensor("sphere", sphere, f"{len(template.verts)} 3", finite=True)
        shape = getattr(deformation, "offset_shape", None)
        if shape is None:
            raise ValueError(
                f"deformation must tell its offset_shape, which {type(deformation).__name__} does not; "
                "pass a HandleLayer, LinearBasis or FreeVertices"
            )
        super().__init__(template.faces, sphere, math.prod(shape), **sizes)
        self.deformation = deformation

    def pose(self, code: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B V 3"]]:
        """Return offsets and mesh for codes of the encoder."""
        offsets = self.offset_head(code).unflatten(-1, self.deformation.offset_shape)
        return offsets, self.deformation(offsets)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Articulation:
        code = self.encoder(images).float()
        # Only the encoder runs in mixed precision, as in CMR.
        with torch.autocast(images.device.type, enabled=False):
            return Articulation(*self.pose(code), self.camera(code), self.flow(code))
