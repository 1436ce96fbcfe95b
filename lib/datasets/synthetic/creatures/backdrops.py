"""Backgrounds of creatures: sky or leaves, ground, blurred objects."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.datasets.synthetic.noise import Noise, paint, step
from lib.geometry.image_plane import pixel_centers

SKIES = [
    ((0.36, 0.56, 0.84), (0.80, 0.88, 0.95)),
    ((0.62, 0.68, 0.76), (0.86, 0.87, 0.88)),
    ((0.55, 0.62, 0.80), (0.96, 0.84, 0.70)),
]
GROUNDS = [
    (0.30, 0.44, 0.18),
    (0.44, 0.48, 0.22),
    (0.62, 0.52, 0.36),
    (0.70, 0.62, 0.48),
    (0.46, 0.38, 0.28),
    (0.86, 0.88, 0.92),
]
CLUTTER = [
    (0.13, 0.24, 0.10),
    (0.20, 0.32, 0.13),
    (0.34, 0.30, 0.20),
    (0.42, 0.24, 0.16),
    (0.46, 0.46, 0.44),
    (0.25, 0.30, 0.30),
]
FOLIAGE = [
    (0.24, 0.40, 0.14),
    (0.36, 0.46, 0.20),
    (0.50, 0.52, 0.34),
    (0.42, 0.38, 0.26),
    (0.52, 0.60, 0.66),
    (0.66, 0.60, 0.46),
]


class Meadow:
    """Sky above, ground below, blurred bushes, rocks and posts between. Made once, it is drawn for all frames."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.sky = SKIES[rng.integers(len(SKIES))]
        self.ground = np.asarray(GROUNDS[rng.integers(len(GROUNDS))]) * rng.uniform(0.8, 1.15)
        self.clouds, self.ridge = Noise.sample(rng, 1.1, dimensions=2), Noise.sample(rng, 0.9, dimensions=1)
        self.grass = [
            (Noise.sample(rng, length, dimensions=2), gain)
            for length, gain in ((0.6, 0.07), (0.12, 0.06), (0.04, 0.05))
        ]
        self.rise = rng.uniform(0.25, 0.95)
        self.far = np.asarray(CLUTTER[rng.integers(3)]) * 0.6 + np.asarray(self.sky[1]) * 0.4
        self.things = [
            (
                rng.uniform(-1.3, 1.3),
                rng.uniform(-0.35, 0.25),
                rng.uniform(0.05, 0.28),
                rng.uniform(0.5, 2.5),
                rng.uniform(0.02, 0.1),
                np.asarray(CLUTTER[rng.integers(len(CLUTTER))]) * rng.uniform(0.8, 1.5),
            )
            for _ in range(rng.integers(3, 9))
        ]
        self.noise = Noise.sample(rng, 0.09, dimensions=2)

    def draw(self, size: int, feet: float, roll: float, drift: float = 0.0) -> Float[Tensor, "H W 3"]:
        """Draw the meadow. feet: the image-plane y where the animal stands; roll in radians; drift moves the meadow
        sideways."""
        grid = pixel_centers(size, size).reshape(-1, 2)
        turn = torch.tensor([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]], dtype=torch.float32)
        place = grid @ turn
        place = place + torch.tensor([drift, 0.0])
        x, y = place.unbind(-1)
        horizon = feet - self.rise
        color = paint(torch.as_tensor(self.sky[0]).expand(len(grid), 3), self.sky[1], step(y, horizon - 1.3, horizon))
        color = paint(color, (0.97, 0.97, 0.97), 0.5 * step(self.clouds(place * torch.tensor([0.7, 1.8])), 0.3, 1.8))
        line = horizon - 0.10 - 0.05 * self.ridge(x[:, None])
        color = paint(color, self.far, step(y, line - 0.02, line + 0.02))
        below = step(y, horizon - 0.015, horizon + 0.015)
        shade = sum(gain * noise(place * torch.tensor([1.0, 2.2])) for noise, gain in self.grass)
        depth = ((y - horizon) / 1.5).clamp(0, 1)
        soil = torch.as_tensor(self.ground, dtype=torch.float32) * (1.12 - 0.25 * depth + shade)[:, None]
        color = paint(color, soil, below)
        texture = (1 + 0.14 * self.noise(place))[:, None]
        for at, level, radius, tall, blur, tone in self.things:
            distance = (((x - at) / radius) ** 2 + ((y - horizon - level * 0.5 + 0.1) / (radius * tall)) ** 2).sqrt()
            color = paint(
                color,
                torch.as_tensor(tone, dtype=torch.float32) * texture,
                0.9 * step(distance, 1 + blur / radius, 1 - blur / radius),
            )
        return color.clamp(0, 1).reshape(size, size, 3)


class Thicket:
    """Blurred leaves and lights, and the branch on which a bird perches."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.low, self.high = (
            np.asarray(FOLIAGE[i]) * rng.uniform(0.6, 1.2) for i in rng.integers(len(FOLIAGE), size=2)
        )
        self.blend, self.leaves = Noise.sample(rng, 1.4, dimensions=2), Noise.sample(rng, 0.35, dimensions=2)
        self.grain = Noise.sample(rng, 0.05, dimensions=2)
        self.lights = [
            (
                rng.uniform(-1.3, 1.3, 2),
                rng.uniform(0.08, 0.35),
                np.asarray(FOLIAGE[rng.integers(len(FOLIAGE))]) * rng.uniform(0.6, 1.7),
                rng.uniform(0.25, 0.7),
            )
            for _ in range(rng.integers(4, 12))
        ]
        self.stems = [
            (
                rng.uniform(-1.4, 1.4),
                rng.uniform(-0.6, 0.6),
                rng.uniform(0.01, 0.05),
                np.asarray(CLUTTER[rng.integers(4)]),
            )
            for _ in range(rng.integers(0, 4))
        ]
        self.bark = np.asarray(
            [(0.36, 0.27, 0.20), (0.46, 0.42, 0.38), (0.28, 0.20, 0.14), (0.50, 0.38, 0.26)][rng.integers(4)]
        )
        self.slope, self.width = rng.normal(0, 0.12), rng.uniform(0.045, 0.10)
        self.bend = Noise.sample(rng, 1.2, dimensions=1)

    def draw(self, size: int, feet: float, roll: float, drift: float = 0.0) -> Float[Tensor, "H W 3"]:
        """Draw the thicket. feet: the image-plane y of the branch; roll in radians; drift moves the far leaves
        sideways."""
        grid = pixel_centers(size, size).reshape(-1, 2)
        turn = torch.tensor([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]], dtype=torch.float32)
        place = grid @ turn + torch.tensor([drift, 0.0])
        x, y = place.unbind(-1)
        mix = step(self.blend(place) + 0.8 * y, -1.5, 1.5)
        color = paint(torch.as_tensor(self.high, dtype=torch.float32).expand(len(grid), 3), self.low, mix)
        color = color * (1 + 0.10 * self.leaves(place) + 0.02 * self.grain(place))[:, None]
        for center, radius, tone, strength in self.lights:
            distance = (place - torch.as_tensor(center, dtype=torch.float32)).norm(dim=-1)
            color = paint(color, tone, strength * step(distance, radius * 1.15, radius * 0.8))
        for at, lean, width, tone in self.stems:
            color = paint(color, tone, 0.7 * step((x - at - lean * y).abs(), 1.6 * width, 0.6 * width))
        along = place[:, :1] - drift
        across = (y - feet - self.slope * along[:, 0] - 0.02 * self.bend(along)) / self.width - 0.8
        wood = (
            torch.as_tensor(self.bark, dtype=torch.float32)
            * (1.05 - 0.45 * across + 0.12 * self.grain(place * torch.tensor([0.4, 2.0])))[:, None]
        )
        color = paint(color, wood, step(across.abs(), 1.0, 0.85))
        return color.clamp(0, 1).reshape(size, size, 3)


SCENES = {"quadruped": Meadow, "bird": Thicket}
