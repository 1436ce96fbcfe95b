"""Static figures in the course's style."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import display, rendering
from lib.geometry import rotations

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]


def use_style() -> None:
    """Set matplotlib to the course's style; call it once in a notebook's set-up cell."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "legend.frameon": False,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
            "figure.constrained_layout.use": True,
        }
    )


def present(fig: Figure, alt: str, caption: str = "") -> None:
    """Show a finished figure in the notebook and close it.

    alt: a text for readers who cannot see it, the same on every machine. caption: Markdown below the figure; it may
    hold measured values.
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight", facecolor="white")
    plt.close(fig)
    display.show_png(_opaque_png(buffer), alt, caption)


def play(frames: Sequence, alt: str, caption: str = "", *, seconds: float = 4.0, colors: int = 64) -> None:
    """Show a short animation in the notebook: an animated PNG, which browsers, JupyterLab and saved pages play.

    frames: images of one size, each (3, H, W), (H, W) or (H, W, 3) in [0, 1]. The last one stays for a second, and is
        the still picture for readers whose program cannot play it.
    seconds: duration of all frames together. colors: size of the palette that all frames share; fewer colours make a
        smaller file.

    Raises ValueError for no frames or frames of different sizes.
    """
    display.show_png(encode_animation(frames, seconds=seconds, colors=colors), alt, caption)


def encode_animation(frames: Sequence, *, seconds: float = 4.0, colors: int = 64) -> bytes:
    """Encode the animated PNG of `play`."""
    arrays = [np.round(255 * np.asarray(to_image(frame), dtype=np.float64)).astype(np.uint8) for frame in frames]
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) != 1:
        raise ValueError(f"frames must be images of one size and at least one; got {sizes or 'none'}")
    pictures = [PIL.Image.fromarray(array).convert("RGB") for array in arrays]
    strip = PIL.Image.fromarray(
        np.concatenate([np.asarray(picture) for picture in pictures[:: len(pictures) // 8 + 1]])
    )
    palette = strip.quantize(colors, method=PIL.Image.Quantize.MEDIANCUT)
    pictures = [_quantize(picture, palette) for picture in pictures]
    pause = round(1000 * seconds / len(pictures))
    buffer = io.BytesIO()
    # The still picture comes first and is not part of the animation.
    pictures[-1].save(
        buffer,
        "PNG",
        save_all=True,
        default_image=True,
        append_images=pictures,
        duration=[pause] * (len(pictures) - 1) + [max(pause, 1000)],
        loop=0,
        optimize=True,
    )
    return buffer.getvalue()


def _quantize(picture: PIL.Image.Image, palette: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in the palette's colours. White stays white, or a background would turn bluish on the page."""
    indices = np.array(picture.quantize(palette=palette, dither=PIL.Image.Dither.NONE))
    levels = np.array(palette.getpalette()).reshape(-1, 3)
    lightest = levels.sum(1).argmax()
    if levels[lightest].min() > 240:
        levels[lightest] = 255
        indices[(np.asarray(picture) == 255).all(-1)] = lightest
    quantized = PIL.Image.fromarray(indices.astype(np.uint8), mode="P")
    quantized.putpalette(levels.flatten().tolist())
    return quantized


def show_losses(
    histories: dict[str, dict[str, Sequence[float]] | Sequence[float]],
    terms: Sequence[str] = ("loss",),
    *,
    log: bool = True,
    title: str = "loss against step",
    height: float = 2.4,
) -> Figure:
    """Draw curves of the loss against the step, one panel a term, one curve a history.

    histories: results of `training.fit`, or plain sequences with one value a step, by the names that the legend shows.
    terms: which entries of the histories to draw. log: whether the loss has a logarithmic axis.

    Raises ValueError if no history has one of the terms.
    """
    fig, axes = plt.subplots(1, len(terms), figsize=(1.9 * height * len(terms), height), squeeze=False)
    for axis, term in zip(axes[0], terms, strict=True):
        for name, history in histories.items():
            if not isinstance(history, dict):
                history = {"step": range(1, len(history) + 1), term: history}
            if term in history:
                steps = history["step"] if len(history["step"]) == len(history[term]) else range(len(history[term]))
                axis.plot(steps, history[term], label=name, linewidth=1.2)
        if not axis.lines:
            raise ValueError(f"histories have no term {term!r}; they have {', '.join(map(str, history))}")
        axis.set(xlabel="step", title=title if term == "loss" else term, yscale="log" if log else "linear")
    if len(histories) > 1:
        axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the curves, never on them
    return fig


def _opaque_png(buffer: io.BytesIO) -> bytes:
    """Remove matplotlib's alpha channel, which has no effect on white: the file becomes a tenth smaller."""
    smaller = io.BytesIO()
    PIL.Image.open(buffer).convert("RGB").save(smaller, "PNG", optimize=True)
    return smaller.getvalue()


def to_image(image) -> np.ndarray:
    """Convert (3, H, W), (1, H, W), (H, W) or (H, W, 3) in [0, 1] to an array that `imshow` takes."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return array.clip(0, 1) if array.ndim == 3 else array


def show_images(
    images: Sequence, titles: Sequence[str] | None = None, *, columns: int | None = None, height: float = 2.2, **imshow
) -> Figure:
    """Draw a grid of images, each (3, H, W) or (H, W), with titles; one channel is shown in `cmap` (default: grey)."""
    columns = columns or min(len(images), 6)
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(height * columns, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, image in enumerate(images):
        array = to_image(image)
        options = {"cmap": "gray", "vmin": 0, "vmax": 1} if array.ndim == 2 and not imshow else imshow
        axes.flat[i].imshow(array, **options)
        if titles is not None:
            axes.flat[i].set_title(titles[i])
    return fig


def view_rotation(azimuth: float, elevation: float) -> torch.Tensor:
    """The rotation (3, 3) world → camera; angles in degrees (see `rotations.view_rotation`)."""
    angles = torch.deg2rad(torch.tensor([azimuth, elevation], dtype=torch.float32))
    return rotations.view_rotation(angles[0], angles[1])


def shaded_mesh(
    verts,
    faces,
    *,
    colors=None,
    values=None,
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
    azimuth: float = 30.0,
    elevation: float = 15.0,
    size: int = 256,
    center=None,
    radius: float | None = None,
) -> np.ndarray:
    """Draw a Lambert-shaded picture of a mesh on white, (size, size, 3).

    verts (V, 3), faces (F, 3); `colors` (V, 3) in [0, 1], or `values` (V,) painted with `cmap` between
    `limits`. The camera stands at `azimuth`, `elevation` in degrees. At azimuth 0 it looks along −z: an animal,
    which looks along +x, is seen from its right side, heading right. At azimuth 90 it sees the animal's face.
    `center` (3,) and `radius` fix the framing, so that several pictures share one scale.
    """
    verts = torch.as_tensor(verts).detach().cpu().float()
    faces = torch.as_tensor(faces).detach().cpu().long()
    if values is not None:
        numbers = torch.as_tensor(values).detach().cpu().float().numpy()
        low, high = limits or (numbers.min(), numbers.max())
        scaled = (numbers - low) / max(high - low, 1e-12)
        colors = torch.from_numpy(plt.get_cmap(cmap)(scaled.clip(0, 1))[:, :3]).float()
    elif colors is None:
        colors = torch.tensor([0.66, 0.75, 0.86]).expand(len(verts), 3)
    else:
        colors = torch.as_tensor(colors).detach().cpu().float()
    if center is None:
        center = (verts.amax(0) + verts.amin(0)) / 2
    points = verts - torch.as_tensor(center).detach().cpu().float()
    radius = float(points.norm(dim=-1).max() if radius is None else radius)
    points = points @ view_rotation(azimuth, elevation).T / (1.05 * radius)
    supersampled = 2 * size
    picture = rendering.shade(points[None], faces, colors[None], supersampled, background=1.0)[0]
    picture = torch.nn.functional.avg_pool2d(picture[None], 2)[0]
    return picture.permute(1, 2, 0).clamp(0, 1).numpy()


def draw_mesh(axis: Axes, verts, faces, title: str = "", **options) -> None:
    """Draw `shaded_mesh(verts, faces, **options)` into a matplotlib axis."""
    axis.imshow(shaded_mesh(verts, faces, **options))
    axis.set_axis_off()
    axis.set_title(title)


def draw_points(
    axis: Axes,
    points,
    title: str = "",
    *,
    azimuth: float = 30.0,
    elevation: float = 15.0,
    color=None,
    size: float = 4,
    **scatter,
) -> None:
    """Draw a point cloud (N, 3) orthographically from `azimuth`, `elevation` in degrees, far points first."""
    points = torch.as_tensor(points).detach().cpu().float() @ view_rotation(azimuth, elevation).T
    order = points[:, 2].argsort(descending=True)
    color = color.detach().cpu() if isinstance(color, torch.Tensor) else color
    chosen = color if color is None or isinstance(color, str) else np.asarray(color)[order.numpy()]
    axis.scatter(points[order, 0], points[order, 1], s=size, c=chosen, linewidths=0, **scatter)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.set_axis_off()
    axis.set_title(title)
