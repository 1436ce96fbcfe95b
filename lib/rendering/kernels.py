"""The renderer's kernels in Warp: one source for the CPU and CUDA, compiled at first use.

The formulas are those of `reference`; the gradients are written by hand. Memory is proportional to images × (pixels +
faces). Every gradient is summed by one owner in a fixed order, so on the CPU results are the same from run to run and
for any number of threads; on CUDA only the soft silhouette adds atomically, and its last digit may vary.
"""

# Warp reads the annotations of kernels at run time, so they cannot be postponed here.

import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.launch import Kernels
from lib.rendering.reference import TAIL

# Where Π (1 − p) is below e^−30 ≈ 1e-13, the mask is 1 to machine precision and its gradient is left out.
OPAQUE = -30.0
# On CUDA, the rows of a face are dealt out to this many threads.
BANDS = 8


@Kernels
def kernels(kernel, real, vec2, vec3):
    @wp.func
    def cross(a: vec2, b: vec2):
        return a[0] * b[1] - a[1] * b[0]

    @wp.func
    def corner(verts: wp.array2d(dtype=vec3), faces: wp.array2d(dtype=wp.int64), b: int, f: int, k: int):
        return verts[b, int(faces[f, k])]

    @wp.func
    def flat(v: vec3):
        return vec2(v[0], v[1])

    @wp.func
    def center(index: int, length: int, side: int):
        """The coordinate of a pixel's centre."""
        return real(2 * index + 1 - length) / real(side)

    @wp.func
    def first_pixel(x: real, length: int, side: int):
        """The first pixel whose centre is not before x."""
        place = (x * real(side) + real(length - 1)) * real(0.5)
        return int(wp.clamp(wp.ceil(place), real(0.0), real(length)))

    @wp.func
    def last_pixel(x: real, length: int, side: int):
        place = (x * real(side) + real(length - 1)) * real(0.5)
        return int(wp.clamp(wp.floor(place), real(-1.0), real(length - 1)))

    @wp.func
    def inside(p: vec2, a: vec2, b: vec2, c: vec2):
        area = cross(b - a, c - a)
        wa = cross(b - p, c - p)
        wb = cross(c - p, a - p)
        wc = cross(a - p, b - p)
        if area < real(0.0):
            wa, wb, wc = -wa, -wb, -wc
        return area != real(0.0) and wa >= real(0.0) and wb >= real(0.0) and wc >= real(0.0)

    @wp.func
    def along(offset: vec2, edge: vec2, inverse: real):
        """How far along an edge, in [0, 1], its nearest point to `offset` lies."""
        return wp.clamp(wp.dot(offset, edge) * inverse, real(0.0), real(1.0))

    @wp.func
    def inverse_square(edge: vec2):
        return real(1.0) / wp.max(wp.dot(edge, edge), real(1e-37))

    @wp.struct
    class Border:
        """The nearest point of a triangle's border: on the edge from corner k, a share t along; the way from there."""

        k: int
        t: real
        away: vec2
        squared: real

    @wp.func
    def nearest_border(p: vec2, a: vec2, b: vec2, c: vec2, inverse: vec3):
        """inverse: one over the squared lengths of the edges from a, b, c."""
        ta = along(p - a, b - a, inverse[0])
        tb = along(p - b, c - b, inverse[1])
        tc = along(p - c, a - c, inverse[2])
        ra = p - a - ta * (b - a)
        rb = p - b - tb * (c - b)
        rc = p - c - tc * (a - c)
        border = Border(0, ta, ra, wp.dot(ra, ra))
        if wp.dot(rb, rb) < border.squared:
            border = Border(1, tb, rb, wp.dot(rb, rb))
        if wp.dot(rc, rc) < border.squared:
            border = Border(2, tc, rc, wp.dot(rc, rc))
        return border

    @wp.func
    def inverse_squares(a: vec2, b: vec2, c: vec2):
        return vec3(inverse_square(b - a), inverse_square(c - b), inverse_square(a - c))

    @wp.func
    def inward(edge: vec2, area: real):
        """The edge's unit normal towards the inside of a triangle of this signed area."""
        scale = wp.sqrt(inverse_square(edge))
        if area < real(0.0):
            scale = -scale
        return vec2(-edge[1], edge[0]) * scale

    @wp.func
    def weights_at(p: vec2, a: vec3, b: vec3, c: vec3):
        pa = flat(a) - p
        pb = flat(b) - p
        pc = flat(c) - p
        area = cross(flat(b) - flat(a), flat(c) - flat(a))
        return vec3(cross(pb, pc), cross(pc, pa), cross(pa, pb)) / area

    @wp.func
    def depth_at(w: vec3, a: vec3, b: vec3, c: vec3, perspective: bool):
        if perspective:
            return real(1.0) / (w[0] / a[2] + w[1] / b[2] + w[2] / c[2])
        return w[0] * a[2] + w[1] * b[2] + w[2] * c[2]

    @kernel
    def silhouette_forward(
        first: int,
        step: int,
        bands: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        sigma: real,
        radius: real,
        log_empty: wp.array3d(dtype=real),
    ):
        item = first + step * wp.tid()
        band = item % bands
        f = item // bands % faces.shape[0]
        image = item // (bands * faces.shape[0])
        height, width = log_empty.shape[1], log_empty.shape[2]
        side = wp.min(height, width)
        a = flat(corner(verts, faces, image, f, 0))
        b = flat(corner(verts, faces, image, f, 1))
        c = flat(corner(verts, faces, image, f, 2))
        low = wp.min(wp.min(a, b), c)
        high = wp.max(wp.max(a, b), c)
        left = first_pixel(low[0] - radius, width, side)
        right = last_pixel(high[0] + radius, width, side)
        top = first_pixel(low[1] - radius, height, side)
        bottom = last_pixel(high[1] + radius, height, side)
        # The first row of this band, at or below the box's top.
        row = top + (band - top % bands + bands) % bands
        area = cross(b - a, c - a)
        inverse = inverse_squares(a, b, c)
        na = inward(b - a, area)
        nb = inward(c - b, area)
        nc = inward(a - c, area)
        while row <= bottom:
            y = center(row, height, side)
            for column in range(left, right + 1):
                p = vec2(center(column, width, side), y)
                # The signed distance to the nearest, or furthest transgressed, of the three edges' lines.
                line = wp.min(wp.min(wp.dot(p - a, na), wp.dot(p - b, nb)), wp.dot(p - c, nc))
                if line >= real(0.0) and area != real(0.0):
                    x = line * line / sigma
                    wp.atomic_sub(log_empty, image, row, column, x + wp.log(real(1.0) + wp.exp(-x)))
                elif line >= -radius or area == real(0.0):
                    squared = nearest_border(p, a, b, c, inverse).squared
                    if squared <= radius * radius:
                        wp.atomic_sub(log_empty, image, row, column, wp.log(real(1.0) + wp.exp(-squared / sigma)))
            row += bands

    @kernel
    def silhouette_backward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        sigma: real,
        radius: real,
        weight: wp.array3d(dtype=real),
        grad: wp.array3d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        image = item // faces.shape[0]
        f = item % faces.shape[0]
        height, width = weight.shape[1], weight.shape[2]
        side = wp.min(height, width)
        a = flat(corner(verts, faces, image, f, 0))
        b = flat(corner(verts, faces, image, f, 1))
        c = flat(corner(verts, faces, image, f, 2))
        low = wp.min(wp.min(a, b), c)
        high = wp.max(wp.max(a, b), c)
        left = first_pixel(low[0] - radius, width, side)
        right = last_pixel(high[0] + radius, width, side)
        area = cross(b - a, c - a)
        inverse = inverse_squares(a, b, c)
        na = inward(b - a, area)
        nb = inward(c - b, area)
        nc = inward(a - c, area)
        grad_a = vec2()
        grad_b = vec2()
        grad_c = vec2()
        for row in range(first_pixel(low[1] - radius, height, side), last_pixel(high[1] + radius, height, side) + 1):
            y = center(row, height, side)
            for column in range(left, right + 1):
                share = weight[image, row, column]
                if share != real(0.0):
                    p = vec2(center(column, width, side), y)
                    line = wp.min(wp.min(wp.dot(p - a, na), wp.dot(p - b, nb)), wp.dot(p - c, nc))
                    if line < -radius and area != real(0.0):
                        continue
                    border = nearest_border(p, a, b, c, inverse)
                    x = -border.squared / sigma
                    if line >= real(0.0) and area != real(0.0):
                        x = -x
                        share = -share
                    elif border.squared > radius * radius:
                        continue
                    # d sigmoid-product / d distance, times d distance / d corner = −2 (1 − t) away or −2 t away.
                    pull = real(2.0) * share / sigma / (real(1.0) + wp.exp(-x)) * border.away
                    to_start = (real(1.0) - border.t) * pull
                    to_end = border.t * pull
                    if border.k == 0:
                        grad_a += to_start
                        grad_b += to_end
                    elif border.k == 1:
                        grad_b += to_start
                        grad_c += to_end
                    else:
                        grad_c += to_start
                        grad_a += to_end
        grad[image, f, 0] = vec3(grad_a[0], grad_a[1], real(0.0))
        grad[image, f, 1] = vec3(grad_b[0], grad_b[1], real(0.0))
        grad[image, f, 2] = vec3(grad_c[0], grad_c[1], real(0.0))

    @kernel
    def nearest_face(
        first: int,
        step: int,
        bands: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        perspective: bool,
        key: wp.array3d(dtype=wp.int64),
    ):
        item = first + step * wp.tid()
        band = item % bands
        f = item // bands % faces.shape[0]
        image = item // (bands * faces.shape[0])
        height, width = key.shape[1], key.shape[2]
        side = wp.min(height, width)
        va = corner(verts, faces, image, f, 0)
        vb = corner(verts, faces, image, f, 1)
        vc = corner(verts, faces, image, f, 2)
        low = wp.min(wp.min(va, vb), vc)
        high = wp.max(wp.max(va, vb), vc)
        left = first_pixel(low[0], width, side)
        right = last_pixel(high[0], width, side)
        top = first_pixel(low[1], height, side)
        bottom = last_pixel(high[1], height, side)
        row = top + (band - top % bands + bands) % bands
        while row <= bottom:
            y = center(row, height, side)
            for column in range(left, right + 1):
                p = vec2(center(column, width, side), y)
                if inside(p, flat(va), flat(vb), flat(vc)):
                    depth = depth_at(weights_at(p, va, vb, vc), va, vb, vc, perspective)
                    # Depth above, face below, in one integer: its minimum is the nearest face, the first among equals.
                    bits = wp.cast(wp.float32(depth), wp.int32)
                    if bits < 0:
                        bits = bits ^ 0x7FFFFFFF
                    wp.atomic_min(key, image, row, column, (wp.int64(bits) << wp.int64(32)) + wp.int64(f))
            row += bands

    @kernel
    def fragments_forward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        perspective: bool,
        face: wp.array3d(dtype=wp.int64),
        depth: wp.array3d(dtype=real),
        barycentrics: wp.array3d(dtype=vec3),
        distance: wp.array3d(dtype=real),
    ):
        item = first + step * wp.tid()
        height, width = face.shape[1], face.shape[2]
        side = wp.min(height, width)
        column = item % width
        row = item // width % height
        image = item // (width * height)
        f = int(face[image, row, column])
        if f >= 0:
            p = vec2(center(column, width, side), center(row, height, side))
            a = corner(verts, faces, image, f, 0)
            b = corner(verts, faces, image, f, 1)
            c = corner(verts, faces, image, f, 2)
            w = weights_at(p, a, b, c)
            z = depth_at(w, a, b, c, perspective)
            if perspective:
                w = vec3(w[0] / a[2], w[1] / b[2], w[2] / c[2]) * z
            depth[image, row, column] = z
            barycentrics[image, row, column] = w
            distance[image, row, column] = -nearest_border(
                p, flat(a), flat(b), flat(c), inverse_squares(flat(a), flat(b), flat(c))
            ).squared

    @kernel
    def fragments_backward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        perspective: bool,
        face: wp.array3d(dtype=wp.int64),
        grad_depth: wp.array3d(dtype=real),
        grad_barycentrics: wp.array3d(dtype=vec3),
        grad_distance: wp.array3d(dtype=real),
        grad: wp.array3d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        image = item // faces.shape[0]
        f = item % faces.shape[0]
        height, width = face.shape[1], face.shape[2]
        side = wp.min(height, width)
        va = corner(verts, faces, image, f, 0)
        vb = corner(verts, faces, image, f, 1)
        vc = corner(verts, faces, image, f, 2)
        a = flat(va)
        b = flat(vb)
        c = flat(vc)
        low = wp.min(wp.min(a, b), c)
        high = wp.max(wp.max(a, b), c)
        area = cross(b - a, c - a)
        left = first_pixel(low[0], width, side)
        right = last_pixel(high[0], width, side)
        grad_a = vec3()
        grad_b = vec3()
        grad_c = vec3()
        for row in range(first_pixel(low[1], height, side), last_pixel(high[1], height, side) + 1):
            for column in range(left, right + 1):
                if int(face[image, row, column]) == f:
                    p = vec2(center(column, width, side), center(row, height, side))
                    w = weights_at(p, va, vb, vc)
                    gz = grad_depth[image, row, column]
                    g = grad_barycentrics[image, row, column]
                    if perspective:
                        # v_k = (w_k / z_k) z with z = 1 / Σ (w/z): first the gradient in q_k = w_k / z_k.
                        inverse = vec3(real(1.0) / va[2], real(1.0) / vb[2], real(1.0) / vc[2])
                        q = wp.cw_mul(w, inverse)
                        z = real(1.0) / (q[0] + q[1] + q[2])
                        common = z * z * (wp.dot(g, q) + gz)
                        gq = g * z - vec3(common, common, common)
                        dz = -wp.cw_mul(wp.cw_mul(gq, q), inverse)
                        grad_a += vec3(real(0.0), real(0.0), dz[0])
                        grad_b += vec3(real(0.0), real(0.0), dz[1])
                        grad_c += vec3(real(0.0), real(0.0), dz[2])
                        g = wp.cw_mul(gq, inverse)
                    else:
                        grad_a += vec3(real(0.0), real(0.0), gz * w[0])
                        grad_b += vec3(real(0.0), real(0.0), gz * w[1])
                        grad_c += vec3(real(0.0), real(0.0), gz * w[2])
                        g += vec3(va[2], vb[2], vc[2]) * gz
                    # The weights' slopes on the screen; moving corner k by δ acts as moving the pixel by −w_k δ.
                    ab = b - a
                    bc = c - b
                    ca = a - c
                    across = (g[0] * bc + g[1] * ca + g[2] * ab) / area
                    slope = vec3(-across[1], across[0], real(0.0))
                    grad_a -= w[0] * slope
                    grad_b -= w[1] * slope
                    grad_c -= w[2] * slope
                    gd = grad_distance[image, row, column]
                    if gd != real(0.0):
                        border = nearest_border(p, a, b, c, inverse_squares(a, b, c))
                        pull = real(2.0) * gd * vec3(border.away[0], border.away[1], real(0.0))
                        if border.k == 0:
                            grad_a += (real(1.0) - border.t) * pull
                            grad_b += border.t * pull
                        elif border.k == 1:
                            grad_b += (real(1.0) - border.t) * pull
                            grad_c += border.t * pull
                        else:
                            grad_c += (real(1.0) - border.t) * pull
                            grad_a += border.t * pull
        grad[image, f, 0] = grad_a
        grad[image, f, 1] = grad_b
        grad[image, f, 2] = grad_c

    @wp.func
    def ramp(
        image: wp.array4d(dtype=real),
        grad_image: wp.array4d(dtype=real),
        b: int,
        axis: int,
        line: int,
        pixel: int,
        source: int,
        way: real,
    ):
        """The loss's gradient in the crossing's place, if there pixel `pixel` takes the colour of `source`."""
        gain = real(0.0)
        for channel in range(image.shape[1]):
            if axis == 0:
                jump = image[b, channel, line, source] - image[b, channel, line, pixel]
                gain += grad_image[b, channel, line, pixel] * jump
            else:
                jump = image[b, channel, source, line] - image[b, channel, pixel, line]
                gain += grad_image[b, channel, pixel, line] * jump
        return wp.min(gain, real(0.0)) / way

    @wp.func
    def face_seen(face: wp.array3d(dtype=wp.int64), b: int, axis: int, line: int, pixel: int):
        if axis == 0:
            return int(face[b, line, pixel])
        return int(face[b, pixel, line])

    @kernel
    def edge_backward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        face: wp.array3d(dtype=wp.int64),
        image: wp.array4d(dtype=real),
        grad_image: wp.array4d(dtype=real),
        grad: wp.array3d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        b = item // faces.shape[0]
        f = item % faces.shape[0]
        side = wp.min(face.shape[1], face.shape[2])
        pitch = real(2.0) / real(side)
        for k in range(3):
            start = corner(verts, faces, b, f, k)
            end = corner(verts, faces, b, f, (k + 1) % 3)
            opposite = corner(verts, faces, b, f, (k + 2) % 3)
            for axis in range(2):
                across = 1 - axis
                lines = face.shape[1 + axis]
                length = face.shape[2 - axis]
                run = end[across] - start[across]
                from_line = first_pixel(wp.min(start[across], end[across]), lines, side)
                to_line = first_pixel(wp.max(start[across], end[across]), lines, side)
                grad_start = real(0.0)
                grad_end = real(0.0)
                for line in range(from_line, to_line):
                    t = (center(line, lines, side) - start[across]) / run
                    place = start[axis] + t * (end[axis] - start[axis])
                    hinge = start[axis] + (end[axis] - start[axis]) / run * (opposite[across] - start[across])
                    crossing = place / pitch + real(length - 1) * real(0.5)
                    outward = int(wp.sign(hinge - opposite[axis]))
                    if hinge == opposite[axis] or crossing < real(-1.0) or crossing > real(length):
                        continue
                    inner = int(wp.ceil(crossing))
                    if outward > 0:
                        inner = int(wp.floor(crossing))
                    outer = inner + outward
                    if outer < 0 or outer >= length:
                        continue
                    slide = real(0.0)
                    if inner >= 0 and inner < length:
                        if face_seen(face, b, axis, line, inner) == f:
                            pixel = outer
                            while pixel >= 0 and pixel < length:
                                way = wp.max(wp.abs(center(pixel, length, side) - place), pitch * real(0.5))
                                slide += ramp(image, grad_image, b, axis, line, pixel, inner, real(outward) * way)
                                pixel += outward
                    far = opposite[axis]
                    if outward > 0:
                        far = wp.min(far, wp.min(start[axis], end[axis]))
                    else:
                        far = wp.max(far, wp.max(start[axis], end[axis]))
                    pixel = inner
                    while (
                        pixel >= 0
                        and pixel < length
                        and (center(pixel, length, side) - far) * real(outward) >= real(0.0)
                    ):
                        if face_seen(face, b, axis, line, pixel) == f:
                            way = wp.max(wp.abs(center(pixel, length, side) - place), pitch * real(0.5))
                            slide -= ramp(image, grad_image, b, axis, line, pixel, outer, real(outward) * way)
                        pixel -= outward
                    grad_start += (real(1.0) - t) * slide
                    grad_end += t * slide
                if axis == 0:
                    grad[b, f, k] += vec3(grad_start, real(0.0), real(0.0))
                    grad[b, f, (k + 1) % 3] += vec3(grad_end, real(0.0), real(0.0))
                else:
                    grad[b, f, k] += vec3(real(0.0), grad_start, real(0.0))
                    grad[b, f, (k + 1) % 3] += vec3(real(0.0), grad_end, real(0.0))

    @kernel
    def hide(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        tolerance: wp.array(dtype=real),
        perspective: bool,
        low: wp.array(dtype=vec2),
        cell: wp.array(dtype=vec2),
        starts: wp.array3d(dtype=wp.int64),
        order: wp.array(dtype=wp.int64),
        hidden: wp.array2d(dtype=wp.uint8),
    ):
        item = first + step * wp.tid()
        image = item // faces.shape[0]
        f = item % faces.shape[0]
        a = corner(verts, faces, image, f, 0)
        b = corner(verts, faces, image, f, 1)
        c = corner(verts, faces, image, f, 2)
        cells = starts.shape[1]
        near = wp.cw_div(wp.min(wp.min(flat(a), flat(b)), flat(c)) - low[image], cell[image])
        far = wp.cw_div(wp.max(wp.max(flat(a), flat(b)), flat(c)) - low[image], cell[image])
        for row in range(int(near[1]), wp.min(int(far[1]), cells - 1) + 1):
            for column in range(int(near[0]), wp.min(int(far[0]), cells - 1) + 1):
                for slot in range(int(starts[image, row, column]), int(starts[image, row, column + 1])):
                    v = int(order[slot])
                    index = wp.int64(v)
                    if faces[f, 0] == index or faces[f, 1] == index or faces[f, 2] == index:
                        continue
                    point = verts[image, v]
                    if inside(flat(point), flat(a), flat(b), flat(c)):
                        z = depth_at(weights_at(flat(point), a, b, c), a, b, c, perspective)
                        if z < point[2] - tolerance[image]:
                            hidden[image, v] = wp.uint8(1)

    @kernel
    def gather(
        first: int,
        step: int,
        starts: wp.array(dtype=wp.int64),
        order: wp.array(dtype=wp.int64),
        per_corner: wp.array2d(dtype=vec3),
        per_vertex: wp.array2d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        image = item // per_vertex.shape[1]
        v = item % per_vertex.shape[1]
        total = vec3()
        for slot in range(int(starts[v]), int(starts[v + 1])):
            total += per_corner[image, int(order[slot])]
        per_vertex[image, v] = total

    return locals()


def _bands(verts: Tensor) -> int:
    """Into how many bands of rows, every n-th row one, an image is dealt out; on the CPU one a thread, its owner."""
    return torch.get_num_threads() if verts.device.type == "cpu" else BANDS


def _to_vertices(per_corner: Float[Tensor, "B F 3 3"], verts: Tensor, faces: Int[Tensor, "F 3"]) -> Tensor:
    """Sum the corners' gradients at each vertex, in a fixed order."""
    order = faces.flatten().argsort(stable=True)
    counts = torch.bincount(faces.flatten(), minlength=verts.shape[1])
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    result = torch.zeros_like(verts)
    kernels.launch("gather", verts.shape[0] * verts.shape[1], verts, starts, order, per_corner.flatten(1, 2), result)
    return result


class _Silhouette(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts: Tensor, faces: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
        log_empty = verts.new_zeros(len(verts), *size)
        radius, bands = (TAIL * sigma) ** 0.5, _bands(verts)
        kernels.launch(
            "silhouette_forward", len(verts) * len(faces) * bands, verts, bands, verts, faces, sigma, radius, log_empty
        )
        ctx.save_for_backward(verts, faces, log_empty)
        ctx.sigma = sigma
        return 0 - torch.expm1(log_empty)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        verts, faces, log_empty = ctx.saved_tensors
        weight = (grad * log_empty.exp()).masked_fill(log_empty < OPAQUE, 0)
        corners = verts.new_empty(len(verts), len(faces), 3, 3)
        radius = (TAIL * ctx.sigma) ** 0.5
        items = len(verts) * len(faces)
        kernels.launch("silhouette_backward", items, verts, verts, faces, ctx.sigma, radius, weight, corners)
        return _to_vertices(corners, verts, faces), None, None, None


def silhouette(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "B H W"]:
    return _Silhouette.apply(verts.contiguous(), faces.contiguous(), size, sigma)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts: Tensor, faces: Tensor, size: tuple[int, int], perspective: bool) -> tuple[Tensor, ...]:
        empty, bands = torch.iinfo(torch.int64).max, _bands(verts)
        key = torch.full((len(verts), *size), empty, dtype=torch.int64, device=verts.device)
        kernels.launch("nearest_face", len(verts) * len(faces) * bands, verts, bands, verts, faces, perspective, key)
        face = torch.where(key == empty, -1, key & 0xFFFFFFFF)
        depth, distance = (verts.new_full(face.shape, torch.inf) for _ in range(2))
        barycentrics = verts.new_zeros(*face.shape, 3)
        outputs = (depth, barycentrics, distance)
        kernels.launch("fragments_forward", face.numel(), verts, verts, faces, perspective, face, *outputs)
        ctx.save_for_backward(verts, faces, face)
        ctx.perspective = perspective
        ctx.mark_non_differentiable(face)
        return face, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, _: Tensor, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        verts, faces, face = ctx.saved_tensors
        corners = verts.new_empty(len(verts), len(faces), 3, 3)
        grads = [grad.contiguous() for grad in grads]
        inputs = (verts, faces, ctx.perspective, face, *grads, corners)
        kernels.launch("fragments_backward", len(verts) * len(faces), verts, *inputs)
        return _to_vertices(corners, verts, faces), None, None, None


def rasterize(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], perspective: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _Rasterize.apply(verts.contiguous(), faces.contiguous(), size, perspective)


class _EdgeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor, face: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
        ctx.save_for_backward(image, face, verts, faces)
        return image.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        image, face, verts, faces = ctx.saved_tensors
        corners = verts.new_zeros(len(verts), len(faces), 3, 3)
        inputs = (verts, faces, face, image, grad.to(verts.dtype).contiguous(), corners)
        kernels.launch("edge_backward", len(verts) * len(faces), verts, *inputs)
        return grad, None, _to_vertices(corners, verts, faces), None


def edge_gradient(
    image: Float[Tensor, "B C H W"],
    face: Int[Tensor, "B H W"],
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
) -> Float[Tensor, "B C H W"]:
    """The image unchanged; backward, the Neural Mesh Renderer's gradient for the vertices (see `reference`)."""
    return _EdgeGradient.apply(image.contiguous(), face, verts.contiguous(), faces.contiguous())


def visible_vertices(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], tolerance: Float[Tensor, "B"], perspective: bool
) -> Bool[Tensor, "B V"]:
    """As in `reference`, but each face meets only the vertices in the cells of a grid that its box touches."""
    verts, faces = verts.contiguous(), faces.contiguous()
    batch, count = verts.shape[:2]
    cells = int(count**0.5) + 1
    low = verts[..., :2].amin(1)
    cell = ((verts[..., :2].amax(1) - low) / cells).clamp(min=1e-30) * (1 + 1e-5)
    column, row = ((verts[..., :2] - low[:, None]) / cell[:, None]).long().clamp(max=cells - 1).unbind(-1)
    slots = (torch.arange(batch, device=verts.device)[:, None] * cells + row) * (cells + 1) + column
    counts = torch.bincount(slots.flatten(), minlength=batch * cells * (cells + 1))
    starts = (counts.cumsum(0) - counts).view(batch, cells, cells + 1)
    order = slots.flatten().argsort(stable=True) % count
    hidden = torch.zeros(batch, count, dtype=torch.uint8, device=verts.device)
    inputs = (verts, faces, tolerance, perspective, low, cell, starts, order, hidden)
    kernels.launch("hide", batch * len(faces), verts, *inputs)
    return hidden == 0
