"""Cameras and mean shape from keypoints alone: factorisation, metric upgrade, bundle adjustment.

Every frame sees the same K points of one rigid shape under weak perspective, u = s (R X)_xy + t, some of them
hidden. From pictures of different animals of one kind, this finds the mean shape. No method can know from
orthographic pictures the frame and scale of the world, nor whether all depths are reversed: X → M X and R → M R M
with M = diag(1, 1, −1) leave every picture unchanged. `canonical_frame` decides both with a little knowledge of
the object.

Sources: Tomasi and Kanade, "Shape and motion from image streams under orthography", IJCV 1992 (factorisation,
metric upgrade); Triggs et al., "Bundle adjustment: a modern synthesis", 1999 (Schur complement); Kanazawa et
al., "Learning category-specific mesh reconstruction", ECCV 2018 (its use here).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_quaternion,
    nearest_rotation,
    random_rotations,
    rotation_angle,
)


def structure_from_motion(
    points: Float[Tensor, "N K 2"],
    visible: Bool[Tensor, "N K"],
    permutation: Int[Tensor, "K"] | None = None,
) -> tuple[Float[Tensor, "K 3"], WeakPerspective]:
    """Find the shape and the cameras of N frames of K points; only the points marked visible are known.

    permutation: exchanges left and right points of a mirror-symmetric object. The mirror image of every picture,
        with the points exchanged, then serves as one more picture, which shows points that were hidden.

    Returns the points and the cameras of the N frames, computed in float64. The points have their centroid at 0 and
    a unit root-mean-square distance from it; their frame is arbitrary, and all depths may be reversed.

    Raises ValueError for fewer than 3 frames, fewer than 4 points, or a frame that shows fewer than 4 points
    or a point that fewer than 2 frames show.
    """
    points = _check_frames(points, visible)
    count, dtype = len(points), points.dtype
    points = points.double()
    if permutation is not None:
        flip = points.new_tensor([-1, 1])
        points = torch.cat([points, points[:, permutation] * flip])
        visible = torch.cat([visible, visible[:, permutation]])
    motion, _, shape = factorize(points, visible)
    upgrade = metric_upgrade(motion)
    shape = shape @ torch.linalg.inv(upgrade).T
    cameras = nearest_cameras(motion @ upgrade, points, visible, shape)
    shape, cameras = bundle_adjust(points, visible, shape, cameras)
    kept = WeakPerspective(cameras.scale[:count], cameras.translation[:count], cameras.quaternion[:count])
    return shape.to(dtype), kept.to(dtype)


def factorize(
    points: Float[Tensor, "N K 2"], visible: Bool[Tensor, "N K"]
) -> tuple[Float[Tensor, "N 2 3"], Float[Tensor, "N 2"], Float[Tensor, "K 3"]]:
    """Find the affine cameras P, t and the shape X that minimise the sum of ‖P X + t − u‖² over the visible points.

    If all points are visible this is Tomasi and Kanade's factorisation: minus its centroids, the 2N × K matrix of the
    coordinates has rank 3, and the singular value decomposition splits it. If points are missing, they are put at
    the centroid of the others first, and damped Gauss–Newton improves the result. (Random shapes as a start led to
    the same cost, in tests with up to half of the points missing.) Any invertible 3×3 matrix may still stand between
    P and X.
    """
    points = _check_frames(points, visible)
    weights = visible.to(points.dtype)
    centroids = (points * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    centred = (points - centroids[:, None]) * weights[..., None]
    _, values, directions = torch.linalg.svd(centred.transpose(1, 2).reshape(-1, points.shape[1]), full_matrices=False)
    shape = directions[:3].T * values[:3] / values[0]
    motion, translation = _affine_cameras(points, weights, shape)
    if visible.all():
        return motion, translation, shape

    def residual(state):
        motion, translation, shape = state
        return shape @ motion.mT + translation[:, None] - points

    def jacobian(state):
        motion, _, shape = state
        ones = torch.cat([shape, torch.ones_like(shape[:, :1])], -1)
        eye = torch.eye(2).to(shape)
        per_camera = torch.einsum("kp,dc->kdcp", ones, eye).flatten(-2).expand(len(motion), -1, -1, -1)
        return per_camera, motion

    def move(state, camera_step, shape_step):
        motion, translation, shape = state
        step = camera_step.unflatten(-1, (2, 4))
        return motion + step[..., :3], translation + step[..., 3], shape + shape_step

    return _levenberg_marquardt((motion, translation, shape), weights, residual, jacobian, move)


def _affine_cameras(points: Tensor, weights: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Find the best affine camera of every frame for a known shape: weighted least squares, slightly damped."""
    ones = torch.cat([shape, torch.ones_like(shape[:, :1])], -1)
    normal = torch.einsum("nk,kp,kq->npq", weights, ones, ones)
    normal = normal + 1e-9 * normal.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * torch.eye(4).to(normal)
    right = torch.einsum("nk,kp,nkd->npd", weights, ones, points)
    solution = torch.linalg.solve(normal, right).mT
    return solution[..., :3], solution[..., 3]


def metric_upgrade(motion: Float[Tensor, "N 2 3"]) -> Float[Tensor, "3 3"]:
    """Find the matrix G that makes the two rows of every P G orthogonal and of equal length.

    With Q = G Gᵀ both demands on the rows p₁, p₂ of P, p₁ᵀ Q p₂ = 0 and p₁ᵀ Q p₁ = p₂ᵀ Q p₂, are linear in the six
    numbers of the symmetric Q. Solve them by least squares under ‖Q‖ = 1, then take a square root. G is unique up to
    a rotation, a reflection and its scale; here |det G| = 1.
    """
    check_tensor("motion", motion, "N 2 3", finite=True)
    rows = motion / motion.flatten(1).norm(dim=-1).clamp_min(1e-12)[:, None, None]
    first, second = rows.unbind(1)

    def products(a: Tensor, b: Tensor) -> Tensor:
        """The coefficients of the entries 00, 11, 22, 01, 02, 12 of Q in aᵀ Q b."""
        crossed = torch.stack([a[:, i] * b[:, j] + a[:, j] * b[:, i] for i, j in ((0, 1), (0, 2), (1, 2))], -1)
        return torch.cat([a * b, crossed], -1)

    equations = torch.cat([products(first, first) - products(second, second), 2 * products(first, second)])
    q = torch.linalg.svd(equations, full_matrices=False).Vh[-1]
    matrix = torch.stack([q[[0, 3, 4]], q[[3, 1, 5]], q[[4, 5, 2]]])
    values, vectors = torch.linalg.eigh(matrix * matrix.trace().sign())
    values = values.clamp_min(1e-3 * values.max())  # with noise Q may come out indefinite
    return vectors * (values / values.prod() ** (1 / 3)).sqrt()


def nearest_cameras(
    motion: Float[Tensor, "N 2 3"],
    points: Float[Tensor, "N K 2"],
    visible: Bool[Tensor, "N K"],
    shape: Float[Tensor, "K 3"],
) -> WeakPerspective:
    """Find the weak-perspective cameras nearest to affine ones: s R_xy by SVD, then the shift that fits best."""
    left, values, right = torch.linalg.svd(motion, full_matrices=False)
    rows = left @ right
    rotation = torch.cat([rows, torch.linalg.cross(rows[:, :1], rows[:, 1:])], 1)
    scale = values.mean(-1)
    weights = visible.to(points.dtype)[..., None]
    seen = scale[:, None, None] * (shape @ rows.mT)
    translation = ((points - seen) * weights).sum(1) / weights.sum(1)
    return WeakPerspective(scale, translation, matrix_to_quaternion(rotation))


def bundle_adjust(
    points: Float[Tensor, "N K 2"],
    visible: Bool[Tensor, "N K"],
    shape: Float[Tensor, "K 3"],
    cameras: WeakPerspective,
) -> tuple[Float[Tensor, "K 3"], WeakPerspective]:
    """Improve shape and cameras until Σ ‖s (R X)_xy + t − u‖² over the visible points is least, from a first guess.

    Damped Gauss–Newton over all unknowns together. The cameras' part of the normal equations is block
    diagonal, so it is eliminated first (Schur complement); 3K unknowns remain, however many frames there are.

    Returns the shape centred at 0 and of unit root-mean-square size, and the cameras that go with it.
    """
    points = _check_frames(points, visible)
    weights = visible.to(points.dtype)

    def residual(state):
        rotation, log_scale, translation, shape = state
        return log_scale.exp()[:, None, None] * (shape @ rotation[:, :2].mT) + translation[:, None] - points

    def jacobian(state):
        rotation, log_scale, _, shape = state
        scale = log_scale.exp()[:, None, None]
        return _camera_jacobian(scale * (shape @ rotation.mT)), scale * rotation[:, :2]

    def move(state, camera_step, shape_step):
        rotation, log_scale, translation, shape = state
        return *_move_cameras((rotation, log_scale, translation), camera_step), shape + shape_step

    start = (cameras.rotation, cameras.scale.log(), cameras.translation, shape)
    rotation, log_scale, translation, shape = _levenberg_marquardt(start, weights, residual, jacobian, move)
    centre = shape.mean(0)
    size = (shape - centre).square().sum(-1).mean().sqrt()
    scale = log_scale.exp()
    translation = translation + scale[:, None] * (rotation[:, :2] @ centre)
    return (shape - centre) / size, WeakPerspective(scale * size, translation, matrix_to_quaternion(rotation))


def resect(
    shape: Float[Tensor, "K 3"], points: Float[Tensor, "N K 2"], visible: Bool[Tensor, "N K"], starts: int = 12
) -> WeakPerspective:
    """Find the cameras that see a known shape at these points, frame by frame, from `starts` rotations each.

    The camera that fits the visible points best is taken. If the points lie in one plane, two cameras fit equally
    well, mirrored in depth. Then the camera is taken that puts the hidden points farther behind the visible ones.
    """
    check_tensor("shape", shape, f"{points.shape[1]} 3", finite=True)
    check_same_device(shape=shape, points=points, visible=visible)
    dtype, frames, count = points.dtype, len(points), len(shape)
    shape, points = shape.double(), torch.where(visible[..., None], points, 0).double()
    weights = visible.to(points.dtype)
    turns = random_rotations(starts, generator=torch.Generator().manual_seed(0)).to(points)

    rotation = turns.repeat(frames, 1, 1)
    weights = weights.repeat_interleave(starts, 0)
    target = points.repeat_interleave(starts, 0)
    translation = (target * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    spread = (weights * (target - translation[:, None]).square().sum(-1)).sum(1) / weights.sum(1)
    log_scale = (spread.clamp_min(1e-12).sqrt() / shape.square().sum(-1).mean().sqrt()).log()

    def residual(state):
        rotation, log_scale, translation = state
        return log_scale.exp()[:, None, None] * (shape @ rotation[:, :2].mT) + translation[:, None] - target

    state = (rotation, log_scale, translation)
    cost = (residual(state).square().sum(-1) * weights).sum(1)
    damping = torch.full_like(cost, 1e-2)
    for _ in range(30):
        jacobian = _camera_jacobian(state[1].exp()[:, None, None] * (shape @ state[0].mT))
        jacobian = (jacobian * weights[..., None, None]).flatten(1, 2)
        gradient = (jacobian.mT @ residual(state).flatten(1)[..., None]).squeeze(-1)
        step = torch.linalg.solve(_damped(jacobian.mT @ jacobian, damping), -gradient)
        moved = _move_cameras(state, step)
        moved_cost = (residual(moved).square().sum(-1) * weights).sum(1)
        better = moved_cost < cost
        state = tuple(
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in zip(moved, state, strict=True)
        )
        cost = torch.where(better, moved_cost, cost)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-9, 1e9)

    depth = (shape @ state[0][:, 2:].mT).squeeze(-1)
    hidden = 1 - weights
    behind = (depth * hidden).sum(1) / hidden.sum(1).clamp_min(1) - (depth * weights).sum(1) / weights.sum(1)
    error = (cost / weights.sum(1)).sqrt().view(frames, starts)
    error_allowed = error.amin(1, keepdim=True) + 1e-3 * spread.view(frames, starts).sqrt()
    score = torch.where(error <= error_allowed, (behind * (hidden.sum(1) > 0)).view(frames, starts), -torch.inf)
    ties = score >= score.amax(1, keepdim=True) - 1e-6 * count
    best = torch.where(ties, error, torch.inf).argmin(1) + starts * torch.arange(frames, device=points.device)
    rotation, log_scale, translation = (part[best] for part in state)
    return WeakPerspective(log_scale.exp(), translation, matrix_to_quaternion(rotation)).to(dtype)


def reflect_depth(
    shape: Float[Tensor, "K 3"], cameras: WeakPerspective
) -> tuple[Float[Tensor, "K 3"], WeakPerspective]:
    """Return the other shape and cameras that give the same pictures: M X and M R M, M = diag(1, 1, −1)."""
    flip = torch.tensor([1, 1, -1]).to(shape)
    quaternion = cameras.quaternion * torch.tensor([1, -1, -1, 1]).to(shape)
    return shape * flip, WeakPerspective(cameras.scale, cameras.translation, quaternion)


def canonical_frame(
    shape: Float[Tensor, "K 3"],
    cameras: WeakPerspective,
    visible: Bool[Tensor, "N K"],
    permutation: Int[Tensor, "K"],
    forward: tuple[int, int],
    up: tuple[int, int],
) -> tuple[Float[Tensor, "K 3"], WeakPerspective]:
    """Turn a centred shape into the course's frame: it looks along +x, y is up, its mirror plane is z = 0.

    Depths are reversed if hidden points would otherwise lie in front of visible ones. `forward` and `up` name two
    points each, (from, to), for example from tail to beak, and from belly to back. The shape is made exactly
    symmetric under `permutation` and scaled so that the cameras' mean scale is 1; the cameras change accordingly.
    """
    check_tensor("permutation", permutation, str(len(shape)), kind="integer")
    depth = cameras.project(shape[None])[..., 2] / cameras.scale[:, None]
    some_hidden = ~visible.all(1)
    if some_hidden.any():
        hidden = (~visible).to(shape.dtype)
        seen = visible.to(shape.dtype)
        behind = (depth * hidden).sum(1) / hidden.sum(1).clamp_min(1) - (depth * seen).sum(1) / seen.sum(1)
        if behind[some_hidden].mean() < 0:
            shape, cameras = reflect_depth(shape, cameras)
    across = shape - shape[permutation]
    # The two points of a pair differ only along the normal of the mirror plane.
    normal = torch.linalg.eigh(across.T @ across).eigenvectors[:, -1]
    flat = torch.eye(3).to(shape) - torch.outer(normal, normal)
    x = flat @ (shape[forward[1]] - shape[forward[0]])
    x = x / x.norm()
    y = flat @ (shape[up[1]] - shape[up[0]])
    y = y - (y @ x) * x
    y = y / y.norm()
    turn = torch.stack([x, y, torch.linalg.cross(x, y)])
    shape = shape @ turn.T
    mirror = torch.tensor([1, 1, -1]).to(shape)
    shape = (shape + shape[permutation] * mirror) / 2
    size = cameras.scale.mean()
    quaternion = matrix_to_quaternion(cameras.rotation @ turn.T)
    return shape * size, WeakPerspective(cameras.scale / size, cameras.translation, quaternion)


def common_turn(rotation: Float[Tensor, "N 3 3"], truth: Float[Tensor, "N 3 3"]) -> Float[Tensor, "3 3"]:
    """Find the one rotation Q of the world that brings all R Q nearest to the true cameras."""
    return nearest_rotation((rotation.mT @ truth).sum(0))


def camera_errors(rotation: Float[Tensor, "N 3 3"], truth: Float[Tensor, "N 3 3"]) -> tuple[Float[Tensor, "N"], bool]:
    """Angles (radians) between two sets of cameras after the best common rotation of the world, and whether the
    depths had to be reversed for it. This is the error without what no picture can tell."""
    flip = torch.diag(torch.tensor([1, 1, -1]).to(rotation))
    results = []
    for candidate in (rotation, flip @ rotation @ flip):
        results.append(rotation_angle(candidate @ common_turn(candidate, truth), truth))
    reflected = bool(results[1].mean() < results[0].mean())
    return results[reflected], reflected


def hull_on_sphere(points: Float[Tensor, "K 3"], directions: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """Deform a sphere to the convex hull of the points: find where rays in these unit directions leave the hull.

    The rays start at the centre of the points' bounding box. Coordinates are scaled so that this box is a cube;
    thus the vertices of a sphere spread evenly over a long and narrow shape. Mirror symmetries are kept.

    Raises ValueError for points that lie in one plane.
    """
    from scipy.spatial import ConvexHull, QhullError

    check_tensor("points", points, "K 3", finite=True)
    check_tensor("directions", directions, "V 3", finite=True)
    low, high = points.amin(0), points.amax(0)
    centre, extent = (low + high) / 2, (high - low) / 2
    if not (extent > 1e-6 * extent.max()).all():
        raise ValueError("points lie in one plane and have no hull; give points off it")
    try:
        hull = ConvexHull(((points - centre) / extent).double().cpu().numpy())
    except QhullError:
        raise ValueError("points lie in one plane and have no hull; give points off it") from None
    equations = torch.from_numpy(np.unique(hull.equations.round(9), axis=0)).to(points)
    slopes = directions @ equations[:, :3].T
    distances = torch.where(slopes > 1e-9, -equations[:, 3] / slopes.clamp_min(1e-9), torch.inf)
    return centre + extent * directions * distances.amin(1, keepdim=True)


def _camera_jacobian(seen: Float[Tensor, "N K 3"]) -> Float[Tensor, "N K 2 6"]:
    """The derivative of (s R X + t)_xy by a small rotation ω (R ← exp(ω) R), by log s, and by t; `seen` is s R X."""
    x, y, z = seen.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = ((zero, z, -y, x, one, zero), (-z, zero, x, y, zero, one))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _move_cameras(state: tuple[Tensor, Tensor, Tensor], step: Float[Tensor, "N 6"]) -> tuple[Tensor, Tensor, Tensor]:
    rotation, log_scale, translation = state
    return axis_angle_to_matrix(step[:, :3]) @ rotation, log_scale + step[:, 3], translation + step[:, 4:]


def _damped(matrix: Float[Tensor, "... P P"], damping: float | Float[Tensor, "N"]) -> Float[Tensor, "... P P"]:
    """Levenberg's damping: a multiple of the identity, in units of the matrix's own mean diagonal."""
    size = matrix.shape[-1]
    unit = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    return matrix + (damping * unit)[..., None, None] * torch.eye(size).to(matrix)


def _levenberg_marquardt(
    state: tuple[Tensor, ...],
    weights: Float[Tensor, "N K"],
    residual: Callable[[tuple], Float[Tensor, "N K 2"]],
    jacobian: Callable[[tuple], tuple[Float[Tensor, "N K 2 C"], Float[Tensor, "N 2 3"]]],
    move: Callable[[tuple, Tensor, Tensor], tuple],
    steps: int = 200,
) -> tuple[Tensor, ...]:
    """Minimise Σ w ‖residual‖² over N cameras and K points; every step eliminates the cameras first."""
    count = weights.shape[1]
    cost = float((residual(state).square().sum(-1) * weights).sum())
    damping, still = 1e-3, 0
    for _ in range(steps):
        per_camera, per_point = jacobian(state)
        error = residual(state)
        weighted = per_camera * weights[..., None, None]
        camera_block = _damped(torch.einsum("nkdc,nkde->nce", weighted, per_camera), damping)
        camera_side = torch.einsum("nkdc,nkd->nc", weighted, error)
        mixed = torch.einsum("nkdc,ndp->nckp", weighted, per_point).flatten(2)
        point_blocks = _damped(torch.einsum("nk,ndp,ndq->kpq", weights, per_point, per_point), damping)
        point_side = torch.einsum("nk,ndp,nkd->kp", weights, per_point, error).flatten()
        solved = torch.linalg.solve(camera_block, torch.cat([mixed, camera_side[..., None]], -1))
        schur = torch.block_diag(*point_blocks) - torch.einsum("nci,ncj->ij", mixed, solved[..., :-1])
        shape_step = torch.linalg.solve(schur, torch.einsum("nci,nc->i", mixed, solved[..., -1]) - point_side)
        camera_step = -(solved[..., -1] + solved[..., :-1] @ shape_step)
        moved = move(state, camera_step, shape_step.view(count, 3))
        moved_cost = float((residual(moved).square().sum(-1) * weights).sum())
        if moved_cost < cost:
            still = still + 1 if moved_cost > (1 - 1e-7) * cost else 0
            state, cost, damping = moved, moved_cost, max(damping / 5, 1e-10)
        else:
            damping *= 5
        if still >= 3 or damping > 1e6 or cost < 1e-24:
            break
    return state


def _check_frames(points: Tensor, visible: Tensor) -> Tensor:
    """Return the points, with 0 for the hidden ones."""
    check_tensor("points", points, "N K 2")
    check_tensor("visible", visible, f"{points.shape[0]} {points.shape[1]}", kind="bool")
    check_same_device(points=points, visible=visible)
    if not torch.isfinite(points[visible]).all():
        raise ValueError("points has NaN or infinite entries where visible; mark them as not visible")
    frames, count = visible.shape
    if frames < 3 or count < 4:
        raise ValueError(f"points must have at least 3 frames of 4 points, got {frames} of {count}")
    fewest = int(visible.sum(1).min())
    if fewest < 4:
        raise ValueError(f"visible leaves a frame with {fewest} points, 4 are needed; drop such frames")
    if int(visible.sum(0).min()) < 2:
        raise ValueError("visible leaves a point that fewer than 2 frames show; drop that point")
    return torch.where(visible[..., None], points, 0)
