# SPDX-License-Identifier: BSD-3-Clause
"""What a diagnosis has measured so far, on disk, so that it can go on after an interruption."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convcal.diagnosis.judging import Levels
from convcal.errors import InputError
from convcal.files import staged
from convcal.records import Record

__all__ = ["Journal"]

FORMAT = "convcal.diagnosis-journal"
VERSION = 1
_SECONDS_BETWEEN = 2.0


class Journal:
    """Levels by run, sample and step.

    Parameters
    ----------
    path : Path, optional
        Where to keep them; by default nowhere.
    identity : mapping of str to str
        What the diagnosis is of; a journal of another one is refused.

    Raises
    ------
    InputError
        If the file is no journal, or of another diagnosis.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        self._runs: dict[str, dict[str, dict[str, list[float]]]] = {}
        self._written = time.monotonic()
        if path is not None and path.exists():
            self._runs = self._read(path)

    def known(self, run: str, sample: str) -> dict[str, Levels] | None:
        """Give the levels of a sample in a run, if they are there."""
        found = self._runs.get(run, {}).get(sample)
        if found is None:
            return None
        return {step: Levels(*levels) for step, levels in found.items()}

    def add(self, run: str, sample: str, levels: Mapping[str, Levels]) -> None:
        """Keep the levels of a sample in a run; they are on disk some seconds later."""
        self._runs.setdefault(run, {})[sample] = {
            step: [each.rms, each.worst, each.relative] for step, each in levels.items()
        }
        if time.monotonic() - self._written > _SECONDS_BETWEEN:
            self.write()

    def write(self) -> None:
        """Put everything on disk."""
        if self._path is None or not self._runs:
            return
        content = {
            "format": FORMAT,
            "version": VERSION,
            "diagnosis": self._identity,
            "runs": _texts(self._runs),
        }
        with staged(self._path, force=True) as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the diagnosis is done."""
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _read(self, path: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
        try:
            record = Record(json.loads(path.read_text(encoding="utf-8")))
            if (record.value("format"), record.whole("version")) != (FORMAT, VERSION):
                raise InputError("it has another format")
            if record.value("diagnosis") != self._identity:
                raise InputError("it is of other packages, data or options, or of another convcal")
            return _numbers(record.value("runs"))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"cannot go on from '{path}': {error}; remove it (--force does) to start anew"
            ) from error


def _texts(runs: Any) -> Any:
    """Give infinities and NaN as text, which JSON does not have."""
    if isinstance(runs, dict):
        return {key: _texts(value) for key, value in runs.items()}
    return [value if math.isfinite(value) else str(value) for value in runs]


def _numbers(runs: Any) -> dict[str, dict[str, dict[str, list[float]]]]:
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run, samples in runs.items():
        for sample, steps in samples.items():
            for step, levels in steps.items():
                rms, worst, relative = (float(value) for value in levels)
                numbers = [rms, worst, relative]
                found.setdefault(run, {}).setdefault(sample, {})[step] = numbers
    return found
