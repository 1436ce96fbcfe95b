"""Trained weights in files: safetensors, which hold numbers and no code.

The weights that ship with the course lie in `DIRECTORY`, each beside a card that says where they come from.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.files import write_atomically

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "weights"
# Entries of every card; minutes are those of the hardware, metrics are of the test set.
CARD = ("data", "profile", "seed", "steps", "hardware", "minutes", "metrics", "date", "licence")
LARGEST = 4_000_000


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, atomically.

    Raises FloatingPointError for a model that has diverged: its weights would only hide that from who loads them.
    """
    from safetensors.torch import save

    # Copies, for safetensors refuses tensors that share their memory, such as one layer under two names.
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}
    if lost := _not_numbers(weights):
        raise FloatingPointError(f"{path} is not written: {lost} holds NaN, so the model has diverged; train it again")
    write_atomically(path, save(weights))


def _not_numbers(weights: dict[str, Tensor]) -> str:
    """The name of the first tensor with a NaN in it, or nothing."""
    return next((name for name, value in weights.items() if value.is_floating_point() and value.isnan().any()), "")


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Read weights written by `save_weights` into a model of the same shape.

    Raises FileNotFoundError or ValueError, in one line, if the file is missing, damaged, of another model or of one
    that has diverged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; train the chapter's full profile first, or correct the path")
    try:
        weights = load(path.read_bytes())
        if lost := _not_numbers(weights):
            raise ValueError(f"{path} is of a model that has diverged: {lost} holds NaN; train it again")
        # PyTorch copies what fits before it refuses the rest; a model that is refused shall stay as it was.
        own = model.state_dict()
        if strangers := sorted(own.keys() ^ weights.keys()):
            raise RuntimeError(f"{strangers[0]} is in one of the two only")
        for name, value in weights.items():
            if value.shape != own[name].shape:
                raise RuntimeError(f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} in the model")
        model.load_state_dict(weights)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); write it anew") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} holds the weights of another model ({reason})") from None


def save_pretrained(name: str, model: nn.Module, card: dict, *, half: bool = True) -> Path:
    """Write the weights that ship with a chapter, and their card, and return the file of the weights.

    name: such as "08_correspondences", the name of both files in `DIRECTORY`. card: the entries of `CARD`; shapes of
    the model and a checksum are added. half: store floats with 16 bits; compare the metrics of the file with those of
    the model before you ship it.

    Raises ValueError for a card that lacks an entry, or weights of more than 4 MB.
    """
    if missing := [entry for entry in CARD if entry not in card]:
        raise ValueError(f"card lacks {', '.join(missing)}; it needs {', '.join(CARD)}")
    from safetensors.torch import save

    weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    if half:
        weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    if lost := _not_numbers(weights):
        raise FloatingPointError(f"{name} is not written: {lost} holds NaN, so the model has diverged; train it again")
    content = save({key: value.contiguous() for key, value in weights.items()})
    if len(content) > LARGEST:
        raise ValueError(f"the weights of {name} take {len(content) / 1e6:.1f} MB; what ships takes 4 MB at most")
    path = DIRECTORY / f"{name}.safetensors"
    facts = {"parameters": sum(value.numel() for value in model.parameters()), "sha256": _checksum(content)}
    write_atomically(path, content)
    write_atomically(path.with_suffix(".json"), json.dumps(card | facts, indent=1, default=float) + "\n")
    return path


def load_pretrained(name: str, model: nn.Module) -> dict:
    """Read the weights that ship with a chapter into a model of their shape, and return their card.

    Raises FileNotFoundError or ValueError, in one line, if there are none of this name, if they were changed since the
    card was written, or if they belong to another model.
    """
    path = DIRECTORY / f"{name}.safetensors"
    card = path.with_suffix(".json")
    if not (path.is_file() and card.is_file()):
        there = ", ".join(sorted(file.stem for file in DIRECTORY.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"no weights called {name!r} in {DIRECTORY}; there are: {there}")
    try:
        facts = json.loads(card.read_text(encoding="utf-8"))
        whole = facts["sha256"] == _checksum(path.read_bytes())
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{card} is no card of weights; get both files anew: git checkout data/weights") from None
    if not whole:
        raise ValueError(f"{path} differs from what its card says; get both files anew: git checkout data/weights")
    load_weights(path, model)
    return facts


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
