"""The image plane: what is looked up where, and what is not hidden."""

from __future__ import annotations

import pytest
import torch

from lib import rendering
from lib.datasets import augmentation
from lib.geometry import image_plane, mesh
from lib.losses import keypoints, photometric, silhouette
from lib.losses import mesh as mesh_losses

MASK = torch.zeros(1, 8, 8)
MASK[0, 2:5, 2:5] = 1
SPHERE = mesh.icosphere(0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_lost_have_no_value(bad):
    images = torch.rand(2, 3, 8, 8)
    points = torch.zeros(2, 1, 3, 2)
    points[1, 0, 2, 0] = bad
    for padding in ("border", "zeros"):
        values = image_plane.sample_image(images, points, padding)
        assert values[1, :, 0, 2].isnan().all()
        assert values.isnan().sum() == 3


def with_nan(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values.view(-1)[3] = float("nan")
    return values


def test_a_diverged_model_has_no_finite_loss():
    """Samplers take NaN for a corner of the picture, and a mask may pass over it."""
    distances = image_plane.foreground_distance(MASK)
    points = with_nan(torch.zeros(1, 5, 2))
    visible = torch.tensor([[True, False, False, True, True]])
    verts, pictures = with_nan(SPHERE.verts)[None], torch.rand(1, 3, 8, 8)
    losses = {
        "distance": lambda: silhouette.distance_loss(points, distances),
        "outside": lambda: photometric.outside_loss(points[:, None], distances),
        "keypoints": lambda: keypoints.keypoint_loss(points, torch.zeros(1, 5, 2), visible),
        "mask": lambda: silhouette.mask_loss(with_nan(MASK), MASK),
        "photometric": lambda: photometric.laplacian_nll(with_nan(pictures), pictures, None, MASK),
        "uniform": lambda: mesh_losses.laplacian_loss(verts, SPHERE.faces),
        "cotangent": lambda: mesh_losses.laplacian_loss(verts, SPHERE.faces, "cotangent"),
        "edges": lambda: mesh_losses.edge_loss(verts, SPHERE.faces),
        "normals": lambda: mesh_losses.normal_consistency_loss(verts, SPHERE.faces),
    }
    for name, loss in losses.items():
        assert loss().isnan(), name
    for name, loss in {
        "boundary": lambda: silhouette.boundary_loss(points, torch.zeros(1, 2, 2)),
        "iou": lambda: silhouette.iou_loss(with_nan(MASK), MASK),
        "render": lambda: rendering.silhouette(verts, SPHERE.faces, 8),
        "distances": lambda: image_plane.foreground_distance(with_nan(MASK)),
        "border": lambda: image_plane.boundary_points(with_nan(MASK)),
    }.items():
        with pytest.raises(ValueError, match="NaN"):
            pytest.fail(f"{name}: {loss()}")


def test_nan_reaches_the_picture():
    fragments = rendering.rasterize(0.7 * SPHERE.verts[None], SPHERE.faces, 8)
    colors = rendering.texture_sample(with_nan(torch.rand(12, 2)), torch.rand(3, 4, 4), SPHERE.faces, fragments)
    assert colors.isnan().any()
    moved = augmentation.jitter({"image": torch.rand(1, 3, 4, 4)}, torch.tensor([float("nan")]), torch.zeros(1, 2))
    assert moved["image"].isnan().all()


def test_the_barrier_rises_through_a_half_at_the_outline_and_slopes_inside_too():
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:24, 8:24] = 1
    barrier = image_plane.foreground_barrier(mask)[0, 16]
    inside, outside = barrier[8:24], torch.cat([barrier[:8], barrier[24:]])
    assert inside.max() < 0.5 < outside.min() and barrier[16] < 0.01 and barrier[0] > 0.99
    assert (barrier[8:15].diff() < 0).all() and (barrier[:8].diff() < 0).all()
    assert image_plane.foreground_barrier(torch.ones(1, 8, 8)).max() < 1e-6  # no outline: all is far inside
