"""Several processes that train one model together: each runs the same program, and they meet in `training.fit`.

Whoever starts the processes gives each its number in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT), as `course run --processes`, `torchrun` and, on GPUs, `accelerate launch` do; from within a notebook, for
a function that calls `fit`, `accelerate.notebook_launcher` on GPUs and `accelerate.debug_launcher` on a CPU.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn


class Processes:
    """The processes that train together: `count` of them, this one being number `rank`, counted from 0.

    Without a launcher, there is one, and all that follows costs nothing.
    """

    def __init__(self) -> None:
        met = distributed.is_available() and distributed.is_initialized()
        self.count = distributed.get_world_size() if met else 1
        self.rank = distributed.get_rank() if met else 0
        if self.count > 1:
            atexit.unregister(_part)  # once is enough
            atexit.register(_part)

    @property
    def first(self) -> bool:
        """Tell whether this is the process that writes files and reports."""
        return self.rank == 0

    def gather(self, value: Any) -> list:
        """Collect the value of each process, in every process."""
        if self.count == 1:
            return [value]
        found = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def from_first(self, value: Any) -> Any:
        """Return the first process's value, in every process."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, 0)
        return box[0]

    def on_first(self, function: Callable[[], Any]) -> Any:
        """Call `function` in the first process alone; return its value, or raise its error, in every process."""
        if self.count == 1:
            return function()
        value, problem = None, None
        if self.first:
            try:
                value = function()
            except Exception as error:
                problem = error
        value, problem = self.from_first((value, problem))
        if problem is not None:
            raise problem
        return value

    def add(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place: one message for all."""
        if self.count == 1 or not tensors:
            return
        message = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        distributed.all_reduce(message)
        pieces = message.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.detach().copy_(piece.view_as(tensor))

    def add_gradients(self, parameters: list[nn.Parameter], others: list[Tensor]) -> None:
        """Replace gradients, and the `others`, by their sums over the processes; a gradient missing in one is 0 there.

        A gradient that is missing in all of them stays missing, so that an optimiser does as with one process.
        """
        if self.count == 1:
            return
        here = [parameter.grad is not None for parameter in parameters]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        device = parameters[0].device if parameters else torch.device("cpu")
        anywhere = torch.tensor(here, dtype=torch.float32, device=device)
        self.add([*(parameter.grad for parameter in parameters), anywhere, *others])
        if not all(here):
            for parameter, found in zip(parameters, anywhere.tolist(), strict=True):
                if not found:
                    parameter.grad = None

    def share(self, tensors: list[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.count > 1:
            for tensor in tensors:
                message = tensor.detach().contiguous()
                distributed.broadcast(message, 0)
                tensor.detach().copy_(message)

    def average_buffers(self, model: nn.Module) -> None:
        """Average the buffers, such as the running means of batch norm: each process has seen its own samples."""
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.add(buffers)
        if self.count > 1:
            for buffer in buffers:
                buffer /= self.count


def _part() -> None:
    """Stop the threads by which the processes speak; an interpreter that ends beside them may abort."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()  # the group's threads end with its last reference


def is_first() -> bool:
    """Tell whether this process is the first of those that a launcher started, or the only one."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"  # they have not met yet
