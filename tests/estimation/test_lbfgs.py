"""Against known minima and SciPy, and each item on its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lib.estimation.lbfgs import minimize_lbfgs


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (1 - x[:, :-1]).square().sum(-1) + 100 * (x[:, 1:] - x[:, :-1].square()).square().sum(-1)


def starts(count: int, dimension: int) -> torch.Tensor:
    return torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_finds_the_minimum_of_a_curved_valley():
    x, value = minimize_lbfgs(rosenbrock, starts(8, 2), iterations=200)
    torch.testing.assert_close(x, torch.ones_like(x), atol=1e-6, rtol=0)
    assert (value < 1e-12).all()


def test_a_quadratic_as_scipy_solves_it():
    A = torch.diag(torch.logspace(0, 3, 10, dtype=torch.float64))
    b = starts(1, 10)[0]

    def objective(x):
        return ((x @ A) * x).sum(-1) / 2 - x @ b

    x, value = minimize_lbfgs(objective, starts(4, 10), iterations=300)
    found = minimize(
        lambda x: objective(torch.from_numpy(x)[None]).item(), np.zeros(10), method="L-BFGS-B", options={"ftol": 1e-15}
    )
    torch.testing.assert_close(x, (b / A.diagonal()).expand(4, 10), atol=1e-6, rtol=0)
    torch.testing.assert_close(value, torch.full_like(value, found.fun), atol=1e-8, rtol=0)


def test_an_item_does_not_depend_on_its_neighbours():
    start = starts(5, 4)
    start[3] *= 20
    together, _ = minimize_lbfgs(rosenbrock, start, iterations=15)
    for i in range(5):
        alone, _ = minimize_lbfgs(rosenbrock, start[i : i + 1], iterations=15)
        torch.testing.assert_close(alone[0], together[i])


def test_steps_out_of_the_domain_are_refused():
    """x − log x, infinite or NaN left of 0: the minimum is 1."""
    x, _ = minimize_lbfgs(lambda x: (x - x.log()).sum(-1), torch.tensor([[1e-3], [0.5], [20.0]]).double())
    torch.testing.assert_close(x, torch.ones_like(x), atol=1e-6, rtol=0)


def test_single_precision_ends_at_rounding():
    x, value = minimize_lbfgs(rosenbrock, starts(8, 2).float(), iterations=500)
    assert value.dtype == torch.float32 and (value < 1e-6).all()
    assert not x.requires_grad and not value.requires_grad


def test_it_never_goes_up_and_may_start_at_the_minimum():
    start = starts(6, 5)
    values = [minimize_lbfgs(rosenbrock, start, iterations=n)[1] for n in range(0, 30, 3)]
    for before, after in pairwise(values):
        assert (after <= before).all()
    x, _ = minimize_lbfgs(rosenbrock, torch.ones(2, 3))
    assert torch.equal(x, torch.ones(2, 3))
    assert minimize_lbfgs(rosenbrock, torch.ones(0, 3))[0].shape == (0, 3)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (torch.zeros(3), r"start must have shape \(B, D\)"),
        (torch.full((1, 2), float("nan")), "start has NaN"),
        (torch.full((1, 2), -1.0), "objective is not finite"),
    ],
)
def test_bad_input_is_named(start, message):
    with pytest.raises(ValueError, match=message):
        minimize_lbfgs(lambda x: x.log().sum(-1), start)
