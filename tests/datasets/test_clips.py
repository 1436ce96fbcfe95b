"""Loaders of videos, on small trees in the published layouts, and the student's own video."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from scipy.io import savemat

from lib.datasets import check_batch
from lib.datasets.clips import own_clip
from lib.datasets.tigdog import KEYPOINT_PERMUTATION, TigDog
from lib.datasets.youtube_vis import YouTubeVIS, decode_mask

HEIGHT, WIDTH = 40, 60


def picture(path, box=None, size=(HEIGHT, WIDTH)):
    """A grey picture with a red box (x1, y1, x2, y2, the last not included)."""
    pixels = np.full((*size, 3), 128, np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = (255, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=100, subsampling=0)


def box_mask(box, size=(HEIGHT, WIDTH)):
    mask = np.zeros(size, np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def run_lengths(mask, compressed):
    if compressed:
        packed = coco.encode(np.asfortranarray(mask))
        return {"size": packed["size"], "counts": packed["counts"].decode()}
    flat, counts, value = mask.flatten(order="F"), [], 0
    while len(flat):
        run = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], 1 - value
    return {"size": list(mask.shape), "counts": counts}


def polygon(box):
    x1, y1, x2, y2 = box
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def make_youtube(root, year=2019):
    """One video of five frames: horse 1 is marked in four, as polygons and run lengths; 2 is a crowd; 3 is a dog."""
    boxes = [(10 + 2 * t, 8, 30 + 2 * t, 28) for t in range(5)]
    names = [f"abc/{5 * t:05d}.jpg" for t in range(5)]
    for name, box in zip(names, boxes, strict=True):
        picture(root / "train" / "JPEGImages" / name, box)
    marks = [polygon(boxes[0]), run_lengths(box_mask(boxes[1]), False), run_lengths(box_mask(boxes[2]), True), None]
    marks.append(polygon(boxes[4]))
    track = {"video_id": 1, "category_id": 4, "iscrowd": 0, "segmentations": marks, "bboxes": [], "areas": []}
    annotations = {
        "videos": [{"id": 1, "height": HEIGHT, "width": WIDTH, "length": 5, "file_names": names}],
        "categories": [{"id": 4, "name": "horse"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, **track},
            {"id": 2, **track, "iscrowd": 1},
            {"id": 3, **track, "category_id": 5, "segmentations": [marks[0], None, None, None, None]},
        ],
    }
    path = root / "train.json" if year == 2019 else root / "train" / "instances.json"
    path.write_text(json.dumps(annotations))
    return boxes


@pytest.mark.parametrize("year", [2019, 2021])
def test_youtube_vis_reads_polygons_and_run_lengths(tmp_path, year):
    make_youtube(tmp_path, year)
    clips = YouTubeVIS(tmp_path, "horse", image_size=48)
    assert len(clips) == 1
    assert clips.shots[0].missing == {"abc/00015.jpg": "not marked"}
    item = clips[0]
    check_batch(item, "image", "mask", others=False)
    assert item["image"].shape == (4, 3, 48, 48)
    # Masks lie on the red box, in every form in which they are stored.
    red = (item["image"][:, 0] > 0.75) & (item["image"][:, 1] < 0.4)
    assert ((item["mask"] > 0.5) == red).float().mean() > 0.98


def test_all_frames_of_a_clip_are_cut_by_one_square(tmp_path):
    boxes = make_youtube(tmp_path)
    mask = YouTubeVIS(tmp_path, "horse", image_size=64)[0]["mask"]
    columns = torch.arange(64.0)
    center = (mask * columns).sum((1, 2)) / mask.sum((1, 2))
    side = 1.1 * (boxes[4][2] - boxes[0][0])
    # The box moves by 2 pixels of the video a frame: so many pixels of the crop.
    step = 2 * 64 / side
    assert torch.allclose(center.diff(), torch.tensor([step, step, 2 * step]), atol=0.6)


def test_youtube_vis_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.json is missing; get YouTube-VIS"):
        YouTubeVIS(tmp_path, "horse")
    make_youtube(tmp_path)
    with pytest.raises(ValueError, match="category='cow' is unknown; the file has dog, horse"):
        YouTubeVIS(tmp_path, "cow")
    with pytest.raises(ValueError, match="'dog' has no clip of 2 frames or more"):
        YouTubeVIS(tmp_path, "dog")
    (tmp_path / "train" / "JPEGImages" / "abc" / "00005.jpg").unlink()
    clips = YouTubeVIS(tmp_path, "horse", image_size=32)
    assert clips.shots[0].missing["abc/00005.jpg"] == "file missing" and len(clips[0]["image"]) == 3
    (tmp_path / "train.json").write_text(json.dumps({"videos": [1], "categories": [1], "annotations": None}))
    with pytest.raises(ValueError, match="has no annotations; the annotations of the test split are not public"):
        YouTubeVIS(tmp_path, "horse")
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        YouTubeVIS(tmp_path, "horse")


def test_masks_of_any_size_survive_their_codes():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (5, 3), (17, 32)):
        mask = (rng.random(size) > 0.5).astype(np.uint8)
        for compressed in (False, True):
            assert (decode_mask(run_lengths(mask, compressed), *size) == mask).all()


def test_frames_of_another_size_are_refused(tmp_path):
    make_youtube(tmp_path)
    picture(tmp_path / "train" / "JPEGImages" / "abc" / "00005.jpg", size=(20, 30))
    with pytest.raises(ValueError, match=r"00005\.jpg has 30 × 20 pixels, the clip's first frame 60 × 40"):
        YouTubeVIS(tmp_path, "horse")[0]


def make_tigdog(root, frames=3):
    """One shot of horse 7, frames 11 and on, in MATLAB's cells of structs; keypoint 0 walks right."""
    cells = np.empty((frames, 1), object)
    for t in range(frames):
        xy = np.tile([[20.0 + 4 * t, 15.0]], (19, 1)) + np.arange(19)[:, None] % 5
        visible = (np.arange(19) % 3 > 0).astype(np.uint8)[:, None]
        visible[0] = 1
        cells[t, 0] = {"xy": xy + 1, "vis": visible}
        picture(root / "horse" / f"{11 + t:08d}.jpg")
    (root / "ranges" / "horse").mkdir(parents=True)
    (root / "landmarks" / "horse").mkdir(parents=True)
    savemat(root / "ranges" / "horse" / "ranges.mat", {"ranges": np.array([[7, 11, 10 + frames]])})
    savemat(root / "landmarks" / "horse" / "7.mat", {"landmarks": cells})


def test_tigdog_reads_ranges_and_landmarks(tmp_path):
    make_tigdog(tmp_path)
    clips = TigDog(tmp_path, "horse", image_size=32)
    assert clips.shots[0].name == "horse, shot 7"
    assert clips.shots[0].keypoints[1, 0].tolist() == [24.0, 15.0]  # counted from 0
    item = clips[0]
    check_batch(item, "image", "keypoints", "keypoint_visible", others=False)
    assert item["keypoints"].shape == (3, 18, 2)
    assert (item["keypoints"][..., 0].diff(dim=0)[:, 0] > 0).all()
    assert item["keypoints"][item["keypoint_visible"]].abs().max() <= 1
    assert (item["keypoints"][~item["keypoint_visible"]] == 0).all()
    assert (KEYPOINT_PERMUTATION[KEYPOINT_PERMUTATION] == torch.arange(18)).all()


def test_tigdog_with_masks_of_another_tool(tmp_path):
    make_tigdog(tmp_path)
    for t in (0, 2):
        path = tmp_path / "segments" / "horse" / f"{11 + t:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 * box_mask((10, 5, 40, 35))).save(path)
    (tmp_path / "horse" / "00000013.jpg").rename(tmp_path / "kept.jpg")
    with pytest.raises(ValueError, match="no shot of 2 frames or more with their pictures"):
        TigDog(tmp_path)
    (tmp_path / "kept.jpg").rename(tmp_path / "horse" / "00000013.jpg")
    clips = TigDog(tmp_path, image_size=32)
    assert clips.shots[0].missing == {"00000012": "no mask"}
    check_batch(clips[0], "image", "mask", "keypoints")


def test_tigdog_names_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ranges\.mat is missing; get behaviorDiscovery2"):
        TigDog(tmp_path)
    with pytest.raises(ValueError, match="animal='cow' is unknown"):
        TigDog(tmp_path, "cow")
    make_tigdog(tmp_path)
    with pytest.raises(ValueError, match="has no shot 9"):
        TigDog(tmp_path, shots=[9])
    savemat(tmp_path / "landmarks" / "horse" / "7.mat", {"landmarks": np.zeros((2, 1))})
    with pytest.raises(ValueError, match=r"landmarks of 2 frames, ranges\.mat 3"):
        TigDog(tmp_path)


def test_a_video_of_your_own(tmp_path):
    frames, masks = tmp_path / "frames", tmp_path / "masks"
    with pytest.raises(FileNotFoundError, match="frames: there is no folder"):
        own_clip(frames, masks, 32)
    for t in range(3):
        picture(frames / f"{t}.jpg", (10 + 3 * t, 5, 30 + 3 * t, 35))
    masks.mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no mask for 3 frames \(0, 1, 2\); segment them first"):
        own_clip(frames, masks, 32)
    for t in range(3):
        Image.fromarray(255 * box_mask((10 + 3 * t, 5, 30 + 3 * t, 35))).save(masks / f"{t}.png")
    clip = own_clip(frames, masks, 32)
    check_batch(clip, "image", "mask", others=False)
    red = (clip["image"][:, 0] > 0.75) & (clip["image"][:, 1] < 0.4)
    assert ((clip["mask"] > 0.5) == red).float().mean() > 0.97
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(masks / "1.png")
    with pytest.raises(ValueError, match="the mask of 1 is empty"):
        own_clip(frames, masks, 32)
    for t in (1, 2):
        (frames / f"{t}.jpg").unlink()
    with pytest.raises(ValueError, match="has 1 pictures; a clip needs two or more"):
        own_clip(frames, masks, 32)
