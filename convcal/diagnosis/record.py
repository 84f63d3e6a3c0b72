# SPDX-License-Identifier: BSD-3-Clause
"""What a diagnosis found: frozen, JSON-ready, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convcal.files import staged

__all__ = ["FORMAT", "VERSION", "Culprit", "Diagnosis", "Drift", "OutputState", "Pairing", "Step"]

FORMAT = "convcal.diagnosis"
VERSION = 1


@dataclass(frozen=True)
class Step:
    """An operation, by type and name."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type} '{self.name}'"


@dataclass(frozen=True)
class Culprit:
    """An operation whose output is wrong though its inputs are right.

    Attributes
    ----------
    tensor : str
        The observed tensor that is wrong.
    operations : tuple of Step
        What computes it in the observed program: one operation, or all between tensors that
        have partners.
    reference_operations : tuple of Step
        What computes its partner.
    family : str
        How it is wrong, see `convcal.diagnosis.judging.Judgement`.
    cause : {"device", "program", "unknown"}
        Whether the observed program, run faithfully, gives the right values (then it is the
        device's fault, or an emulated one), or the same wrong ones (then it is the converter's,
        or what fp16 cannot hold). Unknown where the reference runtime cannot run it.
    reason : str
        How it was told, with numbers.
    advice : tuple of str
        What to do.
    level : float
        How many times what fp16 rounds off the worst channel is off.
    relative_error : float
        The rms error over the rms of what it should hold.
    evidence : dict
        Shift, gain and so on, where there are any.
    """

    tensor: str
    operations: tuple[Step, ...]
    reference_operations: tuple[Step, ...]
    family: str
    cause: str
    reason: str
    advice: tuple[str, ...]
    level: float
    relative_error: float
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputState:
    """How far an output of the model is off.

    Attributes
    ----------
    state : {"identical", "precision-noise", "wrong"}
        By what fp16 makes of the whole network.
    level : float
        How many times that the worst channel is off.
    relative_error : float
        The rms error over the rms of the reference.
    """

    state: str
    level: float
    relative_error: float


@dataclass(frozen=True)
class Pairing:
    """How much of the observed program has a partner in the reference.

    Attributes
    ----------
    n_operations, n_matched : int
        Of the observed program, without casts, identities, constants and dead code.
    unmatched : tuple of Step
        Observed operations without a partner of their own; they are judged together with those
        around them.
    differing : tuple of str
        Tensors whose partners are theirs by structure, with other values in a clean run.
    """

    n_operations: int
    n_matched: int
    unmatched: tuple[Step, ...]
    differing: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the operations that are matched."""
        return self.n_matched / self.n_operations if self.n_operations else 1.0


@dataclass(frozen=True)
class Drift:
    """Where an error that no operation makes alone grows most.

    Attributes
    ----------
    tensor : str
    operation : Step
    before, after : float
        Relative error of its worst input and of itself.
    """

    tensor: str
    operation: Step
    before: float
    after: float


@dataclass(frozen=True)
class Diagnosis:
    """Which operations of an observed model are wrong, and how.

    Attributes
    ----------
    verdict : {"identical", "precision-noise", "accumulated", "culprit-found"}
        The third: outputs are wrong, and every operation alone is right.
    culprits : tuple of Culprit
        In the program's order; the first alone unless all were asked for.
    outputs : dict of str to OutputState
        The model's outputs.
    pairing : Pairing
    passed_over : tuple of Step
        Reference operations that the reference runtime cannot run.
    drift : Drift or None
        Where an accumulated error grows most.
    source : dict or None
        What outputs of the original framework tell, by output: ``conclusion`` and numbers.
    n_runs : int
        How often the observed model was run over the samples.
    n_samples : int
        How many samples were used.
    is_complete : bool
        Whether all culprits were asked for.
    provenance : dict
        Packages, runtimes, emulated faults, data.
    """

    verdict: str
    culprits: tuple[Culprit, ...]
    outputs: dict[str, OutputState]
    pairing: Pairing
    passed_over: tuple[Step, ...]
    drift: Drift | None
    source: dict[str, dict[str, Any]] | None
    n_runs: int
    n_samples: int
    is_complete: bool
    provenance: dict[str, Any]

    @property
    def is_emulated(self) -> bool:
        """Whether a fault was emulated."""
        return bool(self.provenance.get("emulated"))

    def to_dict(self) -> dict[str, Any]:
        """Give the diagnosis JSON-ready; infinities are the string ``"inf"``."""
        found = _plain(dataclasses.asdict(self))
        found["pairing"]["share"] = self.pairing.share
        return {"format": FORMAT, "version": VERSION, **found}

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the diagnosis as JSON.

        Raises
        ------
        OutputExistsError
            If the target exists and `force` is false.
        WriteError
            If the operating system refuses.
        """
        target = Path(path)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        with staged(target, force=force) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return target


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
