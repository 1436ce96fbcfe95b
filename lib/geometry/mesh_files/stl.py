"""STL: separate triangles; corners at the same place are joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.geometry.mesh_files.surface import Surface


def read(path: Path, appearance: bool) -> Surface:
    """Read binary and ASCII STL, by trimesh. The format has no connections: equal positions become one vertex."""
    import trimesh

    loaded = trimesh.load_mesh(path, process=False)
    loose = np.asarray(loaded.vertices, float)[np.asarray(loaded.faces)].reshape(-1, 3)
    _, first, inverse = np.unique(loose, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    corners = place[inverse.reshape(-1)]
    return Surface(loose[first[order]], corners, np.full(len(corners) // 3, 3))
