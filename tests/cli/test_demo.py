# SPDX-License-Identifier: BSD-3-Clause
"""The demo does the whole job, and says what it did."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from convcal.cli import main
from convcal.cli.application import build_parser
from convcal.data.arrays import read_samples
from convcal.demo import CASES
from convcal.runtime.machine import chip


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demo once; give its folder and what it wrote to standard output as JSON.

    On the reference runtime, on a Mac too, where real hardware would decide.
    """
    folder = tmp_path_factory.mktemp("demo") / "demo-output"
    command = [sys.executable, "-m", "convcal", "demo", "-o", str(folder), "--json"]
    command += ["--runtime", "reference"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_every_product_lies_where_it_says(demo):
    folder, document, _ = demo
    assert [case["case"] for case in document["result"]["cases"]] == [
        "fsrcnn",
        "audio-upsampler",
        "issue-2324",
    ]
    named = {document["result"]["commands"]}
    for case in document["result"]["cases"]:
        named |= set(case["products"].values())
    assert {str(path) for path in folder.iterdir()} == named


def test_the_commands_are_ones_that_a_user_can_type(demo):
    folder, document, stderr = demo
    script = (folder / "commands.sh").read_text()
    lines = [line for case in document["result"]["cases"] for line in case["commands"]]
    assert script.endswith("\n".join(lines) + "\n")
    for line in lines:
        assert f"$ {line}" in stderr
        words = shlex.split(line)
        assert words[0] == "convcal"
        build_parser().parse_args(words[1:])


def test_the_script_makes_the_same_products_again(demo, tmp_path):
    folder, document, _ = demo
    script = (folder / "commands.sh").read_text()
    header = script[: script.index("\nconvcal ") + 1]
    (tiny,) = (case for case in document["result"]["cases"] if case["case"] == "issue-2324")
    products = [Path(path) for kind, path in tiny["products"].items() if kind != "picture"]
    before = {path: path.read_bytes() for path in products if path.is_file()}
    for path in before:
        path.unlink()
    again = tmp_path / "again.sh"
    again.write_text(header + "\n".join(tiny["commands"]) + "\n")
    subprocess.run(["sh", str(again)], check=True, capture_output=True, cwd=tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_emulation_is_labelled_and_quality_comes_back(demo):
    _, document, stderr = demo
    assert document["result"]["emulated"]
    assert "EMULATED FAULT" in stderr
    shifts = {case["case"]: case["shift"] for case in document["result"]["cases"]}
    assert shifts == {"fsrcnn": [-4, -4], "audio-upsampler": [-6], "issue-2324": [-1]}
    for case in document["result"]["cases"]:
        assert case["verdict"] == "correctable"
        # check, of the corrected outputs on held-out data, is among them.
        assert set(case["exit_codes"]) == {0}
        assert case["patched_difference"] == 0
        quality = {label: float(value) for label, value in case["quality"].items()}
        assert quality["fp32"] - quality["fp16"] >= 5
        if case["case"] == "issue-2324":  # measured against fp32, which is infinitely like itself
            assert quality["corrected"] > 50
        else:
            assert abs(quality["fp32"] - quality["corrected"]) <= 0.05


def test_patched_and_corrected_outputs_are_recorded_for_the_same_samples(demo):
    folder, _, _ = demo
    for case in ("fsrcnn", "audio-upsampler"):
        names = [
            [name for name, _ in read_samples(folder / f"{case}-{label}.npz")]
            for label in ("fp32", "patched", "corrected")
        ]
        assert names[0] == names[1] == names[2]


def test_where_core_ml_is_right_the_demo_ends_well_and_says_so(tmp_path, monkeypatch, capsys):
    # As on a Mac on which Apple has mended the fault: nothing is emulated, nothing is wrong.
    monkeypatch.setattr("convcal.cli.demo._is_real", lambda runtime: True)
    monkeypatch.setattr("convcal.demo.CASES", CASES[2:])
    assert main(["demo", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "EMULATED" not in said.out + said.err
    assert "nothing to correct" in said.out
    assert "convcal demo --runtime reference" in said.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "commands.sh",
        "issue-2324.calibration.json",
    }


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")
def test_on_a_mac_the_demo_comes_to_an_end_whatever_the_hardware_does(tmp_path):
    if "Virtual" in chip():
        pytest.skip("a virtual machine has neither a Neural Engine nor a GPU of its own")
    command = [sys.executable, "-m", "convcal", "demo", "-o", str(tmp_path / "out"), "--json"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert not document["result"]["emulated"]
    assert {case["exit_codes"][0] for case in document["result"]["cases"]} <= {0, 1}


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    assert main(["demo", "-o", str(target)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


def test_without_its_data_it_says_where_they_are(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path / "out"), "--data", str(tmp_path)]) == 2
    assert "calibration_data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
