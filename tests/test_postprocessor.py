# SPDX-License-Identifier: BSD-3-Clause
import subprocess
import sys

import numpy as np
import pytest

from convcal import Calibration, Correction, OutputCalibration, PostProcessor
from convcal.errors import InputError


@pytest.fixture
def corrections():
    """Give corrections of a picture and of a vector."""
    return {
        "picture": Correction(spatial_shape=(4, 5), shift=(1.0, -1.0), gain=(2.0,), bias=(1.0,)),
        "vector": Correction(spatial_shape=(), gain=(0.5, 3.0), bias=(0.0, 0.0)),
    }


def test_a_dict_of_outputs_is_corrected_by_name(corrections):
    rng = np.random.default_rng(0)
    outputs = {
        "vector": rng.normal(size=(1, 2)).astype(np.float32),
        "other": np.arange(3),
        "picture": rng.normal(size=(1, 1, 4, 5)).astype(np.float16),
    }
    before = {name: array.copy() for name, array in outputs.items()}
    corrected = PostProcessor(corrections)(outputs)
    assert list(corrected) == list(outputs)
    assert corrected["other"] is outputs["other"]
    for name in ("picture", "vector"):
        np.testing.assert_array_equal(corrected[name], corrections[name].apply(outputs[name]))
        np.testing.assert_array_equal(outputs[name], before[name])


def test_buffers_are_filled_by_name(corrections):
    vector = np.ones((7, 2), np.float32)
    out = {"vector": np.empty_like(vector)}
    result = PostProcessor(corrections)({"vector": vector}, out=out)
    assert result["vector"] is out["vector"]
    np.testing.assert_array_equal(out["vector"], vector * [0.5, 3.0])


def test_names_without_a_correction_are_an_error_when_none_has_one(corrections):
    with pytest.raises(InputError, match=r"\['pictrue'\].*\['picture', 'vector'\]"):
        PostProcessor(corrections)({"pictrue": np.zeros(3)})
    with pytest.raises(InputError, match="'pictrue'"):
        PostProcessor(corrections).apply("pictrue", np.zeros(3))


def test_an_array_in_place_of_a_dict_is_refused(corrections):
    with pytest.raises(InputError, match="of type ndarray; accepted is a dict"):
        PostProcessor(corrections)(np.zeros((1, 1, 4), np.float32))


def test_an_array_that_does_not_fit_is_named(corrections):
    with pytest.raises(InputError, match=r"output 'vector': .*\(1, 3\)"):
        PostProcessor(corrections)({"vector": np.zeros((1, 3))})


def test_an_unknown_precision_is_refused(corrections):
    with pytest.raises(InputError, match="'float16'"):
        PostProcessor(corrections, precision="float16")
    with pytest.raises(InputError, match="at least one"):
        PostProcessor({})


def test_loading_and_applying_needs_numpy_alone(tmp_path, corrections):
    outputs = {
        name: OutputCalibration("correctable", "", "shift", correction)
        for name, correction in corrections.items()
    }
    Calibration(outputs, {"emulated": False}).save(tmp_path / "c.json")
    code = (
        "import sys, numpy\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "from convcal import PostProcessor\n"
        f"process = PostProcessor.load({str(tmp_path / 'c.json')!r})\n"
        "process({'vector': numpy.ones((1, 2), numpy.float32)})\n"
        "new = {name.partition('.')[0] for name in sys.modules} - before\n"
        "print(sorted(new - sys.stdlib_module_names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['convcal']"
