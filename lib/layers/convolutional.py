"""Encoders from an image to numbers, and decoders back: a ResNet-18 written out, the encoder of the category models,
and the plain encoder and decoder of the models that predict maps.

Sources: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016 (table 1, figure 5);
Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction", ECCV 2018 (heads);
Wu, Rupprecht and Vedaldi, CVPR 2020, supplement (encoder and decoder of maps).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lib.checks import check_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut around them: the block learns what to add to its input."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """The convolutional part of ResNet-18: images in [0, 1] → feature maps of 1/32 of the size.

    With width 64 the parameters have torchvision's names and shapes, so that `load_published` can load published
    ImageNet weights. A smaller width is the same network with thinner layers. `pool=False` leaves out the
    max-pooling, for small images; the maps then have 1/16 of the size.
    """

    def __init__(self, width: int = 64, pool: bool = True) -> None:
        super().__init__()
        self.pool = pool
        self.channels = 8 * width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H2 W2"]:
        """Return the last feature map, with 8·width channels."""
        return self.stages(images)[-1]

    def stages(self, images: Float[Tensor, "B 3 H W"], depth: int = 5) -> list[Tensor]:
        """Return the first `depth` of five feature maps: after the stem, and after each of the four layers."""
        check_tensor("images", images, "B 3 H W")
        x = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        maps = [x]
        if self.pool:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4)[: depth - 1]:
            x = layer(x)
            maps.append(x)
        return maps

    def load_published(self, path: str | Path) -> None:
        """Load torchvision's ImageNet weights (such as `resnet18-f37072fd.pth`), without the classifier.

        Raises FileNotFoundError or ValueError, in one line, for a missing file or other weights.
        """
        path = Path(path)
        if not path.is_file():
            remedy = "download resnet18 from torchvision's model page, or train from scratch"
            raise FileNotFoundError(f"no weights at {path}; {remedy}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = OrderedDict((name, value) for name, value in state.items() if not name.startswith("fc."))
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not fit a ResNet-18 of this width ({reason}); use width=64") from None


class Encoder(nn.Module):
    """Image → feature vector: ResNet-18, one convolution to 256×4×4, two linear layers (CMR, section 3).

    image_size: 64 (without max-pooling), 128 or 256 pixels. width: 64 is ResNet-18; 16 trains on a laptop.
    map_channels: of the 4×4 map, 256 in the paper. features: length of the vector.
    """

    def __init__(self, image_size: int = 256, width: int = 64, map_channels: int = 256, features: int = 200) -> None:
        super().__init__()
        if image_size not in (64, 128, 256):
            raise ValueError(f"image_size must be 64, 128 or 256, got {image_size}; resize the images")
        self.image_size = image_size
        self.trunk = ResNet18(width, pool=image_size > 64)
        shape = {"kernel_size": 4, "stride": 2, "padding": 1} if image_size == 256 else {"kernel_size": 3, "padding": 1}
        self.head = nn.Sequential(
            nn.Conv2d(self.trunk.channels, map_channels, **shape, bias=False),
            nn.BatchNorm2d(map_channels),
            nn.LeakyReLU(0.2),
        )
        self.project = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * map_channels, features, bias=False),
            nn.BatchNorm1d(features),
            nn.LeakyReLU(0.2),
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.LeakyReLU(0.2),
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        return self.project(self.feature_map(images))

    def with_stages(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B F"], list[Tensor]]:
        """Return the vector, and the five maps of `ResNet18.stages` that it was made from."""
        check_tensor("images", images, f"B 3 {self.image_size} {self.image_size}")
        stages = self.trunk.stages(images)
        return self.project(self.head(stages[-1])), stages

    def feature_map(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C 4 4"]:
        """Return the 4×4 map before the linear layers, for a head that needs to know places in the image."""
        check_tensor("images", images, f"B 3 {self.image_size} {self.image_size}")
        return self.head(self.trunk(images))


def halving_encoder(size: int, channels: int, out: int, norm: bool) -> nn.Sequential:
    """Make an encoder (B, 3, size, size) → (B, out, 1, 1): halve the picture, double the channels, down to 4 × 4.

    size: a power of two, 8 or more. norm: whether the larger maps are normalised over groups of channels.
    """
    if size < 8 or size & (size - 1):
        raise ValueError(f"size must be a power of two, 8 or more, got {size}; resize the pictures")
    layers: list[nn.Module] = []
    before, width = 3, channels
    while size > 4:
        layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False))
        if norm and size > 8:
            layers.append(nn.GroupNorm(max(width // 4, 1), width))
        layers.append(nn.LeakyReLU(0.2))
        before, width, size = width, min(2 * width, 8 * channels), size // 2
    return nn.Sequential(*layers, nn.Conv2d(before, out, 4, bias=False), nn.ReLU())


def doubling_decoder(code: int, channels: int, size: int, out: int, coarse: int = 1) -> nn.Sequential:
    """Make a decoder (B, code, 1, 1) → (B, out, size, size): 4 × 4 first, then double the map, halve the channels.

    coarse: stop at a map so many times smaller and enlarge it bilinearly.
    """
    sides = [4 * 2**k for k in range((size // coarse // 4).bit_length())]
    widths = [channels * min(max(size // (2 * side), 1), 8) for side in sides]
    layers = [nn.ConvTranspose2d(code, widths[0], 4, bias=False), nn.ReLU()]
    for before, width in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, width, 3, padding=1, bias=False)]
        layers += [nn.GroupNorm(max(width // 4, 1), width), nn.ReLU()]
    layers.append(nn.Conv2d(widths[-1], out, 5, padding=2))
    if coarse > 1:
        layers.append(nn.Upsample(scale_factor=coarse, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
