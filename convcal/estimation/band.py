# SPDX-License-Identifier: BSD-3-Clause
"""Filters that keep a band of frequencies and can be moved by any fraction without error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from convcal.estimation.prediction import Predictor

__all__ = ["BandFilter", "Block", "apply_adjoint", "apply_blocks", "filter_blocks"]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

_BETA = 5.0
_BLOCK = 32  # outputs per matrix product: with 32 taps, half of the products are with zeros
_DEGREE = 22  # of the polynomials: their coefficients reach 1e-17 of the largest at 20


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
    def cutoff(self) -> float:
        """Where the gain is one half, as a share of the Nyquist frequency."""
        half_transition = math.hypot(_BETA, math.pi) / (self.reach * math.pi)
        return max(min(self.band, 1.0) - half_transition, min(self.band, 1.0) / 3)

    def taps(self, position: float) -> tuple[int, Array]:
        """Give the weights of the value at ``i + position``.

        Returns
        -------
        first : int
            The first tap belongs to ``i + first``.
        taps : ndarray of float64, shape (2, 2 reach)
            The taps, whose sum is 1, and their derivatives with respect to `position`.
        """
        return _taps(self.reach, self.cutoff, position)


@lru_cache(maxsize=256)
def _taps(reach: int, cutoff: float, position: float) -> tuple[int, Array]:
    whole = math.ceil(position)
    angle = math.acos(2 * (whole - position) - 1)
    powers = np.cos(angle * np.arange(_DEGREE + 1))
    taps = powers @ _polynomials(reach, cutoff)
    return whole - reach, taps.reshape(2, 2 * reach)


@lru_cache(maxsize=32)
def _polynomials(reach: int, cutoff: float) -> Array:
    """Give the taps and their slopes as Chebyshev series in the fraction.

    Between two whole positions every tap is a smooth function of the fraction: a polynomial
    through a few nodes has it to round-off, at the price of one product.

    Returns
    -------
    ndarray of float64, shape (degree + 1, 4 reach)
    """
    orders = np.arange(_DEGREE + 1)
    angles = np.pi * (orders + 0.5) / len(orders)
    waves = np.cos(np.outer(orders, angles)) * (2 / len(orders))
    waves[0] /= 2
    taps = waves @ _kernel((np.cos(angles) + 1) / 2, reach, cutoff)
    slopes = np.zeros_like(taps)
    # The variable runs from -1 to 1 while the position falls by one.
    slopes[:-1] = -2 * np.polynomial.chebyshev.chebder(taps)
    return np.concatenate([taps, slopes], axis=1)


def _kernel(fraction: Array, reach: int, cutoff: float) -> Array:
    """Give the taps of positions that lie these fractions below a whole one."""
    distance = fraction[:, None] - reach + np.arange(2 * reach)
    window = scipy.special.i0(_BETA * np.sqrt(1 - (distance / reach) ** 2)) - 1
    # Without the window's pedestal: a tap must not jump when it enters, or the residual does.
    kernel: Array = np.sinc(cutoff * distance) * window
    kernel /= kernel.sum(axis=1, keepdims=True)
    return kernel


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a filter along one axis, as a matrix.

    Attributes
    ----------
    outputs, inputs : slice
        Positions that it makes, of those.
    matrices : ndarray, shape (n_filters, n_outputs, n_inputs)
    """

    outputs: slice
    inputs: slice
    matrices: Floats


def filter_blocks(
    taps: Array,
    *,
    first: int,
    size: int,
    window: tuple[int, int],
    predictor: Predictor,
    weights: Array | None = None,
    dtype: np.dtype[Any],
) -> list[Block]:
    """Give the matrices of filters along one axis, what they read beyond its ends predicted.

    Parameters
    ----------
    taps : ndarray of float64, shape (n_filters, n_taps)
    first : int
        The first tap of the value at position i belongs to ``i + first``.
    size : int
        Of the axis.
    window : tuple of int
        First position to give and the one after the last.
    predictor : Predictor
        Predicted values are sums of the outermost ones: they are part of the matrices.
    weights : ndarray of float64, shape (n_outputs,), or None
        Factors of the values that are given; 1 where nothing is predicted.
    dtype : dtype
        Of the matrices.

    Returns
    -------
    list of Block

    Notes
    -----
    Products with banded matrices are, at these lengths, several times as fast as a loop over taps
    and as an FFT.
    """
    begin, stop = window
    length = stop - begin
    step = length if length <= 3 * _BLOCK else _BLOCK
    blocks = []
    inner: Floats | None = None
    for start in range(0, length, step):
        end = min(start + step, length)
        low, high = begin + start + first, begin + end - 1 + first + taps.shape[1]
        is_inner = low >= 0 and high <= size and end - start == step
        if is_inner and inner is not None:
            matrices = inner
        else:
            folded, low, high = _folded(taps, end - start, (low, high), size, predictor)
            if weights is not None and not is_inner:
                folded *= weights[start:end, None]
            matrices = folded.astype(dtype)
            inner = matrices if is_inner else inner
        blocks.append(Block(slice(start, end), slice(low, high), matrices))
    return blocks


def apply_blocks(
    array: Floats, blocks: Sequence[Block], *, filter_: int, axis: int, out: Floats
) -> None:
    """Write what one of the filters makes of an array along one axis.

    Parameters
    ----------
    array : ndarray, shape (..., *spatial)
        C-contiguous, as `out` is.
    blocks : sequence of Block
    filter_ : int
        Which of the filters.
    axis : int
    out : ndarray
        Of the shape of `array`, but for the axis.
    """
    before = math.prod(array.shape[:axis])
    after = math.prod(array.shape[axis + 1 :])
    source = array.reshape(before, array.shape[axis], after)
    target = out.reshape(before, out.shape[axis], after)
    for block in blocks:
        matrix = block.matrices[filter_]
        if after == 1:
            np.matmul(source[:, block.inputs, 0], matrix.T, out=target[:, block.outputs, 0])
        else:
            np.matmul(matrix, source[:, block.inputs], out=target[:, block.outputs])


def apply_adjoint(array: Floats, blocks: Sequence[Block], *, axis: int, size: int) -> Floats:
    """Apply the adjoint of the first filter along one axis; `size` is that of its input."""
    before = math.prod(array.shape[:axis])
    after = math.prod(array.shape[axis + 1 :])
    source = array.reshape(before, array.shape[axis], after)
    target = np.zeros((before, size, after), dtype=array.dtype)
    for block in blocks:
        matrix = block.matrices[0]
        if after == 1:
            target[:, block.inputs, 0] += source[:, block.outputs, 0] @ matrix
        else:
            target[:, block.inputs] += matrix.T @ source[:, block.outputs]
    return target.reshape(*array.shape[:axis], size, *array.shape[axis + 1 :])


def _folded(
    taps: Array, length: int, reads: tuple[int, int], size: int, predictor: Predictor
) -> tuple[Array, int, int]:
    """Give the matrices of one block and which positions they read.

    What taps outside would read is predicted from the outermost values: their weights go there.
    """
    low, high = reads
    before, after = max(0, -low), max(0, high - size)
    start = low
    if before:
        high = max(high, predictor.order)
    if after:
        start = min(start, size - predictor.order)
    n_filters, n_taps = taps.shape
    width = high - start
    # Rows one longer than the matrix's own: read at the matrix's width, each begins one later.
    flat = np.zeros((n_filters, length, width + 1))
    flat[:, :, low - start : low - start + n_taps] = taps[:, None]
    whole = flat.reshape(n_filters, -1)[:, : length * width].reshape(n_filters, length, width)
    inside = whole[:, :, before : width - after]
    # The first row reads furthest beyond the start, the last one beyond the end.
    if before:
        rows = whole[:, :before, :before]
        inside[:, :before, : predictor.order] += rows @ predictor.before[-before:]
    if after:
        rows = whole[:, -after:, width - after :]
        inside[:, -after:, -predictor.order :] += rows @ predictor.after[:after]
    return inside, max(start, 0), min(high, size)
