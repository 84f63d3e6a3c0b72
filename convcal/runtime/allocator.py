# SPDX-License-Identifier: BSD-3-Clause
"""The C library's memory allocator, while ONNX Runtime prepares a model."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["large_blocks_returned"]

# Of mallopt(3) and glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 16
_LARGEST_THRESHOLD = 32 << 20


@contextlib.contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Give blocks of more than 64 KiB back to the system as soon as they are freed.

    For every weight that ONNX Runtime brings into another layout it frees two blocks beside the
    one it keeps. glibc, once it has seen such blocks freed, holds on to them, but in pieces that
    fit no other weight: the process would take twice the weights (benchmarks/runtime.py).
    Afterwards the thresholds are those at which glibc's own adaptation ends. Other C libraries
    are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
