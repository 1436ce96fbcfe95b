"""The image plane [-1, 1]², x right, y down: places of pixels, looking up colours, distances to masks."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_alike, check_tensor, require


def pixel_centers(
    height: int, width: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "H W 2"]:
    """The (x, y) of all pixel centres: pixel (i, j) lies at ((2j + 1)/W − 1, (2i + 1)/H − 1)."""
    y = (2 * torch.arange(height, device=device, dtype=dtype) + 1) / height - 1
    x = (2 * torch.arange(width, device=device, dtype=dtype) + 1) / width - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def sample_image(
    images: Float[Tensor, "B C H W"], points: Float[Tensor, "B R S 2"], padding: str = "border"
) -> Float[Tensor, "B C R S"]:
    """Look up the images' values at these points of the image plane, bilinear; NaN for a point that is not finite.

    padding: the values beyond the image, "border" (the nearest ones inside) or "zeros".

    Torch's `grid_sample` takes NaN for −1 (PyTorch issue 24823), which would hide that a model has diverged.
    """
    check_tensor("images", images, "B C H W")
    check_tensor("points", points, f"{len(images)} R S 2")
    check_alike(images=images, points=points)
    values = F.grid_sample(images, points, padding_mode=padding, align_corners=False)
    lost = ~torch.isfinite(points.detach()).all(-1)
    return values.masked_fill(lost[:, None], torch.nan)


def foreground_distance(masks: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Distance of each pixel's centre to the nearest pixel of the object, in image-plane units; 0 on the object.

    Not differentiable. Raises ValueError for an empty mask, to which there is no distance.
    """
    from scipy.ndimage import distance_transform_edt

    inside = _inside(masks).cpu().numpy()
    pitch = (2 / masks.shape[1], 2 / masks.shape[2])
    maps = [torch.from_numpy(distance_transform_edt(~mask, sampling=pitch)) for mask in inside]
    return torch.stack(maps).to(masks)


def foreground_barrier(masks: Float[Tensor, "B H W"], steepness: float = 25.0) -> Float[Tensor, "B H W"]:
    """A step with a slope at the object's outline: near 0 inside, a half at the outline, near 1 outside.

    It is the sigmoid of `steepness` times the signed distance from the outline, in image-plane units. Unlike
    `foreground_distance` it slopes inside, too, and so drives points away from the outline.

    Not differentiable. Raises ValueError for an empty mask. Source: the release of Kanazawa et al., ECCV 2018.
    """
    inside = foreground_distance(masks)
    return torch.sigmoid(steepness * (inside - _depth_inside(masks)))


def _depth_inside(masks: Tensor) -> Tensor:
    """Distance of each pixel's centre to the nearest one of the background; far inside, if there is none."""
    full = (masks > 0.5).flatten(1).all(1)[:, None, None]
    return torch.where(full, 1.0, foreground_distance(torch.where(full, 1.0, 1 - masks)))


def boundary_points(masks: Float[Tensor, "B H W"]) -> tuple[Float[Tensor, "B M 2"], Int[Tensor, "B"]]:
    """List the centres (x, y) of the object's pixels that have a side in common with the background or the border.

    Returns them padded with zeros to the longest list, and the lists' lengths. Raises ValueError for an empty mask.
    """
    inside = _inside(masks)
    framed = torch.nn.functional.pad(inside, (1, 1, 1, 1), value=False)
    within = framed[:, :-2, 1:-1] & framed[:, 2:, 1:-1] & framed[:, 1:-1, :-2] & framed[:, 1:-1, 2:]
    centers = pixel_centers(*masks.shape[1:], masks.device, masks.dtype)
    lists = [centers[border] for border in inside & ~within]
    lengths = torch.tensor([len(points) for points in lists], device=masks.device)
    return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True), lengths


def erode(mask: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Remove the outermost pixels of a mask of zeros and ones: 1 where the whole 3 × 3 neighbourhood is 1.

    Pixels beyond the picture's border count as 0.
    """
    check_tensor("mask", mask, "B H W", finite=True)
    outside = torch.nn.functional.pad(1 - mask[:, None], (1, 1, 1, 1), value=1.0)
    return 1 - torch.nn.functional.max_pool2d(outside, 3, stride=1)[:, 0]


def _inside(masks: Tensor) -> Tensor:
    check_tensor("masks", masks, "B H W", finite=True)
    if len(masks) == 0:
        raise ValueError("masks is empty; give at least one")
    inside = masks > 0.5
    require(inside.flatten(1).any(1), "masks has an empty one, which has no boundary; drop that image")
    return inside
