"""Locks between processes that die with whoever holds them: ``flock`` on a small file.

On a file system shared by several machines they work where it carries ``flock`` over the network (NFS of Linux does).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Holds a lock while the block runs, whether or not it got it.

    Args:
        path: The lock's file. It is made, with its folder, and removed when the lock is given back; the file that a
            killed process leaves behind holds nobody up.
        wait: Whether to wait until the lock is free.

    Yields:
        Whether the lock is held; always true with ``wait``.

    Raises:
        OSError: The file cannot be made or locked.
    """
    handle = _acquire(path, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # before the lock is given back, so that nobody's newer file is removed
            os.close(handle)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock right now."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _acquire(path: Path, wait: bool) -> int | None:
    """An open, locked file; None where another process has the lock and there is no time to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever held it before may have removed the file after we opened it: then we have locked nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
