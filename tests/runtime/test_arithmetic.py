# SPDX-License-Identifier: BSD-3-Clause
"""Arithmetic against the evaluator: ties, signs, zeros, NaN and infinity, integers, fp16."""

import numpy as np
import pytest
from agreement import assert_agrees, assert_rounded_once, run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.errors import UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner
from convcal.runtime.translation import arithmetic

MAGNITUDES = np.concatenate([np.logspace(-8, 1.8, 200), [0, 0.5, 1, 1.5, 2.5, 3.5, 1e3, 1e6]])
X = np.concatenate([MAGNITUDES, -MAGNITUDES]).astype(np.float32).reshape(2, -1)
SPECIAL = np.float32([[np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 2.5]])
Y = np.float32([0.7, -1.3]).reshape(2, 1)
NARROW = ("acos", "asin", "atanh")  # defined from -1 to 1

CASES = {
    "acos": lambda x: mb.acos(x=x),
    "asin": lambda x: mb.asin(x=x),
    "atan": lambda x: mb.atan(x=x),
    "atanh": lambda x: mb.atanh(x=x),
    "ceil": lambda x: mb.ceil(x=x),
    "cos": lambda x: mb.cos(x=x),
    "cosh": lambda x: mb.cosh(x=x),
    "erf": lambda x: mb.erf(x=x),
    "exp2": lambda x: mb.exp2(x=x),
    "floor": lambda x: mb.floor(x=x),
    "floor_div": lambda x: mb.floor_div(x=x, y=Y),
    "inverse": lambda x: mb.inverse(x=x, epsilon=0.5),
    "log": lambda x: mb.log(x=x, epsilon=0.5),
    "mod": lambda x: mb.mod(x=x, y=Y),
    "pow": lambda x: mb.pow(x=x, y=np.float32(3)),
    "round": lambda x: mb.round(x=x),
    "rsqrt": lambda x: mb.rsqrt(x=x, epsilon=0.5),
    "sign": lambda x: mb.sign(x=x),
    "sin": lambda x: mb.sin(x=x),
    "sinh": lambda x: mb.sinh(x=x),
    "tan": lambda x: mb.tan(x=x),
    "threshold": lambda x: mb.threshold(x=x, alpha=0.25),
}


def fitted(kind, x):
    """Bring a sample to where the function is finite and fp32 conditions it well."""
    if kind in NARROW:
        return np.clip(x / 64, -1, 1)
    if kind in ("log", "rsqrt", "inverse"):
        return np.abs(x)
    return np.clip(x, -80, 80) if kind in ("cosh", "sinh", "exp2") else x


def test_every_function_is_tested():
    assert set(CASES) == set(arithmetic.OPERATIONS)


@pytest.mark.parametrize("kind", CASES)
def test_functions_keep_their_relative_precision(kind):
    x = fitted(kind, X)
    # The logarithm of what is near 1, and a remainder near the divisor, take a rounding of these.
    absolute = 1e-7 if kind in ("log", "mod") else 2e-38
    assert_agrees(make_package(CASES[kind], x=x.shape), {"x": x}, absolute=absolute)


@pytest.mark.parametrize("kind", CASES)
def test_functions_of_nan_and_infinity(kind):
    shape = SPECIAL.shape
    assert_agrees(make_package(CASES[kind], x=shape), {"x": SPECIAL}, absolute=1e-7)


@pytest.mark.parametrize("kind", CASES)
def test_fp16_functions_are_rounded_once(kind):
    x = np.clip(fitted(kind, X), -8, 8)
    package = make_package(CASES[kind], precision="float16", x=x.shape)
    assert_rounded_once(package, {"x": x})


@pytest.mark.parametrize("kind", CASES)
def test_functions_of_scalars(kind):
    package = make_package(lambda x: mb.squeeze(x=CASES[kind](mb.reduce_max(x=x))), x=(2, 3, 4))
    if kind in ("floor_div", "mod"):
        package = make_package(
            lambda x: getattr(mb, kind)(x=mb.reduce_max(x=x), y=np.float32(0.2)), x=(2, 3, 4)
        )
    assert_agrees(package, {"x": np.full((2, 3, 4), 0.5, np.float32)})


def test_ties_are_rounded_to_the_even_number():
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    (result,) = run(make_package(lambda x: mb.round(x=x), x=x.shape), {"x": x}).values()
    np.testing.assert_array_equal(result, [0, 2, 2, 0, -2, -2])


@pytest.mark.parametrize("target", ["iOS15", "iOS17"])
@pytest.mark.parametrize("kind", ["inverse", "log", "rsqrt"])
def test_the_default_epsilon_is_mils(kind, target):
    x = np.float32([0, 1e-10, 1e-4, 1])
    package = make_package(lambda x: getattr(mb, kind)(x=x), x=x.shape, target=target)
    assert_agrees(package, {"x": x}, absolute=1e-7)


def test_a_quotient_that_fp32_rounds_up_to_a_whole_number_is_rounded_down():
    # 0.1 in fp32 is more than a tenth, so ten of it exceed 1.
    package = make_package(lambda x: mb.floor_div(x=x, y=np.float32(0.1)), x=(1,))
    (result,) = run(package, {"x": np.float32([1])}).values()
    assert result == 9


FLOATS = st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=20))
def test_division_with_remainder_of_floats(pairs):
    x, y = np.float32(pairs).T
    package = make_package(
        lambda x, y: (mb.floor_div(x=x, y=y), mb.mod(x=x, y=y)), x=x.shape, y=y.shape
    )
    assert_agrees(package, {"x": x, "y": y}, relative=1e-6)


INTEGERS = st.one_of(st.integers(-9, 9), st.integers(-(2**31), 2**31 - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(INTEGERS, INTEGERS), min_size=1, max_size=20))
def test_division_with_remainder_of_integers(pairs):
    x, y = np.array(pairs, np.int64).astype(np.int32).T.copy()
    package = make_package(
        lambda x, y: (mb.floor_div(x=x, y=y), mb.mod(x=x, y=y)),
        x=(x.shape, "int32"),
        y=(y.shape, "int32"),
    )
    assert_agrees(package, {"x": x, "y": y}, relative=0)


def test_division_of_infinity_and_by_zero():
    values = np.float32([np.nan, np.inf, -np.inf, 0, 1, -1, 2.5])
    x, y = (each.ravel().copy() for each in np.meshgrid(values, values))
    package = make_package(
        lambda x, y: (mb.floor_div(x=x, y=y), mb.mod(x=x, y=y)), x=x.shape, y=y.shape
    )
    assert_agrees(package, {"x": x, "y": y})


@pytest.mark.parametrize("exponent", [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 7.0, 2.5])
def test_powers_of_any_sign(exponent):
    x = np.float32([-np.inf, -3, -1, -0.0, 0, 0.5, 2, np.inf, np.nan])
    x = x[1:] if exponent == 0.5 else x  # NumPy takes the root, pow(-inf, 0.5) is inf by IEEE 754
    package = make_package(lambda x: mb.pow(x=x, y=np.float32(exponent)), x=x.shape)
    assert_agrees(package, {"x": x})


def test_integers_of_operations_that_take_them():
    x = np.array([-7, -1, 0, 2, 11], np.int32)
    package = make_package(
        lambda x: (
            mb.sign(x=x),
            mb.threshold(x=x, alpha=np.int32(-2)),
            mb.pow(x=x, y=np.array([3, 0, 2, 30, 5], np.int32)),
        ),
        x=(x.shape, "int32"),
    )
    assert_agrees(package, {"x": x}, relative=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: mb.exp2(x=x, name="two"), r"exp2 \(1: 'two'; .*fraction"),
        (lambda x: mb.pow(x=x, y=x, name="up"), r"pow \(1: 'up'; .*at run time"),
        (lambda x: mb.pow(x=x, y=np.int32(-1), name="up"), r"pow \(1: 'up'; .*negative"),
        (lambda x: mb.real_div(x=x, y=x, name="quotient"), r"real_div \(1: 'quotient'; .*fraction"),
    ],
)
def test_integers_whose_result_mil_leaves_open_are_refused(build, message):
    with pytest.raises(UnsupportedModelError, match=message):
        ReferenceRunner(make_package(build, x=((3,), "int32")))
