# SPDX-License-Identifier: BSD-3-Clause
"""The verb ``diagnose``: what people read, what scripts get, what is refused."""

import json
import re
import shlex

import numpy as np
import pytest
from locating.scenes import samples

from convcal.cli import main
from convcal.diagnosis.tracing import Tracer

FAULT = "channel-affine:gain=1.3,at=curved_cast_fp16"


@pytest.fixture
def run(pair, tmp_path, monkeypatch, capsys):
    """Run the verb in a folder of its own; give exit code and both streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    arrays = {f"s{n}/image": sample["image"] for n, sample in enumerate(samples())}
    np.savez("data.npz", **arrays)

    def diagnose(*words):
        capsys.readouterr()
        both = [str(path) for path in pair]
        code = main(["diagnose", *both, "--data", "data.npz", *words])
        return code, *capsys.readouterr()

    return diagnose


def test_people_read_what_is_wrong_and_what_to_do(run):
    code, out, _ = run("--emulate", FAULT)
    assert code == 1
    assert out.startswith("EMULATED FAULT: channel-affine")
    assert "tanh 'curved_cast_fp16': affine\n" in out
    assert "op_selector=lambda op: op.name != 'curved')" in out
    assert "10 of 10 operations matched (100%), 4 samples, 2 runs" in out
    assert "--all does that" in out


def test_nothing_wrong_is_exit_code_0(run, pair):
    code, out, _ = run()
    assert code == 0
    assert "every operation is right" in out
    assert "no Apple hardware took part" in out
    assert "a fault of a device cannot show here" in out
    assert f"convcal inspect {pair[1]}" in out


def test_a_correctable_output_leads_to_fit_with_the_paths_of_this_run(run, pair):
    words = ("--runtime", "reference", "--emulate", "int-shift:displacement=1")
    code, out, _ = run(*words)
    assert code == 1
    (command,) = re.findall(r"convcal fit .*$", out, re.MULTILINE)
    paths = [str(path) for path in pair]
    target = ["-o", "NAME.calibration.json"]
    assert shlex.split(command)[2:] == [*paths, "--data", "data.npz", *words, *target]


def test_the_rewrite_that_is_advised_can_be_run_as_it_is_printed(run, tmp_path):
    _, out, _ = run("--emulate", FAULT)
    (command,) = (line for line in out.splitlines() if "convcal rewrite " in line)
    words = shlex.split(command[command.index("convcal rewrite ") :])
    words[words.index("NAME.mlpackage")] = str(tmp_path / "new.mlpackage")
    assert main(words[1:]) == 0
    assert (tmp_path / "new.mlpackage").is_dir()


def test_a_profile_is_named_in_the_label(run):
    _, out, _ = run("--emulate", "profile-m1-ane")
    assert "They are those of profile-m1-ane." in out


def test_scripts_get_the_diagnosis_and_a_file(run, tmp_path):
    words = ("--emulate", FAULT, "--all", "--memory", "1K", "-o", "d.json", "--json")
    code, out, _ = run(*words)
    assert code == 1
    document = json.loads(out)
    assert document["status"] == "culprit-found"
    assert document["result"]["diagnosis"] == json.loads((tmp_path / "d.json").read_text())
    assert document["result"]["diagnosis"]["culprits"][0]["family"] == "affine"
    assert {path.name for path in tmp_path.iterdir()} == {"data.npz", "d.json"}
    assert run(*words)[0] == 2
    assert run(*words, "--force")[0] == 1


def test_an_interrupted_one_says_how_to_go_on(run, tmp_path, monkeypatch):
    traced = Tracer.trace

    def interrupted(self, names, samples):
        for n, found in enumerate(traced(self, names, samples)):
            if n == 2:
                raise KeyboardInterrupt
            yield found

    words = ("--emulate", FAULT, "-o", "d.json")
    with monkeypatch.context() as patch:
        patch.setattr(Tracer, "trace", interrupted)
        code, _, err = run(*words)
    assert code == 130
    assert "kept in d.json.checkpoint.json; --resume goes on" in err
    code, _, err = run(*words)
    assert code == 2
    assert "--resume" in err
    assert run(*words, "--resume")[0] == 1
    assert not (tmp_path / "d.json.checkpoint.json").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--resume",), "-o FILE"),
        (("--memory", "small"), "'small' is no size; as 500M or 4G"),
        (("--memory", "0"), "'0' is no size"),
        (("--source", "nothing.npz"), "nothing.npz"),
        (("--emulate", "int-shift:at=nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused(run, words, named):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert named in err.splitlines()[-1]
