# SPDX-License-Identifier: BSD-3-Clause
"""Every command and snippet of the page on cures runs, in its order, on the pair of FSRCNN."""

import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from convcal import inspect
from convcal.cli import main
from convcal.coreml.inspection import load_default
from convcal.coreml.package import read_package
from convcal.coreml.rules import RULES
from convcal.words import STRATEGIES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cures.md").read_text(encoding="utf-8")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="linux"))
    for name in ("fp32", "fp16"):
        source = ROOT / "calibration_data" / "models" / "fsrcnn" / f"{name}.mlpackage"
        shutil.copytree(source, tmp_path / source.name)
    (tmp_path / "pictures").mkdir()
    for name in ("coins", "rocket"):
        shutil.copy(
            ROOT / "calibration_data/pictures/train/low" / f"{name}.png", tmp_path / "pictures"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dtypes(path):
    """Give the dtypes of what a package's operations make, casts left out."""
    operations = load_default(read_package(path), "main").walk()
    return {each.outputs[0].dtype for each, _ in operations if each.type != "cast"}


def test_every_command_and_snippet_runs(workplace):
    commands = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, "cures.md", "exec"), {"__name__": "cures"})
        for line in block.splitlines() if language == "sh" else ():
            words = shlex.split(line)
            assert words[0] == "convcal"
            assert main(words[1:]) == (1 if words[1] == "inspect" else 0), line
            commands.append(words[1])
    assert commands.count("rewrite") == 4
    for name in ("fixed", "subpixel", "island", "path32", "all32"):
        assert inspect(workplace / f"{name}.mlpackage"), name
    assert dtypes("fp16.mlpackage") == {"float16"}
    assert dtypes("island.mlpackage") == {"float16", "float32"}
    assert dtypes("all32.mlpackage") == {"float32"}


def test_every_strategy_and_every_workaround_is_there():
    named = re.findall(r"^\| `([a-z0-9-]+)` \| (?:`conv_transpose`|any)", PAGE, re.MULTILINE)
    assert tuple(named) == STRATEGIES
    workarounds = PAGE.partition("## The four workarounds")[2].partition("\n## ")[0]
    sections = workarounds.split("\n### ")[1:]
    assert len(sections) == 4
    assert all(section.count("```sh\nconvcal ") == 1 for section in sections)


def test_every_rule_is_listed_as_it_stands():
    rows = [
        f"| {rule.fault} | {', '.join(f'`{each}`' for each in rule.operations) or 'any'} | "
        f"{rule.title} | {rule.level} | {rule.devices} | {', '.join(rule.sources)} |"
        for rule in RULES
    ]
    listed = PAGE.partition("## The rules")[2].splitlines()
    assert [line for line in listed if line.startswith(("| A", "| B", "| C", "| E"))] == rows
