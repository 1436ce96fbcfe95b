"""Chapter 9: mirrors, normals of depth maps, light, confidence, and what a picture leaves open."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.exercises.engine import Exercise
from lib.exercises.properties import has_derivative, near, tensor
from lib.geometry import depth_maps, turntable
from lib.models.unsup3d import light_direction

ROOT2 = math.sqrt(2)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def _pair(answer, what, *shape):
    """Two things of an answer: (first, second), None or None, what is wrong."""
    try:
        first, second = answer
    except (TypeError, ValueError):
        return None, f"return two things: {what[0]} and {what[1]}"
    return (tensor(first, what[0], shape), tensor(second, what[1], shape)), None


# --- 9.A: the light of the hollow mask ----------------------------------------------------------------------


def _light(answer):
    return tensor(answer, "the light (l_x, l_y)", (2,)).double()


def light_sideways(answer, generator):
    found = _light(answer)[0]
    if abs(float(found) - 0.6) < 1e-3:
        return "the nose is now a dent: its left wall faces to the right. From where must the light come?"
    return near(found, -0.6, "l_x")


def light_up_and_down(answer, generator):
    found = _light(answer)[1]
    if abs(float(found) + 0.3) < 1e-3:
        return "turned inside out, what faced up faces down"
    return near(found, 0.3, "l_y")


HOLLOW = Exercise(
    "9.A",
    "The light of the hollow mask",
    kind="predict",
    minutes=3,
    function=False,
    checks={"left and right": light_sideways, "above and below": light_up_and_down},
    hints=(
        "The normal of a relief is (slope to the right, slope downwards, −1), up to its length. What happens to the "
        "slopes when every bump becomes a dent?",
        "Both slopes change their sign. The product n · l stays the same if l_x and l_y change theirs.",
    ),
    wrong={"the same light": [0.6, -0.3], "only left and right": [-0.6, -0.3], "only up and down": [0.6, 0.3]},
)


# --- 9.B: the smallest spread -------------------------------------------------------------------------------


def smallest_error(answer, generator):
    error = float(tensor(answer, "the error", ()))
    if abs(error - 0.1) < 1e-3:
        return "the best σ is not ℓ itself"
    if abs(error - 0.1 * ROOT2) < 1e-3:
        return "this is the best σ for ℓ = 0.1. You want the ℓ for which the best σ is 0.1"
    return near(error, 0.1 / ROOT2, "the error", 1e-3)


SMALLEST = Exercise(
    "9.B",
    "The smallest spread",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the error whose best σ is 0.1": smallest_error},
    hints=("The best σ is √2 ℓ. Solve for ℓ.",),
    wrong={"the spread itself": 0.1, "times √2": 0.1 * ROOT2, "half of it": 0.05},
)


# --- 9.1: the mirror of a scene -----------------------------------------------------------------------------


def scene(generator, count=4):
    view = torch.cat([uniform(generator, count, 3) - 0.5, 0.1 * normal(generator, count, 3)], 1)
    light = torch.cat([uniform(generator, count, 2), 2 * uniform(generator, count, 2) - 1], 1)
    return view, light


def _mirrored(answer, view, light):
    try:
        new_view, new_light = answer(view, light)
    except (TypeError, ValueError):
        return None, "return two things: the view and the light"
    return (tensor(new_view, "the view", view.shape), tensor(new_light, "the light", light.shape)), None


def points_are_mirrored(answer, generator):
    view, light = scene(generator)
    found, wrong = _mirrored(answer, view, light)
    if wrong:
        return wrong
    X = 0.1 * normal(generator, len(view), 10, 3) + torch.tensor([0.0, 0.0, 1.0]).double()
    mirror = torch.tensor([-1.0, 1.0, 1.0]).double()
    turned = turntable.turn(X * mirror, found[0])
    return near(turned, turntable.turn(X, view) * mirror, "mirrored points under the new view")


def light_is_mirrored(answer, generator):
    view, light = scene(generator)
    found, wrong = _mirrored(answer, view, light)
    if wrong:
        return wrong
    mirror = torch.tensor([-1.0, 1.0, 1.0]).double()
    return near(found[1][:, :2], light[:, :2], "ambient and diffuse light") or near(
        light_direction(found[1]), light_direction(light) * mirror, "the direction to the light"
    )


def twice_is_nothing(answer, generator):
    view, light = scene(generator)
    found, wrong = _mirrored(answer, view, light)
    if wrong:
        return wrong
    found, wrong = _mirrored(answer, *found)
    return wrong or near(found[0], view, "mirrored twice: the view") or near(found[1], light, "and the light")


def mirror_scene(view, light, turns=(1, -1, -1), shifts=(-1, 1, 1), lights=(1, 1, -1, 1), offset=0.0):
    return view * view.new_tensor([*turns, *shifts]) + offset, light * light.new_tensor(lights)


MIRROR = Exercise(
    "9.1",
    "The mirror of a scene",
    kind="code",
    minutes=15,
    checks={
        "points of the mirrored face": points_are_mirrored,
        "the light": light_is_mirrored,
        "mirrored twice": twice_is_nothing,
    },
    hints=(
        "A nod looks the same in a mirror. A face that turns to its left turns to its right there.",
        "The mirror is M = diag(−1, 1, 1). M R_x M = R_x, but M R_y M and M R_z M turn the other way.",
        "The turns about y and z, the shift along x, and l_x change their sign. Nothing else does.",
    ),
    wrong={
        "nothing changes": lambda v, a: mirror_scene(v, a, (1, 1, 1), (1, 1, 1), (1, 1, 1, 1)),
        "only the yaw": lambda v, a: mirror_scene(v, a, (1, -1, 1)),
        "all turns": lambda v, a: mirror_scene(v, a, (-1, -1, -1)),
        "the shift forgotten": lambda v, a: mirror_scene(v, a, shifts=(1, 1, 1)),
        "the light forgotten": lambda v, a: mirror_scene(v, a, lights=(1, 1, 1, 1)),
        "the diffuse light reversed": lambda v, a: mirror_scene(v, a, lights=(1, -1, -1, 1)),
        "one added": lambda v, a: mirror_scene(v, a, offset=1.0),
    },
)


# --- 9.2: normals from the squares of a depth map -----------------------------------------------------------


def plane_depth(direction, focal, size=6):
    """The depth map (1, S, S) of the plane through (0, 0, 1) with this normal."""
    rays = depth_maps.pixel_rays(size, size, focal, dtype=torch.float64)
    direction = F.normalize(torch.as_tensor(direction, dtype=torch.float64), dim=0)
    return (direction[2] / torch.einsum("c,chw->hw", direction, rays))[None], direction


def plane_facing_us(answer, generator):
    normals = answer(torch.ones(1, 5, 5, dtype=torch.float64), 4.0)
    expected = torch.tensor([0.0, 0.0, -1.0]).double()[None, :, None, None].expand(1, 3, 4, 4)
    return near(normals, expected, "a flat wall in front of the camera: the normals")


def tilted_planes(answer, generator):
    for focal in (1.5, 11.4):
        slope = normal(generator, 2) * 0.3
        depth, direction = plane_depth([*slope.tolist(), -1.0], focal)
        found = answer(depth, focal)
        expected = direction[None, :, None, None].expand(1, 3, 5, 5)
        if wrong := near(found, expected, f"a tilted plane, focal length {focal}: the normals"):
            return wrong
    return None


def bumpy(generator):
    rows = torch.linspace(-1, 1, 7, dtype=torch.float64)
    a, b = uniform(generator, 2) + 0.5
    return (1 + 0.1 * torch.sin(2 * a * rows[:, None] + 1) * torch.cos(2 * b * rows))[None]


def any_relief(answer, generator):
    depth = bumpy(generator)
    return near(answer(depth, 2.0), square_normals(depth, 2.0), "a bumpy relief: the normals")


def square_normals(depth, focal, perspective=True, sign=1, unit=True, swapped=False, side=False):
    height, width = depth.shape[-2:]
    rays = depth_maps.pixel_rays(height, width, focal, dtype=torch.float64)
    points = depth[:, None] * rays
    if not perspective:
        points = torch.cat([rays[:2].expand(len(depth), -1, -1, -1), depth[:, None]], 1)
    a, b, c, d = (points[:, :, i : height - 1 + i, j : width - 1 + j] for i in (0, 1) for j in (0, 1))
    first, second = (c - a, b - a) if side else (c - b, d - a)  # c − b goes down and to the left
    normals = sign * torch.linalg.cross(first, second, dim=1)
    normals = F.normalize(normals, dim=1) if unit else normals
    return normals[:, [1, 0, 2]] if swapped else normals


NORMALS = Exercise(
    "9.2",
    "Normals from the squares of a depth map",
    kind="code",
    minutes=20,
    checks={"a wall": plane_facing_us, "tilted planes": tilted_planes, "a bumpy relief": any_relief},
    hints=(
        "First compute the points X = z (u_x / f, u_y / f, 1) of all pixels. Then take the four corners of each square "
        "by slicing, as in points[:, :, 1:, :-1].",
        "With the corners a b / c d, the diagonals are d − a and c − b. F.normalize(…, dim=1) makes the product's "
        "length 1.",
        "cross(c − b, d − a) points towards the camera, where z is negative.",
    ),
    wrong={
        "away from the camera": lambda z, f: square_normals(z, f, sign=-1),
        "not of length one": lambda z, f: square_normals(z, f, unit=False),
        "no perspective": lambda z, f: square_normals(z, f, perspective=False),
        "the focal length forgotten": lambda z, f: square_normals(z, 1.0),
        "x and y exchanged": lambda z, f: square_normals(z, f, swapped=True),
        "one corner instead of both diagonals": lambda z, f: square_normals(z, f, side=True),
        "always towards us": lambda z, f: square_normals(torch.ones_like(z), f),
    },
)


# --- 9.3: a loss with confidence ----------------------------------------------------------------------------


def pictures(generator):
    pred, target = uniform(generator, 2, 3, 4, 5), uniform(generator, 2, 3, 4, 5)
    return pred, target, 0.1 + uniform(generator, 2, 4, 5)


def one_pixel(answer, generator):
    pred, target = torch.full((1, 3, 1, 1), 0.6).double(), torch.full((1, 3, 1, 1), 0.5).double()
    sigma = torch.full((1, 1, 1), 0.2).double()
    return near(answer(pred, target, sigma), math.log(ROOT2 * 0.2) + ROOT2 * 0.1 / 0.2, "the cost for ℓ = 0.1, σ = 0.2")


def as_a_density(answer, generator):
    pred, target, sigma = pictures(generator)
    error = (pred - target).abs().mean(1)
    density = torch.distributions.Laplace(torch.zeros_like(sigma), sigma / ROOT2)
    return near(answer(pred, target, sigma), -density.log_prob(error).mean(), "the mean −ln p of random pictures")


def sigma_learns(answer, generator):
    pred, target, sigma = pictures(generator)
    return has_derivative(lambda s: answer(pred, target, s), sigma, generator, "the loss, seen from σ")


def errors_cost(answer, generator):
    target, sigma = torch.zeros(1, 3, 2, 2).double(), torch.full((1, 2, 2), 0.9).double()
    small, large = (tensor(answer(target + wrong, target, sigma), "the loss", ()) for wrong in (0.1, 0.6))
    if not float(large) > float(small):
        return f"σ = 0.9: an error of 0.6 costs {float(large):.3g}, an error of 0.1 costs {float(small):.3g}"
    return None


def confident(pred, target, sigma, root=ROOT2, log=True, norm=ROOT2, reduce=torch.mean, square=False):
    error = (pred - target).square().mean(1) if square else (pred - target).abs().mean(1)
    cost = root * error / sigma + (torch.log(norm * sigma) if log else 0)
    return reduce(cost)


def misread(pred, target, sigma):
    error = (pred - target).abs().mean(1)
    return (torch.log(ROOT2 * sigma) * torch.exp(-ROOT2 * error / sigma)).mean()


CONFIDENCE = Exercise(
    "9.3",
    "A loss with confidence",
    kind="code",
    minutes=20,
    checks={
        "one pixel": one_pixel,
        "random pictures": as_a_density,
        "σ gets a gradient": sigma_learns,
        "errors cost": errors_cost,
    },
    hints=(
        "First ℓ, the mean absolute difference over the three channels: (B, H, W). Then a cost for each pixel, then "
        "the mean of all.",
        "A pixel costs ln(√2 σ) + √2 ℓ / σ: a sum, not a product.",
    ),
    wrong={
        "misread: the logarithm times the exponential": misread,
        "no price of doubt": lambda p, t, s: confident(p, t, s, log=False),
        "√2 forgotten": lambda p, t, s: confident(p, t, s, root=1.0, norm=1.0),
        "√2 only in front of ℓ": lambda p, t, s: confident(p, t, s, norm=1.0),
        "the sum": lambda p, t, s: confident(p, t, s, reduce=torch.sum),
        "the square": lambda p, t, s: confident(p, t, s, square=True),
        "σ detached": lambda p, t, s: confident(p, t, s.detach()) + 0 * s.sum(),
    },
)


# --- 9.4: one spread for many pixels ------------------------------------------------------------------------


def best_laplace(answer, generator):
    found, wrong = _pair(answer, ("the best σ of Laplace", "the best σ of Gauss"))
    if wrong:
        return wrong
    if abs(float(found[0]) - 0.15) < 1e-3:
        return "Laplace: this is the mean error. What does the √2 of the formula do?"
    return near(found[0], 0.15 * ROOT2, "the best σ of Laplace", 2e-3)


def best_gauss(answer, generator):
    found, wrong = _pair(answer, ("the best σ of Laplace", "the best σ of Gauss"))
    if wrong:
        return wrong
    if abs(float(found[1]) - 0.15) < 1e-3:
        return "Gauss: this is the mean error. Its formula has the mean of the squares"
    return near(found[1], math.sqrt(0.0525), "the best σ of Gauss", 2e-3)


ONE_SPREAD = Exercise(
    "9.4",
    "One spread for many pixels",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"Laplace": best_laplace, "Gauss": best_gauss},
    hints=(
        "Sum the cost over the pixels. Set the derivative with respect to the common σ to zero.",
        "Laplace: 1/σ = √2 · mean(ℓ) / σ². Gauss: 1/σ = mean(ℓ²) / σ³.",
    ),
    wrong={
        "both the mean": [0.15, 0.15],
        "both with √2": [0.15 * ROOT2, 0.15 * ROOT2],
        "exchanged": [math.sqrt(0.0525), 0.15 * ROOT2],
        "the median's": [0.05 * ROOT2, math.sqrt(0.0525)],
        "the variance": [0.15 * ROOT2, 0.0525],
    },
)


# --- 9.5: the light of a known face -------------------------------------------------------------------------


def lit_face(generator, noise=0.0, shadow=False, count=60):
    """Normals (N, 3), albedo and picture (N,), which are lit (N,), and the truth: k_a and k_d times the direction."""
    slopes = 0.6 * normal(generator, count, 2)
    normals = F.normalize(torch.cat([slopes, -torch.ones(count, 1).double()], 1), dim=1)
    direction = F.normalize(torch.cat([1.6 * uniform(generator, 2) - 0.8, -torch.ones(1).double()]), dim=0)
    if shadow:
        direction = F.normalize(torch.tensor([2.0, 0.4, -1.0]).double(), dim=0)
    k_a, k_d = (torch.tensor([0.2, 0.5]) + torch.tensor([0.2, 0.3]) * uniform(generator, 2)).unbind()
    albedo = 0.2 + 0.8 * uniform(generator, count)
    cosine = normals @ direction
    if not shadow:
        keep = cosine > 0.1
        normals, albedo, cosine = normals[keep], albedo[keep], cosine[keep]
    picture = albedo * (k_a + k_d * cosine.clamp(min=0)) + noise * normal(generator, len(albedo))
    return picture, albedo, normals, cosine > 0, torch.cat([k_a[None], k_d * direction])


def light_exact(answer, generator):
    picture, albedo, normals, lit, truth = lit_face(generator)
    return near(answer(picture, albedo, normals, lit), truth, "a face without noise: (k_a, k_d l)")


def light_in_shadow(answer, generator):
    picture, albedo, normals, lit, truth = lit_face(generator, shadow=True)
    return near(answer(picture, albedo, normals, lit), truth, "a face with shadows: (k_a, k_d l)")


def light_with_noise(answer, generator):
    picture, albedo, normals, lit, _ = lit_face(generator, noise=0.03)
    found = tensor(answer(picture, albedo, normals, lit), "(k_a, k_d l)", (4,)).double()
    best = light_of(picture, albedo, normals, lit)
    return near(found, best, "a noisy face: the light of least squared error in the picture")


def light_of(picture, albedo, normals, lit, ambient=True, divided=False, coloured=True, shadows=False):
    if shadows:
        lit = torch.ones_like(lit)
    picture, albedo, normals = picture[lit], albedo[lit], normals[lit]
    if not coloured:
        albedo = torch.ones_like(albedo)
    ones = torch.ones_like(albedo) if ambient else torch.zeros_like(albedo)
    A = torch.cat([ones[:, None], normals], 1)
    rows, values = (A, picture / albedo) if divided else (albedo[:, None] * A, picture)
    return torch.linalg.pinv(rows) @ values


LIGHT = Exercise(
    "9.5",
    "The light of a known face",
    kind="code",
    minutes=25,
    checks={"without noise": light_exact, "with shadows": light_in_shadow, "with noise": light_with_noise},
    hints=(
        "Where a pixel is lit, the maximum of Lambert's law does nothing: I = ρ (k_a + n · m) with m = k_d l. This is "
        "linear in k_a and m.",
        "Each lit pixel is one row of a linear system: ρ (1, n_x, n_y, n_z) times the four unknowns equals I.",
        "torch.linalg.lstsq(rows, I[:, None]).solution[:, 0], with the lit pixels only.",
    ),
    wrong={
        "no ambient light": lambda c, a, n, lit: light_of(c, a, n, lit, ambient=False),
        "albedo forgotten": lambda c, a, n, lit: light_of(c, a, n, lit, coloured=False),
        "shadows, too": lambda c, a, n, lit: light_of(c, a, n, lit, shadows=True),
        "divided by the albedo": lambda c, a, n, lit: light_of(c, a, n, lit, divided=True),
        "the direction only": lambda c, a, n, lit: torch.cat(
            [light_of(c, a, n, lit)[:1], F.normalize(light_of(c, a, n, lit)[1:], dim=0)]
        ),
    },
)


# --- 9.6: less turn, more relief ----------------------------------------------------------------------------


def _factors(answer):
    return _pair(answer, ("the factor of the relief", "the factor of the width"))


def relief_grows(answer, generator):
    found, wrong = _factors(answer)
    if wrong:
        return wrong
    relief = math.sin(math.radians(30)) / math.sin(math.radians(24))
    if abs(float(found[0]) - 1 / relief) < 1e-3:
        return "upside down: a smaller turn needs a deeper relief for the same shift"
    if abs(float(found[0]) - 30 / 24) < 1e-3:
        return "nearly. The shift is z sin θ, not z θ"
    return near(found[0], relief, "the factor of the relief", 2e-3)


def width_shrinks(answer, generator):
    found, wrong = _factors(answer)
    if wrong:
        return wrong
    return near(found[1], math.cos(math.radians(30)) / math.cos(math.radians(24)), "the factor of the width", 2e-3)


LESS_TURN = Exercise(
    "9.6",
    "Less turn, more relief",
    kind="algebra",
    minutes=15,
    function=False,
    checks={"the relief": relief_grows, "the width": width_shrinks},
    hints=(
        "After a turn by θ, the point (x, z) lies at x cos θ + z sin θ in the picture, and its mirror image (−x, z) at "
        "−x cos θ + z sin θ. Which two combinations can be measured?",
        "Half the difference is x cos θ, the mean is z sin θ. Both must stay as they are when 30° become 24°.",
    ),
    wrong={
        "upside down": [0.8135, 1.0549],
        "proportional to the angle": [1.25, 1.0],
        "only the relief": [1.2293, 1.0],
        "sine and cosine exchanged": [0.948, 1.2293],
    },
)


EXERCISES = [HOLLOW, SMALLEST, MIRROR, NORMALS, CONFIDENCE, ONE_SPREAD, LIGHT, LESS_TURN]
