"""ARAP and local rigidity: zero for rigid motions, right gradients, and the definition by brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.geometry import mesh, rotations
from lib.losses import mesh as mesh_losses

examples = settings(deadline=None, derandomize=True, max_examples=10)


def rest_and_deformed(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sphere = mesh.icosphere(1)
    generator = torch.Generator().manual_seed(seed)
    rest = sphere.verts.double() * torch.tensor([1.3, 0.7, 1.0], dtype=torch.float64)
    noise = torch.randn(2, *rest.shape, generator=generator, dtype=torch.float64)
    return rest + 0.1 * noise, rest, sphere.faces


def random_rotation(seed: int) -> torch.Tensor:
    return rotations.random_rotations(1, generator=torch.Generator().manual_seed(seed))[0].double()


def energies(verts, rest, faces):
    pairs = mesh_losses.ring_pairs(faces)
    return torch.stack(
        [
            mesh_losses.arap_energy(verts, rest, faces),
            mesh_losses.arap_energy(verts, rest, faces, "uniform"),
            mesh_losses.edge_rigidity(verts, rest, pairs),
        ]
    )


@examples
@given(st.integers(0, 1000))
def test_rigid_motions_cost_nothing(seed):
    _, rest, faces = rest_and_deformed()
    moved = rest @ random_rotation(seed).T + torch.randn(3, generator=torch.Generator().manual_seed(seed))
    assert energies(moved[None], rest, faces).max() < 1e-6


@examples
@given(st.integers(0, 1000))
def test_rigid_motions_after_a_deformation_change_nothing(seed):
    verts, rest, faces = rest_and_deformed()
    moved = verts @ random_rotation(seed).T + 1.0
    torch.testing.assert_close(energies(moved, rest, faces), energies(verts, rest, faces), atol=1e-5, rtol=1e-5)


def test_a_mirrored_copy_is_not_rigid_for_arap_but_for_lengths():
    _, rest, faces = rest_and_deformed()
    cost = energies(-rest[None], rest, faces)[:, 0]
    assert cost[0] > 1 and cost[1] > 1 and cost[2] < 1e-12


def test_stretching_by_known_amounts():
    """For a uniform scaling by s every best rotation is the identity."""
    _, rest, faces = rest_and_deformed()
    pairs = mesh_losses.ring_pairs(faces, 1)
    lengths = (rest[pairs[:, 0]] - rest[pairs[:, 1]]).norm(dim=1)
    scaled = 1.2 * rest[None]
    torch.testing.assert_close(mesh_losses.edge_rigidity(scaled, rest, pairs)[0], 0.2 * lengths.mean())
    expected = 2 * 0.2**2 * lengths.square().sum()  # Each edge is seen from its two ends.
    torch.testing.assert_close(mesh_losses.arap_energy(scaled, rest, faces, "uniform")[0], expected)


def test_arap_is_its_definition_vertex_by_vertex():
    """With the rotations of SciPy, one vertex at a time, and weights from the angles."""
    from scipy.spatial.transform import Rotation

    verts, rest, faces = rest_and_deformed()
    weights: dict[tuple[int, int], float] = {}
    for face in faces.tolist():
        for corner in range(3):
            apex, i, j = (face[(corner + shift) % 3] for shift in range(3))
            a, b = rest[i] - rest[apex], rest[j] - rest[apex]
            cotangent = float(a @ b / torch.linalg.cross(a, b).norm())
            for edge in ((i, j), (j, i)):
                weights[edge] = weights.get(edge, 0.0) + cotangent / 2
    total = 0.0
    for i in range(len(rest)):
        ring = [j for (start, j) in weights if start == i]
        weight = torch.tensor([max(weights[i, j], 0.0) for j in ring], dtype=torch.float64)
        before, after = rest[i] - rest[ring], verts[0, i] - verts[0, ring]
        rotation, _ = Rotation.align_vectors(after.numpy(), before.numpy(), weight.numpy())
        residual = after - before @ torch.from_numpy(rotation.as_matrix()).T
        total += float((weight * residual.square().sum(1)).sum())
    assert abs(float(mesh_losses.arap_energy(verts, rest, faces)[0]) - total) < 1e-9 * total


def test_cotangent_weights_make_the_energy_depend_little_on_resolution():
    costs = []
    for subdivisions in (2, 3, 4):
        sphere = mesh.icosphere(subdivisions)
        rest = sphere.verts.double()
        bent = rest.clone()
        bent[:, 0] += 0.3 * rest[:, 1] ** 2
        costs.append(float(mesh_losses.arap_energy(bent[None], rest, sphere.faces)[0]))
    assert max(costs) / min(costs) < 1.1


def test_gradients():
    """Through the minimum over rotations, although none flows through the rotations."""
    verts, rest, faces = rest_and_deformed()
    verts.requires_grad_()
    pairs = mesh_losses.ring_pairs(faces)
    for weights in ("cotangent", "uniform"):
        assert torch.autograd.gradcheck(lambda v, w=weights: mesh_losses.arap_energy(v, rest, faces, w), verts)
    assert torch.autograd.gradcheck(lambda v: mesh_losses.edge_rigidity(v, rest, pairs), verts)


def test_a_collapsed_mesh_has_finite_gradients():
    verts, rest, faces = rest_and_deformed()
    collapsed = torch.zeros_like(verts, requires_grad=True)
    energies(collapsed, rest, faces).sum().backward()
    assert torch.isfinite(collapsed.grad).all()


@pytest.mark.parametrize("rings", [1, 2, 3])
def test_ring_pairs_are_graph_distances(rings):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import shortest_path

    faces = mesh.icosphere(2).faces
    start, end = mesh.edges(faces).T.numpy()
    graph = coo_array(([1.0] * len(start), (start, end)), shape=(162, 162)).tocsr()
    hops = torch.from_numpy(shortest_path(graph, directed=False, unweighted=True))
    expected = ((hops > 0) & (hops <= rings)).triu().nonzero()
    assert torch.equal(mesh_losses.ring_pairs(faces, rings), expected)


def test_bad_input():
    verts, rest, faces = rest_and_deformed()
    with pytest.raises(ValueError, match="rest must have shape"):
        mesh_losses.arap_energy(verts, rest[:-1], faces)
    with pytest.raises(ValueError, match="weights='cot' is unknown"):
        mesh_losses.arap_energy(verts, rest, faces, "cot")
    with pytest.raises(ValueError, match="rings must be at least 1"):
        mesh_losses.ring_pairs(faces, 0)
    with pytest.raises(ValueError, match="pairs must have shape"):
        mesh_losses.edge_rigidity(verts, rest, faces)
