"""Identities, gradients at the delicate angles, and agreement with SciPy and PyTorch3D."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian

from lib.geometry import rotations

DTYPES = [torch.float32, torch.float64]
# Angles where naive formulas divide 0 by 0, lose digits or jump, and some ordinary ones.
ANGLES = [0.0, 1e-300, 1e-20, 1e-9, 1e-4, 2e-3, 2e-2, 0.3, 2.0, math.pi - 1e-4, math.pi - 1e-7, math.pi]
AXES = [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.0, -0.8), (2 / 3, -1 / 3, 2 / 3)]
examples = settings(deadline=None, derandomize=True, max_examples=50)
unit_quaternions = (
    st.lists(st.floats(-1, 1), min_size=4, max_size=4)
    .filter(lambda q: math.hypot(*q) > 0.1)
    .map(lambda q: torch.nn.functional.normalize(torch.tensor(q, dtype=torch.float64), dim=0))
)


def vectors(dtype: torch.dtype) -> torch.Tensor:
    return (torch.tensor(AXES, dtype=dtype)[:, None] * torch.tensor(ANGLES, dtype=dtype)[:, None]).reshape(-1, 3)


def assert_rotation(R: torch.Tensor, atol: float = 1e-12) -> None:
    eye = torch.eye(3, dtype=R.dtype).expand_as(R)
    torch.testing.assert_close(R @ R.mT, eye, atol=atol, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones_like(R[..., 0, 0]), atol=atol, rtol=0)


@examples
@given(unit_quaternions, unit_quaternions)
def test_quaternions_form_the_group_of_rotations(p, q):
    product = rotations.quaternion_to_matrix(p) @ rotations.quaternion_to_matrix(q)
    assert_rotation(product)
    composed = rotations.quaternion_multiply(p, q)
    assert composed[0] >= 0
    torch.testing.assert_close(rotations.quaternion_to_matrix(composed), product)
    torch.testing.assert_close(rotations.quaternion_to_matrix(-p), rotations.quaternion_to_matrix(p))
    torch.testing.assert_close(rotations.quaternion_to_matrix(3 * p), rotations.quaternion_to_matrix(p))


@examples
@given(unit_quaternions)
def test_every_dress_leads_back_to_the_same_matrix(q):
    R = rotations.quaternion_to_matrix(q)
    close = dict(atol=1e-14, rtol=0)
    if q[0].abs() > 1e-9:  # q and −q are told apart by the sign of w
        torch.testing.assert_close(rotations.matrix_to_quaternion(R), rotations.standardize_quaternion(q), **close)
    torch.testing.assert_close(rotations.quaternion_to_matrix(rotations.matrix_to_quaternion(R)), R, **close)
    torch.testing.assert_close(rotations.axis_angle_to_matrix(rotations.matrix_to_axis_angle(R)), R, **close)
    torch.testing.assert_close(rotations.rotation_6d_to_matrix(rotations.matrix_to_rotation_6d(R)), R, **close)
    scipy = Rotation.from_quat(q.numpy(), scalar_first=True)
    torch.testing.assert_close(R, torch.from_numpy(scipy.as_matrix()), **close)
    torch.testing.assert_close(
        rotations.rotation_angle(torch.eye(3, dtype=R.dtype), R), torch.tensor(scipy.magnitude()), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_axis_angle_is_accurate_at_every_angle(dtype):
    """Against SciPy in float64, to a few roundings, also where sin(angle) vanishes."""
    a = vectors(dtype)
    rounding = torch.finfo(dtype).eps
    reference = Rotation.from_rotvec(a.double().numpy())
    q = torch.from_numpy(reference.as_quat(scalar_first=True)).to(dtype)
    torch.testing.assert_close(rotations.axis_angle_to_quaternion(a), q, atol=2 * rounding, rtol=0)
    R = rotations.axis_angle_to_matrix(a)
    torch.testing.assert_close(R, torch.from_numpy(reference.as_matrix()).to(dtype), atol=8 * rounding, rtol=0)
    back = rotations.matrix_to_axis_angle(R)
    assert (back.norm(dim=-1) <= math.pi * (1 + rounding)).all()
    half_turn = a.norm(dim=-1) > math.pi - 1e-5
    torch.testing.assert_close(back[~half_turn], a[~half_turn], atol=16 * rounding, rtol=16 * rounding)
    # at a half turn the two opposite axes are one rotation
    torch.testing.assert_close(back[half_turn].abs(), a[half_turn].abs(), atol=16 * rounding, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_angles_survive_to_the_last_digit(dtype):
    a = vectors(dtype)
    small = a[(a.norm(dim=-1) < 1e-3) & (a.norm(dim=-1) > 0)]
    back = rotations.quaternion_to_axis_angle(rotations.axis_angle_to_quaternion(small))
    torch.testing.assert_close(back, small, atol=0, rtol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axis", AXES)
def test_axis_angle_gradients_match_finite_differences(angle, axis):
    a = (torch.tensor(axis, dtype=torch.float64) * angle).requires_grad_()
    assert gradcheck(rotations.axis_angle_to_matrix, a)
    assert gradgradcheck(rotations.axis_angle_to_matrix, a)
    assert gradcheck(rotations.axis_angle_to_quaternion, a)


def there_and_back(a: torch.Tensor) -> torch.Tensor:
    return rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(a))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axis", AXES)
def test_the_way_back_has_the_inverse_gradient(angle, axis, dtype):
    """Matrix to axis-angle, along the rotations: the round trip has the identity as Jacobian."""
    a = torch.tensor(axis, dtype=dtype) * angle
    found = jacobian(there_and_back, a)
    expected = torch.eye(3, dtype=dtype)
    if there_and_back(a) @ a < 0:  # at a half turn, the opposite axis: the map is a − 2π a/|a|
        n = torch.tensor(axis, dtype=dtype)
        expected = 2 * torch.outer(n, n) - expected
    torch.testing.assert_close(found, expected, atol=64 * torch.finfo(dtype).eps, rtol=0)


@examples
@given(unit_quaternions)
def test_quaternion_gradients(q):
    q = q.clone().requires_grad_()
    assert gradcheck(rotations.quaternion_to_matrix, q)
    if q[0].abs() > 1e-4:  # at w = 0 the standard form jumps to the other sign
        assert gradcheck(lambda q: rotations.quaternion_to_axis_angle(q / q.norm()), q)
        assert gradcheck(lambda q: rotations.matrix_to_quaternion(rotations.quaternion_to_matrix(q)), q)


def test_matrix_to_quaternion_gradient_at_identity_and_half_turns():
    halves = torch.diag_embed(torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64))
    a = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for R in halves:

        def products(a, R=R):  # q qᵀ, for the sign of q itself jumps across a half turn
            q = rotations.matrix_to_quaternion(R @ rotations.axis_angle_to_matrix(a))
            return torch.outer(q, q)

        assert gradcheck(products, a)
        R32 = R.float().requires_grad_()
        rotations.matrix_to_quaternion(R32).sum().backward()
        assert torch.isfinite(R32.grad).all()


def test_rotation_6d_gradient_and_rows():
    d6 = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gradcheck(rotations.rotation_6d_to_matrix, d6)
    R = rotations.rotation_6d_to_matrix(d6.detach())
    assert_rotation(R)
    torch.testing.assert_close(R[:, 0], torch.nn.functional.normalize(d6.detach()[:, :3]))
    torch.testing.assert_close(rotations.matrix_to_rotation_6d(R), R[:, :2].flatten(1))
    assert torch.isfinite(rotations.rotation_6d_to_matrix(torch.zeros(6))).all()


def test_nearest_rotation_beats_every_other_rotation():
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    R = rotations.nearest_rotation(M)
    assert_rotation(R)
    others = rotations.random_rotations(2000, generator, dtype=M.dtype)
    distance = (M[:, None] - others).square().sum((-1, -2)).min(1).values
    assert ((M - R).square().sum((-1, -2)) <= distance).all()
    nearby = R @ rotations.axis_angle_to_matrix(1e-3 * torch.randn(50, 3, generator=generator, dtype=M.dtype))
    assert ((M - R).square().sum((-1, -2)) <= (M - nearby).square().sum((-1, -2))).all()
    Q = rotations.nearest_rotation(M, allow_reflection=True)
    torch.testing.assert_close(torch.linalg.det(Q), torch.linalg.det(M).sign())
    torch.testing.assert_close(rotations.nearest_rotation(2.5 * R), R)


@pytest.mark.parametrize(
    ("singular_values", "allow_reflection"),
    [
        ((3.0, 2.0, 1.0), False),
        ((2.0, 1.0, -0.5), False),
        ((1.0, 1.0, 1.0), False),
        ((2.0, 1.0, 0.0), False),
        ((3.0, 2.0, 1.0), True),
        ((2.0, 1.0, -0.5), True),
        ((1.0, 1.0, -1.0), True),
    ],
)
def test_nearest_rotation_gradient_also_at_equal_singular_values(singular_values, allow_reflection):
    U, V = rotations.random_rotations(2, torch.Generator().manual_seed(0), dtype=torch.float64)
    M = (U @ torch.diag(torch.tensor(singular_values, dtype=torch.float64)) @ V.mT).requires_grad_()
    assert gradcheck(lambda M: rotations.nearest_rotation(M, allow_reflection=allow_reflection), M)
    assert gradgradcheck(lambda M: rotations.nearest_rotation(M, allow_reflection=allow_reflection), M)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_rotation_is_defined_where_it_is_not_unique(dtype):
    """Zero, rank one, and a reflection with equal singular values: a rotation, and a finite gradient."""
    line = torch.outer(torch.tensor([1.0, 2, 3], dtype=dtype), torch.tensor([0.5, -1, 2], dtype=dtype))
    for matrix in (torch.zeros(3, 3, dtype=dtype), line, -torch.eye(3, dtype=dtype)):
        matrix.requires_grad_()
        R = rotations.nearest_rotation(matrix)
        assert_rotation(R.detach(), atol=1e-5)
        (R * torch.randn(3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))).sum().backward()
        assert torch.isfinite(matrix.grad).all() and matrix.grad.abs().max() < 1e3


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_angle_is_accurate_at_every_angle(dtype):
    R1 = rotations.random_rotations(60, torch.Generator().manual_seed(0), dtype=dtype)
    a = vectors(dtype)
    angle = rotations.rotation_angle(R1[: len(a)], R1[: len(a)] @ rotations.axis_angle_to_matrix(a))
    torch.testing.assert_close(angle, a.norm(dim=-1), atol=8 * torch.finfo(dtype).eps, rtol=0)


def angle_of_turn(a: torch.Tensor) -> torch.Tensor:
    R = rotations.axis_angle_to_matrix(torch.tensor([0.3, -0.2, 0.9], dtype=a.dtype))
    return rotations.rotation_angle(R, R @ rotations.axis_angle_to_matrix(a))


@pytest.mark.parametrize("angle", [0.01, 1.0, 3.0, math.pi - 1e-3])
def test_rotation_angle_gradient(angle):
    a = (torch.tensor(AXES[-1], dtype=torch.float64) * angle).requires_grad_()
    assert gradcheck(angle_of_turn, a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_angle_gradient_stays_finite_where_it_has_a_kink(dtype):
    for angle in ANGLES:
        a = (torch.tensor(AXES[-1], dtype=dtype) * angle).requires_grad_()
        angle_of_turn(a).backward()
        assert a.grad.norm() < 1.01
    R = torch.eye(3, dtype=dtype, requires_grad=True)
    rotations.rotation_angle(R, R.detach()).backward()
    assert (R.grad == 0).all()


def test_rotation_angle_is_a_distance():
    A, B, C = rotations.random_rotations(300, torch.Generator().manual_seed(1), dtype=torch.float64).chunk(3)
    angle = rotations.rotation_angle
    torch.testing.assert_close(angle(A, B), angle(B, A))
    torch.testing.assert_close(angle(C @ A, C @ B), angle(A, B))
    torch.testing.assert_close(angle(A @ C, B @ C), angle(A, B))
    assert (angle(A, C) <= angle(A, B) + angle(B, C) + 1e-12).all()
    frobenius = 2 * torch.asin((A - B).norm(dim=(1, 2)) / (2 * math.sqrt(2)))
    torch.testing.assert_close(angle(A, B), frobenius)


def test_random_rotations_are_uniform():
    """The angle of a uniform rotation has density (1 − cos θ)/π, and no direction is preferred."""
    R = rotations.random_rotations(20000, torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_rotation(R)
    angle = rotations.rotation_angle(torch.eye(3, dtype=R.dtype), R).sort().values
    expected = (angle - angle.sin()) / math.pi
    assert (expected - torch.linspace(0, 1, len(R))).abs().max() < 1.63 / math.sqrt(len(R))  # Kolmogorov, 1 %
    assert R.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / len(R))
    moments = torch.einsum("nij,nkl->ijkl", R, R) / len(R)
    eye = torch.eye(3, dtype=R.dtype)
    torch.testing.assert_close(moments, torch.einsum("ik,jl->ijkl", eye, eye) / 3, atol=0.02, rtol=0)
    again = rotations.random_rotations(20000, torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(R, again)
    assert rotations.random_rotations(0).shape == (0, 3, 3)


def test_slerp_runs_the_shorter_arc_at_constant_speed():
    p, q = rotations.random_quaternions(40, torch.Generator().manual_seed(0), dtype=torch.float64).chunk(2)
    start, end = rotations.quaternion_to_matrix(p), rotations.quaternion_to_matrix(q)
    whole = rotations.rotation_angle(start, end)
    for t in (0.0, 0.25, 0.5, 1.0):
        for sign in (1, -1):
            between = rotations.quaternion_to_matrix(rotations.slerp(p, sign * q, torch.tensor(t, dtype=p.dtype)))
            torch.testing.assert_close(rotations.rotation_angle(start, between), t * whole)
            torch.testing.assert_close(rotations.rotation_angle(between, end), (1 - t) * whole)


def test_view_rotation_looks_from_where_it_says():
    degrees = torch.deg2rad(torch.tensor([0.0, 90.0, 30.0], dtype=torch.float64))
    R = rotations.view_rotation(degrees, torch.zeros(1, dtype=torch.float64))
    assert_rotation(R)
    torch.testing.assert_close(R[0], torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64)))
    head, up = torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(R[0] @ head, head)  # from its side: heading right
    torch.testing.assert_close(R[1] @ head, torch.tensor([0.0, 0, -1], dtype=torch.float64))  # facing the camera
    azimuth, elevation = degrees[2], degrees[2] / 2
    R = rotations.view_rotation(azimuth, elevation)
    assert_rotation(R)
    position = torch.stack([elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()])
    torch.testing.assert_close(R @ position, torch.tensor([0.0, 0, -1], dtype=torch.float64))  # behind the image
    assert (R @ up)[0].abs() < 1e-15 and (R @ up)[1] < 0  # upright
    angles = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a: rotations.view_rotation(a[0], a[1]), angles)


def test_batch_axes_and_dtypes_are_kept():
    a = torch.randn(2, 1, 4, 3, dtype=torch.float32)
    R = rotations.axis_angle_to_matrix(a)
    assert R.shape == (2, 1, 4, 3, 3) and R.dtype == torch.float32
    assert rotations.matrix_to_quaternion(R).shape == (2, 1, 4, 4)
    assert rotations.matrix_to_axis_angle(R).shape == a.shape
    assert rotations.matrix_to_rotation_6d(R).shape == (2, 1, 4, 6)
    assert rotations.rotation_angle(R, R[:, :, :1]).shape == (2, 1, 4)
    assert rotations.quaternion_to_matrix(torch.zeros(0, 4)).shape == (0, 3, 3)
    assert rotations.matrix_to_quaternion(torch.zeros(0, 3, 3)).shape == (0, 4)


def test_it_works_under_vmap():
    a = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    per_item = torch.func.vmap(torch.func.jacrev(there_and_back))(a)
    torch.testing.assert_close(per_item, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rotations.quaternion_to_matrix(torch.zeros(3)), "quaternion must have shape"),
        (lambda: rotations.matrix_to_quaternion(torch.zeros(3, 4)), "matrix must have shape"),
        (lambda: rotations.axis_angle_to_matrix(torch.zeros(3, dtype=torch.long)), "axis_angle must have a float"),
        (lambda: rotations.rotation_6d_to_matrix(torch.zeros(3, 2)), "d6 must have shape"),
        (lambda: rotations.rotation_angle(torch.eye(3), torch.zeros(3)), "R2 must have shape"),
        (lambda: rotations.random_rotations(-1), "n must be 0 or more"),
        (lambda: rotations.view_rotation(0.0, 0.0), "azimuth must be a torch.Tensor"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_same_as_pytorch3d():
    transforms = pytest.importorskip("pytorch3d.transforms", reason="PyTorch3D is not installed")
    generator = torch.Generator().manual_seed(0)
    p, q = rotations.random_quaternions(400, generator, dtype=torch.float64).chunk(2)
    d6 = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    a = 3 * torch.nn.functional.normalize(d6[:, :3], dim=-1) * torch.rand(200, 1, generator=generator)
    R = rotations.quaternion_to_matrix(q)
    for name, inputs in {
        "quaternion_to_matrix": (d6[:, :4],),
        "matrix_to_quaternion": (R,),
        "axis_angle_to_quaternion": (a,),
        "axis_angle_to_matrix": (a,),
        "quaternion_to_axis_angle": (q,),
        "matrix_to_axis_angle": (R,),
        "rotation_6d_to_matrix": (d6,),
        "matrix_to_rotation_6d": (R,),
        "quaternion_multiply": (p, q),
        "standardize_quaternion": (d6[:, :4],),
    }.items():
        torch.testing.assert_close(getattr(rotations, name)(*inputs), getattr(transforms, name)(*inputs), msg=name)


def test_turns_are_made_one_after_the_other():
    turns = torch.randn(5, 3, dtype=torch.float64)
    x, y, z = (rotations.axis_angle_to_matrix(turns[:, i : i + 1] * torch.eye(3).double()[i]) for i in range(3))
    torch.testing.assert_close(rotations.turns_to_matrix(turns), z @ y @ x)
    assert gradcheck(rotations.turns_to_matrix, turns[0].clone().requires_grad_())
    with pytest.raises(ValueError, match="turns"):
        rotations.turns_to_matrix(torch.zeros(2))
