"""What every chapter's run needs: seed, device, settings of the profile, and results against bands."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pick_device(device: str = "auto") -> torch.device:
    """The device to compute on: "auto" takes CUDA where there is one, else the CPU.

    Raises ValueError for a device this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'device={device!r} cannot be used here ({reason}); use "auto" or "cpu"') from None
    return chosen


def choose_settings(profile: str, overrides: dict, **profiles: dict) -> SimpleNamespace:
    """The settings of one profile, with overrides applied.

    profiles: one dict per profile name, all with the same keys:
        `choose_settings(profile, overrides, quick=dict(steps=100), full=dict(steps=10_000))`.

    Raises ValueError for an unknown profile or override, or an override of another type.
    """
    if profile not in profiles:
        raise ValueError(f"profile={profile!r} is unknown; use one of {', '.join(map(repr, profiles))}")
    settings = dict(profiles[profile])
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


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, also on a full disk or Ctrl-C.

    Raises OSError naming the path and the remedy where it cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"cannot write {path} ({error.strerror}); free space or choose another out_dir"
        raise OSError(error.errno, reason) from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


class Results:
    """The numbers of one chapter, each beside the band it was measured to stay in.

    With an `out_dir`, every number is saved at once to `out_dir/metrics.json` as
    `{name: {"value", "low", "high", "unit", "inside"}}`; without one, nothing is written.

    Raises OSError at once where `out_dir` cannot be written, not after the training.
    """

    def __init__(self, out_dir: str | Path = "") -> None:
        self.path = Path(out_dir) / "metrics.json" if str(out_dir) else None
        self.entries: dict[str, dict] = {}
        self._save()

    def record(self, name: str, value: float, unit: str = "") -> None:
        """Keep a number that has no band."""
        self.entries[name] = {"value": float(value), "low": None, "high": None, "unit": unit, "inside": None}
        self._save()

    def check(
        self, name: str, value: float, *, low: float | None = None, high: float | None = None, unit: str = ""
    ) -> None:
        """Keep a number, and assert low <= value <= high (an open side is None).

        Raises AssertionError when it lies outside, after saving it.
        """
        value = float(value)
        inside = (low is None or value >= low) and (high is None or value <= high)
        self.entries[name] = {"value": value, "low": low, "high": high, "unit": unit, "inside": inside}
        self._save()
        band = " and ".join(
            text for text in (f"≥ {low}" if low is not None else "", f"≤ {high}" if high is not None else "") if text
        )
        assert inside, f"{name} = {value:.4g} {unit}, expected {band}"

    def _save(self) -> None:
        if self.path is not None:
            write_atomically(self.path, json.dumps(self.entries, indent=2))
