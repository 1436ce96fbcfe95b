"""Readers of mesh files: the content of a file, in the same form for all formats, and the arrays of one triangle mesh.

Each format has its own file. A reader gives a `Surface`: polygons with all colours and pictures that the format has.
`arrays` cuts it into triangles, with one position, one texture coordinate and one colour for each vertex. The course
has its own readers because the order of vertices and their connections must be kept. trimesh, which reads the same
formats, splits vertices at normals (its issues 1930, 2154), counts relative indices from the end of the file (2364),
cuts concave polygons as fans (2519), reorders the vertices of several materials (1076), and reads normalised integers
as floats.
"""

from __future__ import annotations

from pathlib import Path

from lib.geometry.mesh_files import gltf, obj, off, ply, stl
from lib.geometry.mesh_files.surface import Arrays, arrays

READERS = {
    ".obj": obj.read,
    ".ply": ply.read,
    ".glb": gltf.read,
    ".gltf": gltf.read,
    ".off": off.read,
    ".stl": stl.read,
}


def read(path: Path, appearance: bool = True) -> tuple[Arrays, list[str]]:
    """Read the mesh in a file; tell also in words what was left out.

    Raises ValueError for an ending without a reader, a damaged file, or a file without faces.
    """
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path.name} is not read; export it as {', '.join(READERS)}, with Blender or MeshLab say")
    try:
        surface = READERS[path.suffix.lower()](path, appearance)
        if len(surface.sizes) == 0:
            raise ValueError("holds no triangles; export a mesh, not points or curves")
        return arrays(surface, appearance), surface.dropped
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can cause any error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ValueError) and "; " in reason:  # an error of our readers, with its remedy
            raise ValueError(f"{path.name}: {reason}") from None
        raise ValueError(f"{path.name} cannot be read as a mesh ({reason}); export it again as .obj or .glb") from None
