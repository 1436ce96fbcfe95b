from __future__ import annotations

import importlib.metadata
import re
import sys

import pytest

from lib.course import cli, lint, notebooks, runs


@pytest.fixture
def command(capsys, monkeypatch):
    """Call `course` with arguments; returns its exit code and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["course", *arguments])
        monkeypatch.setattr(cli.console, "_width", 200)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, capsys.readouterr().out

    return call


def test_list_names_chapters_titles_and_settings(course, command):
    course("01_points")
    course("02_meshes")
    code, printed = command("list")
    assert code == 0
    assert re.search(r"02_meshes +The chapter 02_meshes +steps=3 rate=0.1", printed)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "7"], "there is no chapter '7'; the chapters are 01_points"),
        (["run", "--profile", "ful"], "profile='ful' is unknown to chapter 01_points; it has 'quick', 'full'"),
        (["run", "--set", "stepz=4"], "overrides has no setting 'stepz'"),
        (["run", "--set", "steps=4.5"], "overrides['steps'] must be of type int, got 4.5"),
        (["run", "--set", "steps"], "--set takes NAME=VALUE, got 'steps'"),
        (["run", "--device", "abacus"], "device='abacus' cannot be used here"),
        (["run", "--device", "cuda:7", "--processes", "2"], "device='cuda:7' cannot be used here"),
        (["run", "--out", "/dev/null/out"], "error: cannot write /dev/null/out/run.json (Not a directory)"),
        (["report"], "there is no run under"),
        (["report", "nowhere"], "holds no run"),
    ],
)
def test_what_a_user_got_wrong_is_answered_in_one_line(course, command, arguments, message):
    course("01_points")
    code, printed = command(*arguments)
    assert code == 2
    assert printed.startswith("error: ") and message in printed and printed.count("\n") == 1
    assert not runs.RUNS.exists()


def test_a_gpu_for_each_process(monkeypatch):
    import torch

    from lib import chapter

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(chapter, "pick_device", torch.device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runs.find_gpus(2, "cpu") == [] and runs.find_gpus(2, "cuda") == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert runs.find_gpus(2, "cuda") == ["3", "5"]
    with pytest.raises(ValueError, match=r"processes=3 need a GPU each, and there are 2; use fewer, or --device cpu"):
        runs.find_gpus(3, "cuda")
    with pytest.raises(ValueError, match="device='cuda:1' is one GPU, and processes=2 need one each"):
        runs.find_gpus(2, "cuda:1")


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_a_seed_that_no_training_takes_is_refused_at_once(course, command, seed):
    course("01_points")
    assert command("run", "--seed", seed)[0] == 2
    assert not runs.RUNS.exists()


def test_without_chapters_there_is_nothing_to_run(course, command):
    code, printed = command("run")
    assert code == 2 and "there are no chapters" in printed


def test_run_and_report(course, command):
    course("01_points", "print(settings)")
    course("02_meshes", "raise ValueError('sphere [not] round')")
    code, printed = command("run", "--set", "steps=7", "--seed", "2")
    assert code == 1
    lines = printed.splitlines()
    assert lines[0].startswith("2 of 2 chapters, profile quick, into ")
    assert re.match(r"  01_points +0:00  starting", lines[1])
    assert any(re.match(r"✓ 01_points +0:\d\d +\d+ MiB$", line) for line in lines)
    assert lines[-2] == "failed 02_meshes, cell 4 of 4: ValueError: sphere [not] round"
    assert re.match(r"failed in 0:\d\d; report: .*report.html$", lines[-1])

    run = runs.Run.load(runs.latest_run())
    assert (run.seed, run.overrides, run.device) == (2, {"steps": 7}, "auto")
    (run.folder / "report.html").unlink()
    code, printed = command("report")
    assert code == 0 and lines[-2:] == printed.splitlines()[-2:]
    assert (run.folder / "report.html").exists()

    course("02_meshes")
    code, printed = command("run", "--set", "steps=7", "--seed", "2", "--out", str(run.folder))
    assert code == 0 and "1 of 2 chapters" in printed and "kept from before" in printed


def test_store(course, command):
    path = course("01_points", "print('stored')")
    code, printed = command("store", "1")
    assert code == 0 and printed.startswith("01_points.ipynb: 0:0") and "stored\\n" in path.read_text()
    course("01_points", "1 / 0")
    code, printed = command("store", "1")
    assert code == 2 and "01_points.ipynb is left as it was: ZeroDivisionError: division by zero" in printed


def test_lint_counts_and_lowers_what_is_allowed(course, command, monkeypatch, tmp_path):
    monkeypatch.setattr(lint, "LIMITS", tmp_path / "lint.json")
    course("01_points", "pass\n" * 17)
    code, printed = command("lint")
    assert code == 0 and re.search(r"^ +1 code cells over 16 visible lines, imports left out$", printed, re.MULTILINE)
    assert "17 lines: pass" not in printed and not lint.LIMITS.exists()
    code, printed = command("lint", "1", "--update")
    assert code == 0 and "  [3] 17 lines: pass pass" in printed
    assert lint.read_limits()["01_points"]["long cells"] == 1
    course("01_points", "x = '" + "x" * 96 + "'")
    code, printed = command("lint", "--update")
    assert code == 1 and "2 visible code lines over 96 characters (1 allowed)\n" in printed
    assert "  [3] 102 characters: x = 'xxx" in printed
    assert lint.read_limits()["01_points"]["long cells"] == 0, "lowered"
    assert lint.read_limits()["01_points"]["long lines"] == 1, "never raised"


def test_doctor_says_what_is_here_and_what_to_do_about_the_rest(command, monkeypatch, tmp_path):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "OPTIONAL", [("nobodys_module", "for show", "get it somewhere"), ("json", "always", "")])
    (tmp_path / "data" / "cub").mkdir(parents=True)
    (tmp_path / "data" / "cub" / "file").touch()
    code, printed = command("doctor")
    assert code == 0
    assert re.search(rf"torch +{re.escape(importlib.metadata.version('torch'))}", printed)
    assert re.search(r"– +nobodys_module: for show +get it somewhere", printed)
    assert re.search(r"✓ +json: always", printed)
    assert re.search(r"✓ +data/cub", printed)
    assert re.search(r"– +data/pascal3d +optional; get PASCAL3D", printed)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("steps=100", ("steps", 100)),
        ("rate=1e3", ("rate", 1000.0)),
        ("layers=(8, 8)", ("layers", (8, 8))),
        ("flip=true", ("flip", True)),
        ("flip=False", ("flip", False)),
        ("category=bird", ("category", "bird")),
        ("path=a=b", ("path", "a=b")),
        ("limit=None", ("limit", None)),
    ],
)
def test_settings_are_read_as_python(text, expected):
    assert cli.parse_setting(text) == expected


@pytest.mark.parametrize("text", ["steps", "=3", "a b=3", ""])
def test_a_setting_without_name_or_value_is_refused(text):
    with pytest.raises(ValueError, match="NAME=VALUE"):
        cli.parse_setting(text)


def test_plain_progress_is_calm_but_alive(capsys, tmp_path):
    """Off a terminal: the first sign at once, a new cell every few seconds, the same cell every minute."""
    progress = cli.Progress(runs.Run(tmp_path))
    chapter = runs.Chapter("04_rendering", status="running", cells=9)
    for tick in range(1500):
        chapter.seconds = 0.1 * tick
        chapter.cell = min(tick // 10, 8)
        progress(chapter)
    chapter.status = "passed"
    progress(chapter)
    printed = [re.sub(" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "04_rendering 0:00 starting",
        "04_rendering 0:05 cell 5/9",
        "04_rendering 0:10 cell 8/9",
        "04_rendering 1:10 cell 8/9",
        "04_rendering 2:10 cell 8/9",
        "✓ 04_rendering 2:29 over 120 s",
    ]
