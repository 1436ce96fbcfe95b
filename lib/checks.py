"""Checks of arguments at the public border: one line that names the argument and the remedy.

A check of *values* on CUDA makes the host wait until the device has computed them. A single call can afford that; a
training step with twenty such calls cannot. Within a `Deferred`, checks of values on CUDA are collected, and its
`settle` looks at all of them in one wait: the same error, some steps later. Shapes, types and devices are checked at
once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.remembered import remembered


class Deferred:
    """A block in which checks of values on CUDA are collected, so that the host does not wait for the device.

    checks = Deferred()
    for step in range(steps):
        with checks:
            loss = …
        if step % 10 == 0:
            checks.settle()
    """

    def __init__(self) -> None:
        self._found: list[tuple[Tensor, str | Callable[[], str]]] = []
        self._outer: list[Deferred | None] = []

    def __enter__(self) -> Deferred:
        global _collector
        self._outer.append(_collector)
        _collector = self
        return self

    def __exit__(self, *_) -> None:
        global _collector
        _collector = self._outer.pop()

    def collect(self, holds: Tensor, message: str | Callable[[], str]) -> None:
        """Keep a check for `settle`."""
        self._found.append((holds.all(), message))

    def settle(self) -> None:
        """Raise ValueError for the first of the collected checks that fails: one wait for all of them."""
        found, self._found = self._found, []
        if not found:
            return
        for held, (_, message) in zip(torch.stack([holds for holds, _ in found]).tolist(), found, strict=True):
            if not held:
                raise ValueError(message if isinstance(message, str) else message())


_collector: Deferred | None = None


def require(holds: Tensor, message: str | Callable[[], str]) -> None:
    """Raise ValueError with this message unless all of `holds`, a bool tensor, is true; on CUDA see `Deferred`.

    message: the text, or a function that makes it, which is called only if it is needed.
    """
    if _collector is not None and holds.is_cuda:
        _collector.collect(holds, message)
    elif not holds.all():
        raise ValueError(message if isinstance(message, str) else message())


def check_tensor(name: str, value: Tensor, shape: str, *, kind: str = "float", finite: bool = False) -> None:
    """Raise unless `value` is a tensor of this shape and kind.

    shape: space-separated axes; a number must match exactly, a name matches any length, `...` any
        leading axes ("B V 3", "... 3"). A name used twice must have one length.
    kind: "float" (of any precision), "real" (float32 or float64, for computations that need their digits), "integer",
        "bool" or "any".
    finite: also refuse NaN and infinity (a check of values; see `Deferred`).

    Raises TypeError for a wrong type or dtype, ValueError for a wrong shape or a non-finite entry.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor")
    allowed = {
        "float": value.dtype.is_floating_point,
        "real": value.dtype in (torch.float32, torch.float64),
        "integer": not value.dtype.is_floating_point and not value.dtype.is_complex and value.dtype != torch.bool,
        "bool": value.dtype == torch.bool,
        "any": True,
    }
    if not allowed[kind]:
        remedy = {"float": ".float()", "real": ".float()", "integer": ".long()", "bool": ".bool()"}[kind]
        wanted = {"float": "a float dtype", "real": "a float dtype of 32 or 64 bits", "integer": "an integer dtype"}
        raise TypeError(
            f"{name} must have {wanted.get(kind, 'a bool dtype')}, got {value.dtype}; convert it with {name}{remedy}"
        )
    axes = shape.split()
    lengths = tuple(value.shape)
    if axes and axes[0] == "...":
        axes = axes[1:]
        lengths = lengths[max(len(lengths) - len(axes), 0) :]
    known: dict[str, int] = {}
    fits = len(axes) == len(lengths) and all(
        length == (int(axis) if axis.isdigit() else known.setdefault(axis, length))
        for axis, length in zip(axes, lengths, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join(shape.split()) + ")"
        hint = f"; add the batch axis with {name}[None]" if len(axes) == len(lengths) + 1 else ""
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}{hint}")
    if finite:
        remedy = "remove them, or lower the step that made them"
        require(torch.isfinite(value.detach()), f"{name} has NaN or infinite entries; {remedy}")


def check_faces(faces: Tensor, count: int | None, of: str = "verts") -> Tensor:
    """Raise unless `faces` are (F, 3) indices into the `count` vertices of the argument `of`; return them in int64.

    Smaller integers overflow in computations with indices, and uint8 would be taken for a mask. If count is None, any
    number of vertices will do.

    Raises TypeError for a wrong dtype, ValueError for a wrong shape or an index out of range.
    """
    check_tensor("faces", faces, "F 3", kind="integer")
    if faces.numel():
        # On CUDA once for each tensor: a kernel must never see an index out of range, so this check cannot come later.
        low, high = _known_range(faces) if faces.is_cuda else _range(faces)
        if low < 0 or (count is not None and high >= count):
            wrong, known = low if low < 0 else high, "" if count is None else f", but {of} has 0 … {count - 1}"
            raise ValueError(f"faces point to vertex {wrong}{known}; indices start at 0")
    return faces.long()


def _range(values: Tensor) -> tuple[int, int]:
    low, high = torch.stack(values.long().aminmax()).tolist()
    return low, high


_known_range = remembered(_range)


def check_same_device(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors (given by name) live on one device."""
    devices = {name: value.device for name, value in tensors.items()}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"tensors must share one device, got {places}; move them with .to(device)")


def whole_number(name: str, value: Any, low: int | None = 1) -> int:
    """Convert `value`, an int, or a NumPy or PyTorch integer, of at least `low` (None: any), to a Python int.

    Raises TypeError for another type, such as True or 2.0, and ValueError for a smaller number.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be a whole number, got {value!r}; give an int")
    if low is not None and number < low:
        raise ValueError(f"{name} must be at least {low}, got {number}")
    return number


def number(name: str, value: Any, infinite: bool = False) -> float:
    """Convert `value`, any real number, also a NumPy or PyTorch scalar, to a Python float; finite, unless `infinite`.

    Raises TypeError for another type, ValueError for NaN and infinity.
    """
    try:
        found = None if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None:
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not infinite and not math.isfinite(found):
        raise ValueError(f"{name} must be finite, got {found}")
    return found


def image_sides(name: str, value: Any) -> tuple[int, int]:
    """Return height and width in pixels, given one side of a square image, or (height, width).

    Raises TypeError or ValueError for anything else.
    """
    several = isinstance(value, list | tuple | torch.Size) or getattr(value, "ndim", 0) == 1
    sides = tuple(value) if several else (value, value)
    if len(sides) != 2:
        raise ValueError(f"{name} must be a whole number of pixels or (height, width), got {value!r}")
    height, width = (whole_number(name, side) for side in sides)
    return height, width


def check_alike(**tensors: Tensor) -> None:
    """Raise unless all tensors (given by name) have one dtype, and live on one device."""
    check_same_device(**tensors)
    if len({value.dtype for value in tensors.values()}) > 1:
        types = ", ".join(f"{name} {value.dtype}" for name, value in tensors.items())
        raise TypeError(f"tensors must share one dtype, got {types}; convert with .to")


def check_broadcast(axes: int, **tensors: Tensor) -> None:
    """Raise ValueError unless the leading axes of all tensors, all but the last `axes`, fit each other as batches."""
    shapes = {name: tuple(value.shape[: value.ndim - axes]) for name, value in tensors.items()}
    try:
        torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"batch axes must be equal or 1, got {found}; repeat with .expand") from None
