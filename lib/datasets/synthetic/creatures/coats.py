"""Coats of creatures: colours as functions of the place on the average body at rest, so no UV map is needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lib.datasets.synthetic.noise import Noise, paint, step

Coat = Callable[[Tensor, Tensor], Tensor]


def spot(points: Tensor, center, radius: float, softness: float = 0.3) -> Tensor:
    """Weights of a spot: 1 inside a ball, 0 outside, on both sides of the body at once."""
    offset = torch.stack([points[:, 0], points[:, 1], points[:, 2].abs()], -1) - torch.tensor(center)
    return step(offset.norm(dim=-1), radius * (1 + softness), radius * (1 - softness))


def _palette(text: str) -> np.ndarray:
    return np.array([list(bytes.fromhex(color)) for color in text.split()]) / 255


def _vary(color, rng: np.random.Generator, amount: float = 0.12) -> np.ndarray:
    return (np.asarray(color) * (1 + amount * rng.uniform(-1, 1)) + 0.02 * rng.uniform(-1, 1, 3)).clip(0.02, 0.98)


# Colours as hexadecimal RGB: coat, hair, points (the lower legs), muzzle.
HORSES = {
    "bay": "733b1a 0d0a0a 0f0d0d 241712",
    "chestnut": "99471c 853d1a 853d1a 753d26",
    "black": "171416 0a0a0b 120f0f 1a1717",
    "palomino": "cc9145 eddbb8 cc9e61 8c664c",
    "grey": "9e9ea3 424247 4c4c52 403d40",
    "dun": "b28c5c 1a1412 33261c 402e24",
    "piebald": "1a1717 1f1c1c d9d4cc 735c59",
    "skewbald": "7a3d1c dbd4c7 ded6cc 8c6b61",
}


def horse_coat(rng: np.random.Generator) -> Coat:
    """Bay, chestnut, black, palomino, dapple grey, dun, piebald or skewbald, with socks, a blaze, hooves and eyes."""
    name = rng.choice(list(HORSES))
    body, hair, legs, muzzle = (_vary(color, rng) for color in _palette(HORSES[name]))
    if name == "chestnut" and rng.uniform() < 0.35:
        hair = _vary((0.85, 0.72, 0.50), rng)
    shade, fine, patches = Noise.sample(rng, 0.5), Noise.sample(rng, 0.06), Noise.sample(rng, rng.uniform(0.5, 0.75))
    dapples, strands = Noise.sample(rng, 0.075), Noise.sample(rng, 0.035)
    threshold, points_top = rng.uniform(-0.35, 0.25), rng.uniform(0.30, 0.46)
    socks = [(x, z, rng.uniform(0.10, 0.26)) for x in (-1, 1) for z in (-1, 1) if rng.uniform() < 0.25]
    blaze = rng.choice(["none", "star", "blaze"], p=[0.45, 0.25, 0.3])
    white = _vary((0.92, 0.90, 0.87), rng, 0.04)

    def coat(points: Tensor, is_hair: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        color = torch.as_tensor(body, dtype=points.dtype).expand(len(points), 3)
        color = color * (1 + 0.07 * shade(points) + 0.04 * fine(points))[:, None]
        # Most coats are lighter below and towards the flanks.
        color = color * (1 + 0.22 * step(y, 0.72, 0.52) * (x.abs() < 0.35))[:, None]
        if name == "grey":
            on_body = step(y, 0.35, 0.55)
            color = paint(color, 1.35 * color, 0.8 * on_body * step(dapples(points), 0.1, 0.9))
            color = paint(color, 0.72 * color, 0.5 * on_body * step(dapples(points), -0.1, -0.8))
        if name == "dun":
            color = paint(color, legs, 0.9 * step(z.abs(), 0.022, 0.01) * step(y, 0.85, 0.9) * step(x, 0.4, 0.35))
        if name in ("piebald", "skewbald"):
            patch = step(patches(points), threshold - 0.05, threshold + 0.05)
            patch = patch * step(y, 0.36, 0.46) * (1 - step(x, 0.93, 0.97))
            color = paint(torch.as_tensor(white, dtype=points.dtype).expand_as(points), color, patch)
        on_legs = (x < 0.5) & (is_hair < 0.5)
        color = paint(color, legs, step(y, points_top, points_top - 0.14) * on_legs)
        for sign_x, sign_z, height in socks:
            color = paint(
                color, white, step(y, height + 0.015, height - 0.015) * on_legs * (x * sign_x > 0) * (z * sign_z > 0)
            )
        color = paint(color, muzzle, 0.85 * spot(points, (0.935, 0.965, 0.0), 0.075, 0.45))
        if blaze != "none":
            ahead = x - 0.775 + 0.63 * (y - 1.27)
            length = step(y, 1.06, 1.12) if blaze == "blaze" else step((y - 1.235).abs(), 0.045, 0.03)
            width = 0.018 if blaze == "blaze" else 0.022
            color = paint(
                color, white, length * step(z.abs(), width + 0.008, width) * (ahead > 0.0) * (x > 0.74) * (y < 1.30)
            )
        tone = (
            torch.as_tensor(hair, dtype=points.dtype)
            * (1 + 0.16 * strands(points * torch.tensor([1.0, 0.25, 1.0])))[:, None]
        )
        color = paint(color, tone, step(is_hair, 0.35, 0.65))
        color = paint(color, (0.16, 0.13, 0.11), step(y, 0.062, 0.048))
        color = paint(color, (0.05, 0.035, 0.03), spot(points, (0.797, 1.205, 0.060), 0.023))
        color = paint(color, (0.05, 0.04, 0.04), spot(points, (0.948, 0.975, 0.032), 0.013))
        return color.clamp(0.01, 1)

    return coat


# Back, breast, belly, crown, face, wings, tail, beak.
BIRDS = {
    "robin": "664f38 db5c1a dbd1c2 614c38 d95c1a 574230 544233 382e29",
    "bluebird": "295cbd c7612e ebe6e0 2457c2 2e61b8 1f479e 1c4294 1f1f21",
    "goldfinch": "e6bd1a f2cc24 f0d657 141212 edc71f 171414 1a1717 e68538",
    "cardinal": "a81a17 d11f17 cc261c d61c14 171212 851a17 8f1717 eb6b24",
    "sparrow": "805c3b b8a894 dbd1c2 753d24 c2b8a8 704c30 614733 4c4238",
    "tit": "758f47 edd642 f0e070 1a243d f0f0ed 3d669e 426699 242426",
    "blackbird": "141417 1a171a 1c1a1c 141417 171417 121214 121214 f2a824",
    "magpie": "12141a 17171c f2f2f0 121217 121214 1a2e52 143338 1a1a1a",
    "greenfinch": "5c7a2e 94a338 bdbd5c 618033 85993d 576638 4c572e cca88f",
    "dove": "9e8f8a bd9e99 ccbdb8 a39ea3 b29e99 8f8075 7a7070 3d3333",
}


def bird_coat(rng: np.random.Generator) -> Coat:
    """A songbird's plumage: back, breast, belly, crown and face of their own colours, streaks, wing bars, an eye."""
    name = rng.choice(list(BIRDS))
    back, breast, belly, crown, face, wing, tail, beak = (_vary(color, rng) for color in _palette(BIRDS[name]))
    shade, down, streaks = Noise.sample(rng, 0.4), Noise.sample(rng, 0.035), Noise.sample(rng, 0.05)
    edge = Noise.sample(rng, 0.16)
    bars = {"goldfinch": 2, "tit": 1, "sparrow": 1, "magpie": 1}.get(name, int(rng.uniform() < 0.3))
    bar_color = _vary((0.93, 0.92, 0.89), rng, 0.05)
    streaked = 0.5 if name == "sparrow" else rng.choice([0.0, 0.0, 0.25])
    brow = name == "sparrow" or rng.uniform() < 0.15
    ring = rng.uniform() < 0.3
    legs = _vary((0.45, 0.30, 0.22) if rng.uniform() < 0.6 else (0.16, 0.14, 0.14), rng)
    breast_end, belly_top = rng.uniform(-0.02, 0.10), rng.uniform(-0.02, 0.06)

    def coat(points: Tensor, is_plume: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        wobble = 0.025 * edge(points)
        # Height above the axis of the trunk, which rises towards the head.
        above = y - 0.45 * x + wobble
        color = torch.as_tensor(back, dtype=points.dtype).expand(len(points), 3)
        color = (
            color * (1 + streaked * 0.6 * step(streaks(points * torch.tensor([0.4, 1.0, 1.0])), 0.6, 1.4) * -1)[:, None]
        )
        under = step(above, belly_top + 0.05, belly_top - 0.01)
        color = paint(color, belly, under)
        front = (
            step(x - 0.3 * y + wobble, breast_end, breast_end + 0.08) * step(y, 0.28, 0.22) * step(above, 0.12, 0.05)
        )
        color = paint(color, breast, front)
        speckled = streaked * step(streaks(points * torch.tensor([1.0, 0.5, 1.4])), 0.4, 1.0) * step(above, 0.05, -0.02)
        color = paint(color, 0.55 * back, speckled * step(x, -0.2, 0.0))
        on_head = step(x + 0.25 * y, 0.335, 0.365)
        color = paint(color, face, on_head * step(y + wobble, 0.24, 0.28))
        color = paint(color, crown, on_head * step(y + 0.15 * (x - 0.4) + 0.3 * wobble, 0.425, 0.44))
        if brow:
            color = paint(color, (0.92, 0.88, 0.80), on_head * step((y - 0.435).abs(), 0.017, 0.009))
        color = color * (1 + 0.06 * shade(points) + 0.04 * down(points))[:, None]

        out, chord = z.abs(), x + 0.06 * step(z.abs(), 0.3, 0.9)
        on_wing = step(is_plume, 0.35, 0.65) * step(x, -0.25, -0.22)
        feathers = 0.5 + 0.5 * torch.cos(2 * torch.pi * (chord * 22 + out * 5))
        plumes = torch.as_tensor(wing, dtype=points.dtype) * (1.05 - 0.28 * feathers * step(chord, 0.10, 0.02))[:, None]
        plumes = paint(plumes, back, step(chord, 0.06, 0.14) * step(out, 0.40, 0.28))
        for bar in range(bars):
            at = 0.075 - 0.085 * bar
            plumes = paint(
                plumes,
                bar_color,
                step((chord - at).abs(), 0.022, 0.012) * step(out, 0.18, 0.22) * step(out, 0.66, 0.58),
            )
        plumes = paint(plumes, 0.6 * wing, step(out, 0.55, 0.75))
        color = paint(color, plumes, on_wing)
        on_tail = step(is_plume, 0.35, 0.65) * step(x, -0.30, -0.36)
        barbs = 1 - 0.16 * (0.5 + 0.5 * torch.cos(2 * torch.pi * z * 28))
        color = paint(color, torch.as_tensor(tail, dtype=points.dtype) * barbs[:, None], on_tail)

        color = paint(color, beak, step(x + 0.15 * (y - 0.38), 0.505, 0.52))
        color = paint(
            color, 0.45 * beak, step(x, 0.52, 0.53) * step((y - 0.372 + 0.12 * (x - 0.52)).abs(), 0.006, 0.002)
        )
        color = paint(color, legs, step(y, -0.235, -0.265) * step(x, -0.2, -0.15))
        if ring:
            color = paint(color, (0.93, 0.90, 0.84), spot(points, (0.425, 0.408, 0.128), 0.042, 0.15))
        color = paint(color, (0.02, 0.02, 0.02), spot(points, (0.425, 0.408, 0.130), 0.031, 0.15))
        color = paint(color, (0.95, 0.95, 0.95), spot(points, (0.434, 0.418, 0.138), 0.011, 0.3))
        return color.clamp(0.01, 1)

    return coat


COATS = {"quadruped": horse_coat, "bird": bird_coat}
