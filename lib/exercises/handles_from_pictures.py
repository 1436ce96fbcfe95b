"""Chapter 6b: the hidden side, everybody's pose, local rigidity, details, steps that are spread, dealing."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.exercises.engine import Exercise
from lib.exercises.properties import near, tensor


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- 6b.A: the hidden side ----------------------------------------------------------------------------------


def terms_that_pull(answer, generator):
    count = tensor(answer, "the count", ()).double()
    if abs(float(count)) < 1e-6:
        return "two terms never look at the picture, and pull at every vertex"
    return near(count, 2.0, "the count")


HIDDEN = Exercise(
    "6b.A",
    "The hidden side",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the number of terms": terms_that_pull},
    hints=(
        "Keypoints that are hidden are not clicked. The mask pulls at outlines.",
        "Which terms compare the mesh with the template, and not with the picture?",
    ),
    wrong={"none": 0, "all": 4, "one": 1, "with the mask": 3},
)


# --- 6b.B: everybody's pose ---------------------------------------------------------------------------------


def share_of_looking(answer, generator):
    share = tensor(answer, "the share", ()).double()
    if abs(float(share) - 0.4) < 1e-6:
        return "this is the share that needs no look at all"
    if float(share) > 1:
        return "a share lies between 0 and 1: write 0.5 for one half"
    return near(share, 0.6, "the share")


EVERYBODY = Exercise(
    "6b.B",
    "Everybody's pose",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the share": share_of_looking},
    hints=(
        "The mean pose has not looked at any test picture, and gains 0.04.",
        "What is left of the 0.10 must come from looking. Divide by 0.10.",
    ),
    wrong={"the other part": 0.4, "everything": 1.0, "in percent": 60},
)


# --- 6b.1: local rigidity -----------------------------------------------------------------------------------


def moved_as_a_whole(answer, generator):
    rest = normal(generator, 6, 3)
    turn = torch.linalg.qr(normal(generator, 3, 3)).Q
    pairs = torch.tensor([[0, 1], [1, 2], [4, 5]])
    return near(answer(rest @ turn.T + 1, rest, pairs), 0.0, "a rigid motion", 1e-8)


def one_pair(answer, generator):
    rest = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).double()
    verts = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 0.5, 0]]).double()
    pairs = torch.tensor([[0, 1], [0, 2]])
    return near(answer(verts, rest, pairs), 1.25, "distances 1, 1 that become 3, 0.5")


def random_pairs(answer, generator):
    rest, verts = normal(generator, 9, 3), normal(generator, 9, 3)
    pairs = torch.tensor([[0, 1], [2, 3], [4, 8], [5, 0]])
    return near(answer(verts, rest, pairs), rigidity(verts, rest, pairs), "random vertices")


def rigidity(verts, rest, pairs, square=False, signed=False, arrows=False):
    i, j = pairs.unbind(1)
    change = (verts[i] - verts[j]).norm(dim=1) - (rest[i] - rest[j]).norm(dim=1)
    if arrows:
        change = (verts[i] - verts[j] - rest[i] + rest[j]).norm(dim=1)
    change = change if signed else change.abs()
    return (change.square() if square else change).mean()


RIGIDITY = Exercise(
    "6b.1",
    "Local rigidity",
    kind="code",
    minutes=15,
    checks={"a rigid motion is free": moved_as_a_whole, "two pairs": one_pair, "random": random_pairs},
    hints=(
        "`i, j = pairs.unbind(1)`; the distances are `(verts[i] - verts[j]).norm(dim=1)`.",
        "Take the distances of both meshes, the absolute value of their difference, and the mean.",
    ),
    wrong={
        "squared": lambda v, r, p: rigidity(v, r, p, square=True),
        "with its sign": lambda v, r, p: rigidity(v, r, p, signed=True),
        "of the arrows": lambda v, r, p: rigidity(v, r, p, arrows=True),
        "of the template only": lambda v, r, p: rigidity(0 * v, r, p),
    },
)


# --- 6b.2: keep the details ---------------------------------------------------------------------------------


def template_is_free(answer, generator):
    L, T = normal(generator, 7, 7), normal(generator, 7, 3)
    return near(answer(T, T, L), 0.0, "the template itself", 1e-8)


def random_meshes(answer, generator):
    L, T, V = normal(generator, 7, 7), normal(generator, 7, 3), normal(generator, 7, 3)
    return near(answer(V, T, L), (L @ (V - T)).norm(dim=1).mean(), "random vertices")


DETAILS = Exercise(
    "6b.2",
    "Keep the details",
    kind="code",
    minutes=10,
    checks={"the template costs nothing": template_is_free, "random": random_meshes},
    hints=(
        "The arrows of a mesh are the rows of L V. How much has each changed?",
        "(L V − L T) = L (V − T). Take the length of each row, and the mean.",
    ),
    wrong={
        "flattens": lambda V, T, L: (L @ V).norm(dim=1).mean(),
        "squared": lambda V, T, L: (L @ (V - T)).square().sum(1).mean(),
        "lengths of arrows": lambda V, T, L: ((L @ V).norm(dim=1) - (L @ T).norm(dim=1)).abs().mean(),
        "without L": lambda V, T, L: (V - T).norm(dim=1).mean(),
    },
)


# --- 6b.3: steps that are spread ----------------------------------------------------------------------------


def moves_of_two(answer, generator):
    moves = tensor(answer, "your two moves", (2,)).double()
    if torch.allclose(moves, torch.tensor([-2 / 3, -1 / 3]).double(), atol=1e-3):
        return "this is the step in x. The vertices are M x"
    if (moves > 0).any():
        return "descent goes against the gradient"
    return near(moves, [-5 / 9, -4 / 9], "the moves", 2e-3)


SPREAD = Exercise(
    "6b.3",
    "Steps that are spread",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"the moves of both": moves_of_two},
    hints=(
        "M = (I + L)⁻¹ = ⅓ [[2, 1], [1, 2]]. With v = M x, the gradient for x is Mᵀ times the gradient for v.",
        "The step in x is −Mᵀ (1, 0) = −(⅔, ⅓). The vertices move by M times this step.",
    ),
    wrong={"no spreading": (-1, 0), "the step in x": (-2 / 3, -1 / 3), "up": (5 / 9, 4 / 9), "equal": (-0.5, -0.5)},
)


# --- 6b.4: dealt out ----------------------------------------------------------------------------------------


def a_permutation(answer, generator):
    for count in (2, 3, 7, 20):
        order = tensor(answer(count), f"count = {count}: the order", (count,)).double()
        if sorted(order.tolist()) != list(range(count)):
            return f"count = {count}: each of 0 … {count - 1} must occur once, got {[int(i) for i in order]}"
    return None


def nothing_stays(answer, generator):
    for count in (2, 3, 7, 20):
        for _ in range(20):
            order = tensor(answer(count), f"count = {count}: the order", (count,)).double()
            stays = (order == torch.arange(count)).nonzero().flatten().tolist()
            if stays:
                return f"count = {count}: picture {stays[0]} keeps its own prediction"
    return None


DEALT = Exercise(
    "6b.4",
    "Dealt out",
    kind="code",
    minutes=10,
    checks={"each once": a_permutation, "nothing stays": nothing_stays},
    hints=(
        "`torch.randperm` leaves some entries in their place, on average one.",
        "Take a random order of all pictures, and give each picture the prediction of the next one in this order.",
    ),
    wrong={
        "some stay": lambda count: torch.randperm(count),
        "nobody moves": lambda count: torch.arange(count),
        "with repeats": lambda count: torch.zeros(count).long(),
        "turned round": lambda count: torch.arange(count).flip(0),
    },
)


EXERCISES = [HIDDEN, EVERYBODY, RIGIDITY, DETAILS, SPREAD, DEALT]
