# SPDX-License-Identifier: BSD-3-Clause
"""Ask a device what it does where public reports leave it open, and keep what it answered."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convcal.coreml.probes import PRECISIONS, save_operation
from convcal.errors import ConvcalWarning, RunnerError, UnavailableError
from convcal.files import staged
from convcal.pair_sources import Progress
from convcal.probes import PROBES, Probe
from convcal.runtime import open_runner, runtime_here
from convcal.runtime.machine import machine_provenance
from convcal.words import TIMEOUT

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FORMAT",
    "UNITS",
    "VERSION",
    "Answer",
    "ProbeReport",
    "built_probes",
    "check_machine",
    "probe_machine",
]

FORMAT = "convcal.probe"
VERSION = 1
UNITS = ("cpu-only", "cpu-and-gpu", "cpu-and-ne")
_OF_ONE_PACKAGE = ("package", "sha256", "precision", "compute_units")

Packages = Mapping[tuple[int, str], Path]
"""By the number of a probe and the precision."""


@dataclass(frozen=True)
class Answer:
    """What came of one probe, in one precision, on one kind of compute units.

    Parameters
    ----------
    probe : Probe
        What was asked.
    precision : {'float32', 'float16'}
        What the package computes in.
    compute_units : str
        What it may run on.
    output : numpy.ndarray or None
        What came out; None if it did not run.
    error : str
        Why it did not.
    """

    probe: Probe
    precision: str
    compute_units: str
    output: NDArray[Any] | None
    error: str = ""

    @property
    def fits(self) -> tuple[str, ...]:
        """The hypotheses that it fits."""
        return () if self.output is None else self.probe.fits(self.output)

    def to_dict(self) -> dict[str, Any]:
        """Give the answer JSON-ready."""
        output = self.output
        return {
            "question": self.probe.question,
            "source": self.probe.source,
            "setting": self.probe.setting,
            "precision": self.precision,
            "compute_units": self.compute_units,
            "fits": list(self.fits) or ["none"],
            "measured": {} if output is None else self.probe.measured(output),
            "shape": None if output is None else list(output.shape),
            "values": None if output is None else _numbers(self.probe.values(output)),
            "error": self.error or None,
        }


@dataclass(frozen=True)
class ProbeReport:
    """What a machine answered, to be shared.

    Parameters
    ----------
    provenance : dict of str to str
        What ran where: runtime, versions, os, chip; ``faults`` if any were emulated.
    answers : tuple of Answer
        To each probe, in each precision, on each kind of compute units.
    """

    provenance: dict[str, str]
    answers: tuple[Answer, ...]

    def summary(self) -> list[dict[str, Any]]:
        """Say by question, precision and compute units which hypotheses fit every setting."""
        groups: dict[tuple[str, str, str], list[Answer]] = {}
        for answer in self.answers:
            key = (answer.probe.question, answer.precision, answer.compute_units)
            groups.setdefault(key, []).append(answer)
        return [
            {
                "question": question,
                "precision": precision,
                "compute_units": units,
                "fits": [
                    name
                    for name in group[0].probe.predictions
                    if all(name in answer.fits for answer in group)
                ]
                or ["none"],
                "n_failed": sum(answer.output is None for answer in group),
            }
            for (question, precision, units), group in groups.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give the report JSON-ready."""
        faults = [fault for fault in self.provenance.get("faults", "").split("; ") if fault]
        return {
            "format": FORMAT,
            "version": VERSION,
            "emulated": bool(faults),
            "faults": faults,
            "provenance": {k: v for k, v in self.provenance.items() if k != "faults"},
            "summary": self.summary(),
            "answers": [answer.to_dict() for answer in self.answers],
        }

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the report as JSON, whole or not at all.

        Raises
        ------
        OutputExistsError, InputError, WriteError
            As `convcal.files.staged` does.
        """
        target = Path(path)
        with staged(target, force=force) as temporary:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", "utf-8")
        return target


@contextlib.contextmanager
def built_probes(probes: Sequence[Probe] = PROBES) -> Iterator[Packages]:
    """Make the packages of probes, in both precisions, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="convcal-probes-") as folder:
        yield {
            (number, precision): save_operation(
                Path(folder) / f"{number}-{precision}.mlpackage",
                probe.operation,
                shape=probe.sample.shape,
                precision=precision,
                **probe.parameters,
            )
            for number, probe in enumerate(probes)
            for precision in PRECISIONS
        }


def probe_machine(
    packages: Packages,
    probes: Sequence[Probe] = PROBES,
    *,
    runtime: str = "auto",
    compute_units: Sequence[str] = UNITS,
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
) -> ProbeReport:
    """Run probes, in both precisions, on each kind of compute units, one after the other.

    Parameters
    ----------
    packages : mapping
        Of the probes, as `built_probes` makes them.
    probes : sequence of Probe
        What is asked.
    runtime : {'auto', 'coreml', 'reference'}
        Core ML, unless it is the reference runtime that is to be asked.
    compute_units : sequence of str
        What Core ML may use; the reference runtime has the CPU only.
    emulate : sequence of str
        Faults that act on every package.
    timeout : float
        Seconds that Core ML may take for loading a package, or for its sample.
    progress : callable, optional
        Told of every answer.

    Returns
    -------
    ProbeReport
        A package that does not load or run is an answer too.

    Raises
    ------
    UnavailableError
        If this is no Mac, and the reference runtime is not asked for.
    InputError
        If a fault or a word is unknown.
    """
    check_machine(runtime)
    if runtime == "reference":
        compute_units = ("cpu-only",)
    answers: list[Answer] = []
    provenance = {"runtime": runtime_here(runtime), **machine_provenance()}
    n_answers = len(packages) * len(compute_units)
    for units in compute_units:
        for (number, precision), package in packages.items():
            probe, output, error = probes[number], None, ""
            try:
                # What a probe leaves alone, and what MIL leaves open, is what is asked.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvcalWarning)
                    with open_runner(
                        package,
                        runtime=runtime,
                        compute_units=units,
                        faults=tuple(emulate),
                        timeout=timeout,
                    ) as runner:
                        provenance |= runner.provenance
                        output = runner.run({"x": probe.sample})["y"]
            except RunnerError as failure:
                error = str(failure).replace(str(package), package.name)
            answers.append(Answer(probe, precision, units, output, error))
            if progress:
                progress(len(answers), n_answers)
    machine = {key: value for key, value in provenance.items() if key not in _OF_ONE_PACKAGE}
    return ProbeReport(machine, tuple(answers))


def check_machine(runtime: str) -> None:
    """Check that there is a device to ask, before packages are made for it.

    Raises
    ------
    UnavailableError
        If this is no Mac, and the reference runtime is not asked for.
    """
    if runtime != "reference" and runtime_here("auto") == "reference":
        raise UnavailableError(
            "the probe asks Core ML, which needs a Mac; run it there, or try it out on what the "
            "program says, with --runtime reference and a fault to --emulate"
        )


def _numbers(values: Any) -> Any:
    """Make nested lists of floats ready for JSON, which has no NaN and no infinities."""
    if isinstance(values, list):
        return [_numbers(each) for each in values]
    return values if math.isfinite(values) else str(values)
