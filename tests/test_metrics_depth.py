"""Depth, normals and keypoints: values known by hand, what they are blind to, and what they refuse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import metrics
from lib.geometry import image_plane

generator = torch.Generator().manual_seed(0)
DEPTH = 1 + 0.05 * torch.rand(3, 8, 9, generator=generator, dtype=torch.float64)
MASK = (torch.rand(3, 8, 9, generator=generator) > 0.3).double()


def test_side_by_hand():
    target = torch.ones(1, 2, 2)
    pred = torch.tensor([[[math.e, 1.0], [1.0, 1.0]]])
    expected = math.sqrt(1 / 4 - 1 / 16)  # of the numbers 1, 0, 0, 0
    torch.testing.assert_close(metrics.side(pred, target, torch.ones(1, 2, 2)), torch.tensor([expected]))
    masked = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(metrics.side(pred, target, masked), torch.tensor([0.5]))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(factor=st.floats(0.1, 10))
def test_side_ignores_a_factor(factor):
    noisy = DEPTH.flip(0)
    torch.testing.assert_close(metrics.side(factor * noisy, DEPTH, MASK), metrics.side(noisy, DEPTH, MASK))


def test_side_does_not_ignore_an_offset():
    assert (metrics.side(DEPTH + 0.5, DEPTH, MASK) > 1e-3).all()
    torch.testing.assert_close(metrics.side(DEPTH, DEPTH, MASK), torch.zeros(3, dtype=torch.float64))


def test_side_does_not_look_outside_the_mask():
    wild = torch.where(MASK > 0, DEPTH.flip(0), -5.0)
    torch.testing.assert_close(metrics.side(wild, DEPTH, MASK), metrics.side(DEPTH.flip(0), DEPTH, MASK))


def test_side_refuses_what_has_no_answer():
    empty = MASK.clone()
    empty[1] = 0
    with pytest.raises(ValueError, match="mask is empty for picture 1"):
        metrics.side(DEPTH, DEPTH, empty)
    with pytest.raises(ValueError, match="above 0"):
        metrics.side(-DEPTH, DEPTH, MASK)
    with pytest.raises(ValueError, match="shape"):
        metrics.side(DEPTH[:, :4], DEPTH, MASK)
    with pytest.raises(ValueError, match="NaN"):
        metrics.side(DEPTH * math.nan, DEPTH, MASK)


def test_mean_angle_deviation_by_hand():
    pred = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    target = pred.clone()
    target[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    target[0, :, 0, 1] = torch.tensor([0.0, 1.0, -1.0])
    torch.testing.assert_close(metrics.mean_angle_deviation(pred, target, torch.ones(1, 2, 2)), torch.tensor([33.75]))
    only_second = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    torch.testing.assert_close(metrics.mean_angle_deviation(pred, target, only_second), torch.tensor([45.0]))


def test_mean_angle_deviation_needs_normals_on_the_mask_only():
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 4, 4, generator=generator), dim=1)
    mask = torch.zeros(2, 4, 4)
    mask[:, 1:3, 1:3] = 1
    without = normals * mask[:, None]
    torch.testing.assert_close(metrics.mean_angle_deviation(without, normals, mask), torch.zeros(2), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="length zero"):
        metrics.mean_angle_deviation(without, normals, torch.ones(2, 4, 4))


def test_erode_takes_one_pixel_from_every_side():
    mask = torch.ones(1, 6, 7)
    assert image_plane.erode(mask).sum() == 4 * 5
    assert image_plane.erode(image_plane.erode(mask)).sum() == 2 * 3
    mask[0, 3, 3] = 0
    assert image_plane.erode(mask)[0, 2:5, 2:5].sum() == 0


def test_keypoint_depth_correlation():
    target = torch.rand(50, 6, generator=generator, dtype=torch.float64)
    seen = torch.rand(50, 6, generator=generator) > 0.2
    same = metrics.keypoint_depth_correlation(3 * target + 5, target, seen)
    torch.testing.assert_close(same, torch.ones(6, dtype=torch.float64))
    # Another distance for each picture changes nothing; a face turned inside out is worse than none.
    distance = torch.rand(50, 1, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(metrics.keypoint_depth_correlation(target + distance, target, seen), same)
    torch.testing.assert_close(metrics.keypoint_depth_correlation(-target, target, seen), -same)
    hidden = torch.where(seen, target, 100.0)
    torch.testing.assert_close(metrics.keypoint_depth_correlation(hidden, target, seen), same)
    noise = torch.rand(50, 6, generator=generator, dtype=torch.float64)
    assert metrics.keypoint_depth_correlation(noise, target, seen).abs().max() < 0.5
    with pytest.raises(ValueError, match="fewer than three"):
        metrics.keypoint_depth_correlation(target, target, torch.zeros_like(seen))


def test_keypoint_depth_correlation_is_pearsons_where_all_is_seen():
    target, pred = torch.randn(2, 30, 5, generator=generator, dtype=torch.float64)
    a, b = (values - values.mean(1, keepdim=True) for values in (pred, target))
    expected = torch.stack([torch.corrcoef(torch.stack([a[:, k], b[:, k]]))[0, 1] for k in range(5)])
    seen = torch.ones(30, 5, dtype=torch.bool)
    torch.testing.assert_close(metrics.keypoint_depth_correlation(pred, target, seen), expected)


def test_own_relief_is_what_a_network_knows_of_each_object():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[2:7, 1:8] = True
    common = torch.rand(9, 9, generator=generator)
    target = 1 + 0.05 * common + 0.01 * torch.randn(40, 9, 9, generator=generator)
    assert metrics.own_relief(target, target, mask) == pytest.approx((1, 1))
    offset = torch.rand(40, 1, 1, generator=generator)  # a picture does not tell the distance, nor has one's mean a say
    assert metrics.own_relief(target + offset + 3 * common, target, mask) == pytest.approx((1, 1), abs=1e-4)
    half = target.mean(0) + 0.5 * (target - target.mean(0))
    assert metrics.own_relief(half, target, mask) == pytest.approx((1, 0.5), abs=1e-4)
    assert metrics.own_relief(2 - target, target, mask) == pytest.approx((-1, 1), abs=1e-4)
    assert metrics.own_relief(common.expand(40, 9, 9), target, mask) == (0, 0)  # one face for everybody, the right one
    dealt, size = metrics.own_relief(target.roll(1, 0), target, mask)
    assert abs(dealt) < 0.1 and size == pytest.approx(1)
    elsewhere = torch.where(mask, target, torch.rand(40, 9, 9, generator=generator))
    assert metrics.own_relief(elsewhere, target, mask) == pytest.approx((1, 1))
    for wrong, message in (
        ((target[:1], target[:1], mask), "two depth maps"),
        ((target, target, mask & False), "pixel of the mask"),
        ((target, common.expand(40, 9, 9), mask), "one depth map for everybody"),
        ((target, target, mask.float()), "mask"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            metrics.own_relief(*wrong)
