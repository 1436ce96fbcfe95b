"""The weights that ship, on pictures in files: shapes that fit drawn pictures, files that can be read, honest words."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from lib import prediction, rendering
from lib.datasets.synthetic import creatures, faces, objects
from lib.geometry.alignment import procrustes
from lib.geometry.mesh import load_mesh
from lib.geometry.rotations import rotation_angle
from lib.plots import to_image


def write(path, image):
    PIL.Image.fromarray((255 * to_image(image)).round().astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def horses():
    return creatures.make_creatures("quadruped", 6, seed=0, image_size=64, split="test")


@pytest.mark.parametrize(("chapter", "least"), [("5", 0.45), ("7", 0.5), ("08", 0.5)])
def test_the_mesh_covers_the_horse(horses, chapter, least):
    model, card = prediction.pretrained(chapter)
    assert not model.training and card["profile"] == "long"
    overlaps, others = [], []
    for image, mask, other in zip(horses.image, horses.mask, horses.mask.roll(1, 0), strict=True):
        found = prediction.reconstruct(chapter, model, image)
        seen = found.camera.project(found.mesh.verts[None])
        drawn = rendering.rasterize(seen, found.mesh.faces, 64).mask[0]
        for scores, truth in ((overlaps, mask > 0.5), (others, other > 0.5)):
            scores.append(float((drawn & truth).sum() / (drawn | truth).sum()))
    assert np.mean(overlaps) > least and np.mean(overlaps) > np.mean(others) + 0.1, (overlaps, others)


def test_the_keypoints_turn_with_the_car():
    model, _ = prediction.pretrained("10")
    car = objects.make_objects("car", 2, seed=0, split="test")[1]
    azimuth = torch.tensor([0.6, 1.1])
    camera = objects.look_at(azimuth, torch.full_like(azimuth, 0.4))
    images = objects.render(car, camera, 64)["image"]
    one, two = (prediction.reconstruct("10", model, image).mesh.verts.view(8, -1, 3).mean(1) for image in images)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    turn = flip @ (camera.rotation[1] @ camera.rotation[0].mT) @ flip
    error = torch.rad2deg(rotation_angle(procrustes(one[None], two[None])[0], turn[None]))
    assert float(error) < 20, float(error)


def test_the_face_is_nearest_at_the_nose_and_looks_like_its_picture():
    """Faces look along +z. The relief is nearly one for all; the colours must be the picture's own."""
    people = faces.make_faces(16, seed=0, split="test", image_size=64, canonical=True)
    model, card = prediction.pretrained("9")
    assert not model.training and card["profile"] == "long"
    found = [prediction.reconstruct("09", model, image).mesh for image in people.image]
    noses = torch.stack([mesh.verts[mesh.verts[:, 2].argmax()] for mesh in found])
    assert noses[:, 0].abs().max() < 0.012 and (noses[:, 1] < 0.01).all() and (noses[:, 1] > -0.04).all()
    skin = torch.stack([mesh.colors.median(0).values for mesh in found])
    own = (people.canonical_albedo * people.mask[:, None]).flatten(2).median(2).values
    assert torch.corrcoef(torch.stack([skin.mean(1), own.mean(1)]))[0, 1] > 0.5


@pytest.mark.parametrize("chapter", ["05", "07", "08_correspondences", "09", "10"])
def test_a_picture_becomes_files_and_an_honest_line(horses, tmp_path, chapter):
    write(tmp_path / "my horse.png", horses.image[0])
    (glb, animation), line = prediction.predict(chapter, tmp_path / "my horse.png", tmp_path / "new" / "out")
    name = prediction._name(chapter)
    assert glb == tmp_path / "new" / "out" / f"my horse_{name}.glb"
    mesh = load_mesh(glb)
    assert len(mesh.verts) > 100 and mesh.colors is not None
    with PIL.Image.open(animation) as picture:
        assert picture.size == (256, 256) and picture.n_frames >= 24
    assert line.startswith("The network has seen ") and "no photograph" in line and "drawn" in line


def test_the_command_and_what_a_user_gets_wrong(tmp_path, monkeypatch, capsys):
    import sys

    from lib.course import cli

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["course", "predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.png", torch.rand(3, 40, 70))
    code, said = command("8", "--image", "a.png")
    assert code == 0 and "a_08_correspondences.glb\n" in said and "no photograph" in said
    assert sorted(path.name for path in tmp_path.glob("a_*")) == [
        "a_08_correspondences.glb",
        "a_08_correspondences_turntable.png",
    ]
    (tmp_path / "no.png").write_text("no picture")
    for arguments, message in (
        (
            ("6", "--image", "a.png"),
            "no weights ship for chapter '6'; there are 05_category_meshes, 07_motion, 08_correspondences, 09_symmetry",
        ),
        (("8", "--image", "none.png"), "none.png"),
        (("8", "--image", "no.png"), "no.png"),
        (("8", "--image", "a.png", "--out", "/dev/null/out"), "/dev/null/out"),
    ):
        code, said = command(*arguments)
        assert code == 2 and message in said and said.count("\n") == 1, said
