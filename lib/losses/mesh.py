"""Losses that keep a mesh in shape (edge length, normal consistency, Laplacian smoothing) or near its shape at rest
(as rigid as possible, preserved local distances)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_alike, check_faces, check_same_device, check_tensor, number, require, whole_number
from lib.geometry import laplacian, mesh
from lib.geometry.rotations import nearest_rotation
from lib.remembered import remembered


def edge_loss(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], target_length: float = 0.0
) -> Float[Tensor, ""]:
    """Mean over edges of (length − target_length)², in squared units of verts.

    It keeps single vertices from leaving the surface. With target_length 0 it also shrinks the mesh.
    Source: Wang et al., Pixel2Mesh, 2018; the value is that of PyTorch3D's `mesh_edge_loss`.
    """
    faces = _check_batch(verts, faces)
    start, end = mesh.edges(faces).unbind(1)
    lengths = (verts[:, start] - verts[:, end]).norm(dim=-1)
    return (lengths - number("target_length", target_length)).square().mean()


def normal_consistency_loss(verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, ""]:
    """Mean over pairs of faces with a common edge of 1 − cos of the angle between their normals.

    0 for a flat sheet, 2 for a fold, 1 without gradient where one of the two has zero area. Zero for a mesh without
    a common edge; where more than two faces meet in an edge, each is paired with the next. As PyTorch3D's
    `mesh_normal_consistency`.
    """
    faces = _check_batch(verts, faces)
    first, second = adjacent_faces(faces).unbind(1)
    if len(first) == 0:
        return verts.sum() * 0
    normals = mesh.face_normals(verts, faces)
    return (1 - (normals[:, first] * normals[:, second]).sum(-1)).mean()


def adjacent_faces(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "P 2"]:
    """List the pairs of faces with a common edge; on a closed manifold one pair for each edge."""
    return _adjacent_faces(check_faces(faces, None))


@remembered
def _adjacent_faces(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "P 2"]:
    sides = torch.stack([faces, faces.roll(-1, dims=1)], dim=-1).reshape(-1, 2).sort(dim=1).values
    keys, order = (sides[:, 0] * (int(faces.max()) + 1) + sides[:, 1]).sort(stable=True)
    common = keys[1:] == keys[:-1]
    face = order // 3
    return torch.stack([face[:-1][common], face[1:][common]], dim=1)


def laplacian_loss(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], method: str = "uniform"
) -> Float[Tensor, ""]:
    """Mean over vertices of the distance to the weighted mean of their neighbours, in units of verts.

    method: "uniform" gives all neighbours the same weight, and so also makes the triangles more even;
    "cotangent" measures only how the surface bends. Cotangent weights are treated as constants, because they
    become huge in thin triangles; a vertex whose weights do not add up to more than zero is left out.
    Source: Desbrun et al. 1999; the value is that of PyTorch3D's `mesh_laplacian_smoothing` with "uniform" and "cot".
    """
    faces = _check_batch(verts, faces)
    if method == "uniform":
        start, end = mesh.edges(faces).unbind(1)
        weights = torch.ones_like(verts[:, start, 0])
    elif method == "cotangent":
        start, end = faces.roll(-1, dims=1).reshape(-1), faces.roll(-2, dims=1).reshape(-1)
        weights = laplacian.corner_cotangents(verts.detach(), faces).flatten(1)
    else:
        raise ValueError(f'method={method!r} is unknown; use "uniform" or "cotangent"')
    rows, columns = torch.cat([start, end]), torch.cat([end, start])
    weights = torch.cat([weights, weights], dim=1)
    total = torch.zeros_like(verts[..., 0]).index_add(1, rows, weights)
    neighbours = torch.zeros_like(verts).index_add(1, rows, weights[..., None] * verts[:, columns])
    counted = ~(total <= 0)  # also where it is NaN, which shall be seen
    mean = neighbours / torch.where(counted, total, 1)[..., None]
    return torch.where(counted[..., None], mean - verts, 0).norm(dim=-1).mean()


def _check_batch(verts: Tensor, faces: Tensor) -> Tensor:
    check_tensor("verts", verts, "B V 3", kind="real")
    faces = check_faces(faces, verts.shape[1])
    check_same_device(verts=verts, faces=faces)
    if len(faces) == 0:
        raise ValueError("faces is empty; a mesh needs at least one triangle")
    return faces


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
    check_tensor("verts", verts, "B V 3", kind="real", finite=True)
    check_tensor("rest", rest, "V 3", kind="real", finite=True)
    faces = check_faces(faces, len(rest))
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
    rotated = (nearest_rotation(moments)[:, center] @ rest_edges[..., None]).squeeze(-1)
    return (weight * (edges - rotated).square()).sum((1, 2))


def ring_pairs(faces: Int[Tensor, "F 3"], rings: int = 2) -> Int[Tensor, "P 2"]:
    """List all pairs of vertices with at most `rings` edges between them, each once, smaller index first.

    Raises ValueError for less than one ring.
    """
    import scipy.sparse

    faces, rings = check_faces(faces, None), whole_number("rings", rings)
    if len(faces) == 0:
        raise ValueError("faces is empty; a mesh needs at least one triangle")
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
    pairs = pairs.long()
    start, end = pairs.unbind(1)
    require((pairs >= 0) & (pairs < len(rest)), f"pairs must be vertices of 0 … {len(rest) - 1}; see ring_pairs")
    lengths = (verts[:, start] - verts[:, end]).norm(dim=-1)
    return (lengths - (rest[start] - rest[end]).norm(dim=-1)).abs().mean(1)


def _check_deformation(verts: Tensor, rest: Tensor) -> None:
    check_tensor("verts", verts, "B V 3", kind="real")
    check_tensor("rest", rest, f"{verts.shape[1]} 3")
    check_alike(verts=verts, rest=rest)
