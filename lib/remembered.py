"""Remembering results that depend only on a tensor that does not change, such as a mesh's faces; and constants.

The edges of a mesh and the order of its corners are the same in every step of a training. Computing them again costs
time on the CPU, and on CUDA the host has to wait for the device.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def constant(like: Tensor, *values: float) -> Tensor:
    """Return the numbers as a vector with the type and on the device of `like`, made once; do not write into it.

    `like.new_tensor(values)` would wait for a copy at every call on CUDA.
    """
    return _constant(values, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function of a tensor (and hashable arguments): a second call with the same tensor returns its result.

    "The same tensor" means the same object, unchanged. A result is deleted with its tensor, and computed again if the
    tensor was written into; but writing through NumPy or `.data` is not noticed.
    """
    kept: dict[int, tuple[weakref.ref, int, dict[Hashable, tuple[Result, list[int]]]]] = {}

    @functools.wraps(function)
    def wrapper(tensor: Tensor, *others: Hashable) -> Result:
        if tensor.is_inference() or torch.compiler.is_compiling():
            return function(tensor, *others)
        key = id(tensor)
        of, version, results = kept.get(key, (None, None, None))
        if of is None or of() is not tensor or version != tensor._version:
            results = {}
            forget = weakref.ref(tensor, lambda gone: kept.pop(key, None) if kept.get(key, [0])[0] is gone else None)
            kept[key] = (forget, tensor._version, results)
        found = results.get(others)
        if found is None or _versions(found[0]) != found[1]:
            result = function(tensor, *others)
            found = results[others] = (result, _versions(result))
        return found[0]

    return wrapper


def _versions(result) -> list[int]:
    parts = result if isinstance(result, tuple) else (result,)
    return [part._version for part in parts if isinstance(part, Tensor)]
