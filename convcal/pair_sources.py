# SPDX-License-Identifier: BSD-3-Clause
"""Where paired outputs come from: two models over a calibration set, or a capture.

A source is gone through once, sample by sample; it holds one sample's outputs at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convcal.data.captures import Capture, open_capture
from convcal.data.samples import CalibrationSet, check_source, open_samples
from convcal.errors import ConvcalWarning, InputError
from convcal.model_description import Feature, ModelDescription
from convcal.runtime import Runner, open_runner
from convcal.words import ROLES, TIMEOUT

__all__ = [
    "Data",
    "Model",
    "Outputs",
    "PairSource",
    "Progress",
    "data_provenance",
    "open_captured",
    "open_models",
]

Model = str | os.PathLike[str] | Runner
Data = str | os.PathLike[str] | Iterable[Mapping[str, np.ndarray[Any, Any]]]
Outputs = Mapping[str, np.ndarray[Any, Any]]
Progress = Callable[[int, int], None]
"""Called with how many samples are done, and of how many."""


class PairSource(Protocol):
    """Paired outputs of the reference and the observed model.

    Attributes
    ----------
    samples : tuple of str
        The names of the samples, in the order of `read`.
    kinds : mapping of str to str or None
        The outputs in the model's order, with what the model says they are.
    provenance : dict
        Where they come from, as a calibration keeps it.
    fingerprint : str
        Changes with what the provenance does not tell: names of samples, files of a capture.
    idle_faults : tuple of str
        The emulated faults that changed no output of what was read so far.
    """

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of the samples."""

    @property
    def kinds(self) -> Mapping[str, str | None]:
        """The outputs, with what the model says they are."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the outputs come from."""

    @property
    def fingerprint(self) -> str:
        """What the provenance does not tell, as a hash."""

    @property
    def idle_faults(self) -> tuple[str, ...]:
        """The emulated faults that changed nothing so far."""

    def read(self, start: int, stop: int) -> Iterator[tuple[Outputs, Outputs]]:
        """Give the outputs of the reference and of the observed model, sample by sample."""


class _ModelPairs:
    """Two runners over a calibration set."""

    def __init__(self, runners: Mapping[str, Runner], data: Data) -> None:
        self._runners = runners
        self._data = data
        check_match(runners["reference"].description, runners["observed"].description)
        self._samples = open_samples(data, runners["reference"].description)
        self.samples = self._samples.names
        self.kinds: Mapping[str, str | None] = {**runners["observed"].description.output_kinds}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        roles = {role: dict(runner.provenance) for role, runner in self._runners.items()}
        return joint_provenance(roles, data=data_provenance(self._data, self._samples))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.samples).encode()).hexdigest()

    @property
    def idle_faults(self) -> tuple[str, ...]:
        # Only what emulates faults has any; a user's own runner need not know of them.
        idle: tuple[str, ...] = getattr(self._runners["observed"], "idle_faults", ())
        return idle

    def read(self, start: int, stop: int) -> Iterator[tuple[Outputs, Outputs]]:
        for sample in self._samples.part(start, stop):
            yield self._runners["reference"].run(sample), self._runners["observed"].run(sample)


class _CapturedPairs:
    """Both roles of a capture."""

    idle_faults: tuple[str, ...] = ()

    def __init__(self, capture: Capture) -> None:
        capture.check_paired()
        self._capture = capture
        self.samples = capture.samples
        self.kinds: Mapping[str, str | None] = {
            name: capture.kinds.get(name) for name in capture.outputs
        }

    @cached_property
    def provenance(self) -> dict[str, Any]:
        roles = {role: dict(self._capture.provenance[role]) for role in ROLES}
        data = _captured_data(self._capture, [roles[role].pop("data", None) for role in ROLES])
        return joint_provenance(roles, data=data)

    @property
    def fingerprint(self) -> str:
        return self._capture.fingerprint()

    def read(self, start: int, stop: int) -> Iterator[tuple[Outputs, Outputs]]:
        for sample in self.samples[start:stop]:
            reference, observed = (self._capture.read_sample(role, sample) for role in ROLES)
            yield reference, observed


@contextlib.contextmanager
def open_models(
    reference: Model,
    observed: Model,
    data: Data,
    *,
    runtime: str = "auto",
    reference_compute_units: str = "all",
    observed_compute_units: str = "all",
    function: str | None = None,
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
) -> Iterator[PairSource]:
    """Open two models and a calibration set; `convcal.pairs.record_pairs` says what they are.

    Yields
    ------
    PairSource
        To be read inside the block, which closes the packages. Runners stay open.

    Raises
    ------
    InputError
        If the models do not match each other or the data.
    """
    check_source(data)
    with contextlib.ExitStack() as stack:

        def opened(model: Model, units: str, faults: Sequence[str]) -> Runner:
            if isinstance(model, str | os.PathLike):
                return stack.enter_context(
                    open_runner(
                        model,
                        runtime=runtime,
                        compute_units=units,
                        function=function,
                        faults=faults,
                        timeout=timeout,
                    )
                )
            if faults:
                raise InputError("faults can be emulated on packages only, not on a runner")
            return model

        runners = {
            "reference": opened(reference, reference_compute_units, ()),
            "observed": opened(observed, observed_compute_units, tuple(emulate)),
        }
        yield _ModelPairs(runners, data)


def open_captured(path: str | os.PathLike[str]) -> PairSource:
    """Open both roles of a capture.

    Raises
    ------
    InputError
        If it is no capture, a role is missing, or the roles do not match.

    Warns
    -----
    ConvcalWarning
        When the provenance is read, if the roles were recorded from different data.
    """
    return _CapturedPairs(open_capture(path))


def check_match(reference: ModelDescription, observed: ModelDescription) -> None:
    """Raise where the two models cannot be run on the same samples or compared."""
    for kind in ("inputs", "outputs"):
        of_reference = {feature.name: feature for feature in getattr(reference, kind)}
        of_observed = {feature.name: feature for feature in getattr(observed, kind)}
        if of_reference.keys() != of_observed.keys():
            raise InputError(
                f"the {kind} of the two models do not match: the reference has "
                f"{sorted(of_reference)}, the observed model {sorted(of_observed)}; "
                "both must be conversions of one network"
            )
        for name, feature in of_reference.items():
            if not _is_compatible(feature, of_observed[name], is_output=kind == "outputs"):
                raise InputError(
                    f"{kind[:-1]} {feature} of the reference does not match "
                    f"{of_observed[name]} of the observed model; "
                    "both must be conversions of one network"
                )


def _is_compatible(reference: Feature, observed: Feature, *, is_output: bool) -> bool:
    if reference.kind != observed.kind or len(reference.shape) != len(observed.shape):
        return False
    if reference.is_flexible or observed.is_flexible:
        return True
    if is_output:
        # What is too long can be cropped; the arrays tell whether it is.
        return all(n <= m for n, m in zip(reference.shape, observed.shape, strict=True))
    return reference.shape == observed.shape


def data_provenance(data: object, samples: CalibrationSet) -> dict[str, Any]:
    """Say what the data are, as a calibration and a capture keep it."""
    source = Path(data).name if isinstance(data, str | os.PathLike) else type(data).__name__
    return {
        "source": source,
        "sha256": samples.sha256,
        "n_files": samples.n_files,
        "n_samples": len(samples),
    }


def _captured_data(capture: Capture, records: Sequence[object]) -> dict[str, Any]:
    """Say what data a capture was recorded from, as far as its roles say and agree."""
    known = [dict(record) for record in records if isinstance(record, Mapping)]
    if any(record.get("sha256") != known[0].get("sha256") for record in known):
        warnings.warn(
            f"the roles of capture '{capture.path}' were recorded from different data; their "
            "outputs may not belong together",
            ConvcalWarning,
            stacklevel=3,
        )
        known = []
    found = known[0] if known else {}
    return {"source": capture.path.name, **found, "n_samples": len(capture.samples)}


def joint_provenance(roles: dict[str, dict[str, Any]], *, data: dict[str, Any]) -> dict[str, Any]:
    faults = [fault for fault in roles["observed"].get("faults", "").split("; ") if fault]
    return {"emulated": bool(faults), "faults": faults, **roles, "data": data}
