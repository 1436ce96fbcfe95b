"""Chapter 8's full profile with three steps of each network at 128²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

FEW = {"train_images": 16, "test_images": 26, "steps": 3, "more_steps": 2, "batch": 2, "image_size": 128}


def test_three_steps_of_the_full_path(full_profile, tmp_path):
    numbers = full_profile("08_correspondences", **FEW)
    assert numbers["memory: 160 steps / implicit"]["value"] > 40
    names = sorted(path.stem for path in (tmp_path / "training").glob("*.checkpoint"))
    assert names == ["camera named", "points", "through closed form", "through implicit", "through none"]
    state = torch.load(tmp_path / "training" / "points.checkpoint", weights_only=True)
    assert state["step"] == 3 and state["model"]["encoder.trunk.conv1.weight"].shape == (64, 3, 7, 7)
