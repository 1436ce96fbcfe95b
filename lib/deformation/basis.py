"""A linear basis of deformations: the template plus a weighted sum of displacement fields."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.checks import check_same_device, check_tensor, number, whole_number
from lib.geometry import laplacian, mesh


class LinearBasis(nn.Module):
    """Coefficients c (B, M) → vertices (B, V, 3): the template plus Σ_m c_m mode_m. The modes are learned.

    A network that ends in this layer has as many outputs as one that ends in K handles, when M = 3 K.
    The one parameter is `modes` (M, V, 3). It starts as normal noise of standard deviation `scale` (in units of
    the template), because zeros would give no gradient to the coefficients.

    Raises ValueError for less than one mode.
    """

    def __init__(self, template: mesh.Mesh, num_modes: int, scale: float = 0.01) -> None:
        super().__init__()
        num_modes, scale = whole_number("num_modes", num_modes, None), number("scale", scale)
        if num_modes < 1:
            raise ValueError(f"num_modes must be 1 or more, got {num_modes}")
        verts = template.verts.detach()
        self.register_buffer("template", verts.clone(), persistent=False)
        self.modes = nn.Parameter(scale * torch.randn(num_modes, *verts.shape).to(verts))

    @property
    def offset_shape(self) -> tuple[int]:
        """The shape (M,) of the coefficients of one picture, for a network that predicts them."""
        return (len(self.modes),)

    def forward(self, coefficients: Float[Tensor, "B M"]) -> Float[Tensor, "B V 3"]:
        """The deformed template."""
        check_tensor("coefficients", coefficients, f"B {len(self.modes)}")
        check_same_device(coefficients=coefficients, modes=self.modes)
        return self.template + torch.einsum("bm,mvx->bvx", coefficients, self.modes)


def smooth_modes(template: mesh.Mesh, num_modes: int, size: float = 0.05) -> Float[Tensor, "M V 3"]:
    """Return the smoothest modes of a template, which need no data: eigenfunctions of its Laplacian, along x, y and z.

    Mode 3 k + a moves the vertices along axis a by the k-th smoothest function that is not constant; the constant one
    would only shift the whole. Each has the root mean square `size`, in units of the template, and its largest entry is
    positive. Source: Vallet and Lévy, "Spectral geometry processing with manifold harmonics", 2008.

    Raises ValueError for more modes than the template has.
    """
    num_modes = whole_number("num_modes", num_modes)
    verts = template.verts.detach()
    if num_modes > 3 * (len(verts) - 1):
        raise ValueError(f"num_modes must be 1 … {3 * (len(verts) - 1)} for {len(verts)} vertices, got {num_modes}")
    matrix = laplacian.cotangent_laplacian(verts.double(), template.faces).to_dense()
    root = laplacian.lumped_mass(verts.double(), template.faces).sqrt()
    _, functions = torch.linalg.eigh(matrix / root[:, None] / root)
    functions = functions[:, 1 : 1 + -(-num_modes // 3)] / root[:, None]
    functions = functions / functions.square().mean(0).sqrt()
    functions = functions * functions.gather(0, functions.abs().argmax(0, keepdim=True)).sign()
    modes = torch.einsum("vk,ax->kavx", functions, torch.eye(3).to(functions)).flatten(0, 1)
    return size * modes[:num_modes].to(verts)


def principal_components(
    samples: Float[Tensor, "S V 3"], num_modes: int
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "M V 3"], Float[Tensor, "M"]]:
    """Find the principal components of meshes in correspondence: mean, modes, standard deviations along the modes.

    Among all linear bases with M modes this one comes nearest to the samples, in the sense of least squares. The
    modes are orthonormal as vectors of 3 V numbers, the one with the largest deviation first. The sign of each
    mode makes its largest entry positive.

    Raises ValueError for more modes than there are samples or coordinates.
    """
    check_tensor("samples", samples, "S V 3", finite=True)
    num_modes = whole_number("num_modes", num_modes, None)
    limit = min(len(samples), samples[0].numel()) if len(samples) else 0
    if not 1 <= num_modes <= limit:
        raise ValueError(f"num_modes must be 1 … {limit}, the number of samples or coordinates, got {num_modes}")
    mean = samples.mean(0)
    _, values, vectors = torch.linalg.svd((samples - mean).flatten(1), full_matrices=False)
    vectors = vectors[:num_modes]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    modes = (vectors * largest.sign()).unflatten(1, samples.shape[1:])
    return mean, modes, values[:num_modes] / len(samples) ** 0.5
