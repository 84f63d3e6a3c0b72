# SPDX-License-Identifier: BSD-3-Clause
"""One function of a package that has several."""

import numpy as np
import pytest
from coreml.models import save_functions, save_package

from convcal import FitOptions, fit, record_pairs
from convcal.capturing import capture_outputs, record_outputs
from convcal.errors import InputError
from convcal.fitting.shards import ModelsJob
from convcal.runtime import open_runner


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A package whose functions double and negate; they differ in their inputs and precision."""
    folder = tmp_path_factory.mktemp("functions")
    parts = {
        "double": save_package(
            folder / "a.mlpackage",
            lambda mb, x: mb.mul(x=x, y=np.float32(2), name="y"),
            shape=(1, 3),
            target="iOS18",
        ),
        "negate": save_package(
            folder / "b.mlpackage",
            lambda mb, x: mb.mul(x=x, y=np.float16(-1), name="z"),
            shape=(2, 2),
            target="iOS18",
            dtype="fp16",
            precision="FLOAT16",
        ),
    }
    return save_functions(folder / "both.mlpackage", parts)


def test_each_function_runs_with_its_own_inputs_and_says_so(path):
    with open_runner(path, runtime="reference") as runner:
        outputs = runner.run({"x": np.float32([[1, 2, 3]])})
        np.testing.assert_array_equal(outputs["y"], [[2, 4, 6]])
        assert (runner.provenance["function"], runner.provenance["precision"]) == (
            "double",
            "float32",
        )
    with open_runner(path, runtime="reference", function="negate") as runner:
        outputs = runner.run({"x": np.float16([[1, 2], [3, 4]])})
        np.testing.assert_array_equal(outputs["z"], [[-1, -2], [-3, -4]])
        assert (runner.provenance["function"], runner.provenance["precision"]) == (
            "negate",
            "float16",
        )


def test_an_unknown_function_is_refused_with_those_that_there_are(path):
    with pytest.raises(InputError, match=r"no function 'halve'; its functions are \['double', 'ne"):
        open_runner(path, runtime="reference", function="halve")


def test_a_package_with_one_function_takes_its_name_and_records_none(tmp_path):
    path = save_package(
        tmp_path / "m.mlpackage", lambda mb, x: mb.relu(x=x, name="y"), shape=(1, 2)
    )
    with open_runner(path, runtime="reference", function="main") as runner:
        assert "function" not in runner.provenance
        np.testing.assert_array_equal(runner.run({"x": np.float32([[-1, 1]])})["y"], [[0, 1]])


@pytest.mark.filterwarnings("ignore:reference and observed are the same package")
@pytest.mark.filterwarnings("ignore:the fp16 program itself is right")
def test_run_capture_pairs_and_fit_take_a_function(path, tmp_path):
    data = [{"x": np.float16([[1, 2], [3, n]])} for n in range(4)]
    how = {"runtime": "reference", "function": "negate"}
    recording = record_outputs(path, data, tmp_path / "o.npz", tensors=["z", "x"], **how)
    assert recording.provenance["function"] == "negate"
    with np.load(tmp_path / "o.npz") as file:
        np.testing.assert_array_equal(file["sample-3/z"], -file["sample-3/x"])
    capture = capture_outputs(path, data, tmp_path / "c.capture", role="observed", **how)
    assert capture.provenance["observed"]["function"] == "negate"
    pairs = record_pairs(path, path, data, **how)
    assert list(pairs.outputs) == ["z"]
    calibration = fit(path, path, data, **how)
    assert calibration.verdict == "identical"
    assert calibration.provenance["reference"]["function"] == "negate"


def test_other_processes_are_told_of_the_function(path):
    job = ModelsJob(path, path, path, FitOptions(), function="negate")
    assert job.shared().function == "negate"
