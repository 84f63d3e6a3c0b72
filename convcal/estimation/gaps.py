# SPDX-License-Identifier: BSD-3-Clause
"""What stands in the place of values that do not count."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.interpolation import Filter, apply_filters, axis_filter
from convcal.estimation.overlap import overlap_slices

__all__ = ["fill_invalid", "move", "move_whole"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FILL_TAPS = 12


def fill_invalid(
    reference: Array,
    observed: Array,
    *,
    shift: tuple[float, ...],
    masks: tuple[Mask | None, Mask | None],
) -> tuple[Array, Array, Mask]:
    """Fill positions that do not count with what the other array says they should be.

    Filters reach across them; zeros would put edges there. The values come from the other array at
    the shift itself.

    Returns
    -------
    reference, observed : ndarray
        Filled copies.
    valid : ndarray of bool
        Observed positions where both count.
    """
    ref_valid, obs_valid = (
        np.ones(reference.shape, dtype=bool) if m is None else np.broadcast_to(m, reference.shape)
        for m in masks
    )
    moved = move(reference, shift)
    valid = obs_valid & (move(ref_valid.astype(float), shift, is_mask=True) > 0.99)
    slope, level = _line(moved, observed, shift, valid)
    filled_observed = np.where(obs_valid, observed, slope * moved + level)
    back = tuple(-s for s in shift)
    related = slope != 0
    inverse = np.where(related, 1 / np.where(related, slope, 1.0), 0.0)
    filled_reference = np.where(
        ref_valid, reference, inverse * (move(filled_observed, back) - level)
    )
    return filled_reference, filled_observed, valid


def move(array: Array, shift: tuple[float, ...], *, is_mask: bool = False) -> Array:
    """Give the values at ``i + shift``, ends repeated; of masks, the mean of two neighbours."""
    filters: list[Filter] = []
    for size, pixels in zip(array.shape[2:], shift, strict=True):
        if is_mask:
            filters.append((math.floor(pixels), (0.5, 0.5)))
        else:
            whole = size <= _FILL_TAPS
            filters.append(axis_filter(-round(pixels) if whole else -pixels, n_taps=_FILL_TAPS))
    return apply_filters(array, filters)


def move_whole(
    observed: Array, shift: tuple[int, ...], *, mask: Mask | None
) -> tuple[Array, Mask | None]:
    """Move a stack by whole pixels; tell which positions have a source that counts."""
    if not any(shift):
        return observed, mask
    present = np.ones(observed.shape, dtype=bool) if mask is None else mask
    for axis, pixels in enumerate(shift, start=2):
        size = observed.shape[axis]
        source = np.arange(size) - pixels
        inside = ((source >= 0) & (source < size)).reshape(
            (-1,) + (1,) * (observed.ndim - axis - 1)
        )
        source = np.clip(source, 0, size - 1)
        observed = np.take(observed, source, axis=axis)
        present = np.take(np.broadcast_to(present, observed.shape), source, axis=axis) & inside
    return observed, present


def _line(
    moved: Array, observed: Array, shift: tuple[float, ...], valid: Mask
) -> tuple[Array, Array]:
    """Give slope and level of the observed over the moved reference per channel."""
    _, cut = overlap_slices(tuple(round(s) for s in shift), moved.shape[2:])
    both, axes = valid[cut], (0, *range(2, moved.ndim))
    count = np.maximum(both.sum(axis=axes, keepdims=True), 1)
    ref_mean, obs_mean = (
        np.where(both, array[cut], 0.0).sum(axis=axes, keepdims=True) / count
        for array in (moved, observed)
    )
    ref, obs = (
        np.where(both, array[cut] - mean, 0.0)
        for array, mean in ((moved, ref_mean), (observed, obs_mean))
    )
    power = np.square(ref).sum(axis=axes, keepdims=True)
    slope: Array = np.where(power > 0, (ref * obs).sum(axis=axes, keepdims=True), 0.0)
    slope /= np.where(power > 0, power, 1.0)
    return slope, obs_mean - slope * ref_mean
