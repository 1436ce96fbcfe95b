"""Two measures of how far a deformation is from rigid: as rigid as possible (ARAP), and changed local distances."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.geometry import laplacian, mesh


def arap_energy(
    verts: Float[Tensor, "B V 3"],
    rest: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    weights: str = "cotangent",
) -> Float[Tensor, "B"]:
    """Energy of a deformation: how much the edges around each vertex differ from a rotated copy of those at rest.

        E = Σ_i min over rotations R_i of Σ_{j ∈ N(i)} w_ij ‖(v_i − v_j) − R_i (r_i − r_j)‖²,

    with the rest positions r_i and each rotation in closed form by SVD. In squared units of verts; zero for a rigid
    motion of the whole. R_i minimises its term, so ∂E/∂R_i is zero, and the exact gradient does not pass through
    the SVD.

    weights: "cotangent" of the rest mesh, negative ones set to zero (a refined mesh then costs about the
    same), or "uniform".
    Source: Sorkine & Alexa, "As-rigid-as-possible surface modeling", 2007, equations 3, 5 and 6.
    """
    _check_deformation(verts, rest)
    start, end = mesh.edges(faces).unbind(1)
    if weights == "cotangent":
        matrix = laplacian.cotangent_laplacian(rest.detach(), faces)
        above = matrix.indices()[0] < matrix.indices()[1]
        # The coalesced entries above the diagonal have the order of `edges`.
        weight = (-matrix.values()[above]).clamp_min(0)
    elif weights == "uniform":
        weight = torch.ones_like(rest[start, 0])
    else:
        raise ValueError(f'weights={weights!r} is unknown; use "cotangent" or "uniform"')
    center = torch.cat([start, end])
    weight = torch.cat([weight, weight])[:, None]
    rest_edges = rest[center] - rest[torch.cat([end, start])]
    edges = verts[:, center] - verts[:, torch.cat([end, start])]
    outer = weight[..., None] * edges.detach()[..., :, None] * rest_edges.detach()[..., None, :]
    moments = verts.new_zeros(*verts.shape[:2], 3, 3).index_add(1, center, outer)
    rotated = (_nearest_rotations(moments)[:, center] @ rest_edges[..., None]).squeeze(-1)
    return (weight * (edges - rotated).square()).sum((1, 2))


def _nearest_rotations(moments: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation R that maximises tr(Rᵀ M): U diag(1, 1, ±1) Vᵀ of M = U S Vᵀ, with determinant +1."""
    left, _, right = torch.linalg.svd(moments)
    handed = torch.linalg.det(left @ right).sign()
    left = torch.cat([left[..., :2], left[..., 2:] * handed[..., None, None]], dim=-1)
    return left @ right


def ring_pairs(faces: Int[Tensor, "F 3"], rings: int = 2) -> Int[Tensor, "P 2"]:
    """List all pairs of vertices with at most `rings` edges between them, each once, smaller index first.

    Raises ValueError for less than one ring.
    """
    import scipy.sparse

    check_tensor("faces", faces, "F 3", kind="integer")
    if rings < 1:
        raise ValueError(f"rings must be 1 or more, got {rings}")
    start, end = mesh.edges(faces).cpu().numpy().T
    size = int(faces.max()) + 1
    neighbours = scipy.sparse.coo_array((np.ones(len(start)), (start, end)), shape=(size, size))
    neighbours = (neighbours + neighbours.T + scipy.sparse.eye_array(size)).tocsr()
    reached = neighbours
    for _ in range(rings - 1):
        reached = reached @ neighbours
    pairs = scipy.sparse.triu(reached, k=1).tocsr()
    pairs.sort_indices()
    return torch.from_numpy(np.stack(pairs.nonzero(), axis=1).astype(np.int64)).to(faces.device)


def edge_rigidity(
    verts: Float[Tensor, "B V 3"], rest: Float[Tensor, "V 3"], pairs: Int[Tensor, "P 2"]
) -> Float[Tensor, "B"]:
    """Mean over pairs (i, j) of | ‖v_i − v_j‖ − ‖r_i − r_j‖ |, in units of verts; r are the positions at rest.

    pairs: neighbours at most a few edges apart, see `ring_pairs`. Zero for a rigid motion of the whole, and for a
    mirrored copy. Source: the local rigidity loss of Kokkinos & Kokkinos, CVPR 2021.
    """
    _check_deformation(verts, rest)
    check_tensor("pairs", pairs, "P 2", kind="integer")
    start, end = pairs.unbind(1)
    lengths = (verts[:, start] - verts[:, end]).norm(dim=-1)
    return (lengths - (rest[start] - rest[end]).norm(dim=-1)).abs().mean(1)


def _check_deformation(verts: Tensor, rest: Tensor) -> None:
    check_tensor("verts", verts, "B V 3")
    check_tensor("rest", rest, f"{verts.shape[1]} 3")
    check_same_device(verts=verts, rest=rest)
