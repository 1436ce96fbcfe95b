"""Mesh files as the world writes them: what a file says, the same for all formats, and the arrays of one triangle mesh.

One file a format gives a `Surface`, polygons with whatever colours and pictures the format has; `arrays` cuts it into
triangles with one position, one texture coordinate and one colour for each vertex. The readers are the course's own
because they must keep the order of vertices and their connections: trimesh, which reads the same formats, splits
vertices at normals (its issues 1930, 2154), reads relative indices against the whole file (2364), cuts concave polygons
as fans (2519), reorders the vertices of several materials (1076), and takes normalised integers for floats.
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
    """The mesh in a file, and in words what was left out of it.

    Raises ValueError for an ending that has no reader, a damaged file, or one without faces.
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
    except Exception as error:  # what a damaged file does to a reader is of every kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ValueError) and "; " in reason:  # one of the readers' own, with its remedy
            raise ValueError(f"{path.name}: {reason}") from None
        raise ValueError(f"{path.name} cannot be read as a mesh ({reason}); export it again as .obj or .glb") from None
