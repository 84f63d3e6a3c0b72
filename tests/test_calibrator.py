# SPDX-License-Identifier: BSD-3-Clause
import copy
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from convcal import OutputCalibrator
from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.estimation import OutputStatistics
from convcal.faults import parse_fault


@pytest.fixture
def pair():
    """Give windows of larger scenes, displaced by (+1, -2), with gain and bias."""
    scene = np.random.default_rng(0).normal(size=(10, 2, 50, 50)).astype(np.float32)
    reference = scene[:, :, 4:-4, 4:-4]
    observed = scene[:, :, 3:-5, 6:-2] * 2 + 1
    return reference, observed


def test_scale_crop_and_row_stride_are_fitted_attributes():
    pair = make_pair((128,), n_samples=8, scale=1.05, origin=31.0)
    scaled = OutputCalibrator().fit(pair.reference, pair.observed)
    assert scaled.scale_ == pytest.approx(scaled.correction_.scale)
    assert scaled.scale_[0] == pytest.approx(1.05, abs=0.002)
    assert scaled.origin_[0] == pytest.approx(31, abs=1)
    reference = make_pair((40, 50), n_samples=8, n_channels=1).reference
    longer = OutputCalibrator().fit(reference, parse_fault("overlong:tail=0/3").apply(reference))
    assert longer.crop_ == ((0, 0), (0, 3))
    sheared = OutputCalibrator().fit(reference, parse_fault("row-stride").apply(reference))
    assert sheared.row_stride_ == 64
    with pytest.raises(NotFittedError):
        OutputCalibrator().scale_  # noqa: B018


def test_fit_and_transform_undo_the_displacement(pair):
    reference, observed = pair
    before = reference.copy(), observed.copy()
    calibrator = OutputCalibrator().fit(reference, observed)
    assert calibrator.verdict_ == "correctable"
    np.testing.assert_array_equal(calibrator.shift_, [-1, 2])
    np.testing.assert_allclose(calibrator.gain_, 0.5, rtol=1e-6)
    np.testing.assert_allclose(calibrator.bias_, -0.5, atol=1e-6)
    assert calibrator.margins_ == ((0, 1), (2, 0))
    assert calibrator.scale_.tolist() == [1, 1]
    assert calibrator.origin_.tolist() == [0, 0]
    assert calibrator.crop_ == ((0, 0), (0, 0))
    assert calibrator.row_stride_ is None
    assert calibrator.n_samples_seen_ == 10
    corrected = calibrator.transform(observed)
    # float32 arithmetic on values of order 1.
    np.testing.assert_allclose(corrected[..., :-1, 2:], reference[..., :-1, 2:], atol=2e-6)
    assert calibrator.score(reference, observed) > 100
    for array, was in zip(pair, before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_it_is_the_same_on_repeat_and_in_any_order(pair):
    reference, observed = pair
    first = OutputCalibrator().fit(reference, observed)
    again = clone(first).fit(reference, observed)
    assert again.correction_ == first.correction_
    order = np.random.default_rng(1).permutation(len(reference))
    shuffled = clone(first).fit(reference[order], observed[order])
    np.testing.assert_array_equal(shuffled.shift_, first.shift_)
    np.testing.assert_allclose(shuffled.gain_, first.gain_, rtol=1e-6)


def test_a_single_sample_is_enough(pair):
    reference, observed = pair
    calibrator = OutputCalibrator().fit(reference[:1], observed[:1])
    assert calibrator.verdict_ == "correctable"
    np.testing.assert_array_equal(calibrator.shift_, [-1, 2])


def test_the_score_leaves_the_margins_of_an_output_without_its_batch_axis_out(pair):
    reference, observed = pair
    calibrator = OutputCalibrator().fit(reference, observed)
    # The border alone would bring it below 20 dB.
    assert calibrator.score(reference[0], observed[0]) > 100


@pytest.mark.parametrize(
    ("order", "axes"),
    [((0, 2, 3, 1), (0, 3)), ((2, 3, 0, 1), (2, 3)), ((1, 0, 2, 3), (1, 0))],
)
def test_axes_may_stand_anywhere(pair, order, axes):
    reference, observed = (array.transpose(order) for array in pair)
    calibrator = OutputCalibrator(batch_axis=axes[0], channel_axis=axes[1])
    calibrator.fit(reference, observed)
    np.testing.assert_array_equal(calibrator.shift_, [-1, 2])
    assert calibrator.n_samples_seen_ == 10
    assert calibrator.transform(observed).shape == observed.shape


def test_it_clones_and_shows_its_parameters():
    calibrator = OutputCalibrator(max_shift=3, robust=True)
    assert clone(calibrator).get_params() == calibrator.get_params()
    assert calibrator.set_params(holdout=0.5).holdout == 0.5
    assert "max_shift=3" in repr(calibrator)


def test_before_fit_it_says_so():
    with pytest.raises(NotFittedError):
        OutputCalibrator().transform(np.zeros((1, 1, 4)))


def test_shapes_that_differ_are_named():
    with pytest.raises(InputError, match=r"\(2, 1, 9\) and observed \(2, 1, 8\)"):
        OutputCalibrator().fit(np.zeros((2, 1, 9)), np.zeros((2, 1, 8)))


def test_other_byte_orders_are_numbers_all_the_same(pair):
    reference, observed = pair
    first = OutputCalibrator().fit(reference, observed)
    second = OutputCalibrator().fit(reference.astype(">f4"), observed.astype(">f4"))
    assert second.correction_ == first.correction_
    swapped = observed.astype(">f4")
    corrected = second.transform(swapped)
    assert corrected.dtype == swapped.dtype
    np.testing.assert_array_equal(corrected, first.transform(observed))


@pytest.fixture
def many(monkeypatch):
    """Give more samples than are kept: 60 of windows of larger scenes, 8 kept."""
    budget = 8 * 2 * 42 * 42
    monkeypatch.setattr(
        "convcal.calibrator.OutputStatistics", partial(OutputStatistics, budget=budget)
    )
    scene = np.random.default_rng(2).normal(size=(60, 2, 50, 50)).astype(np.float32)
    noise = np.random.default_rng(3).normal(size=(60, 2, 42, 42)).astype(np.float32)
    return scene[:, :, 4:-4, 4:-4], scene[:, :, 3:-5, 6:-2] * 2 + 1 + noise / 4


def assert_same(first, second):
    """Compare fits of the same samples: to the round-off of their sums."""
    assert first.n_samples_seen_ == second.n_samples_seen_
    assert first.verdict_ == second.verdict_
    np.testing.assert_array_equal(first.shift_, second.shift_)
    np.testing.assert_allclose(first.gain_, second.gain_, rtol=1e-12)
    np.testing.assert_allclose(first.bias_, second.bias_, rtol=1e-12, atol=1e-12)
    assert first.margins_ == second.margins_
    assert first.metrics_ == second.metrics_


@pytest.mark.parametrize("size", [1, 7, 60])
def test_batches_of_any_size_in_any_order_give_the_fit_of_all(many, size):
    reference, observed = many
    whole = OutputCalibrator().fit(reference, observed)
    assert whole.n_samples_seen_ == 60
    assert whole.evidence_["pooled"]["n_subsample"] == 8
    np.testing.assert_array_equal(whole.shift_, [-1, 2])
    order = np.random.default_rng(size).permutation(60)
    calibrator = OutputCalibrator()
    for start in range(0, 60, size):
        batch = order[start : start + size]
        assert calibrator.partial_fit(reference[batch], observed[batch]) is calibrator
    assert_same(whole, calibrator)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_fit_of_all(many, n_workers):
    reference, observed = many
    workers = [
        OutputCalibrator().partial_fit(reference[k::n_workers], observed[k::n_workers])
        for k in range(n_workers)
    ]
    merged = OutputCalibrator()
    for worker in workers[::-1]:
        assert merged.merge(worker) is merged
    assert [w.n_samples_seen_ for w in workers] == [60 // n_workers] * n_workers
    assert_same(OutputCalibrator().fit(reference, observed), merged)


def test_the_attributes_are_right_after_every_batch(pair):
    reference, observed = pair
    calibrator = OutputCalibrator()
    for n in (4, 7, 10):
        start = calibrator.n_samples_seen_ if n > 4 else 0
        calibrator.partial_fit(reference[start:n], observed[start:n])
        expected = OutputCalibrator().fit(reference[:n], observed[:n])
        assert calibrator.correction_ == expected.correction_
        assert calibrator.evidence_ == expected.evidence_
        np.testing.assert_array_equal(calibrator.transform(observed), expected.transform(observed))


def test_fit_starts_again_and_partial_fit_goes_on_from_it(pair):
    reference, observed = pair
    calibrator = OutputCalibrator().partial_fit(-reference, observed)
    calibrator.fit(reference[:6], observed[:6])
    assert calibrator.n_samples_seen_ == 6
    calibrator.partial_fit(reference[6:], observed[6:])
    expected = OutputCalibrator().fit(reference, observed)
    assert calibrator.correction_ == expected.correction_
    assert_same(calibrator, expected)


def test_a_fit_that_fails_leaves_the_one_before(pair):
    reference, observed = pair
    calibrator = OutputCalibrator().fit(reference, observed)
    before = calibrator.correction_
    for fit in (calibrator.fit, calibrator.partial_fit):
        with pytest.raises(InputError, match="empty"):
            fit(reference[:0], observed[:0])
        with pytest.raises(InputError, match="it is shorter"):
            fit(reference, observed[..., 1:])
    with pytest.raises(InputError, match="those before"):
        calibrator.partial_fit(reference[..., 1:], observed[..., 1:])
    assert calibrator.n_samples_seen_ == 10
    assert calibrator.correction_ == before


def test_a_clone_has_seen_nothing_and_a_copy_goes_its_own_way(pair):
    reference, observed = pair
    calibrator = OutputCalibrator(max_shift=5).partial_fit(reference[:6], observed[:6])
    fresh, copied = clone(calibrator), copy.deepcopy(calibrator)
    with pytest.raises(NotFittedError):
        _ = fresh.shift_
    assert not hasattr(fresh, "n_samples_seen_")
    copied.partial_fit(reference[6:], observed[6:])
    assert (calibrator.n_samples_seen_, copied.n_samples_seen_) == (6, 10)


def test_parameters_that_samples_were_counted_with_cannot_change_half_way(pair):
    calibrator = OutputCalibrator(max_shift=5).partial_fit(*pair)
    calibrator.set_params(max_shift=6)
    with pytest.raises(InputError, match="start again with 'fit'"):
        calibrator.partial_fit(*pair)
    assert calibrator.fit(*pair).n_samples_seen_ == 10


def test_attributes_are_those_of_the_parameters_at_the_last_batch(pair):
    calibrator = OutputCalibrator().partial_fit(*pair)
    calibrator.set_params(model="identity")
    np.testing.assert_array_equal(calibrator.shift_, [-1, 2])
    with pytest.raises(InputError, match="model is 'nonsense'"):
        calibrator.set_params(model="nonsense").partial_fit(*pair)
    assert calibrator.n_samples_seen_ == 10


def test_calibrators_with_other_parameters_or_shapes_are_not_merged(pair):
    reference, observed = pair
    calibrator = OutputCalibrator().partial_fit(*pair)
    with pytest.raises(
        InputError, match=r"differ, \{'robust': False\} here and \{'robust': True\}"
    ):
        calibrator.merge(OutputCalibrator(robust=True).partial_fit(*pair))
    with pytest.raises(InputError, match="those before"):
        calibrator.merge(OutputCalibrator().partial_fit(reference[..., 1:], observed[..., 1:]))
    assert calibrator.merge(OutputCalibrator()).n_samples_seen_ == 10
    with pytest.raises(InputError, match="of type NoneType"):
        calibrator.merge(None)
    assert calibrator.merge(calibrator).n_samples_seen_ == 20


def test_an_output_without_a_batch_axis_is_one_sample_at_a_time(pair):
    reference, observed = pair
    calibrator = OutputCalibrator(batch_axis=None, channel_axis=0)
    for ref, obs in zip(reference, observed, strict=True):
        calibrator.partial_fit(ref, obs)
    assert calibrator.n_samples_seen_ == 10
    np.testing.assert_array_equal(calibrator.shift_, [-1, 2])
    assert calibrator.transform(observed[0]).shape == observed[0].shape


@pytest.mark.parametrize("n_different", [0, 3])
def test_labels_are_counted_in_batches(n_different):
    reference = np.arange(400, dtype=np.int32).reshape(10, 1, 40)
    observed = reference.copy()
    observed[3, 0, :n_different] += 1
    calibrator = OutputCalibrator()
    for start in (0, 5):
        calibrator.partial_fit(reference[start : start + 5], observed[start : start + 5])
    assert calibrator.family_ == ("labels" if n_different else "identical")
    assert calibrator.evidence_ == {"share_different": n_different / 400}
    assert calibrator.correction_.is_identity


def test_an_output_without_finite_values_has_the_worst_score():
    pair = make_pair((32, 32), shift=(1, -2), n_samples=8, n_channels=2, seed=0)
    calibrator = OutputCalibrator().fit(pair.reference, pair.observed)
    assert calibrator.score(pair.reference, pair.observed * np.float16(np.nan)) == -np.inf
    assert np.isnan(calibrator.score(pair.reference * np.nan, pair.observed))
