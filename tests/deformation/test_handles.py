"""The handle layer: its definition, its explicit gradient, its solvers, and what it does and does not preserve."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.deformation import handles
from lib.geometry import geodesics, laplacian, mesh, rotations

examples = settings(deadline=None, derandomize=True, max_examples=10)
every_laplacian = pytest.mark.parametrize("kind", ["cotangent", "uniform"])
every_method = pytest.mark.parametrize("method", ["woodbury", "cholesky", "sparse"])


def template(subdivisions: int = 1, pieces: int = 1, dtype: torch.dtype = torch.float64) -> mesh.Mesh:
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(sphere.verts.shape, generator=generator, dtype=torch.float64)
    verts = sphere.verts.double() * torch.tensor([1.3, 0.7, 1.0]) + 0.2 / 2**subdivisions * noise
    verts = torch.cat([verts + 4 * piece for piece in range(pieces)])
    faces = torch.cat([sphere.faces + piece * len(sphere.verts) for piece in range(pieces)])
    return mesh.Mesh(verts.to(dtype), faces)


def energy_of(shape: mesh.Mesh, kind: str, method: str, monkeypatch) -> handles.LaplacianEnergy:
    if method == "sparse":
        monkeypatch.setattr(handles, "DENSE_UP_TO", 0)
        method = "woodbury"
    return handles.LaplacianEnergy(shape, kind, method)


def dense_laplacian(shape: mesh.Mesh, kind: str) -> torch.Tensor:
    if kind == "cotangent":
        return laplacian.cotangent_laplacian(shape.verts, shape.faces).to_dense()
    plain = laplacian.uniform_laplacian(shape.faces, len(shape.verts), normalized=False).to_dense().double()
    return plain / plain.diagonal()[:, None]


def solve_by_definition(A, targets, shape, kind):
    """The normal equations of the quadratic, left to autograd."""
    L, T = dense_laplacian(shape, kind), shape.verts
    return torch.linalg.solve(L.T @ L + A.T @ A, L.T @ L @ T + A.T @ targets)


def random_inputs(shape: mesh.Mesh, num_handles: int = 4, batch: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(num_handles, len(shape.verts), generator=generator, dtype=torch.float64)
    targets = torch.randn(batch, num_handles, 3, generator=generator, dtype=torch.float64)
    return (A / A.sum(1, keepdim=True)).requires_grad_(), targets.requires_grad_()


@every_laplacian
@every_method
@pytest.mark.parametrize("pieces", [1, 2])
def test_values_and_gradients_agree_with_autograd_through_a_dense_solve(kind, method, pieces, monkeypatch):
    shape = template(pieces=pieces)
    A, targets = random_inputs(shape)
    energy = energy_of(shape, kind, method, monkeypatch)
    ours, expected = handles.deform(A, targets, energy), solve_by_definition(A, targets, shape, kind)
    assert (ours - expected).abs().max() < 1e-8
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad(verts, (A, targets), upstream) for verts in (ours, expected)]
    for gradient, wanted in zip(*gradients, strict=True):
        assert (gradient - wanted).abs().max() < 1e-8 * wanted.abs().max()


@every_laplacian
@every_method
def test_gradcheck_in_A_and_targets(kind, method, monkeypatch):
    shape = template(subdivisions=0)
    energy = energy_of(shape, kind, method, monkeypatch)
    assert torch.autograd.gradcheck(lambda A, H: handles.deform(A, H, energy), random_inputs(shape))


@every_laplacian
def test_gradcheck_in_offsets_and_logits(kind):
    """Here H̃ = A T + Δ also depends on A."""
    layer = handles.HandleLayer(template(subdivisions=0), 4, kind)
    offsets = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda delta, _: layer(delta), (offsets, layer.logits))


def test_the_formulas_of_figure_8_and_what_is_wrong_without_their_parts():
    shape = template()
    A, targets = random_inputs(shape, batch=1)
    verts = handles.deform(A, targets, handles.LaplacianEnergy(shape))
    G = torch.randn(verts.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad_A, grad_targets = torch.autograd.grad(verts, (A, targets), G)
    with torch.no_grad():
        L = dense_laplacian(shape, "cotangent")
        g_b = torch.linalg.solve(L.T @ L + A.T @ A, G[0])
        g_W = -g_b @ verts[0].T
        torch.testing.assert_close(grad_targets[0], A @ g_b)
        torch.testing.assert_close(grad_A, targets[0] @ g_b.T + A @ g_W + A @ g_W.T)
        for half in (A @ g_W, A @ g_W.T):
            assert (targets[0] @ g_b.T + half - grad_A).abs().max() > 0.1 * grad_A.abs().max()


def test_the_gradient_of_A_has_a_term_from_the_handles_of_the_template():
    """∂g/∂A through H̃ = A T + Δ adds (∂g/∂H̃) Tᵀ."""
    shape = template()
    energy = handles.LaplacianEnergy(shape)
    A, offsets = random_inputs(shape, batch=1)
    verts = handles.deform(A, A @ shape.verts + offsets, energy)
    G = torch.randn(verts.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, grad_targets = torch.autograd.grad(verts, (A, offsets), G)
    held = handles.deform(A, (A @ shape.verts + offsets).detach(), energy)
    explicit = torch.autograd.grad(held, A, G)[0]
    torch.testing.assert_close(whole, explicit + grad_targets[0] @ shape.verts.T)
    assert (whole - explicit).abs().max() > 0.1 * whole.abs().max()


@every_laplacian
@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_offset_gives_the_template(kind, method, dtype, monkeypatch):
    shape = template(subdivisions=2, dtype=dtype)
    layer = handles.HandleLayer(shape, 8, kind)
    layer.energy = energy_of(shape, kind, method, monkeypatch)
    verts = layer(torch.zeros(3, 8, 3, dtype=dtype))
    assert verts.dtype == dtype and verts.shape == (3, 162, 3)
    assert (verts - shape.verts).abs().max() < 1e-5


@examples
@given(st.integers(0, 1000), st.sampled_from(["cotangent", "uniform"]))
def test_translation_equivariance(seed, kind):
    layer = handles.HandleLayer(template(), 5, kind)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
    shift = 5 * torch.randn(3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(layer(offsets + shift), layer(offsets) + shift, atol=1e-9, rtol=0)


@pytest.mark.parametrize("angle", [0.2, 1.0])
def test_there_is_no_rotation_equivariance(angle):
    """The curvature L T does not turn with the handles: a known limit of linear Laplacian editing."""
    shape = template(subdivisions=2)
    layer = handles.HandleLayer(shape, 6)
    turn = rotations.axis_angle_to_matrix(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
    rest = layer.handles()
    verts = layer((rest @ turn.T - rest)[None])[0]
    assert (verts - shape.verts @ turn.T).norm(dim=1).max() > 0.1 * angle


def test_scale_equivariance():
    """Moving the handles of a twice larger template by twice as much gives a twice larger mesh."""
    shape = template()
    A, offsets = random_inputs(shape)
    small = handles.deform(A, A @ shape.verts + offsets, handles.LaplacianEnergy(shape))
    large = shape.with_verts(2 * shape.verts)
    verts = handles.deform(A, A @ large.verts + 2 * offsets, handles.LaplacianEnergy(large))
    torch.testing.assert_close(verts, 2 * small, atol=1e-9, rtol=0)


@every_laplacian
def test_the_result_is_the_minimum(kind):
    shape = template()
    A, targets = (value.detach() for value in random_inputs(shape, batch=1))
    L, T = dense_laplacian(shape, kind), shape.verts

    def cost(verts):
        return (L @ (verts - T)).square().sum() / 2 + (A @ verts - targets[0]).square().sum() / 2

    best = handles.deform(A, targets, handles.LaplacianEnergy(shape, kind))[0].requires_grad_()
    assert torch.autograd.grad(cost(best), best)[0].abs().max() < 1e-9


@every_laplacian
def test_folded_layer_is_the_layer(kind):
    layer = handles.HandleLayer(template(), 5, kind)
    C, D = layer.fold()
    assert C.shape == (42, 3) and D.shape == (42, 5)
    offsets = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folded = handles.apply_folded(C, D, layer.handles() + offsets)
    torch.testing.assert_close(folded, layer(offsets))
    torch.testing.assert_close(folded, C + D @ (layer.handles() + offsets))
    torch.testing.assert_close(D.sum(1), torch.ones(42, dtype=torch.float64), msg="handles share out each vertex")


def test_first_handles_are_spread_and_rows_sum_to_one():
    shape = template(subdivisions=2)
    layer = handles.HandleLayer(shape, 6)
    A = layer.matrix()
    torch.testing.assert_close(A.sum(1), torch.ones(6, dtype=torch.float64))
    centers = geodesics.farthest_points(shape.verts, shape.faces, 6)
    distances = geodesics.geodesic_distances(shape.verts, shape.faces, centers)
    start, end = mesh.edges(shape.faces).unbind(1)
    shortest = (shape.verts[start] - shape.verts[end]).norm(dim=1).mean()
    expected = torch.exp(1 / torch.maximum(distances, shortest))
    torch.testing.assert_close(A, expected / expected.sum(1, keepdim=True))
    assert (A.max(1).values == A[torch.arange(6), centers]).all()


@every_laplacian
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_pseudo_inverse_is_one(kind, pieces):
    """Penrose's conditions, on a mesh of one piece and of several."""
    shape = template(pieces=pieces)
    inverse = handles.LaplacianEnergy(shape, kind).dense
    L = dense_laplacian(shape, kind)
    torch.testing.assert_close(inverse, torch.linalg.pinv(L.T @ L, hermitian=True), atol=1e-9, rtol=1e-8)


@every_laplacian
def test_float32_is_no_worse_than_a_dense_factorisation(kind):
    exact_shape = template(subdivisions=3)
    A, targets = random_inputs(exact_shape, num_handles=16)
    exact = handles.deform(A, targets, handles.LaplacianEnergy(exact_shape, kind))
    shape = template(subdivisions=3, dtype=torch.float32)
    errors = {}
    for method in ("woodbury", "cholesky"):
        energy = handles.LaplacianEnergy(shape, kind, method)
        errors[method] = (handles.deform(A.float(), targets.float(), energy) - exact).abs().max()
    assert errors["woodbury"] < 1e-4
    assert errors["woodbury"] < 2 * errors["cholesky"]


def test_large_template_has_no_square_matrix():
    """10 242 vertices as a stand-in for 50 000: the way is the same, and nothing has V² entries."""
    shape = mesh.icosphere(5)
    layer = handles.HandleLayer(shape, 8)
    entries = [value.numel() for value in (*layer.parameters(), *layer.buffers())]
    assert max(entries) <= 8 * len(shape.verts)
    offsets = 0.1 * torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    verts = layer(offsets.requires_grad_())
    (verts[:, 0] ** 2).sum().backward()
    assert torch.isfinite(layer.logits.grad).all() and layer.logits.grad.abs().max() > 0
    assert (layer(torch.zeros(1, 8, 3)) - shape.verts).abs().max() < 1e-5
    # Double precision as the judge of single precision.
    exact = handles.HandleLayer(shape.with_verts(shape.verts.double()), 8)
    exact.logits.data = layer.logits.data.double()
    assert (exact(offsets.double()) - verts).abs().max() < 1e-4


def test_learning_A_lowers_a_loss():
    torch.manual_seed(0)
    shape = template(subdivisions=2, dtype=torch.float32)
    layer = handles.HandleLayer(shape, 6)
    offsets = torch.zeros(1, 6, 3, requires_grad=True)
    target = shape.verts + 0.3 * torch.tensor([0.0, 1, 0]) * (shape.verts[:, :1] > 0.8)
    losses = {}
    for learned in ([offsets], [offsets, layer.logits]):
        optimizer = torch.optim.Adam(learned, lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (layer(offsets) - target).square().mean()
            loss.backward()
            optimizer.step()
        losses[len(learned)] = float(loss.detach())
    assert losses[2] < 0.8 * losses[1]


def test_gradient_without_A_and_second_backward():
    layer = handles.HandleLayer(template(), 3).requires_grad_(False)
    offsets = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    layer(offsets).sum().backward()
    # D's rows sum to one: each unit of offset moves, all in all, each vertex once.
    torch.testing.assert_close(offsets.grad.sum(1), torch.full((1, 3), 42.0, dtype=torch.float64))
    assert layer.logits.grad is None


def test_mixed_precision_of_the_network_stays_outside():
    layer = handles.HandleLayer(template(subdivisions=2, dtype=torch.float32), 6)
    offsets = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(offsets)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer(offsets))


def test_copies_states_and_pickles(monkeypatch):
    monkeypatch.setattr(handles, "DENSE_UP_TO", 0)
    layer = handles.HandleLayer(template(), 3)
    offsets = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert list(layer.state_dict()) == ["logits"]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(offsets), layer(offsets))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_method
def test_cuda_is_the_cpu(method, monkeypatch):
    shape = template(subdivisions=2)
    energy = energy_of(shape, "cotangent", method, monkeypatch)
    results = {}
    for device in ("cpu", "cuda"):
        A, targets = (value.detach().to(device).requires_grad_() for value in random_inputs(shape))
        verts = handles.deform(A, targets, energy.to(device))
        gradients = torch.autograd.grad((verts**2).sum(), (A, targets))
        results[device] = [value.cpu() for value in (verts, *gradients)]
    for ours, expected in zip(results["cuda"], results["cpu"], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)


def test_bad_input():
    shape = template()
    with pytest.raises(ValueError, match="num_handles must be 1 … 42"):
        handles.HandleLayer(shape, 43)
    with pytest.raises(ValueError, match="laplacian='cot' is unknown"):
        handles.HandleLayer(shape, 3, laplacian="cot")
    with pytest.raises(ValueError, match="method='lu' is unknown"):
        handles.HandleLayer(shape, 3, method="lu")
    layer = handles.HandleLayer(shape, 3)
    with pytest.raises(ValueError, match=r"offsets must have shape \(B, 3, 3\).*add the batch axis"):
        layer(torch.zeros(3, 3, dtype=torch.float64))
    A, targets = random_inputs(shape)
    with pytest.raises(ValueError, match="A must have shape"):
        handles.deform(A[:, 1:], targets, layer.energy)
    with pytest.raises(ValueError, match="targets must have shape"):
        handles.deform(A, targets[:, 1:], layer.energy)
    assert np.isfinite(layer.fold()[0].numpy()).all()


@pytest.mark.parametrize("method", ["woodbury", "cholesky"])
@pytest.mark.parametrize("stray", [False, True])
def test_every_piece_needs_a_handle(method, stray):
    """With fewer handles than pieces a piece may go anywhere; a vertex without faces is a piece too."""
    sphere = mesh.icosphere(1)
    moved = [0.3 * sphere.verts + torch.tensor([float(i), 0, 0]) for i in range(3)]
    verts = torch.cat([*moved, torch.tensor([[9.0, 9, 9]])][: 4 if stray else 3])
    template = mesh.Mesh(verts, torch.cat([sphere.faces + 42 * i for i in range(3)]))
    pieces = 4 if stray else 3
    for count in range(1, pieces):
        with pytest.raises(ValueError, match=rf"num_handles must be at least {pieces}.*got {count}; add handles"):
            handles.HandleLayer(template, count, method=method)
    layer = handles.HandleLayer(template, pieces, method=method)
    moved = layer(torch.full((1, pieces, 3), 0.1))
    torch.testing.assert_close(moved[0], verts + 0.1, atol=1e-3, rtol=0)
