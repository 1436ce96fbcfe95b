"""Seed, device, settings and results."""

from __future__ import annotations

import errno
import json
import math
import os
import random

import numpy as np
import pytest
import torch

from lib import chapter, files


def test_a_seed_repeats_every_random_number():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    chapter.set_seed(5)
    first = draw()
    chapter.set_seed(5)
    assert draw() == first
    chapter.set_seed(6)
    assert not set(draw()) & set(first)


def test_devices():
    assert chapter.pick_device() == chapter.pick_device("auto")
    assert chapter.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"^device='abacus' cannot be used here \(.*\); use \"auto\" or \"cpu\"$"):
        chapter.pick_device("abacus")
    with pytest.raises(ValueError, match="device='cuda:99' cannot be used here"):
        chapter.pick_device("cuda:99")
    with pytest.raises(ValueError, match=r"device='mps' cannot be used here \(the course computes on CPUs and on CUDA"):
        chapter.pick_device("mps")


def test_cuda_is_picked_only_where_warp_can_use_it(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device=None: empty(*size))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(chapter, "_cuda_problem", lambda device: None)
    assert chapter.pick_device("auto").type == chapter.pick_device("cuda").type == "cuda"
    monkeypatch.setattr(chapter, "_cuda_problem", lambda device: "Warp finds no GPU; update the driver")
    with pytest.warns(UserWarning, match="the CPU is used, for Warp finds no GPU; update the driver"):
        assert chapter.pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match=r"device='cuda' cannot be used here .Warp finds no GPU; update the driver"):
        chapter.pick_device("cuda")


QUICK = dict(steps=10, rate=0.1, layers=(8, 8), name="small", limit=None)
LONG = dict(steps=500)
FULL = dict(steps=1000, rate=0.01, layers=(64, 64), limit=3)


def choose(profile="quick", **overrides):
    return vars(chapter.choose_settings(profile, overrides, quick=QUICK, long=LONG, full=FULL))


def test_a_profile_states_only_what_differs_from_the_first():
    assert choose("long") == QUICK | LONG
    assert choose("full") == FULL | {"name": "small"}
    with pytest.raises(ValueError, match=r"^profile 'long' has step, which 'quick' lacks; state it there first$"):
        chapter.choose_settings("quick", {}, quick=QUICK, long=dict(step=3))


def test_a_profile_with_overrides():
    assert choose(steps=3, limit="any type where it was None") == QUICK | {
        "steps": 3,
        "limit": "any type where it was None",
    }
    # A whole number will do for a float, and becomes one.
    assert choose(rate=1)["rate"] == 1.0 and isinstance(choose(rate=1)["rate"], float)
    assert QUICK["steps"] == 10


@pytest.mark.parametrize(
    "profile, overrides, message",
    [
        ("medium", {}, "profile='medium' is unknown; use one of 'quick', 'long', 'full'"),
        ("quick", {"step": 3}, "overrides has no setting 'step'; this chapter has steps, rate, layers, name, limit"),
        ("quick", {"steps": 3.0}, r"overrides\['steps'\] must be of type int, got 3.0"),
        ("quick", {"steps": True}, r"overrides\['steps'\] must be of type int, got True"),
        ("quick", {"rate": "0.1"}, r"overrides\['rate'\] must be of type float, got '0.1'"),
        ("quick", {"layers": [8]}, r"overrides\['layers'\] must be of type tuple, got \[8\]"),
    ],
)
def test_wrong_settings_are_named(profile, overrides, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose(profile, **overrides)


def test_results_are_saved_at_once(tmp_path):
    results = chapter.Results(tmp_path / "new" / "folder")

    def saved():
        return json.loads((tmp_path / "new" / "folder" / "metrics.json").read_text())

    assert saved() == {}
    results.record("points", torch.tensor(2000))
    results.check("iou", 0.9, low=0.85, high=1.0)
    assert saved()["points"] == {"value": 2000.0, "low": None, "high": None, "unit": "", "inside": None}
    assert saved()["iou"] == {"value": 0.9, "low": 0.85, "high": 1.0, "unit": "", "inside": True}
    with pytest.raises(AssertionError, match=r"^error = 12.35 degrees, expected ≤ 10$"):
        results.check("error", 12.3456, high=10, unit="degrees")
    assert saved()["error"]["inside"] is False and "iou" in saved()


@pytest.mark.parametrize("value", [0.84, 1.01, float("nan")])
def test_a_number_outside_its_band_is_an_error(value):
    with pytest.raises(AssertionError, match=r"expected 0.85 to 1"):
        chapter.Results().check("iou", value, low=0.85, high=1)


def test_bands_include_their_ends_and_may_be_open():
    results = chapter.Results()
    results.check("a", 0.85, low=0.85)
    results.check("b", 0.85, high=0.85)
    assert results.path is None and results.entries["a"]["inside"]


@pytest.fixture
def shown(monkeypatch):
    lines = []
    monkeypatch.setattr("lib.display.show_bundle", lambda bundle, plain: lines.append(bundle))
    return lines


def test_results_show_the_measured_value_beside_its_band(shown):
    results = chapter.Results()
    results.record("points", 642)
    results.record("hidden", 1, shown=False)
    results.check("error", 0.0123, high=0.05, unit="px")
    with pytest.raises(AssertionError):
        results.check("IoU", 0.5, low=0.85, high=1)
    assert shown == [
        {"text/markdown": "points: **642**"},
        {"text/markdown": "✓ error: **0.0123 px** (expected ≤ 0.05)"},
        {"text/markdown": "✗ IoU: **0.5** (expected 0.85 to 1)"},
    ]


def test_with_other_settings_numbers_are_kept_and_shown_but_not_judged(shown):
    results = chapter.Results(judged=False)
    results.check("IoU", 0.5, low=0.85)
    assert results.entries["IoU"] == {"value": 0.5, "low": 0.85, "high": None, "unit": "", "inside": None}
    assert shown == [{"text/markdown": "IoU: **0.5** (not judged in this run; the band is ≥ 0.85)"}]
    with pytest.raises(AssertionError):
        results.check("the full profile's own target", 0.5, low=0.85, judged=True)


def test_a_check_needs_a_band():
    with pytest.raises(ValueError, match="has no band; give low or high, or use record"):
        chapter.Results().check("IoU", 0.5)


def test_results_that_cannot_be_written_are_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/metrics.json .*choose another out_dir"):
        chapter.Results(tmp_path / "file")


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_atomically(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*metrics.json \(No space left on device\); free space") as caught:
        files.write_atomically(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["metrics.json"]


def test_ctrl_c_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_atomically(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["metrics.json"]


def test_files_may_be_read_by_whom_the_system_lets(tmp_path):
    files.write_atomically(tmp_path / "atomic", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("low", [np.float32(0.5), np.int64(0), torch.tensor(0.5)])
def test_a_band_may_be_measured(tmp_path, low):
    chapter.Results(tmp_path).check("IoU", 0.9, low=low)
    assert json.loads((tmp_path / "metrics.json").read_text())["IoU"]["low"] == float(low)


def test_no_overrides_and_no_device_are_named():
    with pytest.raises(TypeError, match="overrides must be a dict"):
        chapter.choose_settings("quick", None, quick={})
    with pytest.raises(TypeError, match='device must be "auto", "cpu" or "cuda", got None'):
        chapter.pick_device(None)


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
    results = chapter.Results(tmp_path)
    results.record("lost", float("nan"))
    results.record("far", -math.inf)
    text = (tmp_path / "metrics.json").read_text()

    def refuse(name):
        raise ValueError(name)

    found = json.loads(text, parse_constant=refuse)
    assert found["lost"]["value"] == "nan" and float(found["far"]["value"]) == -math.inf
