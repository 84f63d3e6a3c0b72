# SPDX-License-Identifier: BSD-3-Clause
"""Apply a correction to an array, with NumPy alone.

This module needs nothing but NumPy and knows nothing of the rest of the package, because
``convcal export --to python`` writes its text, whole, into the post-processor that goes into an
app. The order of the operations and their roundings are a contract: the patched Core ML package
does the same ones.

First, where the correction says so, rows that were read without their padding are put right and
positions at the ends are dropped. Then, per spatial axis,
``y[i] = sum over k of taps[k] * x[clip(i + offset + k, 0, size - 1)]``; one tap of 1 is a
whole-pixel shift and copies values without arithmetic. On an axis that is scaled, offset and taps
depend on the position (`sinc_taps`). Then ``y * gain`` and ``y + bias`` per channel. Every product
and every sum is rounded to the compute dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

Filter = tuple[int, Sequence[float]]
Resampling = tuple[float, float, float, int, float]
"""Scale, origin, shift, number of taps and beta of an axis that is scaled; see `sinc_taps`."""

_BLOCK = 2**16
"""So many values are worked on at a time: they stay in the cache from one step to the next."""


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
    resampling: Sequence[Resampling | None] | None = None,
    crop: Sequence[tuple[int, int]] | None = None,
    rows: tuple[int, int] | None = None,
    right_shape: Sequence[int] | None = None,
    overflow: Literal["ignore", "call"] = "ignore",
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
        Where to put the result; of its shape, and of the dtype of `array`.
    resampling : sequence of ((scale, origin, shift, n_taps, beta) or None), optional
        One per spatial axis; where it is not None it takes the place of the filter.
    crop : sequence of (int, int), optional
        Per spatial axis, how many positions of `array` to drop at the start and at the end, before
        anything is moved.
    rows : (int, int), optional
        Length and stride of the rows of the last axis, where each sample was read densely from a
        buffer whose rows lie further apart than they are long. Only for arrays without channels:
        everything but the batch axis, 0, and the last two axes is of size 1.
    right_shape : sequence of int, optional
        With `crop`: sizes of the spatial axes of an array that is not too long, and so is refused.
    overflow : {'ignore', 'call'}
        What to do where a value becomes infinite, as ``np.errstate(over=)`` takes it.

    Returns
    -------
    ndarray
        The corrected output, of the dtype of `array` and of its shape less what is cropped; `out`
        where it was given. Integer dtypes are rounded to the nearest and clipped to their range.

    Raises
    ------
    ValueError
        If the number of axes, the number of channels or `out` does not fit, if nothing is left by
        the crop or nothing is too much, the rows have another length, the array is empty, or if
        the dtype is neither integer nor floating.
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
            resampling=resampling,
            crop=crop,
            rows=rows,
            right_shape=right_shape,
            overflow=overflow,
        )
        return np.squeeze(result, missing) if out is None else out
    spatial_axes = [axis for axis in range(array.ndim) if axis not in (batch_axis, channel_axis)]
    _check(array, n_axes=n_axes, n_channels=len(gain), channel_axis=channel_axis)
    work = array
    if rows is not None:
        work = _separated(work, *rows, batch_axis=batch_axis)
    if crop is not None:
        _check_too_long(work, spatial_axes, right_shape)
        work = _cropped(work, spatial_axes, crop)
    _check_out(out, shape=work.shape, dtype=array.dtype)

    steps = (None,) * len(filters) if resampling is None else resampling
    has_gain, has_bias = any(value != 1 for value in gain), any(value != 0 for value in bias)
    is_computed = has_gain or has_bias or any(step is not None for step in steps)
    is_computed = is_computed or not all(_is_whole(taps) for _, taps in filters)
    compute = _compute_dtype(array.dtype, precision) if is_computed else array.dtype
    offsets = {}
    along_channels = [1] * array.ndim
    if channel_axis is not None:
        along_channels[channel_axis] = -1
    with np.errstate(over=overflow, invalid="ignore"):
        for axis, (offset, taps), step in zip(spatial_axes, filters, steps, strict=True):
            if step is not None:
                work = _resampled(work.astype(compute, copy=False), axis, step)
            elif not _is_whole(taps):
                work = _filtered(work.astype(compute, copy=False), axis, offset, taps)
            elif offset:
                offsets[axis] = offset
        # A buffer may be the array itself, or a part of it.
        is_direct = out is not None and not np.may_share_memory(out, array)
        result = out if out is not None and is_direct else np.empty(work.shape, array.dtype)
        _finish(
            work,
            result,
            offsets=offsets,
            gain=np.asarray(gain, compute).reshape(along_channels) if has_gain else None,
            bias=np.asarray(bias, compute).reshape(along_channels) if has_bias else None,
            compute=compute,
            channel_axis=channel_axis,
        )
    if out is not None and not is_direct:
        np.copyto(out, result)
    return result if out is None else out


def missing_axis(n_given: int, n_axes: int, batch_axis: int | None) -> int | None:
    """Give the batch axis where an output came without it, else None."""
    return batch_axis if n_given == n_axes - 1 else None


def rows_found(n_rows: int, length: int, stride: int) -> int:
    """Tell how many rows lie whole in the first ``n_rows * length`` values of a strided buffer."""
    return max(n_rows - 1, 0) * length // stride + 1


@functools.lru_cache(maxsize=4)
def sinc_taps(
    size: int, resampling: Resampling
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the taps that interpolate an axis at positions that are not whole.

    Parameters
    ----------
    size : int
        How many positions the axis has.
    resampling : (scale, origin, shift, n_taps, beta)
        Position ``i`` is taken from ``p = origin + scale * (i - origin) - shift``, by an even
        number of taps under a Kaiser window of shape beta.

    Returns
    -------
    first : ndarray of int64, (size,)
        ``floor(p) - n_taps / 2 + 1``; may lie outside the axis, where the edge value repeats.
    taps : ndarray of float64, (size, n_taps)
        ``y[i] = sum over k of taps[i, k] * x[first[i] + k]``. With ``d = first + k - p``, the tap
        is ``sinc(d) * I0(beta * sqrt(1 - (2 d / n_taps)^2))`` over the sum of all. They are
        multiples of 2^-40, so that computers whose Bessel functions differ in the last place
        agree, and sum to 1 exactly. Neither can be written to: they are kept for the next call,
        since for a line of sound they take longer to make than to apply.
    """
    scale, origin, shift, n_taps, beta = resampling
    source = origin + scale * (np.arange(size) - origin) - shift
    first = np.floor(source).astype(np.int64) - n_taps // 2 + 1
    distance = first[:, np.newaxis] + np.arange(n_taps) - source[:, np.newaxis]
    window = np.i0(beta * np.sqrt(np.clip(1 - (2 * distance / n_taps) ** 2, 0, None)))
    taps = np.sinc(distance) * window
    taps = np.rint(taps / taps.sum(axis=1, keepdims=True) * 2.0**40) / 2.0**40
    # The largest tap takes the rest, which is exact: all are multiples of 2^-40 near or below 1.
    largest = np.argmax(taps, axis=1)
    taps[np.arange(size), largest] += 1 - taps.sum(axis=1)
    first.flags.writeable = taps.flags.writeable = False
    return first, taps


def _check(
    array: np.ndarray[Any, Any], *, n_axes: int, n_channels: int, channel_axis: int | None
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


def _check_too_long(
    array: np.ndarray[Any, Any], axes: Sequence[int], right_shape: Sequence[int] | None
) -> None:
    """Raise ValueError where what is to be cropped is as long as it should be."""
    if right_shape is not None and [array.shape[axis] for axis in axes] == list(right_shape):
        raise ValueError(
            f"the array has shape {array.shape}, which is as long as the corrected one should be: "
            "nothing is too much, and cropping would lose what is right; was the model mended, or "
            "is the correction for another output? fit it again on what the model gives now"
        )


def _check_out(
    out: np.ndarray[Any, Any] | None, *, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Raise ValueError where the buffer does not fit the result."""
    if out is not None and (out.shape != shape or out.dtype != dtype):
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}; "
            f"it must have those of the corrected array, {shape} and {dtype}"
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


def _separated(
    array: np.ndarray[Any, Any], length: int, stride: int, *, batch_axis: int | None
) -> np.ndarray[Any, Any]:
    """Put rows right that were read as if they followed each other; repeat the last one found."""
    others = array.shape[1:-2] if batch_axis == 0 else array.shape[:-2]
    if batch_axis not in (0, None) or any(size != 1 for size in others):
        raise ValueError(
            f"the array has shape {array.shape}; rows that lie apart can be put right only where "
            "everything but the batch axis, 0, and the last two axes is of size 1"
        )
    if array.shape[-1] != length:
        raise ValueError(
            f"the array has shape {array.shape}, rows of {array.shape[-1]} values; the correction "
            f"is for rows of {length}, {stride} apart"
        )
    n_rows = array.shape[-2]
    found = rows_found(n_rows, length, stride)
    read = np.ascontiguousarray(array).reshape(-1, n_rows * length)
    result = np.empty((len(read), n_rows, length), array.dtype)
    whole = (found - 1) * stride
    result[:, : found - 1] = read[:, :whole].reshape(len(read), found - 1, stride)[..., :length]
    result[:, found - 1 :] = read[:, np.newaxis, whole : whole + length]
    return result.reshape(array.shape)


def _cropped(
    array: np.ndarray[Any, Any], axes: Sequence[int], crop: Sequence[tuple[int, int]]
) -> np.ndarray[Any, Any]:
    """Give the view without the ends of the spatial axes."""
    window = [slice(None)] * array.ndim
    for axis, (start, end) in zip(axes, crop, strict=True):
        window[axis] = slice(start, array.shape[axis] - end)
        if array.shape[axis] <= start + end:
            raise ValueError(
                f"the array has shape {array.shape}; {start} positions at the start and {end} at "
                f"the end of axis {axis} are to be cropped, which leaves nothing"
            )
    return array[tuple(window)]


def _blocks(shape: tuple[int, ...], *, keep: int | None) -> Iterator[tuple[Any, ...]]:
    """Divide an array into blocks along one axis, but not along the one to keep."""
    size = 1
    for length in shape:
        size *= length
    count = -(-size // _BLOCK)
    axes = [axis for axis in range(len(shape)) if axis != keep]
    # The outermost axis that is long enough, so that inner loops stay long.
    axis = next((axis for axis in axes if shape[axis] >= count), None)
    if axis is None:
        axis = max(axes, key=shape.__getitem__, default=None)
    if axis is None:
        yield (...,)
        return
    step = max(1, shape[axis] // count)
    for start in range(0, shape[axis], step):
        yield (*(slice(None),) * axis, slice(start, start + step))


def _filtered(
    array: np.ndarray[Any, Any], axis: int, offset: int, taps: Sequence[float]
) -> np.ndarray[Any, Any]:
    """Weighted sum of neighbours along one axis; past the ends the edge value repeats."""
    size = array.shape[axis]
    source = _extended(array, axis, offset, size + len(taps) - 1)
    weights = np.asarray(taps, array.dtype)
    result = np.empty(array.shape, array.dtype)
    for block in _blocks(array.shape, keep=axis):
        part = np.moveaxis(source[block], axis, 0)
        total = part[:size] * weights[0]
        for k in range(1, len(taps)):
            total += part[k : k + size] * weights[k]
        np.moveaxis(result[block], axis, 0)[...] = total
    return result


def _extended(
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


def _resampled(
    array: np.ndarray[Any, Any], axis: int, resampling: Resampling
) -> np.ndarray[Any, Any]:
    """Interpolate along one axis where every position has its own taps."""
    size = array.shape[axis]
    first, taps = sinc_taps(size, resampling)
    n_taps = taps.shape[1]
    along = [1] * array.ndim
    along[axis] = size
    weights = taps.T.astype(array.dtype).reshape(n_taps, *along)
    result = np.empty(array.shape, array.dtype)
    for block in _blocks(array.shape, keep=axis):
        part = array[block]
        total = part.take(first, axis, mode="clip") * weights[0]
        for k in range(1, n_taps):
            total += part.take(first + k, axis, mode="clip") * weights[k]
        result[block] = total
    return result


def _finish(
    source: np.ndarray[Any, Any],
    result: np.ndarray[Any, Any],
    *,
    offsets: Mapping[int, int],
    gain: np.ndarray[Any, Any] | None,
    bias: np.ndarray[Any, Any] | None,
    compute: np.dtype[Any],
    channel_axis: int | None,
) -> None:
    """Move by whole pixels, multiply, add, and cast to the dtype of the result, in one pass."""
    window: list[Any] = [slice(None)] * source.ndim
    target = list(window)
    for axis, offset in offsets.items():
        size = source.shape[axis]
        reach = min(max(offset, 1 - size), size - 1)  # further out there is the edge alone
        start, stop = max(-reach, 0), min(size - reach, size)
        window[axis], target[axis] = slice(start + reach, stop + reach), slice(start, stop)
    # The dots give an array where there is no axis, not a number.
    given, wanted = source[(*window, ...)], result[(*target, ...)]
    is_rounded = np.issubdtype(result.dtype, np.integer) and compute != result.dtype
    for block in _blocks(given.shape, keep=channel_axis):
        values, place = given[block], wanted[block]
        buffer = place if result.dtype == compute else None
        if gain is not None:
            values = np.multiply(values, gain, out=buffer, dtype=compute)
        if bias is not None:
            values = np.add(values, bias, out=buffer, dtype=compute)
        if is_rounded:
            values = _clipped(np.rint(values), result.dtype)
        if values is not place:
            np.copyto(place, values, casting="unsafe")
    # What has no source gets the nearest value that has one, one axis after the other.
    for axis in offsets:
        positions = np.moveaxis(result, axis, 0)
        start, stop = target[axis].start, target[axis].stop
        positions[:start] = positions[start]
        positions[stop:] = positions[stop - 1]
