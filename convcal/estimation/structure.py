# SPDX-License-Identifier: BSD-3-Clause
"""Names for errors that no shift, gain or bias undoes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.gaps import fill_invalid
from convcal.estimation.overlap import score_shifts
from convcal.estimation.refinement import refine_shift
from convcal.estimation.standard import MAD_TO_SIGMA, correlation

__all__ = [
    "CLEAR_GROWTH",
    "BlockShifts",
    "Growth",
    "find_block_shifts",
    "find_growth",
    "neighbour_correlation",
]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# Pixels over the field: blocks of a few noisy values seldom line up that far by chance.
CLEAR_GROWTH = 0.05
# Devices resample by straight lines, which move the high frequencies by less than is meant.
_BAND = 0.5
# Pixels: of a larger block the middle will do.
_LARGEST_SIDE = 80


@dataclass(frozen=True)
class Growth:
    """A displacement that grows with position.

    Attributes
    ----------
    growth : tuple of float
        Pixels per axis by which the shift changes from the first position to the last.
    fixed_point : tuple of float
        Position per axis where the shift is 0; NaN where it does not grow.
    shift : tuple of float
        Shift per axis in the middle of the field.
    sigmas : float
        The clearest growth against its standard error.
    n_blocks : int
    """

    growth: tuple[float, ...]
    fixed_point: tuple[float, ...]
    shift: tuple[float, ...]
    sigmas: float
    n_blocks: int


@dataclass(frozen=True, eq=False)
class BlockShifts:
    """The shifts of blocks that were registered by themselves.

    Attributes
    ----------
    spatial : tuple of int
    counts : tuple of int
        Blocks along each axis.
    centres, shifts, errors : ndarray of float64, shape (n_blocks, n_axes)
        Of the blocks that could be registered, with the standard errors.
    """

    spatial: tuple[int, ...]
    counts: tuple[int, ...]
    centres: Array
    shifts: Array
    errors: Array


def find_block_shifts(
    reference: Array,
    observed: Array,
    *,
    limits: tuple[int, ...],
    floor: Array,
    valid_reference: Mask | None = None,
    valid_observed: Mask | None = None,
) -> BlockShifts:
    """Register each block by itself, all samples and channels together.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite, standardised per channel.
    limits : tuple of int
    floor : ndarray of float64, shape (C,)
    valid_reference, valid_observed : ndarray of bool or None
        Shape (N, C, *spatial): values that count. Others should be plausible all the same.
    """
    spatial = reference.shape[2:]
    counts = tuple(_n_blocks(size, n_axes=len(spatial)) for size in spatial)
    edges = [
        np.linspace(0, n, k + 1).round().astype(int) for n, k in zip(spatial, counts, strict=True)
    ]
    centres, shifts, errors = [], [], []
    for index in product(*(range(k) for k in counts)):
        cut = tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, index, strict=True))
        found = None
        # The middle of a large block says as much as all of it, unless nothing is there.
        middle = _middle(cut)
        for part in (middle, cut) if middle != cut else (cut,):
            where = (slice(None), slice(None), *part)
            found = _block_shift(
                reference[where],
                observed[where],
                limits=limits,
                floor=floor,
                valid_reference=None if valid_reference is None else valid_reference[where],
                valid_observed=None if valid_observed is None else valid_observed[where],
            )
            if found is not None:
                break
        if found is not None:
            shifts.append(found[0])
            errors.append(found[1])
            centres.append([(c.start + c.stop - 1) / 2 for c in cut])
    return BlockShifts(spatial, counts, np.array(centres), np.array(shifts), np.array(errors))


def _middle(cut: tuple[slice, ...]) -> tuple[slice, ...]:
    """Give the middle of a block of two or three axes, about its centre to half a pixel."""
    if len(cut) == 1:
        return cut
    lost = [max(0, (c.stop - c.start - _LARGEST_SIDE) // 2) for c in cut]
    return tuple(slice(c.start + k, c.stop - k) for c, k in zip(cut, lost, strict=True))


def find_growth(blocks: BlockShifts, *, least: Sequence[float]) -> Growth | None:
    """Find whether the shift grows along its own axis, as under a change of scale.

    Parameters
    ----------
    blocks : BlockShifts
    least : sequence of float
        Pixels over the field, per axis, below which a growth is not reported.

    Returns
    -------
    Growth or None
        None where blocks are too few or too small, or their shifts show no growth: 5 standard
        errors (10 where it is less than 0.05 pixels over the field) and more than half of the
        variance of the blocks' shifts.
    """
    spatial, moved = blocks.spatial, blocks.shifts
    if len(moved) < max(5, 2 * len(spatial) + 2):
        return None
    growth, fixed, clearest = [], [], 0.0
    middle = tuple(float(s) for s in np.median(moved, axis=0))
    for axis, size in enumerate(spatial):
        slope, intercept, sigmas, explained = _line(
            blocks.centres[:, axis], moved[:, axis], blocks.errors[:, axis]
        )
        pixels = slope * (size - 1)
        enough = 5 if abs(pixels) >= CLEAR_GROWTH else 10
        is_clear = abs(pixels) >= least[axis] and sigmas >= enough and explained > 0.5
        if blocks.counts[axis] >= 3 and is_clear:
            growth.append(pixels)
            fixed.append(-intercept / slope)
            clearest = max(clearest, sigmas)
        else:
            growth.append(0.0)
            fixed.append(math.nan)
    if not any(growth):
        return None
    return Growth(tuple(growth), tuple(fixed), middle, clearest, len(moved))


def _n_blocks(size: int, *, n_axes: int) -> int:
    """Cut an axis into blocks of at least 12 positions, at most 8, 4 or 3 of them."""
    return max(1, min({1: 8, 2: 4}.get(n_axes, 3), size // 12))


def _block_shift(
    reference: Floats,
    observed: Floats,
    *,
    limits: tuple[int, ...],
    floor: Array,
    valid_reference: Mask | None,
    valid_observed: Mask | None,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Give the shift of a block and its standard errors; None where it has none."""
    spatial = reference.shape[2:]
    local = tuple(
        max(1, min(limit, size // 3)) if size > 1 else 0
        for limit, size in zip(limits, spatial, strict=True)
    )
    axes = (0, *range(2, reference.ndim))
    # Rounding to float32 is less than a thousandth of rounding to fp16.
    reference, observed = (
        (values - values.mean(axis=axes, keepdims=True)).astype(np.float32)
        for values in (reference, observed)
    )
    scores = score_shifts(
        reference,
        observed,
        limits=local,
        floor=floor,
        valid_reference=valid_reference,
        valid_observed=valid_observed,
    )
    best = scores.best()
    if scores.score[scores.index(best)] > math.log(0.8) / 2 or any(
        abs(b) == limit > 0 for b, limit in zip(best, local, strict=True)
    ):
        return None
    valid = None
    if valid_reference is not None or valid_observed is not None:
        reference, observed, valid = fill_invalid(
            reference.astype(np.float64),
            observed.astype(np.float64),
            shift=tuple(float(b) for b in best),
            masks=(valid_reference, valid_observed),
        )
    free = tuple(axis for axis, size in enumerate(spatial) if size >= 6)
    refined = refine_shift(
        reference,
        observed,
        start=scores.vertex(best, free),
        floor=floor,
        free=free,
        band=_BAND,
        valid=valid,
    )
    if refined is None:
        return None
    error = np.sqrt(np.diag(refined.covariance))
    return tuple(float(s) for s in refined.shift), tuple(float(e) for e in error)


def _line(position: Array, shift: Array, error_of: Array) -> tuple[float, float, float, float]:
    """Fit a line without its worst residuals; give slope, intercept, sigmas and share explained.

    The error of the slope is that of the shifts' own errors, or of their scatter about the line
    where that is more.
    """
    keep = np.ones(len(position), dtype=bool)
    slope = intercept = 0.0
    for _ in range(3):
        design = np.stack([position[keep], np.ones(int(keep.sum()))], axis=1)
        slope, intercept = np.linalg.lstsq(design, shift[keep], rcond=None)[0]
        residual = shift - slope * position - intercept
        scale = MAD_TO_SIGMA * float(np.median(np.abs(residual[keep])))
        keep = np.abs(residual) <= max(4 * scale, 1e-6)
        if keep.sum() < 4:
            return 0.0, 0.0, 0.0, 0.0
    centred = position[keep] - position[keep].mean()
    spread = float(centred @ centred)
    left = float(residual[keep] @ residual[keep])
    total = float(np.square(shift[keep] - shift[keep].mean()).sum())
    if spread <= 0 or total <= 0:
        return 0.0, 0.0, 0.0, 0.0
    error = math.sqrt(left / max(int(keep.sum()) - 2, 1) / spread)
    own = np.where(np.isfinite(error_of[keep]), error_of[keep], 0.0)
    error = max(error, float(np.sqrt(np.square(centred * own).sum())) / spread)
    sigmas = abs(slope) / error if error > 0 else math.inf
    return float(slope), float(intercept), sigmas, 1 - left / total


def neighbour_correlation(residual: Array) -> float:
    """Give the strongest correlation of neighbours in a residual; 0 for white noise.

    Parameters
    ----------
    residual : ndarray of float64, shape (N, C, *spatial)

    Returns
    -------
    float
        Of the axis where it is largest in size, its sign kept; 0 without spatial axes.
    """
    strongest = 0.0
    for axis in range(2, residual.ndim):
        size = residual.shape[axis]
        if size < 3:
            continue
        left = np.take(residual, np.arange(size - 1), axis=axis)
        right = np.take(residual, np.arange(1, size), axis=axis)
        value = correlation(left, right)
        if abs(value) > abs(strongest):
            strongest = value
    return strongest
