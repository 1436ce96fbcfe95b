"""Chapter 5: ranks, expected vertices, mirrored cameras, counted keypoints, and losses in doubt."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib import metrics
from lib.exercises.engine import Exercise
from lib.exercises.properties import finite, near, tensor
from lib.geometry.cameras import WeakPerspective
from lib.geometry.rotations import matrix_to_quaternion, random_rotations
from lib.losses.keypoints import assignment_entropy


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _pair(answer, what):
    try:
        first, second = answer
    except (TypeError, ValueError):
        return None, f"return two things: {what[0]} and {what[1]}"
    return (first, second), None


# --- 5.A: two other ranks -----------------------------------------------------------------------------------


def rank_before_centring(answer, generator):
    ranks = tensor(answer, "the two ranks", (2,))
    if abs(float(ranks[0]) - 3) < 0.5:
        return "this is the rank with the means taken away. The shifts t_i add something"
    return near(ranks[0], 4.0, "the rank before centring")


def rank_of_a_flat_horse(answer, generator):
    ranks = tensor(answer, "the two ranks", (2,))
    if abs(float(ranks[1]) - 3) < 0.5:
        return "all points of cardboard lie in a plane: how many coordinates has each?"
    return near(ranks[1], 2.0, "the rank of the flat horse")


RANKS = Exercise(
    "5.A",
    "Two other ranks",
    kind="predict",
    minutes=3,
    function=False,
    checks={"before centring": rank_before_centring, "cut from cardboard": rank_of_a_flat_horse},
    hints=(
        "Write W as a product again. How many columns has the left factor, and how many rows the right one?",
        "Before centring, each row of W has t_i added everywhere: one more column, t, beside a row of ones.",
    ),
    wrong={"three and three": [3, 3], "exchanged": [2, 4], "one more each": [4, 3], "one less each": [3, 2]},
)


# --- 5.B: undecided between two -----------------------------------------------------------------------------


def entropy_of_two(answer, generator):
    value = float(tensor(answer, "the entropy", ()))
    if abs(value - 1) < 1e-3:
        return "this is in bits. The course's logarithm is the natural one"
    if abs(value - math.log(642)) < 1e-2:
        return "this is the entropy at the start, of 642 equal weights"
    return near(value, math.log(2), "the entropy", 2e-3)


TWO = Exercise(
    "5.B",
    "Undecided between two",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the entropy of one half and one half": entropy_of_two},
    hints=("Put 1/2 twice into −Σ A ln A. All other terms are zero.",),
    wrong={"bits": 1.0, "decided": 0.0, "the start's": math.log(642), "one term only": 0.5 * math.log(2)},
)


# --- 5.1: expected vertices ---------------------------------------------------------------------------------


def assignment(generator, scale=1.0):
    return scale * normal(generator, 3, 20), normal(generator, 20, 3)


def _expected(answer, logits, verts):
    found, wrong = _pair(answer(logits, verts), ("the keypoints", "the mean entropy"))
    if wrong:
        return None, wrong
    keypoints = tensor(found[0], "the keypoints", (len(logits), 3))
    return (keypoints, tensor(found[1], "the mean entropy", ())), None


def start_in_the_middle(answer, generator):
    _, verts = assignment(generator)
    found, wrong = _expected(answer, torch.zeros(3, 20, dtype=torch.float64), verts)
    return wrong or (
        near(found[0], verts.mean(0).expand(3, 3), "equal logits: the keypoints")
        or near(found[1], math.log(20), "equal logits: the entropy")
    )


def any_logits(answer, generator):
    logits, verts = assignment(generator)
    found, wrong = _expected(answer, logits, verts)
    A = logits.softmax(-1)
    return wrong or (
        near(found[0], A @ verts, "the keypoints") or near(found[1], assignment_entropy(A), "the mean entropy")
    )


def decided(answer, generator):
    logits, verts = assignment(generator, scale=0.0)
    logits[[0, 1, 2], [4, 9, 0]] = 2000
    found, wrong = _expected(answer, logits, verts)
    return wrong or (
        finite(found[1], "logits of 2000: the entropy")
        or near(found[0], verts[[4, 9, 0]], "logits of 2000: the keypoints")
        or near(found[1], 0.0, "logits of 2000: the entropy")
    )


def expected_vertices(logits, verts, dim=-1, bits=False, sign=-1, total=False, naive=False, stable=True):
    if naive:
        A = logits.exp() / logits.exp().sum(dim, keepdim=True)
        log = A.log()
    else:
        A = logits.softmax(dim)
        log = logits.log_softmax(dim) if stable else A.log()
    entropy = sign * (A * log).sum(-1) / (math.log(2) if bits else 1)
    return A @ verts, entropy.sum() if total else entropy.mean()


EXPECTED = Exercise(
    "5.1",
    "Expected vertices",
    kind="code",
    minutes=15,
    checks={"undecided": start_in_the_middle, "any logits": any_logits, "decided": decided},
    hints=(
        "A row of A is a softmax over the vertices. The keypoints are A @ verts.",
        "Where A is 0 its logarithm is −∞, and 0 · ∞ is nan. logits.log_softmax(-1) stays finite.",
    ),
    wrong={
        "softmax over the keypoints": lambda a, v: expected_vertices(a, v, dim=0),
        "in bits": lambda a, v: expected_vertices(a, v, bits=True),
        "the sign": lambda a, v: expected_vertices(a, v, sign=1),
        "the sum": lambda a, v: expected_vertices(a, v, total=True),
        "0 times infinity": lambda a, v: expected_vertices(a, v, stable=False),
        "exp overflows": lambda a, v: expected_vertices(a, v, naive=True),
        "the nearest vertex only": lambda a, v: (v[a.argmax(-1)], expected_vertices(a, v)[1]),
        "the keypoints only": lambda a, v: expected_vertices(a, v)[0],
    },
)


# --- 5.2: how many views ------------------------------------------------------------------------------------


def fewest_views(answer, generator):
    count = float(tensor(answer, "the number of views", ()))
    if abs(count - 2) < 0.5:
        return "two views give four equations. How many unknowns has Q, up to its scale?"
    if abs(count - 6) < 0.5:
        return "each view gives more than one equation"
    return near(count, 3.0, "the number of views")


VIEWS = Exercise(
    "5.2",
    "How many views",
    kind="algebra",
    minutes=10,
    function=False,
    checks={"the fewest views": fewest_views},
    hints=(
        "Count the equations that one view gives for Q. Count the numbers in a symmetric 3 × 3 matrix.",
        "Two equations a view. All equations are homogeneous, so Q is only found up to a factor: five unknowns.",
    ),
    wrong={"two": 2, "six": 6, "four": 4, "one": 1},
)


# --- 5.3: the mirror of a camera ----------------------------------------------------------------------------


def cameras(generator, count=5):
    rotation = random_rotations(count, generator, dtype=torch.float64)
    scale = 0.4 + 0.3 * torch.rand(count, generator=generator, dtype=torch.float64)
    return WeakPerspective(scale, 0.2 * normal(generator, count, 2), matrix_to_quaternion(rotation)).to_vector()


def mirrored_picture(answer, generator):
    vector = cameras(generator)
    X = normal(generator, 5, 8, 3)
    found = tensor(answer(vector), "the cameras", vector.shape)
    before = WeakPerspective.from_vector(vector).project(X)[..., :2]
    there = X * torch.tensor([1.0, 1.0, -1.0]).double()
    after = WeakPerspective.from_vector(found.double()).project(there)[..., :2]
    expected = before * torch.tensor([-1.0, 1.0]).double()
    return near(after, expected, "the mirrored horse under your cameras", 1e-3)


def mirrored_twice(answer, generator):
    vector = cameras(generator)
    again = tensor(answer(tensor(answer(vector), "the cameras", vector.shape).double()), "the cameras", vector.shape)
    same, opposite = (torch.cat([vector[:, :3], sign * vector[:, 3:]], 1) for sign in (1, -1))
    return near(again, same, "mirrored twice: the cameras") and near(again, opposite, "mirrored twice: the cameras")


def mirror_camera(vector, order=(2, 3, 0, 1), shift=(-1, 1), offset=0.0):
    s, t, q = vector[:, :1], vector[:, 1:3], vector[:, 3:]
    return torch.cat([s + offset, t * t.new_tensor(shift), q[:, list(order)]], 1)


MIRROR_CAMERA = Exercise(
    "5.3",
    "The mirror of a camera",
    kind="code",
    minutes=15,
    checks={"the mirrored picture": mirrored_picture, "mirrored twice": mirrored_twice},
    hints=(
        "The scale stays. Which coordinate of the shift changes its sign when left and right are exchanged?",
        "Section 5.5 says what happens to the quaternion: (w, x, y, z) becomes (y, z, w, x).",
    ),
    wrong={
        "the shift forgotten": lambda c: mirror_camera(c, shift=(1, 1)),
        "the shift upside down": lambda c: mirror_camera(c, shift=(1, -1)),
        "the quaternion forgotten": lambda c: mirror_camera(c, order=(0, 1, 2, 3)),
        "the inverse rotation": lambda c: torch.cat([c[:, :1], -c[:, 1:2], c[:, 2:3], c[:, 3:4], -c[:, 4:]], 1),
        "the scale grows": lambda c: mirror_camera(c, offset=0.5),
        "turned round by one": lambda c: mirror_camera(c, order=(1, 2, 3, 0)),
    },
)


# --- 5.4: count keypoints -----------------------------------------------------------------------------------


def guesses(generator, count=12, keypoints=6):
    target = 2 * torch.rand(count, keypoints, 2, generator=generator, dtype=torch.float64) - 1
    pred = target + 0.12 * normal(generator, count, keypoints, 2)
    often = torch.linspace(0.2, 0.9, keypoints, dtype=torch.float64)
    visible = torch.rand(count, keypoints, generator=generator, dtype=torch.float64) < often
    visible[0] = True
    return pred, target, visible, 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)


def counted(answer, generator):
    given = guesses(generator)
    return near(answer(*given), metrics.pck(*given[:3], 0.1, given[3]), "PCK@0.1 of random guesses")


def hidden_do_not_count(answer, generator):
    pred, target, visible, size = guesses(generator)
    pred = torch.where(visible[..., None], target, pred + 3)
    return near(answer(pred, target, visible, size), 1.0, "PCK@0.1 where all visible keypoints are right")


def keypoint_never_seen(answer, generator):
    pred, target, visible, size = guesses(generator)
    visible[:, 2] = False
    expected = metrics.pck(pred, target, visible, 0.1, size)
    return near(answer(pred, target, visible, size), expected, "PCK@0.1 where no picture shows keypoint 2")


def count_keypoints(pred, target, visible, size, alpha=0.1, pooled=False, everything=False, absolute=False, nan=False):
    right = (pred - target).norm(dim=-1) < alpha * (torch.ones_like(size) if absolute else size)[:, None]
    if everything:
        return right.double().mean()
    right = right & visible
    if pooled:
        return right.sum() / visible.sum()
    shown = visible.sum(0)
    if nan:
        return (right.sum(0) / shown.clamp(min=1)).mean()
    return (right.sum(0)[shown > 0] / shown[shown > 0]).mean()


PCK = Exercise(
    "5.4",
    "Count the right keypoints",
    kind="code",
    minutes=20,
    checks={
        "random guesses": counted,
        "hidden keypoints": hidden_do_not_count,
        "a keypoint never seen": keypoint_never_seen,
    },
    hints=(
        "A keypoint is right in a picture if it is visible there and less than 0.1 · size away. Count these over the "
        "pictures, for each keypoint.",
        "Divide by how many pictures show the keypoint, then average over the keypoints. Leave out those that no "
        "picture shows.",
    ),
    wrong={
        "all points in one pot": lambda p, t, v, s: count_keypoints(p, t, v, s, pooled=True),
        "hidden ones, too": lambda p, t, v, s: count_keypoints(p, t, v, s, everything=True),
        "the box forgotten": lambda p, t, v, s: count_keypoints(p, t, v, s, absolute=True),
        "within a fifth": lambda p, t, v, s: count_keypoints(p, t, v, s, alpha=0.2),
        "never seen is wrong": lambda p, t, v, s: count_keypoints(p, t, v, s, nan=True),
        "in per cent": lambda p, t, v, s: 100 * count_keypoints(p, t, v, s),
    },
)


# --- 5.5: a loss in doubt -----------------------------------------------------------------------------------


def _angles(answer):
    return tensor(answer, "the two angles", (2,)).double()


def between_the_two(answer, generator):
    angle = float(_angles(answer)[0])
    if abs(angle - 27) < 0.3:
        return "this is the mean of 0° and 90° with their weights. Nearly: the loss is only nearly a square"
    expected = 2 * math.degrees(math.atan2(0.3 * math.sin(math.pi / 4), 0.7 + 0.3 * math.cos(math.pi / 4)))
    return near(angle, expected, "the best answer for 1 − cos(θ/2)", 4e-3)


def one_of_the_two(answer, generator):
    angle = float(_angles(answer)[1])
    if abs(angle - 90) < 0.5:
        return "this is the less probable one of the two"
    return near(angle + 1, 1.0, "the best answer for sin(θ/2)", 0.1)


DOUBT = Exercise(
    "5.5",
    "A loss in doubt",
    kind="algebra",
    minutes=20,
    function=False,
    checks={"1 − cos(θ/2)": between_the_two, "sin(θ/2)": one_of_the_two},
    hints=(
        "Write the expected loss of the answer a. The angles to the two possible truths are a and 90° − a.",
        "For the first loss set the derivative to zero: 0.7 sin(a/2) = 0.3 sin(45° − a/2). For the second one look at "
        "the second derivative: is it a valley or a hill?",
        "The second loss is a hill between 0° and 90°: the smallest value lies at one of its ends.",
    ),
    wrong={
        "the mean for both": [27.0, 27.0],
        "the likelier for both": [0.0, 0.0],
        "exchanged": [0.0, 26.2],
        "the other end": [26.2, 90.0],
        "half way": [45.0, 0.0],
    },
)


EXERCISES = [RANKS, TWO, EXPECTED, VIEWS, MIRROR_CAMERA, PCK, DOUBT]
