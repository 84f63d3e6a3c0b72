# SPDX-License-Identifier: BSD-3-Clause
"""What fits and checks say that their answers do not show."""

import warnings
from functools import partial

import numpy as np
import pytest
from fake_runner import FakeRunner

from convcal import Calibration, ConvcalWarning, Correction, OutputCalibration, check, fit
from convcal.errors import InputError
from convcal.export.python import export_python
from convcal.pairs import record_pairs

SHAPE = (1, 1, 16, 16)
SAMPLES = [
    {"x": np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)} for seed in range(4)
]


def runner(**provenance):
    return FakeRunner(lambda x: x, shape=SHAPE, **provenance)


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(each.category is ConvcalWarning for each in caught)
    return [str(each.message) for each in caught]


def answers(reference, observed):
    """Fit, and check, with two runners."""
    pairs = record_pairs(reference, observed, SAMPLES)
    return (lambda: fit(reference, observed, SAMPLES), lambda: check(pairs))


@pytest.mark.parametrize("which", [0, 1], ids=["fit", "check"])
def test_a_good_answer_of_the_reference_runtime_says_that_no_device_was_asked(which):
    emulated = runner(runtime="reference", faults="saturate:limit=9.0,to=clamp")
    for observed, n in (
        (runner(runtime="reference"), 1),
        (runner(runtime="coreml"), 0),
        (emulated, 0),
    ):
        messages = said(answers(runner(runtime="reference"), observed)[which])
        assert len(messages) == n, messages
        assert all("a fault of a device cannot show there" in message for message in messages)


def test_a_bad_answer_says_nothing_of_the_runtime():
    noise = iter(np.random.default_rng(9).normal(size=(99, *SHAPE)))
    observed = FakeRunner(lambda x: next(noise), shape=SHAPE, runtime="reference")
    for call in answers(runner(runtime="reference"), observed):
        assert said(call) == []


FP32 = {"package": "fp32.mlpackage", "sha256": "32", "precision": "float32"}
FP16 = {"package": "fp16.mlpackage", "sha256": "16", "precision": "float16"}


@pytest.mark.parametrize("which", [0, 1], ids=["fit", "check"])
def test_models_the_wrong_way_round_or_twice_the_same_are_noticed(which):
    for reference, observed, words in (
        (FP32, FP16, []),
        (FP16, FP32, ["'fp16.mlpackage' computes in fp16", "the wrong way round?"]),
        (FP16, FP16, ["the same package 'fp16.mlpackage'"]),
        # One package on two compute units is what a device's fault can be seen on.
        ({**FP16, "compute_units": "cpu-only"}, {**FP16, "compute_units": "all"}, []),
        ({**FP32, "precision": "float32"}, {**FP32, "faults": "row-stride"}, []),
        ({}, {}, []),
    ):
        messages = said(answers(runner(**reference), runner(**observed))[which])
        assert len(messages) == bool(words), messages
        assert all(word in messages[0] for word in words)


def calibration(**provenance):
    correction = Correction(spatial_shape=SHAPE[2:], shift=(1.0, 0.0), gain=(1.0,), bias=(0.0,))
    return Calibration({"y": OutputCalibration("correctable", "", "shift", correction)}, provenance)


def test_a_package_with_a_correction_built_in_is_checked_inside_its_margins():
    candidate = runner(**FP16, corrected="by convcal")
    pairs = record_pairs(runner(**FP32), candidate, SAMPLES)
    (message,) = said(lambda: check(pairs))
    assert "'fp16.mlpackage' has a correction built in" in message
    assert "--margins CALIBRATION" in message
    assert said(lambda: check(pairs, margins=calibration())) == []
    with pytest.raises(InputError, match=r"would be corrected twice; .* --margins"):
        check(pairs, calibration=calibration(observed={"sha256": "older"}))
    # One that was fitted on the corrected package is for what that leaves.
    assert said(lambda: check(pairs, calibration=calibration(observed={"sha256": "16"}))) == []


@pytest.mark.parametrize("role", ["calibration", "margins"])
def test_data_that_were_fitted_prove_nothing(role):
    pairs = record_pairs(runner(), runner(), SAMPLES)
    fitted, other = calibration(data=pairs.provenance["data"]), calibration(data={"sha256": "0"})
    (message,) = said(lambda: check(pairs, **{role: fitted}))
    assert "prove it on others" in message
    for silent in (other, calibration(), calibration(data="no record")):
        assert said(partial(check, pairs, **{role: silent})) == []


DEVICE = {
    "runtime": "coreml",
    "sha256": "16",
    "compute_units": "all",
    "chip": "Apple M1",
    "os": "macOS 15.1 (24B83)",
}


@pytest.mark.parametrize("role", ["calibration", "margins"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"os": "macOS 15.7 (24G222)"}, ""),
        ({"runtime": "imported"}, ""),
        ({"compute_units": "cpu-only"}, "the compute units are all, not cpu-only"),
        ({"chip": "Apple M4"}, "the chip is Apple M1, not Apple M4"),
        ({"os": "macOS 26.0"}, "the system is macOS 15.1 (24B83), not macOS 26.0"),
        ({"runtime": "reference"}, "the runtime is coreml, not reference"),
        ({"faults": "row-stride"}, "emulated faults: none here, row-stride there"),
        ({"sha256": "17"}, "the package is 16, not 17"),
    ],
)
def test_a_correction_belongs_to_the_device_that_it_was_fitted_on(role, change, words):
    pairs = record_pairs(runner(), runner(**DEVICE), SAMPLES)
    messages = said(partial(check, pairs, **{role: calibration(observed={**DEVICE, **change})}))
    if role == "margins" and "sha256" in change:
        words = ""  # the package that has the correction built in is another one
    assert len(messages) == bool(words)
    assert all(words in message for message in messages)


def spanning(span, *, dtype="float16", **parameters):
    correction = Correction(spatial_shape=SHAPE[2:], dtype=dtype, **parameters)
    metrics = {"before": {"data_range": span}}
    output = OutputCalibration("correctable", "", "affine", correction, metrics=metrics)
    return Calibration({"y": output}, {})


@pytest.mark.parametrize(
    ("made", "precision", "largest"),
    [
        (spanning(9e4, gain=(1.5,)), "float32", "90000"),
        (spanning(6e4, gain=(1.5,), bias=(-3e4,)), "output", "90000"),
        (spanning(6e4, gain=(1.5,), bias=(-3e4,)), "float32", None),
        (spanning(6e4, gain=(1.5,)), "output", None),
        (spanning(9e4), "output", None),
        (spanning(9e4, dtype="float32", gain=(1.5,)), "output", None),
        (spanning("inf", gain=(1.5,)), "output", None),
        (calibration(), "output", None),
    ],
)
def test_values_that_an_fp16_output_cannot_hold_are_named_at_export(
    tmp_path, made, precision, largest
):
    messages = said(lambda: export_python(made, tmp_path / "post.py", precision=precision))
    assert len(messages) == (largest is not None)
    if largest:
        assert f"corrected values of 'y' may reach {largest}" in messages[0]
        assert "65504" in messages[0]
