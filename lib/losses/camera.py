"""Regression of a weak-perspective camera towards a given one."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_same_device, check_tensor


def camera_loss(pred: Float[Tensor, "B 7"], target: Float[Tensor, "B 7"]) -> Float[Tensor, ""]:
    """1 − |⟨q, q'⟩| plus the mean squared error of scale and shift, for vectors [s, t_x, t_y, q].

    q and −q are one rotation, hence the absolute value; 1 − |⟨q, q'⟩| = 1 − cos(θ/2) for the angle θ between the two
    rotations. The quaternions need not have unit length. Source: Kanazawa et al., ECCV 2018, the release's loss.
    """
    check_tensor("pred", pred, "B 7")
    check_tensor("target", target, f"{len(pred)} 7")
    check_same_device(pred=pred, target=target)
    cosine = F.cosine_similarity(pred[:, 3:], target[:, 3:], dim=-1)
    return (1 - cosine.abs()).mean() + (pred[:, :3] - target[:, :3]).square().mean()
