# SPDX-License-Identifier: BSD-3-Clause
"""A scene is sampled where, and as, it is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcal.datasets.sampling import Positions, fourier_samples, linear_samples

# Whole steps go through the FFT, others through a chirp.
STEPS = st.one_of(st.sampled_from([1.0, 2.0, 4.0]), st.floats(0.3, 3.0))


def trigonometric(n, is_periodic, seed):
    """Give a function of position with all frequencies that n samples hold, and its box means."""
    rng = np.random.default_rng(seed)
    n_terms = (n + 1) // 2 if is_periodic else n
    amplitude = rng.normal(size=n_terms)
    # On a mirrored scene only cosines about -1/2 go on smoothly.
    phase = rng.random(n_terms) if is_periodic else None
    frequency = np.arange(n_terms) / (n if is_periodic else 2 * n)

    def function(x, width=0.0):
        x = np.asarray(x, float)[..., np.newaxis]
        turns = frequency * x + phase if is_periodic else frequency * (x + 0.5)
        return (amplitude * np.sinc(frequency * width) * np.cos(2 * np.pi * turns)).sum(axis=-1)

    return function


@settings(deadline=None)
@given(
    n=st.integers(20, 60).filter(lambda n: n % 2),
    first=st.floats(0.5, 6),
    step=STEPS,
    width=st.one_of(st.just(0.0), st.floats(0.1, 5)),
    is_periodic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_band_limited_functions_are_sampled_to_round_off(
    *, n, first, step, width, is_periodic, seed
):
    function = trigonometric(n, is_periodic, seed)
    positions = Positions(first, step, int((n - 1 - first) / step))
    scene = np.broadcast_to(function(np.arange(n))[:, np.newaxis], (2, n, 3))
    result = fourier_samples(scene, 1, positions, width=width, is_periodic=is_periodic)
    expected = function(positions.values(), width)
    assert result.shape == (2, positions.count, 3)
    # 60 terms of size 1, each to 1e-15 times the phase, up to 400 radians.
    np.testing.assert_allclose(result[1, :, 2], expected, atol=1e-10)


def test_a_box_is_the_mean_over_its_width():
    n, width = 31, 2.5
    function = trigonometric(n, True, 0)
    scene = function(np.arange(n))
    result = fourier_samples(scene, 0, Positions(7.3, 1.7, 5), width=width)
    within = ((np.arange(4000) + 0.5) / 4000 - 0.5) * width
    dense = function(Positions(7.3, 1.7, 5).values()[:, np.newaxis] + within).mean(axis=1)
    # The midpoint rule: step**2 / 24 times the second derivative, at most 16 * pi**2.
    np.testing.assert_allclose(result, dense, atol=(width / 4000) ** 2 / 24 * 300)


def test_whole_positions_are_the_values_themselves():
    scene = np.random.default_rng(0).normal(size=(3, 20))
    result = fourier_samples(scene, 1, Positions(5, 2.0, 4))
    np.testing.assert_array_equal(result, scene[:, 5:12:2])


@settings(deadline=None)
@given(first=st.floats(0, 5), step=STEPS)
def test_linear_samples_lie_between_neighbours(first, step):
    scene = np.random.default_rng(0).normal(size=(2, 40, 2))
    positions = Positions(first, step, 8)
    result = linear_samples(scene, 1, positions)
    expected = np.interp(positions.values(), np.arange(40), scene[1, :, 0])
    np.testing.assert_allclose(result[1, :, 0], expected, atol=1e-13)


@pytest.mark.parametrize("count", [1, 2, 600, 16000])
def test_long_series_are_summed_to_round_off_too(count):
    n = 16385
    frequency = np.append(np.random.default_rng(0).integers(0, n // 2, 40), n // 2) / n

    def function(x):
        return np.cos(2 * np.pi * (np.outer(x, frequency) % 1) + 1).sum(axis=1)

    positions = Positions(3.1, 1.0001, count)
    result = fourier_samples(function(np.arange(n)), 0, positions)
    # 41 terms of size 1 at up to 8000 turns, which float64 knows to 1e-12 of a turn.
    np.testing.assert_allclose(result, function(positions.values()), atol=41 * 2 * np.pi * 1e-12)
