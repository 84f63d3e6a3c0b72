# SPDX-License-Identifier: BSD-3-Clause
"""Comparisons, logic and choice against the evaluator."""

import numpy as np
import pytest
from agreement import assert_agrees, run
from programs import make_package, mb

from convcal.runtime.translation import comparisons

VALUES = np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 2.5])
COMPARISONS = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"]
BINARY = ["logical_and", "logical_or", "logical_xor"]


def as_number(x):
    return mb.cast(x=x, dtype="fp32")


def test_every_comparison_is_tested():
    elsewhere = {"logical_not", "select"}
    assert {*COMPARISONS, *BINARY} | elsewhere == set(comparisons.OPERATIONS)


@pytest.mark.parametrize("kind", COMPARISONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_comparisons_broadcast(kind, dtype):
    values = np.array([-3, -1, 0, 2, 2, 7], np.int32) if dtype == "int32" else VALUES.astype(dtype)
    package = make_package(
        lambda x, y: as_number(getattr(mb, kind)(x=x, y=y)),
        x=((len(values), 1), dtype),
        y=((len(values),), dtype),
    )
    assert_agrees(package, {"x": values[:, None], "y": values}, relative=0)


def test_fp16_compares_rounded_numbers():
    # 2049 is 2048 in fp16.
    package = make_package(
        lambda x: as_number(mb.equal(x=mb.add(x=x, y=np.float32(1)), y=x)),
        precision="float16",
        x=(2,),
    )
    (result,) = run(package, {"x": np.float32([2048, 1024])}).values()
    np.testing.assert_array_equal(result, [1, 0])


@pytest.mark.parametrize("kind", BINARY)
def test_logic_broadcasts(kind):
    x, y = np.float32([[0], [1]]), np.float32([0, 1])
    package = make_package(
        lambda x, y: as_number(
            getattr(mb, kind)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool"))
        ),
        x=x.shape,
        y=y.shape,
    )
    assert_agrees(package, {"x": x, "y": y}, relative=0)


def test_logical_not():
    package = make_package(
        lambda x: as_number(mb.logical_not(x=mb.cast(x=x, dtype="bool"))), x=(3,)
    )
    (result,) = run(package, {"x": np.float32([0, 1, -0.5])}).values()
    np.testing.assert_array_equal(result, [1, 0, 0])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
def test_select_broadcasts_all_three_and_lets_nothing_through(dtype):
    a, b = np.float32([[1], [0], [5]]), np.float32(np.arange(8)).reshape(2, 1, 4)
    name = {"float32": "fp32", "float16": "fp16"}.get(dtype, dtype)
    package = make_package(
        lambda x, a, b: as_number(
            mb.select(
                cond=mb.greater(x=x, y=np.float32(0)),
                a=mb.cast(x=a, dtype=name),
                b=mb.cast(x=b, dtype=name),
            )
        ),
        x=(4,),
        a=a.shape,
        b=b.shape,
    )
    sample = {"x": np.float32([1, -1, np.nan, 2]), "a": a, "b": b}
    assert_agrees(package, sample, relative=0)


def test_select_takes_nothing_from_what_it_does_not_choose():
    package = make_package(
        lambda x: mb.select(cond=mb.less(x=x, y=np.float32(0)), a=np.float32([0] * 3), b=x),
        x=(3,),
    )
    (result,) = run(package, {"x": np.float32([-np.inf, np.inf, 1])}).values()
    np.testing.assert_array_equal(result, [0, np.inf, 1])
