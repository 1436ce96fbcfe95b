"""The making of the templates: few, well-shaped triangles on half a body, mirrored, and mapped onto the sphere.

`python -m lib.datasets.synthetic.creatures.templates` makes `templates.npz` again (a minute). Rounding decides which of
two equally short edges is collapsed first, so another machine gives other triangles of the same quality: keep the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from lib.datasets.synthetic.creatures.anatomy import BODIES, ORIGIN, Body
from lib.datasets.synthetic.creatures.motion import neutral_pose
from lib.datasets.synthetic.creatures.skinning import Build, posed_body
from lib.datasets.synthetic.solids import Limb, Solid, reflect, symmetric_mesh
from lib.files import write_atomically


class HalfMesh:
    """A triangle mesh with a rim, edited in place by collapsing, splitting and flipping edges."""

    def __init__(self, verts: np.ndarray, faces: np.ndarray, rim: np.ndarray) -> None:
        self.points = [point.copy() for point in verts]
        self.rim = [bool(flag) for flag in rim]
        self.faces: dict[int, tuple[int, int, int]] = {}
        self.around: list[set[int]] = [set() for _ in verts]
        self.fixed: set[int] = set()
        self.next_face = 0
        for face in faces.tolist():
            self.add(*face)

    def add(self, a: int, b: int, c: int) -> None:
        self.faces[self.next_face] = (a, b, c)
        for vertex in (a, b, c):
            self.around[vertex].add(self.next_face)
        self.next_face += 1

    def remove(self, face: int) -> None:
        for vertex in self.faces.pop(face):
            self.around[vertex].discard(face)

    def neighbours(self, vertex: int) -> set[int]:
        return {other for face in self.around[vertex] for other in self.faces[face]} - {vertex}

    def edges(self) -> list[tuple[int, int]]:
        found = {
            (min(a, b), max(a, b)) for f in self.faces.values() for a, b in ((f[0], f[1]), (f[1], f[2]), (f[2], f[0]))
        }
        return sorted(found)

    def shared(self, a: int, b: int) -> set[int]:
        return self.around[a] & self.around[b]

    def length(self, a: int, b: int) -> float:
        return float(np.linalg.norm(self.points[a] - self.points[b]))

    def normal(self, corners) -> np.ndarray:
        a, b, c = (self.points[corner] for corner in corners)
        cross = np.cross(b - a, c - a)
        return cross / max(np.linalg.norm(cross), 1e-12)

    def alive(self) -> list[int]:
        return [vertex for vertex, faces in enumerate(self.around) if faces]

    def size(self) -> int:
        """Number of vertices of the whole mesh, with the reflected half."""
        return sum(1 if self.rim[vertex] else 2 for vertex in self.alive())

    def split(self, a: int, b: int) -> int:
        """Put a vertex in the middle of an edge."""
        middle = len(self.points)
        wings = self.shared(a, b)
        self.points.append((self.points[a] + self.points[b]) / 2)
        self.rim.append(len(wings) == 1)
        self.around.append(set())
        for face in wings:
            corners = self.faces[face]
            self.remove(face)
            for old in (a, b):
                self.add(*(middle if corner == old else corner for corner in corners))
        return middle

    def collapse(self, a: int, b: int, longest: float = np.inf) -> bool:
        """Merge b into a, unless that breaks the surface, folds it, or makes an edge above `longest`."""
        wings = self.shared(a, b)
        if self.rim[b] > self.rim[a] or (self.rim[a] == self.rim[b] and b in self.fixed):
            a, b = b, a
        if b in self.fixed or (self.rim[a] and self.rim[b] and len(wings) == 2):
            return False
        if len(self.neighbours(a) & self.neighbours(b)) != len(wings):
            return False
        place = self.points[a]
        ring = (self.neighbours(a) | self.neighbours(b)) - {a, b}
        if any(np.linalg.norm(self.points[other] - place) > longest for other in ring):
            return False
        # No new edge may join two rim vertices across the surface: its reflection would be the same edge.
        if self.rim[a] and any(
            self.rim[o] and o not in self.neighbours(a) and not self._on_rim(b, o) for o in self.neighbours(b) - {a}
        ):
            return False
        changed = (self.around[a] | self.around[b]) - wings
        before = {face: self.normal(self.faces[face]) for face in changed}
        old = self.points[b]
        self.points[b] = place
        after = {face: self.normal(self.faces[face]) for face in changed}
        if any(before[face] @ after[face] < 0.5 for face in changed):
            self.points[b] = old
            return False
        for face in wings:
            self.remove(face)
        for face in list(self.around[b]):
            corners = self.faces[face]
            self.remove(face)
            self.add(*(a if corner == b else corner for corner in corners))
        return True

    def _on_rim(self, a: int, b: int) -> bool:
        return len(self.shared(a, b)) == 1

    def flip(self, a: int, b: int) -> bool:
        """Turn the edge ab into the other diagonal cd of its two triangles, if that is Delaunay and folds nothing."""
        wings = self.shared(a, b)
        if len(wings) != 2:
            return False
        first = next(face for face in wings if (a, b) in _directed(self.faces[face]))
        (second,) = wings - {first}
        c = next(corner for corner in self.faces[first] if corner not in (a, b))
        d = next(corner for corner in self.faces[second] if corner not in (a, b))
        if self.shared(c, d) or (self.rim[c] and self.rim[d]) or not self.delaunay(a, b, c, d):
            return False
        old = self.normal(self.faces[first]) + self.normal(self.faces[second])
        new = [(a, d, c), (d, b, c)]
        if any(self.normal(corners) @ old < 0.4 * np.linalg.norm(old) for corners in new):
            return False
        self.remove(first)
        self.remove(second)
        for corners in new:
            self.add(*corners)
        return True

    def delaunay(self, a: int, b: int, c: int, d: int) -> bool:
        """Tell whether the diagonal cd is better than ab: the angles at c and d sum to more than π."""

        def cosine(apex: int, left: int, right: int) -> float:
            u, v = self.points[left] - self.points[apex], self.points[right] - self.points[apex]
            return u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-12)

        return cosine(c, a, b) + cosine(d, a, b) < -0.02

    def relax(self, solid: Solid, size: Callable[[np.ndarray], np.ndarray]) -> None:
        """Flip to Delaunay edges, then slide each vertex along the surface, pulled most by its longest edges."""
        for a, b in self.edges():
            if self.shared(a, b):
                self.flip(a, b)
        alive = self.alive()
        points = np.array(self.points)
        target = size(points)
        _, gradient = solid.differentiate(points)
        normals = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
        moved = []
        for vertex in alive:
            ring = sorted(self.neighbours(vertex))
            if vertex in self.fixed:
                ring = []
            elif self.rim[vertex]:
                ring = [other for other in ring if self.rim[other] and len(self.shared(vertex, other)) == 1]
            steps = points[ring] - points[vertex]
            pull = (np.linalg.norm(steps, axis=1) / (target[ring] + target[vertex])) ** 2
            step = (pull[:, None] * steps).sum(0) / max(pull.sum(), 1e-12)
            moved.append(points[vertex] + 0.4 * (step - (step @ normals[vertex]) * normals[vertex]))
        moved = solid.project(np.array(moved), steps=2, reach=0.03)
        for vertex, point in zip(alive, moved, strict=True):
            if vertex not in self.fixed:
                self.points[vertex] = point * [1, 1, 0] if self.rim[vertex] else point

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        alive = self.alive()
        index = {vertex: i for i, vertex in enumerate(alive)}
        faces = np.array([[index[vertex] for vertex in self.faces[face]] for face in sorted(self.faces)])
        return np.array([self.points[v] for v in alive]), faces, np.array([self.rim[v] for v in alive])


def _directed(face):
    return ((face[0], face[1]), (face[1], face[2]), (face[2], face[0]))


def remesh(
    solid: Solid, count: int, size: Callable[[np.ndarray], np.ndarray], anchors: np.ndarray, rounds: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a symmetric mesh of a solid with exactly `count` vertices and edges about proportional to `size(points)`.

    Isotropic remeshing (Botsch and Kobbelt 2004) of the half z ≥ 0: split long edges, collapse short ones, flip,
    relax along the surface; adapt the scale of the sizes until the count is right. The vertices nearest to
    `anchors` (A, 3), the tips of ears, feet and tail, stay; otherwise thin limbs would become shorter and shorter.

    Returns half verts (H, 3), faces (F, 3) and which vertices lie on the rim z = 0, (H,).
    """
    verts, faces, mirror = symmetric_mesh(solid, 0.02)
    keep = np.flatnonzero(verts[:, 2] >= 0)
    index = np.full(len(verts), -1)
    index[keep] = np.arange(len(keep))
    half_faces = index[faces]
    mesh = HalfMesh(verts[keep], half_faces[(half_faces >= 0).all(1)], (mirror == np.arange(len(verts)))[keep])
    mesh.fixed = {int(np.linalg.norm(verts[keep] - anchor, axis=1).argmin()) for anchor in anchors}

    scale = 1.0
    for step in range(rounds):
        target = list(scale * size(np.array(mesh.points)))
        for a, b in mesh.edges():
            wanted = (target[a] + target[b]) / 2
            if mesh.length(a, b) > 4 / 3 * wanted:
                mesh.split(a, b)
                target.append(wanted)
        for a, b in sorted(mesh.edges(), key=lambda edge: mesh.length(*edge)):
            wanted = (target[a] + target[b]) / 2
            if mesh.shared(a, b) and mesh.length(a, b) < 4 / 5 * wanted:
                mesh.collapse(a, b, 4 / 3 * wanted)
        mesh.relax(solid, size)
        if step < rounds - 8:
            scale *= np.clip(np.sqrt(mesh.size() / count), 0.9, 1.1)
    while mesh.size() != count:
        missing = count - mesh.size()
        rank = _by_length(mesh, size, on_rim=missing % 2 == 1)
        if missing > 0:
            mesh.split(*rank[-1])
        elif not any(mesh.collapse(a, b) for a, b in rank):
            raise RuntimeError(f"no edge is left to collapse with {-missing} vertices too many")
        mesh.relax(solid, size)
    for _ in range(40):
        mesh.relax(solid, size)
    return mesh.arrays()


def _by_length(mesh: HalfMesh, size, on_rim: bool) -> list[tuple[int, int]]:
    """List edges, the shortest relative to their wanted size first: those of the rim, or those that do not touch it."""
    target = size(np.array(mesh.points))
    edges = [
        (a, b) for a, b in mesh.edges() if (len(mesh.shared(a, b)) == 1 if on_rim else not (mesh.rim[a] or mesh.rim[b]))
    ]
    return sorted(edges, key=lambda edge: mesh.length(*edge) / (target[edge[0]] + target[edge[1]]))


def hemisphere_map(half: np.ndarray, faces: np.ndarray, rim: np.ndarray, front: int) -> np.ndarray:
    """Map a half mesh bijectively onto the hemisphere z ≥ 0, (H, 3) unit vectors, with little stretching.

    First, each inner vertex is a positive average of its neighbours in a disc, so no triangle folds (Tutte 1963,
    Floater 1997); the weights give crowded vertices more room (after Yoshizawa, Belyaev and Seidel 2004). Lambert's
    projection lifts the disc to the hemisphere. Then the symmetric Dirichlet energy (Smith and Schaefer 2015) is
    lowered. It is infinite where a triangle collapses, so the map stays bijective. `front` is the rim vertex that is
    mapped to (1, 0, 0).
    """
    loop = _rim_loop(faces)
    loop = np.roll(loop, -int(np.flatnonzero(loop == front)[0]))
    arc = np.linalg.norm(half[loop] - half[np.roll(loop, -1)], axis=1)
    angle = np.zeros(len(half))
    angle[loop] = 2 * np.pi * np.concatenate([[0], np.cumsum(arc)[:-1]]) / arc.sum()

    inner, on_rim = np.flatnonzero(~rim), np.flatnonzero(rim)
    sphere = _tutte(half, faces, inner, np.column_stack([np.cos(angle), np.sin(angle)]))

    a, b, c = half[faces].transpose(1, 0, 2)
    first, second = b - a, c - a
    normal = np.cross(first, second)
    area = np.linalg.norm(normal, axis=1) / 2
    scale = np.sqrt(2 * np.pi / area.sum())
    gram = np.array([[(u * v).sum(1) for u in (first, second)] for v in (first, second)]).transpose(2, 0, 1)
    inverse = torch.as_tensor(np.linalg.inv(gram)) / scale**2
    area = torch.as_tensor(area * scale**2)
    corners = torch.as_tensor(faces)

    def place(free: torch.Tensor) -> torch.Tensor:
        points = torch.zeros(len(half), 3, dtype=torch.float64)
        turn = free[: len(on_rim)]
        points[on_rim] = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], dim=-1)
        points[inner] = torch.nn.functional.normalize(free[len(on_rim) :].reshape(-1, 3), dim=-1)
        return points

    def energy(values: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(values, requires_grad=True)
        p, q, r = place(free)[corners].unbind(1)
        edges = torch.stack([q - p, r - p], dim=1)
        stretch = (inverse * (edges @ edges.transpose(1, 2))).sum((1, 2))
        centre = torch.nn.functional.normalize(p + q + r, dim=-1)
        ratio = (torch.linalg.cross(edges[:, 0], edges[:, 1]) * centre).sum(-1) / (2 * area)
        if (ratio <= 0).any():
            return np.inf, np.zeros_like(values)
        total = (area * (stretch + stretch / ratio**2)).sum()
        total.backward()
        return float(total.detach()), free.grad.numpy()

    start = np.concatenate([angle[on_rim], sphere[inner].ravel()])
    best = descend(energy, start)
    return place(torch.as_tensor(best)).numpy()


def _tutte(half: np.ndarray, faces: np.ndarray, inner: np.ndarray, disc: np.ndarray, rounds: int = 30) -> np.ndarray:
    """Find a first map to the hemisphere; rim vertices keep their places of `disc` (H, 2) on the unit circle."""
    rows, columns = faces[:, [0, 1, 1, 2, 2, 0]].ravel(), faces[:, [1, 0, 2, 1, 0, 2]].ravel()
    weights = np.ones(len(rows))
    on_rim = np.setdiff1d(np.arange(len(half)), inner)
    area3 = np.linalg.norm(_cross(half, faces), axis=1) / 2
    sphere = None
    for _ in range(rounds):
        links = coo_matrix((weights, (rows, columns)), shape=(len(half),) * 2).tocsr()
        system = diags(np.asarray(links.sum(1)).ravel()) - links
        disc[inner] = spsolve(system[inner][:, inner].tocsc(), -(system[inner][:, on_rim] @ disc[on_rim]))
        # Lambert: the disc of radius r = √2 sin(θ / 2) keeps areas; here r = 1 is the equator.
        radius2 = (disc**2).sum(1).clip(0, 1)
        lifted = np.column_stack([disc * np.sqrt(2 - radius2)[:, None], 1 - radius2])
        if ((_cross(lifted, faces) * lifted[faces[:, 0]]).sum(1) <= 0).any():
            break
        sphere = lifted
        area2 = _cross(np.column_stack([disc, np.zeros(len(disc))]), faces)[:, 2] / 2
        crowding = np.sqrt(
            np.bincount(faces.ravel(), np.repeat(area3, 3)) / np.bincount(faces.ravel(), np.repeat(area2, 3))
        )
        weights = weights / (crowding / crowding.mean())[columns] ** 0.3
    if sphere is None:
        raise RuntimeError("the first map has a folded triangle")
    return sphere


def _cross(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = points[faces].transpose(1, 0, 2)
    return np.cross(b - a, c - a)


def descend(energy, start: np.ndarray, steps: int = 3000, memory: int = 20) -> np.ndarray:
    """Minimise by L-BFGS with a backtracking line search that never accepts an infinite energy."""
    x, (value, gradient), idle = start, energy(start), 0
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(steps):
        direction, coefficients = gradient.copy(), []
        for s, y in reversed(pairs):
            coefficients.append((s @ direction) / (s @ y))
            direction -= coefficients[-1] * y
        if pairs:
            direction *= (pairs[-1][0] @ pairs[-1][1]) / (pairs[-1][1] @ pairs[-1][1])
        for (s, y), coefficient in zip(pairs, reversed(coefficients), strict=True):
            direction += s * (coefficient - (y @ direction) / (s @ y))
        length = 1.0 if pairs else 1e-3 / np.abs(gradient).max()
        for _ in range(60):
            trial = x - length * direction
            new_value, new_gradient = energy(trial)
            if new_value < value - 1e-4 * length * (gradient @ direction):
                break
            length /= 2
        else:
            if not pairs:
                break
            pairs = []
            continue
        s, y = trial - x, new_gradient - gradient
        if s @ y > 1e-12 * (y @ y):
            pairs = [*pairs, (s, y)][-memory:]
        idle = idle + 1 if value - new_value < 1e-8 * value else 0
        x, value, gradient = trial, new_value, new_gradient
        if idle == 20:
            break
    return x


def _rim_loop(faces: np.ndarray) -> np.ndarray:
    directed = {(a, b) for face in faces.tolist() for a, b in _directed(face)}
    follow = {a: b for a, b in directed if (b, a) not in directed}
    loop = [min(follow)]
    while len(loop) < len(follow):
        loop.append(follow[loop[-1]])
    return np.array(loop)


def template_body(category: str) -> Body:
    """The average creature in its neutral pose with thicker ears, legs and tail, so that few vertices can follow
    them; wings lie close to the body, and each foot has a single toe."""
    body = BODIES[category]()
    one = np.ones(len(body.bones))
    body = posed_body(body, Build(one, one), neutral_pose(category, body))
    limbs: list[Limb] = []
    for limb in body.limbs:
        names = [body.bones[bone] for bone in limb.bones]
        thin = limb.radii * np.sqrt(np.minimum(limb.flats, 1)) < 0.06
        radii = np.where(thin, 1.1 * limb.radii + 0.008, limb.radii)
        if _is_ear(body, limb):
            radii = radii + np.array([0.012, 0.012, 0.010])
        if names[-1].endswith("tip"):
            limb = replace(limb, blend=0.10)
        if names[0].endswith("toes") and any(_same_foot(limb, other) for other in limbs):
            continue
        limbs.append(replace(limb, radii=radii, flats=np.clip(limb.flats, 0.65 if category == "quadruped" else 0.4, 1)))
    body.limbs = limbs
    return body


def _same_foot(limb: Limb, other: Limb) -> bool:
    return len(limb.nodes) == len(other.nodes) == 2 and np.allclose(limb.nodes[0], other.nodes[0])


def _is_ear(body: Body, limb: Limb) -> bool:
    return any(body.bones[bone].endswith("ear") for bone in limb.bones)


def make_template(category: str, count: int = 642) -> dict[str, np.ndarray]:
    """Make the arrays of a `creatures.Template`."""
    body = template_body(category)
    solid = body.solid()
    tips = np.array([limb.nodes[-1] for limb in solid.limbs])
    ends = solid.cast(tips, np.array([limb.nodes[-1] - limb.nodes[-2] for limb in solid.limbs]))
    free = np.linalg.norm(ends - tips, axis=1) < [1.2 * limb.radii[-1] + 0.005 for limb in solid.limbs]
    anchors = ends[free & (tips[:, 2] >= 0)]
    ears = [limb.nodes[len(limb.nodes) // 2] for limb in solid.limbs if _is_ear(body, limb)]

    def size(points: np.ndarray) -> np.ndarray:
        finer = np.ones(len(points))
        for ear in ears:
            finer = np.minimum(finer, 0.55 + 3 * np.linalg.norm(points - ear, axis=1))
        return (0.022 + 0.38 * solid.owners(points)[2]) * finer

    half, faces, rim = remesh(solid, count, size, anchors)
    front = int(np.where(rim, half[:, 0], -np.inf).argmax())
    sphere = hemisphere_map(half, faces, rim, front)
    verts, all_faces, mirror = reflect(half, faces, rim)
    points = solid.cast(
        np.array([keypoint.origin for keypoint in body.keypoints]),
        np.array([keypoint.direction for keypoint in body.keypoints]),
    )
    keypoints = np.linalg.norm(verts - points[:, None], axis=-1).argmin(1)
    names = [keypoint.name for keypoint in body.keypoints]
    for k, name in enumerate(names):
        if name.startswith("left_"):
            keypoints[k] = mirror[keypoints[names.index(name.replace("left_", "right_"))]]
    return {
        "verts": (verts - body.joints[0] - ORIGIN[category]).astype(np.float32),
        "faces": all_faces.astype(np.int64),
        "sphere": reflect(sphere, faces, rim)[0].astype(np.float32),
        "mirror": mirror.astype(np.int64),
        "keypoint_vertices": keypoints.astype(np.int64),
    }


if __name__ == "__main__":
    arrays = {f"{category}_{name}": value for category in BODIES for name, value in make_template(category).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(Path(__file__).with_name("templates.npz"), buffer.getvalue())
