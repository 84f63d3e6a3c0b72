# SPDX-License-Identifier: BSD-3-Clause
"""Fit a calibration over two models, or over what was captured of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import convcal
from convcal.assessment import FitOptions, assess
from convcal.calibration import Calibration
from convcal.cautions import warn_of_models, warn_of_reference_runtime
from convcal.errors import InputError
from convcal.pairs import Axes, Model, Pairs, Progress, read_pairs, record_pairs
from convcal.words import TIMEOUT

__all__ = ["fit", "fit_captures"]


def fit(
    reference: Model,
    observed: Model,
    data: str | os.PathLike[str] | Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    options: FitOptions | None = None,
    runtime: str = "auto",
    reference_compute_units: str = "all",
    observed_compute_units: str = "all",
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    axes: Axes | None = None,
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
    emulate : sequence of str
        Faults that act on the observed model, as ``'crop-origin:variant=zero'``; recorded in the
        calibration.
    timeout : float
        Seconds that Core ML may take for loading a model, or for one sample.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where batch and channels are not on the axes 0 and 1.
    progress : callable, optional
        Called with (done, total) after every sample.

    Returns
    -------
    Calibration
        With a verdict per output, and the identity where no correction is proven.

    Raises
    ------
    ConvcalError
        If a package cannot be read or run, or models and data do not match.

    Warns
    -----
    ConvcalWarning
        If the answer is ``'identical'``, but on the reference runtime, where a fault of a device
        cannot show; or if the models look like the wrong ones.

    See Also
    --------
    fit_captures : The same without models.
    OutputCalibrator : The same over arrays.
    """
    pairs = record_pairs(
        reference,
        observed,
        data,
        runtime=runtime,
        reference_compute_units=reference_compute_units,
        observed_compute_units=observed_compute_units,
        emulate=emulate,
        timeout=timeout,
        axes=axes,
        progress=progress,
    )
    return _fit_pairs(pairs, options)


def fit_captures(
    captures: str | os.PathLike[str],
    *,
    options: FitOptions | None = None,
    axes: Axes | None = None,
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

    Returns
    -------
    Calibration
        The same corrections as `fit` gives on the models that were captured.

    Raises
    ------
    InputError
        If the capture cannot be read or lacks a role.
    """
    return _fit_pairs(read_pairs(captures, axes=axes), options)


def _fit_pairs(pairs: Pairs, options: FitOptions | None) -> Calibration:
    warn_of_models(pairs.provenance)
    outputs = {}
    for name, pair in pairs.outputs.items():
        try:
            outputs[name] = assess(
                pair.reference,
                pair.observed,
                layout=pair.layout,
                dtype=pair.observed.dtype.name,
                options=options,
            )
        except InputError as error:
            raise InputError(f"output '{name}': {error}") from None
    versions = {
        "convcal": convcal.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    calibration = Calibration(outputs, {**pairs.provenance, "versions": versions})
    if calibration.verdict == "identical":
        warn_of_reference_runtime(
            calibration.provenance,
            finding="the fp16 program itself is right, as the reference runtime computes it",
        )
    return calibration
