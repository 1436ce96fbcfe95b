"""The frame of every chapter: seed, device, settings, and results beside the bands they are expected in."""

from __future__ import annotations

import json
import math
import random
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from lib.display import format_band, format_number, show, show_table
from lib.files import write_atomically

__all__ = ["Results", "choose_settings", "pick_device", "set_seed", "show", "show_table"]


def set_seed(seed: int) -> None:
    """Seed Python, NumPy (its global generator, which other libraries draw from) and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def pick_device(device: str = "auto") -> torch.device:
    """Choose the device to compute on: "auto" takes CUDA if PyTorch and Warp can use it, otherwise the CPU.

    Raises ValueError for a device this machine does not have, or one that is neither a CPU nor CUDA.
    """
    if not isinstance(device, str | torch.device):
        raise TypeError(f'device must be "auto", "cpu" or "cuda", got {device!r}')
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if problem := _cuda_problem("cuda"):
            warnings.warn(f"the CPU is used, for {problem}", stacklevel=2)
            return torch.device("cpu")
        return torch.device("cuda")
    try:
        chosen = torch.device(device)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError("the course computes on CPUs and on CUDA; others lack double precision, or Warp")
        torch.empty(0, device=chosen)
        if chosen.type == "cuda" and (problem := _cuda_problem(device)):
            raise RuntimeError(problem)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'device={device!r} cannot be used here ({reason}); use "auto" or "cpu"') from None
    return chosen


def _cuda_problem(device: str) -> str | None:
    from lib.warp_kernels import cuda_problem  # starts Warp, which the CPU may not need

    return cuda_problem(device)


def choose_settings(profile: str, overrides: dict, **profiles: dict) -> SimpleNamespace:
    """Return the settings of one profile, with overrides applied.

    profiles: one dict per profile name. The first one names every setting; the others state only the differences:
        `choose_settings(profile, overrides, quick=dict(steps=100, size=64), full=dict(steps=10_000))`.

    Raises ValueError for an unknown profile or override, an override of another type, or a profile with a setting
    that the first one lacks.
    """
    if not isinstance(overrides, dict):
        raise TypeError(f"overrides must be a dict, such as {{}} or {{'steps': 10}}, got {overrides!r}")
    if profile not in profiles:
        raise ValueError(f"profile={profile!r} is unknown; use one of {', '.join(map(repr, profiles))}")
    first = next(iter(profiles))
    for name, stated in profiles.items():
        if strangers := ", ".join(stated.keys() - profiles[first].keys()):
            raise ValueError(f"profile {name!r} has {strangers}, which {first!r} lacks; state it there first")
    settings = profiles[first] | profiles[profile]
    for name, value in overrides.items():
        if name not in settings:
            raise ValueError(f"overrides has no setting {name!r}; this chapter has {', '.join(settings)}")
        current = settings[name]
        if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if current is not None and type(value) is not type(current):
            kind = type(current).__name__
            raise ValueError(f"overrides[{name!r}] must be of type {kind}, got {value!r}")
        settings[name] = value
    return SimpleNamespace(**settings)


class Results:
    """The measured numbers of one chapter, each shown where it is measured, with the band that it is expected in.

    judged: whether a number outside its band fails the chapter. Bands were measured for the quick profile with its
        own settings, so a chapter passes `judged=profile == "quick" and not overrides`; in other runs numbers are
        kept and shown.

    With an `out_dir`, every number is saved at once to `out_dir/metrics.json` as
    `{name: {"value", "low", "high", "unit", "inside"}}`; `inside` is None for a number that is not judged. A value that
    is not finite is the string "nan", "inf" or "-inf". Without an `out_dir`, nothing is written.

    Raises OSError at once if `out_dir` cannot be written, not after the training.
    """

    def __init__(self, out_dir: str | Path = "", judged: bool = True) -> None:
        self.path = Path(out_dir) / "metrics.json" if str(out_dir) else None
        self.judged = judged
        self.entries: dict[str, dict] = {}
        self._save()

    def record(self, name: str, value: float, unit: str = "", shown: bool = True) -> None:
        """Keep and show a number that has no band: a time, or a value for comparison.

        shown: False for a number that the reader sees elsewhere, in a table or a figure.
        """
        self._keep(name, value, unit, None, None, None)
        if shown:
            show(f"{name}: **{_with_unit(value, unit)}**")

    def check(
        self,
        name: str,
        value: float,
        *,
        low: float | None = None,
        high: float | None = None,
        unit: str = "",
        judged: bool | None = None,
    ) -> None:
        """Keep and show a number, and assert low <= value <= high (an open side is None).

        judged: instead of the results' own `judged`, for a band of another profile.

        Raises AssertionError if it is judged and lies outside, after saving and showing it; ValueError without a
        band (see `record`).
        """
        if low is None and high is None:
            raise ValueError(f"check({name!r}) has no band; give low or high, or use record")
        value = float(value)
        low, high = (None if side is None else float(side) for side in (low, high))
        inside = (low is None or value >= low) and (high is None or value <= high)
        judged = self.judged if judged is None else judged
        self._keep(name, value, unit, low, high, inside if judged else None)
        band = format_band(low, high)
        if not judged:
            show(f"{name}: **{_with_unit(value, unit)}** (not judged in this run; the band is {band})")
            return
        show(f"{'✓' if inside else '✗'} {name}: **{_with_unit(value, unit)}** (expected {band})")
        assert inside, f"{name} = {_with_unit(value, unit)}, expected {band}"

    def _keep(self, name: str, value: float, unit: str, low, high, inside) -> None:
        self.entries[name] = {"value": float(value), "low": low, "high": high, "unit": unit, "inside": inside}
        self._save()

    def _save(self) -> None:
        if self.path is not None:
            # JSON has no NaN and no infinity; their names are strings that `float` understands.
            entries = {name: entry | {"value": _jsonable(entry["value"])} for name, entry in self.entries.items()}
            write_atomically(self.path, json.dumps(entries, indent=2, allow_nan=False))


def _jsonable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _with_unit(value: float, unit: str) -> str:
    space = "" if unit in ("", "°", "×") else "\u202f" if unit == "%" else " "
    return f"{format_number(value)}{space}{unit}"
