# SPDX-License-Identifier: BSD-3-Clause
"""Core ML itself. These tests need macOS; elsewhere each is skipped by name."""

import functools
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coreml.models import save_functions, save_package
from programs import State, make_package, mb, save

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.describe import describe
from convcal.coreml.package import read_package
from convcal.coreml.patch import append_corrections
from convcal.correction import AxisFilter, Correction
from convcal.data import open_samples
from convcal.errors import RunnerError
from convcal.runtime import open_runner
from convcal.runtime.coreml import CoreMLRunner
from convcal.words import COMPUTE_UNITS

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")

ISSUE_2324 = Path(__file__).parents[2] / "calibration_data" / "models" / "issue-2324"


@functools.cache
def is_virtual():
    """Tell whether this Mac is a virtual machine, as GitHub's are.

    These have no Neural Engine, and a paravirtual GPU that aborts in some of Metal's calls: what
    happens there is no news about Core ML.
    """
    command = ["/usr/sbin/sysctl", "-n", "kern.hv_vmm_present"]
    return subprocess.run(command, capture_output=True, check=False).stdout.strip() == b"1"


@pytest.fixture(params=COMPUTE_UNITS)
def compute_units(request):
    """Each choice of compute units that can be relied on here."""
    if request.param != "cpu-only" and is_virtual():
        pytest.skip("a virtual machine has neither a Neural Engine nor a GPU of its own")
    return request.param


def uncropped(x, weight):
    """Compute the transposed convolution of #2324, stride 2, without its pad (1, 0): length 9."""
    n_outputs, size = weight.shape[1:]
    full = np.zeros((1, n_outputs, 2 * (x.shape[2] - 1) + size))
    for i in range(x.shape[2]):
        full[0, :, 2 * i : 2 * i + size] += x[0, 0, i].astype(float) * weight[0].astype(float)
    return full


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


def test_fp32_on_the_cpu_is_the_closed_form_right_or_displaced_as_documented():
    # The framework may be at fault on the CPU too (#2281); that is not for this test to say.
    with CoreMLRunner(ISSUE_2324 / "fp32.mlpackage", compute_units="cpu-only") as runner:
        samples = open_samples(ISSUE_2324 / "samples" / "heldout.npz", runner.description)
        given = np.stack([runner.run(sample)["y"] for sample in samples])
    full = np.stack([uncropped(sample["x"], weight_of_issue_2324()) for sample in samples])
    # Two products and a sum, each rounded to float32: 3 * 2^-24 relative to the largest.
    errors = [np.abs(given - full[..., begin : begin + 8]).max() for begin in (0, 1)]
    assert min(errors) <= 3 * 2**-24 * np.abs(full).max()


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


def test_half_precision_outputs_stay_half_precision(tmp_path, compute_units):
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="y"),
        # 13 float16 in a row are not a multiple of 64 bytes: rows are padded on the devices.
        shape=(1, 2, 5, 13),
        target="iOS16",
        dtype="fp16",
    )
    x = np.random.default_rng(4).random((1, 2, 5, 13)).astype(np.float16)
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


def needs_macos_15():
    """Skip where Core ML has neither states nor functions yet."""
    version = int(platform.mac_ver()[0].split(".")[0])
    if version < 15:
        pytest.skip(f"macOS {version} has no states and no functions; macOS 15 has")


def test_states_go_on_or_begin_with_zeros_as_on_the_reference_runtime(tmp_path):
    needs_macos_15()

    def build(x, total):
        old = mb.read_state(input=total)
        new = mb.coreml_update_state(state=total, value=mb.add(x=old, y=x))
        return mb.identity(x=old, name="before"), mb.identity(x=new, name="after")

    package = make_package(build, target="iOS18", x=((1, 4), "float16"), total=State((1, 4)))
    path = save(package, tmp_path / "m.mlpackage")
    sample = {"x": np.array([[1, 2, 3, 4]], np.float16)}
    for runtime in ("coreml", "reference"):
        with open_runner(path, runtime=runtime, compute_units="cpu-only") as runner:
            one, other = runner.make_state(), runner.make_state()
            befores = [
                runner.run(sample, state=state)["before"] for state in (one, one, other, None, one)
            ]
        np.testing.assert_array_equal(
            np.stack(befores)[:, 0], np.outer([0, 1, 0, 0, 2], sample["x"][0])
        )


def test_a_function_is_chosen_by_its_name(tmp_path):
    needs_macos_15()
    parts = {
        name: save_package(
            tmp_path / f"{name}.mlpackage",
            lambda mb, x: mb.mul(x=x, y=np.float32(factor), name="y"),  # noqa: B023 - called at once
            shape=(1, 3),
            target="iOS18",
        )
        for name, factor in (("double", 2), ("negate", -1))
    }
    path = save_functions(tmp_path / "both.mlpackage", parts)
    x = np.array([[1, 2, 3]], np.float32)
    for name, expected in ((None, 2 * x), ("double", 2 * x), ("negate", -x)):
        with CoreMLRunner(path, compute_units="cpu-only", function=name) as runner:
            np.testing.assert_array_equal(runner.run({"x": x})["y"], expected)


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [3, 1, 2]])
def test_a_classifiers_probabilities_come_in_the_order_of_its_labels(tmp_path, labels):
    ct = load_coremltools()
    path = save_package(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.softmax(x=x, axis=1, name="scores"),
        shape=(1, 3),
        target="iOS16",
        classifier_config=ct.ClassifierConfig(labels),
    )
    with CoreMLRunner(path, compute_units="cpu-only") as runner:
        result = runner.run({"x": np.array([[1, 2, 3]], np.float32)})["classLabel_probs"]
    exact = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    np.testing.assert_allclose(result, exact, rtol=1e-3)


def test_a_time_limit_ends_the_run():
    with pytest.raises(RunnerError, match="no answer within"):
        CoreMLRunner(ISSUE_2324 / "fp32.mlpackage", timeout=0.001)


CUBIC = AxisFilter(offset=-2, taps=(-0.0625, 0.5625, 0.5625, -0.0625))


@pytest.mark.parametrize(
    "way",
    [
        {"shift": (-1.0,)},
        {"shift": (0.5,), "filters": (CUBIC,)},
        {"shift": (0.25,), "scale": (1.1,)},
    ],
    ids=["whole", "fractional", "scaled"],
)
@pytest.mark.parametrize(("precision", "unit"), [("fp32", 2**-24), ("fp16", 2**-11)])
def test_a_corrected_package_gives_what_the_correction_gives(tmp_path, precision, unit, way):
    source = ISSUE_2324 / f"{precision}.mlpackage"
    (feature,) = describe(read_package(source)).outputs
    correction = Correction(
        spatial_shape=(8,),
        dtype=feature.dtype,
        gain=(1.5, 0.5),
        bias=(0.25, -1.0),
        **way,
    )
    package = append_corrections(read_package(source), {"y": correction}, allow_scale=True)
    sample = {"x": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 1, 4)}
    results = []
    for path in (source, package.save(tmp_path / "corrected.mlpackage")):
        with open_runner(path, compute_units="cpu-only") as runner:
            results.append(runner.run(sample)["y"])
    before, after = results
    # Four products, three sums, a gain and a bias: 9 roundings of values up to this size (the
    # magnitudes of the taps add up to 1.25), in any order, on both sides.
    atol = 2 * 9 * unit * (1.25 * 1.5 * np.abs(before).max() + 1)
    np.testing.assert_allclose(after, correction.apply(before), rtol=0, atol=atol)


def test_a_program_that_core_ml_does_not_compile_is_an_error_in_its_words(tmp_path):
    package = read_package(ISSUE_2324 / "fp32.mlpackage")
    function = package.spec.mlProgram.functions["main"]
    function.block_specializations[function.opset].operations[-1].type = "no_such_operation"
    path = package.save(tmp_path / "bad.mlpackage")
    with pytest.raises(RunnerError, match=r"loading '.*bad\.mlpackage' for cpu-only: RuntimeError"):
        CoreMLRunner(path, compute_units="cpu-only")


def test_no_compiled_model_stays_in_the_folder_of_the_user():
    command = ["/usr/bin/getconf", "DARWIN_USER_TEMP_DIR"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    before = set(folder.glob("*.mlmodelc"))
    with CoreMLRunner(ISSUE_2324 / "fp32.mlpackage", compute_units="cpu-only") as runner:
        runner.run({"x": np.zeros((1, 1, 4), np.float32)})
    assert set(folder.glob("*.mlmodelc")) <= before
