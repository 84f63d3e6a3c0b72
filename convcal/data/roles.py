# SPDX-License-Identifier: BSD-3-Clause
"""One role of a capture, as it lies on disk; `convcal.data.captures` says how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.data.arrays import listing
from convcal.data.npy import is_plain
from convcal.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MEMBERS", "Role", "content_digest", "role_members", "sealed"]

MEMBERS = ("output", "tensor")
"""What the arrays of a role are called, before their number."""
_CODECS = {"bytes", "transpose", "gzip", "zstd", "blosc", "crc32c"}


class Role:
    """The checked content of one role: its samples, its provenance and its arrays by name.

    Parameters
    ----------
    group : zarr.Group
        The role.
    folder : pathlib.Path
        Where it is.
    where : str
        What to call it in messages.
    is_complete : bool
        Refuse an array that lacks values. Zarr would give its fill value for them.

    Attributes
    ----------
    samples : tuple of str
        The names of the samples.
    index : dict of str to int
        By sample its row.
    inputs : tuple of str
        By sample a hash of what the model was given, empty where it is not known.
    contents : tuple of str
        By sample a hash of what it gave, as `content_digest` makes it, likewise.
    provenance : dict
        What ran where.
    arrays, tensors : dict of str to zarr.Array
        The outputs and the intermediate tensors, samples along the first axis.
    kinds : dict of str to str
        Of outputs, where a model said it.

    Raises
    ------
    InputError
        If it is damaged, or of another version.
    """

    def __init__(self, group: Any, *, folder: Path, where: str, is_complete: bool = True) -> None:
        samples = group.attrs.get("samples")
        if not _is_names(samples) or not samples:
            raise InputError(f"{where} does not name its samples; record it again")
        self.samples: tuple[str, ...] = tuple(samples)
        self.index = {name: index for index, name in enumerate(self.samples)}
        self.inputs, self.contents = (
            _hashes(group.attrs.get(key), len(samples)) for key in ("inputs", "contents")
        )
        provenance = group.attrs.get("provenance", {})
        if not isinstance(provenance, dict):
            raise InputError(f"{where} has provenance {provenance!r}, which is no JSON object")
        json.dumps(provenance, allow_nan=False)  # goes into calibrations
        if not isinstance(faults := provenance.get("faults", ""), str):
            raise InputError(f"{where} has the faults {faults!r}, which are no text")
        self.provenance: dict[str, Any] = provenance
        self.kinds: dict[str, str] = {}
        self._is_complete = is_complete
        self.arrays = self._open_arrays(group, "output", folder=folder, where=where)
        self.tensors = self._open_arrays(group, "tensor", folder=folder, where=where)
        if not self.arrays:
            raise InputError(f"{where} holds no outputs; record it again")
        if both := [name for name in self.tensors if name in self.arrays]:
            raise InputError(f"{where} has {listing(both)} as output and as tensor; copy it again")

    def _open_arrays(self, group: Any, member: str, *, folder: Path, where: str) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        while (key := f"{member}-{len(arrays)}") in group:
            array = group[key]
            name = array.attrs.get("name")
            if not isinstance(name, str) or name in arrays:
                raise InputError(f"array '{key}' of {where} has the unusable name {name!r}")
            _check_array(
                array,
                n_samples=len(self.samples),
                chunks=folder / key / "c",
                where=f"{member} '{name}' of {where}",
                is_complete=self._is_complete,
            )
            arrays[name] = array
            if member == "output" and (kind := array.attrs.get("kind")) in ("tensor", "image"):
                self.kinds[name] = kind
        return arrays


def role_members(folder: Path) -> list[Path]:
    """Give the folders of a role's arrays: its outputs, then its intermediate tensors."""
    return [path for member in MEMBERS for path in sorted(folder.glob(f"{member}-*"))]


def sealed(folder: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give a role's attributes with the hash of them and of what its arrays say of themselves.

    The number of rows is left out: while a writer is at work there are more rows than samples.

    Parameters
    ----------
    folder : pathlib.Path
        The role's, with its arrays.
    attributes : mapping
        Those of the role; a ``seal`` among them is replaced.
    """
    content: list[Any] = [{key: attributes[key] for key in attributes if key != "seal"}]
    for array in role_members(folder):
        document = json.loads((array / "zarr.json").read_text("utf-8"))
        shape = document.get("shape")
        lengths = shape[1:] if isinstance(shape, list) else shape
        content.append({**document, "shape": lengths, "key": array.name})
    text = json.dumps(content, sort_keys=True)
    return {**content[0], "seal": hashlib.sha256(text.encode()).hexdigest()}


def content_digest(
    outputs: Mapping[str, NDArray[np.generic]], tensors: Mapping[str, NDArray[np.generic]]
) -> str:
    """Hash the outputs and tensors of one sample: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for member, arrays in zip(MEMBERS, (outputs, tensors), strict=True):
        for name, values in sorted(arrays.items()):
            stored = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            digest.update(f"{member} {name!r} {stored.dtype.str} {values.shape}\n".encode())
            digest.update(stored.data)
    return digest.hexdigest()


def _hashes(given: object, n_samples: int) -> tuple[str, ...]:
    if isinstance(given, list) and len(given) == n_samples:
        return tuple(map(str, given))
    return ("",) * n_samples


def _is_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )


def _check_array(
    array: Any, *, n_samples: int, chunks: Path, where: str, is_complete: bool
) -> None:
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
    n_missing = n_rows - array.nchunks_initialized if is_complete else 0
    if n_missing:
        msg = f"{where} lacks the values of {n_missing} of its {n_samples} samples; copy it again"
        raise InputError(msg)


def _n_entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
