# SPDX-License-Identifier: BSD-3-Clause
"""Run the command line in this process, in an empty folder, on the smallest model pair."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli.scenes import content, displaced

from convcal.cli import main

PAIR = Path(__file__).parents[2] / "calibration_data" / "models" / "issue-2324"


@dataclass
class Result:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The JSON document; fails where standard output holds anything else."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _reference_runtime(monkeypatch):
    """Let auto mean the reference runtime on a Mac too: none of these tests is about Core ML."""
    monkeypatch.setattr("convcal.runtime.runner.sys", SimpleNamespace(platform="linux"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that is the working folder."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return path


@pytest.fixture
def convcal(folder, capsys):
    """Run a command in that folder."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(convcal, folder):
    """Run a command that must be refused, in words and in JSON, and leave the folder as it was."""

    def run(*words, names, code=2, error=None):
        before = content(folder)
        result = convcal(*words)
        assert result.code == code, result.err
        assert result.out == ""
        lines = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        for name in names:
            assert name in lines[0]
        in_json = convcal(*words, "--json")
        assert in_json.code == code
        document = in_json.document
        assert document["status"] == "error"
        assert document["result"] is None
        assert f"error: {document['error']['message']}" == lines[0]
        if error is not None:
            assert document["error"]["code"] == error
        assert content(folder) == before
        return result

    return run


@pytest.fixture
def data(folder):
    """Twelve samples for the pair."""
    path = folder / "data.npz"
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.standard_normal((12, 1, 1, 4)).astype(np.float32))
    return path


@pytest.fixture(scope="session")
def pair():
    """The packages of the pair, not to be written to."""
    return PAIR / "fp32.mlpackage", PAIR / "fp16.mlpackage"


@pytest.fixture
def damaged(folder, pair):
    """A copy of the observed package, to be damaged."""
    return shutil.copytree(pair[1], folder / "damaged.mlpackage")


@pytest.fixture
def captured(folder):
    """Give a capture of arrays by role and output, made of imported outputs."""

    def make(reference, observed, *, path=folder / "net.capture", name="y"):
        for role, array in (("reference", reference), ("observed", observed)):
            file = folder / f"{role}.npz"
            np.savez(file, **{f"sample-{n}/{name}": each for n, each in enumerate(array)})
            words = ("capture", "--import", file, "--role", role, "-o", path)
            assert main([str(word) for word in words]) == 0
            file.unlink()
        return path

    return make


@pytest.fixture
def calibration(convcal, captured, folder):
    """A calibration of one output y, (1, 2, 48, 40), shift (-3, 2), fitted on captures."""
    path = captured(*displaced())
    result = convcal("fit", "--captures", path, "-o", "net.calibration.json")
    assert result.code == 0, result.err
    shutil.rmtree(path)
    return folder / "net.calibration.json"
