# SPDX-License-Identifier: BSD-3-Clause
"""Gains and biases of channels, of the border, and of one element."""

import numpy as np
import pytest
from faults.outputs import output, to_half

from convcal.errors import InputError
from convcal.faults import ChannelAffine, ChannelDead, EdgeGain, LastElem, parse_fault


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


def test_the_stated_gain_and_bias_undo_it():
    y = output(2, 3, 50)
    fault = ChannelAffine(gain=3.32, bias=0.5, seed=1)
    gain, bias = (each.reshape(3, 1) for each in fault.coefficients(3))
    # fp16 of the observed value, divided by its gain; 2**-11 of at most the largest value.
    error = fault.apply(y) / gain - bias / gain - y
    assert np.abs(error).max() <= 2**-11 * np.abs(gain * y + bias).max() / gain.min()


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


def test_dead_channels_are_constant_and_the_others_right():
    y = output(2, 4, 5)
    result = ChannelDead(channels=(0, 3), value=0.25).apply(y)
    assert np.all(result[:, [0, 3]] == 0.25)
    np.testing.assert_array_equal(result[:, 1:3], y[:, 1:3])
    assert np.all(ChannelDead().apply(y[:, 0], channel_axis=None) == 0)
    with pytest.raises(InputError, match="for channel 4, the output has 4, counted from 0"):
        ChannelDead(channels=(1, 4)).apply(y)


def test_edges_and_corners_are_weakened_and_the_interior_is_right():
    y = np.full((1, 1, 5, 6), 4.0)
    result = EdgeGain(width=(1, 2), gain=0.5).apply(y)
    rows, columns = np.array([1, 0, 0, 0, 1]), np.array([1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(result[0, 0], 4 * 0.5 ** np.add.outer(rows, columns))
    # The last window of a pooling with ceil_mode (coremltools #2844): gain 1/2, corner 1/4.
    ceil = EdgeGain(side="end").apply(np.full((1, 1, 3, 3), 4.0))
    np.testing.assert_array_equal(ceil[0, 0], [[4, 4, 2], [4, 4, 2], [2, 2, 1]])
    noisy = output(1, 1, 5, 5)
    start = EdgeGain(gain=0, side="start").apply(noisy)
    np.testing.assert_array_equal(start[..., 1:, 1:], noisy[..., 1:, 1:])
    assert not start[..., 0].any()
    assert not EdgeGain(width=99, gain=0).apply(noisy).any()


def test_only_the_last_element_of_every_plane_is_wrong():
    y = output(2, 3, 4, 5)
    result = LastElem(error=0.5).apply(y)
    np.testing.assert_array_equal(result[..., -1, -1], to_half(y[..., -1, -1] + 0.5))
    result[..., -1, -1] = y[..., -1, -1]
    np.testing.assert_array_equal(result, y)
