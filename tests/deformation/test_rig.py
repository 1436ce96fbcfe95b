"""The handle layer as a skin: its weights, and files whose joints, read back and moved, move the mesh."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.deformation import handles, rig
from lib.geometry import mesh

TYPES = {5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def template(**attributes) -> mesh.Mesh:
    sphere = mesh.icosphere(2)
    return mesh.Mesh(sphere.verts * torch.tensor([1.3, 0.7, 1.0]), sphere.faces, **attributes)


def folded(shape: mesh.Mesh, count: int = 6):
    layer = handles.HandleLayer(shape, count)
    return layer, layer.handles().detach(), layer.fold()[1]


def read_glb(path):
    """The JSON part, and a function from the number of an accessor to its array."""
    content = path.read_bytes()
    magic, version, length, json_length, json_kind = struct.unpack_from("<4sIII4s", content)
    assert (magic, version, length, json_kind) == (b"glTF", 2, len(content), b"JSON")
    tree, binary = json.loads(content[20 : 20 + json_length]), content[28 + json_length :]

    def array(index: int) -> np.ndarray:
        accessor = tree["accessors"][index]
        width = WIDTHS[accessor["type"]]
        start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
        flat = np.frombuffer(binary, TYPES[accessor["componentType"]], accessor["count"] * width, start)
        return flat.reshape(-1, width)

    return tree, array


def skinned(path, offsets: np.ndarray) -> np.ndarray:
    """What a program shows after it has moved joint k by offsets[k], by section 3.7.3 of the specification."""
    tree, array = read_glb(path)
    skin, attributes = tree["skins"][0], tree["meshes"][0]["primitives"][0]["attributes"]
    to_joint = array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    now = np.tile(np.eye(4), (len(to_joint), 1, 1))
    now[:, :3, 3] = [tree["nodes"][joint]["translation"] for joint in skin["joints"]] + offsets
    verts = array(attributes["POSITION"])
    moved = np.einsum("kij,kjl,vl->kvi", now, to_joint, np.c_[verts, np.ones(len(verts))])[..., :3]
    result = np.zeros_like(verts)
    for i in range(sum(name.startswith("JOINTS") for name in attributes)):
        joints, weights = array(attributes[f"JOINTS_{i}"]), array(attributes[f"WEIGHTS_{i}"])
        result += np.einsum("vn,vnx->vx", weights, moved[joints, np.arange(len(verts))[:, None]])
    return result


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), per_vertex=st.integers(1, 8))
def test_skin_weights_are_the_nearest_of_all_that_are_allowed(seed, count, per_vertex):
    generator = torch.Generator().manual_seed(seed)
    influence = torch.randn(5, count, generator=generator, dtype=torch.float64)
    weights = rig.skin_weights(influence, per_vertex)
    assert weights.min() >= 0 and ((weights > 0).sum(1) <= per_vertex).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))
    # Any other allowed row is at least as far away.
    other = torch.rand(5, 200, count, generator=generator, dtype=torch.float64) ** 4
    other = other * (other >= other.topk(min(per_vertex, count), dim=-1).values[..., -1:])
    other = other / other.sum(-1, keepdim=True)
    distance = (other - influence[:, None]).norm(dim=-1).amin(1)
    assert ((weights - influence).norm(dim=-1) <= distance + 1e-9).all()


def test_skin_weights_leave_allowed_rows_as_they_are():
    rows = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]])
    torch.testing.assert_close(rig.skin_weights(rows, 3), rows)


@pytest.mark.parametrize("per_vertex", [1, 4, 5, 8])
def test_joints_of_the_file_move_the_mesh_by_the_skin_weights(tmp_path, per_vertex):
    shape = template()
    _, places, D = folded(shape)
    path = tmp_path / "shape.glb"
    rig.save_rig(path, shape, places, D, per_vertex)
    offsets = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    weights = rig.skin_weights(D, per_vertex)
    np.testing.assert_allclose(skinned(path, np.zeros((6, 3))), shape.verts, atol=1e-6)
    np.testing.assert_allclose(skinned(path, offsets.numpy()), shape.verts + weights @ offsets, atol=1e-6)
    tree, array = read_glb(path)
    joints = [tree["nodes"][joint] for joint in tree["skins"][0]["joints"]]
    assert [joint["name"] for joint in joints] == [f"handle_{k:02}" for k in range(6)]
    np.testing.assert_allclose([joint["translation"] for joint in joints], places, atol=1e-6)
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    for i in range(-(-per_vertex // 4)):
        used, values = (array(attributes[f"{name}_{i}"]) for name in ("JOINTS", "WEIGHTS"))
        assert not used[values == 0].any()


def test_where_no_weight_is_negative_or_dropped_the_skin_is_the_layer(tmp_path):
    shape = template()
    layer, places, D = folded(shape, 2)
    assert D.min() >= 0
    rig.save_rig(tmp_path / "shape.glb", shape, places, D)
    offsets = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = layer(offsets)[0].detach()
    np.testing.assert_allclose(skinned(tmp_path / "shape.glb", offsets[0].numpy()), expected, atol=1e-5)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8])
def test_the_exact_influence_travels_with_the_mesh(tmp_path, count):
    """Also where the last attribute holds fewer than four columns."""
    shape = template()
    layer, places, D = folded(shape, count)
    rig.save_rig(tmp_path / "shape.glb", shape, places, D)
    loaded = trimesh.load_mesh(tmp_path / "shape.glb", process=False)
    names = [f"_INFLUENCE_{i}" for i in range(-(-count // 4))]
    read = np.column_stack([loaded.vertex_attributes[name] for name in names])
    np.testing.assert_array_equal(read, D)
    offsets = torch.randn(1, count, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(loaded.vertices + read @ offsets[0].numpy(), layer(offsets)[0].detach(), atol=1e-5)


def test_a_deformed_textured_mesh_is_read_back_and_can_be_moved_on(tmp_path):
    generator = torch.Generator().manual_seed(0)
    plain = template()
    uvs = (plain.verts[:, :2] - plain.verts[:, :2].amin(0)) / (plain.verts.amax(0) - plain.verts.amin(0))[:2]
    texture = (torch.rand(3, 8, 16, generator=generator) * 255).round() / 255
    _, places, D = folded(plain)
    first, second = 0.3 * torch.randn(2, 6, 3, generator=generator)
    deformed = template(uvs=uvs, texture=texture).with_verts(plain.verts + D @ first)
    rig.save_rig(tmp_path / "shape.glb", deformed, places + first, D, 6)
    back = mesh.load_mesh(tmp_path / "shape.glb")
    torch.testing.assert_close(back.verts, deformed.verts)
    assert torch.equal(back.faces, deformed.faces)
    torch.testing.assert_close(back.uvs, uvs)
    torch.testing.assert_close(back.texture, texture)
    weights = rig.skin_weights(D, 6)
    np.testing.assert_allclose(
        skinned(tmp_path / "shape.glb", second.numpy()), deformed.verts + weights @ second, atol=1e-6
    )


def test_colours_are_kept(tmp_path):
    colors = (torch.rand(162, 3, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    shape = template(colors=colors)
    _, places, D = folded(shape)
    rig.save_rig(tmp_path / "shape.glb", shape, places, D)
    torch.testing.assert_close(mesh.load_mesh(tmp_path / "shape.glb").colors, colors)


def test_wrong_inputs_are_named(tmp_path):
    shape = template()
    _, places, D = folded(shape)
    with pytest.raises(ValueError, match=r"path='shape\.obj' must end in \.glb"):
        rig.save_rig(tmp_path / "shape.obj", shape, places, D)
    with pytest.raises(ValueError, match="influence must have shape"):
        rig.save_rig(tmp_path / "shape.glb", shape, places[:-1], D)
    with pytest.raises(ValueError, match="rows that sum to one"):
        rig.save_rig(tmp_path / "shape.glb", shape, places, 2 * D)
    with pytest.raises(ValueError, match="per_vertex must be 1 or more"):
        rig.save_rig(tmp_path / "shape.glb", shape, places, D, per_vertex=0)
    assert not (tmp_path / "shape.glb").exists()
