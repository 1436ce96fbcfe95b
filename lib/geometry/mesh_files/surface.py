"""The content of a mesh file, in the same form for all formats, and its arrays with one value for each vertex."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from lib.geometry.mesh_files import atlas, polygons


@dataclass
class Surface:
    """The content of a mesh file.

    points: (V, 3) float64. corners: indices into points, one polygon after the other; `sizes` are their numbers of
    corners. uvs: (C, 2), a texture coordinate for each corner, v up, NaN for a corner without.
    colors: (V, 3) in [0, 1]. face_colors: (P, 3). material: (P,), places in `materials`, −1 for none.
    dropped: in words, all else that the file contains.
    """

    points: Float[np.ndarray, "V 3"]
    corners: Int[np.ndarray, "C"]
    sizes: Int[np.ndarray, "P"]
    uvs: Float[np.ndarray, "C 2"] | None = None
    colors: Float[np.ndarray, "V 3"] | None = None
    face_colors: Float[np.ndarray, "P 3"] | None = None
    material: Int[np.ndarray, "P"] | None = None
    materials: list[atlas.Material] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


@dataclass
class Arrays:
    """Arrays with one position, texture coordinate and colour for each vertex; `mesh.Mesh` tells what they mean."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    uvs: Float[np.ndarray, "V 2"] | None = None
    texture: Float[np.ndarray, "H W 3"] | None = None
    colors: Float[np.ndarray, "V 3"] | None = None


def arrays(surface: Surface, appearance: bool = True) -> Arrays:
    """Cut a surface into triangles. The file's vertices come first, in its order; then the copies that seams need.

    At a seam the corners of one point differ in texture coordinate, or in colour if polygons have colours.
    """
    points, corners = surface.points, surface.corners
    check_indices(corners, len(points))
    triangles = polygons.triangulate(points, corners, surface.sizes)
    faces = corners[triangles]
    if not appearance:
        return Arrays(points, faces)
    uvs, texture, of_face = _texture_and_face_colors(surface)
    colors = surface.colors
    of_corner = []
    if uvs is not None:
        # A corner without texture coordinates takes those of its point, so that it is no seam.
        known = ~np.isnan(uvs).any(1)
        of_point = np.zeros((len(points), 2))
        of_point[corners[known][::-1]] = uvs[known][::-1]
        of_corner.append(np.where(known[:, None], uvs, of_point[corners]))
    if of_face is not None and colors is None:
        if (of_face == of_face[0]).all():
            colors = np.broadcast_to(of_face[0], points.shape)
        else:
            of_corner.append(np.repeat(of_face, surface.sizes, axis=0))
    if not of_corner:
        return Arrays(points, faces, None, texture, colors)
    values = np.concatenate(of_corner, 1)
    source, vertex = split_seams(len(points), corners, values)
    of_vertex = np.zeros((len(source), values.shape[1]))
    of_vertex[vertex] = values
    width = 0 if uvs is None else 2
    if colors is not None:
        colors = colors[source]
    elif len(of_vertex[0]) > width:
        colors = of_vertex[:, width:]
    return Arrays(points[source], vertex[triangles], of_vertex[:, :2] if width else None, texture, colors)


def _texture_and_face_colors(surface: Surface) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return texture coordinates (C, 2), the one picture they lie in, and a colour for each polygon, each or None."""
    uvs, material = surface.uvs, surface.material
    if uvs is not None and np.isnan(uvs).any(1).all():
        uvs = None
    if material is not None and (material >= 0).any():
        used = [surface.materials[i] for i in np.unique(material[material >= 0])]
        if uvs is not None and any(entry.picture is not None for entry in used):
            owner = np.repeat(np.arange(len(surface.sizes)), surface.sizes)
            uvs, picture = atlas.unite(uvs, material[owner], owner, surface.materials)
            return uvs, picture, surface.face_colors
        if surface.face_colors is None and any(entry.color is not None for entry in used):
            table = np.array([(1, 1, 1) if entry.color is None else entry.color for entry in surface.materials], float)
            return uvs, None, np.where(material[:, None] >= 0, table[material], 1.0)
    return uvs, None, surface.face_colors


def split_seams(
    count: int, corners: Int[np.ndarray, "C"], values: Float[np.ndarray, "C D"]
) -> tuple[Int[np.ndarray, "W"], Int[np.ndarray, "C"]]:
    """Give each vertex one value: return the point of every vertex (W,), and the vertex of every corner (C,).

    The first `count` vertices are the points themselves, with the value of their first corner. A point whose corners
    also have other values is repeated after them, in the corners' order.
    """
    _, value = np.unique(values, axis=0, return_inverse=True)
    keys = corners * (int(value.max(initial=0)) + 1) + value.reshape(-1)
    pairs, first, pair = np.unique(keys, return_index=True, return_inverse=True)
    # Take all pairs (point, value) in the order in which they first appear; the first of each point keeps its place.
    order = np.argsort(first, kind="stable")
    point = corners[first[order]]
    keeps = np.zeros(len(pairs), dtype=bool)
    keeps[np.unique(point, return_index=True)[1]] = True
    vertex = np.empty(len(pairs), dtype=np.int64)
    vertex[order] = np.where(keeps, point, count - 1 + np.cumsum(~keeps))
    return np.concatenate([np.arange(count), point[~keeps]]), vertex[pair.reshape(-1)]


def check_indices(corners: Int[np.ndarray, "C"], count: int) -> None:
    """Raise ValueError for an index outside of 0 … count − 1."""
    wrong = corners[(corners < 0) | (corners >= count)]
    if len(wrong):
        raise ValueError(f"faces point to vertex {int(wrong[0])}, the file has 0 … {count - 1}; export it again")


def unit_range(values: np.ndarray) -> Float[np.ndarray, "N C"]:
    """Scale colours of any type to [0, 1]: unsigned integers by their type's range, floats by 255 if they exceed 1."""
    if values.dtype.kind == "u" and not (values.dtype.itemsize > 2 and values.max(initial=0) <= 255):
        return values / np.iinfo(values.dtype).max
    scaled = values / (255 if values.dtype.kind != "f" or values.max(initial=0) > 1 else 1)
    return np.clip(scaled, 0, 1).astype(np.float64)


def decode(content: bytes) -> str:
    """Decode text: UTF-16 or UTF-8 with a mark, otherwise UTF-8, otherwise Latin-1, which accepts any byte."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def find_beside(path: Path, name: str) -> Path | None:
    """Find the file that a mesh file refers to, even if another system wrote the name; None if it is not there."""
    name = name.strip().strip('"').replace("\\", "/")
    for wanted in (Path(name), Path(Path(name).name)):
        candidate = path.parent / wanted
        if candidate.is_file():
            return candidate
        if candidate.parent.is_dir():
            for other in candidate.parent.iterdir():
                if other.name.lower() == wanted.name.lower() and other.is_file():
                    return other
    return None
