"""The machine of a run: versions and hardware; and formats for times and sizes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import psutil

from lib.course.notebooks import ROOT

PACKAGES = ["torch", "warp-lang", "pytorch3d", "numpy", "scipy", "scikit-image", "trimesh", "accelerate", "papermill"]


def versions() -> dict[str, str]:
    """Versions of Python, the course and the packages that results depend on; an absent package is left out."""
    found = {"course": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown"}
    found["python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """Hardware of this machine: system, processor, cores, memory, graphics processor."""
    processor = platform.processor()
    if sys.platform == "darwin":
        processor = _output("sysctl", "-n", "machdep.cpu.brand_string") or processor
    elif os.path.exists("/proc/cpuinfo"):
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = model[1] if model else processor
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return {
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": processor or platform.machine(),
        "cores": str(count_cores()),
        "memory": format_memory(psutil.virtual_memory().total),
        "gpu": "; ".join(gpus.splitlines()) or "none",
    }


def other_libs() -> list[Path]:
    """Packages and modules called `lib`, not the course's, where Python looks for imports: here and in `sys.path`."""
    found = []
    for entry in dict.fromkeys([Path.cwd(), *map(Path, sys.path)]):
        folder = entry / "lib"
        there = folder if any(folder.glob("*.py")) else folder.with_suffix(".py")
        if there.exists() and there.resolve() != ROOT / "lib":
            found.append(there.resolve())
    return list(dict.fromkeys(found))


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1


def _output(*command: str) -> str:
    """Return what a command prints, or nothing if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def format_memory(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def format_seconds(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
