"""The Laplacian of a mesh: cotangent and uniform, sparse; the lumped mass; a fast sparse factorisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_faces, check_tensor, whole_number
from lib.geometry import mesh
from lib.geometry.vectors import extent_scale

if TYPE_CHECKING:
    import scipy.sparse


def corner_cotangents(verts: Float[Tensor, "... V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "... F 3"]:
    """Cotangents of the angles at the three corners of each face, cos / sin = ⟨a, b⟩ / |a × b|.

    Leading axes are batches. In a triangle of zero area the sine is replaced by the smallest normal number
    of the dtype.
    """
    check_tensor("verts", verts, "... V 3", kind="real")
    faces = check_faces(faces, verts.shape[-2])
    scaled = verts / extent_scale(verts)
    corners = [scaled.index_select(-2, corner) for corner in faces.unbind(1)]
    cotangents = []
    for i in range(3):
        to_next = corners[(i + 1) % 3] - corners[i]
        to_last = corners[(i + 2) % 3] - corners[i]
        sine = torch.linalg.cross(to_next, to_last).norm(dim=-1)
        cotangents.append((to_next * to_last).sum(-1) / sine.clamp_min(torch.finfo(verts.dtype).tiny))
    return torch.stack(cotangents, dim=-1)


def cotangent_laplacian(verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V V"]:
    """The cotangent Laplacian L, a sparse (V, V) COO matrix; differentiable in verts.

    hᵀ L h is the Dirichlet energy ∫ |∇h|² of the function that has the value h_i at vertex i and is linear on
    each face. So L is symmetric and positive semi-definite, and its rows sum to zero:

        L_ij = −(cot θ_ij + cot θ'_ij) / 2,    L_ii = −Σ_j L_ij,

    with θ, θ' the two angles opposite the edge ij (a boundary edge has one). L has no unit; divide by
    `lumped_mass` for the Laplace–Beltrami operator. L @ verts is the gradient of the surface's area, which is
    2 · mean curvature · mass · normal. Source: Pinkall & Polthier 1993; Meyer et al. 2003.

    Raises ValueError for an invalid mesh (see `mesh.validate_mesh`).
    """
    mesh.validate_mesh(verts, faces)
    half = corner_cotangents(verts, faces) / 2
    # Corner i lies opposite the edge between the two other corners.
    return _from_weights(faces.roll(-1, dims=1), faces.roll(-2, dims=1), half, len(verts))


def uniform_laplacian(faces: Int[Tensor, "F 3"], num_verts: int, normalized: bool = True) -> Float[Tensor, "V V"]:
    """The graph Laplacian, a sparse float32 (V, V) COO matrix, made from the neighbours alone, not their distances.

    normalized: each vertex minus the mean of its neighbours, I − D⁻¹ A with the adjacency matrix A and the numbers
    of neighbours D; not symmetric if these differ. Otherwise D − A, symmetric and positive semi-definite. Rows sum
    to zero in both. A vertex without neighbours has a zero row.

    Raises ValueError if faces name a vertex outside 0 … num_verts − 1.
    """
    num_verts = whole_number("num_verts", num_verts)
    faces = check_faces(faces, num_verts)
    start, end = mesh.edges(faces).unbind(1)
    laplacian = _from_weights(start, end, torch.ones(len(start), device=faces.device), num_verts)
    if not normalized:
        return laplacian
    degree = torch.bincount(torch.cat([start, end]), minlength=num_verts).clamp_min(1)
    rows = laplacian.indices()[0]
    return _sparse(laplacian.indices(), laplacian.values() / degree[rows], num_verts)


def smoothing_matrix(faces: Int[Tensor, "F 3"], num_verts: int, strength: float) -> Float[Tensor, "V V"]:
    """The dense matrix (I + λ L)⁻¹ for the graph Laplacian L = D − A and λ = strength; I for λ = 0.

    Vertices M u, with u learned in place of the vertices, move in smooth waves: a step of descent in u is spread over
    the neighbours, and a fine crease costs more steps than a broad bend. Nothing is forbidden, for M is invertible.
    Source: Nicolet, Jacobson, Jakob, "Large steps in inverse rendering of geometry", SIGGRAPH Asia 2021, equation 6.

    Raises ValueError for a negative strength.
    """
    if not strength >= 0:
        raise ValueError(f"strength must be 0 or more, got {strength}")
    matrix = uniform_laplacian(faces, num_verts, normalized=False).to_dense().double()
    return torch.linalg.inv(torch.eye(num_verts, device=matrix.device) + strength * matrix).float()


def _from_weights(start: Tensor, end: Tensor, weights: Tensor, size: int) -> Tensor:
    """Sum weight · (e_start − e_end)(e_start − e_end)ᵀ over the edges, e_i being the unit vectors."""
    start, end, weights = start.reshape(-1), end.reshape(-1), weights.reshape(-1)
    rows = torch.cat([start, end, start, end])
    columns = torch.cat([end, start, start, end])
    values = torch.cat([-weights, -weights, weights, weights])
    return _sparse(torch.stack([rows, columns]), values, size).coalesce()


def _sparse(indices: Tensor, values: Tensor, size: int) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False).coalesce()


def lumped_mass(verts: Float[Tensor, "... V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "... V"]:
    """The area that each vertex stands for: a third of the area of its faces. They sum to the area of the mesh.

    Leading axes are batches. Zero at a vertex without faces.
    """
    areas = mesh.face_areas(verts, faces)
    shares = (areas / 3).repeat_interleave(3, dim=-1)
    return torch.zeros_like(verts[..., 0]).index_add(-1, faces.long().reshape(-1), shares)


def to_scipy(matrix: Float[Tensor, "M N"]) -> scipy.sparse.csc_array:
    """Convert a sparse PyTorch matrix to a float64 SciPy matrix in CSC form, for SciPy's factorisations."""
    import scipy.sparse

    check_tensor("matrix", matrix, "M N")
    entries = matrix.detach().to_sparse_coo().coalesce().cpu()
    rows, columns = entries.indices().numpy()
    return scipy.sparse.csc_array((entries.values().double().numpy(), (rows, columns)), shape=tuple(matrix.shape))


def interpolation_matrix(
    verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], chosen: Int[Tensor, "P"]
) -> Float[Tensor, "V P"]:
    """Return the matrix that spreads values at chosen vertices smoothly over all: values of shape (P, C) → (V, C).

    It gives the chosen vertices their own values, and minimises ‖L x‖² over the others, with the cotangent Laplacian L.
    Constant values stay constant: rows sum to 1. It is dense, V · P numbers.

    Raises ValueError if a component of the mesh has no chosen vertex, or a vertex is chosen twice.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import splu

    check_tensor("chosen", chosen, "P", kind="integer")
    mesh.validate_mesh(verts, faces)
    if len(chosen.unique()) < len(chosen) or not len(chosen) or not 0 <= int(chosen.min()) <= chosen.max() < len(verts):
        raise ValueError(f"chosen must name some of the {len(verts)} vertices, each once")
    matrix = to_scipy(cotangent_laplacian(verts.detach().double(), faces))
    energy = (matrix.T @ matrix).tocsc()
    given = np.zeros(len(verts), dtype=bool)
    order = chosen.cpu().numpy()
    given[order] = True
    free = np.flatnonzero(~given)
    spread = np.zeros((len(verts), len(order)))
    spread[order, np.arange(len(order))] = 1
    _, component = connected_components(matrix, directed=False)
    if len(set(component[order])) < component.max() + 1:
        raise ValueError("chosen leaves a component of the mesh without a vertex; choose one in each")
    if len(free):
        spread[free] = splu(energy[free][:, free].tocsc()).solve(-energy[free][:, order].toarray())
    return torch.from_numpy(spread).to(verts)


class Factorization:
    """Sparse factors of a symmetric positive definite matrix whose entries join near neighbours in space.

    points: where the N unknowns lie. The unknowns are eliminated in the order of nested dissection (George
    1973), so that the factors of a surface mesh have O(N log N) entries. At 40 962 vertices they have a third of
    the entries that SciPy's own order (minimum degree) gives. A copy, or one read from a pickle, factorises again.
    """

    def __init__(self, matrix: scipy.sparse.csc_array, points: Float[np.ndarray, "N 3"]) -> None:
        from scipy.sparse.linalg import splu

        self._given = matrix, points
        self._order = _nested_dissection(matrix, points)
        # A positive definite matrix needs no pivoting; without it the order stays as given.
        self._factors = splu(
            matrix[self._order][:, self._order].tocsc(),
            permc_spec="NATURAL",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def __reduce__(self):
        return Factorization, self._given

    def solve(self, right: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
        """Solve for one or several right-hand sides, (N,) or (N, C), in float64."""
        solution = np.empty(right.shape)
        solution[self._order] = self._factors.solve(right[self._order])
        return solution


def _nested_dissection(matrix: scipy.sparse.csc_array, points: np.ndarray, leaf: int = 64) -> np.ndarray:
    """Order the points: first each of two halves by itself, then the points of one half that touch the other."""
    begin, neighbours = matrix.indptr, matrix.indices
    right_half = np.zeros(len(points), dtype=bool)

    def order(part: np.ndarray) -> np.ndarray:
        spread = np.ptp(points[part], axis=0)
        along = points[part, spread.argmax()]
        left = along <= np.median(along)
        if len(part) <= leaf or left.all():
            return part
        right_half[part[~left]] = True
        counts = begin[part[left] + 1] - begin[part[left]]
        offsets = np.cumsum(counts) - counts
        entries = np.arange(counts.sum()) + np.repeat(begin[part[left]] - offsets, counts)
        touches = np.logical_or.reduceat(right_half[neighbours[entries]], offsets)
        right_half[part[~left]] = False
        return np.concatenate([order(part[left][~touches]), order(part[~left]), part[left][touches]])

    return order(np.arange(len(points)))
