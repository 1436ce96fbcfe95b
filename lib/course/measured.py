"""The measured results of the course: one record for each chapter × profile × seed, in `data/results/<chapter>.json`.

    course run 05 --profile long --seed 1 --out folder
    course keep folder                                  # reads the run's metrics.json into the records

A record: profile, seed, metrics (name → number), steps, minutes and cores (None if not known; the product of both is at
most what the run cost), hardware, date, source.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from lib.course.notebooks import ROOT, chapter_settings, find_chapters
from lib.course.runs import Run
from lib.files import write_atomically

FOLDER = ROOT / "data" / "results"
ENTRIES = ("profile", "seed", "metrics", "steps", "minutes", "cores", "hardware", "date", "source")


class Figure(NamedTuple):
    """The number by which a chapter is judged, and the one that its paper published.

    metric: its name in the records and in the chapter's metrics.json. up: whether more is better. published: None if
    the paper has no such number. data: of the paper.
    """

    chapter: str
    metric: str
    label: str
    unit: str
    up: bool
    published: float | None
    data: str


FIGURES = (
    Figure(
        "05_category_meshes", "all, predicted camera: PCK@0.1", "PCK@0.1", "", True, 0.812, "CUB, photographs of birds"
    ),
    Figure(
        "06b_handles_from_pictures", "quadruped: mIoU, 16 handles", "mIoU", "", True, 0.676, "CUB, photographs of birds"
    ),
    Figure("07_motion", "PCK@0.1, inference", "PCK@0.1", "", True, 0.747, "videos of horses"),
    Figure("08_correspondences", "rotation: points, L-BFGS", "rotation", "°", False, None, "no such number at hand"),
    Figure("09_symmetry", "SIDE ours", "SIDE × 10⁻²", "", False, 0.793, "rendered scans of faces"),
    Figure("10_keypoints", "median error: ours", "turn of cars", "°", False, 3.372, "ShapeNet, rendered cars"),
)


def read(chapter: str) -> list[dict]:
    """Read the records of a chapter, such as "05_category_meshes"; none if it has no file.

    Raises ValueError for a file that is damaged.
    """
    path = FOLDER / f"{chapter}.json"
    if not path.is_file():
        return []
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not all(set(record) == set(ENTRIES) and isinstance(record["metrics"], dict) for record in records):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(f"{path} holds no records; get it anew: git checkout data/results") from None
    return records


def keep(folder: Path) -> list[Path]:
    """Read the chapters of a run into the records; a record of the same profile and seed is replaced. Return the files.

    Raises ValueError if the folder holds no run, if its settings were changed with --set, if a chapter did not pass, or
    has no numbers. Nothing is written then.
    """
    run = Run.load(folder)
    if run.overrides:
        raise ValueError(f"{folder} is a run with other settings ({', '.join(run.overrides)}); leave out --set")
    found = {}
    for chapter in run.chapters:
        numbers = {name: entry["value"] for name, entry in run.metrics(chapter).items()}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if chapter.status != "passed" or not numbers:
            raise ValueError(f"{chapter.name} in {folder} is {chapter.status}; continue the run to its end first")
        settings = chapter_settings(find_chapters([chapter.name])[0])[run.profile]
        gpu = run.hardware.get("gpu", "none")
        found[chapter.name] = {
            "profile": run.profile,
            "seed": run.seed,
            "metrics": numbers,
            "steps": settings.get("steps"),
            "minutes": round(chapter.seconds / 60, 1),
            "cores": run.hardware.get("cores"),
            "hardware": gpu if run.device != "cpu" and gpu != "none" else f"{run.hardware.get('cores')} CPU cores",
            "date": run.started[:10],
            "source": "course run",
        }
    paths = []
    for name, record in found.items():
        others = [old for old in read(name) if (old["profile"], old["seed"]) != (record["profile"], record["seed"])]
        records = sorted([*others, record], key=lambda one: (one["profile"], one["seed"]))
        paths.append(FOLDER / f"{name}.json")
        write_atomically(paths[-1], json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    return paths


def values(figure: Figure, profile: str) -> list[float]:
    """List a chapter's number for each seed of a profile that was measured."""
    records = [record for record in read(figure.chapter) if record["profile"] == profile]
    return [record["metrics"][figure.metric] for record in records if figure.metric in record["metrics"]]
