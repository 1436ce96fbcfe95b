"""Cutting polygons into triangles, even if they are not convex."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

FLAT = 1e-9


def triangulate(
    points: Float[np.ndarray, "V 3"], corners: Int[np.ndarray, "C"], sizes: Int[np.ndarray, "P"]
) -> Int[np.ndarray, "F 3"]:
    """Cut polygons into triangles: places in `corners` (F, 3), in the polygons' order.

    corners: the polygons' points, one polygon after the other; `sizes` are their numbers of corners. A strictly convex
    polygon is cut as a fan from its first corner. Any other polygon is cut by removing ears (Meisters, "Polygons have
    ears", 1975), the best shaped one first, seen along the polygon's mean normal (Newell's). A corner that repeats the
    one before it is left out.

    Raises ValueError for a polygon of fewer than three corners, or whose border crosses itself.
    """
    starts = np.cumsum(sizes) - sizes
    if len(sizes) and sizes.min() < 3:
        raise ValueError(f"face {int(sizes.argmin())} has {sizes.min()} corners; give at least three")
    if (sizes == 3).all():
        return np.arange(len(corners)).reshape(-1, 3)
    triangles, owners = [], []
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        places = starts[chosen, None] + np.arange(size)
        if size > 3:
            convex = _strictly_convex(points[corners[places]])
            rest = chosen[~convex]
            for polygon, own in zip(rest, places[~convex], strict=True):
                cut = own[_cut_ears(points[corners[own]], corners[own], polygon)]
                triangles.append(cut)
                owners.append(np.full(len(cut), polygon))
            chosen, places = chosen[convex], places[convex]
        fan = np.stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)], 1)
        triangles.append(places[:, fan].reshape(-1, 3))
        owners.append(np.repeat(chosen, size - 2))
    return np.concatenate(triangles)[np.argsort(np.concatenate(owners), kind="stable")]


def _normals(polygons: Float[np.ndarray, "P N 3"]) -> Float[np.ndarray, "P 3"]:
    """The mean normal of each polygon, as long as twice its area."""
    centered = polygons - polygons[:, :1]
    return np.cross(centered, np.roll(centered, -1, axis=1)).sum(1)


def _strictly_convex(polygons: Float[np.ndarray, "P N 3"]) -> np.ndarray:
    sides = np.roll(polygons, -1, axis=1) - polygons
    turns = np.cross(np.roll(sides, 1, axis=1), sides)
    normal = _normals(polygons)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.where(length > 0, length, 1)
    sines = (turns * unit[:, None]).sum(-1)
    lengths = np.linalg.norm(sides, axis=-1)
    left = (sines > 1e-6 * lengths * np.roll(lengths, 1, axis=1)).all(1)
    # A star also turns left at every corner, but goes around more than once.
    cosines = (np.roll(sides, 1, axis=1) * sides).sum(-1)
    once = np.arctan2(sines, cosines).sum(1) < 3 * np.pi
    return left & once


def _cut_ears(polygon: Float[np.ndarray, "N 3"], names: Int[np.ndarray, "N"], number: int) -> Int[np.ndarray, "F 3"]:
    keep = [i for i in range(len(polygon)) if names[i] != names[i - 1]]
    normal = _normals(polygon[None])[0]
    area = np.linalg.norm(normal)
    extent = np.ptp(polygon, axis=0).max()
    spread = np.linalg.svd(polygon - polygon.mean(0), compute_uv=False)
    if len(keep) < 4 or spread[1] <= 1e-9 * spread[0]:  # the check of the whole mesh will complain about a line
        keep = keep if len(keep) > 2 else list(range(len(polygon)))
        return np.array([[keep[0], a, b] for a, b in pairwise(keep[1:])])
    if area <= 1e-12 * extent**2:
        raise ValueError(f"face {number} is a polygon whose border crosses itself; cut it into triangles first")
    # Two axes of the plane that is seen along the normal.
    axis = np.eye(3)[np.abs(normal).argmin()]
    right = np.cross(axis, normal / area)
    right /= np.linalg.norm(right)
    flat = (polygon - polygon[0]) @ np.stack([right, np.cross(normal / area, right)], 1) / extent
    ears = []
    left = list(keep)
    quality = {i: _ear(flat, left, place) for place, i in enumerate(left)}
    while len(left) > 3:
        best = max(left, key=lambda i: quality[i])
        if quality[best] <= 0:
            break
        place = left.index(best)
        before, after = left[place - 1], left[(place + 1) % len(left)]
        ears.append([before, best, after])
        left.pop(place)
        # Removing a corner may make ears of others that it blocked, and changes the two beside it.
        for i in left:
            if i in (before, after) or quality[i] == 0:
                quality[i] = _ear(flat, left, left.index(i))
    ears.append([left[-1], left[0], left[1]])
    if len(left) > 3 or _shape(flat, ears[-1]) < -FLAT:
        raise ValueError(f"face {number} is a polygon whose border crosses itself; cut it into triangles first")
    return np.array(_without_flat_ones(flat, ears))


def _without_flat_ones(flat: Float[np.ndarray, "N 2"], triangles: list[list[int]]) -> list[list[int]]:
    """Flip edges of triangles without area; three corners on a line may have left one as the last triangle."""
    for _ in range(len(triangles) ** 2):
        opposite = {(t[k - 2], t[k - 1]): (n, t[k]) for n, t in enumerate(triangles) for k in range(3)}
        flips = []
        for (i, j), (first, a) in opposite.items():
            if (j, i) in opposite and _shape(flat, triangles[first]) <= FLAT:
                second, b = opposite[j, i]
                pair = [[i, b, a], [b, j, a]]
                flips.append((min(_shape(flat, triangle) for triangle in pair), first, second, pair))
        best = max(flips, default=(-1.0,))
        if best[0] <= FLAT:
            break
        _, first, second, pair = best
        triangles[first], triangles[second] = pair
    return triangles


def _shape(flat: Float[np.ndarray, "N 2"], triangle: list[int]) -> float:
    """Twice the signed area divided by the longest side squared: 0 for a flat triangle, 0.87 for an equilateral one."""
    a, b, c = flat[triangle]
    longest = max(((a - b) ** 2).sum(), ((b - c) ** 2).sum(), ((c - a) ** 2).sum())
    return float(_cross(a, b, c) / longest) if longest > 0 else 0.0


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of a triangle."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])


def _ear(flat: Float[np.ndarray, "N 2"], left: list[int], place: int) -> float:
    """The shape of the triangle at this corner (see `_shape`); −1 for no ear, 0 if other corners lie in it."""
    triangle = [left[(place + step) % len(left)] for step in (-1, 0, 1)]
    shape = _shape(flat, triangle)
    if shape <= FLAT:
        return -1.0
    a, b, c = flat[triangle]
    others = flat[[i for i in left if not any((flat[i] == corner).all() for corner in (a, b, c))]]
    inside = (_cross(a, b, others) >= 0) & (_cross(b, c, others) >= 0) & (_cross(c, a, others) >= 0)
    return 0.0 if inside.any() else shape
