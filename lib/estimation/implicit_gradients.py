"""Gradients of a minimiser, by the implicit function theorem.

At the minimiser x* of f(x, θ) the gradient ∂f/∂x is zero. It stays zero while θ moves, so x* must move along:

    dx*/dθ = −H⁻¹ ∂²f/∂x∂θ,   H = ∂²f/∂x².

It does not matter how x* was found, and no step of the search has to be remembered. Source: Krantz and Parks, "The
implicit function theorem", 2002; for optimisation layers, Gould, Hartley and Campbell, "Deep declarative networks",
PAMI 2022 (proposition 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.estimation.lbfgs import minimize_lbfgs


class Optimum(NamedTuple):
    """Minimisers x (B, D), with gradients to the parameters; values (B,), detached; converged (B,).

    An item that has not converged has no gradient: what the theorem says holds at an optimum only.
    """

    x: Float[Tensor, "B D"]
    value: Float[Tensor, "B"]
    converged: Bool[Tensor, "B"]


def differentiable_minimum(
    objective: Callable[..., Tensor],
    start: Float[Tensor, "B D"],
    *parameters: Tensor,
    iterations: int = 100,
    flat: float = 1e-10,
    tolerance: float = 1e-3,
    damping: float = 0.0,
    singular: str = "raise",
) -> Optimum:
    """Minimise B independent functions by L-BFGS; gradients reach the parameters by the implicit function theorem.

    objective: (x (B, D), *parameters) → (B,), twice differentiable; entry b depends on row b of x alone. parameters:
        tensors through which gradients flow; each may have any shape. Whatever else the objective reads is a constant.
    iterations, flat: the search ends after so many iterations, or when no entry of an item's gradient is larger.
    tolerance: an item has converged if Newton's next step would change no entry of x by more than this, in the units
        of x.
    damping: so many times the mean of H's diagonal is added to the diagonal. Directions that the objective does not
        determine then get no gradient, and all others nearly theirs.
    singular: what becomes of an item whose Hessian is singular at its optimum, so that a whole valley is optimal and
        has no derivative: "raise" a ValueError, or "flag" it as not converged.

    Raises ValueError for a singular Hessian, or another word for `singular`.
    """
    check_tensor("start", start, "B D", finite=True)
    constants = [parameter.detach() for parameter in parameters]
    x, _ = minimize_lbfgs(lambda x: objective(x, *constants), start, iterations=iterations, tolerance=flat)
    polished = attach_gradients(objective, x, *constants, tolerance=tolerance, damping=damping, singular=singular)
    return attach_gradients(objective, polished.x, *parameters, tolerance=tolerance, damping=damping, singular=singular)


def attach_gradients(
    objective: Callable[..., Tensor],
    x: Float[Tensor, "B D"],
    *parameters: Tensor,
    tolerance: float = 1e-3,
    damping: float = 0.0,
    singular: str = "raise",
) -> Optimum:
    """Give a minimiser that any method has found its gradients with respect to the parameters.

    The arguments are those of `differentiable_minimum`. The result is one Newton step from x, x − H⁻¹ ∂f/∂x, with H⁻¹
    held constant: its derivative is −H⁻¹ ∂²f/∂x∂θ, and it ends nearer to the minimum than x.
    """
    check_tensor("x", x, "B D", finite=True)
    if singular not in ("raise", "flag"):
        raise ValueError(f'singular={singular!r} is unknown; use "raise" or "flag"')
    check_same_device(x=x, **{f"parameters[{i}]": parameter for i, parameter in enumerate(parameters)})
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(x, *parameters)
        check_tensor("objective's value", value, str(len(x)))
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        sums = [entry.sum() for entry in gradient.unbind(-1)]
    rows = [torch.autograd.grad(total, x, retain_graph=True)[0] for total in sums]
    hessian = torch.stack(rows, -2)
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    hessian = hessian + damping * mean.abs()[:, None, None] * torch.eye(x.shape[1]).to(x)

    finite = (hessian.isfinite().all(-1) & gradient.detach().isfinite()).all(-1)
    hessian = torch.where(finite[:, None, None], hessian, torch.eye(x.shape[1]).to(x))
    curvatures = torch.linalg.eigvalsh(hessian)
    rounding = x.shape[1] * torch.finfo(x.dtype).eps
    flat = curvatures[:, 0].abs() <= rounding * curvatures[:, -1].abs()
    safe = torch.where(flat[:, None, None], torch.eye(x.shape[1]).to(x), hessian)
    step = torch.linalg.solve(safe, gradient)
    still = gradient.detach().norm(dim=-1) <= tolerance * curvatures[:, -1].abs()
    if singular == "raise" and (finite & flat & still).any():
        item = int((finite & flat & still).nonzero()[0])
        raise ValueError(
            f"the Hessian of item {item} is singular: its minimum is a valley, without a derivative; "
            "fix what the objective leaves open, or give damping, such as 1e-6"
        )
    converged = finite & ~flat & (curvatures[:, 0] > 0) & (step.detach().abs().amax(-1) <= tolerance)
    if not any(parameter.requires_grad for parameter in parameters):
        step = step.detach()
    return Optimum(torch.where(converged[:, None], x.detach() - step, x.detach()), value.detach(), converged)
