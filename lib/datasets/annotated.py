"""Base of CUB and PASCAL3D+: photographs of one object each, with mask, keypoints and, if known, camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lib.checks import whole_number
from lib.geometry.rotations import matrix_to_quaternion
from lib.pictures import read_picture

# CMR's world has x to the animal's left, y towards its tail and z up; the course's has x ahead, y up, z to its right.
FROM_CMR = torch.tensor([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]])
PADDING = 0.05


@dataclass(frozen=True)
class Record:
    """One object in one photograph, in pixels; the centre of the first pixel is at (0, 0).

    box: x1, y1, x2, y2, its last row and column included. mask: (H, W), not 0 inside. camera: scale, shift (2,)
    and rotation (3, 3), u = scale (R X)_xy + shift, in the course's world.
    """

    image: Path
    box: Float[np.ndarray, "4"]
    keypoints: Float[np.ndarray, "K 2"]
    visible: Bool[np.ndarray, "K"]
    mask: np.ndarray
    camera: tuple[float, np.ndarray, np.ndarray] | None = None


class AnnotatedImages(Dataset):
    """Square crops around the objects of a list of records, as dicts of tensors: image, white where the crop leaves the
    photograph; mask; keypoints, 0 where hidden; keypoint_visible; camera, once known. `lib.datasets.KEYS` has their
    shapes and units.

    The crop is the box, padded by 5 % on every side and made square. `keypoints` (N, K, 2), `visible` (N, K) and
    `cameras` (N, 7) or None hold those of all items. If the data come without cameras, assign those that structure
    from motion finds.
    """

    def __init__(
        self,
        records: Sequence[Record],
        keypoint_names: Sequence[str],
        keypoint_permutation: Int[Tensor, "K"],
        image_size: int = 256,
    ) -> None:
        self.records = list(records)
        self.keypoint_names = list(keypoint_names)
        self.keypoint_permutation = keypoint_permutation
        self.image_size = whole_number("image_size", image_size)
        if not self.records:
            raise ValueError("records is empty; give at least one object")
        for record in self.records:
            check_record(record)
        # The square crop: its corner and side, in pixels counted from the edge of the photograph.
        self.crops = [square_crop(record.box) for record in self.records]
        corners = torch.tensor([[x, y] for x, y, _ in self.crops])
        sides = torch.tensor([side for _, _, side in self.crops])

        def to_plane(pixels: np.ndarray) -> Tensor:
            pixels = torch.from_numpy(pixels).float() + 0.5
            return 2 * (pixels - corners[:, None]) / sides[:, None, None] - 1

        self.visible = torch.from_numpy(np.stack([record.visible for record in self.records]))
        points = to_plane(np.stack([record.keypoints for record in self.records]))
        self.keypoints = torch.where(self.visible[..., None], points, 0)
        self.cameras: Tensor | None = None
        if all(record.camera is not None for record in self.records):
            scales, shifts, rotations = zip(*(record.camera for record in self.records), strict=True)
            scale = 2 * torch.tensor(scales).float() / sides
            shift = to_plane(np.stack(shifts)[:, None])[:, 0]
            quaternion = matrix_to_quaternion(torch.from_numpy(np.stack(rotations)).float())
            self.cameras = torch.cat([scale[:, None], shift, quaternion], -1)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        record = self.records[index]
        if not record.image.is_file():
            raise FileNotFoundError(f"the photograph {record.image} is missing; unpack the images again")
        size = self.image_size
        # As it is stored: the annotations count pixels of the file, whatever its EXIF orientation says.
        photograph = np.round(255 * read_picture(record.image, upright=False)).astype(np.uint8)
        if photograph.shape[:2] != record.mask.shape:
            sizes = " and ".join(f"{width} × {height}" for height, width in (photograph.shape[:2], record.mask.shape))
            raise ValueError(f"{record.image} and its mask have {sizes} pixels; unpack images and annotations again")
        picture = cut(Image.fromarray(photograph), self.crops[index], size, background=(255, 255, 255))
        mask = cut(Image.fromarray((record.mask != 0).astype(np.uint8) * 255), self.crops[index], size, background=0)
        item = {
            "image": torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255,
            "mask": (torch.from_numpy(np.array(mask)) > 127).float(),
            "keypoints": self.keypoints[index],
            "keypoint_visible": self.visible[index],
        }
        if self.cameras is not None:
            item["camera"] = self.cameras[index]
        return item


def check_record(record: Record) -> None:
    """Raise ValueError for a mask that is no picture, or a box that is empty or far larger than the photograph."""
    if record.mask.ndim != 2 or record.mask.size == 0:
        raise ValueError(f"the mask of {record.image} has shape {record.mask.shape}; unpack the annotations again")
    width, height = record.box[2:] - record.box[:2] + 1
    # A box that is too large would take all memory, not only look wrong.
    if not (
        np.isfinite(record.box).all() and 0 < min(width, height) and max(width, height) <= 4 * max(record.mask.shape)
    ):
        raise ValueError(f"the box of {record.image} is {record.box.tolist()}; unpack the annotations again")


def square_crop(box: Float[np.ndarray, "4"], padding: float = PADDING) -> tuple[float, float, float]:
    """Return left edge, upper edge and side of the square around a box of pixels, padded by a fraction of its size."""
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    side = (1 + 2 * padding) * max(width, height)
    return x1 + (width - side) / 2, y1 + (height - side) / 2, side


def cut(picture: Image.Image, crop: tuple[float, float, float], size: int, background) -> Image.Image:
    """Cut out the crop (left, top, side), which may leave the picture, and resample it to size × size pixels."""
    left, top, side = crop
    x, y = int(np.floor(left)), int(np.floor(top))
    whole = int(np.ceil(side)) + 2
    canvas = Image.new(picture.mode, (whole, whole), background)
    canvas.paste(picture, (-x, -y))
    box = (left - x, top - y, left - x + side, top - y + side)
    return canvas.resize((size, size), Image.Resampling.BILINEAR, box=box)


def read_records(
    annotations: Path, cameras: Path, images: Path, needed: str
) -> tuple[list[Record], Float[Tensor, "K 3"] | None]:
    """Read the records of CMR's two files, `images[i]` and `sfm_anno[i]`, and its mean keypoints if they are there.

    The files count pixels from 1. needed: says what to download, for the error message.
    """
    entries = np.atleast_1d(load_matlab(annotations, needed, "images")["images"])
    found = load_matlab(cameras, needed, "sfm_anno")
    poses = np.atleast_1d(found["sfm_anno"])
    if len(entries) != len(poses):
        message = f"{annotations} has {len(entries)} images, {cameras} has {len(poses)}; unpack both again"
        raise ValueError(message)
    records = []
    for number, (entry, pose) in enumerate(zip(entries, poses, strict=True), 1):
        try:
            parts = np.asarray(entry.parts, dtype=float)
            box = np.array([entry.bbox.x1, entry.bbox.y1, entry.bbox.x2, entry.bbox.y2], dtype=float) - 1
            rotation = np.asarray(pose.rot, dtype=float) @ FROM_CMR.double().numpy().T
            camera = (float(pose.scale), np.asarray(pose.trans, dtype=float).reshape(2) - 1, rotation)
            if not all(np.isfinite(part).all() for part in (*camera, parts[:2, parts[2] > 0])):
                raise ValueError("its camera or a visible keypoint is no number")
            if not camera[0] > 0:
                raise ValueError(f"the scale of its camera is {camera[0]:.3g}")
            if rotation.shape != (3, 3) or np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.01:
                raise ValueError("the rotation of its camera is no rotation")
            path = images / str(entry.rel_path)
            records.append(Record(path, box, parts[:2].T - 1, parts[2] > 0, np.asarray(entry.mask), camera))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{annotations} or {cameras}: entry {number} is damaged ({error}); unpack both again"
            ) from None
    structure = None
    if "S" in found:
        structure = torch.from_numpy(np.asarray(found["S"], dtype=float)).float().T @ FROM_CMR.T
    return records, structure


def load_matlab(path: Path, needed: str, *names: str) -> dict:
    """Read a MATLAB file as nested records.

    names: of the variables that it must hold.

    Raises FileNotFoundError or ValueError, in one line, if it is missing or damaged, or lacks a variable.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {needed}")
    try:
        found = loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # SciPy raises errors of many types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}); download it again") from None
    if missing := ", ".join(name for name in names if name not in found):
        raise ValueError(f"{path} lacks {missing}, so it is another file; download it again")
    return found
