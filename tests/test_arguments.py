"""Arguments of the wrong kind, size or type: a result, or one line that names the argument."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from lib import metrics, rendering
from lib.deformation import basis, handles
from lib.geometry import alignment, cameras, geodesics, image_plane, laplacian, mesh, pointsets, rotations
from lib.losses import mesh as mesh_losses
from lib.losses import photometric, silhouette

SPHERE = mesh.icosphere(1)
VERTS, FACES = SPHERE.verts[None] / 2, SPHERE.faces
COLORS = SPHERE.verts.abs()
Q = torch.tensor([1.0, 0, 0, 0])
POINTS = torch.rand(2, 9, 3)
FRAGMENTS = rendering.rasterize(VERTS, FACES, 8)


@pytest.mark.parametrize(
    "size", [np.int64(8), np.int32(8), torch.tensor(8), (8, 8), [8, 8], np.array([8, 8]), torch.Size([8, 8])]
)
def test_sizes_of_every_kind(size):
    assert torch.equal(rendering.rasterize(VERTS, FACES, size).face, FRAGMENTS.face)
    assert cameras.pixels_to_image(torch.zeros(1, 2), size).tolist() == [[-0.875, -0.875]]


@pytest.mark.parametrize("one", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_numbers_of_every_kind(one):
    half = rotations.slerp(Q, torch.tensor([0.0, 1, 0, 0]), one)
    torch.testing.assert_close(half, torch.tensor([0.5**0.5, 0.5**0.5, 0, 0]))
    assert pointsets.f_score(POINTS, POINTS, one).tolist() == [1, 1]
    assert rendering.shade(VERTS, FACES, COLORS, 8, ambient=one, background=one)[0, :, 0, 0].tolist() == [0.5] * 3
    assert mesh_losses.edge_loss(VERTS, FACES, one) > 0


BACKGROUNDS = [1.0, [0.1, 0.2, 0.3], torch.zeros(3), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8)]


@pytest.mark.parametrize("background", BACKGROUNDS, ids=str)
def test_backgrounds_of_every_kind(background):
    assert rendering.shade(VERTS, FACES, COLORS, 8, background=background).shape == (1, 3, 8, 8)


CALLS = {
    "image_size": [
        lambda: rendering.rasterize(VERTS, FACES, 0),
        lambda: rendering.rasterize(VERTS, FACES, 8.5),
        lambda: rendering.rasterize(VERTS, FACES, (8, 8, 3)),
        lambda: cameras.image_to_pixels(torch.zeros(1, 2), "8"),
    ],
    "k": [lambda: pointsets.knn_points(POINTS, POINTS, k=0), lambda: pointsets.knn_points(POINTS, POINTS, k=2.0)],
    "count": [
        lambda: pointsets.sample_surface(SPHERE.verts, FACES, 2.5),
        lambda: geodesics.farthest_points(SPHERE.verts, FACES, "3"),
    ],
    "threshold": [lambda: pointsets.f_score(POINTS, POINTS, None), lambda: pointsets.f_score(POINTS, POINTS, "0.1")],
    "epsilon": [lambda: pointsets.sinkhorn_distance(POINTS, POINTS, None)],
    "subdivisions": [lambda: mesh.icosphere(1.5), lambda: mesh.icosphere(-1)],
    "radius": [lambda: mesh.icosphere(1, float("inf")), lambda: mesh.icosphere(1, "1")],
    "background": [
        lambda: rendering.shade(VERTS, FACES, COLORS, 8, background=torch.rand(8, 8, 3)),
        lambda: rendering.shade(VERTS, FACES, COLORS, 8, background="white"),
    ],
    "light": [lambda: rendering.shade(VERTS, FACES, COLORS, 8, light=torch.rand(2))],
    "ambient": [lambda: rendering.shade(VERTS, FACES, COLORS, 8, ambient=torch.rand(3))],
    "normals": [lambda: rendering.shade(VERTS, FACES, COLORS, 8, normals=torch.rand(1, 5, 3))],
    "colors": [lambda: rendering.shade(VERTS, FACES, COLORS.numpy(), 8)],
    "sigma": [lambda: rendering.silhouette(VERTS, FACES, 8, sigma="small")],
    "attributes": [lambda: rendering.interpolate([1, 2], FACES, FRAGMENTS)],
    "faces": [
        lambda: rendering.interpolate(COLORS, FACES[:3], FRAGMENTS),
        lambda: pointsets.sample_surface(SPHERE.verts, FACES.tolist(), 3),
        lambda: geodesics.geodesic_distances(SPHERE.verts, FACES.numpy(), [0]),
        lambda: mesh.edges(FACES.float()),
    ],
    "texture": [lambda: rendering.texture_sample(COLORS[:, :2], torch.rand(3, 4, 4).double(), FACES, FRAGMENTS)],
    "verts": [
        lambda: geodesics.geodesic_distances(SPHERE.verts.numpy(), FACES, [0]),
        lambda: mesh.mirror_permutation(SPHERE.verts[:0]),
        lambda: mesh_losses.arap_energy(VERTS * float("nan"), SPHERE.verts, FACES),
        lambda: mesh_losses.arap_energy(VERTS.double(), SPHERE.verts, FACES),
    ],
    "sources": [lambda: geodesics.geodesic_distances(SPHERE.verts, FACES, None)],
    "num_verts": [lambda: laplacian.uniform_laplacian(FACES, None)],
    "points": [
        lambda: image_plane.sample_image(torch.rand(1, 3, 8, 8), torch.rand(1, 2, 2, 2).double()),
        lambda: image_plane.sample_image(torch.rand(1, 3, 8, 8), torch.rand(2, 2, 2, 2)),
        lambda: silhouette.distance_loss(torch.rand(1, 5, 2).half(), torch.rand(1, 8, 8)),
        lambda: silhouette.boundary_loss(torch.rand(1, 5, 2).double(), torch.rand(1, 5, 2)),
        lambda: photometric.outside_loss(None, torch.rand(1, 8, 8)),
    ],
    "masks": [lambda: image_plane.foreground_distance(torch.zeros(0, 8, 8))],
    "weights": [lambda: alignment.procrustes(POINTS, POINTS, torch.full((2, 9), float("inf")))],
    "matrix": [
        lambda: rotations.nearest_rotation(torch.eye(3).half()),
        lambda: rotations.nearest_rotation(torch.eye(3) * float("nan")),
    ],
    "t": [lambda: rotations.slerp(Q, Q, "half")],
    "q": [lambda: rotations.quaternion_multiply(Q.expand(2, 4), Q.expand(3, 4))],
    "R1": [lambda: rotations.rotation_angle(torch.eye(3), torch.eye(3).double())],
    "azimuth": [lambda: rotations.view_rotation(torch.zeros(2), torch.zeros(3))],
    "n": [lambda: rotations.random_rotations("3")],
    "pred": [
        lambda: metrics.surface_error(POINTS.numpy(), POINTS),
        lambda: metrics.surface_error(POINTS.half(), POINTS.half()),
        lambda: metrics.rotation_error(torch.eye(3), torch.eye(3).double()),
        lambda: metrics.angular_error(torch.rand(2, 3), torch.rand(2, 3).double()),
    ],
    "pairs": [lambda: mesh_losses.edge_rigidity(VERTS, SPHERE.verts, torch.tensor([[0, 99]]))],
    "rings": [lambda: mesh_losses.ring_pairs(FACES, 1.5)],
    "num_handles": [lambda: handles.HandleLayer(SPHERE, 2.5), lambda: handles.HandleLayer(SPHERE, 0)],
    "num_modes": [lambda: basis.LinearBasis(SPHERE, "3")],
}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in CALLS.items() for call in calls])
def test_one_line_names_the_argument(name, call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert re.search(rf"\b{name}\b", message) and "\n" not in message, message


@pytest.mark.parametrize("scale", [1e-22, 1e-12, 1e12])
def test_procrustes_at_any_scale(scale):
    source = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    turn = rotations.random_rotations(2, torch.Generator().manual_seed(1))
    R, _, s = alignment.procrustes(scale * source, 3 * source @ turn.mT, with_scale=True)
    torch.testing.assert_close(R, turn, atol=1e-5, rtol=0)
    torch.testing.assert_close(s * scale, torch.full((2,), 3.0))
