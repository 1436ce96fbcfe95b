"""Count what makes a chapter hard to read: long cells, long sentences, figures without a caption …

`lint_chapter` finds the places. A small file beside the tests holds how many there were, and the tests let these
numbers only fall: see `compare` and `lower`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIMITS = ROOT / "tests" / "chapters" / "lint.json"

MOST_LINES = 16
MOST_COLUMNS = 96
MOST_WORDS_IN_A_SENTENCE = 30
MOST_WORDS_IN_A_CHAPTER = 3500

RULES = {
    "long cells": f"code cells over {MOST_LINES} visible lines, imports left out",
    "long lines": f"visible code lines over {MOST_COLUMNS} characters",
    "only a sentence": "cells whose only output is a sentence without a number",
    "no caption": "figures without a visible caption",
    "long sentences": f"sentences over {MOST_WORDS_IN_A_SENTENCE} words",
    "words too many": f"words of prose over {MOST_WORDS_IN_A_CHAPTER} outside lab notes, hints and appendices",
    "no check": "exercises without a check",
}


class Place(NamedTuple):
    """The place where an author has to look: the cell's index, counted from 0, and the first words."""

    cell: int
    text: str


class Finding(NamedTuple):
    """The number of times that a rule is broken, and the places."""

    count: int
    places: list[Place]


def lint_chapter(path: Path) -> dict[str, Finding]:
    """Count what breaks each of RULES in a chapter, given the path of its notebook.

    An exercise has its check in the chapter or in the notebook of the same name in the folder `solutions` beside it.
    """
    cells = _read(path)
    solutions = path.parent / "solutions" / path.name
    found = {
        "long cells": _places(_long_cells(cells)),
        "long lines": _places(_long_lines(cells)),
        "only a sentence": _places(_only_sentences(cells)),
        "no caption": _places(_figures_without_caption(cells)),
        "long sentences": _places(_long_sentences(cells)),
        "words too many": _words_too_many(cells),
        "no check": _places(_unchecked_exercises(path.stem, cells, _read(solutions) if solutions.exists() else [])),
    }
    return {rule: found[rule] for rule in RULES}


def counts(findings: Mapping[str, Finding]) -> dict[str, int]:
    """Keep the numbers only, as they stand in the file of limits."""
    return {rule: finding.count for rule, finding in findings.items()}


def read_limits(path: Path | None = None) -> dict[str, dict[str, int]]:
    """Read the allowed counts, chapter → rule → number, from `path` or LIMITS. An absent file holds none."""
    path = path or LIMITS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_limits(limits: Mapping[str, Mapping[str, int]], path: Path | None = None) -> None:
    """Write the allowed counts, one a line, so that two chapters' changes merge without a conflict."""
    path = path or LIMITS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(limits, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def compare(chapter: str, findings: Mapping[str, Finding], limits: Mapping[str, int] | None) -> list[str]:
    """Complain, a line each, about every count that is not the one of `limits`."""
    if limits is None:
        return [f"{chapter} has no limits yet: run `course lint --update`"]
    complaints = []
    for rule, finding in findings.items():
        limit = limits.get(rule, 0)
        if finding.count > limit:
            complaints.append(f"{chapter}: {RULES[rule]}: {finding.count}, {limit} allowed")
            complaints += [describe(place) for place in finding.places]
        elif finding.count < limit:
            better = f"{finding.count}, fewer than the {limit} allowed"
            complaints.append(f"{chapter}: {RULES[rule]}: {better}: run `course lint --update`")
    return complaints


def lower(findings: Mapping[str, Finding], limits: Mapping[str, int] | None) -> dict[str, int]:
    """Return the new limits of a chapter: the present counts, but never more than `limits` allows."""
    present = counts(findings)
    return present if limits is None else {rule: min(n, limits.get(rule, 0)) for rule, n in present.items()}


def describe(place: Place) -> str:
    """Describe a place in one line."""
    return f"  [{place.cell}] {place.text}"


# --- rules about cells --------------------------------------------------------------------------------------


def _read(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def _places(found: Iterable[Place]) -> Finding:
    places = list(found)
    return Finding(len(places), places)


def _start(text: str) -> str:
    words = text.split()
    return " ".join(words[:10]) + (" …" if len(words) > 10 else "")


def _visible_code(cells: list[dict]) -> Iterator[tuple[int, str]]:
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code" and not cell["metadata"].get("jupyter", {}).get("source_hidden"):
            yield i, cell["source"]


def _long_cells(cells: list[dict]) -> Iterator[Place]:
    for i, source in _visible_code(cells):
        # A set-up cell's imports are as many as they are, one a line.
        lines = sum(not re.match(r"(import|from) ", line) for line in source.strip().splitlines())
        if lines > MOST_LINES:
            yield Place(i, f"{lines} lines: {_start(source)}")


def _long_lines(cells: list[dict]) -> Iterator[Place]:
    for i, source in _visible_code(cells):
        for line in source.splitlines():
            if len(line) > MOST_COLUMNS:
                yield Place(i, f"{len(line)} characters: {_start(line)}")


# A digit that is part of a name, such as unsup3d, is no number.
NUMBER = re.compile(r"(?<![A-Za-z_])\d")


def _only_sentences(cells: list[dict]) -> Iterator[Place]:
    for i, cell in enumerate(cells):
        texts = [_text(output) for output in cell.get("outputs", [])]
        if None not in texts:
            text = "".join(texts)
            # A check answers the student, in words; a part that cannot run here says that it was skipped.
            speaks = cell["source"].startswith("check(") or "skipped" in text
            if re.search(r"[^\W\d_]", text) and not NUMBER.search(text) and not speaks:
                yield Place(i, _start(text))


def _text(output: dict) -> str | None:
    """Return what an output says, or None where it shows something else, such as a picture."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    return "".join(output["data"]["text/markdown"]) if "text/markdown" in output.get("data", {}) else None


CAPTION = re.compile(r"\*[^*].*\*\s*", re.DOTALL)


def _figures_without_caption(cells: list[dict]) -> Iterator[Place]:
    """Find pictures that are not followed by a text for the reader (`plots.present(…, caption=…)`)."""
    for i, cell in enumerate(cells):
        outputs = cell.get("outputs", [])
        for output, after in zip(outputs, [*outputs, {}][1:], strict=True):
            if "image/png" in output.get("data", {}):
                if not CAPTION.fullmatch("".join(after.get("data", {}).get("text/markdown", ""))):
                    alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                    yield Place(i, _start(alt))


# --- rules about prose --------------------------------------------------------------------------------------

FOLDED = re.compile(r"<details[^>]*>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL)
LAB_NOTES = re.compile(r"(<[^>]*>|\W)*(lab notes|appendix)", re.IGNORECASE)
ASIDE = re.compile(r"(<[^>]*>|\W)*(lab notes|appendix|hints?\b|solution|answer)", re.IGNORECASE)
# Titles of papers: a paragraph that begins so, and the list below it.
REFERENCES = re.compile(
    r"^\*\*(the )?(papers?|sources?|further reading)\b.*(\n.*\S.*)*(\n+ *[-*] .*)*", re.IGNORECASE | re.MULTILINE
)
# A dot after these ends no sentence; nor does one after an initial ("J. Malik").
ABBREVIATIONS = {"al", "e.g", "i.e", "cf", "vs", "fig", "eq", "dr", "mr", "mrs", "st", "approx", "sec"}
SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]*_]*\s+(?=["'“‘(\[*_]*(?:[^\Wa-z_]|[a-z]+[A-Z]))""")
WORD = re.compile(r"[^\W\d_]")


def _markdown(cells: list[dict]) -> Iterator[tuple[int, str]]:
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            yield i, cell["source"]


def _without(folded: re.Pattern, text: str) -> str:
    """Remove the folded parts whose summary matches."""
    return FOLDED.sub(lambda match: "\n\n" if folded.match(match[1]) else f"\n\n{match[2]}\n\n", text)


def _plain(text: str) -> str:
    """Reduce Markdown to prose: a word stands for each formula, address and piece of code; tags are removed."""
    text = re.sub(r"^( *)(```|~~~).*?^ *\2[^\n]*$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`+[^`]+`+", "CODE", text)
    # A displayed formula is one word of the sentence around it, and ends the sentence if its last sign is a dot.
    text = re.sub(r"\s*\$\$(.*?)\$\$\s*", _formula, text, flags=re.DOTALL)
    text = re.sub(r"\$[^$\n]+(\n[^$\n]+)?\$", "FORMULA", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"https?://\S+", "ADDRESS", text)
    return re.sub(r"</?[a-zA-Z][^>]*>", "", text)


def _formula(match: re.Match) -> str:
    following = match.string[match.end() : match.end() + 1]
    if re.search(r"[.!?](\s|\\\\|\\[,;!])*$", match[1]):
        return " FORMULA.\n\n"
    # A capital letter after the formula begins a new sentence, even if the formula has no dot.
    return " FORMULA " if following.islower() or following in "$(" else " FORMULA\n\n"


def _blocks(text: str) -> Iterator[str]:
    """Split into blocks that a sentence cannot leave: paragraphs, list items, headings, cells of a table."""
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        marked = re.match(r"\s*([-*+]|\d+[.)])\s+|\s*#+\s|\s*\||\s*>", line)
        if (marked or not line.strip()) and paragraph:
            yield " ".join(paragraph)
            paragraph = []
        if line.lstrip().startswith("|"):
            yield from (cell.strip() for cell in line.strip().strip("|").split("|"))
        elif re.match(r"\s*#+\s", line):
            yield line.lstrip(" #")
        elif line.strip():
            paragraph.append(re.sub(r"^\s*([-*+]|\d+[.)]|>)\s+", "", line).strip())


def sentences(text: str) -> list[str]:
    """Split Markdown into its sentences; formulas and code count as a word, references are left out.

    Lab notes and appendices are left out, too. Hints are not: a student reads them.
    """
    found = []
    for block in _blocks(_plain(REFERENCES.sub("", _without(LAB_NOTES, text)))):
        start = 0
        for end in SENTENCE_END.finditer(block):
            before = re.split(r"[\s(\[]", block[start : end.start()])[-1].strip("*_\"'“‘")
            abbreviated = before.lower() in ABBREVIATIONS or (len(before) == 1 and before.isupper())
            if block[end.start()] != "." or not abbreviated:
                found.append(block[start : end.end()].strip())
                start = end.end()
        found.append(block[start:].strip())
    return [sentence for sentence in found if sentence]


def count_words(text: str) -> int:
    """Count the words that contain a letter."""
    return sum(bool(WORD.search(word)) for word in text.split())


def _sections(cells: list[dict]) -> Iterator[tuple[int, str, str]]:
    """Split the prose at its headings of the first two levels: cell, heading, text. Appendices are left out."""
    heading = "opening"
    for i, text in _markdown(cells):
        for part in re.split(r"^(?=##? )", text, flags=re.MULTILINE):
            title = re.match(r"##? ([\d.\s·]*)(.*)", part)
            heading = title[2] if title else heading
            if part.strip() and not LAB_NOTES.match(heading):
                yield i, heading, part


def _long_sentences(cells: list[dict]) -> Iterator[Place]:
    for i, _, text in _sections(cells):
        for sentence in sentences(text):
            words = count_words(sentence)
            if words > MOST_WORDS_IN_A_SENTENCE:
                yield Place(i, f"{words} words: {_start(sentence)}")


def _words_too_many(cells: list[dict]) -> Finding:
    """Count words of prose outside tables; the places are the sections with their words, the largest first."""
    words: dict[str, int] = {}
    first: dict[str, int] = {}
    for i, heading, text in _sections(cells):
        lines = [line for line in _plain(_without(ASIDE, text)).splitlines() if not line.lstrip().startswith("|")]
        words[heading] = words.get(heading, 0) + sum(map(count_words, lines))
        first.setdefault(heading, i)
    excess = max(0, sum(words.values()) - MOST_WORDS_IN_A_CHAPTER)
    largest = sorted(words, key=lambda heading: -words[heading]) if excess else []
    return Finding(excess, [Place(first[heading], f"{words[heading]} words: {heading}") for heading in largest])


# --- rules about exercises ----------------------------------------------------------------------------------


HEADING = re.compile(r"^###? (\d+[a-z]?\.(?:\d+|[A-Z])) · ", re.MULTILINE)
CHECK = re.compile(r"""\bcheck\(\s*["'](\d+[a-z]?\.(?:\d+|[A-Z]))\b""")


def _unchecked_exercises(chapter: str, cells: list[dict], solutions: list[dict]) -> Iterator[Place]:
    """Find exercises for which nobody calls `check("4.2", …)`, in the chapter and in its solutions.

    In a chapter they are the numbered items below its heading "Exercises", in the solutions headings "## 4.2 · Title".
    """
    code = "\n".join(cell["source"] for cell in [*cells, *solutions] if cell["cell_type"] == "code")
    done = set(CHECK.findall(code))
    inside = False
    for i, text in _markdown(cells):
        for line in text.splitlines():
            if re.match(r"##? ", line):
                inside = "exercise" in line.lower()
            item = re.match(r"(?:\*\*)?(\d+)\. ", line)
            name = f"{chapter.split('_')[0].lstrip('0')}.{item[1]}" if inside and item else None
            if name and name not in done:
                done.add(name)
                yield Place(i, f"{name}: {_start(line)}")
    for i, text in _markdown(solutions):
        for heading in HEADING.finditer(text):
            if heading[1] not in done:
                done.add(heading[1])
                yield Place(i, f"{heading[1]}, in the solutions: {_start(text[heading.start() :])}")
