# SPDX-License-Identifier: BSD-3-Clause
"""The shift that registers the observed output to the reference, with its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.overlap import (
    ShiftScores,
    local_minima,
    overlap_slices,
    score_shifts,
)
from convcal.estimation.phase import correlate_phases
from convcal.estimation.refinement import refine_shift

__all__ = ["Registration", "register"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Shifts nearer to a whole pixel than this are whole: with exact fp16 pairs the estimate is within
# 0.004 px of the truth (smooth content, 3-D, 24**3), so that less can be the estimator's own error.
_WHOLE = 0.01
# 99.7 % of the time, where the error is all noise.
_SIGMAS = 3.0
# A second shift is as good as the best if it leaves at most 5 % more of the residual.
_AS_GOOD = 0.05


@dataclass(frozen=True, eq=False)
class Registration:
    """A shift and how sure it is.

    Attributes
    ----------
    shift : tuple of float
        Pixels per axis: ``corrected[i] = gain * observed[i - shift] + bias``. Whole where
        `is_whole`, 0 where not `is_identifiable`.
    whole_shift : tuple of int
        The best shift of whole pixels.
    is_whole, is_identifiable : tuple of bool
        Per axis. An axis is identifiable if both outputs have the same gradient along it.
    raw_shift : tuple of float
        Before rounding to whole pixels.
    standard_error : tuple of float
        Per axis, of `raw_shift`; infinite where nothing was refined.
    interval : tuple of (float, float)
        95 % interval per axis about `raw_shift`.
    peak_ratio : float
        Of the pooled phase correlation, see `PhaseCorrelation`.
    phase_peak : tuple of int
        Where that peak lies.
    agreement : float
        Share of samples and blocks that, by themselves, would move by less than a quarter pixel.
    unit_spread : tuple of float
        Median absolute deviation of their shifts, per axis.
    ambiguous : tuple of tuple of int
        Other whole-pixel shifts within noise of the best.
    unexplained : float
        Share of the reference's variance that the best whole-pixel shift leaves, median over
        channels with signal; 1 means no relation.
    """

    shift: tuple[float, ...]
    whole_shift: tuple[int, ...]
    is_whole: tuple[bool, ...]
    is_identifiable: tuple[bool, ...]
    raw_shift: tuple[float, ...]
    standard_error: tuple[float, ...]
    interval: tuple[tuple[float, float], ...]
    peak_ratio: float
    phase_peak: tuple[int, ...]
    agreement: float
    unit_spread: tuple[float, ...]
    ambiguous: tuple[tuple[int, ...], ...]
    unexplained: float


def register(
    reference: Array,
    observed: Array,
    *,
    limits: tuple[int, ...],
    floor: Array,
    valid_reference: Mask | None = None,
    valid_observed: Mask | None = None,
    fitted: Mask | None = None,
) -> Registration:
    """Register the observed output to the reference.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite and standardised per channel (see `standardised`).
    limits : tuple of int
        Largest shift per axis.
    floor : ndarray of float64, shape (C,)
        Variance that fp16 rounding leaves, in units of the reference's variance.
    valid_reference, valid_observed : ndarray of bool or None
        Positions that count, broadcastable to the arrays.
    fitted : ndarray of bool, shape (*spatial), or None
        Positions of the reference that choose the whole-pixel shift, where others are held out.
        The fraction comes from all of them: filters that reach across held-out blocks were seen
        to miss by 0.045 px in 24**3, and a fraction is one number per axis against thousands of
        values.

    Returns
    -------
    Registration

    Notes
    -----
    The pooled phase correlation gives the evidence of the peak and the start of the sub-pixel
    search; the whole-pixel shift is the one that leaves the least residual on the true overlap,
    which also works where a window would leave nothing, at 8 values per sample.
    """
    phase = correlate_phases(reference, observed, limits=limits)
    scores = score_shifts(
        reference,
        observed,
        limits=limits,
        floor=floor,
        valid_reference=_intersection(valid_reference, fitted),
        valid_observed=valid_observed,
    )
    best = scores.best()
    identifiable = _identifiable(reference, observed, best, scores, floor)
    frozen = tuple(a for a, can in enumerate(identifiable) if not can)
    best = scores.best(frozen_axes=frozen)
    start = tuple(
        float(whole) if axis in frozen else fine
        for axis, (whole, fine) in enumerate(zip(best, phase.refine(best), strict=True))
    )
    if valid_observed is not None or valid_reference is not None:
        reference, observed = _imputed(
            reference,
            observed,
            shift=best,
            scores=scores,
            valid_reference=valid_reference,
            valid_observed=valid_observed,
        )
    refinement = refine_shift(
        reference,
        observed,
        start=start,
        floor=floor,
        frozen_axes=frozen,
        valid_reference=valid_reference,
        valid_observed=valid_observed,
    )
    raw = refinement.shift if refinement.has_converged else tuple(float(b) for b in best)
    error = refinement.standard_error
    nearest = tuple(round(s) for s in raw)
    whole = tuple(
        not math.isfinite(e) or abs(s - n) <= max(_WHOLE, _SIGMAS * e)
        for s, n, e in zip(raw, nearest, error, strict=True)
    )
    shift = tuple(float(n) if w else s for s, n, w in zip(raw, nearest, whole, strict=True))
    deviations = refinement.unit_deviations
    seen = scores.channels(best)[0][scores.alive]
    return Registration(
        shift=tuple(s + 0.0 for s in shift),
        whole_shift=nearest if all(whole) else best,
        is_whole=whole,
        is_identifiable=identifiable,
        raw_shift=raw,
        standard_error=error,
        interval=tuple((s - 1.96 * e, s + 1.96 * e) for s, e in zip(raw, error, strict=True)),
        peak_ratio=phase.peak_ratio,
        phase_peak=phase.peak,
        agreement=float((np.abs(deviations).max(axis=1) < 0.25).mean()) if len(deviations) else 1.0,
        unit_spread=tuple(
            float(np.median(np.abs(deviations[:, a]))) if len(deviations) else 0.0
            for a in range(len(best))
        ),
        ambiguous=_ambiguous(scores, best, frozen),
        unexplained=float(np.median(seen)) if seen.size else 1.0,
    )


def _intersection(valid: Mask | None, fitted: Mask | None) -> Mask | None:
    if valid is None or fitted is None:
        return fitted if valid is None else valid
    return valid & fitted


def _identifiable(
    reference: Array, observed: Array, shift: tuple[int, ...], scores: ShiftScores, floor: Array
) -> tuple[bool, ...]:
    """Tell along which axes the two have a gradient in common.

    A gradient of noise is not in common, one across diagonal stripes is no information on either
    axis by itself: what counts is what remains of an axis once the others are free to move.
    """
    n_axes = len(shift)
    unexplained, correlation = scores.channels(shift)
    alive = scores.alive & (unexplained < 0.98)
    cut_ref, cut_obs = overlap_slices(shift, reference.shape[2:])
    ref, obs = reference[cut_ref], observed[cut_obs]
    possible = [a for a in range(n_axes) if scores.limits[a] > 0 and ref.shape[a + 2] >= 2]
    if not alive.any() or not possible:
        return (False,) * n_axes
    weight = np.where(alive, np.sign(correlation) / (unexplained + floor), 0.0).reshape(
        1, -1, *(1,) * n_axes
    )
    slopes = []
    for axis in possible:
        pair = []
        for array in (ref, obs):
            slope = np.diff(array, axis=axis + 2)
            # Common grid: the last difference is repeated, which repeats no information twice
            # where it would matter.
            pair.append(np.concatenate([slope, np.take(slope, [-1], axis=axis + 2)], axis + 2))
        slopes.append(pair)
    common = np.array([[float((weight * a[0] * b[1]).sum()) for b in slopes] for a in slopes])
    common = (common + common.T) / 2
    result = [False] * n_axes
    for j, axis in enumerate(possible):
        size_ref, size_obs = (float((np.abs(weight) * np.square(s)).sum()) for s in slopes[j])
        # What is left of this axis after the others have explained theirs.
        others = [k for k in range(len(possible)) if k != j and common[k, k] > 0]
        own = common[j, j]
        if others:
            rest = common[np.ix_(others, others)]
            row = common[j, others]
            own -= float(row @ np.linalg.lstsq(rest, row, rcond=1e-9)[0])
        power = math.sqrt(size_ref * size_obs)
        noise = 5 / math.sqrt(max(int(alive.sum()) * ref[:, 0].size, 1))
        least = float((np.abs(weight) * floor.reshape(weight.shape)).sum()) * ref[:, 0].size
        result[axis] = power > 0 and own > max(0.02, noise) * power and own > least
    return tuple(result)


def _imputed(
    reference: Array,
    observed: Array,
    *,
    shift: tuple[int, ...],
    scores: ShiftScores,
    valid_reference: Mask | None,
    valid_observed: Mask | None,
) -> tuple[Array, Array]:
    """Fill positions that do not count with what the other array says they should be.

    Filters reach across them; zeros would put edges there.
    """
    cut_ref, cut_obs = overlap_slices(shift, reference.shape[2:])
    slope = scores.channels(shift)[1].reshape(1, -1, *(1,) * len(shift))
    ref, obs = reference.copy(), observed.copy()
    if valid_observed is not None:
        valid = np.broadcast_to(valid_observed, observed.shape)
        obs[cut_obs] = np.where(valid[cut_obs], observed[cut_obs], slope * reference[cut_ref])
    if valid_reference is not None:
        valid = np.broadcast_to(valid_reference, reference.shape)
        ref[cut_ref] = np.where(valid[cut_ref], reference[cut_ref], slope * obs[cut_obs])
    return ref, obs


def _ambiguous(
    scores: ShiftScores, best: tuple[int, ...], frozen: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """List other shifts, a hill away from the best, that leave no more than noise beyond it."""
    score = scores.score
    index = scores.index(best)
    if score[index] > math.log(0.98) / 2:
        return ()  # nothing is related: that is another finding
    for axis in frozen:
        score = np.take(score, [scores.limits[axis]], axis=axis)
    index = tuple(0 if a in frozen else i for a, i in enumerate(index))
    excess = np.where(local_minima(score), score - score[index], np.inf)
    n = max(float(scores.n_values[scores.index(best)]), 1.0)
    # 12 / n: twice the log-likelihood ratio of one wrong in a million.
    # Where little is explained, a twentieth of the rest is much of it.
    as_good = min(_AS_GOOD, 0.1 * abs(float(score[index])))
    candidates = np.argwhere(excess <= max(as_good, 12 / n))
    centre = [0 if a in frozen else m for a, m in enumerate(scores.limits)]
    others = [
        tuple(int(v) for v in candidate - np.array(centre))
        for candidate in candidates
        if np.abs(candidate - np.array(index)).max() > 1
    ]
    others.sort(key=lambda s: (sum(v * v for v in s), s))
    return tuple(others[:16])
