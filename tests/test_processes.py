"""Training in several processes, by several launchers; and what `fit` does with parts of a batch."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from lib import chapter, training
from lib.processes import Processes

STEPS = 24


def make_data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 3, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True).sin()}


def mean_error(model, batch, step):
    error = (model(batch["x"]) - batch["y"]).square().mean()
    return {"loss": error, "part": error.detach() + step}


def train(out_dir="", loss=mean_error, steps=STEPS, **options):
    chapter.set_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Linear(1, 1, bias=False))
    model[3].weight.requires_grad_(False)  # a weight that no gradient reaches
    options = {"batch_size": 7, "lr": 1e-2, "device": "cpu", "checkpoint_every": 5, "log_every": 4} | options
    history = training.fit(model, loss, make_data(), steps=steps, out_dir=out_dir, **options)
    return model, history


def weights(model):
    return torch.cat([value.reshape(-1) for value in model.state_dict().values()])


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(work, count=2):
    """Start `work(rank)` in `count` processes that know of each other, or in one that is alone."""
    port = free_port()

    def begin(rank):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        if count > 1:
            os.environ.update({name: str(value) for name, value in numbers.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        work(rank)

    fork = multiprocessing.get_context("fork")  # torch is imported already
    processes = [fork.Process(target=begin, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def finish(processes):
    for process in processes:
        process.join(100)
    return [process.exitcode for process in processes]


def test_parts_of_a_batch_make_the_same_step():
    model, history = train()
    for accumulate in (2, 3, 7):
        in_parts, same_history = train(accumulate=accumulate)
        torch.testing.assert_close(weights(in_parts), weights(model))
        assert same_history.keys() == history.keys()
        assert same_history["loss"] == pytest.approx(history["loss"], rel=1e-4)
    with pytest.raises(ValueError, match=r"a batch of 7 samples cannot be cut into 8 parts \(1 processes × accum"):
        train(accumulate=8)
    with pytest.raises(ValueError, match="accumulate must be at least 1"):
        train(accumulate=0)


def test_one_process_is_the_whole():
    alone = Processes()
    assert alone.first and alone.gather(3) == [3] and alone.from_first(4) == 4 and alone.on_first(lambda: 5) == 5


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path):
    """Batches of 7: one process takes 4, the other 3, each in two parts."""
    model, history = train()

    def work(rank):
        model, history = train(tmp_path, accumulate=2)
        torch.save((weights(model), history, torch.rand(1)), tmp_path / f"{rank}.pt")
        train(loss=lambda m, b, s: mean_error(m, b, s) | {"drawn": torch.rand(())}, max_seconds=0)
        with pytest.raises(ValueError, match=r"a batch of 1 samples cannot be cut into 2 parts \(2 processes\)"):
            train(batch_size=1)

    assert finish(start(work)) == [0, 0]
    (first, first_history, number), (second, second_history, other) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    assert torch.equal(first, second) and first_history == second_history
    assert number == other, "after the training, random numbers are the same again"
    torch.testing.assert_close(first, weights(model))
    assert first_history["step"] == history["step"]
    assert first_history["loss"] == pytest.approx(history["loss"], rel=1e-4)
    files = {path.name for path in tmp_path.glob("model.*")}
    assert files == {"model.checkpoint", "model.previous", "model.progress.json"}
    again, same_history = train(tmp_path)  # a finished run is read by any number of processes
    assert torch.equal(weights(again), first) and same_history == first_history
    with pytest.raises(ValueError, match=r"is of a run with processes=2, this one has 1; start as many, choose anoth"):
        train(tmp_path, steps=STEPS + 1)


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_is_said_in_all(tmp_path, monkeypatch):
    for name in ("damaged", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "model.checkpoint").write_text("no checkpoint")

    def bad(model, batch, step):
        terms = mean_error(model, batch, step)
        return terms | {"loss": terms["loss"] * (torch.nan if step == 3 and os.environ["RANK"] == "1" else 1)}

    def full(path, content):
        raise OSError(errno.ENOSPC, f"cannot write {path} (No space left on device)")

    def work(rank):
        with pytest.raises(ValueError, match=r"no other checkpoint is whole; delete it to start anew"):
            train(tmp_path / "damaged")
        with pytest.raises(FloatingPointError, match="the loss is not finite at step 4; lower the learning rate"):
            train(tmp_path / "bad", loss=bad)
        made = make_data()
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[__name__], "make_data", lambda: made | {"x": made["x"] + rank})
            with pytest.raises(ValueError, match="the processes train with different data or settings"):
                train()
        monkeypatch.setattr(training, "write_atomically", full)
        with pytest.raises(OSError, match="No space left on device"):
            train(tmp_path / "full")

    assert finish(start(work)) == [0, 0]
    saved = torch.load(tmp_path / "bad" / "model.not_finite")
    assert saved["step"] == 4 and saved["batch"]["x"].shape == (7, 3)
    assert torch.equal(saved["batch"]["x"], make_data()["x"][saved["indices"]])
    assert not (tmp_path / "bad" / "model.checkpoint").exists()


@pytest.mark.slow
def test_launchers(tmp_path):
    """From the command line, and from a notebook, where the function that is launched calls `fit` (here on a CPU)."""
    body = f"import sys; sys.path[:0] = {sys.path!r}\nimport test_processes as here\n"
    script = tmp_path / "script.py"
    script.write_text(f"{body}here.train({str(tmp_path / 'line')!r})\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    launch.append(str(script))
    done = subprocess.run(launch, capture_output=True, text=True, timeout=100)
    if "terminate called without an active exception" in done.stderr:
        # PyTorch's threads can abort an interpreter that ends, after all is written: seen twice in 24 starts.
        done = subprocess.run(launch, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    notebook = f"""{body}
from accelerate import debug_launcher
folder = {str(tmp_path / "notebook")!r}
debug_launcher(here.train, (folder,), num_processes=2)
model, history = here.train(folder)  # the finished run is read
print(history["step"])
"""
    alone = {"capture_output": True, "text": True, "timeout": 100}
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, "-c", notebook], env=environment, **alone)
    assert done.returncode == 0 and "[4, 8, 12, 16, 20, 24]" in done.stdout, done.stderr
    for folder in ("line", "notebook"):
        state = torch.load(tmp_path / folder / "model.checkpoint", weights_only=True)
        assert state["step"] == STEPS and len(state["others"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_ten_random_moments_it_reaches_the_same_weights(tmp_path, count):
    """Bitwise; kill -9 also hits while a checkpoint is written, for one is written at every second step."""

    def noisy(model, batch, step):
        time.sleep(0.004)
        return mean_error(model, batch, step) | {"noise": torch.rand(())}

    def work_in(folder):
        def work(rank):
            model, history = train(tmp_path / folder, loss=noisy, steps=200, checkpoint_every=2)
            if rank == 0:
                torch.save((weights(model), history), tmp_path / f"{folder}.pt")

        return work

    assert finish(start(work_in("whole"), count)) == [0] * count
    moments = random.Random(count)
    reached = [0]
    newest = tmp_path / "killed" / "model.checkpoint"
    for attempt in range(10):
        before = newest.stat().st_mtime_ns if newest.exists() else 0
        killed = start(work_in("killed"), count)
        # A third of the kills comes while the processes start, meet or load; the others while they train.
        while attempt % 3 and (newest.stat().st_mtime_ns if newest.exists() else 0) == before:
            if not any(process.is_alive() for process in killed):
                break
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.15))
        moments.shuffle(killed)
        for process in killed:
            process.kill()
        finish(killed)
        state = training.Checkpoint(tmp_path / "killed", "model", {}).load()
        reached.append(state["step"] if state else 0)
    assert reached == sorted(reached) and len(set(reached)) > 2, reached
    assert finish(start(work_in("killed"), count)) == [0] * count
    (whole, history), (resumed, same_history) = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "killed"))
    assert torch.equal(whole, resumed) and history == same_history
