"""Images on the sphere: the texture of a closed mesh, decoded from a feature vector.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction", ECCV 2018.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lib.checks import check_tensor


class SphereDecoder(nn.Module):
    """Feature vector → image on the sphere, (B, channels, size, 2·size), left-right symmetric.

    Rows run from the north pole to the south pole, columns once around the sphere, and are padded accordingly. Only
    the right half is predicted; the left half is its mirror image, so that a place hidden on one side gets its colour
    from the other side (CMR's symmetric texture).
    """

    def __init__(self, features: int, channels: int, size: int = 64, width: int = 64) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise ValueError(f"size must be a power of two of at least 8, got {size}; try 32 or 64")
        levels = (size // 4).bit_length() - 1
        self.start = nn.Linear(features, width * 16)
        self.width = width
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2))
            for _ in range(levels)
        )
        self.last = nn.Conv2d(width, channels, 3)

    def forward(self, code: Float[Tensor, "B F"]) -> Float[Tensor, "B C S 2*S"]:
        check_tensor("code", code, "B F")
        x = self.start(code).view(-1, self.width, 4, 4)
        for level in self.levels:
            x = level(pad_half_sphere(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)))
        half = self.last(pad_half_sphere(x))
        return torch.cat([half.flip(-1), half], -1)


def sphere_coordinates(directions: Float[Tensor, "... 3"]) -> Float[Tensor, "... 2"]:
    """Convert a direction to its place in the image of `SphereDecoder`, (x, y) in [-1, 1]², for `grid_sample`.

    x is the longitude divided by π: 0 towards +x (an animal's face), positive on its right-hand side (z > 0). y is
    the latitude: −1 (the first row) straight up, towards +y. Differentiable except at the poles.
    """
    check_tensor("directions", directions, "... 3")
    x, y, z = directions.unbind(-1)
    longitude = torch.atan2(z, x) / torch.pi
    latitude = -torch.atan2(y, torch.hypot(x, z)) / (torch.pi / 2)
    return torch.stack([longitude, latitude], -1)


def pad_half_sphere(x: Float[Tensor, "B C S S"]) -> Float[Tensor, "B C S+2 S+2"]:
    """Pad the right half of a symmetric sphere image by one pixel on every side.

    Its own mirror image lies to its left and to its right, so repeating the border is exact there. At the poles
    repeating the border is the usual choice.
    """
    return F.pad(x, (1, 1, 1, 1), mode="replicate")
