# SPDX-License-Identifier: BSD-3-Clause
"""Every array-level fault is named, and nothing else is given its name (issue 3)."""

from __future__ import annotations

import re

import numpy as np
import pytest
from expectations import assert_identity

from convcal.datasets import make_pair
from convcal.estimation import estimate
from convcal.faults import parse_fault

CONTENTS = ("pink", "edges", "logits")


def faulty(text, reference):
    """Let every sample be a prediction of its own."""
    given = reference.astype(np.float16)
    return np.concatenate([parse_fault(text).apply(given[n : n + 1]) for n in range(len(given))])


def outputs(content, *, shape=(40, 48), n_channels=3, seed=0):
    return make_pair(
        shape, content=content, n_samples=5, n_channels=n_channels, seed=seed
    ).reference


NAMED = [
    ("edge-gain:width=2,gain=0.5", "edge"),
    ("edge-gain:width=1,gain=0.25,side=end", "edge"),
    ("last-elem:error=2", "element"),
    ("channel-dead:channels=1", "dead-channel"),
    ("cliff:threshold=0.5,value=-0.25", "cliff"),
    ("prefix-only:length=11", "prefix"),
    ("prefix-only:length=100,along=flat", "prefix"),
    ("stride-collapse:stride=2", "stride-collapse"),
    ("row-stride", "row-stride"),
    ("garbage", "unstructured"),
    ("noise:relative=0.03", "noise"),
]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(("text", "family"), NAMED)
def test_a_fault_without_a_correction_is_named(text, family, content):
    reference = outputs(content, shape=(40, 40))
    result = estimate(reference, faulty(text, reference))
    assert (result.verdict, result.family) == ("not-correctable", family), result.reason
    assert_identity(result)


@pytest.mark.parametrize("function", ["sigmoid", "gelu", "swish", "tanh"])
@pytest.mark.parametrize("content", CONTENTS)
def test_the_error_of_a_table_is_named_and_its_linear_part_may_be_corrected(function, content):
    reference = outputs(content)
    reference *= np.float32(2) / reference.std()
    result = estimate(reference, faulty(f"lut-bias:function={function},knots=9", reference))
    assert result.family == "tabulated", result.reason
    assert result.verdict in {"not-correctable", "partly-correctable"}


@pytest.mark.parametrize("mode", ["stored", "all"])
def test_coordinates_in_fp16_are_named(mode):
    reference = outputs("pink", shape=(512,))
    result = estimate(reference, faulty(f"grid-quant:mode={mode}", reference))
    assert (result.verdict, result.family) == ("not-correctable", "grid"), result.reason


@pytest.mark.parametrize("content", CONTENTS)
def test_channels_in_another_order_are_named_with_their_order(content):
    reference = outputs(content)
    result = estimate(reference, reference[:, [2, 0, 1]].astype(np.float16))
    assert (result.verdict, result.family) == ("not-correctable", "channel-order")
    order = result.evidence["findings"]["channel_order"]
    assert order == [1, 2, 0]
    assert np.array_equal(reference[:, [2, 0, 1]][:, order], reference)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("displacement", [1, -3, 48 * 2 + 1, -48])
def test_a_flat_offset_is_told_from_a_shift_by_what_comes_into_view(displacement, content):
    reference = outputs(content)
    result = estimate(reference, faulty(f"flat-offset:displacement={displacement}", reference))
    assert (result.verdict, result.family) == ("correctable", "flat-offset"), result.reason
    assert result.evidence["findings"]["flat_offset"] == displacement
    assert result.shift[0] * 48 + result.shift[1] == -displacement


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("fill", ["edge", "zero", "wrap", "random"])
def test_a_shift_is_no_flat_offset_whatever_fills_the_border(fill, content):
    reference = outputs(content)
    result = estimate(reference, faulty(f"int-shift:displacement=0/3,fill={fill}", reference))
    assert (result.verdict, result.family) == ("correctable", "shift"), result.reason


def test_a_flat_offset_beyond_the_search_is_found_too():
    reference = outputs("pink")
    result = estimate(reference, faulty("flat-offset:displacement=1000", reference), max_shift=2)
    assert (result.verdict, result.family) == ("not-correctable", "flat-offset")
    assert result.evidence["findings"]["flat_offset"] == 1000


def test_dead_channels_leave_the_others_to_be_corrected():
    reference = outputs("pink")
    text = "int-shift:displacement=2/-1+channel-dead:channels=1"
    result = estimate(reference, faulty(text, reference))
    assert (result.verdict, result.family) == ("partly-correctable", "dead-channel")
    assert result.shift == (-2, 1)
    assert result.evidence["findings"]["dead_channels"] == [1]


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_the_name_of_a_table_does_not_hang_on_repeated_content(factor):
    # Of a lattice whole rows are the same values over and over.
    reference = outputs("lattice", shape=(256,), n_channels=1) * np.float32(factor)
    observed = faulty(f"scale-corner:growth={2.0**-7}", reference)
    assert estimate(reference, observed).family in {"scale", "periodic"}


@pytest.mark.parametrize(
    ("to", "is_positive"), [("zero", False), ("zero", True), ("clamp", True), ("inf", False)]
)
@pytest.mark.parametrize("limit", [4094.0, 65504.0])
def test_a_few_values_beyond_a_limit_are_saturation(limit, to, is_positive):
    reference = outputs("pink").astype(np.float64)
    reference = np.abs(reference) if is_positive else reference
    reference *= 1.1 * limit / np.abs(reference).max()
    result = estimate(reference, parse_fault(f"saturate:limit={limit},to={to}").apply(reference))
    assert (result.verdict, result.family) == ("not-correctable", "saturation"), result.reason


def test_the_values_that_are_saturated_are_told_in_plain_words():
    reference = outputs("pink").astype(np.float64)
    reference *= 1.2 * 4094 / np.abs(reference).max()
    both = estimate(reference, np.clip(reference, -4094, 4094)).reason
    above = estimate(np.abs(reference), np.clip(np.abs(reference), 0, 4094)).reason
    assert re.match(r"where the reference is 4\d{3}\S* or more, the observed output is 4094", above)
    low = r"; where the reference is -4\d{3}\S* or less, the observed output is -4094"
    assert re.search(low, both)


def test_axes_are_called_rows_and_columns():
    reference = outputs("pink", shape=(64, 48))
    edge = estimate(reference, faulty("edge-gain:side=start", reference)).reason
    assert "at the top, left" in edge
    collapsed = estimate(reference, faulty("stride-collapse", reference)).reason
    assert "from row 33 of 64 on, from column 25 of 48 on" in collapsed


def test_zeros_in_the_place_of_large_positive_values_are_a_cliff():
    # apple/coremltools #2687: softplus beyond 10.4.
    reference = np.logaddexp(0, outputs("logits") + 4)
    observed = parse_fault("cliff").apply(reference).astype(np.float16)
    result = estimate(reference, observed)
    assert (result.verdict, result.family) == ("not-correctable", "cliff"), result.reason
    assert result.evidence["findings"]["threshold"] == pytest.approx(10.4, abs=0.05)


def test_subnormals_flushed_to_zero_are_named_where_they_matter_and_rounding_elsewhere():
    reference = outputs("pink")
    for size, family in ((1.0, "rounding"), (2.0**-13, "flush")):
        result = estimate(reference * size, faulty("flush", reference * np.float32(size)))
        assert result.family == family, result.reason


def test_an_element_that_is_wrong_in_a_large_output_is_not_lost_in_the_mean():
    # Its root mean square over 256 x 256 values is within what a faithful network leaves.
    reference = outputs("pink", shape=(256, 256), n_channels=1)
    result = estimate(reference, faulty("last-elem:error=0.8", reference))
    assert (result.verdict, result.family) == ("not-correctable", "element")
    assert result.evidence["findings"]["elements"] == [[255, 255]]


@pytest.mark.parametrize("content", ["text", "mask", "edges"])
def test_flat_areas_under_a_fractional_shift_are_not_called_clipped(content):
    reference = outputs(content, shape=(48, 76), seed=3)
    result = estimate(reference, faulty("frac-shift:displacement=2.44/-3.18", reference))
    assert result.family == "sub-pixel-shift", result.reason
    assert result.shift == pytest.approx((-2.44, 3.18), abs=0.05)


def test_zeros_behind_a_relu_are_rounded_to_nothing():
    # The step at 0 is the least one: small outputs with many zeros are still told from constants.
    reference = np.maximum(outputs("pink"), 0) * 2.0**-13
    assert estimate(reference, 1.1 * reference).family == "affine"
