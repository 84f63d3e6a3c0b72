# SPDX-License-Identifier: BSD-3-Clause
"""An estimate from the statistics of any number of samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.estimate import Estimate, estimate
from convcal.estimation.overlap import ShiftScores, overlap_slices
from convcal.estimation.rounding import rounding_level
from convcal.estimation.statistics import OutputStatistics

__all__ = ["estimate_statistics"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The line of all samples may leave a twentieth more of the subsample's squared error than its own
# line does, besides one rounding. Of samples of one kind it leaves about 2 / n more, n values of a
# channel. A twentieth comes of samples that are unlike those of the subsample, and a correction
# that was proven on these must not follow them.
_MOST_EXCESS = 0.05


def estimate_statistics(
    statistics: OutputStatistics,
    *,
    model: str = "auto",
    holdout: float = 0.25,
    robust: bool = False,
    data_range: float | None = None,
) -> Estimate:
    """Estimate what is wrong with an output of which only statistics are held.

    Parameters
    ----------
    statistics : OutputStatistics
        Of at least one sample. They also say how far the search goes.
    model, holdout, robust, data_range
        As for `estimate`; by default the PSNR refers to the range over all samples.

    Returns
    -------
    Estimate
        That of the subsample. Where it is of all samples, exactly what `estimate` gives for them.
        Otherwise, where the correction is of whole pixels, gain and bias of the channels that it
        corrects are those of the least squares over all samples; metrics and verdict stay those
        of the subsample. The evidence then has an entry ``pooled``:

        ``n_samples``, ``n_subsample`` : int
            How many samples came, and how many the subsample has.
        ``whole_shift``, ``whole_shift_all_data`` : list of int
            The best whole-pixel shift of either.
        ``is_consistent`` : bool
            Whether they agree; if not, nothing is replaced.
        ``is_replaced`` : list of bool
            Per channel, whether gain and bias are those of all samples.
        ``gain_error``, ``bias_error`` : list of float or None
            Their standard errors for white residuals, None where not replaced.
        ``residual_all_data`` : list of float or None
            Root mean square over all samples of what the correction leaves, per channel; None
            for a correction of fractions of a pixel, of a scale or of rows, of which moments know
            nothing.
        ``n_left_out`` : list of int
            Planes per channel that are not in the moments, having values that are not finite.

    Raises
    ------
    InputError
        If there is no sample, or a parameter cannot be used.

    Notes
    -----
    Sums know nothing of outliers. With `robust`, and in channels where the subsample has values
    at a limit, or where the line of all samples fits the subsample worse than its own, the
    subsample's gain and bias stay.
    """
    reference, observed = statistics.subsample()
    if data_range is None and not statistics.is_complete:
        data_range = _range(statistics)
    result = estimate(
        reference,
        observed,
        max_shift=statistics.max_shift,
        model=model,
        holdout=holdout,
        robust=robust,
        data_range=data_range,
    )
    if statistics.is_complete:
        return result
    ref, obs = reference.astype(np.float64), observed.astype(np.float64)
    single = rounding_level(ref, dtypes=statistics.dtypes).single
    moments = statistics.moments()
    shift = tuple(round(s) for s in result.shift)
    is_whole = (
        _is_inside(shift, moments.limits)
        and all(taps == (1.0,) for _, taps in result.filters)
        and result.resampling is None
        and result.rows is None
    )
    scores = moments.scores(rounding=single)
    best, expected = _best_shift(scores, result)
    is_corrected = result.model != "identity"
    is_consistent = _is_as_good(scores, expected, best) and (
        not (is_whole and is_corrected) or _is_as_good(scores, shift, best)
    )
    gain, bias = np.array(result.gain), np.array(result.bias)
    replaced = np.zeros(len(gain), dtype=bool)
    fit = moments.affine(shift if is_whole else (0,) * len(shift))
    if is_consistent and is_whole and not robust:
        pooled_gain = np.where(gain == 1, 1.0, fit.gain)
        here = moments.at(shift)
        pooled_bias = here.mean_reference - pooled_gain * here.mean_observed
        replaced = ((gain != 1) | (bias != 0)) & ~fit.is_constant
        replaced &= np.array(result.evidence["channels"]["n_saturated"]) == 0
        replaced &= _is_as_right(
            ref, obs, shift, lines=((gain, bias), (pooled_gain, pooled_bias)), single=single
        )
        gain = np.where(replaced, pooled_gain, gain)
        bias = np.where(replaced, pooled_bias, bias)
    pooled = {
        "n_samples": statistics.n_samples,
        "n_subsample": len(reference),
        "whole_shift": list(expected),
        "whole_shift_all_data": list(best),
        "is_consistent": is_consistent,
        "is_replaced": replaced.tolist(),
        "gain_error": _where(replaced, fit.gain_error),
        "bias_error": _where(replaced, fit.bias_error),
        "residual_all_data": (
            moments.rmse(shift, gain=gain, bias=bias).tolist() if is_whole else None
        ),
        "n_left_out": statistics.counts.n_left_out.tolist(),
    }
    return replace(
        result,
        gain=tuple(gain.tolist()),
        bias=tuple(bias.tolist()),
        evidence={**result.evidence, "pooled": pooled},
    )


def _range(statistics: OutputStatistics) -> float | None:
    """Give the range of the reference over all samples, where `estimate` would take it of some."""
    dtype = statistics.dtypes[0]
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        return None
    low = statistics.counts.minimum[0].min()
    high = statistics.counts.maximum[0].max()
    return float(high - low) if 0 < high - low < np.inf else None


def _is_inside(shift: tuple[int, ...], limits: tuple[int, ...]) -> bool:
    """Tell whether a shift was searched; a refined one may lie a pixel beyond."""
    return all(abs(s) <= m for s, m in zip(shift, limits, strict=True))


def _best_shift(scores: ShiftScores, result: Estimate) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the best whole-pixel shift of all samples, and that of the subsample.

    Both are 0 along axes that the subsample's registration could not identify.
    """
    registration = result.evidence.get("registration")
    if registration is None:
        return (), ()
    frozen = tuple(a for a, can in enumerate(registration["is_identifiable"]) if not can)
    return scores.best(frozen_axes=frozen), tuple(registration["whole_shift"])


def _is_as_good(scores: ShiftScores, shift: tuple[int, ...], best: tuple[int, ...]) -> bool:
    """Tell whether one shift is the best, or equal to it but for the round-off of the FFT."""
    if not _is_inside(shift, scores.limits):
        return False
    return bool(scores.score[scores.index(shift)] <= scores.score[scores.index(best)] + 1e-7)


def _is_as_right(
    reference: Array,
    observed: Array,
    shift: tuple[int, ...],
    *,
    lines: tuple[tuple[Array, Array], tuple[Array, Array]],
    single: Array,
) -> Mask:
    """Tell in which channels the second line fits the subsample as well as the first does."""
    cut_reference, cut_observed = overlap_slices(shift, reference.shape[2:])
    ref, obs = reference[cut_reference], observed[cut_observed]
    finite = np.isfinite(ref) & np.isfinite(obs)
    ref, obs = np.where(finite, ref, 0.0), np.where(finite, obs, 0.0)
    axes = (0, *range(2, ref.ndim))
    column = (1, -1) + (1,) * len(shift)
    count = np.maximum(finite.sum(axis=axes), 1)
    own, pooled = (
        np.square(
            np.where(finite, ref - gain.reshape(column) * obs - bias.reshape(column), 0.0)
        ).sum(axis=axes)
        / count
        for gain, bias in lines
    )
    is_right: Mask = pooled <= (1 + _MOST_EXCESS) * own + single**2
    return is_right


def _where(replaced: Mask, error: Array) -> list[float | None]:
    return [float(e) if is_new else None for is_new, e in zip(replaced, error, strict=True)]
