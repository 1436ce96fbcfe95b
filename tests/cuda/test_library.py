"""lib's public functions with all on the simulated device: none mixes devices, none takes a CUDA tensor as NumPy.

What a step of training needs is in `test_steps`; here is the rest, called once.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from simulated import CUDA, simulated

from lib import metrics, plots, rendering, weights, widgets
from lib.datasets.synthetic import creatures
from lib.deformation import basis, free, handles, rig
from lib.estimation import multiplex, optical_flow, pose, refinement
from lib.estimation import structure_from_motion as sfm
from lib.geometry import depth_maps, geodesics, image_plane, laplacian, mesh, pointsets, rotations
from lib.geometry.cameras import Pinhole, WeakPerspective
from lib.layers.sphere import sphere_coordinates
from lib.losses import mesh as mesh_losses
from lib.losses import silhouette
from lib.models import articulated, cmr, unsup3d

pytestmark = pytest.mark.slow

SIZES = dict(image_size=64, width=4, map_channels=8, features=16, texture_size=16, texture_width=4)


class Place:
    """The things the calls are made with."""

    def __init__(self, folder) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.animal = creatures.template("quadruped")
        self.horse = self.animal.mesh.to("cuda")
        self.verts, self.faces = self.horse.verts, self.horse.faces
        self.batch = (0.9 * self.verts).expand(4, -1, -1).contiguous()
        self.pictures = torch.rand(4, 3, 64, 64, device="cuda")
        self.rotations = rotations.random_rotations(8, self.generator()).to("cuda")
        turns = rotations.random_quaternions(4, self.generator()).to("cuda")
        self.camera = WeakPerspective(torch.full((4,), 0.8, device="cuda"), torch.zeros(4, 2, device="cuda"), turns)
        focal, away = torch.full((8,), 2.0, device="cuda"), torch.tensor([0, 0, 4.0], device="cuda")
        self.pinhole = Pinhole(focal, self.rotations, away.expand(8, 3))
        self.cloud = pointsets.sample_surface(self.verts, self.faces, 300, self.generator())[None]

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def leaf(self) -> torch.Tensor:
        return self.camera.project(self.batch).detach().requires_grad_()

    def fragments(self, **options) -> rendering.Fragments:
        return rendering.rasterize(self.leaf(), self.faces, 32, **options)

    def cmr(self, device: str) -> cmr.CMR:
        ball = mesh.icosphere(2)
        mirror, permutation = mesh.mirror_permutation(ball.verts), self.animal.keypoint_permutation
        parts = ball.verts, ball.faces, ball.verts, mirror, permutation
        return cmr.CMR(*(part.to(device) for part in parts), **SIZES).to("cuda")


def two_views(p: Place):
    marks = p.verts[torch.randperm(len(p.verts))[: len(p.animal.keypoint_permutation)].to(CUDA)].double()
    views = WeakPerspective(*(getattr(p.camera, name).double() for name in ("scale", "translation", "quaternion")))
    return marks, views.project(marks[None])[..., :2]


def structure(p: Place):
    marks, seen = two_views(p)
    permutation = p.animal.keypoint_permutation.to("cuda")
    seen, visible = seen.repeat(2, 1, 1), torch.rand(8, len(marks), device="cuda") < 0.9
    found = sfm.structure_from_motion(seen + 0.001 * torch.randn_like(seen), visible, permutation)
    sfm.canonical_frame(*found, visible, permutation, (0, 5), (3, 9))
    sfm.resect(marks, seen, visible)


def draw(p: Place):
    _, axis = plt.subplots()
    plots.show_images([p.pictures[0], p.pictures[0, 0]])
    plots.draw_mesh(axis, p.verts, p.faces, values=p.verts[:, 0], size=32)
    framing = dict(center=p.verts.mean(0), radius=p.verts.norm(dim=1).max())
    plots.draw_mesh(axis, p.verts, p.faces, colors=p.verts.abs(), size=32, **framing)
    plots.draw_points(axis, p.verts, color=p.verts.abs().clamp(0, 1))
    widgets.mesh_viewer(p.verts, p.faces, values=p.verts[:, 0], points=p.verts[:3])
    widgets.point_viewer(p.verts, colors=p.verts.abs().clamp(0, 1))
    plt.close("all")


def store(p: Place):
    mesh.save_mesh(p.folder / "horse.glb", p.horse)
    model = p.cmr("cpu")
    weights.save_weights(p.folder / "weights.safetensors", model.cpu())
    weights.load_weights(p.folder / "weights.safetensors", model.to("cuda"))


def every_part(p: Place, backend: str):
    seen = p.fragments(backend=backend)
    (seen.barycentrics.sum() + seen.depth[seen.mask].sum() + seen.distance[seen.mask].sum()).backward()
    for gradient in ("soft", "nmr"):
        rendering.silhouette(p.leaf(), p.faces, 32, gradient=gradient, backend=backend).sum().backward()
    rendering.visible_vertices(p.leaf(), p.faces, 32, backend=backend)
    colors, light = torch.rand(len(p.verts), 3, device="cuda"), torch.rand(4, 3, device="cuda")
    options = dict(light=light, ambient=torch.rand(4, device="cuda"), background=(0.1, 0.2, 0.3), gradient="nmr")
    rendering.shade(p.leaf(), p.faces, colors, 32, **options, backend=backend).sum().backward()
    rendering.shade(p.leaf(), p.faces, p.pictures[0], 32, uvs=p.verts[:, :2].sigmoid(), backend=backend)
    rendering.flow(p.leaf(), p.leaf() + 0.01, p.faces, (24, 32), backend=backend)


def autoencoder(p: Place):
    model = unsup3d.PhotoGeometricAutoencoder(32, 4, 8, average=True, prior=0.5).to("cuda")
    small = torch.rand(4, 3, 32, 32, device="cuda")
    model.loss({"image": small}, unsup3d.Objective(lit=False))["loss"].backward()
    with torch.no_grad():
        factors = model(small)
        unsup3d.degeneracies(factors, unsup3d.render(*factors[:4]))
        unsup3d.paint(small, factors.depth, factors.view)
        depth_maps.depth_mesh(factors.depth[0], small[0], 5.6)


def articulate(p: Place, make):
    for horse, sphere in ((p.animal.mesh, p.animal.sphere), (p.horse, p.animal.sphere.to("cuda"))):
        model = articulated.Articulated(horse, sphere, make(horse), **SIZES).to("cuda")
        model(p.pictures).verts.sum().backward()


def move(p):
    """Estimate flow, and refine poses and cameras of a clip with it."""
    horse = p.horse
    layer = handles.HandleLayer(horse, 5).to("cuda").requires_grad_(False)
    cost = articulated.PoseCost(horse, torch.arange(4)).to("cuda")
    clip, start = {"mask": p.pictures[:, 0].round()}, p.camera.to_vector()
    pairs = optical_flow.consecutive_pairs([len(start)])
    estimate = optical_flow.estimate_flow(p.pictures, pairs)
    gap = optical_flow.inconsistency(estimate, -estimate)
    options = dict(pairs=pairs, flow=estimate, known=gap < 0.1, steps=3)
    offsets = torch.zeros(len(start), 5, 3, device="cuda")
    refinement.refine_clip(cost, layer, offsets, start, clip, refinement.Weights(motion=1.0), **options)


CALLS = {
    "normals, areas": lambda p: (mesh.vertex_normals(p.verts, p.faces), mesh.face_areas(p.verts, p.faces)),
    "subdivide": lambda p: mesh.subdivide(p.horse),
    "mirror_permutation": lambda p: mesh.mirror_permutation(mesh.icosphere(2).to("cuda").verts),
    "sample_surface": lambda p: pointsets.sample_surface(p.verts, p.faces, 50, p.generator(), return_normals=True),
    "exact_emd": lambda p: pointsets.exact_emd(p.cloud[:, :40], p.cloud[:, 40:80]),
    "f_score": lambda p: pointsets.f_score(p.cloud, p.cloud, 0.05),
    "laplacians": lambda p: (
        laplacian.cotangent_laplacian(p.verts, p.faces) @ p.verts,
        laplacian.uniform_laplacian(p.faces, len(p.verts)),
        laplacian.lumped_mass(p.verts, p.faces),
    ),
    "geodesics": lambda p: (
        geodesics.geodesic_distances(p.verts, p.faces, torch.tensor([0, 5]).to("cuda")),
        geodesics.farthest_points(p.verts, p.faces, 4),
    ),
    "rotations": lambda p: (
        rotations.matrix_to_axis_angle(p.rotations),
        rotations.matrix_to_rotation_6d(p.rotations),
        rotations.rotation_angle(p.rotations, p.rotations),
        rotations.slerp(p.camera.quaternion, p.camera.quaternion, torch.rand(4, device="cuda")),
        rotations.nearest_rotation(torch.randn(8, 3, 3, device="cuda").requires_grad_()).sum().backward(),
        rotations.random_rotations(4, device="cuda"),
    ),
    "cameras": lambda p: (p.camera.mirror().project(p.batch), p.pinhole.mirror().project(p.verts[None])),
    "kernels": lambda p: every_part(p, "kernels"),
    "reference": lambda p: every_part(p, "reference"),
    "texture_sample": lambda p: rendering.texture_sample(p.verts[:, :2].sigmoid(), p.pictures, p.faces, p.fragments()),
    "boundary": lambda p: silhouette.boundary_loss(p.leaf()[..., :2], *image_plane.boundary_points(p.pictures[:, 0])),
    "arap": lambda p: mesh_losses.arap_energy(p.batch, p.verts, p.faces),
    "ring_pairs": lambda p: mesh_losses.ring_pairs(p.faces),
    "iou, pck": lambda p: metrics.iou(p.pictures[:, 0], p.pictures[:, 1]),
    "surface_error": lambda p: metrics.surface_error(p.cloud, p.cloud + 0.1),
    "weak_perspective_pose": lambda p: pose.weak_perspective_pose(*(x.expand(4, -1, -1) for x in two_views(p))),
    "structure_from_motion": structure,
    "CMR of CPU tensors": lambda p: p.cmr("cpu")(p.pictures),
    "CMR of CUDA tensors": lambda p: p.cmr("cuda")(p.pictures),
    "sphere_coordinates": lambda p: sphere_coordinates(p.animal.sphere.to("cuda")),
    "handles": lambda p: articulate(p, lambda horse: handles.HandleLayer(horse, 5)),
    "basis": lambda p: articulate(p, lambda horse: basis.LinearBasis(horse, 5)),
    "free": lambda p: articulate(p, free.FreeVertices),
    "rig": lambda p: rig.skin_weights(torch.rand(len(p.verts), 8, device="cuda").softmax(1)),
    "motion": move,
    "multiplex": lambda p: multiplex.fit_multiplex(p.verts, p.faces, p.pictures[:2, 0].round(), steps=6),
    "autoencoder": autoencoder,
    "plots, widgets": draw,
    "files": store,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CALLS)
def test_functions_run_on_the_device(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    with simulated():
        CALLS[name](Place(tmp_path))
