"""Two cameras: weak perspective (scaled orthographic) and pinhole.

World: right-handed, y up; an animal or vehicle looks along +x, its mirror plane is z = 0. Camera frame:
x right, y down, z forward. Image plane: [-1, 1]², x right, y down. `project` returns the point in the
image plane and its depth, as the renderer takes them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from lib.checks import check_same_device, check_tensor, image_sides, require
from lib.geometry.rotations import quaternion_to_matrix
from lib.remembered import constant


class _Camera:
    """Base of the two cameras: one batch axis, checks, and moving between devices."""

    def _check(self, **shapes: str) -> None:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, shape in shapes.items():
            check_tensor(name, parts[name], f"B {shape}")
        check_same_device(**parts)
        if len({len(part) for part in parts.values()}) > 1:
            sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
            raise ValueError(f"the parts of a camera must share one batch size, got {sizes}; repeat with .expand")

    def _check_points(self, points: Tensor) -> None:
        check_tensor("points", points, "B N 3")
        first = getattr(self, fields(self)[0].name)
        check_same_device(points=points, camera=first)
        if points.dtype != first.dtype:
            raise TypeError(f"points are {points.dtype}, the camera {first.dtype}; convert with points.to or camera.to")
        if len(points) != len(self) and 1 not in (len(points), len(self)):
            raise ValueError(
                f"points has batch {len(points)}, the camera {len(self)}; make them equal, or one of them 1"
            )

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def to(self, device: torch.device | torch.dtype | str):
        """Move the camera to another device, or convert it to another floating-point type."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class WeakPerspective(_Camera):
    """Weak-perspective cameras, u = s (R X)_xy + t: rotate, drop the depth, scale and shift.

    scale (B,) in image-plane units per world unit, positive; translation (B, 2) in the image plane;
    quaternion (B, 4) world → camera, (w, x, y, z); only its direction counts, not its length.

    Raises ValueError for a scale that is not positive, a zero quaternion or batches of unequal size.
    """

    scale: Float[Tensor, "B"]
    translation: Float[Tensor, "B 2"]
    quaternion: Float[Tensor, "B 4"]

    def __post_init__(self) -> None:
        self._check(scale="", translation="2", quaternion="4")
        scale = self.scale.detach()
        require(scale > 0, lambda: f"scale must be positive, got {_worst(scale)}; predict its logarithm")
        turns = self.quaternion.detach().any(-1)
        require(turns, "quaternion has a zero row, which is no rotation; start from (1, 0, 0, 0)")

    @property
    def rotation(self) -> Float[Tensor, "B 3 3"]:
        return quaternion_to_matrix(self.quaternion)

    def project(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Project world points to image-plane x, y and depth s (R X)_z.

        The depth is scaled too, so that a projected mesh is similar to the mesh and its normals are right.
        The zero of depth is arbitrary, because this camera does not see distance. A batch of one, of points
        or cameras, serves for all.
        """
        self._check_points(points)
        shift = torch.nn.functional.pad(self.translation, (0, 1))
        return self.scale[:, None, None] * (points @ self.rotation.mT) + shift[:, None]

    def mirror(self) -> WeakPerspective:
        """Return the camera of the mirrored image.

        Mirroring an image negates x. Let F = diag(−1, 1, 1), and M = diag(1, 1, −1) the reflection in the
        object's mirror plane z = 0. Then

            F (s R X + t) = s (F R M) (M X) + F t,

        so the camera (s, F t, F R M) shows the mirrored object M X in the mirrored image. F R M is again
        a rotation (two reflections); its quaternion is (y, z, w, x). On a symmetric object the left/right
        partner of the point X lies at M X. So this camera predicts the mirrored image without error, once
        the keypoints are exchanged by the left/right permutation. Papers that mirror the object's x axis
        instead have (w, x, −y, −z).
        """
        flip = constant(self.translation, -1, 1)
        return WeakPerspective(self.scale, self.translation * flip, self.quaternion.roll(2, -1))

    def to_vector(self) -> Float[Tensor, "B 7"]:
        """Pack the camera into seven numbers [s, t_x, t_y, q_w, q_x, q_y, q_z]."""
        return torch.cat([self.scale[:, None], self.translation, self.quaternion], -1)

    @classmethod
    def from_vector(cls, vector: Float[Tensor, "B 7"]) -> WeakPerspective:
        """Unpack the camera from seven numbers [s, t_x, t_y, q_w, q_x, q_y, q_z]."""
        check_tensor("vector", vector, "B 7")
        return cls(vector[:, 0], vector[:, 1:3], vector[:, 3:])


@dataclass(frozen=True, eq=False)
class Pinhole(_Camera):
    """Pinhole cameras, u = f (R X + T)_xy / z with z = (R X + T)_z: rotate, shift, divide by the depth.

    focal (B,) in image-plane units, positive: f = 1 / tan(half the field of view); rotation (B, 3, 3)
    world → camera; translation (B, 3), the world's origin in the camera frame. The principal point is the
    image's centre.

    Raises ValueError for a focal length that is not positive, a matrix that is no rotation (for example a
    reflection), or batches of unequal size.
    """

    focal: Float[Tensor, "B"]
    rotation: Float[Tensor, "B 3 3"]
    translation: Float[Tensor, "B 3"]

    def __post_init__(self) -> None:
        self._check(focal="", rotation="3 3", translation="3")
        focal = self.focal.detach()
        require(focal > 0, lambda: f"focal must be positive, got {_worst(focal)}; predict its logarithm")
        rotation = self.rotation.detach()
        error = (torch.linalg.cross(rotation[:, 0], rotation[:, 1]) - rotation[:, 2]).abs().sum(-1)
        identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
        error = error + (rotation @ rotation.mT - identity).abs().sum((-1, -2))
        remedy = "take the nearest with rotations.nearest_rotation"
        require(error < 1e-2, f"rotation is not a rotation matrix; {remedy}")

    def project(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Project world points to image-plane x, y and depth z. A batch of one, of points or cameras, serves for all.

        Raises ValueError for a point at or behind the camera, which has no image.
        """
        self._check_points(points)
        in_camera = points @ self.rotation.mT + self.translation[:, None]
        depth = in_camera[..., 2:]
        remedy, seen = "move the camera away with a larger translation z", depth.detach()
        require(seen > 0, lambda: f"points reach depth {_worst(seen)}, at or behind the camera; {remedy}")
        return torch.cat([self.focal[:, None, None] * in_camera[..., :2] / depth, depth], -1)

    def mirror(self) -> Pinhole:
        """Return the camera of the mirrored image: rotation F R M, translation F T (see `WeakPerspective.mirror`)."""
        flip = constant(self.translation, -1, 1, 1)
        rotation = flip[:, None] * self.rotation * flip.flip(0)
        return Pinhole(self.focal, rotation, self.translation * flip)


def _worst(values: Tensor) -> str:
    """The smallest entry, or nan if there is one."""
    return f"{values.min().item():.4g}"


def pixels_to_image(pixels: Float[Tensor, "... 2"], image_size: int | tuple[int, int]) -> Float[Tensor, "... 2"]:
    """Convert pixel coordinates (column, row), whole numbers at pixel centres, to the image plane [-1, 1]².

    image_size: one side of a square image, or (height, width). Pixel (row i, column j) has its centre at
    ((2j + 1)/W − 1, (2i + 1)/H − 1), as in `grid_sample(align_corners=False)`.
    """
    check_tensor("pixels", pixels, "... 2")
    return (2 * pixels + 1) / _width_height(pixels, image_size) - 1


def image_to_pixels(points: Float[Tensor, "... 2"], image_size: int | tuple[int, int]) -> Float[Tensor, "... 2"]:
    """Convert the image plane [-1, 1]² to pixel coordinates (column, row): the inverse of `pixels_to_image`."""
    check_tensor("points", points, "... 2")
    return ((points + 1) * _width_height(points, image_size) - 1) / 2


def _width_height(points: Tensor, image_size: int | tuple[int, int]) -> Tensor:
    height, width = image_sides("image_size", image_size)
    return constant(points, width, height)
