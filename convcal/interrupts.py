# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C where it would do harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["deferred_interrupts"]


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Hold Ctrl-C (SIGTERM and SIGHUP too, where they are handled) back until the block has ended.

    coremltools and what it imports have bare ``except:`` clauses: an interrupt during the import
    is lost there and a package is left half-imported. ONNX Runtime makes an ImportError of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    received: list[int] = []
    handlers = {
        number: handler
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None  # Windows has no SIGHUP
        and callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda received_number, _: received.append(received_number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
