"""Exercises with instant answers: `check("4.1", my_function)` says at once what is right and what is not.

`engine` runs the checks and survives whatever a student's function does; `properties` holds what many checks share;
every chapter has a file of its own (`rendering` for chapter 4), with a list `EXERCISES` of what it asks. A statement,
its stub and its worked solution stand in `notebooks/solutions`; the student's copy, in `notebooks/exercises`, is
generated from there (`lib.course.exercises`).
"""

from lib.exercises.engine import Exercise, check, hint, passes, ready

__all__ = ["Exercise", "check", "hint", "passes", "ready"]
