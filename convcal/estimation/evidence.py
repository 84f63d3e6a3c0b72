# SPDX-License-Identifier: BSD-3-Clause
"""What an estimate rests on, ready for JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.affine import AffineFit
from convcal.estimation.judgement import Judgement
from convcal.estimation.registration import Registration
from convcal.estimation.rounding import RoundingLevel
from convcal.estimation.selection import Choice
from convcal.estimation.splitting import Split
from convcal.estimation.validity import Validity

__all__ = ["gather_evidence"]

Array = NDArray[np.float64]

_BEYOND = 1.96


def gather_evidence(
    *,
    split: Split,
    choice: Choice,
    registration: Registration | None,
    line: tuple[Array, Array, Array, Array] | None,
    validity: Validity,
    level: RoundingLevel,
    fit: AffineFit,
    judgement: Judgement,
    limits: tuple[int, ...],
) -> dict[str, Any]:
    """Gather the evidence of an estimate.

    Returns
    -------
    dict
        Of numbers, strings, lists and dicts; infinities are the strings "inf" and "-inf", what
        is not defined is None. Counts under ``holdout`` are those of the first fold.
    """
    evidence: dict[str, Any] = {
        "holdout": {
            "kind": split.kind,
            "n_folds": len(split.folds),
            "n_fitted": len(split.folds[0].train),
            "n_held_out": len(split.folds[0].held),
        },
        "max_shift": list(limits),
        "share_explained": choice.chosen.share if judgement.is_corrected else 0.0,
        "residual_before": judgement.level_before,
        "residual_after": judgement.level_after,
        "rounding": {
            "single": level.single.tolist(),
            "tolerance": level.tolerance.tolist(),
            "material": level.material.tolist(),
        },
        "candidates": [
            {
                "model": trial.candidate.model,
                "has_fitted_taps": trial.candidate.has_fitted_taps,
                "shift": list(trial.candidate.shift),
                "rmse": trial.rmse,
                "share_explained": trial.share,
                "sigmas": trial.sigmas,
                "n_units": trial.n_units,
                "is_admissible": trial.is_admissible,
            }
            for trial in choice.trials
        ],
        "channels": {
            "gain_fitted": fit.gain,
            "gain_error": fit.gain_error,
            "bias_fitted": fit.bias,
            "bias_error": fit.bias_error,
            "is_constant": fit.is_constant,
            "n_fitted": fit.n_values,
            "n_saturated": validity.saturated,
            "n_outliers": validity.outliers,
            "n_nonfinite_observed": validity.nonfinite_observed,
            "n_nonfinite_reference": validity.nonfinite_reference,
            "saturation_limits": [list(ends) for ends in validity.saturation_limits],
        },
        "findings": judgement.findings,
    }
    if line is not None:
        gain, bias, gain_error, bias_error = line
        evidence["channels"] |= {
            "gain_interval": _interval(gain, gain_error),
            "bias_interval": _interval(bias, bias_error),
        }
    if registration is not None:
        evidence["registration"] = {
            "shift": list(registration.raw_shift),
            "whole_shift": list(registration.whole_shift),
            "is_whole": list(registration.is_whole),
            "is_identifiable": list(registration.is_identifiable),
            "standard_error": list(registration.standard_error),
            "band": registration.band,
            "interval": [list(ends) for ends in registration.interval],
            "phase_peak": list(registration.phase_peak),
            "peak_ratio": registration.peak_ratio,
            "agreement": registration.agreement,
            "unit_spread": list(registration.unit_spread),
            "ambiguous_shifts": [list(shift) for shift in registration.ambiguous],
            "unexplained": registration.unexplained,
        }
    return {name: _json_ready(value) for name, value in evidence.items()}


def _interval(value: Array, error: Array) -> Array:
    """Give the 95 % interval of each channel, for the values without their noise."""
    return np.stack([value - _BEYOND * error, value + _BEYOND * error], axis=1)


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _json_ready(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(part) for part in value]
    if isinstance(value, np.ndarray):
        return _json_ready(value.tolist())
    if isinstance(value, np.generic):
        return _json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
