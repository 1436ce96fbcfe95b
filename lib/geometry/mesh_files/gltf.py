"""glTF 2.0, as .glb and .gltf (Khronos, "glTF 2.0 Specification", 2021): the default scene as it stands when opened."""

from __future__ import annotations

import base64
import json
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from lib.geometry.mesh_files.atlas import Material
from lib.geometry.mesh_files.surface import Surface
from lib.pictures import read_picture

TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
WRAPS = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
TRIANGLES, STRIP, FAN = 4, 5, 6
MODES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}
# Extensions that a file may require: they are read, or make no difference here.
READ = {"KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_lights_punctual"}
# More rows than any file of this course: a sparse accessor may claim any number of them in a few bytes.
MOST_ROWS = 50_000_000
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")


def read(path: Path, appearance: bool) -> Surface:
    """Read all triangles of the scene in world coordinates, skinned and morphed as the file opens.

    Normalised integers are scaled by their range. Colours are COLOR_0 times the base colour, taken as they are written,
    without conversion between linear and sRGB.
    """
    file = File(path)
    parts: list[_Part] = []
    starts: dict[tuple, int] = {}
    count = 0
    dropped: dict[str, int] = {}
    for node, matrix in file.placed_meshes():
        for primitive in file.tree["meshes"][node["mesh"]]["primitives"]:
            mode = primitive.get("mode", TRIANGLES)
            if mode in MODES:
                dropped[MODES[mode]] = dropped.get(MODES[mode], 0) + 1
            elif "POSITION" in primitive["attributes"]:
                part = _primitive(file, node, matrix, primitive, mode, appearance)
                # Primitives of one mesh may share their vertices and differ only in their material.
                look = part.material if part.colors is not None else None
                key = (id(node), look, *sorted(primitive["attributes"].items()))
                part.shared = key in starts
                part.start = starts.setdefault(key, count)
                count += 0 if part.shared else len(part.points)
                parts.append(part)
    surface = Surface(
        np.concatenate([part.points for part in parts if not part.shared] or [np.zeros((0, 3))]),
        np.concatenate([part.faces + part.start for part in parts] or [np.zeros(0, np.int64)]),
        np.full(sum(len(part.faces) for part in parts) // 3, 3),
        dropped=[f"{number} primitives of {kind}" for kind, number in dropped.items()],
    )
    if not appearance or not parts:
        return surface
    surface.material = np.concatenate([np.full(len(part.faces) // 3, part.material) for part in parts])
    surface.materials = [file.material(index, surface.dropped) for index in range(len(file.tree.get("materials", [])))]
    if any(part.uvs is not None for part in parts):
        surface.uvs = np.concatenate(
            [np.full((len(part.faces), 2), np.nan) if part.uvs is None else part.uvs[part.faces] for part in parts]
        )
    if any(part.colors is not None for part in parts):
        every = []
        for part in parts:
            if not part.shared:
                material = surface.materials[part.material] if part.material >= 0 else Material()
                plain = material.picture is None and material.color is not None
                base = np.array(material.color) if plain else np.ones(3)
                every.append(base * (np.ones_like(part.points) if part.colors is None else part.colors))
        surface.colors = np.concatenate(every)
        for material in surface.materials:
            material.color = None
    return surface


@dataclass
class _Part:
    """One primitive in world coordinates: faces (3 F,) into its own points, which begin at `start` of the file's."""

    points: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None
    colors: np.ndarray | None
    material: int
    start: int = 0
    shared: bool = False


def _primitive(file: File, node: dict, matrix: np.ndarray, primitive: dict, mode: int, appearance: bool) -> _Part:
    attributes = primitive["attributes"]
    points = file.accessor(attributes["POSITION"])
    weights = node.get("weights", file.tree["meshes"][node["mesh"]].get("weights", []))
    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
        if weight and "POSITION" in target:
            points = points + weight * file.accessor(target["POSITION"])
    if "indices" in primitive:
        indices = file.accessor(primitive["indices"]).reshape(-1).astype(np.int64)
    else:
        indices = np.arange(len(points))
    if len(indices) and indices.max() >= len(points):
        raise ValueError(f"faces point to vertex {indices.max()}, the file has 0 … {len(points) - 1}; export it again")
    faces = _triangles(indices, mode)
    if "skin" in node and "JOINTS_0" in attributes:
        points = file.skinned(points, node, attributes)
    else:
        points = points @ matrix[:3, :3].T + matrix[:3, 3]
        if np.linalg.det(matrix[:3, :3]) < 0:  # the node is mirrored: by the specification its faces turn over
            faces = faces[:, ::-1]
    uvs = colors = None
    if appearance:
        channel, transform = file.coordinates(primitive.get("material", -1))
        if f"TEXCOORD_{channel}" in attributes:
            uvs = file.accessor(attributes[f"TEXCOORD_{channel}"]) @ transform[:2, :2].T + transform[:2, 2]
            uvs = np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1)
        if "COLOR_0" in attributes:
            # Integer colours are always shares of their range, even if the writer forgot to declare it.
            colors = file.accessor(attributes["COLOR_0"], normalized=True)[:, :3].clip(0, 1)
    return _Part(points, faces.reshape(-1), uvs, colors, primitive.get("material", -1))


def _triangles(indices: Int[np.ndarray, "N"], mode: int) -> Int[np.ndarray, "F 3"]:
    if mode == TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if mode == STRIP:
        faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], 1)
        faces[1::2] = faces[1::2][:, [1, 0, 2]]
    elif mode == FAN:
        faces = np.stack([np.full(max(len(indices) - 2, 0), indices[0]), indices[1:-1], indices[2:]], 1)
    else:
        raise ValueError(f"has primitives of the unknown mode {mode}")
    return faces[(faces != np.roll(faces, 1, axis=1)).all(1)]


class File:
    """The tree of a glTF file, and its buffers, pictures and materials on demand.

    Raises ValueError for glTF 1, for compressed data, and for required extensions that are not read.
    """

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self.path, self.chunk = path, b""
        if content[:4] == b"glTF":
            if int.from_bytes(content[4:8], "little") != 2:
                raise ValueError("is of another version than glTF 2.0; export it again")
            length = int.from_bytes(content[12:16], "little")
            text, after = content[20 : 20 + length], content[20 + length :]
            self.chunk = after[8 : 8 + int.from_bytes(after[:4], "little")] if after[4:8] == b"BIN\0" else b""
        else:
            text = content
        self.tree = json.loads(text.decode("utf-8-sig"))
        if not str(self.tree.get("asset", {}).get("version", "2")).startswith("2"):
            raise ValueError("is of another version than glTF 2.0; export it again")
        required = set(self.tree.get("extensionsRequired", []))
        unread = {name for name in required - READ if not name.startswith("KHR_materials_")}
        if unread:
            remedy = "export it without compression" if unread & set(COMPRESSED) else "export it without"
            raise ValueError(f"needs the extension {', '.join(sorted(unread))}, which is not read; {remedy}")
        self._buffers: dict[int, bytes] = {}

    def placed_meshes(self) -> list[tuple[dict, Float[np.ndarray, "4 4"]]]:
        """List the nodes of the default scene that hold a mesh, each with its matrix to the world."""
        nodes = self.tree.get("nodes", [])
        scenes = self.tree.get("scenes", [])
        if scenes:
            roots = scenes[self.tree.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [index for index in range(len(nodes)) if index not in children]
        self.worlds = {}
        waiting = [(index, np.eye(4)) for index in reversed(roots)]
        found = []
        while waiting:
            index, above = waiting.pop()
            if index in self.worlds:
                raise ValueError(f"has node {index} in two places or in a circle; export it again")
            self.worlds[index] = above @ _local(nodes[index])
            waiting += [(child, self.worlds[index]) for child in reversed(nodes[index].get("children", []))]
            if "mesh" in nodes[index]:
                if "EXT_mesh_gpu_instancing" in nodes[index].get("extensions", {}):
                    raise ValueError("holds instances (EXT_mesh_gpu_instancing), which are not read; export without")
                found.append((nodes[index], self.worlds[index]))
        return found if nodes else [({"mesh": index}, np.eye(4)) for index in range(len(self.tree.get("meshes", [])))]

    def buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            entry = self.tree["buffers"][index]
            self._buffers[index] = self._resource(entry["uri"]) if "uri" in entry else self.chunk
            if len(self._buffers[index]) < entry["byteLength"]:
                raise ValueError(f"has {len(self._buffers[index])} of {entry['byteLength']} bytes; download it again")
        return self._buffers[index]

    def _resource(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            head, _, data = uri.partition(",")
            return base64.b64decode(data) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(data)
        for name in (urllib.parse.unquote(uri), uri):
            if (self.path.parent / name).is_file():
                return (self.path.parent / name).read_bytes()
        raise ValueError(f"refers to {uri}, which is not there; put it beside the file, or export as .glb")

    def view(self, index: int) -> tuple[bytes, int]:
        """Return the bytes of a buffer view, and its stride (0: dense)."""
        entry = self.tree["bufferViews"][index]
        buffer = self.tree["buffers"][entry["buffer"]]
        if any(buffer.get("extensions", {}).get(name, {}).get("fallback") for name in COMPRESSED):
            raise ValueError("is compressed (meshopt), which is not read; export it without compression")
        start = entry.get("byteOffset", 0)
        if start < 0 or entry["byteLength"] < 0:
            raise ValueError("has a negative place or length of a buffer view; export it again")
        return self.buffer(entry["buffer"])[start : start + entry["byteLength"]], entry.get("byteStride", 0)

    def accessor(self, index: int, normalized: bool = False) -> np.ndarray:
        """Read the rows of an accessor (N, C) in float64; integers that are shares of their range are scaled by it."""
        entry = self.tree["accessors"][index]
        dtype, width = np.dtype(TYPES[entry["componentType"]]), WIDTHS[entry["type"]]
        if not 0 < entry["count"] <= MOST_ROWS:
            raise ValueError(f"has an accessor of {entry['count']} rows; export it again")
        if "bufferView" in entry:
            values = self._rows(entry["bufferView"], entry.get("byteOffset", 0), entry["count"], dtype, width)
        elif "sparse" in entry:
            values = np.zeros((entry["count"], width), dtype)
        else:
            raise ValueError("is compressed (draco), which is not read; export it without compression")
        if "sparse" in entry:
            sparse = entry["sparse"]
            where, what = sparse["indices"], sparse["values"]
            kind = np.dtype(TYPES[where["componentType"]])
            rows = self._rows(where["bufferView"], where.get("byteOffset", 0), sparse["count"], kind, 1)
            rows = rows[:, 0].astype(np.int64)
            if (rows < 0).any() or (rows >= len(values)).any():
                raise ValueError(f"replaces a row of an accessor that has {len(values)}; export it again")
            values = values.copy()
            values[rows] = self._rows(what["bufferView"], what.get("byteOffset", 0), sparse["count"], dtype, width)
        if dtype.kind != "f" and (normalized or entry.get("normalized", False)):
            return (values / np.iinfo(dtype).max).clip(min=-1)
        return values.astype(float)

    def _rows(self, view: int, offset: int, count: int, dtype: np.dtype, width: int) -> np.ndarray:
        content, stride = self.view(view)
        size = dtype.itemsize * width
        stride = stride or size
        if stride < size or offset < 0 or count < 0:
            raise ValueError(f"has rows of {size} bytes that begin at {offset}, {stride} apart; export it again")
        if offset + (count - 1) * stride + size > len(content):
            raise ValueError("has fewer bytes than its accessors say; download it again")
        return np.ndarray((count, width), dtype, content, offset, (stride, dtype.itemsize))

    def skinned(self, points: Float[np.ndarray, "V 3"], node: dict, attributes: dict) -> Float[np.ndarray, "V 3"]:
        """Compute positions in the world, which depend on the joints alone."""
        skin = self.tree["skins"][node["skin"]]
        matrices = np.stack([self.worlds.get(joint, np.eye(4)) for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            matrices = matrices @ self.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        moved, total, place = np.zeros_like(points), np.zeros((len(points), 1)), 0
        while f"JOINTS_{place}" in attributes and f"WEIGHTS_{place}" in attributes:
            joints = self.accessor(attributes[f"JOINTS_{place}"]).astype(np.int64)
            weights = self.accessor(attributes[f"WEIGHTS_{place}"])
            for joint, weight in zip(joints.T, weights.T, strict=True):
                there = np.einsum("vij,vj->vi", matrices[joint][:, :3, :3], points) + matrices[joint][:, :3, 3]
                moved += weight[:, None] * there
                total += weight[:, None]
            place += 1
        return moved / np.where(total > 0, total, 1)

    def coordinates(self, index: int) -> tuple[int, Float[np.ndarray, "3 3"]]:
        """Find the set of texture coordinates that a material's picture uses, and their transformation (v down)."""
        info = self._base_picture(index)
        transform = np.eye(3)
        extra = info.get("extensions", {}).get("KHR_texture_transform", {})
        if extra:
            # The rotation is counter-clockwise as seen, with v down, as in Khronos' sample viewer.
            c, s = np.cos(extra.get("rotation", 0)), np.sin(extra.get("rotation", 0))
            transform[:2, :2] = np.array([[c, s], [-s, c]]) * np.array(extra.get("scale", [1, 1]))
            transform[:2, 2] = extra.get("offset", [0, 0])
        return extra.get("texCoord", info.get("texCoord", 0)), transform

    def _surface_of(self, index: int) -> tuple[dict, str, str]:
        """Return a material's properties, and the names of its base picture and colour in them."""
        if index < 0:
            return {}, "baseColorTexture", "baseColorFactor"
        material = self.tree["materials"][index]
        old = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if old is not None and "pbrMetallicRoughness" not in material:
            return old, "diffuseTexture", "diffuseFactor"
        return material.get("pbrMetallicRoughness", {}), "baseColorTexture", "baseColorFactor"

    def _base_picture(self, index: int) -> dict:
        values, picture, _ = self._surface_of(index)
        return values.get(picture, {})

    def material(self, index: int, dropped: list[str]) -> Material:
        """Read a material: its base colour, and its picture times that colour."""
        values, picture_name, color_name = self._surface_of(index)
        color = values.get(color_name)
        color = None if color is None else tuple(np.clip(color[:3], 0, 1))
        info = values.get(picture_name, {})
        if "index" not in info:
            return Material(color)
        texture = self.tree["textures"][info["index"]]
        source = texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source", texture.get("source"))
        sampler = self.tree["samplers"][texture["sampler"]] if "sampler" in texture else {}
        wrap = tuple(WRAPS.get(sampler.get(name, 10497), "repeat") for name in ("wrapS", "wrapT"))
        try:
            image = self.tree["images"][source]
            content = self._resource(image["uri"]) if "uri" in image else self.view(image["bufferView"])[0]
            picture = read_picture(bytes(content), background=None, upright=False)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error) if source is not None else "in a format that is not read"
            dropped.append(f"the picture of material {index} ({reason})")
            return Material(color)
        return Material(color, picture * np.float32(color) if color is not None else picture, wrap)


def _local(node: dict) -> Float[np.ndarray, "4 4"]:
    """Read a node's matrix: stored by columns, or as scale, then rotation (x, y, z, w), then translation."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1]), float)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", [1, 1, 1]), float)
    matrix[:3, 3] = node.get("translation", [0, 0, 0])
    return matrix
