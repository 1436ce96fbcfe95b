"""The anatomy every chapter shares. What the cells compute is checked by `pytest --nbval notebooks`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from clocks import bands_on_the_clock
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lib.course import notebooks

PARAMETERS = 'profile = "quick"\nseed = 0\ndevice = "auto"\nout_dir = ""\noverrides = {}'
TAGS = {"parameters", "nbval-ignore-output", "hide-input", "raises-exception"}
CELL_METADATA = {"tags", "jupyter"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Measured in one call with a time, but no times themselves.
NO_TIMES = {"memory_over_one_dense_matrix"}
LONGEST_CELL = 30
LONGEST_FOLDED_CELL = 70
LARGEST_FILE = 3 * 2**20
# A folder of somebody's machine, or the address of an object: different at the next execution.
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|Users|root|tmp|work|opt|usr|var|mnt)/\w")
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


@pytest.fixture(scope="module", params=notebooks.all_chapters(), ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def code(notebook):
    """The code cells, empty ones left out."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


@pytest.fixture(scope="module")
def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def texts(output):
    """What an output shows as text."""
    if output.output_type == "stream":
        return [output.text]
    return [value for kind, value in output.get("data", {}).items() if kind in ("text/plain", "text/html")]


def test_the_file_is_in_the_form_that_is_committed(path, notebook):
    """`course store` makes it so."""
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    assert notebook.nbformat_minor >= 5
    assert path.stat().st_size < LARGEST_FILE
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        assert set(cell.metadata) <= CELL_METADATA, cell.source
        assert tags <= TAGS, cell.source
        # JupyterLab folds by the one, the web page by the other.
        hidden = cell.metadata.get("jupyter", {}) == {"source_hidden": True}
        assert hidden == ("hide-input" in tags), cell.source


def test_it_opens_as_every_chapter_does(path, notebook):
    number = notebooks.number_of(path)
    title = notebook.cells[0]
    setup, parameters, *settings = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source][:4]
    settings = "\n".join(cell.source for cell in settings)  # in one cell, or in two
    assert re.match(rf"# {number} · \S", title.source)
    for expected in ("What you'll do", "What you'll learn", "What you need", "CPU cores", "GPU"):
        assert expected in title.source, expected
    assert re.search(r"\*\*Time.*\b(minutes?|seconds?|s)\b", title.source), "the title says how long it takes"
    assert re.search(r"[Pp]apers?\*\*|[Ss]ource", title.source), "the title names the paper"
    assert setup.cell_type == "code" and "plots.use_style()" in setup.source
    assert parameters.source == PARAMETERS and parameters.metadata.tags == ["parameters"]
    for expected in ("chapter.choose_settings(", "set_seed(seed)", "pick_device(device)", "Results(out_dir, judged="):
        assert expected in settings, expected
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


def test_its_settings_can_be_read_and_overridden(path):
    """Literals, the same names in all profiles: `course run --set` checks them before anything runs."""
    settings = notebooks.chapter_settings(path)
    assert list(settings) == ["quick", "long", "full"]
    for values in settings.values():
        assert list(values) == list(settings["quick"])
        assert None not in values.values()


def test_it_closes_as_every_chapter_does(path, prose):
    for heading in ("In practice", "Exercises", "What was built"):
        assert re.search(rf"^##+ .*{heading}", prose, re.MULTILINE), heading
    assert "Further reading" in prose
    exercises = re.split(r"^##+ .*Exercises.*$", prose, flags=re.MULTILINE)[1]
    exercises = re.split(r"^##+ ", exercises, flags=re.MULTILINE)[0]
    if f"](exercises/{path.name})" in exercises:  # a table of them; tests/exercises compares it with what there is
        count = len(re.findall(rf"^\| {notebooks.number_of(path)}\.\d+ \|", exercises, re.MULTILINE))
        assert "<details>" not in exercises, "hints stand in lib/exercises"
    else:
        count = len(re.findall(r"^(?:\*\*)?\d+\. ", exercises, re.MULTILINE))
        assert exercises.count("<details>") == exercises.count("</details>") == count, "one folded hint an exercise"
    assert 4 <= count <= 8


def test_outputs_are_stored_from_one_execution(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)


def test_nothing_failed_or_warned(code):
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{output.get('text')} from\n{cell.source}"


def test_cells_are_short(code):
    """Visible ones; what draws is folded, and may be longer."""
    for cell in code:
        folded = cell.metadata.get("jupyter", {}).get("source_hidden")
        assert len(cell.source.splitlines()) <= (LONGEST_FOLDED_CELL if folded else LONGEST_CELL), cell.source


def test_nothing_of_one_machine_is_in_it(notebook, code):
    for cell in notebook.cells:
        assert not MACHINE_PATH.search(cell.source), cell.source
    for cell in code:
        for text in [text for output in cell.outputs for text in texts(output)]:
            assert not MACHINE_PATH.search(text), text
            assert "nbval-ignore-output" in cell.metadata.get("tags", []) or not ADDRESS.search(text), text


def test_every_figure_says_what_it_shows(code):
    figures = 0
    for cell in code:
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                figures += 1
                alt = output.metadata.get("image/png", {}).get("alt", "")
                assert len(alt.split()) >= 4, f"alt={alt!r} from\n{cell.source}"
    assert figures >= 3


def test_its_results_have_bands(code):
    assert any("results.check(" in cell.source for cell in code)


def test_no_band_is_on_the_clock(code):
    """A busy machine must not fail a chapter: what comes from a clock is recorded, not checked."""
    banded = bands_on_the_clock([cell.source for cell in code])
    assert [call for call in banded if not any(name in call for name in NO_TIMES)] == []


def test_a_band_on_the_clock_is_found():
    timing = "import time\ndef measure():\n    start = time.perf_counter()\n    return time.perf_counter() - start"
    uses = "slow = [measure() for _ in range(3)]\nratio = max(slow) / 2\nresults.check('ratio', ratio, low=2)"
    fine = "error = 3\nresults.check('error', error, low=2)\nresults.record('seconds', ratio)"
    assert bands_on_the_clock([timing, uses, fine]) == ["results.check('ratio', ratio, low=2)"]


def test_it_imports_at_the_top(code):
    """Elsewhere only what may be absent, inside a `try`."""
    for cell in code[1:]:
        plain = "\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!")))
        for node in ast.parse(plain).body:
            assert not isinstance(node, ast.Import | ast.ImportFrom), f"move {ast.unparse(node)} to the set-up cell"


@pytest.mark.slow
def test_nbval_is_strict_except_where_two_machines_must_differ(tmp_path):
    """A changed number fails; another picture, or another state of an interactive one, does not."""

    def stored(file, source, **output):
        cell = new_code_cell(source, execution_count=1, outputs=[new_output(**output)])
        nbformat.write(new_notebook(cells=[cell], metadata=METADATA), tmp_path / file)

    stored("number.ipynb", "print(0.1235)", output_type="stream", name="stdout", text="0.1234\n")
    kinds = (
        "image/png",
        "application/vnd.plotly.v1+json",
        "application/vnd.jupyter.widget-view+json",
        "text/markdown",
    )
    fresh = {kind: "fresh" for kind in kinds}
    source = f"from IPython.display import display\ndisplay({fresh!r}, raw=True)"
    stored("picture.ipynb", source, output_type="display_data", data={kind: "stored" for kind in kinds})
    source = "from lib.chapter import Results\nResults().check('error', 0.12, high=1)\nprint(2)"
    value = new_output("display_data", data={"text/markdown": "✓ error: **0.1** (expected ≤ 1)"})
    cell = new_code_cell(source, execution_count=1, outputs=[value, new_output("stream", text="2\n")])
    nbformat.write(new_notebook(cells=[cell], metadata=METADATA), tmp_path / "value.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--nbval", "--nbval-current-env", str(tmp_path)]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert re.search(r"FAILED .*number.ipynb::Cell 0", result.stdout), result.stdout
    assert "1 failed, 2 passed" in result.stdout
