"""Smooth noise, and colours laid over colours: what generated surfaces and backgrounds are painted with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Smooth noise in space, mean 0 and variance 1, with bumps of about one `wavelength`: a sum of plane waves."""

    waves: Tensor
    phases: Tensor

    @classmethod
    def sample(cls, rng: np.random.Generator, wavelength: float, count: int = 16, dimensions: int = 3) -> Noise:
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
