"""Simple solids with their signed distances, from which objects are put together.

Distances are negative inside. Outside they are exact: the distance to the nearest point of the surface. Inside they are
at most that, in size: where edges are rounded, a corner that points inwards is rounded, too. Sources: Inigo Quilez,
"Distance functions", for boxes; the rest follows from distances to polygons and to segments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Placed:
    """Base of the solids. at (3,): its centre. turn (3, 3): its own axes → the object's axes."""

    at: np.ndarray = field(default_factory=lambda: np.zeros(3), kw_only=True)
    turn: np.ndarray = field(default_factory=lambda: np.eye(3), kw_only=True)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Compute the signed distances (N,) of points (N, 3), in units of the object."""
        dtype = points.dtype
        return self._own((points - self.at.astype(dtype)) @ self.turn.astype(dtype))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return two opposite corners (3,) of a box around the solid."""
        low, high = self._box()
        middle, half = (low + high) / 2, (high - low) / 2
        middle, half = self.turn @ middle + self.at, np.abs(self.turn) @ half
        return middle - half, middle + half

    def moved(self, shift: np.ndarray, scale: float) -> Placed:
        """Return the solid scaled about the origin, then shifted."""
        raise NotImplementedError

    def _own(self, points: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError


@dataclass(frozen=True)
class Box(Placed):
    """A box with half sides `half` (3,), its edges rounded with radius `edge`; the sides include the rounding."""

    half: np.ndarray
    edge: float = 0.0

    def _own(self, points: np.ndarray) -> np.ndarray:
        q = np.abs(points) - (self.half - self.edge).astype(points.dtype)
        outside = np.sqrt((np.maximum(q, 0) ** 2).sum(1))
        return outside + np.minimum(q.max(1), 0) - self.edge

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        return -self.half, self.half

    def moved(self, shift: np.ndarray, scale: float) -> Box:
        return Box(self.half * scale, self.edge * scale, at=self.at * scale + shift, turn=self.turn)


@dataclass(frozen=True)
class Turned(Placed):
    """A polygon (P, 2) of (radius, height), radius ≥ 0, turned about the solid's y axis, then grown by `edge`.

    Edges on the axis are not part of the surface.
    """

    profile: np.ndarray
    edge: float = 0.0

    def _own(self, points: np.ndarray) -> np.ndarray:
        radius = np.sqrt(points[:, 0] ** 2 + points[:, 2] ** 2)
        return polygon_distance(np.column_stack([radius, points[:, 1]]), self.profile, skip_axis=True) - self.edge

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        reach, low, high = self.profile[:, 0].max(), *np.percentile(self.profile[:, 1], [0, 100])
        e = self.edge
        return np.array([-reach - e, low - e, -reach - e]), np.array([reach + e, high + e, reach + e])

    def moved(self, shift: np.ndarray, scale: float) -> Turned:
        return Turned(self.profile * scale, self.edge * scale, at=self.at * scale + shift, turn=self.turn)


@dataclass(frozen=True)
class Extruded(Placed):
    """A polygon (P, 2) of (x, y), from −half to half along the solid's z axis, then grown by `edge` all around."""

    profile: np.ndarray
    half: float
    edge: float = 0.0

    def _own(self, points: np.ndarray) -> np.ndarray:
        flat = polygon_distance(points[:, :2], self.profile)
        along = np.abs(points[:, 2]) - points.dtype.type(self.half)
        outside = np.sqrt(np.maximum(flat, 0) ** 2 + np.maximum(along, 0) ** 2)
        return outside + np.minimum(np.maximum(flat, along), 0) - self.edge

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        low, high, e = self.profile.min(0), self.profile.max(0), self.edge
        return np.array([*(low - e), -self.half - e]), np.array([*(high + e), self.half + e])

    def moved(self, shift: np.ndarray, scale: float) -> Extruded:
        at = self.at * scale + shift
        return Extruded(self.profile * scale, self.half * scale, self.edge * scale, at=at, turn=self.turn)


@dataclass(frozen=True)
class Pipe(Placed):
    """All points within `radius` of a polyline (P, 3): a round bar with round ends and joints."""

    nodes: np.ndarray
    radius: float

    def _own(self, points: np.ndarray) -> np.ndarray:
        nodes = self.nodes.astype(points.dtype)
        square = np.full(len(points), np.inf, points.dtype)
        for start, end in pairwise(nodes):
            step = end - start
            t = ((points - start) @ step / max(float(step @ step), 1e-12)).clip(0, 1)
            offset = points - start - t[:, None] * step
            square = np.minimum(square, (offset**2).sum(1))
        return np.sqrt(square) - points.dtype.type(self.radius)

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        return self.nodes.min(0) - self.radius, self.nodes.max(0) + self.radius

    def moved(self, shift: np.ndarray, scale: float) -> Pipe:
        return Pipe(self.nodes * scale, self.radius * scale, at=self.at * scale + shift, turn=self.turn)


def polygon_distance(points: np.ndarray, corners: np.ndarray, skip_axis: bool = False) -> np.ndarray:
    """Compute the signed distances (N,) of points (N, 2) to a simple polygon (P, 2), negative inside.

    skip_axis: edges with x = 0 at both ends do not count as border, as for a profile that is turned about that axis.
    """
    corners = corners.astype(points.dtype)
    square = np.full(len(points), np.inf, points.dtype)
    inside = np.zeros(len(points), bool)
    x, y = points.T
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        crosses = (ay > y) != (by > y)
        if ey:
            inside ^= crosses & (x < ax + ex * (y - ay) / ey)
        if skip_axis and ax == 0 and bx == 0:
            continue
        t = (((x - ax) * ex + (y - ay) * ey) / max(ex * ex + ey * ey, 1e-12)).clip(0, 1)
        square = np.minimum(square, (x - ax - t * ex) ** 2 + (y - ay - t * ey) ** 2)
    return np.where(inside, -1, 1).astype(points.dtype) * np.sqrt(square)


def inset(corners: np.ndarray, distance: float) -> np.ndarray:
    """Move every edge of a polygon (P, 2) inwards by a distance; its corners run counter-clockwise."""
    edge = np.roll(corners, -1, axis=0) - corners
    normal = np.column_stack([-edge[:, 1], edge[:, 0]]) / np.linalg.norm(edge, axis=1, keepdims=True)
    before = np.roll(normal, 1, axis=0)
    # A corner stays at the crossing of its two moved edges.
    return corners + distance * (before + normal) / (1 + (before * normal).sum(1, keepdims=True))


def cylinder(radius: float, half: float, edge: float = 0.0, top: float | None = None, **place) -> Turned:
    """Make an upright cylinder, or a cone frustum whose upper radius is `top`; sizes include the rounding."""
    top = radius if top is None else top
    low, high = -half + edge, half - edge
    profile = np.array([[0, low], [radius - edge, low], [top - edge, high], [0, high]])
    return Turned(profile, edge, **place)


def ball(radius: float, flat: float = 0.0, **place) -> Placed:
    """Make a ball, or a disc of half height `radius` whose flat part has the radius `flat`."""
    if not flat:
        return Pipe(np.zeros((2, 3)), radius, **place)
    return Turned(np.array([[0, -1e-4], [flat, -1e-4], [flat, 1e-4], [0, 1e-4]]), radius, **place)


def along(direction) -> np.ndarray:
    """Make a rotation (3, 3) that takes the y axis to this direction."""
    y = np.asarray(direction, float) / np.linalg.norm(direction)
    other = np.array([1.0, 0, 0]) if abs(y[0]) < 0.9 else np.array([0, 0, 1.0])
    x = np.cross(y, np.cross(other, y))
    x /= np.linalg.norm(x)
    return np.column_stack([x, y, np.cross(x, y)])
