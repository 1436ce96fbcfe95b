"""Before torch is imported: one thread a test process, for `make test` runs one process per core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SETTINGS = """\
class training:
    choose_settings = staticmethod(lambda profile, overrides, **profiles: profiles[profile] | overrides)

settings = training.choose_settings(profile, overrides, quick=dict(steps=3, rate=0.1), full=dict(steps=30, rate=0.1))"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of its own in a temporary folder: `course(name, *cells)` writes a chapter that runs in a second.

    A cell that begins with "# " and a capital is markdown.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

    from lib import runs

    monkeypatch.setattr(runs, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    runs.NOTEBOOKS.mkdir()

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
        path = runs.NOTEBOOKS / f"{name}.ipynb"
        path.write_text(writes(notebook))
        return path

    return write
