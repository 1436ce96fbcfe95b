"""The `course` command."""

from __future__ import annotations

import ast
import importlib.util
import os
import pkgutil
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from lib.course import machine, notebooks, runs
from lib.files import claim

if TYPE_CHECKING:
    from lib.course import sweeps

OPTIONAL = [
    ("pytorch3d", "second renderer", "conda env create -f environment.yml, or build it (README.md)"),
    ("snakemake", "sweeps with several runs at a time, clusters", "pip install -e '.[cluster]'"),
    ("tensorboard", "curves of a training, live: tensorboard --logdir runs", "pip install -e '.[logs]'"),
    ("nbval", "tests of the notebooks", "pip install -e '.[test]'"),
    ("robust_laplacian", "oracle of tests", "pip install -e '.[test]'"),
    ("potpourri3d", "oracle of tests", "pip install -e '.[test]'"),
    ("ot", "oracle of tests", "pip install -e '.[test]'"),
]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(soft_wrap=True, highlight=False)

COLORS = {"passed": "green", "failed": "red", "interrupted": "yellow", "running": "yellow", "waiting": "dim"}


def main() -> None:
    """Run the command; answer a user's mistake in one line."""
    # For the chapters' kernels, as in the Makefile: PyTorch's threads spin for microseconds before they sleep.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        app()
    except (ValueError, OSError) as error:
        # Errors from lib.files are full sentences: drop the number before them.
        sentence = getattr(error, "strerror", None) if getattr(error, "filename", None) is None else None
        console.print(f"[red]error:[/] {escape(sentence or str(error))}")
        sys.exit(2)


@app.callback()
def course() -> None:
    """A course in 3D deep learning: run its chapters, see what came out, check this machine."""


@app.command("list")
def list_chapters() -> None:
    """List the chapters, and the settings that --set can change."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("chapter", "title", "settings (quick)"):
        table.add_column(column, overflow="fold")
    for path in notebooks.all_chapters():
        quick = notebooks.chapter_settings(path).get("quick", {})
        settings = " ".join(f"{name}={value}" for name, value in quick.items())
        table.add_row(path.stem, escape(notebooks.chapter_title(path)), f"[dim]{escape(settings)}[/]")
    console.print(table)


@app.command("run")
def run_chapters(
    chapters: Annotated[list[str] | None, typer.Argument(help="Such as 04 or 04_rendering; all if none.")] = None,
    profile: Annotated[
        str, typer.Option(help="quick (minutes on a laptop), long (an hour), full (the paper's scale).")
    ] = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one of a chapter's settings.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of every random number.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Chapters at a time. [default: 2 for the quick profile on a CPU, else 1]"),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that train each chapter together; on CUDA each needs a GPU.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Where the results go; a run begun there is continued. [default: runs/<time>]")
    ] = None,
) -> None:
    """Execute chapters headless; leave notebooks, metrics and one report."""
    paths = notebooks.find_chapters(chapters or [])
    if not paths:
        raise ValueError(
            f"there are no chapters under {notebooks.NOTEBOOKS}; install the course with `pip install -e .`"
        )
    if device != "auto":
        from lib.chapter import pick_device

        pick_device(device)
    overrides = dict(map(parse_setting, settings or []))
    jobs = jobs or (default_jobs(profile, device) if processes == 1 else 1)
    choices = {"profile": profile, "seed": seed, "device": device, "overrides": overrides, "processes": processes}
    run = runs.new_run(paths, **choices, jobs=jobs, out=out)
    # A scheduler's time limit ends the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = _short(run.folder)
    waiting = [chapter for chapter in run.chapters if chapter.status == "waiting"]
    console.print(f"{len(waiting)} of {len(paths)} chapters, profile {profile}, into {folder}")
    for chapter in run.chapters:
        if chapter.status == "passed":
            console.print(f"{describe(run, chapter)} [dim]kept from before[/]")
    with Progress(run) as progress:
        runs.execute(run, progress)
    show_run(run)
    sys.exit({"passed": 0, "interrupted": 130}.get(run.status, 1))


@app.command("sweep")
def run_sweep(
    file: Annotated[
        Path, typer.Argument(help="Chapters, seeds, profiles and settings, as YAML: see lib/course/sweeps.py.")
    ],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; more than one needs Snakemake.")] = 1,
    cluster: Annotated[Path | None, typer.Option(help="Folder of a Snakemake profile, such as one for SLURM.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Run nothing: write the table of what is there.")] = False,
    name: Annotated[str, typer.Option("--run", hidden=True)] = "",
) -> None:
    """Execute many runs from one file; leave one table of them all. What was stopped goes on."""
    from lib.course import sweeps

    sweep = sweeps.read(file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if name:  # one job of Snakemake's
        member = next((member for member in sweep.members if member.name == name), None)
        if member is None:
            raise ValueError(f"{file} has no run {name!r}")
        sys.exit(0 if _execute_member(member) else 1)
    if not table:
        waiting = sweep.waiting()
        console.print(f"{len(waiting)} of {len(sweep.members)} runs, into {_short(sweep.folder)}")
        claim(sweep.folder / ".sweep.lock", "wait until it is done")
        try:
            if jobs > 1 or cluster is not None:
                sweeps.run_with_snakemake(sweep, jobs, cluster)
            else:
                for member in waiting:
                    console.print(member.name)
                    _execute_member(member)
        except KeyboardInterrupt:
            console.print("[yellow]interrupted[/]; the same command continues")
    page = sweeps.write_tables(sweep)
    left = len(sweep.waiting())
    console.print(f"{len(sweep.members) - left} of {len(sweep.members)} runs are done; table: {_short(page)}")
    sys.exit(1 if left else 0)


def _execute_member(member: sweeps.Member) -> bool:
    """Execute one run of a sweep; tell whether it is done. Raises KeyboardInterrupt if it was stopped."""
    run = member.begin()
    with Progress(run) as progress:
        runs.execute(run, progress)
    show_run(run)
    if run.status == "interrupted":
        raise KeyboardInterrupt
    return member.is_done()


@app.command("predict")
def predict_picture(
    chapter: Annotated[str, typer.Argument(help="Such as 08: a chapter whose weights lie in data/weights.")],
    image: Annotated[Path, typer.Option(help="A picture; its middle square is taken.")],
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("."),
) -> None:
    """Reconstruct a picture of yours with the weights that ship: a mesh (GLB) and a turntable (animated PNG)."""
    from lib import prediction

    files, line = prediction.predict(chapter, image, out)
    for path in files:
        console.print(_short(path))
    console.print(line)
    sys.exit(0)


@app.command("keep")
def keep_results(run: Annotated[Path, typer.Argument(help="A run's folder, of which every chapter passed.")]) -> None:
    """Read a run's numbers into the records of measured results, data/results, which chapter 18 shows."""
    from lib.course import measured

    for path in measured.keep(run.absolute()):
        console.print(_short(path))


@app.command()
def report(run: Annotated[Path | None, typer.Argument(help="A run's folder; the newest if none.")] = None) -> None:
    """Show a run's results and write its report.html anew."""
    found = runs.Run.load((run or runs.latest_run()).absolute())
    for chapter in found.chapters:
        console.print(describe(found, chapter))
    show_run(found)


@app.command()
def doctor() -> None:
    """Show versions, devices, optional parts and data sets: what is here, and how to get what is missing."""
    import torch

    from lib.chapter import pick_device

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    versions = machine.versions()
    for name, value in (machine.hardware() | versions).items():
        table.add_row(name, value)
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        device = pick_device()
    table.add_row("device", f"{device}" + (f" ({torch.cuda.get_device_name()})" if device.type == "cuda" else ""))
    for reason in reasons:
        table.add_row("", str(reason.message))
    console.print(table)
    for other in machine.other_libs():
        console.print(
            f"[yellow]![/] {escape(str(other))} is found as `lib` too, and may be imported in the course's place: "
            "start the course from another folder, take this one out of PYTHONPATH, or rename it"
        )
    for title, rows in {"Optional parts": _optional_parts(), "Data sets": _data_sets()}.items():
        console.print(f"\n[bold]{title}[/]")
        table = Table(box=None, pad_edge=False, show_header=False)
        for style in ("", "", "dim"):
            table.add_column(style=style, overflow="fold")
        for present, name, remedy in rows:
            table.add_row("[green]✓[/]" if present else "[dim]–[/]", name, "" if present else remedy)
        console.print(table)
    if device.type == "cpu":
        console.print("\nThe quick profile is made for this machine; the full profile wants a GPU.")


@app.command()
def store(chapters: Annotated[list[str], typer.Argument(help="Such as 04.")]) -> None:
    """For maintainers: execute notebooks in place, in the form they are committed in."""
    from nbclient.exceptions import CellExecutionError

    for path in notebooks.find_chapters(chapters):
        try:
            seconds = notebooks.store(path)
        except CellExecutionError as error:
            raise ValueError(f"{path.name} is left as it was: {error.ename}: {error.evalue}") from None
        console.print(f"{path.name}: {machine.format_seconds(seconds)}, {machine.format_memory(path.stat().st_size)}")


@app.command("exercises")
def make_exercises(
    chapters: Annotated[list[str] | None, typer.Argument(help="Such as 04; all if none.")] = None,
    grading: Annotated[
        Path | None, typer.Option(help="A folder of nbgrader: write assignments there, and nothing else.")
    ] = None,
) -> None:
    """For authors: execute the worked solutions, and cut the students' notebooks from them."""
    from nbclient.exceptions import CellExecutionError

    from lib.course import exercises

    for path in exercises.find_solutions(chapters) if grading else ():
        console.print(_short(exercises.write_for_grading(path, grading)))
    if grading:
        return
    for path in exercises.find_solutions(chapters):
        for make, what in ((exercises.store, path), (exercises.generate, exercises.student_path(path))):
            try:
                seconds = make(path)
            except CellExecutionError as error:
                raise ValueError(f"{what.parent.name}/{what.name}: {error.ename}: {error.evalue}") from None
            size = machine.format_memory(what.stat().st_size)
            console.print(f"{what.parent.name}/{what.name}: {machine.format_seconds(seconds)}, {size}")


@app.command("site")
def make_site() -> None:
    """Make the website of the course from the stored notebooks: build/site/html."""
    from lib.course import site

    console.print(f"website: {_short(site.build())}")


@app.command("lint")
def lint_chapters(
    chapters: Annotated[list[str] | None, typer.Argument(help="Such as 04; all if none.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Lower the allowed counts to the present ones.")] = False,
) -> None:
    """For authors: count what makes a chapter hard to read, and say where; the tests let the counts only fall."""
    from lib.course import lint

    limits = lint.read_limits()
    paths = notebooks.find_chapters(chapters or [])
    rising = False
    for path in paths:
        name, findings = path.stem, lint.lint_chapter(path)
        console.print(f"[bold]{name}[/]")
        for rule, finding in findings.items():
            limit = limits.get(name, {}).get(rule, finding.count)
            rising = rising or finding.count > limit
            allowed = f" [red]({limit} allowed)[/]" if finding.count > limit else ""
            console.print(f"{finding.count:5} {lint.RULES[rule]}{allowed}")
            # Show the places only for chapters that were named: an author is working on them.
            for place in finding.places if chapters or finding.count > limit else []:
                console.print(f"[dim]{escape(lint.describe(place))}[/]")
        if update:
            limits[name] = lint.lower(findings, limits.get(name))
    if update:
        lint.write_limits({name: limits[name] for name in limits if name in {p.stem for p in notebooks.all_chapters()}})
        console.print(f"written to {_short(lint.LIMITS)}")
    sys.exit(1 if rising else 0)


def default_jobs(profile: str, device: str) -> int:
    """Choose the number of chapters to execute at a time.

    It is two for the quick profile on a CPU with two cores or more: two chapters with one thread each use the cores
    better than one chapter with two threads. On a GPU, and in a training of hours, chapters run one by one.
    """
    if profile != "quick" or machine.count_cores() < 2:
        return 1
    if device == "auto":
        from lib.chapter import pick_device

        device = str(pick_device())
    return 2 if device == "cpu" else 1


def parse_setting(text: str) -> tuple[str, object]:
    """Parse "steps=100" to ("steps", 100): the value is a Python literal, true or false, or otherwise a string.

    Raises ValueError if there is no name or no "=".
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value.title() if value in ("true", "false") else value)
    except (ValueError, SyntaxError):
        return name, value


def show_run(run: runs.Run) -> None:
    """Print the failures of a run, and write its report."""
    from lib.course.report import write_report

    for chapter in run.chapters:
        if chapter.reason:
            where = f"{chapter.name}, cell {chapter.cell} of {chapter.cells}"
            console.print(f"[{COLORS[chapter.status]}]{chapter.status}[/] {where}: {escape(chapter.reason)}")
    report = write_report(run)
    total = machine.format_seconds(run.seconds)
    console.print(f"[{COLORS[run.status]}]{run.status}[/] in {total}; report: {_short(report)}")
    if run.status == "interrupted":
        console.print(f"the same command with --out {_short(run.folder)} continues")


def describe(run: runs.Run, chapter: runs.Chapter) -> str:
    """Describe a finished chapter in one line."""
    from lib.course.report import MARKS, count_inside, over_budget

    took = machine.format_seconds(chapter.seconds) if chapter.seconds else ""
    memory = machine.format_memory(chapter.peak_memory) if chapter.peak_memory else ""
    inside = count_inside(run.metrics(chapter))
    remarks = [f"{inside} in band"] if inside else []
    if over_budget(run, chapter):
        remarks.append(f"[yellow]{over_budget(run, chapter)}[/]")
    mark = f"[{COLORS[chapter.status]}]{MARKS[chapter.status]}[/]"
    return f"{mark} {chapter.name:<24} {took:>8} {memory:>9}  {', '.join(remarks)}".rstrip()


class Progress:
    """Display of a run: one moving line on a terminal, plain lines elsewhere (a log, a pipe)."""

    # Plain lines stay on the screen, so one every few seconds is enough, and one a minute within a long cell.
    CALM, HEARTBEAT = 5.0, 60.0

    def __init__(self, run: runs.Run) -> None:
        self.run = run
        self.live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self.spinner = Spinner("dots")
        self.running: dict[str, runs.Chapter] = {}
        self.printed: dict[str, tuple[int, float]] = {}  # cell and seconds of each chapter's last plain line

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, chapter: runs.Chapter) -> None:
        if chapter.status == "running":
            self.running[chapter.name] = chapter
        else:
            self.running.pop(chapter.name, None)
            console.print(describe(self.run, chapter))
        if self.live:
            self.live.update(self._lines())
        elif chapter.status == "running":
            self._print_now_and_then(chapter)

    def _lines(self) -> Table:
        lines = Table.grid(padding=(0, 1))
        for chapter in self.running.values():
            bar = ProgressBar(chapter.cells or 1, max(chapter.cell - 1, 0), width=24)
            lines.add_row(self.spinner, f"{chapter.name:<24} {self._elapsed(chapter):>8}", bar, self._place(chapter))
        return lines

    def _print_now_and_then(self, chapter: runs.Chapter) -> None:
        cell, seconds = self.printed.get(chapter.name, (-1, -self.HEARTBEAT))
        wait = self.CALM if cell != chapter.cell else self.HEARTBEAT
        if chapter.seconds - seconds >= wait:
            console.print(f"  {chapter.name:<24} {self._elapsed(chapter):>8}  {self._place(chapter)}")
            self.printed[chapter.name] = (chapter.cell, chapter.seconds)

    @staticmethod
    def _elapsed(chapter: runs.Chapter) -> str:
        return machine.format_seconds(chapter.seconds)

    @staticmethod
    def _place(chapter: runs.Chapter) -> str:
        return f"cell {chapter.cell}/{chapter.cells}" if chapter.cell else "starting"


def _short(path: Path) -> str:
    """Shorten a path to what a person would type in the present folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _optional_parts() -> list[tuple[bool, str, str]]:
    return [
        (importlib.util.find_spec(module) is not None, f"{module}: {purpose}", remedy)
        for module, purpose, remedy in OPTIONAL
    ]


def _data_sets() -> list[tuple[bool, str, str]]:
    """List the data sets that loaders in lib.datasets need; a data set's folder is named like the loader's module."""
    from lib import datasets

    rows = []
    for name in sorted(module.name for module in pkgutil.iter_modules(datasets.__path__)):
        needed = getattr(importlib.import_module(f"lib.datasets.{name}"), "NEEDED", None)
        folder = notebooks.ROOT / "data" / name
        if needed:
            rows.append((folder.is_dir() and any(folder.iterdir()), f"data/{name}", f"optional; {needed}"))
    return rows
