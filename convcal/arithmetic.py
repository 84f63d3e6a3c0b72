# SPDX-License-Identifier: BSD-3-Clause
"""Apply a correction to an array, with NumPy alone.

This module imports nothing but NumPy and knows nothing of the rest of the package, because
``convcal export --to python`` writes its text, whole, into the post-processor that goes into an
app. The order of the operations and their roundings are a contract: the patched Core ML package
does the same ones.

Per spatial axis, ``y[i] = sum over k of taps[k] * x[clip(i + offset + k, 0, size - 1)]``; one tap
of 1 is a whole-pixel shift and copies values without arithmetic. Then ``y * gain`` and
``y + bias`` per channel. Every product and every sum is rounded to the compute dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Filter = tuple[int, Sequence[float]]


def correct(
    array: np.ndarray[Any, Any],
    *,
    filters: Sequence[Filter],
    gain: Sequence[float],
    bias: Sequence[float],
    batch_axis: int | None = 0,
    channel_axis: int | None = 1,
    precision: str = "float32",
    out: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, Any]:
    """Shift, scale and offset one output of a model.

    Parameters
    ----------
    array : ndarray
        The observed output; never written to. Spatial axes may have any size. Where `batch_axis`
        is not None the array may also come without that axis.
    filters : sequence of (offset, taps)
        One per spatial axis, in the order of the axes.
    gain, bias : sequence of float
        One per channel, or a single one where `channel_axis` is None.
    batch_axis, channel_axis : int or None
        What the axes of `array` are, counted with the batch axis in place.
    precision : {'float32', 'output'}
        The dtype to compute in: float32 (float64 for float64 arrays), or the array's own. Integer
        arrays are always computed in float32, those of more than 16 bits in float64. Whole-pixel
        shifts copy values of any dtype as they are.
    out : ndarray, optional
        Where to put the result; of the shape and dtype of `array`.

    Returns
    -------
    ndarray
        The corrected output, shape and dtype of `array`; `out` where it was given. Integer dtypes
        are rounded to the nearest and clipped to their range.

    Raises
    ------
    ValueError
        If the number of axes, the number of channels or `out` does not fit, if the array
        is empty, or if the dtype is neither integer nor floating.
    """
    array = np.asarray(array)
    n_axes = len(filters) + (batch_axis is not None) + (channel_axis is not None)
    missing = missing_axis(array.ndim, n_axes, batch_axis)
    if missing is not None:
        view = None if out is None else np.expand_dims(out, missing)
        result = correct(
            np.expand_dims(array, missing),
            filters=filters,
            gain=gain,
            bias=bias,
            batch_axis=batch_axis,
            channel_axis=channel_axis,
            precision=precision,
            out=view,
        )
        return np.squeeze(result, missing) if out is None else out
    spatial_axes = [axis for axis in range(array.ndim) if axis not in (batch_axis, channel_axis)]
    _check(array, out, n_axes=n_axes, n_channels=len(gain), channel_axis=channel_axis)

    has_gain, has_bias = any(value != 1 for value in gain), any(value != 0 for value in bias)
    is_computed = has_gain or has_bias or not all(_is_whole(taps) for _, taps in filters)
    compute = _compute_dtype(array.dtype, precision) if is_computed else array.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        work = array.astype(compute, copy=False)
        for axis, (offset, taps) in zip(spatial_axes, filters, strict=True):
            work = _filtered(work, axis, offset, taps)
        along_channels = [1] * array.ndim
        if channel_axis is not None:
            along_channels[channel_axis] = -1
        if has_gain:
            work = work * np.asarray(gain, compute).reshape(along_channels)
        if has_bias:
            work = work + np.asarray(bias, compute).reshape(along_channels)
        if is_computed and np.issubdtype(array.dtype, np.integer):
            work = _clipped(np.rint(work), array.dtype)
        if out is None:
            # A correction that does nothing still gives a new array.
            return work.astype(array.dtype, copy=np.shares_memory(work, array))
        np.copyto(out, work, casting="unsafe")
    return out


def missing_axis(n_given: int, n_axes: int, batch_axis: int | None) -> int | None:
    """Give the batch axis where an output came without it, else None."""
    return batch_axis if n_given == n_axes - 1 else None


def _check(
    array: np.ndarray[Any, Any],
    out: np.ndarray[Any, Any] | None,
    *,
    n_axes: int,
    n_channels: int,
    channel_axis: int | None,
) -> None:
    """Raise ValueError where the array does not fit the correction."""
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"the array has dtype {array.dtype}; integer and float dtypes are accepted"
        )
    if array.ndim != n_axes:
        raise ValueError(f"the array has shape {array.shape}; {n_axes} axes are expected")
    if channel_axis is not None and array.shape[channel_axis] != n_channels:
        raise ValueError(
            f"the array has shape {array.shape}, {array.shape[channel_axis]} channels on axis "
            f"{channel_axis}; the correction has {n_channels}"
        )
    if array.size == 0:
        raise ValueError(f"the array has shape {array.shape}; it is empty")
    if out is not None and (out.shape != array.shape or out.dtype != array.dtype):
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}; "
            f"it must have those of the array, {array.shape} and {array.dtype}"
        )


def _compute_dtype(dtype: np.dtype[Any], precision: str) -> np.dtype[Any]:
    if not np.issubdtype(dtype, np.floating):
        return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    return dtype if precision == "output" else np.promote_types(dtype, np.float32)


def _clipped(values: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Limit whole numbers to the range of an integer dtype, so that they can be cast to it."""
    limits = np.iinfo(dtype)
    largest = values.dtype.type(limits.max)
    if int(largest) > limits.max:  # 2**63 - 1 is no float64, and 2**63 would become negative
        largest = np.nextafter(largest, values.dtype.type(0))
    clipped: np.ndarray[Any, Any] = np.clip(values, limits.min, largest)
    return clipped


def _is_whole(taps: Sequence[float]) -> bool:
    """Tell whether a filter copies values."""
    return len(taps) == 1 and taps[0] == 1


def _filtered(
    array: np.ndarray[Any, Any], axis: int, offset: int, taps: Sequence[float]
) -> np.ndarray[Any, Any]:
    """Weighted sum of neighbours along one axis; past the ends the edge value repeats."""
    size = array.shape[axis]
    if _is_whole(taps):
        return array if offset == 0 else _moved(array, axis, offset, size)
    source = _moved(array, axis, offset, size + len(taps) - 1)
    weights = np.asarray(taps, array.dtype)
    window: list[slice] = [slice(None)] * array.ndim
    window[axis] = slice(0, size)
    total: np.ndarray[Any, Any] = source[tuple(window)] * weights[0]
    for k in range(1, len(taps)):
        window[axis] = slice(k, k + size)
        total += source[tuple(window)] * weights[k]
    return total


def _moved(
    array: np.ndarray[Any, Any], axis: int, offset: int, length: int
) -> np.ndarray[Any, Any]:
    """Give a new array ``y[i] = x[clip(i + offset)]``, of `length` positions along the axis."""
    size = array.shape[axis]
    result = np.empty((*array.shape[:axis], length, *array.shape[axis + 1 :]), array.dtype)
    source, target = np.moveaxis(array, axis, 0), np.moveaxis(result, axis, 0)
    start = min(max(-offset, 0), length)
    stop = max(min(size - offset, length), start)
    target[:start] = source[0]
    target[start:stop] = source[start + offset : stop + offset]
    target[stop:] = source[-1]
    return result
