"""Interactive views for a notebook: meshes and point clouds to turn, figures that follow sliders.

Each call also stores a picture, for paper, for web pages and for runs without a browser. Nothing is loaded from the
network. A 3D view shows its picture until the mouse enters it, because a browser can draw only a few views at a time,
but a page may hold many. Cells that use these views carry the tag `nbval-ignore-output`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lib import display, plots
from lib.checks import check_tensor
from lib.display import PLOTLY, WIDGET

# Width of a view as a multiple of its height, and the pixels that a slider needs below it.
WIDTH = 1.3
SLIDER = 70
# Length of the scene's diagonal in plotly's unit, so that the scene fits into the view in every direction.
DIAGONAL = 2.6


def mesh_viewer(
    verts: Float[Tensor, "V 3"] | Float[Tensor, "T V 3"],
    faces: Int[Tensor, "F 3"],
    *,
    colors: Float[Tensor, "V 3"] | None = None,
    values: Float[Tensor, "V"] | None = None,
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
    points: Float[Tensor, "N 3"] | None = None,
    point_colors: Float[Tensor, "N 3"] | None = None,
    labels: Sequence[str] | None = None,
    azimuth: float = 30.0,
    elevation: float = 15.0,
    height: int = 400,
    alt: str = "a mesh to turn",
    caption: str = "",
) -> None:
    """Show a mesh that the reader can turn, world y up.

    verts: (V, 3), or (T, V, 3) for T steps under a slider, which starts at the last.
    colors (V, 3) in [0, 1], or values (V,) painted with `cmap` between `limits`; `points` adds dots,
    with `point_colors` (N, 3) in [0, 1] of their own. `labels` name the T steps. `azimuth` and `elevation`, in
    degrees, are the first view, as in `plots.shaded_mesh`.
    `alt` is shown if the view cannot be drawn; `caption` stands below it.

    Raises ValueError for shapes that do not fit or non-finite vertices.
    """
    steps = _steps("verts", verts)
    check_tensor("faces", faces, "F 3", kind="integer")
    _check_labels(labels, len(steps))
    faces = faces.cpu()
    paint: dict = {"color": "rgb(168, 191, 219)"}
    if values is not None:
        check_tensor("values", values, str(steps.shape[1]), finite=True)
        numbers = values.detach().cpu().float().numpy()
        low, high = limits or (float(numbers.min()), float(numbers.max()))
        paint = {"intensity": numbers, "cmin": low, "cmax": high, "colorscale": _colorscale(cmap)}
        paint["colorbar"] = {"thickness": 12, "len": 0.7}
    elif colors is not None:
        check_tensor("colors", colors, f"{steps.shape[1]} 3", finite=True)
        paint = {"vertexcolor": _hex(colors)}
    small = np.uint16 if steps.shape[1] < 2**16 else np.uint32
    corners = {name: faces[:, i].numpy().astype(small) for i, name in enumerate("ijk")}
    # Chosen by eye: the lamp moves with the viewer, above the left shoulder; z counts far more than x and y.
    light = {"ambient": 0.35, "diffuse": 0.7, "specular": 0.0, "roughness": 0.9}
    lamp = {"x": -6e4, "y": 1e5, "z": -2e2}
    shading = {"lighting": light, "lightposition": lamp, "flatshading": False, "hoverinfo": "skip"}
    traces = [go.Mesh3d(**_coordinates(steps[-1]), **corners, **paint, **shading)]
    if points is not None:
        check_tensor("points", points, "N 3", finite=True)
        hues = plots.COLORS[3]
        if point_colors is not None:
            check_tensor("point_colors", point_colors, f"{len(points)} 3", finite=True)
            hues = _hex(point_colors)
        dots = {"size": 5, "color": hues}
        traces.append(go.Scatter3d(**_coordinates(points), mode="markers", marker=dots, hoverinfo="skip"))
    frames = [go.Frame(data=[go.Mesh3d(**_coordinates(step))], traces=[0], name=str(i)) for i, step in enumerate(steps)]

    fig, axis = _canvas(height)
    options = {"colors": colors, "values": values, "cmap": cmap, "limits": limits}
    plots.draw_mesh(axis, steps[-1], faces, azimuth=azimuth, elevation=elevation, size=height, **options)
    if points is not None:
        low, high = steps[-1].amin(0), steps[-1].amax(0)
        middle = (low + high) / 2
        scale = 1.05 * (steps[-1] - middle).norm(dim=-1).max()
        seen = (points.detach().cpu().float() - middle) @ plots.view_rotation(azimuth, elevation).T / scale
        axis.scatter(*((seen[:, :2] + 1) / 2 * height - 0.5).T, s=25, color=hues)
    _show(traces, frames, labels, fig, azimuth, elevation, height, alt, caption)


def point_viewer(
    clouds: Float[Tensor, "N 3"] | Float[Tensor, "T N 3"] | Mapping[str, Tensor],
    *,
    colors: Float[Tensor, "N 3"] | None = None,
    size: float = 2.5,
    labels: Sequence[str] | None = None,
    azimuth: float = 30.0,
    elevation: float = 15.0,
    height: int = 400,
    alt: str = "clouds of points to turn",
    caption: str = "",
) -> None:
    """Show clouds of points that the reader can turn, world y up.

    clouds: one cloud, or several by name, in the order of the house's colours. A cloud (T, N, 3) moves with a
        slider over its T steps; those of (N, 3) beside it stand still.
    colors: (N, 3) in [0, 1], for a single cloud.
    The other arguments are those of `mesh_viewer`; `size` is a dot's diameter in pixels.

    Raises ValueError for shapes that do not fit, non-finite points, or clouds with different numbers of steps.
    """
    named = dict(clouds) if isinstance(clouds, Mapping) else {"": clouds}
    if not named:
        raise ValueError("clouds is empty; give at least one cloud")
    steps = {name: _steps(f"clouds[{name!r}]" if name else "clouds", cloud) for name, cloud in named.items()}
    count = max(len(cloud) for cloud in steps.values())
    if any(len(cloud) not in (1, count) for cloud in steps.values()):
        lengths = ", ".join(f"{name} {len(cloud)}" for name, cloud in steps.items())
        raise ValueError(f"clouds must move over one number of steps or stand still, got {lengths}; cut them to fit")
    _check_labels(labels, count)
    if colors is not None:
        if len(steps) > 1:
            raise ValueError(f"colors needs a single cloud, got {len(steps)}; the clouds of a dict have house colours")
        check_tensor("colors", colors, f"{next(iter(steps.values())).shape[1]} 3", finite=True)
    paints = [plots.COLORS[i % len(plots.COLORS)] for i in range(len(steps))] if colors is None else [_hex(colors)]
    traces = [
        go.Scatter3d(
            **_coordinates(cloud[-1]),
            name=name,
            mode="markers",
            marker={"size": size, "color": paint},
            hoverinfo="skip",
        )
        for (name, cloud), paint in zip(steps.items(), paints, strict=True)
    ]
    moving = [i for i, cloud in enumerate(steps.values()) if len(cloud) == count]
    frames = [
        go.Frame(
            data=[go.Scatter3d(**_coordinates(list(steps.values())[i][t])) for i in moving], traces=moving, name=str(t)
        )
        for t in range(count)
    ]

    fig, axis = _canvas(height)
    view = {"azimuth": azimuth, "elevation": elevation}
    for i, ((name, cloud), paint) in enumerate(zip(steps.items(), paints, strict=True)):
        # Draw the first cloud on top: the others are there for comparison.
        plots.draw_points(axis, cloud[-1], color=paint, size=size**2, label=name or None, zorder=-i, **view)
    if len(steps) > 1:
        fig.legend(loc="upper left", ncols=len(steps), markerscale=2)
    _show(traces, frames, labels, fig, azimuth, elevation, height, alt, caption)


def explore(draw: Callable[..., Figure], alt: str, caption: str = "", **controls) -> None:
    """Show `draw(**values)`, a matplotlib figure, under one control per argument, and redraw it as they move.

    controls: by argument name. (low, high, start) makes a slider, for whole numbers or not; a list makes a choice
        that starts with its first entry; True or False makes a checkbox; any ipywidget with a `value` will do.
    The first figure is drawn at once, and also stored as a picture.

    Raises TypeError for another kind of control.
    """
    widgets = {name: _control(name, control) for name, control in controls.items()}
    # Use an Image widget, not an Output: it sends no stream of display messages and does not flicker.
    picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", align_self="flex-start"))
    messages = ipywidgets.Output()

    def drawn() -> bytes:
        return _png(draw(**{name: widget.value for name, widget in widgets.items()}), bbox_inches="tight")

    @messages.capture(clear_output=True, wait=True)
    def redraw(_change: dict | None = None) -> None:
        picture.value = drawn()

    picture.value = first = drawn()
    for widget in widgets.values():
        widget.observe(redraw, names="value")
    box = ipywidgets.VBox([*widgets.values(), picture, messages])
    display.show_png(first, alt, caption, {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": box.model_id}})


def _control(name: str, control) -> ipywidgets.Widget:
    options = {
        "description": name.replace("_", " "),
        "style": {"description_width": "8em"},
        "layout": ipywidgets.Layout(width="28em"),
    }
    if isinstance(control, ipywidgets.Widget):
        return control
    if isinstance(control, bool):
        return ipywidgets.Checkbox(value=control, **options)
    if isinstance(control, list) and control:
        return ipywidgets.Dropdown(options=control, value=control[0], **options)
    if isinstance(control, tuple) and len(control) == 3 and all(isinstance(n, int | float) for n in control):
        low, high, start = control
        bounds = {"min": low, "max": high, "value": start, "continuous_update": False}
        if all(isinstance(number, int) for number in control):
            return ipywidgets.IntSlider(**bounds, **options)
        return ipywidgets.FloatSlider(**bounds, step=(high - low) / 50, **options)
    raise TypeError(f"{name} must be (low, high, start), a list, True, False or a widget, got {control!r}; use a tuple")


def _show(traces, frames, labels, picture: Figure, azimuth, elevation, height, alt, caption) -> None:
    """Display plotly traces, with a slider if there are several frames, and store the picture beside them."""
    slider = _slider(labels, len(frames)) if len(frames) > 1 else None
    drawn = [*traces, *(trace for frame in frames for trace in frame.data)]
    points = np.concatenate([np.stack([trace.x, trace.y, trace.z], 1) for trace in drawn]).astype(float)
    unseen = [_cube(points)] if any(isinstance(trace, go.Mesh3d) for trace in traces) else []
    layout = go.Layout(
        template=None,
        width=WIDTH * height,
        height=height + (SLIDER if slider else 0),
        margin={"l": 0, "r": 0, "t": 20, "b": 0},
        legend={"orientation": "h", "itemsizing": "constant", "x": 0, "y": 1, "yanchor": "bottom"},
        showlegend=len([trace for trace in traces if trace.name]) > 1,
        scene=_scene(points, azimuth, elevation),
        sliders=[slider] if slider else None,
    )
    figure = go.Figure([*traces, *unseen], layout, frames if slider else None)
    display.show_png(_png(picture), alt, caption, {PLOTLY: json.loads(figure.to_json())})


def _cube(points: np.ndarray) -> go.Scatter3d:
    """Two invisible corners that make the data's bounding box a cube.

    plotly scales each axis by this box, and the lamp's direction with it. Above the box of a horse, which is long
    and narrow, the lamp would shine on the flanks alone, from wherever the viewer looks.
    """
    low, high = points.min(0), points.max(0)
    middle, half = (low + high) / 2, (high - low).max() / 2
    corners = dict(zip("xyz", np.stack([middle - half, middle + half], 1).tolist(), strict=True))
    return go.Scatter3d(**corners, mode="markers", opacity=0, hoverinfo="skip", showlegend=False)


def _scene(points: np.ndarray, azimuth: float, elevation: float) -> dict:
    """Layout of the scene: world y up, equal aspect, no axes, and a fixed frame that holds all points."""
    low, high = points.min(0), points.max(0)
    extent = np.maximum(high - low, 1e-3 * max((high - low).max(), 1e-9))
    middle, aspect = (low + high) / 2, DIAGONAL * extent / np.linalg.norm(extent)
    toward_camera = -plots.view_rotation(azimuth, elevation)[2].numpy()
    axes = {
        f"{axis}axis": {"visible": False, "range": [float(m - e / 2), float(m + e / 2)]}
        for axis, m, e in zip("xyz", middle, extent, strict=True)
    }
    return {
        **axes,
        "aspectmode": "manual",
        "aspectratio": _named(aspect),
        "camera": {
            "up": {"x": 0, "y": 1, "z": 0},
            "eye": _named(2 * toward_camera),
            "projection": {"type": "orthographic"},
        },
    }


def _check_labels(labels: Sequence[str] | None, count: int) -> None:
    if labels is not None and len(labels) != count:
        raise ValueError(f"labels must name all {count} steps, got {len(labels)}; give one for each")


def _named(vector) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))


def _slider(labels: Sequence[str] | None, count: int) -> dict:
    names = range(count) if labels is None else labels
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "steps": [{"method": "animate", "label": str(name), "args": [[str(i)], jump]} for i, name in enumerate(names)],
        "active": count - 1,
        "currentvalue": {"visible": False},
        "len": 0.94,
        "x": 0.03,
        "pad": {"t": 0, "b": 20},
    }


def _canvas(height: int) -> tuple[Figure, plt.Axes]:
    """Make a figure of the size of the view, with one axis that covers it."""
    fig = plt.figure(figsize=(WIDTH * height / 100, height / 100), layout="none")
    return fig, fig.add_axes((0.02, 0.02, 0.96, 0.88))


def _png(fig: Figure, **options) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", facecolor="white", **options)
    plt.close(fig)
    return buffer.getvalue()


def _steps(name: str, points) -> Float[Tensor, "T N 3"]:
    """Convert a still (N, 3) or moving (T, N, 3) cloud to (T, N, 3), on the CPU."""
    moving = isinstance(points, Tensor) and points.ndim == 3
    check_tensor(name, points, "T N 3" if moving else "N 3", finite=True)
    if points.numel() == 0:
        raise ValueError(f"{name} is empty, shape {tuple(points.shape)}; give at least one point")
    return (points if moving else points[None]).detach().cpu().float()


def _coordinates(points: Float[Tensor, "N 3"]) -> dict[str, np.ndarray]:
    columns = points.detach().cpu().float().numpy().T
    return dict(zip("xyz", columns, strict=True))


def _hex(colors: Float[Tensor, "N 3"]) -> list[str]:
    levels = (colors.detach().cpu().float().clamp(0, 1) * 255).round().int().tolist()
    return ["#{:02x}{:02x}{:02x}".format(*level) for level in levels]


def _colorscale(cmap: str) -> list:
    places = np.linspace(0, 1, 17)
    colors = _hex(torch.from_numpy(plt.get_cmap(cmap)(places)[:, :3]))
    return [list(stop) for stop in zip(places.tolist(), colors, strict=True)]
