# SPDX-License-Identifier: BSD-3-Clause
"""Shift, gain and bias in one call: as exact on a part as on all, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest

from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.estimation import align

CONTENTS = ("pink", "white", "smooth", "edges", "blobs")


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("shape", [(64, 64), (300,), (96, 40), (24, 20, 18), (32, 32, 32)])
def test_rounding_alone_leaves_the_shift_exact(shape, content):
    shift = (1.3, -2.6, 0.45)[: len(shape)]
    pair = make_pair(shape, shift=shift, gain=1.1, bias=0.2, content=content, n_samples=2, seed=3)
    found = align(pair.reference, pair.observed)
    # Issue 3 asks for 0.005 px in 95 of 100 at 64 x 64; small volumes are mostly border.
    assert found.shift == pytest.approx(shift, abs=0.001 if min(shape) > 30 else 0.02)
    assert found.gain == pytest.approx(1.1, abs=0.001 if min(shape) > 30 else 0.01)


def test_errors_are_those_of_repeated_draws():
    shift = (0.4, -1.7)
    scores = []
    for seed in range(60):
        pair = make_pair((48, 48), shift=shift, n_samples=1, snr_db=20, gain=1.2, seed=seed)
        found = align(pair.reference, pair.observed)
        scores.append(
            [*(found.shift - shift) / found.shift_error, *(found.gain - 1.2) / found.gain_error]
        )
    # 60 draws leave the root mean square of a unit normal within 0.27 (three sigmas).
    assert np.sqrt(np.mean(np.square(scores), axis=0)) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("shape", "n_samples", "n_channels"),
    [((64, 64), 40, 3), ((96, 96), 1, 40), ((400, 500), 1, 2), ((200_000,), 1, 1)],
)
def test_a_part_of_a_large_stack_is_enough(shape, n_samples, n_channels):
    shift = (5.3, -2.6)[: len(shape)]
    pair = make_pair(shape, shift=shift, n_samples=n_samples, n_channels=n_channels, snr_db=20)
    found = align(pair.reference, pair.observed)
    assert found.n_values < pair.reference.size
    assert len(found.gain) == n_channels
    assert found.shift == pytest.approx(shift, abs=0.005)
    assert found.gain == pytest.approx(1, abs=0.02)
    assert np.abs(found.shift - shift).max() < 4.5 * found.shift_error.max()


def test_channels_without_relation_do_not_hide_the_others():
    pair = make_pair((128, 128), shift=(1.5, -2.25), n_samples=1, n_channels=24, snr_db=30, seed=2)
    observed = pair.observed.copy()
    unrelated = np.arange(24) != 13
    rng = np.random.default_rng(0)
    observed[:, unrelated] = rng.normal(size=observed[:, unrelated].shape)
    found = align(pair.reference, observed)
    assert found.shift == pytest.approx((1.5, -2.25), abs=0.02)
    assert found.gain[13] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_samples", [1, 60])
def test_the_kind_of_float_changes_nothing_that_counts(n_samples, dtype):
    pair = make_pair((64, 64), shift=(0.5, 1.2), n_samples=n_samples, dtype=np.float32, snr_db=40)
    given = (pair.reference.astype(dtype), 1e4 + pair.observed.astype(dtype))
    plain = align(pair.reference.astype(np.float64), pair.observed.astype(np.float64))
    found = align(*given)
    # At 1e4 float32 has steps of 1e-3: 60 dB below the values, of which thousands are used.
    assert found.shift == pytest.approx(plain.shift, abs=1e-4)
    assert found.bias + 1e4 * found.gain == pytest.approx(plain.bias, abs=2e-4)


def test_inputs_are_not_written_to_and_the_answer_is_the_same_again():
    pair = make_pair((300, 300), shift=(0.5, 1.2), n_samples=2, snr_db=20)
    given = pair.reference.copy(), pair.observed.copy()
    first, again = align(*given), align(*given)
    assert np.array_equal(given[0], pair.reference)
    assert np.array_equal(given[1], pair.observed)
    assert first.shift.tolist() == again.shift.tolist()
    assert first.gain.tolist() == again.gain.tolist()


def test_a_shift_beyond_a_quarter_is_found_on_request():
    pair = make_pair((400, 300), shift=(-70.3, 41.8), n_samples=1, snr_db=20)
    found = align(pair.reference, pair.observed, max_shift=100)
    assert found.shift == pytest.approx((-70.3, 41.8), abs=0.01)


def test_nothing_in_common_leaves_gain_one_and_infinite_errors():
    flat = np.zeros((1, 2, 32, 32), dtype=np.float32)
    found = align(flat, flat + 3)
    assert found.gain.tolist() == [1, 1]
    assert np.isinf(found.shift_error).all()
    assert np.isinf(found.gain_error).all()


def test_a_channel_without_relation_among_others_has_infinite_errors():
    pair = make_pair((24,), n_samples=1, n_channels=3)
    reference, observed = pair.reference.copy(), pair.observed.copy()
    reference[:, 1] = observed[:, 1] = 0
    found = align(reference, observed)
    assert np.isinf(found.gain_error).tolist() == np.isinf(found.bias_error).tolist()
    assert np.isinf(found.bias_error[1])


@pytest.mark.parametrize("n_values", ["x", 0, True])
def test_a_number_of_values_that_is_none_is_refused(n_values):
    pair = make_pair((32, 32), n_samples=1)
    with pytest.raises(InputError, match="n_values is"):
        align(pair.reference, pair.observed, n_values=n_values)


def test_infinities_of_both_signs_are_refused():
    reference = np.ones((1, 1, 8))
    observed = reference.copy()
    observed[0, 0, :2] = np.inf, -np.inf
    with pytest.raises(InputError, match="not finite"):
        align(reference, observed)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(dtype):
    pair = make_pair((32, 32), n_samples=1)
    observed = pair.observed.astype(dtype)
    observed[0, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        align(pair.reference, observed)


def test_channels_without_relation_do_not_change_what_the_others_claim():
    pair = make_pair((24, 24), shift=(0.4, -0.3), n_samples=1, n_channels=1, snr_db=30, seed=0)
    alone = align(pair.reference, pair.observed)
    dead = np.zeros((1, 2, 24, 24), np.float32)
    beside = align(
        np.concatenate([dead, pair.reference], axis=1),
        np.concatenate([dead, pair.observed], axis=1),
    )
    # Their zeros are among the lines that tell how far a border can be predicted.
    assert beside.shift == pytest.approx(alone.shift, abs=0.001)
    assert beside.shift_error == pytest.approx(alone.shift_error, rel=0.2)
    assert beside.gain_error[2] == pytest.approx(alone.gain_error[0], rel=0.2)


def test_an_alignment_is_printed_in_a_few_lines():
    pair = make_pair((64, 64), shift=(0.4, -0.3), n_samples=8, seed=0)
    assert len(repr(align(pair.reference, pair.observed))) < 500


@pytest.mark.parametrize("start", [10, 610])
def test_content_in_one_corner_is_found(start):
    content = make_pair((80, 80), n_samples=1, n_channels=1, seed=3).reference
    reference, observed = (np.zeros((1, 1, 700, 700)) for _ in range(2))
    reference[..., start : start + 80, start : start + 80] = content
    observed[..., start + 3 : start + 83, start - 2 : start + 78] = 1.25 * content
    found = align(reference, observed)
    assert found.shift == pytest.approx((-3, 2), abs=0.002)
    assert found.gain == pytest.approx(0.8, rel=0.001)


@pytest.mark.parametrize("n_channels", [1, 8])
def test_what_is_not_related_is_left_as_it_is(n_channels):
    rng = np.random.default_rng(3)
    for _ in range(20):
        found = align(*rng.normal(size=(2, 2, n_channels, 48, 48)))
        assert found.gain.tolist() == [1.0] * n_channels
        assert found.bias.tolist() == [0.0] * n_channels
        assert np.isinf(found.shift_error).all()
        assert (found.shift == found.shift.round()).all()


def test_samples_that_hold_nothing_are_passed_over_in_large_stacks():
    pair = make_pair((64, 64), shift=(-3, 2), n_samples=2, n_channels=2, gain=1.25, seed=1)
    empty = np.zeros((40, 2, 64, 64), np.float32)
    found = align(np.concatenate([empty, pair.reference]), np.concatenate([empty, pair.observed]))
    assert found.shift == pytest.approx((-3, 2), abs=0.001)
    assert found.gain == pytest.approx(1.25, abs=0.001)
