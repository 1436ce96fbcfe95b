"""Before torch is imported: one thread a test process, for `make test` runs one process per core."""

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

SETTINGS = """\
class chapter:
    @staticmethod
    def choose_settings(profile, overrides, **profiles):
        return profiles["quick"] | profiles[profile] | overrides

settings = chapter.choose_settings(profile, overrides, quick=dict(steps=3, rate=0.1), full=dict(steps=30, rate=0.1))"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of its own in a temporary folder: `course(name, *cells)` writes a chapter that runs in a second.

    A cell that begins with "# " and a capital is markdown.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

    from lib.course import notebooks, runs

    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    notebooks.NOTEBOOKS.mkdir()

    def write(name: str, *cells: str, settings: str = SETTINGS):
        parameters = new_code_cell('profile = "quick"\nseed = 0\ndevice = "auto"\nout_dir = ""\noverrides = {}')
        parameters.metadata["tags"] = ["parameters"]
        body = [
            new_markdown_cell(cell) if cell[:2] == "# " and cell[2].isupper() else new_code_cell(cell) for cell in cells
        ]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = new_notebook(
            cells=[new_markdown_cell(f"# The chapter {name}\n\nText."), parameters, new_code_cell(settings), *body],
            metadata={"kernelspec": kernel, "language_info": {"name": "python"}},
        )
        path = notebooks.NOTEBOOKS / f"{name}.ipynb"
        path.write_text(writes(notebook))
        return path

    return write


@pytest.fixture
def full_profile(tmp_path):
    """`full_profile(chapter, **overrides)` executes its notebook's full profile in `tmp_path`; gives its metrics."""
    import papermill

    def execute(chapter: str, **overrides) -> dict:
        papermill.execute_notebook(
            NOTEBOOKS / f"{chapter}.ipynb",
            tmp_path / "out.ipynb",
            parameters={"profile": "full", "device": "cpu", "out_dir": str(tmp_path), "overrides": overrides},
            cwd=NOTEBOOKS,
            progress_bar=False,
        )
        return json.loads((tmp_path / "metrics.json").read_text())

    return execute
