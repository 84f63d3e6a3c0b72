# SPDX-License-Identifier: BSD-3-Clause
"""What draws fractions to whole pixels, told by nested bands."""

from __future__ import annotations

import numpy as np
import pytest

from convcal.estimation.attraction import find_attraction

CUTOFFS = np.array([0.88, 0.73, 0.58, 0.38, 0.18])
VARIANCES = np.array([0.002, 0.003, 0.005, 0.012, 0.05]) ** 2


def nested(rng, shift, strength, power):
    """Give what nested bands say of a shift: each adds a ring to the next lower one."""
    told = 1 / VARIANCES - np.append(1 / VARIANCES[1:], 0)
    drawn = strength * np.sin(2 * np.pi * shift)[:, None] * CUTOFFS**power
    drawn *= 1 + 0.4 * rng.normal(size=drawn.shape)  # only the first order is known
    rings = shift[:, None] - drawn + rng.normal(size=drawn.shape) / np.sqrt(told)
    sums = np.cumsum((told * rings)[:, ::-1], axis=1)[:, ::-1]
    shape = (len(shift), 1)
    return (sums * VARIANCES).T, np.tile(VARIANCES, shape).T, np.tile(CUTOFFS, shape).T


@pytest.mark.parametrize("power", [3, 5])
def test_what_is_drawn_is_taken_off(power):
    rng = np.random.default_rng(0)
    plain, mended, claimed = [], [], []
    for _ in range(200):
        shift = rng.uniform(-0.45, 0.45, 2)
        bands = nested(rng, shift, 0.15, power)
        found = find_attraction(*bands)
        plain.append(bands[0][0] - shift)
        mended.append(found.shift - shift)
        claimed.append(found.variance)
    assert np.sqrt(np.mean(np.square(mended))) < np.sqrt(np.mean(np.square(plain))) / 3
    assert np.mean(np.abs(mended) < 1.96 * np.sqrt(claimed)) > 0.8


def test_bands_that_agree_keep_the_efficient_estimate():
    rng = np.random.default_rng(1)
    kept, error = 0, []
    for _ in range(300):
        shift = rng.uniform(-0.5, 0.5, 2)
        bands = nested(rng, shift, 0.0, 3)
        found = find_attraction(*bands)
        error.append(found.shift - shift)
        if found.strength == 0:
            kept += 1
            assert found.explains
            # But for the margin of the model, which a band half as exact hardly notices.
            assert found.shift == pytest.approx(bands[0][0], abs=0.002)
    assert kept > 270
    assert np.sqrt(np.mean(np.square(error))) < 1.15 * np.sqrt(VARIANCES[0])


def test_bands_that_differ_otherwise_are_not_explained():
    # At a whole pixel nothing is drawn, and whatever moves the low band away is something else.
    bands = nested(np.random.default_rng(2), np.zeros(1), 0.0, 3)
    bands[0][3:] += 0.4
    assert not find_attraction(*bands).explains
