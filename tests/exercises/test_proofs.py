"""Every exercise can be solved, and its checks tell right from wrong: on other examples, too, and each of them.

What is discovered here: all exercises of `lib.exercises`, and all notebooks in `notebooks/solutions`.
"""

import contextlib
import io
import re
from functools import cache

import matplotlib
import nbformat
import pytest

from lib.course import exercises, notebooks
from lib.exercises.engine import BLANK, all_exercises, failures, of_chapter, passes

pytestmark = pytest.mark.slow

matplotlib.use("Agg")

SEEDS = range(20)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|Users|root|tmp|work|opt|usr|var|mnt)/\w")
PATHS = exercises.find_solutions()


@cache
def read(path):
    return nbformat.read(path, as_version=4)


@cache
def solutions_of(chapter):
    return next(path for path in PATHS if notebooks.number_of(path) == chapter)


@cache
def set_up(path):
    """What the set-up cells define."""
    scope = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in exercises.sections(read(path))[0]:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"<set-up of {path.stem}>", "exec"), scope)
    return scope


def answer(name, change=lambda source: source):
    """The answer of the worked solution, or of what `change` makes of its cells; after the set-up and nothing else."""
    path = solutions_of(name.split(".")[0])
    cells = [nbformat.from_dict(cell) for cell in exercises.sections(read(path))[1][name]]
    for cell in cells:
        cell.source = change(cell.source)
    with contextlib.redirect_stdout(io.StringIO()):
        return exercises.answer_of(cells, name, dict(set_up(path)))


@pytest.fixture(params=all_exercises().values(), ids=all_exercises())
def exercise(request):
    return request.param


def test_the_solution_passes_on_every_seed_and_alone(exercise):
    solution = answer(exercise.name)
    for seed in SEEDS:
        assert not failures(exercise, solution, seed), f"seed {seed}"


def test_the_stub_fails_every_check(exercise):
    assert failures(exercise, answer(exercise.name, exercises.stub)) == dict.fromkeys(exercise.checks, BLANK)


def test_every_wrong_answer_is_caught_on_every_seed(exercise):
    for name, wrong in exercise.wrong.items():
        caught = [not passes(exercise.name, wrong, seed) for seed in SEEDS]
        assert all(caught), f"{name} passes with seed {caught.index(False)}"


def test_no_check_is_idle(exercise):
    failed = set().union(*(failures(exercise, wrong) for wrong in exercise.wrong.values()))
    assert set(exercise.checks) - failed == set(), "no wrong answer fails these; add one, or drop the check"


def test_every_wrong_answer_fails_by_what_it_says_not_by_an_accident(exercise):
    """A wrong answer that raises, or is of a strange form, would prove nothing about the properties."""
    for name, wrong in exercise.wrong.items():
        for trouble in failures(exercise, wrong).values():
            assert not re.search(r"your function raises|cannot use|no end after", trouble), f"{name}: {trouble}"


def test_it_says_how_long_it_takes_and_has_hints(exercise):
    path = solutions_of(exercise.name.split(".")[0])
    statement = exercises.sections(read(path))[1][exercise.name][0].source
    level = "##" if exercise.name.split(".")[1].isdigit() else "###"
    minutes = f"{exercise.minutes} minute{'s' * (exercise.minutes > 1)}"
    assert statement.startswith(f"{level} {exercise.name} · {exercise.title}\n\n*{exercise.kind} · {minutes}*\n")
    assert exercise.minutes > 0 and len(exercise.hints) >= 1
    assert all("\n" not in hint for hint in exercise.hints)


def test_all_exercises_and_all_notebooks_belong_together():
    asked = {name for path in PATHS for name in exercises.sections(read(path))[1]}
    assert asked == set(all_exercises())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_students_copy_is_what_the_generator_gives(path):
    assert exercises.is_current(path), f"run `course exercises {notebooks.number_of(path)}`"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("copy", ["solutions", "exercises"])
def test_the_notebooks_are_in_the_form_that_is_committed(path, copy):
    notebook = read(path if copy == "solutions" else exercises.student_path(path))
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in notebook.cells:
        assert set(cell.metadata) <= set(notebooks.KEPT_METADATA), cell.source
        assert not MACHINE_PATH.search(cell.source)
    for output in [output for cell in code for output in cell.outputs]:
        assert output.output_type != "error" and output.get("name") != "stderr", output
        assert not MACHINE_PATH.search(str(output.get("text")) + str(output.get("data", {}).get("text/plain")))
        if "image/png" in output.get("data", {}):
            assert len(output.metadata["image/png"]["alt"].split()) >= 4
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert ("✗" in printed) == (copy == "exercises"), "solutions pass, stubs do not"
    assert ("### BEGIN" in "".join(cell.source for cell in code)) == (copy == "solutions")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_nbgrader_needs(path):
    """Every exercise at a chapter's end has one answer and one graded check, whose hidden test is another seed."""
    for name, cells in exercises.sections(read(path))[1].items():
        marked = [cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata]
        if name.split(".")[1].isdigit():
            assert [mark.solution for mark in marked] == [True, False], name
            assert [mark.grade for mark in marked] == [False, True], name
            check = next(cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade"))
            assert re.search(rf'^assert passes\("{name}", \w+, seed=1\)$', check.source, re.M), check.source
        else:
            assert not marked, name


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_chapter_has_its_tasks_and_leads_to_its_exercises(path):
    """Tasks inside the chapter are the stubs of their solutions; the exercises at its end stand in a table."""
    chapter = nbformat.read(notebooks.NOTEBOOKS / path.name, as_version=4)
    code = [cell.source for cell in chapter.cells if cell.cell_type == "code"]
    prose = "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    if not any("from lib.exercises import" in source for source in code):
        pytest.skip(f"{path.stem} does not use its exercises yet")
    for exercise in of_chapter(notebooks.number_of(path)):
        if exercise.name.split(".")[1].isdigit():
            assert f"| {exercise.name} | {exercise.title} | {exercise.kind} | {exercise.minutes} |" in prose
            continue
        assert f"### Your turn {exercise.name} · {exercise.title}\n" in prose
        for cell in exercises.sections(read(path))[1][exercise.name]:
            if cell.cell_type == "code":
                assert exercises.stub(cell.source) in code, f"put this into the chapter:\n{exercises.stub(cell.source)}"
    for folder in ("exercises", "solutions"):
        assert f"]({folder}/{path.name})" in prose
