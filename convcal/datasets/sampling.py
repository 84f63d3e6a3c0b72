# SPDX-License-Identifier: BSD-3-Clause
"""Sampling of a scene at even steps along one axis, from any position on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["Positions", "fourier_samples", "linear_samples"]


@dataclass(frozen=True)
class Positions:
    """Where an axis is sampled: ``first + step * i`` for i below `count`, in samples of the scene.

    Parameters
    ----------
    first, step : float
    count : int
    """

    first: float
    step: float
    count: int

    def values(self) -> NDArray[np.float64]:
        """Give the positions themselves."""
        return np.asarray(self.first + self.step * np.arange(self.count), np.float64)


def fourier_samples(
    scene: NDArray[np.float64],
    axis: int,
    positions: Positions,
    *,
    width: float = 0.0,
    is_periodic: bool = True,
) -> NDArray[np.float64]:
    """Sample the trigonometric interpolant of a scene, or its mean over boxes.

    Parameters
    ----------
    scene : ndarray
    axis : int
    positions : Positions
        All inside the scene.
    width : float
        Of the box around each position that the interpolant is averaged over, in samples.
    is_periodic : bool
        Whether the scene goes on at its other end. If not, it goes on mirrored, which makes no
        jump at the ends and has nothing at Nyquist.

    Returns
    -------
    ndarray
        The axis has the length ``positions.count``. Exact to round-off if there is nothing at
        Nyquist; untouched values where the positions are whole and there is no box.
    """
    start = round(positions.first)
    fraction = positions.first - start
    is_regular = float(positions.step).is_integer()
    if is_regular and fraction == 0 and width == 0:
        return _every(scene, axis, start, positions)
    if not is_periodic:
        scene = np.concatenate([scene, np.flip(scene, axis)], axis=axis)
    size = scene.shape[axis]
    spectrum = scipy.fft.rfft(scene, axis=axis)
    frequency = np.fft.rfftfreq(size)
    transfer = np.sinc(width * frequency)
    if is_regular:
        transfer = transfer * np.exp(2j * np.pi * frequency * fraction)
        spectrum *= np.expand_dims(transfer, tuple(range(1, scene.ndim - axis)))
        return _every(scipy.fft.irfft(spectrum, n=size, axis=axis), axis, start, positions)
    # Frequencies above zero stand for the negative ones too.
    transfer = transfer * np.where((frequency == 0) | (frequency == 0.5), 1, 2) / size
    columns = np.moveaxis(spectrum, axis, -1) * transfer
    return np.moveaxis(_series(columns, positions, 1 / size), -1, axis)


def _series(
    coefficients: NDArray[np.complex128], positions: Positions, frequency: float
) -> NDArray[np.float64]:
    """Sum Fourier series along the last axis, at evenly spaced positions.

    Term k has k times the frequency, in cycles per sample. Bluestein's algorithm: since
    2 k i = k**2 + i**2 - (i - k)**2, the sum over k is a convolution with a chirp.
    """
    n_terms, count = coefficients.shape[-1], positions.count
    order = np.arange(max(n_terms, count), dtype=np.int64)
    # Squares are exact whole numbers; turns are reduced before they become angles.
    chirp = _turn(order**2 * (positions.step * frequency / 2))
    first = _turn(order[:n_terms] * (positions.first * frequency))
    start = coefficients * (first * chirp[:n_terms])
    length = scipy.fft.next_fast_len(n_terms + count - 1)
    kernel = np.zeros(length, np.complex128)
    kernel[:count] = chirp[:count].conj()
    kernel[length - n_terms + 1 :] = chirp[1:n_terms][::-1].conj()
    convolved = scipy.fft.ifft(scipy.fft.fft(start, length) * scipy.fft.fft(kernel))
    return np.asarray((convolved[..., :count] * chirp[:count]).real)


def _turn(turns: NDArray[np.floating]) -> NDArray[np.complex128]:
    return np.asarray(np.exp(2j * np.pi * (turns % 1)), np.complex128)


def linear_samples(
    scene: NDArray[np.float64], axis: int, positions: Positions
) -> NDArray[np.float64]:
    """Sample a scene by linear interpolation between neighbours; all positions are inside."""
    values = positions.values()
    below = np.floor(values).astype(int)
    share = np.expand_dims(values - below, tuple(range(1, scene.ndim - axis)))
    first, second = np.take(scene, below, axis=axis), np.take(scene, below + 1, axis=axis)
    return (1 - share) * first + share * second


def _every(
    scene: NDArray[np.float64], axis: int, start: int, positions: Positions
) -> NDArray[np.float64]:
    step = int(positions.step)
    cut = slice(start, start + step * (positions.count - 1) + 1, step)
    return scene[(slice(None),) * axis + (cut,)]
