# SPDX-License-Identifier: BSD-3-Clause
import sys

import numpy as np
import pytest
import soundfile
from data.descriptions import image, model, refused, tensor
from hypothesis import given
from hypothesis import strategies as st

from convcal.data import open_samples, windows
from convcal.errors import InputError, UnavailableError

LEVELS = np.random.default_rng(7).integers(-32768, 32768, 1000).astype(np.int16)
WINDOW = model(tensor((1, 1, 400)))


def save(path, values, **options):
    soundfile.write(path, values, 8000, **options)
    return path


@given(st.integers(0, 100), st.integers(1, 30))
def test_windows_lie_inside_the_sound_and_do_not_overlap(length, window):
    covered = np.zeros(length, int)
    found = windows(length, window)
    for position, window_slice in found.items():
        assert covered[window_slice].shape == (window,)
        covered[window_slice] += 1
        assert int(position) == window_slice.start
    assert covered[: length // window * window].all()
    assert covered.max(initial=0) <= 1
    assert len(found) == length // window


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_sound_is_cut_into_windows_in_the_range_of_one(tmp_path, suffix):
    samples = open_samples(save(tmp_path / f"s{suffix}", LEVELS), WINDOW)
    assert samples.names == ("s@0", "s@400")
    for sample, start in zip(samples, (0, 400), strict=True):
        expected = LEVELS[start : start + 400] / np.float32(32768)  # exact: a power of two
        np.testing.assert_array_equal(sample["x"][0, 0], expected)
        assert sample["x"].dtype == np.float32


@pytest.mark.parametrize("shape", [(1000,), (1, 1000), (1, 1, 1000), (1, 1000, 1), (1, 1, 1, 1000)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_window_takes_the_shape_of_the_input(tmp_path, shape, dtype):
    samples = open_samples(save(tmp_path / "s.wav", LEVELS), model(tensor(shape, dtype=dtype)))
    (sample,) = samples
    assert sample["x"].shape == shape
    expected = (LEVELS / np.float32(32768)).astype(dtype)
    np.testing.assert_array_equal(sample["x"].ravel(), expected)


def test_stereo_becomes_the_mean(tmp_path):
    left = np.linspace(-0.5, 0.5, 400)
    path = save(tmp_path / "s.wav", np.stack([left, np.zeros(400)], axis=1), subtype="FLOAT")
    (sample,) = open_samples(path, WINDOW)
    np.testing.assert_array_equal(sample["x"][0, 0], left.astype(np.float32) / 2)


@pytest.mark.parametrize(
    ("value", "dtype", "part"),
    [(np.nan, "float32", "holds 1 NaN"), (1e30, "float16", "beyond the range of float16")],
)
def test_values_that_no_sound_has_are_named(tmp_path, value, dtype, part):
    sound = np.zeros(400)
    sound[7] = value
    path = save(tmp_path / "s.wav", sound, subtype="FLOAT")
    samples = open_samples(path, model(tensor((1, 1, 400), dtype=dtype)))
    with pytest.raises(InputError, match=rf"s\.wav' {part}|s\.wav' holds .* {part}"):
        list(samples)


def test_a_sound_shorter_than_the_input_is_named_with_both_lengths(tmp_path):
    path = save(tmp_path / "short.wav", LEVELS[:399])
    with refused(tmp_path, "short.wav", "399 samples", "400", error=InputError):
        open_samples(path, WINDOW)


@pytest.mark.parametrize(
    "feature",
    [tensor((1, 2, 400)), tensor((1,)), tensor((1, 400), dtype="int32"), image(1, 400)],
)
def test_inputs_that_take_no_sound_are_named(tmp_path, feature):
    path = save(tmp_path / "s.wav", LEVELS)
    with refused(tmp_path, feature.name, "takes no sound", "(1, 1, T)", error=InputError):
        open_samples(path, model(feature))


@pytest.mark.parametrize("content", [b"", b"RIFF no sound"])
def test_files_that_are_no_sound_are_named(tmp_path, content):
    (tmp_path / "s.wav").write_bytes(content)
    with refused(tmp_path, "cannot read sound", "s.wav", error=InputError):
        open_samples(tmp_path, WINDOW)


def test_a_truncated_sound_is_named_when_it_is_read(tmp_path):
    path = save(tmp_path / "s.flac", LEVELS)
    path.write_bytes(path.read_bytes()[:-600])
    samples = open_samples(path, WINDOW)
    with refused(tmp_path, "cannot read sound", "s.flac", error=InputError):
        list(samples)


def test_without_soundfile_the_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "s.wav", LEVELS)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with refused(tmp_path, "soundfile", "pip install 'convcal[sound]'", error=UnavailableError):
        open_samples(path, WINDOW)
