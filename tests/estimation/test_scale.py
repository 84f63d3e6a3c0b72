# SPDX-License-Identifier: BSD-3-Clause
"""A displacement that grows with position is no shift, however small."""

from __future__ import annotations

import pytest

from convcal.datasets import make_pair
from convcal.estimation import estimate
from convcal.faults import parse_fault


def scaled(reference, exponent):
    return parse_fault(f"scale-corner:growth={2.0**exponent}").apply(reference)


@pytest.mark.parametrize("exponent", range(-12, -5))
@pytest.mark.parametrize("content", ["pink", "smooth", "edges"])
@pytest.mark.parametrize(
    ("shape", "n_samples"), [((128, 128), 1), ((128, 128), 3), ((128,), 24), ((512,), 12)]
)
def test_a_scale_error_is_never_called_a_shift(shape, n_samples, content, exponent):
    reference = make_pair(
        shape, n_samples=n_samples, n_channels=1, content=content, seed=-exponent
    ).reference
    result = estimate(reference, scaled(reference, exponent))
    # Linear sampling moves smooth content by 2**-12 * 128 = 0.03 px at most, near what fp16 leaves.
    assert result.family in {"scale", "rounding"}, result.reason
    assert not any(result.shift)
    assert result.metrics_after.rmse <= result.metrics_before.rmse
    if exponent > -11:
        assert result.family == "scale"
        growth = result.evidence["findings"]["growth"]
        # Linear sampling of pink content moves its fine detail by less than is asked for.
        wanted = [2.0**exponent * (size - 1) for size in shape]
        assert growth == pytest.approx(wanted, rel=0.25)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(48, 48), (128,)])
def test_a_small_shift_is_never_called_a_scale_error(shape, seed):
    content = ("pink", "white", "edges", "smooth")[seed % 4]
    n_samples = 24 if len(shape) == 1 else 6
    shift = (0.05, *(0.0 for _ in shape[1:]))
    pair = make_pair(
        shape, shift=shift, content=content, n_samples=n_samples, n_channels=1, seed=seed
    )
    result = estimate(pair.reference, pair.observed)
    assert (result.family, result.model[:8]) == ("sub-pixel-shift", "subpixel")
    assert result.shift == pytest.approx(shift, abs=0.005)


def test_flat_areas_do_not_pass_for_clipped_and_hide_no_growth():
    pair = make_pair((128, 128), n_samples=1, n_channels=1, content="edges", seed=1)
    result = estimate(pair.reference, scaled(pair.reference, -12))
    assert sum(result.evidence["channels"]["n_saturated"]) == 0
    assert result.family == "scale", result.reason


@pytest.mark.parametrize("content", ["pink", "smooth", "edges"])
@pytest.mark.parametrize(
    ("shape", "fixed"), [((128, 128), (0.0, 127.0)), ((96, 128), (47.5, 63.5)), ((512,), (100.0,))]
)
def test_a_scale_is_undone_and_its_origin_located(shape, fixed, content):
    scale = tuple(1 + 1.5 / (n - 1) for n in shape)
    pair = make_pair(
        shape, scale=scale, origin=fixed, content=content, n_samples=8, n_channels=1, gain=1.1
    )
    result = estimate(pair.reference, pair.observed)
    assert (result.family, result.model) == ("scale", "scale-affine"), result.reason
    # The taps leave what they leave of fine detail (`axis_filter`); smooth content is exact.
    assert result.metrics_after.snr_db > {"pink": 15, "edges": 35, "smooth": 45}[content]
    for found, true_origin, size in zip(result.resampling, fixed, shape, strict=True):
        # 1.5 px over the field within 3 %: blocks of 1/4 of the field move by themselves.
        assert (found[0] - 1) * (size - 1) == pytest.approx(1.5, rel=0.03)
        assert found[1] == pytest.approx(true_origin, abs=0.03 * size)
    assert result.gain == pytest.approx((1.1,), rel=0.01)


def test_a_scale_that_is_not_proven_names_every_axis_and_a_next_step():
    pair = make_pair((64, 48), scale=(1.03, 0.97), origin=(31.5, 20.0), n_samples=4, n_channels=1)
    result = estimate(pair.reference, pair.observed, model="affine")
    assert (result.verdict, result.family) == ("not-correctable", "scale")
    for words in ("over 64 rows", "over 48 columns", "be auto or scale", "keep it in fp32"):
        assert words in result.reason
