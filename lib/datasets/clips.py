"""Base of the video data sets: the frames of one animal, cut by one square for the whole clip; and your own video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lib.checks import whole_number
from lib.datasets.annotated import cut, square_crop
from lib.pictures import read_picture

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Shot:
    """One animal in the frames of one video, in pixels; the centre of the first pixel is at (0, 0).

    frames: picture files. masks: for each frame (H, W), not 0 inside, or None where nobody drew one. keypoints (N, K,
    2) and visible (N, K), if there are any. missing: names of the frames that were left out, and why.
    """

    name: str
    frames: Sequence[Path]
    masks: Sequence[np.ndarray | None]
    keypoints: Float[np.ndarray, "N K 2"] | None = None
    visible: Bool[np.ndarray, "N K"] | None = None
    missing: dict[str, str] = field(default_factory=dict)


class Clips(Dataset):
    """Clips of a list of shots, as dicts of tensors whose first axis is the frames of the clip: image, white beyond the
    frame; mask, if every frame has one; keypoints and keypoint_visible, if the data have them. `lib.datasets.KEYS` has
    their shapes and units.

    All frames of a clip are cut by the same square: around all its masks, or else its visible keypoints, padded by 5 %
    on every side. So the flow between two frames is the flow of the video, and the camera does not jump with the box.
    """

    def __init__(self, shots: Sequence[Shot], image_size: int = 256) -> None:
        self.shots = list(shots)
        self.image_size = whole_number("image_size", image_size)
        if not self.shots:
            raise ValueError("shots is empty; give at least one")

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        shot = self.shots[index]
        photographs = [_read_frame(path) for path in shot.frames]
        shape = photographs[0].shape[:2]
        for path, photograph, mask in zip(shot.frames, photographs, shot.masks, strict=True):
            _check_size(str(path), photograph.shape[:2], shape)
            if mask is not None:
                _check_size(f"the mask of {path}", mask.shape, shape)
        crop, size = square_crop(self._box(shot)), self.image_size
        pictures = [cut(Image.fromarray(photograph), crop, size, (255, 255, 255)) for photograph in photographs]
        item = {"image": torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 255 for p in pictures])}
        if all(mask is not None for mask in shot.masks):
            masks = [cut(Image.fromarray((mask != 0).astype(np.uint8) * 255), crop, size, 0) for mask in shot.masks]
            item["mask"] = torch.stack([(torch.from_numpy(np.array(mask)) > 127).float() for mask in masks])
        if shot.keypoints is not None:
            visible = torch.from_numpy(shot.visible)
            left, top, side = crop
            points = (torch.from_numpy(shot.keypoints).float() + 0.5 - torch.tensor([left, top])) * 2 / side - 1
            item |= {"keypoints": torch.where(visible[..., None], points, 0), "keypoint_visible": visible}
        return item

    @staticmethod
    def _box(shot: Shot) -> Float[np.ndarray, "4"]:
        """The box x1, y1, x2, y2 around all masks, or all visible keypoints if a frame has no mask."""
        if all(mask is not None for mask in shot.masks):
            union = np.any([mask != 0 for mask in shot.masks], axis=0)
            rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
            if len(rows) == 0:
                raise ValueError(f"the masks of {shot.name} are all empty; leave this clip out")
            return np.array([columns[0], rows[0], columns[-1], rows[-1]], float)
        if shot.keypoints is None or not shot.visible.any():
            raise ValueError(f"{shot.name} has neither masks nor visible keypoints; segment its frames first")
        seen = shot.keypoints[shot.visible]
        return np.concatenate([seen.min(0), seen.max(0)])


def own_clip(frames: str | Path, masks: str | Path, size: int) -> dict[str, Tensor]:
    """Read a video of yours: a folder of frames, and a folder of masks with the same names (whatever their endings).

    The frames are taken in the order of their names. A mask is white (above half) on the animal. Returns image
    (N, 3, size, size) and mask (N, size, size), cut as in `Clips`.

    Raises FileNotFoundError that names the frames without a mask, and ValueError for less than two frames, an empty
    mask, or sizes that differ.
    """
    folders = Path(frames), Path(masks)
    for what, folder in zip(("frames", "masks"), folders, strict=True):
        if not folder.is_dir():
            raise FileNotFoundError(f"{what}: there is no folder {folder}; make one with a picture for each frame")
    pictures, drawn = ({p.stem: p for p in sorted(folder.iterdir()) if _is_picture(p)} for folder in folders)
    if len(pictures) < 2:
        raise ValueError(f"{folders[0]} has {len(pictures)} pictures; a clip needs two or more")
    if missing := [name for name in pictures if name not in drawn]:
        few = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise FileNotFoundError(f"{folders[1]} has no mask for {len(missing)} frames ({few}); segment them first")
    read = [read_picture(drawn[name], channels=1)[..., 0] > 0.5 for name in pictures]
    if empty := [name for name, mask in zip(pictures, read, strict=True) if not mask.any()]:
        raise ValueError(f"the mask of {empty[0]} is empty; leave that frame out")
    shot = Shot(folders[0].name, list(pictures.values()), read)
    return Clips([shot], size)[0]


def _check_size(what: str, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if tuple(found) != tuple(shape):
        sizes = [" × ".join(map(str, reversed(size))) for size in (found, shape)]
        raise ValueError(
            f"{what} has {sizes[0]} pixels, the clip's first frame {sizes[1]}; scale a clip's frames and masks alike"
        )


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def _read_frame(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"the frame {path} is missing; unpack the frames again")
    # As it is stored: masks count pixels of the file, whatever its EXIF orientation says.
    return np.round(255 * read_picture(path, upright=False)).astype(np.uint8)
