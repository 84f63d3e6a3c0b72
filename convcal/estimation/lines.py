# SPDX-License-Identifier: BSD-3-Clause
"""Least squares of lines, one per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["CACHED", "LineSums", "line_sums", "row_dots"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CACHED = 2**14
"""So many values are worked on at a time: they stay in the cache."""


@dataclass(frozen=True, eq=False)
class LineSums:
    """Weighted sums of each channel about its means and the line they give, of shape (C,) each."""

    total: Array
    mean_reference: Array
    mean_observed: Array
    reference: Array
    product: Array
    observed: Array
    residual: Array
    gain: Array
    bias: Array

    @staticmethod
    def joined(parts: Sequence[LineSums]) -> LineSums:
        """Put the channels of several behind each other."""
        if len(parts) == 1:
            return parts[0]
        names = [field.name for field in fields(LineSums)]
        return LineSums(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
        )

    def has_signal(self, least: Array) -> Mask:
        """Tell where both vary by more than round-off and the reference by more than `least`."""
        tiny = 4 * np.finfo(np.float64).eps
        total = np.maximum(self.total, 1e-30)
        ref, obs = np.sqrt(self.reference / total), np.sqrt(self.observed / total)
        # A channel that hardly varies is about as large as its mean.
        enough = ref > np.maximum(least, tiny * (np.abs(self.mean_reference) + ref))
        varies: Mask = enough & (obs > tiny * (np.abs(self.mean_observed) + obs))
        return varies

    def replaced(self, where: NDArray[np.int64], other: LineSums, kept: Mask) -> LineSums:
        """Put the sums of some channels in the place of theirs."""
        changed = {}
        for field in fields(LineSums):
            values = getattr(self, field.name).copy()
            values[where] = getattr(other, field.name)[kept]
            changed[field.name] = values
        return LineSums(**changed)


def line_sums(ref: Array, obs: Array, weights: Array | Mask | None) -> LineSums:
    """Sum twice: for the means, then about them, part by part so that all stays in the cache."""
    n_channels, n = ref.shape
    if weights is None:
        total = np.full(n_channels, float(n))
        mean_ref, mean_obs = ref.mean(axis=1), obs.mean(axis=1)
    else:
        weights = weights.astype(np.float64, copy=False)
        total = weights.sum(axis=1)
        safe = np.where(total > 0, total, 1.0)
        mean_ref, mean_obs = row_dots(weights, ref) / safe, row_dots(weights, obs) / safe
    width = max(1, CACHED // n_channels)
    parts = [slice(start, start + width) for start in range(0, n, width)]
    squares = np.zeros((4, n_channels))
    centred = []
    for part in parts:
        own_ref, own_obs = ref[:, part] - mean_ref[:, None], obs[:, part] - mean_obs[:, None]
        left = own_obs if weights is None else own_obs * weights[:, part]
        right = own_ref if weights is None else own_ref * weights[:, part]
        squares[0] += row_dots(right, own_ref)
        squares[1] += row_dots(left, own_ref)
        squares[2] += row_dots(left, own_obs)
        centred = [own_ref, own_obs]
    gain = squares[1] / np.where(squares[2] > 0, squares[2], 1.0)
    squares[3] = squares[0] - gain * squares[1]
    # Where the line explains all but a millionth, what is left is not a difference of sums.
    if (squares[3] < 1e-6 * squares[0]).any():
        squares[3] = 0.0
        for part in parts:
            if len(parts) > 1:
                centred = [ref[:, part] - mean_ref[:, None], obs[:, part] - mean_obs[:, None]]
            rest, own_obs = centred
            own_obs *= gain[:, None]
            rest -= own_obs
            squares[3] += row_dots(rest if weights is None else rest * weights[:, part], rest)
    bias = mean_ref - gain * mean_obs
    return LineSums(
        total, mean_ref, mean_obs, squares[0], squares[1], squares[2], squares[3], gain, bias
    )


def row_dots(left: Array, right: Array) -> Array:
    """Give the scalar product of each row."""
    return np.asarray((left[:, None] @ right[:, :, None])[:, 0, 0])
