"""Making the student's copy from the worked solutions, and running a solution alone.

notebooks/solutions/04_rendering.ipynb   the one source: statements, stubs, checks, worked solutions; nbgrader's format
notebooks/exercises/04_rendering.ipynb   generated: solutions cut out, executed

A solutions notebook has its title and set-up first; then `## Your turn` with the short tasks that stand inside the
chapter (`### 4.A · Title`), and one section for each exercise (`## 4.1 · Title`). A section needs nothing but the
set-up. In it, `### BEGIN SOLUTION` and `### END SOLUTION` enclose what a student writes, and cells with the tag
`solution` explain it; neither is in the student's copy.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

from lib.course import notebooks

REGION = re.compile(
    r"^(?P<indent>[ ]*)### BEGIN SOLUTION[ ]*\n(?P<body>.*?)^[ ]*### END SOLUTION[ ]*(?:\n|\Z)", re.M | re.S
)
HIDDEN_TESTS = re.compile(r"^[ ]*### BEGIN HIDDEN TESTS[ ]*\n.*?^[ ]*### END HIDDEN TESTS[ ]*(?:\n|\Z)", re.M | re.S)
YOUR_TURN = "## Your turn"
# Words of a solutions notebook: where the solutions are, and a note for authors.
ELSEWHERE = re.compile(r"The worked solutions are in \[[^\]]*\]\([^)]*\)\.")
AUTHORS_NOTE = "This copy holds the worked solutions."
HEADING = re.compile(r"^###? (?P<name>\d+[a-z]?\.(?:\d+|[A-Z])) · (?P<title>.+)$", re.M)


def find_solutions(names: list[str] | None = None) -> list[Path]:
    """Find the solutions notebooks of the chapters named "4", "04" or "04_rendering"; all if none is named.

    Raises ValueError for a name that fits no chapter, or a chapter without exercises.
    """
    folder = notebooks.NOTEBOOKS / "solutions"
    if not names:
        return sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    chosen = [folder / chapter.name for chapter in notebooks.find_chapters(names)]
    for path in chosen:
        if not path.exists():
            raise ValueError(f"{path.stem} has no exercises yet; write notebooks/solutions/{path.name}")
    return chosen


def student_path(solutions: Path) -> Path:
    """The path of the student's copy of a solutions notebook."""
    return solutions.parents[1] / "exercises" / solutions.name


def stub(source: str) -> str:
    """Cut the solutions out of a cell's code.

    Inside a function the region becomes `raise NotImplementedError`. At the left margin, where that would stop the
    notebook, `answer = 4` becomes `answer = ...`. The check understands both as "not written yet".

    Raises ValueError for a region at the left margin that holds more than assignments to names.
    """

    def cut(region: re.Match) -> str:
        if region["indent"]:
            return f"{region['indent']}raise NotImplementedError  # your code here\n"
        names = []
        for node in ast.parse(region["body"]).body:
            if not isinstance(node, ast.Assign) or not all(isinstance(target, ast.Name) for target in node.targets):
                raise ValueError(f"a solution outside of a function must assign names only, got {ast.unparse(node)}")
            names += [target.id for target in node.targets]
        return "".join(f"{name} = ...  # your answer here\n" for name in names)

    return REGION.sub(cut, HIDDEN_TESTS.sub("", source)).rstrip("\n")


def teacher_copy(notebook: Any) -> Any:
    """Copy a solutions notebook for nbgrader, which cuts the solutions itself.

    Explanations, the tasks that stand inside the chapter, and outputs are left out.
    """
    notebook = copy.deepcopy(notebook)
    kept, inside_chapter = [], False
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.match(r"##? ", cell.source):
            inside_chapter = cell.source.startswith(YOUR_TURN)
        if inside_chapter or "solution" in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        kept.append(cell)
    notebook.cells = kept
    return notebook


def student_copy(notebook: Any) -> Any:
    """Copy a solutions notebook without solutions, explanations, and the tasks that stand inside the chapter."""
    notebook = teacher_copy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = stub(cell.source)
    return notebook


def sections(notebook: Any) -> tuple[list, dict[str, list]]:
    """Split a notebook into the set-up cells, and the cells of each exercise by its name ("4.1", "4.A")."""
    setup, found, name = [], {}, None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = HEADING.match(cell.source)
            if heading:
                name = heading["name"]
                found[name] = []
            elif cell.source.startswith("## "):
                name = ""
        if name is None:
            setup.append(cell)
        elif name:
            found[name].append(cell)
    return setup, found


def answer_of(cells: list, name: str, scope: dict[str, Any]) -> Any:
    """Run an exercise's code up to its check, in this scope; return the checked answer.

    Raises ValueError if no cell calls `check` with this name.
    """
    for cell in cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check":
                if ast.literal_eval(node.args[0]) == name:
                    return eval(compile(ast.Expression(node.args[1]), "<check>", "eval"), scope)
        exec(compile(cell.source, f"<exercise {name}>", "exec"), scope)
    raise ValueError(f'no cell of exercise {name} calls check("{name}", …); add one behind its solution')


def add_grading(notebook: Any) -> None:
    """Mark the cells of a solutions notebook for nbgrader: what a student writes, and checks with hidden tests."""
    for name, cells in sections(notebook)[1].items():
        graded = any(HIDDEN_TESTS.search(cell.source) for cell in cells)
        for cell in cells:
            cell.metadata.pop("nbgrader", None)
            role = "answer" if REGION.search(cell.source) else "check" if HIDDEN_TESTS.search(cell.source) else None
            if graded and role and cell.cell_type == "code":
                cell.metadata["nbgrader"] = {
                    "grade": role == "check",
                    "grade_id": f"{role}-{name.replace('.', '-')}",
                    "locked": role == "check",
                    "schema_version": 3,
                    "solution": role == "answer",
                    "task": False,
                } | ({"points": 1} if role == "check" else {})


def store(solutions: Path) -> float:
    """Bring a solutions notebook into the form that is committed, and execute it; returns the seconds taken.

    Raises nbclient.exceptions.CellExecutionError where a cell fails.
    """
    import nbformat

    notebook = nbformat.read(solutions, as_version=4)
    add_grading(notebook)
    solutions.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return notebooks.store(solutions)


def generate(solutions: Path) -> float:
    """Write the student's copy of a solutions notebook and execute it; return the seconds that it took.

    Raises nbclient.exceptions.CellExecutionError if a cell fails.
    """
    import nbformat

    notebook = student_copy(nbformat.read(solutions, as_version=4))
    path = student_path(solutions)
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return notebooks.store(path)


def write_for_grading(solutions: Path, folder: Path) -> Path:
    """Write a solutions notebook as an assignment of nbgrader, below its folder `source`; return the path.

    The words for authors, which tell where the solutions are, are left out.
    """
    import nbformat

    notebook = teacher_copy(nbformat.read(solutions, as_version=4))
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith(AUTHORS_NOTE)]
    for cell in notebook.cells:
        cell.source = ELSEWHERE.sub("", cell.source) if cell.cell_type == "markdown" else cell.source
    path = folder / "source" / solutions.stem / solutions.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return path


def table(chapter: str) -> str:
    """Format the exercises at a chapter's end as a table in Markdown."""
    from lib.exercises.engine import of_chapter

    rows = [exercise for exercise in of_chapter(chapter) if exercise.name.split(".")[1].isdigit()]
    lines = ["| | exercise | kind | minutes |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.title} | {row.kind} | {row.minutes} |" for row in rows]
    return "\n".join(lines)


def is_current(solutions: Path) -> bool:
    """Tell whether the student's copy is the one that the solutions give, without regard to outputs."""
    import nbformat

    def cells(notebook: Any) -> list[str]:
        return [json.dumps([cell.cell_type, cell.source, cell.metadata], sort_keys=True) for cell in notebook.cells]

    path = student_path(solutions)
    if not path.exists():
        return False
    wanted = student_copy(nbformat.read(solutions, as_version=4))
    return cells(wanted) == cells(nbformat.read(path, as_version=4))
