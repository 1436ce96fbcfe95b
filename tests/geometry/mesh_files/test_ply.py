"""PLY, OFF and STL files: every number type, mixed polygons, colours of vertices and faces."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from lib.geometry import geodesics, mesh

KINDS = {"uchar": "B", "ushort": "H", "uint": "I", "int": "i", "float": "f", "double": "d"}


def ply(path, vertex: dict, rows: list, faces: list, face: dict | None = None, form="ascii", comments=(), **names):
    """Write a PLY file; faces are lists of indices, `face` the further properties of a face by name."""
    index = names.get("index", "vertex_indices")
    face = face or {}
    header = ["ply", f"format {form} 1.0", *(f"comment {text}" for text in comments), f"element vertex {len(rows)}"]
    header += [f"property {kind} {name}" for name, kind in vertex.items()]
    header += [f"element face {len(faces)}", f"property list uchar int {index}"]
    header += [f"property {kind} {name}" for name, kind in face.items()]
    head = ("\n".join(header) + "\nend_header\n").encode()
    if form == "ascii":
        lines = [" ".join(map(str, row)) for row in rows]
        lines += [" ".join(map(str, [len(corners), *corners, *more])) for corners, *more in faces]
        path.write_bytes(head + ("\n".join(lines) + "\n").encode())
        return
    order = "<" if "little" in form else ">"
    body = b"".join(struct.pack(order + "".join(KINDS[kind] for kind in vertex.values()), *row) for row in rows)
    for corners, *more in faces:
        body += struct.pack(order + "B" + "i" * len(corners), len(corners), *corners)
        body += struct.pack(order + "".join(KINDS[kind] for kind in face.values()), *more)
    path.write_bytes(head + body)


XYZ = {"x": "float", "y": "float", "z": "float"}
SQUARE = [[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0], [9, 9, 9]]
FORMS = ["ascii", "binary_little_endian", "binary_big_endian"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", ["vertex_indices", "vertex_index"])
def test_mixed_and_concave_polygons(tmp_path, form, index):
    ply(tmp_path / "a.ply", XYZ, SQUARE, [[[0, 1, 2, 3, 4, 5]], [[0, 5, 4]], [[0, 1, 2, 3]]], form=form, index=index)
    loaded = mesh.load_mesh(tmp_path / "a.ply")
    assert loaded.verts.tolist() == SQUARE
    areas = mesh.face_areas(loaded.verts, loaded.faces)
    assert [areas[:4].sum(), areas[4], areas[5:].sum()] == [3, 1, 1.5]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "full"), [("uchar", 255), ("ushort", 65535), ("uint", 255), ("int", 255), ("float", 1.0), ("double", 1.0)]
)
def test_colours_of_every_number_type(tmp_path, form, kind, full):
    color = {name: kind for name in ("red", "green", "blue", "alpha")}
    half = full // 2 if full > 1 else 0.5
    rows = [[*point, full, half, 0, full] for point in SQUARE]
    ply(tmp_path / "v.ply", XYZ | color, rows, [[[0, 1, 2]]], form=form)
    ply(tmp_path / "f.ply", XYZ, SQUARE, [[[0, 1, 2], full, half, 0, 0], [[0, 2, 4], 0, 0, full, 0]], color, form)
    loaded = mesh.load_mesh(tmp_path / "v.ply")
    torch.testing.assert_close(loaded.colors, torch.tensor([1, 0.5, 0]).expand(7, 3), atol=3e-3, rtol=0)
    loaded = mesh.load_mesh(tmp_path / "f.ply")
    expected = torch.tensor([[1, 0.5, 0], [0, 0, 1]])[:, None].expand(2, 3, 3)
    torch.testing.assert_close(loaded.colors[loaded.faces], expected, atol=3e-3, rtol=0)
    assert loaded.verts[:7].tolist() == SQUARE and len(loaded.verts) == 9


@pytest.mark.parametrize("names", [("s", "t"), ("u", "v"), ("texture_u", "texture_v")])
def test_texture_coordinates_and_picture(tmp_path, names):
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)).save(tmp_path / "a picture.png")
    rows = [[*point, 0.75, 0.5] for point in SQUARE]
    fields = XYZ | {name: "float" for name in names}
    ply(tmp_path / "a.ply", fields, rows, [[[0, 1, 2]]], comments=["TextureFile a picture.png"])
    loaded = mesh.load_mesh(tmp_path / "a.ply")
    assert loaded.uvs[0].tolist() == [0.75, 0.5]
    assert loaded.texture[:, 0, 1].tolist() == [0, 1, 0]
    (tmp_path / "a picture.png").unlink()
    with pytest.warns(UserWarning, match=r"a picture\.png, which is not there"):
        assert mesh.load_mesh(tmp_path / "a.ply").texture is None


def test_texture_coordinates_of_faces_make_seams(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 2\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\nend_header\n"
    body = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2 6 0 0 1 0 1 1\n3 0 2 3 6 0 0 0.5 0.5 0 1\n"
    (tmp_path / "a.ply").write_text(head + body)
    loaded = mesh.load_mesh(tmp_path / "a.ply")
    assert loaded.verts.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert loaded.uvs[loaded.faces].tolist() == [[[0, 0], [1, 0], [1, 1]], [[0, 0], [0.5, 0.5], [0, 1]]]


def test_triangle_strips_and_double_positions(tmp_path):
    head = "ply\r\nformat ascii 1.0\r\nobj_info 1\r\nelement vertex 4\r\nproperty double x\r\nproperty double y\r\n"
    head += "property double z\r\nelement tristrips 1\r\nproperty list int int vertex_indices\r\nend_header\r\n"
    (tmp_path / "a.ply").write_text(head + "0 0 0.1\r\n1 0 0\r\n0 1 0\r\n1 1 0\r\n8 0 1 2 3 -1 0 1 3\r\n", newline="")
    loaded = mesh.load_mesh(tmp_path / "a.ply", dtype=torch.float64)
    assert loaded.faces.tolist() == [[0, 1, 2], [2, 1, 3], [0, 1, 3]]
    assert loaded.verts[0, 2] == 0.1


@pytest.mark.parametrize("form", FORMS)
def test_cut_off_files_are_named(tmp_path, form):
    path = tmp_path / "a.ply"
    ply(path, XYZ, SQUARE, [[[0, 1, 2]], [[0, 1, 2, 3]]], form=form)
    whole = path.read_bytes()
    for length in (2, 40, 150, len(whole) - 30, len(whole) - 6):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.ply") as caught:
            mesh.load_mesh(path)
        assert "\n" not in str(caught.value)
    ply(path, XYZ, SQUARE, [[[0, 1, 7]]], form=form)
    with pytest.raises(ValueError, match=r"a\.ply: faces point to vertex 7"):
        mesh.load_mesh(path)


# ------------------------------------------------------------------------------------------- OFF and STL

CORNERS = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"


@pytest.mark.parametrize(
    "head", ["OFF\n4 2 0\n", "OFF 4 2 0\n", "OFF4 2 0\n", "OFF\n# made by hand\n\n4 2 0\n", "OFF\r\n4 2 0\r\n"]
)
def test_off_as_in_modelnet(tmp_path, head):
    (tmp_path / "a.off").write_text(head + CORNERS + "3 0 1 2 255 0 0\n4 0 1 2 3 0 0 255\n", newline="")
    loaded = mesh.load_mesh(tmp_path / "a.off")
    assert loaded.faces.tolist()[0] == [0, 1, 2]
    assert loaded.colors[loaded.faces[0]].tolist() == [[1, 0, 0]] * 3


def test_off_with_colours_and_concave_polygons(tmp_path):
    rows = "2 -2 0 0.5 0 0\n0.5 0 0 0 0.5 0\n2 2 0 0 0 0.5\n0 0 0 1 1 1\n"
    (tmp_path / "a.off").write_text(f"COFF\n4 1 0\n{rows}4 0 1 2 3\n")
    loaded = mesh.load_mesh(tmp_path / "a.off")
    assert mesh.face_areas(loaded.verts, loaded.faces).sum() == 1
    assert loaded.colors[1].tolist() == [0, 0.5, 0]
    for text in (
        "OFF\n4 2 0\n" + CORNERS + "3 0 1 2\n",
        "4OFF\n4 1 0\n",
        "hello\n",
        "OFF\n4 1 0\n" + CORNERS + "3 0 1\n",
    ):
        (tmp_path / "a.off").write_text(text)
        with pytest.raises(ValueError, match=r"a\.off"):
            mesh.load_mesh(tmp_path / "a.off")


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_stl_is_joined(tmp_path, kind):
    sphere = mesh.icosphere(1)
    corners = sphere.verts[sphere.faces].numpy()
    if kind == "binary":
        rows = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        rows["corners"] = corners
        (tmp_path / "a.stl").write_bytes(b"\0" * 80 + struct.pack("<I", len(rows)) + rows.tobytes())
    else:
        text = "".join(
            "facet normal 0 0 0\nouter loop\n"
            + "".join("vertex {!r} {!r} {!r}\n".format(*row) for row in face)
            + "endloop\nendfacet\n"
            for face in corners.tolist()
        )
        (tmp_path / "a.stl").write_text(f"solid a\n{text}endsolid a\n")
    loaded = mesh.load_mesh(tmp_path / "a.stl")
    assert loaded.verts.shape == sphere.verts.shape
    torch.testing.assert_close(loaded.verts[loaded.faces], sphere.verts[sphere.faces])
    assert geodesics.geodesic_distances(loaded.verts, loaded.faces, [0]).isfinite().all()


@pytest.mark.parametrize("name", ["a.dae", "a.3mf", "a.fbx", "a.zip", "a.xyz", "a"])
def test_other_formats_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("0 0 0\n")
    with pytest.raises(ValueError, match=rf"{name} is not read; export it as \.obj"):
        mesh.load_mesh(tmp_path / name)


def test_numbers_beyond_their_type_do_not_wrap(tmp_path):
    ply(tmp_path / "a.ply", XYZ, SQUARE, [([0, 1, 4294967298],)])
    with pytest.raises(ValueError, match="faces point to vertex 4294967298, the file has 0 … 6"):
        mesh.load_mesh(tmp_path / "a.ply")
    colored = [[*point, 300, -1, 0] for point in SQUARE]
    ply(tmp_path / "b.ply", XYZ | dict.fromkeys(("red", "green", "blue"), "uchar"), colored, [([0, 1, 2],)])
    assert mesh.load_mesh(tmp_path / "b.ply").colors[0].tolist() == [1, 0, 0]


def test_a_vertex_of_an_off_needs_three_coordinates(tmp_path):
    (tmp_path / "a.off").write_text("OFF\n6 1 0\n0 0\n1 0\n0 1\n1 1\n2 2\n3 5\n3 0 1 2\n")
    with pytest.raises(ValueError, match="has a vertex with fewer than three coordinates; export it again"):
        mesh.load_mesh(tmp_path / "a.off")
