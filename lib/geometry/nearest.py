"""Search for the nearest point of a large cloud, in 2D or 3D, on a grid of cells: Warp kernels.

The points are sorted into about as many cells as there are points. The cells of a row, and of any part of it, are
contiguous in this order. The first bound of a query is the smaller of two distances: to the answer of the query before
it, and to a point of its own cell. Then the query visits rows, from its own row outward, each as far as the ball around
the query with this radius reaches. Nearer points lower the bound. The search ends when all other rows are farther away
than the bound.
"""

# Warp reads the annotations of kernels at run time, so they cannot be postponed here.

import math
from typing import NamedTuple

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from lib.warp_kernels import Kernels

# Number of queries that a thread of the CPU answers one after the other, each starting from the answer before it; on
# CUDA it is one.
RUN = 64
# Points that a cell may hold, and further points that a query may look at on average, before a cloud is too uneven.
CROWD = 64
SPARE = 64


class Grid(NamedTuple):
    """A cloud sorted into cells.

    points: (N, 3), sorted by cell, x fastest; order: (N,) int32, their places in the cloud.
    starts: (cells + 1,) int32 or longer, where each cell's points begin; box: (2, 3), smallest and largest coordinates.
    side: (1,), length of a cell; shape: (3,) int32, number of cells along x, y, z.
    """

    points: Tensor
    order: Tensor
    starts: Tensor
    box: Tensor
    side: Tensor
    shape: Tensor


def nearest_on_grid(queries: Float[Tensor, "N D"], points: Float[Tensor, "M D"]) -> Int[Tensor, "N"] | None:
    """Find the nearest of `points` for each of `queries`: indices (N,) int64. D is 2 or 3, the type float32 or float64.

    Returns None on the CPU if the points crowd in so few of the cells that a tree is faster. On CUDA the host does not
    wait for anything.
    """
    sort = _sort_on_cuda if _on_gpu(points) else _sort
    sorted_queries, grid = sort(queries), sort(points)
    # Threads share the count without a lock. At worst it misses some, and the search is given up a little later.
    crowd = torch.zeros(1, dtype=torch.int64, device=points.device)
    idx = torch.full((len(queries),), -1, device=points.device)
    tolerance = 16 * torch.finfo(points.dtype).eps
    run, allowed = (1, 2**62) if _on_gpu(points) else (RUN, SPARE * len(queries))
    inputs = (run, sorted_queries.points, sorted_queries.order, *grid, tolerance, allowed, crowd, idx)
    kernels.launch("nearest", math.ceil(len(queries) / run), points, *inputs)
    return None if not _on_gpu(points) and (idx < 0).any() else idx


def nearest_of_all(
    queries: Float[Tensor, "B N D"], points: Float[Tensor, "B M D"], lengths: Int[Tensor, "B"]
) -> Int[Tensor, "B N"]:
    """Find the nearest of the first `lengths` points for each of `queries`: indices (B, N) int64, the first of equals.

    D is up to 3, the type float32 or float64. Each thread looks at every point. On CUDA this is faster than a grid for
    up to some ten thousand points.
    """
    queries, points = (_in_space(cloud) for cloud in (queries, points))
    idx = torch.empty(queries.shape[:2], dtype=torch.int64, device=points.device)
    kernels.launch("nearest_of_all", idx.numel(), points, queries, points, lengths, idx)
    return idx


def _on_gpu(points: Tensor) -> bool:
    return points.is_cuda


def _in_space(cloud: Float[Tensor, "... D"]) -> Float[Tensor, "... 3"]:
    return torch.nn.functional.pad(cloud, (0, 3 - cloud.shape[-1])).contiguous()


def _sort(cloud: Float[Tensor, "N D"]) -> Grid:
    points = _in_space(cloud)
    low, high = points.aminmax(dim=0)
    extent = (high.double() - low.double()).tolist()
    longest = max(extent) or 1.0
    shares = sorted((length / longest for length in extent), reverse=True)
    # Make as many cells as points; a cloud thinner than a cell is cut along two axes only, or along one.
    for axes in (3, 2, 1):
        share = (math.prod(shares[:axes]) / len(points)) ** (1 / axes)
        if share < shares[axes - 1]:
            break
    side = max(share * longest, torch.finfo(points.dtype).tiny ** 0.5)
    shape = [int(length / side) + 1 for length in extent]
    order, cells = torch.empty(2, len(points), dtype=torch.int32)
    starts = torch.zeros(math.prod(shape) + 1, dtype=torch.int32)
    measures = torch.tensor([side], dtype=points.dtype), torch.tensor(shape, dtype=torch.int32)
    grid = Grid(torch.empty_like(points), order, starts, torch.stack([low, high]), *measures)
    kernels.launch("sort", 1, points, points, cells, *grid)
    return grid


def _sort_on_cuda(cloud: Float[Tensor, "N D"]) -> Grid:
    """Sort as `_sort` does, but leave the cells' size and number on the device; at most eight cells a point."""
    points = _in_space(cloud)
    box = torch.stack(points.aminmax(dim=0))
    side, shape = points.new_empty(1), torch.empty(3, dtype=torch.int32, device=points.device)
    smallest = torch.finfo(points.dtype).tiny ** 0.5
    kernels.launch("measure", 1, points, box, len(points), smallest, side, shape)
    cells = torch.empty(len(points), dtype=torch.int32, device=points.device)
    kernels.launch("place", len(points), points, points, box, side, shape, cells)
    cells, order = cells.sort(stable=True)
    every = torch.arange(8 * len(points) + 9, dtype=torch.int32, device=points.device)
    starts = torch.searchsorted(cells, every, out_int32=True)
    return Grid(points[order], order.int(), starts, box, side, shape)


@Kernels
def kernels(kernel, real, vec2, vec3):
    @wp.func
    def cell(u: real, length: int):
        """The cell along one axis, for a coordinate in cells; outside the grid, the cell at the border."""
        return int(wp.clamp(u, real(0.0), real(length - 1)))

    @wp.func
    def below(u: real, row: int, slack: real):
        """Distance in cells from the query down to the end of the row; the rows end at 0."""
        return wp.where(row < 0, real(wp.inf), wp.max(u - real(row + 1) - slack, real(0.0)))

    @wp.func
    def above(u: real, row: int, length: int, slack: real):
        return wp.where(row >= length, real(wp.inf), wp.max(real(row) - u - slack, real(0.0)))

    @wp.func
    def cell_of(p: vec3, low: vec3, inverse: real, nx: int, ny: int, nz: int):
        u = (p - low) * inverse
        return (cell(u[2], nz) * ny + cell(u[1], ny)) * nx + cell(u[0], nx)

    @kernel
    def measure(
        first: int,
        step: int,
        box: wp.array(dtype=vec3),
        count: int,
        smallest: wp.float64,
        side: wp.array(dtype=real),
        shape: wp.array(dtype=int),
    ):
        """Compute the cells' side, and their number along each axis, as `_sort` does on the host."""
        x = wp.float64(box[1][0]) - wp.float64(box[0][0])
        y = wp.float64(box[1][1]) - wp.float64(box[0][1])
        z = wp.float64(box[1][2]) - wp.float64(box[0][2])
        longest = wp.max(wp.max(x, y), z)
        if longest == wp.float64(0.0):
            longest = wp.float64(1.0)
        least = wp.min(wp.min(x, y), z) / longest
        most = wp.max(wp.max(x, y), z) / longest
        middle = wp.max(wp.min(x, y), wp.min(wp.max(x, y), z)) / longest
        number = wp.float64(count)
        share = wp.pow(most * middle * least / number, wp.float64(1.0) / wp.float64(3.0))
        if not share < least:
            share = wp.sqrt(most * middle / number)
            if not share < middle:
                share = most / number
        length = wp.max(share * longest, smallest)
        side[0] = real(length)
        shape[0] = int(x / length) + 1
        shape[1] = int(y / length) + 1
        shape[2] = int(z / length) + 1

    @kernel
    def place(
        first: int,
        step: int,
        cloud: wp.array(dtype=vec3),
        box: wp.array(dtype=vec3),
        side: wp.array(dtype=real),
        shape: wp.array(dtype=int),
        cells: wp.array(dtype=int),
    ):
        item = first + step * wp.tid()
        cells[item] = cell_of(cloud[item], box[0], real(1.0) / side[0], shape[0], shape[1], shape[2])

    @kernel
    def nearest_of_all(
        first: int,
        step: int,
        queries: wp.array2d(dtype=vec3),
        points: wp.array2d(dtype=vec3),
        lengths: wp.array(dtype=wp.int64),
        idx: wp.array2d(dtype=wp.int64),
    ):
        item = first + step * wp.tid()
        b = item // queries.shape[1]
        p = queries[b, item % queries.shape[1]]
        best = real(wp.inf)
        found = wp.int32(0)
        for j in range(int(lengths[b])):
            squared = wp.length_sq(points[b, j] - p)
            if squared < best:
                best = squared
                found = j
        idx[b, item % queries.shape[1]] = wp.int64(found)

    @kernel
    def sort(
        first: int,
        step: int,
        cloud: wp.array(dtype=vec3),
        cells: wp.array(dtype=int),
        points: wp.array(dtype=vec3),
        order: wp.array(dtype=int),
        starts: wp.array(dtype=int),
        box: wp.array(dtype=vec3),
        side: wp.array(dtype=real),
        shape: wp.array(dtype=int),
    ):
        """Sort by counting; `starts` must be zeros."""
        count = cloud.shape[0]
        for i in range(count):
            c = cell_of(cloud[i], box[0], real(1.0) / side[0], shape[0], shape[1], shape[2])
            cells[i] = c
            starts[c] = starts[c] + 1
        total = wp.int32(0)
        for c in range(starts.shape[0]):
            total += starts[c]
            starts[c] = total
        # Each entry is now the end of a cell. Filling the cell from its end turns the entry into its beginning.
        for i in range(count):
            last = count - 1 - i
            place = starts[cells[last]] - 1
            starts[cells[last]] = place
            order[place] = last
            points[place] = cloud[last]

    @kernel
    def nearest(
        first: int,
        step: int,
        run: int,
        queries: wp.array(dtype=vec3),
        query_order: wp.array(dtype=int),
        points: wp.array(dtype=vec3),
        order: wp.array(dtype=int),
        starts: wp.array(dtype=int),
        box: wp.array(dtype=vec3),
        sides: wp.array(dtype=real),
        shape: wp.array(dtype=int),
        tolerance: real,
        allowed: wp.int64,
        crowd: wp.array(dtype=wp.int64),
        idx: wp.array(dtype=wp.int64),
    ):
        nx = shape[0]
        ny = shape[1]
        nz = shape[2]
        inverse = real(1.0) / sides[0]
        begin = (first + step * wp.tid()) * run
        found = wp.int32(0)
        for i in range(begin, wp.min(begin + run, queries.shape[0])):
            if crowd[0] > allowed:
                return
            excess = wp.int32(0)
            p = queries[i]
            u = (p - box[0]) * inverse
            size = real(wp.max(nx, wp.max(ny, nz)))
            # Rounding may move a point or the end of a row by this much, in cells.
            slack = tolerance * (size + wp.max(wp.max(wp.abs(u[0]), wp.abs(u[1])), wp.abs(u[2])))
            own_y = cell(u[1], ny)
            own_z = cell(u[2], nz)
            own = wp.min(starts[(own_z * ny + own_y) * nx + cell(u[0], nx)], points.shape[0] - 1)
            best = wp.length_sq(points[found] - p)
            if wp.length_sq(points[own] - p) < best:
                found = own
                best = wp.length_sq(points[found] - p)
            bound = best * inverse * inverse
            out = wp.max(wp.max(box[0] - p, p - box[1]), vec3()) * inverse
            down_z = own_z
            up_z = own_z + 1
            # This form of the comparison ends the search for NaN, too.
            searching = best > real(0.0)
            while searching:
                gap_z = below(u[2], down_z, slack)
                z = int(down_z)
                if above(u[2], up_z, nz, slack) < gap_z:
                    gap_z = above(u[2], up_z, nz, slack)
                    z = up_z
                    up_z += 1
                else:
                    down_z -= 1
                searching = gap_z * gap_z + out[1] * out[1] + out[0] * out[0] < bound
                down_y = own_y
                up_y = own_y + 1
                in_slab = bool(searching)
                while in_slab:
                    gap_y = below(u[1], down_y, slack)
                    y = int(down_y)
                    if above(u[1], up_y, ny, slack) < gap_y:
                        gap_y = above(u[1], up_y, ny, slack)
                        y = up_y
                        up_y += 1
                    else:
                        down_y -= 1
                    gap = gap_z * gap_z + gap_y * gap_y
                    in_slab = gap + out[0] * out[0] < bound
                    if in_slab:
                        reach = wp.sqrt(bound - gap) + slack
                        left = cell(u[0] - reach, nx)
                        right = cell(u[0] + reach, nx)
                        row = (z * ny + y) * nx
                        start = starts[row + left]
                        end = starts[row + right + 1]
                        excess += wp.max(end - start - wp.static(CROWD) * (right - left + 1), 0)
                        for j in range(start, end):
                            squared = wp.length_sq(points[j] - p)
                            if squared < best:
                                best = squared
                                found = j
                        bound = best * inverse * inverse
            idx[query_order[i]] = wp.int64(order[found])
            if excess > 0:
                crowd[0] = crowd[0] + wp.int64(excess)

    return locals()
