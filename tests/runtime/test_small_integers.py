# SPDX-License-Identifier: BSD-3-Clause
"""Integers of 8 and 16 bits, which iOS17 has: casts, and operations that move them."""

import numpy as np
import pytest
from agreement import assert_agrees, run
from programs import make_package, mb

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1)}
RANGES["uint16"] = (0, 2**16 - 1)


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("target", ["fp32", "fp16", "int32", "bool", "int16"])
def test_casts_of_what_fits(dtype, target):
    low, high = RANGES[dtype]
    x = np.float32([low, low + 1, 0.9, 1.5, 2, high - 0.5, high])
    package = make_package(
        lambda x: mb.cast(
            x=mb.cast(x=mb.cast(x=x, dtype=dtype), dtype=target), dtype="fp32", name="y"
        ),
        x=x.shape,
        target="iOS17",
    )
    assert_agrees(package, {"x": x}, relative=0)


@pytest.mark.parametrize("dtype", RANGES)
def test_integers_that_do_not_fit_wrap_around(dtype):
    x = np.array([-(2**31), -70000, -32769, -129, -1, 128, 256, 32768, 65536, 2**31 - 1], np.int32)
    package = make_package(
        lambda x: mb.cast(x=mb.cast(x=x, dtype=dtype), dtype="int32"),
        x=(x.shape, "int32"),
        target="iOS17",
    )
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_array_equal(result, x.astype(dtype))


def test_small_integers_are_moved_and_come_out_as_they_are_typed():
    x = np.array([[1, 200], [3, 4]], np.int32)
    package = make_package(
        lambda x: mb.cast(
            x=mb.transpose(x=mb.cast(x=x, dtype="uint8", name="bytes"), perm=[1, 0]),
            dtype="int32",
        ),
        x=(x.shape, "int32"),
        target="iOS17",
    )
    result, stored = run(package, {"x": x}, extra_outputs=["bytes"]).values()
    np.testing.assert_array_equal(result, x.T)
    assert stored.dtype == np.uint8
