from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn

from lib import chapter, training, weights

SAMPLES = 24


class Tiny(nn.Module):
    """With batch norm (buffers) and dropout (random numbers in the forward pass)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, x):
        return self.body(x)


def loss_fn(model, batch, step):
    noise = 0.1 * torch.randn_like(batch["x"]) * np.random.rand()  # noqa: NPY002
    error = (model(batch["x"] + noise) - batch["y"]).square().mean()
    return {"loss": error, "root": error.detach().sqrt()}


def make_data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 3, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True)}


def train(out_dir="", steps=40, loss=loss_fn, **options):
    chapter.set_seed(1)
    model = Tiny()
    options = {"batch_size": 5, "lr": 1e-2, "device": "cpu", "checkpoint_every": 7, "log_every": 3, **options}
    history = training.fit(model, loss, make_data(), steps=steps, out_dir=out_dir, **options)
    return model, history


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


class Stop(Exception):
    pass


def stop_at(step_to_stop):
    def loss(model, batch, step):
        if step == step_to_stop:
            raise Stop
        return loss_fn(model, batch, step)

    return loss


def test_learns_and_records():
    model, history = train(steps=300)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert set(history) == {"step", "loss", "root"}
    assert len(history["loss"]) == len(history["step"]) == 100 and history["step"][-1] == 300
    assert not model.training


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first, _ = train()
    torch.rand(5)
    again, _ = train()
    other, _ = train(seed=1)
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize("stopped_at", [3, 7, 25])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, stopped_at):
    unbroken, history = train()
    with pytest.raises(Stop):
        train(tmp_path, loss=stop_at(stopped_at))
    torch.rand(11)
    resumed, resumed_history = train(tmp_path)
    assert same(unbroken, resumed)
    assert history == resumed_history


def test_a_schedule_and_an_optimizer_are_resumed_too(tmp_path):
    def run(out_dir, loss=loss_fn):
        chapter.set_seed(1)
        model = Tiny()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        seen = []

        def watched(model, batch, step):
            if model.training:  # not where a checkpoint asks for the loss
                seen.append(optimizer.param_groups[0]["lr"])
            return loss(model, batch, step)

        training.fit(
            model,
            watched,
            make_data(),
            steps=20,
            batch_size=4,
            optimizer=optimizer,
            schedule=lambda step: 1 - step / 20,
            device="cpu",
            out_dir=out_dir,
            checkpoint_every=5,
        )
        return model, seen

    unbroken, rates = run("")
    assert rates == pytest.approx([1e-2 * (1 - step / 20) for step in range(20)])
    with pytest.raises(Stop):
        run(tmp_path, stop_at(13))
    resumed, rates_after = run(tmp_path)
    assert same(unbroken, resumed)
    assert rates_after == pytest.approx(rates[10:])


def test_a_finished_run_is_read_not_repeated(tmp_path):
    model, history = train(tmp_path)
    again, history_again = train(tmp_path, loss=stop_at(0))
    assert same(model, again) and history == history_again


def test_a_finished_run_can_be_prolonged(tmp_path):
    unbroken, _ = train(steps=60)
    train(tmp_path, steps=40)
    longer, _ = train(tmp_path, steps=60)
    assert same(unbroken, longer)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_weights(tmp_path):
    script = textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = {sys.path!r}
        import test_training as here

        def slow(model, batch, step):
            time.sleep(0.02)
            return here.loss_fn(model, batch, step)

        here.train({str(tmp_path)!r}, steps=1000, loss=slow, checkpoint_every=2)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    newest = tmp_path / "model.checkpoint"
    while not (newest.exists() and (tmp_path / "model.previous").exists()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = training.Checkpoint(tmp_path, "model", {}).load()
    assert 0 < state["step"] < 1000
    steps = state["step"] + 9
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    unbroken, _ = train(steps=steps)
    resumed, _ = train(tmp_path, steps=steps)
    torch.set_num_threads(threads)
    assert same(unbroken, resumed)


def test_time_can_run_out_and_the_run_goes_on(tmp_path):
    unbroken, _ = train()
    _, history = train(tmp_path, max_seconds=0.0)
    assert history["step"] == []
    resumed, _ = train(tmp_path)
    assert same(unbroken, resumed)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_checkpoint_is_never_taken_as_whole(tmp_path, damage):
    unbroken, _ = train()
    with pytest.raises(Stop):
        train(tmp_path, loss=stop_at(25))
    newest, previous = tmp_path / "model.checkpoint", tmp_path / "model.previous"
    content = bytearray(newest.read_bytes())
    if damage == "altered":
        content[len(content) // 2] ^= 255
    newest.write_bytes(content[: {"truncated": len(content) // 2, "empty": 0}.get(damage, len(content))])
    with pytest.warns(UserWarning, match="damaged"):
        resumed, _ = train(tmp_path)
    assert same(unbroken, resumed)

    for path in (newest, previous):
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"no other checkpoint is whole; delete it"):
        train(tmp_path)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"a run with seed=0, this one has 1; choose another out_dir"):
        train(tmp_path, seed=1)
    with pytest.raises(ValueError, match="of another model") as error:
        training.fit(
            nn.Linear(3, 1), loss_fn, make_data(), steps=1, batch_size=5, lr=1e-2, device="cpu", out_dir=tmp_path
        )
    assert "\n" not in str(error.value)


def test_two_runs_share_a_folder(tmp_path):
    train(tmp_path, name="one")
    train(tmp_path, name="two", seed=1)
    assert {path.name for path in tmp_path.iterdir()} >= {"one.checkpoint", "two.checkpoint"}


def test_progress_is_written_for_headless_runs(tmp_path, capfd):
    train(tmp_path)
    report = json.loads((tmp_path / "model.progress.json").read_text())
    assert report["step"] == report["steps"] == 40 and report["seconds_left"] == 0
    assert capfd.readouterr() == ("", "")


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train()
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run():
    def broken(model, batch, step):
        return {"loss": loss_fn(model, batch, step)["loss"] * float("nan")}

    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(loss=broken)


def test_every_epoch_is_a_permutation_and_depends_on_the_step_alone():
    order = [indices.tolist() for indices in training.batch_order(11, 3, seed=5, start=0, stop=9)]
    for epoch in range(3):
        seen = {index for indices in order[3 * epoch : 3 * epoch + 3] for index in indices}
        assert len(seen) == 9
    assert order[0:3] != order[3:6]
    assert [indices.tolist() for indices in training.batch_order(11, 3, seed=5, start=4, stop=9)] == order[4:]
    assert len(next(training.batch_order(2, 3, seed=0, start=0, stop=1))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_is_the_same_as_its_tensors(workers):
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return SAMPLES

        def __getitem__(self, index):
            return {name: values[index] for name, values in make_data().items()}

    expected, _ = train(steps=6)
    chapter.set_seed(1)
    model = Tiny()
    training.fit(model, loss_fn, Items(), steps=6, batch_size=5, lr=1e-2, device="cpu", workers=workers)
    assert same(model, expected)


def test_weights_go_to_a_file_and_back(tmp_path):
    model, _ = train(steps=3)
    path = tmp_path / "weights.safetensors"
    weights.save_weights(path, model)
    other = Tiny()
    weights.load_weights(path, other)
    assert same(model, other)
    with pytest.raises(ValueError, match="another model"):
        weights.load_weights(path, nn.Linear(3, 1))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        weights.load_weights(path, other)
    with pytest.raises(FileNotFoundError, match="train the chapter"):
        weights.load_weights(tmp_path / "missing", other)


def test_watching_does_not_change_what_is_watched(tmp_path):
    plain, history = train(steps=25)
    seen, modes = [], []

    def watch(model, step):
        seen.append(step)
        modes.append(model.training or torch.is_grad_enabled())
        torch.rand(3), np.random.rand()  # noqa: NPY002
        model(torch.rand(5, 3))

    watched, same_history = train(steps=25, watch=watch, watch_every=10)
    assert seen == [0, 10, 20, 25] and not any(modes)
    assert same(plain, watched) and same_history == history

    seen.clear()  # stopped in the middle, and gone on
    with pytest.raises(Stop):
        train(tmp_path, steps=25, loss=stop_at(16), watch=watch, watch_every=10)
    resumed, same_history = train(tmp_path, steps=25, watch=watch, watch_every=10)
    assert seen == [0, 10, 20, 25]  # the last checkpoint is of step 14
    assert same(plain, resumed) and same_history == history
    train(tmp_path, steps=25, watch=watch, watch_every=10)  # done already: the result is shown once
    assert seen == [0, 10, 20, 25, 25]
    with pytest.raises(ValueError, match="watch_every must be at least 1"):
        train(watch=watch, watch_every=0)


def test_the_schedule_of_the_course():
    factor = training.warmup_cosine(100)
    curve = [factor(step) for step in range(100)]
    assert curve[0] == pytest.approx(1 / 20) and max(curve) == curve[19] > 0.9
    assert all(a > b for a, b in itertools.pairwise(curve[19:]))
    assert curve[-1] == pytest.approx(0.05, abs=1e-3)
    assert training.warmup_cosine(10, warmup=1, last=1.0)(7) == 1
    for arguments in ((0,), (10, 0), (10, 5, 1.5)):
        with pytest.raises(ValueError, match="steps and warmup"):
            training.warmup_cosine(*arguments)


def test_parts_have_rates_of_their_own():
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))})
    groups = training.parameter_groups(model, 0.1, a=0.2, **{"b.2": 0.3, "b.1": 9.0})
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.1, 2), (0.2, 2), (0.3, 2)]
    assert groups[2]["params"][0] is model["b"][2].weight
    assert [group["lr"] for group in training.parameter_groups(model, 0.1, **{"b": 0.2, "b.2.bias": 0.3})] == [
        0.1,
        0.2,
        0.3,
    ]
    with pytest.raises(ValueError, match="no part 'c'; it has a, b"):
        training.parameter_groups(model, 0.1, c=1.0)


# --- another run, or two at once ---


def test_another_loss_data_or_fewer_steps_are_refused(tmp_path):
    def fit(target=1.0, x=1.0, steps=60, power=2, optimizer=torch.optim.Adam, out_dir=tmp_path):
        model = nn.Linear(1, 1, bias=False)
        data = {"x": torch.full((8, 1), x)}

        def loss(model, batch, step):
            return {"loss": (model(batch["x"]) - target).abs().pow(power).mean()}

        optimizer = optimizer(model.parameters(), lr=0.05)
        training.fit(model, loss, data, steps=steps, batch_size=4, optimizer=optimizer, device="cpu", out_dir=out_dir)
        return model.weight.item()

    weight = fit()
    assert fit() == weight
    with pytest.raises(ValueError, match=r"is of a run with other data; .*anew$"):
        fit(x=2.0)
    for other in ({"target": 2.0}, {"power": 1, "target": 3.0}):
        with pytest.raises(ValueError, match=r"of another loss_fn or data: the loss of its first batch was .*anew$"):
            fit(**other)
    with pytest.raises(ValueError, match=r"is of a run of 60 steps, more than steps=5; choose another out_dir"):
        fit(steps=5)
    with pytest.raises(ValueError, match=r"a run with optimizer='Adam', this one has 'SGD'"):
        fit(optimizer=torch.optim.SGD)
    assert fit() == weight, "and the checkpoint is still there"
    fit(steps=70)


class Points(torch.utils.data.Dataset):
    def __init__(self, level):
        self.level = level

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": torch.full((1,), self.level + index)}


def test_another_data_set_is_refused(tmp_path):
    def fit(level):
        loss = lambda model, batch, step: {"loss": (model(batch["x"]) + torch.randn(1)).square().mean()}  # noqa: E731
        torch.manual_seed(0)
        options = {"steps": 3, "batch_size": 4, "device": "cpu", "out_dir": tmp_path}
        training.fit(nn.Linear(1, 1), loss, Points(level), **options)

    fit(1.0)
    fit(1.0)
    with pytest.raises(ValueError, match="of another loss_fn or data"):
        fit(5.0)


def test_a_loss_that_cannot_be_compared_is_no_obstacle(tmp_path):
    """Without two equal values for equal input, or in evaluation mode, nothing can be said, and nothing is."""
    own = torch.Generator().manual_seed(0)

    def random(model, batch, step):
        return {"loss": loss_fn(model, batch, step)["loss"] * torch.rand((), generator=own)}

    def picky(model, batch, step):
        assert model.training
        return loss_fn(model, batch, step)

    for name, loss in (("random", random), ("picky", picky)):
        train(tmp_path, loss=loss, name=name)
        train(tmp_path, loss=loss, name=name, steps=41)


@pytest.mark.slow
def test_two_processes_cannot_train_under_one_name(tmp_path):
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {sys.path!r}
        import test_training as here
        try:
            here.train({str(tmp_path)!r}, steps=2)
        except ValueError as error:
            print(error)
        here.train({str(tmp_path)!r}, steps=2, name="other")
    """)
    said = []

    def loss(model, batch, step):
        if step == 1:
            said.append(
                subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
            )
        return loss_fn(model, batch, step)

    train(tmp_path, steps=3, loss=loss)
    assert "another process is at work in" in said[0] and "choose another out_dir or name" in said[0]
    subprocess.run([sys.executable, "-c", script.replace("steps=2", "steps=5")], check=True)


# --- what is not finite ---


class Weight(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value]))

    def forward(self, x):
        return self.w * x


def root(model, batch, step):
    """At its solution, w = 1, the value is 0 and the gradient NaN."""
    return {"loss": (model(batch["x"]) - 1).abs().sqrt().mean()}


def fit_weight(value=1.0, loss=root, **options):
    model = Weight(value)
    options = {"batch_size": 4, "lr": 0.1, "device": "cpu", "log_every": 1, "checkpoint_every": 1} | options
    training.fit(model, loss, {"x": torch.ones(8, 1)}, **options)
    return model.w.item()


def test_a_gradient_that_is_not_finite_never_reaches_weights_or_checkpoint(tmp_path):
    with pytest.warns(UserWarning, match="step 1 is left out: its gradient is not finite"):
        assert fit_weight(steps=1) == 1
    with pytest.warns(UserWarning), pytest.raises(FloatingPointError, match="not finite at steps 1 and 2"):
        fit_weight(steps=4, out_dir=tmp_path)
    assert not (tmp_path / "model.checkpoint").exists()

    def sometimes(model, batch, step):
        return root(model, batch, step) if step == 2 else {"loss": (model(batch["x"]) - 1).square().mean()}

    with pytest.warns(UserWarning, match="step 3 is left out"):
        assert fit_weight(steps=8, loss=sometimes, out_dir=tmp_path) == 1
    with pytest.raises(FloatingPointError, match=r"the weights are not finite after step 1; lower the learning rate"):
        model = Weight(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
        options = {"steps": 1, "batch_size": 4, "optimizer": optimizer, "device": "cpu"}
        training.fit(model, lambda m, b, i: {"loss": 9 * m(b["x"]).mean()}, {"x": torch.ones(8, 1)}, **options)


def test_weights_that_are_not_finite_are_not_taken_up(tmp_path):
    square = lambda m, b, i: {"loss": (m(b["x"]) - 2).square().mean()}  # noqa: E731
    fit_weight(loss=square, steps=6, out_dir=tmp_path)
    checkpoint = training.Checkpoint(tmp_path, "model", {})
    state = checkpoint.load()
    state["model"]["w"].fill_(float("nan"))
    checkpoint.run = state["run"]
    checkpoint.save(state)
    with pytest.warns(UserWarning, match="weights that are not finite and is left aside"):
        assert fit_weight(loss=square, steps=6, out_dir=tmp_path) > 1
    (tmp_path / "model.previous").unlink()
    (tmp_path / "model.checkpoint").unlink()
    checkpoint.save(state)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="not finite, and no other checkpoint is whole"):
        fit_weight(loss=square, steps=6, out_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 1"),
        ({"steps": "9"}, "steps must be a whole number"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"data": {}}, "data is empty"),
        ({"data": [1, 2]}, "data must give dicts of tensors, got Tensor"),
        ({"data": {"x": np.ones(3)}}, r"data\['x'\] must be a tensor"),
        ({"data": {"x": torch.ones(())}}, r"data\['x'\] must be a tensor"),
        ({"data": {"x": torch.ones(8, 1), "y": torch.ones(3)}}, "as many samples in every tensor, got x 8, y 3"),
        ({"data": 7}, "data must be a dict of tensors or a Dataset"),
        ({"loss_fn": lambda m, b, i: m(b["x"]).mean()}, "loss_fn must return a dict.*got Tensor"),
        ({"loss_fn": lambda m, b, i: {"error": m(b["x"]).mean()}}, "loss_fn must return a dict.*got a dict of error"),
        ({"loss_fn": lambda m, b, i: {"loss": m(b["x"])}}, r"loss_fn must give one number.*shape \(4, 1\)"),
        ({"loss_fn": lambda m, b, i: {"loss": b["x"].mean()}}, "loss_fn gave a .loss. that depends on no parameter"),
        ({"loss_fn": lambda m, b, i: root(m, b, i) | {"step": 7.0}}, "loss_fn must not call a term .step."),
        ({"loss_fn": lambda m, b, i: root(m, b, i) | {"v": b["x"]}}, r"loss_fn must give one number as 'v'.*\(4, 1\)"),
        ({"loss_fn": lambda m, b, i: root(m, b, i) | {"v": "x"}}, "loss_fn's term 'v' must be a number, got 'x'"),
        (
            {"loss_fn": lambda m, b, i: root(m, b, i) | ({"v": 1.0} if i else {})},
            "loss_fn gives 'v' only at some steps",
        ),
    ],
)
def test_arguments_are_named_before_anything_is_lost(options, message):
    options = {"data": {"x": torch.ones(8, 1)}, "loss_fn": root, "steps": 2, "batch_size": 4, "device": "cpu"} | options
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        training.fit(Weight(3.0), options.pop("loss_fn"), options.pop("data"), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [0, np.int64(3), 2**31, 2**62])
def test_numbers_of_numpy_and_large_seeds(seed):
    fit_weight(3.0, steps=np.int64(2), batch_size=np.int32(4), seed=seed, log_every=np.int64(1), lr=np.float32(0.1))


def test_weights_of_a_diverged_model_are_neither_written_nor_read(tmp_path):
    from safetensors.torch import save_file

    model = Tiny()
    model.body[0].weight.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"body\.0\.weight holds NaN, so the model has diverged"):
        weights.save_weights(tmp_path / "a.safetensors", model)
    assert not (tmp_path / "a.safetensors").exists()
    save_file(model.state_dict(), tmp_path / "b.safetensors")
    other = Tiny()
    with pytest.raises(ValueError, match=r"b\.safetensors is of a model that has diverged"):
        weights.load_weights(tmp_path / "b.safetensors", other)
    assert not other.body[0].weight.isnan().any()


def test_terms_may_be_any_single_number():
    terms = {"a": torch.ones(1, 1), "b": 2, "c": np.float32(3), "d": True}
    history = training.fit(
        Weight(3.0),
        lambda m, b, i: {"loss": (m(b["x"]) - 1).square().mean()[None]} | terms,
        {"x": torch.ones(8, 1)},
        steps=3,
        batch_size=4,
        device="cpu",
        log_every=2,
    )
    assert [history[name] for name in "abcd"] == [[1, 1], [2, 2], [3, 3], [1, 1]] and len(history["loss"]) == 2


@pytest.mark.parametrize("content", [[1], torch.ones(2), Tiny().state_dict(), {"model": {}, "step": 3}])
def test_another_file_of_pytorch_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "model.checkpoint")
    with pytest.raises(ValueError, match=r"model\.checkpoint is not a checkpoint of this course.*; move it away"):
        fit_weight(3.0, steps=2, out_dir=tmp_path)
    assert (tmp_path / "model.checkpoint").exists()


def test_layers_that_share_their_weights_are_written(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[1].weight = model[0].weight
        return model

    saved, loaded = tied(), tied()
    weights.save_weights(tmp_path / "a.safetensors", saved)
    weights.load_weights(tmp_path / "a.safetensors", loaded)
    assert torch.equal(loaded[1].weight, saved[0].weight) and loaded[1].weight is loaded[0].weight


def test_data_that_changed_beyond_the_first_batch_are_not_taken_for_the_same(tmp_path):
    data = {"x": torch.randn(12, 3), "y": torch.rand(12) > 0.5}

    def train(data):
        loss_fn = lambda model, batch, step: {"loss": model(batch["x"]).square().mean()}  # noqa: E731
        return training.fit(nn.Linear(3, 1), loss_fn, data, steps=2, batch_size=3, device="cpu", out_dir=tmp_path)

    train(data)
    train({name: values.clone() for name, values in data.items()})
    for name in data:
        changed = {**data, name: data[name].clone()}
        changed[name][-1] = ~changed[name][-1] if name == "y" else 7.0
        with pytest.raises(ValueError, match="is of a run with other data; choose another out_dir"):
            train(changed)


def test_two_threads_do_not_train_in_one_folder(tmp_path):
    import threading

    inside, go_on, errors = threading.Event(), threading.Event(), []
    data = {"x": torch.randn(4, 3)}

    def loss_fn(model, batch, step):
        inside.set()
        go_on.wait(20)
        return {"loss": model(batch["x"]).square().mean()}

    def train():
        training.fit(nn.Linear(3, 1), loss_fn, data, steps=1, batch_size=2, device="cpu", out_dir=tmp_path)

    first = threading.Thread(target=train)
    first.start()
    assert inside.wait(20)
    try:
        train()
    except ValueError as error:
        errors.append(str(error))
    go_on.set()
    first.join()
    assert len(errors) == 1 and "another thread is at work in" in errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 0.5}, "schedule must be a function of the step"),
        ({"max_seconds": "a minute"}, "max_seconds must be a number"),
        ({"max_seconds": float("nan")}, "max_seconds"),
    ],
)
def test_wrong_kinds_of_options_are_named(options, message):
    loss_fn = lambda model, batch, step: {"loss": model(batch["x"]).square().mean()}  # noqa: E731
    with pytest.raises((TypeError, ValueError), match=message):
        training.fit(nn.Linear(3, 1), loss_fn, {"x": torch.randn(4, 3)}, steps=1, batch_size=2, **options)


# --- what is saved when something is not finite, or memory runs out; curves ---


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_the_batch_that_is_not_finite_is_kept_for_inspection(tmp_path, kind):
    def broken(model, batch, step):
        loss = (model(batch["x"]) - 1).square().mean()
        return {"loss": loss * torch.nan if kind == "loss" and step == 3 else loss + 0 * root(model, batch, 0)["loss"]}

    expect = pytest.raises(FloatingPointError, match=rf"not finite at step.*; its batch is in {tmp_path}/model\.not_fi")
    if kind == "gradient":  # at the solution, in every step
        with pytest.warns(UserWarning, match=rf"left out.*; its batch is in {tmp_path}/model\.not_finite$"):
            fit_weight(1.0, loss=broken, steps=1, out_dir=tmp_path)
    else:
        with expect:
            fit_weight(3.0, loss=broken, steps=6, out_dir=tmp_path)
        assert training.Checkpoint(tmp_path, "model", {}).load()["step"] == 3, "what was finite is kept"
    saved = torch.load(tmp_path / "model.not_finite", weights_only=True)
    assert saved["step"] == (4 if kind == "loss" else 1)
    assert torch.equal(saved["batch"]["x"], torch.ones(4, 1)) and saved["indices"].shape == (4,)


def test_a_state_of_the_optimizer_that_is_not_finite_is_never_written(tmp_path):
    def steep(model, batch, step):
        return {"loss": 1e25 * model(batch["x"]).mean()}

    with pytest.raises(FloatingPointError, match=r"the optimiser's state is not finite.*after step 1; lower the lear"):
        fit_weight(3.0, loss=steep, steps=3, out_dir=tmp_path)
    assert not (tmp_path / "model.checkpoint").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nTried …"), RuntimeError("…: can't allocate memory: you …")]
)
def test_too_little_memory_is_said_in_one_line_and_parts_help(tmp_path, error):
    def large(model, batch, step):
        if step == 2 and len(batch["x"]) > 2:
            raise error
        return {"loss": (model(batch["x"]) - 2).square().mean()}

    remedy = r"memory is not enough for batch_size=4; give accumulate=2 for the same batches.*; a checkpoint is kept$"
    with pytest.raises(MemoryError, match=remedy) as caught:
        fit_weight(3.0, loss=large, steps=4, out_dir=tmp_path)
    assert "\n" not in str(caught.value)
    fit_weight(3.0, loss=large, steps=4, out_dir=tmp_path, accumulate=2)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    def never(model, batch, step):
        raise Stop

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*; free space or choose another out_dir") as caught:
        train(tmp_path / "file" / "out", loss=never)
    assert "\n" not in str(caught.value)
    if os.path.isdir("/proc"):  # where nobody may write, root included
        with pytest.raises(OSError, match=r"cannot write /proc/out/.*; free space or choose another out_dir"):
            train("/proc/out", loss=never)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    import errno

    unbroken, _ = train()
    whole, calls = os.fsync, itertools.count()

    def full(descriptor):
        if next(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*model\.checkpoint \(No space left on device\); free space"):
        train(tmp_path)
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".model.checkpoint")]
    resumed, _ = train(tmp_path)
    assert same(unbroken, resumed)


def test_curves_are_written_where_tensorboard_is_installed(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra [logs] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stop):
        train(tmp_path, loss=stop_at(25))
    _, history = train(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "model"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == history["step"]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history["loss"])
