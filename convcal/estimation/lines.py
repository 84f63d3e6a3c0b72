# SPDX-License-Identifier: BSD-3-Clause
"""Least squares of lines, one per channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["LineSums", "column_parts", "line_sums", "row_dots"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CACHED = 2**15
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

    @classmethod
    def of_moments(
        cls,
        total: Array,
        mean_reference: Array,
        mean_observed: Array,
        *,
        reference: Array,
        product: Array,
        observed: Array,
    ) -> Self:
        """Add the line of least squares to the sums that give it."""
        gain = product / np.where(observed > 0, observed, 1.0)
        return cls(
            total=total,
            mean_reference=mean_reference,
            mean_observed=mean_observed,
            reference=reference,
            product=product,
            observed=observed,
            residual=np.maximum(reference - gain * product, 0.0),
            gain=gain,
            bias=mean_reference - gain * mean_observed,
        )

    @staticmethod
    def joined(parts: Sequence[LineSums]) -> LineSums:
        """Put the channels of several behind each other."""
        if len(parts) == 1:
            return parts[0]
        names = [field.name for field in fields(LineSums)]
        return LineSums(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
        )

    def has_signal(self, least: Array | float) -> Mask:
        """Tell where 3 values vary by more than round-off, the reference by more than `least`."""
        tiny = 4 * np.finfo(np.float64).eps
        total = np.maximum(self.total, 1e-30)
        ref, obs = np.sqrt(self.reference / total), np.sqrt(self.observed / total)
        # A channel that hardly varies is about as large as its mean.
        enough = ref > np.maximum(least, tiny * (np.abs(self.mean_reference) + ref))
        varies: Mask = enough & (obs > tiny * (np.abs(self.mean_observed) + obs))
        return varies & (self.total > 2)

    def replaced(self, where: Mask, other: LineSums) -> LineSums:
        """Take some channels from another."""
        if where.all():
            return other
        names = [field.name for field in fields(LineSums)]
        return LineSums(
            *(np.where(where, getattr(other, name), getattr(self, name)) for name in names)
        )


def line_sums(ref: Array, obs: Array, weights: Array | Mask | None) -> LineSums:
    """Sum twice: for the means, then about them."""
    n_channels, n = ref.shape
    if weights is None:
        total = np.full(n_channels, float(n))
        mean_ref, mean_obs = ref.sum(axis=1) / max(n, 1), obs.sum(axis=1) / max(n, 1)
    else:
        weights = weights.astype(np.float64, copy=False)
        total = weights.sum(axis=1)
        safe = np.where(total > 0, total, 1.0)
        mean_ref, mean_obs = row_dots(weights, ref) / safe, row_dots(weights, obs) / safe
    reference, product, observed = np.zeros((3, n_channels))
    for part, own_ref, own_obs in _deviations(ref, obs, mean_ref, mean_obs):
        left = own_obs if weights is None else own_obs * weights[:, part]
        right = own_ref if weights is None else own_ref * weights[:, part]
        reference += row_dots(right, own_ref)
        product += row_dots(left, own_ref)
        observed += row_dots(left, own_obs)
    sums = LineSums.of_moments(
        total, mean_ref, mean_obs, reference=reference, product=product, observed=observed
    )
    # A billionth that a difference of sums leaves has six digits; what is less is summed itself.
    if (sums.residual < 1e-9 * reference).any():
        residual = np.zeros(n_channels)
        for part, rest, own_obs in _deviations(ref, obs, mean_ref, mean_obs):
            np.multiply(own_obs, sums.gain[:, None], out=own_obs)
            np.subtract(rest, own_obs, out=rest)
            residual += row_dots(rest if weights is None else rest * weights[:, part], rest)
        sums = replace(sums, residual=residual)
    return sums


def column_parts(n_channels: int, n: int) -> list[slice]:
    """Split rows of n values so that a part of all channels stays in the cache."""
    width = max(1, _CACHED // n_channels)
    return [slice(start, min(start + width, n)) for start in range(0, n, width)]


def _deviations(
    ref: Array, obs: Array, mean_ref: Array, mean_obs: Array
) -> Iterator[tuple[slice, Array, Array]]:
    """Give what both deviate from their means, part by part, each in the memory of the last."""
    parts = column_parts(*ref.shape)
    memory = np.empty((2, len(ref), parts[0].stop if parts else 0))
    for part in parts:
        own_ref, own_obs = memory[:, :, : part.stop - part.start]
        np.subtract(ref[:, part], mean_ref[:, None], out=own_ref)
        np.subtract(obs[:, part], mean_obs[:, None], out=own_obs)
        yield part, own_ref, own_obs


def row_dots(left: Array, right: Array) -> Array:
    """Give the scalar product of each row."""
    return np.asarray((left[:, None] @ right[:, :, None])[:, 0, 0])
