# SPDX-License-Identifier: BSD-3-Clause
"""What the estimate says of pairs whose error is known."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from expectations import assert_identity
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.arithmetic import correct
from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.estimation import estimate
from convcal.estimation.majority import Majority
from convcal.estimation.places import find_edge

FOUND = {"correctable", "partly-correctable"}


def crop_origin_1d(*, seed: int, n_samples: int = 24, reference_origin: int = 1, origin: int = 0):
    """Make the outputs of coremltools issue 2324: conv_transpose, cropped at the wrong origin."""
    rng = np.random.default_rng(seed)
    kernels = rng.random((2, 3))
    stretched = np.zeros((n_samples, 7))
    stretched[:, ::2] = rng.random((n_samples, 4))
    full = np.array([[np.convolve(row, kernel) for kernel in kernels] for row in stretched])
    reference = full[..., reference_origin : reference_origin + 8].astype(np.float32)
    return reference, full[..., origin : origin + 8].astype(np.float16)


def network(x, kernels, biases, *, dtype):
    """Run 3x3 convolutions with ReLU, each operation (and the weights) rounded to `dtype`."""
    for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        padded = np.pad(x.astype(dtype), ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        weights = kernel.astype(dtype).astype(np.float32)
        x = np.einsum("nchwij,ocij->nohw", windows, weights, optimize=True).astype(dtype)
        x = x + bias.astype(dtype)[:, None, None]
        if layer < len(kernels) - 1:
            x = np.maximum(x, 0)
    return x


# Known truth: shifts


@pytest.mark.parametrize("content", ["white", "pink", "smooth", "blobs", "edges"])
@pytest.mark.parametrize(
    ("shape", "shift"),
    [
        ((96,), (1.3,)),
        ((96,), (-0.5,)),
        ((64, 64), (0.37, -2.6)),
        ((48, 80), (-0.25, 3.75)),
        ((24, 24, 24), (0.3, -0.4, 1.5)),
    ],
)
def test_a_fractional_shift_is_found_within_a_fiftieth_of_a_pixel(shape, shift, content):
    # One blob in a hundred positions: a row of pixels needs many samples to show a few.
    n_samples = 24 if len(shape) == 1 else 6
    pair = make_pair(shape, shift=shift, content=content, n_samples=n_samples, n_channels=2, seed=3)
    result = estimate(pair.reference, pair.observed)
    assert result.verdict in FOUND
    assert result.family == "sub-pixel-shift"
    assert result.shift == pytest.approx(shift, abs=0.02)


@pytest.mark.parametrize("content", ["white", "pink", "blobs", "edges"])
def test_a_fractional_shift_is_found_under_noise_too(content):
    pair = make_pair((64, 64), shift=(0.37, -2.6), content=content, snr_db=20, seed=5)
    result = estimate(pair.reference, pair.observed)
    assert result.verdict == "partly-correctable"
    assert result.shift == pytest.approx(pair.shift, abs=0.02)


@pytest.mark.parametrize("content", ["white", "pink", "smooth", "blobs", "edges"])
@pytest.mark.parametrize(
    ("shape", "shift"),
    [((64,), (-3,)), ((64, 64), (-4, -4)), ((128, 128), (-1, -1)), ((40, 56), (5, -7)),
     ((20, 24, 28), (2, -1, 0))],
)  # fmt: skip
def test_a_whole_pixel_shift_is_found_exactly_and_corrected_to_rounding(shape, shift, content):
    # Of 64 positions blobs can leave a sample next to nothing: let many be held out.
    n_samples = 24 if len(shape) == 1 else 5
    pair = make_pair(shape, shift=shift, content=content, n_samples=n_samples, n_channels=2, seed=1)
    result = estimate(pair.reference, pair.observed)
    assert (result.verdict, result.family, result.model) == ("correctable", "shift", "shift")
    assert result.shift == shift
    assert result.filters == tuple((-s, (1.0,)) for s in shift)
    assert result.margins == tuple((max(0, s), max(0, -s)) for s in shift)
    # One rounding to fp16 leaves 72 to 74 dB.
    assert result.metrics_after.snr_db > 70


@pytest.mark.parametrize("seed", range(20))
def test_a_twentieth_of_a_pixel_is_found(seed):
    content = ("pink", "white", "edges", "blobs")[seed % 4]
    pair = make_pair((48, 48), shift=(0.05, 0), content=content, n_samples=6, seed=seed)
    result = estimate(pair.reference, pair.observed)
    assert result.verdict in FOUND
    assert result.shift == pytest.approx((0.05, 0), abs=0.005)


@pytest.mark.parametrize("seed", range(20))
def test_a_gain_of_two_thousandths_is_found(seed):
    content = ("pink", "white", "edges", "blobs", "smooth")[seed % 5]
    pair = make_pair((48, 48), gain=1.002, content=content, n_samples=6, seed=seed)
    result = estimate(pair.reference, pair.observed)
    assert (result.verdict, result.family, result.model) == ("correctable", "affine", "affine")
    # Rounding to fp16 leaves 2e-4 of each of more than 8000 values: 3e-6.
    assert result.gain == pytest.approx([1.002] * 3, abs=3e-5)


def test_gain_and_bias_of_each_channel_come_with_the_shift():
    gain, bias = (1.1, -0.9, 3.3), (0.2, 5.0, -1.0)
    pair = make_pair((48, 48), shift=(2, -1), gain=gain, bias=bias, seed=2)
    result = estimate(pair.reference, pair.observed)
    assert (result.verdict, result.model) == ("correctable", "shift-affine")
    assert result.shift == (2, -1)
    assert result.gain == pytest.approx(gain, abs=1e-3)
    assert result.bias == pytest.approx(bias, abs=1e-2)


def test_one_wrong_channel_among_many_is_corrected_and_the_others_are_left_alone():
    gain = [1.0] * 31 + [1.01]
    pair = make_pair((32, 32), gain=gain, n_channels=32, n_samples=6, seed=4)
    result = estimate(pair.reference, pair.observed)
    assert result.verdict == "correctable"
    assert result.gain[:31] == (1.0,) * 31
    assert result.gain[31] == pytest.approx(1.01, abs=1e-4)


def test_a_rank_two_output_gets_gain_and_bias():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(200, 4)).astype(np.float32)
    observed = ((reference - 0.5) / 1.05).astype(np.float16)
    result = estimate(reference, observed)
    assert (result.verdict, result.model, result.shift) == ("correctable", "affine", ())
    assert result.gain == pytest.approx([1.05] * 4, abs=1e-3)
    assert result.bias == pytest.approx([0.5] * 4, abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_issue_2324_is_a_whole_pixel_shift_even_at_eight_values_a_sample(seed):
    reference, observed = crop_origin_1d(seed=seed)
    result = estimate(reference, observed)
    assert (result.verdict, result.family, result.shift) == ("correctable", "shift", (-1.0,))
    assert result.margins == ((0, 1),)
    corrected = correct(observed, filters=result.filters, gain=result.gain, bias=result.bias)[
        ..., :7
    ].astype(np.float64)
    # The bound of issue 2: seven of eight positions within 2e-3 of the largest value.
    assert np.abs(corrected - reference[..., :7]).max() <= 2e-3 * reference.max()


@pytest.mark.parametrize("n_samples", [1, 2, 3])
def test_few_samples_are_divided_into_blocks(n_samples):
    pair = make_pair((64, 64), shift=(-4, 3), n_samples=n_samples, n_channels=1, seed=6)
    result = estimate(pair.reference, pair.observed)
    assert (result.verdict, result.shift) == ("correctable", (-4, 3))
    assert result.evidence["holdout"]["kind"] == "blocks"
    pair = make_pair((64, 64), shift=(0.3, -0.6), n_samples=n_samples, n_channels=1, seed=6)
    assert estimate(pair.reference, pair.observed).shift == pytest.approx((0.3, -0.6), abs=0.02)


# Nothing wrong


@pytest.mark.parametrize("seed", range(20))
def test_rounding_to_fp16_is_identical(seed):
    content = ("pink", "white", "smooth", "edges", "blobs")[seed % 5]
    shape = ((48, 48), (200,), (16, 16, 16), (33, 65))[seed % 4]
    pair = make_pair(shape, content=content, n_samples=1 + seed % 6, seed=seed)
    result = estimate(pair.reference, pair.observed)
    assert (result.verdict, result.family) == ("identical", "rounding")
    assert_identity(result)


@pytest.mark.parametrize("seed", range(20))
def test_a_network_in_fp16_with_rounded_weights_is_identical(seed):
    rng = np.random.default_rng(seed)
    channels = [3, *[8] * (2 + seed % 7), 3]
    kernels = [
        rng.normal(size=(o, i, 3, 3)) * np.sqrt(2 / (9 * i))
        for i, o in itertools.pairwise(channels)
    ]
    biases = [0.1 * rng.normal(size=o) for o in channels[1:]]
    pictures = make_pair((40, 40), n_samples=5, seed=seed).observed.astype(np.float32)
    reference = network(pictures, kernels, biases, dtype=np.float32)
    observed = network(pictures, kernels, biases, dtype=np.float16)
    result = estimate(reference, observed)
    assert result.verdict == "identical", result.reason
    assert_identity(result)


def test_equal_outputs_are_identical_whatever_they_hold():
    array = np.random.default_rng(0).normal(size=(3, 2, 20))
    array[0, 0, 3] = np.nan
    array[1, 1, 4] = np.inf
    result = estimate(array, array.copy())
    assert (result.verdict, result.family) == ("identical", "identical")
    assert_identity(result)


# The edges of what can be found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "n_samples", "shift"),
    [
        ((24, 24, 24), 3, (0.59, -0.93, -1.85)),
        ((16, 16, 16), 1, (0.3, 0.55, -0.7)),
        ((32, 32), 1, (1.4, -1.2)),
        ((48, 40), 2, (-2.6, 0.5)),
    ],
)
def test_fractions_are_found_where_blocks_of_few_samples_are_held_out(
    shape, n_samples, shift, seed
):
    pair = make_pair(shape, shift=shift, n_samples=n_samples, n_channels=1, seed=seed)
    result = estimate(pair.reference, pair.observed)
    assert result.evidence["holdout"]["kind"] == "blocks"
    assert result.family == "sub-pixel-shift"
    np.testing.assert_allclose(result.shift, shift, atol=0.02)


def test_a_shift_beyond_the_search_names_the_search_and_how_to_widen_it():
    scene = np.random.default_rng(0).normal(size=(6, 1, 100, 130))
    reference, observed = scene[..., :100], scene[..., 30:]
    result = estimate(reference, observed)
    assert result.verdict == "not-correctable"
    assert "at no shift up to 25 x 25 px either way" in result.reason
    assert "--max-shift" in result.reason
    assert estimate(reference, observed, max_shift=32).shift == (0, 30)


def test_a_shift_at_the_edge_of_the_search_is_said_to_be_there():
    pair = make_pair((64, 64), shift=(6.4, 0), content="smooth", snr_db=30, seed=2)
    result = estimate(pair.reference, pair.observed, max_shift=5)
    assert abs(result.evidence["registration"]["whole_shift"][0]) == 5
    assert result.verdict == "partly-correctable"
    assert "edge of the search" in result.reason
    assert "edge of the search" not in estimate(pair.reference, pair.observed).reason


def test_a_shift_whose_taps_would_leave_nothing_is_made_in_whole_pixels():
    # Five taps beyond the 59 positions that a shift of 58.4 has no source for are all of them.
    pair = make_pair((64, 32), shift=(58.4, 0.3), n_samples=12, seed=1)
    result = estimate(pair.reference, pair.observed, max_shift=63)
    assert result.model == "shift"
    assert result.shift == (58, 0)


@pytest.mark.parametrize("shape", [(4, 2, 1), (4, 2, 2)])
def test_the_smallest_arrays_are_answered(shape):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=shape)
    assert estimate(reference, reference.astype(np.float16)).verdict == "identical"
    result = estimate(reference, rng.normal(size=shape))
    assert result.verdict in {"not-correctable", "not-identifiable"}
    assert_identity(result)


# Hard input


@pytest.mark.parametrize("shift", [(3, -2), (0.3, -1.6)])
def test_dead_flipped_and_junk_channels_and_missing_values_do_not_break_the_shift(shift):
    pair = make_pair((64, 64), shift=shift, n_channels=6, gain=(1, -1, 1, 1, 2, 1), seed=8)
    observed = pair.observed.astype(np.float32)
    rng = np.random.default_rng(0)
    observed[:, 2] = 0
    observed[:, 3] = 100 * rng.normal(size=observed[:, 3].shape)
    observed[rng.random(observed.shape) < 0.0005] = np.nan
    observed[0, 0, 5, 5] = np.inf
    result = estimate(pair.reference, observed)
    assert result.verdict == "partly-correctable"
    assert result.shift == pytest.approx(shift, abs=0.02)
    assert result.evidence["findings"]["dead_channels"] == [2]
    assert result.gain[2] == 1
    assert result.metrics_after.n_excluded > 0
    json.dumps(result.evidence, allow_nan=False)


def test_one_missing_value_is_reported_as_lost():
    pair = make_pair((32, 32), seed=1)
    observed = pair.observed.copy()
    observed[0, 0, 3, 3] = np.nan
    result = estimate(pair.reference, observed)
    assert (result.verdict, result.family) == ("not-correctable", "saturation")


def test_a_robust_fit_withstands_a_fifth_of_garbage():
    gain = (1.1, 0.95, 1.3)
    pair = make_pair((48, 48), shift=(2, 0), gain=gain, seed=3)
    observed = pair.observed.astype(np.float64)
    rng = np.random.default_rng(1)
    hit = rng.random(observed.shape) < 0.2
    observed[hit] = 20 * rng.random(int(hit.sum()))
    result = estimate(pair.reference, observed, robust=True)
    assert result.shift == (2, 0)
    fitted = result.evidence["channels"]["gain_fitted"]
    # fp16 leaves 3e-4 of each of some 10 000 values; 1e-4 is issue 3's bound.
    assert fitted == pytest.approx(gain, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_integer_outputs_are_estimated(dtype):
    pair = make_pair((64, 64), shift=(-1, 2), seed=1)
    reference, observed = (
        np.clip(np.rint(128 + 40 * a.astype(np.float64)), 0, 255).astype(dtype)
        for a in (pair.reference, pair.observed)
    )
    result = estimate(reference, observed)
    assert (result.verdict, result.shift) == ("correctable", (-1, 2))
    assert estimate(reference, reference).verdict == "identical"


# Laws


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(-5, 5),
    columns=st.integers(-5, 5),
)
def test_swapping_the_two_turns_the_shift_round(seed, rows, columns):
    pair = make_pair((32, 40), shift=(rows, columns), n_samples=4, n_channels=1, seed=seed)
    there = estimate(pair.reference, pair.observed)
    back = estimate(pair.observed, pair.reference)
    assert there.shift == (rows, columns)
    assert back.shift == (-rows, -columns)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-2.5, 2.5))
def test_swapping_the_two_turns_a_fraction_round(seed, shift):
    pair = make_pair((80,), shift=shift, n_samples=8, n_channels=2, seed=seed, dtype=np.float32)
    there = estimate(pair.reference, pair.observed).evidence["registration"]["shift"]
    back = estimate(pair.observed, pair.reference).evidence["registration"]["shift"]
    assert there[0] == pytest.approx(shift, abs=0.02)
    # Issue 3's bound.
    assert there[0] + back[0] == pytest.approx(0, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.randoms())
def test_the_order_of_samples_does_not_matter(seed, order):
    pair = make_pair((40, 40), shift=(0.4, -1), gain=1.05, n_samples=6, seed=seed)
    samples = list(range(6))
    order.shuffle(samples)
    before = estimate(pair.reference, pair.observed)
    after = estimate(pair.reference[samples], pair.observed[samples])
    # The samples are put in the order of their digests first: not even round-off differs.
    assert (after.verdict, after.shift, after.gain) == (before.verdict, before.shift, before.gain)
    assert after.metrics_after == before.metrics_after


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.integers(-6, 6))
def test_units_do_not_matter(seed, power):
    pair = make_pair((40, 40), shift=(0.4, -1), gain=1.05, n_samples=6, seed=seed)
    before = estimate(pair.reference, pair.observed)
    unit = 2.0**power
    after = estimate(unit * pair.reference, unit * pair.observed.astype(np.float64))
    assert (after.verdict, after.model) == (before.verdict, before.model)
    # Digests differ, and with them the samples held out: equal to the standard error.
    assert after.shift == pytest.approx(before.shift, abs=1e-3)
    assert after.gain == pytest.approx(before.gain, rel=1e-2)


def test_inputs_are_never_written_to_and_answers_repeat():
    pair = make_pair((32, 32), shift=(0.5, 1))
    pair.reference.setflags(write=False)
    pair.observed.setflags(write=False)
    first = estimate(pair.reference, pair.observed)
    second = estimate(pair.reference, pair.observed)
    assert first.shift == second.shift
    assert first.evidence == second.evidence
    assert first.metrics_after == second.metrics_after


def test_the_metrics_are_those_of_the_correction_on_held_out_samples():
    pair = make_pair((32, 32), shift=(0.5, 1), n_samples=8, seed=1)
    result = estimate(pair.reference, pair.observed)
    assert result.evidence["holdout"]["n_held_out"] == 2
    assert result.evidence["holdout"]["n_folds"] == 4
    # Each fold judges what the others fitted: in the end every sample was held out.
    assert result.metrics_before_full.n_values == 8 * 3 * 32 * 32
    (top, bottom), (left, right) = result.margins
    inside = (32 - top - bottom) * (32 - left - right)
    assert result.metrics_after.n_values == 8 * 3 * inside
    assert len(result.channel_metrics_after) == 3
    assert result.metrics_after.snr_db > result.metrics_before.snr_db + 10


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("n_samples", [2, 8])
def test_the_metrics_are_those_of_what_the_post_processor_gives(dtype, n_samples):
    pair = make_pair((48, 48), shift=(0.5, 1), gain=1.1, n_samples=n_samples, seed=1)
    reference, observed = (
        (128 + 30 * array.astype(np.float64)).clip(0, 255)
        for array in (pair.reference, pair.observed)
    )
    observed = (np.rint(observed) if dtype is np.uint8 else observed).astype(dtype)
    result = estimate(reference, observed)
    corrected = correct(observed, filters=result.filters, gain=result.gain, bias=result.bias)
    assert corrected.dtype == dtype
    # Each fold's correction is fitted without it, and so differs a little from that of all data.
    rmse = np.sqrt(np.mean(np.square(reference - corrected.astype(np.float64))))
    assert result.metrics_after_full.rmse == pytest.approx(rmse, rel=0.02)
    if dtype is np.uint8:  # rounding to whole steps leaves at least 1 / sqrt(12)
        assert result.metrics_after.rmse > 0.28


def test_a_forced_model_is_still_emitted_only_if_it_helps():
    pair = make_pair((48, 48), shift=(2, 1), gain=1.1, seed=1)
    assert estimate(pair.reference, pair.observed, model="shift").model == "shift"
    assert estimate(pair.reference, pair.observed, model="identity").model == "identity"
    clean = make_pair((48, 48), seed=1)
    assert estimate(clean.reference, clean.observed, model="shift-affine").model == "identity"


def test_a_shift_beyond_the_limit_is_not_found():
    pair = make_pair((64, 64), shift=(9, 0), content="white", seed=1)
    assert estimate(pair.reference, pair.observed, max_shift=4).model == "identity"
    assert estimate(pair.reference, pair.observed, max_shift=(9, 0)).shift == (9, 0)


# Bad input


@pytest.mark.parametrize(
    ("reference", "observed", "options", "words"),
    [
        (np.ones((2, 3, 4)), np.ones((2, 3, 5)), {}, ["(2, 3, 4)", "(2, 3, 5)"]),
        (np.ones((2, 0, 4)), np.ones((2, 0, 4)), {}, ["(2, 0, 4)", "empty"]),
        (np.ones(4), np.ones(4), {}, ["(4,)", "rank 1"]),
        (np.ones((1,) * 6), np.ones((1,) * 6), {}, ["rank 6"]),
        (np.ones((2, 3), complex), np.ones((2, 3)), {}, ["reference", "complex128"]),
        (np.ones((2, 3)), np.ones((2, 3), object), {}, ["observed", "object"]),
        (np.ones((2, 3)), np.ones((2, 3)), {"model": "warp"}, ["'warp'", "affine"]),
        (np.ones((2, 3)), np.ones((2, 3)), {"holdout": 0.0}, ["holdout", "0.0"]),
        (np.ones((2, 3)), np.ones((2, 3)), {"holdout": "x"}, ["holdout", "'x'"]),
        (np.ones((2, 3)), np.ones((2, 3)), {"data_range": "x"}, ["data_range", "'x'"]),
        (np.ones((2, 3, 4)), np.ones((2, 3, 4)), {"max_shift": -1}, ["max_shift", "-1"]),
        (np.ones((2, 3, 4)), np.ones((2, 3, 4)), {"max_shift": (1, 2)}, ["max_shift", "(1, 2)"]),
        (np.ones((2, 3)), np.ones((2, 3)), {"data_range": np.nan}, ["data_range", "nan"]),
        (np.ones((2, 3)), np.full((2, 3), -1e200), {}, ["observed", "1e+200", "1e+75"]),
    ],
)
def test_bad_input_is_named(reference, observed, options, words):
    with pytest.raises(InputError) as caught:
        estimate(reference, observed, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("robust", [False, True])
def test_a_spike_alone_gives_a_verdict(robust):
    reference = np.zeros((8, 2, 16), np.float32)
    reference[3, 1, 5] = 1
    assert estimate(reference, reference, robust=robust).verdict == "identical"
    result = estimate(reference, 2 * reference, robust=robust)
    assert result.verdict != "identical"


@pytest.mark.parametrize("seed", range(10))
def test_one_tiny_sample_is_too_few(seed):
    reference, observed = crop_origin_1d(seed=seed, n_samples=1)
    result = estimate(reference, observed)
    assert (result.verdict, result.family) == ("not-identifiable", "too-few-data")
    assert_identity(result)


@pytest.mark.parametrize("n_samples", [1, 8])
@pytest.mark.parametrize("holdout", [1e-9, 1e-320])
def test_more_folds_than_there_are_parts_cost_nothing(n_samples, holdout):
    reference = np.random.default_rng(0).normal(size=(n_samples, 1, 8, 8))
    result = estimate(reference, reference / 2, holdout=holdout)
    assert result.gain == pytest.approx((2.0,))


def test_the_border_of_an_axis_of_one_position_is_no_border():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(8, 3, 17, 1))
    estimate(reference, rng.normal(size=reference.shape))
    is_wrong = np.zeros((8, 3, 64, 1), dtype=bool)
    is_wrong[:, :, [0, -1]] = True
    reference = np.ones(is_wrong.shape)
    observed = np.where(is_wrong, 0.75, reference)
    allowance = np.full(is_wrong.shape, 1e-3)
    edge = find_edge(reference, observed, is_wrong, allowance=allowance)
    assert edge == find_edge(
        *(array[..., 0] for array in (reference, observed, is_wrong)), allowance=allowance[..., 0]
    )
    assert edge is not None


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-80])
def test_values_too_small_to_be_squared_count_as_zero(size, robust):
    rng = np.random.default_rng(0)
    reference = (rng.normal(size=(8, 3, 8, 8)) > 0) * size
    observed = np.full(reference.shape, 200, np.uint8)
    observed[:, :, ::2] = 100
    for first, second in ((reference, reference), (reference, observed), (observed, reference)):
        result = estimate(first, second, robust=robust)
        assert result.gain == (1.0,) * 3


def test_lists_that_are_no_arrays_are_refused():
    with pytest.raises(InputError, match="cannot be read as an array"):
        estimate([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0]])


def test_the_variance_of_a_constant_reference_is_not_negative_by_round_off():
    # It is put together of what the line leaves and what it explains.
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(64, 49))
    majority = Majority(np.full(64, 0.7), np.zeros(64), np.full(64, 9.0), np.zeros(64))
    sums = majority.sums(np.full((64, 49), 0.1), observed, None)
    assert (sums.reference >= 0).all()


@pytest.mark.parametrize("shift", [(2, -1), (-4, 0), (6, -6)])
def test_what_enters_at_a_border_is_no_outlier(shift):
    pair = make_pair((64, 64), shift=shift, n_samples=4, seed=3)
    result = estimate(pair.reference, pair.observed)
    assert result.shift == shift
    assert not any(result.evidence["channels"]["n_outliers"])
