"""What keeps a mesh tidy while a data term pulls at it: edge length, normal consistency, Laplacian smoothing."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_faces, check_same_device, check_tensor
from lib.geometry import laplacian, mesh
from lib.remembered import remembered


def edge_loss(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], target_length: float = 0.0
) -> Float[Tensor, ""]:
    """Mean over edges of (length − target_length)², in squared units of verts.

    Keeps single vertices from flying off. With target_length 0 it also shrinks the mesh.
    Source: Wang et al., Pixel2Mesh, 2018; as PyTorch3D's `mesh_edge_loss`.
    """
    _check_batch(verts, faces)
    start, end = mesh.edges(faces).unbind(1)
    lengths = (verts[:, start] - verts[:, end]).norm(dim=-1)
    return (lengths - target_length).square().mean()


def normal_consistency_loss(verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, ""]:
    """Mean over pairs of faces with a common edge of 1 − cos of the angle between their normals.

    0 for a flat sheet, 2 for a fold. Zero for a mesh without a common edge; where more than two faces
    meet in an edge, each is paired with the next. As PyTorch3D's `mesh_normal_consistency`.
    """
    _check_batch(verts, faces)
    first, second = adjacent_faces(faces).unbind(1)
    if len(first) == 0:
        return verts.sum() * 0
    normals = mesh.face_normals(verts, faces)
    return (1 - (normals[:, first] * normals[:, second]).sum(-1)).mean()


def adjacent_faces(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "P 2"]:
    """The pairs of faces with a common edge; on a closed manifold one for each edge."""
    check_tensor("faces", faces, "F 3", kind="integer")
    return _adjacent_faces(faces)


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

    method: "uniform" weighs neighbours alike, and so also evens out the triangles; "cotangent" measures
    only how the surface bends. Cotangent weights are taken as constants, as they blow up in thin
    triangles; a vertex whose weights do not add up to more than zero is left out.
    Source: Desbrun et al. 1999; as PyTorch3D's `mesh_laplacian_smoothing` with "uniform" and "cot".
    """
    _check_batch(verts, faces)
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
    counted = total > 0
    mean = neighbours / torch.where(counted, total, 1)[..., None]
    return torch.where(counted[..., None], mean - verts, 0).norm(dim=-1).mean()


def _check_batch(verts: Tensor, faces: Tensor) -> None:
    check_tensor("verts", verts, "B V 3")
    check_faces(faces, verts.shape[1])
    check_same_device(verts=verts, faces=faces)
    if len(faces) == 0:
        raise ValueError("faces is empty; a mesh needs at least one triangle")
