"""Every item of a launch is done once, for any number of items, threads and callers."""

# Warp reads the annotations of kernels at run time, so they cannot be postponed here.

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import warp as wp

from lib import warp_kernels
from lib.warp_kernels import Kernels


@Kernels
def kernels(kernel, real, vec2, vec3):
    @kernel
    def count_up(first: int, step: int, start: real, seen: wp.array(dtype=real)):
        item = first + step * wp.tid()
        seen[item] = seen[item] + start + real(item)

    return locals()


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 2, 23, 24, 25, 1000])
def test_every_item_is_done_once(threads: int, count: int, dtype: torch.dtype) -> None:
    seen = torch.zeros(count, dtype=dtype)
    kernels.launch("count_up", count, seen, 0.5, seen)
    assert torch.equal(seen, torch.arange(count, dtype=dtype) + 0.5)


def test_several_callers_at_once(threads: int) -> None:
    def call(start: int) -> torch.Tensor:
        seen = torch.zeros(500, dtype=torch.float64 if start % 2 else torch.float32)
        kernels.launch("count_up", 500, seen, start, seen)
        return seen

    with ThreadPoolExecutor(4) as callers:
        for start, seen in enumerate(callers.map(call, range(8))):
            assert torch.equal(seen, torch.arange(500).to(seen) + start)


def test_an_old_driver_and_an_old_gpu_are_named_in_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(wp, "is_cuda_available", lambda: False)
    monkeypatch.setattr(wp, "get_cuda_driver_version", lambda: (12, 4))
    assert (
        "driver found: CUDA 12.4" in warp_kernels.cuda_problem()
        and "update the NVIDIA driver" in warp_kernels.cuda_problem()
    )
    monkeypatch.setattr(wp, "is_cuda_available", lambda: True)
    for arch, problem in ((70, "V100 is sm_70, and Warp's compiler begins at sm_75; use a newer GPU"), (80, None)):

        def device_from_torch(device, arch=arch):
            assert isinstance(device, str)  # Warp knows "cuda" only as a string, and a torch.device by its number
            return SimpleNamespace(arch=arch, name="V100")

        monkeypatch.setattr(wp, "device_from_torch", device_from_torch)
        for device in ("cuda", "cuda:0", torch.device("cuda")):
            found = warp_kernels.cuda_problem(device)
            assert found is None if problem is None else problem in found
    monkeypatch.setattr(warp_kernels, "cuda_problem", lambda device: "no")
    with pytest.raises(RuntimeError, match=r"^no$"):
        kernels._loaded(torch.float32, torch.device("cuda:7"))


def test_what_warp_says_is_shown_where_there_is_a_gpu(monkeypatch, capsys) -> None:
    monkeypatch.setattr(wp, "init", lambda: os.write(2, b"driver too old"))
    warp_kernels._init_quietly()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    warp_kernels._init_quietly()
    assert capsys.readouterr().err == "driver too old"
