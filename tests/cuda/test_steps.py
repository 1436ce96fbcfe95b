"""A training step of each chapter's system on the simulated device: no mismatch, and how often the host waits.

Sizes are small, for neither launches nor waits depend on them. `steps.json` has what was counted:
`RECORD=1 pytest tests/cuda/test_steps.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from simulated import CUDA, Mismatch, Record, Sim, simulated

from lib import rendering, training
from lib.datasets import augmentation
from lib.deformation.handles import HandleLayer
from lib.geometry import pointsets
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import foreground_distance, sample_image
from lib.geometry.mesh import icosphere, mirror_permutation
from lib.geometry.rotations import random_quaternions
from lib.layers.convolutional import ResNet18
from lib.layers.perceptual import RotationFeatures
from lib.losses import mesh
from lib.losses.keypoints import assignment_entropy, camera_loss, keypoint_loss
from lib.losses.photometric import outside_loss, perceptual_distance
from lib.losses.silhouette import mask_loss
from lib.models import articulated, cmr, unsup3d

COUNTS = Path(__file__).with_name("steps.json")
MOST_WAITS = 3
STEPS, BATCH, SIZE = 12, 4, 64
SIZES = dict(image_size=SIZE, width=4, map_channels=8, features=16, texture_size=16, texture_width=4)
BALL = icosphere(2)
PERMUTATION = torch.tensor([0, 2, 1, 3])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def pictures(count: int = 8) -> dict[str, torch.Tensor]:
    mask = rendering.silhouette(0.6 * BALL.verts.expand(count, -1, -1), BALL.faces, SIZE, gradient="nmr")
    camera = WeakPerspective(torch.full((count,), 0.8), torch.zeros(count, 2), random_quaternions(count))
    return {
        "image": torch.rand(count, 3, SIZE, SIZE),
        "mask": mask,
        "distances": foreground_distance(mask),
        "keypoints": torch.rand(count, 4, 2) - 0.5,
        "keypoint_visible": torch.ones(count, 4, dtype=torch.bool),
        "camera": camera.to_vector(),
    }


def by_hand(step, parameters: list[torch.Tensor], record: Record, steps: int = STEPS) -> None:
    """A loop as chapters 1 to 4 write it, without `fit`."""
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(steps):
        loss = step()
        optimizer.zero_grad()
        record.phase = "backward"
        loss.backward()
        record.phase = "optimizer"
        optimizer.step()
        record.phase = ""
        record.close_step()


def chapter_1(record: Record) -> None:
    """A cloud descends the earth mover's distance."""
    cloud, target = torch.rand(1, 60, 2, device="cuda").requires_grad_(), torch.rand(1, 50, 2, device="cuda")
    by_hand(lambda: pointsets.sinkhorn_distance(cloud, target, 0.1).sum(), [cloud], record, steps=4)


def chapter_2(record: Record) -> None:
    """A sphere is fitted to a cloud by Chamfer distance and three losses that keep it tidy."""
    ball, target = BALL.to("cuda"), torch.rand(300, 3, device="cuda")
    verts = ball.verts.clone().requires_grad_()

    def step():
        sample = pointsets.sample_surface(verts, ball.faces, 300)
        data = pointsets.chamfer_distance(sample[None], target[torch.randint(300, (300,), device=CUDA)][None])
        tidy = (mesh.edge_loss, mesh.normal_consistency_loss, mesh.laplacian_loss)
        return data + sum(loss(verts[None], ball.faces) for loss in tidy)

    by_hand(step, [verts], record)


def chapter_4(record: Record) -> None:
    """A sphere is fitted to a silhouette, soft and by the Neural Mesh Renderer."""
    ball, target = BALL.to("cuda"), torch.rand(1, 32, 32, device="cuda")
    verts = ball.verts[None].clone().requires_grad_()

    def step():
        soft = rendering.silhouette(0.5 * verts, ball.faces, 32)
        hard = rendering.silhouette(0.5 * verts, ball.faces, 32, gradient="nmr")
        picture = rendering.shade(0.5 * verts, ball.faces, verts.sigmoid(), 32, gradient="nmr")
        return (soft - target).square().mean() + (hard - target).square().mean() + picture.mean()

    by_hand(step, [verts], record)


def chapter_5(record: Record) -> None:
    model = cmr.CMR(0.7 * BALL.verts, BALL.faces, BALL.verts, mirror_permutation(BALL.verts), PERMUTATION, **SIZES)
    seer = ResNet18(4, pool=False).eval().requires_grad_(False).to("cuda")
    permutation = PERMUTATION.to("cuda")

    def loss_fn(model, batch, step):
        batch = augmentation.mirror(batch, torch.rand(BATCH, device=CUDA) < 0.5, permutation)
        batch = augmentation.jitter(batch, torch.ones(BATCH, device=CUDA), torch.zeros(BATCH, 2, device=CUDA))
        camera = WeakPerspective.from_vector(batch["camera"])
        prediction = model(batch["image"])
        verts = model.mean_shape + prediction.offset
        projected = camera.project(verts)
        seen = model.assignment @ projected[..., :2]
        drawn = rendering.silhouette(projected, model.faces, SIZE)
        picture = model.paint(verts, camera, sample_image(batch["image"], prediction.flow), SIZE)
        terms = {
            "camera": camera_loss(prediction.camera, batch["camera"]),
            "keypoint": keypoint_loss(seen, batch["keypoints"], batch["keypoint_visible"]),
            "laplacian": mesh.laplacian_loss(verts, model.faces),
            "entropy": assignment_entropy(model.assignment),
            "mask": mask_loss(drawn, batch["mask"]),
            "look": perceptual_distance(lambda images: seer.stages(images, 2), picture, batch["image"]).mean(),
            "outside": outside_loss(prediction.flow, batch["distances"]),
        }
        return {"loss": sum(terms.values()), **terms}

    training.fit(model, loss_fn, pictures(), steps=STEPS, batch_size=BATCH, device="cuda")


def chapter_6(record: Record) -> None:
    model = articulated.Articulated(BALL, BALL.verts, HandleLayer(BALL, 5), **SIZES)
    at_rest, faces = BALL.verts.to("cuda"), BALL.faces.to("cuda")
    pairs, landmarks = mesh.ring_pairs(BALL.faces, 2).to("cuda"), torch.arange(4, device="cuda")
    permutation = PERMUTATION.to("cuda")

    def loss_fn(model, batch, step):
        batch = augmentation.mirror(batch, torch.rand(BATCH, device=CUDA) < 0.5, permutation)
        camera = WeakPerspective.from_vector(batch["camera"])
        prediction = model(batch["image"])
        projected = camera.project(prediction.verts)
        drawn = rendering.silhouette(projected, faces, SIZE)
        texture = sample_image(batch["image"], prediction.flow)
        picture = model.paint(prediction.verts, camera, texture, SIZE)
        terms = {
            "camera": camera_loss(prediction.camera, batch["camera"]),
            "keypoint": keypoint_loss(projected[:, landmarks, :2], batch["keypoints"], batch["keypoint_visible"]),
            "mask": mask_loss(drawn, batch["mask"]),
            "rigidity": mesh.edge_rigidity(prediction.verts, at_rest, pairs).mean(),
            "laplacian": mesh.laplacian_loss(prediction.verts, faces),
            "texture": ((picture - batch["image"]).abs() * batch["mask"][:, None]).mean(),
        }
        return {"loss": sum(terms.values()), **terms}

    training.fit(model, loss_fn, pictures(), steps=STEPS, batch_size=BATCH, device="cuda")


def chapter_9(record: Record) -> None:
    model = unsup3d.PhotoGeometricAutoencoder(32, 4, 8, average=True, level_albedo=True, prior=0.5, coarse=2)
    features = RotationFeatures(4).to("cuda")

    def loss_fn(model, batch, step):
        mirrored = torch.rand(BATCH, 1, 1, 1, device=CUDA) < 0.5
        seen = torch.where(mirrored, batch["image"].flip(-1), batch["image"])
        aids = dict(smoothness=0.1, curvature=0.1, likeness=1.0, level=0.1, steepest=2.0)
        return unsup3d.photogeometric_loss(seen, model(seen), features=features, **aids)

    data = {"image": torch.rand(8, 3, 32, 32)}
    training.fit(model, loss_fn, data, steps=STEPS, batch_size=BATCH, device="cuda", mixed_precision=False)


@pytest.mark.parametrize("chapter", [chapter_1, chapter_2, chapter_4, chapter_5, chapter_6, chapter_9])
def test_a_step_neither_breaks_nor_waits(chapter) -> None:
    with simulated() as record:
        chapter(record)
    later = record.steps[2:]  # in the first, what holds for the whole run is found
    assert len(later) == (2 if chapter is chapter_1 else STEPS - 2)

    def most(kind: str, phases: tuple[str, ...] = ("", "backward", "optimizer")) -> int:
        return max(sum(step[kind, phase] for phase in phases) for step in later)

    counts = {
        "waits": most("wait"),
        "launches forward": most("launch", ("",)),
        "launches backward": most("launch", ("backward",)),
        "warp launches": most("warp"),
    }
    recorded = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if os.environ.get("RECORD"):
        recorded[chapter.__name__] = counts
        COUNTS.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    assert counts["waits"] <= recorded[chapter.__name__]["waits"], f"waits:\n{record.places('wait')}"
    if chapter in (chapter_5, chapter_6, chapter_9):
        assert counts["waits"] <= MOST_WAITS, f"waits:\n{record.places('wait')}"


def train(folder: str | Path, steps: int, data_on: str = "cpu"):
    torch.manual_seed(0)
    layers = torch.nn.Linear(12, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1)
    model = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    data = {"x": torch.randn(20, 3, 4).to(data_on), "y": torch.randn(20, 1).to(data_on)}

    def loss_fn(model, batch, step):
        assert batch["x"].is_cuda
        return {"loss": (model(batch["x"]) - batch["y"]).square().mean(), "one": torch.ones(())}

    options = dict(batch_size=5, device="cuda", out_dir=folder, checkpoint_every=4, log_every=3, mixed_precision=False)
    return training.fit(model, loss_fn, data, steps=steps, **options)


def test_a_run_is_resumed(tmp_path) -> None:
    with simulated():
        expected = train(tmp_path / "unbroken", 12)
        train(tmp_path / "broken", 9)
        found = train(tmp_path / "broken", 12)
        assert found["step"] == [3, 6, 9, 12] == expected["step"]
        state = training.Checkpoint(tmp_path / "broken", "model", {}).load()
        assert not any(isinstance(value, Sim) for value in state["model"].values())
        assert state["random"]["cuda"].dtype == torch.uint8


def test_data_may_lie_on_either_side(monkeypatch) -> None:
    with simulated() as record:
        train("", 4, "cuda")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (100, 100))  # too little for the data
        before = record.total("copy")
        train("", 4)
        assert record.total("copy") - before == 4 * 3  # the indices and two tensors a step


def test_values_are_refused_by_the_next_report() -> None:
    ball = icosphere(1)

    def loss_fn(model, batch, step):
        verts = model(batch["x"])[:, None] * ball.verts.to(CUDA)
        return {"loss": rendering.silhouette(verts, ball.faces.to(CUDA), 16).mean()}

    data = {"x": torch.full((4, 3), float("nan"))}
    with simulated() as record, pytest.raises(ValueError, match="verts has NaN or infinite entries"):
        training.fit(torch.nn.Linear(3, 3), loss_fn, data, steps=9, batch_size=2, device="cuda", log_every=6)
    assert len(record.steps) == 6


def test_the_device_refuses_what_cuda_refuses() -> None:
    with simulated():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert (there + torch.tensor(1.0)).device == CUDA and there[torch.tensor([0])].device == CUDA
        for action in (
            lambda: there + here,
            lambda: here[there.long()],
            lambda: there.numpy(),
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
            lambda: rendering.kernels.cuda_kernels.launch("gather", 1, there, here, here, here, here),
        ):
            with pytest.raises(Mismatch):
                action()
