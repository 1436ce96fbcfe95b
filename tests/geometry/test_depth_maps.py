"""Depth maps and the turntable: there and back, normals of planes, steps, the exported mesh, bad input."""

import math

import pytest
import torch
import trimesh

from lib.geometry import depth_maps, turntable
from lib.geometry.image_plane import pixel_centers
from lib.geometry.mesh import face_normals, save_mesh

generator = torch.Generator().manual_seed(0)
FOCALS = pytest.mark.parametrize("focal", [1.0, 11.43])


def bowl(height=12, width=12):
    """Two bowls of gentle slopes, nearest in the middle."""
    x, y = pixel_centers(height, width, dtype=torch.float64).unbind(-1)
    depth = 0.96 + 0.03 * x**2 + 0.02 * y**2 + 0.004 * x * y
    return torch.stack([depth, depth + 0.005])


def some_views():
    return torch.tensor([[0.1, 0.4, -0.1, 0.004, -0.003, 0], [-0.2, -0.5, 0.05, 0, 0.002, 0]], dtype=torch.float64)


@FOCALS
def test_points_project_back_to_their_pixels(focal):
    depth = bowl(8, 12)
    places = depth_maps.project(depth_maps.depth_to_points(depth, focal).flatten(2).mT, focal)
    torch.testing.assert_close(places[..., 2].view_as(depth), depth)
    torch.testing.assert_close(places[0, :, :2].view(8, 12, 2), pixel_centers(8, 12, dtype=torch.float64))


@FOCALS
def test_normals_of_planes(focal):
    """The plane z = 1 + x tan α: its normal is (sin α, 0, −cos α), at every pixel."""
    alpha = 0.4
    rays = depth_maps.pixel_rays(16, 16, focal, dtype=torch.float64)
    depth = 1 / (1 - rays[0] * math.tan(alpha))
    normals = depth_maps.depth_to_normals(depth[None], focal)[0]
    expected = torch.tensor([math.sin(alpha), 0, -math.cos(alpha)], dtype=torch.float64)
    torch.testing.assert_close(normals, expected[:, None, None].expand(3, 16, 16))


@FOCALS
def test_steep_pixels_are_both_sides_of_a_jump(focal):
    depth = torch.ones(1, 8, 8)
    depth[:, :, 4:] += 3 * 2 / (8 * focal)
    assert not depth_maps.steep_pixels(depth, 3.5, focal).any()
    expected = torch.zeros(8, dtype=torch.bool)
    expected[3:5] = True
    assert torch.equal(depth_maps.steep_pixels(depth, 2.0, focal)[0], expected.expand(8, 8))
    upright = depth_maps.steep_pixels(depth.mT.contiguous(), 2.0, focal)[0]
    assert torch.equal(upright, expected[:, None].expand(8, 8))


def test_the_grid_covers_the_picture_and_looks_at_the_camera():
    faces = depth_maps.grid_faces(3, 4)
    assert faces.shape == (2 * 2 * 3, 3)
    points = depth_maps.depth_to_points(torch.ones(1, 3, 4), 2.0)[0].flatten(1).T
    assert (face_normals(points, faces)[:, 2] < 0).all()  # out of the surface, to the camera at z = 0


def test_the_exported_mesh(tmp_path):
    depth, texture = bowl(10, 12)[0].float(), torch.rand(3, 10, 12, generator=generator)
    mesh = depth_maps.depth_mesh(depth, texture, 11.43, pivot=1.0)
    assert mesh.verts.shape == (120, 3) and mesh.faces.shape == (2 * 9 * 11, 3)
    normals = face_normals(mesh.verts, mesh.faces)
    assert normals[:, 2].min() > 0.5  # it looks along +z, out of the screen
    assert mesh.verts[0, 1] > mesh.verts[-1, 1]  # the picture's first row is the highest
    assert mesh.verts[:, 2].abs().max() < 0.05  # and the pivot lies at the origin
    save_mesh(tmp_path / "bowl.glb", mesh)
    loaded = trimesh.load(tmp_path / "bowl.glb", force="mesh")
    assert len(loaded.faces) == len(mesh.faces) and loaded.visual.uv is not None


def test_turning_there_and_back():
    points = torch.rand(2, 50, 3, generator=generator, dtype=torch.float64) + 0.5
    views = some_views()
    torch.testing.assert_close(turntable.turn_back(turntable.turn(points, views), views), points)
    pivot = torch.tensor([0, 0, turntable.PIVOT], dtype=torch.float64)
    torch.testing.assert_close(turntable.turn(pivot.expand(2, 1, 3), views)[:, 0], pivot + views[:, 3:])


def test_bad_input_is_refused_in_one_line():
    depth = torch.ones(1, 4, 4)
    with pytest.raises(ValueError, match="depth"):
        depth_maps.depth_to_points(depth[0], 1.0)
    with pytest.raises(ValueError, match="depth"):
        depth_maps.depth_mesh(depth, torch.ones(3, 4, 4), 1.0)
    for focal in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="focal must be above 0"):
            depth_maps.depth_to_normals(depth, focal)


def test_the_mesh_leaves_out_what_lies_behind():
    depth = torch.full((6, 6), 1.0)
    depth[:, :2] = 1.05
    mesh = depth_maps.depth_mesh(depth, torch.rand(3, 6, 6), 11.43, pivot=1.0, farthest=1.02)
    assert len(mesh.verts) == 24 and len(mesh.faces) == 2 * 5 * 3
    assert mesh.verts[:, 2].abs().max() < 1e-6 and mesh.uvs[:, 0].min() > 2 / 6
    with pytest.raises(ValueError, match=r"farthest=0.5 leaves no triangle; the nearest pixel is at 1.000"):
        depth_maps.depth_mesh(depth, torch.rand(3, 6, 6), 11.43, farthest=0.5)
