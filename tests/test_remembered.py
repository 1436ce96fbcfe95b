"""Computed once for each tensor, anew where the tensor or the result was altered, and forgotten with the tensor."""

from __future__ import annotations

import gc

import torch

from lib.remembered import remembered


def counted():
    calls = []

    @remembered
    def double(tensor, factor=2):
        calls.append(factor)
        return factor * tensor, factor

    return double, calls


def test_the_same_tensor_is_computed_once_for_each_argument():
    double, calls = counted()
    tensor = torch.arange(3)
    first, again, other = double(tensor), double(tensor), double(tensor, 3)
    assert first is again and first[0].tolist() == [0, 2, 4] and other[0].tolist() == [0, 3, 6]
    double(tensor.clone())
    assert calls == [2, 3, 2]


def test_an_altered_tensor_or_result_is_computed_anew():
    double, calls = counted()
    tensor = torch.arange(3)
    double(tensor)
    tensor += 1
    result = double(tensor)[0]
    assert result.tolist() == [2, 4, 6] and len(calls) == 2
    result.zero_()
    assert double(tensor)[0].tolist() == [2, 4, 6] and len(calls) == 3


def test_results_go_with_their_tensor():
    double, calls = counted()
    for size in range(1, 50):
        tensor = torch.arange(size)
        assert len(double(tensor)[0]) == size
    kept = double.__closure__[[cell.cell_contents.__class__ for cell in double.__closure__].index(dict)].cell_contents
    del tensor
    gc.collect()
    assert kept == {} and len(calls) == 49


def test_what_counts_no_versions_is_not_remembered():
    double, calls = counted()
    with torch.inference_mode():
        tensor = torch.arange(3)
        double(tensor), double(tensor)
    assert len(calls) == 2
