# SPDX-License-Identifier: BSD-3-Clause
"""Read NumPy's ``.npy`` format from streams: never unpickled, never more memory than is there.

NumPy allocates what a header announces before it reads a byte. Here the announcement is held
against the size of the file (or zip member) first, so that a damaged or hostile header is an
error message.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy_format

from convcal.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "NpyHeader",
    "check_possible",
    "is_plain",
    "read_npy",
    "read_npy_header",
    "read_npy_rows",
]

PLAIN_KINDS = "biuf"
# The header of a plain array has 128 bytes; 2.0 allows 4 GB, which a zip member may well hold.
LONGEST_HEADER = 1 << 16


@dataclass(frozen=True)
class NpyHeader:
    """What a ``.npy`` stream announces.

    Parameters
    ----------
    shape : tuple of int
        The shape of the array.
    dtype : numpy.dtype
        Booleans, integers or floats of any byte order.
    is_fortran_order : bool
        Whether the first axis varies fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    is_fortran_order: bool

    @property
    def n_bytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_plain(dtype: np.dtype[np.generic]) -> bool:
    """Tell whether a dtype is one of numbers or booleans: no objects, text, dates or records."""
    # longdouble has another layout on every platform, so a file of it says nothing elsewhere.
    return dtype.kind in PLAIN_KINDS and dtype.itemsize <= 8


def read_npy_header(stream: IO[bytes], *, n_bytes: int, where: str) -> NpyHeader:
    """Read and check the header, leaving the stream at the first value.

    Parameters
    ----------
    stream : binary file
        At its start; need not be seekable.
    n_bytes : int
        The size of the whole stream, header included.
    where : str
        What to call the stream in messages.

    Raises
    ------
    InputError
        If this is no ``.npy`` data, if it holds Python objects or anything else that is not
        numbers, or if the header announces another size than there is.
    """
    counted = _Counted(stream)
    try:
        version = npy_format.read_magic(counted)
        if version == (1, 0):
            read_fields = npy_format.read_array_header_1_0
        elif version == (2, 0):
            read_fields = npy_format.read_array_header_2_0
        else:
            # 3.0 differs in the field names of record arrays only, which are not accepted.
            raise ValueError(f"format version {version} is not read; 1.0 and 2.0 are")
        with warnings.catch_warnings():
            # Headers written by Python 2 make NumPy warn; what they say is unharmed.
            warnings.simplefilter("ignore", UserWarning)
            shape, is_fortran_order, dtype = read_fields(counted)
    except (
        ValueError,
        TypeError,
        EOFError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        # NumPy's further lines advise to unpickle.
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where} is no readable .npy array: {reason}") from error
    if dtype.hasobject:
        msg = (
            f"{where} holds Python objects (dtype {dtype}), which convcal never unpickles; "
            "save plain numbers, e.g. with numpy.asarray(values, dtype='float32')"
        )
        raise InputError(msg)
    if not is_plain(dtype):
        msg = f"{where} has dtype {dtype}; accepted are booleans, integers and floats"
        raise InputError(msg)
    shape = tuple(int(length) for length in shape)  # True passes for a length
    check_possible(shape, dtype, where=where)
    header = NpyHeader(shape, dtype, bool(is_fortran_order))
    if counted.n_read + header.n_bytes != n_bytes:
        msg = (
            f"{where} is damaged: its header announces {header.n_bytes} bytes of values "
            f"(shape {header.shape}, {dtype}), but {n_bytes - counted.n_read} are there; "
            "write it again"
        )
        raise InputError(msg)
    return header


def check_possible(shape: tuple[int, ...], dtype: np.dtype[np.generic], *, where: str) -> None:
    """Refuse a shape that no array can have, before memory is asked for.

    Raises
    ------
    InputError
        If a length is negative, or the array is longer than an address or has more than 64 axes.
    """
    try:
        np.broadcast_to(np.zeros((), dtype), shape)  # takes no memory
    except (ValueError, OverflowError):
        raise InputError(f"{where} announces the impossible shape {shape}") from None


def read_npy(stream: IO[bytes], header: NpyHeader, *, where: str) -> NDArray[np.generic]:
    """Read all values after the header, in native byte order.

    Returns
    -------
    numpy.ndarray
        C-contiguous and writable, of the header's shape and dtype.
    """
    values = np.frombuffer(_read(stream, header.n_bytes, where=where), header.dtype)
    if header.is_fortran_order:
        return _native(values.reshape(header.shape[::-1]).T)
    return _native(values.reshape(header.shape))


def read_npy_rows(
    stream: IO[bytes], header: NpyHeader, *, where: str, start: int = 0
) -> Iterator[NDArray[np.generic]]:
    """Read the values one index of the first axis at a time, from one of them on.

    Only one row is in memory, unless the first axis varies fastest (Fortran order): then all
    rows have to be.
    """
    if header.is_fortran_order and len(header.shape) > 1:
        yield from read_npy(stream, header, where=where)[start:]
        return
    shape = header.shape[1:]
    n_bytes = math.prod(shape) * header.dtype.itemsize
    if start:
        stream.seek(start * n_bytes, os.SEEK_CUR)
    for _ in range(start, header.shape[0]):
        values = np.frombuffer(_read(stream, n_bytes, where=where), header.dtype)
        yield _native(values.reshape(shape))


def _read(stream: IO[bytes], n_bytes: int, *, where: str) -> bytes:
    """Read exactly so many bytes: the stream may be shorter than its container claims."""
    content = stream.read(n_bytes)
    if len(content) != n_bytes:
        msg = (
            f"{where} is damaged: it ends {n_bytes - len(content)} bytes too early; write it again"
        )
        raise InputError(msg)
    return content


def _native(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.array(values, dtype=values.dtype.newbyteorder("="), order="C")


class _Counted:
    """A header that counts what was read of it (zip members cannot always tell)."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.n_read = 0

    def read(self, size: int = LONGEST_HEADER, /) -> bytes:
        if self.n_read + size > LONGEST_HEADER:
            raise ValueError(f"its header is longer than {LONGEST_HEADER} bytes")
        content = self._stream.read(size)
        self.n_read += len(content)
        return content
