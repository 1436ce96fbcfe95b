"""Chapter 7's full profile with three steps of each network at 128²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

FEW = {"train_clips": 2, "clip_frames": 3, "test_clips": 2, "pictures": 6, "steps": 3, "pairs": 2}
FEW |= {"image_size": 128, "refine_steps": 2, "multiplex_steps": 6, "rows": ["no motion", "motion"]}


def test_three_steps_of_the_full_path(full_profile, tmp_path):
    numbers = full_profile("07_motion", **FEW)
    assert numbers["read in the second frame, over right"]["value"] > 2
    assert 0 <= numbers["PCK@0.1, inference"]["value"] <= 1
    names = sorted(path.stem for path in (tmp_path / "training").glob("*.checkpoint"))
    assert names == ["motion", "no motion"]
    state = torch.load(tmp_path / "training" / "motion.checkpoint", weights_only=True)
    assert state["step"] == 3 and state["model"]["encoder.trunk.conv1.weight"].shape == (64, 3, 7, 7)
