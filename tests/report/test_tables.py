# SPDX-License-Identifier: BSD-3-Clause
"""What people read of a calibration, on a terminal and in a pipe."""

import io

import pytest
from rich.console import Console

from convcal import AxisFilter, Calibration, Correction, OutputCalibration
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
        ("samples", 9, 3, "12 samples: each held out once, 4 folds"),
        ("blocks", 1, 1, "1 sample: blocks of it held out in turn, 4 folds"),
        ("blocks", 3, 3, "3 samples: blocks of each held out in turn, 4 folds"),
    ],
)
def test_how_many_samples_decided_is_said(kind, n_fitted, n_held_out, line):
    holdout = {"kind": kind, "n_fitted": n_fitted, "n_held_out": n_held_out, "n_folds": 4}
    assert f"  {line}" in read(shifted(holdout=holdout))


def test_a_subsample_is_told_from_all_samples():
    holdout = {"kind": "samples", "n_fitted": 84, "n_held_out": 29, "n_folds": 4}
    lines = read(shifted(holdout=holdout, pooled={"n_samples": 1200, "n_subsample": 113}))
    assert "  1200 samples, of which a subsample of 113: each held out once, 4 folds" in lines


def test_wrapped_lines_keep_their_indent_and_unwrapped_ones_stay_whole():
    wrapped = read(shifted(), width=40)
    start = next(n for n, line in enumerate(wrapped) if line.startswith("  margins "))
    assert all(line.startswith("  ") for line in wrapped[start:])
    assert all(len(line) <= 40 for line in wrapped)
    whole = read(shifted(), width=40, soft_wrap=True)
    assert any(len(line) > 80 and line.startswith("  margins ") for line in whole)


STRETCHED = "the observed content is stretched by 16 samples over 64 samples"


@pytest.mark.parametrize(
    ("correction", "lines"),
    [
        (
            Correction((64,), scale=(1.25,), origin=(3.0,)),
            [f"scale 1.25 about sample 3: {STRETCHED}"],
        ),
        (
            Correction((64,), shift=(2.0,), scale=(1.25,)),
            [
                "shift (2) samples: the observed content sits 2 samples too early",
                f"scale 1.25 about sample 0: {STRETCHED}",
            ],
        ),
        (
            Correction((64,), crop=((0, 9),)),
            ["crop 0 samples at the start and 9 at the end: not in the reference, dropped"],
        ),
        (
            Correction((64, 8), row_stride=16),
            ["row stride 16: rows were read as if they followed each other"],
        ),
        (
            Correction((64,), filters=(AxisFilter(-1, (0.25, 0.5, 0.25)),)),
            ["neighbours weighted by filters of 3 taps, without a shift"],
        ),
    ],
)
def test_what_a_correction_does_is_said(correction, lines):
    calibration = Calibration({"y": OutputCalibration("correctable", "a", "", correction)})
    said = [line.strip() for line in read(calibration, soft_wrap=True)]
    assert [line for line in said[1:] if not line.startswith("margins ")] == lines
