# SPDX-License-Identifier: BSD-3-Clause
"""What two recordings of one role say together of what ran, and on which data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from convcal.errors import InputError

__all__ = ["joined_provenance"]


def joined_provenance(
    old: Mapping[str, Any], new: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    """Give the provenance of a role that two recordings make; the same whichever came first.

    Raises
    ------
    InputError
        If what ran, or where, was not the same.
    """
    for key in {**old, **new}:
        if key not in ("data", "source") and old.get(key) != new.get(key):
            before, now = (repr(side[key]) if key in side else "none" for side in (old, new))
            raise InputError(
                f"{where} was recorded with {key} {before}, not {now}; samples "
                "of another model, device or version do not belong to it: choose another path, or "
                "record the role again with --force"
            )
    joined = dict(old)
    if sources := {name for side in (old, new) for name in _parts_of_source(side)}:
        joined["source"] = "; ".join(sorted(sources))
    if isinstance(old.get("data"), dict) and isinstance(new.get("data"), dict):
        joined["data"] = _joined_data(old["data"], new["data"])
    else:
        joined.pop("data", None)  # of some samples it is not known
    return joined


def _parts_of_source(provenance: Mapping[str, Any]) -> list[str]:
    source = provenance.get("source")
    return source.split("; ") if isinstance(source, str) else []


def _joined_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Give what two sets of data are together."""
    parts: dict[str, Mapping[str, Any]] = {}
    for part in (*_parts_of_data(old), *_parts_of_data(new)):
        parts.setdefault(str(part.get("sha256")), part)
    if len(parts) == 1:
        return dict(old)
    digests = sorted(parts)
    ordered = [parts[digest] for digest in digests]
    return {
        "source": "; ".join(str(part.get("source")) for part in ordered),
        "sha256": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        "n_files": sum(_count(part, "n_files") for part in ordered),
        "n_samples": sum(_count(part, "n_samples") for part in ordered),
        "parts": ordered,
    }


def _parts_of_data(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = data.get("parts")
    is_joined = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
    return parts if is_joined and parts else [data]


def _count(part: Mapping[str, Any], key: str) -> int:
    value = part.get(key)
    return value if isinstance(value, int) else 0
