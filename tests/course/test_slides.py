"""Slides are cut from a chapter: nothing is lost that a lecture needs, and nothing leads out of them."""

import pytest

from lib.course import notebooks, site, slides

OPENING = """# 3 · Cameras

Words.

**What you'll learn**
- why [chapter 2](02.ipynb) helps
- more

**Paper**: A. Author, *A title*, 2020."""

SECTION = """Words of the section before.

## 3.1 The pinhole

Light goes through [a hole](x.ipynb). It makes a picture.

$$u = f x / z$$

More words.

$$a = b$$

$$c = d$$

### Your turn 3.A · Guess

*predict · 2 minutes*

What is $u$?

Are you stuck? `hint("3.A")` prints a hint."""

CLOSING = """## 3.9 In practice

Much code.

## 3.10 What was built, and where it goes

**Three things to remember**

1. One.
2. Two.
3. Three.

**What was built in `lib`**

- much"""


def markdown(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def figure(caption):
    outputs = [
        {"data": {"image/png": "", "text/plain": "alt"}, "metadata": {"image/png": {"alt": 'a "hole"'}}},
        {"data": {"text/markdown": caption}, "metadata": {}},
    ]
    return {"cell_type": "code", "metadata": {}, "source": "draw()", "outputs": outputs}


@pytest.fixture
def deck():
    cells = [markdown(OPENING), markdown(SECTION), figure("*A hole.*"), markdown(CLOSING), figure("*Not shown.*")]
    return slides.make_deck({"cells": cells}, "notebooks-03", "../figures/")


def test_a_deck_has_the_title_the_goals_and_what_to_remember(deck):
    assert deck.startswith("# 3 · Cameras\n\n**Paper**: A. Author, *A title*, 2020.\n")
    assert "## What you'll learn\n\n- why chapter 2 helps\n- more\n" in deck
    assert deck.endswith("## Three things to remember\n\n- One.\n- Two.\n- Three.\n")


def test_a_section_gives_its_first_words_its_equations_and_its_figure(deck):
    assert "## 3.1 The pinhole\n\nLight goes through a hole. It makes a picture.\n" in deck
    assert "### 3.1 The pinhole\n\n$$u = f x / z$$\n\n$$a = b$$\n\n### 3.1 The pinhole\n\n$$c = d$$" in deck
    shown = '<img class="figure" alt="a &quot;hole&quot;" src="../figures/notebooks-03-2-0.png">'
    assert f"### 3.1 The pinhole\n\n{shown}\n\n*A hole.*" in deck
    assert "More words" not in deck and "In practice" not in deck and "Not shown" not in deck


def test_a_task_is_a_question_without_its_answer(deck):
    assert "### Your turn 3.A · Guess\n\nWhat is $u$?\n" in deck
    assert "hint(" not in deck and "minutes" not in deck


@pytest.mark.parametrize("path", notebooks.all_chapters(), ids=lambda path: path.stem)
def test_every_chapter_has_a_deck(path):
    deck = slides.make_deck(site._read(path), f"notebooks-{path.stem}", "../_static/figures/")
    assert deck.count("\n## ") >= 6 and deck.count("<img ") >= 5 and "## Three things to remember" in deck
    assert ".ipynb" not in deck
