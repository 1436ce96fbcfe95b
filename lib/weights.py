"""Trained weights in files: safetensors, which hold numbers and no code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lib.files import write_atomically


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
        model.load_state_dict(weights)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); write it anew") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} holds the weights of another model ({reason})") from None
