"""notebooks/notation.md: its terms stand where it says, its sizes are the animals', and it can be displayed."""

from __future__ import annotations

import json
import re
from functools import cache

import latex2mathml.converter
import pytest
import torch

from lib.course import lint, notebooks
from lib.datasets.synthetic import creatures
from lib.geometry import mesh

PAGE = (notebooks.NOTEBOOKS / "notation.md").read_text(encoding="utf-8")


def parts(title):
    """The text below a heading of the page."""
    return re.split(rf"^## {title}$", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]


def rows(text):
    """The rows of all tables in a text, without heads: lists of cells."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


GLOSSARY = [(term.strip("*"), sentence, section) for term, sentence, section in rows(parts("Glossary"))]
LETTERS = rows(parts("Letters"))
FRAMES = rows(parts("Frames"))
ORDER = [notebooks.number_of(path) for path in notebooks.all_chapters()]


@cache
def sections(chapter):
    """Number of the section → its prose, for a chapter given by its number; None where it does not exist yet."""
    found = {notebooks.number_of(path): path for path in notebooks.all_chapters()}
    if chapter not in found:
        return None
    cells = json.loads(found[chapter].read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    _, *pairs = re.split(rf"^## ({chapter}\.\d+)\b", prose, flags=re.MULTILINE)
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def pattern(term):
    """A term as it may stand in prose: also its plural, also broken over a line."""
    words = r"[\s\-‑]+".join(re.escape(word) for word in re.split(r"[\s-]", term))
    return re.compile(rf"(?<!\w){words}(?:s|es)?(?!\w)", re.IGNORECASE)


@pytest.mark.parametrize(("term", "section"), [(term, section) for term, _, section in GLOSSARY])
def test_a_term_stands_in_the_section_that_introduces_it(term, section):
    chapter = sections(section.split(".")[0])
    assert chapter is not None, f"there is no chapter {section.split('.')[0]}"
    elsewhere = [number for number, text in chapter.items() if pattern(term).search(text)]
    assert section in elsewhere, f"{term!r} is not in section {section}, but in {elsewhere or 'none of this chapter'}"


@pytest.mark.parametrize(("term", "section"), [(term, section) for term, _, section in GLOSSARY])
def test_no_earlier_chapter_introduces_a_term(term, section):
    """A term in bold is being introduced."""
    bold = re.compile(rf"\*\*{pattern(term).pattern}\*\*", re.IGNORECASE)
    earlier = [
        number
        for chapter in ORDER[: ORDER.index(section.split(".")[0])]
        for number, text in sections(chapter).items()
        if bold.search(text)
    ]
    assert not earlier, f"{term!r} is in bold in {earlier}, before section {section}"


def test_terms_and_letters_are_defined_once():
    terms = [term.lower() for term, _, _ in GLOSSARY]
    assert len(terms) == len(set(terms))
    letters = [letter for row in LETTERS for letter in row[0].strip("$").split(",\\ ")]
    assert len(letters) == len(set(letters))


def test_letters_and_frames_name_a_section_that_exists():
    for *_, section in [*LETTERS, *FRAMES]:
        chapter = sections(section.split(".")[0])
        assert section in chapter, section


def test_the_glossary_follows_the_chapters():
    places = [section.split(".") for _, _, section in GLOSSARY]
    numbers = [(ORDER.index(chapter), int(section)) for chapter, section in places]
    assert numbers == sorted(numbers)


def test_its_sentences_are_short():
    for sentence in lint.sentences(PAGE):
        assert lint.count_words(sentence) <= lint.MOST_WORDS_IN_A_SENTENCE, sentence
    for term, sentence, _ in GLOSSARY:
        assert sentence[0].isupper() or sentence[0].isdigit(), term
        assert sentence.endswith("."), term


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("horse template", lambda: creatures.template("quadruped")),
        ("bird template", lambda: creatures.template("bird")),
        ("unit sphere (`icosphere(3)`)", lambda: mesh.icosphere(3)),
    ],
)
def test_the_sizes_are_measured(name, make):
    shape = make()
    (row,) = [row for row in rows(parts("Units and sizes")) if row[0] == name]
    ends = shape.verts[mesh.edges(shape.faces)]
    sizes = [
        *(shape.verts.amax(0) - shape.verts.amin(0)),
        torch.cdist(shape.verts, shape.verts).max(),
        (ends[:, 0] - ends[:, 1]).norm(dim=1).mean(),
    ]
    for stated, size in zip(row[1:], sizes, strict=True):
        digits = len(stated.partition(".")[2])
        assert float(stated) == pytest.approx(round(float(size), digits), abs=1e-9), f"{name}: {size}"
    assert (len(shape.verts), len(shape.faces), len(ends)) == (642, 1280, 1920)


def test_keypoints_are_counted():
    assert "The horse has 19 keypoints, the bird has 17." in PAGE
    assert [len(creatures.KEYPOINTS[name]) for name in ("quadruped", "bird")] == [19, 17]


def test_a_row_has_as_many_cells_as_its_head():
    """A bar inside a formula would begin a new cell: write \\lvert, \\lVert."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, *lines = table.splitlines()
        for line in lines:
            assert line.count("|") == head.count("|"), line


def test_its_formulas_are_well_formed():
    formulas = re.findall(r"\$([^$\n]+)\$", PAGE)
    assert PAGE.count("$") == 2 * len(formulas) > 100
    for formula in formulas:
        assert "merror" not in latex2mathml.converter.convert(formula), formula


def test_its_pictures_exist():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert pictures
    assert all((notebooks.NOTEBOOKS / picture).is_file() for picture in pictures)
