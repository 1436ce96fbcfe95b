from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.estimation import structure_from_motion as sfm
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import icosphere
from lib.geometry.rotations import matrix_to_quaternion, random_rotations

# A rough bird in the course's frame: beak, crown, back, belly, tail, then left and right eye, wing, leg.
BIRD = torch.tensor(
    [
        *([1.3, 0.35, 0], [0.9, 0.6, 0], [0, 0.5, 0], [0.1, -0.5, 0], [-1.5, 0.2, 0]),
        *([1.05, 0.45, -0.2], [-0.2, 0.1, -0.55], [0, -0.7, -0.25]),
        *([1.05, 0.45, 0.2], [-0.2, 0.1, 0.55], [0, -0.7, 0.25]),
    ],
    dtype=torch.float64,
)
PERMUTATION = torch.tensor([0, 1, 2, 3, 4, 8, 9, 10, 5, 6, 7])
TAIL_TO_BEAK, BELLY_TO_BACK = (4, 0), (3, 2)


def make_cameras(count, generator):
    return WeakPerspective(
        0.3 + 0.2 * torch.rand(count, generator=generator, dtype=torch.float64),
        0.2 * torch.randn(count, 2, generator=generator, dtype=torch.float64),
        matrix_to_quaternion(random_rotations(count, generator=generator).double()),
    )


def make_frames(count=40, noise=0.0, missing=0.0, hide=False, seed=0):
    """Pictures of the bird; noise as a fraction of its size in the picture; `hide` what is on its far side."""
    generator = torch.Generator().manual_seed(seed)
    cameras = make_cameras(count, generator)
    seen = cameras.project(BIRD[None])
    points = seen[..., :2]
    size = (points.amax(1) - points.amin(1)).amax(-1)
    points = points + noise * size[:, None, None] * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    visible = torch.rand(points.shape[:2], generator=generator) >= missing
    if hide:
        middle = (BIRD.mean(0) @ cameras.rotation.mT)[:, 2:]
        visible &= seen[..., 2] / cameras.scale[:, None] < middle + 0.35
    visible[:, 1] |= visible.sum(1) < 5
    visible[:, 3] |= visible.sum(1) < 5
    visible[:, 6] |= visible.sum(1) < 5
    visible[:, 9] |= visible.sum(1) < 5
    visible[:, 10] |= visible.sum(1) < 5
    points[~visible] = float("nan")
    return points, visible, cameras


def degrees(angles):
    return torch.rad2deg(angles)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_cameras_of_the_noise_free_set_are_exact(missing):
    for seed in range(3):
        points, visible, truth = make_frames(missing=missing, seed=seed)
        shape, cameras = sfm.structure_from_motion(points, visible)
        errors, _ = sfm.camera_errors(cameras.rotation, truth.rotation)
        assert degrees(errors).max() < 0.1
        assert shape.mean(0).abs().max() < 1e-9
        assert shape.square().sum(-1).mean() == pytest.approx(1)


def test_cameras_with_noise_and_missing_points():
    medians = []
    for seed in range(3):
        points, visible, truth = make_frames(count=60, noise=0.02, missing=0.3, seed=seed)
        _, cameras = sfm.structure_from_motion(points, visible)
        medians.append(degrees(sfm.camera_errors(cameras.rotation, truth.rotation)[0]).median())
    assert max(medians) < 5


def test_complete_factorisation_is_the_truncated_svd():
    points, visible, _ = make_frames(noise=0.05)
    motion, translation, shape = sfm.factorize(points, visible)
    rest = points - translation[:, None] - shape @ motion.mT
    centred = (points - points.mean(1, keepdim=True)).transpose(1, 2).flatten(0, 1)
    lost = torch.linalg.svdvals(centred)[3:].square().sum()
    assert rest.square().sum() == pytest.approx(float(lost), rel=1e-6)
    assert torch.linalg.matrix_rank(motion.flatten(0, 1)) == 3


def test_metric_upgrade_finds_the_affine_distortion():
    generator = torch.Generator().manual_seed(1)
    rows = make_cameras(20, generator).rotation[:, :2]
    distortion = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    upgrade = sfm.metric_upgrade(rows @ distortion)
    right = rows @ distortion @ upgrade
    gram = right @ right.mT
    torch.testing.assert_close(gram / gram[:, :1, :1], torch.eye(2).double().expand(20, 2, 2), atol=1e-6, rtol=0)
    assert abs(torch.linalg.det(upgrade)) == pytest.approx(1)


def test_bundle_adjustment_ends_where_the_gradient_vanishes():
    points, visible, truth = make_frames(noise=0.02, missing=0.3)
    shape, cameras = sfm.bundle_adjust(points, visible, BIRD, truth)
    vector = cameras.to_vector().requires_grad_()
    shape = shape.requires_grad_()

    def cost():
        rest = (WeakPerspective.from_vector(vector).project(shape[None])[..., :2] - points)[visible]
        return rest.square().sum()

    for gradient in torch.autograd.grad(cost(), (vector, shape)):
        assert gradient.abs().max() < 1e-5
    first = (truth.project(BIRD[None])[..., :2] - points)[visible].square().sum()
    assert cost() < first


@settings(deadline=None, derandomize=True, max_examples=10)
@given(st.integers(0, 1000))
def test_reversed_depth_gives_the_same_pictures(seed):
    cameras = make_cameras(3, torch.Generator().manual_seed(seed))
    shape, reflected = sfm.reflect_depth(BIRD, cameras)
    torch.testing.assert_close(reflected.project(shape[None])[..., :2], cameras.project(BIRD[None])[..., :2])
    errors, was_reflected = sfm.camera_errors(reflected.rotation, cameras.rotation)
    assert was_reflected and errors.max() < 1e-4


def test_camera_errors_ignore_a_turn_of_the_world_and_see_the_rest():
    cameras = make_cameras(5, torch.Generator().manual_seed(0))
    turn, other = random_rotations(2, generator=torch.Generator().manual_seed(1)).double()
    errors, reflected = sfm.camera_errors(cameras.rotation @ turn, cameras.rotation)
    assert errors.max() < 1e-6 and not reflected
    errors, _ = sfm.camera_errors(torch.cat([cameras.rotation[:4], cameras.rotation[4:] @ other]), cameras.rotation)
    assert errors.max() > 0.1


def test_canonical_frame_from_hidden_points_and_two_directions():
    """No label says left or right: which way round the depths are is read off what hides what."""
    for seed in range(4):
        points, visible, truth = make_frames(count=60, hide=True, seed=seed)
        shape, cameras = sfm.structure_from_motion(points, visible, PERMUTATION)
        shape, cameras = sfm.canonical_frame(shape, cameras, visible, PERMUTATION, TAIL_TO_BEAK, BELLY_TO_BACK)
        assert cameras.scale.mean() == pytest.approx(1)
        mirror = torch.tensor([1.0, 1, -1]).double()
        torch.testing.assert_close(shape[PERMUTATION] * mirror, shape)
        assert shape[8, 2] > 0 > shape[5, 2]  # the right eye is on the right
        assert shape[0, 0] > shape[4, 0] and shape[2, 1] > shape[3, 1]
        errors, reflected = sfm.camera_errors(cameras.rotation, truth.rotation)
        assert degrees(errors).max() < 0.1 and not reflected
        # From tail to beak is nearly, not quite, the +x of the truth: one small turn is common to all.
        assert degrees(sfm.rotation_angle(cameras.rotation, truth.rotation)).max() < 12
        reprojection = (cameras.project(shape[None])[..., :2] - points)[visible]
        assert reprojection.abs().max() < 1e-4


def test_resection_finds_the_cameras_of_a_known_shape():
    points, visible, truth = make_frames(missing=0.2, seed=3)
    cameras = sfm.resect(BIRD, points, visible)
    assert degrees(sfm.rotation_angle(cameras.rotation, truth.rotation)).median() < 0.1
    torch.testing.assert_close(cameras.project(BIRD[None])[..., :2][visible], points[visible], atol=1e-3, rtol=0)


def test_resection_tells_near_from_far_by_what_is_hidden():
    """Points of one plane fit two cameras, mirrored in depth; the far end is the hidden one."""
    shape = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0.6, 0], [0, -0.6, 0], [1.5, 0.2, 0], [-1.5, -0.2, 0]]).double()
    truth = make_cameras(30, torch.Generator().manual_seed(0))
    seen = truth.project(shape[None])
    visible = torch.ones(30, 6, dtype=torch.bool)
    far = seen[:, 4:, 2].argmax(1)
    visible[torch.arange(30), 4 + far] = False
    cameras = sfm.resect(shape, seen[..., :2], visible)
    errors = degrees(sfm.rotation_angle(cameras.rotation, truth.rotation))
    tilted = (seen[:, 4, 2] - seen[:, 5, 2]).abs() > 0.1
    assert tilted.sum() > 20 and errors[tilted].max() < 0.1


def test_hull_as_a_sphere():
    directions = icosphere(2).verts.double()
    box = torch.cartesian_prod(*[torch.tensor([-1.0, 1])] * 3).double() * torch.tensor([3.0, 1, 2])
    verts = sfm.hull_on_sphere(box, directions)
    torch.testing.assert_close((verts / torch.tensor([3.0, 1, 2])).abs().amax(-1), torch.ones(len(verts)).double())
    bird = sfm.hull_on_sphere(BIRD, directions)
    mirrored = sfm.hull_on_sphere(BIRD, directions * torch.tensor([1, 1, -1]))
    torch.testing.assert_close(mirrored, bird * torch.tensor([1, 1, -1]))
    assert (bird.amax(0) <= BIRD.amax(0) + 1e-6).all()
    with pytest.raises(ValueError, match="in one plane"):
        sfm.hull_on_sphere(BIRD * torch.tensor([1, 1, 0]), directions)


def test_bad_input_is_refused_in_one_line():
    points, visible, _ = make_frames()
    with pytest.raises(ValueError, match="at least 3 frames of 4 points"):
        sfm.structure_from_motion(points[:2], visible[:2])
    few = visible.clone()
    few[3, 3:] = False
    with pytest.raises(ValueError, match="a frame with 3 points, 4 are needed; drop such frames"):
        sfm.structure_from_motion(points, few)
    never = visible.clone()
    never[:, 2] = False
    with pytest.raises(ValueError, match="drop that point"):
        sfm.structure_from_motion(points, never)
    points[0, 0] = math.nan
    with pytest.raises(ValueError, match="mark them as not visible"):
        sfm.structure_from_motion(points, visible)
