# SPDX-License-Identifier: BSD-3-Clause
"""Reductions against the evaluator: any axes, ranks and types; NaN and infinity; large sums."""

import numpy as np
import pytest
from agreement import assert_agrees, assert_rounded_once, run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.runtime.translation import reductions

ARGUMENTS = ["reduce_argmax", "reduce_argmin"]
KINDS = sorted(set(reductions.OPERATIONS) - set(ARGUMENTS))
POSITIVE = ("reduce_log_sum",)


def reduced(kind, **options):
    return lambda x: getattr(mb, kind)(x=x, **options)


def numbers(seed, shape, kind):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.abs(x) if kind in POSITIVE else x


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_reductions_along_any_axes(kind, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    axes = data.draw(st.none() | st.sets(st.integers(0, len(shape) - 1), min_size=1))
    options = {"keep_dims": data.draw(st.booleans())}
    if axes is not None:
        options["axes"] = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    x = numbers(0, shape, kind)
    # Sums may cancel, logarithms may be of 1: an fp32 rounding per term of order 1 remains.
    assert_agrees(make_package(reduced(kind, **options), x=shape), {"x": x}, absolute=x.size * 3e-7)


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@given(data=st.data())
def test_places_of_extrema(kind, dtype, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    options = {"keep_dims": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["axis"] = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = np.random.default_rng(1).integers(-3, 4, shape).astype(dtype)
    assert_agrees(make_package(reduced(kind, **options), x=(shape, dtype)), {"x": x}, relative=0)


@pytest.mark.parametrize("kind", KINDS + ARGUMENTS)
def test_nan_and_infinity_in_every_place(kind):
    x = np.ones((9, 3), np.float32)
    for row, special in enumerate([np.nan, np.inf, -np.inf] * 3):
        x[row, row // 3] = special
    x = np.concatenate([x, np.float32([[np.nan, np.inf, 1], [-np.inf] * 3, [0, 0, 0]])])
    axis = {"axis": 1} if kind in ARGUMENTS else {"axes": [1]}
    assert_agrees(make_package(reduced(kind, **axis), x=x.shape), {"x": x})


@pytest.mark.parametrize("kind", KINDS)
def test_integers(kind):
    x = np.array([[3, -4, 6, 1], [2, 1, 9, -11], [5, 5, 5, 5]], np.int32)
    x = np.abs(x) if kind in POSITIVE else x
    for options in ({"axes": [1]}, {"axes": [-2], "keep_dims": True}, {}):
        package = make_package(reduced(kind, **options), x=(x.shape, "int32"))
        assert_agrees(package, {"x": x}, relative=0)


@pytest.mark.parametrize("kind", ["reduce_sum", "reduce_sum_square", "reduce_l1_norm"])
def test_integers_wrap_around(kind):
    x = np.array([2**30, 2**30 + 7, 3, 2**29], np.int32)
    assert_agrees(make_package(reduced(kind), x=(x.shape, "int32")), {"x": x}, relative=0)


def test_a_mean_of_integers_is_truncated():
    x = np.array([[2**31 - 1, 2**31 - 2], [-3, -4]], np.int32)
    package = make_package(reduced("reduce_mean", axes=[1]), x=(x.shape, "int32"))
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_array_equal(result, [2**31 - 2, -3])


@pytest.mark.parametrize("kind", KINDS)
def test_fp16_reductions_are_rounded_once(kind):
    x = numbers(2, (4, 50), kind)
    x = np.exp2(x / 8) if kind == "reduce_prod" else x
    package = make_package(reduced(kind, axes=[1]), precision="float16", x=x.shape)
    assert_rounded_once(package, {"x": x}, slack=1e-5)


@pytest.mark.parametrize(
    "kind", ["reduce_l1_norm", "reduce_l2_norm", "reduce_mean", "reduce_sum", "reduce_sum_square"]
)
def test_a_million_terms_are_not_added_one_after_the_other(kind):
    # In partial sums of about 2**17 terms each addition rounds by up to 2**-24; as if at random,
    # which grows with the root of their number: 2**-15.5 of the sum. One after the other, squares
    # exceed twice that.
    x = np.random.default_rng(4).random((1, 2**20), np.float32)
    assert_agrees(make_package(reduced(kind, axes=[1]), x=x.shape), {"x": x}, relative=4e-5)


def test_fp16_is_summed_in_fp32():
    # In fp16 the sum would stay at 2048, and overflow to infinity on the way to the mean.
    x = np.full((1, 5000), 16, np.float16)
    package = make_package(
        lambda x: (mb.reduce_mean(x=x, axes=[1]), mb.reduce_sum(x=x, axes=[1])),
        x=(x.shape, "float16"),
    )
    mean, total = run(package, {"x": x}).values()
    assert (mean.item(), total.item()) == (16, np.inf)


def test_a_log_sum_exp_neither_overflows_nor_underflows():
    x = np.float32([[1e4, 1e4], [-1e4, -1e4], [0, -1e4]])
    package = make_package(reduced("reduce_log_sum_exp", axes=[1]), x=x.shape)
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_allclose(result, [1e4 + np.log(2), -1e4 + np.log(2), 0], rtol=1e-7)


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_indices_in_uint16(kind):
    package = make_package(
        lambda x: mb.cast(x=getattr(mb, kind)(x=x, output_dtype="uint16"), dtype="fp32"),
        x=(2, 300),
        target="iOS17",
    )
    assert_agrees(package, {"x": numbers(3, (2, 300), kind)}, relative=0)
