"""What a wrong pixel costs when the model also says how sure it was: likelihoods with a predicted spread.

After Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in the
Wild", CVPR 2020. A pixel's residual is a sample of a distribution whose scale σ the network predicts. A large σ makes
the pixel cheap to get wrong and adds ln σ for the excuse; the cheapest σ is as large as the residual really is.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor, require

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
