"""Refinement of clips: it lowers its cost, never returns worse than its start, and stops when it has converged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib import rendering
from lib.datasets.synthetic import creatures
from lib.deformation.handles import HandleLayer
from lib.estimation.optical_flow import consecutive_pairs
from lib.estimation.refinement import Weights, refine_clip
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import axis_angle_to_matrix, matrix_to_quaternion, view_rotation
from lib.metrics import rotation_error
from lib.models.articulated import PoseCost

FRAMES, SIZE = 4, 32


@pytest.fixture(scope="module")
def scene():
    """A posed horse before a turning camera: model, the clip with true flow, the truth, and a disturbed start."""
    horse = creatures.template("quadruped")
    layer = HandleLayer(horse.mesh, 8).requires_grad_(False)
    cost = PoseCost(horse.mesh, horse.keypoint_vertices)
    generator = torch.Generator().manual_seed(0)
    offsets = 0.1 * torch.randn(1, 8, 3, generator=generator) + 0.02 * torch.arange(FRAMES)[:, None, None]
    R = view_rotation(0.6 + 0.05 * torch.arange(FRAMES), torch.full((FRAMES,), 0.2))
    camera = WeakPerspective(torch.full((FRAMES,), 0.8), torch.zeros(FRAMES, 2), matrix_to_quaternion(R))
    verts = layer(offsets)
    seen = camera.project(verts)
    faces = horse.faces
    clip = {"mask": rendering.rasterize(seen, faces, SIZE).mask.float()}
    clip["keypoints"] = seen[:, horse.keypoint_vertices, :2]
    clip["keypoint_visible"] = torch.ones(FRAMES, len(horse.keypoint_vertices), dtype=torch.bool)
    flow, known = rendering.flow(seen[:-1], seen[1:], faces, SIZE)
    turn = axis_angle_to_matrix(0.15 * torch.randn(FRAMES, 3, generator=generator))
    start = torch.cat([0.84 * torch.ones(FRAMES, 1), 0.03 * torch.ones(FRAMES, 2), matrix_to_quaternion(turn @ R)], 1)
    return cost, layer, clip, flow, known, camera, torch.zeros(FRAMES, 8, 3), start


def refine(scene, weights=None, **options):
    cost, layer, clip, _, _, _, offsets, start = scene
    return refine_clip(cost, layer, offsets, start, clip, weights or Weights(), **options)


def turned(scene, vector):
    return rotation_error(WeakPerspective.from_vector(vector).rotation, scene[5].rotation).mean().item()


def test_it_lowers_its_cost_and_keeps_the_best(scene):
    found = refine(scene, steps=30)
    assert min(found.history) < 0.6 * found.history[0]
    assert torch.allclose(found.camera[:, 3:].norm(dim=1), torch.ones(FRAMES), atol=1e-5)
    again = refine_clip(*scene[:2], found.offsets, found.camera, scene[2], steps=0)
    assert again.history[0] == pytest.approx(min(found.history), rel=1e-4)


def test_keypoints_find_the_camera(scene):
    found = refine(scene, Weights(keypoint=30.0), steps=40)
    assert turned(scene, found.camera) < 0.6 * turned(scene, scene[-1])


def test_it_never_returns_worse_than_its_start(scene):
    found = refine(scene, steps=6, offset_rate=5.0, camera_rate=5.0)
    assert min(found.history) <= found.history[0]
    again = refine_clip(*scene[:2], found.offsets, found.camera, scene[2], steps=0)
    assert again.history[0] <= found.history[0] * (1 + 1e-5)


def test_true_flow_steadies_the_cameras(scene):
    *_, flow, known, _, _, _ = scene
    pairs = consecutive_pairs([FRAMES])

    def jitter(found):
        error = WeakPerspective.from_vector(found.camera).rotation.mT @ scene[5].rotation
        return rotation_error(error[:-1], error[1:]).mean().item()

    still = refine(scene, steps=50)
    moving = refine(scene, Weights(motion=10.0), pairs=pairs, flow=flow, known=known, steps=50)
    assert jitter(moving) < 0.6 * jitter(still)
    wrong = refine(scene, Weights(motion=10.0), pairs=pairs, flow=-flow, known=known, steps=50)
    assert jitter(moving) < jitter(wrong)


def test_smoothness_draws_the_frames_together(scene):
    weights = replace(Weights(mask=0, rigidity=0, laplacian=0), smooth_camera=10.0)
    found = refine(scene, weights, steps=60)
    R = WeakPerspective.from_vector(found.camera).rotation
    assert (R[1:] - R[:-1]).norm() < 0.5 * (scene[5].rotation[1:] - scene[5].rotation[:-1]).norm() + 0.2


def test_it_stops_when_it_has_converged(scene):
    settled = refine(scene, steps=400, tolerance=0.05)
    assert settled.converged and len(settled.history) < 401
    assert not refine(scene, steps=3).converged


def test_a_single_frame_has_no_pairs(scene):
    cost, layer, clip, _, _, _, offsets, start = scene
    one = {name: values[:1] for name, values in clip.items()}
    found = refine_clip(cost, layer, offsets[:1], start[:1], one, steps=3)
    assert found.verts.shape == (1, 642, 3)


def test_it_shows_its_progress(scene):
    seen = []
    refine(scene, steps=3, watch=lambda step, value: seen.append((step, value)))
    assert [step for step, _ in seen] == [0, 1, 2, 3]


def test_bad_arguments_are_named(scene):
    cost, layer, clip, _, _, _, offsets, start = scene
    with pytest.raises(ValueError, match="offsets must have shape"):
        refine_clip(cost, layer, offsets[:, :4], start, clip)
    with pytest.raises(ValueError, match="camera"):
        refine_clip(cost, layer, offsets, start * torch.nan, clip)
    with pytest.raises(ValueError, match="clip lacks 'mask'; refinement compares masks, so segment the frames first"):
        refine_clip(cost, layer, offsets, start, {})
    empty = clip | {"mask": clip["mask"] * torch.tensor([1.0, 0, 1, 1])[:, None, None]}
    with pytest.raises(ValueError, match="a frame with an empty mask; leave that frame out"):
        refine_clip(cost, layer, offsets, start, empty)
    with pytest.raises(ValueError, match=r"weights\.motion needs flow"):
        refine_clip(cost, layer, offsets, start, clip, Weights(motion=1.0))
