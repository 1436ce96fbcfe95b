"""What must not depend on scale, precision or place: normals, areas, cotangents, directions, rotations, draws."""

from __future__ import annotations

import pytest
import torch

from lib import metrics, rendering
from lib.geometry import laplacian, mesh, pointsets, rotations
from lib.geometry.vectors import binary_scale, unit
from lib.losses import keypoints
from lib.losses import mesh as mesh_losses

SPHERE = mesh.icosphere(2)
SCALES = [1e-30, 1e-18, 1e-7, 1.0, 1e9, 1e18]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_powers_of_two_scale_exactly(dtype):
    values = torch.tensor([[3.0, -4.0, 0.5], [0, 0, 0], [1e-3, 1e-4, 0]], dtype=dtype)
    scale = binary_scale(values)
    assert scale[:, 0].tolist() == [8, 1, 2**-9]
    assert torch.equal(values / scale * scale, values)
    expected = torch.tensor([0.597, -0.796, 0.0995], dtype=dtype)
    torch.testing.assert_close(unit(values)[0], expected, atol=5e-3, rtol=0)
    assert unit(values)[1].tolist() == [0, 0, 0]
    assert binary_scale(values[:0]).shape == (1, 1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_vectors_of_every_length_and_their_gradient(scale, dtype):
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype) * scale
    assert unit(vectors)[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    vectors.requires_grad_()
    unit(vectors)[:, 0].sum().backward()
    assert (vectors.grad[0] * scale).tolist() == pytest.approx([0.128, -0.096], rel=1e-5)
    assert vectors.grad[1].tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-7, 1.0, 1e9, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_cotangents_and_draws_are_those_of_the_unit_sphere(scale, dtype):
    verts = SPHERE.verts.to(dtype)
    # The power of two nearest to the scale, so that not a digit may differ.
    scaled = verts * 2.0 ** torch.tensor(scale).log2().round()
    mesh.validate_mesh(scaled, SPHERE.faces)
    for function in (mesh.face_normals, mesh.vertex_normals, laplacian.corner_cotangents):
        assert torch.equal(function(scaled, SPHERE.faces), function(verts, SPHERE.faces)), function.__name__
    loss = mesh_losses.normal_consistency_loss
    assert torch.equal(loss(scaled[None], SPHERE.faces), loss(verts[None], SPHERE.faces))
    draws = [
        pointsets.sample_surface(points, SPHERE.faces, 50, torch.Generator().manual_seed(0), return_normals=True)
        for points in (scaled, verts)
    ]
    torch.testing.assert_close(draws[0][0] / (scaled.max() / verts.max()), draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])


def test_areas_below_the_square_root_of_the_smallest_number():
    small = mesh.face_areas(1e-12 * SPHERE.verts, SPHERE.faces)
    torch.testing.assert_close(1e24 * small, mesh.face_areas(SPHERE.verts, SPHERE.faces))


@pytest.mark.parametrize("shift", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize(
    "corner",
    [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.5, 0.5, 1e-12), (0.5, 0.5, 1e-6), (0.25, 0.75, 0.0)],
    ids=["between", "repeated", "nearly between", "thin", "off the middle"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_collapsed_triangle_pulls_at_nothing(shift, corner, dtype):
    points = [(0.0, 0, 0), (1, 0, 0), (0, 1, 0), corner, (1, 1, 0.3)]
    verts = (torch.tensor(points, dtype=dtype)[None] + shift).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [1, 4, 3]] if corner != (1.0, 0.0, 0.0) else [[0, 1, 2], [2, 1, 3]])
    for loss in (mesh_losses.edge_loss, mesh_losses.laplacian_loss, mesh_losses.normal_consistency_loss):
        (gradient,) = torch.autograd.grad(loss(verts, faces), verts)
        assert gradient.abs().max() < 1e6, loss.__name__
    for function in (mesh.face_normals, mesh.vertex_normals, mesh.face_areas):
        (gradient,) = torch.autograd.grad(function(verts, faces).sum(), verts)
        assert gradient.isfinite().all() and gradient.abs().max() < 1e6, function.__name__


@pytest.mark.parametrize("scale", SCALES)
def test_directions_and_quaternions_need_no_length(scale):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 3, generator=generator)
    expected = metrics.angular_error(first, second)
    torch.testing.assert_close(metrics.angular_error(scale * first, second / scale), expected)
    quaternion = torch.randn(5, 4, generator=generator)
    matrix = rotations.quaternion_to_matrix(quaternion)
    torch.testing.assert_close(rotations.quaternion_to_matrix(scale * quaternion), matrix)
    d6 = rotations.matrix_to_rotation_6d(matrix)
    torch.testing.assert_close(rotations.rotation_6d_to_matrix(scale * d6), matrix, atol=1e-5, rtol=0)
    camera = torch.cat([torch.ones(5, 3), quaternion], 1)
    other = torch.cat([torch.ones(5, 3), scale * quaternion], 1)
    assert keypoints.camera_loss(other, camera).item() == pytest.approx(0, abs=1e-6)
    light = torch.tensor([0.2, -0.5, -1.0])
    verts = 0.7 * SPHERE.verts[None]
    pictures = [rendering.shade(verts, SPHERE.faces, SPHERE.verts.abs(), 16, light=k * light) for k in (1.0, scale)]
    torch.testing.assert_close(*pictures)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16, torch.int8])
def test_faces_of_every_integer_type(dtype):
    """uint8 would be a mask, and int32 overflows in the key of an edge of a large mesh."""
    verts, faces = mesh.icosphere(1).verts, mesh.icosphere(1).faces
    small = faces.to(dtype)
    assert torch.equal(mesh.edges(small), mesh.edges(faces))
    for function in (mesh.face_normals, mesh.face_areas, mesh.vertex_normals, laplacian.corner_cotangents):
        assert torch.equal(function(verts, small), function(verts, faces))
    for loss in (mesh_losses.edge_loss, mesh_losses.laplacian_loss, mesh_losses.normal_consistency_loss):
        assert torch.equal(loss(verts[None], small), loss(verts[None], faces))
    energies = [mesh_losses.arap_energy(verts[None] * 2, verts, each, "uniform") for each in (small, faces)]
    assert torch.equal(*energies)
    assert torch.equal(mesh_losses.ring_pairs(small), mesh_losses.ring_pairs(faces))
    matrices = [laplacian.uniform_laplacian(each, len(verts)).to_dense() for each in (small, faces)]
    assert torch.equal(*matrices)
    pictures = [rendering.shade(verts[None] / 2, each, verts.abs(), 8) for each in (small, faces)]
    assert torch.equal(*pictures)
    points = [pointsets.sample_surface(verts, each, 9, torch.Generator().manual_seed(0)) for each in (small, faces)]
    assert torch.equal(*points)


def test_keys_of_edges_in_a_mesh_of_50_000_vertices():
    i = torch.arange(224 * 224).view(224, 224)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]
    faces = torch.stack([torch.stack([a, c, b], -1), torch.stack([c, d, b], -1)], 2).view(-1, 3)
    assert torch.equal(mesh.edges(faces.int()), mesh.edges(faces))
    assert torch.equal(mesh_losses.adjacent_faces(faces.int()), mesh_losses.adjacent_faces(faces))
    with pytest.raises(ValueError, match=r"faces point to vertex -\d+; indices start at 0"):
        mesh.edges(-faces)


HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@HALF
@pytest.mark.parametrize("count", [5, 200, 2500])
def test_clouds_in_half_precision_are_refused_at_every_size(dtype, count):
    x = torch.rand(1, count, 3).to(dtype)
    for function in (
        pointsets.chamfer_distance,
        pointsets.hausdorff_distance,
        pointsets.knn_points,
        lambda x, y: pointsets.f_score(x, y, 0.1),
        lambda x, y: pointsets.sinkhorn_distance(x, y, 0.1),
        metrics.surface_error,
    ):
        with pytest.raises(TypeError, match=r"32 or 64 bits, got torch\.b?float16; convert it with \w+\.float\(\)"):
            function(x, x)


@HALF
def test_meshes_in_half_precision_are_refused(dtype):
    verts = SPHERE.verts.to(dtype)
    for function in (
        mesh.Mesh,
        mesh.face_normals,
        mesh.vertex_normals,
        laplacian.corner_cotangents,
        lambda v, f: mesh_losses.edge_loss(v[None], f),
        lambda v, f: rendering.rasterize(v[None], f, 8),
        lambda v, f: pointsets.sample_surface(v, f, 3),
    ):
        with pytest.raises(TypeError, match=r"verts must .*convert it with verts\.float\(\)"):
            function(verts, SPHERE.faces)
