"""Losses on keypoints of a category, and on the camera that they determine.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction", ECCV 2018, section 3.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_same_device, check_tensor
from lib.geometry.rotations import quaternion_to_matrix
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


def visible_distance(
    pred: Float[Tensor, "B K 2"], target: Float[Tensor, "B K 2"], visible: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Mean distance of the visible points; the hidden ones do not count. 0 if none is visible.

    Not squared: in doubt between two places its minimum is the likelier one, a squared distance's is in between.
    """
    check_tensor("pred", pred, "B K 2")
    check_tensor("target", target, f"{len(pred)} {pred.shape[1]} 2")
    check_tensor("visible", visible, f"{len(pred)} {pred.shape[1]}", kind="bool")
    check_same_device(pred=pred, target=target, visible=visible)
    gap = pred - torch.where(visible[..., None], target, pred.detach())
    return gap.norm(dim=-1).sum() / visible.sum().clamp(min=1)


def assignment_entropy(assignment: Float[Tensor, "K V"]) -> Float[Tensor, ""]:
    """Mean entropy (in nats) of the rows of A, each a distribution over the vertices.

    It is ln V for a keypoint that may be any vertex, and 0 for one that is a single vertex.
    """
    check_tensor("assignment", assignment, "K V")
    return torch.special.entr(assignment).sum(-1).mean()


def camera_loss(
    pred: Float[Tensor, "B 7"], target: Float[Tensor, "B 7"], rotation: str = "quaternion"
) -> Float[Tensor, ""]:
    """Difference of two rotations plus the mean squared error of scale and shift, for vectors [s, t_x, t_y, q].

    With θ for the angle between the two rotations, the difference is

    - "quaternion": 1 − |⟨q, q'⟩| = 1 − cos(θ/2), about θ²/8, the loss of the paper's code. A squared error answers
      doubt between two rotations with one halfway between them.
    - "chordal": ‖R − R'‖_F / 2 = √2 sin(θ/2), about 0.7 θ. It grows evenly, so it answers doubt with one of the two.

    q and −q are the same rotation, and quaternions need not have unit length. Sources: Kanazawa et al., ECCV 2018; for
    the chordal distance, Hartley et al., "Rotation averaging", IJCV 2013, section 4.

    Raises ValueError for another name of a rotation's difference.
    """
    check_tensor("pred", pred, "B 7")
    check_tensor("target", target, f"{len(pred)} 7")
    check_same_device(pred=pred, target=target)
    quaternions = [values[:, 3:] / binary_scale(values[:, 3:]) for values in (pred, target)]
    if rotation == "quaternion":
        difference = 1 - F.cosine_similarity(*quaternions, dim=-1).abs()
    elif rotation == "chordal":
        R, Q = (quaternion_to_matrix(quaternion) for quaternion in quaternions)
        difference = (R - Q).flatten(1).norm(dim=-1) / 2
    else:
        raise ValueError(f'rotation={rotation!r} is unknown; use "quaternion" or "chordal"')
    return difference.mean() + (pred[:, :3] - target[:, :3]).square().mean()
