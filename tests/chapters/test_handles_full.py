"""Chapter 6's full profile with fewer poses and smaller spheres, to the file that is taken home."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_the_full_path(full_profile, tmp_path):
    numbers = full_profile("06_handles", spheres=[3, 4], test_poses=10, draws=1)
    assert numbers["eigenvectors / handles, K = 16 to 64: most"]["value"] < 1.05
    assert (tmp_path / "zebra_with_handles.glb").stat().st_size > 10_000
