import math
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.geometry import nearest, pointsets
from lib.geometry.pointsets import (
    chamfer_distance,
    exact_emd,
    f_score,
    hausdorff_distance,
    knn_points,
    sample_surface,
    sinkhorn_distance,
)

NO_PYTORCH3D = "PyTorch3D is not installed: its results are not compared"
DISTANCES = {
    "chamfer": chamfer_distance,
    "hausdorff": hausdorff_distance,
    "sinkhorn": lambda x, y, *lengths: sinkhorn_distance(x, y, 0.5, *lengths, tolerance=1e-9),
    "f_score": lambda x, y, *lengths: f_score(x, y, 0.5, *lengths),
}
few = settings(max_examples=15, deadline=None, derandomize=True)


def cloud(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, :, None] - y[:, None]).square().sum(-1)


def random_rotation(seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(cloud(3, 3, seed=seed))
    return q * torch.linalg.det(q)


@pytest.fixture(params=["brute force", "tree", "grid"])
def method(request, monkeypatch):
    monkeypatch.setattr(pointsets, "TREE_PAIRS", math.inf if request.param == "brute force" else 0)
    monkeypatch.setattr(pointsets, "GRID_PAIRS", 0 if request.param == "grid" else math.inf)
    return request.param


# --- sample_surface

SQUARE = torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0], [0, 0, 5]])
SQUARE_FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 4, 4]])  # the last one has no area


def test_samples_are_uniform_on_the_surface():
    points, normals = sample_surface(SQUARE, SQUARE_FACES, 40_000, torch.Generator().manual_seed(0), True)
    assert points.shape == normals.shape == (40_000, 3)
    assert torch.equal(normals, torch.tensor([0.0, 0, 1]).expand(40_000, 3))
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=(6, 2), range=((0, 3), (0, 1)))[0]
    assert abs(counts / 40_000 * 12 - 1).max() < 0.08  # five standard deviations


def test_samples_depend_on_the_generator_only():
    first, again = (sample_surface(SQUARE, SQUARE_FACES, 9, torch.Generator().manual_seed(5)) for _ in range(2))
    other = sample_surface(SQUARE, SQUARE_FACES, 9, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_samples_of_a_batch_lie_on_their_own_mesh():
    verts = torch.stack([SQUARE, SQUARE + torch.tensor([0.0, 0, 2])])
    points, normals = sample_surface(verts, SQUARE_FACES, 50, return_normals=True)
    assert points.shape == normals.shape == (2, 50, 3)
    torch.testing.assert_close(points[..., 2], torch.tensor([[0.0], [2.0]]).expand(2, 50))
    assert not torch.equal(points[0, :, :2], points[1, :, :2])


def test_sampling_gradient():
    def sample(verts):
        return sample_surface(verts, faces, 6, torch.Generator().manual_seed(0), return_normals=True)

    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2]])
    # A step of finite differences moves the areas, but by too little for the draw of these six points to jump.
    assert torch.autograd.gradcheck(sample, cloud(2, 4, 3).requires_grad_())


# --- knn_points


@pytest.mark.parametrize("k", [1, 4, 9])
def test_neighbors_are_those_of_all_pairs(method, k):
    x, y = cloud(2, 40, 3), cloud(2, 30, 3, seed=1)
    dists, idx = knn_points(x, y, k=k)
    expected, order = brute(x, y).sort(-1)
    torch.testing.assert_close(dists, expected[..., :k])
    assert torch.equal(idx, order[..., :k])


def test_neighbors_respect_lengths_and_pad_with_zeros(method):
    x, y = cloud(3, 8, 3), cloud(3, 6, 3, seed=1)
    lengths1, lengths2 = torch.tensor([8, 3, 1]), torch.tensor([2, 6, 1])
    dists, idx = knn_points(x, y, lengths1, lengths2, k=3)
    for b, (n, m) in enumerate(zip(lengths1.tolist(), lengths2.tolist(), strict=True)):
        k = min(m, 3)
        expected, order = brute(x[b : b + 1, :n], y[b : b + 1, :m])[0].sort(-1)
        torch.testing.assert_close(dists[b, :n, :k], expected[:, :k])
        assert torch.equal(idx[b, :n, :k], order[:, :k])
        assert not dists[b, n:].any() and not idx[b, n:].any() and not dists[b, :, k:].any() and not idx[b, :, k:].any()


def test_more_neighbors_than_points(method):
    dists, idx = knn_points(cloud(1, 5, 3), cloud(1, 2, 3, seed=1), k=4)
    assert dists.shape == idx.shape == (1, 5, 4) and dists[..., :2].all() and not dists[..., 2:].any()


def test_neighbors_gradient(method):
    x, y = cloud(2, 5, 3).requires_grad_(), cloud(2, 7, 3, seed=1).requires_grad_()
    lengths1, lengths2 = torch.tensor([5, 2]), torch.tensor([3, 7])
    assert torch.autograd.gradcheck(lambda x, y: knn_points(x, y, lengths1, lengths2, k=4).dists, (x, y))


def test_methods_agree_on_large_clouds(monkeypatch):
    surface = torch.nn.functional.normalize(cloud(2, 2100, 3, dtype=torch.float32), dim=-1)
    x, y = surface[:1], surface[1:] * torch.tensor([1.0, 0.3, 2.0])
    assert x.shape[1] * y.shape[1] > pointsets.GRID_PAIRS
    on_grid, tree = knn_points(x, y), knn_points(x, y, k=3)
    monkeypatch.setattr(pointsets, "TREE_PAIRS", math.inf)
    monkeypatch.setattr(pointsets, "CHUNK_PAIRS", 300_000)
    pieces = knn_points(x, y, k=3)
    assert torch.equal(tree.idx, pieces.idx) and torch.equal(tree.dists, pieces.dists)
    assert torch.equal(on_grid.idx, pieces.idx[..., :1]) and torch.equal(on_grid.dists, pieces.dists[..., :1])


def few_places(*shape: int, **options) -> torch.Tensor:
    return cloud(*shape, **options).round()


def clusters(*shape: int, **options) -> torch.Tensor:
    points = 1e-2 * cloud(*shape, **options)
    points[::3] += 1
    points[1::7, 0] -= 2
    return points


def outlier(*shape: int, **options) -> torch.Tensor:
    points = cloud(*shape, **options)
    points[-1] = 1e5
    return points


CLOUDS = {
    "ball": cloud,
    "sphere": lambda *shape, **options: torch.nn.functional.normalize(cloud(*shape, **options), dim=-1),
    "plane": lambda *shape, **options: cloud(*shape, **options) * torch.eye(shape[-1])[0].logical_not(),
    "line": lambda *shape, **options: cloud(*shape, **options)[:, :1] * torch.arange(1.0, shape[-1] + 1),
    "point": lambda *shape, **options: torch.full(shape, 0.3, dtype=torch.float64),
    "few places": few_places,
    "clusters": clusters,
    "outlier": outlier,
    "heavy tails": lambda *shape, **options: cloud(*shape, **options) ** 5,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CLOUDS)
@given(
    other=st.sampled_from(sorted(CLOUDS)),
    sizes=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    dimension=st.integers(2, 3),
    apart=st.sampled_from([0.0, 0.5, 30.0]),
    origin=st.sampled_from([0.0, 1e3]),
    scale=st.sampled_from([1.0, 1e-4, 1e6]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_grid_finds_the_nearest_in_any_cloud(kind, dtype, other, sizes, dimension, apart, origin, scale, seed):
    x = CLOUDS[other](sizes[0], dimension, seed=seed) * scale
    y = CLOUDS[kind](sizes[1], dimension, seed=seed + 1) * scale
    x[:, -1] += apart * scale
    x, y = (x + origin).to(dtype), (y + origin).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "SPARE", 1 << 40)  # it answers even where a tree would be faster
        idx = nearest.nearest_on_grid(x, y)
    every = brute(x[None].double(), y[None].double())[0]
    found = every.gather(1, idx[:, None])[:, 0]
    assert (found <= every.amin(1) * (1 + 8 * torch.finfo(dtype).eps)).all()


@pytest.mark.parametrize("kind", ["point", "clusters", "outlier"])
def test_where_the_points_crowd_the_tree_answers(kind, monkeypatch):
    x, y = cloud(2500, 3) + 0.5, CLOUDS[kind](2500, 3, seed=1)
    assert nearest.nearest_on_grid(x, y) is None
    crowded = knn_points(x[None], y[None]).dists
    torch.testing.assert_close(crowded[0, :, 0], brute(x[None], y[None])[0].amin(-1))


def test_heaps_of_equal_points():
    x, y = cloud(1, 2500, 3), cloud(1, 2500, 3, seed=1)
    y[:, 100:] = y[:, :1]
    for k in (1, 3):
        dists, idx = knn_points(x, y, k=k)
        torch.testing.assert_close(dists, brute(x, y).topk(k, largest=False).values)
        torch.testing.assert_close(dists, brute(x, y).gather(2, idx))
        assert (idx.sort(-1).values.diff(dim=-1) > 0).all()


def test_grid_gives_the_same_for_any_number_of_threads():
    x, y = cloud(3000, 3), cloud(3000, 3, seed=1).round(decimals=1)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(nearest.nearest_on_grid(x, y))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_what_stands_far_away_in_the_padding_is_not_searched(method):
    x, y = cloud(2, 300, 3), cloud(2, 200, 3, seed=1)
    expected = knn_points(x[:, :290], y[:, :150])
    x[:, 290:], y[:, 150:] = 1e30, -1e30
    padded = knn_points(x, y, torch.full((2,), 290), torch.full((2,), 150))
    assert torch.equal(padded.dists[:, :290], expected.dists) and torch.equal(padded.idx[:, :290], expected.idx)
    assert not padded.dists[:, 290:].any()


def test_small_clouds_do_not_start_warp():
    code = """if True:
        import sys, torch
        from lib.geometry.pointsets import chamfer_distance
        chamfer_distance(*torch.rand(2, 1, 1000, 3))
        assert "warp" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_distances_keep_their_digits_far_from_the_origin(method):
    x = cloud(1, 50, 3, dtype=torch.float32) * 1e-3
    assert (knn_points(x + 10, x + 10).dists == 0).all()


def test_neighbors_in_many_dimensions():
    x, y = cloud(1, 1600, 20), cloud(1, 1600, 20, seed=1)
    torch.testing.assert_close(knn_points(x, y).dists[..., 0], torch.cdist(x, y).square().amin(-1))


def test_neighbors_agree_with_pytorch3d(method):
    ops = pytest.importorskip("pytorch3d.ops", reason=NO_PYTORCH3D)
    x, y = cloud(3, 50, 3, dtype=torch.float32), cloud(3, 40, 3, seed=1, dtype=torch.float32)
    lengths1, lengths2 = torch.tensor([50, 7, 21]), torch.tensor([40, 2, 13])
    theirs = ops.knn_points(x, y, lengths1, lengths2, K=5)
    ours = knn_points(x, y, lengths1, lengths2, k=5)
    torch.testing.assert_close(ours.dists, theirs.dists)
    assert torch.equal(ours.idx, theirs.idx)


# --- distances between clouds


def test_chamfer_by_hand():
    x, y = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]]), torch.tensor([[[0.0, 0, 2], [1, 0, 0], [5, 0, 0]]])
    assert chamfer_distance(x, y) == pytest.approx((1 + 0) / 2 + (4 + 0 + 16) / 3)
    assert chamfer_distance(x, y, point_reduction="sum") == pytest.approx(1 + 20)
    assert chamfer_distance(x, y, single_directional=True) == pytest.approx(0.5)
    assert hausdorff_distance(x, y) == pytest.approx(4)
    assert hausdorff_distance(x, y, single_directional=True) == pytest.approx(1)


def test_chamfer_reductions():
    x, y = cloud(3, 8, 3), cloud(3, 6, 3, seed=1)
    each = chamfer_distance(x, y, batch_reduction=None)
    assert each.shape == (3,)
    torch.testing.assert_close(chamfer_distance(x, y), each.mean())
    torch.testing.assert_close(chamfer_distance(x, y, batch_reduction="sum"), each.sum())


def test_f_score_by_hand():
    pred, target = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]]), torch.tensor([[[0.0, 0, 0.1], [9, 0, 0], [8, 0, 0]]])
    precision, recall = 1 / 2, 1 / 3
    assert f_score(pred, target, 0.2) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f_score(pred, target, 0.05) == 0
    assert f_score(pred, pred, 1e-6) == 1


@pytest.mark.parametrize("name", DISTANCES)
def test_padding_changes_nothing(name, method):
    distance = DISTANCES[name]
    x, y = cloud(3, 8, 3), cloud(3, 6, 3, seed=1)
    lengths = torch.tensor([8, 3, 1]), torch.tensor([2, 6, 1])
    padded = distance(x, y, *lengths)
    sizes = zip(*(length.tolist() for length in lengths), strict=True)
    alone = torch.stack([distance(x[b : b + 1, :n], y[b : b + 1, :m]) for b, (n, m) in enumerate(sizes)])
    torch.testing.assert_close(padded, alone.mean() if name == "chamfer" else alone[:, 0])


@pytest.mark.parametrize("name", DISTANCES)
@given(seed=st.integers(0, 1000))
@few
def test_order_and_rigid_motion_change_nothing(name, seed):
    distance = DISTANCES[name]
    x, y = cloud(2, 9, 3, seed=seed), cloud(2, 7, 3, seed=seed + 1)
    expected = distance(x, y)
    generator = torch.Generator().manual_seed(seed)
    shuffled = x[:, torch.randperm(9, generator=generator)], y[:, torch.randperm(7, generator=generator)]
    torch.testing.assert_close(distance(*shuffled), expected)
    rotation, shift = random_rotation(seed), cloud(3, seed=seed)
    torch.testing.assert_close(distance(x @ rotation.T + shift, y @ rotation.T + shift), expected)
    torch.testing.assert_close(distance(y, x), expected)


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_units(scale):
    x, y = cloud(1, 9, 3), cloud(1, 9, 3, seed=1)
    torch.testing.assert_close(chamfer_distance(scale * x, scale * y), scale**2 * chamfer_distance(x, y))
    torch.testing.assert_close(hausdorff_distance(scale * x, scale * y), scale * hausdorff_distance(x, y))
    for p in (1, 2):
        torch.testing.assert_close(exact_emd(scale * x, scale * y, p), scale**p * exact_emd(x, y, p))
        torch.testing.assert_close(
            sinkhorn_distance(scale * x, scale * y, 0.1 * scale**p, p=p), scale**p * sinkhorn_distance(x, y, 0.1, p=p)
        )


@pytest.mark.parametrize("name", ["chamfer", "hausdorff"])
def test_gradients_with_lengths(name, method):
    x, y = cloud(2, 5, 3).requires_grad_(), cloud(2, 4, 3, seed=1).requires_grad_()
    lengths = torch.tensor([5, 2]), torch.tensor([3, 4])
    assert torch.autograd.gradcheck(lambda x, y: DISTANCES[name](x, y, *lengths), (x, y))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("debiased", [True, False])
def test_sinkhorn_gradient(p, debiased):
    x, y = cloud(2, 5, 3).requires_grad_(), cloud(2, 4, 3, seed=1).requires_grad_()
    lengths = torch.tensor([5, 2]), torch.tensor([3, 4])

    def distance(x, y):
        return sinkhorn_distance(x, y, 2.0, *lengths, p=p, debiased=debiased, tolerance=1e-10)

    assert torch.autograd.gradcheck(distance, (x, y), atol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_emd_gradient(p):
    x, y = cloud(2, 5, 3).requires_grad_(), cloud(2, 5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: exact_emd(x, y, p), (x, y))


@pytest.mark.parametrize("distance", [hausdorff_distance, exact_emd, lambda x, y: sinkhorn_distance(x, y, 0.1, p=1)])
def test_gradient_is_zero_not_nan_where_clouds_coincide(distance):
    x = cloud(1, 5, 3, dtype=torch.float32).requires_grad_()
    y = x.detach().clone().requires_grad_()
    distance(x, y).sum().backward()
    assert x.grad.abs().max() < 1e-3 and y.grad.abs().max() < 1e-3


def test_chamfer_agrees_with_pytorch3d(method):
    loss = pytest.importorskip("pytorch3d.loss", reason=NO_PYTORCH3D)
    x, y = cloud(3, 50, 3, dtype=torch.float32).requires_grad_(), cloud(3, 40, 3, seed=1, dtype=torch.float32)
    lengths = torch.tensor([50, 7, 21]), torch.tensor([40, 2, 13])
    for reduction in ("mean", "sum"):
        ours = chamfer_distance(x, y, *lengths, point_reduction=reduction)
        theirs = loss.chamfer_distance(x, y, *lengths, point_reduction=reduction)[0]
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours, x)[0], torch.autograd.grad(theirs, x)[0])


# --- the earth mover


def test_exact_emd_is_the_best_matching():
    x, y = cloud(1, 5, 3), cloud(1, 5, 3, seed=1)
    permutations = torch.cartesian_prod(*[torch.arange(5)] * 5)
    permutations = permutations[permutations.sort(-1).values.eq(torch.arange(5)).all(-1)]
    for p in (1, 2):
        every = (x[0] - y[0, permutations]).norm(dim=-1).pow(p).mean(-1)
        assert len(every) == 120 and exact_emd(x, y, p).item() == pytest.approx(every.min().item())


def test_exact_emd_agrees_with_pot():
    ot = pytest.importorskip("ot", reason="POT is not installed: its results are not compared")
    x, y = cloud(1, 60, 3), cloud(1, 60, 3, seed=1) + 0.4
    weights = np.full(60, 1 / 60)
    for p in (1, 2):
        cost = (x[0, :, None] - y[0]).norm(dim=-1).pow(p).numpy()
        assert exact_emd(x, y, p).item() == pytest.approx(ot.emd2(weights, weights, cost))


@pytest.mark.parametrize("sizes", [(40, 40), (40, 25)])
@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_sinkhorn_agrees_with_pot(sizes, epsilon):
    ot = pytest.importorskip("ot", reason="POT is not installed: its results are not compared")
    x, y = cloud(1, sizes[0], 3), cloud(1, sizes[1], 3, seed=1) + 0.4
    # POT's "KL" is taken against the product of the marginals, as here.
    theirs = ot.solve(brute(x, y)[0].numpy(), reg=epsilon, reg_type="KL", tol=1e-9, max_iter=20_000).value
    ours = sinkhorn_distance(x, y, epsilon, debiased=False, tolerance=1e-8, max_iterations=20_000)
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("debiased", [True, False])
def test_sinkhorn_tends_to_the_exact_emd(p, debiased):
    x, y = cloud(2, 30, 3), 0.5 * cloud(2, 30, 3, seed=1) + 1
    exact = exact_emd(x, y, p)
    errors = []
    for epsilon in (1.0, 0.1, 0.01, 0.001):
        value = sinkhorn_distance(x, y, epsilon, p=p, debiased=debiased, max_iterations=5000)
        errors.append(float((value / exact - 1).abs().max()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 2e-3


def test_sinkhorn_without_debiasing_is_bounded_by_the_exact_emd():
    x, y = cloud(1, 30, 3), cloud(1, 30, 3, seed=1)
    exact, epsilon = exact_emd(x, y), 0.05
    entropic = sinkhorn_distance(x, y, epsilon, debiased=False, tolerance=1e-8)
    assert exact < entropic < exact + epsilon * math.log(30)
    assert sinkhorn_distance(x, y, epsilon, debiased=False, max_iterations=3) <= entropic


def test_debiased_sinkhorn_of_equal_clouds_is_zero_and_positive_otherwise():
    x = cloud(1, 30, 3)
    assert abs(sinkhorn_distance(x, x.flip(1), 0.5, tolerance=1e-8).item()) < 1e-5
    # A shift costs its squared length whatever the epsilon: what debiasing is for.
    assert sinkhorn_distance(x, x + 0.1, 0.5, tolerance=1e-8).item() == pytest.approx(0.03, rel=1e-4)


def test_sinkhorn_in_float32_at_a_small_epsilon():
    x, y = cloud(1, 64, 3), cloud(1, 64, 3, seed=1)
    single = sinkhorn_distance(x.float(), y.float(), 1e-4)
    assert single.item() == pytest.approx(exact_emd(x, y).item(), rel=1e-3)


# --- bad input

X = torch.zeros(1, 4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chamfer_distance(X[0], X), r"x must have shape .* add the batch axis with x\[None\]"),
        (lambda: chamfer_distance(X, torch.zeros(1, 0, 3)), "y is empty"),
        (lambda: chamfer_distance(X, X / 0), "y has NaN"),
        (lambda: chamfer_distance(X, X.long()), "y must have a float dtype"),
        (lambda: chamfer_distance(X, X.double()), "y must have the dtype of x"),
        (lambda: chamfer_distance(X, X.expand(2, 4, 3)), "x and y must agree in batch"),
        (lambda: chamfer_distance(X, X[..., :2]), "x and y must agree in batch and dimension"),
        (lambda: chamfer_distance(X, X.to("meta")), "tensors must share one device"),
        (lambda: chamfer_distance(X, X, torch.tensor([5])), r"lengths of x must lie in 1 … 4"),
        (lambda: chamfer_distance(X, X, None, torch.tensor([0])), r"lengths of y must lie in 1 … 4"),
        (lambda: chamfer_distance(X, X, torch.tensor([1, 2])), "lengths of x must have shape"),
        (lambda: chamfer_distance(X, X, torch.tensor([1.0])), "lengths of x must have an integer dtype"),
        (lambda: chamfer_distance(X, X, point_reduction="max"), "point_reduction must be"),
        (lambda: chamfer_distance(X, X, batch_reduction="max"), "batch_reduction must be"),
        (lambda: knn_points(X, X, k=0), "k must be at least 1"),
        (lambda: knn_points(X, X, 3), "lengths of p1 must be a torch.Tensor"),
        (lambda: f_score(X, X, 0), "threshold must be above 0"),
        (lambda: sinkhorn_distance(X, X, 0), "epsilon must be above 0"),
        (lambda: sinkhorn_distance(X, X, 1, p=3), "p must be 1 or 2"),
        (lambda: exact_emd(X, torch.zeros(1, 5, 3)), "use sinkhorn_distance"),
        (lambda: hausdorff_distance("cloud", X), "x must be a torch.Tensor"),
        (lambda: sample_surface(SQUARE, SQUARE_FACES, 0), "count must be at least 1"),
        (lambda: sample_surface(SQUARE, SQUARE_FACES + 3, 5), "faces point to vertex 7, but verts has 0 … 4"),
        (lambda: sample_surface(SQUARE, SQUARE_FACES[2:], 5), "faces must have an area above zero"),
        (lambda: sample_surface(SQUARE, SQUARE_FACES[:0], 5), "faces must have an area above zero"),
        (lambda: sample_surface(SQUARE / 0, SQUARE_FACES, 5), "verts has NaN"),
        (lambda: sample_surface(SQUARE, SQUARE_FACES.float(), 5), "faces must have an integer dtype"),
        (lambda: sample_surface(SQUARE[None, None], SQUARE_FACES, 5), "verts must have shape"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def stop_after(seconds: int):
    """Raise TimeoutError in what runs longer, so that an endless loop is a failure."""

    def stop(*_):
        raise TimeoutError(f"still running after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)


@pytest.mark.parametrize("padding", [0.0, -7.0, 1e6, 1e20, 3e38])
@pytest.mark.parametrize("size", [20, 130, 2100])
def test_what_stands_in_the_padding_changes_nothing(padding, size):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, size, 3, generator=generator), torch.rand(2, size, 3, generator=generator)
    short = torch.tensor([size, size - 5])
    padded = torch.where((torch.arange(size) < short[:, None])[..., None], x, torch.tensor(padding)).requires_grad_()
    plain = x.clone().requires_grad_()
    stop_after(60)
    for function in (pointsets.chamfer_distance, pointsets.hausdorff_distance):
        values = [function(cloud, y, short).sum() for cloud in (padded, plain)]
        torch.testing.assert_close(*values)
        gradients = [torch.autograd.grad(value, cloud)[0] for value, cloud in zip(values, (padded, plain), strict=True)]
        torch.testing.assert_close(*gradients)
    assert torch.equal(*(pointsets.f_score(cloud, y, 0.1, short) for cloud in (padded, plain)))
    if size < 200:
        values = [pointsets.sinkhorn_distance(cloud, y, 0.05, short) for cloud in (padded, plain)]
        torch.testing.assert_close(*values)
        assert torch.autograd.grad(values[0].sum(), padded)[0].isfinite().all()
    signal.alarm(0)


@pytest.mark.parametrize("size", [20, 130, 2100])
@pytest.mark.parametrize("function", ["chamfer_distance", "knn_points", "hausdorff_distance", "sinkhorn_distance"])
def test_squares_that_overflow_are_refused(size, function):
    x = torch.rand(1, size, 3)
    epsilon = (0.1,) if function == "sinkhorn_distance" else ()
    stop_after(60)
    with pytest.raises(
        ValueError, match=r"(y|p2) reaches beyond 5e\+18, where squared distances overflow torch\.float32"
    ):
        getattr(pointsets, function)(x, 1e19 * x + 1e19, *epsilon)
    if size < 200:
        far = pointsets.chamfer_distance(x.double(), 1e19 * x.double() + 1e19)
        assert far.isfinite() and far > 1e38
    signal.alarm(0)


def test_sinkhorn_ends_or_says_why_not():
    x = torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(0))
    stop_after(60)
    with pytest.raises(ValueError, match=r"x and y lie too far apart.*scale them down, or raise epsilon"):
        pointsets.sinkhorn_distance(1e18 * x, x, 1e-3)
    assert pointsets.sinkhorn_distance(1e15 * x, x, 1.0).isfinite().all()
    for epsilon in (float("inf"), float("nan"), 0.0, -1.0):
        with pytest.raises(ValueError, match="epsilon must be above 0 and finite"):
            pointsets.sinkhorn_distance(x, x, epsilon)
    signal.alarm(0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_lengths_of_every_integer_type(dtype):
    x, y = torch.rand(2, 9, 3), torch.rand(2, 8, 3)
    lengths = torch.tensor([9, 4])
    expected = pointsets.chamfer_distance(x, y, lengths)
    assert torch.equal(pointsets.chamfer_distance(x, y, lengths.to(dtype)), expected)
    assert torch.equal(pointsets.knn_points(x, y, k=np.int64(2)).idx, pointsets.knn_points(x, y, k=2).idx)


def test_the_diameter_needs_no_square_of_memory():
    """The distances of all pairs of 20 000 points would take 1.6 GB."""
    points = torch.nn.functional.normalize(
        torch.randn(1, 20_000, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert pointsets.diameter(points).item() == pytest.approx(2, abs=1e-3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4e8 / unit
    assert pointsets.diameter(1e-25 * points[:, :50]).item() > 1e-25
