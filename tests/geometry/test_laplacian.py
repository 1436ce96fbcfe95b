"""The Laplacian's identities, and agreement with robust-laplacian, SciPy and PyTorch3D."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.geometry import laplacian, mesh, rotations

examples = settings(deadline=None, derandomize=True, max_examples=15)


def dented_sphere(seed: int = 0, subdivisions: int = 1, noise: float = 0.03) -> tuple[torch.Tensor, torch.Tensor]:
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(sphere.verts.shape, generator=generator, dtype=torch.float64)
    return sphere.verts.double() + noise * shift, sphere.faces


def flat_square(size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A triangulated unit square with a boundary."""
    grid = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, size, dtype=torch.float64)] * 2, indexing="ij"), -1)
    verts = torch.nn.functional.pad(grid.reshape(-1, 2), (0, 1))
    index = torch.arange(size * size).reshape(size, size)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return verts, torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)]).reshape(-1, 3)


@examples
@given(st.integers(0, 10_000), st.floats(0, 0.25))
def test_cotangent_is_symmetric_positive_and_keeps_constants(seed, noise):
    """Also where noise makes obtuse triangles, whose weights are negative."""
    verts, faces = dented_sphere(seed, noise=noise)
    matrix = laplacian.cotangent_laplacian(verts, faces).to_dense()
    scale = matrix.abs().max()
    assert (matrix - matrix.T).abs().max() <= 1e-12 * scale
    assert matrix.sum(1).abs().max() <= 1e-12 * scale
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] >= -1e-12 * scale
    assert values[1] > 1e-9 * scale, "one piece has one constant function"


@examples
@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_cotangent_knows_neither_pose_nor_scale(seed, scale):
    verts, faces = dented_sphere(seed)
    generator = torch.Generator().manual_seed(seed)
    turn = rotations.random_rotations(1, generator=generator)[0].double()
    turn = torch.linalg.qr(turn).Q
    moved = scale * verts @ turn.T + torch.tensor([1.0, -2, 3])
    before, after = (laplacian.cotangent_laplacian(v, faces).to_dense() for v in (verts, moved))
    torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)


def test_cotangent_follows_a_permutation_of_the_vertices():
    verts, faces = dented_sphere()
    order = torch.randperm(len(verts), generator=torch.Generator().manual_seed(1))
    before = laplacian.cotangent_laplacian(verts, faces).to_dense()
    after = laplacian.cotangent_laplacian(verts[order], torch.argsort(order)[faces]).to_dense()
    torch.testing.assert_close(after, before[order][:, order])


def test_cotangent_of_known_triangles():
    """A right isosceles triangle: cotangents 0, 1, 1 opposite to its sides."""
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    matrix = laplacian.cotangent_laplacian(verts, torch.tensor([[0, 1, 2]])).to_dense()
    expected = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 0.5, 0], [-0.5, 0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(matrix, expected)


def test_energy_of_a_linear_function_is_exact():
    """xᵀ L x = |∇x|² · area for a function linear in the plane, and L x is zero inside."""
    verts, faces = flat_square()
    function = verts @ torch.tensor([2.0, -3.0, 0.0], dtype=torch.float64)
    matrix = laplacian.cotangent_laplacian(verts, faces)
    torch.testing.assert_close(function @ (matrix @ function), torch.tensor(13.0, dtype=torch.float64))
    inside = ((verts[:, :2] > 0) & (verts[:, :2] < 1)).all(1)
    assert (matrix @ function)[inside].abs().max() < 1e-12


def test_laplacian_of_positions_is_the_gradient_of_the_area():
    verts, faces = dented_sphere()
    verts.requires_grad_()
    mesh.face_areas(verts, faces).sum().backward()
    torch.testing.assert_close(laplacian.cotangent_laplacian(verts.detach(), faces) @ verts.detach(), verts.grad)


def test_mean_curvature_of_a_sphere():
    sphere = mesh.icosphere(4, radius=2.0)
    verts = sphere.verts.double()
    curvature_normal = laplacian.cotangent_laplacian(verts, sphere.faces) @ verts
    mass = laplacian.lumped_mass(verts, sphere.faces)
    curvature = curvature_normal.norm(dim=1) / (2 * mass)
    assert abs((curvature * mass).sum() / mass.sum() - 0.5) < 2e-3
    # A third of the faces is too small a share for the 12 vertices with five neighbours, 15 % for ever.
    error = (curvature - 0.5).abs().sort().values
    assert error[-13] < 0.01 and error[-12] > 0.06 and error[-1] < 0.08


def test_spectrum_of_a_sphere():
    """l (l + 1), each 2 l + 1 times."""
    sphere = mesh.icosphere(4)
    verts = sphere.verts.double()
    matrix = laplacian.to_scipy(laplacian.cotangent_laplacian(verts, sphere.faces))
    mass = scipy.sparse.diags_array(laplacian.lumped_mass(verts, sphere.faces).numpy()).tocsc()
    start = np.random.default_rng(0).normal(size=len(verts))
    values = scipy.sparse.linalg.eigsh(matrix, k=9, M=mass, sigma=-0.01, v0=start, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), [0, 2, 2, 2, 6, 6, 6, 6, 6], atol=0.03)


def test_gradients():
    verts, faces = dented_sphere(subdivisions=0)
    verts.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: laplacian.cotangent_laplacian(v, faces).to_dense(), verts)
    assert torch.autograd.gradcheck(lambda v: laplacian.corner_cotangents(v, faces), verts)
    assert torch.autograd.gradcheck(lambda v: laplacian.lumped_mass(v, faces), verts)


def test_lumped_mass_sums_to_the_area_in_batches():
    verts, faces = dented_sphere()
    batch = torch.stack([verts, 2 * verts])
    mass = laplacian.lumped_mass(batch, faces)
    torch.testing.assert_close(mass.sum(1), mesh.face_areas(batch, faces).sum(1))
    torch.testing.assert_close(mass[0], laplacian.lumped_mass(verts, faces))


def test_uniform_laplacian():
    sphere = mesh.icosphere(2)
    count = len(sphere.verts)
    plain = laplacian.uniform_laplacian(sphere.faces, count, normalized=False).to_dense()
    degree = plain.diagonal()
    assert torch.equal(plain, plain.T) and plain.sum(1).abs().max() == 0
    assert degree.sum() == 2 * len(mesh.edges(sphere.faces)) and set(degree.tolist()) == {5.0, 6.0}
    assert torch.linalg.eigvalsh(plain)[0] > -1e-5
    normalized = laplacian.uniform_laplacian(sphere.faces, count).to_dense()
    torch.testing.assert_close(normalized, plain / degree[:, None])
    assert normalized.diagonal().eq(1).all() and not torch.equal(normalized, normalized.T)


def test_a_lonely_vertex_has_a_zero_row():
    faces = torch.tensor([[0, 1, 2]])
    assert laplacian.uniform_laplacian(faces, 4).to_dense()[3].abs().sum() == 0
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
    assert laplacian.cotangent_laplacian(verts, faces).to_dense()[3].abs().sum() == 0
    assert laplacian.lumped_mass(verts, faces)[3] == 0


@pytest.mark.parametrize("strength", [0.0, 0.5, 20.0])
def test_smoothing_undoes_its_own_sharpening_and_keeps_constants(strength):
    ball = mesh.icosphere(2)
    smooth = laplacian.smoothing_matrix(ball.faces, 162, strength)
    matrix = torch.eye(162) + strength * laplacian.uniform_laplacian(ball.faces, 162, normalized=False).to_dense()
    torch.testing.assert_close(smooth @ matrix, torch.eye(162), atol=1e-4, rtol=0)
    torch.testing.assert_close(smooth.sum(1), torch.ones(162))
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        laplacian.smoothing_matrix(ball.faces, 162, -1.0)


def test_bad_input():
    verts, faces = dented_sphere()
    with pytest.raises(ValueError, match=r"but verts has 0 … 9"):
        laplacian.uniform_laplacian(faces, 10)
    with pytest.raises(ValueError, match="zero area"):
        laplacian.cotangent_laplacian(verts * torch.tensor([1.0, 0, 0]), faces)
    with pytest.raises(ValueError, match="matrix must have shape"):
        laplacian.to_scipy(verts[0])


@pytest.mark.parametrize("subdivisions", [1, 3, 5])
def test_factorization_solves(subdivisions):
    """On a surface in one piece, on two pieces far apart, and for one or several right sides."""
    verts, faces = dented_sphere(subdivisions=subdivisions, noise=0.2 / 2**subdivisions)
    verts, faces = torch.cat([verts, verts + 10]), torch.cat([faces, faces + len(verts)])
    matrix = laplacian.to_scipy(laplacian.cotangent_laplacian(verts, faces))
    matrix = (matrix + scipy.sparse.diags_array(laplacian.lumped_mass(verts, faces).numpy())).tocsc()
    solve = laplacian.Factorization(matrix, verts.numpy()).solve
    wanted = np.random.default_rng(0).normal(size=(len(verts), 3))
    np.testing.assert_allclose(solve(matrix @ wanted), wanted, atol=1e-9)
    np.testing.assert_allclose(solve(matrix @ wanted[:, 0]), wanted[:, 0], atol=1e-9)


def test_a_copied_factorization_solves_too():
    verts, faces = dented_sphere()
    matrix = laplacian.to_scipy(laplacian.cotangent_laplacian(verts, faces))
    factors = laplacian.Factorization((matrix + scipy.sparse.eye_array(len(verts))).tocsc(), verts.numpy())
    right = np.arange(float(len(verts)))
    np.testing.assert_array_equal(copy.deepcopy(factors).solve(right), factors.solve(right))


def test_nested_dissection_is_a_permutation_also_of_equal_points():
    identity = scipy.sparse.eye_array(500, format="csc")
    for points in (np.zeros((500, 3)), np.random.default_rng(0).normal(size=(500, 3))):
        np.testing.assert_allclose(laplacian.Factorization(identity, points).solve(np.arange(500.0)), np.arange(500))


@pytest.mark.parametrize("shape", ["icosphere", "ellipsoid", "square"])
def test_agrees_with_robust_laplacian(shape):
    """robust-laplacian flips edges until the mesh is intrinsically Delaunay: compared on meshes that are."""
    robust_laplacian = pytest.importorskip("robust_laplacian")
    if shape == "square":
        verts, faces = flat_square()
    else:
        sphere = mesh.icosphere(3)
        stretch = torch.tensor([1.0, 1.0, 1.0] if shape == "icosphere" else [1.2, 1.0, 0.9], dtype=torch.float64)
        verts, faces = sphere.verts.double() * stretch, sphere.faces
    matrix = laplacian.to_scipy(laplacian.cotangent_laplacian(verts, faces))
    off_diagonal = matrix - scipy.sparse.diags_array(matrix.diagonal())
    assert off_diagonal.max() <= 1e-12, "a Delaunay mesh has no negative weights"
    theirs, mass = robust_laplacian.mesh_laplacian(verts.numpy(), faces.numpy(), mollify_factor=0)
    assert abs(matrix - theirs).max() < 1e-12
    np.testing.assert_allclose(laplacian.lumped_mass(verts, faces).numpy(), mass.diagonal(), atol=1e-14)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_agrees_with_pytorch3d():
    """PyTorch3D's `cot_laplacian` holds cotangent sums off the diagonal: minus twice ours, and no diagonal."""
    ops = pytest.importorskip("pytorch3d.ops")
    verts, faces = dented_sphere()
    verts = verts.float()
    theirs = ops.cot_laplacian(verts, faces)[0].to_dense()
    ours = laplacian.cotangent_laplacian(verts, faces).to_dense()
    torch.testing.assert_close(-2 * (ours - ours.diagonal().diag()), theirs)
    uniform = laplacian.uniform_laplacian(faces, len(verts)).to_dense()
    torch.testing.assert_close(-uniform, ops.laplacian(verts, mesh.edges(faces)).to_dense())


def test_interpolation_keeps_what_is_given_and_spreads_it_smoothly():
    verts, faces = dented_sphere(subdivisions=3)
    chosen = torch.arange(0, len(verts), 5)
    matrix = laplacian.interpolation_matrix(verts, faces, chosen)
    assert matrix.shape == (len(verts), len(chosen))
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(verts), dtype=torch.float64))
    assert torch.equal(matrix[chosen], torch.eye(len(chosen), dtype=torch.float64))
    L = laplacian.cotangent_laplacian(verts, faces).to_dense()
    values = torch.randn(len(chosen), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free = torch.ones(len(verts), dtype=torch.bool)
    free[chosen] = False
    # The energy ‖L x‖² has no slope at the free vertices.
    assert (L.T @ (L @ (matrix @ values)))[free].abs().max() < 1e-6
    everything = laplacian.interpolation_matrix(verts, faces, torch.arange(len(verts)))
    assert torch.equal(everything, torch.eye(len(verts), dtype=torch.float64))


def test_interpolation_refuses_what_leaves_values_open():
    ball = mesh.icosphere(1)
    two = mesh.Mesh(torch.cat([ball.verts, ball.verts + 5]), torch.cat([ball.faces, ball.faces + len(ball.verts)]))
    for chosen in ([0, 0], [], [-1], [999]):
        with pytest.raises(ValueError, match="chosen must name some of the 84 vertices"):
            laplacian.interpolation_matrix(two.verts, two.faces, torch.tensor(chosen, dtype=torch.long))
    with pytest.raises(ValueError, match="chosen leaves a component of the mesh without a vertex"):
        laplacian.interpolation_matrix(two.verts, two.faces, torch.tensor([1, 2, 3]))
