# SPDX-License-Identifier: BSD-3-Clause
"""Gain and bias per channel by least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.lines import LineSums, line_sums
from convcal.estimation.majority import find_majority

__all__ = ["AffineFit", "fit_affine"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Scalar = TypeVar("Scalar", np.float64, np.bool_)

# Most channels, and values of a stack, that are fitted at a time: what a step does of Python is
# shared by the ones, and the others stay in the cache.
_GROUP, _VALUES = 128, 2**17


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

    @classmethod
    def of(cls, sums: LineSums, *, has_signal: Mask, n_values: NDArray[np.int64]) -> Self:
        """Give the fit that sums tell, and none to channels without signal."""
        total = np.maximum(sums.total, 1e-30)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            variance = sums.residual / np.maximum(sums.total - 2, 1) / sums.observed
            found = {
                "gain": sums.gain,
                "bias": sums.bias,
                "gain_error": np.sqrt(variance),
                "bias_error": np.sqrt(variance * (sums.observed / total + sums.mean_observed**2)),
                "inverse_gain": sums.reference / sums.product,
                "rmse": np.sqrt(sums.residual / total),
            }
        if not has_signal.all():
            # Without a fit the residual is the plain difference.
            apart = sums.reference - 2 * sums.product + sums.observed
            apart = apart / total + np.square(sums.mean_reference - sums.mean_observed)
            otherwise: dict[str, Array | float] = {
                "gain": 1.0,
                "bias": 0.0,
                "gain_error": np.inf,
                "bias_error": np.inf,
                "inverse_gain": 1.0,
                "rmse": np.asarray(np.sqrt(np.maximum(apart, 0.0))),
            }
            found = {name: np.where(has_signal, v, otherwise[name]) for name, v in found.items()}
        return cls(**found, n_values=n_values, is_constant=~has_signal)


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
        Withstand gross outliers (up to three tenths of the positions): least trimmed squares, then
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
    least = np.full(n_channels, least_signal, dtype=np.float64)
    usable = None if valid is None else np.broadcast_to(valid, reference.shape)
    size = min(_GROUP, max(1, _VALUES * n_channels // max(reference.size, 1)))
    plain, final = [], []
    for start in range(0, n_channels, size):
        group = slice(start, start + size)
        ref, obs = _as_rows(reference[:, group]), _as_rows(observed[:, group])
        use = None if usable is None else _as_rows(usable[:, group])
        with np.errstate(invalid="ignore", over="ignore"):
            sums = line_sums(ref, obs, use)
            if not np.isfinite(sums.mean_reference + sums.mean_observed).all():
                finite = np.isfinite(ref) & np.isfinite(obs)
                use = finite if use is None else use & finite
                ref, obs = np.where(use, ref, 0.0), np.where(use, obs, 0.0)
                sums = line_sums(ref, obs, use)
            plain.append(sums)
            if robust and (able := sums.total >= 8).any():
                most = find_majority(ref, obs, use).sums(ref, obs, use)
                # Where it does not hold: what varies, as a single spike does, is the signal.
                sums = sums.replaced(able & most.has_signal(least[group]), most)
            final.append(sums)
    whole = LineSums.joined(plain)
    return AffineFit.of(
        LineSums.joined(final) if robust else whole,
        has_signal=whole.has_signal(least),
        n_values=whole.total.astype(np.int64),
    )


def _as_rows(part: NDArray[Scalar]) -> NDArray[Scalar]:
    return part.swapaxes(0, 1).reshape(part.shape[1], -1)
