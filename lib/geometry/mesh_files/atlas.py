"""Uniting the materials of a mesh, with several pictures, into one texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BORDER = 2  # pixels around each picture, so that its neighbours in the atlas do not show at its edges
MOST_PIXELS = 1 << 26
PADDING = {"repeat": "wrap", "clamp": "edge", "mirror": "symmetric"}


@dataclass
class Material:
    """The look of a face: one colour (3,) or None, and a picture (H, W, 3), which has priority over the colour.

    wrap: how the picture continues to its sides, and above and below it: "repeat", "clamp" or "mirror".
    """

    color: tuple[float, float, float] | None = None
    picture: Float[np.ndarray, "H W 3"] | None = None
    wrap: tuple[str, str] = ("repeat", "repeat")


def unite(
    uvs: Float[np.ndarray, "C 2"] | None,
    material: Int[np.ndarray, "C"],
    owner: Int[np.ndarray, "C"],
    materials: list[Material],
) -> tuple[Float[np.ndarray, "C 2"], Float[np.ndarray, "H W 3"]]:
    """Make one picture for all corners, and the texture coordinates in it.

    uvs: v up, NaN for a corner without. material: of each corner, −1 for none. owner: each corner's polygon.
    A single picture that repeats stays as it is (coordinates beyond [0, 1] repeat it, see
    `rendering.texture_sample`). Otherwise every picture is laid out as often as its coordinates need. A material
    without a picture, or a corner without coordinates, gets a patch of its colour.

    Raises ValueError if this takes more than `MOST_PIXELS`.
    """
    count = len(material)
    uvs = np.full((count, 2), np.nan) if uvs is None else uvs.copy()
    has_picture = np.array([entry.picture is not None for entry in materials] + [False])[material]
    missing = np.isnan(uvs).any(1)
    if missing.any():  # a polygon is textured as a whole or not at all
        has_picture &= np.bincount(owner, missing, owner.max() + 1)[owner] == 0
    used = np.unique(material[has_picture])
    if len(used) == 1 and has_picture.all():
        only = materials[used[0]]
        beyond = (uvs < -1e-6).any() or (uvs > 1 + 1e-6).any()
        if not beyond or only.wrap == ("repeat", "repeat"):
            return uvs, only.picture
    pieces: list[tuple[np.ndarray, np.ndarray]] = []  # pictures, and the corners that use them
    for index in used:
        chosen = has_picture & (material == index)
        entry = materials[index]
        part, low = _to_first_tiles(uvs[chosen], owner[chosen], entry.wrap)
        pieces.append((_lay_out(entry, low, np.ceil((part - low).max(0) - 1e-6).clip(1).astype(int)), chosen))
        uvs[chosen] = part - low
    for index in np.unique(material[~has_picture]):
        color = materials[index].color if index >= 0 else None
        patch = np.broadcast_to(np.array(color if color is not None else (1.0, 1, 1), np.float32), (1, 1, 3))
        chosen = ~has_picture & (material == index)
        pieces.append((patch, chosen))
        uvs[chosen] = 0.5
    sheet, corners = _pack([picture for picture, _ in pieces])
    height, width = sheet.shape[:2]
    tiles = {index: materials[index].picture.shape[:2] for index in used}
    for (picture, chosen), (left, top) in zip(pieces, corners, strict=True):
        # In pixels from the lower left corner of the picture; a tile of it is 1 in u and v.
        rows, columns = tiles.get(int(material[chosen][0]), picture.shape[:2]) if has_picture[chosen][0] else (1, 1)
        x = left + uvs[chosen, 0] * columns
        y = top + picture.shape[0] - uvs[chosen, 1] * rows
        uvs[chosen] = np.stack([x / width, 1 - y / height], 1)
    return uvs, sheet


def _to_first_tiles(uvs: np.ndarray, owner: np.ndarray, wrap: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Move polygons by whole tiles if the picture repeats; return them and the lower left tile that they reach."""
    low = np.full((owner.max() + 1, 2), np.inf)
    np.minimum.at(low, owner, uvs)
    shift = np.floor(low[owner] + 1e-6)
    shift[:, [side != "repeat" for side in wrap]] = 0
    moved = uvs - shift
    return moved, np.floor(moved.min(0) + 1e-6)


def _lay_out(entry: Material, low: np.ndarray, tiles: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    """Repeat the picture `tiles` times to the right and up, beginning with the tile `low`."""
    rows, columns = entry.picture.shape[:2]
    reach = tiles + np.abs(low)
    if float(rows * columns) * reach[0] * reach[1] > MOST_PIXELS:
        raise ValueError(
            f"the texture is tiled {tiles[0]} × {tiles[1]} times beside other materials, too much for one picture; "
            "bake it into one picture first, or read without its appearance"
        )
    picture = entry.picture
    for axis, size, first, count, side in (
        (1, columns, int(low[0]), int(tiles[0]), entry.wrap[0]),
        (0, rows, int(low[1]), int(tiles[1]), entry.wrap[1]),
    ):
        before, after = -first * size, (first + count - 1) * size
        if axis == 0:
            before, after = after, before
        # Tiles that begin beyond the first one are cut off again.
        padded = np.pad(
            picture, [(max(before, 0), max(after, 0)) if i == axis else (0, 0) for i in range(3)], mode=PADDING[side]
        )
        start = max(-before, 0)
        picture = np.take(padded, np.arange(start, start + count * size), axis=axis)
    return picture


def _pack(pictures: list[np.ndarray]) -> tuple[Float[np.ndarray, "H W 3"], list[tuple[int, int]]]:
    """Arrange pictures in rows, the tallest first; return also the place (x, y) of each upper left corner."""
    padded = [np.pad(picture, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge") for picture in pictures]
    pixels = sum(picture.shape[0] * picture.shape[1] for picture in padded)
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"the textures have {pixels / 1e6:.0f} million pixels, too many for one picture; "
            "bake them into one picture first, or read without their appearance"
        )
    widest = max(max(picture.shape[1] for picture in padded), int(np.ceil(pixels**0.5)))
    places = [(0, 0)] * len(padded)
    x = y = row = 0
    for index in sorted(range(len(padded)), key=lambda i: -padded[i].shape[0]):
        height, width = padded[index].shape[:2]
        if x + width > widest:
            x, y, row = 0, y + row, 0
        places[index] = (x, y)
        x, row = x + width, max(row, height)
    sheet = np.zeros((y + row, widest, 3), np.float32)
    for picture, (x, y) in zip(padded, places, strict=True):
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet, [(x + BORDER, y + BORDER) for x, y in places]
