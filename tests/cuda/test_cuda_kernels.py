"""CUDA's kernels give what the CPU's give: on the CPU, one thread after the other, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from lib import rendering
from lib.geometry.mesh import icosphere
from lib.rendering import kernels

EXACT = ("face", "depth", "barycentrics", "distance", "visible", "picture")


@pytest.fixture
def one_thread():
    """Warp's atomic minimum is none on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def as_on_cuda(request, monkeypatch, one_thread):
    """A function that calls another with tensors drawn by CUDA's kernels, on the CPU or on a GPU."""

    def move(value, device):
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, rendering.Fragments):
            return rendering.Fragments(*(move(getattr(value, f.name), device) for f in fields(value)))
        if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
            return tuple(move(part, device) for part in value)
        return {name: move(part, device) for name, part in value.items()} if isinstance(value, dict) else value

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_on_gpu", lambda verts: True)
            result = function(*(move(argument, request.param) for argument in arguments))
        return move(result, "cpu")

    run.exact = request.param == "cpu"
    return run


def spheres(subdivisions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sphere = icosphere(subdivisions)
    verts = 0.9 * sphere.verts + 0.05 * torch.randn(3, len(sphere.verts), 3, generator=generator)
    return verts.to(dtype) + torch.tensor([0.1, 0.0, 2.5], dtype=dtype), sphere.faces


def everything(verts: Tensor, faces: Tensor, size: int | tuple[int, int], perspective: bool) -> dict[str, Tensor]:
    """What the kernels draw, and every gradient they give."""
    result = {}
    leaf = verts.clone().requires_grad_()
    mask = rendering.silhouette(leaf, faces, size)
    (mask * torch.linspace(0, 1, mask.numel()).view_as(mask).to(mask)).sum().backward()
    result |= {"soft": mask.detach(), "soft gradient": leaf.grad}
    leaf = verts.clone().requires_grad_()
    picture = rendering.shade(leaf, faces, verts.abs(), size, gradient="nmr", perspective=perspective)
    picture.square().mean().backward()
    result |= {"picture": picture.detach(), "picture gradient": leaf.grad}
    leaf = verts.clone().requires_grad_()
    drawn = rendering.rasterize(leaf, faces, size, perspective)
    inside = drawn.depth[drawn.mask].square().mean() + drawn.distance[drawn.mask].sum()
    (drawn.barycentrics.square().mean() + inside).backward()
    result |= {name: getattr(drawn, name).detach() for name in ("face", "depth", "barycentrics", "distance")}
    result |= {"drawn gradient": leaf.grad, "visible": rendering.visible_vertices(verts, faces, size, perspective)}
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("subdivisions", "size", "perspective"),
    [(3, 64, False), (2, (33, 47), True), (0, (40, 24), False), (0, 96, True)],  # small faces, then some of 10³ pixels
)
def test_cuda_kernels_give_what_the_cpu_kernels_give(as_on_cuda, subdivisions, size, perspective, dtype):
    verts, faces = spheres(subdivisions, dtype)
    expected = everything(verts, faces, size, perspective)
    found = as_on_cuda(everything, verts, faces, size, perspective)
    for name, value in expected.items():
        if name in EXACT and as_on_cuda.exact:
            assert torch.equal(found[name], value), name
        elif name in EXACT:  # a GPU rounds products and sums together: at a border it may see the face beside
            ours, theirs = found[name].double(), value.double()
            differ = (ours - theirs).abs().nan_to_num(0) > 1e-3 * (1 + theirs.abs().nan_to_num(0, 0, 0))
            assert differ.double().mean() < 1e-3, name
        elif as_on_cuda.exact:
            assert (found[name] - value).abs().max() <= 100 * torch.finfo(dtype).eps * value.abs().max(), name
        else:
            assert (found[name] - value).abs().mean() <= 1e-2 * value.abs().mean(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_faces_equally_near_the_first_is_kept(as_on_cuda, dtype):
    corners = torch.tensor([[[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]], dtype=dtype)
    for depth in (-0.5, -0.0, 0.0, 0.5):
        verts = torch.cat([corners + torch.tensor([0, 0, depth]).to(dtype)] * 3, 1)
        verts[:, 3:6, 2] *= -1 if depth == 0 else 1  # 0 and −0 are the same depth
        faces = torch.arange(9).view(3, 3).flip(0)
        drawn = as_on_cuda(rendering.rasterize, verts, faces, 16)
        assert set(drawn.face.unique().tolist()) == {-1, 0}
        assert (drawn.depth[drawn.mask] == depth).all()


def test_the_nearest_of_many_depths_of_either_sign_wins(as_on_cuda):
    corners = torch.tensor([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 1.0, 0.0]])
    for depths in ([-3.0, -2.0, 1.0], [5.0, 1e-30, 2.0], [-1e-30, 0.0, 1e20]):
        verts = torch.cat([corners + torch.tensor([0, 0, depth]) for depth in depths])[None]
        drawn = as_on_cuda(rendering.rasterize, verts, torch.arange(9).view(3, 3), 16)
        assert drawn.depth[drawn.mask].tolist() == pytest.approx([min(depths)] * int(drawn.mask.sum()), rel=1e-6, abs=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_not_finite_is_drawn_without_touching_other_memory(as_on_cuda, bad):
    """On CUDA a check of values may come later than the drawing."""
    verts, faces = spheres(0, torch.float32)
    verts[0, 3] = bad
    fragments = as_on_cuda(kernels.rasterize, verts, faces, (20, 30), False)
    assert ((fragments[0] >= -1) & (fragments[0] < len(faces))).all()
    as_on_cuda(kernels.silhouette, verts, faces, (20, 30), 1e-4)


def test_large_faces_are_shared_among_threads_and_small_ones_are_not(as_on_cuda):
    parts = [as_on_cuda(kernels._parts, torch.zeros(16, 4, 3), torch.zeros(f, 3), s) for f, s in [
        (7938, (64, 64)), (1280, (64, 64)), (1280, (256, 256)), (12, (256, 256)), (0, (8, 8)),
    ]]  # fmt: skip
    assert parts == [1, 1, 4, 256, 4]
