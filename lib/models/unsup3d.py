"""Unsup3D: depth, albedo, light, view and confidence from one picture, learnt from pictures alone.

Source: Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in
the Wild", CVPR 2020. The model explains a picture by a canonical object, seen from the front: its depth map z and its
albedo ρ, lit by a light l and turned to a view ω. Both maps should be mirror-symmetric, so their mirror images must
explain the picture, too. This second explanation turns one picture into a stereo pair.

Frames and units. Camera: x right, y down, z forward. The canonical depth map belongs to a camera with a field of
view of 10 degrees, so pixel (u_x, u_y) of the image plane [−1, 1]², at depth z, is the point (u_x/f, u_y/f, 1)·z with
f = 1/tan 5°. Depths lie in [0.9, 1.1]; one unit is the distance to the point (0, 0, 1) about which the object turns.
Normals point out of the object, towards the camera (z < 0); the light's direction points towards the light.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lib import rendering
from lib.checks import check_same_device, check_tensor
from lib.geometry.mesh import Mesh
from lib.losses.depth import curvature_loss, smoothness_loss
from lib.losses.photometric import SMALLEST_SIGMA, gaussian_nll, laplacian_nll
from lib.remembered import constant

FIELD_OF_VIEW = 10.0  # degrees
FOCAL = 1 / math.tan(math.radians(FIELD_OF_VIEW / 2))
PIVOT = 1.0
MIDDLE, RANGE = 1.0, 0.1  # depths are MIDDLE ± RANGE
BORDER, BORDER_DEPTH = 2 / 64, 1.04  # this share of the columns, on each side, is held at this depth
MAX_TURN = math.radians(60)


def pixel_rays(height: int, width: int, device: torch.device | str = "cpu") -> Float[Tensor, "3 H W"]:
    """Rays (u_x/f, u_y/f, 1) through the centres of all pixels: a ray times a depth is a point."""
    y = (2 * torch.arange(height, device=device) + 1) / height - 1
    x = (2 * torch.arange(width, device=device) + 1) / width - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns / FOCAL, rows / FOCAL, torch.ones_like(rows)])


def depth_to_points(depth: Float[Tensor, "B H W"]) -> Float[Tensor, "B 3 H W"]:
    """Convert each pixel of a depth map to the point that it sees, in the camera's frame."""
    check_tensor("depth", depth, "B H W")
    return depth[:, None] * pixel_rays(*depth.shape[1:], device=depth.device).to(depth.dtype)


def depth_to_normals(depth: Float[Tensor, "B H W"]) -> Float[Tensor, "B 3 H W"]:
    """Compute unit normals towards the camera, by central differences of the points (one-sided at the border)."""
    points = F.pad(depth_to_points(depth), (1, 1, 1, 1), mode="replicate")
    right = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    down = points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    normals = torch.linalg.cross(down, right, dim=1)
    return normals / normals.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)


def light_direction(light: Float[Tensor, "B 4"]) -> Float[Tensor, "B 3"]:
    """The unit direction towards the light, from (ambient, diffuse, l_x, l_y): (l_x, l_y, −1) normalised."""
    return F.normalize(torch.cat([light[:, 2:], -torch.ones_like(light[:, :1])], 1), dim=1)


def shading(normals: Float[Tensor, "B 3 H W"], light: Float[Tensor, "B 4"]) -> Float[Tensor, "B H W"]:
    """Shade by Lambert's law: ambient + diffuse · max(0, n · l)."""
    cosine = (normals * light_direction(light)[:, :, None, None]).sum(1).clamp(min=0)
    return light[:, 0, None, None] + light[:, 1, None, None] * cosine


def view_rotation(view: Float[Tensor, "B 6"]) -> Float[Tensor, "B 3 3"]:
    """The rotation R = Rz Ry Rx; the turns about x, y and z stand in view[:, :3], in radians."""
    (cx, cy, cz), (sx, sy, sz) = view[:, :3].cos().unbind(-1), view[:, :3].sin().unbind(-1)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def turn(points: Float[Tensor, "B N 3"], view: Float[Tensor, "B 6"]) -> Float[Tensor, "B N 3"]:
    """Turn canonical points X to the view: R (X − c) + c + t with c = (0, 0, 1)."""
    pivot = constant(points, 0, 0, PIVOT)
    return (points - pivot) @ view_rotation(view).mT + pivot + view[:, None, 3:]


def turn_back(points: Float[Tensor, "B N 3"], view: Float[Tensor, "B 6"]) -> Float[Tensor, "B N 3"]:
    """Turn points back from the view: the inverse of `turn`."""
    pivot = constant(points, 0, 0, PIVOT)
    return (points - pivot - view[:, None, 3:]) @ view_rotation(view) + pivot


def project(points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
    """Project points onto the image plane and keep the depth: (f x / z, f y / z, z)."""
    return torch.cat([FOCAL * points[..., :2] / points[..., 2:], points[..., 2:]], -1)


@lru_cache
def grid_faces(height: int, width: int, device: torch.device | str = "cpu") -> Int[Tensor, "F 3"]:
    """Faces of the mesh whose vertices are the pixels: two for every square of four neighbours, counter-clockwise
    seen from the camera."""
    index = torch.arange(height * width, device=device).view(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    return torch.stack([torch.stack([a, c, b], -1), torch.stack([c, d, b], -1)], 2).view(-1, 3)


def warp_depth(
    depth: Float[Tensor, "B H W"], view: Float[Tensor, "B 6"]
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Render the depth map of the turned surface, and its mask; outside of the mask the depth is 1.1.

    The pixels are the vertices of a mesh that `rendering` rasterises. Differentiable in both arguments.
    """
    height, width = depth.shape[1:]
    corners = project(turn(depth_to_points(depth).flatten(2).mT, view))
    seen = rendering.depth(corners, grid_faces(height, width, depth.device), (height, width), perspective=True)
    mask = torch.isfinite(seen)
    return torch.where(mask, seen, MIDDLE + RANGE), mask.to(depth.dtype)


def canonical_places(seen: Float[Tensor, "B H W"], view: Float[Tensor, "B 6"]) -> Float[Tensor, "B H W 2"]:
    """Find for each pixel of the view the place (x, y) on the canonical image plane that shows the same point."""
    points = turn_back(depth_to_points(seen).flatten(2).mT, view)
    return project(points)[..., :2].view(*seen.shape, 2)


def steep_pixels(depth: Float[Tensor, "B H W"], steepest: float) -> Bool[Tensor, "B H W"]:
    """True where a depth map rises from a pixel to the next by more than `steepest` pixels (1 is a slope of 45°)."""
    limit = steepest * 2 / (FOCAL * depth.shape[-1])
    across = (depth[:, :, 1:] - depth[:, :, :-1]).abs() > limit
    along = (depth[:, 1:] - depth[:, :-1]).abs() > limit
    return F.pad(across, (0, 1)) | F.pad(across, (1, 0)) | F.pad(along, (0, 0, 0, 1)) | F.pad(along, (0, 0, 1, 0))


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

    steepest: at pixels where the depth in the view is steeper than this (see `steep_pixels`), no gradient goes through
        the place. There one part of the surface ends in front of another. A turn changes above all which of the two a
        pixel sees, and the gradient does not know this change; it says "turn less", which is wrong. None: gradients go
        through everywhere.

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
        places = torch.where(steep_pixels(seen.detach(), steepest)[..., None], places.detach(), places)
    image = F.grid_sample(canonical, places, padding_mode="border", align_corners=False)
    return image, seen, mask


def paint(
    canonical: Float[Tensor, "B C H W"], depth: Float[Tensor, "B H W"], view: Float[Tensor, "B 6"]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Warp a canonical picture to the view by forward warping: draw the turned mesh, each pixel a coloured vertex.

    The picture is that of `reproject`, except for the interpolation (linear on triangles, bilinear on squares).
    """
    height, width = depth.shape[1:]
    faces = grid_faces(height, width, depth.device)
    corners = project(turn(depth_to_points(depth).flatten(2).mT, view))
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
    normals = depth_to_normals(depth)
    shade = shading(normals, light)
    image, seen, mask = reproject(albedo * shade[:, None], depth, view, steepest)
    return Rendering(image, seen, mask, normals, shade)


def encoder(size: int, channels: int, out: int, norm: bool) -> nn.Sequential:
    """Make an encoder (B, 3, size, size) → (B, out, 1, 1): halve the picture, double the channels, down to 4 × 4."""
    layers: list[nn.Module] = []
    before, width = 3, channels
    while size > 4:
        layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False))
        if norm and size > 8:
            layers.append(nn.GroupNorm(max(width // 4, 1), width))
        layers.append(nn.LeakyReLU(0.2))
        before, width, size = width, min(2 * width, 8 * channels), size // 2
    return nn.Sequential(*layers, nn.Conv2d(before, out, 4, bias=False), nn.ReLU())


def decoder(code: int, channels: int, size: int, out: int, coarse: int = 1) -> nn.Sequential:
    """Make a decoder (B, code, 1, 1) → (B, out, size, size): 4 × 4 first, then double the map, halve the channels.

    coarse: stop at a map so many times smaller and enlarge it bilinearly.
    """
    widths = [channels * min(max(size // (2 * side), 1), 8) for side in _doublings(4, size // coarse)]
    layers = [nn.ConvTranspose2d(code, widths[0], 4, bias=False), nn.ReLU()]
    for before, width in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, width, 3, padding=1, bias=False)]
        layers += [nn.GroupNorm(max(width // 4, 1), width), nn.ReLU()]
    layers.append(nn.Conv2d(widths[-1], out, 5, padding=2))
    if coarse > 1:
        layers.append(nn.Upsample(scale_factor=coarse, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


def _doublings(first: int, last: int) -> list[int]:
    return [first * 2**k for k in range((last // first).bit_length())]


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
    least_sigma: lower limit of sigma at every pixel, so that smooth skin does not outweigh the eyes.
    view_gain, light_gain: factors before the tanh of these two networks, which then learn faster.
    frozen_depth: the depth is the prior and nothing else; not an aid but a control.
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
        least_sigma: float = SMALLEST_SIGMA,
        view_gain: float = 1.0,
        light_gain: float = 1.0,
        frozen_depth: bool = False,
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size & (image_size - 1):
            raise ValueError(f"image_size must be a power of two, 16 or more, got {image_size}; resize the pictures")
        if coarse not in (1, 2, 4):
            raise ValueError(f"coarse must be 1, 2 or 4, got {coarse}")
        if level_albedo and not average:
            raise ValueError("level_albedo needs average=True: it levels what is added to the average albedo")
        self.image_size, self.max_shift, self.least_sigma = image_size, max_shift, least_sigma
        self.view_gain, self.light_gain, self.frozen_depth = view_gain, light_gain, frozen_depth
        self.level_albedo = level_albedo

        def maps(out: int) -> nn.Sequential:
            below = encoder(image_size, channels, code, norm=True)
            return nn.Sequential(below, decoder(code, channels, image_size, out, coarse))

        def numbers(out: int) -> nn.Sequential:
            last = nn.Conv2d(code, out, 1)
            nn.init.normal_(last.weight, std=1e-3)  # otherwise faces start tilted, and the albedo learns tilted faces
            nn.init.zeros_(last.bias)
            return nn.Sequential(encoder(image_size, channels, code, norm=False), last, nn.Flatten())

        self.depth, self.albedo, self.confidence = maps(1), maps(3), maps(4)
        self.light, self.view = numbers(4), numbers(6)
        self.average_depth = nn.Parameter(torch.zeros(image_size, image_size), requires_grad=average)
        self.average_albedo = nn.Parameter(torch.zeros(3, image_size, image_size), requires_grad=average)
        self.register_buffer("prior", prior * half_ellipsoid(image_size), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Factors:
        check_tensor("images", images, f"B 3 {self.image_size} {self.image_size}")
        x = 2 * images - 1
        difference = torch.zeros_like(images[:, 0]) if self.frozen_depth else self.depth(x)[:, 0]
        albedo = self.albedo(x)
        if self.average_depth.requires_grad:
            difference = without_tilt(difference - difference.mean((1, 2), keepdim=True))
        if self.level_albedo:
            albedo = without_tilt(albedo)
        spread = F.softplus(self.confidence(x)) + self.least_sigma
        light, view = (self.light_gain * self.light(x)).tanh(), (self.view_gain * self.view(x)).tanh()
        reach = constant(view, *[MAX_TURN] * 3, *[self.max_shift] * 2, 0.0)  # no shift in depth: size explains it
        return Factors(
            depth=to_depth(difference + (0 if self.frozen_depth else self.average_depth), self.prior),
            albedo=(albedo + self.average_albedo).tanh() / 2 + 0.5,
            light=torch.cat([light[:, :2] / 2 + 0.5, light[:, 2:]], 1),
            view=view * reach,
            sigma=spread[:, :2],
            sigma_features=F.avg_pool2d(spread[:, 2:], 4),
            difference=difference,
        )


def without_tilt(maps: Float[Tensor, "... H W"]) -> Float[Tensor, "... H W"]:
    """Remove the best-fitting slope from top to bottom; the means stay."""
    rows = torch.linspace(-1, 1, maps.shape[-2], device=maps.device, dtype=maps.dtype)[:, None]
    rows = rows / rows.square().mean().sqrt()
    return maps - (maps * rows).mean((-2, -1), keepdim=True) * rows


def half_ellipsoid(size: int) -> Float[Tensor, "S S"]:
    """The relief of an ellipsoid as a depth, its mean removed: smallest, hence nearest, in the middle."""
    ticks = (2 * torch.arange(size) + 1) / size - 1
    height = (1 - (ticks[None] / 1.05) ** 2 - (ticks[:, None] / 1.4) ** 2).clamp(min=0.02).sqrt()
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
    *,
    flip_weight: float = 0.5,
    flip_depth: bool = True,
    flip_albedo: bool = True,
    lit: bool = True,
    confidence: bool = True,
    features: nn.Module | None = None,
    smoothness: float = 0.0,
    curvature: float = 0.0,
    likeness: float = 0.0,
    level: float = 0.0,
    steepest: float | None = None,
) -> dict[str, Tensor]:
    """Compute the loss ℒ(Î, I, σ) + w ℒ(Î', I, σ'): the Laplacian likelihood and, with `features`, the perceptual one.

    flip_weight: w. flip_depth, flip_albedo, lit, confidence: False for the paper's ablations.
    features: an encoder from pictures to feature maps of a quarter of the size (`lib.layers.perceptual`).
    smoothness, curvature, likeness, level: weights of four aids, 0 in the paper. The first two ask for a smooth relief,
        in units of RANGE; likeness for faces near their average (the mean square of `factors.difference`); level for
        faces that look neither up nor down on average (the square of the batch's mean pitch).
    steepest: see `reproject`.

    Returns the terms by name: "loss", the sum; "photometric"; "perceptual"; "error", the mean |Î − I|; "seen", the
    share of the picture that the turned surface covers (if it shrinks, the model is collapsing).
    """
    depth, albedo, light, view, sigma, sigma_features, difference = factors
    b = len(images)
    both = render(
        torch.cat([depth, depth.flip(-1) if flip_depth else depth]),
        torch.cat([albedo, albedo.flip(-1) if flip_albedo else albedo]),
        torch.cat([light, light]) if lit else constant(light, 1.0, 0.0, 0.0, 0.0).expand(2 * b, 4),
        torch.cat([view, view]),
        steepest,
    )
    if features is not None:
        with torch.no_grad():
            wanted = features(images)
        found = features(both.image * both.mask[:, None])
        seen = -F.max_pool2d(-both.mask[:, None], 4)[:, 0]
    photometric = perceptual = images.new_zeros(())
    for side, weight in ((0, 1.0), (1, flip_weight)):
        part = slice(side * b, (side + 1) * b)
        spread = sigma[:, side] if confidence else None
        photometric = photometric + weight * laplacian_nll(both.image[part], images, spread, both.mask[part])
        if features is not None:
            spread = sigma_features[:, side] if confidence else None
            perceptual = perceptual + weight * gaussian_nll(found[part], wanted, spread, seen[part])
    loss = photometric + perceptual
    if smoothness or curvature:
        relief = (depth - MIDDLE) / RANGE
        loss = loss + smoothness * smoothness_loss(relief) + curvature * curvature_loss(relief)
    if likeness:
        loss = loss + likeness * difference.square().mean()
    if level:
        loss = loss + level * view[:, 0].mean().square()
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
        "lopsided depth": bool((depth - depth.flip(-1)).abs().mean() > 0.35 * relief),
        "steep depth": bool((centre(rendering.normals)[:, 2] > -0.5).float().mean() > 0.05),
        "everything in albedo": bool(painted or centre(rendering.shading).flatten(1).std(1).mean() < 0.02),
        "view collapse": bool(yaw < 8 or pitch < 4 or rendering.mask.mean() < 0.5),
    }


def centre(maps: Float[Tensor, "... H W"]) -> Float[Tensor, "... H/2 W/2"]:
    """Cut out the middle half of a map, rows and columns."""
    height, width = maps.shape[-2:]
    return maps[..., height // 4 : -(height // 4), width // 4 : -(width // 4)]


def depth_mesh(depth: Float[Tensor, "H W"], texture: Float[Tensor, "3 H W"]) -> Mesh:
    """Convert a canonical depth map to a textured mesh to export: y up, the face looking along +z.

    A rotation by 180 degrees about x takes the camera's frame to this frame; the point (0, 0, 1), about which the
    object turns, becomes the origin.
    """
    height, width = depth.shape
    points = depth_to_points(depth[None])[0].flatten(1).T
    points = (points - constant(points, 0, 0, PIVOT)) * constant(points, 1.0, -1.0, -1.0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    uvs = torch.stack([(columns + 0.5) / width, 1 - (rows + 0.5) / height], -1).view(-1, 2)
    return Mesh(points, grid_faces(height, width, depth.device).clone(), uvs=uvs.to(points), texture=texture)
