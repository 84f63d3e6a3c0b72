# SPDX-License-Identifier: BSD-3-Clause
"""How well each whole-pixel shift registers two stacks, on their true overlap."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["ShiftScores", "local_minima", "overlap_slices", "score_shifts"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


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
    """

    score: Array
    unexplained: Array
    correlation: Array
    n_values: Array
    alive: Mask
    limits: tuple[int, ...]

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
        allowed = np.ones(score.shape, dtype=bool)
        for axis in frozen_axes:
            centre = np.arange(score.shape[axis]) == self.limits[axis]
            allowed &= centre.reshape([-1 if a == axis else 1 for a in range(score.ndim)])
        least = np.min(score[allowed])
        # Equal but for the round-off of the FFT.
        equals = np.argwhere(allowed & (score <= least + 1e-7)) - np.array(self.limits)
        order = np.lexsort((*equals.T[::-1], (equals**2).sum(axis=1)))
        return tuple(int(s) for s in equals[order[0]])

    def vertex(self, shift: tuple[int, ...], free: tuple[int, ...]) -> tuple[float, ...]:
        """Give the top of the parabola through a shift and its neighbours, axis by axis."""
        index = self.index(shift)
        fine = [float(s) for s in shift]
        for axis in free:
            if not 0 < index[axis] < self.score.shape[axis] - 1:
                continue
            before, at, after = (
                float(self.score[(*index[:axis], index[axis] + k, *index[axis + 1 :])])
                for k in (-1, 0, 1)
            )
            bend = before - 2 * at + after
            if bend > 0:
                fine[axis] += min(max((before - after) / (2 * bend), -0.5), 0.5)
        return tuple(fine)


def score_shifts(
    reference: Array,
    observed: Array,
    *,
    limits: tuple[int, ...],
    floor: Array,
    valid_reference: Mask | None = None,
    valid_observed: Mask | None = None,
) -> ShiftScores:
    """Score every whole-pixel shift by what gain and bias per channel leave on the overlap.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite; standardised per channel, so that sums of squares lose nothing.
    limits : tuple of int
        Largest shift per axis, less than the size.
    floor : ndarray of float64, shape (C,)
        Unexplained share that rounding alone leaves; keeps the logarithm finite.
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
    n_channels, spatial = reference.shape[1], reference.shape[2:]
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
    count = np.maximum(n, 1)
    var_r = np.maximum(sum_rr / count - (sum_r / count) ** 2, 0)
    var_o = np.maximum(sum_oo / count - (sum_o / count) ** 2, 0)
    covariance = sum_ro / count - sum_r * sum_o / count**2
    alive = (var_r.max(axis=_tail(var_r)) > 1e-9) & (var_o.max(axis=_tail(var_o)) > 1e-9)
    enough = (n >= 4) & (var_r > 1e-9) & (var_o > 1e-9)
    correlation = np.where(enough, covariance / np.sqrt(np.where(enough, var_r * var_o, 1.0)), 0.0)
    correlation = np.clip(correlation, -1, 1)
    # Degrees of freedom: gain, bias and mean; small overlaps get nothing for free.
    freedom = (count - 1) / np.maximum(count - 2, 1)
    unexplained = np.where(enough, np.minimum((1 - correlation**2) * freedom, 1.0), 1.0)
    column = (n_channels,) + (1,) * len(spatial)
    logs = 0.5 * np.log(unexplained + floor.reshape(column))
    score = logs[alive].mean(axis=0) if alive.any() else np.zeros(n.shape[1:])
    return ShiftScores(
        score=score,
        unexplained=unexplained,
        correlation=correlation,
        n_values=n[alive].sum(axis=0) if alive.any() else n.sum(axis=0),
        alive=alive,
        limits=limits,
    )


def _tail(array: Array) -> tuple[int, ...]:
    return tuple(range(1, array.ndim))


def _padded_shape(spatial: tuple[int, ...], limits: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(
        scipy.fft.next_fast_len(size + limit, real=True)
        for size, limit in zip(spatial, limits, strict=True)
    )


def _crop(correlation: Array, limits: tuple[int, ...]) -> Array:
    """Take the shifts -m … m out of a circular correlation whose zero is at index 0."""
    for axis, limit in enumerate(limits):
        correlation = np.take(correlation, np.arange(-limit, limit + 1), axis=axis)
    return correlation


def _moments_of_boxes(reference: Array, observed: Array, limits: tuple[int, ...]) -> list[Array]:
    """Sum over the overlap where all values count: products by FFT, the rest by running sums."""
    n_samples, n_channels, *spatial = reference.shape
    padded = _padded_shape(tuple(spatial), limits)
    axes = tuple(range(1, len(spatial) + 1))
    cross = np.empty((n_channels, *(2 * limit + 1 for limit in limits)))
    for channel in range(n_channels):
        spectrum = scipy.fft.rfftn(reference[:, channel], padded, axes=axes)
        spectrum *= scipy.fft.rfftn(observed[:, channel], padded, axes=axes).conj()
        cross[channel] = _crop(scipy.fft.irfftn(spectrum.sum(axis=0), padded), limits)
    lengths = [
        size - np.abs(np.arange(-limit, limit + 1))
        for size, limit in zip(spatial, limits, strict=True)
    ]
    positions = np.ones(())
    for length in lengths:
        positions = np.multiply.outer(positions, length)
    n = np.broadcast_to(positions * n_samples, cross.shape)
    return [
        n,
        _box_sums(reference.sum(axis=0), limits, forward=True),
        _box_sums(observed.sum(axis=0), limits, forward=False),
        _box_sums(np.square(reference).sum(axis=0), limits, forward=True),
        _box_sums(np.square(observed).sum(axis=0), limits, forward=False),
        cross,
    ]


def _box_sums(pooled: Array, limits: tuple[int, ...], *, forward: bool) -> Array:
    """Sum over the overlap that each shift leaves of one of the two arrays."""
    for axis, limit in enumerate(limits, start=1):
        size = pooled.shape[axis]
        shift = np.arange(-limit, limit + 1) * (1 if forward else -1)
        zero = np.zeros_like(np.take(pooled, [0], axis=axis))
        running = np.concatenate([zero, np.cumsum(pooled, axis=axis)], axis=axis)
        pooled = np.take(running, np.minimum(size, size + shift), axis=axis) - np.take(
            running, np.maximum(0, shift), axis=axis
        )
    return pooled


def _moments_of_masks(
    reference: Array,
    observed: Array,
    valid_reference: Mask,
    valid_observed: Mask,
    limits: tuple[int, ...],
) -> list[Array]:
    """Sum over the overlap of two masks: six correlations per channel."""
    n_channels, spatial = reference.shape[1], reference.shape[2:]
    padded = _padded_shape(spatial, limits)
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
            moment[channel] = _crop(scipy.fft.irfftn(spectrum, padded), limits)
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
