# SPDX-License-Identifier: BSD-3-Clause
"""The shipped models against what PyTorch computed for them in float64."""

from pathlib import Path

import numpy as np
import pytest

from convcal.runtime import open_runner

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "calibration_data" / "models"
# Pads in front of each model's transposed convolution, its last layer.
FRONTS = {"fsrcnn": 4, "audio-upsampler": 6, "issue-2324": 1}
# Half the sum of the pads, rounded down: where variant "half" of crop-origin begins.
HALVES = {"fsrcnn": 3, "audio-upsampler": 5, "issue-2324": 0}


def outputs(name, precision, samples, *faults):
    path = MODELS / name / f"{precision}.mlpackage"
    with open_runner(path, runtime="reference", faults=faults) as runner:
        (key,) = runner.description.input_names
        return np.stack([next(iter(runner.run({key: each}).values())) for each in samples])


@pytest.fixture(params=FRONTS)
def golden(request):
    with np.load(ROOT / "tests" / "golden" / f"{request.param}.npz") as file:
        arrays = dict(file)
    uncropped = arrays.pop("uncropped")
    samples, expected = arrays.values()
    return request.param, samples, expected, uncropped


def test_fp32_agrees_with_pytorch(golden):
    name, samples, expected, _ = golden
    scale = np.abs(expected).max()
    result = outputs(name, "fp32", samples)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6 * scale)


def test_fp16_is_a_few_roundings_away_from_pytorch(golden):
    name, samples, expected, _ = golden
    error = outputs(name, "fp16", samples) - expected
    # Weights, input and each of some 16 results are rounded by at most 2**-11 of themselves;
    # root-mean-square, these add up to less than sqrt(3 * 16) / 2 of that.
    assert 0 < np.sqrt(np.mean(error**2)) < 3.5 * 2**-11 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("variant", ["zero", "half"])
def test_crop_origin_shows_the_other_part_of_the_uncropped_tensor(golden, variant):
    name, samples, expected, uncropped = golden
    origin = 0 if variant == "zero" else HALVES[name]
    assert origin != FRONTS[name]
    window = tuple(slice(origin, origin + size) for size in expected.shape[3:])
    displaced = uncropped[(slice(None), slice(None), *window)]
    result = outputs(name, "fp16", samples[:1], f"crop-origin:variant={variant}")[0]
    tolerance = 3.5 * 2**-11 * np.sqrt(np.mean(expected**2))
    assert np.sqrt(np.mean((result - displaced) ** 2)) < tolerance
    assert np.sqrt(np.mean((result - expected[0]) ** 2)) > 3 * tolerance
