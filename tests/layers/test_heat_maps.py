"""Heat maps: their expected places by hand, gradients, sizes."""

import pytest
import torch

from lib.layers.convolutional import ResNet18
from lib.layers.heat_maps import HeatMapHead, soft_argmax


def test_a_sharp_map_has_the_place_of_its_pixel():
    scores = torch.zeros(1, 2, 4, 8)
    scores[0, 0, 1, 6], scores[0, 1, 3, 0] = 50.0, 50.0
    expected = torch.tensor([[[(2 * 6 + 1) / 8 - 1, (2 * 1 + 1) / 4 - 1], [1 / 8 - 1, 7 / 4 - 1]]])
    torch.testing.assert_close(soft_argmax(scores), expected)


def test_two_equal_places_give_their_middle_and_a_flat_map_the_centre():
    scores = torch.full((1, 2, 4, 4), -50.0)
    scores[0, 0, 0, 0] = scores[0, 0, 3, 3] = 0.0
    scores[0, 1] = 0.0
    torch.testing.assert_close(soft_argmax(scores), torch.zeros(1, 2, 2))


def test_gradients():
    scores = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(soft_argmax, scores.requires_grad_())


@pytest.mark.parametrize(("size", "pool", "side"), [(64, False, 16), (128, True, 16), (256, True, 32)])
def test_maps_have_the_size_of_the_third_stage(size, pool, side):
    trunk = ResNet18(4, pool=pool).eval()
    head = HeatMapHead(trunk, 7)
    stages = trunk.stages(torch.rand(2, 3, size, size))
    scores = head(stages)
    assert scores.shape == (2, 7, side, side)
    soft = HeatMapHead(trunk, 7, sharpness=1.0)
    soft.load_state_dict(head.state_dict())
    torch.testing.assert_close(scores, 5 * soft(stages))
    with pytest.raises(ValueError, match="points"):
        HeatMapHead(trunk, 0)
