"""Estimated flow: units, order of channels, direction, pairs, and bad input."""

from __future__ import annotations

import pytest
import torch

from lib.estimation.optical_flow import METHODS, consecutive_pairs, estimate_flow, inconsistency


def textured(height=64, width=96, seed=0):
    """A smooth random picture, larger than what is cut from it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, height // 4 + 8, width // 4 + 8, generator=generator)
    return torch.nn.functional.interpolate(noise, (height + 32, width + 32), mode="bicubic").clamp(0, 1)[0]


def moved(dx, dy, height=64, width=96):
    """Two frames: everything moves by (dx, dy) pixels, x right, y down."""
    large = textured(height, width)
    return torch.stack([large[:, 16 - y : 16 - y + height, 16 - x : 16 - x + width] for x, y in ((0, 0), (dx, dy))])


@pytest.mark.parametrize("dx, dy", [(3, 0), (0, 2), (-2, 1)])
def test_dis_finds_a_shift_in_units_of_the_image_plane(dx, dy):
    flow = estimate_flow(moved(dx, dy))
    assert flow.shape == (1, 2, 64, 96)
    inner = flow[0, :, 8:-8, 8:-8]
    expected = torch.tensor([dx * 2 / 96, dy * 2 / 64])
    assert torch.allclose(inner.median(2).values.median(1).values, expected, atol=0.006)


def test_pairs_choose_frames_and_direction():
    frames = moved(3, 0)
    both = estimate_flow(frames, torch.tensor([[0, 1], [1, 0], [0, 0]]))
    middle = both[:, 0, 16:-16, 16:-16].flatten(1).median(1).values
    assert middle[0] > 0.05 and middle[1] < -0.05 and abs(middle[2]) < 1e-3


def test_pairs_of_several_clips_stay_inside_each():
    assert consecutive_pairs([3, 2]).tolist() == [[0, 1], [1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"clip 1 has 1 frame\(s\)"):
        consecutive_pairs([2, 1])


def test_there_and_back_ends_where_it_began_except_where_it_is_wrong():
    frames = moved(3, 0)
    there, back = estimate_flow(frames), estimate_flow(frames, torch.tensor([[1, 0]]))
    assert inconsistency(there, back)[0, 16:-16, 16:-16].median() < 0.01
    assert inconsistency(there, -back)[0, 16:-16, 16:-16].median() > 0.05


def test_zero_flow_and_no_pairs():
    frames = moved(1, 1)
    assert (estimate_flow(frames, method="zero") == 0).all()
    assert estimate_flow(frames, torch.zeros(0, 2, dtype=torch.long)).shape == (0, 2, 64, 96)


def test_bad_arguments_are_named():
    frames = moved(1, 1)
    with pytest.raises(ValueError, match="method='fast' is unknown; use one of 'dis', 'raft', 'zero'"):
        estimate_flow(frames, method="fast")
    with pytest.raises(ValueError, match=r"pairs must be frames of 0 … 1, got 0 … 2"):
        estimate_flow(frames, torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match=r"clip 0 has 1 frame\(s\)"):
        estimate_flow(frames[:1])
    with pytest.raises(ValueError, match="images"):
        estimate_flow(frames * torch.nan)


def test_raft_says_what_it_needs():
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match='pip install torchvision; or use method="dis"'):
            estimate_flow(moved(1, 1), method="raft")
    else:
        pytest.skip("torchvision is installed; its weights are not downloaded in a test")
    assert set(METHODS) == {"dis", "raft", "zero"}
