"""PLY, the Stanford polygon format (Turk, 1994): ASCII and binary of either byte order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lib.geometry.mesh_files.atlas import Material
from lib.geometry.mesh_files.surface import Surface, decode, find_beside, unit_range
from lib.pictures import read_picture

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float16": "f2", "float32": "f4", "float64": "f8"},
}
COORDINATES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"))
COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


@dataclass
class Property:
    """A number in each row of an element; with `count_type`, a list of numbers."""

    name: str
    type: str
    count_type: str = ""


@dataclass
class Element:
    """A table: its number of rows and, after reading, its columns; a list is a pair of lengths and values."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)
    columns: dict = field(default_factory=dict)


def read(path: Path, appearance: bool) -> Surface:
    """Read vertices; faces or triangle strips; colours and texture coordinates of both; a picture from a comment."""
    content = path.read_bytes()
    kind, elements, comments, body = _header(content)
    if kind == "ascii":
        _read_ascii(elements, body)
    else:
        _read_binary(elements, body, "<" if kind == "binary_little_endian" else ">")
    tables = {element.name: element.columns for element in elements}
    vertex = tables.get("vertex", {})
    if not {"x", "y", "z"} <= set(vertex):
        raise ValueError("holds no vertices; export a mesh with positions x, y, z")
    points = np.stack([vertex[axis] for axis in "xyz"], 1).astype(float)
    face = tables.get("face", {})
    index = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), None)
    if index is None and "tristrips" in tables:
        sizes, corners = _from_strips(next(iter(tables["tristrips"].values())))
    elif index is None:
        raise ValueError("holds no faces; export a mesh, not points")
    else:
        sizes, corners = index[0].astype(np.int64), index[1].astype(np.int64)
    surface = Surface(points, corners, sizes)
    if not appearance or index is None:
        surface.colors = _colors(vertex) if appearance else None
        return surface
    surface.colors, surface.face_colors = _colors(vertex), _colors(face)
    if "texcoord" in face and len(face["texcoord"][1]) == 2 * len(corners):
        surface.uvs = face["texcoord"][1].reshape(-1, 2).astype(float)
    else:
        for names in COORDINATES:
            if set(names) <= set(vertex):
                surface.uvs = np.stack([vertex[name] for name in names], 1).astype(float)[
                    corners.clip(0, len(points) - 1)
                ]
    pictures = [comment.split(None, 1)[1] for comment in comments if re.match(r"texturefile\s+\S", comment, re.I)]
    if pictures and surface.uvs is not None:
        number = face.get("texnumber", np.zeros(len(sizes))).astype(np.int64)
        surface.material = np.where((number >= 0) & (number < len(pictures)), number, -1)
        for name in pictures:
            surface.materials.append(_material(path, name, surface.dropped))
    return surface


def _material(path: Path, name: str, dropped: list[str]) -> Material:
    beside = find_beside(path, name)
    if beside is None:
        dropped.append(f"the picture {name}, which is not there")
        return Material()
    try:
        return Material(picture=read_picture(beside, background=None, upright=False))
    except (OSError, ValueError) as error:
        dropped.append(str(error))
        return Material()


def _colors(columns: dict) -> np.ndarray | None:
    for names in COLORS:
        if set(names) <= set(columns):
            return unit_range(np.stack([columns[name] for name in names], 1))
    return None


def _header(content: bytes) -> tuple[str, list[Element], list[str], bytes]:
    end = re.search(rb"(?:^|[\r\n])end_header[ \t]*(\r\n|\r|\n|$)", content)
    if not content.startswith(b"ply") or end is None:
        raise ValueError("has no PLY header")
    kind, elements, comments = "", [], []
    for line in re.split(r"\r\n|\r|\n", decode(content[: end.start()])):
        words = line.split()
        match words:
            case ["format", kind, *_]:
                pass
            case ["comment", *rest]:
                comments.append(" ".join(rest))
            case ["element", name, count]:
                elements.append(Element(name, int(count)))
            case ["property", "list", count_type, type_, name]:
                elements[-1].properties.append(Property(name, TYPES[type_], TYPES[count_type]))
            case ["property", type_, name]:
                elements[-1].properties.append(Property(name, TYPES[type_]))
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"has the unknown PLY format {kind!r}")
    return kind, elements, comments, content[end.end() :]


def _read_ascii(elements: list[Element], body: bytes) -> None:
    tokens = np.array(body.split(), dtype=object)
    at = 0
    for element in elements:
        properties = element.properties
        if not any(entry.count_type for entry in properties):
            width = len(properties)
            table = _to_numbers(tokens[at : at + element.count * width]).reshape(-1, width)
            if len(table) < element.count:
                raise ValueError(f"ends after {len(table)} of {element.count} {element.name} rows; download it again")
            for entry, column in zip(properties, table.T, strict=True):
                element.columns[entry.name] = _cast(column, entry.type)
            at += element.count * width
            continue
        rows: dict[str, list] = {entry.name: [] for entry in properties}
        lengths: dict[str, list] = {entry.name: [] for entry in properties}
        for _ in range(element.count):
            for entry in properties:
                length = 1
                if entry.count_type:
                    length, at = int(tokens[at]), at + 1
                    lengths[entry.name].append(length)
                rows[entry.name].append(tokens[at : at + length])
                at += length
        if at > len(tokens):
            raise ValueError(f"ends within its {element.name} rows; download it again")
        for entry in properties:
            values = rows[entry.name]
            flat = _cast(_to_numbers(np.concatenate(values) if values else np.zeros(0)), entry.type)
            element.columns[entry.name] = (np.array(lengths[entry.name]), flat) if entry.count_type else flat


def _to_numbers(tokens: np.ndarray) -> np.ndarray:
    return np.array([float(token) for token in tokens])


def _cast(values: np.ndarray, type_: str) -> np.ndarray:
    # Some programs declare integers, but write other numbers, such as 0.5, or some beyond the type's range.
    if type_[0] != "f":
        limits = np.iinfo(type_)
        if (values != np.floor(values)).any() or (values < limits.min).any() or (values > limits.max).any():
            return values
    return values.astype(type_)


def _read_binary(elements: list[Element], body: bytes, order: str) -> None:
    at = 0
    for element in elements:
        fields = []
        lists = [entry for entry in element.properties if entry.count_type]
        # Most lists have the same length in all rows: try the length of the first row.
        lengths = _first_lengths(element, body, at, order) if element.count else [0] * len(lists)
        ahead = iter(lengths)
        for entry in element.properties:
            if entry.count_type:
                fields.append((f"{entry.name} count", order + entry.count_type))
                fields.append((entry.name, order + entry.type, (next(ahead),)))
            else:
                fields.append((entry.name, order + entry.type))
        dtype = np.dtype(fields)
        whole = at + element.count * dtype.itemsize <= len(body)
        table = np.frombuffer(body, dtype, element.count, at) if whole and dtype.itemsize else None
        if table is not None and all(
            (table[f"{entry.name} count"] == length).all() for entry, length in zip(lists, lengths, strict=True)
        ):
            for entry in element.properties:
                column = _native(table[entry.name])
                if entry.count_type:
                    column = (table[f"{entry.name} count"].astype(np.int64), column.reshape(-1))
                element.columns[entry.name] = column
            at += element.count * dtype.itemsize
        elif lists:
            at = _read_rows(element, body, at, order)
        elif dtype.itemsize:
            raise ValueError(f"ends within its {element.name} rows; download it again")


def _first_lengths(element: Element, body: bytes, at: int, order: str) -> list[int]:
    lengths = []
    for entry in element.properties:
        length = 1
        if entry.count_type:
            length = int(np.frombuffer(body, order + entry.count_type, 1, at)[0])
            at += np.dtype(entry.count_type).itemsize
            lengths.append(length)
        at += length * np.dtype(entry.type).itemsize
    return lengths


def _read_rows(element: Element, body: bytes, at: int, order: str) -> int:
    parts: dict[str, list] = {entry.name: [] for entry in element.properties}
    lengths: dict[str, list] = {entry.name: [] for entry in element.properties}
    for _ in range(element.count):
        for entry in element.properties:
            length = 1
            if entry.count_type:
                length = int(np.frombuffer(body, order + entry.count_type, 1, at)[0])
                at += np.dtype(entry.count_type).itemsize
                lengths[entry.name].append(length)
            parts[entry.name].append(np.frombuffer(body, order + entry.type, length, at))
            at += length * np.dtype(entry.type).itemsize
    for entry in element.properties:
        flat = _native(np.concatenate(parts[entry.name]))
        element.columns[entry.name] = (np.array(lengths[entry.name]), flat) if entry.count_type else flat
    return at


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="))


def _from_strips(strips: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Cut strips, which end with −1, into triangles; every second triangle is turned over."""
    triangles = []
    for strip in np.split(strips[1].astype(np.int64), np.cumsum(strips[0])[:-1]):
        for run in np.split(strip, np.flatnonzero(strip < 0)):
            run = run[run >= 0]
            faces = np.stack([run[:-2], run[1:-1], run[2:]], 1) if len(run) > 2 else np.zeros((0, 3), np.int64)
            faces[1::2] = faces[1::2][:, [1, 0, 2]]
            triangles.append(faces)
    faces = np.concatenate(triangles)
    # Strips contain triangles without area, to turn corners.
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    return np.full(len(faces), 3), faces.reshape(-1)


def content(verts, faces, colors=None) -> bytes:
    """Write a binary PLY file; positions in their own type, colours with 8 bits."""
    kind = "double" if verts.dtype == np.float64 else "float"
    fields = [(axis, "<" + TYPES[kind]) for axis in "xyz"]
    header = [f"property {kind} {axis}" for axis in "xyz"]
    if colors is not None:
        fields += [(name, "u1") for name in COLORS[0]]
        header += [f"property uchar {name}" for name in COLORS[0]]
    table = np.zeros(len(verts), fields)
    for i, axis in enumerate("xyz"):
        table[axis] = verts[:, i]
    if colors is not None:
        for i, name in enumerate(COLORS[0]):
            table[name] = colors[:, i]
    triangles = np.zeros(len(faces), [("count", "u1"), ("index", "<i4", 3)])
    triangles["count"], triangles["index"] = 3, faces
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(verts)}", *header]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(lines).encode() + table.tobytes() + triangles.tobytes()
