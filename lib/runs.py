"""Executing chapters headless: one folder a run, whose record is true at every moment.

runs/<time>/run.json                settings, versions, hardware, and what became of each chapter
runs/<time>/04_rendering.ipynb      the executed notebook, saved after every cell
runs/<time>/04_rendering/           the chapter's out_dir: metrics.json, checkpoints, ...
runs/<time>/report.html             everything on one page (see lib.report)
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from lib.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"

PACKAGES = ["torch", "warp-lang", "pytorch3d", "numpy", "scipy", "scikit-image", "trimesh", "accelerate", "papermill"]

# What a kernel has to say of itself does not belong on the terminal of a run.
QUIET_KERNEL = "--IPKernelApp.log_level=50"

# What of a cell's metadata is committed: tags, whether its code is folded, and what graded exercises need.
KEPT_METADATA = ["tags", "jupyter", "nbgrader"]

# How often the memory of the kernel is read and the progress redrawn, and how long an interrupted
# kernel may take to come back before it is asked again, then killed (seconds).
TICK = 0.2
PATIENCE = 5.0


# --- what there is to run -----------------------------------------------------------------------------------


def all_chapters() -> list[Path]:
    """The notebooks of the course, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def find_chapters(names: list[str]) -> list[Path]:
    """The notebooks of the chapters named "4", "04" or "04_rendering", in the course's order; all for none.

    Raises ValueError for a name that fits no chapter.
    """
    chapters = all_chapters()
    chosen = set()
    for name in names:
        wanted = Path(name).name.removesuffix(".ipynb")
        number = wanted.zfill(2)
        fitting = [path for path in chapters if path.stem == wanted or path.stem.split("_")[0] == number]
        if not fitting:
            known = ", ".join(path.stem for path in chapters) or "none yet"
            raise ValueError(f"there is no chapter {name!r}; the chapters are {known}")
        chosen.update(fitting)
    return [path for path in chapters if path in chosen] if names else chapters


def chapter_title(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        heading = re.search(r"^# (.+)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading[1].strip()
    return path.stem


def chapter_settings(path: Path) -> dict[str, dict]:
    """The settings of a chapter by profile, read from its call of `choose_settings` without running the chapter.

    Each profile has all settings: those it does not state are the first profile's. A value that depends on other code
    of the chapter is None here.
    """

    def evaluate(node: ast.expr):
        try:
            return eval(compile(ast.Expression(node), path.name, "eval"))
        except NameError:
            return None

    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or "choose_settings(" not in source:
            continue
        for call in ast.walk(ast.parse(source)):
            name = getattr(getattr(call, "func", None), "attr", None)
            if name == "choose_settings":
                stated = {
                    profile.arg: {setting.arg: evaluate(setting.value) for setting in profile.value.keywords}
                    for profile in call.keywords
                    if profile.arg and isinstance(profile.value, ast.Call)
                }
                first = next(iter(stated.values()), {})
                return {profile: first | settings for profile, settings in stated.items()}
    return {}


def split_overrides(chapters: list[Path], profile: str, overrides: dict) -> dict[str, dict]:
    """The overrides each chapter knows, by chapter; checked now, not after an hour of another chapter.

    Raises ValueError for a profile that a chapter does not have, an override that no chapter knows, or
    one of another type than the setting.
    """
    known = {path.stem: chapter_settings(path) for path in chapters}
    for name, profiles in known.items():
        if profile not in profiles:
            offered = ", ".join(map(repr, profiles)) or "none"
            raise ValueError(f"profile={profile!r} is unknown to chapter {name}; it has {offered}")
    for setting in overrides:
        if not any(setting in profiles[profile] for profiles in known.values()):
            offered = "; ".join(f"{name} has {', '.join(profiles[profile])}" for name, profiles in known.items())
            raise ValueError(f"overrides has no setting {setting!r} in these chapters; {offered}")
    split = {
        name: {setting: value for setting, value in overrides.items() if setting in profiles[profile]}
        for name, profiles in known.items()
    }
    if overrides:
        from lib.chapter import choose_settings

        for name, profiles in known.items():
            choose_settings(profile, split[name], **profiles)
    return split


def _digest(path: Path) -> str:
    """Of a chapter's notebook and the whole package: the same digest, the same result."""
    digest = hashlib.sha256(path.read_bytes())
    for source in sorted((ROOT / "lib").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


# --- what is recorded ---------------------------------------------------------------------------------------


@dataclass
class Chapter:
    """What became of one chapter in a run."""

    name: str
    title: str = ""
    status: str = "waiting"  # running, passed, failed, interrupted
    cell: int = 0  # the code cell begun last, counted from 1: In [cell] of the executed notebook
    cells: int = 0
    seconds: float = 0.0
    peak_memory: int = 0  # bytes, of the kernel and its children
    reason: str = ""  # one line: why it did not pass
    overrides: dict = field(default_factory=dict)
    digest: str = ""


@dataclass
class Run:
    """One run: its settings, and its chapters in order. `save` after every change."""

    folder: Path
    profile: str = "quick"
    seed: int = 0
    device: str = "auto"
    overrides: dict = field(default_factory=dict)
    started: str = ""
    status: str = "running"  # passed, failed, interrupted
    versions: dict = field(default_factory=dict)
    hardware: dict = field(default_factory=dict)
    chapters: list[Chapter] = field(default_factory=list)

    def save(self) -> None:
        """Write run.json. Raises OSError naming it where the folder cannot be written."""
        record = asdict(self) | {"folder": str(self.folder)}
        write_atomically(self.folder / "run.json", json.dumps(record, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read a run's record. Raises ValueError where the folder holds none."""
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            chapters = [Chapter(**chapter) for chapter in record.pop("chapters")]
            return cls(**record | {"folder": folder, "chapters": chapters})
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{folder} holds no run (no readable run.json); make one with `course run`") from None

    def metrics(self, chapter: Chapter) -> dict[str, dict]:
        """The chapter's numbers with their bands, as `lib.chapter.Results` left them."""
        try:
            return json.loads((self.folder / chapter.name / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def notebook(self, chapter: Chapter) -> Path:
        return self.folder / f"{chapter.name}.ipynb"


def new_run(
    chapters: list[Path],
    *,
    profile: str = "quick",
    seed: int = 0,
    device: str = "auto",
    overrides: dict | None = None,
    out: Path | None = None,
) -> Run:
    """Begin a run in `out` (default: runs/<now>), or take up the one that is there with the same settings.

    Taken up, a chapter that passed from the same sources is kept; the others are run again, with their
    out_dir as it was left, so that training continues from its checkpoints.

    Raises ValueError for settings no chapter can take, or an `out` that holds something else; OSError
    where it cannot be written. Nothing has been trained by then.
    """
    overrides = overrides or {}
    split = split_overrides(chapters, profile, overrides)
    folder = (out or RUNS / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).absolute()
    run = Run(folder, profile, seed, device, overrides)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "run.json").exists():
            raise ValueError(f"{folder} holds something else than a run; choose an empty folder or a new one")
        run = Run.load(folder)
        for name, wanted in {"profile": profile, "seed": seed, "device": device, "overrides": overrides}.items():
            if getattr(run, name) != wanted:
                found = getattr(run, name)
                raise ValueError(f"{folder} holds a run with {name}={found!r}, not {wanted!r}; choose another folder")
    run.started = run.started or datetime.now().isoformat(timespec="seconds")
    run.status, run.versions, run.hardware = "running", versions(), hardware()
    records = {chapter.name: chapter for chapter in run.chapters}
    for left in run.chapters:
        if left.status in ("running", "waiting"):
            left.status, left.reason = "interrupted", "the run ended here"
    for path in chapters:
        digest = _digest(path)
        kept = records.get(path.stem)
        if kept is None or kept.status != "passed" or kept.digest != digest:
            records[path.stem] = Chapter(path.stem, chapter_title(path), overrides=split[path.stem], digest=digest)
    run.chapters = [records[name] for name in sorted(records)]
    run.save()
    return run


def latest_run() -> Path:
    """The newest folder under runs/. Raises ValueError where there is none."""
    folders = sorted(path.parent for path in RUNS.glob("*/run.json"))
    if not folders:
        raise ValueError(f"there is no run under {RUNS} yet; make one with `course run`")
    return folders[-1]


# --- running ------------------------------------------------------------------------------------------------


def execute(run: Run, watch: Callable[[Chapter], None] = lambda chapter: None) -> None:
    """Execute the waiting chapters of a run, one after the other, each in a kernel of its own.

    A chapter that fails does not stop the next. Ctrl-C stops the run; what is done is kept and marked.
    `watch` is called with the chapter at every change and several times a second.

    Raises OSError where the record itself can no longer be written.
    """
    for chapter in run.chapters:
        if chapter.status == "waiting":
            _execute_chapter(run, chapter, watch)
            run.save()
            watch(chapter)
            if chapter.status == "interrupted":
                break
    statuses = {chapter.status for chapter in run.chapters}
    run.status = next((bad for bad in ("interrupted", "failed") if bad in statuses), "passed")
    run.save()


def _execute_chapter(run: Run, chapter: Chapter, watch: Callable[[Chapter], None]) -> None:
    out_dir = run.folder / chapter.name
    chapter.status = "running"
    run.save()
    # The numbers of an earlier attempt must not be taken for this one's.
    (out_dir / "metrics.json").unlink(missing_ok=True)
    started = time.monotonic()
    outcome: dict[str, str] = {}
    stop, finished = threading.Event(), threading.Event()
    threading.Thread(target=_execute_notebook, args=(run, chapter, outcome, stop, finished), daemon=True).start()
    due: list[tuple[float, int]] = []  # what the kernel is to be sent, and when
    # Not `Thread.join`: interrupted by Ctrl-C, it may take the thread for ended.
    while not finished.is_set():
        try:
            finished.wait(TICK)
            now = time.monotonic()
            chapter.seconds = now - started
            kernels = psutil.Process().children(recursive=True)
            chapter.peak_memory = max(chapter.peak_memory, sum(map(_resident_memory, kernels)))
            watch(chapter)
            if due and now >= due[0][0]:
                _signal_children(due.pop(0)[1])
        except KeyboardInterrupt:
            # First ask: the cell raises KeyboardInterrupt, and what it shows is kept. Ask once more, for a
            # kernel that was between two cells. Then, or when Ctrl-C is pressed again, kill.
            now = time.monotonic()
            asked = [(now, signal.SIGINT), (now + PATIENCE, signal.SIGINT), (now + 2 * PATIENCE, signal.SIGKILL)]
            due = [(now, signal.SIGKILL)] if stop.is_set() else asked
            stop.set()
    chapter.seconds = time.monotonic() - started
    chapter.status, chapter.reason = outcome["status"], outcome["reason"]
    if stop.is_set() and chapter.status != "passed":
        chapter.status, chapter.reason = "interrupted", "stopped by Ctrl-C or the system"


def _execute_notebook(
    run: Run, chapter: Chapter, outcome: dict[str, str], stop: threading.Event, finished: threading.Event
) -> None:
    """The body of the worker: papermill, watched through nbclient's hooks. Fills in the outcome.

    Papermill would write the notebook in place after each cell; here it is written whole or not at all.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running: dict = {}

    def notebook_starts(notebook) -> None:
        cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
        running.update(notebook=notebook, number={index: number for number, index in enumerate(cells, start=1)})
        chapter.cells = len(cells)

    def cell_starts(cell, cell_index) -> None:
        if stop.is_set():
            raise InterruptedError
        chapter.cell = running["number"].get(cell_index, chapter.cell)

    def save(**_) -> None:
        write_atomically(run.notebook(chapter), nbformat.writes(running["notebook"]) + "\n")

    try:
        papermill.execute_notebook(
            NOTEBOOKS / f"{chapter.name}.ipynb",
            None,
            parameters={
                "profile": run.profile,
                "seed": run.seed,
                "device": run.device,
                "out_dir": str(run.folder / chapter.name),
                "overrides": chapter.overrides,
            },
            cwd=NOTEBOOKS,
            progress_bar=False,
            extra_arguments=[QUIET_KERNEL],
            on_notebook_start=notebook_starts,
            on_cell_start=cell_starts,
            on_cell_executed=save,
        )
        save()
        outcome.update(status="passed", reason="")
    except Exception as error:
        if isinstance(error, PapermillExecutionError):
            reason = f"{error.ename}: {error.evalue or _failing_line(error.traceback)}"
        elif isinstance(error, DeadKernelError):
            reason = f"the kernel died, having used {format_memory(chapter.peak_memory)}; was there enough memory?"
        else:
            reason = f"{type(error).__name__}: {error}"
        outcome.update(status="failed", reason=reason.strip().splitlines()[0])
        with suppress(OSError):  # then the disk is what failed
            if "notebook" in running:
                save()
    finally:
        finished.set()


def _failing_line(traceback: list[str]) -> str:
    """The line that the traceback points at, for errors that say nothing themselves."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback))
    pointed = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    return pointed[1].strip() if pointed else ""


def _resident_memory(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


def _signal_children(number: int) -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            process.send_signal(number)


def store(path: Path) -> float:
    """Execute a notebook in place for committing; returns the seconds taken.

    What it stores depends on nothing but the cells: no timings, no widget state, no machine's metadata. The
    cells are formatted as `make test` asks. The file is left as it was where a cell fails.

    Raises nbclient.exceptions.CellExecutionError for a failing cell.
    """
    import nbformat
    from nbclient import NotebookClient

    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(path), "-"]
    source = path.read_text(encoding="utf-8")
    formatted = subprocess.run(ruff, input=source, capture_output=True, text=True, encoding="utf-8")
    notebook = nbformat.reads(formatted.stdout or source, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {name: cell.metadata[name] for name in KEPT_METADATA if cell.metadata.get(name)}
    started = time.monotonic()
    NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=[QUIET_KERNEL],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    write_atomically(path, nbformat.writes(notebook) + "\n")
    return time.monotonic() - started


# --- where it ran -------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Of Python, the course and the packages its results depend on; an absent package is left out."""
    found = {"course": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown"}
    found["python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """Of this machine: system, processor, cores, memory, graphics processor."""
    processor = platform.processor()
    if sys.platform == "darwin":
        processor = _output("sysctl", "-n", "machdep.cpu.brand_string") or processor
    elif os.path.exists("/proc/cpuinfo"):
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = model[1] if model else processor
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": processor or platform.machine(),
        "cores": str(cores),
        "memory": format_memory(psutil.virtual_memory().total),
        "gpu": "; ".join(gpus.splitlines()) or "none",
    }


def _output(*command: str) -> str:
    """What a command prints, or nothing where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def format_memory(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def format_seconds(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
