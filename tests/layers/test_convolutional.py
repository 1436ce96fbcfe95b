from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lib.layers.convolutional import Encoder, ResNet18, doubling_decoder, halving_encoder
from lib.layers.sphere import SphereDecoder, sphere_coordinates

# torchvision.models.resnet18().state_dict(), its names and shapes.
LAYERS = {"layer1": (64, 64), "layer2": (64, 128), "layer3": (128, 256), "layer4": (256, 512)}


def published_shapes():
    def norm(prefix, channels):
        yield from ((f"{prefix}.{name}", (channels,)) for name in ("weight", "bias", "running_mean", "running_var"))
        yield f"{prefix}.num_batches_tracked", ()

    yield "conv1.weight", (64, 3, 7, 7)
    yield from norm("bn1", 64)
    for layer, (before, after) in LAYERS.items():
        for block in (0, 1):
            inside = before if block == 0 else after
            for part, channels in ((1, inside), (2, after)):
                yield f"{layer}.{block}.conv{part}.weight", (after, channels, 3, 3)
                yield from norm(f"{layer}.{block}.bn{part}", after)
            if block == 0 and before != after:
                yield f"{layer}.0.downsample.0.weight", (after, before, 1, 1)
                yield from norm(f"{layer}.0.downsample.1", after)
    yield "fc.weight", (1000, 512)
    yield "fc.bias", (1000,)


def published_weights():
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published_shapes():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        else:
            state[name] = 0.05 * torch.rand(shape, generator=generator) + (0.5 if "running_var" in name else 0)
    return state


def resnet18_by_the_table(images, state):
    """The network once more, from table 1 of the paper, on the state dict alone."""

    def norm(x, prefix):
        values = [state[f"{prefix}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean[:, None, None]) / std[:, None, None]
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in LAYERS:
        for block in (0, 1):
            prefix = f"{layer}.{block}"
            stride = 2 if block == 0 and layer != "layer1" else 1
            y = F.relu(norm(F.conv2d(x, state[f"{prefix}.conv1.weight"], stride=stride, padding=1), f"{prefix}.bn1"))
            y = norm(F.conv2d(y, state[f"{prefix}.conv2.weight"], padding=1), f"{prefix}.bn2")
            if f"{prefix}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{prefix}.downsample.0.weight"], stride=stride), f"{prefix}.downsample.1")
            x = F.relu(x + y)
    return x


def test_published_weights_load_and_mean_the_published_network(tmp_path):
    state = published_weights()
    torch.save(state, tmp_path / "resnet18.pth")
    network = ResNet18().eval()
    network.load_published(tmp_path / "resnet18.pth")
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_176_512
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = network(images)
        expected = resnet18_by_the_table(images, state)
    assert features.shape == (1, 512, 2, 3)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="download resnet18"):
        ResNet18(8).load_published(tmp_path / "missing.pth")
    torch.save(published_weights(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="use width=64") as error:
        ResNet18(8).load_published(tmp_path / "resnet18.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_encoder_sees_a_4_by_4_map_at_every_size(size):
    encoder = Encoder(size, width=4, map_channels=16, features=10)
    images = torch.rand(2, 3, size, size)
    assert encoder.feature_map(images).shape == (2, 16, 4, 4)
    assert encoder(images).shape == (2, 10)


def test_encoder_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="must be 64, 128 or 256"):
        Encoder(100)
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 64, 64\)"):
        Encoder(64, width=4)(torch.rand(2, 3, 32, 32))


def test_sphere_decoder_is_symmetric():
    decoder = SphereDecoder(features=5, channels=2, size=16, width=4)
    image = decoder(torch.rand(3, 5))
    assert image.shape == (3, 2, 16, 32)
    assert torch.equal(image, image.flip(-1))
    with pytest.raises(ValueError, match="power of two"):
        SphereDecoder(5, 2, size=12)


def test_sphere_coordinates_of_the_axes():
    axes = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, -1], [0, 1, 0], [0, -1, 0]])
    x, y = sphere_coordinates(axes).unbind(-1)
    torch.testing.assert_close(x[:3], torch.tensor([0.0, 0.5, -0.5]))
    torch.testing.assert_close(y, torch.tensor([0.0, 0, 0, -1, 1]))


def test_mirrored_directions_see_mirrored_columns():
    directions = F.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    here = sphere_coordinates(directions)
    there = sphere_coordinates(directions * torch.tensor([1.0, 1, -1]))
    torch.testing.assert_close(there, here * torch.tensor([-1.0, 1]))


@pytest.mark.parametrize(("size", "coarse"), [(16, 1), (32, 2), (64, 4)])
def test_maps_there_and_back(size, coarse):
    pictures = torch.rand(2, 3, size, size)
    code = halving_encoder(size, 4, 10, norm=True)(pictures)
    assert code.shape == (2, 10, 1, 1)
    assert doubling_decoder(10, 4, size, 5, coarse)(code).shape == (2, 5, size, size)


def test_maps_of_other_sizes_are_refused():
    for size in (4, 24):
        with pytest.raises(ValueError, match="size must be a power of two"):
            halving_encoder(size, 4, 10, norm=False)
