# SPDX-License-Identifier: BSD-3-Clause
"""The Core ML runner on every OS: a stand-in plays the framework (`fake_worker.py`)."""

import importlib.util
import os
import platform
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from coreml.models import quiet, save_functions, save_package

from convcal.coreml import _coremltools, prediction
from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.package import read_package
from convcal.errors import InputError, RunnerError, UnavailableError
from convcal.runtime import coreml, machine
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
def test_a_scalar_that_core_ml_gives_as_an_array_of_length_1_is_a_scalar(tmp_path):
    # "Core ML does not support scalar as output": coremltools' own tests expect (1,) for ().
    path = save_package(
        tmp_path / "ones.mlpackage",
        lambda mb, x: mb.reduce_sum(x=x, axes=[0, 1, 2], keep_dims=False, name="y"),
        shape=(1, 3, 4),
        dtype="fp32",
        target="iOS16",
    )
    with CoreMLRunner(path) as runner:
        assert runner.description.outputs[0].shape == ()
        assert runner.run(X)["y"].shape == ()


def counter(path):
    """Save a package that the stand-in takes for one that counts, in a state, how often it ran."""
    ct = load_coremltools()
    mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types
    specs = [mb.TensorSpec((1, 3, 4), types.fp16), mb.StateTensorSpec((1, 3, 4), types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, count):
        y = mb.add(x=mb.read_state(input=count), y=x)
        return mb.identity(x=mb.coreml_update_state(state=count, value=y), name="y")

    with quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


@pytest.mark.usefixtures("_macos")
def test_states_are_core_mls_own_new_for_every_run_or_kept(tmp_path):
    with CoreMLRunner(counter(tmp_path / "count.mlpackage")) as runner:
        assert [runner.run(X)["y"][0, 0, 0] for _ in range(3)] == [1, 1, 1]
        first, second = runner.make_state(), runner.make_state()
        order = [first, second, first, first, second]
        assert [runner.run(X, state=state)["y"][0, 0, 0] for state in order] == [1, 1, 2, 3, 2]
        assert runner.run(X)["y"][0, 0, 0] == 1


@pytest.mark.usefixtures("_macos")
def test_states_that_are_gone_are_freed_in_the_worker(tmp_path):
    with CoreMLRunner(counter(tmp_path / "count.mlpackage")) as runner:
        kept = runner.make_state()
        for _ in range(5):
            outputs = runner.run(X)
        # The stand-in says how many there are: this run's, the last one's and the one kept.
        assert outputs["y"][0, 0, 1] <= 3
        assert runner.run(X, state=kept)["y"][0, 0, 0] == 1


@pytest.mark.usefixtures("_macos")
def test_a_state_of_another_runner_or_of_a_model_without_any_is_refused(tmp_path):
    path = counter(tmp_path / "count.mlpackage")
    with (
        CoreMLRunner(path) as one,
        CoreMLRunner(path) as other,
        pytest.raises(InputError, match="made by another runner"),
    ):
        one.run(X, state=other.make_state())
    with (
        CoreMLRunner(package(tmp_path, "echo")) as runner,
        pytest.raises(InputError, match="keeps no states"),
    ):
        runner.make_state()


@pytest.mark.usefixtures("_macos")
def test_a_function_is_loaded_by_its_name(tmp_path):
    # The stand-in does what the function is called.
    parts = {name: package(tmp_path, name, target="iOS18") for name in ("chatter", "names")}
    path = save_functions(tmp_path / "fail.mlpackage", parts)
    with CoreMLRunner(path, function="names") as runner:
        assert runner.provenance["function"] == "names"
        assert runner.run(X)["y"].all()
    # Without a name Core ML takes the default by itself.
    with CoreMLRunner(path) as runner, pytest.raises(RunnerError, match="the framework says no"):
        runner.run(X)
    with pytest.raises(InputError, match=r"no function 'other'; its functions are"):
        CoreMLRunner(path, function="other")


@pytest.mark.usefixtures("_macos")
@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [3, 1, 2]])
def test_a_classifiers_table_is_a_vector_in_the_order_of_its_labels(tmp_path, labels):
    ct = load_coremltools()
    path = save_package(
        tmp_path / "table.mlpackage",
        lambda mb, x: mb.softmax(x=x, axis=1, name="scores"),
        shape=(1, 3),
        target="iOS16",
        classifier_config=ct.ClassifierConfig(labels),
    )
    with CoreMLRunner(path) as runner:
        outputs = runner.run({"x": np.zeros((1, 3), np.float32)})
    ((name, table),) = outputs.items()
    assert (name, table.dtype) == ("classLabel_probs", np.float32)
    np.testing.assert_array_equal(table, [0.125, 0.75, 0.125])


@pytest.mark.usefixtures("_macos")
def test_an_optional_input_that_a_sample_lacks_is_left_to_core_ml(tmp_path):
    saved = read_package(package(tmp_path, "names"))
    (kind,) = (feature.type for feature in saved.spec.description.input)
    kind.isOptional, kind.multiArrayType.floatDefaultValue = True, 2.5
    (tmp_path / "optional").mkdir()
    with CoreMLRunner(saved.save(tmp_path / "optional" / "names.mlpackage")) as runner:
        assert runner.run(X)["y"].all()
        assert not runner.run({})["y"].any()


@pytest.mark.usefixtures("_macos")
def test_pictures_without_pillow_are_refused_with_the_remedy(tmp_path, monkeypatch):
    ct = load_coremltools()
    path = save_package(
        tmp_path / "picture.mlpackage",
        lambda mb, x: mb.relu(x=x, name="picture"),
        shape=(1, 3, 8, 10),
        inputs=[ct.ImageType(name="x", shape=(1, 3, 8, 10))],
        target="iOS16",
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"'x' .*pip install 'convcal\[pictures\]'"):
        CoreMLRunner(path)


class Framework:
    """Stands in for coremltools on a Mac: remembers what it was asked for."""

    def __init__(self):
        self.compiled, self.loaded, self.given = [], [], []
        self.ComputeUnit = {"CPU_AND_NE": "the Neural Engine"}
        self.models = SimpleNamespace(
            utils=SimpleNamespace(compile_model=lambda *words: self.compiled.append(words)),
            CompiledMLModel=self.load,
        )

    def load(self, path, *, compute_units, function_name):
        self.loaded.append((path, compute_units, function_name))
        return SimpleNamespace(predict=lambda inputs: self.given.append(inputs) or {"y": 1})


@pytest.fixture
def framework(monkeypatch):
    """Put the stand-in, native library included, where the worker looks."""
    stand_in = Framework()
    monkeypatch.setattr(_coremltools, "load_coremltools", lambda: stand_in)
    name = "coremltools.libcoremlpython"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    return stand_in


def test_the_compiled_model_lies_in_the_folder_that_the_parent_removes(
    framework, tmp_path, monkeypatch
):
    # The framework itself would leave it in the user's own temporary folder.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = prediction.load_model("/some/$HOME/m.mlpackage", "cpu-and-ne", "large")
    ((source, compiled),) = framework.compiled
    assert source == "/some/$HOME/m.mlpackage"
    assert os.path.commonpath([compiled, tmp_path]) == str(tmp_path)
    assert compiled.endswith(".mlmodelc")
    assert not Path(compiled).exists()  # it is moved there
    assert framework.loaded == [(compiled, "the Neural Engine", "large")]
    assert model.predict({"x": 2}) == {"y": 1}
    assert framework.given == [{"x": 2}]


def test_coremltools_without_its_library_is_an_error_when_the_model_is_loaded(
    framework, monkeypatch
):
    # coremltools only logs a warning, which is silenced, and would fail at the first prediction.
    monkeypatch.setitem(sys.modules, "coremltools.libcoremlpython", None)
    with pytest.raises(UnavailableError, match=r"library for Core ML.*--only-binary"):
        prediction.load_model("m.mlpackage", "cpu-and-ne")
    assert framework.compiled == []


@pytest.mark.usefixtures("_macos")
def test_provenance_says_what_runs_where(tmp_path, monkeypatch):
    answers = {"-productVersion": "26.0", "-buildVersion": "25A354", "-n": "Apple M2"}
    monkeypatch.setattr(machine, "_answer", lambda program, option, *_: answers[option])
    with CoreMLRunner(package(tmp_path, "echo"), compute_units="cpu-and-ne") as runner:
        provenance = runner.provenance
    assert provenance["runtime"] == "coreml"
    assert provenance["compute_units"] == "cpu-and-ne"
    assert provenance["os"] == "macOS 26.0 (25A354)"
    assert provenance["chip"] == "Apple M2"
    assert provenance["coremltools"] == load_coremltools().__version__


@pytest.mark.usefixtures("_macos")
def test_the_machine_is_named_as_well_as_can_be_where_its_programs_do_not_run(monkeypatch):
    monkeypatch.setattr(machine, "_answer", lambda *_: "")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert machine.operating_system() == "macOS 15.1"
    assert machine.chip() == platform.machine()
    monkeypatch.undo()
    assert machine._answer("/no/such/program") == ""
    assert machine._answer(sys.executable, "-c", "print('said')") == "said"
    assert machine._answer(sys.executable, "-c", "exit(1)") == ""


@pytest.mark.skipif(sys.platform == "darwin", reason="here coremltools can reach Core ML")
def test_the_real_worker_starts_loads_coremltools_and_reports_what_it_says(tmp_path, monkeypatch):
    # Everything but the framework: on Linux coremltools has no library for it.
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    with pytest.raises(RunnerError, match=r"for cpu-only: UnavailableError: .*libcoremlpython"):
        CoreMLRunner(package(tmp_path, "m"), compute_units="cpu-only")
