# SPDX-License-Identifier: BSD-3-Clause
"""Arrays without units: mean 0 and spread 1 per channel, and what two have in common."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.arrays import sample_runs

__all__ = ["MAD_TO_SIGMA", "clipped", "correlation", "standardised"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of normal values over their median absolute deviation."""


def standardised(array: Array, valid: Mask | None) -> tuple[Array, Array, Array]:
    """Give an array with mean 0 and spread 1 per channel, zeros where it is not valid.

    Returns
    -------
    standard : ndarray
        Channels without signal above round-off become 0.
    mean, spread : ndarray of float64, shape (C,)
        The spread of channels without signal is given as 1.
    """
    axes = (0, *range(2, array.ndim))
    column = (1, -1) + (1,) * (array.ndim - 2)
    safe, count = array, np.full(array.shape[1], array.size // array.shape[1])
    if valid is not None:
        safe, count = np.where(valid, array, 0.0), np.maximum(valid.sum(axis=axes), 1)
    mean = safe.sum(axis=axes) / count
    centred = safe - mean.reshape(column)
    if valid is not None:
        centred[~valid] = 0.0
    power = np.zeros(len(mean))
    for run in sample_runs(array.shape):
        power += np.square(centred[run]).sum(axis=axes)
    spread = np.sqrt(power / count)
    is_flat = spread <= 1e-12 * np.abs(mean)
    spread = np.where(is_flat | (spread == 0), 1.0, spread)
    centred *= np.where(is_flat, 0.0, 1.0 / spread).reshape(column)
    return centred, mean, spread


def clipped(array: Array, valid: Mask | None) -> Array:
    """Give an array whose gross outliers are drawn in to five robust sigmas of their channel.

    Channels of which more than half is one value are left as they are: nothing tells what is
    gross there.
    """
    result = array.copy()
    for channel in range(array.shape[1]):
        values = array[:, channel]
        good = np.isfinite(values) if valid is None else valid[:, channel] & np.isfinite(values)
        if not good.any():
            continue
        middle = float(np.median(values[good]))
        sigma = MAD_TO_SIGMA * float(np.median(np.abs(values[good] - middle)))
        if sigma > 0:
            result[:, channel] = np.clip(values, middle - 5 * sigma, middle + 5 * sigma)
    return result


def correlation(first: Array, second: Array) -> float:
    """Give the correlation of two arrays where both are finite; 0 for fewer than 8 values."""
    good = np.isfinite(first) & np.isfinite(second)
    first, second = first[good], second[good]
    if first.size < 8:
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    power = float(first @ first) * float(second @ second)
    return float(first @ second) / math.sqrt(power) if power > 0 else 0.0
