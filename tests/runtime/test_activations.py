# SPDX-License-Identifier: BSD-3-Clause
"""Activations against the evaluator: tails, signs, thresholds, NaN and infinity, fp16."""

import numpy as np
import pytest
from agreement import assert_agrees, assert_rounded_once, run
from programs import make_package, mb

from convcal.runtime.translation import activations

# From the smallest numbers that matter to where exp overflows, with ties of the thresholds.
MAGNITUDES = np.concatenate([np.logspace(-8, 1.93, 200), [0, 0.25, 0.5, 1, 3, 6]])
X = np.concatenate([MAGNITUDES, -MAGNITUDES]).astype(np.float32).reshape(2, 2, -1)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e38, -1e38, 1], np.float32).reshape(1, 2, 4)
PER_CHANNEL = {"alpha": np.float32([1.5, -0.5]), "beta": np.float32([0.75, 2])}

CASES = {
    "clamped_relu": lambda x: mb.clamped_relu(x=x, alpha=0.25, beta=0.5),
    "elu": lambda x: mb.elu(x=x, alpha=1.5),
    "gelu": lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    "leaky_relu": lambda x: mb.leaky_relu(x=x, alpha=0.1),
    "linear_activation": lambda x: mb.linear_activation(x=x, alpha=-2.0, beta=0.5),
    "prelu": lambda x: mb.prelu(x=x, alpha=np.float32([0.25, 0.25])),
    "relu": lambda x: mb.relu(x=x),
    "relu6": lambda x: mb.relu6(x=x),
    "scaled_tanh": lambda x: mb.scaled_tanh(x=x, alpha=1.7159, beta=0.6667),
    "sigmoid": lambda x: mb.sigmoid(x=x),
    "sigmoid_hard": lambda x: mb.sigmoid_hard(x=x, alpha=0.2, beta=0.5),
    "silu": lambda x: mb.silu(x=x),
    "softmax": lambda x: mb.softmax(x=x, axis=-2),
    "softplus": lambda x: mb.softplus(x=x),
    "softplus_parametric": lambda x: mb.softplus_parametric(x=x, **PER_CHANNEL),
    "softsign": lambda x: mb.softsign(x=x),
    "tanh": lambda x: mb.tanh(x=x),
    "thresholded_relu": lambda x: mb.thresholded_relu(x=x, alpha=0.25),
}


def test_every_activation_is_tested():
    assert set(CASES) == set(activations.OPERATIONS)


@pytest.mark.parametrize("target", ["iOS15", "iOS17"])
@pytest.mark.parametrize("kind", CASES)
def test_activations_keep_their_relative_precision(kind, target):
    # linear_activation, and sigmoid_hard with it, may cancel to an fp32 rounding of beta. Beyond
    # exp(87) fp32 ends.
    absolute = 1e-7 if kind in ("linear_activation", "sigmoid_hard") else 2e-38
    assert_agrees(make_package(CASES[kind], x=X.shape, target=target), {"x": X}, absolute=absolute)


# ReLUs by max() and by a comparison differ in NaN; MIL's folding of them does as NumPy's max.
@pytest.mark.parametrize("kind", sorted(set(CASES) - {"relu", "softmax", "softsign"}))
def test_activations_of_nan_and_infinity(kind):
    package = make_package(CASES[kind], x=SPECIAL.shape)
    assert_agrees(package, {"x": SPECIAL}, absolute=2e-38)


@pytest.mark.parametrize("kind", CASES)
def test_fp16_activations_are_rounded_once(kind):
    package = make_package(CASES[kind], precision="float16", x=X.shape)
    assert_rounded_once(package, {"x": X})


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu_in_each_mode(mode):
    package = make_package(lambda x: mb.gelu(x=x, mode=mode), x=X.shape)
    # 1 + erf is right to an fp32 rounding of 1; it is multiplied by x.
    assert_agrees(package, {"x": X}, absolute=1e-7 * 6 if mode == "EXACT" else 2e-38)


def test_gelu_is_exact_unless_it_is_told_otherwise():
    (result,) = run(make_package(lambda x: mb.gelu(x=x), x=(1,)), {"x": np.float32([1])}).values()
    # Phi(1), from the tables.
    np.testing.assert_allclose(result, [0.8413447460685429], rtol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 2, 2), (1, 2, 3, 2, 2)])
def test_softmax_along_every_axis(shape):
    x = 30 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for axis in range(-len(shape), len(shape)):
        package = make_package(lambda x: mb.softmax(x=x, axis=axis), x=shape)  # noqa: B023
        assert_agrees(package, {"x": x}, relative=2e-5)


def test_softmax_of_infinity():
    x = np.float32([[-np.inf, 0, 1], [-np.inf] * 3, [np.nan, 0, 1]])
    (result,) = run(make_package(lambda x: mb.softmax(x=x), x=x.shape), {"x": x}).values()
    e = np.e
    expected = [[0, 1 / (1 + e), e / (1 + e)], [np.nan] * 3, [np.nan] * 3]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_threshold_itself_passes():
    x = np.float32([0.25, np.nextafter(np.float32(0.25), np.float32(0)), -1, 7])
    package = make_package(lambda x: mb.thresholded_relu(x=x, alpha=0.25), x=x.shape)
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_array_equal(result, np.float32([0.25, 0, 0, 7]))


def test_parameters_may_be_fp16_where_the_tensor_is_fp32():
    x = np.float32([-2, -1, 0.5, 3])
    package = make_package(lambda x: mb.elu(x=x, alpha=np.float16(0.1)), x=x.shape, target="iOS17")
    assert_agrees(package, {"x": x})
