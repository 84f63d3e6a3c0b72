# SPDX-License-Identifier: BSD-3-Clause
"""The normal equations of a shift, with gain and bias of every channel eliminated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Solution", "solve"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Solution:
    """One Gauss-Newton step.

    Attributes
    ----------
    step, error : ndarray of float64, shape (n_free,)
    inverse : ndarray of float64, shape (n_free, n_free)
        Of the information.
    across : ndarray of float64, shape (C, n_free)
        What the slopes have of the moved reference.
    mean : ndarray of float64, shape (C, k)
        Of the fields.
    weight, residual, left, slope, power, count : ndarray of float64, shape (C,)
        `residual` is the variance before the step and `left` after it, `slope` that of the
        observed over the reference, `power` the sum of the squares of the centred reference over
        `count` positions.
    noise : float
        Median of `left` over the channels that count.
    """

    step: Array
    error: Array
    inverse: Array
    across: Array
    mean: Array
    weight: Array
    residual: Array
    left: Array
    slope: Array
    power: Array
    count: Array
    noise: float

    @property
    def to_score(self) -> Array:
        """What turns fields into the weighted derivatives of the residual, shape (C, n_free, k)."""
        n_channels, n_free = self.across.shape
        result = np.zeros((n_channels, n_free, n_free + 3))
        result[:, :, 2:-1] = np.eye(n_free)
        result[:, :, 1] = -self.across
        result[:, :, 0] = -(result[:, :, 1:] @ self.mean[:, 1:, None])[:, :, 0]
        result *= self.weight[:, None, None]
        return result

    def line(self) -> tuple[Array, Array]:
        """Give slope and intercept per channel once the step is made."""
        slope = self.slope / np.maximum(1 + self.across @ self.step, 0.5)
        moved = self.mean[:, 1] + self.mean[:, 2:-1] @ self.step
        return slope, self.mean[:, -1] - slope * moved


def solve(gram: Array, floor: Array) -> Solution | None:
    """Solve the normal equations of pooled products.

    Parameters
    ----------
    gram : ndarray of float64, shape (C, k, k)
        Weighted products of the fields one, moved reference, its slopes, observed.
    floor : ndarray of float64, shape (C,)
        Variance that rounding alone leaves.

    Returns
    -------
    Solution or None
        None without a gradient along every axis.
    """
    count = gram[:, 0, 0]
    safe = np.maximum(count, 1e-30)
    mean = gram[:, 0] / safe[:, None]
    centred = gram - gram[:, :, :1] * mean[:, None]
    power = centred[:, 1, 1]
    enough = (count > 4) & (power > 1e-9 * safe)
    if not enough.any():
        return None
    power = np.where(enough, power, np.inf)
    # Without the moved reference: slopes and observed, what gain and bias leave of them.
    across = centred[:, 1, 2:] / power[:, None]
    rest = centred[:, 2:, 2:] - across[:, :, None] * centred[:, 1, None, 2:]
    slope = across[:, -1]
    residual = np.maximum(rest[:, -1, -1] / safe, 0.0) + floor
    weight = slope / residual
    bends, pulls = rest[:, :-1, :-1], rest[:, :-1, -1]
    information = ((weight * slope)[:, None, None] * bends).sum(axis=0)
    scale = np.sqrt(np.maximum(information.diagonal(), 0))
    scales = scale[:, None] * scale
    if not scale.all() or _nearly_singular(information / scales):
        return None
    inverse = np.linalg.inv(information / scales) / scales
    step = inverse @ (weight @ pulls)
    gained = slope * (2 * (pulls @ step) - slope * ((bends @ step) @ step))
    left = np.maximum(residual - gained / safe, floor)
    noise = _middle(left[enough])
    return Solution(
        step=step,
        error=np.sqrt(inverse.diagonal() * (noise / _middle(residual[enough]))),
        inverse=inverse,
        across=across[:, :-1],
        mean=mean,
        weight=weight,
        residual=residual,
        left=left,
        slope=slope,
        power=power,
        count=safe,
        noise=noise,
    )


def _nearly_singular(relative: Array) -> bool:
    """Tell whether the axes of a matrix with ones on its diagonal say the same."""
    if len(relative) == 2:
        return bool(1 - abs(relative[0, 1]) < 1e-8)
    return len(relative) > 1 and bool(np.linalg.eigvalsh(relative)[0] < 1e-8)


def _middle(values: Array) -> float:
    """Give the median, of an even number the upper one."""
    return float(sorted(values.tolist())[len(values) // 2])
