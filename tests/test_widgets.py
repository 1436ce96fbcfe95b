import base64
import json

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lib import widgets
from lib.geometry.mesh import icosphere

MESH = icosphere(1)
MOVING = torch.stack([MESH.verts, 2 * MESH.verts, 3 * MESH.verts])


@pytest.fixture
def shown(monkeypatch):
    """The mime bundles that were displayed."""
    bundles = []
    monkeypatch.setattr("lib.display.show_bundle", lambda bundle, plain, metadata=None: bundles.append(bundle))
    yield bundles
    assert not plt.get_fignums(), "a figure was left open"


def decode(array) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])


def test_mesh_view_holds_the_mesh_and_a_picture_and_nothing_from_the_network(shown):
    widgets.mesh_viewer(MESH.verts, MESH.faces, alt="a ball")
    (bundle,) = shown
    assert set(bundle) == {widgets.PLOTLY, "image/png", "text/plain"} and bundle["text/plain"] == "a ball"
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    figure = bundle[widgets.PLOTLY]
    mesh = figure["data"][0]
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(decode(mesh[name]), MESH.verts[:, axis].numpy())
    for corner, name in enumerate("ijk"):
        np.testing.assert_array_equal(decode(mesh[name]), MESH.faces[:, corner].numpy())
    assert "http" not in json.dumps(figure) and "frames" not in figure


def test_view_is_upright_at_equal_scale_and_from_the_side_asked_for(shown):
    stretched = MESH.verts * torch.tensor([3.0, 1.0, 0.5])
    widgets.mesh_viewer(stretched, MESH.faces, azimuth=0, elevation=0)
    widgets.mesh_viewer(stretched, MESH.faces, azimuth=90, elevation=0)
    side, face = (bundle[widgets.PLOTLY]["layout"]["scene"] for bundle in shown)
    assert side["camera"]["up"] == {"x": 0, "y": 1, "z": 0}
    eyes = [[round(scene["camera"]["eye"][axis], 6) for axis in "xyz"] for scene in (side, face)]
    assert eyes == [[0, 0, 2], [2, 0, 0]]
    ratio = side["aspectratio"]
    assert ratio["x"] / ratio["y"] == pytest.approx(3) and ratio["x"] / ratio["z"] == pytest.approx(6)


def test_the_box_of_the_data_is_a_cube_over_all_steps_so_that_the_lamp_keeps_its_place(shown):
    moving = MOVING * torch.tensor([3.0, 1.0, 0.5])
    widgets.mesh_viewer(moving, MESH.faces)
    unseen = shown[0][widgets.PLOTLY]["data"][-1]
    assert unseen["opacity"] == 0
    low, high = np.array([unseen[name] for name in "xyz"]).T
    np.testing.assert_allclose(high - low, (moving[..., 0].max() - moving[..., 0].min()).item(), rtol=1e-6)
    assert (low <= moving.amin((0, 1)).numpy() + 1e-6).all() and (moving.amax((0, 1)).numpy() <= high + 1e-6).all()


def test_a_moving_mesh_has_a_slider_that_starts_at_its_end(shown):
    widgets.mesh_viewer(MOVING, MESH.faces, labels=["start", "middle", "end"])
    figure = shown[0][widgets.PLOTLY]
    assert [decode(frame["data"][0]["x"]).max() for frame in figure["frames"]] == pytest.approx(
        MOVING[..., 0].amax(1).tolist()
    )
    slider = figure["layout"]["sliders"][0]
    assert [step["label"] for step in slider["steps"]] == ["start", "middle", "end"] and slider["active"] == 2
    assert [step["args"][0] for step in slider["steps"]] == [[frame["name"]] for frame in figure["frames"]]
    np.testing.assert_array_equal(decode(figure["data"][0]["x"]), MOVING[2, :, 0].numpy())
    assert figure["layout"]["scene"]["xaxis"]["range"][1] == pytest.approx(MOVING[..., 0].max().item())


def test_colours_values_and_points(shown):
    widgets.mesh_viewer(MESH.verts, MESH.faces, colors=MESH.verts.clamp(0, 1), points=MESH.verts[:2])
    widgets.mesh_viewer(MESH.verts, MESH.faces, values=MESH.verts[:, 1], limits=(-2, 2))
    colored, painted = (bundle[widgets.PLOTLY]["data"] for bundle in shown)
    assert len(colored[0]["vertexcolor"]) == len(MESH.verts) and colored[1]["type"] == "scatter3d"
    assert (painted[0]["cmin"], painted[0]["cmax"]) == (-2, 2)


def test_points_have_colours_of_their_own(shown):
    options = {"points": MESH.verts[:2]}
    widgets.mesh_viewer(MESH.verts, MESH.faces, point_colors=torch.eye(3)[:2], **options)
    assert shown[0][widgets.PLOTLY]["data"][1]["marker"]["color"] == ["#ff0000", "#00ff00"]
    with pytest.raises(ValueError, match="point_colors"):
        widgets.mesh_viewer(MESH.verts, MESH.faces, point_colors=torch.eye(3), **options)


def test_clouds_by_name_one_of_them_moving(shown):
    widgets.point_viewer({"goal": MESH.verts, "fit": MOVING})
    figure = shown[0][widgets.PLOTLY]
    assert [trace["name"] for trace in figure["data"]] == ["goal", "fit"] and figure["layout"]["showlegend"]
    assert [frame["traces"] for frame in figure["frames"]] == [[1]] * 3
    widgets.point_viewer(MESH.verts, colors=MESH.verts.clamp(0, 1))
    assert len(shown[1][widgets.PLOTLY]["data"][0]["marker"]["color"]) == len(MESH.verts)


def test_explore_draws_at_once_and_again_when_a_control_moves(shown, monkeypatch):
    boxes = []
    original = ipywidgets.VBox
    monkeypatch.setattr(widgets.ipywidgets, "VBox", lambda children: boxes.append(original(children)) or boxes[-1])
    calls = []

    def draw(**values):
        calls.append(values)
        fig, axis = plt.subplots(figsize=(1, 1))
        axis.set_title(values["count"])
        return fig

    widgets.explore(
        draw,
        "numbers",
        count=(1, 9, 3),
        width=(0.0, 1.0, 0.5),
        kind=["a", "b"],
        on=True,
        own=ipywidgets.IntText(value=7),
    )
    assert calls == [{"count": 3, "width": 0.5, "kind": "a", "on": True, "own": 7}]
    (bundle,) = shown
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(bundle)
    assert bundle["text/plain"] == "numbers"
    controls, picture = boxes[0].children[:5], boxes[0].children[5]
    assert base64.b64decode(bundle["image/png"]) == picture.value
    controls[0].value = 5
    assert calls[-1]["count"] == 5 and base64.b64decode(bundle["image/png"]) != picture.value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: widgets.mesh_viewer(MESH.verts.tolist(), MESH.faces), "verts must be a torch.Tensor"),
        (lambda: widgets.mesh_viewer(MESH.verts / 0, MESH.faces), "verts has NaN"),
        (lambda: widgets.mesh_viewer(MESH.verts[:0], MESH.faces), "verts is empty"),
        (lambda: widgets.mesh_viewer(MESH.verts, MESH.faces, values=torch.zeros(3)), "values must have shape"),
        (lambda: widgets.mesh_viewer(MOVING, MESH.faces, labels=["one"]), "labels must name all 3 steps"),
        (lambda: widgets.point_viewer({}), "clouds is empty"),
        (lambda: widgets.point_viewer({"a": MOVING, "b": MOVING[:2]}), "clouds must move over one number of steps"),
        (lambda: widgets.point_viewer({"a": MESH.verts, "b": MESH.verts}, colors=MESH.verts), "colors needs a single"),
        (lambda: widgets.explore(lambda n: None, "", n=(1, 2)), r"n must be \(low, high, start\)"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert not plt.get_fignums() and "\n" not in str(caught.value)
