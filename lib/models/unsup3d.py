"""Unsup3D: depth, albedo, light, view and confidence from one picture, learnt from pictures alone.

Source: Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in
the Wild", CVPR 2020. The model explains a picture by a canonical object, seen from the front: its depth map z and its
albedo ρ, lit by a light l and turned to a view ω. Both maps should be mirror-symmetric, so their mirror images must
explain the picture, too. This second explanation turns one picture into a stereo pair.

Frames and units are those of `lib.geometry.turntable`: a field of view of 10 degrees, so pixel (u_x, u_y) of the image
plane [−1, 1]², at depth z, is the point (u_x/f, u_y/f, 1)·z with f = 1/tan 5°. Depths lie in [0.9, 1.1]; one unit is
the distance to the point (0, 0, 1) about which the object turns.
Normals point out of the object, towards the camera (z < 0); the light's direction points towards the light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lib import rendering
from lib.checks import check_same_device, check_tensor
from lib.datasets import check_batch
from lib.geometry.depth_maps import depth_to_normals, depth_to_points, grid_faces, project, steep_pixels
from lib.geometry.image_plane import pixel_centers, sample_image
from lib.geometry.turntable import FOCAL, turn, turn_back
from lib.layers.convolutional import doubling_decoder, halving_encoder
from lib.losses.depth import curvature_loss, smoothness_loss
from lib.losses.photometric import SMALLEST_SIGMA, gaussian_nll, laplacian_nll
from lib.remembered import constant

MIDDLE, RANGE = 1.0, 0.1  # depths are MIDDLE ± RANGE
BORDER, BORDER_DEPTH = 2 / 64, 1.04  # this share of the columns, on each side, is held at this depth
MAX_TURNS = (60.0, 60.0, 60.0)  # degrees


def light_direction(light: Float[Tensor, "B 4"]) -> Float[Tensor, "B 3"]:
    """The unit direction towards the light, from (ambient, diffuse, l_x, l_y): (l_x, l_y, −1) normalised."""
    return F.normalize(torch.cat([light[:, 2:], -torch.ones_like(light[:, :1])], 1), dim=1)


def shading(normals: Float[Tensor, "B 3 H W"], light: Float[Tensor, "B 4"]) -> Float[Tensor, "B H W"]:
    """Shade by Lambert's law: ambient + diffuse · max(0, n · l)."""
    cosine = (normals * light_direction(light)[:, :, None, None]).sum(1).clamp(min=0)
    return light[:, 0, None, None] + light[:, 1, None, None] * cosine


def warp_depth(
    depth: Float[Tensor, "B H W"], view: Float[Tensor, "B 6"]
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Render the depth map of the turned surface, and its mask; outside of the mask the depth is 1.1.

    The pixels are the vertices of a mesh that `rendering` rasterises. Differentiable in both arguments.
    """
    height, width = depth.shape[1:]
    corners = project(turn(depth_to_points(depth, FOCAL).flatten(2).mT, view), FOCAL)
    seen = rendering.depth(corners, grid_faces(height, width, depth.device), (height, width), perspective=True)
    mask = torch.isfinite(seen)
    return torch.where(mask, seen, MIDDLE + RANGE), mask.to(depth.dtype)


def canonical_places(seen: Float[Tensor, "B H W"], view: Float[Tensor, "B 6"]) -> Float[Tensor, "B H W 2"]:
    """Find for each pixel of the view the place (x, y) on the canonical image plane that shows the same point."""
    points = turn_back(depth_to_points(seen, FOCAL).flatten(2).mT, view)
    return project(points, FOCAL)[..., :2].view(*seen.shape, 2)


def reproject(
    canonical: Float[Tensor, "B C H W"],
    depth: Float[Tensor, "B H W"],
    view: Float[Tensor, "B 6"],
    steepest: float | None = None,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Warp a canonical picture to the view by its depth map, by inverse warping (the paper's Π).

    Render the turned depth; carry each of its points back to the canonical frame; look up the colour there. Gradients
    reach depth and view through the place where the colour is looked up. Returns the picture, the depth in the view,
    and the mask.

    steepest: at pixels where the depth in the view is steeper than this (see `depth_maps.steep_pixels`), no gradient
        goes through the place. There one part of the surface ends in front of another. A turn changes above all which
        of the two a pixel sees, and the gradient does not know this change; it says "turn less", which is wrong. None:
        gradients go through everywhere.

    Raises ValueError or TypeError for shapes and devices that do not fit.
    """
    check_tensor("canonical", canonical, "B C H W")
    b, _, h, w = canonical.shape
    check_tensor("depth", depth, f"{b} {h} {w}")
    check_tensor("view", view, f"{b} 6")
    check_same_device(canonical=canonical, depth=depth, view=view)
    seen, mask = warp_depth(depth, view)
    places = canonical_places(seen, view)
    if steepest is not None:
        places = torch.where(steep_pixels(seen.detach(), steepest, FOCAL)[..., None], places.detach(), places)
    image = sample_image(canonical, places)
    return image, seen, mask


def paint(
    canonical: Float[Tensor, "B C H W"], depth: Float[Tensor, "B H W"], view: Float[Tensor, "B 6"]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Warp a canonical picture to the view by forward warping: draw the turned mesh, each pixel a coloured vertex.

    The picture is that of `reproject`, except for the interpolation (linear on triangles, bilinear on squares).
    """
    height, width = depth.shape[1:]
    faces = grid_faces(height, width, depth.device)
    corners = project(turn(depth_to_points(depth, FOCAL).flatten(2).mT, view), FOCAL)
    fragments = rendering.rasterize(corners, faces, (height, width), perspective=True)
    image = rendering.interpolate(canonical.flatten(2).mT, faces, fragments)
    return image, torch.where(fragments.mask, fragments.depth, MIDDLE + RANGE), fragments.mask.to(depth.dtype)


class Factors(NamedTuple):
    """Factors that the networks predict from a picture.

    depth (B, H, W) and albedo (B, 3, H, W): canonical. light (B, 4): ambient and diffuse in [0, 1], l_x and l_y in
    [−1, 1]. view (B, 6): turns in radians, shift in units. sigma (B, 2, H, W) > 0: the expected error of the picture's
    explanation and of the mirrored explanation, in the view's frame. sigma_features (B, 2, H/4, W/4): the same for the
    perceptual loss. difference (B, H, W): the predicted difference from the average depth, before the tanh, in units
    of RANGE.
    """

    depth: Float[Tensor, "B H W"]
    albedo: Float[Tensor, "B 3 H W"]
    light: Float[Tensor, "B 4"]
    view: Float[Tensor, "B 6"]
    sigma: Float[Tensor, "B 2 H W"]
    sigma_features: Float[Tensor, "B 2 H/4 W/4"]
    difference: Float[Tensor, "B H W"]


class Rendering(NamedTuple):
    """Image (B, 3, H, W), depth and mask (B, H, W) in the view; normals and shading are canonical."""

    image: Float[Tensor, "B 3 H W"]
    depth: Float[Tensor, "B H W"]
    mask: Float[Tensor, "B H W"]
    normals: Float[Tensor, "B 3 H W"]
    shading: Float[Tensor, "B H W"]


def render(
    depth: Float[Tensor, "B H W"],
    albedo: Float[Tensor, "B 3 H W"],
    light: Float[Tensor, "B 4"],
    view: Float[Tensor, "B 6"],
    steepest: float | None = None,
) -> Rendering:
    """Light the canonical face, then turn it: Î = Π(Λ(ρ, z, l), z, ω). steepest: see `reproject`."""
    normals = depth_to_normals(depth, FOCAL)
    shade = shading(normals, light)
    image, seen, mask = reproject(albedo * shade[:, None], depth, view, steepest)
    return Rendering(image, seen, mask, normals, shade)


@dataclass(frozen=True)
class Objective:
    """Choices and weights of the objective `PhotoGeometricAutoencoder.loss`.

    flip_weight: w, the weight of the mirrored explanation; at 0 there is no mirror, and nothing is rendered twice.
    flip_depth, flip_albedo, lit, confidence: False for the paper's ablations.
    smoothness, curvature, likeness, level: weights of four aids, 0 in the paper. The first two ask for a smooth relief,
        in units of RANGE; likeness for faces near their average (the mean square of `Factors.difference`); level for
        faces that look neither up nor down on average (the square of the batch's mean pitch).
    level_light, mean_height: another aid. Its weight asks that l_y, the height of the light, has this mean over the
        batch (the square of the difference). Light from above and a nod explain much the same.
    steepest: see `reproject`.
    """

    flip_weight: float = 0.5
    flip_depth: bool = True
    flip_albedo: bool = True
    lit: bool = True
    confidence: bool = True
    smoothness: float = 0.0
    curvature: float = 0.0
    likeness: float = 0.0
    level: float = 0.0
    level_light: float = 0.0
    mean_height: float = 0.0
    steepest: float | None = None


class PhotoGeometricAutoencoder(nn.Module):
    """Five networks from a picture (B, 3, S, S) in [0, 1] to its `Factors`.

    image_size: S, a power of two, 16 or more. channels, code: the networks' width; the paper has 64 and 256 at
    S = 64, about 30 million parameters in all.

    Aids, all off by default, for small networks and short trainings. Declare each of them when you quote results:
    prior: this much of a half-ellipsoid, taller than wide, is added to the depth map before the tanh; it says that the
        object is nearer in the middle than at its sides.
    average: the average depth and albedo are parameters of their own, and the networks predict the difference. The
        mean and the vertical tilt of the depth's difference are removed: distance and pitch could explain them as well.
    level_albedo: with `average`, also remove the vertical tilt of the albedo's difference, which light from above or
        below could explain. (The mirror decides between left and right, but not between up and down.)
    coarse: networks predict maps this many times smaller, which are enlarged bilinearly.
    max_shift: how far the view can shift the object, in units; the paper has 0.1.
    max_turns: how far the view can turn it about x, y and z, in degrees; the paper has 60 about each.
    least_sigma: lower limit of sigma at every pixel, so that smooth skin does not outweigh the eyes.
    view_gain, light_gain: factors before the tanh of these two networks, which then learn faster.
    frozen_depth: the depth is the prior and nothing else; not an aid but a control.
    shared: without the networks of depth and confidence. Everybody has the average depth, and sigma is `least_sigma`
        everywhere. This is how the course ships its weights, in half the space.
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 64,
        code: int = 256,
        *,
        prior: float = 0.0,
        average: bool = False,
        level_albedo: bool = False,
        coarse: int = 1,
        max_shift: float = 0.1,
        max_turns: Sequence[float] = MAX_TURNS,
        least_sigma: float = SMALLEST_SIGMA,
        view_gain: float = 1.0,
        light_gain: float = 1.0,
        frozen_depth: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size & (image_size - 1):
            raise ValueError(f"image_size must be a power of two, 16 or more, got {image_size}; resize the pictures")
        if coarse not in (1, 2, 4):
            raise ValueError(f"coarse must be 1, 2 or 4, got {coarse}")
        if level_albedo and not average:
            raise ValueError("level_albedo needs average=True: it levels what is added to the average albedo")
        self.image_size, self.max_shift, self.least_sigma = image_size, max_shift, least_sigma
        self.max_turns = tuple(max_turns)
        self.view_gain, self.light_gain, self.frozen_depth = view_gain, light_gain, frozen_depth
        self.level_albedo = level_albedo
        if shared and not average:
            raise ValueError("shared needs average=True: the average is all that is left of the depth")

        def maps(out: int) -> nn.Sequential:
            below = halving_encoder(image_size, channels, code, norm=True)
            return nn.Sequential(below, doubling_decoder(code, channels, image_size, out, coarse))

        def numbers(out: int) -> nn.Sequential:
            last = nn.Conv2d(code, out, 1)
            nn.init.normal_(last.weight, std=1e-3)  # otherwise faces start tilted, and the albedo learns tilted faces
            nn.init.zeros_(last.bias)
            return nn.Sequential(halving_encoder(image_size, channels, code, norm=False), last, nn.Flatten())

        self.depth, self.albedo, self.confidence = None if shared else maps(1), maps(3), None if shared else maps(4)
        self.light, self.view = numbers(4), numbers(6)
        self.average_depth = nn.Parameter(torch.zeros(image_size, image_size), requires_grad=average)
        self.average_albedo = nn.Parameter(torch.zeros(3, image_size, image_size), requires_grad=average)
        self.register_buffer("prior", prior * half_ellipsoid(image_size), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Factors:
        check_tensor("images", images, f"B 3 {self.image_size} {self.image_size}")
        x = 2 * images - 1
        alike = self.frozen_depth or self.depth is None
        difference = torch.zeros_like(images[:, 0]) if alike else self.depth(x)[:, 0]
        albedo = self.albedo(x)
        if self.average_depth.requires_grad:
            difference = without_tilt(difference - difference.mean((1, 2), keepdim=True))
        if self.level_albedo:
            albedo = without_tilt(albedo)
        spread = torch.zeros_like(images[:, :1]).expand(-1, 4, -1, -1)
        spread = (spread if self.confidence is None else F.softplus(self.confidence(x))) + self.least_sigma
        light, view = (self.light_gain * self.light(x)).tanh(), (self.view_gain * self.view(x)).tanh()
        reach = constant(
            view, *map(math.radians, self.max_turns), *[self.max_shift] * 2, 0.0
        )  # no shift in depth: size explains it
        return Factors(
            depth=to_depth(difference + (0 if self.frozen_depth else self.average_depth), self.prior),
            albedo=(albedo + self.average_albedo).tanh() / 2 + 0.5,
            light=torch.cat([light[:, :2] / 2 + 0.5, light[:, 2:]], 1),
            view=view * reach,
            sigma=spread[:, :2],
            sigma_features=F.avg_pool2d(spread[:, 2:], 4),
            difference=difference,
        )

    def loss(
        self,
        batch: dict[str, Tensor],
        objective: Objective = Objective(),
        features: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        """Explain the batch's image, and compute the terms of `photogeometric_loss`."""
        check_batch(batch, "image")
        return photogeometric_loss(batch["image"], self(batch["image"]), objective, features)


def without_tilt(maps: Float[Tensor, "... H W"]) -> Float[Tensor, "... H W"]:
    """Remove the best-fitting slope from top to bottom; the means stay."""
    rows = torch.linspace(-1, 1, maps.shape[-2], device=maps.device, dtype=maps.dtype)[:, None]
    rows = rows / rows.square().mean().sqrt()
    return maps - (maps * rows).mean((-2, -1), keepdim=True) * rows


def half_ellipsoid(size: int) -> Float[Tensor, "S S"]:
    """The relief of an ellipsoid as a depth, its mean removed: smallest, hence nearest, in the middle."""
    x, y = pixel_centers(size, size).unbind(-1)
    height = (1 - (x / 1.05) ** 2 - (y / 1.4) ** 2).clamp(min=0.02).sqrt()
    return height.mean() - height


def to_depth(raw: Float[Tensor, "B H W"], prior: float | Tensor = 0.0) -> Float[Tensor, "B H W"]:
    """Convert a network's output to a depth map: remove the mean, add the prior, tanh, [0.9, 1.1]; sides at 1.04.

    The mean distance is removed, because it would only make the picture a little larger or smaller. The outermost
    columns are held far back, so that a turned face shows background at its side instead of nothing.
    """
    depth = MIDDLE + RANGE * (raw - raw.mean((1, 2), keepdim=True) + prior).tanh()
    columns = border(depth.shape[-1])
    side = torch.full_like(depth[:, :, :columns], BORDER_DEPTH)
    return torch.cat([side, depth[:, :, columns:-columns], side], 2)


def border(width: int) -> int:
    """Number of columns on each side of a depth map that are held back."""
    return max(1, round(BORDER * width))


def photogeometric_loss(
    images: Float[Tensor, "B 3 H W"],
    factors: Factors,
    objective: Objective = Objective(),
    features: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Compute the loss ℒ(Î, I, σ) + w ℒ(Î', I, σ'): the Laplacian likelihood and, with `features`, the perceptual one.

    features: an encoder from pictures to feature maps of a quarter of the size (`lib.layers.perceptual`).

    Returns the terms by name: "loss", the sum; "photometric"; "perceptual"; "error", the mean |Î − I|; "seen", the
    share of the picture that the turned surface covers (if it shrinks, the model is collapsing).
    """
    depth, albedo, light, view, sigma, sigma_features, difference = factors
    b = len(images)
    shown = light if objective.lit else constant(light, 1.0, 0.0, 0.0, 0.0).expand(b, 4)
    scene, weights = (depth, albedo, shown, view), (1.0,)
    if objective.flip_weight:
        mirrored_depth = depth.flip(-1) if objective.flip_depth else depth
        mirrored_albedo = albedo.flip(-1) if objective.flip_albedo else albedo
        mirrored = mirrored_depth, mirrored_albedo, shown, view
        scene, weights = tuple(map(torch.cat, zip(scene, mirrored, strict=True))), (1.0, objective.flip_weight)
    both = render(*scene, objective.steepest)
    if features is not None:
        with torch.no_grad():
            wanted = features(images)
        found = features(both.image * both.mask[:, None])
        seen = -F.max_pool2d(-both.mask[:, None], 4)[:, 0]
    photometric = perceptual = images.new_zeros(())
    for side, weight in enumerate(weights):
        part = slice(side * b, (side + 1) * b)
        spread = sigma[:, side] if objective.confidence else None
        photometric = photometric + weight * laplacian_nll(both.image[part], images, spread, both.mask[part])
        if features is not None:
            spread = sigma_features[:, side] if objective.confidence else None
            perceptual = perceptual + weight * gaussian_nll(found[part], wanted, spread, seen[part])
    loss = photometric + perceptual
    if objective.smoothness or objective.curvature:
        relief = (depth - MIDDLE) / RANGE
        loss = loss + objective.smoothness * smoothness_loss(relief) + objective.curvature * curvature_loss(relief)
    if objective.likeness:
        loss = loss + objective.likeness * difference.square().mean()
    if objective.level:
        loss = loss + objective.level * view[:, 0].mean().square()
    if objective.level_light:
        loss = loss + objective.level_light * (light[:, 3].mean() - objective.mean_height).square()
    error = (both.mask[:b] * (both.image[:b] - images).abs().mean(1)).sum() / both.mask[:b].sum()
    return {
        "loss": loss,
        "photometric": photometric,
        "perceptual": perceptual,
        "error": error,
        "seen": both.mask[:b].mean(),
    }


def degeneracies(factors: Factors, rendering: Rendering) -> dict[str, bool]:
    """Check a batch of results for known wrong answers that a falling loss does not show. The truth is not needed.

    "flat depth": the middle of the faces has less relief than a fiftieth of the depth range.
    "inverted depth": on average the middle of the faces lies behind their sides, or the nose behind the cheeks (the
        hollow mask).
    "lopsided depth": the middle of the canonical depth differs from its mirror image by more than a third of its
        relief, although the method assumes that both are equal.
    "steep depth": more than a twentieth of the middle slopes by over 60 degrees (a relief much too deep, or torn).
    "everything in albedo": the shading hardly varies over a face, or the albedo is not mirror-symmetric: the light is
        painted onto the face.
    "no nose": on average the ridge of the nose stands less than 0.015 of the depth range before its flanks (the drawn
        faces have 0.07, a smooth bulge has 0.004 to 0.01).
    "one face for everybody": the depths of different people differ by less than a twelfth of a face's relief. (Whether
        the differences are right, only the truth can tell: `metrics.own_relief`.)
    "view collapse": the yaws vary by less than 8 degrees or the pitches by less than 4 (standard deviations), or less
        than half of the picture is covered.

    A check that fires shows that the model is wrong. Silent checks do not show that it is right: other wrong answers
    exist. The thresholds are relative to `RANGE` and were set on faces at 32²; chapter 9 tells their errors there.
    """
    depth, albedo = centre(factors.depth), centre(factors.albedo)
    size = factors.depth.shape[-1]
    rows = factors.depth[:, size // 3 : -(size // 3)]
    half, column = size // 2, round(0.28 * size)
    nose, cheeks = rows[:, :, half - 1 : half + 1].mean(), rows[:, :, [column, -column - 1]].mean()
    edge = border(size)
    sides = factors.depth[:, size // 4 : -(size // 4), [edge, -edge - 1]].mean()
    relief = depth.flatten(1).std(1).mean()
    painted = (albedo - albedo.flip(-1)).abs().mean() > 0.035
    pitch, yaw = torch.rad2deg(factors.view[:, :2].std(0))
    return {
        "flat depth": bool(relief < RANGE / 50),
        "inverted depth": bool(depth.mean() > sides or nose > cheeks),
        "lopsided depth": bool(lopsidedness(factors.depth) > 0.35),
        "steep depth": bool((centre(rendering.normals)[:, 2] > -0.5).float().mean() > 0.05),
        "everything in albedo": bool(painted or centre(rendering.shading).flatten(1).std(1).mean() < 0.02),
        "no nose": bool(nose_height(factors.depth) < 0.015 * RANGE),
        "one face for everybody": bool((depth - depth.mean((1, 2), keepdim=True)).std(0).mean() < relief / 12),
        "view collapse": bool(yaw < 8 or pitch < 4 or rendering.mask.mean() < 0.5),
    }


def nose_height(depth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Measure how far the ridge of the nose stands before its flanks, below the middle of the picture, on average.

    The flanks are near (a tenth of the picture's width on each side), so that a smooth bulge of the whole face does not
    count: the drawn faces have 0.07 of RANGE, the half-ellipsoid of the prior 0.004.
    """
    x, y = pixel_centers(*depth.shape[1:], depth.device).unbind(-1)
    rows = (y > 0.05) & (y < 0.4)
    flanks = rows & (x.abs() > 0.1) & (x.abs() < 0.2)
    return depth[:, flanks].mean() - depth[:, rows & (x.abs() < 0.1)].mean()


def lopsidedness(depth: Float[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Compute the mean difference of the depth's middle from its mirror image, as a share of its relief."""
    depth = centre(depth)
    return (depth - depth.flip(-1)).abs().mean() / depth.flatten(1).std(1).mean()


def centre(maps: Float[Tensor, "... H W"]) -> Float[Tensor, "... H/2 W/2"]:
    """Cut out the middle half of a map, rows and columns."""
    height, width = maps.shape[-2:]
    return maps[..., height // 4 : -(height // 4), width // 4 : -(width // 4)]
