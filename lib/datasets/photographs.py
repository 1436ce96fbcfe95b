"""Real pictures: those that come with scikit-image, for which nothing has to be downloaded, and your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.checks import whole_number
from lib.pictures import read_picture


def horse_silhouette(size: int = 128, margin: float = 0.08) -> Float[Tensor, "size size"]:
    """Load the silhouette of a horse, traced by Andreas Preuss (CC0), as a mask in [0, 1] (1 on the horse).

    It is centred in a square image, with at least the share `margin` of the width free on every side. Pixels at its
    border are partly covered. The horse is seen from its side and heads right.
    """
    if size < 8 or not 0 <= margin < 0.5:
        raise ValueError(f"size must be at least 8 and margin in [0, 0.5), got {size} and {margin}")
    horse = torch.from_numpy(~_load("horse")).float()
    rows, columns = horse.any(1).nonzero()[:, 0], horse.any(0).nonzero()[:, 0]
    horse = horse[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = round(max(horse.shape) / (1 - 2 * margin))
    above, before = (side - horse.shape[0]) // 2, (side - horse.shape[1]) // 2
    framed = torch.zeros(side, side)
    framed[above : above + horse.shape[0], before : before + horse.shape[1]] = horse
    small = torch.nn.functional.interpolate(framed[None, None], (size, size), mode="bilinear", antialias=True)
    return small[0, 0].clamp(0, 1)


@dataclass(frozen=True)
class StereoPair:
    """Two rectified photographs, and how far each point moves from one to the other.

    left, right (3, H, W) in [0, 1]; disparity (H, W) in pixels, NaN where it was not measured. A point at column x of
    the left picture lies at x − disparity in the right one. With the focal length in pixels, the baseline in metres and
    `offset`, the difference of the principal points in pixels, depth = focal · baseline / (disparity + offset).
    """

    left: Float[Tensor, "3 H W"]
    right: Float[Tensor, "3 H W"]
    disparity: Float[Tensor, "H W"]
    focal: float
    baseline: float
    offset: float

    @property
    def depth(self) -> Float[Tensor, "H W"]:
        """Depth in metres, NaN where it was not measured."""
        return self.focal * self.baseline / (self.disparity + self.offset)


def stereo_motorcycle() -> StereoPair:
    """Load a motorcycle in a workshop, 500 × 741, with measured disparity (Middlebury; Scharstein et al., 2014)."""
    left, right, disparity = _load("stereo_motorcycle")
    disparity = torch.from_numpy(np.where(np.isfinite(disparity), disparity, np.nan)).float()
    return StereoPair(_image(left), _image(right), disparity, focal=994.978, baseline=0.193001, offset=31.086)


def astronaut() -> Float[Tensor, "3 512 512"]:
    """Load the photograph of Eileen Collins, by NASA (no known copyright)."""
    return _image(_load("astronaut"))


def cat() -> Float[Tensor, "3 300 451"]:
    """Load the photograph of the cat Chelsea, by Stefan van der Walt (CC0)."""
    return _image(_load("chelsea"))


def faces() -> Float[Tensor, "100 25 25"]:
    """Load a hundred grey faces of 25 × 25 pixels in [0, 1], from Labelled Faces in the Wild (Huang et al., 2007)."""
    images = torch.from_numpy(_load("lfw_subset")[:100].astype(np.float32))
    return images / images.max()


def own_picture(path: str | Path, size: int) -> Float[Tensor, "3 size size"]:
    """Read a picture of yours, as cameras and tools write them: the middle square, brought to `size` pixels.

    Raises OSError in one line for a file that cannot be read as a picture.
    """
    size = whole_number("size", size)
    picture = torch.from_numpy(read_picture(path)).permute(2, 0, 1)
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[None, :, top : top + side, left : left + side]
    return torch.nn.functional.interpolate(square, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def _load(name: str):
    """Load one of scikit-image's bundled pictures.

    Raises FileNotFoundError if this installation of scikit-image does not contain it.
    """
    from skimage import data

    try:
        return getattr(data, name)()
    except (OSError, ImportError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"scikit-image comes without its picture {name!r} ({reason}); reinstall it with pip install scikit-image"
        ) from None


def _image(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels[..., :3].astype(np.float32) / 255).permute(2, 0, 1).contiguous()
