# SPDX-License-Identifier: BSD-3-Clause
"""The command line where nothing but NumPy is installed."""

import subprocess
import sys

import numpy as np
import pytest

from convcal import Calibration, Correction, OutputCalibration

OTHERS = (
    "PIL", "coremltools", "matplotlib", "onnx", "onnxruntime", "rich", "scipy", "sklearn",
    "soundfile", "zarr",
)  # fmt: skip
CODE = f"""
import sys
sys.modules.update(dict.fromkeys({OTHERS}))
from convcal.cli import main
sys.exit(main())
"""


@pytest.fixture
def alone(folder):
    """Run a command, in the folder, in a process that can import no package but NumPy."""
    correction = Correction((8,), gain=(2.0,), bias=(0.0,))
    output = OutputCalibration("correctable", "", "affine", correction)
    Calibration({"y": output}).save("net.json")
    np.savez("outputs.npz", y=np.ones((1, 1, 8), np.float32))

    def run(*words):
        command = [sys.executable, "-c", CODE, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_outputs_are_corrected_and_post_processors_made(alone, folder):
    apply = alone("apply", "net.json", "outputs.npz", "-o", "corrected.npz")
    assert (apply.returncode, apply.stderr) == (0, "")
    assert "corrected: y" in apply.stdout
    export = alone("export", "net.json", "--to", "python", "-o", "corrections.py")
    assert (export.returncode, export.stderr) == (0, "")
    assert (folder / "corrections.py").exists()


def test_what_needs_more_names_the_package_and_is_no_defect(alone):
    for words in (
        ("fit", "--captures", "outputs.npz", "-o", "c.json"),
        ("check", "a", "b", "--data", "outputs.npz"),
    ):
        result = alone(*words)
        assert result.returncode == 2
        assert "package scipy, which is not installed; pip install convcal" in result.stderr
        assert "defect" not in result.stderr


def test_doctor_says_what_is_missing(alone):
    result = alone("doctor")
    assert result.returncode == 1
    assert result.stderr == ""
    assert "scipy: missing; pip install 'scipy'" in result.stdout
    assert "correct outputs in files: yes" in result.stdout
