"""Docstrings begin with a verb or a noun, so that a reader whose English is second-hand need not read them twice."""

from __future__ import annotations

import ast
import re
import tokenize
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib"
# "What a student calls" names a thing by a riddle; "Of the two the nearer" begins in the middle.
RIDDLE = re.compile(r"(What|Of|Not|How|Where|Whether|Those|Within)\b")


@pytest.mark.parametrize("path", sorted(LIB.rglob("*.py")), ids=lambda path: str(path.relative_to(LIB)))
def test_docstrings_and_comments_begin_with_a_verb_or_a_noun(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    texts = [
        ast.get_docstring(node)
        for node in nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    with path.open("rb") as file:
        comments = [
            token.string.lstrip("# ") for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT
        ]
    riddles = [text.splitlines()[0] for text in [*texts, *comments] if text and RIDDLE.match(text)]
    assert not riddles
