"""Chapter 3: the frames, quaternions, alignment with weights, and what a camera cannot tell."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.datasets.synthetic import creatures
from lib.estimation import pose
from lib.exercises.engine import Exercise
from lib.exercises.properties import between, near, tensor
from lib.geometry import alignment, rotations
from lib.geometry.cameras import Pinhole, WeakPerspective


@cache
def keypoints() -> Tensor:
    """The horse's keypoints (K, 3) about their mean, in double precision."""
    horse = creatures.template("quadruped")
    points = horse.verts[horse.keypoint_vertices].double()
    return points - points.mean(0)


def unit(count: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=-1)


# --- 3.A: the first row of R --------------------------------------------------------------------------------


def points_to_the_right(answer, generator):
    row = tensor(answer, "the row", (3,)).double()
    if bool((row == torch.tensor([0.0, 0.0, 1.0])).all()):
        return "this is the horse's right. The camera faces the horse, so its right is the other way"
    return near(row, torch.tensor([0.0, 0.0, -1.0]), "the row")


WHICH_WAY_IS_RIGHT = Exercise(
    "3.A",
    "Which way is right?",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the world direction to the picture's right": points_to_the_right},
    hints=(
        "Stand in front of a horse and look at its face. Is the horse's right side on your right or on your left?",
        "The world's z axis points to the horse's right.",
    ),
    wrong={
        "the horse's right": (0.0, 0.0, 1.0),
        "ahead": (1.0, 0.0, 0.0),
        "up": (0.0, 1.0, 0.0),
        "two numbers": (0.0, -1.0),
    },
)


# --- 3.B: a quarter turn ------------------------------------------------------------------------------------


def of_length_one(answer, generator):
    return near(tensor(answer, "the quaternion", (4,)).double().norm(), 1, "its length", 0.02)


def turns_by_a_quarter(answer, generator):
    yours = F.normalize(tensor(answer, "the quaternion", (4,)).double(), dim=-1)
    nose = rotations.quaternion_to_matrix(yours) @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    return near(nose, expected, "where the direction ahead, (1, 0, 0), goes", 0.02)


QUARTER_TURN = Exercise(
    "3.B",
    "A quarter turn",
    kind="predict",
    minutes=3,
    function=False,
    checks={"it has length 1": of_length_one, "it turns by 90° about y": turns_by_a_quarter},
    hints=(
        "Put θ = 90° into q = (cos θ/2, sin θ/2 · n). What is the axis n?",
        "cos 45° = sin 45° = 0.7071, and n = (0, 1, 0).",
    ),
    wrong={
        "the whole angle": (0.0, 0.0, 1.0, 0.0),
        "another axis": (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0),
        "the real part last": (0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5)),
        "the other way": (math.sqrt(0.5), 0.0, -math.sqrt(0.5), 0.0),
        "not of length one": (1.0, 0.0, 1.0, 0.0),
    },
)


# --- 3.C: twice as large, twice as far ----------------------------------------------------------------------


def factor(answer, generator):
    return near(tensor(answer, "the factor", ()), 1, "the factor")


TWICE_AS_FAR = Exercise(
    "3.C",
    "Twice as large, twice as far",
    kind="predict",
    minutes=1,
    function=False,
    checks={"how much larger": factor},
    hints=("Write 2X for X and 2T for T in u = f (R X + T)_xy / z. Which factors cancel?",),
    wrong={"twice": 2, "half": 0.5, "four times": 4},
)


# --- 3.1: multiply quaternions ------------------------------------------------------------------------------

ONE, UNIT_I, UNIT_J, UNIT_K = torch.eye(4, dtype=torch.float64)


def rules(answer, generator):
    for left, right, expected, name in [
        (UNIT_I, UNIT_J, UNIT_K, "i j"),
        (UNIT_J, UNIT_K, UNIT_I, "j k"),
        (UNIT_K, UNIT_I, UNIT_J, "k i"),
        (UNIT_J, UNIT_I, -UNIT_K, "j i"),
        (UNIT_I, UNIT_I, -ONE, "i i"),
    ]:
        if wrong := near(answer(left, right), expected, f"the product {name}"):
            return wrong
    return None


def neutral(answer, generator):
    (q,) = unit(1, generator)
    return near(answer(ONE, q), q, "1 times q") or near(answer(q, ONE), q, "q times 1")


def lengths_multiply(answer, generator):
    p, q = 2 * unit(1, generator)[0], 3 * unit(1, generator)[0]
    return near(tensor(answer(p, q), "the product", (4,)).norm(), 6, "the length of a product of lengths 2 and 3")


def first_q_then_p(answer, generator):
    p, q = unit(2, generator)
    yours = rotations.quaternion_to_matrix(F.normalize(tensor(answer(p, q), "p q", (4,)), dim=-1))
    expected = rotations.quaternion_to_matrix(p) @ rotations.quaternion_to_matrix(q)
    return near(yours, expected, "the matrix of p q, against R(p) R(q)")


def mirror_rule(answer, generator):
    (q,) = unit(1, generator)
    w, x, y, z = q
    yours = tensor(answer(tensor(answer(UNIT_I, q), "i q", (4,)), UNIT_K), "i q k", (4,))
    return near(yours, -torch.stack([y, z, w, x]), "i q k, which is the mirrored camera (y, z, w, x) up to its sign")


def product(p, q):
    w = p[0] * q[0] - p[1:] @ q[1:]
    return torch.cat([w[None], p[0] * q[1:] + q[0] * p[1:] + torch.linalg.cross(p[1:], q[1:])])


QUATERNION_PRODUCT = Exercise(
    "3.1",
    "Multiply quaternions",
    kind="code",
    minutes=25,
    checks={
        "the rules for i, j, k": rules,
        "1 changes nothing": neutral,
        "lengths multiply": lengths_multiply,
        "first q, then p": first_q_then_p,
        "the mirrored camera": mirror_rule,
    },
    hints=(
        "Write both as w + x i + y j + z k, multiply out all sixteen terms, and sort them by 1, i, j, k.",
        "With vector parts u and v: (w₁ w₂ − u·v,  w₁ v + w₂ u + u × v).",
    ),
    wrong={
        "the factors exchanged": lambda p, q: product(q, p),
        "no cross product": lambda p, q: torch.cat([(p[0] * q[0] - p[1:] @ q[1:])[None], p[0] * q[1:] + q[0] * p[1:]]),
        "plus in the real part": lambda p, q: (
            product(p, q) + torch.cat([2 * (p[1:] @ q[1:])[None], torch.zeros(3).to(p)])
        ),
        "entry by entry": lambda p, q: p * q,
        "made of length one": lambda p, q: F.normalize(product(p, q), dim=0),
        "the sign made positive": lambda p, q: product(p, q) * (1 if product(p, q)[0] >= 0 else -1),
        "the second conjugated": lambda p, q: product(p, q * torch.tensor([1, -1, -1, -1]).to(q)),
        "the sum": lambda p, q: p + q,
    },
)


# --- 3.2: the other start -----------------------------------------------------------------------------------


@cache
def random_starts(seed: int) -> tuple[WeakPerspective, WeakPerspective, Tensor, Tensor]:
    """True cameras, random starts, and the correspondences of 16 views of the horse."""
    generator, points = torch.Generator().manual_seed(seed), keypoints()
    q = rotations.random_quaternions(16, generator, dtype=torch.float64)
    truth = WeakPerspective(torch.full((16,), 0.8, dtype=torch.float64), torch.zeros(16, 2).double(), q)
    u = truth.project(points[None])[..., :2]
    X = points.expand(16, -1, -1)
    spreads = [(cloud - cloud.mean(1, keepdim=True)).square().mean((1, 2)).sqrt() for cloud in (u, X)]
    guess = rotations.random_quaternions(16, generator, dtype=torch.float64)
    return truth, WeakPerspective(spreads[0] / spreads[1], u.mean(1), guess), X, u


def _seed(generator) -> int:
    return int(torch.randint(1000, (), generator=generator))


def finds_every_view(answer, generator):
    truth, start, X, u = random_starts(_seed(generator))
    found = answer(start, X, u)
    if not isinstance(found, WeakPerspective):
        return f"the answer must be a WeakPerspective, got {type(found).__name__}"
    error = rotations.rotation_angle(found.rotation, truth.rotation).rad2deg()
    hits = int((error < 10).sum())
    return None if hits == 16 else f"views found within 10°: yours {hits} of 16, expected 16"


def keeps_good_ends(answer, generator):
    truth, _, X, u = random_starts(_seed(generator))
    found = answer(truth, X, u)
    if not isinstance(found, WeakPerspective):
        return f"the answer must be a WeakPerspective, got {type(found).__name__}"
    error = rotations.rotation_angle(found.rotation, truth.rotation).rad2deg().max()
    return near(error, 0, "started at the truth: the worst error in degrees", 0.1)


MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)


def twin_of(camera: WeakPerspective) -> WeakPerspective:
    twin = MIRROR[:, None] * camera.rotation * MIRROR
    return WeakPerspective(camera.scale, camera.translation, rotations.matrix_to_quaternion(twin))


def refine_at(start, X, u):
    return pose.refine_weak_perspective(start, X, u)


def pick(better, first, second):
    pairs = zip(
        (first.scale, first.translation, first.quaternion),
        (second.scale, second.translation, second.quaternion),
        strict=True,
    )
    return WeakPerspective(*(torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


def both_ends(start, X, u):
    first, error = refine_at(start, X, u)
    second, other = refine_at(twin_of(first), X, u)
    return first, error, second, other


def one_run(start, X, u):
    return refine_at(start, X, u)[0]


def always_the_twin(start, X, u):
    return both_ends(start, X, u)[2]


def the_worse(start, X, u):
    first, error, second, other = both_ends(start, X, u)
    return pick(other > error, first, second)


def twin_unrefined(start, X, u):
    return twin_of(one_run(start, X, u))


OTHER_START = Exercise(
    "3.2",
    "The other start",
    kind="experiment",
    minutes=20,
    seconds=60,
    checks={"every view is found": finds_every_view, "a good end is kept": keeps_good_ends},
    hints=(
        "`refine_weak_perspective` returns the camera and its error. Run it, build the twin of its end, run it again.",
        "The twin of R is `mirror[:, None] * R * mirror`. Choose view by view, with torch.where on the two errors.",
    ),
    wrong={
        "one run only": one_run,
        "always the second run": always_the_twin,
        "the worse of the two": the_worse,
        "the twin itself": twin_unrefined,
        "nothing": lambda start, X, u: start,
    },
)


# --- 3.3: Procrustes with weights ---------------------------------------------------------------------------


def clouds(generator, noise=0.05):
    """Draw a cloud X, a turned, shifted, noisy copy Y (12, 3), and weights (12,) above 0."""
    X, off = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64)
    turn = rotations.random_rotations(1, generator, dtype=torch.float64)[0]
    shift = torch.randn(3, generator=generator, dtype=torch.float64)
    weights = 0.1 + torch.rand(12, generator=generator, dtype=torch.float64)
    return X, X @ turn.T + shift + noise * off, weights


def _pair(answer, X, Y, w):
    found = answer(X, Y, w)
    if not isinstance(found, tuple | list) or len(found) != 2:
        return None, f"the answer must be the pair (R, t), got {type(found).__name__}"
    return (tensor(found[0], "R", (3, 3)), tensor(found[1], "t", (3,))), None


def without_noise(answer, generator):
    X, Y, w = clouds(generator, noise=0.0)
    found, wrong = _pair(answer, X, Y, w)
    return wrong or near(X @ found[0].T + found[1], Y, "without noise: where the points go")


def weights_count(answer, generator):
    X, Y, w = clouds(generator, noise=0.5)
    found, wrong = _pair(answer, X, Y, w)
    R, t, _ = alignment.procrustes(X[None], Y[None], w[None])
    return wrong or near(found[0], R[0], "R, with noise and uneven weights") or near(found[1], t[0], "t")


def weight_zero(answer, generator):
    X, Y, w = clouds(generator, noise=0.0)
    w[3] = 0
    Y[3] += 100
    found, wrong = _pair(answer, X, Y, w)
    return wrong or near((X @ found[0].T + found[1])[4:], Y[4:], "with an outlier of weight 0: where the others go")


def never_a_reflection(answer, generator):
    X, _, w = clouds(generator)
    Y = X * torch.tensor([1.0, 1.0, -1.0])
    found, wrong = _pair(answer, X, Y, w)
    return wrong or near(torch.linalg.det(found[0]), 1, "Y is X mirrored: the determinant of R")


def aligned(X, Y, w, of_means=True, of_products=True, keep_sign=True):
    w = w / w.sum()
    even = torch.full_like(w, 1 / len(w))
    X_mean, Y_mean = ((w if of_means else even)[:, None] * X).sum(0), ((w if of_means else even)[:, None] * Y).sum(0)
    Z = (Y - Y_mean).T @ ((w if of_products else even)[:, None] * (X - X_mean))
    U, _, Vt = torch.linalg.svd(Z)
    signs = torch.ones(3).to(X)
    signs[2] = torch.linalg.det(U @ Vt) if keep_sign else 1
    R = U @ torch.diag(signs) @ Vt
    return R, Y_mean - R @ X_mean


def turned_back(X, Y, w):
    R, t = aligned(X, Y, w)
    return R.T, t


WEIGHTED = Exercise(
    "3.3",
    "Procrustes with weights",
    kind="code",
    minutes=20,
    checks={
        "exact without noise": without_noise,
        "uneven weights": weights_count,
        "weight 0 leaves a point out": weight_zero,
        "never a reflection": never_a_reflection,
    },
    hints=(
        "The weights enter twice: in the two means, and in Z.",
        "Weighted mean: (w[:, None] * X).sum(0) / w.sum(). Then Z = Σ w_i Y_i X_iᵀ of the centred points.",
    ),
    wrong={
        "no weights": lambda X, Y, w: aligned(X, Y, torch.ones_like(w)),
        "weights in the means only": lambda X, Y, w: aligned(X, Y, w, of_products=False),
        "weights in Z only": lambda X, Y, w: aligned(X, Y, w, of_means=False),
        "squared weights": lambda X, Y, w: aligned(X, Y, w.square()),
        "a reflection where it fits": lambda X, Y, w: aligned(X, Y, w, keep_sign=False),
        "the inverse rotation": turned_back,
        "R only": lambda X, Y, w: aligned(X, Y, w)[0],
    },
)


# --- 3.4: the error of weak perspective ---------------------------------------------------------------------


def numbers(generator):
    """A place in the image, a depth behind the centre, and a distance."""
    u, depth, distance = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    return 0.2 + u, 1.2 * depth - 0.6, 1.5 + 3 * distance


def at_hand(answer, generator):
    return near(answer(0.6, 0.5, 2.5), -0.1, "u = 0.6, depth 0.5, distance 2.5")


def no_depth(answer, generator):
    u, _, distance = numbers(generator)
    return near(answer(u, 0.0, distance), 0, f"depth 0, u = {u:.2f}")


def as_the_cameras(answer, generator):
    u, depth, distance = numbers(generator)
    scale = 0.8
    X = torch.tensor([[[u / scale, 0.0, depth]]], dtype=torch.float64)
    eye, ahead = torch.eye(3).double()[None], torch.tensor([[0.0, 0.0, distance]]).double()
    there = Pinhole(torch.tensor([scale * distance]).double(), eye, ahead).project(X)[0, 0, 0]
    return near(answer(u, depth, distance), there - u, f"u = {u:.2f}, depth {depth:.2f}, distance {distance:.2f}")


ERROR_OF_WEAK_PERSPECTIVE = Exercise(
    "3.4",
    "The error of weak perspective",
    kind="algebra",
    minutes=15,
    checks={
        "a value by hand": at_hand,
        "a point at the centre's depth": no_depth,
        "what the two cameras see": as_the_cameras,
    },
    hints=(
        "Call the point (x, ·, distance + depth) in the camera's frame. What is f if both cameras have the scale s?",
        "f = s · distance: the pinhole sees s · distance · x / (distance + depth), weak perspective sees u = s x.",
    ),
    wrong={
        "the rule of thumb": lambda u, depth, distance: -u * depth / distance,
        "the other sign": lambda u, depth, distance: u * depth / (distance + depth),
        "the place, not the difference": lambda u, depth, distance: u * distance / (distance + depth),
        "no place": lambda u, depth, distance: -depth / (distance + depth),
        "before and behind exchanged": lambda u, depth, distance: u * depth / (distance - depth),
        "a constant": lambda u, depth, distance: -0.1,
        "nothing": lambda u, depth, distance: 0.0,
    },
)


# --- 3.5: thick and thin ------------------------------------------------------------------------------------


def share(answer, thickness):
    value = tensor(answer(thickness), f"thickness {thickness:g}: the share", ())
    return value, between(value, 0, 1, f"thickness {thickness:g}: the share")


def thin(answer, generator):
    value, wrong = share(answer, 0.3)
    return wrong or between(value, 0.28, 0.72, "thickness 0.3")


def normal(answer, generator):
    value, wrong = share(answer, 1.0)
    return wrong or between(value, 0.6, 0.93, "thickness 1")


def thick(answer, generator):
    value, wrong = share(answer, 3.0)
    return wrong or between(value, 0.97, 1, "thickness 3")


THICK_AND_THIN = Exercise(
    "3.5",
    "Thick and thin",
    kind="experiment",
    minutes=25,
    seconds=60,
    checks={"a thin horse": thin, "the horse as it is": normal, "a thick horse": thick},
    hints=(
        "Multiply the z of `points` by the thickness, project with the true cameras, refine from the random starts.",
        "Count the views whose rotation is within 10° of the truth, and divide by their number.",
    ),
    wrong={
        "in percent": lambda thickness: 100 * min(0.5 + thickness / 4, 1),
        "the other way round": lambda thickness: {0.3: 1.0, 1.0: 0.77}.get(thickness, 0.5),
        "all the same": lambda thickness: 0.77,
        "all found": lambda thickness: 1.0,
        "none": lambda thickness: 0.0,
        "no number": lambda thickness: None,
    },
)


# --- 3.6: reverse the depth ---------------------------------------------------------------------------------


def a_view(generator):
    return keypoints(), rotations.random_rotations(1, generator, dtype=torch.float64)[0]


def same_image(answer, generator):
    X, R = a_view(generator)
    yours = tensor(answer(X, R), "the reversed points", tuple(X.shape))
    return near((yours @ R.T)[:, :2], (X @ R.T)[:, :2], "their image under weak perspective")


def depth_reversed(answer, generator):
    X, R = a_view(generator)
    yours = tensor(answer(X, R), "the reversed points", tuple(X.shape))
    return near((yours @ R.T)[:, 2], -(X @ R.T)[:, 2], "their depth")


def twice_is_nothing(answer, generator):
    X, R = a_view(generator)
    return near(answer(answer(X, R), R), X, "the points, reversed twice")


REVERSE = Exercise(
    "3.6",
    "Reverse the depth",
    kind="code",
    minutes=10,
    checks={
        "the same image": same_image,
        "the depth is reversed": depth_reversed,
        "twice is nothing": twice_is_nothing,
    },
    hints=(
        "Go to the camera's frame, change the sign of z, and go back.",
        "Points are rows: X @ R.T goes to the camera's frame, and multiplying by R (from the right) goes back.",
    ),
    wrong={
        "in the world": lambda X, R: X * MIRROR,
        "not back to the world": lambda X, R: X @ R.T * MIRROR,
        "back by the wrong matrix": lambda X, R: X @ R.T * MIRROR @ R.T,
        "all three reversed": lambda X, R: -X,
        "flat": lambda X, R: X @ R.T * torch.tensor([1.0, 1.0, 0.0]).double() @ R,
        "unchanged": lambda X, R: X.clone(),
    },
)


EXERCISES = [
    WHICH_WAY_IS_RIGHT,
    QUARTER_TURN,
    TWICE_AS_FAR,
    QUATERNION_PRODUCT,
    OTHER_START,
    WEIGHTED,
    ERROR_OF_WEAK_PERSPECTIVE,
    THICK_AND_THIN,
    REVERSE,
]
