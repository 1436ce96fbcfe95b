"""The renderer: one interface, three back ends.

The vertices are already projected: x, y in the image plane ([-1, 1]², x right, y down), z the depth (larger is
farther). The renderer knows no camera. `backend` is "reference" (plain PyTorch, to read), "kernels" (Warp, on the
CPU and on CUDA), "pytorch3d" (if it is installed), or "auto": kernels.

Distances (`sigma`, `Fragments.distance`) are measured in units of half the image's shorter side, so that a blur
is round in pixels even if the image is not square.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.checks import check_alike, check_faces, check_same_device, check_tensor, image_sides, number, require
from lib.geometry.image_plane import sample_image
from lib.geometry.mesh import vertex_normals
from lib.geometry.vectors import unit
from lib.remembered import constant

# Rounding error of interpolated texture coordinates, in float32.
ROUNDING = 1e-5
BACKENDS = ("auto", "reference", "kernels", "pytorch3d")


@dataclass
class Fragments:
    """The fragments of a picture: the nearest face at each pixel, and where on this face the pixel lies.

    face: (B, H, W) int64, the nearest face, −1 on the background.
    depth: (B, H, W), infinite on the background.
    barycentrics: (B, H, W, 3), the weights of the face's corners, zero on the background.
    distance: (B, H, W), the signed squared distance to that face's border: negative inside, hence at every pixel
        of the object, and infinite on the background.

    All but `face` are differentiable in the vertices.
    """

    face: Int[Tensor, "B H W"]
    depth: Float[Tensor, "B H W"]
    barycentrics: Float[Tensor, "B H W 3"]
    distance: Float[Tensor, "B H W"]

    @property
    def mask(self) -> Bool[Tensor, "B H W"]:
        """The mask of the object: True where a face covers the pixel."""
        return self.face >= 0


def rasterize(
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    image_size: int | tuple[int, int],
    perspective: bool = False,
    *,
    backend: str = "auto",
) -> Fragments:
    """Find the nearest face at each pixel's centre, by z-buffer.

    image_size: H = W, or (H, W). With `perspective` (vertices of a pinhole camera, z the true depth), depth and
    barycentrics are perspective-correct: linear in space, not in the image. Triangles of zero area cover nothing.

    Raises TypeError or ValueError for wrong shapes, dtypes or devices, NaN, faces out of range, and, with
    `perspective`, vertices at or behind the camera.
    """
    verts, faces, size = _check(verts, faces, image_size, perspective)
    return Fragments(*_backend(backend, verts).rasterize(verts, faces, size, perspective))


def silhouette(
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    image_size: int | tuple[int, int],
    sigma: float = 1e-4,
    gradient: str = "soft",
    *,
    backend: str = "auto",
) -> Float[Tensor, "B H W"]:
    """Draw the mask of the object, differentiable in the vertices' x and y.

    gradient "soft": the Soft Rasterizer's mask α = 1 − Π_j (1 − sigmoid(−d_j / σ)), the product over all faces j,
        d_j the signed squared distance to the border of face j (Liu et al., ICCV 2019).
    gradient "nmr": the hard mask, 0 or 1, with the Neural Mesh Renderer's gradient, which treats the step at a
        face's border as a linear ramp, outside and inside (Kato et al., CVPR 2018).

    An object wholly outside the image gives an empty mask and zero gradient. Raises as `rasterize` does, and
    ValueError for sigma <= 0.
    """
    verts, faces, size = _check(verts, faces, image_size, perspective=False)
    if gradient == "soft":
        if not number("sigma", sigma) > 0:
            raise ValueError(f"sigma must be positive, got {sigma}; 1e-4 is customary")
        return _backend(backend, verts).silhouette(verts, faces, size, float(sigma))
    if gradient == "nmr":
        module = _backend(backend, verts)
        face = module.rasterize(verts.detach(), faces, size, False)[0]
        mask = (face >= 0).to(verts.dtype)
        return module.edge_gradient(mask[:, None], face, verts, faces)[:, 0]
    raise ValueError(f'gradient must be "soft" or "nmr", got {gradient!r}')


def depth(
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    image_size: int | tuple[int, int],
    perspective: bool = False,
    *,
    backend: str = "auto",
) -> Float[Tensor, "B H W"]:
    """Draw the depth map, infinite on the background. Arguments and errors are those of `rasterize`."""
    return rasterize(verts, faces, image_size, perspective, backend=backend).depth


def interpolate(
    attributes: Float[Tensor, "B V C"] | Float[Tensor, "V C"], faces: Int[Tensor, "F 3"], fragments: Fragments
) -> Float[Tensor, "B C H W"]:
    """Interpolate attributes of the vertices at each pixel, with the barycentrics as weights; zero on the background.

    Differentiable in the attributes, and in the vertices through `fragments`.
    """
    batch, height, width = fragments.face.shape
    check_tensor("attributes", attributes, "B V C" if getattr(attributes, "ndim", 3) == 3 else "V C")
    faces = check_faces(faces, attributes.shape[-2], of="attributes")
    check_same_device(attributes=attributes, faces=faces, fragments=fragments.face)
    if attributes.ndim == 3 and len(attributes) != batch:
        raise ValueError(f"attributes has {len(attributes)} items, fragments {batch}; make the batches equal")
    if fragments.face.is_cuda:
        return _interpolate_all(attributes, faces, fragments)
    covered = (fragments.face.flatten() >= 0).nonzero()[:, 0]
    seen = fragments.face.flatten()[covered]
    require(seen < len(faces), "faces must be those that fragments were drawn of; they are fewer")
    corner = faces[seen]
    if attributes.ndim == 3:
        corner = corner + (covered // (height * width) * attributes.shape[1])[:, None]
    table = attributes.reshape(-1, attributes.shape[-1])
    values = table.index_select(0, corner.flatten()).view(*corner.shape, table.shape[1])
    values = (values * fragments.barycentrics.flatten(0, 2)[covered][..., None].to(values.dtype)).sum(1)
    image = values.new_zeros(batch * height * width, values.shape[-1]).index_copy(0, covered, values)
    return image.view(batch, height, width, table.shape[1]).permute(0, 3, 1, 2)


def _interpolate_all(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Float[Tensor, "B C H W"]:
    """`interpolate` at every pixel, on the background with the weights zero.

    On CUDA that is faster than to pick out the covered pixels, for whose number the host would have to wait.
    """
    batch, height, width = fragments.face.shape
    if len(faces) == 0:
        return attributes.new_zeros(batch, attributes.shape[-1], height, width)
    corner = faces.long().index_select(0, fragments.face.flatten().clamp(min=0)).view(batch, -1, 3)
    if attributes.ndim == 3:
        corner = corner + torch.arange(batch, device=corner.device)[:, None, None] * attributes.shape[1]
    table = attributes.reshape(-1, attributes.shape[-1])
    values = table.index_select(0, corner.flatten()).view(batch, height, width, 3, table.shape[1])
    weights = fragments.barycentrics.to(values.dtype) * fragments.mask[..., None]
    return (values * weights[..., None]).sum(-2).permute(0, 3, 1, 2)


def texture_sample(
    uvs: Float[Tensor, "B V 2"] | Float[Tensor, "V 2"],
    texture: Float[Tensor, "B C Ht Wt"] | Float[Tensor, "C Ht Wt"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
) -> Float[Tensor, "B C H W"]:
    """Look up the texture's colour at each pixel, bilinear; zero on the background.

    uvs: u to the right and v **up** as in OBJ files: (0, 0) is the texture's lower left corner, (1, 1) its upper right
        one. Beyond [0, 1] the texture repeats, each tile as the first.
    """
    check_tensor("uvs", uvs, "B V 2" if getattr(uvs, "ndim", 2) == 3 else "V 2")
    check_tensor("texture", texture, "C Ht Wt" if getattr(texture, "ndim", 3) == 3 else "B C Ht Wt")
    check_alike(uvs=uvs, texture=texture)
    texture = texture[None] if texture.ndim == 3 else texture
    at = interpolate(uvs, faces, fragments).permute(0, 2, 3, 1)
    return texture_lookup(at, texture.expand(len(at), *texture.shape[1:])) * fragments.mask[:, None]


def texture_lookup(at: Float[Tensor, "B H W 2"], texture: Float[Tensor, "B C Ht Wt"]) -> Float[Tensor, "B C H W"]:
    """Look up the texture's colours at texture coordinates, as `texture_sample` does."""
    # Coordinates that only rounding has carried beyond the border stay there.
    at = torch.where((at < -ROUNDING) | (at > 1 + ROUNDING), at - at.detach().floor(), at)
    grid = torch.stack([2 * at[..., 0] - 1, 1 - 2 * at[..., 1]], -1)
    return sample_image(texture, grid)


def shade(
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    colors: Tensor,
    image_size: int | tuple[int, int],
    *,
    uvs: Float[Tensor, "V 2"] | None = None,
    light: Float[Tensor, "3"] | Float[Tensor, "B 3"] | None = None,
    ambient: float | Tensor = 0.45,
    normals: Float[Tensor, "B V 3"] | None = None,
    background: float | Tensor = 1.0,
    perspective: bool = False,
    gradient: str = "none",
    backend: str = "auto",
) -> Float[Tensor, "B 3 H W"]:
    """Draw a picture under Lambert's law: colour · (ambient + (1 − ambient) · max(0, n · l)).

    colors: (B, V, 3) or (V, 3), one per vertex; or, with `uvs`, a texture (B, 3, Ht, Wt) or (3, Ht, Wt).
    light: the direction **towards** the light in the camera's frame (x right, y down, z forward), any length;
        by default above, to the left of, and behind the camera.
    ambient: the share of light that has no direction, in [0, 1]; a number or (B,).
    normals: (B, V, 3), outward, in the camera's frame. By default the normals of `verts`, which are right under weak
        perspective, where a projected mesh is similar to the mesh. Under a pinhole camera pass your own.
    background: a number, a colour (3,), or an image (B, 3, H, W).
    gradient: "none" lets gradients reach colours, light and normals, and the vertices within each face, but not
        across borders; "nmr" adds the Neural Mesh Renderer's gradient of the borders (see `silhouette`).

    Raises as `rasterize` does.
    """
    if gradient not in ("none", "nmr"):
        raise ValueError(f'gradient must be "none" or "nmr", got {gradient!r}')
    fragments = rasterize(verts, faces, image_size, perspective, backend=backend)
    batch, height, width = fragments.face.shape
    if uvs is None:
        check_tensor("colors", colors, "B V 3" if getattr(colors, "ndim", 2) == 3 else "V 3")
    if normals is None:
        normals = vertex_normals(verts, faces)
    check_tensor("normals", normals, f"{batch} {verts.shape[1]} 3")
    normal = torch.nn.functional.normalize(interpolate(normals, faces, fragments), dim=1)
    albedo = interpolate(colors, faces, fragments) if uvs is None else texture_sample(uvs, colors, faces, fragments)
    light = (
        constant(verts, -0.35, -0.6, -0.72) if light is None else _broadcast("light", light, verts, (3,), (batch, 3))
    )
    light = unit(light).expand(batch, 3)
    cosine = (normal * light[:, :, None, None]).sum(1, keepdim=True).clamp(min=0)
    ambient = _broadcast("ambient", ambient, verts, (), (batch,)).expand(batch)[:, None, None, None]
    allowed = ((), (3,), (3, height, width), (batch, 3, height, width), (1, 3, height, width))
    background = _broadcast("background", background, verts, *allowed)
    background = background[:, None, None] if background.ndim == 1 else background
    image = torch.where(fragments.mask[:, None], albedo * (ambient + (1 - ambient) * cosine), background)
    if gradient == "nmr":
        verts, faces, _ = _check(verts, faces, image_size, perspective)
        image = _backend(backend, verts).edge_gradient(image, fragments.face, verts, faces)
    return image


def _broadcast(name: str, value: Any, like: Tensor, *shapes: tuple[int, ...]) -> Tensor:
    """A number, a list or a tensor as a tensor like another one. Raises TypeError or ValueError for other shapes."""
    try:
        # Numbers are made into a tensor once: a copy to CUDA would wait.
        if isinstance(value, Sequence):
            value = constant(like, *(float(entry) for entry in value))
        elif not isinstance(value, Tensor) and np.ndim(value) == 0:
            value = constant(like, float(value))[0]
        value = torch.as_tensor(value).to(like)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}") from None
    if tuple(value.shape) not in shapes:
        wanted = " or ".join(dict.fromkeys("a number" if not shape else str(shape) for shape in shapes))
        raise ValueError(f"{name} must be {wanted}, got {tuple(value.shape)}; colours come before rows and columns")
    return value


def visible_vertices(
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    image_size: int | tuple[int, int],
    perspective: bool = False,
    *,
    backend: str = "auto",
) -> Bool[Tensor, "B V"]:
    """Tell for each vertex whether it is seen: inside the image, with no face in front of it.

    The test is made at the vertex itself, not at the nearest pixel, so it does not depend on the resolution. A face
    hides a vertex only if it is nearer by more than a thousandth of the object's depth range: thus duplicated
    vertices along a texture's seam do not hide each other.
    """
    verts, faces, size = _check(verts, faces, image_size, perspective)
    verts = verts.detach()
    if not verts.numel():
        return torch.zeros(verts.shape[:2], dtype=torch.bool, device=verts.device)
    limits = constant(verts, size[1], size[0]) / min(size)
    inside = (verts[..., :2].abs() <= limits).all(-1)
    span = verts[..., 2].amax(1) - verts[..., 2].amin(1)
    return inside & _backend(backend, verts).visible_vertices(verts, faces, 1e-3 * span, perspective)


def flow(
    verts0: Float[Tensor, "B V 3"],
    verts1: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    image_size: int | tuple[int, int],
    perspective: bool = False,
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B 2 H W"], Bool[Tensor, "B H W"]]:
    """Compute the true motion (x, y) of each pixel of the first frame towards the second, in image-plane units.

    Returns the flow, zero on the background, and the mask of the object in the first frame. A point that is hidden
    in the second frame still has its flow.
    """
    check_tensor("verts0", verts0, "B V 3", kind="real", finite=True)
    check_tensor("verts1", verts1, "B V 3", kind="real", finite=True)
    check_alike(verts0=verts0, verts1=verts1)
    if verts1.shape != verts0.shape:
        raise ValueError(f"verts1 must have the shape of verts0, {tuple(verts0.shape)}, got {tuple(verts1.shape)}")
    fragments = rasterize(verts0, faces, image_size, perspective, backend=backend)
    if not perspective:
        return interpolate(verts1[..., :2] - verts0[..., :2], faces, fragments), fragments.mask
    start, end = (
        interpolate(torch.cat([verts[..., :2] * verts[..., 2:], verts[..., 2:]], -1), faces, fragments)
        for verts in (verts0, verts1)
    )
    start, end = (at[:, :2] / torch.where(fragments.mask, at[:, 2], 1.0)[:, None] for at in (start, end))
    return end - start, fragments.mask


def _check(
    verts: Tensor, faces: Tensor, image_size: int | tuple[int, int], perspective: bool
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Refuse what cannot be rendered; return isotropic vertices, int64 faces and (H, W)."""
    check_tensor("verts", verts, "B V 3", finite=True)
    faces = check_faces(faces, verts.shape[1])
    check_same_device(verts=verts, faces=faces)
    if verts.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"verts must be float32 or float64, got {verts.dtype}; convert it with verts.float()")
    size = image_sides("image_size", image_size)
    if perspective and verts.numel():
        depths = verts.detach()[..., 2]
        require(depths > 0, "verts has depths z <= 0, at or behind the camera; move the object in front of it")
    if size[0] != size[1]:
        verts = verts * constant(verts, size[1] / min(size), size[0] / min(size), 1.0)
    return verts, faces, size


def _backend(name: str, verts: Tensor) -> ModuleType:
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; use one of {', '.join(map(repr, BACKENDS))}")
    if name == "auto":
        name = "kernels" if verts.device.type in ("cpu", "cuda") else "reference"
    return importlib.import_module(f"lib.rendering.{name}")
