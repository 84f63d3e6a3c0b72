# SPDX-License-Identifier: BSD-3-Clause
"""Packages that coremltools made of PyTorch modules, against what PyTorch computes in float64.

`tests/golden/pytorch.py` wrote them; PyTorch is not needed here.
"""

import numpy as np
import pytest
from goldens import GOLDENS, load

from convcal.runtime import open_runner


@pytest.mark.parametrize("name", GOLDENS)
def test_agrees_with_pytorch(name, tmp_path):
    path, samples = load(name, tmp_path)
    with open_runner(path, runtime="reference") as runner:
        inputs, outputs = runner.description.input_names, runner.description.output_names
        for sample in samples:
            results = runner.run({key: sample[key] for key in inputs})
            for key in outputs:
                assert_close(results[key], sample[key], is_half=name.endswith("-half"))


def assert_close(result, expected, *, is_half):
    # PyTorch has results without an axis, Core ML of one.
    assert result.reshape(expected.shape).shape == expected.shape
    if expected.dtype.kind == "i":
        np.testing.assert_array_equal(result, expected)
        return
    scale = np.abs(expected).max(initial=0)
    error = result.reshape(expected.shape) - expected
    if is_half:
        # Weights, inputs and some 40 results, each rounded by at most 2**-11 of itself.
        assert 0 < np.abs(error).max() < np.sqrt(3 * 40) / 2 * 2**-11 * scale
    else:
        assert np.abs(error).max(initial=0) <= 1e-5 * scale


def test_there_are_goldens():
    assert len(GOLDENS) > 80
