"""Losses of latent keypoints: cases by hand, gradients, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from lib.geometry.rotations import axis_angle_to_matrix, random_rotations
from lib.losses.latent_keypoints import (
    consistency_loss,
    pose_loss,
    relative_rotation,
    separation_loss,
    silhouette_loss,
    variance_loss,
)


def two_views(batch=3, count=6, seed=0):
    """Points in two cameras' frames, their places in both pictures, and the true motion between the cameras."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.randn(batch, count, 3, generator=draw, dtype=torch.float64) * 0.3
    points[..., 2] += 3
    R = axis_angle_to_matrix(0.2 * torch.randn(batch, 3, generator=draw, dtype=torch.float64))
    t = 0.1 * torch.randn(batch, 3, generator=draw, dtype=torch.float64)
    other = points @ R.mT + t[:, None]
    focal = torch.full((batch,), 2.0, dtype=torch.float64)
    seen, other_seen = (2 * part[..., :2] / part[..., 2:] for part in (points, other))
    return points, other, seen, other_seen, R, t, focal


def test_consistent_views_cost_nothing():
    points, other, seen, other_seen, R, t, focal = two_views()
    assert consistency_loss(seen, points, other_seen, other, R, t, focal) < 1e-20
    shifted = other_seen + torch.tensor([0.3, 0.4]).double()
    # One of the two directions is off by 0.5 for every keypoint.
    loss = consistency_loss(seen, points, shifted, other, R, t, focal)
    assert loss.item() == pytest.approx(0.25 / 2)


def test_the_two_cameras_may_have_different_focal_lengths():
    points, other, seen, other_seen, R, t, focal = two_views()
    assert consistency_loss(seen, points, 1.5 * other_seen, other, R, t, focal, 1.5 * focal) < 1e-20
    assert consistency_loss(seen, points, 1.5 * other_seen, other, R, t, focal) > 1e-4


def test_consistency_is_small_for_contracted_points_too():
    """The trap: all keypoints in one place agree, and tell nothing."""
    points, _, _, _, R, t, focal = two_views()
    middle = points.mean(1, keepdim=True).expand_as(points)
    moved = middle @ R.mT + t[:, None]
    seen, other_seen = (2 * part[..., :2] / part[..., 2:] for part in (middle, moved))
    assert consistency_loss(seen, middle, other_seen, moved, R, t, focal) < 1e-20
    assert separation_loss(middle) > 0.04


@pytest.mark.parametrize("seed", range(4))
def test_the_relative_rotation_is_that_of_the_points(seed):
    points, other, *_, R, _, _ = two_views(seed=seed)
    assert torch.allclose(relative_rotation(points, other), R, atol=1e-7)
    assert torch.allclose(relative_rotation(other, points), R.mT, atol=1e-7)
    swap = torch.randperm(points.shape[1])
    assert torch.allclose(relative_rotation(points[:, swap], other[:, swap]), R, atol=1e-7)


def test_the_angle_is_geodesic_from_0_to_180_degrees():
    axis = torch.tensor([[0.36, 0.48, 0.8]]).double()
    points, *_ = two_views(batch=1)
    for degrees in (0.0, 1e-3, 1.0, 60.0, 120.0, 179.0, 180.0):
        R = axis_angle_to_matrix(axis * math.radians(degrees))
        other = points @ R.mT
        identity = torch.eye(3).double()[None]
        loss = pose_loss(points, other, identity)
        assert math.degrees(loss.item()) == pytest.approx(degrees, abs=2e-5)
        formula = 2 * torch.asin(((R - identity).norm() / (2 * math.sqrt(2))).clamp(max=1))
        assert loss.item() == pytest.approx(formula.item(), abs=1e-6)


def test_gradients_of_the_pose_are_finite_where_the_svd_has_none():
    R = random_rotations(1, torch.Generator().manual_seed(0)).double()
    for points in (
        torch.zeros(1, 5, 3),  # all in one place
        torch.eye(3)[None],  # equal singular values
        torch.tensor([[[1.0, 0, 0], [-1, 0, 0], [0.5, 0, 0]]]),  # on a line
        torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-1, -1, 0], [0.3, 0.2, 0]]]),  # in a plane
    ):
        points = points.double().requires_grad_()
        mirrored = (points * torch.tensor([1.0, 1, -1]).double()).detach()
        for other in (points.detach() @ R[0].T, mirrored, points.detach()):
            loss = pose_loss(points, other, R)
            (gradient,) = torch.autograd.grad(loss, points)
            assert loss.isfinite() and gradient.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    points, other, seen, other_seen, R, t, focal = two_views(batch=1, count=4)
    noise = torch.Generator().manual_seed(1)
    other = other + 0.05 * torch.randn(other.shape, generator=noise, dtype=torch.float64)
    points.requires_grad_(), seen.requires_grad_()
    assert gradcheck(lambda p, s: consistency_loss(s, p, other_seen, other, R, t, focal), (points, seen))
    assert gradcheck(lambda p: pose_loss(p, other, R), (points,))
    assert gradcheck(lambda p: separation_loss(p, 0.6), (points,))
    scores = torch.randn(1, 4, 5, 6, generator=noise, dtype=torch.float64).requires_grad_()
    mask = (torch.rand(1, 5, 6, generator=noise, dtype=torch.float64) > 0.4).double()

    def maps(scores):
        return scores.flatten(2).softmax(-1).view_as(scores)

    assert gradcheck(lambda s: silhouette_loss(maps(s), mask), (scores,))
    assert gradcheck(lambda s: variance_loss(maps(s), seen), (scores,))


def test_separation_by_hand():
    points = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [5.0, 0, 0]]])
    assert separation_loss(points, 0.2).item() == pytest.approx((0.04 - 0.01) / 3)
    assert separation_loss(points, 0.05) == 0
    assert separation_loss(points[:, :1]) == 0
    turned = points @ random_rotations(1, torch.Generator().manual_seed(0))[0].T + 1
    assert torch.allclose(separation_loss(turned, 0.2), separation_loss(points, 0.2))


def test_silhouette_by_hand():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 1, 1], maps[0, 1, 0, 0], maps[0, 1, 1, 1] = 1, 0.75, 0.25
    mask = torch.zeros(1, 4, 4)
    mask[0, 1, 1] = 1
    assert silhouette_loss(maps, mask).item() == pytest.approx(-math.log(0.25) / 2)
    assert silhouette_loss(maps, 0 * mask).isfinite()


def test_variance_by_hand():
    uniform = torch.full((1, 1, 64, 64), 1 / 64**2)
    assert variance_loss(uniform, torch.zeros(1, 1, 2)).item() == pytest.approx(2 / 3, rel=1e-3)
    one = torch.zeros(1, 1, 8, 8)
    one[0, 0, 2, 5] = 1
    assert variance_loss(one, torch.tensor([[[0.375, -0.375]]])).item() == pytest.approx(0, abs=1e-12)


def test_noise_makes_close_keypoints_expensive():
    points, other, *_, R, _, _ = two_views(batch=64)
    torch.manual_seed(0)
    wide = pose_loss(points, other, R, noise=0.05)
    middle, moved = (part.mean(1, keepdim=True) for part in (points, other))
    near = pose_loss(middle + 0.1 * (points - middle), moved + 0.1 * (other - moved), R, noise=0.05)
    assert near > 4 * wide > 0


def test_bad_arguments_are_named():
    points, other, seen, other_seen, R, t, focal = two_views()
    with pytest.raises(ValueError, match="at or behind a camera"):
        consistency_loss(seen, points * torch.tensor([1.0, 1, -1]).double(), other_seen, other, R, t, focal)
    with pytest.raises(ValueError, match="other_points"):
        pose_loss(points, other[:, :3], R)
    with pytest.raises(ValueError, match="noise must be 0 or more"):
        pose_loss(points, other, R, noise=-1)
    with pytest.raises(ValueError, match="distance must be above 0"):
        separation_loss(points, 0)
    with pytest.raises(ValueError, match="mask"):
        silhouette_loss(torch.rand(1, 2, 4, 4), torch.ones(1, 5, 4))
