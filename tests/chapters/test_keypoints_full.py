"""Chapter 10's full profile with three steps of each network, at 64²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

FEW = {
    "families": ["car"],
    "objects": 3,
    "views": 4,
    "test_objects": 8,
    "test_views": 6,
    "image_size": 64,
    "batch": 2,
    "steps": 3,
}
FEW |= {"rival_steps": 3, "flag_steps": 3, "without": ["pose", "flag"], "without_steps": 3}


def test_three_steps_of_the_full_path(full_profile, tmp_path):
    numbers = full_profile("10_keypoints", **FEW)
    assert numbers["pose loss: points drawn in to 10 % / not drawn in"]["value"] > 3
    names = sorted(path.stem for path in (tmp_path / "training").glob("*.checkpoint"))
    assert names == sorted(["all", "car", "no flag", "no pose", "car, orientation", "car, supervised"])
    state = torch.load(tmp_path / "training" / "car.checkpoint", weights_only=True)
    assert state["step"] == 3 and state["model"]["trunk.0.weight"].shape == (64, 4, 3, 3)
