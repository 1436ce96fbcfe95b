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
from lib.deformation.basis import LinearBasis
from lib.deformation.free import FreeVertices
from lib.deformation.handles import HandleLayer
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

    sphere (V, 3): unit vectors, where each vertex of the template lies on the sphere that carries the texture.
    template, deformation, num_handles, laplacian: see `make_deformation`; sizes: see `CategoryNetwork`.
    """

    def __init__(
        self,
        template: Mesh,
        sphere: Float[Tensor, "V 3"],
        *,
        num_handles: int = 16,
        deformation: str = "handles",
        laplacian: str = "cotangent",
        **sizes: int,
    ) -> None:
        check_tensor("sphere", sphere, f"{len(template.verts)} 3", finite=True)
        layer, shape = make_deformation(template, deformation, num_handles, laplacian)
        super().__init__(template.faces, sphere, math.prod(shape), **sizes)
        self.deformation = layer
        self.offset_shape = shape

    def pose(self, code: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B V 3"]]:
        """Return offsets and mesh for codes of the encoder."""
        offsets = self.offset_head(code).unflatten(-1, self.offset_shape)
        return offsets, self.deformation(offsets)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Articulation:
        code = self.encoder(images).float()
        # Only the encoder runs in mixed precision, as in CMR.
        with torch.autocast(images.device.type, enabled=False):
            return Articulation(*self.pose(code), self.camera(code), self.flow(code))


def make_deformation(
    template: Mesh, deformation: str, num_handles: int, laplacian: str = "cotangent"
) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the deformation layer, and the shape of its offsets for one picture.

    deformation: "handles" (a `HandleLayer` with K = num_handles, which learns A), or one of its rivals: "basis" (a
    `LinearBasis`, which learns 3·K modes, so that it takes as many numbers as K handles) or "free" (every vertex by
    itself, with nothing to learn; K has no meaning). template: of size about 1, see `HandleLayer`.

    Raises ValueError for another deformation, and the errors of the deformation.
    """
    if deformation == "handles":
        return HandleLayer(template, num_handles, laplacian), (num_handles, 3)
    if deformation == "basis":
        return LinearBasis(template, 3 * num_handles), (3 * num_handles,)
    if deformation == "free":
        return FreeVertices(template), tuple(template.verts.shape)
    raise ValueError(f'deformation={deformation!r} is unknown; use "handles", "basis" or "free"')
