# SPDX-License-Identifier: BSD-3-Clause
"""What it means that the reference runtime agrees with the evaluator."""

import numpy as np
from evaluator import evaluate

from convcal.coreml.program import load_program
from convcal.runtime.reference import ReferenceRunner

__all__ = ["assert_agrees", "assert_rounded_once", "run"]


def run(package, sample, **options):
    with ReferenceRunner(package, threads=1, **options) as runner:
        return runner.run(sample)


def assert_agrees(package, sample, *, relative=1e-5, absolute=0.0):
    """Compare every output; NaN and infinity are at the same places."""
    with np.errstate(all="ignore"):
        truth = evaluate(package, sample)
    for name, result in run(package, sample).items():
        assert result.shape == truth[name].shape
        np.testing.assert_allclose(result, truth[name], rtol=relative, atol=absolute)


def assert_rounded_once(package, sample, *, slack=0.0):
    """Hold every fp16 tensor to half a unit in the last place of what its own inputs give.

    A hundredth of a unit beside it is for arithmetic in fp32, and `slack` for sums that cancel.
    """
    operations = load_program(package).operations
    values = [value for each in operations for value in each.outputs if value.constant is None]
    halves = [value.name for value in values if value.dtype == "float16"]
    assert halves
    results = run(package, sample, extra_outputs=[value.name for value in values])
    with np.errstate(all="ignore"):
        steps = evaluate(package, sample, rounds=False, start=results)
        for name in halves:
            exact, result = steps[name], results[name].astype(np.float64)
            spacing = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
            is_close = np.abs(result - exact) <= 0.51 * spacing + slack
            assert np.all(is_close | (result == exact)), name
