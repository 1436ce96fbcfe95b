"""Handles that a person can move in any 3D program: the folded layer as a skin in a .glb file.

A glTF skin moves vertex v_i to Σ_k w_ik J_k v_i, where J_k is the motion of joint k. If joints are only shifted, by
Δ_k, and weights sum to one, this is v_i + Σ_k w_ik Δ_k. With w = D it is the folded layer, V = V̄ + D Δ; and the rows
of D do sum to one. But the weights of a file must not be negative, whereas those of D can be, and programs are obliged
to read only four weights a vertex. So the skin is the nearest one that is allowed, and the file holds D in addition.
Source: Khronos, glTF 2.0 specification, section 3.7.3 (skins).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor
from lib.files import write_atomically
from lib.geometry.mesh import Mesh, to_trimesh

FLOAT = 5126  # glTF's number for float32


def skin_weights(influence: Float[Tensor, "V K"], per_vertex: int = 4) -> Float[Tensor, "V K"]:
    """Find the weights nearest to `influence` that are not negative, sum to one, and are nearly all zero.

    Each row is projected, in the least-squares sense, onto the probability simplex with at most `per_vertex`
    entries: keep the largest ones, subtract one number from each so that their positive parts sum to one, and cut
    the rest. So vertex i is off by at most ‖w_i − D_i‖ times the length of Δ. In the mean over independent random Δ
    no other allowed weights are nearer.
    Source: Kyrillidis et al., "Sparse projections onto the simplex", ICML 2013, algorithm 1.

    Raises ValueError unless per_vertex is 1 or more.
    """
    check_tensor("influence", influence, "V K", finite=True)
    if per_vertex < 1:
        raise ValueError(f"per_vertex must be 1 or more, got {per_vertex}; programs read 4 at least")
    largest, which = influence.topk(min(per_vertex, influence.shape[1]), dim=1)
    count = torch.arange(1, largest.shape[1] + 1, device=influence.device)
    excess = (largest.cumsum(1) - 1) / count
    kept = (largest > excess).sum(1, keepdim=True)
    weights = (largest - excess.gather(1, kept - 1)).clamp_min(0)
    return torch.zeros_like(influence).scatter(1, which, weights)


def save_rig(
    path: str | Path,
    shape: Mesh,
    places: Float[Tensor, "K 3"],
    influence: Float[Tensor, "V K"],
    per_vertex: int = 4,
) -> None:
    """Write a .glb with a mesh, its texture or colours, and a joint handle_00, handle_01, … for each handle.

    shape: the mesh that the file shows when opened: the template, or any state V = C + D H̃ of the folded layer. A
        mesh whose texture has a seam has vertices twice; give both the same row of `influence`.
    places: where the handles are in that state, H̃, or A V.
    influence: D, (V, K).
    per_vertex: weights of a vertex. Every program reads 4. With more the skin is nearer to D in programs that read
        them, such as Blender; three.js keeps the four largest and scales them to a sum of one.

    When a program moves handle k by Δ_k, the vertices move by `skin_weights(influence, per_vertex)` @ Δ. The file
    holds the exact D as vertex attributes _INFLUENCE_0, _INFLUENCE_1, … of four columns each (the last one may have
    fewer). trimesh.load_mesh gives them as `vertex_attributes`, Blender as attributes of the mesh.

    Raises ValueError for another ending, or an influence that does not fit the mesh and the handles or whose rows
    do not sum to one; OSError if the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise ValueError(f"path={path.name!r} must end in .glb; other kinds of file hold no joints")
    check_tensor("places", places, "K 3", finite=True)
    check_tensor("influence", influence, f"{len(shape.verts)} {len(places)}", finite=True)
    check_same_device(verts=shape.verts, places=places, influence=influence)
    if (influence.sum(1) - 1).abs().max() > 1e-2:
        raise ValueError("influence must have rows that sum to one, as the D of HandleLayer.fold() does")

    exported = to_trimesh(shape, path.stem)
    exact = influence.detach().cpu().float()
    for i, columns in enumerate(exact.split(4, dim=1)):
        exported.vertex_attributes[f"_INFLUENCE_{i}"] = columns.numpy()
    values, joints = skin_weights(exact, per_vertex).topk(min(per_vertex, len(places)), dim=1)
    joints = joints * (values > 0)
    skin_attributes = []
    for i in range(0, values.shape[1], 4):
        for name, part, dtype in (("JOINTS", joints, np.uint16), ("WEIGHTS", values, np.float32)):
            padded = torch.nn.functional.pad(part[:, i : i + 4], (0, max(0, i + 4 - part.shape[1])))
            exported.vertex_attributes[f"_{name}_{i // 4}"] = padded.numpy().astype(dtype)
            skin_attributes.append(f"{name}_{i // 4}")

    def add_skin(buffers: dict, tree: dict) -> None:
        # trimesh marks all attributes that its caller adds as private.
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        attributes |= {name: attributes.pop(f"_{name}") for name in skin_attributes}
        where = places.detach().cpu().double().numpy()
        to_joint = np.tile(np.eye(4, dtype=np.float32), (len(where), 1, 1))
        to_joint[:, 3, :3] = -where  # glTF stores matrices by columns.
        tree["accessors"]["to joint"] = {
            "bufferView": len(buffers),
            "componentType": FLOAT,
            "type": "MAT4",
            "count": len(where),
        }
        buffers["to joint"] = to_joint.tobytes()
        all_joints = list(range(2, 2 + len(where)))
        tree["meshes"][0]["name"] = path.stem
        tree["nodes"] = [
            {"name": path.stem, "mesh": 0, "skin": 0},
            {"name": "handles", "children": all_joints},
            *({"name": f"handle_{k:02}", "translation": place.tolist()} for k, place in enumerate(where)),
        ]
        tree["skins"] = [{"inverseBindMatrices": len(tree["accessors"]) - 1, "skeleton": 1, "joints": all_joints}]
        tree["scenes"][0]["nodes"] = [0, 1]

    write_atomically(path, exported.export(file_type="glb", buffer_postprocessor=add_skin))
