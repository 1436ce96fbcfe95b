"""Reading picture files of cameras and tools: upright, opaque, scaled to [0, 1]."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

# Modes of Pillow: their conversion to other modes clips at 255 instead of scaling.
DEEP = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
RANGE_16_BIT = 65535


def read_picture(
    source: str | Path | bytes, *, channels: int = 3, upright: bool = True, background: float | None = 1.0
) -> Float[np.ndarray, "H W C"]:
    """Read a picture from a file, or a file's bytes, as float32 in [0, 1], (H, W, 3) or with channels=1 (H, W, 1).

    8 and 16 bits a channel are scaled by the range of their type; floats must already lie in [0, 1]. Palettes, CMYK and
    similar modes become RGB. The first picture of an animation or a stack is read.

    upright: turn the picture by its EXIF orientation, as a viewer does. Annotations that count pixels of the stored
        file need False.
    background: the grey in [0, 1] that shows through transparent parts; None ignores transparency.

    EXIF data that make no sense are passed over: the pixels are good.

    Raises OSError in one line for a file that cannot be read as a picture, ValueError for floats outside of [0, 1].
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (red, green, blue), got {channels!r}")
    name = "the embedded picture" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            file.load()
            picture = _upright(file) if upright else file.copy()
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(f"{name} cannot be read as a picture ({reason}); fetch it again or remove it") from None
    if picture.mode in DEEP:
        grey = _unit_range(np.asarray(picture), picture.mode, name)
        return np.repeat(grey[..., None], channels, axis=2)
    transparent = "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info
    if not transparent or background is None:
        return _values(picture, channels)
    layers = picture.convert("RGBA")
    alpha = np.asarray(layers.getchannel("A"), np.float32)[..., None] / 255
    return alpha * _values(layers.convert("RGB"), channels) + (1 - alpha) * np.float32(background)


def _upright(file: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return file.copy()


def _values(picture: Image.Image, channels: int) -> Float[np.ndarray, "H W C"]:
    values = np.asarray(picture.convert("RGB" if channels == 3 else "L"), np.float32) / 255
    return values.reshape(*values.shape[:2], channels)


def _unit_range(values: np.ndarray, mode: str, name: str) -> Float[np.ndarray, "H W"]:
    if mode != "F":
        # In some formats and versions Pillow returns 16-bit greys as 32-bit integers.
        largest = RANGE_16_BIT if values.max(initial=0) <= RANGE_16_BIT else np.iinfo(np.int32).max
        return (values.astype(np.float64) / largest).clip(0, 1).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # true for NaN, too
        raise ValueError(f"{name} holds floats from {low:.4g} to {high:.4g}; scale them to 0 … 1 first")
    return values.astype(np.float32)
