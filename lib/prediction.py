"""The networks whose weights ship with the course, on a picture of yours: a mesh, and a turntable to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib import colormaps
from torch import Tensor, nn

from lib import plots, weights
from lib.checks import check_tensor, whole_number
from lib.datasets import photographs
from lib.datasets.synthetic import creatures, objects
from lib.deformation.handles import HandleLayer
from lib.files import write_atomically
from lib.geometry.cameras import WeakPerspective
from lib.geometry.depth_maps import depth_mesh
from lib.geometry.image_plane import sample_image
from lib.geometry.mesh import Mesh, icosphere, mirror_permutation, save_mesh
from lib.geometry.turntable import FOCAL, PIVOT
from lib.models.articulated import Articulated
from lib.models.cmr import CMR
from lib.models.keypointnet import KeypointNet, OrientationNet
from lib.models.to_the_point import ToThePoint
from lib.models.unsup3d import BORDER_DEPTH, PhotoGeometricAutoencoder

SIZE = 64  # pixels of a side of the pictures that all of them were trained on


@dataclass(frozen=True)
class Reconstruction:
    """One picture's shape, with a colour for each vertex. World: y up; an animal looks along +x, a face along +z.

    camera: the one under which the mesh is seen in the picture; None where the shape is keypoints alone. remark: what a
    reader must know of this result; often empty.
    """

    mesh: Mesh
    camera: WeakPerspective | None = None
    remark: str = ""


def pretrained(chapter: str) -> tuple[nn.Module, dict]:
    """Make the network of a chapter with the weights that ship with it, in evaluation mode; return it and its card.

    chapter: such as "8", "08" or "08_correspondences". Raises ValueError for a chapter without such weights.
    """
    name = _name(chapter)
    model = NETWORKS[name][0]()
    return model.eval(), weights.load_pretrained(name, model)


@torch.no_grad()
def reconstruct(chapter: str, model: nn.Module, image: Float[Tensor, "3 64 64"]) -> Reconstruction:
    """Reconstruct a picture with the network of this chapter."""
    check_tensor("image", image, f"3 {SIZE} {SIZE}")
    return NETWORKS[_name(chapter)][1](model, image[None])


def turntable(mesh: Mesh, frames: int = 24, size: int = 256) -> bytes:
    """Draw a mesh from all sides: an animated PNG, which browsers and JupyterLab play."""
    frames = whole_number("frames", frames)
    turns = [360 * k / frames for k in range(frames)]
    options = {"colors": mesh.colors, "size": size}
    pictures = [plots.shaded_mesh(mesh.verts, mesh.faces, azimuth=turn, **options) for turn in turns]
    return plots.encode_animation(pictures)


def predict(chapter: str, path: str | Path, out: str | Path = ".") -> tuple[list[Path], str]:
    """Reconstruct a picture from a file; write `<picture>_<chapter>.glb` and `…_turntable.png` into the folder `out`.

    The middle square of the picture is taken. Returns the files, and a line about what the network has seen.

    Raises OSError for a file that is no picture, or a folder that cannot be written; ValueError for a chapter without
    weights. Nothing is written then.
    """
    name = _name(chapter)
    image = photographs.own_picture(path, SIZE)
    model, card = pretrained(name)
    found = reconstruct(name, model, image)
    start = Path(out) / f"{Path(path).stem}_{name}"
    files = [start.with_name(f"{start.name}.glb"), start.with_name(f"{start.name}_turntable.png")]
    animation = turntable(found.mesh)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    save_mesh(files[0], found.mesh)
    write_atomically(files[1], animation)
    seen = f"The network has seen {card['data']}, and no photograph: of anything else its answer is a guess."
    return files, f"{seen} {NETWORKS[name][2]} {found.remark}".rstrip()


def _name(chapter: str) -> str:
    for name in NETWORKS:
        if str(chapter).lstrip("0") in (name.lstrip("0"), name.split("_")[0].lstrip("0")):
            return name
    there = ", ".join(NETWORKS)
    raise ValueError(f"no weights ship for chapter {chapter!r}; there are {there}; train others with `course run`")


def _category_meshes() -> CMR:
    ball, sides = icosphere(3), creatures.keypoint_permutation("quadruped")
    options = {"image_size": SIZE, "width": 16, "map_channels": 64, "texture_size": 32, "texture_width": 16}
    options |= {"symmetric_offsets": False, "smoothing": 5.0, "heat_maps": len(sides)}
    return CMR(ball.verts, ball.faces, ball.verts, mirror_permutation(ball.verts), sides, **options)


def _from_category_meshes(model: CMR, images: Tensor) -> Reconstruction:
    found = model(images)
    colors = model.vertex_colors(sample_image(images, found.flow))[0]
    camera = WeakPerspective.from_vector(found.camera)
    return Reconstruction(Mesh(found.verts[0], model.faces, colors=colors.clamp(0, 1)), camera)


def _motion() -> Articulated:
    horse = creatures.template("quadruped")
    options = {"image_size": SIZE, "width": 12, "map_channels": 48, "texture_size": 32, "texture_width": 16}
    options["heat_maps"] = len(horse.keypoint_vertices)
    return Articulated(horse.mesh, horse.sphere, HandleLayer(horse.mesh, 16), horse.keypoint_vertices, **options)


def _from_motion(model: Articulated, images: Tensor) -> Reconstruction:
    """Take colours from where the vertices lie in the picture, also those behind: chapter 7 trains no texture."""
    found = model(images)
    camera = WeakPerspective.from_vector(found.camera)
    seen = camera.project(found.verts)[..., :2]
    colors = sample_image(images, seen[:, None])[0, :, 0].mT
    return Reconstruction(Mesh(found.verts[0], model.faces, colors=colors), camera)


def _correspondences() -> ToThePoint:
    horse = creatures.template("quadruped")
    return ToThePoint(horse.mesh, horse.keypoint_vertices, image_size=SIZE, width=12, modes=30)


def _from_correspondences(model: ToThePoint, images: Tensor) -> Reconstruction:
    points = model(images)
    found = model.solve(points)
    colors = model.texture(images, points.points)[0]
    remark = "" if found.solved[0] else "No camera fits its points: the mesh is the template."
    return Reconstruction(Mesh(found.verts[0], model.faces, colors=colors.clamp(0, 1)), found.camera, remark)


def _symmetry() -> PhotoGeometricAutoencoder:
    aids = {"coarse": 2, "average": True, "level_albedo": True, "prior": 0.5, "least_sigma": 0.1}
    aids |= {"max_shift": 0.005, "max_turns": (25, 60, 15), "view_gain": 12.0, "light_gain": 4.0, "shared": True}
    return PhotoGeometricAutoencoder(SIZE, 16, 128, **aids)


def _from_symmetry(model: PhotoGeometricAutoencoder, images: Tensor) -> Reconstruction:
    """Make the canonical face a mesh in the colours of its albedo, without the background behind it."""
    found = model(images)
    mesh = depth_mesh(found.depth[0], found.albedo[0], FOCAL, PIVOT, farthest=BORDER_DEPTH - 0.005)
    places = mesh.uvs * mesh.uvs.new_tensor([2.0, -2.0]) - mesh.uvs.new_tensor([1.0, -1.0])
    colors = sample_image(found.albedo, places[None, None])[0, :, 0].mT
    return Reconstruction(Mesh(mesh.verts, mesh.faces, colors=colors.clamp(0, 1)))


def _keypoints() -> nn.ModuleDict:
    return nn.ModuleDict({"keypoints": KeypointNet(8, 32, stride=4), "orientation": OrientationNet(16, stride=4)})


def _from_keypoints(model: nn.ModuleDict, images: Tensor) -> Reconstruction:
    """Make a ball for each keypoint, in the place where it lies from the camera, which looks along −z here."""
    focal = objects.look_at(torch.zeros(1), torch.zeros(1)).focal
    points = model["keypoints"](images, focal, model["orientation"].flag(images)).points[0]
    points = (points - points.mean(0)) * points.new_tensor([1.0, -1.0, -1.0])
    ball = icosphere(2, radius=0.05)
    hues = torch.tensor([colormaps["tab10"](k)[:3] for k in range(len(points))], dtype=torch.float32)
    verts = (points[:, None] + ball.verts).flatten(0, 1)
    faces = torch.cat([ball.faces + k * len(ball.verts) for k in range(len(points))])
    return Reconstruction(Mesh(verts, faces, colors=hues.repeat_interleave(len(ball.verts), 0)))


# Chapters: the network, how a picture becomes a shape with it, and a line about the shape.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Reconstruction], str]] = {
    "05_category_meshes": (_category_meshes, _from_category_meshes, "It sees every picture as a horse."),
    "07_motion": (_motion, _from_motion, "It sees every picture as a horse."),
    "08_correspondences": (_correspondences, _from_correspondences, "It sees every picture as a horse."),
    "09_symmetry": (
        _symmetry,
        _from_symmetry,
        "It sees every picture as a face, and has one relief for everybody: the colours are the picture's.",
    ),
    "10_keypoints": (_keypoints, _from_keypoints, "It sees every picture as a car; the balls are its keypoints."),
}
