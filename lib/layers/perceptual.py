"""Features for comparing pictures: learnt from the pictures themselves, or VGG-16's if its weights are at hand.

An L1 loss on pixels is smallest for blurred pictures; a difference of features sees edges and eyes. Unsup3D takes
VGG-16's relu3_3. Row 6 of its ablation shows that features learnt without labels work as well: those of a network that
was trained to tell by how many quarter turns a picture was rotated (Gidaris, Singh and Komodakis, "Unsupervised
Representation Learning by Predicting Image Rotations", ICLR 2018).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lib.checks import check_tensor
from lib.layers.convolutional import IMAGENET_MEAN, IMAGENET_STD


class RotationFeatures(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] → features (B, 4·channels, H/4, W/4), with a head that names the rotation.

    Train it with `loss`, then call `freeze` and give it to `photogeometric_loss(features=…)`.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 4 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Conv2d(4 * channels, 8 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * channels, 4),
        )
        self.register_buffer("scale", torch.ones(4 * channels, 1, 1))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H/4 W/4"]:
        check_tensor("images", images, "B 3 H W")
        return self.trunk(2 * images - 1) * self.scale

    def loss(self, images: Float[Tensor, "B 3 S S"]) -> dict[str, Tensor]:
        """Try the rotation task on a batch: cross-entropy as "loss", and the share of right answers as "accuracy"."""
        turned, turns = rotate_all(images)
        guess = self.head(self.trunk(2 * turned - 1))
        accuracy = (guess.argmax(1) == turns).float().mean()
        return {"loss": F.cross_entropy(guess, turns), "accuracy": accuracy}

    @torch.no_grad()
    def freeze(self, images: Float[Tensor, "B 3 H W"]) -> RotationFeatures:
        """Stop learning, and scale every feature to a mean square of 1 over these pictures (a dead one to 0)."""
        self.requires_grad_(False)
        self.scale.fill_(1.0)
        power = self(images).square().mean((0, 2, 3))[:, None, None]
        self.scale.copy_(torch.where(power > 1e-8, power.clamp(min=1e-8).rsqrt(), 0.0))
        return self.eval()


def rotate_all(images: Float[Tensor, "B C S S"]) -> tuple[Float[Tensor, "4B C S S"], Int[Tensor, "4B"]]:
    """Rotate every picture by 0, 1, 2 and 3 quarter turns counter-clockwise; return also the number of turns.

    Raises ValueError for pictures that are not square.
    """
    check_tensor("images", images, "B C S S")
    turned = torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(4)])
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))


class VGGFeatures(nn.Module):
    """VGG-16 up to relu3_3: pictures (B, 3, H, W) in [0, 1] → (B, 256, H/4, W/4), as Unsup3D compares them.

    The weights are torchvision's (`vgg16-397923af.pth`): names and shapes agree, the rest of that file is ignored.
    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

    Raises FileNotFoundError or ValueError, in one line, for a missing file or other weights.
    """

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for step in (64, 64, "pool", 128, 128, "pool", 256, 256, 256):
            if step == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(before, step, 3, padding=1), nn.ReLU()]
                before = step
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        path = Path(weights)
        if not path.is_file():
            remedy = "download vgg16 from torchvision's model page, or use RotationFeatures"
            raise FileNotFoundError(f"no weights at {path}; {remedy}")
        published = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.load_state_dict({name: published[name] for name in self.state_dict()})
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not hold VGG-16 ({reason}); take torchvision's vgg16 file") from None
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 256 H/4 W/4"]:
        check_tensor("images", images, "B 3 H W")
        return self.features((images - self.mean) / self.std)
