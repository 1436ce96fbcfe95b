"""Camera and shape from correspondences: alternate between the two, each with a solution of its own.

The shape is V = T + Σ_m c_m mode_m. For a given shape the camera is a pose from points (`pose`); for a given camera the
coefficients c are a ridge regression, in closed form. Source: Kokkinos & Kokkinos, "To The Point", NeurIPS 2021,
section 3; both solutions here weigh the points by their visibility, and the scale is solved for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor, number, whole_number
from lib.estimation.implicit_gradients import attach_gradients
from lib.estimation.lbfgs import minimize_lbfgs
from lib.estimation.pose import solve_weak_perspective
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import axis_angle_to_matrix, matrix_to_quaternion


class PoseAndShape(NamedTuple):
    """Cameras, coefficients (B, M), vertices (B, V, 3), errors Σ w ‖u − û‖² / Σ w (B,), detached, and solved (B,).

    An item that is not solved (see `pose.solve_weak_perspective`) has the template and no gradient.
    """

    camera: WeakPerspective
    coefficients: Float[Tensor, "B M"]
    verts: Float[Tensor, "B V 3"]
    error: Float[Tensor, "B"]
    solved: Bool[Tensor, "B"]


def solve_coefficients(
    template: Float[Tensor, "V 3"],
    modes: Float[Tensor, "M V 3"],
    camera: WeakPerspective,
    points_2d: Float[Tensor, "B V 2"],
    weights: Float[Tensor, "B V"],
    ridge: float,
) -> Float[Tensor, "B M"]:
    """Find the coefficients that fit the points best under known cameras, by ridge regression.

    With w_i summing to 1, they minimise Σ_i w_i ‖u_i − π(T_i + Σ_m c_m mode_mi)‖² / s² + ridge · ‖c‖²; the error is
    counted in world units, so that a small picture of an animal gives the same shape as a large one.
    """
    P = camera.rotation[:, :2]
    scale = camera.scale[:, None, None]
    missing = (points_2d - camera.translation[:, None]) / scale - template @ P.mT
    moves = torch.einsum("bij,mvj->bmvi", P, modes)
    weighted = weights[:, None, :, None] * moves
    normal = torch.einsum("bmvi,bnvi->bmn", weighted, moves) + ridge * torch.eye(len(modes)).to(modes)
    right = torch.einsum("bmvi,bvi->bm", weighted, missing)
    return torch.linalg.solve(normal, right)


def solve_pose_and_shape(
    template: Float[Tensor, "V 3"],
    modes: Float[Tensor, "M V 3"],
    points_2d: Float[Tensor, "B V 2"],
    weights: Float[Tensor, "B V"],
    *,
    ridge: float = 1e-3,
    alternations: int = 4,
    iterations: int = 10,
    tolerance: float = 1e-2,
) -> PoseAndShape:
    """Find camera and coefficients for image points of all vertices, with gradients to points, weights and modes.

    Alternates `alternations` times, then takes `iterations` steps of L-BFGS on all unknowns together, because
    alternating slows down near the optimum. Gradients come from the implicit function theorem at that optimum.

    ridge: how much a coefficient of 1 costs, in squared world units; it keeps the shape at the template where the
    points say nothing. An item that is not solved is flagged, and harms no other.

    Raises ValueError for a ridge that is not positive: coefficients that no point sees would be undetermined.
    """
    check_tensor("template", template, "V 3", finite=True)
    check_tensor("modes", modes, f"M {len(template)} 3", finite=True)
    check_tensor("points_2d", points_2d, f"B {len(template)} 2")
    check_tensor("weights", weights, f"{len(points_2d)} {len(template)}", kind="any")
    check_same_device(template=template, modes=modes, points_2d=points_2d, weights=weights)
    alternations = whole_number("alternations", alternations)
    if number("ridge", ridge) <= 0:
        raise ValueError(f"ridge must be positive, got {ridge}; take 1e-3")
    total = weights.sum(-1, keepdim=True)
    weights = weights / torch.where(total > 0, total, 1)
    shapes = template.expand(len(points_2d), -1, -1)
    coefficients = points_2d.new_zeros(len(points_2d), len(modes))
    with torch.no_grad():
        for _ in range(alternations):
            pose = solve_weak_perspective(shapes, points_2d, weights, tolerance=tolerance)
            visible = torch.where(pose.solved[:, None], weights, 0)
            safe = torch.where(visible[..., None] > 0, points_2d, 0)
            coefficients = solve_coefficients(template, modes, pose.camera, safe, visible, ridge)
            shapes = template + torch.einsum("bm,mvx->bvx", coefficients, modes)
    camera, count = pose.camera, len(modes)
    rotation, scale = camera.rotation, camera.scale
    spread = scale.square()

    def parts(x: Tensor, modes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        turn, shift, growth, c = x.split([3, 2, 1, count], -1)
        verts = template + torch.einsum("bm,mvx->bvx", c, modes)
        return axis_angle_to_matrix(turn) @ rotation, shift, scale * growth[:, 0].exp(), verts

    def cost(x: Tensor, modes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        R, shift, s, verts = parts(x, modes)
        seen = s[:, None, None] * (verts @ R[:, :2].mT) + shift[:, None]
        error = (weights * (seen - points).square().sum(-1)).sum(-1) / spread
        return error + ridge * x[:, 6:].square().sum(-1)

    # An item that is not solved has no points; its own cost keeps it where it is.
    x = torch.cat(
        [torch.zeros_like(rotation[:, 0]), camera.translation, torch.zeros_like(scale)[:, None], coefficients], 1
    )
    free = visible.detach()
    x, _ = minimize_lbfgs(lambda x: cost(x, modes.detach(), safe, free), x, iterations=iterations, tolerance=1e-6)
    gone = ~pose.solved
    visible = torch.where(gone[:, None], 1 / weights.shape[1], weights)
    points = torch.where((visible[..., None] > 0) & ~gone[:, None, None], points_2d, camera.project(shapes)[..., :2])
    optimum = attach_gradients(cost, x, modes, points, visible, tolerance=tolerance)
    solved = pose.solved & optimum.converged
    R, shift, s, verts = parts(optimum.x, modes)
    vector = torch.cat([s[:, None], shift, matrix_to_quaternion(R)], -1)
    vector = torch.where(solved[:, None], vector, vector.detach())
    c = torch.where(solved[:, None], optimum.x[:, 6:], 0)
    found = WeakPerspective.from_vector(vector)
    verts = torch.where(solved[:, None, None], verts, template)
    error = (weights * (found.project(verts)[..., :2] - points).square().sum(-1)).sum(-1).detach()
    return PoseAndShape(found, c, verts, torch.where(solved, error, 0), solved)
