# SPDX-License-Identifier: BSD-3-Clause
"""What a candidate correction does to values, it does to what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from convcal.estimation.candidates import Candidate

ONE, ZERO = np.ones(1), np.zeros(1)
STILL = (0, (1.0,))


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("shift", (2.0, -3.0), ((-2, (1.0,)), (3, (1.0,))), ONE, ZERO),
        Candidate(
            "scale",
            (0.0, 1.0),
            (STILL, STILL),
            ONE,
            ZERO,
            # About half a pixel of growth a column; taps fall on whole positions at the ends.
            resampling=(None, (0.5, 10.0, 1.0, 2, 0.0)),
        ),
        Candidate("row-stride", (0.0, 0.0), (STILL, STILL), ONE, ZERO, rows=(24, 32)),
        Candidate("row-stride", (0.0, -3.0), (STILL, (3, (1.0,))), ONE, ZERO, rows=(24, 32)),
    ],
    ids=lambda candidate: f"{candidate.model}{candidate.shift}",
)
def test_a_mask_follows_the_values(candidate):
    generator = np.random.default_rng(0)
    mask = generator.random((3, 1, 20, 24)) < 0.3
    moved = candidate.moved(mask, mask.shape)
    carried = candidate.apply(mask.astype(np.float64))
    # Where a value comes from one position alone, that position is the one.
    if candidate.resampling is not None:
        whole = np.arange(24) % 2 == 0
        moved, carried = moved[..., whole], carried[..., whole]
    np.testing.assert_array_equal(moved, carried > 0.5)
    assert 0 < moved.mean() < 1


def test_a_mask_of_a_single_sample_holds_for_all():
    candidate = Candidate("shift", (1.0,), ((-1, (1.0,)),), ONE, ZERO)
    mask = np.array([[[True, False, False, False]]])
    moved = candidate.moved(mask, (2, 1, 4))
    np.testing.assert_array_equal(moved, [[[True, True, False, False]]] * 2)
