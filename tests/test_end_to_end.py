# SPDX-License-Identifier: BSD-3-Clause
"""The whole job on calibration_data/, with the documented fault emulated.

Everything runs on the reference runtime, on macOS too: these tests are about what the emulated
fault does and what the correction makes of it.
"""

import importlib.resources
import json
import warnings
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from convcal import ConvcalWarning, PostProcessor, export_coreml, fit, fit_captures
from convcal.capturing import import_capture, record_outputs
from convcal.data.arrays import read_samples, write_samples
from convcal.demo import CASES, measure_quality
from convcal.estimation.metrics import measure
from convcal.runtime import open_runner

DATA = Path(__file__).parents[1] / "calibration_data"
BY_NAME = {case.name: case for case in CASES}
FSRCNN, AUDIO, TINY = (BY_NAME[name] for name in ("fsrcnn", "audio-upsampler", "issue-2324"))


def packages(case):
    folder = DATA / "models" / case.name
    return folder / "fp32.mlpackage", folder / "fp16.mlpackage"


class Job:
    """One case under one fault: fitted on the training set, run on the held-out one."""

    def __init__(self, case, fault, folder):
        self.case, self.folder = case, folder
        reference, observed = packages(case)
        emulate = (fault,) if fault else ()
        self.calibration = fit(
            reference, observed, DATA / case.train, runtime="reference", emulate=emulate
        )
        ((self.name, self.output),) = self.calibration.outputs.items()
        self.recorded = {}
        for label, model, faults in (("fp32", reference, ()), ("fp16", observed, emulate)):
            self.recorded[label] = folder / f"{label}.npz"
            record_outputs(
                model,
                DATA / case.heldout,
                self.recorded[label],
                runtime="reference",
                emulate=faults,
            )
        self.emulate = emulate

    def heldout(self, label):
        return np.stack([arrays[self.name] for _, arrays in read_samples(self.recorded[label])])

    def corrected(self):
        correction = self.output.correction
        return np.stack([correction.apply(sample) for sample in self.heldout("fp16")])

    def quality(self, label):
        return measure_quality(
            self.case,
            DATA,
            self.recorded[label],
            fp32=self.recorded["fp32"],
            correction=self.output.correction,
        )

    def write_corrected(self):
        samples = read_samples(self.recorded["fp16"])
        correct = PostProcessor({self.name: self.output.correction})
        self.recorded["corrected"] = self.folder / "corrected.npz"
        write_samples(
            self.recorded["corrected"], ((name, correct(arrays)) for name, arrays in samples)
        )


# The shift that undoes the fault, and the least that the fault must cost against the truth, in dB.
# One sample at 8 kHz costs the upsampler, which reaches 12.1 dB, no more than 4.6 dB.
CASES_UNDER_FAULTS = {
    "fsrcnn, pads ignored": (FSRCNN, "crop-origin:variant=zero", (-4.0, -4.0), 5),
    "fsrcnn, pads made equal": (FSRCNN, "crop-origin:variant=half", (-1.0, -1.0), 5),
    "audio, pads ignored": (AUDIO, "crop-origin:variant=zero", (-6.0,), 5),
    "audio, pads made equal": (AUDIO, "crop-origin:variant=half", (-1.0,), 4.5),
}


@pytest.fixture(scope="module", params=CASES_UNDER_FAULTS, ids=lambda name: name)
def job(request, tmp_path_factory):
    """Give a fitted case, the shift that is exactly minus its displacement, and the loss."""
    case, fault, shift, loss = CASES_UNDER_FAULTS[request.param]
    done = Job(case, fault, tmp_path_factory.mktemp("job"))
    done.write_corrected()
    return done, shift, loss


def test_the_shift_is_exactly_minus_the_displacement(job):
    done, shift, _ = job
    assert done.calibration.verdict == "correctable"
    assert done.output.correction.shift == shift
    assert all(axis_filter.is_whole for axis_filter in done.output.correction.filters)
    assert done.calibration.is_emulated
    assert done.calibration.provenance["faults"][0].startswith("crop-origin")


def test_the_held_out_quality_comes_back(job):
    done, _, loss = job
    right, wrong, mended = (done.quality(label) for label in ("fp32", "fp16", "corrected"))
    assert right - wrong >= loss
    assert abs(right - mended) <= 0.05


def test_the_metrics_in_the_file_are_those_of_its_data(job):
    done, _, _ = job
    before, after = (done.output.metrics[key]["snr_db"] for key in ("before", "after"))
    # Faithful fp16 conversions are above 50 dB; a displaced output is an error of its own size.
    assert before < 25
    assert after > 50


def test_the_patched_package_gives_the_bits_of_the_post_processor(job, tmp_path):
    done, _, _ = job
    _, observed = packages(done.case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvcalWarning)
        target = export_coreml(done.calibration, observed, tmp_path / "corrected.mlpackage")
    record_outputs(
        target,
        DATA / done.case.heldout,
        tmp_path / "patched.npz",
        runtime="reference",
        emulate=done.emulate,
    )
    patched = np.stack([arrays[done.name] for _, arrays in read_samples(tmp_path / "patched.npz")])
    np.testing.assert_array_equal(patched, done.corrected())


@pytest.mark.parametrize("case", [FSRCNN, AUDIO, TINY], ids=lambda case: case.name)
def test_without_a_fault_there_is_nothing_to_correct(case, tmp_path):
    reference, observed = packages(case)
    with pytest.warns(ConvcalWarning, match="a fault of a device cannot show"):
        calibration = fit(reference, observed, DATA / case.train, runtime="reference")
    assert calibration.verdict == "identical"
    assert calibration.is_identity
    assert not calibration.is_emulated
    assert export_coreml(calibration, observed, tmp_path / "corrected.mlpackage") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["zero", "half"])
def test_seven_of_the_eight_positions_of_2324_come_back(tmp_path, variant):
    done = Job(TINY, f"crop-origin:variant={variant}", tmp_path)
    assert done.calibration.verdict == "correctable"
    assert done.output.correction.shift == (-1.0,)
    reference, observed = done.heldout("fp32"), done.heldout("fp16")
    limit = 2e-3 * np.abs(reference).max()
    right = np.all(np.abs(done.corrected() - reference) <= limit, axis=(0, 1, 2))
    np.testing.assert_array_equal(right, [True] * 7 + [False])
    assert np.sum(np.all(np.abs(observed - reference) <= limit, axis=(0, 1, 2))) == 0


def test_captures_that_say_nothing_of_emulation_give_the_same_calibration(tmp_path):
    reference, observed = packages(AUDIO)
    fault = "crop-origin:variant=zero"
    direct = fit(reference, observed, DATA / AUDIO.train, runtime="reference", emulate=(fault,))
    for role, model, emulate in (("reference", reference, ()), ("observed", observed, (fault,))):
        record_outputs(
            model,
            DATA / AUDIO.train,
            tmp_path / f"{role}.npz",
            runtime="reference",
            emulate=emulate,
        )
        import_capture(tmp_path / f"{role}.npz", tmp_path / "capture", role=role)
    captured = fit_captures(tmp_path / "capture")
    assert not captured.is_emulated
    assert captured.id == direct.id
    assert captured.outputs == direct.outputs


def test_a_saved_calibration_corrects_what_a_model_gives(tmp_path):
    reference, observed = packages(TINY)
    fault = "crop-origin:variant=zero"
    samples = DATA / TINY.train
    fit(reference, observed, samples, runtime="reference", emulate=(fault,)).save(
        tmp_path / "c.calibration.json"
    )
    with pytest.warns(ConvcalWarning, match="crop-origin"):
        process = PostProcessor.load(tmp_path / "c.calibration.json")
    sample = {"x": np.array([[[1, 2, 3, 4]]], np.float32) / 4}
    with open_runner(observed, runtime="reference", faults=(fault,)) as runner:
        wrong = runner.run(sample)
    with open_runner(reference, runtime="reference") as runner:
        right = runner.run(sample)
    mended = process(wrong)
    assert measure(right["y"][..., :7], wrong["y"][..., :7]).snr_db < 10
    assert measure(right["y"][..., :7], mended["y"][..., :7]).snr_db > 50


def test_what_is_written_follows_the_published_schema(job):
    done, _, _ = job
    schema = json.loads(
        importlib.resources.files("convcal").joinpath("calibration.schema.json").read_text("utf-8")
    )
    record = json.loads(json.dumps(done.calibration.to_dict(), allow_nan=False))
    jsonschema.validate(record, schema, cls=jsonschema.Draft202012Validator)
    assert set(schema["$defs"]["output"]["properties"]["metrics"]["properties"]) == set(
        record["outputs"][done.name]["metrics"]
    )
