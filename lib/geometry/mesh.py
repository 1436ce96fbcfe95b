"""Triangle meshes: a sphere to start from, reading and writing files, normals, edges, subdivision, mirror symmetry."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.checks import check_faces, check_same_device, check_tensor, number, whole_number
from lib.files import write_atomically
from lib.geometry.vectors import extent_scale
from lib.remembered import remembered

if TYPE_CHECKING:
    import PIL.Image
    import trimesh

# Height of a triangle, as a share of its length, below which its normal has no gradient.
THIN = 1e-5


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh, validated when it is made (see `validate_mesh`).

    verts: (V, 3) positions. faces: (F, 3) int64 indices, counter-clockwise seen from outside.
    uvs: (V, 2) texture coordinates as in OBJ files: u to the right, v **up**, (0, 0) the lower left
        corner of the picture, (1, 1) its upper right corner. A seam needs its vertices twice.
    texture: (3, H, W) picture in [0, 1], first row on top. colors: (V, 3) in [0, 1].
    """

    verts: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    uvs: Float[Tensor, "V 2"] | None = None
    texture: Float[Tensor, "3 H W"] | None = None
    colors: Float[Tensor, "V 3"] | None = None

    def __post_init__(self) -> None:
        validate_mesh(self.verts, self.faces)
        count = len(self.verts)
        for name, value, shape in (
            ("uvs", self.uvs, f"{count} 2"),
            ("texture", self.texture, "3 H W"),
            ("colors", self.colors, f"{count} 3"),
        ):
            if value is not None:
                check_tensor(name, value, shape, finite=True)
                check_same_device(verts=self.verts, **{name: value})

    def to(self, device: torch.device | str) -> Mesh:
        """Move the mesh to another device."""
        values = (self.verts, self.faces, self.uvs, self.texture, self.colors)
        return Mesh(*(value if value is None else value.to(device) for value in values))

    def with_verts(self, verts: Float[Tensor, "V 3"]) -> Mesh:
        """Copy the mesh with other vertices; faces, texture and colours stay."""
        return replace(self, verts=verts)


def validate_mesh(verts: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> None:
    """Raise an error unless this is a mesh that one can compute with.

    Raises TypeError for wrong types; ValueError for wrong shapes, an empty mesh, NaN vertices, faces that are not
    triangles or name a vertex that does not exist, and triangles of zero area (their height is below the rounding
    error of their coordinates).
    """
    check_tensor("verts", verts, "V 3", kind="real", finite=True)
    if isinstance(faces, Tensor) and faces.ndim == 2 and faces.shape[1] > 3:
        raise ValueError(f"faces must be triangles, got {faces.shape[1]} corners each; triangulate them first")
    check_tensor("faces", faces, "F 3", kind="integer")
    if faces.dtype != torch.int64:
        raise TypeError(f"faces must be int64, got {faces.dtype}; convert it with faces.long()")
    check_same_device(verts=verts, faces=faces)
    if len(verts) == 0 or len(faces) == 0:
        raise ValueError(f"the mesh is empty: {len(verts)} verts and {len(faces)} faces; give at least one triangle")
    check_faces(faces, len(verts))
    corners = verts.detach().double()[faces]
    sides = corners.roll(-1, dims=1) - corners
    double_area = torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=-1)
    longest = sides.norm(dim=-1).amax(dim=1)
    rounding = 4 * torch.finfo(verts.dtype).eps * corners.abs().amax(dim=(1, 2))
    flat = double_area <= rounding * longest
    if flat.any():
        first = int(flat.nonzero()[0])
        raise ValueError(
            f"faces has {int(flat.sum())} triangles of zero area, the first is face {first} with vertices "
            f"{faces[first].tolist()}; remove them, or merge their vertices"
        )


# ---------------------------------------------------------------------------------------------- shapes


def icosphere(subdivisions: int = 3, radius: float = 1.0) -> Mesh:
    """Make a sphere of nearly equal triangles: an icosahedron, n times split 1 → 4 and pushed out to the sphere.

    It has 10 · 4ⁿ + 2 vertices (n = 3: 642) and 20 · 4ⁿ faces, float32. The coordinate planes are mirror planes,
    exact to the last bit: for each vertex (x, y, z) there is a vertex (x, y, −z).

    Raises ValueError for a negative count of subdivisions or a radius that is not positive.
    """
    subdivisions = whole_number("subdivisions", subdivisions, 0)
    if not number("radius", radius) > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    golden = (1 + math.sqrt(5)) / 2
    # fmt: off
    verts = torch.tensor([
        [-1, golden, 0], [1, golden, 0], [-1, -golden, 0], [1, -golden, 0],
        [0, -1, golden], [0, 1, golden], [0, -1, -golden], [0, 1, -golden],
        [golden, 0, -1], [golden, 0, 1], [-golden, 0, -1], [-golden, 0, 1],
    ], dtype=torch.float64)
    faces = torch.tensor([
        [0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11],
        [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6], [7, 1, 8],
        [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9],
        [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1],
    ])
    # fmt: on

    def to_sphere(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        return points / (x * x + y * y + z * z).sqrt()[:, None]

    verts = to_sphere(verts)
    for _ in range(subdivisions):
        verts, faces = _split(verts, faces)
        verts = to_sphere(verts)
    return Mesh((radius * verts).float(), faces)


def subdivide(mesh: Mesh) -> Mesh:
    """Split every triangle into four at the midpoints of its edges; the surface stays the same.

    The old vertices come first and keep their indices. uvs and colours are averaged like positions.
    """
    attributes = [mesh.verts]
    attributes += [value for value in (mesh.uvs, mesh.colors) if value is not None]
    split, faces = _split(torch.cat([value.to(mesh.verts.dtype) for value in attributes], dim=1), mesh.faces)
    pieces = list(split.split([value.shape[1] for value in attributes], dim=1))
    verts = pieces.pop(0)
    uvs = None if mesh.uvs is None else pieces.pop(0)
    colors = None if mesh.colors is None else pieces.pop(0)
    return Mesh(verts, faces, uvs, mesh.texture, colors)


def _split(values: Float[Tensor, "V C"], faces: Int[Tensor, "F 3"]) -> tuple[Tensor, Tensor]:
    """Append the edges' midpoints to per-vertex values, and split each face into four."""
    pairs, of_side = _unique_edges(faces)
    middle = len(values) + of_side
    a, b, c = faces.unbind(1)
    ab, bc, ca = middle.unbind(1)
    small = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    smaller = torch.stack([torch.stack(corners, dim=1) for corners in small], dim=1)
    return torch.cat([values, (values[pairs[:, 0]] + values[pairs[:, 1]]) / 2]), smaller.reshape(-1, 3)


# ------------------------------------------------------------------------------- edges, normals, areas


def edges(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "E 2"]:
    """List the edges of a mesh, each once, smaller index first, in lexicographic order."""
    return _unique_edges(check_faces(faces, None))[0]


@remembered
def _unique_edges(faces: Int[Tensor, "F 3"]) -> tuple[Int[Tensor, "E 2"], Int[Tensor, "F 3"]]:
    """List all edges once, and for each side (ab, bc, ca) of each face the index of its edge."""
    sides = torch.stack([faces, faces.roll(-1, dims=1)], dim=-1).reshape(-1, 2).sort(dim=1).values
    # Sort one integer for each edge, which is much faster than sorting rows.
    base = int(faces.max()) + 1 if faces.numel() else 1
    keys, of_side = torch.unique(sides[:, 0] * base + sides[:, 1], return_inverse=True)
    return torch.stack([keys // base, keys % base], dim=1), of_side.reshape(-1, 3)


def _area_vectors(
    verts: Float[Tensor, "... V 3"], faces: Int[Tensor, "F 3"]
) -> tuple[Float[Tensor, "... F 3"], Float[Tensor, "... F 1"], Float[Tensor, "... 1 1"]]:
    """Compute outward normals, as long as twice the area; the longest coordinate of the sides; the scale of both."""
    check_tensor("verts", verts, "... V 3", kind="real")
    faces = check_faces(faces, verts.shape[-2])
    scale = extent_scale(verts)
    a, b, c = ((verts / scale).index_select(-2, corner) for corner in faces.unbind(1))
    ab, ac = b - a, c - a
    longest = torch.maximum(ab.detach().abs(), ac.detach().abs()).amax(-1, keepdim=True)
    return torch.linalg.cross(ab, ac), longest, scale


def _tame(vectors: Float[Tensor, "... F 3"], longest: Float[Tensor, "... F 1"]) -> Float[Tensor, "... F 3"]:
    """Treat the vectors as constants where the gradient of their direction would explode."""
    height = vectors.detach().abs().amax(-1, keepdim=True)
    return torch.where(height <= THIN * longest * longest, vectors.detach(), vectors)


def _unit(vectors: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.masked_fill(length == 0, 1)


def face_normals(verts: Float[Tensor, "... V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "... F 3"]:
    """Unit outward normals of the faces, at any scale. Leading axes are batches.

    A triangle of zero area has a zero normal. It, and triangles thinner than a hundred-thousandth of their length, have
    no gradient, which would be larger than 10⁵ radians per length.
    """
    vectors, longest, _ = _area_vectors(verts, faces)
    return _unit(_tame(vectors, longest))


def face_areas(verts: Float[Tensor, "... V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "... F"]:
    """Areas of the faces, in squared units of the vertices. Leading axes are batches."""
    vectors, _, scale = _area_vectors(verts, faces)
    return vectors.norm(dim=-1) / 2 * scale[..., 0] * scale[..., 0]


def vertex_normals(verts: Float[Tensor, "... V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "... V 3"]:
    """Unit outward normals at the vertices: the mean of the faces around, weighted by area; at any scale.

    Zero at a vertex without faces, or whose faces all have zero area; thin faces give no gradient (see `face_normals`).
    Leading axes are batches. The weights are those of PyTorch3D's `Meshes.verts_normals_packed`.
    """
    vectors, longest, _ = _area_vectors(verts, faces)
    weighted = _tame(vectors, longest).repeat_interleave(3, dim=-2)
    return _unit(torch.zeros_like(verts).index_add(-2, faces.long().reshape(-1), weighted))


def mirror_permutation(verts: Float[Tensor, "V 3"], axis: int = 2) -> Int[Tensor, "V"]:
    """Find for each vertex the index of its mirror image in the plane where coordinate `axis` is 0.

    verts[permutation] with that coordinate negated is verts again, to 1e-4 of the mesh's size (for `icosphere`
    exactly). The permutation is its own inverse.

    Raises ValueError if a vertex has no mirror image, or if two share one.
    """
    from scipy.spatial import cKDTree

    check_tensor("verts", verts, "V 3", finite=True)
    if len(verts) == 0:
        raise ValueError("verts is empty; give at least one vertex")
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, got {axis}")
    points = verts.detach().cpu().double().numpy()
    mirrored = points.copy()
    mirrored[:, axis] *= -1
    distance, partner = cKDTree(points).query(mirrored)
    alone = distance > 1e-4 * (points.max(0) - points.min(0)).max()
    permutation = torch.from_numpy(partner).to(verts.device)
    if alone.any():
        raise ValueError(
            f"verts are not symmetric in axis {axis}: {alone.sum()} have no mirror image, the first is "
            f"vertex {alone.argmax()}; use a symmetric template, such as icosphere()"
        )
    if not torch.equal(permutation[permutation], torch.arange(len(verts), device=verts.device)):
        raise ValueError(f"verts do not pair up in axis {axis}; merge vertices that lie in the same place")
    return permutation


# ---------------------------------------------------------------------------------------------- files


def load_mesh(path: str | Path, *, appearance: bool = True, dtype: torch.dtype = torch.float32) -> Mesh:
    """Read a mesh from .obj, .ply, .glb, .gltf, .off or .stl, with its texture and colours.

    Kept: the vertices in the file's order, also those that no face uses. A seam is a place where the corners of a
    vertex differ in texture coordinate or in the colour of their faces; there copies of the vertex follow after all
    others, so the mesh is open at a seam. All objects of a file become one mesh; the scene of a glTF is placed, skinned
    and morphed as it opens.
    Converted: polygons become triangles, even if they are not convex; equal corners of an .stl become one vertex;
    colours of faces and materials become vertex colours; several pictures become one texture. Textures repeat beyond
    [0, 1] (`rendering.texture_sample`). Integers are scaled to [0, 1] by their range; otherwise colours and pictures
    are taken as written, without conversion between linear and sRGB. If there are both texture and `colors`, the
    surface looks like their product. An .mtl's Kd counts only if there is neither picture nor vertex colour.
    Dropped: normals, transparency, other maps of a material, further texture coordinates, animations. One warning
    names all else that is left out: points, lines, a picture that is missing.

    appearance: False reads positions and faces alone, so that no seam opens the mesh.
    dtype: of the vertices, float32 or float64; a warning tells if float32 loses digits that matter.

    Raises FileNotFoundError for a missing file; ValueError for a file that holds no valid mesh, or that has a format or
    a compression that cannot be read.
    """
    from lib.geometry import mesh_files

    path = Path(path)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is not a file; check the spelling and the folder")
    arrays, dropped = mesh_files.read(path, appearance)
    if dropped:
        warnings.warn(f"{path.name}: left out {'; '.join(dropped)}", stacklevel=2)
    # Validate in float64 first: the file is not to blame for digits that float32 rounds away.
    verts = torch.from_numpy(np.array(arrays.verts, dtype=np.float64))
    faces = torch.from_numpy(np.array(arrays.faces, dtype=np.int64))
    try:
        validate_mesh(verts, faces)
        if dtype == torch.float32:
            _check_digits(verts, path.name, "load_mesh(…, dtype=torch.float64)")
            try:
                validate_mesh(verts.float(), faces)
            except ValueError as error:
                raise ValueError(f"{error}; or use load_mesh(…, dtype=torch.float64), float32 flattens them") from None
        loaded = (
            None if values is None else torch.from_numpy(np.array(values, dtype=np.float32))
            for values in (arrays.uvs, arrays.texture, arrays.colors)
        )
        uvs, texture, colors = loaded
        texture = None if texture is None else texture.permute(2, 0, 1).contiguous()
        return Mesh(verts.to(dtype), faces, uvs, texture, colors)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _check_digits(verts: Float[Tensor, "V 3"], name: str, remedy: str) -> None:
    """Warn if float32 rounds positions by more than 1e-5 of the mesh's extent."""
    extent = (verts.amax(0) - verts.amin(0)).max()
    error = (verts.float().double() - verts).abs().max()
    if error > 1e-5 * extent:
        place = float(verts.abs().max())
        warnings.warn(
            f"{name}: float32 rounds its positions, up to {place:.6g} from the origin, by {float(error / extent):.1g} "
            f"of its extent; move it to the origin, or use {remedy}",
            stacklevel=3,
        )


def save_mesh(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh to .obj (with .mtl and .png beside it), .ply or .glb, by the ending of `path`.

    Positions are written with all their digits to .obj and .ply, in float32 to .glb. Textures have 8 bits a channel,
    and so have vertex colours in .ply and .glb. The file is written completely or not at all.

    Raises ValueError for another ending, a texture in a .ply, or float64 positions that a .glb cannot tell apart;
    OSError if the file cannot be written.
    """
    from lib.geometry.mesh_files import obj, ply

    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".obj", ".ply", ".glb"):
        raise ValueError(f"path={path.name!r} must end in .obj, .ply or .glb")
    if ending == ".ply" and mesh.uvs is not None:
        raise ValueError(f"path={path.name!r}: a .ply file holds no texture coordinates; use .obj or .glb")

    def array(value: Tensor | None):
        return None if value is None else value.detach().cpu().numpy()

    colors = None if mesh.colors is None else mesh.colors.clamp(0, 1)
    levels = None if colors is None else (255 * colors).round().byte()
    if ending == ".glb":
        if mesh.verts.dtype != torch.float32:
            try:
                validate_mesh(mesh.verts.detach().float(), mesh.faces)
            except ValueError:
                reason = "a .glb holds float32, which cannot tell these positions apart"
                raise ValueError(f"path={path.name!r}: {reason}; move the mesh to the origin, or use .ply") from None
            _check_digits(mesh.verts.detach().double().cpu(), path.name, "a .ply")
        write_atomically(path, to_trimesh(mesh, path.stem).export(file_type="glb"))
    elif ending == ".ply":
        write_atomically(path, ply.content(array(mesh.verts), array(mesh.faces), array(levels)))
    else:
        material = ""
        # Write the mesh last: when it is there, the files that it refers to are there, too.
        if mesh.uvs is not None and mesh.texture is not None:
            material = path.stem
            picture = io.BytesIO()
            _picture(mesh.texture).save(picture, "PNG")
            write_atomically(path.with_suffix(".png"), picture.getvalue())
            library = f"newmtl {material}\nKd 1 1 1\nmap_Kd {material}.png\n"
            write_atomically(path.with_suffix(".mtl"), library)
        uvs = None if mesh.uvs is None else mesh.uvs.to(mesh.verts.dtype)
        colors = None if colors is None else colors.to(mesh.verts.dtype)
        parts = (array(value) for value in (mesh.verts, mesh.faces, uvs, colors))
        write_atomically(path, obj.text(*parts, material))


def _picture(texture: Float[Tensor, "3 H W"]) -> PIL.Image.Image:
    from PIL import Image

    return Image.fromarray((texture.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def to_trimesh(mesh: Mesh, name: str) -> trimesh.Trimesh:
    """Convert a mesh for trimesh's exporters, with its texture and colours; `name` is the name of the material."""
    import trimesh

    def array(value: Tensor):
        return value.detach().cpu().numpy()

    exported = trimesh.Trimesh(array(mesh.verts), array(mesh.faces), process=False)
    levels = None if mesh.colors is None else array((mesh.colors.clamp(0, 1) * 255).round().byte())
    if mesh.uvs is not None:
        picture = None if mesh.texture is None else _picture(mesh.texture)
        material = trimesh.visual.material.PBRMaterial(
            name=name, baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0
        )
        exported.visual = trimesh.visual.TextureVisuals(uv=array(mesh.uvs.to(mesh.verts.dtype)), material=material)
        if levels is not None:
            opaque = np.full((len(levels), 1), 255, np.uint8)
            exported.visual.vertex_attributes["color"] = np.concatenate([levels, opaque], 1)
    elif levels is not None:
        exported.visual = trimesh.visual.ColorVisuals(exported, vertex_colors=levels)
    return exported
