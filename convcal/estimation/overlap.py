# SPDX-License-Identifier: BSD-3-Clause
"""How well each whole-pixel shift registers two stacks, on their true overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convcal.estimation.band import BandFilter

__all__ = [
    "ShiftScores",
    "crop_shifts",
    "local_minima",
    "overlap_sizes",
    "overlap_slices",
    "overlap_sums",
    "padded_shape",
    "score_shifts",
    "scores_of",
]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# The correlation between whole pixels is interpolated from up to 8 to either side, 16 to a pixel.
_REACH, _LEAST_REACH = 8, 3
_FINE = 16
_STEPS = 11  # in either direction: a little beyond half a pixel
_DEAD = 1e-9  # variance, of 1, below which there is no signal
_MANY = 2**20  # values that are transformed at a time
_ROUND_OFF = 8  # units in the last place that a share of the variance may be wrong by


@dataclass(frozen=True, eq=False)
class ShiftScores:
    """The score of every whole-pixel shift up to a limit.

    Attributes
    ----------
    score : ndarray of float64, shape (2 m0 + 1, …)
        Per shift, half the logarithm of the share of the reference's variance that gain and bias
        leave unexplained, averaged over channels with signal: the negative log-likelihood per
        value when each channel has its own unknown noise. Less is better, 0 means no relation.
    unexplained : ndarray of float64, shape (C, 2 m0 + 1, …)
        That share for each channel.
    correlation : ndarray of float64, shape (C, 2 m0 + 1, …)
        Signed correlation on the overlap.
    n_values : ndarray of float64, shape (2 m0 + 1, …)
        Values that the score rests on.
    alive : ndarray of bool, shape (C,)
        Channels with signal in both.
    limits : tuple of int
        The largest shift per axis, m.
    round_off : float
        What `unexplained` may be wrong by.
    """

    score: Array
    unexplained: Array
    correlation: Array
    n_values: Array
    alive: Mask
    limits: tuple[int, ...]
    round_off: float

    def index(self, shift: tuple[int, ...]) -> tuple[int, ...]:
        """Give the index of a shift in `score`."""
        return tuple(s + m for s, m in zip(shift, self.limits, strict=True))

    def channels(self, shift: tuple[int, ...]) -> tuple[Array, Array]:
        """Give `unexplained` and `correlation` of each channel at a shift, both of shape (C,)."""
        flat = int(np.ravel_multi_index(self.index(shift), self.score.shape))
        n_channels = len(self.alive)
        return (
            self.unexplained.reshape(n_channels, -1)[:, flat],
            self.correlation.reshape(n_channels, -1)[:, flat],
        )

    def best(self, *, frozen_axes: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Give the best shift, 0 along `frozen_axes`; of equals, the smallest."""
        score = self.score
        if not frozen_axes:
            equals = np.flatnonzero(score <= self._as_low_as(score.min()))
            if len(equals) == 1:
                place = np.unravel_index(int(equals[0]), score.shape)
                return tuple(int(p) - m for p, m in zip(place, self.limits, strict=True))
        allowed = np.ones(score.shape, dtype=bool)
        for axis in frozen_axes:
            centre = np.arange(score.shape[axis]) == self.limits[axis]
            allowed &= centre.reshape([-1 if a == axis else 1 for a in range(score.ndim)])
        least = self._as_low_as(np.min(score[allowed]))
        equals = np.argwhere(allowed & (score <= least)) - np.array(self.limits)
        order = np.lexsort((*equals.T[::-1], (equals**2).sum(axis=1)))
        return tuple(int(s) for s in equals[order[0]])

    def _as_low_as(self, score: float) -> float:
        """Give the highest score that differs from one by round-off only."""
        return score + max(1e-7, self.round_off / (2 * math.exp(2 * score)))

    def vertex(self, shift: tuple[int, ...], free: tuple[int, ...]) -> tuple[float, ...]:
        """Give the top of the correlation about a shift, along some axes, within 0.02 pixels or so.

        Channels are pooled by what they tell at the whole-pixel shift, and the surface between
        whole pixels is interpolated in its band (after Guizar-Sicairos, Thurman and Fienup 2008,
        "Efficient subpixel image registration algorithms", Optics Letters 33(2), who do so for the
        circular correlation). Axes where the limit is near keep a parabola.
        """
        index = self.index(shift)
        unexplained, here = self.channels(shift)
        weight = here / np.maximum(unexplained, 1e-3)
        total = float(np.abs(weight).sum())
        if total == 0:
            return tuple(float(s) for s in shift)
        reach = {
            axis: min(_REACH, index[axis], self.score.shape[axis] - 1 - index[axis])
            for axis in free
        }
        fine = {axis: r for axis, r in reach.items() if r >= _LEAST_REACH}
        cut = tuple(
            slice(i - fine[a], i + fine[a] + 1) if a in fine else slice(i, i + 1)
            for a, i in enumerate(index)
        )
        part = self.correlation[(slice(None), *cut)]
        patch: Array = ((weight / total) @ part.reshape(len(weight), -1)).reshape(part.shape[1:])
        for axis in range(patch.ndim):
            # Contracts the leading axis and appends the fine one: order is kept at the end.
            length, *rest = patch.shape
            kernel = _interpolation(fine[axis]) if axis in fine else np.ones((1, 1))
            patch = (patch.reshape(length, -1).T @ kernel).reshape(*rest, -1)
        best = np.unravel_index(int(patch.argmax()), patch.shape)
        place = [float(s) for s in shift]
        for axis in fine:
            place[axis] += (_bend(patch, best, axis) + int(best[axis]) - _STEPS) / _FINE
        for axis, r in reach.items():
            if axis not in fine and r > 0:
                place[axis] += _bend(-self.score, index, axis)
        return tuple(place)


def _bend(surface: Array, index: tuple[Any, ...], axis: int) -> float:
    """Give the offset of the top of the parabola through a value and its neighbours."""
    if not 0 < index[axis] < surface.shape[axis] - 1:
        return 0.0
    before, at, after = (
        float(surface[(*index[:axis], index[axis] + k, *index[axis + 1 :])]) for k in (-1, 0, 1)
    )
    bend = 2 * at - before - after
    return min(max((after - before) / (2 * bend), -0.5), 0.5) if bend > 0 else 0.0


@lru_cache(maxsize=16)
def _interpolation(reach: int) -> Array:
    """Give the weights of 2 reach + 1 values, for each position about the middle one a column."""
    weights = np.zeros((2 * _STEPS + 1, 2 * reach + 2))
    for row, weight in enumerate(weights):
        first, (taps, _) = BandFilter(reach).taps((row - _STEPS) / _FINE)
        weight[first + reach : first + reach + len(taps)] = taps
    # The outermost tap is zero at whole positions, the only ones where it would fall beyond.
    return np.ascontiguousarray(weights[:, :-1].T)


def score_shifts(
    reference: Floats,
    observed: Floats,
    *,
    limits: tuple[int, ...],
    floor: Array,
    valid_reference: Mask | None = None,
    valid_observed: Mask | None = None,
) -> ShiftScores:
    """Score every whole-pixel shift by what gain and bias per channel leave on the overlap.

    Parameters
    ----------
    reference, observed : ndarray of float64 or float32, shape (N, C, *spatial)
        Finite; standardised per channel, so that sums of squares lose nothing.
    limits : tuple of int
        Largest shift per axis, less than the size.
    floor : ndarray of float64, shape (C,)
        Unexplained share that rounding alone leaves; keeps the logarithm finite. At least ten times
        the arrays' own round-off is taken.
    valid_reference, valid_observed : ndarray of bool or None
        Broadcastable to the arrays. None means that every value counts.

    Returns
    -------
    ShiftScores

    Notes
    -----
    All shifts at once by correlations of zero-padded arrays, the masked ones after Padfield 2012
    ("Masked object registration in the Fourier domain", IEEE TIP 21(5)). Nothing wraps around:
    every sum runs over exactly the positions that both outputs have.
    """
    if valid_reference is None and valid_observed is None:
        moments = _moments_of_boxes(reference, observed, limits)
    else:
        ones = np.ones(reference.shape, dtype=bool)
        moments = _moments_of_masks(
            reference,
            observed,
            ones if valid_reference is None else np.broadcast_to(valid_reference, ones.shape),
            ones if valid_observed is None else np.broadcast_to(valid_observed, ones.shape),
            limits,
        )
    n, sum_r, sum_o, sum_rr, sum_oo, sum_ro = moments
    each = 1 / np.maximum(n, 1)
    mean_r, mean_o = sum_r * each, sum_o * each
    round_off = _ROUND_OFF * float(np.finfo(reference.dtype).eps)
    return scores_of(
        n,
        np.maximum(sum_rr * each - mean_r * mean_r, 0),
        np.maximum(sum_oo * each - mean_o * mean_o, 0),
        sum_ro * each - mean_r * mean_o,
        floor=np.maximum(floor, 10 * round_off),
        limits=limits,
        round_off=round_off,
    )


def scores_of(
    n: Array,
    var_r: Array,
    var_o: Array,
    covariance: Array,
    *,
    floor: Array,
    limits: tuple[int, ...],
    round_off: float = _ROUND_OFF * float(np.finfo(np.float64).eps),
) -> ShiftScores:
    """Score every whole-pixel shift by the moments on its overlap.

    Parameters
    ----------
    n : ndarray of float64, shape (C or 1, 2 m0 + 1, …)
        Values.
    var_r, var_o, covariance : ndarray of float64, shape (C, 2 m0 + 1, …)
        Of channels with a variance about 1 in both; 0 where there is no signal.
    floor, limits
        As for `score_shifts`.
    round_off : float
        What a share of the variance may be wrong by.
    """
    tail = tuple(range(1, var_r.ndim))
    alive = (var_r.max(axis=tail) > _DEAD) & (var_o.max(axis=tail) > _DEAD)
    power = var_r * var_o
    power[(n < 4) | (var_r <= _DEAD) | (var_o <= _DEAD)] = np.inf
    correlation = covariance / np.sqrt(power)
    correlation.clip(-1, 1, out=correlation)
    # Degrees of freedom: gain, bias and mean; small overlaps get nothing for free.
    freedom = 1 + 1 / np.maximum(n - 2, 1)
    unexplained = (1 - correlation * correlation) * freedom
    np.minimum(unexplained, 1.0, out=unexplained)
    score = np.zeros(var_r.shape[1:])
    n_alive = int(alive.sum())
    own = slice(None) if n_alive in {0, len(alive)} else alive
    if n_alive:
        left = unexplained[own] + floor[own].reshape(-1, *(1,) * len(limits))
        score = 0.5 * np.log(left).mean(axis=0)
    return ShiftScores(
        score=score,
        unexplained=unexplained,
        correlation=correlation,
        n_values=n[0] * (n_alive or len(alive)) if len(n) == 1 else n[own].sum(axis=0),
        alive=alive,
        limits=limits,
        round_off=round_off,
    )


def padded_shape(spatial: tuple[int, ...], limits: tuple[int, ...]) -> tuple[int, ...]:
    """Choose sizes at which no shift within the limits wraps around."""
    return tuple(
        scipy.fft.next_fast_len(size + limit, real=True)
        for size, limit in zip(spatial, limits, strict=True)
    )


def crop_shifts(correlation: Array, limits: tuple[int, ...]) -> Array:
    """Take the shifts -m … m out of a circular correlation whose zero is at index 0."""
    for axis, limit in enumerate(limits, start=correlation.ndim - len(limits)):
        correlation = correlation.take(np.arange(-limit, limit + 1), axis=axis)
    return correlation


def _moments_of_boxes(reference: Floats, observed: Floats, limits: tuple[int, ...]) -> list[Array]:
    """Sum over the overlap where all values count: products by FFT, the rest by running sums."""
    n_samples, n_channels, *spatial = reference.shape
    padded = padded_shape(tuple(spatial), limits)
    axes = tuple(range(3, len(padded) + 3))
    cross = np.empty((n_channels, *(2 * limit + 1 for limit in limits)), reference.dtype)
    step = max(1, _MANY // (n_samples * math.prod(padded)))
    for first in range(0, n_channels, step):
        some = slice(first, first + step)
        both = np.stack([reference[:, some], observed[:, some]])
        spectra = scipy.fft.rfftn(both, padded, axes=axes)
        spectrum = np.conj(spectra[1], out=spectra[1])
        spectrum *= spectra[0]
        pooled = spectrum[0] if n_samples == 1 else spectrum.sum(axis=0)
        cross[some] = crop_shifts(
            scipy.fft.irfftn(pooled, padded, axes=tuple(range(1, len(padded) + 1))), limits
        )
    pooled = np.empty((2, 2, n_channels, *spatial), reference.dtype)
    for side, values in enumerate((reference, observed)):
        if n_samples == 1:
            pooled[0, side] = values[0]
            np.multiply(values[0], values[0], out=pooled[1, side])
        else:
            np.sum(values, axis=0, out=pooled[0, side])
            np.einsum("n...,n...->...", values, values, out=pooled[1, side])
    (sum_r, sum_o), (sum_rr, sum_oo) = overlap_sums(pooled, limits)
    back = (slice(None), *(slice(None, None, -1) for _ in limits))
    n = n_samples * overlap_sizes(tuple(spatial), limits)
    return [n[None], sum_r, sum_o[back], sum_rr, sum_oo[back], cross]


def overlap_sums(values: Floats, limits: tuple[int, ...]) -> Floats:
    """Sum over what each shift leaves of the reference: the whole less the border that falls.

    Parameters
    ----------
    values : ndarray, shape (..., *spatial)
    limits : tuple of int
        Largest shift per spatial axis, m.

    Returns
    -------
    ndarray, shape (..., 2 m0 + 1, …)
        Of the observed stack, what a shift leaves is what the opposite one leaves of the reference.
    """
    for axis, limit in enumerate(limits, start=values.ndim - len(limits)):
        head, size, tail = values.shape[:axis], values.shape[axis], values.shape[axis + 1 :]
        after = math.prod(tail)
        stacked = values.reshape(-1, size, after)
        border: Floats = stacked
        if 2 * limit < size:  # what lies between, no shift leaves out
            border = np.concatenate([stacked[:, :limit], stacked[:, size - limit :]], axis=1)
        kept = _kept(size, limit, values.dtype)
        sums = border[:, :, 0] @ kept.T if after == 1 else kept @ border
        sums = sums.reshape(-1, 2 * limit + 1, after)
        if 2 * limit < size:
            sums += stacked[:, limit : size - limit].sum(axis=1, keepdims=True)
        values = sums.reshape(*head, 2 * limit + 1, *tail)
    return values


@lru_cache(maxsize=16)
def overlap_sizes(spatial: tuple[int, ...], limits: tuple[int, ...]) -> Array:
    """Count the positions of the overlap that each shift leaves; not to be written to."""
    count: Array = np.ones(())
    for size, limit in zip(spatial, limits, strict=True):
        count = np.multiply.outer(count, size - np.abs(np.arange(-limit, limit + 1)))
    return count


@lru_cache(maxsize=64)
def _kept(size: int, limit: int, dtype: np.dtype[Any]) -> Floats:
    """Tell which of the first and last `limit` positions each shift of the reference leaves."""
    shift, position = np.arange(-limit, limit + 1)[:, None], np.arange(size)
    kept = (position >= shift) & (position < size + shift)
    if 2 * limit < size:
        kept = np.concatenate([kept[:, :limit], kept[:, size - limit :]], axis=1)
    return kept.astype(dtype)


def _moments_of_masks(
    reference: Floats,
    observed: Floats,
    valid_reference: Mask,
    valid_observed: Mask,
    limits: tuple[int, ...],
) -> list[Array]:
    """Sum over the overlap of two masks: six correlations per channel."""
    n_channels, spatial = reference.shape[1], reference.shape[2:]
    padded = padded_shape(spatial, limits)
    axes = tuple(range(1, len(spatial) + 1))
    shape = (n_channels, *(2 * limit + 1 for limit in limits))
    moments = [np.empty(shape) for _ in range(6)]
    for channel in range(n_channels):
        spectra = []
        for values, valid in ((reference, valid_reference), (observed, valid_observed)):
            mask = valid[:, channel].astype(np.float64)
            kept = values[:, channel] * mask
            spectra.append(
                [scipy.fft.rfftn(part, padded, axes=axes) for part in (mask, kept, kept * kept)]
            )
        pairs = [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1)]
        for moment, (power_r, power_o) in zip(moments, pairs, strict=True):
            spectrum = (spectra[0][power_r] * spectra[1][power_o].conj()).sum(axis=0)
            moment[channel] = crop_shifts(scipy.fft.irfftn(spectrum, padded), limits)
    moments[0] = np.rint(moments[0])
    return moments


def local_minima(score: Array) -> Mask:
    """Mark the entries that are less than or equal to all of their neighbours."""
    padded = np.pad(score, 1, constant_values=np.inf)
    lowest = np.ones(score.shape, dtype=bool)
    for step in product((0, 1, 2), repeat=score.ndim):
        window = tuple(slice(s, s + size) for s, size in zip(step, score.shape, strict=True))
        lowest &= score <= padded[window]
    return lowest


def overlap_slices(
    shift: tuple[int, ...], spatial: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give the positions of reference and observed that a whole-pixel shift brings together."""
    ref = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(shift, spatial, strict=True))
    obs = tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(shift, spatial, strict=True))
    return (slice(None), slice(None), *ref), (slice(None), slice(None), *obs)
