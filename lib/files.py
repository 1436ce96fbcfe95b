"""Writing files completely or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file completely or not at all, even if the disk is full or the user presses Ctrl-C.

    Raises OSError, which names the path and the remedy, if it cannot be written.
    """
    path = Path(path)
    # `tempfile` makes files that only their owner can read.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"cannot write {path} ({error.strerror}); free space or choose another out_dir"
        raise OSError(error.errno, reason) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
