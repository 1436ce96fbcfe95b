"""TigDog: videos of horses and tigers with 2D keypoints in every frame.

Source: Del Pero, Ricco, Sukthankar, Ferrari, "Behavior discovery and alignment of articulated object classes from
unstructured video", IJCV 2017 (release "behaviorDiscovery2.0").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lib.datasets.annotated import load_matlab
from lib.datasets.clips import Clips, Shot
from lib.pictures import read_picture

ANIMALS = ("horse", "tiger")
# The release marks 19 points; the neck, its last, is left out, as Kokkinos & Kokkinos do.
KEYPOINTS = 18
KEYPOINT_PERMUTATION = torch.tensor([2, 1, 3, 5, 4, 7, 6, 8, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17]) - 1
NEEDED = (
    "get behaviorDiscovery2.0 (calvin-vision.net, TigDog, for research) and unpack it into the root folder, so that it "
    "holds ranges/<animal>/ranges.mat, landmarks/<animal>/<shot>.mat and <animal>/00000001.jpg"
)


class TigDog(Clips):
    """TigDog(root, "horse"): the shots of one animal; see `Clips` for an item, with 18 keypoints.

    Masks are not part of the release. Those of your own tool are read from segments/<animal>/<frame>.png, if the folder
    is there; frames without one are left out then. `shots[i].missing` names the frames that were left out. shots: only
    those of these numbers, such as the training shots. least: shots of fewer frames are left out.

    Raises FileNotFoundError, which says what to download and where to put it.
    """

    def __init__(
        self,
        root: str | Path,
        animal: str = "horse",
        image_size: int = 256,
        shots: list[int] | None = None,
        least: int = 2,
    ) -> None:
        if animal not in ANIMALS:
            raise ValueError(f"animal={animal!r} is unknown; use one of {', '.join(ANIMALS)}")
        root = Path(root)
        path = root / "ranges" / animal / "ranges.mat"
        ranges = np.atleast_2d(np.asarray(load_matlab(path, NEEDED, "ranges")["ranges"]))
        if ranges.shape[1] != 3 or (ranges[:, 2] < ranges[:, 1]).any():
            raise ValueError(f"{path} must hold rows of shot, first and last frame; download it again")
        chosen = [row for row in ranges.astype(int).tolist() if shots is None or row[0] in shots]
        if shots is not None and (unknown := sorted(set(shots) - {row[0] for row in chosen})):
            raise ValueError(f"shots: {path} has no shot {unknown[0]}")
        found = [_shot(root, animal, *row) for row in chosen]
        found = [shot for shot in found if len(shot.frames) >= least]
        if not found:
            raise ValueError(f"{root} has no shot of {least} frames or more with their pictures; {NEEDED}")
        super().__init__(found, image_size)


def _shot(root: Path, animal: str, number: int, first: int, last: int) -> Shot:
    """The frames of one shot, first to last included, with their landmarks."""
    path = root / "landmarks" / animal / f"{number}.mat"
    landmarks = np.atleast_1d(load_matlab(path, NEEDED, "landmarks")["landmarks"])
    count = last - first + 1
    if len(landmarks) != count:
        raise ValueError(f"{path} has landmarks of {len(landmarks)} frames, ranges.mat {count}; download both again")
    segments = root / "segments" / animal
    frames, masks, points, seen, missing = [], [], [], [], {}
    for index, entry in zip(range(first, last + 1), landmarks, strict=True):
        name = f"{index:08d}"
        frame, mask = root / animal / f"{name}.jpg", segments / f"{name}.png"
        if not frame.is_file():
            missing[name] = "file missing"
        elif segments.is_dir() and not mask.is_file():
            missing[name] = "no mask"
        else:
            xy, visible = _landmarks(entry, path, name)
            frames.append(frame)
            masks.append(read_picture(mask, channels=1, upright=False)[..., 0] > 0.5 if segments.is_dir() else None)
            points.append(xy)
            seen.append(visible)
    keypoints = np.array(points, float).reshape(-1, KEYPOINTS, 2)
    visible = np.array(seen, bool).reshape(-1, KEYPOINTS)
    return Shot(f"{animal}, shot {number}", frames, masks, keypoints, visible, missing)


def _landmarks(entry, path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The points (18, 2), counted from 0, and which are visible, of one frame's record: its first field, its second."""
    try:
        parts = _fields(entry)
        while len(parts) == 1:  # the release nests one record in another
            parts = _fields(parts[0])
        xy = np.asarray(parts[0], float).reshape(-1, 2)[:KEYPOINTS]
        visible = np.asarray(parts[1]).astype(float).reshape(-1)[:KEYPOINTS] > 0
        if len(xy) < KEYPOINTS or len(visible) < KEYPOINTS:
            raise ValueError(f"{len(xy)} points")
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the landmarks of frame {name} are damaged ({error}); download it again") from None
    visible &= np.isfinite(xy).all(1)
    return np.where(visible[:, None], xy - 1, 0), visible


def _fields(entry) -> list:
    if hasattr(entry, "_fieldnames"):
        return [getattr(entry, name) for name in entry._fieldnames]
    if isinstance(entry, np.ndarray) and entry.dtype == object:
        return list(entry.reshape(-1))
    raise TypeError("no record")
