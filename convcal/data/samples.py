# SPDX-License-Identifier: BSD-3-Clause
"""Calibration sets: samples from files, from a function of the user's, or from Python objects.

``--data PATH`` is one of:

===========================  ===================================================================
``FILE.npz``                 keys are input names. An array of the input's own shape is one
                             sample; one more axis in front, or another first axis than the
                             input's batch of 1, holds many (see `convcal.data.inputs`). Or keys
                             ``SAMPLE/INPUT``, each array one sample
``FILE.npy``                 the same for a model with one input
folder of arrays             ``.npz`` and ``.npy`` files, each as above
picture, folder of pictures  for a model with one input: tiles (`convcal.data.pictures`)
sound, folder of sound       for a model with one input: windows (`convcal.data.sound`)
``FILE.py:FUNCTION``         a function without arguments that gives an iterable of dicts
===========================  ===================================================================

Files are taken in the order of their names; hidden files, and text and scripts (a README, a
licence), are passed over; subfolders are not entered. **FILE.py is run**, as ``python FILE.py``
would run it; nothing else is: arrays are never unpickled, pictures and sound are decoded by
decoders that do nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convcal.data.arrays import listing
from convcal.data.pictures import PICTURE_SUFFIXES, picture_tiles, tile_names
from convcal.data.sound import SOUND_SUFFIXES, sound_windows, window_names
from convcal.data.sources import (
    MediaSource,
    NpySource,
    NpzSource,
    ObjectSource,
    Sample,
    Source,
    load_function,
)
from convcal.errors import InputError

if TYPE_CHECKING:
    from convcal.model_description import Feature, ModelDescription

__all__ = ["CalibrationSet", "Sample", "check_source", "open_samples"]

_ARRAY_SUFFIXES = (".npy", ".npz")
_BESIDE = ("", ".json", ".md", ".py", ".rst", ".txt")
_ACCEPTED = (
    "a .npz or .npy file, a folder of them, pictures, sound, or FILE.py:FUNCTION that yields dicts"
)


class CalibrationSet:
    """A sized iterable of samples that can be gone through any number of times.

    Made by `open_samples`. Files are read while it is iterated over, one at a time, so memory
    does not grow with the number of samples.

    Attributes
    ----------
    names : tuple of str
        One name per sample, unique, in the order of iteration. The same data give the same
        names on every machine: samples of captures are paired by them.
    n_files : int
        How many files the samples come from; 0 for Python objects.
    description : str
        One line for people.
    """

    def __init__(self, sources: Iterable[Source], *, description: str) -> None:
        self._sources = tuple(sources)
        self.names = tuple(name for source in self._sources for name in source.names)
        self.n_files = sum(source.n_files for source in self._sources)
        n = len(self.names)
        self.description = f"{description}, {n} sample{'s' if n != 1 else ''}"
        self._sha256: str | None = None
        _check_unique(self.names, where=description)

    @property
    def sha256(self) -> str:
        """A hash of the content: of the files, or of the arrays where there are none."""
        if self._sha256 is None:
            lines = "\n".join(source.digest() for source in self._sources)
            self._sha256 = hashlib.sha256(lines.encode()).hexdigest()
        return self._sha256

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return self.part(0, len(self))

    def part(self, start: int, stop: int) -> Iterator[Sample]:
        """Give the samples from one index up to another; files of others are not read."""
        first = 0
        for source in self._sources:
            after = first + len(source.names)
            if start <= first and after <= stop:
                yield from source
            elif first < stop and after > start:
                yield from source.part(max(start - first, 0), min(stop, after) - first)
            first = after

    def __str__(self) -> str:
        return self.description


def open_samples(
    source: str | os.PathLike[str] | Iterable[Mapping[str, object]],
    description: ModelDescription,
) -> CalibrationSet:
    """Open a calibration set for a model.

    Parameters
    ----------
    source : path, or iterable of dict
        A path as in the table at the top of this module; ``FILE.py:FUNCTION`` runs that file.
        Or any iterable of dicts of arrays by input name: a list, a data set that can be
        iterated over again (it must then give the same samples), or an iterator, which is
        copied into memory. Its samples are called ``sample-0``, ``sample-1``, ...
    description : ModelDescription
        What the model takes.

    Returns
    -------
    CalibrationSet
        At least one sample. Names, shapes and dtypes have been checked as far as file headers
        tell; values are checked when they are read.

    Raises
    ------
    InputError
        If there is nothing, or nothing that the model takes; if a file is damaged or of another
        kind than its neighbours; if an array has a wrong name, shape or dtype or holds NaN.
    UnavailableError
        If Pillow or soundfile is needed and missing.
    """
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), description)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        msg = (
            f"data of type {type(source).__name__} is no calibration set; give a path or an "
            "iterable of dicts of arrays by input name ([sample] for a single one)"
        )
        raise InputError(msg)
    samples = list(source) if isinstance(source, Iterator) else source
    objects = ObjectSource(lambda: samples, description, where="the data")
    return _nonempty(CalibrationSet([objects], description="Python objects"), "the data")


def check_source(source: object) -> None:
    """Refuse a path where nothing is, before a model is opened, which may take minutes.

    Raises
    ------
    InputError
        If `source` is a path, and there is neither such a file or folder, nor the file of
        ``FILE.py:FUNCTION``.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if not os.path.lexists(path) and not os.path.lexists(path.rpartition(":")[0]):
            raise InputError(f"there is no calibration data at '{path}'; expected {_ACCEPTED}")


def _open_path(text: str, description: ModelDescription) -> CalibrationSet:
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, description)
    if path.is_file():
        return _nonempty(
            CalibrationSet([_open_file(path, description)], description=f"file '{path.name}'"),
            f"'{path}'",
        )
    file, _, function = text.rpartition(":")
    if file.endswith(".py"):
        where = f"function '{function}' of '{file}'"
        call = load_function(Path(file), function)
        label = f"function '{function}' of '{Path(file).name}'"
        return _nonempty(
            CalibrationSet([ObjectSource(call, description, where=where)], description=label),
            where,
        )
    check_source(text)
    raise InputError(f"'{path}' cannot be calibration data; expected {_ACCEPTED}")


def _open_folder(folder: Path, description: ModelDescription) -> CalibrationSet:
    files: dict[str, list[Path]] = {"arrays": [], "pictures": [], "sound": []}
    folders = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path.name)
            continue
        kind = _kind(path)
        if kind is not None:
            files[kind].append(path)
        elif path.suffix.lower() not in _BESIDE:
            raise InputError(f"'{path}' cannot be calibration data; expected {_ACCEPTED}")
    kinds = [kind for kind in files if files[kind]]
    if not kinds:
        hint = f"; it has folders {listing(folders)}: name one of them" if folders else ""
        msg = f"folder '{folder}' holds no calibration data{hint}; expected {_ACCEPTED}"
        raise InputError(msg)
    if len(kinds) > 1:
        found = ", ".join(f"{kind} ('{files[kind][0].name}')" for kind in kinds)
        msg = f"folder '{folder}' mixes {found}; keep one kind per folder"
        raise InputError(msg)
    chosen = files[kinds[0]]
    label = f"{len(chosen)} file{'s' if len(chosen) != 1 else ''} of folder '{folder.name}'"
    return _nonempty(
        CalibrationSet((_open_file(path, description) for path in chosen), description=label),
        f"folder '{folder}'",
    )


def _nonempty(samples: CalibrationSet, where: str) -> CalibrationSet:
    if not samples.names:
        raise InputError(f"{where} holds no samples; at least one is needed")
    return samples


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in _ARRAY_SUFFIXES:
        return "arrays"
    if suffix in PICTURE_SUFFIXES:
        return "pictures"
    return "sound" if suffix in SOUND_SUFFIXES else None


def _open_file(path: Path, description: ModelDescription) -> Source:
    kind = _kind(path)
    if path.suffix.lower() == ".npz":
        return NpzSource(path, description)
    if path.suffix.lower() == ".npy":
        return NpySource(path, _only_input(path, description))
    if kind == "pictures":
        return MediaSource(path, _only_input(path, description), tile_names, picture_tiles)
    if kind == "sound":
        return MediaSource(path, _only_input(path, description), window_names, sound_windows)
    raise InputError(f"'{path}' cannot be calibration data; expected {_ACCEPTED}")


def _only_input(path: Path, description: ModelDescription) -> Feature:
    if len(description.inputs) != 1:
        inputs = ", ".join(str(feature) for feature in description.inputs) or "no inputs"
        msg = (
            f"'{path}' fits models with one input, but this one has {inputs}; give .npz files "
            "with a key per input"
        )
        raise InputError(msg)
    return description.inputs[0]


def _check_unique(names: tuple[str, ...], *, where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        msg = f"two samples of {where} are called '{twice[0]}'; rename one of the files or keys"
        raise InputError(msg)
