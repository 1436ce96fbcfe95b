"""Losses of keypoints that nobody named: two views must agree on them, and they must tell how the camera moved.

Source: Suwajanakorn, Snavely, Tompson, Norouzi, "Discovery of latent 3D keypoints via end-to-end geometric reasoning"
(KeypointNet), NeurIPS 2018, section 3. Points are (x, y, z) in a camera's frame; (x, y) alone are in the image plane.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lib.checks import check_alike, check_same_device, check_tensor, number, require
from lib.geometry.alignment import procrustes
from lib.geometry.image_plane import pixel_centers
from lib.geometry.rotations import rotation_angle


def consistency_loss(
    seen: Float[Tensor, "B N 2"],
    points: Float[Tensor, "B N 3"],
    other_seen: Float[Tensor, "B N 2"],
    other_points: Float[Tensor, "B N 3"],
    rotation: Float[Tensor, "B 3 3"],
    translation: Float[Tensor, "B 3"],
    focal: Float[Tensor, "B"],
    other_focal: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over keypoints, and over both directions, of the squared distance in the image plane between where a view
    sees a keypoint and where the other view's keypoint in space projects to.

    rotation, translation: the true motion, x' = R x + t, from the first camera's frame to the other's. other_focal: of
    the other camera, by default the same.

    It is also small for keypoints that all lie in one place on the axis of the motion: small is not good.

    Raises ValueError for a keypoint that comes to lie behind a camera.
    """
    batch, count = _check_points(points, other_points)
    other_focal = focal if other_focal is None else other_focal
    for name, value, shape in (
        ("seen", seen, f"{batch} {count} 2"),
        ("other_seen", other_seen, f"{batch} {count} 2"),
        ("rotation", rotation, f"{batch} 3 3"),
        ("translation", translation, f"{batch} 3"),
        ("focal", focal, f"{batch}"),
        ("other_focal", other_focal, f"{batch}"),
    ):
        check_tensor(name, value, shape)
    check_same_device(points=points, rotation=rotation, seen=seen)
    there = points @ rotation.mT + translation[:, None]
    back = (other_points - translation[:, None]) @ rotation
    error = (_project(there, other_focal) - other_seen).square() + (_project(back, focal) - seen).square()
    return error.sum(-1).mean() / 2


def relative_rotation(points: Float[Tensor, "B N 3"], other_points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B 3 3"]:
    """Compute the rotation R that takes the first view's keypoints to the other's, x' ≈ R x + t, by Procrustes.

    Differentiable; where the points do not determine R, the gradient along the open turns is 0.
    """
    _check_points(points, other_points)
    return procrustes(points, other_points)[0]


def pose_loss(
    points: Float[Tensor, "B N 3"],
    other_points: Float[Tensor, "B N 3"],
    rotation: Float[Tensor, "B 3 3"],
    noise: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean angle, in radians, between the true rotation and that of the keypoints.

    The paper writes it as 2 arcsin(‖R̂ − R‖_F / (2 √2)), whose slope is infinite at 0° and at 180°; `rotation_angle`
    is the same angle with a gradient that is finite everywhere.
    noise: standard deviation of what is added to all points in training, so that the keypoints must spread out.
    """
    batch, _ = _check_points(points, other_points)
    check_tensor("rotation", rotation, f"{batch} 3 3")
    if number("noise", noise) < 0:
        raise ValueError(f"noise must be 0 or more, got {noise}")
    if noise:
        points, other_points = (part + noise * torch.randn_like(part) for part in (points, other_points))
    return rotation_angle(relative_rotation(points, other_points), rotation).mean()


def separation_loss(points: Float[Tensor, "B N 3"], distance: float = 0.22) -> Float[Tensor, ""]:
    """Mean over pairs of different keypoints of max(0, δ² − ‖X_i − X_j‖²): no two of them within δ = `distance`.

    (The release's 0.05 is δ², and it counts each point with itself.) 0 for a single keypoint.
    """
    check_tensor("points", points, "B N 3")
    if not number("distance", distance) > 0:
        raise ValueError(f"distance must be above 0, got {distance}")
    count = points.shape[1]
    if count < 2:
        return points.sum() * 0
    first, second = torch.triu_indices(count, count, 1, device=points.device)
    square = (points[:, first] - points[:, second]).square().sum(-1)
    return (distance**2 - square).clamp_min(0).mean()


def silhouette_loss(maps: Float[Tensor, "B N H W"], mask: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean over keypoints of −log Σ b g: the probability g of each keypoint's place shall lie on the mask b."""
    _check_maps(maps)
    check_tensor("mask", mask, f"{len(maps)} {maps.shape[2]} {maps.shape[3]}")
    check_alike(maps=maps, mask=mask)
    return -(maps * mask[:, None]).sum((2, 3)).clamp_min(1e-12).log().mean()


def variance_loss(maps: Float[Tensor, "B N H W"], seen: Float[Tensor, "B N 2"]) -> Float[Tensor, ""]:
    """Mean over keypoints of Σ g ‖u − ū‖²: each keypoint shall be one place, not the mean of two.

    In squared image-plane units: a uniform map has nearly 2/3.
    """
    _check_maps(maps)
    check_tensor("seen", seen, f"{len(maps)} {maps.shape[1]} 2")
    places = pixel_centers(*maps.shape[2:], maps.device, maps.dtype)
    square = (places - seen[:, :, None, None]).square().sum(-1)
    return (maps * square).sum((2, 3)).mean()


def _project(points: Tensor, focal: Tensor) -> Tensor:
    depth = points[..., 2:]
    require(depth.detach() > 0, "points has a keypoint at or behind a camera; start with the depth of the object")
    return focal[:, None, None] * points[..., :2] / depth


def _check_points(points: Tensor, other_points: Tensor) -> tuple[int, int]:
    check_tensor("points", points, "B N 3")
    batch, count = points.shape[:2]
    check_tensor("other_points", other_points, f"{batch} {count} 3")
    check_alike(points=points, other_points=other_points)
    return batch, count


def _check_maps(maps: Tensor) -> None:
    check_tensor("maps", maps, "B N H W")
