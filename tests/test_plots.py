from __future__ import annotations

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lib import plots
from lib.geometry.mesh import icosphere

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def ball():
    mesh = icosphere(2)
    return mesh.verts, mesh.faces


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr("lib.display.show_bundle", lambda bundle, plain, metadata=None: bundles.append(bundle))
    return bundles


def test_a_presented_figure_has_its_text_and_is_closed(shown):
    fig, axis = plt.subplots(figsize=(3, 2))
    axis.plot([0, 1])
    plots.present(fig, alt="a line that rises", caption="It rises to **1**.")
    assert shown[0]["text/plain"] == "a line that rises"
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"]))).format == "PNG"
    assert shown[1] == {"text/markdown": "*It rises to **1**.*"}
    assert not plt.fignum_exists(fig.number)


def test_an_animation_plays_its_frames_and_its_still_picture_is_the_last(shown):
    frames = [torch.full((3, 8, 10), level) for level in (0.0, 0.5, 1.0)]
    plots.play(frames, alt="grey becomes white", seconds=0.3)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"])))
    assert picture.is_animated and picture.n_frames == 4 and picture.size == (10, 8)
    levels = []
    for i in range(4):
        picture.seek(i)
        levels.append(picture.convert("RGB").getpixel((0, 0))[0])
    assert levels == pytest.approx([255, 0, 128, 255], abs=1)
    with pytest.raises(ValueError, match="frames must be images of one size and at least one"):
        plots.play([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], alt="two sizes")
    with pytest.raises(ValueError, match="got none"):
        plots.play([], alt="nothing")


def test_a_white_background_stays_white_in_an_animation(shown):
    frame = np.ones((40, 40, 3))
    frame[:20] = (0.94, 0.97, 1.0)
    frame[20:22] = np.random.default_rng(0).uniform(0, 1, (2, 40, 3))
    plots.play([frame] * 3, alt="light blue above white", colors=2)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"])))
    assert picture.convert("RGB").getpixel((39, 39)) == (255, 255, 255)


def test_curves_of_losses():
    histories = {"a": {"step": [10, 20], "loss": [1.0, 0.5], "mask": [0.3, 0.2]}, "b": {"step": [10], "loss": [2.0]}}
    fig = plots.show_losses(histories, terms=("loss", "mask"))
    assert [len(axis.lines) for axis in fig.axes] == [2, 1]
    assert fig.axes[0].get_yscale() == "log" and fig.axes[0].get_xlabel() == "step"
    assert plots.show_losses({"plain": [3.0, 2.0, 1.0]}).axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="histories have no term 'depth'; they have step, loss"):
        plots.show_losses(histories, terms=("depth",))


@pytest.mark.parametrize(
    "shape, expected",
    [((3, 4, 5), (4, 5, 3)), ((1, 4, 5), (4, 5)), ((4, 5), (4, 5)), ((4, 5, 3), (4, 5, 3)), ((4, 5, 1), (4, 5))],
)
def test_images_in_any_layout(shape, expected):
    array = np.random.default_rng(0).random(shape)
    assert plots.to_image(array).shape == plots.to_image(torch.from_numpy(array)).shape == expected


def test_colours_beyond_the_range_are_clipped_but_numbers_are_kept():
    assert plots.to_image(torch.full((3, 2, 2), 1.2)).max() == 1.0
    assert plots.to_image(torch.full((2, 2), 1.2)).max() == pytest.approx(1.2)


def test_a_grid_of_images_has_titles_and_no_empty_frames():
    fig = plots.show_images([torch.rand(3, 8, 8), torch.rand(8, 8), torch.rand(8, 8)], ["a", "b", "c"], columns=2)
    assert len(fig.axes) == 4 and not any(axis.axison for axis in fig.axes)
    assert [axis.get_title() for axis in fig.axes] == ["a", "b", "c", ""]
    assert fig.axes[1].images[0].get_clim() == (0, 1)
    free = plots.show_images([torch.rand(8, 8) * 9], cmap="magma", vmin=0, vmax=9)
    assert free.axes[0].images[0].get_clim() == (0, 9)


def test_a_shaded_mesh_stands_on_white_the_right_way_up(ball):
    verts, faces = ball
    verts = verts * torch.tensor([1.0, 0.5, 0.5])
    up = (verts[:, 1:2] > 0.1).float()
    picture = plots.shaded_mesh(verts, faces, colors=up * torch.tensor([1.0, 0, 0]), azimuth=0, elevation=0, size=64)
    assert picture.shape == (64, 64, 3) and picture.min() >= 0 and picture.max() <= 1
    assert (picture[0] == 1).all() and (picture[:, 0] == 1).all(-1).mean() > 0.8
    red = picture[..., 0] - picture[..., 1] > 0.2
    rows, columns = np.nonzero(red)
    assert rows.mean() < 30, "what is up in the world is up in the picture"
    assert abs(columns.mean() - 31.5) < 1


def test_a_mesh_is_seen_from_where_one_stands(ball):
    verts, faces = ball
    ahead = (verts[:, :1] > 0.5).float() * torch.tensor([1.0, 0, 0])

    def red_column(azimuth):
        picture = plots.shaded_mesh(verts, faces, colors=ahead, azimuth=azimuth, elevation=0, size=64)
        return np.nonzero(picture[..., 0] - picture[..., 1] > 0.2)[1]

    assert red_column(0).mean() > 40, "an animal seen from its side heads right"
    assert red_column(90).mean() == pytest.approx(31.5, abs=1), "seen from the front, it faces us"
    assert len(red_column(-90)) == 0, "seen from behind, its face is hidden"


def test_values_are_painted_between_shared_limits(ball):
    verts, faces = ball
    options = {"cmap": "gray", "azimuth": 0, "elevation": 0, "size": 32}
    dark = plots.shaded_mesh(verts, faces, values=torch.zeros(len(verts)), limits=(0, 1), **options)
    light = plots.shaded_mesh(verts, faces, values=torch.ones(len(verts)), limits=(0, 1), **options)
    assert dark[16, 16].max() < 0.05 < light[16, 16].min()
    plots.shaded_mesh(verts, faces, values=torch.ones(len(verts)), **options)  # one value: no division by zero


def test_a_fixed_framing_shows_which_mesh_is_larger(ball):
    verts, faces = ball
    framing = {"center": torch.zeros(3), "radius": 1.0, "size": 32}
    large = plots.shaded_mesh(verts, faces, **framing)
    small = plots.shaded_mesh(verts * 0.5, faces, **framing)
    covered = [(picture < 1).any(-1).mean() for picture in (large, small)]
    assert covered[0] / covered[1] == pytest.approx(4, rel=0.15)


def test_points_are_drawn_up_and_far_ones_first():
    axis = plt.figure().subplots()
    points = torch.tensor([[0.0, 1.0, 1.0], [0.0, -1.0, -1.0]])
    plots.draw_points(axis, points, "two", azimuth=0, elevation=0, color=["r", "b"])
    drawn = axis.collections[0]
    # The camera stands on +z: the second point is the far one. World up is towards negative image y.
    assert drawn.get_offsets()[:, 1].tolist() == pytest.approx([1, -1])
    assert drawn.get_facecolors()[0].tolist() == [0, 0, 1, 1]
    assert axis.yaxis_inverted() and axis.get_title() == "two"
