"""Objects: mesh, signed distance, occupancy, voxels, holes, labels, pictures and keypoints say the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lib.datasets import cache, check_batch, pair_up
from lib.datasets.synthetic import objects
from lib.datasets.synthetic.objects import families, primitives
from lib.geometry.mesh import edges, face_normals
from lib.geometry.pointsets import sample_surface
from lib.geometry.rotations import rotation_angle

RESOLUTION = 64
STYLES = [
    (family, style)
    for family in objects.FAMILIES
    for split in objects.SPLITS
    for style in families.combinations(family, split)
]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(cache, "DIRECTORY", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


def shape_of(family, style, seed=0):
    return objects.Shape(families.describe(family, style, np.random.default_rng(seed)))


@pytest.fixture(scope="module", params=objects.FAMILIES)
def shapes(request):
    return objects.make_objects(request.param, 4, seed=3)


def euler_number(mesh):
    return len(mesh.verts) - len(edges(mesh.faces)) + len(mesh.faces)


@pytest.mark.parametrize("family", objects.FAMILIES)
def test_every_style_has_its_number_of_holes(family):
    for seed, (_, style) in enumerate(item for item in STYLES if item[0] == family):
        shape = shape_of(family, style, seed)
        assert euler_number(shape.mesh(RESOLUTION)) == 2 - 2 * shape.genus, style


def test_meshes_are_closed_and_face_outwards(shapes):
    for shape in shapes:
        mesh = shape.mesh(RESOLUTION)
        sides = torch.cat([mesh.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
        there, back = (set(map(tuple, pairs.tolist())) for pairs in (sides, sides.flip(1)))
        assert len(there) == len(sides) and there == back
        corners = mesh.verts[mesh.faces].double()
        volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume > 0
        voxels = shape.voxels(200)
        assert volume.item() == pytest.approx(voxels.double().mean().item(), rel=0.09)


def test_the_mesh_lies_where_the_signed_distance_is_zero(shapes):
    for shape in shapes:
        mesh = shape.mesh(RESOLUTION)
        off = shape.signed_distance(mesh.verts).abs() * RESOLUTION
        assert off.max() < 0.5 and off.mean() < 0.02
        centers = mesh.verts[mesh.faces].mean(1)
        normals = face_normals(mesh.verts, mesh.faces)
        outside, inside = (shape.occupancy(centers + sign * 0.6 / RESOLUTION * normals) for sign in (1, -1))
        assert outside.float().mean() < 0.02 and inside.float().mean() > 0.98


def test_outside_the_distance_is_exact_and_inside_it_is_a_bound(shapes):
    generator = torch.Generator().manual_seed(0)
    for shape in shapes[:2]:
        mesh = shape.mesh(160)
        surface = sample_surface(mesh.verts, mesh.faces, 40_000, generator)
        points = torch.rand(400, 3, generator=generator) * 1.2 - 0.6
        true = torch.cdist(points, surface).amin(1)
        said = shape.signed_distance(points)
        out = said > 0
        # The sample's points lie 0.005 apart, and the mesh cuts sharp edges off.
        assert (said - true)[out].abs().max() < 0.012
        assert (said.abs() - true)[~out].max() < 0.012


def test_voxels_are_the_occupancy_of_their_centres(shapes):
    axis = (torch.arange(20) + 0.5) / 20 - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    for shape in shapes:
        assert torch.equal(shape.voxels(20).flatten(), shape.occupancy(points))


def test_the_longest_side_is_one_and_the_box_is_centred(shapes):
    for shape in shapes:
        low, high = (end(shape.mesh(RESOLUTION).verts, 0).values for end in (torch.min, torch.max))
        assert (high - low).max().item() == pytest.approx(1, abs=1.5 / RESOLUTION)
        assert (low + high).abs().max() < 2 / RESOLUTION


def test_depth_maps_lie_on_the_surface(shapes):
    camera = objects.look_at(torch.tensor([0.4, 2.5]), torch.tensor([0.3, 0.6]))
    rows = torch.arange(48)
    plane = (2 * rows + 1) / 48 - 1
    y, x = torch.meshgrid(plane, plane, indexing="ij")
    for shape in shapes[:2]:
        drawn = objects.render(shape, camera, 48)
        for i in range(2):
            on = drawn["mask"][i] > 0
            z = drawn["depth"][i][on]
            in_camera = torch.stack([x[on] * z / camera.focal[i], y[on] * z / camera.focal[i], z], 1)
            points = (in_camera - camera.translation[i]) @ camera.rotation[i]
            assert shape.signed_distance(points).abs().quantile(0.95) < 0.5 / RESOLUTION
            assert 0.02 < on.float().mean() < 0.6
        assert drawn["depth"][drawn["mask"] == 0].isinf().all()
        lengths = drawn["normals"].norm(dim=1)
        assert torch.allclose(lengths[drawn["mask"] > 0], torch.ones(()), atol=1e-4)
        assert (drawn["normals"][:, 2][drawn["mask"] > 0] < 0.3).float().mean() > 0.98  # towards the camera
        assert torch.allclose(drawn["image"].permute(0, 2, 3, 1)[drawn["mask"] == 0], torch.ones(()))


def test_labels_name_the_nearest_part(shapes):
    for shape in shapes:
        cloud = shape.sample(600, torch.Generator().manual_seed(0))
        names = {objects.PARTS[shape.family][label] for label in cloud.labels.tolist()}
        assert names <= {part.name for part in shape.description.parts} and len(names) > 1
        assert shape.signed_distance(cloud.points).abs().max() < 0.5 / RESOLUTION
        assert not shape.occupancy(cloud.points + 0.02 * cloud.normals).float().mean() > 0.05


def test_keypoints_lie_at_the_object(shapes):
    for shape in shapes:
        assert shape.keypoints.shape == (len(objects.KEYPOINTS[shape.family]), 3)
        assert shape.signed_distance(shape.keypoints).abs().max() < 0.1
        assert shape.keypoints.abs().max() <= 0.55


def test_left_and_right_are_mirror_images(shapes):
    flip = torch.tensor([1.0, 1.0, -1.0])
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    for shape in shapes:
        if shape.family in ("plane", "lamp", "chair"):
            continue  # a propeller, a tripod and a star of five are not symmetric
        assert torch.allclose(shape.signed_distance(points), shape.signed_distance(points * flip), atol=1e-5)


@pytest.mark.parametrize("family", objects.FAMILIES)
def test_splits_share_choices_but_no_combination(family):
    found = {split: set(families.combinations(family, split)) for split in objects.SPLITS}
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other
    everything = set(itertools.product(*families.STYLES[family].values()))
    assert set().union(*found.values()) == everything
    assert len(found["train"]) > len(found["test"]) >= 2 and len(found["validation"]) >= 2
    for place in range(3):
        in_training = {style[place] for style in found["train"]}
        assert {style[place] for style in found["test"]} <= in_training
    assert {style[0] for style in found["style"]} == {families.HELD_OUT[family]}
    assert families.HELD_OUT[family] not in {style[0] for split in ("train", "test") for style in found[split]}


def test_objects_of_a_longer_list_are_the_same():
    few, many = (objects.make_objects("chair", count, seed=5) for count in (2, 4))
    points = torch.rand(50, 3) - 0.5
    assert torch.equal(few[1].signed_distance(points), many[1].signed_distance(points))
    other = objects.make_objects("chair", 2, seed=6)
    assert not torch.equal(few[1].signed_distance(points), other[1].signed_distance(points))


def test_views_agree_with_their_cameras_and_come_from_the_cache():
    options = dict(seed=0, views=2, image_size=32)
    made, again = (objects.make_views("table", 2, **options) for _ in range(2))
    assert made.image.shape == (4, 3, 32, 32) and made.which.tolist() == [0, 0, 1, 1]
    assert torch.equal(made.image, again.image) and torch.equal(made.depth, again.depth)
    shapes = objects.make_objects("table", 2, seed=0)
    for i, k in enumerate(made.which.tolist()):
        camera = type(made.camera)(made.camera.focal[[i]], made.camera.rotation[[i]], made.camera.translation[[i]])
        assert torch.allclose(camera.project(shapes[k].keypoints[None])[0], made.keypoints[i], atol=1e-5)
        drawn = objects.render(shapes[k], camera, 32, resolution=48)
        assert torch.equal(drawn["mask"][0], made.mask[i])
    seen = made.keypoints[..., :2].abs()
    assert seen.max() < 1


def test_retrieval_of_the_nearest_training_shape_does_not_solve_the_test():
    train, test = (
        torch.stack([shape.voxels(24).flatten() for shape in objects.make_objects("chair", count, seed=0, split=split)])
        for split, count in (("train", 120), ("test", 12))
    )
    both = (test[:, None] & train).sum(-1) / (test[:, None] | train).sum(-1)
    assert both.amax(1).mean() < 0.75


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="family='boat' is unknown; use one of 'car', 'plane'"):
        objects.make_objects("boat", 1, seed=0)
    with pytest.raises(ValueError, match="split='val' is unknown"):
        objects.make_views("car", 1, seed=0, split="val")
    with pytest.raises(ValueError, match="count"):
        objects.make_objects("car", 0, seed=0)
    with pytest.raises(ValueError, match="elevations must be two rising angles"):
        objects.make_views("car", 1, seed=0, elevations=(30, 10))
    with pytest.raises(ValueError, match="half_view must be between 0"):
        objects.look_at(torch.zeros(1), torch.zeros(1), half_view=2.0)
    with pytest.raises(ValueError, match="distance must be above 0"):
        objects.look_at(torch.zeros(1), torch.zeros(1), distance=0.0)
    with pytest.raises(ValueError, match="resolution"):
        objects.make_objects("car", 1, seed=0)[0].mesh(4)


SOLIDS = {
    "box": primitives.Box(np.array([0.3, 0.2, 0.4]), 0.05),
    "cone": primitives.cylinder(0.4, 0.3, 0.04, top=0.2),
    "extruded": primitives.Extruded(np.array([(-0.4, -0.3), (0.4, -0.3), (0.1, 0.3)]), 0.2, 0.03),
    "pipe": primitives.Pipe(np.array([(-0.3, 0, 0), (0, 0.3, 0), (0.3, 0, 0.2)]), 0.1),
    "disc": primitives.ball(0.1, 0.3),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_have_unit_gradient_and_move_rigidly(name):
    solid = SOLIDS[name]
    points = np.random.default_rng(0).uniform(-0.8, 0.8, (500, 3))
    value = solid.distance(points)
    outside = value > 0.02
    h = 1e-5
    slopes = [(solid.distance(points + h * e) - solid.distance(points - h * e)) / (2 * h) for e in np.eye(3)]
    assert np.quantile(np.abs(np.linalg.norm(slopes, axis=0) - 1)[outside], 0.98) < 1e-3
    turn = primitives.along((1, 2, -1))
    assert np.allclose(turn.T @ turn, np.eye(3)) and np.linalg.det(turn) == pytest.approx(1)
    parts = {field: getattr(solid, field) for field in solid.__dataclass_fields__}
    placed = type(solid)(**(parts | {"at": np.array([0.1, -0.2, 0.3]), "turn": turn}))
    assert np.allclose(placed.distance(points @ turn.T + [0.1, -0.2, 0.3]), value)
    larger = placed.moved(np.array([1.0, 0, 0]), 2.0)
    there = 2 * (points @ turn.T + [0.1, -0.2, 0.3]) + [1.0, 0, 0]
    assert np.allclose(larger.distance(there), 2 * value)
    low, high = placed.bounds()
    inside = placed.distance(points) < 0
    assert ((points[inside] >= low - 1e-9) & (points[inside] <= high + 1e-9)).all()


def test_pairs_are_views_of_one_object_within_the_angle():
    views = objects.make_views("mug", 3, seed=0, views=6, image_size=16, resolution=24)
    pairs = objects.pair_views(views, 60.0)
    first, second = pairs.unbind(1)
    angle = torch.rad2deg(rotation_angle(views.camera.rotation[first], views.camera.rotation[second]))
    assert (views.which[first] == views.which[second]).all() and (angle <= 60).all() and (first != second).all()
    wider = objects.pair_views(views, nearest=60.0)
    assert len(pairs) + len(wider) == 3 * 15
    assert torch.equal(objects.pair_views(views, 60.0, count=4), pairs[:4])
    keys = {tuple(sorted(pair)) for pair in pairs.tolist()}
    assert len(keys) == len(pairs) and (first > second).any() and (first < second).any()
    check_batch(pair_up(views.batch(), pairs), "image", "next_rotation", others=False)
    with pytest.raises(ValueError, match=r"no two views of an object are 0\.0° to 0\.01° apart"):
        objects.pair_views(views, 0.01)
    with pytest.raises(ValueError, match="nearest must be from 0 to below widest"):
        objects.pair_views(views, 30.0, nearest=40.0)


def test_pairs_know_no_picture_that_is_not_there():
    with pytest.raises(IndexError):
        pair_up({"focal": torch.ones(2)}, torch.tensor([[0, 2]]))
    with pytest.raises(TypeError, match="pairs must have an integer dtype"):
        pair_up({"focal": torch.ones(2)}, torch.ones(1, 2))
