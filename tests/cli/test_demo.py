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


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demo once; give its folder and what it wrote to standard output as JSON."""
    folder = tmp_path_factory.mktemp("demo") / "demo-output"
    command = [sys.executable, "-m", "convcal", "demo", "-o", str(folder), "--json"]
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
    lines = (folder / "commands.sh").read_text().splitlines()
    assert lines == [line for case in document["result"]["cases"] for line in case["commands"]]
    for line in lines:
        assert f"$ {line}" in stderr
        words = shlex.split(line)
        assert words[0] == "convcal"
        build_parser().parse_args(words[1:])


@pytest.mark.skipif(sys.platform == "darwin", reason="real hardware decides there")
def test_emulation_is_labelled_and_quality_comes_back(demo):
    _, document, stderr = demo
    assert document["result"]["emulated"]
    assert "EMULATED FAULT" in stderr
    for case in document["result"]["cases"]:
        assert case["verdict"] == "correctable"
        # check, of the corrected outputs on held-out data, is among them.
        assert set(case["exit_codes"]) == {0}
        assert case["patched_difference"] == 0
        if case["quality"]:
            quality = case["quality"]
            assert quality["fp32"] - quality["fp16"] >= 5
            assert abs(quality["fp32"] - quality["corrected"]) <= 0.05


def test_patched_and_corrected_outputs_are_recorded_for_the_same_samples(demo):
    folder, _, _ = demo
    for case in ("fsrcnn", "audio-upsampler"):
        if (folder / f"{case}-patched.npz").exists():
            names = [
                [name for name, _ in read_samples(folder / f"{case}-{label}.npz")]
                for label in ("fp32", "patched", "corrected")
            ]
            assert names[0] == names[1] == names[2]


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
