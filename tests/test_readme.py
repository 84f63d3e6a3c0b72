# SPDX-License-Identifier: BSD-3-Clause
"""Every command and snippet of the README runs, in its order, on a pair that is displaced."""

import re
import shlex
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from convcal import Calibration, Correction
from convcal.cli import main
from convcal.coreml.package import read_package
from convcal.coreml.patch import PATCH_KEY, append_corrections
from convcal.data.samples import open_samples
from convcal.runtime import open_runner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
SHIFT = (-4.0, -4.0)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Give a folder as the README's reader has it, and be in it."""
    # On a Mac too: what Core ML makes of the pair, its own faults included, is not known here.
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="linux"))
    models = ROOT / "calibration_data" / "models" / "fsrcnn"
    shutil.copytree(models / "fp32.mlpackage", tmp_path / "fp32.mlpackage")
    displaced(models / "fp16.mlpackage", tmp_path / "fp16.mlpackage")
    pictures = tmp_path / "pictures"
    for folder, part, names in (
        (pictures, "train", ("astronaut", "coins", "rocket")),
        (tmp_path / "heldout", "heldout", ("chelsea",)),
    ):
        folder.mkdir()
        for name in names:
            shutil.copy(ROOT / "calibration_data/pictures" / part / f"low/{name}.png", folder)
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    with open_runner(tmp_path / "fp16.mlpackage") as runner:
        samples = open_samples(pictures, runner.description)
        for name, sample in zip(samples.names, samples, strict=True):
            output = runner.run(sample)["upscaled"]
            shape = "x".join(map(str, output.shape))
            output.astype("<f4").tofile(recorded / f"{name}__upscaled__{shape}.f32")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def displaced(source, target):
    """Save a package whose output sits 4 px too far down and right, with no word of it."""
    shift = tuple(-value for value in SHIFT)
    correction = Correction(spatial_shape=(128, 128), shift=shift, gain=(0.9,), bias=(0.01,))
    package = append_corrections(read_package(source), {"upscaled": correction})
    del package.spec.description.metadata.userDefined[PATCH_KEY]
    package.save(target)


def test_every_command_and_snippet_runs(workplace, capsys):
    n_commands = 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
        for line in block.splitlines() if language == "sh" else ():
            if line.startswith("convcal "):
                n_commands += 1
                assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
            else:
                # Those of make and pip are what CI runs.
                assert line.startswith(("make ", "pip install '.[all]'")), line
    assert n_commands >= 7
    assert re.search(r"correctable \[-2\. +0\.\] \[0\.8", capsys.readouterr().out)
    for name in ("net", "from-python", "from-captures"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            output = Calibration.load(workplace / f"{name}.calibration.json").outputs["upscaled"]
        assert output.verdict == "correctable"
        assert output.correction.shift == SHIFT
        # The gain undoes 0.9 to what fp16 rounding of the weights leaves, 2**-11.
        np.testing.assert_allclose(output.correction.gain, 1 / 0.9, rtol=2**-11)
    assert (workplace / "fixed.mlpackage").is_dir()
    assert (workplace / "corrections.py").is_file()


def test_commands_named_in_the_text_exist():
    from convcal.cli.application import VERBS

    named = set(re.findall(r"`convcal (\w+)", README))
    assert named <= set(VERBS)
    assert {"fit", "export", "capture", "check"} <= set(
        re.findall(r"^convcal (\w+)", README, re.MULTILINE)
    )


def test_every_link_into_the_repository_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert (
        {"demo", "test"} <= set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE)) <= targets
    )
