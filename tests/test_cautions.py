# SPDX-License-Identifier: BSD-3-Clause
"""What fits and checks say that their answers do not show."""

import warnings

import numpy as np
import pytest
from fake_runner import FakeRunner

from convcal import ConvcalWarning, check, fit
from convcal.pairs import record_pairs

SHAPE = (1, 1, 16, 16)
SAMPLES = [
    {"x": np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)} for seed in range(4)
]


def runner(**provenance):
    return FakeRunner(lambda x: x, shape=SHAPE, **provenance)


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(each.category is ConvcalWarning for each in caught)
    return [str(each.message) for each in caught]


def answers(reference, observed):
    """Fit, and check, with two runners."""
    pairs = record_pairs(reference, observed, SAMPLES)
    return (lambda: fit(reference, observed, SAMPLES), lambda: check(pairs))


@pytest.mark.parametrize("which", [0, 1], ids=["fit", "check"])
def test_a_good_answer_of_the_reference_runtime_says_that_no_device_was_asked(which):
    emulated = runner(runtime="reference", faults="saturate:limit=9.0,to=clamp")
    for observed, n in (
        (runner(runtime="reference"), 1),
        (runner(runtime="coreml"), 0),
        (emulated, 0),
    ):
        messages = said(answers(runner(runtime="reference"), observed)[which])
        assert len(messages) == n, messages
        assert all("a fault of a device cannot show there" in message for message in messages)


def test_a_bad_answer_says_nothing_of_the_runtime():
    noise = iter(np.random.default_rng(9).normal(size=(99, *SHAPE)))
    observed = FakeRunner(lambda x: next(noise), shape=SHAPE, runtime="reference")
    for call in answers(runner(runtime="reference"), observed):
        assert said(call) == []
