# SPDX-License-Identifier: BSD-3-Clause
"""An interrupted fit goes on where it stopped, or says why it cannot."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_runner import FakeRunner

from convcal import FitOptions, fit
from convcal.cli import main
from convcal.errors import InputError, OutputExistsError, RunnerError
from convcal.fitting import checkpoint as checkpoints

SHAPE = (1, 2, 12, 10)
N_SAMPLES = 150
MODELS = Path(__file__).parents[2] / "calibration_data" / "models" / "issue-2324"
PAIR = (MODELS / "fp32.mlpackage", MODELS / "fp16.mlpackage")


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """Write a checkpoint after every batch."""
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0)


def scenes():
    generator = np.random.default_rng(3)
    return [{"x": generator.normal(size=SHAPE).astype(np.float32)} for _ in range(N_SAMPLES)]


class Model(FakeRunner):
    """Displaces by a pixel, counts its runs, and fails at one of them."""

    def __init__(self, *, fails_at=None, error=RunnerError, moves=True):
        super().__init__(lambda x: np.roll(x, 1, -1) if moves else x, shape=SHAPE, kind="tensor")
        self.provenance = {"runtime": "fake"}
        self.fails_at, self.error, self.n_runs = fails_at, error, 0

    def run(self, sample):
        if self.n_runs == self.fails_at:
            raise self.error("the machine is tired")
        self.n_runs += 1
        return super().run(sample)


def fitted(observed, path, **options):
    return fit(Model(moves=False), observed, scenes(), checkpoint=path, **options)


@pytest.fixture
def interrupted(tmp_path):
    """The checkpoint of a fit whose model failed at sample 140."""
    path = tmp_path / "net.checkpoint.npz"
    with pytest.raises(RunnerError, match="tired"):
        fitted(Model(fails_at=140), path)
    assert path.exists()
    return path


@pytest.mark.parametrize("error", [RunnerError, KeyboardInterrupt, InputError, SystemExit])
def test_a_fit_that_goes_on_gives_what_one_in_one_piece_gives(tmp_path, error):
    path = tmp_path / "net.checkpoint.npz"
    expected = fitted(Model(), path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(error):
        fitted(Model(fails_at=140, error=error), path)
    observed = Model()
    assert fitted(observed, path, resume=True) == expected
    assert 10 <= observed.n_runs < N_SAMPLES
    assert list(tmp_path.iterdir()) == []


def test_without_a_checkpoint_to_go_on_from_a_fit_starts_anew(tmp_path):
    observed = Model()
    fitted(observed, tmp_path / "c.npz", resume=True)
    assert observed.n_runs == N_SAMPLES


def test_a_checkpoint_is_neither_lost_nor_taken_for_another_fits(interrupted):
    before = interrupted.read_bytes()
    with pytest.raises(OutputExistsError, match=r"interrupted; pass --resume .*--force"):
        fitted(Model(), interrupted)
    with pytest.raises(InputError, match=r"another fit: options.robust is False there and True"):
        fitted(Model(), interrupted, resume=True, options=FitOptions(robust=True))
    other = Model()
    other.provenance = {"runtime": "another"}
    with pytest.raises(InputError, match=r"observed.runtime is 'fake' there and 'another' here"):
        fitted(other, interrupted, resume=True)
    with pytest.raises(InputError, match=r"another fit: data.sha256 is"):
        fit(Model(moves=False), Model(), scenes()[:-1], checkpoint=interrupted, resume=True)
    assert interrupted.read_bytes() == before


def test_resuming_without_saying_from_where_is_refused():
    with pytest.raises(InputError, match="nothing to resume without a checkpoint"):
        fit(Model(), Model(), scenes(), resume=True)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-200])


def replaced(**arrays):
    return lambda path: np.savez(path, **arrays)


def pickled(path):
    np.savez(path, checkpoint=np.array([{}], dtype=object), allow_pickle=True)


def changed(path, **changes):
    with np.load(path) as arrays:
        content = {**arrays, **changes}
    np.savez(path, **content)


def single(path):
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def marked(path):
    """Set the bit of encryption of every member."""
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        start = content.find(signature)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(signature, start + 4)
    path.write_bytes(content)


def restated(path, **changes):
    """Change what is said of the first output."""
    with np.load(path) as arrays:
        header = json.loads(str(arrays["state"]))
    header["outputs"][0].update(changes)
    changed(path, state=np.array(json.dumps(header)))


DAMAGE = {
    "cut off": (shortened, "or damaged"),
    "empty": (lambda path: path.write_bytes(b""), "or damaged"),
    "a pickle": (lambda path: path.write_bytes(b"(lp0\nI1\na."), "or damaged"),
    "pickled objects": (pickled, "cannot be read"),
    "another archive": (replaced(x=np.zeros(3)), "no checkpoint of convcal's"),
    "one array": (single, "no checkpoint"),
    "no JSON": (replaced(checkpoint=np.array("{")), "cannot be read"),
    "another version": (
        replaced(checkpoint=np.array('{"format": "convcal.checkpoint", "version": 2}')),
        "no checkpoint of version 1",
    ),
    "encrypted": (marked, "cannot be read"),
    "nested": (replaced(checkpoint=np.array("[" * 100000)), "cannot be read"),
    "an axis of text": (lambda path: restated(path, batch_axis="x"), "contradicts"),
    "another shape": (lambda path: restated(path, shape=[1]), "contradicts"),
    "a dtype of fields": (lambda path: restated(path, dtype="f4,f4"), "contradicts"),
    "a crop to the outside": (lambda path: restated(path, crop=[[-1, 0]]), "contradicts"),
    "no number of samples": (
        lambda path: changed(path, state=np.array('{"n_samples": Infinity, "outputs": []}')),
        "'n_samples' is inf",
    ),
    "no state": (lambda path: changed(path, state=np.array("{}")), "state of a fit"),
    "other counts": (
        lambda path: changed(path, **{"0/count": np.zeros(3, dtype=np.int64)}),
        "the statistics keep",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_and_foreign_checkpoints_are_named(interrupted, case):
    damage, message = DAMAGE[case]
    damage(interrupted)
    with pytest.raises(InputError, match=message):
        fitted(Model(), interrupted, resume=True)


# ---------------------------------------------------------------- with real processes

SLOW = """\
import pathlib, time
import numpy as np

calls = []

def samples():
    calls.append(None)
    generator = np.random.default_rng(0)
    for index in range(150):
        if index == 140 and len(calls) == 2 and not pathlib.Path("go").exists():
            pathlib.Path("started").touch()
            time.sleep(60)
        yield {"x": generator.normal(size=(1, 1, 4)).astype(np.float32)}
"""
PROGRAM = """\
import sys
from convcal.cli import main
from convcal.fitting import checkpoint

checkpoint.SECONDS_BETWEEN_CHECKPOINTS = 0
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_is_gone_on_from(tmp_path, monkeypatch, capsys, sent):
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(SLOW)
    how = ("--data", "slow.py:samples", "--emulate", "crop-origin", "--runtime", "reference")
    words = [str(word) for word in ("fit", *PAIR, *how, "-o", "net.json")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    deadline = time.monotonic() + 60
    while not Path("started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    checkpoint = Path("net.json.checkpoint.npz")
    assert checkpoint.exists()
    assert not Path("net.json").exists()
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert f"what was done is kept in {checkpoint}; --resume goes on" in err
    Path("go").touch()
    capsys.readouterr()
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert not checkpoint.exists()
    assert main([*words[:-1], "whole.json"]) == 0
    assert Path("net.json").read_text() == Path("whole.json").read_text()


def test_force_starts_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(8, 1, 1, 4)).astype(np.float32))
    Path("net.json.checkpoint.npz").write_bytes(b"of some other fit")
    how = ("--data", "data.npz", "--emulate", "crop-origin", "--runtime", "reference")
    words = [str(word) for word in ("fit", *PAIR, *how, "-o", "net.json")]
    assert main([*words, "--resume"]) == 2
    assert main([*words, "--force"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "net.json"]
