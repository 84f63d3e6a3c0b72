# SPDX-License-Identifier: BSD-3-Clause
"""Tell whether a capture is still what was recorded, down to the byte."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convcal.data.captures import Capture, open_root, readable
from convcal.data.roles import MEMBERS, Role, content_digest, role_members, sealed
from convcal.errors import InputError
from convcal.words import ROLES

__all__ = ["Damage", "Verification", "verify_capture"]


@dataclass(frozen=True)
class Damage:
    """Something in a capture that is not what was recorded.

    Parameters
    ----------
    reason : str
        What is wrong with it.
    role : str
        Where; empty if it concerns both roles.
    sample, output, tensor : str
        Which values; empty if it concerns more than one sample or array.
    """

    reason: str
    role: str = ""
    sample: str = ""
    output: str = ""
    tensor: str = ""


@dataclass(frozen=True)
class Verification:
    """The answer of `verify_capture`; true where nothing is damaged.

    Parameters
    ----------
    path : pathlib.Path
        The capture.
    samples : dict of str to tuple of str
        By role, the samples that it names.
    n_chunks : int
        How many chunks were looked at: one per sample, output and tensor.
    damage : tuple of Damage
        What is not as it was recorded.
    remarks : tuple of str
        What is no damage, but worth knowing: samples that one role lacks, what no checksum covers.
    """

    path: Path
    samples: dict[str, tuple[str, ...]]
    n_chunks: int
    damage: tuple[Damage, ...]
    remarks: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.damage

    def to_dict(self) -> dict[str, Any]:
        """Give the answer JSON-ready."""
        return {**asdict(self), "path": str(self.path), "is_sound": bool(self)}


def verify_capture(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Check every chunk of a capture, what its roles say of themselves, and that they fit.

    Parameters
    ----------
    path : path
        The capture.
    progress : callable, optional
        Told how many samples are done, and of how many. One sample at a time is in memory.

    Returns
    -------
    Verification

    Raises
    ------
    InputError
        If this is no capture, or one of a newer version.

    Notes
    -----
    A chunk carries a CRC-32C, which finds every change of up to 32 bits in a row; a role has a
    SHA-256 of each sample's values, which finds chunks that were mixed up, and the seal, a SHA-256
    of its description. Changed spaces between the words of a JSON document are no damage. Captures
    of a convcal before these hashes are checked without them.
    """
    folder = Path(path)
    root = open_root(folder)
    damage: list[Damage] = []
    remarks: list[str] = []
    roles: dict[str, Role] = {}
    for name in ROLES:
        if not (folder / name).is_dir():
            continue
        try:
            roles[name] = _open(root, folder, name)
            remarks += _check_seal(folder, name, roles[name])
        except InputError as error:
            damage.append(Damage(str(error), role=name))
    if not roles and not damage:
        raise InputError(f"capture '{folder}' holds neither of its roles; record it again")
    n_chunks = done = 0
    total = sum(len(role.samples) for role in roles.values())
    for name, role in roles.items():
        for sample in role.samples:
            damage += _check_sample(folder, name, role, sample)
            n_chunks += len(role.arrays) + len(role.tensors)
            done += 1
            if progress:
                progress(done, total)
    if roles:
        try:
            remarks += _check_pairing(Capture(folder, roles))
        except InputError as error:
            damage.append(Damage(str(error)))
    samples = {name: role.samples for name, role in roles.items()}
    return Verification(folder, samples, n_chunks, tuple(damage), tuple(remarks))


def _open(root: Any, folder: Path, name: str) -> Role:
    """Open a role, naming the description that cannot be read."""
    for member in (folder / name, *role_members(folder / name)):
        document = member / "zarr.json"
        with readable(folder, f"'{document.relative_to(folder)}'"):
            if not isinstance(json.loads(document.read_text("utf-8")), dict):
                raise ValueError("it holds no JSON object")  # noqa: TRY004  (not an argument)
    where = f"{name} of capture '{folder}'"
    with readable(folder, f"role '{name}'"):
        return Role(root[name], folder=folder / name, where=where, is_complete=False)


def _check_seal(folder: Path, name: str, role: Role) -> Iterator[str]:
    """Compare a role's description with its seal; say what no checksum covers."""
    attributes = json.loads((folder / name / "zarr.json").read_text("utf-8"))["attributes"]
    seal = attributes.get("seal")
    if seal is None:
        yield f"the description of {name} has no seal; a convcal before seals recorded it"
    elif seal != sealed(folder / name, attributes)["seal"]:
        raise InputError(
            f"what {name} says of its samples, arrays or provenance is not what was recorded"
        )
    arrays = {**role.arrays, **role.tensors}
    without = [key for key, array in arrays.items() if not _has_checksum(array)]
    if without:
        yield f"the chunks of {', '.join(without)} of {name} carry no checksum"


def _has_checksum(array: Any) -> bool:
    return any(codec["name"] == "crc32c" for codec in array.metadata.to_dict()["codecs"])


def _check_sample(folder: Path, name: str, role: Role, sample: str) -> Iterator[Damage]:
    """Read every array of one sample."""
    index = role.index[sample]
    found: dict[str, dict[str, Any]] = {member: {} for member in MEMBERS}
    is_whole = True
    for member, arrays in zip(MEMBERS, (role.arrays, role.tensors), strict=True):
        for number, (key, array) in enumerate(arrays.items()):
            try:
                found[member][key] = _read(array, index, folder / name / f"{member}-{number}")
            except InputError as error:
                is_whole = False
                yield Damage(str(error), role=name, sample=sample, **{member: key})
    content = role.contents[index]
    if is_whole and content and content != content_digest(found["output"], found["tensor"]):
        reason = "its values are whole, but those of another sample or recording"
        yield Damage(reason, role=name, sample=sample)


def _read(array: Any, index: int, folder: Path) -> Any:
    chunk = array.metadata.encode_chunk_key((index, *(0,) * (array.ndim - 1)))
    if not (folder / chunk).is_file():  # Zarr would give its fill value
        raise InputError("its values are missing")
    try:
        return np.asarray(array[index])
    # zstd, crc32c and the rest raise what they like.
    except Exception as error:
        if "checksum" in str(error):  # with the sums as bytes, which nobody can read
            raise InputError("its values do not match their checksum") from error
        message = f"its values cannot be read ({type(error).__name__}: {error})"
        raise InputError(message) from error


def _check_pairing(capture: Capture) -> Iterator[str]:
    for role, names in capture.unpaired.items():
        lacking = ROLES[1 - ROLES.index(role)]
        yield f"{lacking} lacks {len(names)} samples of {role}"
    digests = {
        str(data.get("sha256"))
        for role in capture.roles
        if isinstance(data := capture.provenance[role].get("data"), dict)
    }
    if len(digests) > 1:
        yield "the roles were recorded from different data"
