# SPDX-License-Identifier: BSD-3-Clause
"""Decide whether a candidate's outputs are close enough to the reference's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convcal.calibration import Calibration
from convcal.cautions import (
    check_built_in,
    warn_of_fitted_data,
    warn_of_models,
    warn_of_other_device,
    warn_of_reference_runtime,
)
from convcal.correction import Correction
from convcal.errors import InputError
from convcal.estimation.metrics import Metrics, measure
from convcal.pairs import OutputPair, Pairs

__all__ = ["CheckResult", "OutputCheck", "Thresholds", "check"]


@dataclass(frozen=True)
class Thresholds:
    """What a candidate must reach on every output; None is not asked for.

    Parameters
    ----------
    min_snr_db, min_psnr_db : float, optional
        At least so many dB.
    max_abs_error, max_rmse : float, optional
        At most that much, in the output's units.
    min_cosine : float, optional
        At least that cosine similarity.

    Raises
    ------
    InputError
        If a threshold is NaN, which nothing misses.
    """

    min_snr_db: float | None = None
    min_psnr_db: float | None = None
    max_abs_error: float | None = None
    max_rmse: float | None = None
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit is not None and math.isnan(limit):
                raise InputError(f"the threshold {name} is {limit}; give a number")

    def failures(self, metrics: Metrics) -> list[str]:
        """Say which thresholds the metrics miss, one sentence each."""
        at_least = {
            "SNR": (metrics.snr_db, self.min_snr_db, " dB"),
            "PSNR": (metrics.psnr_db, self.min_psnr_db, " dB"),
            "cosine": (metrics.cosine, self.min_cosine, ""),
        }
        at_most = {
            "largest error": (metrics.max_abs_error, self.max_abs_error),
            "RMSE": (metrics.rmse, self.max_rmse),
        }
        return [
            f"{name} {value:.6g}{unit} is below {limit:g}{unit}"
            for name, (value, limit, unit) in at_least.items()
            if limit is not None and value < limit
        ] + [
            f"{name} {value:.6g} is above {limit:g}"
            for name, (value, limit) in at_most.items()
            if limit is not None and value > limit
        ]


DEFAULT_THRESHOLDS = Thresholds(min_snr_db=50.0)
"""coreai-onnx measured faithful conversions at 57 dB and above, lowering bugs below about 40 dB."""


@dataclass(frozen=True)
class OutputCheck:
    """What was measured on one output, and what of it was not good enough."""

    metrics: Metrics
    failures: tuple[str, ...]


@dataclass(frozen=True)
class CheckResult:
    """The answer of `check`; true where every output passed."""

    outputs: dict[str, OutputCheck]
    thresholds: Thresholds

    def __bool__(self) -> bool:
        return not any(output.failures for output in self.outputs.values())

    def to_dict(self) -> dict[str, Any]:
        """Give the result JSON-ready."""
        return {
            "passed": bool(self),
            "outputs": {
                name: {"metrics": output.metrics.to_dict(), "failures": list(output.failures)}
                for name, output in self.outputs.items()
            },
        }


def check(
    pairs: Pairs,
    *,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    calibration: Calibration | None = None,
    margins: Calibration | None = None,
) -> CheckResult:
    """Compare paired outputs with thresholds.

    Parameters
    ----------
    pairs : Pairs
        Of `convcal.pairs.record_pairs` or `convcal.pairs.read_pairs`; the observed model is the
        candidate.
    thresholds : Thresholds
        What every output must reach; an SNR of 50 dB by default.
    calibration : Calibration, optional
        Applied to the candidate first; then only positions inside its margins count.
    margins : Calibration, optional
        Only positions inside its margins count, and nothing is applied: for a candidate that
        has the correction built in.

    Returns
    -------
    CheckResult
        False where an output misses a threshold, or is not finite where the reference is.

    Raises
    ------
    InputError
        If both calibrations are given, one has an output that the candidate lacks or does not
        fit it, or the candidate has a correction built in and another is to be applied.

    Warns
    -----
    ConvcalWarning
        If the candidate passed, but on the reference runtime, where a fault of a device cannot
        show; if the models look like the wrong ones, the data are those that the calibration was
        fitted on, the calibration was fitted on another device, or the margins of a correction
        that is built in count.
    """
    if calibration is not None and margins is not None:
        raise InputError("a calibration to apply and one for its margins are given; give one")
    warn_of_models(pairs.provenance)
    check_built_in(pairs.provenance, calibration=calibration, margins=margins)
    given = calibration or margins
    corrections = {}
    if given is not None:
        warn_of_fitted_data(pairs.provenance, given)
        warn_of_other_device(pairs.provenance, given, is_built_in=margins is not None)
        corrections = given.corrections
    unknown = sorted(set(corrections) - set(pairs.outputs))
    if unknown:
        raise InputError(
            f"the calibration corrects {unknown}, which the candidate does not have; "
            f"its outputs are {sorted(pairs.outputs)}"
        )
    outputs = {}
    for name, pair in pairs.outputs.items():
        try:
            outputs[name] = _check_output(
                pair, corrections.get(name), thresholds=thresholds, is_applied=margins is None
            )
        except InputError as error:
            raise InputError(f"output '{name}': {error}") from None
    result = CheckResult(outputs, thresholds)
    if result:
        warn_of_reference_runtime(
            pairs.provenance, finding="the candidate passed on the reference runtime"
        )
    return result


def _check_output(
    pair: OutputPair,
    correction: Correction | None,
    *,
    thresholds: Thresholds,
    is_applied: bool,
) -> OutputCheck:
    reference, candidate = pair.reference, pair.observed
    if correction is not None:
        # Pairs are (N, channels, *space), whatever the layout of a single output is.
        correction = replace(correction, batch_axis=0, channel_axis=1)
        corrected = correction.apply(candidate)  # raises where it does not fit
        if is_applied:
            candidate = corrected
        region = correction.valid_region(candidate.shape)
        candidate, reference = candidate[region], reference[region]
    metrics = measure(reference, candidate)
    failures = thresholds.failures(metrics)
    if metrics.n_values == 0:
        failures.insert(0, "there is no position where both are finite")
    n_lost = int(np.sum(np.isfinite(reference) & ~np.isfinite(candidate)))
    if n_lost:
        failures.insert(0, f"{n_lost} values are not finite where the reference is")
    return OutputCheck(metrics, tuple(failures))
