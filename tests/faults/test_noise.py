# SPDX-License-Identifier: BSD-3-Clause
"""Noise and garbage have their strength and no structure."""

import numpy as np
from faults.outputs import output

from convcal.faults import Garbage, Noise, PrefixOnly


def test_noise_has_its_strength_and_differs_between_samples():
    y = output(1, 2, 100, 100) + np.float32(3)
    first, second = Noise(relative=0.01).apply(y), Noise(relative=0.01).apply(y + np.float32(1))
    errors = (first / y - 1).ravel(), (second / (y + 1) - 1).ravel()
    # 20000 draws: the standard deviation is known to 0.5 %; fp16 rounding adds 2 % of 0.01 at most.
    assert abs(np.std(errors[0]) / 0.01 - 1) < 0.03
    assert abs(np.corrcoef(errors)[0, 1]) < 5 / np.sqrt(errors[0].size)


def test_garbage_is_as_large_as_the_output_varies():
    y = 3 * output(1, 2, 100, 100) + np.float32(50)
    y[0, 0, 0, 0] = np.nan
    error = (Garbage(strength=0.5).apply(y) - y).ravel()[1:]
    # 20000 draws: the standard deviation is known to 0.5 %, the mean to 1 / 141 of it.
    assert abs(np.std(error) / 1.5 - 1) < 0.03
    assert abs(np.mean(error)) < 5 * 1.5 / 141


def test_only_a_prefix_is_exact():
    y = output(1, 3, 1920)
    last = PrefixOnly().apply(y)
    np.testing.assert_array_equal(last[..., :4], y[..., :4])
    assert np.mean(last[..., 4:] == y[..., 4:]) < 0.01
    # The error is as large as the output: the cosine of the rest is 1 / sqrt 2.
    cosine = np.corrcoef(last[..., 4:].ravel(), y[..., 4:].ravel())[0, 1]
    assert abs(cosine - np.sqrt(0.5)) < 5 / np.sqrt(y.size)
    flat = PrefixOnly(length=2000, along="flat").apply(y).ravel()
    np.testing.assert_array_equal(flat[:2000], y.ravel()[:2000])
    assert np.mean(flat[2000:] == y.ravel()[2000:]) < 0.01
    np.testing.assert_array_equal(PrefixOnly(length=2000).apply(y), y)
