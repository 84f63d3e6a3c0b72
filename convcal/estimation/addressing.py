# SPDX-License-Identifier: BSD-3-Clause
"""Values that are right and stand elsewhere: wrong strides, offsets, orders of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convcal.estimation.standard import correlation

__all__ = ["find_channel_order", "find_collapse", "find_flat_offset", "find_row_stride"]

Array = NDArray[np.float64]

# How many times less of the variance another reading must leave than the plain one.
_TIMES = 10.0


def find_row_stride(reference: Array, observed: Array) -> int | None:
    """Find whether rows were read with the wrong stride.

    Core ML pads rows to 64 bytes: ``stride = 64 * ceil(width * itemsize / 64)`` bytes. A reader
    who takes the padded buffer for a dense one gets row r sheared by r times the padding
    (apple/coremltools #1893).

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        With at least one spatial axis.

    Returns
    -------
    int or None
        The stride in values, where reading the reference so explains the observed output, and
        its first row is right.
    """
    width = reference.shape[-1]
    strides: set[int] = {
        64 * math.ceil(width * itemsize / 64) // itemsize for itemsize in (1, 2, 4)
    } - {width}
    for stride in sorted(strides):
        for n_leading in (1, 2):  # one buffer per sample, or one per channel
            rows = reference.reshape(*reference.shape[:n_leading], -1, width)
            n_rows = rows.shape[-2]
            if n_rows < 2:
                continue
            place = np.arange(n_rows * width)
            row, column = place // stride, place % stride
            real = (column < width) & (row > 0)
            source = row * width + np.minimum(column, width - 1)
            flat_reference = reference.reshape(*reference.shape[:n_leading], -1)
            flat_observed = observed.reshape(*observed.shape[:n_leading], -1)
            read = flat_reference[..., source[real]]
            got = flat_observed[..., real]
            dense = flat_reference[..., real]
            first = correlation(flat_reference[..., :width], flat_observed[..., :width])
            # Of a shift by the padding the first row would not be right.
            if first > 0.99 and _is_better(correlation(read, got), correlation(dense, got)):
                return stride
    return None


def find_flat_offset(
    reference: Array, observed: Array, *, shift: Sequence[int], is_searched: bool, tolerance: Array
) -> int | None:
    """Find whether each sample's flat buffer was read from the wrong element on.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        With at least one spatial axis.
    shift : sequence of int
        The best whole-pixel shift.
    is_searched : bool
        Whether to try the offset at which the buffers correlate most, too.
    tolerance : ndarray of float64, shape (C,)
        What rounding may leave.

    Returns
    -------
    int or None
        How many elements too far the content sits in the buffer. What tells it from a shift
        along the axes is what comes into view there: the ends of other rows (or of other
        channels), not the edge and not the same row from its other end.

    References
    ----------
    pytorch #105801, #101507: the offset of a view taken for 0.
    """
    shape = reference.shape[1:]
    flat_reference = reference.reshape(len(reference), -1)
    flat_observed = observed.reshape(len(observed), -1)
    strides = np.cumprod((1, *shape[:0:-1]))[::-1][1:]
    moved = -sum(int(s) * int(stride) for s, stride in zip(shift, strides, strict=True))
    flat_tolerance = np.repeat(tolerance, math.prod(shape[1:]))
    offsets = {moved: None}
    if is_searched:
        offsets[_flat_peak(flat_reference, flat_observed)] = None
    for offset in offsets:
        n_values = flat_reference.shape[1]
        if not 0 < abs(offset) < n_values // 2:
            continue
        place = np.arange(max(offset, 0), n_values + min(offset, 0))
        got = flat_observed[:, place]
        with np.errstate(invalid="ignore"):  # inf - inf
            left = got - flat_reference[:, place - offset]
        if _level(left, flat_tolerance[place - offset]) > 1:
            continue
        index = np.unravel_index(np.arange(n_values), shape)
        steps = _axis_steps(offset, shape[1:])
        wanted = [i - step for i, step in zip(index[1:], steps, strict=True)]
        enters = np.zeros(n_values, dtype=bool)
        for i, size in zip(wanted, shape[1:], strict=True):
            enters |= (i < 0) | (i >= size)
        enters = enters[place]
        if not enters.any():
            continue
        others = []
        for is_wrapped in (False, True):  # the edge repeated; the same row from its other end
            source = index[0] * math.prod(shape[1:])
            for axis, (i, size) in enumerate(zip(wanted, shape[1:], strict=True)):
                there = np.mod(i, size) if is_wrapped else np.clip(i, 0, size - 1)
                source = source + there * math.prod(shape[2 + axis :])
            with np.errstate(invalid="ignore"):  # inf - inf
                left = (got - flat_reference[:, source[place]])[:, enters]
            others.append(_level(left, flat_tolerance[place][enters]))
        if min(others) > 2:
            return offset
    return None


def _axis_steps(offset: int, spatial: tuple[int, ...]) -> list[int]:
    """Write an offset as steps along the axes, each the shorter way round."""
    steps: list[int] = []
    for size in spatial[:0:-1]:
        step = (offset + size // 2) % size - size // 2
        steps.insert(0, step)
        offset = (offset - step) // size
    steps.insert(0, offset)
    return steps


def _flat_peak(reference: Array, observed: Array) -> int:
    """Give the offset at which flat buffers correlate most, all samples together."""
    n_values = reference.shape[1]
    length = scipy.fft.next_fast_len(2 * n_values, real=True)
    total = np.zeros(length // 2 + 1, dtype=np.complex128)
    for ref, obs in zip(reference, observed, strict=True):
        first, second = (np.where(np.isfinite(x), x, 0.0) for x in (ref, obs))
        spectra = [scipy.fft.rfft(x - x.mean(), length) for x in (first, second)]
        total += spectra[1] * np.conj(spectra[0])
    peak = int(np.argmax(scipy.fft.irfft(total, length)))
    return peak - length if peak > length // 2 else peak


def _level(residual: Array, tolerance: Array) -> float:
    relative = residual / np.maximum(tolerance, np.finfo(np.float64).tiny)
    relative = relative[np.isfinite(relative)]
    return float(np.sqrt(np.mean(np.square(relative)))) if relative.size else 0.0


def find_channel_order(
    reference: Array, observed: Array, *, n_values: int = 4096
) -> list[int] | None:
    """Find whether the channels are in another order.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    n_values : int
        About how many values per channel are used at most, evenly spaced.

    Returns
    -------
    list of int or None
        For each channel of the reference, which observed one holds it; up to gain and bias.
        None where the order is the same, or any channel that moved is not clearly the other.
    """
    n_channels = reference.shape[1]
    if n_channels < 2:
        return None
    first, second = (
        np.moveaxis(array, 1, 0).reshape(n_channels, -1) for array in (reference, observed)
    )
    every = max(1, first.shape[1] // n_values)
    first, second = first[:, ::every], second[:, ::every]
    good = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    if good.sum() < 16:
        return None
    first, second = (_unit(array[:, good]) for array in (first, second))
    correlation = first @ second.T
    order = np.argmax(correlation, axis=1)
    live = np.square(first).sum(axis=1) > 0
    order[~live] = np.flatnonzero(~live)
    moved = np.flatnonzero(order != np.arange(n_channels))
    if not moved.size or len(set(order.tolist())) < n_channels:
        return None
    if all(_is_better(correlation[c, order[c]], correlation[c, c]) for c in moved):
        return [int(channel) for channel in order]
    return None


def _unit(rows: Array) -> Array:
    centred = rows - rows.mean(axis=1, keepdims=True)
    size = np.sqrt(np.square(centred).sum(axis=1, keepdims=True))
    return np.where(size > 0, centred / np.where(size > 0, size, 1.0), 0.0)


def _is_better(here: float, plain: float) -> bool:
    """Tell whether another reading explains the values clearly better than the plain one."""
    left = 1 - np.sign(plain) * plain**2
    return bool(here > 0.9 and left > _TIMES * (1 - here**2) and left > 0.01)


def find_collapse(reference: Array, observed: Array, *, least: Array) -> list[int | None] | None:
    """Find whether the content is crowded together at the start, with zeros behind.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    least : ndarray of float64, shape (C,)
        Root mean square above which the reference has content.

    Returns
    -------
    list of (int or None), or None
        Per axis, from where on all is zero; None along axes without such a tail. A tail counts
        if it is a third of the axis at least and the reference goes on there.

    References
    ----------
    pytorch #82711, microsoft/onnxruntime #32506: a transposed convolution whose stride is taken
    for 1 gives ``size / stride`` positions and what its kernel adds, then zeros.
    """
    tails: list[int | None] = []
    for axis in range(2, observed.ndim):
        size = observed.shape[axis]
        others = tuple(a for a in range(observed.ndim) if a != axis)
        filled = np.flatnonzero((observed != 0).any(axis=others))
        start = int(filled[-1]) + 1 if filled.size else 0
        tail = np.take(reference, np.arange(start, size), axis=axis)
        axes = (0, *range(2, tail.ndim))
        goes_on = bool(
            tail.size and (np.sqrt(np.nanmean(np.square(tail), axis=axes)) > least).any()
        )
        tails.append(start if 0 < start <= 0.67 * size and size >= 4 and goes_on else None)
    return tails if any(tail is not None for tail in tails) else None
