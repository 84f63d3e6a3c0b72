# SPDX-License-Identifier: BSD-3-Clause
"""Keep a second writer away from one role of a capture, whatever becomes of the first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from convcal.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked_role"]


@contextlib.contextmanager
def locked_role(folder: Path, role: str) -> Iterator[None]:
    """Hold the lock of one role of a capture.

    The lock is the system's, on a hidden file beside the capture: the system frees it when the
    process ends, however it does, so that a file that a killed process left behind locks nothing.
    Where the system or the file system has no such locks, nothing is kept away.

    Parameters
    ----------
    folder : pathlib.Path
        The capture, new or existing.
    role : {'reference', 'observed'}
        Which role is written.

    Raises
    ------
    InputError
        If another writer holds it.
    """
    if fcntl is None:
        yield
        return
    path = folder.absolute().with_name(f".{folder.name}.{role}.lock")
    descriptor = _taken(path, where=f"{role} of capture '{folder}'")
    try:
        yield
    finally:
        if descriptor is not None:
            # While it is held, so that nobody takes a lock on a file that is gone.
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _taken(path: Path, *, where: str) -> int | None:
    """Take the lock; give the descriptor that holds it, or None where there are no locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # what cannot be written is said where it is written
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode("ascii", "replace")
            os.close(descriptor)
            raise InputError(
                f"another process ({holder or 'just started'}) is writing {where}; let it end, or "
                "choose another path"
            ) from error
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        if _is_file_of(descriptor, path):
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its holder has removed it meanwhile


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
