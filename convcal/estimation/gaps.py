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
    slopes = _slopes(reference, observed, shift, ref_valid, obs_valid)
    moved, moved_valid = (
        move(reference, shift),
        move(ref_valid.astype(float), shift, is_mask=True) > 0.99,
    )
    filled_observed = np.where(obs_valid, observed, slopes * moved)
    back = tuple(-s for s in shift)
    filled_reference = np.where(
        ref_valid,
        reference,
        np.where(slopes == 0, 0.0, 1 / np.where(slopes == 0, 1, slopes))
        * move(filled_observed, back),
    )
    return filled_reference, filled_observed, obs_valid & moved_valid


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


def _slopes(
    reference: Array, observed: Array, shift: tuple[float, ...], ref_valid: Mask, obs_valid: Mask
) -> Array:
    """Give observed over reference per channel, on the positions where both count."""
    nearest = tuple(round(s) for s in shift)
    cut_ref, cut_obs = overlap_slices(nearest, reference.shape[2:])
    both = ref_valid[cut_ref] & obs_valid[cut_obs]
    axes = (0, *range(2, reference.ndim))
    ref, obs = np.where(both, reference[cut_ref], 0.0), np.where(both, observed[cut_obs], 0.0)
    power = np.square(ref).sum(axis=axes, keepdims=True)
    slopes: Array = np.where(power > 0, (ref * obs).sum(axis=axes, keepdims=True), 0.0)
    return slopes / np.where(power > 0, power, 1.0)
