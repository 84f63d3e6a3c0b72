# SPDX-License-Identifier: BSD-3-Clause
"""The filters that move an array."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.arithmetic import correct
from convcal.datasets import make_pair
from convcal.estimation import measure
from convcal.estimation.interpolation import axis_filter, filter_margins


def apply_filters(array, filters):
    """Apply filters to the trailing axis of an array without channels."""
    return correct(array, filters=filters, gain=[1], bias=[0], channel_axis=None)


@given(shift=st.integers(-50, 50))
def test_a_whole_shift_is_one_tap(shift):
    assert axis_filter(float(shift)) == (-shift, (1.0,))


@given(shift=st.floats(-20, 20).filter(lambda s: s != round(s)), pairs=st.integers(1, 6))
def test_taps_of_a_fraction_sum_to_exactly_one_and_stand_around_it(shift, pairs):
    offset, taps = axis_filter(shift, n_taps=2 * pairs)
    assert len(taps) == 2 * pairs
    assert math.fsum(taps) == pytest.approx(1, abs=2e-16)
    assert offset + pairs - 1 <= -shift <= offset + pairs


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-4, 4))
def test_a_shift_there_and_back_leaves_the_interior_as_it_was(shift):
    array = (
        make_pair((96,), content="smooth", n_samples=2, n_channels=1).reference[:, 0].astype(float)
    )
    there, back = axis_filter(shift), axis_filter(-shift)
    result = apply_filters(apply_filters(array, [there]), [back])
    # Twice what one filter leaves of smooth content, 65 dB.
    assert measure(array[..., 24:-24], result[..., 24:-24], data_range=1).snr_db > 55


@pytest.mark.parametrize("shift", [-2.0, 3.0, 0.4, -1.7])
def test_margins_are_the_positions_without_a_full_source(shift):
    array = np.arange(40.0)
    filters = [axis_filter(shift)]
    ((start, end),) = filter_margins(filters)
    offset, taps = filters[0]
    full = [i for i in range(40) if i + offset >= 0 and i + offset + len(taps) <= 40]
    assert (start, 40 - end) == (full[0], full[-1] + 1)
    # A ramp moves as a whole but for the ripple of the window, 2.1e-3 of a pixel.
    moved = apply_filters(array, filters)
    assert moved[start : 40 - end] == pytest.approx((array - shift)[start : 40 - end], abs=2.5e-3)


def test_the_border_is_replicated_and_the_input_kept():
    array = np.array([[1.0, 2, 3, 4]])
    array.setflags(write=False)
    assert apply_filters(array, [axis_filter(2.0)]).tolist() == [[1, 1, 1, 2]]
    assert apply_filters(array, [axis_filter(-1.0)]).tolist() == [[2, 3, 4, 4]]
