"""L-BFGS for many small problems at once, each with its own curvature, step length and end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lib.checks import check_tensor

_SUFFICIENT_DECREASE = 1e-4
_HALVINGS = 25


def minimize_lbfgs(
    objective: Callable[[Tensor], Tensor],
    start: Float[Tensor, "B D"],
    *,
    iterations: int = 100,
    history: int = 10,
    tolerance: float = 1e-10,
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B"]]:
    """Minimise B independent functions of D variables each; return the minimisers and their values, detached.

    objective: (B, D) → (B,); entry b of the result depends on row b alone. It may be infinite or NaN outside its
    domain; a trial step that leads there is refused. `torch.optim.LBFGS` on the sum would couple the problems by
    one step length and one curvature. Here the path of one problem does not depend on the others.

    A problem ends when its largest gradient entry is at most `tolerance`, or when the search direction
    promises less than the rounding error of its value. Source: Nocedal and Wright, "Numerical Optimization",
    2006, algorithm 7.4, with a backtracking line search; a step of non-positive curvature is left out of the
    history.

    Raises ValueError if the objective is not finite at the start.
    """
    check_tensor("start", start, "B D", finite=True)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = objective(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    x = start.detach().clone()
    value, gradient = evaluate(x)
    if not (value.isfinite().all() and gradient.isfinite().all()):
        raise ValueError("start has an item whose objective is not finite; start inside the objective's domain")
    steps: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
    scale = 1 / gradient.norm(dim=-1).clamp(min=1)
    rounding = torch.finfo(x.dtype).eps
    active = gradient.abs().amax(-1) > tolerance
    for _ in range(iterations):
        if not active.any():
            break
        direction = -_inverse_hessian_times(gradient, steps, scale)
        slope = (direction * gradient).sum(-1)
        uphill = slope >= 0
        direction = torch.where(uphill[:, None], -gradient, direction)
        slope = torch.where(uphill, -gradient.square().sum(-1), slope)
        active = active & (-slope > rounding * value.abs())

        length = torch.ones_like(value)
        for _ in range(_HALVINGS):
            new_x = x + length[:, None] * direction
            new_value, new_gradient = evaluate(new_x)
            accepted = (new_value <= value + _SUFFICIENT_DECREASE * length * slope) & new_gradient.isfinite().all(-1)
            if (accepted | ~active).all():
                break
            length = torch.where(accepted, length, length / 2)

        moved = accepted & active & (new_value < value)
        step = torch.where(moved[:, None], new_x - x, torch.zeros_like(x))
        change = torch.where(moved[:, None], new_gradient - gradient, torch.zeros_like(x))
        curvature, roughness = (step * change).sum(-1), change.square().sum(-1)
        convex = curvature > rounding * roughness
        inverse = torch.where(convex, 1 / curvature, torch.zeros_like(curvature))
        steps.append((step, change, inverse))
        scale = torch.where(convex, curvature / roughness, scale)

        x = x + step
        value = torch.where(moved, new_value, value)
        gradient = gradient + change
        active = moved & (gradient.abs().amax(-1) > tolerance)
    return x, value


def _inverse_hessian_times(gradient: Tensor, steps: deque, scale: Tensor) -> Tensor:
    """Multiply by the inverse Hessian: the two-loop recursion (algorithm 7.4); inverse curvature 0 skips a step."""
    result, weights = gradient, []
    for step, change, inverse in reversed(steps):
        weight = inverse * (step * result).sum(-1)
        result = result - weight[:, None] * change
        weights.append(weight)
    result = scale[:, None] * result
    for (step, change, inverse), weight in zip(steps, reversed(weights), strict=True):
        correction = weight - inverse * (change * result).sum(-1)
        result = result + correction[:, None] * step
    return result
