"""What the renderer shows: known areas, planes, mirrors, motions; defined results and one-line errors at the edges."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys

import pytest
import torch

from lib import rendering
from lib.geometry.mesh import icosphere
from lib.geometry.rotations import axis_angle_to_matrix

PYTORCH3D = pytest.param(
    "pytorch3d",
    marks=pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="PyTorch3D is not installed"),
)
BACKENDS = ["reference", "kernels", PYTORCH3D]


def disc(radius: float, count: int = 96, center: tuple[float, float] = (0.0, 0.0)) -> tuple[torch.Tensor, torch.Tensor]:
    """A flat disc of `count` triangles at depth 0, and its exact area."""
    angle = torch.arange(count) * (2 * math.pi / count)
    rim = torch.stack([radius * angle.cos() + center[0], radius * angle.sin() + center[1], 0 * angle], -1)
    verts = torch.cat([torch.tensor([[*center, 0.0]]), rim])
    index = torch.arange(count)
    return verts[None], torch.stack([0 * index, index + 1, (index + 1) % count + 1], -1)


def quad(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two triangles over the whole image; z: the depths of its upper left, upper right, lower right, lower left."""
    xy = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=z.dtype)
    return torch.cat([xy, z[:, None]], -1)[None], torch.tensor([[0, 2, 1], [0, 3, 2]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_disc_has_its_area(backend: str) -> None:
    radius = 0.6
    verts, faces = disc(radius, center=(0.013, 0.021))  # no pixel's centre on an edge: PyTorch3D would leave it out
    expected = 48 * math.sin(2 * math.pi / 96) * radius**2
    hard = rendering.silhouette(verts, faces, 128, gradient="nmr", backend=backend)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert hard.mean().item() * 4 == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_soft_triangle_keeps_its_area_and_slivers_turn_grey(backend: str) -> None:
    verts = torch.tensor([[[-0.7, -0.6, 0.0], [0.8, -0.5, 0.0], [0.1, 0.7, 0.0]]])
    soft = rendering.silhouette(verts, torch.tensor([[0, 2, 1]]), 128, sigma=1e-4, backend=backend)
    assert soft.mean().item() * 4 == pytest.approx(0.935, rel=2e-3)
    # Where faces are thinner than the blur, no pixel is deep inside any: the product stays below 1 there.
    verts, faces = disc(0.6)
    center = rendering.silhouette(verts, faces, 127, sigma=1e-4, backend=backend)[0, 30:97, 63].min()
    assert 0.7 < center < 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_lie_where_the_convention_says(backend: str) -> None:
    height, width = 6, 10
    for row, column in [(0, 0), (1, 7), (5, 9), (3, 2)]:
        x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
        corners = torch.tensor([[x - 0.06, y - 0.1, 0.0], [x + 0.06, y - 0.1, 0.0], [x, y + 0.1, 0.0]])
        fragments = rendering.rasterize(corners[None], torch.tensor([[0, 2, 1]]), (height, width), backend=backend)
        assert fragments.mask[0].nonzero().tolist() == [[row, column]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearer_face_wins_whatever_its_index(backend: str) -> None:
    near, faces = quad(torch.full((4,), -0.5))
    far, _ = quad(torch.full((4,), 0.5))
    verts = torch.cat([far, near], 1)
    for first, second, expected in [(faces, faces + 4, {2, 3}), (faces + 4, faces, {0, 1})]:
        fragments = rendering.rasterize(verts, torch.cat([first, second]), 9, backend=backend)
        assert set(fragments.face.unique().tolist()) - {-1} == expected
        assert torch.allclose(fragments.depth[fragments.mask], torch.tensor(-0.5))


@pytest.mark.parametrize("backend", ["reference", "kernels"])
def test_pixels_on_a_shared_edge_belong_to_the_first_face(backend: str) -> None:
    verts, faces = quad(torch.zeros(4))
    fragments = rendering.rasterize(verts, faces, 8, backend=backend)
    assert fragments.mask.all()
    assert (fragments.face[0].diagonal() == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_depth_of_an_orthographic_plane(backend: str) -> None:
    verts, faces = quad(torch.tensor([0.1, 0.5, 0.3, -0.1]))  # z = 0.2 + 0.2 x − 0.1 y
    depth = rendering.depth(verts, faces, (7, 11), backend=backend)[0]
    y, x = torch.meshgrid(torch.arange(7) * 2 / 7 - 6 / 7, torch.arange(11) * 2 / 11 - 10 / 11, indexing="ij")
    covered = depth.isfinite()
    assert covered.sum() >= 70
    assert torch.allclose(depth[covered], (0.2 + 0.2 * x - 0.1 * y)[covered], atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_depth_of_a_plane_in_perspective_is_where_its_rays_meet_it(backend: str) -> None:
    # The plane Z = 3 + 0.5 X − 0.25 Y seen with focal length 1: on the ray (x, y, 1), Z = 3 / (1 − 0.5 x + 0.25 y).
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    z = 3 / (1 - 0.5 * corners[:, 0] + 0.25 * corners[:, 1])
    verts, faces = quad(z)
    fragments = rendering.rasterize(verts, faces, 10, perspective=True, backend=backend)
    at = torch.arange(10) / 5 - 0.9
    expected = 3 / (1 - 0.5 * at[None] + 0.25 * at[:, None])
    covered = fragments.mask[0]
    assert covered.sum() >= 90
    assert torch.allclose(fragments.depth[0][covered], expected[covered], rtol=1e-5)
    # The points' true X and Y, interpolated, project to the pixel's centre.
    space = torch.cat([verts[..., :2] * verts[..., 2:], verts[..., 2:]], -1)
    point = rendering.interpolate(space, faces, fragments)[0]
    assert torch.allclose((point[0] / point[2])[covered], at.expand(10, 10)[covered], atol=1e-5)
    assert torch.allclose((point[1] / point[2])[covered], at[:, None].expand(10, 10)[covered], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mirrored_mesh_gives_the_mirrored_picture(backend: str) -> None:
    torch.manual_seed(0)
    sphere = icosphere(2)
    verts = sphere.verts[None] * torch.tensor([0.5, 0.7, 0.4]) + 0.02 * torch.randn(1, len(sphere.verts), 3)
    verts = verts @ axis_angle_to_matrix(torch.tensor([0.3, 0.5, 0.2])).T + torch.tensor([0.2, -0.1, 0.0])
    mirrored, flipped = verts * torch.tensor([-1.0, 1.0, 1.0]), sphere.faces.flip(1)
    for draw in (
        lambda v, f: rendering.silhouette(v, f, 32, backend=backend),
        lambda v, f: rendering.depth(v, f, 32, backend=backend),
        lambda v, f: rendering.shade(v, f, verts.abs(), 32, light=torch.tensor([0.0, -1.0, -1.0]), backend=backend),
    ):
        assert torch.allclose(draw(mirrored, flipped), draw(verts, sphere.faces).flip(-1), atol=2e-5)


def turning_ball(perspective: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ball before and after a small turn and step, its faces, and colours smooth over its surface."""
    ball = icosphere(4)
    turn = axis_angle_to_matrix(torch.tensor([0.1, 0.2, -0.15]))
    before = ball.verts * 0.6
    after = before @ turn.T + torch.tensor([0.05, -0.08, 0.02])
    colors = 0.5 + 0.3 * torch.sin(3 * ball.verts)
    frames = torch.stack([before, after])
    if perspective:
        frames = frames + torch.tensor([0.0, 0.0, 3.0])
        frames = torch.cat([3 * frames[..., :2] / frames[..., 2:], frames[..., 2:]], -1)
    return frames[:1], frames[1:], ball.faces, colors[None]


@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_true_flow_carries_the_second_frame_onto_the_first(backend: str, perspective: bool) -> None:
    verts0, verts1, faces, colors = turning_ball(perspective)
    flow, mask = rendering.flow(verts0, verts1, faces, 64, perspective, backend=backend)

    def picture(verts: torch.Tensor) -> torch.Tensor:
        options = dict(ambient=1.0, background=0.0, perspective=perspective, backend=backend)
        return rendering.shade(verts, faces, colors, 64, normals=verts, **options)

    def warp(image: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        at = torch.arange(64) / 32 - 1 + 1 / 64
        identity = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
        return torch.nn.functional.grid_sample(image, identity + motion.permute(0, 2, 3, 1), align_corners=False)

    seen = mask & (warp((picture(verts1) > 0).float(), flow).amin(1) > 0.999)
    # What turned away behind the ball's edge is not in the second frame.
    depth1 = rendering.depth(verts1, faces, 64, perspective, backend=backend)
    arriving = rendering.interpolate(verts1[..., 2:], faces, rendering.rasterize(verts0, faces, 64, perspective))
    there = warp(depth1.nan_to_num(posinf=9.0)[:, None], flow)
    seen &= ((arriving - there).abs() < 0.02)[:, 0]
    error = (warp(picture(verts1), flow) - picture(verts0)).abs().amax(1)
    still = (picture(verts1) - picture(verts0)).abs().amax(1)
    wrong = (warp(picture(verts1), -flow) - picture(verts0)).abs().amax(1)
    assert seen.float().mean() > 0.2
    assert error[seen].max() < 0.03
    assert still[seen].mean() > 10 * error[seen].mean()
    assert wrong[seen].mean() > 20 * error[seen].mean()
    assert not flow[~mask[:, None].expand_as(flow)].any()


@pytest.mark.parametrize("backend", ["reference", "kernels"])
def test_visible_vertices_of_a_ball_are_those_that_face_us(backend: str) -> None:
    ball = icosphere(3)
    verts = (0.7 * ball.verts)[None]
    visible = rendering.visible_vertices(verts, ball.faces, 32, backend=backend)[0]
    assert visible[ball.verts[:, 2] < -0.1].all()
    assert not visible[ball.verts[:, 2] > 0.1].any()
    moved = verts + torch.tensor([0.9, 0.0, 0.0])
    visible = rendering.visible_vertices(moved, ball.faces, 32, backend=backend)[0]
    assert not visible[moved[0, :, 0] > 1].any()
    assert visible[(moved[0, :, 0] < 1) & (ball.verts[:, 2] < -0.1)].all()


@pytest.mark.parametrize("backend", ["reference", "kernels"])
def test_a_near_ball_hides_the_vertices_behind_it(backend: str) -> None:
    ball = icosphere(3)
    near, far = 0.4 * ball.verts - torch.tensor([0.0, 0.0, 2.0]), 0.8 * ball.verts
    faces = torch.cat([ball.faces, ball.faces + len(near)])
    visible = rendering.visible_vertices(torch.cat([near, far])[None], faces, 32, backend=backend)[0, len(near) :]
    front, behind = far[:, 2] < -0.1, far[:, :2].norm(dim=-1) < 0.39
    assert not visible[front & behind].any()
    assert visible[front & (far[:, :2].norm(dim=-1) > 0.4)].all()


def test_vertices_doubled_along_a_seam_do_not_hide_each_other() -> None:
    verts, faces = quad(torch.tensor([0.0, 0.3, 0.3, 0.0]))
    verts, faces = torch.cat([verts, verts], 1) * 0.9, torch.stack([faces[0], faces[1] + 4])
    assert rendering.visible_vertices(verts, faces, 16)[0, [0, 1, 2, 4, 6, 7]].all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gradient", ["soft", "nmr"])
def test_an_object_outside_the_image_gives_an_empty_mask_and_zero_gradient(backend: str, gradient: str) -> None:
    verts = (0.5 * icosphere(1).verts + torch.tensor([4.0, 0.0, 0.0]))[None].requires_grad_()
    mask = rendering.silhouette(verts, icosphere(1).faces, 16, gradient=gradient, backend=backend)
    assert not mask.any()
    mask.sum().backward()
    assert verts.grad is not None and not verts.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_faces_no_images_flat_triangles(backend: str) -> None:
    verts, faces = disc(0.5)
    none = faces[:0]
    assert not rendering.silhouette(verts, none, 8, backend=backend).any()
    assert not rendering.rasterize(verts, none, 8, backend=backend).mask.any()
    assert rendering.depth(verts, none, 8, backend=backend).isinf().all()
    assert (rendering.shade(verts, none, verts, 8, background=0.25, backend=backend) == 0.25).all()
    assert rendering.silhouette(verts[:0], faces, (5, 7), backend=backend).shape == (0, 5, 7)
    assert rendering.visible_vertices(verts, none, 8, backend=backend).all()
    line = torch.tensor([[[-0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]], requires_grad=True)
    fragments = rendering.rasterize(line, torch.tensor([[0, 1, 2]]), 9, backend=backend)
    assert not fragments.mask.any()
    rendering.silhouette(line, torch.tensor([[0, 1, 2]]), 9, backend=backend).sum().backward()
    assert line.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_texture_on_a_quad_is_reproduced(backend: str) -> None:
    texture = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    verts, faces = quad(torch.zeros(4))
    verts = verts * torch.tensor([1.001, 1.001, 1.0])  # so that no pixel's centre lies on the diagonal
    verts[..., 0] += 1e-4
    uvs = torch.stack([(verts[0, :, 0] + 1) / 2, (1 - verts[0, :, 1]) / 2], -1)
    fragments = rendering.rasterize(verts, faces, (12, 16), backend=backend)
    assert torch.allclose(rendering.texture_sample(uvs, texture, faces, fragments)[0], texture, atol=1e-4)
    lit = rendering.shade(verts, faces, texture, (12, 16), uvs=uvs, ambient=1.0, backend=backend)
    assert torch.allclose(lit[0], texture, atol=1e-4)


def test_shading_follows_lamberts_law() -> None:
    ball = icosphere(4)
    verts = (0.8 * ball.verts)[None]
    light = torch.tensor([0.6, 0.0, -0.8])
    image = rendering.shade(
        verts, ball.faces, torch.ones_like(verts), 64, light=5 * light, ambient=0.2, background=torch.zeros(3)
    )
    at = torch.arange(64) / 32 - 1 + 1 / 64
    normal = torch.stack(torch.meshgrid(at, at, indexing="xy")) / 0.8
    radius = normal.square().sum(0)
    normal = torch.cat([normal, -(1 - radius).clamp(min=0).sqrt()[None]])
    expected = 0.2 + 0.8 * (normal * light[:, None, None]).sum(0).clamp(min=0)
    inner = radius < 0.9
    assert (image[0, 0] - expected)[inner].abs().max() < 0.02
    assert not image[0, :, radius > 1.05].any()


def test_by_default_the_light_comes_from_the_upper_left() -> None:
    verts = (0.9 * icosphere(3).verts)[None]
    image = rendering.shade(verts, icosphere(3).faces, torch.ones_like(verts), 32)[0, 0]
    assert image[10, 10] > image[10, 21] > image[21, 21]
    assert image.min() > 0.449 and image[0, 0] == 1


def test_background_may_be_an_image() -> None:
    verts, faces = disc(0.5)
    background = torch.rand(2, 3, 16, 16)
    image = rendering.shade(verts.expand(2, -1, -1), faces, torch.zeros(97, 3), 16, background=background)
    mask = rendering.rasterize(verts, faces, 16).mask[0]
    assert torch.equal(image[:, :, ~mask], background[:, :, ~mask])
    assert not image[:, :, mask].any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    ball = icosphere(3)
    verts = 0.7 * ball.verts[None] + 0.02 * torch.randn(3, 642, 3)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            points = verts.clone().requires_grad_()
            mask = rendering.silhouette(points, ball.faces, 33)
            fragments = rendering.rasterize(points, ball.faces, 33)
            (mask.square().sum() + fragments.barycentrics.square().sum()).backward()
            results.append((mask.detach(), fragments.face, fragments.depth.detach(), points.grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


VERTS, FACES = disc(0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rendering.rasterize(VERTS[0], FACES, 8), ValueError, r"verts must have shape .*verts\[None\]"),
        (lambda: rendering.rasterize(VERTS[..., :2], FACES, 8), ValueError, "verts must have shape"),
        (lambda: rendering.rasterize(VERTS.long(), FACES, 8), TypeError, "verts must have a float dtype"),
        (lambda: rendering.rasterize(VERTS.half(), FACES, 8), TypeError, r"verts must be float32 or float64.*\.float"),
        (lambda: rendering.rasterize(VERTS / 0, FACES, 8), ValueError, "verts has NaN or infinite entries"),
        (
            lambda: rendering.rasterize(VERTS, FACES + 90, 8),
            ValueError,
            "faces point to vertex 186, but verts has 0 … 96",
        ),
        (lambda: rendering.rasterize(VERTS, FACES - 1, 8), ValueError, "faces point to vertex -1"),
        (lambda: rendering.rasterize(VERTS, FACES[:, :2], 8), ValueError, "faces must have shape"),
        (lambda: rendering.rasterize(VERTS, FACES.float(), 8), TypeError, "faces must have an integer dtype"),
        (lambda: rendering.rasterize(VERTS, FACES, 0), ValueError, "image_size must be"),
        (lambda: rendering.rasterize(VERTS, FACES, (4, 5, 6)), ValueError, "image_size must be"),
        (lambda: rendering.rasterize(VERTS, FACES, 8, perspective=True), ValueError, "behind the camera"),
        (lambda: rendering.rasterize(VERTS, FACES, 8, backend="opengl"), ValueError, "backend='opengl' is unknown"),
        (lambda: rendering.silhouette(VERTS, FACES, 8, sigma=0.0), ValueError, "sigma must be positive"),
        (lambda: rendering.silhouette(VERTS, FACES, 8, gradient="hard"), ValueError, "gradient must be"),
        (lambda: rendering.shade(VERTS, FACES, VERTS, 8, gradient="soft"), ValueError, "gradient must be"),
        (lambda: rendering.shade(VERTS, FACES, VERTS[:, :5], 8), ValueError, "vertex 96, but attributes has 0 … 4"),
        (lambda: rendering.shade(VERTS, FACES, VERTS, 8, uvs=VERTS[0]), ValueError, r"uvs must have shape \(V, 2\)"),
        (
            lambda: rendering.shade(VERTS, FACES, VERTS[0], 8, uvs=VERTS[0, :, :2]),
            ValueError,
            "texture must have shape",
        ),
        (lambda: rendering.flow(VERTS, VERTS[:, 1:], FACES, 8), ValueError, "verts1 must have the shape of verts0"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_importing_is_light_and_rendering_is_silent() -> None:
    code = """
import sys, torch
from lib import rendering
assert not {"warp", "pytorch3d"} & set(sys.modules), "heavy imports"
verts = torch.tensor([[[-.5, -.5, 0.], [.5, -.5, 0.], [0., .5, 0.]]])
assert rendering.silhouette(verts, torch.tensor([[0, 2, 1]]), 8).sum() > 5
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_textures_repeat_beyond_their_borders():
    """Each tile looks as the first; what rounding alone carries over the border does not wrap around."""
    verts = torch.tensor([[[-1.0, 1, 1], [1, 1, 1], [1, -1, 1], [-1, -1, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    corners = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    texture = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    one = rendering.texture_sample(corners, texture, faces, rendering.rasterize(verts, faces, 16))
    fragments = rendering.rasterize(verts, faces, 48)
    for shift in (0, -1, 5):
        tiled = rendering.texture_sample(3 * corners + shift, texture, faces, fragments)
        torch.testing.assert_close(tiled, one.repeat(1, 1, 3, 3), atol=1e-4, rtol=0)
    border = torch.tensor([[1 + 1e-6, 0.0]] * 4, requires_grad=True)
    kept = rendering.texture_sample(border, texture, faces, fragments)
    torch.testing.assert_close(kept, texture[None, :, -1:, -1:].expand_as(kept))
    inside = (3 * corners + 0.1).requires_grad_()
    rendering.texture_sample(inside, texture, faces, fragments)[..., 20, 20].sum().backward()
    assert inside.grad.abs().sum() > 0
