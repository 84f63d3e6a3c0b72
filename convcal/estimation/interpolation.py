# SPDX-License-Identifier: BSD-3-Clause
"""Filters that move an array by a fraction of a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convcal.arithmetic import correct

__all__ = ["Filter", "apply_filters", "axis_filter", "filter_margins", "fit_filters", "tap_count"]

Filter = tuple[int, tuple[float, ...]]
"""Offset and taps: ``corrected[i] = sum over k of taps[k] * observed[i + offset + k]``."""

_STILL: Filter = (0, (1.0,))
_N_TAPS = 12
_BETA = 6.0  # by measurement, see axis_filter


def tap_count(size: int) -> int:
    """Choose how many taps an axis of `size` pixels can afford; 0 means whole pixels only.

    A filter of `t` taps has no full source at some `t` positions of the two borders. Up to a
    quarter of a small axis is given away, and below 12 pixels nothing is.
    """
    if size < 12:
        return 0
    return min(_N_TAPS, max(4, size // 8 * 2))


def axis_filter(shift: float, *, n_taps: int = _N_TAPS) -> Filter:
    """Give the filter that applies a shift along one axis.

    Parameters
    ----------
    shift : float
        Pixels, in the sign of `convcal.estimation.estimate`.
    n_taps : int
        Even number of taps of a fractional shift.

    Returns
    -------
    offset : int
    taps : tuple of float
        A whole-pixel shift has the one tap 1. Otherwise a sinc under a Kaiser window, both
        centred on the wanted position, whose sum is 1: constants stay what they are.

    Notes
    -----
    Measured by ``benchmarks/estimation.py`` for 12 taps at the worst fraction, half a pixel: the
    transfer function is within 1e-3 of the ideal one up to 0.61 of the Nyquist frequency, within
    0.01 up to 0.71 and within 0.1 up to 0.79. At Nyquist itself no real filter can do it. What it
    leaves of the contents of `convcal.datasets` moved by (0.37, -2.5) px: smooth 66 dB, blobs 64,
    edges 43, pink 18, white 10 dB.
    """
    nearest = round(shift)
    if shift == nearest:
        return -nearest, (1.0,)
    first = math.floor(-shift) - n_taps // 2 + 1
    position = np.arange(n_taps) + first + shift
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (2 * position / n_taps) ** 2, 0, None)))
    return first, _summing_to_one(np.sinc(position) * window)


def apply_filters(array: NDArray[np.float64], filters: Sequence[Filter]) -> NDArray[np.float64]:
    """Move an array (N, C, *spatial) by one filter per spatial axis, the edge repeated."""
    n_channels = array.shape[1]
    return correct(array, filters=filters, gain=(1.0,) * n_channels, bias=(0.0,) * n_channels)


def fit_filters(
    reference: NDArray[np.float64],
    observed: NDArray[np.float64],
    filters: Sequence[Filter],
    *,
    noise: float,
) -> tuple[Filter, ...]:
    """Fit the taps of a fractional shift to what they have to do.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite; gain and bias are out already, every channel in units of what it leaves.
    filters : sequence of Filter
        One per spatial axis, to start from; those of one tap stay.
    noise : float
        Variance per value that is not worth following; keeps the taps near their start along
        frequencies that the data do not have.

    Returns
    -------
    tuple of Filter
        Of the same offsets and lengths, each with the sum 1.

    Notes
    -----
    Least squares for one axis at a time, the others as they are, twice. A shift that was made by
    averaging or on straight lines blurs too, which no ideal filter undoes; and where a signal goes
    up to the Nyquist frequency, the best twelve taps for it are not those of a windowed sinc.
    """
    fitted = list(filters)
    axes = [a for a, (_, taps) in enumerate(fitted) if len(taps) > 1]
    for axis in [*axes, *axes] if len(axes) > 1 else axes:
        field = observed
        for other, used in enumerate(fitted):
            if other != axis:
                alone = [used if a == other else _STILL for a in range(len(fitted))]
                field = _inside(apply_filters(field, alone), used, other + 2)
        target = reference
        for other, used in enumerate(fitted):
            target = _inside(target, used, other + 2)
        offset, start = fitted[axis]
        rows = _neighbours(field, axis + 2, offset=offset, n_taps=len(start))
        rows = np.moveaxis(rows, axis + 2, -2).reshape(-1, len(start))
        values = np.moveaxis(target, axis + 2, -1).ravel()
        begin = np.asarray(start)
        gram = rows.T @ rows + max(noise, 1e-12) * len(rows) * np.eye(len(start))
        push = rows.T @ (values - rows @ begin)
        # The sum stays 1: what is a constant stays what it is.
        free, ones = np.linalg.solve(gram, push), np.linalg.solve(gram, np.ones(len(start)))
        fitted[axis] = offset, _summing_to_one(begin + free - ones * free.sum() / ones.sum())
    return tuple(fitted)


def _neighbours(
    array: NDArray[np.float64], axis: int, *, offset: int, n_taps: int
) -> NDArray[np.float64]:
    """Give the values under the taps at each position inside the margins, on a new last axis."""
    size = array.shape[axis]
    (start, end), first = filter_margins([(offset, (0.0,) * n_taps)])[0], max(0, offset)
    length = size - start - end
    part = np.take(array, np.arange(first, first + length + n_taps - 1), axis=axis)
    return np.lib.stride_tricks.sliding_window_view(part, n_taps, axis=axis)


def _inside(array: NDArray[np.float64], used: Filter, axis: int) -> NDArray[np.float64]:
    ((start, end),) = filter_margins([used])
    return np.take(array, np.arange(start, array.shape[axis] - end), axis=axis)


def _summing_to_one(taps: NDArray[np.float64]) -> tuple[float, ...]:
    """Give taps whose exact sum rounds to 1, the rest in the largest."""
    taps = taps / taps.sum()
    largest = int(np.argmax(np.abs(taps)))
    # Two more steps make the sum 1 in float64: the second for a tap above 1, of coarser steps.
    taps[largest] += 1 - math.fsum(taps)
    taps[0 if largest else -1] += 1 - math.fsum(taps)
    return tuple(float(tap) for tap in taps)


def filter_margins(filters: Sequence[Filter]) -> tuple[tuple[int, int], ...]:
    """Give how many positions at the start and end of each axis lack part of their source."""
    return tuple((max(0, -offset), max(0, offset + len(taps) - 1)) for offset, taps in filters)
