"""Base of the category models: one image in; numbers for the shape, a camera and a texture out.

Source: Kanazawa, Tulsiani, Efros, Malik, "Learning category-specific mesh reconstruction from image collections",
ECCV 2018, section 3. A system derives from `CategoryNetwork`, turns the numbers into vertices in `shape`, and says in
`loss(batch) → terms` what it is trained for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lib import rendering
from lib.geometry.cameras import WeakPerspective
from lib.geometry.image_plane import sample_image
from lib.geometry.rotations import matrix_to_quaternion, matrix_to_rotation_6d, rotation_6d_to_matrix, view_rotation
from lib.layers.convolutional import Encoder
from lib.layers.heat_maps import HeatMapHead, soft_argmax
from lib.layers.sphere import SphereDecoder, sphere_coordinates
from lib.losses.photometric import perceptual_distance


class Prediction(NamedTuple):
    """Prediction for B images.

    offsets (B, …): the numbers that deform the category's shape, in the form that the model takes; verts (B, V, 3): the
    deformed mesh; camera (B, 7): `WeakPerspective.to_vector`; flow (B, S, 2·S, 2): for each point of the sphere image
    (see `SphereDecoder`), the point of the image plane where its colour is to be picked; keypoints (B, K, 2): where
    heat maps see the keypoints in the image plane, K = 0 for a network without heat maps.
    """

    offsets: Float[Tensor, "B ..."]
    verts: Float[Tensor, "B V 3"]
    camera: Float[Tensor, "B 7"]
    flow: Float[Tensor, "B S 2*S 2"]
    keypoints: Float[Tensor, "B K 2"]


class CategoryNetwork(nn.Module):
    """Base of the category models: encoder, head for the shape, camera heads, texture.

    faces (F, 3); sphere (V, 3): unit vectors, where each vertex lies on the sphere that carries the texture;
    outputs: how many numbers describe the shape, near zero at the start. cameras: how many cameras are proposed;
    several start at equal steps around the object, and a score says which of them is believed. heat_maps: how many
    keypoints are looked for in heat maps, whose places the camera's head then sees beside the code. image_size, width,
    map_channels, features: of the `Encoder`; texture_size: rows of the sphere image.
    """

    def __init__(
        self,
        faces: Int[Tensor, "F 3"],
        sphere: Float[Tensor, "V 3"],
        outputs: int,
        *,
        cameras: int = 1,
        heat_maps: int = 0,
        image_size: int = 256,
        width: int = 64,
        map_channels: int = 256,
        features: int = 200,
        texture_size: int = 64,
        texture_width: int = 64,
    ) -> None:
        super().__init__()
        if cameras < 1:
            raise ValueError(f"cameras must be 1 or more, got {cameras}")
        self.register_buffer("faces", faces.clone(), persistent=False)
        self.register_buffer("sphere", sphere.clone(), persistent=False)
        self.encoder = Encoder(image_size, width, map_channels, features)
        self.offset_head = nn.Linear(features, outputs)
        # Predict scale, shift, and the first two rows of a rotation. The paper's code predicts a quaternion; but after
        # one walk around the animal a quaternion arrives at its negative, and no continuous network can follow that.
        self.camera_head = nn.Linear(features + 2 * heat_maps, 9 * cameras)
        self.texture_head = SphereDecoder(features, 2, texture_size, texture_width)
        nn.init.normal_(self.offset_head.weight, std=1e-4)
        nn.init.zeros_(self.offset_head.bias)
        nn.init.normal_(self.camera_head.weight, std=1e-2)
        azimuth = 2 * math.pi * torch.arange(cameras) / cameras
        around = matrix_to_rotation_6d(view_rotation(azimuth, torch.zeros(cameras)))
        with torch.no_grad():
            self.camera_head.bias.copy_(torch.cat([torch.zeros(cameras, 3), around], -1).flatten())
        self.score_head = nn.Linear(features + 2 * heat_maps, cameras) if cameras > 1 else None
        self.heat_maps = HeatMapHead(self.encoder.trunk, heat_maps) if heat_maps else None

    def shape(self, code: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B V 3"]]:
        """Return offsets and vertices for codes of the encoder."""
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Prediction:
        code, stages = self.encoder.with_stages(images)
        scores = None if self.heat_maps is None else self.heat_maps(stages).float()
        code = code.float()
        # Only the encoder runs in mixed precision: bfloat16 would round a quaternion by a third of a degree.
        with torch.autocast(images.device.type, enabled=False):
            keypoints = code.new_zeros(len(code), 0, 2) if scores is None else soft_argmax(scores)
            camera = self.camera(torch.cat([code, keypoints.flatten(1)], 1))
            seen = self.seen_by_shape(code, keypoints, camera)
            return Prediction(*self.shape(seen), camera, self.flow(code), keypoints)

    def seen_by_shape(
        self, code: Float[Tensor, "B F"], keypoints: Float[Tensor, "B K 2"], camera: Float[Tensor, "B 7"]
    ) -> Float[Tensor, "B G"]:
        """Return what the head of the shape reads: here the code alone."""
        return code

    def camera(self, code: Float[Tensor, "B F"]) -> Float[Tensor, "B 7"]:
        """Return the camera, the best of several: scale (positive), shift, unit quaternion (`WeakPerspective`)."""
        proposals, scores = self.cameras(code)
        if self.score_head is None:
            return proposals[:, 0]
        return proposals.gather(1, scores.argmax(1)[:, None, None].expand(-1, 1, 7))[:, 0]

    def cameras(self, code: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B N 7"], Float[Tensor, "B N"]]:
        """Return all proposed cameras, and the logarithm of the probability of each."""
        numbers = self.camera_head(code).unflatten(-1, (-1, 9))
        scale = F.relu(numbers[..., :1] + 1) + 1e-12
        quaternion = matrix_to_quaternion(rotation_6d_to_matrix(numbers[..., 3:]))
        scores = numbers.new_zeros(numbers.shape[:2]) if self.score_head is None else self.score_head(code)
        return torch.cat([scale, numbers[..., 1:3], quaternion], -1), scores.log_softmax(-1)

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

    def pointing_loss(
        self, flow: Float[Tensor, "B S 2*S 2"], projected: Float[Tensor, "B V 3"], mask: Float[Tensor, "B H W"]
    ) -> Float[Tensor, ""]:
        """Mean distance between where the flow points for a visible vertex, and where the vertex is seen.

        projected: the vertices in the picture; no gradient reaches them. Only what lies on the mask counts, so that no
        colour is picked from the background. The texture loss alone has a gradient of about a pixel's width.
        """
        projected = projected.detach()
        seen = projected[..., :2]
        at = sphere_coordinates(self.sphere).expand(len(flow), 1, -1, -1)
        gap = (sample_image(flow.permute(0, 3, 1, 2), at)[:, :, 0].mT - seen).norm(dim=-1)
        on_mask = sample_image(mask[:, None], seen[:, None])[:, 0, 0]
        counted = on_mask * rendering.visible_vertices(projected, self.faces, mask.shape[-1])
        return (counted * gap).sum() / counted.sum().clamp(min=1)

    def texture_loss(
        self,
        batch: dict[str, Tensor],
        flow: Float[Tensor, "B S 2*S 2"],
        verts: Float[Tensor, "B V 3"],
        camera: WeakPerspective,
        features: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, ""]:
        """Compare the mesh, in colours that `flow` picks from the image, with the image inside its mask.

        features: images to a list of feature maps, for `perceptual_distance`; without, the mean difference of colours.
        """
        images, inside = batch["image"], batch["mask"][:, None]
        picture = self.paint(verts, camera, sample_image(images, flow), images.shape[-1])
        if features is None:
            return ((picture - images).abs() * inside).mean()
        return perceptual_distance(features, picture * inside, images * inside).mean()


def with_sum(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the sum of the terms, as "loss": what `training.fit` descends."""
    return {"loss": sum(terms.values()), **terms}
