# SPDX-License-Identifier: BSD-3-Clause
from pathlib import Path

import pytest

from convcal import Correction
from convcal.coreml.package import read_package
from convcal.coreml.patch import append_corrections
from convcal.coreml.provenance import package_provenance

MODELS = Path(__file__).parents[2] / "calibration_data" / "models"


@pytest.mark.parametrize("case", ["fsrcnn", "audio-upsampler", "issue-2324"])
def test_the_precision_is_the_one_that_the_network_computes_in(case):
    for name, precision in (("fp16", "float16"), ("fp32", "float32")):
        package = read_package(MODELS / case / f"{name}.mlpackage")
        assert package_provenance(package) == {
            "package": f"{name}.mlpackage",
            "sha256": package.sha256,
            "precision": precision,
        }


def test_a_correction_that_is_built_in_is_told_and_changes_no_precision():
    package = read_package(MODELS / "fsrcnn" / "fp16.mlpackage")
    correction = Correction(spatial_shape=(128, 128), shift=(1.0, 1.0), gain=(1.0,), bias=(0.0,))
    entries = package_provenance(append_corrections(package, {"upscaled": correction}))
    assert entries["corrected"]
    assert entries["precision"] == "float16"
