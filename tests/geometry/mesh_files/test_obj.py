"""OBJ files as programs really write them, each by hand, with the right values known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lib.geometry import geodesics, mesh

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


def load(tmp_path, text: str | bytes, name: str = "a.obj", **options) -> mesh.Mesh:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return mesh.load_mesh(tmp_path / name, **options)


def area(loaded: mesh.Mesh) -> float:
    return float(mesh.face_areas(loaded.verts, loaded.faces).sum())


@pytest.mark.parametrize(
    "face", ["f -3 -2 -1", "f -3/-3 -2/-2 -1/-1", "f -3//-1 -2//-1 -1//-1", "f -3/-3/-1 -2/-2/-1 -1/-1/-1"]
)
def test_relative_indices_count_from_their_line(tmp_path, face):
    part = "v 0 0 {0}\nv 1 0 {0}\nv 0 1 {0}\nvt 0 {1}\nvt 1 {1}\nvt 0 1\nvn 0 0 1\n" + face + "\n"
    loaded = load(tmp_path, part.format(0, 0) + part.format(5, 0.5))
    assert loaded.verts[loaded.faces][..., 2].tolist() == [[0] * 3, [5] * 3]
    if "/-3" in face:
        assert loaded.uvs[loaded.faces][:, 0, 1].tolist() == [0, 0.5]


CUBE = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
QUADS = [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]


@pytest.mark.parametrize("textured", [False, True])
def test_normals_and_equal_texture_coordinates_tear_nothing(tmp_path, textured):
    """A flat-shaded cube has six normals, and an exporter may repeat texture coordinates with equal values."""
    text = "".join("v {} {} {}\n".format(*corner) for corner in CUBE) + "vn 0 0 1\n" * 6
    faces = ""
    for k, quad in enumerate(QUADS, 1):
        text += "".join("vt {} {}\n".format(*CUBE[i - 1][:2]) for i in quad) if textured else ""
        places = [f"{i}/{4 * k - 3 + j if textured else ''}/{k}" for j, i in enumerate(quad)]
        faces += "f " + " ".join(places) + "\n"
    loaded = load(tmp_path, text + faces)
    assert loaded.verts.tolist() == [list(map(float, corner)) for corner in CUBE]
    assert geodesics.geodesic_distances(loaded.verts, loaded.faces, [0]).isfinite().all()


def test_a_seam_repeats_its_vertices_behind_all_others(tmp_path):
    text = "v 9 9 9\nv 0 0 0\nv 1 0 1\nv 0 1 2\nv 1 1 3\nvt 0 0\nvt 1 0\nvt 0 1\nvt 0.5 0.5\n"
    loaded = load(tmp_path, text + "f 2/1 3/2 4/3\nf 4/4 3/2 5/1\n")
    assert loaded.verts[:, 2].tolist() == [9, 0, 1, 2, 3, 2]
    assert loaded.uvs[loaded.faces].tolist() == [[[0, 0], [1, 0], [0, 1]], [[0.5, 0.5], [1, 0], [0, 0]]]
    alone = mesh.load_mesh(tmp_path / "a.obj", appearance=False)
    assert alone.uvs is None and alone.faces.tolist() == [[1, 2, 3], [3, 2, 4]]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 2), (0, 2), (0, 0), (2, 0), (2, 1), (1, 1)], 3),
        ([(2, -2), (0.5, 0), (2, 2), (0, 0)], 1),
        ([(0, 0), (2, 0), (2, 2), (1, 0.5), (0, 2)], 2.5),
        ([(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)], 2),
        ([(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)], 8),
    ],
    ids=["L", "arrow", "notch", "corners on a line", "hole with a bridge"],
)
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("place", [(0.0, 1.0), (1e4, 1.0), (0.0, 1e-6)])
def test_polygons_of_any_shape_keep_their_area_and_side(tmp_path, points, expected, turn, place):
    shift, scale = place
    points = points[turn:] + points[:turn] if len(points) < 10 else points
    tilt = np.linalg.qr(np.random.default_rng(turn).normal(size=(3, 3)))[0]
    tilt *= np.sign(np.linalg.det(tilt))
    corners = scale * np.array([(x, y, 0) for x, y in points]) @ tilt.T + shift
    text = "".join(f"v {x!r} {y!r} {z!r}\n" for x, y, z in corners.tolist())
    loaded = load(tmp_path, text + "f " + " ".join(map(str, range(1, len(points) + 1))) + "\n", dtype=torch.float64)
    assert area(loaded) == pytest.approx(expected * scale**2, rel=1e-6)
    normals = mesh.face_normals(loaded.verts, loaded.faces)
    torch.testing.assert_close(normals, torch.tensor(tilt[:, 2]).expand_as(normals), atol=1e-4, rtol=0)


def test_a_polygon_that_crosses_itself_is_refused(tmp_path):
    for points in ([(0, 0), (1, 1), (1, 0), (0, 1)], [(0, 0), (3, 2), (3, 0), (0, 1)]):
        with pytest.raises(ValueError, match=r"a\.obj: face 0 .*crosses itself"):
            load(tmp_path, "".join(f"v {x} {y} 0\n" for x, y in points) + "f 1 2 3 4\n")


def test_large_convex_polygons_and_repeated_corners(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    text = "".join(f"v {np.cos(a)} {np.sin(a)} 0\n" for a in angles)
    loaded = load(tmp_path, text + "f " + " ".join(map(str, range(1, 501))) + "\nf 1 2 2 3\n")
    assert len(loaded.faces) == 499
    assert area(loaded) == pytest.approx(np.pi, rel=1e-3)


def test_faces_without_texture_coordinates_are_no_seam(tmp_path):
    loaded = load(tmp_path, TRIANGLE + "v 1 1 0\nvt 0.25 0.5\nf 2 4 3\nf 1/1 2/1 3/1\n")
    assert loaded.faces.tolist() == [[1, 3, 2], [0, 1, 2]] and len(loaded.verts) == 4
    assert loaded.uvs.tolist() == [[0.25, 0.5]] * 3 + [[0, 0]]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_encodings_line_ends_comments_and_continued_lines(tmp_path, line_end, encoding):
    text = f"# Bär\no Bär\nv\t0  0 0 # first\n{TRIANGLE}\nf 1 \\\n 3 4 # last\n"
    loaded = load(tmp_path, text.replace("\n", line_end).encode(encoding))
    assert loaded.faces.tolist() == [[0, 2, 3]] and len(loaded.verts) == 4


def test_vertex_colours_and_weights(tmp_path):
    loaded = load(tmp_path, "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 0.5\nf 1 2 3\n")
    assert loaded.colors.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0.5]]
    loaded = load(tmp_path, "v 0 0 0 255 0 0\nv 1 0 0 0 255 0\nv 0 1 0\nf 1 2 3\n")
    assert loaded.colors.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
    assert load(tmp_path, "v 0 0 0 1\nv 1 0 0 1\nv 0 1 0 1\nf 1 2 3\n").colors is None


def test_several_materials_keep_vertices_and_colour_their_faces(tmp_path):
    (tmp_path / "m.mtl").write_text("newmtl a b\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n")
    text = "mtllib m.mtl\nv 0 0 0\nv 1 0 1\nv 0 1 2\nv 1 1 3\nusemtl b\nf 1 2 3\nusemtl a b\nf 2 4 3\n"
    loaded = load(tmp_path, text)
    assert loaded.verts[:, 2].tolist() == [0, 1, 2, 3, 1, 2]
    assert loaded.colors[loaded.faces].tolist() == [[[0, 0, 1]] * 3, [[1, 0, 0]] * 3]
    assert len(mesh.load_mesh(tmp_path / "a.obj", appearance=False).verts) == 4


def picture(path, *rows) -> None:
    Image.fromarray(np.array(rows, np.uint8)).save(path)


RED, GREEN, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]


def looks(loaded: mesh.Mesh, face: int, weights=(1 / 3, 1 / 3, 1 / 3)) -> list[float]:
    """The colour of a face's point, by texture."""
    u, v = (torch.tensor(weights) @ loaded.uvs[loaded.faces[face]]).tolist()
    height, width = loaded.texture.shape[1:]
    u, v = (x - np.floor(x) if not 0 <= x <= 1 else x for x in (u, v))
    return loaded.texture[:, min(int((1 - v) * height), height - 1), min(int(u * width), width - 1)].tolist()


def test_several_pictures_become_one_texture(tmp_path):
    picture(tmp_path / "one.png", [RED, GREEN])
    picture(tmp_path / "two.png", [BLUE, BLUE], [RED, RED], [BLUE, BLUE])
    (tmp_path / "m.mtl").write_text(
        "newmtl one\nKd 0 0 0\nmap_Kd one.png\nnewmtl two\nmap_Kd two.png\nnewmtl plain\nKd 1 1 0\n"
    )
    text = "mtllib m.mtl\n" + TRIANGLE + "vt 0 0\nvt 0.4 0\nvt 0 1\nvt 3.6 0\nvt 4 0\nvt 3.6 1\nvt 0 0.4\nvt 1 0.6\n"
    text += (
        "usemtl one\nf 1/1 2/2 3/3\nf 1/4 2/5 3/6\nusemtl two\nf 1/7 2/8 3/7\nusemtl plain\nf 1 2 3\nf 1/1 2/2 3/3\n"
    )
    loaded = load(tmp_path, text)
    assert [looks(loaded, face) for face in range(5)] == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert loaded.verts[:3].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_tiles_that_do_not_repeat_are_laid_out(tmp_path):
    picture(tmp_path / "t.png", [RED, GREEN])
    (tmp_path / "m.mtl").write_text("newmtl m\nmap_Kd -clamp on t.png\n")
    text = "mtllib m.mtl\nusemtl m\n" + TRIANGLE + "vt -2 0\nvt -1 0\nvt -2 1\nvt 2 2\nvt 3 2\nvt 2 3\n"
    loaded = load(tmp_path, text + "f 1/1 2/2 3/3\nf 1/4 2/5 3/6\n")
    assert looks(loaded, 0) == [1, 0, 0] and looks(loaded, 1) == [0, 1, 0]
    assert loaded.uvs.min() >= 0 and loaded.uvs.max() <= 1


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("", "t.png"),
        ("-s 1 1 1 -o 0.0 0 0 ", "t.png"),
        ("-blendu on -mm 0 1 ", "a wide picture.png"),
        ("", r"C:\things\T.PNG"),
        ("", "maps\\t.png"),
    ],
)
def test_pictures_are_found_as_other_systems_name_them(tmp_path, option, name):
    (tmp_path / "maps").mkdir()
    real = {"maps\\t.png": "maps/t.png", r"C:\things\T.PNG": "t.png"}.get(name, name)
    picture(tmp_path / real, [GREEN])
    (tmp_path / "the library.mtl").write_text(f"newmtl m\nmap_Kd {option}{name}\n")
    text = "mtllib the library.mtl\nusemtl m\n" + TRIANGLE + "vt 0 0\nf 1/1 2/1 3/1\n"
    assert looks(load(tmp_path, text), 0) == [0, 1, 0]


def test_scale_and_shift_of_a_picture(tmp_path):
    picture(tmp_path / "t.png", [RED, GREEN])
    (tmp_path / "m.mtl").write_text("newmtl m\nmap_Kd -s 2 1 -o 0.5 0.25 t.png\n")
    loaded = load(tmp_path, "mtllib m.mtl\nusemtl m\n" + TRIANGLE + "vt 0.1 0.1\nf 1/1 2/1 3/1\n")
    torch.testing.assert_close(loaded.uvs[0], torch.tensor([0.7, 0.35]))


def test_what_is_missing_is_warned_of_once(tmp_path):
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 0 1 0\nmap_Kd gone.png\n")
    text = "mtllib m.mtl\nmtllib gone.mtl\nusemtl m\n" + TRIANGLE + "f 1 2 3\nl 1 2\nl 2 3\n"
    with pytest.warns(UserWarning, match=r"a\.obj: left out 2 lines; .*gone\.png.*; .*gone\.mtl") as caught:
        loaded = load(tmp_path, text)
    assert len(caught) == 1
    assert loaded.colors[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f 0 1 2", "faces point to vertex -1"),
        ("f 1 2 -4", "faces point to vertex -1"),
        ("f 1 2 x", "line 4"),
        ("f 1 2", "face 0 has 2 corners"),
        ("f 1/1 2/2 3/3", "texture coordinate 3 of 0"),
        ("v 1,5 2,0 3,0\nf 1 2 3", "'v 1,5 2,0 3,0'"),
        ("v 1\nf 1 2 3", "'v 1'"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"a\.obj.*{message}") as caught:
        load(tmp_path, TRIANGLE + text + "\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e8])
@pytest.mark.parametrize("ending", ["obj", "ply"])
def test_no_digit_is_lost_on_the_way(tmp_path, dtype, scale, ending):
    sphere = mesh.icosphere(1)
    saved = mesh.Mesh(scale * sphere.verts.to(dtype) / 3, sphere.faces, colors=sphere.verts.abs())
    mesh.save_mesh(tmp_path / f"s.{ending}", saved)
    loaded = mesh.load_mesh(tmp_path / f"s.{ending}", dtype=dtype)
    assert torch.equal(loaded.verts, saved.verts)
    if ending == "obj":
        torch.testing.assert_close(loaded.colors, saved.colors, rtol=0, atol=1e-7)


def test_texture_and_colours_are_both_kept(tmp_path):
    sphere = mesh.icosphere(0)
    colors = torch.arange(36).view(12, 3) / 255
    for texture in (None, torch.rand(3, 4, 4)):
        saved = mesh.Mesh(sphere.verts, sphere.faces, torch.rand(12, 2), texture, colors)
        for ending in ("obj", "glb"):
            mesh.save_mesh(tmp_path / f"s.{ending}", saved)
            loaded = mesh.load_mesh(tmp_path / f"s.{ending}")
            torch.testing.assert_close(loaded.colors, colors, rtol=0, atol=1e-6)
            torch.testing.assert_close(loaded.uvs, saved.uvs)
            assert (loaded.texture is None) == (texture is None)


def test_float32_that_loses_digits_is_warned_of(tmp_path):
    text = "v 5000000.3 0 0\nv 5000009.0625 0 0\nv 5000000.3 8.03125 0\nf 1 2 3\n"
    with pytest.warns(UserWarning, match=r"float32 rounds its positions.*dtype=torch\.float64"):
        load(tmp_path, text)
    exact = mesh.load_mesh(tmp_path / "a.obj", dtype=torch.float64)
    assert exact.verts[0, 0] == 5000000.3
    with pytest.warns(UserWarning, match="float32 rounds its positions"):
        mesh.save_mesh(tmp_path / "a.glb", exact)
    with pytest.raises(ValueError, match=r"zero area.*float32 flattens them"):
        load(tmp_path, "v 0 0.3 0\nv 1 0.3 0\nv 0.5 0.300000001 0\nf 1 2 3\n")
    far = exact.with_verts(exact.verts + 1e12)
    with pytest.raises(ValueError, match="cannot tell these positions apart"):
        mesh.save_mesh(tmp_path / "a.glb", far)
    with pytest.raises(TypeError, match="dtype must be"):
        mesh.load_mesh(tmp_path / "a.obj", dtype=torch.float16)


def test_a_vertex_needs_three_numbers(tmp_path):
    with pytest.raises(ValueError, match="'v 1 0' has not 3 numbers; export it again"):
        load(tmp_path, "v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n")
    uvs = load(tmp_path, TRIANGLE + "vt 0.5\nvt 0.25 1\nvt 0\nf 1/1 2/2 3/3\n").uvs
    assert uvs.tolist() == [[0.5, 0], [0.25, 1], [0, 0]]


def test_a_comment_ends_with_its_line(tmp_path):
    loaded = load(tmp_path, "# from C:\\models\\\n" + TRIANGLE + "v 5 5 5\nf 1 2 \\\n 3\n")
    assert loaded.verts[0].tolist() == [0, 0, 0] and loaded.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("ending", ["obj", "glb"])
def test_half_precision_is_written(tmp_path, ending):
    triangle = load(tmp_path, TRIANGLE + "f 1 2 3\n")
    uvs, colors = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.eye(3)
    saved = mesh.Mesh(triangle.verts, triangle.faces, uvs.bfloat16(), torch.ones(3, 2, 2), colors.bfloat16())
    mesh.save_mesh(tmp_path / f"b.{ending}", saved)
    loaded = mesh.load_mesh(tmp_path / f"b.{ending}")
    assert torch.equal(loaded.uvs, uvs) and torch.equal(loaded.colors, colors)
