"""Exercises with instant answers: `check("4.1", my_function)` tells at once what is right and what is wrong.

`engine` runs the checks, and goes on whatever a student's function does. `properties` holds functions that many checks
use. Every chapter has its own file (`rendering` for chapter 4), with a list `EXERCISES`. Statements, stubs and worked
solutions stand in `notebooks/solutions`; `lib.course.exercises` makes the student's copy in `notebooks/exercises` from
them.
"""

from lib.exercises.engine import Exercise, check, hint, passes, ready

__all__ = ["Exercise", "check", "hint", "passes", "ready"]
