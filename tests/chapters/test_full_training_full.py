"""Chapter 18's full profile with one kill and two steps of the chapter that it launches."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_the_full_path_in_miniature(full_profile, tmp_path):
    numbers = full_profile("18_full_training", steps=200, kills=1, launched_steps=2, launched_seeds=[0])
    assert numbers["largest difference of a weight: killed and resumed, or not"]["value"] == 0
    assert numbers["largest difference of a weight, without Adam's means"]["value"] > 1e-4
    assert numbers["exit code of the sweep"]["value"] == 0
    assert len(list((tmp_path / "sweep").glob("10_keypoints/full/few/seed_0/run.json"))) == 1
