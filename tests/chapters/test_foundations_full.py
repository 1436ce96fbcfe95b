"""The full profiles of chapters 1 to 4 with a few small steps, by papermill's own command; and of which others there
is such a test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.course import notebooks

FEW = {
    "01_point_sets": {"steps": 5, "points": 256, "circle_steps": 5},
    "02_meshes": {"steps": 5, "finer_steps": 5, "points": 500},
    "03_cameras": {"steps": 5, "batch": 16, "width": 16, "trials": 5, "repeats": 2},
    "04_rendering": {"size": 64, "starts": 2, "camera_steps": 5, "shape_steps": 5, "seeds": 2, "trial_steps": 5},
}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", FEW)
def test_a_few_steps_of_the_full_path(chapter, tmp_path):
    command = [sys.executable, "-m", "papermill", f"notebooks/{chapter}.ipynb", str(tmp_path / "out.ipynb")]
    command += ["--cwd", "notebooks", "-p", "profile", "full", "-p", "device", "cpu", "-p", "out_dir", str(tmp_path)]
    command += ["-y", yaml.safe_dump({"overrides": FEW[chapter]}), "--no-progress-bar"]
    done = subprocess.run(command, cwd=notebooks.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers and not any(entry["inside"] is not None for entry in numbers.values()), "kept, and not judged"


def test_every_chapter_has_such_a_test():
    tested = set(FEW)
    for path in Path(__file__).parent.glob("test_*_full.py"):
        tested |= set(re.findall(r'"(\d\d[a-z]?_\w+)"', path.read_text(encoding="utf-8")))
    assert {path.stem for path in notebooks.all_chapters()} <= tested
