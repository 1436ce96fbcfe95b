"""Loss between the motion that the vertices make in the picture and the optical flow.

Source: Kokkinos & Kokkinos, "Learning monocular 3D reconstruction of articulated categories from motion", CVPR 2021,
equation 6.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import sample_image
from lib.rendering import visible_vertices


def motion_loss(
    points: Float[Tensor, "B V 2"],
    next_points: Float[Tensor, "B V 2"],
    visible: Bool[Tensor, "B V"],
    flow: Float[Tensor, "B 2 H W"],
    known: Bool[Tensor, "B H W"] | None = None,
) -> Float[Tensor, "B"]:
    """Mean over the visible vertices of ‖u_i − ũ_i‖₁, for B pairs of frames, in image-plane units.

    ũ_i = next_points_i − points_i is the motion of the projected vertex i; u_i is the flow from the first frame to the
    second, read bilinearly at points_i, in the *first* frame. No gradient flows through the place of reading: it would
    push the vertices to where the flow suits them.

    visible: in both frames. flow: (x, y) in image-plane units, so that it may have any resolution. known: the pixels
    whose flow counts, usually those of the animal; all by default. A pixel whose flow is not finite never counts. A
    vertex between known and unknown pixels takes the mean of the known ones if these have more than half of the
    bilinear weight, otherwise it is left out. A pair without any vertex left gives 0.
    """
    check_tensor("points", points, "B V 2")
    count, verts = points.shape[:2]
    check_tensor("next_points", next_points, f"{count} {verts} 2")
    check_tensor("visible", visible, f"{count} {verts}", kind="bool")
    check_tensor("flow", flow, f"{count} 2 H W")
    check_same_device(points=points, next_points=next_points, visible=visible, flow=flow)
    weight = flow.isfinite().all(1)
    if known is not None:
        check_tensor("known", known, f"{count} {flow.shape[2]} {flow.shape[3]}", kind="bool")
        weight = weight & known
    weight = weight[:, None].to(flow.dtype)
    # The product would keep NaN: 0 · NaN is NaN.
    values = torch.where(weight > 0, flow, 0)
    at = points.detach()[:, None]
    share = sample_image(weight, at)[:, 0, 0]
    observed = sample_image(values, at)[:, :, 0] / share.clamp_min(0.5)[:, None]
    # `share > 0.5` would be false for NaN and hide that a model has diverged.
    counts = (visible & ~(share <= 0.5)).to(points.dtype)
    difference = (next_points - points - observed.mT).abs().sum(-1)
    difference = torch.where(counts > 0, difference, 0)
    return difference.sum(1) / counts.sum(1).clamp_min(1)


def pair_motion(
    verts: Float[Tensor, "N V 3"],
    camera: WeakPerspective,
    faces: Int[Tensor, "F 3"],
    first: Int[Tensor, "P"],
    second: Int[Tensor, "P"],
    flow: Float[Tensor, "P 2 H W"],
    known: Bool[Tensor, "P H W"] | None,
    image_size: int,
) -> Float[Tensor, ""]:
    """Compute the mean of `motion_loss` over pairs of frames, for the vertices that both frames show."""
    projected = camera.project(verts)
    seen = visible_vertices(projected.detach(), faces, image_size)
    points = projected[..., :2]
    return motion_loss(points[first], points[second], seen[first] & seen[second], flow, known).mean()
