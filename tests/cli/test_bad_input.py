# SPDX-License-Identifier: BSD-3-Clause
"""Bad input, through the command line: what the message names, the exit code, nothing left behind.

The fixture `refused` also asserts that the message is one line, that ``--json`` says the same,
and that no file was made, changed or removed.
"""

import json
import math
import resource
import shutil

import numpy as np
import pytest
from cli.scenes import displaced

from convcal import Calibration, Correction, OutputCalibration
from convcal.coreml._coremltools import load_message_types

OUT = ("-o", "net.json")


def edit_model(package, edit):
    """Change the specification of a package in place."""
    file = next(package.rglob("*.mlmodel"))
    model, _ = load_message_types()
    spec = model.Model.FromString(file.read_bytes())
    edit(spec)
    file.write_bytes(spec.SerializeToString())


# Packages


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_package_that_is_not_there(refused, pair, data, place):
    models = ("gone.mlpackage", pair[1]) if place == "first" else (pair[0], "gone.mlpackage")
    refused("fit", *models, "--data", data, *OUT, names=["gone.mlpackage"], error="bad-input")


def test_a_file_that_is_no_package(refused, folder, pair, data):
    (folder / "text.mlpackage").write_text("not a folder")
    refused("fit", pair[0], "text.mlpackage", "--data", data, *OUT, names=["text.mlpackage"])


def test_a_package_that_may_not_be_read(refused, monkeypatch, pair, data):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("convcal.coreml.package._read_bytes", refuse)  # root may read anything
    names = [str(pair[0]), "Permission denied", "check the path and its permissions"]
    refused("fit", *pair, "--data", data, *OUT, names=names, error="bad-input")


def test_a_package_without_a_manifest(refused, damaged, pair, data):
    (damaged / "Manifest.json").unlink()
    refused("fit", pair[0], damaged, "--data", data, *OUT, names=["damaged", "Manifest.json"])


def test_a_corrupt_manifest(refused, damaged, pair, data):
    (damaged / "Manifest.json").write_text('{"itemInfoEntries": ')
    refused("fit", pair[0], damaged, "--data", data, *OUT, names=["damaged", "Manifest.json"])


def test_a_corrupt_model(refused, damaged, pair, data):
    next(damaged.rglob("*.mlmodel")).write_bytes(b"\xff" * 64)
    refused("fit", pair[0], damaged, "--data", data, *OUT, names=["damaged"])


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_corrupt_weight_file(refused, folder, pair, damage):
    # The tiny pair keeps its weights in the program; FSRCNN has a weight file.
    network = pair[0].parents[1] / "fsrcnn"
    broken = shutil.copytree(network / "fp16.mlpackage", folder / "broken.mlpackage")
    weights = next(broken.rglob("weight.bin"))
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:200])
    np.savez(folder / "luma.npz", luma=np.zeros((4, 1, 1, 64, 64), np.float32))
    models = (network / "fp32.mlpackage", broken)
    refused("fit", *models, "--data", "luma.npz", *OUT, names=["broken.mlpackage", "weight.bin"])


@pytest.mark.parametrize("kind", ["neuralNetwork", "pipeline"])
def test_a_model_that_is_no_ml_program(refused, damaged, pair, data, kind):
    edit_model(damaged, lambda spec: getattr(spec, kind).SetInParent())
    names = ["damaged", kind]
    error = "unsupported-model"
    refused("fit", pair[0], damaged, "--data", data, *OUT, names=names, error=error)
    refused("run", damaged, "--data", data, "-o", "o.npz", names=names, error=error)


# Models and data that do not match


def test_models_that_do_not_match_each_other(refused, pair, data):
    other = pair[0].parents[1] / "fsrcnn" / "fp16.mlpackage"
    refused("fit", pair[0], other, "--data", data, *OUT, names=["inputs", "'x'", "'luma'"])


@pytest.mark.parametrize("verb", ["fit", "check", "run", "capture"])
def test_data_that_is_not_there(refused, pair, verb):
    words = {
        "fit": ("fit", *pair, *OUT),
        "check": ("check", *pair),
        "run": ("run", pair[0], "-o", "outputs.npz"),
        "capture": ("capture", pair[0], "--role", "observed", "-o", "net.capture"),
    }[verb]
    refused(*words, "--data", "gone.npz", names=["gone.npz"], error="bad-input")


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"z": np.zeros((3, 1, 1, 4), np.float32)}, ["'z'", "'x'"]),
        ({"x": np.zeros((3, 1, 1, 5), np.float32)}, ["'x'", "(3, 1, 1, 5)"]),
        ({"x": np.full((3, 1, 1, 4), "text")}, ["'x'", "<U4"]),
        ({"x": np.zeros((3, 1, 1, 4), np.complex64)}, ["'x'", "complex64"]),
        ({"x": np.full((3, 1, 1, 4), np.nan, np.float32)}, ["'x'", "NaN"]),
        ({"x": np.array([{}], dtype=object)}, ["'x'", "object"]),
        ({"x": np.zeros((0, 1, 1, 4), np.float32)}, ["bad.npz"]),
        ({}, ["bad.npz"]),
    ],
    ids=["name", "shape", "text", "complex", "nan", "pickled", "no-samples", "empty"],
)
def test_data_that_does_not_fit_the_model(refused, folder, pair, arrays, names):
    np.savez(folder / "bad.npz", **arrays)
    refused("fit", *pair, "--data", "bad.npz", *OUT, names=names, error="bad-input")


@pytest.mark.parametrize("place", ["gone", "gone.py:samples"])
def test_data_that_are_not_there_are_refused_before_a_model_is_opened(
    refused, monkeypatch, pair, place
):
    for module in ("pair_sources", "capturing"):
        monkeypatch.setattr(f"convcal.{module}.open_runner", None)  # a call would be a TypeError
    capture = ("capture", pair[0], "--role", "observed", "-o", "c")
    for words in (("fit", *pair, *OUT), ("check", *pair), ("run", pair[0], "-o", "o.npz"), capture):
        refused(*words, "--data", place, names=[f"no calibration data at '{place}'"])


def test_an_empty_folder_as_data(refused, folder, pair):
    (folder / "pictures").mkdir()
    refused("fit", *pair, "--data", "pictures", *OUT, names=["pictures", "no calibration data"])


def test_one_sample_is_enough_for_an_answer(convcal, folder, pair):
    np.savez(folder / "one.npz", x=np.ones((1, 1, 4), np.float32))
    result = convcal("fit", *pair, "--data", "one.npz", *OUT, "--json")
    assert (result.code, result.document["status"]) == (0, "identical")
    assert (folder / "net.json").is_file()


def test_users_code_that_fails_is_named(refused, folder, pair):
    (folder / "samples.py").write_text(
        "def broken():\n    return 1 / 0\ndef quits():\n    exit(3)\n"
    )
    words = ("fit", *pair, *OUT, "--data")
    refused(*words, "samples.py:broken", names=["samples.py", "ZeroDivisionError"])
    refused(*words, "samples.py:gone", names=["samples.py", "gone"])
    assert refused(*words, "samples.py:quits", names=["3"]).code == 2


# Outputs


def fit_arrays(convcal, captured, reference, observed):
    path = captured(reference, observed)
    return convcal("fit", "--captures", path, *OUT, "--json")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_few_values_that_are_not_finite_are_left_out_and_counted(convcal, captured, value):
    reference, observed = displaced()
    observed[0, 0, 0, :3, :3] = value
    document = fit_arrays(convcal, captured, reference, observed).document
    output = document["result"]["calibration"]["outputs"]["y"]
    assert output["correction"]["shift"] == [-3.0, 2.0]
    assert output["evidence"]["channels"]["n_nonfinite_observed"][0] > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_without_a_finite_value_are_no_ground_for_a_correction(convcal, captured, value):
    reference, observed = displaced()
    result = fit_arrays(convcal, captured, reference, np.full_like(observed, value))
    assert result.code == 1
    assert result.document["status"] == "not-correctable"
    assert (
        "no value of the observed output is finite"
        in result.document["result"]["calibration"]["outputs"]["y"]["reason"]
    )


def test_constant_outputs_are_no_ground_for_a_correction(convcal, captured):
    reference = np.zeros((8, 1, 2, 16, 16), np.float32)
    result = fit_arrays(convcal, captured, reference, reference + 1)
    assert result.code == 1
    assert result.document["status"] == "not-identifiable"
    assert "constant" in result.document["result"]["calibration"]["outputs"]["y"]["reason"]


def test_captures_whose_roles_do_not_match(refused, folder, convcal):
    np.savez("reference.npz", y=np.zeros((3, 2, 8), np.float32))
    np.savez("observed.npz", y=np.zeros((3, 2, 9), np.float32))
    words = ("capture", "--import")
    first = convcal(*words, "reference.npz", "--role", "reference", "-o", "net.capture")
    assert first.code == 0
    refused("fit", "--captures", "net.capture", *OUT, names=["net.capture", "observed"])
    refused(
        *words, "observed.npz", "--role", "observed", "-o", "net.capture", names=["'y'", "8", "9"]
    )


def test_a_folder_that_is_no_capture(refused, folder):
    (folder / "other").mkdir()
    refused("fit", "--captures", "other", *OUT, names=["other", "capture"])
    refused("fit", "--captures", "gone", *OUT, names=["gone"])


# Calibration files


def test_a_truncated_calibration(refused, folder, calibration, pair, data):
    calibration.write_text(calibration.read_text()[:-40])
    names = ["net.calibration.json", "JSON"]
    np.savez("outputs.npz", y=displaced()[1][0])
    refused("apply", calibration, "outputs.npz", "-o", "corrected.npz", names=names)
    refused("export", calibration, "--to", "python", "-o", "net.py", names=names)
    refused("check", *pair, "--data", data, "--calibration", calibration, names=names)


def test_a_calibration_of_a_newer_version(refused, calibration):
    record = json.loads(calibration.read_text())
    calibration.write_text(json.dumps({**record, "version": 99}))
    names = ["net.calibration.json", "99", "update convcal"]
    refused("export", calibration, "--to", "python", "-o", "net.py", names=names)


def test_a_file_that_is_no_calibration(refused, folder):
    (folder / "other.json").write_text("{}")
    refused("export", "other.json", "--to", "python", "-o", "net.py", names=["other.json"])
    refused("export", "gone.json", "--to", "python", "-o", "net.py", names=["gone.json"])


def test_a_package_is_scaled_only_where_it_is_allowed(refused, convcal, folder, pair):
    correction = Correction((8,), scale=(1.1,), gain=(1.0,) * 2, bias=(0.0,) * 2)
    output = OutputCalibration("correctable", "", "scale", correction)
    path = Calibration({"y": output}).save(folder / "scale.json")
    words = ("export", path, "--to", "coreml", "--model", pair[1], "-o", "new.mlpackage")
    refused(*words, names=["--allow-scale", "2 multiply-adds per value"], error="bad-input")
    assert convcal(*words, "--allow-scale").code == 0


def test_a_calibration_for_another_model(refused, folder, calibration, pair, captured):
    # It was fitted on (1, 2, 48, 40), the model gives (1, 2, 8).
    coreml = ("--to", "coreml", "--model", pair[1], "-o", "new.mlpackage")
    refused("export", calibration, *coreml, names=["'y'"], error="bad-input")
    np.savez("outputs.npz", z=np.zeros((1, 2, 8), np.float32))
    words = ("apply", calibration, "outputs.npz", "-o", "corrected.npz")
    refused(*words, names=["'z'", "'y'"])
    np.savez("outputs.npz", y=np.zeros((1, 2, 8), np.float32))
    refused(*words, names=["'outputs.npz'", "'y'", "channels"])
    path = captured(
        np.zeros((3, 1, 2, 8), np.float32), np.zeros((3, 1, 2, 8), np.float32), name="z"
    )
    check = ("check", "--captures", path, "--calibration", calibration)
    refused(*check, names=["'y'", "'z'"])


# Where results go


def commands_that_write(pair, calibration):
    """Give every command that writes, without its target."""
    np.savez("outputs.npz", y=np.repeat(displaced()[1], 3, axis=1)[0])
    data = ("--data", "data.npz")
    return {
        "net.json": ("fit", *pair, *data),
        "net.capture": ("capture", pair[0], "--role", "reference", *data),
        "imported.capture": ("capture", "--import", "outputs.npz", "--role", "observed"),
        "corrected.npz": ("apply", calibration, "outputs.npz"),
        "net.py": ("export", calibration, "--to", "python"),
        "run.npz": ("run", pair[0], *data),
    }


def test_a_target_that_exists_is_kept(refused, folder, pair, data, calibration):
    for target, words in commands_that_write(pair, calibration).items():
        (folder / target).write_text("mine")
        error = None if "capture" in words else "output-exists"
        refused(*words, "-o", target, names=[target], error=error)
        assert (folder / target).read_text() == "mine"


def test_a_target_in_a_folder_that_does_not_exist(refused, folder, pair, data, calibration):
    for target, words in commands_that_write(pair, calibration).items():
        refused(*words, "-o", f"gone/{target}", names=["gone"], error="bad-input")


def test_a_full_disk(refused, folder, pair, data, calibration):
    # A limit on the size of files fails writes as a full disk does, with another number.
    commands = commands_that_write(pair, calibration)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        for target, words in commands.items():
            refused(*words, "-o", target, names=[target], error="cannot-write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_while_a_package_is_written(refused, folder, pair, data, convcal):
    emulate = ("--emulate", "crop-origin")
    assert convcal("fit", *pair, "--data", data, *emulate, *OUT).code == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
        words = ("export", "net.json", "--to", "coreml", "--model", pair[1])
        refused(*words, "-o", "new.mlpackage", names=["new.mlpackage"], error="cannot-write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Faults and thresholds


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ("gone", ["'gone'", "crop-origin"]),
        ("crop-origin:variant=third", ["variant=third", "swapped or symmetric"]),
        ("channel-affine:gian=2", ["'gian'", "gain"]),
        ("noise:at=nowhere", ["'nowhere'", "no such tensor or operation", "'x'"]),
        ("noise:on=convv", ["'convv'", "conv_transpose"]),
        ("profile-m1-ane:limit=1", ["no parameters"]),
    ],
)
def test_a_fault_that_does_not_exist(refused, pair, data, fault, names):
    refused("fit", *pair, "--data", data, "--emulate", fault, *OUT, names=names)


def test_numbers_out_of_range_are_refused_before_any_work(refused):
    models = ("gone", "gone", "--data", "gone")
    for words in (
        ("fit", *models, *OUT, "--holdout", "0"),
        ("fit", *models, *OUT, "--holdout", "0.51"),
        ("fit", *models, *OUT, "--holdout", "nan"),
        ("fit", *models, *OUT, "--timeout", "0"),
        ("check", *models, "--timeout", "inf"),
        ("fit", *models, *OUT, "--max-shift", "-1"),
        ("fit", *models, *OUT, "--max-shift", "2.5"),
        ("fit", *models, *OUT, "--channel-axis", "y=one"),
        ("check", *models, "--max-rmse", "-1"),
        ("check", *models, "--min-cosine", str(math.pi)),
        ("check", *models, "--min-snr", "loud"),
    ):
        refused(*words, names=[words[-2], words[-1]], error="usage")


# Paths


def test_paths_that_the_system_refuses(refused, pair, data):
    long = "n" * 300
    for words in (
        ("fit", "--captures", long, *OUT),
        ("capture", "--import", data, "--role", "observed", "-o", long),
        ("run", pair[0], "--data", data, "-o", f"{long}/outputs.npz"),
        ("apply", long, data, "-o", "corrected.npz"),
    ):
        refused(*words, names=[long, "too long"])


def test_a_demo_that_would_overwrite_a_file(refused, folder):
    (folder / "notes").write_text("mine")
    (folder / "link").symlink_to("nowhere")
    refused("demo", "-o", "notes", "--force", names=["'notes' is no folder"], error="bad-input")
    refused("demo", "-o", "link", "--force", names=["'link' is no folder"], error="bad-input")


def test_a_threshold_that_is_no_number(refused):
    words = ("check", "gone", "gone", "--data", ".", "--min-snr", "nan")
    refused(*words, names=["min_snr_db is nan"], error="bad-input")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--runtime", "coreml"),
        ("--timeout", "7"),
        ("--emulate", "int-shift"),
        ("compute-units", "cpu-only"),
    ],
)
def test_outputs_that_are_recorded_take_no_word_on_how_a_model_runs(refused, flag, value):
    for words, role in (
        (("fit", "--captures", "c", *OUT), "observed-"),
        (("check", "--captures", "c"), "candidate-"),
        (("capture", "--import", "o.npz", "--role", "observed", "-o", "c"), ""),
    ):
        name = flag if flag.startswith("--") else f"--{role}{flag}"
        refused(*words, name, value, names=["takes the place of", name], error="usage")


def test_outputs_do_not_replace_the_data_that_they_are_of(refused, pair, data):
    refused("run", pair[1], "--data", data, "-o", data, "--force", names=["holds the data"])
