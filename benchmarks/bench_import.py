"""What starting costs: `pytest benchmarks/bench_import.py` (half a minute).

Fresh interpreters that import torch alone, torch and `lib`, and torch and the rooms of `lib` that a first chapter uses.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

IMPORTS = {
    "torch": "import torch",
    "torch and lib": "import torch, lib",
    "and geometry, rendering": "import torch, lib, lib.geometry.mesh, lib.geometry.pointsets, lib.rendering",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def test_import(capsys) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(5):  # in turn, so that a busy moment meets them all
        for name, line in IMPORTS.items():
            run = subprocess.run([sys.executable, "-c", TIMED.format(line)], capture_output=True, text=True, check=True)
            seconds[name].append(float(run.stdout))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    table = [f"{name:24}{1e3 * median:6.0f} ms {median / medians['torch']:5.2f}" for name, median in medians.items()]
    with capsys.disabled():
        print("\n" + "\n".join(table))
    assert medians["torch and lib"] < 1.1 * medians["torch"]
