"""The renderer's kernels in Warp: one source for the CPU and CUDA, compiled at first use.

The formulas are those of `reference`; the gradients are written by hand. Memory is proportional to images × (pixels +
faces). Every pixel is drawn, and every gradient summed, by one owner in a fixed order: results are the same from run
to run and, on the CPU, for any number of threads.
"""

# Warp reads the annotations of kernels at run time, so they cannot be postponed here.

import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.launch import Kernels
from lib.rendering.reference import TAIL

# Neighbouring pixels of a row that are computed together, one to a lane of the CPU's vector unit: in the kernels, the
# loops over `k` have no branches, so that the compiler can make vector instructions of them.
STRIP = 8


@Kernels
def kernels(kernel, real, vec2, vec3):
    strip = wp.types.vector(STRIP, real)
    indices = wp.types.vector(STRIP, wp.int64)
    triples = wp.types.matrix((STRIP, 3), real)

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
        """The box of a triangle grown by `radius`, as far as it lies in the band-th `rows` rows of the image."""
        side = wp.min(height, width)
        low = wp.min(wp.min(a, b), c)
        high = wp.max(wp.max(a, b), c)
        return Box(
            first_pixel(low[0] - radius, width, side),
            last_pixel(high[0] + radius, width, side),
            wp.max(first_pixel(low[1] - radius, height, side), band * rows),
            wp.min(last_pixel(high[1] + radius, height, side), band * rows + rows - 1),
        )

    # One instruction each, unlike wp.min and wp.max, which let a NaN give way.
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
        """The nearest point of a triangle's border: on the edge from corner k, a share t along; the way from there."""

        k: int
        t: real
        away: vec2
        squared: real

    @wp.func
    def nearest_border(p: vec2, a: vec2, b: vec2, c: vec2, inverse: vec3):
        """inverse: one over the squared lengths of the edges from a, b, c."""
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
        """An edge's own frame: its direction, its length, and its start along that direction and across."""

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
            """e^−x for x ≥ 0 to 2e-7 of itself, without a call: 2^n e^r with |r| < 0.35, and the series of e^r."""
            x = lesser(x, real(80.0))
            n = wp.floor(real(0.5) - x * real(1.4426950))
            r = (-x - n * real(0.693145751953125)) - n * real(1.42860677e-6)
            series = real(1.0 / 120.0) + r * (real(1.0 / 720.0) + r * real(1.0 / 5040.0))
            series = real(1.0 / 6.0) + r * (real(1.0 / 24.0) + r * series)
            series = real(1.0) + r * (real(1.0) + r * (real(0.5) + r * series))
            return series * wp.cast((int(n) + 127) << 23, wp.float32)

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
                for s in range(box.left // STRIP, box.right // STRIP + 1):
                    x0 = (center(STRIP * s, width, side) - a[0]) * scale
                    covered = mask[image, row, s]
                    left = empty[image, row, s]
                    for k in range(STRIP):
                        x = x0 + real(k) * pitch
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
                        # The face covers the pixel by the sigmoid of ±squared; from e^−|x| it cannot overflow. Of what
                        # was left free of the faces before, it takes its share: 1 − Π (1 − p) without cancellation.
                        small = exp_minus(squared)
                        small = wp.where(within > real(0.0) or squared < real(TAIL), small, real(0.0))
                        large = real(1.0) / (real(1.0) + small)
                        small = small * large
                        covered[k] += left[k] * wp.where(within > real(0.0), large, small)
                        left[k] = left[k] * wp.where(within > real(0.0), small, large)
                    mask[image, row, s] = covered
                    empty[image, row, s] = left

    @wp.func
    def total(values: strip):
        result = real(0.0)
        for k in range(STRIP):
            result += values[k]
        return result

    @kernel
    def silhouette_backward(
        first: int,
        step: int,
        verts: wp.array2d(dtype=vec3),
        faces: wp.array2d(dtype=wp.int64),
        scale: real,
        width: int,
        empty: wp.array3d(dtype=strip),
        grad_mask: wp.array3d(dtype=strip),
        grad: wp.array3d(dtype=vec3),
    ):
        item = first + step * wp.tid()
        image = item // faces.shape[0]
        f = item % faces.shape[0]
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
        for row in range(box.top, box.bottom + 1):
            y = (center(row, height, side) - a[1]) * scale
            for s in range(box.left // STRIP, box.right // STRIP + 1):
                x0 = (center(STRIP * s, width, side) - a[0]) * scale
                left = empty[image, row, s]
                gain = grad_mask[image, row, s]
                for k in range(STRIP):
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
                    # The nearest point of the border is a mean of the corners; it moves as they do.
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
        grad[image, f, 0] = real(2.0) * scale * vec3(total(grad_ax), total(grad_ay), real(0.0))
        grad[image, f, 1] = real(2.0) * scale * vec3(total(grad_bx), total(grad_by), real(0.0))
        grad[image, f, 2] = real(2.0) * scale * vec3(total(grad_cx), total(grad_cy), real(0.0))

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
                for s in range(box.left // STRIP, box.right // STRIP + 1):
                    nearest = depth[image, row, s]
                    seen = face[image, row, s]
                    for k in range(STRIP):
                        w = weights_at(vec2(center(STRIP * s + k, width, side), y), a, b, c)
                        z = depth_at(w, a, b, c, perspective)
                        inside = lesser(lesser(w[0], w[1]), w[2]) >= real(0.0)
                        # Of faces equally near the first is kept.
                        nearer = inside and z < nearest[k]
                        nearest[k] = wp.where(nearer, z, nearest[k])
                        seen[k] = wp.where(nearer, wp.int64(f), seen[k])
                    depth[image, row, s] = nearest
                    face[image, row, s] = seen

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
        for k in range(STRIP):
            column = STRIP * s + k
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

    @kernel
    def fragments_backward(
        first: int,
        step: int,
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
        image = item // faces.shape[0]
        f = item % faces.shape[0]
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
        for row in range(box.top, box.bottom + 1):
            y = center(row, height, side)
            for s in range(box.left // STRIP, box.right // STRIP + 1):
                seen = face[image, row, s]
                hits = wp.int32(0)
                for k in range(STRIP):
                    hits += wp.where(seen[k] == wp.int64(f), 1, 0)
                if hits == 0:
                    continue
                into_depth = grad_depth[image, row, s]
                into_weights = grad_barycentrics[image, row, s]
                # For all lanes, and `perspective` chooses among results: a branch would end the vector instructions.
                for k in range(STRIP):
                    w = weights_at(vec2(center(STRIP * s + k, width, side), y), a, b, c)
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
                    # The weights' slopes on the screen; moving corner k by δ acts as moving the pixel by −w_k δ.
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
                    for k in range(STRIP):
                        if seen[k] == wp.int64(f):
                            p = vec2(center(STRIP * s + k, width, side), y)
                            inverse = inverse_squares(flat(a), flat(b), flat(c))
                            border = nearest_border(p, flat(a), flat(b), flat(c), inverse)
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
        grad[image, f, 0] = vec3(total(ax) + border_a[0], total(ay) + border_a[1], total(az))
        grad[image, f, 1] = vec3(total(bx) + border_b[0], total(by) + border_b[1], total(bz))
        grad[image, f, 2] = vec3(total(cx) + border_c[0], total(cy) + border_c[1], total(cz))

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


def _rows(verts: Tensor, size: tuple[int, int]) -> int:
    """How many rows of an image have one owner, who draws face after face, so that nothing is added atomically."""
    if verts.device.type == "cuda":
        return 1
    bands = -(-2 * torch.get_num_threads() // max(len(verts), 1))
    return -(-size[0] // bands)


def _image(verts: Tensor, size: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Room for an image whose rows are whole strips."""
    width = -(-size[1] // STRIP) * STRIP
    return torch.empty(len(verts), size[0], width, dtype=dtype or verts.dtype, device=verts.device)


def _strips(image: Tensor) -> Tensor:
    """(B, H, W, …) as (B, H, strips, STRIP, …), the rows filled up with zeros."""
    if image.shape[2] % STRIP:
        image = torch.nn.functional.pad(image, (0, 0) * (image.ndim - 3) + (0, -image.shape[2] % STRIP))
    return image.contiguous().unflatten(2, (-1, STRIP))


def _to_vertices(per_corner: Float[Tensor, "B F 3 3"], verts: Tensor, faces: Int[Tensor, "F 3"]) -> Tensor:
    """Sum the corners' gradients at each vertex, in a fixed order."""
    order = faces.flatten().argsort(stable=True)
    counts = torch.bincount(faces.flatten(), minlength=verts.shape[1])
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    result = torch.empty_like(verts)
    kernels.launch("gather", verts.shape[0] * verts.shape[1], verts, starts, order, per_corner.flatten(1, 2), result)
    return result


class _Silhouette(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts: Tensor, faces: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
        mask, empty, rows = _image(verts, size), _image(verts, size), _rows(verts, size)
        inputs = (rows, verts, faces, sigma**-0.5, size[1], _strips(mask), _strips(empty))
        kernels.launch("silhouette_forward", len(verts) * -(-size[0] // rows), verts, *inputs)
        ctx.save_for_backward(verts, faces, empty)
        ctx.width, ctx.scale = size[1], sigma**-0.5
        return mask[..., : size[1]].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        verts, faces, empty = ctx.saved_tensors
        corners = verts.new_empty(len(verts), len(faces), 3, 3)
        inputs = (verts, faces, ctx.scale, ctx.width, _strips(empty), _strips(grad), corners)
        kernels.launch("silhouette_backward", len(verts) * len(faces), verts, *inputs)
        return _to_vertices(corners, verts, faces), None, None, None


def silhouette(
    verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "B H W"]:
    return _Silhouette.apply(verts.contiguous(), faces.contiguous(), size, sigma)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, verts: Tensor, faces: Tensor, size: tuple[int, int], perspective: bool) -> tuple[Tensor, ...]:
        rows, width = _rows(verts, size), size[1]
        depth, face = _image(verts, size), _image(verts, size, torch.int64)
        inputs = (rows, verts, faces, perspective, width, _strips(depth), _strips(face))
        kernels.launch("nearest_face", len(verts) * -(-size[0] // rows), verts, *inputs)
        distance, barycentrics = torch.empty_like(depth), verts.new_empty(*face.shape, 3)
        inputs = (verts, faces, perspective, width, _strips(face), barycentrics, distance)
        kernels.launch("fragments_forward", face.numel() // STRIP, verts, *inputs)
        ctx.save_for_backward(verts, faces, face)
        ctx.perspective, ctx.width = perspective, width
        ctx.set_materialize_grads(False)
        outputs = [part[:, :, :width].contiguous() for part in (face, depth, barycentrics, distance)]
        ctx.mark_non_differentiable(outputs[0])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, _: None, depth: Tensor | None, barycentrics: Tensor | None, distance: Tensor | None):
        verts, faces, face = ctx.saved_tensors
        seen = _strips(face)
        zero = verts.new_zeros(STRIP)
        grads = (
            zero.expand(seen.shape) if depth is None else _strips(depth),
            verts.new_zeros(STRIP, 3).expand(*seen.shape, 3) if barycentrics is None else _strips(barycentrics),
            zero.expand(seen.shape) if distance is None else _strips(distance),
        )
        corners = verts.new_empty(len(verts), len(faces), 3, 3)
        inputs = (verts, faces, ctx.perspective, ctx.width, seen, *grads, distance is not None, corners)
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
