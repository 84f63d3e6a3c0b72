# SPDX-License-Identifier: BSD-3-Clause
"""Values that become other values."""

import math

import numpy as np
import pytest
from faults.outputs import output, to_half

from convcal.faults import Cliff, Flush, Fp16Round, LutBias, Saturate


@pytest.mark.parametrize(("to", "level"), [("clamp", 2.0), ("inf", np.inf), ("zero", 0.0)])
def test_values_beyond_the_limit_are_lost(to, level):
    y = np.array([[-3, -2, 0.5, 2, 3, -np.inf, np.nan]], np.float32)
    expected = np.array([[-level, -2, 0.5, 2, level, -level, np.nan]], np.float32)
    np.testing.assert_array_equal(Saturate(limit=2.0, to=to).apply(y), expected)
    expected[0, -1] = np.inf
    np.testing.assert_array_equal(Saturate(limit=2.0, to=to, nan="inf").apply(y), expected)


def test_the_documented_limits_are_the_largest_fp16_numbers_that_pass():
    assert float(np.nextafter(np.float16(32768), np.float16(0))) == 32752
    assert float(np.finfo(np.float16).max) == 65504 == 16 * 4094
    y = np.array([[32752.0, 32768.0]])
    np.testing.assert_array_equal(Saturate(limit=32752, to="inf").apply(y), [[32752, np.inf]])


def test_values_above_a_cliff_fall():
    y = np.array([[-20, 10.4, 10.5, np.inf, np.nan]])
    np.testing.assert_array_equal(Cliff().apply(y), [[-20, 10.4, 0, 0, np.nan]])
    np.testing.assert_array_equal(
        Cliff(threshold=-30, value=-math.inf).apply(y), [[-np.inf] * 4 + [np.nan]]
    )


def exact(function, x):
    return {
        "sigmoid": lambda: 1 / (1 + math.exp(-x)),
        "tanh": lambda: math.tanh(x),
        "gelu": lambda: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
        "swish": lambda: x / (1 + math.exp(-x)),
    }[function]()


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "gelu", "swish"])
def test_a_table_is_off_by_the_chord_minus_the_curve(function):
    # Halfway between the knots 0.5 and 1, and beyond the table.
    y = np.array([[0.75, 0.5, 9.0, -9.0, 8.0]])
    result = LutBias(function=function).apply(y)[0]
    chord = (exact(function, 0.5) + exact(function, 1.0)) / 2
    # fp16 is off by 2**-12 there; the form of gelu with tanh, by 5e-4 of curves, 1e-4 of chords.
    assert result[0] - 0.75 == pytest.approx(chord - exact(function, 0.75), abs=2**-12 + 3e-4)
    np.testing.assert_array_equal(result[1:], y[0, 1:])


def test_the_table_of_the_sigmoid_is_off_by_as_much_as_measured():
    y = np.linspace(-8, 8, 16001).reshape(1, 1, -1)
    error = LutBias().apply(y) - to_half(y)
    inside = np.abs(y) < 2  # where fp16 is finer than the error
    # Chords are off by h**2 / 8 times the curvature, 1 / (6 sqrt 3) at most: 0.0030 for h = 0.5.
    # Two fp16 roundings add at most 2**-10 below 2.
    assert np.abs(error[inside]).max() == pytest.approx(0.25 / 8 / (6 * math.sqrt(3)), abs=2**-10)


def test_subnormal_fp16_numbers_are_flushed():
    tiny = 2.0**-14
    y = np.array([[tiny, -tiny, tiny / 2, -tiny / 2, 1.0, np.nan]])
    np.testing.assert_array_equal(Flush().apply(y), [[tiny, -tiny, 0, 0, 1, np.nan]])
    least = np.array([[np.iinfo(np.int8).min, 1, 3]], np.int8)
    np.testing.assert_array_equal(Flush(threshold=2).apply(least), [[-128, 0, 3]])


def test_rounding_is_that_of_fp16():
    y = output(2, 3, 40)
    y[0, 0, 0] = 1e6
    result = Fp16Round().apply(y)
    np.testing.assert_array_equal(result, to_half(y).astype(np.float32))
    assert np.isinf(result[0, 0, 0])
    np.testing.assert_array_equal(Fp16Round().apply(result), result)
