"""PASCAL3D+: photographs of rigid objects with keypoints ("anchors").

Source: Xiang, Mottaghi, Savarese, "Beyond PASCAL: a benchmark for 3D object detection in the wild", WACV 2014. The
rules of reading are those of Kanazawa et al., ECCV 2018.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.datasets.annotated import AnnotatedImages, Record, load_matlab, read_records

# Some anchors have a wrong name. In the sorted list, anchor i really is the one that the name at place
# CORRECTED_NAMES[…][i] tells (both counted from 1).
CORRECTED_NAMES = {
    "car": [1, 6, 7, 8, 5, 2, 3, 4, 9, 12, 11, 10],
    "aeroplane": [4, 5, 3, 1, 2, 6, 7, 8],
}
FEWEST_VISIBLE = 4
NEEDED = (
    "get PASCAL3D+_release1.1 (cvgl.stanford.edu/projects/pascal3d, for non-commercial research) and unpack it so that "
    "the root folder holds Annotations and Images; masks go to segkps/<category>.mat (keypoint-segmentation "
    "polygons) and masks/<category>_imagenet; or put CMR's files (akanazawa.github.io/cmr) in p3d/data and p3d/sfm"
)


class Pascal3D(AnnotatedImages):
    """Pascal3D(root, category): crops of one category and split; see `AnnotatedImages` for an item.

    If `root/p3d/data` exists, CMR's files are read, with CMR's cameras. Otherwise the release itself is read: the
    ImageNet photographs and VOC's training set for "train", VOC's validation set for "val". Objects that are difficult,
    truncated, occluded, without a mask or with three visible keypoints or fewer are left out. The release's misnamed
    keypoints get their right names.

    Raises FileNotFoundError, which says what to download and where to put it.
    """

    def __init__(self, root: str | Path, category: str, split: str = "train", image_size: int = 256) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r} is unknown; use one of train, val")
        root = Path(root)
        self.structure: Float[Tensor, "K 3"] | None = None
        if (root / "p3d" / "data").is_dir():
            names = load_matlab(root / "p3d" / "data" / f"{category}_kps.mat", NEEDED, "kp_names", "kp_perm_inds")
            keypoint_names = [str(name) for name in names["kp_names"]]
            permutation = torch.from_numpy(np.asarray(names["kp_perm_inds"]).astype(np.int64)) - 1
            records, self.structure = read_records(
                root / "p3d" / "data" / f"{category}_{split}.mat",
                root / "p3d" / "sfm" / f"{category}_{split}.mat",
                root / "Images",
                NEEDED,
            )
        else:
            keypoint_names, records = read_release(root, category, split)
            permutation = left_right_permutation(keypoint_names)
        super().__init__(records, keypoint_names, permutation, image_size)


def left_right_permutation(names: list[str]) -> Int[Tensor, "K"]:
    """Find for each keypoint the one whose name has left and right exchanged; itself if its name has neither."""
    exchange = {"left": "right", "right": "left", "L": "R", "R": "L"}
    partners = ["_".join(exchange.get(part, part) for part in name.split("_")) for name in names]
    missing = [partner for partner in partners if partner not in names]
    if missing:
        raise ValueError(f"keypoint {missing[0]!r} is missing, its mirror image is there; give both")
    return torch.tensor([names.index(partner) for partner in partners])


def read_release(root: Path, category: str, split: str) -> tuple[list[str], list[Record]]:
    """Read keypoint names and records from the release's own annotations.

    Raises FileNotFoundError or ValueError if there is nothing to read.
    """
    sources = ("pascal", "imagenet") if split == "train" else ("pascal",)
    training = set()
    list_of_images = root / "PASCAL" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "train.txt"
    if list_of_images.is_file():
        training = set(list_of_images.read_text().split())
    names: list[str] = []
    records = []
    for source in sources:
        folder = root / "Annotations" / f"{category}_{source}"
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing; {NEEDED}")
        if source == "pascal" and not training:
            raise FileNotFoundError(f"{list_of_images} is missing, it says which images are for training; {NEEDED}")
        masks = _polygons(root, category) if source == "pascal" else None
        for path in sorted(folder.glob("*.mat")):
            if source == "pascal" and (path.stem in training) != (split == "train"):
                continue
            record = load_matlab(path, NEEDED, "record")["record"]
            image = root / "Images" / f"{category}_{source}" / str(record.filename)
            for number, item in enumerate(np.atleast_1d(record.objects), 1):
                unclear = [np.any(flag) for flag in (item.difficult, item.truncated, item.occluded)]
                if getattr(item, "class") != category or any(unclear):
                    continue
                names = names or sorted(item.anchors._fieldnames)
                points, visible = _keypoints(item.anchors, names)
                if visible.sum() < FEWEST_VISIBLE:
                    continue
                box = np.asarray(item.bbox, dtype=float) - 1
                if masks is not None:
                    mask = _fill(masks.get((path.stem, number)), record.imgsize)
                else:
                    mask = _detected(root / "masks" / f"{category}_imagenet" / f"{path.stem}.mat", box)
                if mask is not None:
                    records.append(Record(image, box, points, visible, mask))
    if not records:
        raise ValueError(f"{root} has no {category} for {split} that has a mask and 4 visible keypoints; {NEEDED}")
    order = CORRECTED_NAMES.get(category, range(1, len(names) + 1))
    return [names[i - 1] for i in order], records


def _keypoints(anchors, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    points, visible = np.zeros((len(names), 2)), np.zeros(len(names), dtype=bool)
    for k, name in enumerate(names):
        location = np.asarray(getattr(anchors, name).location, dtype=float).reshape(-1)
        if location.size == 2:
            points[k], visible[k] = location - 1, True
    return points, visible


def _polygons(root: Path, category: str) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Read the outlines of the VOC objects, by image and number of the object in it."""
    outlines = load_matlab(root / "segkps" / f"{category}.mat", NEEDED, "segmentations")["segmentations"]

    def cells(values: np.ndarray) -> np.ndarray | list:
        return values if values.dtype == object else [values]  # SciPy returns a single cell as its content

    images = np.atleast_1d(outlines.voc_image_id)
    numbers = np.atleast_1d(outlines.voc_rec_id)
    pairs = zip(images, numbers, cells(outlines.poly_x), cells(outlines.poly_y), strict=True)
    return {
        (str(image), int(number)): (np.asarray(x, dtype=float) - 1, np.asarray(y, dtype=float) - 1)
        for image, number, x, y in pairs
    }


def _fill(outline: tuple[np.ndarray, np.ndarray] | None, size) -> np.ndarray | None:
    """Fill an outline: the mask of its inside, in an image of this width and height."""
    from skimage.draw import polygon2mask

    if outline is None:
        return None
    width, height = int(size[0]), int(size[1])
    return polygon2mask((height, width), np.stack(outline[::-1], -1))


def _detected(path: Path, box: Float[np.ndarray, "4"]) -> np.ndarray | None:
    """Choose among the masks found in an ImageNet photograph the one whose box overlaps best, if by at least 0.8."""
    if not path.is_file():
        return None
    found = load_matlab(path, NEEDED, "boxes", "masks")
    boxes = np.asarray(found["boxes"], dtype=float).reshape(-1, np.shape(found["boxes"])[-1])[:, :4] - 1
    if len(boxes) == 0:
        return None
    masks = np.asarray(found["masks"])
    masks = masks[..., None] if masks.ndim == 2 else masks
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    overlap = np.prod((high - low + 1).clip(0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1) + np.prod(box[2:] - box[:2] + 1)
    iou = overlap / (areas - overlap)
    best = int(iou.argmax())
    return masks[..., best] if iou[best] >= 0.8 else None
