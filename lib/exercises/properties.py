"""Properties that the checks of many exercises use. Each function returns None, or one line that tells what is wrong.

The line helps a student to act: it tells what was computed, the student's value and the expected one. Join them by or:

    return finite(yours, "the mask") or between(yours, 0, 1, "the mask")

Where a check must compute with the answer first, `tensor` makes sure that it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.exercises.engine import Trouble

MOST_NUMBERS = 100_000_000


def tensor(yours: Any, what: str, expected_shape: Sequence[int] | None = None) -> Tensor:
    """The answer as a tensor of floats, of the expected shape; a number, a list of numbers or an array will do.

    Raises Trouble for anything else.
    """
    yours = _tensor(yours, what)
    if yours.numel() > MOST_NUMBERS:  # a check of them all would take minutes, which no time limit can end
        raise Trouble(f"{what}: yours has shape {tuple(yours.shape)}, far too many numbers")
    if expected_shape is not None and (wrong := shape(yours, expected_shape, what)):
        raise Trouble(wrong)
    return yours


def _tensor(yours: Any, what: str) -> Tensor:
    if isinstance(yours, Tensor):
        if yours.is_complex() or yours.layout != torch.strided:
            raise Trouble(f"{what}: must be an ordinary real tensor, got {yours.dtype} ({yours.layout})")
        return yours if yours.is_floating_point() else yours.double()
    try:
        return torch.as_tensor(yours, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Trouble(f"{what}: must be a tensor or a number, got {type(yours).__name__}") from None


def shape(yours: Any, expected: Sequence[int], what: str) -> str | None:
    """Check that the answer has this shape."""
    got = tuple(tensor(yours, what).shape)
    return None if got == tuple(expected) else f"{what}: yours has shape {got}, expected {tuple(expected)}"


def finite(yours: Any, what: str) -> str | None:
    """Check that the answer has neither NaN nor infinity."""
    return None if tensor(yours, what).isfinite().all() else f"{what}: yours has NaN or infinite entries"


def near(yours: Any, expected: Any, what: str, tolerance: float = 1e-4) -> str | None:
    """Check that the answer has the expected shape and values; otherwise tell the entry with the largest error.

    tolerance: relative to the largest expected value, or to 1 if that is larger.
    """
    yours, expected = tensor(yours, what).detach(), tensor(expected, what).detach()
    wrong = shape(yours, expected.shape, what) or finite(yours, what)
    if wrong or not yours.numel():
        return wrong
    error = (yours.cpu().double() - expected.cpu().double()).abs()
    if error.max() <= tolerance * max(1.0, float(expected.abs().max())):
        return None
    worst = int(error.argmax())
    place = ", ".join(str(int(index)) for index in np.unravel_index(worst, tuple(error.shape)))
    at = f" at [{place}]" if place else ""
    return f"{what}{at}: yours {_number(yours.flatten()[worst])}, expected {_number(expected.flatten()[worst])}"


def between(yours: Any, low: float, high: float, what: str) -> str | None:
    """Check that all values lie in [low, high]."""
    values = tensor(yours, what).detach()
    wrong = finite(values, what)
    if wrong or not values.numel() or (values.min() >= low and values.max() <= high):
        return wrong
    worst = values.min() if values.min() < low else values.max()
    band = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
    return f"{what}: yours {_number(worst)}, expected {band}"


def one_of(yours: Any, right: str, wrong: dict[str, str]) -> str | None:
    """Check that the answer is the right word; `wrong` has a line for each other word that may be chosen."""
    options = ", ".join(f'"{word}"' for word in sorted([right, *wrong]))
    if not isinstance(yours, str):
        return f"write one of {options}, with the quotation marks"
    word = yours.strip().lower()
    if word == right:
        return None
    return wrong.get(word, f'"{yours}" is none of {options}')


def has_gradient(function: Callable[[Tensor], Tensor], at: Tensor, what: str) -> str | None:
    """Check that a gradient comes back to `at`, and is finite and not all zero."""
    gradient = gradient_of(function, at, what)
    if wrong := finite(gradient, f"the gradient of {what}"):
        return wrong
    return None if gradient.any() else f"the gradient of {what} is zero everywhere"


def has_derivative(
    function: Callable[[Tensor], Tensor],
    at: Tensor,
    generator: torch.Generator,
    what: str,
    *,
    step: float = 1e-4,
    tolerance: float = 1e-3,
) -> str | None:
    """Check that the gradient agrees with finite differences, along a random direction, in double precision."""
    at = at.double()
    direction = torch.randn(at.shape, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm()
    gradient = gradient_of(function, at, what)
    if wrong := finite(gradient, f"the gradient of {what}"):
        return wrong
    ahead, behind = (tensor(function(at + sign * step * direction), what).detach().sum() for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    return near((gradient * direction).sum(), expected, f"the derivative of {what} along a line", tolerance)


def gradient_of(function: Callable[[Tensor], Tensor], at: Tensor, what: str) -> Tensor:
    """Compute the gradient of the function's sum by autograd.

    Raises Trouble if none comes back.
    """
    at = at.detach().clone().requires_grad_()
    value = tensor(function(at), what)
    if not value.requires_grad:
        raise Trouble(f"no gradient comes back from {what}: is there a detach, an item() or a comparison on the way?")
    (gradient,) = torch.autograd.grad(value.sum(), at, allow_unused=True)
    if gradient is None:
        raise Trouble(f"{what} does not depend on what it should depend on")
    return gradient


def _number(value: Tensor) -> str:
    return f"{float(value):.4g}"
