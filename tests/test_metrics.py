import pytest
import torch

from lib import metrics
from lib.geometry.alignment import procrustes
from lib.geometry.rotations import axis_angle_to_matrix, random_rotations


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_iou_by_hand():
    pred = torch.tensor([[[0.9, 0.6], [0.4, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(metrics.iou(pred, target), torch.tensor([1 / 3, 1, 0]))
    torch.testing.assert_close(metrics.iou(pred, target, threshold=0.3), torch.tensor([2 / 3, 1, 0]))
    torch.testing.assert_close(metrics.soft_iou(pred, target), torch.tensor([1.3 / 2.6, 1, 0]))


def test_soft_iou_is_iou_on_binary_masks_and_lower_when_blurred():
    pred, target = (torch.rand(4, 8, 8, generator=generator(seed)) > 0.4 for seed in (0, 1))
    pred, target = pred.double(), target.double()
    torch.testing.assert_close(metrics.soft_iou(pred, target), metrics.iou(pred, target))
    torch.testing.assert_close(metrics.iou(target, pred), metrics.iou(pred, target))
    assert (metrics.soft_iou(0.6 * target, target) < metrics.iou(0.6 * target, target)).all()


def test_pck_is_averaged_per_keypoint():
    target = torch.zeros(3, 3, 2)
    pred = target.clone()
    pred[0, 0, 0] = 0.15  # the first keypoint: wrong in the small box, right in the large one
    pred[2, 0, 0] = 0.15
    pred[:, 2] = 9.0  # never visible
    visible = torch.tensor([[True, True, False], [True, False, False], [True, False, False]])
    size = torch.tensor([1.0, 1.0, 2.0])
    # Keypoint 0 is right in 2 of 3 images, keypoint 1 in its only one: (2/3 + 1) / 2, not 3 of 4.
    assert metrics.pck(pred, target, visible, 0.1, size).item() == pytest.approx(5 / 6)
    assert metrics.pck(pred, target, visible, 0.2, size).item() == 1


def test_pck_does_not_depend_on_the_unit_or_on_invisible_points():
    pred, target = cloud(20, 5, 2), cloud(20, 5, 2, seed=1)
    visible = torch.rand(20, 5, generator=generator()) > 0.5
    size = torch.rand(20, generator=generator(), dtype=torch.float64) + 5
    share = metrics.pck(pred, target, visible, 0.2, size)
    assert 0 < share < 1
    assert torch.equal(metrics.pck(10 * pred, 10 * target, visible, 0.2, 10 * size), share)
    moved = torch.where(visible[..., None], pred, 100.0)
    assert torch.equal(metrics.pck(moved, target, visible, 0.2, size), share)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 45.0, 179.999, 180.0])
def test_angles(degrees):
    axis = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    turn = axis_angle_to_matrix(axis * torch.deg2rad(torch.tensor(degrees, dtype=torch.float64)))
    start = random_rotations(1, generator=generator())[0].double()
    assert metrics.rotation_error(start @ turn, start).item() == pytest.approx(degrees, abs=1e-4)
    direction = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert metrics.angular_error(2 * turn @ direction, direction).item() == pytest.approx(degrees, abs=1e-9)


def test_surface_error_by_hand():
    target = torch.tensor([[[0.0, 0, 0], [4, 0, 0], [4, 3, 0]]])  # diameter 5
    pred = torch.tensor([[[0.0, 0, 1], [4, 0, 0]]])
    forth, back = 1 / 2, (1 + 0 + 3) / 3
    assert metrics.surface_error(pred, target).item() == pytest.approx(100 * (forth + back) / 2 / 5)
    assert metrics.surface_error(target, target).item() == 0


def test_alignment_removes_similarities_and_nothing_else():
    target = cloud(4, 40, 3)
    rotation = random_rotations(4, generator=generator()).double()
    moved = 0.3 * target @ rotation.mT + cloud(4, 1, 3, seed=1)
    assert metrics.aligned_surface_error(moved, target, moved, target).max() < 1e-5
    mirrored = moved * torch.tensor([1.0, 1, -1], dtype=torch.float64)
    assert metrics.aligned_surface_error(mirrored, target, mirrored, target).min() > 1
    landmarks = moved[:, :6], target[:, :6]
    assert metrics.aligned_surface_error(moved, target, *landmarks).max() < 1e-5


def test_alignment_is_the_best_similarity():
    pred, target = cloud(1, 30, 3), cloud(1, 30, 3, seed=1) + 2 * cloud(1, 30, 3)
    rotation, shift, scale = procrustes(pred, target, with_scale=True)
    aligned = scale[:, None, None] * pred @ rotation.mT + shift[:, None]
    torch.testing.assert_close(
        metrics.aligned_surface_error(pred, target, pred, target), metrics.surface_error(aligned, target)
    )


M, P, V = torch.zeros(2, 4, 4), torch.zeros(2, 5, 2), torch.ones(2, 5, dtype=torch.bool)
S, C = torch.ones(2), torch.zeros(2, 6, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.iou(M, M[:1]), "target must have the shape of pred"),
        (lambda: metrics.iou(M[0], M[0]), "pred must have shape"),
        (lambda: metrics.iou(M > 0, M), "pred must have a float dtype"),
        (lambda: metrics.soft_iou(M / 0, M), "pred has NaN"),
        (lambda: metrics.pck(P, P, V.float(), 0.1, S), "visible must have a bool dtype"),
        (lambda: metrics.pck(P, P, ~V, 0.1, S), "visible has no keypoint"),
        (lambda: metrics.pck(P, P, V, 0.0, S), "alpha and size must be above 0"),
        (lambda: metrics.pck(P, P, V, 0.1, 0 * S), "alpha and size must be above 0"),
        (lambda: metrics.pck(P, P, V, 0.1, S[:1]), "size must have shape"),
        (lambda: metrics.angular_error(C, C + 1), "pred has vectors of length zero"),
        (lambda: metrics.surface_error(C, C), "target must have an extent"),
        (lambda: metrics.aligned_surface_error(C, C, C, C), "pred_landmarks must not coincide"),
        (lambda: metrics.aligned_surface_error(C, C, C[:, :2], C[:, :2]), "landmarks must be at least three"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_standard_error_3d_is_the_spread_over_the_views_of_an_object():
    place = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    step = torch.tensor([0.0, 0.3, 0.4])
    points = torch.stack([place + step, place - step, place + 5])  # the last is the only view of another object
    group = torch.tensor([0, 0, 1])
    assert metrics.standard_error_3d(points, group).item() == pytest.approx(0.5)
    assert metrics.standard_error_3d(points, group, size=0.5).item() == pytest.approx(1.0)
    same = metrics.standard_error_3d(points + torch.randn(1, 2, 3), group)
    assert same.item() == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(ValueError, match="group has no object with two views"):
        metrics.standard_error_3d(points, torch.arange(3))
    with pytest.raises(ValueError, match="size must be above 0"):
        metrics.standard_error_3d(points, group, size=0)


def test_keypoint_spread_tells_places_from_mixtures():
    generator = torch.Generator().manual_seed(0)
    place = torch.randn(1, 8, 3, generator=generator)
    noise = torch.randn(400, 8, 3, generator=generator)
    assert metrics.keypoint_spread(place.expand(400, -1, -1)) < 1e-5
    assert metrics.keypoint_spread(noise).item() == pytest.approx(1, abs=0.02)
    assert metrics.keypoint_spread(place + 0.2 * noise) < metrics.keypoint_spread(place + 0.5 * noise) < 0.8
    moved = metrics.keypoint_spread(place + 0.2 * noise + 7)
    assert moved.item() == pytest.approx(metrics.keypoint_spread(place + 0.2 * noise).item(), abs=1e-4)
