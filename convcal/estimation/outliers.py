# SPDX-License-Identifier: BSD-3-Clause
"""Observed values that contradict the registered reference."""

from __future__ import annotations

import math

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from convcal.estimation.affine import fit_affine
from convcal.estimation.gaps import move
from convcal.estimation.refinement import Line
from convcal.estimation.standard import MAD_TO_SIGMA

__all__ = ["find_outliers"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def find_outliers(
    reference: Array,
    observed: Array,
    *,
    shift: tuple[float, ...],
    line: Line | None,
    floor: Array,
    masks: tuple[Mask | None, Mask | None],
    slack: float,
) -> Mask | None:
    """Find observed values that lie far from the registered reference.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    shift : tuple of float
    line : Line or None
        Gain and bias; None to take those of the majority.
    floor, masks
        As for `register`.
    slack : float
        Share of the range of the neighbours' values that is allowed beyond them: half of it while
        the shift may be off, a tenth, what interpolation leaves, once outliers no longer pull it.

    Returns
    -------
    ndarray of bool or None
        None where they are fewer than one in a thousand of these, more than four tenths, or what
        varies.

    Notes
    -----
    The reference between two positions lies, but for little, between the extremes of their
    neighbours: a value is gross if it is 8 robust sigmas and the slack beyond those.
    """
    valid = np.isfinite(observed)
    for mask in masks:
        if mask is not None:
            valid &= np.broadcast_to(mask, observed.shape)
    # What has entered at a border contradicts nothing.
    for axis, (pixels, size) in enumerate(zip(shift, observed.shape[2:], strict=True), start=2):
        source = np.arange(size) + pixels
        has_source = (source >= 0) & (source <= size - 1)
        valid &= has_source.reshape([-1 if a == axis else 1 for a in range(observed.ndim)])
    column = (1, -1) + (1,) * len(shift)
    moved = move(reference, shift)
    if line is None:
        majority = fit_affine(observed, moved, valid=valid, robust=True)
        slope, intercept = majority.gain, majority.bias
    else:
        slope, intercept = line.slope, line.intercept
    predicted = slope.reshape(column) * moved + intercept.reshape(column)
    error = np.abs(observed - predicted)
    low, high = (
        f(predicted, size=(1, 1, *(3,) * len(shift)), mode="nearest")
        for f in (scipy.ndimage.minimum_filter, scipy.ndimage.maximum_filter)
    )
    beyond = np.maximum(low - observed, observed - high) - slack * (high - low)
    gross = np.zeros(observed.shape, dtype=bool)
    for channel in range(observed.shape[1]):
        kept = valid[:, channel]
        values = error[:, channel][kept]
        if not values.size:
            continue
        sigma = max(MAD_TO_SIGMA * float(np.median(values)), 20 * math.sqrt(floor[channel]))
        gross[:, channel] = (beyond[:, channel] > 8 * sigma) & kept
    share = gross.sum() / max(int(valid.sum()), 1)
    if not 1e-3 < share < 0.4:
        return None
    # Without them little is left of what is predicted: they are the signal.
    kept_power = np.square(np.where(gross | ~valid, 0.0, predicted)).sum()
    if kept_power < 0.3 * np.square(np.where(valid, predicted, 0.0)).sum():
        return None
    return gross
