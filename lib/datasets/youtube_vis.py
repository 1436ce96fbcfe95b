"""YouTube-VIS: videos with the masks of every instance, every fifth frame.

Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lib.datasets.clips import Clips, Shot

NEEDED = (
    "get YouTube-VIS (youtube-vos.org/dataset/vis, for research) and unpack it into the root folder as "
    "<split>/JPEGImages/<video>/*.jpg and <split>.json (2019) or <split>/instances.json (2021)"
)


class YouTubeVIS(Clips):
    """YouTubeVIS(root, "horse"): the clips of one category; see `Clips` for an item, with masks.

    A clip is one animal that nobody drew over: crowds are left out, and of each animal the frames in which it is
    marked. `shots[i].missing` names the frames that were left out. least: clips of fewer frames are left out.

    Raises FileNotFoundError, which says what to download and where to put it; ValueError for an unknown category.
    """

    def __init__(
        self, root: str | Path, category: str, split: str = "train", image_size: int = 256, least: int = 2
    ) -> None:
        root = Path(root)
        found = _load(root, split)
        names = {entry["name"]: entry["id"] for entry in found["categories"]}
        if category not in names:
            raise ValueError(f"category={category!r} is unknown; the file has {', '.join(sorted(names))}")
        videos = {video["id"]: video for video in found["videos"]}
        shots = []
        for track in found["annotations"]:
            if track["category_id"] != names[category] or track.get("iscrowd"):
                continue
            shot = _shot(track, videos[track["video_id"]], root / split / "JPEGImages")
            if len(shot.frames) >= least:
                shots.append(shot)
        if not shots:
            raise ValueError(f"{category!r} has no clip of {least} frames or more in {split}")
        super().__init__(shots, image_size)


def decode_mask(segmentation: dict | list, height: int, width: int) -> np.ndarray:
    """Decode a segmentation of COCO's format to (H, W) of 0 and 1: polygons, and run lengths, compressed or not."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        segmentation = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask.frPyObjects(segmentation, height, width)
    return mask.decode(segmentation)


def _load(root: Path, split: str) -> dict:
    for path in (root / f"{split}.json", root / split / "instances.json"):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); unpack it again") from None
        parts = ("videos", "annotations", "categories")
        if missing := [name for name in parts if not isinstance(found, dict) or not found.get(name)]:
            raise ValueError(f"{path} has no {missing[0]}; the annotations of the test split are not public, use train")
        return found
    raise FileNotFoundError(f"{root / f'{split}.json'} is missing; {NEEDED}")


def _shot(track: dict, video: dict, images: Path) -> Shot:
    """The frames of one animal that are marked, with their masks."""
    frames, masks, missing = [], [], {}
    height, width = video["height"], video["width"]
    for name, segmentation in zip(video["file_names"], track["segmentations"], strict=True):
        if segmentation is None:
            missing[name] = "not marked"
            continue
        try:
            mask = decode_mask(segmentation, height, width)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the segmentation of {name} is damaged ({error}); unpack the annotations again") from None
        if mask.shape != (height, width):
            raise ValueError(f"the mask of {name} has shape {mask.shape}, the video {(height, width)}")
        if not mask.any():
            missing[name] = "empty mask"
        elif not (images / name).is_file():
            missing[name] = "file missing"
        else:
            frames.append(images / name)
            masks.append(mask)
    return Shot(f"{video['file_names'][0].split('/')[0]}, animal {track['id']}", frames, masks, missing=missing)
