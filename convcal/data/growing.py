# SPDX-License-Identifier: BSD-3-Clause
"""Add samples to one role of a capture; what is there stays there, whatever ends the work."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.arrays import listing
from convcal.data.captures import open_role
from convcal.data.locking import locked_role
from convcal.data.provenance import joined_provenance
from convcal.data.recording import (
    RoleWriter,
    as_document,
    check_alike,
    check_role,
    create_root,
    native,
    open_other,
)
from convcal.data.roles import Role, role_members, sealed
from convcal.errors import InputError, OutputExistsError, RunnerError, WriteError
from convcal.files import ensure_absent, staged

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RoleGrower", "check_recording", "grow_role", "partial_path", "record_role"]

SECONDS_BETWEEN_COMMITS = 5.0
"""What was recorded since is lost when the process is killed; no more than a tenth of the time
goes into keeping it."""
_STAGE = ".convcal-"


class RoleGrower:
    """Adds samples to a role, new or existing. Made by `grow_role`."""

    def __init__(
        self,
        folder: Path,
        role: str,
        *,
        provenance: Mapping[str, Any],
        kinds: Mapping[str, str],
        other: Role | None,
        is_part: bool,
        tensors: Collection[str],
    ) -> None:
        self._folder = folder
        self._role = role
        self._kinds = kinds
        self._other = other
        self._is_part = is_part
        self._where = f"{role} of capture '{folder}'"
        self._stage: Path | None = None
        self._writer: RoleWriter | None = None
        self._new: dict[str, str] = {}
        self._is_committing = False
        self._due = time.monotonic() + SECONDS_BETWEEN_COMMITS
        self._old = open_role(folder, role) if os.path.lexists(folder) else None
        document = as_document(provenance, role=role)
        if self._old is not None:
            document = joined_provenance(self._old.provenance, document, where=self._where)
            _check_tensors(self._old.tensors, tensors, where=self._where)
            _repair(folder / role, len(self._old.samples))
        self._provenance = document

    def lacks(self, sample: str, digest: str) -> bool:
        """Say whether a sample is to be run.

        Parameters
        ----------
        sample : str
            Its name.
        digest : str
            A hash of what the model is to be given.

        Returns
        -------
        bool
            False if its outputs are there; True too where it is not known from what.

        Raises
        ------
        InputError
            If another sample of this name is there.
        """
        if self._old is None or sample not in self._old.index:
            return True
        found = self._old.inputs[self._old.index[sample]]
        if found and found != digest:
            raise self._collision(sample, "were recorded from another input")
        return not found

    def append(
        self,
        sample: str,
        outputs: Mapping[str, NDArray[np.generic]],
        *,
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
        digest: str = "",
    ) -> None:
        """Add the outputs of one sample, unless they are there already.

        Parameters
        ----------
        sample : str
            Its name.
        outputs : mapping of str to numpy.ndarray
            By name, as the model gave them.
        tensors : mapping of str to numpy.ndarray, optional
            Intermediate tensors by name, to be kept beside the outputs.
        digest : str
            A hash of what the model was given, if that is known.

        Raises
        ------
        InputError
            If other outputs are there under this name, or they differ from the samples before
            or the other role in names, shapes or dtypes.
        """
        arrays = {name: native(np.asarray(values)) for name, values in outputs.items()}
        inner = {name: native(np.asarray(values)) for name, values in (tensors or {}).items()}
        if (old := self._old) is not None:
            check_alike(sample, arrays, old.arrays, where=self._where)
            check_alike(sample, inner, old.tensors, where=self._where, member="tensor")
            arrays = {name: arrays[name] for name in old.arrays}  # as they are numbered
            inner = {name: inner[name] for name in old.tensors}
            if sample in old.index:
                self._check_same(sample, {**arrays, **inner}, old)
                return
        if self._writer is None:
            self._writer = self._open_part()
        self._writer.append(sample, arrays, tensors=inner)
        self._new[sample] = digest
        if time.monotonic() >= self._due:
            self.commit()

    def commit(self) -> None:
        """Make what was appended part of the capture."""
        if not self._new or self._is_committing:
            return
        self._is_committing = True  # an interruption from here on must not commit again
        start = time.monotonic()
        part = self._part()
        if self._old is None:
            self._place(part)
        else:
            self._add(part, self._old)
        self._old = open_role(self._folder, self._role)
        shutil.rmtree(part, ignore_errors=True)
        self._writer, self._new = None, {}
        now = time.monotonic()
        self._due = now + SECONDS_BETWEEN_COMMITS * max(1.0, 2 * (now - start))
        self._is_committing = False

    def finish(self) -> None:
        """Commit, and check that the role has all the samples that it should.

        Raises
        ------
        InputError
            If it has none, or not those of the role that it was to match.
        """
        self.commit()
        if self._old is None:
            raise InputError(f"there are no samples to record in {self._where}")
        if self._other is None or self._is_part:
            return
        missing = [name for name in self._other.samples if name not in self._old.index]
        surplus = [name for name in self._old.samples if name not in self._other.index]
        if missing or surplus:
            what = f"lacks samples {listing(missing)}, which the other role has"
            if not missing:
                what = f"has samples {listing(surplus)}, which the other role lacks"
            raise InputError(
                f"{self._where} {what}; record both roles from the same data, or choose another "
                "path"
            )

    def close(self) -> None:
        """Remove what is no part of the capture."""
        if self._stage is not None:
            shutil.rmtree(self._stage, ignore_errors=True)

    def _open_part(self) -> RoleWriter:
        import zarr

        if self._stage is None:
            place = self._folder if self._folder.exists() else self._folder.absolute().parent
            self._stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=place))
        group = zarr.create_group(self._part(), zarr_format=3)
        return RoleWriter(
            group,
            kinds=self._kinds,
            other=self._other,
            where=self._where,
            is_part=self._is_part,
        )

    def _part(self) -> Path:
        assert self._stage is not None  # noqa: S101  (made with the first part)
        return self._stage / "part"

    def _place(self, part: Path) -> None:
        """Let the first part be the role."""
        self._write_names(part)
        for array in role_members(part):
            _set_length(array, len(self._new))
        if self._folder.exists():
            with staged(self._folder / self._role) as temporary:
                part.rename(temporary)
        else:
            with staged(self._folder) as temporary:
                create_root(temporary)
                part.rename(temporary / self._role)

    def _add(self, part: Path, old: Role) -> None:
        """Add a part to the role: chunks, then shapes, then names."""
        folder = self._folder / self._role
        first = len(old.samples)
        arrays = role_members(folder)
        for array in arrays:
            _check_coding(array, part / array.name)
        for array in arrays:
            for index in range(len(self._new)):
                chunk = part / array.name / "c" / str(index)
                chunk.rename(array / "c" / str(first + index))
        for array in arrays:
            _set_length(array, first + len(self._new))
        self._write_names(folder, old)

    def _write_names(self, folder: Path, old: Role | None = None) -> None:
        assert self._writer is not None  # noqa: S101  (made with the first part)
        before = ((), (), ()) if old is None else (old.samples, old.inputs, old.contents)
        added = (self._new, self._new.values(), self._writer.contents)
        attributes: dict[str, Any] = {
            key: [*there, *new]
            for key, there, new in zip(
                ("samples", "inputs", "contents"), before, added, strict=True
            )
        }
        attributes["provenance"] = self._provenance

        def name(document: dict[str, Any]) -> None:
            document["attributes"] = sealed(folder, {**document["attributes"], **attributes})

        _change(folder / "zarr.json", name)

    def _check_same(
        self, sample: str, arrays: Mapping[str, NDArray[np.generic]], old: Role
    ) -> None:
        for name, values in arrays.items():
            array = (old.arrays if name in old.arrays else old.tensors)[name]
            there = np.asarray(array[old.index[sample]])
            if there.tobytes() != values.astype(there.dtype).tobytes():
                raise self._collision(sample, f"differ in '{name}'")

    def _collision(self, sample: str, how: str) -> InputError:
        return InputError(
            f"{self._where} holds other outputs of a sample '{sample}', which {how}; names are "
            "unique: rename the new one, or record the role again with --force"
        )


@contextlib.contextmanager
def grow_role(
    path: str | os.PathLike[str],
    role: str,
    *,
    provenance: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    other: Role | None = None,
    tensors: Collection[str] = (),
) -> Iterator[RoleGrower]:
    """Add samples to a role that may be there already, in a capture that may.

    Every few seconds what was appended becomes part of the capture for good, as the top of
    `convcal.data.captures` says; so it does when the block ends, is interrupted, or a model
    fails. If the process is killed, the capture holds what it did after the last time.

    Parameters
    ----------
    path : path
        The capture's folder, new or existing.
    role : {'reference', 'observed'}
        Which outputs these are.
    provenance : mapping
        What ran where, as JSON: the same as of the samples that are there, but for the data.
    kinds : mapping of str to {'tensor', 'image'}, optional
        By output, as the model says.
    other : Role, optional
        A role elsewhere, all samples of which are to be recorded, and no others. By default the
        other one of this capture, of which only the outputs have to match.
    tensors : collection of str
        The intermediate tensors that every sample will come with.

    Yields
    ------
    RoleGrower
        Its method `append` takes one sample at a time.

    Raises
    ------
    InputError
        If `path` is no capture, its role was recorded by another model or elsewhere, or another
        process is writing it.
    WriteError
        If the operating system refuses a write.
    """
    with (
        locked_role(Path(path), role),
        _growing(
            path, role, provenance=provenance, kinds=kinds, other=other, tensors=tensors
        ) as grower,
    ):
        yield grower


@contextlib.contextmanager
def _growing(
    path: str | os.PathLike[str],
    role: str,
    *,
    provenance: Mapping[str, Any],
    kinds: Mapping[str, str] | None,
    tensors: Collection[str],
    other: Role | None = None,
) -> Iterator[RoleGrower]:
    """Add samples to a role whose lock is held; see `grow_role`."""
    folder = Path(path)
    if not os.path.lexists(folder):
        ensure_absent(folder)
    is_part = other is None
    grower = RoleGrower(
        folder.absolute(),
        role,
        provenance=provenance,
        kinds=kinds or {},
        other=open_other(folder, role) if is_part else other,
        is_part=is_part,
        tensors=tensors,
    )
    try:
        try:
            yield grower
        except (KeyboardInterrupt, SystemExit, RunnerError):
            grower.commit()
            raise
        grower.finish()
    except OSError as error:
        if isinstance(error, InputError | WriteError):
            raise
        raise WriteError(
            f"cannot write '{path}': {error.strerror or error}; what was recorded before is there"
        ) from error
    finally:
        grower.close()


def _repair(folder: Path, n_samples: int) -> None:
    """Remove what a writer that was killed has left: rows without a name, and its stage."""
    for stage in (*folder.parent.glob(f"{_STAGE}*"), *folder.glob(f"{_STAGE}*")):
        shutil.rmtree(stage, ignore_errors=True)
    for array in role_members(folder):
        for stage in array.glob(f"{_STAGE}*"):
            shutil.rmtree(stage, ignore_errors=True)
        document = json.loads((array / "zarr.json").read_text("utf-8"))
        if document["shape"][0] != n_samples:
            _set_length(array, n_samples)
        for chunk in (array / "c").iterdir():
            if chunk.name.isdecimal() and int(chunk.name) >= n_samples:
                shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()


def _check_coding(array: Path, added: Path) -> None:
    """Refuse to put chunks where chunks are coded or called in another way."""
    there, new = (json.loads((each / "zarr.json").read_text("utf-8")) for each in (array, added))
    for key in ("data_type", "chunk_key_encoding", "codecs"):
        if there.get(key) != new[key]:
            raise InputError(
                f"'{array}' has {key} {there.get(key)}, and this convcal writes {new[key]}; no "
                "samples can be added to it: record the role again with --force"
            )


def _set_length(array: Path, n_samples: int) -> None:
    _change(array / "zarr.json", lambda document: document["shape"].__setitem__(0, n_samples))


def _change(path: Path, change: Any) -> None:
    """Change a JSON document, by one rename."""
    document = json.loads(path.read_text("utf-8"))
    change(document)
    with staged(path, force=True) as temporary:
        temporary.write_text(json.dumps(document, indent=2), "utf-8")


def _check_tensors(there: Mapping[str, Any], given: Collection[str], *, where: str) -> None:
    """Refuse to go on with other intermediate tensors, before a sample is run."""
    if set(there) != set(given):
        raise InputError(
            f"{where} was recorded with the tensors {listing(there)}, not {listing(given)}; give "
            "the same (--tensors), choose another path, or record the role again with --force"
        )


@contextlib.contextmanager
def record_role(
    path: str | os.PathLike[str],
    role: str,
    *,
    provenance: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    tensors: Collection[str] = (),
    append: bool = False,
    force: bool = False,
) -> Iterator[RoleGrower]:
    """Record a role so that the work can go on after an interruption.

    A role that is there already grows in its place. A new one grows beside the capture, as a
    capture ``NAME.ROLE.partial``, and is moved to its place when the block ends.

    Parameters
    ----------
    path : path
        The capture's folder, new or existing.
    role : {'reference', 'observed'}
        Which outputs these are.
    provenance, kinds, tensors
        As for `grow_role`.
    append : bool
        Add to a role that is there, or go on with one that was interrupted.
    force : bool
        Replace a role that is there, or start anew.

    Yields
    ------
    RoleGrower

    Raises
    ------
    OutputExistsError, InputError, WriteError
        As `check_recording` and `grow_role` do.
    """
    with locked_role(Path(path), role):
        folder, partial = check_recording(path, role, append=append, force=force)
        if append and not partial.exists() and os.path.lexists(folder / role):
            with _growing(
                folder, role, provenance=provenance, kinds=kinds, tensors=tensors
            ) as grower:
                yield grower
            return
        if partial.exists() and not append:
            shutil.rmtree(partial)
        other = open_other(folder, role)
        with _growing(
            partial, role, provenance=provenance, kinds=kinds, other=other, tensors=tensors
        ) as grower:
            yield grower
        if not folder.exists():
            with staged(folder) as temporary:
                partial.rename(temporary)
            return
        with staged(folder / role, force=force) as temporary:
            (partial / role).rename(temporary)
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(folder: Path, role: str) -> Path:
    """Give where a role of a capture grows until it is recorded to its end."""
    return folder.with_name(f"{folder.name}.{role}.partial")


def check_recording(
    path: str | os.PathLike[str], role: str, *, append: bool, force: bool
) -> tuple[Path, Path]:
    """Check that a role may be recorded, before any long work is done for it.

    Returns
    -------
    (pathlib.Path, pathlib.Path)
        The capture, and where a new role grows.

    Raises
    ------
    OutputExistsError
        If the role, or what is left of an interrupted recording, is there, and neither `append`
        nor `force` says what is to become of it.
    InputError
        If `path` is no capture, or both are given and there is nothing to go on with.
    """
    folder = check_role(path, role, force=append or force).absolute()
    partial = partial_path(folder, role)
    if partial.exists() and [*partial.iterdir()] == [partial / "zarr.json"]:
        shutil.rmtree(partial)  # its role was moved away, and then the process was killed
    if partial.exists() and not (append or force):
        raise OutputExistsError(
            f"'{partial}' is what an interrupted recording of {role} left; pass --resume "
            "(append=True) to go on with it, or --force (force=True) to start anew"
        )
    is_there = os.path.lexists(folder / role)
    if append and (force if not partial.exists() else is_there and not force):
        raise InputError(
            f"capture '{folder}' cannot be added to with --force; leave one of the two out"
            if force
            else f"capture '{folder}' has {role} outputs, and '{partial}' is what an interrupted "
            "recording of others left; pass --resume and --force to go on and replace them, or "
            "remove it"
        )
    return folder, partial
