"""Losses of an outline: known distances, gradients against finite differences, and descents that must arrive."""

from __future__ import annotations

import math

import pytest
import torch

from lib import rendering
from lib.geometry import image_plane
from lib.losses import silhouette as losses


def disc_mask(size: int, radius: float, center: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    at = torch.arange(size) * 2 / size - 1 + 1 / size
    x, y = torch.meshgrid(at, at, indexing="xy")
    return ((x - center[0]).square() + (y - center[1]).square() < radius**2).float()[None]


def test_mask_and_iou_losses_of_known_masks() -> None:
    a, b = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    a[:, :2], b[:, 1:3] = 1, 1
    assert losses.mask_loss(a, b).item() == 0.5
    assert losses.mask_loss(0.5 * a, a).item() == pytest.approx(0.125)
    assert losses.mask_loss(0.5 * a, a, p=1).item() == pytest.approx(0.25)
    assert losses.iou_loss(a, b).item() == pytest.approx(2 / 3)
    assert losses.iou_loss(a, a).item() == pytest.approx(0, abs=1e-6)


def test_foreground_distance_of_a_disc() -> None:
    distance = image_plane.foreground_distance(disc_mask(128, 0.5))[0]
    at = torch.arange(128) / 64 - 1 + 1 / 128
    expected = (torch.stack(torch.meshgrid(at, at, indexing="xy")).norm(dim=0) - 0.5).clamp(min=0)
    assert (distance - expected).abs().max() < 2 / 128
    tall = image_plane.foreground_distance(torch.nn.functional.interpolate(disc_mask(128, 0.5)[None], (64, 128))[0])
    assert tall[0, 0, 64].item() == pytest.approx(0.5, abs=0.05)


def test_boundary_points_lie_on_the_circle_and_on_the_border() -> None:
    masks = torch.cat([disc_mask(64, 0.5), disc_mask(64, 0.3, (0.9, 0.0))])
    points, lengths = image_plane.boundary_points(masks)
    assert points.shape == (2, int(lengths.max()), 2)
    assert ((points[0, : lengths[0]].norm(dim=-1) - 0.5).abs() < 0.05).all()
    assert lengths[0] > 0.5 * 2 * math.pi * 0.5 * 32
    assert (points[1, : lengths[1], 0] > 0.98).sum() > 10


@pytest.mark.parametrize("name", ["mask", "mask1", "iou", "distance", "boundary"])
def test_gradients(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = disc_mask(8, 0.6).double().repeat(2, 1, 1)
    pred = (0.1 + 0.8 * torch.rand(2, 8, 8, generator=generator, dtype=torch.float64)).requires_grad_()
    points = (2.6 * torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) - 1.3).requires_grad_()
    distances = image_plane.foreground_distance(masks)
    boundary, lengths = image_plane.boundary_points(masks)
    lengths = lengths - torch.tensor([0, 3])
    call, argument = {
        "mask": (lambda p: losses.mask_loss(p, masks), pred),
        "mask1": (lambda p: losses.mask_loss(p, masks, p=1), pred),
        "iou": (lambda p: losses.iou_loss(p, masks), pred),
        "distance": (lambda p: losses.distance_loss(p, distances), points),
        "boundary": (lambda p: losses.boundary_loss(p, boundary, lengths), points),
    }[name]
    assert torch.autograd.gradcheck(call, argument)


def test_distance_loss_is_zero_inside_and_pulls_back_from_beyond_the_image() -> None:
    distances = image_plane.foreground_distance(disc_mask(64, 0.5))
    inside = torch.tensor([[[0.0, 0.0], [0.3, 0.2]]])
    assert losses.distance_loss(inside, distances).item() == 0
    beyond = torch.tensor([[[1.5, 0.0]]], requires_grad=True)
    loss = losses.distance_loss(beyond, distances)
    assert loss.item() == pytest.approx(1.0, abs=0.04)
    loss.backward()
    assert beyond.grad[0, 0, 0].item() == pytest.approx(1.0, abs=1e-5)
    on_border = torch.tensor([[[1.0, 1.0]]], requires_grad=True)
    losses.distance_loss(on_border, distances).backward()
    assert on_border.grad.isfinite().all()


def test_the_two_boundary_terms_spread_points_over_the_outline() -> None:
    mask = disc_mask(48, 0.4, (0.3, -0.2))
    distances, (boundary, lengths) = image_plane.foreground_distance(mask), image_plane.boundary_points(mask)
    points = (torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.01)
    for _ in range(250):
        optimizer.zero_grad()
        (losses.distance_loss(points, distances) + losses.boundary_loss(points, boundary, lengths)).backward()
        optimizer.step()
    assert losses.distance_loss(points, distances) < 0.02
    assert losses.boundary_loss(points, boundary, lengths) < 0.003


@pytest.mark.parametrize("gradient", ["soft", "nmr"])
def test_iou_loss_fits_a_triangle(gradient: str) -> None:
    verts = torch.tensor([[[-0.5, -0.4, 0.0], [0.3, -0.5, 0.0], [0.0, 0.5, 0.0]]])
    faces = torch.tensor([[0, 2, 1]])
    target = rendering.rasterize(verts + torch.tensor([0.15, 0.1, 0.0]), faces, 32).mask.float()
    points = verts.clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        losses.iou_loss(rendering.silhouette(points, faces, 32, sigma=1e-3, gradient=gradient), target).backward()
        optimizer.step()
    found = rendering.rasterize(points, faces, 32).mask.float()
    assert losses.iou_loss(found, target) < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: losses.mask_loss(m, m[:, 1:]), "target must have shape"),
        (lambda m: losses.mask_loss(m[0], m[0]), r"pred must have shape .*pred\[None\]"),
        (lambda m: losses.mask_loss(m, m, p=3), "p must be 1 or 2"),
        (lambda m: image_plane.foreground_distance(0 * m), "masks has an empty one"),
        (lambda m: image_plane.boundary_points(0 * m), "masks has an empty one"),
        (lambda m: losses.distance_loss(torch.zeros(2, 3, 2), m), "distances must have shape"),
        (lambda m: losses.boundary_loss(torch.zeros(1, 3, 3), torch.zeros(1, 3, 2)), "points must have shape"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(disc_mask(8, 0.5))
