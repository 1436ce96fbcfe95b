"""Cameras, and camera and shape, found item by item from correspondences: exact, differentiable, and flagged."""

import pytest
import torch
from torch.autograd import gradcheck

from lib.datasets.synthetic.creatures import template
from lib.estimation.pose import refine_weak_perspective, solve_weak_perspective, weak_perspective_pose
from lib.estimation.pose_and_shape import solve_coefficients, solve_pose_and_shape
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import matrix_to_quaternion, random_rotations, rotation_angle

PIXEL = 2 / 256


def scene(items=5, points=12, noise=0.0, seed=0, dtype=torch.float64):
    draws = torch.Generator().manual_seed(seed)
    X = torch.randn(items, points, 3, generator=draws, dtype=dtype) * torch.tensor([0.6, 0.4, 0.2], dtype=dtype)
    rotation = random_rotations(items, draws, dtype=dtype)
    shift = 0.1 * torch.randn(items, 2, generator=draws, dtype=dtype)
    camera = WeakPerspective(torch.linspace(0.3, 0.9, items, dtype=dtype), shift, matrix_to_quaternion(rotation))
    u = camera.project(X)[..., :2] + noise * torch.randn(items, points, 2, generator=draws, dtype=dtype)
    return X, u, camera, torch.rand(items, points, generator=draws, dtype=dtype)


def degrees(camera, other):
    return rotation_angle(camera.rotation, other.rotation).rad2deg()


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clean_points_give_their_camera(refine, dtype):
    X, u, camera, weights = scene(dtype=dtype)
    found = solve_weak_perspective(X, u, weights, refine=refine)
    assert found.solved.all()
    assert degrees(found.camera, camera).max() < (0.1 if dtype == torch.float32 else 1e-4)
    torch.testing.assert_close(found.camera.to_vector()[:, :3], camera.to_vector()[:, :3], atol=1e-4, rtol=1e-4)
    assert found.error.max() < 1e-9


def test_noisy_points_give_the_optimum_that_descending_all_six_unknowns_finds():
    X, u, _, weights = scene(noise=0.03)
    found = solve_weak_perspective(X, u, weights)
    slow, error = refine_weak_perspective(weak_perspective_pose(X, u, weights), X, u, weights, iterations=300)
    assert degrees(found.camera, slow).max() < 1e-2
    torch.testing.assert_close(found.error, error, rtol=1e-6, atol=0)
    closed = solve_weak_perspective(X, u, weights, refine=False)
    assert (found.error < closed.error).all()


@pytest.mark.parametrize("refine", [False, True])
def test_gradients_equal_finite_differences(refine):
    X, u, _, weights = scene(items=2, points=8, noise=0.03)

    def solve(X, u, weights):
        return solve_weak_perspective(X, u, weights, refine=refine, iterations=300).camera.to_vector()

    inputs = X.requires_grad_(), u.requires_grad_(), weights.requires_grad_()
    assert gradcheck(solve, inputs, eps=1e-5, atol=1e-6, rtol=1e-5)


def degenerate(X, u, weights):
    """One item each: all hidden, three seen, on a line, in one place of the picture, NaN; the sixth is good."""
    X, u, weights = X[:6].clone(), u[:6].clone(), torch.ones_like(weights[:6])
    weights[0] = 0
    weights[1, 3:] = 0
    X[2] = torch.linspace(0, 1, X.shape[1])[:, None].to(X)
    u[3] = 0.2
    u[4, 0] = torch.nan
    return X, u, weights


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_determines_no_camera_is_flagged_and_harms_no_other(refine, dtype):
    X, u, camera, weights = scene(items=6, dtype=dtype)
    inputs = [part.requires_grad_() for part in degenerate(X, u, weights)]
    found = solve_weak_perspective(*inputs, refine=refine)
    assert found.solved.tolist() == [False] * 5 + [True]
    assert degrees(found.camera, camera)[5] < 0.1
    found.camera.to_vector().square().sum().backward()
    for part in inputs:
        assert part.grad.isfinite().all()
        assert part.grad[:5].eq(0).all()
    assert inputs[1].grad[5].ne(0).any()


def smooth_modes(verts, count, size=0.1):
    waves = torch.stack([torch.sin((k + 1) * verts[:, k % 3] * 3 + k) for k in range(count)])
    return size * torch.stack([waves, waves.roll(1, 0), 0.3 * waves.flip(0)], -1)


def animals(items=4, noise=0.0, seed=1, count=4):
    horse = template("quadruped")
    verts, draws = horse.verts.double(), torch.Generator().manual_seed(seed)
    modes = smooth_modes(verts, count)
    c = 0.5 * torch.randn(items, count, generator=draws, dtype=torch.float64)
    shapes = verts + torch.einsum("bm,mvx->bvx", c, modes)
    rotation = random_rotations(items, draws, dtype=torch.float64)
    scale = torch.linspace(0.5, 0.9, items, dtype=torch.float64)
    camera = WeakPerspective(scale, torch.zeros(items, 2, dtype=torch.float64), matrix_to_quaternion(rotation))
    u = camera.project(shapes)[..., :2]
    u = u + noise * torch.randn(u.shape, generator=draws, dtype=torch.float64)
    return verts, modes, u, camera, c, torch.ones(items, len(verts), dtype=torch.float64)


def test_the_ridge_solution_is_that_of_stacked_least_squares():
    verts, modes, u, camera, _, weights = animals(noise=0.02)
    weights = weights * torch.linspace(0, 1, len(verts), dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    found = solve_coefficients(verts, modes, camera, u, weights, 1e-2)
    for b in range(len(u)):
        P, w = camera.scale[b] * camera.rotation[b, :2], weights[b]
        spread = (w[:, None] * (u[b] - w @ u[b]).square()).sum()
        root = (w / spread).sqrt()
        rows = torch.einsum("ij,mvj->vim", P, modes) * root[:, None, None]
        right = (u[b] - camera.translation[b] - verts @ P.T) * root[:, None]
        A = torch.cat([rows.flatten(0, 1), 0.1 * torch.eye(len(modes), dtype=torch.float64)])
        y = torch.cat([right.flatten(), torch.zeros(len(modes), dtype=torch.float64)])
        torch.testing.assert_close(found[b], torch.linalg.lstsq(A, y[:, None]).solution[:, 0])


def test_camera_and_shape_are_found_together():
    verts, modes, u, camera, c, weights = animals()
    found = solve_pose_and_shape(verts, modes, u, weights, ridge=1e-7, alternations=20, iterations=60)
    assert found.solved.all()
    assert degrees(found.camera, camera).max() < 2
    assert (found.verts - verts - torch.einsum("bm,mvx->bvx", c, modes)).norm(dim=-1).mean() < 0.02
    rigid = solve_weak_perspective(verts.expand(len(u), -1, -1), u, weights)
    assert (found.error < 0.05 * rigid.error).all()


def test_gradients_of_camera_and_shape_equal_finite_differences():
    verts, modes, u, _, _, _ = animals(items=1, noise=0.02, count=2)
    chosen = torch.arange(0, len(verts), 60)
    verts, modes, u = verts[chosen], modes[:, chosen], u[:, chosen]
    weights = torch.rand(u.shape[:2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def solve(modes, u, weights):
        found = solve_pose_and_shape(verts, modes, u, weights, ridge=1e-2, iterations=200)
        return torch.cat([found.camera.to_vector(), found.coefficients], 1)

    inputs = modes.requires_grad_(), u.requires_grad_(), weights.requires_grad_()
    assert gradcheck(solve, inputs, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_camera_and_shape_flag_what_is_not_determined():
    verts, modes, u, _, _, weights = animals(items=3)
    weights[0] = 0
    u[1] = torch.nan
    inputs = modes.requires_grad_(), u.requires_grad_(), weights.requires_grad_()
    found = solve_pose_and_shape(verts, *inputs)
    assert found.solved.tolist() == [False, False, True]
    assert torch.equal(found.verts[0], verts)
    (found.verts.square().sum() + found.camera.to_vector().square().sum()).backward()
    assert all(part.grad.isfinite().all() for part in inputs)
    assert u.grad[2].ne(0).any()


def test_bad_arguments_are_named():
    verts, modes, u, _, _, weights = animals(items=2)
    with pytest.raises(ValueError, match="ridge must be positive"):
        solve_pose_and_shape(verts, modes, u, weights, ridge=0.0)
    with pytest.raises(ValueError, match="modes must"):
        solve_pose_and_shape(verts, modes[:, :10], u, weights)
