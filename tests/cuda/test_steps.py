"""A training step of each chapter's system on the simulated device: no mismatch, and how often the host waits.

Sizes are small, for neither launches nor waits depend on them. `steps.json` has what was counted:
`RECORD=1 pytest tests/cuda/test_steps.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from simulated import CUDA, Mismatch, Sim, simulated
from systems import SYSTEMS, Scale

from lib import rendering, training
from lib.geometry.mesh import icosphere

pytestmark = pytest.mark.slow

COUNTS = Path(__file__).with_name("steps.json")
MOST_WAITS = 3
STEPS = 12


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("chapter", SYSTEMS)
def test_a_step_neither_breaks_nor_waits(chapter: str) -> None:
    with_fit = chapter in ("chapter 5", "chapter 6", "chapter 7", "chapter 8", "chapter 9", "chapter 10")
    steps = 4 if chapter == "chapter 1" else STEPS
    with simulated() as record:

        def phase(name: str) -> None:
            record.phase = name
            if not name:
                record.close_step()

        SYSTEMS[chapter]("cuda", Scale(), steps, **{} if with_fit else {"phase": phase})
    later = record.steps[2:]  # in the first, what holds for the whole run is found
    assert len(later) == steps - 2

    def most(kind: str, phases: tuple[str, ...] = ("", "backward", "optimizer")) -> int:
        return max(sum(step[kind, phase] for phase in phases) for step in later)

    counts = {
        "waits": most("wait"),
        "launches forward": most("launch", ("",)),
        "launches backward": most("launch", ("backward",)),
        "warp launches": most("warp"),
    }
    recorded = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if os.environ.get("RECORD"):
        recorded[chapter] = counts
        COUNTS.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    assert counts["waits"] <= recorded[chapter]["waits"], f"waits:\n{record.places('wait')}"
    if with_fit:
        assert counts["waits"] <= MOST_WAITS, f"waits:\n{record.places('wait')}"


def train(folder: str | Path, steps: int, data_on: str = "cpu"):
    torch.manual_seed(0)
    layers = torch.nn.Linear(12, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1)
    model = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    data = {"x": torch.randn(20, 3, 4).to(data_on), "y": torch.randn(20, 1).to(data_on)}

    def loss_fn(model, batch, step):
        assert batch["x"].is_cuda
        return {"loss": (model(batch["x"]) - batch["y"]).square().mean(), "one": torch.ones(())}

    options = dict(batch_size=5, device="cuda", out_dir=folder, checkpoint_every=4, log_every=3, mixed_precision=False)
    return training.fit(model, loss_fn, data, steps=steps, **options)


def test_a_run_is_resumed(tmp_path) -> None:
    with simulated():
        expected = train(tmp_path / "unbroken", 12)
        train(tmp_path / "broken", 9)
        found = train(tmp_path / "broken", 12)
        assert found["step"] == [3, 6, 9, 12] == expected["step"]
        state = training.Checkpoint(tmp_path / "broken", "model", {}).load()
        assert not any(isinstance(value, Sim) for value in state["model"].values())
        assert state["random"]["cuda"].dtype == torch.uint8


def test_data_may_lie_on_either_side(monkeypatch) -> None:
    with simulated() as record:
        train("", 4, "cuda")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (100, 100))  # too little for the data
        before = record.total("copy")
        train("", 4)
        assert record.total("copy") - before == 4 * 3  # the indices and two tensors a step


def test_values_are_refused_by_the_next_report() -> None:
    ball = icosphere(1)

    def loss_fn(model, batch, step):
        verts = model(batch["x"])[:, None] * ball.verts.to(CUDA)
        return {"loss": rendering.silhouette(verts, ball.faces.to(CUDA), 16).mean()}

    data = {"x": torch.full((4, 3), float("nan"))}
    with simulated() as record, pytest.raises(ValueError, match="verts has NaN or infinite entries"):
        training.fit(torch.nn.Linear(3, 3), loss_fn, data, steps=9, batch_size=2, device="cuda", log_every=6)
    assert len(record.steps) == 6


def test_the_batch_that_was_not_finite_is_found_later(tmp_path) -> None:
    """The host looks at every sixth step, or before a checkpoint; the third batch is read anew and saved."""

    def loss_fn(model, batch, step):
        return {"loss": model(batch["x"]).square().mean() * (float("nan") if step == 2 else 1.0)}

    data = {"x": torch.rand(8, 3)}
    options = {"batch_size": 2, "device": "cuda", "log_every": 6, "checkpoint_every": 4, "out_dir": tmp_path}
    with (
        simulated(),
        pytest.raises(FloatingPointError, match=r"not finite near step 4; .*; its batch is in "),
    ):
        training.fit(torch.nn.Linear(3, 1), loss_fn, data, steps=9, **options)
    saved = torch.load(tmp_path / "model.not_finite", weights_only=True)
    assert saved["step"] == 3 and torch.equal(saved["batch"]["x"], data["x"][saved["indices"]])
    assert not (tmp_path / "model.checkpoint").exists()


def test_the_device_refuses_what_cuda_refuses() -> None:
    with simulated():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert (there + torch.tensor(1.0)).device == CUDA and there[torch.tensor([0])].device == CUDA
        for action in (
            lambda: there + here,
            lambda: here[there.long()],
            lambda: there.numpy(),
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
            lambda: rendering.kernels.cuda_kernels.launch("gather", 1, there, here, here, here, here),
        ):
            with pytest.raises(Mismatch):
                action()
