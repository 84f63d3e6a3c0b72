# SPDX-License-Identifier: BSD-3-Clause
"""Several faults at once are the same faults one after the other."""

import numpy as np
import pytest
from faults.outputs import output

from convcal.errors import InputError
from convcal.faults import ChannelAffine, Compose, CropOrigin, Flush, Fp16Round, IntShift, Overlong

SHIFT, GAIN, ROUND = IntShift(displacement=(2, -1)), ChannelAffine(gain=1.5, seed=2), Fp16Round()


def test_a_composition_is_its_parts_in_their_order():
    y = output(5, 7, 3)
    axes = {"channel_axis": 2, "batch_axis": None}
    expected = y
    for fault in (SHIFT, Overlong(tail=2), GAIN, ROUND):
        expected = fault.apply(expected, **axes)
    result = Compose([SHIFT, Overlong(tail=2), GAIN, ROUND]).apply(y, **axes)
    np.testing.assert_array_equal(result, expected)
    assert result.shape == (7, 9, 3)


def test_a_composition_of_compositions_is_flat():
    nested = Compose([SHIFT, Compose((GAIN, ROUND))])
    assert nested == Compose(iter((SHIFT, GAIN, ROUND)))
    assert hash(nested) == hash(Compose([SHIFT, GAIN, ROUND]))


@pytest.mark.parametrize("faults", [[], [Flush()]])
def test_a_composition_of_less_than_two_is_refused(faults):
    with pytest.raises(InputError, match=f"composition of {len(faults)} faults; at least two"):
        Compose(faults)


def test_faults_inside_the_network_are_given_beside():
    with pytest.raises(InputError, match=r"'crop-origin.*not a fault of arrays.*another --emulate"):
        Compose([CropOrigin(), SHIFT])
