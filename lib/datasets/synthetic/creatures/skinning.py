"""Motion of flesh by bones: forward kinematics with stretchable bones, and linear blend skinning."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.spatial.transform import Rotation

from lib.datasets.synthetic.creatures.anatomy import Body


@dataclass(frozen=True)
class Build:
    """Difference of an individual from its breed: factors of each bone's length and girth, (J,), 1 for no change."""

    lengths: np.ndarray
    girths: np.ndarray


@dataclass(frozen=True)
class Pose:
    """Rotations of the joints (J, 3), axis-angle relative to the parent, in the axes at rest; lift off the ground."""

    rotations: np.ndarray
    lift: float = 0.0


def mirror_bones(body: Body) -> np.ndarray:
    """Indices (J,) of the bones on the other side; bones of the midline map to themselves."""
    swap = {"left": "right_", "right": "left_"}
    names = [
        swap[name.split("_")[0]] + name.split("_", 1)[1] if name.split("_")[0] in swap else name for name in body.bones
    ]
    return np.array([body.bones.index(name) for name in names])


def mirror_pose(body: Body, pose: Pose) -> Pose:
    """Mirror a pose in the plane z = 0: left and right exchanged, rotations about x and y reversed."""
    return Pose(pose.rotations[mirror_bones(body)] * [-1, -1, 1], pose.lift)


def bone_transforms(body: Body, build: Build, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Affine maps of all bones from rest to pose: x' = matrices[j] x + offsets[j], (J, 3, 3) and (J, 3)."""
    joints, along = np.array(body.joints), np.array(body.along)
    turns = Rotation.from_rotvec(pose.rotations).as_matrix()
    outer = along[:, :, None] * along[:, None, :]
    stretch = build.girths[:, None, None] * (np.eye(3) - outer) + build.lengths[:, None, None] * outer
    frames, matrices, places = np.empty_like(turns), np.empty_like(turns), np.empty_like(joints)
    for j, parent in enumerate(body.parents):
        if parent < 0:
            frames[j], places[j] = turns[j], joints[j]
        else:
            frames[j] = frames[parent] @ turns[j]
            places[j] = places[parent] + matrices[parent] @ (joints[j] - joints[parent])
        matrices[j] = frames[j] @ stretch[j]
    return matrices, places - np.einsum("jab,jb->ja", matrices, joints)


def skin(weights: np.ndarray, matrices: np.ndarray, offsets: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move points (V, 3) by linear blend skinning: by the weighted mean of the bones' affine maps, weights (V, J)."""
    maps = np.concatenate([matrices, offsets[..., None]], axis=-1)
    homogeneous = np.column_stack([points, np.ones(len(points))])
    return sum(
        (weights @ maps[:, :, axis].reshape(len(maps), 3)) * homogeneous[:, axis : axis + 1] for axis in range(4)
    )


def skin_weights(
    body: Body, owner: np.ndarray, faces: np.ndarray, mirror: np.ndarray, smoothing: int = 6
) -> np.ndarray:
    """Compute weights (V, J): each vertex belongs to the nearest bone, its owner (V,); then weights diffuse.

    Weights diffuse along the surface, not through the air, so that one leg does not pull at the other.
    """
    weights = np.eye(len(body.bones))[owner]
    weights = (weights + weights[mirror][:, mirror_bones(body)]) / 2
    rows, columns = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(owner), len(owner))).tocsr()
    links = diags(0.5 / np.asarray(links.sum(1)).ravel()) @ links
    for _ in range(smoothing):
        weights = 0.5 * weights + links @ weights
    return weights


def posed_body(body: Body, build: Build, pose: Pose) -> Body:
    """Copy a body and move its flesh and joints: the pose becomes the new state of rest."""
    matrices, offsets = bone_transforms(body, build, pose)
    limbs = []
    for limb in body.limbs:
        nodes = np.einsum("nab,nb->na", matrices[limb.bones], limb.nodes) + offsets[limb.bones]
        axis = matrices[limb.bones[len(limb.bones) // 2]] @ limb.axis
        limbs.append(
            replace(limb, nodes=nodes, radii=limb.radii * build.girths[limb.bones], axis=axis / np.linalg.norm(axis))
        )
    joints = np.einsum("jab,jb->ja", matrices, np.array(body.joints)) + offsets
    along = np.einsum("jab,jb->ja", matrices, np.array(body.along))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    keypoints = []
    for keypoint in body.keypoints:
        j = body.bones.index(keypoint.bone)
        keypoints.append(
            replace(
                keypoint, origin=matrices[j] @ keypoint.origin + offsets[j], direction=matrices[j] @ keypoint.direction
            )
        )
    return Body(body.bones, body.parents, list(joints), list(along), limbs, keypoints, body.floor)
