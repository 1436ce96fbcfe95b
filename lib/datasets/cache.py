"""A cache of generated data in data/cache; the folder can be deleted at any time."""

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
    """Return the tensors that `make()` gives for these parameters; read them from the cache if they are there.

    parameters: everything that the result depends on, including a version of the generator; JSON-serialisable. A
    damaged file is made again. If the cache cannot be written, the tensors are made without it.
    """
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    path = DIRECTORY / f"{name}-{key}.safetensors"
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError):
        pass
    # Make them contiguous, as after reading: the memory layout decides the order of sums, and training amplifies a
    # difference in the last digit.
    tensors = {key: value.contiguous() for key, value in make().items()}
    try:
        write_atomically(path, safetensors.torch.save(tensors))
    except OSError:
        pass
    return tensors
