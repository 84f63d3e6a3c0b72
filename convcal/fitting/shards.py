# SPDX-License-Identifier: BSD-3-Clause
"""Shards: ranges of samples that any process can work on, given nothing but names and numbers."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import uuid
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from convcal.assessment import FitOptions
from convcal.errors import InputError
from convcal.fitting.state import FitState
from convcal.pair_sources import (
    Data,
    Model,
    Outputs,
    PairSource,
    Progress,
    open_captured,
    open_models,
)
from convcal.pairs import Axes, PairJoiner
from convcal.words import TIMEOUT

__all__ = ["CaptureJob", "Job", "ModelsJob", "fit_range", "fit_shard", "plan_shards"]

MOST_SHARDS = 64
LEAST_SAMPLES = 4
"""A shard has no fewer samples, or its state costs more than its work."""


class Job(Protocol):
    """What is fitted: where the pairs come from, and how.

    Attributes
    ----------
    token : str
        Tells one fit from another: what a worker has open is of one of them.
    """

    @property
    def token(self) -> str:
        """Tells one fit from another."""

    @property
    def options(self) -> FitOptions:
        """How to fit."""

    @property
    def axes(self) -> Axes | None:
        """The layouts that are stated."""

    def open(self) -> AbstractContextManager[PairSource]:
        """Open the source of the pairs."""

    def shared(self) -> Job:
        """Give the same job in a form that other processes can do."""


@dataclass(frozen=True)
class ModelsJob:
    """Two models over a calibration set; the parameters are those of `convcal.fit`."""

    reference: Model
    observed: Model
    data: Data
    options: FitOptions
    axes: Axes | None = None
    runtime: str = "auto"
    reference_compute_units: str = "all"
    observed_compute_units: str = "all"
    function: str | None = None
    emulate: tuple[str, ...] = ()
    timeout: float = TIMEOUT
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def open(self) -> AbstractContextManager[PairSource]:
        """Open models and data."""
        return open_models(
            self.reference,
            self.observed,
            self.data,
            runtime=self.runtime,
            reference_compute_units=self.reference_compute_units,
            observed_compute_units=self.observed_compute_units,
            function=self.function,
            emulate=self.emulate,
            timeout=self.timeout,
        )

    def shared(self) -> ModelsJob:
        """Give the job with full paths.

        Raises
        ------
        InputError
            If a model or the data are no path.
        """
        paths = []
        for what, value in (
            ("the reference is", self.reference),
            ("the observed model is", self.observed),
            ("the data are", self.data),
        ):
            if not isinstance(value, str | os.PathLike):
                raise InputError(
                    f"{what} of type {type(value).__name__}, which other processes cannot "
                    "open; give a path (data as files or FILE.py:FUNCTION), capture the outputs "
                    "and use fit_captures, or leave out n_jobs and executor"
                )
            paths.append(str(Path(value).absolute()))
        reference, observed, data = paths
        return ModelsJob(
            reference,
            observed,
            data,
            self.options,
            axes=self.axes,
            runtime=self.runtime,
            reference_compute_units=self.reference_compute_units,
            observed_compute_units=self.observed_compute_units,
            function=self.function,
            emulate=self.emulate,
            timeout=self.timeout,
            token=self.token,
        )


@dataclass(frozen=True)
class CaptureJob:
    """Both roles of a capture; the parameters are those of `convcal.fit_captures`."""

    path: str
    options: FitOptions
    axes: Axes | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def open(self) -> AbstractContextManager[PairSource]:
        """Open the capture."""
        return contextlib.nullcontext(open_captured(self.path))

    def shared(self) -> CaptureJob:
        """Give the job with a full path."""
        return CaptureJob(str(Path(self.path).absolute()), self.options, self.axes, self.token)


def plan_shards(n_samples: int) -> list[tuple[int, int]]:
    """Cut samples into ranges; how many workers there are makes no difference.

    Returns
    -------
    list of (int, int)
        Start and end of each; at most 64, and of at least 4 samples where there are as many.
    """
    n_shards = max(1, min(MOST_SHARDS, n_samples // LEAST_SAMPLES))
    edges = [index * n_samples // n_shards for index in range(n_shards + 1)]
    return list(itertools.pairwise(edges))


def fit_range(
    job: Job,
    source: PairSource,
    *,
    start: int,
    stop: int,
    state: FitState,
    progress: Progress | None = None,
) -> Generator[int, None, None]:
    """Go through samples once, in batches, and take them into a state.

    Yields
    ------
    int
        How many samples are in the state, after each batch.
    """

    def told() -> Iterator[tuple[Outputs, Outputs]]:
        for done, pair in enumerate(source.read(start, stop), start=start + 1):
            yield pair
            if progress:
                progress(done, len(source.samples))

    for n_samples, batch in PairJoiner(source, job.axes).batches(told()):
        state.update(batch, n_samples=n_samples)
        yield state.n_samples


def fit_shard(job: Job, start: int, stop: int) -> tuple[bytes, tuple[str, ...]]:
    """Fit on some of the samples: what a worker does.

    Parameters
    ----------
    job : Job
        Of `Job.shared`.
    start, stop : int
        The range of samples.

    Returns
    -------
    bytes
        As of `FitState.to_bytes`.
    tuple of str
        The emulated faults that changed no output of this shard, nor of those before it here.
    """
    state = FitState(job.options)
    source = _opened(job)
    for _ in fit_range(job, source, start=start, stop=stop, state=state):
        pass
    return state.to_bytes(), source.idle_faults


class _Opened(threading.local):
    """What a thread of a worker has open: opening a model may take longer than a shard."""

    token: str | None = None
    source: PairSource
    stack: ExitStack


_here = _Opened()


def _opened(job: Job) -> PairSource:
    if _here.token != job.token:
        if _here.token is not None:
            _here.token = None
            _here.stack.close()
        with ExitStack() as stack:
            _here.source = stack.enter_context(job.open())
            _here.stack = stack.pop_all()
        _here.token = job.token
    return _here.source
