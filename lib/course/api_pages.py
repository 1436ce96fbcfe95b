"""Pages that list what `lib` offers: signatures and docstrings, read from the sources without importing them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ARGUMENT = re.compile(r"(\w+(?:, \w+)*): (.+)")
SIGNS = re.compile(r"([*_$<|\\{}\[\]#~])")


def make_pages(lib: Path) -> Iterator[tuple[str, str]]:
    """Make a page in Markdown for each room of `lib` (its folder is given), and a front page: name and text."""
    # Read, not imported: two packages of the tests leave a folder `lib` in site-packages, which can hide the names
    # of `lib/__init__`.
    house = ast.parse((lib / "__init__.py").read_text(encoding="utf-8")).body
    floors = next(node.value for node in house if isinstance(node, ast.Assign) and node.targets[0].id == "FLOORS")
    rooms = [room for floor in ast.literal_eval(floors) for room in floor]
    entries = "\n".join(rooms)
    yield (
        "index",
        f"# The package `lib`\n\nRooms from the ground up: a room uses only the rooms above it in this list.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n",
    )
    for room in rooms:
        paths = [lib / f"{room}.py"] if (lib / f"{room}.py").exists() else sorted((lib / room).rglob("*.py"))
        parts = [_module(path, lib) for path in paths]
        yield room, f"# {room}\n\n" + "\n".join(part for part in parts if part)


def _module(path: Path, lib: Path) -> str:
    """Write a module's section; empty if the module has neither docstring nor public names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = ".".join(path.relative_to(lib.parent).with_suffix("").parts).removesuffix(".__init__")
    parts = [_prose(ast.get_docstring(tree))]
    for node in _public(tree):
        parts += [f"### {_escape(node.name)}", f"```python\n{_signature(node)}\n```", _prose(ast.get_docstring(node))]
        for method in _public(node) if isinstance(node, ast.ClassDef) else ():
            parts += [f"**{_escape(node.name)}.{_escape(method.name)}**", f"```python\n{_signature(method)}\n```"]
            parts.append(_prose(ast.get_docstring(method)))
    text = "\n\n".join(part for part in parts if part)
    return f"## {_escape(name)}\n\n{text}\n" if text else ""


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            # The last of overloaded functions holds the docstring.
            if not any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list):
                yield node


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Write a function's signature, an argument a line if it is long; of a class, its public fields, too."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        fields = [ast.unparse(field) for field in node.body if isinstance(field, ast.AnnAssign)]
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        lines = [f"class {node.name}({bases}):" if bases else f"class {node.name}:"]
        lines += [f"    {field}" for field in fields if not field.startswith("_")]
        lines += [f"    {line}" for line in _signature(init).splitlines()] if init else []
        return "\n".join(lines).removesuffix(":") if len(lines) == 1 else "\n".join(lines)
    arguments = ast.unparse(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({arguments}){returns}"
    if len(line) <= 88:
        return line
    split = _arguments(node.args)
    return "\n".join([f"def {node.name}(", *(f"    {argument}," for argument in split), f"){returns}"])


def _arguments(arguments: ast.arguments) -> list[str]:
    """Write the arguments of a function one by one, with annotations and defaults."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    found = [_argument(argument, default) for argument, default in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        found.append(f"*{_argument(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        found.append("*")
    found += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return found + ([f"**{_argument(arguments.kwarg, None)}"] if arguments.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _prose(docstring: str | None) -> str:
    """Turn a docstring into Markdown: plain text with `code`, and lines such as "verts: (V, 3)" for arguments."""
    lines = (docstring or "").splitlines()
    shown: list[str] = []
    listed = False
    for line, after in zip(lines, [*lines[1:], ""], strict=False):
        argument = ARGUMENT.match(line)
        if argument and (not after or after.startswith("    ") or ARGUMENT.match(after)):
            shown += [*[""] * (not listed), f"- **{argument[1]}**: {_escape(argument[2])}"]
            listed = True
        elif listed and line.startswith("    "):
            # More than a list's indentation would make a block of code.
            shown.append("  " + _escape(line.strip()))
        else:
            shown += [*[""] * listed, _escape(line)]
            listed = False
    return "\n".join(shown)


def _escape(text: str) -> str:
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if i % 2 else SIGNS.sub(r"\\\1", part) for i, part in enumerate(parts))
