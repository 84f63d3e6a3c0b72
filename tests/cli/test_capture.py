# SPDX-License-Identifier: BSD-3-Clause
"""The forms of the verb capture: record with tensors or on several units, merge, verify."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from cli.scenes import FAULT, content
from fake_runner import FakeRunner

from convcal.data import open_capture
from convcal.errors import RunnerError

INNER = "x_to_fp16"  # of the observed program; the reference has none


@pytest.fixture
def recorded(convcal, pair, data):
    """Record both roles of the pair, the observed one with a tensor and under a fault."""

    def record(path, *, data=data):
        for role, model, *more in (
            ("reference", pair[0]),
            ("observed", pair[1], "--emulate", FAULT, "--tensors", INNER, "y"),
        ):
            words = ("capture", model, "--role", role, "--data", data, "-o", path, *more)
            result = convcal(*words)
            assert result.code == 0, result.err
        return result

    return record


def test_tensors_are_recorded_and_never_taken_for_outputs(convcal, folder, pair, data, recorded):
    result = recorded("net.capture")
    assert f"  {INNER}: float16 1x1x4, an intermediate tensor" in result.out.splitlines()
    capture = open_capture(folder / "net.capture")
    assert capture.outputs == ("y",)
    assert capture.tensors == {"reference": (), "observed": (INNER,)}
    words = ("run", pair[1], "--data", data, "--outputs", INNER, "-o", "inner.npz")
    assert convcal(*words).code == 0
    with np.load("inner.npz") as inner:
        for sample in capture.samples:
            found = capture.read_tensors("observed", sample)[INNER]
            np.testing.assert_array_equal(found, inner[f"{sample}/{INNER}"])
    assert convcal("fit", "--captures", "net.capture", "-o", "net.json").code == 0
    assert list(json.loads((folder / "net.json").read_text())["outputs"]) == ["y"]
    document = convcal("check", "--captures", "net.capture", "--json").document
    assert list(document["result"]["outputs"]) == ["y"]


def test_fitting_on_merged_halves_gives_the_bits_that_fitting_the_models_does(
    convcal, folder, pair, data, recorded
):
    with np.load(data) as samples:
        x = samples["x"]
    (folder / "half").mkdir()
    for name, part in (("data", x[:5]), ("more", x[5:])):
        np.savez(folder / "half" / f"{name}.npz", x=part)
        recorded(f"{name}.capture", data=folder / "half" / f"{name}.npz")
    merged = convcal("capture", "--merge", "data.capture", "more.capture", "-o", "net.capture")
    assert merged.code == 0
    assert f"EMULATED FAULT: {FAULT}" in merged.out
    assert "observed outputs, 12 samples written to net.capture" in merged.out
    assert convcal("fit", "--captures", "net.capture", "-o", "captured.json").code == 0
    words = ("fit", *pair, "--data", folder / "half", "--emulate", FAULT, "-o", "direct.json")
    assert convcal(*words).code == 0
    direct, captured = (
        json.loads((folder / f"{n}.json").read_text())["outputs"] for n in ("direct", "captured")
    )
    assert captured == direct
    assert captured["y"]["verdict"] == "correctable"


def test_what_is_damaged_is_named_with_exit_code_1(convcal, folder, recorded):
    recorded("net.capture")
    sound = convcal("capture", "--verify", "net.capture")
    assert sound.code == 0
    assert "net.capture is as it was recorded, 36 chunks" in sound.out
    chunk = folder / "net.capture/observed/output-0/c/7/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    before = content(folder)
    result = convcal("capture", "--verify", "net.capture")
    assert result.code == 1
    (line,) = (line for line in result.out.splitlines() if line.startswith("damaged"))
    assert line.startswith("damaged: observed, sample data[7], output y: ")
    document = convcal("capture", "--verify", "net.capture", "--json").document
    assert document["status"] == "failed"
    (damage,) = document["result"]["damage"]
    assert (damage["role"], damage["sample"], damage["output"]) == ("observed", "data[7]", "y")
    assert content(folder) == before


def test_what_is_no_capture_cannot_be_verified(refused, data):
    refused("capture", "--verify", data, names=["data.npz", "capture"], error="bad-input")
    refused("capture", "--verify", "nothing", names=["nothing"], error="bad-input")


def test_captures_that_contradict_each_other_are_refused_and_nothing_is_written(
    convcal, refused, pair, data, recorded
):
    recorded("one.capture")
    words = ("capture", pair[1], "--role", "observed", "--data", data, "-o", "other.capture")
    assert convcal(*words, "--tensors", INNER).code == 0
    words = ("capture", "--merge", "one.capture", "other.capture", "-o", "net.capture")
    refused(*words, names=["'other.capture'", "faults", FAULT], error="bad-input")


def test_a_recording_goes_on_with_the_same_tensors_only(convcal, refused, pair, data, recorded):
    recorded("net.capture")
    words = ("capture", pair[1], "--role", "observed", "--data", data, "-o", "net.capture")
    words += ("--emulate", FAULT, "--resume")
    refused(*words, names=["tensors", INNER, "--tensors"], error="bad-input")
    again = convcal(*words, "--tensors", INNER)
    assert "nothing was left to do" in again.out


def test_a_tensor_that_is_not_there_is_refused(refused, pair, data):
    words = ("capture", pair[1], "--role", "observed", "--data", data, "-o", "net.capture")
    refused(*words, "--tensors", "nothing", names=["nothing"], error="bad-input")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--verify", "c", "--force"), "--force"),
        (("--verify", "c", "--role", "observed"), "--role"),
        (("--verify", "c", "--merge", "a", "b"), "--merge"),
        (("--merge", "a", "b"), "-o missing"),
        (("--merge", "a", "b", "-o", "c", "--append"), "--append"),
        (("--merge", "a", "b", "-o", "c", "--runtime", "reference"), "--runtime"),
        (("--import", "o.npz", "-o", "c"), "--role missing"),
        (("--import", "o.npz", "--role", "observed", "-o", "c", "--tensors", "t"), "--tensors"),
        (("m", "--role", "observed", "-o", "c"), "--data missing"),
        (("m", "--data", "d", "--role", "observed", "--compute-units", "gpu", "-o", "c"), "'gpu'"),
        (
            ("m", "--data", "d", "--role", "observed", "--compute-units", "all,all", "-o", "c"),
            "twice",
        ),
    ],
)
def test_what_does_not_belong_to_a_form_is_refused(refused, words, named):
    refused("capture", *words, names=[named], error="usage")


UNITS = "cpu-only,cpu-and-gpu,cpu-and-ne"


def test_the_reference_runtime_has_one_kind_of_compute_units(refused, pair, data):
    words = ("capture", pair[1], "--role", "observed", "--data", data, "-o", "net.capture")
    refused(
        *words,
        *("--compute-units", UNITS),
        names=["the reference runtime has one kind of compute units", "Mac"],
        error="unavailable",
    )


@pytest.fixture
def core_ml(monkeypatch):
    """Let a fake stand for Core ML, whose units differ; one of them may fail."""
    failing = set()

    def open_runner(_, *, compute_units, **how):
        if compute_units in failing:
            raise RunnerError(f"{compute_units} crashed")
        factor = 2.0 ** len(compute_units)  # exact in floats
        return FakeRunner(
            lambda x: np.repeat(x, 2, axis=2) * factor,
            shape=(1, 1, 4),
            output_shape=(1, 1, 8),
            runtime="coreml",
            compute_units=compute_units,
        )

    monkeypatch.setattr("convcal.capturing.open_runner", open_runner)
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="darwin"))
    return failing


def test_each_kind_of_compute_units_has_a_capture_that_can_be_fitted(
    convcal, folder, pair, data, core_ml
):
    reference = ("capture", pair[0], "--role", "reference", "--data", data, "-o", "net.capture")
    assert convcal(*reference).code == 0
    words = ("capture", pair[1], "--role", "observed", "--data", data, "-o", "net.capture")
    result = convcal(*words, "--compute-units", UNITS)
    assert result.code == 0, result.err
    for units in UNITS.split(","):
        capture = open_capture(folder / f"net.{units}.capture")
        assert f"--captures net.{units}.capture" in result.out
        assert capture.roles == ("reference", "observed")
        assert capture.provenance["observed"]["compute_units"] == units
        assert capture.provenance["reference"]["compute_units"] == "all"
        reference, observed = (capture.read(role, "y") for role in capture.roles)
        np.testing.assert_array_equal(observed, reference * 2.0 ** (len(units) - len("all")))
    assert open_capture(folder / "net.capture").roles == ("reference",)
    document = convcal(*words, "--compute-units", UNITS, "--resume", "--json").document
    paths = [each["path"] for each in document["result"]["captures"]]
    assert paths == [f"net.{units}.capture" for units in UNITS.split(",")]


def test_units_that_fail_leave_those_before_and_the_work_goes_on(
    convcal, folder, pair, data, core_ml
):
    core_ml.add("cpu-and-gpu")
    words = ("capture", pair[1], "--role", "observed", "--data", data, "-o", "net.capture")
    words += ("--compute-units", UNITS)
    result = convcal(*words)
    assert result.code == 2
    assert "net.cpu-only.capture; --resume goes on" in result.err
    assert {path.name for path in folder.iterdir()} == {"data.npz", "net.cpu-only.capture"}
    core_ml.clear()
    result = convcal(*words, "--resume")
    assert result.code == 0, result.err
    assert "nothing was left to do: 12 samples are in net.cpu-only.capture" in result.out
    assert "12 samples written to net.cpu-and-ne.capture" in result.out
