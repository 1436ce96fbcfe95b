"""pyproject.toml, constraints.txt and environment.yml say the same, and what the code imports is in them."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lib import FLOORS
from lib.course import notebooks

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Installed to be run, not imported.
TOOLS = {"ipykernel", "jupyterlab", "nbval", "pytest-benchmark", "pytest-xdist", "ruff"}
# In environment.yml only: no wheel on PyPI fits (see README.md).
CONDA_ONLY = {"pip", "python", "pytorch3d"}
# The user's own, for a method that says so where it is missing, or part of another extra than [test].
OPTIONAL = {"tensorboard", "torchvision"}
CONDA_NAMES = {"pytorch": "torch", "pytorch-cpu": "torch"}


def requirements(entries: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(entry).name): Requirement(entry) for entry in entries}


NEEDED = requirements(PROJECT["dependencies"])
FOR_LAB = requirements(PROJECT["optional-dependencies"]["lab"])
FOR_TESTS = requirements(PROJECT["optional-dependencies"]["test"])
FOR_SITE = requirements(PROJECT["optional-dependencies"]["site"])
FOR_GRADES = requirements(PROJECT["optional-dependencies"]["grade"])
PINNED = requirements(
    [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
)


def imports_of(source: str) -> set[str]:
    """The modules that a source imports, with their packages ("lib.geometry.mesh" and so on)."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
            modules.add(node.args[0].value)
    return modules


@cache
def sources(*folders: str) -> dict[str, str]:
    """Python sources by path; of a notebook, its code cells without IPython's own commands."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[str(path.relative_to(ROOT))] = path.read_text()
        for path in sorted((ROOT / folder).glob("*.ipynb")):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            found[str(path.relative_to(ROOT))] = re.sub(r"^[%!].*$", "", "\n".join(code), flags=re.MULTILINE)
    return found


def distributions(folders: dict[str, str]) -> set[str]:
    """The packages on PyPI that these sources import."""
    providers = importlib.metadata.packages_distributions()
    # Benchmarks and tests import what lies beside them.
    beside = {path.stem for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")}
    modules = {name.split(".")[0] for source in folders.values() for name in imports_of(source)}
    modules -= set(sys.stdlib_module_names) | {"lib"} | beside
    return {canonicalize_name(providers.get(name, [name])[0]) for name in modules}


def test_what_is_imported_is_declared():
    everything = sources("lib", "notebooks")
    in_kernels = {path: source for path, source in everything.items() if not path.startswith("lib/course/")}
    assert distributions(in_kernels) - set(NEEDED) - CONDA_ONLY - OPTIONAL == set()
    assert distributions(everything) - set(NEEDED) - set(FOR_LAB) - CONDA_ONLY - OPTIONAL == set()
    used_by_tests = distributions(sources("tests", "benchmarks")) - {"packaging"}  # a part of pytest's and pip's own
    assert used_by_tests - set(NEEDED) - set(FOR_LAB) - set(FOR_TESTS) - CONDA_ONLY - OPTIONAL == set()


def test_what_is_declared_is_used():
    used = distributions(sources("lib", "notebooks", "tests", "benchmarks"))
    assert (set(NEEDED) | set(FOR_LAB) | set(FOR_TESTS)) - used - TOOLS == set()


def test_conda_and_pip_install_the_same():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    names = [entry for entry in entries if isinstance(entry, str)] + [
        entry for entry in by_pip if not entry.startswith("-")
    ]
    conda = {canonicalize_name(CONDA_NAMES.get(entry.name, entry.name)): entry for entry in map(Requirement, names)}
    assert set(conda) - CONDA_ONLY == set(NEEDED | FOR_LAB | FOR_TESTS)
    for name, requirement in (NEEDED | FOR_LAB | FOR_TESTS).items():
        assert conda[name].specifier == requirement.specifier, name
    assert conda["python"].specifier == Requirement(f"python{PROJECT['requires-python']}").specifier


def test_binder_installs_what_a_notebook_and_jupyter_need():
    entries = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())["dependencies"]
    (by_pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    names = map(Requirement, [entry for entry in entries if isinstance(entry, str)] + by_pip)
    found = {canonicalize_name(CONDA_NAMES.get(entry.name, entry.name)) for entry in names}
    assert found - CONDA_ONLY == set(NEEDED | FOR_LAB)


def test_the_command_without_its_packages_names_the_remedy():
    code = "import sys; sys.modules['typer'] = None; from lib.course import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "the `course` command needs typer; install it with `pip install -e '.[lab]'`\n"


def test_constraints_pin_everything_that_is_installed():
    """Walk from the course to all that its packages need here."""
    reached, waiting = set(), [("course3d", ("lab", "site", "test"))]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in reached:
            continue
        reached.add((name, extras))
        for entry in map(Requirement, importlib.metadata.requires(name) or []):
            wanted = entry.marker is None or any(entry.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if wanted:
                waiting.append((canonicalize_name(entry.name), tuple(sorted(entry.extras))))
    installed = {name for name, _ in reached} - {"course3d"}
    cuda = {name for name in installed if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert installed - cuda - set(PINNED) == set()


def test_constraints_fit_the_declaration_and_any_machine():
    assert PINNED["torch"].specifier == Requirement("torch==2.13.0").specifier
    assert not [name for name in PINNED if name.startswith(("nvidia", "cuda", "triton"))]
    for name, pin in PINNED.items():
        (version,) = pin.specifier
        assert version.operator == "==" and pin.marker is None, name
        declared = (NEEDED | FOR_LAB | FOR_TESTS | FOR_SITE | FOR_GRADES).get(name)
        assert declared is None or declared.specifier.contains(Version(version.version)), name
    assert set(NEEDED) | set(FOR_LAB) | set(FOR_TESTS) | set(FOR_SITE) | set(FOR_GRADES) <= set(PINNED)


def test_every_room_has_a_floor():
    rooms = {Path(path).with_suffix("").parts[1] for path in sources("lib")} - {"__init__"}
    assert rooms == {room for rooms in FLOORS for room in rooms}


@pytest.mark.parametrize("path, source", sources("lib").items(), ids=sources("lib"))
def test_rooms_import_from_floors_below(path, source):
    def floor(room: str) -> int:
        return next(height for height, rooms in enumerate(FLOORS) if room in rooms)

    room = Path(path).with_suffix("").parts[1]
    rooms = {module.split(".")[1] for module in imports_of(source) if module.startswith("lib.")} - {room, "FLOORS"}
    if room == "__init__":
        assert rooms == set()
    for other in rooms:
        assert floor(other) < floor(room), f"{path} imports from {other}, which is not below {room}"


def test_no_file_imports_itself_through_others():
    """A circle shows where one idea lies in two files."""
    known = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources("lib")}
    graph = {
        name: {
            next((m for m in (module, module.rpartition(".")[0]) if m in known), None)
            for module in imports_of(sources("lib")[path])
        }
        - {None, name, "lib"}
        for name, path in known.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("module", ["lib", "lib.course.cli", "lib.course.runs", "lib.course.report"])
def test_what_starts_first_starts_fast(module):
    """Neither `import lib` nor `course --help` waits for PyTorch."""
    code = (
        f"import sys, {module}; print([name for name in ('torch', 'matplotlib', 'papermill') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_every_chapter_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for path in notebooks.all_chapters():
        assert f"notebooks/{path.name}" in readme, path.name
