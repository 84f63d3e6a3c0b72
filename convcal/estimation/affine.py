# SPDX-License-Identifier: BSD-3-Clause
"""Gain and bias per channel by least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.lines import CACHED, LineSums, line_sums
from convcal.estimation.majority import find_majority

__all__ = ["AffineFit", "fit_affine"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Scalar = TypeVar("Scalar", np.float64, np.bool_)

_GROUP = 64  # channels whose majority is looked for at a time


@dataclass(frozen=True, eq=False)
class AffineFit:
    """``reference = gain * observed + bias`` for each channel.

    Attributes
    ----------
    gain, bias : ndarray of float64, shape (C,)
    gain_error, bias_error : ndarray of float64, shape (C,)
        Standard errors for white residuals; infinite where nothing was fitted.
    inverse_gain : ndarray of float64, shape (C,)
        One over the gain of the opposite regression, of observed on reference. Noise in the
        observed values pulls `gain` towards 0 and leaves this one alone (to first order), so that
        the true gain lies between the two.
    rmse : ndarray of float64, shape (C,)
        Residual on the positions used.
    n_values : ndarray of int64, shape (C,)
        Positions used.
    is_constant : ndarray of bool, shape (C,)
        Channels without signal above round-off in either array; they keep gain 1 and bias 0.
    """

    gain: Array
    bias: Array
    gain_error: Array
    bias_error: Array
    inverse_gain: Array
    rmse: Array
    n_values: NDArray[np.int64]
    is_constant: Mask


def fit_affine(
    reference: Array,
    observed: Array,
    *,
    valid: Mask | None = None,
    least_signal: Array | float = 0.0,
    robust: bool = False,
) -> AffineFit:
    """Fit gain and bias of each channel.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Registered already: position by position the same content.
    valid : ndarray of bool or None
        Positions to use, broadcastable to the arrays. Positions where either is not finite are
        never used.
    least_signal : float or ndarray, shape (C,)
        Standard deviation of the reference below which a channel counts as constant (what
        rounding makes up).
    robust : bool
        Withstand gross outliers (up to two fifths of the positions): least trimmed squares, then
        Tukey's biweight.

    Returns
    -------
    AffineFit
        A channel with fewer than 3 positions, or without signal, has gain 1 and bias 0 and is
        flagged in `is_constant`.

    Notes
    -----
    Sums are taken about each channel's mean (two passes in float64), so that an offset of any
    size costs no digits.
    """
    n_channels = reference.shape[1]
    least = np.broadcast_to(np.asarray(least_signal, dtype=np.float64), (n_channels,))
    rows = _Rows(reference, observed, valid)
    step = max(1, CACHED // max(reference.size // n_channels, 1))
    sums = LineSums.joined([rows.sums(some) for some in _runs(0, n_channels, step)])
    signal = (sums.total >= 3) & sums.has_signal(least)
    n_values = sums.total.astype(np.int64)
    if robust:
        for group in _runs(0, n_channels, max(step, _GROUP)):
            able = group.start + np.flatnonzero((signal & (n_values >= 8))[group])
            if able.size:
                sums = _without_outliers(rows, able, sums=sums, least=least, step=step)
    return _fit(sums, signal, n_values)


def _fit(sums: LineSums, signal: Mask, n_values: NDArray[np.int64]) -> AffineFit:
    safe = np.maximum(sums.total, 1e-30)
    variance = sums.residual / np.maximum(sums.total - 2, 1)
    spread = np.where(signal, sums.observed, 1.0)
    found = {
        "gain": sums.gain,
        "bias": sums.bias,
        "gain_error": np.sqrt(variance / spread),
        "bias_error": np.sqrt(variance * (1 / safe + sums.mean_observed**2 / spread)),
        "inverse_gain": sums.reference / np.where(sums.product != 0, sums.product, 1.0),
        "rmse": np.sqrt(sums.residual / safe),
    }
    if not sums.product.all():
        endless = np.copysign(np.inf, sums.gain)
        found["inverse_gain"] = np.where(sums.product != 0, found["inverse_gain"], endless)
    if not signal.all():
        # Without a fit the residual is the plain difference.
        apart = sums.reference - 2 * sums.product + sums.observed
        apart = apart / safe + np.square(sums.mean_reference - sums.mean_observed)
        otherwise: dict[str, Array | float] = {
            "gain": 1.0,
            "bias": 0.0,
            "gain_error": np.inf,
            "bias_error": np.inf,
            "inverse_gain": 1.0,
            "rmse": np.asarray(np.sqrt(np.maximum(apart, 0.0))),
        }
        found = {name: np.where(signal, v, otherwise[name]) for name, v in found.items()}
    return AffineFit(**found, n_values=n_values, is_constant=~signal)


def _without_outliers(
    rows: _Rows, able: NDArray[np.int64], *, sums: LineSums, least: Array, step: int
) -> LineSums:
    """Put in the sums of some channels those of the values that the majority vouches for."""
    majority = find_majority(*rows.take(able))
    parts = [majority.sums(some, *rows.take(able[some])) for some in _runs(0, len(able), step)]
    better = LineSums.joined([part for part, _ in parts])
    # Where it does not hold: what varies, as a single spike does, is the signal.
    held = (np.concatenate([count for _, count in parts]) >= 3) & better.has_signal(least[able])
    return sums.replaced(able[held], better, held)


def _runs(start: int, stop: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


class _Rows:
    """Two stacks as rows of one channel each."""

    def __init__(self, reference: Array, observed: Array, valid: Mask | None) -> None:
        self.reference, self.observed = reference, observed
        self.valid = None if valid is None else np.broadcast_to(valid, reference.shape)
        self.is_finite = True  # as far as is known

    def take(self, channels: slice | NDArray[np.int64]) -> tuple[Array, Array, Mask | None]:
        """Give the values of some channels, finite, and which are usable; None for all."""
        if not isinstance(channels, slice) and len(channels) == channels[-1] - channels[0] + 1:
            channels = slice(channels[0], channels[-1] + 1)
        ref, obs = (_as_rows(stack[:, channels]) for stack in (self.reference, self.observed))
        usable = None if self.valid is None else _as_rows(self.valid[:, channels])
        if not self.is_finite:
            finite = np.isfinite(ref) & np.isfinite(obs)
            usable = finite if usable is None else usable & finite
            ref, obs = np.where(usable, ref, 0.0), np.where(usable, obs, 0.0)
        return ref, obs, usable

    def sums(self, channels: slice) -> LineSums:
        """Sum the usable values of some channels, and learn whether all are finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            found = line_sums(*self.take(channels))
            if self.is_finite and not np.isfinite(found.mean_reference + found.mean_observed).all():
                self.is_finite = False
                found = line_sums(*self.take(channels))
        return found


def _as_rows(part: NDArray[Scalar]) -> NDArray[Scalar]:
    return part.swapaxes(0, 1).reshape(part.shape[1], -1)
