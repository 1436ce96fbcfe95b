"""What a creature costs beside what learning from it costs: `pytest benchmarks/bench_creatures.py` (a minute).

A picture with all its truth (mask, keypoints, camera, meshes), with its share of the 24 breeds that a set of 300
has, against one training step of a ResNet-18 (forward, backward, Adam, batch 1) on a picture of the same size. Both
on one thread, in seconds of the processor: the ratio does not depend on how busy the other cores are.
"""

from __future__ import annotations

import time

import pytest
import torch

from lib.datasets import cache
from lib.datasets.synthetic import creatures
from lib.layers.convolutional import ResNet18

SIZES = (128, 256)
SET = 300
SECONDS: dict[tuple[str, int], float] = {}
pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("category", creatures.CATEGORIES)
def test_making_a_breed(benchmark, category: str) -> None:
    benchmark.group = "breed"
    benchmark.pedantic(creatures._breed, (category, 0), setup=creatures._breed.cache_clear, rounds=4, warmup_rounds=1)
    SECONDS[category, 0] = benchmark.stats.stats.mean


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("category", creatures.CATEGORIES)
def test_making_pictures(benchmark, category: str, size: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "DIRECTORY", tmp_path)
    count = creatures.BREEDS

    def forget() -> None:
        for file in tmp_path.iterdir():
            file.unlink()

    def make() -> None:
        creatures.make_creatures(category, count, seed=0, image_size=size)

    make()  # the breeds are there now, and stay
    benchmark.group = f"{count} pictures, {size}²"
    benchmark.pedantic(make, setup=forget, rounds=2)
    share = SECONDS.get((category, 0), 0) * creatures.BREEDS / SET
    SECONDS[category, size] = benchmark.stats.stats.min / count + share


@pytest.mark.parametrize("size", SIZES)
def test_training_step(benchmark, size: int) -> None:
    network = ResNet18()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    image = torch.rand(1, 3, size, size)

    def step() -> None:
        optimizer.zero_grad()
        network(image).square().mean().backward()
        optimizer.step()

    benchmark.group = f"training step, {size}²"
    benchmark.pedantic(step, rounds=10, warmup_rounds=2)
    SECONDS["step", size] = benchmark.stats.stats.median


def test_ratios(capsys) -> None:
    lines, shares = [""], []
    for size in SIZES:
        step = SECONDS["step", size]
        for category in creatures.CATEGORIES:
            cost = SECONDS[category, size]
            shares.append(cost / step)
            lines.append(f"{category:10}{size:4}² {1e3 * cost:4.0f} ms, step {1e3 * step:4.0f} ms: {shares[-1]:.2f}")
    with capsys.disabled():
        print("\n".join(lines))
    assert max(shares) < 1
