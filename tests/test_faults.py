# SPDX-License-Identifier: BSD-3-Clause
"""Faults of arrays: what they do, and the texts they are named by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.errors import InputError
from convcal.faults import FAULTS, ArrayFault, ChannelAffine, IntShift, Noise, Saturate, parse_fault

ARRAY_FAULTS = sorted(name for name, fault in FAULTS.items() if issubclass(fault, ArrayFault))


def output(*shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def to_half(values):
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16)


floats = st.floats(-1e6, 1e6)
FAULT_TEXTS = st.one_of(
    st.builds(
        "crop-origin:variant={},precision={}".format,
        st.sampled_from(["zero", "half"]),
        st.sampled_from(["fp16", "all"]),
    ),
    st.builds("channel-affine:gain={!r},bias={!r}".format, floats, floats),
    st.builds("channel-affine:seed={}".format, st.integers(0, 2**31)),
    st.builds(
        lambda amounts: f"int-shift:displacement={'/'.join(map(str, amounts))}",
        st.lists(st.integers(-9, 9), min_size=1, max_size=3),
    ),
    st.builds(
        lambda amounts: f"scale-corner:d={'/'.join(map(repr, amounts))}",
        st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=3),
    ),
    st.builds("saturate:limit={!r},to=inf".format, st.floats(1e-3, 1e6)),
    st.builds("noise:relative={!r},seed=4".format, st.floats(0, 1)),
    st.sampled_from(sorted(FAULTS)),
)


@settings(max_examples=150, deadline=None)
@given(text=FAULT_TEXTS)
def test_a_fault_is_read_back_from_its_own_text(text):
    fault = parse_fault(text)
    assert parse_fault(str(fault)) == fault
    assert str(fault).partition(":")[0] == fault.name == text.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop", "no fault 'crop'; the faults are channel-affine, crop-origin, int-shift"),
        ("", "no fault ''"),
        ("crop-origin:variant=third", "variant=third; it must be zero or half"),
        ("crop-origin:origin=1", "no parameter 'origin'; its parameters: variant, precision"),
        ("row-stride:bytes=64", "no parameter 'bytes'; its parameters: none"),
        ("channel-affine:gain", "must give 'gain' once, as gain=VALUE"),
        ("channel-affine:gain=1,gain=2", "must give 'gain' once"),
        ("channel-affine:gain=big", "gain='big'; it must be a number"),
        ("channel-affine:gain=nan", "gain=nan; it must be a finite number"),
        ("channel-affine:seed=-1", "seed=-1; it must be at least 0"),
        ("int-shift:displacement=1.5", "must be whole numbers separated by slashes"),
        ("scale-corner:d=2", "between -0.5 and 0.5"),
        ("saturate:limit=0", "greater than 0"),
        ("noise:relative=-1", "at least 0"),
    ],
)
def test_a_text_that_is_no_fault_says_what_is_accepted(text, message):
    with pytest.raises(InputError, match=message):
        parse_fault(text)


@pytest.mark.parametrize("name", ARRAY_FAULTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_shape_and_dtype_are_kept_and_the_input_is_not_touched(name, dtype):
    y = (output(2, 3, 5, 7) * 40 + 100).astype(dtype)
    kept = y.copy()
    fault = parse_fault(name)
    result = fault.apply(y)
    assert (result.shape, result.dtype) == (y.shape, y.dtype)
    np.testing.assert_array_equal(y, kept)
    assert not np.shares_memory(result, y)
    np.testing.assert_array_equal(result, fault.apply(y))


def test_one_gain_and_bias_hold_for_every_channel_without_a_seed():
    y = output(2, 3, 8)
    result = parse_fault("channel-affine:gain=1.02,bias=0.01").apply(y)
    # float64 arithmetic and one rounding to fp16, in an fp32 array.
    expected = to_half(y.astype(np.float64) * 1.02 + 0.01).astype(np.float32)
    np.testing.assert_array_equal(result, expected)


def test_a_seed_draws_gains_and_biases_about_the_centres():
    fault = ChannelAffine(gain=1.02, bias=0.01, seed=3)
    gain, bias = fault.coefficients(1000)
    assert np.all((gain >= 1.01) & (gain <= 1.03))
    assert np.all((bias >= 0.005) & (bias <= 0.015))
    # The mean of 1000 uniform draws of width w is off by less than 5 w / sqrt(12000).
    assert abs(gain.mean() - 1.02) < 5 * 0.02 / np.sqrt(12000)
    assert abs(bias.mean() - 0.01) < 5 * 0.01 / np.sqrt(12000)
    np.testing.assert_array_equal(fault.coefficients(4)[0], gain[:4])
    assert not np.array_equal(ChannelAffine(gain=1.02, seed=4).coefficients(4)[0], gain[:4])


def test_channels_are_where_the_caller_says():
    y = output(5, 7, 3)
    fault = ChannelAffine(gain=1.5, bias=0.5, seed=1)
    gain, bias = fault.coefficients(3)
    result = fault.apply(y, channel_axis=-1, batch_axis=None)
    expected = to_half(y.astype(np.float64) * gain + bias).astype(np.float32)
    np.testing.assert_array_equal(result, expected)
    grey = fault.apply(y[..., 0], channel_axis=None, batch_axis=None)
    gain, bias = fault.coefficients(1)
    expected = to_half(y[..., 0].astype(np.float64) * gain + bias).astype(np.float32)
    np.testing.assert_array_equal(grey, expected)


def test_content_is_displaced_per_axis_with_signs():
    y = output(1, 2, 5, 6)
    moved = IntShift(displacement=(2, -1), fill="zero").apply(y)
    np.testing.assert_array_equal(moved[:, :, 2:, :-1], y[:, :, :-2, 1:])
    assert not moved[:, :, :2].any()
    assert not moved[:, :, :, -1].any()
    edge = IntShift(displacement=(2, -1)).apply(y)
    np.testing.assert_array_equal(edge[:, :, 0, :-1], y[:, :, 0, 1:])
    np.testing.assert_array_equal(edge[:, :, 2:, -1], y[:, :, :-2, -1])
    wrapped = IntShift(displacement=(2, -1), fill="wrap").apply(y)
    np.testing.assert_array_equal(wrapped, np.roll(y, (2, -1), axis=(2, 3)))


def test_zero_fill_leaves_no_nan_behind():
    y = np.full((1, 1, 3), np.nan, np.float32)
    np.testing.assert_array_equal(
        IntShift(displacement=(5,), fill="zero").apply(y), np.zeros((1, 1, 3))
    )


def test_a_displacement_for_another_number_of_axes_is_refused():
    with pytest.raises(InputError, match="for 2 spatial axes, the output has 1"):
        IntShift(displacement=(1, 1)).apply(output(1, 1, 5))


def test_displacement_grows_from_the_corner():
    ramp = np.arange(64, dtype=np.float32).reshape(1, 1, 64)
    result = parse_fault("scale-corner:d=-0.25").apply(ramp)
    # On a ramp, linear interpolation is exact: y((1 + d) u) = 0.75 u, a dyadic number.
    np.testing.assert_array_equal(result, 0.75 * ramp)
    grown = parse_fault("scale-corner:d=0.25").apply(ramp)
    np.testing.assert_array_equal(grown, np.minimum(1.25 * ramp, 63))


def test_rows_are_sheared_by_the_padding_of_the_buffer():
    # 13 fp16 numbers are 26 bytes in rows of 64, which hold 32 (coremltools #1893).
    y = np.arange(1, 1 + 5 * 13, dtype=np.float16).reshape(1, 5, 13)
    result = parse_fault("row-stride").apply(y)
    np.testing.assert_array_equal(result[0, 0], y[0, 0])
    flat = np.concatenate([y[0, 0], np.zeros(19), y[0, 1], np.zeros(19), y[0, 2]])
    np.testing.assert_array_equal(result.ravel()[: flat.size], flat[: y.size])
    full_rows = output(2, 3, 4, 16)
    np.testing.assert_array_equal(parse_fault("row-stride").apply(full_rows), full_rows)


@pytest.mark.parametrize(("to", "level"), [("clamp", 2.0), ("inf", np.inf), ("zero", 0.0)])
def test_values_beyond_the_limit_are_lost(to, level):
    y = np.array([[-3, -2, 0.5, 2, 3, -np.inf]], np.float32)
    expected = np.array([[-level, -2, 0.5, 2, level, -level]], np.float32)
    np.testing.assert_array_equal(Saturate(limit=2.0, to=to).apply(y), expected)


def test_noise_has_its_strength_and_differs_between_samples():
    y = output(1, 2, 100, 100) + np.float32(3)
    first, second = Noise(relative=0.01).apply(y), Noise(relative=0.01).apply(y + np.float32(1))
    errors = (first / y - 1).ravel(), (second / (y + 1) - 1).ravel()
    # 20000 draws: the standard deviation is known to 0.5 %; fp16 rounding adds 2 % of 0.01 at most.
    assert abs(np.std(errors[0]) / 0.01 - 1) < 0.03
    assert abs(np.corrcoef(errors)[0, 1]) < 5 / np.sqrt(errors[0].size)


def test_bytes_are_rounded_and_clamped():
    y = np.array([[0, 100, 200, 255]], np.uint8)
    result = ChannelAffine(gain=1.25, bias=-10).apply(y)
    np.testing.assert_array_equal(result, [[0, 115, 240, 255]])


def test_overflow_goes_to_infinity():
    y = np.array([[60000.0, -60000.0]], np.float32)
    np.testing.assert_array_equal(ChannelAffine(gain=2.0).apply(y), [[np.inf, -np.inf]])


@pytest.mark.parametrize("array", [np.zeros((2, 2), bool), np.array([["a"]])])
def test_what_is_not_a_number_is_refused(array):
    with pytest.raises(InputError, match="needs numbers"):
        ChannelAffine().apply(array)


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"shape \(5,\) has no channel axis 1"):
        ChannelAffine().apply(output(5))
