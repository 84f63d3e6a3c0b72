# SPDX-License-Identifier: BSD-3-Clause
"""Captures: the outputs of the reference and the observed model, paired by sample, on disk.

A capture is a folder in Zarr format 3 (any Zarr library reads it)::

    NAME/                         group {"convcal": {"format": "convcal.capture", "version": 1}}
    NAME/reference/               group {"samples": [...], "provenance": {...}}
    NAME/reference/output-0/      array (n_samples, *shape), attributes {"name": "upsampled",
                                  "kind": "tensor"}
    NAME/reference/tensor-0/      an intermediate tensor, likewise
    NAME/observed/...             the same

- Roles are ``reference`` and ``observed``. A capture holds one or both.
- ``samples`` names the indices of the first axis. The roles are paired **by name**; their order
  may differ.
- ``provenance`` is a JSON object: runtime, versions, os, chip, compute_units, package hash, faults,
  and under ``data`` what it was recorded from: source, sha256, n_files, n_samples.
- Outputs are numbered in the model's order; their name is an attribute, so that no name of a
  model ever becomes a path. ``kind`` is ``tensor`` or ``image`` ((H, W, channels) or (H, W)); it
  is left out where no model said it. Every sample's output has the same shape. The dtype is a
  boolean, an integer or a float of at most 64 bits.
- Intermediate tensors of the program lie beside the outputs in arrays of their own, numbered apart:
  who fits or checks never sees them. The roles need not have the same ones.
- One chunk holds one sample. Codecs: ``bytes`` (little endian), ``zstd``, ``crc32c``: a damaged
  chunk is noticed when it is read. Readers accept the other lossless codecs of the Zarr
  specification too. A chunk that is missing is damage, not a fill value.
- ``inputs``, beside ``samples``, are hashes of what the model was given, empty where that is not
  known: the same sample need not be run again when a recording goes on.
- ``contents``, likewise, are hashes of the outputs and tensors themselves: a chunk that is whole,
  but of another sample or recording, is noticed by ``convcal capture --verify``.
- A sample is there when ``samples`` names it. Samples are added in this order: their chunks, at
  indices from ``len(samples)`` on; then the shapes of the arrays; then ``samples``, with what
  belongs to them, by one rename. Whatever ends the writer, the capture opens with
  the samples that are named. Rows after the last of them are of a writer that was killed, and the
  next one removes them. Who adds samples to a role holds a lock of the system's on a hidden file
  beside the capture, ``.NAME.ROLE.lock``, which the system frees when the process ends; a second
  one is refused meanwhile, where the system has such locks.
- While a role grows, it may have samples that the other one lacks (yet).
- ``seal``, beside ``samples``, is the SHA-256 of what a role and its arrays say of themselves: a
  changed name or provenance is noticed by ``convcal capture --verify``. Readers do not need it.
- Readers ignore attributes that they do not know. Nothing is ever unpickled.

Values are kept bit by bit, NaN payloads and the sign of zero included.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.arrays import listing
from convcal.data.roles import Role, role_members
from convcal.errors import ConvcalError, InputError
from convcal.files import check_plain
from convcal.words import ROLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FORMAT",
    "VERSION",
    "Capture",
    "open_capture",
    "open_role",
    "open_root",
    "readable",
]

FORMAT = "convcal.capture"
VERSION = 1


class Capture:
    """A capture on disk, open for reading. Made by `open_capture`.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    roles : tuple of str
        Which of ``reference`` and ``observed`` it holds.
    samples : tuple of str
        The names of the samples, in the order in which `read` gives them: that of the
        reference, or of the only role. Those that both roles have, where there are two.
    unpaired : dict of str to tuple of str
        By role, the samples that the other one lacks (yet).
    outputs : tuple of str
        The names of the outputs, in the model's order.
    kinds : dict of str to str
        By output ``'tensor'`` or ``'image'``, where a model said it; the observed one first.
    tensors : dict of str to tuple of str
        By role, the names of the intermediate tensors that were recorded with the outputs.
    provenance : dict of str to dict
        By role, what ran where.
    """

    def __init__(self, path: Path, roles: Mapping[str, Role]) -> None:
        self.path = path
        self._roles = dict(roles)
        self.roles = tuple(role for role in ROLES if role in roles)
        first = self._roles[self.roles[0]]
        self.samples = first.samples
        self.unpaired: dict[str, tuple[str, ...]] = {}
        self.outputs = tuple(first.arrays)
        self.kinds = {k: v for role in self.roles for k, v in self._roles[role].kinds.items()}
        self.tensors = {role: tuple(self._roles[role].tensors) for role in self.roles}
        self.provenance = {role: self._roles[role].provenance for role in self.roles}
        if len(self.roles) == len(ROLES):
            self._check_pairing()

    def read(self, role: str, output: str) -> NDArray[np.generic]:
        """Read one output of one role for all samples.

        Returns
        -------
        numpy.ndarray
            (n_samples, *shape) in the dtype that was recorded, in the order of `samples`, so
            that the arrays of both roles are paired.

        Raises
        ------
        InputError
            If there is no such role or output, or what is on disk is damaged.
        """
        array = self._array(role, output)
        values = np.empty((len(self.samples), *array.shape[1:]), dtype=array.dtype)
        for index, sample in enumerate(self.samples):
            values[index] = self._row(role, output, sample)
        return values

    def read_sample(self, role: str, sample: str) -> dict[str, NDArray[np.generic]]:
        """Read all outputs of one role for one sample: one chunk of each.

        Returns
        -------
        dict of str to numpy.ndarray
            By output, in the order of `outputs`.

        Raises
        ------
        InputError
            If there is no such role or sample, or what is on disk is damaged.
        """
        return {output: self._row(role, output, sample) for output in self.outputs}

    def read_tensors(self, role: str, sample: str) -> dict[str, NDArray[np.generic]]:
        """Read the intermediate tensors of one role for one sample.

        Returns
        -------
        dict of str to numpy.ndarray
            By name, in the order of `tensors`; empty where none were recorded.

        Raises
        ------
        InputError
            As `read_sample` does.
        """
        self._check_role(role)
        return {name: self._row(role, name, sample) for name in self.tensors[role]}

    def _row(self, role: str, output: str, sample: str) -> NDArray[np.generic]:
        array = self._array(role, output)
        index = self._roles[role].index.get(sample)
        if index is None:
            raise InputError(f"the {role} outputs of capture '{self.path}' lack sample '{sample}'")
        with readable(self.path, f"sample '{sample}' of output '{output}' ({role})"):
            return np.asarray(array[index])

    def _array(self, role: str, output: str) -> Any:
        self._check_role(role)
        outputs, tensors = self._roles[role].arrays, self._roles[role].tensors
        array = outputs.get(output, tensors.get(output))
        if array is None:
            msg = f"capture '{self.path}' has no output '{output}'; it has {listing(outputs)}"
            raise InputError(msg)
        return array

    def fingerprint(self) -> str:
        """Hash what changes when a role is replaced or grows, without reading its values."""
        digest = hashlib.sha256()
        for role in self.roles:
            folder = self.path / role
            for member in (folder, *role_members(folder)):
                status = (member / "zarr.json").stat()
                digest.update(f"{role} {status.st_size} {status.st_mtime_ns}\n".encode())
            digest.update(json.dumps(self._roles[role].samples).encode())
        return digest.hexdigest()

    def check_paired(self) -> None:
        """Check that it holds both roles, and every sample of one in the other.

        Raises
        ------
        InputError
            If a role is missing, or one of them is not recorded to its end.
        """
        for role in ROLES:
            self._check_role(role)
        if self.unpaired:
            only_first, only_second = (self.unpaired.get(role, ()) for role in ROLES)
            raise self._mismatch("samples", only_first, only_second)

    def _check_role(self, role: str) -> None:
        if role not in self._roles:
            msg = (
                f"capture '{self.path}' holds no {role} outputs, only {listing(self.roles)}; "
                f"add them with convcal capture … --role {role} -o {self.path}"
            )
            raise InputError(msg)

    def _check_pairing(self) -> None:
        reference, observed = (self._roles[role] for role in ROLES)
        for what, first, second in (
            ("samples", reference.index, observed.index),
            ("outputs", reference.arrays, observed.arrays),
        ):
            only_first = tuple(name for name in first if name not in second)
            only_second = tuple(name for name in second if name not in first)
            is_growing = what == "samples" and len(only_first) < len(first)
            if (only_first or only_second) and not is_growing:
                raise self._mismatch(what, only_first, only_second)
            if what == "samples":
                self.samples = tuple(name for name in first if name in second)
                lacking = {"reference": only_first, "observed": only_second}
                self.unpaired = {role: names for role, names in lacking.items() if names}
        for name, array in reference.arrays.items():
            other = observed.arrays[name]
            if array.ndim != other.ndim:
                msg = (
                    f"output '{name}' of capture '{self.path}' has shape {array.shape[1:]} in the "
                    f"reference and {other.shape[1:]} in the observed; record both from "
                    "conversions of one network"
                )
                raise InputError(msg)

    def _mismatch(self, what: str, first: Sequence[str], second: Sequence[str]) -> InputError:
        return InputError(
            f"the roles of capture '{self.path}' do not match: only the reference has "
            f"{what} {listing(first)}, only the observed {listing(second)}; "
            f"record both from the same data and {what} of the same names (convcal capture … "
            "--append adds what is missing)"
        )


def open_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a capture and check that its roles, if there are two, can be paired.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    Capture

    Raises
    ------
    InputError
        If this is no capture, one of a newer version or of Zarr format 2, if it is damaged, or
        if names of samples, names of outputs or shapes differ between the roles.
    """
    folder = Path(path)
    roles = {role: found for role in ROLES if (found := open_role(folder, role)) is not None}
    if not roles:
        raise InputError(f"capture '{folder}' holds neither of {listing(ROLES)}; record it again")
    return Capture(folder, roles)


def open_role(folder: Path, role: str) -> Role | None:
    """Open one role of a capture, whatever the other one is like.

    Returns
    -------
    Role or None
        None if the capture does not hold it.

    Raises
    ------
    InputError
        If this is no capture, or the role is damaged.
    """
    root = open_root(folder)
    with readable(folder, f"role '{role}'"):
        if role not in root:
            return None
        return Role(root[role], folder=folder / role, where=f"{role} of capture '{folder}'")


def open_root(folder: Path) -> Any:
    """Open a capture as a Zarr group, whatever its roles are like.

    Raises
    ------
    InputError
        If this is no capture, or one of a newer version.
    """
    document = folder / "zarr.json"
    if folder.is_file():
        raise InputError(
            f"'{folder}' is a file, and a capture is a folder; convcal capture --import makes one "
            "of outputs in .npz files"
        )
    if not folder.is_dir():
        raise InputError(f"there is no capture at '{folder}'; convcal capture writes one")
    if not document.is_file():
        is_old = (folder / ".zgroup").exists() or (folder / ".zarray").exists()
        found = "Zarr format 2, which is not read" if is_old else "no zarr.json"
        raise InputError(f"'{folder}' is no capture: it has {found}; convcal capture writes one")
    import zarr

    with readable(folder, "its description"):
        check_plain(folder, what=f"capture '{folder}'")
        _check_text(document)
        # Absolute: Zarr 3.1 strips the folder's path from keys wherever it occurs in them, and
        # the keys of chunks contain "c/".
        root = zarr.open_group(folder.absolute(), mode="r", zarr_format=3, use_consolidated=False)
        mark = root.attrs.get("convcal")
    if not isinstance(mark, dict) or mark.get("format") != FORMAT:
        raise InputError(f"'{folder}' is a Zarr group, but no capture of convcal's")
    version = mark.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        msg = (
            f"capture '{folder}' is of version {version}; this convcal reads {VERSION}, so "
            "update convcal"
        )
        raise InputError(msg)
    return root


def _check_text(document: Path) -> None:
    """Raise ValueError unless a file is a JSON object; Zarr's own failures differ by version."""
    if not isinstance(json.loads(document.read_text("utf-8")), dict):
        raise ValueError(f"{document.name} holds no JSON object")  # noqa: TRY004  (not an argument)


@contextlib.contextmanager
def readable(folder: Path, what: str) -> Iterator[None]:
    """Turn whatever Zarr raises on damaged or foreign content into one message."""
    try:
        yield
    except ConvcalError:
        raise
    # Damaged metadata surface as KeyError, TypeError, RuntimeError (zstd) and more.
    except Exception as error:
        msg = (
            f"cannot read {what} of capture '{folder}': {type(error).__name__}: {error}; "
            "copy or record it again"
        )
        raise InputError(msg) from error
