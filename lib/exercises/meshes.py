"""Chapter 2: counting faces, entries of the Laplacian, the gradient of the area, manifolds, smoothing, heat, a ring."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.exercises.engine import Exercise
from lib.exercises.properties import between, near, one_of, tensor
from lib.geometry import geodesics, laplacian, mesh

# --- shapes that the checks draw ------------------------------------------------------------------------------


@cache
def ring(around: int = 12, across: int = 8) -> mesh.Mesh:
    """A torus of `around` × `across` vertices."""
    i, j = torch.meshgrid(torch.arange(around), torch.arange(across), indexing="ij")
    along, about = 2 * torch.pi * i / around, 2 * torch.pi * j / across
    radius = 1 + 0.4 * about.cos()
    verts = torch.stack([radius * along.cos(), 0.4 * about.sin(), -radius * along.sin()], dim=-1).reshape(-1, 3)

    def number(i: Tensor, j: Tensor) -> Tensor:
        return ((i % around) * across + j % across).reshape(-1)

    p, q, r, s = number(i, j), number(i + 1, j), number(i + 1, j + 1), number(i, j + 1)
    return mesh.Mesh(verts, torch.cat([torch.stack([p, q, r], 1), torch.stack([p, r, s], 1)]))


def bumpy_ball(generator: torch.Generator, splits: int = 1, bump: float = 0.05) -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) in double precision and faces of a ball with noise on it."""
    ball = mesh.icosphere(splits)
    noise = torch.randn(ball.verts.shape, generator=generator, dtype=torch.float64)
    return ball.verts.double() + bump * noise, ball.faces


def renumbered(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Renumber the vertices of faces, change the faces' order, and begin each face at another corner."""
    names = torch.randperm(int(faces.max()) + 1, generator=generator)
    begin = torch.randint(3, (len(faces), 1), generator=generator)
    turned = faces.gather(1, (begin + torch.arange(3)) % 3)
    return names[turned][torch.randperm(len(faces), generator=generator)]


# --- 2.A: χ of three shapes -----------------------------------------------------------------------------------


def euler_check(place: int, expected: int, what: str):
    def check(answer, generator):
        return near(tensor(answer, "the three numbers", (3,))[place], expected, f"χ of {what}")

    return check


EULER = Exercise(
    "2.A",
    "Predict χ",
    kind="predict",
    minutes=2,
    function=False,
    checks={
        "a mug": euler_check(0, 0, "a mug"),
        "two balls": euler_check(1, 4, "two balls"),
        "an open ball": euler_check(2, 1, "a ball without one face"),
    },
    hints=(
        "Bending changes nothing. Into which of the shapes above could you bend a mug? Counts of two meshes add up.",
        "The handle is a hole. Taking one face away lowers |F| by 1 and leaves |V| and |E| as they are.",
    ),
    wrong={
        "always 2": (2, 2, 2),
        "two balls are one": (0, 2, 1),
        "the open ball is closed": (0, 4, 2),
        "a mug has two holes": (-2, 4, 1),
        "a number": 0,
    },
)

# --- 2.B: one entry of the Laplacian --------------------------------------------------------------------------


def is_negative(answer, generator):
    return between(tensor(answer, "L_ij", ()), -math.inf, 0, "L_ij")


def has_the_value(answer, generator):
    return near(tensor(answer, "L_ij", ()), -1 / math.sqrt(3), "L_ij", 2e-3)


ENTRY = Exercise(
    "2.B",
    "One entry by hand",
    kind="algebra",
    minutes=3,
    function=False,
    checks={"it is negative": is_negative, "its value": has_the_value},
    hints=(
        "Both angles opposite to the edge are 60°. Angles do not change with the size.",
        "The cotangent of 60° is 1/√3. Put it into −½ (cot θ + cot θ′).",
    ),
    wrong={
        "no sign": 1 / math.sqrt(3),
        "one triangle": -0.5 / math.sqrt(3),
        "not halved": -2 / math.sqrt(3),
        "the tangent": -math.sqrt(3),
        "degrees taken for radians": -1 / math.tan(60),
    },
)

# --- 2.C: which fit has the lower Chamfer distance ------------------------------------------------------------


def which_is_lower(answer, generator):
    return one_of(
        answer,
        "alone",
        {"regularised": "what does an optimiser do with two wishes, one of which is not the Chamfer distance?"},
    )


LOWER = Exercise(
    "2.C",
    "Predict before you run",
    kind="predict",
    minutes=1,
    function=False,
    checks={"the fit with the lower Chamfer distance": which_is_lower},
    hints=("One of the fits lowers nothing but the Chamfer distance.",),
    wrong={"the prettier one": "regularised", "another word": "both", "a number": 1},
)

# --- 2.1: counting --------------------------------------------------------------------------------------------


def counts_of(vertices: int, euler: int, expected: tuple, what: str):
    def check(answer, generator):
        return near(tensor(answer(vertices, euler), what, (3,)), expected, what)

    return check


def any_ball(answer, generator):
    vertices = int(torch.randint(4, 1000, (), generator=generator))
    edges = 3 * (vertices - 2)
    return near(
        tensor(answer(vertices, 2), "the three numbers", (3,)),
        (edges, 2 * (vertices - 2), 2 * edges / vertices),
        f"a ball of {vertices} vertices",
    )


COUNT = Exercise(
    "2.1",
    "Count edges and faces",
    kind="algebra",
    minutes=15,
    checks={
        "the tetrahedron": counts_of(4, 2, (6, 4, 3), "the tetrahedron"),
        "any ball": any_ball,
        "the ring of this chapter": counts_of(1152, 0, (3456, 2304, 6), "the ring"),
    },
    hints=(
        "Count the sides of all faces in two ways: three for each face, two for each edge.",
        "So 3 |F| = 2 |E|. Put |F| = 2 |E| / 3 into |V| − |E| + |F| = χ and solve for |E|.",
        "|E| = 3 (|V| − χ), |F| = 2 (|V| − χ), and each edge has two ends, so the mean is 2 |E| / |V|.",
    ),
    wrong={
        "as if χ were 0": lambda vertices, euler: (3 * vertices, 2 * vertices, 6),
        "as if χ were 2": lambda vertices, euler: (3 * vertices - 6, 2 * vertices - 4, 6 - 12 / vertices),
        "an edge for each side": lambda vertices, euler: (
            6 * (vertices - euler),
            2 * (vertices - euler),
            12 * (vertices - euler) / vertices,
        ),
        "an edge with one end": lambda vertices, euler: (
            3 * (vertices - euler),
            2 * (vertices - euler),
            3 * (vertices - euler) / vertices,
        ),
        "always the tetrahedron": lambda vertices, euler: (6, 4, 3),
    },
)

# --- 2.2: the gradient of the area ----------------------------------------------------------------------------


def area_gradient(verts: Tensor, faces: Tensor) -> Tensor:
    """The gradient of the area: half of n × e for each corner, summed over the faces around each vertex."""
    a, b, c = verts[faces].unbind(1)
    normal = normalize(torch.linalg.cross(b - a, c - a), dim=1)
    gradient = torch.zeros_like(verts)
    for corner, side in enumerate((c - b, a - c, b - a)):
        gradient = gradient.index_add(0, faces[:, corner], torch.linalg.cross(normal, side) / 2)
    return gradient


def one_triangle(answer, generator):
    verts = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 1, 0]], dtype=torch.float64)
    expected = torch.tensor([[-0.5, -1, 0], [0.5, 0, 0], [0, 1, 0]], dtype=torch.float64)
    return near(answer(verts, torch.tensor([[0, 1, 2]])), expected, "the triangle (0,0,0), (2,0,0), (0,1,0)")


def as_differences(answer, generator):
    verts, faces = bumpy_ball(generator)
    yours = tensor(answer(verts, faces), "the gradient", verts.shape)
    direction = torch.randn(verts.shape, generator=generator, dtype=torch.float64)
    ahead, behind = (mesh.face_areas(verts + step * direction, faces).sum() for step in (1e-5, -1e-5))
    return near((yours * direction).sum(), (ahead - behind) / 2e-5, "how the area grows along a random move", 1e-3)


def adds_up_to_zero(answer, generator):
    verts, faces = bumpy_ball(generator)
    yours = tensor(answer(verts, faces), "the gradient", verts.shape)
    return near(yours.sum(0), torch.zeros(3), "the sum over all vertices (moving everything changes no area)")


def is_the_laplacian(answer, generator):
    verts, faces = bumpy_ball(generator)
    return near(answer(verts, faces), laplacian.cotangent_laplacian(verts, faces) @ verts, "L V on a bumpy ball")


def _first_corner_only(verts: Tensor, faces: Tensor) -> Tensor:
    a, b, c = verts[faces].unbind(1)
    normal = normalize(torch.linalg.cross(b - a, c - a), dim=1)
    return torch.zeros_like(verts).index_add(0, faces[:, 0], torch.linalg.cross(normal, c - b) / 2)


def _normal_not_unit(verts: Tensor, faces: Tensor) -> Tensor:
    a, b, c = verts[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    gradient = torch.zeros_like(verts)
    for corner, side in enumerate((c - b, a - c, b - a)):
        gradient = gradient.index_add(0, faces[:, corner], torch.linalg.cross(normal, side) / 2)
    return gradient


AREA = Exercise(
    "2.2",
    "The gradient of the area",
    kind="code",
    minutes=20,
    checks={
        "by hand, one triangle": one_triangle,
        "as by finite differences": as_differences,
        "adds up to zero": adds_up_to_zero,
        "the same as L V": is_the_laplacian,
    },
    hints=(
        "The area is ½ |e_i| · height. In which direction, and how fast, does it grow when corner i moves?",
        "The gradient at corner i is ½ n × e_i, with the unit normal n and the opposite side e_i, counter-clockwise.",
        "For the corners a, b, c the opposite sides are c − b, a − c, b − a. Add with index_add, as in 2.3.",
    ),
    wrong={
        "inward": lambda verts, faces: -area_gradient(verts, faces),
        "not halved": lambda verts, faces: 2 * area_gradient(verts, faces),
        "only the first corner": _first_corner_only,
        "the normal is no unit vector": _normal_not_unit,
        "the uniform Laplacian": lambda verts, faces: (
            laplacian.uniform_laplacian(faces, len(verts)).to_dense().to(verts) @ verts
        ),
        "the vertex normals": lambda verts, faces: mesh.vertex_normals(verts, faces),
    },
)

# --- 2.3: a test for manifolds --------------------------------------------------------------------------------

TETRAHEDRON = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def bow_tie(generator: torch.Generator, other: Tensor = TETRAHEDRON) -> Tensor:
    """A tetrahedron and another closed mesh that share one vertex."""
    return renumbered(torch.cat([TETRAHEDRON, torch.where(other == 0, 0, other + 3)]), generator)


def _sides(faces: Tensor) -> Tensor:
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def _closed_and_oriented(faces: Tensor) -> bool:
    there = torch.unique(_sides(faces), dim=0)
    return len(there) == 3 * len(faces) and torch.equal(there, torch.unique(there.flip(1), dim=0))


def _one_ring_each(faces: Tensor) -> bool:
    """Walk from face to face around each vertex; True if that visits all of its faces, everywhere."""
    for vertex in faces.unique().tolist():
        around = faces[(faces == vertex).any(1)].tolist()
        follows = {face[(face.index(vertex) + 1) % 3]: face[(face.index(vertex) + 2) % 3] for face in around}
        begin = at = next(iter(follows))
        visited = 0
        while visited <= len(around):
            at, visited = follows.get(at, begin), visited + 1
            if at == begin:
                break
        if visited != len(around):
            return False
    return True


def said(answer, faces: Tensor, expected: bool, what: str) -> str | None:
    """Compare what the answer says of these faces with what it should say."""
    yours = answer(faces)
    if isinstance(yours, Tensor) and yours.numel() == 1:
        yours = yours.item()
    if not isinstance(yours, bool | int):
        return f"{what}: the answer must be True or False, got {type(yours).__name__}"
    return None if bool(yours) == expected else f"{what}: yours {bool(yours)}, expected {expected}"


def knows_good_ones(answer, generator):
    ball, torus = mesh.icosphere(1).faces, ring().faces
    return said(answer, renumbered(ball, generator), True, "a ball") or said(
        answer, renumbered(torus, generator), True, "a ring"
    )


def knows_two_pieces(answer, generator):
    apart = torch.cat([TETRAHEDRON, TETRAHEDRON + 4])
    return said(answer, renumbered(apart, generator), True, "two separate tetrahedra")


def finds_the_bow_tie(answer, generator):
    return said(answer, bow_tie(generator), False, "two tetrahedra that share a vertex") or said(
        answer,
        bow_tie(generator, mesh.icosphere(0).faces),
        False,
        "a tetrahedron and an icosahedron that share a vertex",
    )


def finds_holes(answer, generator):
    faces = renumbered(mesh.icosphere(1).faces, generator)
    return said(answer, faces[1:], False, "a ball without one face")


def finds_flips(answer, generator):
    faces = renumbered(mesh.icosphere(1).faces, generator)
    faces[0] = faces[0].flip(0)
    return said(answer, faces, False, "a ball with one face flipped")


MANIFOLD = Exercise(
    "2.3",
    "Find the bow tie",
    kind="code",
    minutes=25,
    checks={
        "a ball and a ring are manifolds": knows_good_ones,
        "two separate pieces are one too": knows_two_pieces,
        "a bow tie is none": finds_the_bow_tie,
        "a hole is found": finds_holes,
        "a flipped face is found": finds_flips,
    },
    hints=(
        "First the test of the chapter. Then look at each vertex: its faces must form one ring, not two.",
        "In each face that contains vertex i, note the two other corners, in order: that is one step around i.",
        "Put the steps into a dict {from: to}. Follow it from anywhere until you are back. Did you use every step?",
    ),
    wrong={
        "the test of the chapter": _closed_and_oriented,
        "always": lambda faces: True,
        "never": lambda faces: False,
        "χ is 2": lambda faces: (
            len(faces.unique()) - len(torch.unique(_sides(faces).sort(1).values, dim=0)) + len(faces) == 2
        ),
        "rings, but nothing else": _one_ring_each,
        "no vertex has more than five faces": lambda faces: (
            _closed_and_oriented(faces) and int(torch.bincount(faces.reshape(-1)).max()) <= 5
        ),
    },
)

# --- 2.4: smoothing without shrinking -------------------------------------------------------------------------


def taubin(verts: Tensor, faces: Tensor, pairs: int) -> Tensor:
    """Smooth by pairs of steps with the uniform Laplacian: subtract 0.5 of it, then add 0.53 of it."""
    uniform = laplacian.uniform_laplacian(faces, len(verts)).to(verts.dtype)
    for _ in range(pairs):
        verts = verts - 0.5 * (uniform @ verts)
        verts = verts + 0.53 * (uniform @ verts)
    return verts


def volume(verts: Tensor, faces: Tensor) -> Tensor:
    """The volume that a closed mesh encloses: a sixth of the sum of det(a, b, c)."""
    return torch.linalg.det(verts[faces]).sum() / 6


def nothing_to_do(answer, generator):
    verts, faces = bumpy_ball(generator)
    return near(answer(verts, faces, 0), verts, "no pairs at all")


def one_pair(answer, generator):
    verts, faces = bumpy_ball(generator)
    return near(answer(verts, faces, 1), taubin(verts, faces, 1), "one pair of steps")


def keeps_the_dtype(answer, generator):
    verts, faces = bumpy_ball(generator)
    for kind in (torch.float32, torch.float64):
        yours = answer(verts.to(kind), faces, 2)
        if not isinstance(yours, Tensor) or yours.dtype != kind:
            return f"vertices in {kind} must come back in {kind}, got {getattr(yours, 'dtype', type(yours).__name__)}"
    return None


def keeps_the_volume(answer, generator):
    verts, faces = bumpy_ball(generator, splits=2, bump=0.02)
    yours = tensor(answer(verts, faces, 10), "the smoothed vertices", verts.shape)
    share = float(volume(yours.double(), faces) / volume(verts, faces))
    return between(share, 0.95, 1.05, "the share of the volume that is left after 10 pairs")


def smooths(answer, generator):
    verts, faces = bumpy_ball(generator, splits=2, bump=0.02)
    yours = tensor(answer(verts, faces, 10), "the smoothed vertices", verts.shape).double()

    def spread(points: Tensor) -> Tensor:
        radius = points.norm(dim=1)
        return radius.std() / radius.mean()

    return between(spread(yours) / spread(verts), 0, 0.7, "the unevenness of the radius after 10 pairs, of that before")


SMOOTH = Exercise(
    "2.4",
    "Smooth without shrinking",
    kind="code",
    minutes=20,
    checks={
        "no pairs change nothing": nothing_to_do,
        "one pair": one_pair,
        "keeps the dtype": keeps_the_dtype,
        "keeps the volume": keeps_the_volume,
        "makes a noisy ball rounder": smooths,
    },
    hints=(
        "Two lines in a loop. The second step uses the vertices that the first one has moved.",
        "laplacian.uniform_laplacian(faces, len(verts)) is in float32. Convert it with .to(verts.dtype).",
        "verts = verts - 0.5 * (L @ verts), then verts = verts + 0.53 * (L @ verts).",
    ),
    wrong={
        "only the first step": lambda verts, faces, pairs: (
            taubin(verts, faces, 0) if pairs == 0 else _steps(verts, faces, pairs, 0.5, 0.0)
        ),
        "both steps inward": lambda verts, faces, pairs: _steps(verts, faces, pairs, 0.5, -0.53),
        "outward first, and only": lambda verts, faces, pairs: _steps(verts, faces, pairs, 0.0, 0.53),
        "in float32": lambda verts, faces, pairs: taubin(verts.float(), faces, pairs),
        "one pair too many": lambda verts, faces, pairs: taubin(verts, faces, pairs + 1),
        "nothing": lambda verts, faces, pairs: verts,
    },
)


def _steps(verts: Tensor, faces: Tensor, pairs: int, inward: float, outward: float) -> Tensor:
    uniform = laplacian.uniform_laplacian(faces, len(verts)).to(verts.dtype)
    for _ in range(pairs):
        verts = verts - inward * (uniform @ verts)
        verts = verts + outward * (uniform @ verts)
    return verts


# --- 2.5: how long the heat may flow --------------------------------------------------------------------------


def heat_distances(verts: Tensor, faces: Tensor, source: int, factor: float, power: float = 2.0) -> Tensor:
    """The heat method with `factor` times its usual time, dense matrices."""
    start, end = mesh.edges(faces).T
    time_step = factor * (verts[start] - verts[end]).norm(dim=1).mean() ** power
    L = laplacian.cotangent_laplacian(verts, faces).to_dense()
    needle = torch.zeros_like(verts[:, 0])
    needle[source] = 1
    heat = torch.linalg.solve(laplacian.lumped_mass(verts, faces).diag() + time_step * L, needle)
    a, b, c = verts[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    opposite = torch.stack([c - b, a - c, b - a], dim=1)
    slopes = torch.linalg.cross((cross / cross.square().sum(1, keepdim=True))[:, None].expand_as(opposite), opposite)
    g = -normalize((slopes * heat[faces][..., None]).sum(1), dim=1, eps=1e-300)
    flux = cross.norm(dim=1)[:, None] / 2 * (slopes * g[:, None]).sum(2)
    right = torch.zeros_like(needle).index_add(0, faces.reshape(-1), flux.reshape(-1))
    distance = torch.linalg.lstsq(L, right[:, None], driver="gelsd").solution[:, 0]
    return distance - distance[source]


def some_source(generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    verts, faces = bumpy_ball(generator, bump=0.03)
    return verts, faces, int(torch.randint(len(verts), (), generator=generator))


def usual_time(answer, generator):
    verts, faces, source = some_source(generator)
    expected = geodesics.geodesic_distances(verts, faces, [source])[0]
    return near(answer(verts, faces, source, 1.0), expected, "factor 1, against the library", 1e-3)


def longer_and_shorter(answer, generator):
    verts, faces, source = some_source(generator)
    for factor in (100.0, 0.1):
        expected = heat_distances(verts, faces, source, factor)
        if wrong := near(answer(verts, faces, source, factor), expected, f"factor {factor:g}", 1e-3):
            return wrong
    return None


def grows_with_the_mesh(answer, generator):
    verts, faces, source = some_source(generator)
    small = tensor(answer(verts, faces, source, 3.0), "the distances", verts[:, 0].shape)
    return near(
        answer(2 * verts, faces, source, 3.0), 2 * small, "a mesh twice as large has distances twice as large", 1e-3
    )


HEAT = Exercise(
    "2.5",
    "How long may the heat flow?",
    kind="code",
    minutes=20,
    checks={
        "the usual time": usual_time,
        "longer and shorter": longer_and_shorter,
        "grows with the mesh": grows_with_the_mesh,
    },
    hints=(
        "All three steps are in 2.5. Only the time changes: factor times the squared mean edge length.",
        "`directions` and the last step of `distances` stay as they are. `heat` needs the factor.",
    ),
    wrong={
        "the factor is ignored": lambda verts, faces, source, factor: heat_distances(verts, faces, source, 1.0),
        "the edge length is not squared": lambda verts, faces, source, factor: heat_distances(
            verts, faces, source, factor, power=1.0
        ),
        "not shifted": lambda verts, faces, source, factor: heat_distances(verts, faces, source, factor) + 1,
        "towards the source": lambda verts, faces, source, factor: -heat_distances(verts, faces, source, factor),
        "through the air": lambda verts, faces, source, factor: (verts - verts[source]).norm(dim=1),
    },
)

# --- 2.6: a ball and a ring as starts for a ring --------------------------------------------------------------


def four(answer) -> Tensor:
    return tensor(answer, "the four numbers", (4,))


def kept(place: int, expected: int, what: str):
    def check(answer, generator):
        return near(four(answer)[place], expected, f"χ of the fit that starts from {what}")

    return check


def ball_stays_away(answer, generator):
    return between(four(answer)[2], 30, 400, "Chamfer × 10⁴ of the fit from the ball")


def ring_fits(answer, generator):
    return between(four(answer)[3], 0, 25, "Chamfer × 10⁴ of the fit from the ring")


RING = Exercise(
    "2.6",
    "A ring from a ball",
    kind="experiment",
    minutes=20,
    function=False,
    checks={
        "χ from the ball": kept(0, 2, "the ball"),
        "χ from the ring": kept(1, 0, "a thicker ring"),
        "how near the ball comes": ball_stays_away,
        "how near the ring comes": ring_fits,
    },
    hints=(
        "No descent changes the faces. So what can χ of the result be?",
        "Call fit(start, target_of(ring()), 200) twice, with mesh.icosphere(3, radius=0.5) and ring(thickness=0.55).",
    ),
    wrong={
        "the ball gets a hole": (0, 0, 120, 7),
        "the ring loses its hole": (2, 2, 120, 7),
        "both are good": (2, 0, 7, 7),
        "both are bad": (2, 0, 120, 120),
        "not times 10⁴": (2, 0, 0.012, 0.0007),
        "two numbers": (2, 0),
    },
)

EXERCISES = [EULER, ENTRY, LOWER, COUNT, AREA, MANIFOLD, SMOOTH, HEAT, RING]
