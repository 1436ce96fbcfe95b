"""Six families of objects, each from a style and random proportions.

A style is a tuple of choices, one of each list in `STYLES`. Within a style, `describe` draws proportions and colours.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lib.datasets.synthetic.objects.primitives import (
    UP,
    Box,
    Extruded,
    Pipe,
    Placed,
    Turned,
    along,
    ball,
    cylinder,
    inset,
)

Rng = np.random.Generator

STYLES: dict[str, dict[str, tuple[str, ...]]] = {
    "car": {
        "body": ("saloon", "hatchback", "estate", "pickup", "van", "coupe"),
        "rear": ("plain", "spoiler"),
        "roof": ("plain", "rack"),
    },
    "plane": {
        "wings": ("straight", "swept", "delta", "high"),
        "engines": ("none", "two", "four", "propeller"),
        "tail": ("low", "T"),
    },
    "chair": {
        "legs": ("four", "stretchers", "sled", "pedestal", "star"),
        "back": ("solid", "slats", "ladder", "round"),
        "arms": ("none", "arms"),
    },
    "table": {
        "top": ("rectangle", "round", "oval"),
        "legs": ("four", "trestle", "pedestal", "box"),
        "extra": ("none", "stretchers", "shelf"),
    },
    "lamp": {
        "base": ("disc", "tripod", "dome", "block"),
        "pole": ("straight", "bent", "arch"),
        "shade": ("cone", "drum", "globe", "bowl"),
    },
    "mug": {
        "body": ("cylinder", "tapered", "barrel", "bowl"),
        "handle": ("ring", "square", "ear", "none", "two"),
        "foot": ("flat", "ring"),
    },
}
FAMILIES = tuple(STYLES)
# The last value of a family's first choice is kept for the split "style": no other split has it.
HELD_OUT = {family: next(iter(choices.values()))[-1] for family, choices in STYLES.items()}


@dataclass(frozen=True)
class Part:
    """A solid with the name of the part that it belongs to, and a colour (3,) in [0, 1]."""

    name: str
    solid: Placed
    color: np.ndarray


@dataclass(frozen=True)
class Description:
    """An object as a list of parts, with named keypoints (3,) and the number of its holes."""

    family: str
    style: tuple[str, ...]
    parts: list[Part]
    keypoints: dict[str, np.ndarray]
    genus: int


PARTS = {
    "car": ("body", "cabin", "window", "wheel", "light", "fitting"),
    "plane": ("fuselage", "wing", "tail", "engine", "window"),
    "chair": ("seat", "back", "leg", "arm"),
    "table": ("top", "leg", "extra"),
    "lamp": ("base", "pole", "shade"),
    "mug": ("body", "handle", "foot"),
}
FEET = ("left_front_foot", "right_front_foot", "left_rear_foot", "right_rear_foot")
KEYPOINTS = {
    "car": (
        *("left_front_wheel", "right_front_wheel", "left_rear_wheel", "right_rear_wheel"),
        *("left_headlight", "right_headlight", "left_taillight", "right_taillight", "roof_front", "roof_rear"),
    ),
    "plane": ("nose", "tail_end", "fin_top", "left_wing_tip", "right_wing_tip", "left_tail_tip", "right_tail_tip"),
    "chair": (
        *("left_front_seat", "right_front_seat", "left_rear_seat", "right_rear_seat"),
        *("left_back_top", "right_back_top", *FEET),
    ),
    "table": ("left_front", "right_front", "left_rear", "right_rear", "top_center", *FEET),
    "lamp": ("base_center", "pole_top", "shade_top", "shade_bottom"),
    "mug": ("rim_front", "rim_rear", "rim_left", "rim_right", "bottom", "handle"),
}


def combinations(family: str, split: str) -> list[tuple[str, ...]]:
    """List the styles of a split. Train, validation and test share every single choice, but no combination.

    Of the combinations without the held-out choice, those whose numbers sum to 0 modulo 5 are the test's, to 1 the
    validation's. "style" has all combinations with the choice that no other split has.
    """
    choices = STYLES[family]
    found = []
    for numbers in itertools.product(*(range(len(values)) for values in choices.values())):
        style = tuple(values[number] for values, number in zip(choices.values(), numbers, strict=True))
        if style[0] == HELD_OUT[family]:
            where = "style"
        else:
            # Weights make the rule change with every choice.
            code = sum(number * weight for number, weight in zip(numbers, (1, 2, 3), strict=True)) % 5
            where = {0: "test", 1: "validation"}.get(code, "train")
        if where == split:
            found.append(style)
    return found


def describe(family: str, style: tuple[str, ...], rng: Rng) -> Description:
    """Draw an object of a style: its longest side is 1, and its bounding box is centred at the origin."""
    parts, keypoints, genus = MAKERS[family](style, rng)
    return _normalized(family, style, parts, keypoints, genus)


def _normalized(family: str, style: tuple[str, ...], parts: list[Part], keypoints: dict, genus: int) -> Description:
    low, high = zip(*(part.solid.bounds() for part in parts), strict=True)
    low, high = np.min(low, axis=0), np.max(high, axis=0)
    scale = 1 / (high - low).max()
    shift = -scale * (low + high) / 2
    parts = [Part(part.name, part.solid.moved(shift, scale), part.color) for part in parts]
    keypoints = {name: scale * np.asarray(keypoints[name]) + shift for name in KEYPOINTS[family]}
    return Description(family, style, parts, keypoints, genus)


# ------------------------------------------------------------------------------------------------ colours


def _color(rng: Rng, saturation=(0.45, 0.9), value=(0.45, 0.95)) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)))


def _wood(rng: Rng) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.uniform(0.06, 0.11), rng.uniform(0.35, 0.7), rng.uniform(0.35, 0.85)))


def _metal(rng: Rng) -> np.ndarray:
    return np.full(3, rng.uniform(0.25, 0.75)) + rng.uniform(-0.03, 0.03, 3)


def _material(rng: Rng) -> np.ndarray:
    return (_wood, _metal, _color)[rng.choice(3, p=[0.5, 0.2, 0.3])](rng)


GLASS, RUBBER = np.array([0.16, 0.2, 0.26]), np.array([0.09, 0.09, 0.1])


# ------------------------------------------------------------------------------------------------ cars


def _car(style: tuple[str, ...], rng: Rng) -> tuple[list[Part], dict, int]:
    body, rear, roof = style
    long, width = rng.uniform(3.9, 4.7), rng.uniform(0.84, 0.95)
    belt, top = rng.uniform(0.86, 0.98), rng.uniform(1.36, 1.5)
    if body == "van":
        long, belt, top = long * 1.02, belt + 0.1, rng.uniform(1.85, 2.1)
    if body == "coupe":
        belt, top = belt - 0.08, rng.uniform(1.2, 1.3)
    front, back, clear = long / 2, -long / 2, 0.24
    wheel = rng.uniform(0.31, 0.37)
    hood = rng.uniform(0.7, 0.78) * belt
    paint, edge = _color(rng, (0.0, 0.9), (0.2, 0.95)), 0.07
    # The side view of the lower body, from the lower rear corner on, counter-clockwise.
    nose = rng.uniform(0.55, 0.68)
    profile = [(back + 0.05, clear), (front - 0.05, clear), (front, nose * belt), (front - 0.08, hood)]
    windscreen = {"van": front - 0.5, "pickup": front - 1.25}.get(body, front - rng.uniform(1.15, 1.35))
    deck = {"pickup": 0.95 * belt, "saloon": 0.96 * belt, "coupe": belt}.get(body, belt)
    profile += [(windscreen + 0.12, belt), (back + 0.12, deck), (back, 0.8 * belt)]
    lower = np.array(profile)
    # The cabin: base from rear to front, roof from rear to front.
    ends = {
        "saloon": (back + 0.75, back + 1.25),
        "hatchback": (back + 0.12, back + 0.55),
        "estate": (back + 0.1, back + 0.32),
        "pickup": (windscreen - 1.75, windscreen - 1.6),
        "van": (back + 0.08, back + 0.16),
        "coupe": (back + 0.35, back + 1.35),
    }
    base_rear, roof_rear = ends[body]
    slope = {"van": 0.45, "coupe": 0.95}.get(body, 0.62)
    roof_front = windscreen - slope
    cabin = np.array([(base_rear, belt - 0.2), (windscreen, belt - 0.2), (windscreen, belt), (roof_front, top)])
    cabin = np.vstack([cabin, [(roof_rear, top), (base_rear, belt)]])
    half = width - 0.12

    parts = [
        Part("body", Extruded(inset(lower, edge), width - edge, edge), paint),
        Part("cabin", Extruded(inset(cabin, edge), half - edge, edge), paint),
    ]
    # Windows: a band of the cabin's side view, a little wider than the cabin; a plate before wind- and rear screen.
    low, high = belt + 0.06, top - 0.12

    def at_height(y: float, foot: np.ndarray, head: np.ndarray) -> float:
        return float(foot[0] + (head[0] - foot[0]) * (y - foot[1]) / (head[1] - foot[1]))

    front_line = np.array([windscreen, belt]), np.array([roof_front, top])
    rear_line = np.array([base_rear, belt]), np.array([roof_rear, top])
    margin = 0.14
    band = [
        (at_height(low, *rear_line) + margin, low),
        (at_height(low, *front_line) - margin, low),
        (at_height(high, *front_line) - margin, high),
        (at_height(high, *rear_line) + margin, high),
    ]
    if body == "van":
        band[0], band[3] = (front - 2.0, low), (front - 2.0, high)
    parts.append(Part("window", Extruded(np.array(band), half + 0.012), GLASS))
    for foot, head in (front_line, rear_line):
        if body == "van" and foot is rear_line[0]:
            continue
        direction = head - foot
        normal = np.array([direction[1], -direction[0]]) / np.linalg.norm(direction)
        normal = normal if foot is front_line[0] else -normal
        inner = [foot + direction * t + normal * off for t, off in ((0.14, -0.06), (0.14, 0.012), (0.86, 0.012))]
        inner.append(foot + direction * 0.86 - normal * 0.06)
        parts.append(Part("window", Extruded(np.array(inner), half - 0.12), GLASS))
    axles = front - rng.uniform(0.75, 0.85), back + rng.uniform(0.7, 0.85)
    rim = _metal(rng)
    keypoints = {}
    for where, x in zip(("front", "rear"), axles, strict=True):
        for side, z in (("left", -1), ("right", 1)):
            place = dict(at=np.array([x, wheel, z * (width - 0.1)]), turn=along((0, 0, 1)))
            parts.append(Part("wheel", cylinder(wheel, 0.13, 0.04, **place), RUBBER))
            hub = dict(at=np.array([x, wheel, z * (width + 0.02)]), turn=along((0, 0, 1)))
            parts.append(Part("wheel", cylinder(0.6 * wheel, 0.03, 0.01, **hub), rim))
            keypoints[f"{side}_{where}_wheel"] = (x, wheel, z * (width + 0.05))
    for name, x, color, y in (
        ("headlight", front - 0.03, np.array([1.0, 0.97, 0.8]), 0.5 * (nose * belt + hood)),
        ("taillight", back + 0.03, np.array([0.75, 0.06, 0.06]), 0.76 * belt),
    ):
        for side, z in (("left", -1), ("right", 1)):
            center = np.array([x, y, z * (width - 0.24)])
            parts.append(Part("light", Box(np.array([0.07, 0.07, 0.15]), 0.03, at=center), color))
            keypoints[f"{side}_{name}"] = center + 0.07 * np.sign(x) * np.array([1, 0, 0])
    genus = 0
    if rear == "spoiler":
        x, y = (back + 0.2, deck) if body in ("saloon", "coupe", "pickup") else (roof_rear + 0.12, top)
        for z in (-0.5, 0.5):
            parts.append(
                Part("fitting", Box(np.array([0.05, 0.14, 0.045]), 0.01, at=np.array([x, y + 0.07, z])), paint)
            )
        wing = np.array([0.13, 0.045, 0.72])
        parts.append(Part("fitting", Box(wing, 0.02, at=np.array([x, y + 0.23, 0.0])), paint))
        genus += 1
    if roof == "rack":
        dark, span = np.full(3, 0.15), (roof_rear + 0.45, roof_front - 0.1)
        for z in (-half + 0.22, half - 0.22):
            nodes = [
                (span[0], top - 0.06, z),
                (span[0], top + 0.24, z),
                (span[1], top + 0.24, z),
                (span[1], top - 0.06, z),
            ]
            parts.append(Part("fitting", Pipe(np.array(nodes), 0.06), dark))
        genus += 2
    keypoints |= {"roof_front": (roof_front, top, 0), "roof_rear": (roof_rear, top, 0)}
    return parts, keypoints, genus


# ------------------------------------------------------------------------------------------------ planes


def _plane(style: tuple[str, ...], rng: Rng) -> tuple[list[Part], dict, int]:
    wings, engines, tail = style
    long, radius = rng.uniform(3.4, 4.4), rng.uniform(0.24, 0.32)
    span = {"straight": 1.9, "swept": 2.0, "delta": 1.45, "high": 2.1}[wings] * rng.uniform(0.9, 1.1)
    color, second = _color(rng, (0.0, 0.15), (0.75, 0.98)), _color(rng)
    nose, end = long / 2, -long / 2
    stations = np.array([(1.0, 0.0), (0.985, 0.3), (0.95, 0.55), (0.86, 0.86), (0.75, 1.0), (0.3, 1.0), (0.1, 0.62)])
    profile = [(radius * r, long * (s - 0.5)) for s, r in stations[::-1]]
    profile = np.array([(0.0, end), (0.3 * radius, end + 0.03), *profile])
    parts = [Part("fuselage", Turned(profile, turn=along((1, 0, 0))), color)]
    height = 0.75 * radius if wings == "high" else -0.45 * radius
    root, tip = rng.uniform(0.7, 0.9), rng.uniform(0.28, 0.4)
    sweep = {"straight": 0.1, "swept": 1.0, "delta": 1.4, "high": 0.1}[wings] * rng.uniform(0.85, 1.1)
    if wings == "delta":
        root, tip = rng.uniform(1.7, 1.95), 0.22
    lead = rng.uniform(0.35, 0.5) if wings != "delta" else 0.75
    thick = 0.055

    def wing(lead: float, root: float, tip: float, sweep: float, span: float, y: float, name: str, color) -> None:
        """Both wings: their outline from above, as one solid through the body."""
        for z in (-1, 1):
            corners = [(lead, 0.0), (lead - sweep, span), (lead - sweep - tip, span), (lead - root, 0.0)]
            solid = Extruded(np.array(corners), thick - 0.03, 0.03, at=np.array([0, y, 0]), turn=_flat(z))
            parts.append(Part(name, solid, color))

    wing(lead, root, tip, sweep, span, height, "wing", color)
    fin, fin_root = rng.uniform(0.62, 0.8), 0.62
    back = end + 0.1
    corners = np.array([(back, 0.0), (back + fin_root, 0.0), (back + 0.22, fin), (back - 0.12, fin)])
    parts.append(Part("tail", Extruded(corners, thick - 0.03, 0.03, at=np.array([0, 0.5 * radius, 0])), second))
    level = 0.5 * radius + fin - 0.02 if tail == "T" else 0.35 * radius
    reach = rng.uniform(0.65, 0.85)
    at = back + (0.24 if tail == "T" else 0.5)
    wing(at, 0.42, 0.2, 0.3, reach, level, "tail", second)
    pods = {"none": [], "two": [0.42], "four": [0.35, 0.66], "propeller": []}[engines]
    for share in pods:
        for z in (-1, 1):
            place = np.array([lead - share * sweep + 0.05 - 0.1 * root, height - 0.14, z * share * span])
            parts.append(Part("engine", cylinder(0.13, 0.3, 0.04, top=0.115, at=place, turn=along((1, 0, 0))), second))
    if engines == "propeller":
        hub = np.array([nose + 0.01, 0, 0])
        parts.append(Part("engine", ball(0.1, at=hub), second))
        angle = rng.uniform(0, np.pi / 2)
        for turn in (angle, angle + np.pi / 2):
            blade = np.array([0.0, np.cos(turn), np.sin(turn)])
            turned = np.column_stack([[1.0, 0, 0], blade, np.cross([1.0, 0, 0], blade)])
            parts.append(Part("engine", Box(np.array([0.045, 0.55, 0.07]), 0.03, at=hub, turn=turned), GLASS))
    glass = np.array([nose - 0.14 * long, 0.62 * radius, 0])
    parts.append(Part("window", Box(np.array([0.17, 0.13, 0.16]), 0.06, at=glass), GLASS))
    tips = (lead - sweep - tip / 2, height)
    tail_tips = (at - 0.3 - 0.1, level)
    keypoints = {
        "nose": (nose, 0, 0),
        "tail_end": (end, 0, 0),
        "fin_top": (back + 0.05, 0.5 * radius + fin, 0),
        "left_wing_tip": (*tips, -span),
        "right_wing_tip": (*tips, span),
        "left_tail_tip": (*tail_tips, -reach),
        "right_tail_tip": (*tail_tips, reach),
    }
    return parts, keypoints, 0


def _flat(side: int) -> np.ndarray:
    """Axes that lay a polygon's x along x and its y along ±z, so that its thickness is vertical."""
    y = np.array([0, 0, float(side)])
    x = np.array([1.0, 0, 0])
    return np.column_stack([x, y, np.cross(x, y)])


# ------------------------------------------------------------------------------------------------ chairs and tables


def _chair(style: tuple[str, ...], rng: Rng) -> tuple[list[Part], dict, int]:
    legs, back, arms = style
    deep, wide, high = rng.uniform(0.42, 0.5) / 2, rng.uniform(0.42, 0.54) / 2, rng.uniform(0.42, 0.5)
    thick, bar = rng.uniform(0.022, 0.04), rng.uniform(0.019, 0.026)
    tall, lean = rng.uniform(0.42, 0.58), rng.uniform(0.0, 0.1)
    frame, cushion = _material(rng), _material(rng)
    seat = Box(np.array([deep, thick, wide]), 0.015, at=np.array([0, high, 0]))
    parts = [Part("seat", seat, cushion)]
    x, z = deep - bar - 0.005, wide - bar - 0.005
    under = high - thick
    join = min(under + bar, high + thick - bar - 0.004)  # no rod comes out on top
    genus = 0

    def rod(name: str, *nodes) -> None:
        parts.append(Part(name, Pipe(np.array(nodes, float), bar), frame))

    feet = {(a, b): (a * x * 1.06, bar, b * z * 1.06) for a in (1, -1) for b in (1, -1)}
    if legs in ("four", "stretchers"):
        for (a, b), foot in feet.items():
            rod("leg", foot, (a * x, join, b * z))
        if legs == "stretchers":
            level = rng.uniform(0.3, 0.5) * high
            for b in (1, -1):
                rod("leg", (x * 1.03, level, b * z * 1.03), (-x * 1.03, level, b * z * 1.03))
            rod("leg", (0, level, z * 1.03), (0, level, -z * 1.03))
            genus += 3
    elif legs == "sled":
        for b in (1, -1):
            rod(
                "leg",
                (x, join, b * z),
                (x * 1.06, bar, b * z),
                (-x * 1.06, bar, b * z),
                (-x, join, b * z),
            )
        genus += 2
    else:
        parts.append(Part("leg", cylinder(1.5 * bar, under / 2 + 0.02, at=np.array([0, under / 2 + 0.02, 0])), frame))
        if legs == "pedestal":
            parts.append(Part("leg", cylinder(0.8 * deep, 0.02, 0.008, at=np.array([0, 0.02, 0])), frame))
        else:
            for k in range(5):
                turn = 2 * np.pi * k / 5
                rod("leg", (0, 3 * bar, 0), (1.05 * deep * np.cos(turn), bar, 1.05 * deep * np.sin(turn)))
    top = high + tall

    def behind(y: float) -> float:
        return -x - lean * (y - high) / tall

    above = high + thick
    if back == "solid":
        middle = np.array([behind((above + top) / 2), (high + top) / 2, 0])
        lean_by = np.arctan2(lean, tall)
        c, s = np.cos(lean_by), np.sin(lean_by)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        parts.append(Part("back", Box(np.array([1.1 * bar, tall / 2 / c, wide]), 0.012, at=middle, turn=turn), cushion))
    elif back == "round":
        hoop = np.linspace(0, np.pi, 13)
        nodes = [(behind(high), high, -z)]
        rise = tall - z
        nodes += [(behind(high + rise + z * np.sin(t)), high + rise + z * np.sin(t), -z * np.cos(t)) for t in hoop]
        rod("back", *nodes, (behind(high), high, z))
        rod("back", (behind(high), high, 0), (behind(top), top, 0))
        genus += 2
    else:
        for b in (1, -1):
            rod("back", (behind(high), high, b * z), (behind(top), top, b * z))
        rod("back", (behind(top), top, -z), (behind(top), top, z))
        genus += 1
        count = int(rng.integers(2, 5))
        for k in range(count):
            if back == "slats":
                at = z * (2 * (k + 1) / (count + 1) - 1)
                rod("back", (behind(high), high, at), (behind(top), top, at))
            else:
                y = above + (top - above) * (k + 1) / (count + 1)
                rod("back", (behind(y), y, -z), (behind(y), y, z))
            genus += 1
    if arms == "arms":
        level = high + rng.uniform(0.36, 0.45) * min(tall, 0.5)
        if back == "round":  # below the bend of the hoop
            level = min(level, high + 0.9 * (tall - z))
        for b in (1, -1):
            rod("arm", (0.75 * x, high, b * z), (0.75 * x, level, b * z), (behind(level), level, b * z))
        genus += 2
    keypoints = {
        f"{side}_{where}_seat": (a * deep, high + thick, b * wide)
        for side, b in (("left", -1), ("right", 1))
        for where, a in (("front", 1), ("rear", -1))
    }
    bend, corner = (0.3 * z, 0.71 * z) if back == "round" else (0, z)  # where the hoop is at 45°
    y = top - bend
    keypoints |= {f"{side}_back_top": (behind(y), y, b * corner) for side, b in (("left", -1), ("right", 1))}
    if legs == "star":
        turns = np.array([-2, 2, -4, 4]) * np.pi / 5
        ends = 1.05 * deep * np.column_stack([np.cos(turns), np.sin(turns)])
    else:
        reach = (0.56 * deep, 0.56 * deep) if legs == "pedestal" else (1.06 * x, 1.06 * z)
        ends = np.array([(1, -1), (1, 1), (-1, -1), (-1, 1)]) * reach
    keypoints |= {name: (a, 0.02, b) for name, (a, b) in zip(FEET, ends, strict=True)}
    return parts, keypoints, genus


def _table(style: tuple[str, ...], rng: Rng) -> tuple[list[Part], dict, int]:
    top, legs, extra = style
    long, wide, high = rng.uniform(0.55, 0.85), rng.uniform(0.35, 0.5), rng.uniform(0.6, 0.85)
    thick, bar = rng.uniform(0.022, 0.038), rng.uniform(0.026, 0.04)
    wood, frame = _material(rng), _material(rng)
    at = np.array([0, high, 0])
    if top == "rectangle":
        parts = [Part("top", Box(np.array([long, thick, wide]), 0.012, at=at), wood)]
        x, z = long - 2 * bar, wide - 2 * bar
    else:
        if top == "round":
            long = wide = 0.5 * (long + wide)
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        rim = np.column_stack([(long - 0.012) * np.cos(angles), (wide - 0.012) * np.sin(angles)])
        parts = [Part("top", Extruded(rim, thick - 0.012, 0.012, at=at, turn=_flat(1)), wood)]
        x, z = 0.62 * long, 0.62 * wide
    under, genus = high - thick, 0
    join = min(under + bar, high + thick - bar - 0.004)

    def rod(name: str, *nodes) -> None:
        parts.append(Part(name, Pipe(np.array(nodes, float), bar), frame))

    corners = [(a * x, b * z) for a in (1, -1) for b in (1, -1)]
    level = rng.uniform(0.25, 0.4) * high
    if legs in ("four", "box"):
        for a, b in corners:
            if legs == "four":
                rod("leg", (a, bar, b), (a, join, b))
            else:
                half = np.array([bar, join / 2, bar])
                parts.append(Part("leg", Box(half, 0.004, at=np.array([a, half[1], b])), frame))
        if extra == "stretchers":
            for a in (x, -x):
                rod("extra", (a, level, z), (a, level, -z))
            rod("extra", (x, level, 0), (-x, level, 0))
        elif extra == "shelf":
            half = np.array([x + 0.5 * bar, 0.5 * bar + 0.008, z + 0.5 * bar])
            parts.append(Part("extra", Box(half, 0.006, at=np.array([0, level, 0])), wood))
        genus += 3 * (extra != "none")
    elif legs == "trestle":
        for a in (x, -x):
            rod("leg", (a, bar, -z), (a, join, -0.25 * z))
            rod("leg", (a, bar, z), (a, join, 0.25 * z))
            rod("leg", (a, 0.45 * high, -0.62 * z), (a, 0.45 * high, 0.62 * z))
        genus += 2
        if extra == "stretchers":
            rod("extra", (x, 0.45 * high, 0), (-x, 0.45 * high, 0))
            genus += 1
        elif extra == "shelf":
            half = np.array([x + 0.3 * bar, 0.014, 0.3 * z])
            parts.append(Part("extra", Box(half, 0.006, at=np.array([0, 0.45 * high, 0])), wood))
            genus += 1
    else:
        column = cylinder(1.6 * bar, under / 2 + 0.02, at=np.array([0, under / 2 + 0.02, 0]))
        parts.append(Part("leg", column, frame))
        parts.append(Part("leg", cylinder(0.6 * min(x, z) + 0.1, 0.03, 0.01, at=np.array([0, 0.03, 0])), frame))
        if extra == "stretchers":
            for a, b in corners:
                rod("extra", (0, 0.62 * high, 0), (0.75 * a, under, 0.75 * b))
            genus += 4
        elif extra == "shelf":
            parts.append(
                Part("extra", cylinder(0.5 * min(x, z) + 0.06, 0.016, 0.006, at=np.array([0, level, 0])), wood)
            )
    y = high + thick
    keypoints = {
        "left_front": (x, y, -z),
        "right_front": (x, y, z),
        "left_rear": (-x, y, -z),
        "right_rear": (-x, y, z),
        "top_center": (0, y, 0),
    }
    plate = 0.7 * (0.6 * min(x, z) + 0.1)
    reach = (plate, plate) if legs == "pedestal" else (x, z)
    ends = np.array([(1, -1), (1, 1), (-1, -1), (-1, 1)]) * reach
    keypoints |= {name: (a, 0.02, b) for name, (a, b) in zip(FEET, ends, strict=True)}
    return parts, keypoints, genus


# ------------------------------------------------------------------------------------------------ lamps and mugs


def _lamp(style: tuple[str, ...], rng: Rng) -> tuple[list[Part], dict, int]:
    base, pole, shade = style
    high, bar = rng.uniform(0.75, 1.1), rng.uniform(0.018, 0.026)
    foot, metal, cloth = rng.uniform(0.17, 0.24), _material(rng), _color(rng, (0.1, 0.7), (0.7, 0.98))
    ground = 0.05
    parts = []
    if base == "disc":
        parts.append(Part("base", cylinder(foot, 0.022, 0.01, at=np.array([0, 0.022, 0])), metal))
    elif base == "dome":
        angles = np.linspace(0, np.pi / 2, 9)
        dome = np.column_stack([foot * np.cos(angles), 0.5 * foot * np.sin(angles)])
        dome[-1, 0] = 0
        parts.append(Part("base", Turned(np.vstack([[0, 0], dome])), metal))
    elif base == "block":
        half = np.array([0.75 * foot, 0.05, 0.75 * foot])
        parts.append(Part("base", Box(half, 0.012, at=np.array([0, 0.05, 0])), metal))
    else:
        ground = 0.34 * high
        for k in range(3):
            turn = 2 * np.pi * k / 3 + np.pi / 3
            end = (1.25 * foot * np.cos(turn), bar, 1.25 * foot * np.sin(turn))
            parts.append(Part("base", Pipe(np.array([(0, ground, 0), end]), bar), metal))
    start = np.array([0, 0.5 * ground if base != "tripod" else ground, 0])
    if pole == "straight":
        nodes = np.array([start, (0, high, 0)])
    elif pole == "bent":
        knee = np.array([-rng.uniform(0.06, 0.1), 0.55 * high, 0])
        nodes = np.array([start, knee, (rng.uniform(0.06, 0.1), high, 0)])
    else:
        angles = np.linspace(0, np.pi, 13)
        bow = rng.uniform(0.17, 0.23)
        arc = [(bow - bow * np.cos(t), high - bow + bow * np.sin(t), 0) for t in angles]
        nodes = np.array([start, *arc])
    parts.append(Part("pole", Pipe(nodes, bar), metal))
    tip = nodes[-1]
    size, wall = rng.uniform(0.2, 0.28), 0.022
    tall = size * rng.uniform(0.8, 1.1)
    if shade == "globe":
        center = tip + (0.75 if pole != "arch" else -0.7) * size * UP
        parts.append(Part("shade", ball(0.85 * size, at=center), cloth))
        up, down = center + 0.85 * size * UP, center - 0.85 * size * UP
    else:
        upper = {"cone": 0.4, "drum": 0.92, "bowl": 0.3}[shade] * size
        outline = [(0, 0), (upper, 0), (size, -tall)]
        if shade == "bowl":
            t = np.linspace(0.35, np.pi / 2, 8)
            outline = [(0, 0), *[(size * np.sin(a), 0.75 * tall * (np.cos(a) - np.cos(0.35))) for a in t]]
        parts.append(Part("shade", Turned(_shell(np.array(outline), wall), at=tip + wall * UP), cloth))
        up, down = tip + wall * UP, tip + (wall + outline[-1][1]) * UP
    keypoints = {
        "base_center": start if base == "tripod" else (0, 0, 0),
        "pole_top": tip,
        "shade_top": up,
        "shade_bottom": down,
    }
    return parts, keypoints, 0


def _shell(outline: np.ndarray, wall: float) -> np.ndarray:
    """A wall of a cup, open below: the outline (radius, height) from the axis outwards, and back inside of it."""
    inner = outline.copy()
    inner[:, 1] -= wall
    inner[1:, 0] = np.maximum(outline[1:, 0] - wall * 1.15, 0.01)
    inner[-1, 1] = outline[-1, 1]
    return np.vstack([outline, inner[::-1]])


def _mug(style: tuple[str, ...], rng: Rng) -> tuple[list[Part], dict, int]:
    body, handle, foot = style
    radius, tall, wall = rng.uniform(0.36, 0.46), rng.uniform(0.8, 1.1), rng.uniform(0.045, 0.06)
    glaze = _color(rng, (0.1, 0.85), (0.4, 0.98))
    accent = glaze if rng.uniform() < 0.5 else _color(rng, (0.1, 0.85), (0.3, 0.98))
    s = np.linspace(0, 1, 9)
    curve = {
        "cylinder": np.ones(9),
        "tapered": 0.72 + 0.34 * s,
        "barrel": 0.8 + 0.26 * np.sin(np.pi * s),
        "bowl": np.sqrt(np.maximum(1 - (1 - s) ** 2 * 0.75, 0)) * 1.12,
    }[body]
    tall = tall * (0.75 if body == "bowl" else 1)
    outside = np.column_stack([radius * curve, tall * s])
    inside = np.column_stack([radius * np.interp(s, s, curve) - wall, wall * 1.4 + (tall - wall * 1.4) * s])
    profile = np.vstack([[0, 0], outside, inside[::-1], [0, wall * 1.4]])
    parts = [Part("body", Turned(profile), glaze)]
    if foot == "ring":
        ring = np.array([(0.55, -0.07), (0.78, -0.07), (0.78, 0.03), (0.55, 0.03)]) * [radius * curve[0], 1]
        parts.append(Part("foot", Turned(ring), accent))
    sides = {"none": [], "two": [1, -1]}.get(handle, [1])
    bar = rng.uniform(0.055, 0.07)
    low, high = 0.25 * tall, 0.78 * tall
    grip = np.array([radius * np.interp(0.5, s, curve), tall / 2, 0])
    for side in sides:
        from_x, to_x = (radius * np.interp(y / tall, s, curve) - wall / 2 for y in (low, high))
        out = rng.uniform(0.3, 0.38)
        if handle == "square":
            x = max(from_x, to_x) + out
            nodes = [(from_x, low, 0), (x, low, 0), (x, high, 0), (to_x, high, 0)]
        else:
            t = np.linspace(0, 1, 13)
            swell = np.sin(np.pi * t).clip(0) ** 0.6 * (out if handle != "ear" else out * (0.75 + 0.6 * t))
            nodes = np.column_stack([from_x + (to_x - from_x) * t + swell, low + (high - low) * t, 0 * t])
        nodes = np.array(nodes) * [side, 1, 1]
        parts.append(Part("handle", Pipe(nodes, bar), accent))
        if side == 1:
            grip = nodes[np.abs(nodes[:, 0]).argmax()] + [bar, 0, 0]
    rim = radius * curve[-1] - wall / 2
    keypoints = {
        "rim_front": (rim, tall, 0),
        "rim_rear": (-rim, tall, 0),
        "rim_left": (0, tall, -rim),
        "rim_right": (0, tall, rim),
        "bottom": (0, 0, 0),
        "handle": grip,
    }
    return parts, keypoints, len(sides)


MAKERS: dict[str, Callable[[tuple[str, ...], Rng], tuple[list[Part], dict, int]]] = {
    "car": _car,
    "plane": _plane,
    "chair": _chair,
    "table": _table,
    "lamp": _lamp,
    "mug": _mug,
}
