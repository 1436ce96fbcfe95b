"""Chapter 6: how many handles, all together, weighed wishes, folding, the gradient, three vertices, a skin."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.exercises.engine import Exercise
from lib.exercises.properties import near, tensor


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def surface(generator: torch.Generator, vertices: int = 9, handles: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A (K, V), L (V, V) and T (V, 3) of a small closed chain; its weights differ, so that L is symmetric only."""
    weights = 0.5 + torch.rand(vertices, generator=generator, dtype=torch.float64)
    L = torch.zeros(vertices, vertices, dtype=torch.float64)
    for i, weight in enumerate(weights):
        j = (i + 1) % vertices
        L[i, i] += weight
        L[j, j] += weight
        L[i, j] -= weight
        L[j, i] -= weight
    return normal(generator, handles, vertices).softmax(1), L, normal(generator, vertices, 3)


def layer(A: Tensor, targets: Tensor, L: Tensor, T: Tensor, w: float = 1.0) -> Tensor:
    return torch.linalg.solve(L.T @ L + w * A.T @ A, L.T @ L @ T + w * A.T @ targets)


# --- 6.A: how many handles ----------------------------------------------------------------------------------


def least_counts(answer, generator):
    one, two = tensor(answer, "your two numbers", (2,)).double().tolist()
    if (one, two) == (3, 6):
        return "x, y and z share the matrix. How many columns like $x$ must be held?"
    if one == 642:
        return "the Laplacian holds all ways of moving but one. Which one does it not hold?"
    return near([one, two], [1.0, 2.0], "the numbers for one piece and for two")


COUNTS = Exercise(
    "6.A",
    "How many handles?",
    kind="predict",
    minutes=2,
    function=False,
    checks={"one piece, two pieces": least_counts},
    hints=(
        "Which vectors x have L x = 0 on a mesh in one piece? And on a mesh of two pieces?",
        "On each piece x may be a constant of its own. One handle sees one constant.",
    ),
    wrong={"three each": (3, 6), "one for both": (1, 1), "as many as vertices": (642, 642), "no handle": (0, 0)},
)


# --- 6.B: all together --------------------------------------------------------------------------------------


def way_of_a_vertex(answer, generator):
    way = tensor(answer, "the way", ()).double()
    if abs(float(way) - 0.15) < 1e-6:
        return "the vertex follows several handles, and its row of D sums to one"
    return near(way, 0.3, "the way")


TOGETHER = Exercise(
    "6.B",
    "All together",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the way of the vertex": way_of_a_vertex},
    hints=(
        "A vertex moves by the sum over handles k of D_vk Δ_k.",
        "All Δ_k are the same arrow. What is the sum of a row of D?",
    ),
    wrong={"half of it": 0.15, "sixteen times": 4.8, "nothing": 0.0},
)


# --- 6.1: weighed wishes ------------------------------------------------------------------------------------


def agrees(answer, generator):
    A, L, T = surface(generator)
    targets = A @ T + normal(generator, 3, 3)
    for w in (1.0, 0.3, 7.0):
        problem = near(answer(A, targets, L, T, w), layer(A, targets, L, T, w), f"w = {w}: the vertices")
        if problem:
            return problem
    return None


def stationary(answer, generator):
    A, L, T = surface(generator)
    targets = A @ T + normal(generator, 3, 3)
    V = tensor(answer(A, targets, L, T, 2.5), "the vertices", tuple(T.shape)).double()
    slope = L.T @ (L @ (V - T)) + 2.5 * A.T @ (A @ V - targets)
    return near(slope, torch.zeros_like(slope), "the derivative of the energy at your vertices")


def heavy_wish(answer, generator):
    A, L, T = surface(generator)
    targets = A @ T + normal(generator, 3, 3)
    V = tensor(answer(A, targets, L, T, 1e6), "the vertices", tuple(T.shape)).double()
    return near(A @ V, targets, "w = 1000000: the handles, which must arrive", 1e-3)


WEIGHED = Exercise(
    "6.1",
    "Weighed wishes",
    kind="code",
    minutes=15,
    checks={"the energy's minimum": stationary, "a heavy wish arrives": heavy_wish, "three weights": agrees},
    hints=(
        "Set the derivative to zero: LᵀL (V − T) + w Aᵀ(A V − H) = 0.",
        "The matrix is LᵀL + w AᵀA, the right side LᵀL T + w AᵀH.",
    ),
    wrong={
        "no weight": lambda A, H, L, T, w: layer(A, H, L, T),
        "only in the matrix": lambda A, H, L, T, w: torch.linalg.solve(L.T @ L + w * A.T @ A, L.T @ L @ T + A.T @ H),
        "the weight squared": lambda A, H, L, T, w: layer(A, H, L, T, w * w),
        "weighs the energy": lambda A, H, L, T, w: layer(A, H, L, T, 1 / w),
    },
)


# --- 6.2: fold ----------------------------------------------------------------------------------------------


def folded(A: Tensor, L: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    W = L.T @ L + A.T @ A
    return torch.linalg.solve(W, L.T @ L @ T), torch.linalg.solve(W, A.T)


def same_as_the_solve(answer, generator):
    A, L, T = surface(generator)
    C, D = answer(A, L, T)
    C, D = tensor(C, "C", (9, 3)).double(), tensor(D, "D", (9, 3)).double()
    targets = A @ T + normal(generator, 3, 3)
    return near(C + D @ targets, layer(A, targets, L, T), "C + D H")


def rows_sum_to_one(answer, generator):
    A, L, T = surface(generator)
    _, D = answer(A, L, T)
    return near(tensor(D, "D", (9, 3)).sum(1), torch.ones(9), "the sums of the rows of D")


FOLD = Exercise(
    "6.2",
    "Fold the layer",
    kind="code",
    minutes=15,
    checks={"rows of D sum to one": rows_sum_to_one, "C + D H is the solve": same_as_the_solve},
    hints=(
        "Both have the same matrix W = LᵀL + AᵀA on their left.",
        "C = W⁻¹ LᵀL T and D = W⁻¹ Aᵀ. `torch.linalg.solve(W, right)` gives W⁻¹ right.",
    ),
    wrong={
        "C is the template": lambda A, L, T: (T, folded(A, L, T)[1]),
        "D is A transposed": lambda A, L, T: (folded(A, L, T)[0], A.T),
        "times W": lambda A, L, T: (folded(A, L, T)[0], (L.T @ L + A.T @ A) @ A.T),
        "L without its transpose": lambda A, L, T: (
            torch.linalg.solve(L + A.T @ A, L @ T),
            torch.linalg.solve(L + A.T @ A, A.T @ torch.eye(3).double() * 1.1),
        ),
    },
)


# --- 6.3: the gradient of the offsets -----------------------------------------------------------------------


def equals_autograd(answer, generator):
    A, L, T = surface(generator)
    offsets = normal(generator, 3, 3).requires_grad_()
    G = normal(generator, 9, 3)
    (G * layer(A, A @ T + offsets, L, T)).sum().backward()
    return near(answer(G, A, L), offsets.grad, "the gradient for the offsets")


def all_together(answer, generator):
    A, L, _ = surface(generator)
    G = normal(generator, 9, 3)
    found = tensor(answer(G, A, L), "the gradient", (3, 3)).double()
    return near(found.sum(0), G.sum(0), "summed over handles, which is the slope when all move together")


GRADIENT = Exercise(
    "6.3",
    "The gradient of the offsets",
    kind="code",
    minutes=15,
    checks={"all handles together": all_together, "autograd's": equals_autograd},
    hints=(
        "V = T + D Δ with D = W⁻¹ Aᵀ. If V = D Δ, which matrix takes ∂g/∂V to ∂g/∂Δ?",
        "Dᵀ = A W⁻¹, because W is symmetric. Solve W X = G once, and multiply by A.",
    ),
    wrong={
        "no solve": lambda G, A, L: A @ G,
        "the other sign": lambda G, A, L: -A @ torch.linalg.solve(L.T @ L + A.T @ A, G),
        "times W": lambda G, A, L: A @ (L.T @ L + A.T @ A) @ G,
        "doubled": lambda G, A, L: 2 * A @ torch.linalg.solve(L.T @ L + A.T @ A, G),
    },
)


# --- 6.4: three vertices ------------------------------------------------------------------------------------


def places_of_three(answer, generator):
    places = tensor(answer, "your three places", (3,)).double()
    if torch.allclose(places, torch.tensor([0.0, 2.0, 4.0]).double()):
        return "this is where the handles wish to be. The energy holds them back"
    if torch.allclose(places, torch.tensor([0.0, 1.0, 2.0]).double()):
        return "this is the template, but the wish pulls"
    return near(places, [0.5, 2.0, 3.5], "the places", 1e-6)


THREE = Exercise(
    "6.4",
    "Three vertices by hand",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"the places": places_of_three},
    hints=(
        "Write V = T + X. By symmetry about the middle, X = (1 − p, 1, 1 + p) with one unknown p.",
        "L X = (−p, 0, p), so the first term is p². The wishes are X₁ = 0 and X₃ = 2: the second term is (1 − p)².",
    ),
    wrong={"the wishes": (0, 2, 4), "the template": (0, 1, 2), "no symmetry": (0.5, 1, 3.5), "soft": (0.75, 2, 3.25)},
)


# --- 6.5: weights for a skin --------------------------------------------------------------------------------


def project(row: Tensor) -> Tensor:
    """The nearest vector that is positive and sums to one (Held, Wolfe and Crowder, 1974)."""
    ordered = row.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(row) + 1, dtype=row.dtype)
    return (row - excess[ordered > excess][-1]).clamp_min(0)


def allowed(answer, generator):
    for _ in range(6):
        row = 0.3 * normal(generator, 8) + 0.125
        found = tensor(answer(row), "the weights", (8,)).double()
        if found.min() < -1e-9:
            return f"a weight is negative: {float(found.min()):.3f}"
        problem = near(found.sum(), 1.0, "the sum of the weights")
        if problem:
            return problem
    return None


def nearest(answer, generator):
    for _ in range(6):
        row = 0.3 * normal(generator, 8) + 0.125
        found = tensor(answer(row), "the weights", (8,)).double()
        best = project(row)
        mine, least = float((found - row).norm()), float((best - row).norm())
        if mine > least + 1e-6:
            return f"your weights are {mine:.3f} away from the row; the nearest allowed ones are {least:.3f} away"
    return None


def kept(answer, generator):
    row = normal(generator, 8).softmax(0)
    return near(answer(row), row, "a row that is allowed already", 1e-6)


SKIN = Exercise(
    "6.5",
    "Weights for a skin",
    kind="code",
    minutes=20,
    checks={"positive, and sum to one": allowed, "an allowed row stays": kept, "the nearest": nearest},
    hints=(
        "The nearest allowed row is max(row − τ, 0) for one number τ. Which τ makes the sum one?",
        "The sum falls with τ. Halve an interval that holds τ, from min(row) − 1 to max(row), fifty times.",
    ),
    wrong={
        "cut and divided": lambda row: row.clamp_min(0) / row.clamp_min(0).sum(),
        "softmax": lambda row: row.softmax(0),
        "shifted": lambda row: row + (1 - row.sum()) / len(row),
        "only the largest": lambda row: (row == row.max()).double(),
    },
)


EXERCISES = [COUNTS, TOGETHER, WEIGHED, FOLD, GRADIENT, THREE, SKIN]
