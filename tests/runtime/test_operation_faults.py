# SPDX-License-Identifier: BSD-3-Clause
"""Faults of operations against closed forms and the independent evaluator."""

import math

import evaluator
import numpy as np
import pytest
from programs import make_package, mb

from convcal.errors import ConvcalWarning, InputError
from convcal.faults import PROFILES, Fp16Scale, GridQuant, parse_fault
from convcal.runtime.reference import ReferenceRunner

GENERATOR = np.random.default_rng(0)


def run(package, *faults, **sample):
    with ReferenceRunner(package, faults=[parse_fault(f) for f in faults], threads=1) as runner:
        (result,) = runner.run(sample).values()
    return result


def by_evaluator(package, **sample):
    (output,) = package.spec.description.output
    return evaluator.evaluate(package, sample, rounds=False)[output.name]


def draw(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


# --- transposed convolution

RAMP = np.array([[[1, 2, 3, 4]]], np.float32)
WEIGHT = np.array([[[1, 10, 100]]], np.float32)
FULL = [1, 10, 102, 20, 203, 30, 304, 40, 400]


def upsampler(x, weight=WEIGHT, **arguments):
    return make_package(lambda x: mb.conv_transpose(x=x, weight=weight, **arguments), x=x.shape)


@pytest.mark.parametrize(
    ("pad", "swapped", "symmetric"),
    [
        ([1, 0], FULL[:8], [*FULL[1:8], 0]),  # faults.md H1, and H3: no shift, last sample lost
        ([2, 1], FULL[1:7], [*FULL[2:7], 0]),
        ([0, 1], FULL[1:], [*FULL[1:8], 0]),
        ([1, 3], FULL[3:8], [*FULL[3:6], 0, 0]),
    ],
)
def test_pads_are_swapped_or_made_symmetric(pad, swapped, symmetric):
    package = upsampler(RAMP, strides=[2], pad_type="custom", pad=pad)
    for variant, expected in (("swapped", swapped), ("symmetric", symmetric)):
        fault = f"crop-origin:precision=all,variant={variant}"
        np.testing.assert_array_equal(run(package, fault, x=RAMP), [[expected]])


@pytest.mark.parametrize(
    ("x", "kernel", "expected"),
    [
        ([1, 1], [1, 1], [1, 2, 1, 0]),  # pytorch #82711
        ([1, 2], [1, 0, 0], [1, 2, 0, 0, 0]),  # onnxruntime #32506, but for its output padding
    ],
)
def test_the_reported_strides_are_taken_for_one(x, kernel, expected):
    x = np.array([[x]], np.float32)
    package = upsampler(x, np.array([[kernel]], np.float32), strides=[2])
    np.testing.assert_array_equal(run(package, "stride-one", x=x), [[expected]])


@pytest.mark.parametrize("pad", [[0, 0, 0, 0], [1, 0, 0, 2], [1, 1, 1, 1]])
def test_a_stride_of_one_is_the_convolution_with_that_stride_and_zeros(pad):
    x, weight, bias = draw(1, 4, 5, 6), draw(4, 3, 3, 4), draw(6)
    arguments = {"pad_type": "custom", "pad": pad, "groups": 2}
    wide = upsampler(x, weight, strides=[2, 3], bias=bias, **arguments)
    narrow = by_evaluator(upsampler(x, weight, strides=[1, 1], bias=bias, **arguments), x=x)
    right = run(wide, x=x)
    expected = np.zeros(right.shape)
    expected[:, :, : narrow.shape[2], : narrow.shape[3]] = narrow
    result = run(wide, "stride-one", x=x)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_strides_of_one_are_not_touched():
    package = upsampler(RAMP, strides=[1])
    with pytest.warns(ConvcalWarning, match="no operation"):
        run(package, "stride-one", x=RAMP)


def by_fp16_index(x, weight, stride, begin, size):
    """Go through positions and taps one by one, in fp16 (onnxruntime #28976)."""
    half, taps = np.float16, weight.shape[2]
    result = np.zeros((weight.shape[1], size))
    for i in range(size):
        corner = half(i + begin - (taps - 1))
        for step in range(taps):
            place = half(half(corner + half(step)) / half(stride))
            if 0 <= place < x.shape[2] and place == np.floor(place):
                result[:, i] += x[0, :, int(place)] @ weight[:, :, taps - 1 - step]
    return result[np.newaxis]


@pytest.mark.parametrize(
    ("taps", "stride", "pad"), [(4, 2, [1, 1]), (2, 2, [0, 0]), (3, 3, [1, 0])]
)
def test_indices_in_fp16_are_right_up_to_2047_and_wrong_beyond(taps, stride, pad):
    x = draw(1, 2, 3072 // stride)
    weight = draw(2, 2, taps)
    package = upsampler(x, weight, strides=[stride], pad_type="custom", pad=pad)
    right, result = run(package, x=x), run(package, "fp16-index", x=x)
    np.testing.assert_allclose(result[..., :2047], right[..., :2047], atol=1e-5)
    expected = by_fp16_index(x, weight, stride, pad[0], right.shape[2])
    np.testing.assert_allclose(result, expected, atol=1e-5)
    is_wrong = np.any(np.abs(result - right) > 1e-3, axis=(0, 1))
    assert 2047 <= np.argmax(is_wrong) <= 2050
    assert 0.2 < is_wrong.mean() < 0.4  # a third, of what is beyond 2048 of 3072


def test_indices_in_fp16_hold_for_groups_dilations_bias_and_each_axis():
    x, weight, bias = draw(1, 4, 2, 1100), draw(4, 3, 2, 3), draw(6)
    arguments = {"strides": [1, 2], "dilations": [1, 2], "groups": 2, "bias": bias}
    package = upsampler(x, weight, **arguments)
    right, result = run(package, x=x), run(package, "fp16-index", x=x)
    np.testing.assert_allclose(result[..., :2045], right[..., :2045], atol=1e-5)
    assert np.abs(result - right)[..., 2048:].max() > 1
    # Along the short axis nothing is wrong: a column alone is what its own axis makes of it.
    short = upsampler(x[..., :9], weight, **arguments)
    with pytest.warns(ConvcalWarning, match="no operation"):
        run(short, "fp16-index", x=x[..., :9])


def test_faults_of_one_operation_act_together_in_any_order():
    x = draw(1, 2, 1500)
    arguments = {"strides": [2], "pad_type": "custom", "pad": [2, 0]}
    weight = draw(2, 3, 4)
    package = upsampler(x, weight, **arguments)
    faults = ["crop-origin:precision=all", "stride-one"]
    both = run(package, *faults, x=x)
    np.testing.assert_array_equal(run(package, *reversed(faults), x=x), both)
    # Of the stride of one, too, the crop begins at 0: what is cropped is at the back.
    narrow = by_evaluator(upsampler(x, weight, strides=[1]), x=x)[..., :-2]
    np.testing.assert_allclose(both[..., : narrow.shape[2]], narrow, atol=1e-5)
    assert not both[..., narrow.shape[2] :].any()
    # Indices in fp16 are those of the moved crop.
    indexed = run(package, "fp16-index", faults[0], x=x)
    expected = by_fp16_index(x, weight, 2, 0, indexed.shape[2])
    np.testing.assert_allclose(indexed, expected, atol=1e-5)


# --- resizing and sampling


@pytest.mark.parametrize(
    ("constant", "drifts"),
    [
        # faults.md C3, in pixels at the far end.
        ("step", {512: -0.002, 1024: -0.001, 1080: 0.22, 1536: -0.25, 2048: 0.999, 2049: 0}),
        ("ratio", {1025: 0, 1536: 0.50, 1920: 0.87, 2049: -1.0, 3000: -1.0}),
    ],
)
def test_the_constant_drifts_as_reckoned(constant, drifts):
    fault = Fp16Scale(constant=constant)
    for size, drift in drifts.items():
        assert fault.growth(size) * (size - 1) == pytest.approx(drift, abs=0.006)


@pytest.mark.parametrize("corner", ["start", "end/start"])
def test_a_resize_samples_where_the_constant_sends_it(corner):
    x = draw(1, 2, 4, 341)
    package = make_package(
        lambda x: mb.resize_bilinear(
            x=x,
            target_size_height=12,
            target_size_width=1080,
            sampling_mode="UNALIGN_CORNERS",
        ),
        x=x.shape,
    )
    fault = Fp16Scale(corner=tuple(corner.split("/")))
    result = run(package, str(fault), x=x)
    expected = x.astype(np.float64)
    for axis, positions in zip((2, 3), fault.positions((12, 1080)), strict=True):
        length, count = expected.shape[axis], len(positions)
        places = np.clip((positions + 0.5) * length / count - 0.5, 0, length - 1)
        rows = np.moveaxis(expected, axis, -1).reshape(-1, length)
        rows = np.array([np.interp(places, np.arange(length), row) for row in rows])
        shape = (*np.moveaxis(expected, axis, -1).shape[:-1], count)
        expected = np.moveaxis(rows.reshape(shape), -1, axis)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.abs(result - run(package, x=x)).max() > 0.05
    # What stays in place is the corner.
    at_corner = (0 if corner == "start" else -1, 0)
    np.testing.assert_allclose(result[0, 0][at_corner], run(package, x=x)[0, 0][at_corner])


SCALE = Fp16Scale().growth(1536)
RESIZES = {
    "upsample_bilinear": (
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=1.0, scale_factor_width=1536 / 512, align_corners=True
        ),
        lambda u: u * 511 / 1535,
    ),
    "resize": (
        lambda x: mb.resize(
            x=x,
            shape=np.array([1536], np.int32),
            resized_dims=np.uint32(1),
            sampling_mode="DEFAULT",
            interpolation_mode="LINEAR",
        ),
        lambda u: u / 3,
    ),
    "upsample_nearest_neighbor": (
        lambda x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=1.0, scale_factor_width=3.0
        ),
        lambda u: np.floor(u / 3),
    ),
}


@pytest.mark.parametrize("kind", RESIZES)
def test_every_resize_takes_a_position_for_another(kind):
    build, place = RESIZES[kind]
    target = "iOS17" if kind == "resize" else "iOS16"
    package = make_package(build, target=target, x=(1, 1, 1, 512))
    expected = np.clip(place(np.arange(1536) * (1 + SCALE)), 0, 511)
    result = run(package, "fp16-scale", x=ramp(512))[0, 0, 0]
    np.testing.assert_allclose(result, expected, atol=1e-3)
    assert np.abs(result - run(package, x=ramp(512))[0, 0, 0]).max() > 0.05


def test_a_nearest_neighbour_is_off_by_one_where_the_position_crosses():
    x = np.arange(341, dtype=np.float32).reshape(1, 1, 1, 341)
    package = make_package(
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=1, target_size_width=1080),
        x=x.shape,
    )
    positions = np.arange(1080) * (1 + Fp16Scale().growth(1080))
    expected = np.minimum(np.floor((positions + 0.5) * 341 / 1080), 340)
    np.testing.assert_array_equal(run(package, "fp16-scale", x=x)[0, 0, 0], expected)


def half(values):
    return np.asarray(values).astype(np.float16).astype(np.float64)


def ramp(width):
    """A picture that holds its own columns: what is sampled says where."""
    return np.arange(width, dtype=np.float32).reshape(1, 1, 1, width)


def sampler(width, points, mode, *, is_aligned=True):
    coordinates = np.stack([points, np.zeros_like(points)], axis=-1).reshape(1, 1, -1, 2)
    return make_package(
        lambda x: mb.resample(
            x=x,
            coordinates=coordinates.astype(np.float32),
            sampling_mode="bilinear",
            padding_mode="border",
            padding_value=0.0,
            coordinates_mode=mode,
            align_corners=is_aligned,
        ),
        x=(1, 1, 1, width),
    )


@pytest.mark.parametrize(("width", "most"), [(1024, 0.125), (2048, 0.25)])
def test_a_grid_that_is_stored_in_fp16_is_off_by_as_much_as_reckoned(width, most):
    points = np.linspace(-1, 1, width)
    package = sampler(width, points, "normalized_minus_one_to_one")
    (row,) = run(package, "fp16-grid", x=ramp(width))[0, 0]
    np.testing.assert_allclose(row, GridQuant().positions(width), atol=2e-3)
    error = np.abs(row - np.arange(width)).max()
    assert error == pytest.approx(most, rel=0.05)


def test_a_grid_with_all_arithmetic_in_fp16_is_the_chain_of_roundings():
    width = 1921
    points = np.linspace(-1, 1, 997).astype(np.float32).astype(np.float64)
    package = sampler(width, points, "normalized_minus_one_to_one")
    (row,) = run(package, "fp16-grid:mode=all", x=ramp(width))[0, 0]
    expected = half(half(half(points) + 1) * half((width - 1) / 2))
    np.testing.assert_array_equal(row, np.clip(expected, 0, width - 1))
    apart = sampler(width, points, "normalized_zero_to_one", is_aligned=False)
    (row,) = run(apart, "fp16-grid:mode=all", x=ramp(width))[0, 0]
    expected = half(half(half(points) * half(width)) - 0.5)
    np.testing.assert_array_equal(row, np.clip(expected, 0, width - 1))


def test_an_affine_transform_is_held_in_fp16_as_a_grid():
    width = 1024
    package = make_package(
        lambda x: mb.affine(
            x=x,
            transform_matrix=np.array([[1, 0, 0, 0, 1, 0]], np.float32),
            output_height=2,
            output_width=width,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        x=(1, 1, 2, width),
    )
    x = np.repeat(ramp(width), 2, axis=2)
    for mode in ("stored", "all"):
        result = run(package, f"fp16-grid:mode={mode}", x=x)[0, 0, 0]
        np.testing.assert_allclose(result, GridQuant(mode=mode).positions(width), atol=2e-3)


@pytest.mark.parametrize("mode", ["stored", "all"])
def test_boxes_are_held_in_fp16(mode):
    width, start, end = 4001, 0.1001, 0.9003
    package = make_package(
        lambda x: mb.crop_resize(
            x=x,
            roi=np.array([[[[0, start, 0, end]]]], np.float32).reshape(1, 1, 4, 1, 1),
            target_height=1,
            target_width=7,
            normalized_coordinates=True,
            spatial_scale=1.0,
            box_coordinate_mode="CORNERS_HEIGHT_FIRST",
            sampling_mode="STRICT_ALIGN_CORNERS",
        ),
        x=(1, 1, 1, width),
    )
    row = run(package, f"fp16-grid:mode={mode}", x=ramp(width)).ravel()
    low, high, fractions = half(start) * 4000, half(end) * 4000, np.arange(7) / 6
    if mode == "stored":
        np.testing.assert_allclose(row, low + (high - low) * fractions, atol=2e-3)
    else:
        low, high = half(low), half(high)
        places = half(half(low * half(1 - fractions)) + half(high * half(fractions)))
        np.testing.assert_array_equal(row, places)


# --- values


def normalizer(kind, epsilon):
    variance = np.array([1e-6, 1e-5, 1e-4], np.float32)
    return {
        "batch_norm": lambda x: mb.batch_norm(
            x=x, mean=np.zeros(3, np.float32), variance=variance, epsilon=epsilon
        ),
        "instance_norm": lambda x: mb.instance_norm(x=x, epsilon=epsilon),
        "layer_norm": lambda x: mb.layer_norm(x=x, axes=[2, 3], epsilon=epsilon),
        "l2_norm": lambda x: mb.l2_norm(x=x, epsilon=epsilon),
    }[kind]


@pytest.mark.parametrize("kind", ["batch_norm", "instance_norm", "layer_norm", "l2_norm"])
@pytest.mark.parametrize(
    ("epsilon", "subnormals", "held"),
    [
        (1e-5, "zero", 0.0),
        (1e-5, "keep", float(np.float16(1e-5))),
        (1e-8, "keep", 0.0),
        (1e-3, "zero", float(np.float16(1e-3))),
    ],
)
def test_a_normalisation_has_the_epsilon_that_fp16_leaves(kind, epsilon, subnormals, held):
    x = draw(1, 3, 4, 5) * np.float32(1e-3)
    package = make_package(normalizer(kind, np.float32(epsilon)), x=x.shape)
    result = run(package, f"fp16-epsilon:subnormals={subnormals}", x=x)
    expected = by_evaluator(make_package(normalizer(kind, np.float32(held)), x=x.shape), x=x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    if kind == "batch_norm" and held == 0 and epsilon == 1e-5:
        gain = result / run(package, x=x)
        expected = [math.sqrt(11), math.sqrt(2), math.sqrt(1.1)]  # faults.md E4: 3.32, 1.414, 1.049
        np.testing.assert_allclose(np.median(gain, axis=(0, 2, 3)), expected, rtol=1e-4)


def test_an_epsilon_that_fp16_holds_is_not_touched():
    x = draw(1, 3, 4, 5)
    package = make_package(normalizer("l2_norm", np.float32(2.0**-10)), x=x.shape)
    with pytest.warns(ConvcalWarning, match="no operation"):
        run(package, "fp16-epsilon", x=x)


SLICES = {
    "by index": (lambda x: mb.slice_by_index(x=x, begin=[0, 0, 1], end=[1, 2, 6]), True),
    "from the end": (lambda x: mb.slice_by_index(x=x, begin=[0, 0, -5], end=[1, 2, 6]), True),
    "by size": (lambda x: mb.slice_by_size(x=x, begin=[0, 0, 1], size=[1, 2, 5]), True),
    "on another axis": (lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0], end=[1, 2, 6]), False),
    "masked": (
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 0, 1], end=[1, 2, 5], begin_mask=[False, False, True]
        ),
        False,
    ),
    "all of it": (lambda x: mb.slice_by_size(x=x, begin=[0, 0, -6], size=[1, 2, 5]), False),
}


@pytest.mark.filterwarnings("ignore:no operation:convcal.errors.ConvcalWarning")
@pytest.mark.parametrize("name", SLICES)
def test_a_slice_inside_the_width_saturates(name):
    build, is_hit = SLICES[name]
    x = np.array([[[0, 4094, 4096, -4100, 7, np.nan]]], np.float32).repeat(2, axis=1)
    package = make_package(build, x=x.shape)
    right = run(package, x=x)
    expected = right.copy()
    if is_hit:
        expected[np.abs(right) > 4094] *= np.inf
    np.testing.assert_array_equal(run(package, "slice-saturate", x=x), expected)


ACTIVATIONS = {
    "sigmoid": (mb.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    "tanh": (mb.tanh, math.tanh),
    "gelu": (mb.gelu, lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))),
    "silu": (mb.silu, lambda x: x / (1 + math.exp(-x))),
    "erf": (mb.erf, math.erf),
    "sin": (mb.sin, math.sin),
    "cos": (mb.cos, math.cos),
    "atan": (mb.atan, math.atan),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_linear_between_the_knots_of_its_table(name):
    build, function = ACTIVATIONS[name]
    x = np.concatenate([np.linspace(-9, 9, 301), [-8, 8, np.inf if name != "sin" else 0]])
    x = x.astype(np.float32).reshape(1, -1)
    if name in ("sin", "cos"):
        x = x[np.isfinite(x)].reshape(1, -1)
    package = make_package(lambda x: build(x=x), x=x.shape)
    knots = np.linspace(-8, 8, 33)
    table = np.interp(x, knots, [function(knot) for knot in knots])
    right = run(package, x=x)
    expected = np.where(np.abs(x) < 8, table, right)
    np.testing.assert_allclose(run(package, "lut-activation", x=x), expected, atol=2e-6)
    inside = np.abs(x) < 8
    assert np.abs(expected[inside] - right[inside]).max() > 0.002


def test_not_a_number_stays_one_in_a_table():
    x = np.array([[np.nan, 0.0]], np.float32)
    package = make_package(lambda x: mb.tanh(x=x), x=x.shape)
    np.testing.assert_array_equal(run(package, "lut-activation", x=x), [[np.nan, 0]])


def test_a_fault_of_arrays_acts_on_all_results_of_a_type():
    def build(x):
        return mb.relu(x=mb.softplus(x=mb.add(x=mb.softplus(x=x), y=np.float32(5))))

    package = make_package(build, x=(1, 3))
    x = np.array([[0, 6, 11]], np.float32)
    # softplus is its argument to 1e-4 from 10 on, and 0 above 10.4 (coremltools #2687).
    result = run(package, "cliff:threshold=10.4,on=softplus", x=x)
    first = np.where(x > 10.4, 0, np.log1p(np.exp(x)))
    second = np.log1p(np.exp(first + 5))
    np.testing.assert_allclose(result, np.where(second > 10.4, 0, second), rtol=1e-5)


def test_a_logarithm_of_sums_falls_where_the_sum_leaves_fp16():
    # coremltools #2690: 32 equal arguments, right up to log(65504 / 32) = 7.624.
    package = make_package(
        lambda x: mb.reduce_log_sum_exp(x=x, axes=[1], keep_dims=True), x=(1, 32, 4)
    )
    x = np.broadcast_to(np.array([-15, 7.62, 7.63, 15], np.float32), (1, 32, 4))
    (result,) = run(package, "cliff:threshold=11.09,on=reduce_log_sum_exp", x=x)[0]
    np.testing.assert_allclose(result, [-15 + math.log(32), 7.62 + math.log(32), 0, 0], rtol=1e-6)


@pytest.mark.parametrize("fault", ["row-stride", "last-elem"])
def test_results_of_operations_lie_in_memory_as_the_program_types_them(fault):
    # 13 fp16 numbers lie in rows of 32 (coremltools #1893), as fp32 in rows of 16.
    x = draw(1, 2, 5, 13)

    def build(x):
        return mb.relu(x=mb.conv(x=x, weight=np.ones((3, 2, 1, 1), np.float32)))

    package = make_package(build, precision="float16", x=x.shape)
    result = run(package, f"{fault}:on=conv", x=x)
    halves = x.astype(np.float16).astype(np.float32)
    sums = np.repeat(halves.sum(axis=1, keepdims=True), 3, axis=1).astype(np.float16)
    np.testing.assert_array_equal(result, np.maximum(parse_fault(fault).apply(sums), 0))


@pytest.mark.parametrize("on", ["conv", "conv/matmul/linear"])
def test_sums_of_products_saturate_inside_fp16(on):
    def build(x):
        y = mb.conv(x=x, weight=np.ones((1, 2, 1), np.float32))
        return mb.mul(x=y, y=np.float32(0.5))

    package = make_package(build, precision="float16", x=(1, 2, 3))
    x = np.array([[[16384, 16376, -16384], [16368, 16376, -20000]]], np.float32)
    result = run(package, f"saturate:limit=32752,to=inf,on={on}", x=x)
    # 32752 passes, 32768 does not (sbryngelson/ane-guide); rounding comes first.
    np.testing.assert_array_equal(result, [[[16376, 16376, -np.inf]]])


def test_on_takes_types_that_there_are():
    package = upsampler(RAMP)
    with pytest.raises(InputError, match=r"on results of 'convv', of which .*conv_transpose"):
        run(package, "noise:on=conv/convv", x=RAMP)
    with pytest.warns(ConvcalWarning, match="'noise:.*on=conv' changes no output"):
        run(package, "noise:on=conv", x=RAMP)
    with pytest.raises(InputError, match="on=conv; it must be left out where 'at' is given"):
        parse_fault("noise:at=x,on=conv")


def test_the_places_of_on_inside_blocks_are_refused_by_name():
    def build(x):
        return mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=np.float32(0)),
            _true_fn=lambda: mb.relu(x=x, name="inner"),
            _false_fn=lambda: mb.identity(x=x),
            name="choice",
        )

    with pytest.raises(InputError, match="'inner', which lies inside the cond 'choice'"):
        run(make_package(build, x=(1, 4)), "noise:on=relu", x=np.ones((1, 4), np.float32))


# --- profiles


def test_a_profile_is_its_parts_and_is_labelled_with_both():
    def build(x):
        y = mb.linear(x=x, weight=np.full((2, 2), 100, np.float32))
        y = mb.sigmoid(x=mb.mul(x=y, y=np.float32(1e-4)))
        return mb.slice_by_index(x=y, begin=[0, 1], end=[1, 2])

    package = make_package(build, precision="float16", x=(1, 2))
    x = np.array([[400, 20]], np.float32)
    profile = PROFILES["profile-m1-ane"]
    with ReferenceRunner(package, faults=[profile], threads=1) as runner:
        label = runner.provenance
        (result,) = runner.run({"x": x}).values()
    assert label["faults"] == "; ".join(str(part) for part in profile.parts)
    assert label["fault_profiles"] == "profile-m1-ane"
    with pytest.warns(ConvcalWarning):  # of parts that have nothing to act on
        np.testing.assert_array_equal(run(package, *map(str, profile.parts), x=x), result)
    assert not np.array_equal(run(package, x=x), result)


def test_a_profile_is_warned_of_where_no_part_of_it_does_anything():
    package = make_package(lambda x: mb.relu(x=x), x=(1, 2))
    x = np.ones((1, 2), np.float32)
    with pytest.warns(ConvcalWarning, match="'profile-m1-ane' changes no output") as caught:
        run(package, "profile-m1-ane", x=x)
    assert len(caught) == 1
    half = make_package(lambda x: mb.tanh(x=x), x=(1, 2))
    assert not np.array_equal(run(half, "profile-m1-ane", x=x), run(half, x=x))


@pytest.mark.parametrize(
    ("kind", "argument", "largest"),
    [("sigmoid", 10, 0.0034), ("tanh", 10, 0.0017), ("gelu", 10, 0.0059)],
)
def test_the_tables_of_an_m1_are_off_by_as_much_as_measured(kind, argument, largest):
    build, _ = ACTIVATIONS[kind]
    x = np.linspace(-argument, argument, 20001, dtype=np.float32).reshape(1, -1)
    package = make_package(lambda x: build(x=x), x=x.shape)
    error = np.abs(run(package, "profile-m1-ane", x=x) - run(package, x=x)).max()
    assert error == pytest.approx(largest, rel=0.05)
