# SPDX-License-Identifier: BSD-3-Clause
"""All corrections of one model, with verdicts, evidence, metrics and provenance."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from convcal.correction import Correction
from convcal.errors import ConvcalWarning, InputError
from convcal.files import staged

__all__ = ["Calibration", "OutputCalibration", "Verdict"]

Verdict = Literal[
    "identical", "correctable", "partly-correctable", "not-identifiable", "not-correctable"
]
"""From the best to the worst; a calibration has the worst of its outputs' verdicts."""

FORMAT = "convcal.calibration"
VERSION = 2
"""The newest; a file has the oldest that says all it says, see `Calibration.version`."""
MAX_BYTES = 64 * 2**20
"""A larger file is refused unread; a thousand channels take about 100 kB."""


@dataclass(frozen=True)
class OutputCalibration:
    """What was found about one output of a model.

    Parameters
    ----------
    verdict : Verdict
        What kind of answer it is.
    reason : str
        Why, in a sentence with numbers.
    family : str
        The kind of error: ``'shift'``, ``'affine'``, ``'scale'``, ``'noise'``, …
    correction : Correction
        The identity unless the verdict is ``'correctable'`` or ``'partly-correctable'``.
    evidence : dict
        What the verdict rests on, JSON-ready.
    metrics : dict
        ``'before'`` and ``'after'`` on held-out samples inside the margins, ``'before_full'`` and
        ``'after_full'`` over the whole output, ``'before_channels'`` and ``'after_channels'``
        inside the margins per channel; JSON-ready.
    """

    verdict: Verdict
    reason: str
    family: str
    correction: Correction
    evidence: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise InputError(
                f"the verdict is {self.verdict!r}; {', '.join(get_args(Verdict))} are accepted"
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the output as it stands in a calibration file."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "family": self.family,
            "correction": self.correction.to_dict(),
            "evidence": self.evidence,
            "metrics": self.metrics,
        }

    @classmethod
    def from_dict(cls, record: object) -> OutputCalibration:
        """Read an output from a calibration file, trusting nothing in it."""
        if not isinstance(record, Mapping):
            raise InputError(f"an object was expected, not {type(record).__name__}")
        kinds: dict[str, type] = {
            "verdict": str,
            "reason": str,
            "family": str,
            "correction": dict,
            "evidence": dict,
            "metrics": dict,
        }
        values = {key: _member(record, key, kind) for key, kind in kinds.items()}
        try:
            correction = Correction.from_dict(values["correction"])
        except InputError as error:
            raise InputError(f"its correction cannot be read: {error}") from None
        return cls(
            verdict=values["verdict"],
            reason=values["reason"],
            family=values["family"],
            correction=correction,
            evidence=values["evidence"],
            metrics=values["metrics"],
        )


@dataclass(frozen=True)
class Calibration:
    """The corrections of one model; what ``convcal fit`` writes.

    Parameters
    ----------
    outputs : dict of str to OutputCalibration
        By the name of the model's output.
    provenance : dict
        Where it comes from: ``'emulated'`` and ``'faults'``, and for ``'reference'``,
        ``'observed'`` and ``'data'`` hashes, versions, OS, chip and compute units. JSON-ready.
    """

    outputs: dict[str, OutputCalibration]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.outputs:
            raise InputError("a calibration needs at least one output")

    @property
    def verdict(self) -> Verdict:
        """The worst verdict among the outputs."""
        order = get_args(Verdict)
        worst = max(self.outputs.values(), key=lambda output: order.index(output.verdict))
        return worst.verdict

    @property
    def corrections(self) -> dict[str, Correction]:
        """The corrections alone, by the name of the output."""
        return {name: output.correction for name, output in self.outputs.items()}

    @property
    def is_identity(self) -> bool:
        """Whether applying it changes nothing."""
        return all(correction.is_identity for correction in self.corrections.values())

    @property
    def is_emulated(self) -> bool:
        """Whether the observed outputs came with an emulated fault, not from real hardware."""
        return bool(self.provenance.get("emulated", False))

    @property
    def version(self) -> int:
        """The version of its file: 2 where an output is cropped or has a row stride, else 1.

        A reader of version 1 would pass over these keys and apply half a correction.
        """
        corrections = self.corrections.values()
        needs_2 = any(item.has_crop or item.row_stride is not None for item in corrections)
        return 2 if needs_2 else 1

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that change when any correction does."""
        corrections = {name: correction.to_dict() for name, correction in self.corrections.items()}
        text = json.dumps(corrections, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Give the calibration as it stands in its file."""
        return {
            "format": FORMAT,
            "version": self.version,
            "verdict": self.verdict,
            "provenance": self.provenance,
            "outputs": {name: output.to_dict() for name, output in self.outputs.items()},
        }

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the calibration as JSON, whole or not at all.

        Parameters
        ----------
        path : path
            Where; by custom ``NAME.calibration.json``.
        force : bool
            Replace a file that exists.

        Returns
        -------
        pathlib.Path
            The file. Every number reads back bit for bit.

        Raises
        ------
        OutputExistsError
            If the file exists and `force` is false.
        WriteError
            If it cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        with staged(path, force=force) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a calibration file.

        Parameters
        ----------
        path : path
            What `save` wrote.

        Returns
        -------
        Calibration

        Raises
        ------
        InputError
            If the file is missing, truncated, no calibration, of a newer version, or contradicts
            itself. Nothing in the file is trusted or executed.

        Warns
        -----
        ConvcalWarning
            If it was fitted under an emulated fault.
        """
        file = Path(path)
        try:
            if file.stat().st_size > MAX_BYTES:
                raise InputError(f"'{file}' has over {MAX_BYTES} bytes, too large a calibration")
            record = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except OSError as error:
            raise InputError(
                f"cannot read the calibration '{file}': {error.strerror}; "
                "give a file that 'convcal fit' wrote"
            ) from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"'{file}' is not a calibration: it is not complete JSON ({error}); "
                "write it again with 'convcal fit'"
            ) from error
        try:
            calibration = cls.from_dict(record)
        except InputError as error:
            raise InputError(f"the calibration '{file}' cannot be used: {error}") from None
        if calibration.is_emulated:
            warnings.warn(
                f"'{file}' was fitted under an emulated fault "
                f"({', '.join(calibration.provenance.get('faults', []))}); "
                "it says nothing about real hardware",
                ConvcalWarning,
                stacklevel=2,
            )
        return calibration

    @classmethod
    def from_dict(cls, record: object) -> Calibration:
        """Read what `to_dict` gives, trusting nothing in it.

        Parameters
        ----------
        record : object
            The content of a calibration file.

        Returns
        -------
        Calibration

        Raises
        ------
        InputError
            Naming the output and the key that cannot be used.
        """
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            raise InputError(f'it has no "format": "{FORMAT}"; give a file of \'convcal fit\'')
        version = _member(record, "version", int)
        if version > VERSION:
            raise InputError(
                f"it has version {version} and this convcal reads up to {VERSION}; update convcal"
            )
        if version < 1:
            raise InputError(f"it has version {version}; 1 to {VERSION} are accepted")
        outputs = {}
        for name, output in _member(record, "outputs", dict).items():
            try:
                outputs[name] = OutputCalibration.from_dict(output)
            except InputError as error:
                raise InputError(f"output {name!r}: {error}") from None
        calibration = cls(outputs=outputs, provenance=_provenance(record))
        if version < calibration.version:
            raise InputError(
                f"it has version {version}, and 'crop' and 'row_stride' belong to version "
                f"{calibration.version}"
            )
        return calibration


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read where a calibration comes from; what is said of emulation must be readable."""
    provenance: dict[str, Any] = _member(record, "provenance", dict)
    if not isinstance(provenance.get("emulated", False), bool):
        raise InputError(f"'emulated' is {provenance['emulated']!r}; true or false is accepted")
    faults = provenance.get("faults", [])
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        raise InputError(f"'faults' is {faults!r}; a list of names is accepted")
    return provenance


def _member(record: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in record:
        raise InputError(f"'{key}' is missing")
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"'{key}' is of type {type(value).__name__}, not {kind.__name__}")
    return cast("Any", value)


def _refuse_constant(constant: str) -> float:
    raise InputError(f"it holds the number {constant}, which JSON does not have")
