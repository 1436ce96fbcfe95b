"""The notebooks of the course: their list, titles and settings, and how to store them."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from lib.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"

# Keep the kernel's log off the terminal.
QUIET_KERNEL = "--IPKernelApp.log_level=50"

# The metadata of a cell that are committed: tags, whether its code is folded, and the entries of graded exercises.
KEPT_METADATA = ["tags", "jupyter", "nbgrader"]


def all_chapters() -> list[Path]:
    """List the notebooks of the course, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb"))


def number_of(path: Path) -> str:
    """The number of a chapter as its title has it: "6" of 06_handles, "6b" of its second part."""
    return path.stem.split("_")[0].lstrip("0")


def find_chapters(names: list[str]) -> list[Path]:
    """Find the notebooks of the chapters named "4", "04", "6b" or "04_rendering", in order; by default all.

    Raises ValueError for a name that fits no chapter.
    """
    chapters = all_chapters()
    chosen = set()
    for name in names:
        wanted = Path(name).name.removesuffix(".ipynb")
        fitting = [path for path in chapters if path.stem == wanted or number_of(path) == wanted.lstrip("0")]
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
    """Read a chapter's settings by profile, from its call of `choose_settings`, without running the chapter.

    Each profile has all settings: those that it does not state are the first profile's. A value that depends on other
    code of the chapter is None here.
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
    """Divide overrides among the chapters that know them; check them now, not after an hour of another chapter.

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


def digest_of(path: Path) -> str:
    """Hash of a chapter's notebook and of `lib`; unchanged means the same result."""
    digest = hashlib.sha256(path.read_bytes())
    for source in sorted((ROOT / "lib").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def store(path: Path) -> float:
    """Execute a notebook in place for committing; return the seconds that it took.

    The stored file depends on nothing but the cells: it has no timings, no widget state, no machine's metadata. The
    cells are formatted as `make test` asks. If a cell fails, the file is left as it was.

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
