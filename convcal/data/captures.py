# SPDX-License-Identifier: BSD-3-Clause
"""Captures: the outputs of the reference and the observed model, paired by sample, on disk.

A capture is a folder in Zarr format 3 (any Zarr library reads it)::

    NAME/                         group {"convcal": {"format": "convcal.capture", "version": 1}}
    NAME/reference/               group {"samples": [...], "provenance": {...}}
    NAME/reference/output-0/      array (n_samples, *shape), attributes {"name": "upsampled",
                                  "kind": "tensor"}
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
- One chunk holds one sample. Codecs: ``bytes`` (little endian), ``zstd``, ``crc32c``: a damaged
  chunk is noticed when it is read. Readers accept the other lossless codecs of the Zarr
  specification too. A chunk that is missing is damage, not a fill value.
- ``inputs``, beside ``samples``, are hashes of what the model was given, empty where that is not
  known: the same sample need not be run again when a recording goes on.
- A sample is there when ``samples`` names it. Samples are added in this order: their chunks, at
  indices from ``len(samples)`` on; then the shapes of the arrays; then ``samples``, with
  ``inputs`` and ``provenance``, by one rename. Whatever ends the writer, the capture opens with
  the samples that are named. Rows after the last of them are of a writer that was killed, and the
  next one removes them. Who adds samples to a role holds a lock of the system's on a hidden file
  beside the capture, ``.NAME.ROLE.lock``, which the system frees when the process ends; a second
  one is refused meanwhile, where the system has such locks.
- While a role grows, it may have samples that the other one lacks (yet).
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
from convcal.data.npy import is_plain
from convcal.errors import ConvcalError, InputError
from convcal.files import check_plain
from convcal.words import ROLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMAT", "VERSION", "Capture", "open_capture", "open_role"]

FORMAT = "convcal.capture"
VERSION = 1
_CODECS = {"bytes", "transpose", "gzip", "zstd", "blosc", "crc32c"}


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

    def _row(self, role: str, output: str, sample: str) -> NDArray[np.generic]:
        array = self._array(role, output)
        index = self._roles[role].index.get(sample)
        if index is None:
            raise InputError(f"the {role} outputs of capture '{self.path}' lack sample '{sample}'")
        with _readable(self.path, f"sample '{sample}' of output '{output}' ({role})"):
            return np.asarray(array[index])

    def _array(self, role: str, output: str) -> Any:
        self._check_role(role)
        arrays = self._roles[role].arrays
        if output not in arrays:
            msg = f"capture '{self.path}' has no output '{output}'; it has {listing(arrays)}"
            raise InputError(msg)
        return arrays[output]

    def fingerprint(self) -> str:
        """Hash what changes when a role is replaced or grows, without reading its values."""
        digest = hashlib.sha256()
        for role in self.roles:
            folder = self.path / role
            for document in (folder / "zarr.json", *sorted(folder.glob("output-*/zarr.json"))):
                status = document.stat()
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


class Role:
    """The checked content of one role: its samples, its provenance and its arrays by output."""

    def __init__(self, group: Any, *, folder: Path, where: str) -> None:
        samples = group.attrs.get("samples")
        if not _is_names(samples) or not samples:
            raise InputError(f"{where} does not name its samples; record it again")
        self.samples: tuple[str, ...] = tuple(samples)
        self.index = {name: index for index, name in enumerate(self.samples)}
        inputs = group.attrs.get("inputs")
        is_known = isinstance(inputs, list) and len(inputs) == len(samples)
        self.inputs = tuple(map(str, inputs)) if is_known else ("",) * len(samples)
        provenance = group.attrs.get("provenance", {})
        if not isinstance(provenance, dict):
            raise InputError(f"{where} has provenance {provenance!r}, which is no JSON object")
        json.dumps(provenance, allow_nan=False)  # goes into calibrations
        if not isinstance(faults := provenance.get("faults", ""), str):
            raise InputError(f"{where} has the faults {faults!r}, which are no text")
        self.provenance: dict[str, Any] = provenance
        self.arrays: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}
        index = 0
        while (key := f"output-{index}") in group:
            array = group[key]
            name = array.attrs.get("name")
            if not isinstance(name, str) or name in self.arrays:
                raise InputError(f"array '{key}' of {where} has the unusable name {name!r}")
            _check_array(
                array,
                n_samples=len(samples),
                chunks=folder / key / "c",
                where=f"output '{name}' of {where}",
            )
            self.arrays[name] = array
            if (kind := array.attrs.get("kind")) in ("tensor", "image"):
                self.kinds[name] = kind
            index += 1
        if not self.arrays:
            raise InputError(f"{where} holds no outputs; record it again")


def _is_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )


def _check_array(array: Any, *, n_samples: int, chunks: Path, where: str) -> None:
    """Refuse what version 1 does not have, and chunks that are missing, before values are read."""
    metadata = array.metadata.to_dict()
    codecs = {codec["name"] for codec in metadata["codecs"]}
    if not codecs <= _CODECS:
        msg = f"{where} is coded with {listing(sorted(codecs - _CODECS))}; accepted are "
        raise InputError(msg + listing(sorted(_CODECS)))
    if not is_plain(array.dtype):
        raise InputError(f"{where} has dtype {array.dtype}; accepted are numbers and booleans")
    n_rows = array.shape[0] if array.ndim else -1
    if n_rows != n_samples and not n_samples < n_rows <= _n_entries(chunks):
        msg = f"{where} has shape {array.shape}, but {n_samples} samples are named"
        raise InputError(msg)
    if array.chunks != (1, *array.shape[1:]):
        msg = f"{where} has chunks {array.chunks}; a chunk holds one sample"
        raise InputError(msg)
    n_missing = n_rows - array.nchunks_initialized
    if n_missing:
        msg = f"{where} lacks the values of {n_missing} of its {n_samples} samples; copy it again"
        raise InputError(msg)


def _n_entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


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
    root = _open_root(folder)
    with _readable(folder, f"role '{role}'"):
        if role not in root:
            return None
        return Role(root[role], folder=folder / role, where=f"{role} of capture '{folder}'")


def _open_root(folder: Path) -> Any:
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

    with _readable(folder, "its description"):
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
def _readable(folder: Path, what: str) -> Iterator[None]:
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
