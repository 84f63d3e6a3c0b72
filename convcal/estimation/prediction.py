# SPDX-License-Identifier: BSD-3-Clause
"""What a stack would hold beyond its borders, by linear prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Predictor", "border_variances", "predictors"]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

_ORDER = 8  # values that predict
_RIDGE = 1e-6  # of the variance: fp16 noise and less, so that smooth content stays solvable
_MANY = 2**12  # values of a stack that its covariance is taken from, about
_LONGEST = 128  # of the pieces that are compared with themselves


@dataclass(frozen=True, eq=False)
class Predictor:
    """How to continue a stack along one axis.

    Attributes
    ----------
    before, after : ndarray of float64, shape (width, order)
        Weights of the first values for the positions ``-width … -1``, and of the last values for
        the positions that follow, both in the order of the positions.
    error : ndarray of float64, shape (width, width)
        Covariance of the errors of the predicted values, counted outwards.
    """

    before: Array
    after: Array
    error: Array

    @property
    def order(self) -> int:
        """How many values predict."""
        return int(self.before.shape[1])


def predictors(
    stacks: Sequence[Floats], *, axes: Sequence[int], widths: Sequence[int]
) -> list[list[Predictor]]:
    """Give the predictors of stacks along some axes.

    Parameters
    ----------
    stacks : sequence of ndarray, shape (N, C, *spatial)
        Of one shape, mean 0 and variance about 1 per channel.
    axes : sequence of int
        Spatial axes.
    widths : sequence of int
        Positions to predict at either end of each axis.

    Returns
    -------
    list of list of Predictor
        Per axis, one per stack.

    Notes
    -----
    The best linear predictor from the eight outermost values (Wiener 1949; Makhoul 1975, "Linear
    prediction: a tutorial review", Proc. IEEE 63(4)), with the autocovariance taken from the stack
    itself along that axis. Its error is uncorrelated with what lies inside, so that filtered
    values near a border are noisier but not biased, which no replicated or reflected border is.
    """
    found: list[list[Predictor]] = []
    order = min(_ORDER, *(stacks[0].shape[axis + 2] for axis in axes))
    width = max(widths)
    covariance = _autocovariances(stacks, axes=axes, n_lags=order + width)
    distance, outside, apart = _lags(order, width)
    known = covariance[:, distance]
    known.reshape(len(known), -1)[:, :: order + 1] *= 1 + _RIDGE
    across = covariance[:, outside]
    solved = np.linalg.solve(known, across)
    error = covariance[:, apart] - across.swapaxes(1, 2) @ solved
    before = np.ascontiguousarray(solved.swapaxes(1, 2)[:, ::-1])
    after = np.ascontiguousarray(solved[:, ::-1].swapaxes(1, 2))
    for place, own in enumerate(widths):
        rows = range(place * len(stacks), (place + 1) * len(stacks))
        found.append(
            [
                Predictor(before[i, width - own :], after[i, :own], error[i, :own, :own])
                for i in rows
            ]
        )
    return found


def border_variances(taps: Array, errors: Array) -> Array:
    """Give how far predicted values make filtered ones wrong.

    Parameters
    ----------
    taps : ndarray of float64, shape (n, n_taps)
        Of several filters, the outermost first.
    errors : ndarray of float64, shape (n, width, width)
        `Predictor.error` of the stack that each filters; the width is less than `n_taps`.

    Returns
    -------
    ndarray of float64, shape (n, width)
        The variance where the first 1, 2, … width taps lie outside.
    """
    width, (n_filters, n_taps) = errors.shape[1], taps.shape
    # In row r the taps r, r - 1, … 0 and zeros.
    padded = np.zeros((n_filters, n_taps + width))
    padded[:, width:] = taps
    outside = padded[:, _lower(width)]
    return np.asarray(((outside @ errors) * outside).sum(axis=2))


@lru_cache(maxsize=16)
def _lower(width: int) -> NDArray[np.int64]:
    return width + np.subtract.outer(np.arange(width), np.arange(width))


@lru_cache(maxsize=64)
def _lags(order: int, width: int) -> tuple[NDArray[np.int64], ...]:
    """Give the lags between values that predict, from those to predicted ones, between these."""
    inside, outside = np.arange(order), np.arange(width)
    return (
        np.abs(np.subtract.outer(inside, inside)),
        np.add.outer(inside + 1, outside),
        np.abs(np.subtract.outer(outside, outside)),
    )


def _autocovariances(stacks: Sequence[Floats], *, axes: Sequence[int], n_lags: int) -> Array:
    """Give the covariances along some axes at the lags 0 … n_lags - 1.

    Shape (axes * stacks, n_lags), the stacks of an axis one after the other.
    """
    lines = [_some_lines(stack, axis + 2) for axis in axes for stack in stacks]
    shape = np.max([own.shape for own in lines], axis=0)
    padded = np.zeros((len(lines), *shape), lines[0].dtype)
    for place, own in zip(padded, lines, strict=True):
        place[: own.shape[0], : own.shape[1]] = own
    waves, back = _waves(padded.shape[2], n_lags, padded.dtype)
    spectra = padded @ waves
    # Biased on purpose (divided by the same number at every lag): then it is a covariance.
    power = np.einsum("alf,alf->af", spectra, spectra)
    covariance = power @ back / [[own.size] for own in lines]
    covariance[:, 0] = np.where(covariance[:, 0] > 0, covariance[:, 0], 1.0)
    return np.asarray(covariance)


@lru_cache(maxsize=32)
def _waves(size: int, n_lags: int, dtype: np.dtype[Any]) -> tuple[Floats, Array]:
    """Give the real transform of lines with zeros behind them, and that from power to lags."""
    padded = size + n_lags
    padded += padded % 2
    frequency = 2 * np.pi * np.arange(padded // 2 + 1) / padded
    angle = np.outer(np.arange(size), frequency)
    share = np.full(len(frequency), 2.0 / padded)
    share[[0, -1]] /= 2
    back = share[:, None] * np.cos(np.outer(frequency, np.arange(n_lags)))
    waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return waves.astype(dtype), np.concatenate([back, back])


def _some_lines(stack: Floats, axis: int) -> Floats:
    """Cut some lines along an axis, evenly spaced, to pieces that are not too long."""
    for other in range(stack.ndim):
        step = stack.size // _MANY
        if other != axis and step > 1:
            step = min(step, stack.shape[other])
            stack = stack[(slice(None),) * other + (slice(None, None, step),)]
    lines = stack.swapaxes(axis, -1)
    size = lines.shape[-1]
    n_pieces = -(-size // _LONGEST)
    length = size // n_pieces
    return lines[..., : n_pieces * length].reshape(-1, length)
