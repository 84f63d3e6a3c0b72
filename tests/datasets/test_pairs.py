# SPDX-License-Identifier: BSD-3-Clause
"""Pairs with a known error are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.datasets import CONTENTS, RESAMPLINGS, make_pair
from convcal.errors import InputError


def overlaps(shape, shift):
    """Give where the reference and the observed output show the same."""
    ref = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, shape, strict=True))
    obs = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, shape, strict=True))
    return (..., *ref), (..., *obs)


def corrected(pair):
    """Apply the truth to the observed output, by splines of the fifth order."""
    gain, bias = (np.reshape(v, (-1,) + (1,) * len(pair.shift)) for v in (pair.gain, pair.bias))
    positions = [
        origin + scale * (np.arange(size) - origin) - shift
        for size, shift, scale, origin in zip(
            pair.reference.shape[2:], pair.shift, pair.scale, pair.origin, strict=True
        )
    ]
    grid = np.meshgrid(*positions, indexing="ij")
    return (
        gain
        * np.stack(
            [
                [
                    scipy.ndimage.map_coordinates(plane, grid, order=5, mode="mirror")
                    for plane in sample
                ]
                for sample in pair.observed.astype(np.float64)
            ]
        )
        + bias
    )


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(
    ("shape", "shift", "resampling"),
    [
        ((40,), (3,), "fourier"),
        ((24, 32), (2, -5), "fourier"),
        ((9, 8, 10), (1, 0, -2), "fourier"),
        ((40,), (3,), "area"),
        ((12, 16), (2, -5), "area"),
        ((24, 32), (2, -5), "bilinear"),
    ],
)
def test_a_whole_shift_moves_content_and_lets_new_content_in(shape, shift, content, resampling):
    pair = make_pair(
        shape, shift=shift, content=content, resampling=resampling, dtype=np.float32, n_samples=2
    )
    here, there = overlaps(shape, shift)
    assert np.array_equal(pair.reference[here], pair.observed[there])
    if content in {"white", "pink"}:
        rolled = np.roll(pair.observed, shift, axis=tuple(range(2, 2 + len(shape))))
        assert not np.allclose(rolled, pair.reference)


@settings(max_examples=30, deadline=None)
@given(
    shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    scale=st.tuples(st.floats(0.97, 1.03), st.floats(0.97, 1.03)),
    origin=st.tuples(st.floats(-10, 60), st.floats(-10, 60)),
    resampling=st.sampled_from(["fourier", "area"]),
)
def test_the_truth_takes_the_observed_output_to_the_reference(shift, scale, origin, resampling):
    pair = make_pair(
        (40, 44),
        shift=shift,
        scale=scale,
        origin=origin,
        content="smooth",
        resampling=resampling,
        n_samples=1,
        n_channels=2,
        gain=(2, -0.5),
        bias=(1, 3),
        dtype=np.float64,
    )
    assert (pair.shift, pair.scale, pair.origin) == (shift, scale, origin)
    error = np.abs(corrected(pair) - pair.reference)[..., 12:-12, 12:-12]
    # Splines of the fifth order leave 2e-5 of content this smooth. With a scale of 1.03, the area
    # of a pixel grows by 3 %, which blurs by 0.03 / 12 of the second derivative, 1/16: 2e-4.
    assert error.max() < (1e-4 if resampling == "fourier" else 1e-3)


def test_a_scale_moves_the_far_end_by_as_much_as_it_says():
    # 0.5 px over 1024, about the corner: observed pixel 0 is right, the last one 0.5 px off.
    size, growth = 1024, 0.5
    pair = make_pair(
        (size,), scale=1 + growth / (size - 1), content="smooth", dtype=np.float64, n_samples=2
    )
    assert np.abs(pair.observed[..., :4] - pair.reference[..., :4]).max() < 2e-3
    shifted = make_pair((size,), shift=growth, content="smooth", dtype=np.float64, n_samples=2)
    # The correction looks 0.5 px farther on, as does the shift -0.5.
    last = 2 * pair.reference[..., -3:] - shifted.observed[..., -3:]
    assert pair.observed[..., -3:] == pytest.approx(last, abs=0.05)


def test_pixels_that_are_areas_have_their_share_of_an_edge():
    # 16 pixels of 4 samples around the window: the edge leaves a quarter of the tenth one dark.
    scene = np.zeros((1, 1, 4 * 52))
    scene[..., 4 * 25 + 1 :] = 1
    pair = make_pair((20,), scene=scene, resampling="area", dtype=np.float64)
    # The interpolant of a step rings by 9 %, its mean over four samples by less than 3 %.
    assert pair.reference[0, 0] == pytest.approx([0] * 9 + [0.75] + [1] * 10, abs=0.03)


def test_bilinear_fractions_are_linear_mixtures():
    options = {"content": "white", "dtype": np.float64, "seed": 3}
    pair = make_pair((30, 31), shift=(0.25, 0), resampling="bilinear", **options)
    whole = make_pair((30, 31), resampling="bilinear", **options)
    reference = whole.reference
    assert pair.reference.shape == reference.shape
    mixed = 0.75 * pair.reference[..., :-1, :] + 0.25 * pair.reference[..., 1:, :]
    # The reference is float32.
    assert pair.observed[..., :-1, :] == pytest.approx(mixed, abs=1e-6)


def test_areas_alias_where_fourier_samples_do_not():
    """A band-limited shift explains all of the one, and not all of the other."""
    left = {}
    for resampling in RESAMPLINGS:
        pair = make_pair(
            (256,), shift=0.5, content="white", resampling=resampling, dtype=np.float64
        )
        undone = corrected(pair)[..., 20:-20] - pair.reference[..., 20:-20]
        left[resampling] = undone.std() / pair.reference.std()
    assert left["fourier"] < 0.5 * left["area"]
    assert left["fourier"] < 0.9 * left["bilinear"]


def test_a_scene_that_is_given_is_shown_at_a_place_that_the_seed_chooses():
    picture = np.arange(2 * 3 * 80 * 90, dtype=np.uint32).reshape(2, 3, 80, 90)
    places = set()
    for seed in range(4):
        pair = make_pair(
            (30, 40), shift=(2, -3), scene=picture, gain=2, dtype=np.float64, seed=seed
        )
        assert pair.reference.shape == (2, 3, 30, 40)
        row, column = np.divmod(int(pair.reference[0, 0, 0, 0]), 90)
        window = picture[..., row : row + 30, column : column + 40]
        assert np.array_equal(pair.reference, window)
        moved = picture[..., row + 2 : row + 32, column - 3 : column + 37]
        assert np.array_equal(2 * pair.observed, moved)
        places.add((row, column))
    assert len(places) > 1


def test_fractions_of_a_scene_that_is_given_are_exact_away_from_its_ends():
    # A picture that is no period of anything: a ramp and waves.
    x = np.arange(120.0)
    picture = (0.05 * x + np.sin(0.3 * x)).reshape(1, 1, -1)
    pair = make_pair((80,), shift=0.5, scene=picture, dtype=np.float64)
    start = np.argmin(np.abs(picture[0, 0] - pair.reference[0, 0, 0]))
    wanted = 0.05 * (x + 0.5) + np.sin(0.3 * (x + 0.5))
    # Mirrored, its slope of up to 0.35 changes sign 16 px away: that rings by 0.35 / (8 * 16).
    assert pair.observed[0, 0] == pytest.approx(wanted[start : start + 80], abs=3e-3)


def test_gain_bias_noise_and_rounding_are_those_asked_for():
    options = {"n_channels": 2, "seed": 7}
    plain = make_pair((64, 64), dtype=np.float64, **options)
    affine = make_pair((64, 64), gain=(2, -1), bias=(0.5, 3), dtype=np.float64, **options)
    gain, bias = (np.reshape(v, (1, 2, 1, 1)) for v in (affine.gain, affine.bias))
    assert gain * affine.observed + bias == pytest.approx(plain.observed, abs=1e-12)
    noisy = make_pair((64, 64), snr_db=20, dtype=np.float64, **options)
    noise = noisy.observed - plain.observed
    # 65 536 values: within 1 %.
    assert noise.std() == pytest.approx(0.1 * plain.observed.std(), rel=0.02)
    assert np.array_equal(
        make_pair((64, 64), **options).observed, plain.observed.astype(np.float16)
    )


def test_the_same_seed_gives_the_same_pair_and_another_another():
    first, again, other = (make_pair((16, 16), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.observed, again.observed)
    assert not np.array_equal(first.observed, other.observed)


@pytest.mark.parametrize(
    ("shape", "options", "word"),
    [
        ((), {}, "shape"),
        ((4, 0), {}, "shape"),
        ((4,), {"shift": (1, 2)}, "shift"),
        ((4,), {"gain": (1, 2)}, "gain"),
        ((4,), {"gain": 0}, "gain"),
        ((4,), {"gain": 1e-320}, "gain"),
        ((4,), {"shift": 1e9}, "shift"),
        ((4,), {"snr_db": np.nan}, "snr_db"),
        ((4,), {"snr_db": -1e5}, "snr_db"),
        ((4,), {"seed": -1}, "seed"),
        ((4,), {"content": "cats"}, "cats"),
        ((4,), {"n_samples": 0}, "n_samples"),
        ((4,), {"n_channels": 0}, "n_channels"),
        ((4,), {"resampling": "cubic"}, "cubic"),
        ((4,), {"scale": 0.4}, "scale"),
        ((4,), {"scale": (1, 1)}, "scale"),
        ((4,), {"origin": np.nan}, "origin"),
        ((4,), {"scene": np.ones((1, 1, 4, 4))}, "samples, channels and 1 of space"),
        ((4,), {"scene": np.ones((1, 1, 0))}, "scene"),
        ((4,), {"scene": [[["a"]]]}, "accepted are numbers"),
        ((4,), {"scene": np.full((1, 1, 99), np.nan)}, "scene holds NaN"),
        ((4,), {"scene": np.ones((1, 1, 35))}, r"has \(35,\) positions; .* need \(36,\)"),
        ((4,), {"scene": np.ones((1, 1, 37)), "shift": 0.5}, r"need \(38,\): pass a larger"),
        ((4,), {"scene": np.ones((1, 1, 143)), "resampling": "area"}, r"\(144,\), 4 samples per"),
        ((4,), {"scene": np.ones((2, 1, 99)), "n_samples": 3}, "n_samples is 3.* has 2"),
        ((4,), {"scene": np.ones((2, 1, 99)), "gain": (1, 2)}, "gain"),
    ],
)
def test_bad_parameters_are_named(shape, options, word):
    with pytest.raises(InputError, match=word):
        make_pair(shape, **options)
