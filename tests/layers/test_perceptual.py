"""Perceptual encoders: the rotation task is learnt, frozen features are scaled, VGG's published file fits."""

import pytest
import torch
from torch.nn import functional as F

from lib.datasets.synthetic.faces import make_faces
from lib.layers.perceptual import RotationFeatures, VGGFeatures, rotate_all
from lib.training import fit

generator = torch.Generator().manual_seed(0)


def test_quarter_turns():
    images = torch.rand(2, 3, 8, 8, generator=generator)
    turned, turns = rotate_all(images)
    assert turned.shape == (8, 3, 8, 8) and turns.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(turned[:2], images)
    assert torch.equal(turned[4:6], images.flip(2, 3))
    with pytest.raises(ValueError, match="images must have shape"):
        rotate_all(images[..., :4])


def test_rotations_of_faces_are_learnt_and_frozen_features_see_edges():
    images = make_faces(24, seed=0, image_size=16, cache=False).image
    torch.manual_seed(0)
    model = RotationFeatures(4)
    options = dict(steps=60, batch_size=12, lr=5e-3, device="cpu", log_every=20)
    history = fit(model, lambda model, batch, step: model.loss(batch["image"]), {"image": images}, **options)
    assert history["accuracy"][-1] > 0.7 > 0.25
    model.freeze(images)
    features = model(images)
    assert features.shape == (24, 16, 4, 4)
    power = features.square().mean((0, 2, 3))
    assert (((power - 1).abs() < 1e-3) | (power == 0)).all() and (power > 0).sum() >= 8
    assert not any(parameter.requires_grad for parameter in model.parameters())
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    assert (model(blurred) - features).square().mean() > 0.005


def published(path, width=64):
    """A file like torchvision's, with random numbers."""
    state, before = {}, 3
    for index, out in ((0, width), (2, width), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256), (17, 512)):
        state[f"features.{index}.weight"] = torch.randn(out, before, 3, 3, generator=generator) * 0.05
        state[f"features.{index}.bias"] = torch.zeros(out)
        before = out
    state["classifier.0.weight"] = torch.zeros(4, 4)
    torch.save(state, path)
    return state


def test_vgg_from_its_published_file(tmp_path):
    state = published(tmp_path / "vgg16.pth")
    model = VGGFeatures(tmp_path / "vgg16.pth")
    assert torch.equal(model.features[14].weight, state["features.14.weight"])
    features = model(torch.rand(1, 3, 32, 32, generator=generator))
    assert features.shape == (1, 256, 8, 8) and (features >= 0).all()
    published(tmp_path / "other.pth", width=32)
    with pytest.raises(ValueError, match="does not hold VGG-16"):
        VGGFeatures(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        VGGFeatures(tmp_path / "missing.pth")
