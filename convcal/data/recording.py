# SPDX-License-Identifier: BSD-3-Clause
"""Write captures: the outputs of one role, sample by sample, or from a file made elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.arrays import ArrayFile, check_sample_name, group_keys, listing
from convcal.data.captures import FORMAT, VERSION, Capture, Role, open_capture, open_role
from convcal.data.inputs import count_samples
from convcal.data.npy import is_plain
from convcal.errors import InputError, OutputExistsError
from convcal.files import ensure_absent, staged
from convcal.words import ROLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RoleWriter", "check_role", "import_outputs", "write_role"]


class RoleWriter:
    """Takes the outputs of one role, sample by sample. Made by `write_role`."""

    def __init__(
        self, group: Any, *, kinds: Mapping[str, str], other: Role | None, where: str
    ) -> None:
        self._group = group
        self._kinds = kinds
        self._other = other
        self._expected = frozenset(other.samples) if other is not None else frozenset()
        self._where = where
        self._arrays: dict[str, Any] = {}
        self._samples: dict[str, None] = {}

    def append(self, sample: str, outputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Add the outputs of one sample.

        Parameters
        ----------
        sample : str
            Its name, not yet used in this role.
        outputs : mapping of str to numpy.ndarray
            By name, as the model gave them. The first sample decides which outputs there are
            and their shapes and dtypes.

        Raises
        ------
        InputError
            If the name is used or unusable, or the outputs differ from the first sample's or,
            in names or shapes, from the other role's.
        """
        check_sample_name(sample, where=self._where)
        if sample in self._samples:
            raise InputError(f"{self._where} holds sample '{sample}' already; names are unique")
        arrays = {name: _native(np.asarray(values)) for name, values in outputs.items()}
        if not arrays:
            raise InputError(f"sample '{sample}' has no outputs to record in {self._where}")
        self._check_other(sample, arrays)
        if self._samples and arrays.keys() != self._arrays.keys():
            msg = (
                f"sample '{sample}' has outputs {listing(arrays)}, but the samples before it in "
                f"{self._where} have {listing(self._arrays)}; give all of them the same"
            )
            raise InputError(msg)
        for name, values in arrays.items():
            if self._samples:
                self._check_like_first(sample, name, values)
            else:
                self._create(name, values)
        for name, values in arrays.items():
            self._arrays[name].append(values[None])
        self._samples[sample] = None

    def _create(self, name: str, values: NDArray[np.generic]) -> None:
        if not is_plain(values.dtype) or 0 in values.shape:
            msg = (
                f"output '{name}' has dtype {values.dtype} and shape {values.shape}; captures "
                "hold numbers and booleans, at least one value per sample"
            )
            raise InputError(msg)
        from zarr.codecs import Crc32cCodec, ZstdCodec

        kind = self._kinds.get(name)
        self._arrays[name] = self._group.create_array(
            f"output-{len(self._arrays)}",
            shape=(0, *values.shape),
            chunks=(1, *values.shape),
            dtype=values.dtype,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            attributes={"name": name, **({"kind": kind} if kind else {})},
            # Zarr leaves out chunks that equal the fill value, where -0.0 equals 0.0; and a
            # chunk that is not there could not be told from one that was lost.
            config={"write_empty_chunks": True},
        )

    def _check_like_first(self, sample: str, name: str, values: NDArray[np.generic]) -> None:
        array = self._arrays[name]
        if values.shape != array.shape[1:] or values.dtype != array.dtype:
            msg = (
                f"output '{name}' of sample '{sample}' is {values.dtype} of shape {values.shape}, "
                f"but {array.dtype} of shape {array.shape[1:]} in the samples before it; a "
                "capture holds outputs of one shape, so use samples of one size"
            )
            raise InputError(msg)

    def _check_other(self, sample: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Refuse at once what could not be paired later."""
        if self._other is None:
            return
        remedy = "record both roles from the same data and network, or choose another path"
        if sample not in self._expected:
            msg = (
                f"{self._where} cannot take sample '{sample}': the other role there has samples "
                f"{listing(self._other.samples)}; {remedy}"
            )
            raise InputError(msg)
        shapes = {name: values.shape for name, values in arrays.items()}
        others = {name: array.shape[1:] for name, array in self._other.arrays.items()}
        if shapes.keys() < others.keys():
            missing = [name for name in others if name not in shapes]
            msg = (
                f"{self._where} cannot take sample '{sample}': it lacks output {listing(missing)}, "
                "which the other role there has; record all outputs, or leave it out of the other "
                "role too: 'convcal run --outputs' and 'convcal capture --import' record some "
                "outputs of a model, at another path"
            )
            raise InputError(msg)
        if shapes != others:
            msg = (
                f"{self._where} cannot take sample '{sample}' with outputs {shapes}: the other "
                f"role there has {others}; {remedy}"
            )
            raise InputError(msg)

    def finish(self) -> None:
        """Write the names of the samples: without them the role cannot be read."""
        if not self._samples:
            raise InputError(f"there are no samples to record in {self._where}")
        missing = [
            name
            for name in (self._other.samples if self._other else ())
            if name not in self._samples
        ]
        if missing:
            msg = (
                f"{self._where} lacks samples {listing(missing)}, which the other role there has; "
                "record both roles from the same data, or choose another path"
            )
            raise InputError(msg)
        self._group.attrs["samples"] = list(self._samples)


def _native(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Give the values in the byte order of this machine; on disk they are little endian."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def write_role(
    path: str | os.PathLike[str],
    role: str,
    *,
    provenance: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    force: bool = False,
) -> Iterator[RoleWriter]:
    """Record one role, in a new capture or in one that has the other role.

    What is appended lies beside its place until the block ends well, then it is moved there:
    after an exception, Ctrl-C included, the capture is as it was.

    Parameters
    ----------
    path : path
        The capture's folder, new or existing.
    role : {'reference', 'observed'}
        Which outputs these are.
    provenance : mapping
        What ran where, as JSON.
    kinds : mapping of str to {'tensor', 'image'}, optional
        By output, as the model says.
    force : bool
        Replace the role if the capture has it. Never replaces anything but a role.

    Yields
    ------
    RoleWriter
        Its method `append` takes one sample at a time.

    Raises
    ------
    OutputExistsError
        If the capture holds this role and `force` is false.
    InputError
        If `role` is unknown, `path` exists and is no capture, `provenance` is no JSON, no sample
        was appended, or the samples, outputs or shapes are not those of the other role.
    WriteError
        If the operating system refuses a write.
    """
    folder = check_role(path, role, force=force)
    try:
        document = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the provenance of {role} is no JSON: {error}") from error
    import zarr

    other = _open_other(folder, role)
    is_new = not folder.exists()
    with staged(folder if is_new else folder / role, force=not is_new and force) as temporary:
        target = temporary
        if is_new:
            mark = {"format": FORMAT, "version": VERSION}
            zarr.create_group(temporary, zarr_format=3, attributes={"convcal": mark})
            target = temporary / role
        group = zarr.create_group(target, zarr_format=3, attributes={"provenance": document})
        where = f"{role} of capture '{folder}'"
        writer = RoleWriter(group, kinds=kinds or {}, other=other, where=where)
        yield writer
        writer.finish()


def check_role(path: str | os.PathLike[str], role: str, *, force: bool = False) -> Path:
    """Check that a role may be written, before any long work is done for it.

    Raises
    ------
    InputError, OutputExistsError
        As `write_role` does.
    """
    if role not in ROLES:
        raise InputError(f"there is no role '{role}'; roles are {listing(ROLES)}")
    folder = Path(path)
    if not os.path.lexists(folder):
        return ensure_absent(folder)
    _open_other(folder, role)
    if os.path.lexists(folder / role) and not force:
        msg = (
            f"capture '{folder}' holds {role} outputs already; choose another path, or pass "
            "--force (force=True) to replace them"
        )
        raise OutputExistsError(msg)
    return folder


def import_outputs(
    outputs: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    role: str,
    provenance: Mapping[str, Any],
    force: bool = False,
) -> Capture:
    """Record outputs that were computed elsewhere: in an app, in PyTorch.

    Parameters
    ----------
    outputs : path
        A ``.npz`` file, one of

        - keys ``SAMPLE/OUTPUT``, each array one sample's output as the model gives it (with its
          batch axis); ``%2F`` stands for a slash inside a name;
        - keys ``OUTPUT`` with all samples along the first axis. If the capture holds the other
          role, the samples take its names in its order, and may be stacked either along a new
          axis or along the batch axis of 1. Otherwise the axis is a new one, and they are called
          ``sample-0``, ``sample-1``, …
    path : path
        The capture, new or existing.
    role : {'reference', 'observed'}
        Which outputs these are.
    provenance : mapping
        Where they come from, as JSON.
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
    folder = check_role(path, role, force=force)
    other = _open_other(folder, role)
    with (
        ArrayFile(outputs) as file,
        write_role(folder, role, provenance=provenance, force=force) as writer,
    ):
        where = f"'{file.path}'"
        groups = group_keys(
            file.headers, where=where, tensors=None if other is None else tuple(other.arrays)
        )
        for sample, keys in groups.items():
            if sample is None:
                _append_stacked(writer, file, keys, other=other)
            else:
                writer.append(sample, {name: file.read(key) for name, key in keys.items()})
    return open_capture(folder)


def _open_other(folder: Path, role: str) -> Role | None:
    return open_role(folder, ROLES[1 - ROLES.index(role)]) if folder.exists() else None


def _append_stacked(
    writer: RoleWriter, file: ArrayFile, keys: Mapping[str, str], *, other: Role | None
) -> None:
    """Append outputs that hold all samples along their first axis."""
    counts: dict[str, int] = {}
    for name, key in keys.items():
        shape = file.headers[key].shape
        if not shape:
            raise InputError(f"{file.where(key)} is a scalar; expected samples along an axis")
        if other is None:
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
    file: ArrayFile, name: str, key: str, *, other: Role | None
) -> Generator[NDArray[np.generic], None, None]:
    if other is None:
        yield from file.rows(key)
        return
    own = other.arrays[name].shape[1:]
    if file.headers[key].shape == own:
        yield file.read(key)
        return
    for row in file.rows(key):
        yield row.reshape(own)
