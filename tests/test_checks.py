from __future__ import annotations

import re

import pytest
import torch

from lib import checks
from lib.checks import check_faces, check_same_device, check_tensor


@pytest.mark.parametrize(
    "shape, axes",
    [
        ((2, 5, 3), "B V 3"),
        ((5, 3), "V 3"),
        ((3,), "... 3"),
        ((7, 2, 5, 3), "... V 3"),
        ((4, 4), "N N"),
        ((0, 3), "V 3"),
        ((), ""),
    ],
)
def test_fitting_shapes_pass(shape, axes):
    check_tensor("x", torch.zeros(shape), axes)


@pytest.mark.parametrize(
    "shape, axes, message",
    [
        ((2, 5, 4), "B V 3", "verts must have shape (B, V, 3), got (2, 5, 4)"),
        ((5, 3), "B V 3", "verts must have shape (B, V, 3), got (5, 3); add the batch axis with verts[None]"),
        ((4, 5), "N N", "verts must have shape (N, N), got (4, 5)"),
        ((3,), "... V 3", "verts must have shape (..., V, 3), got (3,)"),
        ((2, 3), "3", "verts must have shape (3), got (2, 3)"),
    ],
)
def test_other_shapes_are_named(shape, axes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_tensor("verts", torch.zeros(shape), axes)


@pytest.mark.parametrize(
    "value, kind, message",
    [
        ([1.0], "float", "x must be a torch.Tensor, got list; use torch.as_tensor"),
        (torch.zeros(1).int(), "float", "x must have a float dtype, got torch.int32; convert it with x.float()"),
        (torch.zeros(1), "integer", "x must have an integer dtype, got torch.float32; convert it with x.long()"),
        (torch.zeros(1).bool(), "integer", "x must have an integer dtype, got torch.bool; convert it with x.long()"),
        (torch.zeros(1), "bool", "x must have a bool dtype, got torch.float32; convert it with x.bool()"),
    ],
)
def test_other_types_are_named_with_the_remedy(value, kind, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_tensor("x", value, "N", kind=kind)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool])
def test_any_takes_every_dtype(dtype):
    check_tensor("x", torch.zeros(1, dtype=dtype), "N", kind="any")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_only_finite_entries_pass_where_asked(bad):
    value = torch.tensor([0.0, bad])
    check_tensor("x", value, "N")
    with pytest.raises(ValueError, match="x has NaN or infinite entries"):
        check_tensor("x", value, "N", finite=True)


def test_devices_are_compared():
    here, elsewhere = torch.zeros(1), torch.zeros(1, device="meta")
    check_same_device(verts=here, faces=here)
    with pytest.raises(ValueError, match=r"share one device, got verts on cpu, faces on meta; move them with .to"):
        check_same_device(verts=here, faces=elsewhere)


def test_faces_stay_within_the_vertices():
    check_faces(torch.tensor([[0, 1, 2]]), 3)
    check_faces(torch.empty(0, 3, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match=r"faces point to vertex 3, but verts has 0 … 2; indices start at 0"):
        check_faces(torch.tensor([[0, 1, 3]]), 3)
    with pytest.raises(ValueError, match=r"faces point to vertex -1, but attributes has 0 … 2"):
        check_faces(torch.tensor([[0, 1, -1]]), 3, of="attributes")
    with pytest.raises(TypeError, match="faces must have an integer dtype"):
        check_faces(torch.zeros(1, 3), 3)


class OnCuda(torch.Tensor):
    """A truth value that says it is on CUDA."""

    is_cuda = property(lambda self: True)


def verdict(value: bool) -> torch.Tensor:
    return torch.tensor([True, value]).as_subclass(OnCuda)


def test_on_cuda_checks_of_values_can_wait_for_each_other():
    with pytest.raises(ValueError, match="at once"):
        checks.require(verdict(False), "at once")
    later = checks.Deferred()
    with later:
        checks.require(verdict(True), "first")
        checks.require(verdict(False), lambda: "second")
        checks.require(verdict(False), "third")
        with pytest.raises(ValueError, match="fourth"):
            checks.require(torch.tensor(False), "fourth")  # on the CPU nobody waits
        with checks.Deferred() as inner:
            checks.require(verdict(False), "fifth")
        checks.require(verdict(False), "sixth")
    with pytest.raises(ValueError, match="second"):
        later.settle()
    later.settle()
    with pytest.raises(ValueError, match="fifth"):
        inner.settle()
    with pytest.raises(ValueError, match="again at once"):
        checks.require(verdict(False), "again at once")
