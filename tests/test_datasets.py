# SPDX-License-Identifier: BSD-3-Clause
"""Pairs with a known error are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from convcal.datasets import CONTENTS, make_pair
from convcal.errors import InputError


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(
    ("shape", "shift"), [((40,), (3,)), ((24, 32), (2, -5)), ((9, 8, 10), (1, 0, -2))]
)
def test_a_whole_shift_moves_content_and_lets_new_content_in(shape, shift, content):
    pair = make_pair(shape, shift=shift, content=content, dtype=np.float32, n_samples=2)
    ref = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, shape, strict=True))
    obs = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, shape, strict=True))
    assert np.array_equal(pair.reference[..., *ref], pair.observed[..., *obs])
    if content in {"white", "pink"}:
        rolled = np.roll(pair.observed, shift, axis=tuple(range(2, 2 + len(shape))))
        assert not np.allclose(rolled, pair.reference)


def test_a_fractional_shift_is_exact_for_a_band_limited_scene():
    there = make_pair((64,), shift=0.3, content="smooth", dtype=np.float64, seed=4)
    # Fourth-order interpolation of content this smooth is exact to 1e-3.
    grid = np.arange(8, 56)
    position = grid - 0.3
    left = np.floor(position).astype(int)
    t = position - left
    weights = [
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    ]
    moved = sum(
        w * there.observed[..., left + k] for w, k in zip(weights, range(-1, 3), strict=True)
    )
    assert np.abs(moved - there.reference[..., grid]).max() < 1e-3


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


def test_stripes_and_lattices_repeat_as_documented():
    stripes = make_pair((16, 16), content="stripes").reference
    assert np.ptp(stripes, axis=2).max() == 0
    lattice = make_pair((24, 24), content="lattice").reference
    assert np.array_equal(lattice[..., 8:], lattice[..., :-8])


@pytest.mark.parametrize(
    ("shape", "options", "word"),
    [
        ((), {}, "shape"),
        ((4, 0), {}, "shape"),
        ((4,), {"shift": (1, 2)}, "shift"),
        ((4,), {"gain": (1, 2)}, "gain"),
        ((4,), {"gain": 0}, "gain"),
        ((4,), {"content": "cats"}, "cats"),
        ((4,), {"n_samples": 0}, "n_samples"),
    ],
)
def test_bad_parameters_are_named(shape, options, word):
    with pytest.raises(InputError, match=word):
        make_pair(shape, **options)
