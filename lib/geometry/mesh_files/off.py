"""OFF, the format of ModelNet: positions, then polygons, with colours of either (Geomview's manual)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lib.geometry.mesh_files.surface import Surface, decode, unit_range


def read(path: Path, appearance: bool) -> Surface:
    """Read OFF with colours (C), normals (N) and texture coordinates (ST) at the vertices, and colours at the faces."""
    content = path.read_bytes()
    lines = [line.split("#", 1)[0].split() for line in re.split(r"\r\n|\r|\n", decode(content))]
    lines = [line for line in lines if line]
    # In some files of ModelNet the counts follow the word without a space.
    header = re.fullmatch(r"(ST)?(C)?(N)?(4)?(n)?OFF(\d*)", lines[0][0]) if lines else None
    if header is None:
        raise ValueError("does not begin with OFF")
    textured, colored, with_normals, four, many, count = header.groups()
    if four or many or "BINARY" in lines[0]:
        raise ValueError(f"has the variant {' '.join(lines[0])} of OFF; export it as plain OFF")
    rest = ([count] if count else []) + lines[0][1:]
    rows = ([rest] if rest else []) + lines[1:]
    num_points, num_faces = int(rows[0][0]), int(rows[0][1])
    body = rows[1 : 1 + num_points + num_faces]
    if len(body) < num_points + num_faces:
        raise ValueError(f"ends after {len(body)} of {num_points + num_faces} lines; download it again")
    points = [row[:3] for row in body[:num_points]]
    if any(len(row) < 3 for row in points):
        raise ValueError("has a vertex with fewer than three coordinates; export it again")
    surface = Surface(np.array(points, float).reshape(-1, 3), np.zeros(0, np.int64), np.zeros(0, np.int64))
    faces = body[num_points:]
    sizes = [int(row[0]) for row in faces]
    surface.sizes = np.array(sizes, np.int64)
    surface.corners = np.array([int(i) for row, n in zip(faces, sizes, strict=True) for i in row[1 : n + 1]], np.int64)
    if len(surface.corners) != surface.sizes.sum():
        raise ValueError("has a face with fewer corners than it says; download it again")
    if not appearance:
        return surface
    place = 6 if with_normals else 3
    if colored:
        surface.colors = _colors([row[place : place + 3] for row in body[:num_points]])
    if textured:
        table = np.array([row[-2:] for row in body[:num_points]], float)
        surface.uvs = table[surface.corners]
    behind = [row[n + 1 :] for row, n in zip(faces, sizes, strict=True)]
    if not colored and any(len(values) >= 3 for values in behind):
        white = ["1.0"] * 3 if any("." in value for values in behind for value in values) else ["255"] * 3
        surface.face_colors = _colors([values[:3] if len(values) >= 3 else white for values in behind])
    elif any(len(values) == 1 for values in behind):
        surface.dropped.append("colours given as places in a color map")
    return surface


def _colors(rows: list[list[str]]) -> np.ndarray:
    """Scale colours: whole numbers have the range 0 to 255, others 0 to 1."""
    if any("." in value for row in rows for value in row):
        return unit_range(np.array(rows, float))
    return np.clip(np.array(rows, float) / 255, 0, 1)
