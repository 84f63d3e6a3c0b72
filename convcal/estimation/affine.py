# SPDX-License-Identifier: BSD-3-Clause
"""Gain and bias per channel by least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AffineFit", "fit_affine"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Tukey's biweight: 95 % efficient on normal residuals.
_TUKEY = 4.685
_MAD_TO_SIGMA = 1.4826


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

    References
    ----------
    Rousseeuw and Van Driessen 2006, "Computing LTS regression for large data sets", DMKD 12.
    """
    shape = reference.shape
    usable = np.isfinite(reference) & np.isfinite(observed)
    if valid is not None:
        usable &= valid
    n_channels = shape[1]
    floor = np.broadcast_to(np.asarray(least_signal, dtype=np.float64), (n_channels,))
    fits = np.array(
        [
            _fit_channel(
                reference[:, c][usable[:, c]],
                observed[:, c][usable[:, c]],
                least_signal=float(floor[c]),
                robust=robust,
            )
            for c in range(n_channels)
        ]
    ).T
    return AffineFit(
        gain=fits[0],
        bias=fits[1],
        gain_error=fits[2],
        bias_error=fits[3],
        inverse_gain=fits[4],
        rmse=fits[5],
        n_values=fits[6].astype(np.int64),
        is_constant=fits[7].astype(bool),
    )


def _fit_channel(ref: Array, obs: Array, *, least_signal: float, robust: bool) -> list[float]:
    weights: Array | None = None
    if robust and ref.size >= 8 and _has_signal(ref, obs, least_signal):
        weights = _robust_weights(ref, obs)
        kept = weights > 0
        if kept.sum() < 3 or not _has_signal(ref[kept], obs[kept], least_signal):
            weights = None  # what varies, as a single spike does, is the signal
    return _solve(ref, obs, weights, least_signal)


def _has_signal(ref: Array, obs: Array, least_signal: float) -> bool:
    """Tell whether both vary by more than round-off and the reference by more than rounding."""
    tiny = 4 * np.finfo(np.float64).eps
    return bool(
        ref.std() > max(least_signal, tiny * np.abs(ref).max())
        and obs.std() > tiny * np.abs(obs).max()
    )


def _solve(ref: Array, obs: Array, weights: Array | None, least_signal: float) -> list[float]:
    n = ref.size
    if n < 3 or not _has_signal(ref, obs, least_signal):
        rmse = float(np.sqrt(np.mean((ref - obs) ** 2))) if n else 0.0
        return [1.0, 0.0, np.inf, np.inf, 1.0, rmse, n, True]
    # Sums, not dot products: pairwise summation is more exact, and no BLAS threads are woken.
    total = float(n) if weights is None else float(weights.sum())
    mean_ref, mean_obs = _sum(ref, weights) / total, _sum(obs, weights) / total
    ref, obs = ref - mean_ref, obs - mean_obs
    s_oo, s_ro, s_rr = (
        _sum(obs * obs, weights),
        _sum(ref * obs, weights),
        _sum(ref * ref, weights),
    )
    gain = s_ro / s_oo
    bias = mean_ref - gain * mean_obs
    residual = _sum(np.square(ref - gain * obs), weights)
    variance = residual / max(total - 2, 1)
    gain_error = np.sqrt(variance / s_oo)
    bias_error = np.sqrt(variance * (1 / total + mean_obs**2 / s_oo))
    inverse = s_rr / s_ro if s_ro != 0 else np.copysign(np.inf, gain)
    return [gain, bias, gain_error, bias_error, inverse, np.sqrt(residual / total), n, False]


def _sum(values: Array, weights: Array | None) -> float:
    return float(values.sum() if weights is None else (values * weights).sum())


def _robust_weights(ref: Array, obs: Array) -> Array:
    """Weigh each position by how well it fits the majority."""
    keep = int(np.ceil(0.6 * ref.size))
    best = (np.inf, 1.0, 0.0)
    for gain, bias in _starts(ref, obs):
        line = (gain, bias)
        for _ in range(12):  # concentration steps converge in a few
            error = np.abs(ref - line[0] * obs - line[1])
            chosen = np.argpartition(error, keep - 1)[:keep]
            new = _line(ref[chosen], obs[chosen])
            if new == line:
                break
            line = new
        error = np.sort(np.abs(ref - line[0] * obs - line[1]))[:keep]
        cost = float(error @ error)
        if cost < best[0]:
            best = (cost, *line)
    gain, bias = best[1:]
    weights = np.ones(ref.size)
    for _ in range(30):
        residual = ref - gain * obs - bias
        # The floor keeps an exact fit of the majority from rejecting all but bit-equal values.
        scale = max(
            _MAD_TO_SIGMA * float(np.median(np.abs(residual))), 1e-12 * float(np.abs(ref).max())
        )
        weights = np.square(np.clip(1 - (residual / (_TUKEY * scale)) ** 2, 0, None))
        if (weights > 0).sum() < 3:
            break
        new = _line(ref, obs, weights)
        settled = abs(new[0] - gain) <= 1e-12 * abs(gain)
        gain, bias = new
        if settled:
            break
    return weights


def _starts(ref: Array, obs: Array) -> list[tuple[float, float]]:
    """Give lines to start from: nothing wrong, least squares, and quartiles matched both ways."""
    starts = [(1.0, float(np.median(ref - obs))), _line(ref, obs)]
    quartiles_ref, quartiles_obs = (np.quantile(v, [0.25, 0.5, 0.75]) for v in (ref, obs))
    spread = quartiles_obs[2] - quartiles_obs[0]
    if spread > 0:
        ratio = float((quartiles_ref[2] - quartiles_ref[0]) / spread)
        starts += [
            (sign * ratio, float(quartiles_ref[1] - sign * ratio * quartiles_obs[1]))
            for sign in (1, -1)
        ]
    return starts


def _line(ref: Array, obs: Array, weights: Array | None = None) -> tuple[float, float]:
    mean_ref = float(np.average(ref, weights=weights))
    mean_obs = float(np.average(obs, weights=weights))
    centred = obs - mean_obs
    weighted = centred if weights is None else weights * centred
    spread = float((weighted * centred).sum())
    gain = float((weighted * (ref - mean_ref)).sum()) / spread if spread > 0 else 1.0
    return gain, mean_ref - gain * mean_obs
