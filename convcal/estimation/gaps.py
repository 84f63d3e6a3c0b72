# SPDX-License-Identifier: BSD-3-Clause
"""What stands in the place of values that do not count."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.interpolation import Filter, apply_filters, axis_filter
from convcal.estimation.overlap import overlap_slices
from convcal.estimation.prediction import predictors

__all__ = ["Overlaid", "fill_invalid", "move", "overlay"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FILL_TAPS = 12
# Shifts nearer to a whole pixel than this are treated as whole.
_NEAR = 0.1


@dataclass(frozen=True, eq=False)
class Overlaid:
    """Two stacks with less than a pixel between them.

    Attributes
    ----------
    reference, observed : ndarray of float64
    masks : (mask or None, mask or None)
        Which positions of each hold a value that counts.
    inside : ndarray of bool
        Where the reference was not continued, broadcastable to the stacks.
    whole : tuple of int
        By how many pixels the observed stack was moved.
    """

    reference: Array
    observed: Array
    masks: tuple[Mask | None, Mask | None]
    inside: Mask
    whole: tuple[int, ...]


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


def overlay(
    reference: Array,
    observed: Array,
    *,
    shift: tuple[float, ...],
    masks: tuple[Mask | None, Mask | None],
) -> Overlaid:
    """Move the observed stack by whole pixels, so that it covers all of the reference.

    What the shift exposes is left open, to be filled. Along axes where it is not whole the stacks
    become longer by a position, up to which the reference is continued: of what the one holds, the
    other lacks nothing.
    """
    ref_valid, obs_valid = masks
    inside, whole = np.ones((1,) * reference.ndim, dtype=bool), [0] * len(shift)
    for axis, pixels in enumerate(shift, start=2):
        size, nearest = reference.shape[axis], round(pixels)
        if nearest == 0:
            continue  # half a position is predicted as well
        is_longer = size > _FILL_TAPS and abs(pixels - nearest) > _NEAR
        moved = math.trunc(pixels + math.copysign(1, pixels)) if is_longer else nearest
        added = ((0, 1) if moved > 0 else (1, 0)) if is_longer else (0, 0)
        whole[axis - 2] = moved
        source = np.arange(-added[0], size + added[1]) - moved
        column = [-1 if a == axis else 1 for a in range(reference.ndim)]
        has_source = ((source >= 0) & (source < size)).reshape(column)
        source = np.clip(source, 0, size - 1)
        if obs_valid is None:
            obs_valid = np.ones(observed.shape, dtype=bool)
        obs_valid = np.broadcast_to(obs_valid, observed.shape).take(source, axis) & has_source
        observed = observed.take(source, axis)
        if is_longer:
            widths = [added if a == axis else (0, 0) for a in range(reference.ndim)]
            if ref_valid is not None:
                ref_valid = np.pad(np.broadcast_to(ref_valid, reference.shape), widths, mode="edge")
            inside = inside & np.pad(np.ones(size, dtype=bool), added).reshape(column)
            reference = _continued(reference, axis, at_end=moved > 0)
    return Overlaid(reference, observed, (ref_valid, obs_valid), inside, tuple(whole))


def _continued(array: Array, axis: int, *, at_end: bool) -> Array:
    """Predict one more position at an end of an axis."""
    ((predictor,),) = predictors((array,), axes=(axis - 2,), widths=(1,))
    lines, order = np.moveaxis(array, axis, -1), predictor.order
    if at_end:
        parts = [lines, lines[..., -order:] @ predictor.after.T]
    else:
        parts = [lines[..., :order] @ predictor.before.T, lines]
    return np.moveaxis(np.concatenate(parts, axis=-1), -1, axis)


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
