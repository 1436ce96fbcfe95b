"""The bundled pictures: there without a network, right way up, and the stereo pair's geometry as documented."""

from __future__ import annotations

import socket

import pytest
import torch

from lib.datasets import photographs


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a bundled picture asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("size", [64, 128])
def test_horse_is_centred_upright_and_heads_right(size: int) -> None:
    horse = photographs.horse_silhouette(size)
    assert horse.shape == (size, size) and 0 <= horse.min() and horse.max() <= 1
    inside = horse > 0.5
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert abs(int(columns[0]) - (size - 1 - int(columns[-1]))) <= 1
    assert abs(int(rows[0]) - (size - 1 - int(rows[-1]))) <= 1
    assert min(int(columns[0]), int(rows[0])) >= int(0.08 * size) - 1
    assert 0.2 < horse.mean() < 0.3
    # Legs below: a row near the feet crosses background between them; the head, at the top, is on the right.
    low = inside[int(rows[0]) + int(0.85 * (rows[-1] - rows[0]))].int()
    assert (low.diff() == 1).sum() >= 2
    top = inside[int(rows[0]) : int(rows[0]) + size // 12].any(0).nonzero()
    assert top.float().mean() > 0.6 * size


def test_left_pixels_are_found_in_the_right_picture_by_their_disparity() -> None:
    pair = photographs.stereo_motorcycle()
    assert pair.left.shape == pair.right.shape == (3, 500, 741) and pair.disparity.shape == (500, 741)
    row, column = torch.meshgrid(torch.arange(500), torch.arange(741), indexing="ij")

    def difference(sign: int) -> float:
        found = column + sign * pair.disparity
        valid = found.isfinite() & (found >= 0) & (found <= 740)
        matched = pair.right[:, row[valid], found[valid].round().long()]
        return (pair.left[:, valid] - matched).abs().mean().item()

    assert difference(-1) < 0.04
    assert difference(1) > 0.15
    assert 0.05 < pair.disparity.isnan().float().mean() < 0.1
    depth = pair.depth[pair.depth.isfinite()]
    assert 1.5 < depth.min() and depth.max() < 6


def test_colour_pictures_and_faces() -> None:
    assert photographs.astronaut().shape == (3, 512, 512)
    assert photographs.cat().shape == (3, 300, 451)
    for image in (photographs.astronaut(), photographs.cat(), photographs.faces()):
        assert image.dtype == torch.float32 and 0 <= image.min() and 0.9 < image.max() <= 1
    faces = photographs.faces()
    assert faces.shape == (100, 25, 25) and faces.flatten(1).std(1).min() > 0.02


def test_bad_arguments_and_missing_files_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="size must be at least 8"):
        photographs.horse_silhouette(4)
    from skimage import data

    def missing():
        raise ModuleNotFoundError("pooch is missing\nplease install pooch")

    monkeypatch.setattr(data, "chelsea", missing, raising=False)
    with pytest.raises(FileNotFoundError, match=r"without its picture 'chelsea' .*reinstall") as caught:
        photographs.cat()
    assert "\n" not in str(caught.value)
