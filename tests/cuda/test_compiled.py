"""Every kernel compiles for CUDA, on a machine without a GPU too, and its registers leave room for enough threads.

`registers.json` has what the compiler took when it was recorded: `RECORD=1 pytest tests/cuda/test_compiled.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from pathlib import Path

import pytest
import torch
import warp as wp
from cubin import resources

import lib
from lib.rendering import kernels as rendering
from lib.warp_kernels import Kernels

pytestmark = pytest.mark.slow

RECORD = Path(__file__).with_name("registers.json")
ARCHITECTURES = (75, 80, 90)  # T4, A100, H100: the oldest that Warp knows, and those most used
SLACK = 8  # registers more than recorded that another compiler may take


def families() -> dict[str, Kernels]:
    """Every family of kernels in lib, but the renderer's for the CPU."""
    found = {}
    for module in pkgutil.walk_packages(lib.__path__, "lib."):
        if "pytorch3d" not in module.name:
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Kernels) and value is not rendering.kernels and value not in found.values():
                    found[f"{module.name.removeprefix('lib.')}.{name}"] = value
    return found


FAMILIES = families()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_compile_for_cuda(tmp_path, family: str, dtype: torch.dtype, architecture: int) -> None:
    kernels = FAMILIES[family].written(dtype)
    names = {name for name, value in kernels.items() if isinstance(value, wp.Kernel)}
    module = next(kernels[name].module for name in names)
    (path,) = wp.compile_aot_module(module, arch=architecture, module_dir=tmp_path, use_ptx=False)
    found = resources(path)
    assert names == set(found)

    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    place = f"{family} {str(dtype).removeprefix('torch.')} sm_{architecture}"
    if os.environ.get("RECORD"):
        recorded[place] = found
        lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in sorted(recorded.items()))
        RECORD.write_text(f"{{\n{lines}\n}}\n")
    for name, (registers, stack) in found.items():
        assert registers <= 128, f"{name} takes {registers} registers: fewer than 16 warps a multiprocessor"
        assert dtype == torch.float64 or stack == 0, f"{name} spills {stack} bytes"
        if name in recorded.get(place, {}):
            assert registers <= recorded[place][name][0] + SLACK, f"{name}: {registers} registers, more than recorded"
