"""What results are judged by: one definition each, with its source. None of these is a loss; none is squared.

Every table that quotes one of them says which camera, which mask and which split it was measured with.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.geometry import rotations
from lib.geometry.pointsets import knn_points


def iou(pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], threshold: float = 0.5) -> Float[Tensor, "B"]:
    """Intersection over union of two masks, both cut at `threshold` first: |P ∩ T| / |P ∪ T| in [0, 1].

    A pixel is inside where its value is above the threshold (Everingham et al., "The PASCAL Visual Object
    Classes Challenge", 2010). Two empty masks agree: 1.
    Never in one column with `soft_iou`.

    Raises ValueError for shapes that differ or non-finite masks.
    """
    _check_pair("pred", pred, "target", target, "B H W")
    inside, wanted = pred > threshold, target > threshold
    union = (inside | wanted).sum((-2, -1))
    return torch.where(union > 0, (inside & wanted).sum((-2, -1)) / union.clamp(min=1), 1.0).to(pred.dtype)


def soft_iou(pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    """Intersection over union of masks in [0, 1] that are not thresholded: Σ p t / Σ (p + t − p t).

    The form of Kato et al., "Neural 3D Mesh Renderer", 2018, as CMR's release evaluates it. A blurred
    mask scores below its thresholded self, so it is never in one column with `iou`. Two empty masks: 1.

    Raises ValueError for shapes that differ or non-finite masks.
    """
    _check_pair("pred", pred, "target", target, "B H W")
    shared = (pred * target).sum((-2, -1))
    union = (pred + target).sum((-2, -1)) - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(pred.dtype).tiny), 1.0)


def pck(
    pred: Float[Tensor, "B K 2"],
    target: Float[Tensor, "B K 2"],
    visible: Bool[Tensor, "B K"],
    alpha: float,
    size: Float[Tensor, "B"],
) -> Float[Tensor, ""]:
    """Percentage of correct keypoints, as a share in [0, 1]: visible keypoints closer than alpha · size.

    As CMR counts (Kanazawa et al., "Learning Category-Specific Mesh Reconstruction", 2018, after Yang
    and Ramanan, 2013): `size` is the longer side of the object's padded bounding box, in the unit of the points,
    alpha is 0.1 or 0.15, and the share is taken per keypoint over the images that show it, then averaged over
    the keypoints. A keypoint that no image shows is left out.

    Raises ValueError for shapes that do not fit, non-finite points, sizes or alpha not above 0, or when
    nothing at all is visible.
    """
    _check_pair("pred", pred, "target", target, "B K 2")
    check_tensor("visible", visible, f"{pred.shape[0]} {pred.shape[1]}", kind="bool")
    check_tensor("size", size, str(pred.shape[0]), finite=True)
    check_same_device(pred=pred, visible=visible, size=size)
    if not alpha > 0 or not (size > 0).all():
        raise ValueError(f"alpha and size must be above 0, got alpha={alpha}, size from {float(size.min()):.3g}")
    if not visible.any():
        raise ValueError("visible has no keypoint in any image; check the data set's visibility flags")
    correct = ((pred - target).norm(dim=-1) < alpha * size[:, None]) & visible
    shown = visible.sum(0)
    return (correct.sum(0)[shown > 0] / shown[shown > 0]).mean().to(pred.dtype)


def rotation_error(pred: Float[Tensor, "... 3 3"], target: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """Angle in degrees, 0 to 180, of the rotation that takes one matrix to the other: ‖log(PᵀT)‖ (geodesic).

    E.g. Tulsiani and Malik, "Viewpoints and Keypoints", 2015.
    """
    return torch.rad2deg(rotations.rotation_angle(pred, target))


def angular_error(pred: Float[Tensor, "... 3"], target: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """Angle in degrees, 0 to 180, between two directions or normals of any length above zero.

    atan2(‖p × t‖, p · t), which keeps its digits at 0° and 180° where arccos loses half of them
    (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, sec. 12).

    Raises ValueError for shapes that differ, non-finite entries, or a vector of length zero.
    """
    _check_pair("pred", pred, "target", target, "... 3")
    for name, vectors in (("pred", pred), ("target", target)):
        if not vectors.any(-1).all():
            raise ValueError(f"{name} has vectors of length zero, which have no direction; mask them out first")
    across = torch.linalg.cross(pred, target).norm(dim=-1)
    return torch.rad2deg(torch.atan2(across, (pred * target).sum(-1)))


def surface_error(pred: Float[Tensor, "B N 3"], target: Float[Tensor, "B M 3"]) -> Float[Tensor, "B"]:
    """Chamfer distance in 3D, *not* squared, in percent of the target's diameter.

    100 / diameter(T) · ½ (mean over p of minₜ ‖p − t‖ + mean over t of minₚ ‖p − t‖), the diameter being the
    largest distance between two points of the target. For points drawn evenly from the two surfaces
    (`sample_surface`); with N points on each it bottoms out at the spacing of the sample, never at 0, so
    compare only numbers taken with equal N. The losses' `chamfer_distance` is squared.

    Raises ValueError for empty clouds, shapes that do not fit, non-finite points, or a target of no extent.
    """
    forth = knn_points(pred, target).dists[..., 0].sqrt().mean(-1)
    back = knn_points(target, pred).dists[..., 0].sqrt().mean(-1)
    diameter = torch.cdist(target, target, compute_mode="donot_use_mm_for_euclid_dist").flatten(1).amax(-1)
    if not (diameter > 0).all():
        raise ValueError("target must have an extent, but all points of a cloud coincide; check the sampling")
    return 100 * (forth + back) / 2 / diameter


def aligned_surface_error(
    pred: Float[Tensor, "B N 3"],
    target: Float[Tensor, "B M 3"],
    pred_landmarks: Float[Tensor, "B K 3"],
    target_landmarks: Float[Tensor, "B K 3"],
) -> Float[Tensor, "B"]:
    """`surface_error` after the best similarity between corresponding landmarks: what remains is shape.

    Scale s, proper rotation R and translation t minimise Σₖ ‖s R aₖ + t − bₖ‖² (Umeyama, "Least-Squares
    Estimation of Transformation Parameters", 1991, eq. 40-42); they carry `pred` over before it is measured.
    Landmarks are the keypoints of both shapes, or the points themselves where these correspond. A reflected
    prediction is *not* mirrored back: it keeps its error.

    Raises ValueError as `surface_error` does, or for fewer than three landmarks, or landmarks that coincide.
    """
    _check_pair("pred_landmarks", pred_landmarks, "target_landmarks", target_landmarks, "B K 3")
    check_tensor("pred", pred, "B N 3", finite=True)
    check_same_device(pred=pred, pred_landmarks=pred_landmarks)
    if pred_landmarks.shape[1] < 3:
        raise ValueError(f"landmarks must be at least three, got {pred_landmarks.shape[1]}; add keypoints")
    center, goal = pred_landmarks.mean(1, keepdim=True), target_landmarks.mean(1, keepdim=True)
    a, b = pred_landmarks - center, target_landmarks - goal
    spread = a.square().sum((-2, -1))
    if not (spread > 0).all():
        raise ValueError("pred_landmarks must not coincide, or no scale can be found; the prediction has collapsed")
    covariance = b.mT @ a
    rotation = rotations.nearest_rotation(covariance)
    scale = (rotation * covariance).sum((-2, -1)) / spread
    return surface_error(scale[:, None, None] * (pred - center) @ rotation.mT + goal, target)


def _check_pair(name1: str, first: Tensor, name2: str, second: Tensor, shape: str) -> None:
    check_tensor(name1, first, shape, finite=True)
    check_tensor(name2, second, shape, finite=True)
    check_same_device(**{name1: first, name2: second})
    if first.shape != second.shape:
        raise ValueError(f"{name2} must have the shape of {name1}, got {tuple(second.shape)} and {tuple(first.shape)}")
