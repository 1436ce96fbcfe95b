"""The camera of a portrait, before which an object turns about a point: the view of a face.

Camera: x right, y down, z forward, at the origin, with a field of view of 10 degrees. The object turns about the point
c = (0, 0, 1): X' = R (X − c) + c + t with R = Rz Ry Rx. One unit is the distance from the camera to c. A view is six
numbers: the turns about x, y and z in radians, then t. The procedural faces have this frame, and so has the model
that explains them.

Source: Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in
the Wild", CVPR 2020.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from lib.geometry.rotations import turns_to_matrix
from lib.remembered import constant

FIELD_OF_VIEW = 10.0  # degrees
FOCAL = 1 / math.tan(math.radians(FIELD_OF_VIEW / 2))
PIVOT = 1.0  # the depth of c


def turn(points: Float[Tensor, "B N 3"], view: Float[Tensor, "B 6"]) -> Float[Tensor, "B N 3"]:
    """Turn points X to the view: R (X − c) + c + t."""
    pivot = constant(points, 0, 0, PIVOT)
    return (points - pivot) @ turns_to_matrix(view[:, :3]).mT + pivot + view[:, None, 3:]


def turn_back(points: Float[Tensor, "B N 3"], view: Float[Tensor, "B 6"]) -> Float[Tensor, "B N 3"]:
    """Turn points back from the view: the inverse of `turn`."""
    pivot = constant(points, 0, 0, PIVOT)
    return (points - pivot - view[:, None, 3:]) @ turns_to_matrix(view[:, :3]) + pivot
