# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from convcal import OutputCalibrator
from convcal.errors import InputError


@pytest.fixture
def pair():
    """Give windows of larger scenes, displaced by (+1, -2), with gain and bias."""
    scene = np.random.default_rng(0).normal(size=(10, 2, 50, 50)).astype(np.float32)
    reference = scene[:, :, 4:-4, 4:-4]
    observed = scene[:, :, 3:-5, 6:-2] * 2 + 1
    return reference, observed


def test_fit_and_transform_undo_the_displacement(pair):
    reference, observed = pair
    before = reference.copy(), observed.copy()
    calibrator = OutputCalibrator().fit(reference, observed)
    assert calibrator.verdict_ == "correctable"
    np.testing.assert_array_equal(calibrator.shift_, [-1, 2])
    np.testing.assert_allclose(calibrator.gain_, 0.5, rtol=1e-6)
    np.testing.assert_allclose(calibrator.bias_, -0.5, atol=1e-6)
    assert calibrator.margins_ == ((0, 1), (2, 0))
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
    with pytest.raises(InputError, match=r"\(2, 1, 8\) and observed \(2, 1, 9\)"):
        OutputCalibrator().fit(np.zeros((2, 1, 8)), np.zeros((2, 1, 9)))


def test_other_byte_orders_are_numbers_all_the_same(pair):
    reference, observed = pair
    first = OutputCalibrator().fit(reference, observed)
    second = OutputCalibrator().fit(reference.astype(">f4"), observed.astype(">f4"))
    assert second.correction_ == first.correction_
    swapped = observed.astype(">f4")
    corrected = second.transform(swapped)
    assert corrected.dtype == swapped.dtype
    np.testing.assert_array_equal(corrected, first.transform(observed))
