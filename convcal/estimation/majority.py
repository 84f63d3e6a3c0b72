# SPDX-License-Identifier: BSD-3-Clause
"""The line that most values follow, whatever the others do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.lines import CACHED, LineSums, row_dots

__all__ = ["Majority", "find_majority"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FEW, _SOME = 64, 256  # values per channel that starts are compared by, that the line is found by
_KEPT = 0.6  # share of the values that a line is trimmed to
# Tukey's biweight: 95 % efficient on normal residuals.
_TUKEY = 4.685
_MAD_TO_SIGMA = 1.4826
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Majority:
    """A line per channel that most of its values follow, each of shape (C,).

    Attributes
    ----------
    gain, bias : ndarray of float64
    reach : ndarray of float64
        Residual from which a value has no weight.
    centre : ndarray of float64
        Median of the observed values.
    """

    gain: Array
    bias: Array
    reach: Array
    centre: Array

    def sums(
        self, channels: slice, reference: Array, observed: Array, usable: Mask | None
    ) -> tuple[LineSums, NDArray[np.int64]]:
        """Sum the values of some channels, weighed by Tukey's biweight about the line.

        Parameters
        ----------
        channels : slice
            Of those that the majority was found for.
        reference, observed, usable : ndarray of shape (C, n)
            Their values.

        Returns
        -------
        LineSums
            With the line after one step towards the least sum of Tukey's losses. What the weighted
            least squares move is made longer by the mean weight over the mean bend of the loss:
            Newton's step, where the two do not depend on the observed value.
        ndarray of int64
            How many values have a weight.
        """
        gain, bias, reach, centre = (
            part[channels] for part in (self.gain, self.bias, self.reach, self.centre)
        )
        count = np.zeros(len(gain), dtype=np.int64)
        added = np.zeros((7, len(gain)))
        offset = bias + gain * centre
        width = max(1, CACHED // len(gain))
        for start in range(0, reference.shape[1], width):
            part = slice(start, start + width)
            moved = observed[:, part] - centre[:, None]
            rest = moved * gain[:, None]
            np.subtract(reference[:, part], rest, out=rest)
            rest -= offset[:, None]
            weights = rest * rest
            weights *= (-1 / (reach * reach))[:, None]
            weights += 1
            np.maximum(weights, 0, out=weights)
            if usable is not None:
                weights *= usable[:, part]
            count += np.count_nonzero(weights, axis=1)
            added[0] += weights.sum(axis=1)
            weights *= weights
            added[1] += weights.sum(axis=1)
            pulled = weights * rest
            added[2] += pulled.sum(axis=1)
            added[3] += row_dots(pulled, moved)
            added[6] += row_dots(pulled, rest)
            weights *= moved
            added[4] += weights.sum(axis=1)
            added[5] += row_dots(weights, moved)
        root, total, sum_rest, product, sum_moved, square, square_rest = added
        safe = np.where(total > 0, total, 1.0)
        mean_rest, mean_moved = sum_rest / safe, sum_moved / safe
        square = np.maximum(square - safe * mean_moved**2, 0.0)
        square_rest = np.maximum(square_rest - safe * mean_rest**2, 0.0)
        product = product - safe * mean_rest * mean_moved
        step = product / np.where(square > 0, square, 1.0)
        longer = np.clip(total / np.maximum(5 * total - 4 * root, 1e-30), 1.0, 2.0)
        level = longer * (mean_rest - step * mean_moved)
        found = gain + longer * step
        mean_observed = mean_moved + centre
        sums = LineSums(
            total=total,
            mean_reference=mean_rest + gain * mean_observed + bias,
            mean_observed=mean_observed,
            reference=np.maximum(square_rest + 2 * gain * product + gain * gain * square, 0.0),
            product=product + gain * square,
            observed=square,
            residual=np.maximum(square_rest - step * product, 0.0),
            gain=found,
            bias=bias + level - longer * step * centre,
        )
        return sums, count


def find_majority(reference: Array, observed: Array, usable: Mask | None) -> Majority:
    """Find the line that most values of each channel follow.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (C, n)
        With signal; finite, also where they are not usable.
    usable : ndarray of bool, shape (C, n), or None
        Positions that count, at least 8 of each channel.

    Returns
    -------
    Majority

    Notes
    -----
    Least trimmed squares (Rousseeuw and Van Driessen 2006, "Computing LTS regression for large
    data sets", DMKD 12) by some values of each channel, from four starts, of which the best goes
    on; then Tukey's biweight, on all values in one step (Bickel 1975, "One-step Huber estimates in
    the linear model", JASA 70).
    """
    ref, obs = _some_of(reference, observed, usable)
    centre_ref, centre_obs = _ranked(ref, 0.5)[:, None], _ranked(obs, 0.5)[:, None]
    ref, obs = ref - centre_ref, obs - centre_obs
    few = _Points(ref[:, :_FEW], obs[:, :_FEW])
    lines = few.concentrated(few.concentrated(_starts(few)))
    best = few.trimmed_cost(lines).argmin(axis=1)
    some = _Points(ref, obs)
    line = lines[np.arange(len(lines)), best][:, None]
    for _ in range(2):
        line = some.concentrated(line)
    # The floor keeps an exact fit of the majority from rejecting all but bit-equal values.
    floor = 1e-12 * (np.abs(ref).max(axis=1) + np.abs(centre_ref[:, 0]))
    for _ in range(2):
        error = np.abs(some.residuals(line))
        reach = _TUKEY * np.maximum(_MAD_TO_SIGMA * _ranked(error[:, 0], 0.5), floor)
        error /= reach[:, None, None]
        line = some.line(np.square(np.maximum(1 - error * error, 0)), line)
    gain = -line[:, 0, 1]
    bias = centre_ref[:, 0] - gain * centre_obs[:, 0] - line[:, 0, 0]
    return Majority(gain, bias, reach, centre_obs[:, 0])


class _Points:
    """Some values of each channel, as columns one, observed, reference and their products."""

    def __init__(self, ref: Array, obs: Array) -> None:
        self.columns = np.empty((len(ref), 5, ref.shape[1]))
        self.columns[:, 0] = 1.0
        self.columns[:, 1] = obs
        self.columns[:, 2] = ref
        np.multiply(obs, obs, out=self.columns[:, 3])
        np.multiply(obs, ref, out=self.columns[:, 4])

    def residuals(self, lines: Array) -> Array:
        """Give ``lines @ (one, observed, reference)``, shape (C, k, n), of lines (C, k, 3)."""
        return np.asarray(lines @ self.columns[:, :3])

    def line(self, weights: Array, otherwise: Array) -> Array:
        """Fit lines (C, k, 3) by weighted least squares.

        Gain 1 where the values do not spread, `otherwise` where all weights are zero.
        """
        total, obs, ref, square, product = np.moveaxis(weights @ self.columns.swapaxes(1, 2), 2, 0)
        safe = np.where(total > 0, total, 1.0)
        spread = square - obs * obs / safe
        varies = spread > 1e-14 * square
        gain = np.where(varies, (product - obs * ref / safe) / np.where(varies, spread, 1.0), 1.0)
        line = _as_lines(gain, (ref - gain * obs) / safe)
        return np.where((total > 0)[:, :, None], line, otherwise)

    def concentrated(self, lines: Array) -> Array:
        """Fit anew to the values that lie nearest to each line; never worse by those."""
        error = np.abs(self.residuals(lines))
        near = error <= _ranked(error, _KEPT)[:, :, None]
        return self.line(near.astype(np.float64), lines)

    def trimmed_cost(self, lines: Array) -> Array:
        """Give the sum of the squares of the smallest errors, shape (C, k)."""
        error = np.abs(self.residuals(lines))
        error = np.minimum(error, _ranked(error, _KEPT)[:, :, None])
        return np.asarray(np.square(error).sum(axis=2))


def _as_lines(gain: Array, bias: Array) -> Array:
    return np.stack([-bias, -gain, np.ones_like(gain)], axis=2)


def _some_of(reference: Array, observed: Array, usable: Mask | None) -> tuple[Array, Array]:
    """Take values spread over each channel, in an order in which the first are spread as well."""
    n = reference.shape[1]
    if usable is None and n <= _SOME:
        return reference, observed
    count = min(n, _SOME)
    spread = np.arange(1, count + 1) * _GOLDEN % 1.0
    if usable is None:
        chosen = (spread * n).astype(np.int64)
        return reference[:, chosen], observed[:, chosen]
    each = []
    for row in usable:
        places = np.flatnonzero(row)
        each.append(places[(spread * len(places)).astype(np.int64)])
    where = np.stack(each)
    return np.take_along_axis(reference, where, 1), np.take_along_axis(observed, where, 1)


def _starts(points: _Points) -> Array:
    """Give lines to start from: nothing wrong, least squares, and quartiles matched both ways."""
    obs, ref = points.columns[:, 1], points.columns[:, 2]
    plain = points.line(np.ones((len(ref), 1, ref.shape[1])), np.zeros(3))
    low_ref, middle_ref, high_ref = _quartiles(ref)
    low_obs, middle_obs, high_obs = _quartiles(obs)
    spread = high_obs - low_obs
    ratio = np.where(spread > 0, (high_ref - low_ref) / np.where(spread > 0, spread, 1.0), 1.0)
    gain = np.stack([np.ones_like(ratio), ratio, -ratio], axis=1)
    bias = middle_ref[:, None] - gain * middle_obs[:, None]
    bias[:, 0] = _ranked(ref - obs, 0.5)
    return np.concatenate([_as_lines(gain, bias), plain], axis=1)


def _quartiles(values: Array) -> tuple[Array, Array, Array]:
    ordered = np.sort(values, axis=1)
    n = values.shape[1]
    return ordered[:, n // 4], ordered[:, n // 2], ordered[:, 3 * n // 4]


def _ranked(values: Array, share: float) -> Array:
    """Give the value below which a share of the last axis lies."""
    place = max(math.ceil(share * values.shape[-1]) - 1, 0)
    return np.asarray(np.partition(values, place, axis=-1)[..., place])
