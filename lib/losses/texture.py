"""How well a rendered texture matches the photograph.

Sources: Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a perceptual
metric", CVPR 2018 (equation 1); Kanazawa, Tulsiani, Efros, Malik, ECCV 2018, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_same_device, check_tensor


def perceptual_distance(
    features: Callable[[Tensor], list[Tensor]], pred: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B"]:
    """The distance of two images as a network sees them.

    features: images to a list of feature maps (B, C, H', W'), of a frozen network such as `ResNet18.stages`. The
        published metric has learned weights per channel; here all weigh alike. An untrained network serves too,
        though less well: its first layers are filters of edges and colours at several scales.

    At every stage the channels of a pixel are scaled to unit length, subtracted, squared and summed; then comes the
    mean over pixels and the sum over stages.
    """
    check_tensor("pred", pred, "B 3 H W")
    check_tensor("target", target, " ".join(map(str, pred.shape)))
    check_same_device(pred=pred, target=target)
    distance = pred.new_zeros(len(pred))
    for a, b in zip(features(pred), features(target), strict=True):
        gap = F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
        distance = distance + gap.square().sum(1).mean((-2, -1))
    return distance


def distance_transform(masks: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """How far each pixel lies from the object, in units of the image's longer side; 0 inside, not differentiable.

    Raises ValueError for an empty mask.
    """
    from scipy.ndimage import distance_transform_edt

    check_tensor("masks", masks, "B H W")
    inside = (masks > 0.5).cpu().numpy()
    if not inside.any((1, 2)).all():
        raise ValueError("masks has an empty one, from which there is no distance; drop that image")
    distances = np.stack([distance_transform_edt(~mask) for mask in inside]) / max(masks.shape[1:])
    return torch.from_numpy(distances).to(masks)


def outside_loss(points: Float[Tensor, "B H W 2"], distances: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean distance from the object at these points of the image plane: 0 for a texture picked on the object only.

    distances: as `distance_transform` gives.
    """
    check_tensor("points", points, f"{len(points)} Ht Wt 2")
    check_tensor("distances", distances, f"{len(points)} H W")
    return F.grid_sample(distances[:, None], points, padding_mode="border", align_corners=False).mean()
