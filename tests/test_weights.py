"""Weights that ship with the course: written with a card, read only if they are what the card says."""

import pytest
import torch
from torch import nn

from lib import weights

CARD = dict.fromkeys(weights.CARD, "") | {"metrics": {"rotation error": 12.5}}


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "DIRECTORY", tmp_path / "weights")


def test_what_ships_comes_back_with_its_card():
    model, other = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    weights.save_pretrained("05_test", model, CARD)
    card = weights.load_pretrained("05_test", other)
    assert card["metrics"] == {"rotation error": 12.5}
    assert card["parameters"] == 3 * 4 * 9 + 4 + 8
    for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    weights.save_pretrained("05_test", model, CARD, half=False)
    weights.load_pretrained("05_test", other)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_refusals_name_the_file_and_the_remedy():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="card lacks seed, steps"):
        weights.save_pretrained("05_test", model, {k: v for k, v in CARD.items() if k not in ("seed", "steps")})
    with pytest.raises(ValueError, match=r"take 8\.0 MB"):
        weights.save_pretrained("05_test", nn.Linear(2000, 2000), CARD)
    with pytest.raises(FileNotFoundError, match="no weights called '06_test'"):
        weights.load_pretrained("06_test", model)
    path = weights.save_pretrained("05_test", model, CARD)
    with pytest.raises(ValueError, match="holds the weights of another model"):
        weights.load_pretrained("05_test", nn.Linear(3, 1))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="differs from what its card says"):
        weights.load_pretrained("05_test", model)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="is no card of weights"):
        weights.load_pretrained("05_test", model)
    with torch.no_grad():
        model.weight[0] = torch.nan
    with pytest.raises(FloatingPointError, match="not written"):
        weights.save_pretrained("05_test", model, CARD)


def test_every_file_that_ships_has_its_card(monkeypatch):
    monkeypatch.undo()
    files = sorted(weights.DIRECTORY.glob("*.safetensors"))
    assert [file.stem for file in files] == sorted(file.stem for file in weights.DIRECTORY.glob("*.json"))
    for file in files:
        assert file.stat().st_size <= weights.LARGEST


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    """PyTorch would have copied the first layer before it finds that the second does not fit."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    for other in (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)), nn.Sequential(nn.Linear(2, 3))):
        weights.save_weights(tmp_path / "other", other)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match="holds the weights of another model"):
            weights.load_weights(tmp_path / "other", model)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
