# SPDX-License-Identifier: BSD-3-Clause
"""Outputs beyond the budget are estimated by parts, and as if they had been taken whole."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from convcal.datasets import make_pair
from convcal.estimation import estimate


def _with_budget(monkeypatch, budget):
    for name in ("arrays", "candidates", "estimate", "facts", "metrics"):
        monkeypatch.setattr(importlib.import_module(f"convcal.estimation.{name}"), "BUDGET", budget)


def _large_pair(kind):
    pair = make_pair(
        (48, 56),
        shift=(0, 0) if kind in {"edge", "one-sample"} else (-2, 3),
        gain=1.25,
        n_samples=9,
        n_channels=2,
        seed=3,
    )
    reference, observed = pair.reference.copy(), pair.observed.copy()
    if kind == "edge":
        observed = reference.astype(observed.dtype)
        observed[..., :2] = 0
    if kind == "one-sample":
        observed[4] = np.roll(observed[4], 5, axis=-1)
    if kind == "gaps":
        observed[2, :, 10:14] = np.nan
        reference[5:7] = np.nan
    return reference, observed


@pytest.mark.parametrize("kind", ["plain", "edge", "one-sample", "gaps"])
@pytest.mark.parametrize("robust", [False, True])
def test_a_large_output_gets_the_verdict_and_gain_of_all_its_values(monkeypatch, kind, robust):
    reference, observed = _large_pair(kind)
    whole = estimate(reference, observed, robust=robust)
    # One sample is more: the registration has windows, all else goes sample by sample.
    _with_budget(monkeypatch, 2**12)
    large = estimate(reference, observed, robust=robust)
    assert (large.verdict, large.family, large.model) == (whole.verdict, whole.family, whole.model)
    assert large.shift == whole.shift
    # The shift is the same, and so are the sums but for round-off.
    assert large.gain == pytest.approx(whole.gain, rel=1e-12)
    assert large.bias == pytest.approx(whole.bias, abs=1e-12)
    assert large.metrics_after.to_dict() == pytest.approx(whole.metrics_after.to_dict(), rel=1e-9)
    # What is an outlier is told by the spread of fewer values: a few positions more or less count.
    for mine, its in zip(large.evidence["candidates"], whole.evidence["candidates"], strict=True):
        assert mine["rmse"] == pytest.approx(its["rmse"], rel=1e-4)


def test_a_large_output_of_mostly_empty_samples_is_registered(monkeypatch):
    reference, observed = _large_pair("plain")
    reference[2:], observed[2:] = 0, 0
    _with_budget(monkeypatch, 2**13)
    result = estimate(reference, observed)
    assert result.shift == (-2.0, 3.0)


def test_a_large_output_that_is_displaced_by_a_fraction_is_corrected_as_well(monkeypatch):
    pair = make_pair((96, 96), shift=(0.5, -1.3), gain=1.25, n_samples=5, seed=4)
    whole = estimate(pair.reference, pair.observed)
    _with_budget(monkeypatch, 2**13)
    large = estimate(pair.reference, pair.observed)
    assert (large.verdict, large.family) == (whole.verdict, whole.family)
    # An eighth of the values places the shift less well than all do.
    assert large.shift == pytest.approx(whole.shift, abs=0.005)
    assert large.metrics_after.snr_db > whole.metrics_after.snr_db - 1


def test_the_estimate_of_a_large_output_does_not_depend_on_the_order(monkeypatch):
    reference, observed = _large_pair("plain")
    _with_budget(monkeypatch, 2**13)
    first, second = estimate(reference, observed), estimate(reference[::-1], observed[::-1])
    assert first.gain == second.gain
    assert first.evidence == second.evidence
