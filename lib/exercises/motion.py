"""Chapter 7: flow in the right units, the motion loss, jitter, rescaled probabilities, and what a twin does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.estimation.multiplex import rescaled_softmin
from lib.exercises.engine import Exercise
from lib.exercises.properties import near, tensor
from lib.geometry.rotations import axis_angle_to_matrix, random_rotations


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- 7.A: pixels --------------------------------------------------------------------------------------------


def pixels_of_the_flow(answer, generator):
    pixels = tensor(answer, "the number of pixels", ()).double()
    if abs(float(pixels) - 8) < 1e-6:
        return "the image plane is 2 wide, from −1 to 1"
    if abs(float(pixels) - 2) < 1e-6:
        return "the picture is 64 pixels wide, and the image plane is 2 wide"
    return near(pixels, 4.0, "the number of pixels")


PIXELS = Exercise(
    "7.A",
    "How many pixels?",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the motion in pixels": pixels_of_the_flow},
    hints=(
        "The image plane goes from −1 to 1. How much of it does one pixel take, if there are 64 in a row?",
        "One pixel is 2 / 64 = 0.03125 wide.",
    ),
    wrong={"a plane of width 1": 8.0, "half": 2.0, "the number itself": 0.125, "upside down": 0.25},
)


# --- 7.B: the wrong way -------------------------------------------------------------------------------------


def score_of_the_wrong_way(answer, generator):
    score = tensor(answer, "the score", ()).double()
    if abs(float(score) - 1) < 1e-6:
        return "1 is the score of standing still. This animal moves, the wrong way"
    if abs(float(score)) < 1e-6:
        return "0 is the score of the right motion"
    return near(score, 2.0, "the score")


WRONG_WAY = Exercise(
    "7.B",
    "The wrong way",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the displacement score": score_of_the_wrong_way},
    hints=(
        "The true motion of a keypoint is d. The predicted one is −d. How long is the difference of the two?",
        "The difference is 2 d. The score divides its length by the length of d.",
    ),
    wrong={"standing still": 1.0, "perfect": 0.0, "signed": -1.0, "squared": 4.0},
)


# --- 7.1: the loss ------------------------------------------------------------------------------------------


def by_hand(answer, generator):
    points = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.1, 0.2]]).double()
    moved = points + torch.tensor([[0.1, 0.0], [0.0, -0.2], [9.0, 9.0]]).double()
    seen = torch.tensor([True, True, False])
    u = torch.tensor([[0.1, 0.1], [0.0, 0.0], [0.0, 0.0]]).double()
    return near(answer(points, moved, seen, u), 0.15, "three vertices, one of them hidden: the loss")


def right_flow(answer, generator):
    points, u = normal(generator, 9, 2), normal(generator, 9, 2)
    seen = torch.ones(9, dtype=torch.bool)
    return near(answer(points, points + u, seen, u), 0.0, "if the flow is right: the loss")


def random_motion(answer, generator):
    points, moved, u = (normal(generator, 12, 2) for _ in range(3))
    seen = torch.rand(12, generator=generator) > 0.4
    return near(answer(points, moved, seen, u), motion(points, moved, seen, u), "for random points: the loss")


def nothing_seen(answer, generator):
    points, moved, u = (normal(generator, 4, 2) for _ in range(3))
    return near(answer(points, moved, torch.zeros(4, dtype=torch.bool), u), 0.0, "if no vertex is seen: the loss")


def motion(points, moved, seen, u, sign=1, power=1, everybody=False, guarded=True):
    seen = torch.ones_like(seen) if everybody else seen
    error = (moved - points - sign * u).abs().pow(power).sum(1)
    count = seen.sum().clamp_min(1) if guarded else seen.sum()
    return (error * seen).sum() / count


MOTION = Exercise(
    "7.1",
    "The motion loss",
    kind="code",
    minutes=15,
    checks={
        "by hand": by_hand,
        "the right flow": right_flow,
        "random points": random_motion,
        "no vertex in common": nothing_seen,
    },
    hints=(
        "The model's motion is moved − points. Compare it with u, vertex by vertex: |x difference| + |y difference|.",
        "Multiply by `seen`, sum, and divide by the number of seen vertices, but by 1 if there are none.",
    ),
    wrong={
        "squared": lambda p, q, v, u: motion(p, q, v, u, power=2),
        "all vertices": lambda p, q, v, u: motion(p, q, v, u, everybody=True),
        "divided by all": lambda p, q, v, u: motion(p, q, v, u) * v.sum() / len(v),
        "the wrong sign": lambda p, q, v, u: motion(p, q, v, u, sign=-1),
        "zero by zero": lambda p, q, v, u: motion(p, q, v, u, guarded=False),
        "the sum": lambda p, q, v, u: motion(p, q, v, u) * v.sum(),
        "mean of x and y": lambda p, q, v, u: motion(p, q, v, u) / 2,
    },
)


# --- 7.2: units ---------------------------------------------------------------------------------------------


def one_vector(answer, generator):
    flow = torch.zeros(4, 8, 2).double()
    flow[1, 6] = torch.tensor([1.0, 2.0]).double()  # (y, x): one pixel down, two to the right
    found = tensor(answer(flow), "the flow", (2, 4, 8))
    return near(found[:, 1, 6], [0.5, 0.5], "1 pixel down of 4 rows, 2 pixels right of 8 columns: (x, y)")


def any_flow(answer, generator):
    flow = normal(generator, 6, 10, 2)
    return near(answer(flow), in_the_plane(flow), "for a random flow: the flow in the image plane")


def in_the_plane(flow, exchange=True, scale=(2, 2), square=False):
    height, width, _ = flow.shape
    moved = flow.flip(-1) if exchange else flow
    sides = (width, width) if square else (width, height)
    return torch.stack([moved[..., 0] * scale[0] / sides[0], moved[..., 1] * scale[1] / sides[1]])


UNITS = Exercise(
    "7.2",
    "Somebody else's flow",
    kind="code",
    minutes=15,
    checks={"one vector": one_vector, "random flow": any_flow},
    hints=(
        "Three things change: the order of the axes, the order of x and y, and the unit.",
        "x in image-plane units is 2 / width times x in pixels; y is 2 / height times y in pixels.",
    ),
    wrong={
        "x and y exchanged": lambda f: in_the_plane(f, exchange=False),
        "a plane of width 1": lambda f: in_the_plane(f, scale=(1, 1)),
        "width for both": lambda f: in_the_plane(f, square=True),
        "still in pixels": lambda f: f.flip(-1).permute(2, 0, 1),
        "y up": lambda f: in_the_plane(f, scale=(2, -2)),
        "channels last": lambda f: in_the_plane(f).permute(1, 2, 0),
    },
)


# --- 7.3: probabilities -------------------------------------------------------------------------------------


def known_losses(answer, generator):
    losses = torch.tensor([[0.2, 0.4, 0.6]]).double()
    expected = torch.tensor([[0.0, -10.0, -20.0]]).double().softmax(1)
    return near(answer(losses), expected, "losses 0.2, 0.4, 0.6: the probabilities")


def many_losses(answer, generator):
    losses = torch.rand(5, 8, generator=generator, dtype=torch.float64)
    return near(answer(losses), rescaled_softmin(losses), "for random losses: the probabilities")


def other_scale(answer, generator):
    losses = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    return near(answer(100 * losses + 7), rescaled_softmin(losses), "if all losses are 100 times as large, plus 7")


def equal_losses(answer, generator):
    return near(answer(torch.full((1, 4), 0.3).double()), [[0.25] * 4], "if all losses are equal")


def softmin(losses, sharpness=20.0, rescale=True, together=False, guarded=True, sign=-1):
    dims = (0, 1) if together else (1,)
    low, high = losses.amin(dims, keepdim=True), losses.amax(dims, keepdim=True)
    span = high - low
    if guarded:
        span = torch.where(span > 0, span, 1)
    values = (losses - low) / span if rescale else losses
    return (sign * sharpness * values).softmax(1)


SOFTMIN = Exercise(
    "7.3",
    "The rescaled softmin",
    kind="code",
    minutes=15,
    checks={
        "three losses": known_losses,
        "random losses": many_losses,
        "another scale": other_scale,
        "equal losses": equal_losses,
    },
    hints=(
        "First bring the losses of each picture to the range from 0 to 1. Then −20 times that into a softmax.",
        "If the largest loss equals the smallest one, divide by 1 instead of by 0.",
    ),
    wrong={
        "not rescaled": lambda L: softmin(L, rescale=False),
        "plain softmin": lambda L: softmin(L, 1.0, rescale=False),
        "softmax of the losses": lambda L: softmin(L, sign=1),
        "one range for all pictures": lambda L: softmin(L, together=True),
        "zero by zero": lambda L: softmin(L, guarded=False),
        "not sharpened": lambda L: softmin(L, 1.0),
    },
)


# --- 7.4: jitter --------------------------------------------------------------------------------------------


def turning(generator, count=6, step=0.2):
    turns = axis_angle_to_matrix(step * normal(generator, count, 3))
    return turns @ random_rotations(1, generator, dtype=torch.float64)


def common_error(answer, generator):
    truth, off = turning(generator), axis_angle_to_matrix(torch.tensor([[0.0, 0.5, 0.0]]).double())
    return near(answer(truth @ off, truth), 0.0, "an error that is the same in all frames: the jitter", 1e-3)


def alternating_error(answer, generator):
    truth = turning(generator)
    angle = torch.tensor([0.0, 0.1, 0.0, 0.1, 0.0, 0.1]).double()
    off = axis_angle_to_matrix(angle[:, None] * torch.tensor([0.0, 0.0, 1.0]).double())
    expected = math.degrees(0.1)
    return near(answer(truth @ off, truth), expected, "an error of 0 and 0.1 rad by turns: the jitter in degrees", 1e-3)


def random_cameras(answer, generator):
    R, truth = turning(generator, step=0.4), turning(generator)
    return near(answer(R, truth), jitter(R, truth), "for random cameras: the jitter", 1e-3)


def jitter(R, truth, absolute=False, camera_only=False, outside=False, degrees=True):
    error = R @ truth.mT if outside else R.mT @ truth
    error = R if camera_only else error
    between = error[:1].mT @ error if absolute else error[:-1].mT @ error[1:]
    cosine = (between.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    angle = cosine.clamp(-1, 1).arccos()
    return (angle.rad2deg() if degrees else angle).mean()


JITTER = Exercise(
    "7.4",
    "Jitter",
    kind="code",
    minutes=20,
    checks={
        "a common error": common_error,
        "an error that comes and goes": alternating_error,
        "random cameras": random_cameras,
    },
    hints=(
        "The error of a frame is the rotation E = Rᵀ R_true. From frame to frame it turns by E[t]ᵀ E[t + 1].",
        "The angle of a rotation Q is arccos((trace Q − 1) / 2). Keep the cosine between −1 and 1.",
    ),
    wrong={
        "the camera's own motion": lambda R, T: jitter(R, T, camera_only=True),
        "against the first frame": lambda R, T: jitter(R, T, absolute=True),
        "radians": lambda R, T: jitter(R, T, degrees=False),
        "the error, not its change": lambda R, T: (
            ((R.mT @ T).diagonal(dim1=1, dim2=2).sum(1) - 1).div(2).clamp(-1, 1).arccos().rad2deg().mean()
        ),
        "outside instead of inside": lambda R, T: jitter(R, T, outside=True),
        "always nothing": lambda R, T: 0.0,
    },
)


# --- 7.5: the twin turns the other way ----------------------------------------------------------------------


def turn_of_the_twin(answer, generator):
    turn = tensor(answer, "the turn", ()).double()
    if abs(float(turn) - 3) < 1e-6:
        return "with the same turn, the twin's near side would move against the flow: its depth is reversed"
    return near(turn, -3.0, "the twin's turn in degrees a frame")


TWIN_TURNS = Exercise(
    "7.5",
    "The twin turns",
    kind="algebra",
    minutes=10,
    function=False,
    checks={"the twin's turn": turn_of_the_twin},
    hints=(
        "A small turn ω about the vertical axis moves a point at depth z sideways: Δx = ω z, up to a sign that is the "
        "same for all points.",
        "The twin has −z in the place of z. Which turn ω' gives ω' (−z) = ω z for every point?",
    ),
    wrong={"the same way": 3.0, "not at all": 0.0, "twice": -6.0, "half a circle": 177.0},
)


# --- 7.6: what smoothing can do -----------------------------------------------------------------------------


def error_of_the_mean(answer, generator):
    error = tensor(answer, "the error", ()).double()
    if abs(float(error) - 5) < 1e-2:
        return "this is the part that differs from frame to frame. The common part stays"
    if abs(float(error) - 17) < 1e-2:
        return "independent parts add as squares, not as lengths"
    return near(error, 13.0, "the error that is left", 1e-3)


SMOOTHING = Exercise(
    "7.6",
    "What smoothing can do",
    kind="algebra",
    minutes=10,
    function=False,
    checks={"the error of the mean of 16 frames": error_of_the_mean},
    hints=(
        "The mean of n independent errors of size σ has the size σ / √n. A common error is in every frame, so it is "
        "in the mean.",
        "20 / √16 = 5. The two parts are independent of each other: √(5² + 12²).",
    ),
    wrong={"the common part forgotten": 5.0, "added": 17.0, "nothing gained": math.sqrt(544), "divided by 16": 1.25},
)


EXERCISES = [PIXELS, WRONG_WAY, MOTION, UNITS, SOFTMIN, JITTER, TWIN_TURNS, SMOOTHING]
