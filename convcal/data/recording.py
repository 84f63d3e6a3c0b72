# SPDX-License-Identifier: BSD-3-Clause
"""Write captures: the outputs of one role, sample by sample, or from a file made elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.arrays import check_sample_name, listing
from convcal.data.captures import FORMAT, VERSION, open_role
from convcal.data.npy import is_plain
from convcal.data.roles import MEMBERS, Role, content_digest, sealed
from convcal.errors import InputError, OutputExistsError
from convcal.files import ensure_absent, staged
from convcal.words import ROLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "RoleWriter",
    "as_document",
    "check_alike",
    "check_role",
    "create_root",
    "native",
    "open_other",
    "write_role",
]


class RoleWriter:
    """Takes the outputs of one role, sample by sample. Made by `write_role`.

    Parameters
    ----------
    group : zarr.Group
        An empty one.
    kinds : mapping of str to str
        By output, as the model says.
    other : Role or None
        What the outputs must match.
    where : str
        What to call the role in messages.
    is_part : bool
        More samples may be added before or after, to either role.
    """

    def __init__(
        self,
        group: Any,
        *,
        kinds: Mapping[str, str],
        other: Role | None,
        where: str,
        is_part: bool = False,
    ) -> None:
        self._group = group
        self._kinds = kinds
        self._other = other
        self._is_part = is_part
        self._where = where
        self._arrays: dict[str, dict[str, Any]] = {member: {} for member in MEMBERS}
        self._samples: dict[str, str] = {}

    def append(
        self,
        sample: str,
        outputs: Mapping[str, NDArray[np.generic]],
        *,
        tensors: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        """Add the outputs of one sample.

        Parameters
        ----------
        sample : str
            Its name, not yet used in this role.
        outputs : mapping of str to numpy.ndarray
            By name, as the model gave them. The first sample decides which outputs there are
            and their shapes and dtypes.
        tensors : mapping of str to numpy.ndarray, optional
            Intermediate tensors by name, to be kept beside the outputs.

        Raises
        ------
        InputError
            If the name is used or unusable, or the outputs or tensors differ from the first
            sample's or, the outputs in names or shapes, from the other role's.
        """
        check_sample_name(sample, where=self._where)
        if sample in self._samples:
            raise InputError(f"{self._where} holds sample '{sample}' already; names are unique")
        arrays = {
            member: {name: native(np.asarray(values)) for name, values in (given or {}).items()}
            for member, given in zip(MEMBERS, (outputs, tensors), strict=True)
        }
        if not arrays["output"]:
            raise InputError(f"sample '{sample}' has no outputs to record in {self._where}")
        if both := [name for name in arrays["tensor"] if name in arrays["output"]]:
            raise InputError(f"sample '{sample}' has {listing(both)} as output and as tensor")
        self._check_other(sample, arrays["output"])
        for member, given in arrays.items():
            if self._samples:
                check_alike(sample, given, self._arrays[member], member=member, where=self._where)
            else:
                for name, values in given.items():
                    self._create(member, name, values)
        for member, given in arrays.items():
            for name, values in given.items():
                self._arrays[member][name].append(values[None])
        self._samples[sample] = content_digest(arrays["output"], arrays["tensor"])

    def _create(self, member: str, name: str, values: NDArray[np.generic]) -> None:
        if not is_plain(values.dtype) or 0 in values.shape:
            msg = (
                f"{member} '{name}' has dtype {values.dtype} and shape {values.shape}; captures "
                "hold numbers and booleans, at least one value per sample"
            )
            raise InputError(msg)
        from zarr.codecs import Crc32cCodec, ZstdCodec

        kind = self._kinds.get(name) if member == "output" else None
        self._arrays[member][name] = self._group.create_array(
            f"{member}-{len(self._arrays[member])}",
            shape=(0, *values.shape),
            chunks=(1, *values.shape),
            dtype=values.dtype,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            attributes={"name": name, **({"kind": kind} if kind else {})},
            # Zarr leaves out chunks that equal the fill value, where -0.0 equals 0.0; and a
            # chunk that is not there could not be told from one that was lost.
            config={"write_empty_chunks": True},
        )

    def _check_other(self, sample: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Refuse at once what could not be paired later."""
        if self._other is None:
            return
        remedy = "record both roles from the same data and network, or choose another path"
        if not self._is_part and sample not in self._other.index:
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
        ranks = [{n: len(s) for n, s in each.items()} for each in (shapes, others)]
        if ranks[0] != ranks[1]:
            msg = (
                f"{self._where} cannot take sample '{sample}' with outputs {shapes}: the other "
                f"role there has {others}; {remedy}"
            )
            raise InputError(msg)

    @property
    def contents(self) -> list[str]:
        """Hashes of what was appended, by sample."""
        return list(self._samples.values())

    def finish(self, folder: Path, *, inputs: Sequence[str] = ()) -> None:
        """Write the names of the samples: without them the role cannot be read.

        Parameters
        ----------
        folder : pathlib.Path
            Where the role is.
        inputs : sequence of str
            Hashes of what the model was given, by sample; empty where that is not known.
        """
        if not self._samples:
            raise InputError(f"there are no samples to record in {self._where}")
        missing = [
            name
            for name in (self._other.samples if self._other and not self._is_part else ())
            if name not in self._samples
        ]
        if missing:
            msg = (
                f"{self._where} lacks samples {listing(missing)}, which the other role there has; "
                "record both roles from the same data, or choose another path"
            )
            raise InputError(msg)
        attributes = {
            **self._group.attrs.asdict(),
            "samples": list(self._samples),
            "contents": self.contents,
        }
        if inputs:
            attributes["inputs"] = list(inputs)
        self._group.attrs.put(sealed(folder, attributes))


def check_alike(
    sample: str,
    arrays: Mapping[str, NDArray[np.generic]],
    there: Mapping[str, Any],
    *,
    where: str,
    member: str = "output",
) -> None:
    """Refuse the outputs, or the tensors, of a sample that differ from those that are there.

    Parameters
    ----------
    sample : str
        Its name.
    arrays : mapping of str to numpy.ndarray
        Its outputs.
    there : mapping of str to zarr.Array
        What is there, samples along the first axis.
    where : str
        What to call the role in messages.
    member : {'output', 'tensor'}
        Which of the two they are.

    Raises
    ------
    InputError
        If names, shapes or dtypes differ.
    """
    if arrays.keys() != there.keys():
        raise InputError(
            f"sample '{sample}' has {member}s {listing(arrays)}, but the samples before it in "
            f"{where} have {listing(there)}; give all of them the same"
        )
    for name, values in arrays.items():
        array = there[name]
        if values.shape != array.shape[1:] or values.dtype != array.dtype:
            raise InputError(
                f"{member} '{name}' of sample '{sample}' is {values.dtype} of shape "
                f"{values.shape}, but {array.dtype} of shape {array.shape[1:]} in the samples "
                f"before it in {where}; a capture holds {member}s of one shape, so use samples of "
                "one size"
            )


def native(values: NDArray[np.generic]) -> NDArray[np.generic]:
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
    document = as_document(provenance, role=role)
    import zarr

    other = open_other(folder, role)
    is_new = not folder.exists()
    with staged(folder if is_new else folder / role, force=not is_new and force) as temporary:
        target = temporary
        if is_new:
            create_root(temporary)
            target = temporary / role
        group = zarr.create_group(target, zarr_format=3, attributes={"provenance": document})
        where = f"{role} of capture '{folder}'"
        writer = RoleWriter(group, kinds=kinds or {}, other=other, where=where)
        yield writer
        writer.finish(target)


def as_document(provenance: Mapping[str, Any], *, role: str) -> dict[str, Any]:
    """Give a provenance as JSON reads it.

    Raises
    ------
    InputError
        If it is no JSON.
    """
    try:
        document: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the provenance of {role} is no JSON: {error}") from error
    return document


def create_root(folder: Path) -> None:
    """Create a capture without roles."""
    import zarr

    mark = {"format": FORMAT, "version": VERSION}
    zarr.create_group(folder, zarr_format=3, attributes={"convcal": mark})


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
    open_other(folder, role)
    if os.path.lexists(folder / role) and not force:
        msg = (
            f"capture '{folder}' holds {role} outputs already; choose another path, or pass "
            "--append (append=True) to add samples, or --force (force=True) to replace them"
        )
        raise OutputExistsError(msg)
    return folder


def open_other(folder: Path, role: str) -> Role | None:
    """Open the role that is not this one, None where there is none."""
    return open_role(folder, ROLES[1 - ROLES.index(role)]) if folder.exists() else None
