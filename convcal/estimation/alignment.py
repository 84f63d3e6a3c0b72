# SPDX-License-Identifier: BSD-3-Clause
"""Shift, gain and bias of a stack in one call, without a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcal.errors import InputError
from convcal.estimation.arrays import Part, check_arrays, check_limits, choose_part
from convcal.estimation.overlap import score_shifts
from convcal.estimation.refinement import MODEL_ERROR, Refinement, line_gains, refine_shift
from convcal.records import is_number

__all__ = ["Alignment", "align"]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

_COARSE = 2**14  # values that the whole-pixel search looks at
_MOST = 2**22  # values that it looks at where those show no relation
_RELATED = 0.9  # unexplained by the best shift, at most, for a part to be enough
_BEYOND_CHANCE = 12.0  # twice the log-likelihood that chance exceeds once in some thousand
_FP16_FLOOR = 1e-8  # of the variance: what rounding to fp16 leaves


@dataclass(frozen=True, eq=False)
class Alignment:
    """``reference[n, c, i] = gain[c] * observed[n, c, i - shift] + bias[c]``.

    Attributes
    ----------
    shift : ndarray of float64, shape (n_axes,)
        Pixels.
    gain, bias : ndarray of float64, shape (C,)
        The maximum of the likelihood for noise in the observed values; gain 1 and bias 0 where a
        channel has no signal in common.
    n_values : int
        How many values of either stack were used.
    """

    shift: Array
    gain: Array
    bias: Array
    n_values: int
    _units: tuple[tuple[Array, Array], tuple[Array, Array]] = field(repr=False)
    _refinement: Refinement | None = field(repr=False)

    @cached_property
    def shift_error(self) -> Array:
        """Standard errors of the shift, shape (n_axes,); infinite along axes not refined."""
        if self._refinement is None:
            return np.full(len(self.shift), math.inf)
        return np.asarray(np.hypot(np.sqrt(self._refinement.covariance.diagonal()), MODEL_ERROR))

    @property
    def gain_error(self) -> Array:
        """Standard errors of the gain, shape (C,); infinite where nothing was fitted."""
        return self._errors[0]

    @property
    def bias_error(self) -> Array:
        """Standard errors of the bias, shape (C,); infinite where nothing was fitted."""
        return self._errors[1]

    @cached_property
    def _errors(self) -> tuple[Array, Array]:
        if self._refinement is None:
            return np.full(len(self.gain), math.inf), np.full(len(self.gain), math.inf)
        return self._refinement.line.gains(*self._units)[2:]


def align(
    reference: ArrayLike,
    observed: ArrayLike,
    *,
    max_shift: int | Sequence[int] | None = None,
    n_values: int = 2**17,
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
        and, beyond that, to windows. 2**17 values place a shift to 0.002 px at 10 dB.

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
    ref, obs = check_arrays(reference, observed)
    spatial = ref.shape[2:]
    if not spatial:
        raise InputError(f"the outputs have shape {ref.shape}: there is no spatial axis")
    limits = check_limits(max_shift, spatial)
    if not is_number(n_values) or n_values < 1:
        raise InputError(f"n_values is {n_values!r}; accepted is a whole number of at least 1")
    pair = ref, obs
    coarse = _search(pair, limits=limits, n_values=_COARSE)
    if not coarse.is_related:
        coarse = _search(pair, limits=limits, n_values=_MOST)
    return _refined(pair, coarse, n_values=n_values)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Values with mean 0 and spread 1 per channel, and those means and spreads."""

    values: Floats
    mean: Array
    spread: Array


@dataclass(frozen=True, eq=False)
class _Search:
    """What the whole-pixel search found, and the stacks if it saw all of them.

    The best shift may be no better than that of white noise.
    """

    is_related: bool
    is_chance: bool
    best: tuple[int, ...]
    top: tuple[float, ...]
    free: tuple[int, ...]
    stacks: tuple[_Stack, _Stack] | None


def _search(
    pair: tuple[NDArray[Any], NDArray[Any]], *, limits: tuple[int, ...], n_values: int
) -> _Search:
    """Search by about `n_values` values."""
    reference = pair[0]
    part = choose_part(
        reference,
        n_values=n_values,
        shift=(0,) * len(limits),
        least=[3 * limit + 32 for limit in limits],
        thin_channels=True,
    )
    stacks = _standardised(pair, part)
    # To find the whole pixels, what float32 tells apart is more than enough.
    values, others = (stack.values.astype(np.float32, copy=False) for stack in stacks)
    is_all = values.shape == reference.shape
    scores = score_shifts(
        values,
        others,
        limits=tuple(min(m, n - 1) for m, n in zip(limits, values.shape[2:], strict=True)),
        floor=np.full(values.shape[1], _FP16_FLOOR),
    )
    best = scores.best()
    least = float(scores.score[scores.index(best)])
    gained = -2 * least * float(scores.n_values[scores.index(best)])
    n_alive = int(scores.alive.sum())
    chance = 2 * math.log(scores.score.size) + 6 * math.sqrt(2 * n_alive) + _BEYOND_CHANCE
    related = is_all or least < math.log(_RELATED) / 2
    free = tuple(a for a, n in enumerate(values.shape[2:]) if n >= 6 and scores.limits[a] > 0)
    return _Search(
        related, gained < chance, best, scores.vertex(best, free), free, stacks if is_all else None
    )


def _refined(
    pair: tuple[NDArray[Any], NDArray[Any]], coarse: _Search, *, n_values: int
) -> Alignment:
    """Refine what the search found, by about `n_values` values."""
    moved = (0,) * len(coarse.best)
    if coarse.stacks is None:
        # Of many values the border can be spared: what is predicted there, if only of one stack,
        # is a bias, however many they are.
        moved = coarse.best
        part = choose_part(pair[0], n_values=n_values, shift=moved)
        ref, obs = _standardised(pair, part)
    else:
        ref, obs = coarse.stacks
    n_channels = len(ref.mean)
    found = None
    if not coarse.is_chance:
        found = refine_shift(
            ref.values,
            obs.values,
            start=tuple(s - m for s, m in zip(coarse.top, moved, strict=True)),
            floor=np.full(n_channels, _FP16_FLOOR),
            free=coarse.free,
        )
    units = (ref.mean, ref.spread), (obs.mean, obs.spread)
    shift = np.array(coarse.best, dtype=np.float64)
    gain, bias = np.ones(n_channels), np.zeros(n_channels)
    if found is not None:
        shift = found.shift + np.array(moved)
        related = found.slope != 0
        fitted = line_gains(found.slope, found.intercept, *units)
        gain, bias = np.where(related, fitted[0], gain), np.where(related, fitted[1], bias)
    return Alignment(
        shift=shift,
        gain=gain,
        bias=bias,
        n_values=ref.values.size,
        _units=units,
        _refinement=found,
    )


def _standardised(pair: tuple[NDArray[Any], NDArray[Any]], part: Part) -> tuple[_Stack, _Stack]:
    """Standardise a part of both, in float32 where that loses nothing."""
    # Rounding to float32 is less than a thousandth of rounding to fp16.
    is_short = all(np.can_cast(array.dtype, np.float32) for array in pair)
    kind = np.float32 if is_short else np.float64
    return (
        _standard(pair[0][part.reference], "reference", kind),
        _standard(pair[1][part.observed], "observed", kind),
    )


def _standard(array: NDArray[Any], role: str, kind: type[np.floating[Any]]) -> _Stack:
    """Give mean 0 and spread 1 per channel, in floats of a kind."""
    values = np.array(array, dtype=np.float64, order="C").reshape(*array.shape[:2], -1)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        mean = values.mean(axis=(0, 2))
    if not np.isfinite(mean).all():
        raise InputError(
            f"the {role} output has values that are not finite; accepted are finite ones: "
            "convcal.estimation.estimate leaves the others out"
        )
    values -= mean[:, None]
    power = np.einsum("ncx,ncx->c", values, values) * (len(mean) / values.size)
    spread = np.sqrt(power)
    spread[spread <= 1e-12 * np.abs(mean)] = 1.0
    spread[spread == 0] = 1.0
    values *= (1 / spread)[:, None]
    return _Stack(values.astype(kind, copy=False).reshape(array.shape), mean, spread)
