# SPDX-License-Identifier: BSD-3-Clause
"""Laws of the arithmetic, against a formula written as loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.arithmetic import correct

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
