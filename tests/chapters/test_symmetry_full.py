"""Chapter 9's full profile, from the faces to the perturbation test, with a few steps of every training at 16²."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.slow

CHAPTER = "09_symmetry"
SMALL = {"image_size": 16, "train_images": 32, "test_images": 16, "channels": 4, "code": 16, "batch": 4}
FEW = SMALL | {"steps": 5, "feature_steps": 5, "ablation_steps": 1, "real_steps": 1}
FEW |= {"last_likeness": 50.0}  # as at the start: an aid that fades over the steps is another loss when steps are added
SEEDS = range(3)


def test_a_few_steps_of_the_full_path(full_profile, tmp_path):
    """Every row of the ablation with its three seeds, the learnt features included; then on from the checkpoints."""
    numbers = full_profile(CHAPTER, **FEW)
    rows = [name.removeprefix("ablation SIDE ") for name in numbers if name.startswith("ablation SIDE ")]
    assert rows == [
        "full",
        "no aids",
        "no light",
        "no albedo flip",
        "no depth flip",
        "self-supervised perceptual loss",
        "no confidence",
        "patches",
        "patches, no confidence",
    ]
    trained = {path.stem for path in tmp_path.glob("*.checkpoint")}
    assert trained == {f"ablation {row} {seed}" for row in rows for seed in SEEDS} | {
        "features",
        "ours",
        "control",
        "no mirror",
        "supervised",
        "real",
    }

    numbers = full_profile(CHAPTER, **FEW | {"steps": 8, "ablations": []})
    assert 0 < numbers["SIDE ours"]["value"] < 10
    state = torch.load(tmp_path / "ours.checkpoint", weights_only=True)
    assert state["step"] == 8 and state["history"]["step"] == [5, 8]  # it went on, and did not start anew
    perceptual, plain = (
        torch.load(tmp_path / f"ablation {row} 0.checkpoint", weights_only=True)
        for row in ("self-supervised perceptual loss", "no aids")
    )
    assert all(term > 0 for term in map(abs, perceptual["history"]["perceptual"]))
    assert state["model"]["average_depth"].abs().max() > 0
    assert plain["model"]["average_depth"].abs().max() == 0
