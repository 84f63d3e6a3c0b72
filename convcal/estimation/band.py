# SPDX-License-Identifier: BSD-3-Clause
"""Filters that keep a band of frequencies and can be moved by any fraction without error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

__all__ = ["BandFilter", "filter_axis", "filter_back"]

Array = NDArray[np.float64]

_BETA = 5.0
_BLOCK = 64  # outputs per matrix product: with some 30 taps, half of the products are zeros
_DELTA = 1e-4  # the kernel is smooth: a central difference this wide is exact to 1e-8


@dataclass(frozen=True)
class BandFilter:
    """A sinc under a Kaiser window with nothing left at the Nyquist frequency.

    Parameters
    ----------
    reach : int
        Pixels that the kernel reaches to either side.
    band : float
        The passband's end as a share of the Nyquist frequency, at most: it ends early enough for
        the transition to be over at Nyquist.

    Notes
    -----
    Sampled at whole positions it is a low-pass filter, at shifted ones the same filter and a shift
    of exactly that amount: an interpolating kernel of the same length cannot do that, and draws an
    estimate to whole or half pixels. A Kaiser window with beta 5 has its first zero at
    ``sqrt(beta**2 + pi**2) / reach`` radians per pixel (54 dB of attenuation beyond).
    """

    reach: int
    band: float = 1.0

    @property
    def n_taps(self) -> int:
        """How many taps it has, at any shift."""
        return 2 * self.reach + 1

    @property
    def cutoff(self) -> float:
        """Where the gain is one half, as a share of the Nyquist frequency."""
        half_transition = math.hypot(_BETA, math.pi) / (self.reach * math.pi)
        return max(min(self.band, 1.0) - half_transition, min(self.band, 1.0) / 3)

    def taps(self, position: float) -> tuple[int, Array, Array]:
        """Give the weights of the value at ``i + position``.

        Returns
        -------
        first : int
            The first tap belongs to ``i + first``.
        taps, slopes : ndarray of float64, shape (n_taps,)
            Their sum is 1; `slopes` are their derivatives with respect to `position`.
        """
        first = math.ceil(position) - self.reach
        distance = np.arange(first, first + self.n_taps) - position
        weights = self._kernel(distance + np.array([[0.0], [-_DELTA], [_DELTA]]))
        # Without the window's pedestal: a tap must not jump when it enters, or the residual does.
        taps, ahead, behind = weights / weights.sum(axis=1, keepdims=True)
        return first, taps, (ahead - behind) / (2 * _DELTA)

    def _kernel(self, distance: Array) -> Array:
        inside = np.maximum(1 - (distance / self.reach) ** 2, 0.0)
        window = scipy.special.i0(_BETA * np.sqrt(inside)) - 1
        kernel: Array = np.sinc(self.cutoff * distance) * window
        return kernel


def filter_axis(array: Array, taps: Array, *, axis: int, start: int, length: int) -> Array:
    """Correlate along one axis: ``y[j] = sum over k of taps[k] * array[start + j + k]``.

    Parameters
    ----------
    array : ndarray of float64
        C-contiguous.
    taps : ndarray of float64, shape (n_taps,)
    axis : int
    start, length : int
        First source position and number of outputs; everything read lies inside.

    Returns
    -------
    ndarray of float64
        C-contiguous, with `length` positions along the axis.

    Notes
    -----
    As products with a banded matrix, block by block: at these lengths several times as fast as a
    loop over taps and as an FFT.
    """
    before = math.prod(array.shape[:axis])
    after = math.prod(array.shape[axis + 1 :])
    n_blocks = -(-length // (2 * _BLOCK))
    size = -(-length // n_blocks)
    stacked = array.reshape(before, array.shape[axis], after)
    result = np.empty((before, length, after))
    for block in range(n_blocks):
        first = min(block * size, length - size)
        source = stacked[:, start + first : start + first + size + len(taps) - 1]
        matrix = _band_matrix(taps, size)
        if after == 1:
            result[:, first : first + size, 0] = source[:, :, 0] @ matrix.T
        else:
            np.matmul(matrix, source, out=result[:, first : first + size])
    return result.reshape(*array.shape[:axis], length, *array.shape[axis + 1 :])


def filter_back(array: Array, taps: Array, *, axis: int) -> Array:
    """Apply the adjoint of `filter_axis`: as if zeros surrounded the array, all outputs."""
    n_taps = len(taps)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (n_taps - 1, n_taps - 1)
    padded = np.pad(array, widths)
    length = array.shape[axis] + n_taps - 1
    return filter_axis(padded, taps[::-1], axis=axis, start=0, length=length)


def _band_matrix(taps: Array, size: int) -> Array:
    """Give the matrix with the taps on its diagonals, shape (size, size + n_taps - 1)."""
    width = size + len(taps) - 1
    # Rows one longer than the matrix's own: read at the matrix's width, each begins one later.
    flat = np.zeros((size, width + 1))
    flat[:, : len(taps)] = taps
    return flat.ravel()[: size * width].reshape(size, width)
