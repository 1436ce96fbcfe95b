"""Distances along a surface by the heat method, and points that lie as far apart as they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_tensor, whole_number
from lib.geometry import laplacian, mesh

SOURCES_AT_ONCE = 64
TIE = 1e-5


def geodesic_distances(
    verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], sources: Int[Tensor, "S"] | Sequence[int]
) -> Float[Tensor, "S V"]:
    """Distance along the surface from each source vertex to every vertex, in units of verts; no gradient.

    The heat method: let heat h flow from the source for a short time Δt = (mean edge length)², keep only the
    direction g in which it falls, and find the function d whose gradient is nearest to these directions:

        (B + Δt L) h = δ,    g = −∇h / |∇h|,    L d = ∇·g,    distance = d − d(source),

    with the Laplacian L and the lumped mass B. Two sparse factorisations serve all sources. The distance is
    infinite if no path leads there. The error is of the order of the mean edge length. Source: Crane, Weischedel
    & Wardetzky, "Geodesics in heat", 2013, with natural (Neumann) boundaries.

    Raises ValueError for an invalid mesh or sources outside of it.
    """
    distances = _heat_method(verts, faces)
    try:
        sources = torch.as_tensor(sources)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"sources must be a list or tensor of vertices, got {type(sources).__name__}") from None
    check_tensor("sources", sources, "S", kind="integer")
    sources = sources.long()
    if sources.numel() == 0 or int(sources.min()) < 0 or int(sources.max()) >= len(verts):
        raise ValueError(f"sources must be one or more vertices of 0 … {len(verts) - 1}, got {sources.tolist()}")
    rows = [distances(part.cpu().numpy()) for part in sources.split(SOURCES_AT_ONCE)]
    return torch.from_numpy(np.concatenate(rows)).to(verts)


def farthest_points(
    verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], count: int, start: int = 0
) -> Int[Tensor, "count"]:
    """Choose `count` vertices, each the farthest along the surface from all those before it; the first is `start`.

    A symmetric mesh has ties: of the vertices that are as far, to 0.001 %, the first one is taken, so that rounding,
    which differs between machines, decides nothing.

    Source: Eldar et al., "The farthest point strategy", 1997, on geodesic distance.

    Raises ValueError for an invalid mesh, or a count or start outside of it.
    """
    mesh.validate_mesh(verts, faces)
    count, start = whole_number("count", count, None), whole_number("start", start, None)
    if not 1 <= count <= len(verts):
        raise ValueError(f"count must be 1 … {len(verts)}, the number of verts, got {count}")
    if not 0 <= start < len(verts):
        raise ValueError(f"start must be a vertex of 0 … {len(verts) - 1}, got {start}")
    distances = _heat_method(verts, faces)
    chosen = [start]
    nearest = distances(np.array([start]))[0]
    while len(chosen) < count:
        chosen.append(int((nearest >= (1 - TIE) * nearest.max()).argmax()))
        nearest = np.minimum(nearest, distances(np.array(chosen[-1:]))[0])
        nearest[chosen] = -1.0
    return torch.tensor(chosen, device=verts.device)


def _heat_method(verts: Tensor, faces: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Factorise once, and return a function from sources (S,) to distances (S, V)."""
    from scipy.sparse import diags_array
    from scipy.sparse.csgraph import connected_components

    mesh.validate_mesh(verts, faces)
    points = verts.detach().double().cpu()
    triangles = faces.cpu()
    stiffness = laplacian.to_scipy(laplacian.cotangent_laplacian(points, triangles))
    # A vertex without faces has no mass. Any positive mass keeps the system solvable, and no heat gets there.
    mass = laplacian.lumped_mass(points, triangles).numpy()
    mass[mass == 0] = mass.max()
    start, end = mesh.edges(triangles).unbind(1)
    time = float((points[start] - points[end]).norm(dim=1).mean()) ** 2

    places = points.numpy()
    flow = laplacian.Factorization((diags_array(mass) + time * stiffness).tocsc(), places)
    # A function that is constant on each piece of the mesh has L d = 0: hold one vertex of each piece at zero.
    _, piece = connected_components(stiffness, directed=False)
    free = np.ones(len(places), dtype=bool)
    free[np.unique(piece, return_index=True)[1]] = False
    poisson = laplacian.Factorization(stiffness[free][:, free].tocsc(), places[free])

    index = triangles.numpy()
    corners = places[index]
    opposite = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)
    normal = np.cross(opposite[:, 0], opposite[:, 1])
    double_area = np.linalg.norm(normal, axis=1)
    # Gradient of the function that is 1 at one corner and 0 at the two others: (F, 3 corners, 3).
    gradient = np.cross(normal[:, None] / double_area[:, None, None] ** 2, opposite)

    def distances(sources: np.ndarray) -> np.ndarray:
        count = np.arange(len(sources))
        impulse = np.zeros((len(places), len(sources)))
        impulse[sources, count] = 1
        heat = flow.solve(impulse)
        slope = np.einsum("fcd,fcs->fds", gradient, heat[index])
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        direction = -slope / np.where(length > 0, length, 1)
        flux = np.einsum("fcd,fds,f->fcs", gradient, direction, double_area / 2)
        divergence = np.zeros_like(impulse)
        np.add.at(divergence, index, flux)
        potential = np.zeros_like(impulse)
        potential[free] = poisson.solve(divergence[free])
        result = np.maximum(potential - potential[sources, count], 0).T
        result[piece[None] != piece[sources][:, None]] = np.inf
        result[count, sources] = 0
        return result

    return distances
