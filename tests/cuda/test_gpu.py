"""What only a GPU can show: no step waits, runs resume, neighbours agree with the CPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from systems import SYSTEMS, Scale
from test_steps import STEPS, train

from lib.geometry import pointsets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("chapter", ["chapter 5", "chapter 6", "chapter 8", "chapter 9"])
def test_pytorch_sees_no_wait_in_a_step(chapter: str) -> None:
    """Between the second step and the last, which reports, PyTorch raises at any wait of its own."""

    def watch(step: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if 1 < step < STEPS - 1 else "default")

    try:
        SYSTEMS[chapter]("cuda", Scale(), STEPS, watch, log_every=STEPS)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_is_resumed(tmp_path) -> None:
    assert train(tmp_path, 9)["step"] == [3, 6, 9]
    assert train(tmp_path, 12)["step"] == [3, 6, 9, 12]


@pytest.mark.parametrize("pairs", [1 << 28, 100])
@pytest.mark.parametrize("dimension", [2, 3])
def test_neighbors_are_those_of_the_cpu(monkeypatch, dimension, pairs) -> None:
    monkeypatch.setattr(pointsets, "GRID_PAIRS_ON_CUDA", pairs)
    torch.manual_seed(0)
    x, y = torch.rand(2, 3000, dimension), torch.rand(2, 2000, dimension)
    found = pointsets.knn_points(x.to("cuda"), y.to("cuda")).dists.cpu()
    assert torch.allclose(found, pointsets.knn_points(x, y).dists, rtol=1e-4, atol=1e-9)
