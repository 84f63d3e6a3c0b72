# SPDX-License-Identifier: BSD-3-Clause
"""Filters that are moved by any fraction, and what they read beyond the borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convcal.estimation.band import BandFilter, apply_adjoint, apply_blocks, filter_blocks
from convcal.estimation.prediction import border_variances, predictors

POSITIONS = st.floats(-3, 3)
REACHES = st.sampled_from([6, 12, 16])


@given(position=POSITIONS, reach=REACHES, band=st.sampled_from([0.3, 0.5, 1.0]))
def test_taps_are_the_low_pass_filter_moved(position, reach, band):
    low_pass = BandFilter(reach, band)
    first, (taps, slopes) = low_pass.taps(position)
    start, (still, _) = low_pass.taps(0.0)
    assert taps.sum() == pytest.approx(1, abs=1e-12)
    assert slopes.sum() == pytest.approx(0, abs=1e-10)
    # Within the passband a wave comes out as that of the still filter, moved.
    frequency = np.pi * np.linspace(0, low_pass.cutoff / 2, 5)[:, None]
    moved = (taps * np.exp(1j * frequency * (first + np.arange(len(taps))))).sum(axis=1)
    plain = (still * np.exp(1j * frequency * (start + np.arange(len(still))))).sum(axis=1)
    # The window stops 54 dB down, at either position in its own way.
    assert np.abs(moved - plain * np.exp(1j * frequency[:, 0] * position)).max() < 0.01


@given(position=st.floats(-2.9, 2.9), reach=REACHES)
def test_slopes_are_the_derivatives_of_the_taps(position, reach):
    if abs(position - round(position)) < 1e-3:
        return  # a tap enters there
    low_pass, step = BandFilter(reach), 1e-5
    ahead, behind = (low_pass.taps(position + s)[1][0] for s in (step, -step))
    assert low_pass.taps(position)[1][1] == pytest.approx((ahead - behind) / (2 * step), abs=1e-6)


def walk(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return (noise[..., 2:] + noise[..., 1:-1] + noise[..., :-2]) / np.sqrt(3)


@pytest.mark.parametrize("size", [9, 40, 200])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("position", [0.0, 0.4, -1.7])
def test_blocks_are_the_filter_of_the_extended_stack(size, axis, position):
    stack = walk((2, 1, 7, size + 2))
    if axis == 0:
        stack = np.ascontiguousarray(stack.swapaxes(2, 3))
    low_pass = BandFilter(6)
    predictor = predictors((stack,), axes=[axis], widths=[9])[0][0]
    first, taps = low_pass.taps(position)
    window = (1, size - 1)
    blocks = filter_blocks(
        taps, first=first, size=size, window=window, predictor=predictor, dtype=stack.dtype
    )
    shape = list(stack.shape)
    shape[axis + 2] = size - 2
    out = np.empty(shape)
    apply_blocks(stack, blocks, filter_=0, axis=axis + 2, out=out)
    lines = np.moveaxis(stack, axis + 2, -1)
    order = predictor.order
    before = lines[..., :order] @ predictor.before.T
    after = lines[..., size - order :] @ predictor.after.T
    extended = np.concatenate([before, lines, after], axis=-1)
    places = 9 + 1 + first + np.arange(size - 2)
    wanted = sum(taps[0, k] * extended[..., places + k] for k in range(len(taps[0])))
    assert np.moveaxis(out, axis + 2, -1) == pytest.approx(wanted, abs=1e-12)
    # The adjoint: the same product of what goes in and of what comes out.
    other = np.random.default_rng(1).normal(size=out.shape)
    back = apply_adjoint(other, blocks, axis=axis + 2, size=size)
    assert (back * stack).sum() == pytest.approx((other * out).sum(), rel=1e-10)


def test_predictions_are_as_wrong_as_is_told():
    stack = walk((1, 1, 4000, 66), seed=2)
    predictor = predictors((stack,), axes=[1], widths=[4])[0][0]
    inner = stack[0, 0, :, 8:]
    outside = stack[0, 0, :, 4:8]
    error = outside - inner[:, : predictor.order] @ predictor.before.T
    # Neighbours share two of three terms: the nearest is known in part, the third not at all.
    assert error.var(axis=0)[::-1] == pytest.approx(np.diag(predictor.error), rel=0.1)
    taps = np.array([[0.25, 0.5, 0.25, 0.0, 0.0]])
    told = border_variances(taps, predictor.error[None])[0]
    assert told[0] == pytest.approx(0.25**2 * predictor.error[0, 0])
    assert told[1] == pytest.approx([0.5, 0.25] @ predictor.error[:2, :2] @ [0.5, 0.25], rel=1e-12)
