"""Many runs from one file, with chapters that take a second: one by one, killed and gone on, and by Snakemake."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
import textwrap
import time

import pytest

from lib.course import sweeps

BODY = """\
from lib import chapter as frame
results = frame.Results(out_dir, judged=True)
results.record("steps", settings["steps"])
results.check("error", round(0.1 * seed + settings["steps"] / 100, 6), high=0.25, unit="cm")"""
COUNT = "import pathlib\nwith (pathlib.Path(out_dir).parents[5] / 'count').open('a') as file: file.write('x')"

SWEEP = """
chapters: [1]
seeds: [0, 1, 2]
settings: {chapter: {}, more_steps: {steps: 10}}
out: out
"""


@pytest.fixture
def sweep_file(course, tmp_path):
    course("01_points", COUNT, BODY)
    course(
        "02_meshes",
        settings="from lib import chapter\nchapter.choose_settings(profile, overrides, quick=dict(depth=2))",
    )
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


@pytest.fixture
def script(tmp_path):
    """Write a program that is the `course` command of this test's course."""
    path = tmp_path / "course.py"
    path.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import pathlib, sys
        from lib.course import cli, notebooks, sweeps
        notebooks.NOTEBOOKS = pathlib.Path({str(tmp_path / "notebooks")!r})
        sweeps.COURSE = [__file__]
        cli.main()
        """)
    )
    path.chmod(0o755)
    return str(path)


def read_rows(tmp_path):
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def count(tmp_path):
    return len((tmp_path / "count").read_text())


def test_a_file_becomes_runs(sweep_file, tmp_path):
    sweep = sweeps.read(sweep_file)
    assert [member.name for member in sweep.members][:2] == [
        "01_points/quick/chapter/seed_0",
        "01_points/quick/chapter/seed_1",
    ]
    assert len(sweep.members) == len(sweep.waiting()) == 6 and sweep.folder == tmp_path / "out"
    sweep_file.write_text("chapters: [1, 2]\nseeds: [0]\nsettings: {few: {steps: 1}, flat: {depth: 1}}")
    names = [member.name for member in sweeps.read(sweep_file).members]
    assert names == ["01_points/quick/few/seed_0", "02_meshes/quick/flat/seed_0"], "each for the chapters that know it"
    page = sweeps.write_tables(sweep).read_text()
    assert "0 of 6 runs" in page and "no numbers yet" in page and read_rows(tmp_path)[0]["status"] == "waiting"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chapters: [1", "cannot be read as YAML"),
        ("[1, 2]", "must name chapters and seeds"),
        ("chapters: [1]", "must name chapters and seeds"),
        (SWEEP + "seedz: 1", "has seedz, which no sweep has; use chapters, seeds, profiles, settings"),
        (SWEEP.replace("[0, 1, 2]", "[]"), r"seeds must be a list with something in it, got \[\]"),
        (SWEEP.replace("[0, 1, 2]", "3"), "seeds must be a list with something in it, got 3"),
        (SWEEP.replace("[0, 1, 2]", "[-1]"), "seeds must be whole numbers from 0 on, got -1"),
        (SWEEP.replace("[0, 1, 2]", "[true]"), "seeds must be whole numbers from 0 on, got True"),
        (SWEEP.replace("[1]", "[7]"), "there is no chapter '7'"),
        (SWEEP + "profiles: [ful]", "profile='ful' is unknown to chapter 01_points"),
        (SWEEP + "processes: two", "processes must be whole numbers from 1 on, got 'two'"),
        (SWEEP.replace("steps: 10", "stepz: 10"), "no setting 'stepz' in these chapters; 01_points has steps, rate"),
        (SWEEP.replace("steps: 10", "steps: many"), r"overrides\['steps'\] must be of type int, got 'many'"),
        (SWEEP.replace("chapter: {}", "a/b: {}"), "'a/b' names a folder; use letters"),
        (SWEEP.replace("{chapter: {}, more_steps: {steps: 10}}", "[1]"), "settings must be variants by name"),
        (
            "chapters: [1, 2]\nseeds: [0]\nsettings: {both: {steps: 1, depth: 1}}",
            "no chapter has all settings of 'both'; make a variant for each chapter",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(sweep_file, tmp_path, text, message):
    sweep_file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        sweeps.read(sweep_file)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"none\.yaml cannot be read as YAML \(No such file or directory\)"):
        sweeps.read(tmp_path / "none.yaml")


@pytest.mark.slow
def test_killed_it_goes_on_and_the_table_has_all(sweep_file, script, tmp_path):
    command = [script, "sweep", str(sweep_file)]
    killed = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (tmp_path / "count").exists() or count(tmp_path) < 2:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    waiting = len(sweeps.read(sweep_file).waiting())
    assert 4 <= waiting <= 5
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and f"{waiting} of 6 runs, into out" in done.stdout, done.stdout + done.stderr
    assert "6 of 6 runs are done; table: out/sweep.html" in done.stdout
    assert count(tmp_path) in (7, 6), "what was done is not done again"
    rows = read_rows(tmp_path)
    errors = {(row["settings"], row["seed"]): (row["value"], row["inside"]) for row in rows if row["metric"] == "error"}
    assert errors["chapter", "0"] == ("0.03", "True") and errors["more_steps", "2"] == ("0.3", "False")
    assert len(errors) == 6 and {row["status"] for row in rows} == {"passed", "failed"}
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert "0.03 … 0.23" in page and '<td class="number outside">0.1 … 0.3' in page and "≤ 0.25" in page
    assert "<script" not in page

    sweep_file.write_text(
        SWEEP.replace("1, 2]", "1, 2, 3]").replace("{chapter: {}, more_steps: {steps: 10}}", "{chapter: {}}")
    )
    before = count(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 of 4 runs, into out" in done.stdout and count(tmp_path) == before + 1, "one seed more, one run more"
    sweep_file.write_text(SWEEP.replace("steps: 10", "steps: 9"))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "more_steps/seed_0 holds a run with overrides={'steps': 10}" in done.stdout


@pytest.mark.slow
def test_snakemake_runs_several_at_a_time(sweep_file, script, tmp_path):
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("the extra [cluster] is not installed")
    sweep_file.write_text(SWEEP.replace("[0, 1, 2]", "[0, 1]"))
    command = [script, "sweep", str(sweep_file), "--jobs", "2"]
    killed = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (tmp_path / "count").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    import psutil

    family = [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]
    for process in family:  # the machine goes down
        process.kill()
    killed.wait()
    psutil.wait_procs(family, 20)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "4 of 4 runs are done" in done.stdout, done.stdout + done.stderr
    assert len([row for row in read_rows(tmp_path) if row["metric"] == "error"]) == 4
    before = count(tmp_path)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text("executor: local\ncores: 2\nretries: 1\n")
    sweep_file.write_text(SWEEP)  # one seed more, in two variants; by a profile, as for a cluster
    command[-2:] = ["--cluster", "profile"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "2 of 6 runs, into out" in done.stdout, done.stdout + done.stderr
    assert "6 of 6 runs are done" in done.stdout and count(tmp_path) == before + 2


def test_without_snakemake_it_says_what_to_install(sweep_file, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    sweep = sweeps.read(sweep_file)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "snakemake" else find(name))
    with pytest.raises(
        ValueError, match=r"several jobs at a time, and clusters, need Snakemake: pip install -e '\.\[cl"
    ):
        sweeps.run_with_snakemake(sweep, 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match=r"holds no config\.yaml; give the folder of a Snakemake profile"):
        sweeps.run_with_snakemake(sweep, 2, tmp_path)
