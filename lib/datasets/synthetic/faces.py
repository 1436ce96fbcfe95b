"""Procedural faces with known depth, normals, albedo, light and view.

A head is a star-shaped implicit surface: in every direction from its centre there is one radius, the radius of an
ellipsoid times (1 + bumps) for nose, brows, sockets, cheeks, lips and chin. A picture is made by marching a ray through
every pixel until it meets that surface. People differ: one has four times another's nose or chin. The relief is exactly
symmetric; the colours are only *probably* so, for many wear a fringe to one side, a birthmark or an eye patch. No mesh,
no depth map and no rasteriser takes part. So a model that fits these pictures with a warped depth map is never tested
on data made by its own methods.

Frames are those of `lib.geometry.turntable`. In the canonical view the face looks at the camera, along −z, and its
mirror plane is x = 0. The view turns it about the point c = (0, 0, 1), then shifts it. A picture is 0.175 units wide
there, a little less than a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.checks import check_tensor
from lib.datasets.cache import cached
from lib.geometry.image_plane import pixel_centers
from lib.geometry.rotations import turns_to_matrix
from lib.geometry.turntable import FOCAL, PIVOT

CENTER = 1.08  # depth of the head's centre in the canonical view; so faces turn about a point just under their skin
NEAR, FAR = 0.9, 1.1  # canonical depths of a face lie between these

SPLITS = ("train", "validation", "test")
VERSION = 5  # of the generator; raise it when the pictures change, so that cached ones are made again
MIN_STEP = 1e-3  # a ray that grazes the nose must not creep for ever
CHUNK = 32
MARCH_STEPS = 26
BACK = -0.3  # a head ends before its ears: a depth map from the front cannot hold what lies behind
BOX = 2.6  # 2 makes the head an ellipsoid, more makes it more like a box: a flatter face with stronger temples

# Bumps on the head: (right, down) on the unit sphere of directions, their widths, and the height in head radii.
# Bumps with right > 0 come in mirrored pairs.
BUMPS = {
    "brow ridge": (0.22, -0.20, 0.17, 0.055, 0.028),
    "eye socket": (0.27, -0.09, 0.12, 0.075, -0.065),
    "eyeball": (0.27, -0.09, 0.075, 0.050, 0.030),
    "nose root": (0.0, -0.06, 0.050, 0.110, 0.055),
    "nose bridge": (0.0, 0.06, 0.060, 0.090, 0.080),
    "nose tip": (0.0, 0.155, 0.065, 0.050, 0.130),
    "nostril wing": (0.075, 0.18, 0.040, 0.035, 0.050),
    "cheekbone": (0.42, 0.08, 0.14, 0.11, 0.035),
    "hollow of the cheek": (0.42, 0.36, 0.12, 0.12, -0.040),
    "upper lip": (0.0, 0.345, 0.13, 0.030, 0.035),
    "lower lip": (0.0, 0.420, 0.11, 0.030, 0.035),
    "below the lip": (0.0, 0.490, 0.12, 0.030, -0.015),
    "chin": (0.0, 0.60, 0.14, 0.090, 0.060),
    "ear": (0.97, 0.02, 0.10, 0.13, 0.070),
}
FEATURES = {  # bumps that grow together in one person, and how large the smallest and the largest are
    "nose": (("nose root", "nose bridge", "nose tip", "nostril wing"), (0.4, 1.6)),
    "brow": (("brow ridge", "eye socket", "eyeball"), (0.4, 1.6)),
    "cheek": (("cheekbone", "hollow of the cheek"), (0.2, 2.0)),
    "lips": (("upper lip", "lower lip", "below the lip"), (0.4, 1.6)),
    "chin": (("chin",), (0.2, 2.0)),
}

# Places of the named points, as directions (right, down) from the head's centre.
KEYPOINTS = {
    "right eye, outer": (-0.35, -0.09), "right eye": (-0.27, -0.09), "right eye, inner": (-0.19, -0.09),
    "left eye, inner": (0.19, -0.09), "left eye": (0.27, -0.09), "left eye, outer": (0.35, -0.09),
    "right brow": (-0.25, -0.21), "left brow": (0.25, -0.21), "nose root": (0.0, -0.10),
    "nose bridge": (0.0, 0.04), "nose tip": (0.0, 0.155), "right nostril": (-0.085, 0.18),
    "left nostril": (0.085, 0.18), "mouth, right": (-0.19, 0.38), "mouth, left": (0.19, 0.38),
    "upper lip": (0.0, 0.345), "lower lip": (0.0, 0.42), "chin": (0.0, 0.60),
    "right cheek": (-0.42, 0.12), "left cheek": (0.42, 0.12), "forehead": (0.0, -0.42),
    "right jaw": (-0.50, 0.45), "left jaw": (0.50, 0.45),
}  # fmt: skip


@dataclass(frozen=True)
class Faces:
    """Pictures of N faces, with their whole truth.

    image (N, 3, H, W) and albedo (N, 3, H, W) in [0, 1]; mask (N, H, W), 1 on the face; depth (N, H, W) along z, FAR
    outside of the face; normals (N, 3, H, W), unit, out of the face, camera frame, 0 outside of the face.
    light (N, 4): ambient, diffuse, and (l_x, l_y) of the direction to the light, (l_x, l_y, −1) normalised, in
    the *face's* frame. view (N, 6): turns about x, y, z in radians, then the shift in units.
    keypoints (N, K, 2) on the image plane [−1, 1]²; keypoint_depth (N, K); keypoint_visible (N, K).
    canonical_depth, canonical_albedo: the same face seen in the canonical view. canonical_marks (N, H, W): 1 where
    something one-sided covers it there, of which its mirror image knows nothing.
    """

    image: Float[Tensor, "N 3 H W"]
    mask: Float[Tensor, "N H W"]
    depth: Float[Tensor, "N H W"]
    normals: Float[Tensor, "N 3 H W"]
    albedo: Float[Tensor, "N 3 H W"]
    light: Float[Tensor, "N 4"]
    view: Float[Tensor, "N 6"]
    keypoints: Float[Tensor, "N K 2"]
    keypoint_depth: Float[Tensor, "N K"]
    keypoint_visible: Bool[Tensor, "N K"]
    canonical_depth: Float[Tensor, "N H W"] | None = None
    canonical_albedo: Float[Tensor, "N 3 H W"] | None = None
    canonical_marks: Float[Tensor, "N H W"] | None = None

    def __len__(self) -> int:
        return len(self.image)


def make_faces(
    count: int,
    *,
    seed: int,
    split: str = "train",
    image_size: int = 32,
    canonical: bool = False,
    max_yaw: float = 50.0,
    symmetric: bool = False,
    cache: bool = True,
) -> Faces:
    """Make `count` random faces: each is another person, in another light, seen from another side.

    seed, split: other seeds and other splits ("train", "validation", "test") give other people.
    canonical: also march the canonical view (twice the time).
    max_yaw: degrees; yaw is uniform up to this on both sides, pitch within 20 and roll within 10 degrees.
    symmetric: the same people without what is one-sided: no fringe, no birthmark, no eye patch.
    cache: keep the faces in data/cache.

    Raises ValueError for an unknown split or a count below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(map(repr, SPLITS))}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")

    def make() -> dict[str, Tensor]:
        chunks = []
        for start in range(0, count, CHUNK):
            generator = torch.Generator().manual_seed((seed * len(SPLITS) + SPLITS.index(split)) * 1_000_003 + start)
            chunks.append(_make_chunk(min(CHUNK, count - start), image_size, canonical, max_yaw, symmetric, generator))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    parameters = dict(version=VERSION, count=count, seed=seed, split=split, size=image_size)
    parameters |= dict(canonical=canonical, max_yaw=max_yaw, symmetric=symmetric)
    return Faces(**(cached("faces", parameters, make) if cache else make()))


def add_patches(
    images: Float[Tensor, "N 3 H W"], *, seed: int, count: int = 3
) -> tuple[Float[Tensor, "N 3 H W"], Float[Tensor, "N H W"]]:
    """Paste translucent coloured rectangles at random places, to break the faces' mirror symmetry.

    Each side of a rectangle is 20 to 50 % of the picture's, its opacity 50 to 100 %, after the perturbation test of
    Wu, Rupprecht and Vedaldi, CVPR 2020. Returns the pictures, and masks of the changed pixels.
    """
    check_tensor("images", images, "N 3 H W")
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = images.shape
    changed = torch.zeros(n, height, width)
    images = images.clone()
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    for _ in range(count):
        size = 0.2 + 0.3 * torch.rand(n, 2, generator=generator)
        corner = torch.rand(n, 2, generator=generator) * (1 - size)
        low, high = corner, corner + size
        inside = (rows >= low[:, :1, None] * height) & (rows < high[:, :1, None] * height)
        inside = inside & (columns >= low[:, 1:, None] * width) & (columns < high[:, 1:, None] * width)
        opacity = (0.5 + 0.5 * torch.rand(n, 1, 1, generator=generator)) * inside
        color = torch.rand(n, 3, 1, 1, generator=generator)
        images = images + opacity[:, None] * (color - images)
        changed = torch.maximum(changed, inside.float())
    return images, changed


def _uniform(generator: torch.Generator, n: int, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(n, *shape, generator=generator)


@dataclass(frozen=True)
class _Heads:
    """The people of one chunk: shape, skin and hair of each, and what is on one side of the face only."""

    axes: Tensor  # (N, 3) half-widths of the ellipsoid
    jaw: Tensor  # (N, 1) how much the face narrows downwards
    bumps: Tensor  # (N, G, 5) as in BUMPS
    skin: Tensor  # (N, 3)
    hair: Tensor  # (N, 3)
    lips: Tensor  # (N, 3)
    iris: Tensor  # (N, 3)
    hairline: Tensor  # (N, 1)
    beard: Tensor  # (N, 1)
    blush: Tensor  # (N, 1)
    mouth_open: Tensor  # (N, 1)
    # One-sided; the signs are +1 for the face's side at x > 0. Amounts are 0 without the thing.
    fringe: Tensor  # (N, 3) sign, how far it hangs down, where it is parted
    birthmark: Tensor  # (N, 6) sign, amount, right, down, and its two widths
    patch: Tensor  # (N, 2) sign and amount of an eye patch

    @staticmethod
    def sample(n: int, generator: torch.Generator) -> _Heads:
        def uniform(low, high, *shape):
            return _uniform(generator, n, low, high, *(shape or (1,)))

        base = torch.tensor(list(BUMPS.values()))
        bumps = base.repeat(n, 1, 1)
        shift = uniform(-0.03, 0.03, len(BUMPS), 2)
        shift[..., 0] *= base[:, 0] > 0
        size = uniform(0.85, 1.15, len(BUMPS))
        for names, (small, large) in FEATURES.values():
            size[:, [list(BUMPS).index(name) for name in names]] *= uniform(small, large)
        bumps[..., :2] += shift * torch.tensor([0.6, 1.0])
        bumps[..., 2:4] *= uniform(0.85, 1.18, len(BUMPS), 2)
        bumps[..., 4] *= size
        pale, dark = torch.tensor([0.95, 0.76, 0.64]), torch.tensor([0.42, 0.26, 0.18])
        tone = uniform(0, 1)
        skin = (pale + tone * (dark - pale)) * uniform(0.92, 1.06, 1)
        black, blond = torch.tensor([0.06, 0.05, 0.05]), torch.tensor([0.72, 0.55, 0.30])
        hair = black + uniform(0, 1) ** 2 * (1 - tone) * (blond - black)
        brown, blue = torch.tensor([0.22, 0.12, 0.06]), torch.tensor([0.30, 0.45, 0.55])

        def sign():
            return uniform(-1, 1).sign()

        def some(share):
            return (uniform(0, 1) < share).float()

        return _Heads(
            axes=torch.tensor([0.082, 0.110, 0.098]) * uniform(0.90, 1.10, 3),
            jaw=uniform(0.0, 0.40),
            bumps=bumps,
            skin=skin.clamp(0, 1),
            hair=hair,
            lips=(skin * torch.tensor([0.92, 0.62, 0.62]) * uniform(0.85, 1.0)).clamp(0, 1),
            iris=brown + uniform(0, 1) ** 2 * (1 - tone) * (blue - brown),
            hairline=uniform(-0.58, -0.52),
            beard=uniform(-1.0, 0.6).clamp(min=0) * 0.7,
            blush=uniform(0.0, 0.18),
            mouth_open=uniform(-0.6, 1.0).clamp(min=0),
            fringe=torch.cat([sign(), some(0.35) * uniform(0.05, 0.15), uniform(-0.35, 0.15)], 1),
            birthmark=torch.cat(
                [
                    sign(),
                    some(0.4) * uniform(0.5, 0.8),
                    uniform(0.25, 0.45),
                    uniform(0.05, 0.40),
                    uniform(0.12, 0.24, 2),
                ],
                1,
            ),
            patch=torch.cat([sign(), some(0.2)], 1),
        )

    def bare(self) -> _Heads:
        """Make the same people without what is on one side only."""
        amount = torch.tensor([1.0, 0, 1, 1, 1, 1])
        return replace(
            self,
            fringe=self.fringe * amount[:3],
            birthmark=self.birthmark * amount,
            patch=self.patch * amount[:2],
        )

    def radius(self, direction: Tensor) -> Tensor:
        """Distance (N, P) from the head's centre to its surface, in unit directions (N, P, 3)."""
        x, y, z = direction.unbind(-1)
        axes = self.axes[:, None]
        width = axes[..., 0] * (1 - self.jaw * torch.nn.functional.softplus(6 * y) / 6)
        radius = sum(
            (part.abs() / axis) ** BOX for part, axis in ((x, width), (y, axes[..., 1]), (z, axes[..., 2]))
        ) ** (-1 / BOX)
        # A bump's exponent, −((|x| − right)/across)²/2 − ((y − down)/along)²/2, is linear in these five monomials.
        right, down, across, along, height = self.bumps.unbind(-1)
        p, q = 0.5 / across**2, 0.5 / along**2
        weights = torch.stack([-p, 2 * p * right, -q, 2 * q * down, -p * right**2 - q * down**2], 1)
        squared = x * x + 1e-4  # |x|, rounded off at 0, so that a mirrored pair of bumps meets without a crease
        monomials = torch.stack([squared, squared.sqrt(), y * y, y, torch.ones_like(y)], -1)
        bumps = ((monomials @ weights).exp() @ height[..., None])[..., 0]
        front = torch.sigmoid(-12 * (z - 0.15))  # the back of the head has no face
        return radius * (1 + front * bumps)

    def color(self, direction: Tensor) -> Tensor:
        """Albedo (N, P, 3), in [0, 1], in unit directions (N, P, 3)."""
        x, y, z = direction.unbind(-1)
        side = x.abs()
        at = {name: self.bumps[:, i] for i, name in enumerate(BUMPS)}

        def spot(name, across, along, dx=0.0, dy=0.0, sharp=1.0):
            place = at[name]
            horizontal = (side if BUMPS[name][0] > 0 else x) - place[:, :1] - dx
            q = (horizontal / across) ** 2 + ((y - place[:, 1:2] - dy) / along) ** 2
            return torch.sigmoid(sharp * 4 * (1 - q))[..., None]

        def paint(color, over, amount):
            over = over if over.dim() == 3 else over[:, None]
            return color + amount * (over - color)

        color = self.skin[:, None].expand(*x.shape, 3)
        color = paint(color, self.lips, self.blush[:, None] * spot("cheekbone", 0.16, 0.12, sharp=0.4))
        jaw = torch.sigmoid(14 * (y - 0.30 + 0.25 * torch.exp(-((side - 0.55) ** 2) / 0.02)))[..., None]
        color = paint(color, self.hair, self.beard[:, None] * jaw)
        color = paint(color, self.lips, spot("upper lip", 0.17, 0.035) * 0.9)
        color = paint(color, self.lips, spot("lower lip", 0.15, 0.040) * 0.9)
        middle = (at["upper lip"][:, 1:2] + at["lower lip"][:, 1:2]) / 2
        opening = 0.008 + 0.022 * self.mouth_open
        mouth = torch.sigmoid(4 * (1 - (x / 0.14) ** 2 - ((y - middle) / opening) ** 2))[..., None]
        color = paint(color, torch.tensor([[0.16, 0.04, 0.04]]), mouth * 0.85)
        color = paint(
            color, torch.tensor([[0.10, 0.05, 0.04]]), spot("nostril wing", 0.022, 0.016, -0.030, 0.035) * 0.7
        )
        sign, amount, right, down, across, along = (column[:, None] for column in self.birthmark.unbind(-1))
        q = ((sign * x - right) / across) ** 2 + ((y - down) / along) ** 2
        stain = (amount * torch.sigmoid(5 * (1 - q)))[..., None]
        color = paint(color, self.skin * torch.tensor([0.62, 0.34, 0.36]), stain)
        color = paint(color, self.hair, spot("brow ridge", 0.13, 0.028, 0.03, -0.01) * 0.85)
        eye = spot("eye socket", 0.115, 0.052, sharp=1.5)
        color = paint(color, torch.tensor([[0.10, 0.06, 0.05]]), spot("eye socket", 0.130, 0.066) * 0.7)
        color = paint(color, torch.tensor([[0.93, 0.92, 0.90]]), eye)
        color = paint(color, self.iris, eye * spot("eye socket", 0.055, 0.055, sharp=2))
        color = paint(color, torch.tensor([[0.02, 0.02, 0.02]]), eye * spot("eye socket", 0.024, 0.026, sharp=2))
        sign, amount = (column[:, None] for column in self.patch.unbind(-1))
        right, down = at["eye socket"][:, :1], at["eye socket"][:, 1:2]
        q = ((sign * x - right) / 0.17) ** 2 + ((y - down) / 0.115) ** 2
        strap = torch.sigmoid(80 * (0.024 - (y - down - 0.5 * (sign * x - right)).abs()))
        worn = (amount * torch.maximum(torch.sigmoid(6 * (1 - q)), strap))[..., None]
        color = paint(color, torch.tensor([[0.05, 0.05, 0.07]]), worn)
        sign, amount, parting = (column[:, None] for column in self.fringe.unbind(-1))
        crown = self.hairline + 0.9 * (side - 0.25).clamp(min=0) ** 2
        crown = crown + amount * torch.sigmoid(14 * (sign * x - parting))
        back = torch.sigmoid(30 * (z + 0.22)) * torch.sigmoid(30 * (0.12 - y))
        hair = torch.maximum(torch.sigmoid(45 * (crown - y)), back)[..., None]
        ears = spot("ear", 0.16, 0.10)
        return paint(color, self.hair, hair * (1 - ears)).clamp(0, 1)


def _march(heads: _Heads, rotation: Tensor, shift: Tensor, plane: Tensor):
    """Walk along the rays through image-plane points (P, 2) to the heads.

    Returns the depth (N, P), whether the ray met the head (N, P), the direction of that place from the head's centre
    (N, P, 3), and the normal there in the camera frame (N, P, 3).
    """
    ray = torch.cat([plane / FOCAL, torch.ones(len(plane), 1)], -1)
    pivot, center = torch.tensor([0, 0, PIVOT]), torch.tensor([0, 0, CENTER])
    # A point z·ray of the camera frame is z·step + origin from the head's centre, in the head's frame.
    step = ray @ rotation
    origin = ((-pivot - shift)[:, None] @ rotation) + pivot - center

    def distance(z):
        """Distance to the surface along the radius; positive outside."""
        offset = z[..., None] * step + origin
        length = offset.norm(dim=-1)
        direction = offset / length[..., None]
        return length - heads.radius(direction), direction

    near = PIVOT + shift[:, 2:] - 0.14
    z = near.expand(-1, len(plane)).clone()
    for _ in range(MARCH_STEPS):
        gap, _ = distance(z)
        z = torch.minimum(z + torch.where(gap > 0, (0.65 * gap).clamp(min=MIN_STEP), gap), near + 0.32)
    for _ in range(4):  # Newton's method along the ray, for the last digits
        gap, _ = distance(z)
        slope = (distance(z + 1e-4)[0] - gap) / 1e-4
        z = torch.where(slope < -0.05, z - (gap / slope.clamp(max=-0.05)).clamp(-2e-3, 2e-3), z)
    gap, direction = distance(z)
    with torch.enable_grad():
        offset = (z[..., None] * step + origin).requires_grad_()
        length = offset.norm(dim=-1)
        (length - heads.radius(offset / length[..., None])).sum().backward()
    normal = torch.nn.functional.normalize(offset.grad, dim=-1) @ rotation.mT
    met = (gap.abs() < 5e-4) & (normal[..., 2] < 0)
    return z, met & (direction[..., 2] < BACK), direction, normal


def _background(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth coloured clutter, (N, 3, H, W)."""
    total = torch.zeros(n, 3, size, size)
    for cells, weight in ((2, 0.5), (4, 0.3), (8, 0.2)):
        noise = torch.rand(n, 3, cells, cells, generator=generator)
        total += weight * torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")
    grey = total.mean(1, keepdim=True)
    return (grey + 0.5 * (total - grey)).clamp(0, 1)


@torch.no_grad()
def _make_chunk(
    n: int, size: int, canonical: bool, max_yaw: float, symmetric: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    heads = _Heads.sample(n, generator)
    if symmetric:
        heads = heads.bare()
    turns = _uniform(generator, n, -1, 1, 3) * torch.deg2rad(torch.tensor([20.0, max_yaw, 10.0]))
    shift = _uniform(generator, n, -1, 1, 3) * torch.tensor([0.004, 0.004, 0.0])
    ambient = _uniform(generator, n, 0.15, 0.45, 1)
    diffuse = _uniform(generator, n, 0.6, 1.0, 1) * (1 - ambient)
    light = torch.cat(
        [ambient, diffuse, _uniform(generator, n, -0.6, 0.6, 1), _uniform(generator, n, -0.54, 0.24, 1)], -1
    )
    rotation = turns_to_matrix(turns)

    plane = pixel_centers(size, size).view(-1, 2)
    depth, met, direction, normal = _march(heads, rotation, shift, plane)
    albedo = heads.color(direction)
    towards_light = torch.cat([light[:, 2:], -torch.ones(n, 1)], -1)
    towards_light = (rotation @ torch.nn.functional.normalize(towards_light, dim=-1)[..., None])[:, None, :, 0]
    shading = ambient + diffuse * (normal * towards_light).sum(-1).clamp(min=0)

    def picture(values):
        return values.view(n, size, size, -1).permute(0, 3, 1, 2)

    mask = met.view(n, 1, size, size).float()
    image = mask * picture(albedo * shading[..., None]) + (1 - mask) * _background(n, size, generator)
    fields = dict(
        image=image,
        mask=mask[:, 0],
        depth=torch.where(met, depth, FAR).view(n, size, size),
        normals=mask * picture(normal),
        albedo=mask * picture(albedo),
        light=light,
        view=torch.cat([turns, shift], -1),
    )

    # Carry the named points to the camera frame; a point is seen if the ray through it meets the face there.
    across, down = torch.tensor(list(KEYPOINTS.values())).unbind(-1)
    named = torch.stack([across, down, -(1 - across**2 - down**2).sqrt()], -1).repeat(n, 1, 1)
    pivot, center = torch.tensor([0, 0, PIVOT]), torch.tensor([0, 0, CENTER])
    points = named * heads.radius(named)[..., None] + center
    points = (points - pivot) @ rotation.mT + pivot + shift[:, None]
    projected = FOCAL * points[..., :2] / points[..., 2:]
    surface = torch.nn.functional.grid_sample(
        fields["depth"][:, None], projected[:, None], padding_mode="border", align_corners=False
    )
    fields |= dict(
        keypoints=projected,
        keypoint_depth=points[..., 2],
        keypoint_visible=(surface[:, 0, 0] - points[..., 2] > -0.006) & (projected.abs() < 1).all(-1),
    )
    if canonical:
        depth, met, direction, _ = _march(heads, torch.eye(3).repeat(n, 1, 1), torch.zeros(n, 3), plane)
        fields["canonical_depth"] = torch.where(met, depth, FAR).view(n, size, size)
        color = heads.color(direction)
        covered = (color - heads.bare().color(direction)).abs().mean(-1) > 0.05
        fields["canonical_albedo"] = met.view(n, 1, size, size) * picture(color)
        fields["canonical_marks"] = (met & covered).view(n, size, size).float()
    return fields
