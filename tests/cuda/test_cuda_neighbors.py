"""Neighbours as CUDA finds them, run on the CPU: those of brute force, with no wait of the host."""

from __future__ import annotations

import pytest
import torch
from simulated import simulated

from lib.geometry import nearest, pointsets
from lib.metrics import surface_error


def clouds(dtype=torch.float32, count: int = 700, dimension: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    cube = torch.rand(count, dimension, dtype=dtype)
    sheet, line, far = cube.clone(), cube.clone(), cube.clone()
    sheet[:, -1] *= 1e-4
    line[:, 1:] *= 1e-6
    far[0] = 1e4
    sphere = torch.nn.functional.normalize(cube - 0.5, dim=1)
    return {
        "cube": cube,
        "sheet": sheet,
        "line": line,
        "one far away": far,
        "sphere": sphere,
        "heap": cube[:1].expand(count, -1),
    }


def squared(x, y):
    return (x[:, None] - y[None]).square().sum(-1)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", clouds())
def test_a_grid_and_all_pairs_find_the_nearest(monkeypatch, name, dtype, dimension) -> None:
    points = clouds(dtype, dimension=dimension)[name]
    queries = torch.cat(
        [points[:150] + 1e-3 * torch.randn_like(points[:150]), 3 * torch.randn(50, dimension).to(dtype)]
    )
    least = squared(queries, points).amin(1)
    monkeypatch.setattr(nearest, "_on_gpu", lambda points: True)
    for found in (
        nearest.nearest_on_grid(queries, points),
        nearest.nearest_of_all(queries[None], points[None], torch.tensor([len(points)]))[0],
    ):
        assert torch.allclose((queries - points[found]).square().sum(1), least, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", clouds())
def test_the_device_cuts_a_cloud_into_the_cells_of_the_host(name) -> None:
    points = clouds(torch.float64)[name]
    host, device = nearest._sort(points), nearest._sort_on_cuda(points)
    assert torch.allclose(host.side, device.side, rtol=1e-12, atol=0) and torch.equal(host.shape, device.shape)
    cells = int(host.shape.prod())
    assert cells <= 8 * len(points) + 8
    assert torch.equal(host.starts, device.starts[: cells + 1]) and torch.equal(host.order, device.order)


def test_distances_on_the_device_are_those_of_the_host(monkeypatch) -> None:
    torch.manual_seed(0)
    x, y, many = torch.rand(2, 60, 3), torch.rand(2, 50, 3), torch.tensor([60, 20])
    cases = {
        "chamfer": lambda x, y, many: pointsets.chamfer_distance(x, y, many),
        "three nearest": lambda x, y, many: pointsets.knn_points(x, y, k=3).dists,
        "eight dimensions": lambda x, y, many: pointsets.knn_points(x.repeat(1, 1, 3), y.repeat(1, 1, 3)).dists,
        "hausdorff": lambda x, y, many: pointsets.hausdorff_distance(x, y),
        "surface error": lambda x, y, many: surface_error(x, y),
        "earth mover's": lambda x, y, many: pointsets.sinkhorn_distance(x, y, 0.05, tolerance=1e-4),
    }
    for pairs in (1 << 28, 100):  # all pairs, then the grid
        monkeypatch.setattr(pointsets, "GRID_PAIRS_ON_CUDA", pairs)
        for name, measure in cases.items():
            expected = measure(x, y, many)
            with simulated():
                found = measure(x.to("cuda"), y.to("cuda"), many.to("cuda")).cpu()
            assert torch.allclose(found, expected, rtol=1e-3 if "mover" in name else 1e-5), name


@pytest.mark.parametrize("pairs", [1 << 28, 100])
def test_nobody_waits_for_neighbors(monkeypatch, pairs) -> None:
    monkeypatch.setattr(pointsets, "GRID_PAIRS_ON_CUDA", pairs)
    x = torch.rand(1, 60, 3)
    with simulated() as record:
        x = x.to("cuda")
        pointsets.knn_points(x, x)
        before = record.total("wait")
        pointsets._neighbors(x, x, *[pointsets._check_lengths("x", x, None)] * 2, 1)
        assert record.total("wait") == before, record.places("wait")
