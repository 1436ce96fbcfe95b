"""Faces: the generator's truths agree with each other, and the loaders read the published layouts."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.datasets import cache
from lib.datasets import faces as loaders
from lib.datasets.synthetic import faces
from lib.geometry.depth_maps import depth_to_normals
from lib.geometry.image_plane import erode
from lib.geometry.rotations import turns_to_matrix
from lib.geometry.turntable import FOCAL


@pytest.fixture(scope="module")
def made():
    return faces.make_faces(6, seed=3, image_size=48, canonical=True, cache=False)


def test_shapes_and_ranges(made):
    n, size, k = 6, 48, len(faces.KEYPOINTS)
    assert len(made) == n
    assert made.image.shape == made.normals.shape == made.albedo.shape == (n, 3, size, size)
    assert made.mask.shape == made.depth.shape == made.canonical_depth.shape == (n, size, size)
    assert made.light.shape == (n, 4) and made.view.shape == (n, 6) and made.keypoints.shape == (n, k, 2)
    for values in (made.image, made.albedo, made.mask, made.canonical_albedo):
        assert 0 <= values.min() and values.max() <= 1
    assert ((made.mask == 0) | (made.mask == 1)).all()
    assert 0.5 < made.mask.mean() < 0.95
    assert 0.85 < made.depth.min() and (made.depth[made.mask == 0] == faces.FAR).all()


def test_the_picture_is_albedo_times_lambert(made):
    """Image, albedo, normals, light and view are stored apart; together they must give the picture."""
    rotation = turns_to_matrix(made.view[:, :3])
    direction = torch.cat([made.light[:, 2:], -torch.ones(6, 1)], 1)
    direction = (rotation @ torch.nn.functional.normalize(direction, dim=1)[..., None])[..., 0]
    cosine = (made.normals * direction[:, :, None, None]).sum(1).clamp(min=0)
    shading = made.light[:, 0, None, None] + made.light[:, 1, None, None] * cosine
    error = (made.image - made.albedo * shading[:, None]).abs() * made.mask[:, None]
    assert error.max() < 1e-5
    assert (made.light[:, 0] + made.light[:, 1] <= 1).all()  # so nothing is ever overexposed


def test_normals_are_those_of_the_depth(made):
    """Depth from marching, normals from the surface's gradient: two computations, one surface."""
    normals = depth_to_normals(made.depth, FOCAL)[:, :, 1:-1, 1:-1]
    inside = erode(erode(made.mask))[:, 1:-1, 1:-1] > 0
    cosine = (normals * made.normals[:, :, 1:-1, 1:-1]).sum(1)[inside]
    assert torch.rad2deg(cosine.clamp(-1, 1).acos()).median() < 1.5
    assert (made.normals[:, 2][made.mask > 0] < 1e-3).all()  # out of the face is towards the camera
    length = made.normals.norm(dim=1)
    torch.testing.assert_close(length, made.mask, atol=1e-5, rtol=0)


def test_what_is_one_sided_is_in_the_colours_only_and_known(made):
    torch.testing.assert_close(made.canonical_depth, made.canonical_depth.flip(-1), atol=2e-3, rtol=0)
    apart = (made.canonical_albedo - made.canonical_albedo.flip(-1)).abs().mean(1)
    either = torch.maximum(made.canonical_marks, made.canonical_marks.flip(-1))
    assert apart.max() > 0.1 and (apart * (1 - either)).max() < 0.05
    assert 0.01 < made.canonical_marks.mean() < 0.3
    bare = faces.make_faces(6, seed=3, image_size=48, canonical=True, symmetric=True, cache=False)
    torch.testing.assert_close(bare.canonical_albedo, bare.canonical_albedo.flip(-1), atol=2e-3, rtol=0)
    assert torch.equal(bare.canonical_depth, made.canonical_depth) and bare.canonical_marks.max() == 0
    same = made.canonical_marks == 0  # the same people, but for the marks
    apart = (made.canonical_albedo - bare.canonical_albedo).abs().mean(1)
    assert apart[same].max() < 0.05 < apart[~same].min()


def test_the_nose_is_nearest(made):
    # A face is nearest in the middle, at the nose.
    rows, columns = torch.unravel_index(made.canonical_depth.flatten(1).argmin(1), (48, 48))
    assert ((columns - 23.5).abs() < 2).all() and ((rows - 26).abs() < 8).all()


def test_keypoints_lie_on_the_surface(made):
    at = torch.nn.functional.grid_sample(made.depth[:, None], made.keypoints[:, None], align_corners=False)[:, 0, 0]
    gap = (at - made.keypoint_depth)[made.keypoint_visible]
    assert made.keypoint_visible.float().mean() > 0.7
    assert gap.abs().median() < 1e-3
    nose, eyes = (
        list(faces.KEYPOINTS).index("nose tip"),
        [list(faces.KEYPOINTS).index(e) for e in ("left eye", "right eye")],
    )
    assert (made.keypoint_depth[:, nose] < made.keypoint_depth[:, eyes].mean(1)).all()


def test_yaw_turns_the_nose_to_the_side(made):
    """R = Rz Ry Rx with x right, y down, z forward: a positive yaw takes what is in front, at −z, to the left."""
    nose = list(faces.KEYPOINTS).index("nose tip")
    sideways = made.view[:, 1].abs() > 0.15
    assert (made.keypoints[sideways, nose, 0].sign() == -made.view[sideways, 1].sign()).all()


def test_people_differ_in_their_relief():
    depth = faces.make_faces(32, seed=4, image_size=24, canonical=True, cache=False).canonical_depth
    known = (depth < 1.05).all(0)
    own = (depth - depth.mean(0))[:, known]
    assert 0.05 < own.std() / 0.1 < 0.12 and known.float().mean() > 0.5


def test_same_seed_same_faces_other_split_other_people():
    a, b = (faces.make_faces(2, seed=1, image_size=16, cache=False) for _ in range(2))
    assert torch.equal(a.image, b.image)
    other = faces.make_faces(2, seed=1, split="test", image_size=16, cache=False)
    assert not torch.allclose(a.light, other.light)
    more = faces.make_faces(40, seed=1, image_size=8, cache=False)
    assert not torch.allclose(more.light[:8], more.light[32:])  # every chunk draws anew
    with pytest.raises(ValueError, match="split"):
        faces.make_faces(1, seed=0, split="training")
    with pytest.raises(ValueError, match="count"):
        faces.make_faces(0, seed=0)


def test_patches_change_only_where_they_say():
    images = torch.full((20, 3, 32, 32), 0.5)
    patched, changed = faces.add_patches(images, seed=0)
    outside = changed[:, None].expand_as(images) == 0
    assert (patched[outside] == 0.5).all()
    assert 0.1 < changed.mean() < 0.6
    assert (images == 0.5).all() and 0 <= patched.min() and patched.max() <= 1
    assert torch.equal(faces.add_patches(images, seed=0)[0], patched)


def paint(path, size=(200, 180), color=(255, 0, 0), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def test_celeba_cropped(tmp_path):
    paint(tmp_path / "celeba_cropped" / "train" / "000001.jpg", (128, 128))
    paint(tmp_path / "celeba_cropped" / "test" / "000002.jpg", (128, 128), (0, 0, 255))
    test = loaders.CelebA(tmp_path, "test", image_size=16)
    assert len(test) == 1 and test[0]["image"].shape == (3, 16, 16)
    assert test[0]["image"][2].mean() > 0.9 and test[0]["image"][0].mean() < 0.1


def test_celeba_from_boxes(tmp_path):
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[20:40, 30:50] = 255
    (tmp_path / "img_celeba").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(pixels).save(tmp_path / "img_celeba" / name)
    listing = tmp_path / "celeba_crop_bbox.txt"
    listing.write_text("fname split x0 y0 w h\n1.png 0 30 20 20 20\n2.png 2 20 10 40 40\n")
    train, test = (loaders.CelebA(tmp_path, split, image_size=20) for split in ("train", "test"))
    assert len(train) == len(test) == 1
    assert train[0]["image"].min() == 1  # the box is the white square
    assert test[0]["image"].mean() == pytest.approx(0.25, abs=0.02)
    listing.write_text("1.png 0 30 20 20 20\n2.png 2 twenty 10 40 40\n")
    with pytest.raises(ValueError, match="row 2"):
        loaders.CelebA(tmp_path)


def test_a_box_beyond_the_border_repeats_it():
    picture = torch.arange(12.0).view(1, 3, 4)
    part = loaders.cut(picture, (-1, -1, 3, 3))
    assert part.tolist() == [[[0, 0, 1], [0, 0, 1], [4, 4, 5]]]
    with pytest.raises(ValueError, match="overlap"):
        loaders.cut(picture, (10, 0, 2, 2))
    assert loaders.cut_middle(picture, 2).tolist() == [[[1, 2], [5, 6]]]


def test_basel_faces_know_their_depth(tmp_path):
    for split in loaders.SPLITS:
        paint(tmp_path / split / "image" / "image_0001.png", (200, 200))
        paint(tmp_path / split / "depth" / "depth_0001.png", (200, 200), 51, "L")
    item = loaders.BaselFaces(tmp_path, "val", image_size=8)[0]
    assert item["depth"].shape == (8, 8)
    torch.testing.assert_close(item["depth"], torch.full((8, 8), 0.9 + 0.2 * (1 - 0.2)))
    (tmp_path / "val" / "depth" / "depth_0001.png").unlink()
    with pytest.raises(FileNotFoundError, match="depth_0001"):
        loaders.BaselFaces(tmp_path, "val")


def test_a_folder_of_pictures(tmp_path):
    paint(tmp_path / "cat_combined" / "b.png", (300, 200))
    paint(tmp_path / "cat_combined" / "a" / "a.jpg", (300, 200))
    (tmp_path / "cat_combined" / "notes.txt").write_text("no picture")
    cats = loaders.image_folder(tmp_path, image_size=10, crop=loaders.CROP)
    assert len(cats) == 2 and cats.stack()["image"].shape == (2, 3, 10, 10)
    (tmp_path / "cat_combined" / "b.png").write_text("broken")
    with pytest.raises(OSError, match=r"b\.png cannot be read"):
        cats[1]


def test_what_is_missing_is_said(tmp_path):
    for make in (loaders.CelebA, loaders.BaselFaces):
        with pytest.raises(FileNotFoundError, match=r"is missing; .*CelebA"):
            make(tmp_path)
        with pytest.raises(ValueError, match="split"):
            make(tmp_path, "validation")
    with pytest.raises(FileNotFoundError, match="no picture"):
        loaders.image_folder(tmp_path)


def test_the_real_faces():
    real = loaders.real_faces(32)
    assert real.shape == (100, 3, 32, 32) and 0 <= real.min() and real.max() <= 1
    assert (real[:, 0] == real[:, 2]).all()
    assert real.std() > 0.1


def test_fresh_faces_lie_in_memory_as_those_read_back(tmp_path, monkeypatch):
    """Convolutions sum in another order over another layout, so a first run would differ from all later ones."""
    monkeypatch.setattr(cache, "DIRECTORY", tmp_path)
    fresh, read = (vars(faces.make_faces(2, seed=0, image_size=16)) for _ in range(2))
    assert list(tmp_path.iterdir())
    for name, value in fresh.items():
        if value is not None:
            assert torch.equal(value, read[name]) and value.stride() == read[name].stride(), name


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (b"", "has no picture of the split 'test'"),
        (b"n s x y w h\n1.png 0 0 0 9 9\n", "has no picture of the split 'test'"),
        (b"n\xe9 s x y w h\n1.png -1 0 0 9 9\n", "row 2: '1.png -1 0 0 9 9' is not 'name split x y w h'"),
    ],
)
def test_a_damaged_listing_is_told_in_one_line(tmp_path, listing, message):
    (tmp_path / "img_celeba").mkdir()
    (tmp_path / "celeba_crop_bbox.txt").write_bytes(listing)
    with pytest.raises(ValueError, match=message):
        loaders.CelebA(tmp_path, "test")
