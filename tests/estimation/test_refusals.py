# SPDX-License-Identifier: BSD-3-Clause
"""What no correction can undo, or no data can tell, is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from expectations import assert_identity

from convcal.datasets import make_pair
from convcal.errors import InputError
from convcal.estimation import estimate
from convcal.estimation.rounding import rounding_level
from convcal.faults import parse_fault


def sampled(array, position, axis):
    """Sample an array at fractional positions along one axis, linearly, the edge clamped."""
    position = np.clip(position, 0, array.shape[axis] - 1)
    left = np.minimum(np.floor(position).astype(int), array.shape[axis] - 2)
    shape = [-1 if a == axis else 1 for a in range(array.ndim)]
    fraction = (position - left).reshape(shape)
    first, second = np.take(array, left, axis), np.take(array, left + 1, axis)
    return first * (1 - fraction) + second * fraction


def shipped(text):
    """Give a fault as the command line emulates it."""

    def distort(reference, rng):
        return parse_fault(text).apply(reference)

    distort.__name__ = text
    return distort


def fault_white_noise(reference, rng):
    return reference + 0.1 * reference.std() * rng.normal(size=reference.shape)


def fault_garbage(reference, rng):
    return rng.normal(size=reference.shape)


def fault_other_sample(reference, rng):
    return np.roll(reference, 1, axis=0)


def fault_scale_centre(reference, rng):
    for axis in (2, 3):
        reference = sampled(reference, 31.5 + (np.arange(64) - 31.5) * 63 / 64, axis)
    return reference


def saturate(share, to):
    """Saturate the largest magnitudes, a share of all values."""

    def distort(reference, rng):
        limit = float(np.quantile(np.abs(reference), 1 - share))
        return parse_fault(f"saturate:limit={limit!r},to={to}").apply(reference)

    distort.__name__ = f"saturate:to={to}"
    return distort


def fault_zeros(reference, rng):
    return np.zeros_like(reference)


SATURATE = saturate(0.06, "clamp")
ZERO = saturate(0.01, "zero")

REFUSED = [
    (shipped("noise:relative=0.1"), "noise"),
    (fault_white_noise, "noise"),
    (fault_garbage, "unstructured"),
    (fault_other_sample, "unstructured"),
    (SATURATE, "saturation"),
    (saturate(0.01, "inf"), "saturation"),
    (ZERO, "saturation"),
    (fault_zeros, "constant"),
]


# Six hundredths of sparse blobs are all of them: clipped so, they are gone. And blobs are positive
# and small: zeros in the place of the largest are a cliff, not a limit of any device.
REFUSED_CASES = [
    (fault, family, content)
    for fault, family in REFUSED
    for content in ("white", "pink", "smooth", "blobs")
    if content != "blobs" or fault not in {SATURATE, ZERO}
] + [(ZERO, "cliff", "blobs")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("fault", "family", "content"), REFUSED_CASES, ids=lambda case: getattr(case, "__name__", None)
)
def test_what_no_correction_undoes_is_refused_by_name(fault, family, content, seed):
    rng = np.random.default_rng(seed)
    reference = make_pair((64, 64), content=content, n_samples=4, n_channels=2, seed=seed).reference
    observed = np.asarray(fault(reference.astype(np.float64), rng)).astype(np.float16)
    result = estimate(reference, observed)
    assert (result.verdict, result.family) == ("not-correctable", family), result.reason
    assert_identity(result)
    assert result.metrics_after == result.metrics_before


@pytest.mark.parametrize("content", ["white", "pink", "smooth"])
@pytest.mark.parametrize(("width", "dtype"), [(50, np.float32), (13, np.float16), (88, np.float32)])
@pytest.mark.parametrize("padding", ["zero", "random"])
def test_rows_read_with_the_wrong_stride_are_refused_by_name(width, dtype, content, padding):
    pair = make_pair((40, width), content=content, n_samples=4, n_channels=2, dtype=dtype)
    itemsize = np.dtype(dtype).itemsize
    stride = 64 * -(-width * itemsize // 64) // itemsize
    if padding == "zero":
        fault = parse_fault("row-stride")  # of each prediction's buffer
        samples = np.split(pair.reference.astype(dtype), 4)
        observed = np.concatenate([fault.apply(sample) for sample in samples])
    else:
        buffer = np.random.default_rng(0).normal(size=(4, 2, 40, stride))
        buffer[..., :width] = pair.reference
        observed = buffer.reshape(4, -1)[:, : 2 * 40 * width].reshape(pair.reference.shape)
    result = estimate(pair.reference, observed.astype(dtype))
    assert (result.verdict, result.family) == ("not-correctable", "row-stride")
    assert result.evidence["findings"]["row_stride"] == stride
    assert_identity(result)


def test_a_constant_reference_cannot_tell():
    reference = np.ones((4, 2, 16, 16))
    result = estimate(reference, reference.astype(np.float16))
    assert (result.verdict, result.family) == ("not-identifiable", "constant")
    assert_identity(result)


def test_an_axis_without_gradient_keeps_zero():
    pair = make_pair((64, 64), shift=(4, -3), content="stripes", seed=1)
    result = estimate(pair.reference, pair.observed)
    assert result.verdict == "correctable"
    assert result.shift == (0, -3)
    assert result.evidence["registration"]["is_identifiable"] == [False, True]


def test_an_axis_without_gradient_keeps_zero_under_noise():
    pair = make_pair((64, 64), shift=(4, -3), content="stripes", snr_db=20, seed=1)
    result = estimate(pair.reference, pair.observed)
    assert result.shift == (0, -3)
    assert result.evidence["registration"]["is_identifiable"] == [False, True]


def test_periodic_content_is_declared_ambiguous():
    pair = make_pair((64, 64), shift=(2, -3), content="lattice")
    result = estimate(pair.reference, pair.observed)
    assert (result.verdict, result.family) == ("not-identifiable", "periodic")
    assert_identity(result)
    # The lattice repeats every 8 pixels: all that fit differ by multiples of 8.
    ambiguous = np.array(result.evidence["registration"]["ambiguous_shifts"])
    assert len(ambiguous) > 3
    assert not ((ambiguous - [2, -3]) % 8).any()


@pytest.mark.parametrize("shape", [(6, 2, 12, 12), (1, 1, 16, 16), (3, 1, 6, 7, 8)])
@pytest.mark.parametrize("sign", [1, -1])
def test_periodic_stripes_give_a_verdict_without_a_warning(shape, sign):
    # Nothing varies along the other axes, and what round-off makes of that may be negative.
    stripes = np.sin(np.pi / 2 * np.arange(shape[-1])) * np.ones(shape)
    result = estimate(stripes, sign * np.roll(stripes, 1, axis=-1))
    assert result.shift[:-1] == (0.0,) * (len(shape) - 3)


@pytest.mark.parametrize("n_samples", [1, 4, 24])
def test_what_is_wrong_in_a_few_rows_of_one_sample_is_not_called_identical(n_samples):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(n_samples, 2, 24, 24)).astype(np.float32)
    faithful = reference.astype(np.float16).astype(np.float32)
    assert estimate(reference, faithful).verdict == "identical"
    for sample in range(n_samples):
        for row in (2, 12, 20):
            observed = faithful.copy()
            observed[sample, 0, row : row + 2] += 1
            result = estimate(reference, observed)
            assert result.verdict == "not-correctable"


def test_a_correction_that_some_samples_contradict_is_partly_right():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(24, 2, 24, 24))
    observed = reference / 1.25
    verdicts = set()
    for sample in range(24):
        wrong = observed.copy()
        wrong[sample, :, 5:9] += 0.5
        result = estimate(reference, wrong)
        verdicts.add(result.verdict)
        assert result.gain == pytest.approx([1.25] * 2, rel=0.01)
    assert verdicts == {"partly-correctable"}


@pytest.mark.parametrize("seed", range(20))
def test_noise_as_large_as_the_tolerance_is_rounding_or_noise_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(8, 1, 32, 32))
    tolerance = rounding_level(reference, dtypes=("float32", "float32")).tolerance[0]
    observed = reference + tolerance * rng.normal(size=reference.shape)
    result = estimate(reference, observed)
    assert (result.verdict, result.family) in {
        ("identical", "rounding"),
        ("not-correctable", "noise"),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_lost_value_does_not_turn_a_shift_into_a_flat_offset(value):
    pair = make_pair((32, 32), n_samples=8, n_channels=3, shift=(-2, -1), gain=0.8, seed=0)
    observed = pair.observed.copy()
    observed[3, 1, 5, 5] = value
    found = estimate(pair.reference, observed)
    assert (found.verdict, found.family) == ("partly-correctable", "saturation")
    assert found.shift == (-2, -1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_flat_offset_is_named_where_the_reference_has_values_that_are_not_finite(value):
    reference = make_pair((32, 32), n_samples=8, n_channels=3, seed=0).reference.copy()
    reference[3, 1, 10, 10] = value
    observed = np.roll(reference.reshape(8, -1), 5, axis=1).reshape(reference.shape)
    found = estimate(reference, observed)
    assert (found.verdict, found.family) == ("correctable", "flat-offset")


def test_a_shifted_step_is_not_a_value_that_was_lost():
    reference = np.zeros((8, 1, 64, 64))
    reference[..., 32:] = 1
    observed = np.zeros_like(reference)
    observed[..., 35:] = 1
    found = estimate(reference, observed)
    assert (found.verdict, found.shift) == ("correctable", (0, -3))


def test_masked_arrays_are_refused_since_their_mask_would_be_lost():
    masked = np.ma.masked_less(np.random.default_rng(0).normal(size=(4, 1, 16, 16)), 0)
    with pytest.raises(InputError, match="masked array"):
        estimate(masked, masked)
