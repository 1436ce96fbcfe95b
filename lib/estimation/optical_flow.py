"""Optical flow between the frames of a video, estimated, in image-plane units.

Methods share one interface, `estimate_flow`. The true flow of drawn videos is `rendering.flow`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.geometry.image_plane import pixel_centers, sample_image

# Frames are enlarged before DIS looks at them, so that a motion of a pixel is not lost between its patches.
ENLARGED = 256


def consecutive_pairs(lengths: list[int]) -> Int[Tensor, "P 2"]:
    """List the pairs (t, t + 1) of frames of clips of these lengths that lie one after another in one tensor.

    Raises ValueError for a clip of less than two frames, in which nothing moves.
    """
    for clip, length in enumerate(lengths):
        if length < 2:
            raise ValueError(f"clip {clip} has {length} frame(s); motion needs two or more")
    first = np.cumsum([0, *lengths[:-1]])
    starts = [torch.arange(length - 1) + int(at) for at, length in zip(first, lengths, strict=True)]
    return torch.cat([torch.stack([start, start + 1], 1) for start in starts])


def estimate_flow(
    images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"] | None = None, method: str = "dis"
) -> Float[Tensor, "P 2 H W"]:
    """Estimate the motion of each pixel of frame pairs[:, 0] towards frame pairs[:, 1], in image-plane units.

    pairs: by default (0, 1), (1, 2), … method: "dis", OpenCV's dense inverse search on enlarged frames (Kroeger et
    al., "Fast optical flow using dense inverse search", ECCV 2016); "raft", the network of Teed & Deng, ECCV 2020,
    with torchvision's weights, if torchvision is installed and they can be downloaded; "zero": nothing moves, for
    comparison.

    Raises ValueError for another method, less than two frames, or pairs out of range; ImportError without torchvision.
    """
    check_tensor("images", images, "N 3 H W", finite=True)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {', '.join(map(repr, METHODS))}")
    if pairs is None:
        pairs = consecutive_pairs([len(images)])
    check_tensor("pairs", pairs, "P 2", kind="integer")
    if len(pairs) == 0:
        return images.new_zeros(0, 2, *images.shape[2:])
    if int(pairs.min()) < 0 or int(pairs.max()) >= len(images):
        raise ValueError(f"pairs must be frames of 0 … {len(images) - 1}, got {pairs.amin():d} … {pairs.amax():d}")
    first, second = pairs.to(images.device).unbind(1)
    pixels = METHODS[method](images, first, second)
    height, width = images.shape[2:]
    return pixels * images.new_tensor([2 / width, 2 / height])[:, None, None]


def inconsistency(forward: Float[Tensor, "P 2 H W"], backward: Float[Tensor, "P 2 H W"]) -> Float[Tensor, "P H W"]:
    """Measure how far a pixel ends from its start after the way there and back, in image-plane units.

    A large value means that the flow is wrong, or that the pixel's point is hidden in the second frame.
    """
    check_tensor("forward", forward, "P 2 H W")
    check_tensor("backward", backward, " ".join(map(str, forward.shape)))
    check_same_device(forward=forward, backward=backward)
    there = pixel_centers(*forward.shape[2:], forward.device, forward.dtype) + forward.permute(0, 2, 3, 1)
    return (forward + sample_image(backward, there)).norm(dim=1)


def _dis(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    import cv2

    gray = (255 * (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)).clamp(0, 255)
    frames = gray.round().byte().cpu().numpy()
    height, width = frames.shape[1:]
    factor = max(1, round(ENLARGED / min(height, width)))
    size = (factor * width, factor * height)
    large = {int(i): cv2.resize(frames[i], size, interpolation=cv2.INTER_CUBIC) for i in torch.cat([first, second])}
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = []
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        found = search.calc(large[i], large[j], None) / factor
        flows.append(cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(images)


def _raft(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    try:
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
    except ImportError:
        raise ImportError('method="raft" needs torchvision: pip install torchvision; or use method="dis"') from None
    network = raft_large(weights=Raft_Large_Weights.DEFAULT).to(images.device).eval()
    height, width = images.shape[2:]
    # RAFT wants sides that are multiples of 8, and at least 128 pixels.
    sides = [8 * max(16, round(side / 8)) for side in (height, width)]
    frames = torch.nn.functional.interpolate(2 * images - 1, sides, mode="bicubic", align_corners=False)
    with torch.no_grad():
        found = network(frames[first], frames[second])[-1]
    found = torch.nn.functional.interpolate(found, (height, width), mode="area")
    return found * found.new_tensor([width / sides[1], height / sides[0]])[:, None, None]


def _zero(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return images.new_zeros(len(first), 2, *images.shape[2:])


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"dis": _dis, "raft": _raft, "zero": _zero}
