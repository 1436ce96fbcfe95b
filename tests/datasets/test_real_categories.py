"""CUB and PASCAL3D+ on tiny trees in the published formats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from lib.datasets import annotated
from lib.datasets.cub import CUB, KEYPOINT_PERMUTATION
from lib.datasets.pascal3d import Pascal3D, left_right_permutation
from lib.geometry.cameras import WeakPerspective

WIDTH, HEIGHT = 50, 40
# x1, y1, x2, y2 counted from 1, as MATLAB does: 21 × 31 pixels.
BOX = (11, 6, 31, 36)


def struct_array(rows):
    """A MATLAB 1×N struct array."""
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        for name, value in row.items():
            array[0, i][name] = value
    return array


def save_image(path, gray=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
    pixels[BOX[1] - 1 : BOX[3], BOX[0] - 1 : BOX[2]] = (200, 100, 50)
    Image.fromarray(pixels[..., 0] if gray else pixels).save(path)


def box_mask():
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[BOX[1] - 1 : BOX[3], BOX[0] - 1 : BOX[2]] = 1
    return mask


def make_entry(path, parts):
    box = dict(zip(("x1", "y1", "x2", "y2"), map(float, BOX), strict=True))
    return {"rel_path": path, "mask": box_mask(), "bbox": box, "parts": parts}


def make_pose(rotation, scale=10.0, trans=(21.0, 21.0)):
    return {"rot": rotation, "scale": scale, "trans": np.array(trans)[:, None]}


def make_cub(root, count=2, split="train"):
    rng = np.random.default_rng(0)
    # 15 mean keypoints in CMR's frame, and their pictures under a camera.
    structure = rng.normal(size=(3, 15))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    points = 10.0 * (rotation @ structure)[:2] + np.array([[21.0], [21.0]])
    parts = np.concatenate([points, np.ones((1, 15))])
    parts[:, 3] = 0  # a hidden keypoint is 0, 0, 0
    entries, poses = [], []
    for i in range(count):
        save_image(root / "CUB_200_2011" / "images" / "001.Albatross" / f"{i}.jpg", gray=i == 1)
        entries.append(make_entry(f"001.Albatross/{i}.jpg", parts))
        poses.append(make_pose(rotation))
    (root / "cub" / "data").mkdir(parents=True, exist_ok=True)
    (root / "cub" / "sfm").mkdir(parents=True, exist_ok=True)
    savemat(root / "cub" / "data" / f"{split}_cub_cleaned.mat", {"images": struct_array(entries)})
    found = {"sfm_anno": struct_array(poses)}
    if split in ("train", "testval"):
        found |= {"S": structure, "conv_tri": np.ones((144, 3))}
    savemat(root / "cub" / "sfm" / f"anno_{split}.mat", found)


@pytest.mark.parametrize("count", [1, 2])
def test_cub(tmp_path, count):
    make_cub(tmp_path, count)
    birds = CUB(tmp_path, image_size=64)
    assert len(birds) == count and len(birds.keypoint_names) == 15
    item = birds[count - 1]
    shapes = {name: tuple(value.shape) for name, value in item.items()}
    assert shapes == {
        "image": (3, 64, 64),
        "mask": (64, 64),
        "keypoints": (15, 2),
        "keypoint_visible": (15,),
        "camera": (7,),
    }
    assert item["keypoint_visible"].sum() == 14 and not item["keypoint_visible"][3]
    assert (item["keypoints"][3] == 0).all()
    # The camera projects CMR's mean keypoints onto the annotated ones: counting from 1, frames and crop are right.
    camera = WeakPerspective.from_vector(item["camera"][None])
    projected = camera.project(birds.structure[None])[0, :, :2]
    seen = item["keypoint_visible"]
    torch.testing.assert_close(projected[seen], item["keypoints"][seen], atol=1e-5, rtol=0)


def test_crop_is_the_padded_square(tmp_path):
    make_cub(tmp_path)
    item = CUB(tmp_path, image_size=64)[0]
    # The box is 31 of 34.1 pixels high, 21 wide, in the middle.
    rows = torch.where(item["mask"].any(1))[0]
    columns = torch.where(item["mask"].any(0))[0]
    assert len(rows) == round(64 / 1.1) and abs(int(rows[0] + rows[-1]) - 63) <= 1
    assert abs(len(columns) - 64 * 21 / 34.1) <= 1 and abs(int(columns[0] + columns[-1]) - 63) <= 1
    inside = item["image"][:, 32, 32]
    torch.testing.assert_close(inside, torch.tensor([200.0, 100, 50]) / 255, atol=0.05, rtol=0)


def test_a_pixel_has_the_place_that_grid_sample_gives_it(tmp_path):
    """The keypoint on one bright pixel lies where that pixel lies in the crop."""
    record = annotated.Record(
        image=tmp_path / "dot.png",
        box=np.array([10.0, 10, 29, 29]),
        keypoints=np.array([[25.0, 14.0]]),
        visible=np.array([True]),
        mask=np.ones((HEIGHT, WIDTH)),
    )
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[14, 25] = 255
    Image.fromarray(pixels).save(record.image)
    item = annotated.AnnotatedImages([record], ["dot"], torch.tensor([0]), image_size=88)[0]
    assert "camera" not in item
    bright = item["image"][0]
    centres = (2 * torch.arange(88) + 1) / 88 - 1
    weights = bright / bright.sum()
    found = torch.stack([(weights.sum(0) * centres).sum(), (weights.sum(1) * centres).sum()])
    torch.testing.assert_close(found, item["keypoints"][0], atol=2e-3, rtol=0)


def test_beyond_the_photograph_the_crop_is_white_and_outside(tmp_path):
    make_cub(tmp_path)
    birds = CUB(tmp_path, image_size=64)
    birds.crops[0] = annotated.square_crop(np.array([-20.0, 0, 10, 30]))
    item = birds[0]
    assert (item["image"][:, 30, 5] == 1).all() and item["mask"][30, 5] == 0


def test_cub_permutation_exchanges_left_and_right(tmp_path):
    make_cub(tmp_path)
    names = CUB(tmp_path).keypoint_names
    assert (KEYPOINT_PERMUTATION[KEYPOINT_PERMUTATION] == torch.arange(15)).all()
    for name, partner in zip(names, KEYPOINT_PERMUTATION.tolist(), strict=True):
        pairs = {"L": "R", "R": "L"}
        expected = pairs[name[0]] + name[1:] if name[0] in pairs and name[1].isupper() else name
        assert names[partner] == expected


def test_mean_keypoints_come_with_two_splits_only(tmp_path):
    make_cub(tmp_path, split="test")
    assert CUB(tmp_path, "test").structure is None


def test_cub_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_cub_cleaned.mat is missing; get .*vision.caltech.edu") as error:
        CUB(tmp_path)
    assert "\n" not in str(error.value)
    make_cub(tmp_path)
    with pytest.raises(ValueError, match="use one of train, val, test, testval"):
        CUB(tmp_path, "training")
    birds = CUB(tmp_path)
    birds.records[0].image.unlink()
    with pytest.raises(FileNotFoundError, match=r"0.jpg is missing"):
        birds[0]
    path = tmp_path / "cub" / "sfm" / "anno_train.mat"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="download it again"):
        CUB(tmp_path)


CAR_NAMES = [
    *("left_back_trunk", "left_back_wheel", "left_front_light", "left_front_wheel"),
    *("right_back_trunk", "right_back_wheel", "right_front_light", "right_front_wheel"),
    *("upper_left_rearwindow", "upper_left_windshield", "upper_right_rearwindow", "upper_right_windshield"),
]


def make_object(hidden=(), **flags):
    anchors = {}
    for i, name in enumerate(reversed(CAR_NAMES)):  # the release does not sort them
        location = np.zeros((0, 0)) if name in hidden else np.array([[12.0 + i, 20.0]])
        anchors[name] = {"location": location, "status": 1}
    item = {"class": "car", "bbox": np.array(BOX, dtype=float), "anchors": anchors, "cad_index": 3}
    return item | {"difficult": 0, "truncated": 0, "occluded": 0} | flags


def save_record(root, source, name, objects, masks=None):
    folder = root / "Annotations" / f"car_{source}"
    folder.mkdir(parents=True, exist_ok=True)
    save_image(root / "Images" / f"car_{source}" / f"{name}.jpg")
    size = np.array([WIDTH, HEIGHT, 3])
    record = {"filename": f"{name}.jpg", "imgsize": size, "objects": struct_array(objects)}
    savemat(folder / f"{name}.mat", {"record": record})
    if masks is not None:
        (root / "masks" / "car_imagenet").mkdir(parents=True, exist_ok=True)
        savemat(root / "masks" / "car_imagenet" / f"{name}.mat", masks)


def make_pascal(root):
    save_record(root, "pascal", "2008_000001", [make_object(truncated=1), make_object(hidden=CAR_NAMES[:2])])
    save_record(root, "pascal", "2008_000002", [make_object()])
    other = np.array([[1.0, 1, 5, 5], list(map(float, BOX))])
    masks = np.stack([np.zeros((HEIGHT, WIDTH), dtype=np.uint8), box_mask()], -1)
    save_record(root, "imagenet", "n01", [make_object()], {"boxes": other, "masks": masks})
    save_record(root, "imagenet", "n02", [make_object()], {"boxes": other[:1], "masks": masks[..., :1]})
    save_record(root, "imagenet", "n03", [make_object()])
    save_record(root, "imagenet", "n04", [make_object(hidden=CAR_NAMES[3:])], {"boxes": other, "masks": masks})
    sets = root / "PASCAL" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("2008_000001\n")
    x1, y1, x2, y2 = BOX

    def cell(*values):
        array = np.zeros((len(values), 1), dtype=object)
        for i, value in enumerate(values):
            array[i, 0] = value
        return array

    xs, ys = np.array([x1, x2, x2, x1], dtype=float), np.array([y1, y1, y2, y2], dtype=float)
    outlines = {
        "voc_image_id": cell("2008_000001", "2008_000002"),
        "voc_rec_id": np.array([[2], [1]]),
        "poly_x": cell(xs, xs),
        "poly_y": cell(ys, ys),
    }
    (root / "segkps").mkdir()
    savemat(root / "segkps" / "car.mat", {"segmentations": outlines, "keypoints": {"voc_rec_id": 1}})


def test_pascal3d_release(tmp_path):
    make_pascal(tmp_path)
    train = Pascal3D(tmp_path, "car", image_size=64)
    # The whole, masked ones: the second object of 2008_000001, and n01.
    assert [record.image.stem for record in train.records] == ["2008_000001", "n01"]
    assert [record.image.stem for record in Pascal3D(tmp_path, "car", "val").records] == ["2008_000002"]
    for record in train.records:
        assert np.abs(np.asarray(record.mask).astype(int) - box_mask()).sum() <= 2 * (21 + 31)
    assert train[0]["mask"].sum() > 0.8 * train[1]["mask"].sum() > 0
    assert train.visible.sum(1).tolist() == [10, 12]
    assert "camera" not in train[0]


def test_pascal3d_corrects_the_names(tmp_path):
    make_pascal(tmp_path)
    cars = Pascal3D(tmp_path, "car")
    assert sorted(cars.keypoint_names) == CAR_NAMES
    assert cars.keypoint_names[1] == "right_back_wheel"  # what the release calls left_back_wheel
    # "left_back_wheel" comes second of the sorted names; make_object put it 11th, at x = 22 counted from 1.
    assert cars.records[1].keypoints[1].tolist() == [21, 19]
    permutation = cars.keypoint_permutation
    assert (permutation[permutation] == torch.arange(12)).all()
    assert cars.keypoint_names[permutation[1]] == "left_back_wheel"


def test_pascal3d_reads_files_of_cmr_too(tmp_path):
    names = ["left_wing", "nose", "right_wing", "tail"]
    (tmp_path / "p3d" / "data").mkdir(parents=True)
    (tmp_path / "p3d" / "sfm").mkdir(parents=True)
    cells = np.array([names], dtype=object)
    savemat(tmp_path / "p3d" / "data" / "aeroplane_kps.mat", {"kp_names": cells, "kp_perm_inds": [[3, 2, 1, 4]]})
    parts = np.array([[12.0, 20, 30, 20], [20, 10, 20, 30], [1, 1, 1, 1]])
    entry = make_entry("aeroplane_imagenet/a.jpg", parts)
    save_image(tmp_path / "Images" / "aeroplane_imagenet" / "a.jpg")
    savemat(tmp_path / "p3d" / "data" / "aeroplane_train.mat", {"images": struct_array([entry])})
    savemat(tmp_path / "p3d" / "sfm" / "aeroplane_train.mat", {"sfm_anno": struct_array([make_pose(np.eye(3))])})
    planes = Pascal3D(tmp_path, "aeroplane", image_size=64)
    assert planes.keypoint_names == names
    assert planes.keypoint_permutation.tolist() == [2, 1, 0, 3]
    item = planes[0]
    assert item["camera"].shape == (7,) and item["keypoint_visible"].all()
    camera = WeakPerspective.from_vector(item["camera"][None])
    # R = 1 in CMR's frame sees the animal's left (the course's −z) to the right, and its front above.
    right, up = camera.rotation[0] @ torch.tensor([0.0, 0, -1]), camera.rotation[0] @ torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(right, torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(up, torch.tensor([0.0, -1, 0]))


def test_pascal3d_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"car_pascal is missing; get PASCAL3D\+_release1.1"):
        Pascal3D(tmp_path, "car")
    make_pascal(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"bus_pascal is missing"):
        Pascal3D(tmp_path, "bus")
    (tmp_path / "segkps" / "car.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"segkps/car.mat is missing"):
        Pascal3D(tmp_path, "car")
    with pytest.raises(ValueError, match="use one of train, val"):
        Pascal3D(tmp_path, "car", "test")


def test_left_and_right_by_name():
    assert left_right_permutation(["left_a", "tail", "right_a"]).tolist() == [2, 1, 0]
    assert left_right_permutation(["L_F_Wheel", "R_F_Wheel"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="'right_a' is missing"):
        left_right_permutation(["left_a", "tail"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("parts", np.ones((2, 15)), r"entry 1 is damaged \(.*\); unpack both again"),
        ("bbox", 3.0, r"entry 1 is damaged \(.*\); unpack both again"),
        ("bbox", dict(zip(("x1", "y1", "x2", "y2"), (np.nan, 1.0, 9.0, 9.0), strict=True)), "the box of .* is .nan"),
        ("bbox", dict(zip(("x1", "y1", "x2", "y2"), (9.0, 9.0, 2.0, 2.0), strict=True)), "the box of .* is .8.0"),
        ("bbox", dict(zip(("x1", "y1", "x2", "y2"), (1.0, 1.0, 1e6, 1e6), strict=True)), "the box of .* is .0.0"),
        ("mask", np.zeros((0, 0)), "the mask of .* has shape"),
    ],
)
def test_damaged_annotations_are_told_in_one_line(tmp_path, field, value, message):
    make_cub(tmp_path, 2)
    entry = make_entry("001.Albatross/0.jpg", np.ones((3, 15))) | {field: value}
    savemat(tmp_path / "cub" / "data" / "train_cub_cleaned.mat", {"images": struct_array([entry, entry])})
    with pytest.raises(ValueError, match=message) as caught:
        CUB(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (make_pose(np.eye(3), scale=np.nan), "its camera or a visible keypoint is no number"),
        (make_pose(np.eye(3), trans=(np.inf, 1.0)), "its camera or a visible keypoint is no number"),
        (make_pose(np.full((3, 3), np.nan)), "its camera or a visible keypoint is no number"),
        (make_pose(np.eye(3), scale=-2.0), "the scale of its camera is -2"),
        (make_pose(np.zeros((3, 3))), "the rotation of its camera is no rotation"),
    ],
)
def test_cameras_that_are_none_are_told_in_one_line(tmp_path, pose, message):
    make_cub(tmp_path, 2)
    savemat(tmp_path / "cub" / "sfm" / "anno_train.mat", {"sfm_anno": struct_array([make_pose(np.eye(3)), pose])})
    with pytest.raises(ValueError, match=rf"entry 2 is damaged \({message}\); unpack both again"):
        CUB(tmp_path)


def test_another_matlab_file_is_told_in_one_line(tmp_path):
    make_cub(tmp_path)
    savemat(tmp_path / "cub" / "sfm" / "anno_train.mat", {"poses": 1.0})
    with pytest.raises(ValueError, match=r"anno_train\.mat lacks sfm_anno, so it is another file; download it again"):
        CUB(tmp_path)
