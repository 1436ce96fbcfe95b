"""Depth maps of a pinhole camera: to points and back, normals, the mesh whose vertices are the pixels.

Frame: x right, y down, z forward; the camera stands at the origin. Pixel (u_x, u_y) of the image plane [−1, 1]² at
depth z is the point (u_x/f, u_y/f, 1)·z. The focal length f is in half picture widths: f = 1/tan(half the field of
view). It is the same for both axes, so pictures must be square. Normals point towards the camera.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_tensor
from lib.geometry.image_plane import pixel_centers
from lib.geometry.mesh import Mesh
from lib.remembered import constant


def pixel_rays(
    height: int, width: int, focal: float, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "3 H W"]:
    """Make the rays (u_x/f, u_y/f, 1) through the centres of all pixels: a ray times a depth is a point."""
    columns, rows = pixel_centers(height, width, device, dtype).unbind(-1)
    return torch.stack([columns / _checked(focal), rows / focal, torch.ones_like(rows)])


def depth_to_points(depth: Float[Tensor, "B H W"], focal: float) -> Float[Tensor, "B 3 H W"]:
    """Convert each pixel of a depth map to the point that it sees, in the camera's frame.

    Raises ValueError for another shape, or a focal length that is not above 0.
    """
    check_tensor("depth", depth, "B H W")
    return depth[:, None] * pixel_rays(*depth.shape[1:], focal, depth.device, depth.dtype)


def project(points: Float[Tensor, "B N 3"], focal: float) -> Float[Tensor, "B N 3"]:
    """Project points onto the image plane and keep the depth: (f x / z, f y / z, z). The inverse of a ray's point."""
    return torch.cat([_checked(focal) * points[..., :2] / points[..., 2:], points[..., 2:]], -1)


def depth_to_normals(depth: Float[Tensor, "B H W"], focal: float) -> Float[Tensor, "B 3 H W"]:
    """Compute unit normals towards the camera, by central differences of the points (one-sided at the border)."""
    points = F.pad(depth_to_points(depth, focal), (1, 1, 1, 1), mode="replicate")
    right = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    down = points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    normals = torch.linalg.cross(down, right, dim=1)
    return normals / normals.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)


def steep_pixels(depth: Float[Tensor, "B H W"], steepest: float, focal: float) -> Bool[Tensor, "B H W"]:
    """Find the pixels between which a depth map rises by more than `steepest` pixels' widths (1 is a slope of 45°)."""
    limit = steepest * 2 / (_checked(focal) * depth.shape[-1])
    across = (depth[:, :, 1:] - depth[:, :, :-1]).abs() > limit
    along = (depth[:, 1:] - depth[:, :-1]).abs() > limit
    return F.pad(across, (0, 1)) | F.pad(across, (1, 0)) | F.pad(along, (0, 0, 0, 1)) | F.pad(along, (0, 0, 1, 0))


@lru_cache
def grid_faces(height: int, width: int, device: torch.device | str = "cpu") -> Int[Tensor, "F 3"]:
    """Make the faces of the mesh whose vertices are the pixels, row by row: two for every square of four neighbours,
    counter-clockwise seen from the camera. The tensor is shared between calls and only to be read."""
    index = torch.arange(height * width, device=device).view(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    return torch.stack([torch.stack([a, c, b], -1), torch.stack([c, d, b], -1)], 2).view(-1, 3)


def depth_mesh(
    depth: Float[Tensor, "H W"],
    texture: Float[Tensor, "3 H W"],
    focal: float,
    pivot: float = 0.0,
    farthest: float = math.inf,
) -> Mesh:
    """Convert a depth map to a textured mesh to export: y up, looking along +z, towards the viewer.

    A rotation by 180 degrees about x takes the camera's frame to this frame; the point (0, 0, pivot) becomes the
    origin. farthest: pixels behind this depth are background and left out. Raises ValueError for other shapes, or if
    nothing is left.
    """
    check_tensor("depth", depth, "H W")
    height, width = depth.shape
    points = depth_to_points(depth[None], focal)[0].flatten(1).T
    points = (points - constant(points, 0, 0, pivot)) * constant(points, 1.0, -1.0, -1.0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    uvs = torch.stack([(columns + 0.5) / width, 1 - (rows + 0.5) / height], -1).view(-1, 2)
    faces = grid_faces(height, width, depth.device)
    faces = faces[(depth.flatten() <= farthest)[faces].all(1)]
    if not len(faces):
        raise ValueError(f"farthest={farthest} leaves no triangle; the nearest pixel is at {float(depth.min()):.3f}")
    used, places = faces.unique(return_inverse=True)
    return Mesh(points[used], places.view_as(faces), uvs=uvs.to(points)[used], texture=texture)


def _checked(focal: float) -> float:
    if not focal > 0:
        raise ValueError(f"focal must be above 0, got {focal}; it is 1/tan(half the field of view)")
    return focal
