"""The renderer on PyTorch3D, for those who have it installed.

PyTorch3D's frame has x left and y up, so both are negated. Its unit is ours, half the shorter side of the image. Three
of its habits matter here (rasterize_meshes_cpu.cpp, version 0.7.9):

- PyTorch3D drops a face at a pixel if the face's depth, extrapolated beyond its border, is negative. At the rim of an
  object faces stand nearly edge-on and extrapolate steeply. A blurred silhouette therefore loses faces there (a few
  pixels, by some percent at most), unless barycentrics are clipped to the face first. So we clip them, and shift
  weak-perspective depths, which may be negative, in front of the camera.
- PyTorch3D keeps only the nearest `FACES_PER_PIXEL` faces; the definition has the product over all.
- PyTorch3D skips triangles of an area below 1e-8; our soft silhouette counts them as segments.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.rendering.reference import TAIL, edge_gradient, visible_vertices

try:
    from pytorch3d.renderer.blending import BlendParams, sigmoid_alpha_blend
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.renderer.mesh.rasterizer import Fragments
    from pytorch3d.structures import Meshes
except ImportError as error:
    raise ImportError(
        f'backend="pytorch3d" needs PyTorch3D ({error}); install it from environment.yml, or use backend="kernels"'
    ) from None

# PyTorch3D has neither of these two: take the reference's, on PyTorch3D's z-buffer.
__all__ = ["edge_gradient", "rasterize", "silhouette", "visible_vertices"]

FACES_PER_PIXEL = 50


def _fragments(
    verts: Tensor, faces: Tensor, size: tuple[int, int], perspective: bool, blur: float, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flipped = verts.float() * verts.new_tensor([-1, -1, 1]).float()
    meshes = Meshes(flipped, faces.expand(len(verts), -1, -1))
    face, depth, barycentrics, distance = rasterize_meshes(
        meshes,
        size,
        blur_radius=blur,
        faces_per_pixel=count,
        perspective_correct=perspective,
        clip_barycentric_coords=blur > 0,
    )
    return face, depth.to(verts.dtype), barycentrics.to(verts.dtype), distance.to(verts.dtype)


def _in_front(verts: Tensor) -> tuple[Tensor, Tensor]:
    """Shift the vertices to depths of at least 1; return them and the shift, which is to be subtracted afterwards."""
    shift = 1 - verts[..., 2].detach().amin(1)
    zero = torch.zeros_like(shift)
    return verts + torch.stack([zero, zero, shift], -1)[:, None], shift[:, None, None]


def rasterize(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], perspective: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not (len(verts) and len(faces)):
        return _nothing(verts, size)
    if perspective:
        face, depth, barycentrics, distance = _fragments(verts, faces, size, True, 0.0, 1)
    else:
        shifted, shift = _in_front(verts)
        face, depth, barycentrics, distance = _fragments(shifted, faces, size, False, 0.0, 1)
        depth = depth - shift[..., None]
    face, depth, barycentrics, distance = (part[:, :, :, 0] for part in (face, depth, barycentrics, distance))
    covered = face >= 0
    return (
        torch.where(covered, face % len(faces), -1),
        torch.where(covered, depth, torch.inf),
        torch.where(covered[..., None], barycentrics, 0.0),
        torch.where(covered, distance, torch.inf),
    )


def silhouette(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "B H W"]:
    if not (len(verts) and len(faces)):
        return verts.new_zeros(len(verts), *size) + 0 * verts.sum()
    fragments = _fragments(_in_front(verts)[0], faces, size, False, TAIL * sigma, FACES_PER_PIXEL)
    colors = verts.new_zeros(*fragments[0].shape, 3)
    return sigmoid_alpha_blend(colors, Fragments(*fragments), BlendParams(sigma=sigma))[..., 3]


def _nothing(verts: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (len(verts), *size)
    face = torch.full(shape, -1, dtype=torch.int64, device=verts.device)
    infinite = verts.new_full(shape, torch.inf)
    return face, infinite, verts.new_zeros(*shape, 3), infinite.clone()
