"""Warp kernels on PyTorch's tensors: one source for float32 and float64, the CPU and CUDA, compiled at first use.

Warp runs a CPU kernel on one thread and releases the interpreter. So each launch is divided among as many Python
threads as PyTorch uses (`torch.set_num_threads`). Importing this module starts Warp (about half a second), so it is
imported only when kernels are needed.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import warp as wp
from torch import Tensor

# Threads of a block on CUDA: small, so that some ten thousand threads reach every multiprocessor of a large GPU.
BLOCK = 128


def _init_quietly() -> None:
    """Start Warp without its greeting, and without its C library's message on stderr that there is no CUDA driver.

    If PyTorch sees a GPU, Warp's messages are shown.
    """
    wp.config.log_level = wp.LOG_WARNING
    saved = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            _init_with_a_cache()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            said.seek(0)
            words = said.read().decode(errors="replace")
    if words and torch.cuda.is_available():
        sys.stderr.write(words)


def _init_with_a_cache() -> None:
    """Start Warp with its cache of compiled kernels in the home folder, or elsewhere if that cannot be written.

    The home folder of a container or of a shared server may be read-only, or its quota may be used up.
    """
    try:
        wp.init()
        with tempfile.TemporaryFile(dir=wp.config.kernel_cache_dir):
            return
    except OSError as error:
        if "WARP_CACHE_PATH" in os.environ:
            where = os.environ["WARP_CACHE_PATH"]
            reason = f"compiled kernels cannot be kept in {where} ({error.strerror})"
            raise OSError(error.errno, f"{reason}; set WARP_CACHE_PATH to a folder that can be written") from None
    wp.config.kernel_cache_dir = str(_temporary_cache())
    wp.init()


def _temporary_cache() -> Path:
    """Make a temporary folder, the same every time for one user, which no other user can write to."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"course3d-kernels-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not hasattr(os, "getuid") or folder.stat().st_uid == user:
            return folder
    except OSError as error:
        reason = f"compiled kernels can be kept neither in the home nor in {folder} ({error.strerror})"
        raise OSError(error.errno, f"{reason}; set WARP_CACHE_PATH to a folder that can be written") from None
    return Path(tempfile.mkdtemp(prefix="course3d-kernels-"))


def _announce(module: str, device: torch.device) -> None:
    """Tell a person why they have to wait: the first use of kernels on a GPU takes some seconds."""
    watched = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ  # a person's Jupyter server sets it
    if watched and not Path(wp.config.kernel_cache_dir, module).exists():
        print(f"Compiling kernels for {torch.cuda.get_device_name(device)}, once: some seconds.", file=sys.stderr)


def cuda_problem(device: torch.device | str = "cuda") -> str | None:
    """Tell in a sentence, with a remedy, why Warp cannot compute on this CUDA device; None if it can.

    PyTorch may be able to use it: Warp supports other drivers and GPUs. A build of Warp for CUDA 13, for example,
    needs a driver of that version.
    """
    toolkit = ".".join(map(str, wp.get_cuda_toolkit_version() or ()))
    if not wp.is_cuda_available():
        driver = ".".join(map(str, wp.get_cuda_driver_version() or ("none",)))
        found = f"driver found: CUDA {driver}; Warp built with CUDA {toolkit}"
        build = f"the +cu12 wheel of warp-lang {wp.__version__} from its releases"
        return f"Warp finds no GPU that it can use ({found}); update the NVIDIA driver, or install {build}"
    here = wp.device_from_torch(str(device))  # of a torch.device("cuda") it would want the number
    oldest = min(wp.get_cuda_supported_archs())
    if here.arch < oldest:
        return f"{here.name} is sm_{here.arch}, and Warp's compiler begins at sm_{oldest}; use a newer GPU, or the CPU"
    return None


_init_quietly()
_lock = threading.Lock()


class Kernels:
    """A family of kernels, one Warp module for each real type.

        @Kernels
        def kernels(kernel, real, vec2, vec3):
            @kernel
            def double(first: int, step: int, x: wp.array(dtype=real), y: wp.array(dtype=real)):
                item = first + step * wp.tid()
                y[item] = real(2.0) * x[item]

            return locals()

        kernels.launch("double", len(x), x, x, y)

    `launch` gives a kernel its first two arguments: its items are `first`, `first + step`, and so on. On the CPU their
    order is not defined. Warp reads the annotations at run time: the file that has the kernels must not postpone them.

    constants: further arguments of the function that writes the kernels, such as `lanes=8`; families with other
        constants are other modules.
    """

    def __init__(self, write: Callable[..., dict[str, Any]], **constants: int):
        self._write, self._constants = write, constants
        self.written = functools.cache(self._written)
        self._loaded = functools.cache(self._loaded)

    def _written(self, dtype: torch.dtype) -> dict[str, Any]:
        """Write the kernels and functions, by name, not yet compiled."""
        double = dtype == torch.float64
        types = (wp.float64, wp.vec2d, wp.vec3d) if double else (wp.float32, wp.vec2f, wp.vec3f)
        parts = [self._write.__module__, self._write.__name__, types[0].__name__]
        module = wp.get_module(".".join(parts + [f"{name}{value}" for name, value in self._constants.items()]))
        # The CPU's compiler vectorises a loop, but not the copies of its body that Warp makes by unrolling it.
        wp.set_module_options({"enable_backward": False, "max_unroll": 4}, module=module)
        return self._write(functools.partial(wp.kernel, module=module), *types, **self._constants)

    def _loaded(self, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        """Compile the kernels for this device, or load them from Warp's cache."""
        with _lock:
            if device.type == "cuda" and (problem := cuda_problem(device)):
                raise RuntimeError(problem)
            kernels = self.written(dtype)
            module = next(value.module for value in kernels.values() if isinstance(value, wp.Kernel))
            # The size of a block is part of the cache's key; launches use these sizes.
            block = 1 if device.type == "cpu" else BLOCK
            if device.type == "cuda":
                _announce(module.get_module_identifier(block_dim=block), device)
            module.load(wp.device_from_torch(device), block)
        return kernels

    def launch(self, name: str, count: int, like: Tensor, *inputs: Any) -> None:
        """Run a kernel, for the dtype and device of `like`, over `count` items; tensors among the inputs are shared."""
        kernel = self._loaded(like.dtype, like.device)[name]
        types = [argument.type for argument in kernel.adj.args][2:]
        inputs = [
            wp.from_torch(value.detach(), dtype=kind.dtype, return_ctype=True) if isinstance(value, Tensor) else value
            for value, kind in zip(inputs, types, strict=True)
        ]
        device = wp.device_from_torch(like.device)
        if like.device.type == "cuda":
            stream = wp.stream_from_torch(torch.cuda.current_stream(like.device))
            options = {"device": device, "stream": stream, "block_dim": BLOCK, "record_tape": False}
            wp.launch(kernel, count, [0, 1, *inputs], **options)
            return
        # Make more parts than threads; a thread that is done takes the next part. Items differ in cost, and PyTorch's
        # own threads keep a core busy for a while after each operation (milliseconds, unless GOMP_SPINCOUNT is small).
        threads = torch.get_num_threads()
        parts = 8 * threads if threads > 1 else 1
        taken = itertools.count()

        def work() -> None:
            while (part := next(taken)) < min(parts, count):
                items = len(range(part, count, parts))
                wp.launch(kernel, items, [part, parts, *inputs], device=device, record_tape=False)

        others = [_pool().submit(work) for _ in range(1, threads)]
        work()
        for other in others:
            other.result()


def _pool() -> ThreadPoolExecutor:
    """The threads besides the calling one; a forked process makes its own, because it inherits none."""
    if _pool.owner != os.getpid():
        _pool.executor, _pool.owner = ThreadPoolExecutor(max(os.cpu_count() or 1, 1)), os.getpid()
    return _pool.executor


_pool.owner = None
