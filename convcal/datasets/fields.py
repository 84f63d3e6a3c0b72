# SPDX-License-Identifier: BSD-3-Clause
"""Periodic random fields with a wanted spectrum."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["blurred", "noise", "standard"]


def noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    falloff: float = 0.0,
    blur: float = 0.0,
    cutoff: float = math.inf,
) -> NDArray[np.float64]:
    """Draw a normal field whose amplitude falls with frequency; zero mean, unit variance.

    Parameters
    ----------
    rng : Generator
    shape : tuple of int
    falloff : float
        The amplitude is ``frequency ** -falloff``.
    blur : float
        Standard deviation of a Gaussian that the field is convolved with, in samples.
    cutoff : float
        The highest frequency, in cycles per sample.
    """
    spectrum = scipy.fft.rfftn(rng.standard_normal(shape))
    square = _square_frequency(shape)
    if falloff:
        spectrum *= np.maximum(square, max(shape) ** -2.0) ** (-falloff / 2)
    if blur:
        spectrum *= _gaussian(square, blur)
    if cutoff < math.inf:
        spectrum *= square <= cutoff**2
    return standard(scipy.fft.irfftn(spectrum, shape))


def blurred(plane: NDArray[np.float64], *, blur: float) -> NDArray[np.float64]:
    """Convolve with a Gaussian of that standard deviation, in samples."""
    spectrum = scipy.fft.rfftn(plane) * _gaussian(_square_frequency(plane.shape), blur)
    return np.asarray(scipy.fft.irfftn(spectrum, plane.shape))


def standard(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give zero mean and unit variance; what is constant becomes zero."""
    spread = plane.std()
    result: NDArray[np.float64] = (plane - plane.mean()) / (spread if spread > 0 else 1.0)
    return result


def _gaussian(square: NDArray[np.float64], blur: float) -> NDArray[np.float64]:
    return np.asarray(np.exp(-2 * (np.pi * blur) ** 2 * square))


def _square_frequency(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Give the squared length of each frequency vector of `rfftn`, in cycles per sample."""
    axes = [*(np.fft.fftfreq(size) for size in shape[:-1]), np.fft.rfftfreq(shape[-1])]
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(sum(grid**2 for grid in grids))
