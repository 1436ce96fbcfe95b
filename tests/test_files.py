"""Files and folders: whole or not at all, one process at a time, and homes that cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib import files

pytestmark = pytest.mark.slow

HOLD = """
import sys, time
from lib import files
files.claim(sys.argv[1], "wait")
print("claimed", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_claim_ends_with_its_process(tmp_path, kind):
    place = tmp_path / "a.lock" if kind == "file" else tmp_path
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(ValueError, match=rf"another process is at work in {place}; choose another"):
        files.claim(place, "choose another")
    process.send_signal(signal.SIGKILL)
    process.wait()
    files.claim(place, "choose another")
    files.claim(place, "choose another")  # this process has it already
    files.release(place)
    files.release(place)


def test_a_claim_that_cannot_be_written_names_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/a\.lock .*choose another out_dir"):
        files.claim(tmp_path / "file" / "a.lock", "wait")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="stands for a home that cannot be written")
@pytest.mark.parametrize(
    "code",
    [
        "from lib import rendering; from lib.geometry.mesh import icosphere as i; m = i(1);"
        "print(rendering.silhouette(m.verts[None], m.faces, 8).shape)",
        "import torch; from lib.geometry.pointsets import chamfer_distance as c;"
        "print(c(torch.rand(1, 2500, 3), torch.rand(1, 2500, 3)).shape)",
        "from lib import plots; import matplotlib.pyplot as plt; plt.figure(); print('drawn')",
    ],
    ids=["renderer", "neighbours", "figures"],
)
def test_kernels_and_figures_without_a_home(code):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("XDG", "WARP", "MPL"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env | {"HOME": "/proc"})
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="stands for a folder that cannot be written")
def test_a_cache_of_ones_own_choice_that_cannot_be_written_is_named():
    env = os.environ | {"WARP_CACHE_PATH": "/proc/nowhere"}
    done = subprocess.run([sys.executable, "-c", "import lib.warp_kernels"], capture_output=True, text=True, env=env)
    assert done.returncode and "set WARP_CACHE_PATH to a folder that can be written" in done.stderr.splitlines()[-1]
