"""Breeds: meshed bodies that can be moved and painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lib.datasets.synthetic.creatures.anatomy import BODIES, ORIGIN, Body
from lib.datasets.synthetic.creatures.motion import sample_build
from lib.datasets.synthetic.creatures.skinning import Build, Pose, bone_transforms, posed_body, skin, skin_weights
from lib.datasets.synthetic.solids import Solid, symmetric_mesh
from lib.geometry.mesh import vertex_normals

SPACING = {"quadruped": 0.027, "bird": 0.023}
FEET = ("hoof", "foot", "toes")


@dataclass(frozen=True)
class Breed:
    """A meshed solid with all that is needed to move and to paint it.

    places (V, 3): where each vertex lies on the average body at rest, which is where coats look up colours; hair (V,);
    open (V,): how much of the sky the vertex sees; landmarks (K, 3) vertices and shares (K, 3): each keypoint as a
    triangle and barycentric coordinates; feet: indices of the vertices of the feet.
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
    feet: np.ndarray


def make_breed(category: str, rng: np.random.Generator, spread: float = 1.0) -> Breed:
    """Make a breed with random proportions, at rest; `spread` 0 gives the average ones."""
    middling = BODIES[category]()
    build = sample_build(category, middling, rng, spread)
    still = Pose(np.zeros((len(middling.bones), 3)))
    body = posed_body(middling, build, still)
    solid = body.solid()
    verts, faces, mirror = symmetric_mesh(solid, SPACING[category])
    owner, hair, _ = solid.owners(verts)
    weights = skin_weights(body, owner, faces, mirror)
    matrices, offsets = bone_transforms(middling, build, still)
    inverse = np.linalg.inv(matrices)
    places = skin(weights, inverse, -np.einsum("jab,jb->ja", inverse, offsets), verts)
    normals = vertex_normals(torch.from_numpy(verts), torch.from_numpy(faces)).numpy()
    landmarks, shares = _attach(body, solid, verts, faces, mirror)
    return Breed(
        category=category,
        body=body,
        verts=verts,
        faces=faces,
        mirror=mirror,
        weights=weights,
        places=places,
        hair=np.maximum(hair, hair[mirror]).astype(float),
        open=np.clip(solid(verts + 0.08 * normals) / 0.08, 0, 1),
        landmarks=landmarks,
        shares=shares,
        feet=np.flatnonzero([body.bones[bone].endswith(FEET) for bone in weights.argmax(1)]),
    )


def pose_creature(breed: Breed, build: Build, pose: Pose) -> tuple[np.ndarray, float]:
    """Return the vertices (V, 3) of an individual in a pose, in the world, and the height of the ground below it."""
    matrices, offsets = bone_transforms(breed.body, build, pose)
    verts = skin(breed.weights, matrices, offsets, breed.verts)
    verts = verts - breed.body.joints[0] - ORIGIN[breed.category]
    return verts, float(verts[breed.feet, 1].min() - pose.lift)


def _attach(body: Body, solid: Solid, verts: np.ndarray, faces: np.ndarray, mirror: np.ndarray):
    """Attach each keypoint to a triangle of the mesh: those of the midline to an edge in the mirror plane, left ones
    as reflections of right ones."""
    origins = np.array([keypoint.origin for keypoint in body.keypoints])
    directions = np.array([keypoint.direction for keypoint in body.keypoints])
    points = solid.cast(origins, directions, reach=0.4)
    landmarks, shares = np.zeros((len(points), 3), int), np.zeros((len(points), 3))
    names = [keypoint.name for keypoint in body.keypoints]
    middle = mirror == np.arange(len(verts))
    for k, (name, point) in enumerate(zip(names, points, strict=True)):
        if name.startswith("left_"):
            continue
        paired = name.startswith("right_")
        candidates = np.arange(len(verts)) if paired else np.flatnonzero(middle)
        near = candidates[np.argsort(((verts[candidates] - point) ** 2).sum(1))[:6]]
        around = faces[np.isin(faces, near).any(1)]
        if not paired:
            around = around[middle[around].sum(1) == 2]
            around = np.take_along_axis(around, np.argsort(~middle[around], axis=1, kind="stable"), axis=1)
        corners = verts[around]
        weights = _closest(corners if paired else corners[:, :2], point)
        gaps = np.einsum("fc,fcx->fx", weights, corners[:, : weights.shape[1]]) - point
        best = np.linalg.norm(gaps, axis=1).argmin()
        landmarks[k], shares[k, : weights.shape[1]] = around[best], weights[best]
        if paired:
            twin = names.index(name.replace("right_", "left_"))
            landmarks[twin], shares[twin] = mirror[around[best]], weights[best]
    return landmarks, shares


def _closest(corners: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Barycentric coordinates (F, C) of the place near `point` (3,) in each of the simplices (F, C, 3), not outside."""
    system = (corners[:, 1:] - corners[:, :1]).transpose(0, 2, 1)
    inner = np.einsum("fij,fj->fi", np.linalg.pinv(system), point - corners[:, 0])
    weights = np.clip(np.column_stack([1 - inner.sum(1), inner]), 0, 1)
    return weights / weights.sum(1, keepdims=True)
