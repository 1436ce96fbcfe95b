"""Procedural animals with all their truth: pictures, masks, keypoints, cameras, meshes, and the flow of videos.

Every creature belongs to a breed, a smooth solid meshed by marching cubes; an individual stretches the breed's
bones, takes a pose by blend skinning, and wears a coat painted in 3D. None of this is the machinery of the models
that learn from them, and the template is another mesh.

World: y up, the animal looks along +x, its mirror plane at rest is z = 0 (its right is +z), the origin inside the
trunk. Units: a horse is about one unit tall at the withers, a bird about one and a half units long.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import rendering
from lib.datasets.cache import cached
from lib.datasets.synthetic.anatomy import BODIES, ORIGIN, Body
from lib.datasets.synthetic.coats import COATS, Coat
from lib.datasets.synthetic.implicit import symmetric_mesh
from lib.datasets.synthetic.motion import neutral_pose, sample_build, sample_pose
from lib.datasets.synthetic.scenery import SCENES
from lib.datasets.synthetic.skinning import (
    Build,
    Pose,
    bone_transforms,
    posed_body,
    skin,
    skin_weights,
)
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import Mesh, vertex_normals
from lib.geometry.rotations import axis_angle_to_matrix, matrix_to_quaternion, view_rotation

# Raise it whenever the same arguments give other data.
VERSION = 2
CATEGORIES = tuple(BODIES)
SPLITS = ("train", "test")
BREEDS = 24
SPACING = {"quadruped": 0.027, "bird": 0.023}


def _names(category: str) -> list[str]:
    return [keypoint.name for keypoint in BODIES[category]().keypoints]


KEYPOINTS = {category: _names(category) for category in CATEGORIES}


def keypoint_permutation(category: str) -> Int[Tensor, "K"]:
    """The keypoint on the animal's other side; those of the midline map to themselves. An involution."""
    names = KEYPOINTS[_check_category(category)]
    swap = {"left": "right", "right": "left"}
    other = ["_".join([swap.get(part, part) for part in name.split("_")]) for name in names]
    return torch.tensor([names.index(name) for name in other])


@dataclass(frozen=True)
class Template:
    """A category's coarse symmetric mesh in a neutral stance, with a map onto the sphere.

    verts (642, 3), faces (1280, 3), outward; sphere (642, 3): unit vectors, the same triangles without a fold;
    mirror (642,): the vertex opposite each in the plane z = 0; keypoint_vertices (K,): the vertex nearest to each
    landmark; keypoint_names and keypoint_permutation (K,) as everywhere.
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
    """The template of "quadruped" or "bird" (see `templates` for how it was made)."""
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
    of the body; keypoints_3d (N, K, 3), world; camera (N, 7), vectors of `WeakPerspective`;
    meshes: the true surface of each, posed, world, with vertex colours; rest_meshes: the same vertices of the same
    individual standing straight.
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


@dataclass(frozen=True)
class Breed:
    """A meshed solid with what it takes to move and paint it.

    places (V, 3): where each vertex lies on the middling body at rest, the coordinates of coats; hair (V,), open (V,):
    how much of the sky it sees; landmarks (K, 3) vertices and shares (K, 3): the keypoints, inside a triangle each.
    """

    category: str
    body: Body
    verts: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray
    weights: np.ndarray
    places: np.ndarray
    hair: np.ndarray
    open: np.ndarray
    landmarks: np.ndarray
    shares: np.ndarray


def make_breed(category: str, rng: np.random.Generator, spread: float = 1.0) -> Breed:
    """A breed with proportions drawn at random, at rest."""
    middling = BODIES[category]()
    build = sample_build(category, middling, rng, spread)
    still = Pose(np.zeros((len(middling.bones), 3)))
    body = posed_body(middling, build, still)
    solid = body.solid()
    verts, faces, mirror = symmetric_mesh(solid, SPACING[category])
    weights = skin_weights(body, verts, faces, mirror)
    matrices, offsets = bone_transforms(middling, build, still)
    inverse = np.linalg.inv(matrices)
    places = skin(weights, inverse, -np.einsum("jab,jb->ja", inverse, offsets), verts)
    normals = vertex_normals(torch.from_numpy(verts), torch.from_numpy(faces)).numpy()
    openness = np.clip(solid(verts + 0.08 * normals) / 0.08, 0, 1)
    landmarks, shares = _attach(body, solid, verts, faces, mirror)
    return Breed(category, body, verts, faces, mirror, weights, places, solid.hair(verts), openness, landmarks, shares)


def _attach(body: Body, solid, verts: np.ndarray, faces: np.ndarray, mirror: np.ndarray):
    """Each keypoint as a point of a triangle of the mesh; left ones are the reflections of right ones."""
    origins = np.array([keypoint.origin for keypoint in body.keypoints])
    directions = np.array([keypoint.direction for keypoint in body.keypoints])
    points = solid.cast(origins, directions, reach=0.4)
    landmarks, shares = np.zeros((len(points), 3), int), np.zeros((len(points), 3))
    names = [keypoint.name for keypoint in body.keypoints]
    for k, point in enumerate(points):
        if names[k].startswith("left_"):
            continue
        near = np.argsort(((verts - point) ** 2).sum(1))[:6]
        around = faces[np.isin(faces, near).any(1)]
        a, b, c = verts[around].transpose(1, 0, 2)
        system = np.stack([b - a, c - a], axis=-1)
        inner = np.einsum("fij,fj->fi", np.linalg.pinv(system), point - a)
        weights = np.clip(np.column_stack([1 - inner.sum(1), inner]), 0, 1)
        weights /= weights.sum(1, keepdims=True)
        best = np.linalg.norm(np.einsum("fc,fcx->fx", weights, verts[around]) - point, axis=1).argmin()
        landmarks[k], shares[k] = around[best], weights[best]
        if names[k].startswith("right_"):
            twin = names.index(names[k].replace("right_", "left_"))
            landmarks[twin], shares[twin] = mirror[around[best]], weights[best]
    return landmarks, shares


def pose_creature(breed: Breed, build: Build, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """The vertices (V, 3) of an individual in a pose, in the world, and the height of the ground, a number."""
    matrices, offsets = bone_transforms(breed.body, build, pose)
    verts = skin(breed.weights, matrices, offsets, breed.verts)
    verts = verts - breed.body.joints[0] - ORIGIN[breed.category]
    return verts, verts[:, 1].min() - pose.lift


def _frame_camera(verts: np.ndarray, rotation: Tensor, fill: float, shift: np.ndarray) -> WeakPerspective:
    """The camera of this rotation (3, 3) that sees all vertices, filling `fill` of the image, off centre by `shift`."""
    seen = torch.from_numpy(verts).float() @ rotation[:2].T
    low, high = seen.amin(0), seen.amax(0)
    scale = 2 * fill / (high - low).max()
    translation = torch.as_tensor(shift).float() - scale * (low + high) / 2
    return WeakPerspective(scale[None], translation[None], matrix_to_quaternion(rotation)[None])


@dataclass(frozen=True)
class Light:
    """direction (3,): towards the sun, world; ambient: the share of light from the sky; warmth: tints the sun (3,)."""

    direction: np.ndarray
    ambient: float
    warmth: np.ndarray


def _sample_light(rng: np.random.Generator, azimuth: float) -> Light:
    around, height = azimuth + rng.uniform(-1.2, 1.2), rng.uniform(0.45, 1.2)
    direction = np.array([np.sin(around) * np.cos(height), np.sin(height), np.cos(around) * np.cos(height)])
    return Light(direction, rng.uniform(0.38, 0.58), 1 + np.array([0.06, 0.01, -0.07]) * rng.uniform(-0.3, 1))


def _draw(
    breed: Breed, verts: np.ndarray, camera: WeakPerspective, coat: Coat, light: Light, scene: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """image (3, H, W), mask (H, W), and the depth (2H, 2W) behind them; scene (2H, 2W, 3)."""
    world = torch.from_numpy(verts).float()
    faces = torch.from_numpy(breed.faces)
    projected = camera.project(world[None])
    fragments = rendering.rasterize(projected, faces, 2 * size)
    covered = fragments.mask[0]
    corners = faces[fragments.face[0][covered]]
    shares = fragments.barycentrics[0][covered][..., None]
    normals = vertex_normals(world, faces)
    attributes = torch.cat(
        [torch.from_numpy(breed.places), torch.from_numpy(np.column_stack([breed.hair, breed.open])), normals], -1
    ).float()
    places, hair, sky, normal = (attributes[corners] * shares).sum(1).split([3, 1, 1, 3], dim=-1)
    albedo = coat(places, hair[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=-1)
    sun = (normal @ torch.as_tensor(light.direction).float()).clamp(min=0)[:, None]
    dome = light.ambient * (0.72 + 0.28 * normal[:, 1:2]) * (0.45 + 0.55 * sky)
    lit = albedo * (dome + (1.12 - light.ambient) * sun * (0.6 + 0.4 * sky) * torch.as_tensor(light.warmth).float())
    picture = scene.clone()
    picture[covered] = lit.clamp(0, 1)
    image = torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1)[None], 2)[0]
    mask = torch.nn.functional.avg_pool2d(covered[None, None].float(), 2)[0, 0]
    return image, mask, fragments.depth[0]


def _landmarks(breed: Breed, verts: np.ndarray, camera: WeakPerspective, depth: Tensor) -> dict[str, Tensor]:
    points = torch.from_numpy((breed.shares[..., None] * verts[breed.landmarks]).sum(1)).float()
    seen = camera.project(points[None])[0]
    size = depth.shape[-1]
    pixel = ((seen[:, :2] + 1) / 2 * size).floor().long()
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    column, row = pixel.clamp(0, size - 1).unbind(-1)
    slack = torch.tensor([keypoint.thickness for keypoint in breed.body.keypoints]) * camera.scale
    visible = inside & (seen[:, 2] <= depth[row, column] + slack)
    return {"keypoints": seen[:, :2], "keypoint_visible": visible, "keypoints_3d": points}


def _shadow(scene: Tensor, verts: np.ndarray, ground: float, camera: WeakPerspective, strength: float = 0.5) -> Tensor:
    """Darken the ground of a picture (H, W, 3) under the animal, as a high, hazy sun would."""
    size = len(scene)
    flat = np.column_stack([verts[:, 0], np.full(len(verts), ground), verts[:, 2]])
    reach = np.maximum(0, 1 - (verts[:, 1] - ground) / 1.3)
    seen = camera.project(torch.from_numpy(flat).float()[None])[0, :, :2]
    cells = size // 8
    at = ((seen + 1) / 2 * cells).floor().long().clamp(0, cells - 1)
    density = torch.zeros(cells * cells).index_add(0, at[:, 1] * cells + at[:, 0], torch.from_numpy(reach).float())
    density = density.reshape(1, 1, cells, cells)
    for _ in range(3):
        density = torch.nn.functional.avg_pool2d(density, 3, 1, 1)
    density = torch.nn.functional.interpolate(density, size=(size, size), mode="bilinear")[0, 0]
    cover = 1 - torch.exp(-3 * density / density.max().clamp(min=1e-6))
    return scene * (1 - strength * cover)[..., None]


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _make_one(category: str, key: tuple[int, int], index: int, breed: Breed, size: int) -> dict:
    rng = _rng(*key, 1, index)
    build = sample_build(category, breed.body, rng, 0.5)
    pose = sample_pose(category, breed.body, rng)
    verts, ground = pose_creature(breed, build, pose)
    rest, _ = pose_creature(breed, build, neutral_pose(category, breed.body))
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(-4, 28))
    roll = np.deg2rad(rng.normal(0, 4))
    camera = _frame_camera(
        verts, _rotation(azimuth, elevation, roll), rng.uniform(0.74, 0.9), rng.uniform(-0.06, 0.06, 2)
    )
    coat, light = COATS[category](rng), _sample_light(rng, azimuth)
    scene = SCENES[category](rng)
    feet = _feet(camera, ground)
    backdrop = _shadow(scene.draw(2 * size, feet, roll), verts, ground, camera)
    image, mask, depth = _draw(breed, verts, camera, coat, light, backdrop, size)
    colors = coat(torch.from_numpy(breed.places).float(), torch.from_numpy(breed.hair).float())
    return {
        "image": image,
        "mask": mask,
        "camera": camera.to_vector()[0],
        **_landmarks(breed, verts, camera, depth),
        "verts": torch.from_numpy(verts).float(),
        "rest_verts": torch.from_numpy(rest).float(),
        "faces": torch.from_numpy(breed.faces),
        "colors": colors,
    }


def _rotation(azimuth: float, elevation: float, roll: float) -> Tensor:
    """World → camera (3, 3); roll turns the picture."""
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.0, roll], dtype=torch.float32))
    return turn @ view_rotation(torch.tensor(azimuth).float(), torch.tensor(elevation).float())


def _feet(camera: WeakPerspective, ground: float) -> float:
    """The image row of the ground below the origin."""
    return float(camera.project(torch.tensor([[[0.0, float(ground), 0.0]]]))[0, 0, 1])


def make_creatures(category: str, count: int, *, seed: int, image_size: int = 128, split: str = "train") -> Creatures:
    """`count` pictures of different individuals in different poses and coats, from all around.

    The two splits share no breed, individual, pose, coat, view or scene, and the first n of a larger set are the set
    of n. Made in a fraction of a second each, and read from the cache thereafter.

    Raises ValueError for an unknown category or split, or a count, seed or image size out of range.
    """
    _check_category(category)
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(map(repr, SPLITS))}")
    _check_at_least("count", count, 1)
    _check_at_least("seed", seed, 0)
    _check_at_least("image_size", image_size, 16)
    key = (seed, 2 * CATEGORIES.index(category) + SPLITS.index(split))

    def make() -> dict[str, Tensor]:
        breeds = [make_breed(category, _rng(*key, 0, i)) for i in range(min(count, BREEDS))]
        return _pack([_make_one(category, key, i, breeds[i % BREEDS], image_size) for i in range(count)])

    parameters = {"version": VERSION, "count": count, "seed": seed, "image_size": image_size, "split": split}
    return Creatures(category=category, **_unpack(cached(f"creatures-{category}", parameters, make)))


def _pack(items: list[dict]) -> dict[str, Tensor]:
    """Stack what has one shape; string together what belongs to meshes of different sizes."""
    ragged = ("verts", "rest_verts", "faces", "colors")
    packed = {name: torch.stack([item[name] for item in items]) for name in items[0] if name not in ragged}
    packed |= {name: torch.cat([item[name] for item in items]) for name in ragged}
    packed["vert_counts"] = torch.tensor([len(item["verts"]) for item in items])
    packed["face_counts"] = torch.tensor([len(item["faces"]) for item in items])
    return packed


def _unpack(packed: dict[str, Tensor]) -> dict:
    vert_counts, face_counts = packed["vert_counts"].tolist(), packed["face_counts"].tolist()
    faces = packed["faces"].split(face_counts)
    colors = packed["colors"].split(vert_counts)
    meshes = {
        name: [Mesh(v, f, colors=c) for v, f, c in zip(packed[source].split(vert_counts), faces, colors, strict=True)]
        for name, source in (("meshes", "verts"), ("rest_meshes", "rest_verts"))
    }
    skipped = ("verts", "rest_verts", "faces", "colors", "vert_counts", "face_counts")
    return {name: value for name, value in packed.items() if name not in skipped} | meshes


def _check_category(category: str) -> str:
    if category not in BODIES:
        raise ValueError(f"category={category!r} is unknown; use one of {', '.join(map(repr, BODIES))}")
    return category


def _check_at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
