"""Evaluation of what a network predicts: scores with floor and ceiling, and sabotaged controls.

A score says little by itself. It stands beside its *ceiling*, the score of the truth (`truth_against_itself`, which
is also the floor of errors that are sampled), and beside what predictions score that see nothing in the picture: dealt
to other pictures (`shuffled`), the best constant (`constant`), the mean for everybody (`mean_for_everybody`), the
untrained network. A band that one of them passes is no band (`passing`). And a network trained on pictures that do not
belong to their annotations (`shuffle_pictures`) shows what is learned without looking.

All of it takes a prediction as a tensor, a (named) tuple or a dict of tensors whose first axis counts the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib import metrics, rendering
from lib.datasets import check_batch
from lib.geometry.cameras import WeakPerspective
from lib.geometry.depth_maps import depth_to_normals
from lib.geometry.mesh import Mesh
from lib.geometry.pointsets import sample_surface

POINTS = 1000  # on each surface, for the 3D error; numbers of other samples do not compare


def predict(model: nn.Module, images: Float[Tensor, "N 3 H W"], batch_size: int = 16, **others: Tensor) -> Any:
    """Predict for all images, a batch at a time, in evaluation mode and without gradients.

    others: what else the model wants to know of each image, by name, such as the focal length.

    Returns what the model returns for a batch, joined along the first axis, on the CPU. The model's mode is put back.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = []
            for at in range(0, len(images), batch_size):
                known = {name: value[at : at + batch_size].to(device) for name, value in others.items()}
                parts.append(model(images[at : at + batch_size].to(device), **known))
    finally:
        model.train(training)
    return _map(lambda *values: torch.cat(values).cpu(), *parts)


class Exam:
    """Test pictures with their annotation, the camera that goes with it, and the true shapes.

    pictures: mask, keypoints, keypoint_visible, and `camera`, the *given* camera (found from the annotation; never
        mixed with the network's own); also whatever else is there. truth: `camera`, the true one; keypoints_3d
        (N, K, 3); meshes, N of them. Both as `Creatures.annotated` gives them. rotation (N, 3, 3): what predicted
        rotations are measured against, where it is not the true camera's.

    `exam[which]` is the exam of some of the pictures.

    Raises ValueError for a batch that lacks a key.
    """

    def __init__(
        self, pictures: dict[str, Tensor], truth: dict[str, Any], rotation: Float[Tensor, "N 3 3"] | None = None
    ) -> None:
        check_batch(pictures, "mask", "keypoints", "keypoint_visible", "camera")
        self.pictures, self.truth = pictures, truth
        true_camera = WeakPerspective.from_vector(truth["camera"])
        self.rotation = true_camera.rotation if rotation is None else rotation
        mask = pictures["mask"]
        self.box = mask.amax(2).sum(1).maximum(mask.amax(1).sum(1)) * 2 / mask.shape[-1]
        self.surface = _surfaces(truth["meshes"], seed=0)

    def __len__(self) -> int:
        return len(self.pictures["mask"])

    def __getitem__(self, which: Int[Tensor, "M"]) -> Exam:
        pictures = {name: values[which] for name, values in self.pictures.items()}
        truth = {name: values[which] for name, values in self.truth.items() if isinstance(values, Tensor)}
        truth["meshes"] = [self.truth["meshes"][i] for i in which.tolist()]
        return Exam(pictures, truth, self.rotation[which])


def category_scores(
    verts: Float[Tensor, "N V 3"],
    landmarks: Float[Tensor, "N K 3"],
    camera: Float[Tensor, "N 7"],
    faces: Int[Tensor, "F 3"],
    exam: Exam,
) -> dict[str, float]:
    """Judge predicted meshes, their keypoints and one camera for each, on the CPU.

    "mIoU": masks by z-buffer, cut at 0.5; "PCK@0.1": the share of visible keypoints within a tenth of the longer side
    of the tight box, averaged over keypoints; "rotation": median error in degrees; "3D error": distance of the surfaces
    after aligning the keypoints, in % of the diameter, which needs no camera; NaN where all keypoints coincide, as
    before training.
    """
    seen, view = exam.pictures, WeakPerspective.from_vector(camera)
    drawn = rendering.rasterize(view.project(verts), faces, seen["mask"].shape[-1]).mask.float()
    pck = metrics.pck(view.project(landmarks)[..., :2], seen["keypoints"], seen["keypoint_visible"], 0.1, exam.box)
    return {
        "mIoU": metrics.iou(drawn, seen["mask"]).mean().item(),
        "PCK@0.1": pck.item(),
        "rotation": metrics.rotation_error(view.rotation, exam.rotation).median().item(),
        "3D error": surface_error(verts, landmarks, faces, exam),
    }


def clip_scores(
    verts: Float[Tensor, "N V 3"],
    landmarks: Float[Tensor, "N K 3"],
    camera: Float[Tensor, "N 7"],
    faces: Int[Tensor, "F 3"],
    exam: Exam,
    pairs: Int[Tensor, "P 2"],
) -> dict[str, float]:
    """Judge the frames of videos: `category_scores`, and two scores of the pairs (first frame, second frame).

    "jitter": how much the error of the rotation, R_predᵀ R_true, turns from one frame to the next, mean in degrees; an
    error that is common to all frames has none. "displacement": the mean error of the motion of the keypoints that
    both frames show, divided by the mean length of the true motion; to stand still scores 1.
    """
    view, (first, second) = WeakPerspective.from_vector(camera), pairs.unbind(1)
    error = view.rotation.mT @ exam.rotation
    points, seen = view.project(landmarks)[..., :2], exam.pictures
    visible = seen["keypoint_visible"][first] & seen["keypoint_visible"][second]
    moved, truly = (at[second] - at[first] for at in (points, seen["keypoints"]))
    wrong = (moved - truly).norm(dim=-1)[visible].mean() / truly.norm(dim=-1)[visible].mean()
    jitter = metrics.rotation_error(error[first], error[second]).mean()
    own = {"jitter": jitter.item(), "displacement": wrong.item()}
    return category_scores(verts, landmarks, camera, faces, exam) | own


def surface_error(
    verts: Float[Tensor, "N V 3"], landmarks: Float[Tensor, "N K 3"], faces: Int[Tensor, "F 3"], exam: Exam
) -> float:
    """Compute the mean 3D error of `category_scores`, which needs no camera."""
    if landmarks.std(1).max() < 1e-3:
        return math.nan
    points = sample_surface(verts, faces, POINTS, generator=torch.Generator().manual_seed(1))
    return metrics.aligned_surface_error(points, exam.surface, landmarks, exam.truth["keypoints_3d"]).mean().item()


def judge(
    model: nn.Module, prediction: Any, exam: Exam, landmarks: Float[Tensor, "N K 3"] | None = None
) -> dict[str, dict[str, float]]:
    """Judge a category model's prediction twice: {"own": scores, "given": scores}, by the camera that is used.

    prediction: with `verts` and `camera`; sabotage it with `_replace` or the functions below. landmarks: its keypoints,
    if not those that the model finds on the vertices.
    """
    if landmarks is None:
        with torch.no_grad():
            landmarks = model.keypoints(prediction.verts.to(model.faces.device)).cpu()
    cameras = {"own": prediction.camera, "given": exam.pictures["camera"]}
    faces = model.faces.cpu()
    return {name: category_scores(prediction.verts, landmarks, view, faces, exam) for name, view in cameras.items()}


def truth_against_itself(exam: Exam, camera: Float[Tensor, "N 7"] | None = None) -> dict[str, float]:
    """Judge the truth as `category_scores` judges a prediction: what no prediction can beat.

    camera: the true camera, unless another is given, such as the one found from the annotation. The 3D error of one
    sample of a surface against another is not 0: the floor of that error.
    """
    camera = exam.truth["camera"] if camera is None else camera
    view, size = WeakPerspective.from_vector(camera), exam.pictures["mask"].shape[-1]
    drawn = []
    for i, mesh in enumerate(exam.truth["meshes"]):
        one = WeakPerspective.from_vector(camera[i : i + 1])
        drawn.append(rendering.rasterize(one.project(mesh.verts[None]), mesh.faces, size).mask.float())
    landmarks, seen = exam.truth["keypoints_3d"], exam.pictures
    points = view.project(landmarks)[..., :2]
    again = _surfaces(exam.truth["meshes"], seed=1)
    return {
        "mIoU": metrics.iou(torch.cat(drawn), seen["mask"]).mean().item(),
        "PCK@0.1": metrics.pck(points, seen["keypoints"], seen["keypoint_visible"], 0.1, exam.box).item(),
        "rotation": metrics.rotation_error(view.rotation, exam.rotation).median().item(),
        "3D error": metrics.aligned_surface_error(again, exam.surface, landmarks, landmarks).mean().item(),
    }


def depth_scores(
    depth: Float[Tensor, "N H W"], truth: Float[Tensor, "N H W"], mask: Float[Tensor, "N H W"], focal: float
) -> dict[str, float]:
    """Judge depth maps on a mask: "SIDE" (× 10⁻²) and "MAD" (degrees, of both maps' normals), means over the pictures.

    Both are 0 for the truth. mask: the paper (Wu et al., CVPR 2020) erodes the object's by one pixel.
    """
    normals, true_normals = (depth_to_normals(map, focal) for map in (depth, truth))
    return {
        "SIDE": 100 * metrics.side(depth, truth, mask).mean().item(),
        "MAD": metrics.mean_angle_deviation(normals, true_normals, mask).mean().item(),
    }


# Sabotage: predictions that see nothing in the picture


def dealt(count: int, seed: int = 0) -> Int[Tensor, "count"]:
    """Draw a permutation that leaves nothing in its place: one cycle through all (Sattolo, 1986).

    Raises ValueError for fewer than two.
    """
    if count < 2:
        raise ValueError(f"dealing needs at least two pictures, got {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    permutation = torch.empty_like(order)
    permutation[order] = order.roll(1)
    return permutation


def shuffled(prediction: Any, seed: int = 0) -> Any:
    """Deal whole predictions to other pictures: what is right on average stays, what was seen is lost."""
    permutation = dealt(len(_first(prediction)), seed)
    return _map(lambda values: values[permutation], prediction)


def shuffle_pictures(data: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Deal the images of a training set to other annotations, to train the control that learns without looking."""
    check_batch(data, "image")
    return data | {"image": data["image"][dealt(len(data["image"]), seed)]}


def constant(prediction: Any, **fields: Tensor) -> Any:
    """Give everybody the same value, without the first axis, of these fields of a named tuple or dict.

    Choose it on training or validation pictures (`constant_camera`, or the best of several by its score there).
    """
    count = len(_first(prediction))
    return _with(prediction, {name: value.expand(count, *value.shape) for name, value in fields.items()})


def mean_for_everybody(prediction: Any, *fields: str, reference: Any = None) -> Any:
    """Give everybody the mean of these fields of a named tuple or dict.

    reference: what is averaged, such as the predictions for training pictures; by default the prediction itself.
    """
    source = prediction if reference is None else reference
    return constant(prediction, **{name: _field(source, name).mean(0) for name in fields})


def constant_camera(cameras: Float[Tensor, "N 7"], candidates: int = 256) -> Float[Tensor, "7"]:
    """Find the best camera for all of a training set: the rotation, among the cameras' own, with the least median error
    to all, and the medians of scale and shift."""
    rotation = WeakPerspective.from_vector(cameras).rotation
    tried = torch.linspace(0, len(cameras) - 1, min(candidates, len(cameras))).round().long()
    errors = torch.stack([metrics.rotation_error(rotation[i].expand_as(rotation), rotation).median() for i in tried])
    best = cameras[tried[errors.argmin()]]
    return torch.cat([cameras[:, :3].median(0).values, best[3:]])


def category_controls(
    prediction: Any, *, training: Any, cameras: Float[Tensor, "N 7"], untrained: Any, seed: int = 0
) -> dict[str, Any]:
    """Make the controls of a category model's prediction, by name, to be judged as it is.

    training: what the model predicts for training pictures; cameras: the given cameras of these; untrained: what the
    network predicts before training.
    """
    return {
        "shuffled": shuffled(prediction, seed),
        "constant camera": constant(prediction, camera=constant_camera(cameras)),
        "mean for everybody": mean_for_everybody(prediction, "offsets", "verts", reference=training),
        "untrained": untrained,
    }


def passing(controls: dict[str, float], *, low: float | None = None, high: float | None = None) -> list[str]:
    """List the controls whose value a band lets pass; if there are any, the band proves nothing.

    NaN passes no band. Raises ValueError without a band.
    """
    if low is None and high is None:
        raise ValueError("the band is missing; give low or high")
    inside = lambda value: (low is None or value >= low) and (high is None or value <= high)  # noqa: E731
    return [name for name, value in controls.items() if not math.isnan(value) and inside(value)]


def _surfaces(meshes: list[Mesh], seed: int) -> Float[Tensor, "N P 3"]:
    draws = torch.Generator().manual_seed(seed)
    return torch.cat([sample_surface(mesh.verts[None], mesh.faces, POINTS, generator=draws) for mesh in meshes])


def _map(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """Apply a function to the tensors of one or several equal structures."""
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, dict):
        return {name: _map(function, value, *(other[name] for other in others)) for name, value in first.items()}
    values = (_map(function, *parts) for parts in zip(first, *others, strict=True))
    return type(first)(*values) if hasattr(first, "_fields") else tuple(values)


def _first(prediction: Any) -> Tensor:
    if isinstance(prediction, Tensor):
        return prediction
    return _first(next(iter(prediction.values() if isinstance(prediction, dict) else prediction)))


def _field(prediction: Any, name: str) -> Tensor:
    fields = prediction if isinstance(prediction, dict) else prediction._asdict()
    if name not in fields:
        raise ValueError(f"the prediction has no {name!r}; it has {', '.join(fields)}")
    return fields[name]


def _with(prediction: Any, fields: dict[str, Tensor]) -> Any:
    for name in fields:
        _field(prediction, name)
    return prediction | fields if isinstance(prediction, dict) else prediction._replace(**fields)
