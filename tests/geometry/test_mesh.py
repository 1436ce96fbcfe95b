"""Meshes: the sphere, its identities, files there and back, and refusal of bad meshes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lib.geometry import mesh


def closed_mesh(seed: int = 0, subdivisions: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """A dented sphere in float64."""
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(sphere.verts.shape, generator=generator, dtype=torch.float64)
    return sphere.verts.double() * torch.tensor([1.2, 0.8, 1.0]) + 0.05 * noise, sphere.faces


def as_set(points: torch.Tensor) -> set:
    return set(map(tuple, points.tolist()))


@pytest.mark.parametrize("subdivisions", range(5))
def test_icosphere_is_a_closed_sphere(subdivisions):
    sphere = mesh.icosphere(subdivisions, radius=2.0)
    verts, faces = len(sphere.verts), len(sphere.faces)
    pairs = mesh.edges(sphere.faces)
    assert (verts, faces) == (10 * 4**subdivisions + 2, 20 * 4**subdivisions)
    assert verts - len(pairs) + faces == 2
    torch.testing.assert_close(sphere.verts.norm(dim=1), torch.full((verts,), 2.0))
    directed = torch.cat([sphere.faces, sphere.faces.roll(-1, 1)]).reshape(2, -1)
    assert len(torch.unique(directed, dim=1).T) == 2 * len(pairs), "each side once in each direction"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_icosphere_is_its_own_mirror_image_to_the_last_bit(axis):
    verts = mesh.icosphere(3, radius=0.7).verts
    mirrored = verts.clone()
    mirrored[:, axis] *= -1
    assert as_set(verts) == as_set(mirrored)
    permutation = mesh.mirror_permutation(verts, axis)
    assert torch.equal(verts[permutation], mirrored)
    assert torch.equal(permutation[permutation], torch.arange(len(verts)))


def test_faces_of_the_icosphere_are_mirrored_too():
    sphere = mesh.icosphere(3)
    mirrored = mesh.mirror_permutation(sphere.verts)[sphere.faces]
    assert as_set(sphere.faces.sort(1).values) == as_set(mirrored.sort(1).values)


def test_mirror_permutation_refuses_what_is_not_symmetric():
    verts = mesh.icosphere(1).verts.clone()
    verts[7] += 0.1
    with pytest.raises(ValueError, match="not symmetric in axis 2"):
        mesh.mirror_permutation(verts)
    with pytest.raises(ValueError, match="merge vertices"):
        mesh.mirror_permutation(torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, -1]]))
    with pytest.raises(ValueError, match="axis must be"):
        mesh.mirror_permutation(verts, axis=3)


def test_normals_point_outward_and_areas_add_up():
    sphere = mesh.icosphere(4)
    centers = sphere.verts[sphere.faces].mean(1)
    assert ((mesh.face_normals(sphere.verts, sphere.faces) * centers).sum(1) > 0.99).all()
    torch.testing.assert_close(mesh.vertex_normals(sphere.verts, sphere.faces), sphere.verts, atol=6e-3, rtol=0)
    assert abs(mesh.face_areas(sphere.verts, sphere.faces).sum() / (4 * math.pi) - 1) < 2e-3


def test_area_vectors_of_a_closed_surface_cancel():
    verts, faces = closed_mesh()
    vectors = mesh.face_normals(verts, faces) * mesh.face_areas(verts, faces)[:, None]
    torch.testing.assert_close(vectors.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_batches_are_meshes_one_by_one():
    verts, faces = closed_mesh()
    batch = torch.stack([verts, 2 * verts, verts.flip(1)])
    for function in (mesh.face_normals, mesh.face_areas, mesh.vertex_normals):
        together = function(batch[None], faces)[0]
        for one, alone in zip(batch, together, strict=True):
            torch.testing.assert_close(function(one, faces), alone)


@pytest.mark.parametrize("function", [mesh.face_normals, mesh.face_areas, mesh.vertex_normals])
def test_gradients(function):
    verts, faces = closed_mesh(subdivisions=0)
    assert torch.autograd.gradcheck(lambda v: function(v, faces), verts.requires_grad_())


def test_a_lonely_vertex_has_a_zero_normal_and_finite_gradient():
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]], requires_grad=True)
    normals = mesh.vertex_normals(verts, torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(normals, torch.tensor([[0.0, 0, 1]] * 3 + [[0, 0, 0]]))
    normals.sum().backward()
    assert torch.isfinite(verts.grad).all()


def test_subdivision_keeps_the_surface_and_its_attributes():
    sphere = mesh.icosphere(1)
    colored = mesh.Mesh(sphere.verts, sphere.faces, uvs=sphere.verts[:, :2], colors=sphere.verts.abs())
    finer = mesh.subdivide(colored)
    assert len(finer.verts) == len(sphere.verts) + len(mesh.edges(sphere.faces))
    assert len(finer.faces) == 4 * len(sphere.faces)
    assert torch.equal(finer.verts[: len(sphere.verts)], sphere.verts)
    torch.testing.assert_close(finer.uvs, finer.verts[:, :2])
    before, after = (mesh.face_areas(m.verts, m.faces) for m in (sphere, finer))
    torch.testing.assert_close(after.reshape(-1, 4), (before[:, None] / 4).expand(-1, 4))
    normals = mesh.face_normals(sphere.verts, sphere.faces).repeat_interleave(4, 0)
    torch.testing.assert_close(mesh.face_normals(finer.verts, finer.faces), normals, atol=1e-5, rtol=0)


def test_moving_and_sending_a_mesh_keeps_the_rest():
    sphere = mesh.icosphere(1)
    colored = mesh.Mesh(sphere.verts, sphere.faces, colors=sphere.verts.abs())
    moved = colored.with_verts(2 * sphere.verts).to("cpu")
    assert torch.equal(moved.colors, colored.colors) and torch.equal(moved.verts, 2 * sphere.verts)


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("ending", ["obj", "ply", "glb"])
@pytest.mark.parametrize("kind", ["plain", "colors", "texture"])
def test_files_there_and_back(tmp_path, ending, kind):
    sphere = mesh.icosphere(2)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (3, 6, 9), generator=generator) / 255
    attributes = {
        "plain": {},
        "colors": {"colors": torch.randint(0, 256, sphere.verts.shape, generator=generator) / 255},
        "texture": {"uvs": torch.rand(len(sphere.verts), 2, generator=generator), "texture": levels},
    }[kind]
    saved = mesh.Mesh(sphere.verts, sphere.faces, **attributes)
    path = tmp_path / f"ball.{ending}"
    if (ending, kind) == ("ply", "texture"):
        with pytest.raises(ValueError, match=r"use \.obj or \.glb"):
            mesh.save_mesh(path, saved)
        return
    mesh.save_mesh(path, saved)
    loaded = mesh.load_mesh(path)
    torch.testing.assert_close(loaded.verts, saved.verts, atol=1e-6, rtol=0)
    assert torch.equal(loaded.faces, saved.faces)
    for name in ("uvs", "texture", "colors"):
        value, expected = getattr(loaded, name), getattr(saved, name)
        if expected is None:
            assert value is None
        else:
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    expected_files = {"ball.obj", "ball.mtl", "ball.png"} if (ending, kind) == ("obj", "texture") else {path.name}
    assert {file.name for file in tmp_path.iterdir()} == expected_files, "and no temporary files"


def test_two_textured_objs_in_a_folder_keep_their_own_pictures(tmp_path):
    sphere = mesh.icosphere(0)
    for name, level in (("dark", 0.0), ("light", 1.0)):
        picture = torch.full((3, 2, 2), level)
        mesh.save_mesh(tmp_path / f"{name}.obj", mesh.Mesh(sphere.verts, sphere.faces, sphere.verts[:, :2], picture))
    assert mesh.load_mesh(tmp_path / "dark.obj").texture.max() == 0
    assert mesh.load_mesh(tmp_path / "light.obj").texture.min() == 1


def test_texture_rows_and_v_axis_follow_obj(tmp_path):
    """Written by hand, so that saving and loading cannot be wrong together: v = 1 is the picture's first row."""
    from PIL import Image

    Image.fromarray(np.array([[[255, 0, 0]], [[0, 0, 255]]], dtype=np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "p.mtl").write_text("newmtl p\nmap_Kd p.png\n")
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    (tmp_path / "p.obj").write_text(f"mtllib p.mtl\n{corners}usemtl p\nf 1/1 2/2 3/3\n")
    loaded = mesh.load_mesh(tmp_path / "p.obj")
    upper = int(loaded.verts[:, 1].argmax())
    assert loaded.uvs[upper, 1] == 1
    assert loaded.texture[:, 0, 0].tolist() == [1, 0, 0]


def test_polygons_are_cut_into_triangles(tmp_path):
    (tmp_path / "square.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    loaded = mesh.load_mesh(tmp_path / "square.obj")
    assert loaded.faces.shape == (2, 3)
    assert mesh.face_areas(loaded.verts, loaded.faces).sum() == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("points.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "points.obj"),
        ("far.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "far.obj"),
        ("flat.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "flat.obj: faces has 1 triangles of zero area"),
        ("nan.obj", "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "nan.obj: verts has NaN"),
        ("noise.glb", "this is not a mesh", "noise.glb cannot be read"),
        ("empty.ply", "", "empty.ply"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        mesh.load_mesh(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_and_unknown_ending(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.obj"):
        mesh.load_mesh(tmp_path / "nowhere.obj")
    with pytest.raises(ValueError, match=r"must end in \.obj, \.ply or \.glb"):
        mesh.save_mesh(tmp_path / "a.blend", mesh.icosphere(0))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "ball.ply"
    mesh.save_mesh(path, mesh.icosphere(0))
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="free space"):
        mesh.save_mesh(path, mesh.icosphere(1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------ bad meshes

TRIANGLE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
FACE = torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize(
    ("verts", "faces", "error", "message"),
    [
        (TRIANGLE, torch.tensor([[0, 1, 3]]), ValueError, "faces point to vertex 3"),
        (TRIANGLE, torch.tensor([[0, 1, -1]]), ValueError, "faces point to vertex -1"),
        (TRIANGLE * float("nan"), FACE, ValueError, "verts has NaN"),
        (TRIANGLE * torch.tensor([1.0, 0, 1]), FACE, ValueError, "1 triangles of zero area"),
        (TRIANGLE, torch.tensor([[0, 1, 1]]), ValueError, "1 triangles of zero area"),
        (TRIANGLE, torch.tensor([[0, 1, 2, 0]]), ValueError, "must be triangles, got 4 corners"),
        (TRIANGLE, torch.zeros(0, 3, dtype=torch.int64), ValueError, "the mesh is empty"),
        (torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), ValueError, "the mesh is empty"),
        (TRIANGLE[:, :2], FACE, ValueError, "verts must have shape"),
        (TRIANGLE, FACE.int(), TypeError, "faces must be int64"),
        (TRIANGLE, FACE.float(), TypeError, "faces must have an integer dtype"),
        (TRIANGLE.long(), FACE, TypeError, "verts must have a float dtype"),
        (TRIANGLE.numpy(), FACE, TypeError, "verts must be a torch.Tensor"),
    ],
)
def test_bad_meshes_are_refused(verts, faces, error, message):
    with pytest.raises(error, match=message) as caught:
        mesh.Mesh(verts, faces)
    assert "\n" not in str(caught.value)


def test_attributes_must_fit():
    with pytest.raises(ValueError, match="uvs must have shape"):
        mesh.Mesh(TRIANGLE, FACE, uvs=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="texture must have shape"):
        mesh.Mesh(TRIANGLE, FACE, uvs=torch.zeros(3, 2), texture=torch.zeros(8, 8, 3))
    with pytest.raises(ValueError, match="subdivisions must be"):
        mesh.icosphere(-1)
    with pytest.raises(ValueError, match="radius must be"):
        mesh.icosphere(1, radius=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_zero_area_is_measured_against_rounding(dtype, shift):
    """Points on a slanted line are refused wherever they lie; a thin but honest triangle is not."""
    direction = torch.tensor([0.3, 0.7, -0.2], dtype=dtype)
    line = shift + torch.tensor([0.0, 0.37, 1.0], dtype=dtype)[:, None] * direction
    with pytest.raises(ValueError, match="zero area"):
        mesh.Mesh(line, FACE)
    thin = line + torch.tensor([[0.0, 0, 0], [0, 0, 1e-3], [0, 0, 0]], dtype=dtype)
    mesh.Mesh(thin, FACE)


def test_normals_agree_with_pytorch3d():
    structures = pytest.importorskip("pytorch3d.structures")
    verts, faces = closed_mesh()
    verts = verts.float()
    theirs = structures.Meshes([verts], [faces])
    torch.testing.assert_close(mesh.vertex_normals(verts, faces), theirs.verts_normals_packed())
    torch.testing.assert_close(mesh.face_normals(verts, faces), theirs.faces_normals_packed())
    torch.testing.assert_close(mesh.face_areas(verts, faces), theirs.faces_areas_packed())
    assert as_set(mesh.edges(faces)) == as_set(theirs.edges_packed())
