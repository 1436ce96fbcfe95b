"""Writing files completely or not at all, and claiming files and folders for one process at a time."""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


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


_claims: dict[Path, tuple[int, int]] = {}  # the descriptor, and the thread that has the claim


def claim(path: str | Path, remedy: str) -> None:
    """Keep other processes and threads from this file or folder until `release`, or until this process ends.

    The claim is a lock of the operating system, so a process that was killed leaves none behind. If the system or the
    file system has no such locks, every process gets the claim.

    Raises ValueError, with the remedy, if another process has the claim; OSError if the file cannot be written.
    """
    path = Path(path).resolve()
    if fcntl is None:
        return
    if path in _claims:
        if _claims[path][1] != threading.get_ident():
            raise ValueError(f"another thread is at work in {path}; {remedy}")
        return
    folder = path.is_dir()
    try:
        if not folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        reason = f"cannot write {path} ({error.strerror}); free space or choose another out_dir"
        raise OSError(error.errno, reason) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"another process is at work in {path}; {remedy}") from None
    except OSError:  # a network file system without locks
        pass
    _claims[path] = descriptor, threading.get_ident()


def release(path: str | Path) -> None:
    """Let other processes have a file or folder that this one has claimed."""
    claimed = _claims.pop(Path(path).resolve(), None)
    if claimed is not None:
        os.close(claimed[0])
