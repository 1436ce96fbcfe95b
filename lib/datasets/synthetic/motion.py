"""How creatures are built and how they move: proportions, poses, gaits."""

from __future__ import annotations

import numpy as np

from lib.datasets.synthetic.anatomy import Body
from lib.datasets.synthetic.skinning import Build, Pose

# Groups of bones that vary together: (name begins or ends with one of these, spread of length, spread of girth).
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
    """Proportions drawn uniformly, the same on both sides; `spread` scales how far they reach from the mean."""
    lengths, girths = np.ones(len(body.bones)), np.ones(len(body.bones))
    for names, length, girth in PROPORTIONS[category]:
        factors = 1 + spread * rng.uniform(-1, 1, 2) * (length, girth)
        for j, bone in enumerate(body.bones):
            if bone.split("_")[-1] in names:
                lengths[j], girths[j] = factors
    return Build(lengths, girths)


def make_pose(body: Body, turns: dict[str, tuple[float, float, float]]) -> Pose:
    """A pose from axis-angle vectors by bone name; bones not named stay as they are."""
    rotations = np.zeros((len(body.bones), 3))
    for name, turn in turns.items():
        rotations[body.bones.index(name)] += turn
    return Pose(rotations, np.zeros(3))


def _swing(phase: float, stance: float) -> tuple[float, float]:
    """A leg's place in its cycle: how far forward it is, in [-1, 1], and how much it is folded, in [0, 1]."""
    phase = phase % 1.0
    if phase < stance:
        return 1 - 2 * phase / stance, 0.0
    t = (phase - stance) / (1 - stance)
    return -np.cos(np.pi * t), np.sin(np.pi * t) ** 1.5


# When each hoof lands, as a share of the cycle, the share it stays down, reach and lift of the legs (radians).
GAITS = {
    "walk": ({"left_hind": 0.0, "left_front": 0.25, "right_hind": 0.5, "right_front": 0.75}, 0.62, 0.36, 0.75),
    "trot": ({"left_hind": 0.0, "left_front": 0.5, "right_hind": 0.5, "right_front": 0.0}, 0.45, 0.46, 1.15),
}


def quadruped_gait(body: Body, gait: str, phase: float, vigour: float = 1.0) -> Pose:
    """A horse at `phase` (in cycles) of a walk or a trot; `vigour` scales how far its legs reach and lift."""
    landings, stance, reach, lift = GAITS[gait]
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
            "neck": (0, 0, rng.uniform(-1.15, -0.85)),
            "nape": (0, 0, rng.uniform(-0.55, -0.35)),
            "head": (0, 0, rng.uniform(0.05, 0.35)),
            "chest": (0, 0, -0.05),
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


def sample_pose(category: str, body: Body, rng: np.random.Generator) -> Pose:
    """A still pose: a horse stands, walks, trots or grazes; a bird perches, hops or spreads its wings."""
    return {"quadruped": _quadruped_still}[category](body, rng)
