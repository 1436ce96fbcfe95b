"""The deformation that knows nothing: every vertex moves by itself."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lib.checks import check_same_device, check_tensor
from lib.geometry.laplacian import smoothing_matrix
from lib.geometry.mesh import Mesh


class FreeVertices(nn.Module):
    """Vertex offsets (B, V, 3) → vertices: the model knows nothing of how the template moves, and learns nothing.

    smoothing: with λ > 0 the vertices are T + (I + λ L)⁻¹ offsets, see `laplacian.smoothing_matrix`. All shapes can be
    reached as before, but a step of descent moves a vertex together with its surroundings.
    """

    def __init__(self, template: Mesh, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("template", template.verts.detach().clone(), persistent=False)
        matrix = (
            smoothing_matrix(template.faces, len(template.verts), smoothing).to(self.template) if smoothing else None
        )
        self.register_buffer("smooth", matrix, persistent=False)

    @property
    def offset_shape(self) -> tuple[int, int]:
        """The shape (V, 3) of the offsets of one picture, for a network that predicts them."""
        return len(self.template), 3

    def forward(self, offsets: Float[Tensor, "B V 3"]) -> Float[Tensor, "B V 3"]:
        """The moved template."""
        check_tensor("offsets", offsets, f"B {len(self.template)} 3")
        check_same_device(offsets=offsets, template=self.template)
        return self.template + (offsets if self.smooth is None else self.smooth @ offsets)
