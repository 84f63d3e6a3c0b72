# SPDX-License-Identifier: BSD-3-Clause
"""Paired outputs of the reference and the observed model, from runs or from a capture."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convcal.data.captures import Capture, open_capture
from convcal.data.samples import CalibrationSet, check_source, open_samples
from convcal.errors import ConvcalWarning, InputError
from convcal.layout import Layout, OutputAxes
from convcal.model_description import Feature, ModelDescription
from convcal.runtime import Runner, open_runner
from convcal.words import ROLES, TIMEOUT

__all__ = [
    "Axes",
    "OutputPair",
    "Pairs",
    "Progress",
    "data_provenance",
    "read_pairs",
    "record_pairs",
]

Model = str | os.PathLike[str] | Runner
Axes = Mapping[str, Layout] | OutputAxes
"""The layouts of outputs whose axes are not the usual ones."""
Progress = Callable[[int, int], None]
"""Called with how many samples are done, and of how many."""


@dataclass(frozen=True)
class OutputPair:
    """One output of both models for all samples.

    Parameters
    ----------
    reference, observed : ndarray
        (N, channels, *space), in the dtypes of the models.
    layout : Layout
        What the axes of a single output are.
    """

    reference: np.ndarray[Any, Any]
    observed: np.ndarray[Any, Any]
    layout: Layout


@dataclass(frozen=True)
class Pairs:
    """All outputs of both models for all samples, and where they come from."""

    outputs: dict[str, OutputPair]
    provenance: dict[str, Any]


def record_pairs(
    reference: Model,
    observed: Model,
    data: str | os.PathLike[str] | Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    runtime: str = "auto",
    reference_compute_units: str = "all",
    observed_compute_units: str = "all",
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    axes: Axes | None = None,
    progress: Progress | None = None,
) -> Pairs:
    """Run both models on a calibration set.

    Parameters
    ----------
    reference, observed : path or Runner
        Packages to open, or anything with a `Runner`'s methods. Runners stay open.
    data : path or iterable of samples
        The calibration set, as `convcal.data.open_samples` takes it.
    runtime : {'auto', 'coreml', 'reference'}
        Where packages run.
    reference_compute_units, observed_compute_units : str
        On Core ML, for each of the two.
    emulate : sequence of str
        Faults that act on the observed model.
    timeout : float
        Seconds that Core ML may take for loading a model, or for one sample.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where the layout is not the usual one.
    progress : callable, optional
        Told of every sample.

    Returns
    -------
    Pairs

    Raises
    ------
    InputError
        If the models do not match each other or the data, or outputs change their shape.
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
        _check_match(runners["reference"].description, runners["observed"].description)
        samples = open_samples(data, runners["reference"].description)
        recorded: dict[str, list[dict[str, np.ndarray[Any, Any]]]] = {role: [] for role in runners}
        for done, sample in enumerate(samples, start=1):
            for role, runner in runners.items():
                recorded[role].append(runner.run(sample))
            if progress:
                progress(done, len(samples))
        provenance = {role: dict(runner.provenance) for role, runner in runners.items()}
    outputs = {
        name: _pair(
            name,
            [sample[name] for sample in recorded["reference"]],
            [sample[name] for sample in recorded["observed"]],
            axes,
            kind=kind,
        )
        for name, kind in runners["observed"].description.output_kinds.items()
    }
    _check_names(axes, outputs)
    return Pairs(outputs, _provenance(provenance, data=data_provenance(data, samples)))


def read_pairs(path: str | os.PathLike[str], *, axes: Axes | None = None) -> Pairs:
    """Read both roles of a capture.

    Parameters
    ----------
    path : path
        A capture that holds both roles.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where the layout is not the usual one.

    Returns
    -------
    Pairs

    Raises
    ------
    InputError
        If it is no capture, a role is missing, or the roles do not match.

    Warns
    -----
    ConvcalWarning
        If the roles were recorded from different data, under the same names of samples.
    """
    capture = open_capture(path)
    outputs = {
        name: _pair(
            name,
            list(capture.read("reference", name)),
            list(capture.read("observed", name)),
            axes,
            kind=capture.kinds.get(name),
        )
        for name in capture.outputs
    }
    _check_names(axes, outputs)
    provenance = {role: dict(capture.provenance[role]) for role in ROLES}
    data = _captured_data(capture, [provenance[role].pop("data", None) for role in ROLES])
    return Pairs(outputs, _provenance(provenance, data=data))


def _pair(
    name: str,
    reference: list[np.ndarray[Any, Any]],
    observed: list[np.ndarray[Any, Any]],
    axes: Axes | None,
    *,
    kind: str | None,
) -> OutputPair:
    for role, arrays in (("reference", reference), ("observed", observed)):
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise InputError(
                f"output '{name}' of the {role} changes its shape with the sample: {shapes}; "
                "use samples of one size"
            )
    if reference[0].shape != observed[0].shape:
        raise InputError(
            f"output '{name}' has shape {reference[0].shape} in the reference and "
            f"{observed[0].shape} in the observed model; they must be the same"
        )
    if isinstance(axes, OutputAxes):
        layout = axes.layout(name, observed[0], kind=kind)
    else:
        layout = (axes or {}).get(name) or Layout.of(observed[0], kind=kind)
    try:
        return OutputPair(
            np.concatenate([layout.canonical(array) for array in reference]),
            np.concatenate([layout.canonical(array) for array in observed]),
            layout,
        )
    except InputError as error:
        raise InputError(f"output '{name}': {error}") from None


def _check_names(axes: Axes | None, outputs: Mapping[str, OutputPair]) -> None:
    unknown = sorted(set(axes or {}) - set(outputs))
    if unknown:
        raise InputError(f"there is no output {unknown}; the outputs are {sorted(outputs)}")


def _check_match(reference: ModelDescription, observed: ModelDescription) -> None:
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
            if not _is_compatible(feature, of_observed[name]):
                raise InputError(
                    f"{kind[:-1]} {feature} of the reference does not match "
                    f"{of_observed[name]} of the observed model; "
                    "both must be conversions of one network"
                )


def _is_compatible(first: Feature, second: Feature) -> bool:
    if first.is_flexible or second.is_flexible:
        return len(first.shape) == len(second.shape) and first.kind == second.kind
    return first.shape == second.shape and first.kind == second.kind


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


def _provenance(roles: dict[str, dict[str, Any]], *, data: dict[str, Any]) -> dict[str, Any]:
    faults = [fault for fault in roles["observed"].get("faults", "").split("; ") if fault]
    return {"emulated": bool(faults), "faults": faults, **roles, "data": data}
