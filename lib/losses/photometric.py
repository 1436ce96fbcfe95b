"""Losses between pictures: likelihoods with a predicted spread, distances of features, colours from outside the object.

Sources: Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in
the Wild", CVPR 2020: the error of a pixel is regarded as a sample of a distribution whose scale σ the network predicts.
A large σ makes an error cheap, but costs ln σ; the loss is smallest if σ is as large as the error really is.
Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a perceptual metric", CVPR
2018 (equation 1); Kanazawa, Tulsiani, Efros, Malik, ECCV 2018, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_alike, check_same_device, check_tensor, require
from lib.geometry.image_plane import sample_image

SMALLEST_SIGMA = 1e-4


def laplacian_nll(
    pred: Float[Tensor, "B C H W"],
    target: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B H W"] | None = None,
    mask: Float[Tensor, "B H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the pixels of −ln p with p = exp(−√2 ℓ/σ) / (√2 σ) and ℓ = |pred − target|, averaged over channels.

    So a pixel costs ln(√2 σ) + √2 ℓ/σ: a larger error always costs more (the derivative by ℓ is √2/σ > 0), and the
    best σ is √2 ℓ. Without `sigma` a pixel costs ℓ. `mask` gives the pixels weights; the mean is over their sum.

    Raises ValueError if shapes or devices disagree, or if the mask is empty.
    """
    _check(pred, target, sigma, mask)
    error = (pred - target).abs().mean(1)
    if sigma is not None:
        sigma = sigma.clamp(min=SMALLEST_SIGMA)
        error = math.log(math.sqrt(2)) + sigma.log() + math.sqrt(2) * error / sigma
    return _mean(error, mask)


def gaussian_nll(
    pred: Float[Tensor, "B C H W"],
    target: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B H W"] | None = None,
    mask: Float[Tensor, "B H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the pixels of −ln p with p = exp(−ℓ²/2σ²) / √(2πσ²); for features, the perceptual loss.

    ℓ² is the squared difference averaged over channels. The best σ is ℓ; then the cost is ½ ln(2πeℓ²). For a small
    error this is below zero, which is correct, because a density may exceed 1. Without `sigma` a pixel costs ℓ²/2.

    Raises ValueError if shapes or devices disagree, or if the mask is empty.
    """
    _check(pred, target, sigma, mask)
    error = (pred - target).square().mean(1) / 2
    if sigma is not None:
        sigma = sigma.clamp(min=SMALLEST_SIGMA)
        error = 0.5 * math.log(2 * math.pi) + sigma.log() + error / sigma.square()
    return _mean(error, mask)


def _check(pred: Tensor, target: Tensor, sigma: Tensor | None, mask: Tensor | None) -> None:
    check_tensor("pred", pred, "B C H W")
    b, c, h, w = pred.shape
    check_tensor("target", target, f"{b} {c} {h} {w}")
    given = {"pred": pred, "target": target}
    for name, value in (("sigma", sigma), ("mask", mask)):
        if value is not None:
            check_tensor(name, value, f"{b} {h} {w}")
            given[name] = value
    check_same_device(**given)


def _mean(error: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return error.mean()
    total = mask.sum()
    require(total != 0, "mask is empty; a model whose warped surface has left the picture has collapsed")
    return (mask * error).sum() / total


def perceptual_distance(
    features: Callable[[Tensor], list[Tensor]], pred: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B"]:
    """Distance between two images in the features of a network.

    features: a function from images to a list of feature maps (B, C, H', W'), of a frozen network such as
        `ResNet18.stages`. The published metric has learned weights for the channels; here all weights are equal. An
        untrained network works too, though less well: its first layers filter edges and colours at several scales.

    At every stage the channels of a pixel are scaled to unit length, subtracted, squared and summed. The distance is
    the mean over pixels, summed over the stages.
    """
    check_tensor("pred", pred, "B 3 H W")
    check_tensor("target", target, " ".join(map(str, pred.shape)))
    check_same_device(pred=pred, target=target)
    distance = pred.new_zeros(len(pred))
    for a, b in zip(features(pred), features(target), strict=True):
        gap = F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
        distance = distance + gap.square().sum(1).mean((-2, -1))
    return distance


def outside_loss(points: Float[Tensor, "B H W 2"], distances: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean distance of points of the image plane from the object, in image-plane units.

    It is 0 if the texture is picked on the object only. distances: the result of `image_plane.foreground_distance`; or
    of `foreground_barrier`, as in CMR's release, to keep the points away from the outline, too.
    """
    check_tensor("points", points, "B Ht Wt 2")
    check_tensor("distances", distances, f"{len(points)} H W")
    check_alike(points=points, distances=distances)
    return sample_image(distances[:, None], points).mean()
