"""Objects of every family, with views: `pytest benchmarks/bench_objects.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.datasets.synthetic import objects

SECONDS: dict[str, float] = {}
COUNT = 10


@pytest.mark.parametrize("family", objects.FAMILIES)
def test_views(benchmark, family: str) -> None:
    """Ten objects: description, mesh, and one picture of 64² each."""
    camera = objects.look_at(torch.tensor([0.6]), torch.tensor([0.4]))

    def make(seed: int) -> None:
        for style in objects.families.combinations(family, "train")[:COUNT]:
            shape = objects.Shape(objects.families.describe(family, style, np.random.default_rng(seed)))
            objects.render(shape, camera, 64, resolution=48)

    benchmark.group = "ten objects with a view of 64²"
    benchmark.pedantic(make, args=(0,), rounds=3, warmup_rounds=1)
    count = min(COUNT, len(objects.families.combinations(family, "train")))
    SECONDS[family] = benchmark.stats.stats.median / count


def test_a_thousand(capsys) -> None:
    if len(SECONDS) < len(objects.FAMILIES):
        pytest.skip("run the whole file")
    mean = sum(SECONDS.values()) / len(SECONDS)
    with capsys.disabled():
        print(f"\na thousand objects with a view each: {1000 * mean:.0f} s in one process")
        print(f"slowest family / mean: {max(SECONDS.values()) / mean:.1f} times the time")
