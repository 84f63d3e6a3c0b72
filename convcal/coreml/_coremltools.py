# SPDX-License-Identifier: BSD-3-Clause
"""Import coremltools, once and silently; nothing else in convcal imports it.

``import coremltools`` takes about two seconds and writes up to nine lines to standard error
(scikit-learn or torch "not supported", native libraries that exist on macOS only). None of them
concerns what convcal does. ``coremltools.proto`` cannot be had alone: a subpackage imports its
parent first.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

from convcal.errors import UnavailableError
from convcal.interrupts import deferred_interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load_coremltools", "load_message_types", "parse_model", "silenced"]


@functools.cache
def load_coremltools() -> Any:
    """Import coremltools without its import messages.

    Returns
    -------
    module
        The package ``coremltools``, its common submodules loaded.

    Raises
    ------
    UnavailableError
        If coremltools is not installed here, or does not load; the message says what to do.
        What the failed import wrote to standard error is in the chained exception's notes.
    """
    try:
        with deferred_interrupts(), silenced():
            import coremltools  # noqa: TID251 - this is the one door
            import coremltools.proto  # noqa: TID251
    except ModuleNotFoundError as error:
        if error.name != "coremltools":
            raise _does_not_load(error) from error
        raise UnavailableError(
            "the Python package coremltools is not installed, and .mlpackage files cannot be read "
            "without it; it has wheels for macOS and for Linux on x86-64 (Python 3.11 to 3.13): "
            "run 'pip install coremltools' there. Captures, calibration files and the "
            "post-processor work everywhere without it"
        ) from error
    except Exception as error:
        raise _does_not_load(error) from error
    return coremltools


def load_message_types() -> tuple[Any, Any]:
    """Give coremltools' protobuf modules ``Model_pb2`` and ``MIL_pb2``.

    Raises
    ------
    UnavailableError
        As `load_coremltools`.
    """
    proto = load_coremltools().proto
    return proto.Model_pb2, proto.MIL_pb2


def parse_model(data: bytes) -> Any:
    """Decode a model specification.

    Parameters
    ----------
    data : bytes
        The content of a model file.

    Returns
    -------
    Model_pb2.Model or None
        None if `data` is not such a message.
    """
    model, _ = load_message_types()
    from google.protobuf.message import DecodeError  # coremltools brings protobuf

    try:
        return model.Model.FromString(data)
    except DecodeError:
        return None


def _does_not_load(error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the Python package coremltools is installed but does not load "
        f"({type(error).__name__}: {error}); reinstall it with "
        "'pip install --force-reinstall coremltools' and try again"
    )


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence log records below ERROR, Python warnings and standard error while the block runs.

    Standard error is diverted as a file descriptor, because native libraries write to it past
    ``sys.stderr``. When the block raises, what was diverted is added to the exception as a note.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _diverted_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _diverted_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # a daemon may have closed it; then nothing can be heard either
        yield
        return
    with tempfile.TemporaryFile() as diverted:
        _flush_stderr()
        os.dup2(diverted.fileno(), 2)
        try:
            yield
        except BaseException as error:
            _flush_stderr()
            diverted.seek(0)
            if text := diverted.read().decode(errors="replace").strip():
                error.add_note(f"standard error during the import:\n{text}")
            raise
        finally:
            _flush_stderr()
            os.dup2(kept, 2)
            os.close(kept)


def _flush_stderr() -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # a closed or replaced stream
            sys.stderr.flush()
