# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints: how far a fit is, on disk, so that it can go on after an interruption."""

from __future__ import annotations

import json
import lzma
import struct
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convcal.assessment import FitOptions
from convcal.errors import InputError
from convcal.files import staged
from convcal.fitting.state import FitState, as_text, from_text

__all__ = ["SECONDS_BETWEEN_CHECKPOINTS", "Checkpoint"]

FORMAT = "convcal.checkpoint"
VERSION = 1
SECONDS_BETWEEN_CHECKPOINTS = 5.0
"""A checkpoint is not written more often, nor for more than a tenth of the time. It may be large:
it holds the samples that the statistics keep."""
_KEY = "checkpoint"


class Checkpoint:
    """The state of a fit after its first samples, in one file.

    A ``.npz`` file: the arrays of `FitState.to_arrays`, and under ``checkpoint`` a JSON text with
    ``format``, ``version`` and ``fit``, what the fit is of. It is written beside its place and
    renamed, so that it is there whole at any moment.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    fit : mapping
        Models, data and options, JSON-ready; another fit than this does not go on from it.
    options : FitOptions
        How the fit is done.
    """

    def __init__(self, path: Path, fit: Mapping[str, Any], options: FitOptions) -> None:
        self.path = path.absolute()
        self._fit = json.loads(json.dumps(fit))
        self._options = options
        self._due = time.monotonic() + SECONDS_BETWEEN_CHECKPOINTS
        self._n_saved = 0

    def load(self) -> FitState | None:
        """Read the state, None where there is no file.

        Raises
        ------
        InputError
            If the file is no checkpoint, is damaged, or belongs to another fit; the message says
            what differs.
        """
        if not self.path.exists():
            return None
        advice = "remove it, or start anew with --force and without --resume"
        foreign = f"'{self.path}' is no checkpoint of convcal's, or damaged; {advice}"
        try:
            if not zipfile.is_zipfile(self.path):
                raise InputError(foreign)
            # NumPy leaves a file open that it opened itself and could not read.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if _KEY not in arrays:
                    raise InputError(foreign)
                header = from_text(arrays[_KEY])
                self._check(header, advice)
                state = FitState.from_arrays(arrays, self._options)
        except InputError:
            raise
        except (
            OSError,
            ValueError,
            EOFError,
            MemoryError,  # an array that says it is larger than anything
            RuntimeError,  # a compression or encryption that zipfile does not know, nested JSON
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            struct.error,
        ) as error:
            raise InputError(
                f"the checkpoint '{self.path}' cannot be read: {error}; {advice}"
            ) from error
        self._n_saved = state.n_samples
        return state

    def _check(self, header: Mapping[str, Any], advice: str) -> None:
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise InputError(
                f"'{self.path}' is no checkpoint of version {VERSION}, which this convcal reads; "
                f"{advice}"
            )
        found, wanted = _flat(header.get("fit")), _flat(self._fit)
        differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if differing:
            key = differing[0]
            raise InputError(
                f"the checkpoint '{self.path}' belongs to another fit: {key} is "
                f"{found.get(key)!r} there and {wanted.get(key)!r} here; {advice}"
            )

    def offer(self, state: FitState) -> None:
        """Write the state if the last time was long ago."""
        if time.monotonic() >= self._due:
            self.save(state)

    def save(self, state: FitState) -> None:
        """Write the state, unless the file holds it already.

        Raises
        ------
        WriteError
            If the operating system refuses a write.
        """
        if state.n_samples == self._n_saved:
            return
        start = time.monotonic()
        header = {"format": FORMAT, "version": VERSION, "fit": self._fit}
        with staged(self.path, force=True) as temporary, temporary.open("wb") as stream:
            arrays = {_KEY: as_text(header), **state.to_arrays()}
            np.savez(stream, allow_pickle=False, **arrays)
        self._n_saved = state.n_samples
        now = time.monotonic()
        self._due = now + SECONDS_BETWEEN_CHECKPOINTS * max(1.0, 2 * (now - start))

    def remove(self) -> None:
        """Remove the file: the fit is done."""
        self.path.unlink(missing_ok=True)


def _flat(record: object, prefix: str = "") -> dict[str, Any]:
    """Give the values of nested objects by their path, as ``observed.sha256``."""
    if not isinstance(record, Mapping):
        return {prefix or "it": record}
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
