"""The network that poses a template: shapes, where gradients go, the pose at rest, checkpoints, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib import rendering, training, weights
from lib.deformation.basis import LinearBasis
from lib.deformation.free import FreeVertices
from lib.deformation.handles import HandleLayer
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import sample_image
from lib.geometry.mesh import Mesh, icosphere
from lib.geometry.rotations import random_quaternions
from lib.losses import mesh as mesh_losses
from lib.losses.keypoints import camera_loss, keypoint_loss
from lib.models.articulated import Articulated, PoseCost, Weights

SIZES = {
    "image_size": 64,
    "width": 4,
    "map_channels": 8,
    "features": 16,
    "texture_size": 16,
    "texture_width": 4,
}
BALL = icosphere(2)
TEMPLATE = Mesh(0.7 * BALL.verts * torch.tensor([1.0, 0.6, 0.4]), BALL.faces)
SHAPES = {"handles": (5, 3), "basis": (15,), "free": (162, 3)}
LAYERS = {
    "handles": lambda: HandleLayer(TEMPLATE, 5),
    "basis": lambda: LinearBasis(TEMPLATE, 15),
    "free": lambda: FreeVertices(TEMPLATE),
}
every_deformation = pytest.mark.parametrize("deformation", SHAPES)


def make_model(deformation="handles", seed=0):
    torch.manual_seed(seed)
    return Articulated(TEMPLATE, BALL.verts, LAYERS[deformation](), torch.arange(4), **SIZES)


@every_deformation
def test_shapes(deformation):
    model = make_model(deformation)
    prediction = model(torch.rand(2, 3, 64, 64))
    assert prediction.offsets.shape == (2, *SHAPES[deformation])
    assert prediction.verts.shape == (2, 162, 3)
    assert prediction.camera.shape == (2, 7) and prediction.flow.shape == (2, 16, 32, 2)
    torch.testing.assert_close(prediction.camera[:, 3:].norm(dim=-1), torch.ones(2))
    texture = sample_image(torch.rand(2, 3, 64, 64), prediction.flow)
    assert model.vertex_colors(texture).shape == (2, 162, 3)


@every_deformation
def test_no_offsets_give_the_template_and_an_untrained_network_hardly_moves_it(deformation):
    model = make_model(deformation).eval()
    with torch.no_grad():
        still = model.deformation(torch.zeros(2, *SHAPES[deformation]))
        predicted = model(torch.rand(2, 3, 64, 64)).verts
    torch.testing.assert_close(still, TEMPLATE.verts.expand(2, -1, -1), atol=1e-5, rtol=0)
    assert (predicted - TEMPLATE.verts).abs().max() < 0.01


@every_deformation
def test_gradients_reach_the_network_and_what_the_deformation_learns(deformation):
    model = make_model(deformation)
    with torch.no_grad():  # away from rest, where neither A nor a basis has a gradient
        model.offset_head.weight.normal_(std=0.1)
    goal = torch.randn(2, 162, 3)
    (model(torch.rand(2, 3, 64, 64)).verts - goal).square().mean().backward()
    learned = {"handles": ["deformation.logits"], "basis": ["deformation.modes"], "free": []}[deformation]
    for name in ("offset_head.weight", "encoder.trunk.conv1.weight", *learned):
        assert model.get_parameter(name).grad.abs().max() > 0
    assert [name for name, _ in model.deformation.named_parameters(prefix="deformation")] == learned
    assert model.camera_head.weight.grad is None


def test_texture_leaves_the_gradient_of_the_pose_at_exactly_zero():
    model = make_model()
    images = torch.rand(2, 3, 64, 64)
    prediction = model(images)
    texture = sample_image(images, prediction.flow)
    picture = model.paint(prediction.verts, WeakPerspective.from_vector(prediction.camera), texture, 64)
    (picture - images).abs().mean().backward()
    assert model.texture_head.last.weight.grad.abs().max() > 0
    assert model.deformation.logits.grad is None and model.offset_head.weight.grad is None


def test_pose_is_what_the_forward_pass_uses():
    model = make_model().eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        prediction = model(images)
        offsets, verts = model.shape(model.encoder(images))
    torch.testing.assert_close(offsets, prediction.offsets)
    torch.testing.assert_close(verts, prediction.verts)


def test_mixed_precision_keeps_the_geometry_in_float32():
    model = make_model().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(torch.rand(2, 3, 64, 64))
    assert all(value.dtype == torch.float32 for value in prediction)


def test_training_continues_from_its_checkpoint(tmp_path):
    data = {"image": torch.rand(6, 3, 64, 64), "goal": torch.randn(6, 162, 3)}

    def loss_fn(model, batch, step):
        return {"loss": (model(batch["image"]).verts - batch["goal"]).square().mean()}

    def train(model, steps, out_dir=""):
        options = {"steps": steps, "batch_size": 2, "lr": 1e-2, "device": "cpu", "out_dir": out_dir}
        options["schedule"] = lambda step: np.cos(step / 10)  # a NumPy number, which must not end up in the checkpoint
        training.fit(model, loss_fn, data, **options)
        return model.state_dict()

    whole = train(make_model(), 4)
    train(make_model(), 2, tmp_path)
    resumed = train(make_model(seed=1), 4, tmp_path)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    start = make_model().state_dict()
    assert not torch.equal(whole["deformation.logits"], start["deformation.logits"])

    weights.save_weights(tmp_path / "weights.safetensors", make_model(seed=2))
    again = make_model(seed=3)
    weights.load_weights(tmp_path / "weights.safetensors", again)
    torch.testing.assert_close(again.offset_head.weight, make_model(seed=2).offset_head.weight)


@every_deformation
def test_deformations_tell_the_shape_of_their_offsets(deformation):
    layer = LAYERS[deformation]()
    assert layer.offset_shape == SHAPES[deformation]
    assert layer(torch.zeros(2, *layer.offset_shape)).shape == (2, 162, 3)


@every_deformation
def test_the_loss_is_the_sum_of_the_papers_terms(deformation):
    model = make_model(deformation).eval()
    mask = torch.zeros(2, 64, 64)
    mask[:, 16:48, 8:56] = 1
    view = WeakPerspective(torch.full((2,), 0.8), torch.zeros(2, 2), random_quaternions(2))
    batch = {"image": torch.rand(2, 3, 64, 64), "mask": mask, "camera": view.to_vector()}
    batch |= {"keypoints": torch.rand(2, 4, 2) - 0.5, "keypoint_visible": torch.rand(2, 4) > 0.3}
    terms, prediction, default = model.loss(batch), model(batch["image"]), Weights()
    projected = view.project(prediction.verts)
    picture = model.paint(prediction.verts, view, sample_image(batch["image"], prediction.flow), 64)
    pairs = mesh_losses.ring_pairs(TEMPLATE.faces, 2)
    expected = {
        "keypoint": keypoint_loss(projected[:, :4, :2], batch["keypoints"], batch["keypoint_visible"]),
        "mask": (rendering.silhouette(projected, model.faces, 64) - mask).square().mean(),
        "rigidity": mesh_losses.edge_rigidity(prediction.verts, TEMPLATE.verts, pairs).mean(),
        "laplacian": mesh_losses.laplacian_loss(prediction.verts, model.faces),
        "camera": camera_loss(prediction.camera, batch["camera"]),
        "texture": ((picture - batch["image"]).abs() * mask[:, None]).mean(),
    }
    assert set(terms) == {"loss", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], getattr(default, name) * value)
    torch.testing.assert_close(terms["loss"], sum(value for name, value in terms.items() if name != "loss"))
    torch.testing.assert_close(model.keypoints(prediction.verts), prediction.verts[:, :4])
    assert set(model.loss(batch, Weights(mask=0, camera=0, texture=0))) == {"loss", "keypoint", "rigidity", "laplacian"}
    with pytest.raises(ValueError, match="lacks 'camera'"):
        model.loss({name: value for name, value in batch.items() if name != "camera"})
    with pytest.raises(ValueError, match="make it with keypoint_vertices"):
        Articulated(TEMPLATE, BALL.verts, LAYERS[deformation](), **SIZES).loss(batch)


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(ValueError, match="deformation must tell its offset_shape, which Identity does not"):
        Articulated(TEMPLATE, BALL.verts, torch.nn.Identity(), **SIZES)
    with pytest.raises(ValueError, match="sphere"):
        Articulated(TEMPLATE, BALL.verts[:10], LAYERS["free"](), **SIZES)
    with pytest.raises(ValueError, match="offsets"):
        FreeVertices(TEMPLATE)(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="images"):
        make_model()(torch.rand(2, 3, 32, 32))


def test_heat_maps_show_keypoints_to_the_camera_head_and_are_paid_for():
    torch.manual_seed(0)
    model = Articulated(TEMPLATE, BALL.verts, HandleLayer(TEMPLATE, 5), torch.arange(4), heat_maps=4, **SIZES)
    prediction = model(torch.rand(2, 3, 64, 64))
    assert prediction.keypoints.shape == (2, 4, 2) and model.camera_head.in_features == 16 + 8
    prediction.camera.sum().backward()
    assert model.heat_maps.maps[-1].weight.grad.ne(0).any()
    without = make_model()
    assert without(torch.rand(2, 3, 64, 64)).keypoints.shape == (2, 0, 2)
    batch = {
        "image": torch.rand(2, 3, 64, 64),
        "mask": torch.rand(2, 64, 64),
        "keypoints": torch.rand(2, 4, 2),
        "keypoint_visible": torch.ones(2, 4, dtype=torch.bool),
        "camera": torch.tensor([[0.8, 0, 0, 1, 0, 0, 0]]).expand(2, 7),
    }
    terms = model.loss(batch, rotation="chordal")
    assert "heat maps" in terms and "heat maps" not in without.loss(batch)


def test_the_head_of_the_pose_reads_keypoints_and_camera_without_teaching_them():
    torch.manual_seed(0)
    layer = FreeVertices(TEMPLATE)
    model = Articulated(TEMPLATE, BALL.verts, layer, torch.arange(4), posing=True, heat_maps=4, **SIZES).eval()
    images = torch.rand(2, 3, 64, 64)
    found = model(images)
    assert found.offsets.shape == (2, *layer.offset_shape) and found.keypoints.shape == (2, 4, 2)
    found.offsets.square().sum().backward()
    assert model.camera_head.weight.grad is None
    assert all(parameter.grad is None for parameter in model.heat_maps.parameters())
    assert model.encoder.trunk.conv1.weight.grad is not None
    code, camera = torch.rand(1, 16), found.camera[:1].detach()
    here, there = (
        model.shape(model.seen_by_shape(code, at, camera))[0] for at in (torch.zeros(1, 4, 2), torch.ones(1, 4, 2))
    )
    assert (here - there).abs().max() > 0


def test_details_that_are_kept_cost_nothing_at_rest():
    kept, flattened = (PoseCost(TEMPLATE, torch.arange(4), keep_details=keep) for keep in (True, False))
    only = Weights(keypoint=0, mask=0, rigidity=0, laplacian=1)
    camera, rest = WeakPerspective.from_vector(torch.tensor([[0.5, 0, 0, 1, 0, 0, 0]])), TEMPLATE.verts[None]
    assert kept(rest + 0.3, camera, {}, only)["laplacian"] < 1e-6
    assert flattened(rest, camera, {}, only)["laplacian"] > 1e-3


def test_smooth_steps_reach_every_shape_and_spread_a_pull():
    plain, smooth = FreeVertices(TEMPLATE), FreeVertices(TEMPLATE, 5.0)
    arrow = torch.tensor([0.1, -0.2, 0.3]).expand(1, len(TEMPLATE.verts), 3)
    assert torch.allclose(smooth(arrow), plain(arrow), atol=1e-5)
    goal = torch.randn(1, len(TEMPLATE.verts), 3)
    assert torch.allclose(smooth(torch.linalg.solve(smooth.smooth, goal)), plain(goal), atol=1e-3)
    offsets = torch.zeros(1, len(TEMPLATE.verts), 3, requires_grad=True)
    smooth(offsets)[0, 0].sum().backward()
    assert (offsets.grad.norm(dim=-1) > 0).all() and offsets.grad[0, 0].norm() == offsets.grad.norm(dim=-1).max()
