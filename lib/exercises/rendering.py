"""Chapter 4: edge functions and weights, perspective, the soft mask, and fits to a silhouette."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn import functional as F

from lib import rendering
from lib.datasets.synthetic import creatures
from lib.exercises.engine import Exercise
from lib.exercises.properties import (
    between,
    finite,
    gradient_of,
    has_derivative,
    near,
    one_of,
    shape,
    tensor,
)
from lib.geometry import mesh, rotations
from lib.geometry.image_plane import foreground_distance
from lib.losses.silhouette import distance_loss
from lib.rendering import reference

# --- 4.A: the weights of a point outside --------------------------------------------------------------------


def three_numbers(answer, generator):
    return shape(answer, (3,), "the weights")


def sum_to_one(answer, generator):
    return near(tensor(answer, "the weights").sum(), 1, "their sum")


def put_the_point_back(answer, generator):
    a, b, c = torch.rand(3, 2, generator=generator, dtype=torch.float64)
    mixed = tensor(answer, "the weights", (3,)).double() @ torch.stack([a, b, c])
    return near(mixed, a + (a - c) / 2, "w_a a + w_b b + w_c c in a random triangle")


POINT_OUTSIDE = Exercise(
    "4.A",
    "The weights of a point outside",
    kind="predict",
    minutes=2,
    function=False,
    checks={
        "three numbers": three_numbers,
        "they sum to one": sum_to_one,
        "they put p in its place": put_the_point_back,
    },
    hints=(
        "p is on the line through c and a. Which corner has nothing to do with that line?",
        "Multiply out p = a + (a − c) / 2 and read off what stands before a, b and c.",
    ),
    wrong={
        "between a and c": (0.75, 0.0, 0.25),
        "no sign": (1.5, 0.0, 0.5),
        "b and c exchanged": (1.5, -0.5, 0.0),
        "beyond c": (-0.5, 0.0, 1.5),
        "two numbers": (1.5, -0.5),
        "one number": 1.5,
    },
)


# --- 4.B: the depth halfway up the image --------------------------------------------------------------------


def depths(generator):
    """A near and a far depth."""
    near_by, more = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return 0.5 + near_by, 1.0 + near_by + 6 * more


def by_hand(answer, generator):
    return near(answer(1.4, 7.0), 7 / 3, "between the depths 1.4 and 7")


def equal_depths(answer, generator):
    z, _ = depths(generator)
    return near(answer(z, z), z, f"between {z:.2f} and {z:.2f}")


def either_order(answer, generator):
    front, back = depths(generator)
    return near(answer(back, front), tensor(answer(front, back), "the depth"), "with the two depths exchanged")


def as_projected(answer, generator):
    front, back = depths(generator)
    x = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    middle = (x[0] / front + x[1] / back) / 2

    def at(share):
        return x[0] + share * (x[1] - x[0]), front + share * (back - front)

    # Walk along the floor until the point is seen in the middle of the image: the share is found by halving.
    low, high = 0.0, 1.0
    sign = 1 if x[1] / back > x[0] / front else -1
    for _ in range(60):
        share = (low + high) / 2
        place, z = at(share)
        low, high = (share, high) if sign * (place / z - middle) < 0 else (low, share)
    return near(answer(front, back), z, f"between {front:.2f} and {back:.2f}")


HALFWAY = Exercise(
    "4.B",
    "Halfway in the image",
    kind="code",
    minutes=3,
    checks={
        "the floor of this section": by_hand,
        "equal depths": equal_depths,
        "blind to order": either_order,
        "what a camera sees": as_projected,
    },
    hints=(
        "In the middle of the image both weights w are one half. Put them into the formula for z.",
        "1 / z is the mean of 1 / near and 1 / far.",
    ),
    wrong={
        "the mean of the depths": lambda near, far: (near + far) / 2,
        "the geometric mean": lambda near, far: (near * far) ** 0.5,
        "no weights": lambda near, far: 1 / (1 / near + 1 / far),
        "a sixth of the way, always": lambda near, far: near + (far - near) / 6,
        "the mean of the inverses": lambda near, far: (1 / near + 1 / far) / 2,
        "the weights times z": lambda near, far: (near**2 + far**2) / (near + far),
    },
)


# --- 4.C: the gradient of a hard mask -----------------------------------------------------------------------


def which_way(answer, generator):
    return one_of(
        answer,
        "zero",
        {
            "right": "that is where it should go; but does any pixel change when the triangle moves by a millionth?",
            "left": "away from the target? Does the loss change at all when the triangle moves by a millionth?",
        },
    )


HARD_MASK = Exercise(
    "4.C",
    "Which way does the gradient push?",
    kind="predict",
    minutes=1,
    function=False,
    checks={"which way": which_way},
    hints=("Move the triangle to the right by a millionth of a pixel. How many pixels change from 0 to 1?",),
    wrong={"where it should go": "right", "away": "left", "another word": "up", "a number": 0},
)


# --- 4.1: the gradient of the weights -----------------------------------------------------------------------


def triangle_and_point(generator, clockwise=False):
    """A triangle (3, 2) that is neither small nor thin, and a point (2,) somewhere in it."""
    angle = torch.tensor([0.0, 2.1, 4.2]) + torch.rand(3, generator=generator)
    corners = 0.8 * torch.stack([angle.cos(), angle.sin()], -1).double()
    corners = corners.flip(0) if clockwise else corners
    share = 0.1 + torch.rand(3, generator=generator, dtype=torch.float64)
    return corners, share / share.sum() @ corners


def weights_at(corners, point):
    return reference.barycentrics(point[None], corners[None])[0]


def nine_vectors(answer, generator):
    return shape(answer(*triangle_and_point(generator)), (3, 3, 2), "the gradients")


def sum_is_kept(answer, generator):
    yours = tensor(answer(*triangle_and_point(generator)), "the gradients", (3, 3, 2))
    return near(yours.sum(0), torch.zeros(3, 2), "their sum over j")


def corner_under_the_pixel(answer, generator):
    corners, _ = triangle_and_point(generator)
    yours = tensor(answer(corners, corners[0].clone()), "the gradients", (3, 3, 2))
    what = "p at corner 0: the gradients by corners 1 and 2"
    return near(yours[:, 1:], torch.zeros(3, 2, 2), what)


def all_corners_together(answer, generator):
    corners, point = triangle_and_point(generator)
    yours = tensor(answer(corners, point), "the gradients", (3, 3, 2))
    slope = torch.autograd.functional.jacobian(lambda p: weights_at(corners, p), point)
    return near(yours.sum(1), -slope, "their sum over k")


def by_differences(answer, generator, clockwise=False):
    corners, point = triangle_and_point(generator, clockwise)
    expected, step = torch.zeros(3, 3, 2, dtype=torch.float64), 1e-5
    for k in range(3):
        for axis in range(2):
            nudge = torch.zeros_like(corners)
            nudge[k, axis] = step
            expected[:, k, axis] = weights_at(corners + nudge, point) - weights_at(corners - nudge, point)
    return near(answer(corners, point), expected / (2 * step), "∂w/∂v", 1e-3)


def clockwise_too(answer, generator):
    return by_differences(answer, generator, clockwise=True)


def slopes_of_weights(corners, point):
    """The gradients ∇_p w_j, (3, 2): the opposite edge, turned by a right angle, divided by twice the area."""
    opposite = corners.roll(-2, 0) - corners.roll(-1, 0)
    turned = torch.stack([-opposite[:, 1], opposite[:, 0]], -1)
    return turned / reference.cross(corners[1] - corners[0], corners[2] - corners[0])


def gradients_of_weights(corners, point):
    return -weights_at(corners, point)[None, :, None] * slopes_of_weights(corners, point)[:, None]


def doubled_area(corners):
    return reference.cross(corners[1] - corners[0], corners[2] - corners[0])


WEIGHT_GRADIENTS = Exercise(
    "4.1",
    "The rasteriser's backward pass in one line",
    kind="algebra",
    minutes=20,
    checks={
        "nine vectors, (3, 3, 2)": nine_vectors,
        "the weights keep their sum": sum_is_kept,
        "where p is a corner, the two others do not matter": corner_under_the_pixel,
        "all corners together: as if p moved back": all_corners_together,
        "as by finite differences": by_differences,
        "in a clockwise triangle too": clockwise_too,
    },
    hints=(
        "Keep p = Σ_j w_j v_j fixed and move corner k by δ: Σ_j dw_j v_j + w_k δ = 0, and Σ_j dw_j = 0.",
        "Now keep the corners and move p by ε: Σ_j dw_j v_j = ε, and Σ_j dw_j = 0. Compare: ε = −w_k δ. "
        "So ∂w_j/∂v_k = −w_k ∇_p w_j.",
        "∇_p of the edge function e(a, b; p) is (−(b_y − a_y), b_x − a_x). Divide by e(a, b; c), with its sign.",
    ),
    wrong={
        "the other sign": lambda corners, point: -gradients_of_weights(corners, point),
        "j and k exchanged": lambda corners, point: gradients_of_weights(corners, point).transpose(0, 1),
        "without w_k": lambda corners, point: -slopes_of_weights(corners, point)[:, None].expand(3, 3, 2),
        "with w_j": lambda corners, point: (
            -weights_at(corners, point)[:, None, None] * slopes_of_weights(corners, point)[:, None].expand(3, 3, 2)
        ),
        "not divided by the area": lambda corners, point: gradients_of_weights(corners, point) * doubled_area(corners),
        "the area without its sign": lambda corners, point: (
            gradients_of_weights(corners, point) * doubled_area(corners).sign()
        ),
        "x and y exchanged": lambda corners, point: gradients_of_weights(corners, point).flip(-1),
        "one corner": lambda corners, point: gradients_of_weights(corners, point)[:, 0],
    },
)


# --- 4.2: the width of the blur -----------------------------------------------------------------------------


def one_case(answer, generator):
    return near(answer(1e-4, 64), 64 * math.sqrt(1e-4 * math.log(9)), "σ = 1e-4 at 64²", 1e-3)


def four_times_sigma(answer, generator):
    sigma = 10 ** (-5 + 2 * float(torch.rand(1, generator=generator)))
    once = tensor(answer(sigma, 128), "the width")
    return near(answer(4 * sigma, 128), 2 * once, "with four times the σ, twice the width", 1e-3)


def twice_the_pixels(answer, generator):
    sigma = 10 ** (-4 + 2 * float(torch.rand(1, generator=generator)))
    once = tensor(answer(sigma, 100), "the width")
    return near(answer(sigma, 200), 2 * once, "with twice as many pixels a side, twice the width", 1e-3)


def as_drawn(answer, generator):
    """Along one row of a fine picture, across one long edge: where the mask falls from 0.9 to 0.1."""
    offset, logarithm = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    sigma, size, place = 10 ** (-5 + 2 * logarithm), 1024, 0.01 * offset
    x = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1
    triangle = torch.tensor([[place, -40.0], [place, 40.0], [-40.0, 0.0]], dtype=torch.float64)
    points = torch.stack([x, torch.zeros_like(x)], -1)
    mask = torch.sigmoid(-reference.signed_squared_distance(points, triangle.expand(size, 3, 2)) / sigma)

    def crossing(level):
        last = int((mask > level).sum()) - 1
        return last + float((mask[last] - level) / (mask[last] - mask[last + 1]))

    drawn = crossing(0.1) - crossing(0.9)
    return near(answer(sigma, size) / drawn, 1.0, f"σ = {sigma:.1e} at 1024²: your width over the picture's", 0.05)


RAMP = Exercise(
    "4.2",
    "How many pixels wide is the blur?",
    kind="algebra",
    minutes=15,
    checks={
        "a value: σ = 1e-4 at 64²": one_case,
        "grows with the root of σ": four_times_sigma,
        "grows with the number of pixels": twice_the_pixels,
        "as in a picture of 1024²": as_drawn,
    },
    hints=(
        "sigmoid(x) = 0.9 at x = ln 9, and 0.1 at x = −ln 9. Which distances from the edge are these?",
        "The distance is squared before it is divided by σ: d² = σ ln 9 on either side, one inside and one outside.",
        "The image is 2 wide and has `size` pixels a side: how wide is one pixel?",
    ),
    wrong={
        "one side only": lambda sigma, size: size / 2 * math.sqrt(sigma * math.log(9)),
        "not squared": lambda sigma, size: size * sigma * math.log(9),
        "in units of the image plane": lambda sigma, size: 2 * math.sqrt(sigma * math.log(9)),
        "a pixel is 1 / size wide": lambda sigma, size: 2 * size * math.sqrt(sigma * math.log(9)),
        "without the logarithm": lambda sigma, size: size * math.sqrt(sigma),
        "at 64² only": lambda sigma, size: 64 * math.sqrt(sigma * math.log(9)),
    },
)


# --- 4.3: a blur of the plain distance ----------------------------------------------------------------------


def blurred(verts, faces, size, width, fade=None, join=None):
    """The exercise's mask. `fade` (squared distance, inside) → exponent, `join` (F, size²) → mask change one step."""
    corners = verts[faces, :2]
    points = reference.pixel_centers((size, size), verts).repeat(len(faces), 1)
    signed = reference.signed_squared_distance(points, corners.repeat_interleave(size * size, 0)).view(len(faces), -1)
    exponent = (fade or plain_distance)(signed) / width
    mask = (join or missed_by_all)(exponent)
    return mask.view(size, size)


def plain_distance(signed):
    return signed.sign() * signed.abs().clamp(min=1e-12).sqrt()


def missed_by_all(exponent):
    return 1 - (-F.softplus(-exponent).sum(0)).exp()


def two_triangles(generator):
    """Vertices (6, 3) of two triangles that overlap, and their faces."""
    first, second = (triangle_and_point(generator)[0].float() for _ in range(2))
    flat = torch.cat([0.8 * first - 0.15, 0.8 * second + 0.15])
    return F.pad(flat, (0, 1)), torch.arange(6).view(2, 3)


# Its right edge lies at x = 0, between two columns of pixels; or 1/16 further, on the centres of the next column.
HALF_PLANE = torch.tensor([[0.0, -40.0, 0.0], [0.0, 40.0, 0.0], [-40.0, 0.0, 0.0]])
ONE_FACE = torch.tensor([[0, 1, 2]])


def is_a_mask(answer, generator):
    verts, faces = two_triangles(generator)
    mask = answer(verts, faces, 16, 0.05)
    return shape(mask, (16, 16), "the mask") or between(mask, 0, 1, "the mask")


def half_at_the_edge(answer, generator):
    width = 0.02 + 0.1 * float(torch.rand(1, generator=generator))
    mask = tensor(answer(HALF_PLANE, ONE_FACE, 16, width), "the mask", (16, 16))
    return near(mask + mask.flip(1), torch.ones(16, 16), "the mask at an edge, plus its mirror image")


def fades_with_the_distance(answer, generator):
    width = 0.1 + 0.2 * float(torch.rand(1, generator=generator))
    mask = tensor(answer(HALF_PLANE, ONE_FACE, 16, width), "the mask", (16, 16))
    x = (2 * torch.arange(16) + 1) / 16 - 1
    return near(mask[8], torch.sigmoid(-x / width), f"a row across an edge, width {width:.2f}")


def two_faces(answer, generator):
    verts, faces = two_triangles(generator)
    both, first, second = (
        tensor(answer(verts, chosen, 16, 0.05), "the mask", (16, 16)) for chosen in (faces, faces[:1], faces[1:])
    )
    return near(both, 1 - (1 - first) * (1 - second), "two faces: missed by both")


def pixel_on_the_edge(answer, generator):
    at = HALF_PLANE + torch.tensor([1 / 16, 0.0, 0.0])
    gradient = gradient_of(lambda verts: answer(verts, ONE_FACE, 16, 0.05), at, "the mask")
    return finite(gradient, "a pixel lies exactly on an edge: the gradient")


def derivative_by_differences(answer, generator):
    verts, faces = two_triangles(generator)
    weights = torch.rand(16, 16, generator=generator, dtype=torch.float64)

    def weighted(moved):
        return tensor(answer(moved, faces, 16, 0.05), "the mask", (16, 16)) * weights

    return has_derivative(weighted, verts, generator, "the mask", step=1e-5, tolerance=1e-2)


@cache
def disc_on_trial():
    """The scene on which section 4.9 compares gradients: a disc, its faces, the wanted mask, and the judge (14, 2).

    The judge is the gradient by finite differences of the mask of covered shares.
    """
    count, size, fine = 14, 32, 32
    angle = torch.arange(count) * 2 * math.pi / count
    rim = torch.stack([0.45 * angle.cos() - 0.1, 0.45 * angle.sin(), 0 * angle], -1)
    disc = torch.cat([rim, torch.tensor([[-0.1, 0.0, 0.0]])])
    faces = torch.stack([torch.arange(count), (torch.arange(count) + 1) % count, torch.full((count,), count)], -1)

    def coverage(verts):
        return F.avg_pool2d(rendering.rasterize(verts[None], faces, fine * size).mask.float(), fine)[0]

    wanted = coverage(disc * torch.tensor([0.9, 1.3, 1.0]) + torch.tensor([0.15, 0.1, 0.0]))
    step = 0.25 * 2 / size
    judge = torch.zeros(count, 2)
    for vertex in range(count):
        for axis in range(2):
            nudge = torch.zeros_like(disc)
            nudge[vertex, axis] = step
            ahead, behind = ((coverage(disc + sign * nudge) - wanted).square().mean() for sign in (1, -1))
            judge[vertex, axis] = (ahead - behind) / (2 * step)
    return disc, faces, wanted, judge


def points_the_right_way(answer, generator):
    disc, faces, wanted, judge = disc_on_trial()

    def loss(verts):
        return (tensor(answer(verts, faces, 32, 0.015), "the mask", (32, 32)) - wanted).square().mean()

    gradient = gradient_of(loss, disc, "the mask")[: len(judge), :2]
    cosine = F.cosine_similarity(gradient.flatten(), judge.flatten(), dim=0)
    return between(cosine, 0.98, 1.0, "on the disc of 4.9, with width 0.015: the cosine with the judge")


PLAIN_DISTANCE = Exercise(
    "4.3",
    "Blur by the distance, not by its square",
    kind="code",
    minutes=25,
    seconds=60,
    checks={
        "a mask": is_a_mask,
        "one half on the outline": half_at_the_edge,
        "fades with the plain distance": fades_with_the_distance,
        "covered unless all faces miss": two_faces,
        "a pixel on an edge has a finite gradient": pixel_on_the_edge,
        "the gradient of finite differences": derivative_by_differences,
        "cosine with the judge of 4.9 above 0.98": points_the_right_way,
    },
    hints=(
        "Take the root of `distance` before its sign is set.",
        "The slope of a root is infinite at zero, and 0 times infinity is NaN: keep the distance away from zero.",
        "distance.clamp(min=1e-12).sqrt(), then the same softplus as before, divided by `width`.",
    ),
    wrong={
        "still squared": lambda *given: blurred(*given, fade=lambda signed: signed),
        "a bare root": lambda *given: blurred(*given, fade=lambda signed: signed.sign() * signed.abs().sqrt()),
        "no sign": lambda *given: blurred(*given, fade=lambda signed: signed.abs().clamp(min=1e-12).sqrt()),
        "inside out": lambda *given: blurred(*given, fade=lambda signed: -plain_distance(signed)),
        "the nearest face only": lambda *given: blurred(*given, join=lambda t: torch.sigmoid(-t).amax(0)),
        "the sum of the faces": lambda *given: blurred(*given, join=lambda t: torch.sigmoid(-t).sum(0)),
        "detached": lambda *given: blurred(*given).detach(),
        "a step": lambda *given: blurred(*given, join=lambda t: (t < 0).any(0).to(t.dtype)),
        "a list of pixels": lambda *given: blurred(*given).flatten(),
    },
)


# --- 4.4: a score that sees a ruined leg --------------------------------------------------------------------


def bent_template(generator):
    """The template with vertices moved at random, the template itself, and the ends of its edges (E, 2)."""
    rest = creatures.template("quadruped").verts
    moved = rest * (1 + 0.2 * torch.rand(3, generator=generator))
    return moved + 0.01 * torch.randn(rest.shape, generator=generator), rest, template_edges()


@cache
def template_edges():
    return mesh.edges(creatures.template("quadruped").faces)


def one_number_a_vertex(answer, generator):
    return shape(answer(*bent_template(generator)), (642,), "the stretch")


def zero_for_a_rigid_motion(answer, generator):
    _, rest, ends = bent_template(generator)
    turn = rotations.random_rotations(1, generator=generator)[0]
    return near(
        answer(rest @ turn.T + 0.3, rest, ends), torch.zeros(len(rest)), "the template, turned and shifted", 1e-3
    )


def larger_and_smaller(answer, generator):
    _, rest, ends = bent_template(generator)
    ones = torch.ones(len(rest))
    wrong = near(answer(2 * rest, rest, ends), ones, "the template twice as large", 1e-3)
    return wrong or near(answer(0.25 * rest, rest, ends), 0.75 * ones, "the template a quarter as large", 1e-3)


def one_long_edge(answer, generator):
    """A path of four vertices; its middle edge becomes longer, its last one shorter."""
    rest = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    now = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2.5, 0, 0], [3.25, 0, 0]])
    ends = torch.tensor([[0, 1], [1, 2], [2, 3]])
    return near(answer(now, rest, ends), torch.tensor([0.0, 0.5, 0.5, 0.25]), "lengths 1, 1, 1 become 1, 1.5, 0.75")


def as_vertex_by_vertex(answer, generator):
    now, rest, ends = bent_template(generator)
    change = (edge_lengths(now, ends) / edge_lengths(rest, ends) - 1).abs()
    expected = torch.stack([change[(ends == vertex).any(1)].max() for vertex in range(0, len(rest), 40)])
    return near(
        tensor(answer(now, rest, ends), "the stretch", (642,))[::40], expected, "a bent horse, each 40th vertex"
    )


def edge_lengths(points, ends):
    return (points[ends[:, 0]] - points[ends[:, 1]]).norm(dim=-1)


def spread(change, ends, count, reduce="amax", both=True):
    """Give each vertex the largest (or another mean of the) change of its edges."""
    change, index = (change.repeat(2), ends.T.flatten()) if both else (change, ends[:, 0])
    return torch.zeros(count).scatter_reduce(0, index, change, reduce, include_self=False)


def relative_change(verts, rest, ends):
    return edge_lengths(verts, ends) / edge_lengths(rest, ends) - 1


VERTEX_STRETCH = Exercise(
    "4.4",
    "A score that sees a ruined leg",
    kind="code",
    minutes=25,
    seconds=60,
    checks={
        "one number for each vertex": one_number_a_vertex,
        "zero where the mesh has only moved": zero_for_a_rigid_motion,
        "longer counts, and so does shorter": larger_and_smaller,
        "the largest change, at both ends of an edge": one_long_edge,
        "as vertex by vertex": as_vertex_by_vertex,
    },
    hints=(
        "First one number for each edge: |length now / length at rest − 1|.",
        "Start with zeros, one for each vertex. Each edge gives its number to both of its ends, and the largest stays.",
        'torch.zeros(V).scatter_reduce(0, index, values, "amax") does it; `edges.T.flatten()` are the ends, '
        "first all first ones, then all second ones, so `values` must be repeated.",
    ),
    wrong={
        "the mean": lambda verts, rest, ends: spread(relative_change(verts, rest, ends).abs(), ends, len(rest), "mean"),
        "longer only": lambda verts, rest, ends: spread(
            relative_change(verts, rest, ends).clamp(min=0), ends, len(rest)
        ),
        "without absolute value": lambda verts, rest, ends: spread(relative_change(verts, rest, ends), ends, len(rest)),
        "one end only": lambda verts, rest, ends: spread(
            relative_change(verts, rest, ends).abs(), ends, len(rest), both=False
        ),
        "not relative": lambda verts, rest, ends: spread(
            (edge_lengths(verts, ends) - edge_lengths(rest, ends)).abs(), ends, len(rest)
        ),
        "relative to the length now": lambda verts, rest, ends: spread(
            relative_change(rest, verts, ends).abs(), ends, len(rest)
        ),
        "squared lengths": lambda verts, rest, ends: spread(
            ((edge_lengths(verts, ends) / edge_lengths(rest, ends)).square() - 1).abs(), ends, len(rest)
        ),
        "how far the vertices moved": lambda verts, rest, ends: (verts - rest).norm(dim=-1),
        "one number for each edge": lambda verts, rest, ends: relative_change(verts, rest, ends).abs(),
    },
)


# --- 4.5: a pull from far away ------------------------------------------------------------------------------


def blob(generator):
    """A mask (24, 32) with one object, not square so that rows and columns cannot be exchanged."""
    row, column = (torch.rand(2, generator=generator) * torch.tensor([10.0, 16.0])).int().tolist()
    mask = torch.zeros(24, 32)
    mask[row + 2 : row + 9, column + 3 : column + 12] = 1
    return mask


def one_point_one_pixel(answer, generator):
    mask = torch.zeros(4, 4)
    mask[0, 3] = 1  # its centre lies at x = 0.75, y = -0.75
    return near(answer(torch.tensor([[0.75, 0.25]]), mask), 1.0, "the point (0.75, 0.25), one pixel at (0.75, −0.75)")


def nothing_inside(answer, generator):
    rows, columns = blob(generator).nonzero().unbind(1)
    points = torch.stack([(2 * columns + 1) / 32 - 1, (2 * rows + 1) / 24 - 1], -1)
    mask = torch.zeros(24, 32)
    mask[rows, columns] = 1
    return near(answer(points, mask), 0.0, "points on the mask's pixels", 1e-5)


def a_mean(answer, generator):
    points, mask = 2 * torch.rand(20, 2, generator=generator) - 1, blob(generator)
    once = tensor(answer(points, mask), "the distance")
    return near(answer(torch.cat([points, points]), mask), once, "every point twice")


def as_the_library(answer, generator):
    mask = blob(generator)
    rows, columns = (torch.rand(30, 2, generator=generator) * torch.tensor([24.0, 32.0])).long().unbind(1)
    points = torch.stack([(2 * columns + 1) / 32 - 1, (2 * rows + 1) / 24 - 1], -1)
    expected = distance_loss(points[None], foreground_distance(mask[None]))
    return near(answer(points, mask), expected, "30 points and a mask of 24 × 32 pixels", 1e-3)


def pulls_from_afar(answer, generator):
    mask = torch.zeros(24, 32)
    mask[12, 4] = 1
    at = torch.tensor([[-23 / 32, 1 / 24]]) + torch.tensor([[5.0 + float(torch.rand(1, generator=generator)), 0.0]])
    gradient = gradient_of(lambda points: answer(points, mask), at, "the distance")
    return near(gradient, torch.tensor([[1.0, 0.0]]), "one point far to the right of one pixel: the gradient", 1e-3)


def distances_to_pixels(points, mask, swapped=False):
    height, width = mask.shape
    row, column = (mask > 0.5).nonzero().unbind(1)
    x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
    return torch.cdist(points, torch.stack([y, x] if swapped else [x, y], -1).to(points))


PULL_FROM_AFAR = Exercise(
    "4.5",
    "A pull from far away",
    kind="code",
    minutes=25,
    seconds=60,
    checks={
        "one point, one pixel": one_point_one_pixel,
        "zero on the object": nothing_inside,
        "a mean over the points": a_mean,
        "as lib.losses.silhouette.distance_loss": as_the_library,
        "a pull of full strength from any distance": pulls_from_afar,
    },
    hints=(
        "`mask.nonzero()` gives rows and columns. Section 4.1 has the formula for the centres: columns give x, rows y.",
        "torch.cdist(points, centers) holds all distances, (N, M). Which of the two axes has the minimum?",
    ),
    wrong={
        "x and y exchanged": lambda points, mask: distances_to_pixels(points, mask, swapped=True).amin(1).mean(),
        "the sum": lambda points, mask: distances_to_pixels(points, mask).amin(1).sum(),
        "squared": lambda points, mask: distances_to_pixels(points, mask).amin(1).square().mean(),
        "from the mask to the points": lambda points, mask: distances_to_pixels(points, mask).amin(0).mean(),
        "to all pixels": lambda points, mask: distances_to_pixels(points, mask).mean(),
        "detached": lambda points, mask: distances_to_pixels(points, mask).amin(1).mean().detach(),
        "the farthest point": lambda points, mask: distances_to_pixels(points, mask).amin(1).amax(),
        "in pixels": lambda points, mask: 16 * distances_to_pixels(points, mask).amin(1).mean(),
        "one a point": lambda points, mask: distances_to_pixels(points, mask).amin(1),
    },
)


# --- 4.6: swing a leg ---------------------------------------------------------------------------------------


def leg(generator):
    """Vertices (30, 3), the hinge (3,) and which of them hang below it (30,)."""
    verts = 2 * torch.rand(30, 3, generator=generator) - 1
    hinge = 0.4 * torch.rand(3, generator=generator) - 0.2
    return verts, hinge, verts[:, 1] < hinge[1]


def zero_degrees(answer, generator):
    verts, hinge, moving = leg(generator)
    return near(answer(verts, hinge, moving, 0.0), verts, "by 0 degrees")


def others_stay(answer, generator):
    verts, hinge, moving = leg(generator)
    swung = tensor(answer(verts, hinge, moving, 30.0), "the vertices", verts.shape)
    return near(swung[~moving], verts[~moving], "vertices of the body")


def hoof_goes_forward(answer, generator):
    hinge = torch.rand(3, generator=generator)
    hoof = hinge + torch.tensor([[0.0, -1.0, 0.0]])
    expected = hinge + torch.tensor([[0.5, -math.sqrt(0.75), 0.0]])
    swung = answer(hoof, hinge, torch.tensor([True]), 30.0)
    return near(tensor(swung, "the hoof") - hinge, expected - hinge, "a hoof straight below the hinge, by 30 degrees")


def leg_stays_stiff(answer, generator):
    verts, hinge, moving = leg(generator)
    swung = tensor(answer(verts, hinge, moving, 40.0), "the vertices", verts.shape)
    before, after = (torch.cdist(points[moving], hinge[None]) for points in (verts, swung))
    return near(after, before, "distances from the hinge") or near(
        torch.pdist(swung[moving]), torch.pdist(verts[moving]), "distances within the leg"
    )


def sideways_stays(answer, generator):
    verts, hinge, moving = leg(generator)
    swung = tensor(answer(verts, hinge, moving, 50.0), "the vertices", verts.shape)
    return near(swung[:, 2], verts[:, 2], "z, across the body")


def turned_leg(verts, hinge, moving, degrees, axis=(0.0, 0.0, 1.0), unit=math.pi / 180, around=None):
    rotation = rotations.axis_angle_to_matrix(degrees * unit * torch.tensor(axis))
    around = hinge if around is None else around
    return torch.where(moving[:, None], (verts - around) @ rotation.T + around, verts)


SWING_A_LEG = Exercise(
    "4.6",
    "Is one leg enough?",
    kind="experiment",
    minutes=25,
    checks={
        "by 0 degrees nothing moves": zero_degrees,
        "the body stays": others_stay,
        "a positive angle takes the hoof forward, to +x": hoof_goes_forward,
        "the leg stays stiff": leg_stays_stiff,
        "nothing moves sideways": sideways_stays,
    },
    hints=(
        "A rotation about the hinge: subtract the hinge, rotate, add it again. torch.where keeps the body.",
        "The axis of rotation is z, across the body. rotations.axis_angle_to_matrix takes a vector: axis times angle, "
        "the angle in radians.",
        "Rows of `verts` are points: (verts − hinge) @ rotation.T + hinge. Seen from +z, with x to the right and y up, "
        "a positive angle turns x towards y; so it takes a hoof below the hinge to +x.",
    ),
    wrong={
        "backward": lambda verts, hinge, moving, degrees: turned_leg(verts, hinge, moving, -degrees),
        "radians": lambda verts, hinge, moving, degrees: turned_leg(verts, hinge, moving, degrees, unit=1.0),
        "about the origin": lambda verts, hinge, moving, degrees: turned_leg(
            verts, hinge, moving, degrees, around=torch.zeros(3)
        ),
        "about x": lambda verts, hinge, moving, degrees: turned_leg(
            verts, hinge, moving, degrees, axis=(1.0, 0.0, 0.0)
        ),
        "the whole horse": lambda verts, hinge, moving, degrees: turned_leg(
            verts, hinge, torch.ones_like(moving), degrees
        ),
        "a shift": lambda verts, hinge, moving, degrees: (
            verts + moving[:, None] * math.sin(math.radians(degrees)) * torch.tensor([1.0, 0.0, 0.0])
        ),
        "moved to the hinge": lambda verts, hinge, moving, degrees: torch.where(
            moving[:, None], turned_leg(verts, hinge, moving, degrees) - hinge, verts
        ),
    },
)


EXERCISES = [
    POINT_OUTSIDE,
    HALFWAY,
    HARD_MASK,
    WEIGHT_GRADIENTS,
    RAMP,
    PLAIN_DISTANCE,
    VERTEX_STRETCH,
    PULL_FROM_AFAR,
    SWING_A_LEG,
]
