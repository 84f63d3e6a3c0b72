# SPDX-License-Identifier: BSD-3-Clause
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convcal.correction import AxisFilter, Correction
from convcal.layout import Layout
from convcal.report.text import (
    LONGEST_NAME,
    describe_axes,
    describe_channels,
    describe_crop,
    describe_displacement,
    describe_margins,
    describe_scale,
    in_flags,
    number,
    plain,
    printable,
)


def shifted(*shift):
    filters = tuple(
        AxisFilter(-math.ceil(value), (1.0,) if value.is_integer() else (0.5, 0.5))
        for value in shift
    )
    return Correction(spatial_shape=(64,) * len(shift), shift=shift, filters=filters)


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((-1.0,), "1 sample too late"),
        ((2.5,), "2.5 samples too early"),
        ((-4.0, -4.0), "4 px too far down and 4 px too far right"),
        ((3.0, 0.0), "3 px too far up"),
        ((0.0, 0.25), "0.25 px too far left"),
        (
            (1.0, -2.0, 1.0),
            "1 px too far to the front and 2 px too far down and 1 px too far left",
        ),
    ],
)
def test_a_displacement_is_the_opposite_of_its_shift(shift, words):
    assert describe_displacement(shifted(*shift)) == f"the observed content sits {words}"


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((-1.0,), "0 samples at the start and 1 at the end"),
        ((0.0, 1.0), "1 column at the left and 0 at the right"),
        ((3.0, 0.0), "3 rows at the top and 0 at the bottom"),
        (
            (-4.0, 2.0),
            "0 rows at the top and 4 at the bottom, 2 columns at the left and 0 at the right",
        ),
        ((0.0, 0.0, -1.0), "0 columns at the left and 1 at the right"),
        ((0.0, 0.0), ""),
    ],
)
def test_margins_are_named_by_their_edges(shift, words):
    assert describe_margins(shifted(*shift)) == words


def test_a_scale_is_a_stretch_or_a_squeeze_about_a_place():
    line = Correction((1000,), scale=(1.0005,), origin=(12.0,))
    assert describe_scale(line) == [
        (
            "scale 1.0005 about sample 12: the observed content is stretched by 0.5 samples over "
            "1000 samples"
        )
    ]
    picture = Correction((8, 64), scale=(1.0, 0.75), origin=(0.0, 31.5))
    assert describe_scale(picture) == [
        "scale 0.75 about column 31.5: the observed content is squeezed by 16 px over 64 columns"
    ]
    volume = Correction((8, 8, 64), scale=(1.0, 1.0, 1.25), origin=(0.0, 0.0, 1.0))
    assert describe_scale(volume) == [
        "scale 1.25 about column 1: the observed content is stretched by 16 px over 64 columns"
    ]
    assert describe_scale(shifted(1.0, 2.0)) == []


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("pass --append (append=True) or --force (force=True)", "pass --append or --force"),
        ("with --margins CALIBRATION (margins=)", "with --margins CALIBRATION"),
        ("try --max-shift (max_shift=)) or (x=1)", "try --max-shift) or (x=1)"),
    ],
)
def test_what_a_flag_is_called_in_python_is_left_out_on_the_command_line(message, told):
    assert in_flags(message) == told


def test_axes_are_called_by_what_they_are_taken_for():
    assert describe_axes((1, 3, 64, 1), Layout()) == "1 batch, 3 channels, 64 rows, 1 column"
    assert describe_axes((8, 9, 3), Layout(None, 2)) == "8 rows, 9 columns, 3 channels"
    assert describe_axes((1, 2, 8), Layout()) == "1 batch, 2 channels, 8 samples"
    assert describe_axes((), Layout(None, None)) == "a single value"


def test_a_crop_is_named_by_its_edges():
    crop = describe_crop(Correction((8, 8), crop=((0, 0), (1, 3))))
    assert crop == "1 column at the left and 3 at the right"


def affine(gain, bias):
    return Correction(spatial_shape=(8,), gain=gain, bias=bias)


def test_changed_channels_are_named():
    assert describe_channels(affine((1.0, 0.869565, 1.0), (0.0, -0.0434783, 0.0))) == [
        "channel 1: gain 0.86957, bias -0.043478"
    ]
    assert describe_channels(affine((2.0, 1.0), (0.0, 0.0))) == ["channel 0: gain 2"]
    assert describe_channels(affine((1.0, 1.0), (0.5, -0.5))) == [
        "channel 0: bias 0.5", "channel 1: bias -0.5",
    ]  # fmt: skip
    assert describe_channels(affine((1.5,), (0.25,))) == ["gain 1.5, bias 0.25"]
    assert describe_channels(affine((1.0,) * 3, (0.0,) * 3)) == []


def test_many_changed_channels_are_summed_up():
    gain = [1.0 + number / 8 for number in range(10)]
    assert describe_channels(affine(gain, (0.5,) * 10)) == [
        "gain 1 to 2.125 over 10 channels", "bias 0.5",
    ]  # fmt: skip


def test_numbers_are_short():
    assert [number(value) for value in (1.23456, "inf", "-inf", float("inf"))] == [
        "1.235", "∞", "-∞", "∞",
    ]  # fmt: skip


@given(st.text(max_size=200))
def test_a_printable_name_is_one_short_line_that_moves_no_cursor(name):
    text = printable(name)
    assert len(text) <= LONGEST_NAME
    assert text.splitlines() in ([], [text])
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in text)


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P", "Zs")), max_size=40)
)
def test_ordinary_names_stay_as_they_are(name):
    assert printable(name) == plain(name) == name


def test_plain_text_keeps_its_lines_and_loses_its_escapes():
    assert plain("a\n\tb\x1b[0m\r\u202e\ud800") == "a\n\tb\\x1b[0m\\r\\u202e\\ud800"
