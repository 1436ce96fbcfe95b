"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, also on a full disk or Ctrl-C.

    Raises OSError naming the path and the remedy where it cannot be written.
    """
    path = Path(path)
    # Not `tempfile`, whose files nobody else may read.
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
