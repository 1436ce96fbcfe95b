"""ShapeNet: views of its meshes, drawn by the course's renderer; and of meshes of your own.

Source: Chang et al., "ShapeNet: an information-rich 3D model repository", 2015 (release ShapeNetCore.v2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.checks import number, whole_number
from lib.datasets.synthetic import objects
from lib.geometry.cameras import Pinhole
from lib.geometry.mesh import Mesh, load_mesh
from lib.rendering import texture_lookup

SYNSETS = {
    "plane": "02691156",
    "car": "02958343",
    "chair": "03001627",
    "lamp": "03636649",
    "mug": "03797390",
    "table": "04379243",
}
NEEDED = (
    "ask for ShapeNetCore.v2 at shapenet.org (for research) and unpack it into the root folder, so that it holds "
    "<synset>/<model>/models/model_normalized.obj"
)
AXES = {"x": (1, 0, 0), "-x": (-1, 0, 0), "y": (0, 1, 0), "-y": (0, -1, 0), "z": (0, 0, 1), "-z": (0, 0, -1)}


class ShapeNet:
    """ShapeNet(root, "car"): the models of one family, in the order of their names; len(…) of them.

    models: only those of these names, such as the training models. front, up: which axis of the files points ahead and
    which up, as "x", "-z" …; by default those of the release. Look at a few pictures before you trust them.

    Raises FileNotFoundError, which says what to download and where to put it.
    """

    def __init__(
        self, root: str | Path, family: str, models: Sequence[str] | None = None, front: str = "-z", up: str = "y"
    ) -> None:
        if family not in SYNSETS:
            raise ValueError(f"family={family!r} is unknown; use one of {', '.join(map(repr, SYNSETS))}")
        self.turn = turn_to_course(front, up)
        folder = Path(root) / SYNSETS[family]
        found = {path.parent.parent.name: path for path in sorted(folder.glob("*/models/model_normalized.obj"))}
        if not found:
            raise FileNotFoundError(f"{folder} has no models; {NEEDED}")
        if models is not None and (unknown := [name for name in models if name not in found]):
            raise ValueError(f"models: {folder} has no {unknown[0]}; leave it out")
        self.paths = [path for name, path in found.items() if models is None or name in set(models)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Mesh:
        """Read a model into the objects' frame: centred, longest side 1, looking along +x, y up, with colours."""
        return to_object_frame(load_mesh(self.paths[index]), self.turn)

    def views(self, views: int, *, seed: int, image_size: int = 64, **options) -> objects.View:
        """Draw pictures of all models; see `draw_views`."""
        return draw_views([self[i] for i in range(len(self))], views, seed=seed, image_size=image_size, **options)


def draw_views(
    meshes: Sequence[Mesh],
    views: int,
    *,
    seed: int,
    image_size: int = 64,
    elevations: tuple[float, float] = (5.0, 45.0),
) -> objects.View:
    """Draw `views` pictures of each mesh from random sides, as `objects.make_views` does; they have no keypoints.

    meshes: in the objects' frame, with colours; `to_object_frame` brings them there.
    """
    if not meshes:
        raise ValueError("meshes is empty; give at least one")
    views, image_size = whole_number("views", views), whole_number("image_size", image_size, 8)
    low, high = (number("elevations", angle) for angle in elevations)
    if not -90 <= low <= high <= 90:
        raise ValueError(f"elevations must be two rising angles of −90° … 90°, got {elevations}")
    rng = np.random.default_rng(whole_number("seed", seed, 0))
    parts, cameras = [], []
    for mesh in meshes:
        azimuth = torch.from_numpy(rng.uniform(-np.pi, np.pi, views)).float()
        camera = objects.look_at(azimuth, torch.from_numpy(np.deg2rad(rng.uniform(low, high, views))).float())
        parts.append(objects.render(mesh, camera, image_size))
        cameras.append(camera)
    drawn = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    fields = {name: torch.cat([getattr(c, name) for c in cameras]) for name in ("focal", "rotation", "translation")}
    count = len(meshes) * views
    which = torch.arange(len(meshes)).repeat_interleave(views)
    return objects.View(**drawn, camera=Pinhole(**fields), keypoints=torch.zeros(count, 0, 3), which=which)


def to_object_frame(mesh: Mesh, turn: Tensor | None = None) -> Mesh:
    """Turn a mesh, centre its bounding box, bring its longest side to 1; a texture becomes colours of the vertices.

    turn (3, 3): see `turn_to_course`; by default none. A mesh without colours becomes grey.
    """
    verts = mesh.verts if turn is None else mesh.verts @ turn.T.to(mesh.verts)
    low, high = verts.amin(0), verts.amax(0)
    colors = mesh.colors
    if mesh.texture is not None and mesh.uvs is not None:
        found = texture_lookup(mesh.uvs[None, None], mesh.texture[None])[0, :, 0].T
        colors = found if colors is None else found * colors
    if colors is None:
        colors = torch.full_like(verts, 0.7)
    return Mesh((verts - (low + high) / 2) / (high - low).max(), mesh.faces, colors=colors)


def turn_to_course(front: str, up: str) -> Tensor:
    """Return the rotation (3, 3) that takes the axis `front` to +x and `up` to +y.

    Raises ValueError for an unknown axis, or two that are not at right angles.
    """
    for name, axis in (("front", front), ("up", up)):
        if axis not in AXES:
            raise ValueError(f"{name}={axis!r} is unknown; use one of {', '.join(map(repr, AXES))}")
    ahead, above = (torch.tensor(AXES[axis], dtype=torch.float32) for axis in (front, up))
    if ahead @ above != 0:
        raise ValueError(f"front={front!r} and up={up!r} must be at right angles")
    return torch.stack([ahead, above, torch.linalg.cross(ahead, above)])
