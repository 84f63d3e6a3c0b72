# SPDX-License-Identifier: BSD-3-Clause
"""Calibration sets and captures: samples from files, and recorded outputs on disk."""

from convcal.data.arrays import ArrayFile, read_samples, write_samples
from convcal.data.captures import Capture, open_capture
from convcal.data.growing import RoleGrower, grow_role
from convcal.data.importing import import_outputs
from convcal.data.merging import merge_captures
from convcal.data.pictures import luma, read_picture, tiles
from convcal.data.recording import RoleWriter, check_role, write_role
from convcal.data.samples import CalibrationSet, open_samples
from convcal.data.sound import windows
from convcal.data.sources import Sample
from convcal.data.verifying import Verification, verify_capture

__all__ = [
    "ArrayFile",
    "CalibrationSet",
    "Capture",
    "RoleGrower",
    "RoleWriter",
    "Sample",
    "Verification",
    "check_role",
    "grow_role",
    "import_outputs",
    "luma",
    "merge_captures",
    "open_capture",
    "open_samples",
    "read_picture",
    "read_samples",
    "tiles",
    "verify_capture",
    "windows",
    "write_role",
    "write_samples",
]
