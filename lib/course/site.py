"""The course as a website: pages made from the stored notebooks. Nothing is executed, and no page fetches anything.

docs/                the settings of Sphinx, pages written by hand, style and script
build/site/source/   what Sphinx reads: those pages, and the notebooks as a browser can show them
build/site/slides/   the slides of the chapters, as Sphinx reads them
build/site/html/     the website, slides included; it can be copied to any server, or opened from the disk

In JupyterLab figures turn and follow sliders. Here the stored picture is shown. A figure that can turn does so after a
click; sliders are mentioned. The worked solutions become the page of a chapter's exercises: statement and stub, then
hints and solution, folded.
"""

from __future__ import annotations

import base64
import copy
import html
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lib.course import api_pages, exercises, notebooks, slides
from lib.display import PLOTLY, WIDGET

# Pages that also stand in the repository, by their paths there.
PAGES = ["notebooks/notation.md", "benchmarks/GPU.md", "data/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]

SLIDES = """# Slides

A deck for each chapter, made from the same notebook: what each section says first, its equations, its figures, and its
tasks as questions to the room. Right and left go from section to section, up and down go through one.
Esc shows all slides.

"""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=(?:#[^)\s]*)?\))")
FOLDED = re.compile(
    r"^(?P<indent> *)<details><summary>(?P<title>.*?)</summary>\s*(?P<text>.*?)\s*</details>", re.M | re.S
)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)


def build(folder: Path | None = None) -> Path:
    """Make the website in `folder` (build/site if none); return its front page.

    Raises ValueError, in one line each, for a notebook that was never executed, a link that leads nowhere, an exercise
    without a worked solution, and whatever else Sphinx warns of.
    """
    if any(importlib.util.find_spec(package) is None for package in ("myst_nb", "sphinx_revealjs")):
        raise ValueError("the website needs Sphinx and its parts; install them with `pip install -e '.[site]'`")
    folder = folder or notebooks.ROOT / "build" / "site"
    troubles = list(find_troubles())
    if troubles:
        raise ValueError("\n".join(troubles))
    # Sphinx leaves pages and pictures of before where they are.
    shutil.rmtree(folder / "html", ignore_errors=True)
    _write_all(folder / "source", dict(make_sources()))
    _write_all(folder / "slides", dict(make_slides()))
    _sphinx("html", folder / "source", notebooks.ROOT / "docs", folder / "html")
    _sphinx("revealjs", folder / "slides", notebooks.ROOT / "docs" / "slides", folder / "html" / "slides")
    return folder / "html" / "index.html"


def _sphinx(builder: str, source: Path, settings: Path, made: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", builder]
    command += ["--conf-dir", settings, "--doctree-dir", source.parent / f"doctrees-{builder}", source, made]
    # Sphinx writes its warnings to stderr; colours would come between their words.
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if re.search("WARNING|ERROR|error", line)]
        raise ValueError("\n".join(lines or done.stderr.splitlines()[-1:]).replace(f"{source}{os.sep}", ""))


# --- what must be in order before ---------------------------------------------------------------------------


def find_troubles() -> Iterator[str]:
    """Find what would make a page untrue or a link useless, and name each in a line, with its remedy."""
    for path in [*notebooks.all_chapters(), *exercises.find_solutions()]:
        cells = _read(path)["cells"]
        remedy = f"course {'exercises' if path.parent.name == 'solutions' else 'store'} {notebooks.number_of(path)}"
        for i, cell in enumerate(cells):
            if cell["cell_type"] == "code" and cell["source"].strip() and cell["execution_count"] is None:
                yield f"{_name(path)} was never executed, cell {i} for one; run `{remedy}`"
                break
        for i, cell in enumerate(cells):
            if cell["cell_type"] == "markdown":
                yield from _broken_links(path, cell["source"], f", cell {i}")
    for path in [*(notebooks.ROOT / "docs").glob("*.md"), *(notebooks.ROOT / page for page in PAGES)]:
        yield from _broken_links(path, path.read_text(encoding="utf-8"))
    yield from _unsolved_exercises()


def _broken_links(path: Path, text: str, where: str = "") -> Iterator[str]:
    for target in LINK.findall(CODE.sub("", text)):
        if not (path.parent / target).exists():
            yield f"{_name(path)}{where} links to {target}, which does not exist; correct the link"


def _unsolved_exercises() -> Iterator[str]:
    """Find exercises that a chapter checks, or its solutions announce, and nobody solves."""
    for chapter in notebooks.all_chapters():
        path = chapter.parent / "solutions" / chapter.name
        solved = _sections(_read(path))[1] if path.exists() else {}
        checked = re.findall(r'^check\("([\w.]+)"', "\n".join(c["source"] for c in _read(chapter)["cells"]), re.M)
        for name in dict.fromkeys([*checked, *solved]):
            if not any(map(_is_solution, solved.get(name, []))):
                yield f"exercise {name} has no worked solution; write one in {_name(path)}, below its heading"


# --- what Sphinx reads --------------------------------------------------------------------------------------


def make_sources() -> Iterator[tuple[str, bytes]]:
    """Make the files that Sphinx reads: path below the source folder, and content."""
    root = notebooks.ROOT
    for path in sorted((root / "docs").glob("*.md")):
        # Pages of docs/ become the top of the website.
        text = path.read_text(encoding="utf-8").replace("](../", "](")
        yield path.name, _show_links(root, text).encode()
    yield "slides.md", _slides_page().encode()
    for page in PAGES:
        yield page, _show_links((root / page).parent, (root / page).read_text(encoding="utf-8")).encode()
    for name, text in api_pages.make_pages(root / "lib"):
        yield f"api/{name}.md", text.encode()
    for path in sorted((notebooks.NOTEBOOKS / "images").glob("*.*")):
        yield f"notebooks/images/{path.name}", path.read_bytes()
    for path in sorted((root / "docs" / "_static").glob("*.*")):
        yield f"_static/{path.name}", path.read_bytes()
    yield "_static/plotly.min.js", _shipped("plotly", "package_data/plotly.min.js").read_bytes()
    yield "_static/tex-svg.js", _shipped("sphinx-mathjax-offline", "static/mathjax/tex-svg.js").read_bytes()
    for path in notebooks.all_chapters():
        yield from _page(f"notebooks/{path.name}", _read(path))
    for path in exercises.find_solutions():
        yield from _page(f"notebooks/exercises/{path.name}", exercise_page(_read(path), _hints(path)))


def make_slides() -> Iterator[tuple[str, bytes]]:
    """Make the decks that Sphinx reads: a page of Markdown for each chapter, and the list of them."""
    paths = notebooks.all_chapters()
    for path in paths:
        deck = slides.make_deck(_read(path), f"notebooks-{path.stem}", "../_static/figures/")
        yield f"{path.stem}.md", deck.encode()
    listed = "\n".join(path.stem for path in paths)
    yield "index.md", f"# Slides\n\n```{{toctree}}\n{listed}\n```\n".encode()


def _slides_page() -> str:
    """The page of the website that leads to the decks."""
    lines = [
        f'- <a href="slides/{path.stem}.html">{html.escape(notebooks.chapter_title(path))}</a>'
        for path in notebooks.all_chapters()
    ]
    return SLIDES + "\n".join(lines) + "\n"


def _page(path: str, notebook: dict) -> Iterator[tuple[str, bytes]]:
    """Make a page's notebook, its pictures, and the scripts that hold its figures that turn."""
    static = "../" * path.count("/") + "_static/figures/"
    page, files = prepare(notebook, path.removesuffix(".ipynb").replace("/", "-"), static)
    yield path, json.dumps(page, ensure_ascii=False).encode()
    for name, content in files.items():
        yield f"_static/figures/{name}", content


def prepare(notebook: dict, name: str, static: str) -> tuple[dict, dict[str, bytes]]:
    """Prepare a notebook for a browser without a kernel; return it, and the files that its figures need, by name.

    A picture becomes a file, whose address begins with `static`, and keeps the text for readers who cannot see it. A
    figure that turns gets a button below its picture, a widget a sentence.
    """
    notebook, files = copy.deepcopy(notebook), {}
    for i, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            cell["source"] = _unfold(cell["source"]).replace("](solutions/", "](exercises/")
        for j, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if "image/png" not in data:
                continue
            figure = f"{name}-{i}-{j}"
            png = files[f"{figure}.png"] = base64.b64decode("".join(data.pop("image/png")))
            width, height = struct.unpack(">II", png[16:24])
            alt = html.escape(output["metadata"].get("image/png", {}).get("alt", ""))
            shown = f'<img alt="{alt}" src="{static}{figure}.png" width="{width}" height="{height}">'
            if PLOTLY in data:
                script = f"(window.courseFigures ??= {{}})['{figure}'] = {json.dumps(data.pop(PLOTLY))}\n"
                files[f"{figure}.js"] = script.encode()
                shown += f'<p><button class="turn" data-figure="{figure}">Turn this figure</button></p>'
            if data.pop(WIDGET, None):
                shown += '<p class="moves">In JupyterLab, sliders move this figure.</p>'
            data["text/html"] = shown
    return notebook, files


def exercise_page(solutions: dict, hints: dict[str, tuple[str, ...]]) -> dict:
    """Make the page of a chapter's exercises from its solutions notebook: hints and solutions stand folded.

    hints: those of each exercise, by its name; the first is small.
    """
    page = copy.deepcopy(solutions)
    setup, sections = _sections(page)
    page["cells"] = []
    for cell in setup:
        if cell["cell_type"] == "code":
            cell["metadata"] = {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "The set-up"}}
        cell["source"] = exercises.ELSEWHERE.sub(
            "Here hints and worked solutions stand folded below each exercise.", cell["source"]
        )
        if not cell["source"].startswith(exercises.AUTHORS_NOTE):
            page["cells"].append(cell)
    for name, cells in sections.items():
        first = next((i for i, cell in enumerate(cells) if _is_solution(cell)), len(cells))
        page["cells"] += cells[:first]
        stub = exercises.stub(cells[first]["source"]) if first < len(cells) else ""
        if stub and exercises.REGION.search(cells[first]["source"]):
            page["cells"].append(_code(stub))
        for i, hint in enumerate(hints.get(name, ()), 1):
            page["cells"].append(_markdown(f"<details><summary>Hint {i}</summary>\n\n{hint}\n\n</details>"))
        page["cells"].append(_markdown('<details class="solution"><summary>Worked solution</summary>'))
        page["cells"] += [cell | {"source": _without_markers(cell["source"])} for cell in cells[first:]]
        page["cells"].append(_markdown("</details>"))
    for i, cell in enumerate(page["cells"]):
        cell["id"] = f"cell-{i}"
    return page


def _is_solution(cell: dict) -> bool:
    return "solution" in cell["metadata"].get("tags", []) or bool(exercises.REGION.search(cell["source"]))


def _without_markers(source: str) -> str:
    source = exercises.HIDDEN_TESTS.sub("", source)
    return re.sub(r"^ *### (BEGIN|END) SOLUTION *\n?", "", source, flags=re.M).rstrip("\n")


def _hints(solutions: Path) -> dict[str, tuple[str, ...]]:
    from lib.exercises.engine import of_chapter

    return {exercise.name: exercise.hints for exercise in of_chapter(notebooks.number_of(solutions))}


def _sections(notebook: dict) -> tuple[list[dict], dict[str, list[dict]]]:
    """Split a solutions notebook as `exercises.sections` does; each section here begins with its heading."""
    setup: list[dict] = []
    found: dict[str, list[dict]] = {}
    name = None
    for cell in notebook["cells"]:
        heading = exercises.HEADING.match(cell["source"]) if cell["cell_type"] == "markdown" else None
        if heading:
            name = heading["name"]
        elif cell["cell_type"] == "markdown" and cell["source"].startswith("## "):
            name = None
        (setup if name is None else found.setdefault(name, [])).append(cell)
    return setup, found


def _unfold(text: str) -> str:
    """Put blank lines around the inside of folded parts: Markdown is read there only then."""

    def open_up(match: re.Match) -> str:
        indent = match["indent"]
        lines = [f"<details><summary>{match['title']}</summary>", "", *match["text"].splitlines(), "", "</details>", ""]
        return "\n" + "\n".join(indent + line.removeprefix(indent) if line else "" for line in lines)

    return FOLDED.sub(open_up, text)


def _show_links(folder: Path, text: str) -> str:
    """Turn links to files that are no pages into their plain texts."""
    shown = {".md", ".ipynb", ".jpg", ".png"}

    def show(match: re.Match) -> str:
        target = match["target"].partition("#")[0]
        return match[0] if re.match(r"\w+:", target) or not target or Path(target).suffix in shown else match["text"]

    return re.sub(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", show, text)


def _markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str) -> dict:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


def _read(path: Path) -> dict:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def _name(path: Path) -> str:
    return str(path.relative_to(notebooks.NOTEBOOKS.parent))


def _shipped(package: str, path: str) -> Path:
    """Find a file that an installed package ships."""
    for place in map(Path, sys.path):
        if (place / package / path).is_file():
            return place / package / path
    raise ValueError(f"{package} is not installed; install it with `pip install -e '.[site]'`")


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder; remove all others, and leave alone those that are the same (Sphinx skips them)."""
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
