# SPDX-License-Identifier: BSD-3-Clause
"""Elements that lie elsewhere than the reader thinks."""

import numpy as np
import pytest
from faults.outputs import output
from hypothesis import given
from hypothesis import strategies as st

from convcal.faults import FlatOffset, Overlong, PrefixOnly, RowStride, StrideCollapse


def test_rows_are_sheared_by_the_padding_of_the_buffer():
    # 13 fp16 numbers are 26 bytes in rows of 64, which hold 32 (coremltools #1893).
    y = np.arange(1, 1 + 5 * 13, dtype=np.float16).reshape(1, 5, 13)
    result = RowStride().apply(y)
    np.testing.assert_array_equal(result[0, 0], y[0, 0])
    flat = np.concatenate([y[0, 0], np.zeros(19), y[0, 1], np.zeros(19), y[0, 2]])
    np.testing.assert_array_equal(result.ravel()[: flat.size], flat[: y.size])
    full_rows = output(2, 3, 4, 16)
    np.testing.assert_array_equal(RowStride().apply(full_rows), full_rows)


@pytest.mark.parametrize(
    ("width", "dtype", "stride"),
    [(8, "f4", 16), (13, "f2", 32), (88, "f4", 96), (264, "f4", 272), (200, "f2", 224)],
)
def test_rows_have_the_strides_that_are_reported(width, dtype, stride):
    y = np.ones((1, 40, width), dtype)
    result = RowStride().apply(y).ravel()
    row = np.concatenate([np.ones(width), np.zeros(stride - width)])
    np.testing.assert_array_equal(result, np.resize(row, y.size))


def test_the_padding_can_hold_garbage():
    y = output(1, 5, 13, dtype="float16")
    zeros, drawn = RowStride().apply(y), RowStride(fill="random").apply(y)
    padding = zeros == 0
    np.testing.assert_array_equal(drawn[~padding], zeros[~padding])
    assert np.all(drawn[padding] != 0)


@pytest.mark.parametrize(
    "fault",
    [
        RowStride(),
        RowStride(fill="random"),
        FlatOffset(displacement=7),
        PrefixOnly(along="flat"),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_axis", [0, 1, -1])
def test_the_buffer_of_a_sample_does_not_run_on_into_the_next(fault, batch_axis):
    y = np.moveaxis(output(3, 2, 5, 13), 0, batch_axis)
    channel_axis = 1 if batch_axis == 0 else 0
    axes = {"channel_axis": channel_axis, "batch_axis": batch_axis}
    parts = [fault.apply(part, **axes) for part in np.split(y, 3, axis=batch_axis)]
    np.testing.assert_array_equal(fault.apply(y, **axes), np.concatenate(parts, axis=batch_axis))


@given(displacement=st.integers(-60, 60))
def test_the_flat_buffer_is_displaced_whatever_the_axes(displacement):
    y = output(1, 2, 4, 5)
    result = FlatOffset(displacement=displacement).apply(y).ravel()
    source = np.arange(y.size) - displacement
    inside = (source >= 0) & (source < y.size)
    expected = np.where(inside, y.ravel()[np.clip(source, 0, y.size - 1)], 0)
    np.testing.assert_array_equal(result, expected)


def test_whole_rows_of_displacement_are_a_displacement_of_rows():
    y = output(1, 1, 6, 5)
    result = FlatOffset(displacement=2 * 5).apply(y)
    np.testing.assert_array_equal(result[:, :, 2:], y[:, :, :-2])


@pytest.mark.parametrize("fill", ["zero", "random"])
def test_a_tail_is_added_and_the_rest_is_right(fill):
    # Kernel 4, stride 8, padding 1, output padding 7: 107 instead of 65 (coreai-torch #57).
    y = output(1, 2, 65)
    result = Overlong(tail=42, fill=fill).apply(y)
    assert result.shape == (1, 2, 107)
    np.testing.assert_array_equal(result[..., :65], y)
    assert np.all(result[..., 65:] == 0) == (fill == "zero")
    picture = Overlong(tail=(0, 3), fill=fill).apply(output(2, 5, 7, 1), channel_axis=-1)
    assert picture.shape == (2, 5, 10, 1)


def transposed_convolution(x, kernel, stride, length):
    """Add up kernels at multiples of the stride."""
    full = np.zeros(max(length, (len(x) - 1) * stride + len(kernel)))
    for i, value in enumerate(x):
        full[i * stride : i * stride + len(kernel)] += value * kernel
    return full[:length]


@given(
    stride=st.integers(1, 5), n=st.integers(1, 6), length=st.integers(1, 5), extra=st.integers(0, 3)
)
def test_a_stride_taken_for_one_is_what_the_convolution_would_give(stride, n, length, extra):
    kernel = np.arange(1.0, 1 + min(length, stride))
    x = np.random.default_rng(n).integers(-8, 8, n).astype(float)
    size = (n - 1) * stride + len(kernel) + extra
    y = transposed_convolution(x, kernel, stride, size)
    wrong = transposed_convolution(x, kernel, 1, size)
    result = StrideCollapse(stride=stride).apply(y.reshape(1, 1, -1))
    np.testing.assert_array_equal(result[0, 0], wrong)


def test_the_reported_strides_collapse():
    ones = np.ones((1, 1, 4), np.float32)
    np.testing.assert_array_equal(StrideCollapse().apply(ones), [[[1, 2, 1, 0]]])  # pytorch #82711
    spread = np.array([[[1, 0, 2, 0, 0, 0]]], np.float32)  # onnxruntime #32506
    np.testing.assert_array_equal(StrideCollapse().apply(spread), [[[1, 2, 0, 0, 0, 0]]])
    one_axis = StrideCollapse(stride=(1, 2)).apply(np.ones((1, 1, 2, 4)))
    np.testing.assert_array_equal(one_axis[0, 0], [[1, 2, 1, 0]] * 2)
