"""Exact recovery, optimality, noise, reflections, weights, gradients, the mirror identity and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck

from lib.estimation.pose import pnp, refine_weak_perspective, weak_perspective_pose
from lib.geometry.alignment import procrustes
from lib.geometry.cameras import Pinhole, WeakPerspective
from lib.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_quaternion,
    random_quaternions,
    random_rotations,
    rotation_angle,
)

DTYPES = [torch.float32, torch.float64]
examples = settings(deadline=None, derandomize=True, max_examples=25)
seeds = given(st.integers(0, 10_000))


def normal(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def body(seed: int, batch: int, points: int = 12, dtype=torch.float64) -> torch.Tensor:
    """One cloud, longer than wide as an animal is, and away from the origin, for every item."""
    X = normal(seed, points, 3) * torch.tensor([1.0, 0.6, 0.3]) + torch.tensor([0.2, 0.3, 0.1])
    return X.to(dtype).expand(batch, -1, -1)


def random_camera(seed: int, batch: int, dtype=torch.float64) -> WeakPerspective:
    quaternion = random_quaternions(batch, torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    scale = (0.3 * normal(seed + 1, batch, dtype=dtype)).exp() * 0.5
    return WeakPerspective(scale, 0.2 * normal(seed + 2, batch, 2, dtype=dtype), quaternion)


def angle(camera, other) -> torch.Tensor:
    return rotation_angle(camera.rotation, other.rotation).rad2deg()


# Procrustes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("points", [3, 4, 50])
def test_procrustes_undoes_a_similarity(points, dtype):
    X = normal(0, 6, points, 3, dtype=dtype)
    R = random_rotations(6, torch.Generator().manual_seed(0), dtype=dtype)
    t, s = normal(1, 6, 3, dtype=dtype), normal(2, 6, dtype=dtype).exp()
    close = dict(atol=3000 * torch.finfo(dtype).eps, rtol=0)
    found = procrustes(X, s[:, None, None] * X @ R.mT + t[:, None], with_scale=True)
    for got, true in zip(found, (R, t, s), strict=True):
        torch.testing.assert_close(got, true, **close)
    found_R, found_t, one = procrustes(X, X @ R.mT + t[:, None])
    torch.testing.assert_close(found_R, R, **close)
    torch.testing.assert_close(found_t, t, **close)
    assert (one == 1).all()


def test_procrustes_agrees_with_scipy_under_weights_and_noise():
    X, Y, weights = normal(0, 5, 9, 3), normal(1, 5, 9, 3), normal(2, 5, 9).exp()
    R, t, _ = procrustes(X, Y, weights)
    mean_x, mean_y = (((weights[..., None] * P).sum(1) / weights.sum(1)[:, None]) for P in (X, Y))
    for i in range(5):
        rotation, _ = Rotation.align_vectors((Y[i] - mean_y[i]).numpy(), (X[i] - mean_x[i]).numpy(), weights[i].numpy())
        torch.testing.assert_close(R[i], torch.from_numpy(rotation.as_matrix()))
    torch.testing.assert_close(t, mean_y - (R @ mean_x[..., None]).squeeze(-1))


@examples
@seeds
def test_procrustes_is_a_minimum(seed):
    X, Y, weights = normal(seed, 1, 7, 3), normal(seed + 1, 1, 7, 3), normal(seed + 2, 1, 7).exp()

    def error(R, t, s):
        return (weights[..., None] * (s[:, None, None] * X @ R.mT + t[:, None] - Y).square()).sum((1, 2))

    R, t, s = procrustes(X, Y, weights, with_scale=True)
    for i in range(5):
        turn, shift, growth = (0.05 * normal(10 * seed + i, 1, 7)).split([3, 3, 1], -1)
        elsewhere = error(axis_angle_to_matrix(turn) @ R, t + shift, s * growth[:, 0].exp())
        assert (error(R, t, s) <= elsewhere + 1e-12).all()


def test_a_reflection_is_refused_unless_allowed():
    X = normal(0, 20, 10, 3)
    mirrored = X * torch.tensor([1.0, 1, -1])
    R, _, _ = procrustes(X, mirrored)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(20, dtype=X.dtype))
    R, t, _ = procrustes(X, mirrored, allow_reflection=True)
    torch.testing.assert_close(X @ R.mT + t[:, None], mirrored)
    # thin and noisy sets ask for a reflection without being one
    thin = X * torch.tensor([1.0, 1, 0.01])
    noisy = thin + 0.1 * normal(1, 20, 10, 3)
    free, _, _ = procrustes(thin, noisy, allow_reflection=True)
    proper, _, _ = procrustes(thin, noisy)
    assert (torch.linalg.det(free) < 0).any() and (torch.linalg.det(proper) > 0).all()


def test_points_of_weight_zero_do_not_count():
    X, Y = normal(0, 3, 8, 3), normal(1, 3, 8, 3)
    visible = torch.ones(3, 8, dtype=torch.bool)
    visible[:, 5:] = False
    few = procrustes(X[:, :5], Y[:, :5], with_scale=True)
    torch.testing.assert_close(procrustes(X, Y, visible, with_scale=True), few)
    torch.testing.assert_close(procrustes(X, Y.masked_fill(~visible[..., None], math.nan), visible, True), few)
    u = Y[..., :2]
    few = weak_perspective_pose(X[:, :5], u[:, :5]).to_vector()
    hidden = u.masked_fill(~visible[..., None], math.nan)
    torch.testing.assert_close(weak_perspective_pose(X, hidden, visible).to_vector(), few)
    torch.testing.assert_close(weak_perspective_pose(X, u, 7.0 * visible).to_vector(), few)


@pytest.mark.parametrize("dtype", DTYPES)
def test_procrustes_of_degenerate_points_is_defined_with_finite_gradients(dtype):
    """All at one place, at the origin, on a line, exactly aligned, and exactly mirrored."""
    line = normal(0, 1, 5, 1, dtype=dtype) * torch.tensor([1.0, 2, 3], dtype=dtype)
    X = normal(1, 1, 5, 3, dtype=dtype)
    place = torch.tensor([0.3, -1.7, 0.4], dtype=dtype).expand(1, 5, 3)
    cases = [(place, place), (0 * X, 0 * X), (line, -line), (X, X), (X, X * torch.tensor([1, 1, -1], dtype=dtype))]
    for source, target in cases:
        source, target = source.clone().requires_grad_(), target.clone().requires_grad_()
        R, t, _ = procrustes(source, target)
        torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=dtype)[None], atol=1e-5, rtol=0)
        ((R * normal(2, 3, 3, dtype=dtype)).sum() + t.sum()).backward()
        assert torch.isfinite(source.grad).all() and torch.isfinite(target.grad).all()


@pytest.mark.parametrize("with_scale", [False, True])
def test_procrustes_gradients(with_scale):
    X, Y = normal(0, 2, 6, 3).requires_grad_(), normal(1, 2, 6, 3).requires_grad_()
    weights = normal(2, 2, 6).exp().requires_grad_()
    assert gradcheck(lambda *args: procrustes(*args, with_scale=with_scale), (X, Y, weights))
    aligned = (X.detach() @ random_rotations(1, torch.Generator().manual_seed(0), dtype=X.dtype)[0]).requires_grad_()
    assert gradcheck(lambda *args: procrustes(*args, with_scale=with_scale), (X, aligned))


# Weak perspective


@pytest.mark.parametrize("dtype", DTYPES)
def test_closed_form_recovers_the_camera(dtype):
    camera = random_camera(0, 60, dtype)
    X = body(3, 60, dtype=dtype)
    found = weak_perspective_pose(X, camera.project(X)[..., :2])
    close = dict(atol=5000 * torch.finfo(dtype).eps, rtol=0)
    torch.testing.assert_close(found.scale, camera.scale, **close)
    torch.testing.assert_close(found.translation, camera.translation, **close)
    torch.testing.assert_close(found.rotation, camera.rotation, **close)


def test_four_points_suffice_and_three_are_refused():
    camera = random_camera(0, 3)
    X = body(1, 3, points=4)
    found = weak_perspective_pose(X, camera.project(X)[..., :2])
    assert (angle(found, camera) < 1e-6).all()
    with pytest.raises(ValueError, match=r"points_3d\[0\] lie in a plane"):
        weak_perspective_pose(X[:, :3], camera.project(X)[:, :3, :2])


def test_with_noise_the_closed_form_is_close_and_refinement_is_a_minimum():
    X, camera = body(3, 60, points=16), random_camera(4, 60)
    u = camera.project(X)[..., :2] + 0.02 * normal(5, 60, 16, 2)
    start = weak_perspective_pose(X, u)
    assert (angle(start, camera) < 10).all() and angle(start, camera).median() < 3

    def error(camera):
        return (camera.project(X)[..., :2] - u).square().sum(-1).mean(-1)

    refined, value = refine_weak_perspective(start, X, u)
    torch.testing.assert_close(value, error(refined))
    assert (value <= error(start)).all() and angle(refined, camera).median() < angle(start, camera).median()
    for seed in range(6):
        turn, shift, growth = (1e-3 * normal(seed, 60, 6)).split([3, 2, 1], -1)
        elsewhere = WeakPerspective(
            refined.scale * growth[:, 0].exp(),
            refined.translation + shift,
            matrix_to_quaternion(axis_angle_to_matrix(turn) @ refined.rotation),
        )
        assert (value <= error(elsewhere) + 1e-12).all()


def test_refinement_from_random_starts_falls_into_traps_above_all_with_a_fixed_scale():
    X, camera = body(3, 60), random_camera(4, 60)
    u = camera.project(X)[..., :2]
    spread = [(P - P.mean(1, keepdim=True)).square().mean((1, 2)).sqrt() for P in (u, X)]
    start = WeakPerspective(
        spread[0] / spread[1], u.mean(1), random_quaternions(60, torch.Generator().manual_seed(9), dtype=X.dtype)
    )
    right = {}
    for with_scale in (False, True):
        found, _ = refine_weak_perspective(start, X, u, with_scale=with_scale)
        right[with_scale] = int((angle(found, camera) < 10).sum())
        if not with_scale:
            assert torch.equal(found.scale, start.scale)
    assert 10 <= right[False] < right[True]
    assert (angle(weak_perspective_pose(X, u), camera) < 1e-6).all()


def test_the_camera_of_a_mirrored_image_is_the_mirrored_camera():
    left = normal(0, 5, 3)
    X = torch.cat([left, left * torch.tensor([1, 1, -1]), normal(1, 3, 3) * torch.tensor([1, 1, 0])]).expand(20, -1, -1)
    exchange = torch.tensor([5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 10, 11, 12])
    camera = random_camera(2, 20)
    u = camera.project(X)[..., :2] + 0.05 * normal(3, 20, 13, 2)
    mirrored_u = (u * torch.tensor([-1, 1]))[:, exchange]
    found, mirrored = weak_perspective_pose(X, u), weak_perspective_pose(X, mirrored_u)
    torch.testing.assert_close(mirrored.rotation, found.mirror().rotation)
    torch.testing.assert_close(mirrored.translation, found.mirror().translation)
    torch.testing.assert_close(mirrored.scale, found.scale)
    focal = torch.full((20,), 3.0, dtype=X.dtype)
    far = Pinhole(focal, camera.rotation, torch.tensor([0.2, -0.1, 8.0], dtype=X.dtype).expand(20, 3))
    u = far.project(X)[..., :2]
    found, _ = pnp(X, (u * torch.tensor([-1, 1]))[:, exchange], focal)
    torch.testing.assert_close(found.rotation, far.mirror().rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.translation, far.mirror().translation, atol=1e-5, rtol=0)


def test_turning_the_object_turns_the_camera():
    X, u = normal(0, 4, 9, 3), normal(1, 4, 9, 2)
    Q = random_rotations(4, torch.Generator().manual_seed(0), dtype=X.dtype)
    found, turned = weak_perspective_pose(X, u), weak_perspective_pose(X @ Q.mT, u)
    # on pure noise too: the affine fit, not only the true pose, turns with the object
    torch.testing.assert_close(turned.rotation @ Q, found.rotation)
    permutation = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weak_perspective_pose(X[:, permutation], u[:, permutation]).scale, found.scale)


def test_closed_form_gradients():
    X, weights = normal(0, 2, 6, 3).requires_grad_(), normal(2, 2, 6).exp().requires_grad_()
    noisy = normal(1, 2, 6, 2).requires_grad_()
    exact = random_camera(0, 2).project(X.detach())[..., :2].requires_grad_()  # equal singular values of A
    for u in (noisy, exact):
        assert gradcheck(lambda *args: weak_perspective_pose(*args).rotation, (X, u, weights))
        assert gradcheck(lambda *args: weak_perspective_pose(*args).to_vector()[:, :3], (X, u, weights))


# PnP


def pinhole_scene(seed: int, batch: int, field_of_view: float, dtype=torch.float64):
    """The body, just inside a pinhole camera's field of view (degrees)."""
    X = body(seed, batch, points=16, dtype=dtype)
    center = X.mean(1)
    radius = (X - center[:, None]).norm(dim=-1).amax(-1)
    half = math.radians(field_of_view / 2)
    R = random_rotations(batch, torch.Generator().manual_seed(seed), dtype=dtype)
    position = torch.tensor([0.05, -0.02, 1.1 / math.sin(half)], dtype=dtype) * radius[:, None]
    translation = position - (R @ center[..., None]).squeeze(-1)
    return X, Pinhole(torch.full((batch,), 1 / math.tan(half), dtype=dtype), R, translation)


@pytest.mark.parametrize("field_of_view", [5, 40, 90, 130])
def test_pnp_recovers_the_camera(field_of_view):
    X, camera = pinhole_scene(0, 50, field_of_view)
    found, error = pnp(X, camera.project(X)[..., :2], camera.focal)
    assert (angle(found, camera) < 1e-3).all() and (error < 1e-12).all()
    torch.testing.assert_close(found.translation, camera.translation, atol=1e-4, rtol=1e-4)


def test_pnp_in_single_precision_and_with_hidden_points():
    X, camera = pinhole_scene(1, 30, 50, torch.float32)
    u = camera.project(X)[..., :2]
    visible = torch.ones(30, 16, dtype=torch.bool)
    visible[:, ::4] = False
    found, _ = pnp(X, u.masked_fill(~visible[..., None], math.nan), camera.focal, visible)
    assert (angle(found, camera) < 0.5).all()


def test_the_wider_the_field_of_view_the_worse_is_weak_perspective():
    medians = []
    for field_of_view in (5, 40, 100):
        X, camera = pinhole_scene(2, 60, field_of_view)
        u = camera.project(X)[..., :2]
        weak, _ = refine_weak_perspective(weak_perspective_pose(X, u), X, u)
        medians.append(angle(weak, camera).median())
        found, _ = pnp(X, u, camera.focal)
        assert (angle(found, camera) < 1e-3).all()
    assert medians[0] < 1 < medians[1] < medians[2]


X, u, one = normal(0, 2, 6, 3), normal(1, 2, 6, 2), torch.ones(2, dtype=torch.float64)
flat = X * torch.tensor([1, 1, 0])
start = random_camera(0, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: procrustes(X[0], X), r"source must have shape \(B, N, 3\).*source\[None\]"),
        (lambda: procrustes(X, X[:, :5]), "source and target must have the same B and N"),
        (lambda: procrustes(X, X.float()), "source is torch.float64, target torch.float32"),
        (lambda: procrustes(X, X, -one[:, None].expand(2, 6)), "weights must be 0 or more"),
        (lambda: procrustes(X, X, torch.zeros(2, 6)), "weights must be .* positive somewhere"),
        (lambda: procrustes(X, X, torch.ones(2, 5)), r"weights \(2, 5\)"),
        (lambda: procrustes(X, X * math.nan), "target has NaN.*weight 0"),
        (lambda: procrustes(X[:, :0], X[:, :0]), "weights must be 0 or more, and positive somewhere"),
        (lambda: procrustes(0 * X, X, with_scale=True), "source has an item whose points coincide"),
        (lambda: weak_perspective_pose(flat, u), r"points_3d\[0\] lie in a plane"),
        (lambda: weak_perspective_pose(torch.stack([X[0], flat[0]]), u), r"points_3d\[1\] lie in a plane"),
        (lambda: weak_perspective_pose(X, 0 * u), "points_2d has an item whose points coincide"),
        (lambda: weak_perspective_pose(X, X), r"points_2d must have shape \(B, N, 2\)"),
        (lambda: weak_perspective_pose(X, u.to("meta")), "points_3d on cpu, points_2d on meta"),
        (lambda: refine_weak_perspective(start, X[:1], u[:1]), "start has batch 2, points_3d 1"),
        (lambda: pnp(X, u, -one), "focal must be positive, got -1"),
        (lambda: pnp(X, u, one[:1]), "focal has batch 1, points_3d 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
