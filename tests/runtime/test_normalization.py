# SPDX-License-Identifier: BSD-3-Clause
"""Normalisations against the evaluator: axes, ranks, parameters, large means, fp16."""

import numpy as np
import pytest
from agreement import assert_agrees, assert_rounded_once, run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.errors import UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner
from convcal.runtime.translation import normalization

C = 4
GAMMA, BETA = np.float32([1, -0.5, 2, 0.25]), np.float32([0, 1, -1, 3])
MEAN, VARIANCE = np.float32([0, 1, -2, 5]), np.float32([1, 0.5, 4, 1e-6])
SHAPES = [(2, C, 6), (2, C, 3, 5), (1, C, 2, 3, 4)]


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CASES = {
    "batch_norm": lambda x: mb.batch_norm(
        x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA
    ),
    "instance_norm": lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3),
    "l2_norm": lambda x: mb.l2_norm(x=x, epsilon=1e-3),
    "layer_norm": lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA),
    "local_response_norm": lambda x: mb.local_response_norm(
        x=x, size=3, alpha=0.5, beta=0.6, k=2.0
    ),
}
BARE = {
    "batch_norm": lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE),
    "instance_norm": lambda x: mb.instance_norm(x=x),
    "l2_norm": lambda x: mb.l2_norm(x=x),
    "layer_norm": lambda x: mb.layer_norm(x=x, axes=[-1, 0]),
    "local_response_norm": lambda x: mb.local_response_norm(x=x, size=5),
}


def ranks(kind):
    return SHAPES[:2] if kind in ("instance_norm", "local_response_norm") else SHAPES


def test_every_normalisation_is_tested():
    assert set(CASES) == set(BARE) == set(normalization.OPERATIONS)


@pytest.mark.parametrize("target", ["iOS15", "iOS17"])
@pytest.mark.parametrize("kind", CASES)
def test_normalisations_of_every_rank(kind, target):
    for shape in ranks(kind):
        for build in (CASES[kind], BARE[kind]):
            package = make_package(build, x=shape, target=target)
            assert_agrees(package, {"x": draw(shape)}, absolute=1e-6)


@pytest.mark.parametrize("kind", CASES)
def test_fp16_normalisations_are_rounded_once(kind):
    package = make_package(CASES[kind], precision="float16", x=SHAPES[1])
    assert_rounded_once(package, {"x": draw(SHAPES[1])}, slack=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_layer_norm_along_any_axes(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    parameter = [shape[axis] for axis in axes]
    signed = [axis - data.draw(st.sampled_from([0, len(shape)])) for axis in axes]
    package = make_package(
        lambda x: mb.layer_norm(
            x=x, axes=signed, gamma=draw(parameter, 1), beta=draw(parameter, 2), epsilon=0.01
        ),
        x=shape,
    )
    assert_agrees(package, {"x": draw(shape)}, absolute=1e-5)


@pytest.mark.parametrize("kind", ["instance_norm", "layer_norm", "batch_norm"])
def test_a_mean_far_above_the_deviation_does_not_cancel(kind):
    # Of fp32 numbers around 1000 the mean is known to half of their spacing, 3e-5; from the mean
    # of the squares, the variance would be known to 0.06 only.
    x = (draw((1, C, 64)) + np.float32(1000)).astype(np.float32)
    build = {
        "instance_norm": lambda x: mb.instance_norm(x=x),
        "layer_norm": lambda x: mb.layer_norm(x=x, axes=[-1]),
        "batch_norm": lambda x: mb.batch_norm(
            x=x, mean=np.full(C, 1000, np.float32), variance=np.ones(C, np.float32)
        ),
    }[kind]
    assert_agrees(make_package(build, x=x.shape), {"x": x}, absolute=2e-4)


def test_a_constant_channel_becomes_beta():
    x = np.full((1, C, 8), 7, np.float32)
    package = make_package(lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA), x=x.shape)
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_array_equal(result, np.broadcast_to(BETA[:, None], x.shape))


def test_parameters_may_be_fp16_where_the_tensor_is_fp32():
    parameters = {"mean": MEAN, "variance": VARIANCE + 1, "gamma": GAMMA, "beta": BETA}
    halves = {name: array.astype(np.float16) for name, array in parameters.items()}
    package = make_package(
        lambda x: mb.batch_norm(x=x, **halves, epsilon=np.float16(1e-5)),
        x=SHAPES[1],
        target="iOS17",
    )
    assert_agrees(package, {"x": draw(SHAPES[1])}, absolute=1e-6)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (lambda x: mb.local_response_norm(x=x, size=4), (1, C, 5), "the size 4"),
        (lambda x: mb.local_response_norm(x=x, size=3), SHAPES[2], "rank 5"),
        (lambda x: mb.instance_norm(x=x), SHAPES[2], "rank 5"),
        (lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE), (2, C), "rank 2"),
    ],
)
def test_what_mil_leaves_open_is_refused(build, shape, message):
    with pytest.raises(UnsupportedModelError, match=message):
        ReferenceRunner(make_package(build, x=shape))
