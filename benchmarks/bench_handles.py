"""The handle layer beside a dense solve, in one run: `pytest benchmarks/bench_handles.py` (some minutes, on Linux).

A training step, forward and backward, of 642 vertices, 32 handles and batch 16: by autograd through
`torch.linalg.solve`, by a dense Cholesky factor with the explicit gradient, and by the layer as it is. Test time:
the same solves against the folded layer. Both on one thread and on two. Scaling: one step, its memory, from 642
to 40 962 vertices.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

import pytest
import torch
from memory import forget_peak, peak_memory

from lib.deformation.handles import HandleLayer, apply_folded
from lib.geometry import laplacian, mesh

HANDLES, BATCH = 32, 16
BEST: dict[tuple[str, int], float] = {}  # of all rounds: others on the machine only ever add to a time


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def inputs(template: mesh.Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    offsets = 0.1 * torch.randn(BATCH, HANDLES, 3, generator=generator)
    return offsets.requires_grad_(), torch.randn(BATCH, len(template.verts), 3, generator=generator)


class DenseSolve:
    """The normal equations, left to autograd. LᵀL and LᵀL T are made once, as any careful user would."""

    def __init__(self, template: mesh.Mesh) -> None:
        self.logits = HandleLayer(template, HANDLES).logits
        L = laplacian.cotangent_laplacian(template.verts, template.faces).to_dense()
        self.template, self.gram = template.verts, L.T @ L
        self.fixed = self.gram @ self.template

    def __call__(self, offsets: torch.Tensor) -> torch.Tensor:
        A = self.logits.softmax(dim=1)
        return torch.linalg.solve(self.gram + A.T @ A, self.fixed + A.T @ (A @ self.template + offsets))


def make(method: str):
    template = mesh.icosphere(3)
    return DenseSolve(template) if method == "autograd" else HandleLayer(template, HANDLES, method=method)


@pytest.mark.parametrize("method", ["autograd", "cholesky", "woodbury"])
def test_training_step(benchmark, threads: int, method: str) -> None:
    layer = make(method)
    offsets, upstream = inputs(mesh.icosphere(3))

    def run() -> None:
        offsets.grad = layer.logits.grad = None
        layer(offsets).backward(upstream)

    benchmark.group = f"training step, {threads} threads"
    benchmark.pedantic(run, rounds=30, warmup_rounds=3)
    BEST[f"step, {method}", threads] = benchmark.stats.stats.min


@pytest.mark.parametrize("method", ["autograd", "cholesky", "woodbury", "folded"])
def test_inference(benchmark, threads: int, method: str) -> None:
    layer = make("woodbury" if method == "folded" else method)
    offsets = inputs(mesh.icosphere(3))[0].detach()
    if method == "folded":
        (C, D), targets = layer.fold(), layer.handles().detach() + offsets

    @torch.no_grad()
    def run() -> None:
        if method == "folded":
            apply_folded(C, D, targets)
        else:
            layer(offsets)

    benchmark.group = f"inference, {threads} threads"
    benchmark.pedantic(run, rounds=100, warmup_rounds=5)
    BEST[f"inference, {method}", threads] = benchmark.stats.stats.min


def test_ratios(threads: int) -> None:
    """A training step at least 3 × a dense solve with autograd; folded inference at least 50 × the dense solve."""
    best = {name: seconds for (name, count), seconds in BEST.items() if count == threads}
    step = best["step, autograd"] / best["step, woodbury"]
    folded, cholesky = (best[f"inference, {m}"] / best["inference, folded"] for m in ("autograd", "cholesky"))
    lines = [f"threads: {threads}", *(f"{name:24} {1e3 * seconds:9.3f} ms" for name, seconds in best.items())]
    lines += [f"training step: {step:.1f} × the dense solve", f"folded inference: {folded:.1f} × the dense solve"]
    lines += [f"                  {cholesky:.1f} × a dense Cholesky factor"]
    sys.__stdout__.write("\n".join(["", *lines]) + "\n")
    assert step >= 3
    assert folded >= 50


def _scale(subdivisions: int, queue) -> None:
    """In a process of its own, whose peak memory is that of this size."""
    torch.set_num_threads(1)
    # What is imported and started on first use is not this size's.
    HandleLayer(mesh.icosphere(0), 4)(torch.ones(1, 4, 3)).sum().backward()
    template = mesh.icosphere(subdivisions)
    before = forget_peak()
    start = time.perf_counter()
    layer = HandleLayer(template, HANDLES)
    made = time.perf_counter() - start
    offsets, upstream = inputs(template)
    steps = []
    for _ in range(4):
        start = time.perf_counter()
        layer(offsets).backward(upstream)
        steps.append(time.perf_counter() - start)
    queue.put((len(template.verts), made, sorted(steps)[1], peak_memory() - before))


@pytest.mark.parametrize("subdivisions", [3, 4, 5, 6])
def test_scaling(subdivisions: int) -> None:
    """Far from V² memory: the dense W alone would take 6.7 GB in float32 at 40 962 vertices."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_scale, args=(subdivisions, queue))
    process.start()
    process.join(540)
    assert process.exitcode == 0
    count, made, step, grown = queue.get()
    line = f"{count:6} vertices: made in {made:6.2f} s, a step {1e3 * step:8.1f} ms, memory {grown / 1e6:6.0f} MB"
    sys.__stdout__.write("\n" + line + "\n")
    assert grown < 1e9
