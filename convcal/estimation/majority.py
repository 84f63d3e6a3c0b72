# SPDX-License-Identifier: BSD-3-Clause
"""The line that most values follow, whatever the others do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.lines import LineSums, column_parts, row_dots

__all__ = ["Majority", "find_majority"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FEW, _SOME = 96, 192  # values per channel that starts are compared by, that the line is found by
_KEPT = 0.55  # share of the values that a line is trimmed to
_KEPT_SIGMAS = 0.7554  # so far from their mean lies this share of normal values
_TUKEY = 4.685  # sigmas that the biweight reaches: 95 % efficient on normal residuals
_TINY = np.finfo(np.float64).tiny
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
        Median of some of the observed values, about which they are summed.
    """

    gain: Array
    bias: Array
    reach: Array
    centre: Array

    def sums(self, reference: Array, observed: Array, usable: Mask | None) -> LineSums:
        """Sum values weighed by Tukey's biweight about the line.

        Parameters
        ----------
        reference, observed, usable : ndarray of shape (C, n)
            As for `find_majority`.

        Returns
        -------
        LineSums
            With the line after one step towards the least sum of Tukey's losses. What the weighted
            least squares move is made longer by the mean weight over the mean bend of the loss:
            Newton's step, where the two do not depend on the observed value.
        """
        gain, bias, centre = self.gain, self.bias, self.centre
        slope, origin = gain[:, None], centre[:, None]
        level = (bias + gain * centre)[:, None]
        scale = (-1 / (self.reach * self.reach))[:, None]
        added = np.zeros((7, len(gain)))
        parts = column_parts(*reference.shape)
        memory = np.empty((3, len(gain), parts[0].stop))
        for part in parts:
            moved, rest, root = memory[:, :, : part.stop - part.start]
            np.subtract(observed[:, part], origin, out=moved)
            np.multiply(moved, slope, out=rest)
            np.subtract(reference[:, part], rest, out=rest)
            rest -= level
            np.multiply(rest, rest, out=root)
            root *= scale
            root += 1
            np.maximum(root, 0, out=root)
            if usable is not None:
                root *= usable[:, part]
            # Products of two of these carry the weight, the square of its root.
            moved *= root
            rest *= root
            added[0] += root.sum(axis=1)
            added[1] += row_dots(root, root)
            added[2] += row_dots(root, rest)
            added[3] += row_dots(root, moved)
            added[4] += row_dots(rest, rest)
            added[5] += row_dots(rest, moved)
            added[6] += row_dots(moved, moved)
        sum_root, total, sum_rest, sum_moved, square_rest, product, square = added
        safe = np.maximum(total, _TINY)
        mean_rest, mean_moved = sum_rest / safe, sum_moved / safe
        square_rest = np.maximum(square_rest - sum_rest * mean_rest, 0.0)
        product = product - sum_rest * mean_moved
        square = np.maximum(square - sum_moved * mean_moved, 0.0)
        step = product / np.where(square > 0, square, 1.0)
        longer = safe / np.maximum(5 * safe - 4 * sum_root, safe / 2)
        mean_observed = mean_moved + centre
        return LineSums(
            total=total,
            mean_reference=mean_rest + gain * mean_observed + bias,
            mean_observed=mean_observed,
            reference=np.maximum(square_rest + 2 * gain * product + gain * gain * square, 0.0),
            product=product + gain * square,
            observed=square,
            residual=np.maximum(square_rest - step * product, 0.0),
            gain=gain + longer * step,
            bias=bias + longer * (mean_rest - step * mean_observed),
        )


def find_majority(reference: Array, observed: Array, usable: Mask | None) -> Majority:
    """Find the line that most values of each channel follow.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (C, n)
        At least 8 values per channel; finite, also where they are not usable.
    usable : ndarray of bool, shape (C, n), or None
        Positions that count.

    Returns
    -------
    Majority
        Without a meaning for a channel that has no usable value.

    Notes
    -----
    Least trimmed squares (Rousseeuw and Van Driessen 2006, "Computing LTS regression for large
    data sets", DMKD 12) by some values of each channel, from three starts, of which the best goes
    on; then Tukey's biweight, on all values in one step (Bickel 1975, "One-step Huber estimates in
    the linear model", JASA 70).
    """
    ref, obs = _some_of(reference, observed, usable)
    centre_ref, centre_obs = (_ranked(values[:, :_FEW], 0.5) for values in (ref, obs))
    some = np.empty((len(ref), 5, ref.shape[1]))  # one, observed, reference, their products
    some[:, 0] = 1.0
    np.subtract(obs, centre_obs[:, None], out=some[:, 1])
    np.subtract(ref, centre_ref[:, None], out=some[:, 2])
    np.multiply(some[:, 1:2], some[:, 1:3], out=some[:, 3:])
    few = some[:, :, :_FEW]
    lines = _starts(few)
    lines = _concentrated(few, lines)
    square, limit = _squares(few, lines)
    cost = np.minimum(square, limit[:, :, None]).sum(axis=2)
    line = lines[np.arange(len(lines)), cost.argmin(axis=1)][:, None]
    line = _concentrated(few, line)
    for _ in range(2):
        line = _concentrated(some, line)
    weights, limit = _squares(some, line)
    # The floor keeps an exact fit of the majority from rejecting all but bit-equal values.
    floor = 1e-12 * (np.abs(some[:, 2]).max(axis=1) + np.abs(centre_ref))
    limit = np.maximum(limit, np.maximum(floor * floor, _TINY)[:, None])
    square_reach = (_TUKEY / _KEPT_SIGMAS) ** 2 * limit
    weights *= (-1 / square_reach)[:, :, None]
    weights += 1
    np.maximum(weights, 0, out=weights)
    weights *= weights
    bias, gain, _ = _refitted(some, weights, line)[:, 0].T
    bias = bias + centre_ref - gain * centre_obs
    return Majority(gain, bias, np.sqrt(square_reach[:, 0]), centre_obs)


def _some_of(reference: Array, observed: Array, usable: Mask | None) -> tuple[Array, Array]:
    """Take values spread over each channel, in an order in which the first are spread as well."""
    n = reference.shape[1]
    if usable is None and n <= _SOME:
        return reference, observed
    count = min(n, _SOME)
    spread = np.arange(1, count + 1) * _GOLDEN % 1.0
    if usable is None:
        chosen = (spread * n).astype(np.int64)
        return reference.take(chosen, axis=1), observed.take(chosen, axis=1)
    each = []
    for row in usable:
        places = np.flatnonzero(row if row.any() else ~row)
        each.append(places[(spread * len(places)).astype(np.int64)])
    where = np.stack(each)
    return np.take_along_axis(reference, where, 1), np.take_along_axis(observed, where, 1)


def _starts(points: Array) -> Array:
    """Give lines to start from: nothing wrong, the run of the inner half, least squares.

    Few of the values that are wrong lie between the quartiles of the observed ones. From the lower
    half of those between to the upper, the medians tell the gain.
    """
    rows, quarter = np.arange(len(points))[:, None], points.shape[2] // 4
    order = points[:, 1].argsort(axis=1)[:, quarter : 3 * quarter]
    inner = np.stack([points[rows, 1, order], points[rows, 2, order]])
    lower, upper = _ranked(inner.reshape(2, -1, 2, quarter), 0.5).transpose(2, 0, 1)
    run, rise = upper - lower
    lines = np.zeros((len(points), 3, 3))
    lines[:, :, 1:] = 1.0, -1.0
    np.divide(rise, run, out=lines[:, 1, 1], where=run > 1e-12 * np.abs(rise))
    lines[:, 2:] = _refitted(points, np.ones((len(points), 1, points.shape[2])), lines[:, :1])
    return lines


def _squares(points: Array, lines: Array) -> tuple[Array, Array]:
    """Give the squares of what lines ``(bias, gain, -1)`` leave, and within which most lie."""
    square = lines @ points[:, :3]
    square *= square
    return square, _ranked(square, _KEPT)


def _concentrated(points: Array, lines: Array) -> Array:
    """Fit anew to the values that lie nearest to each line; never worse by those."""
    square, limit = _squares(points, lines)
    return _refitted(points, (square <= limit[:, :, None]).astype(np.float64), lines)


def _refitted(points: Array, weights: Array, lines: Array) -> Array:
    """Fit lines by weighted least squares; a gain stays where the values do not spread."""
    sums = (weights @ points.swapaxes(1, 2)).transpose(2, 0, 1)
    obs, ref, square, product = sums[1:] / sums[0]
    ridge = 1e-12 * square + _TINY
    gain = (product - obs * ref + ridge * lines[:, :, 1]) / (square - obs * obs + ridge)
    found = lines.copy()
    found[:, :, 0] = ref - gain * obs
    found[:, :, 1] = gain
    return found


def _ranked(values: Array, share: float) -> Array:
    """Give the value below which a share of the last axis lies."""
    place = max(math.ceil(share * values.shape[-1]) - 1, 0)
    # Of so few, NumPy sorts all faster than it finds one.
    return np.asarray(np.sort(values, axis=-1)[..., place])
