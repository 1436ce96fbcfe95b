"""Smooth solids from tapered limbs: an implicit function, its mesh by marching cubes, and projection onto it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.sparse import coo_matrix
from skimage.measure import marching_cubes

# Points evaluated at a time: few enough for the intermediate values to fit into the processor's cache.
CHUNK = 2048


@dataclass(frozen=True)
class Limb:
    """A limb: a chain of balls with a smooth transition from each to the next.

    nodes (N, 3) and radii (N,): the balls. flats (N,): the ratio by which each is squeezed along `axis`
    (3,), a direction; 1 is round. blend: how softly the limb joins the limbs before it. bones (N,): the bone
    that carries each node. hair: True for mane, tail or plume, False for flesh.
    """

    nodes: np.ndarray
    radii: np.ndarray
    flats: np.ndarray
    axis: np.ndarray
    blend: float
    bones: np.ndarray
    hair: bool = False


def refine(limb: Limb, pieces: int = 3) -> Limb:
    """Refine a limb: `pieces` segments instead of each, along a Catmull-Rom spline."""
    count = len(limb.nodes)
    if count < 3:
        return limb
    values = np.column_stack([limb.nodes, limb.radii, limb.flats])
    padded = np.vstack([2 * values[0] - values[1], values, 2 * values[-1] - values[-2]])
    t = (np.arange(pieces) / pieces)[:, None]
    rows = []
    for i in range(count - 1):
        p0, p1, p2, p3 = padded[i : i + 4]
        rows.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
    fine = np.vstack([*rows, values[-1:]])
    bones = np.append(np.repeat(limb.bones[:-1], pieces), limb.bones[-1])
    low = 0.5 * np.minimum(limb.radii.min(), fine[:, 3].max())
    return Limb(
        fine[:, :3], np.maximum(fine[:, 3], low), np.maximum(fine[:, 4], 0.05), limb.axis, limb.blend, bones, limb.hair
    )


def limb_distance(limb: Limb, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance (N,), to first order, from points (N, 3) to a limb, negative inside. Also returns the nearest
    segment (N,), and the place along it (N,), in [0, 1]."""
    parts = [_chunk_distance(limb, points[i : i + CHUNK]) for i in range(0, max(len(points), 1), CHUNK)]
    distance, segment, place = (np.concatenate(values) for values in zip(*parts, strict=True))
    return distance, segment, place


def _chunk_distance(limb: Limb, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = points.astype(np.float32)
    nodes, radii, flats, axis = (part.astype(np.float32) for part in (limb.nodes, limb.radii, limb.flats, limb.axis))
    start, step = nodes[:-1], np.diff(nodes, axis=0)
    length2 = np.maximum((step**2).sum(1), 1e-9)
    ahead = points @ step.T - (start * step).sum(1)
    t = (ahead / length2).clip(0, 1)
    # Compute |offset|² and its part along the squeezed axis without storing the offsets (N, S, 3).
    square = (points**2).sum(1)[:, None] - 2 * points @ start.T + (start**2).sum(1) + t * (t * length2 - 2 * ahead)
    along2 = ((points @ axis)[:, None] - start @ axis - t * (step @ axis)) ** 2
    round2 = np.maximum(square - along2, 0) + 1e-12
    squeeze = 1 / (flats[:-1] + np.diff(flats) * t) ** 2
    norm2 = round2 + along2 * squeeze
    slope = np.sqrt((round2 + along2 * squeeze**2) / norm2)
    distance = (np.sqrt(norm2) - radii[:-1] - np.diff(radii) * t) / slope
    rows, segment = np.arange(len(points)), distance.argmin(1)
    return distance[rows, segment], segment, t[rows, segment]


def _limb_gradient(limb: Limb, points: np.ndarray, segment: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Gradient (N, 3) of `limb_distance`, exact on the surface of limbs of constant flatness."""
    step = np.diff(limb.nodes, axis=0)
    offset = points - limb.nodes[segment] - t[:, None] * step[segment]
    flat = limb.flats[segment] + t * np.diff(limb.flats)[segment]
    along = offset @ limb.axis
    norm = np.sqrt(np.maximum((offset**2).sum(1) - along**2, 0) + (along / flat) ** 2 + 1e-12)
    outward = offset + ((1 / flat**2 - 1) * along)[:, None] * limb.axis
    size = np.linalg.norm(outward, axis=1) + 1e-12
    taper = np.diff(limb.radii) / np.maximum((step**2).sum(1), 1e-9)
    between = (t > 0) & (t < 1)
    return outward / size[:, None] - (between * taper[segment] * norm / size)[:, None] * step[segment]


def smooth_minimum(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Union of two solids, rounded where they meet (the quadratic polynomial smooth minimum)."""
    h = np.maximum(blend - np.abs(a - b), 0) / blend
    return np.minimum(a, b) - 0.25 * blend * h**2


class Solid:
    """The smooth union of limbs, cut off at the plane y = `floor` if it is given."""

    def __init__(self, limbs: list[Limb], floor: float | None = None) -> None:
        self.limbs = [refine(limb) for limb in limbs]
        self.floor = floor

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (N,), to first order near the surface; negative inside."""
        value = np.full(len(points), 1.0, np.float32)
        for limb, near in self._near(points):
            value[near] = smooth_minimum(value[near], limb_distance(limb, points[near])[0], limb.blend)
        return value if self.floor is None else np.maximum(value, self.floor - points[:, 1])

    def differentiate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance (N,) and its gradient (N, 3)."""
        value, gradient = np.full(len(points), 1.0), np.zeros_like(points)
        for limb, near in self._near(points):
            distance, segment, t = limb_distance(limb, points[near])
            share = (0.5 + 0.5 * (value[near] - distance) / limb.blend).clip(0, 1)[:, None]
            slope = _limb_gradient(limb, points[near], segment, t)
            gradient[near] = share * slope + (1 - share) * gradient[near]
            value[near] = smooth_minimum(value[near], distance, limb.blend)
        if self.floor is not None:
            below = self.floor - points[:, 1] > value
            value = np.where(below, self.floor - points[:, 1], value)
            gradient[below] = (0, -1, 0)
        return value, gradient

    def _near(self, points: np.ndarray):
        """Iterate over the limbs, each with the indices of the points that may be near it."""
        first, last = points.min(0), points.max(0)
        for limb in self.limbs:
            low, high = _box(limb)
            if (last > low).all() and (first < high).all():
                inside = [(column > a) & (column < b) for column, a, b in zip(points.T, low, high, strict=True)]
                near = np.flatnonzero(inside[0] & inside[1] & inside[2])
                if len(near):
                    yield limb, near

    def project(self, points: np.ndarray, steps: int = 3, reach: float = 0.02) -> np.ndarray:
        """Move points (N, 3) to the surface by Newton's method, at most `reach` a step."""
        for _ in range(steps):
            value, gradient = self.differentiate(points)
            move = value[:, None] * gradient / np.maximum((gradient**2).sum(1, keepdims=True), 0.1)
            length = np.linalg.norm(move, axis=1, keepdims=True)
            points = points - move * np.minimum(1, reach / np.maximum(length, 1e-12))
        return points

    def owners(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the flesh nearest to each point: its bone (N,), whether it is hair (N,), and its radius (N,), with the
        squeezing."""
        nearest = np.full(len(points), np.inf)
        bone, hair, radius = np.zeros(len(points), int), np.zeros(len(points), bool), np.zeros(len(points))
        for limb in self.limbs:
            distance, segment, _ = limb_distance(limb, points)
            mine = distance < nearest
            nearest[mine], segment = distance[mine], segment[mine]
            bone[mine], hair[mine] = limb.bones[segment], limb.hair
            radius[mine] = (limb.radii * np.sqrt(np.minimum(limb.flats, 1)))[segment]
        return bone, hair, radius

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Two opposite corners (3,) of a box around the solid."""
        reach = [limb.radii[:, None] * np.maximum(limb.flats, 1)[:, None] for limb in self.limbs]
        low = np.min([(limb.nodes - r).min(0) for limb, r in zip(self.limbs, reach, strict=True)], axis=0)
        high = np.max([(limb.nodes + r).max(0) for limb, r in zip(self.limbs, reach, strict=True)], axis=0)
        if self.floor is not None:
            low[1] = max(low[1], self.floor)
        return low - 0.03, high + 0.03

    def cast(self, origins: np.ndarray, directions: np.ndarray, reach: float = 1.0) -> np.ndarray:
        """Find where rays (N, 3) that start inside leave the solid for the first time."""
        directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        t = np.linspace(0, reach, 200)
        samples = origins[:, None] + t[:, None] * directions[:, None]
        values = self(samples.reshape(-1, 3)).reshape(len(origins), -1)
        out = np.argmax(values > 0, axis=1)
        before = np.maximum(out - 1, 0)
        rows = np.arange(len(origins))
        inner, outer = values[rows, before], values[rows, out]
        fraction = np.where(out > 0, -inner / np.maximum(outer - inner, 1e-12), 0)
        return origins + (t[before] + fraction * t[1])[:, None] * directions


def _box(limb: Limb) -> tuple[np.ndarray, np.ndarray]:
    reach = (limb.radii * np.maximum(limb.flats, 1) + limb.blend + 0.08)[:, None]
    return (limb.nodes - reach).min(0), (limb.nodes + reach).max(0)


def symmetric_mesh(solid: Solid, spacing: float, relaxations: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mesh the surface of a solid that is its own mirror image in z = 0, exactly symmetric.

    Marching cubes meshes the half z ≥ 0; a few steps of sliding along the surface make the triangles more even; then
    the half is reflected, and both are joined. Returns verts (V, 3), faces (F, 3), and mirror (V,): for each vertex its
    mirror image.
    """
    low, high = solid.bounds()
    low[2] = 0.0
    axes = [start + spacing * np.arange(int((end - start) / spacing) + 2) for start, end in zip(low, high, strict=True)]
    half, half_faces, _, _ = marching_cubes(_sample(solid, axes, spacing), 0.0)
    half, half_faces = half * spacing + low, half_faces.astype(np.int64)
    middle = half[:, 2] < 1e-6 * spacing
    neighbours, degree = _neighbours(half_faces, middle, len(half))
    for _ in range(relaxations):
        half = half + 0.5 * ((neighbours @ half) / degree[:, None] - half)
        half[middle, 2] = 0.0
        half = solid.project(half, steps=1, reach=0.25 * spacing)
    half = solid.project(half, steps=1, reach=0.25 * spacing)
    half[middle, 2] = 0.0
    return reflect(half, half_faces, middle)


def _sample(solid: Solid, axes: list[np.ndarray], spacing: float, stride: int = 3) -> np.ndarray:
    """Evaluate the solid on a grid: first on a coarser grid, then on the fine one where the surface may pass."""
    coarse = [np.append(axis[::stride], axis[-1] + stride * spacing) for axis in axes]
    shape = tuple(len(axis) for axis in coarse)
    rough = solid(np.stack(np.meshgrid(*coarse, indexing="ij"), axis=-1).reshape(-1, 3)).reshape(shape)
    near = maximum_filter(np.abs(rough) < 0.9 * stride * spacing, size=3)
    for axis, fine in enumerate(axes):
        index = np.arange(len(fine)) // stride
        rough, near = np.take(rough, index, axis), np.take(near, index, axis)
    where = np.nonzero(near)
    values = np.where(rough < 0, -1.0, 1.0)
    values[where] = solid(np.column_stack([axis[index] for axis, index in zip(axes, where, strict=True)]))
    return values


def reflect(half: np.ndarray, half_faces: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join a half mesh with its reflection in z = 0 at the vertices marked in `middle`."""
    count = len(half)
    twin = np.arange(count)
    twin[~middle] = count + np.arange((~middle).sum())
    verts = np.vstack([half, half[~middle] * [1, 1, -1]])
    faces = np.vstack([half_faces, twin[half_faces][:, ::-1]])
    mirror = np.concatenate([twin, np.flatnonzero(~middle)])
    return verts, faces, mirror


def _neighbours(faces: np.ndarray, middle: np.ndarray, count: int):
    """Adjacency of a half mesh; a vertex of the rim has only its neighbours on the rim."""
    rows = faces[:, [0, 1, 2, 1, 2, 0]].ravel()
    columns = faces[:, [1, 2, 0, 0, 1, 2]].ravel()
    keep = ~middle[rows] | middle[columns]
    matrix = coo_matrix((np.ones(keep.sum()), (rows[keep], columns[keep])), shape=(count, count)).tocsr()
    matrix.data[:] = 1.0
    return matrix, np.asarray(matrix.sum(1)).ravel()
