"""Which bands of a notebook have a value that comes from a clock."""

from __future__ import annotations

import ast
import re

CLOCK = re.compile(r"\b(time\.(perf_counter|time|monotonic|process_time)|timeit|perf_counter)\b")
GROWING = ("append", "extend", "insert", "setdefault", "update")


def bands_on_the_clock(cells: list[str]) -> list[str]:
    """The calls of `results.check` in these cells whose value comes from a clock, directly or through variables.

    Cells are read in order, as they run: a name that is given another value is free of the clock again. Functions
    count as clocks where what they return does.
    """
    timed: set[str] = set()
    found: list[str] = []
    for cell in cells:
        plain = "\n".join(line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))
        _read(ast.parse(plain).body, timed, found)
    return found


def _read(body: list[ast.stmt], timed: set[str], found: list[str]) -> None:
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            local = set(timed)
            _read(statement.body, local, found)
            returned = [node.value for node in ast.walk(statement) if isinstance(node, ast.Return) and node.value]
            (timed.add if any(_is_timed(value, local) for value in returned) else timed.discard)(statement.name)
            continue
        if isinstance(statement, ast.For) and _is_timed(statement.iter, timed):
            timed |= _names(statement.target)
        if isinstance(statement, ast.For | ast.While | ast.If | ast.With):
            # Twice: in a loop, what a later line measures is there for the earlier ones.
            for _ in range(2):
                _read([*statement.body, *getattr(statement, "orelse", [])], timed, found)
        elif isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if _is_timed(statement.value, timed):
                    timed |= _names(target)
                elif isinstance(statement, ast.Assign) and isinstance(target, ast.Name):
                    timed.discard(target.id)
        for node in ast.walk(statement):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in GROWING and any(_is_timed(argument, timed) for argument in node.args):
                timed |= _names(node.func.value)
            if ast.unparse(node.func) == "results.check" and any(_is_timed(value, timed) for value in node.args[1:]):
                call = ast.unparse(node)
                if call not in found:
                    found.append(call)


def _is_timed(node: ast.AST, timed: set[str]) -> bool:
    return bool(CLOCK.search(ast.unparse(node))) or bool(_names(node) & timed)


def _names(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
