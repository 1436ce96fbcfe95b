"""New pictures from old ones: mirrored, shifted and scaled; keypoints and cameras change with them.

A batch is a dict with any of image, mask, distances, keypoints, keypoint_visible and camera (`lib.datasets.KEYS` has
shapes and units). Entries that the table does not have are passed on unchanged; those that it has and that would have
to change in a way not written here, such as a depth or a flow, are refused.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lib.datasets import KEYS
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import sample_image
from lib.remembered import constant

PICTURES = ("image", "mask", "distances")
HANDLED = (*PICTURES, "keypoints", "keypoint_visible", "camera")


def augment(
    batch: dict[str, Tensor], permutation: Int[Tensor, "K"] | None = None, amount: float = 0.0
) -> dict[str, Tensor]:
    """Mirror half of the pictures, chosen at random; with an amount, also zoom and shift them by about this share.

    permutation: see `mirror`. The zoom is uniform in 1 ± amount, the shift normal of this width in the image plane.
    """
    count, device = len(batch["image"]), batch["image"].device
    batch = mirror(batch, torch.rand(count, device=device) < 0.5, permutation)
    if amount:
        zoom = 1 + amount * (2 * torch.rand(count, device=device) - 1)
        batch = jitter(batch, zoom, amount * torch.randn(count, 2, device=device))
    return batch


def mirror(
    batch: dict[str, Tensor], chosen: Bool[Tensor, "B"], permutation: Int[Tensor, "K"] | None = None
) -> dict[str, Tensor]:
    """Mirror the chosen pictures left to right.

    permutation: for each keypoint the one on the other side, needed where the batch has keypoints. A mirrored animal is
        again an animal of its kind, with left and right exchanged: so the keypoints change places, and the camera
        becomes `WeakPerspective.mirror`.
    """
    _refuse_others(batch)
    mirrored = {name: batch[name].flip(-1) for name in PICTURES if name in batch}
    if "keypoints" in batch:
        if permutation is None:
            raise ValueError("permutation is missing: mirrored keypoints change sides; say which ones change places")
        flip = constant(batch["keypoints"], -1, 1)
        mirrored["keypoints"] = batch["keypoints"][:, permutation] * flip
        mirrored["keypoint_visible"] = batch["keypoint_visible"][:, permutation]
    if "camera" in batch:
        mirrored["camera"] = WeakPerspective.from_vector(batch["camera"]).mirror().to_vector()
    return batch | {
        name: torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), value, batch[name])
        for name, value in mirrored.items()
    }


def jitter(batch: dict[str, Tensor], scale: Float[Tensor, "B"], shift: Float[Tensor, "B 2"]) -> dict[str, Tensor]:
    """Scale about the image's centre, then shift: the point u moves to scale · u + shift.

    Beyond the old picture, images repeat its border, and masks are 0. A keypoint that leaves the picture stays
    visible, as in a crop that is cut tightly.
    """
    _refuse_others(batch)
    theta = scale.new_zeros(len(scale), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -shift / scale[:, None]
    moved = {}
    for name in PICTURES:
        if name in batch:
            picture = batch[name] if batch[name].ndim == 4 else batch[name][:, None]
            grid = F.affine_grid(theta, list(picture.shape), align_corners=False)
            padding = "zeros" if name == "mask" else "border"
            sampled = sample_image(picture, grid, padding)
            moved[name] = sampled.view_as(batch[name])
    if "distances" in moved:
        moved["distances"] = scale[:, None, None] * moved["distances"]
    if "keypoints" in batch:
        moved["keypoints"] = scale[:, None, None] * batch["keypoints"] + shift[:, None]
    if "camera" in batch:
        camera = batch["camera"]
        translation = scale[:, None] * camera[:, 1:3] + shift
        moved["camera"] = torch.cat([scale[:, None] * camera[:, :1], translation, camera[:, 3:]], -1)
    return batch | moved


def _refuse_others(batch: dict[str, Tensor]) -> None:
    if strangers := ", ".join(name for name in batch if name in KEYS and name not in HANDLED):
        raise ValueError(f"the batch has {strangers}, which augmentation cannot change yet; leave it out, or write it")
