# SPDX-License-Identifier: BSD-3-Clause
"""Estimates from the statistics of more samples than are kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.estimation import OutputStatistics, estimate, estimate_statistics
from convcal.estimation.overlap import overlap_slices

SHAPE = (32, 32)
BUDGET = 8 * 3 * 32 * 32
"""Of eight samples."""


def collect(reference, observed, **options):
    statistics = OutputStatistics(budget=BUDGET, **options)
    for start in range(0, len(reference), 7):
        statistics.update(reference[start : start + 7], observed[start : start + 7])
    return statistics


def least_squares(pair, shift, channel):
    cut_reference, cut_observed = overlap_slices(shift, SHAPE)
    ref = pair.reference[cut_reference][:, channel].astype(float).ravel()
    obs = pair.observed[cut_observed][:, channel].astype(float).ravel()
    design = np.stack([obs, np.ones(obs.size)], axis=1)
    return np.linalg.lstsq(design, ref, rcond=None)[0]


@pytest.mark.parametrize("n_samples", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"robust": True, "holdout": 0.5, "data_range": 3.0}])
def test_where_all_samples_are_kept_it_is_the_estimate_itself(n_samples, options):
    pair = make_pair(SHAPE, shift=(-2, 1), gain=(1.1, -0.9, 3.3), n_samples=n_samples, seed=1)
    statistics = collect(pair.reference, pair.observed)
    expected = estimate(*statistics.subsample(), **options)
    found = estimate_statistics(statistics, **options)
    assert dataclasses.asdict(found) == dataclasses.asdict(expected)


@pytest.mark.parametrize("shift", [(0, 0), (-2, 1)])
def test_gain_and_bias_are_the_least_squares_over_all_samples(shift):
    pair = make_pair(
        SHAPE, shift=shift, gain=(1.1, -0.9, 1.0), bias=(0.2, 5.0, 0.0), n_samples=60, seed=2
    )
    result = estimate_statistics(collect(pair.reference, pair.observed))
    assert result.verdict == "correctable"
    assert result.shift == shift
    for channel in (0, 1):
        gain, bias = least_squares(pair, shift, channel)
        assert result.gain[channel] == pytest.approx(gain, rel=1e-12)
        assert result.bias[channel] == pytest.approx(bias, abs=1e-12)
    # What the selection leaves alone stays exactly so.
    assert (result.gain[2], result.bias[2]) == (1.0, 0.0)
    pooled = result.evidence["pooled"]
    assert (pooled["n_samples"], pooled["n_subsample"]) == (60, 8)
    assert pooled["is_replaced"] == [True, True, False]
    assert pooled["is_consistent"]
    assert pooled["whole_shift_all_data"] == pooled["whole_shift"] == list(shift)
    assert pooled["gain_error"][2] is None
    # One rounding to fp16 of values of order 1 is 1e-4 to 4e-4, times the gain of 1.1.
    assert 1e-4 < pooled["residual_all_data"][0] < 5e-4


def test_an_offset_alone_keeps_the_gain_at_one():
    pair = make_pair(SHAPE, bias=0.5, n_samples=30, seed=3)
    result = estimate_statistics(collect(pair.reference, pair.observed))
    assert result.gain == (1.0, 1.0, 1.0)
    error = pair.reference - pair.observed.astype(float)
    assert result.bias == pytest.approx(error.mean(axis=(0, 2, 3)), abs=1e-12)


def test_all_samples_tell_a_gain_better_than_those_kept():
    pair = make_pair(SHAPE, gain=1.5, n_samples=200, snr_db=10, seed=4)
    statistics = collect(pair.reference, pair.observed)
    result, kept = estimate_statistics(statistics), estimate(*statistics.subsample())
    exact = [least_squares(pair, (0, 0), channel)[0] for channel in range(3)]
    assert result.gain == pytest.approx(exact, rel=1e-12)
    assert np.abs(np.subtract(kept.gain, exact)).max() > 1e-4


def test_a_fraction_of_a_pixel_keeps_what_was_fitted_with_its_taps():
    pair = make_pair(SHAPE, shift=(0.4, 1.0), gain=1.2, n_samples=30, seed=5)
    statistics = collect(pair.reference, pair.observed)
    result, kept = estimate_statistics(statistics), estimate(*statistics.subsample())
    assert (result.filters, result.gain, result.bias) == (kept.filters, kept.gain, kept.bias)
    assert result.evidence["pooled"]["residual_all_data"] is None
    assert result.evidence["pooled"]["is_replaced"] == [False] * 3


def test_a_scale_keeps_the_gain_that_was_fitted_behind_it():
    # About the centre, so that the best whole-pixel shift is none: moments know of no scale.
    sizes, budget = (96, 128), 8 * 96 * 128
    pair = make_pair(
        sizes,
        scale=[1 + 3 / (n - 1) for n in sizes],
        origin=[(n - 1) / 2 for n in sizes],
        content="edges",
        n_samples=24,
        n_channels=1,
        gain=1.5,
        seed=1,
    )
    statistics = OutputStatistics(budget=budget).update(pair.reference, pair.observed)
    result = estimate_statistics(statistics)
    assert result.model == "scale-affine"
    assert result.gain == pytest.approx([1.5], rel=0.01)
    assert result.evidence["pooled"]["residual_all_data"] is None
    assert result.evidence["pooled"]["is_replaced"] == [False]


def test_a_robust_fit_is_not_replaced_by_one_that_is_not():
    pair = make_pair(SHAPE, gain=1.5, n_samples=30, seed=6)
    statistics = collect(pair.reference, pair.observed)
    result = estimate_statistics(statistics, robust=True)
    assert result.gain == estimate(*statistics.subsample(), robust=True).gain
    assert result.evidence["pooled"]["is_replaced"] == [False] * 3


def joined(statistics, reference, observed):
    """Add those samples that do not enter the subsample."""
    kept = statistics.subsample()[0]
    for n in range(len(reference)):
        trial = OutputStatistics.from_arrays(statistics.to_arrays())
        trial.update(reference[n : n + 1], observed[n : n + 1])
        if np.array_equal(trial.subsample()[0], kept):
            statistics = trial
    return statistics


def test_where_the_rest_has_another_shift_nothing_is_replaced():
    pair = make_pair(SHAPE, shift=(2, 0), gain=1.5, n_samples=60, content="white", seed=7)
    far = make_pair(SHAPE, shift=(0, -3), gain=1.5, n_samples=60, content="white", seed=8)
    kept = collect(*collect(pair.reference, pair.observed).subsample())
    both = joined(kept, far.reference, far.observed)
    assert both.n_samples > 30
    result = estimate_statistics(both)
    pooled = result.evidence["pooled"]
    assert pooled["whole_shift"] == [2, 0]
    assert pooled["whole_shift_all_data"] == [0, -3]
    assert not pooled["is_consistent"]
    assert pooled["is_replaced"] == [False] * 3
    assert result.gain == estimate(*kept.subsample()).gain


def test_where_the_rest_has_garbage_the_line_of_the_kept_stays():
    pair = make_pair(SHAPE, gain=1.5, n_samples=60, seed=9)
    rng = np.random.default_rng(0)
    garbage = pair.observed[:6].copy()
    garbage[:, 1] += 30 * rng.normal(size=garbage[:, 1].shape)
    clean = collect(pair.reference, pair.observed)
    statistics = joined(clean, pair.reference[:6], garbage)
    assert statistics.n_samples > 62
    result = estimate_statistics(statistics)
    assert result.evidence["pooled"]["is_replaced"] == [True, False, True]
    assert result.gain == pytest.approx([1.5] * 3, rel=1e-3)


def test_saturated_channels_keep_what_was_fitted_without_the_limit():
    pair = make_pair(SHAPE, gain=1.25, n_samples=60, content="white", seed=10)
    observed = np.minimum(pair.observed, np.float16(1.0))
    result = estimate_statistics(collect(pair.reference, observed))
    assert result.evidence["pooled"]["is_replaced"] == [False] * 3
    assert result.gain == pytest.approx([1.25] * 3, rel=1e-3)


def test_samples_that_are_not_finite_spoil_nothing():
    pair = make_pair(SHAPE, gain=1.5, n_samples=60, seed=11)
    broken = pair.observed[:4].copy()
    broken[:, 0, 3, 4] = np.nan
    statistics = joined(collect(pair.reference, pair.observed), pair.reference[:4], broken)
    assert statistics.n_samples > 60
    result = estimate_statistics(statistics)
    assert result.evidence["pooled"]["n_left_out"] == [statistics.n_samples - 60, 0, 0]
    assert result.gain == pytest.approx([1.5] * 3, rel=1e-5)


def test_vectors_have_no_shift_and_are_pooled_all_the_same():
    rng = np.random.default_rng(12)
    observed = rng.normal(size=(500, 4)).astype(np.float32)
    reference = 1.5 * observed + np.float32(0.25)
    statistics = OutputStatistics(budget=400)
    statistics.update(reference, observed)
    result = estimate_statistics(statistics)
    assert result.model == "affine"
    assert result.evidence["pooled"]["is_replaced"] == [True] * 4
    for channel in range(4):
        design = np.stack([observed[:, channel].astype(float), np.ones(500)], axis=1)
        gain, bias = np.linalg.lstsq(design, reference[:, channel].astype(float), rcond=None)[0]
        assert result.gain[channel] == pytest.approx(gain, rel=1e-12)
        assert result.bias[channel] == pytest.approx(bias, abs=1e-12)


def test_the_peak_of_the_psnr_is_the_range_over_all_samples():
    pair = make_pair(SHAPE, gain=1.5, n_samples=60, seed=13)
    result = estimate_statistics(collect(pair.reference, pair.observed))
    assert result.metrics_after.data_range == np.ptp(pair.reference.astype(float))
    asked = estimate_statistics(collect(pair.reference, pair.observed), data_range=2.0)
    assert asked.metrics_after.data_range == 2.0


def test_equal_pairs_stay_the_identity_with_any_number_of_samples():
    pair = make_pair(SHAPE, n_samples=60, seed=14)
    result = estimate_statistics(collect(pair.reference, pair.observed))
    assert result.verdict == "identical"
    assert (result.gain, result.bias) == ((1.0,) * 3, (0.0,) * 3)


def test_without_samples_it_says_so():
    with pytest.raises(InputError, match="no sample yet"):
        estimate_statistics(OutputStatistics())
