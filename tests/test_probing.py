# SPDX-License-Identifier: BSD-3-Clause
"""What a device is asked, told from every other reading, and what is kept of its answers."""

import gc
import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from convcal.cli import main
from convcal.errors import InputError, OutputExistsError, RunnerError, UnavailableError
from convcal.probes import PROBES
from convcal.probing import UNITS, built_probes, probe_machine

QUESTIONS = sorted({probe.question for probe in PROBES})
PADS = {tuple(probe.setting["pads"]): probe for probe in PROBES if probe.question == "crop-1d"}
WIDTHS = {probe.setting["width"]: probe for probe in PROBES if probe.question == "resize"}


@pytest.fixture(scope="module")
def packages():
    """The packages of all probes, made once."""
    gc.freeze()  # coremltools collects garbage after every conversion, of all that is imported
    with built_probes() as made:
        gc.unfreeze()
        yield made


def summary(report):
    return {(each["question"], each["precision"]): each["fits"] for each in report.summary()}


# ---------------------------------------------------------------- the questions


def test_the_values_are_those_of_the_report():
    full = [1, 10, 102, 20, 203, 30, 304, 40, 400]
    for (front, back), probe in PADS.items():
        stop = 9 - back
        correct = probe.predictions["correct"][0, 0]
        np.testing.assert_array_equal(correct, full[front:stop])
        np.testing.assert_array_equal(probe.predictions["pads-ignored"][0, 0], full[: stop - front])
    symmetric = PADS[1, 0].predictions["pads-symmetric"][0, 0]
    np.testing.assert_array_equal(symmetric, [10, 102, 20, 203, 30, 304, 40, 0])


def test_the_drifts_are_those_of_the_report():
    # Of 1/(W-1) and of W/(W-1) rounded to fp16, at the far end, in pixels, to two digits.
    expected = {1025: (0, 0), 2047: (-0.002, 1), 2048: (1, 1), 2049: (0, -1)}
    for width, (of_reciprocal, of_ratio) in expected.items():
        probe = WIDTHS[width]
        for name, drift in (("reciprocal", of_reciprocal), ("ratio", of_ratio)):
            prediction = probe.predictions[f"{name}-in-fp16"]
            position, found = probe.measured(prediction)["drift_px"][-1]
            assert found == pytest.approx(drift * position / (width - 1), abs=5e-3)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_hypothesis_can_be_told_from_every_other(question):
    probes = [probe for probe in PROBES if probe.question == question]
    for one, other in itertools.combinations(probes[0].predictions, 2):
        distances = []
        for probe in probes:
            difference = np.abs(probe.predictions[one] - probe.predictions[other])
            region = slice(None) if probe.region is None else probe.region
            distances.append(difference[region].max() / probe.tolerance)
        assert max(distances) > 3, (one, other)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.question}-{probe.setting}")
def test_what_a_hypothesis_predicts_fits_it_in_fp16_too(probe):
    for name, predicted in probe.predictions.items():
        for output in (predicted.astype(np.float32), predicted.astype(np.float16)):
            assert name in probe.fits(output)
    wrong = probe.predictions["correct"].copy()
    wrong[..., wrong.shape[-1] // 2] = np.nan
    assert probe.fits(wrong) == ()
    assert probe.fits(wrong[..., :-1]) == ()
    assert probe.fits(np.zeros_like(wrong)) == ()
    for output in (wrong, wrong[..., :-1]):
        probe.measured(output)
        probe.values(output)


def test_the_origin_is_measured_where_no_hypothesis_has_it():
    probe = next(each for each in PROBES if each.setting == {"pads": [2, 1]} and each.origins)
    for origin, output in probe.origins.items():
        assert probe.measured(output) == {"origin": list(origin)}
    assert probe.measured(-probe.predictions["correct"]) == {"origin": None}


# ---------------------------------------------------------------- asking


def test_the_reference_runtime_does_what_is_correct(packages):
    report = probe_machine(packages, runtime="reference")
    assert len(report.answers) == 2 * len(PROBES)
    assert {tuple(fits) for fits in summary(report).values()} == {("correct",)}
    document = report.to_dict()
    assert not document["emulated"]
    assert document["provenance"]["runtime"] == "reference"
    assert "package" not in document["provenance"]
    assert {"os", "chip", "coremltools", "convcal"} <= document["provenance"].keys()


@pytest.mark.parametrize(("variant", "found"), [("zero", "pads-ignored"), ("half", "pads-halved")])
def test_a_crop_that_is_planted_is_named(packages, variant, found):
    fault = f"crop-origin:variant={variant},precision=fp16"
    report = probe_machine(packages, runtime="reference", emulate=[fault])
    fits = summary(report)
    for question in ("crop-1d", "crop-2d"):
        assert fits[question, "float32"] == ["correct"]
        assert fits[question, "float16"] == [found]
    # Half of what is cropped is where a valid convolution begins anyway.
    assert fits["crop-valid", "float16"] == ["correct" if variant == "half" else "pads-ignored"]
    assert fits["resize", "float16"] == ["correct"]
    assert report.to_dict()["faults"] == [fault]
    by_pads = {
        tuple(answer.probe.setting["pads"]): answer
        for answer in report.answers
        if (answer.probe.question, answer.precision) == ("crop-1d", "float16")
    }
    origins = {pads: each.to_dict()["measured"]["origin"] for pads, each in by_pads.items()}
    halves = {pads: [sum(pads) // 2] for pads in PADS}
    assert origins == ({pads: [0] for pads in PADS} if variant == "zero" else halves)


@pytest.mark.parametrize("corner", ["start", "end"])
@pytest.mark.parametrize("constant", ["reciprocal", "ratio"])
@pytest.mark.parametrize("width", [2047, 2048, 2049])
def test_a_drift_that_is_planted_is_named(packages, width, constant, corner):
    exact = (1 if constant == "reciprocal" else width) / (width - 1)
    growth = float(np.float16(exact)) / exact - 1
    number = PROBES.index(WIDTHS[width])
    some = {key: path for key, path in packages.items() if key[0] == number}
    fault = f"scale-corner:growth={growth!r},corner={corner}"
    report = probe_machine(some, runtime="reference", emulate=[fault])
    name = f"{constant}-in-fp16{'-from-end' if corner == 'end' else ''}"
    is_visible = abs(growth) * width > 0.1
    for answer in report.answers:
        assert name in answer.fits
        assert ("correct" in answer.fits) != is_visible
        drifts = answer.to_dict()["measured"]["drift_px"]
        for position, drift in drifts:
            origin = 0 if corner == "start" else width - 1
            assert drift == pytest.approx((position - origin) * growth, abs=0.02)


@pytest.mark.parametrize("fault", ["noise:relative=0.5", "garbage", "saturate:limit=3"])
def test_what_fits_nothing_is_none(packages, fault):
    some = {key: path for key, path in packages.items() if key[0] in (0, len(PROBES) - 1)}
    report = probe_machine(some, runtime="reference", emulate=[fault])
    assert {tuple(fits) for fits in summary(report).values()} == {("none",)}
    for answer in report.to_dict()["answers"]:
        assert answer["fits"] == ["none"]


@pytest.fixture
def core_ml(monkeypatch):
    """Let a runner stand for Core ML that is wrong on the GPU and crashes on the Neural Engine."""
    opened = []

    def open_runner(path, *, compute_units, **how):
        opened.append(compute_units)
        if compute_units == "cpu-and-ne":
            raise RunnerError(f"Core ML, loading '{path}' for cpu-and-ne: crashed")
        probe = PROBES[int(path.name.split("-")[0])]
        wrong = list(probe.predictions.values())[compute_units == "cpu-and-gpu"]
        wrong = np.where(np.arange(wrong.shape[-1]) < 9, wrong, np.inf)

        class Runner:
            @property
            def provenance(self):
                return {"runtime": "coreml", "os": "macOS 26.0", "sha256": "a", "chip": "M9"}

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def run(self, sample):
                np.testing.assert_array_equal(sample["x"], probe.sample)
                return {"y": wrong.astype(np.float32)}

        return Runner()

    monkeypatch.setattr("convcal.probing.open_runner", open_runner)
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="darwin"))
    return opened


def test_units_are_asked_one_after_the_other_and_what_fails_is_an_answer(
    packages, core_ml, tmp_path
):
    some = {key: path for key, path in packages.items() if key[0] < 4}
    told = []
    report = probe_machine(some, progress=lambda *done: told.append(done))
    assert core_ml == [units for units in UNITS for _ in range(8)]
    assert told[-1] == (24, 24)
    document = json.loads(report.save(tmp_path / "mac.probe.json").read_text())
    provenance = document["provenance"]
    assert provenance.items() >= {"runtime": "coreml", "os": "macOS 26.0", "chip": "M9"}.items()
    assert "sha256" not in provenance
    found = {(each["precision"], each["compute_units"]): each for each in document["summary"]}
    for precision in ("float32", "float16"):
        assert found[precision, "cpu-only"]["fits"] == ["correct"]
        assert found[precision, "cpu-and-gpu"]["fits"] == ["pads-ignored"]
        assert found[precision, "cpu-and-ne"]["fits"] == ["none"]
        assert found[precision, "cpu-and-ne"]["n_failed"] == 4
    failed = document["answers"][-1]
    assert "crashed" in failed["error"]
    assert str(packages[0, "float32"].parent) not in failed["error"]
    assert failed["values"] is None
    with pytest.raises(OutputExistsError):
        report.save(tmp_path / "mac.probe.json")


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")
def test_core_ml_answers(packages):
    some = {key: path for key, path in packages.items() if key[0] in (0, len(PROBES) - 1)}
    report = probe_machine(some, compute_units=("cpu-only",))
    assert report.provenance["runtime"] == "coreml"
    for answer in report.answers:  # what it answers is not ours to say
        assert answer.error == ""
        assert np.isfinite(answer.output).all()


def test_values_that_json_lacks_are_text(packages, core_ml):
    number = PROBES.index(WIDTHS[1025])
    some = {key: path for key, path in packages.items() if key[0] == number}
    report = probe_machine(some, compute_units=("cpu-only",))
    answer = report.to_dict()["answers"][0]
    assert answer["fits"] == ["none"]
    assert answer["values"][-1][0] == "inf"
    assert answer["measured"]["drift_px"][-1][1] is None
    json.dumps(report.to_dict(), allow_nan=False)


# ---------------------------------------------------------------- the command


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder that is not on a Mac."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="linux"))

    def run(*words):
        capsys.readouterr()
        return main(["doctor", *words]), *capsys.readouterr()

    return run


def test_the_command_writes_a_labelled_file(doctor, tmp_path, packages, monkeypatch):
    class Built:
        __enter__ = lambda self: packages  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr("convcal.probing.built_probes", Built)
    words = ("--probe", "-o", "p.json", "--runtime", "reference", "--emulate", "crop-origin")
    code, out, _ = doctor(*words)
    assert code == 0
    assert out.startswith("EMULATED FAULT: crop-origin")
    assert "crop-1d, float16, cpu-only: pads-ignored" in out.splitlines()
    document = json.loads((tmp_path / "p.json").read_text())
    assert (document["format"], document["version"]) == ("convcal.probe", 1)
    assert document["emulated"]
    code, out, err = doctor(*words)
    assert (code, out) == (2, "")
    assert "--force" in err
    code, out, _ = doctor(*words, "--force", "--json")
    assert json.loads(out)["result"] == {"file": "p.json", **document}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--probe", "-o", "p.json"), "needs a Mac"),
        (("--probe", "-o", "p.json", "--runtime", "coreml"), "needs a Mac"),
        (("--probe",), "-o missing"),
        (("-o", "p.json"), "--probe"),
        (("--emulate", "noise"), "--emulate belong to --probe"),
        (("--compute-units", "cpu-only"), "--compute-units"),
    ],
)
def test_what_cannot_be_asked_is_said(doctor, tmp_path, words, named):
    code, out, err = doctor(*words)
    assert (code, out) == (2, "")
    assert named in err
    assert list(tmp_path.iterdir()) == []


def test_words_that_are_unknown_are_refused(packages, monkeypatch):
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="linux"))
    with pytest.raises(InputError, match="bogus"):
        probe_machine(packages, runtime="reference", emulate=["bogus"])
    with pytest.raises(UnavailableError, match="Mac"):
        probe_machine(packages)
