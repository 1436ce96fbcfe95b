"""The renderer's kernels in Warp: one source for the CPU and CUDA, compiled at first use.

The formulas are those of `reference`; the gradients are written by hand. Memory is proportional to images × (pixels +
faces). Every pixel is drawn, and every gradient is summed, by one thread in a fixed order, or by a minimum, which does
not depend on the order. So results are the same from run to run and, on the CPU, for any number of threads.

The CPU and CUDA divide the work differently: a CPU has few threads, each of which computes several pixels at once; a
GPU has many threads, each of which computes one. In the forward pass a thread of the CPU draws some rows, face after
face. On CUDA a thread draws a face (the z-buffer) or a pixel (the soft silhouette, from lists of the faces that touch
each tile of the image).
"""

# Warp reads the annotations of kernels at run time, so they cannot be postponed here.

import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.remembered import remembered
from lib.rendering.reference import TAIL
from lib.warp_kernels import BLOCK, Kernels

# Number of neighbouring pixels of a row that are computed together, one in each lane of the CPU's vector unit. In the
# kernels the loops over `k` have no branches, so that the compiler can turn them into vector instructions.
STRIP = 8
# On CUDA the image is cut into tiles of this many pixels squared, each with the list of the faces that touch it.
TILE = 8
# Number of bits in a word of such a list, one for each face.
WORD = 32
# The large kernels keep to 128 registers, so that four blocks fit on a multiprocessor of CUDA.
BOUNDS = (BLOCK, 4)


def write(kernel, real, vec2, vec3, lanes):
    """Write the kernels. lanes: how many neighbouring pixels of a row are computed together."""
    strip = wp.types.vector(lanes, real)
    indices = wp.types.vector(lanes, wp.int64)
    triples = wp.types.matrix((lanes, 3), real)

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

    @wp.struct
    class Box:
        """Pixels, the first and the last included."""

        left: int
        right: int
        top: int
        bottom: int

    @wp.func
    def box_of(a: vec2, b: vec2, c: vec2, radius: real, height: int, width: int, band: int, rows: int):
        """The part of a triangle's bounding box, enlarged by `radius`, that lies in the band-th `rows` rows."""
        side = wp.min(height, width)
        low = wp.min(wp.min(a, b), c)
        high = wp.max(wp.max(a, b), c)
        return Box(
            first_pixel(low[0] - radius, width, side),
            last_pixel(high[0] + radius, width, side),
            wp.max(first_pixel(low[1] - radius, height, side), band * rows),
            wp.min(last_pixel(high[1] + radius, height, side), band * rows + rows - 1),
        )

    # One instruction each, unlike wp.min and wp.max, which ignore NaN.
    @wp.func
    def lesser(a: real, b: real):
        return wp.where(a < b, a, b)

    @wp.func
    def greater(a: real, b: real):
        return wp.where(a > b, a, b)

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
    def inverse_square(edge: vec2):
        return real(1.0) / wp.max(wp.dot(edge, edge), real(1e-37))

    @wp.struct
    class Border:
        """The nearest point of a triangle's border, at the share t of the edge from corner k; the vector from it."""

        k: int
        t: real
        away: vec2
        squared: real

    @wp.func
    def nearest_border(p: vec2, a: vec2, b: vec2, c: vec2, inverse: vec3):
        """Find the nearest point of the border. inverse: 1 over the squared lengths of the edges from a, b, c."""
        ta = wp.clamp(wp.dot(p - a, b - a) * inverse[0], real(0.0), real(1.0))
        tb = wp.clamp(wp.dot(p - b, c - b) * inverse[1], real(0.0), real(1.0))
        tc = wp.clamp(wp.dot(p - c, a - c) * inverse[2], real(0.0), real(1.0))
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

    @wp.struct
    class Edge:
        """The frame of an edge: its direction, its length, and the coordinates of its start along and across it."""

        direction: vec2
        length: real
        along: real
        across: real

    @wp.func
    def edge_from(start: vec2, end: vec2):
        length = greater(wp.length(end - start), real(1e-18))
        direction = vec2(real(1.0), real(0.0))
        if length > real(1e-18):
            direction = (end - start) / length
        return Edge(direction, length, wp.dot(start, direction), cross(direction, start))

    @wp.struct
    class Outline:
        """A triangle's edges in units of √σ, corner a at the origin; `turn`: 1, −1 or 0, the sign of its area."""

        a: Edge
        b: Edge
        c: Edge
        turn: real

    @wp.func
    def outline_of(a: vec2, b: vec2, c: vec2, scale: real):
        ab = (b - a) * scale
        ac = (c - a) * scale
        turn = real(0.0)
        if cross(b - a, c - a) > real(0.0):
            turn = real(1.0)
        if cross(b - a, c - a) < real(0.0):
            turn = real(-1.0)
        return Outline(edge_from(vec2(), ab), edge_from(ab, ac), edge_from(ac, vec2()), turn)

    @wp.func
    def along(edge: Edge, x: real, y: real):
        return x * edge.direction[0] + (y * edge.direction[1] - edge.along)

    @wp.func
    def across(edge: Edge, x: real, y: real):
        """The signed distance from the edge's line."""
        return (y * edge.direction[0] - edge.across) - x * edge.direction[1]

    @wp.func
    def onto(edge: Edge, place: real):
        """The nearest place between the edge's ends."""
        return lesser(greater(place, real(0.0)), edge.length)

    if real is wp.float64:

        @wp.func
        def exp_minus(x: real):
            return wp.exp(-x)

    else:

        @wp.func
        def exp_minus(x: real):
            """e^−x for x ≥ 0, with a relative error of 2e-7, without a call: 2^n e^r, |r| < 0.35, series of e^r."""
            x = lesser(x, real(80.0))
            n = wp.floor(real(0.5) - x * real(1.4426950))
            r = (-x - n * real(0.693145751953125)) - n * real(1.42860677e-6)
            series = real(1.0 / 120.0) + r * (real(1.0 / 720.0) + r * real(1.0 / 5040.0))
            series = real(1.0 / 6.0) + r * (real(1.0 / 24.0) + r * series)
            series = real(1.0) + r * (real(1.0) + r * (real(0.5) + r * series))
            return series * wp.cast((int(n) + 127) << 23, wp.float32)

    @wp.func
    def shares(edges: Outline, x: real, y: real):
        """The shares of a pixel that a face covers and leaves: sigmoid(± its squared distance to the face's border).

        Computed from e^−|x|, which cannot overflow. Each face takes its share of the part that the faces before it left
        free, which gives 1 − Π (1 − α) without cancellation.
        """
        da = across(edges.a, x, y)
        db = across(edges.b, x, y)
        dc = across(edges.c, x, y)
        sa = along(edges.a, x, y)
        sb = along(edges.b, x, y)
        sc = along(edges.c, x, y)
        ea = sa - onto(edges.a, sa)
        eb = sb - onto(edges.b, sb)
        ec = sc - onto(edges.c, sc)
        squared = lesser(lesser(da * da + ea * ea, db * db + eb * eb), dc * dc + ec * ec)
        within = lesser(lesser(da * edges.turn, db * edges.turn), dc * edges.turn)
        small = exp_minus(squared)
        small = wp.where(within > real(0.0) or squared < real(TAIL), small, real(0.0))
        large = real(1.0) / (real(1.0) + small)
        small = small * large
        return vec2(wp.where(within > real(0.0), large, small), wp.where(within > real(0.0), small, large))

    @wp.func
    def total(values: strip):
        result = real(0.0)
        for k in range(lanes):
            result += values[k]
        return result

    @kernel(launch_bounds=BOUNDS)
    def silhouette_backward(
        first: int,
        step: int,
        parts: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        scale: real,
        width: int,
        empty: wp.array3d(dtype=strip),
        grad_mask: wp.array3d(dtype=strip),
        grad: wp.array3d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        part = item % parts
        f = item // parts % faces.shape[0]
        image = item // (parts * faces.shape[0])
        height = empty.shape[1]
        side = wp.min(height, width)
        a = flat(corner(verts, faces, image, f, 0))
        b = flat(corner(verts, faces, image, f, 1))
        c = flat(corner(verts, faces, image, f, 2))
        box = box_of(a, b, c, wp.sqrt(real(TAIL)) / scale, height, width, 0, height)
        edges = outline_of(a, b, c, scale)
        pitch = real(2.0) * scale / real(side)
        ab = (b - a) * scale
        ac = (c - a) * scale
        grad_ax, grad_ay = strip(), strip()
        grad_bx, grad_by = strip(), strip()
        grad_cx, grad_cy = strip(), strip()
        for row in range(box.top + part, box.bottom + 1, parts):
            y = (center(row, height, side) - a[1]) * scale
            for s in range(box.left // lanes, box.right // lanes + 1):
                x0 = (center(lanes * s, width, side) - a[0]) * scale
                left = empty[image, row, s]
                gain = grad_mask[image, row, s]
                for k in range(lanes):
                    x = x0 + real(k) * pitch
                    da = across(edges.a, x, y)
                    db = across(edges.b, x, y)
                    dc = across(edges.c, x, y)
                    sa = along(edges.a, x, y)
                    sb = along(edges.b, x, y)
                    sc = along(edges.c, x, y)
                    ta = onto(edges.a, sa)
                    tb = onto(edges.b, sb)
                    tc = onto(edges.c, sc)
                    ra = da * da + (sa - ta) * (sa - ta)
                    rb = db * db + (sb - tb) * (sb - tb)
                    rc = dc * dc + (sc - tc) * (sc - tc)
                    on_a = ra <= rb and ra <= rc
                    on_b = rb <= rc and not on_a
                    squared = lesser(lesser(ra, rb), rc)
                    within = lesser(lesser(da * edges.turn, db * edges.turn), dc * edges.turn)
                    small = exp_minus(squared)
                    small = wp.where(within > real(0.0) or squared < real(TAIL), small, real(0.0))
                    large = real(1.0) / (real(1.0) + small)
                    pull = gain[k] * left[k] * wp.where(within > real(0.0), -large, small * large)
                    # The nearest point of the border is a weighted mean of the corners, and moves with them.
                    t = wp.where(on_a, ta, wp.where(on_b, tb, tc)) / wp.where(
                        on_a, edges.a.length, wp.where(on_b, edges.b.length, edges.c.length)
                    )
                    wb = wp.where(on_a, t, wp.where(on_b, real(1.0) - t, real(0.0)))
                    wc = wp.where(on_a, real(0.0), wp.where(on_b, t, real(1.0) - t))
                    pull_x = pull * (x - wb * ab[0] - wc * ac[0])
                    pull_y = pull * (y - wb * ab[1] - wc * ac[1])
                    grad_ax[k] += (real(1.0) - wb - wc) * pull_x
                    grad_ay[k] += (real(1.0) - wb - wc) * pull_y
                    grad_bx[k] += wb * pull_x
                    grad_by[k] += wb * pull_y
                    grad_cx[k] += wc * pull_x
                    grad_cy[k] += wc * pull_y
        grad[image, f * parts + part, 0] = real(2.0) * scale * vec3(total(grad_ax), total(grad_ay), real(0.0))
        grad[image, f * parts + part, 1] = real(2.0) * scale * vec3(total(grad_bx), total(grad_by), real(0.0))
        grad[image, f * parts + part, 2] = real(2.0) * scale * vec3(total(grad_cx), total(grad_cy), real(0.0))

    @kernel
    def fragments_forward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        perspective: bool,
        width: int,
        face: wp.array3d(dtype=indices),
        barycentrics: wp.array3d(dtype=vec3),
        distance: wp.array3d(dtype=real),
    ):
        item = first + step * wp.tid()
        height, strips = face.shape[1], face.shape[2]
        side = wp.min(height, width)
        s = item % strips
        row = item // strips % height
        image = item // (strips * height)
        seen = face[image, row, s]
        for k in range(lanes):
            column = lanes * s + k
            barycentrics[image, row, column] = vec3()
            distance[image, row, column] = real(wp.inf)
            f = int(seen[k])
            if f >= 0:
                p = vec2(center(column, width, side), center(row, height, side))
                a = corner(verts, faces, image, f, 0)
                b = corner(verts, faces, image, f, 1)
                c = corner(verts, faces, image, f, 2)
                w = weights_at(p, a, b, c)
                if perspective:
                    w = vec3(w[0] / a[2], w[1] / b[2], w[2] / c[2]) * depth_at(w, a, b, c, True)
                barycentrics[image, row, column] = w
                distance[image, row, column] = -nearest_border(
                    p, flat(a), flat(b), flat(c), inverse_squares(flat(a), flat(b), flat(c))
                ).squared

    @kernel(launch_bounds=BOUNDS)
    def fragments_backward(
        first: int,
        step: int,
        parts: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        perspective: bool,
        width: int,
        face: wp.array3d(dtype=indices),
        grad_depth: wp.array3d(dtype=strip),
        grad_barycentrics: wp.array3d(dtype=triples),
        grad_distance: wp.array3d(dtype=strip),
        with_distance: bool,
        grad: wp.array3d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        part = item % parts
        f = item // parts % faces.shape[0]
        image = item // (parts * faces.shape[0])
        height = face.shape[1]
        side = wp.min(height, width)
        a = corner(verts, faces, image, f, 0)
        b = corner(verts, faces, image, f, 1)
        c = corner(verts, faces, image, f, 2)
        box = box_of(flat(a), flat(b), flat(c), real(0.0), height, width, 0, height)
        area = cross(flat(b - a), flat(c - a))
        slope_a = vec2(b[1] - c[1], c[0] - b[0]) / area
        slope_b = vec2(c[1] - a[1], a[0] - c[0]) / area
        slope_c = vec2(a[1] - b[1], b[0] - a[0]) / area
        inverse = vec3(real(1.0) / a[2], real(1.0) / b[2], real(1.0) / c[2])
        ax, ay, az = strip(), strip(), strip()
        bx, by, bz = strip(), strip(), strip()
        cx, cy, cz = strip(), strip(), strip()
        border_a, border_b, border_c = vec2(), vec2(), vec2()
        for row in range(box.top + part, box.bottom + 1, parts):
            y = center(row, height, side)
            for s in range(box.left // lanes, box.right // lanes + 1):
                seen = face[image, row, s]
                hits = wp.int32(0)
                for k in range(lanes):
                    hits += wp.where(seen[k] == wp.int64(f), 1, 0)
                if hits == 0:
                    continue
                into_depth = grad_depth[image, row, s]
                into_weights = grad_barycentrics[image, row, s]
                # Compute both cases in all lanes, and let `perspective` choose: a branch prevents vector instructions.
                for k in range(lanes):
                    w = weights_at(vec2(center(lanes * s + k, width, side), y), a, b, c)
                    gz = into_depth[k]
                    g = vec3(into_weights[k, 0], into_weights[k, 1], into_weights[k, 2])
                    # In perspective v_k = q_k z with q_k = w_k / z_k and z = 1 / Σ q: first the gradient in q_k.
                    q = wp.cw_mul(w, inverse)
                    z = real(1.0) / (q[0] + q[1] + q[2])
                    common = z * z * (wp.dot(g, q) + gz)
                    bent = wp.cw_mul(g * z - vec3(common, common, common), inverse)
                    ga = wp.where(perspective, bent[0], g[0] + gz * a[2])
                    gb = wp.where(perspective, bent[1], g[1] + gz * b[2])
                    gc = wp.where(perspective, bent[2], g[2] + gz * c[2])
                    za = wp.where(perspective, -bent[0] * q[0], gz * w[0])
                    zb = wp.where(perspective, -bent[1] * q[1], gz * w[1])
                    zc = wp.where(perspective, -bent[2] * q[2], gz * w[2])
                    # The weights' slopes in the image: moving corner k by δ acts as moving the pixel by −w_k δ.
                    slope = ga * slope_a + gb * slope_b + gc * slope_c
                    hit = seen[k] == wp.int64(f)
                    ax[k] -= wp.where(hit, w[0] * slope[0], real(0.0))
                    ay[k] -= wp.where(hit, w[0] * slope[1], real(0.0))
                    az[k] += wp.where(hit, za, real(0.0))
                    bx[k] -= wp.where(hit, w[1] * slope[0], real(0.0))
                    by[k] -= wp.where(hit, w[1] * slope[1], real(0.0))
                    bz[k] += wp.where(hit, zb, real(0.0))
                    cx[k] -= wp.where(hit, w[2] * slope[0], real(0.0))
                    cy[k] -= wp.where(hit, w[2] * slope[1], real(0.0))
                    cz[k] += wp.where(hit, zc, real(0.0))
                if with_distance:
                    into_distance = grad_distance[image, row, s]
                    for k in range(lanes):
                        if seen[k] == wp.int64(f):
                            p = vec2(center(lanes * s + k, width, side), y)
                            squares = inverse_squares(flat(a), flat(b), flat(c))
                            border = nearest_border(p, flat(a), flat(b), flat(c), squares)
                            pull = real(2.0) * into_distance[k] * border.away
                            if border.k == 0:
                                border_a += (real(1.0) - border.t) * pull
                                border_b += border.t * pull
                            elif border.k == 1:
                                border_b += (real(1.0) - border.t) * pull
                                border_c += border.t * pull
                            else:
                                border_c += (real(1.0) - border.t) * pull
                                border_a += border.t * pull
        grad[image, f * parts + part, 0] = vec3(total(ax) + border_a[0], total(ay) + border_a[1], total(az))
        grad[image, f * parts + part, 1] = vec3(total(bx) + border_b[0], total(by) + border_b[1], total(bz))
        grad[image, f * parts + part, 2] = vec3(total(cx) + border_c[0], total(cy) + border_c[1], total(cz))

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
        """The gradient of the loss for the crossing's place, if pixel `pixel` takes the colour of `source` there."""
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

    @wp.func
    def along_and_across(v: vec3, axis: int):
        return wp.where(axis == 0, v[0], v[1]), wp.where(axis == 0, v[1], v[0])

    @wp.func
    def edge_pull(
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        face: wp.array3d(dtype=wp.int64),
        image: wp.array4d(dtype=real),
        grad_image: wp.array4d(dtype=real),
        b: int,
        f: int,
        k: int,
        axis: int,
    ):
        """The gradients for one coordinate of an edge's start and end, from the lines of pixels that it crosses."""
        side = wp.min(face.shape[1], face.shape[2])
        pitch = real(2.0) / real(side)
        # The axis `at` runs along the lines of pixels, the axis `by` from one line to the next.
        start_at, start_by = along_and_across(corner(verts, faces, b, f, k), axis)
        end_at, end_by = along_and_across(corner(verts, faces, b, f, (k + 1) % 3), axis)
        opposite_at, opposite_by = along_and_across(corner(verts, faces, b, f, (k + 2) % 3), axis)
        lines = wp.where(axis == 0, face.shape[1], face.shape[2])
        length = wp.where(axis == 0, face.shape[2], face.shape[1])
        run = end_by - start_by
        grad_start = real(0.0)
        grad_end = real(0.0)
        from_line = first_pixel(wp.min(start_by, end_by), lines, side)
        to_line = first_pixel(wp.max(start_by, end_by), lines, side)
        for line in range(from_line, to_line):
            t = (center(line, lines, side) - start_by) / run
            place = start_at + t * (end_at - start_at)
            hinge = start_at + (end_at - start_at) / run * (opposite_by - start_by)
            crossing = place / pitch + real(length - 1) * real(0.5)
            outward = int(wp.sign(hinge - opposite_at))
            if hinge == opposite_at or crossing < real(-1.0) or crossing > real(length):
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
            far = opposite_at
            if outward > 0:
                far = wp.min(far, wp.min(start_at, end_at))
            else:
                far = wp.max(far, wp.max(start_at, end_at))
            pixel = inner
            while pixel >= 0 and pixel < length and (center(pixel, length, side) - far) * real(outward) >= real(0.0):
                if face_seen(face, b, axis, line, pixel) == f:
                    way = wp.max(wp.abs(center(pixel, length, side) - place), pitch * real(0.5))
                    slide -= ramp(image, grad_image, b, axis, line, pixel, outer, real(outward) * way)
                pixel -= outward
            grad_start += (real(1.0) - t) * slide
            grad_end += t * slide
        return vec2(grad_start, grad_end)

    @kernel(launch_bounds=BOUNDS)
    def edge_backward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        face: wp.array3d(dtype=wp.int64),
        image: wp.array4d(dtype=real),
        grad_image: wp.array4d(dtype=real),
        grad: wp.array4d(dtype=vec2),
    ):
        item = first + step * wp.tid()
        if wp.static(lanes > 1):  # an item is an edge: for a known axis the CPU's code is faster
            k = item % 3
            f = item // 3 % faces.shape[0]
            b = item // (3 * faces.shape[0])
            grad[b, f, k, 0] = edge_pull(verts, faces, face, image, grad_image, b, f, k, 0)
            grad[b, f, k, 1] = edge_pull(verts, faces, face, image, grad_image, b, f, k, 1)
        else:  # an edge and an axis
            axis = item % 2
            k = item // 2 % 3
            f = item // 6 % faces.shape[0]
            b = item // (6 * faces.shape[0])
            grad[b, f, k, axis] = edge_pull(verts, faces, face, image, grad_image, b, f, k, axis)

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

    if lanes > 1:  # a CPU: an item is some rows of an image

        @kernel
        def silhouette_forward(
            first: int,
            step: int,
            rows: int,
            verts: wp.array2d(dtype=vec3),
            faces: wp.array2d(dtype=wp.int64),
            scale: real,
            width: int,
            mask: wp.array3d(dtype=strip),
            empty: wp.array3d(dtype=strip),
        ):
            item = first + step * wp.tid()
            height = mask.shape[1]
            bands = (height + rows - 1) // rows
            image = item // bands
            band = item % bands
            side = wp.min(height, width)
            pitch = real(2.0) * scale / real(side)
            for row in range(band * rows, wp.min(band * rows + rows, height)):
                for s in range(mask.shape[2]):
                    mask[image, row, s] = strip(real(0.0))
                    empty[image, row, s] = strip(real(1.0))
            for f in range(faces.shape[0]):
                a = flat(corner(verts, faces, image, f, 0))
                b = flat(corner(verts, faces, image, f, 1))
                c = flat(corner(verts, faces, image, f, 2))
                box = box_of(a, b, c, wp.sqrt(real(TAIL)) / scale, height, width, band, rows)
                if box.top > box.bottom or box.left > box.right:
                    continue
                edges = outline_of(a, b, c, scale)
                for row in range(box.top, box.bottom + 1):
                    y = (center(row, height, side) - a[1]) * scale
                    for s in range(box.left // lanes, box.right // lanes + 1):
                        x0 = (center(lanes * s, width, side) - a[0]) * scale
                        covered = mask[image, row, s]
                        left = empty[image, row, s]
                        for k in range(lanes):
                            share = shares(edges, x0 + real(k) * pitch, y)
                            covered[k] += left[k] * share[0]
                            left[k] = left[k] * share[1]
                        mask[image, row, s] = covered
                        empty[image, row, s] = left

        @kernel
        def nearest_face(
            first: int,
            step: int,
            rows: int,
            verts: wp.array2d(dtype=vec3),
            faces: wp.array2d(dtype=wp.int64),
            perspective: bool,
            width: int,
            depth: wp.array3d(dtype=strip),
            face: wp.array3d(dtype=indices),
        ):
            item = first + step * wp.tid()
            height = depth.shape[1]
            bands = (height + rows - 1) // rows
            image = item // bands
            band = item % bands
            side = wp.min(height, width)
            for row in range(band * rows, wp.min(band * rows + rows, height)):
                for s in range(depth.shape[2]):
                    depth[image, row, s] = strip(real(wp.inf))
                    face[image, row, s] = indices(wp.int64(-1))
            for f in range(faces.shape[0]):
                a = corner(verts, faces, image, f, 0)
                b = corner(verts, faces, image, f, 1)
                c = corner(verts, faces, image, f, 2)
                box = box_of(flat(a), flat(b), flat(c), real(0.0), height, width, band, rows)
                if box.top > box.bottom or box.left > box.right or cross(flat(b - a), flat(c - a)) == real(0.0):
                    continue
                for row in range(box.top, box.bottom + 1):
                    y = center(row, height, side)
                    for s in range(box.left // lanes, box.right // lanes + 1):
                        nearest = depth[image, row, s]
                        seen = face[image, row, s]
                        for k in range(lanes):
                            w = weights_at(vec2(center(lanes * s + k, width, side), y), a, b, c)
                            z = depth_at(w, a, b, c, perspective)
                            inside = lesser(lesser(w[0], w[1]), w[2]) >= real(0.0)
                            # Keep the first of faces that are equally near.
                            nearer = inside and z < nearest[k]
                            nearest[k] = wp.where(nearer, z, nearest[k])
                            seen[k] = wp.where(nearer, wp.int64(f), seen[k])
                        depth[image, row, s] = nearest
                        face[image, row, s] = seen

    else:
        outline_row = wp.types.vector(16, real)
        key_of, bits_of = (wp.uint32, wp.float32) if real is wp.float32 else (wp.uint64, wp.float64)
        highest = key_of(1 << (31 if real is wp.float32 else 63))

        @wp.func
        def key(z: real):
            """Convert z to bits whose order as unsigned numbers is the order of z; 0 and −0 have the same bits."""
            bits = wp.cast(z + real(0.0), key_of)
            return wp.where((bits & highest) != key_of(0), ~bits, bits | highest)

        @wp.func
        def unkey(bits: key_of):
            return wp.cast(wp.where((bits & highest) != key_of(0), bits & ~highest, ~bits), bits_of)

        @kernel
        def draw(
            first: int,
            step: int,
            parts: int,
            verts: wp.array2d(dtype=vec3),
            faces: wp.array2d(dtype=wp.int64),
            perspective: bool,
            again: bool,
            depth: wp.array3d(dtype=wp.uint64),
            face: wp.array3d(dtype=wp.int64),
        ):
            """Draw some rows of a face (an item): the least depth at each pixel, and the first of equally near faces.

            In single precision depth and face together are one number of 64 bits. In double precision the depth alone
            has 64 bits, and the kernel runs `again` to find the first face of this depth.
            """
            item = first + step * wp.tid()
            part = item % parts
            f = item // parts % faces.shape[0]
            image = item // (parts * faces.shape[0])
            height = depth.shape[1]
            width = depth.shape[2]
            side = wp.min(height, width)
            a = corner(verts, faces, image, f, 0)
            b = corner(verts, faces, image, f, 1)
            c = corner(verts, faces, image, f, 2)
            box = box_of(flat(a), flat(b), flat(c), real(0.0), height, width, 0, height)
            for row in range(box.top + part, box.bottom + 1, parts):
                for column in range(box.left, box.right + 1):
                    p = vec2(center(column, width, side), center(row, height, side))
                    if not inside(p, flat(a), flat(b), flat(c)):
                        continue
                    z = depth_at(weights_at(p, a, b, c), a, b, c, perspective)
                    if not z < real(wp.inf):
                        continue
                    if wp.static(real is wp.float32):
                        wp.atomic_min(depth, image, row, column, (wp.uint64(key(z)) << wp.uint64(32)) | wp.uint64(f))
                    elif not again:
                        wp.atomic_min(depth, image, row, column, wp.uint64(key(z)))
                    elif depth[image, row, column] == wp.uint64(key(z)):
                        wp.atomic_min(face, image, row, column, wp.int64(f))

        @kernel
        def unpack(
            first: int,
            step: int,
            packed: wp.array(dtype=wp.uint64),
            face: wp.array(dtype=wp.int64),
            depth: wp.array(dtype=real),
        ):
            item = first + step * wp.tid()
            bits = packed[item]
            if bits == ~wp.uint64(0):
                face[item] = wp.int64(-1)
                depth[item] = real(wp.inf)
            elif wp.static(real is wp.float32):
                face[item] = wp.int64(bits & wp.uint64(0xFFFFFFFF))
                depth[item] = unkey(key_of(bits >> wp.uint64(32)))
            else:
                depth[item] = unkey(key_of(bits))

        @kernel
        def outline(
            first: int,
            step: int,
            verts: wp.array2d(dtype=vec3),
            faces: wp.array2d(dtype=wp.int64),
            scale: real,
            height: int,
            width: int,
            boxes: wp.array2d(dtype=wp.vec4i),
            outlines: wp.array2d(dtype=outline_row),
        ):
            """Prepare a face (an item) for its pixels: its box with the blur around it, and its edges."""
            item = first + step * wp.tid()
            image = item // faces.shape[0]
            f = item % faces.shape[0]
            a = flat(corner(verts, faces, image, f, 0))
            b = flat(corner(verts, faces, image, f, 1))
            c = flat(corner(verts, faces, image, f, 2))
            box = box_of(a, b, c, wp.sqrt(real(TAIL)) / scale, height, width, 0, height)
            boxes[image, f] = wp.vec4i(box.left, box.right, box.top, box.bottom)
            edges = outline_of(a, b, c, scale)
            row = outline_row()
            row[0] = a[0]
            row[1] = a[1]
            row[2] = edges.turn
            row[3] = edges.a.direction[0]
            row[4] = edges.a.direction[1]
            row[5] = edges.a.length
            row[6] = edges.b.direction[0]
            row[7] = edges.b.direction[1]
            row[8] = edges.b.length
            row[9] = edges.b.along
            row[10] = edges.b.across
            row[11] = edges.c.direction[0]
            row[12] = edges.c.direction[1]
            row[13] = edges.c.length
            row[14] = edges.c.along
            row[15] = edges.c.across
            outlines[image, f] = row

        @kernel
        def list_faces(
            first: int,
            step: int,
            tile: int,
            columns: int,
            boxes: wp.array2d(dtype=wp.vec4i),
            lists: wp.array3d(dtype=wp.uint32),
        ):
            """List the faces whose boxes touch a tile; an item is a tile and a word of its list, for 32 faces."""
            item = first + step * wp.tid()
            tiles = lists.shape[2]
            t = item % tiles
            word = item // tiles % lists.shape[1]
            image = item // (tiles * lists.shape[1])
            left = t % columns * tile
            top = t // columns * tile
            bits = wp.uint32(0)
            for f in range(word * WORD, wp.min(word * WORD + WORD, boxes.shape[1])):
                box = boxes[image, f]
                touches = box[0] < left + tile and box[1] >= left and box[2] < top + tile and box[3] >= top
                if touches and box[0] <= box[1] and box[2] <= box[3]:
                    bits = bits | (wp.uint32(1) << wp.uint32(f - word * WORD))
            lists[image, word, t] = bits

        @kernel
        def silhouette_tiles(
            first: int,
            step: int,
            tile: int,
            columns: int,
            scale: real,
            boxes: wp.array2d(dtype=wp.vec4i),
            outlines: wp.array2d(dtype=outline_row),
            lists: wp.array3d(dtype=wp.uint32),
            mask: wp.array3d(dtype=real),
            empty: wp.array3d(dtype=real),
        ):
            """Draw a pixel (an item). Pixels of a tile are neighbours: the threads of a warp read the same faces."""
            item = first + step * wp.tid()
            tiles = lists.shape[2]
            t = item // (tile * tile) % tiles
            image = item // (tile * tile * tiles)
            row = t // columns * tile + item // tile % tile
            column = t % columns * tile + item % tile
            height = mask.shape[1]
            width = mask.shape[2]
            if row >= height or column >= width:
                return
            side = wp.min(height, width)
            covered = real(0.0)
            left = real(1.0)
            for word in range(lists.shape[1]):
                bits = lists[image, word, t]
                while bits != wp.uint32(0):
                    lowest = bits & (~bits + wp.uint32(1))
                    bits = bits ^ lowest
                    f = word * WORD + int(wp.bit_count(lowest - wp.uint32(1)))
                    box = boxes[image, f]
                    if column < box[0] or column > box[1] or row < box[2] or row > box[3]:
                        continue
                    o = outlines[image, f]
                    edges = Outline(
                        Edge(vec2(o[3], o[4]), o[5], real(0.0), real(0.0)),
                        Edge(vec2(o[6], o[7]), o[8], o[9], o[10]),
                        Edge(vec2(o[11], o[12]), o[13], o[14], o[15]),
                        o[2],
                    )
                    x = (center(column, width, side) - o[0]) * scale
                    y = (center(row, height, side) - o[1]) * scale
                    share = shares(edges, x, y)
                    covered += left * share[0]
                    left = left * share[1]
            mask[image, row, column] = covered
            empty[image, row, column] = left

    return locals()


kernels = Kernels(write, lanes=STRIP)
cuda_kernels = Kernels(write, lanes=1)


def _on_gpu(verts: Tensor) -> bool:
    return verts.is_cuda


def _family(verts: Tensor) -> Kernels:
    return cuda_kernels if _on_gpu(verts) else kernels


def _rows(verts: Tensor, size: tuple[int, int]) -> int:
    """Number of rows of an image that one thread of the CPU draws, face after face, without atomics."""
    bands = -(-2 * torch.get_num_threads() // max(len(verts), 1))
    return -(-size[0] // bands)


def _parts(verts: Tensor, faces: Tensor, size: tuple[int, int]) -> int:
    """Number of threads that share a face's rows on CUDA: more than one if the faces are large, hence few."""
    if not _on_gpu(verts):
        return 1
    return min(-(-size[0] * size[1] // (16 * max(len(faces), 1))), size[0])


def _strips(image: Tensor) -> Tensor:
    """Reshape (B, H, W, …) to (B, H, strips, lanes, …); rows are filled up with zeros."""
    lanes = 1 if _on_gpu(image) else STRIP
    if image.shape[2] % lanes:
        image = torch.nn.functional.pad(image, (0, 0) * (image.ndim - 3) + (0, -image.shape[2] % lanes))
    return image.contiguous().unflatten(2, (-1, lanes))


def _room(verts: Tensor, size: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Allocate an image whose rows are whole strips."""
    width = size[1] if _on_gpu(verts) else -(-size[1] // STRIP) * STRIP
    return torch.empty(len(verts), size[0], width, dtype=dtype or verts.dtype, device=verts.device)


@remembered
def _corner_order(faces: Int[Tensor, "F 3"], count: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"]]:
    """Sort the corners of all faces by vertex; return also where each vertex's corners begin, then their number."""
    order = faces.flatten().argsort(stable=True)
    starts = torch.zeros(count + 1, dtype=torch.int64, device=faces.device)
    starts[1:].index_add_(0, faces.flatten(), torch.ones_like(order))
    return order, starts.cumsum(0)


def _to_vertices(per_corner: Float[Tensor, "B F parts 3 3"], verts: Tensor, faces: Int[Tensor, "F 3"]) -> Tensor:
    """Sum the corners' gradients at each vertex, in a fixed order."""
    per_corner = per_corner[:, :, 0] if per_corner.shape[2] == 1 else per_corner.sum(2)
    order, starts = _corner_order(faces, verts.shape[1])
    result = torch.empty_like(verts)
    inputs = (starts, order, per_corner.flatten(1, 2), result)
    _family(verts).launch("gather", verts.shape[0] * verts.shape[1], verts, *inputs)
    return result


def _draw_soft(verts: Tensor, faces: Tensor, size: tuple[int, int], scale: float, mask: Tensor, empty: Tensor) -> None:
    """Draw the soft silhouette on CUDA: first each face's outline, then the faces that touch each tile, then pixels."""
    (height, width), words = size, -(-len(faces) // WORD)
    columns, tiles = -(-width // TILE), -(-height // TILE) * -(-width // TILE)
    boxes = torch.empty(len(verts), len(faces), 4, dtype=torch.int32, device=verts.device)
    outlines = verts.new_empty(len(verts), len(faces), 16)
    lists = torch.empty(len(verts), words, tiles, dtype=torch.int32, device=verts.device)
    launch = cuda_kernels.launch
    launch("outline", len(verts) * len(faces), verts, verts, faces, scale, height, width, boxes, outlines)
    launch("list_faces", lists.numel(), verts, TILE, columns, boxes, lists)
    inputs = (TILE, columns, scale, boxes, outlines, lists, mask, empty)
    launch("silhouette_tiles", len(verts) * tiles * TILE * TILE, verts, *inputs)


class _Silhouette(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts: Tensor, faces: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
        mask, empty, scale = _room(verts, size), _room(verts, size), sigma**-0.5
        if _on_gpu(verts):
            _draw_soft(verts, faces, size, scale, mask, empty)
        else:
            rows = _rows(verts, size)
            inputs = (rows, verts, faces, scale, size[1], _strips(mask), _strips(empty))
            kernels.launch("silhouette_forward", len(verts) * -(-size[0] // rows), verts, *inputs)
        ctx.save_for_backward(verts, faces, empty)
        ctx.size, ctx.scale = size, scale
        return mask[..., : size[1]].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        verts, faces, empty = ctx.saved_tensors
        parts = _parts(verts, faces, ctx.size)
        corners = verts.new_empty(len(verts), len(faces), parts, 3, 3)
        inputs = (parts, verts, faces, ctx.scale, ctx.size[1], _strips(empty), _strips(grad), corners.flatten(1, 2))
        _family(verts).launch("silhouette_backward", len(verts) * len(faces) * parts, verts, *inputs)
        return _to_vertices(corners, verts, faces), None, None, None


def silhouette(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "B H W"]:
    return _Silhouette.apply(verts.contiguous(), faces.contiguous(), size, sigma)


def _draw(verts: Tensor, faces: Tensor, perspective: bool, depth: Tensor, face: Tensor) -> None:
    """Draw the z-buffer on CUDA: a thread for each face, or a part of it, and an atomic minimum at each pixel."""
    parts = _parts(verts, faces, depth.shape[1:])
    packed = torch.full_like(face, -1)  # all bits set: the largest unsigned number
    double = verts.dtype == torch.float64
    if double:
        face.fill_(len(faces))
    for again in (False, True) if double else (False,):
        inputs = (parts, verts, faces, perspective, again, packed, face)
        cuda_kernels.launch("draw", len(verts) * len(faces) * parts, verts, *inputs)
    cuda_kernels.launch("unpack", face.numel(), verts, packed.flatten(), face.flatten(), depth.flatten())


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts: Tensor, faces: Tensor, size: tuple[int, int], perspective: bool) -> tuple[Tensor, ...]:
        width = size[1]
        depth, face = _room(verts, size), _room(verts, size, torch.int64)
        if _on_gpu(verts):
            _draw(verts, faces, perspective, depth, face)
        else:
            rows = _rows(verts, size)
            inputs = (rows, verts, faces, perspective, width, _strips(depth), _strips(face))
            kernels.launch("nearest_face", len(verts) * -(-size[0] // rows), verts, *inputs)
        distance, barycentrics = torch.empty_like(depth), verts.new_empty(*face.shape, 3)
        seen = _strips(face)
        inputs = (verts, faces, perspective, width, seen, barycentrics, distance)
        _family(verts).launch("fragments_forward", seen.numel() // seen.shape[3], verts, *inputs)
        ctx.save_for_backward(verts, faces, face)
        ctx.perspective, ctx.size = perspective, size
        ctx.set_materialize_grads(False)
        outputs = [part[:, :, :width].contiguous() for part in (face, depth, barycentrics, distance)]
        ctx.mark_non_differentiable(outputs[0])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, _: None, depth: Tensor | None, barycentrics: Tensor | None, distance: Tensor | None):
        verts, faces, face = ctx.saved_tensors
        seen, parts = _strips(face), _parts(verts, faces, ctx.size)
        zero = verts.new_zeros(seen.shape[3])
        grads = (
            zero.expand(seen.shape) if depth is None else _strips(depth),
            verts.new_zeros(seen.shape[3], 3).expand(*seen.shape, 3) if barycentrics is None else _strips(barycentrics),
            zero.expand(seen.shape) if distance is None else _strips(distance),
        )
        corners = verts.new_empty(len(verts), len(faces), parts, 3, 3)
        inputs = (parts, verts, faces, ctx.perspective, ctx.size[1], seen, *grads, distance is not None)
        count = len(verts) * len(faces) * parts
        _family(verts).launch("fragments_backward", count, verts, *inputs, corners.flatten(1, 2))
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
        edges = verts.new_empty(len(verts), len(faces), 3, 2, 2)  # edge, axis, start or end
        inputs = (verts, faces, face, image, grad.to(verts.dtype).contiguous(), edges)
        _family(verts).launch("edge_backward", edges[..., 0].numel() // (1 if _on_gpu(verts) else 2), verts, *inputs)
        # A corner is the start of its own edge and the end of the one before.
        corners = edges[..., 0] + edges[..., 1].roll(1, 2)
        corners = torch.nn.functional.pad(corners, (0, 1))
        return grad, None, _to_vertices(corners[:, :, None], verts, faces), None


def edge_gradient(
    image: Float[Tensor, "B C H W"],
    face: Int[Tensor, "B H W"],
    verts: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
) -> Float[Tensor, "B C H W"]:
    """Pass the image on; in the backward pass give the vertices the Neural Mesh Renderer's gradient (`reference`)."""
    return _EdgeGradient.apply(image.contiguous(), face, verts.contiguous(), faces.contiguous())


def visible_vertices(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], tolerance: Float[Tensor, "B"], perspective: bool
) -> Bool[Tensor, "B V"]:
    """The same as in `reference`, but each face is compared only with vertices in grid cells that its box touches."""
    verts, faces = verts.contiguous(), faces.contiguous()
    batch, count = verts.shape[:2]
    cells = int(count**0.5) + 1
    low = verts[..., :2].amin(1)
    cell = ((verts[..., :2].amax(1) - low) / cells).clamp(min=1e-30) * (1 + 1e-5)
    column, row = ((verts[..., :2] - low[:, None]) / cell[:, None]).long().clamp(max=cells - 1).unbind(-1)
    slots = (torch.arange(batch, device=verts.device)[:, None] * cells + row) * (cells + 1) + column
    counts = torch.zeros(batch * cells * (cells + 1), dtype=torch.int64, device=verts.device)
    counts.index_add_(0, slots.flatten(), torch.ones_like(slots).flatten())
    starts = (counts.cumsum(0) - counts).view(batch, cells, cells + 1)
    order = slots.flatten().argsort(stable=True) % count
    hidden = torch.zeros(batch, count, dtype=torch.uint8, device=verts.device)
    inputs = (verts, faces, tolerance, perspective, low, cell, starts, order, hidden)
    _family(verts).launch("hide", batch * len(faces), verts, *inputs)
    return hidden == 0
