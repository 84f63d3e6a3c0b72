# SPDX-License-Identifier: BSD-3-Clause
"""The Core ML runner on every OS: a stand-in plays the framework (`fake_worker.py`)."""

import platform
import sys
from pathlib import Path

import numpy as np
import pytest
from coreml.models import save_package

from convcal.coreml._coremltools import load_coremltools
from convcal.errors import InputError, RunnerError, UnavailableError
from convcal.runtime import coreml
from convcal.runtime.coreml import CoreMLRunner

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
X = {"x": np.arange(12, dtype=np.float32).reshape(1, 3, 4)}


@pytest.fixture
def _macos(monkeypatch):
    """Make the runner believe in macOS, and the stand-in its framework."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(coreml, "_COMMAND", FAKE)


def package(folder, model, *, output="y", dtype="fp32", target="iOS16"):
    """Save a package whose name tells the stand-in what to do."""
    return save_package(
        folder / f"{model}.mlpackage",
        lambda mb, x: mb.relu(x=x, name=output),
        shape=(1, 3, 4),
        dtype=dtype,
        target=target,
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="here Core ML is available")
def test_off_macos_the_message_says_what_can_be_done(tmp_path):
    with pytest.raises(UnavailableError, match=r"macOS only.*--runtime reference.*capture"):
        CoreMLRunner(tmp_path / "m.mlpackage")


@pytest.mark.usefixtures("_macos")
def test_outputs_come_in_the_dtype_that_the_package_states(tmp_path):
    # The stand-in gives padded float16 rows.
    with CoreMLRunner(package(tmp_path, "stride")) as runner:
        outputs = runner.run(X)
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], X["x"])
    with CoreMLRunner(package(tmp_path / "half", "stride", dtype="fp16")) as runner:
        assert runner.run(X)["y"].dtype == np.float16


@pytest.mark.usefixtures("_macos")
@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAYSCALE"])
def test_pictures_go_in_and_out_as_arrays(tmp_path, colour):
    ct = load_coremltools()
    layout = getattr(ct.colorlayout, colour)
    size = (1, 1 if colour == "GRAYSCALE" else 3, 8, 10)
    path = save_package(
        tmp_path / "picture.mlpackage",
        lambda mb, x: mb.relu(x=x, name="picture"),
        shape=size,
        inputs=[ct.ImageType(name="x", shape=size, color_layout=layout)],
        outputs=[ct.ImageType(name="picture", color_layout=layout)],
        target="iOS16",
    )
    with CoreMLRunner(path) as runner:
        shape = runner.description.inputs[0].shape
        image = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
        output = runner.run({"x": image})["picture"]
    assert output.dtype == np.uint8
    np.testing.assert_array_equal(output, image[::-1])


@pytest.mark.usefixtures("_macos")
def test_a_crash_names_the_package_and_the_compute_units(tmp_path):
    path = package(tmp_path, "crash")
    with (
        CoreMLRunner(path, compute_units="cpu-and-gpu") as runner,
        pytest.raises(RunnerError, match=r"crash\.mlpackage' on cpu-and-gpu.*SIGSEGV"),
    ):
        runner.run(X)


@pytest.mark.usefixtures("_macos")
def test_a_package_that_does_not_load_leaves_no_process(tmp_path, monkeypatch):
    started = []
    worker = coreml.WorkerProcess
    monkeypatch.setattr(
        coreml, "WorkerProcess", lambda *a, **k: started.append(worker(*a, **k)) or started[-1]
    )
    with pytest.raises(RunnerError, match=r"loading '.*unloadable\.mlpackage' for cpu-only"):
        CoreMLRunner(package(tmp_path, "unloadable"), compute_units="cpu-only")
    assert not started[0].is_alive


@pytest.mark.usefixtures("_macos")
def test_a_sample_that_does_not_fit_is_refused_before_core_ml_sees_it(tmp_path):
    with CoreMLRunner(package(tmp_path, "crash")) as runner:
        with pytest.raises(InputError, match=r"\(1, 3, 5\)"):
            runner.run({"x": np.zeros((1, 3, 5), np.float32)})
        with pytest.raises(InputError, match="lacks 'x'"):
            runner.run({})


@pytest.mark.usefixtures("_macos")
def test_an_output_of_another_shape_than_stated_is_an_error(tmp_path):
    with (
        CoreMLRunner(package(tmp_path, "echo", output="scalar")) as runner,
        pytest.raises(RunnerError, match="KeyError"),
    ):
        runner.run(X)
    with (
        CoreMLRunner(package(tmp_path, "stride", output="scalar")) as runner,
        pytest.raises(RunnerError, match=r"output 'scalar' .* came with shape \(\)"),
    ):
        runner.run(X)


@pytest.mark.usefixtures("_macos")
def test_provenance_says_what_runs_where(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    with CoreMLRunner(package(tmp_path, "echo"), compute_units="cpu-and-ne") as runner:
        provenance = runner.provenance
    assert provenance["runtime"] == "coreml"
    assert provenance["compute_units"] == "cpu-and-ne"
    assert provenance["os"] == "macOS 15.1"
    assert provenance["coremltools"] == load_coremltools().__version__
    assert provenance["chip"]


@pytest.mark.skipif(sys.platform == "darwin", reason="here coremltools can predict")
def test_the_real_worker_starts_loads_coremltools_and_reports_what_it_says(tmp_path, monkeypatch):
    # Everything but the framework: on Linux coremltools itself refuses to predict.
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    with (
        CoreMLRunner(package(tmp_path, "m"), compute_units="cpu-only") as runner,
        pytest.raises(RunnerError, match=r"Exception: .*(macOS|CoreML)"),
    ):
        runner.run(X)
