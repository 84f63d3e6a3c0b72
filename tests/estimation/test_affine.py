# SPDX-License-Identifier: BSD-3-Clause
"""Gain and bias per channel."""

from __future__ import annotations

import numpy as np
import pytest

from convcal.estimation.affine import fit_affine
from convcal.estimation.validity import find_valid


def pair(*, gain=1.7, bias=-0.4, offset=0.0, n=4000, seed=0):
    rng = np.random.default_rng(seed)
    observed = offset + rng.normal(size=(4, 2, n // 4))
    return gain * observed + bias, observed


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("robust", [False, True])
def test_a_clean_line_is_found_to_round_off(offset, robust):
    reference, observed = pair(offset=offset)
    fit = fit_affine(reference, observed, robust=robust)
    # Values near 1e4 carry 1e-12 of round-off, against a spread of 1.
    assert fit.gain == pytest.approx([1.7] * 2, abs=1e-12)
    assert fit.bias == pytest.approx([-0.4] * 2, abs=1e-12 * max(1, offset))


def test_standard_errors_are_those_of_repeated_draws():
    fits = []
    for seed in range(300):
        reference, observed = pair(n=400, seed=seed)
        reference += 0.1 * np.random.default_rng(1000 + seed).normal(size=reference.shape)
        fits.append(fit_affine(reference, observed))
    gains = np.array([f.gain[0] for f in fits])
    biases = np.array([f.bias[0] for f in fits])
    # 300 draws give a standard deviation within 12 % (three sigmas of 1 / sqrt(600)).
    assert np.mean([f.gain_error[0] for f in fits]) == pytest.approx(gains.std(), rel=0.12)
    assert np.mean([f.bias_error[0] for f in fits]) == pytest.approx(biases.std(), rel=0.12)


def test_noise_in_the_observed_values_lies_between_the_two_regressions():
    reference, observed = pair(gain=1.0, bias=0.0)
    noisy = observed + 0.5 * np.random.default_rng(1).normal(size=observed.shape)
    fit = fit_affine(reference, noisy)
    # 1 / (1 + 0.25) = 0.8 for the one, 1 for the other; 4000 values leave 1 %.
    assert fit.gain == pytest.approx([0.8] * 2, abs=0.04)
    assert fit.inverse_gain == pytest.approx([1.0] * 2, abs=0.06)


def test_missing_values_are_not_used():
    reference, observed = pair()
    reference[0, 0, 0], observed[1, 0, 3] = np.nan, np.inf
    fit = fit_affine(reference, observed)
    assert fit.gain == pytest.approx([1.7] * 2, abs=1e-12)
    assert fit.n_values.tolist() == [3998, 4000]


@pytest.mark.parametrize("value", [0.0, 5.0, 1e30])
def test_a_constant_channel_keeps_gain_one_and_is_flagged(value):
    reference, observed = pair()
    observed[:, 1] = value
    fit = fit_affine(reference, observed)
    assert fit.is_constant.tolist() == [False, True]
    assert (fit.gain[1], fit.bias[1]) == (1, 0)


def test_a_channel_of_rounding_noise_counts_as_constant():
    reference, observed = pair()
    reference[:, 1] = 3 + 1e-4 * reference[:, 1]
    assert fit_affine(reference, observed, least_signal=1e-3).is_constant.tolist() == [False, True]


@pytest.mark.parametrize("garbage", ["one-sided", "two-sided", "constant"])
def test_a_robust_fit_withstands_a_fifth_of_garbage(garbage):
    reference, observed = pair(n=20000)
    reference += 3e-4 * np.random.default_rng(2).normal(size=reference.shape)
    rng = np.random.default_rng(1)
    hit = rng.random(observed.shape) < 0.2
    n_hit = int(hit.sum())
    observed[hit] = {
        "one-sided": 20 * rng.random(n_hit),
        "two-sided": 30 * rng.normal(size=n_hit),
        "constant": np.full(n_hit, 8.0),
    }[garbage]
    assert abs(fit_affine(reference, observed).gain[0] - 1.7) > 0.1
    # Issue 3's bound.
    assert fit_affine(reference, observed, robust=True).gain == pytest.approx([1.7] * 2, abs=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_saturated_values_are_found_and_spoil_no_gain(share):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(6, 1, 2000))
    limit = float(np.quantile(reference, 1 - share))
    observed = np.minimum(reference, limit) / 1.25
    valid = find_valid(reference, observed)
    # Two fp16 steps about the limit hold a few values more.
    assert valid.saturated[0] == pytest.approx(share * 12000, abs=8)
    assert valid.saturation_limits[0] == pytest.approx([limit / 1.25])
    # Cutting at a limit of the observed values leaves the line as it is.
    assert fit_affine(reference, observed, valid=valid.observed).gain[0] == pytest.approx(1.25)


def test_zeros_behind_a_relu_and_the_ends_of_a_picture_are_not_saturation():
    rng = np.random.default_rng(0)
    relu = np.maximum(rng.normal(size=(4, 2, 500)), 0)
    assert find_valid(relu, relu.astype(np.float16).astype(float)).saturated.tolist() == [0, 0]
    picture = np.clip(np.rint(128 + 90 * rng.normal(size=(4, 1, 500))), 0, 255)
    assert find_valid(picture, picture).saturated.tolist() == [0]


@pytest.mark.parametrize("robust", [False, True])
def test_a_single_spike_is_signal_and_no_outlier(robust):
    reference = np.zeros((1, 1, 64))
    reference[0, 0, 20] = 1.0
    fit = fit_affine(reference, reference / 2, robust=robust)
    assert fit.gain == pytest.approx([2.0])
    assert not fit.is_constant.any()


@pytest.mark.parametrize("robust", [False, True])
def test_many_channels_at_once_are_as_each_by_itself(robust):
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(3, 70, 500)) * rng.uniform(0.1, 10, (70, 1))
    reference = 1.3 * observed + 0.2 + 0.01 * rng.normal(size=observed.shape)
    observed[:, 5] = 1.0
    observed[rng.random(observed.shape) < 0.1] = 40.0
    reference[0, 7, :9] = np.nan
    together = fit_affine(reference, observed, robust=robust)
    for channel in (0, 5, 7, 69):
        some = slice(channel, channel + 1)
        alone = fit_affine(reference[:, some], observed[:, some], robust=robust)
        assert together.gain[some] == pytest.approx(alone.gain, rel=1e-12)
        assert together.bias[some] == pytest.approx(alone.bias, rel=1e-9, abs=1e-12)
        assert together.n_values[channel] == alone.n_values[0]
        assert together.is_constant[channel] == alone.is_constant[0]


def test_the_line_is_that_of_least_squares():
    reference, observed = pair(offset=50.0)
    reference += 0.3 * np.random.default_rng(5).normal(size=reference.shape)
    fit = fit_affine(reference, observed)
    for channel in range(2):
        design = np.stack([observed[:, channel].ravel(), np.ones(4000)], axis=1)
        # Less the offset, without which the plain solution loses four digits itself.
        design[:, 0] -= 50.0
        wanted, left, *_ = np.linalg.lstsq(design, reference[:, channel].ravel(), rcond=None)
        assert fit.gain[channel] == pytest.approx(wanted[0], abs=1e-12)
        assert fit.bias[channel] == pytest.approx(wanted[1] - 50 * wanted[0], abs=1e-10)
        assert fit.rmse[channel] == pytest.approx(np.sqrt(left[0] / 4000), rel=1e-10)


def test_robust_errors_are_those_of_repeated_draws():
    gains, errors = [], []
    for seed in range(200):
        reference, observed = pair(n=1200, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        reference += 0.1 * rng.normal(size=reference.shape)
        observed[rng.random(observed.shape) < 0.1] = 15.0
        fit = fit_affine(reference, observed, robust=True)
        gains.append(fit.gain)
        errors.append(fit.gain_error)
    # Of the values left 95 %, and weights that make residuals look less by a tenth.
    assert np.mean(gains) == pytest.approx(1.7, abs=0.001)
    assert np.std(gains) == pytest.approx(np.mean(errors), rel=0.25)


@pytest.mark.parametrize(("share", "bound"), [(0.05, 3e-4), (0.2, 2e-3)])
def test_a_robust_fit_withstands_one_sided_saturation(share, bound):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(6, 2, 4000)) + 3e-4 * rng.normal(size=(6, 2, 4000))
    observed = np.minimum(reference, np.quantile(reference, 1 - share)) / 1.25
    reference += 3e-4 * rng.normal(size=reference.shape)
    assert fit_affine(reference, observed, robust=True).gain == pytest.approx([1.25] * 2, abs=bound)


@pytest.mark.parametrize("gain", [0.8, -3.0])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_robust_fit_of_a_clean_sparse_channel_is_that_of_its_values(gain, share):
    rng = np.random.default_rng(0)
    observed = rng.uniform(50, 100, (4, 3, 2000)) * (rng.random((4, 3, 2000)) > share)
    fit = fit_affine(gain * observed, observed, robust=True)
    assert fit.gain == pytest.approx([gain] * 3, rel=1e-12)
    assert not fit.is_constant.any()


def test_a_robust_fit_leaves_out_what_a_mask_does():
    reference, observed = pair()
    valid = np.random.default_rng(1).random(observed.shape) < 0.3
    observed[~valid] = 7.0
    valid[:, 1] = False
    observed[:, 0, ::9] = -40.0
    fit = fit_affine(reference, observed, valid=valid, robust=True)
    assert fit.gain[0] == pytest.approx(1.7, abs=1e-12)
    assert (fit.gain[1], fit.is_constant[1]) == (1, True)


def test_a_robust_fit_withstands_three_tenths_of_garbage_in_every_channel():
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(1, 100, 256))
    reference = 1.7 * observed - 0.4 + 3e-4 * rng.normal(size=observed.shape)
    hit = rng.random(observed.shape) < 0.3
    observed[hit] = 30 * rng.normal(size=int(hit.sum()))
    # Five sigmas of the noise over what is left of the values.
    bound = 5 * 3e-4 / np.sqrt(0.7 * 256)
    assert fit_affine(reference, observed, robust=True).gain == pytest.approx(
        [1.7] * 100, abs=bound
    )
