# SPDX-License-Identifier: BSD-3-Clause
"""What ``import convcal`` gives."""

import numpy as np
import pytest
from fake_runner import FakeRunner

import convcal


def test_every_public_name_is_there_and_listed():
    assert sorted(convcal.__all__) == convcal.__all__
    for name in convcal.__all__:
        assert getattr(convcal, name).__name__ == name
    assert set(convcal.__all__) <= set(dir(convcal))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = convcal.nonsense


def test_the_public_names_are_enough_to_fit_and_to_check():
    shape = (1, 32, 32)
    scenes = [
        {"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}
        for seed in range(6)
    ]
    reference = FakeRunner(lambda x: x, shape=shape)
    observed = FakeRunner(lambda x: np.roll(x, 2, axis=1), shape=shape)
    axes = {"y": convcal.Layout(0, None)}
    options = convcal.FitOptions(max_shift=4)
    calibration = convcal.fit(reference, observed, scenes[:4], options=options, axes=axes)
    pairs = convcal.record_pairs(reference, observed, scenes[4:], axes=axes)
    thresholds = convcal.Thresholds(min_snr_db=60)
    assert not convcal.check(pairs, thresholds=thresholds)
    assert convcal.check(pairs, thresholds=thresholds, calibration=calibration)
