# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import corrections

from convcal import AxisFilter, Correction
from convcal.errors import InputError


@given(corrections())
@settings(deadline=None)
def test_a_correction_survives_its_record(correction):
    assert Correction.from_dict(correction.to_dict()) == correction


def test_the_shift_has_the_sign_of_registration():
    observed = np.array([[[0, 0, 0, 5, 6, 7]]], np.float32)
    corrected = Correction(spatial_shape=(6,), shift=(-2.0,)).apply(observed)
    np.testing.assert_array_equal(corrected, [[[0, 5, 6, 7, 7, 7]]])


def test_margins_are_the_positions_without_a_source():
    correction = Correction(
        spatial_shape=(10, 10, 10),
        shift=(-4.0, 3.0, 0.5),
        filters=(AxisFilter(4), AxisFilter(-3), AxisFilter(-2, (0.1, 0.4, 0.4, 0.1))),
    )
    assert correction.margins == ((0, 4), (3, 0), (2, 1))
    region = correction.valid_region((1, 1, 10, 10, 10))
    assert region == (slice(0, 1), slice(0, 1), slice(0, 6), slice(3, 10), slice(2, 9))


@given(corrections())
@settings(deadline=None)
def test_inside_the_margins_no_value_depends_on_the_border(correction):
    n_axes = len(correction.spatial_shape) + sum(
        axis is not None for axis in (correction.batch_axis, correction.channel_axis)
    )
    shape = [9] * n_axes
    if correction.channel_axis is not None:
        shape[correction.channel_axis] = correction.n_channels
    region = correction.valid_region(tuple(shape))
    for part, size in zip(region, shape, strict=True):
        assert 0 <= part.start <= part.stop <= size
    spatial = iter(zip(correction.filters, strict=True))
    for axis, part in enumerate(region):
        if axis in (correction.batch_axis, correction.channel_axis):
            continue
        (axis_filter,) = next(spatial)
        if part.start < part.stop:
            assert part.start + axis_filter.offset >= 0
            assert part.stop - 1 + axis_filter.offset + len(axis_filter.taps) - 1 < shape[axis]


@pytest.mark.parametrize(("batch_axis", "channel_axis"), [(0, 1), (1, 0), (3, 2), (2, None)])
def test_the_valid_region_is_the_same_without_the_batch_axis(batch_axis, channel_axis):
    correction = Correction(
        spatial_shape=(8, 8), shift=(-4.0, 1.0), batch_axis=batch_axis, channel_axis=channel_axis
    )
    shape = [8] * (3 if channel_axis is None else 4)
    whole = correction.valid_region(tuple(shape))
    rows, columns = (part for part in whole if part != slice(0, 8))
    assert (rows, columns) == (slice(0, 4), slice(1, 8))
    expected = whole[:batch_axis] + whole[batch_axis + 1 :]
    assert correction.valid_region(tuple(shape[1:])) == expected


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 1, 8, 8)])
def test_there_is_no_valid_region_of_another_rank(shape):
    with pytest.raises(InputError, match="4 axes are expected"):
        Correction(spatial_shape=(8, 8)).valid_region(shape)


def test_margins_wider_than_the_output_leave_nothing():
    correction = Correction(spatial_shape=(3,), shift=(-7.0,))
    assert correction.valid_region((1, 1, 3))[2] == slice(0, 0)


def test_the_identity_is_known():
    assert Correction(spatial_shape=(4, 4)).is_identity
    assert not Correction(spatial_shape=(4, 4), shift=(0.0, 1.0)).is_identity
    assert not Correction(spatial_shape=(), gain=(1.0, 1.5), bias=(0.0, 0.0)).is_identity
    assert not Correction(spatial_shape=(), bias=(0.1,)).is_identity


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_shape": (4,), "shift": (0.5,)}, "not whole"),
        ({"spatial_shape": (4,), "shift": (float("nan"),)}, "not whole"),
        ({"spatial_shape": (4,), "shift": (1.0, 2.0)}, "1 spatial axes, 2 shifts"),
        (
            {"spatial_shape": (4, 4), "shift": (-4.0, -4.0), "filters": (AxisFilter(),) * 2},
            "-4.0 is not what a filter of 1 taps from offset 0",
        ),
        (
            {"spatial_shape": (9,), "shift": (2.5,), "filters": (AxisFilter(-2, (0.5, 0.5)),)},
            "2.5 is not what a filter of 2 taps from offset -2",
        ),
        ({"spatial_shape": (4, 0)}, r"\(4, 0\)"),
        ({"spatial_shape": (4,) * 4}, "up to 3"),
        ({"spatial_shape": (4,), "gain": (1.0, 2.0)}, "2 gains and 1 biases"),
        ({"spatial_shape": (4,), "gain": (float("nan"),)}, "finite"),
        ({"spatial_shape": (4,), "channel_axis": 3}, "channel axis 3"),
        ({"spatial_shape": (4,), "batch_axis": 1}, "different axes"),
        ({"spatial_shape": (4,), "dtype": "object"}, "'object'"),
        (
            {"spatial_shape": (4,), "gain": (1.0,) * 2, "bias": (0.0,) * 2, "channel_axis": None},
            "no channel axis",
        ),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Correction(**arguments)


@pytest.mark.parametrize(
    ("offset", "taps", "message"),
    [
        (0, (), "0 taps"),
        (0, (1.0,) * 65, "65 taps"),
        (0, (float("inf"),), "finite"),
        (2**25, (1.0,), "offset"),
    ],
)
def test_filters_are_bounded(offset, taps, message):
    with pytest.raises(InputError, match=message):
        AxisFilter(offset, taps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": "1"}, "'gain' must be a list of numbers"),
        ({"gain": [True]}, "'gain' must be a list of numbers"),
        ({"gain": [10**400]}, "beyond float64"),
        ({"shift": [-1.0]}, "the shift -1.0 is not what a filter of 1 taps from offset 2"),
        ({"scale": [2.0]}, "'scale' is not 1"),
        ({"origin": ["x"]}, "'origin' must be a list of numbers"),
        ({"origin": [1.0]}, "'origin' is not 0"),
        ({"border": "wrap"}, "'wrap'"),
        ({"margins": [[0, 0]]}, r"\[\[0, 0\]\], but the filters give"),
        ({"interpolation": []}, "'interpolation': an object was expected, not list"),
        ({"interpolation": {"axes": [{"offset": 1.5, "taps": [1.0]}]}}, "'offset' must be a whole"),
        ({"interpolation": {"axes": [[]]}}, "not list"),
        ({"batch_axis": "0"}, "'batch_axis' must be a whole number"),
        ({"spatial_shape": [4.5]}, "'spatial_shape' must be a list of whole numbers"),
    ],
)
def test_records_are_not_trusted(change, message):
    record = Correction(spatial_shape=(9,), shift=(-2.0,)).to_dict() | change
    with pytest.raises(InputError, match=message):
        Correction.from_dict(record)


def test_a_record_without_a_key_names_the_key():
    record = Correction(spatial_shape=(9,)).to_dict()
    for key in record:
        with pytest.raises(InputError, match=f"'{key}' is missing"):
            Correction.from_dict({k: v for k, v in record.items() if k != key})
