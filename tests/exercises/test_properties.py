"""What the shared checks say, word for word: a student reads it."""

import numpy as np
import pytest
import torch

from lib.exercises import properties
from lib.exercises.engine import Trouble


@pytest.mark.parametrize("value", [torch.ones(2), [1, 1], (1.0, 1.0), np.ones(2), torch.ones(2, dtype=torch.bool)])
def test_anything_like_a_tensor_will_do(value):
    assert torch.equal(properties.tensor(value, "it").double(), torch.ones(2, dtype=torch.float64))
    assert properties.near(value, [1, 1], "it") is None


@pytest.mark.parametrize("value", ["1", None, [1, [2, 3]], {"a": 1}, print, torch.ones(2) * 1j])
def test_anything_else_is_named(value):
    with pytest.raises(Trouble, match=r"^it: must be (a tensor or a number|an ordinary real tensor), got "):
        properties.tensor(value, "it")


def test_shapes():
    assert properties.shape(torch.ones(2, 3), (2, 3), "it") is None
    assert properties.shape(torch.ones(2, 3), (3, 2), "it") == "it: yours has shape (2, 3), expected (3, 2)"
    with pytest.raises(Trouble, match=r"it: yours has shape \(2, 3\), expected \(3,\)"):
        properties.tensor(torch.ones(2, 3), "it", (3,))


def test_near():
    assert properties.near(1.00005, 1, "it") is None
    assert properties.near(100.005, 100, "it") is None, "relative above 1"
    assert properties.near(2, 1, "it") == "it: yours 2, expected 1"
    yours = torch.tensor([[1.0, 2], [3, 5]])
    assert properties.near(yours, [[1, 2], [3, 4]], "it") == "it at [1, 1]: yours 5, expected 4"
    assert properties.near(yours, torch.ones(4), "it") == "it: yours has shape (2, 2), expected (4,)"
    assert properties.near(torch.nan, 1, "it") == "it: yours has NaN or infinite entries"
    assert properties.near(torch.ones(0), torch.ones(0), "it") is None


def test_between():
    assert properties.between([0, 1], 0, 1, "it") is None
    assert properties.between([-2, 1], 0, 1, "it") == "it: yours -2, expected from 0 to 1"
    assert properties.between([0, 3], 0, 1, "it") == "it: yours 3, expected from 0 to 1"
    assert properties.between(0.5, 1, torch.inf, "it") == "it: yours 0.5, expected at least 1"


def test_one_of():
    wrong = {"left": "that is the other left"}
    assert properties.one_of(" Right", "right", wrong) is None
    assert properties.one_of("left", "right", wrong) == "that is the other left"
    assert properties.one_of("up", "right", wrong) == '"up" is none of "left", "right"'
    assert properties.one_of(1, "right", wrong) == 'write one of "left", "right", with the quotation marks'


def test_gradients():
    x, generator = torch.tensor([1.0, 2.0]), torch.Generator().manual_seed(0)
    assert properties.has_gradient(torch.square, x, "it") is None
    assert properties.has_derivative(torch.square, x, generator, "it") is None
    assert properties.has_gradient(lambda x: 0 * x, x, "it") == "the gradient of it is zero everywhere"
    assert properties.has_gradient(torch.sqrt, 0 * x, "it") == "the gradient of it: yours has NaN or infinite entries"

    def half(x):
        return (x * x.detach()).sum()

    assert properties.has_derivative(half, x, generator, "it").startswith("the derivative of it along a line: yours ")
    for detached in (lambda x: x.detach(), lambda x: (x > 0).float(), lambda x: x.sum().item()):
        with pytest.raises(Trouble, match="no gradient comes back from it"):
            properties.has_gradient(detached, x, "it")
    with pytest.raises(Trouble, match="it does not depend on what it should depend on"):
        properties.has_gradient(lambda _: torch.ones(2, requires_grad=True), x, "it")


def test_far_too_many_numbers_are_not_looked_at():
    with pytest.raises(Trouble, match=r"it: yours has shape \(1000000000000,\), far too many numbers"):
        properties.finite(torch.zeros(1).expand(10**12), "it")
