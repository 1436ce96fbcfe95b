"""The most memory that this process has held, which can be counted anew (Linux)."""

from __future__ import annotations

from pathlib import Path


def peak_memory() -> int:
    """Bytes, since the start or the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> int:
    """Count from what is held now, and return that. `getrusage` cannot, and counts what a parent process had."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()
