"""The bodies of the creatures: skeletons, flesh, keypoints. Units: a horse is about one unit tall at the withers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lib.datasets.synthetic.solids import Limb, Solid

MIRROR = np.array([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class Keypoint:
    """A named keypoint: the place where a ray from `origin` (3,) along `direction` (3,) leaves the body at rest.

    bone: the bone that carries it. thickness: it counts as seen if its own limb covers it by no more than this.
    """

    name: str
    bone: str
    origin: np.ndarray
    direction: np.ndarray
    thickness: float = 0.03


@dataclass
class Body:
    """One creature at rest, mirror plane z = 0, looking along +x, y up.

    bones: names in order, parents before children; parents (J,): index, -1 for the root; joints (J, 3): where
    each bone begins; along (J, 3): unit direction of each bone, along which it is stretched.
    """

    bones: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    joints: list[np.ndarray] = field(default_factory=list)
    along: list[np.ndarray] = field(default_factory=list)
    limbs: list[Limb] = field(default_factory=list)
    keypoints: list[Keypoint] = field(default_factory=list)
    floor: float | None = None

    def bone(self, name: str, parent: str | None, joint, end) -> None:
        """Add a bone from `joint` to `end`; a name starting with "right_" adds its left twin as well."""
        for side, flip in _sides(name):
            joint_, end_ = np.asarray(joint, float) * flip, np.asarray(end, float) * flip
            self.bones.append(side(name))
            self.parents.append(-1 if parent is None else self.bones.index(side(parent)))
            self.joints.append(joint_)
            self.along.append((end_ - joint_) / np.linalg.norm(end_ - joint_))

    def limb(self, *nodes, blend: float, axis=(0, 0, 1), hair: bool = False) -> None:
        """Add flesh: nodes (bone, x, y, z, radius, flatness) in order; limbs of right bones get left twins."""
        paired = any(node[0].startswith("right_") for node in nodes)
        for side, flip in _sides("right_" if paired else ""):
            values = np.array([node[1:] for node in nodes], float)
            self.limbs.append(
                Limb(
                    nodes=values[:, :3] * flip,
                    radii=values[:, 3],
                    flats=values[:, 4],
                    axis=np.asarray(axis, float) * flip / np.linalg.norm(axis),
                    blend=blend,
                    bones=np.array([self.bones.index(side(node[0])) for node in nodes]),
                    hair=hair,
                )
            )

    def keypoint(self, name: str, bone: str, origin, direction, thickness: float = 0.03) -> None:
        """Add a keypoint; a name starting with "right_" adds its left twin as well."""
        for side, flip in _sides(name):
            origin_, direction_ = np.asarray(origin, float) * flip, np.asarray(direction, float) * flip
            self.keypoints.append(Keypoint(side(name), side(bone), origin_, direction_, thickness))

    def solid(self) -> Solid:
        """Return the flesh as an implicit function."""
        return Solid(self.limbs, self.floor)


def _sides(name: str):
    same = (lambda text: text, np.ones(3))
    if not name.startswith("right_"):
        return [same]
    return [(lambda text: text.replace("right_", "left_"), MIRROR), same]


def quadruped() -> Body:
    """A horse of average proportions, standing on four straight legs."""
    body = Body(floor=0.0)
    bone, limb, keypoint = body.bone, body.limb, body.keypoint

    bone("pelvis", None, (-0.10, 0.80, 0), (-0.50, 0.84, 0))
    bone("chest", "pelvis", (-0.10, 0.80, 0), (0.40, 0.80, 0))
    bone("neck", "chest", (0.34, 0.86, 0), (0.53, 1.06, 0))
    bone("nape", "neck", (0.53, 1.06, 0), (0.70, 1.25, 0))
    bone("head", "nape", (0.70, 1.25, 0), (0.90, 1.00, 0))
    bone("right_ear", "head", (0.695, 1.32, 0.05), (0.70, 1.44, 0.06))
    bone("dock", "pelvis", (-0.50, 0.91, 0), (-0.62, 0.75, 0))
    bone("tail", "dock", (-0.63, 0.74, 0), (-0.63, 0.35, 0))
    bone("right_arm", "chest", (0.37, 0.76, 0.10), (0.30, 0.60, 0.12))
    bone("right_forearm", "right_arm", (0.30, 0.60, 0.12), (0.31, 0.33, 0.11))
    bone("right_cannon", "right_forearm", (0.31, 0.33, 0.11), (0.305, 0.125, 0.11))
    bone("right_hoof", "right_cannon", (0.305, 0.125, 0.11), (0.36, 0.0, 0.11))
    bone("right_thigh", "pelvis", (-0.33, 0.78, 0.09), (-0.24, 0.60, 0.12))
    bone("right_gaskin", "right_thigh", (-0.24, 0.60, 0.12), (-0.45, 0.385, 0.11))
    bone("right_shank", "right_gaskin", (-0.45, 0.385, 0.11), (-0.43, 0.13, 0.11))
    bone("right_foot", "right_shank", (-0.43, 0.13, 0.11), (-0.37, 0.0, 0.11))

    # trunk, croup and withers
    limb(
        ("pelvis", -0.44, 0.815, 0, 0.135, 0.95),
        ("pelvis", -0.30, 0.810, 0, 0.180, 0.95),
        ("pelvis", -0.10, 0.755, 0, 0.190, 0.95),
        ("chest", 0.12, 0.745, 0, 0.205, 0.90),
        ("chest", 0.30, 0.770, 0, 0.200, 0.80),
        ("chest", 0.40, 0.780, 0, 0.165, 0.75),
        blend=0.02,
    )
    limb(
        ("chest", 0.12, 0.905, 0, 0.05, 0.7),
        ("chest", 0.27, 0.945, 0, 0.05, 0.6),
        ("chest", 0.38, 0.96, 0, 0.06, 0.6),
        blend=0.06,
    )
    # neck
    limb(
        ("chest", 0.33, 0.83, 0, 0.185, 0.62),
        ("neck", 0.45, 0.955, 0, 0.150, 0.55),
        ("neck", 0.56, 1.09, 0, 0.115, 0.55),
        ("nape", 0.64, 1.20, 0, 0.092, 0.60),
        ("nape", 0.70, 1.27, 0, 0.078, 0.65),
        blend=0.07,
    )
    # head: skull and nose, then the jaw
    limb(
        ("head", 0.705, 1.275, 0, 0.072, 0.80),
        ("head", 0.770, 1.225, 0, 0.082, 0.74),
        ("head", 0.835, 1.130, 0, 0.064, 0.70),
        ("head", 0.890, 1.045, 0, 0.048, 0.78),
        ("head", 0.922, 0.995, 0, 0.048, 0.88),
        ("head", 0.930, 0.970, 0, 0.042, 0.90),
        blend=0.04,
    )
    limb(
        ("head", 0.745, 1.165, 0, 0.072, 0.66),
        ("head", 0.790, 1.105, 0, 0.055, 0.62),
        ("head", 0.865, 1.010, 0, 0.036, 0.80),
        ("head", 0.893, 0.970, 0, 0.030, 0.90),
        blend=0.03,
    )
    limb(
        ("right_ear", 0.690, 1.330, 0.042, 0.024, 0.7),
        ("right_ear", 0.697, 1.385, 0.055, 0.026, 0.6),
        ("right_ear", 0.712, 1.450, 0.062, 0.006, 0.6),
        blend=0.02,
        axis=(1, 0, 0.3),
    )
    # mane and forelock
    limb(
        ("head", 0.775, 1.300, 0, 0.022, 0.8),
        ("head", 0.700, 1.350, 0, 0.034, 0.5),
        ("nape", 0.610, 1.275, 0, 0.046, 0.38),
        ("neck", 0.500, 1.150, 0, 0.054, 0.34),
        ("neck", 0.410, 1.045, 0, 0.050, 0.34),
        ("chest", 0.320, 0.975, 0, 0.025, 0.5),
        blend=0.02,
        hair=True,
    )
    # tail
    limb(
        ("pelvis", -0.500, 0.910, 0, 0.040, 0.9),
        ("dock", -0.575, 0.885, 0, 0.040, 0.9),
        ("dock", -0.630, 0.780, 0, 0.052, 0.8),
        ("tail", -0.655, 0.640, 0, 0.062, 0.75),
        ("tail", -0.655, 0.480, 0, 0.056, 0.75),
        ("tail", -0.640, 0.340, 0, 0.020, 0.8),
        blend=0.03,
        hair=True,
    )
    # fore legs
    limb(
        ("right_arm", 0.39, 0.790, 0.085, 0.125, 0.55),
        ("right_arm", 0.36, 0.700, 0.110, 0.115, 0.55),
        ("right_forearm", 0.30, 0.595, 0.125, 0.082, 0.70),
        ("right_forearm", 0.307, 0.470, 0.115, 0.056, 0.85),
        ("right_forearm", 0.312, 0.385, 0.110, 0.042, 1.0),
        ("right_cannon", 0.314, 0.335, 0.110, 0.043, 1.0),
        ("right_cannon", 0.307, 0.275, 0.110, 0.030, 1.0),
        ("right_cannon", 0.303, 0.190, 0.110, 0.027, 1.0),
        ("right_hoof", 0.303, 0.130, 0.110, 0.036, 1.0),
        ("right_hoof", 0.325, 0.085, 0.110, 0.030, 1.0),
        ("right_hoof", 0.342, 0.050, 0.110, 0.040, 1.0),
        ("right_hoof", 0.355, 0.010, 0.110, 0.050, 1.0),
        blend=0.05,
    )
    # hind legs, with the point of the hock
    limb(
        ("right_thigh", -0.36, 0.800, 0.080, 0.160, 0.60),
        ("right_thigh", -0.33, 0.690, 0.105, 0.140, 0.58),
        ("right_gaskin", -0.31, 0.580, 0.118, 0.098, 0.66),
        ("right_gaskin", -0.375, 0.475, 0.115, 0.064, 0.75),
        ("right_gaskin", -0.435, 0.405, 0.110, 0.046, 0.85),
        ("right_shank", -0.455, 0.360, 0.110, 0.043, 0.9),
        ("right_shank", -0.448, 0.290, 0.110, 0.033, 1.0),
        ("right_shank", -0.437, 0.200, 0.110, 0.029, 1.0),
        ("right_foot", -0.430, 0.135, 0.110, 0.037, 1.0),
        ("right_foot", -0.408, 0.088, 0.110, 0.031, 1.0),
        ("right_foot", -0.390, 0.050, 0.110, 0.041, 1.0),
        ("right_foot", -0.376, 0.010, 0.110, 0.050, 1.0),
        blend=0.05,
    )
    limb(("right_gaskin", -0.485, 0.420, 0.110, 0.022, 1), ("right_shank", -0.462, 0.340, 0.110, 0.030, 1), blend=0.03)

    keypoint("nose", "head", (0.92, 0.99, 0), (0.55, -0.83, 0))
    keypoint("right_eye", "head", (0.79, 1.20, 0), (0.15, 0.12, 1), 0.02)
    keypoint("right_ear", "right_ear", (0.70, 1.38, 0.054), (0.012, 0.065, 0.008), 0.08)
    keypoint("withers", "chest", (0.28, 0.85, 0), (0, 1, 0))
    keypoint("tail_base", "pelvis", (-0.46, 0.85, 0), (-0.3, 1, 0))
    keypoint("right_shoulder", "right_arm", (0.39, 0.72, 0.08), (0.75, 0, 0.66))
    keypoint("right_knee", "right_cannon", (0.314, 0.335, 0.11), (1, 0, 0), 0.10)
    keypoint("right_front_hoof", "right_hoof", (0.35, 0.03, 0.11), (1, 0, 0), 0.12)
    keypoint("right_stifle", "right_gaskin", (-0.29, 0.60, 0.11), (0.8, 0, 0.6), 0.06)
    keypoint("right_hock", "right_shank", (-0.46, 0.395, 0.11), (-1, 0.25, 0), 0.10)
    keypoint("right_hind_hoof", "right_foot", (-0.38, 0.03, 0.11), (1, 0, 0), 0.12)
    return body


def bird() -> Body:
    """A songbird of average proportions; its wings are spread, so that they do not merge with the body."""
    body = Body()
    bone, limb, keypoint = body.bone, body.limb, body.keypoint

    bone("body", None, (-0.02, 0.02, 0), (-0.35, -0.11, 0))
    bone("breast", "body", (-0.02, 0.02, 0), (0.25, 0.16, 0))
    bone("neck", "breast", (0.24, 0.20, 0), (0.33, 0.34, 0))
    bone("head", "neck", (0.33, 0.34, 0), (0.46, 0.40, 0))
    bone("beak", "head", (0.47, 0.38, 0), (0.68, 0.35, 0))
    bone("tail", "body", (-0.32, -0.10, 0), (-0.86, -0.30, 0))
    bone("right_shoulder", "breast", (0.13, 0.20, 0.14), (0.12, 0.20, 0.22))
    bone("right_wing", "right_shoulder", (0.12, 0.20, 0.20), (0.07, 0.20, 0.48))
    bone("right_tip", "right_wing", (0.09, 0.20, 0.48), (-0.05, 0.20, 0.86))
    bone("right_thigh", "body", (0.02, -0.12, 0.10), (0.055, -0.27, 0.105))
    bone("right_shank", "right_thigh", (0.055, -0.27, 0.105), (0.005, -0.46, 0.105))
    bone("right_toes", "right_shank", (0.005, -0.46, 0.105), (0.13, -0.49, 0.105))

    # trunk and head as one limb
    limb(
        ("body", -0.34, -0.110, 0, 0.090, 0.90),
        ("body", -0.20, -0.045, 0, 0.175, 0.92),
        ("body", -0.02, 0.010, 0, 0.235, 0.92),
        ("breast", 0.12, 0.075, 0, 0.250, 0.90),
        ("breast", 0.24, 0.175, 0, 0.205, 0.90),
        ("neck", 0.31, 0.290, 0, 0.155, 0.92),
        ("head", 0.355, 0.375, 0, 0.150, 0.94),
        ("head", 0.385, 0.390, 0, 0.145, 0.92),
        blend=0.02,
    )
    limb(
        ("beak", 0.480, 0.385, 0, 0.066, 0.80),
        ("beak", 0.570, 0.372, 0, 0.043, 0.75),
        ("beak", 0.690, 0.350, 0, 0.010, 0.80),
        blend=0.025,
    )
    limb(
        ("body", -0.28, -0.085, 0, 0.100, 0.70),
        ("tail", -0.44, -0.145, 0, 0.080, 0.42),
        ("tail", -0.62, -0.213, 0, 0.088, 0.24),
        ("tail", -0.82, -0.290, 0, 0.098, 0.18),
        blend=0.05,
        axis=(-0.36, 0.93, 0),
        hair=True,
    )
    # wings: flattened balls, so that the radius is half the width of the wing
    limb(
        ("right_shoulder", 0.125, 0.19, 0.12, 0.10, 0.50),
        ("right_wing", 0.085, 0.20, 0.24, 0.140, 0.26),
        ("right_wing", 0.050, 0.20, 0.38, 0.165, 0.16),
        ("right_tip", 0.030, 0.20, 0.52, 0.150, 0.14),
        ("right_tip", -0.010, 0.20, 0.68, 0.112, 0.17),
        ("right_tip", -0.080, 0.20, 0.86, 0.045, 0.38),
        blend=0.04,
        axis=(0, 1, 0),
        hair=True,
    )
    # legs and toes
    limb(
        ("right_thigh", 0.01, -0.100, 0.095, 0.105, 0.9),
        ("right_thigh", 0.04, -0.205, 0.105, 0.062, 1),
        ("right_shank", 0.052, -0.275, 0.105, 0.030, 1),
        blend=0.05,
    )
    limb(
        ("right_shank", 0.052, -0.270, 0.105, 0.030, 1),
        ("right_shank", 0.030, -0.370, 0.105, 0.024, 1),
        ("right_toes", 0.005, -0.465, 0.105, 0.026, 1),
        blend=0.015,
    )
    for x, z in ((0.135, 0.105), (0.115, 0.165), (0.115, 0.045), (-0.095, 0.105)):
        limb(("right_toes", 0.005, -0.470, 0.105, 0.025, 1), ("right_toes", x, -0.492, z, 0.019, 1), blend=0.015)

    keypoint("beak", "beak", (0.60, 0.365, 0), (0.09, -0.015, 0))
    keypoint("forehead", "head", (0.40, 0.39, 0), (0.75, 0.66, 0))
    keypoint("crown", "head", (0.365, 0.38, 0), (0, 1, 0))
    keypoint("nape", "head", (0.34, 0.34, 0), (-1, 0.35, 0))
    keypoint("throat", "neck", (0.34, 0.32, 0), (1, -0.55, 0))
    keypoint("breast", "breast", (0.20, 0.13, 0), (1, -0.35, 0))
    keypoint("belly", "body", (0.02, 0.00, 0), (0.1, -1, 0))
    keypoint("back", "body", (-0.05, 0.02, 0), (-0.25, 1, 0))
    keypoint("tail", "tail", (-0.80, -0.282, 0), (-0.93, -0.35, 0), 0.06)
    keypoint("right_eye", "head", (0.425, 0.405, 0), (0.1, 0.1, 1), 0.02)
    keypoint("right_wing", "right_wing", (0.08, 0.20, 0.42), (1, 0, 0), 0.06)
    keypoint("right_wingtip", "right_tip", (-0.05, 0.20, 0.83), (-0.3, 0, 1), 0.06)
    keypoint("right_leg", "right_shank", (0.040, -0.33, 0.105), (1, 0, 0), 0.08)
    return body


BODIES = {"quadruped": quadruped, "bird": bird}
# From the first joint to the origin of the world, inside the trunk.
ORIGIN = {"quadruped": np.array([0.20, -0.08, 0.0]), "bird": np.array([0.02, 0.03, 0.0])}
