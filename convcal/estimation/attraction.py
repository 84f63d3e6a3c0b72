# SPDX-License-Identifier: BSD-3-Clause
"""How far a resampling draws fractions of a pixel to whole ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AGREEMENT", "Attraction", "find_attraction"]

Array = NDArray[np.float64]

# By how many pixels a quarter of a pixel may be drawn at the Nyquist frequency: not beyond the
# whole one.
_STRENGTHS = np.concatenate([[0.0], np.geomspace(0.003, 0.25, 20)])
# The powers of the frequency by which it may grow: 2 for straight lines, which one ring of
# frequencies shows as somewhat more, and more the steeper the spectrum is that aliases.
_POWERS = (3, 6)
# Of what is drawn: how much one frequency may depart from the model, at a quarter of a pixel, and
# how much of that where nothing should be drawn.
_DEPARTURE, _ALWAYS = 0.5, 0.3
# What the logarithm of the likelihood has to gain before anything is taken for drawn.
_LEAST_GAIN = 2.5
# The sum of squares, in units of noise, that the rings of an axis may leave: of five, chance leaves
# more once in a hundred thousand.
_MOST_LEFT = 30.0
AGREEMENT = 0.0012
"""Pixels by which two bands may differ beyond noise: borders and gaps make as much."""
_STEPS = 5


@dataclass(frozen=True, eq=False)
class Attraction:
    """A shift, what draws it to whole pixels taken off.

    Attributes
    ----------
    shift, variance : ndarray of float64, shape (n_axes,)
    strength : float
        Pixels by which a quarter of a pixel is drawn at the Nyquist frequency; 0 where the bands
        agree.
    explains : bool
        Whether this leaves no more between the bands than noise.
    """

    shift: Array
    variance: Array
    strength: float
    explains: bool


def find_attraction(shifts: Array, variances: Array, cutoffs: Array) -> Attraction:
    """Find the shift that several bands tell.

    Parameters
    ----------
    shifts, variances, cutoffs : ndarray of float64, shape (n_bands, n_axes)
        The widest band first, each a part of the one before. Cutoffs are shares of the Nyquist
        frequency.

    Returns
    -------
    Attraction

    Notes
    -----
    No real filter moves the Nyquist frequency by a fraction of a pixel: whatever interpolates, and
    whatever aliases, draws fractions to whole pixels there, and less at lower frequencies. By
    symmetry nothing is drawn at whole and half pixels: to first order a frequency `f` says
    ``s - c sin(2 pi s) f**p`` where the shift is `s`. Estimates in nested bands differ by
    independent amounts of noise (Hausman 1978): each ring of frequencies has one of its own. `s` on
    all axes, and `c` and `p` for all of them, are those of the largest likelihood, where a ring
    may depart from the model by a share of what is drawn.
    """
    bands = [_rings(*columns) for columns in zip(shifts.T, variances.T, cutoffs.T, strict=True)]
    fits = [
        [
            _fitted(ring, noise, frequency**power, first=first)
            for first, (ring, noise, frequency) in zip(shifts[0], bands, strict=True)
        ]
        for power in _POWERS
    ]
    # Of each axis, for each power and strength.
    beyond, variance, square, own = np.array(fits).transpose(2, 1, 0, 3)
    likelihood = own.sum(axis=0) - _LEAST_GAIN * (_STRENGTHS > 0)
    best = np.unravel_index(int(likelihood.argmax()), likelihood.shape)
    at = (slice(None), *best)
    chance = np.exp(likelihood - likelihood[best])
    chance /= chance.sum()
    # How little is known of what is drawn makes the shift uncertain too.
    spread = np.square(beyond - beyond[at][:, None, None])
    return Attraction(
        shift=shifts[0] + beyond[at],
        variance=((variance + spread) * chance).sum(axis=(1, 2)),
        strength=float(_STRENGTHS[best[1]]),
        explains=bool(square[at].max() <= _MOST_LEFT),
    )


def _rings(shift: Array, variance: Array, cutoff: Array) -> tuple[Array, Array, Array]:
    """Give what each ring of frequencies says beyond the widest band, its variance, its end."""
    count = np.arange(len(shift))
    own = np.maximum(variance, variance[0]) + AGREEMENT**2 * count / len(shift)
    own = np.maximum.accumulate(own) * (1 + 0.001 * count)  # less is never known in more
    inner = np.append(1 / own[1:], 0.0)
    told = 1 / own - inner
    beyond = shift - shift[0]
    return (beyond / own - np.append(beyond[1:], 0.0) * inner) / told, 1 / told, cutoff


def _fitted(ring: Array, noise: Array, grows: Array, *, first: float) -> tuple[Array, ...]:
    """Give shift beyond the first, variance, what is left and log-likelihood per strength."""
    shift = np.zeros(len(_STRENGTHS))
    slope = 2 * np.pi * _STRENGTHS
    for _ in range(_STEPS):
        wave = np.sin(2 * np.pi * (first + shift))
        drawn = (_STRENGTHS * wave)[:, None] * grows
        departs = _DEPARTURE * _STRENGTHS * (np.abs(wave) + _ALWAYS)
        variance = noise + np.square(departs[:, None] * grows)
        weight = 1 / variance
        total = weight.sum(axis=1)
        wanted = (weight * (ring + drawn)).sum(axis=1) / total
        bend = slope * np.cos(2 * np.pi * (first + shift)) * (weight @ grows) / total
        shift = shift + (wanted - shift) / np.maximum(1 - bend, 0.5)
    square = (weight * np.square(ring + drawn - shift[:, None])).sum(axis=1)
    return shift, 1 / total, square, -0.5 * (np.log(variance).sum(axis=1) + np.log(total) + square)
