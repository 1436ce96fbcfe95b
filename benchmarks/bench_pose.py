"""Cameras from points, 256 at once: `pytest benchmarks/bench_pose.py`.

`solve_weak_perspective` (closed form, then L-BFGS on the sums of the points) beside the closed form alone, and beside
`refine_weak_perspective`, which goes through all points in every step. The number of points should hardly matter to the
first.
"""

from __future__ import annotations

import pytest
import torch

from lib.datasets.synthetic.creatures import template
from lib.estimation import pose
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import matrix_to_quaternion, random_rotations

MEDIANS: dict[tuple[str, int], float] = {}


def views(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    verts = template("quadruped").verts
    X = verts[torch.randperm(len(verts), generator=draws)[:points]].expand(256, -1, -1)
    R = random_rotations(256, draws)
    camera = WeakPerspective(torch.full((256,), 0.8), torch.zeros(256, 2), matrix_to_quaternion(R))
    u = camera.project(X)[..., :2]
    return X, u + 2.5 * 2 / 256 * torch.randn(u.shape, generator=draws)


WAYS = {
    "solve": lambda X, u: pose.solve_weak_perspective(X, u),
    "closed form": lambda X, u: pose.weak_perspective_pose(X, u),
    "refine": lambda X, u: pose.refine_weak_perspective(pose.weak_perspective_pose(X, u), X, u, iterations=30),
}


@pytest.mark.parametrize("points", [64, 642])
@pytest.mark.parametrize("way", WAYS)
def test_cameras(benchmark, way: str, points: int) -> None:
    benchmark.group = f"256 cameras of {points} points"
    benchmark.pedantic(WAYS[way], args=views(points), rounds=8, warmup_rounds=1)
    MEDIANS[way, points] = benchmark.stats.stats.median


def test_ratios(capsys) -> None:
    if len(MEDIANS) < 2 * len(WAYS):
        pytest.skip("run the whole file")
    with capsys.disabled():
        print(f"\n256 cameras of 642 points: {MEDIANS['solve', 642]:.3f} s")
        print(f"all points in every step / sums: {MEDIANS['refine', 642] / MEDIANS['solve', 642]:.1f} times the time")
        print(f"642 points / 64 points: {MEDIANS['solve', 642] / MEDIANS['solve', 64]:.2f} times the time")
    assert MEDIANS["solve", 642] < MEDIANS["refine", 642]
