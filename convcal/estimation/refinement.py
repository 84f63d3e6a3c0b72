# SPDX-License-Identifier: BSD-3-Clause
"""The sub-pixel shift by maximum likelihood on the overlap, jointly with gain and bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.band import BandFilter, filter_axis, filter_back
from convcal.estimation.prediction import extend_axis

__all__ = ["Refinement", "refine_shift"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MAX_STEPS = 12
_LARGEST_MOVE = 1.5


@dataclass(frozen=True, eq=False)
class Refinement:
    """A shift at its optimum.

    Attributes
    ----------
    shift : ndarray of float64, shape (n_axes,)
    covariance : ndarray of float64, shape (n_axes, n_axes)
        For white noise in the observed stack; infinite for axes that were not refined.
    residual : ndarray of float64, shape (C,)
        Variance that is left in the band, per channel, in units of the observed variance.
    slope, slope_error : ndarray of float64, shape (C,)
        Observed over reference, in units of their spreads; 0 where they are unrelated.
    intercept, intercept_error : ndarray of float64, shape (C,)
        ``observed = slope * reference + intercept``; the error is that at the mean reference.
    grams : ndarray of float64, shape (units, C, k, k)
        Weighted products of the fields one, moved reference, its slopes, observed: per sample and
        block, what the score of every part is made of.
    """

    shift: Array
    covariance: Array
    residual: Array
    slope: Array
    slope_error: Array
    intercept: Array
    intercept_error: Array
    grams: Array


class ShiftProblem:
    """Two stacks and a band, ready to be compared at any shift.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Mean 0 and variance about 1 per channel, registered to within about a pixel.
    free : sequence of int
        The spatial axes to refine.
    band : float
        Highest frequency to use, as a share of the Nyquist frequency.
    start : sequence of float, one per spatial axis
        About where the optimum lies; whole numbers along the other axes.
    valid : ndarray of bool, shape (N, C, *spatial), or None
        Observed positions that count.

    Notes
    -----
    The reference is moved, since it has the less noise, and compared with the observed stack on
    all positions whose source lies inside. What the filters need from beyond the borders is
    predicted; positions are weighted by how far the prediction may be wrong against the residual.
    """

    def __init__(
        self,
        reference: Array,
        observed: Array,
        *,
        free: Sequence[int],
        start: Sequence[float],
        band: float = 1.0,
        valid: Mask | None = None,
    ) -> None:
        spatial = reference.shape[2:]
        self.free = tuple(free)
        self.shape = reference.shape[:2]
        self.window = tuple(
            (max(0, math.ceil(-s)), min(n - 1, math.floor(n - 1 - s)) + 1)
            for s, n in zip(start, spatial, strict=True)
        )
        self.filters = [BandFilter(_reach(n), band) for n in spatial]
        self.extra = [f.reach + 2 for f in self.filters]
        self.reference = np.ascontiguousarray(reference)
        field = np.ascontiguousarray(observed)
        self.border = [np.zeros(stop - begin) for begin, stop in self.window]
        self.rest = {}
        for axis in self.free:
            width, (begin, stop) = self.extra[axis], self.window[axis]
            self.reference, error = extend_axis(self.reference, axis=axis + 2, width=width)
            extended, own_error = extend_axis(field, axis=axis + 2, width=width)
            first, rest, _ = self.filters[axis].taps(0.0)
            self.rest[axis] = rest
            field = filter_axis(
                extended, rest, axis=axis + 2, start=width + first + begin, length=stop - begin
            )
            moved, taps, _ = self.filters[axis].taps(start[axis])
            for errors, weights, where in ((error, taps, moved), (own_error, rest, first)):
                self.border[axis] = self.border[axis] + errors.variances(
                    weights, first=where, size=spatial[axis], start=begin, length=stop - begin
                )
        for axis in range(len(spatial)):
            if axis not in self.free:
                begin, stop = self.window[axis]
                field = field.take(np.arange(begin, stop), axis=axis + 2)
                shifted = np.arange(begin, stop) + round(start[axis])
                self.reference = np.ascontiguousarray(self.reference.take(shifted, axis=axis + 2))
        self.observed = np.ascontiguousarray(field)
        self.valid = None
        if valid is not None:
            cut = tuple(slice(begin, stop) for begin, stop in self.window)
            self.valid = valid[(slice(None), slice(None), *cut)].reshape(*self.shape, -1)

    @property
    def size(self) -> tuple[int, ...]:
        """Sizes of the window that is compared."""
        return tuple(stop - begin for begin, stop in self.window)

    @property
    def noise_gain(self) -> float:
        """Share of the power of white noise that the low-pass filter keeps."""
        return math.prod(float(np.square(taps).sum()) for taps in self.rest.values())

    def border_variance(self) -> Array:
        """Give the variance that prediction adds at each position, shape (prod(size),)."""
        total = np.zeros(self.size)
        for axis, variance in enumerate(self.border):
            total += variance.reshape([-1 if a == axis else 1 for a in range(total.ndim)])
        return total.ravel()

    def fields(self, shift: Array) -> Array:
        """Give one, the moved reference, its slopes, and the observed stack.

        Returns
        -------
        ndarray of float64, shape (N, C, 3 + len(free), prod(size))
        """
        values = self.reference
        slopes: list[Array] = []
        for axis in self.free:
            begin, stop = self.window[axis]
            first, taps, tap_slopes = self.filters[axis].taps(shift[axis])
            place = {"axis": axis + 2, "start": self.extra[axis] + first + begin}
            place["length"] = stop - begin
            steep = filter_axis(values, tap_slopes, **place)
            slopes = [filter_axis(s, taps, **place) for s in slopes]
            values = filter_axis(values, taps, **place)
            slopes.append(steep)
        stack = np.empty((*self.shape, 3 + len(slopes), math.prod(self.size)))
        stack[:, :, 0] = 1.0
        for k, part in enumerate((values, *slopes, self.observed), start=1):
            stack[:, :, k] = part.reshape(*self.shape, -1)
        return stack

    def back(self, field: Array) -> Array:
        """Apply the adjoint of the low-pass filter of the observed stack."""
        for axis, taps in self.rest.items():
            field = filter_back(field, taps, axis=axis + field.ndim - len(self.window))
        return field


def refine_shift(
    reference: Array,
    observed: Array,
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
    reference, observed : ndarray of float64, shape (N, C, *spatial)
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
        None where the steps leave 1.5 pixels or meet no gradient.

    Notes
    -----
    Least squares over the observed values, whose noise is taken for white, with gain and bias of
    every channel eliminated and channels weighted by the inverse of their residual variance: the
    maximum of the likelihood (Robinson and Milanfar 2004, "Fundamental performance limits in image
    registration", IEEE TIP 13(9)).
    """
    n_axes = reference.ndim - 2
    axes = tuple(range(n_axes)) if free is None else tuple(free)
    if not axes:
        return None
    problem = ShiftProblem(reference, observed, free=axes, start=start, band=band, valid=valid)
    if min(problem.size) < 3:
        return None
    border = problem.border_variance()
    shift = np.array(start, dtype=np.float64)
    level = 1e-3
    solution: Solution | None = None
    for step_number in range(_MAX_STEPS):
        fields = problem.fields(shift)
        weights = level / (level + border)
        weighted = fields * weights
        if problem.valid is not None:
            weighted *= problem.valid[:, :, None]
        solution = solve((weighted @ fields.swapaxes(-1, -2)).sum(axis=0), floor)
        if solution is None:
            return None
        shift[list(axes)] += np.clip(solution.step, -0.5, 0.5)
        if np.abs(shift - start).max() > _LARGEST_MOVE:
            return None
        level = solution.noise
        is_settled = (np.abs(solution.step) <= np.maximum(1e-6, 0.02 * solution.error)).all()
        if step_number and is_settled:
            break
    if solution is None:  # pragma: no cover - the loop runs
        return None
    # In the band the filter keeps the power of the signal, of white noise only its own square sum.
    noise = solution.residual / problem.noise_gain
    covariance = np.full((n_axes, n_axes), np.inf)
    covariance[np.ix_(axes, axes)] = _covariance(problem, weighted, solution)
    return Refinement(
        shift=shift,
        covariance=covariance,
        residual=solution.residual,
        slope=solution.slope,
        slope_error=np.sqrt(noise / solution.power),
        intercept=solution.intercept,
        intercept_error=np.sqrt(noise / solution.count),
        grams=_grams(weighted, fields, problem.size),
    )


def _grams(weighted: Array, fields: Array, size: tuple[int, ...]) -> Array:
    """Sum the products per sample and block, shape (units, C, k, k).

    The axes are cut so that samples times blocks give at least 24 units where they can.
    """
    n_samples, n_channels, k = fields.shape[:3]
    per_axis = max(1, math.ceil((24 / n_samples) ** (1 / len(size))))
    stacks = [part.reshape(n_samples, n_channels, k, *size) for part in (weighted, fields)]
    cuts: list[tuple[slice, ...]] = [(slice(None),) * 3]
    for length in size:
        count = max(1, min(per_axis, length // 4))
        edges = [round(length * i / count) for i in range(count + 1)]
        cuts = [(*cut, slice(edges[i], edges[i + 1])) for cut in cuts for i in range(count)]
    grams = np.empty((len(cuts), n_samples, n_channels, k, k))
    for block, cut in enumerate(cuts):
        left, right = (stack[cut].reshape(n_samples, n_channels, k, -1) for stack in stacks)
        grams[block] = left @ right.swapaxes(-1, -2)
    return grams.reshape(-1, n_channels, k, k)


@dataclass(frozen=True, eq=False)
class Solution:
    """One Gauss-Newton step.

    Attributes
    ----------
    step, error : ndarray of float64, shape (n_free,)
    inverse : ndarray of float64, shape (n_free, n_free)
        Of the information.
    to_score : ndarray of float64, shape (C, n_free, k)
        Turns fields into the derivatives of the residual, weighted by channel.
    residual, slope, intercept, power, count : ndarray of float64, shape (C,)
        `power` is the sum of the squares of the centred reference over `count` positions.
    noise : float
        Median residual over the channels that count.
    """

    step: Array
    error: Array
    inverse: Array
    to_score: Array
    residual: Array
    slope: Array
    intercept: Array
    power: Array
    count: Array
    noise: float


def solve(gram: Array, floor: Array) -> Solution | None:
    """Solve the normal equations of pooled products, shape (C, k, k)."""
    n_channels, k = gram.shape[:2]
    count = gram[:, :1, :1]
    safe = np.where(count > 0, count, 1.0)
    centred = gram - gram[:, :, :1] * gram[:, :1, :] / safe
    power = centred[:, 1, 1]
    enough = (count[:, 0, 0] > 4) & (power > 1e-9 * safe[:, 0, 0])
    power = np.where(enough, power, 1.0)
    # Without the moved reference: slopes and observed, what gain and bias leave of them.
    across = centred[:, 1, 2:] / power[:, None]
    rest = centred[:, 2:, 2:] - across[:, :, None] * centred[:, 1, None, 2:]
    slope = np.where(enough, across[:, -1], 0.0)
    residual = np.maximum(rest[:, -1, -1], 0.0) / safe[:, 0, 0]
    residual = residual + floor
    weight = np.where(enough, slope / residual, 0.0)
    score = (weight[:, None] * rest[:, :-1, -1]).sum(axis=0)
    information = ((weight * slope)[:, None, None] * rest[:, :-1, :-1]).sum(axis=0)
    diagonal = np.diag(information)
    if not (diagonal > 0).all():
        return None
    scale = np.sqrt(diagonal)
    relative = information / np.outer(scale, scale)
    if len(diagonal) > 1 and np.linalg.eigvalsh(relative)[0] < 1e-8:
        return None
    inverse = np.linalg.inv(relative) / np.outer(scale, scale)
    to_score = np.zeros((n_channels, k - 3, k))
    to_score[:, :, 2:-1] = np.eye(k - 3)
    to_score[:, :, 1] = -across[:, :-1]
    mean = gram[:, 0, :] / safe[:, 0]
    to_score[:, :, 0] = -(to_score[:, :, 1:] @ mean[:, 1:, None])[:, :, 0]
    to_score *= weight[:, None, None]
    counted = residual[enough]
    return Solution(
        step=inverse @ score,
        error=np.sqrt(np.diag(inverse)),
        inverse=inverse,
        to_score=to_score,
        residual=residual,
        slope=slope,
        intercept=mean[:, -1] - slope * mean[:, 1],
        power=power,
        count=safe[:, 0, 0],
        noise=float(np.median(counted)) if counted.size else 1.0,
    )


def _covariance(problem: ShiftProblem, weighted: Array, solution: Solution) -> Array:
    """Give the covariance of the shift where the observed stack has white noise.

    The low-pass filter correlates the noise of neighbours; the score is a sum over the noise
    itself, with what the filter's adjoint makes of the slopes.
    """
    slopes = np.einsum("cak,ncki->anci", solution.to_score, weighted)
    shape = (len(slopes), *problem.shape, *problem.size)
    slopes = problem.back(np.ascontiguousarray(slopes.reshape(shape)))
    white = np.sqrt(solution.residual / problem.noise_gain)
    slopes = slopes * white.reshape(1, 1, -1, *(1,) * len(problem.size))
    flat = slopes.reshape(len(slopes), -1)
    spread = solution.inverse @ (flat @ flat.T) @ solution.inverse
    return np.asarray(spread)


def _reach(size: int) -> int:
    """Choose how far a filter reaches: further is a wider band, and more to predict."""
    return min(16, max(6, size // 2))
