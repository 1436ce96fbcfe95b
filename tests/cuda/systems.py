"""A training step of each chapter's system, on any device and of any size, with random pictures.

The tests count what it would do on CUDA; `benchmarks/first_gpu.py` times it on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from lib import rendering, training
from lib.datasets import augmentation
from lib.datasets.synthetic.objects import look_at
from lib.deformation.handles import HandleLayer
from lib.geometry import pointsets
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import foreground_distance
from lib.geometry.mesh import icosphere, mirror_permutation
from lib.geometry.rotations import random_quaternions
from lib.layers.convolutional import ResNet18
from lib.layers.perceptual import RotationFeatures
from lib.losses import mesh
from lib.models import articulated, cmr, keypointnet, to_the_point, unsup3d

PERMUTATION = torch.tensor([0, 2, 1, 3])


class Scale(NamedTuple):
    """How large: pictures in a batch and their side, the ball's subdivisions, a cloud's points, a network's width."""

    batch: int = 4
    size: int = 64
    ball: int = 2
    points: int = 300
    width: int = 4

    @property
    def network(self) -> dict[str, int]:
        """The sizes of chapters 5 and 6."""
        return {
            "image_size": self.size,
            "width": self.width,
            "map_channels": 2 * self.width,
            "features": 4 * self.width,
            "texture_size": self.size // 4,
            "texture_width": self.width,
        }


def nothing(step: int) -> None:
    pass


def pictures(scale: Scale) -> dict[str, torch.Tensor]:
    count, ball = 2 * scale.batch, icosphere(2)
    mask = rendering.silhouette(0.6 * ball.verts.expand(count, -1, -1), ball.faces, scale.size, gradient="nmr")
    camera = WeakPerspective(torch.full((count,), 0.8), torch.zeros(count, 2), random_quaternions(count))
    return {
        "image": torch.rand(count, 3, scale.size, scale.size),
        "mask": mask,
        "distances": foreground_distance(mask),
        "keypoints": torch.rand(count, 4, 2) - 0.5,
        "keypoint_visible": torch.ones(count, 4, dtype=torch.bool),
        "camera": camera.to_vector(),
    }


def by_hand(step: Callable[[], torch.Tensor], parameter: torch.Tensor, steps: int, watch, phase) -> None:
    """A loop as chapters 1 to 4 write it, without `fit`."""
    optimizer = torch.optim.Adam([parameter], lr=0.01)
    for number in range(steps):
        watch(number)
        loss = step()
        optimizer.zero_grad()
        phase("backward")
        loss.backward()
        phase("optimizer")
        optimizer.step()
        phase("")


def chapter_1(device: str, scale: Scale, steps: int, watch=nothing, phase=nothing) -> None:
    """A cloud descends the earth mover's distance."""
    count = scale.points // 5
    cloud, target = torch.rand(1, count, 2, device=device).requires_grad_(), torch.rand(1, count, 2, device=device)
    by_hand(lambda: pointsets.sinkhorn_distance(cloud, target, 0.1).sum(), cloud, steps, watch, phase)


def chapter_2(device: str, scale: Scale, steps: int, watch=nothing, phase=nothing) -> None:
    """A sphere is fitted to a cloud by Chamfer distance and three losses that keep it tidy."""
    ball, target = icosphere(scale.ball).to(device), torch.rand(scale.points, 3, device=device)
    verts = ball.verts.clone().requires_grad_()

    def step():
        sample = pointsets.sample_surface(verts, ball.faces, scale.points)
        chosen = target[torch.randint(scale.points, (scale.points,), device=device)]
        tidy = (mesh.edge_loss, mesh.normal_consistency_loss, mesh.laplacian_loss)
        data = pointsets.chamfer_distance(sample[None], chosen[None])
        return data + sum(loss(verts[None], ball.faces) for loss in tidy)

    by_hand(step, verts, steps, watch, phase)


def chapter_4(device: str, scale: Scale, steps: int, watch=nothing, phase=nothing) -> None:
    """A sphere is fitted to a silhouette, soft and by the Neural Mesh Renderer."""
    ball, target = icosphere(scale.ball).to(device), torch.rand(1, scale.size, scale.size, device=device)
    verts = ball.verts[None].clone().requires_grad_()

    def step():
        soft = rendering.silhouette(0.5 * verts, ball.faces, scale.size)
        hard = rendering.silhouette(0.5 * verts, ball.faces, scale.size, gradient="nmr")
        picture = rendering.shade(0.5 * verts, ball.faces, verts.sigmoid(), scale.size, gradient="nmr")
        return (soft - target).square().mean() + (hard - target).square().mean() + picture.mean()

    by_hand(step, verts, steps, watch, phase)


def chapter_5(device: str, scale: Scale, steps: int, watch=nothing, **options) -> None:
    """The category's mean shape, and the network that adapts it: every term of the loss."""
    ball = icosphere(scale.ball)
    mirror = mirror_permutation(ball.verts)
    model = cmr.CMR(0.7 * ball.verts, ball.faces, ball.verts, mirror, PERMUTATION, **scale.network)
    seer = ResNet18(4, pool=False).eval().requires_grad_(False).to(device)
    permutation = PERMUTATION.to(device)

    def loss_fn(model, batch, step):
        watch(step)
        batch = augmentation.mirror(batch, torch.rand(scale.batch, device=device) < 0.5, permutation)
        zoom, shift = torch.ones(scale.batch, device=device), torch.zeros(scale.batch, 2, device=device)
        batch = augmentation.jitter(batch, zoom, shift)
        return model.loss(batch, features=lambda images: seer.stages(images, 2))

    training.fit(model, loss_fn, pictures(scale), steps=steps, batch_size=scale.batch, device=device, **options)


def chapter_6(device: str, scale: Scale, steps: int, watch=nothing, **options) -> None:
    """A template, handles that move it, and the network that poses it."""
    ball = icosphere(scale.ball)
    model = articulated.Articulated(ball, ball.verts, HandleLayer(ball, 5), torch.arange(4), **scale.network)
    permutation = PERMUTATION.to(device)

    def loss_fn(model, batch, step):
        watch(step)
        batch = augmentation.mirror(batch, torch.rand(scale.batch, device=device) < 0.5, permutation)
        return model.loss(batch)

    training.fit(model, loss_fn, pictures(scale), steps=steps, batch_size=scale.batch, device=device, **options)


def chapter_7(device: str, scale: Scale, steps: int, watch=nothing, **options) -> None:
    """The network of chapter 6 on pairs of frames, with the motion loss."""
    ball = icosphere(scale.ball)
    model = articulated.Articulated(ball, ball.verts, HandleLayer(ball, 5), torch.arange(4), **scale.network)
    weights = articulated.Weights(motion=3.0)
    first, second = pictures(scale), pictures(scale)
    data = first | {f"next_{name}": values for name, values in second.items()}
    data |= {
        "flow": 0.1 * torch.randn(len(first["image"]), 2, scale.size, scale.size),
        "flow_mask": first["mask"] > 0.5,
    }

    def loss_fn(model, batch, step):
        watch(step)
        return model.loss(batch, weights, rotation="chordal")

    training.fit(model, loss_fn, data, steps=steps, batch_size=scale.batch, device=device, **options)


def chapter_8(device: str, scale: Scale, steps: int, watch=nothing, **options) -> None:
    """Points of a template's vertices, taught with the camera and the keypoints of the annotation."""
    ball = icosphere(scale.ball)
    sizes = {name: value for name, value in scale.network.items() if not name.startswith("texture")}
    model = to_the_point.ToThePoint(ball, torch.arange(4), spots=20, **sizes)
    permutation = PERMUTATION.to(device)

    def loss_fn(model, batch, step):
        watch(step)
        batch = augmentation.mirror(batch, torch.rand(scale.batch, device=device) < 0.5, permutation)
        return model.loss(batch)

    training.fit(model, loss_fn, pictures(scale), steps=steps, batch_size=scale.batch, device=device, **options)


def chapter_9(device: str, scale: Scale, steps: int, watch=nothing, **options) -> None:
    """Depth, albedo, light and view of pictures whose objects are probably symmetric."""
    aids = dict(average=True, level_albedo=True, prior=0.5, coarse=2)
    model = unsup3d.PhotoGeometricAutoencoder(scale.size, scale.width, 2 * scale.width, **aids)
    features = RotationFeatures(scale.width).to(device)
    objective = unsup3d.Objective(smoothness=0.1, curvature=0.1, likeness=1.0, level=0.1, steepest=2.0)

    def loss_fn(model, batch, step):
        watch(step)
        mirrored = torch.rand(scale.batch, 1, 1, 1, device=device) < 0.5
        seen = torch.where(mirrored, batch["image"].flip(-1), batch["image"])
        return model.loss({"image": seen}, objective, features)

    data = {"image": torch.rand(2 * scale.batch, 3, scale.size, scale.size)}
    options |= dict(steps=steps, batch_size=scale.batch, device=device, mixed_precision=False)
    training.fit(model, loss_fn, data, **options)


def chapter_10(device: str, scale: Scale, steps: int, watch=nothing, **options) -> None:
    """Keypoints of pairs of views, with all five losses."""
    model = keypointnet.KeypointNet(6, 4 * scale.width, stride=4)

    def views() -> dict[str, torch.Tensor]:
        count = 2 * scale.batch
        seen = {name: value for name, value in pictures(scale).items() if name in ("image", "mask")}
        camera = look_at(6 * torch.rand(count), torch.rand(count))
        seen |= {"focal": camera.focal, "rotation": camera.rotation, "translation": camera.translation}
        return seen | {"flag": keypointnet.true_flag(camera.rotation)}

    data = views() | {f"next_{name}": value for name, value in views().items()}

    def loss_fn(model, batch, step):
        watch(step)
        return model.loss(batch, noise=0.05)

    training.fit(model, loss_fn, data, steps=steps, batch_size=scale.batch, device=device, **options)


SYSTEMS = {
    "chapter 1": chapter_1,
    "chapter 2": chapter_2,
    "chapter 4": chapter_4,
    "chapter 5": chapter_5,
    "chapter 6": chapter_6,
    "chapter 7": chapter_7,
    "chapter 8": chapter_8,
    "chapter 9": chapter_9,
    "chapter 10": chapter_10,
}
