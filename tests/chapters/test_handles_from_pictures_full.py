"""Chapter 6b's full profile with five steps of the network at 128²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

FEW = {"pictures": 16, "test_pictures": 8, "image_size": 128, "fit_train": 4, "fit_test": 4, "fit_steps": 2}
FEW |= {"categories": ["quadruped"], "sizes": [16], "steps": 5, "batch": 2}


def test_five_steps_of_the_full_path(full_profile, tmp_path):
    numbers = full_profile("06b_handles_from_pictures", **FEW)
    assert numbers["four terms, here and in lib: largest difference"]["value"] < 1e-5
    assert 0 < numbers["quadruped: mIoU, 16 handles"]["value"] < 1
    state = torch.load(tmp_path / "training" / "quadruped_handles_16.checkpoint", weights_only=True)
    assert state["step"] == 5 and state["model"]["encoder.trunk.conv1.weight"].shape == (64, 3, 7, 7)
    assert state["model"]["deformation.logits"].shape == (16, 642)
