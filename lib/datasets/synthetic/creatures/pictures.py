"""Pictures of creatures: the camera that frames one, the light, the shading, the visible keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib import rendering
from lib.datasets.synthetic.creatures.breeds import Breed
from lib.datasets.synthetic.creatures.coats import Coat
from lib.geometry.cameras import WeakPerspective
from lib.geometry.mesh import vertex_normals
from lib.geometry.rotations import axis_angle_to_matrix, matrix_to_quaternion, view_rotation

# Samples per pixel, along each axis, against jagged edges.
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Light:
    """Sunlight. direction (3,): towards the sun, world; ambient: the share of light from the sky; warmth (3,): the
    colour of the sun."""

    direction: np.ndarray
    ambient: float
    warmth: np.ndarray


def sample_light(rng: np.random.Generator, azimuth: float) -> Light:
    """Draw a sun that stands more or less behind a camera at `azimuth` (radians)."""
    around, height = azimuth + rng.uniform(-1.2, 1.2), rng.uniform(0.45, 1.2)
    direction = np.array([np.sin(around) * np.cos(height), np.sin(height), np.cos(around) * np.cos(height)])
    return Light(direction, rng.uniform(0.38, 0.58), 1 + np.array([0.06, 0.01, -0.07]) * rng.uniform(-0.3, 1))


def camera_rotation(azimuth: float, elevation: float, roll: float) -> Float[Tensor, "3 3"]:
    """The rotation world → camera, angles in radians; roll turns the picture."""
    azimuth, elevation, roll = (torch.tensor(float(angle)) for angle in (azimuth, elevation, roll))
    zero = torch.zeros(())
    return axis_angle_to_matrix(torch.stack([zero, zero, roll])) @ view_rotation(azimuth, elevation)


def frame(
    verts: list[Float[Tensor, "V 3"]], rotations: Float[Tensor, "T 3 3"], fill: float, shift: np.ndarray
) -> WeakPerspective:
    """Make cameras of these rotations that share one scale and shift; the creature fills the share `fill` of the image.

    shift (2,): the creature's distance from the middle, in the image plane.
    """
    seen = torch.cat([points @ rotation[:2].T for points, rotation in zip(verts, rotations, strict=True)])
    low, high = seen.amin(0), seen.amax(0)
    scale = 2 * fill / (high - low).max()
    translation = torch.as_tensor(shift).float() - scale * (low + high) / 2
    count = len(rotations)
    return WeakPerspective(scale.expand(count), translation.expand(count, 2), matrix_to_quaternion(rotations))


def draw(
    breed: Breed,
    verts: Float[Tensor, "V 3"],
    camera: WeakPerspective,
    coat: Coat,
    light: Light,
    scene: Float[Tensor, "H W 3"],
) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"], Float[Tensor, "H2 W2"]]:
    """Draw the picture, the mask (the covered share of each pixel), and the depth map at twice the resolution.

    The coat is evaluated at every sample, not at the vertices, so eyes and stripes stay sharp.
    """
    faces = torch.from_numpy(breed.faces)
    fragments = rendering.rasterize(camera.project(verts[None]), faces, SUPERSAMPLING * len(scene))
    covered = fragments.mask[0]
    corners = faces[fragments.face[0][covered]]
    shares = fragments.barycentrics[0][covered][..., None]
    fixed = np.column_stack([breed.places, breed.hair, breed.open])
    attributes = torch.cat([torch.from_numpy(fixed).float(), vertex_normals(verts, faces)], dim=-1)
    values = (attributes.index_select(0, corners.flatten()).view(-1, 3, 8) * shares).sum(1)
    places, hair, sky, normal = values.split([3, 1, 1, 3], dim=-1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    sun = (normal @ torch.as_tensor(light.direction).float()).clamp(min=0)[:, None] * (0.6 + 0.4 * sky)
    dome = light.ambient * (0.72 + 0.28 * normal[:, 1:2]) * (0.45 + 0.55 * sky)
    lit = coat(places, hair[:, 0]) * (dome + (1.12 - light.ambient) * sun * torch.as_tensor(light.warmth).float())

    layer = torch.zeros(*covered.shape, 4)
    layer[covered] = torch.cat([lit.clamp(0, 1), torch.ones(len(lit), 1)], dim=-1)
    layer = torch.nn.functional.avg_pool2d(layer.permute(2, 0, 1)[None], SUPERSAMPLING)[0]
    mask = layer[3]
    return layer[:3] + (1 - mask) * scene.permute(2, 0, 1), mask, fragments.depth[0]


def see_keypoints(
    breed: Breed, verts: Float[Tensor, "V 3"], camera: WeakPerspective, depth: Float[Tensor, "H W"]
) -> dict[str, Tensor]:
    """Return keypoints (K, 2), keypoints_3d (K, 3), and keypoint_visible (K,): inside the image and, by the depth map,
    not hidden by more than their own limb."""
    points = (torch.from_numpy(breed.shares).float()[..., None] * verts[torch.from_numpy(breed.landmarks)]).sum(1)
    seen = camera.project(points[None])[0]
    size = len(depth)
    pixel = ((seen[:, :2] + 1) / 2 * size).floor().long()
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    column, row = pixel.clamp(0, size - 1).unbind(-1)
    slack = torch.tensor([keypoint.thickness for keypoint in breed.body.keypoints]) * camera.scale
    visible = inside & (seen[:, 2] <= depth[row, column] + slack)
    return {"keypoints": seen[:, :2], "keypoint_visible": visible, "keypoints_3d": points}


def ground_row(camera: WeakPerspective, ground: float) -> float:
    """Height in the image (image-plane y) of the ground below the world's origin."""
    return float(camera.project(torch.tensor([[[0.0, ground, 0.0]]]))[0, 0, 1])


def cast_shadow(
    scene: Float[Tensor, "H W 3"], verts: Float[Tensor, "V 3"], ground: float, camera: WeakPerspective
) -> Float[Tensor, "H W 3"]:
    """Darken the ground under the creature, as under a high and hazy sun."""
    size = len(scene)
    cells = max(size // 4, 4)
    flat = torch.stack([verts[:, 0], torch.full_like(verts[:, 1], ground), verts[:, 2]], dim=-1)
    reach = (1 - (verts[:, 1] - ground) / 1.3).clamp(min=0)
    at = ((camera.project(flat[None])[0, :, :2] + 1) / 2 * cells).floor().long().clamp(0, cells - 1)
    density = torch.zeros(cells * cells).index_add(0, at[:, 1] * cells + at[:, 0], reach).reshape(1, 1, cells, cells)
    for _ in range(3):
        density = torch.nn.functional.avg_pool2d(density, 3, 1, 1)
    density = torch.nn.functional.interpolate(density, size=(size, size), mode="bilinear")[0, 0]
    cover = 1 - torch.exp(-3 * density / density.max().clamp(min=1e-6))
    return scene * (1 - 0.5 * cover)[..., None]
