from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lib import evaluation, rendering, training
from lib.datasets import augmentation
from lib.datasets.synthetic import creatures
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import foreground_distance, sample_image
from lib.geometry.mesh import icosphere, mirror_permutation
from lib.geometry.rotations import matrix_to_quaternion, random_rotations, view_rotation
from lib.layers.convolutional import ResNet18
from lib.layers.sphere import sphere_coordinates
from lib.losses.keypoints import assignment_entropy, camera_loss, keypoint_loss, visible_distance
from lib.losses.mesh import laplacian_loss
from lib.losses.photometric import outside_loss, perceptual_distance
from lib.models.cmr import CMR, Weights

STRETCH = torch.tensor([1.0, 0.6, 0.4])
PERMUTATION = torch.tensor([0, 2, 1, 3])


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    ball = icosphere(2)
    mirror = mirror_permutation(ball.verts)
    model = CMR(
        0.7 * ball.verts * STRETCH,
        ball.faces,
        ball.verts,
        mirror,
        PERMUTATION,
        image_size=64,
        width=4,
        map_channels=8,
        features=16,
        texture_size=16,
        texture_width=4,
        **options,
    )
    with torch.no_grad():
        model.logits.normal_()
    return model


def make_camera(count, generator=None):
    rotation = random_rotations(count, generator=generator)
    scale, translation = 0.8 + 0.1 * torch.rand(count), 0.1 * torch.randn(count, 2)
    return WeakPerspective(scale, translation, matrix_to_quaternion(rotation))


def side_view():
    return WeakPerspective(torch.ones(1), torch.zeros(1, 2), matrix_to_quaternion(view_rotation(*torch.zeros(2, 1))))


def test_shape_and_offsets_are_symmetric():
    model = make_model()
    prediction = model(torch.rand(2, 3, 64, 64))
    assert prediction.offsets.shape == (2, 162, 3)
    assert prediction.camera.shape == (2, 7) and prediction.flow.shape == (2, 16, 32, 2)
    mirrored = model.mirror
    for verts in (model.mean_shape[None], prediction.offsets):
        torch.testing.assert_close(verts[:, mirrored] * torch.tensor([1, 1, -1]), verts, atol=0, rtol=0)
    start = 0.7 * icosphere(2).verts * STRETCH
    torch.testing.assert_close(make_model().mean_shape, start, atol=1e-6, rtol=0)


def test_offsets_may_be_asymmetric_about_a_symmetric_mean():
    model = make_model(symmetric_offsets=False)
    offset = model(torch.rand(2, 3, 64, 64)).offsets
    assert offset.shape == (2, 162, 3)
    assert (offset[:, model.mirror] * torch.tensor([1, 1, -1]) - offset).abs().max() > 1e-5
    mean = model.mean_shape
    torch.testing.assert_close(mean[model.mirror] * torch.tensor([1, 1, -1]), mean, atol=0, rtol=0)


def test_camera_head_starts_at_the_side_view():
    model = make_model().eval()
    camera = model(torch.rand(3, 3, 64, 64)).camera
    torch.testing.assert_close(camera[:, 3:].norm(dim=-1), torch.ones(3))
    assert camera_loss(camera, side_view().to_vector().expand(3, 7)) < 0.05


def test_predicted_rotation_is_continuous_on_a_full_turn():
    model = make_model().eval()
    angles = torch.linspace(0, 2 * math.pi, 61)
    with torch.no_grad():
        model.camera_head.weight.zero_()
        # The code is the view's direction; the six numbers of the rotation are linear in it.
        front, side = view_rotation(torch.tensor(math.pi / 2), torch.zeros(())), view_rotation(*torch.zeros(2))
        model.camera_head.bias[3:] = 0
        model.camera_head.bias[6:] = side[1]
        model.camera_head.weight[3:6, 0], model.camera_head.weight[3:6, 1] = side[0], front[0]
        code = torch.zeros(61, model.camera_head.in_features)
        code[:, 0], code[:, 1] = angles.cos(), angles.sin()
        turning = WeakPerspective.from_vector(model.camera(code))
    torch.testing.assert_close(turning.rotation, view_rotation(angles, torch.zeros(61)), atol=1e-5, rtol=0)


def test_mixed_precision_keeps_the_geometry_in_float32():
    model = make_model().eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images)
    assert all(value.dtype == torch.float32 for value in mixed)
    torch.testing.assert_close(mixed.camera[:, 3:].norm(dim=-1), torch.ones(2))


def test_assignment_is_a_symmetric_distribution():
    model = make_model()
    assignment = model.assignment
    torch.testing.assert_close(assignment.sum(-1), torch.ones(4))
    torch.testing.assert_close(assignment[PERMUTATION][:, model.mirror], assignment)
    keypoints = model.keypoints(model.mean_shape[None])[0]
    torch.testing.assert_close(keypoints[PERMUTATION] * torch.tensor([1, 1, -1]), keypoints)
    torch.nn.init.zeros_(model.logits)
    assert assignment_entropy(model.assignment).item() == pytest.approx(math.log(162))


def test_gradients_of_shape_camera_keypoints_and_mask_reach_their_heads():
    model = make_model()
    prediction = model(torch.rand(2, 3, 64, 64))
    verts = prediction.verts
    projected = WeakPerspective.from_vector(prediction.camera).project(verts)
    keypoints = model.assignment @ projected
    loss = rendering.silhouette(projected, model.faces, 32).sum() + keypoints.square().sum()
    loss.backward()
    for name in ("mean_half", "logits", "offset_head.weight", "camera_head.weight", "encoder.trunk.conv1.weight"):
        assert model.get_parameter(name).grad.abs().max() > 0


def test_texture_loss_leaves_the_gradient_of_the_shape_at_exactly_zero():
    model = make_model()
    images = torch.rand(2, 3, 64, 64)
    masks = torch.zeros(2, 64, 64)
    masks[:, 16:48, 8:56] = 1
    prediction = model(images)
    shape = prediction.verts.detach().requires_grad_()
    camera = make_camera(2).to_vector().requires_grad_()
    texture = sample_image(images, prediction.flow)
    picture = model.paint(shape, WeakPerspective.from_vector(camera), texture, 64)
    features = ResNet18(4, pool=False).eval().requires_grad_(False)
    inside = masks[:, None]
    loss = perceptual_distance(features.stages, picture * inside, images * inside).mean()
    loss = loss + outside_loss(prediction.flow, foreground_distance(masks))
    loss.backward()
    assert model.texture_head.last.weight.grad.abs().max() > 0
    assert shape.grad is None and camera.grad is None
    assert model.mean_half.grad is None and model.logits.grad is None
    for head in (model.offset_head, model.camera_head):
        assert head.weight.grad is None and head.bias.grad is None


def test_paint_puts_the_texture_where_it_belongs():
    """Red on the animal's right, blue on its left, a bright face: seen from both sides."""
    model = make_model()
    texture = torch.zeros(1, 3, 16, 32)
    texture[:, 0, :, 16:] = 1
    texture[:, 2, :, :16] = 1
    texture[:, 1, :, 14:18] = 1
    quaternion = matrix_to_quaternion(view_rotation(torch.tensor([0.0, math.pi, math.pi / 2]), torch.zeros(3)))
    cameras = WeakPerspective(torch.ones(3), torch.zeros(3, 2), quaternion)
    picture = model.paint(model.mean_shape[None].expand(3, -1, -1), cameras, texture.expand(3, -1, -1, -1), 64)
    assert picture.shape == (3, 3, 64, 64)
    right, left, face = picture[:, :, 32, 32]
    assert right.tolist() == [1, 0, 0] and left.tolist() == [0, 0, 1] and face[1] > 0.9
    assert (picture[:, :, 2, 2] == 1).all()
    # At azimuth 0 the camera stands on +z, the animal's right, and its face is towards the right of the picture.
    assert picture[0, 1, 32, 32:54].max() > 0.9 and picture[0, 1, 32, 12:32].max() < 0.1
    colors = model.vertex_colors(texture)[0]
    side = model.mean_shape[:, 2]
    assert colors[side > 0.1, 0].min() > 0.9 and colors[side < -0.1, 2].min() > 0.9


def test_mirrored_batch_is_as_true_as_the_batch():
    """The chapter's identity: mirrored picture, exchanged keypoints, mirrored camera, no error."""
    generator = torch.Generator().manual_seed(0)
    model = make_model()
    verts = model.mean_shape.detach()[None].expand(4, -1, -1)
    camera = make_camera(4, generator)
    picture = torch.zeros(1, 3, 16, 32)
    picture[:, 1] = torch.linspace(0, 1, 16)[:, None]
    picture[:, 0] = (torch.arange(32) - 15.5).abs() / 16
    with torch.no_grad():
        projected = camera.project(verts)
        batch = {
            "image": model.paint(verts, camera, picture.expand(4, -1, -1, -1), 64),
            "mask": rendering.rasterize(projected, model.faces, 64).mask.float(),
            "keypoints": model.assignment @ projected[..., :2],
            "keypoint_visible": torch.rand(4, 4) > 0.5,
            "camera": camera.to_vector(),
            "index": torch.arange(4),
        }
    chosen = torch.tensor([True, False, True, True])
    mirrored = augmentation.mirror(batch, chosen, PERMUTATION)
    camera = WeakPerspective.from_vector(mirrored["camera"])
    projected = camera.project(verts)
    torch.testing.assert_close((model.assignment @ projected[..., :2]), mirrored["keypoints"], atol=1e-5, rtol=0)
    drawn = rendering.rasterize(projected, model.faces, 64).mask.float()
    assert (drawn != mirrored["mask"]).float().mean() < 1e-3
    again = model.paint(verts, camera, picture.expand(4, -1, -1, -1), 64)
    assert (again - mirrored["image"]).abs().mean() < 1e-3
    assert torch.equal(mirrored["image"][1], batch["image"][1]) and torch.equal(
        mirrored["camera"][1], batch["camera"][1]
    )
    assert torch.equal(mirrored["image"][0], batch["image"][0].flip(-1))
    assert torch.equal(mirrored["keypoint_visible"][0], batch["keypoint_visible"][0][PERMUTATION])
    assert torch.equal(mirrored["index"], batch["index"])
    twice = augmentation.mirror(mirrored, chosen, PERMUTATION)
    torch.testing.assert_close(WeakPerspective.from_vector(twice["camera"]).rotation, make_rotation(batch["camera"]))
    torch.testing.assert_close(twice["keypoints"], batch["keypoints"])


def make_rotation(vector):
    return WeakPerspective.from_vector(vector).rotation


def test_jittered_batch_is_as_true_as_the_batch():
    generator = torch.Generator().manual_seed(0)
    model = make_model()
    verts = model.mean_shape.detach()[None].expand(4, -1, -1)
    camera = make_camera(4, generator)
    projected = camera.project(verts)
    mask = rendering.rasterize(projected, model.faces, 64).mask.float()
    batch = {
        "image": mask[:, None].expand(-1, 3, -1, -1),
        "mask": mask,
        "distances": foreground_distance(mask),
        "keypoints": (model.assignment @ projected[..., :2]).detach(),
        "keypoint_visible": torch.ones(4, 4, dtype=torch.bool),
        "camera": camera.to_vector(),
    }
    scale, shift = torch.tensor([1.1, 0.9, 1.0, 1.05]), torch.tensor([[0.1, 0], [0, -0.1], [0, 0], [0.03, 0.04]])
    moved = augmentation.jitter(batch, scale, shift)
    projected = WeakPerspective.from_vector(moved["camera"]).project(verts)
    torch.testing.assert_close(model.assignment @ projected[..., :2], moved["keypoints"])
    drawn = rendering.rasterize(projected, model.faces, 64).mask.float()
    assert ((moved["mask"] - drawn).abs() > 0.5).float().mean() < 0.02
    torch.testing.assert_close(moved["image"][2], batch["image"][2], atol=1e-4, rtol=0)
    assert (moved["distances"] - foreground_distance(moved["mask"])).abs().mean() < 0.01


def test_keypoint_loss_counts_hidden_points_as_zero():
    pred, target = torch.tensor([[[0.0, 0], [1, 1]]]), torch.tensor([[[0.3, 0.4], [float("nan"), 5]]])
    visible = torch.tensor([[True, False]])
    assert keypoint_loss(pred, target, visible) == pytest.approx((0.09 + 0.16) / 4)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.floats(0, math.pi), st.booleans())
def test_camera_loss_is_a_function_of_the_angle(angle, negated):
    a = torch.tensor([[1.0, 0, 0, 1, 0, 0, 0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 0, 0, math.cos(angle / 2), math.sin(angle / 2), 0, 0]], dtype=torch.float64)
    b[:, 3:] *= -1 if negated else 1
    assert camera_loss(a, b) == pytest.approx(1 - math.cos(angle / 2), abs=1e-9)
    # ‖R − R'‖_F = 2 √2 sin(θ/2)
    assert camera_loss(a, b, "chordal") == pytest.approx(math.sqrt(2) * math.sin(angle / 2), abs=1e-7)
    b[:, 1] += 0.3
    assert camera_loss(a, b) == pytest.approx(1 - math.cos(angle / 2) + 0.09 / 3, abs=1e-9)


def test_the_chordal_loss_answers_doubt_with_one_of_two_and_the_other_with_their_middle():
    """Two equally likely rotations, 120° apart: where on the way between them is the loss least?"""

    def camera(degrees):
        half = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float64)) / 2
        zero = torch.zeros_like(half)
        return torch.stack([zero + 1, zero, zero, half.cos(), zero, half.sin(), zero], -1)

    way = torch.linspace(0, 120, 25)
    for rotation, expected in (("quaternion", 60.0), ("chordal", 0.0)):
        mean = [
            (camera_loss(camera([d]), camera([0.0]), rotation) + camera_loss(camera([d]), camera([120.0]), rotation))
            / 2
            for d in way
        ]
        best = way[torch.stack(mean).argmin()]
        assert min(abs(best - expected), abs(120 - best - expected)) < 6
    with pytest.raises(ValueError, match="rotation='geodesic' is unknown"):
        camera_loss(camera([0.0]), camera([0.0]), "geodesic")


def test_gradients_of_the_losses():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    visible = torch.tensor([[True, False, True], [True, True, True]])
    target = random(2, 3, 2)
    pred = random(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda pred: keypoint_loss(pred, target, visible), pred)
    camera = random(2, 7)
    for rotation in ("quaternion", "chordal"):
        loss = lambda pred: camera_loss(pred, camera, rotation)  # noqa: B023, E731
        assert torch.autograd.gradcheck(loss, random(2, 7).requires_grad_())
    same = camera.clone().requires_grad_()
    camera_loss(same, camera, "chordal").backward()
    assert same.grad.isfinite().all()
    assert torch.autograd.gradcheck(lambda x: assignment_entropy(x.softmax(-1)), random(3, 5).requires_grad_())
    distances = random(2, 8, 8).abs()
    points = (0.5 * random(2, 3, 4, 2)).clamp(-0.8, 0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda points: outside_loss(points, distances), points)
    images = random(2, 3, 6, 6)

    def features(x):
        return [x, F.avg_pool2d(x, 2)]

    pred = random(2, 3, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda pred: perceptual_distance(features, pred, images), pred)


def test_perceptual_distance_orders_what_the_eye_orders():
    torch.manual_seed(0)
    network = ResNet18(16, pool=False).eval().requires_grad_(False)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = torch.stack([(8 * x).sin() > 0, (6 * y).cos() > 0, x * y > 0]).float()[None]
    shifted = image.roll(1, -1)
    other = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def stages(images):
        return network.stages(images, 3)

    same, near, far = (perceptual_distance(stages, image, b).item() for b in (image, shifted, other))
    assert same == 0 and 0 < near < far


def test_vertices_and_pixels_agree_on_the_texture():
    model = make_model()
    texture = torch.rand(1, 3, 16, 32)
    texture = (texture + texture.flip(-1)) / 2
    colors = model.vertex_colors(texture)
    at = sphere_coordinates(model.sphere)[None, None]
    torch.testing.assert_close(colors, sample_image(texture, at)[:, :, 0].mT)


def make_batch(model, count=3):
    mask = torch.zeros(count, 64, 64)
    mask[:, 16:48, 8:56] = 1
    return {
        "image": torch.rand(count, 3, 64, 64),
        "mask": mask,
        "distances": foreground_distance(mask),
        "keypoints": torch.rand(count, 4, 2) - 0.5,
        "keypoint_visible": torch.rand(count, 4) > 0.3,
        "camera": make_camera(count).to_vector(),
    }


def test_the_loss_is_the_sum_of_the_papers_terms_and_two_of_the_courses():
    model = make_model(heat_maps=4).eval()
    batch, weights = make_batch(model), Weights()
    features = ResNet18(4, pool=False).eval().requires_grad_(False)
    terms = model.loss(batch, features=features.stages)
    prediction, camera = model(batch["image"]), WeakPerspective.from_vector(batch["camera"])
    torch.testing.assert_close(prediction.verts, model.mean_shape + prediction.offsets)
    projected = camera.project(prediction.verts)
    drawn = rendering.silhouette(projected, model.faces, 64)
    picture = model.paint(prediction.verts, camera, sample_image(batch["image"], prediction.flow), 64)
    pair = [pictures * batch["mask"][:, None] for pictures in (picture, batch["image"])]
    keypoints = model.assignment @ projected[..., :2]
    expected = {
        "camera": camera_loss(prediction.camera, batch["camera"], "chordal"),
        "deformation": prediction.offsets.norm(dim=-1).mean(),
        "keypoint": keypoint_loss(keypoints, batch["keypoints"], batch["keypoint_visible"]),
        "laplacian": laplacian_loss(prediction.verts, model.faces),
        "entropy": assignment_entropy(model.assignment),
        "mask": (drawn - batch["mask"]).square().mean(),
        "texture": perceptual_distance(features.stages, *pair).mean(),
        "outside": outside_loss(prediction.flow, batch["distances"]),
        "pointing": model.pointing_loss(prediction.flow, projected, batch["mask"]),
        "heat_map": visible_distance(prediction.keypoints, batch["keypoints"], batch["keypoint_visible"]),
    }
    assert set(terms) == {"loss", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], getattr(weights, name) * value)
    torch.testing.assert_close(terms["loss"], sum(value for name, value in terms.items() if name != "loss"))


def test_terms_without_weight_are_not_computed_and_the_mean_shape_needs_no_network():
    model = make_model()
    batch = make_batch(model)
    alone = Weights(camera=0, texture=0, outside=0, pointing=0)
    del batch["distances"]
    terms = model.loss(batch, alone, deform=False)
    assert set(terms) == {"loss", "keypoint", "laplacian", "entropy", "mask"}
    terms["loss"].backward()
    assert model.encoder.trunk.conv1.weight.grad is None and model.mean_half.grad.abs().max() > 0
    assert "deformation" in model.loss(batch, alone)
    with pytest.raises(ValueError, match="the batch lacks 'distances'"):
        model.loss(batch)


@pytest.mark.parametrize("symmetric", [True, False])
def test_smoothing_changes_the_steps_not_the_start_and_no_vertex_crosses_the_plane(symmetric):
    plain, smooth = (make_model(symmetric_offsets=symmetric, smoothing=strength) for strength in (0.0, 4.0))
    torch.testing.assert_close(smooth.mean_shape, plain.mean_shape, atol=1e-5, rtol=0)
    steps = []
    for model in (plain, smooth):
        loss = model.mean_shape[5, 1]
        (step,) = torch.autograd.grad(loss, model.mean_half)
        steps.append((step[:, 1].abs() > 0.01 * step[:, 1].abs().max()).sum().item())
        code = torch.randn(3, 16)
        with torch.no_grad():
            model.offset_head.weight.normal_(std=0.5)
        offsets, verts = model.shape(code)
        torch.testing.assert_close(model.mean_shape + offsets, verts)
        off_plane = model.mirror != torch.arange(162)
        assert (verts[..., 2] * model.sphere[:, 2])[:, off_plane].min() >= -1e-6
    assert steps[0] <= 2 and steps[1] > 10


def test_only_visible_points_count_and_doubt_is_answered_by_the_likelier_place():
    target, visible = torch.zeros(2, 3, 2), torch.tensor([[True, True, False], [False, True, False]])
    pred = torch.zeros(2, 3, 2)
    pred[0, 0, 0], pred[1, 1, 1], pred[1, 2] = 3.0, 6.0, 100.0
    assert visible_distance(pred, target, visible).item() == pytest.approx(3.0)
    assert visible_distance(pred, target, visible & False).item() == 0
    truths = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]])  # two to one
    answers = [torch.tensor([x, 0.0]).expand(3, 1, 2) for x in (0.0, 1 / 3, 1.0)]
    likelier, mean, other = (visible_distance(a, truths, torch.ones(3, 1, dtype=torch.bool)).item() for a in answers)
    assert likelier < mean < other


def test_the_flow_is_told_where_visible_vertices_are():
    model, generator = make_model(), torch.Generator().manual_seed(0)
    projected = make_camera(2, generator).project(model.mean_shape.expand(2, -1, -1))
    flow = (torch.rand(2, 16, 32, 2, generator=generator) - 0.5).requires_grad_()
    mask = torch.ones(2, 64, 64)
    loss = model.pointing_loss(flow, projected, mask)
    colors = model.vertex_colors(torch.cat([flow.permute(0, 3, 1, 2), flow[..., :1].permute(0, 3, 1, 2)], 1))[..., :2]
    seen = rendering.visible_vertices(projected, model.faces, 64)
    expected = (colors - projected[..., :2]).norm(dim=-1)[seen].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.pointing_loss(flow, projected, 0 * mask).item() == 0  # nothing on the mask: nothing to tell
    before = loss.item()
    optimizer = torch.optim.Adam([flow], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.pointing_loss(flow, projected, mask)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * before


def test_it_learns_the_camera_and_on_dealt_out_pictures_it_does_not():
    """The sabotage in miniature: cameras of new pictures are found only if pictures and annotations belong together."""
    options = dict(seed=0, image_size=64)
    made = {split: creatures.make_creatures("quadruped", 48, split=split, **options) for split in ("train", "test")}
    data, new = ({**part.annotated()[0], "camera": part.annotated()[1]["camera"]} for part in made.values())
    horse, ball = creatures.template("quadruped"), icosphere(3)
    weights = Weights(mask=0, texture=0, outside=0, pointing=0, laplacian=0)
    errors = {}
    for name, pictures in (("honest", data), ("dealt out", evaluation.shuffle_pictures(data))):
        torch.manual_seed(0)
        model = CMR(
            *(horse.verts, horse.faces, ball.verts, horse.mirror, horse.keypoint_permutation),
            **dict(image_size=64, width=8, map_channels=16, features=64, texture_size=16, texture_width=4),
            heat_maps=19,
        )
        training.fit(
            model,
            lambda model, batch, step: model.loss(augmentation.augment(batch, horse.keypoint_permutation), weights),
            pictures,
            **dict(steps=90, batch_size=16, lr=3e-3, seed=0),
        )
        guess = evaluation.predict(model, new["image"])
        errors[name] = visible_distance(guess.keypoints, new["keypoints"], new["keypoint_visible"]).item()
    assert errors["honest"] < 0.75 * errors["dealt out"], errors


def test_several_cameras_start_all_around_and_the_believed_one_is_returned():
    model = make_model(cameras=4).eval()
    with torch.no_grad():
        model.camera_head.weight.zero_()
        code = torch.randn(5, model.camera_head.in_features)
        proposals, scores = model.cameras(code)
        chosen = model.camera(code)
    assert proposals.shape == (5, 4, 7)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(5))
    angles = torch.arange(4) * math.pi / 2
    rotations = WeakPerspective.from_vector(proposals[0]).rotation
    torch.testing.assert_close(rotations, view_rotation(angles, torch.zeros(4)), atol=1e-5, rtol=0)
    for i, best in enumerate(scores.argmax(1)):
        assert torch.equal(chosen[i], proposals[i, best])
    with pytest.raises(ValueError, match="cameras must be 1 or more"):
        make_model(cameras=0)
