# SPDX-License-Identifier: BSD-3-Clause
"""Moments on the overlap of every whole-pixel shift."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.estimation.moments import OverlapMoments, pool_moments
from convcal.estimation.overlap import overlap_slices, score_shifts
from convcal.estimation.standard import standardised

SIZES = [((), ()), ((9,), (4,)), ((40,), (0,)), ((7, 6), (2, 5)), ((5, 4, 6), (1, 3, 2))]


def draw(spatial, *, n_samples=5, n_channels=2, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    observed = offset + rng.normal(size=(n_samples, n_channels, *spatial))
    return 1.7 * observed - 0.4 + 0.1 * rng.normal(size=observed.shape), observed


def in_long(reference, observed, shift):
    """Give the moments at a shift by two passes in long doubles."""
    cut_reference, cut_observed = overlap_slices(shift, reference.shape[2:])
    ref = reference[cut_reference].astype(np.longdouble)
    obs = observed[cut_observed].astype(np.longdouble)
    axes = (0, *range(2, ref.ndim))
    means = ref.mean(axis=axes), obs.mean(axis=axes)
    ref, obs = (a - a.mean(axis=axes, keepdims=True) for a in (ref, obs))
    return (*means, *((p * q).sum(axis=axes) for p, q in ((ref, ref), (obs, obs), (ref, obs))))


def shifts(limits):
    return [
        tuple(int(i) - m for i, m in zip(index, limits, strict=True))
        for index in np.ndindex(*(2 * m + 1 for m in limits))
    ]


def assert_close(first, second, tolerance=1e-12):
    """Compare in units of the spread: co-moments by their own, means by the deviations."""
    np.testing.assert_array_equal(first.n_planes, second.n_planes)
    column = (-1,) + (1,) * len(first.limits)
    power = np.sqrt(np.maximum(first.comoment[:2], 0).max(axis=tuple(range(2, first.mean.ndim))))
    power = power.reshape(2, *column)
    products = np.stack([power[0] ** 2, power[1] ** 2, power[0] * power[1]])
    assert (np.abs(first.comoment - second.comoment) <= tolerance * products).all()
    start = (second.pivot - first.pivot).reshape(2, *column)
    assert (np.abs(first.mean - second.mean - start) <= tolerance * np.maximum(power, 1e-300)).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("spatial", "limits"), SIZES)
def test_they_are_those_of_the_true_overlap_at_every_shift(spatial, limits, offset):
    reference, observed = draw(spatial, offset=offset)
    moments = pool_moments(reference, observed, limits=limits)
    for shift in shifts(limits):
        here = moments.at(shift)
        mean_r, mean_o, s_rr, s_oo, s_ro = in_long(reference, observed, shift)
        np.testing.assert_allclose(
            here.mean_reference, mean_r.astype(float), rtol=1e-13, atol=1e-14
        )
        np.testing.assert_allclose(here.mean_observed, mean_o.astype(float), rtol=1e-13, atol=1e-14)
        # The FFT's round-off is that of the whole plane, whose power is about 5 per position.
        most = 1e-14 * 5 * observed[:, 0].size
        np.testing.assert_allclose(here.s_rr, s_rr.astype(float), rtol=1e-13, atol=most)
        np.testing.assert_allclose(here.s_oo, s_oo.astype(float), rtol=1e-13, atol=most)
        np.testing.assert_allclose(here.s_ro, s_ro.astype(float), rtol=1e-13, atol=most)
        kept = observed[:, 0][overlap_slices(shift, spatial)[1][1:]]
        assert here.n_values.tolist() == [kept.size] * 2


def test_a_thousand_shards_at_an_offset_lose_nothing():
    rng = np.random.default_rng(0)
    observed = (1e4 + rng.normal(size=(1000, 1, 40))).astype(np.float64)
    reference = 1.25 * observed + rng.normal(size=observed.shape)
    moments = OverlapMoments.empty(1, (40,), limits=(3,))
    for n in range(1000):
        shard = pool_moments(reference[n : n + 1], observed[n : n + 1], limits=(3,))
        moments = moments.pooled(shard)
    here = moments.at((0,))
    ref, obs = ([Fraction(v) for v in a.ravel().tolist()] for a in (reference, observed))
    mean_r, mean_o = sum(ref) / len(ref), sum(obs) / len(obs)
    exact = (
        mean_r,
        mean_o,
        sum((r - mean_r) ** 2 for r in ref),
        sum((o - mean_o) ** 2 for o in obs),
        sum((r - mean_r) * (o - mean_o) for r, o in zip(ref, obs, strict=True)),
    )
    found = (here.mean_reference, here.mean_observed, here.s_rr, here.s_oo, here.s_ro)
    # Issue 3's bound.
    for value, truth in zip(found, exact, strict=True):
        assert abs(Fraction(float(value[0])) - truth) <= Fraction(1, 10**13) * abs(truth)


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    n=st.integers(2, 12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    offset=st.sampled_from([0.0, -3.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_pooling_parts_in_any_order_gives_the_whole(size, n, cuts, offset, seed):
    spatial, limits = size
    reference, observed = draw(spatial, n_samples=n, offset=offset, seed=seed)
    # Parts that differ: every sample sits elsewhere.
    level = np.arange(n).reshape(-1, *(1,) * (observed.ndim - 1))
    reference, observed = reference + level, observed - level
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    parts = [
        pool_moments(reference[a:b], observed[a:b], limits=limits)
        for a, b in pairwise(edges)
        if a < b
    ]
    whole = pool_moments(reference, observed, limits=limits)
    forward = backward = OverlapMoments.empty(2, spatial, limits=limits)
    for part in parts:
        forward = forward.pooled(part)
    for part in reversed(parts):
        backward = part.pooled(backward)
    assert_close(whole, forward)
    assert_close(forward, backward)
    np.random.default_rng(seed).shuffle(parts)
    shuffled = parts[0]
    for part in parts[1:]:
        shuffled = shuffled.pooled(part)
    assert_close(whole, shuffled)


def test_weights_are_repetitions():
    reference, observed = draw((8, 6), n_samples=4)
    times = np.array([1, 3, 2, 5])
    once = pool_moments(reference, observed, limits=(2, 2), weights=times)
    again = pool_moments(
        np.repeat(reference, times, axis=0), np.repeat(observed, times, axis=0), limits=(2, 2)
    )
    assert_close(again, once)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("role", [0, 1])
def test_a_plane_that_is_not_finite_is_left_out_and_spoils_no_other(value, role):
    pair = draw((8, 6), n_samples=4)
    pair[role][2, 1, 3, 3] = value
    moments = pool_moments(*pair, limits=(2, 2))
    assert moments.n_planes.tolist() == [4, 3]
    rest = [np.delete(array, 2, axis=0)[:, 1:] for array in pair]
    alone = pool_moments(*rest, limits=(2, 2))
    np.testing.assert_allclose(moments.comoment[:, 1:], alone.comoment, rtol=1e-13)
    assert np.isfinite(moments.mean).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("spatial", "limits"), SIZES)
def test_the_line_is_that_of_least_squares(spatial, limits, offset):
    reference, observed = draw(spatial, n_samples=40, offset=offset)
    shift = tuple(min(1, m) for m in limits)
    cut_reference, cut_observed = overlap_slices(shift, spatial)
    observed = 1.0 * observed
    observed[cut_observed] = (reference[cut_reference] + 0.4) / 1.7
    fit = pool_moments(reference, observed, limits=limits).affine(shift)
    for channel in range(2):
        ref, obs = reference[cut_reference][:, channel], observed[cut_observed][:, channel]
        # About the mean, where least squares of a line at an offset is well posed.
        middle = obs.mean()
        design = np.stack([obs.ravel() - middle, np.ones(obs.size)], axis=1)
        (gain, level), *_ = np.linalg.lstsq(design, ref.ravel(), rcond=None)
        assert fit.gain[channel] == pytest.approx(gain, rel=1e-12)
        # Where the data are: the gain's round-off is 1e4 times as much in a bias 1e4 away.
        there = fit.bias[channel] + fit.gain[channel] * middle
        assert there == pytest.approx(level, rel=1e-12)
    assert fit.rmse == pytest.approx([0, 0], abs=1e-6)


def test_standard_errors_and_residual_are_those_of_least_squares():
    reference, observed = draw((30, 20), offset=3.0)
    fit = pool_moments(reference, observed, limits=(2, 2)).affine((0, 0))
    for channel in range(2):
        ref, obs = reference[:, channel].ravel(), observed[:, channel].ravel()
        design = np.stack([obs, np.ones(obs.size)], axis=1)
        _, square, *_ = np.linalg.lstsq(design, ref, rcond=None)
        covariance = np.linalg.inv(design.T @ design) * square / (obs.size - 2)
        assert fit.gain_error[channel] == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)
        assert fit.bias_error[channel] == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-9)
        assert fit.rmse[channel] == pytest.approx(math.sqrt(float(square[0]) / obs.size), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 5.0, 1e30])
@pytest.mark.parametrize("role", [0, 1])
def test_a_constant_channel_keeps_gain_one_and_is_flagged(value, role):
    pair = draw((8, 6))
    pair[role][:, 1] = value
    fit = pool_moments(*pair, limits=(2, 2)).affine((0, 0))
    assert fit.is_constant.tolist() == [False, True]
    assert (fit.gain[1], fit.bias[1]) == (1, 0)
    assert np.isinf(fit.gain_error[1])


def test_without_samples_there_is_no_line_and_no_relation():
    empty = OverlapMoments.empty(2, (8, 6), limits=(2, 2))
    assert empty.affine((0, 0)).is_constant.all()
    assert empty.scores(rounding=np.zeros(2)).best() == (0, 0)


@pytest.mark.parametrize(("spatial", "limits"), SIZES[1:])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_scores_are_those_of_the_registration(spatial, limits, offset):
    reference, observed = draw(spatial, offset=offset)
    observed[:, 0] = np.roll(observed[:, 0], -min(1, limits[0]), axis=1)
    observed[:, 1] = offset  # a dead channel has no say
    standard = [standardised(array, None) for array in (reference, observed)]
    floor = np.full(2, 1e-8)
    expected = score_shifts(standard[0][0], standard[1][0], limits=limits, floor=floor)
    moments = pool_moments(reference[:2], observed[:2], limits=limits).pooled(
        pool_moments(reference[2:], observed[2:], limits=limits)
    )
    scores = moments.scores(rounding=np.sqrt(floor) * standard[0][2])
    # Where gain and bias explain all but the floor of 1e-8, round-off of 1e-15 is 1e-7 of that.
    np.testing.assert_allclose(scores.score, expected.score, atol=1e-6)
    np.testing.assert_allclose(scores.unexplained, expected.unexplained, atol=1e-12)
    np.testing.assert_allclose(scores.correlation, expected.correlation, atol=1e-12)
    np.testing.assert_array_equal(scores.n_values, expected.n_values)
    np.testing.assert_array_equal(scores.alive, expected.alive)
    assert scores.best() == expected.best()


def test_arrays_are_not_written_to_and_any_dtype_will_do():
    pair = [(50 * a + 100).astype(np.uint8) for a in draw((8, 6))]
    before = [a.copy() for a in pair]
    for array in pair:
        array.flags.writeable = False
    moments = pool_moments(*pair, limits=(2, 2))
    for array, was in zip(pair, before, strict=True):
        np.testing.assert_array_equal(array, was)
    assert_close(moments, pool_moments(*(a.astype(float) for a in pair), limits=(2, 2)))


def test_a_large_batch_is_summed_in_chunks():
    # Planes of 2**11 values (4,300 padded) in chunks of 2**20: three of them.
    reference, observed = draw((2048,), n_samples=600, n_channels=1, offset=7.0)
    whole = pool_moments(reference, observed, limits=(4,))
    parts = [pool_moments(reference[k::2], observed[k::2], limits=(4,)) for k in (0, 1)]
    assert_close(whole, parts[0].pooled(parts[1]))
