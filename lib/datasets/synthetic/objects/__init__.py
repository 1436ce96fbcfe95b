"""Procedural cars, planes, chairs, tables, lamps and mugs with all their truth.

Every object is a union of simple solids. From this one description follow its signed distance, occupancy, voxels, mesh,
point cloud, part labels, number of holes, keypoints and pictures, and they all agree.

Object frame: y up, the object looks along +x, its right is +z. Its bounding box is centred at the origin, and the
longest side of the box is 1. Splits share no combination of styles (`families.combinations`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import rendering
from lib.checks import check_tensor, number, whole_number
from lib.datasets.cache import cached
from lib.datasets.synthetic.objects import families
from lib.datasets.synthetic.objects.families import FAMILIES, KEYPOINTS, PARTS, Description
from lib.geometry.cameras import Pinhole
from lib.geometry.mesh import Mesh, vertex_normals
from lib.geometry.pointsets import sample_surface
from lib.geometry.rotations import rotation_angle, view_rotation

__all__ = ["FAMILIES", "KEYPOINTS", "PARTS", "SPLITS", "Shape", "View"]
__all__ += ["look_at", "make_objects", "make_views", "pair_views", "render"]

# Raise this version whenever the same arguments give other data.
VERSION = 1
SPLITS = ("train", "validation", "test", "style")
# Half of the field of view of the default camera, and its distance: an object of size 1 just fits.
HALF_VIEW, DISTANCE = math.radians(15), 2.7


@dataclass(frozen=True)
class Shape:
    """An object of one of the families. family and style: what it is; the rest is computed from its description."""

    description: Description

    @property
    def family(self) -> str:
        return self.description.family

    @property
    def style(self) -> tuple[str, ...]:
        return self.description.style

    @property
    def genus(self) -> int:
        """The number of its holes; its surface has the Euler number 2 − 2 · genus."""
        return self.description.genus

    @property
    def keypoints(self) -> Float[Tensor, "K 3"]:
        """Its keypoints, in the order of `KEYPOINTS[family]`."""
        return torch.tensor(np.array(list(self.description.keypoints.values())), dtype=torch.float32)

    def signed_distance(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Compute the distance to the surface, negative inside: exact outside; inside never larger in size than it is.

        (It is the least of the parts' distances. Inside, the nearest surface of a part may lie within another part.)
        """
        check_tensor("points", points, "N 3")
        values = self._distances(points.detach().cpu().numpy()).min(0)
        return torch.from_numpy(values).to(points)

    def occupancy(self, points: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
        """Tell which points lie inside."""
        return self.signed_distance(points) < 0

    def labels(self, points: Float[Tensor, "N 3"]) -> Int[Tensor, "N"]:
        """Name the part that is nearest to each point, as an index into `PARTS[family]`."""
        check_tensor("points", points, "N 3")
        owners = torch.from_numpy(self._distances(points.detach().cpu().numpy()).argmin(0))
        names = [PARTS[self.family].index(part.name) for part in self.description.parts]
        return torch.tensor(names)[owners].to(points.device)

    def voxels(self, resolution: int) -> Bool[Tensor, "R R R"]:
        """Tell for the cells of a grid over [−½, ½]³ whether their centres lie inside; axes x, y, z."""
        resolution = whole_number("resolution", resolution)
        axis = ((np.arange(resolution) + 0.5) / resolution - 0.5).astype(np.float32)
        return torch.from_numpy(self._grid([axis] * 3, reach=0.0) < 0)

    def mesh(self, resolution: int = 64) -> Mesh:
        """Mesh the surface by marching cubes, closed, with a colour for each vertex.

        resolution: cells along the longest side. Sharp edges are cut off by up to a cell; a gap or a bar thinner than
        a cell may be lost: from 64 on none is.
        """
        from skimage.measure import marching_cubes

        step = 1 / whole_number("resolution", resolution, 8)
        ends = np.array([part.solid.bounds() for part in self.description.parts])
        # Flat faces shall not lie on the planes of the grid.
        low, high = ends[:, 0].min(0) - 1.37 * step, ends[:, 1].max(0) + 1.5 * step
        axes = [np.arange(a, b + step, step).astype(np.float32) for a, b in zip(low, high, strict=True)]
        verts, faces, _, _ = marching_cubes(self._grid(axes, reach=2 * step), 0.0)
        verts = torch.from_numpy(verts * step + np.array([axis[0] for axis in axes])).float()
        faces = torch.from_numpy(faces.astype(np.int64))
        owners = torch.from_numpy(self._distances(verts.numpy()).argmin(0))
        palette = torch.tensor(np.array([part.color for part in self.description.parts]), dtype=torch.float32)
        return Mesh(verts, faces, colors=palette[owners])

    def sample(self, count: int, generator: torch.Generator | None = None, resolution: int = 64) -> Cloud:
        """Draw points evenly from the surface of the mesh, with normals and part labels."""
        made = self.mesh(resolution)
        points, normals = sample_surface(made.verts, made.faces, count, generator, return_normals=True)
        return Cloud(points, normals, self.labels(points))

    def _distances(self, points: np.ndarray) -> np.ndarray:
        """The distances (parts, N) to each part on its own."""
        return np.stack([part.solid.distance(points) for part in self.description.parts])

    def _grid(self, axes: list[np.ndarray], reach: float) -> np.ndarray:
        """The signed distance on a grid, where it is less than `reach`; elsewhere a larger number."""
        spacing = axes[0][1] - axes[0][0] if len(axes[0]) > 1 else 1.0
        values = np.full([len(axis) for axis in axes], reach + spacing, np.float32)
        for part in self.description.parts:
            low, high = part.solid.bounds()
            near = tuple(
                slice(*np.searchsorted(axis, [a - reach, b + reach]))
                for axis, a, b in zip(axes, low, high, strict=True)
            )
            block = values[near]
            if block.size:
                places = [axis[part_of] for axis, part_of in zip(axes, near, strict=True)]
                points = np.stack(np.meshgrid(*places, indexing="ij"), -1)
                distance = part.solid.distance(points.reshape(-1, 3)).reshape(block.shape)
                np.minimum(block, distance, out=block)
        # A value of exactly zero would make triangles of zero area.
        return np.where(np.abs(values) < 1e-3 * spacing, np.copysign(1e-3 * spacing, values), values)


@dataclass(frozen=True)
class Cloud:
    """Points of a surface: points (N, 3), normals (N, 3), outward, and labels (N,), indices into `PARTS[family]`."""

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    labels: Int[Tensor, "N"]


@dataclass(frozen=True)
class View:
    """N pictures of objects, with their truth.

    image (N, 3, H, W), white behind the object; mask (N, H, W), 0 or 1; depth (N, H, W), z in the camera's frame,
    infinite on the background; normals (N, 3, H, W), in the camera's frame, 0 on the background; camera: N pinholes;
    keypoints (N, K, 3): image-plane x, y and depth of the keypoints, whether seen or hidden; which (N,): the object.
    """

    image: Float[Tensor, "N 3 H W"]
    mask: Float[Tensor, "N H W"]
    depth: Float[Tensor, "N H W"]
    normals: Float[Tensor, "N 3 H W"]
    camera: Pinhole
    keypoints: Float[Tensor, "N K 3"]
    which: Int[Tensor, "N"]

    def batch(self) -> dict[str, Tensor]:
        """Return what a learner sees, by the names of `datasets.KEYS`, and the keypoints for supervised rivals."""
        seen = {"image": self.image, "mask": self.mask, "focal": self.camera.focal}
        seen |= {"rotation": self.camera.rotation, "translation": self.camera.translation}
        return seen | {"keypoints": self.keypoints[..., :2], "keypoint_depth": self.keypoints[..., 2]}


def pair_views(
    views: View, widest: float = 180.0, *, nearest: float = 0.0, count: int | None = None, seed: int = 0
) -> Int[Tensor, "P 2"]:
    """Pair pictures of the same object whose cameras differ by an angle between `nearest` and `widest`, in degrees.

    Every such pair is in the list once, in random order; count: at most so many.

    Raises ValueError if there is no such pair.
    """
    nearest, widest = number("nearest", nearest), number("widest", widest)
    if not 0 <= nearest < widest:
        raise ValueError(f"nearest must be from 0 to below widest, got {nearest} and {widest}")
    generator = torch.Generator().manual_seed(whole_number("seed", seed, 0))
    found = []
    for start in range(0, len(views.which), 1024):
        same = views.which[start : start + 1024, None] == views.which
        first, second = same.nonzero().unbind(1)
        first = first + start
        first, second = first[first < second], second[first < second]
        angle = torch.rad2deg(rotation_angle(views.camera.rotation[first], views.camera.rotation[second]))
        near = (angle >= nearest) & (angle <= widest)
        found.append(torch.stack([first, second], 1)[near])
    pairs = torch.cat(found)
    if not len(pairs):
        raise ValueError(f"no two views of an object are {nearest}° to {widest}° apart; draw more views of each")
    pairs = pairs[torch.randperm(len(pairs), generator=generator)[:count]]
    swapped = torch.rand(len(pairs), generator=generator) < 0.5
    return torch.where(swapped[:, None], pairs.flip(1), pairs)


def make_objects(family: str, count: int, *, seed: int, split: str = "train") -> list[Shape]:
    """Make `count` objects of a family: styles of the split in turn, each with proportions and colours of its own.

    The first n objects of a longer list are the list of n.

    Raises ValueError for an unknown family or split, or a count or seed out of range.
    """
    _check(family, split)
    whole_number("count", count), whole_number("seed", seed, 0)
    return [_make(family, i, seed, split) for i in range(count)]


@functools.lru_cache(maxsize=4096)
def _make(family: str, index: int, seed: int, split: str) -> Shape:
    styles = families.combinations(family, split)
    order = np.random.default_rng((seed, FAMILIES.index(family), SPLITS.index(split), 1)).permutation(len(styles))
    rng = np.random.default_rng((seed, FAMILIES.index(family), SPLITS.index(split), 0, index))
    return Shape(families.describe(family, styles[order[index % len(styles)]], rng))


def look_at(
    azimuth: Float[Tensor, "N"], elevation: Float[Tensor, "N"], distance: float = DISTANCE, half_view: float = HALF_VIEW
) -> Pinhole:
    """Make pinholes that look at the origin from a distance; angles in radians, see `rotations.view_rotation`.

    half_view: half of the field of view; the focal length is 1 / tan(half_view).
    """
    if not number("distance", distance) > 0:
        raise ValueError(f"distance must be above 0, got {distance}")
    if not 0 < number("half_view", half_view) < math.pi / 2:
        raise ValueError(f"half_view must be between 0 and π / 2 radians, got {half_view}")
    rotation = view_rotation(azimuth, elevation)
    translation = rotation.new_tensor([0, 0, distance]).expand(len(rotation), 3)
    return Pinhole(rotation.new_full((len(rotation),), 1 / math.tan(half_view)), rotation, translation)


def render(shape: Shape | Mesh, camera: Pinhole, image_size: int, *, resolution: int = 64) -> dict[str, Tensor]:
    """Draw an object under several cameras, with light from above left behind the camera.

    shape: an object, or a mesh with colours. Returns image, mask, depth and normals as `View` has them, for each
    camera; resolution: of an object's mesh.
    """
    made = shape if isinstance(shape, Mesh) else shape.mesh(resolution)
    if made.colors is None:
        raise ValueError("shape is a mesh without colors; give it some, one for each vertex")
    seen = camera.project(made.verts[None])
    fragments = rendering.rasterize(seen, made.faces, image_size, perspective=True)
    turned = vertex_normals(made.verts, made.faces) @ camera.rotation.mT
    normals = rendering.interpolate(turned, made.faces, fragments)
    normals = torch.nn.functional.normalize(normals, dim=1) * fragments.mask[:, None]
    colors = made.colors.expand(len(seen), -1, -1)
    image = rendering.shade(seen, made.faces, colors, image_size, normals=turned, perspective=True)
    return {"image": image, "mask": fragments.mask.float(), "depth": fragments.depth, "normals": normals}


def make_views(
    family: str,
    count: int,
    *,
    seed: int,
    views: int = 1,
    image_size: int = 64,
    split: str = "train",
    elevations: tuple[float, float] = (5.0, 45.0),
    resolution: int = 48,
) -> View:
    """Draw `views` pictures of each of `count` objects, from random sides; later they are read from the cache.

    elevations: least and greatest elevation of the camera in degrees. resolution: of the meshes; with less
    than 64 a thin bar may be missing in the picture.

    Raises ValueError as `make_objects` does, and for numbers out of range.
    """
    _check(family, split)
    count, views, seed = whole_number("count", count), whole_number("views", views), whole_number("seed", seed, 0)
    image_size = whole_number("image_size", image_size, 8)
    low, high = (number("elevations", angle) for angle in elevations)
    if not -90 <= low <= high <= 90:
        raise ValueError(f"elevations must be two rising angles of −90° … 90°, got {elevations}")

    def make() -> dict[str, Tensor]:
        parts = []
        for i, shape in enumerate(make_objects(family, count, seed=seed, split=split)):
            rng = np.random.default_rng((seed, FAMILIES.index(family), SPLITS.index(split), 2, i))
            azimuth = torch.from_numpy(rng.uniform(-np.pi, np.pi, views)).float()
            elevation = torch.from_numpy(np.deg2rad(rng.uniform(low, high, views))).float()
            camera = look_at(azimuth, elevation)
            drawn = render(shape, camera, image_size, resolution=resolution)
            drawn["image"] = (255 * drawn["image"]).round().byte()
            drawn["normals"] = (127 * drawn["normals"]).round().to(torch.int8)
            drawn |= {"rotation": camera.rotation, "keypoints": camera.project(shape.keypoints[None])}
            parts.append(drawn)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    parameters = {"version": VERSION, "count": count, "views": views, "seed": seed, "image_size": image_size}
    parameters |= {"split": split, "elevations": [low, high], "resolution": resolution}
    packed = cached(f"objects-{family}", parameters, make)
    rotation = packed["rotation"]
    camera = Pinhole(
        torch.full((len(rotation),), 1 / math.tan(HALF_VIEW)),
        rotation,
        torch.tensor([0, 0, DISTANCE]).expand(len(rotation), 3),
    )
    return View(
        image=packed["image"].float() / 255,
        mask=packed["mask"],
        depth=packed["depth"],
        normals=packed["normals"].float() / 127,
        camera=camera,
        keypoints=packed["keypoints"],
        which=torch.arange(count).repeat_interleave(views),
    )


def _check(family: str, split: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is unknown; use one of {', '.join(map(repr, FAMILIES))}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(map(repr, SPLITS))}")
