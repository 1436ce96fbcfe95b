"""The counts of `course lint` may only fall: lint.json, beside this file, says what is allowed."""

from __future__ import annotations

import pytest

from lib.course import lint, notebooks


@pytest.mark.parametrize("path", notebooks.all_chapters(), ids=lambda path: path.stem)
def test_the_lint_finds_no_more_than_it_may(path):
    complaints = lint.compare(path.stem, lint.lint_chapter(path), lint.read_limits().get(path.stem))
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_limits_are_those_of_chapters_that_exist():
    assert set(lint.read_limits()) == {path.stem for path in notebooks.all_chapters()}
