"""Running the checks of an exercise on a student's answer, without ever failing.

A check is a function of the answer and a seeded generator; it returns None, or one line that tells what is wrong. The
engine protects the notebook: if an answer raises, hangs, returns nothing or changes its arguments, one line is printed,
and the kernel's state stays as it was.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import pkgutil
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Check = Callable[[Any, torch.Generator], str | None]

KINDS = ("algebra", "code", "experiment", "look", "predict")
BLANK = "not written yet"
LONGEST_LINE = 200


@dataclass(frozen=True)
class Exercise:
    """An exercise and its checks. The statement and the solution stand in the solutions notebook.

    name: "4.1", chapter and number, or "4.A" for a short task inside the chapter.
    kind: one of KINDS. minutes: time that a student needs, with reading.
    checks: by the property's name, as it is printed; a check draws its examples from the generator.
    hints: the first is small, the last is nearly the answer.
    wrong: answers that students give and that must fail, by name. They test the checks: every wrong answer must fail
        some check, and every check must fail some wrong answer.
    function: whether the answer is a function (otherwise it is a value).
    seconds: time after which one check counts as an endless loop.
    """

    name: str
    title: str
    kind: str
    minutes: int
    checks: dict[str, Check]
    hints: tuple[str, ...]
    wrong: dict[str, Any]
    function: bool = True
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} of exercise {self.name} is unknown; use one of {', '.join(KINDS)}")


class Trouble(Exception):
    """One line that tells what is wrong with an answer; raised if a check cannot go on."""


class TimeUp(BaseException):
    """The time of a check is over. It is no Exception, so that `except Exception` in an answer cannot catch it."""


# --- what a student calls -----------------------------------------------------------------------------------


def check(name: str, answer: Any, seed: int = 0) -> None:
    """Print, for each property that an answer to the exercise must have, ✓, or ✗ and what is wrong.

    seed: of the examples that the checks draw; another seed gives other examples. Never raises because of the answer.
    """
    exercise = _find(name)
    if exercise is None:
        return
    troubles = []
    for property_, trouble in _judge(exercise, answer, seed):
        print(f"✗ {property_}: {trouble}" if trouble else f"✓ {property_}")
        troubles.append(trouble)
    if not any(troubles):
        print(f"Exercise {exercise.name} is solved.")
    elif any(trouble != BLANK for trouble in troubles if trouble):
        print(f'Stuck? Run hint("{exercise.name}").')


_hints_shown: dict[str, int] = {}


def hint(name: str, level: int | None = None) -> None:
    """Print a hint to an exercise: each call prints the next one, or the one of this level (1 is the first)."""
    exercise = _find(name)
    if exercise is None:
        return
    if level is None:
        level = _hints_shown.get(exercise.name, 0) + 1
    count = len(exercise.hints)
    if not isinstance(level, int) or not 1 <= level <= count:
        hints = f"{count} hint{'s' if count > 1 else ''}"
        print(f"Exercise {exercise.name} has {hints}; the worked solution is in the folder notebooks/solutions.")
        return
    _hints_shown[exercise.name] = level
    print(f"Hint {level} of {count}: {exercise.hints[level - 1]}")


def ready(name: str, answer: Any) -> bool:
    """Tell whether an answer passes, so that an experiment can use it; if it does not, print a line."""
    exercise = _find(name)
    if exercise is None:
        return False
    if failures(exercise, answer):
        print(f"This experiment runs as soon as exercise {exercise.name} is solved.")
        return False
    return True


# --- what tests and teachers call ---------------------------------------------------------------------------


def passes(name: str, answer: Any, seed: int = 0) -> bool:
    """Tell whether an answer has all properties; print nothing. Raises KeyError for an unknown exercise."""
    return all(trouble is None for _, trouble in _judge(all_exercises()[name], answer, seed))


def failures(exercise: Exercise, answer: Any, seed: int = 0) -> dict[str, str]:
    """List what is wrong with an answer, by the property that fails; empty for a right answer."""
    return {property_: trouble for property_, trouble in _judge(exercise, answer, seed) if trouble}


@cache
def all_exercises() -> dict[str, Exercise]:
    """Collect every exercise of the course by its name, from the lists `EXERCISES` of this package's modules, in order.

    Raises ValueError if two exercises share a name.
    """
    found: dict[str, Exercise] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        for exercise in getattr(importlib.import_module(f"lib.exercises.{module.name}"), "EXERCISES", []):
            if exercise.name in found:
                raise ValueError(f"there are two exercises {exercise.name!r}; rename one")
            found[exercise.name] = exercise
    return {name: found[name] for name in sorted(found, key=_order)}


def of_chapter(number: str) -> list[Exercise]:
    """Collect the exercises of one chapter, "4" or "6b": first the short tasks inside it, then those at its end."""
    return [exercise for exercise in all_exercises().values() if _chapter(exercise.name) == number]


def _chapter(name: str) -> str:
    return name.split(".")[0]


def _order(name: str) -> tuple[str, bool, int, str]:
    """Key for sorting names: 4.A, 4.B, 4.1, 4.2, 4.10, 5.A, 6.1, 6b.1, 10.1 …"""
    rest = name.split(".")[1]
    number = _chapter(name)
    padded = number.zfill(3 if number[-1].isalpha() else 2)
    return padded, rest.isdigit(), int(rest) if rest.isdigit() else 0, rest


def _find(name: str) -> Exercise | None:
    """Find the exercise of this name; for an unknown name return None, and print a line that names those there are."""
    known = all_exercises()
    if str(name) in known:
        return known[str(name)]
    same_chapter = [other for other in known if other.split(".")[0] == str(name).split(".")[0]]
    print(f"There is no exercise {name!r}; there are {', '.join(same_chapter or known)}.")
    return None


# --- one check, whatever happens ----------------------------------------------------------------------------


def _judge(exercise: Exercise, answer: Any, seed: int) -> Iterator[tuple[str, str | None]]:
    """Run the checks: yield each property, and None or what is wrong."""
    trouble = _unusable(exercise, answer)
    hung = False
    if trouble is None and exercise.function:
        answer = _Guarded(answer)
    for property_, one_check in exercise.checks.items():
        if trouble is not None:
            yield property_, trouble
        elif hung:
            yield property_, "not tried, for the check before it did not end"
        else:
            outcome = _try(one_check, answer, seed, exercise.seconds)
            hung = outcome is _HUNG
            yield property_, f"no end after {exercise.seconds:g} s: is there an endless loop?" if hung else outcome


_HUNG = "no end"


def _unusable(exercise: Exercise, answer: Any) -> str | None:
    """Tell why an answer cannot be checked at all, or return None."""
    if answer is ...:
        return BLANK
    if answer is None:
        return "the answer is None; write it, or return it from your function"
    if exercise.function and not callable(answer):
        kind = type(answer).__name__
        return f"the answer must be a function, got {kind}: give the function's name without brackets behind it"
    if not exercise.function and callable(answer):
        return "the answer must be a value, got a function: call it"
    return None


def _try(one_check: Check, answer: Any, seed: int, seconds: float) -> str | None:
    """Return None if the property holds, otherwise one line. Afterwards random state, gradient mode and so on are as
    before."""
    dtype, of_python, of_numpy = torch.get_default_dtype(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        # An answer may call torch.manual_seed or set_grad_enabled; that must leave no trace in the notebook.
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), time_limit(seconds):
            torch.manual_seed(seed)
            outcome = one_check(answer, torch.Generator().manual_seed(seed))
    except Trouble as trouble:
        outcome = str(trouble)
    except TimeUp:
        return _HUNG
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # for example a value of a strange type, or sys.exit()
        outcome = f"the answer is of a form that this check cannot use ({_describe(error)})"
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
    return None if outcome is None else _one_line(outcome)


class _Guarded:
    """A student's function. It works on copies of its arguments, and its errors become `Trouble`."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given, given_by_name = _copy(args), _copy(kwargs)
        try:
            result = self.function(*given, **given_by_name)
        except (Trouble, KeyboardInterrupt, TimeUp):
            raise
        except BaseException as error:
            if isinstance(error, NotImplementedError) and not error.args:
                raise Trouble(BLANK) from None
            raise Trouble(f"your function raises {_describe(error)}{self._place(error)}") from None
        for name, before, after in self._arguments((args, kwargs), (given, given_by_name)):
            if not _same(before, after):
                raise Trouble(f"your function changes its argument {name}; begin with a copy: {name} = {name}.clone()")
        if result is ...:
            raise Trouble(BLANK)
        if result is None:
            raise Trouble("your function returns None; does it end with `return`?")
        return result

    def _arguments(self, before: tuple, after: tuple) -> Iterator[tuple[str, Any, Any]]:
        """Yield the name of each argument, and its value before and after the call."""
        try:
            names = list(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            names = []
        names += [f"number {index + 1}" for index in range(len(names), len(before[0]))]
        yield from zip(names, before[0], after[0], strict=False)
        for name in before[1]:
            yield name, before[1][name], after[1][name]

    def _place(self, error: BaseException) -> str:
        """Tell where in the function's cell the error was raised."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        if code is None:
            return ""
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == code.co_filename]
        return f", in line {lines[-1]} of its cell" if lines else ""


def _copy(value: Any) -> Any:
    """Copy tensors, arrays, and lists of them; the gradient flows through the copy to the original."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copy(entry) for entry in value)
    return value


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return before.shape == after.shape and torch.equal(before.nan_to_num(), after.nan_to_num())
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    if type(before) in (list, tuple):
        return len(before) == len(after) and all(map(_same, before, after))
    return True


def _describe(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except Exception:  # a student's own exception, whose text fails, too
        text = ""
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _one_line(text: Any) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


# --- a limit of time ----------------------------------------------------------------------------------------


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block when the time is over.

    In the main thread of Linux and macOS, where Jupyter runs its cells, a signal ends the block, even a sleep.
    Elsewhere (Windows, other threads) a second thread asks the interpreter to raise: that ends every loop in Python,
    but has to wait for a call into C to return. If neither works there is no limit.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        yield from _limit_by_signal(seconds)
    elif hasattr(ctypes, "pythonapi"):
        yield from _limit_by_thread(seconds)
    else:
        yield


def _limit_by_signal(seconds: float) -> Iterator[None]:
    running = True

    def ring(number, frame):
        if running:
            raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    # Repeat it every second: a bare `except:` in an answer may swallow the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _limit_by_thread(seconds: float) -> Iterator[None]:
    here = ctypes.c_ulong(threading.get_ident())
    running, lock = True, threading.Lock()

    def ring():
        with lock:
            if running:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(here, ctypes.py_object(TimeUp))

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            running = False
        # Cancel an exception that was requested but not raised yet.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(here, None)
        timer.cancel()
