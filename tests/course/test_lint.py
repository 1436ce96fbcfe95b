"""The lint of prose and cells, on notebooks made up for it."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib.course import lint

HIDDEN = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
LONG = "word " * 31


@pytest.fixture
def found(tmp_path):
    """Write the cells as chapter 4 and lint it."""

    def lint_cells(*cells, solutions=()):
        (tmp_path / "solutions").mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=list(solutions)), tmp_path / "solutions" / "04_made_up.ipynb")
        nbformat.write(new_notebook(cells=list(cells)), tmp_path / "04_made_up.ipynb")
        return lint.lint_chapter(tmp_path / "04_made_up.ipynb")

    return lint_cells


def printed(text):
    return new_output("stream", name="stdout", text=text)


def shown(**data):
    return new_output("display_data", data={kind.replace("_", "/"): value for kind, value in data.items()})


def test_an_empty_notebook_breaks_no_rule(found):
    assert lint.counts(found()) == dict.fromkeys(lint.RULES, 0)


def test_cells_are_measured_in_the_lines_that_a_reader_sees(found):
    assert found(new_code_cell("x = 1\n" * 16))["long cells"].count == 0
    finding = found(new_markdown_cell("text"), new_code_cell("x = 1\n" * 17))["long cells"]
    assert finding.count == 1
    assert finding.places[0].cell == 1
    assert finding.places[0].text.startswith("17 lines: x = 1")
    assert found(new_code_cell("x = 1\n" * 17, metadata=HIDDEN))["long cells"].count == 0
    assert found(new_code_cell("import a\nfrom b import c\n" * 9 + "c()"))["long cells"].count == 0


def test_lines_are_measured_where_a_reader_sees_them(found):
    assert found(new_code_cell("x" * 96))["long lines"].count == 0
    assert found(new_code_cell(f"{'x' * 97}\n{'y' * 120}"))["long lines"].count == 2
    assert found(new_code_cell("x" * 97, metadata=HIDDEN))["long lines"].count == 0


@pytest.mark.parametrize(
    ("outputs", "count"),
    [
        ([printed("the same as in lib\n")], 1),
        ([printed("the same "), printed("as in lib\n")], 1),
        ([printed("the same as in lib, to 1e-6\n")], 0),
        ([printed("the same as in lib.models.unsup3d\n")], 1),
        ([printed("--------\n")], 0),
        ([], 0),
        ([printed("a horse\n"), shown(image_png="")], 0),
        ([shown(text_markdown="✓ error: **0.2** (expected ≤ 0.3)")], 0),
        ([shown(text_markdown="All is well.")], 1),
        ([printed("the same as in lib\n"), shown(text_markdown="error: **0.2**")], 0),
        ([shown(text_markdown="PyTorch3D is not installed here: comparison **skipped**")], 0),
    ],
)
def test_a_sentence_alone_shows_no_value(found, outputs, count):
    assert found(new_code_cell("pass", outputs=outputs))["only a sentence"].count == count


def test_the_answer_of_a_check_is_no_sentence_alone(found):
    outputs = [printed("✗ which way: not written yet\n")]
    assert found(new_code_cell('check("4.C", my_prediction)', outputs=outputs))["only a sentence"].count == 0


@pytest.mark.parametrize(
    ("outputs", "count"),
    [
        ([shown(image_png="")], 1),
        ([shown(image_png=""), shown(text_markdown="*A horse of 642 vertices.*")], 0),
        ([shown(image_png=""), shown(image_png=""), shown(text_markdown="*A horse of 642 vertices.*")], 1),
        ([shown(image_png=""), shown(text_markdown="**The horse** has 642 vertices.")], 1),
        ([shown(image_png=""), shown(text_markdown="✓ error: **0.2** (expected ≤ 0.3)")], 1),
        ([shown(text_markdown="*A horse of 642 vertices.*"), shown(image_png="")], 1),
    ],
)
def test_a_caption_follows_its_figure(found, outputs, count):
    assert found(new_code_cell("pass", outputs=outputs))["no caption"].count == count


def test_long_sentences_are_found_with_their_first_words(found):
    finding = found(new_markdown_cell(f"Short. Here is a long one, {LONG}. Short again."))["long sentences"]
    assert finding.count == 1
    assert finding.places == [lint.Place(0, "36 words: Here is a long one, word word word word word …")]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One sentence. Another one! A third?", ["One sentence.", "Another one!", "A third?"]),
        ("**A leg.** It is thin.", ["**A leg.**", "It is thin."]),
        ("(In brackets.) Then not.", ["(In brackets.)", "Then not."]),
        ("The end of it. mIoU is a word.", ["The end of it.", "mIoU is a word."]),
        (
            "Fan et al. Showed it, as did A. Vedaldi, e.g. Here.",
            ["Fan et al. Showed it, as did A. Vedaldi, e.g. Here."],
        ),
        ("It is 3.5 long … and goes on.", ["It is 3.5 long … and goes on."]),
        ("A [link](https://a.b/c_d) stays.", ["A link stays."]),
        ("![a picture](images/a.png)\n\nText.", ["Text."]),
        ("Before\n```python\ncode = 1.0\n```\nafter.", ["Before", "after."]),
        ("Call `f(x, y)` and `g`.", ["Call CODE and CODE."]),
        ("With $a + b\\,c$ it is.", ["With FORMULA it is."]),
        ("- one\n- two goes\n  on here\n1. three", ["one", "two goes on here", "three"]),
        ("# 1 · Title\nText follows.", ["1 · Title", "Text follows."]),
        ("It is\n\n$$a = b,$$\n\nwith $a$ known.", ["It is FORMULA with FORMULA known."]),
        ("It is\n\n$$a = b .$$\n\nwith a small letter.", ["It is FORMULA.", "with a small letter."]),
        ("It is\n\n$$a = b$$\n\nA new one.", ["It is FORMULA", "A new one."]),
        ("A table:\n\n| a | b c |\n|---|---|\n| d. | e |", ["A table:", "a", "b c", "d.", "e"]),
        ("**Papers**: Fan et al., *A title. And more*, 2017.\n\nText.", ["Text."]),
        ("**Further reading**\n- A. Author, *Book*.\n- Another.\n\n**Data.** Text.", ["**Data.**", "Text."]),
    ],
)
def test_prose_is_split_into_sentences(text, sentences):
    assert [sentence for sentence in lint.sentences(text) if sentence.strip("-")] == sentences


def test_lab_notes_may_be_long_and_hints_may_not(found):
    def folded(summary):
        return new_markdown_cell(f"<details><summary>{summary}</summary>\n\n{LONG}.\n\n</details>")

    assert found(folded("Lab notes: what was tried"))["long sentences"].count == 0
    assert found(folded("<b>Appendix</b>: a proof"))["long sentences"].count == 0
    assert found(folded("Hint"))["long sentences"].count == 1
    assert found(new_markdown_cell(f"## Appendix: proofs\n\n{LONG}."))["long sentences"].count == 0
    assert found(new_markdown_cell("## 4.20 Appendix"), new_markdown_cell(LONG))["long sentences"].count == 0
    assert found(new_markdown_cell(f"## Appendix\n\n## Exercises\n\n{LONG}."))["long sentences"].count == 1


def test_only_the_main_line_has_a_limit_of_words(found):
    def of(words):
        return "word. " * words

    assert found(new_markdown_cell(of(3500)))["words too many"].count == 0
    finding = found(new_markdown_cell(f"# One\n\n{of(1000)}"), new_markdown_cell(f"## Two\n\n{of(2600)}"))[
        "words too many"
    ]
    assert finding.count == 102
    assert [place.text for place in finding.places] == ["2601 words: Two", "1001 words: One"]
    for summary in ("Lab notes: trials", "Hint", "Appendix", "Solution"):
        notes = new_markdown_cell(f"<details><summary>{summary}</summary>\n\n{of(9)}\n\n</details>")
        assert found(new_markdown_cell(of(3500)), notes)["words too many"].count == 0, summary
    told = new_markdown_cell(f"<details><summary>More</summary>\n\n{of(9)}\n\n</details>")
    assert found(new_markdown_cell(of(3500)), told)["words too many"].count == 9
    table = new_markdown_cell("| word | word |\n|---|---|\n| word | 1.5 |")
    assert found(new_markdown_cell(of(3500)), table, new_code_cell("word"))["words too many"].count == 0


def test_exercises_need_a_check_in_the_chapter_or_beside_it(found):
    exercises = new_markdown_cell("## 4.9 Exercises\n\n1. **Sign.** Do it.\n2. Try it.\n   1. inner")
    after = new_markdown_cell("## 4.10 What was built\n\n1. no exercise")
    beside = [new_markdown_cell("## 4.2 · Ramp"), new_markdown_cell("## Your turn\n\n### 4.A · Guess")]

    def names(*cells, solutions=()):
        finding = found(exercises, after, *cells, solutions=solutions)["no check"]
        return [place.text[:3] for place in finding.places]

    assert names() == ["4.1", "4.2"]
    assert names(solutions=beside) == ["4.1", "4.2", "4.A"]
    assert names(new_code_cell('check("4.1", area)'), solutions=beside) == ["4.2", "4.A"]
    checks = [new_code_cell("exercises.check('4.2', ramp)"), new_code_cell('check("4.A", answer)')]
    assert names(solutions=beside + checks) == ["4.1"]


def test_counts_that_differ_from_the_limits_are_told_with_the_remedy(found):
    findings = found(new_code_cell("x = 1\n" * 17))
    assert lint.compare("04", findings, lint.counts(findings)) == []
    worse = lint.compare("04", findings, {})
    assert worse == [
        "04: code cells over 16 visible lines, imports left out: 1, 0 allowed",
        "  [0] 17 lines: x = 1 x = 1 x = 1 x …",
    ]
    (better,) = lint.compare("04", findings, {"long cells": 3})
    assert better.endswith("1, fewer than the 3 allowed: run `course lint --update`")
    (absent,) = lint.compare("04", findings, None)
    assert "run `course lint --update`" in absent


def test_limits_only_fall(found, tmp_path):
    findings = found(new_code_cell("x = 1\n" * 17), new_code_cell("x" * 97))
    assert lint.lower(findings, None)["long cells"] == 1
    lowered = lint.lower(findings, {"long cells": 3, "no check": 2})
    assert (lowered["long cells"], lowered["long lines"], lowered["no check"]) == (1, 0, 0)
    assert lint.read_limits(tmp_path / "lint.json") == {}
    lint.write_limits({"04": lowered}, tmp_path / "lint.json")
    assert lint.read_limits(tmp_path / "lint.json") == {"04": lowered}
