# SPDX-License-Identifier: BSD-3-Clause
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import corrections, observed_shape, small

from convcal import AxisFilter, Correction, SincFilter
from convcal.arithmetic import sinc_taps
from convcal.errors import ConvcalWarning, InputError


@given(corrections())
@settings(deadline=None)
def test_a_correction_survives_its_record(correction):
    text = json.dumps(correction.to_dict(), allow_nan=False)
    again = Correction.from_dict(json.loads(text))
    assert again == correction
    assert json.dumps(again.to_dict()) == text


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


@given(corrections(small, max_size=12), st.data())
@settings(deadline=None)
def test_inside_the_margins_no_value_depends_on_the_border(correction, data):
    shape = list(observed_shape(correction))
    others = (correction.batch_axis, correction.channel_axis)
    spatial = [axis for axis in range(len(shape)) if axis not in others]
    if correction.row_stride is None:  # rows keep their length
        for axis, crop in zip(spatial, correction.crop, strict=True):
            shape[axis] = sum(crop) + data.draw(st.integers(1, 30))
    # What is not too long is refused.
    assume(not correction.has_crop or [shape[a] for a in spatial] != [*correction.spatial_shape])
    corrected = correction.apply(np.zeros(shape, correction.dtype))
    region = correction.valid_region(corrected.shape)
    for part, size in zip(region, corrected.shape, strict=True):
        assert 0 <= part.start <= part.stop <= size
    n_found = [corrected.shape[axis] for axis in spatial]
    if correction.row_stride is not None:
        length = shape[-1]
        n_found[-2] = sum(
            r * correction.row_stride + length <= shape[-2] * length for r in range(shape[-2])
        )
    for axis, used, step, found in zip(
        spatial, correction.filters, correction.resampling, n_found, strict=True
    ):
        positions = np.arange(corrected.shape[axis])
        if step is None:
            first, n_taps = positions + used.offset, len(used.taps)
        else:
            first, n_taps = sinc_taps(len(positions), step)[0], used.n_taps
        inside = (first >= 0) & (first + n_taps <= found)
        assert inside[region[axis]].all()
        assert inside.sum() == region[axis].stop - region[axis].start


@given(corrections(small, max_size=8))
@settings(deadline=None)
def test_the_margins_are_those_of_the_shape_it_was_fitted_on(correction):
    shape = list(observed_shape(correction))
    others = (correction.batch_axis, correction.channel_axis)
    spatial = [axis for axis in range(len(shape)) if axis not in others]
    for axis, size in zip(spatial, correction.spatial_shape, strict=True):
        shape[axis] = size
    region = correction.valid_region(tuple(shape))
    for axis, size, (start, end) in zip(
        spatial, correction.spatial_shape, correction.margins, strict=True
    ):
        assert region[axis].start == min(start, size)
        assert region[axis].stop == max(size - end, region[axis].start)


def test_the_scale_1_is_no_scale():
    plain = Correction(spatial_shape=(8, 8), shift=(1.0, -2.0))
    scaled = Correction(
        spatial_shape=(8, 8), shift=(1.0, -2.0), scale=(1.0, 1.0), origin=(0.0, 0.0)
    )
    assert scaled == plain
    assert scaled.as_arguments() == plain.as_arguments()
    assert scaled.to_dict() == plain.to_dict()


@pytest.mark.parametrize(("scale", "origin"), [(2.0, 0.0), (1.5, 2.0), (0.5, 6.0)])
def test_a_scale_takes_positions_from_where_the_formula_says(scale, origin):
    observed = np.random.default_rng(0).normal(size=(1, 1, 16))
    correction = Correction(
        spatial_shape=(16,), shift=(1.0,), scale=(scale,), origin=(origin,), dtype="float64"
    )
    corrected = correction.apply(observed)[0, 0]
    for i in range(16):
        source = origin + scale * (i - origin) - 1
        if source == int(source):
            assert corrected[i] == observed[0, 0, min(max(int(source), 0), 15)]


def test_small_axes_get_fewer_taps():
    taps = [SincFilter.for_size(size).n_taps for size in (1, 8, 16, 24, 48, 1000)]
    assert taps == [2, 2, 4, 6, 12, 12]


@given(corrections(small, max_size=8, crops=True))
@settings(deadline=None)
def test_cropping_first_or_as_a_part_of_it_is_the_same(correction):
    assert correction.has_crop
    observed = np.random.default_rng(0).normal(size=observed_shape(correction))
    window = [slice(None)] * observed.ndim
    others = (correction.batch_axis, correction.channel_axis)
    spatial = [axis for axis in range(observed.ndim) if axis not in others]
    for axis, (start, end) in zip(spatial, correction.crop, strict=True):
        window[axis] = slice(start, observed.shape[axis] - end)
    record = {key: value for key, value in correction.to_dict().items() if key != "crop"}
    rest = Correction.from_dict(record)
    np.testing.assert_array_equal(correction.apply(observed), rest.apply(observed[tuple(window)]))


def test_an_over_long_output_is_cut_to_its_length():
    observed = np.arange(24, dtype=np.float32).reshape(1, 2, 12)
    correction = Correction((9,), gain=(1.0, 1.0), bias=(0.0, 0.0), crop=((0, 3),))
    assert not correction.is_identity
    np.testing.assert_array_equal(correction.apply(observed), observed[..., :9])
    assert correction.margins == ((0, 0),)
    out = np.empty((1, 2, 9), np.float32)
    assert correction.apply(observed, out=out) is out
    with pytest.raises(InputError, match=r"out has shape \(1, 2, 12\)"):
        correction.apply(observed, out=np.empty_like(observed))


def test_rows_apart_come_back_and_the_lost_ones_are_margin():
    # 13 half-precision values in rows of 32, as coremltools issue 1893 has them.
    picture = np.random.default_rng(0).normal(size=(10, 13)).astype(np.float16)
    buffer = np.zeros((10, 32), np.float16)
    buffer[:, :13] = picture
    observed = buffer.ravel()[:130].reshape(10, 13)
    correction = Correction(
        (10, 13), dtype="float16", batch_axis=None, channel_axis=None, row_stride=32
    )
    corrected = correction.apply(observed)
    region = correction.valid_region(corrected.shape)
    assert region == (slice(0, 4), slice(0, 13))
    np.testing.assert_array_equal(corrected[region], picture[:4])
    np.testing.assert_array_equal(corrected[4:], np.broadcast_to(picture[3], (6, 13)))


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
        ({"spatial_shape": (2**31,)}, "positive sizes"),
        ({"spatial_shape": (9,), "scale": (2.1,)}, "'scale' is 2.1 on spatial axis 0; 0.5 to 2"),
        ({"spatial_shape": (9,), "scale": (float("nan"),)}, "'scale' is nan"),
        ({"spatial_shape": (9,), "scale": (-1.0,)}, "'scale' is -1.0"),
        ({"spatial_shape": (9,), "scale": (1.5, 1.5)}, "1 spatial axes, 2 scales"),
        ({"spatial_shape": (9,), "origin": (3.0,)}, "'origin' is 3.0 .* where nothing is scaled"),
        ({"spatial_shape": (9,), "scale": (1.5,), "origin": (float("inf"),)}, "the origin inf"),
        ({"spatial_shape": (9,), "scale": (1.5,), "shift": (1e9,)}, "the shift 1000000000.0"),
        ({"spatial_shape": (9,), "scale": (1.5,), "filters": (AxisFilter(),)}, "a SincFilter"),
        ({"spatial_shape": (9,), "filters": (SincFilter(),)}, "give it an AxisFilter"),
        ({"spatial_shape": (9,), "crop": ((-1, 0),)}, r"the crop .* \(-1, 0\)"),
        ({"spatial_shape": (9,), "crop": ((0, 2**25),)}, "the crop"),
        ({"spatial_shape": (9,), "crop": ((0, 1),) * 2}, "2 crops"),
        ({"spatial_shape": (8, 9), "row_stride": 9}, "rows have 9 values; more than that"),
        ({"spatial_shape": (8, 9), "row_stride": 11, "crop": ((0, 0), (0, 2))}, "have 11 values"),
        ({"spatial_shape": (9,), "row_stride": 16}, "last two axes are spatial"),
        ({"spatial_shape": (8, 9), "row_stride": 16, "channel_axis": 3}, "last two axes are"),
        ({"spatial_shape": (8, 9), "row_stride": 16, "batch_axis": 2}, "batch axis, if any, in"),
        (
            {"spatial_shape": (8, 9), "row_stride": 16, "gain": (1.0,) * 3, "bias": (0.0,) * 3},
            "3 channels and 1 planes means that whole channels or planes were never read",
        ),
        ({"spatial_shape": (2, 8, 9), "row_stride": 16}, "1 channels and 2 planes"),
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
        ({"scale": [2.0]}, "the scale 2.0 and the taps of an axis without"),
        ({"scale": [2.5]}, "'scale' is 2.5"),
        ({"scale": [10**400]}, "beyond float64"),
        ({"scale": "1"}, "'scale' must be a list of numbers"),
        ({"origin": ["x"]}, "'origin' must be a list of numbers"),
        ({"origin": [1.0]}, "'origin' is 1.0"),
        ({"crop": [[1, 2.5]]}, "'crop' must be a list of pairs of whole numbers"),
        ({"crop": [[1, 2, 3]]}, "'crop' must be a list of pairs"),
        ({"crop": {"0": 1}}, "'crop' must be a list of pairs"),
        ({"crop": [[-1, 0]]}, "the crop of spatial axis 0"),
        ({"row_stride": 16.5}, "'row_stride' must be a whole number"),
        ({"row_stride": None}, "'row_stride' must be a whole number"),
        ({"row_stride": 16}, "last two axes are spatial"),
        ({"interpolation": {"axes": [{"kernel": "lanczos"}]}}, "'kernel' is 'lanczos'"),
        ({"interpolation": {"axes": [{"kernel": "kaiser-sinc"}]}}, "'n_taps' is missing"),
        (
            {"interpolation": {"axes": [{"kernel": "kaiser-sinc", "n_taps": 3, "beta": 6.0}]}},
            "3 taps; even numbers from 2 to 64",
        ),
        (
            {"interpolation": {"axes": [{"kernel": "kaiser-sinc", "n_taps": 4, "beta": 1e3}]}},
            "the beta of a sinc is 1000.0",
        ),
        (
            {"interpolation": {"axes": [{"kernel": "kaiser-sinc", "n_taps": 4, "beta": "6"}]}},
            "'beta' must be a number",
        ),
        (
            {"interpolation": {"axes": [{"kernel": "kaiser-sinc", "n_taps": 4, "beta": 6}]}},
            "the scale 1 and a sinc",
        ),
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


def test_an_overflow_of_an_fp16_output_is_named():
    correction = Correction((4,), dtype="float16", gain=(2.0,))
    fits = np.array([[[1, 2, 3, 3e4]]], np.float16)
    large = np.array([[[1, 2, 4e4, -5e4]]], np.float16)
    correction.apply(fits)
    with pytest.warns(ConvcalWarning, match="2 corrected values are beyond 65504"):
        correction.apply(large)
    with pytest.warns(ConvcalWarning, match="65504"):
        correction.apply(large, out=large)
    assert np.isinf(large).sum() == 2
    correction.apply(large)  # nothing becomes infinite that is not
    correction.apply(np.array([[[7e4, 0, 0, 0]]], np.float32))
