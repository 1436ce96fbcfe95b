"""Executing chapters headless: one folder a run, with a record that is up to date at every moment.

runs/<time>/run.json                settings, versions, hardware, and what became of each chapter
runs/<time>/04_rendering.ipynb      the executed notebook, saved after every cell
runs/<time>/04_rendering/           the chapter's out_dir: metrics.json, checkpoints, ...
runs/<time>/report.html             everything on one page (see lib.course.report)
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from lib.course import notebooks
from lib.course.machine import count_cores, format_memory, hardware, versions
from lib.course.notebooks import QUIET_KERNEL, ROOT, chapter_title, digest_of, split_overrides
from lib.files import claim, release, write_atomically

RUNS = ROOT / "runs"

# Seconds between two readings of the kernel's memory, with the progress drawn again; and seconds that an interrupted
# kernel has to stop, before it is asked again, then killed.
TICK = 0.2
PATIENCE = 5.0

STATUSES = {"waiting", "running", "passed", "failed", "interrupted"}  # of a chapter

# Variables that tell IPython, Jupyter and Matplotlib where to write instead of the home folder.
KERNEL_FOLDERS = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")


# --- what is recorded ---------------------------------------------------------------------------------------


@dataclass
class Chapter:
    """The state of one chapter in a run."""

    name: str
    title: str = ""
    status: str = "waiting"  # one of STATUSES
    cell: int = 0  # the code cell that was started last, counted from 1: In [cell] of the executed notebook
    cells: int = 0
    seconds: float = 0.0
    peak_memory: int = 0  # bytes, of the kernel and its children
    reason: str = ""  # one line: why it did not pass
    overrides: dict = field(default_factory=dict)
    digest: str = ""


@dataclass
class Run:
    """One run: its settings, and its chapters in order. Call `save` after every change."""

    folder: Path
    profile: str = "quick"
    seed: int = 0
    device: str = "auto"
    overrides: dict = field(default_factory=dict)
    jobs: int = 1  # how many chapters were executed at a time
    processes: int = 1  # how many processes trained each chapter
    started: str = ""
    status: str = "running"  # passed, failed, interrupted
    seconds: float = 0.0  # by the clock on the wall, all sittings together
    versions: dict = field(default_factory=dict)
    hardware: dict = field(default_factory=dict)
    chapters: list[Chapter] = field(default_factory=list)

    def save(self) -> None:
        """Write run.json. Raises OSError, which names it, if the folder cannot be written."""
        record = asdict(self) | {"folder": str(self.folder)}
        write_atomically(self.folder / "run.json", json.dumps(record, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read a run's record. Raises ValueError if the folder holds none."""
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            chapters = [Chapter(**chapter) for chapter in record.pop("chapters")]
            if not {chapter.status for chapter in chapters} <= STATUSES:
                raise ValueError
            return cls(**record | {"folder": folder, "chapters": chapters})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{folder} holds no run (no readable run.json); make one with `course run`") from None

    def refuse_others(self, wanted: dict) -> None:
        """Raise ValueError unless the run's settings are the wanted ones."""
        for name, value in wanted.items():
            if (found := getattr(self, name)) != value:
                reason = f"{self.folder} holds a run with {name}={found!r}, not {value!r}"
                raise ValueError(f"{reason}; choose another folder")

    def metrics(self, chapter: Chapter) -> dict[str, dict]:
        """Read the chapter's numbers with their bands, as `lib.chapter.Results` wrote them."""
        try:
            found = json.loads((self.folder / chapter.name / "metrics.json").read_text(encoding="utf-8"))
            return {name: entry | {"value": float(entry["value"])} for name, entry in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
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
    jobs: int = 1,
    processes: int = 1,
    out: Path | None = None,
) -> Run:
    """Begin a run in `out` (default: runs/<now>), or continue the run that is there, with the same settings.

    processes: that many kernels execute each chapter together and share the batches of its trainings; on CUDA each has
        a GPU of its own. See `lib.processes`.

    When a run is continued, a chapter that passed from the same sources is kept. The others are run again, with their
    out_dir as it was left, so that training continues from its checkpoints.

    Raises ValueError for settings that no chapter can take, or an `out` that holds something else or in which another
    process is at work; OSError if it cannot be written. This happens before anything is trained.
    """
    overrides = overrides or {}
    split = split_overrides(chapters, profile, overrides)
    if processes > 1:
        find_gpus(processes, device)
    folder = (out or RUNS / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).absolute()
    run = Run(folder, profile, seed, device, overrides, processes=processes)
    with suppress(OSError):  # saving the record raises the error
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder, "wait until it is done, or choose another folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "run.json").exists():
            raise ValueError(f"{folder} holds something else than a run; choose an empty folder or a new one")
        run = Run.load(folder)
        wanted = {"profile": profile, "seed": seed, "device": device, "overrides": overrides, "processes": processes}
        run.refuse_others(wanted)
    run.started = run.started or datetime.now().isoformat(timespec="seconds")
    run.status, run.jobs, run.versions, run.hardware = "running", jobs, versions(), hardware()
    records = {chapter.name: chapter for chapter in run.chapters}
    for left in run.chapters:
        if left.status in ("running", "waiting"):
            left.status, left.reason = "interrupted", "the run ended here"
    for path in chapters:
        digest = digest_of(path)
        kept = records.get(path.stem)
        if kept is None or kept.status != "passed" or kept.digest != digest:
            records[path.stem] = Chapter(path.stem, chapter_title(path), overrides=split[path.stem], digest=digest)
    run.chapters = [records[name] for name in sorted(records)]
    run.save()
    return run


def latest_run() -> Path:
    """Find the newest folder under runs/. Raises ValueError if there is none."""
    folders = sorted(path.parent for path in RUNS.glob("*/run.json"))
    if not folders:
        raise ValueError(f"there is no run under {RUNS} yet; make one with `course run`")
    return folders[-1]


# --- running ------------------------------------------------------------------------------------------------


def execute(run: Run, watch: Callable[[Chapter], None] = lambda chapter: None) -> None:
    """Execute the waiting chapters of a run, `run.jobs` at a time, each in its own kernel.

    With several jobs the cores are divided among the kernels: each kernel's libraries use an equal number of threads.
    A chapter that fails does not stop the others. Ctrl-C stops the run; finished chapters are kept and marked.
    `watch` is called with a chapter at every change and several times a second.

    Raises OSError if the record itself can no longer be written.
    """
    waiting = [chapter for chapter in run.chapters if chapter.status == "waiting"]
    at_work: list[_Worker] = []
    stopped, began = False, time.monotonic()
    # Papermill would change the folder for each notebook and back again, which two threads must not do.
    with (
        _home_for_kernels(),
        _threads_shared_out(min(run.jobs, len(waiting)) * run.processes),
        chdir(notebooks.NOTEBOOKS),
    ):
        # `Thread.join` would not do: after Ctrl-C it may report a running thread as ended.
        while at_work or (waiting and not stopped):
            try:
                while waiting and len(at_work) < run.jobs and not stopped:
                    at_work.append(_Worker(run, waiting.pop(0)))
                time.sleep(TICK)
                for worker in list(at_work):
                    worker.look()
                    if worker.finished.is_set():
                        at_work.remove(worker)
                        worker.conclude()
                        run.save()
                    watch(worker.chapter)
            except KeyboardInterrupt:
                stopped = True
                for worker in at_work:
                    worker.ask_to_stop()
    statuses = {chapter.status for chapter in run.chapters}
    run.status = next((bad for bad in ("interrupted", "failed") if bad in statuses), "passed")
    if stopped and waiting:
        run.status = "interrupted"
    run.seconds += time.monotonic() - began
    run.save()
    release(run.folder)


class _Worker:
    """One chapter at work: the threads that execute it, each with the kernel that it runs in; often there is one."""

    # One kernel starts at a time, so that the process that appears meanwhile is known to be that kernel.
    starting = threading.Lock()

    def __init__(self, run: Run, chapter: Chapter) -> None:
        self.run, self.chapter = run, chapter
        chapter.status = "running"
        run.save()
        # Remove the numbers of an earlier attempt, which must not be taken for those of this one.
        (run.folder / chapter.name / "metrics.json").unlink(missing_ok=True)
        self.began = time.monotonic()
        self.outcome = {"status": "passed", "reason": ""}
        self.stop, self.finished = threading.Event(), threading.Event()
        self.kernels: list[psutil.Process] = []
        self.due: list[tuple[float, int]] = []  # when to send which signal to the kernel
        self.at_work = run.processes
        self.counting = threading.Lock()
        self.folders = tempfile.TemporaryDirectory()  # what the other processes write; only the first's is kept
        port = _free_port() if run.processes > 1 else 0
        for rank in range(run.processes):
            threading.Thread(target=_execute_notebook, args=(self, rank, port), daemon=True).start()

    def out_dir(self, rank: int) -> Path:
        """Name the folder into which the chapter of this process writes."""
        return self.run.folder / self.chapter.name if rank == 0 else Path(self.folders.name) / str(rank)

    def fails(self, reason: str, cell: int) -> bool:
        """Record a failure, and stop the other processes, which would wait for this one; tell if it is the first."""
        with self.counting:
            first = self.outcome["status"] == "passed"
            if first:
                self.outcome.update(status="failed", reason=reason)
                self.chapter.cell = cell
                if self.run.processes > 1:
                    self.due = [(time.monotonic(), signal.SIGKILL)]
            return first

    def leaves(self) -> None:
        """Note that one of the threads is done."""
        with self.counting:
            self.at_work -= 1
            if not self.at_work:
                self.folders.cleanup()
                self.finished.set()

    def look(self) -> None:
        """Note time and memory, and send the signal that is due."""
        now = time.monotonic()
        self.chapter.seconds = now - self.began
        self.measure_memory()
        if self.due and now >= self.due[0][0]:
            number = self.due.pop(0)[1]
            for kernel in self.kernels:
                with suppress(psutil.Error):  # it has just ended
                    kernel.send_signal(number)

    def measure_memory(self) -> None:
        memory = sum(map(_resident_memory, self.kernels))
        self.chapter.peak_memory = max(self.chapter.peak_memory, memory)

    def ask_to_stop(self) -> None:
        """Ask the kernel first: the cell raises KeyboardInterrupt, and its outputs are kept. Ask once more, in case the
        kernel was between two cells. Then, or when called again, kill it."""
        now = time.monotonic()
        asked = [(now, signal.SIGINT), (now + PATIENCE, signal.SIGINT), (now + 2 * PATIENCE, signal.SIGKILL)]
        self.due = [(now, signal.SIGKILL)] if self.stop.is_set() else asked
        self.stop.set()

    def conclude(self) -> None:
        """Record the outcome of the chapter."""
        self.chapter.seconds = time.monotonic() - self.began
        self.chapter.status, self.chapter.reason = self.outcome["status"], self.outcome["reason"]
        if self.stop.is_set() and self.chapter.status != "passed":
            self.chapter.status, self.chapter.reason = "interrupted", "stopped by Ctrl-C or the system"


@contextmanager
def _home_for_kernels() -> Iterator[None]:
    """While it lasts, kernels write into a temporary folder, if the home cannot be written, as in a container."""
    lent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            tempfile.TemporaryFile(dir=Path.home()).close()
        except OSError:
            lent = {name: folder for name in KERNEL_FOLDERS if name not in os.environ}
        os.environ.update(lent)
        try:
            yield
        finally:
            for name in lent:
                del os.environ[name]


@contextmanager
def _threads_shared_out(jobs: int) -> Iterator[None]:
    """Start kernels with an equal share of the cores inside the block, unless the caller has chosen a number."""
    name = "OMP_NUM_THREADS"
    if jobs < 2 or name in os.environ:
        yield
        return
    os.environ[name] = str(max(count_cores() // jobs, 1))
    try:
        yield
    finally:
        del os.environ[name]


def find_gpus(processes: int, device: str) -> list[str]:
    """List a GPU for each of several processes, as CUDA_VISIBLE_DEVICES names it; on a CPU the list is empty.

    Raises ValueError if there are fewer, or if the device is one GPU by its number.
    """
    import torch

    from lib.chapter import pick_device

    chosen = pick_device(device)
    if chosen.type == "cpu":
        return []
    if chosen.index is not None:
        raise ValueError(f"device={device!r} is one GPU, and {processes=} need one each; use --device cuda")
    here = torch.cuda.device_count()
    if here < processes:
        raise ValueError(f"{processes=} need a GPU each, and there are {here}; use fewer, or --device cpu")
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(here)))).split(",")[:processes]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def _known_to_each_other(rank: int, run: Run, port: int) -> Iterator[None]:
    """Give the kernel that starts meanwhile its number among the processes of its chapter, as launchers do."""
    if run.processes == 1:
        yield
        return
    mine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": run.processes, "LOCAL_WORLD_SIZE": run.processes}
    mine |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if gpus := find_gpus(run.processes, run.device):
        mine["CUDA_VISIBLE_DEVICES"] = gpus[rank]
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update({name: str(value) for name, value in mine.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _execute_notebook(worker: _Worker, rank: int, port: int) -> None:
    """Run papermill in one of the worker's threads, watch it through nbclient's hooks, and fill in the outcome.

    Papermill would write the notebook in place after each cell. Here it is written completely or not at all.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    run, chapter = worker.run, worker.chapter
    running: dict = {}
    before: set[int] = set()
    starting = ExitStack()  # holds until the kernel runs

    def notebook_starts(notebook) -> None:
        worker.kernels += [child for child in psutil.Process().children() if child.pid not in before]
        cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
        running.update(notebook=notebook, number={index: number for number, index in enumerate(cells, start=1)})
        starting.close()
        chapter.cells = len(cells)
        worker.measure_memory()  # a short chapter may end before anybody looks

    def cell_starts(cell, cell_index) -> None:
        if worker.stop.is_set():
            raise InterruptedError
        running["cell"] = running["number"].get(cell_index, running.get("cell", 0))
        if rank == 0:
            chapter.cell = running["cell"]

    def save(**_) -> None:
        write_atomically(run.notebook(chapter), nbformat.writes(running["notebook"]) + "\n")

    try:
        starting.enter_context(worker.starting)
        starting.enter_context(_known_to_each_other(rank, run, port))
        before.update(child.pid for child in psutil.Process().children())
        papermill.execute_notebook(
            notebooks.NOTEBOOKS / f"{chapter.name}.ipynb",
            None,
            parameters={
                "profile": run.profile,
                "seed": run.seed,
                "device": run.device,
                "out_dir": str(worker.out_dir(rank)),
                "overrides": chapter.overrides,
            },
            progress_bar=False,
            extra_arguments=[QUIET_KERNEL],
            on_notebook_start=notebook_starts,
            on_cell_start=cell_starts,
            on_cell_executed=save if rank == 0 else lambda **_: None,
        )
        if rank == 0:
            save()
    except Exception as error:
        if isinstance(error, PapermillExecutionError):
            reason = f"{error.ename}: {error.evalue or _failing_line(error.traceback)}"
        elif isinstance(error, DeadKernelError):
            reason = f"the kernel died, having used {format_memory(chapter.peak_memory)}; was there enough memory?"
        else:
            reason = f"{type(error).__name__}: {error}"
        first = worker.fails(reason.strip().splitlines()[0], running.get("cell", chapter.cell))
        with suppress(OSError):  # if this fails, the disk was the cause
            if first and "notebook" in running:
                save()
    finally:
        starting.close()
        worker.leaves()


def _failing_line(traceback: list[str]) -> str:
    """Find the line that the traceback points at, for errors without a message."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback))
    pointed = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    return pointed[1].strip() if pointed else ""


def _resident_memory(kernel: psutil.Process) -> int:
    """Bytes of a kernel and its children."""
    try:
        return sum(process.memory_info().rss for process in [kernel, *kernel.children(recursive=True)])
    except psutil.Error:  # one of them has just ended
        return 0
