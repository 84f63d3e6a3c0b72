# SPDX-License-Identifier: BSD-3-Clause
"""The metrics, against their formulas on arrays of every rank."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.errors import InputError
from convcal.estimation import measure, measure_channels


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=5),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-200, 1e-3, 1.0, 1e4, 1e200]),
)
def test_metrics_are_those_of_the_flat_arrays_whatever_the_rank(shape, seed, scale):
    rng = np.random.default_rng(seed)
    reference, candidate = scale * rng.normal(size=shape), scale * rng.normal(size=shape)
    metrics = measure(reference, candidate, data_range=scale)
    r, x = np.ravel(reference) / scale, np.ravel(candidate) / scale
    # Not the first axis alone: coremltools divides by len(x) there.
    rmse = math.sqrt(float(np.mean((r - x) ** 2)))
    assert metrics.n_values == r.size
    assert metrics.rmse == pytest.approx(scale * rmse, rel=1e-12)
    assert metrics.max_abs_error == pytest.approx(scale * np.abs(r - x).max(), rel=1e-12)
    assert metrics.mean_abs_error == pytest.approx(scale * np.abs(r - x).mean(), rel=1e-12)
    snr = 10 * math.log10(float((r**2).sum() / ((r - x) ** 2).sum()))
    assert metrics.snr_db == pytest.approx(snr, abs=1e-9)
    assert metrics.psnr_db == pytest.approx(-20 * math.log10(rmse), abs=1e-9)
    cosine = float(r @ x) / math.sqrt(float(r @ r) * float(x @ x))
    assert metrics.cosine == pytest.approx(cosine, abs=1e-12)


def test_a_known_snr_of_forty_decibels_is_forty_on_nchw():
    reference = np.ones((2, 3, 4, 5))
    assert measure(reference, reference * 0.99, data_range=1).snr_db == pytest.approx(40)


def test_values_that_are_not_finite_are_left_out_and_counted():
    reference = np.array([1.0, 2.0, np.nan, 4.0, np.inf])
    candidate = np.array([1.0, np.inf, 3.0, 5.0, np.inf])
    metrics = measure(reference, candidate, data_range=1)
    assert (metrics.n_values, metrics.n_excluded) == (2, 3)
    assert metrics.max_abs_error == 1


def test_masked_values_are_neither_measured_nor_counted():
    mask = np.array([[True, False], [True, True]])
    metrics = measure([[0.0, 9], [1, 1]], [[0.0, 0], [1, np.nan]], data_range=1, mask=mask)
    assert (metrics.n_values, metrics.n_excluded, metrics.rmse) == (2, 1, 0)


def test_degenerate_cases_are_as_documented_and_json_ready():
    empty = measure(np.ones((0, 3)), np.ones((0, 3)), data_range=1)
    assert (empty.n_values, empty.snr_db, empty.cosine) == (0, math.inf, 1)
    zeros = measure([0.0, 0], [0.0, 1], data_range=1)
    assert (zeros.snr_db, zeros.cosine) == (-math.inf, 0)
    equal = measure([0.0, 0], [0.0, 0], data_range=0)
    assert (equal.snr_db, equal.psnr_db, equal.cosine) == (math.inf, math.inf, 1)
    for metrics in (empty, zeros, equal):
        json.dumps(metrics.to_dict(), allow_nan=False)
    assert equal.to_dict()["snr_db"] == "inf"
    assert zeros.to_dict()["snr_db"] == "-inf"


def test_channels_are_measured_by_themselves():
    reference = np.zeros((2, 3, 4)) + 1
    candidate = reference + np.array([0, 1, 2])[:, None]
    assert [m.rmse for m in measure_channels(reference, candidate, data_range=1)] == [0, 1, 2]


def test_different_shapes_are_named():
    with pytest.raises(InputError, match=r"\(2,\).*\(3,\)"):
        measure(np.ones(2), np.ones(3), data_range=1)
