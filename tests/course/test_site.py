"""The website says what the notebooks say; what would make a page untrue is named in one line."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, writes

from lib.course import api_pages, cli, notebooks, site

ROOT = Path(__file__).resolve().parents[2]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PYTHON = {"kernelspec": {"display_name": "Python 3", "name": "python3"}, "language_info": {"name": "python"}}
SOLUTION = """\
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION"""
CHECK = 'check("1.1", double)\n### BEGIN HIDDEN TESTS\nassert passes("1.1", double, seed=1)\n### END HIDDEN TESTS'


def picture(**livelier) -> dict:
    data = {"image/png": PIXEL, "text/plain": "a horse"} | livelier
    return new_output("display_data", data, metadata={"image/png": {"alt": "a horse"}})


def code(source: str, *outputs: dict, **metadata):
    return new_code_cell(source, execution_count=1, outputs=list(outputs), metadata=metadata)


def solutions_cells() -> list:
    return [
        new_markdown_cell("# 1 · Exercises\n\nThe worked solutions are in [here](../solutions/01_points.ipynb)."),
        new_markdown_cell("This copy holds the worked solutions. Students work elsewhere."),
        code("import math"),
        new_markdown_cell("## 1.1 · Double\n\nWrite `double`."),
        code(SOLUTION),
        code(CHECK, new_output("stream", text="✓ twice\n")),
        new_markdown_cell("Multiply by 2.", metadata={"tags": ["solution"]}),
    ]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small course in a folder of its own: a chapter, its solutions, a page; `house(path, cells)` writes another."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(site, "PAGES", [])
    monkeypatch.setattr(site, "_hints", lambda path: {"1.1": ("Think of $2x$.",)})

    def write(path: str, cells: list) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(writes(new_notebook(cells=cells, metadata=PYTHON)))

    pages = ROOT / "docs"
    for path in [pages / "conf.py", *(pages / "_static").iterdir(), *(pages / "slides").iterdir()]:
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text('FLOORS = (("points",),)')
    (tmp_path / "lib" / "points.py").write_text(
        '"""Points."""\n\n\ndef double(x: int) -> int:\n    """Return 2 * x."""'
    )
    toctree = "```{toctree}\nnotebooks/01_points\nnotebooks/exercises/01_points\napi/index\nslides\n```"
    (tmp_path / "docs" / "index.md").write_text(f"# The course\n\n[First](../notebooks/01_points.ipynb)\n\n{toctree}\n")
    figure = {"data": [], "layout": {"width": 520}}
    view = {"version_major": 2, "version_minor": 0, "model_id": "1"}
    chapter = [
        new_markdown_cell("# 1 · Points\n\nSee [exercises](solutions/01_points.ipynb). $x^2$"),
        new_markdown_cell("## 1.1 A point\n\nIt has a place."),
        code("draw()", picture(**{site.PLOTLY: figure}), jupyter={"source_hidden": True}, tags=["hide-input"]),
        code("slide()", picture(**{site.WIDGET: view})),
    ]
    write("notebooks/01_points.ipynb", chapter)
    write("notebooks/solutions/01_points.ipynb", solutions_cells())
    return write


def complaint(capsys, monkeypatch) -> str:
    monkeypatch.setattr(sys, "argv", ["course", "site"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "path, cells, message",
    [
        (
            "notebooks/02_meshes.ipynb",
            [new_markdown_cell("# 2"), new_code_cell("1 + 1")],
            "notebooks/02_meshes.ipynb was never executed, cell 1 for one; run `course store 2`",
        ),
        (
            "notebooks/02_meshes.ipynb",
            [new_markdown_cell("# 2\n\n`x[0](y)` and [points](01_point.ipynb#here)")],
            "notebooks/02_meshes.ipynb, cell 0 links to 01_point.ipynb, which does not exist; correct the link",
        ),
        (
            "notebooks/01_points.ipynb",
            [new_markdown_cell("# 1"), code('check("1.2", 3)')],
            "exercise 1.2 has no worked solution; write one in notebooks/solutions/01_points.ipynb, below its heading",
        ),
        (
            "notebooks/solutions/01_points.ipynb",
            [cell for cell in solutions_cells() if "SOLUTION" not in cell.source and not cell.metadata.get("tags")],
            "exercise 1.1 has no worked solution; write one in notebooks/solutions/01_points.ipynb, below its heading",
        ),
    ],
)
def test_what_would_be_untrue_is_named_in_one_line(house, capsys, monkeypatch, path, cells, message):
    house(path, cells)
    assert complaint(capsys, monkeypatch) == f"error: {message}\n"


def test_without_sphinx_the_remedy_is_said(house, capsys, monkeypatch):
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    assert "install them with `pip install -e '.[site]'`" in complaint(capsys, monkeypatch)


def test_the_course_is_in_order():
    assert list(site.find_troubles()) == []


def test_figures_keep_their_picture_and_lose_what_needs_a_kernel(house):
    sources = dict(site.make_sources())
    page = json.loads(sources["notebooks/01_points.ipynb"])
    turns, slides = (cell["outputs"][0]["data"] for cell in page["cells"][2:])
    for i, data in enumerate((turns, slides), 2):
        assert set(data) == {"text/html", "text/plain"}
        picture = f'<img alt="a horse" src="../_static/figures/notebooks-01_points-{i}-0.png" width="1" height="1"'
        assert data["text/html"].startswith(picture)
        assert sources[f"_static/figures/notebooks-01_points-{i}-0.png"] == base64.b64decode(PIXEL)
    assert 'data-figure="notebooks-01_points-2-0"' in turns["text/html"] and "sliders" not in turns["text/html"]
    assert "In JupyterLab, sliders move this figure." in slides["text/html"] and "button" not in slides["text/html"]
    script = sources["_static/figures/notebooks-01_points-2-0.js"].decode()
    assert (
        script.startswith("(window.courseFigures ??= {})['notebooks-01_points-2-0'] = {") and '"width": 520' in script
    )


def test_an_exercise_stands_before_its_folded_solution(house):
    page = json.loads(dict(site.make_sources())["notebooks/exercises/01_points.ipynb"])
    texts = [cell["source"].strip() for cell in page["cells"]]
    assert (
        texts
        == [
            "# 1 · Exercises\n\nHere hints and worked solutions stand folded below each exercise.",
            "import math",
            "## 1.1 · Double\n\nWrite `double`.",
            "def double(x):\n    raise NotImplementedError  # your code here",
            "<details><summary>Hint 1</summary>\n\nThink of $2x$.\n\n</details>\n",
            '<details class="solution"><summary>Worked solution</summary>',
            "def double(x):\n    return 2 * x",
            'check("1.1", double)',
            "Multiply by 2.",
            "</details>",
        ]
        or texts[4].strip() == "<details><summary>Hint 1</summary>\n\nThink of $2x$.\n\n</details>"
    )


def test_what_is_folded_is_read_as_markdown():
    text = "1. Why?\n   <details><summary>Hint</summary>Look at `x`,\n   then $y$.</details>\n2. And?"
    folded = "   <details><summary>Hint</summary>\n\n   Look at `x`,\n   then $y$.\n\n   </details>\n"
    assert site._unfold(text) == f"1. Why?\n\n{folded}\n2. And?"


def test_the_reference_lists_every_room_and_reads_docstrings():
    pages = dict(api_pages.make_pages(ROOT / "lib"))
    rooms = {path.stem for path in (ROOT / "lib").iterdir() if path.stem[0] != "_"}
    assert set(pages) == rooms | {"index"}
    assert "### procrustes\n\n```python\ndef procrustes(\n    source: Float[Tensor, 'B N 3'],\n" in pages["geometry"]
    text = "Do it.\n\nverts: (V, 3), where\n    they are.\nRaises ValueError for `a*b` or a*b."
    shown = "Do it.\n\n\n- **verts**: (V, 3), where\n  they are.\n\nRaises ValueError for `a*b` or a\\*b."
    assert api_pages._prose(text) == shown


@pytest.mark.slow
def test_a_website_fetches_nothing_and_is_made_anew_where_something_changed(house, tmp_path):
    front = site.build()
    pages = {str(path.relative_to(front.parent)): path.read_text() for path in front.parent.rglob("*.html")}
    for name, text in pages.items():
        for tag in re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", text):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{name} fetches {tag}"
    chapter = (front.parent / "notebooks" / "01_points.html").read_text()
    assert 'alt="a horse"' in chapter and 'class="turn"' in chapter and "The code of this cell" in chapter
    assert ">CC BY 4.0</a>" in pages["index.html"] and "colab" not in chapter.lower()
    assert (front.parent / "_static" / "tex-svg.js").exists() and "double" in (
        front.parent / "searchindex.js"
    ).read_text()
    figures = re.findall(r'<img class="figure"[^>]* src="([^"]+)"', pages["slides/01_points.html"])
    assert len(figures) == 2 and all((front.parent / "slides" / figure).exists() for figure in figures)
    exercise = (front.parent / "notebooks" / "exercises" / "01_points.html").read_text()
    assert exercise.index("Worked solution") < exercise.index("Multiply by 2.")

    conf = tmp_path / "docs" / "conf.py"
    conf.write_text(conf.read_text().replace('REPOSITORY = ""', 'REPOSITORY = "https://github.com/owner/course"'))
    house("notebooks/02_meshes.ipynb", [new_markdown_cell("# 2\n\n[there](01_points.ipynb#nowhere)")])
    with pytest.raises(ValueError, match=r"02_meshes.ipynb.*(nowhere|toctree)"):
        site.build()
    (tmp_path / "notebooks" / "02_meshes.ipynb").unlink()
    site.build()
    chapter = (front.parent / "notebooks" / "01_points.html").read_text()
    assert "colab.research.google.com/github/owner/course/blob/" in chapter


def minutes(chapter: Path) -> tuple[int, int] | None:
    """Minutes of reading and of exercises, from the tables of a chapter; None if it has no table by section."""
    text = "\n".join("".join(cell["source"]) for cell in json.loads(chapter.read_text())["cells"])
    table = re.search(r"^\| section (\|.*)\n.*\n\| minutes[^|]*(\|.*)$", text, re.M)
    if not table:
        return None
    rows = [[entry.strip() for entry in row.strip("| ").split("|")] for row in table.groups()]
    by_section = dict(zip(rows[0], map(int, rows[1]), strict=True))
    listed = sum(map(int, re.findall(r"^\| \d+[a-z]?\.\d+ \|[^|]*\|[^|]*\| (\d+) \|$", text, re.M)))
    exercises = by_section.pop("exercises", listed)
    return sum(by_section.values()), exercises


def test_the_syllabus_has_the_minutes_of_the_chapters():
    syllabus = (ROOT / "docs" / "syllabus.md").read_text()
    for chapter in notebooks.all_chapters():
        row = re.search(rf"^\|[^|]*{chapter.name}[^|]*\|(.*)\|$", syllabus, re.M)
        assert row, f"docs/syllabus.md has no row for {chapter.name}"
        found = minutes(chapter)
        shown = [entry.strip() for entry in row[1].split("|")]
        if found:
            assert shown == [*map(str, found), str(sum(found))], f"docs/syllabus.md, the row of {chapter.name}"


def test_every_chapter_has_an_instructors_page():
    pages = (ROOT / "docs" / "instructors.md").read_text()
    parts = re.split(r"^## (\d+[a-z]?) · .*$", pages, flags=re.M)
    assert parts[1::2] == [notebooks.number_of(path) for path in notebooks.all_chapters()]
    for part in parts[2::2]:
        assert all(f"**{name}.**" in part for name in ("The one idea", "What students get wrong", "Ask", "Set", "Run"))
