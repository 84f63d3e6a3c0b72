# SPDX-License-Identifier: BSD-3-Clause
"""Outputs that are too long: what is too much is dropped, and the rest is corrected as ever."""

import json
import runpy

import numpy as np
import pytest

from convcal import OutputCalibrator, PostProcessor
from convcal.calibration import Calibration
from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.export.python import export_python
from convcal.faults import parse_fault
from convcal.layout import excess


@pytest.mark.parametrize(("shape", "tail"), [((65,), "42"), ((32, 40), "0/7"), ((20, 24), "3/5")])
@pytest.mark.parametrize("fill", ["zero", "random"])
def test_a_spurious_tail_is_dropped(shape, tail, fill):
    reference = make_pair(shape, n_samples=6, n_channels=2, seed=1).reference
    observed = parse_fault(f"overlong:tail={tail},fill={fill}").apply(reference)
    calibrator = OutputCalibrator().fit(reference, observed)
    assert (calibrator.verdict_, calibrator.family_) == ("correctable", "length")
    assert calibrator.reason_.startswith("the observed output is too long by (")
    np.testing.assert_array_equal(calibrator.transform(observed), reference)


def test_what_is_left_is_corrected_as_ever():
    pair = make_pair((40, 48), shift=(2, -1), gain=1.25, n_samples=8, n_channels=1, seed=2)
    observed = parse_fault("overlong:tail=0/6").apply(pair.observed)
    calibrator = OutputCalibrator().fit(pair.reference, observed)
    assert (calibrator.verdict_, calibrator.family_) == ("correctable", "shift")
    assert calibrator.correction_.crop == ((0, 0), (0, 6))
    assert calibrator.shift_.tolist() == [2, -1]
    assert calibrator.score(pair.reference, observed) > 60


def test_batches_and_merges_keep_the_length():
    reference = make_pair((64,), n_samples=8, n_channels=1, seed=3).reference
    observed = parse_fault("overlong:tail=5").apply(reference)
    first = OutputCalibrator().partial_fit(reference[:4], observed[:4])
    with pytest.raises(InputError, match="too long by"):
        first.partial_fit(reference[4:], reference[4:])
    with pytest.raises(InputError, match="too long by"):
        first.merge(OutputCalibrator().fit(reference, reference))
    first.merge(OutputCalibrator().partial_fit(reference[4:], observed[4:]))
    assert first.correction_ == OutputCalibrator().fit(reference, observed).correction_


@pytest.mark.parametrize("shape", [(65,), (40, 77)])
def test_an_output_that_is_no_longer_too_long_is_refused(tmp_path, shape):
    # 77 = 40 + 37: the probe of an exported file must not look like a right output.
    reference = make_pair(shape, n_samples=6, n_channels=2, seed=1).reference
    tail = "37" if len(shape) == 1 else "0/37"
    observed = parse_fault(f"overlong:tail={tail}").apply(reference)
    calibrator = OutputCalibrator().fit(reference, observed)
    process = PostProcessor({"y": calibrator.correction_})
    for right in (reference, reference[0]):
        with pytest.raises(InputError, match=r"output 'y': .* was the model mended"):
            process({"y": right})
    assert process({"y": observed[..., 1:]})["y"].shape == reference[..., 1:].shape
    calibration = Calibration({"y": calibrator.calibration_}, {})
    export_python(calibration, tmp_path / "post.py")
    exported = runpy.run_path(str(tmp_path / "post.py"))["correct_outputs"]
    np.testing.assert_array_equal(exported({"y": observed})["y"], reference)
    with pytest.raises(ValueError, match="was the model mended"):
        exported({"y": reference})


@pytest.mark.parametrize("observed", [(2, 3, 9), (2, 2, 10), (1, 3, 10), (2, 3, 10, 1)])
def test_other_differences_of_shape_are_refused(observed):
    with pytest.raises(InputError, match=r"reference has shape \(2, 3, 10\) and observed"):
        excess((2, 3, 10), observed)


def test_a_fit_on_captures_crops_and_check_and_apply_follow(tmp_path, monkeypatch, capsys):
    from convcal.cli import main

    monkeypatch.chdir(tmp_path)
    reference = make_pair((64,), n_samples=8, n_channels=1, seed=3).reference
    observed = parse_fault("overlong:tail=5,fill=random").apply(reference)
    for role, outputs in (("reference", reference), ("observed", observed)):
        np.savez(f"{role}.npz", **{f"s{n}/y": outputs[n][None] for n in range(8)})
        assert main(["capture", "--import", f"{role}.npz", "--role", role, "-o", "c"]) == 0
    assert main(["fit", "--captures", "c", "-o", "net.json"]) == 0
    calibration = Calibration.load("net.json")
    assert json.loads((tmp_path / "net.json").read_text())["version"] == 2
    assert calibration.outputs["y"].family == "length"
    corrected = PostProcessor.load("net.json")({"y": observed[:1]})["y"]
    np.testing.assert_array_equal(corrected, reference[:1])
    assert main(["check", "--captures", "c", "--calibration", "net.json"]) == 0
    assert main(["check", "--captures", "c"]) == 2
    assert "(8, 1, 64)" in capsys.readouterr().err
