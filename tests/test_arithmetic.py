# SPDX-License-Identifier: BSD-3-Clause
"""Laws of the arithmetic, against a formula written as loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from convcal.arithmetic import correct, rows_found, sinc_taps

FLOATS = st.floats(-4, 4, width=32)


@st.composite
def problems(draw, dtypes=(np.float32, np.float16, np.float64)):
    """Draw an array with any number of spatial axes, and a correction of it."""
    n_spatial = draw(st.integers(0, 3))
    has_batch, has_channels = draw(st.booleans()), draw(st.booleans())
    shape = [draw(st.integers(1, 6)) for _ in range(n_spatial)]
    batch_axis = channel_axis = None
    if has_channels:
        channel_axis = draw(st.integers(0, len(shape)))
        shape.insert(channel_axis, draw(st.integers(1, 3)))
    if has_batch:
        batch_axis = draw(st.integers(0, len(shape)))
        shape.insert(batch_axis, draw(st.integers(1, 2)))
        if channel_axis is not None and channel_axis >= batch_axis:
            channel_axis += 1
    n_channels = shape[channel_axis] if has_channels else 1
    filters = []
    for _ in range(n_spatial):
        n_taps = draw(st.integers(1, 4))
        taps = (1.0,) if n_taps == 1 else tuple(draw(FLOATS) for _ in range(n_taps))
        filters.append((draw(st.integers(-9, 9)), taps))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = rng.normal(size=shape).astype(draw(st.sampled_from(dtypes)))
    return array, {
        "filters": tuple(filters),
        "gain": tuple(draw(FLOATS) for _ in range(n_channels)),
        "bias": tuple(draw(FLOATS) for _ in range(n_channels)),
        "batch_axis": batch_axis,
        "channel_axis": channel_axis,
    }


def by_definition(array, *, filters, gain, bias, batch_axis, channel_axis):
    """Evaluate the definition position by position, in float64."""
    spatial = [axis for axis in range(array.ndim) if axis not in (batch_axis, channel_axis)]
    result = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        total = 0.0
        for ks in itertools.product(*(range(len(taps)) for _, taps in filters)):
            source, weight = list(index), 1.0
            for axis, (offset, taps), k in zip(spatial, filters, ks, strict=True):
                source[axis] = min(max(index[axis] + offset + k, 0), array.shape[axis] - 1)
                weight *= taps[k]
            total += weight * float(array[tuple(source)])
        channel = 0 if channel_axis is None else index[channel_axis]
        result[index] = gain[channel] * total + bias[channel]
    return result


@given(problems())
@settings(deadline=None, max_examples=150)
def test_it_is_the_definition_to_rounding(problem):
    array, arguments = problem
    before = array.copy()
    result = correct(array, **arguments)
    expected = by_definition(array, **arguments)
    # At most 3 axes x 4 taps products and sums, gain and bias: under 32 roundings of values that
    # no intermediate exceeds by the bound below; the last one is to the output's own dtype.
    taps = np.prod([sum(map(abs, taps)) for _, taps in arguments["filters"]])
    scale = max(map(abs, arguments["gain"])) * taps * np.abs(array).max(initial=0).astype(float)
    scale += max(map(abs, arguments["bias"]))
    eps = np.finfo(array.dtype).eps + 32 * np.finfo(np.float32).eps
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert np.all(
        np.abs(result - expected) <= eps * scale + np.finfo(array.dtype).smallest_subnormal
    )
    np.testing.assert_array_equal(array, before)


@given(problems())
@settings(deadline=None, max_examples=60)
def test_a_buffer_receives_the_same_bits(problem):
    array, arguments = problem
    out = np.full_like(array, 77)
    assert correct(array, **arguments, out=out) is out
    np.testing.assert_array_equal(out, correct(array, **arguments))


@given(problems())
@settings(deadline=None, max_examples=60)
def test_an_array_without_its_batch_axis_is_corrected_alike(problem):
    array, arguments = problem
    axis = arguments["batch_axis"]
    if axis is None:
        return
    whole = correct(array, **arguments)
    for n in range(array.shape[axis]):
        sample = array.take(n, axis)
        np.testing.assert_array_equal(correct(sample, **arguments), whole.take(n, axis))
        out = np.empty_like(sample)
        assert correct(sample, **arguments, out=out) is out
        np.testing.assert_array_equal(out, whole.take(n, axis))


@given(problems(dtypes=(np.float16,)))
@settings(deadline=None, max_examples=60)
def test_precision_output_rounds_to_the_output_dtype_after_every_operation(problem):
    array, arguments = problem
    arguments["filters"] = tuple((offset, (1.0,)) for offset, _ in arguments["filters"])
    result = correct(array, **arguments, precision="output")
    shape = [1] * array.ndim
    if arguments["channel_axis"] is not None:
        shape[arguments["channel_axis"]] = -1
    gain = np.array(arguments["gain"]).astype(np.float16).astype(float).reshape(shape)
    bias = np.array(arguments["bias"]).astype(np.float16).astype(float).reshape(shape)
    moved = correct(array, **(arguments | {"gain": (1.0,) * gain.size, "bias": (0.0,) * gain.size}))
    # Exact in float64, then rounded once: what an fp16 multiplier and adder do.
    product = (moved.astype(float) * gain).astype(np.float16)
    expected = (product.astype(float) + bias).astype(np.float16)
    np.testing.assert_array_equal(result, expected)


resamplings = st.tuples(
    st.floats(0.5, 2),
    st.floats(-30, 30),
    st.floats(-9, 9),
    st.integers(1, 8).map(lambda half: 2 * half),
    st.floats(0, 12),
)


def sinc_by_definition(values, resampling):
    """Evaluate one scaled axis position by position, in float64."""
    scale, origin, shift, n_taps, beta = resampling
    result = []
    for i in range(len(values)):
        position = origin + scale * (i - origin) - shift
        first = math.floor(position) - n_taps // 2 + 1
        distances = [first + k - position for k in range(n_taps)]
        taps = [
            float(np.sinc(d)) * special.i0(beta * math.sqrt(max(0, 1 - (2 * d / n_taps) ** 2)))
            for d in distances
        ]
        sources = [min(max(first + k, 0), len(values) - 1) for k in range(n_taps)]
        total = sum(tap * values[source] for tap, source in zip(taps, sources, strict=True))
        result.append(total / sum(taps))
    return np.array(result)


@given(st.lists(resamplings, min_size=1, max_size=3), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=80)
def test_scaled_axes_are_the_definition_to_the_grid_of_their_taps(steps, seed):
    rng = np.random.default_rng(seed)
    array = rng.uniform(-1, 1, (1, 2, *rng.integers(1, 9, len(steps))))
    filters = ((0, (1.0,)),) * len(steps)
    result = correct(array, filters=filters, gain=(1, 1), bias=(0, 0), resampling=steps)
    expected = array
    for axis, step in enumerate(steps, start=2):
        expected = np.apply_along_axis(sinc_by_definition, axis, expected, step)
    # Each of up to 16 taps is within 2^-40 of its own, 16 of them in all within 16 more, on each
    # of 3 axes; the sum of their magnitudes stays below 16 as well.
    np.testing.assert_allclose(result, expected, atol=3 * 16 * 16 * 2.0**-40, rtol=0)


@given(resamplings, st.integers(1, 40))
@settings(deadline=None, max_examples=100)
def test_taps_of_a_scaled_axis_are_short_binary_fractions_that_sum_to_1(resampling, size):
    first, taps = sinc_taps(size, resampling)
    assert first.shape == (size,)
    assert taps.shape == (size, resampling[3])
    np.testing.assert_array_equal(taps * 2.0**40, np.rint(taps * 2.0**40))
    assert all(math.fsum(row) == 1 for row in taps)


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([2, 6, 12]))
@settings(deadline=None, max_examples=40)
def test_a_sinc_at_whole_positions_copies_them(shift, origin, n_taps):
    array = np.random.default_rng(0).normal(size=(1, 1, 8, 7)).astype(np.float32)
    channels = {"gain": (1.0,), "bias": (0.0,)}
    moved = correct(array, filters=((-shift, (1.0,)), (0, (1.0,))), **channels)
    step = (1.0, float(origin), float(shift), n_taps, 6.0)
    again = correct(array, filters=((0, (1.0,)),) * 2, resampling=(step, None), **channels)
    np.testing.assert_array_equal(again, moved)


@given(st.floats(0.8, 1.25), st.floats(-20, 120), st.floats(-3, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_the_inverse_scale_restores_smooth_content(scale, origin, shift, seed):
    size, n_taps = 100, 12
    rng = np.random.default_rng(seed)
    # Up to 0.4 of the Nyquist frequency, 0.5 once squeezed: there 12 taps are within 1e-3.
    frequencies = rng.uniform(0, 0.4 * math.pi, 6)
    wave = np.sin(np.outer(np.arange(size), frequencies) + rng.uniform(0, 6, 6)).mean(axis=1)
    channels = {"filters": ((0, (1.0,)),), "gain": (1.0,), "bias": (0.0,)}
    there = (scale, origin, shift, n_taps, 6.0)
    back = (1 / scale, origin, -shift / scale, n_taps, 6.0)
    stretched = correct(wave[None, None], resampling=(there,), **channels)
    restored = correct(stretched, resampling=(back,), **channels)[0, 0]

    def sources(step):
        first, _ = sinc_taps(size, step)
        return first, first + n_taps - 1

    low, high = sources(there)
    valid = np.flatnonzero((low >= 0) & (high < size))
    low, high = sources(back)
    if len(valid):
        inside = (low >= valid[0]) & (high <= valid[-1])
        assert np.abs(restored - wave)[inside].max(initial=0) <= 2e-3


@given(problems(), st.data())
@settings(deadline=None, max_examples=60)
def test_a_crop_is_what_remains_corrected(problem, data):
    array, arguments = problem
    axes = (arguments["batch_axis"], arguments["channel_axis"])
    spatial = [axis for axis in range(array.ndim) if axis not in axes]
    window, crop = [slice(None)] * array.ndim, []
    for axis in spatial:
        start = data.draw(st.integers(0, array.shape[axis] - 1))
        end = data.draw(st.integers(0, array.shape[axis] - 1 - start))
        window[axis] = slice(start, array.shape[axis] - end)
        crop.append((start, end))
    expected = correct(array[tuple(window)], **arguments)
    result = correct(array, **arguments, crop=crop)
    np.testing.assert_array_equal(result, expected)
    out = np.empty_like(expected)
    assert correct(array, **arguments, crop=crop, out=out) is out
    np.testing.assert_array_equal(out, expected)


def read_without_strides(pictures, stride, *, padding):
    """Read each picture densely from a buffer whose rows lie further apart."""
    n, n_rows, length = pictures.shape
    buffer = np.full((n, n_rows, stride), padding, pictures.dtype)
    buffer[..., :length] = pictures
    return buffer.reshape(n, -1)[:, : n_rows * length].reshape(n, n_rows, length)


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.booleans())
def test_rows_that_were_read_without_their_stride_come_back(n, n_rows, length, more, has_batch):
    stride = length + more
    n = n if has_batch else 1
    pictures = np.random.default_rng(0).normal(size=(n, n_rows, length)).astype(np.float16)
    observed = read_without_strides(pictures, stride, padding=np.nan)
    given_array = observed if has_batch else observed[0]
    result = correct(
        given_array,
        filters=((0, (1.0,)),) * 2,
        gain=(1,),
        bias=(0,),
        batch_axis=0 if has_batch else None,
        channel_axis=None,
        rows=(length, stride),
    ).reshape(pictures.shape)
    whole = [r for r in range(n_rows) if r * stride + length <= n_rows * length]
    found = rows_found(n_rows, length, stride)
    assert whole == list(range(found))
    np.testing.assert_array_equal(result[:, :found], pictures[:, :found])
    repeated = np.repeat(pictures[:, found - 1 : found], n_rows - found, axis=1)
    np.testing.assert_array_equal(result[:, found:], repeated)


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((1, 1, 4, 8), (0, 1), "rows of 8 values; the correction is for rows of 9, 16 apart"),
        ((1, 2, 4, 9), (0, 1), "everything but the batch axis"),
        ((4, 1, 1, 9), (2, 1), "everything but the batch axis"),
    ],
)
def test_rows_of_another_kind_are_refused(shape, axes, message):
    batch_axis, channel_axis = axes
    with pytest.raises(ValueError, match=message):
        correct(
            np.zeros(shape),
            filters=((0, (1.0,)),) * 2,
            gain=(1,) * shape[1],
            bias=(0,) * shape[1],
            batch_axis=batch_axis,
            channel_axis=channel_axis,
            rows=(9, 16),
        )


def test_a_crop_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"3 positions at the start and 1 at the end of axis 2"):
        correct(np.zeros((1, 1, 4)), filters=((0, (1.0,)),), gain=(1,), bias=(0,), crop=((3, 1),))


def test_a_buffer_may_be_the_array_itself():
    array = np.random.default_rng(0).normal(size=(1, 2, 9, 8)).astype(np.float32)
    arguments = {"filters": ((2, (1.0,)), (-3, (1.0,))), "gain": (2, 3), "bias": (1, 0)}
    expected = correct(array, **arguments)
    np.testing.assert_array_equal(correct(array, **arguments, out=array), expected)


def test_blocks_do_not_show():
    # Several blocks along each kind of axis, and one that is not a multiple of their length.
    array = np.random.default_rng(0).normal(size=(2, 3, 131, 257)).astype(np.float32)
    step = (1.01, 3.0, 0.4, 6, 6.0)
    arguments = {"gain": (1.1, 1.2, 1.3), "bias": (0.1, 0.2, 0.3)}
    for filters, resampling in (
        (((2, (1.0,)), (-3, (1.0,))), None),
        (((-1, (0.25, 0.5, 0.25)), (0, (0.5, 0.5))), None),
        (((0, (1.0,)),) * 2, (step, step)),
    ):
        whole = correct(array, filters=filters, resampling=resampling, **arguments)
        for n, c in itertools.product(range(2), range(3)):
            part = correct(
                array[n : n + 1, c : c + 1],
                filters=filters,
                resampling=resampling,
                gain=arguments["gain"][c : c + 1],
                bias=arguments["bias"][c : c + 1],
            )
            np.testing.assert_array_equal(part[0, 0], whole[n, c])


def test_the_identity_gives_a_new_equal_array():
    array = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    result = correct(array, filters=((0, (1.0,)),), gain=(1, 1), bias=(0, 0))
    np.testing.assert_array_equal(result, array)
    assert not np.shares_memory(result, array)


def test_a_shift_beyond_the_size_repeats_the_edge():
    array = np.array([[[1, 2, 3]]], np.float32)
    for offset, edge in ((5, 3), (-5, 1)):
        result = correct(array, filters=((offset, (1.0,)),), gain=(1,), bias=(0,))
        np.testing.assert_array_equal(result, np.full_like(array, edge))


def test_images_are_rounded_and_clipped_to_their_range():
    picture = np.array([[[0, 100, 255]]], np.uint8)
    result = correct(
        picture,
        filters=((0, (1.0,)),) * 2,
        gain=(2, 0.5, 2),
        bias=(-5, 0.6, 0),
        batch_axis=None,
        channel_axis=2,
    )
    np.testing.assert_array_equal(result, np.array([[[0, 51, 255]]], np.uint8))
    assert result.dtype == np.uint8


INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_whole_pixel_shifts_copy_integers_of_any_size(dtype):
    limits = np.iinfo(dtype)
    labels = np.array([[[limits.max, limits.max - 1, limits.min, 5]]], dtype)
    same = correct(labels, filters=((0, (1.0,)),), gain=(1,), bias=(0,))
    np.testing.assert_array_equal(same, labels)
    moved = correct(labels, filters=((-1, (1.0,)),), gain=(1,), bias=(0,))
    np.testing.assert_array_equal(moved, labels[..., [0, 0, 1, 2]])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_any_size_are_clipped_to_their_range(dtype):
    limits = np.iinfo(dtype)
    values = np.array([[[limits.max, limits.min, 5]]], dtype)
    result = correct(values, filters=((0, (1.0,)),), gain=(4,), bias=(0,))
    # The largest float64 below 2**63 and 2**64 stands for their largest 64-bit integers.
    largest = limits.max if limits.bits < 64 else int(np.nextafter(float(limits.max), 0))
    expected = [largest, limits.min, 20]
    assert result.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2, 2, 2)), "5|axes"),
        (np.zeros((1, 3, 4)), "3 channels"),
        (np.zeros((1, 2, 0)), "empty"),
        (np.zeros((1, 2, 4), complex), "complex128"),
        (np.zeros((1, 2, 4), object), "object"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        correct(array, filters=((0, (1.0,)),), gain=(1, 1), bias=(0, 0))


def test_a_buffer_of_another_shape_or_dtype_is_refused():
    array = np.zeros((1, 2, 4), np.float32)
    for out in (np.zeros((1, 2, 5), np.float32), np.zeros((1, 2, 4), np.float64)):
        with pytest.raises(ValueError, match="out has shape"):
            correct(array, filters=((0, (1.0,)),), gain=(1, 1), bias=(0, 0), out=out)
