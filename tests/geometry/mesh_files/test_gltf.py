"""glTF files, put together byte by byte: number types, materials, the scene's places, what is refused."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.geometry import mesh

COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")


class Gltf:
    """A glTF file in the making."""

    def __init__(self) -> None:
        self.bytes = b""
        self.tree = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], "meshes": [{"primitives": []}]}
        self.tree |= {"nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}]}

    def add(self, values, stride: int = 0, **more) -> int:
        values = np.atleast_2d(np.asarray(values))
        values = values.T if values.shape[0] == 1 and values.shape[1] > 1 and more.pop("flat", False) else values
        rows = values.tobytes()
        if stride:
            size = values.dtype.itemsize * values.shape[1]
            rows = b"".join(rows[i : i + size].ljust(stride, b"\x7f") for i in range(0, len(rows), size))
        view = {"buffer": 0, "byteOffset": len(self.bytes), "byteLength": len(rows)} | (
            {"byteStride": stride} if stride else {}
        )
        self.bytes += rows + b"\0" * (-len(rows) % 4)
        self.tree["bufferViews"].append(view)
        accessor = {"bufferView": len(self.tree["bufferViews"]) - 1, "componentType": COMPONENTS[values.dtype.str[1:]]}
        accessor |= {"count": len(values), "type": TYPES[values.shape[1]]} | more
        self.tree["accessors"].append(accessor)
        return len(self.tree["accessors"]) - 1

    def primitive(self, points=TRIANGLE, indices=None, material=None, **attributes) -> dict:
        made = {"attributes": {"POSITION": points if isinstance(points, int) else self.add(points)} | attributes}
        if indices is not None:
            made["indices"] = self.add(indices, flat=True)
        if material is not None:
            made["material"] = material
        self.tree["meshes"][0]["primitives"].append(made)
        return made

    def picture(self, *rows, **sampler) -> int:
        buffer = io.BytesIO()
        Image.fromarray(np.array(rows, np.uint8)).save(buffer, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        for name, entry in (("images", {"uri": uri}), ("samplers", sampler)):
            self.tree.setdefault(name, []).append(entry)
        last = len(self.tree["images"]) - 1
        self.tree.setdefault("textures", []).append({"source": last, "sampler": last})
        return last

    def material(self, **values) -> int:
        self.tree.setdefault("materials", []).append({"pbrMetallicRoughness": values})
        return len(self.tree["materials"]) - 1

    def load(self, tmp_path, kind: str = "gltf", **options) -> mesh.Mesh:
        path = tmp_path / f"a.{kind}"
        buffer = {"byteLength": len(self.bytes)}
        if kind == "glb":
            text = json.dumps(self.tree | {"buffers": [buffer]}).encode()
            text += b" " * (-len(text) % 4)
            chunks = len(text).to_bytes(4, "little") + b"JSON" + text
            chunks += len(self.bytes).to_bytes(4, "little") + b"BIN\0" + self.bytes
            path.write_bytes(b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks)
        else:
            (tmp_path / "the data.bin").write_bytes(self.bytes)
            path.write_text(json.dumps(self.tree | {"buffers": [buffer | {"uri": "the%20data.bin"}]}))
        return mesh.load_mesh(path, **options)


@pytest.mark.parametrize("kind", ["gltf", "glb"])
@pytest.mark.parametrize("stride", [0, 12])
@pytest.mark.parametrize(("dtype", "half"), [("u1", 128), ("u2", 32768), ("f4", 0.5)])
def test_colours_and_texture_coordinates_of_every_type(tmp_path, kind, stride, dtype, half):
    file = Gltf()
    uvs = file.add(np.full((3, 2), half, dtype), stride and 4 * (1 + (dtype == "f4")), normalized=dtype != "f4")
    colors = file.add(np.full((3, 4), half, dtype), stride and 16, normalized=dtype != "f4")
    file.primitive(TEXCOORD_0=uvs, COLOR_0=colors, indices=np.arange(3, dtype="u2"))
    loaded = file.load(tmp_path, kind)
    torch.testing.assert_close(loaded.uvs, torch.full((3, 2), 0.5), atol=3e-3, rtol=0)
    torch.testing.assert_close(loaded.colors, torch.full((3, 3), 0.5), atol=3e-3, rtol=0)
    assert loaded.verts.tolist() == TRIANGLE.tolist()


def test_quantised_positions_and_sparse_accessors(tmp_path):
    file = Gltf()
    file.tree |= {"extensionsRequired": ["KHR_mesh_quantization"]}
    file.tree["nodes"][0]["scale"] = [2, 2, 2]
    file.primitive(np.array([[0, 0, 0], [127, 0, 0], [0, 127, 0]], "i1"))
    file.tree["accessors"][0]["normalized"] = True
    rows = file.add(np.array([2], "u2"), flat=True)
    values = file.add(np.array([[0, 0, 127]], "i1"))
    sparse = {"indices": {"bufferView": rows, "componentType": 5123}, "values": {"bufferView": values}, "count": 1}
    file.tree["accessors"][0]["sparse"] = sparse
    assert file.load(tmp_path).verts.tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize("factor", [None, [1.0, 0.5, 0.25, 1.0]])
def test_vertex_colours_beside_a_material(tmp_path, factor):
    file = Gltf()
    material = file.material(metallicFactor=0, **({"baseColorFactor": factor} if factor else {}))
    file.primitive(material=material, COLOR_0=file.add(np.full((3, 4), 255, "u1"), normalized=True))
    assert file.load(tmp_path).colors[0].tolist() == (factor or [1.0, 1.0, 1.0])[:3]


def test_base_colours_and_pictures_become_one_texture(tmp_path):
    file = Gltf()
    picture = file.picture([[255, 0, 0], [0, 255, 0]])
    coordinates = file.add(np.array([[0.6, 0.5], [0.9, 0.5], [0.6, 0.9]], "f4"))
    points = file.add(TRIANGLE)
    textured = file.material(baseColorTexture={"index": picture}, baseColorFactor=[1, 0.5, 1, 1])
    file.primitive(points, material=textured, TEXCOORD_0=coordinates)
    file.primitive(points, material=file.material(baseColorFactor=[0, 0, 1, 1]), TEXCOORD_0=coordinates)
    loaded = file.load(tmp_path)
    assert loaded.verts[:3].tolist() == TRIANGLE.tolist(), "primitives that share their vertices keep them"
    for face, expected in ((0, [0, 0.5, 0]), (1, [0, 0, 1])):
        u, v = loaded.uvs[loaded.faces[face]].mean(0).tolist()
        height, width = loaded.texture.shape[1:]
        assert loaded.texture[:, int((1 - v) * height), int(u * width)].tolist() == expected


def test_colours_of_materials_alone(tmp_path):
    file = Gltf()
    points = file.add(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], "f4"))
    for color, indices in (([1, 0, 0, 1], [0, 1, 2]), ([0, 1, 0, 1], [2, 1, 3])):
        file.primitive(points, np.array(indices, "u1"), file.material(baseColorFactor=color))
    loaded = file.load(tmp_path)
    assert loaded.colors[loaded.faces].tolist() == [[[1, 0, 0]] * 3, [[0, 1, 0]] * 3]
    assert len(file.load(tmp_path, appearance=False).verts) == 4


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [({}, [1, 0, 0]), ({"wrapS": 33071, "wrapT": 33071}, [0, 1, 0]), ({"wrapS": 33648, "wrapT": 33071}, [0, 1, 0])],
)
def test_wrapping_of_the_sampler(tmp_path, wrap, expected):
    file = Gltf()
    texture = file.picture([[255, 0, 0], [0, 255, 0]], **wrap)
    file.primitive(
        material=file.material(baseColorTexture={"index": texture}),
        TEXCOORD_0=file.add(np.array([[1.25, 0.5]] * 3, "f4")),
    )
    loaded = file.load(tmp_path)
    u, v = loaded.uvs[0].tolist()
    height, width = loaded.texture.shape[1:]
    assert loaded.texture[:, int((1 - v) * height), int((u - np.floor(u)) * width)].tolist() == expected


def test_other_coordinates_and_their_transform(tmp_path):
    file = Gltf()
    transform = {"offset": [0.1, 0.2], "scale": [0.5, 2], "rotation": np.pi / 2}
    info = {"index": file.picture([[255, 0, 0]]), "texCoord": 1, "extensions": {"KHR_texture_transform": transform}}
    file.primitive(
        material=file.material(baseColorTexture=info),
        TEXCOORD_0=file.add(np.zeros((3, 2), "f4")),
        TEXCOORD_1=file.add(np.array([[0.4, 0.1]] * 3, "f4")),
    )
    # Counter-clockwise by a right angle, with v down: (u, v) → (v, −u).
    torch.testing.assert_close(file.load(tmp_path).uvs[0], torch.tensor([0.1 + 0.2, 1 - (0.2 - 0.2)]))


def test_nodes_instances_and_mirrors(tmp_path):
    file = Gltf()
    file.primitive()
    file.tree["nodes"] = [
        {"children": [1, 2], "translation": [0, 0, 5], "rotation": [0, 0, np.sqrt(0.5), np.sqrt(0.5)]},
        {"mesh": 0, "scale": [2, 2, 2]},
        {"mesh": 0, "matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 3, 0, 0, 1]},
        {"mesh": 0},
    ]
    file.tree["scenes"] = [{"nodes": [3]}, {"nodes": [0]}]
    file.tree["scene"] = 1
    loaded = file.load(tmp_path)
    expected = [[0, 0, 5], [0, 2, 5], [-2, 0, 5], [0, 3, 5], [0, 2, 5], [-1, 3, 5]]
    torch.testing.assert_close(loaded.verts, torch.tensor(expected).float(), atol=1e-6, rtol=0)
    assert (mesh.face_normals(loaded.verts, loaded.faces)[:, 2] > 0).all(), "a mirrored node turns its faces over"


def test_strips_fans_morphs_and_skins(tmp_path):
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], "f4")
    for mode, expected in ((5, [[0, 1, 2], [2, 1, 3]]), (6, [[0, 1, 2], [0, 2, 3]])):
        file = Gltf()
        file.primitive(square)["mode"] = mode
        assert file.load(tmp_path).faces.tolist() == expected
    file = Gltf()
    file.primitive()["targets"] = [{"POSITION": file.add(np.array([[0, 0, 2]] * 3, "f4"))}]
    file.tree["meshes"][0]["weights"] = [0.5]
    assert file.load(tmp_path).verts[:, 2].tolist() == [1, 1, 1]
    file = Gltf()
    joints, weights = np.array([[0, 1, 0, 0]] * 3, "u1"), np.array([[0.5, 0.5, 0, 0]] * 3, "f4")
    file.primitive(JOINTS_0=file.add(joints), WEIGHTS_0=file.add(weights))
    file.tree["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [100, 0, 0]},
        {"translation": [0, 0, 2]},
        {"translation": [0, 4, 0]},
    ]
    file.tree["scenes"] = [{"nodes": [0, 1, 2]}]
    bind = np.tile(np.eye(4, dtype="f4").reshape(1, 16), (2, 1))
    file.tree["skins"] = [{"joints": [1, 2], "inverseBindMatrices": file.add(bind)}]
    assert file.load(tmp_path).verts[0].tolist() == [0, 2, 1], "a skin ignores the place of its own node"


@pytest.mark.parametrize("extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "XYZ_unknown"])
def test_required_extensions_are_refused_by_name(tmp_path, extension):
    file = Gltf()
    file.primitive()
    file.tree["extensionsRequired"] = [extension]
    with pytest.raises(ValueError, match=rf"a\.gltf: needs the extension {extension}.*export it"):
        file.load(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path):
    def broken(change) -> str:
        file = Gltf()
        file.primitive(indices=np.arange(3, dtype="u2"))
        change(file)
        with pytest.raises(ValueError, match=r"a\.gltf") as caught:
            file.load(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "version" in broken(lambda file: file.tree["asset"].update(version="1.0"))
    assert "fewer bytes" in broken(lambda file: file.tree["accessors"][0].update(count=9))
    assert "vertex 7" in broken(lambda file: file.primitive(indices=np.array([0, 1, 7], "u2")))
    assert "rows; export" in broken(lambda file: file.tree["accessors"][0].update(count=10**12))
    assert "rows; export" in broken(lambda file: file.tree["accessors"][0].update(count=-3))
    assert "apart; export" in broken(lambda file: file.tree["bufferViews"][0].update(byteStride=-12))
    assert "apart; export" in broken(lambda file: file.tree["bufferViews"][0].update(byteStride=4))
    assert "apart; export" in broken(lambda file: file.tree["accessors"][0].update(byteOffset=-4))
    assert "negative place" in broken(lambda file: file.tree["bufferViews"][0].update(byteOffset=-4))
    huge = {"indices": {"bufferView": 0, "componentType": 5123}, "values": {"bufferView": 0}, "count": 1}

    def claim(file) -> None:
        del file.tree["accessors"][0]["bufferView"]
        file.tree["accessors"][0].update(count=10**10, sparse=huge)

    assert "accessor of 10000000000 rows" in broken(claim)

    def replace_row(file) -> None:
        rows = file.add(np.array([7], "u2"), flat=True)
        values = file.add(np.zeros((1, 3), "f4"))
        indices = {"bufferView": rows, "componentType": 5123}
        file.tree["accessors"][0]["sparse"] = {"indices": indices, "values": {"bufferView": values}, "count": 1}

    assert "replaces a row" in broken(replace_row)
    assert "circle" in broken(lambda file: file.tree["nodes"][0].update(children=[0]))
    assert "no triangles" in broken(lambda file: file.tree["meshes"][0]["primitives"][0].update(mode=1))
    file = Gltf()
    file.primitive()
    file.primitive()["mode"] = 0
    file.tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    file.tree |= {"images": [{"uri": "gone.png"}], "textures": [{"source": 0}]}
    with pytest.warns(UserWarning, match=r"a\.gltf: left out 1 primitives of points; the picture of material 0"):
        file.load(tmp_path)
