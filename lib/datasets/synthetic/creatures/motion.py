"""Proportions, poses and gaits of creatures."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from lib.datasets.synthetic.creatures.anatomy import Body
from lib.datasets.synthetic.creatures.skinning import Build, Pose

# Groups of bones that vary together: (beginnings or ends of their names, spread of length, spread of girth).
PROPORTIONS = {
    "quadruped": [
        (("pelvis", "chest"), 0.12, 0.13),
        (("neck", "nape"), 0.20, 0.14),
        (("head",), 0.14, 0.12),
        (("ear",), 0.35, 0.15),
        (("dock", "tail"), 0.30, 0.25),
        (("arm", "forearm", "thigh", "gaskin"), 0.14, 0.14),
        (("cannon", "shank"), 0.18, 0.15),
        (("hoof", "foot"), 0.10, 0.15),
    ],
    "bird": [
        (("body", "breast"), 0.14, 0.14),
        (("neck",), 0.25, 0.12),
        (("head",), 0.14, 0.12),
        (("beak",), 0.45, 0.25),
        (("tail",), 0.35, 0.25),
        (("wing", "tip"), 0.15, 0.12),
        (("thigh", "shank", "toes"), 0.25, 0.10),
    ],
}


def sample_build(category: str, body: Body, rng: np.random.Generator, spread: float = 1.0) -> Build:
    """Draw proportions uniformly, the same on both sides; `spread` scales their differences from the mean."""
    lengths, girths = np.ones(len(body.bones)), np.ones(len(body.bones))
    for names, length, girth in PROPORTIONS[category]:
        factors = 1 + spread * rng.uniform(-1, 1, 2) * (length, girth)
        for j, bone in enumerate(body.bones):
            if bone.split("_")[-1] in names:
                lengths[j], girths[j] = factors
    return Build(lengths, girths)


def make_pose(body: Body, turns: dict[str, tuple[float, float, float]], lift: float = 0.0) -> Pose:
    """Make a pose from axis-angle vectors by bone name; all other bones stay as they are at rest."""
    rotations = np.zeros((len(body.bones), 3))
    for name, turn in turns.items():
        rotations[body.bones.index(name)] += turn
    return Pose(rotations, lift)


def _swing(phase: float, stance: float) -> tuple[float, float]:
    """A leg's place in its cycle: how far forward it is, in [-1, 1], and how much it is folded, in [0, 1]."""
    phase = phase % 1.0
    if phase < stance:
        return 1 - 2 * phase / stance, 0.0
    t = (phase - stance) / (1 - stance)
    return -np.cos(np.pi * t), np.sin(np.pi * t) ** 1.5


# Frames in a cycle of each gait.
GAITS = {"quadruped": {"walk": 24, "trot": 16}, "bird": {"hop": 20, "fly": 14}}

# When each hoof lands, as a share of the cycle; the share it stays down; reach and lift of the legs (radians).
STEPS = {
    "walk": ({"left_hind": 0.0, "left_front": 0.25, "right_hind": 0.5, "right_front": 0.75}, 0.62, 0.36, 0.75),
    "trot": ({"left_hind": 0.0, "left_front": 0.5, "right_hind": 0.5, "right_front": 0.0}, 0.45, 0.46, 1.15),
}


def quadruped_gait(body: Body, gait: str, phase: float, vigour: float = 1.0) -> Pose:
    """A horse at `phase` (in cycles) of a walk or a trot; `vigour` scales how far its legs reach and lift."""
    landings, stance, reach, lift = STEPS[gait]
    reach, lift = reach * vigour, lift * vigour
    turns: dict[str, tuple[float, float, float]] = {}
    for leg, landing in landings.items():
        side, end = leg.split("_")
        forward, fold = _swing(phase - landing, stance)
        push = max(-forward, 0.0) * (1 - fold)
        if end == "front":
            turns[f"{side}_arm"] = (0, 0, 0.45 * reach * forward)
            turns[f"{side}_forearm"] = (0, 0, 0.55 * reach * forward + 0.65 * lift * fold)
            turns[f"{side}_cannon"] = (0, 0, -1.25 * lift * fold)
            turns[f"{side}_hoof"] = (0, 0, -0.8 * lift * fold + 0.35 * push * reach)
        else:
            turns[f"{side}_thigh"] = (0, 0, 0.75 * reach * forward + 0.30 * lift * fold)
            turns[f"{side}_gaskin"] = (0, 0, 0.10 * reach * forward - 0.65 * lift * fold)
            turns[f"{side}_shank"] = (0, 0, 0.15 * reach * forward + 0.75 * lift * fold)
            turns[f"{side}_foot"] = (0, 0, -0.9 * lift * fold + 0.35 * push * reach)
    beat = 2 * np.pi * phase
    nod = 0.09 * vigour * np.sin(2 * beat)
    turns["neck"] = (0, 0.03 * np.sin(beat), nod)
    turns["nape"] = (0, 0, 0.4 * nod)
    turns["head"] = (0, 0, -0.9 * nod)
    turns["chest"] = (0, 0.05 * vigour * np.sin(beat), 0)
    turns["dock"] = (0.10 * np.sin(beat), 0, -0.12 * vigour)
    turns["tail"] = (0.18 * np.sin(beat - 0.8), 0, -0.08 * vigour)
    return make_pose(body, turns)


def _quadruped_still(body: Body, rng: np.random.Generator) -> Pose:
    kind = rng.choice(["stand", "walk", "trot", "graze"], p=[0.32, 0.33, 0.17, 0.18])
    if kind == "graze":
        turns = {
            "neck": (0, 0, rng.uniform(-1.25, -1.00)),
            "nape": (0, 0, rng.uniform(-0.80, -0.60)),
            "head": (0, 0, rng.uniform(0.65, 1.10)),
            "chest": (0, 0, -0.06),
        }
        pose = make_pose(body, turns)
    else:
        gait = "walk" if kind == "stand" else kind
        pose = quadruped_gait(
            body, gait, rng.uniform(), rng.uniform(0.15, 0.4) if kind == "stand" else rng.uniform(0.7, 1.2)
        )
        pose.rotations[body.bones.index("neck"), 2] += rng.normal(0, 0.16)
        pose.rotations[body.bones.index("nape"), 2] += rng.normal(0, 0.10)
    yaw = rng.normal(0, 0.22)
    for bone, share in {"neck": 0.5, "nape": 0.6, "head": 0.5}.items():
        pose.rotations[body.bones.index(bone), 1] += share * yaw
    pose.rotations[body.bones.index("head"), 2] += rng.normal(0, 0.12)
    for side in ("left", "right"):
        pose.rotations[body.bones.index(f"{side}_ear")] += rng.normal(0, 0.15, 3)
    pose.rotations[body.bones.index("dock")] += rng.normal(0, [0.15, 0, 0.18])
    pose.rotations[body.bones.index("tail")] += rng.normal(0, [0.2, 0, 0.15])
    return pose


def _fold() -> np.ndarray:
    """Axis-angle (3,) that turns the right wing from +z to the flank, its front edge down."""
    span = np.array([-0.87, -0.47, -0.13])
    upper = np.array([0.0, 0.30, 0.95])
    span /= np.linalg.norm(span)
    upper -= (upper @ span) * span
    upper /= np.linalg.norm(upper)
    return Rotation.from_matrix(np.column_stack([np.cross(upper, span), upper, span])).as_rotvec()


FOLD = _fold()


def _wings(turns: dict, spread: float, flap: float = 0.0, bend: float = 0.0) -> None:
    """Hold both wings between folded (spread 0) and out (1), raised by `flap` and bent at the wrist (radians)."""
    for side, sign in (("right", np.array([1, 1, 1])), ("left", np.array([-1, -1, 1]))):
        turns[f"{side}_shoulder"] = tuple(sign * (0.5 * (1 - spread) * FOLD + [-0.5 * flap, 0, 0]))
        turns[f"{side}_wing"] = tuple(sign * (0.5 * (1 - spread) * FOLD + [-0.5 * flap, 0, 0]))
        turns[f"{side}_tip"] = tuple(sign * np.array([-bend, 0.22 * (1 - spread), 0]))


def bird_gait(body: Body, gait: str, phase: float, vigour: float = 1.0) -> Pose:
    """A bird at `phase` (in cycles) of flapping flight, or of hopping and looking about."""
    beat = 2 * np.pi * phase
    turns: dict[str, tuple[float, float, float]] = {}
    lift = 0.0
    if gait == "fly":
        _wings(turns, 0.95, 0.75 * vigour * np.sin(beat), 0.35 * vigour * np.sin(beat - 1.1))
        turns["body"] = (0, 0, 0.10 + 0.06 * np.sin(beat + 1.0))
        turns["tail"] = (0, 0, -0.18 - 0.12 * np.sin(beat))
        lift = 0.75
        for side in ("left", "right"):
            turns[f"{side}_thigh"] = (0, 0, -0.7)
            turns[f"{side}_shank"] = (0, 0, -0.5)
            turns[f"{side}_toes"] = (0, 0, -0.6)
    else:
        air, squat = max(np.sin(beat), 0.0), max(-np.sin(beat), 0.0)
        _wings(turns, 0.10 * air * vigour, 0.0)
        lift = 0.16 * vigour * air
        turns["body"] = (0, 0, 0.10 * air - 0.16 * squat)
        turns["tail"] = (0, 0, 0.25 * squat - 0.1 * air)
        for side in ("left", "right"):
            turns[f"{side}_thigh"] = (0, 0, 0.45 * squat - 0.35 * air)
            turns[f"{side}_shank"] = (0, 0, -0.55 * squat + 0.25 * air)
            turns[f"{side}_toes"] = (0, 0, 0.25 * squat - 0.4 * air)
        turns["neck"] = (0, 0.25 * np.sin(beat / 2), 0.1 * squat)
        turns["head"] = (0, 0.45 * np.sin(beat / 2), 0)
    return make_pose(body, turns, lift)


def _bird_still(body: Body, rng: np.random.Generator) -> Pose:
    kind = rng.choice(["perch", "peck", "display", "fly"], p=[0.56, 0.14, 0.12, 0.18])
    turns: dict[str, tuple[float, float, float]] = {}
    lift = 0.0
    if kind == "fly":
        pose = bird_gait(body, "fly", rng.uniform(), rng.uniform(0.6, 1.2))
    else:
        _wings(
            turns,
            rng.uniform(0.3, 1.0) if kind == "display" else rng.uniform(0, 0.06),
            rng.uniform(0, 0.5) * (kind == "display"),
        )
        pitch = rng.uniform(-0.75, -0.45) if kind == "peck" else rng.normal(0.02, 0.17)
        turns["body"] = (0, 0, pitch)
        for side in ("left", "right"):
            turns[f"{side}_thigh"] = (0, 0, -0.8 * pitch + rng.normal(0, 0.1))
            turns[f"{side}_shank"] = (0, 0, -0.1 * pitch + rng.normal(0, 0.1))
            turns[f"{side}_toes"] = (0, 0, -0.1 * pitch)
        pose = make_pose(body, turns, lift)
    yaw = rng.normal(0, 0.45)
    for bone, share in {"neck": 0.35, "head": 0.65}.items():
        pose.rotations[body.bones.index(bone)] += (0.15 * rng.normal(), share * yaw, rng.normal(0, 0.12))
    pose.rotations[body.bones.index("tail")] += (0, 0, rng.normal(0, 0.16))
    return pose


def gait_pose(body: Body, gait: str, phase: float, vigour: float = 1.0) -> Pose:
    """The pose at `phase` (in cycles) of any gait of `GAITS`."""
    return (quadruped_gait if gait in STEPS else bird_gait)(body, gait, phase, vigour)


def sample_pose(category: str, body: Body, rng: np.random.Generator) -> Pose:
    """A still pose: a horse stands, walks, trots or grazes; a bird perches, pecks, spreads its wings or flies."""
    return {"quadruped": _quadruped_still, "bird": _bird_still}[category](body, rng)


def neutral_pose(category: str, body: Body) -> Pose:
    """The pose at rest: a horse standing on four straight legs, a bird perched with folded wings."""
    turns: dict[str, tuple[float, float, float]] = {}
    if category == "bird":
        _wings(turns, 0.0)
    return make_pose(body, turns)
