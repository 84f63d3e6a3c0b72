# SPDX-License-Identifier: BSD-3-Clause
"""Fit a calibration over two models, or over what was captured of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor
from numbers import Integral
from typing import Any

import numpy as np

import convcal
from convcal.assessment import FitOptions
from convcal.calibration import Calibration
from convcal.cautions import warn_of_models, warn_of_reference_runtime
from convcal.errors import InputError, RunnerError
from convcal.files import ensure_resumable
from convcal.fitting.checkpoint import Checkpoint
from convcal.fitting.shards import CaptureJob, Job, ModelsJob, fit_range, plan_shards
from convcal.fitting.state import FitState
from convcal.fitting.workers import SHARDS_AT_ONCE, process_executor, shard_states
from convcal.layout import OutputAxes
from convcal.pair_sources import Data, Model, PairSource, Progress
from convcal.pairs import Axes, PairJoiner
from convcal.runtime.faults import warn_of_idle
from convcal.words import TIMEOUT

__all__ = ["fit", "fit_captures"]


def fit(
    reference: Model,
    observed: Model,
    data: Data,
    *,
    options: FitOptions | None = None,
    runtime: str = "auto",
    reference_compute_units: str = "all",
    observed_compute_units: str = "all",
    function: str | None = None,
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    axes: Axes | None = None,
    n_jobs: int = 1,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Run two models on a calibration set and find what makes the second right again.

    Parameters
    ----------
    reference, observed : path or Runner
        The trusted model (fp32) and the one to be corrected (fp16): packages, or anything with a
        `Runner`'s methods. They may be the same package on two compute units.
    data : path or iterable of samples
        The calibration set: a folder or file of samples, or an iterable of
        ``dict[str, ndarray]``.
    options : FitOptions, optional
        How to fit.
    runtime : {'auto', 'coreml', 'reference'}
        Where packages run; ``'auto'`` is Core ML on macOS, the reference runtime elsewhere.
    reference_compute_units, observed_compute_units : str
        ``'all'``, ``'cpu-only'``, ``'cpu-and-gpu'`` or ``'cpu-and-ne'``, on Core ML.
    function : str, optional
        Of packages with several functions, which; by default the one that each names.
    emulate : sequence of str
        Faults that act on the observed model, as ``'crop-origin:variant=zero'``; recorded in the
        calibration.
    timeout : float
        Seconds that Core ML may take for loading a model, or for one sample.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where batch and channels are not on the axes 0 and 1.
    n_jobs : int
        How many processes of this machine share the work, or, with an `executor`, how many parts
        of it are under way at once (if 1: 16). Models and data must be paths then.
    executor : concurrent.futures.Executor, optional
        Runs the work elsewhere: that of a Dask client (``client.get_executor()``), of loky, of
        mpi4py, or of the standard library. Its processes need convcal and see the same paths.
    checkpoint : path, optional
        A file that keeps, every few seconds, how far the fit is. It is removed at the end.
    resume : bool
        Go on from the checkpoint if there is one.
    progress : callable, optional
        Called with (done, total) after every sample, or every part that is done elsewhere.

    Returns
    -------
    Calibration
        With a verdict per output, and the identity where no correction is proven.

    Raises
    ------
    ConvcalError
        If a package cannot be read or run, models and data do not match, a checkpoint is there
        and `resume` is false, or it belongs to another fit.

    Warns
    -----
    ConvcalWarning
        If the answer is ``'identical'``, but on the reference runtime, where a fault of a device
        cannot show; or if the models look like the wrong ones.

    Notes
    -----
    Samples are gone through once. What is held is bounded, whatever their number: one batch of
    outputs, and per output the state of `convcal.estimation.statistics.OutputStatistics`. The
    number of workers and the order of the samples change the result by round-off at most.

    See Also
    --------
    fit_captures : The same without models.
    OutputCalibrator : The same over arrays.
    """
    job = ModelsJob(
        reference,
        observed,
        data,
        options or FitOptions(),
        axes=axes,
        runtime=runtime,
        reference_compute_units=reference_compute_units,
        observed_compute_units=observed_compute_units,
        function=function,
        emulate=tuple(emulate),
        timeout=timeout,
    )
    return _fit(
        job,
        n_jobs=n_jobs,
        executor=executor,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def fit_captures(
    captures: str | os.PathLike[str],
    *,
    options: FitOptions | None = None,
    axes: Axes | None = None,
    n_jobs: int = 1,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Fit on outputs that were captured before; needs no model and no Mac.

    Parameters
    ----------
    captures : path
        A capture that holds both roles.
    options : FitOptions, optional
        How to fit.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where batch and channels are not on the axes 0 and 1.
    n_jobs, executor, checkpoint, resume, progress
        As for `fit`.

    Returns
    -------
    Calibration
        The same corrections as `fit` gives on the models that were captured.

    Raises
    ------
    InputError
        If the capture cannot be read or lacks a role, or a sample of one.
    """
    return _fit(
        CaptureJob(os.fspath(captures), options or FitOptions(), axes),
        n_jobs=n_jobs,
        executor=executor,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def _fit(
    job: Job,
    *,
    n_jobs: int,
    executor: Executor | None,
    checkpoint: str | os.PathLike[str] | None,
    resume: bool,
    progress: Progress | None,
) -> Calibration:
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs < 1:
        raise InputError(f"n_jobs is {n_jobs!r}; a whole number of at least 1 is accepted")
    if resume and checkpoint is None:
        raise InputError("there is nothing to resume without a checkpoint; give its path")
    place = None
    if checkpoint is not None:
        place = ensure_resumable(checkpoint, resume=resume, what="fit")
    is_shared = executor is not None or n_jobs > 1
    shared = job.shared() if is_shared else job
    with job.open() as source:
        PairJoiner(source, job.axes)  # raises where axes are stated of an output that is not there
        provenance = source.provenance
        warn_of_models(provenance)
        n_samples = len(source.samples)
        kept = None
        if place is not None:
            kept = Checkpoint(place, _identity(job, provenance, source), job.options)
        state = (kept.load() if kept and resume else None) or FitState(job.options)
        if not is_shared:
            batches = fit_range(
                job, source, start=state.n_samples, stop=n_samples, state=state, progress=progress
            )
            with contextlib.closing(batches), _kept(kept, state):
                for _ in batches:
                    if kept:
                        kept.offer(state)
    if is_shared:
        states = _states_of_shards(shared, state.n_samples, n_samples, n_jobs, executor)
        idle: list[set[str]] = []
        with contextlib.closing(states), _kept(kept, state):
            for part, idle_faults in states:
                state.merge(part)
                idle.append(set(idle_faults))
                if kept:
                    kept.offer(state)
                if progress:
                    progress(state.n_samples, n_samples)
        # As the runner itself warns where it runs here.
        warn_of_idle(sorted(set.intersection(*idle)) if idle else ())
    calibration = _calibration(state, provenance)
    if kept:
        kept.remove()
    return calibration


def _states_of_shards(
    job: Job, n_done: int, n_samples: int, n_jobs: int, executor: Executor | None
) -> Generator[tuple[FitState, tuple[str, ...]], None, None]:
    """Give the states of what is not done yet, worked out by other processes."""
    shards = [(max(start, n_done), stop) for start, stop in plan_shards(n_samples) if stop > n_done]
    if executor is not None:
        n_at_once = n_jobs if n_jobs > 1 else SHARDS_AT_ONCE
        yield from shard_states(job, shards, executor=executor, n_at_once=n_at_once)
        return
    with process_executor(n_jobs) as own:
        yield from shard_states(job, shards, executor=own, n_at_once=n_jobs + 2)


@contextlib.contextmanager
def _kept(kept: Checkpoint | None, state: FitState) -> Iterator[None]:
    """Keep how far a fit is when a model or a worker fails.

    Not at Ctrl-C, which may have come in the middle of an update.
    """
    try:
        yield
    except RunnerError:
        if kept:
            kept.save(state)
        raise


def _identity(job: Job, provenance: dict[str, Any], source: PairSource) -> dict[str, Any]:
    """Say what fit it is, so that no other one goes on from its checkpoint."""
    axes: Any = job.axes
    if isinstance(axes, OutputAxes):
        stated = [
            [role, name, axis]
            for role, named in (("batch", axes.batch), ("channel", axes.channel))
            for name, axis in named.items()
        ]
    else:
        stated = [[name, *dataclasses.astuple(layout)] for name, layout in (axes or {}).items()]
    options = {
        name: value if value is None or isinstance(value, str) else np.asarray(value).tolist()
        for name, value in vars(job.options).items()
    }
    return {
        "convcal": convcal.__version__,
        **provenance,
        "samples": source.fingerprint,
        "options": options,
        "axes": stated,
    }


def _calibration(state: FitState, provenance: dict[str, Any]) -> Calibration:
    versions = {
        "convcal": convcal.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    calibration = Calibration(state.assess(), {**provenance, "versions": versions})
    if calibration.verdict == "identical":
        warn_of_reference_runtime(
            calibration.provenance,
            finding="the fp16 program itself is right, as the reference runtime computes it",
        )
    return calibration
