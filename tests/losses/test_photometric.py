"""Likelihoods with a predicted spread: values, optima, signs, gradients; and the roughness of depth maps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.losses.depth import curvature_loss, smoothness_loss
from lib.losses.photometric import gaussian_nll, laplacian_nll

generator = torch.Generator().manual_seed(0)


def flat(value, channels=3):
    return torch.full((1, channels, 2, 2), float(value), dtype=torch.float64)


def spread(value):
    return torch.full((1, 2, 2), float(value), dtype=torch.float64)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(error=st.floats(0.001, 1), sigma=st.floats(0.001, 2))
def test_they_are_log_densities(error, sigma):
    """−ln p, with p as scipy writes Laplace and Gauss."""
    laplace = math.log(math.sqrt(2) * sigma) + math.sqrt(2) * error / sigma
    gauss = 0.5 * math.log(2 * math.pi * sigma**2) + error**2 / (2 * sigma**2)
    assert float(laplacian_nll(flat(error), flat(0), spread(sigma))) == pytest.approx(laplace)
    assert float(gaussian_nll(flat(error), flat(0), spread(sigma))) == pytest.approx(gauss)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(error=st.floats(0.01, 1), sigma=st.floats(0.01, 2))
def test_an_error_always_costs(error, sigma):
    """The slide's formula, read as ln(·) × exp(·), would reward errors where σ > 0.71."""
    for loss in (laplacian_nll, gaussian_nll):
        pred = flat(error).requires_grad_()
        loss(pred, flat(0), spread(sigma)).backward()
        assert (pred.grad > 0).all()


@settings(deadline=None, derandomize=True, max_examples=20)
@given(error=st.floats(0.01, 1))
def test_the_best_spread(error):
    for loss, best in ((laplacian_nll, math.sqrt(2) * error), (gaussian_nll, error)):
        sigma = spread(best).requires_grad_()
        value = loss(flat(error), flat(0), sigma)
        value.backward()
        assert sigma.grad.abs().max() < 1e-9 / error
        assert value < loss(flat(error), flat(0), spread(0.9 * best))
        assert value < loss(flat(error), flat(0), spread(1.1 * best))


def test_a_density_may_exceed_one():
    assert gaussian_nll(flat(0.01), flat(0), spread(0.01)) < 0
    assert laplacian_nll(flat(0.01), flat(0), spread(0.02)) < 0


def test_without_a_spread_they_are_plain_errors():
    assert float(laplacian_nll(flat(0.3), flat(0))) == pytest.approx(0.3)
    assert float(gaussian_nll(flat(0.3), flat(0))) == pytest.approx(0.045)


def test_the_mask_weights_the_pixels():
    pred = flat(0)
    pred[0, :, 0, 0] = 1
    mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    assert float(laplacian_nll(pred, flat(0), mask=mask)) == pytest.approx(0.5)
    assert float(laplacian_nll(pred, flat(0))) == pytest.approx(0.25)


def test_gradients_against_finite_differences():
    pred, target = torch.rand(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    sigma = 0.1 + torch.rand(2, 4, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 4, 4, generator=generator, dtype=torch.float64)
    inputs = (pred.requires_grad_(), target, sigma.requires_grad_(), mask)
    for loss in (laplacian_nll, gaussian_nll):
        assert torch.autograd.gradcheck(loss, inputs)
    depth = torch.rand(2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(smoothness_loss, (depth,))
    assert torch.autograd.gradcheck(curvature_loss, (depth,))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="target must have shape"):
        laplacian_nll(flat(0), flat(0, channels=1))
    with pytest.raises(ValueError, match="sigma must have shape"):
        laplacian_nll(flat(0), flat(0), flat(1))
    with pytest.raises(ValueError, match="mask is empty"):
        gaussian_nll(flat(0), flat(0), mask=spread(0))


def test_roughness_of_planes_and_bumps():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = (2 * columns - rows)[None]
    assert float(smoothness_loss(plane)) == pytest.approx(3)
    assert float(curvature_loss(plane)) == pytest.approx(0)
    assert float(smoothness_loss(torch.ones(1, 4, 4))) == 0
    bump = torch.zeros(1, 3, 3)
    bump[0, 1, 1] = 1
    assert float(curvature_loss(bump)) == pytest.approx(1)
