# SPDX-License-Identifier: BSD-3-Clause
"""Outputs in folders of ``.npy`` files: ``SAMPLE/OUTPUT.npy``, or plain ``OUTPUT.npy``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convcal.data.npy import NpyHeader, read_npy, read_npy_header, read_npy_rows
from convcal.errors import InputError
from convcal.files import check_plain, walk

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ArrayFolder"]


class ArrayFolder:
    """The arrays of a folder, read when asked for and never unpickled.

    Parameters
    ----------
    path : path
        A folder of ``.npy`` files, and of folders of them. Hidden files are passed over.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    headers : dict of str to NpyHeader
        Shape and dtype of every array, by its path in the folder without the ending, in the order
        of these paths.

    Raises
    ------
    InputError
        If it holds a link, or a file that is no ``.npy`` array.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.headers: dict[str, NpyHeader] = {}
        try:
            check_plain(self.path, what=f"'{self.path}'")
            files = [each for each in walk(self.path) if each.is_file()]
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be read: {error.strerror}") from error
        for file in files:
            relative = file.relative_to(self.path)
            if any(part.startswith(".") for part in relative.parts):
                continue
            if file.suffix != ".npy":
                raise InputError(
                    f"'{self.path}' holds '{relative}', which is no .npy array; remove it"
                )
            key = relative.with_suffix("").as_posix()
            with file.open("rb") as stream:
                self.headers[key] = read_npy_header(
                    stream, n_bytes=file.stat().st_size, where=self.where(key)
                )

    def where(self, key: str) -> str:
        """Name an array of this folder for a message."""
        return f"array '{key}' of '{self.path}'"

    def read(self, key: str) -> NDArray[np.generic]:
        """Read one array whole."""
        with self._file(key).open("rb") as stream:
            where = self.where(key)
            header = read_npy_header(stream, n_bytes=self._file(key).stat().st_size, where=where)
            return read_npy(stream, header, where=where)

    def rows(self, key: str) -> Iterator[NDArray[np.generic]]:
        """Read one array along its first axis, one index at a time in memory."""
        with self._file(key).open("rb") as stream:
            where = self.where(key)
            header = read_npy_header(stream, n_bytes=self._file(key).stat().st_size, where=where)
            yield from read_npy_rows(stream, header, where=where)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.npy"
