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
from lib.estimation.implicit_gradients import differentiable_minimum
from lib.estimation.pose import solve_weak_perspective
from lib.geometry.alignment import center
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

    With w_i summing to 1, they minimise Σ_i w_i ‖u_i − π(T_i + Σ_m c_m mode_mi)‖² / σ² + ridge · ‖c‖². The first term
    is the share of the spread σ² = Σ_i w_i ‖u_i − ū‖² that is left unexplained, so that a small picture of an animal
    gives the same shape as a large one.
    """
    P = camera.scale[:, None, None] * camera.rotation[:, :2] / _spread(points_2d, weights).sqrt()[:, None, None]
    missing = (points_2d - camera.translation[:, None]) / _spread(points_2d, weights).sqrt()[:, None, None]
    missing = missing - template @ P.mT
    moves = torch.einsum("bij,mvj->bmvi", P, modes)
    weighted = weights[:, None, :, None] * moves
    normal = torch.einsum("bmvi,bnvi->bmn", weighted, moves) + ridge * torch.eye(
        len(modes), dtype=modes.dtype, device=modes.device
    )
    right = torch.einsum("bmvi,bvi->bm", weighted, missing)
    return torch.linalg.solve_ex(normal, right).result  # positive definite, for the ridge is positive


def solve_pose_and_shape(
    template: Float[Tensor, "V 3"],
    modes: Float[Tensor, "M V 3"],
    points_2d: Float[Tensor, "B V 2"],
    weights: Float[Tensor, "B V"],
    *,
    ridge: float = 1e-3,
    alternations: int = 4,
    iterations: int = 100,
    tolerance: float = 1e-2,
) -> PoseAndShape:
    """Find camera and coefficients for image points of all vertices, with gradients to points, weights and modes.

    Alternates `alternations` times, then takes up to `iterations` steps of L-BFGS on all unknowns together, because
    alternating slows down near the optimum. Gradients come from the implicit function theorem at that optimum.

    ridge: see `solve_coefficients`; it keeps the shape at the template where the points say nothing. An item that is
    not solved is flagged, and harms no other.

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
    with torch.no_grad():
        for _ in range(alternations):
            pose = solve_weak_perspective(shapes, points_2d, weights, tolerance=tolerance)
            visible = torch.where(pose.solved[:, None], weights, 0)
            points = torch.where(visible[..., None] > 0, points_2d, 0)
            coefficients = solve_coefficients(template, modes, pose.camera, points, visible, ridge)
            shapes = template + torch.einsum("bm,mvx->bvx", coefficients, modes)
    # An item that is not solved sees its own template instead, which is easy to fit, and has no gradient.
    solved, camera = pose.solved, pose.camera
    used = solved[:, None] & (weights > 0)
    points = torch.where(used[..., None], points_2d, camera.project(shapes)[..., :2])
    weights = torch.where(solved[:, None], weights, 1 / len(template))
    # In double precision, and with the shift in units of the points' spread, so that the unknowns are alike.
    dtype, count = points.dtype, len(modes)
    rotation, scale, translation = camera.rotation.double(), camera.scale.double(), camera.translation.double()
    unit = _spread(points, weights).detach().double().sqrt()
    base = template.double()

    # Unknowns: a turn, the shift, the logarithm of the scale's growth, the coefficients.
    def parts(x: Tensor, modes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        turn, shift, growth, c = x.split([3, 2, 1, count], -1)
        verts = base + torch.einsum("bm,mvx->bvx", c, modes)
        return (
            axis_angle_to_matrix(turn) @ rotation,
            translation + unit[:, None] * shift,
            scale * growth[:, 0].exp(),
            c,
            verts,
        )

    def cost(x: Tensor, modes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        R, shift, s, c, verts = parts(x, modes)
        seen = s[:, None, None] * (verts @ R[:, :2].mT) + shift[:, None]
        return _error(seen, points, weights) / _spread(points, weights) + ridge * c.square().sum(-1)

    x = torch.cat([torch.zeros(len(scale), 6).to(rotation), coefficients.double()], 1)
    options = dict(iterations=iterations, flat=1e-6, tolerance=tolerance, singular="flag")
    optimum = differentiable_minimum(cost, x, modes.double(), points.double(), weights.double(), **options)
    solved = solved & optimum.converged
    R, shift, s, c, verts = (part.to(dtype) for part in parts(optimum.x, modes.double()))
    vector = torch.cat([s[:, None], shift, matrix_to_quaternion(R)], -1)
    found = WeakPerspective.from_vector(torch.where(solved[:, None], vector, pose.camera.to_vector()))
    verts = torch.where(solved[:, None, None], verts, template)
    error = _error(found.project(verts)[..., :2], points, weights).detach()
    return PoseAndShape(found, torch.where(solved[:, None], c, 0), verts, torch.where(solved, error, 0), solved)


def _spread(points: Tensor, weights: Tensor) -> Tensor:
    _, centred = center(points, weights)
    return (weights * centred.square().sum(-1)).sum(-1).clamp(min=torch.finfo(points.dtype).tiny)


def _error(seen: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    return (weights * (seen - points).square().sum(-1)).sum(-1)
