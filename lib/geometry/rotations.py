"""Rotations in four representations (3×3 matrix, unit quaternion (w, x, y, z), axis-angle, 6D), and their distance.

Names and conventions are PyTorch3D's, if PyTorch3D has the function. In addition, every conversion is accurate and
has finite, correct gradients at the identity and at half turns, in float32 and float64. Matrices act on column
vectors, x' = R x. Any number of leading axes are batches.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lib.checks import check_alike, check_broadcast, check_tensor, number, whole_number
from lib.geometry.vectors import binary_scale, unit
from lib.remembered import constant


def _even_function(x: Tensor, exact: Tensor, series: tuple[float, float, float]) -> Tensor:
    """Return `exact`, but near x = 0 its Taylor series a + b x + c x², whose derivatives do not cancel there."""
    a, b, c = series
    return torch.where(_is_small(x), a + x * (b + c * x), exact)


def _is_small(x: Tensor) -> Tensor:
    """True where x³ is below the rounding error, so that three terms of a series in x are exact."""
    return x < torch.finfo(x.dtype).eps ** (1 / 3)


def standardize_quaternion(quaternion: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Choose between q and −q, which are the same rotation, the one with a non-negative real part."""
    check_tensor("quaternion", quaternion, "... 4")
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternion: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """The rotation matrix of a quaternion (w, x, y, z), which need not have unit length.

    The zero quaternion is no rotation and gives NaN.
    """
    check_tensor("quaternion", quaternion, "... 4")
    quaternion = quaternion / binary_scale(quaternion)
    w, x, y, z = quaternion.unbind(-1)
    s = 2 / quaternion.square().sum(-1)
    entries = (
        *(1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        *(s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        *(s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 4"]:
    """The unit quaternion (w, x, y, z), w ≥ 0, of a rotation matrix.

    The 4×4 matrix 4 q qᵀ is linear in the entries of R. Each of its rows is a multiple of q; the longest
    one (length at least 2) is normalised, so that nothing is divided by a small number (Shepperd,
    "Quaternion from rotation matrix", 1978).
    """
    check_tensor("matrix", matrix, "... 3 3")
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    entries = (
        *(1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01),
        *(m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20),
        *(m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21),
        *(m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22),
    )
    rows = torch.stack(entries, -1).unflatten(-1, (4, 4))
    longest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = rows.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4)).squeeze(-2)
    return standardize_quaternion(F.normalize(row, dim=-1))


def axis_angle_to_quaternion(axis_angle: Float[Tensor, "... 3"]) -> Float[Tensor, "... 4"]:
    """The quaternion of an axis-angle vector: its direction is the axis, its length the angle in radians."""
    check_tensor("axis_angle", axis_angle, "... 3")
    squared = axis_angle.square().sum(-1, keepdim=True)
    angle = torch.where(_is_small(squared), torch.ones_like(squared), squared).sqrt()
    real = _even_function(squared, (angle / 2).cos(), (1, -1 / 8, 1 / 384))
    sine_over_angle = _even_function(squared, (angle / 2).sin() / angle, (1 / 2, -1 / 48, 1 / 3840))
    return torch.cat([real, axis_angle * sine_over_angle], -1)


def quaternion_to_axis_angle(quaternion: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3"]:
    """The axis-angle vector of a unit quaternion, of length at most π (q and −q give the same)."""
    real, imaginary = standardize_quaternion(quaternion).split([1, 3], -1)
    squared = imaginary.square().sum(-1, keepdim=True)
    small = _is_small(squared)
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    cosine = torch.where(small, real, torch.ones_like(real))
    # angle / sin(angle/2) = 2 atan(t) / (t cos(angle/2)) with t = tan(angle/2)
    tangent_squared = squared / cosine.square()
    near_zero = (2 - tangent_squared * (2 / 3 - tangent_squared * (2 / 5))) / cosine
    return imaginary * torch.where(small, near_zero, 2 * torch.atan2(sine, real) / sine)


def axis_angle_to_matrix(axis_angle: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation matrix of an axis-angle vector (Rodrigues' formula, by way of the quaternion)."""
    return quaternion_to_matrix(axis_angle_to_quaternion(axis_angle))


def matrix_to_axis_angle(matrix: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3"]:
    """The axis-angle vector of a rotation matrix, of length at most π."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def rotation_6d_to_matrix(d6: Float[Tensor, "... 6"]) -> Float[Tensor, "... 3 3"]:
    """The rotation whose first two rows are the two vectors of `d6`, made orthonormal by Gram-Schmidt.

    Source: Zhou et al., "On the continuity of rotation representations in neural networks", CVPR 2019. For
    parallel or zero vectors, which span no plane, the result is finite, but no rotation.
    """
    check_tensor("d6", d6, "... 6")
    first, second = d6.split(3, -1)
    first, second = unit(first), second / binary_scale(second)
    second = unit(second - (first * second).sum(-1, keepdim=True) * first)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -2)


def matrix_to_rotation_6d(matrix: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 6"]:
    """The first two rows of a rotation matrix, one after the other."""
    check_tensor("matrix", matrix, "... 3 3")
    return matrix[..., :2, :].flatten(-2)


class _PolarFactor(torch.autograd.Function):
    """The polar factor R = U D Vᵀ of M = U Σ Vᵀ, with a derivative that does not use the derivative of the SVD.

    P = Rᵀ M is symmetric, and dR = R [ω]ₓ, where (tr(P) I − P) ω is the axial vector of Rᵀ dM − dMᵀ R.
    This derivative is singular only if R itself is not unique, but not at equal singular values.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, allow_reflection: bool) -> Tensor:
        U, _, Vh = torch.linalg.svd(matrix)
        if not allow_reflection:
            sign = torch.linalg.det(U @ Vh).sign()
            U = torch.cat([U[..., :2], U[..., 2:] * sign[..., None, None]], -1)
        return U @ Vh

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        matrix, R = ctx.saved_tensors
        P = R.mT @ matrix
        trace = P.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        trace = torch.where(trace > 0, trace, 1)
        identity = torch.eye(3, dtype=P.dtype, device=P.device)
        system = identity - (P + P.mT) / (2 * trace)
        # S (S² + ε²)⁻¹ is the pseudo-inverse of S in the limit: it gives gradient 0 to the turns that M does not
        # determine. Unlike `pinv`, `inv_ex` does not make the host wait on CUDA.
        damping = torch.finfo(P.dtype).eps ** 0.8
        solver = system @ torch.linalg.inv_ex(system @ system + damping * identity)[0]
        turn = solver @ _axial(R.mT @ gradient)[..., None] / trace
        return R @ _skew(turn.squeeze(-1)), None


def _axial(matrix: Tensor) -> Tensor:
    """The vector v with [v]ₓ = matrix − matrixᵀ."""
    a = matrix - matrix.mT
    return torch.stack([a[..., 2, 1], a[..., 0, 2], a[..., 1, 0]], -1)


def _skew(v: Tensor) -> Tensor:
    """[v]ₓ, the matrix of the cross product with v."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def nearest_rotation(matrix: Float[Tensor, "... 3 3"], *, allow_reflection: bool = False) -> Float[Tensor, "... 3 3"]:
    """The rotation nearest to a matrix in the Frobenius norm (with `allow_reflection`, the orthogonal matrix).

    With the SVD M = U Σ Vᵀ it is U diag(1, 1, det(U Vᵀ)) Vᵀ: the central step of Procrustes, and a good output
    layer for networks (Levinson et al., "An analysis of SVD for deep rotation estimation", NeurIPS 2020). If it
    is not unique (rank below 2, or a reflection whose two smallest singular values are equal), one of the
    nearest is returned, and the gradient along the undetermined turns is 0.
    """
    check_tensor("matrix", matrix, "... 3 3", kind="real", finite=True)
    return _PolarFactor.apply(matrix, allow_reflection)


def quaternion_multiply(p: Float[Tensor, "... 4"], q: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """The quaternion, with a non-negative real part, of the rotation "first q, then p": R(p) R(q)."""
    check_tensor("p", p, "... 4")
    check_tensor("q", q, "... 4")
    check_broadcast(1, p=p, q=q)
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    entries = (
        pw * qw - px * qx - py * qy - pz * qz,
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
    )
    return standardize_quaternion(torch.stack(entries, -1))


def slerp(p: Float[Tensor, "... 4"], q: Float[Tensor, "... 4"], t: Float[Tensor, "..."]) -> Float[Tensor, "... 4"]:
    """The unit quaternion a fraction t of the way from p to q, along the shorter arc at constant speed.

    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985. t broadcasts against the batch
    axes of p and q.
    """
    check_tensor("p", p, "... 4")
    check_tensor("q", q, "... 4")
    if not isinstance(t, Tensor):
        t = torch.as_tensor(number("t", t), dtype=p.dtype, device=p.device)
    inverse = p * constant(p, 1, -1, -1, -1)
    step = quaternion_to_axis_angle(quaternion_multiply(q, inverse))
    return quaternion_multiply(axis_angle_to_quaternion(t[..., None] * step), p)


def random_quaternions(
    n: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n 4"]:
    """Draw n unit quaternions, w ≥ 0, uniform over all rotations: normalised Gaussian vectors."""
    n = whole_number("n", n, None)
    if n < 0:
        raise ValueError(f"n must be 0 or more rotations, got {n}")
    if device is None and generator is not None:
        device = generator.device
    return standardize_quaternion(F.normalize(torch.randn(n, 4, generator=generator, dtype=dtype, device=device)))


def random_rotations(
    n: int,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n 3 3"]:
    """Draw n rotation matrices, uniform over all rotations."""
    return quaternion_to_matrix(random_quaternions(n, generator, dtype=dtype, device=device))


def rotation_angle(R1: Float[Tensor, "... 3 3"], R2: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """The angle in radians, in [0, π], of the rotation that takes R1 to R2: the geodesic distance.

    The atan2 of sine and cosine is accurate over the whole range, whereas the arccos of the trace loses half
    the digits at both ends. The gradient has finite length everywhere; it is 0 at the angles 0 and π, where
    the distance has a kink.
    """
    check_tensor("R1", R1, "... 3 3")
    check_tensor("R2", R2, "... 3 3")
    check_alike(R1=R1, R2=R2)
    check_broadcast(2, R1=R1, R2=R2)
    difference = R1.mT @ R2
    twice_sine = torch.linalg.vector_norm(_axial(difference), dim=-1)
    twice_cosine = difference.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.atan2(twice_sine, twice_cosine)


def view_rotation(azimuth: Float[Tensor, "..."], elevation: Float[Tensor, "..."]) -> Float[Tensor, "... 3 3"]:
    """The world → camera rotation of an upright camera that looks at the origin; angles in radians.

    World: y up. Camera: x right, y down, z forward. Azimuth 0 puts the camera on +z: an animal, which looks
    along +x, is seen from its right side, heading right. Azimuth π/2 puts the camera on +x, in front of the
    animal's face. A positive elevation lifts the camera. The two angles broadcast.
    """
    check_tensor("azimuth", azimuth, "...")
    check_tensor("elevation", elevation, "...")
    check_broadcast(0, azimuth=azimuth, elevation=elevation)
    azimuth, elevation = torch.broadcast_tensors(azimuth, elevation)
    sa, ca, se, ce = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    right = torch.stack([ca, torch.zeros_like(ca), -sa], -1)
    down = torch.stack([se * sa, -ce, se * ca], -1)
    forward = torch.stack([-ce * sa, -se, -ce * ca], -1)
    return torch.stack([right, down, forward], -2)


def turns_to_matrix(turns: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation R = Rz Ry Rx of the turns (about x, y, z) in radians: first about x, last about z.

    PyTorch3D's `euler_angles_to_matrix` gives the same for (z, y, x) and "ZYX".
    """
    check_tensor("turns", turns, "... 3")
    (cx, cy, cz), (sx, sy, sz) = turns.cos().unbind(-1), turns.sin().unbind(-1)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
