"""The renderer beside its peers, in one run: `pytest benchmarks/bench_rendering.py` (some minutes with PyTorch3D).

Soft silhouette, forward and backward, 16 × 64², and z-buffer with barycentrics, 16 × 128², both of a dented sphere of
642 vertices and 1280 faces. The table at the end gives each back end's median and the ratios that are promised.
"""

from __future__ import annotations

import importlib.util
import math
import sys

import pytest
import torch
from memory import forget_peak, peak_memory

from lib import rendering
from lib.geometry.mesh import Mesh, icosphere

SIGMA = 1e-4
MEDIANS: dict[tuple[str, str], float] = {}
needs_pytorch3d = pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="PyTorch3D is not installed")


def spheres(images: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sphere = icosphere(3)
    verts = 0.7 * sphere.verts + 0.01 * torch.randn(images, 642, 3, generator=generator)
    return verts, sphere.faces


def record(benchmark, task: str, backend: str, run, rounds: int) -> None:
    benchmark.group = task
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=1 if rounds > 2 else 0)
    MEDIANS[task, backend] = benchmark.stats.stats.median


@pytest.mark.parametrize(("backend", "rounds"), [("kernels", 40), ("reference", 8)])
@pytest.mark.parametrize("gradient", ["soft", "nmr"])
def test_silhouette(benchmark, backend: str, rounds: int, gradient: str) -> None:
    verts, faces = spheres()
    verts.requires_grad_()

    def run() -> None:
        verts.grad = None
        rendering.silhouette(verts, faces, 64, SIGMA, gradient, backend=backend).square().mean().backward()

    record(benchmark, f"{gradient} silhouette", backend, run, rounds)


@pytest.mark.parametrize(("backend", "rounds"), [("kernels", 40), ("reference", 8)])
@pytest.mark.parametrize("task", ["z-buffer", "z-buffer and back"])
def test_zbuffer(benchmark, backend: str, rounds: int, task: str) -> None:
    verts, faces = spheres()
    verts.requires_grad_(task == "z-buffer and back")

    def run() -> None:
        fragments = rendering.rasterize(verts, faces, 128, backend=backend)
        if verts.requires_grad:
            verts.grad = None
            fragments.barycentrics.square().mean().backward()

    record(benchmark, task, backend, run, rounds)


@needs_pytorch3d
def test_silhouette_of_pytorch3d(benchmark) -> None:
    """As its users call it: 50 faces per pixel, and the blur radius of its tutorials."""
    from pytorch3d.renderer.blending import BlendParams, sigmoid_alpha_blend
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.renderer.mesh.rasterizer import Fragments
    from pytorch3d.structures import Meshes

    verts, faces = spheres()
    verts = (verts + torch.tensor([0.0, 0.0, 2.0])).requires_grad_()

    def run() -> None:
        verts.grad = None
        radius = math.log(1 / 1e-4 - 1) * SIGMA
        parts = rasterize_meshes(Meshes(verts, faces.expand(len(verts), -1, -1)), 64, radius, 50)
        colors = torch.zeros(*parts[0].shape, 3)
        image = sigmoid_alpha_blend(colors, Fragments(*parts), BlendParams(sigma=SIGMA))
        image[..., 3].square().mean().backward()

    record(benchmark, "soft silhouette", "pytorch3d", run, 2)


@needs_pytorch3d
@pytest.mark.parametrize("task", ["z-buffer", "z-buffer and back"])
def test_zbuffer_of_pytorch3d(benchmark, task: str) -> None:
    verts, faces = spheres()
    verts.requires_grad_(task == "z-buffer and back")

    def run() -> None:
        fragments = rendering.rasterize(verts, faces, 128, backend="pytorch3d")
        if verts.requires_grad:
            verts.grad = None
            fragments.barycentrics.square().mean().backward()

    record(benchmark, task, "pytorch3d", run, 2)


def test_ratios() -> None:
    """Kernels at least 10 × the reference; 500 × PyTorch3D's soft silhouette, and of that order for the z-buffer."""
    lines = ["", f"{'':20} {'kernels':>10} {'reference':>18} {'pytorch3d':>18}   ({torch.get_num_threads()} threads)"]
    ratios = {}
    for task in dict.fromkeys(task for task, _ in MEDIANS):
        ours = MEDIANS[task, "kernels"]
        cells = []
        for other in ("reference", "pytorch3d"):
            time = MEDIANS.get((task, other))
            ratios[task, other] = time / ours if time else math.nan
            cells.append(f"{1e3 * time:9.0f} ms {ratios[task, other]:4.0f} ×" if time else " " * 18)
        lines.append(f"{task:20} {1e3 * ours:7.1f} ms {cells[0]:>18} {cells[1]:>18}")
    sys.__stdout__.write("\n".join(lines) + "\n")
    assert ratios["soft silhouette", "reference"] >= 10
    assert ratios["z-buffer", "reference"] >= 10
    if ("soft silhouette", "pytorch3d") in MEDIANS:
        assert ratios["soft silhouette", "pytorch3d"] >= 500
        assert ratios["z-buffer", "pytorch3d"] >= 100


@pytest.mark.parametrize("size", [128, 1024])
def test_memory_grows_with_pixels_and_faces_not_their_product(size: int) -> None:
    """10 242 vertices, 20 480 faces: their product with 1024² pixels would be terabytes."""

    def draw(sphere: Mesh, size: int) -> None:
        verts = (0.7 * sphere.verts)[None].requires_grad_()
        rendering.silhouette(verts, sphere.faces, size).mean().backward()
        rendering.rasterize(verts, sphere.faces, size).depth.isfinite().sum()

    sphere = icosphere(5)
    draw(icosphere(0), 8)  # kernels compiled on first use are not this size's
    before = forget_peak()
    draw(sphere, size)
    assert peak_memory() - before < 200 * (size**2 + len(sphere.faces)) + 50e6
