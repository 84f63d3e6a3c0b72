# SPDX-License-Identifier: BSD-3-Clause
"""Ranges and counts of the values of each channel, ready to merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelCounts"]

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelCounts:
    """What the values of reference (row 0) and observed (row 1) are like, per channel.

    Attributes
    ----------
    minimum, maximum : ndarray of float64, shape (2, C)
        Of the finite values; infinity and minus infinity where there is none.
    n_nonfinite : ndarray of int64, shape (2, C)
        Values that are not finite.
    n_left_out : ndarray of int64, shape (C,)
        Planes (of one sample and one channel) with such a value in either; moments leave them
        out.
    n_different : ndarray of int64, shape (C,)
        Positions where the two do not hold the same.
    """

    minimum: Array
    maximum: Array
    n_nonfinite: Counts
    n_left_out: Counts
    n_different: Counts

    @classmethod
    def empty(cls, n_channels: int) -> Self:
        """Give the counts of no sample."""
        return cls(
            minimum=np.full((2, n_channels), np.inf),
            maximum=np.full((2, n_channels), -np.inf),
            n_nonfinite=np.zeros((2, n_channels), dtype=np.int64),
            n_left_out=np.zeros(n_channels, dtype=np.int64),
            n_different=np.zeros(n_channels, dtype=np.int64),
        )

    @classmethod
    def of(cls, reference: NDArray[Any], observed: NDArray[Any]) -> Self:
        """Count the values of a batch, (N, C, *spatial)."""
        axes = (0, *range(2, reference.ndim))
        finite = [np.isfinite(array) for array in (reference, observed)]
        ranges = [
            _range(array, mask) for array, mask in zip((reference, observed), finite, strict=True)
        ]
        is_whole = (finite[0] & finite[1]).all(axis=tuple(range(2, reference.ndim)))
        return cls(
            minimum=np.stack([low for low, _ in ranges]),
            maximum=np.stack([high for _, high in ranges]),
            n_nonfinite=np.stack([(~mask).sum(axis=axes) for mask in finite]),
            n_left_out=(~is_whole).sum(axis=0),
            n_different=(reference != observed).sum(axis=axes),
        )

    @property
    def nbytes(self) -> int:
        """Bytes held: 64 C."""
        floats, counts = (
            (self.minimum, self.maximum),
            (self.n_nonfinite, self.n_left_out, self.n_different),
        )
        return sum(array.nbytes for array in (*floats, *counts))

    def pooled(self, other: ChannelCounts) -> ChannelCounts:
        """Give the counts of both sets of samples."""
        return ChannelCounts(
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            n_nonfinite=self.n_nonfinite + other.n_nonfinite,
            n_left_out=self.n_left_out + other.n_left_out,
            n_different=self.n_different + other.n_different,
        )


def _range(array: NDArray[Any], finite: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Give least and largest finite value of each channel."""
    low, high = np.full(array.shape[1], np.inf), np.full(array.shape[1], -np.inf)
    for channel in range(array.shape[1]):
        mask = finite[:, channel]
        values = array[:, channel]
        if not mask.all():
            values = values[mask]
        if values.size:
            low[channel], high[channel] = values.min(), values.max()
    return low, high
