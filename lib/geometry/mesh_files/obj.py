"""Wavefront OBJ, with its material library MTL (Wavefront's Advanced Visualizer manual, appendices B1 and B2)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lib.geometry.mesh_files.atlas import Material
from lib.geometry.mesh_files.surface import Surface, decode, find_beside, unit_range
from lib.pictures import read_picture

# Options of a texture map, and the largest number of values of each.
MAP_OPTIONS = {
    **{"-blendu": 1, "-blendv": 1, "-boost": 1, "-mm": 2, "-o": 3, "-s": 3, "-t": 3, "-texres": 1},
    **{"-clamp": 1, "-bm": 1, "-imfchan": 1, "-type": 1, "-cc": 1, "-colorspace": 1},
}
CURVES = {"curv", "curv2", "surf", "cstype", "vp", "call", "csh"}


def read(path: Path, appearance: bool) -> Surface:
    """Read v (perhaps with colours), vt, f and fo, usemtl, mtllib; relative indices count from their line."""
    # A comment may end with a backslash, such as a folder of Windows; it does not go on in the next line.
    text = re.sub(r"(?m)^[ \t]*#[^\r\n]*", "", decode(path.read_bytes()))
    text = re.sub(r"\\[ \t]*(\r\n|\r|\n)", " ", text)
    verts: list[list[str]] = []
    coordinates: list[list[str]] = []
    corners: list[int] = []
    corner_uvs: list[int] = []
    sizes: list[int] = []
    material: list[int] = []
    names: dict[str, int] = {}
    libraries: list[str] = []
    current = -1
    dropped: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
        if keyword in ("v", "vt", "f", "fo"):
            rest = rest.split("#", 1)[0]
        if keyword == "v":
            verts.append(rest.split())
        elif keyword == "vt":
            coordinates.append(rest.split())
        elif keyword in ("f", "fo"):
            parts = rest.split()
            try:
                for part in parts:
                    index, _, others = part.partition("/")
                    place = int(index)
                    corners.append(place - 1 if place > 0 else len(verts) + place if place else -1)
                    place = int(others.partition("/")[0] or 0) if others else 0
                    corner_uvs.append(place - 1 if place > 0 else len(coordinates) + place if place else -1)
                    if place < 0 and corner_uvs[-1] < 0:
                        raise ValueError
            except ValueError:
                raise ValueError(f"line {number}, {line.strip()[:60]!r}, is no face; export it again") from None
            sizes.append(len(parts))
            material.append(current)
        elif keyword == "usemtl":
            current = names.setdefault(rest.strip(), len(names))
        elif keyword == "mtllib":
            libraries.append(rest.strip())
        elif keyword in ("l", "p"):
            kind = "lines" if keyword == "l" else "points"
            dropped[kind] = dropped.get(kind, 0) + 1
        elif keyword in CURVES:
            dropped["free-form curves and surfaces"] = dropped.get("free-form curves and surfaces", 0) + 1
    points, colors = _positions(verts)
    surface = Surface(points, np.array(corners, np.int64), np.array(sizes, np.int64))
    surface.dropped = [f"{count} {kind}" for kind, count in dropped.items()]
    if not appearance:
        return surface
    surface.colors = colors
    of_corner = np.array(corner_uvs, np.int64)
    if (of_corner >= 0).any():
        table = _numbers(coordinates, "vt", 2)
        if of_corner.max() >= len(table):
            raise ValueError(
                f"faces point to texture coordinate {of_corner.max() + 1} of {len(table)}; export it again"
            )
        surface.uvs = np.where(of_corner[:, None] >= 0, table[of_corner], np.nan)
    if names and libraries:
        found: dict[str, tuple[Material, np.ndarray]] = {}
        for library in libraries:
            whole = find_beside(path, library)
            for name in [library] if whole else library.split():
                beside = find_beside(path, name)
                if beside is None:
                    surface.dropped.append(f"the materials of {name}, which is not there")
                else:
                    found |= _read_materials(beside, set(names), surface.dropped)
        surface.materials = [found[name][0] if name in found else Material() for name in names]
        surface.material = np.array(material, np.int64)
        _transform(surface, [found[name][1] if name in found else None for name in names])
    return surface


def _positions(rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray | None]:
    points = _numbers(rows, "v", 3)
    # A single fourth number is a weight, which has no meaning for polygons.
    colored = np.array([len(row) >= 6 for row in rows], dtype=bool)
    if not colored.any():
        return points, None
    colors = np.ones((len(rows), 3))
    colors[colored] = unit_range(_numbers([row[3:6] for row in rows if len(row) >= 6], "v", 3))
    return points, colors


def _numbers(rows: list[list[str]], keyword: str, width: int) -> np.ndarray:
    """Read the first `width` numbers of each row; a texture coordinate may lack its v, which is then 0."""
    try:
        return np.array([(row if keyword == "v" else [*row, "0"])[:width] for row in rows], float).reshape(
            len(rows), width
        )
    except ValueError:
        wrong = next(row for row in rows if not _is_row(row[:width], width - (keyword == "vt")))
        raise ValueError(f"'{keyword} {' '.join(wrong)[:60]}' has not {width} numbers; export it again") from None


def _is_row(row: list[str], fewest: int) -> bool:
    try:
        return len(list(map(float, row))) >= fewest
    except ValueError:
        return False


def _read_materials(path: Path, used: set[str], dropped: list[str]) -> dict[str, tuple[Material, np.ndarray | None]]:
    """Read the used materials of a library, each with the scale and shift of its texture coordinates (2, 2)."""
    text = re.sub(r"\\[ \t]*(\r\n|\r|\n)", " ", decode(path.read_bytes()))
    found: dict[str, tuple[Material, np.ndarray | None]] = {}
    name = ""
    for line in re.split(r"\r\n|\r|\n", text):
        keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        keyword = keyword.lower()
        if keyword == "newmtl":
            name = rest
            if name in used:
                found[name] = (Material(), None)
        elif name not in used:
            continue
        elif keyword == "kd":
            values = rest.split("#")[0].split()
            try:
                channels = [float(value) for value in (values * 3 if len(values) == 1 else values)[:3]]
            except ValueError:  # "spectral" and "xyz" are other forms of a colour
                dropped.append(f"the colour of {name}, 'Kd {rest}'")
                continue
            found[name][0].color = tuple(np.clip(channels, 0, 1))
        elif keyword == "map_kd":
            options, file = _map_options(rest)
            beside = find_beside(path, file)
            if beside is None:
                dropped.append(f"the picture {file}, which is not there")
                continue
            try:
                found[name][0].picture = read_picture(beside, background=None, upright=False)
            except (OSError, ValueError) as error:
                dropped.append(str(error))
            if options.get("-clamp", [""])[0] == "on":
                found[name][0].wrap = ("clamp", "clamp")
            scale, shift = options.get("-s", []), options.get("-o", [])
            if scale or shift:
                values = ([*scale, "1", "1"][:2], [*shift, "0", "0"][:2])
                found[name] = (found[name][0], np.array(values, float))
    return found


def _map_options(rest: str) -> tuple[dict[str, list[str]], str]:
    """Split off the options before the file's name, which may contain spaces."""
    options: dict[str, list[str]] = {}
    while (key := rest.split(" ", 1)[0].lower()) in MAP_OPTIONS:
        rest = rest[len(key) :].strip()
        values = options.setdefault(key, [])
        for _ in range(MAP_OPTIONS[key]):
            value, _, after = rest.partition(" ")
            if not after or (MAP_OPTIONS[key] > 1 and not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value, re.I)):
                break
            values.append(value)
            rest = after.strip()
    return options, rest


def _transform(surface: Surface, transforms: list[np.ndarray | None]) -> None:
    if surface.uvs is None:
        return
    of_corner = np.repeat(surface.material, surface.sizes)
    for index, transform in enumerate(transforms):
        if transform is not None:
            chosen = of_corner == index
            surface.uvs[chosen] = surface.uvs[chosen] * transform[0] + transform[1]


def text(verts, faces, uvs=None, colors=None, material: str = "") -> str:
    """Write an OBJ file, every number with all digits of its type. material: name of the library and its material."""
    lines = [f"mtllib {material}.mtl", f"usemtl {material}"] if material else []
    positions = verts if colors is None else np.concatenate([verts, colors.astype(verts.dtype)], 1)
    lines += ["v " + " ".join(map(str, row)) for row in positions.astype(str)]
    if uvs is not None:
        lines += ["vt " + " ".join(row) for row in uvs.astype(str)]
    corner = "{0}" if uvs is None else "{0}/{0}"
    lines += ["f " + " ".join(corner.format(i) for i in row) for row in (faces + 1).tolist()]
    return "\n".join(lines) + "\n"
