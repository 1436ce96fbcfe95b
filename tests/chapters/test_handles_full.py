"""Chapter 6's full profile, from the layer to the file that is taken home, with five steps of the network at 128²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

FEW = {
    "spheres": [3, 4, 5],
    "image_size": 128,
    "test_poses": 40,
    "train_images": 16,
    "test_images": 10,
    "fit_train": 4,
    "fit_test": 4,
    "fit_steps": 2,
    "sizes": [8, 16],
    "basis_sizes": [8],
    "networks": [["handles", 16]],
    "trials": 1,
    "steps": 5,
    "batch": 2,
}


def test_five_steps_of_the_full_path(full_profile, tmp_path):
    numbers = full_profile("06_handles", **FEW)
    assert numbers["quadruped, handles 16, trial 0, camera from keypoints: mIoU"]["value"] > 0.3
    assert (tmp_path / "zebra_with_handles.glb").stat().st_size > 10_000
    names = sorted(path.stem for path in (tmp_path / "training").glob("*.checkpoint"))
    assert names == ["bird_handles_16_0", "quadruped_handles_16_0"]
    state = torch.load(tmp_path / "training" / "bird_handles_16_0.checkpoint", weights_only=True)
    assert state["step"] == 5 and state["model"]["encoder.trunk.conv1.weight"].shape == (64, 3, 7, 7)
    assert state["model"]["deformation.logits"].shape == (16, 642)
