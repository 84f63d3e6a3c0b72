# SPDX-License-Identifier: BSD-3-Clause
"""Phase correlation, pooled over samples and channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["PhaseCorrelation", "correlate_phases"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PhaseCorrelation:
    """The peak of the pooled phase correlation of two stacks.

    Attributes
    ----------
    peak : tuple of int
        The highest whole-pixel shift within the limits.
    peak_ratio : float
        That peak against the highest value elsewhere, outside its 5-pixel surround; 1 means that
        nothing stands out, infinity that there is nothing else.
    """

    peak: tuple[int, ...]
    peak_ratio: float


def correlate_phases(
    reference: Array, observed: Array, *, limits: tuple[int, ...]
) -> PhaseCorrelation:
    """Correlate the phases of two stacks.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite, mean 0 per channel (units do not matter: each frequency is whitened).
    limits : tuple of int
        Largest shift per axis.

    Returns
    -------
    PhaseCorrelation

    Notes
    -----
    A Hann window keeps the borders, where content enters and leaves, from posing as a peak at
    zero. Samples are added before whitening (their common phase survives, their noise does not);
    channels after it, each turned to the sign of its own highest peak, so that a sign-flipped
    channel adds to the others and a dead one adds nothing.
    """
    spatial = reference.shape[2:]
    axes = tuple(range(1, len(spatial) + 1))
    window = np.ones(())
    for size in spatial:
        # Hann sampled between its zeros: size 1 and 2 keep their values.
        window = np.multiply.outer(
            window, 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
        )
    window = window.astype(np.float32)
    total: NDArray[np.complexfloating] | None = None
    for channel in range(reference.shape[1]):
        spectrum = scipy.fft.rfftn(reference[:, channel].astype(np.float32) * window, axes=axes)
        spectrum *= scipy.fft.rfftn(
            observed[:, channel].astype(np.float32) * window, axes=axes
        ).conj()
        pooled = spectrum.sum(axis=0).astype(np.complex128)
        size = np.abs(pooled)
        largest = size.max()
        if largest == 0:
            continue
        # float32 transforms leave 1e-7 of the largest amplitude in empty frequencies.
        white = pooled / (size + 1e-6 * largest)
        surface = scipy.fft.irfftn(white, spatial)
        near = _near_zero(surface, limits)
        sign = 1.0 if np.max(near) >= -np.min(near) else -1.0
        total = sign * white if total is None else total + sign * white
    if total is None:
        total = np.zeros((*spatial[:-1], spatial[-1] // 2 + 1), dtype=np.complex128)
    surface = scipy.fft.irfftn(total, spatial)
    near = _near_zero(surface, limits)
    index = np.unravel_index(int(np.argmax(near)), near.shape)
    peak = tuple(int(i - (n - 1) // 2) for i, n in zip(index, near.shape, strict=True))
    return PhaseCorrelation(peak, _peak_ratio(surface, peak))


def _near_zero(surface: Array, limits: tuple[int, ...]) -> Array:
    """Take the shifts within the limits; a shift and its alias are never both taken."""
    for axis, limit in enumerate(limits):
        reach = min(limit, (surface.shape[axis] - 1) // 2)
        surface = np.take(surface, np.arange(-reach, reach + 1), axis=axis)
    return surface


def _peak_ratio(surface: Array, peak: tuple[int, ...]) -> float:
    height = float(surface[peak])
    elsewhere = np.ones(surface.shape, dtype=bool)
    around = [np.arange(p - 2, p + 3) % n for p, n in zip(peak, surface.shape, strict=True)]
    elsewhere[np.ix_(*around)] = False
    if height <= 0:
        return 1.0
    highest = float(np.max(surface[elsewhere])) if elsewhere.any() else 0.0
    return height / highest if highest > 0 else float("inf")
