# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C, a reader that leaves, and terminals: with real processes and signals."""

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli.scenes import FAULT, content, displaced

COMMAND = (sys.executable, "-m", "convcal")
FULL = Path("/dev/full")
SLOW = """\
import pathlib, time
import numpy as np

class Samples:
    def __len__(self):
        return 100

    def __iter__(self):
        for index in range(100):
            if index == 3:
                pathlib.Path("../started").touch()
                time.sleep(60)
            yield {"x": np.full((1, 1, 4), index, np.float32)}

def samples():
    return Samples()
"""


@pytest.mark.parametrize(
    ("verb", "sent"),
    [
        ("fit", signal.SIGINT),
        ("capture", signal.SIGINT),
        ("run", signal.SIGTERM),
        ("run", signal.SIGHUP),
    ],
)
def test_ctrl_c_in_the_middle_leaves_nothing_behind(folder, pair, verb, sent):
    (folder / "slow.py").write_text(SLOW)
    words = {
        "fit": ("fit", *pair, "-o", "net.json"),
        "capture": ("capture", pair[0], "--role", "reference", "-o", "net.capture", "--json"),
        "run": ("run", pair[0], "-o", "outputs.npz"),
    }[verb]
    before = content(folder)
    process = subprocess.Popen(
        [*COMMAND, *map(str, words), "--data", "slow.py:samples", "--runtime", "reference"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    deadline = time.monotonic() + 60
    while not (folder.parent / "started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    how_to_go_on = {
        "fit": "nothing was kept of the fit yet; run the same command again\n",
        "capture": "no sample was recorded yet; run the same command again\n",
    }.get(verb, "")
    assert err == f"{how_to_go_on}error: interrupted; nothing half-written is left\n"
    if verb == "capture":
        document = json.loads(out)
        assert document["status"] == "interrupted"
    else:
        assert out == ""
    assert content(folder) == before


MOMENTS = {
    ("apply", "net.json", "o.npz", "-o", "n.npz"): "convcal.applying.PostProcessor.__call__",
    ("export", "net.json", "--to", "python", "-o", "n.py"): "runpy.run_path",
    (
        *("export", "net.json", "--to", "coreml", "--model", "fp16.mlpackage"),
        *("-o", "n.mlpackage"),
    ): "convcal.export.coreml._check",
}
"""Commands, and what each calls when its product is written and not yet in its place."""


@pytest.fixture
def fitted(convcal, folder, pair, data):
    """A folder with a calibration, outputs and the package that they are of."""
    fit = ("fit", *pair, "--data", data, "--emulate", FAULT, "-o", "net.json")
    assert convcal(*fit).code == 0
    assert convcal("run", pair[1], "--data", data, "-o", "o.npz").code == 0
    shutil.copytree(pair[1], folder / "fp16.mlpackage")
    return folder


@pytest.mark.parametrize("words", MOMENTS, ids=lambda words: words[-1])
def test_ctrl_c_before_a_product_takes_its_place_leaves_all_as_it_was(
    fitted, convcal, monkeypatch, words
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for force in ((), ("--force",)):
        before = content(fitted)
        with monkeypatch.context() as patch:
            patch.setattr(MOMENTS[words], interrupted)
            result = convcal(*words, *force)
        assert result.code == 130
        assert result.err.endswith("error: interrupted; nothing half-written is left\n")
        assert content(fitted) == before
        assert convcal(*words, *force).code == 0


def test_a_reader_that_leaves_early_is_no_error(folder, captured):
    path = captured(*displaced())
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [*COMMAND, "fit", "--captures", path, "-o", "net.json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert process.returncode == 0
    assert process.stderr == ""
    assert (folder / "net.json").is_file()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_do_not_stop_the_work(folder, pair, data, closed):
    line = shlex.join([*COMMAND, "run", str(pair[0]), "--data", str(data), "-o", "outputs.npz"])
    process = subprocess.run(
        ["sh", "-c", f"exec {line} --runtime reference --json {closed}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0
    assert process.stderr == ""
    assert (">" in closed.replace("2>", "")) is (process.stdout == "")
    if process.stdout:
        assert json.loads(process.stdout)["status"] == "done"
    with np.load("outputs.npz") as outputs:
        assert len(outputs) == 12


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_full_disk_under_the_results_is_told(folder, captured, form):
    path = captured(*displaced())
    with FULL.open("w") as full:
        process = subprocess.run(
            [*COMMAND, "fit", "--captures", path, "-o", "net.json", *form],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert process.returncode == 2
    assert process.stderr == (
        "error: cannot write to standard output: No space left on device; what the command was to "
        "write elsewhere is there\n"
    )
    assert (folder / "net.json").is_file()


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_and_progress_only_on_a_terminal(folder, pair, data, no_color):
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR")
    if no_color:
        environment["NO_COLOR"] = "1"
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "check", *map(str, pair), "--data", str(data), "--runtime", "reference"],
        stdout=terminal,
        stderr=terminal,
        env=environment,
    )
    os.close(terminal)
    shown = bytearray()
    while True:
        try:
            chunk = os.read(controller, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(controller)
    assert process.wait(timeout=30) == 0
    text = shown.decode()
    assert "running both models" in text
    assert "12/12" in text
    assert ("\x1b[1;32mpassed" in text) is not no_color
