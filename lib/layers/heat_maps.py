"""Heat maps: for each of many points, where in the picture it is.

Sources: Newell, Yang, Deng, "Stacked hourglass networks", ECCV 2016 (heat maps); Sun et al., "Integral human pose
regression", ECCV 2018, equation 4 (their expectation, also called soft-argmax).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lib.checks import check_tensor, whole_number
from lib.geometry.image_plane import pixel_centers
from lib.layers.convolutional import ResNet18


def soft_argmax(scores: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K 2"]:
    """Return the expected place (x, y) in the image plane of each map's softmax.

    The maximum's own place has no gradient and jumps from pixel to pixel; the expectation has one and does not jump.
    """
    check_tensor("scores", scores, "B K H W")
    probability = scores.flatten(2).softmax(-1)
    places = pixel_centers(*scores.shape[2:], device=scores.device).to(scores).flatten(0, 1)
    return probability @ places


class HeatMapHead(nn.Module):
    """Heat maps of K points from the feature maps of a `ResNet18`.

    Its last three stages are brought to 32 channels and one size, added, and passed through two convolutions. Scores
    are multiplied by `sharpness`: a broad map's expectation lies near the middle of the picture, and few steps would
    leave all maps broad.

    A linear layer on a code has to compute coordinates; a heat map only has to say "here".
    """

    def __init__(self, trunk: ResNet18, points: int, channels: int = 32, sharpness: float = 5.0) -> None:
        super().__init__()
        points = whole_number("points", points)
        width, self.sharpness = trunk.channels // 8, sharpness
        self.lateral = nn.ModuleList(nn.Conv2d(width * 2**k, channels, 1) for k in (1, 2, 3))
        self.maps = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, points, 1)
        )

    def forward(self, stages: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B K H W"]:
        """Return the scores, from the five maps of `ResNet18.stages`, at the size of the third (a quarter of 64²)."""
        size = stages[2].shape[-2:]
        parts = [layer(stage) for layer, stage in zip(self.lateral, stages[2:], strict=True)]
        return self.sharpness * self.maps(
            sum(F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts)
        )
