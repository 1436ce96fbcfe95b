"""The network that points: shapes, targets, what each loss sees, gradients through the solver, and bad input."""

import pytest
import torch

from lib import evaluation, training
from lib.datasets import augmentation
from lib.datasets.synthetic import creatures
from lib.estimation import structure_from_motion as sfm
from lib.geometry.cameras import WeakPerspective
from lib.models import to_the_point
from lib.models.to_the_point import Points, ToThePoint, Weights

SIZES = {"image_size": 64, "width": 4, "map_channels": 8, "features": 16, "modes": 6, "spots": 20}
HORSE = creatures.template("quadruped")
AT = HORSE.keypoint_vertices


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    return ToThePoint(HORSE.mesh, AT, **(SIZES | options))


@pytest.fixture(scope="module")
def herd():
    data, truth = creatures.make_creatures("quadruped", 12, seed=0, image_size=64).annotated()
    cameras = sfm.resect(HORSE.verts[AT], data["keypoints"], data["keypoint_visible"])
    return data | {"camera": cameras.to_vector()}, truth


@pytest.mark.parametrize("head", to_the_point.HEADS)
def test_shapes_and_ranges(head):
    model = make_model(head=head).eval()
    with torch.no_grad():
        found = model(torch.rand(2, 3, 64, 64))
    assert found.points.shape == (2, 642, 2) and found.visibility.shape == (2, 642)
    assert found.points[:, model.chosen].abs().max() <= 1
    assert 0 < found.visibility.min() and found.visibility.max() < 1
    assert model.keypoints(HORSE.verts[None]).shape == (1, 19, 3)
    assert set(AT.tolist()) <= set(model.chosen.tolist())


def test_targets_meet_the_clicks_better_than_the_rigid_template(herd):
    batch, _ = herd
    model = make_model()
    points, seen = model.targets(batch)
    visible = batch["keypoint_visible"]
    rigid = WeakPerspective.from_vector(batch["camera"]).project(HORSE.verts.expand(len(points), -1, -1))[..., :2]
    off, off_rigid = ((p[:, AT] - batch["keypoints"])[visible].norm(dim=-1).mean() for p in (points, rigid))
    assert off < 0.5 * off_rigid
    assert 0.2 < seen.float().mean() < 0.7
    hidden = {**batch, "keypoint_visible": torch.zeros_like(visible)}
    torch.testing.assert_close(model.targets(hidden)[0], rigid)


def test_right_points_have_no_loss_and_give_the_camera(herd, monkeypatch):
    batch, truth = herd
    model = make_model(modes=0)
    points, seen = model.targets(batch)
    monkeypatch.setattr(model, "regress", lambda images: (points, 40 * seen.float() - 20))
    assert model.loss(batch)["loss"] < 1e-3
    solved = model.solve(Points(points, torch.ones_like(seen, dtype=torch.float)))
    exam = evaluation.Exam(batch, truth)
    scores = evaluation.category_scores(
        solved.verts, model.keypoints(solved.verts), solved.camera.to_vector(), model.faces, exam
    )
    assert solved.solved.all() and scores["rotation"] < 20 and scores["PCK@0.1"] > 0.8
    # Permuted over the vertices, the same points give no camera.
    mixed = points[:, torch.randperm(642, generator=torch.Generator().manual_seed(0))]
    wrong = model.solve(Points(mixed, torch.ones_like(seen, dtype=torch.float)))
    assert wrong.error.mean() > 10 * solved.error.mean()


@pytest.mark.parametrize("through", ["closed form", "implicit"])
@pytest.mark.parametrize("rigid", [True, False])
def test_the_solved_mesh_teaches_the_points_and_the_basis(through, rigid, herd):
    batch, _ = herd
    model = make_model()
    weights = Weights(points=0.0, visibility=0.0, keypoint=1.0, mask=1.0, rigidity=1.0)
    terms = model.loss(batch, weights, through=through, rigid=rigid)
    with_basis = through == "implicit" and not rigid
    assert set(terms) == {"loss", "keypoint", "mask"} | ({"rigidity"} if not rigid else set())
    terms["loss"].backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert all(value.isfinite().all() for value in gradients.values())
    assert gradients["heat_maps.maps.3.weight"].ne(0).any()
    assert ("basis.modes" in gradients) == with_basis


def test_equivariance_moves_pictures_and_points_alike():
    torch.manual_seed(0)
    matrix, shift = to_the_point.random_similarity(3, torch.zeros(1), angle=0, shift=0.3, zoom=(1, 1))
    torch.testing.assert_close(matrix, torch.eye(2).expand(3, 2, 2))
    picture = torch.zeros(3, 3, 64, 64)
    picture[:, :, 30:34, 30:34] = 1
    moved = to_the_point.transform_images(picture, matrix, shift)
    centres = (2 * torch.arange(64) + 1) / 64 - 1
    x = (moved[:, 0].sum(1) * centres).sum(1) / moved[:, 0].sum((1, 2))
    torch.testing.assert_close(x, shift[:, 0], atol=1e-3, rtol=0)
    matrix, shift = to_the_point.random_similarity(200, torch.zeros(1))
    assert 0.7 <= matrix.det().sqrt().min() and matrix.det().sqrt().max() <= 1.2 and shift.abs().max() <= 0.15


def test_it_learns_and_without_its_own_pictures_it_does_not(herd):
    """The sabotage in miniature: the loss on new pictures falls only if pictures and annotations belong together."""
    options = dict(seed=0, image_size=64)
    data, _ = creatures.make_creatures("quadruped", 48, **options).annotated()
    cameras = sfm.resect(HORSE.verts[AT], data["keypoints"], data["keypoint_visible"])
    data |= {"camera": cameras.to_vector()}
    new, _ = creatures.make_creatures("quadruped", 24, **options, split="test").annotated()
    new |= {"camera": sfm.resect(HORSE.verts[AT], new["keypoints"], new["keypoint_visible"]).to_vector()}

    def learn(data):
        model = make_model(width=8)
        training.fit(
            model,
            lambda model, batch, step: model.loss(augmentation.augment(batch, HORSE.keypoint_permutation)),
            data,
            steps=90,
            batch_size=16,
            lr=5e-3,
        )
        with torch.no_grad():
            wanted, _ = model.targets(new)
            return (model(new["image"]).points - wanted).norm(dim=-1).mean()

    honest, blind = learn(data), learn(evaluation.shuffle_pictures(data))
    assert honest < 0.8 * blind


def test_bad_input_is_named(herd):
    batch, _ = herd
    with pytest.raises(ValueError, match="head='dense' is unknown"):
        make_model(head="dense")
    model = make_model()
    with pytest.raises(ValueError, match="through='unrolled' is unknown"):
        model.loss(batch, through="unrolled")
    with pytest.raises(ValueError, match="the batch lacks 'camera'"):
        model.loss({name: value for name, value in batch.items() if name != "camera"})
    with pytest.raises(ValueError, match="images must"):
        model(torch.rand(1, 3, 32, 32))
