# SPDX-License-Identifier: BSD-3-Clause
"""Outputs in ``.safetensors`` files.

The format is a length (uint64, little endian), a JSON header of so many bytes, and the values::

    {"NAME": {"dtype": "F32", "shape": [1, 3], "data_offsets": [0, 12]}, "__metadata__": {...}}

Offsets count from the end of the header; the arrays lie there one after the other, without gaps,
in C order and little endian. Read by hand, because that is all there is to it: no further package,
and one array at a time, as from every other format.

References
----------
https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from convcal.data.npy import NpyHeader, check_possible, read_npy, read_npy_rows
from convcal.errors import InputError
from convcal.records import unique_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TensorFile"]

_DTYPES = {
    "BOOL": "?",
    **{f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
    **{f"I{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": f"<f{n}" for n in (2, 4, 8)},
}
# What the format allows.
_LONGEST_HEADER = 100_000_000


class TensorFile:
    """The arrays of one ``.safetensors`` file, read when asked for.

    Parameters
    ----------
    path : path
        The file.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    headers : dict of str to NpyHeader
        Shape and dtype of every array, by its name, in the order of the values.

    Raises
    ------
    InputError
        If it is no such file, or its header announces what is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.headers: dict[str, NpyHeader] = {}
        self._offsets: dict[str, int] = {}
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as stream:
                n_header = int.from_bytes(stream.read(8), "little")
                if not 2 <= n_header <= min(size - 8, _LONGEST_HEADER):
                    raise self._damaged(
                        f"it has {size} bytes, and announces a header of {n_header}"
                    )
                text = stream.read(n_header)
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read: {error.strerror}") from error
        try:
            header = json.loads(text.decode(), object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is not JSON ({error})") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is no JSON object")
        header.pop("__metadata__", None)
        end = 8 + n_header
        start = end
        places = sorted(self._places(header), key=lambda place: (place[1], place[2].n_bytes))
        for key, begin, entry in places:
            if begin != end - start:
                raise self._damaged(f"the values of '{key}' do not follow those before it")
            self._offsets[key], self.headers[key] = end, entry
            end += entry.n_bytes
        if end != size:
            raise self._damaged(f"its header announces {end} bytes, and it has {size}")

    def _places(self, header: Mapping[str, Any]) -> Iterator[tuple[str, int, NpyHeader]]:
        for key, entry in header.items():
            if not isinstance(entry, dict):
                raise self._damaged(f"its header says nothing of '{key}'")
            shape, offsets = entry.get("shape"), entry.get("data_offsets")
            if not _is_lengths(shape) or not _is_lengths(offsets) or len(offsets) != 2:
                raise self._damaged(f"'{key}' has shape {shape!r} at {offsets!r}")
            if (dtype := entry.get("dtype")) not in _DTYPES:
                raise InputError(
                    f"{self.where(key)} has dtype {dtype!r}; accepted are "
                    f"{', '.join(_DTYPES)}: save it as one of these, as tensor.float()"
                )
            found = NpyHeader(tuple(shape), np.dtype(_DTYPES[dtype]), is_fortran_order=False)
            check_possible(found.shape, found.dtype, where=self.where(key))
            if offsets[1] - offsets[0] != found.n_bytes:
                raise self._damaged(
                    f"'{key}' has {offsets[1] - offsets[0]} bytes for the shape {found.shape} of "
                    f"{found.dtype}"
                )
            yield key, offsets[0], found

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"'{self.path}' is no readable .safetensors file: {what}; save or copy it again"
        )

    def where(self, key: str) -> str:
        """Name an array of this file for a message."""
        return f"array '{key}' of '{self.path}'"

    def read(self, key: str) -> NDArray[np.generic]:
        """Read one array whole."""
        with self.path.open("rb") as stream:
            stream.seek(self._offsets[key])
            return read_npy(stream, self.headers[key], where=self.where(key))

    def rows(self, key: str) -> Iterator[NDArray[np.generic]]:
        """Read one array along its first axis, one index at a time in memory."""
        with self.path.open("rb") as stream:
            stream.seek(self._offsets[key])
            yield from read_npy_rows(stream, self.headers[key], where=self.where(key))


def _is_lengths(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(length) is int and length >= 0 for length in value)
