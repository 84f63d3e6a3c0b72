# SPDX-License-Identifier: BSD-3-Clause
r"""Samples in ``.npz`` files: keys ``SAMPLE/TENSOR``, or plain ``TENSOR``.

A name that could be taken for a path, or for the separator, is written with percent escapes:
``/`` as ``%2F``, ``\`` as ``%5C``, ``%`` as ``%25``, control characters likewise, and dots where
a name has nothing else. Any name of a model therefore survives the round trip, and unzipping
such a file writes nowhere but under the folder it is unzipped to.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import numpy as np
from numpy.lib import format as npy_format

from convcal.data.npy import NpyHeader, is_plain, read_npy, read_npy_header, read_npy_rows
from convcal.errors import InputError
from convcal.files import staged

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = [
    "ArrayFile",
    "check_sample_name",
    "escape_name",
    "group_keys",
    "listing",
    "read_samples",
    "unescape_name",
    "write_samples",
]

_ESCAPED = re.compile(r"[/\\%\x00-\x1f\x7f]")
_ESCAPE = re.compile(r"%(25|2E|2F|5C|7F|[01][0-9A-F])")
# The longest file name that the usual file systems take; also keeps messages and tables readable.
_LONGEST_NAME = 255
_LONGEST_KEY = (1 << 16) - 1 - len(".npy")  # in bytes, what a zip file can hold


def escape_name(name: str) -> str:
    """Write a name so that it holds no separator and names no folder (see the module's top)."""
    if name and not name.strip("."):
        return name.replace(".", "%2E")
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", name)


def unescape_name(text: str) -> str:
    """Undo `escape_name`; any other text, percent signs included, is left as it is."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def check_sample_name(name: str, *, where: str) -> str:
    """Check that a name can stand for a sample in keys, tables and file names.

    Raises
    ------
    InputError
        If it is empty, ``.`` or ``..``, longer than 255 characters, or holds a slash, a
        backslash, a control character or half of a surrogate pair.
    """
    if (
        not name.strip(".")
        or len(name) > _LONGEST_NAME
        or re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", name)
    ):
        shown = repr(name if len(name) <= 60 else name[:57] + "...")
        msg = (
            f"{where}: {shown} cannot be the name of a sample; a name has 1 to {_LONGEST_NAME} "
            "printable characters without '/' or '\\', and more than dots"
        )
        raise InputError(msg)
    return name


def listing(names: Collection[str]) -> str:
    """List names for a message, the first few and how many more there are."""
    shown = [f"'{name}'" for name, _ in zip(names, range(6), strict=False)]
    rest = len(names) - len(shown)
    return (", ".join(shown) or "none") + (f" and {rest} more" if rest else "")


class ArrayFile:
    """The arrays of one ``.npz`` file, read when asked for and never unpickled.

    Parameters
    ----------
    path : path
        A zip file of ``.npy`` arrays, as ``numpy.savez`` writes it.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    headers : dict of str to NpyHeader
        Shape and dtype of every array, by key, in the file's order.

    Raises
    ------
    InputError
        If the file is missing, is no zip file, or holds something other than numeric arrays.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._readable():
            if not self.path.is_file():
                raise InputError(f"there is no file '{self.path}'")
            self._zip = zipfile.ZipFile(self.path)
        self.headers: dict[str, NpyHeader] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            for info in self._zip.infolist():
                if not info.is_dir():
                    self._add(info)
        except BaseException:
            self._zip.close()
            raise

    def _add(self, info: zipfile.ZipInfo) -> None:
        key = info.filename.removesuffix(".npy")
        if key == info.filename:
            msg = f"'{self.path}' holds '{key}', which is no .npy array; remove it from the file"
            raise InputError(msg)
        if key in self.headers:
            raise InputError(f"'{self.path}' holds two arrays '{key}'; keep one of them")
        with self._readable(), self._zip.open(info) as stream:
            self.headers[key] = read_npy_header(
                stream, n_bytes=info.file_size, where=self.where(key)
            )
        self._members[key] = info

    def where(self, key: str) -> str:
        """Name an array of this file for a message."""
        return f"array '{key}' of '{self.path}'"

    def read(self, key: str) -> NDArray[np.generic]:
        """Read one array whole."""
        with self._values(key) as (stream, header):
            return read_npy(stream, header, where=self.where(key))

    def rows(self, key: str, *, start: int = 0) -> Iterator[NDArray[np.generic]]:
        """Read one array from an index of its first axis on, one at a time in memory."""
        with self._values(key) as (stream, header):
            yield from read_npy_rows(stream, header, where=self.where(key), start=start)

    @contextlib.contextmanager
    def _values(self, key: str) -> Iterator[tuple[IO[bytes], NpyHeader]]:
        info = self._members[key]
        with self._readable(), self._zip.open(info) as stream:
            yield stream, read_npy_header(stream, n_bytes=info.file_size, where=self.where(key))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn every way in which a zip file fails to be read into one message."""
        try:
            yield
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            NotImplementedError,  # a compression or encryption that zipfile does not know
            RuntimeError,  # an encrypted member
            struct.error,
            UnicodeDecodeError,  # a name that is marked as UTF-8, and is not
            OSError,
        ) as error:
            msg = (
                f"'{self.path}' is no readable .npz file ({error}); it should be a zip file of "
                ".npy arrays, as numpy.savez writes it"
            )
            if Path(self.path).suffix == ".npy":
                msg += ": numpy.savez(FILE, OUTPUT=array)"
            raise InputError(msg) from error

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def group_keys(
    keys: Iterable[str], *, where: str, tensors: Collection[str] | None = None
) -> dict[str | None, dict[str, str]]:
    """Sort keys ``SAMPLE/TENSOR`` or ``TENSOR`` by sample.

    Parameters
    ----------
    keys : iterable of str
        The keys of a file.
    where : str
        What to call the file in messages.
    tensors : collection of str, optional
        The names that tensors may have. They decide where a key with several slashes is
        divided; without them a key has one slash at most.

    Returns
    -------
    dict of (str or None) to dict of str to str
        By sample the keys of its tensors by name; plain keys belong to the sample None.

    Raises
    ------
    InputError
        If the two forms are mixed, a name is unknown or cannot be used, or there is no key.
    """
    groups: dict[str | None, dict[str, str]] = {}
    for key in keys:
        sample, tensor = _split_key(key, where=where, tensors=tensors)
        if sample is not None:
            check_sample_name(sample, where=f"key '{key}' of {where}")
        group = groups.setdefault(sample, {})
        if tensor in group:
            raise InputError(f"{where} holds '{tensor}' twice: as '{group[tensor]}' and '{key}'")
        group[tensor] = key
    if not groups:
        raise InputError(f"{where} holds no arrays; expected keys TENSOR or SAMPLE/TENSOR")
    if None in groups and len(groups) > 1:
        plain = listing(list(groups[None].values()))
        msg = f"{where} mixes keys TENSOR ({plain}) with keys SAMPLE/TENSOR; use one form"
        raise InputError(msg)
    return groups


def _split_key(key: str, *, where: str, tensors: Collection[str] | None) -> tuple[str | None, str]:
    parts = key.split("/")
    if tensors is None:
        if len(parts) > 2:
            msg = (
                f"key '{key}' of {where} has {len(parts) - 1} slashes; expected TENSOR or "
                "SAMPLE/TENSOR, with '%2F' for a slash inside a name"
            )
            raise InputError(msg)
        sample = unescape_name(parts[0]) if len(parts) == 2 else None
        return sample, unescape_name(parts[-1])
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        for tensor in (tail, unescape_name(tail)):
            if tensor in tensors:
                return (unescape_name("/".join(parts[:start])) if start else None), tensor
    msg = (
        f"{where} has key '{key}', but the known names are {listing(tensors)}; keys are NAME or "
        "SAMPLE/NAME"
    )
    raise InputError(msg)


def read_samples(
    path: str | os.PathLike[str],
) -> Iterator[tuple[str | None, dict[str, NDArray[np.generic]]]]:
    """Read a ``.npz`` file sample by sample.

    Parameters
    ----------
    path : path
        With keys ``SAMPLE/TENSOR``, or with keys ``TENSOR`` (one nameless sample).

    Yields
    ------
    name : str or None
        The sample.
    arrays : dict of str to numpy.ndarray
        Its tensors. One sample at a time is in memory.

    Raises
    ------
    InputError
        If the file or a key is not as described.
    """
    with ArrayFile(path) as file:
        groups = group_keys(file.headers, where=f"'{file.path}'")
        for sample, keys in groups.items():
            yield sample, {tensor: file.read(key) for tensor, key in keys.items()}


def write_samples(
    path: str | os.PathLike[str],
    samples: Iterable[tuple[str | None, Mapping[str, NDArray[np.generic]]]],
    *,
    force: bool = False,
) -> Path:
    """Write samples to a ``.npz`` file, one at a time, whole or not at all.

    The same samples give the same bytes.

    Parameters
    ----------
    path : path
        The file to be written.
    samples : iterable of (name, arrays)
        With name None the keys are the tensors' names alone.
    force : bool
        Replace a file that exists.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        If there is no sample, a key occurs twice, or an array is not of numbers.
    OutputExistsError, WriteError
        As `convcal.files.staged` does.
    """
    target = Path(path)
    with staged(target, force=force) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        written: set[str] = set()
        for sample, arrays in samples:
            prefix = "" if sample is None else escape_name(sample) + "/"
            for tensor, values in arrays.items():
                key = prefix + escape_name(tensor)
                if len(key.encode()) > _LONGEST_KEY:
                    raise InputError(
                        f"'{target}' cannot hold the name '{key[:60]}…' of {len(key)} characters"
                    )
                if key in written:
                    raise InputError(f"'{target}' would hold '{key}' twice; sample names differ")
                written.add(key)
                _write_array(archive, key, np.asarray(values), target=target)
        if not written:
            raise InputError(f"there are no samples to write to '{target}'")
    return target


def _write_array(
    archive: zipfile.ZipFile, key: str, values: NDArray[np.generic], *, target: Path
) -> None:
    if not is_plain(values.dtype):
        msg = f"'{key}' for '{target}' has dtype {values.dtype}; accepted are numbers and booleans"
        raise InputError(msg)
    # A fixed date, so that equal content gives equal bytes.
    info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with archive.open(info, "w", force_zip64=True) as stream:
        npy_format.write_array(stream, values, allow_pickle=False)
