"""Roughness of a depth map: an aid for small networks and short trainings; the paper does not need it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lib.checks import check_tensor


def smoothness_loss(depth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbouring pixels, along rows and columns; zero for a constant map."""
    check_tensor("depth", depth, "B H W")
    return (depth[:, :, 1:] - depth[:, :, :-1]).abs().mean() + (depth[:, 1:] - depth[:, :-1]).abs().mean()


def curvature_loss(depth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean absolute difference of a pixel from the mean of its four neighbours (the Laplacian); zero for a plane."""
    check_tensor("depth", depth, "B H W")
    around = depth[:, :-2, 1:-1] + depth[:, 2:, 1:-1] + depth[:, 1:-1, :-2] + depth[:, 1:-1, 2:]
    return (around / 4 - depth[:, 1:-1, 1:-1]).abs().mean()
