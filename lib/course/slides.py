"""Slides from the stored notebooks: for each section what it says first, its equations, questions and figures.

A deck is a page of Markdown that Sphinx turns into slides (reveal.js, shipped with sphinx-revealjs). Its figures are
the website's. Nothing is written twice: whoever changes a chapter has changed its slides.
"""

from __future__ import annotations

import html
import re

# Sections without slides.
LEFT_OUT = re.compile(r"In practice|Exercises|Your own|appendix", re.I)
HEADING = re.compile(r"^## (.+)$", re.M)
EQUATION = re.compile(r"^\$\$.+?\$\$$", re.M | re.S)
LINKS = re.compile(r"\[([^\]]*)\]\([^)]*\)")
# More equations than this do not fit onto a slide.
MOST_EQUATIONS = 2


def make_deck(notebook: dict, name: str, figures: str) -> str:
    """Write the slides of a chapter.

    notebook: the stored chapter, each cell's source one string. name, figures: as in `site.prepare`: the figure of cell
    i, output j is the file "<name>-<i>-<j>.png" in the folder `figures`.
    """
    opening = notebook["cells"][0]["source"]
    slides = [re.search(r"^# .+$", opening, re.M)[0], _plain(_labelled(opening, "Paper"))]
    slides += _list_slide("What you'll learn", _below(opening, "What you'll learn"))
    title = ""
    for i, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown" and i:
            for heading, text in _sections(cell["source"]):
                if heading is not None:
                    title = "" if LEFT_OUT.search(heading) else heading
                    if "What was built" in heading:
                        slides += _list_slide("Three things to remember", _below(text, "Three things to remember"))
                        title = ""
                    elif title:
                        slides += [f"## {title}", _lead(text)]
                if title:
                    slides += _equations(title, text) + _questions(text)
        elif title:
            slides += _figures(title, cell, f"{figures}{name}-{i}")
    return "\n\n".join(slide for slide in slides if slide) + "\n"


def _sections(source: str) -> list[tuple[str | None, str]]:
    """Split a cell's text at its headings of second order; what stands before the first has None."""
    before, *rest = HEADING.split(source)
    return [(None, before), *zip(rest[::2], rest[1::2], strict=True)]


def _plain(text: str) -> str:
    """Keep the texts of links, for a link to another chapter leads nowhere from a slide."""
    return LINKS.sub(r"\1", text)


def _labelled(text: str, label: str) -> str:
    """The paragraph that begins with **Paper** or **Papers**."""
    found = re.search(rf"^\*\*{label}s?\*\*.*$", text, re.M)
    return found[0] if found else ""


def _below(text: str, label: str) -> list[str]:
    """The entries of the list below a bold line."""
    found = re.search(rf"^\*\*{label}\*\*\n+((?:(?:[-*]|\d+\.) .+\n?)+)", text, re.M)
    return re.findall(r"^(?:[-*]|\d+\.) (.+)$", found[1], re.M) if found else []


def _list_slide(title: str, entries: list[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {_plain(entry)}" for entry in entries)] if entries else []


def _lead(text: str) -> str:
    """The first paragraph below a heading, if it is prose."""
    paragraph = text.strip().split("\n\n")[0]
    return "" if re.match(r"[#|<$!\-]|\d+\.", paragraph) else _plain(paragraph)


def _equations(title: str, text: str) -> list[str]:
    found = EQUATION.findall(text)
    parts = [found[i : i + MOST_EQUATIONS] for i in range(0, len(found), MOST_EQUATIONS)]
    return [f"### {title}\n\n" + "\n\n".join(part) for part in parts]


def _questions(text: str) -> list[str]:
    """The tasks inside a chapter are questions to the room."""
    slides = []
    for task in re.findall(r"^### (Your turn .+?)(?=^##|\Z)", text, re.M | re.S):
        heading, _, rest = task.partition("\n")
        asked = [part for part in rest.strip().split("\n\n") if not re.search(r"^\*\w+ · |hint\(|solutions", part)]
        slides.append(f"### {heading}\n\n" + _plain("\n\n".join(asked[:2])))
    return slides


def _figures(title: str, cell: dict, start: str) -> list[str]:
    """A slide for each picture of a cell, with its caption."""
    slides = []
    outputs = cell.get("outputs", [])
    for j, output in enumerate(outputs):
        if "image/png" not in output.get("data", {}):
            continue
        alt = html.escape(output["metadata"].get("image/png", {}).get("alt", ""))
        following = outputs[j + 1].get("data", {}) if j + 1 < len(outputs) else {}
        caption = "".join(following.get("text/markdown", "")).strip()
        shown = f'<img class="figure" alt="{alt}" src="{start}-{j}.png">'
        slides.append(f"### {title}\n\n{shown}\n\n{caption if caption.startswith('*') else ''}".rstrip())
    return slides
