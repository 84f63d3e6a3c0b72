# SPDX-License-Identifier: BSD-3-Clause
import sys

import numpy as np
import pytest
from data.descriptions import image, model, refused, tensor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convcal.data import luma, open_samples, read_picture, tiles
from convcal.errors import InputError, UnavailableError

RANDOM = np.random.default_rng(6)
RGB = RANDOM.integers(0, 256, (70, 130, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (70, 130), dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@given(*[st.integers(1, 40)] * 2, *[st.integers(1, 12)] * 2)
def test_tiles_lie_inside_the_picture_and_do_not_overlap(height, width, rows, columns):
    covered = np.zeros((height, width), int)
    found = tiles((height, width), (rows, columns))
    for position, (down, right) in found.items():
        assert covered[down, right].shape == (rows, columns)
        covered[down, right] += 1
        assert position == f"{down.start},{right.start}"
    assert covered.max(initial=0) <= 1
    # Less than one tile is left at the right and at the bottom.
    assert len(found) == (height // rows) * (width // columns)
    filled = covered[: height // rows * rows, : width // columns * columns]
    assert filled.all()


def test_a_picture_is_cut_into_its_tiles(tmp_path):
    samples = open_samples(save(tmp_path / "low.png", GREY), model(tensor((1, 1, 32, 64))))
    positions = tiles(GREY.shape, (32, 64))
    assert samples.names == tuple(f"low@{position}" for position in positions)
    for sample, (rows, columns) in zip(samples, positions.values(), strict=True):
        np.testing.assert_array_equal(sample["x"][0, 0], GREY[rows, columns] / np.float32(255))


def test_luma_is_the_weighted_sum_rounded_once():
    exact = (0.299 * RGB[..., 0] + 0.587 * RGB[..., 1] + 0.114 * RGB[..., 2]) / 255
    # Half a unit in the last place of float32 below 1.
    np.testing.assert_allclose(luma(RGB), exact, rtol=0, atol=2.0**-25)
    assert luma(RGB).dtype == np.float32


def test_luma_of_grey_is_exact():
    levels = np.arange(256, dtype=np.uint8)[None]
    expected = levels / np.float32(255)
    np.testing.assert_array_equal(luma(levels), expected)
    np.testing.assert_array_equal(luma(np.repeat(levels[..., None], 3, axis=-1)), expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 3, 70, 130), np.moveaxis(RGB, -1, 0)[None] / np.float32(255)),
        ((3, 70, 130), np.moveaxis(RGB, -1, 0) / np.float32(255)),
        ((1, 1, 70, 130), luma(RGB)[None, None]),
        ((1, 70, 130), luma(RGB)[None]),
        ((70, 130), luma(RGB)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_take_pictures_as_their_shape_says(tmp_path, shape, dtype, expected):
    (sample,) = open_samples(save(tmp_path / "p.png", RGB), model(tensor(shape, dtype=dtype)))
    assert sample["x"].shape == shape
    assert sample["x"].dtype == dtype
    assert sample["x"].flags.c_contiguous
    np.testing.assert_array_equal(sample["x"], expected.astype(dtype))


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_image_inputs_take_rgb_whatever_the_package_stores(tmp_path, colour):
    (sample,) = open_samples(save(tmp_path / "p.png", RGB), model(image(70, 130, colour=colour)))
    assert sample["picture"].dtype == np.uint8
    np.testing.assert_array_equal(sample["picture"], RGB)


def test_grey_image_inputs_take_rounded_luma(tmp_path):
    feature = model(image(70, 130, colour="GRAYSCALE"))
    (sample,) = open_samples(save(tmp_path / "p.png", RGB), feature)
    # luma is in [0, 1]; half a level, and the rounding of the comparison itself.
    np.testing.assert_allclose(sample["picture"], 255.0 * luma(RGB), rtol=0, atol=0.5 + 1e-4)
    (sample,) = open_samples(save(tmp_path / "g.png", GREY), feature)
    np.testing.assert_array_equal(sample["picture"], GREY)


def test_grey_pictures_fill_all_three_channels(tmp_path):
    (sample,) = open_samples(save(tmp_path / "g.png", GREY), model(image(70, 130)))
    np.testing.assert_array_equal(sample["picture"], np.repeat(GREY[..., None], 3, axis=-1))


def test_images_are_tiled_like_tensors(tmp_path):
    samples = open_samples(save(tmp_path / "p.png", RGB), model(image(32, 64)))
    assert samples.names == ("p@0,0", "p@0,64", "p@32,0", "p@32,64")
    np.testing.assert_array_equal(list(samples)[3]["picture"], RGB[32:64, 64:128])


def test_transparency_is_left_out_and_palettes_are_resolved(tmp_path):
    alpha = np.concatenate([RGB, np.full((70, 130, 1), 9, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_picture(save(tmp_path / "a.png", alpha)), RGB)
    flat = np.full((4, 4, 3), (10, 20, 30), np.uint8)
    Image.fromarray(flat).quantize(4).save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png"), flat)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pictures_are_turned_upright_as_their_exif_data_say(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "p.png", RGB, exif=exif)
    # EXIF 2.32, table 6: how the stored rows are to be turned for the viewer.
    upright = np.rot90(RGB, {3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read_picture(path), upright)
    samples = open_samples(path, model(image(*upright.shape[:2])))
    np.testing.assert_array_equal(next(iter(samples))["picture"], upright)


def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    path = save(tmp_path / "p.png", RGB, exif=exif)
    samples = open_samples(path, model(image(*RGB.shape[:2])))
    np.testing.assert_array_equal(next(iter(samples))["picture"], RGB)


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".ppm", ".tif", ".webp"])
def test_lossless_formats_give_the_pixels(tmp_path, suffix):
    path = save(tmp_path / f"p{suffix}", RGB, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_picture(path), RGB)


def test_a_picture_smaller_than_the_input_is_named_with_both_sizes(tmp_path):
    path = save(tmp_path / "small.png", RGB)
    with refused(tmp_path, "small.png", "70 x 130", "64 x 256", "'x'", error=InputError):
        open_samples(path, model(tensor((1, 3, 64, 256))))


@pytest.mark.parametrize(
    "feature",
    [
        tensor((1, 2, 32, 32)),
        tensor((2, 3, 32, 32)),
        tensor((1, 32, 32, 3)),
        tensor((1, 3, 32, 32), dtype="int32"),
        tensor((4,)),
        tensor((1, 1, 3, 32, 32)),
        image(32, 32, colour="GRAYSCALE", dtype="float16"),
    ],
)
def test_inputs_that_take_no_pictures_are_named(tmp_path, feature):
    path = save(tmp_path / "p.png", RGB)
    with refused(tmp_path, feature.name, "takes no pictures", "(1, C, H, W)", error=InputError):
        open_samples(path, model(feature))


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 8), (1, 1, 1, 8), (1, 1, 8, 1)])
def test_a_row_of_pixels_is_no_sound(tmp_path, shape):
    path = save(tmp_path / "p.png", RGB)
    with refused(tmp_path, "is one-dimensional; give sound or arrays", error=InputError):
        open_samples(path, model(tensor(shape)))


def test_pictures_do_not_fit_a_model_with_two_inputs(tmp_path):
    path = save(tmp_path / "p.png", RGB)
    two = model(tensor((1, 3, 8, 8)), tensor((1, 3, 8, 8), name="z"))
    with refused(tmp_path, "p.png", "one input", "'x'", "'z'", error=InputError):
        open_samples(path, two)


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_files_that_are_no_pictures_are_named(tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    with refused(tmp_path, "cannot read picture", "p.png", error=InputError):
        open_samples(tmp_path, model(image(8, 8)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_truncated_picture_is_named(tmp_path, suffix):
    path = save(tmp_path / f"p{suffix}", RGB)
    path.write_bytes(path.read_bytes()[:4000])
    with refused(tmp_path, "cannot read picture", f"p{suffix}", error=InputError):
        list(open_samples(path, model(image(8, 8))))


def test_pictures_of_more_than_8_bits_are_refused(tmp_path):
    path = save(tmp_path / "deep.png", np.zeros((8, 8), np.uint16))
    with refused(tmp_path, "deep.png", "more than 8 bits", ".npy", error=InputError):
        list(open_samples(path, model(image(8, 8))))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "p.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)  # of 9100: Pillow would only warn
    with refused(tmp_path, "p.png", "exceeds limit", error=InputError):
        open_samples(path, model(image(8, 8)))


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "p.png", RGB)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with refused(tmp_path, "Pillow", "pip install 'convcal[pictures]'", error=UnavailableError):
        open_samples(path, model(image(8, 8)))
