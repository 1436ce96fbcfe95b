"""What a creature costs beside what learning from it costs: `pytest benchmarks/bench_creatures.py` (some minutes).

A picture with all its truth (mask, keypoints, camera, meshes) out of a set of 300, its share of the breeds included,
against one training step of a ResNet-18 (forward, backward, Adam, batch 1) on a picture of the same size. Pictures are
made on one thread, the network trains on all.
"""

from __future__ import annotations

import pytest
import torch

from lib.datasets import cache
from lib.datasets.synthetic import creatures
from lib.models.encoders import ResNet18

COUNT = 300
SECONDS: dict[tuple[str, int], float] = {}


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("category", creatures.CATEGORIES)
def test_making_a_picture(benchmark, category: str, size: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "DIRECTORY", tmp_path)
    creatures.make_creatures(category, 1, seed=99, image_size=size)

    def fresh() -> None:
        creatures._breed.cache_clear()
        for file in tmp_path.iterdir():
            file.unlink()

    benchmark.group = f"{size}²"
    benchmark.pedantic(
        lambda: creatures.make_creatures(category, COUNT, seed=0, image_size=size), setup=fresh, rounds=1
    )
    SECONDS[category, size] = benchmark.stats.stats.min / COUNT


@pytest.mark.parametrize("size", [128, 256])
def test_training_step(benchmark, size: int) -> None:
    network = ResNet18()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    image = torch.rand(1, 3, size, size)

    def step() -> None:
        optimizer.zero_grad()
        network(image).square().mean().backward()
        optimizer.step()

    benchmark.group = f"{size}²"
    benchmark.pedantic(step, rounds=20, warmup_rounds=3)
    SECONDS["step", size] = benchmark.stats.stats.median


def test_table() -> None:
    print()
    for size in (128, 256):
        for category in creatures.CATEGORIES:
            cost, step = SECONDS.get((category, size)), SECONDS.get(("step", size))
            if cost is None or step is None:
                continue
            print(
                f"{category} {size}²: {1e3 * cost:.0f} ms, ResNet-18 step {1e3 * step:.0f} ms, {cost / step:.2f} of it"
            )
