"""Refinement of a clip of 30 frames at 64²: `pytest benchmarks/bench_refinement.py`.

The whole optimisation of chapter 7 (mask, rigidity, Laplacian, motion) with the kernels, and three of its steps with
the renderer in plain PyTorch.
"""

from __future__ import annotations

import pytest
import torch

from lib import rendering
from lib.datasets.synthetic import creatures
from lib.deformation.handles import HandleLayer
from lib.estimation import optical_flow, refinement
from lib.models.articulated import PoseCost
from lib.rendering import kernels, reference

FRAMES = 30
MEDIANS: dict[str, float] = {}
BACKENDS = {"kernels": kernels, "reference": reference}


@pytest.fixture(scope="module")
def clip():
    video = creatures.make_video("quadruped", FRAMES, seed=5, image_size=64, split="test")
    horse = creatures.template("quadruped")
    layer = HandleLayer(horse.mesh, 16).requires_grad_(False)
    cost = PoseCost(horse.mesh, horse.keypoint_vertices)
    seen = {"mask": (video.mask > 0.5).float()}
    return cost, layer, torch.zeros(FRAMES, 16, 3), video.camera, seen, optical_flow.estimate_flow(video.image)


def refine(clip, steps: int) -> refinement.Refined:
    *parts, flow = clip
    return refinement.refine_clip(*parts, refinement.Weights(motion=10.0), flow=flow, steps=steps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_three_steps(benchmark, clip, backend: str, monkeypatch) -> None:
    monkeypatch.setattr(rendering, "_backend", lambda name, verts: BACKENDS[backend])
    benchmark.group = "three steps of refinement"
    benchmark.pedantic(refine, args=(clip, 3), rounds=2, warmup_rounds=1 if backend == "kernels" else 0)
    MEDIANS[backend] = benchmark.stats.stats.median


def test_a_whole_clip(benchmark, clip) -> None:
    benchmark.group = "refinement of 30 frames, 100 steps"
    benchmark.pedantic(refine, args=(clip, 100), rounds=3, warmup_rounds=0)
    MEDIANS["whole"] = benchmark.stats.stats.median


def test_ratios(capsys) -> None:
    if len(MEDIANS) < 3:
        pytest.skip("run the whole file")
    with capsys.disabled():
        print(f"\nrefinement of 30 frames at 64², at most 100 steps: {MEDIANS['whole']:.1f} s")
        print(f"plain PyTorch / kernels, three steps: {MEDIANS['reference'] / MEDIANS['kernels']:.1f} times the time")
    assert MEDIANS["kernels"] < MEDIANS["reference"]
