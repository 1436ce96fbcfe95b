"""Camera multiplex: probabilities, starts from masks alone, pruning, and the twin that no mask tells apart."""

from __future__ import annotations

import math

import pytest
import torch

from lib import rendering
from lib.datasets.synthetic import creatures
from lib.estimation.multiplex import consolidation_loss, fit_multiplex, rescaled_softmin, start_cameras
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import matrix_to_quaternion, view_rotation
from lib.metrics import rotation_error

HORSE = creatures.template("quadruped")
SIZE = 32


def views(azimuths, elevation=0.2):
    azimuth = torch.tensor(azimuths)
    R = view_rotation(azimuth, torch.full_like(azimuth, elevation))
    camera = WeakPerspective(torch.full_like(azimuth, 0.7), 0.1 * torch.ones(len(azimuth), 2), matrix_to_quaternion(R))
    masks = rendering.rasterize(camera.project(HORSE.verts[None]), HORSE.faces, SIZE).mask.float()
    return camera, masks


def test_the_rescaled_softmin_decides_where_the_plain_one_is_flat():
    losses = torch.tensor([[0.20, 0.30, 0.45, 0.60]])
    assert (-losses).softmax(1).max() < 0.32
    assert rescaled_softmin(losses).max() > 0.98
    assert rescaled_softmin(losses, 0.0).tolist() == [[0.25] * 4]
    assert torch.allclose(rescaled_softmin(torch.full((1, 3), 0.4)), torch.full((1, 3), 1 / 3))
    # The values of U-CMR's rule: shift and scale of the losses do not matter.
    assert torch.allclose(rescaled_softmin(3 * losses + 1), rescaled_softmin(losses), atol=1e-5)


def test_of_two_the_better_one_does_not_always_have_everything():
    pair = torch.tensor([[0.200, 0.201]])
    assert rescaled_softmin(pair)[0, 0] > 0.999
    assert rescaled_softmin(pair, scale=torch.tensor([[0.2, 0.6]]))[0, 0] < 0.6


def test_starts_are_all_around_and_fit_the_mask():
    _, masks = views([0.4, 2.0])
    start = start_cameras(HORSE.verts, HORSE.faces, masks, 8)
    assert start.shape == (2, 8, 7)
    R = WeakPerspective.from_vector(start[0]).rotation
    angles = rotation_error(R[:1], R)
    assert sorted(round(a) for a in angles.tolist())[-1] > 150 and len({round(a) for a in angles.tolist()}) == 5
    for k in range(8):
        drawn = rendering.rasterize(
            WeakPerspective.from_vector(start[:, k]).project(HORSE.verts[None]), HORSE.faces, SIZE
        )
        assert ((drawn.mask.sum((1, 2)) / masks.sum((1, 2))).log().abs() < math.log(2)).all()


def test_it_finds_the_camera_or_its_twin():
    truth, masks = views([0.3, 1.0, 2.5, 4.0])
    found = fit_multiplex(HORSE.verts, HORSE.faces, masks, steps=60)
    assert found.camera.shape == (4, 2, 7) and found.start.shape == (4, 8, 7)
    assert (found.loss[:, 0] <= found.loss[:, 1]).all() and (found.loss[:, 0] < 0.2).all()
    assert torch.allclose(found.probability.sum(1), torch.ones(4))
    errors = torch.stack(
        [rotation_error(WeakPerspective.from_vector(found.camera[:, k]).rotation, truth.rotation) for k in (0, 1)]
    )
    assert (errors.amin(0) < 30).sum() >= 3


def test_one_hypothesis_is_the_plain_fit():
    _, masks = views([1.2])
    found = fit_multiplex(HORSE.verts, HORSE.faces, masks, hypotheses=1, keep=(), steps=6)
    assert found.camera.shape == (1, 1, 7) and found.probability.item() == 1


def test_bad_arguments_are_named():
    _, masks = views([0.4])
    with pytest.raises(ValueError, match="masks has an empty one; leave that picture out"):
        fit_multiplex(HORSE.verts, HORSE.faces, 0 * masks)
    with pytest.raises(ValueError, match=r"keep must fall, and start at most at 2, got \(4,\)"):
        fit_multiplex(HORSE.verts, HORSE.faces, masks, hypotheses=2, keep=(4,))
    with pytest.raises(ValueError, match="hypotheses"):
        start_cameras(HORSE.verts, HORSE.faces, masks, 0)


def test_consolidation_draws_to_the_most_probable_camera():
    truth, _ = views([0.3, 1.0])
    right, wrong = truth.to_vector(), views([2.0, 2.8])[0].to_vector()
    hypotheses = torch.stack([wrong, right], 1)
    sure, unsure = torch.tensor([[0.1, 0.9]] * 2), torch.tensor([[0.45, 0.55]] * 2)
    assert consolidation_loss(right, hypotheses, sure) < 1e-5
    far = consolidation_loss(wrong, hypotheses, sure)
    assert far > 0.2 and torch.allclose(consolidation_loss(wrong, hypotheses, unsure), far * 0.55 / 0.9, atol=1e-5)
    camera = right.clone().requires_grad_()
    consolidation_loss(camera, hypotheses, sure).backward()
    assert camera.grad.isfinite().all()


def test_masks_need_not_be_square():
    truth, square = views([1.0])
    masks = rendering.rasterize(truth.project(HORSE.verts[None]), HORSE.faces, (24, 40)).mask.float()
    # Both are coarse pictures: a pixel is up to 0.08 wide.
    here, there = (start_cameras(HORSE.verts, HORSE.faces, m) for m in (masks, square))
    assert torch.allclose(here, there, atol=0.1)
    assert fit_multiplex(HORSE.verts, HORSE.faces, masks, steps=30).loss[0, 0] < 0.3
