"""The motion loss: zero for the true flow of true meshes, large for each way of getting it wrong."""

from __future__ import annotations

import pytest
import torch

from lib import rendering
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import Mesh, icosphere
from lib.geometry.rotations import axis_angle_to_matrix, matrix_to_quaternion
from lib.losses.motion import motion_loss, pair_motion

SIZE = 256


def ball_in_motion(turn=(0.0, 0.0, 0.06), size=SIZE, dtype=torch.float64):
    """Two frames of a bumpy ball that turns, swells and moves; vertices, cameras, true flow, mask, visibility.

    A turn about the axis of view makes a flow that is linear in the image, so its reading is exact, save at the border.
    """
    ball = icosphere(3)
    verts = ball.verts.to(dtype)
    bumps = 1 + 0.2 * (3 * verts[:, :1]).sin() * (2 * verts[:, 1:2]).cos()
    first = verts * bumps
    second = first * torch.tensor([1.05, 1.0, 1.0], dtype=dtype)
    turn = axis_angle_to_matrix(torch.tensor([(0.0, 0.0, 0.0), turn], dtype=dtype))
    shift = torch.tensor([[0.0, 0.0], [0.03, -0.01]], dtype=dtype)
    camera = WeakPerspective(torch.tensor([0.6, 0.61], dtype=dtype), shift, matrix_to_quaternion(turn))
    projected = camera.project(torch.stack([first, second]))
    flow, mask = rendering.flow(projected[:1], projected[1:], ball.faces, size)
    seen = rendering.visible_vertices(projected, ball.faces, size)
    return Mesh(first, ball.faces), torch.stack([first, second]), camera, projected, flow, mask, seen.all(0)[None]


@pytest.fixture(scope="module")
def scene():
    return ball_in_motion()


def loss(scene, flow=None, **changes):
    _, _, _, projected, true, mask, visible = scene
    arguments = dict(points=projected[:1, :, :2], next_points=projected[1:, :, :2], visible=visible, known=mask)
    return motion_loss(**(arguments | {"flow": true if flow is None else flow} | changes)).item()


def length(scene):
    return scene[4].abs().sum(1)[scene[5]].mean().item()


def test_true_flow_of_true_meshes_costs_nothing(scene):
    assert loss(scene) < 1e-3 * length(scene)


def test_what_turns_out_of_the_image_is_read_with_the_error_of_the_grid():
    turned = (ball_in_motion((0.0, 0.06, 0.0), size=size) for size in (64, 512))
    coarse, fine = (loss(scene) / length(scene) for scene in turned)
    assert fine < 0.01 and fine < coarse / 2


def test_wrong_flow_costs_at_least_twenty_times_as_much(scene):
    _, _, _, projected, flow, _, _ = scene
    right = loss(scene)
    at_second = {"points": projected[1:, :, :2], "next_points": 2 * projected[1:, :, :2] - projected[:1, :, :2]}
    wrong = {
        "swapped": loss(scene, flow.flip(1)),
        "negated": loss(scene, -flow),
        "in pixels": loss(scene, flow * SIZE / 2),
        "unscaled": loss(scene, flow * 2),
        "zero": loss(scene, 0 * flow),
        "sampled in the second frame": loss(scene, **at_second),
    }
    for name, value in wrong.items():
        assert value > 20 * right, name


def test_flow_of_another_resolution_says_the_same():
    _, verts, camera, projected, *_ = scene = ball_in_motion()
    faces = scene[0].faces
    flow, mask = rendering.flow(projected[:1], projected[1:], faces, 160)
    fine = loss(scene, flow, known=mask)
    assert fine < 1e-3 * length(scene)
    rendered = pair_motion(verts, camera, faces, torch.tensor([0]), torch.tensor([1]), flow, mask, 160)
    assert rendered.item() == pytest.approx(fine, abs=1e-6)


def test_the_mean_is_over_visible_vertices():
    points = torch.tensor([[[0.0, 0.0], [0.2, 0.2], [-0.4, 0.1]]])
    moved = points + torch.tensor([[[0.1, 0.2], [0.3, 0.0], [5.0, 5.0]]])
    visible = torch.tensor([[True, True, False]])
    flow = torch.zeros(1, 2, 8, 8)
    assert motion_loss(points, moved, visible, flow).item() == pytest.approx((0.3 + 0.3) / 2)


def test_pixels_without_flow_do_not_count():
    points = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]], requires_grad=True)
    moved = points + 0.1
    flow = torch.full((1, 2, 16, 16), 0.1)
    flow[..., 8:] = torch.nan
    visible = torch.ones(1, 2, dtype=torch.bool)
    assert motion_loss(points, moved, visible, flow).item() == pytest.approx(0, abs=1e-6)
    nothing = motion_loss(points, moved.detach(), visible, torch.full_like(flow, torch.nan))
    nothing.sum().backward()
    assert nothing.item() == 0 and (points.grad == 0).all()


def test_the_border_of_the_animal_is_not_blurred_into_the_background():
    flow, known = torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    flow[:, 0, :, :4], known[:, :, :4] = 0.2, True
    points = torch.tensor([[[-0.02, 0.1]]])  # between the last known column and the first unknown one, nearer to it
    moved = points + torch.tensor([0.2, 0.0])
    assert motion_loss(points, moved, torch.ones(1, 1, dtype=torch.bool), flow, known).item() < 1e-6
    beyond = points + torch.tensor([0.1, 0.0])
    assert motion_loss(beyond, beyond, torch.ones(1, 1, dtype=torch.bool), flow, known).item() == 0


def test_no_vertex_in_common_gives_zero():
    points = torch.rand(2, 5, 2)
    visible = torch.zeros(2, 5, dtype=torch.bool)
    visible[1] = True
    losses = motion_loss(points, points + 0.5, visible, torch.zeros(2, 2, 8, 8))
    assert losses[0] == 0 and losses[1] == pytest.approx(1.0)


def test_the_place_of_reading_has_no_gradient(scene):
    _, _, _, projected, flow, mask, visible = scene
    at = projected[:1, :, :2].clone().requires_grad_()
    motion_loss(at, at + 0.02, visible, flow, mask).sum().backward()
    assert (at.grad == 0).all()  # the difference of both is constant


def test_the_gradient_is_that_of_the_motion(scene):
    points = scene[3][..., :2].clone().requires_grad_()
    motion_loss(points[:1], points[1:], scene[6], 0 * scene[4], scene[5]).sum().backward()
    assert torch.allclose(points.grad[0], -points.grad[1])
    assert points.grad[1][scene[6][0]].abs().sum() > 0 and (points.grad[1][~scene[6][0]] == 0).all()


def test_a_prediction_that_is_not_finite_is_seen():
    points = torch.full((1, 2, 2), torch.nan)
    assert motion_loss(points, points, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, 8, 8)).isnan()


def test_bad_arguments_are_named():
    points, visible = torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    flow = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match="next_points"):
        motion_loss(points, points[:, :2], visible, flow)
    with pytest.raises(ValueError, match="flow"):
        motion_loss(points, points, visible, flow[:, :1])
    with pytest.raises(TypeError, match="visible"):
        motion_loss(points, points, visible.float(), flow)
    with pytest.raises(ValueError, match="known"):
        motion_loss(points, points, visible, flow, torch.ones(1, 4, 4, dtype=torch.bool))
