# SPDX-License-Identifier: BSD-3-Clause
"""The shift that registers the observed output to the reference, with its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

from convcal.estimation.attraction import AGREEMENT, find_attraction
from convcal.estimation.gaps import Overlaid, fill_invalid, overlay
from convcal.estimation.overlap import (
    ShiftScores,
    local_minima,
    overlap_slices,
    score_shifts,
)
from convcal.estimation.phase import correlate_phases
from convcal.estimation.refinement import MODEL_ERROR, Line, Refinement, refine_shift
from convcal.estimation.units import unit_covariance, unit_deviations

__all__ = ["Registration", "register"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Shifts nearer to a whole pixel than this are whole, whatever the noise.
_WHOLE = 0.002
# How often all axes of a shift stay within the limits of noise. Of whole shifts 99 in 100 are to be
# called so, and the tails of few values are longer than a normal distribution's.
_WITHIN = 0.999
# Share of the variance that rounding both outputs leaves, in units of rounding one.
_ROUNDING = 4.0
# A second shift is as good as the best if it leaves at most 5 % more of the residual.
_AS_GOOD = 0.05
# The bands that are compared, as shares of the Nyquist frequency: a shift that was made by means
# over areas or by straight lines agrees with the band-limited model in the low ones only.
_BANDS = (1.0, 0.85, 0.7, 0.5, 0.3)
_MAX_FILLS, _SETTLED = 6, 0.0005
# Fewer positions than this along an axis are moved by whole pixels.
_LEAST_SIZE = 6
# From here on lower bands are tried: filters that are shorter leave next to nothing in them.
_LEAST_BANDED = 24


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
    band : float
        The widest band, as a share of the Nyquist frequency, whose own shift is within a standard
        error of `raw_shift`; below 1 where higher frequencies contradict it, as under a shift that
        was not made band-limited. `line` is of this band.
    interval : tuple of (float, float)
        95 % interval per axis about `raw_shift`.
    line : Line or None
        Gain and bias with their errors; None where nothing was refined.
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
    band: float
    interval: tuple[tuple[float, float], ...]
    line: Line | None
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

    Returns
    -------
    Registration

    Notes
    -----
    The whole-pixel shift is the one that leaves the least residual on the true overlap, which also
    works where a window would leave nothing, at 8 values per sample; the pooled phase correlation
    is evidence beside it. The fraction is refined by maximum likelihood in nested bands. Where the
    shift was not made band-limited, they differ by more than noise (Hausman 1978, "Specification
    tests in econometrics", Econometrica 46(6)) and the higher frequencies are drawn to whole
    pixels, by as much as the bands tell together (see `find_attraction`).
    """
    phase = correlate_phases(reference, observed, limits=limits)
    scores = score_shifts(
        reference,
        observed,
        limits=limits,
        floor=floor,
        valid_reference=valid_reference,
        valid_observed=valid_observed,
    )
    best = scores.best()
    identifiable = _identifiable(reference, observed, best, scores, floor)
    frozen = tuple(a for a, can in enumerate(identifiable) if not can)
    best = scores.best(frozen_axes=frozen)
    free = tuple(
        axis
        for axis, can in enumerate(identifiable)
        if can and reference.shape[axis + 2] >= _LEAST_SIZE
    )
    masks = (valid_reference, valid_observed)
    refined = _refine(
        reference, observed, start=scores.vertex(best, free), floor=floor, free=free, masks=masks
    )
    n_axes = len(best)
    raw, error, band = tuple(float(b) for b in best), (math.inf,) * n_axes, 1.0
    deviations = np.zeros((0, n_axes))
    if refined is not None:
        refinement, band = refined.refinement, refined.band
        raw, error = refined.shift, refined.error
        deviations = np.zeros((len(refinement.grams), n_axes))
        deviations[:, list(free)] = unit_deviations(refinement.grams, floor)
    seen = scores.channels(best)[0]
    is_exact = bool(scores.alive.any() and (seen <= _ROUNDING * floor)[scores.alive].all())
    if is_exact and np.abs(np.subtract(raw, best)).max(initial=0) > _WHOLE:
        # Whole pixels leave rounding only; at 8 values a sample a fraction may seem to as well.
        raw, error = tuple(float(b) for b in best), (math.inf,) * n_axes
    nearest = tuple(round(s) for s in raw)
    sigmas = _sigmas(len(raw))
    whole = tuple(
        not math.isfinite(e) or abs(s - n) <= max(_WHOLE, sigmas * e)
        for s, n, e in zip(raw, nearest, error, strict=True)
    )
    shift = tuple(float(n) if w else s for s, n, w in zip(raw, nearest, whole, strict=True))
    seen = seen[scores.alive]
    return Registration(
        shift=tuple(s + 0.0 for s in shift),
        whole_shift=nearest if all(whole) else best,
        is_whole=whole,
        is_identifiable=identifiable,
        raw_shift=raw,
        standard_error=error,
        band=band,
        interval=tuple((s - 1.96 * e, s + 1.96 * e) for s, e in zip(raw, error, strict=True)),
        line=None if refined is None else refined.refinement.line,
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


@dataclass(frozen=True, eq=False)
class _Refined:
    """A shift in all of its bands, and the widest of these that agrees with it."""

    shift: tuple[float, ...]
    error: tuple[float, ...]
    band: float
    refinement: Refinement


def _refine(
    reference: Array,
    observed: Array,
    *,
    start: tuple[float, ...],
    floor: Array,
    free: tuple[int, ...],
    masks: tuple[Mask | None, Mask | None],
) -> _Refined | None:
    """Refine in each band, and take off what draws the higher frequencies to whole pixels.

    Notes
    -----
    The observed stack is moved by the whole pixels first, and what that exposes is filled from the
    reference, as gaps are. Left to prediction, its error would be content that the reference has:
    correlated with the slopes, and so a bias, which pooling does not take away.
    """
    least = min((reference.shape[axis + 2] for axis in free), default=0)
    overlaid = overlay(reference, observed, shift=start, masks=masks)
    shift = tuple(s - w for s, w in zip(start, overlaid.whole, strict=True))
    found: list[Refinement] = []
    for band in _BANDS if least >= _LEAST_BANDED else _BANDS[:1]:
        refinement = _refine_band(overlaid, shift=shift, floor=floor, free=free, band=band)
        if refinement is None:
            break
        found.append(refinement)
        shift = tuple(found[0].shift.tolist())
    if not found:
        return None
    shifts, errors = (
        np.array(each)
        for each in (
            [own.shift for own in found],
            [_standard_error(own, free, floor) for own in found],
        )
    )
    best, error, chosen = shifts[0].copy(), errors[0], 0
    if len(found) > 1:
        axes = list(free)
        cutoffs = np.array([[own.cutoffs[axis] for axis in axes] for own in found])
        white = np.array([np.diag(own.covariance)[axes] for own in found])
        told = find_attraction(shifts[:, axes], white, cutoffs)
        if not told.explains:
            # Something else is the matter: of nested bands the widest that no other contradicts.
            chosen = _uncontradicted(shifts[:, axes], white)
            best, error = shifts[chosen], errors[chosen]
        elif told.strength > 0:
            best[axes] = told.shift
            agrees = (np.abs(shifts - best)[:, axes] <= np.sqrt(told.variance)).all(axis=1)
            chosen = int(agrees.argmax()) if agrees.any() else len(found) - 1
            error = errors[chosen].copy()
            error[axes] = np.maximum(error[axes], np.sqrt(told.variance))
    return _Refined(
        shift=tuple((best + overlaid.whole).tolist()),
        error=tuple(error.tolist()),
        band=_BANDS[chosen],
        refinement=found[chosen],
    )


def _refine_band(
    overlaid: Overlaid,
    *,
    shift: tuple[float, ...],
    floor: Array,
    free: tuple[int, ...],
    band: float,
) -> Refinement | None:
    """Refine in one band; the shift comes on top of the whole pixels."""
    masks = overlaid.masks
    has_masks = any(mask is not None for mask in masks)
    found = None
    # What fills a gap is as far off as the shift it was taken at: again, until it settles.
    for _ in range(_MAX_FILLS if has_masks else 1):
        ref, obs = overlaid.reference, overlaid.observed
        valid: Mask | None = None
        if has_masks:
            ref, obs, valid = fill_invalid(ref, obs, shift=shift, masks=masks)
            valid = valid & overlaid.inside
        found = refine_shift(ref, obs, start=shift, floor=floor, free=free, band=band, valid=valid)
        if found is None:
            return None
        moved = np.abs(found.shift - shift).max()
        shift = tuple(found.shift.tolist())
        if moved < _SETTLED:
            break
    return found


def _uncontradicted(shifts: Array, variances: Array) -> int:
    """Give the widest band from which no lower one differs by more than noise makes."""
    for band in range(len(shifts)):
        moved = np.abs(shifts[band + 1 :] - shifts[band])
        # The wide band's estimate is the efficient one: the variance of the difference is that of
        # the two.
        extra = np.maximum(variances[band + 1 :] - variances[band], 0.0)
        if (moved <= _sigmas(shifts.shape[1]) * np.sqrt(extra) + AGREEMENT).all():
            break
    return band


def _sigmas(n_axes: int) -> float:
    """Give the standard errors within which all of so many axes stay: 3.3 of one axis."""
    return float(-scipy.special.ndtri((1 - _WITHIN ** (1 / n_axes)) / 2))


def _standard_error(found: Refinement, free: tuple[int, ...], floor: Array) -> tuple[float, ...]:
    """Give the error of each axis: of white noise, or of what the units show where that is more."""
    variance = np.diag(found.covariance).copy()
    robust = unit_covariance(found.grams, floor)
    if robust is not None:
        # Beyond what chance makes of so many units, the noise is not white.
        limit = 1 + 2.5 * math.sqrt(2 / len(found.grams))
        spread, own = np.diag(robust), variance[list(free)]
        variance[list(free)] = np.where(spread > limit * own, spread, own)
    return tuple(float(e) for e in np.sqrt(variance + MODEL_ERROR**2))


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
