# SPDX-License-Identifier: BSD-3-Clause
"""What each verb does, from the command to the file."""

import json
import runpy
import shlex
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cli.scenes import FAULT, displaced

from convcal import Calibration, Correction, OutputCalibration
from convcal.cli.terminal import progress
from convcal.datasets import make_pair
from convcal.errors import UnavailableError
from convcal.faults import parse_fault


def test_fit_writes_the_calibration_and_says_what_to_do_next(convcal, folder, pair, data):
    result = convcal("fit", *pair, "--data", data, "--emulate", FAULT, "-o", "net.calibration.json")
    assert result.code == 0
    record = json.loads((folder / "net.calibration.json").read_text())
    assert record["outputs"]["y"]["correction"]["shift"] == [-1.0]
    assert record["provenance"]["emulated"]
    assert record["provenance"]["observed"]["sha256"] != record["provenance"]["reference"]["sha256"]
    assert "y: correctable - " in result.out
    assert "shift (-1) samples: the observed content sits 1 sample too late" in result.out
    assert result.out.startswith(f"EMULATED FAULT: {FAULT}")
    assert "data_range" in result.out
    commands = [line for line in result.out.splitlines() if line.startswith("  convcal ")]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)
        assert convcal(*words[1:]).code == 0
    assert {path.name for path in folder.iterdir()} == {
        "data.npz",
        "fp16-corrected.mlpackage",
        "net.calibration.json",
        "net_corrections.py",
    }


def test_fit_proposes_no_package_for_an_output_that_is_too_long(convcal, pair, data):
    result = convcal("fit", *pair, "--data", data, "--emulate", "overlong:tail=2", "-o", "net.json")
    assert result.code == 0
    (command,) = (line for line in result.out.splitlines() if line.startswith("  convcal "))
    assert "--to python" in command
    assert convcal(*shlex.split(command)[1:]).code == 0


def test_fit_proposes_a_package_with_a_scale_as_export_accepts_it(convcal, folder):
    scenes = make_pair((128,), n_samples=8, scale=1.05)
    for role in ("reference", "observed"):
        outputs = {f"s{n}/y": plane[None] for n, plane in enumerate(getattr(scenes, role))}
        np.savez(folder / f"{role}.npz", **outputs)
        assert convcal("capture", "--import", f"{role}.npz", "--role", role, "-o", "y").code == 0
    result = convcal("fit", "--captures", "y", "-o", "net.json")
    assert result.code == 0
    assert "scale 1.0" in result.out
    assert "--to coreml --model OBSERVED.mlpackage --allow-scale" in result.out


def test_a_stack_of_single_channels_is_imported_as_the_message_says(convcal, folder):
    scenes = make_pair((32, 32), n_channels=1, shift=(2, -1), gain=1.1)
    array = scenes.reference
    np.savez("reference.npz", y=array)
    refused = convcal("capture", "--import", "reference.npz", "--role", "reference", "-o", "y")
    assert "array[i:i+1]" in refused.err
    named = {f"{i}/y": array[i : i + 1] for i in range(len(array))}
    np.savez("reference.npz", **named)
    np.savez("observed.npz", y=scenes.observed)  # of which the reference says what it is
    for role in ("reference", "observed"):
        result = convcal("capture", "--import", f"{role}.npz", "--role", role, "-o", "y.capture")
        assert result.code == 0
        assert "1 batch, 1 channel, 32 rows, 32 columns" in result.out
        assert "--batch-axis, --channel-axis" in result.out
    assert "shift of (+2, -1) px" in convcal("fit", "--captures", "y.capture", "-o", "y.json").out
    applied = convcal("apply", "y.json", "reference.npz", "-o", "named.npz")
    assert applied.out.startswith("8 samples written to named.npz; corrected: y")
    stack = convcal("apply", "y.json", "observed.npz", "-o", "stack.npz")  # names no samples
    assert stack.out.startswith("8 samples written to stack.npz; corrected: y")


def test_the_same_calibration_comes_from_captures(convcal, folder, pair, data):
    arguments = ("--data", data, "--emulate", FAULT)
    assert convcal("fit", *pair, *arguments, "-o", "direct.json").code == 0
    first = convcal("capture", pair[0], "--role", "reference", "--data", data, "-o", "net.capture")
    assert first.code == 0
    assert "convcal capture … --role observed -o net.capture" in first.out
    assert "--channel-axis" not in first.out  # the package says what its axes are
    second = convcal("capture", pair[1], "--role", "observed", *arguments, "-o", "net.capture")
    assert second.code == 0
    assert "convcal fit --captures net.capture" in second.out
    assert convcal("fit", "--captures", "net.capture", "-o", "captured.json").code == 0
    direct, captured = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("direct", "captured")
    )
    assert direct["outputs"] == captured["outputs"]
    assert captured["provenance"]["data"] == direct["provenance"]["data"]
    assert captured["provenance"]["faults"] == direct["provenance"]["faults"] != []


def test_the_patched_package_gives_what_apply_gives(convcal, folder, pair, data):
    emulate = ("--emulate", FAULT)
    assert convcal("fit", *pair, "--data", data, *emulate, "-o", "net.json").code == 0
    export = ("export", "net.json", "--to", "coreml", "--model", pair[1])
    assert convcal(*export, "-o", "new.mlpackage").code == 0
    assert convcal("run", "new.mlpackage", "--data", data, *emulate, "-o", "new.npz").code == 0
    assert convcal("run", pair[1], "--data", data, *emulate, "-o", "old.npz").code == 0
    assert convcal("apply", "net.json", "old.npz", "-o", "corrected.npz").code == 0
    with (
        np.load("new.npz") as new,
        np.load("corrected.npz") as corrected,
        np.load("old.npz") as old,
    ):
        assert new.files == corrected.files
        assert len(new.files) == 12
        for key in new.files:
            np.testing.assert_array_equal(new[key], corrected[key])
        assert any((new[key] != old[key]).any() for key in new.files)


def test_check_tells_a_corrected_package_by_what_it_says_of_itself(convcal, pair, data):
    emulate = ("--data", data, "--emulate", FAULT)
    assert convcal("fit", *pair, *emulate, "-o", "net.json").code == 0
    export = ("export", "net.json", "--to", "coreml", "--model", pair[1])
    assert convcal(*export, "-o", "new.mlpackage").code == 0
    check = ("check", pair[0], "new.mlpackage", *emulate)
    bare, margins, twice = (
        convcal(*check), convcal(*check, "--margins", "net.json"),
        convcal(*check, "--calibration", "net.json"),
    )  # fmt: skip
    assert bare.code == 1
    assert "has a correction built in" in bare.err
    assert margins.code == 0
    assert "has a correction built in" not in margins.err
    assert "the data that the calibration was fitted on" in margins.err
    assert twice.code == 2
    assert "corrected twice" in twice.err


def test_a_profile_is_labelled_by_its_parts_and_asked_for_by_its_name(convcal, folder, pair, data):
    emulate = ("--data", data, "--emulate", "profile-m1-macos-14")
    assert convcal("fit", *pair, *emulate, "-o", "net.json").code == 0
    provenance = json.loads((folder / "net.json").read_text("utf-8"))["provenance"]
    assert provenance["faults"] == ["crop-origin:variant=zero,precision=fp16"]
    assert provenance["observed"]["fault_profiles"] == "profile-m1-macos-14"
    export = ("export", "net.json", "--to", "coreml", "--model", pair[1], "-o", "new.mlpackage")
    line = next(each for each in convcal(*export).out.splitlines() if "--emulate" in each)
    words = [{"REFERENCE": str(pair[0]), "PATH": str(data)}.get(w, w) for w in shlex.split(line)]
    assert words[-2:] == ["--emulate", "profile-m1-macos-14"]
    assert convcal(*words[1:]).code == 0


def test_fit_of_equal_models_finds_nothing_and_export_has_nothing_to_do(
    convcal, folder, pair, data
):
    result = convcal("fit", *pair, "--data", data, "-o", "net.json")
    assert result.code == 0
    assert "y: identical" in result.out
    assert "there is nothing to correct" in result.out
    assert "EMULATED" not in result.out
    for target in (("python", "-o", "new.py"), ("coreml", "--model", pair[1], "-o", "n.mlpackage")):
        export = convcal("export", "net.json", "--to", *target, "--json")
        assert export.code == 0
        assert export.document["status"] == "nothing-to-do"
        assert export.document["result"]["file"] is None
    assert {path.name for path in folder.iterdir()} == {"data.npz", "net.json"}


def test_the_exported_python_file_corrects_and_passes_its_test(convcal, folder, calibration):
    assert convcal("export", calibration, "--to", "python", "-o", "corrections.py").code == 0
    module = runpy.run_path(str(folder / "corrections.py"))
    module["self_test"]()
    reference, observed = displaced(seed=1)
    corrected = module["correct_outputs"]({"y": observed[0]})["y"]
    np.testing.assert_array_equal(corrected[..., :-3, 2:], reference[0][..., :-3, 2:])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("noise:relative=0.3", "the residual is noise"),
        ("garbage:strength=3", "content is not there"),
        ("row-stride", "rows of 50 values were read from a buffer whose rows are 64"),
        ("saturate:limit=0.7", "the observed output is 0.7"),
        ("garbage", "its content is not there"),
    ],
)
def test_fit_exits_with_1_where_nothing_can_be_corrected_and_writes_the_file(
    convcal, folder, captured, fault, reason
):
    # Rows of 50 values do not fill the 64 bytes that a device aligns them to.
    reference, garbage = (
        np.random.default_rng(seed).standard_normal((8, 1, 2, 48, 50)).astype(np.float32)
        for seed in range(2)
    )
    observed = garbage
    if fault != "garbage":
        observed = np.stack([parse_fault(fault).apply(sample) for sample in reference])
    path = captured(reference, observed)
    result = convcal("fit", "--captures", path, "-o", "net.json", "--json")
    assert (result.code, result.document["status"]) == (1, "not-correctable")
    calibration = Calibration.load(folder / "net.json")
    assert calibration.is_identity
    assert reason in calibration.outputs["y"].reason
    export = convcal("export", "net.json", "--to", "python", "-o", "new.py")
    assert export.code == 1
    assert "no correction" in export.out
    assert not (folder / "new.py").exists()


def test_check_passes_and_fails_by_the_threshold_and_the_calibration(
    convcal, captured, calibration
):
    path = captured(*displaced(seed=3))
    assert convcal("check", "--captures", path).code == 1
    corrected = ("check", "--captures", path, "--calibration", calibration)
    assert convcal(*corrected).code == 0
    assert convcal(*corrected, "--max-abs-error", "0", "--min-cosine", "0.999").code == 0
    failed = convcal("check", "--captures", path, "--max-rmse", "0.1", "--json")
    assert failed.code == 1
    assert failed.document["status"] == "failed"
    [failure] = failed.document["result"]["outputs"]["y"]["failures"]
    assert "RMSE" in failure


def test_run_writes_a_tensor_of_the_program_on_request(convcal, folder, pair, data):
    result = convcal("run", pair[0], "--data", data, "--outputs", "y", "-o", "outputs.npz")
    assert result.code == 0
    assert "y: float32 1x2x8" in result.out
    assert (
        "called 'data[0]', 'data[1]', 'data[2]', 'data[3]', 'data[4]', 'data[5]' and 6 more"
        in result.out
    )
    with np.load("outputs.npz") as outputs:
        assert len(outputs.files) == 12
        assert all(key.endswith("/y") for key in outputs.files)


@pytest.mark.parametrize(
    ("file", "module"),
    [("issue-2324.json", "issue_2324_corrections"), ("2324.calibration.json", "_2324_corrections")],
)
def test_the_file_that_fit_suggests_can_be_imported(convcal, captured, file, module):
    result = convcal("fit", "--captures", captured(*displaced()), "-o", file)
    assert f" --to python -o {module}.py\n" in result.out
    assert module.isidentifier()


def test_apply_copies_outputs_without_a_correction(convcal, folder, calibration):
    observed = displaced(seed=1)[1][0]
    labels = np.arange(4)
    np.savez("outputs.npz", y=observed, labels=labels)
    result = convcal("apply", calibration, "outputs.npz", "-o", "corrected.npz")
    assert result.code == 0
    assert "without a correction, copied: labels" in result.out
    with np.load("corrected.npz") as corrected:
        assert set(corrected.files) == {"y", "labels"}
        np.testing.assert_array_equal(corrected["labels"], labels)
        np.testing.assert_array_equal(corrected["y"][..., 3, 2], observed[..., 6, 0])


@pytest.fixture
def two_outputs(folder):
    """A calibration of an output that is corrected, one that is right and one that stays wrong."""
    mended, kept = Correction((8,), gain=(2.0,), bias=(0.0,)), Correction((8,))
    outputs = {
        "big": OutputCalibration("correctable", "", "affine", mended),
        "side": OutputCalibration("identical", "", "identical", kept),
        "mask": OutputCalibration("not-correctable", "", "noise", kept),
    }
    return Calibration(outputs).save(folder / "two.json")


def test_export_lists_what_it_corrects_and_warns_of_what_stays_wrong(convcal, two_outputs):
    words = ("export", two_outputs, "--to", "python", "-o", "two.py")
    result = convcal(*words)
    assert result.code == 0
    line = "corrected: big; left as they are: side (identical), mask (not-correctable)"
    assert line in result.out.splitlines()
    document = convcal(*words, "--force", "--json").document
    assert document["result"]["corrected"] == ["big"]
    assert document["result"]["unchanged"] == {"side": "identical", "mask": "not-correctable"}
    (warning,) = document["warnings"]
    assert "'mask' (not-correctable)" in warning
    assert f"warning: {warning}" in result.err.splitlines()


def test_apply_says_corrected_only_of_outputs_that_it_changes(convcal, two_outputs):
    np.savez("outputs.npz", **{name: np.ones((1, 1, 8), np.float32) for name in ("big", "side")})
    words = ("apply", two_outputs, "outputs.npz", "-o", "corrected.npz")
    result = convcal(*words)
    assert "corrected: big\nwithout a correction, copied: side\n" in result.out
    np.savez("outputs.npz", side=np.ones((1, 1, 8), np.float32))
    assert "corrected: none\n" in convcal(*words, "--force").out


def test_force_replaces_what_exists(convcal, folder, calibration):
    words = ("export", calibration, "--to", "python", "-o", "corrections.py")
    (folder / "corrections.py").write_text("old")
    assert convcal(*words).code == 2
    assert (folder / "corrections.py").read_text() == "old"
    assert convcal(*words, "--force").code == 0
    assert "correct_outputs" in (folder / "corrections.py").read_text()


def test_axes_can_be_stated_for_all_outputs_or_one(convcal, folder, captured):
    reference, observed = displaced((8, 1, 24, 24))  # (batch, height, width), no channels
    path = captured(reference, observed)
    for value in ("none", "y=none"):
        words = ("fit", "--captures", path, "--channel-axis", value, "-o", "net.json", "--force")
        assert convcal(*words).code == 0
        record = json.loads((folder / "net.json").read_text())["outputs"]["y"]["correction"]
        assert record["channel_axis"] is None
        assert record["shift"] == [-3.0, 2.0]


def test_doctor_says_what_works_and_names_a_remedy_for_the_rest(convcal, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    result = convcal("doctor")
    assert result.code == 0
    assert "pip install 'convcal[sound]'" in result.out
    assert "run models on Core ML: no, because Core ML runs on macOS only" in result.out
    document = convcal("doctor", "--json").document
    parts = {part["name"]: part for part in document["result"]["parts"]}
    assert parts["soundfile"]["version"] is None
    assert parts["numpy"]["version"] == np.__version__


@pytest.mark.skipif(sys.platform == "darwin", reason="here coremltools can reach Core ML")
def test_doctor_on_a_mac_says_when_coremltools_came_without_its_library(convcal, monkeypatch):
    monkeypatch.setattr("convcal.diagnostics.sys", SimpleNamespace(platform="darwin"))
    abilities = convcal("doctor", "--json").document["result"]["abilities"]
    (found,) = (each for each in abilities if each["name"] == "run models on Core ML")
    assert not found["is_available"]
    assert "without its library for Core ML" in found["reason"]
    assert "pip install --force-reinstall --only-binary :all: coremltools" in found["remedy"]


def test_doctor_fails_where_the_core_is_broken(convcal, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.fft", None)
    result = convcal("doctor", "--json")
    assert result.code == 1
    assert result.document["status"] == "failed"


def test_capture_replaces_a_role_only_on_request(convcal, folder, pair, data, refused):
    words = ("capture", pair[0], "--role", "reference", "--data", data, "-o", "net.capture")
    assert convcal(*words).code == 0
    refused(*words, names=["net.capture", "reference", "--force"], error="output-exists")
    assert convcal(*words, "--force").code == 0


def test_resuming_what_is_finished_says_that_nothing_was_left_to_do(convcal, pair, data):
    words = ("capture", pair[0], "--role", "reference", "--data", data, "-o", "net.capture")
    first = convcal(*words)
    assert "12 samples written to net.capture" in first.out
    assert "  y: float32, 1 batch, 2 channels, 8 samples" in first.out.splitlines()
    again = convcal(*words, "--resume")
    assert again.code == 0
    assert "nothing was left to do: 12 samples are in net.capture already" in again.out
    assert "written" not in again.out


def test_messages_call_a_flag_by_its_name_on_the_command_line_alone(convcal, pair, data):
    words = ("capture", pair[0], "--role", "reference", "--data", data, "-o", "net.capture")
    assert convcal(*words).code == 0
    result = convcal(*words)
    assert "pass --append to add samples, or --force to replace them" in result.err
    assert "append=True" not in result.err


@pytest.mark.parametrize("verb", ["fit", "check"])
def test_data_can_be_a_function_and_what_it_prints_is_no_result(convcal, folder, pair, verb):
    (folder / "samples.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    print('hello from the user')\n"
        "    generator = np.random.default_rng(0)\n"
        "    return [{'x': generator.standard_normal((1, 1, 4)).astype('f4')} for _ in range(9)]\n"
    )
    output = ("-o", "net.json") if verb == "fit" else ()
    result = convcal(verb, *pair, "--data", "samples.py:samples", *output, "--json")
    assert result.code == 0
    assert result.document["command"] == verb
    assert "hello from the user" in result.err
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def test_a_capture_may_be_called_like_the_folders_of_its_chunks(convcal, captured, folder):
    # Zarr 3.1 strips the path "c" of a capture from its keys, which contain "c/" themselves.
    path = captured(*displaced(), path="c")
    assert convcal("fit", "--captures", path, "-o", "net.json").code == 0


def test_progress_is_told_in_sparse_lines_where_there_is_no_terminal(
    convcal, pair, data, monkeypatch
):
    words = ("check", *pair, "--data", data, "--emulate", FAULT)
    assert convcal(*words).err == ""
    monkeypatch.setattr("convcal.cli.terminal.SECONDS_BETWEEN_LINES", 0.0)
    lines = convcal(*words).err.splitlines()
    assert lines[0].startswith("running both models: 1 of 12, about ")
    assert len(lines) == 11


def test_the_time_left_is_reckoned_anew_for_every_run_over_the_samples(monkeypatch, capsys):
    times = iter([0.0, 100.0, 200.0, 210.0])
    clock = SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr("convcal.cli.terminal.time", clock)
    with progress("running") as tell:
        tell(1, 2)
        tell(2, 2)
        tell(1, 3)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["running: 1 of 2, about 100 s left", "running: 1 of 3, about 20 s left"]


def test_a_check_that_fails_leads_to_the_operation_at_fault(convcal, pair, data):
    result = convcal("check", *pair, "--data", data, "--emulate", FAULT)
    assert result.code == 1
    assert f"convcal diagnose {pair[0]} {pair[1]} --data {data} --emulate {FAULT}" in result.out
    assert "convcal diagnose" not in convcal("check", *pair, "--data", data).out


@pytest.mark.parametrize("verb", ["fit", "check", "capture", "run"])
def test_the_time_limit_reaches_the_runner(monkeypatch, convcal, pair, data, verb):
    def open_runner(_, *, timeout, **options):
        raise UnavailableError(f"allowed {timeout}")

    monkeypatch.setattr("convcal.pair_sources.open_runner", open_runner)
    monkeypatch.setattr("convcal.capturing.open_runner", open_runner)
    words = {"fit": (*pair, "-o", "c.json"), "check": pair, "run": (pair[1], "-o", "o.npz")}
    words["capture"] = (pair[1], "--role", "observed", "-o", "c")
    result = convcal(verb, *words[verb], "--data", data, "--timeout", "7")
    assert result.err.endswith("allowed 7.0\n")
