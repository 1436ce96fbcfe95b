"""A CUDA device without a GPU: what would lib do there, where would it break, and where would the host wait?

`Sim` is a tensor that says `device == cuda:0` to Python while its numbers lie on the CPU. Every operation passes
`Sim.__torch_dispatch__`, which refuses what CUDA refuses (tensors of two devices, but for CPU scalars in pointwise
operations and CPU indices; generators of the CPU; `.numpy()`), computes the rest on the CPU, and notes what it would be
on CUDA: a launch of a kernel, or a wait of the host for the device. Unlike PyTorch's FakeTensorMode this has numbers,
so that code which depends on data, autograd, optimisers and CUDA's Warp kernels (run on the CPU) all run.

Not seen are CUDA's numerics, times, races, memory and random numbers, and what cuDNN and cuSOLVER refuse. In C++ a Sim
is a CPU tensor, so what C++ makes of a tensor's options alone comes out on the CPU; two such places are known,
`pad_sequence` and the zeros that autograd concatenates, and are mended here.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import sys
from pathlib import Path
from types import MethodType

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]


class Mismatch(RuntimeError):
    """What CUDA would raise."""


class Record:
    """What was noted: (kind, what, place) → count, and of each step of `fit`, kind → count.

    The kinds are "launch", "wait", "warp" (a launch of Warp's) and "copy" (one that nobody waits for).
    """

    def __init__(self) -> None:
        self.events: collections.Counter = collections.Counter()
        self.steps: list[collections.Counter] = []
        self.now: collections.Counter = collections.Counter()
        self.phase = ""

    def note(self, kind: str, what: str) -> None:
        self.events[kind, what, self.phase or _place()] += 1
        self.now[kind, self.phase] += 1

    def total(self, kind: str) -> int:
        return sum(count for (found, _, _), count in self.events.items() if found == kind)

    def places(self, kind: str) -> str:
        """Where this happened, most often first: the message of a test that fails."""
        found = [(count, what, place) for (k, what, place), count in self.events.items() if k == kind]
        return "\n".join(f"{count:6} {what:28} {place}" for count, what, place in sorted(found, reverse=True))

    def close_step(self) -> None:
        self.steps.append(self.now)
        self.now = collections.Counter()


record = Record()


def _place() -> str:
    """The innermost line of lib, or of what called it, and the check in which it lies."""
    frame, inner = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(f"{ROOT}/") and not name.endswith("/simulated.py"):
            short = f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
            if not name.endswith("checks.py"):
                return short + inner
            inner = f" ({short})"
        frame = frame.f_back
    return "elsewhere"


HOST_WAITS = {  # operations that read the device's memory on the host
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "bincount", "repeat_interleave", "_coalesce", "is_nonzero", "item", "_linalg_check_errors", "_linalg_svd",
    "_linalg_eigh", "linalg_eig", "linalg_pinv",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
SCALARS_TOO = {"fill_", "where", "masked_fill", "masked_fill_", "lerp", "lerp_"}
FREE = {"detach", "empty_like", "empty", "new_empty", "new_empty_strided", "alias", "_conj", "sym_size",
        "is_coalesced", "lift_fresh", "empty_strided"}  # fmt: skip
NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first"


class Sim(torch.Tensor):
    """A tensor on cuda:0, as far as Python can see."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False):
        assert type(inner) is torch.Tensor, type(inner)
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=inner.device,
            requires_grad=requires_grad,
        )
        out._inner = inner
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __tensor_flatten__(self):
        return ["_inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Sim(inner["_inner"])

    def __repr__(self):
        return f"Sim({self._inner})"

    def __format__(self, specification):
        record.note("wait", "format")
        return format(self._inner.item() if self.dim() == 0 else self._inner, specification)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = Sim(self._inner.clone(), requires_grad=self.requires_grad)
            if getattr(self, "_is_param", False):
                memo[id(self)]._is_param = True
        return memo[id(self)]

    def numpy(self, *_, **__):
        raise Mismatch(NUMPY)

    def __array__(self, *_, **__):
        raise Mismatch(NUMPY)

    def tolist(self):
        record.note("wait", "tolist")
        return self._inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        _check(func, name, args, kwargs)
        with torch._C.DisableTorchFunction():
            out = func(*pytree.tree_map(_unwrap, args), **pytree.tree_map(_unwrap, kwargs))
        _note(func, name, args, out)
        written = [
            i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        if written and len(func._schema.returns) == 1 and func._schema.returns[0].alias_info is not None:
            argument = func._schema.arguments[written[0]]
            target = kwargs.get(argument.name, args[written[0]] if written[0] < len(args) else None)
            if isinstance(target, torch.Tensor):
                return target
        return pytree.tree_map(lambda x: Sim(x) if type(x) is torch.Tensor else x, out)


def _unwrap(x):
    return x._inner if isinstance(x, Sim) else x


def _wrap(x):
    return Sim(x.detach() if x.requires_grad else x) if type(x) is torch.Tensor else x


def _check(func, name, args, kwargs) -> None:
    """Raise where CUDA would."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    host = [t for t in tensors if not isinstance(t, Sim)]
    if not host or name in ("copy_", "_to_copy", "_copy_from"):
        if name == "copy_" and host:
            record.note("wait", "copy between devices")
        return
    if name in INDEXING:
        if not isinstance(args[0], Sim):
            raise Mismatch("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        values = args[2] if name != "index" and len(args) > 2 else None
        if values is not None and not isinstance(values, Sim) and values.dim() > 0:
            raise Mismatch("index_put_: expected self and value to be on the same device, cuda:0 and cpu")
        for index in args[1]:
            if index is not None and not isinstance(index, Sim):
                record.note("wait", "CPU index")
        return
    if name == "cat" and not any(t.any() for t in host):
        return  # autograd's own zeros for an unused part of a split: made in C++, where a Sim is a CPU tensor
    if torch.Tag.pointwise in func.tags or name in SCALARS_TOO or name.startswith("_foreach"):
        if all(t.dim() == 0 for t in host):
            written = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
            if not (written and isinstance(args[0], torch.Tensor) and not isinstance(args[0], Sim)):
                return
    raise Mismatch(f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu! ({name})")


def _note(func, name, args, out) -> None:
    if name in HOST_WAITS:
        record.note("wait", name)
    if name in INDEXING and any(
        isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1] if i is not None
    ):
        record.note("wait", "bool mask as index")
    if name not in FREE and isinstance(out, (torch.Tensor, tuple, list)):
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
            record.note("launch", name)


class _ToCuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return Sim(x.detach().clone())

    @staticmethod
    def backward(ctx, grad):
        record.note("wait", "gradient to the CPU")
        return _unwrap(grad).clone()


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x._inner.detach().clone()

    @staticmethod
    def backward(ctx, grad):
        record.note("wait", "gradient to the device")
        return Sim(grad.clone())


def _is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


_plain_to = torch.Tensor.to


def _move(x, device, dtype=None, blocking: bool = True):
    """Tensor.to across devices; only a copy from pinned memory can go on by itself."""
    if _is_cuda(device) and not isinstance(x, Sim):
        waits = blocking or not getattr(x, "pinned", False)
        record.note("wait" if waits else "copy", "host to device")
        x = _ToCuda.apply(x)
    elif device is not None and not _is_cuda(device) and isinstance(x, Sim):
        record.note("wait", "device to host")
        x = _ToHost.apply(x)
    return x if dtype is None or x.dtype == dtype else _plain_to(x, dtype)


class _Mode(TorchFunctionMode):
    """Sends to the simulated device what names it: factories, `to`, `cuda`, `cpu`; and forbids what CUDA forbids."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is torch.Tensor.to:
            return self.to(*args, **kwargs)
        if func is torch.Tensor.cuda:
            return _move(args[0], CUDA)
        if func is torch.Tensor.cpu:
            return _move(args[0], "cpu")
        if func is torch.Tensor.pin_memory:
            if isinstance(args[0], Sim):
                raise Mismatch("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if func is torch.Tensor.backward:  # a handler runs without the mode, but what a backward pass calls must see it
            names = ("gradient", "retain_graph", "create_graph", "inputs")
            kwargs = dict(zip(names, args[1:], strict=False)) | kwargs
            inputs = kwargs.pop("inputs", None)
            with self:
                return torch.autograd.backward(args[0], kwargs.pop("gradient", None), inputs=inputs, **kwargs)
        if func is torch.autograd.grad:
            plain = torch.autograd.has_torch_function
            torch.autograd.has_torch_function = lambda *_: False
            try:
                with self:
                    return func(*args, **kwargs)
            finally:
                torch.autograd.has_torch_function = plain
        if name == "pad_sequence" and isinstance(args[0][0], Sim):
            return Sim(func(pytree.tree_map(_unwrap, args[0]), *args[1:], **kwargs))
        if func in (torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.tolist) and isinstance(args[0], Sim):
            return getattr(Sim, name)(args[0])
        if func is torch.Tensor.type_as:
            return _move(args[0], args[1].device, args[1].dtype)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Sim):
            record.note("wait", "new_tensor")
            numbers = pytree.tree_map(lambda x: x.item() if isinstance(x, torch.Tensor) else x, args[1])
            return Sim(torch.tensor(numbers, dtype=kwargs.get("dtype", args[0].dtype)))
        if func is torch.as_tensor and isinstance(args[0], torch.Tensor):
            return _move(args[0], kwargs.get("device"), kwargs.get("dtype"))
        generator, device = kwargs.get("generator"), kwargs.get("device")
        if generator is not None and (_is_cuda(device) or any(isinstance(a, Sim) for a in args)):
            if generator.device.type == "cpu":
                raise Mismatch("Expected a 'cuda' device type for generator but found 'cpu'")
        if _is_cuda(device):
            learn = kwargs.pop("requires_grad", False)
            out = func(*pytree.tree_map(_unwrap, args), **kwargs | {"device": "cpu"})
            copied = func in (torch.tensor, torch.as_tensor, torch.asarray)
            record.note("wait" if copied else "launch", name)
            out = pytree.tree_map(_wrap, out)
            return out.requires_grad_() if learn else out
        if func is torch.sparse_coo_tensor and any(isinstance(a, Sim) for a in args):
            return SimSparse(torch.sparse_coo_tensor(*pytree.tree_map(_unwrap, args), **kwargs))
        return func(*args, **kwargs)

    def to(self, x, *args, **kwargs):
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        blocking = not kwargs.pop("non_blocking", False)
        for a in args:
            if isinstance(a, torch.dtype):
                dtype = a
            elif isinstance(a, (str, torch.device)):
                device = a
            elif isinstance(a, torch.Tensor):
                device, dtype = a.device, a.dtype
            elif isinstance(a, bool) and a:
                blocking = False
        return x if isinstance(x, SimSparse) else _move(x, device, dtype, blocking)


class SimSparse:
    """As much of a sparse tensor on CUDA as lib uses."""

    def __init__(self, inner) -> None:
        self.inner, self.shape, self.device, self.is_cuda = inner, inner.shape, CUDA, True

    def coalesce(self):
        record.note("wait", "coalesce")
        return SimSparse(self.inner.coalesce())

    def indices(self):
        return Sim(self.inner.indices())

    def values(self):
        return Sim(self.inner.values().detach())

    def to_dense(self):
        record.note("launch", "to_dense")
        return Sim(self.inner.to_dense().detach())

    def __matmul__(self, other):
        record.note("launch", "sparse matmul")
        if not isinstance(other, Sim):
            raise Mismatch("sparse matmul of two devices")
        return Sim(self.inner.detach() @ other._inner.detach())


class Accelerator:
    """What accelerate does on one GPU: bfloat16 around `model.forward`, float32 out of it. Marks the steps."""

    def __init__(self, cpu=False, mixed_precision="no", **_) -> None:
        self.bf16 = mixed_precision == "bf16" and not cpu

    def prepare_model(self, model, evaluation_mode=False):
        from accelerate.utils.operations import convert_outputs_to_fp32

        if self.bf16:
            model._original_forward = model.forward
            function = model.forward.__func__
            model.forward = MethodType(torch.autocast("cuda", dtype=torch.bfloat16)(function), model)
            model.forward = MethodType(convert_outputs_to_fp32(model.forward.__func__), model)
        return model

    def prepare_optimizer(self, optimizer):
        plain = optimizer.step

        def step(*args, **kwargs):
            record.phase = "optimizer"
            try:
                return plain(*args, **kwargs)
            finally:
                record.phase = ""
                record.close_step()

        optimizer.step = step
        record.now = collections.Counter()
        return optimizer

    def backward(self, loss):
        record.phase = "backward"
        try:
            loss.backward()
        finally:
            record.phase = ""

    def unwrap_model(self, model, keep_fp32_wrapper=True):
        if model.__dict__.pop("_original_forward", None) is not None:
            del model.forward
        return model


@contextlib.contextmanager
def simulated():
    """Within, "cuda" is a device; gives the `Record` of what happens there."""
    from unittest.mock import patch

    import accelerate

    from lib import chapter
    from lib.warp_kernels import Kernels

    plain_autocast, plain_save, plain_load = torch.autocast, torch.save, torch.load
    plain_launch, plain_apply = Kernels.launch, torch.nn.Module._apply

    def autocast(device_type, *args, **kwargs):
        return plain_autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def save(value, file, *args, **kwargs):
        return plain_save(pytree.tree_map(lambda x: x._inner.clone() if isinstance(x, Sim) else x, value), file)

    def load(file, map_location=None, **kwargs):
        value = plain_load(file, map_location="cpu", **kwargs)
        # A device given as such moves every storage there, the states of random number generators included.
        return pytree.tree_map(_wrap, value) if _is_cuda(map_location) else value

    def launch(self, name, count, like, *inputs):
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        if not isinstance(like, Sim):
            if any(isinstance(value, Sim) for value in tensors):
                raise Mismatch(f"Warp kernel {name}: a CUDA tensor given to a CPU kernel")
            return plain_launch(self, name, count, like, *inputs)
        if not all(isinstance(value, Sim) for value in tensors):
            raise Mismatch(f"Warp kernel {name}: a CPU tensor given to a CUDA kernel (an illegal memory access)")
        record.note("warp", name)
        with torch._C.DisableTorchFunction():
            return plain_launch(self, name, count, _unwrap(like), *map(_unwrap, inputs))

    def apply(self, fn, recurse=True):
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return plain_apply(self, fn, recurse)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    def set_rng_state(state, device="cuda"):
        if isinstance(state, Sim) or state.dtype != torch.uint8:
            raise Mismatch("RNG state must be a torch.ByteTensor")

    for module in ("deformation.handles", "geometry.rotations", "rendering.kernels", "rendering.reference"):
        importlib.import_module(f"lib.{module}")  # which have autograd's Functions
    record.__init__()
    with contextlib.ExitStack() as stack:
        for holder, name, stand_in in (
            (torch, "autocast", autocast),
            (torch, "save", save),
            (torch, "load", load),
            (torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**33)),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (torch.cuda, "get_rng_state", lambda device="cuda": torch.zeros(16, dtype=torch.uint8)),
            (torch.cuda, "set_rng_state", set_rng_state),
            (torch.nn.Module, "_apply", apply),
            (accelerate, "Accelerator", Accelerator),
            (chapter, "_cuda_problem", lambda device: None),
            (Kernels, "launch", launch),
        ):
            stack.enter_context(patch.object(holder, name, stand_in))
        # The engine calls the `backward` of a custom Function without the mode.
        for function in torch.autograd.Function.__subclasses__():
            if function.__module__.startswith("lib."):
                plain = function.__dict__["backward"]

                def backward(*args, plain=plain.__func__):
                    with _Mode():
                        return plain(*args)

                stack.enter_context(patch.object(function, "backward", staticmethod(backward)))
        stack.enter_context(_Mode())
        yield record
