"""Chapter 18: parts of a batch, steps and epochs, what a checkpoint must contain, and how many seeds a claim needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.exercises.engine import Exercise
from lib.exercises.properties import near


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- 18.A: parts of unequal size ----------------------------------------------------------------------------


def mean_of_the_whole(answer, generator):
    return near(answer, 2.5, "the loss of the whole batch")


PARTS = Exercise(
    "18.A",
    "Two unequal parts",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the loss of the whole batch": mean_of_the_whole},
    hints=(
        "The loss of a batch is a mean over samples, not over parts.",
        "Add up the losses of all eight samples: 6 · 2 + 2 · 4. Then divide by 8.",
    ),
    wrong={"the mean of the means": 3.0, "the sum": 6.0, "weights exchanged": 3.5},
)


# --- 18.B: the unbroken history -----------------------------------------------------------------------------


def steps_done_again(answer, generator):
    return near(answer, 73.0, "the steps that are lost")


LOST = Exercise(
    "18.B",
    "What a kill costs",
    kind="predict",
    minutes=2,
    function=False,
    checks={"steps that must be done again": steps_done_again},
    hints=("The run continues from the last checkpoint.", "The last checkpoint is that of step 400."),
    wrong={"all of them": 473.0, "until the next checkpoint": 27.0, "none": 0.0},
)


# --- 18.1: the gradient of a batch in parts -----------------------------------------------------------------


def by_hand(answer, generator):
    losses = torch.tensor([2.0, 4.0], dtype=torch.float64)
    return near(answer(losses, torch.tensor([6, 2])), 2.5, "means 2 and 4 of parts of 6 and 2 samples")


def any_parts(answer, generator):
    sizes = torch.randint(1, 9, (5,), generator=generator)
    samples = normal(generator, int(sizes.sum()))
    means = torch.stack([part.mean() for part in samples.split(sizes.tolist())])
    return near(answer(means, sizes), samples.mean(), "five parts of random sizes")


def weighted(losses, sizes):
    return (losses * sizes).sum() / sizes.sum()


ACCUMULATED = Exercise(
    "18.1",
    "A batch in parts",
    kind="code",
    minutes=10,
    checks={"two parts": by_hand, "five parts": any_parts},
    hints=(
        "A part of twice the size has twice the weight.",
        "The weight of a part is its number of samples, divided by the number of all samples.",
    ),
    wrong={
        "the mean of the means": lambda losses, sizes: losses.mean(),
        "the sum of the means": lambda losses, sizes: losses.sum(),
        "not divided": lambda losses, sizes: (losses * sizes).sum(),
    },
)


# --- 18.2: the rate for a larger batch ----------------------------------------------------------------------


def same_batch(answer, generator):
    return near(answer(1e-3, 32, 32), 1e-3, "the same batch: the rate", 1e-9)


def four_times(answer, generator):
    batch = int(torch.randint(4, 100, (), generator=generator))
    problem = near(answer(1e-3, batch, 4 * batch), 4e-3, "a batch four times as large: the rate", 1e-9)
    return problem or near(answer(3e-2, batch, 2 * batch), 6e-2, "a batch twice as large: the rate", 1e-9)


RATE = Exercise(
    "18.2",
    "Rate and global batch",
    kind="code",
    minutes=10,
    checks={"the same batch": same_batch, "a larger batch": four_times},
    hints=(
        "Think of plain gradient descent, and of a gradient that hardly changes over a few steps.",
        "k small steps of rate η move by kη times the gradient. One step on a batch k times as large must do the same.",
    ),
    wrong={
        "the rate stays": lambda rate, old, new: rate,
        "divided": lambda rate, old, new: rate * old / new,
        "the square root": lambda rate, old, new: rate * math.sqrt(new / old),
        "the new batch alone": lambda rate, old, new: rate * new,
    },
)


# --- 18.3: what a checkpoint must contain -------------------------------------------------------------------


def goes_on_exactly(answer, generator):
    start = normal(generator, 3)
    state = answer(start, torch.zeros(3, dtype=torch.float64), 0, 6)
    whole = answer(start, torch.zeros(3, dtype=torch.float64), 0, 12)
    resumed = answer(state[0], state[1], 6, 12)
    return near(resumed[0], whole[0], "6 steps, then 6 more from the checkpoint: the weights", 1e-9)


def one_step(answer, generator):
    weight, velocity = answer(torch.tensor([1.0]).double(), torch.tensor([2.0]).double(), 0, 1)
    problem = near(velocity, [2.8], "one step from w = 1, v = 2: the velocity", 1e-9)
    return problem or near(weight, [0.72], "one step from w = 1, v = 2: the weight", 1e-9)


def descend(weight, velocity, start, stop, forget=False, always=False, order=False):
    if forget:
        velocity = torch.zeros_like(velocity)
    for _ in range(0 if always else start, stop):
        old = velocity
        velocity = 0.9 * velocity + weight
        weight = weight - 0.1 * (old if order else velocity)
    return weight, velocity


CHECKPOINT = Exercise(
    "18.3",
    "What a checkpoint must contain",
    kind="code",
    minutes=15,
    checks={"one step": one_step, "it goes on exactly": goes_on_exactly},
    hints=(
        "The velocity is a part of the state: start from the one that is given.",
        "For each step from `start` to `stop` − 1: v ← 0.9 v + w, then w ← w − 0.1 v. Return both.",
    ),
    wrong={
        "momentum forgotten": lambda w, v, a, b: descend(w, v, a, b, forget=True),
        "steps counted from 0": lambda w, v, a, b: descend(w, v, a, b, always=True),
        "old velocity": lambda w, v, a, b: descend(w, v, a, b, order=True),
    },
)


# --- 18.4: how many seeds -----------------------------------------------------------------------------------


def share_of_draws(answer, generator):
    differences = torch.tensor([-1.0, 0.2, 0.3, 0.4, 0.5]).double() + 0.05 * normal(generator, 5)
    drawn = torch.randint(0, 5, (400, 5), generator=generator)
    return near(answer(differences, drawn), share_above(differences, drawn), "400 draws of 5 seeds: the share", 1e-6)


def share_above(differences, drawn, single=False, sign=1):
    values = differences[drawn] if not single else differences[drawn[:, :1]]
    return (sign * values.mean(1) > 0).double().mean()


def no_pairs(answer, generator):
    drawn = torch.randint(0, 3, (60, 3), generator=generator)
    problem = near(answer(torch.tensor([0.1, 0.2, 0.4]).double(), drawn), 1.0, "three seeds all above 0: the share")
    return problem or near(answer(-torch.ones(3).double(), drawn), 0.0, "three seeds all below 0: the share")


SEEDS = Exercise(
    "18.4",
    "How many seeds does a claim need?",
    kind="code",
    minutes=20,
    checks={"all of one sign": no_pairs, "five seeds": share_of_draws},
    hints=(
        "`differences[drawn]` has a row for each draw, with the differences of the seeds that were drawn.",
        "Take the mean of each row. Return the share of rows whose mean is above 0.",
    ),
    wrong={
        "one seed a draw": lambda d, k: share_above(d, k, single=True),
        "the other sign": lambda d, k: share_above(d, k, sign=-1),
        "the mean itself": lambda d, k: d[k].mean(),
        "share of single numbers": lambda d, k: (d[k] > 0).double().mean(),
    },
)

EXERCISES = [PARTS, LOST, ACCUMULATED, RATE, CHECKPOINT, SEEDS]
