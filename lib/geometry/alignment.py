"""Alignment of point sets with known correspondence: Procrustes.

Weights (B, N) are 0 or more, or a mask of visible points. A point of weight 0 may hold any value, even NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor, require
from lib.geometry.rotations import nearest_rotation
from lib.geometry.vectors import binary_scale


def procrustes(
    source: Float[Tensor, "B N 3"],
    target: Float[Tensor, "B N 3"],
    weights: Float[Tensor, "B N"] | Bool[Tensor, "B N"] | None = None,
    with_scale: bool = False,
    allow_reflection: bool = False,
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"], Float[Tensor, "B"]]:
    """Find the R, t, s with the least Σ w ‖s R source + t − target‖²; s = 1 unless `with_scale`.

    Sources: Kabsch 1976; with scale Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", PAMI 1991. R is a rotation even if a reflection would fit better, which happens often for thin
    or noisy point sets; `allow_reflection` lets R be any orthogonal matrix. If the points do not determine R (all
    on a line, or one point), R is one of the best, and gradients stay finite.

    Raises ValueError for weights that are negative or all zero, or a scale asked of coinciding points.
    """
    check_tensor("source", source, "B N 3")
    check_tensor("target", target, "B N 3")
    source, target, weights = prepare_correspondences(weights, source=source, target=target)
    source_mean, source = center(source, weights)
    target_mean, target = center(target, weights)
    # Powers of two, so that squares of very small or large coordinates do not leave the range of the type.
    source_scale, target_scale = binary_scale(source, (-2, -1)), binary_scale(target, (-2, -1))
    source, target = source / source_scale, target / target_scale
    covariance = target.mT @ (weights[..., None] * source)
    R = nearest_rotation(covariance, allow_reflection=allow_reflection)
    s = torch.ones_like(weights[:, 0])
    if with_scale:
        spread = (weights * source.square().sum(-1)).sum(-1)
        if not (spread > 0).all():
            raise ValueError("source has an item whose points coincide, which leaves the scale open; spread them")
        s = (R * covariance).sum((-1, -2)) / spread * (target_scale / source_scale)[:, 0, 0]
    t = target_mean - s[:, None] * (R @ source_mean[..., None]).squeeze(-1)
    return R, t, s


def prepare_correspondences(weights: Tensor | None, **points: Tensor) -> tuple[Tensor, ...]:
    """Return the points, with those of weight 0 set to 0, and weights that sum to 1 per item."""
    (first_name, first), (second_name, second) = points.items()
    given = weights is not None
    weights = weights if given else first.new_ones(first.shape[:2])
    check_tensor("weights", weights, "B N", kind="any")
    check_same_device(**points, weights=weights)
    if not first.shape[:2] == second.shape[:2] == weights.shape:
        shapes = f"{tuple(first.shape)}, {tuple(second.shape)} and weights {tuple(weights.shape)}"
        raise ValueError(f"{first_name} and {second_name} must have the same B and N, got {shapes}; pair them up")
    if first.dtype != second.dtype:
        raise TypeError(f"{first_name} is {first.dtype}, {second_name} {second.dtype}; convert one with .to")
    weights = weights.to(first.dtype)
    total = weights.sum(-1, keepdim=True)
    if given or not weights.shape[1]:
        known = weights.detach()
        require(known.isfinite(), "weights has NaN or infinite entries; leave a point out with weight 0")
        somewhere = (known >= 0).all(-1) & (known > 0).any(-1)
        require(somewhere, "weights must be 0 or more, and positive somewhere in every item; drop items without points")
    used = (weights > 0)[..., None]
    points = {name: torch.where(used, value, torch.zeros_like(value)) for name, value in points.items()}
    for name, value in points.items():
        require(value.detach().isfinite(), f"{name} has NaN or infinite entries; give such points weight 0")
    return *points.values(), weights / total


def center(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean (B, D), and the points minus this mean."""
    mean = (weights[..., None] * points).sum(1)
    return mean, points - mean[:, None]
