"""Trained weights in files: safetensors, which hold numbers and no code."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lib.files import write_atomically


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, atomically."""
    from safetensors.torch import save

    write_atomically(path, save({name: value.contiguous() for name, value in model.state_dict().items()}))


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Read weights written by `save_weights` into a model of the same shape.

    Raises FileNotFoundError or ValueError, in one line, if the file is missing, damaged or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; train the chapter's full profile first, or correct the path")
    try:
        model.load_state_dict(load(path.read_bytes()))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); write it anew") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} holds the weights of another model ({reason})") from None
