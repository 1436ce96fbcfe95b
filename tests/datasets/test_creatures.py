import numpy as np
import pytest
import torch

from lib import rendering
from lib.datasets import cache
from lib.datasets.synthetic import creatures
from lib.datasets.synthetic.creatures import (
    CATEGORIES,
    KEYPOINTS,
    all_frames,
    keypoint_permutation,
    make_creatures,
    make_video,
    make_videos,
    template,
    templates,
)
from lib.datasets.synthetic.creatures.anatomy import BODIES
from lib.datasets.synthetic.creatures.breeds import make_breed, pose_creature
from lib.datasets.synthetic.creatures.motion import neutral_pose, sample_build, sample_pose
from lib.datasets.synthetic.creatures.pictures import camera_rotation, frame, see_keypoints
from lib.datasets.synthetic.creatures.skinning import mirror_bones, mirror_pose
from lib.datasets.synthetic.solids import Solid, reflect
from lib.geometry.cameras import WeakPerspective

COUNT = 3


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(cache, "DIRECTORY", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


@pytest.fixture(scope="module", params=CATEGORIES)
def category(request):
    return request.param


@pytest.fixture(scope="module")
def herd(category):
    return make_creatures(category, COUNT, seed=3, image_size=96)


@pytest.fixture(scope="module")
def video(category):
    return make_video(category, 4, seed=1, image_size=96)


@pytest.fixture(scope="module")
def breed(category):
    return make_breed(category, np.random.default_rng(5))


# Keypoints


def test_left_and_right_swap_and_swap_back(category):
    permutation, names = keypoint_permutation(category), KEYPOINTS[category]
    assert 15 <= len(names) <= 20 and len(set(names)) == len(names)
    assert torch.equal(permutation[permutation], torch.arange(len(names)))
    for k, name in enumerate(names):
        twin = names[permutation[k]]
        assert (twin == name) == (not name.startswith(("left_", "right_")))
        assert twin.split("_", 1)[-1] == name.split("_", 1)[-1]


def test_the_right_hand_side_is_positive_z(category):
    at_rest = template(category)
    for name, vertex in zip(at_rest.keypoint_names, at_rest.keypoint_vertices, strict=True):
        z = float(at_rest.verts[vertex, 2])
        assert (z > 0.02) if name.startswith("right_") else (z < -0.02) if name.startswith("left_") else abs(z) < 1e-6


def test_keypoints_lie_on_the_body(breed):
    solid = breed.body.solid()
    points = (breed.shares[..., None] * breed.verts[breed.landmarks]).sum(1)
    # A flat triangle, some 0.025 wide, lies a little below a curved surface.
    assert np.abs(solid(points)).max() < 0.016
    assert np.allclose(breed.shares.sum(1), 1) and breed.shares.min() >= 0


def test_keypoints_of_instances_touch_their_mesh(herd):
    for i, mesh in enumerate(herd.meshes):
        nearest = torch.cdist(herd.keypoints_3d[i], mesh.verts).amin(1)
        assert nearest.max() < 0.03


def test_cameras_project_the_keypoints(herd):
    seen = WeakPerspective.from_vector(herd.camera).project(herd.keypoints_3d)[..., :2]
    assert torch.allclose(seen, herd.keypoints, atol=1e-5)


def test_visible_keypoints_fall_on_the_animal(herd):
    around = torch.nn.functional.max_pool2d(herd.mask[:, None], 3, 1, 1)
    on = torch.nn.functional.grid_sample(around, herd.keypoints[:, :, None], mode="nearest", align_corners=False)
    assert (on[:, 0, :, 0][herd.keypoint_visible] > 0).float().mean() > 0.97
    assert 0.3 < herd.keypoint_visible.float().mean() < 0.95


def test_only_other_parts_hide_a_keypoint(category):
    """Seen from its right side, an animal shows its right eye and hides its left one."""
    breed = make_breed(category, np.random.default_rng(0), spread=0.0)
    build = sample_build(category, breed.body, np.random.default_rng(0), 0.0)
    verts, _ = pose_creature(breed, build, neutral_pose(category, breed.body))
    verts = torch.from_numpy(verts).float()
    names = KEYPOINTS[category]
    for azimuth, near, far in ((0.0, "right_", "left_"), (np.pi, "left_", "right_")):
        camera = frame([verts], camera_rotation(azimuth, 0.1, 0.0)[None], 0.9, np.zeros(2))
        depth = rendering.depth(camera.project(verts[None]), torch.from_numpy(breed.faces), 256)[0]
        visible = see_keypoints(breed, verts, camera, depth)["keypoint_visible"]
        shown = {name for name, flag in zip(names, visible, strict=True) if flag}
        assert near + "eye" in shown and far + "eye" not in shown
        assert {name for name in names if name.startswith(near)} <= shown


# Symmetry


def test_a_mirrored_pose_gives_the_mirrored_mesh_and_permuted_keypoints(category, breed):
    rng = np.random.default_rng(2)
    build, pose = sample_build(category, breed.body, rng), sample_pose(category, breed.body, rng)
    assert np.array_equal(mirror_bones(breed.body)[mirror_bones(breed.body)], np.arange(len(breed.body.bones)))
    verts, ground = pose_creature(breed, build, pose)
    other, other_ground = pose_creature(breed, build, mirror_pose(breed.body, pose))
    assert np.abs(other[breed.mirror] * [1, 1, -1] - verts).max() < 1e-9 and abs(ground - other_ground) < 1e-9
    assert np.abs(other - verts).max() > 0.01

    def keypoints(points):
        return (breed.shares[..., None] * points[breed.landmarks]).sum(1)

    permuted = keypoints(other)[keypoint_permutation(category).numpy()] * [1, 1, -1]
    assert np.abs(permuted - keypoints(verts)).max() < 1e-9


def test_the_mirrored_camera_sees_the_flipped_image(category, breed, herd):
    rng = np.random.default_rng(7)
    build, pose = sample_build(category, breed.body, rng), sample_pose(category, breed.body, rng)
    faces = torch.from_numpy(breed.faces)
    camera = WeakPerspective.from_vector(herd.camera[:1])
    views = []
    for one, view in ((pose, camera), (mirror_pose(breed.body, pose), camera.mirror())):
        verts = torch.from_numpy(pose_creature(breed, build, one)[0]).float()
        views.append(rendering.rasterize(view.project(verts[None]), faces, 64).mask[0])
    assert (views[0] != views[1].flip(-1)).float().mean() < 2e-3


def test_bodies_at_rest_are_closed_and_symmetric(breed):
    verts, faces = torch.from_numpy(breed.verts), torch.from_numpy(breed.faces)
    assert np.array_equal(breed.mirror[breed.mirror], np.arange(len(verts)))
    assert np.array_equal(breed.verts[breed.mirror] * [1, 1, -1], breed.verts)
    assert_closed_sphere(verts, faces)
    assert np.allclose(breed.weights.sum(1), 1)


def test_gradients_of_a_solid_point_outward_as_finite_differences_do(breed):
    solid, step = breed.body.solid(), 2e-3
    points = breed.verts[:: len(breed.verts) // 300]
    value, gradient = solid.differentiate(points)
    assert np.abs(value - solid(points)).max() < 1e-5
    moves = step * np.eye(3)
    differences = np.stack([(solid(points + m) - solid(points - m)) / (2 * step) for m in moves], axis=1)
    cosine = (gradient * differences).sum(1) / np.linalg.norm(gradient, axis=1) / np.linalg.norm(differences, axis=1)
    assert np.median(cosine) > 0.998 and np.percentile(cosine, 5) > 0.95


# Pictures


def test_shapes_and_ranges(herd, category):
    keypoints = len(KEYPOINTS[category])
    assert herd.image.shape == (COUNT, 3, 96, 96) and herd.mask.shape == (COUNT, 96, 96)
    assert herd.keypoints.shape == (COUNT, keypoints, 2) and herd.keypoint_visible.dtype == torch.bool
    assert herd.keypoints_3d.shape == (COUNT, keypoints, 3) and herd.camera.shape == (COUNT, 7)
    assert len(herd) == len(herd.meshes) == len(herd.rest_meshes) == COUNT
    for values in (herd.image, herd.mask):
        assert values.min() >= 0 and values.max() <= 1
    assert ((herd.mask > 0) & (herd.mask < 1)).any()
    assert (herd.mask.sum((1, 2)) > 0.06 * 96 * 96).all()
    assert herd.image.std((2, 3)).min() > 0.02


def test_masks_match_the_rendered_meshes(herd):
    for i, mesh in enumerate(herd.meshes):
        camera = WeakPerspective.from_vector(herd.camera[i : i + 1])
        covered = rendering.rasterize(camera.project(mesh.verts[None]), mesh.faces, 96).mask[0]
        both, either = (covered & (herd.mask[i] > 0.5)).sum(), (covered | (herd.mask[i] > 0.5)).sum()
        assert both / either > 0.95


def test_the_animal_lies_inside_the_image_and_fills_it(herd):
    for i, mesh in enumerate(herd.meshes):
        seen = WeakPerspective.from_vector(herd.camera[i : i + 1]).project(mesh.verts[None])[0, :, :2]
        assert seen.abs().max() < 1
        assert (seen.amax(0) - seen.amin(0)).max() > 1.4


def test_vertex_colours_agree_with_the_picture(herd):
    """Where a vertex is seen, the picture has about the vertex's hue, whatever the light."""
    for i, mesh in enumerate(herd.meshes):
        seen = WeakPerspective.from_vector(herd.camera[i : i + 1]).project(mesh.verts[None])
        visible = rendering.visible_vertices(seen, mesh.faces, 96)[0]
        pixels = torch.nn.functional.grid_sample(herd.image[i : i + 1], seen[:, None, :, :2], align_corners=False)
        pixels = pixels[0, :, 0].T[visible]
        colors = mesh.colors[visible]
        cosine = torch.nn.functional.cosine_similarity(pixels, colors, dim=-1)
        assert cosine.median() > 0.97


def test_the_same_seed_gives_the_same_set_and_a_larger_set_begins_with_it(category, herd, monkeypatch, tmp_path):
    read = make_creatures(category, COUNT, seed=3, image_size=96)
    monkeypatch.setattr(cache, "DIRECTORY", tmp_path)
    fresh = make_creatures(category, 2, seed=3, image_size=96)
    for name in ("image", "mask", "keypoints", "keypoint_visible", "keypoints_3d", "camera"):
        assert torch.equal(getattr(herd, name), getattr(read, name))
        assert torch.equal(getattr(herd, name)[:2], getattr(fresh, name))
    assert torch.equal(fresh.meshes[1].verts, herd.meshes[1].verts)
    assert torch.equal(fresh.meshes[1].colors, herd.meshes[1].colors)
    other = make_creatures(category, 1, seed=4, image_size=96)
    assert not torch.equal(other.image[0], herd.image[0])


def test_a_damaged_cache_is_made_again_and_an_unwritable_one_is_no_obstacle(category, herd, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "DIRECTORY", tmp_path)
    make_creatures(category, 1, seed=3, image_size=96)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(make_creatures(category, 1, seed=3, image_size=96).image, herd.image[:1])
    monkeypatch.setattr(cache, "DIRECTORY", file / "no folder")
    assert torch.equal(make_creatures(category, 1, seed=3, image_size=96).image, herd.image[:1])


def test_train_and_test_share_nothing(category, herd):
    test = make_creatures(category, COUNT, seed=3, image_size=96, split="test")
    for i in range(COUNT):
        for j in range(COUNT):
            ours, theirs = herd.rest_meshes[i].verts, test.rest_meshes[j].verts
            assert ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-3
            assert (herd.keypoints_3d[i] - test.keypoints_3d[j]).norm(dim=-1).max() > 0.02
            assert (herd.camera[i] - test.camera[j]).abs().max() > 1e-3
            assert (herd.image[i] - test.image[j]).abs().mean() > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(category="fish", count=1), "category='fish' is unknown; use one of 'quadruped', 'bird'"),
        (dict(category="bird", count=0), "count must be a whole number of at least 1, got 0"),
        (
            dict(category="bird", count=1, split="val"),
            "split='val' is unknown; use one of 'train', 'validation', 'test'",
        ),
        (dict(category="bird", count=1, image_size=8), "image_size must be a whole number of at least 16, got 8"),
        (dict(category="bird", count=1, seed=-1), "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_creatures(**{"seed": 0, **arguments})


def test_unknown_gaits_are_named():
    with pytest.raises(ValueError, match="gait='swim' is unknown; a bird has 'hop', 'fly'"):
        make_video("bird", 2, seed=0, gait="swim")
    with pytest.raises(ValueError, match="category='fish' is unknown"):
        template("fish")


# Videos


def test_flow_carries_each_vertex_to_the_next_frame(video):
    cameras = WeakPerspective.from_vector(video.camera)
    seen = cameras.project(torch.stack([mesh.verts for mesh in video.meshes]))
    faces = video.meshes[0].faces
    visible = rendering.visible_vertices(seen, faces, 96)
    assert video.flow.shape == (3, 2, 96, 96) and video.flow_mask.shape == (3, 96, 96)
    assert (video.flow[~video.flow_mask[:, None].expand_as(video.flow)] == 0).all()
    for t in range(3):
        at = seen[t, visible[t], :2]
        # Away from borders, where the four pixels around a vertex all see its neighbourhood.
        inner = torch.nn.functional.grid_sample(
            video.flow_mask[t, None, None].float(), at[None, None], align_corners=False
        )[0, 0, 0]
        sampled = torch.nn.functional.grid_sample(video.flow[t : t + 1], at[None, None], align_corners=False)
        error = (sampled[0, :, 0].T - (seen[t + 1] - seen[t])[visible[t], :2]).norm(dim=-1)[inner > 0.999]
        moved = (seen[t + 1] - seen[t])[visible[t], :2].norm(dim=-1)
        assert error.median() < 5e-4 and moved.max() > 0.01


def test_flow_reproduces_the_second_frame(video):
    line = (2 * torch.arange(96) + 1) / 96 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    there = torch.nn.functional.grid_sample(video.image[1:], grid + video.flow.permute(0, 2, 3, 1), align_corners=False)
    inner = video.flow_visible & (video.mask[:-1] == 1)

    def error(images):
        return float((images - video.image[:-1]).abs().mean(1)[inner].mean())

    assert error(there) < 0.025
    assert error(there) < 0.6 * error(video.image[1:])
    swapped = torch.nn.functional.grid_sample(
        video.image[1:], grid + video.flow.flip(1).permute(0, 2, 3, 1), align_corners=False
    )
    assert error(there) < 0.8 * error(swapped)


def test_a_video_shows_one_animal_moving_smoothly(video):
    shapes = torch.stack([mesh.verts for mesh in video.rest_meshes])
    assert torch.equal(shapes, shapes[:1].expand_as(shapes))
    step = (video.keypoints[1:] - video.keypoints[:-1]).norm(dim=-1)
    assert 0 < step.max() < 0.35
    assert (video.camera[1:] - video.camera[:-1]).abs().max() < 0.05


def test_the_gait_is_a_choice(category):
    for gait in creatures.GAITS[category]:
        clip = make_video(category, 1, seed=0, image_size=32, gait=gait)
        assert clip.flow.shape == (0, 2, 32, 32) and len(clip) == 1


# Templates


def assert_closed_sphere(verts, faces):
    """Every edge has one face on either side, one component, genus 0, facing outward."""
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(torch.unique(directed, dim=0)) == len(directed)
    undirected = directed.sort(1).values.unique(dim=0)
    assert len(undirected) * 2 == len(directed)
    assert len(verts) - len(undirected) + len(faces) == 2
    a, b, c = verts[faces].unbind(1)
    assert (a * torch.linalg.cross(b, c)).sum() > 0


def least_angles(verts, faces):
    corners = verts[faces]
    angles = []
    for i in range(3):
        u, v = corners[:, (i + 1) % 3] - corners[:, i], corners[:, (i + 2) % 3] - corners[:, i]
        angles.append(torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(u, v, dim=-1))))
    return torch.stack(angles).amin(0)


def test_template_is_a_well_shaped_symmetric_sphere(category):
    shape = template(category)
    assert shape.verts.shape == (642, 3) and shape.faces.shape == (1280, 3)
    assert shape.faces.unique().numel() == 642
    assert_closed_sphere(shape.verts, shape.faces)
    flip = torch.tensor([1.0, 1.0, -1.0])
    assert torch.equal(shape.verts[shape.mirror] * flip, shape.verts)
    assert torch.equal(shape.sphere[shape.mirror] * flip, shape.sphere)
    assert torch.equal(shape.mirror[shape.mirror], torch.arange(642))
    reflected = shape.mirror[shape.faces].flip(1).sort(1).values
    assert torch.equal(reflected.unique(dim=0), shape.faces.sort(1).values.unique(dim=0))
    angles = least_angles(shape.verts, shape.faces)
    assert angles.min() > 15 and angles.median() > 45
    assert 1 < torch.cdist(shape.verts, shape.verts).max() < 2
    assert shape.verts.mean(0).norm() < 0.2
    twins = shape.keypoint_vertices[shape.keypoint_permutation]
    assert torch.equal(shape.mirror[shape.keypoint_vertices], twins)


def test_template_is_mapped_onto_the_sphere_one_to_one(category):
    shape = template(category)
    sphere = shape.sphere.double()
    assert (sphere.norm(dim=-1) - 1).abs().max() < 1e-6
    a, b, c = sphere[shape.faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum(-1)
    assert (volume > 0).all()
    # Oosterom and Strackee's solid angles: covered once, the sphere has 4π of them.
    angle = 2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1))
    assert abs(float(angle.sum()) - 4 * np.pi) < 1e-5
    area = torch.linalg.cross(*(shape.verts[shape.faces[:, i]] - shape.verts[shape.faces[:, 0]] for i in (1, 2)))
    share = angle / (4 * np.pi) / (area.norm(dim=-1) / area.norm(dim=-1).sum())
    assert share.min() > 0.05 and share.max() < 6


def test_template_does_not_cross_itself(category):
    shape = template(category)
    verts, faces = shape.verts.double(), shape.faces
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = edges[edges[:, 0] < edges[:, 1]]
    start, ray = verts[edges[:, 0]], verts[edges[:, 1]] - verts[edges[:, 0]]
    for chunk in faces.split(128):
        a, b, c = (verts[chunk[:, i]][:, None] for i in range(3))
        normal = torch.linalg.cross(b - a, c - a)
        t = ((a - start) * normal).sum(-1) / (ray * normal).sum(-1)
        point = start + t[..., None] * ray
        sides = [(torch.linalg.cross(q - p, point - p) * normal).sum(-1) > 0 for p, q in ((a, b), (b, c), (c, a))]
        apart = (chunk[:, None, :, None] != edges[None, :, None, :]).all(-1).all(-1)
        crossing = apart & (t > 0) & (t < 1) & sides[0] & sides[1] & sides[2]
        assert not crossing.any()


def test_template_is_not_an_instance(category, herd):
    shape = template(category)
    diameter = float(torch.cdist(shape.verts, shape.verts).max())
    for mesh in herd.meshes:
        assert len(mesh.verts) > 4 * len(shape.verts)
        distance = torch.cdist(shape.verts, mesh.verts)
        assert distance.amin(1).mean() > 0.01 * diameter
        assert distance.amin(1).mean() < 0.15 * diameter


def test_remeshing_gives_the_count_asked_for_and_an_unfolded_map():
    body = BODIES["quadruped"]()
    solid = Solid([limb for limb in body.limbs if len(limb.nodes) == 6 and np.abs(limb.nodes[:, 2]).max() == 0][:1])
    tip = solid.cast(np.array([[0.4, 0.78, 0.0]]), np.array([[1.0, 0.0, 0.0]]))
    half, faces, rim = templates.remesh(solid, 162, lambda points: np.full(len(points), 0.1), tip, rounds=10)
    verts, all_faces, _ = reflect(half, faces, rim)
    assert len(verts) == 162 and len(all_faces) == 320
    assert_closed_sphere(torch.from_numpy(verts), torch.from_numpy(all_faces))
    assert np.abs(solid(verts)).max() < 0.01
    sphere = templates.hemisphere_map(half, faces, rim, int(np.where(rim, half[:, 0], -np.inf).argmax()))
    a, b, c = sphere[faces].transpose(1, 0, 2)
    assert ((a * np.cross(b, c)).sum(1) > 0).all()


def test_a_stride_films_fewer_moments_of_the_same_walk():
    every = make_video("quadruped", 5, seed=3, image_size=32, gait="walk")
    fourth = make_video("quadruped", 5, seed=3, image_size=32, gait="walk", stride=4)
    assert len(fourth) == 5 and fourth.flow.shape == (4, 2, 32, 32)
    lengths = [video.flow.norm(dim=1)[video.flow_mask].mean() for video in (every, fourth)]
    assert lengths[1] > 1.5 * lengths[0]
    with pytest.raises(ValueError, match="stride must be a whole number of at least 1"):
        make_video("bird", 2, seed=0, stride=0)


def test_videos_of_a_list_are_different_individuals():
    videos = make_videos("bird", 3, 2, seed=0, image_size=32, stride=3)
    assert len(videos) == 3 and all(len(video) == 2 for video in videos)
    assert not torch.allclose(videos[0].image, videos[1].image)
    fewer = make_videos("bird", 2, 2, seed=0, image_size=32, stride=3)
    assert torch.equal(fewer[1].image, videos[1].image)
    other = make_videos("bird", 1, 2, seed=0, image_size=32, stride=3, split="test")
    assert not torch.allclose(other[0].image, videos[0].image)
    frames = all_frames(videos)
    assert len(frames) == 6 and torch.equal(frames.image[2:4], videos[1].image) and len(frames.meshes) == 6
    assert frames.annotated(least=0)[0]["keypoints"].shape[:1] == (6,)
    with pytest.raises(ValueError, match="videos must be one or more of one category, got none"):
        all_frames([])
