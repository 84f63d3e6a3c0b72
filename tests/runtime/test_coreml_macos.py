# SPDX-License-Identifier: BSD-3-Clause
"""Core ML itself. These tests need macOS; elsewhere each is skipped by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
from coreml.models import save_package

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.describe import describe
from convcal.coreml.package import read_package
from convcal.data import open_samples
from convcal.errors import RunnerError
from convcal.runtime import open_runner
from convcal.runtime.coreml import CoreMLRunner
from convcal.runtime.runner import COMPUTE_UNITS

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")

ISSUE_2324 = Path(__file__).parents[2] / "calibration_data" / "models" / "issue-2324"


def closed_form(x, weight):
    """Compute the program of #2324: a transposed convolution, stride 2, pad (1, 0), length 8."""
    n_outputs, size = weight.shape[1:]
    full = np.zeros((1, n_outputs, 2 * (x.shape[2] - 1) + size))
    for i in range(x.shape[2]):
        full[0, :, 2 * i : 2 * i + size] += x[0, 0, i].astype(float) * weight[0].astype(float)
    return full[:, :, 1:9]


def weight_of_issue_2324():
    with np.load(ISSUE_2324 / "weights.npz", allow_pickle=False) as file:
        return file["weight"]


def test_auto_is_core_ml():
    with open_runner(ISSUE_2324 / "fp32.mlpackage", compute_units="cpu-only") as runner:
        assert runner.provenance["runtime"] == "coreml"
        assert runner.provenance["os"].startswith("macOS ")
        assert runner.provenance["chip"] != "unknown"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_description_is_that_of_the_package(precision):
    path = ISSUE_2324 / f"{precision}.mlpackage"
    with CoreMLRunner(path, compute_units="cpu-only") as runner:
        assert runner.description == describe(read_package(path))


def test_fp32_on_the_cpu_is_the_closed_form():
    with CoreMLRunner(ISSUE_2324 / "fp32.mlpackage", compute_units="cpu-only") as runner:
        samples = open_samples(ISSUE_2324 / "samples" / "heldout.npz", runner.description)
        for sample in samples:
            y = runner.run(sample)["y"]
            # Two products and a sum, each rounded to float32: 3 * 2^-24 relative to the largest.
            np.testing.assert_allclose(
                y, closed_form(sample["x"], weight_of_issue_2324()), rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("compute_units", COMPUTE_UNITS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_pair_runs_on_all_compute_units(precision, compute_units):
    # What fp16 gives off the CPU is what convcal is there to find out; here only that it comes.
    path = ISSUE_2324 / f"{precision}.mlpackage"
    with CoreMLRunner(path, compute_units=compute_units) as runner:
        sample = {"x": np.linspace(0, 1, 4, dtype=np.float32).reshape(1, 1, 4)}
        first, second = runner.run(sample)["y"], runner.run(sample)["y"]
        assert runner.provenance["compute_units"] == compute_units
    assert first.shape == (1, 2, 8)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


def test_half_precision_outputs_stay_half_precision(tmp_path):
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="y"),
        # 13 float16 in a row are not a multiple of 64 bytes: rows are padded on the devices.
        shape=(1, 2, 5, 13),
        target="iOS16",
        dtype="fp16",
    )
    x = np.random.default_rng(4).random((1, 2, 5, 13)).astype(np.float16)
    for compute_units in COMPUTE_UNITS:
        with CoreMLRunner(path, compute_units=compute_units) as runner:
            y = runner.run({"x": x})["y"]
        assert y.dtype == np.float16
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAYSCALE"])
def test_pictures_go_in_and_out_in_rgb_whatever_the_package_stores(tmp_path, colour):
    ct = load_coremltools()
    layout = getattr(ct.colorlayout, colour)
    size = (1, 1 if colour == "GRAYSCALE" else 3, 12, 10)
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="y"),
        shape=size,
        inputs=[ct.ImageType(name="x", shape=size, color_layout=layout)],
        outputs=[ct.ImageType(name="y", color_layout=layout)],
        target="iOS16",
    )
    with CoreMLRunner(path, compute_units="cpu-only") as runner:
        shape = runner.description.inputs[0].shape
        image = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
        # 0 to 255 are exact in float16, so an identity network changes nothing.
        np.testing.assert_array_equal(runner.run({"x": image})["y"], image)


def test_a_time_limit_ends_the_run():
    with pytest.raises(RunnerError, match="no answer within"):
        CoreMLRunner(ISSUE_2324 / "fp32.mlpackage", timeout=0.001)
