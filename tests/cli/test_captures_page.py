# SPDX-License-Identifier: BSD-3-Clause
"""Every command of docs/captures.md runs, in its order, and comes to what the page says."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from data.elsewhere import write_folder, write_run_results, write_safetensors
from data.recorded import held

from convcal.data import open_capture
from convcal.probes import PROBES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "captures.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_every_command_runs_and_every_way_gives_the_same_calibration(convcal, folder, pair):
    for name, package in zip(("fp32", "fp16"), pair, strict=True):
        shutil.copytree(package, folder / f"{name}.mlpackage")
    generator = np.random.default_rng(0)
    for name in ("data", "more"):
        (folder / name).mkdir()
        x = generator.standard_normal((10, 1, 1, 4)).astype(np.float32)
        np.savez(folder / name / f"{name}.npz", x=x)
    imported = []
    for command in COMMANDS:
        result = convcal(*shlex.split(command)[1:])
        assert result.code == 0, (command, result.err)
        if " run " in command:  # the files that others would have written
            words = ("run", "fp16.mlpackage", "--data", "data", "-o", "observed.npz")
            assert convcal(*words).code == 0
            write_all(folder)
        if "--import" in command and "observed" in command:
            imported.append({role: each[0] for role, each in held("imported.capture").items()})
    assert imported == [imported[0]] * 3
    fit = ("fit", "--captures", "imported.capture", "-o", "imported.json")
    assert convcal(*fit).code == 0
    direct = ("fit", "fp32.mlpackage", "fp16.mlpackage", "--data", "data", "-o", "direct.json")
    assert convcal(*direct).code == 0
    outputs = [
        json.loads((folder / f"{name}.json").read_text())["outputs"]
        for name in ("direct", "net.calibration", "imported")
    ]
    assert outputs == [outputs[0]] * 3
    merged = open_capture(folder / "all.capture")
    assert len(merged.samples) == 20
    assert merged.tensors["observed"] == ("x_to_fp16",)


def write_all(folder):
    outputs = {}
    with np.load(folder / "observed.npz") as observed:
        for key in observed.files:
            sample, name = key.split("/")
            outputs.setdefault(sample, {})[name] = observed[key]
    write_folder(folder / "outputs", outputs)
    write_safetensors(folder / "outputs.safetensors", outputs)
    write_run_results(folder / "results.json", outputs)


def test_the_page_of_the_probe_knows_every_question_and_hypothesis():
    page = (DOCS / "probe.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", page, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    questions = {probe.question for probe in PROBES}
    assert named == questions | {name for probe in PROBES for name in probe.predictions}
