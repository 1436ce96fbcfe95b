"""The training loop of the course, with its checkpoints."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import pickle
import random
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import get_start_method
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lib.chapter import pick_device, set_seed
from lib.checks import Deferred, number, whole_number
from lib.files import claim, release, write_atomically
from lib.processes import Processes, is_first

INFINITE_GRADIENT = "lower the learning rate, or keep roots and logarithms in loss_fn away from zero"


def _alone(train: Callable) -> Callable:
    """Let one process at a time train under this name in this folder."""

    @functools.wraps(train)
    def alone(*arguments, out_dir: str | Path = "", name: str = "model", **options):
        if not str(out_dir) or not is_first():  # of several processes the first has the folder
            return train(*arguments, out_dir=out_dir, name=name, **options)
        lock = Path(out_dir) / f".{name}.lock"
        claim(lock, "wait for it, or choose another out_dir or name")
        try:
            return train(*arguments, out_dir=out_dir, name=name, **options)
        finally:
            release(lock)

    return alone


def _memory_named(train: Callable) -> Callable:
    """Say in one line that memory was not enough, and what helps; PyTorch's message has a page of numbers."""

    @functools.wraps(train)
    def named(*arguments, **options):
        try:
            return train(*arguments, **options)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            where = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "the memory"
            parts = 2 * options.get("accumulate", 1)
            remedy = f"give accumulate={parts} for the same batches in smaller parts, or a smaller batch_size"
            batch = f"batch_size={options.get('batch_size')}"
            raise MemoryError(f"{where} is not enough for {batch}; {remedy}; a checkpoint is kept") from None

    return named


@_memory_named
@_alone
def fit(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, dict[str, Tensor], int], dict[str, Tensor]],
    data: dict[str, Tensor] | Dataset,
    *,
    steps: int,
    batch_size: int,
    lr: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    device: torch.device | str = "auto",
    mixed_precision: bool = True,
    seed: int = 0,
    out_dir: str | Path = "",
    name: str = "model",
    checkpoint_every: int = 1000,
    log_every: int = 10,
    max_seconds: float | None = None,
    workers: int | None = None,
    accumulate: int = 1,
    watch: Callable[[nn.Module, int], None] | None = None,
    watch_every: int = 100,
) -> dict[str, list[float]]:
    """Train `model` for `steps` steps of gradient descent: the one training loop of the course.

    loss_fn: `loss_fn(model, batch, step)` returns named scalars; the one named "loss" is minimised, the
        others are only recorded. Put random augmentation here: its random numbers are restored on resume.
    data: a dict of tensors with one common first axis, or a Dataset whose items are dicts of tensors and
        depend on their index alone (so `workers` processes may load them). A batch is a dict of stacked tensors
        on `device`. On CUDA the dict's tensors are moved there once, unless they take more than half of its memory.
    optimizer: by default Adam(`lr`); `parameter_groups` gives parts of a model their own rates. schedule: a factor of
        the learning rate(s) for every step, such as `warmup_cosine(steps)`.
    device: where to train; see `pick_device`. On CUDA, with `mixed_precision`, `model(…)` runs in bfloat16 and
        returns float32, if the GPU has bfloat16 (since Ampere). All that `loss_fn` computes outside of it stays in
        float32, also the model's other methods. Even without `mixed_precision`, convolutions round their factors to
        TF32 (`torch.backends.cudnn.allow_tf32`).
    out_dir: folder of `<name>.checkpoint`, written atomically every `checkpoint_every` steps and at the end. Called
        again with the same arguments, the run continues from there. On the CPU it reaches exactly the weights of a
        run that was never stopped (CUDA adds in another order each time). Without `out_dir` nothing is written, and
        the run starts anew.
    log_every: every so many steps, append the mean since the last entry to the history.
    max_seconds: stop early, with a checkpoint, when this time is over (the next call continues).
    watch: `watch(model, step)` shows the result as it grows: it is called before the first step (step 0), every
        `watch_every` steps and at the end, with the model in evaluation mode and without gradients. Random numbers that
        it draws do not change the training. A run that continues from a checkpoint is watched from there on.
    workers: processes that load a Dataset; by default none on the CPU, and all cores but one on CUDA.
    accumulate: cut each batch into so many parts, of which one at a time is in memory; the step is that of the whole.

    *Several processes* train together if a launcher started them (`lib.processes`): each calls `fit` with the same
    arguments and takes its share of every batch of `batch_size` samples. Gradients and terms are added up in every
    step, so the weights are equal everywhere, and so is the history; the first process writes the only checkpoint. A
    loss that is a mean over samples is then that of one process, to rounding. Not shared between parts, of processes or
    of `accumulate`, are the statistics of batch norm within a step, and random numbers drawn in `loss_fn`.

    With an `out_dir`, curves for TensorBoard are written to `out_dir/tensorboard`, if it is installed
    (`pip install -e '.[logs]'`).

    Returns the history: {"step": […], "loss": […], …}, lists of equal length. The model is left in evaluation mode.

    A step whose gradient is not finite is left out, with a warning. On CUDA the run stops instead, because the host
    would have to wait in every step to look at the gradient. With an `out_dir`, the first batch whose loss or gradient
    is not finite is saved as `<name>.not_finite`, for `torch.load`: its step, the indices of its samples, the batch.
    `loss_fn` is then also called once at every checkpoint, and when a checkpoint is loaded, in evaluation mode: its
    value tells whether loss and data are still the same.

    Raises FloatingPointError, before a checkpoint is written, if the loss, two gradients in a row, the weights or the
    optimiser's state are no longer finite; ValueError if `out_dir` holds the checkpoint of another run (another model,
    loss, data, seed or number of processes, or more steps) or only damaged ones, or if another process works in it;
    MemoryError if the memory is not enough for a batch. On CUDA, errors that `lib`'s functions raise in
    `loss_fn` because of values, such as vertices that are NaN, come up to `log_every` steps later (`checks.Deferred`).
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = pick_device(str(device))
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train on one device, then on another
    # PyTorch also counts the emulation of bfloat16 on older GPUs, which is slow, and which cuDNN cannot use.
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = "bf16" if mixed_precision and bf16 else "no"
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision, device_placement=False)

    steps, batch_size = whole_number("steps", steps, 0), whole_number("batch_size", batch_size)
    checkpoint_every, log_every = (
        whole_number("checkpoint_every", checkpoint_every),
        whole_number("log_every", log_every),
    )
    seed, watch_every = whole_number("seed", seed, 0), whole_number("watch_every", watch_every)
    if optimizer is None and not number("lr", lr) > 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    if schedule is not None and not callable(schedule):
        raise TypeError(f"schedule must be a function of the step, such as warmup_cosine(steps), got {schedule!r}")
    if max_seconds is not None:
        max_seconds = number("max_seconds", max_seconds, infinite=True)
        if math.isnan(max_seconds):
            raise ValueError("max_seconds must be a number of seconds, got NaN")
    samples = count_samples(data)
    processes = Processes()
    whole, accumulate = min(batch_size, samples), whole_number("accumulate", accumulate)
    parts = processes.count * accumulate
    if whole < parts:
        cut = f"{processes.count} processes" if accumulate == 1 else f"{processes.count} processes × {accumulate=}"
        raise ValueError(f"a batch of {whole} samples cannot be cut into {parts} parts ({cut}); use larger batches")
    if processes.count > 1 and device.type == "cuda" and device.index is None:
        device = accelerator.device  # a GPU for each process
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=lr)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    run = {"seed": seed, "batch_size": batch_size, "samples": samples, "rates": base_rates}
    run["optimizer"] = type(optimizer).__name__
    if str(out_dir) or processes.count > 1:
        run["data"] = _fingerprint(data)
        if any(other != run for other in processes.gather(run)):
            raise ValueError("the processes train with different data or settings; draw them from the seed alone")
    # No wrapper around the model: `loss_fn` may call all its methods, and gradients are added up below.
    model = accelerator.prepare_model(model.to(device), evaluation_mode=True)
    optimizer = accelerator.prepare_optimizer(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    processes.share([*model.state_dict().values(), *parameters])
    checkpoint = Checkpoint(out_dir, name, run) if str(out_dir) else None
    probe = functools.partial(_probe, model, loss_fn, data, batch_size, device)

    # Each process draws random numbers of its own; the first one draws those of a single process.
    set_seed((seed + 2_000_003 * processes.rank) % 2**63)
    history: dict[str, list[float]] = {"step": []}
    sums: dict[str, Tensor] = {}
    start = 0
    if checkpoint is not None and (state := processes.on_first(checkpoint.load)) is not None:
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{checkpoint.newest} is of another model ({reason}); choose another out_dir") from None
        remedy = "choose another out_dir, or delete it to start anew"
        if state["step"] > steps:
            raise ValueError(f"{checkpoint.newest} is of a run of {state['step']} steps, more than {steps=}; {remedy}")
        others = state.get("others", [])
        if state["step"] < steps and len(others) + 1 != processes.count:
            found = f"of a run with processes={len(others) + 1}, this one has {processes.count}"
            raise ValueError(f"{checkpoint.newest} is {found}; start as many, {remedy}")
        before, now = state.get("probe"), probe(state["step"])
        if before is not None and now is not None and before[0] == now[0]:
            if not math.isclose(before[1], now[1], rel_tol=2e-2 if device.type == "cuda" else 1e-3, abs_tol=1e-6):
                found = f"the loss of its first batch was {before[1]:.6g}, and is now {now[1]:.6g}"
                raise ValueError(f"{checkpoint.newest} is of another loss_fn or data: {found}; {remedy}")
        start, history = state["step"], state["history"]
        sums = {term: value.to(device) for term, value in state["sums"].items()}
        restore_random_state(
            others[processes.rank - 1] if 0 < processes.rank <= len(others) else state["random"], device
        )

    if watch is not None and start in (0, steps):
        _look(watch, model, start, device)
    model.train()
    checks = Deferred()
    fine: list[Tensor] = []  # on CUDA: whether the steps since the host last looked were finite
    left_out = None
    bad_batch = BadBatch(data, functools.partial(batch_order, samples, batch_size, seed), out_dir, name)
    began = time.monotonic()
    path = Path(out_dir) / f"{name}.progress.json" if str(out_dir) else None
    progress = Progress(start, steps, path) if processes.first else None
    curves = Curves(Path(out_dir) / "tensorboard" / name, start) if str(out_dir) and processes.first else None
    order = batch_order(samples, batch_size, seed, start, steps)
    own_parts = slice(processes.rank * accumulate, (processes.rank + 1) * accumulate)
    order = (part for indices in order for part in indices.tensor_split(parts)[own_parts])
    batches = load_batches(data, order, device, workers)
    for step in range(start, steps):
        if schedule is not None:
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = float(rate * schedule(step))  # a NumPy number in a checkpoint could not be loaded
        optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        for batch in itertools.islice(batches, accumulate):
            share = len(next(iter(batch.values()))) / whole if parts > 1 else 1
            with checks:
                terms = check_terms(loss_fn(model, batch, step))
                accelerator.backward(terms["loss"] if parts == 1 else share * terms["loss"])
            for term, value in terms.items():
                value = torch.as_tensor(value).detach().float().reshape(())
                totals[term] = value if parts == 1 else totals.get(term, 0) + share * value
        done = step + 1
        late = torch.tensor(float(max_seconds is not None and time.monotonic() - began > max_seconds))
        if processes.count > 1:
            totals, late = {term: value.to(device) for term, value in totals.items()}, late.to(device)
            processes.add_gradients(parameters, [*totals.values(), late])  # `late`, for they stop together
        finite = _finite_gradient(optimizer)
        if device.type == "cuda":
            fine.append(finite & totals["loss"].isfinite())
            optimizer.step()
        elif not totals["loss"].isfinite():
            raise FloatingPointError(
                f"the loss is not finite at step {done}; lower the learning rate{bad_batch.save(step)}"
            )
        elif finite:
            optimizer.step()
            left_out = None
        elif left_out == step - 1:
            saved = bad_batch.save(step)
            raise FloatingPointError(
                f"the gradient is not finite at steps {step} and {done}; {INFINITE_GRADIENT}{saved}"
            )
        else:
            saved = bad_batch.save(step)
            reason = f"step {done} is left out: its gradient is not finite; {INFINITE_GRADIENT}{saved}"
            warnings.warn(reason, stacklevel=2)
            left_out = step

        if sums and sums.keys() != totals.keys():
            odd = ", ".join(map(repr, sorted(sums.keys() ^ totals.keys())))
            raise ValueError(f"loss_fn gives {odd} only at some steps; give it at every step, if need be as 0")
        sums = {term: sums.get(term, 0) + value for term, value in totals.items()}
        out_of_time = max_seconds is not None and bool(late)
        due = done % checkpoint_every == 0 or done == steps or out_of_time
        log = done % log_every == 0 or done == steps
        if log or (due and checkpoint is not None):
            count = done - (history["step"][-1] if history["step"] else 0)
            seen = torch.stack([*(flag.float() for flag in fine), *(total.to(device) for total in sums.values())])
            seen = seen.tolist()  # one wait
            means = {term: total / count for term, total in zip(sums, seen[len(fine) :], strict=True)}
            checks.settle()
            bad = next((done - len(fine) + place for place in range(len(fine)) if not seen[place]), None)
            saved = "" if bad is None else bad_batch.save(bad)
            if not np.isfinite(means["loss"]):
                raise FloatingPointError(f"the loss is not finite near step {done}; lower the learning rate{saved}")
            if bad is not None:
                raise FloatingPointError(f"a gradient is not finite near step {done}; {INFINITE_GRADIENT}{saved}")
            fine = []
        if log:
            sums = {}
            for term, mean in {"step": done, **means}.items():
                history.setdefault(term, []).append(mean)
            if progress is not None:
                progress.show(done, means["loss"])
            if curves is not None:
                curves.show(done, means | {"learning rate": optimizer.param_groups[0]["lr"]})
        if (checkpoint is not None and due) or done == steps:
            _check_weights(model, optimizer, done)
        watched = watch is not None and (done % watch_every == 0 or done == steps or out_of_time)
        if due or watched:
            processes.average_buffers(model)
        # Write no checkpoint right after a step that was left out: if the next one fails too, continue before both.
        if checkpoint is not None and due and (left_out != step or done == steps):
            own, *others = processes.gather(random_state(device))
            state = {
                "step": done,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "sums": sums,
                "random": own,
                "others": others,
                "probe": probe(done, twice=True),
            }
            processes.on_first(functools.partial(checkpoint.save, state))
        if watched:
            _look(watch, model, done, device)
        if out_of_time:
            break
    for display in (progress, curves):
        if display is not None:
            display.close()
    if processes.count > 1:  # what comes after `fit` is again the same everywhere
        restore_random_state(processes.from_first(random_state(device)), device)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
    return history


def count_samples(data: dict[str, Tensor] | Dataset) -> int:
    """Count the samples. Raises TypeError or ValueError for data that `fit` cannot train on."""
    if isinstance(data, dict):
        for key, values in data.items():
            if not isinstance(values, Tensor) or values.ndim == 0:
                kind = type(values).__name__
                raise TypeError(
                    f"data[{key!r}] must be a tensor with an axis of samples, got {kind}; use torch.as_tensor"
                )
        lengths = {key: len(values) for key, values in data.items()}
        if len(set(lengths.values())) > 1:
            sizes = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ValueError(f"data must have as many samples in every tensor, got {sizes}; cut them to one length")
        samples = next(iter(lengths.values()), 0)
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        samples = len(data)
    else:
        raise TypeError(f"data must be a dict of tensors or a Dataset with a length, got {type(data).__name__}")
    if samples == 0:
        raise ValueError("data is empty; give at least one sample")
    return samples


def check_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms of a loss_fn, each one number.

    Raises TypeError or ValueError unless all terms are, "loss" with a gradient, and none is called "step".
    """
    if not isinstance(terms, dict) or "loss" not in terms:
        found = f"a dict of {', '.join(map(str, terms))}" if isinstance(terms, dict) else type(terms).__name__
        raise TypeError(f'loss_fn must return a dict of scalars with one called "loss", got {found}')
    loss = terms["loss"]
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f'loss_fn must give one number as "loss", got {found}; take its mean')
    if "step" in terms:
        raise ValueError('loss_fn must not call a term "step", under which the history counts the steps; rename it')
    for name, value in terms.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"loss_fn must give one number as {name!r}, got shape {tuple(value.shape)}; take its mean")
        if not isinstance(value, Tensor | bool):
            number(f"loss_fn's term {name!r}", value, infinite=True)
    if not loss.requires_grad:
        raise ValueError('loss_fn gave a "loss" that depends on no parameter of the model; is something detached?')
    return terms


def _finite_gradient(optimizer: torch.optim.Optimizer) -> Tensor:
    """Tell whether all gradients are finite, as a tensor on their device."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:  # the loss reaches none of the optimiser's parameters
        return torch.tensor(True)
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).isfinite().all()


def _check_weights(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raise FloatingPointError if a parameter or what the optimiser remembers is not finite, or a buffer NaN."""
    values = [parameter.detach().isfinite().all() for parameter in model.parameters()]
    values += [~buffer.isnan().any() for buffer in model.buffers() if buffer.is_floating_point()]
    if values and not torch.stack(values).all():
        raise FloatingPointError(f"the weights are not finite after step {step}; lower the learning rate")
    remembered = [value for state in optimizer.state.values() for value in state.values()]
    finite = [value.isfinite().all() for value in remembered if isinstance(value, Tensor)]
    if finite and not torch.stack([value.to(finite[-1].device) for value in finite]).all():
        reason = "the optimiser's state is not finite, for the gradients are too large to be squared"
        raise FloatingPointError(f"{reason}, after step {step}; {INFINITE_GRADIENT}")


class BadBatch:
    """The first batch whose loss or gradient was not finite, saved beside the checkpoint for inspection.

    order: `order(start, stop)` yields the samples of the steps `start` … `stop` − 1.
    """

    def __init__(
        self, data: dict[str, Tensor] | Dataset, order: Callable[[int, int], Iterator], out_dir: str | Path, name: str
    ) -> None:
        self.data, self.order = data, order
        self.path = Path(out_dir) / f"{name}.not_finite" if str(out_dir) and is_first() else None

    def save(self, step: int) -> str:
        """Save the batch of a step, read anew; return where it is, to be said after the reason."""
        if self.path is None:
            return ""
        path, self.path = self.path, None
        indices = next(self.order(step, step + 1))
        buffer = io.BytesIO()
        batch = _pick(self.data, indices, torch.device("cpu"))
        torch.save({"step": step + 1, "indices": indices, "batch": batch}, buffer)
        try:
            write_atomically(path, buffer.getvalue())
        except OSError:  # the reason for which it is saved matters more
            return ""
        return f"; its batch is in {path}"


class Curves:
    """The history as TensorBoard reads it, if TensorBoard is installed; a run that continues writes on."""

    def __init__(self, folder: Path, start: int) -> None:
        self.writer = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            # Values of an earlier sitting, after the step from which this one continues, are not shown twice.
            self.writer = SummaryWriter(str(folder), purge_step=start + 1)

    def show(self, step: int, values: dict[str, float]) -> None:
        """Append the values of one step."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _pick(data: dict[str, Tensor] | Dataset, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Collect these samples as a batch on `device`."""
    if isinstance(data, dict):
        return {name: values[indices.to(values.device)].to(device) for name, values in data.items()}
    batch = default_collate([data[index] for index in indices.tolist()])
    return {name: values.to(device) for name, values in batch.items()}


def _fingerprint(data: dict[str, Tensor] | Dataset) -> str | None:
    """A short text that changes with any number of a dict of tensors; None for a Dataset, which is not read through."""
    if not isinstance(data, dict):
        return None
    digest = hashlib.sha256()
    for name in sorted(data):
        values = data[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy() if values.dim() else values.reshape(1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _probe(
    model: nn.Module,
    loss_fn: Callable,
    data: dict[str, Tensor] | Dataset,
    batch_size: int,
    device: torch.device,
    step: int,
    twice: bool = False,
) -> tuple[str, float] | None:
    """Compute the loss of the first samples in evaluation mode, and the kind of device; the training is not changed.

    Returns None if the loss cannot be computed so or, computed `twice`, is different each time.
    """
    random_numbers, was_training = random_state(device), model.training
    model.eval()
    found = []
    try:
        for _ in range(1 + twice):
            set_seed(0)
            batch = _pick(data, torch.arange(min(batch_size, count_samples(data))), device)
            found.append(float(loss_fn(model, batch, step)["loss"].detach()))
    except Exception:  # an error of the loss_fn; the training will raise it, too, if it matters
        return None
    finally:
        model.train(was_training)
        restore_random_state(random_numbers, device)
    same = math.isclose(found[0], found[-1], rel_tol=1e-3, abs_tol=1e-6)
    return (device.type, found[0]) if same and math.isfinite(found[0]) else None


def _look(watch: Callable[[nn.Module, int], None], model: nn.Module, step: int, device: torch.device) -> None:
    """Call `watch` between two steps without changing the training."""
    state = random_state(device)
    model.eval()
    with torch.no_grad():
        watch(model, step)
    model.train()
    restore_random_state(state, device)


def warmup_cosine(steps: int, warmup: int = 20, last: float = 0.05) -> Callable[[int], float]:
    """Make the course's schedule of the learning rate: up in `warmup` steps, then down half a cosine to `last`.

    The factor of step s = 0, 1, … is min(1, (s + 1)/warmup) · (1 + last + (1 − last) cos(π s/steps))/2: straight up, so
    that Adam's first, rough estimates move little, then slowly down, so that the end is calm (Loshchilov and Hutter,
    "SGDR", 2017, equation 5, without restarts).

    Raises ValueError for no steps, a warm-up of less than one step, or a `last` outside [0, 1].
    """
    if steps < 1 or warmup < 1 or not 0 <= last <= 1:
        raise ValueError(f"steps and warmup must be 1 or more and last in [0, 1], got {steps}, {warmup} and {last}")
    return lambda step: min(1, (step + 1) / warmup) * (1 + last + (1 - last) * math.cos(math.pi * step / steps)) / 2


def parameter_groups(model: nn.Module, lr: float, **rates: float) -> list[dict]:
    """Split a model's parameters into groups for an optimiser: named parts with their own rates, the others with `lr`.

    rates: the rate of each part, which is a submodule or a parameter of the model by its name:
        `torch.optim.Adam(parameter_groups(model, 1e-3, offset_head=3e-4, mean_half=1e-2))`. A part without parameters
        adds no group. If one part lies within another, the longest name counts.

    Raises ValueError for a part that the model lacks.
    """
    parts = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
    if strangers := ", ".join(repr(name) for name in rates if name not in parts):
        there = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
        raise ValueError(f"the model has no part {strangers}; it has {there}")
    groups: dict[str, list[nn.Parameter]] = {"": [], **{part: [] for part in rates}}
    for name, parameter in model.named_parameters():
        within = [part for part in rates if f"{name}.".startswith(f"{part}.")]
        groups[max(within, key=len, default="")].append(parameter)
    return [{"params": group, "lr": rates.get(part, lr)} for part, group in groups.items() if group]


def batch_order(samples: int, batch_size: int, seed: int, start: int, stop: int) -> Iterator[Int[Tensor, "B"]]:
    """Yield the samples of the batches of steps `start` … `stop` − 1.

    Every epoch is a new permutation, cut into batches; samples that do not fill a batch are left out. The order
    depends on seed and step alone, so a resumed run sees the same batches as a run that was never stopped.
    """
    per_epoch = max(samples // batch_size, 1)
    current = None
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != current:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
            permutation, current = torch.randperm(samples, generator=generator), epoch
        yield permutation[place * batch_size : (place + 1) * batch_size]


def load_batches(
    data: dict[str, Tensor] | Dataset, order: Iterator[Int[Tensor, "B"]], device: torch.device, workers: int | None
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of `data` in this order, on `device`; the host need not wait for any of them."""
    cuda = device.type == "cuda"
    if isinstance(data, dict):
        if cuda and sum(values.nbytes for values in data.values()) < torch.cuda.mem_get_info(device)[0] / 2:
            data = {name: values.to(device) for name, values in data.items()}
        for indices in order:
            there = _move(indices, device)
            batch = {name: values[there if values.is_cuda else indices] for name, values in data.items()}
            yield {name: _move(values, device) for name, values in batch.items()}
        return
    if workers is None:
        # If processes are started by another method than fork, they must be able to import the data set's class.
        workers = max((os.cpu_count() or 1) - 1, 0) if cuda and get_start_method() == "fork" else 0
    loader = DataLoader(
        data,
        batch_sampler=(indices.tolist() for indices in order),
        num_workers=workers,
        pin_memory=cuda,
        generator=torch.Generator(),  # its own one: the loader must not use up the model's random numbers
    )
    for batch in loader:
        if not isinstance(batch, dict):
            raise TypeError(f"data must give dicts of tensors, got {type(batch).__name__}; name what an item holds")
        yield {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def _move(values: Tensor, device: torch.device) -> Tensor:
    """Copy the values to `device`, from memory that the device reads by itself while the host goes on."""
    pinned = device.type == "cuda" and not values.is_cuda
    return values.pin_memory().to(device, non_blocking=True) if pinned else values.to(device)


class Progress:
    """Display of steps done, loss and time left: a widget in a live notebook, a line on a terminal, nothing elsewhere.

    path: also write a small JSON file every few seconds, for those who watch a headless run.
    """

    def __init__(self, start: int, steps: int, path: Path | None = None) -> None:
        from tqdm import tqdm

        self.start, self.steps, self.path = start, steps, path
        self.began = self.written = time.monotonic()
        options = {"total": steps, "initial": start, "unit": "step"}
        if "JPY_SESSION_NAME" in os.environ:  # a Jupyter server sets it for the kernels that a person starts
            from tqdm.notebook import tqdm as widget

            self.bar = widget(**options)
        else:
            self.bar = tqdm(**options, disable=None, dynamic_ncols=True)

    def show(self, step: int, loss: float) -> None:
        """Report that `step` steps are done."""
        self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.bar.update(step - self.bar.n)
        now = time.monotonic()
        if self.path is not None and (now - self.written > 5 or step == self.steps):
            self.written = now
            left = (now - self.began) / max(step - self.start, 1) * (self.steps - step)
            report = {"step": step, "steps": self.steps, "loss": loss, "seconds_left": round(left)}
            write_atomically(self.path, json.dumps(report))

    def close(self) -> None:
        self.bar.close()


def random_state(device: torch.device) -> dict:
    """Return the state of the random number generators of the CPU and of `device`, as plain numbers and tensors."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    state = {"python": random.getstate(), "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest)}
    state["torch"] = torch.get_rng_state()
    if device.type == "cuda":  # otherwise the question alone would start CUDA
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict, device: torch.device) -> None:
    """Restore the state that `random_state` returned; on CUDA also one from a run on another GPU."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and isinstance(state.get("cuda"), Tensor):
        torch.cuda.set_rng_state(state["cuda"], device)


class Checkpoint:
    """The last two checkpoints of one run: `<name>.checkpoint`, and `<name>.previous` in case the first is damaged.

    run: numbers that identify the run; a checkpoint with other numbers is refused.
    """

    KEYS = frozenset({"step", "model", "optimizer", "history", "sums", "random", "run"})

    def __init__(self, out_dir: str | Path, name: str, run: dict) -> None:
        self.newest = Path(out_dir) / f"{name}.checkpoint"
        self.previous = Path(out_dir) / f"{name}.previous"
        self.run = run

    def save(self, state: dict) -> None:
        """Write `state` completely or not at all; keep the checkpoint before it as the previous one."""
        buffer = io.BytesIO()
        torch.save({**state, "run": self.run}, buffer)
        if self.newest.exists() and is_whole(self.newest):
            os.replace(self.newest, self.previous)
        write_atomically(self.newest, buffer.getvalue())

    def load(self) -> dict | None:
        """Load the newest undamaged checkpoint, onto the CPU; return None if there is no checkpoint at all.

        The states of random number generators and an optimiser's counts of steps belong on the CPU.

        Raises ValueError if it belongs to another run, or if all checkpoints are damaged.
        """
        there = [path for path in (self.newest, self.previous) if path.exists()]
        for path in there:
            if not is_whole(path):
                warnings.warn(f"{path} is damaged and is left aside", stacklevel=2)
                continue
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, pickle.UnpicklingError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"{path} is not a checkpoint of this course ({reason}); move it away") from None
            if not isinstance(state, dict) or not self.KEYS <= state.keys():
                raise ValueError(
                    f"{path} is not a checkpoint of this course, but another file of PyTorch; move it away"
                )
            remembered = [v for values in state["optimizer"].get("state", {}).values() for v in values.values()]
            tensors = [values for values in (*state["model"].values(), *remembered) if isinstance(values, Tensor)]
            if not all(values.isfinite().all() for values in tensors):
                warnings.warn(f"{path} holds weights that are not finite and is left aside", stacklevel=2)
                continue
            for key, value in self.run.items():
                if state["run"].get(key, value) != value:
                    old = state["run"].get(key)
                    remedy = "choose another out_dir, or delete it to start anew"
                    found = "other data" if key == "data" else f"{key}={old!r}, this one has {value!r}"
                    raise ValueError(f"{path} is of a run with {found}; {remedy}")
            return state
        if there:
            reason = "is damaged, or not finite, and no other checkpoint is whole"
            raise ValueError(f"{there[0]} {reason}; delete it to start anew")
        return None


def is_whole(path: str | Path) -> bool:
    """Tell whether a file written by `torch.save` is complete and unchanged (by its checksums)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
