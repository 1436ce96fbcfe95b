"""What follows from a tensor that stays as it is, such as a mesh's faces, is computed once; so are constants.

The edges of a mesh and the order of its corners are the same in every step of a training. To find them anew costs time
on the CPU, and on CUDA the host waits for the device.
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
    """The numbers as a vector with the type and on the device of `like`, made once; to be read only.

    Unlike `like.new_tensor(values)`, which on CUDA waits for a copy at every call.
    """
    return _constant(values, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function of a tensor (and hashable arguments): a second call with the same tensor returns its result.

    The same tensor is the same object, unaltered since. A result is dropped with its tensor, and made anew where
    someone has written into it. Writing through NumPy or `.data` goes unseen.
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
