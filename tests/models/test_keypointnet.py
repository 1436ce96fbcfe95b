"""KeypointNet: shapes, units, what its loss needs, and that a few steps help."""

from __future__ import annotations

import pytest
import torch

from lib.datasets import pair_up
from lib.datasets.synthetic import objects
from lib.geometry.rotations import view_rotation
from lib.models.keypointnet import KeypointNet, OrientationNet, Weights, true_flag


@pytest.fixture(scope="module")
def batch():
    """Pairs of views of two tables, each with its camera's motion."""
    data, pairs = [], []
    for i, shape in enumerate(objects.make_objects("table", 2, seed=0)):
        camera = objects.look_at(torch.tensor([0.3, 0.7]), torch.tensor([0.3, 0.5]))
        drawn = objects.render(shape, camera, 32, resolution=32)
        seen = camera.project(shape.keypoints[None])
        data.append(
            {"image": drawn["image"], "mask": drawn["mask"], "focal": camera.focal}
            | {"rotation": camera.rotation, "translation": camera.translation, "flag": true_flag(camera.rotation)}
            | {"keypoints": seen[..., :2], "keypoint_depth": seen[..., 2]}
        )
        pairs.append([2 * i, 2 * i + 1])
    joined = {name: torch.cat([part[name] for part in data]) for name in data[0]}
    return pair_up(joined, torch.tensor(pairs))


def test_keypoints_project_to_where_they_are_seen(batch):
    torch.manual_seed(0)
    net = KeypointNet(5, channels=8)
    found = net(batch["image"], batch["focal"], batch["flag"])
    assert found.seen.shape == (2, 5, 2) and found.points.shape == (2, 5, 3) and found.maps.shape == (2, 5, 32, 32)
    assert torch.allclose(found.maps.sum((2, 3)), torch.ones(2, 5), atol=1e-5)
    projected = batch["focal"][:, None, None] * found.points[..., :2] / found.points[..., 2:]
    assert torch.allclose(projected, found.seen, atol=1e-5)
    assert (found.points[..., 2] - 2.7).abs().max() < 1.5


def test_the_flag_is_an_input_only_where_it_is_wanted(batch):
    torch.manual_seed(0)
    net, blind = KeypointNet(3, channels=4).eval(), KeypointNet(3, channels=4, flagged=False).eval()
    one, other = (net(batch["image"], batch["focal"], flag).seen for flag in (batch["flag"], -batch["flag"]))
    assert not torch.allclose(one, other)
    assert torch.allclose(
        blind(batch["image"], batch["focal"]).seen, blind(batch["image"], batch["focal"], one[:, 0, 0]).seen
    )
    with pytest.raises(ValueError, match="flag is missing; pass OrientationNet's"):
        net(batch["image"], batch["focal"])


def test_the_orientation_net_gives_two_places_and_a_sign(batch):
    torch.manual_seed(0)
    net = OrientationNet(channels=4)
    assert net(batch["image"]).shape == (2, 2, 2)
    assert set(net.flag(batch["image"]).tolist()) <= {1.0, -1.0}
    right = objects.look_at(torch.tensor([0.2, 3.0]), torch.zeros(2))
    assert true_flag(right.rotation).tolist() == [1.0, -1.0]


def test_its_terms_are_those_that_have_a_weight(batch):
    torch.manual_seed(0)
    net = KeypointNet(4, channels=4)
    terms = net.loss(batch)
    assert set(terms) == {"loss", "consistency", "pose", "separation", "silhouette", "variance"}
    assert torch.allclose(terms["loss"], sum(value for name, value in terms.items() if name != "loss"))
    assert set(net.loss(batch, Weights(pose=0, variance=0))) == {"loss", "consistency", "separation", "silhouette"}


def test_a_few_steps_lower_the_loss(batch):
    torch.manual_seed(0)
    net = KeypointNet(4, channels=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = net.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_blocks_of_pixels_are_places_of_the_maps(batch):
    torch.manual_seed(0)
    net = KeypointNet(4, channels=8, stride=4)
    found = net(batch["image"], batch["focal"], batch["flag"])
    assert found.maps.shape == (2, 4, 8, 8) and net.loss(batch)["loss"].isfinite()
    with pytest.raises(ValueError, match="images must have sides divisible by 4"):
        net(batch["image"][:, :, :30], batch["focal"], batch["flag"])


def test_the_loss_knows_only_the_motion_between_the_cameras(batch):
    """Turning the world, for both cameras alike, changes nothing."""
    torch.manual_seed(0)
    net = KeypointNet(4, channels=4)
    with torch.no_grad():
        net.scores.weight *= 30
        before = net.loss(batch)
        turn = view_rotation(torch.tensor([1.0]), torch.tensor([0.3]))[0]
        turned = {f"{p}rotation": batch[f"{p}rotation"] @ turn for p in ("", "next_")}
        after = net.loss(batch | turned)
        other = net.loss(batch | {"rotation": batch["rotation"] @ turn})
    assert torch.allclose(before["loss"], after["loss"], atol=1e-5)
    assert (other["pose"] - before["pose"]).abs() > 1e-3


def test_the_rival_is_right_where_its_points_are_the_annotated_ones(batch):
    torch.manual_seed(0)
    count = batch["keypoints"].shape[1]
    net = KeypointNet(count, channels=4)
    found = net(batch["image"], batch["focal"], batch["flag"])
    own = batch | {"keypoints": found.seen.detach(), "keypoint_depth": found.points[..., 2].detach()}
    assert net.supervised_loss(own)["loss"] < 1e-10 < net.supervised_loss(batch)["loss"]
    with pytest.raises(ValueError, match=f"make the network with keypoints={count}"):
        KeypointNet(count + 1, channels=4).supervised_loss(batch)


def test_the_orientation_net_learns_the_ends_of_the_axis(batch):
    torch.manual_seed(0)
    net = OrientationNet(channels=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    first = net.loss(batch)["loss"].item()
    for _ in range(40):
        loss = net.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first
    assert torch.equal(net.flag(batch["image"]), batch["flag"])


def test_bad_arguments_are_named(batch):
    with pytest.raises(ValueError, match="the batch lacks 'next_focal'"):
        KeypointNet(3, channels=4).loss({name: value for name, value in batch.items() if name != "next_focal"})
    with pytest.raises(ValueError, match="focal must be positive"):
        OrientationNet(4).loss(batch | {"focal": -batch["focal"]})
    with pytest.raises(ValueError, match="keypoints"):
        KeypointNet(0)
    with pytest.raises(ValueError, match="distance must be above 0"):
        KeypointNet(3, distance=-1)
    net = KeypointNet(3, channels=4)
    with pytest.raises(ValueError, match="images"):
        net(batch["image"][:, :2], batch["focal"], batch["flag"])
    with pytest.raises(ValueError, match="focal"):
        net(batch["image"], batch["focal"][:1], batch["flag"])
