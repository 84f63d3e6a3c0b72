# SPDX-License-Identifier: BSD-3-Clause
"""What a stack would hold beyond its borders, by linear prediction."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["BorderError", "extend_axis"]

Array = NDArray[np.float64]

_ORDER = 8  # values that predict; 4 and 16 gave the same errors of the shift
_RIDGE = 1e-6  # of the variance: fp16 noise and less, so that smooth content stays solvable


class BorderError:
    """How wrong predicted values make what a filter gives near a border.

    Parameters
    ----------
    covariance : ndarray of float64, shape (n, n)
        Of the errors of the first n predicted values, counted outwards.
    """

    def __init__(self, covariance: Array) -> None:
        self.covariance = covariance

    def variances(self, taps: Array, *, first: int, size: int, start: int, length: int) -> Array:
        """Give the variance of the error of filtered values along one axis.

        Parameters
        ----------
        taps : ndarray of float64, shape (n_taps,)
        first : int
            The first tap of the value at position i belongs to ``i + first``.
        size : int
            Of the axis before it was extended.
        start, length : int
            Which positions to tell of.

        Returns
        -------
        ndarray of float64, shape (length,)
            In units of the stack's variance, zero where no predicted value enters.
        """
        total = np.zeros(length)
        source = start + first + np.arange(length)[:, None] + np.arange(len(taps))
        for outside in (-1 - source, source - size):
            rows = np.flatnonzero((outside >= 0).any(axis=1))
            if not rows.size:
                continue
            weights = np.zeros((rows.size, len(self.covariance)))
            where, tap = np.nonzero(outside[rows] >= 0)
            weights[where, outside[rows][where, tap]] = taps[tap]
            total[rows] += np.einsum("je,ef,jf->j", weights, self.covariance, weights)
        return total


def extend_axis(array: Array, *, axis: int, width: int) -> tuple[Array, BorderError]:
    """Extend a stack along one axis by what its own correlation predicts.

    Parameters
    ----------
    array : ndarray of float64, shape (N, C, *spatial)
        Variance about 1 per channel.
    axis : int
    width : int
        Positions to add at either end.

    Returns
    -------
    ndarray of float64
        The extended stack.
    BorderError
        How far the prediction can be trusted.

    Notes
    -----
    The best linear predictor from the eight outermost values (Wiener 1949; Makhoul 1975, "Linear
    prediction: a tutorial review", Proc. IEEE 63(4)), with the autocovariance taken from the stack
    itself along that axis. Its error is uncorrelated with what lies inside, so that filtered
    values near a border are noisier but not biased, which no replicated or reflected border is.
    """
    size = array.shape[axis]
    order = min(_ORDER, size)
    mean = array.mean(axis=tuple(range(2, array.ndim)), keepdims=True)
    centred = np.moveaxis(array - mean, axis, -1)
    n_lags = order + width
    spectrum = scipy.fft.rfft(centred, scipy.fft.next_fast_len(size + n_lags, real=True))
    power = (spectrum.real**2 + spectrum.imag**2).sum(axis=tuple(range(array.ndim - 1)))
    covariance = scipy.fft.irfft(power, scipy.fft.next_fast_len(size + n_lags, real=True))[:n_lags]
    # Biased on purpose (divided by the same number at every lag): then it is a covariance.
    covariance /= array.size
    if covariance[0] <= 0:
        covariance[0] = 1.0
    outside = np.arange(1, width + 1)[:, None] + np.arange(order)
    known = scipy.linalg.toeplitz(covariance[:order]) + _RIDGE * covariance[0] * np.eye(order)
    across = covariance[np.minimum(outside, order + width - 1)]
    predictor = np.linalg.solve(known, across.T).T
    error = scipy.linalg.toeplitz(covariance[:width]) - predictor @ across.T
    before = (centred[..., :order] @ predictor.T)[..., ::-1]
    after = centred[..., : size - order - 1 if size > order else None : -1] @ predictor.T
    extended = np.concatenate([before, centred, after], axis=-1)
    result = np.ascontiguousarray(np.moveaxis(extended, -1, axis)) + mean
    return result, BorderError(error)
