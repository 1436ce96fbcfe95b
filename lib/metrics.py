"""Metrics: measures of results, one definition each, with its source. None of them is a loss; none is squared.

Every table that quotes a metric tells the camera, the mask and the split that it was measured with.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.checks import check_alike, check_broadcast, check_same_device, check_tensor, number
from lib.geometry import rotations
from lib.geometry.alignment import procrustes
from lib.geometry.pointsets import diameter, knn_points
from lib.geometry.vectors import binary_scale


def iou(pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], threshold: float = 0.5) -> Float[Tensor, "B"]:
    """Intersection over union of two masks, both cut at `threshold` first: |pred ∩ target| / |pred ∪ target| in [0, 1].

    A pixel is inside if its value is above the threshold (Everingham et al., "The PASCAL Visual Object Classes
    Challenge", 2010). Two empty masks have 1. Never put it into one column with `soft_iou`.

    Raises ValueError for shapes that differ or non-finite masks.
    """
    _check_pair("pred", pred, "target", target, "B H W")
    threshold = number("threshold", threshold)
    inside, wanted = pred > threshold, target > threshold
    union = (inside | wanted).sum((-2, -1))
    return torch.where(union > 0, (inside & wanted).sum((-2, -1)) / union.clamp(min=1), 1.0).to(pred.dtype)


def soft_iou(pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    """Intersection over union of masks in [0, 1] that are not thresholded: Σ p t / Σ (p + t − p t).

    Source: Kato et al., "Neural 3D Mesh Renderer", 2018; CMR's code evaluates it in this form. A blurred mask has a
    lower value than the same mask after thresholding, so never put it into one column with `iou`. Two empty masks
    have 1.

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

    Source: Kanazawa et al., "Learning Category-Specific Mesh Reconstruction", 2018, after Yang and Ramanan, 2013.
    `size` is the longer side of the object's box, in the points' unit (tell the box's padding when you quote it);
    alpha is 0.1 or 0.15. For each keypoint take the share over the images that show it; then average over the
    keypoints. A keypoint that no image shows is left out.

    Raises ValueError for shapes that do not fit, non-finite points, sizes or alpha not above 0, or when
    nothing at all is visible.
    """
    _check_pair("pred", pred, "target", target, "B K 2")
    check_tensor("visible", visible, f"{pred.shape[0]} {pred.shape[1]}", kind="bool")
    check_tensor("size", size, str(pred.shape[0]), finite=True)
    check_same_device(pred=pred, visible=visible, size=size)
    if not number("alpha", alpha) > 0 or not (size > 0).all():
        raise ValueError(f"alpha and size must be above 0, got alpha={alpha}, size from {float(size.min()):.3g}")
    if not visible.any():
        raise ValueError("visible has no keypoint in any image; check the data set's visibility flags")
    correct = ((pred - target).norm(dim=-1) < alpha * size[:, None]) & visible
    shown = visible.sum(0)
    return (correct.sum(0)[shown > 0] / shown[shown > 0]).mean().to(pred.dtype)


def rotation_error(pred: Float[Tensor, "... 3 3"], target: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """Angle in degrees, 0 to 180, of the rotation that takes one matrix to the other: ‖log(predᵀ target)‖ (geodesic).

    Source: Tulsiani and Malik, "Viewpoints and Keypoints", 2015, among others.
    """
    check_tensor("pred", pred, "... 3 3")
    check_tensor("target", target, "... 3 3")
    check_alike(pred=pred, target=target)
    check_broadcast(2, pred=pred, target=target)
    return torch.rad2deg(rotations.rotation_angle(pred, target))


def angular_error(pred: Float[Tensor, "... 3"], target: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """Angle in degrees, 0 to 180, between two directions or normals of any length above zero.

    It is atan2(‖p × t‖, p · t), which keeps its digits at 0° and 180°, whereas arccos loses half of them
    (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, sec. 12).

    Raises ValueError for shapes that differ, non-finite entries, or a vector of length zero.
    """
    _check_pair("pred", pred, "target", target, "... 3")
    for name, vectors in (("pred", pred), ("target", target)):
        if not vectors.any(-1).all():
            raise ValueError(f"{name} has vectors of length zero, which have no direction; mask them out first")
    pred, target = pred / binary_scale(pred), target / binary_scale(target)
    across = torch.linalg.cross(pred, target).norm(dim=-1)
    return torch.rad2deg(torch.atan2(across, (pred * target).sum(-1)))


def surface_error(pred: Float[Tensor, "B N 3"], target: Float[Tensor, "B M 3"]) -> Float[Tensor, "B"]:
    """Chamfer distance in 3D, *not* squared, in percent of the target's diameter.

    100 / diameter · ½ (mean over p of minₜ ‖p − t‖ + mean over t of minₚ ‖p − t‖), where the diameter is the largest
    distance between two points of the target. Use it for points sampled evenly from the two surfaces
    (`sample_surface`). Its least value with N points on each is about the spacing of the points, never 0. So compare
    only numbers taken with equal N. (The losses' `chamfer_distance` is squared.)

    Raises ValueError for empty clouds, shapes that do not fit, non-finite points, or a target of no extent.
    """
    check_tensor("pred", pred, "B N 3", kind="real", finite=True)
    check_tensor("target", target, f"{len(pred)} M 3", kind="real", finite=True)
    check_alike(pred=pred, target=target)
    forth = knn_points(pred, target).dists[..., 0].sqrt().mean(-1)
    back = knn_points(target, pred).dists[..., 0].sqrt().mean(-1)
    extent = diameter(target)
    if not (extent > 0).all():
        raise ValueError("target must have an extent, but all points of a cloud coincide; check the sampling")
    return 100 * (forth + back) / 2 / extent


def aligned_surface_error(
    pred: Float[Tensor, "B N 3"],
    target: Float[Tensor, "B M 3"],
    pred_landmarks: Float[Tensor, "B K 3"],
    target_landmarks: Float[Tensor, "B K 3"],
) -> Float[Tensor, "B"]:
    """`surface_error` after the best similarity between corresponding landmarks, so that only the shape counts.

    Scale s, proper rotation R and translation t minimise Σₖ ‖s R aₖ + t − bₖ‖² (Umeyama, "Least-Squares
    Estimation of Transformation Parameters", 1991, eq. 40-42). `pred` is transformed by them before it is measured.
    Landmarks are the keypoints of both shapes, or the points themselves if these correspond. A reflected
    prediction is *not* mirrored back: it keeps its error.

    Raises ValueError as `surface_error` does, or for fewer than three landmarks, or landmarks that coincide.
    """
    _check_pair("pred_landmarks", pred_landmarks, "target_landmarks", target_landmarks, "B K 3")
    check_tensor("pred", pred, "B N 3", finite=True)
    check_tensor("pred", pred, f"{len(pred_landmarks)} N 3", kind="real", finite=True)
    check_tensor("target", target, f"{len(pred_landmarks)} M 3", kind="real", finite=True)
    check_alike(pred=pred, target=target, pred_landmarks=pred_landmarks)
    if pred_landmarks.shape[1] < 3:
        raise ValueError(f"landmarks must be at least three, got {pred_landmarks.shape[1]}; add keypoints")
    if bool((pred_landmarks == pred_landmarks[:, :1]).all((1, 2)).any()):
        raise ValueError("pred_landmarks must not coincide, or no scale can be found; the prediction has collapsed")
    rotation, translation, scale = procrustes(pred_landmarks, target_landmarks, with_scale=True)
    aligned = scale[:, None, None] * pred @ rotation.mT + translation[:, None]
    return surface_error(aligned, target)


def side(
    pred: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], mask: Float[Tensor, "B H W"]
) -> Float[Tensor, "B"]:
    """Scale-invariant depth error of each picture: the standard deviation of Δ = log pred − log target on the mask.

    √(mean Δ² − (mean Δ)²), after Eigen, Puhrsch and Fergus, 2014, as Wu, Rupprecht and Vedaldi, CVPR 2020, use it.
    They quote it × 10⁻² (so multiply by 100), and erode the mask by one pixel first. A common factor of the depth
    costs nothing, a common offset does.

    Raises ValueError for shapes that differ, depths not above 0 on the mask, or a picture whose mask is empty.
    """
    _check_masked(pred, target, mask, "B H W")
    inside = mask > 0
    if not ((pred > 0) & (target > 0) | ~inside).all():
        raise ValueError("pred and target must be depths above 0 on the mask; a negative depth has no logarithm")
    ratio = torch.where(inside, pred / torch.where(inside, target, 1.0), 1.0).log()
    count = mask.sum((-2, -1))
    mean = (mask * ratio).sum((-2, -1)) / count
    return ((mask * (ratio - mean[:, None, None]).square()).sum((-2, -1)) / count).sqrt()


def mean_angle_deviation(
    pred: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B H W"]
) -> Float[Tensor, "B"]:
    """MAD of each picture: the mean angle in degrees between two maps of normals, on the mask.

    Wu, Rupprecht and Vedaldi, CVPR 2020, compute both maps of normals from depth maps, by the same differences.

    Raises ValueError for shapes that differ, a normal of length zero on the mask, or a picture whose mask is empty.
    """
    _check_masked(pred, target, mask, "B 3 H W")
    inside = (mask > 0)[..., None]
    anything = pred.new_tensor([0.0, 0.0, 1.0])
    angle = angular_error(*(torch.where(inside, normals.movedim(1, -1), anything) for normals in (pred, target)))
    return (mask * angle).sum((-2, -1)) / mask.sum((-2, -1))


def standard_error_3d(points: Float[Tensor, "B N 3"], group: Int[Tensor, "B"], size: float = 1.0) -> Float[Tensor, ""]:
    """Measure how far latent keypoints wander over an object as the view changes (3D-SE); 0 is best.

    points: keypoints of each view, turned back to the object's frame. group: the object that each view shows. For each
    object and keypoint: the root of the mean squared distance, over the views, to their mean place; then the mean of
    all, over `size`. (The KeypointNet paper does not define its 3D-SE; its objects have the size 2, so size=0.5 puts
    objects of size 1 on its scale.)

    Raises ValueError if no object has two views.
    """
    check_tensor("points", points, "B N 3")
    check_tensor("group", group, f"{len(points)}", kind="integer")
    if not number("size", size) > 0:
        raise ValueError(f"size must be above 0, got {size}")
    spreads = []
    for which in group.unique():
        views = points[group == which]
        if len(views) > 1:
            spreads.append((views - views.mean(0)).square().sum(-1).mean(0).sqrt())
    if not spreads:
        raise ValueError("group has no object with two views; give several views of each")
    return torch.stack(spreads).mean() / size


def keypoint_spread(points: Float[Tensor, "B N 3"], seed: int = 0) -> Float[Tensor, ""]:
    """Measure how far keypoints wander from instance to instance, as a share of what mixed-up names would give.

    points: keypoints of B instances in the object's frame. The root of the mean squared distance of each keypoint to
    its mean place, over the same after the keypoints of every instance were permuted at random. 1: a keypoint has no
    place of its own; 0: it is at the same place on every instance. nan if all keypoints lie in one place.
    """
    check_tensor("points", points, "B N 3")
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(points.shape[:2], generator=generator).argsort(1).to(points.device)
    mixed = points.gather(1, order[..., None].expand_as(points))
    own, other = ((x - x.mean(0)).square().sum(-1).mean().sqrt() for x in (points, mixed))
    return own / other


def own_relief(
    pred: Float[Tensor, "N H W"], target: Float[Tensor, "N H W"], mask: Bool[Tensor, "H W"]
) -> tuple[float, float]:
    """Measure what depth maps know of each object besides the mean of all: correlation with the truth, relative size.

    On the pixels of the mask each map's own mean is subtracted, because a picture does not tell the distance; then the
    mean of all N maps. Pearson's correlation of what remains, over pixels and objects, is the first number. Size: the
    rest's standard deviation as a share of the true one's. One map for everybody has 0 and 0; the truth has 1 and 1;
    the truth of other people has 0 and 1.

    Raises ValueError for shapes that differ, an empty mask, fewer than two maps, or truths that are all alike.
    """
    _check_pair("pred", pred, "target", target, "N H W")
    check_tensor("mask", mask, " ".join(map(str, pred.shape[1:])), kind="bool")
    check_same_device(pred=pred, mask=mask)
    if len(pred) < 2 or not mask.any():
        raise ValueError("own_relief needs two depth maps and a pixel of the mask at least; take more pictures")
    own, true = (maps[:, mask].double() for maps in (pred, target))
    own, true = (maps - maps.mean(1, keepdim=True) for maps in (own, true))
    own, true = own - own.mean(0), true - true.mean(0)
    if not float(true.abs().max()) > 1e-9:
        raise ValueError("target has one depth map for everybody; there is nothing of one's own to find")
    size = float(own.square().mean().sqrt() / true.square().mean().sqrt())
    if size < 1e-6:  # rounding, where all maps are one
        return 0.0, 0.0
    return float((own * true).mean() / (own.square().mean() * true.square().mean()).sqrt()), size


def keypoint_depth_correlation(
    pred: Float[Tensor, "N K"], target: Float[Tensor, "N K"], visible: Bool[Tensor, "N K"]
) -> Float[Tensor, "K"]:
    """Pearson's correlation of predicted and true depth, over the pictures that show it, for each of K keypoints.

    First the mean over its visible keypoints is subtracted from each picture's depths, because a single picture does
    not tell the distance. Moniz et al., "DepthNets", NeurIPS 2018, and after them Wu, Rupprecht and Vedaldi, CVPR 2020,
    quote the sum over the 66 keypoints of 3DFAW (at most 66).

    Raises ValueError for shapes that differ, or a keypoint that fewer than three pictures show.
    """
    _check_pair("pred", pred, "target", target, "N K")
    check_tensor("visible", visible, f"{pred.shape[0]} {pred.shape[1]}", kind="bool")
    check_same_device(pred=pred, visible=visible)
    if int(visible.sum(0).min()) < 3:
        raise ValueError("visible shows a keypoint in fewer than three pictures; leave it out, or take more pictures")
    weight = visible.to(pred.dtype)

    def centered(values: Tensor) -> Tensor:
        values = values - (weight * values).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        return weight * (values - (weight * values).sum(0) / weight.sum(0))

    a, b = centered(pred), centered(target)
    return (a * b).sum(0) / (a.square().sum(0) * b.square().sum(0)).sqrt().clamp(min=torch.finfo(pred.dtype).tiny)


def _check_masked(pred: Tensor, target: Tensor, mask: Tensor, shape: str) -> None:
    _check_pair("pred", pred, "target", target, shape)
    height, width = pred.shape[-2:]
    check_tensor("mask", mask, f"{len(pred)} {height} {width}", finite=True)
    check_same_device(pred=pred, mask=mask)
    if not mask.flatten(1).any(1).all():
        empty = int((~mask.flatten(1).any(1)).nonzero()[0])
        raise ValueError(f"mask is empty for picture {empty}; a surface that left the picture cannot be judged")


def _check_pair(name1: str, first: Tensor, name2: str, second: Tensor, shape: str) -> None:
    check_tensor(name1, first, shape, finite=True)
    check_tensor(name2, second, shape, finite=True)
    check_alike(**{name1: first, name2: second})
    if first.shape != second.shape:
        raise ValueError(f"{name2} must have the shape of {name1}, got {tuple(second.shape)} and {tuple(first.shape)}")
