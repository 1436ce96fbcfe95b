"""Unsup3D: shading and warping held against ray-marched faces, gradients, conventions, known wrong answers."""

import math

import pytest
import torch
from torch.nn import functional as F

from lib.datasets.synthetic import faces
from lib.geometry.depth_maps import depth_to_normals
from lib.geometry.image_plane import erode, pixel_centers
from lib.geometry.turntable import FOCAL
from lib.models import unsup3d
from lib.models.unsup3d import Objective
from lib.training import fit

generator = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def truth():
    return faces.make_faces(6, seed=5, image_size=96, canonical=True, symmetric=True, cache=False)


def smooth_depth(batch=2, size=12, dtype=torch.float64):
    """Bowls of gentle slopes, nearest in the middle."""
    x, y = pixel_centers(size, size, dtype=dtype).unbind(-1)
    bowl = 0.96 + 0.03 * x**2 + 0.02 * y**2 + 0.004 * x * y
    return torch.stack([bowl + 0.005 * i for i in range(batch)])


def some_views(batch=2, dtype=torch.float64):
    return torch.tensor([[0.1, 0.4, -0.1, 0.004, -0.003, 0], [-0.2, -0.5, 0.05, 0, 0.002, 0]], dtype=dtype)[:batch]


def test_conventions_agree_with_the_generators():
    assert (unsup3d.MIDDLE - unsup3d.RANGE, unsup3d.MIDDLE + unsup3d.RANGE) == (faces.NEAR, faces.FAR)


def test_normals_and_shading_of_faces(truth):
    """Canonical normals from depth, turned to the view, against those of the marched surface's gradient."""
    inside = erode(erode(truth.mask)) > 0
    normals = depth_to_normals(truth.depth, FOCAL)
    angle = torch.rad2deg((normals * truth.normals).sum(1)[inside].clamp(-1, 1).acos())
    assert angle.median() < 1
    assert (normals[:, 2] < 0).all()
    lit_from_the_right = torch.tensor([[0.2, 0.7, 0.9, 0.0]]).expand(6, 4)
    shade = unsup3d.shading(depth_to_normals(truth.canonical_depth, FOCAL), lit_from_the_right)
    middle = slice(30, 66)
    assert (shade[:, middle, 56:76].mean((1, 2)) > shade[:, middle, 20:40].mean((1, 2)) + 0.1).all()


def test_true_factors_give_the_true_picture(truth):
    """Λ and Π with the true depth, albedo, light and view, against the marched picture: under 2/255 in the interior.

    Interior: the face without its rim, where the canonical view shows the same point, and away from the lines behind
    which the nose hides the cheek.
    """
    made = unsup3d.render(truth.canonical_depth, truth.canonical_albedo, truth.light, truth.view)
    same_point = ((made.depth - truth.depth).abs() < 0.002).float() * made.mask
    places = unsup3d.canonical_places(made.depth, truth.view)
    inner = erode(erode(erode((truth.canonical_depth < 1.05).float())))
    facing = F.grid_sample(inner[:, None], places, align_corners=False)[:, 0] > 0.99
    interior = erode(erode(truth.mask)) * erode(same_point) * facing
    assert interior.mean() > 0.4
    error = (made.image - truth.image).abs().mean(1)
    assert float((error * interior).sum() / interior.sum()) < 2 / 255
    depth_error = ((made.depth - truth.depth).abs() * interior).sum() / interior.sum()
    assert float(depth_error) < 2e-4


def test_both_ways_to_warp_agree(truth):
    inverse, depth, mask = unsup3d.reproject(truth.canonical_albedo, truth.canonical_depth, truth.view)
    forward, depth_too, mask_too = unsup3d.paint(truth.canonical_albedo, truth.canonical_depth, truth.view)
    torch.testing.assert_close(depth, depth_too)
    assert torch.equal(mask, mask_too)
    inside = erode(erode(mask * (depth < 1.05)))[:, None]
    assert float(((forward - inverse).abs() * inside).sum() / (3 * inside.sum())) < 2 / 255


@pytest.mark.parametrize("warp", [unsup3d.reproject, unsup3d.paint])
def test_the_identity_view_changes_nothing(warp):
    depth = smooth_depth(dtype=torch.float32)
    picture = torch.rand(2, 3, 12, 12, generator=generator)
    image, seen, mask = warp(picture, depth, torch.zeros(2, 6))
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(image[inner], picture[inner], atol=2e-4, rtol=0)
    torch.testing.assert_close(seen[:, 1:-1, 1:-1], depth[:, 1:-1, 1:-1], atol=1e-5, rtol=0)
    assert mask[:, 1:-1, 1:-1].all()


@pytest.mark.parametrize("warp", [unsup3d.reproject, unsup3d.paint])
def test_gradients_of_the_warp(warp):
    """Against finite differences, in depth, view and picture, where no pixel changes its triangle."""
    depth, views = smooth_depth(size=8), some_views()
    picture = torch.rand(2, 2, 8, 8, generator=generator, dtype=torch.float64)

    def inner(picture, depth, views):
        image, seen, _ = warp(picture, depth, views)
        return image[:, :, 2:-2, 2:-2], seen[:, 2:-2, 2:-2]

    inputs = (picture.requires_grad_(), depth.requires_grad_(), views.requires_grad_())
    assert torch.autograd.gradcheck(inner, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_gradients_of_the_shading():
    depth = smooth_depth(size=6).requires_grad_()
    light = torch.tensor([[0.3, 0.6, 0.5, -0.4], [0.2, 0.7, -0.3, 0.1]], dtype=torch.float64, requires_grad=True)

    def shade(depth, light):
        return unsup3d.shading(depth_to_normals(depth, FOCAL), light)

    assert torch.autograd.gradcheck(shade, (depth, light), atol=1e-6)


def test_mirrored_factors_give_the_mirrored_picture():
    """Depth and albedo flipped, light and view mirrored: the flipped picture. So symmetry is about x = 0."""
    depth, views = smooth_depth(dtype=torch.float32), some_views(dtype=torch.float32)
    albedo = torch.rand(2, 3, 12, 12, generator=generator)
    light = torch.tensor([[0.3, 0.6, 0.5, -0.4], [0.2, 0.7, -0.3, 0.1]])
    made = unsup3d.render(depth, albedo, light, views)
    mirror_light, mirror_view = torch.tensor([1.0, 1, -1, 1]), torch.tensor([1.0, -1, -1, -1, 1, 1])
    flipped = unsup3d.render(depth.flip(-1), albedo.flip(-1), light * mirror_light, views * mirror_view)
    inside = (made.mask * flipped.mask.flip(-1))[:, None]
    torch.testing.assert_close(flipped.image.flip(-1) * inside, made.image * inside, atol=2e-3, rtol=0)
    torch.testing.assert_close(flipped.shading.flip(-1), made.shading)


def test_depth_maps_keep_their_promises():
    raw = 5 * torch.randn(3, 16, 16, generator=generator)
    depth = unsup3d.to_depth(raw)
    assert (depth >= 0.9).all() and (depth <= 1.1).all()
    assert (depth[:, :, [0, -1]] == 1.04).all() and (depth[:, :, 1:-1] != 1.04).all()
    wide = unsup3d.to_depth(torch.zeros(1, 64, 64))  # two columns of 64, as in the paper
    assert (wide[:, :, [0, 1, -2, -1]] == 1.04).all() and (wide[:, :, 2:-2] == 1).all()
    torch.testing.assert_close(unsup3d.to_depth(raw + 7), depth)
    prior = unsup3d.half_ellipsoid(16)
    bowl = unsup3d.to_depth(torch.zeros(1, 16, 16), prior)[0]
    assert bowl[8, 8] < bowl[8, 3] and bowl[8, 8] < bowl[2, 8]
    assert abs(float(prior.mean())) < 1e-6 and torch.equal(prior, prior.flip(1))


def small_model(**options):
    torch.manual_seed(0)
    return unsup3d.PhotoGeometricAutoencoder(16, 4, 16, **options)


def test_the_networks_outputs():
    images = torch.rand(3, 3, 16, 16, generator=generator)
    for options in ({}, {"coarse": 2, "average": True, "prior": 0.7, "max_shift": 0.02}):
        factors = small_model(**options)(images)
        assert factors.depth.shape == (3, 16, 16) and factors.albedo.shape == (3, 3, 16, 16)
        assert factors.sigma.shape == (3, 2, 16, 16) and factors.sigma_features.shape == (3, 2, 4, 4)
        assert (factors.sigma > 0).all() and (factors.sigma_features > 0).all()
        assert (factors.view[:, :3].abs() <= math.pi / 3).all() and (factors.view[:, 5] == 0).all()
        assert (factors.view[:, 3:].abs() <= options.get("max_shift", 0.1)).all()
        assert (factors.light[:, :2] >= 0).all() and (factors.light.abs() <= 1).all()
    with pytest.raises(ValueError, match="power of two"):
        unsup3d.PhotoGeometricAutoencoder(24)
    with pytest.raises(ValueError, match="coarse"):
        small_model(coarse=3)
    with pytest.raises(ValueError, match="level_albedo needs average"):
        small_model(level_albedo=True)
    with pytest.raises(ValueError, match="images must have shape"):
        small_model()(torch.rand(2, 3, 32, 32))


def test_faces_start_out_frontal():
    factors = small_model(view_gain=4.0, light_gain=4.0)(torch.rand(4, 3, 16, 16, generator=generator))
    assert torch.rad2deg(factors.view[:, :3]).abs().max() < 2 and factors.light[:, 2:].abs().max() < 0.05


def test_where_a_face_ends_the_gradient_asks_for_less_turn():
    """With the true factors no turn should be better than the true one; `steepest` takes most of the bias away."""
    truth = faces.make_faces(64, seed=5, image_size=32, canonical=True, cache=False)
    # Around the face its depth and colour continue, falling back, so that there is a surface everywhere.
    depth, albedo = truth.canonical_depth[:, None], truth.canonical_albedo
    known = (depth < 1.09).float()
    while (known == 0).any():
        share = F.avg_pool2d(known, 3, 1, 1).clamp(min=1e-9)
        depth, albedo = (
            torch.where(known > 0, values, F.avg_pool2d(values * known, 3, 1, 1) / share + back)
            for values, back in ((depth, 0.004), (albedo, 0))
        )
        known = F.max_pool2d(known, 3, 1, 1)

    def pull(steepest, scale=1.0):
        scale = torch.tensor(scale, requires_grad=True)
        view = torch.cat([truth.view[:, :3] * scale, truth.view[:, 3:]], 1)
        made = unsup3d.render(depth[:, 0], albedo, truth.light, view, steepest)
        error = ((made.image - truth.image).abs().mean(1) * made.mask).sum() / made.mask.sum()
        return float(torch.autograd.grad(error, scale)[0])

    assert pull(None) > 0 and abs(pull(2.0)) < 0.7 * pull(None)
    assert pull(2.0, 0.8) < 0 < pull(2.0, 1.2)  # and the other pixels know the way


def test_the_papers_networks_are_of_the_papers_size():
    count = sum(p.numel() for p in unsup3d.PhotoGeometricAutoencoder().parameters())
    assert 25e6 < count < 40e6


def test_differences_from_the_average_have_no_tilt():
    maps = torch.rand(2, 8, 8, generator=generator)
    level = unsup3d.without_tilt(maps)
    rows = torch.linspace(-1, 1, 8)[:, None]
    torch.testing.assert_close((level * rows).mean((1, 2)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(level.mean((1, 2)), maps.mean((1, 2)), atol=1e-6, rtol=0)
    torch.testing.assert_close(unsup3d.without_tilt(maps + 3 * rows), level, atol=1e-5, rtol=0)
    factors = small_model(average=True, level_albedo=True)(torch.rand(2, 3, 16, 16, generator=generator))
    rows = torch.linspace(-1, 1, 16)[:, None]
    for difference in (factors.difference, (2 * factors.albedo - 1).atanh()):  # the averages start out at zero
        assert (difference * rows).mean((-2, -1)).abs().max() < 1e-5
    assert factors.difference.mean((1, 2)).abs().max() < 1e-5


def test_the_frozen_control_has_the_priors_depth():
    model = small_model(prior=0.7, average=True, frozen_depth=True)
    factors = model(torch.rand(2, 3, 16, 16, generator=generator))
    torch.testing.assert_close(factors.depth[0], unsup3d.to_depth(torch.zeros(1, 16, 16), model.prior)[0])


def test_the_loss_reaches_every_network_and_falls():
    data = {"image": faces.make_faces(8, seed=0, image_size=16, cache=False).image}
    model = small_model(prior=0.7, average=True)

    def loss_fn(model, batch, step):
        return model.loss(batch, Objective(curvature=0.2, likeness=0.1))

    loss_fn(model, data, 0)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    history = fit(model, loss_fn, data, steps=40, batch_size=8, lr=2e-3, device="cpu", log_every=10)
    assert history["photometric"][-1] < history["photometric"][0] - 0.1
    assert history["seen"][-1] > 0.5


def test_a_perfect_explanation_costs_least(truth):
    """With the true factors both explanations fit; any ablated flip leaves one of them as it was."""
    sigma = torch.full((6, 2, 96, 96), 0.1)
    factors = unsup3d.Factors(
        truth.canonical_depth,
        truth.canonical_albedo,
        truth.light,
        truth.view,
        sigma,
        sigma[:, :, ::4, ::4],
        sigma[:, 0],
    )
    best = unsup3d.photogeometric_loss(truth.image, factors)
    hollow = factors._replace(depth=2 - truth.canonical_depth)
    wrong_view = factors._replace(view=-truth.view)
    for wrong in (hollow, wrong_view):
        assert unsup3d.photogeometric_loss(truth.image, wrong)["loss"] > best["loss"] + 0.1
    same = unsup3d.photogeometric_loss(truth.image, factors, Objective(flip_albedo=False, flip_depth=False))
    torch.testing.assert_close(same["loss"], best["loss"], atol=0.05, rtol=0)
    pitch = factors.view[:, 0].mean()
    level = unsup3d.photogeometric_loss(truth.image, factors, Objective(level=10.0))["loss"] - best["loss"]
    torch.testing.assert_close(level, 10 * pitch.square())
    dark = unsup3d.photogeometric_loss(truth.image, factors, Objective(lit=False))
    assert dark["error"] > 3 * best["error"]


def test_known_wrong_answers_are_named(truth):
    sigma = torch.ones(6, 2, 96, 96)
    good = unsup3d.Factors(
        truth.canonical_depth, truth.canonical_albedo, truth.light, truth.view, sigma, sigma, sigma[:, 0]
    )

    def named(**changes):
        factors = good._replace(**changes)
        found = unsup3d.degeneracies(factors, unsup3d.render(*factors[:4]))
        return [name for name, present in found.items() if present]

    assert named() == []
    assert named(depth=torch.ones_like(good.depth)) == ["flat depth", "everything in albedo", "no nose"]
    assert "inverted depth" in named(depth=2 - good.depth)
    dull = good.light * torch.tensor([1.0, 0.05, 1.0, 1.0])
    assert named(light=dull) == ["everything in albedo"]
    shadow = torch.linspace(0.6, 1.0, 96)
    assert named(albedo=good.albedo * shadow) == ["everything in albedo"]
    assert named(depth=good.depth + 0.005 * shadow) == []
    assert named(depth=good.depth + 0.03 * shadow) == ["lopsided depth"]
    deep = 1 + 2 * (good.depth - 1)
    assert named(depth=deep) == ["steep depth"]
    assert named(view=torch.zeros_like(good.view)) == ["view collapse"]
    for turn in ([0.0, 1, 1, 1, 1, 1], [1.0, 0, 1, 1, 1, 1]):
        assert named(view=good.view * torch.tensor(turn)) == ["view collapse"]


def test_a_hollow_middle_is_named_even_with_the_sides_held_back(truth):
    """What the model without light comes to: cheekbones in front, the nose pushed in, the sides where they must be."""
    x, y = pixel_centers(96, 96).unbind(-1)
    dent = 0.05 * (-((x / 0.3) ** 2) - (y / 0.8) ** 2).exp()
    depth = truth.canonical_depth + dent
    sigma = torch.ones(6, 2, 96, 96)
    factors = unsup3d.Factors(
        depth, truth.canonical_albedo, truth.light, truth.view, sigma, sigma[:, :, ::4, ::4], sigma[:, 0]
    )
    found = unsup3d.degeneracies(factors, unsup3d.render(*factors[:4]))
    assert [name for name, present in found.items() if present] == ["inverted depth", "no nose"]


def test_one_face_for_everybody_and_a_missing_nose_are_named(truth):
    sigma = torch.ones(6, 2, 96, 96)
    own = unsup3d.Factors(truth.canonical_depth, truth.canonical_albedo, truth.light, truth.view, sigma, sigma, sigma)
    shared = own._replace(depth=own.depth.mean(0).expand_as(own.depth).contiguous())
    bulge = own._replace(depth=own.depth - own.depth.mean(0) + unsup3d.to_depth(0 * own.depth, small_bulge(96)))
    names = [
        {name for name, present in unsup3d.degeneracies(its, unsup3d.render(*its[:4])).items() if present}
        for its in (own, shared, bulge)
    ]
    assert names == [set(), {"one face for everybody"}, {"no nose"}]


def small_bulge(size):
    return 0.5 * unsup3d.half_ellipsoid(size)


def test_without_the_mirror_only_one_explanation_is_paid_for(truth):
    sigma = torch.full((6, 2, 96, 96), 0.1)
    factors = unsup3d.Factors(
        truth.canonical_depth, truth.canonical_albedo, truth.light, truth.view, sigma, sigma, sigma[:, 0]
    )
    alone, both, half = (
        unsup3d.photogeometric_loss(truth.image, factors, Objective(flip_weight=weight))["photometric"]
        for weight in (0.0, 1.0, 0.5)
    )
    torch.testing.assert_close(half, (alone + both) / 2)
    lopsided = factors._replace(albedo=factors.albedo * torch.linspace(0.5, 1, 96))
    moved = [
        unsup3d.photogeometric_loss(truth.image, lopsided, Objective(flip_weight=weight))["photometric"]
        for weight in (0.0, 0.5)
    ]
    assert moved[1] - half > 1.4 * (moved[0] - alone) > 0


def test_the_aids_of_view_and_light(truth):
    model = small_model(view_gain=1e6, max_turns=(25, 60, 15))
    turns = torch.rad2deg(model(torch.rand(8, 3, 16, 16, generator=generator)).view[:, :3]).abs().amax(0)
    assert (turns <= torch.tensor([25.001, 60.001, 15.001])).all() and (turns > torch.tensor([24.0, 59, 14])).all()
    sigma = torch.full((6, 2, 96, 96), 0.1)
    factors = unsup3d.Factors(
        truth.canonical_depth, truth.canonical_albedo, truth.light, truth.view, sigma, sigma, sigma[:, 0]
    )
    terms = [
        unsup3d.photogeometric_loss(truth.image, factors, Objective(level_light=weight, mean_height=-0.15))["loss"]
        for weight in (0.0, 3.0)
    ]
    torch.testing.assert_close(terms[1] - terms[0], 3 * (truth.light[:, 3].mean() + 0.15).square())


def test_a_shared_model_is_the_whole_one_without_differences():
    whole = small_model(prior=0.5, average=True)
    shared = small_model(prior=0.5, average=True, shared=True)
    torch.nn.init.normal_(whole.average_depth)
    state = {k: v for k, v in whole.state_dict().items() if not k.startswith(("depth.", "confidence."))}
    shared.load_state_dict(state)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    factors, expected = shared(images), whole(images)
    for name in ("albedo", "light", "view"):
        torch.testing.assert_close(getattr(factors, name), getattr(expected, name))
    torch.testing.assert_close(factors.depth[0], unsup3d.to_depth(whole.average_depth[None], whole.prior)[0])
    assert torch.equal(factors.depth[0], factors.depth[1]) and (factors.sigma == shared.least_sigma).all()
    assert factors.sigma.shape == expected.sigma.shape and factors.sigma_features.shape == expected.sigma_features.shape
    with pytest.raises(ValueError, match="shared needs average=True"):
        small_model(shared=True)
