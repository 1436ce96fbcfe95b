"""Chapter 5's full profile, from the pictures to the table, with four steps of the paper's network at 256²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

FEW = {"train_images": 16, "test_images": 10, "camera_steps": 1, "steps": 1, "batch": 2}


def test_four_steps_of_the_full_path(full_profile, tmp_path):
    numbers = full_profile("05_category_meshes", **FEW)
    assert numbers["all, SfM camera: mIoU"]["value"] > 0.3
    rows = sorted(path.stem for path in (tmp_path / "training").glob("*.checkpoint"))
    assert rows == ["all", "camera", "keypoints_only", "mean_shape_only"]
    state = torch.load(tmp_path / "training" / "all.checkpoint", weights_only=True)
    assert state["step"] == 1 and state["model"]["encoder.trunk.conv1.weight"].shape == (64, 3, 7, 7)
