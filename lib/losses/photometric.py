"""What a wrong pixel costs: likelihoods with a predicted spread, distances of features, colours from outside.

After Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in the
Wild", CVPR 2020: a pixel's residual is a sample of a distribution whose scale σ the network predicts. A large σ makes
the pixel cheap to get wrong and adds ln σ for the excuse; the cheapest σ is as large as the residual really is.
And after Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a perceptual
metric", CVPR 2018 (equation 1); Kanazawa, Tulsiani, Efros, Malik, ECCV 2018, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_same_device, check_tensor, require
from lib.geometry.image_plane import sample_image

SMALLEST_SIGMA = 1e-4


def laplacian_nll(
    pred: Float[Tensor, "B C H W"],
    target: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B H W"] | None = None,
    mask: Float[Tensor, "B H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the pixels of −ln p with p = exp(−√2 ℓ/σ) / (√2 σ) and ℓ = |pred − target|, averaged over channels.

    So a pixel costs ln(√2 σ) + √2 ℓ/σ: the error always costs (the derivative by ℓ is √2/σ > 0), and the best σ
    is √2 ℓ. Without `sigma` a pixel costs ℓ. `mask` weights the pixels; the mean is over its sum.

    Raises ValueError where shapes or devices disagree, or where the mask is empty.
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

    ℓ² is the squared difference averaged over channels. The best σ is ℓ, where the cost is ½ ln(2πeℓ²): below zero
    for a small error, rightly so, for a density may exceed 1. Without `sigma` a pixel costs ℓ²/2.

    Raises ValueError where shapes or devices disagree, or where the mask is empty.
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


def outside_loss(points: Float[Tensor, "B H W 2"], distances: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean distance from the object, in image-plane units, at points of the image plane.

    It is 0 for a texture picked on the object only. distances: as `image_plane.foreground_distance` gives.
    """
    check_tensor("points", points, f"{len(points)} Ht Wt 2")
    check_tensor("distances", distances, f"{len(points)} H W")
    return sample_image(distances[:, None], points).mean()
