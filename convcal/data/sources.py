# SPDX-License-Identifier: BSD-3-Clause
"""Where samples come from: one array, picture or sound file, or a Python object.

A source knows the names of its samples, and reads their values when it is gone through.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np

from convcal.data.arrays import ArrayFile, check_sample_name, group_keys, listing
from convcal.data.inputs import as_input, check_dtype, check_names, check_shape, count_samples
from convcal.data.npy import NpyHeader, read_npy_header, read_npy_rows
from convcal.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.model_description import Feature, ModelDescription

__all__ = [
    "MediaSource",
    "NpySource",
    "NpzSource",
    "ObjectSource",
    "Sample",
    "Source",
    "load_function",
    "sample_digest",
]

Sample = dict[str, np.ndarray]
_BLOCK = 1 << 20


class Source(Protocol):
    """Samples of one origin, with names known beforehand and values read when asked for."""

    names: list[str]
    n_files: int

    def __iter__(self) -> Iterator[Sample]: ...

    def part(self, start: int, stop: int) -> Iterator[Sample]:
        """Give the samples from one index up to another."""
        ...

    def digest(self) -> str:
        """Give a text that changes with the content."""
        ...


class _FileSource:
    """What the samples of one file have in common."""

    n_files = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stem = check_sample_name(path.stem, where=f"file '{path}'")

    def digest(self) -> str:
        """Hash the file."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"cannot read '{self.path}': {error.strerror}") from error
        return f"{self.path.name} {digest.hexdigest()}"

    def _names_of_many(self, n: int | None) -> list[str]:
        return [self.stem] if n is None else [f"{self.stem}[{index}]" for index in range(n)]


class MediaSource(_FileSource):
    """A picture or a sound file, cut into pieces of the input's shape."""

    def __init__(
        self,
        path: Path,
        feature: Feature,
        names: Callable[[Path, Feature], list[str]],
        pieces: Callable[[Path, Feature], Iterator[NDArray[np.generic]]],
    ) -> None:
        super().__init__(path)
        self._feature = feature
        self._pieces = pieces
        self.names = names(path, feature)

    def part(self, start: int, stop: int) -> Iterator[Sample]:
        """Cut the pieces before, too: pictures and sound are decoded from their beginning."""
        return itertools.islice(self, start, stop)

    def __iter__(self) -> Iterator[Sample]:
        for piece in self._pieces(self.path, self._feature):
            yield {self._feature.name: as_input(piece, self._feature, where=f"'{self.path}'")}


class NpySource(_FileSource):
    """A ``.npy`` file for a model with one input."""

    def __init__(self, path: Path, feature: Feature) -> None:
        super().__init__(path)
        self._feature = feature
        self._where = f"'{path}'"
        with self._opened() as (_, header):
            self._n = _count(header, feature, where=self._where)
        self.names = self._names_of_many(self._n)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], NpyHeader]]:
        try:
            stream = self.path.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {self._where}: {error.strerror}") from error
        with stream:
            n_bytes = self.path.stat().st_size
            yield stream, read_npy_header(stream, n_bytes=n_bytes, where=self._where)

    def __iter__(self) -> Iterator[Sample]:
        return self.part(0, len(self.names))

    def part(self, start: int, stop: int) -> Iterator[Sample]:
        """Read from the first of them on."""
        with self._opened() as (stream, header):
            shape = header.shape if self._n is not None else (1, *header.shape)
            many = NpyHeader(shape, header.dtype, header.is_fortran_order)
            rows = read_npy_rows(stream, many, where=self._where, start=start)
            for row in itertools.islice(rows, stop - start):
                values = _shaped(row, self._feature)
                yield {self._feature.name: as_input(values, self._feature, where=self._where)}


class NpzSource(_FileSource):
    """A ``.npz`` file: one sample, many along the first axis, or keys ``SAMPLE/INPUT``."""

    def __init__(self, path: Path, description: ModelDescription) -> None:
        super().__init__(path)
        self._description = description
        where = f"'{path}'"
        with ArrayFile(path) as file:
            self._groups = group_keys(file.headers, where=where, tensors=description.input_names)
            counts: dict[str, int | None] = {}
            for sample, keys in self._groups.items():
                owner = where if sample is None else f"sample '{sample}' of {where}"
                check_names(keys, description, where=owner)
                for tensor, key in keys.items():
                    feature, header = description.input(tensor), file.headers[key]
                    if sample is None:
                        counts[tensor] = _count(header, feature, where=file.where(key))
                    else:
                        check_shape(header.shape, feature, where=file.where(key))
                        check_dtype(header.dtype, feature, where=file.where(key))
        if None not in self._groups:
            self.names = [sample for sample in self._groups if sample is not None]
            return
        if len(set(counts.values())) > 1:
            held = ", ".join(f"'{name}' {count or 1}" for name, count in counts.items())
            msg = f"{where} holds unequal numbers of samples: {held}; give every input as many"
            raise InputError(msg)
        self._n = next(iter(counts.values()))
        self.names = self._names_of_many(self._n)

    def __iter__(self) -> Iterator[Sample]:
        return self.part(0, len(self.names))

    def part(self, start: int, stop: int) -> Iterator[Sample]:
        """Read from the first of them on."""
        with ArrayFile(self.path) as file:
            if None in self._groups and self._n is not None:
                samples = self._read_many(file, self._groups[None], start=start)
                yield from itertools.islice(samples, stop - start)
                return
            for keys in itertools.islice(self._groups.values(), start, stop):
                yield {
                    name: self._input(file.read(keys[name]), name, where=file.where(keys[name]))
                    for name in self._description.input_names
                    if name in keys
                }

    def _read_many(
        self, file: ArrayFile, keys: Mapping[str, str], *, start: int
    ) -> Iterator[Sample]:
        names = [name for name in self._description.input_names if name in keys]
        arrays = (file.rows(keys[name], start=start) for name in names)
        for rows in zip(*arrays, strict=True):
            yield {
                name: self._input(row, name, where=file.where(keys[name]))
                for name, row in zip(names, rows, strict=True)
            }

    def _input(self, values: NDArray[np.generic], name: str, *, where: str) -> NDArray[np.generic]:
        feature = self._description.input(name)
        return as_input(_shaped(values, feature), feature, where=where)


def _shaped(row: NDArray[np.generic], feature: Feature) -> NDArray[np.generic]:
    """Put the batch axis back where many samples shared it (rule 3 of `count_samples`)."""
    return row[None] if row.ndim == len(feature.shape) - 1 else row


def _count(header: NpyHeader, feature: Feature, *, where: str) -> int | None:
    """Tell how many samples an array holds, None if it is a single one."""
    check_dtype(header.dtype, feature, where=where)
    try:
        return count_samples(header.shape, feature.shape)
    except ValueError:
        if feature.is_flexible and not feature.accepts(header.shape):
            # The same rules, for other sizes than the default.
            one = header.shape[1:]
            if feature.accepts(one) or (feature.shape[:1] == (1,) and feature.accepts((1, *one))):
                return header.shape[0]
        check_shape(header.shape, feature, where=where)
    return None


class ObjectSource:
    """Samples that Python code gives; every pass is checked to give the same ones."""

    n_files = 0

    def __init__(
        self,
        call: Callable[[], Iterable[Mapping[str, object]]],
        description: ModelDescription,
        *,
        where: str,
    ) -> None:
        self._call = call
        self._description = description
        self._where = where
        self._digests = [sample_digest(sample) for sample in self._samples()]
        self.names = [f"sample-{index}" for index in range(len(self._digests))]

    def __iter__(self) -> Iterator[Sample]:
        n_read = 0
        for sample in self._samples():
            if n_read == len(self._digests) or sample_digest(sample) != self._digests[n_read]:
                msg = (
                    f"{self._where} gives another sample {n_read} than when it was first gone "
                    "through; both models need the same samples: seed the random numbers"
                )
                raise InputError(msg)
            n_read += 1
            yield sample
        if n_read < len(self._digests):
            msg = (
                f"{self._where} gave {len(self._digests)} samples when it was first gone "
                f"through and {n_read} now; both models need the same samples"
            )
            raise InputError(msg)

    def part(self, start: int, stop: int) -> Iterator[Sample]:
        """Go through those before, too: the code gives them in its order."""
        return itertools.islice(self, start, stop)

    def _samples(self) -> Iterator[Sample]:
        given = self._call()
        if isinstance(given, Mapping) or not isinstance(given, Iterable):
            msg = f"{self._where} gives {type(given).__name__}; expected an iterable of dicts"
            raise InputError(msg)
        for index, sample in enumerate(given):
            where = f"sample {index} of {self._where}"
            if not isinstance(sample, Mapping):
                msg = f"{where} is of type {type(sample).__name__}; expected a dict of arrays"
                raise InputError(msg)
            check_names([str(name) for name in sample], self._description, where=where)
            yield {
                feature.name: as_input(
                    sample[feature.name], feature, where=f"input '{feature.name}' of {where}"
                )
                for feature in self._description.inputs
                if feature.name in sample
            }

    def digest(self) -> str:
        """Hash the samples' names, dtypes, shapes and values."""
        return "\n".join(self._digests)


def sample_digest(sample: Sample) -> str:
    """Hash names, dtypes, shapes and values of a sample."""
    digest = hashlib.sha256()
    for name, values in sample.items():
        digest.update(f"{name!r} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def load_function(path: Path, name: str) -> Callable[[], Iterable[Mapping[str, object]]]:
    """Run the user's Python file and take one function from it."""
    if not path.is_file():
        raise InputError(f"there is no file '{path}' with a function '{name}'")
    module = types.ModuleType(f"convcal_samples_{path.stem}")
    module.__file__ = str(path)
    # Classes that the file defines look their module up by name.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        # Compiled here rather than imported, which would leave a __pycache__ beside the file.
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)  # noqa: S102  (asked for)
    except Exception as error:
        msg = f"'{path}' fails when it is run: {type(error).__name__}: {error}"
        raise InputError(msg) from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__
        ]
        msg = f"'{path}' defines no function '{name}'; its functions are {listing(own)}"
        raise InputError(msg)

    def call() -> Iterable[Mapping[str, object]]:
        try:
            given = function()
            if isinstance(given, Iterable) and not isinstance(given, Mapping):
                yield from given
                return
        except Exception as error:
            msg = f"function '{name}' of '{path}' failed: {type(error).__name__}: {error}"
            raise InputError(msg) from error
        msg = f"function '{name}' of '{path}' gives {type(given).__name__}; expected dicts"
        raise InputError(msg)

    return call
