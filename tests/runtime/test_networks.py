# SPDX-License-Identifier: BSD-3-Clause
"""Whole networks on the reference runtime: as the evaluator computes them, in both precisions."""

import numpy as np
import pytest
from agreement import assert_agrees, assert_rounded_once, run
from evaluator import evaluate
from networks import NETWORKS, PRECISIONS
from networks.originals import ORIGINALS, original
from onnxruntime import InferenceSession

from convcal.coreml.package import read_package
from convcal.coreml.program import load_program


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Give every network as a package, by name and precision."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        (name, precision): read_package(network.build(folder, precision))
        for name, network in NETWORKS.items()
        for precision in PRECISIONS
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_equals_the_evaluator(packages, name):
    (sample,) = NETWORKS[name].samples(1)
    # The outputs are of the order of 1; what is nearer to 0 is a sum that cancels.
    assert_agrees(packages[name, "fp32"], sample, relative=1e-4, absolute=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_fp16_rounds_every_tensor_once(packages, name):
    (sample,) = NETWORKS[name].samples(1, seed=1)
    # Sums of some hundred products of about 1 that cancel, in fp32.
    assert_rounded_once(packages[name, "fp16"], sample, slack=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_fp16_differs_from_fp32_by_rounding_alone(packages, name):
    # A rounding adds 2^-11 / sqrt(3) of a value at most, so 100 of them, independent, and each
    # passed on with a gain of 1, are at most 51 dB below the signal.
    (sample,) = NETWORKS[name].samples(1, seed=2)
    reference, observed = (run(packages[name, precision], sample) for precision in ("fp32", "fp16"))
    for output, array in reference.items():
        error = observed[output].astype(np.float64) - array
        assert 0 < np.sqrt(np.mean(error**2) / np.mean(array.astype(np.float64) ** 2)) < 3e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_neither_vanish_nor_blow_up(packages, name):
    package = packages[name, "fp32"]
    operations = load_program(package).operations
    assert 15 <= len(operations) <= 110
    names = [value.name for each in operations for value in each.outputs if value.constant is None]
    (sample,) = NETWORKS[name].samples(1)
    for tensor in run(package, sample, extra_outputs=names).values():
        assert 0.01 < tensor.std() < 15


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_onnx_originals_are_the_same_networks(packages, name):
    network = NETWORKS[name]
    (sample,) = network.samples(1)
    session = InferenceSession(original(network).SerializeToString())
    outputs = [output.name for output in session.get_outputs()]
    truth = evaluate(packages[name, "fp32"], sample)
    for output, array in zip(outputs, session.run(outputs, sample), strict=True):
        np.testing.assert_allclose(array, truth[output], rtol=1e-4, atol=1e-6)


def test_weights_and_samples_are_seeded():
    network = NETWORKS["recognizer"]
    first, second = (network.program()[1] for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    first, second, other = (network.samples(2, seed=seed)[1]["features"] for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
