"""Chapter 1: even points, distances between clouds and what deceives them, the bias of entropy, fits by descent."""

from __future__ import annotations

import math

import torch

from lib.exercises.engine import Exercise, Trouble
from lib.exercises.properties import between, near, shape, tensor
from lib.geometry import pointsets


def two_clouds(generator):
    """Clouds of 40 and 60 points in a cube, the second one shifted."""
    x, y = torch.rand(100, 3, generator=generator, dtype=torch.float64).split((40, 60))
    return x, y + 0.1


def percent(share):
    return f"{100 * float(share):.0f} %"


def squared_distances(x, y):
    return (x[:, None] - y[None]).square().sum(-1)


# --- 1.A: even points in a disc -----------------------------------------------------------------------------


def disc_points(answer, generator, count=20_000):
    r1, r2 = torch.rand(2, count, generator=generator)
    return tensor(answer(r1, r2), "the points")


def one_row_a_point(answer, generator):
    r1, r2 = torch.rand(2, 7, generator=generator)
    return shape(answer(r1, r2), (7, 2), "7 points")


def inside_the_disc(answer, generator):
    points = disc_points(answer, generator)
    return between(points.norm(dim=-1), 0, 1 + 1e-5, "the distance from the origin")


def even_outwards(answer, generator):
    """Check that a disc of half the radius holds a quarter of the points, as of the area."""
    points = disc_points(answer, generator)
    share = float((points.norm(dim=-1) < 0.5).float().mean())
    return None if abs(share - 0.25) < 0.025 else f"nearer than 0.5 to the origin lie {percent(share)}, not 25 %"


def even_around(answer, generator):
    """Check that each half plane holds half of the points, and half of those near the origin."""
    points = disc_points(answer, generator)
    if points.shape[-1:] != (2,):
        return "the points must have shape (N, 2)"
    inner = points[points.norm(dim=-1) < 0.7]
    for where, part in {"": points, " of those nearer to the origin than 0.7": inner}.items():
        for side, inside in {"right": part[:, 0] > 0, "upper": part[:, 1] > 0}.items():
            share = float(inside.double().mean())
            if not len(part):
                return "no point is nearer to the origin than 0.7"
            if abs(share - 0.5) > 0.03:
                return f"in the {side} half lie {percent(share)} of your points{where}, not 50 %"
    return None


def polar(radius, turns):
    """Points at these radii and shares of a full turn."""
    return torch.stack([radius * (2 * math.pi * turns).cos(), radius * (2 * math.pi * turns).sin()], -1)


DISC = Exercise(
    "1.A",
    "Even points in a disc",
    kind="code",
    minutes=3,
    checks={
        "one row a point": one_row_a_point,
        "inside the disc of radius 1": inside_the_disc,
        "even outwards": even_outwards,
        "even all around": even_around,
    },
    hints=(
        "Use one number for the radius and one for the angle. Which share of the area lies within the radius r?",
        "Within the radius r lies the share r² of the area. So the radius must be √r1. The angle is 2π r2.",
    ),
    wrong={
        "no root": lambda r1, r2: polar(r1, r2),
        "the root of the angle too": lambda r1, r2: polar(r1.sqrt(), r2.sqrt()),
        "a square": lambda r1, r2: polar(r1.square(), r2),
        "half a turn": lambda r1, r2: polar(r1.sqrt(), r2 / 2),
        "the rim": lambda r1, r2: polar(torch.ones_like(r1), r2),
        "one column a point": lambda r1, r2: polar(r1.sqrt(), r2).T,
        "a square instead of a disc": lambda r1, r2: 2 * torch.stack([r1, r2], -1) - 1,
        "one number for both": lambda r1, r2: polar(r1.sqrt(), r1),
    },
)


# --- 1.B: precision -----------------------------------------------------------------------------------------


def precision(x, y, threshold):
    return (squared_distances(x, y).amin(1) < threshold**2).double().mean()


def a_threshold(x, y):
    """Choose a threshold between the middle two of the distances, so that rounding does not matter."""
    nearest = squared_distances(x, y).amin(1).sqrt().sort().values
    return float(nearest[len(nearest) // 3 : len(nearest) // 3 + 2].mean())


def half_of_two(answer, generator):
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    y = torch.tensor([[0.0, 0.5, 0], [0, 3, 0], [0, 4, 0]])
    return near(answer(x, y, 0.6), 0.5, "{(0, 0, 0), (1, 0, 0)} against {(0, ½, 0), (0, 3, 0), (0, 4, 0)} at 0.6")


def as_defined(answer, generator):
    x, y = two_clouds(generator)
    threshold = a_threshold(x, y)
    return near(answer(x, y, threshold), precision(x, y, threshold), "two random clouds")


def a_share_whatever_the_count(answer, generator):
    x, y = two_clouds(generator)
    threshold = a_threshold(x, y)
    twice = answer(torch.cat([x, x]), y, threshold)
    return near(twice, precision(x, y, threshold), "with every point of x twice")


PRECISION = Exercise(
    "1.B",
    "Precision",
    kind="code",
    minutes=3,
    checks={
        "1 of 2 points, by hand": half_of_two,
        "as defined": as_defined,
        "a share, not a count": a_share_whatever_the_count,
    },
    hints=(
        "all_pairs(x, y).amin(1) is the squared distance of each x to its nearest y.",
        "Compare it with threshold ** 2. The mean of True and False, as floats, is the share.",
    ),
    wrong={
        "squares against the threshold": lambda x, y, t: (squared_distances(x, y).amin(1) < t).double().mean(),
        "recall": lambda x, y, t: precision(y, x, t),
        "a count": lambda x, y, t: (squared_distances(x, y).amin(1) < t**2).double().sum(),
        "those outside": lambda x, y, t: 1 - precision(x, y, t),
        "the F-score": lambda x, y, t: (
            2 * precision(x, y, t) * precision(y, x, t) / (precision(x, y, t) + precision(y, x, t))
        ),
        "all pairs": lambda x, y, t: (squared_distances(x, y) < t**2).double().mean(),
    },
)


# --- 1.C: the price of a shift ------------------------------------------------------------------------------


def price(answer, generator):
    value = tensor(answer, "the price")
    if wrong := shape(value, (), "the price"):
        return wrong
    if abs(float(value) - 0.5) < 1e-3:
        return "0.5 is the length of the shift; the EMD of this chapter averages the squared distance"
    return near(value, 0.25, "the price", 1e-3)


SHIFT_PRICE = Exercise(
    "1.C",
    "The price of a shift",
    kind="predict",
    minutes=2,
    function=False,
    checks={"the price, to 3 digits": price},
    hints=(
        "One matching is: each point to its own shifted copy. What does it cost? Could another matching be cheaper?",
        "The matching of each point to its own copy is the best one. It costs ‖t‖² for every point.",
    ),
    wrong={
        "the length": 0.5,
        "nothing": 0.0,
        "the sum of the coordinates": 0.7,
        "half the square": 0.125,
        "the squared sum": 0.49,
        "a word": "free",
        "three numbers": (0.09, 0.0, 0.16),
    },
)


# --- 1.1: the density without the root ----------------------------------------------------------------------


def no_root_shares(generator, edges):
    """The share of the points that lie between these shares of the way from a, without the root."""
    r = torch.rand(200_000, generator=generator, dtype=torch.float64)
    return torch.histogram(r, edges).hist / len(r)


def one_at_the_half(answer, generator):
    return near(answer(0.5), 1, "halfway from a, where points are as dense as even ones")


def mean_is_one(answer, generator):
    """Check that the density has mean 1 over even points: the number of points does not change."""
    r = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    values = torch.stack([tensor(answer(float(share)), "the density") for share in r]).flatten()
    return near((values * 2 * r).mean(), 1, "its mean over the area of the triangle", 0.01)


def as_counted(answer, generator):
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    counted = no_root_shares(generator, edges) / (edges[1:] ** 2 - edges[:-1] ** 2)
    for index in (2, 5, 8):
        middle = float(edges[index] + edges[index + 1]) / 2
        if wrong := near(answer(middle), counted[index], f"density at r = {middle:.2f}, counted in a strip", 0.03):
            return wrong
    return None


DENSITY = Exercise(
    "1.1",
    "The root",
    kind="algebra",
    minutes=10,
    checks={
        "one halfway": one_at_the_half,
        "as many points in all": mean_is_one,
        "as counted": as_counted,
    },
    hints=(
        "Density is a share of points divided by a share of area. Take the thin strip between r and r + dr.",
        "The strip holds the share dr of the points, because r = r1 is uniform. Its share of the area is d(r²).",
        "d(r²) = 2 r dr. So the density is 1 / (2 r).",
    ),
    wrong={
        "no two": lambda r: 1 / r,
        "upside down": lambda r: 2 * r,
        "even": lambda r: 1.0,
        "a square": lambda r: 1 / (4 * r**2),
        "a root": lambda r: 1 / (2 * r) ** 0.5,
        "the strip's points": lambda r: r,
        "half too few": lambda r: 1 / (4 * r),
    },
)


# --- 1.2: one way is not enough -----------------------------------------------------------------------------


def a_target(generator):
    return torch.rand(50, 3, generator=generator) * torch.tensor([1.7, 1.5, 0.4])


def one_way(x, y):
    return float(squared_distances(x, y).amin(1).mean())


def two_answers(answer, target):
    """Return the two clouds of the answer. Raises Trouble if it gives something else."""
    clouds = answer(target)
    if not isinstance(clouds, tuple | list) or len(clouds) != 2:
        raise Trouble("return two clouds: `return first, second`")
    clouds = [tensor(cloud, name).to(target) for cloud, name in zip(clouds, ("the first", "the second"), strict=True)]
    for cloud, name in zip(clouds, ("first", "second"), strict=True):
        if cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud):
            raise Trouble(f"the {name} cloud must have shape (N, 3), got {tuple(cloud.shape)}")
    return clouds


def deceives(which, towards_target, low, high):
    """Make a check that the distance in one direction, between one of the clouds and the target, is in the range."""

    def one_check(answer, generator):
        target = a_target(generator)
        cloud = two_answers(answer, target)[which]
        value = one_way(cloud, target) if towards_target else one_way(target, cloud)
        way = "from the cloud to the target" if towards_target else "from the target to the cloud"
        if low <= value <= high:
            return None
        return f"{way}: yours {value:.4g}, expected {f'at most {high:g}' if value > high else f'at least {low:g}'}"

    return one_check


def stray(target):
    return target[:1] + torch.tensor([[0.0, 10.0, 0.0]])


DECEIVE = Exercise(
    "1.2",
    "One way is not enough",
    kind="code",
    minutes=10,
    checks={
        "the first cloud is near the target": deceives(0, True, 0, 1e-8),
        "the target is far from the first cloud": deceives(0, False, 0.05, math.inf),
        "the target is near the second cloud": deceives(1, False, 0, 1e-8),
        "the second cloud is far from the target": deceives(1, True, 1, math.inf),
    },
    hints=(
        "First cloud: which cloud has d(x, target) = 0 for all of its points, but leaves most of the target alone?",
        "First: a single point of the target. Second: more points never hurt the way from the target to the cloud.",
        "Second: the target itself and, beside it, many points (or a few very distant ones) far away.",
    ),
    wrong={
        "the target twice": lambda target: (target, target),
        "exchanged": lambda target: (torch.cat([target, stray(target)]), target[:1]),
        "one point twice": lambda target: (target[:1], target[:1]),
        "far away twice": lambda target: (target + 10, target + 10),
        "the mean": lambda target: (target.mean(0, keepdim=True), torch.cat([target, stray(target)])),
        "a shifted target": lambda target: (target[:1], target + 3),
        "one cloud": lambda target: target[:1],
        "no extra points": lambda target: (target[:1], target.clone()),
    },
)


# --- 1.3: the F-score of Pixel2Mesh -------------------------------------------------------------------------


def squared_score(pred, target, tau):
    squared = squared_distances(pred, target)
    shares = [(squared.amin(axis) < tau).double().mean() for axis in (1, 0)]
    return 2 * shares[0] * shares[1] / (shares[0] + shares[1])


def score(answer, *arguments):
    return tensor(answer(*arguments), "the score").squeeze()


def within_a_hundredth(answer, generator):
    points = torch.rand(6, 3, generator=generator, dtype=torch.float64).mul(8).round() + torch.arange(6)[:, None]
    shifted = points + torch.tensor([0.009, 0.0, 0.0])
    return near(score(answer, shifted, points, 1e-4), 1, "a cloud and its copy shifted by 0.009, at τ = 1e-4")


def not_beyond_a_hundredth(answer, generator):
    points = torch.rand(6, 3, generator=generator, dtype=torch.float64).mul(8).round() + torch.arange(6)[:, None]
    shifted = points[:5].clone()
    shifted[:2, 0] += 0.011
    expected = squared_score(shifted, points, 1e-4)
    return near(score(answer, shifted, points, 1e-4), expected, "5 of 6 points, 2 of them shifted by 0.011, τ = 1e-4")


def as_they_compute(answer, generator):
    x, y = two_clouds(generator)
    tau = a_threshold(x, y) ** 2
    return near(score(answer, x, y, tau), squared_score(x, y, tau), f"two random clouds at τ = {tau:.2g}")


def lib_score(pred, target, threshold):
    return pointsets.f_score(pred[None], target[None], threshold)[0]


PIXEL2MESH = Exercise(
    "1.3",
    "The F-score of Pixel2Mesh",
    kind="code",
    minutes=10,
    checks={
        "0.009 is near enough": within_a_hundredth,
        "0.011 is not": not_beyond_a_hundredth,
        "on random clouds": as_they_compute,
    },
    hints=(
        "They compare τ with squared distances: d² < τ. Which threshold for d itself is the same?",
        "d² < τ means d < √τ. For τ = 1e-4 that is 0.01. Give √τ to `pointsets.f_score`, with batch axes.",
    ),
    wrong={
        "τ as a length": lambda pred, target, tau: lib_score(pred, target, tau),
        "squared once more": lambda pred, target, tau: lib_score(pred, target, tau**2),
        "always 0.01": lambda pred, target, tau: lib_score(pred, target, 0.01),
        "always full": lambda pred, target, tau: torch.tensor(1.0),
        "a hundred times τ": lambda pred, target, tau: lib_score(pred, target, 100 * tau),
        "three times too long": lambda pred, target, tau: lib_score(pred, target, 3 * tau**0.5),
        "precision": lambda pred, target, tau: precision(pred, target, tau**0.5),
    },
)


# --- 1.4: the Sinkhorn divergence ---------------------------------------------------------------------------


def ot(x, y, epsilon):
    return pointsets.sinkhorn_distance(x[None], y[None], epsilon, debiased=False, tolerance=1e-4)[0]


def two_small_clouds(generator):
    x, y = two_clouds(generator)
    return x[:10], y[:15]


def zero_on_itself(answer, generator):
    x, _ = two_small_clouds(generator)
    return near(answer(x, x.clone(), 0.3), 0, "a cloud and itself, ε = 0.3", 1e-4)


def exchanged(answer, generator):
    x, y = two_small_clouds(generator)
    return near(answer(y, x, 0.3), tensor(answer(x, y, 0.3), "the divergence"), "with the clouds exchanged", 1e-3)


def price_of_a_shift(answer, generator):
    x, _ = two_small_clouds(generator)
    shift = torch.rand(3, generator=generator, dtype=torch.float64) + 0.2
    expected = shift.square().sum()
    for epsilon in (1.0, 0.2):
        what = f"a cloud and its copy shifted by a length of {float(shift.norm()):.2f}, ε = {epsilon:g}"
        if wrong := near(answer(x, x + shift, epsilon), expected, what, 1e-3):
            return wrong
    return None


def same_as_lib(answer, generator):
    x, y = two_small_clouds(generator)
    expected = pointsets.sinkhorn_distance(x[None], y[None], 0.3, tolerance=1e-4)[0]
    # The random clouds are near each other: with a tolerance for numbers of about 1 everything would pass.
    return near(100 * tensor(answer(x, y, 0.3), "the divergence"), 100 * expected, "100 × S of two random clouds", 1e-3)


DIVERGENCE = Exercise(
    "1.4",
    "A shift and the bias",
    kind="code",
    minutes=20,
    checks={
        "zero on itself": zero_on_itself,
        "symmetric": exchanged,
        "a shift costs its squared length": price_of_a_shift,
        "the same as lib": same_as_lib,
    },
    hints=(
        "Translate the definition of S in section 1.4 term by term; `ot(x, y, epsilon)` gives each of the three terms.",
        "For the proof: ‖x − y − t‖² = ‖x − y‖² − 2 (x − y)·t + ‖t‖². Sum the middle term over a plan.",
        "Σ Γ_ij (x_i − y_j) is the mean of X minus the mean of Y, whatever the plan. So the shift changes OT by a "
        "constant and leaves the best plan as it is.",
    ),
    wrong={
        "nothing subtracted": ot,
        "subtracted whole": lambda x, y, e: ot(x, y, e) - ot(x, x, e) - ot(y, y, e),
        "only X": lambda x, y, e: ot(x, y, e) - ot(x, x, e),
        "added": lambda x, y, e: ot(x, y, e) + (ot(x, x, e) + ot(y, y, e)) / 2,
        "half of it": lambda x, y, e: (ot(x, y, e) - (ot(x, x, e) + ot(y, y, e)) / 2) / 2,
        "the root": lambda x, y, e: (ot(x, y, e) - (ot(x, x, e) + ot(y, y, e)) / 2).clamp(min=0).sqrt(),
        "the distance of the means": lambda x, y, e: (x.mean(0) - y.mean(0)).square().sum(),
        "ε fixed": lambda x, y, e: ot(x, y, 0.05) - (ot(x, x, e) + ot(y, y, e)) / 2,
    },
)


# --- 1.5: fewer points than the target ----------------------------------------------------------------------


def two_shares(answer):
    shares = tensor(answer, "the two shares")
    return shares.detach().flatten().tolist(), shape(shares, (2,), "the two shares")


def chamfer_is_thin(answer, generator):
    shares, wrong = two_shares(answer)
    return wrong or between(shares[0], 0.2, 0.8, "Chamfer, over the number expected")


def sinkhorn_is_right(answer, generator):
    shares, wrong = two_shares(answer)
    return wrong or between(shares[1], 0.8, 1.25, "Sinkhorn, over the number expected")


FEWER = Exercise(
    "1.5",
    "Fewer points than the target",
    kind="experiment",
    minutes=20,
    function=False,
    checks={"Chamfer": chamfer_is_thin, "Sinkhorn": sinkhorn_is_right},
    hints=(
        "Sample 512 points of the horse and 64 of the ball. Fit twice from the same start, 60 steps each.",
        "`count_head(cloud)` counts points in head and neck. Expected are 64 times the target's count over 512.",
    ),
    wrong={
        "counts": (5, 10),
        "exchanged": (1.0, 0.5),
        "not fitted": (0.0, 0.0),
        "both right": (1.0, 1.0),
        "both thin": (0.5, 0.5),
        "one number": 0.5,
    },
)


# --- 1.6: a better start ------------------------------------------------------------------------------------


def start_points(answer, generator, count=3000):
    target = a_target(generator) + torch.tensor([3.0, -1.0, 0.5])
    points = tensor(answer(target, count, generator), "the points")
    if wrong := shape(points, (count, 3), f"{count} points"):
        raise Trouble(wrong)
    return target, points


def one_row_each(answer, generator):
    target = a_target(generator)
    return shape(answer(target, 7, generator), (7, 3), "7 points")


def inside_the_box(answer, generator):
    target, points = start_points(answer, generator)
    low, high = target.amin(0), target.amax(0)
    return between((points - low) / (high - low), -1e-5, 1 + 1e-5, "a coordinate, as a share of the box")


def even_in_the_box(answer, generator):
    target, points = start_points(answer, generator)
    low, high = target.amin(0), target.amax(0)
    octants = (((points - low) / (high - low)) > 0.5).long() @ torch.tensor([4, 2, 1])
    share = torch.bincount(octants, minlength=8).double() / len(points)
    if (share - 0.125).abs().max() > 0.04:
        return f"an eighth of the box holds {percent(share.min())}, another {percent(share.max())}, not 12.5 % each"
    middle = float((((points - low) / (high - low) - 0.5).abs() < 0.25).all(1).double().mean())
    return None if abs(middle - 0.125) < 0.04 else f"the middle eighth of the box holds {percent(middle)}, not 12.5 %"


def follows_its_generator(answer, generator):
    target = a_target(generator)
    seeds = torch.randint(1_000_000, (2,), generator=generator).tolist()
    first, again = (answer(target, 9, torch.Generator().manual_seed(seeds[0])) for _ in range(2))
    other = answer(target, 9, torch.Generator().manual_seed(seeds[1]))
    if torch.equal(tensor(first, "it"), tensor(other, "it")):
        return "two generators with different seeds give the same points"
    return near(again, first, "two generators with the same seed")


def to_box(target, share):
    low, high = target.amin(0), target.amax(0)
    return low + (high - low) * share


BOX = Exercise(
    "1.6",
    "A better start",
    kind="experiment",
    minutes=15,
    checks={
        "one row a point": one_row_each,
        "inside the box": inside_the_box,
        "even in the box": even_in_the_box,
        "follows its generator": follows_its_generator,
    },
    hints=(
        "`target.amin(0)` and `target.amax(0)` are two opposite corners of the box.",
        "Stretch and shift torch.rand(count, 3, generator=generator) from the unit cube to the box.",
    ),
    wrong={
        "the unit cube": lambda target, count, g: torch.rand(count, 3, generator=g),
        "not shifted": lambda target, count, g: (target.amax(0) - target.amin(0)) * torch.rand(count, 3, generator=g),
        "its own random numbers": lambda target, count, g: to_box(target, torch.rand(count, 3)),
        "always the same": lambda target, count, g: to_box(
            target, torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
        ),
        "one number for three": lambda target, count, g: to_box(target, torch.rand(count, 1, generator=g)),
        "a bell": lambda target, count, g: to_box(
            target, torch.randn(count, 3, generator=g).mul(0.15).add(0.5).clamp(0, 1)
        ),
        "one column a point": lambda target, count, g: to_box(target, torch.rand(count, 3, generator=g)).T,
    },
)


EXERCISES = [DISC, PRECISION, SHIFT_PRICE, DENSITY, DECEIVE, PIXEL2MESH, DIVERGENCE, FEWER, BOX]
