# SPDX-License-Identifier: BSD-3-Clause
"""Fitting over runners; packages and captures are in test_end_to_end.py."""

import numpy as np
import pytest
from fake_runner import FakeRunner

from convcal import fit
from convcal.assessment import FitOptions
from convcal.errors import InputError
from convcal.layout import Layout
from convcal.pairs import record_pairs

SHAPE = (1, 2, 40, 48)


def scenes(n=6, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(n)]


def moved(array):
    """Displace by (+2, -1), with new content at the border, and change gain and bias."""
    out = np.random.default_rng(9).normal(size=array.shape)
    out[..., 2:, :-1] = array[..., :-2, 1:]
    return out * np.array([1.5, 0.5]).reshape(1, 2, 1, 1) + 0.25


def test_shift_gain_and_bias_are_found_over_runners():
    progress = []
    reference = FakeRunner(lambda x: x, shape=SHAPE, runtime="fake")
    observed = FakeRunner(moved, shape=SHAPE, runtime="fake")
    calibration = fit(
        reference, observed, scenes(), progress=lambda done, total: progress.append((done, total))
    )
    output = calibration.outputs["y"]
    assert output.verdict == calibration.verdict == "correctable"
    assert output.correction.shift == (-2.0, 1.0)
    assert output.correction.margins == ((0, 2), (1, 0))
    # float32 storage of values of order 1, 11,000 of them: far below 1e-6 after averaging.
    np.testing.assert_allclose(output.correction.gain, [1 / 1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(output.correction.bias, [-0.25 / 1.5, -0.5], atol=1e-6)
    metrics = output.metrics
    assert len(metrics["before_channels"]) == len(metrics["after_channels"]) == 2
    assert all(after["snr_db"] > 100 for after in metrics["after_channels"])
    assert progress == [(done, 6) for done in range(1, 7)]
    assert calibration.provenance["reference"] == {"runtime": "fake"}
    assert calibration.provenance["data"]["n_samples"] == 6
    assert not calibration.is_emulated
    assert not reference.is_closed


def test_equal_models_are_identical():
    runner = FakeRunner(lambda x: x, shape=SHAPE)
    calibration = fit(runner, runner, scenes())
    assert calibration.verdict == "identical"
    assert calibration.is_identity


def test_an_output_without_channels_is_fitted_with_its_layout():
    shape = (1, 60, 30)
    reference = FakeRunner(lambda x: x, shape=shape)
    observed = FakeRunner(lambda x: np.roll(x, 3, axis=1) * 2, shape=shape)
    calibration = fit(reference, observed, scenes(shape=shape), axes={"y": Layout(0, None)})
    correction = calibration.outputs["y"].correction
    assert (correction.batch_axis, correction.channel_axis) == (0, None)
    assert correction.shift == (-3.0, 0.0)
    np.testing.assert_allclose(correction.gain, [0.5], rtol=1e-6)


@pytest.mark.parametrize("same", [True, False])
def test_labels_are_compared_and_never_corrected(same):
    shape = (1, 1, 8, 8)
    reference = FakeRunner(lambda x: x > 0, shape=shape, dtype="int32")
    observed = FakeRunner(lambda x: x > (0 if same else 1), shape=shape, dtype="int32")
    output = fit(reference, observed, scenes(shape=shape)).outputs["y"]
    assert output.verdict == ("identical" if same else "not-correctable")
    assert output.correction.is_identity
    assert (output.evidence["share_different"] == 0) == same


def test_models_with_other_names_or_shapes_are_refused():
    reference = FakeRunner(lambda x: x, shape=SHAPE)
    for shorter in (SHAPE[:3], (1, 2, 40, 47)):
        observed = FakeRunner(lambda x: x, shape=SHAPE, output_shape=shorter)
        with pytest.raises(InputError, match=r"output 'y'.* does not match"):
            fit(reference, observed, scenes())
    observed = FakeRunner(lambda x: x, shape=SHAPE)
    observed.description = reference.description.__class__(
        inputs=reference.description.inputs, outputs=()
    )
    with pytest.raises(InputError, match="outputs of the two models do not match"):
        fit(reference, observed, scenes())


def test_outputs_that_are_not_what_the_model_says_are_refused():
    reference = FakeRunner(lambda x: x, shape=SHAPE)
    observed = FakeRunner(lambda x: x[..., :-1], shape=SHAPE)
    with pytest.raises(
        InputError, match=r"output 'y': reference has shape .*, 40, 48\).*, 40, 47\): it is shorter"
    ):
        fit(reference, observed, scenes())
    sizes = iter(range(10, 40))
    growing = FakeRunner(lambda x: x[..., : next(sizes)], shape=SHAPE)
    with pytest.raises(InputError, match="'y' of the observed changes its shape"):
        fit(reference, growing, scenes())


@pytest.mark.parametrize(
    "options",
    [
        {"model": "warp"},
        {"holdout": 0},
        {"holdout": 0.51},
        {"holdout": float("nan")},
        {"max_shift": -1},
        {"max_shift": 2.5},
        {"data_range": 0.0},
        {"data_range": float("inf")},
    ],
)
def test_options_that_cannot_be_used_are_refused_before_any_model_runs(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name} is {value!r}"):
        FitOptions(**options)


def test_faults_cannot_be_emulated_on_a_users_runner():
    runner = FakeRunner(lambda x: x, shape=SHAPE)
    with pytest.raises(InputError, match="on packages only"):
        fit(runner, runner, scenes(), emulate=["crop-origin"])


def test_a_layout_for_an_unknown_output_is_refused():
    runner = FakeRunner(lambda x: x, shape=SHAPE)
    with pytest.raises(InputError, match=r"no output \['z'\]; the outputs are \['y'\]"):
        fit(runner, runner, scenes(), axes={"z": Layout()})
    with pytest.raises(InputError, match=r"output 'y': .*channel axis 7"):
        fit(runner, runner, scenes(), axes={"y": Layout(0, 7)})


def test_a_picture_of_float16_has_no_batch_and_no_channels():
    shape = (60, 30)
    reference = FakeRunner(lambda x: x, shape=shape, dtype="float16", kind="image")
    observed = FakeRunner(lambda x: np.roll(x, 3, 0), shape=shape, dtype="float16", kind="image")
    correction = fit(reference, observed, scenes(shape=shape)).outputs["y"].correction
    assert (correction.batch_axis, correction.channel_axis) == (None, None)
    assert correction.shift == (-3.0, 0.0)


def test_pairs_keep_dtypes_and_join_samples():
    reference = FakeRunner(lambda x: x, shape=SHAPE)
    observed = FakeRunner(lambda x: x, shape=SHAPE, dtype="float16")
    pair = record_pairs(reference, observed, scenes(3)).outputs["y"]
    assert pair.reference.shape == pair.observed.shape == (3, 2, 40, 48)
    assert (pair.reference.dtype, pair.observed.dtype) == (np.float32, np.float16)
