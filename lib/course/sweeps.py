"""Many runs from one file: chapters × profiles × settings × seeds, and one table of what came out.

    chapters: [5, 8]
    seeds: [0, 1, 2]
    profiles: [quick]                       # may be left out, as all that follows
    settings:                               # variants by name; a variant is for the chapters that have its settings
      chapter: {}
      few_pictures: {train_images: 64}
    device: auto
    processes: 1
    out: ../runs/pictures                   # from this file's folder; by default runs/<name of this file>

Every run is a folder as `course run` leaves it: <out>/<chapter>/<profile>/<variant>/seed_<seed>. So whatever is killed
goes on from its checkpoint, and what is done is kept. Beside the runs lie `sweep.csv` and `sweep.html`.
"""

from __future__ import annotations

import csv
import html
import importlib.util
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lib.course import notebooks, runs
from lib.course.machine import format_memory, format_seconds
from lib.display import format_band, format_number
from lib.files import write_atomically

SNAKEFILE = Path(__file__).with_name("sweep.smk")
COURSE = [str(Path(sys.executable).with_name("course"))]
COLUMNS = "chapter profile settings seed status minutes metric value unit low high inside".split()
DEFAULTS = {"profiles": ["quick"], "settings": {"chapter": {}}, "device": "auto", "processes": 1, "out": ""}


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    folder: Path
    chapter: Path
    profile: str
    variant: str
    seed: int
    overrides: dict
    device: str
    processes: int

    @property
    def name(self) -> str:
        """Name the run by its place in the sweep, such as 05_category_meshes/quick/chapter/seed_0."""
        return f"{self.chapter.stem}/{self.profile}/{self.variant}/seed_{self.seed}"

    @property
    def out(self) -> Path:
        return self.folder / self.name

    @property
    def choices(self) -> dict:
        names = ("profile", "seed", "device", "overrides", "processes")
        return {name: getattr(self, name) for name in names}

    def begin(self) -> runs.Run:
        """Begin or continue the run. Raises ValueError if its folder holds one with other settings."""
        return runs.new_run([self.chapter], **self.choices, out=self.out)

    def found(self) -> runs.Run | None:
        """Read what there is of the run."""
        try:
            return runs.Run.load(self.out)
        except ValueError:
            return None

    def is_done(self) -> bool:
        """Tell whether the chapter, as it is now, was executed to its end, or to a number outside its band.

        Raises ValueError if the folder holds a run with other settings.
        """
        run = self.found()
        if run is None:
            return False
        run.refuse_others(self.choices)
        chapter = run.chapters[0]
        outside = any(entry["inside"] is False for entry in run.metrics(chapter).values())
        ended = chapter.status == "passed" or (chapter.status == "failed" and outside)
        return ended and chapter.digest == notebooks.digest_of(self.chapter)


@dataclass(frozen=True)
class Sweep:
    """All runs that a file asks for, and the folder that they lie in."""

    file: Path
    folder: Path
    members: list[Member]

    def waiting(self) -> list[Member]:
        return [member for member in self.members if not member.is_done()]


def read(path: Path) -> Sweep:
    """Read a sweep's file, and check all of it before anything runs.

    Raises ValueError, in one line, for a file that is missing or no such table, an entry or a value that is not known,
    and a variant that fits no chapter.
    """
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as YAML ({reason})") from None
    if not isinstance(entries, dict) or not {"chapters", "seeds"} <= entries.keys():
        raise ValueError(f"{path} must name chapters and seeds, such as chapters: [5] and seeds: [0, 1, 2]")
    if strangers := ", ".join(map(str, entries.keys() - DEFAULTS.keys() - {"chapters", "seeds"})):
        raise ValueError(f"{path} has {strangers}, which no sweep has; use chapters, seeds, {', '.join(DEFAULTS)}")
    entries = DEFAULTS | entries
    for name in ("chapters", "seeds", "profiles"):
        if not isinstance(entries[name], list) or not entries[name]:
            raise ValueError(f"{path}: {name} must be a list with something in it, got {entries[name]!r}")
    for name, least in (("seeds", 0), ("processes", 1)):
        for value in entries[name] if name == "seeds" else [entries[name]]:
            if type(value) is not int or value < least:
                raise ValueError(f"{path}: {name} must be whole numbers from {least} on, got {value!r}")
    variants = entries["settings"]
    if (
        not isinstance(variants, dict)
        or not all(isinstance(values, dict) for values in variants.values())
        or not variants
    ):
        raise ValueError(f"{path}: settings must be variants by name, such as few: {{steps: 10}}, got {variants!r}")
    folder = (path.parent / entries["out"] if entries["out"] else runs.RUNS / path.stem).absolute()
    chapters = notebooks.find_chapters([str(chapter) for chapter in entries["chapters"]])
    members = []
    for variant, overrides in variants.items():
        if not re.fullmatch(r"[\w.-]+", str(variant)):
            raise ValueError(f"{path}: {variant!r} names a folder; use letters, digits, '-', '_' and '.'")
        fitting = [chapter for chapter in chapters if _knows(chapter, overrides)]
        # A variant that fits none of the chapters is a mistake of the writer, and the message names their settings.
        for profile in entries["profiles"]:
            notebooks.split_overrides(fitting or chapters, profile, overrides)
        if not fitting:
            raise ValueError(f"{path}: no chapter has all settings of {variant!r}; make a variant for each chapter")
        members += [
            Member(
                folder, chapter, profile, str(variant), seed, overrides, str(entries["device"]), entries["processes"]
            )
            for chapter in fitting
            for profile in entries["profiles"]
            for seed in dict.fromkeys(entries["seeds"])
        ]
    return Sweep(path.absolute(), folder, sorted(members, key=lambda member: (member.chapter.stem, member.profile)))


def _knows(chapter: Path, overrides: dict) -> bool:
    return all(overrides.keys() <= settings.keys() for settings in notebooks.chapter_settings(chapter).values())


def run_with_snakemake(sweep: Sweep, jobs: int, cluster: Path | None = None) -> None:
    """Execute the waiting runs, `jobs` at a time on this machine, or on a cluster.

    cluster: a folder with the config.yaml of a Snakemake profile, which names the executor.

    Raises ValueError if Snakemake is not installed, or the folder holds no profile.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise ValueError("several jobs at a time, and clusters, need Snakemake: pip install -e '.[cluster]'")
    if cluster is not None and not (cluster / "config.yaml").is_file():
        raise ValueError(f"{cluster} holds no config.yaml; give the folder of a Snakemake profile")
    waiting = {member.name for member in sweep.waiting()}
    for member in sweep.members:  # the marks say what is done; Snakemake does the rest
        mark = sweep.folder / "done" / member.name
        if member.name in waiting:
            mark.unlink(missing_ok=True)
        else:
            write_atomically(mark, "")
    plan = {"course": COURSE, "file": str(sweep.file), "names": sorted(waiting)}
    write_atomically(sweep.folder / "sweep.json", json.dumps(plan))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(sweep.folder)]
    command += ["--configfile", str(sweep.folder / "sweep.json"), "--keep-going", "--rerun-incomplete", "--nolock"]
    command += ["--profile", str(cluster.absolute()), "--jobs", str(jobs)] if cluster else ["--cores", str(jobs)]
    with subprocess.Popen(command) as process:
        try:
            process.wait()
        except BaseException:  # Ctrl-C, or a scheduler's signal: Snakemake stops its jobs
            process.terminate()
            process.wait()
            raise


def table(sweep: Sweep) -> list[dict]:
    """List every number of every run, a row for each, with the keys `COLUMNS`; a run without numbers has one row."""
    rows = []
    for member in sweep.members:
        run = member.found()
        chapter = run.chapters[0] if run else None
        about = [member.chapter.stem, member.profile, member.variant, member.seed]
        about += [chapter.status, round(chapter.seconds / 60, 2)] if chapter else ["waiting", ""]
        metrics = run.metrics(chapter) if chapter else {}
        for name, entry in metrics.items():
            numbers = [entry[column] for column in COLUMNS[7:]]
            rows.append(dict(zip(COLUMNS, [*about, name, *numbers], strict=True)))
        if not metrics:
            rows.append(dict(zip(COLUMNS, [*about, *[""] * 6], strict=True)))
    return rows


def write_tables(sweep: Sweep) -> Path:
    """Write `sweep.csv` and `sweep.html` into the sweep's folder; return the path of the page."""
    rows = table(sweep)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_atomically(sweep.folder / "sweep.csv", text.getvalue())
    path = sweep.folder / "sweep.html"
    write_atomically(path, _page(sweep, rows))
    return path


def _page(sweep: Sweep, rows: list[dict]) -> str:
    from lib.course.report import STYLE

    done = sum(member.is_done() for member in sweep.members)
    parts = [f"<h1>{html.escape(sweep.file.name)}</h1>", f"<p class=soft>{done} of {len(sweep.members)} runs</p>"]
    for (chapter, profile), group in groupby(rows, lambda row: (row["chapter"], row["profile"])):
        parts.append(f"<h2>{chapter}, {profile}</h2>{_ranges(list(group))}")
    lines = []
    for member in sweep.members:
        run = member.found()
        chapter = run.chapters[0] if run else runs.Chapter(member.chapter.stem)
        took = format_seconds(chapter.seconds) if chapter.seconds else ""
        memory = format_memory(chapter.peak_memory) if chapter.peak_memory else ""
        lines.append(
            f'<tr><td class="{chapter.status}">{chapter.status}</td><td>{html.escape(member.name)}</td>'
            f'<td class="number">{took}</td><td class="number">{memory}</td><td>{html.escape(chapter.reason)}</td></tr>'
        )
    heads = (
        '<tr><th>result</th><th>run</th><th class="number">time</th><th class="number">peak memory</th><th></th></tr>'
    )
    parts.append(f"<h2>All runs</h2><table>{heads}{''.join(lines)}</table>")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(sweep.file.name)}</title><style>{STYLE}</style></head><body>
{"".join(parts)}
</body></html>
"""


def _ranges(rows: list[dict]) -> str:
    """Tabulate each metric of a chapter: smallest … largest value over the seeds, a column for each variant."""
    rows = [row for row in rows if row["metric"]]
    variants = list(dict.fromkeys(row["settings"] for row in rows))
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        cells = []
        for variant in variants:
            values = [row["value"] for row in own if row["settings"] == variant]
            outside = any(row["inside"] is False for row in own if row["settings"] == variant)
            ends = dict.fromkeys(format_number(value) for value in (min(values), max(values))) if values else {}
            count = f' <span class="soft">({len(values)})</span>' if values else ""
            cells.append(f'<td class="number{" outside" * outside}">{" … ".join(ends)}{count}</td>')
        bands = dict.fromkeys(format_band(row["low"], row["high"]) for row in own)
        band = next(iter(bands)) if len(bands) == 1 else ""
        unit = html.escape(own[0]["unit"])
        lines.append(f"<tr><td>{html.escape(metric)}</td><td>{unit}</td><td>{band}</td>{''.join(cells)}</tr>")
    heads = "".join(f'<th class="number">{html.escape(variant)}</th>' for variant in variants)
    if not lines:
        return "<p class=soft>no numbers yet</p>"
    note = "Smallest … largest value over the seeds, and how many they are. Bands are those of the quick profile."
    heads = f"<tr><th>metric</th><th>unit</th><th>band</th>{heads}</tr>"
    return f"<p class=soft>{note}</p><table>{heads}{''.join(lines)}</table>"
