# SPDX-License-Identifier: BSD-3-Clause
"""Each rewrite computes exactly what the operation did, and is not touched by its fault.

Inputs and weights are small integers, so that every sum is exact in float32 and, here, in float16.
"""

import numpy as np
import pytest
from coreml.rewritten import CROPS, deconvolutions, kinds, rewritten, run
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.errors import UnsupportedModelError


def crops_nothing(case):
    """Whether the result is the un-cropped one, which explicit-crop has no business with."""
    full = tuple(
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(
            case.x.shape[2:],
            case.parameters["strides"],
            case.weight.shape[2:],
            case.parameters["dilations"],
            strict=True,
        )
    )
    return "output_shape" not in case.parameters and case.truth.shape[2:] == full


@pytest.mark.parametrize("strategy", CROPS)
@given(
    data=st.data(),
    precision=st.sampled_from(["float16", "float32"]),
    variant=st.sampled_from([None, "zero", "half"]),
)
@settings(max_examples=50, deadline=None)
def test_a_rewritten_transposed_convolution_is_the_closed_form_under_the_fault_too(
    strategy, data, precision, variant
):
    case = data.draw(deconvolutions(equal_strides=strategy == "subpixel"))
    if strategy == "explicit-crop" and crops_nothing(case):
        return
    package = case.package(precision)
    changed = rewritten(package, strategy, ["up" if precision == "float32" else "up_cast_fp16"])
    is_transposed = "conv_transpose" in kinds(changed)
    assert is_transposed == (strategy == "explicit-crop")
    result = run(changed, {"x": case.x}, variant=variant)
    np.testing.assert_array_equal(result, case.truth)
