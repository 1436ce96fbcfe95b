"""Gradients of a minimiser: against finite differences, against unrolled descent, and what has none."""

import pytest
import torch

from lib.estimation.implicit_gradients import attach_gradients, differentiable_minimum


def bowl(x, a, b):
    """A smooth convex function without a closed-form minimum, of a (B, D) and b (D,)."""
    return ((x - a).square() + 0.3 * (x - a) ** 4 + (b * x).exp()).sum(-1) + 0.1 * x.prod(-1)


def problem(items=3, size=2):
    draws = torch.Generator().manual_seed(0)
    a = torch.randn(items, size, generator=draws, dtype=torch.float64)
    b = 0.3 * torch.randn(size, generator=draws, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def minimum(a, b):
    found = differentiable_minimum(bowl, torch.zeros_like(a), a, b, iterations=200, flat=1e-13, tolerance=1e-6)
    assert found.converged.all()
    return found.x


def test_gradients_equal_finite_differences():
    assert torch.autograd.gradcheck(minimum, problem(), eps=1e-5, rtol=1e-5, atol=1e-8)


def test_gradients_equal_those_of_unrolled_descent():
    a, b = problem()
    wish = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    implicit = torch.autograd.grad((minimum(a, b) * wish).sum(), (a, b))
    x = torch.zeros_like(a).requires_grad_()
    for _ in range(400):
        (gradient,) = torch.autograd.grad(bowl(x, a, b).sum(), x, create_graph=True)
        x = x - 0.1 * gradient
    unrolled = torch.autograd.grad((x * wish).sum(), (a, b))
    for ours, theirs in zip(implicit, unrolled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_value_is_the_minimiser_or_nearer_to_it():
    a, b = problem()
    x = minimum(a, b).detach()
    torch.testing.assert_close(attach_gradients(bowl, x, a, b).x.detach(), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(attach_gradients(bowl, x + 1e-4, a, b).x.detach(), x, rtol=0, atol=1e-7)
    with torch.no_grad():
        assert not minimum(a, b).requires_grad


def test_what_has_not_converged_is_told_and_has_no_gradient():
    a, b = problem()
    x = minimum(a, b).detach()
    x[1] += 0.5
    found = attach_gradients(bowl, x, a, b)
    assert found.converged.tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(found.x.sum(), a)
    assert gradient[1].eq(0).all()
    assert gradient[[0, 2]].ne(0).all()
    short = differentiable_minimum(bowl, torch.full_like(a, 5.0), a, b, iterations=1)
    assert not short.converged.any()


def test_a_saddle_is_no_minimum():
    saddle = lambda x, a: a * (x[:, 0].square() - x[:, 1].square())  # noqa: E731
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert not attach_gradients(saddle, x, torch.ones(1, dtype=torch.float64)).converged.any()


def test_a_valley_is_refused_unless_it_is_damped():
    valley = lambda x, a: (x.sum(-1) - a).square()  # noqa: E731
    a = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    start = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="item 0 is singular: its minimum is a valley, without a derivative"):
        differentiable_minimum(valley, start, a)
    found = differentiable_minimum(valley, start, a, damping=1e-6)
    (gradient,) = torch.autograd.grad(found.x.sum(), a)
    assert found.converged.all()
    assert gradient.item() == pytest.approx(1, rel=1e-5)


def test_one_item_that_is_not_finite_does_not_harm_the_others():
    root = lambda x, a: (x - a.sqrt()).square().sum(-1)  # noqa: E731
    a = torch.tensor([[4.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    found = attach_gradients(root, torch.tensor([[2.0], [0.0]], dtype=torch.float64), a)
    assert found.converged.tolist() == [True, False]
    (gradient,) = torch.autograd.grad(found.x[0].sum(), a)
    assert gradient[0].item() == pytest.approx(0.25)
