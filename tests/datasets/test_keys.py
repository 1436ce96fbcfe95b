"""Every loader, the generators and the augmentation keep to the one table of batch keys."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from test_clips import make_tigdog, make_youtube
from test_faces import paint
from test_real_categories import make_cub, make_pascal
from torch.utils.data import Dataset

from lib import datasets
from lib.datasets import KEYS, augmentation, cache, check_batch
from lib.datasets.annotated import AnnotatedImages
from lib.datasets.clips import Clips
from lib.datasets.cub import CUB
from lib.datasets.faces import BaselFaces, CelebA, FaceImages, image_folder
from lib.datasets.pascal3d import Pascal3D
from lib.datasets.synthetic import creatures, faces
from lib.datasets.tigdog import TigDog
from lib.datasets.youtube_vis import YouTubeVIS
from lib.geometry.image_plane import foreground_distance


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(cache, "DIRECTORY", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


def cub(root):
    make_cub(root)
    return CUB(root, split="train", image_size=32)


def pascal(root):
    make_pascal(root)
    return Pascal3D(root, "car", split="train", image_size=32)


def celeba(root):
    paint(root / "celeba_cropped/train/1.jpg")
    return CelebA(root, "train", 32)


def basel(root):
    paint(root / "test/image/a_image.png")
    paint(root / "test/depth/a_depth.png")
    return BaselFaces(root, "test", 32)


def folder(root):
    paint(root / "a.png")
    return image_folder(root, 32)


def tigdog(root):
    make_tigdog(root)
    return TigDog(root, image_size=32)


def youtube(root):
    make_youtube(root)
    return YouTubeVIS(root, "horse", image_size=32)


LOADERS = {CUB: cub, Pascal3D: pascal, CelebA: celeba, BaselFaces: basel, FaceImages: folder}
CLIPS = {TigDog: tigdog, YouTubeVIS: youtube}


def test_no_loader_is_left_out():
    for module in pkgutil.walk_packages(datasets.__path__, "lib.datasets."):
        for thing in vars(importlib.import_module(module.name)).values():
            if isinstance(thing, type) and issubclass(thing, Dataset) and thing.__module__.startswith("lib."):
                assert thing in LOADERS | CLIPS or thing in (AnnotatedImages, Clips), (
                    f"{thing.__name__} is held to no table"
                )


@pytest.mark.parametrize("make", LOADERS.values(), ids=lambda make: make.__name__)
def test_items_of_loaders_have_the_keys_of_the_table(make, tmp_path):
    item = make(tmp_path)[0]
    check_batch({name: value[None] for name, value in item.items()}, "image", others=False)
    assert 0 <= item["image"].min() <= item["image"].max() <= 1


@pytest.mark.parametrize("make", CLIPS.values(), ids=lambda make: make.__name__)
def test_clips_are_batches_of_frames(make, tmp_path):
    check_batch(make(tmp_path)[0], "image", others=False)


def test_pairs_of_frames_have_every_key_twice():
    batch = {"image": torch.zeros(2, 3, 8, 8), "next_image": torch.zeros(2, 3, 8, 8)}
    check_batch(batch, "image", "next_image", others=False)
    with pytest.raises(ValueError, match=r"the batch lacks 'next_mask' \(the share of each pixel"):
        check_batch(batch, "next_mask")
    with pytest.raises(ValueError, match=r"batch\['next_image'\] has H = 9, but image has 8"):
        check_batch(batch | {"next_image": torch.zeros(2, 3, 9, 8)})


def tensors(made):
    return {name: value for name, value in vars(made).items() if isinstance(value, torch.Tensor)}


def test_generated_pictures_have_the_keys_of_the_table():
    made = creatures.make_creatures("quadruped", 2, seed=0, image_size=32)
    check_batch(tensors(made), "image", "mask", "keypoints", "camera", "keypoints_3d", others=False)
    film = tensors(creatures.make_video("bird", 3, seed=0, image_size=32))
    check_batch({name: film[name] for name in film if name.startswith("flow")}, "flow", "flow_visible", others=False)
    check_batch({name: film[name] for name in film if not name.startswith("flow")}, "image", others=False)
    check_batch(tensors(faces.make_faces(2, seed=0, image_size=32, canonical=True)), "image", "depth", others=False)


def test_what_a_learner_may_see_and_what_the_examiner_knows():
    made = creatures.make_creatures("quadruped", 2, seed=0, image_size=32)
    seen, truth = made.annotated(least=0)
    assert set(seen) == {"image", "mask", "keypoints", "keypoint_visible"}
    check_batch(seen, *seen, others=False)
    assert set(truth) == {"camera", "keypoints_3d", "meshes"} and len(truth["meshes"]) == 2
    assert set(seen["mask"].unique().tolist()) == {0.0, 1.0}
    count = made.keypoint_visible.sum(1)
    fewer, rest = made.annotated(least=int(count.max()))
    assert len(fewer["image"]) == len(rest["meshes"]) == int((count == count.max()).sum())


def test_augmented_batches_have_the_keys_of_the_table_and_others_are_refused():
    made = creatures.make_creatures("quadruped", 2, seed=0, image_size=32)
    batch = made.annotated(least=0)[0] | {"camera": made.camera, "index": torch.arange(2)}
    batch["distances"] = foreground_distance(batch["mask"])
    permutation = creatures.keypoint_permutation("quadruped")
    for amount in (0.0, 0.1):
        check_batch(augmentation.augment(batch, permutation, amount), *augmentation.HANDLED)
    assert set(augmentation.HANDLED) < set(KEYS)
    with pytest.raises(ValueError, match="permutation is missing"):
        augmentation.augment(batch)
    with pytest.raises(ValueError, match="the batch has depth, flow, which augmentation cannot change"):
        augmentation.augment(batch | {"depth": batch["mask"], "flow": batch["keypoints"]}, permutation)


def test_a_wrong_batch_is_refused_in_one_line():
    batch = {"image": torch.zeros(2, 3, 8, 8), "mask": torch.zeros(2, 8, 8), "index": torch.arange(2)}
    check_batch(batch, "image")
    wrong = {
        "the batch lacks 'camera'": (batch, "camera"),
        "must be float of shape": (batch | {"mask": torch.zeros(2, 1, 8, 8)},),
        "must be bool": (batch | {"keypoint_visible": torch.ones(2, 4)},),
        "has H = 9, but image has 8": (batch | {"mask": torch.zeros(2, 9, 8)},),
        "has 7 = 6": (batch | {"camera": torch.zeros(2, 6)},),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            check_batch(*arguments)
    with pytest.raises(ValueError, match="batch has 'index', which"):
        check_batch(batch, others=False)
