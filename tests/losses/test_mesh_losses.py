"""The regularity losses: known values, invariances, gradients, and agreement with PyTorch3D."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.geometry import mesh
from lib.losses import mesh as mesh_losses

examples = settings(deadline=None, derandomize=True, max_examples=10)

LOSSES = {
    "edge": lambda verts, faces: mesh_losses.edge_loss(verts, faces, 0.3),
    "shrinking edge": mesh_losses.edge_loss,
    "normal": mesh_losses.normal_consistency_loss,
    "uniform": mesh_losses.laplacian_loss,
    "cotangent": lambda verts, faces: mesh_losses.laplacian_loss(verts, faces, "cotangent"),
}


def dented_spheres(seed: int = 0, count: int = 2, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    sphere = mesh.icosphere(1)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(count, *sphere.verts.shape, generator=generator, dtype=torch.float64)
    return sphere.verts.double() + noise * shift, sphere.faces


def folded_sheet(angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two triangles on the common edge 0–1; angle 0 is flat."""
    angle = torch.tensor(angle, dtype=torch.float64)
    verts = torch.tensor([[0.0, 0, 0], [0, 1, 0], [-1, 0.5, 0], [0, 0.5, 0]], dtype=torch.float64)
    verts[3, 0], verts[3, 2] = angle.cos(), angle.sin()
    return verts[None], torch.tensor([[0, 1, 2], [1, 0, 3]])


@pytest.mark.parametrize("name", LOSSES)
def test_rigid_motions_change_nothing(name):
    verts, faces = dented_spheres()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn).sign()
    moved = verts @ turn.T + torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(LOSSES[name](moved, faces), LOSSES[name](verts, faces))


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_vertices_and_faces_changes_nothing(name):
    verts, faces = dented_spheres()
    order = torch.randperm(verts.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = torch.argsort(order)[faces.flip(0).roll(1, 1)]
    torch.testing.assert_close(LOSSES[name](verts[:, order], shuffled), LOSSES[name](verts, faces))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_mean_of_its_meshes(name):
    verts, faces = dented_spheres(count=3)
    alone = torch.stack([LOSSES[name](one[None], faces) for one in verts])
    torch.testing.assert_close(LOSSES[name](verts, faces), alone.mean())


@examples
@given(st.floats(0.1, 10))
def test_units(scale):
    verts, faces = dented_spheres()
    torch.testing.assert_close(
        mesh_losses.edge_loss(scale * verts, faces), scale**2 * mesh_losses.edge_loss(verts, faces)
    )
    for method in ("uniform", "cotangent"):
        small, large = (mesh_losses.laplacian_loss(v, faces, method) for v in (verts, scale * verts))
        torch.testing.assert_close(large, scale * small)
    small, large = (mesh_losses.normal_consistency_loss(v, faces) for v in (verts, scale * verts))
    torch.testing.assert_close(large, small)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    verts, faces = dented_spheres()
    if name == "cotangent":
        # The weights are constants by definition, so the finite difference must hold them too.
        frozen = verts.clone()
        verts.requires_grad_()
        gradient = torch.autograd.grad(LOSSES[name](verts, faces), verts)[0]
        weights = torch.zeros(2, verts.shape[1], verts.shape[1], dtype=torch.float64)
        for batch in range(2):
            for face in faces.tolist():
                for corner in range(3):
                    apex, i, j = (face[(corner + shift) % 3] for shift in range(3))
                    a, b = frozen[batch, i] - frozen[batch, apex], frozen[batch, j] - frozen[batch, apex]
                    weights[batch, i, j] += a @ b / torch.linalg.cross(a, b).norm()
                    weights[batch, j, i] = weights[batch, i, j]
        mean = weights @ verts / weights.sum(2, keepdim=True)
        expected = torch.autograd.grad((mean - verts).norm(dim=-1).mean(), verts)[0]
        torch.testing.assert_close(gradient, expected)
    else:
        assert torch.autograd.gradcheck(lambda v: LOSSES[name](v, faces), verts.requires_grad_())


@examples
@given(st.floats(-3.1, 3.1))
def test_normal_consistency_measures_the_fold(angle):
    verts, faces = folded_sheet(angle)
    expected = 1 - torch.cos(torch.tensor(angle, dtype=torch.float64))
    torch.testing.assert_close(mesh_losses.normal_consistency_loss(verts, faces), expected, atol=1e-12, rtol=0)


def test_each_edge_of_a_closed_mesh_joins_two_faces():
    sphere = mesh.icosphere(2)
    pairs = mesh_losses.adjacent_faces(sphere.faces)
    assert len(pairs) == len(mesh.edges(sphere.faces))
    common = (sphere.faces[pairs[:, 0], :, None] == sphere.faces[pairs[:, 1], None, :]).sum((1, 2))
    assert common.eq(2).all()


def test_values_where_they_are_known():
    square = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [0, 4, 0]]])
    triangle = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(mesh_losses.edge_loss(square, triangle), torch.tensor((9 + 16 + 25) / 3))
    torch.testing.assert_close(mesh_losses.edge_loss(square, triangle, 4.0), torch.tensor((1 + 0 + 1) / 3))
    assert mesh_losses.normal_consistency_loss(square, triangle) == 0
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])[None]
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    for method in ("uniform", "cotangent"):  # Mean of the three others is −v / 3.
        loss = mesh_losses.laplacian_loss(tetrahedron, faces, method)
        torch.testing.assert_close(loss, torch.tensor(4 / 3 * 3**0.5))
    torch.testing.assert_close(mesh_losses.normal_consistency_loss(tetrahedron, faces), torch.tensor(4 / 3))


@pytest.mark.parametrize("name", LOSSES)
def test_a_collapsed_mesh_has_finite_gradients(name):
    verts, faces = dented_spheres()
    collapsed = torch.zeros_like(verts, requires_grad=True)
    LOSSES[name](collapsed, faces).backward()
    assert torch.isfinite(collapsed.grad).all()


def test_bad_input():
    verts, faces = dented_spheres()
    with pytest.raises(ValueError, match=r"verts must have shape \(B, V, 3\).*add the batch axis"):
        mesh_losses.edge_loss(verts[0], faces)
    with pytest.raises(TypeError, match="faces must have an integer dtype"):
        mesh_losses.laplacian_loss(verts, faces.float())
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="faces point to vertex"):
            loss(verts[:, 1:], faces)
    with pytest.raises(ValueError, match="method='cot' is unknown"):
        mesh_losses.laplacian_loss(verts, faces, "cot")
    with pytest.raises(ValueError, match="faces is empty"):
        mesh_losses.normal_consistency_loss(verts, faces[:0])


@pytest.mark.filterwarnings("ignore:Sparse")
def test_agrees_with_pytorch3d():
    loss = pytest.importorskip("pytorch3d.loss")
    structures = pytest.importorskip("pytorch3d.structures")
    verts, faces = dented_spheres(noise=0.05)
    verts = verts.float().requires_grad_()
    theirs = structures.Meshes(verts, faces.expand(len(verts), -1, -1))
    for ours, expected in (
        (mesh_losses.edge_loss(verts, faces, 0.3), loss.mesh_edge_loss(theirs, 0.3)),
        (mesh_losses.normal_consistency_loss(verts, faces), loss.mesh_normal_consistency(theirs)),
        (mesh_losses.laplacian_loss(verts, faces), loss.mesh_laplacian_smoothing(theirs, "uniform")),
        (mesh_losses.laplacian_loss(verts, faces, "cotangent"), loss.mesh_laplacian_smoothing(theirs, "cot")),
    ):
        torch.testing.assert_close(ours, expected)
        gradients = [torch.autograd.grad(value, verts, retain_graph=True)[0] for value in (ours, expected)]
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
