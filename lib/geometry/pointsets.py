"""Point clouds: sampling from surfaces, nearest neighbours, and distances between two clouds.

A batch of clouds is one tensor (B, N, D), where D is usually 2 or 3. Clouds of different sizes are padded
to the longest and come with their `lengths` (B,). The values in the padding change no result, but must be
finite. `knn_points` and `chamfer_distance` keep the names and the argument order of PyTorch3D.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from torch import Tensor

from lib.checks import check_faces, check_same_device, check_tensor, number, require, whole_number
from lib.geometry.vectors import extent_scale, unit

# Measured on the CPU: beyond this many pairs of points a tree is faster than looking at all of them.
TREE_PAIRS = 120 * 120
# Beyond this many a grid is so much faster than the tree that starting Warp and compiling its kernel pays.
GRID_PAIRS = 2000 * 2000
# A tree prunes nothing once the dimension is high.
TREE_DIMENSIONS = 8
# Sinkhorn's iterations at each temperature on the way down. Without them the last temperature needs far more.
SCALING_ITERATIONS = 20
# On CUDA, where a thread looks at thousands of points in a tenth of a millisecond, the grid's many launches pay later:
# an estimate from instruction counts (benchmarks/first_gpu.py measures it).
GRID_PAIRS_ON_CUDA = 1 << 28
# Sinkhorn's iterations between two looks at the marginal on CUDA, for which the host waits.
ITERATIONS_A_LOOK = 10
# Pairs held in memory at once by the brute force.
CHUNK_PAIRS = 1 << 24


class Neighbors(NamedTuple):
    """Squared distances and indices of the nearest neighbours, both (B, N, K)."""

    dists: Tensor
    idx: Tensor


def sample_surface(
    verts: Float[Tensor, "*B V 3"],
    faces: Int[Tensor, "F 3"],
    count: int,
    generator: torch.Generator | None = None,
    return_normals: bool = False,
) -> Float[Tensor, "*B count 3"] | tuple[Float[Tensor, "*B count 3"], Float[Tensor, "*B count 3"]]:
    """Sample points uniformly from the surface of a triangle mesh.

    A face is chosen with a probability in proportion to its area, then a point in it by
    (1 − √r₁) a + √r₁ (1 − r₂) b + √r₁ r₂ c with r₁, r₂ uniform in [0, 1] (Osada et al., "Shape Distributions", 2002,
    eq. 1). The points are differentiable in `verts`, with the random choice held fixed: that the areas influence the
    choice of faces gives no gradient.

    verts: (V, 3) or (B, V, 3); in a batch, every mesh has its own random choice.
    generator: source of the random numbers. They are drawn on its device, so that a CPU generator gives the same
        points on every device.
    return_normals: also return the unit normals of the chosen faces, pointing to the counter-clockwise side.

    Raises ValueError for a count below 1, faces out of range, non-finite vertices, or no area at all.
    """
    check_tensor("verts", verts, "... V 3", kind="real", finite=True)
    check_tensor("faces", faces, "F 3", kind="integer")
    check_same_device(verts=verts, faces=faces)
    if verts.ndim > 3:
        raise ValueError(f"verts must have shape (V, 3) or (B, V, 3), got {tuple(verts.shape)}; flatten the batch axes")
    count = whole_number("count", count)
    faces = check_faces(faces, verts.shape[-2])
    batch = verts if verts.ndim == 3 else verts[None]
    corners = batch[:, faces]  # (B, F, 3 corners, 3)
    sides = (corners[:, :, 1:] - corners[:, :, :1]) / extent_scale(batch)[..., None]
    normals = torch.linalg.cross(sides[:, :, 0], sides[:, :, 1])
    cumulative = normals.detach().double().norm(dim=-1).cumsum(-1)
    collapsed = "faces must have an area above zero in total; drop meshes that are empty or collapsed"
    if not len(faces):
        raise ValueError(collapsed)
    require(cumulative[:, -1] > 0, collapsed)

    source = verts.device if generator is None else generator.device
    draws = torch.rand(len(batch), 3, count, dtype=torch.float64, device=source, generator=generator).to(verts.device)
    chosen = torch.searchsorted(cumulative, draws[:, 0] * cumulative[:, -1:], right=True).clamp(max=len(faces) - 1)
    root, second = draws[:, 1].sqrt(), draws[:, 2]
    weights = torch.stack([1 - root, root * (1 - second), root * second], -1).to(verts.dtype)
    which = torch.arange(len(batch), device=verts.device)[:, None]
    points = (weights[..., None] * corners[which, chosen]).sum(-2)
    points = points if verts.ndim == 3 else points[0]
    if not return_normals:
        return points
    directions = unit(normals[which, chosen])
    return points, directions if verts.ndim == 3 else directions[0]


def knn_points(
    p1: Float[Tensor, "B N D"],
    p2: Float[Tensor, "B M D"],
    lengths1: Int[Tensor, "B"] | None = None,
    lengths2: Int[Tensor, "B"] | None = None,
    *,
    k: int = 1,
) -> Neighbors:
    """Find the k nearest points of p2 for every point of p1, nearest first.

    For small clouds all pairs are compared. On the CPU a k-d tree serves larger clouds, and a grid finds the one
    nearest point in very large clouds, unless the points crowd in few of its cells. On CUDA all pairs are compared,
    but a grid serves very large clouds there as well. The result is the same, except for the order of neighbours at
    equal distance. Distances are recomputed from the differences, never as ‖x‖² − 2xy + ‖y‖², which loses all digits
    far from the origin.

    Returns `dists`, the *squared* distances (B, N, K), differentiable in both clouds, and `idx` (B, N, K)
    int64 into p2. As in PyTorch3D, both are zero for the padding of p1 and where p2 has fewer than k points.

    Raises ValueError for empty clouds, shapes or lengths that do not fit, non-finite points, k below 1.
    """
    clouds = _check_clouds("p1", p1, lengths1, "p2", p2, lengths2)
    return _neighbors(*clouds, whole_number("k", k))


def chamfer_distance(
    x: Float[Tensor, "B N D"],
    y: Float[Tensor, "B M D"],
    x_lengths: Int[Tensor, "B"] | None = None,
    y_lengths: Int[Tensor, "B"] | None = None,
    *,
    point_reduction: str = "mean",
    batch_reduction: str | None = "mean",
    single_directional: bool = False,
) -> Float[Tensor, ""] | Float[Tensor, "B"]:
    """Squared Chamfer distance: each point to its nearest in the other cloud, both ways.

    CD(x, y) = 1/N Σᵢ minⱼ ‖xᵢ − yⱼ‖² + 1/M Σⱼ minᵢ ‖xᵢ − yⱼ‖² for N and M points. (Fan et al., "A Point Set
    Generation Network", 2017, sum instead of averaging: point_reduction="sum".) The unit is a squared length.
    Differentiable in both clouds.

    point_reduction: "mean" or "sum" over the points of each cloud.
    batch_reduction: "mean" or "sum" over the batch, or None for (B,).
    single_directional: only the way from x to y.

    Raises ValueError as `knn_points` does, or for an unknown reduction.
    """
    x, y, x_lengths, y_lengths = _check_clouds("x", x, x_lengths, "y", y, y_lengths)
    if point_reduction not in ("mean", "sum"):
        raise ValueError(f'point_reduction must be "mean" or "sum", got {point_reduction!r}; choose one of them')
    if batch_reduction not in ("mean", "sum", None):
        raise ValueError(f'batch_reduction must be "mean", "sum" or None, got {batch_reduction!r}; choose one of them')
    distance = 0.0
    for squared, lengths in _nearest_squared(x, y, x_lengths, y_lengths, single_directional):
        total = squared.sum(-1)
        distance = distance + (total / lengths if point_reduction == "mean" else total)
    return distance if batch_reduction is None else getattr(distance, batch_reduction)()


def diameter(points: Float[Tensor, "B N D"]) -> Float[Tensor, "B"]:
    """The largest distance between two points of each cloud: all pairs, in pieces, so in little memory."""
    check_tensor("points", points, "B N D", kind="real", finite=True)
    scale = extent_scale(points)
    points = points / scale
    pieces = points.split(max(CHUNK_PAIRS // (len(points) * points.shape[1]), 1), dim=1)
    largest = torch.stack([_distances(piece, points).flatten(1).amax(1) for piece in pieces]).amax(0)
    return (largest.sqrt() if points.is_cuda else largest) * scale[:, 0, 0]


def hausdorff_distance(
    x: Float[Tensor, "B N D"],
    y: Float[Tensor, "B M D"],
    x_lengths: Int[Tensor, "B"] | None = None,
    y_lengths: Int[Tensor, "B"] | None = None,
    *,
    single_directional: bool = False,
) -> Float[Tensor, "B"]:
    """Hausdorff distance, *not* squared: the largest distance from a point to the other cloud.

    H(x, y) = max(maxᵢ minⱼ ‖xᵢ − yⱼ‖, maxⱼ minᵢ ‖xᵢ − yⱼ‖) (Huttenlocher et al., 1993, eq. 1); with
    single_directional only the first of the two. Differentiable in both clouds: the single worst pair gets all
    the gradient (zero if the clouds coincide).

    Raises ValueError as `knn_points` does.
    """
    x, y, x_lengths, y_lengths = _check_clouds("x", x, x_lengths, "y", y, y_lengths)
    ways = _nearest_squared(x, y, x_lengths, y_lengths, single_directional)
    return _root(torch.stack([squared.amax(-1) for squared, _ in ways]).amax(0))


def f_score(
    pred: Float[Tensor, "B N D"],
    target: Float[Tensor, "B M D"],
    threshold: float,
    pred_lengths: Int[Tensor, "B"] | None = None,
    target_lengths: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B"]:
    """F-score at a distance: the harmonic mean of precision and recall, in [0, 1].

    Precision is the share of `pred` closer than `threshold` to `target`, recall the share of `target` closer
    than `threshold` to `pred`. F = 2 · precision · recall / (precision + recall), and 0 if both are 0 (Tatarchenko
    et al., "What Do Single-view 3D Reconstruction Networks Learn?", 2019). The threshold is a distance in the
    clouds' unit. Beware: Pixel2Mesh compares its published 1e-4 and 2e-4 with *squared* distances, so its 1e-4 is
    0.01 here.

    Raises ValueError as `knn_points` does, or for a threshold that is not above 0.
    """
    with torch.no_grad():
        clouds = _check_clouds("pred", pred, pred_lengths, "target", target, target_lengths)
    threshold = number("threshold", threshold)
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}; give a distance in the unit of the clouds")
    shares = []
    for squared, count in _nearest_squared(*clouds, False):
        inside = (squared < threshold**2) & _valid(squared.shape[1], count)
        shares.append(inside.sum(-1) / count)
    precision, recall = shares
    return (2 * precision * recall / (precision + recall).clamp(min=1e-12)).to(pred.dtype)


def exact_emd(x: Float[Tensor, "B N D"], y: Float[Tensor, "B N D"], p: int = 2) -> Float[Tensor, "B"]:
    """Earth mover's distance of two clouds of equal size, by the best one-to-one matching.

    EMD(x, y) = min_m 1/N Σᵢ ‖xᵢ − y_m(i)‖ᵖ over the one-to-one matchings m. SciPy's `linear_sum_assignment` finds
    the best one on the CPU in about N³ steps, with all N² pairs in memory, so use it for up to about a thousand points.
    p = 1 is the mean of the distances that Fan et al. (2017) sum; p = 2 is the squared 2-Wasserstein distance. No root
    is taken.
    Differentiable in both clouds, with the matching held fixed.

    Raises ValueError for empty clouds, clouds of unequal size (`sinkhorn_distance` takes those), non-finite points,
    or another p.
    """
    _check_clouds("x", x, None, "y", y, None)
    if x.shape != y.shape:
        raise ValueError(f"y must have as many points as x, got {y.shape[1]} and {x.shape[1]}; use sinkhorn_distance")
    cost = _cost(x.detach().double(), y.detach().double(), p).cpu().numpy()
    matching = torch.stack([torch.as_tensor(linear_sum_assignment(matrix)[1]) for matrix in cost]).to(x.device)
    squared = (x - y.gather(1, matching[..., None].expand_as(y))).square().sum(-1)
    return (squared if p == 2 else _root(squared)).mean(-1)


def sinkhorn_distance(
    x: Float[Tensor, "B N D"],
    y: Float[Tensor, "B M D"],
    epsilon: float,
    x_lengths: Int[Tensor, "B"] | None = None,
    y_lengths: Int[Tensor, "B"] | None = None,
    *,
    p: int = 2,
    debiased: bool = True,
    tolerance: float = 1e-3,
    max_iterations: int = 500,
) -> Float[Tensor, "B"]:
    """Earth mover's distance smoothed by entropy, computed by Sinkhorn's iterations in the log domain.

    All points of a cloud have the same weight, each cloud has weight 1, and the cost is c(x, y) = ‖x − y‖ᵖ: for
    p = 2 the *full* squared distance (GeomLoss takes half of it). Let

        OT_ε(x, y) = min_Γ Σᵢⱼ Γᵢⱼ c(xᵢ, yⱼ) + ε KL(Γ ‖ uniform)

    over the plans Γ with uniform marginals. The result is OT_ε(x, y) − ½ OT_ε(x, x) − ½ OT_ε(y, y), which is 0
    for equal clouds (Feydy et al., "Interpolating between Optimal Transport and MMD", 2019, eq. 1-3). With
    debiased=False it is OT_ε(x, y) alone, which is smallest for a cloud that has shrunk by about √ε. Both tend to
    `exact_emd` as ε → 0.

    epsilon: in the unit of the cost, a length to the power p; matches blur over about ε^(1/p). A smaller epsilon
        needs more iterations. The temperature starts at the largest cost and is halved down to ε (ε-scaling).
    tolerance: stop when the plan's marginal is within this share (L1) of uniform.
    max_iterations: the limit at ε itself. An OT_ε that stopped there is below the true value, never above.

    Returns (B,), differentiable in both clouds. By the envelope theorem the gradient of OT_ε is the gradient of the
    cost under the final plan, so no iteration is stored. Memory is a few times B·N·M.

    Raises ValueError for empty clouds, shapes or lengths that do not fit, non-finite points, epsilon ≤ 0, or
    another p.
    """
    x, y, x_lengths, y_lengths = _check_clouds("x", x, x_lengths, "y", y, y_lengths)
    epsilon, tolerance = number("epsilon", epsilon, infinite=True), number("tolerance", tolerance)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be above 0 and finite, got {epsilon}; exact_emd gives the limit 0")
    max_iterations = whole_number("max_iterations", max_iterations)
    log_x, log_y = _log_weights(x.shape[1], x_lengths, x), _log_weights(y.shape[1], y_lengths, y)
    options = (epsilon, p, tolerance, max_iterations)
    distance = _entropic_cost(x, y, log_x, log_y, *options)
    if debiased:
        own = _entropic_cost(x, x, log_x, log_x, *options), _entropic_cost(y, y, log_y, log_y, *options)
        distance = distance - 0.5 * (own[0] + own[1])
    return distance


def _entropic_cost(x, y, log_x, log_y, epsilon, p, tolerance, max_iterations) -> Float[Tensor, "B"]:
    """Compute OT_ε by its dual, max over f, g of ⟨a, f⟩ + ⟨b, g⟩, where each is the soft minimum given the other."""
    cost = _cost(x, y, p)
    with torch.no_grad():
        f, g = torch.zeros_like(log_x), torch.zeros_like(log_y)
        largest = float(cost.max())
        if not largest < min(epsilon, 1) * torch.finfo(cost.dtype).max / 4:
            reason = f"the largest cost, {largest:.3g}, is too much for epsilon={epsilon:.3g} in {cost.dtype}"
            raise ValueError(f"x and y lie too far apart: {reason}; scale them down, or raise epsilon")
        temperature = max(largest, epsilon)
        while True:
            final = temperature == epsilon
            for step in range(max_iterations if final else min(SCALING_ITERATIONS, max_iterations)):
                f_new = _soft_minimum(cost, g, log_y, temperature)
                # Under f_new the plan's rows are exact, so the step from f to f_new tells their error under f.
                look = step > 0 and (not cost.is_cuda or step % ITERATIONS_A_LOOK == ITERATIONS_A_LOOK - 1)
                done = look and _off(log_x, f, f_new, temperature) < tolerance
                if x is y:
                    # The symmetric problem has one potential; averaging finds it in a few steps.
                    f = g = (f + f_new) / 2
                else:
                    f = f_new
                    g = _soft_minimum(cost.mT, f, log_x, temperature)
                if done:
                    break
            if final:
                break
            temperature = max(temperature / 2, epsilon)
    f = _soft_minimum(cost, g, log_y, epsilon)
    return (log_x.exp() * f).sum(-1) + (log_y.exp() * g).sum(-1)


def _off(log_weights, potential, new, temperature) -> Tensor:
    """Distance of the plan's marginal from the weights, in L1: the largest of the batch."""
    return ((log_weights + (potential - new) / temperature).exp() - log_weights.exp()).abs().sum(-1).max()


def _soft_minimum(
    cost: Float[Tensor, "B N M"], potential: Float[Tensor, "B M"], log_weights: Float[Tensor, "B M"], epsilon: float
) -> Float[Tensor, "B N"]:
    """The softened minimum over j of cᵢⱼ − gⱼ: −ε log Σⱼ bⱼ exp((gⱼ − cᵢⱼ) / ε)."""
    return -epsilon * torch.logsumexp((potential[:, None] - cost) / epsilon + log_weights[:, None], -1)


def _log_weights(size: int, lengths: Int[Tensor, "B"], like: Tensor) -> Float[Tensor, "B size"]:
    """Logarithm of the weight of each point, which is 1/length, and 0 in the padding."""
    weights = -lengths.to(like.dtype).log()[:, None].expand(-1, size)
    return weights.masked_fill(~_valid(size, lengths), -math.inf)


def _cost(x: Float[Tensor, "B N D"], y: Float[Tensor, "B M D"], p: int) -> Float[Tensor, "B N M"]:
    """The costs ‖xᵢ − yⱼ‖ᵖ of all pairs, from the differences."""
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}; 1 costs the distance, 2 its square")
    squared = sum((x[:, :, None, d] - y[:, None, :, d]).square() for d in range(x.shape[-1]))
    return squared if p == 2 else _root(squared)


def _nearest_squared(x, y, x_lengths, y_lengths, single_directional):
    """Return for each direction the squared distances to the nearest point, zero in the padding, and the lengths."""
    yield _neighbors(x, y, x_lengths, y_lengths, 1).dists[..., 0], x_lengths
    if not single_directional:
        yield _neighbors(y, x, y_lengths, x_lengths, 1).dists[..., 0], y_lengths


def _neighbors(p1, p2, lengths1, lengths2, k) -> Neighbors:
    size1, size2, dimension = p1.shape[1], p2.shape[1], p1.shape[2]
    pruned = p1.device.type == "cpu" and size1 * size2 > TREE_PAIRS and dimension <= TREE_DIMENSIONS
    with torch.no_grad():
        find = _cuda_indices if p1.is_cuda else _pruned_indices if pruned else _brute_force_indices
        idx = find(p1.detach(), p2.detach(), lengths1, lengths2, min(k, size2))
    if k > size2:
        idx = torch.nn.functional.pad(idx, (0, k - size2))
    found = torch.arange(k, device=p1.device) < lengths2[:, None, None]
    keep = found & _valid(size1, lengths1)[..., None]
    idx = idx.masked_fill(~keep, 0)
    rows = idx + torch.arange(len(p2), device=p2.device)[:, None, None] * size2
    nearest = p2.flatten(0, 1).index_select(0, rows.flatten()).view(*idx.shape, dimension)
    return Neighbors((p1[:, :, None] - nearest).square().sum(-1).masked_fill(~keep, 0), idx)


def _brute_force_indices(p1, p2, lengths1, lengths2, k) -> Int[Tensor, "B N K"]:
    padding = ~_valid(p2.shape[1], lengths2)[:, None]
    pieces = []
    for piece in p1.split(max(CHUNK_PAIRS // (len(p1) * p2.shape[1]), 1), dim=1):
        distances = _distances(piece, p2).masked_fill(padding, math.inf)
        pieces.append(distances.argmin(-1, keepdim=True) if k == 1 else distances.topk(k, largest=False).indices)
    return torch.cat(pieces, 1)


def _distances(x: Float[Tensor, "B N D"], y: Float[Tensor, "B M D"]) -> Float[Tensor, "B N M"]:
    """All distances, from the differences; on CUDA their squares: `cdist` would start a block of threads a pair."""
    return _cost(x, y, 2) if x.is_cuda else torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _cuda_indices(p1, p2, lengths1, lengths2, k) -> Int[Tensor, "B N K"]:
    if k > 1 or p1.shape[2] > 3 or p1.dtype not in (torch.float32, torch.float64):
        return _brute_force_indices(p1, p2, lengths1, lengths2, k)
    from lib.geometry.nearest import nearest_of_all, nearest_on_grid

    full = lengths2 is _full_lengths(len(p2), p2.shape[1], p2.device)
    if full and p1.shape[1] * p2.shape[1] > GRID_PAIRS_ON_CUDA:
        return torch.stack([nearest_on_grid(x, y) for x, y in zip(p1, p2, strict=True)])[..., None]
    return nearest_of_all(p1, p2, lengths2.long())[..., None]


def _pruned_indices(p1, p2, lengths1, lengths2, k) -> Int[Tensor, "B N K"]:
    idx = torch.zeros(*p1.shape[:2], k, dtype=torch.int64)
    for b, (length1, length2) in enumerate(zip(lengths1.tolist(), lengths2.tolist(), strict=True)):
        queries, points = p1[b, :length1], p2[b, :length2]
        large = length1 * length2 > GRID_PAIRS
        found = None
        if large and k == 1 and p1.shape[2] <= 3:
            # Import it here, because it starts Warp: small clouds need not wait for that.
            from lib.geometry.nearest import nearest_on_grid

            found = nearest_on_grid(queries, points)
        idx[b, :length1] = _tree_indices(queries, points, k, large) if found is None else found[:, None]
    return idx


def _tree_indices(queries, points, k, large) -> Int[Tensor, "N K"]:
    points = points.numpy()
    kept = np.arange(len(points))
    if large:
        # SciPy cannot split equal points, and each query near them would look at all. So keep only k of equal points.
        order = np.lexsort(points.T)
        fresh = np.append(True, (points[order[1:]] != points[order[:-1]]).any(-1))
        kept = order[kept - np.maximum.accumulate(np.where(fresh, kept, 0)) < k]
    found = cKDTree(points[kept]).query(queries.numpy(), k=range(1, k + 1), workers=torch.get_num_threads())[1]
    # If there are fewer than k points, SciPy answers with the index after the last.
    return torch.from_numpy(np.append(kept, 0)[found])


def _valid(size: int, lengths: Int[Tensor, "B"]) -> Tensor:
    """(B, size) bool: which entries are points, not padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _root(squared: Tensor) -> Tensor:
    """The square root, with gradient zero at zero instead of infinity."""
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def _check_clouds(name1, p1, lengths1, name2, p2, lengths2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check a pair of padded clouds; return them with a point of their own for padding, and the lengths, never None."""
    check_tensor(name1, p1, "B N D", kind="real")
    check_tensor(name2, p2, "B N D", kind="real")
    check_same_device(**{name1: p1, name2: p2})
    for name, points in ((name1, p1), (name2, p2)):
        check_tensor(name, points, "B N D", kind="real", finite=True)
        if points.numel() == 0:
            raise ValueError(f"{name} is empty, shape {tuple(points.shape)}; drop empty clouds before the call")
    if p1.dtype != p2.dtype:
        raise TypeError(f"{name2} must have the dtype of {name1}, got {p2.dtype} and {p1.dtype}; convert one with .to")
    if p1.shape[0] != p2.shape[0] or p1.shape[2] != p2.shape[2]:
        shapes = f"{tuple(p1.shape)} and {tuple(p2.shape)}"
        raise ValueError(f"{name1} and {name2} must agree in batch and dimension, got {shapes}; expand one of them")
    p1, lengths1 = _without_padding(name1, p1, lengths1)
    p2, lengths2 = _without_padding(name2, p2, lengths2)
    return p1, p2, lengths1, lengths2


def _without_padding(name: str, points: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    padded = lengths is not None
    lengths = _check_lengths(name, points, lengths)
    if padded:
        points = torch.where(_valid(points.shape[1], lengths)[..., None], points, points[:, :1].detach())
    # The squared distance of two points within this limit is finite.
    limit = (torch.finfo(points.dtype).max / (4 * points.shape[2])) ** 0.5
    message = (
        f"{name} reaches beyond {limit:.1g}, where squared distances overflow {points.dtype}; scale the clouds down"
    )
    require(points.detach().abs() <= limit, message)
    return points, lengths


@functools.lru_cache(maxsize=64)
def _full_lengths(batch: int, size: int, device: torch.device) -> Int[Tensor, "B"]:
    with torch.inference_mode(False):
        return torch.full((batch,), size, device=device)


def _check_lengths(name: str, points: Tensor, lengths: Tensor | None) -> Int[Tensor, "B"]:
    batch, size = points.shape[:2]
    if lengths is None:
        return _full_lengths(batch, size, points.device)
    check_tensor(f"lengths of {name}", lengths, str(batch), kind="integer")
    check_same_device(**{name: points, "lengths": lengths})
    lengths = lengths.long()
    if lengths.min() < 1 or lengths.max() > size:
        raise ValueError(
            f"lengths of {name} must lie in 1 … {size}, got {lengths.tolist()}; count the points, drop empty clouds"
        )
    return lengths
