"""What creatures wear: colours as functions of the place on the middling body at rest, so nothing needs a UV map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Coat = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Noise:
    """Smooth noise over space, mean 0 and variance 1, with bumps of about one `wavelength`: a sum of plane waves."""

    waves: Tensor
    phases: Tensor

    @classmethod
    def sample(cls, rng: np.random.Generator, wavelength: float, count: int = 20, dimensions: int = 3) -> Noise:
        directions = rng.normal(size=(count, dimensions))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = 2 * np.pi / wavelength * rng.uniform(0.7, 1.4, (count, 1))
        phases = rng.uniform(0, 2 * np.pi, count)
        return cls(torch.as_tensor(directions * lengths, dtype=torch.float32), torch.as_tensor(phases).float())

    def __call__(self, points: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        return (2 / len(self.phases)) ** 0.5 * torch.addmm(self.phases, points, self.waves.T).cos_().sum(-1)


def step(value: Tensor, low: float, high: float) -> Tensor:
    """Hermite's smooth step from 0 at `low` to 1 at `high` (low > high falls)."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def paint(base: Tensor, color, weight: Tensor) -> Tensor:
    """Lay `color` (3,) or (N, 3) over base (N, 3) with opacity weight (N,)."""
    return base + weight[:, None] * (torch.as_tensor(color, dtype=base.dtype) - base)


def spot(points: Tensor, center, radius: float, softness: float = 0.3) -> Tensor:
    """1 inside a ball, 0 outside; both sides of the body at once."""
    offset = torch.stack([points[:, 0], points[:, 1], points[:, 2].abs()], -1) - torch.tensor(center)
    return step(offset.norm(dim=-1), radius * (1 + softness), radius * (1 - softness))


def _vary(color, rng: np.random.Generator, amount: float = 0.12) -> np.ndarray:
    return (np.asarray(color) * (1 + amount * rng.uniform(-1, 1)) + 0.02 * rng.uniform(-1, 1, 3)).clip(0.02, 0.98)


# coat, hair, points (the lower legs), muzzle
HORSES = {
    "bay": ((0.45, 0.23, 0.10), (0.05, 0.04, 0.04), (0.06, 0.05, 0.05), (0.14, 0.09, 0.07)),
    "chestnut": ((0.60, 0.28, 0.11), (0.52, 0.24, 0.10), (0.52, 0.24, 0.10), (0.46, 0.24, 0.15)),
    "black": ((0.09, 0.08, 0.085), (0.04, 0.04, 0.045), (0.07, 0.06, 0.06), (0.10, 0.09, 0.09)),
    "palomino": ((0.80, 0.57, 0.27), (0.93, 0.86, 0.72), (0.80, 0.62, 0.38), (0.55, 0.40, 0.30)),
    "grey": ((0.62, 0.62, 0.64), (0.26, 0.26, 0.28), (0.30, 0.30, 0.32), (0.25, 0.24, 0.25)),
    "dun": ((0.70, 0.55, 0.36), (0.10, 0.08, 0.07), (0.20, 0.15, 0.11), (0.25, 0.18, 0.14)),
    "piebald": ((0.10, 0.09, 0.09), (0.12, 0.11, 0.11), (0.85, 0.83, 0.80), (0.45, 0.36, 0.35)),
    "skewbald": ((0.48, 0.24, 0.11), (0.86, 0.83, 0.78), (0.87, 0.84, 0.80), (0.55, 0.42, 0.38)),
}


def horse_coat(rng: np.random.Generator) -> Coat:
    """Bay, chestnut, black, palomino, dapple grey, dun, piebald or skewbald, with socks, a blaze, hooves and eyes."""
    name = rng.choice(list(HORSES))
    body, hair, legs, muzzle = (_vary(color, rng) for color in HORSES[name])
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
        # Lighter below and towards the flanks, as most coats are.
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


COATS = {"quadruped": horse_coat}
