"""Chapter 10: the expected place, lifting, consistency, Procrustes with its sign, wrong names, and contraction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.exercises.engine import Exercise
from lib.exercises.properties import near, tensor
from lib.geometry.alignment import procrustes
from lib.geometry.rotations import random_rotations


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def grid(height: int, width: int) -> Tensor:
    """The centres (x, y) of the cells, (height, width, 2)."""
    y, x = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


# --- 10.B: two peaks ----------------------------------------------------------------------------------------


def place_between_peaks(answer, generator):
    place = tensor(answer, "the place", ()).double()
    if abs(abs(float(place)) - 0.6) < 1e-6:
        return "this is one of the peaks. The expected place is a mean of all places"
    return near(place, 0.0, "the expected place")


PEAKS = Exercise(
    "10.B",
    "Two peaks",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the expected place": place_between_peaks},
    hints=(
        "The expected place is the sum of all places, each times its probability.",
        "Half of the probability lies at −0.6 and half at 0.6.",
    ),
    wrong={"the right peak": 0.6, "the left peak": -0.6, "a sum": 1.2},
)


# --- 10.A: glued to the picture -----------------------------------------------------------------------------


def error_of_glued_points(answer, generator):
    error = tensor(answer, "the error", ()).double()
    if abs(float(error)) < 1e-6:
        return "0° is the rotation that such points report. What is its distance from the truth?"
    return near(error, 30.0, "the error in degrees")


GLUED = Exercise(
    "10.A",
    "Glued to the picture",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the error of the rotation": error_of_glued_points},
    hints=(
        "The points are the same in both views. Which rotation takes them to each other?",
        "They report no turn at all. The truth is a turn by 30°.",
    ),
    wrong={"what they report": 0.0, "twice": 60.0, "half a circle": 180.0},
)


# --- 10.1: expectation and variance -------------------------------------------------------------------------


def one_cell(answer, generator):
    maps = torch.zeros(1, 4, 8, dtype=torch.float64)
    maps[0, 1, 6] = 1
    seen, variance = answer(maps, grid(4, 8))
    problem = near(seen, [[0.625, -0.25]], "all probability in row 1, column 6: the place")
    return problem or near(variance, [0.0], "all probability in one cell: the variance")


def two_cells(answer, generator):
    maps = torch.zeros(1, 4, 8, dtype=torch.float64)
    maps[0, 2, 0] = maps[0, 2, 7] = 0.5
    seen, variance = answer(maps, grid(4, 8))
    problem = near(seen, [[0.0, 0.25]], "two equal peaks: the place")
    return problem or near(variance, [0.875**2], "two equal peaks: the variance")


def random_maps(answer, generator):
    maps = normal(generator, 3, 5, 6).flatten(1).softmax(1).view(3, 5, 6)
    seen, variance = answer(maps, grid(5, 6))
    expected = expectation(maps, grid(5, 6))
    return near(seen, expected[0], "for random maps: the places") or near(
        variance, expected[1], "for random maps: the variances"
    )


def expectation(maps, places, normalise=False, peak=False, root=False, halved=False):
    seen = (maps[..., None] * places).sum((1, 2))
    if peak:
        seen = places.flatten(0, 1)[maps.flatten(1).argmax(1)]
    if normalise:
        seen = seen / maps[0].numel()
    square = (places - seen[:, None, None]).square().sum(-1)
    variance = (maps * square).sum((1, 2))
    if halved:
        variance = variance / 2
    return seen, variance.sqrt() if root else variance


EXPECTATION = Exercise(
    "10.1",
    "Place and variance",
    kind="code",
    minutes=15,
    checks={"one cell": one_cell, "two cells": two_cells, "random maps": random_maps},
    hints=(
        "`maps[..., None] * places` has the shape (N, H, W, 2). Sum over rows and columns.",
        "For the variance, take the squared distance of every place to the expected one, (N, H, W), and its mean under "
        "the map.",
    ),
    wrong={
        "the peak": lambda m, p: expectation(m, p, peak=True),
        "divided by the number of cells": lambda m, p: expectation(m, p, normalise=True),
        "the standard deviation": lambda m, p: expectation(m, p, root=True),
        "mean of x and y": lambda m, p: expectation(m, p, halved=True),
        "x and y exchanged": lambda m, p: expectation(m, p.flip(-1)),
    },
)


# --- 10.2: lifting ------------------------------------------------------------------------------------------


def known_point(answer, generator):
    seen, depth = torch.tensor([[0.5, -0.25]]).double(), torch.tensor([2.0]).double()
    return near(answer(seen, depth, 4.0), [[0.25, -0.125, 2.0]], "u = (0.5, −0.25), z = 2, f = 4: the point")


def projects_back(answer, generator):
    X = normal(generator, 7, 3)
    X[:, 2] = 2 + X[:, 2].abs()
    seen = 3.7 * X[:, :2] / X[:, 2:]
    return near(answer(seen, X[:, 2], 3.7), X, "a point that was projected, and lifted again")


def lifted(seen, depth, focal, divide=False, no_focal=False):
    scale = 1 / depth if divide else depth
    scale = scale if no_focal else scale / focal
    return torch.cat([seen * scale[:, None], depth[:, None]], 1)


LIFTING = Exercise(
    "10.2",
    "Into space",
    kind="code",
    minutes=10,
    checks={"one point": known_point, "there and back": projects_back},
    hints=(
        "The pinhole says u = f x / z. Solve for x.",
        "x = u z / f, for both coordinates; the depth is the third one.",
    ),
    wrong={
        "times the focal length": lambda u, z, f: lifted(u, z, 1 / f),
        "no focal length": lambda u, z, f: lifted(u, z, f, no_focal=True),
        "divided by the depth": lambda u, z, f: lifted(u, z, f, divide=True),
        "the picture's coordinates": lambda u, z, f: torch.cat([u, z[:, None]], 1),
    },
)


# --- 10.3: consistency --------------------------------------------------------------------------------------


def scene(generator, count=6):
    R = random_rotations(1, generator, dtype=torch.float64)[0]
    X = 0.3 * normal(generator, count, 3)
    t = torch.tensor([0.1, -0.2, 2.7], dtype=torch.float64) - R @ torch.tensor([0, 0, 2.7], dtype=torch.float64)
    return X + torch.tensor([0, 0, 2.7], dtype=torch.float64), R, t


def consistent(answer, generator):
    X, R, t = scene(generator)
    there = X @ R.T + t
    seen = 3.7 * there[:, :2] / there[:, 2:]
    return near(answer(X, seen, R, t, 3.7), 0.0, "points that agree: the loss", 1e-8)


def inconsistent(answer, generator):
    X, R, t = scene(generator)
    seen = normal(generator, 6, 2)
    return near(answer(X, seen, R, t, 3.7), consistency(X, seen, R, t, 3.7), "for random places: the loss")


def consistency(X, seen, R, t, f, turn=False, shift=True, root=False, total=False):
    there = X @ (R if turn else R.T)
    there = there + t if shift else there
    square = (f * there[:, :2] / there[:, 2:] - seen).square().sum(1)
    square = square.sqrt() if root else square
    return square.sum() if total else square.mean()


CONSISTENCY = Exercise(
    "10.3",
    "Do two views agree?",
    kind="code",
    minutes=15,
    checks={"they agree": consistent, "they do not": inconsistent},
    hints=(
        "In the other camera's frame the points are x' = R x + t. With points as rows: X @ R.T + t.",
        "Project with f x' / z', take the squared distance to `other_seen`, and the mean over the keypoints.",
    ),
    wrong={
        "turned the wrong way": lambda X, u, R, t, f: consistency(X, u, R, t, f, turn=True),
        "the sum": lambda X, u, R, t, f: consistency(X, u, R, t, f, total=True),
        "not squared": lambda X, u, R, t, f: consistency(X, u, R, t, f, root=True),
        "no shift": lambda X, u, R, t, f: consistency(X, u, R, t, f, shift=False),
        "mean of x and y": lambda X, u, R, t, f: consistency(X, u, R, t, f) / 2,
    },
)


# --- 10.4: Procrustes ---------------------------------------------------------------------------------------


def exact_turn(answer, generator):
    X = normal(generator, 8, 3)
    R = random_rotations(1, generator, dtype=torch.float64)[0]
    return near(answer(X, X @ R.T + 3), R, "points that were turned and shifted: the rotation", 1e-5)


def noisy_flat_points(answer, generator):
    for _ in range(8):
        X = normal(generator, 8, 3) * torch.tensor([1.0, 1.0, 0.01]).double()
        R = random_rotations(1, generator, dtype=torch.float64)[0]
        other = X @ R.T + 0.2 * normal(generator, 8, 3)
        found = tensor(answer(X, other), "the rotation", (3, 3)).double()
        if torch.linalg.det(found) < 0:
            return "for flat, noisy points it gives a reflection: its determinant is −1"
        problem = near(found, procrustes(X[None], other[None])[0][0], "flat, noisy points: the rotation", 1e-5)
        if problem:
            return problem
    return None


def kabsch(X, other, centre=True, sign=True, inverse=False):
    if centre:
        X, other = X - X.mean(0), other - other.mean(0)
    U, _, Vh = torch.linalg.svd(X.T @ other)
    d = torch.ones(3, dtype=X.dtype)
    d[2] = torch.det(Vh.T @ U.T).sign() if sign else 1
    R = Vh.T @ torch.diag(d) @ U.T
    return R.T if inverse else R


PROCRUSTES = Exercise(
    "10.4",
    "The rotation between two views",
    kind="code",
    minutes=20,
    checks={"turned and shifted": exact_turn, "flat and noisy": noisy_flat_points},
    hints=(
        "Centre both sets. U, S, Vᵀ = SVD of Xᵀ X', with points as rows. Without noise R = V Uᵀ.",
        "V Uᵀ can be a reflection. Put diag(1, 1, d) between V and Uᵀ, where d = det(V Uᵀ).",
    ),
    wrong={
        "not centred": lambda X, Y: kabsch(X, Y, centre=False),
        "reflections": lambda X, Y: kabsch(X, Y, sign=False),
        "the inverse": lambda X, Y: kabsch(X, Y, inverse=True),
        "no turn": lambda X, Y: torch.eye(3).double(),
    },
)


# --- 10.5: wrong names --------------------------------------------------------------------------------------


def error_of_wrong_names(answer, generator):
    error = tensor(answer, "the error", ()).double()
    if abs(float(error) - 20) < 1e-6:
        return "this is the true turn between the views, not the error"
    if abs(float(error) - 160) < 1e-6:
        return "the wrong names turn the second view's points by 180° about the car's own axis, whatever the view is"
    return near(error, 180.0, "the error in degrees")


WRONG_NAMES = Exercise(
    "10.5",
    "Front and rear exchanged",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"the error of the rotation": error_of_wrong_names},
    hints=(
        "With the wrong names, keypoint i of the second view lies at R Q x_i, where Q = diag(−1, 1, −1) turns the car "
        "about its vertical axis by 180°.",
        "So Procrustes finds R Q. Its distance from R is the angle of Rᵀ R Q = Q.",
    ),
    wrong={"the turn between the views": 20.0, "the difference": 160.0, "nothing": 0.0, "the sum": 200.0},
)


# --- 10.6: contraction --------------------------------------------------------------------------------------


def factor_of_contraction(answer, generator):
    factor = tensor(answer, "the factor", ()).double()
    if abs(float(factor) - 0.5) < 1e-6:
        return "the distances become half as long, and the loss squares them"
    return near(factor, 0.25, "the factor")


CONTRACTION = Exercise(
    "10.6",
    "Contraction",
    kind="algebra",
    minutes=10,
    function=False,
    checks={"the factor of the consistency loss": factor_of_contraction},
    hints=(
        "A distance in the picture is nearly f / Z times the distance in space, with Z the distance of the object.",
        "All distances become half as long. The loss is the mean of squared distances.",
    ),
    wrong={"not squared": 0.5, "unchanged": 1.0, "doubled": 4.0, "a cube": math.pow(0.5, 3)},
)


EXERCISES = [GLUED, PEAKS, EXPECTATION, LIFTING, CONSISTENCY, PROCRUSTES, WRONG_NAMES, CONTRACTION]
