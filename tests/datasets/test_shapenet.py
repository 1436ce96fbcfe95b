"""ShapeNet: its folders, its axes, and pictures of its meshes."""

from __future__ import annotations

import pytest
import torch

from lib.datasets import shapenet
from lib.datasets.synthetic import objects
from lib.geometry.mesh import Mesh, save_mesh


@pytest.fixture
def root(tmp_path):
    """Two cars in the release's layout: y up, the front along −z, another size and place."""
    turn = shapenet.turn_to_course("-z", "y")
    for name, shape in zip(("b2", "a1"), objects.make_objects("car", 2, seed=0), strict=True):
        made = shape.mesh(24)
        folder = tmp_path / "02958343" / name / "models"
        folder.mkdir(parents=True)
        save_mesh(folder / "model_normalized.obj", Mesh(0.4 * made.verts @ turn + 3, made.faces, colors=made.colors))
    return tmp_path


def test_models_come_in_the_objects_frame(root):
    data = shapenet.ShapeNet(root, "car")
    assert len(data) == 2
    first = data[0]  # a1, the second that was written
    made = objects.make_objects("car", 2, seed=0)[1].mesh(24)
    assert torch.allclose(first.verts, shapenet.to_object_frame(made).verts, atol=1e-4)
    assert (first.verts.amax(0) - first.verts.amin(0)).max().item() == pytest.approx(1, abs=1e-4)
    assert len(shapenet.ShapeNet(root, "car", models=["b2"])) == 1


def test_views_are_those_of_the_objects(root):
    views = shapenet.ShapeNet(root, "car").views(3, seed=0, image_size=32)
    assert views.image.shape == (6, 3, 32, 32) and views.which.tolist() == [0, 0, 0, 1, 1, 1]
    assert views.keypoints.shape == (6, 0, 3) and (views.mask.mean((1, 2)) > 0.05).all()
    assert len(objects.pair_views(views)) == 6


def test_textures_become_colours():
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    texture = torch.zeros(3, 2, 2)
    texture[0, 0], texture[2, 1] = 1, 1  # above red, below blue
    uvs = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    found = shapenet.to_object_frame(Mesh(verts, faces, uvs=uvs, texture=texture)).colors
    assert found.argmax(1).tolist() == [2, 2, 0, 0]
    tiled = shapenet.to_object_frame(Mesh(verts, faces, uvs=uvs + 3, texture=texture)).colors
    assert torch.allclose(tiled, found, atol=1e-4)
    half = shapenet.to_object_frame(Mesh(verts, faces, uvs=uvs, texture=texture, colors=torch.full((4, 3), 0.5)))
    assert torch.allclose(half.colors, found / 2)
    assert shapenet.to_object_frame(Mesh(verts, faces)).colors.unique().tolist() == pytest.approx([0.7])


@pytest.mark.parametrize(("front", "up"), [("x", "y"), ("-z", "y"), ("y", "z"), ("-x", "-y")])
def test_the_turn_takes_the_axes_to_the_courses(front, up):
    turn = shapenet.turn_to_course(front, up)
    assert torch.linalg.det(turn).item() == pytest.approx(1)
    for axis, aim in ((front, [1.0, 0, 0]), (up, [0, 1.0, 0])):
        assert (turn @ torch.tensor(shapenet.AXES[axis], dtype=torch.float32)).tolist() == aim


def test_what_is_missing_is_said_in_one_line(root):
    with pytest.raises(FileNotFoundError, match="has no models; ask for ShapeNetCore"):
        shapenet.ShapeNet(root, "mug")
    with pytest.raises(ValueError, match="family='boat' is unknown"):
        shapenet.ShapeNet(root, "boat")
    with pytest.raises(ValueError, match="has no c3; leave it out"):
        shapenet.ShapeNet(root, "car", models=["c3"])
    with pytest.raises(ValueError, match="front='z' and up='-z' must be at right angles"):
        shapenet.ShapeNet(root, "car", front="z", up="-z")
    with pytest.raises(ValueError, match="up='up' is unknown"):
        shapenet.ShapeNet(root, "car", up="up")
    with pytest.raises(ValueError, match="meshes is empty"):
        shapenet.draw_views([], 2, seed=0)
