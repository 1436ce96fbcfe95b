"""How rough a depth map is: an aid for small networks and short trainings, which the paper does without."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lib.checks import check_tensor


def smoothness_loss(depth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbouring pixels, to the right and below: zero on a constant map."""
    check_tensor("depth", depth, "B H W")
    return (depth[:, :, 1:] - depth[:, :, :-1]).abs().mean() + (depth[:, 1:] - depth[:, :-1]).abs().mean()


def curvature_loss(depth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean absolute difference of a pixel and the mean of its four neighbours (the Laplacian): zero on a plane."""
    check_tensor("depth", depth, "B H W")
    around = depth[:, :-2, 1:-1] + depth[:, 2:, 1:-1] + depth[:, 1:-1, :-2] + depth[:, 1:-1, 2:]
    return (around / 4 - depth[:, 1:-1, 1:-1]).abs().mean()
