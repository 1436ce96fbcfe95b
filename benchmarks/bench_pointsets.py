"""Chamfer distance beside its peers, in one run: `pytest benchmarks/bench_pointsets.py` (a minute with PyTorch3D).

Forward and backward, two clouds of n points on a sphere: ours, SciPy's tree with the gather written out, and
PyTorch3D on the CPU, which is quadratic. The table at the end gives the best times, ratios and the growth with n.
"""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from scipy.spatial import cKDTree

from lib.geometry.pointsets import chamfer_distance

BEST: dict[tuple[str, int], float] = {}  # of all rounds: others on the machine only ever add to a time
SIZES = (1_000, 5_000, 20_000, 100_000)
needs_pytorch3d = pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="PyTorch3D is not installed")


def clouds(size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(2, 1, size, 3, generator=generator), dim=-1)
    return [cloud.clone().requires_grad_() for cloud in points]


def record(benchmark, peer: str, size: int, distance, rounds: int) -> None:
    x, y = clouds(size)

    def run() -> None:
        x.grad = y.grad = None
        distance(x, y).backward()

    benchmark.group = f"chamfer {size}"
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)
    BEST[peer, size] = benchmark.stats.stats.min


def written_out(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    total = 0.0
    for a, b in ((x[0], y[0]), (y[0], x[0])):
        nearest = cKDTree(b.detach().numpy()).query(a.detach().numpy())[1]
        total = total + (a - b[torch.from_numpy(nearest)]).square().sum(-1).mean()
    return total


@pytest.mark.parametrize("size", SIZES)
def test_ours(benchmark, size: int) -> None:
    record(benchmark, "ours", size, chamfer_distance, rounds=15)


@pytest.mark.parametrize("size", SIZES)
def test_scipy(benchmark, size: int) -> None:
    record(benchmark, "scipy", size, written_out, rounds=5)


@needs_pytorch3d
@pytest.mark.parametrize("size", SIZES[:3])
def test_pytorch3d(benchmark, size: int) -> None:
    from pytorch3d.loss import chamfer_distance as theirs

    record(benchmark, "pytorch3d", size, lambda x, y: theirs(x, y)[0], rounds=3)


def test_ratios(capsys) -> None:
    """100 000 points in a fiftieth of the time PyTorch3D takes for 20 000, and growth close to n log n."""
    lines = ["", f"{'points':>8} {'ours':>10} {'scipy':>18} {'pytorch3d':>18}   ({torch.get_num_threads()} threads)"]
    for size in SIZES:
        ours = BEST["ours", size]
        cells = [BEST.get((peer, size)) for peer in ("scipy", "pytorch3d")]
        texts = [f"{1e3 * cell:9.1f} ms {cell / ours:4.0f} ×" if cell else "–" for cell in cells]
        lines.append(f"{size:8d} {1e3 * ours:7.1f} ms {texts[0]:>18} {texts[1]:>18}")
    few, many = SIZES[0], SIZES[-1]
    growth = BEST["ours", many] / BEST["ours", few]
    expected = many * math.log(many) / (few * math.log(few))
    lines.append(
        f"growth {few} to {many} points: {growth:.0f} ×, n log n is {expected:.0f} ×, n² is {(many / few) ** 2:.0f} ×"
    )
    theirs = BEST.get(("pytorch3d", 20_000))
    if theirs:
        lines.append(f"PyTorch3D at 20000 points takes {theirs / BEST['ours', many]:.0f} × the time of ours at {many}")
    with capsys.disabled():
        print("\n".join(lines))
    assert growth < 2 * expected
    if theirs:
        assert theirs / BEST["ours", many] >= 50
