"""KeypointNet: 3D keypoints that nobody named, learned from pairs of views whose relative pose is known.

Source: Suwajanakorn, Snavely, Tompson, Norouzi, "Discovery of latent 3D keypoints via end-to-end geometric reasoning",
NeurIPS 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lib.checks import check_tensor, number, whole_number
from lib.datasets import check_batch
from lib.geometry.cameras import Pinhole
from lib.geometry.image_plane import pixel_centers
from lib.losses.latent_keypoints import (
    consistency_loss,
    pose_loss,
    separation_loss,
    silhouette_loss,
    variance_loss,
)
from lib.models.category import with_sum
from lib.remembered import constant

NEEDED = ("image", "mask", "focal", "rotation", "translation")
RATES = (1, 1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 1)


class Keypoints(NamedTuple):
    """N keypoints of B views.

    seen (B, N, 2): their places in the image plane; points (B, N, 3): in the camera's frame, in units of the scene;
    maps (B, N, H, W): the probability of each place, which sums to 1 for each keypoint.
    """

    seen: Float[Tensor, "B N 2"]
    points: Float[Tensor, "B N 3"]
    maps: Float[Tensor, "B N H W"]


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of `KeypointNet.loss`, those of the paper; 0 leaves a term out."""

    consistency: float = 1.0
    pose: float = 0.2
    separation: float = 1.0
    silhouette: float = 1.0
    variance: float = 0.5


def pair_terms(
    one: Keypoints,
    two: Keypoints,
    batch: dict[str, Tensor],
    weights: Weights = Weights(),
    *,
    noise: float = 0.0,
    separation: float = 0.22,
) -> dict[str, Tensor]:
    """Compute the terms of two views' keypoints by name, weighted, and their sum "loss"; see `KeypointNet.loss`.

    batch: mask, focal, rotation and translation of both views; a mask may be larger than the maps by a whole factor.
    """
    # A point is x in the one camera's frame and R x + t in the other's.
    R = batch["next_rotation"] @ batch["rotation"].mT
    t = batch["next_translation"] - (R @ batch["translation"][..., None])[..., 0]
    terms = {}
    if weights.consistency:
        motion = R, t, batch["focal"], batch["next_focal"]
        error = consistency_loss(one.seen, one.points, two.seen, two.points, *motion)
        terms["consistency"] = weights.consistency * error
    if weights.pose:
        terms["pose"] = weights.pose * pose_loss(one.points, two.points, R, noise)
    for name, weight, function in (
        ("separation", weights.separation, lambda view, mask: separation_loss(view.points, separation)),
        ("silhouette", weights.silhouette, lambda view, mask: silhouette_loss(view.maps, mask)),
        ("variance", weights.variance, lambda view, mask: variance_loss(view.maps, view.seen)),
    ):
        if weight:
            masks = (
                F.avg_pool2d(batch[key][:, None], batch[key].shape[-1] // one.maps.shape[-1])[:, 0]
                for key in ("mask", "next_mask")
            )
            both = sum(function(view, mask) for view, mask in zip((one, two), masks, strict=True))
            terms[name] = weight * both / 2
    return with_sum(terms)


class DilatedTrunk(nn.Sequential):
    """Twelve 3×3 convolutions with dilation 1, 1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 1, each with batch norm and leaky ReLU.

    The picture keeps its size, and each output sees 129 × 129 pixels.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        layers = []
        for rate in RATES:
            layers += [nn.Conv2d(inputs, channels, 3, padding=rate, dilation=rate, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.LeakyReLU(0.1)]
            inputs = channels
        super().__init__(*layers)


class OrientationNet(nn.Module):
    """Tell on which side of the picture an object's front is.

    It regresses where the object's +x and −x axes end in the image plane. An object and its picture are often nearly
    symmetric; then a keypoint network cannot tell the front left wheel from the rear right one, unless it is told.
    stride: as in `KeypointNet`.
    """

    def __init__(self, channels: int = 32, stride: int = 1) -> None:
        super().__init__()
        self.stride = whole_number("stride", stride)
        self.trunk = DilatedTrunk(3 * stride**2, whole_number("channels", channels))
        self.head = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2 2"]:
        """Return the places (x, y) of the ends of +x and of −x, as expectations of two maps."""
        scores = self.head(self.trunk(_blocks(images, self.stride))).float()
        probability = scores.flatten(2).softmax(-1)
        return probability @ pixel_centers(*scores.shape[2:], scores.device, scores.dtype).flatten(0, 1)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the mean squared distance in the image plane between the ends and where they are: "loss".

        batch: image, focal, rotation, translation. The axes end half a unit from the object's centre.
        """
        check_batch(batch, "image", "focal", "rotation", "translation")
        camera = Pinhole(batch["focal"], batch["rotation"], batch["translation"])
        ends = constant(batch["focal"], 0.5, 0, 0, -0.5, 0, 0).view(1, 2, 3)
        error = self(batch["image"]) - camera.project(ends)[..., :2]
        return {"loss": error.square().sum(-1).mean()}

    def flag(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
        """Return 1 where +x ends to the right of −x, else −1."""
        ends = self(images)
        return torch.where(ends[:, 0, 0] > ends[:, 1, 0], 1.0, -1.0)


def true_flag(rotation: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B"]:
    """Return 1 where the object's +x axis points to the right in the picture, else −1; rotation: object → camera."""
    check_tensor("rotation", rotation, "B 3 3")
    return torch.where(rotation[:, 0, 0] > 0, 1.0, -1.0)


class KeypointNet(nn.Module):
    """A picture, and a flag for the side of its front → N keypoints in space.

    For each keypoint one map of scores, whose softmax g gives its place Σ g u, and one map d of depths, whose mean
    z = distance + Σ g d is its depth. keypoints: N. channels: of the trunk, 64 in the paper. distance: of the object
    from the camera, where depths start. flagged: whether the flag is a fourth input. stride: the picture is cut into
    blocks of stride × stride pixels, and each block is one place of the maps (1 in the paper).
    """

    def __init__(
        self, keypoints: int = 10, channels: int = 64, distance: float = 2.7, flagged: bool = True, stride: int = 1
    ) -> None:
        super().__init__()
        self.count = whole_number("keypoints", keypoints)
        if not number("distance", distance) > 0:
            raise ValueError(f"distance must be above 0, got {distance}")
        self.distance, self.flagged = float(distance), flagged
        self.stride = whole_number("stride", stride)
        self.trunk = DilatedTrunk(3 * stride**2 + flagged, whole_number("channels", channels))
        self.scores = nn.Conv2d(channels, self.count, 3, padding=1)
        self.depths = nn.Conv2d(channels, self.count, 3, padding=1)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], focal: Float[Tensor, "B"], flag: Float[Tensor, "B"] | None = None
    ) -> Keypoints:
        """Find the keypoints. focal: in image-plane units; flag: ±1 for each picture, needed if `flagged`."""
        check_tensor("focal", focal, f"{len(images)}")
        images = _blocks(images, self.stride)
        if self.flagged:
            if flag is None:
                raise ValueError("flag is missing; pass OrientationNet's, or make the network with flagged=False")
            check_tensor("flag", flag, f"{len(images)}")
            images = torch.cat([images, flag[:, None, None, None].expand(-1, 1, *images.shape[2:])], 1)
        features = self.trunk(images)
        scores, depths = self.scores(features).float(), self.depths(features).float()
        maps = scores.flatten(2).softmax(-1)
        places = pixel_centers(*scores.shape[2:], scores.device, scores.dtype).flatten(0, 1)
        seen = maps @ places
        depth = self.distance + (maps * depths.flatten(2)).sum(-1)
        # A depth must stay before the camera, however far a step goes.
        depth = F.softplus(depth - 0.1, beta=20) + 0.1
        points = torch.cat([seen * (depth / focal[:, None])[..., None], depth[..., None]], -1)
        return Keypoints(seen, points, maps.view_as(scores))

    def loss(
        self,
        batch: dict[str, Tensor],
        weights: Weights = Weights(),
        *,
        noise: float = 0.0,
        separation: float = 0.22,
    ) -> dict[str, Tensor]:
        """Compute the terms of pairs of views by name, weighted, and their sum "loss".

        batch: pairs of views (`datasets.pair_up`): image, mask, focal, rotation, translation, and flag if `flagged`.
            Only the motion from the one camera to the other is used, never where a camera stands.
        noise: see `pose_loss`; separation: the distance δ of `separation_loss`. Both in units of the scene.
        """
        needed = NEEDED + ("flag",) * self.flagged
        check_batch(batch, *needed, *(f"next_{name}" for name in needed))
        one = self(batch["image"], batch["focal"], batch.get("flag"))
        two = self(batch["next_image"], batch["next_focal"], batch.get("next_flag"))
        return pair_terms(one, two, batch, weights, noise=noise, separation=separation)

    def supervised_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the rival's terms: squared distance of each keypoint to the annotated one in the image plane, and of
        its depth, as an offset there, and their sum "loss". Keypoint k of the network is annotated keypoint k.

        batch: image, focal, keypoints, keypoint_depth, and flag if `flagged`; hidden keypoints count, too.
        """
        check_batch(batch, "image", "focal", "keypoints", "keypoint_depth", *("flag",) * self.flagged)
        found = self(batch["image"], batch["focal"], batch.get("flag"))
        if found.seen.shape != batch["keypoints"].shape:
            wanted = batch["keypoints"].shape[1]
            raise ValueError(f"the batch has {wanted} keypoints; make the network with keypoints={wanted}")
        place = (found.seen - batch["keypoints"]).square().sum(-1).mean()
        # In units of the scene, times f / distance: as large in the image plane as a move to the side.
        scale = (batch["focal"] / self.distance)[:, None]
        depth = (scale * (found.points[..., 2] - batch["keypoint_depth"])).square().mean()
        return with_sum({"place": place, "depth": depth})


def _blocks(images: Tensor, stride: int) -> Tensor:
    """Cut pictures into blocks of stride × stride pixels: (B, C, H, W) → (B, C stride², H / stride, W / stride)."""
    check_tensor("images", images, "B 3 H W")
    if images.shape[2] % stride or images.shape[3] % stride:
        raise ValueError(f"images must have sides divisible by {stride} (stride), got {tuple(images.shape)}")
    return F.pixel_unshuffle(images, stride)
