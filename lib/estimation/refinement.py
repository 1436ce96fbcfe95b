"""Refine what a network says of a video: all its poses and cameras at once, by masks, keypoints and motion.

It is a bundle adjustment of something that bends. Source: Kokkinos & Kokkinos, "Learning monocular 3D reconstruction of
articulated categories from motion", CVPR 2021, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lib.checks import check_same_device, check_tensor, number, require, whole_number
from lib.estimation.optical_flow import consecutive_pairs
from lib.geometry.cameras import WeakPerspective
from lib.losses.motion import pair_motion

# The optimisation has converged when this many steps lower the best objective by less than the tolerance's share.
PATIENCE = 15


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of a clip's cost; 0 leaves a term out.

    The first four are those of `articulated.PoseCost`. motion: `motion_loss`, mean over the pairs. smooth_camera: mean
    squared change, from one frame of a pair to the other, of scale, shift and the entries of the rotation matrix;
    smooth_offsets: the same of the offsets.
    """

    mask: float = 10.0
    keypoint: float = 0.0
    rigidity: float = 2.0
    laplacian: float = 10.0
    motion: float = 0.0
    smooth_camera: float = 0.0
    smooth_offsets: float = 0.0


class Refined(NamedTuple):
    """The state with the lowest objective that was met, the start included.

    offsets (N, …), in the form that the deformation takes; verts (N, V, 3); camera (N, 7), unit quaternions; history:
    the objective at the start and after each step; converged: whether it stopped before the last step.
    """

    offsets: Float[Tensor, "N ..."]
    verts: Float[Tensor, "N V 3"]
    camera: Float[Tensor, "N 7"]
    history: list[float]
    converged: bool


def refine_clip(
    cost: nn.Module,
    deformation: nn.Module,
    offsets: Float[Tensor, "N ..."],
    camera: Float[Tensor, "N 7"],
    clip: dict[str, Tensor],
    weights: Weights = Weights(),
    *,
    pairs: Int[Tensor, "P 2"] | None = None,
    flow: Float[Tensor, "P 2 H W"] | None = None,
    known: Bool[Tensor, "P H W"] | None = None,
    steps: int = 100,
    offset_rate: float = 0.02,
    camera_rate: float = 0.03,
    tolerance: float = 2e-3,
    watch: Callable[[int, float], None] | None = None,
) -> Refined:
    """Descend on the offsets and cameras of all N frames together, by Adam with rates that fade to zero.

    cost: a `PoseCost`, whose keypoints are needed only if they have a weight. deformation: a layer of
    `lib.deformation`, which stays as it is. clip: mask, and keypoints and keypoint_visible if they have a weight,
    as `lib.datasets.KEYS` describes them. pairs: of frames, first and second, by default consecutive ones; several
    clips may lie one after another (`optical_flow.consecutive_pairs`). flow, known: as `motion_loss` takes them, for
    each pair; visible are the vertices that a z-buffer of the first and of the second frame shows.

    watch: called with the step and the objective. It stops when the objective falls by less than `tolerance`, as a
    share, in 15 steps.

    Raises ValueError for an empty mask, a motion weight without flow, or a start that is not finite.
    """
    check_tensor("camera", camera, "N 7", finite=True)
    count = len(camera)
    if not isinstance(offsets, Tensor) or offsets.shape != (count, *deformation.offset_shape):
        shape = tuple(getattr(offsets, "shape", ()))
        raise ValueError(f"offsets must have shape {(count, *deformation.offset_shape)}, got {shape}")
    check_tensor("offsets", offsets.flatten(1), "N D", finite=True)
    if "mask" not in clip:
        raise ValueError("clip lacks 'mask'; refinement compares masks, so segment the frames first")
    check_tensor("clip['mask']", clip["mask"], f"{count} H W", finite=True)
    check_same_device(offsets=offsets, camera=camera, mask=clip["mask"])
    require((clip["mask"] > 0.5).flatten(1).any(1), "clip has a frame with an empty mask; leave that frame out")
    steps = whole_number("steps", steps, 0)
    rates = [number("offset_rate", offset_rate), number("camera_rate", camera_rate)]
    if pairs is None:
        pairs = consecutive_pairs([count]) if count > 1 else torch.zeros(0, 2, dtype=torch.long)
    check_tensor("pairs", pairs, "P 2", kind="integer")
    first, second = pairs.to(camera.device).unbind(1)
    if weights.motion:
        if flow is None:
            raise ValueError("weights.motion needs flow for each pair; see optical_flow.estimate_flow")
        check_tensor("flow", flow, f"{len(pairs)} 2 H W")
    size = clip["mask"].shape[-1]

    def terms(offsets: Tensor, vector: Tensor) -> dict[str, Tensor]:
        camera, verts = _camera(vector), deformation(offsets)
        found = cost(verts, camera, clip, weights)
        if len(pairs) == 0:
            return found
        if weights.motion:
            found["motion"] = weights.motion * pair_motion(verts, camera, cost.faces, first, second, flow, known, size)
        if weights.smooth_camera:
            state = torch.cat([vector[:, :3], camera.rotation.flatten(1)], 1)
            found["smooth camera"] = weights.smooth_camera * (state[second] - state[first]).square().mean()
        if weights.smooth_offsets:
            found["smooth offsets"] = weights.smooth_offsets * (offsets[second] - offsets[first]).square().mean()
        return found

    state = [offsets.detach().clone().requires_grad_(), camera.detach().clone().requires_grad_()]
    groups = [{"params": [part], "lr": rate} for part, rate in zip(state, rates, strict=True)]
    optimizer = torch.optim.Adam(groups)
    best, best_state, history, converged = float("inf"), None, [], False
    for step in range(steps + 1):
        loss = sum(terms(*state).values())
        history.append(loss.item())
        if step == 0 and not loss.isfinite():
            raise ValueError("offsets and camera have an objective that is not finite; start from another prediction")
        if history[-1] < best:
            best, best_state = history[-1], [part.detach().clone() for part in state]
        if watch is not None:
            watch(step, history[-1])
        earlier = min(history[:-PATIENCE], default=float("inf"))
        converged = step < steps and best > (1 - tolerance) * earlier
        if converged or step == steps or not loss.isfinite():
            break
        optimizer.zero_grad()
        # Each frame has its own numbers; times the frames, their gradients do not depend on how many there are.
        (count * loss).backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        optimizer.step()
    offsets, vector = best_state
    with torch.no_grad():
        return Refined(offsets, deformation(offsets), _camera(vector).to_vector(), history, converged)


def _camera(vector: Tensor) -> WeakPerspective:
    # A scale must stay positive, however far a step goes.
    return WeakPerspective(vector[:, 0].clamp_min(1e-2), vector[:, 1:3], F.normalize(vector[:, 3:], dim=-1))
