# SPDX-License-Identifier: BSD-3-Clause
"""What scenes show is what the documentation says."""

import numpy as np
import pytest

from convcal.datasets import CONTENTS, make_pair
from convcal.datasets.contents import draw_scene, scene_size
from convcal.datasets.fields import noise


def scene(content, *shape, per_pixel=1, seed=0):
    return draw_scene(np.random.default_rng(seed), shape, content, per_pixel=per_pixel)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("per_pixel", [1, 4])
@pytest.mark.parametrize("least", [(33,), (40, 33), (33, 34, 35)])
def test_every_scene_is_finite_and_of_its_size(content, per_pixel, least):
    if per_pixel > 1 and len(least) > 2:
        least = (8, 9, 10)
    shape = tuple(scene_size(size, content, per_pixel=per_pixel) for size in least)
    plane = scene(content, *shape, per_pixel=per_pixel)
    assert plane.shape == shape
    assert np.isfinite(plane).all()
    # A hundredth of the pixels bear blobs: few pixels may have none.
    assert content == "blobs" or (plane.std() > 0) == (content != "constant")


@pytest.mark.parametrize("content", CONTENTS)
def test_there_is_nothing_at_nyquist(content):
    for least in (33, 34, 40, 47):
        size = scene_size(least, content)
        assert size >= least
        if size % 2 == 0:
            spectrum = np.abs(np.fft.rfft(scene(content, size, size), axis=0))
            assert spectrum[-1].max() < 1e-12 * spectrum.max()


@pytest.mark.parametrize(
    "content", ["white", "pink", "smooth", "edges", "lattice", "sound", "features"]
)
@pytest.mark.parametrize("shape", [(1001,), (121, 121)])
def test_these_have_unit_variance(content, shape):
    shape = tuple(scene_size(size, content) for size in shape)
    assert scene(content, *shape).std() == pytest.approx(1)


@pytest.mark.parametrize("content", ["smooth", "blobs", "edges", "text", "features", "mask"])
def test_what_is_shown_has_its_size_in_pixels_not_in_samples(content):
    def width(per_pixel):
        """Give the correlation length in pixels, from the mean square of the slope."""
        planes = [
            scene(content, 161 * per_pixel, 161 * per_pixel, per_pixel=per_pixel, seed=seed)
            for seed in range(3)
        ]
        variances = [plane.var() for plane in planes]
        # Over two pixels: what softens the edges, a sample or so, does not matter then.
        slopes = [np.mean((np.roll(plane, 2 * per_pixel, axis=0) - plane) ** 2) for plane in planes]
        return np.sqrt(sum(variances) / sum(slopes))

    assert width(4) == pytest.approx(width(1), rel=0.15)


def test_stripes_and_lattices_repeat_as_documented():
    stripes = make_pair((16, 16), content="stripes").reference
    assert np.ptp(stripes, axis=2).max() == 0
    lattice = make_pair((24, 24), content="lattice").reference
    assert np.array_equal(lattice[..., 8:], lattice[..., :-8])


def test_text_is_black_on_white():
    page = scene("text", 401, 401)
    # Softened by 0.7 px, cut at Nyquist, where 9 % are left: it rings by some hundredths.
    assert page.min() > -0.1
    assert page.max() < 1.1
    assert 0.5 < np.mean(page > 0.9) < 0.8
    assert 0.1 < np.mean(page < 0.5) < 0.3


def test_relief_is_faint():
    relief = scene("relief", 257, 257)
    assert relief.mean() == pytest.approx(10, abs=0.01)
    spectrum = np.fft.fft2(relief)
    spectrum[0, [0, 1, -1]] = spectrum[[1, -1], 0] = 0
    assert np.fft.ifft2(spectrum).real.std() == pytest.approx(0.1, rel=0.01)
    assert relief.std() == pytest.approx(0.51, rel=0.02)  # two waves of 0.5 / sqrt 2, and 0.1


def test_sound_is_loud_and_quiet_in_turn():
    waveform = scene("sound", 8001)
    loudness = np.sort(np.sqrt(np.mean(waveform[:8000].reshape(-1, 100) ** 2, axis=1)))
    assert loudness[-8] > 3 * loudness[8]
    spectrum = np.abs(np.fft.rfft(waveform)) ** 2
    # A pitch of 0.01 to 0.06 and eight harmonics of it; bursts have more.
    assert spectrum[: int(0.25 * 8001)].sum() > 0.9 * spectrum.sum()
    assert spectrum[int(0.4 * 8001) :].sum() > 1e-6 * spectrum.sum()


def test_features_are_sparse_and_not_negative():
    features = scene("features", 201, 201)
    assert features.min() == 0
    assert 0.4 < np.mean(features < 1e-3) < 0.8


def test_masks_are_mostly_at_their_ends():
    mask = scene("mask", 201, 201)
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert np.mean((mask < 0.05) | (mask > 0.95)) > 0.75
    assert 0.3 < mask.mean() < 0.7


def test_logits_have_a_large_range_and_sharp_boundaries():
    logits = scene("logits", 201, 201)
    assert logits.min() < -20
    assert logits.max() > 6
    steps = np.abs(np.diff(logits, axis=0))
    assert np.median(steps) < 1
    assert steps.max() > 5


def test_constants_are_one():
    pair = make_pair((8, 8), content="constant", shift=0.5, snr_db=20, dtype=np.float64)
    assert np.all(pair.reference == 1)
    assert np.all(pair.observed == 1)  # whose variance is nothing, and whose noise is


def test_the_spectrum_of_a_field_is_that_which_is_asked_for():
    field = noise(np.random.default_rng(0), (4097,), falloff=1.0, cutoff=0.25)
    power = np.abs(np.fft.rfft(field)) ** 2
    frequency = np.fft.rfftfreq(4097)
    assert power[frequency > 0.25].max() < 1e-20 * power.max()
    low, high = (power[(frequency > f) & (frequency < 2 * f)].mean() for f in (0.02, 0.1))
    # 80 and 400 exponential draws, known to 15 %.
    assert low / high == pytest.approx(25, rel=0.5)
