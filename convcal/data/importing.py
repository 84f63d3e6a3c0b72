# SPDX-License-Identifier: BSD-3-Clause
"""Record outputs that were computed elsewhere: in an app, in PyTorch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from convcal.data.arrays import ArrayFile, group_keys
from convcal.data.captures import Capture, open_capture
from convcal.data.folders import ArrayFolder
from convcal.data.growing import RoleGrower, grow_role
from convcal.data.inputs import count_samples
from convcal.data.npy import NpyHeader
from convcal.data.polygraphy import RunResultsFile
from convcal.data.recording import RoleWriter, check_role, open_other, write_role
from convcal.data.roles import Role
from convcal.data.safetensors import TensorFile
from convcal.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["import_outputs"]


class _Outputs(Protocol):
    """Arrays by key, in a file or a folder, read when asked for."""

    path: Path
    headers: dict[str, NpyHeader]

    def where(self, key: str) -> str: ...

    def read(self, key: str) -> NDArray[np.generic]: ...

    def rows(self, key: str) -> Iterator[NDArray[np.generic]]: ...


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], *, other: Role | None) -> Iterator[_Outputs]:
    place = Path(path)
    if place.is_dir():
        yield ArrayFolder(place)
    elif place.suffix == ".safetensors":
        yield TensorFile(place)
    elif place.suffix == ".json":
        yield RunResultsFile(place, samples=None if other is None else other.samples)
    else:
        with ArrayFile(place) as file:
            yield file


def import_outputs(
    outputs: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    role: str,
    provenance: Mapping[str, Any],
    append: bool = False,
    force: bool = False,
) -> Capture:
    """Record outputs that were computed elsewhere: in an app, in PyTorch.

    Parameters
    ----------
    outputs : path
        A ``.npz`` file, a folder of ``.npy`` files, whose paths without the ending are the keys, a
        ``.safetensors`` file, or the ``.json`` of ``polygraphy run --save-outputs``, whose
        iterations take the names of the other role's samples in their order. Its keys are one of

        - keys ``SAMPLE/OUTPUT``, each array one sample's output as the model gives it (with its
          batch axis); ``%2F`` stands for a slash inside a name;
        - keys ``OUTPUT`` with all samples along the first axis. If the capture holds the other
          role, the samples take its names in its order, and may be stacked either along a new
          axis or along the batch axis of 1. Otherwise they are called ``sample-0``,
          ``sample-1``, …, and the first axis is

          - a new one before the batch axis of 1 in arrays of five axes or more, as
            (24, 1, 3, 64, 64), and before images, uint8 arrays of (N, H, W) or (N, H, W, 1 to 4);
          - the batch axis in all others, of which each sample keeps 1: (24, 3, 64, 64) are 24 of
            (1, 3, 64, 64).

          Arrays of three or four axes whose second axis is 1 may be either, and are refused.
    path : path
        The capture, new or existing.
    role : {'reference', 'observed'}
        Which outputs these are.
    provenance : mapping
        Where they come from, as JSON.
    append : bool
        Add samples to the role if the capture has it; the keys must name them. Those that are
        there must be the same.
    force : bool
        Replace the role if the capture has it.

    Returns
    -------
    Capture
        The capture, with the role in it.

    Raises
    ------
    InputError
        If the file is not as described, or does not match the other role; nothing is changed.
    OutputExistsError, WriteError
        As `write_role` does.
    """
    if append and force:
        raise InputError(
            "give --append (append=True), which keeps what is there, or --force (force=True), "
            "which replaces it, not both"
        )
    folder = check_role(path, role, force=append or force)
    other = open_other(folder, role)
    is_growing = append and os.path.lexists(folder / role)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(outputs, other=other))
        groups = group_keys(
            file.headers,
            where=f"'{file.path}'",
            tensors=None if other is None else tuple(other.arrays),
        )
        writer: RoleWriter | RoleGrower
        if is_growing:
            if None in groups or isinstance(file, RunResultsFile):
                raise InputError(
                    f"'{file.path}' does not name its samples, so that what is new in it cannot "
                    "be told; give keys SAMPLE/OUTPUT in a .npz or .safetensors file, or record "
                    "the role again with --force"
                )
            writer = stack.enter_context(grow_role(folder, role, provenance=provenance))
        else:
            writer = stack.enter_context(
                write_role(folder, role, provenance=provenance, force=force)
            )
        for sample, keys in groups.items():
            if sample is None:
                _append_stacked(writer, file, keys, other=other)
            else:
                writer.append(sample, {name: file.read(key) for name, key in keys.items()})
    return open_capture(folder)


def _append_stacked(
    writer: RoleWriter | RoleGrower,
    file: _Outputs,
    keys: Mapping[str, str],
    *,
    other: Role | None,
) -> None:
    """Append outputs that hold all samples along their first axis."""
    counts: dict[str, int] = {}
    for name, key in keys.items():
        shape = file.headers[key].shape
        if not shape:
            raise InputError(f"{file.where(key)} is a scalar; expected samples along an axis")
        if other is None:
            _check_unambiguous(shape, where=file.where(key))
            counts[name] = shape[0]
            continue
        own = other.arrays[name].shape[1:]
        try:
            counts[name] = count_samples(shape, own) or 1
        except ValueError as error:
            msg = f"{file.where(key)} has shape {shape}; the other role's samples have {own}"
            raise InputError(msg) from error
    n_samples = next(iter(counts.values()))
    if set(counts.values()) != {n_samples if other is None else len(other.samples)}:
        wanted = "" if other is None else f"; the other role has {len(other.samples)}"
        held = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise InputError(f"'{file.path}' holds unequal numbers of samples: {held}{wanted}")
    names = [f"sample-{index}" for index in range(n_samples)] if other is None else other.samples
    with contextlib.ExitStack() as stack:  # closes the files of arrays that are not used up
        rows = {
            name: stack.enter_context(
                contextlib.closing(_stacked_rows(file, name, key, other=other))
            )
            for name, key in keys.items()
        }
        for sample in names:
            writer.append(sample, {name: next(values) for name, values in rows.items()})


def _stacked_rows(
    file: _Outputs, name: str, key: str, *, other: Role | None
) -> Generator[NDArray[np.generic], None, None]:
    if other is None:
        header = file.headers[key]
        keeps_axis = not _has_new_axis(header.shape, header.dtype)
        for row in file.rows(key):
            yield row[np.newaxis] if keeps_axis else row
        return
    own = other.arrays[name].shape[1:]
    if file.headers[key].shape == own:
        yield file.read(key)
        return
    for row in file.rows(key):
        yield row.reshape(own)


def _has_new_axis(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell whether samples were stacked along a new axis, not along their batch axis."""
    is_pictures = dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] <= 4))
    return is_pictures or (len(shape) > 4 and shape[1] == 1)


def _check_unambiguous(shape: tuple[int, ...], *, where: str) -> None:
    """Refuse a stack of samples whose axis of 1 may be the batch axis, or the only channel."""
    if len(shape) in (3, 4) and shape[1] == 1:
        rest = shape[2:]
        raise InputError(
            f"{where} has shape {shape}: {shape[0]} samples of {(1, *rest)}, batch and channels "
            f"first, or of {(1, 1, *rest)}, with a single channel? name the samples, with keys "
            "SAMPLE/OUTPUT: numpy.savez(FILE, **{f'{i}/OUTPUT': array[i] for i in "
            "range(len(array))}), or with array[i:i+1] for the latter"
        )
