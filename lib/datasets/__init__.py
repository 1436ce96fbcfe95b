"""Pictures with what is known of them, and the one table of the keys by which they are known.

A batch (or an item of a data set, without the axis B) is a dict of tensors. Whatever gives or takes one uses these
names, shapes and units: the loaders, `augmentation`, the models' losses, `evaluation`.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from lib.checks import check_tensor


class Key(NamedTuple):
    """shape: axes by name, a letter meaning one number throughout a batch, "bool" or "float" values."""

    shape: str
    kind: str
    meaning: str


KEYS = {
    "image": Key("B 3 H W", "float", "the picture; red, green, blue in [0, 1]"),
    "mask": Key("B H W", "float", "the share of each pixel that the object covers, in [0, 1]"),
    "distances": Key("B H W", "float", "from the object to each pixel, in image-plane units, 0 on the object"),
    "keypoints": Key("B K 2", "float", "places in the image plane [-1, 1]², x right, y down"),
    "keypoint_visible": Key("B K", "bool", "whether the keypoint is seen; others say nothing"),
    "keypoints_3d": Key("B K 3", "float", "the keypoints in the world (y up, looking along +x); for examiners"),
    "keypoint_depth": Key("B K", "float", "depth z of the keypoints in the camera's frame; for examiners"),
    "camera": Key("B 7", "float", "`WeakPerspective.to_vector`: scale, shift (2), unit quaternion (w, x, y, z)"),
    "focal": Key("B", "float", "focal length of a pinhole camera, in image-plane units"),
    "rotation": Key("B 3 3", "float", "of a pinhole camera, from the world to its frame"),
    "translation": Key("B 3", "float", "of a pinhole camera: where its frame has the world's zero"),
    "flag": Key("B", "float", "1 where the object's +x axis points to the right in the picture, else −1"),
    "depth": Key("B H W", "float", "depth z in the camera's frame; the background is far"),
    "normals": Key("B 3 H W", "float", "unit normals in the camera's frame, towards the camera; 0 outside"),
    "albedo": Key("B 3 H W", "float", "colour without light, in [0, 1]; 0 outside"),
    "canonical_depth": Key("B H W", "float", "depth seen from the front; for examiners"),
    "canonical_albedo": Key("B 3 H W", "float", "albedo seen from the front; for examiners"),
    "canonical_marks": Key(
        "B H W", "float", "1 where a mark on one side covers the face, from the front; for examiners"
    ),
    "light": Key("B 4", "float", "ambient, diffuse, and the light's direction (l_x, l_y, −1), not normalised"),
    "view": Key("B 6", "float", "turns about x, y, z in radians, then the shift in units of the distance"),
    "flow": Key("B 2 H W", "float", "motion of each pixel to the next frame, in image-plane units"),
    "flow_mask": Key("B H W", "bool", "the object's pixels, for which the flow is known"),
    "flow_visible": Key("B H W", "bool", "those whose point is still seen in the next frame"),
}


def check_batch(batch: dict[str, Tensor], *needed: str, others: bool = True) -> None:
    """Refuse a batch that lacks a key, or whose tensors have other shapes or kinds than `KEYS` says.

    needed: keys that must be there. others: whether keys that the table does not have may be there, too. A key that
    begins with "next_" is that of the next frame, in batches of pairs of frames.

    Raises ValueError, in one line that says what the key means.
    """
    for name in needed:
        if name not in batch:
            meaning = KEYS[name.removeprefix("next_")].meaning
            raise ValueError(f"the batch lacks {name!r} ({meaning}); it has {', '.join(batch)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in batch.items():
        key = KEYS.get(name.removeprefix("next_"))
        if key is None:
            if not others:
                raise ValueError(f"the batch has {name!r}, which lib.datasets.KEYS does not; add it there")
            continue
        shape, kind, meaning = key
        axes = shape.split()
        right_kind = value.dtype.is_floating_point if kind == "float" else str(value.dtype) == "torch.bool"
        if value.ndim != len(axes) or not right_kind:
            found = f"({', '.join(map(str, value.shape))}), {value.dtype}"
            raise ValueError(f"batch[{name!r}] must be {kind} of shape ({', '.join(axes)}), got {found}: {meaning}")
        for axis, size in zip(axes, value.shape, strict=True):
            expected, first = (int(axis), "the table") if axis.isdigit() else sizes.setdefault(axis, (size, name))
            if size != expected:
                raise ValueError(f"batch[{name!r}] has {axis} = {size}, but {first} has {expected}")


def pair_up(data: dict[str, Tensor], pairs: Int[Tensor, "P 2"]) -> dict[str, Tensor]:
    """Make items of pairs: the values of each pair's first picture, and those of its second as "next_" keys.

    pairs: indices of pictures. Raises IndexError for one that is not there.
    """
    check_tensor("pairs", pairs, "P 2", kind="integer")
    first, second = pairs.unbind(1)
    items = {name: value[first] for name, value in data.items()}
    return items | {f"next_{name}": value[second] for name, value in data.items()}
