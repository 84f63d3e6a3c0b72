# SPDX-License-Identifier: BSD-3-Clause
"""Content is moved and warped as documented, and the stated corrections bring it back."""

import numpy as np
import pytest
import scipy.ndimage
from faults.outputs import output, wave
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.faults import FracShift, GridQuant, IntShift, ScaleCentre, ScaleCorner, parse_fault


def corrected(observed, *, shift=0.0, scale=1.0, origin=0.0):
    """Apply the correction of the design, by cubic interpolation: origin + scale (i - origin)."""
    size = np.array(observed.shape[2:])
    shift, scale, origin = (np.broadcast_to(each, size.shape) for each in (shift, scale, origin))
    positions = [
        o + s * (np.arange(n) - o) - move
        for n, move, s, o in zip(size, shift, scale, origin, strict=True)
    ]
    grid = np.meshgrid(*positions, indexing="ij")
    moved = scipy.ndimage.map_coordinates(observed[0, 0], grid, mode="nearest")
    return moved[np.newaxis, np.newaxis]


def test_content_is_displaced_per_axis_with_signs():
    y = output(1, 2, 5, 6)
    moved = IntShift(displacement=(2, -1), fill="zero").apply(y)
    np.testing.assert_array_equal(moved[:, :, 2:, :-1], y[:, :, :-2, 1:])
    assert not moved[:, :, :2].any()
    assert not moved[:, :, :, -1].any()
    edge = IntShift(displacement=(2, -1)).apply(y)
    np.testing.assert_array_equal(edge[:, :, 0, :-1], y[:, :, 0, 1:])
    np.testing.assert_array_equal(edge[:, :, 2:, -1], y[:, :, :-2, -1])
    wrapped = IntShift(displacement=(2, -1), fill="wrap").apply(y)
    np.testing.assert_array_equal(wrapped, np.roll(y, (2, -1), axis=(2, 3)))
    drawn = IntShift(displacement=(2, -1), fill="random").apply(y)
    np.testing.assert_array_equal(drawn[:, :, 2:, :-1], y[:, :, :-2, 1:])
    assert np.abs(drawn[:, :, :2]).min() > 0
    # New values are not those of anywhere in the output.
    assert not np.isin(drawn[:, :, :2], y).any()


def test_zero_fill_leaves_no_nan_behind():
    y = np.full((1, 1, 3), np.nan, np.float32)
    np.testing.assert_array_equal(
        IntShift(displacement=(5,), fill="zero").apply(y), np.zeros((1, 1, 3))
    )


@given(
    displacement=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    fill=st.sampled_from(["edge", "zero", "wrap", "random"]),
)
def test_the_negative_displacement_is_the_shift_that_undoes_it(displacement, fill):
    y = output(1, 1, 9, 11)
    observed = IntShift(displacement=displacement, fill=fill).apply(y)
    back = IntShift(displacement=tuple(-each for each in displacement)).apply(observed)
    inside = tuple(
        slice(max(0, -d), n - max(0, d)) for d, n in zip(displacement, y.shape[2:], strict=True)
    )
    np.testing.assert_array_equal(back[:, :, *inside], y[:, :, *inside])


def test_a_fractional_displacement_mixes_neighbours_and_repeats_the_edge():
    y = np.array([[[0, 4, 8, 0]]], np.float32)
    # y(u) = y32(u + 0.5): the first row of faults for a resize by two (C1).
    np.testing.assert_array_equal(FracShift().apply(y), [[[2, 6, 4, 0]]])
    np.testing.assert_array_equal(FracShift(displacement=0.25).apply(y), [[[0, 3, 7, 2]]])
    np.testing.assert_array_equal(FracShift(displacement=1).apply(y), [[[0, 0, 4, 8]]])


@settings(deadline=None)
@given(displacement=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_the_negative_fraction_is_the_shift_that_undoes_it(displacement):
    y = wave(40, 50)
    observed = FracShift(displacement=displacement).apply(y)
    back = corrected(observed, shift=[-each for each in displacement])
    # Linear sampling of a wave of angular frequency 0.16 is off by up to 0.16**2 / 8 = 0.003 on
    # each axis, fp16 by 0.0005.
    assert np.abs(back - y)[:, :, 4:-4, 4:-4].max() < 0.008


def test_displacement_grows_from_the_corner():
    ramp = np.arange(64, dtype=np.float32).reshape(1, 1, 64)
    result = parse_fault("scale-corner:growth=-0.25").apply(ramp)
    # On a ramp, linear interpolation is exact: y((1 + growth) u) = 0.75 u, a dyadic number.
    np.testing.assert_array_equal(result, 0.75 * ramp)
    grown = parse_fault("scale-corner:growth=0.25").apply(ramp)
    np.testing.assert_array_equal(grown, np.minimum(1.25 * ramp, 63))
    from_end = parse_fault("scale-corner:growth=-0.25,corner=end").apply(ramp)
    np.testing.assert_array_equal(from_end, 63 - 0.75 * (63 - ramp))
    both = parse_fault("scale-corner:growth=-0.25,corner=end/start").apply(ramp.reshape(1, 1, 8, 8))
    assert both[0, 0, -1, 0] == 56  # the bottom left stays, as in onnxruntime #21170


@settings(deadline=None)
@given(
    growth=st.tuples(st.floats(-0.03, 0.03), st.floats(-0.03, 0.03)),
    corner=st.tuples(*[st.sampled_from(["start", "end"])] * 2),
)
def test_the_stated_scale_about_the_corner_undoes_the_growth(growth, corner):
    y = wave(40, 50)
    observed = ScaleCorner(growth=growth, corner=corner).apply(y)
    origin = [0 if c == "start" else n - 1 for c, n in zip(corner, y.shape[2:], strict=True)]
    back = corrected(observed, scale=[1 / (1 + each) for each in growth], origin=origin)
    assert np.abs(back - y)[:, :, 4:-4, 4:-4].max() < 0.008  # as for a fraction


def test_the_centre_stays_and_the_ends_move_alike():
    ramp = np.arange(65, dtype=np.float64).reshape(1, 1, 65)
    result = ScaleCentre(ratio=0.75).apply(ramp)
    np.testing.assert_array_equal(result, 32 + 0.75 * (ramp - 32))


@settings(deadline=None)
@given(ratio=st.tuples(st.floats(0.95, 1.05), st.floats(0.95, 1.05)))
def test_the_stated_scale_about_the_centre_undoes_the_ratio(ratio):
    y = wave(40, 50)
    observed = ScaleCentre(ratio=ratio).apply(y)
    back = corrected(observed, scale=[1 / each for each in ratio], origin=[19.5, 24.5])
    assert np.abs(back - y)[:, :, 4:-4, 4:-4].max() < 0.008  # as for a fraction


def test_aligned_corners_are_a_scale_about_the_centre():
    # A ramp of 8 pixels, doubled: half-pixel centres against aligned corners, (16 - 2) / 15.
    position = np.arange(16)
    half_pixel = ((position + 0.5) / 2 - 0.5).reshape(1, 1, 16)
    aligned = (position * 7 / 15).reshape(1, 1, 16)
    result = ScaleCentre(ratio=14 / 15).apply(half_pixel)
    # fp16 of numbers below 8 is off by at most 2**-9.
    np.testing.assert_allclose(result, aligned, atol=2**-9)


@pytest.mark.parametrize(
    ("mode", "size", "largest"),
    [
        # What the reports add up to, computed apart from this code.
        ("stored", 1024, 0.125),
        ("stored", 2048, 0.25),
        ("stored", 3840, 0.47),
        ("all", 1024, 0.5),
        ("all", 1920, 1.0),
        ("all", 3840, 3.0),
    ],
)
def test_a_grid_in_fp16_is_off_by_as_much_as_reported(mode, size, largest):
    error = GridQuant(mode=mode).positions(size) - np.arange(size)
    assert np.abs(error).max() == pytest.approx(largest, abs=0.005)
    assert abs(np.mean(error)) < 0.2 * largest  # a sawtooth, no shift


def test_a_grid_in_fp16_samples_what_lies_there():
    size = 3840
    ramp = (np.arange(size) / 4096).reshape(1, 1, size)
    result = GridQuant(mode="all").apply(ramp)
    positions = np.clip(GridQuant(mode="all").positions(size), 0, size - 1)
    np.testing.assert_allclose(result[0, 0], positions / 4096, atol=2**-12)
    assert len(np.unique(positions)) < 0.8 * size  # neighbours fall together
