"""One image to a textured mesh of a known category: shape, camera and texture of the category-mesh model.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction from image collections",
ECCV 2018. What is different here is marked in the docstrings.
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
from lib.geometry.rotations import matrix_to_quaternion, matrix_to_rotation_6d, rotation_6d_to_matrix, view_rotation
from lib.models.encoders import Encoder, SphereDecoder, sphere_coordinates


class Prediction(NamedTuple):
    """What the network says of B images.

    offset (B, V, 3): ΔV, by which this animal differs from the mean shape, mirror-symmetric unless the model was
    told otherwise; camera (B, 7): `WeakPerspective.to_vector`; flow (B, S, 2·S, 2): for each point of the sphere
    image (see `SphereDecoder`) the point of the image plane where its colour is to be picked.
    """

    offset: Float[Tensor, "B V 3"]
    camera: Float[Tensor, "B 7"]
    flow: Float[Tensor, "B S 2*S 2"]


class CategoryNetwork(nn.Module):
    """What the category models share: one image in; numbers for the shape, a camera and a texture out.

    faces (F, 3); sphere (V, 3): unit vectors, where each vertex lies on the sphere that carries the texture;
    outputs: how many numbers say what the shape is, near zero at the start. image_size, width, map_channels,
    features: of the `Encoder`; texture_size: rows of the sphere image.
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
        # Scale, shift, and the first two rows of a rotation, where the release has a quaternion: once around an
        # animal, a quaternion ends at its negative, and no continuous network can follow it.
        self.camera_head = nn.Linear(features, 9)
        self.texture_head = SphereDecoder(features, 2, texture_size, texture_width)
        nn.init.normal_(self.offset_head.weight, std=1e-4)
        nn.init.zeros_(self.offset_head.bias)
        nn.init.normal_(self.camera_head.weight, std=1e-2)
        from_the_side = matrix_to_rotation_6d(view_rotation(torch.zeros(()), torch.zeros(())))
        with torch.no_grad():
            self.camera_head.bias.copy_(torch.cat([torch.zeros(3), from_the_side]))

    def camera(self, code: Float[Tensor, "B F"]) -> Float[Tensor, "B 7"]:
        """Scale above zero, shift, unit quaternion: `WeakPerspective.to_vector`."""
        camera = self.camera_head(code)
        scale = F.relu(camera[:, :1] + 1) + 1e-12
        quaternion = matrix_to_quaternion(rotation_6d_to_matrix(camera[:, 3:]))
        return torch.cat([scale, camera[:, 1:3], quaternion], -1)

    def flow(self, code: Float[Tensor, "B F"]) -> Float[Tensor, "B S 2*S 2"]:
        """For each point of the sphere image, where in the image plane to pick its colour."""
        return self.texture_head(code).permute(0, 2, 3, 1).tanh()

    def paint(
        self,
        verts: Float[Tensor, "B V 3"],
        camera: WeakPerspective,
        texture: Float[Tensor, "B 3 S 2*S"],
        image_size: int,
        background: float = 1.0,
    ) -> Float[Tensor, "B 3 H W"]:
        """A picture of the mesh with its texture, unlit, for light is in the texture. No gradient reaches shape or
        camera: the texture must not bend the shape to fit."""
        projected = camera.project(verts).detach()
        fragments = rendering.rasterize(projected, self.faces, image_size)
        directions = rendering.interpolate(self.sphere, self.faces, fragments).permute(0, 2, 3, 1)
        directions = torch.where(fragments.mask[..., None], directions, self.sphere[0])
        colors = sample_image(texture, sphere_coordinates(directions))
        return torch.where(fragments.mask[:, None], colors, background)

    def vertex_colors(self, texture: Float[Tensor, "B 3 S 2*S"]) -> Float[Tensor, "B V 3"]:
        """The texture at the vertices."""
        at = sphere_coordinates(self.sphere).expand(len(texture), 1, -1, -1)
        return sample_image(texture, at)[:, :, 0].mT


class CMR(CategoryNetwork):
    """The category: mean shape and keypoint assignment, learned; and the network that adapts it to an image.

    verts (V, 3), faces (F, 3): the shape to start from, mirror-symmetric about z = 0 under `mirror` (V,); sphere
    (V, 3): unit vectors, where each vertex lies on the sphere that carries the texture. keypoint_permutation (K,):
    the keypoint on the other side of each. symmetric_offsets: as in the paper; without, every vertex has an offset of
    its own, and an animal can put one leg before the other. sizes: see `CategoryNetwork`.

    Half of the mean shape's vertices are free, the rest their mirror images. The assignment A is tied in the same way
    (the release leaves it free): a left keypoint is where the right one is, mirrored.
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
        vertex = torch.arange(len(verts))
        free = torch.where(mirror >= vertex)[0]
        # Of every vertex, which free one it is or mirrors, and the factor of its three coordinates.
        source = torch.searchsorted(free, torch.minimum(vertex, mirror))
        sign = torch.ones(len(verts), 3)
        sign[:, 2] = (mirror > vertex).float() - (mirror < vertex).float()
        super().__init__(faces, sphere, 3 * len(free if symmetric_offsets else verts), **sizes)
        self.symmetric_offsets = symmetric_offsets
        for name, value in (("mirror", mirror), ("source", source)):
            self.register_buffer(name, value.clone(), persistent=False)
        self.register_buffer("sign", sign, persistent=False)
        self.register_buffer("keypoint_permutation", keypoint_permutation.clone(), persistent=False)

        self.mean_half = nn.Parameter(verts[free].clone())
        self.logits = nn.Parameter(torch.zeros(len(keypoint_permutation), len(verts)))

    def symmetric(self, half: Float[Tensor, "... H 3"]) -> Float[Tensor, "... V 3"]:
        """The free vertices and their mirror images; those of the midline are put on it."""
        return half[..., self.source, :] * self.sign

    @property
    def mean_shape(self) -> Float[Tensor, "V 3"]:
        return self.symmetric(self.mean_half)

    @property
    def assignment(self) -> Float[Tensor, "K V"]:
        """A: for every keypoint a distribution over the vertices, uniform at the start."""
        mirrored = self.logits[self.keypoint_permutation][:, self.mirror]
        return ((self.logits + mirrored) / 2).softmax(-1)

    def keypoints(self, verts: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K 3"]:
        """Expected vertices: A verts."""
        return self.assignment @ verts

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Prediction:
        code = self.encoder(images).float()
        # Under mixed precision only the encoder is: eight bits of a quaternion are a third of a degree.
        with torch.autocast(images.device.type, enabled=False):
            offset = self.offset_head(code).unflatten(-1, (-1, 3))
            if self.symmetric_offsets:
                offset = self.symmetric(offset)
            return Prediction(offset, self.camera(code), self.flow(code))


def sample_image(images: Float[Tensor, "B C H W"], points: Float[Tensor, "B R S 2"]) -> Float[Tensor, "B C R S"]:
    """The images' colours at these points of the image plane, bilinear; beyond the border, the border's."""
    return F.grid_sample(images, points, padding_mode="border", align_corners=False)
