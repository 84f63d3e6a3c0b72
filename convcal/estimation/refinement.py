# SPDX-License-Identifier: BSD-3-Clause
"""The sub-pixel shift by least squares on the overlap, jointly with gain and bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.special
from numpy.typing import NDArray

__all__ = ["Refinement", "refine_shift"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_KAISER_BETA = 5.0
_MAX_STEPS = 12


@dataclass(frozen=True, eq=False)
class Refinement:
    """A shift at its least-squares optimum.

    Attributes
    ----------
    shift : tuple of float
    standard_error : tuple of float
        From the spread of the score over samples and blocks, so that residuals which are
        correlated within a block count for what they are.
    unit_deviations : ndarray of float64, shape (units, axes)
        By how much each sample and block would rather shift, to first order.
    has_converged : bool
        False where the iteration left its 1.5 pixels or met no gradient; the shift is then the
        one it started from.
    """

    shift: tuple[float, ...]
    standard_error: tuple[float, ...]
    unit_deviations: Array
    has_converged: bool


def refine_shift(
    reference: Array,
    observed: Array,
    *,
    start: Sequence[float],
    floor: Array,
    frozen_axes: tuple[int, ...] = (),
    valid_reference: Mask | None = None,
    valid_observed: Mask | None = None,
) -> Refinement:
    """Refine a shift by Gauss-Newton steps.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Finite, standardised per channel.
    start : sequence of float
        Within about half a pixel of the optimum.
    floor : ndarray of float64, shape (C,)
        Variance that rounding alone leaves; keeps an exact channel from outweighing the rest.
    frozen_axes : tuple of int
        Axes that keep their start.
    valid_reference, valid_observed : ndarray of bool or None
        Positions that count, broadcastable to the arrays. Others should hold a plausible value,
        since filters reach across them.

    Returns
    -------
    Refinement

    Notes
    -----
    Both arrays pass through one low-pass kernel, a sinc under a Kaiser window with nothing left
    at the Nyquist frequency, sampled at whole positions for the reference and at shifted ones for
    the observed array. Such a kernel can be moved by any fraction without error, where an
    interpolating one of the same length cannot, so that the estimate is not drawn to a whole or
    a half pixel; and hardware that moved its output by bilinear or area sampling agrees with the
    truth in that band. Only positions whose taps lie inside are used: neither window nor border
    enters. Channels are weighted by the inverse of their residual variance; their gain and bias
    are eliminated from the normal equations.
    """
    spatial = reference.shape[2:]
    n_axes = len(spatial)
    free = [a for a in range(n_axes) if a not in frozen_axes and spatial[a] >= 6]
    start = tuple(float(s) for s in start)
    nothing = Refinement(start, (math.inf,) * n_axes, np.zeros((0, n_axes)), has_converged=False)
    if not free:
        return nothing
    reach = [min(8, max(2, size // 8)) if a in free else 0 for a, size in enumerate(spatial)]
    interior = []
    for axis, size in enumerate(spatial):
        # One pixel of slack lets the shift move without changing the positions used.
        lost = reach[axis] + (math.ceil(abs(start[axis])) + (1 if axis in free else 0))
        interior.append(slice(lost, size - lost))
        if size - 2 * lost < 1:
            return nothing
    window = (slice(None), slice(None), *interior)

    smooth_reference = reference
    for axis in free:
        smooth_reference = _filter(smooth_reference, 0.0, reach[axis], axis + 2)
    ref = smooth_reference[window]
    shift = np.array(start)
    blocks = _blocks(ref.shape)
    mask_reference = (
        None
        if valid_reference is None
        else np.broadcast_to(valid_reference, reference.shape)[window]
    )
    grams: Array | None = None
    for _ in range(_MAX_STEPS):
        fields = _moved(observed, shift, reach, free, window)
        mask = mask_reference
        if valid_observed is not None:
            moved_mask = _moved_mask(valid_observed, reference.shape, shift, window)
            mask = moved_mask if mask is None else mask & moved_mask
        grams = _grams(ref, fields, mask, blocks)
        step, error, deviations = _solve(grams, floor)
        if step is None:
            return nothing
        shift[free] += np.clip(step, -0.5, 0.5)
        if np.abs(shift - np.array(start)).max() > 1.5:
            return nothing
        # Half a hundredth of the error is as good as the optimum.
        if (np.abs(step) <= np.maximum(1e-6, 0.005 * error)).all():
            break
    full_error = np.full(n_axes, np.inf)
    full_error[free] = error
    full_deviations = np.zeros((len(deviations), n_axes))
    full_deviations[:, free] = deviations
    return Refinement(
        shift=tuple(float(s) for s in shift),
        standard_error=tuple(float(e) for e in full_error),
        unit_deviations=full_deviations,
        has_converged=True,
    )


def _kernel(position: Array, reach: int) -> Array:
    """Evaluate the low-pass kernel at continuous positions; zero beyond `reach`.

    The cutoff lies half a transition band below Nyquist: a Kaiser window with beta 5 has its
    first zero at sqrt(beta**2 + pi**2) / reach radians per pixel (54 dB of attenuation beyond).
    Without the window's pedestal: a tap must not jump when it enters, or the residual does.
    """
    half_transition = math.sqrt(_KAISER_BETA**2 + math.pi**2) / reach
    cutoff = max(1 - half_transition / math.pi, 0.4)
    inside = np.clip(1 - (position / reach) ** 2, 0, None)
    value: Array = np.where(
        np.abs(position) < reach,
        cutoff
        * np.sinc(cutoff * position)
        * (scipy.special.i0(_KAISER_BETA * np.sqrt(inside)) - 1),
        0.0,
    )
    return value


def _taps(shift: float, reach: int, *, derivative: bool) -> tuple[int, Array]:
    """Give offset and taps; the value at ``i`` is taken at ``i - shift``."""
    first = math.ceil(-shift) - reach
    position = np.arange(first, first + 2 * reach + 1, dtype=np.float64) + shift
    if not derivative:
        return first, _moving_taps(position, reach)
    # The kernel is smooth: a central difference of 1e-4 pixels is exact to 1e-8.
    delta = 1e-4
    ahead, behind = (_moving_taps(position + d, reach) for d in (delta, -delta))
    return first, (ahead - behind) / (2 * delta)


def _moving_taps(position: Array, reach: int) -> Array:
    taps = _kernel(position, reach)
    scaled: Array = taps / taps.sum()
    return scaled


def _filter(
    array: Array, shift: float, reach: int, axis: int, *, derivative: bool = False
) -> Array:
    first, taps = _taps(shift, reach, derivative=derivative)
    # correlate1d centres its taps: index k stands at k - len // 2 - origin.
    whole = first + reach  # = ceil(-shift)
    moved = scipy.ndimage.correlate1d(array, taps, axis=axis, mode="nearest")
    if whole == 0:
        return np.asarray(moved)
    source = np.clip(np.arange(array.shape[axis]) + whole, 0, array.shape[axis] - 1)
    return np.asarray(np.take(moved, source, axis=axis))


def _moved(
    observed: Array, shift: Array, reach: list[int], free: list[int], window: tuple[slice, ...]
) -> list[Array]:
    """Give the shifted observed array and its derivative with respect to each free shift."""
    n_axes = observed.ndim - 2
    fields: list[Array] = []
    for differentiated in [None, *free]:
        field = observed
        for axis in range(n_axes):
            if axis in free:
                field = _filter(
                    field, shift[axis], reach[axis], axis + 2, derivative=axis == differentiated
                )
            elif shift[axis] != 0:
                size = field.shape[axis + 2]
                source = np.clip(np.arange(size) - round(shift[axis]), 0, size - 1)
                field = np.take(field, source, axis=axis + 2)
        fields.append(field[window])
    return fields


def _moved_mask(
    valid: Mask, shape: tuple[int, ...], shift: Array, window: tuple[slice, ...]
) -> Mask:
    """Give the observed positions that count, at the nearest whole shift."""
    mask = np.broadcast_to(valid, shape)
    for axis, pixels in enumerate(shift, start=2):
        source = np.clip(np.arange(shape[axis]) - round(pixels), 0, shape[axis] - 1)
        mask = np.take(mask, source, axis=axis)
    return np.asarray(mask[window])


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Cut the spatial axes so that samples times blocks give at least 16 units where they can."""
    n_samples, spatial = shape[0], shape[2:]
    per_axis = max(1, math.ceil((16 / n_samples) ** (1 / len(spatial))))
    cuts: list[tuple[slice, ...]] = [()]
    for size in spatial:
        count = max(1, min(per_axis, size // 4))
        edges = [round(size * k / count) for k in range(count + 1)]
        cuts = [(*cut, slice(edges[k], edges[k + 1])) for cut in cuts for k in range(count)]
    return cuts


def _grams(
    ref: Array, fields: list[Array], mask: Mask | None, blocks: list[tuple[slice, ...]]
) -> Array:
    """Sum the products of all fields, shape (units, C, k, k): reference, one, observed, slopes."""
    n_samples, n_channels = ref.shape[:2]
    k = len(fields) + 2
    grams = np.empty((len(blocks), n_samples, n_channels, k, k))
    for b, cut in enumerate(blocks):
        where = (slice(None), slice(None), *cut)
        part = ref[where]
        stack = np.empty((n_samples, n_channels, k, math.prod(part.shape[2:])))
        flat = (n_samples, n_channels, -1)
        for j, field in enumerate([part, np.ones_like(part), *(f[where] for f in fields)]):
            stack[:, :, j] = field.reshape(flat)
        if mask is not None:
            stack *= mask[where].reshape(flat)[:, :, None]
        grams[b] = stack @ stack.swapaxes(-1, -2)
    return grams.reshape(-1, n_channels, k, k)


def _solve(grams: Array, floor: Array) -> tuple[Array | None, Array, Array]:
    """Give the Gauss-Newton step, its standard errors, and the deviation of each unit."""
    pooled = grams.sum(axis=0)
    n_axes = pooled.shape[-1] - 3
    precision = np.zeros((n_axes, n_axes))
    scores = np.zeros((len(grams), n_axes))
    unit_precision = np.zeros((len(grams), n_axes, n_axes))
    for channel, gram in enumerate(pooled):
        count = gram[1, 1]
        # Fields: 0 reference, 1 one, 2 observed, 3… slopes.
        basis = gram[1:3, 1:3]
        if count < 4 or np.linalg.det(basis) <= 1e-9 * count**2:
            continue
        bias, gain = np.linalg.solve(basis, gram[1:3, 0])
        to_residual = np.zeros(len(gram))
        to_residual[:3] = 1.0, -bias, -gain
        projection = np.linalg.solve(basis, gram[1:3, 3:])
        to_slopes = np.zeros((n_axes, len(gram)))
        to_slopes[:, 1:3] = -projection.T
        to_slopes[:, 3:] = np.eye(n_axes)
        to_slopes *= gain
        residual = float(to_residual @ gram @ to_residual) / count
        weight = 1 / (max(residual, 0.0) + floor[channel])
        precision += weight * to_slopes @ gram @ to_slopes.T
        scores += weight * np.einsum("ai,uij,j->ua", to_slopes, grams[:, channel], to_residual)
        unit_precision += weight * np.einsum(
            "ai,uij,bj->uab", to_slopes, grams[:, channel], to_slopes
        )
    diagonal = np.diag(precision)  # negative by rounding where nothing varies
    if not (diagonal > 0).all():
        return None, np.zeros(n_axes), np.zeros((0, n_axes))
    scale = np.sqrt(diagonal)
    eigenvalues = np.linalg.eigvalsh(precision / np.outer(scale, scale))
    if eigenvalues[0] < 1e-8 * eigenvalues[-1]:
        return None, np.zeros(n_axes), np.zeros((0, n_axes))
    covariance: Array = np.linalg.inv(precision)
    step: Array = covariance @ scores.sum(axis=0)
    ridge = 1e-9 * np.diag(np.diag(precision)) / len(grams)
    solved = np.linalg.solve(unit_precision + ridge, scores[:, :, None])
    deviations: Array = solved[:, :, 0].astype(np.float64)
    centred: Array = scores - unit_precision @ step
    # Sandwich over units; the model's own error where units are too few to tell.
    naive: Array = np.sqrt(np.diag(covariance))
    n_units = int((np.trace(unit_precision, axis1=1, axis2=2) > 0).sum())
    if n_units < 4:
        return step, 2 * naive, deviations
    spread: Array = covariance @ (centred.T @ centred) @ covariance * n_units / (n_units - 1)
    return step, np.maximum(np.sqrt(np.diag(spread)), naive), deviations
