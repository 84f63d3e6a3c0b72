# SPDX-License-Identifier: BSD-3-Clause
"""Displacements that differ from position to position and are no line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Warp", "find_warp"]

Array = NDArray[np.float64]

# A gain of 0.8 on white content looks like an interpolation that explains half of it.
_EXPLAINED = 0.6
# Of the displacements' mean square, what a line must leave.
_CROOKED = 0.5


@dataclass(frozen=True)
class Warp:
    """A displacement per position of each axis.

    Attributes
    ----------
    largest : tuple of float
        Per axis, the root mean square of the displacement about its line, in pixels.
    explained : float
        Share of the squared residual of samples that were not fitted.
    """

    largest: tuple[float, ...]
    explained: float


def find_warp(reference: Array, observed: Array) -> Warp | None:
    """Find whether each position of an axis is displaced by an amount of its own.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite, standardised per channel with the reference's mean and spread.

    Returns
    -------
    Warp or None
        None where the displacements, fitted to half of the samples, take away less than 60 %
        of the squared residual of the others, or a line through them leaves less than half of their
        mean square (then it is a shift or a scale), or there is only one sample.

    Notes
    -----
    Coordinates that are held in fp16 are wrong by a sawtooth of the position. Devices then
    interpolate linearly, so that the residual at position u is that displacement times the
    difference to the next neighbour on that side: one number per position, whose least squares
    are sums over all that shares the position.

    References
    ----------
    apple/coremltools #2068, pytorch #94816, pytorch/vision #9029.
    """
    n_samples = len(reference)
    spatial = reference.shape[2:]
    if n_samples < 2 or not spatial:
        return None
    fitted, tried = np.arange(n_samples) % 2 == 0, np.arange(n_samples) % 2 == 1
    residual = observed - reference
    total = float(np.square(residual[tried]).sum())
    if total == 0:
        return None
    # What is sparse leaves most positions without a displacement: the coordinates that fp16 gives
    # need no fit.
    for in_fp16 in (False, True):
        known = [_fp16_displacement(size, in_fp16=in_fp16) for size in spatial]
        left = residual
        for axis, displaced in enumerate(known, start=2):
            left = left - _moved(_neighbours(reference, axis), displaced, axis)
        explained = 1 - float(np.square(left).sum()) / float(np.square(residual).sum())
        if explained >= _EXPLAINED:
            return Warp(tuple(float(np.sqrt(np.square(d).mean())) for d in known), explained)
    largest, all_crooked, power_of_all = [], 0.0, 0.0
    for axis, size in enumerate(spatial, start=2):
        if size < 16:
            largest.append(0.0)
            continue
        others = tuple(a for a in range(reference.ndim) if a != axis)
        both = _neighbours(reference, axis)
        amounts, gains = [], []
        for neighbour in both:
            power = np.square(neighbour[fitted]).sum(axis=others)
            common = (residual[fitted] * neighbour[fitted]).sum(axis=others)
            amount = np.where(power > 0, np.maximum(common, 0) / np.where(power > 0, power, 1), 0)
            amounts.append(amount)
            gains.append(amount * np.maximum(common, 0))
        displaced = np.where(gains[0] >= gains[1], amounts[0], -amounts[1])
        residual = residual - _moved(both, displaced, axis)
        crooked = _about_line(displaced)
        all_crooked += crooked
        power_of_all += float(np.square(displaced).mean())
        largest.append(float(np.sqrt(crooked)))
    explained = 1 - float(np.square(residual[tried]).sum()) / total
    if explained < _EXPLAINED or all_crooked <= _CROOKED * power_of_all:
        return None
    return Warp(tuple(largest), explained)


def _neighbours(array: Array, axis: int) -> tuple[Array, Array]:
    """Give the differences to the next and to the previous value; 0 at the ends."""
    step = np.diff(array, axis=axis)
    nothing = np.zeros_like(np.take(array, [0], axis=axis))
    return np.concatenate([step, nothing], axis=axis), np.concatenate([nothing, -step], axis=axis)


def _moved(both: tuple[Array, Array], displaced: Array, axis: int) -> Array:
    """Give what linear interpolation adds at those displacements, each below a pixel."""
    column = [-1 if a == axis else 1 for a in range(both[0].ndim)]
    amount = displaced.reshape(column)
    return np.where(amount >= 0, both[0], both[1]) * np.abs(amount)


def _fp16_displacement(size: int, *, in_fp16: bool) -> Array:
    """Give what a coordinate from -1 to 1 is off by, in pixels, stored (or computed) in fp16."""
    if size < 2:
        return np.zeros(size)
    half = (size - 1) / 2
    stored = _rounded(np.arange(size) / half - 1)
    there = _rounded(_rounded(stored + 1) * half) if in_fp16 else (stored + 1) * half
    return np.asarray(there - np.arange(size))


def _rounded(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float64)


def _about_line(values: Array) -> float:
    """Give the mean square about the best line."""
    place = np.arange(len(values)) - (len(values) - 1) / 2
    centred = values - values.mean()
    slope = float(centred @ place) / float(place @ place)
    return float(np.square(centred - slope * place).mean())
