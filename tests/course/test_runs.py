from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient.exceptions import CellExecutionError

from lib.course import machine, notebooks, report, runs

pytestmark = pytest.mark.slow

FIGURE = """\
from base64 import b64decode
from IPython.display import HTML, Image, display
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
display(Image(b64decode(PIXEL), format="png", alt="a single <red> dot"))
display(HTML("<script src='https://example.org/x.js'></script>"))"""

METRICS = """\
import json, os
os.makedirs(out_dir, exist_ok=True)
entry = dict(value=0.5, low=0.4, high=None, unit="cm", inside=True)
entries = {"error": entry, "count": dict(entry, value=7, low=None, inside=None)}
json.dump(entries, open(out_dir + "/metrics.json", "w"))"""


def outputs(path):
    """The text a notebook shows, cell by cell."""
    cells = nbformat.read(path, as_version=4).cells
    return [output.get("text") or output.get("ename") for cell in cells for output in cell.get("outputs", [])]


def statuses(run):
    return {chapter.name: chapter.status for chapter in run.chapters}


# --- choosing ---


def test_chapters_are_found_by_number_or_name_in_order(course):
    first, second = course("01_points"), course("02_meshes")
    assert notebooks.find_chapters([]) == [first, second]
    assert notebooks.find_chapters(["2", "01_points", "notebooks/02_meshes.ipynb"]) == [first, second]
    with pytest.raises(ValueError, match=r"no chapter '7'; the chapters are 01_points, 02_meshes"):
        notebooks.find_chapters(["1", "7"])


def test_a_chapter_in_two_parts_has_a_letter(course):
    first, second, last = course("06_handles"), course("06b_pictures"), course("10_keypoints")
    assert notebooks.all_chapters() == [first, second, last]
    assert notebooks.find_chapters(["6"]) == notebooks.find_chapters(["06"]) == [first]
    assert notebooks.find_chapters(["6b"]) == notebooks.find_chapters(["06b"]) == [second]
    assert [notebooks.number_of(path) for path in notebooks.all_chapters()] == ["6", "6b", "10"]


def test_title_and_settings_are_read_without_running(course):
    path = course("01_points", "raise SystemExit")
    assert notebooks.chapter_title(path) == "The chapter 01_points"
    assert notebooks.chapter_settings(path)["full"] == {"steps": 30, "rate": 0.1}
    computed = (
        "choices = 3\nchapter.choose_settings(profile, overrides, quick=dict(a=[2**i for i in range(3)], b=choices))"
    )
    path = course("02_meshes", settings=computed)
    assert notebooks.chapter_settings(path) == {"quick": {"a": [1, 2, 4], "b": None}}


def test_overrides_go_to_the_chapters_that_know_them(course):
    settings = "from lib import chapter\nchapter.choose_settings(profile, overrides, quick=dict(depth=2))"
    paths = [course("01_points"), course("02_meshes", settings=settings)]
    split = notebooks.split_overrides(paths, "quick", {"steps": 5, "depth": 1})
    assert split == {"01_points": {"steps": 5}, "02_meshes": {"depth": 1}}
    with pytest.raises(ValueError, match=r"'stepz'.*01_points has steps, rate; 02_meshes has depth"):
        notebooks.split_overrides(paths, "quick", {"stepz": 5})
    with pytest.raises(ValueError, match=r"'full' is unknown to chapter 02_meshes; it has 'quick'"):
        notebooks.split_overrides(paths, "full", {})
    with pytest.raises(ValueError, match=r"overrides\['steps'\] must be of type int, got 'many'"):
        notebooks.split_overrides(paths, "quick", {"steps": "many"})


# --- running ---


def test_a_run_from_failure_to_report(course, tmp_path):
    """One run of three chapters: the second fails, which does not stop the third; taken up, it is put right."""
    points = course("01_points", METRICS, "# More\n\n$x \\in \\mathbb{R}^3$ [next](02_meshes.ipynb)", FIGURE)
    meshes = course("02_meshes", "print('before')", "assert 1 > 2, 'one is not\\nmore'", "print('never')")
    cameras = course("03_cameras", "import os\nprint(settings, seed, os.path.basename(os.getcwd()))")
    run = runs.new_run([points, meshes, cameras], seed=4, overrides={"steps": 5}, out=tmp_path / "out")
    seen = []
    runs.execute(run, lambda chapter: seen.append((chapter.name, chapter.status, chapter.cell, chapter.cells)))

    assert statuses(run) == {"01_points": "passed", "02_meshes": "failed", "03_cameras": "passed"}
    assert run.status == "failed"
    failed = run.chapters[1]
    # The cell's number is the one Jupyter shows, papermill's cell of parameters counted.
    assert (failed.cell, failed.cells, failed.reason) == (5, 6, "AssertionError: one is not")
    assert outputs(run.notebook(failed)) == ["before\n", "AssertionError"]
    assert outputs(run.notebook(run.chapters[2])) == ["{'steps': 5, 'rate': 0.1} 4 notebooks\n"]
    assert [name for name, status, *_ in seen if status != "running"] == ["01_points", "02_meshes", "03_cameras"]
    assert ("02_meshes", "running", 5, 6) in seen
    assert all(chapter.seconds > 0 and chapter.peak_memory > 2**20 for chapter in run.chapters)
    assert runs.Run.load(tmp_path / "out") == run
    assert run.metrics(run.chapters[0])["error"]["value"] == 0.5

    page = report.write_report(run).read_text()
    for expected in ("AssertionError: one is not", "a single &lt;red&gt; dot", "≥ 0.4", "1/1", "profile quick, seed 4"):
        assert expected in page, expected
    assert run.versions["torch"] in page and run.hardware["processor"] in page
    assert 'href="#02_meshes"' in page and "<math" in page
    assert "<script" not in page
    # Nothing is fetched: pictures are embedded, styles and scripts of elsewhere are not named.
    assert re.findall(r'src="(\w+):', page) == ["data"]
    assert not re.search(r"<link|<iframe|@import|url\(", page)

    course("02_meshes", "print('before')")
    again = runs.new_run([points, meshes, cameras], seed=4, overrides={"steps": 5}, out=tmp_path / "out")
    assert statuses(again) == {"01_points": "passed", "02_meshes": "waiting", "03_cameras": "passed"}
    runs.execute(again)
    assert again.status == "passed" and again.chapters[0] == run.chapters[0]


def test_a_run_taken_up_keeps_checkpoints_but_not_old_numbers(course, tmp_path):
    body = """
    import os
    os.makedirs(out_dir, exist_ok=True)
    checkpoint = out_dir + "/checkpoint"
    begun = os.path.exists(checkpoint)
    open(checkpoint, "w").close()
    assert begun, "the power went"
    """
    path = course("01_points", textwrap.dedent(body), METRICS)
    run = runs.new_run([path], out=tmp_path / "out")
    (tmp_path / "out" / "01_points").mkdir()
    (tmp_path / "out" / "01_points" / "metrics.json").write_text('{"old": 1}')
    runs.execute(run)
    assert run.chapters[0].reason == "AssertionError: the power went"
    assert run.metrics(run.chapters[0]) == {}
    again = runs.new_run([path], out=tmp_path / "out")
    runs.execute(again)
    assert again.status == "passed" and "error" in again.metrics(again.chapters[0])


def test_a_kernel_that_dies_fails_its_chapter_alone(course, tmp_path):
    paths = [
        course("01_points", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        course("02_meshes"),
        course("03_cameras", "x = 1\nassert x == 2"),
    ]
    run = runs.new_run(paths, out=tmp_path / "out")
    runs.execute(run)
    assert statuses(run) == {"01_points": "failed", "02_meshes": "passed", "03_cameras": "failed"}
    assert "kernel died" in run.chapters[0].reason and run.chapters[0].cell == 4
    assert run.chapters[2].reason == "AssertionError: assert x == 2"


def test_what_was_left_running_by_a_killed_run_is_run_again(course, tmp_path):
    paths = [course("01_points"), course("02_meshes")]
    run = runs.new_run(paths, out=tmp_path / "out")
    run.chapters[0].status = "running"
    run.save()
    again = runs.new_run(paths[1:], out=tmp_path / "out")
    assert statuses(again) == {"01_points": "interrupted", "02_meshes": "waiting"}
    assert statuses(runs.new_run(paths, out=tmp_path / "out")) == {"01_points": "waiting", "02_meshes": "waiting"}


def test_two_chapters_at_a_time_are_recorded_as_if_alone(course, tmp_path):
    import os

    both = "import pathlib, time\nhere = pathlib.Path({mine!r}); here.touch()\nother = pathlib.Path({other!r})\n"
    both += "while not other.exists(): time.sleep(0.05)"  # neither ends before the other has begun
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    threads = "import os\nprint('threads', os.environ.get('OMP_NUM_THREADS'))"
    big = "import numpy\nfilled = numpy.ones(50_000_000)"
    paths = [
        course("01_points", both.format(mine=a, other=b), threads, big),
        course("02_meshes", both.format(mine=b, other=a), threads, "assert not 'one fails'"),
        course("03_cameras", "print('and the third comes after')"),
    ]
    run = runs.new_run(paths, jobs=2)
    os.environ.pop("OMP_NUM_THREADS", None)
    try:
        runs.execute(run)
        assert "OMP_NUM_THREADS" not in os.environ
    finally:
        os.environ["OMP_NUM_THREADS"] = "1"
    assert [chapter.status for chapter in run.chapters] == ["passed", "failed", "passed"]
    assert run.chapters[0].peak_memory > run.chapters[1].peak_memory + 200 * 2**20
    share = max(machine.count_cores() // 2, 1)
    assert f"threads {share}" in run.notebook(run.chapters[0]).read_text()
    assert run.seconds < sum(chapter.seconds for chapter in run.chapters)
    assert runs.Run.load(run.folder).jobs == 2


TRAINING = """\
import torch
from lib import chapter, training
from lib.processes import Processes
chapter.set_seed(seed)
model = torch.nn.Linear(2, 1)
data = {"x": torch.randn(12, 2, generator=torch.Generator().manual_seed(seed))}
loss = lambda model, batch, step: {"loss": (model(batch["x"]) - 1).square().mean()}
history = training.fit(model, loss, data, steps=6, batch_size=4, device="cpu", out_dir=out_dir, log_every=2)
chapter.Results(out_dir, judged=False).record("loss", history["loss"][-1])"""


def test_several_processes_train_a_chapter_and_leave_one_result(course, tmp_path):
    path = course("01_points", TRAINING, "print('process', Processes().rank, 'of', Processes().count)")
    one = runs.new_run([path], out=tmp_path / "one")
    runs.execute(one)
    two = runs.new_run([path], processes=2, out=tmp_path / "two")
    runs.execute(two)
    assert (one.status, two.status) == ("passed", "passed"), two.chapters[0].reason
    assert "RANK" not in os.environ
    assert two.metrics(two.chapters[0])["loss"]["value"] == pytest.approx(
        one.metrics(one.chapters[0])["loss"]["value"], rel=1e-4
    )
    assert outputs(two.notebook(two.chapters[0]))[-1] == "process 0 of 2\n"
    assert "processes each" not in report.write_report(one).read_text()
    assert "2 processes each" in report.write_report(two).read_text()
    with pytest.raises(ValueError, match="holds a run with processes=2, not 1; choose another folder"):
        runs.new_run([path], out=tmp_path / "two")


def test_a_process_that_fails_does_not_leave_the_other_waiting(course, tmp_path):
    fails = "import os\nassert os.environ['RANK'] == '0', 'the second fails'"
    path = course("01_points", fails, TRAINING)
    run = runs.new_run([path], processes=2, out=tmp_path / "out")
    runs.execute(run)
    assert run.status == "failed" and run.chapters[0].reason == "AssertionError: the second fails"
    assert run.chapters[0].cell == 4 and "the second fails" in run.notebook(run.chapters[0]).read_text()


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_an_interrupted_run_keeps_what_is_done(course, tmp_path, number, jobs):
    course("01_points", "print('kept')", "import time\ntime.sleep(600)", "print('never')")
    course("02_meshes", "import time\ntime.sleep(600)")
    script = """
    import pathlib
    from lib.course import cli, notebooks
    notebooks.NOTEBOOKS = pathlib.Path("notebooks").absolute()
    cli.main()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), "run", "--out", "out", "--jobs", str(jobs)]
    # A shell's background job ignores SIGINT and hands that on; a user's terminal does not.
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, **options) as process:
        notebook = tmp_path / "out" / "01_points.ipynb"
        deadline = time.monotonic() + 60
        while not (notebook.exists() and '"kept\\n"' in notebook.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        while len(kernels := psutil.Process(process.pid).children()) < jobs and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        printed = process.communicate(timeout=60)[0]
        assert process.returncode == 130
    assert "interrupted 01_points, cell 5 of 6" in printed and "out/report.html" in printed
    assert printed.endswith("the same command with --out out continues\n")
    run = runs.Run.load(tmp_path / "out")
    assert run.status == "interrupted" and statuses(run) == {
        "01_points": "interrupted",
        "02_meshes": "waiting" if jobs == 1 else "interrupted",
    }
    assert "kept\n" in outputs(notebook) and "never\n" not in outputs(notebook)
    assert "interrupted" in (tmp_path / "out" / "report.html").read_text()
    assert len(kernels) == jobs and not any(psutil.pid_exists(kernel.pid) for kernel in kernels)


# --- what cannot be written ---


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(course, tmp_path):
    path = course("01_points")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/out/run.json \(Not a directory\)"):
        runs.new_run([path], out=tmp_path / "file" / "out")


def test_a_folder_with_something_else_is_refused(course, tmp_path):
    path = course("01_points")
    runs.new_run([path], out=tmp_path / "out")
    with pytest.raises(ValueError, match="holds a run with seed=0, not 1; choose another folder"):
        runs.new_run([path], seed=1, out=tmp_path / "out")
    for damaged in (
        '{"half',
        "null",
        '"run"',
        '{"chapters": [], "more": 1}',
        '{"chapters": [{"name": "a", "status": "b"}]}',
    ):
        (tmp_path / "out" / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match="holds no run"):
            runs.new_run([path], out=tmp_path / "out")
    with pytest.raises(ValueError, match="holds something else than a run; choose an empty folder or a new one"):
        runs.new_run([path], out=tmp_path)


def test_a_full_disk_fails_the_chapter_and_leaves_no_half_file(course, tmp_path, monkeypatch):
    path = course("01_points", "print('once')")
    run = runs.new_run([path], out=tmp_path / "out")
    whole = runs.write_atomically

    def full(target, content):
        if target.suffix == ".ipynb":
            raise OSError(errno.ENOSPC, f"cannot write {target} ({os.strerror(errno.ENOSPC)}); free space")
        whole(target, content)

    monkeypatch.setattr(runs, "write_atomically", full)
    runs.execute(run)
    assert run.status == "failed" and "No space left on device" in run.chapters[0].reason
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run.json"]
    assert "No space left" in report.write_report(run).read_text()


# --- storing ---


def test_a_stored_notebook_depends_on_nothing_but_its_cells(course):
    path = course("01_points", "print('one')\nprint('two')", "import os\nprint( os.path.basename(os.getcwd()) )")
    notebooks.store(path)
    first = path.read_bytes()
    notebooks.store(path)
    assert path.read_bytes() == first
    notebook = json.loads(first)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}, {"tags": ["parameters"]}, {}, {}, {}]
    assert outputs(path) == ["one\ntwo\n", "notebooks\n"]
    assert "".join(notebook["cells"][-1]["source"]) == "import os\n\nprint(os.path.basename(os.getcwd()))"


def test_a_notebook_that_fails_is_not_stored(course):
    path = course("01_points", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.store(path)
    assert path.read_bytes() == before


# --- the page ---


@pytest.mark.parametrize(
    "tex", [r"\frac{1}{2}", r"\arg\min_x \|x\|", r"\begin{aligned} a &= b \\ c &= d \end{aligned}", r"\mathbf{R}^\top"]
)
def test_equations_are_drawn_by_the_browser(tex):
    assert report.tex_to_mathml(tex, "block").startswith("<math")


def test_an_equation_that_cannot_be_converted_stays_readable():
    assert report.tex_to_mathml(r"\unheardof{x} < 1", "inline") == r"<code>\unheardof{x} &lt; 1</code>"


def test_times_and_sizes_for_people():
    assert [machine.format_seconds(seconds) for seconds in (9.9, 75, 3725)] == ["0:09", "1:15", "1:02:05"]
    assert [machine.format_memory(size) for size in (5 * 2**20, 3 * 2**29)] == ["5 MiB", "1.5 GiB"]


def test_a_second_process_does_not_enter_a_folder_at_work(course, tmp_path):
    path = course("01_points", "x = 1")
    out = tmp_path / "out"
    code = (
        "import pathlib, sys; from lib.course import runs; "
        f"runs.new_run([pathlib.Path({str(path)!r})], out=pathlib.Path({str(out)!r})); print('begun')"
    )

    def second() -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd())
        return (done.stdout or done.stderr).strip().splitlines()[-1]

    run = runs.new_run([path], out=out)
    assert (
        second() == f"ValueError: another process is at work in {out}; wait until it is done, or choose another folder"
    )
    assert runs.new_run([path], out=out).status == "running", "this process may take it up"
    runs.execute(run)
    assert second() == "begun"
    assert runs.new_run([path], out=out).chapters[0].status == "passed", "and a process that ended is no obstacle"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="stands for a home that cannot be written")
def test_a_run_without_a_home(course, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc")
    run = runs.new_run([course("01_points", "import matplotlib.pyplot")], out=tmp_path / "out")
    runs.execute(run)
    assert statuses(run) == {"01_points": "passed"}, run.chapters[0].reason
    assert "IPYTHONDIR" not in os.environ
