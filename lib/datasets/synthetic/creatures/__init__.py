"""Procedural animals with all their truth: pictures, masks, keypoints, cameras, meshes, and the flow of videos.

Every creature belongs to a breed, a smooth solid meshed by marching cubes. An individual stretches the breed's
bones, takes a pose by blend skinning, and wears a coat painted in 3D. The models that learn from these pictures use
none of these methods, and the template is another mesh.

World: y up, the animal looks along +x, its mirror plane at rest is z = 0 (its right is +z), and the origin lies inside
the trunk. Units: a horse is about one unit tall at the withers, a bird about one and a half units long.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import rendering
from lib.datasets.cache import cached
from lib.datasets.synthetic.creatures.anatomy import BODIES
from lib.datasets.synthetic.creatures.backdrops import SCENES
from lib.datasets.synthetic.creatures.breeds import Breed, make_breed, pose_creature
from lib.datasets.synthetic.creatures.coats import COATS
from lib.datasets.synthetic.creatures.motion import GAITS, gait_pose, neutral_pose, sample_build, sample_pose
from lib.datasets.synthetic.creatures.pictures import (
    camera_rotation,
    cast_shadow,
    draw,
    frame,
    ground_row,
    sample_light,
    see_keypoints,
)
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import Mesh

# Raise these versions whenever the same arguments give other pictures, or other videos.
VERSION = 5
VIDEO_VERSION = 6
CATEGORIES = tuple(BODIES)
SPLITS = ("train", "validation", "test")
BREEDS = 24
# The number of a random stream. What is added comes last, so that the data of the others stay as they are.
_STREAMS = [(category, split) for category in CATEGORIES for split in ("train", "test")]
_STREAMS += [(category, "validation") for category in CATEGORIES]


def _names(category: str) -> list[str]:
    return [keypoint.name for keypoint in BODIES[category]().keypoints]


KEYPOINTS = {category: _names(category) for category in CATEGORIES}


def keypoint_permutation(category: str) -> Int[Tensor, "K"]:
    """For each keypoint the one on the animal's other side; keypoints of the midline map to themselves."""
    names = KEYPOINTS[_check_category(category)]
    swap = {"left": "right", "right": "left"}
    other = ["_".join([swap.get(part, part) for part in name.split("_")]) for name in names]
    return torch.tensor([names.index(name) for name in other])


@dataclass(frozen=True)
class Template:
    """A category's coarse symmetric mesh in a neutral stance, with a map onto the sphere.

    verts (642, 3), faces (1280, 3), outward; sphere (642, 3): unit vectors, on which the same triangles do not fold;
    mirror (642,): for each vertex its mirror image in the plane z = 0; keypoint_vertices (K,): the vertex nearest to
    each keypoint; keypoint_names (K); keypoint_permutation (K,): see the function of this name.
    """

    verts: Float[Tensor, "642 3"]
    faces: Int[Tensor, "1280 3"]
    sphere: Float[Tensor, "642 3"]
    mirror: Int[Tensor, "642"]
    keypoint_vertices: Int[Tensor, "K"]
    keypoint_names: list[str]
    keypoint_permutation: Int[Tensor, "K"]

    @property
    def mesh(self) -> Mesh:
        return Mesh(self.verts, self.faces)


def template(category: str) -> Template:
    """Load the template of "quadruped" or "bird"; `templates` tells how it was made."""
    _check_category(category)
    with resources.files(__package__).joinpath("templates.npz").open("rb") as file:
        arrays = np.load(file)
        parts = {
            name: torch.from_numpy(arrays[f"{category}_{name}"])
            for name in ("verts", "faces", "sphere", "mirror", "keypoint_vertices")
        }
    return Template(**parts, keypoint_names=KEYPOINTS[category], keypoint_permutation=keypoint_permutation(category))


@dataclass
class Creatures:
    """N pictures of one category, with all their truth.

    image (N, 3, H, W); mask (N, H, W), the share of each pixel that the animal covers;
    keypoints (N, K, 2) in the image plane; keypoint_visible (N, K): inside the image and not hidden by another part
    of the body; keypoints_3d (N, K, 3), world; camera (N, 7), vectors of `WeakPerspective`; meshes: the true surface of
    each animal in its pose, world, with vertex colours; rest_meshes: the same vertices of the same individual at rest.
    """

    category: str
    image: Float[Tensor, "N 3 H W"]
    mask: Float[Tensor, "N H W"]
    keypoints: Float[Tensor, "N K 2"]
    keypoint_visible: Bool[Tensor, "N K"]
    keypoints_3d: Float[Tensor, "N K 3"]
    camera: Float[Tensor, "N 7"]
    meshes: list[Mesh]
    rest_meshes: list[Mesh]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def keypoint_names(self) -> list[str]:
        return KEYPOINTS[self.category]

    def annotated(self, least: int = 7) -> tuple[dict[str, Tensor], dict[str, Tensor | list[Mesh]]]:
        """Split into what a learner may see and what only the examiner knows, of the pictures that show enough.

        The first has image, mask (cut at 0.5), keypoints and keypoint_visible, as `lib.datasets.KEYS` describes them;
        the second camera, keypoints_3d and meshes. least: pictures with fewer visible keypoints are left out, as in
        CMR's data.
        """
        kept = self.keypoint_visible.sum(1) >= least
        seen = {"image": self.image, "mask": (self.mask > 0.5).float(), "keypoints": self.keypoints}
        truth = {"camera": self.camera, "keypoints_3d": self.keypoints_3d}
        seen, truth = ({name: values[kept] for name, values in part.items()} for part in (seen, truth))
        seen["keypoint_visible"] = self.keypoint_visible[kept]
        return seen, truth | {"meshes": [mesh for mesh, keep in zip(self.meshes, kept, strict=True) if keep]}


@dataclass
class Video(Creatures):
    """The frames of a video of one moving animal: all that `Creatures` holds, and the true flow.

    All meshes have the same faces. flow (N − 1, 2, H, W): the true motion of each pixel from frame i to i + 1, in
    image-plane units, zero outside of the animal; flow_mask (N − 1, H, W): the animal's pixels in frame i; flow_visible
    (N − 1, H, W): those of them whose point of the animal is still seen in frame i + 1.
    """

    flow: Float[Tensor, "N-1 2 H W"]
    flow_mask: Bool[Tensor, "N-1 H W"]
    flow_visible: Bool[Tensor, "N-1 H W"]


def make_creatures(category: str, count: int, *, seed: int, image_size: int = 128, split: str = "train") -> Creatures:
    """Make `count` pictures of different individuals in different poses and coats, from all around.

    The splits share no breed, individual, pose, coat, view or scene. The first n pictures of a larger set are the
    set of n. Each picture takes a fraction of a second; afterwards all are read from the cache.

    Raises ValueError for an unknown category or split, or a count, seed or image size out of range.
    """
    key = _check(category, split, seed, image_size, count=count)

    def make() -> dict[str, Tensor]:
        breeds = [_breed(category, *key, 0, i) for i in range(min(count, BREEDS))]
        items = [_portray(breeds[i % BREEDS], _rng(*key, 1, i), image_size) for i in range(count)]
        return _pack(breeds, items)

    parameters = {"version": VERSION, "count": count, "seed": seed, "image_size": image_size, "split": split}
    with _one_thread():
        packed = cached(f"creatures-{category}", parameters, make)
    return Creatures(category=category, **_unpack(packed))


def make_video(
    category: str,
    frames: int,
    *,
    seed: int,
    image_size: int = 128,
    split: str = "train",
    gait: str | None = None,
    stride: int = 1,
) -> Video:
    """Make a video of a moving creature, `frames` frames before a slowly turning camera, with the true flow.

    gait: "walk" or "trot" for a quadruped, "hop" or "fly" for a bird; by default one of them, by the seed. stride:
    film only every so many moments, so that more moves between two frames; a cycle of a gait has 14 to 24 moments.

    Raises ValueError for an unknown category, split or gait, or a number out of range.
    """
    key = _check(category, split, seed, image_size, frames=frames, stride=stride)
    _check_gait(category, gait)

    def make() -> dict[str, Tensor]:
        return _film(_breed(category, *key, 2), _rng(*key, 3), frames, image_size, gait, stride)

    parameters = {"version": VIDEO_VERSION, "frames": frames, "seed": seed, "image_size": image_size, "split": split}
    with _one_thread():
        packed = cached(f"video-{category}", parameters | {"gait": gait, "stride": stride}, make)
    return Video(category=category, **_unpack(packed))


def make_videos(
    category: str,
    count: int,
    frames: int,
    *,
    seed: int,
    image_size: int = 128,
    split: str = "train",
    gait: str | None = None,
    stride: int = 1,
) -> list[Video]:
    """Make `count` videos of different individuals, of the breeds of `make_creatures`; the rest as `make_video`.

    The first n videos of a longer list are the list of n.
    """
    key = _check(category, split, seed, image_size, count=count, frames=frames, stride=stride)
    _check_gait(category, gait)

    def make() -> dict[str, Tensor]:
        films = {}
        for i in range(count):
            film = _film(_breed(category, *key, 0, i % BREEDS), _rng(*key, 4, i), frames, image_size, gait, stride)
            films |= {f"{i}/{name}": values for name, values in film.items()}
        return films

    parameters = {"version": VIDEO_VERSION, "count": count, "frames": frames, "seed": seed, "image_size": image_size}
    parameters |= {"split": split, "gait": gait, "stride": stride}
    with _one_thread():
        packed = cached(f"videos-{category}", parameters, make)
    films: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, values in packed.items():
        number, part = name.split("/")
        films[int(number)][part] = values
    return [Video(category=category, **_unpack(film)) for film in films]


def all_frames(videos: list[Video]) -> Creatures:
    """Put the frames of videos of one category one after another, as `Creatures`.

    Raises ValueError for an empty list, or videos of different categories.
    """
    if len(categories := {video.category for video in videos}) != 1:
        found = ", ".join(sorted(categories)) or "none"
        raise ValueError(f"videos must be one or more of one category, got {found}")
    parts = {}
    for name in ("image", "mask", "keypoints", "keypoint_visible", "keypoints_3d", "camera"):
        parts[name] = torch.cat([getattr(video, name) for video in videos])
    for name in ("meshes", "rest_meshes"):
        parts[name] = [mesh for video in videos for mesh in getattr(video, name)]
    return Creatures(category=categories.pop(), **parts)


@contextlib.contextmanager
def _one_thread():
    """Use one thread: the tensors are small, and on a busy machine threads that wait for each other are ten times
    slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=2 * BREEDS)
def _breed(category: str, *key: int) -> Breed:
    return make_breed(category, _rng(*key))


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _portray(breed: Breed, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
    """Draw one picture of one individual, with its truth."""
    category = breed.category
    build = sample_build(category, breed.body, rng, 0.5)
    posed, ground = pose_creature(breed, build, sample_pose(category, breed.body, rng))
    rest, _ = pose_creature(breed, build, neutral_pose(category, breed.body))
    verts = torch.from_numpy(posed).float()
    azimuth, roll = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.normal(0, 4))
    rotation = camera_rotation(azimuth, np.deg2rad(rng.uniform(-4, 28)), roll)
    camera = frame([verts], rotation[None], rng.uniform(0.74, 0.9), rng.uniform(-0.06, 0.06, 2))
    coat, light, scene = COATS[category](rng), sample_light(rng, azimuth), SCENES[category](rng)
    backdrop = cast_shadow(scene.draw(size, ground_row(camera, ground), roll), verts, ground, camera)
    image, mask, depth = draw(breed, verts, camera, coat, light, backdrop)
    return {
        "image": image,
        "mask": mask,
        "camera": camera.to_vector()[0],
        **see_keypoints(breed, verts, camera, depth),
        "verts": verts,
        "rest_verts": torch.from_numpy(rest).float(),
        "colors": coat(torch.from_numpy(breed.places).float(), torch.from_numpy(breed.hair).float()),
    }


def _film(
    breed: Breed, rng: np.random.Generator, count: int, size: int, gait: str | None, stride: int
) -> dict[str, Tensor]:
    """Draw the frames of one individual, with their truth."""
    category = breed.category
    build = sample_build(category, breed.body, rng, 0.5)
    gait = str(rng.choice(list(GAITS[category]))) if gait is None else gait
    period = GAITS[category][gait] * rng.uniform(0.85, 1.2)
    start, vigour, step = rng.uniform(), rng.uniform(0.85, 1.15), rng.uniform(0.2, 0.5) / 30
    rest, _ = pose_creature(breed, build, neutral_pose(category, breed.body))
    clips, level, moments = [], None, stride * np.arange(count)
    for moment in moments:
        posed, ground = pose_creature(breed, build, gait_pose(breed.body, gait, start + moment / period, vigour))
        level = ground if level is None else level
        clips.append(torch.from_numpy(posed + np.array([step * moment, level - ground, 0])).float())
    turn = rng.uniform(-0.012, 0.012) * moments + 0.05 * np.sin(moments / rng.uniform(8, 16))
    azimuth, roll = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.normal(0, 2))
    elevation = np.deg2rad(rng.uniform(0, 22))
    rotations = torch.stack([camera_rotation(azimuth + angle, elevation, roll) for angle in turn])
    cameras = frame(clips, rotations, rng.uniform(0.8, 0.9), rng.uniform(-0.03, 0.03, 2))
    coat, light, scene = COATS[category](rng), sample_light(rng, azimuth), SCENES[category](rng)
    colors = coat(torch.from_numpy(breed.places).float(), torch.from_numpy(breed.hair).float())
    faces, items, depths = torch.from_numpy(breed.faces), [], []
    for t, verts in enumerate(clips):
        camera = WeakPerspective.from_vector(cameras.to_vector()[t : t + 1])
        backdrop = scene.draw(size, ground_row(camera, level), roll, drift=0.8 * float(turn[t]))
        image, mask, depth = draw(breed, verts, camera, coat, light, cast_shadow(backdrop, verts, level, camera))
        truth = {"image": image, "mask": mask, "camera": camera.to_vector()[0]}
        truth |= see_keypoints(breed, verts, camera, depth)
        items.append(truth | {"verts": verts, "rest_verts": torch.from_numpy(rest).float(), "colors": colors})
        depths.append(depth)
    packed = _pack([breed], items)
    seen = cameras.project(torch.stack(clips))
    fragments = rendering.rasterize(seen[:-1], faces, size)
    packed["flow_mask"] = fragments.mask
    packed["flow"] = rendering.interpolate(seen[1:, :, :2] - seen[:-1, :, :2], faces, fragments)
    there = rendering.interpolate(seen[1:], faces, fragments)
    packed["flow_visible"] = fragments.mask & _still_seen(there, torch.stack(depths[1:]) if count > 1 else there[:, 0])
    return packed


def _still_seen(there: Float[Tensor, "T 3 H W"], depth: Float[Tensor, "T H2 W2"]) -> Bool[Tensor, "T H W"]:
    """Tell whether points (image-plane x, y, and depth) lie inside the image and on the surface of the depth map."""
    grid = there[:, :2].permute(0, 2, 3, 1)
    behind = torch.nn.functional.grid_sample(depth[:, None], grid, mode="nearest", align_corners=False)[:, 0]
    return (grid.abs() <= 1).all(-1) & (there[:, 2] <= behind + 0.03)


# Entries that are stored as bytes: a screen shows no more than 256 levels.
_BYTES = ("image", "mask", "colors")
_RAGGED = ("verts", "rest_verts", "colors")


def _pack(breeds: list[Breed], items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the tensors of equal shape, and concatenate those of meshes of different sizes. Item i is of the breed
    i mod the number of breeds."""
    packed = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if name in _BYTES:
            values = [(255 * value).round().byte() for value in values]
        packed[name] = torch.cat(values) if name in _RAGGED else torch.stack(values)
    packed["vert_counts"] = torch.tensor([len(item["verts"]) for item in items])
    packed["face_counts"] = torch.tensor([len(breed.faces) for breed in breeds])
    packed["faces"] = torch.cat([torch.from_numpy(breed.faces).int() for breed in breeds])
    return packed


def _unpack(packed: dict[str, Tensor]) -> dict:
    values = {name: value.float() / 255 if name in _BYTES else value for name, value in packed.items()}
    vert_counts = values.pop("vert_counts").tolist()
    faces = values.pop("faces").long().split(values.pop("face_counts").tolist())
    verts, rest_verts, colors = (values.pop(name).split(vert_counts) for name in _RAGGED)
    for name, points in (("meshes", verts), ("rest_meshes", rest_verts)):
        values[name] = [Mesh(points[i], faces[i % len(faces)], colors=colors[i]) for i in range(len(vert_counts))]
    return values


def _check(category: str, split: str, seed: int, image_size: int, **count: int) -> tuple[int, int]:
    """Refuse bad arguments; return the key that seeds the random streams."""
    _check_category(category)
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(map(repr, SPLITS))}")
    for name, value, least in (
        ("seed", seed, 0),
        ("image_size", image_size, 16),
        *((n, v, 1) for n, v in count.items()),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return seed, _STREAMS.index((category, split))


def _check_gait(category: str, gait: str | None) -> None:
    if gait is not None and gait not in GAITS[category]:
        raise ValueError(f"gait={gait!r} is unknown; a {category} has {', '.join(map(repr, GAITS[category]))}")


def _check_category(category: str) -> str:
    if category not in BODIES:
        raise ValueError(f"category={category!r} is unknown; use one of {', '.join(map(repr, BODIES))}")
    return category
