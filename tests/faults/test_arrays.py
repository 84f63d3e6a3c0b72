# SPDX-License-Identifier: BSD-3-Clause
"""What holds for every fault of arrays."""

import numpy as np
import pytest
from faults.outputs import output

from convcal.errors import InputError
from convcal.faults import FAULTS, ArrayFault, ChannelAffine, parse_fault

ARRAY_FAULTS = sorted(name for name, fault in FAULTS.items() if issubclass(fault, ArrayFault))
COMPOSED = "int-shift:displacement=1/-2+channel-affine:gain=1.1,seed=3+fp16-round"
RANDOM = [
    "int-shift:fill=random",
    "row-stride:fill=random",
    "flat-offset:fill=random",
    "overlong:fill=random",
    "noise",
    "garbage",
    "prefix-only",
]


@pytest.mark.parametrize("text", [*ARRAY_FAULTS, COMPOSED])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64"])
def test_shape_and_dtype_are_kept_and_the_input_is_not_touched(text, dtype):
    y = (output(2, 3, 5, 7) * 40 + 100).astype(dtype)
    kept = y.copy()
    fault = parse_fault(text)
    result = fault.apply(y)
    grown = 1 if text == "overlong" else 0
    assert result.shape == (2, 3, 5 + grown, 7 + grown)
    assert result.dtype == y.dtype
    np.testing.assert_array_equal(y, kept)
    assert not np.shares_memory(result, y)
    np.testing.assert_array_equal(result, fault.apply(y))


@pytest.mark.parametrize("text", [*ARRAY_FAULTS, *RANDOM])
def test_how_an_output_lies_in_memory_does_not_matter(text):
    y = output(2, 3, 5, 7)
    fault = parse_fault(text)
    for same in (np.asfortranarray(y), np.repeat(y, 2, axis=-1)[..., ::2]):
        np.testing.assert_array_equal(fault.apply(same), fault.apply(y))


@pytest.mark.parametrize("text", RANDOM)
def test_what_is_random_depends_on_the_seed_and_on_the_output(text):
    y, joint = output(1, 2, 6, 9) + np.float32(3), "," if ":" in text else ":"
    first = parse_fault(text).apply(y)
    second = parse_fault(f"{text}{joint}seed=1").apply(y)
    assert not np.array_equal(first, second)
    # As large as the output is: 3 +- 1.
    assert np.abs(first).max() < 20
    changed = parse_fault(text).apply(y + np.float32(1))
    assert not np.allclose(changed - 1, first)


@pytest.mark.parametrize("text", ARRAY_FAULTS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 3, 4), (2, 3, 0), (1, 1, 1)])
def test_outputs_without_space_or_content_are_distorted_too(text, shape):
    y = output(*shape)
    axes = (1, 0) if len(shape) > 1 else (0 if shape else None, None)
    result = parse_fault(text).apply(y, channel_axis=axes[0], batch_axis=axes[1])
    assert isinstance(result, np.ndarray)
    assert text == "overlong" or result.shape == shape


@pytest.mark.parametrize("text", ARRAY_FAULTS)
def test_nan_and_infinities_raise_no_warning(text):
    y = output(1, 2, 4, 4)
    y[0, 0, 0] = (np.nan, np.inf, -np.inf, 7e4)
    parse_fault(text).apply(y)


@pytest.mark.parametrize("text", ARRAY_FAULTS)
def test_space_is_where_the_caller_says(text):
    if text in {"flat-offset", "row-stride", "prefix-only"}:
        pytest.skip("these see the buffer, not the axes")
    y = np.arange(1, 1 + 2 * 5 * 6, dtype=np.float64).reshape(1, 2, 5, 6)
    fault = parse_fault(
        {"noise": "noise:relative=0", "garbage": "garbage:strength=0"}.get(text, text)
    )
    last = fault.apply(np.moveaxis(y, 1, -1)[0], channel_axis=-1, batch_axis=None)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 0)[np.newaxis], fault.apply(y))


@pytest.mark.parametrize(
    "text",
    [
        "int-shift:displacement=1/1",
        "frac-shift:displacement=1/1",
        "scale-corner:growth=0.1/0.1",
        "scale-corner:corner=end/end",
        "scale-centre:ratio=1/1",
        "overlong:tail=1/1",
        "stride-collapse:stride=2/2",
        "edge-gain:width=1/1",
    ],
)
def test_a_fault_for_another_number_of_axes_is_refused(text):
    with pytest.raises(InputError, match="for 2 spatial axes, the output has 1"):
        parse_fault(text).apply(output(1, 1, 5))


@pytest.mark.parametrize("array", [np.zeros((2, 2), bool), np.array([["a"]])])
def test_what_is_not_a_number_is_refused(array):
    with pytest.raises(InputError, match="needs numbers"):
        ChannelAffine().apply(array)


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"shape \(5,\) has no channel axis 1"):
        ChannelAffine().apply(output(5))


def test_bytes_are_rounded_and_clamped():
    y = np.array([[0, 100, 200, 255]], np.uint8)
    result = ChannelAffine(gain=1.25, bias=-10).apply(y)
    np.testing.assert_array_equal(result, [[0, 115, 240, 255]])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_integers_saturate_where_fp16_overflows(dtype):
    limits = np.iinfo(dtype)
    y = np.array([[limits.max, limits.min, 1]], dtype)
    result = ChannelAffine(gain=3.0).apply(y)
    np.testing.assert_array_equal(result, np.array([[limits.max, limits.min, 3]], dtype))


def test_overflow_goes_to_infinity():
    y = np.array([[60000.0, -60000.0]], np.float32)
    np.testing.assert_array_equal(ChannelAffine(gain=2.0).apply(y), [[np.inf, -np.inf]])


def test_another_byte_order_is_kept():
    y = np.arange(12, dtype=">f4").reshape(1, 2, 6)
    for fill in ("edge", "zero", "wrap", "random"):
        moved = parse_fault(f"int-shift:fill={fill}").apply(y)
        assert moved.dtype == y.dtype
