# SPDX-License-Identifier: BSD-3-Clause
"""The texts that faults are named by."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convcal.faults
from convcal.errors import InputError
from convcal.faults import (
    FAULTS,
    PROFILES,
    ArrayFault,
    Compose,
    Fault,
    FracShift,
    IntShift,
    Profile,
    ScaleCorner,
    expanded,
    parse_fault,
)

PAGE = (Path(__file__).parents[2] / "docs" / "faults.md").read_text("utf-8")

COMMON = ("at", "on")
"""The parameters that all faults have; the page tells of them once."""

floats = st.floats(-1e6, 1e6)


def per_axis(text, values):
    return st.lists(values, min_size=1, max_size=3).map(
        lambda amounts: text.format("/".join(map(str, amounts)))
    )


SINGLE_TEXTS = st.one_of(
    st.builds("channel-affine:gain={!r},bias={!r}".format, floats, floats),
    st.builds("channel-affine:seed={}".format, st.integers(0, 2**31)),
    st.builds("cliff:threshold={!r},value={!r}".format, floats, floats),
    st.builds("saturate:limit={!r},to=inf,nan=inf".format, st.floats(1e-3, 1e300)),
    st.builds("noise:relative={!r},seed=4".format, st.floats(0, 1)),
    st.builds("lut-bias:function=gelu,reach={!r}".format, st.floats(1e-3, 1e300)),
    per_axis("int-shift:displacement={},fill=random", st.integers(-9, 9)),
    per_axis("frac-shift:displacement={}", floats),
    per_axis("scale-corner:growth={}", st.floats(-0.5, 0.5)),
    per_axis("scale-corner:corner={}", st.sampled_from(["start", "end"])),
    per_axis("channel-dead:channels={}", st.integers(0, 9)),
    st.sampled_from(sorted(name for name, each in FAULTS.items() if issubclass(each, ArrayFault))),
)
FAULT_TEXTS = st.one_of(
    st.builds(
        "crop-origin:variant={},precision={}".format,
        st.sampled_from(["zero", "half", "swapped", "symmetric"]),
        st.sampled_from(["fp16", "all"]),
    ),
    st.sampled_from(sorted(FAULTS)),
    per_axis("fp16-scale:constant=ratio,corner={}", st.sampled_from(["start", "end"])),
    per_axis("lut-activation:knots=9,functions={}", st.sampled_from(["gelu", "sin"])),
    per_axis("saturate:on={}", st.sampled_from(["conv", "matmul"])),
    st.lists(SINGLE_TEXTS, min_size=1, max_size=4).map("+".join),
    st.builds("crop-origin:at={}".format, st.sampled_from(["up", "up_1/up.2"])),
    st.builds("int-shift:at={},seed=3".format, st.from_regex(r"[\w.:=-]+(/\w+)?", fullmatch=True)),
)


@settings(max_examples=300, deadline=None)
@given(text=FAULT_TEXTS)
def test_a_fault_is_read_back_from_its_own_text(text):
    fault = parse_fault(text)
    assert parse_fault(str(fault)) == fault
    parts = fault.faults if isinstance(fault, Compose) else [fault]
    # Nothing but a plus sign before a name joins: there are as many parts as names.
    assert [part.name for part in parts] == re.findall(r"(?:^|\+)([a-z][a-z0-9-]*)", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop", "no fault 'crop'; the faults are channel-affine, channel-dead, cliff"),
        ("", "no fault ''"),
        ("noise+", "relative|no fault"),
        ("noise+nose", "no fault 'nose'"),
        ("crop-origin:variant=third", "variant=third; it must be zero, half, swapped or symm"),
        ("crop-origin:origin=1", "no parameter 'origin'; its parameters: variant, precision, at"),
        ("crop-origin+noise", "'crop-origin:.*' is not a fault of arrays"),
        ("fp16-round:bits=64", "no parameter 'bits'; its parameters: at, on"),
        ("noise:at=", "at=; it must be names separated by slashes"),
        ("noise:at=a//b", "at=a//b; it must be names"),
        ("noise:at=a;b", "at=a;b; it must be names"),
        ("noise:at=a+flush:at=b", "'flush:.*' does not act where 'noise:.*at=a' does"),
        ("noise:on=", "on=; it must be types of operations"),
        ("noise:on=a.b", "on=a.b; it must be types of operations"),
        ("noise:on=conv+flush", "'flush:.*' does not act where 'noise:.*on=conv' does"),
        ("crop-origin:on=conv", "no parameter 'on'; its parameters: variant, precision, at"),
        ("fp16-scale:constant=2", "constant=2; it must be step or ratio"),
        ("fp16-scale:corner=top", "start or end"),
        ("fp16-grid:mode=some", "stored or all"),
        ("fp16-epsilon:subnormals=flush", "zero or keep"),
        ("slice-saturate:limit=0", "greater than 0"),
        ("lut-activation:functions=relu", "functions=relu; it must be atan, cos"),
        ("lut-activation:knots=1", "from 2 to 65536"),
        ("lut-activation:reach=inf", "greater than 0"),
        ("profile-m1-ane:limit=2", "'profile-m1-ane' has no parameters; give its name alone"),
        ("profile-m9-ane", "no fault 'profile-m9-ane'; .*profile-m1-ane, profile-m2-ane"),
        ("profile-m1-ane+noise", "'profile-m1-ane' is not a fault of arrays"),
        ("channel-affine:gain", "must give 'gain' once, as gain=VALUE"),
        ("channel-affine:gain=1,gain=2", "must give 'gain' once"),
        ("channel-affine:gain=big", "gain='big'; it must be a number"),
        ("channel-affine:gain=nan", "gain=nan; it must be a finite number"),
        ("channel-affine:gain=+inf", "gain=inf; it must be a finite number"),
        ("channel-affine:seed=-1", "seed=-1; it must be at least 0"),
        ("channel-dead:channels=-1", "at least 0"),
        ("int-shift:displacement=1.5", "must be whole numbers separated by slashes"),
        ("int-shift:displacement=9223372036854775808", "below 2\\*\\*31"),
        ("int-shift:fill=soil", "fill=soil; it must be edge, zero, wrap or random"),
        ("int-shift:seed=-1", "seed=-1; it must be at least 0"),
        ("frac-shift:displacement=1/inf", "displacement=1.0/inf; it must be finite numbers"),
        ("scale-corner:growth=2", "between -0.5 and 0.5"),
        ("scale-corner:corner=start/top", "corner=start/top; it must be start or end"),
        ("scale-centre:ratio=0", "between 0.5 and 2"),
        ("grid-quant:mode=some", "stored or all"),
        ("row-stride:fill=edge", "zero or random"),
        ("overlong:tail=-1", "from 0 to 65536"),
        ("overlong:tail=9999999999", "from 0 to 65536"),
        ("stride-collapse:stride=0", "at least 1"),
        ("edge-gain:width=-1", "at least 0"),
        ("edge-gain:side=left", "both, start or end"),
        ("last-elem:error=inf", "a finite number"),
        ("saturate:limit=0", "greater than 0"),
        ("saturate:nan=zero", "keep or inf"),
        ("cliff:threshold=nan", "a finite number"),
        ("lut-bias:function=relu", "sigmoid, tanh, gelu or swish"),
        ("lut-bias:knots=1", "from 2 to 65536"),
        ("lut-bias:knots=9999999999", "from 2 to 65536"),
        ("lut-bias:reach=0", "greater than 0"),
        ("flush:threshold=-1", "at least 0"),
        ("noise:relative=-1", "at least 0"),
        ("garbage:strength=-1", "at least 0"),
        ("prefix-only:length=-1", "at least 0"),
        ("prefix-only:along=first", "flat or last"),
    ],
)
def test_a_text_that_is_no_fault_says_what_is_accepted(text, message):
    with pytest.raises(InputError, match=message):
        parse_fault(text)


def test_parameters_given_as_arrays_or_single_numbers_make_equal_faults():
    assert IntShift(displacement=2) == IntShift(displacement=np.array([2])) == IntShift((2,))
    assert str(FracShift(np.float32(0.25))) == "frac-shift:displacement=0.25"
    fault = ScaleCorner(growth=[0.125, 0], corner=["start", "end"])
    assert hash(fault) == hash(parse_fault(str(fault)))
    with pytest.raises(InputError, match=r"displacement=1.5; it must be whole numbers"):
        IntShift(displacement=1.5)
    with pytest.raises(InputError, match="displacement=; it must be given"):
        IntShift(displacement=())


def test_every_fault_is_public_under_its_name_in_capitals():
    for name, fault in FAULTS.items():
        assert fault.__name__ == "".join(word.capitalize() for word in name.split("-"))
        assert getattr(convcal.faults, fault.__name__) is fault
    public = [getattr(convcal.faults, name) for name in convcal.faults.__all__]
    faults = {each for each in public if isinstance(each, type) and issubclass(each, Fault)}
    assert faults == {*FAULTS.values(), Fault, ArrayFault, Compose, Profile}


@pytest.mark.parametrize("title", PROFILES)
def test_a_profile_is_its_name_and_its_parts_are_faults_of_the_catalogue(title):
    profile = parse_fault(title)
    assert profile is PROFILES[title]
    assert str(profile) == title
    assert expanded([IntShift(), profile]) == (IntShift(), *profile.parts)
    for part in profile.parts:
        assert type(part) in FAULTS.values()
        assert part.is_inside
        assert parse_fault(str(part)) == part


def test_the_page_lists_exactly_the_profiles_with_their_parts():
    listed = dict(re.findall(r"^\| `(profile-[a-z0-9-]+)` \| (.*?) \|", PAGE, flags=re.MULTILINE))
    assert list(listed) == list(PROFILES)
    for title, cells in listed.items():
        texts = re.findall(r"`([^`]+)`", cells)
        assert tuple(parse_fault(text) for text in texts) == PROFILES[title].parts


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_names_its_sources_and_what_undoes_it(name):
    text = FAULTS[name].__doc__
    sources = text.split("References\n    ----------\n")[1]
    assert re.search(r"#\d+|[\w-]+/[\w-]+", sources)
    assert re.search(r"undo(es|ne)?\b", text)
    # A source documents it, or it is inferred from one: faults of operations say which.
    assert issubclass(FAULTS[name], ArrayFault) or "(D" in sources


def test_the_page_lists_exactly_the_faults_with_their_parameters():
    listed = dict(re.findall(r"^\| `([a-z0-9-]+)` \|(.*?)\|", PAGE, flags=re.MULTILINE))
    assert [name for name in listed if not name.startswith("profile-")] == list(FAULTS)
    for name in FAULTS:
        parameters = listed[name]
        fields = [name for name in FAULTS[name].parameters() if name not in COMMON]
        assert re.findall(r"`(\w+)`", parameters) == fields, name


def test_what_the_page_shows_works():
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert snippets
    exec(compile("".join(snippets), "faults.md", "exec"), {})
    texts = re.findall(r"--emulate ['\"]?([^'\"\s`\\]+)", PAGE)
    assert len(texts) > 1
    for text in texts:
        parse_fault(text)
