# SPDX-License-Identifier: BSD-3-Clause
"""The sub-pixel shift by maximum likelihood on the overlap, jointly with gain and bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.arrays import choose_part
from convcal.estimation.comparison import Fields, ShiftProblem
from convcal.estimation.solution import Solution, solve

__all__ = ["MODEL_ERROR", "Line", "Refinement", "line_gains", "refine_shift"]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# What the estimator itself may be off by, in pixels, and claims no less: with fp16 pairs of 64 x 64
# that are exact but for rounding, 95 in 100 are within 0.0005 px (benchmarks/registration.py).
MODEL_ERROR = 0.00015
# The same of a gain, relative: with it, intervals hold at 40 dB (benchmarks/registration.py).
_GAIN_ERROR = 0.0001
_MAX_STEPS = 12
_LARGEST_MOVE = 1.5
_FEW = 2**12  # values that the first steps are made with
_LEAST_NOISE = 1e-6  # below it, it makes no difference to the weights
# What noise there is shows at the first step; that is made with the weights of this much.
_LIKELY_NOISE = 1e-3
# Weights of another noise are as good as its own: predictions may count too little, not too much.
_LEAST_RATIO, _LARGEST_RATIO = 1 / 4, 8.0


@dataclass(frozen=True, eq=False)
class Line:
    """``observed = slope * reference + intercept`` of standardised stacks, per channel.

    Attributes
    ----------
    slope, slope_error, intercept, intercept_error : ndarray of float64, shape (C,)
        Standard errors for white noise in the observed values; infinite where unrelated.
    """

    slope: Array
    slope_error: Array
    intercept: Array
    intercept_error: Array

    def gains(
        self, reference: tuple[Array, Array], observed: tuple[Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        """Give gain, bias and their standard errors in the outputs' own units.

        Parameters
        ----------
        reference, observed : (mean, spread)
            What both were standardised by.
        """
        obs_mean, obs_spread = observed
        related = self.slope != 0
        gain, bias = line_gains(self.slope, self.intercept, reference, observed)
        centre = obs_mean + obs_spread * self.intercept
        slope = np.where(related, self.slope, 1.0)
        relative = np.hypot(self.slope_error / np.abs(slope), _GAIN_ERROR)
        gain_error = np.where(related, np.abs(gain) * relative, np.inf)
        level = self.intercept_error * obs_spread * np.abs(gain)
        with np.errstate(invalid="ignore"):  # inf * 0, where unrelated
            bias_error = np.where(related, np.hypot(level, gain_error * centre), np.inf)
        return gain, bias, gain_error, bias_error


def line_gains(
    slope: Array,
    intercept: Array,
    reference: tuple[Array, Array],
    observed: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Give gain and bias of a `Line` as `Line.gains` does, without their errors."""
    (ref_mean, ref_spread), (obs_mean, obs_spread) = reference, observed
    gain = ref_spread / (obs_spread * np.where(slope != 0, slope, 1.0))
    return gain, ref_mean - gain * (obs_mean + obs_spread * intercept)


@dataclass(frozen=True, eq=False)
class Refinement:
    """A shift at its optimum.

    Attributes
    ----------
    shift : ndarray of float64, shape (n_axes,)
    noise : float
        Variance in the band that predictions were weighed against, about what noise has.
    slope, intercept : ndarray of float64, shape (C,)
        Of `line`.
    """

    shift: Array
    noise: float
    slope: Array
    intercept: Array
    _floor: Array
    _problem: ShiftProblem
    _fields: Fields
    _solution: Solution

    @property
    def cutoffs(self) -> tuple[float, ...]:
        """Where the filter's gain is one half, per axis, as a share of the Nyquist frequency."""
        return tuple(filter_.cutoff for filter_ in self._problem.filters)

    @cached_property
    def line(self) -> Line:
        """Gain and bias, with their errors."""
        own = self._problem.weight_means(self.noise).weight
        # In the band the filter keeps the power of the signal, of white noise only its own square
        # sum.
        white = (own * self.residual + self._wrong) / self._problem.noise_gain
        related = self.slope != 0
        return Line(
            slope=self.slope,
            slope_error=np.where(related, np.sqrt(white / self._solution.power), np.inf),
            intercept=self.intercept,
            intercept_error=np.where(related, np.sqrt(white / self._solution.count), np.inf),
        )

    @property
    def residual(self) -> Array:
        """Variance of the noise in the band per channel, of the observed variance; shape (C,)."""
        return self._middle[0]

    @cached_property
    def _middle(self) -> tuple[Array, float]:
        """Variance of the noise per channel, and what predictions add to it at most.

        What is left near a border is what was predicted wrongly: noise shows in the middle.
        """
        slope, ones = self.slope[:, None], np.ones((len(self.slope), 1))
        error = np.hstack([-self.intercept[:, None], -slope, -slope * self._solution.step, ones])
        noise = self.noise
        for _ in range(2):
            cut, most = self._problem.inside(noise)
            gram = self._fields.products(cut).sum(axis=0)
            square = np.einsum("ck,ckl,cl->c", error, gram, error)
            left = np.maximum(square / np.maximum(gram[:, 0, 0], 1e-30), self._floor)
            noise, before = float(np.median(left[self.slope != 0])), noise
            if noise > before / 2:
                break  # of less noise, the middle is smaller
        return left, most

    @cached_property
    def _wrong(self) -> Array:
        """What wrong predictions add to the variance of a weighted sum, per weight and channel.

        Both stacks are predicted wrongly, by much the same where the shift is small: by how much,
        what is left altogether tells, unless nothing lies free of it.
        """
        left, most = self._middle
        means = self._problem.weight_means(self.noise)
        share = np.clip((self._solution.left - left) / max(means.border, 1e-30), 0.0, 1.0)
        return np.asarray(means.weighted_border * np.where(most > left, 1.0, share))

    @cached_property
    def covariance(self) -> Array:
        """Covariance of the shift, for white noise in the observed stack and wrong predictions.

        Shape (n_axes, n_axes); infinite for axes that were not refined.
        """
        n_axes, free = len(self.shift), list(self._problem.free)
        covariance = np.full((n_axes, n_axes), np.inf)
        white = np.sqrt(self.residual / self._problem.noise_gain)
        pull = self._problem.pull(self._fields, self._solution.to_score * white[:, None, None])
        inverse = self._solution.inverse
        related = self.slope != 0
        wrong = np.median(self._wrong[related] / self._solution.residual[related])
        covariance[np.ix_(free, free)] = inverse @ pull @ inverse + wrong * inverse
        return covariance

    @cached_property
    def grams(self) -> Array:
        """Weighted products of the fields one, moved reference, its slopes, observed.

        Shape (units, C, k, k): per sample and block, what the score of every part is made of. The
        axes of fewer than 16 samples are cut so that samples times blocks give at least 24 units
        where they can: across a cut, noise that is correlated is taken for independent.
        """
        size, n_samples = self._problem.size, self._problem.shape[0]
        per_axis = math.ceil((24 / n_samples) ** (1 / len(size))) if n_samples < 16 else 1
        cuts: list[tuple[slice, ...]] = [()]
        for length in size:
            count = max(1, min(per_axis, length // 4))
            edges = [round(length * i / count) for i in range(count + 1)]
            cuts = [(*cut, slice(edges[i], edges[i + 1])) for cut in cuts for i in range(count)]
        return np.concatenate([self._fields.products(cut) for cut in cuts])


def refine_shift(
    reference: Floats,
    observed: Floats,
    *,
    start: Sequence[float],
    floor: Array,
    free: Sequence[int] | None = None,
    band: float = 1.0,
    valid: Mask | None = None,
) -> Refinement | None:
    """Refine a shift by Gauss-Newton steps.

    Parameters
    ----------
    reference, observed : ndarray of float64 or float32, shape (N, C, *spatial)
        Finite, mean 0 and variance 1 per channel; values that do not count hold something
        plausible, since filters reach across them.
    start : sequence of float
        Within about half a pixel of the optimum.
    floor : ndarray of float64, shape (C,)
        Variance that rounding alone leaves; keeps an exact channel from outweighing the rest.
    free : sequence of int or None
        The axes to refine; None for all. The others keep their start, in whole pixels.
    band : float
        Highest frequency to use, as a share of the Nyquist frequency.
    valid : ndarray of bool or None
        Observed positions that count.

    Returns
    -------
    Refinement or None
        None where the steps leave 1.5 pixels or meet no gradient. Where they do not settle, it is
        what the twelfth came to.

    Notes
    -----
    Least squares over the observed values, whose noise is taken for white, with gain and bias of
    every channel eliminated and channels weighted by the inverse of their residual variance: the
    maximum of the likelihood (Robinson and Milanfar 2004, "Fundamental performance limits in image
    registration", IEEE TIP 13(9)). Of many values the first steps use a part.
    """
    n_axes = reference.ndim - 2
    axes = tuple(range(n_axes)) if free is None else tuple(free)
    if not axes:
        return None
    shift = np.array(start, dtype=np.float64)
    noise = _LIKELY_NOISE
    if reference.size > 4 * _FEW:
        first = _refine_part(
            reference,
            observed,
            start=start,
            floor=floor,
            axes=axes,
            band=band,
            valid=valid,
        )
        if first is not None:
            shift = np.array([round(s) for s in start]) + first.shift
            noise = first.noise
    problem = ShiftProblem(reference, observed, free=axes, start=shift, band=band, valid=valid)
    if min(problem.size) < 3:
        return None
    noise = max(noise, problem.least_noise)
    slope = np.zeros(len(floor))
    for _ in range(_MAX_STEPS):
        fields = problem.fields(shift, noise=noise, slope=slope)
        found = solve(fields.gram(), floor)
        if found is None:
            return None
        solution = found
        shift = shift.copy()
        shift[list(axes)] += np.clip(solution.step, -0.5, 0.5)
        if np.abs(shift - start).max() > _LARGEST_MOVE:
            return None
        weighed, noise, slope = noise, max(solution.noise, _LEAST_NOISE), solution.slope
        if not _is_settled(solution):
            continue
        if _LEAST_RATIO < noise / weighed < _LARGEST_RATIO:
            break
        # All but the weights is as it will be.
        fields = problem.weigh_anew(fields, before=weighed, noise=noise)
        again = solve(fields.gram(), floor)
        if again is None:
            return None
        shift[list(axes)] += again.step - solution.step
        solution, weighed = again, noise
        if _is_settled(solution):
            break
    slope, intercept = solution.line()
    return Refinement(
        shift=shift,
        noise=weighed,
        slope=slope,
        intercept=intercept,
        _floor=floor,
        _problem=problem,
        _fields=fields,
        _solution=solution,
    )


def _is_settled(solution: Solution) -> bool:
    """Tell whether another step would change nothing that counts, a tenth of an error.

    What a step leaves is the cube of it, and as much of it as the noise disturbs the slopes; the
    square of what it moved is missing from the gain.
    """
    errors: list[float] = solution.error.tolist()
    moved, error = float(max(abs(pixels) for pixels in solution.step.tolist())), min(errors)
    rest = 5 * moved**3 + 3 * moved * max(errors)
    return rest <= max(1e-6, 0.1 * error) and moved**2 <= max(1e-6, 0.2 * error)


def _refine_part(
    reference: Floats,
    observed: Floats,
    *,
    start: Sequence[float],
    floor: Array,
    axes: tuple[int, ...],
    band: float,
    valid: Mask | None,
) -> Refinement | None:
    """Refine by a part of the values, cut out so that whole pixels of the shift are gone.

    None where no part is much smaller.
    """
    part = choose_part(
        reference, n_values=_FEW, shift=tuple(round(s) for s in start), thin_channels=True
    )
    some = np.ascontiguousarray(reference[part.reference])
    if some.size > reference.size / 2:
        return None
    return refine_shift(
        some,
        np.ascontiguousarray(observed[part.observed]),
        start=[s - round(s) for s in start],
        floor=floor[part.channels],
        free=axes,
        band=band,
        valid=None if valid is None else valid[part.observed],
    )
