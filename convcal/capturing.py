# SPDX-License-Identifier: BSD-3-Clause
"""Run one model over a calibration set and keep its outputs."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convcal.coreml.describe import describe
from convcal.coreml.package import read_package
from convcal.data.arrays import write_samples
from convcal.data.captures import Capture, open_capture, open_role
from convcal.data.growing import check_recording, record_role
from convcal.data.importing import import_outputs
from convcal.data.recording import create_root
from convcal.data.samples import CalibrationSet, check_source, open_samples
from convcal.data.sources import sample_digest
from convcal.errors import InputError, UnavailableError
from convcal.files import ensure_absent, staged
from convcal.pair_sources import Data, Progress, data_provenance
from convcal.runtime import Runner, open_runner, runtime_here
from convcal.words import ROLES, TIMEOUT

__all__ = [
    "Recording",
    "capture_by_units",
    "capture_outputs",
    "import_capture",
    "path_of_units",
    "record_outputs",
]

_MOST_SHAPES = 3


@dataclass(frozen=True)
class Recording:
    """What was written of one model's outputs.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    samples : tuple of str
        The names of the samples, in order.
    outputs : dict of str to str
        By name the dtype and the shapes that there are, as ``'float16 1x3x64x64'`` or, of an
        output of flexible shape, ``'float16 1x3x64x64, 1x3x32x96'``; three of them at most.
    provenance : dict
        What ran where.
    """

    path: Path
    samples: tuple[str, ...]
    outputs: dict[str, str]
    provenance: dict[str, Any]


def capture_outputs(
    model: str | os.PathLike[str],
    data: Data,
    target: str | os.PathLike[str],
    *,
    role: str,
    tensors: Sequence[str] = (),
    runtime: str = "auto",
    compute_units: str = "all",
    function: str | None = None,
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    append: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Capture:
    """Run a model and record its outputs as one role of a capture.

    Parameters
    ----------
    model : path
        The package.
    data : path or iterable of samples
        The calibration set, as `convcal.data.open_samples` takes it.
    target : path
        The capture, new or holding the other role.
    role : {'reference', 'observed'}
        Which outputs these are.
    tensors : sequence of str
        Intermediate tensors of the program to record beside the outputs, for finding the operation
        at fault; fitting and checking never see them.
    runtime, compute_units : str
        Where the model runs, as `convcal.runtime.open_runner` takes them.
    function : str, optional
        Of a package with several functions, which; by default the one that the package names.
    emulate : sequence of str
        Faults that act on the model.
    timeout : float
        Seconds that Core ML may take for loading a model, or for one sample.
    append : bool
        Add samples to the role if the capture has it, or go on with an interrupted recording.
        Samples that are there are not run again.
    force : bool
        Replace the role if the capture has it.
    progress : callable, optional
        Told of every sample. One sample at a time is in memory.

    Returns
    -------
    Capture
        The capture, with the role in it.

    Raises
    ------
    ConvcalError
        If the model or the data cannot be used, or do not match the other role or, with
        `append`, what is there. A role that was to be new is not there then; what a recording
        that was interrupted, or ran for long, left lies beside the capture, as
        ``NAME.ROLE.partial``.
    """
    check_recording(target, role, append=append, force=force)
    check_source(data)
    inner = _intermediate(model, tensors, function=function)
    with open_runner(
        model,
        runtime=runtime,
        compute_units=compute_units,
        function=function,
        faults=tuple(emulate),
        timeout=timeout,
        extra_outputs=inner,
    ) as runner:
        samples = open_samples(data, runner.description)
        provenance = {**runner.provenance, "data": data_provenance(data, samples)}
        kinds = runner.description.output_kinds
        with record_role(
            target,
            role,
            provenance=provenance,
            kinds=kinds,
            tensors=inner,
            append=append,
            force=force,
        ) as grower:
            pairs = zip(samples.names, samples, strict=True)
            for done, (name, sample) in enumerate(pairs, start=1):
                digest = sample_digest(sample)
                if grower.lacks(name, digest):
                    given = runner.run(sample)
                    outputs = {key: array for key, array in given.items() if key not in inner}
                    extra = {key: given[key] for key in inner}
                    grower.append(name, outputs, tensors=extra, digest=digest)
                if progress:
                    progress(done, len(samples))
    return open_capture(target)


def _intermediate(
    model: str | os.PathLike[str], tensors: Sequence[str], *, function: str | None
) -> tuple[str, ...]:
    """Give those of the tensors that are no outputs of the model."""
    if not tensors:
        return ()
    known = describe(read_package(model), function=function).output_names
    return tuple(name for name in dict.fromkeys(tensors) if name not in known)


def path_of_units(target: str | os.PathLike[str], compute_units: str) -> Path:
    """Give the capture of one kind of compute units: of ``net.capture`` ``net.UNITS.capture``."""
    path = Path(target)
    return path.with_name(f"{path.stem}.{compute_units}{path.suffix}")


def capture_by_units(
    model: str | os.PathLike[str],
    data: Data,
    target: str | os.PathLike[str],
    *,
    role: str,
    compute_units: Sequence[str],
    runtime: str = "auto",
    append: bool = False,
    force: bool = False,
    **how: Any,
) -> dict[str, Capture]:
    """Record a model's outputs on several compute units, one after the other.

    Each is a capture of its own, as `path_of_units` calls it. The other role of `target`, if it
    is there and has it, is copied into each, so that each can be fitted.

    Parameters
    ----------
    model, data, target, role, runtime, append, force, **how
        As for `capture_outputs`.
    compute_units : sequence of str
        What Core ML may use, each once.

    Returns
    -------
    dict of str to Capture
        By compute units.

    Raises
    ------
    UnavailableError
        If the reference runtime runs the model.
    ConvcalError
        As `capture_outputs` does; captures that were finished before stay.
    """
    if not 0 < len(set(compute_units)) == len(compute_units):
        raise InputError(f"the compute units are {list(compute_units)}; give each once")
    if runtime_here(runtime) == "reference":
        raise UnavailableError(
            "the reference runtime has one kind of compute units, the CPU; record without "
            "--compute-units, or on a Mac"
        )
    paths = {units: path_of_units(target, units) for units in compute_units}
    for path in paths.values():
        check_recording(path, role, append=append, force=force)
    captures = {}
    for units, path in paths.items():
        _begin_with_other_role(path, Path(target), role)
        captures[units] = capture_outputs(
            model,
            data,
            path,
            role=role,
            runtime=runtime,
            compute_units=units,
            append=append,
            force=force,
            **how,
        )
    return captures


def _begin_with_other_role(path: Path, target: Path, role: str) -> None:
    other = ROLES[1 - ROLES.index(role)]
    if os.path.lexists(path) or not target.exists() or open_role(target, other) is None:
        return
    with staged(path) as temporary:
        create_root(temporary)
        shutil.copytree(target / other, temporary / other)


def import_capture(
    outputs: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    role: str,
    append: bool = False,
    force: bool = False,
) -> Capture:
    """Record outputs that were computed elsewhere as one role of a capture.

    Parameters
    ----------
    outputs : path
        A file or folder, as `convcal.data.import_outputs` takes it.
    target : path
        The capture, new or holding the other role.
    role : {'reference', 'observed'}
        Which outputs these are.
    append : bool
        Add samples to the role if the capture has it; those that are there must be the same.
    force : bool
        Replace the role if the capture has it.

    Returns
    -------
    Capture
        The capture, with the role in it.

    Raises
    ------
    ConvcalError
        If the file cannot be used, or does not match the other role; the capture is then as it
        was.
    """
    provenance = {"runtime": "imported", "source": Path(outputs).name}
    return import_outputs(
        outputs, target, role=role, provenance=provenance, append=append, force=force
    )


def record_outputs(
    model: str | os.PathLike[str],
    data: Data,
    target: str | os.PathLike[str],
    *,
    tensors: Sequence[str] = (),
    runtime: str = "auto",
    compute_units: str = "all",
    function: str | None = None,
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    force: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Run a model and write its outputs to a ``.npz`` file with keys ``SAMPLE/TENSOR``.

    Parameters
    ----------
    model : path
        The package.
    data : path or iterable of samples
        The calibration set, as `convcal.data.open_samples` takes it.
    target : path
        The file.
    tensors : sequence of str
        Which tensors to write: outputs of the model or, on the reference runtime, any tensor of
        its program. All outputs by default.
    runtime, compute_units : str
        Where the model runs, as `convcal.runtime.open_runner` takes them.
    function : str, optional
        Of a package with several functions, which; by default the one that the package names.
    emulate : sequence of str
        Faults that act on the model.
    timeout : float
        Seconds that Core ML may take for loading a model, or for one sample.
    force : bool
        Replace a file that exists.
    progress : callable, optional
        Told of every sample. One sample at a time is in memory.

    Returns
    -------
    Recording

    Raises
    ------
    ConvcalError
        If the model or the data cannot be used; then nothing is written.
    """
    path = ensure_absent(target, force=force)
    check_source(data)
    if isinstance(data, str | os.PathLike) and _is_same(path, Path(data)):
        raise InputError(f"'{path}' holds the data; write the outputs to another file")
    extra = _intermediate(model, tensors, function=function)
    shapes: dict[str, dict[str, None]] = {}  # as ordered sets
    dtypes: dict[str, str] = {}

    def selected(runner: Runner, samples: CalibrationSet) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, outputs in _run_all(runner, samples, progress):
            chosen = {tensor: outputs[tensor] for tensor in tensors} if tensors else outputs
            for key, array in chosen.items():
                dtypes[key] = str(array.dtype)
                text = "x".join(map(str, array.shape)) or "scalar"
                shapes.setdefault(key, {})[text] = None
            yield name, chosen

    with open_runner(
        model,
        runtime=runtime,
        compute_units=compute_units,
        function=function,
        faults=tuple(emulate),
        timeout=timeout,
        extra_outputs=extra,
    ) as runner:
        samples = open_samples(data, runner.description)
        write_samples(path, selected(runner, samples), force=force)
        described = {key: f"{dtype} {_some(shapes[key])}" for key, dtype in dtypes.items()}
        return Recording(path, samples.names, described, dict(runner.provenance))


def _run_all(
    runner: Runner, samples: CalibrationSet, progress: Progress | None
) -> Iterator[tuple[str, dict[str, np.ndarray[Any, Any]]]]:
    pairs = zip(samples.names, samples, strict=True)
    for done, (name, sample) in enumerate(pairs, start=1):
        yield name, runner.run(sample)
        if progress:
            progress(done, len(samples))


def _some(shapes: Iterable[str]) -> str:
    first = list(itertools.islice(shapes, _MOST_SHAPES + 1))
    return ", ".join([*first[:_MOST_SHAPES], *["…"] * (len(first) > _MOST_SHAPES)])


def _is_same(path: Path, other: Path) -> bool:
    """Tell whether two paths are of one file; none where one of them is missing."""
    return path.exists() and other.exists() and path.samefile(other)
