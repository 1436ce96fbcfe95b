"""What was generated once is read back from data/cache; the directory can be deleted at any time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from lib.files import write_atomically

DIRECTORY = Path(__file__).resolve().parents[2] / "data" / "cache"


def cached(name: str, parameters: dict, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `make()` gives for these parameters, read from the cache where they are there.

    parameters: whatever the result depends on, a version of the generator included; JSON-serialisable. A damaged
    file is made again, and where the cache cannot be written the tensors are made without it.
    """
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    path = DIRECTORY / f"{name}-{key}.safetensors"
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError):
        pass
    # As they will be read: another layout in memory is another order of sums, and training amplifies the last digit.
    tensors = {key: value.contiguous() for key, value in make().items()}
    try:
        write_atomically(path, safetensors.torch.save(tensors))
    except OSError:
        pass
    return tensors
