"""Pose from points: cameras from points in an image.

Weights (B, N) are 0 or more, or a mask of visible points. A point of weight 0 may hold any value, even NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.estimation.implicit_gradients import differentiable_minimum
from lib.estimation.lbfgs import minimize_lbfgs
from lib.geometry.alignment import center, prepare_correspondences
from lib.geometry.cameras import Pinhole, WeakPerspective
from lib.geometry.rotations import axis_angle_to_matrix, matrix_to_quaternion, nearest_rotation

# Below this ratio of their smallest to their largest spread, points count as lying in a plane.
_FLAT = 1e-3


def weak_perspective_pose(
    points_3d: Float[Tensor, "B N 3"],
    points_2d: Float[Tensor, "B N 2"],
    weights: Float[Tensor, "B N"] | Bool[Tensor, "B N"] | None = None,
) -> WeakPerspective:
    """Find the camera that projects `points_3d` (world) to `points_2d` (image plane), in closed form.

    First fit any 2×3 matrix P by least squares, u ≈ P X + t; then take the scaled rotation nearest to P, by SVD.
    Exact without noise; with noise, near the optimum that `refine_weak_perspective` finds.

    Raises ValueError for points of positive weight that lie in a plane (fewer than 4 always do), because their
    camera is ambiguous, and for image points that coincide.
    """
    points_3d, points_2d, weights = _correspondences(points_3d, points_2d, weights)
    camera, flat, coincide = _closed_form(points_3d, points_2d, weights)
    if flat.any():
        reason = f"points_3d[{int(flat.nonzero()[0])}] lie in a plane, which leaves two cameras open"
        raise ValueError(f"{reason}; give 4 or more points of positive weight that do not")
    if coincide.any():
        raise ValueError("points_2d has an item whose points coincide, which leaves the camera open; leave it out")
    return camera


class Solution(NamedTuple):
    """Cameras; their errors Σ w ‖u − û‖² / Σ w (B,), detached; solved (B,): whether the points determine the camera.

    An item that is not solved has the camera (scale 1, no shift, no turn), the error 0 and no gradient.
    """

    camera: WeakPerspective
    error: Float[Tensor, "B"]
    solved: Bool[Tensor, "B"]


def solve_weak_perspective(
    points_3d: Float[Tensor, "B N 3"],
    points_2d: Float[Tensor, "B N 2"],
    weights: Float[Tensor, "B N"] | Bool[Tensor, "B N"] | None = None,
    *,
    refine: bool = True,
    iterations: int = 30,
    tolerance: float = 1e-2,
) -> Solution:
    """Find the cameras that project `points_3d` (world) to `points_2d` (image plane), item by item, with gradients.

    The closed form is the start, and L-BFGS minimises the weighted squared error from there, over rotation, shift and
    scale. Gradients reach points and weights by the implicit function theorem (`implicit_gradients`), unless
    refine=False: then they go through the closed form.

    An item whose points do not determine a camera (none visible, fewer than four, all in a plane or in one place, or
    an optimum that is not reached to `tolerance`: radians, and for shift and log-scale the same number) is flagged in
    `solved`, and harms no other item.
    """
    check_tensor("points_3d", points_3d, "B N 3")
    check_tensor("points_2d", points_2d, "B N 2")
    if weights is None:
        weights = points_3d.new_ones(points_3d.shape[:2])
    check_tensor("weights", weights, f"{len(points_3d)} {points_3d.shape[1]}", kind="any")
    used = weights > 0
    broken = ~(torch.where(used[..., None], torch.cat([points_3d, points_2d], -1), 0).isfinite().all(-1)).all(-1)
    empty = (used.sum(-1) == 0) | broken
    # Items without points would stop the others: points of any value take their place, until they are flagged.
    stand_in = torch.eye(4, 3).to(points_3d).repeat(-(-points_3d.shape[1] // 4), 1)[: points_3d.shape[1]]
    points_3d = torch.where(empty[:, None, None], stand_in, points_3d)
    points_2d = torch.where(empty[:, None, None], stand_in[:, :2], points_2d)
    weights = torch.where(empty[:, None], 1, weights.to(points_3d.dtype))
    points_3d, points_2d, weights = _correspondences(points_3d, points_2d, weights)
    camera, flat, coincide = _closed_form(points_3d, points_2d, weights)
    solved = ~(empty | flat | coincide)
    if refine:
        camera, converged = _refined(camera, solved, points_3d, points_2d, weights, iterations, tolerance)
        solved = solved & converged
    rest = torch.eye(2, 7).to(points_3d)[:1] + torch.eye(4, 7).to(points_3d)[3:]
    camera = WeakPerspective.from_vector(torch.where(solved[:, None], camera.to_vector(), rest))
    error = _mean_square(camera.project(points_3d)[..., :2] - points_2d, weights).detach()
    return Solution(camera, torch.where(solved, error, 0), solved)


def _refined(
    start: WeakPerspective,
    solved: Tensor,
    points_3d: Tensor,
    points_2d: Tensor,
    weights: Tensor,
    iterations: int,
    tolerance: float,
) -> tuple[WeakPerspective, Tensor]:
    """The optimum near a camera, with implicit gradients, and which items have reached it.

    The squared error depends on the points by their weighted means and second moments only:
    E = s² tr(P S Pᵀ) − 2 s tr(P Cᵀ) + const, where P is the first two rows of R, S = Σ w X Xᵀ and C = Σ w u Xᵀ of
    centred points. (The best shift is ū − s P X̄.) So a step of the search costs the same for 10 points and for
    10 000, and the few sums can be taken in double precision.
    """
    mean_3d, X = center(points_3d, weights)
    mean_2d, u = center(points_2d, weights)
    weighted = (weights[..., None] * X).double()
    S, C = weighted.mT @ X.double(), u.double().mT @ weighted
    spread = (weights * u.square().sum(-1)).sum(-1).double().detach()
    rotation, scale = start.rotation.detach().double(), start.scale.detach().double()
    # Sums that are easy to solve take the place of those that say nothing.
    S = torch.where(solved[:, None, None], S, torch.eye(3).to(S))
    C = torch.where(solved[:, None, None], C, rotation[:, :2])
    spread, scale = torch.where(solved, spread, 1), torch.where(solved, scale, 1)

    # Unknowns: a turn, and the logarithm of the scale's growth.
    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        return axis_angle_to_matrix(x[:, :3]) @ rotation, scale * x[:, 3].exp()

    def error(x: Tensor, S: Tensor, C: Tensor) -> Tensor:
        R, s = parts(x)
        P = R[:, :2]
        return (s * s * (P @ S * P).sum((-1, -2)) - 2 * s * (P * C).sum((-1, -2)) + spread) / spread

    x = rotation.new_zeros(len(rotation), 4)
    optimum = differentiable_minimum(
        error, x, S, C, iterations=iterations, flat=1e-6, tolerance=tolerance, singular="flag"
    )
    R, s = (part.to(points_3d.dtype) for part in parts(optimum.x))
    shift = mean_2d - s[:, None] * (R[:, :2] @ mean_3d[..., None]).squeeze(-1)
    return WeakPerspective(s, shift, matrix_to_quaternion(R)), optimum.converged


def _closed_form(points_3d: Tensor, points_2d: Tensor, weights: Tensor) -> tuple[WeakPerspective, Tensor, Tensor]:
    """The camera, and which items have 3D points in a plane, and image points in one place; theirs is any camera."""
    mean_3d, X = center(points_3d, weights)
    mean_2d, u = center(points_2d, weights)
    covariance = X.mT @ (weights[..., None] * X)
    spreads = torch.linalg.eigvalsh(covariance.detach()).clamp(min=0).sqrt()
    flat = spreads[:, 0] <= _FLAT * spreads[:, 2]
    eye = torch.eye(3).to(covariance)
    covariance = torch.where(flat[:, None, None], eye, covariance)
    A = torch.linalg.solve(covariance, X.mT @ (weights[..., None] * u)).mT
    A = torch.where(flat[:, None, None], eye[:2], A)
    # The third row is the cross product, at right angles to the first two: it does not change their nearest rotation.
    normal = torch.linalg.cross(A[:, 0], A[:, 1])[:, None]
    rounding = 10 * torch.finfo(u.dtype).eps
    coincide = u.detach().norm(dim=-1).amax(-1) <= rounding * points_2d.detach().norm(dim=-1).amax(-1)
    R = nearest_rotation(torch.where(coincide[:, None, None], eye, torch.cat([A, normal], 1)))
    scale = (R[:, :2] * A).sum((-1, -2)) / 2
    coincide = coincide | ~(scale > 0).detach()
    scale = torch.where(coincide, 1, scale)
    translation = mean_2d - scale[:, None] * (R[:, :2] @ mean_3d[..., None]).squeeze(-1)
    return WeakPerspective(scale, translation, matrix_to_quaternion(R)), flat, coincide


def refine_weak_perspective(
    start: WeakPerspective,
    points_3d: Float[Tensor, "B N 3"],
    points_2d: Float[Tensor, "B N 2"],
    weights: Float[Tensor, "B N"] | Bool[Tensor, "B N"] | None = None,
    *,
    with_scale: bool = True,
    iterations: int = 100,
) -> tuple[WeakPerspective, Float[Tensor, "B"]]:
    """Descend from `start` to a local minimum of the mean weighted squared reprojection error, by L-BFGS.

    Returns the camera, detached, and its error Σ w ‖u − û‖² / Σ w per item. `with_scale=False` keeps the
    scale of `start`. Every item is optimised by itself; its result depends on its start.
    """
    points_3d, points_2d, weights = (part.detach() for part in _correspondences(points_3d, points_2d, weights))
    if len(start) != len(points_3d):
        raise ValueError(f"start has batch {len(start)}, points_3d {len(points_3d)}; give every item its own start")
    rotation, start_scale = start.rotation.detach(), start.scale.detach()

    # Unknowns: a turn, the translation, and the logarithm of the scale's growth.
    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turn, translation, growth = x.split([3, 2, 1], -1)
        scale = start_scale * growth[:, 0].exp() if with_scale else start_scale
        return axis_angle_to_matrix(turn) @ rotation, translation, scale

    def objective(x: Tensor) -> Tensor:
        R, translation, scale = parts(x)
        projected = scale[:, None, None] * (points_3d @ R[:, :2].mT) + translation[:, None]
        return _mean_square(projected - points_2d, weights)

    x = torch.cat([torch.zeros_like(rotation[:, 0]), start.translation, torch.zeros_like(start_scale)[:, None]], -1)
    x, error = minimize_lbfgs(objective, x, iterations=iterations)
    R, translation, scale = parts(x)
    return WeakPerspective(scale, translation, matrix_to_quaternion(R)), error


def pnp(
    points_3d: Float[Tensor, "B N 3"],
    points_2d: Float[Tensor, "B N 2"],
    focal: Float[Tensor, "B"],
    weights: Float[Tensor, "B N"] | Bool[Tensor, "B N"] | None = None,
    *,
    iterations: int = 100,
) -> tuple[Pinhole, Float[Tensor, "B"]]:
    """Find the pinhole camera of known focal length that projects `points_3d` to `points_2d`, by L-BFGS.

    (This task is called "perspective n-point".) The start is the weak-perspective camera in closed form, at the
    distance focal / scale. Returns the camera, detached, and its error Σ w ‖u − û‖² / Σ w per item.

    Raises ValueError for points in a plane, as `weak_perspective_pose` does.
    """
    check_tensor("focal", focal, "B")
    if not (focal > 0).all():
        raise ValueError(f"focal must be positive, got {focal.min().item():.4g}; use 1 / tan(field of view / 2)")
    start = weak_perspective_pose(points_3d, points_2d, weights)
    points_3d, points_2d, weights = (part.detach() for part in _correspondences(points_3d, points_2d, weights))
    check_same_device(points_3d=points_3d, focal=focal)
    if len(focal) != len(points_3d):
        raise ValueError(f"focal has batch {len(focal)}, points_3d {len(points_3d)}; repeat it with .expand")
    focal, rotation = focal.detach(), start.rotation.detach()
    mean_3d, X = center(points_3d, weights)
    X = X * (weights > 0)[..., None]

    # Unknowns: a turn, the direction of the points' mean, and the logarithm of its depth.
    def parts(x: Tensor) -> tuple[Tensor, Tensor]:
        turn, direction, log_depth = x.split([3, 2, 1], -1)
        depth = log_depth.exp()
        return axis_angle_to_matrix(turn) @ rotation, torch.cat([direction * depth, depth], -1)

    def objective(x: Tensor) -> Tensor:
        R, mean = parts(x)
        in_camera = X @ R.mT + mean[:, None]
        z = in_camera[..., 2:]
        error = _mean_square(focal[:, None, None] * in_camera[..., :2] / z - points_2d, weights)
        return torch.where((z > 0).all(1).squeeze(-1), error, torch.inf)

    nearest = -(X @ rotation[:, 2:].mT).amin((1, 2))
    depth = torch.maximum(focal / start.scale.detach(), 1.1 * nearest)
    direction = (weights[..., None] * points_2d).sum(1) / focal[:, None]
    x = torch.cat([torch.zeros_like(mean_3d), direction, depth.log()[:, None]], -1)
    x, error = minimize_lbfgs(objective, x, iterations=iterations)
    R, mean = parts(x)
    return Pinhole(focal, R, mean - (R @ mean_3d[..., None]).squeeze(-1)), error


def _correspondences(points_3d: Tensor, points_2d: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    check_tensor("points_3d", points_3d, "B N 3")
    check_tensor("points_2d", points_2d, "B N 2")
    return prepare_correspondences(weights, points_3d=points_3d, points_2d=points_2d)


def _mean_square(residual: Tensor, weights: Tensor) -> Tensor:
    return (weights * residual.square().sum(-1)).sum(-1)
