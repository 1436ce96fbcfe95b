"""Gradients against finite differences, the back ends against each other, and the Neural Mesh Renderer's gradient."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch import Tensor

from lib import rendering
from lib.geometry.mesh import icosphere
from lib.rendering import reference

needs_pytorch3d = pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="PyTorch3D is not installed")
BACKENDS = ["reference", "kernels"]


def ball(
    seed: int, images: int = 2, subdivisions: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Dented balls of differing sizes, some beyond the image's border."""
    generator = torch.Generator().manual_seed(seed)
    sphere = icosphere(subdivisions)
    noise = torch.randn(images, len(sphere.verts), 3, generator=generator, dtype=dtype)
    size = 0.5 + 0.5 * torch.rand(images, 1, 3, generator=generator, dtype=dtype)
    place = torch.rand(images, 1, 3, generator=generator, dtype=dtype) - 0.5
    return sphere.verts.to(dtype) * size + 0.03 * noise + 0.6 * place, sphere.faces


def soup(seed: int, images: int = 2, count: int = 40, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Triangles that pierce each other."""
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.rand(images, count, 1, 3, generator=generator, dtype=dtype) - 1
    offsets = 0.4 * torch.randn(images, count, 3, 3, generator=generator, dtype=dtype)
    return (centers + offsets).flatten(1, 2), torch.arange(3 * count).view(count, 3)


def weights(*shape: int, dtype: torch.dtype) -> Tensor:
    """Fixed random weights, which make a scalar loss of an image."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=dtype)


def in_perspective(verts: Tensor) -> Tensor:
    z = verts[..., 2:] + 4
    return torch.cat([4 * verts[..., :2] / z, z], -1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(6, 6), (5, 8)])
def test_silhouette_gradient(backend: str, size: tuple[int, int]) -> None:
    verts, faces = ball(0, images=2, subdivisions=0, dtype=torch.float64)
    verts.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: rendering.silhouette(v, faces, size, sigma=2e-2, backend=backend), verts, atol=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("perspective", [False, True])
def test_fragment_gradients(backend: str, perspective: bool) -> None:
    verts, faces = ball(3, images=2, subdivisions=0, dtype=torch.float64)
    if perspective:
        verts = in_perspective(verts)
    verts.requires_grad_()

    def fragments(points: Tensor) -> tuple[Tensor, ...]:
        seen = rendering.rasterize(points, faces, (6, 7), perspective, backend=backend)
        finite = (part.masked_fill(~seen.mask, 0) for part in (seen.depth, seen.distance))
        return (*finite, seen.barycentrics)

    assert rendering.rasterize(verts, faces, (6, 7), perspective, backend=backend).mask.sum() > 15
    assert torch.autograd.gradcheck(fragments, verts)


@pytest.mark.parametrize("perspective", [False, True])
def test_depth_weights_and_distance_pull_together(perspective: bool) -> None:
    """One loss of all three, on faces many pixels wide: the gradient is the sum of theirs."""
    verts, faces = ball(3, images=2, subdivisions=0, dtype=torch.float64)
    verts = in_perspective(verts) if perspective else verts

    def gradient(backend: str, chosen: str) -> Tensor:
        points = verts.clone().requires_grad_()
        seen = rendering.rasterize(points, faces, (24, 40), perspective, backend=backend)
        parts = [getattr(seen, name)[seen.mask].sin().sum() for name in chosen.split()]
        return torch.autograd.grad(sum(parts), points)[0]

    together = gradient("kernels", "depth barycentrics distance")
    assert torch.allclose(together, gradient("reference", "depth barycentrics distance"))
    assert torch.allclose(together, sum(gradient("kernels", one) for one in ("depth", "barycentrics", "distance")))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_shading_texture_and_flow(backend: str) -> None:
    verts, faces = ball(1, images=1, subdivisions=0, dtype=torch.float64)
    verts = in_perspective(verts).requires_grad_()
    colors = torch.rand(1, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    light = torch.tensor([[-0.4, -0.3, -0.8]], dtype=torch.float64, requires_grad=True)
    uvs = torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    texture = torch.rand(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    options = dict(perspective=True, backend=backend)
    check = torch.autograd.gradcheck
    assert check(lambda v, c, t: rendering.shade(v, faces, c, 6, light=t, **options), (verts, colors, light))
    assert check(lambda u, t: rendering.shade(verts.detach(), faces, t, 5, uvs=u, **options), (uvs, texture))
    moved = (verts.detach() + 0.05).requires_grad_()
    assert check(lambda a, b: rendering.flow(a, b, faces, 5, True, backend=backend)[0], (verts, moved))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [ball, soup])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_kernels_agree_with_the_reference(make, size: tuple[int, int], dtype: torch.dtype) -> None:
    verts, faces = make(5, dtype=dtype)
    results = []
    for backend in BACKENDS:
        points = verts.clone().requires_grad_()
        mask = rendering.silhouette(points, faces, size, backend=backend)
        (soft,) = torch.autograd.grad((mask * weights(*size, dtype=dtype)).sum(), points)
        seen = rendering.rasterize(points, faces, size, backend=backend)
        hard = rendering.silhouette(points, faces, size, gradient="nmr", backend=backend)
        (nmr,) = torch.autograd.grad((hard * weights(*size, dtype=dtype)).sum(), points)
        image = rendering.shade(points, faces, verts.sin(), size, gradient="nmr", backend=backend)
        (shaded,) = torch.autograd.grad((image * weights(3, *size, dtype=dtype)).sum(), points)
        inner = seen.mask & (seen.distance < -1e-6)
        parts = (seen.depth[inner], seen.barycentrics[inner])
        (fragment,) = torch.autograd.grad(sum((part * part).sum() for part in parts), points)
        visible = rendering.visible_vertices(points, faces, size, backend=backend)
        results.append((mask, soft, nmr, shaded, fragment, seen.face, seen.depth, seen.barycentrics, visible))
    tolerance = 3e-4 if dtype == torch.float32 else 1e-6
    for name, ours, theirs in zip(
        ("mask", "soft", "nmr", "shaded", "fragment", "face", "depth", "barycentrics", "visible"),
        *results,
        strict=True,
    ):
        if ours.dtype.is_floating_point:
            scale = theirs[theirs.isfinite()].abs().max().item()
            assert torch.allclose(ours, theirs, atol=tolerance * scale, rtol=tolerance), name
        else:
            assert torch.equal(ours, theirs), name


@needs_pytorch3d
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24)])
@pytest.mark.parametrize("make", [ball, soup])
@pytest.mark.parametrize("perspective", [False, True])
def test_pytorch3d_agrees(make, size: tuple[int, int], perspective: bool) -> None:
    verts, faces = make(6)
    verts = in_perspective(verts) if perspective else verts
    results = []
    for backend in ("kernels", "pytorch3d"):
        points = verts.clone().requires_grad_()
        seen = rendering.rasterize(points, faces, size, perspective, backend=backend)
        mask = rendering.silhouette(points, faces, size, backend=backend)
        (soft,) = torch.autograd.grad((mask * weights(*size, dtype=torch.float32)).sum(), points)
        inner = seen.mask & (seen.distance < -1e-6)
        loss = seen.depth[inner].square().sum() + (seen.barycentrics[inner] * weights(3, dtype=torch.float32)).sum()
        (fragment,) = torch.autograd.grad(loss, points)
        results.append((seen.face, seen.depth, seen.barycentrics, seen.distance, mask, soft, fragment))
    face, *ours = results[0]
    same = face == results[1][0]
    assert same.float().mean() > 0.998
    for name, a, b in zip(("depth", "barycentrics", "distance", "mask"), ours, results[1][1:], strict=False):
        covered = same & (face >= 0) if name != "mask" else torch.ones_like(same)
        assert (a - b)[covered].abs().max() < 1e-3, name
    if same.all():
        for a, b in ((ours[4], results[1][5]), (ours[5], results[1][6])):
            assert torch.allclose(a, b, atol=2e-3 * a.abs().max().item(), rtol=1e-2)


@needs_pytorch3d
def test_why_pytorch3d_left_out_faces_on_the_rim() -> None:
    """It drops a face at a pixel where the face's plane, extended there, is behind the camera (depth < 0).

    Nearly edge-on faces at the rim extend steeply. Clipping the barycentrics to the face, or moving the object far
    away, ends the difference; a wider blur or more faces per pixel do not.
    """
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    verts, faces = ball(0, images=1, subdivisions=3)
    ours = rendering.silhouette(verts, faces, 32)

    def theirs(away: float, clip: bool) -> Tensor:
        flipped = verts * torch.tensor([-1.0, -1.0, 1.0]) + torch.tensor([0.0, 0.0, away])
        face, _, _, distance = rasterize_meshes(
            Meshes(flipped, faces[None]), 32, reference.TAIL * 1e-4, 200, clip_barycentric_coords=clip
        )
        return 1 - torch.where(face >= 0, torch.sigmoid(distance / 1e-4), 1.0).prod(-1)

    for away, clip, agrees in [(2.0, False, False), (2.0, True, True), (100.0, False, True)]:
        difference = (ours - theirs(away, clip)).abs()
        assert (difference.max() < 1e-3) == agrees, (away, clip, difference.max())
        assert (difference > 1e-3).float().mean() < 0.03


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1)])
def test_nmr_gradient_pulls_a_triangle_towards_the_shifted_one(backend: str, direction: tuple[int, int]) -> None:
    shift = 0.2 * torch.tensor([*direction, 0.0])
    verts = torch.tensor([[[-0.4, -0.3, 0.0], [0.4, -0.4, 0.0], [0.0, 0.5, 0.0]]])
    faces = torch.tensor([[0, 2, 1]])
    target = rendering.silhouette(verts + shift, faces, 48, gradient="nmr")
    points = verts.clone().requires_grad_()
    mask = rendering.silhouette(points, faces, 48, gradient="nmr", backend=backend)
    (grad,) = torch.autograd.grad((mask - target).square().mean(), points)
    total = grad[0].sum(0)
    for axis in (0, 1):
        if direction[axis]:
            assert total[axis] * direction[axis] < 0
            assert (grad[0, :, axis] * direction[axis] < 0).sum() >= 2
    assert not grad[..., 2].any()
    same = rendering.silhouette(points, faces, 48, gradient="nmr", backend=backend)
    (none,) = torch.autograd.grad((same - same.detach()).square().mean(), points)
    assert not none.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nmr_gradient_is_the_jump_over_the_way(backend: str) -> None:
    """One pixel of error, and Kato et al.'s equations by hand."""
    verts = torch.tensor([[[0.05, -0.5, 0.0], [0.05, 0.5, 0.0], [-0.6, 0.0, 0.0]]], requires_grad=True)
    faces = torch.tensor([[0, 1, 2]])
    mask = rendering.silhouette(verts, faces, 11, gradient="nmr", backend=backend)
    # Outside: lighting the pixel at x = 6/11 lowers the loss by 1, once the upright edge has come the way. It is half
    # way between its ends there, so each end alone must go twice as far.
    (grad,) = torch.autograd.grad(-mask[0, 5, 8], verts, retain_graph=True)
    expected = torch.zeros(3, 3)
    expected[:2, 0] = -0.5 / (6 / 11 - 0.05)
    assert torch.allclose(grad[0], expected)
    # Inside: putting out the pixel at x = −2/11 is done by the edge on its right, or by the corner on its left.
    (grad,) = torch.autograd.grad(mask[0, 5, 4], verts, retain_graph=True)
    assert torch.allclose(grad[0, :2, 0], torch.tensor(0.5 / (0.05 + 2 / 11)))
    assert grad[0, 2, 0].item() == pytest.approx(-1 / (0.6 - 2 / 11))
    # Where the change would raise the loss, there is none.
    for loss in (mask[0, 5, 8], -mask[0, 5, 4]):
        (grad,) = torch.autograd.grad(loss, verts, retain_graph=True)
        assert not grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nmr_descent_finds_the_square_inside_and_outside(backend: str) -> None:
    corners = torch.tensor([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    target = rendering.silhouette((0.5 * corners)[None], faces, 32, gradient="nmr")
    start = torch.stack([0.25 * corners, 0.85 * corners])
    points = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        mask = rendering.silhouette(points, faces, 32, gradient="nmr", backend=backend)
        (mask - target).square().mean().backward()
        optimizer.step()
    overlap = (mask * target).sum((1, 2)) / torch.maximum(mask, target).sum((1, 2))
    assert (overlap > 0.9).all()


def test_hard_fragments_give_the_mask_no_gradient_but_nmr_does() -> None:
    verts, faces = ball(2, images=1)
    points = verts.clone().requires_grad_()
    image = rendering.shade(points, faces, torch.ones_like(verts), 24, ambient=1.0, background=0.0)
    (hard,) = torch.autograd.grad(image.sum(), points)
    image = rendering.shade(points, faces, torch.ones_like(verts), 24, ambient=1.0, background=0.0, gradient="nmr")
    (nmr,) = torch.autograd.grad(-image.sum(), points)
    assert hard.abs().max() < 1e-4
    outward = points.detach()[0, :, :2] - points.detach()[0, :, :2].mean(0)
    assert (nmr[0, :, :2] * outward).sum() < -1


def test_soft_gradient_of_area_grows_the_disc_as_geometry_says() -> None:
    """d(area)/d(scale) of a triangle of area A is 2 A."""
    verts = torch.tensor([[[-0.7, -0.6, 0.0], [0.8, -0.5, 0.0], [0.1, 0.7, 0.0]]], dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    area = 4 * rendering.silhouette(scale * verts, torch.tensor([[0, 2, 1]]), 128, sigma=1e-4).mean()
    (slope,) = torch.autograd.grad(area, scale)
    assert slope.item() == pytest.approx(2 * 0.935, rel=5e-3)
    assert math.isfinite(area.item())
