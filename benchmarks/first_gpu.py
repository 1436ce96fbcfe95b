"""What to run first on a GPU: `.venv/bin/python benchmarks/first_gpu.py` (about five minutes).

Measured are the renderer's kernels and the nearest neighbours beside the CPU's, and beside PyTorch3D's CUDA kernels
where that is installed; a training step of each chapter's system, and how often the host waits in it. The numbers are
printed, and written to benchmarks/gpus/<card>.json, which the report of a run shows. First of all the CUDA tests
should pass: `.venv/bin/pytest tests/cuda`.

`--rehearse` does the same in miniature on the CPU, to see that everything runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]

from systems import SYSTEMS, Scale  # noqa: E402

from lib import rendering  # noqa: E402
from lib.geometry import pointsets  # noqa: E402
from lib.geometry.mesh import icosphere  # noqa: E402

FULL = {
    "chapter 1": Scale(points=2000),
    "chapter 2": Scale(ball=4, points=20_000),
    "chapter 4": Scale(size=256, ball=3),
    "chapter 5": Scale(batch=16, size=256, ball=3, width=64),
    "chapter 6": Scale(batch=16, size=256, ball=3, width=64),
    "chapter 7": Scale(batch=8, size=256, ball=3, width=64),
    "chapter 8": Scale(batch=16, size=256, ball=3, width=64),
    "chapter 9": Scale(batch=64, size=64, width=64),
    "chapter 10": Scale(batch=64, size=128, width=16),
}


def milliseconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """The median time of a call; on CUDA with the device idle before and after."""

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    run()  # compiles
    times = []
    for _ in range(rounds):
        finish()
        start = time.perf_counter()
        run()
        finish()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def meshes(images: int, subdivisions: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    ball = icosphere(subdivisions)
    verts = 0.7 * ball.verts + 0.01 * torch.randn(images, len(ball.verts), 3)
    return verts.to(device), ball.faces.to(device)


def kernels(device: str, images: int, size: int, subdivisions: int) -> dict[str, Callable[[], object]]:
    """What the renderer does for these meshes, forward and with the gradient."""
    verts, faces = meshes(images, subdivisions, device)
    learned = verts.clone().requires_grad_()

    def backward(image: torch.Tensor) -> None:
        learned.grad = None
        image.square().mean().backward()

    return {
        "soft silhouette": lambda: rendering.silhouette(verts, faces, size),
        "soft silhouette and back": lambda: backward(rendering.silhouette(learned, faces, size)),
        "NMR silhouette and back": lambda: backward(rendering.silhouette(learned, faces, size, gradient="nmr")),
        "z-buffer": lambda: rendering.rasterize(verts, faces, size),
        "z-buffer and back": lambda: backward(rendering.rasterize(learned, faces, size).barycentrics),
        "visible vertices": lambda: rendering.visible_vertices(verts, faces, size),
    }


def pytorch3d_kernels(device: str, images: int, size: int, subdivisions: int) -> dict[str, Callable[[], object]]:
    """The same by PyTorch3D, as its users call it: 50 faces a pixel for the soft silhouette, and one else."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    verts, faces = meshes(images, subdivisions, device)
    learned = (verts + torch.tensor([0.0, 0.0, 2.0], device=device)).requires_grad_()
    faces = faces.expand(images, -1, -1)

    def draw(radius: float, per_pixel: int) -> torch.Tensor:
        return rasterize_meshes(Meshes(learned, faces), size, radius, per_pixel)

    def backward(part: torch.Tensor) -> None:
        learned.grad = None
        part.square().mean().backward()

    return {
        "soft silhouette": lambda: draw(9e-4, 50),
        "soft silhouette and back": lambda: backward(torch.sigmoid(-draw(9e-4, 50)[3] / 1e-4)),
        "z-buffer": lambda: draw(0.0, 1),
        "z-buffer and back": lambda: backward(draw(0.0, 1)[2]),
    }


def neighbors(device: str, count: int) -> dict[str, Callable[[], object]]:
    """The nearest neighbour in clouds on a sphere, by all pairs and by the grid."""
    x, y = (torch.nn.functional.normalize(torch.randn(1, count, 3), dim=-1).to(device) for _ in range(2))

    def by(pairs: int) -> None:
        before = pointsets.GRID_PAIRS_ON_CUDA
        pointsets.GRID_PAIRS_ON_CUDA = pairs
        try:
            pointsets.knn_points(x, y)
        finally:
            pointsets.GRID_PAIRS_ON_CUDA = before

    if device == "cpu":
        return {"nearest neighbour": lambda: pointsets.knn_points(x, y)}
    return {"nearest neighbour": lambda: by(1 << 62), "nearest neighbour, grid": lambda: by(0)}


def step(chapter: str, device: str, scale: Scale, steps: int) -> dict[str, float]:
    """A training step: milliseconds, and the waits of the host that PyTorch sees, in the mean of the later half."""
    marks: dict[int, float] = {}

    def watch(number: int) -> None:
        if device == "cuda" and number == steps // 2:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("warn")
        if device == "cuda" and number == steps - 1:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        marks[number] = time.perf_counter()

    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        try:
            SYSTEMS[chapter](device, scale, steps, watch)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    count = steps - 1 - steps // 2
    seen = sum("synchronizing CUDA operation" in str(warning.message) for warning in waits)
    spent = 1e3 * (marks[steps - 1] - marks[steps // 2]) / count
    return {"milliseconds": spent, "waits": seen / count} | scale._asdict()


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the numbers; benchmarks/gpus/<card>.json if not given")
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on the CPU")
    options = parser.parse_args(arguments)
    device = "cpu" if options.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; run it on a machine that has one, or with --rehearse")
    torch.manual_seed(0)
    card = torch.cuda.get_device_name() if device == "cuda" else "rehearsal"
    result: dict = {"card": card, "date": str(date.today()), "torch": torch.__version__}
    result |= {"kernels": [], "steps": {}}

    sizes = [(2, 16, 0)] if options.rehearse else [(16, 64, 3), (16, 256, 3), (128, 64, 4)]
    for images, size, subdivisions in sizes:
        places = [device] if options.rehearse else ["cuda", "cpu"]
        rows: dict[str, dict] = {}
        for place in places:
            for task, run in kernels(place, images, size, subdivisions).items():
                rows.setdefault(task, {})[place] = milliseconds(run, place, 20 if place == "cuda" else 3)
        if device == "cuda" and importlib.util.find_spec("pytorch3d") is not None:
            for task, run in pytorch3d_kernels(device, images, size, subdivisions).items():
                rows[task]["pytorch3d"] = milliseconds(run, device, 5)
        faces = 20 * 4**subdivisions
        for task, times in rows.items():
            result["kernels"].append({"task": f"{task}, {images} × {size}², {faces} faces", "milliseconds": times})
    for count in (100,) if options.rehearse else (3000, 20_000, 100_000):
        rows = {}
        for place in [device] if options.rehearse else ["cuda", "cpu"]:
            for task, run in neighbors(place, count).items():
                rows.setdefault(task, {})[place] = milliseconds(run, place, 10 if place == "cuda" else 3)
        for task, times in rows.items():
            result["kernels"].append({"task": f"{task}, {count} points", "milliseconds": times})
    for row in result["kernels"]:
        print(f"{row['task']:55}", *(f"{place} {spent:9.3f} ms" for place, spent in row["milliseconds"].items()))
    for chapter, scale in FULL.items():
        found = step(chapter, device, Scale() if options.rehearse else scale, 4 if options.rehearse else 40)
        result["steps"][chapter] = found
        print(f"{chapter}: {found['milliseconds']:.1f} ms a step, {found['waits']:.1f} waits", flush=True)
    if device == "cuda":
        result["memory"] = torch.cuda.max_memory_allocated()

    path = options.out or ROOT / "benchmarks" / "gpus" / f"{re.sub('[^a-z0-9]+', '-', card.lower())}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path


if __name__ == "__main__":
    main()
