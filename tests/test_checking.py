# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from convcal import Calibration, Correction, OutputCalibration, check
from convcal.checking import Thresholds
from convcal.errors import InputError
from convcal.layout import Layout
from convcal.pairs import OutputPair, Pairs


def pairs(reference, observed, layout=None):
    return Pairs({"y": OutputPair(reference, observed, layout or Layout())}, {})


@pytest.fixture
def reference():
    """Give eight pictures of unit variance."""
    return np.random.default_rng(0).normal(size=(8, 1, 16, 16)).astype(np.float32)


def test_equal_outputs_pass_every_threshold(reference):
    thresholds = Thresholds(
        min_snr_db=300, min_psnr_db=300, max_abs_error=0, max_rmse=0, min_cosine=0.999999
    )
    result = check(pairs(reference, reference), thresholds=thresholds)
    assert result
    assert result.to_dict()["passed"] is True


@pytest.mark.parametrize(
    ("thresholds", "word"),
    [
        (Thresholds(min_snr_db=20.1), "SNR"),
        (Thresholds(max_abs_error=0.01), "largest error"),
        (Thresholds(max_rmse=0.01), "RMSE"),
        (Thresholds(min_psnr_db=60), "PSNR"),
        (Thresholds(min_cosine=1.0), "cosine"),
    ],
)
def test_every_threshold_can_fail(reference, thresholds, word):
    rng = np.random.default_rng(1)
    observed = 1.01 * reference + 0.1 * rng.normal(size=reference.shape)
    result = check(pairs(reference, observed), thresholds=thresholds)
    assert not result
    (failure,) = result.outputs["y"].failures
    assert failure.startswith(word)


def test_the_default_is_fifty_decibels(reference):
    assert check(pairs(reference, reference * (1 + 0.003)))
    result = check(pairs(reference, reference * (1 + 0.0033)))
    assert "is below 50 dB" in result.outputs["y"].failures[0]


def test_a_value_lost_to_nan_fails_whatever_the_threshold(reference):
    observed = reference.copy()
    observed[0, 0, 3, 3] = np.nan
    result = check(pairs(reference, observed), thresholds=Thresholds(min_cosine=0))
    assert result.outputs["y"].failures == ("1 values are not finite where the reference is",)


@pytest.mark.parametrize("name", ["min_snr_db", "max_rmse"])
def test_a_threshold_that_nothing_can_miss_is_refused(name):
    with pytest.raises(InputError, match=f"{name} is nan"):
        Thresholds(**{name: float("nan")})


def test_nothing_to_compare_fails():
    nothing = np.full((1, 1, 4), np.nan, np.float32)
    assert not check(pairs(nothing, nothing))


@pytest.mark.parametrize("layout", [Layout(), Layout(None, 2)])
def test_a_calibration_is_applied_and_its_margins_left_out(reference, layout):
    observed = np.roll(reference, 2, axis=2) * 2
    correction = Correction(
        spatial_shape=(16, 16),
        shift=(-2.0, 0.0),
        gain=(0.5,),
        bias=(0.0,),
        batch_axis=layout.batch_axis,
        channel_axis=layout.channel_axis,
    )
    calibration = Calibration({"y": OutputCalibration("correctable", "", "shift", correction)})
    assert not check(pairs(reference, observed, layout))
    assert check(pairs(reference, observed, layout), calibration=calibration)


def test_a_candidate_with_the_correction_built_in_is_checked_inside_its_margins(reference):
    corrected = reference.copy()
    corrected[:, :, -2:] = corrected[:, :, -3:-2]
    correction = Correction(spatial_shape=(16, 16), shift=(-2.0, 0.0), gain=(0.5,), bias=(0.0,))
    calibration = Calibration({"y": OutputCalibration("correctable", "", "shift", correction)})
    assert not check(pairs(reference, corrected))
    result = check(pairs(reference, corrected), margins=calibration)
    assert result
    assert result.outputs["y"].metrics.n_values == reference[:, :, :-2].size
    with pytest.raises(InputError, match="give one"):
        check(pairs(reference, corrected), calibration=calibration, margins=calibration)


def test_a_calibration_of_another_model_is_refused(reference):
    output = OutputCalibration("correctable", "", "", Correction(spatial_shape=(16, 16)))
    with pytest.raises(InputError, match=r"\['z'\].*\['y'\]"):
        check(pairs(reference, reference), calibration=Calibration({"z": output}))
    correction = Correction(spatial_shape=(16,))
    output = OutputCalibration("correctable", "", "", correction)
    with pytest.raises(InputError, match="output 'y'"):
        check(pairs(reference, reference), calibration=Calibration({"y": output}))
