# SPDX-License-Identifier: BSD-3-Clause
"""The exported file gives the bits of the post-processor, whatever stands in the model."""

import ast
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import calibrations, observed_shape, small

from convcal import Calibration, Correction, OutputCalibration, PostProcessor, export_python
from convcal.errors import ConvcalWarning, InputError, OutputExistsError, SelfCheckError

HOSTILE = '"""\n\\\x00\u2028\'; import os; os.abort()  # {0} %s \ud83d'


@pytest.mark.filterwarnings("ignore:there is no correction:convcal.errors.ConvcalWarning")
@pytest.mark.filterwarnings("ignore:.* are beyond 65504:convcal.errors.ConvcalWarning")
@given(calibrations(small), st.sampled_from(["float32", "output"]))
@settings(deadline=None, max_examples=40)
def test_it_gives_the_bits_of_the_post_processor(tmp_path_factory, calibration, precision):
    path = tmp_path_factory.mktemp("export") / "corrections.py"
    export_python(calibration, path, precision=precision)
    module = runpy.run_path(str(path))
    corrections = {name: output.correction for name, output in calibration.outputs.items()}
    rng = np.random.default_rng(0)
    outputs = {
        name: rng.normal(size=observed_shape(correction, n_batch=2)).astype(correction.dtype)
        for name, correction in corrections.items()
    }
    expected = PostProcessor(corrections, precision=precision)(outputs)
    got = module["correct_outputs"](outputs)
    assert list(got) == list(expected)
    for name in outputs:
        np.testing.assert_array_equal(got[name], expected[name])


@given(st.text(max_size=30))
@example(HOSTILE)
@settings(deadline=None, max_examples=40)
def test_names_cannot_become_code(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("export") / "corrections.py"
    output = OutputCalibration("correctable", name, name, Correction(spatial_shape=(4,)))
    provenance = {"emulated": True, "faults": [name]}
    export_python(Calibration({name: output}, provenance), path)
    plain_path = path.with_name("plain.py")
    plain = OutputCalibration("correctable", "", "", Correction(spatial_shape=(4,)))
    export_python(Calibration({"y": plain}, {"emulated": True, "faults": ["f"]}), plain_path)
    # The same statements, but for the one literal that holds the name.
    tree, expected = (ast.parse(file.read_text("ascii")) for file in (path, plain_path))
    assert [ast.dump(node) for node in tree.body if not isinstance(node, ast.Assign)][1:] == [
        ast.dump(node) for node in expected.body if not isinstance(node, ast.Assign)
    ][1:]
    assert list(runpy.run_path(str(path))["CORRECTIONS"]) == [name]


def test_the_file_tests_itself_and_needs_numpy_only(tmp_path):
    correction = Correction(spatial_shape=(8, 8), shift=(-4.0, 1.0), gain=(1.5,), bias=(0.1,))
    output = OutputCalibration("correctable", "", "shift", correction)
    path = tmp_path / "corrections.py"
    export_python(Calibration({"y": output}), path)
    run = [sys.executable, "-I", "-W", "error", str(path)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "ok\n"
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= {"__future__", "collections.abc", "functools", "typing", "numpy"}


@pytest.mark.parametrize(
    ("outputs", "error", "words"),
    [
        ({"z": np.zeros((1, 1, 4))}, ValueError, r"\['z'\] has a correction.*\['y'\]"),
        (np.zeros((1, 1, 4)), TypeError, "of type ndarray; accepted is a dict"),
    ],
    ids=["no known name", "no dict"],
)
def test_outputs_that_would_stay_wrong_unnoticed_are_refused(tmp_path, outputs, error, words):
    correction = Correction(spatial_shape=(4,), shift=(1.0,), gain=(1.0,), bias=(0.0,))
    output = OutputCalibration("correctable", "", "shift", correction)
    path = export_python(Calibration({"y": output}), tmp_path / "c.py")
    with pytest.raises(error, match=words):
        runpy.run_path(os.fspath(path))["correct_outputs"](outputs)


def test_the_self_test_notices_a_changed_number(tmp_path):
    correction = Correction(spatial_shape=(8,), shift=(-1.0,), gain=(1.5,), bias=(0.1,))
    path = tmp_path / "corrections.py"
    export_python(Calibration({"y": OutputCalibration("correctable", "", "", correction)}), path)
    for old, new in (
        ("(1.5,)", "(1.25,)"),
        ("((1, (1.0,)),)", "((0, (1.0,)),)"),
        ("(0.1,)", "(0.2,)"),
    ):
        text = path.read_text()
        assert old in text
        changed = tmp_path / "changed.py"
        changed.write_text(text.replace(old, new))
        with pytest.raises(RuntimeError, match="expected"):
            runpy.run_path(str(changed))["self_test"]()


@pytest.mark.parametrize(
    ("correction", "changes"),
    [
        (Correction((64,), scale=(1.01,)), [("1.01", "1.011"), (", 12, 6.0", ", 10, 6.0")]),
        (Correction((8,), crop=((1, 2),)), [("((1, 2),)", "((2, 1),)")]),
        (Correction((8, 8), row_stride=16), [("(8, 16)", "(8, 17)")]),
    ],
)
def test_the_self_test_notices_a_changed_scale_crop_or_row_stride(tmp_path, correction, changes):
    path = tmp_path / "corrections.py"
    export_python(Calibration({"y": OutputCalibration("correctable", "", "", correction)}), path)
    for old, new in changes:
        text = path.read_text()
        assert text.count(old) == 1
        changed = tmp_path / "changed.py"
        changed.write_text(text.replace(old, new))
        with pytest.raises(RuntimeError, match="expected"):
            runpy.run_path(str(changed))["self_test"]()


def test_a_correction_too_large_to_be_tested_is_refused(tmp_path):
    correction = Correction((8, 8), crop=((2**24, 0), (2**24, 0)))
    calibration = Calibration({"y": OutputCalibration("correctable", "", "", correction)})
    with pytest.raises(InputError, match="too much for the test in an exported file"):
        export_python(calibration, tmp_path / "corrections.py")


def test_a_file_that_fails_its_own_test_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Correction, "apply", lambda self, array, **_: array + 1)
    output = OutputCalibration("correctable", "", "", Correction(spatial_shape=(8,)))
    with pytest.raises(SelfCheckError, match="does not pass its own test"):
        export_python(Calibration({"y": output}), tmp_path / "corrections.py")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        ({"runtime": "coreml"}, "outputs of Core ML"),
        ({"runtime": "reference"}, "no Apple hardware took part"),
        ({}, "recorded elsewhere"),
        ({"runtime": ["hostile"]}, "recorded elsewhere"),
    ],
)
def test_the_origin_of_the_outputs_is_said(tmp_path, observed, words):
    output = OutputCalibration("correctable", "", "", Correction(spatial_shape=(8,)))
    calibration = Calibration({"y": output}, {"observed": observed})
    assert words in export_python(calibration, tmp_path / "corrections.py").read_text()


def test_emulation_is_labelled_and_existing_files_are_kept(tmp_path):
    output = OutputCalibration("correctable", "", "", Correction(spatial_shape=(8,)))
    calibration = Calibration({"y": output}, {"emulated": True, "faults": ["crop-origin"]})
    path = export_python(calibration, tmp_path / "corrections.py")
    assert "EMULATED" in path.read_text()
    with pytest.raises(OutputExistsError):
        export_python(calibration, path)


def test_an_output_that_stays_wrong_is_warned_of(tmp_path):
    mended, wrong = Correction(spatial_shape=(8,), gain=(2.0,), bias=(0.0,)), Correction((8,))
    calibration = Calibration(
        {
            "big": OutputCalibration("correctable", "", "", mended),
            "mask": OutputCalibration("not-correctable", "", "", wrong),
            "side": OutputCalibration("identical", "", "", wrong),
        }
    )
    with pytest.warns(ConvcalWarning, match=r"no correction for 'mask' \(not-correctable\):"):
        export_python(calibration, tmp_path / "corrections.py")
