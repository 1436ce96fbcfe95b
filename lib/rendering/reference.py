"""The renderer in plain PyTorch, written to be read.

Everything starts from one list of pairs: each face with each pixel of its bounding box. On that list edge functions,
barycentrics and distances are ordinary tensor arithmetic, and a scatter puts the result into the image.
Coordinates are isotropic: pixel (row i, column j) lies at ((2j + 1 − W) / m, (2i + 1 − H) / m), m = min(H, W).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# A face adds less than e^−18 ≈ 1.5e-8 to a pixel whose squared distance exceeds 18 σ: too little for float32.
TAIL = 18.0


def pixel_centers(size: tuple[int, int], like: Tensor) -> Float[Tensor, "H*W 2"]:
    """The (x, y) of all pixel centres, row by row."""
    height, width = size
    y = (2 * torch.arange(height, dtype=like.dtype, device=like.device) + 1 - height) / min(size)
    x = (2 * torch.arange(width, dtype=like.dtype, device=like.device) + 1 - width) / min(size)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)


def face_pixel_pairs(corners: Float[Tensor, "N 3 2"], size: tuple[int, int], radius: float) -> tuple[Tensor, Tensor]:
    """List the pairs (triangle, pixel) where the pixel lies in the triangle's bounding box, enlarged by `radius`.

    Returns the triangles' indices and the pixels' indices (row · W + column), two int64 tensors of equal length.
    """
    image = torch.tensor([size[1], size[0]], device=corners.device)
    low = ((corners.detach().amin(1) - radius) * min(size) + image - 1) / 2
    high = ((corners.detach().amax(1) + radius) * min(size) + image - 1) / 2
    low = low.ceil().clamp(min=0).minimum(image.to(low.dtype)).long()
    high = high.floor().clamp(min=-1).minimum(image.to(low.dtype) - 1).long()
    box = (high - low + 1).clamp(min=0)
    count = box.prod(-1)
    triangle = torch.repeat_interleave(torch.arange(len(corners), device=corners.device), count)
    rank = torch.arange(len(triangle), device=corners.device) - (count.cumsum(0) - count)[triangle]
    column = low[triangle, 0] + rank % box[triangle, 0]
    row = low[triangle, 1] + rank // box[triangle, 0]
    return triangle, row * size[1] + column


def cross(a: Float[Tensor, "... 2"], b: Float[Tensor, "... 2"]) -> Float[Tensor, "..."]:
    """The third component of the cross product: twice the signed area of the triangle (0, a, b)."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def barycentrics(point: Float[Tensor, "N 2"], corners: Float[Tensor, "N 3 2"]) -> Float[Tensor, "N 3"]:
    """The weights w with Σ w = 1 and Σ w_k corner_k = point, ratios of areas; (−1, −1, −1) if the area is zero."""
    a, b, c = (corners - point[:, None]).unbind(1)
    areas = torch.stack([cross(b, c), cross(c, a), cross(a, b)], -1)
    total = cross(b - a, c - a)[:, None]
    return torch.where(total != 0, areas / torch.where(total != 0, total, 1.0), -1.0)


def signed_squared_distance(point: Float[Tensor, "N 2"], corners: Float[Tensor, "N 3 2"]) -> Float[Tensor, "N"]:
    """The squared distance of a point to the triangle's border, negative inside."""
    edge = corners.roll(-1, 1) - corners
    offset = point[:, None] - corners
    along = (offset * edge).sum(-1) / (edge * edge).sum(-1).clamp(min=torch.finfo(edge.dtype).tiny)
    nearest = offset - along.clamp(0, 1)[..., None] * edge
    distance = (nearest * nearest).sum(-1).amin(-1)
    inside = (barycentrics(point, corners).detach() >= 0).all(-1)
    return torch.where(inside, -distance, distance)


def silhouette(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "B H W"]:
    """The mask 1 − Π_j (1 − sigmoid(−d_j / σ)), d_j the signed squared distance to face j (Liu et al., eqs. 1, 4)."""
    corners = verts[:, faces, :2].flatten(0, 1)
    triangle, pixel = face_pixel_pairs(corners, size, (TAIL * sigma) ** 0.5)
    distance = signed_squared_distance(pixel_centers(size, verts)[pixel], corners[triangle])
    log_empty = -torch.nn.functional.softplus(-distance / sigma, threshold=50)
    image = triangle // max(len(faces), 1)
    total = log_empty.new_zeros(len(verts) * size[0] * size[1])
    total = total.index_add(0, image * (size[0] * size[1]) + pixel, log_empty)
    return 0 - torch.expm1(total).view(len(verts), *size)


def pixel_depth(weights: Float[Tensor, "N 3"], z: Float[Tensor, "N 3"], perspective: bool) -> tuple[Tensor, Tensor]:
    """Return the depth at each pixel, and the barycentrics to interpolate with.

    In the image 1/z is linear, not z. So with `perspective` the weights w become (w/z) / Σ(w/z), and the depth is
    1 / Σ(w/z).
    """
    if not perspective:
        return (weights * z).sum(-1), weights
    inverse = weights / z
    total = inverse.sum(-1)
    return 1 / total, inverse / total[:, None]


def rasterize(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], perspective: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the nearest face at each pixel (the z-buffer), then its depth, barycentrics and distance, differentiable."""
    pixels = size[0] * size[1]
    triangles = verts[:, faces].flatten(0, 1)
    centers = pixel_centers(size, verts)
    with torch.no_grad():
        triangle, pixel = face_pixel_pairs(triangles[..., :2], size, 0.0)
        weights = barycentrics(centers[pixel], triangles[triangle, :, :2])
        inside = (weights >= 0).all(-1)
        triangle, pixel, weights = triangle[inside], pixel[inside], weights[inside]
        depth, _ = pixel_depth(weights, triangles[triangle, :, 2], perspective)
        slot = triangle // max(len(faces), 1) * pixels + pixel
        nearest = depth.new_full((len(verts) * pixels,), torch.inf).scatter_reduce(0, slot, depth, "amin")
        wins = depth == nearest[slot]
        winner = torch.full_like(nearest, len(triangles), dtype=torch.int64)
        winner = winner.scatter_reduce(0, slot[wins], triangle[wins], "amin")
        covered = (winner < len(triangles)).nonzero()[:, 0]
    corners = triangles[winner[covered]]
    weights = barycentrics(centers[covered % pixels], corners[..., :2])
    distance = signed_squared_distance(centers[covered % pixels], corners[..., :2])
    depth, weights = pixel_depth(weights, corners[..., 2], perspective)

    def image(values: Tensor, fill: float) -> Tensor:
        full = values.new_full((len(verts) * pixels, *values.shape[1:]), fill)
        return full.index_copy(0, covered, values).view(len(verts), *size, *values.shape[1:])

    face = image(winner[covered] % max(len(faces), 1), -1)
    return face, image(depth, torch.inf), image(weights, 0.0), image(distance, torch.inf)


def visible_vertices(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], tolerance: Float[Tensor, "B"], perspective: bool
) -> Bool[Tensor, "B V"]:
    """Tell for each vertex whether no face passes in front of it (its own excepted), by trying all faces."""
    hidden = torch.zeros(verts.shape[:2], dtype=torch.bool, device=verts.device)
    index = torch.arange(verts.shape[1], device=verts.device)
    for image in range(len(verts)):
        triangles = verts[image, faces]
        for chunk in index.split(max(1, 2**20 // max(len(faces), 1))):
            own = (chunk[:, None, None] == faces).any(-1)
            vertex, face = (~own).nonzero(as_tuple=True)
            weights = barycentrics(verts[image, chunk[vertex], :2], triangles[face, :, :2])
            depth, _ = pixel_depth(weights, triangles[face, :, 2], perspective)
            before = (weights >= 0).all(-1) & (depth < verts[image, chunk[vertex], 2] - tolerance[image])
            hidden[image, chunk[vertex[before]]] = True
    return ~hidden


class EdgeGradient(torch.autograd.Function):
    """Pass the image on unchanged; in the backward pass, give the vertices the Neural Mesh Renderer's gradient."""

    @staticmethod
    def forward(ctx, image: Tensor, face: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
        ctx.save_for_backward(image, face, verts, faces)
        return image.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        image, face, verts, faces = ctx.saved_tensors
        grad_verts = torch.zeros_like(verts)
        for b in range(len(verts)):
            for axis in (0, 1):
                lines = (image[b], face[b], grad[b]) if axis == 0 else (image[b].mT, face[b].mT, grad[b].mT)
                grad_verts[b, :, axis] = ramp_gradient(*lines, verts[b, :, [axis, 1 - axis]], faces)
        return grad, None, grad_verts, None


edge_gradient = EdgeGradient.apply


def ramp_gradient(
    image: Float[Tensor, "C L N"],
    face: Int[Tensor, "L N"],
    grad: Float[Tensor, "C L N"],
    verts: Float[Tensor, "V 2"],
    faces: Int[Tensor, "F 3"],
) -> Float[Tensor, "V"]:
    """Compute the gradient for the first coordinate of `verts`, along the image's lines (Kato et al., eqs. 1–5).

    An edge crosses a line of pixel centres at `place`. Imagine that the edge slides along this line. As soon as it
    reaches the centre of pixel p, this pixel changes its colour: a pixel outside the face takes the face's colour, a
    pixel inside takes the colour just outside. This jump, divided by the distance to p, is the gradient. Only jumps
    that lower the loss count. No distance counts as less than half a pixel.
    """
    count, length = face.shape
    pitch = 2 / min(face.shape)
    start, end, opposite = (verts[faces.roll(-k, 1).T].flatten(0, 1) for k in range(3))

    # Pair each edge with each line between its ends.
    low = (torch.minimum(start, end)[:, 1] / pitch + (count - 1) / 2).ceil().clamp(0, count).long()
    high = (torch.maximum(start, end)[:, 1] / pitch + (count - 1) / 2).ceil().clamp(0, count).long()
    edge = torch.repeat_interleave(torch.arange(len(start), device=verts.device), high - low)
    line = torch.arange(len(edge), device=verts.device) - ((high - low).cumsum(0) - high)[edge]
    start, end, opposite = start[edge], end[edge], opposite[edge]
    slope = (end - start)[:, 0] / (end - start)[:, 1]
    t = ((line - (count - 1) / 2) * pitch - start[:, 1]) / (end - start)[:, 1]
    place = start[:, 0] + t * (end - start)[:, 0]
    outward = (start[:, 0] + slope * (opposite - start)[:, 1] - opposite[:, 0]).sign()

    # The pixels on the two sides of the crossing.
    crossing = (place / pitch + (length - 1) / 2).clamp(-2, length + 1)
    inner = torch.where(outward > 0, crossing.floor(), crossing.ceil()).long()
    outer = inner + outward.long()
    has_inner, has_outer = (inner >= 0) & (inner < length), (outer >= 0) & (outer < length) & (outward != 0)
    inner, outer = inner.clamp(0, length - 1), outer.clamp(0, length - 1)

    own = edge % len(faces)
    pixel = torch.arange(length, device=verts.device)
    beyond = (pixel - inner[:, None]) * outward[:, None] > 0
    counts_beyond = beyond & (has_inner & has_outer & (face[line, inner] == own))[:, None]
    counts_within = ~beyond & has_outer[:, None] & (face[line] == own[:, None])
    after = torch.where(beyond[None], image[:, line, inner][..., None], image[:, line, outer][..., None])
    gain = (grad[:, line] * (after - image[:, line])).sum(0)
    gain = torch.where(counts_beyond | counts_within, gain.clamp(max=0), 0)
    way = (pixel - (length - 1) / 2) * pitch - place[:, None]
    way = torch.where(beyond, 1, -1) * way.abs().clamp(min=pitch / 2)
    slide = outward * (gain / way).sum(1)

    result = torch.zeros_like(verts[:, 0])
    corner = faces.T.flatten()[edge], faces.roll(-1, 1).T.flatten()[edge]
    return result.index_add(0, corner[0], (1 - t) * slide).index_add(0, corner[1], t * slide)
