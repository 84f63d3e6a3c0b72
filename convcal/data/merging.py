# SPDX-License-Identifier: BSD-3-Clause
"""Make one capture of several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.captures import Capture, open_capture, open_role, readable
from convcal.data.provenance import joined_provenance
from convcal.data.recording import RoleWriter, create_root
from convcal.data.roles import Role
from convcal.errors import InputError
from convcal.files import ensure_absent, staged
from convcal.words import ROLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["merge_captures"]

_Arrays = dict[str, "NDArray[np.generic]"]


def merge_captures(
    captures: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Capture:
    """Make one capture of the roles and samples of several.

    The same whatever their order and however they are grouped, but for the order of the samples:
    those of the first capture come first.

    Parameters
    ----------
    captures : sequence of path
        Two or more. Those that hold the same role must have recorded it from the same package, on
        the same machine and by the same versions. A sample that several of them have must be the
        same in all, down to the bits. A role may be in one of them only.
    path : path
        The capture to be made.
    force : bool
        Replace what is there.

    Returns
    -------
    Capture

    Raises
    ------
    InputError
        If there are fewer than two, one is no capture or damaged, or they contradict each other:
        the message names what differs. Nothing is written then.
    OutputExistsError, WriteError
        As `convcal.files.staged` does.
    """
    if len(captures) < 2:
        raise InputError(f"merging takes two captures or more, and {len(captures)} are given")
    target = ensure_absent(path, force=force)
    folders = [Path(each) for each in captures]
    for folder in folders:
        open_capture(folder)  # before anything is written
    with staged(target, force=force) as temporary:
        create_root(temporary)
        for role in ROLES:
            there = {
                folder: found
                for folder in folders
                if (found := open_role(folder, role)) is not None
            }
            if there:
                _write_role(temporary, role, there)
        try:
            open_capture(temporary)
        except InputError as error:
            names = ", ".join(f"'{folder}'" for folder in folders)
            message = str(error).replace(str(temporary), str(target))
            raise InputError(f"{names} make no capture together: {message}") from error
    return open_capture(target)


def _write_role(capture: Path, role: str, there: Mapping[Path, Role]) -> None:
    import zarr

    provenance: dict[str, Any] | None = None
    kinds: dict[str, str] = {}
    for folder, found in there.items():
        if provenance is None:
            provenance = found.provenance
        else:
            where = f"{role} of the captures before '{folder}'"
            provenance = joined_provenance(provenance, found.provenance, where=where)
        kinds |= found.kinds
    group = zarr.create_group(
        capture / role, zarr_format=3, attributes={"provenance": provenance or {}}
    )
    writer = RoleWriter(group, kinds=kinds, other=None, where=role, is_part=True)
    inputs: dict[str, str] = {}
    origin: dict[str, Path] = {}
    for folder, found in there.items():
        for sample in found.samples:
            digest = found.inputs[found.index[sample]]
            if sample not in origin:
                outputs, tensors = _read(folder, found, sample)
                try:
                    writer.append(sample, outputs, tensors=tensors)
                except InputError as error:
                    raise InputError(f"'{folder}' cannot be merged: {error}") from error
                origin[sample], inputs[sample] = folder, digest
                continue
            first = origin[sample]
            _check_same(role, sample, {first: there[first], folder: found})
            if digest and inputs[sample] and digest != inputs[sample]:
                raise _contradiction(role, sample, first, folder, "were recorded from two inputs")
            inputs[sample] = inputs[sample] or digest
    writer.finish(capture / role, inputs=[inputs[sample] for sample in origin])


def _read(folder: Path, role: Role, sample: str) -> tuple[_Arrays, _Arrays]:
    index = role.index[sample]
    with readable(folder, f"sample '{sample}'"):
        outputs = {name: np.asarray(array[index]) for name, array in role.arrays.items()}
        return outputs, {name: np.asarray(array[index]) for name, array in role.tensors.items()}


def _check_same(role: str, sample: str, there: Mapping[Path, Role]) -> None:
    """Refuse a sample that two captures have with other values."""
    (first, one), (second, other) = (
        (folder, {**outputs, **tensors})
        for folder, found in there.items()
        for outputs, tensors in (_read(folder, found, sample),)
    )
    if one.keys() != other.keys():
        raise _contradiction(role, sample, first, second, "have other outputs or tensors")
    for name, values in one.items():
        rest = other[name]
        is_same = values.dtype == rest.dtype and values.shape == rest.shape
        if not is_same or values.tobytes() != rest.tobytes():
            raise _contradiction(role, sample, first, second, f"differ in '{name}'")


def _contradiction(role: str, sample: str, first: Path, second: Path, how: str) -> InputError:
    return InputError(
        f"'{first}' and '{second}' contradict each other: the {role} outputs of their sample "
        f"'{sample}' {how}; leave one out, or record the sample again under another name"
    )
