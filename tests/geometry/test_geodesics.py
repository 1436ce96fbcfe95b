"""Geodesic distances against closed forms and potpourri3d; farthest points by their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.datasets.synthetic.creatures import template
from lib.geometry import geodesics, mesh


def dented_sphere(subdivisions: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(sphere.verts.shape, generator=generator, dtype=torch.float64)
    stretch = torch.tensor([1.5, 1.0, 0.8], dtype=torch.float64)
    return sphere.verts.double() * stretch + 0.01 * noise, sphere.faces


def test_distances_on_a_sphere_approach_great_circles():
    errors = []
    for subdivisions in (2, 3, 4):
        sphere = mesh.icosphere(subdivisions)
        verts = sphere.verts.double()
        distances = geodesics.geodesic_distances(verts, sphere.faces, [0])[0]
        errors.append(float((distances - torch.arccos((verts @ verts[0]).clamp(-1, 1))).abs().max()))
    assert errors[0] < 0.11 and errors[1] < 0.06 and errors[2] < 0.035


def test_distances_are_longer_than_straight_and_shorter_than_along_edges():
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    verts, faces = dented_sphere()
    start, end = mesh.edges(faces).unbind(1)
    lengths = (verts[start] - verts[end]).norm(dim=1)
    graph = coo_array((lengths.numpy(), (start.numpy(), end.numpy())), shape=(len(verts), len(verts)))
    along_edges = dijkstra(graph.tocsr(), directed=False, indices=[0, 100])
    distances = geodesics.geodesic_distances(verts, faces, [0, 100])
    straight = torch.cdist(verts[[0, 100]], verts)
    tolerance = float(lengths.mean()) / 2
    assert (distances >= straight - tolerance).all()
    assert (distances.numpy() <= along_edges + tolerance).all()


def test_many_sources_are_single_sources_one_by_one():
    verts, faces = dented_sphere(2)
    sources = torch.arange(len(verts))
    together = geodesics.geodesic_distances(verts, faces, sources)
    assert together.shape == (len(verts), len(verts))
    assert together.diagonal().eq(0).all() and (together >= 0).all()
    for source in (0, 80, 161):
        alone = geodesics.geodesic_distances(verts, faces, [source])[0]
        torch.testing.assert_close(together[source], alone, atol=1e-9, rtol=0)
    assert (together - together.T).abs().max() < 0.1 * together.max(), "symmetric up to its error"


def test_rigid_motion_scale_and_order_of_vertices():
    verts, faces = dented_sphere(2)
    before = geodesics.geodesic_distances(verts, faces, [3])[0]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn).sign()
    moved = geodesics.geodesic_distances(7 * verts @ turn.T + 5, faces, [3])[0]
    torch.testing.assert_close(moved, 7 * before, atol=1e-7, rtol=1e-7)
    order = torch.randperm(len(verts), generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    shuffled = geodesics.geodesic_distances(verts[order], place[faces], [int(place[3])])[0]
    torch.testing.assert_close(shuffled, before[order], atol=1e-9, rtol=1e-9)


def test_pieces_are_infinitely_far_and_float32_stays_float32():
    sphere = mesh.icosphere(1)
    count = len(sphere.verts)
    verts = torch.cat([sphere.verts, sphere.verts + 5, torch.full((1, 3), 9.0)])
    faces = torch.cat([sphere.faces, sphere.faces + count])
    distances = geodesics.geodesic_distances(verts, faces, [0, count])
    assert distances.dtype == torch.float32
    assert torch.isfinite(distances[0, :count]).all() and torch.isinf(distances[0, count:]).all()
    torch.testing.assert_close(distances[1, count:-1], distances[0, :count], atol=1e-5, rtol=0)
    assert geodesics.farthest_points(verts, faces, 3).tolist()[1] >= count


def test_a_sheet_with_a_boundary():
    """Heat leaves no wall: along a strip, distance is the coordinate."""
    x, y = torch.meshgrid(torch.linspace(0, 4, 41), torch.linspace(0, 1, 11), indexing="ij")
    verts = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    index = torch.arange(len(verts)).reshape(41, 11)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)]).reshape(-1, 3)
    distances = geodesics.geodesic_distances(verts, faces, [5])[0]
    torch.testing.assert_close(distances, (verts - verts[5]).norm(dim=1), atol=0.08, rtol=0)


def test_farthest_points_are_farthest():
    verts, faces = dented_sphere(2)
    chosen = geodesics.farthest_points(verts, faces, 12, start=4)
    assert chosen[0] == 4 and len(set(chosen.tolist())) == 12
    distances = geodesics.geodesic_distances(verts, faces, chosen)
    radii = []
    for k in range(1, 12):
        nearest = distances[:k].amin(0)
        torch.testing.assert_close(nearest[chosen[k]], nearest.max(), atol=1e-9, rtol=0)
        radii.append(float(nearest.max()))
    assert radii == sorted(radii, reverse=True)


def test_farthest_points_of_all_vertices_is_a_permutation():
    sphere = mesh.icosphere(1)
    chosen = geodesics.farthest_points(sphere.verts, sphere.faces, len(sphere.verts))
    assert sorted(chosen.tolist()) == list(range(len(sphere.verts)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, f: geodesics.geodesic_distances(v, f, [len(v)]), "sources must be one or more vertices"),
        (lambda v, f: geodesics.geodesic_distances(v, f, torch.zeros(0, dtype=torch.int64)), "sources must be"),
        (lambda v, f: geodesics.farthest_points(v, f, 0), "count must be 1 … 42"),
        (lambda v, f: geodesics.farthest_points(v, f, 43), "count must be 1 … 42"),
        (lambda v, f: geodesics.farthest_points(v, f, 3, start=42), "start must be a vertex"),
        (lambda v, f: geodesics.geodesic_distances(v[:3], f, [0]), "faces point to vertex"),
    ],
)
def test_bad_input(call, message):
    sphere = mesh.icosphere(1)
    with pytest.raises(ValueError, match=message):
        call(sphere.verts, sphere.faces)


def test_agrees_with_potpourri3d():
    """Its solver adds 1e-6 to the Laplacian's diagonal, ours holds one vertex: equal to 1e-3 of the size.

    `use_robust=False`, as otherwise it first flips edges to an intrinsic Delaunay mesh.
    """
    potpourri3d = pytest.importorskip("potpourri3d")
    verts, faces = dented_sphere()
    theirs = potpourri3d.MeshHeatMethodDistanceSolver(verts.numpy(), faces.numpy(), use_robust=False)
    ours = geodesics.geodesic_distances(verts, faces, [17])[0]
    np.testing.assert_allclose(ours.numpy(), theirs.compute_distance(17), atol=1e-3)


def test_ties_of_a_symmetric_mesh_do_not_depend_on_rounding():
    horse = template("quadruped")
    chosen = geodesics.farthest_points(horse.verts, horse.faces, 16)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        noise = 1e-9 * torch.randn(horse.verts.shape, generator=draw, dtype=torch.float64)
        assert torch.equal(geodesics.farthest_points(horse.verts.double() + noise, horse.faces, 16), chosen)
