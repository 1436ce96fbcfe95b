"""Camera multiplex: several cameras for one picture, each improved on its own, until the losses tell them apart.

Sources: Goel, Kanazawa, Malik, "Shape and viewpoint without keypoints" (U-CMR), ECCV 2020; Kokkinos & Kokkinos,
"Learning monocular 3D reconstruction of articulated categories from motion", CVPR 2021, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lib import rendering
from lib.checks import check_tensor, number, require, whole_number
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import pixel_centers
from lib.geometry.rotations import matrix_to_quaternion, view_rotation

SHARPNESS = 20.0


class Multiplex(NamedTuple):
    """The cameras that are left for each of B pictures, the most probable one first.

    camera (B, M, 7): `WeakPerspective.to_vector`, unit quaternions; loss (B, M): each one's mask loss; probability
    (B, M): of `rescaled_softmin`, on the scale of the warm-up's losses. start (B, N, 7) and start_loss (B, N): all
    hypotheses after the warm-up.
    """

    camera: Float[Tensor, "B M 7"]
    loss: Float[Tensor, "B M"]
    probability: Float[Tensor, "B M"]
    start: Float[Tensor, "B N 7"]
    start_loss: Float[Tensor, "B N"]


def rescaled_softmin(
    losses: Float[Tensor, "B N"], sharpness: float = SHARPNESS, scale: Float[Tensor, "B M"] | None = None
) -> Float[Tensor, "B N"]:
    """Turn the losses of N hypotheses into probabilities, p_i ∝ exp(−sharpness (L_i − min L) / (max S − min S)).

    Losses of one picture are often alike, and a plain softmin of them is nearly flat; so they are measured by the
    range of the losses S. scale: S, by default the losses themselves. Of two losses the better one would then always
    have all the probability; give those of all hypotheses from before the worse ones were dropped. If all S are equal,
    so are the probabilities. Source: Goel et al., ECCV 2020, section 3.2, where S = L.
    """
    check_tensor("losses", losses, "B N", finite=True)
    scale = losses if scale is None else scale
    check_tensor("scale", scale, f"{len(losses)} M", finite=True)
    least, most = scale.amin(1, keepdim=True), scale.amax(1, keepdim=True)
    span = torch.where(most > least, most - least, 1)
    return (-number("sharpness", sharpness) * losses / span).softmax(1)


def start_cameras(
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    masks: Float[Tensor, "B H W"],
    hypotheses: int = 8,
    elevation: float = 12.0,
) -> Float[Tensor, "B N 7"]:
    """Make N cameras for each mask, at equal steps around the object, `elevation` degrees above the horizon.

    Each one is scaled and shifted so that the drawn object has the mask's mean and the mask's spread.
    """
    check_tensor("verts", verts, "V 3", finite=True)
    check_tensor("masks", masks, "B H W", finite=True)
    inside = (masks > 0.5).flatten(1).to(verts)
    require(inside.any(1), "masks has an empty one; leave that picture out")
    hypotheses = whole_number("hypotheses", hypotheses)
    around = torch.arange(hypotheses) * (2 * math.pi / hypotheses)  # 0 and 2π are one camera, so 2π is left out
    R = view_rotation(around, torch.full_like(around, math.radians(elevation))).to(verts)
    # Draw the object from all around, then move its mean and its spread onto those of each mask.
    size = 0.9 / (verts - verts.mean(0)).norm(dim=1).max()
    drawn = size * (verts - verts.mean(0)) @ R.mT
    own = rendering.rasterize(drawn, faces, tuple(masks.shape[1:])).mask.flatten(1).to(verts)
    own_middle, own_spread = _moments(own, *masks.shape[1:])
    middle, spread = _moments(inside, *masks.shape[1:])
    scale = size * spread[:, None] / own_spread
    off = own_middle / size + (verts.mean(0) @ R.mT)[..., :2]
    shift = middle[:, None] - scale[..., None] * off
    quaternion = matrix_to_quaternion(R).expand(len(masks), -1, -1)
    return torch.cat([scale[..., None], shift, quaternion], -1)


def _moments(inside: Float[Tensor, "N H*W"], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean place (N, 2) of a mask's pixels in the image plane, and their root mean squared distance from it (N,)."""
    pixels = pixel_centers(height, width, inside.device, inside.dtype).flatten(0, 1)
    weight = (inside / inside.sum(1, keepdim=True))[..., None]
    middle = (weight * pixels).sum(1)
    return middle, (weight * (pixels - middle[:, None]).square()).sum((1, 2)).sqrt()


def fit_multiplex(
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    masks: Float[Tensor, "B H W"],
    *,
    start: Float[Tensor, "B N 7"] | None = None,
    hypotheses: int = 8,
    keep: Sequence[int] = (4, 2),
    steps: int = 60,
    rate: float = 0.03,
    upright: float = 1.0,
    elevations: tuple[float, float] = (0.0, 30.0),
) -> Multiplex:
    """Fit several cameras of a rigid object to each mask, and drop the worse ones on the way. No keypoints are used.

    The steps are shared out equally between the warm-up, in which every hypothesis descends on its own, and one round
    for each number of `keep`, which begins with the best so many of each picture. Adam; the rate fades to zero.

    upright: weight of what is known of photographers: they stand between `elevations` (degrees), and hold the
    camera level. The cost is the squared excess of elevation plus the squared roll, in radians. 0 knows nothing.

    Raises ValueError for an empty mask, or more cameras to keep than there are.
    """
    check_tensor("masks", masks, "B H W", finite=True)
    vector = start_cameras(verts, faces, masks, hypotheses) if start is None else start
    check_tensor("start", vector, f"{len(masks)} N 7", finite=True)
    counts = [vector.shape[1], *(whole_number("keep", count) for count in keep)]
    if sorted(counts, reverse=True) != counts:
        raise ValueError(f"keep must fall, and start at most at {counts[0]}, got {tuple(keep)}")
    rounds = whole_number("steps", steps) // len(counts)
    done, total = 0, max(rounds * len(counts), 1)
    first = first_loss = None
    for count in counts:
        if first is not None:
            best = loss.argsort(1)[:, :count]
            vector = vector.gather(1, best[..., None].expand(-1, -1, 7))
        vector = vector.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([vector], lr=rate)
        for _ in range(rounds):
            optimizer.param_groups[0]["lr"] = rate * (1 - done / total)
            loss = _losses(vector, verts, faces, masks, upright, elevations)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            done += 1
        with torch.no_grad():
            vector = torch.cat([vector[..., :3], F.normalize(vector[..., 3:], dim=-1)], -1)
            loss = _losses(vector, verts, faces, masks, upright, elevations)
        if first is None:
            first, first_loss = vector, loss
    order = loss.argsort(1)
    vector, loss = vector.gather(1, order[..., None].expand(-1, -1, 7)), loss.gather(1, order)
    return Multiplex(vector, loss, rescaled_softmin(loss, scale=first_loss), first, first_loss)


def _losses(vector: Tensor, verts: Tensor, faces: Tensor, masks: Tensor, upright: float, elevations: tuple) -> Tensor:
    """The cost of each hypothesis (B, N): 1 − soft intersection over union, plus what is known of photographers."""
    B, N = vector.shape[:2]
    flat = vector.flatten(0, 1)
    camera = WeakPerspective(flat[:, 0].clamp_min(1e-2), flat[:, 1:3], F.normalize(flat[:, 3:], dim=-1))
    drawn = rendering.silhouette(camera.project(verts[None]), faces, tuple(masks.shape[1:])).unflatten(0, (B, N))
    target = masks[:, None]
    both = (drawn * target).sum((2, 3))
    loss = 1 - both / (drawn + target - drawn * target).sum((2, 3))
    if upright:
        # The world's up, in the camera's frame (x right, y down, z forward): the second column of R.
        up = camera.rotation[..., 1]
        elevation = torch.asin((-up[:, 2]).clamp(-0.999, 0.999))
        low, high = (math.radians(angle) for angle in elevations)
        excess = (low - elevation).clamp_min(0) + (elevation - high).clamp_min(0)
        roll = torch.atan2(up[:, 0], -up[:, 1])
        loss = loss + upright * (excess.square() + roll.square()).unflatten(0, (B, N))
    return loss


def consolidation_loss(
    camera: Float[Tensor, "B 7"], hypotheses: Float[Tensor, "B M 7"], probability: Float[Tensor, "B M"]
) -> Float[Tensor, ""]:
    """Draw predicted cameras to the most probable hypothesis of each picture, in proportion to its probability.

    The chordal distance of the rotations and the squared error of scale and shift, see `camera_loss`. A picture whose
    hypotheses are equally probable counts half as much as one that is decided between two.
    """
    check_tensor("camera", camera, "B 7")
    check_tensor("hypotheses", hypotheses, f"{len(camera)} M 7")
    check_tensor("probability", probability, f"{len(camera)} {hypotheses.shape[1]}")
    best = probability.argmax(1)
    aim = hypotheses.gather(1, best[:, None, None].expand(-1, 1, 7))[:, 0]
    weight = probability.amax(1)
    R, Q = (WeakPerspective.from_vector(vector).rotation for vector in (camera, aim))
    distance = (R - Q).square().sum((1, 2)).clamp_min(1e-12).sqrt() / 2
    return (weight * (distance + (camera[:, :3] - aim[:, :3]).square().mean(1))).mean()
