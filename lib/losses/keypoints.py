"""Losses on keypoints of a category, and on the camera that they determine.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction", ECCV 2018, section 3.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_same_device, check_tensor
from lib.geometry.vectors import binary_scale


def keypoint_loss(
    pred: Float[Tensor, "B K 2"], target: Float[Tensor, "B K 2"], visible: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Mean squared distance per coordinate in the image plane; hidden points add 0, but count in the mean.

    So a picture that shows few points has less weight than one that shows all, as in the paper's code.
    """
    check_tensor("pred", pred, "B K 2")
    check_tensor("target", target, f"{len(pred)} {pred.shape[1]} 2")
    check_tensor("visible", visible, f"{len(pred)} {pred.shape[1]}", kind="bool")
    check_same_device(pred=pred, target=target, visible=visible)
    # A hidden point is compared with itself, not left out: a prediction that is NaN shall be seen.
    return (pred - torch.where(visible[..., None], target, pred.detach())).square().mean()


def assignment_entropy(assignment: Float[Tensor, "K V"]) -> Float[Tensor, ""]:
    """Mean entropy (in nats) of the rows of A, each a distribution over the vertices.

    It is ln V for a keypoint that may be any vertex, and 0 for one that is a single vertex.
    """
    check_tensor("assignment", assignment, "K V")
    return torch.special.entr(assignment).sum(-1).mean()


def camera_loss(pred: Float[Tensor, "B 7"], target: Float[Tensor, "B 7"]) -> Float[Tensor, ""]:
    """1 − |⟨q, q'⟩| plus the mean squared error of scale and shift, for vectors [s, t_x, t_y, q].

    The absolute value makes q and −q equal, because they are the same rotation. 1 − |⟨q, q'⟩| = 1 − cos(θ/2) for the
    angle θ between the two rotations. The quaternions need not have unit length. Source: Kanazawa et al., ECCV 2018,
    the loss of the paper's code.
    """
    check_tensor("pred", pred, "B 7")
    check_tensor("target", target, f"{len(pred)} 7")
    check_same_device(pred=pred, target=target)
    quaternions = (values[:, 3:] / binary_scale(values[:, 3:]) for values in (pred, target))
    cosine = F.cosine_similarity(*quaternions, dim=-1)
    return (1 - cosine.abs()).mean() + (pred[:, :3] - target[:, :3]).square().mean()
