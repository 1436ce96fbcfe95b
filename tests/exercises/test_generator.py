"""The student's copy: solutions cut out, everything else as it was."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib.course import exercises

FUNCTION = """\
def double(x):
    \"\"\"Twice x.\"\"\"
    if x is None:
        ### BEGIN SOLUTION
        return None
        ### END SOLUTION
    y = x
    ### BEGIN SOLUTION
    y = 2 * y

    return y
    ### END SOLUTION


print("defined")"""
FUNCTION_STUB = """\
def double(x):
    \"\"\"Twice x.\"\"\"
    if x is None:
        raise NotImplementedError  # your code here
    y = x
    raise NotImplementedError  # your code here


print("defined")"""
VALUES = "### BEGIN SOLUTION\nfirst = 4  # because\nsecond = (1,\n          2)\n### END SOLUTION"
CHECK = 'check("4.1", double)\n### BEGIN HIDDEN TESTS\nassert passes("4.1", double, seed=1)\n### END HIDDEN TESTS'
SETUP, TURN, FIRST, SECOND = (
    new_code_cell("import math"),
    new_markdown_cell("### 4.A · A guess\n\nGuess."),
    new_markdown_cell("## 4.1 · Twice\n\nDouble."),
    new_markdown_cell("## 4.2 · Again\n\nOnce more."),
)
GRADED = {"nbgrader": {"grade": False, "grade_id": "double", "solution": True}}


@pytest.fixture
def solutions():
    cells = [new_markdown_cell("# 4 · Exercises"), SETUP, new_markdown_cell("## Your turn"), TURN]
    cells += [new_code_cell("### BEGIN SOLUTION\nguess = 3\n### END SOLUTION"), new_code_cell('check("4.A", guess)')]
    cells += [FIRST, new_code_cell(FUNCTION, metadata=GRADED, execution_count=3), new_code_cell(CHECK)]
    cells += [new_markdown_cell("Because.", metadata={"tags": ["solution"]}), new_code_cell("print(double)")]
    cells += [SECOND, new_code_cell("def again(x):\n    return x"), new_code_cell('check("4.2", again)')]
    return new_notebook(cells=cells)


def test_a_solution_becomes_a_stub():
    assert exercises.stub(FUNCTION) == FUNCTION_STUB
    assert exercises.stub(VALUES) == "first = ...  # your answer here\nsecond = ...  # your answer here"
    assert exercises.stub(CHECK) == 'check("4.1", double)'
    assert exercises.stub("print(1)") == "print(1)"


def test_a_stub_does_nothing_harmful():
    scope = {}
    exec(exercises.stub(FUNCTION), scope)
    exec(exercises.stub(VALUES), scope)
    assert scope["first"] is scope["second"] is ...
    with pytest.raises(NotImplementedError):
        scope["double"](2)


@pytest.mark.parametrize("line", ["print(4)", "answer.value = 4", "for i in range(3):\n    x = i"])
def test_a_region_that_would_stop_the_notebook_is_refused(line):
    with pytest.raises(ValueError, match="a solution outside of a function must assign names only, got"):
        exercises.stub(f"### BEGIN SOLUTION\n{line}\n### END SOLUTION")


def test_the_students_copy(solutions):
    copy = exercises.student_copy(solutions)
    assert [cell.source for cell in copy.cells] == [
        "# 4 · Exercises",
        "import math",
        FIRST.source,
        FUNCTION_STUB,
        'check("4.1", double)',
        "print(double)",
        SECOND.source,
        "def again(x):\n    return x",
        'check("4.2", again)',
    ]
    assert copy.cells[3].metadata == GRADED
    assert all(cell.execution_count is None for cell in copy.cells if cell.cell_type == "code")
    assert solutions.cells[7].source == FUNCTION, "the solutions themselves are left alone"
    nbformat.validate(copy)


def test_sections(solutions):
    setup, found = exercises.sections(solutions)
    assert setup[1] is SETUP and len(setup) == 2
    assert list(found) == ["4.A", "4.1", "4.2"]
    assert [cell.source for cell in found["4.2"]] == [
        SECOND.source,
        "def again(x):\n    return x",
        'check("4.2", again)',
    ]


def test_an_answer_alone(solutions):
    _, found = exercises.sections(solutions)
    assert exercises.answer_of(found["4.A"], "4.A", {}) == 3
    assert exercises.answer_of(found["4.1"], "4.1", {})(4) == 8
    with pytest.raises(ValueError, match=r'no cell of exercise 4.9 calls check\("4.9", …\)'):
        exercises.answer_of(found["4.2"], "4.9", {"check": print})


def test_generate_executes_and_is_current(solutions, tmp_path):
    path = tmp_path / "solutions" / "04_rendering.ipynb"
    path.parent.mkdir()
    solutions.cells[1].source = "def check(name, answer):\n    print(name, callable(answer))"
    nbformat.write(solutions, path)
    assert not exercises.is_current(path)
    exercises.generate(path)
    assert exercises.is_current(path)
    copy = nbformat.read(tmp_path / "exercises" / "04_rendering.ipynb", as_version=4)
    assert [cell.execution_count for cell in copy.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5, 6]
    assert copy.cells[4].outputs[0].text == "4.1 True\n"
    solutions.cells[-1].source = 'check("4.2", print)'
    nbformat.write(solutions, path)
    assert not exercises.is_current(path)


def test_chapters_without_exercises_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(exercises.notebooks, "NOTEBOOKS", tmp_path)
    for name in ("01_a", "02_b"):
        (tmp_path / f"{name}.ipynb").write_text("{}")
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "02_b.ipynb").write_text("{}")
    assert [path.name for path in exercises.find_solutions()] == ["02_b.ipynb"]
    assert exercises.find_solutions(["2"]) == exercises.find_solutions()
    with pytest.raises(ValueError, match="01_a has no exercises yet"):
        exercises.find_solutions(["1"])
    with pytest.raises(ValueError, match="there is no chapter '7'"):
        exercises.find_solutions(["7"])


def test_nbgrader_gets_solutions_and_hidden_tests_but_no_explanations(solutions, tmp_path):
    path = tmp_path / "04_rendering.ipynb"
    solutions.cells[0].source += "\n\nThe worked solutions are in [here](there.ipynb). Begin."
    solutions.cells.insert(1, new_markdown_cell("This copy holds the worked solutions. Do so."))
    nbformat.write(solutions, path)
    written = exercises.write_for_grading(path, tmp_path / "grading")
    assert written == tmp_path / "grading" / "source" / "04_rendering" / "04_rendering.ipynb"
    cells = nbformat.read(written, as_version=4).cells
    texts = [cell.source for cell in cells]
    assert texts[0] == "# 4 · Exercises\n\n Begin." and FUNCTION in texts and CHECK in texts
    assert not {"Because.", VALUES, TURN.source} & set(texts) and "This copy" not in "".join(texts)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
