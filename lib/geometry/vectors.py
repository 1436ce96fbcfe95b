"""Lengths and directions of vectors of any size; float32 cannot hold squares of numbers below 1e-19 or above 1e19."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def binary_scale(values: Float[Tensor, "..."], dim: int | tuple[int, ...] = -1) -> Float[Tensor, "..."]:
    """The power of two just above the largest magnitude along `dim`, which is kept with length 1; no gradient.

    Dividing by it is exact, so that all later results have the same digits at every scale. It is 1 if all is zero.
    """
    if values.numel() == 0:
        return values.new_ones(()).expand([1] * values.ndim)
    largest = values.detach().abs().amax(dim, keepdim=True)
    limit = math.frexp(torch.finfo(values.dtype).max)[1] - 2
    exponent = torch.frexp(largest).exponent.clamp(-limit, limit)
    return torch.where(largest > 0, torch.exp2(exponent.to(values.dtype)), 1.0)


def unit(vectors: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """Scale the vectors along `dim` to length 1, whatever their length; zero vectors stay zero, without gradient."""
    scaled = vectors / binary_scale(vectors, dim)
    length = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return torch.where(length == 0, 0.0, scaled / torch.where(length == 0, 1.0, length))


def extent_scale(points: Float[Tensor, "... N D"]) -> Float[Tensor, "... 1 1"]:
    """The power of two just above the extent of each cloud or mesh, for scaling the differences of its points."""
    if points.numel() == 0:
        return points.new_ones([1] * points.ndim)
    low, high = points.detach().aminmax(dim=-2, keepdim=True)
    return binary_scale(high - low)
