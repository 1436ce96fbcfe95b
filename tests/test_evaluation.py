"""Prediction in batches, scores of the truth, and sabotage: whoever does not look at the picture is found out."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lib import evaluation, rendering
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import Mesh, icosphere
from lib.geometry.rotations import matrix_to_quaternion, random_rotations
from lib.models.category import Prediction

BALL = icosphere(2)
MARKS = torch.tensor([0, 3, 5, 8, 11, 40])
COUNT = 12


class Category(nn.Module):
    """Stands for a category model where only its mesh and its keypoints matter."""

    faces = BALL.faces

    def keypoints(self, verts):
        return verts[:, MARKS]


def make_world(seed=0):
    """Ellipsoids of different proportions from all sides, and a network's nearly right prediction of each."""
    generator = torch.Generator().manual_seed(seed)
    stretch = torch.tensor([1.0, 0.6, 0.35]) * (1 + 0.3 * torch.randn(COUNT, 1, 3, generator=generator))
    verts = 0.6 * BALL.verts * stretch
    rotation = random_rotations(COUNT, generator)
    camera = WeakPerspective(torch.full((COUNT,), 0.9), torch.zeros(COUNT, 2), matrix_to_quaternion(rotation))
    projected = camera.project(verts)
    pictures = {
        "image": torch.rand(COUNT, 3, 32, 32, generator=generator),
        "mask": rendering.rasterize(projected, BALL.faces, 32).mask.float(),
        "keypoints": projected[:, MARKS, :2],
        "keypoint_visible": torch.ones(COUNT, len(MARKS), dtype=torch.bool),
        "camera": camera.to_vector(),
    }
    truth = {"camera": camera.to_vector(), "keypoints_3d": verts[:, MARKS]}
    truth["meshes"] = [Mesh(one, BALL.faces) for one in verts]
    found = verts + 0.01 * torch.randn(verts.shape, generator=generator)
    vector = camera.to_vector() + 0.02 * torch.randn(COUNT, 7, generator=generator)
    return evaluation.Exam(pictures, truth), Prediction(
        found - BALL.verts, found, vector, torch.zeros(COUNT, 2, 2, 2), vector[:, :0, None]
    )


def test_batches_are_joined_on_the_cpu_and_the_mode_is_put_back():
    class Pair(NamedTuple):
        mean: Tensor
        parts: dict[str, Tensor]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images):
            assert not self.training and not torch.is_grad_enabled()
            return Pair(self.norm(images).mean((1, 2, 3)), {"first": images[:, 0]})

    network, images = Network(), torch.rand(7, 3, 4, 4)
    whole, parts = (evaluation.predict(network, images, size) for size in (7, 3))
    assert isinstance(parts, Pair) and network.training
    torch.testing.assert_close(parts.mean, whole.mean)
    assert torch.equal(parts.parts["first"], images[:, 0])


def test_the_truth_scores_what_nobody_can_beat():
    exam, prediction = make_world()
    best = evaluation.truth_against_itself(exam)
    assert best["mIoU"] == 1 and best["PCK@0.1"] == 1 and best["rotation"] < 0.1
    assert 0.5 < best["3D error"] < 4  # the spacing of the sample, in % of the diameter
    scores = evaluation.judge(Category(), prediction, exam)
    assert scores["own"].keys() == scores["given"].keys() == best.keys()
    for name, value in scores["own"].items():
        worse = value > best[name] if name in ("rotation", "3D error") else value < best[name]
        assert worse or value == best[name], name
    assert scores["own"]["3D error"] == scores["given"]["3D error"]
    turned = evaluation.truth_against_itself(exam, evaluation.shuffled(exam.truth["camera"]))
    assert turned["mIoU"] < 0.8 and turned["rotation"] > 30 and turned["3D error"] == best["3D error"]


def test_keypoints_that_coincide_have_no_3d_error():
    exam, prediction = make_world()
    collapsed = torch.zeros(COUNT, len(MARKS), 3)
    scores = evaluation.judge(Category(), prediction, exam, collapsed)
    assert math.isnan(scores["own"]["3D error"]) and scores["own"]["mIoU"] > 0.8


def test_a_part_of_the_exam():
    exam, prediction = make_world()
    which = torch.tensor([5, 2, 7])
    some, whole = exam[which], evaluation.judge(Category(), prediction, exam)
    assert len(some) == 3 and torch.equal(some.box, exam.box[which])
    part = evaluation.judge(Category(), Prediction(*(values[which] for values in prediction)), some)
    assert 0.7 < part["own"]["mIoU"] <= 1 and part["own"] != whole["own"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sabotage_fails_the_bands_that_the_prediction_passes(seed):
    """The miniature: what follows the picture passes, what does not is found out by each band on its own."""
    exam, prediction = make_world(seed)
    _, training = make_world(seed + 10)
    at_rest = BALL.verts.expand(COUNT, -1, -1)
    untrained = Prediction(
        0 * at_rest, at_rest, torch.tensor([1.0, 0, 0, 1, 0, 0, 0]).expand(COUNT, 7), *prediction[3:]
    )
    controls = evaluation.category_controls(prediction, training=training, cameras=training.camera, untrained=untrained)
    scores = {name: evaluation.judge(Category(), control, exam) for name, control in controls.items()}
    good = evaluation.judge(Category(), prediction, exam)
    own, given = ({name: score[view] for name, score in scores.items()} for view in ("own", "given"))

    def of(table, metric):
        return {name: values[metric] for name, values in table.items()}

    assert good["own"]["rotation"] < 15 and good["own"]["PCK@0.1"] > 0.6
    assert set(evaluation.passing(of(own, "rotation"), high=15)) == {"mean for everybody"}  # its camera is its own
    assert good["given"]["3D error"] < 3.5
    blind = {name: value for name, value in of(given, "3D error").items() if name != "constant camera"}
    assert not evaluation.passing(blind, high=good["given"]["3D error"])
    weak = evaluation.passing(of(own, "mIoU"), low=0.01)  # a band that proves nothing lets all pass
    assert set(weak) == set(controls)


def test_dealing_leaves_nobody_in_place_and_loses_nobody():
    for count in (2, 3, 50):
        permutation = evaluation.dealt(count, seed=count)
        assert sorted(permutation.tolist()) == list(range(count))
        assert (permutation != torch.arange(count)).all()
    with pytest.raises(ValueError, match="at least two"):
        evaluation.dealt(1)
    data = {"image": torch.rand(4, 3, 2, 2), "mask": torch.rand(4, 2, 2)}
    other = evaluation.shuffle_pictures(data)
    assert torch.equal(other["mask"], data["mask"]) and not (other["image"] == data["image"]).flatten(1).all(1).any()


def test_the_same_for_everybody():
    values = {"depth": torch.rand(4, 2, 2), "view": torch.rand(4, 6)}
    mean = evaluation.mean_for_everybody(values, "depth")
    torch.testing.assert_close(mean["depth"], values["depth"].mean(0).expand(4, 2, 2))
    assert torch.equal(mean["view"], values["view"])
    other = evaluation.mean_for_everybody(values, "depth", reference={"depth": torch.ones(9, 2, 2)})
    assert (other["depth"] == 1).all() and other["depth"].shape == (4, 2, 2)
    assert (evaluation.constant(values, view=torch.arange(6.0))["view"] == torch.arange(6.0)).all()
    with pytest.raises(ValueError, match="no 'shape'; it has depth, view"):
        evaluation.mean_for_everybody(values, "shape")


def test_the_best_constant_camera_is_in_the_middle():
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 3.0])
    quaternion = torch.stack([(angles / 2).cos(), 0 * angles, (angles / 2).sin(), 0 * angles], -1)
    cameras = torch.cat([torch.arange(1.0, 6.0)[:, None], torch.zeros(5, 2), quaternion], 1)
    best = evaluation.constant_camera(cameras)
    torch.testing.assert_close(best, torch.cat([torch.tensor([3.0, 0, 0]), quaternion[1]]), atol=0.11, rtol=0)


def test_depth_maps_are_judged_and_sabotaged_alike():
    """Bowls with their nose at different places: who gives everybody the mean bowl has seen nothing."""
    x = torch.linspace(-1, 1, 24)
    shift = torch.linspace(-0.6, 0.6, 6)[:, None, None]
    truth = 1 - 0.05 * torch.exp(-((x[None, None] - shift) ** 2 + x[None, :, None] ** 2) / 0.1)
    mask = torch.ones_like(truth)
    exact = evaluation.depth_scores(truth, truth, mask, 11.43)
    assert exact == pytest.approx({"SIDE": 0, "MAD": 0}, abs=0.05)
    good = evaluation.depth_scores(truth + 0.002 * torch.sin(9 * x), truth, mask, 11.43)
    blind = {
        "shuffled": evaluation.shuffled(truth),
        "mean for everybody": truth.mean(0).expand_as(truth),
        "constant": torch.ones_like(truth),
    }
    scores = {name: evaluation.depth_scores(depth, truth, mask, 11.43) for name, depth in blind.items()}
    for metric in ("SIDE", "MAD"):
        assert not evaluation.passing({name: score[metric] for name, score in scores.items()}, high=1.2 * good[metric])


def test_bands_and_controls():
    controls = {"shuffled": 0.5, "constant": 0.9, "untrained": math.nan}
    assert evaluation.passing(controls, low=0.8) == ["constant"]
    assert evaluation.passing(controls, low=0.4, high=0.6) == ["shuffled"]
    assert evaluation.passing(controls, high=0.4) == []
    with pytest.raises(ValueError, match="band is missing"):
        evaluation.passing(controls)
