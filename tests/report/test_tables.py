# SPDX-License-Identifier: BSD-3-Clause
"""What people read of a calibration, on a terminal and in a pipe."""

import io

import pytest
from rich.console import Console

from convcal import Calibration, Correction, OutputCalibration
from convcal.report.tables import calibration_tables


def read(calibration, *, width=80, soft_wrap=False):
    console = Console(file=io.StringIO(), width=width)
    for part in calibration_tables(calibration):
        console.print(part, soft_wrap=soft_wrap)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def shifted(**evidence):
    correction = Correction((64, 64), shift=(-4.0, -4.0), gain=(1.0, 0.9), bias=(0.0, -0.05))
    return Calibration({"y": OutputCalibration("correctable", "a", "shift", correction, evidence)})


@pytest.mark.parametrize(
    ("kind", "n_fitted", "n_held_out", "line"),
    [
        ("samples", 9, 3, "12 samples: 9 fitted, 3 held out"),
        ("blocks", 1, 1, "1 sample: some blocks of it fitted, the others held out"),
        ("blocks", 3, 3, "3 samples: some blocks of each fitted, the others held out"),
    ],
)
def test_how_many_samples_decided_is_said(kind, n_fitted, n_held_out, line):
    holdout = {"kind": kind, "n_fitted": n_fitted, "n_held_out": n_held_out}
    assert f"  {line}" in read(shifted(holdout=holdout))


def test_wrapped_lines_keep_their_indent_and_unwrapped_ones_stay_whole():
    wrapped = read(shifted(), width=40)
    start = next(n for n, line in enumerate(wrapped) if line.startswith("  margins "))
    assert all(line.startswith("  ") for line in wrapped[start:])
    assert all(len(line) <= 40 for line in wrapped)
    whole = read(shifted(), width=40, soft_wrap=True)
    assert any(len(line) > 80 and line.startswith("  margins ") for line in whole)
