"""Chapter 8: expected places, cameras and shapes from points, and gradients of a minimiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.exercises.engine import Exercise
from lib.exercises.properties import between, near, tensor
from lib.geometry.rotations import random_rotations
from lib.layers.heat_maps import soft_argmax

FLIP = torch.tensor([1.0, 1.0, -1.0]).diag()


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- 8.A: the twin's azimuth --------------------------------------------------------------------------------


def azimuth_of_the_twin(answer, generator):
    degrees = tensor(answer, "the azimuth", ()).double()
    if abs(float(degrees) - 60) < 1:
        return "this is the camera itself. Its twin reverses the depth"
    if abs(float(degrees) - 120) < 1:
        return "from 120° the horse heads the other way in the picture. Reversing the depth leaves the picture as it is"
    return near((degrees + 180) % 360 - 180, -60.0, "the azimuth")


TWIN = Exercise(
    "8.A",
    "The twin's azimuth",
    kind="predict",
    minutes=3,
    function=False,
    checks={"the azimuth of F R F, in degrees": azimuth_of_the_twin},
    hints=(
        "Seen from above, the camera walks on a circle around the horse. Before its flank (azimuth 0°) the nose points "
        "to the right. Walking on to azimuth 60° brings the nose towards the camera.",
        "The twin's nose must go away from the camera by as much as it came nearer.",
    ),
    wrong={"itself": 60.0, "the other side": 120.0, "behind": -120.0, "opposite": 180.0},
)


# --- 8.B: the price of bending ------------------------------------------------------------------------------


def enough_equations(answer, generator):
    count = tensor(answer, "the number of keypoints", ()).double()
    if abs(float(count) - 15) < 0.5:
        return "the camera has unknowns, too"
    if abs(float(count) - 36) < 0.5:
        return "every keypoint gives two equations, x and y"
    return near(count, 18.0, "the number of keypoints")


PRICE = Exercise(
    "8.B",
    "The price of bending",
    kind="predict",
    minutes=3,
    function=False,
    checks={"visible keypoints that give as many equations as there are unknowns": enough_equations},
    hints=(
        "Count the unknowns: 30 coefficients, and those of a weak-perspective camera.",
        "The camera has 6: three for the rotation, one for the scale, two for the shift.",
    ),
    wrong={"without the camera": 15, "one equation each": 36, "all keypoints": 19, "one less": 17},
)


# --- 8.1: the expected place --------------------------------------------------------------------------------


def one_sharp_map(answer, generator):
    scores = torch.zeros(1, 6, 10, dtype=torch.float64)
    scores[0, 1, 7] = 60
    return near(answer(scores), [[0.5, -0.5]], "the place of one high score, in row 1 of 6 and column 7 of 10")


def flat_map(answer, generator):
    return near(
        answer(torch.ones(2, 4, 8, dtype=torch.float64)), torch.zeros(2, 2), "the place if all scores are equal"
    )


def any_maps(answer, generator):
    scores = 2 * normal(generator, 5, 7, 9)
    return near(answer(scores), soft_argmax(scores[None])[0], "the places of random maps")


def large_scores(answer, generator):
    scores = 2 * normal(generator, 3, 5, 5)
    return near(answer(scores + 1000), soft_argmax(scores[None])[0], "the places if 1000 is added to all scores")


def expected(scores, corners=False, exchanged=False, safe=True):
    _, height, width = scores.shape
    p = scores.flatten(1).softmax(1) if safe else scores.flatten(1).exp() / scores.flatten(1).exp().sum(1, keepdim=True)
    p = p.view_as(scores)
    if corners:
        x, y = torch.linspace(-1, 1, width).double(), torch.linspace(-1, 1, height).double()
    else:
        x = (2 * torch.arange(width).double() + 1) / width - 1
        y = (2 * torch.arange(height).double() + 1) / height - 1
    places = torch.stack([(p.sum(1) * x).sum(1), (p.sum(2) * y).sum(1)], -1)
    return places.flip(-1) if exchanged else places


EXPECTED_PLACE = Exercise(
    "8.1",
    "The expected place",
    kind="code",
    minutes=15,
    checks={
        "one sharp map": one_sharp_map,
        "a flat map": flat_map,
        "random maps": any_maps,
        "large scores": large_scores,
    },
    hints=(
        "First a softmax over all places of a map, then the mean of the places' coordinates with these probabilities.",
        "scores.flatten(1).softmax(1) sums to one for each map. Column j lies at x = (2 j + 1) / width − 1.",
    ),
    wrong={
        "corners at ±1": lambda s: expected(s, corners=True),
        "y before x": lambda s: expected(s, exchanged=True),
        "exp overflows": lambda s: expected(s, safe=False),
        "the largest score": lambda s: expected(1000 * s),
        "softmax over rows only": lambda s: expected(s.softmax(1).log() * 0.5),
        "counted from 0 to 1": lambda s: (expected(s) + 1) / 2,
        "always the middle": lambda s: torch.zeros(len(s), 2).double(),
    },
)


# --- 8.2: scale and shift -----------------------------------------------------------------------------------


def fitting_problem(generator, noise=0.05):
    X, R = normal(generator, 12, 3), random_rotations(1, generator, dtype=torch.float64)[0]
    w = torch.rand(12, generator=generator, dtype=torch.float64) + 0.05
    u = 0.7 * X @ R[:2].T + torch.tensor([0.2, -0.1]).double() + noise * normal(generator, 12, 2)
    return X, u, w, R


def _scale_and_shift(answer, *arguments):
    try:
        s, t = answer(*arguments)
    except (TypeError, ValueError):
        return None, "return two things: the scale and the shift"
    return (tensor(s, "the scale", ()), tensor(t, "the shift", (2,))), None


def exact_points(answer, generator):
    X, u, w, R = fitting_problem(generator, noise=0.0)
    found, wrong = _scale_and_shift(answer, X, u, w, R)
    return wrong or near(found[0], 0.7, "the scale") or near(found[1], [0.2, -0.1], "the shift")


def least_squares(answer, generator):
    X, u, w, R = fitting_problem(generator)
    found, wrong = _scale_and_shift(answer, X, u, w, R)
    if wrong:
        return wrong
    error = lambda s, t: (w * (u - s * X @ R[:2].T - t).square().sum(1)).sum()  # noqa: E731
    best = error(*scale_and_shift(X, u, w, R))
    return between(error(*found), 0, float(best) * (1 + 1e-6), "with noise: the weighted squared error")


def hidden_points(answer, generator):
    X, u, w, R = fitting_problem(generator, noise=0.0)
    w[5] = 0
    u[5] += 3
    found, wrong = _scale_and_shift(answer, X, u, w, R)
    return wrong or near(found[0], 0.7, "with a hidden outlier: the scale")


def scale_and_shift(X, u, w, R, means=True, products=True, ratio=False):
    w = w / w.sum()
    even = torch.full_like(w, 1 / len(w))
    a, b = (w if means else even), (w if products else even)
    flat = X @ R[:2].T
    p, q = flat - a @ flat, u - a @ u
    if ratio:
        s = ((b[:, None] * q.square()).sum() / (b[:, None] * p.square()).sum()).sqrt()
    else:
        s = (b[:, None] * p * q).sum() / (b[:, None] * p.square()).sum()
    return s, a @ u - s * (a @ flat)


SCALE_AND_SHIFT = Exercise(
    "8.2",
    "Scale and shift for a known rotation",
    kind="code",
    minutes=20,
    checks={"exact without noise": exact_points, "least squares": least_squares, "hidden points": hidden_points},
    hints=(
        "The best shift makes the weighted means agree. So take the means away first, find s, and t last.",
        "With p and q the centred projections and points: s = Σ w p·q / Σ w p·p, and t = ū − s p̄.",
    ),
    wrong={
        "no weights": lambda X, u, w, R: scale_and_shift(X, u, torch.ones_like(w), R),
        "even means": lambda X, u, w, R: scale_and_shift(X, u, w, R, means=False),
        "even products": lambda X, u, w, R: scale_and_shift(X, u, w, R, products=False),
        "ratio of spreads": lambda X, u, w, R: scale_and_shift(X, u, w, R, ratio=True),
        "shift before scale": lambda X, u, w, R: (scale_and_shift(X, u, w, R)[0], (w / w.sum()) @ (u - X @ R[:2].T)),
        "only the scale": lambda X, u, w, R: scale_and_shift(X, u, w, R)[0],
    },
)


# --- 8.3: the implicit gradient -----------------------------------------------------------------------------


def quadratic_problem(generator, size=4, parameters=3):
    A = normal(generator, size, size)
    return A @ A.T + torch.eye(size).double(), normal(generator, size, parameters), normal(generator, size)


def in_one_dimension(answer, generator):
    H, mixed, wish = (torch.tensor(value).double() for value in ([[4.0]], [[-2.0]], [3.0]))
    return near(answer(H, mixed, wish), [1.5], "H = 4, mixed derivative −2, wish 3: the gradient")


def against_autograd(answer, generator):
    H, mixed, wish = quadratic_problem(generator)
    theta = normal(generator, mixed.shape[1]).requires_grad_()
    x = torch.linalg.solve(H, -mixed @ theta)  # the minimiser of xᵀ H x / 2 + xᵀ M θ
    (gradient,) = torch.autograd.grad(wish @ x, theta)
    return near(answer(H, mixed, wish), gradient, "for a quadratic function: the gradient")


def zero_wish(answer, generator):
    H, mixed, wish = quadratic_problem(generator)
    return near(answer(H, mixed, 0 * wish), torch.zeros(mixed.shape[1]), "for a wish of zero: the gradient")


def vector_jacobian(H, mixed, wish):
    return -mixed.T @ torch.linalg.solve(H, wish)


IMPLICIT = Exercise(
    "8.3",
    "From a wish to a gradient",
    kind="code",
    minutes=20,
    checks={"one dimension": in_one_dimension, "many dimensions": against_autograd, "no wish": zero_wish},
    hints=(
        "dx*/dθ = −H⁻¹ M is a matrix (D, P). The loss changes by wish · dx*.",
        "H is symmetric, so −wishᵀ H⁻¹ M = −(H⁻¹ wish)ᵀ M: one linear system for one vector is enough.",
    ),
    wrong={
        "the sign forgotten": lambda H, M, g: -vector_jacobian(H, M, g),
        "H instead of its inverse": lambda H, M, g: -M.T @ (H @ g),
        "H forgotten": lambda H, M, g: -M.T @ g,
        "only the diagonal": lambda H, M, g: -M.T @ (g / H.diagonal()),
        "one added": lambda H, M, g: vector_jacobian(H, M, g) + 1,
    },
)


# --- 8.4: another machine -----------------------------------------------------------------------------------


def cube_root(answer, generator):
    value = tensor(answer, "dx*/dθ", ()).double()
    if abs(float(value) + 1 / 12) < 1e-3:
        return "the sign: look at the minus before H⁻¹, and at the sign of the mixed derivative"
    return near(value, 1 / 12, "dx*/dθ at θ = 8", 1e-3)


CUBE_ROOT = Exercise(
    "8.4",
    "The machine for cube roots",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"the derivative at θ = 8": cube_root},
    hints=(
        "At the minimum x³ = θ. Differentiate f twice with respect to x, then put x³ = θ into the result.",
        "∂f/∂x = 6 x² (x³ − θ). So H = 12 x (x³ − θ) + 18 x⁴ = 18 x⁴, and the mixed derivative is −6 x².",
    ),
    wrong={"the sign": -1 / 12, "H upside down": 48.0, "the root itself": 2.0, "without H": 24.0},
)


# --- 8.5: the pull of the other places ----------------------------------------------------------------------


def score_needed(answer, generator):
    a = tensor(answer, "the score", ()).double()
    if abs(float(a) - math.log(0.95 / 0.05)) < 0.02:
        return "this is for two places. Here 255 others pull"
    if abs(float(a) - 0.95) < 1e-3:
        return "0.95 is the share. Which score makes a softmax over 256 places give it?"
    return between(a, 8.4, 8.6, "the score")


PULL = Exercise(
    "8.5",
    "The pull of the other places",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"the score": score_needed},
    hints=(
        "Let p be the probability of the one place q. The others share 1 − p evenly. The mean of all 256 places is 0.",
        "The expected place is p q − (1 − p) q / 255, nearly p q. And p = eᵃ / (eᵃ + 255).",
    ),
    wrong={"two places": math.log(19), "the share": 0.95, "without the logarithm": 4845.0, "base 10": 3.7},
)


# --- 8.6: the oracle ----------------------------------------------------------------------------------------


def oracle_inputs(generator):
    truth = random_rotations(6, generator, dtype=torch.float64)
    near_it = random_rotations(6, generator, dtype=torch.float64)
    return torch.cat([truth[:3], FLIP.double() @ truth[3:] @ FLIP.double()]), truth, near_it


def chooses_the_nearer(answer, generator):
    R, truth, _ = oracle_inputs(generator)
    return near(
        answer(R, truth), truth, "for cameras that are right, or the twin of what is right: the chosen rotations"
    )


def returns_one_of_two(answer, generator):
    _, truth, R = oracle_inputs(generator)
    return near(answer(R, truth), oracle(R, truth), "for random cameras: the chosen rotations")


def oracle(R, truth, flip=FLIP):
    twin = flip.to(R) @ R @ flip.to(R)
    trace = lambda A: (A * truth).sum((-1, -2))  # noqa: E731
    return torch.where((trace(twin) > trace(R))[:, None, None], twin, R)


ORACLE = Exercise(
    "8.6",
    "The oracle",
    kind="code",
    minutes=15,
    checks={"right cameras and their twins": chooses_the_nearer, "random cameras": returns_one_of_two},
    hints=(
        "The twin of R is F R F with F = diag(1, 1, −1). Compare the angles of both to the truth, picture by picture.",
        "A smaller angle is a larger trace of Rᵀ R_true. torch.where chooses, with the condition as (B, 1, 1).",
    ),
    wrong={
        "always the first": lambda R, T: R.clone(),
        "always the twin": lambda R, T: FLIP.double() @ R @ FLIP.double(),
        "the truth itself": lambda R, T: T.clone(),
        "flipped on one side": lambda R, T: torch.where(
            ((FLIP.double() @ R - T).norm(dim=(1, 2)) < (R - T).norm(dim=(1, 2)))[:, None, None], FLIP.double() @ R, R
        ),
        "the farther": lambda R, T: oracle(R, -T),
        "one choice for all": lambda R, T: (
            R if (R * T).sum() > (FLIP.double() @ R @ FLIP.double() * T).sum() else FLIP.double() @ R @ FLIP.double()
        ),
    },
)


EXERCISES = [TWIN, PRICE, EXPECTED_PLACE, SCALE_AND_SHIFT, IMPLICIT, CUBE_ROOT, PULL, ORACLE]
