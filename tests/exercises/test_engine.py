"""Whatever a student's answer does, a check says it in a line, and the notebook goes on as if nothing had been."""

import dataclasses
import random
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from lib import exercises
from lib.exercises import Exercise, engine
from lib.exercises.properties import near, shape, tensor


def doubles(answer, generator):
    x = torch.rand(3, generator=generator)
    return near(answer(x), 2 * x, "three numbers")


def keeps_shape(answer, generator):
    return shape(answer(torch.zeros(2, 3)), (2, 3), "a matrix")


TWICE = Exercise(
    "0.1",
    "Twice",
    kind="code",
    minutes=1,
    checks={"doubles": doubles, "keeps the shape": keeps_shape},
    hints=("Times two.", "x + x."),
    wrong={},
)
HASTY = dataclasses.replace(TWICE, name="0.2", seconds=0.5)
NUMBER = Exercise(
    "0.A", "A number", "predict", 1, {"four": lambda answer, generator: near(answer, 4, "it")}, (), {}, function=False
)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(engine, "all_exercises", lambda: {"0.1": TWICE, "0.2": HASTY, "0.A": NUMBER})
    monkeypatch.setattr(engine, "_hints_shown", {})


@pytest.fixture
def lines(capsys):
    """`lines(name, answer)` gives what `check` prints, line by line."""

    def check(name, answer, **options):
        assert exercises.check(name, answer, **options) is None
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out.splitlines()

    return check


def forever(x):
    while True:
        pass


def stubborn(x):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass


def test_a_right_answer(lines):
    assert lines("0.1", lambda x: 2 * x) == ["✓ doubles", "✓ keeps the shape", "Exercise 0.1 is solved."]
    assert lines("0.A", 4) == ["✓ four", "Exercise 0.A is solved."]
    assert exercises.passes("0.1", lambda x: 2 * x, seed=5)


def test_a_wrong_answer_is_told_what_is_wrong(lines):
    doubling, shaped, stuck = lines("0.1", lambda x: 3 * x)
    assert doubling.startswith("✗ doubles: three numbers at [") and "yours" in doubling and "expected" in doubling
    assert shaped == "✓ keeps the shape"
    assert stuck == 'Stuck? Run hint("0.1").'
    assert not exercises.passes("0.1", lambda x: 3 * x)


def test_a_stub(lines):
    def stub(x):
        raise NotImplementedError  # your code here

    expected = ["✗ doubles: not written yet", "✗ keeps the shape: not written yet"]
    assert lines("0.1", stub) == lines("0.1", ...) == lines("0.1", lambda x: ...) == expected
    assert lines("0.A", ...) == ["✗ four: not written yet"]


@pytest.mark.parametrize(
    "answer, told",
    [
        (None, "the answer is None"),
        (torch.zeros(3), "the answer must be a function, got Tensor"),
        (lambda x: None, "your function returns None; does it end with `return`?"),
        (lambda x: "two", "three numbers: must be a tensor or a number, got str"),
        (lambda x: (x, x[:2]), "three numbers: must be a tensor or a number, got tuple"),
        (lambda x: torch.stack([x, x]), "three numbers: yours has shape (2, 3), expected (3,)"),
        (lambda x: 2 * x + torch.nan, "three numbers: yours has NaN or infinite entries"),
        (lambda x: x.numpy().fly(), "your function raises AttributeError: 'numpy.ndarray' object has no attribute"),
        (lambda: 1, "your function raises TypeError"),
        (lambda x: 1 / 0, "your function raises ZeroDivisionError: division by zero, in line"),
        (lambda x: sys.exit(), "your function raises SystemExit"),
        (lambda x: torch.nn.functional.conv2d(x, x), "your function raises RuntimeError"),
        (lambda x: x.mul_(2), "your function changes its argument x; begin with a copy: x = x.clone()"),
        (lambda x: x.to_sparse(), "three numbers: must be an ordinary real tensor"),
        (forever, "no end after 0.5 s: is there an endless loop?"),
        (stubborn, "no end after 0.5 s: is there an endless loop?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_costs_one_line(lines, answer, told):
    name = "0.2" if answer in (forever, stubborn) else "0.1"
    first, second, stuck = lines(name, answer)
    assert first.startswith(f"✗ doubles: {told}"), first
    assert stuck == f'Stuck? Run hint("{name}").'
    assert second[0] in "✗✓"
    if name == "0.2":
        assert second == "✗ keeps the shape: not tried, for the check before it did not end"


def test_a_function_as_a_value(lines):
    assert lines("0.A", lambda: 4)[0] == "✗ four: the answer must be a value, got a function: call it"
    assert lines("0.A", "4 pixels")[0] == "✗ four: it: must be a tensor or a number, got str"


def test_a_long_message_becomes_one_line(lines):
    def wordy(x):
        raise ValueError("first line " * 100 + "\nsecond line")

    first = lines("0.1", wordy)[0]
    assert "second line" not in first and len(first) < 230

    class Mute(Exception):
        def __str__(self):
            raise ValueError

    def mute(x):
        raise Mute

    assert lines("0.1", mute)[0].startswith("✗ doubles: your function raises Mute, in line")


def test_the_place_of_an_error_is_the_line_of_the_cell(lines):
    scope = {}
    exec(compile("def f(x):\n    y = 2 * x\n    return y.undefined", "<cell>", "exec"), scope)
    assert lines("0.1", scope["f"])[0].endswith("in line 3 of its cell")


def test_nothing_is_left_changed(lines):
    def meddles(x):
        torch.manual_seed(3)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.rand(5)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        return 2 * x

    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    lines("0.1", meddles)
    assert torch.equal(torch.rand(2), expected)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_every_kind_of_argument_is_copied():
    given = {"t": torch.zeros(2), "a": np.zeros(2), "l": [torch.zeros(2)], "d": {"k": torch.zeros(2)}}

    def spoil(t, a, *, l, d):  # noqa: E741
        for value in (t, a, l[0], d["k"]):
            value += 1
        return t

    guarded = engine._Guarded(spoil)
    for name in given:
        with pytest.raises(engine.Trouble, match="changes its argument"):
            guarded(given["t"], given["a"], l=given["l"], d=given["d"])
        assert not tensor(given[name][0] if name == "l" else given[name]["k"] if name == "d" else given[name], "").any()


def test_a_gradient_flows_through_the_copy():
    x = torch.ones(3, requires_grad=True)
    engine._Guarded(lambda x: 3 * x)(x).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 3.0))


@pytest.mark.parametrize("limit", [engine._limit_by_signal, engine._limit_by_thread])
def test_both_kinds_of_alarm_end_a_loop_and_leave_no_trace(limit, monkeypatch):
    if limit is engine._limit_by_thread:
        monkeypatch.setattr(threading, "main_thread", lambda: None)
    elif not hasattr(engine.signal, "setitimer"):
        pytest.skip("this system has no timers that ring")
    for _ in range(3):
        with pytest.raises(engine.TimeUp):
            with engine.time_limit(0.1):
                while True:
                    pass
    with engine.time_limit(0.1):
        pass
    ended = time.monotonic() + 0.25
    while time.monotonic() < ended:
        pass


def test_in_another_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(engine.failures(HASTY, forever)))
    thread.start()
    thread.join(20)
    assert found[0]["doubles"].startswith("no end after")


def test_ctrl_c_is_the_students(lines):
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercises.check("0.1", interrupted)


def test_an_unknown_exercise_names_those_there_are(lines, capsys):
    assert lines("0.7", forever) == ["There is no exercise '0.7'; there are 0.1, 0.2, 0.A."]
    assert lines(None, forever) == ["There is no exercise None; there are 0.1, 0.2, 0.A."]
    exercises.hint("9.1")
    assert capsys.readouterr().out == "There is no exercise '9.1'; there are 0.1, 0.2, 0.A.\n"
    assert lines(0.1, lambda x: 2 * x)[-1] == "Exercise 0.1 is solved."


def test_an_experiment_waits_for_its_answer(capsys):
    assert exercises.ready("0.1", lambda x: 2 * x)
    assert capsys.readouterr().out == ""
    assert not exercises.ready("0.1", lambda x: 3 * x)
    assert not exercises.ready("0.7", lambda x: 2 * x)
    assert capsys.readouterr().out.splitlines() == [
        "This experiment runs as soon as exercise 0.1 is solved.",
        "There is no exercise '0.7'; there are 0.1, 0.2, 0.A.",
    ]


def test_hints_come_one_by_one(capsys):
    for arguments in ((), (), (), (2,), (3,), ("a",)):
        exercises.hint("0.1", *arguments)
    done = "Exercise 0.1 has 2 hints; the worked solution is in the folder notebooks/solutions."
    assert capsys.readouterr().out.splitlines() == [
        "Hint 1 of 2: Times two.",
        "Hint 2 of 2: x + x.",
        done,
        "Hint 2 of 2: x + x.",
        done,
        done,
    ]


def test_an_exercise_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind='riddle' of exercise 0\.2 is unknown; use one of algebra, code"):
        Exercise("0.2", "?", kind="riddle", minutes=1, checks={}, hints=(), wrong={})


@pytest.mark.slow
def test_in_a_jupyter_kernel_an_endless_loop_ends_and_the_notebook_goes_on():
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    setup = """
        from lib.exercises import Exercise, check, engine
        hasty = Exercise("0.1", "?", "code", 1, {"ends": lambda f, g: f(1)}, (), {}, seconds=0.5)
        engine.all_exercises = lambda: {"0.1": hasty}
        def forever(x):
            while True:
                pass"""
    cells = [new_code_cell(textwrap.dedent(setup)), new_code_cell('check("0.1", forever)'), new_code_cell("print(2)")]
    notebook = NotebookClient(new_notebook(cells=cells), timeout=120, kernel_name="python3").execute()
    printed = [cell.outputs[0].text for cell in notebook.cells[1:]]
    assert printed == ['✗ ends: no end after 0.5 s: is there an endless loop?\nStuck? Run hint("0.1").\n', "2\n"]


def test_exercises_are_in_the_order_of_the_chapters():
    names = ["4.A", "4.B", "4.1", "4.2", "4.10", "5.A", "6.1", "6b.A", "6b.1", "7.1", "10.1"]
    assert sorted(reversed(names), key=engine._order) == names
