"""One image to a textured mesh of a known category: shape, camera and texture of the category-mesh model.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction from image collections",
ECCV 2018. The docstrings mark the differences from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lib import rendering
from lib.checks import check_tensor
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import sample_image
from lib.geometry.rotations import matrix_to_quaternion, matrix_to_rotation_6d, rotation_6d_to_matrix, view_rotation
from lib.layers.convolutional import Encoder
from lib.layers.sphere import SphereDecoder, sphere_coordinates


class Prediction(NamedTuple):
    """Prediction for B images.

    offset (B, V, 3): ΔV, the difference of this animal from the mean shape, mirror-symmetric unless the model was
    made with symmetric_offsets=False; camera (B, 7): `WeakPerspective.to_vector`; flow (B, S, 2·S, 2): for each point
    of the sphere image (see `SphereDecoder`), the point of the image plane where its colour is to be picked.
    """

    offset: Float[Tensor, "B V 3"]
    camera: Float[Tensor, "B 7"]
    flow: Float[Tensor, "B S 2*S 2"]


class CategoryNetwork(nn.Module):
    """Base of the category models: one image in; numbers for the shape, a camera and a texture out.

    faces (F, 3); sphere (V, 3): unit vectors, where each vertex lies on the sphere that carries the texture;
    outputs: how many numbers describe the shape, near zero at the start. image_size, width, map_channels, features:
    of the `Encoder`; texture_size: rows of the sphere image.
    """

    def __init__(
        self,
        faces: Int[Tensor, "F 3"],
        sphere: Float[Tensor, "V 3"],
        outputs: int,
        *,
        image_size: int = 256,
        width: int = 64,
        map_channels: int = 256,
        features: int = 200,
        texture_size: int = 64,
        texture_width: int = 64,
    ) -> None:
        super().__init__()
        self.register_buffer("faces", faces.clone(), persistent=False)
        self.register_buffer("sphere", sphere.clone(), persistent=False)
        self.encoder = Encoder(image_size, width, map_channels, features)
        self.offset_head = nn.Linear(features, outputs)
        # Predict scale, shift, and the first two rows of a rotation. The paper's code predicts a quaternion; but after
        # one walk around the animal a quaternion arrives at its negative, and no continuous network can follow that.
        self.camera_head = nn.Linear(features, 9)
        self.texture_head = SphereDecoder(features, 2, texture_size, texture_width)
        nn.init.normal_(self.offset_head.weight, std=1e-4)
        nn.init.zeros_(self.offset_head.bias)
        nn.init.normal_(self.camera_head.weight, std=1e-2)
        from_the_side = matrix_to_rotation_6d(view_rotation(torch.zeros(()), torch.zeros(())))
        with torch.no_grad():
            self.camera_head.bias.copy_(torch.cat([torch.zeros(3), from_the_side]))

    def camera(self, code: Float[Tensor, "B F"]) -> Float[Tensor, "B 7"]:
        """Return scale (positive), shift and unit quaternion, as `WeakPerspective.to_vector`."""
        camera = self.camera_head(code)
        scale = F.relu(camera[:, :1] + 1) + 1e-12
        quaternion = matrix_to_quaternion(rotation_6d_to_matrix(camera[:, 3:]))
        return torch.cat([scale, camera[:, 1:3], quaternion], -1)

    def flow(self, code: Float[Tensor, "B F"]) -> Float[Tensor, "B S 2*S 2"]:
        """Return for each point of the sphere image where in the image plane to pick its colour."""
        return self.texture_head(code).permute(0, 2, 3, 1).tanh()

    def paint(
        self,
        verts: Float[Tensor, "B V 3"],
        camera: WeakPerspective,
        texture: Float[Tensor, "B 3 S 2*S"],
        image_size: int,
        background: float = 1.0,
    ) -> Float[Tensor, "B 3 H W"]:
        """Draw the mesh with its texture, without light, because the texture contains the light already. No gradient
        reaches shape or camera: the texture must not bend the shape."""
        projected = camera.project(verts).detach()
        fragments = rendering.rasterize(projected, self.faces, image_size)
        directions = rendering.interpolate(self.sphere, self.faces, fragments).permute(0, 2, 3, 1)
        directions = torch.where(fragments.mask[..., None], directions, self.sphere[0])
        colors = sample_image(texture, sphere_coordinates(directions))
        return torch.where(fragments.mask[:, None], colors, background)

    def vertex_colors(self, texture: Float[Tensor, "B 3 S 2*S"]) -> Float[Tensor, "B V 3"]:
        """Look up the texture at the vertices."""
        at = sphere_coordinates(self.sphere).expand(len(texture), 1, -1, -1)
        return sample_image(texture, at)[:, :, 0].mT


class CMR(CategoryNetwork):
    """A category: its learned mean shape and keypoint assignment, and the network that adapts them to an image.

    verts (V, 3), faces (F, 3): the shape to start from, mirror-symmetric about z = 0 under `mirror` (V,); sphere
    (V, 3): unit vectors, where each vertex lies on the sphere that carries the texture. keypoint_permutation (K,):
    for each keypoint the one on the other side. symmetric_offsets: True as in the paper; False gives every vertex an
    offset of its own, so that an animal can put one leg before the other. sizes: see `CategoryNetwork`.

    Half of the mean shape's vertices are free, the others are their mirror images. The assignment A is symmetric in
    the same way: a left keypoint is the mirror image of the right one. (The paper's code leaves A free.)
    """

    def __init__(
        self,
        verts: Float[Tensor, "V 3"],
        faces: Int[Tensor, "F 3"],
        sphere: Float[Tensor, "V 3"],
        mirror: Int[Tensor, "V"],
        keypoint_permutation: Int[Tensor, "K"],
        *,
        symmetric_offsets: bool = True,
        **sizes: int,
    ) -> None:
        check_tensor("verts", verts, "V 3", finite=True)
        check_tensor("sphere", sphere, f"{len(verts)} 3", finite=True)
        check_tensor("mirror", mirror, str(len(verts)), kind="integer")
        check_tensor("keypoint_permutation", keypoint_permutation, "K", kind="integer")
        vertex = torch.arange(len(verts), device=verts.device)
        free = torch.where(mirror >= vertex)[0]
        # Find for every vertex the free vertex that it is, or that it mirrors, and the signs of its coordinates.
        source = torch.searchsorted(free, torch.minimum(vertex, mirror))
        sign = torch.ones(len(verts), 3, device=verts.device)
        sign[:, 2] = (mirror > vertex).float() - (mirror < vertex).float()
        super().__init__(faces, sphere, 3 * len(free if symmetric_offsets else verts), **sizes)
        self.symmetric_offsets = symmetric_offsets
        for name, value in (("mirror", mirror), ("source", source)):
            self.register_buffer(name, value.clone(), persistent=False)
        self.register_buffer("sign", sign, persistent=False)
        self.register_buffer("keypoint_permutation", keypoint_permutation.clone(), persistent=False)

        self.mean_half = nn.Parameter(verts[free].clone())
        self.logits = nn.Parameter(torch.zeros(len(keypoint_permutation), len(verts), device=verts.device))

    def symmetric(self, half: Float[Tensor, "... H 3"]) -> Float[Tensor, "... V 3"]:
        """Complete the free vertices by their mirror images; vertices of the midline are put onto the mirror plane."""
        return half[..., self.source, :] * self.sign

    @property
    def mean_shape(self) -> Float[Tensor, "V 3"]:
        return self.symmetric(self.mean_half)

    @property
    def assignment(self) -> Float[Tensor, "K V"]:
        """The matrix A: for every keypoint a distribution over the vertices, uniform at the start."""
        mirrored = self.logits[self.keypoint_permutation][:, self.mirror]
        return ((self.logits + mirrored) / 2).softmax(-1)

    def keypoints(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K 3"]:
        """Return the keypoints as expected vertices, A V."""
        return self.assignment @ verts

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Prediction:
        code = self.encoder(images).float()
        # Only the encoder runs in mixed precision: bfloat16 would round a quaternion by a third of a degree.
        with torch.autocast(images.device.type, enabled=False):
            offset = self.offset_head(code).unflatten(-1, (-1, 3))
            if self.symmetric_offsets:
                offset = self.symmetric(offset)
            return Prediction(offset, self.camera(code), self.flow(code))
