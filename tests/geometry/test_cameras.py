"""Projection, its gradients, the mirror identity, and bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lib.geometry.cameras import Pinhole, WeakPerspective, image_to_pixels, pixels_to_image
from lib.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_quaternion,
    quaternion_multiply,
    quaternion_to_matrix,
    random_quaternions,
    random_rotations,
    rotation_angle,
    view_rotation,
)

FLIP_IMAGE = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
FLIP_OBJECT = torch.tensor([1.0, 1, -1], dtype=torch.float64)
seeds = given(st.integers(0, 10_000))
examples = settings(deadline=None, derandomize=True, max_examples=25)


def scene(seed: int, batch: int = 3, points: int = 8):
    """Points that are no mirror image of themselves, a weak-perspective camera and a pinhole camera."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    X = normal(batch, points, 3)
    quaternion = random_quaternions(batch, generator, dtype=torch.float64)
    weak = WeakPerspective(normal(batch).exp(), normal(batch, 2), quaternion)
    distance = torch.tensor([0.0, 0, 10], dtype=torch.float64)
    pinhole = Pinhole(normal(batch).exp(), quaternion_to_matrix(quaternion), 0.3 * normal(batch, 3) + distance)
    return X, weak, pinhole


def symmetric_object(seed: int, pairs: int = 4, middle: int = 3):
    """(N, 3) points symmetric in z = 0, and the permutation that exchanges left and right."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(pairs, 3, generator=generator, dtype=torch.float64)
    spine = torch.randn(middle, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1, 0])
    index = torch.arange(2 * pairs + middle)
    permutation = torch.cat([index[pairs : 2 * pairs], index[:pairs], index[2 * pairs :]])
    return torch.cat([left, left * FLIP_OBJECT, spine]), permutation


def test_weak_perspective_follows_its_equation():
    X, camera, _ = scene(0)
    expected = torch.stack([s * X[i] @ camera.rotation[i].mT for i, s in enumerate(camera.scale)])
    expected[..., :2] += camera.translation[:, None]
    torch.testing.assert_close(camera.project(X), expected)


def test_pinhole_follows_its_equation():
    X, _, camera = scene(0)
    for i in range(3):
        x, y, z = (X[i] @ camera.rotation[i].mT + camera.translation[i]).unbind(-1)
        expected = torch.stack([camera.focal[i] * x / z, camera.focal[i] * y / z, z], -1)
        torch.testing.assert_close(camera.project(X)[i], expected)


def test_a_projected_object_is_similar_to_the_object():
    X, camera, _ = scene(1)
    u = camera.project(X)
    torch.testing.assert_close(torch.cdist(u, u), camera.scale[:, None, None] * torch.cdist(X, X))


def test_the_animal_seen_from_its_side_heads_right_and_stands_upright():
    zero = torch.zeros(1)
    camera = WeakPerspective(torch.ones(1), torch.zeros(1, 2), matrix_to_quaternion(view_rotation(zero, zero)))
    head_top_right = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    expected = torch.tensor([[[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]])  # y is down; its right side is nearer
    torch.testing.assert_close(camera.project(head_top_right), expected)


def test_far_away_a_pinhole_is_weak_perspective():
    X, weak, _ = scene(2)
    for distance, tolerance in ((1e2, 1e0), (1e4, 1e-2), (1e6, 1e-4)):
        shift = torch.cat([weak.translation / weak.scale[:, None], torch.full((3, 1), distance, dtype=X.dtype)], -1)
        pinhole = Pinhole(weak.scale * distance, weak.rotation, shift)
        torch.testing.assert_close(pinhole.project(X)[..., :2], weak.project(X)[..., :2], atol=tolerance, rtol=0)


@examples
@seeds
def test_mirror_predicts_the_mirrored_image_of_a_symmetric_object(seed):
    X, permutation = symmetric_object(seed)
    X = X.expand(3, -1, -1)
    _, *cameras = scene(seed)
    for camera in cameras:
        mirrored_image = camera.project(X)[:, permutation] * FLIP_IMAGE
        torch.testing.assert_close(camera.mirror().project(X), mirrored_image, atol=1e-12, rtol=1e-12)


@examples
@seeds
def test_mirror_of_any_object_shows_the_mirrored_object(seed):
    X, *cameras = scene(seed)
    for camera in cameras:
        expected = camera.project(X) * FLIP_IMAGE
        torch.testing.assert_close(camera.mirror().project(X * FLIP_OBJECT), expected, atol=1e-12, rtol=1e-12)
        twice = camera.mirror().mirror()
        torch.testing.assert_close(twice.rotation, camera.rotation, atol=1e-14, rtol=0)
        torch.testing.assert_close(twice.translation, camera.translation)
        torch.testing.assert_close(torch.linalg.det(camera.mirror().rotation), torch.ones(3, dtype=X.dtype))


def test_naive_mirrors_are_wrong():
    """Turning by 180°, mirroring another axis of the object, or leaving left and right in place."""
    X, permutation = symmetric_object(0)
    X = X.expand(3, -1, -1)
    _, camera, _ = scene(0)
    flat_flip = FLIP_IMAGE[:2]
    plain = camera.project(X)[..., :2] * flat_flip
    exchanged = plain[:, permutation]
    shift = camera.translation * flat_flip
    half_turn = torch.tensor([0.0, 0, 1, 0], dtype=torch.float64)
    turned = WeakPerspective(camera.scale, shift, quaternion_multiply(half_turn, camera.quaternion))
    other_axis = WeakPerspective(camera.scale, shift, camera.quaternion * torch.tensor([1, 1, -1, -1]))
    unturned = WeakPerspective(camera.scale, shift, camera.quaternion)

    def error(camera, target):
        return (camera.project(X)[..., :2] - target).norm(dim=-1).mean()

    assert error(camera.mirror(), exchanged) < 1e-12
    assert error(camera.mirror(), plain) > 0.1  # the keypoints must be exchanged
    assert error(turned, plain) < 1e-12  # right in the image without the exchange, but inside out:
    torch.testing.assert_close(turned.project(X)[..., 2], -camera.project(X)[..., 2])
    for wrong in (turned, other_axis, unturned):
        assert error(wrong, exchanged) > 0.1


def test_gradients():
    X, weak, pinhole = scene(3, batch=2, points=4)
    X, vector = X.requires_grad_(), weak.to_vector().requires_grad_()
    assert gradcheck(lambda X, v: WeakPerspective.from_vector(v).project(X), (X, vector))
    assert gradcheck(lambda X, v: WeakPerspective.from_vector(v).mirror().project(X), (X, vector))
    turn = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    focal, shift = pinhole.focal.requires_grad_(), pinhole.translation.requires_grad_()

    def project(X, focal, turn, shift):
        camera = Pinhole(focal, axis_angle_to_matrix(turn) @ pinhole.rotation, shift)
        return torch.cat([camera.project(X), camera.mirror().project(X)])

    assert gradcheck(project, (X, focal, turn, shift))


def test_vector_round_trip_and_moves():
    _, camera, pinhole = scene(4)
    again = WeakPerspective.from_vector(camera.to_vector())
    for name in ("scale", "translation", "quaternion"):
        assert torch.equal(getattr(again, name), getattr(camera, name))
    assert camera.to(torch.float32).quaternion.dtype == torch.float32
    assert pinhole.to("cpu").rotation.device.type == "cpu"
    assert len(camera) == 3 and len(WeakPerspective.from_vector(torch.zeros(0, 7))) == 0


def test_one_object_under_many_cameras_and_many_objects_under_one():
    X, camera, pinhole = scene(5)
    one = X[:1]
    torch.testing.assert_close(camera.project(one), camera.project(one.expand(3, -1, -1)))
    torch.testing.assert_close(pinhole.project(one), pinhole.project(one.expand(3, -1, -1)))
    single = WeakPerspective.from_vector(camera.to_vector()[:1])
    torch.testing.assert_close(single.project(X)[:1], camera.project(X)[:1])


def test_rotations_of_camera_and_of_object_are_one():
    X, camera, _ = scene(6)
    Q = random_rotations(3, torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = WeakPerspective(camera.scale, camera.translation, matrix_to_quaternion(camera.rotation @ Q.mT))
    torch.testing.assert_close(turned.project(X @ Q.mT), camera.project(X))
    assert (rotation_angle(turned.rotation @ Q, camera.rotation) < 1e-12).all()


def test_pixels_and_image_plane_agree_with_grid_sample():
    image = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 3, 4)
    pixels = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij"), -1).flip(-1).double()
    points = pixels_to_image(pixels, (3, 4))
    torch.testing.assert_close(points[0, 0], torch.tensor([1 / 4 - 1, 1 / 3 - 1], dtype=torch.float64))
    sampled = torch.nn.functional.grid_sample(image, points[None], align_corners=False)
    torch.testing.assert_close(sampled, image)
    torch.testing.assert_close(image_to_pixels(points, (3, 4)), pixels)
    torch.testing.assert_close(pixels_to_image(torch.tensor([3.5, 3.5]), 8), torch.zeros(2))


ones, pairs, triples = torch.ones(2), torch.zeros(2, 2), torch.ones(2, 3)
upright = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4)
eyes = torch.eye(3).expand(2, 3, 3)
good_weak, good_pinhole = WeakPerspective(ones, pairs, upright), Pinhole(ones, eyes, 5 * triples)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WeakPerspective(-ones, pairs, upright), "scale must be positive, got -1"),
        (lambda: WeakPerspective(ones * float("nan"), pairs, upright), "scale must be positive, got nan"),
        (lambda: WeakPerspective(ones, pairs, 0 * upright), "quaternion has a zero row"),
        (lambda: WeakPerspective(ones, triples, upright), r"translation must have shape \(B, 2\)"),
        (lambda: WeakPerspective(ones[:1], pairs, upright), "scale 1, translation 2"),
        (lambda: WeakPerspective.from_vector(triples), r"vector must have shape \(B, 7\)"),
        (lambda: Pinhole(0 * ones, eyes, triples), "focal must be positive"),
        (lambda: Pinhole(ones, -eyes, triples), "rotation is not a rotation matrix"),
        (lambda: Pinhole(ones, 2 * eyes, triples), "rotation is not a rotation matrix"),
        (lambda: good_pinhole.project(torch.full((2, 4, 3), -9.0)), "points reach depth -4, at or behind the camera"),
        (lambda: good_pinhole.project(torch.full((2, 4, 3), -5.0)), "points reach depth 0, at or behind"),
        (lambda: good_weak.project(torch.zeros(4, 3)), r"points must have shape \(B, N, 3\).*points\[None\]"),
        (lambda: good_weak.project(torch.zeros(3, 4, 3)), "points has batch 3, the camera 2"),
        (
            lambda: good_weak.project(torch.zeros(2, 4, 3).double()),
            "points are torch.float64, the camera torch.float32",
        ),
        (lambda: good_weak.project(torch.zeros(2, 4, 3, device="meta")), "points on meta, camera on cpu"),
        (lambda: pixels_to_image(torch.zeros(2), 0), "image_size must be at least 1"),
        (lambda: image_to_pixels(torch.zeros(3), 4), "points must have shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
