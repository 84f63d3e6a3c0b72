# SPDX-License-Identifier: BSD-3-Clause
"""Patched packages on the reference runtime, against the independent evaluator."""

import numpy as np
import pytest
from evaluator import evaluate
from programs import make_package, mb

from convcal import AxisFilter, Correction, SincFilter
from convcal.coreml.patch import append_corrections
from convcal.runtime.reference import ReferenceRunner

LINE, PLANE, VOLUME = (2, 3, 9), (1, 3, 7, 8), (1, 2, 5, 6, 4)
FILTERS = {
    "whole": (AxisFilter(1, (1.0,)), AxisFilter(-2, (1.0,)), AxisFilter(0, (1.0,))),
    "fractional": (
        AxisFilter(-1, (-0.0625, 0.5625, 0.5625, -0.0625)),
        AxisFilter(2, (0.25, 0.75)),
        AxisFilter(0, (0.5, 0.5)),
    ),
    "scaled": (SincFilter(4), AxisFilter(1), SincFilter(2)),
}


@pytest.mark.parametrize("shape", [LINE, PLANE, VOLUME])
@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("precision", ["float32", "output"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_patched_program_agrees_with_the_evaluator(shape, kind, precision, dtype):
    n_channels = shape[1]
    filters = FILTERS[kind][: len(shape) - 2]
    is_sinc = [isinstance(each, SincFilter) for each in filters]
    correction = Correction(
        shift=tuple(0.3 if isinstance(each, SincFilter) else -each.offset for each in filters),
        filters=filters,
        scale=tuple(1.06 if scaled else 1.0 for scaled in is_sinc),
        origin=tuple(2.5 if scaled else 0.0 for scaled in is_sinc),
        gain=tuple(1.0 + 0.01 * c for c in range(n_channels)),
        bias=tuple(0.1 * c - 0.05 for c in range(n_channels)),
        spatial_shape=shape[2:],
        dtype=dtype,
    )
    package = make_package(
        lambda x: mb.leaky_relu(x=x, alpha=np.dtype(dtype).type(0.25), name="y"),
        x=(shape, dtype),
    )
    patched = append_corrections(package, {"y": correction}, precision=precision, allow_scale=True)
    sample = {"x": np.random.default_rng(0).standard_normal(shape).astype(dtype)}
    with ReferenceRunner(patched, threads=1) as runner:
        result = runner.run(sample)["y"]
    expected = evaluate(patched, sample)["y"]
    assert result.dtype == dtype
    # In fp32 as everywhere; where fp16 is rounded to, fp32 sums may tip one rounding of each of
    # at most 3 filters, gain and bias.
    relative = 1e-5 if dtype == "float32" else 5 * 2**-11
    np.testing.assert_allclose(result, expected, rtol=relative, atol=relative * 0.1)
