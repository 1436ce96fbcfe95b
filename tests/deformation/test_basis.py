"""The linear basis and principal components."""

from __future__ import annotations

import pytest
import torch

from lib.deformation import basis
from lib.geometry import laplacian, mesh


def template() -> mesh.Mesh:
    sphere = mesh.icosphere(1)
    return sphere.with_verts(sphere.verts.double())


def samples(count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 42, 3, generator=generator, dtype=torch.float64)


def test_zero_coefficients_give_the_template_and_the_rest_is_linear():
    torch.manual_seed(0)
    layer = basis.LinearBasis(template(), 5)
    zero = torch.zeros(2, 5, dtype=torch.float64)
    assert torch.equal(layer(zero), template().verts.expand(2, -1, -1))
    a, b = torch.randn(2, 1, 5, dtype=torch.float64)
    rest = layer(zero[:1])
    torch.testing.assert_close(layer(a + 2 * b) - rest, layer(a) - rest + 2 * (layer(b) - rest))


def test_gradients():
    torch.manual_seed(0)
    layer = basis.LinearBasis(template(), 3)
    coefficients = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, _: layer(c), (coefficients, layer.modes))


def test_all_components_restore_all_samples():
    shapes = samples()
    mean, modes, deviations = basis.principal_components(shapes, 6)
    flat = modes.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(6, dtype=torch.float64))
    weights = (shapes - mean).flatten(1) @ flat.T
    torch.testing.assert_close(mean + torch.einsum("sm,mvx->svx", weights, modes), shapes)
    torch.testing.assert_close(weights.square().mean(0).sqrt(), deviations)
    assert deviations.tolist() == sorted(deviations.tolist(), reverse=True)


def test_components_are_the_best_basis_of_their_size():
    shapes = samples()
    mean, modes, _ = basis.principal_components(shapes, 3)
    centered = (shapes - mean).flatten(1)

    def residual(vectors):
        directions = torch.linalg.qr(vectors.T).Q
        return (centered - centered @ directions @ directions.T).square().sum()

    best = residual(modes.flatten(1))
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        noise = torch.randn(3, 126, generator=generator, dtype=torch.float64)
        assert residual(modes.flatten(1) + 0.05 * noise) > best


def test_agrees_with_numpy_covariance():
    shapes = samples(30)
    _, _, deviations = basis.principal_components(shapes, 4)
    covariance = torch.cov(shapes.flatten(1).T, correction=0)
    torch.testing.assert_close(deviations.square(), torch.linalg.eigvalsh(covariance).flip(0)[:4])


def test_signs_do_not_depend_on_the_order_of_the_samples():
    shapes = samples()
    _, modes, _ = basis.principal_components(shapes, 3)
    _, again, _ = basis.principal_components(shapes.flip(0), 3)
    torch.testing.assert_close(again, modes)


def test_bad_input():
    with pytest.raises(ValueError, match="num_modes must be 1 or more"):
        basis.LinearBasis(template(), 0)
    with pytest.raises(ValueError, match="coefficients must have shape"):
        basis.LinearBasis(template(), 3)(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="num_modes must be 1 … 7"):
        basis.principal_components(samples(), 8)
    with pytest.raises(ValueError, match="samples must have shape"):
        basis.principal_components(samples()[0], 2)


def test_smooth_modes_are_orthogonal_sized_and_in_order_of_roughness():
    shape = template()
    shape = shape.with_verts(shape.verts * torch.tensor([1.0, 0.8, 0.6]))
    modes = basis.smooth_modes(shape, 10, size=0.2)
    assert modes.shape == (10, 42, 3) and modes.dtype == torch.float64
    for index, mode in enumerate(modes):
        others = [axis for axis in range(3) if axis != index % 3]
        assert mode[:, others].eq(0).all()
        assert mode.square().sum(-1).mean().sqrt() == pytest.approx(0.2)
    mass = laplacian.lumped_mass(shape.verts, shape.faces)
    functions = modes[::3].sum(-1).T
    gram = functions.T @ (mass[:, None] * functions)
    assert (gram - gram.diag().diag()).abs().max() < 1e-8 * gram.max()
    assert (mass @ functions).abs().max() < 1e-8  # none shifts the whole
    roughness = torch.einsum("vk,vk->k", functions, laplacian.cotangent_laplacian(shape.verts, shape.faces) @ functions)
    assert (roughness.diff() > -1e-9).all()
    with pytest.raises(ValueError, match="num_modes must be 1 … 123"):
        basis.smooth_modes(shape, 124)
