# SPDX-License-Identifier: BSD-3-Clause
"""Shift, gain and bias of a stack in one call, without a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcal.errors import InputError
from convcal.estimation.arrays import check_arrays, check_limits, thinned
from convcal.estimation.overlap import score_shifts
from convcal.estimation.refinement import refine_shift

__all__ = ["Alignment", "align"]

Array = NDArray[np.float64]

_FP16_FLOOR = 1e-8  # of the variance: what rounding to fp16 leaves


@dataclass(frozen=True, eq=False)
class Alignment:
    """``reference[n, c, i] = gain[c] * observed[n, c, i - shift] + bias[c]``.

    Attributes
    ----------
    shift, shift_error : ndarray of float64, shape (n_axes,)
        Pixels; the error is infinite along axes that were not refined.
    gain, bias, gain_error, bias_error : ndarray of float64, shape (C,)
        The maximum of the likelihood for noise in the observed values; gain 1 and bias 0, with
        infinite errors, where a channel has no signal in common.
    n_values : int
        How many values of either stack were used.
    """

    shift: Array
    shift_error: Array
    gain: Array
    bias: Array
    gain_error: Array
    bias_error: Array
    n_values: int


def align(
    reference: ArrayLike,
    observed: ArrayLike,
    *,
    max_shift: int | Sequence[int] | None = None,
    n_values: int = 2**18,
) -> Alignment:
    """Estimate shift, gain and bias, at a cost that does not grow beyond a number of values.

    Parameters
    ----------
    reference, observed : array_like, shape (N, C, *spatial)
        Of one shape, finite, with one to three spatial axes; not written to.
    max_shift : int, sequence of int, or None
        As for `estimate`.
    n_values : int
        About how many values are used at most. Larger stacks are thinned to evenly spaced samples
        and, beyond that, to windows. 2**18 values place a shift to 0.001 px at 10 dB.

    Returns
    -------
    Alignment
        Along an axis without gradient, and where nothing is related, the best whole-pixel shift.

    Raises
    ------
    InputError
        If the arrays cannot be used, or a value is not finite (`estimate` masks such).

    See Also
    --------
    estimate : The same with robustness, evidence and a verdict.

    Examples
    --------
    >>> from convcal.datasets import make_pair
    >>> pair = make_pair((64, 64), shift=(0.25, -3.5), seed=1)
    >>> align(pair.reference, pair.observed).shift.round(3)
    array([ 0.25, -3.5 ])
    """
    ref_given, obs_given = check_arrays(reference, observed)
    spatial = ref_given.shape[2:]
    if not spatial:
        raise InputError(f"the outputs have shape {ref_given.shape}: there is no spatial axis")
    limits = check_limits(max_shift, spatial)
    ref, obs = thinned(ref_given, obs_given, n_values=n_values, limits=limits)
    (ref, ref_mean, ref_spread), (obs, obs_mean, obs_spread) = (
        _standard(ref, "reference"),
        _standard(obs, "observed"),
    )
    floor = np.full(ref.shape[1], _FP16_FLOOR)
    scores = score_shifts(ref, obs, limits=limits, floor=floor)
    best = scores.best()
    free = tuple(a for a, n in enumerate(ref.shape[2:]) if n >= 6 and scores.limits[a] > 0)
    found = refine_shift(ref, obs, start=scores.vertex(best, free), floor=floor, free=free)
    n_channels = ref.shape[1]
    if found is None:
        never = np.full(n_channels, math.inf)
        return Alignment(
            shift=np.array(best, dtype=np.float64),
            shift_error=np.full(len(best), math.inf),
            gain=np.ones(n_channels),
            bias=np.zeros(n_channels),
            gain_error=never,
            bias_error=never,
            n_values=ref.size,
        )
    related = found.slope != 0
    slope = np.where(related, found.slope * obs_spread / ref_spread, 1.0)
    gain = 1 / slope
    centre = obs_mean + obs_spread * found.intercept
    error = np.where(related, np.abs(gain * found.slope_error / found.slope), math.inf)
    level = found.intercept_error * obs_spread * np.abs(gain)
    return Alignment(
        shift=found.shift,
        shift_error=np.sqrt(np.diag(found.covariance)),
        gain=gain,
        bias=np.where(related, ref_mean - gain * centre, 0.0),
        gain_error=error,
        bias_error=np.where(related, np.hypot(level, error * centre), math.inf),
        n_values=ref.size,
    )


def _standard(array: NDArray[Any], role: str) -> tuple[Array, Array, Array]:
    """Give mean 0 and spread 1 per channel, with the means and spreads."""
    axes = (0, *range(2, array.ndim))
    column = (1, -1) + (1,) * (array.ndim - 2)
    values = array.astype(np.float64)
    mean = values.mean(axis=axes)
    if not np.isfinite(mean).all():
        raise InputError(
            f"the {role} output has values that are not finite; accepted are finite ones: "
            "convcal.estimation.estimate leaves the others out"
        )
    values -= mean.reshape(column)
    spread = np.sqrt(np.square(values).mean(axis=axes))
    spread[spread <= 1e-12 * np.abs(mean)] = 1.0
    spread[spread == 0] = 1.0
    values /= spread.reshape(column)
    return values, mean, spread
