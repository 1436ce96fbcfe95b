"""Losses on silhouettes: between two masks, and between vertices and a mask's distance map and boundary."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import metrics
from lib.checks import check_alike, check_tensor
from lib.geometry.image_plane import sample_image
from lib.geometry.pointsets import chamfer_distance
from lib.remembered import constant


def mask_loss(pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], p: int = 2) -> Float[Tensor, ""]:
    """Mean over pixels of |pred − target|^p: p = 2 in CMR (Kanazawa et al., 2018), p = 1 in Kokkinos et al., 2021.

    Raises ValueError for shapes that differ, or p other than 1 and 2.
    """
    _check_masks(pred, target)
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p}")
    difference = (pred - target).abs()
    return (difference if p == 1 else difference.square()).mean()


def iou_loss(pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """1 − the mean soft intersection over union (Kato et al., 2018); small and large objects count equally."""
    _check_masks(pred, target)
    return 1 - metrics.soft_iou(pred, target).mean()


def distance_loss(points: Float[Tensor, "B N 2"], distances: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean distance of projected vertices from the object: vertices outside are pulled in; inside it is 0.

    distances: the result of `image_plane.foreground_distance`. Outside of the image, the way back into it is added.
    Source: the first term of the boundary loss of Kokkinos & Kokkinos, CVPR 2021 ("edt" in their code), as a mean.
    """
    check_tensor("points", points, "B N 2")
    check_tensor("distances", distances, f"{len(points)} H W")
    check_alike(points=points, distances=distances)
    # The map is constant between the centres of the outermost pixels and the border: add the way back there, too.
    limit = 1 - 1 / constant(points, distances.shape[2], distances.shape[1])
    within = torch.maximum(torch.minimum(points, limit), -limit)
    sampled = sample_image(distances[:, None], within[:, None])
    beyond = (points - within).square().sum(-1)
    # `beyond > 0` would be false for NaN and hide that a model has diverged.
    beyond = torch.where(beyond == 0, 0.0, torch.where(beyond == 0, 1.0, beyond).sqrt())
    return (sampled[:, 0, 0] + beyond).mean()


def boundary_loss(
    points: Float[Tensor, "B N 2"], boundary: Float[Tensor, "B M 2"], lengths: Int[Tensor, "B"] | None = None
) -> Float[Tensor, ""]:
    """Mean over the boundary's points of the squared distance to the nearest projected vertex: limbs are pulled out.

    boundary, lengths: the result of `image_plane.boundary_points`; without lengths all points count.
    Source: the second term of the boundary loss of Kokkinos & Kokkinos, CVPR 2021 ("bdt" in their code), as a mean.
    """
    check_tensor("points", points, "B N 2", kind="real", finite=True)
    check_tensor("boundary", boundary, f"{len(points)} M 2", kind="real", finite=True)
    check_alike(points=points, boundary=boundary)
    return chamfer_distance(boundary, points, lengths, single_directional=True)


def _check_masks(pred: Tensor, target: Tensor) -> None:
    check_tensor("pred", pred, "B H W")
    check_tensor("target", target, " ".join(map(str, pred.shape)))
    check_alike(pred=pred, target=target)
