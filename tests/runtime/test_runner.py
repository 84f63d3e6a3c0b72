# SPDX-License-Identifier: BSD-3-Clause
"""Which runtime a package is opened on, and what is refused before anything runs."""

import sys
from pathlib import Path

import numpy as np
import pytest

import convcal.runtime.coreml
from convcal.errors import InputError, UnavailableError
from convcal.model_description import Feature, ModelDescription
from convcal.runtime import open_runner

PACKAGE = Path(__file__).parents[2] / "calibration_data/models/issue-2324/fp16.mlpackage"


class StandIn:
    """Takes the place of the Core ML runner, and remembers how it was made."""

    description = ModelDescription(
        inputs=(), outputs=(Feature("y", "tensor", (1, 1, 2), "float32"),)
    )
    provenance = {"runtime": "coreml"}  # noqa: RUF012 - never changed

    def __init__(self, path, *, compute_units, function, timeout):
        self.made_with = (path, compute_units, function, timeout)

    def run(self, _):
        return {"y": np.array([[[1, 2]]], np.float32)}

    def close(self):
        pass


@pytest.fixture
def on_a_mac(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(convcal.runtime.coreml, "CoreMLRunner", StandIn)


def test_auto_is_core_ml_on_a_mac(on_a_mac):
    runner = open_runner(
        "some.mlpackage", compute_units="cpu-and-ne", function="large", timeout=7.0
    )
    assert runner.made_with == ("some.mlpackage", "cpu-and-ne", "large", 7.0)


def test_auto_is_the_reference_runtime_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with open_runner(PACKAGE) as runner:
        assert runner.provenance["runtime"] == "reference"


def test_faults_of_arrays_act_on_core_ml_too_and_are_labelled(on_a_mac):
    with open_runner("some.mlpackage", faults=["channel-affine:gain=2.0"]) as runner:
        np.testing.assert_array_equal(runner.run({})["y"], [[[2, 4]]])
        assert runner.provenance["faults"] == "channel-affine:gain=2.0,bias=0.0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faults": ["crop-origin"]}, "'crop-origin:.*acts inside the network.*--runtime refer"),
        ({"faults": ["flush:at=y"]}, "'flush:.*at=y' acts inside the network.*--runtime refer"),
        ({"faults": ["flush:on=conv"]}, "'flush:.*on=conv' acts inside the network"),
        ({"faults": ["profile-m1-ane"]}, "'profile-m1-ane' acts inside the network"),
        ({"extra_outputs": ["relu_3"]}, "not its tensor 'relu_3'.*--runtime reference"),
    ],
)
def test_what_needs_the_inside_of_the_network_is_refused_on_core_ml(on_a_mac, options, message):
    with pytest.raises(InputError, match=message):
        open_runner("some.mlpackage", **options)


def test_the_reference_runtime_can_be_chosen_on_a_mac(on_a_mac):
    with open_runner(PACKAGE, runtime="reference", faults=["crop-origin"]) as runner:
        assert runner.provenance["runtime"] == "reference"


def test_core_ml_elsewhere_is_refused_with_what_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UnavailableError, match=r"--runtime reference.*--captures"):
        open_runner(tmp_path / "x.mlpackage", runtime="coreml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "no runtime 'onnx'; choose one of auto, coreml, reference"),
        ({"compute_units": "tpu"}, "no compute units 'tpu'; choose one of all, cpu-only"),
        ({"faults": ["nonsense"]}, "no fault 'nonsense'; the faults are channel-affine"),
        ({"timeout": 0}, "the timeout is 0; seconds above 0"),
        ({"timeout": float("nan")}, "the timeout is nan"),
    ],
)
def test_what_is_accepted_is_listed(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        open_runner(tmp_path / "x.mlpackage", **options)
