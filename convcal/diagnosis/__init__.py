# SPDX-License-Identifier: BSD-3-Clause
"""Which operation of an observed model first goes wrong, in which way, and what to do."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import convcal
from convcal.coreml.describe import describe
from convcal.coreml.package import Package, read_package
from convcal.coreml.program import Operation, load_program
from convcal.coreml.provenance import package_provenance
from convcal.data.samples import CalibrationSet, check_source, open_samples
from convcal.diagnosis.advice import advise
from convcal.diagnosis.comparing import Programs
from convcal.diagnosis.journal import Journal
from convcal.diagnosis.locating import Found, Samples, Search, Tell, search
from convcal.diagnosis.matching import Matching
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.pairing import pair_programs
from convcal.diagnosis.record import Culprit, Diagnosis, Drift, OutputState, Pairing, Step
from convcal.diagnosis.sources import SourceOutputs, compare_three
from convcal.diagnosis.tracing import Tracer
from convcal.errors import ConvcalWarning, InputError
from convcal.model_description import ModelDescription
from convcal.pair_sources import Data, check_match, data_provenance, joint_provenance
from convcal.runtime.machine import machine_provenance
from convcal.runtime.samples import checked_sample, to_tensor
from convcal.words import MEMORY, TIMEOUT

__all__ = ["Culprit", "Diagnosis", "Drift", "OutputState", "Pairing", "Step", "diagnose"]

# As many show the family of a fault; the walk takes them all.
_MOST_SAMPLES = 8
_SAMPLES_TO_PAIR = 2


def diagnose(
    reference: str | os.PathLike[str],
    observed: str | os.PathLike[str],
    data: Data,
    *,
    runtime: str = "auto",
    observed_compute_units: str = "all",
    function: str | None = None,
    emulate: Sequence[str] = (),
    find_all: bool = False,
    source: str | os.PathLike[str] | None = None,
    memory: int = MEMORY,
    timeout: float = TIMEOUT,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
) -> Diagnosis:
    """Find the first operation of a model whose output is wrong though its inputs are right.

    Every operation, or all between tensors that have partners in the reference, is computed as
    the reference says from the *observed* inputs, on the reference runtime, and compared with the
    observed output. What fp16 makes of the same operation is the measure; ten times that is taken
    for the noise of a device.

    Parameters
    ----------
    reference, observed : path
        Packages of one network; they may be the same package.
    data : path or iterable of mapping
        A calibration set; its first eight samples are used.
    runtime, observed_compute_units, timeout
        Where the observed model runs, as for `convcal.open_runner`. The reference runs on the
        reference runtime.
    function : str, optional
        Of packages with several functions, which; by default the one that each names.
    emulate : sequence of str
        Faults to emulate in the observed model, as `convcal.faults.parse_fault` reads them.
    find_all : bool
        Find all operations that are wrong, not the first alone.
    source : path, optional
        Outputs of the original network (from PyTorch, ONNX, …) for the same samples, as ``.npz``
        with keys ``SAMPLE/OUTPUT`` or ``OUTPUT``: they tell the converter from the device.
    memory : int
        Bytes that the tensors of one sample may take. If they take more, the model is run about
        log2 of the number of its operations times, with few tensors in view.
    timeout : float
        Seconds that Core ML may take for loading the model, or for one sample.
    checkpoint : path, optional
        Where to keep what was measured; a file that is there is gone on from. It is removed at
        the end.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Returns
    -------
    Diagnosis

    Raises
    ------
    InputError
        If the packages do not match each other or the data, or an argument is not usable.
    UnavailableError
        If this machine cannot run the observed model in that way.

    Warns
    -----
    ConvcalWarning
        If samples of other shapes than the first are left out, or a fault changes nothing.
    """
    check_source(data)
    if memory <= 0:
        raise InputError(f"the memory is {memory} bytes; a number above 0 is accepted")
    packages = {"reference": read_package(reference), "observed": read_package(observed)}
    description = describe(packages["observed"], function=function)
    check_match(describe(packages["reference"], function=function), description)
    opened = open_samples(data, description)
    samples = _usable(opened, description)
    first = samples.tensors(next(samples.arrays([0])))
    shapes = {name: array.shape for name, array in first.items()}
    outlines = {
        role: Outline(load_program(package, function=function, input_shapes=shapes))
        for role, package in packages.items()
    }
    _check_kinds(outlines)
    with contextlib.closing(
        Tracer(
            observed,
            runtime=runtime,
            compute_units=observed_compute_units,
            faults=emulate,
            function=function,
            timeout=timeout,
        )
    ) as tracer:
        origin = data_provenance(data, opened)
        journal = Journal(
            None if checkpoint is None else Path(checkpoint),
            {
                "convcal": convcal.__version__,
                "packages": [package.sha256 for package in packages.values()],
                "how": tracer.how,
                "data": origin,
                "samples": samples.names,
                "memory": memory,
            },
        )
        given = None
        if source is not None:
            given = SourceOutputs(source, samples=opened.names, outputs=description.output_names)
        few = [
            samples.tensors(each)
            for each in samples.arrays(range(min(_SAMPLES_TO_PAIR, len(samples.names))))
        ]
        matching = pair_programs(outlines["reference"], outlines["observed"], few)
        programs = Programs(
            outlines["reference"], outlines["observed"], matching.pairs, description
        )
        try:
            result = search(
                programs,
                tracer,
                samples,
                memory=memory,
                is_complete=find_all,
                journal=journal,
                tell=progress or (lambda *_: None),
            )
        except BaseException:
            journal.write()
            raise
        sources = None if given is None else compare_three(programs, tracer, samples, given)
        diagnosis = _diagnosis(
            programs,
            matching,
            result,
            how=tracer.how,
            sources=sources,
            n_samples=len(samples.names),
            is_complete=find_all,
            provenance=joint_provenance(
                {
                    "reference": _reference_provenance(packages["reference"], function),
                    "observed": tracer.provenance,
                },
                data=origin,
            ),
        )
        journal.remove()
        return diagnosis


def _check_kinds(outlines: Mapping[str, Outline]) -> None:
    """Refuse outputs that hold whole numbers in one of the programs alone."""
    dtypes = {
        role: {value.name: value.dtype for value in outline.program.outputs}
        for role, outline in outlines.items()
    }
    for name, dtype in dtypes["observed"].items():
        other = dtypes["reference"].get(name, dtype)
        if dtype.startswith("float") != other.startswith("float"):
            raise InputError(
                f"output '{name}' is of type {other} in the reference and {dtype} in the observed "
                "model; both must be conversions of one network: convert one of them again"
            )


def _usable(opened: CalibrationSet, description: ModelDescription) -> Samples:
    """Give the first samples, of one shape each: the programs are read for these shapes."""
    n_kept = min(len(opened), _MOST_SAMPLES)
    kept: list[int] = []
    shapes: dict[str, tuple[int, ...]] | None = None
    for index, sample in enumerate(opened.part(0, n_kept)):
        found = {name: np.shape(array) for name, array in sample.items()}
        shapes = shapes or found
        if found == shapes:
            kept.append(index)
    if len(kept) < n_kept:
        warnings.warn(
            f"{n_kept - len(kept)} samples of other shapes than the first are left out; diagnose "
            "these by themselves",
            ConvcalWarning,
            stacklevel=3,
        )

    def arrays(indices: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        for index in indices:
            yield from opened.part(kept[index], kept[index] + 1)

    def tensors(sample: Mapping[str, Any]) -> dict[str, Any]:
        checked = checked_sample(sample, description)
        return {
            feature.name: to_tensor(checked[feature.name], feature)
            for feature in description.inputs
        }

    return Samples(tuple(opened.names[index] for index in kept), arrays, tensors)


def _reference_provenance(package: Package, function: str | None) -> dict[str, Any]:
    return {
        "runtime": "reference",
        "compute_units": "cpu-only",
        **machine_provenance(),
        **package_provenance(package, function=function),
    }


def _diagnosis(
    programs: Programs,
    matching: Matching,
    result: Search,
    *,
    how: Mapping[str, Any],
    sources: dict[str, dict[str, Any]] | None,
    n_samples: int,
    is_complete: bool,
    provenance: dict[str, Any],
) -> Diagnosis:
    culprits = tuple(_culprit(programs, found, how=how) for found in result.culprits)
    outputs = {
        name: OutputState(levels.state, levels.rms, levels.relative)
        for name in programs.outputs
        if (levels := result.together.get(name)) is not None
    }
    if culprits:
        verdict = "culprit-found"
    elif any(each.state == "wrong" for each in outputs.values()):
        verdict = "accumulated"
    else:
        measured = [*result.alone.values(), *(result.together[name] for name in outputs)]
        is_identical = all(each.state == "identical" for each in measured)
        verdict = "identical" if is_identical else "precision-noise"
    observed = programs.observed
    return Diagnosis(
        verdict=verdict,
        culprits=culprits,
        outputs=outputs,
        pairing=Pairing(
            n_operations=len(observed.operations),
            n_matched=len(observed.operations) - len(matching.unmatched),
            unmatched=_steps(matching.unmatched),
            differing=tuple(value.name for value in matching.pairs if value in matching.bridged),
        ),
        passed_over=_steps(
            each for each in programs.reference.operations if each in programs.unrunnable
        ),
        drift=_drift(programs, result) if verdict == "accumulated" else None,
        source=sources,
        n_runs=result.n_runs,
        n_samples=n_samples,
        is_complete=is_complete,
        provenance=provenance,
    )


def _culprit(programs: Programs, found: Found, *, how: Mapping[str, Any]) -> Culprit:
    observed, reference = (_steps(each) for each in programs.operations[found.step])
    value = programs.value(found.step)
    judgement = found.judgement
    return Culprit(
        tensor=found.step,
        operations=observed,
        reference_operations=reference,
        family=judgement.family,
        cause=found.cause,
        reason=judgement.reason,
        advice=advise(
            family=judgement.family,
            cause=found.cause,
            operations=observed,
            is_output=found.step in programs.outputs,
            has_fp16=value.dtype == "float16",
            how=how,
        ),
        level=judgement.levels.rms,
        relative_error=judgement.levels.relative,
        evidence=judgement.evidence,
    )


def _drift(programs: Programs, result: Search) -> Drift | None:
    """Find the step before which the error is least compared with that after it."""
    errors = {programs.value(step): each.relative for step, each in result.together.items()}
    growth = {
        step: (
            max((errors.get(value, 0.0) for value in programs.sources[step]), default=0.0),
            errors[programs.value(step)],
        )
        for step in result.together
        if programs.operations[step][0]
    }
    if len(growth) <= len(programs.outputs):
        return None
    step = max(growth, key=lambda each: growth[each][1] - growth[each][0])
    before, after = growth[step]
    return Drift(step, _steps(programs.operations[step][0])[-1], before, after)


def _steps(operations: Iterable[Operation]) -> tuple[Step, ...]:
    return tuple(Step(each.type, each.name) for each in operations)
