# SPDX-License-Identifier: BSD-3-Clause
"""Matrix products, pooling, sampling and rearrangements against the independent evaluator."""

from functools import partial

import agreement
import layer_evaluator
import numpy as np
import pytest
from agreement import run
from evaluator import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.errors import UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner
from convcal.runtime.translation import OPERATIONS

# Sums of some tens of terms of order 1 in fp32, each rounded to 6e-8, may cancel.
assert_agrees = partial(agreement.assert_agrees, absolute=2e-6)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(0, 2, 8, 6, 4)
KEYS, VALUES = draw(5, 2, 8, 5, 4), draw(6, 2, 8, 5, 3)
THETA = np.array([[0.9, 0.3, 0.1, -0.2, 1.1, -0.3]], np.float32)
PLACES = draw(7, 2, 3, 5, 2)
BOXES = np.array([[0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], [-0.25, 0.5, 0.55, 1.3]], np.float32)


CASES = {
    "affine": lambda x: mb.affine(
        x=x,
        transform_matrix=THETA,
        output_height=5,
        output_width=7,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    ),
    "avg_pool": lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 2], pad_type="same"),
    "batch_to_space": lambda x: mb.batch_to_space(
        x=x, block_shape=[1, 2], crops=np.array([[1, 2], [3, 0]])
    ),
    "crop": lambda x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]),
    "crop_resize": lambda x: mb.crop_resize(
        x=x,
        roi=BOXES.reshape(3, 1, 4, 1, 1),
        target_height=3,
        target_width=4,
        normalized_coordinates=True,
        sampling_mode="ALIGN_CORNERS",
        pad_value=np.float32(-2),
    ),
    "depth_to_space": lambda x: mb.depth_to_space(x=x, block_size=2),
    "einsum": lambda x: mb.einsum(values=(x, draw(2, 1, 4, 6, 3)), equation="nchw,nwhu->nchu"),
    "l2_pool": lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 3], strides=[1, 2], pad_type="valid"),
    "linear": lambda x: mb.linear(x=x, weight=draw(3, 5, 4), bias=draw(4, 5)),
    "matmul": lambda x: mb.matmul(x=x, y=draw(3, 8, 3, 4), transpose_y=True),
    "max_pool": lambda x: mb.max_pool(
        x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="custom", pad=[1, 2, 0, 1]
    ),
    "pixel_shuffle": lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
    "pixel_unshuffle": lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
    "resample": lambda x: mb.resample(
        x=x,
        coordinates=PLACES,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0.5),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    ),
    "reshape_like": lambda x: mb.reshape_like(
        x=x,
        ref_tensors=(mb.relu(x=x), np.zeros((3, 8, 24), np.float32)),
        begins=(0, 1),
        ends=(1, 0),
        end_masks=(False, True),
    ),
    "resize": lambda x: mb.resize(x=x, shape=[9, 0, 5], resized_dims=np.uint32(3)),
    "resize_bilinear": lambda x: mb.resize_bilinear(x=x, target_size_height=9, target_size_width=5),
    "resize_nearest_neighbor": lambda x: mb.resize_nearest_neighbor(
        x=x, target_size_height=9, target_size_width=3
    ),
    "scaled_dot_product_attention": lambda x: mb.scaled_dot_product_attention(
        query=x, key=KEYS, value=VALUES
    ),
    "sliding_windows": lambda x: mb.sliding_windows(x=x, axis=-2, size=3, stride=2),
    "space_to_batch": lambda x: mb.space_to_batch(
        x=x, block_shape=[3, 2], paddings=np.array([[1, 2], [0, 2]])
    ),
    "space_to_depth": lambda x: mb.space_to_depth(x=x, block_size=2),
    "upsample_bilinear": lambda x: mb.upsample_bilinear(
        x=x, scale_factor_height=2.0, scale_factor_width=1.5
    ),
    "upsample_nearest_neighbor": lambda x: mb.upsample_nearest_neighbor(
        x=x, scale_factor_height=3.0, scale_factor_width=1.5
    ),
}
TARGETS = {"resize": "iOS17", "scaled_dot_product_attention": "iOS18"}
MOVERS = {
    "batch_to_space",
    "crop",
    "depth_to_space",
    "max_pool",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reshape_like",
    "resize_nearest_neighbor",
    "sliding_windows",
    "space_to_batch",
    "space_to_depth",
    "upsample_nearest_neighbor",
}


@pytest.mark.parametrize("kind", CASES)
def test_layer_agrees_with_the_evaluator(kind):
    package = make_package(CASES[kind], x=X.shape, target=TARGETS.get(kind, "iOS16"))
    assert_agrees(package, {"x": X}, absolute=0 if kind in MOVERS else 2e-6)


@pytest.mark.parametrize("kind", CASES)
def test_a_layer_in_fp16_is_rounded_once(kind):
    x = X.astype(np.float16).astype(np.float32)
    package = make_package(
        CASES[kind], x=X.shape, precision="float16", target=TARGETS.get(kind, "iOS16")
    )
    results, truth = run(package, {"x": x}), evaluate(package, {"x": x})
    for name, result in results.items():
        expected = truth[name]
        # What fp32 sums differ by may round to the other of two neighbours, one unit away.
        unit = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
        off = np.abs(result - expected)
        assert np.all(off <= (0 if kind in MOVERS else 1.001) * unit)
        assert np.mean(off > 0) < 0.02


def test_every_evaluated_layer_has_a_case_and_a_translation():
    assert set(CASES) == set(layer_evaluator.EVALUATORS)
    assert set(CASES) <= set(OPERATIONS)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_matrix_products_broadcast_and_transpose(data):
    batch = data.draw(st.lists(st.integers(1, 3), max_size=2))
    rows, inner, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    x_shape, y_shape = [rows, inner], [inner, columns]
    x_flips, y_flips = data.draw(st.booleans()), data.draw(st.booleans())
    x_shape = x_shape[::-1] if x_flips else x_shape
    y_shape = y_shape[::-1] if y_flips else y_shape
    x_batch = [1 if data.draw(st.booleans()) else n for n in batch]
    y_batch = batch[data.draw(st.integers(0, len(batch))) :]
    if not x_flips and not x_batch and rows == 1 and data.draw(st.booleans()):
        x_shape = [inner]
    x, y = draw(8, *x_batch, *x_shape), draw(9, *y_batch, *y_shape)
    package = make_package(
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=x_flips, transpose_y=y_flips),
        x=x.shape,
        y=y.shape,
    )
    assert_agrees(package, {"x": x, "y": y})


def test_products_of_integers_are_exact():
    x = np.arange(6, dtype=np.int32).reshape(2, 3) * 10007
    package = make_package(lambda x: mb.matmul(x=x, y=x, transpose_y=True), x=(x.shape, "int32"))
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_array_equal(result, x @ x.T)


def test_a_product_of_integers_and_fractions_is_refused():
    package = make_package(
        lambda x: mb.matmul(x=x, y=np.eye(3, dtype=np.float32)),
        x=((2, 3), "int32"),
        target="iOS17",
    )
    with pytest.raises(UnsupportedModelError, match="products of int32 and float32"):
        ReferenceRunner(package)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_takes_one_to_three_axes(shape, has_bias):
    options = {"bias": draw(4, 5)} if has_bias else {}
    package = make_package(lambda x: mb.linear(x=x, weight=draw(3, 5, 4), **options), x=shape)
    assert_agrees(package, {"x": draw(1, *shape)})


def test_einsum_without_a_batch():
    package = make_package(
        lambda x: mb.einsum(values=(x, draw(2, 4, 6, 3)), equation="chw,whr->chr"), x=(5, 1, 4)
    )
    assert_agrees(package, {"x": draw(1, 5, 1, 4)})


@pytest.mark.parametrize("shape", [(5,), (6, 5), (1, 6, 5), (8, 1, 5), (2, 8, 6, 5)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_attention_is_masked(shape, kind):
    mask = draw(2, *shape)
    if kind == "bool":
        mask = mask > 0
        mask[..., 0] = True
    package = make_package(
        lambda x: mb.scaled_dot_product_attention(query=x, key=KEYS, value=VALUES, attn_mask=mask),
        x=X.shape,
        target="iOS18",
    )
    assert_agrees(package, {"x": X})


@st.composite
def poolings(draw):
    kind = draw(st.sampled_from(["avg_pool", "max_pool", "l2_pool"]))
    rank = draw(st.integers(1, 2 if kind == "l2_pool" else 3))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    lengths = [size + draw(st.integers(0, 4)) for size in kernel]
    arguments = {
        "kernel_sizes": kernel,
        "strides": [draw(st.integers(1, 4)) for _ in range(rank)],
        "pad_type": draw(st.sampled_from(["valid", "custom", "same", "same_lower"])),
    }
    if arguments["pad_type"] in ("valid", "custom") and rank < 3:
        arguments["ceil_mode"] = draw(st.booleans())
    if arguments["pad_type"] == "custom":
        symmetric = arguments.get("ceil_mode", False)
        pads = []
        for size in kernel:
            front = draw(st.integers(0, size - 1))
            pads += [front, front if symmetric else draw(st.integers(0, size - 1))]
        arguments["pad"] = pads
    if kind == "avg_pool":
        arguments["exclude_padding_from_average"] = draw(st.booleans())
    return kind, lengths, arguments


@settings(max_examples=150, deadline=None)
@given(case=poolings())
def test_poolings_agree_with_the_evaluator(case):
    kind, lengths, arguments = case
    x = draw(3, 2, 3, *lengths)
    package = make_package(lambda x: getattr(mb, kind)(x=x, **arguments), x=x.shape)
    try:
        ReferenceRunner(package).close()
    except UnsupportedModelError:
        # MIL's rule for ceil_mode without pads can count a window behind the input.
        assert arguments.get("ceil_mode")
        return
    assert_agrees(package, {"x": x}, absolute=0 if kind == "max_pool" else 2e-6)


def test_an_average_over_pads_as_wide_as_the_kernel_counts_them():
    package = make_package(
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2], pad_type="custom", pad=[2, 3]), x=(1, 1, 3)
    )
    (result,) = run(package, {"x": np.ones((1, 1, 3), np.float32)}).values()
    np.testing.assert_array_equal(result, [[[0, 0.5, 1, 1, 0.5, 0, 0]]])


@pytest.mark.parametrize("kind", ["avg_pool", "max_pool"])
def test_a_window_of_pads_alone_is_refused(kind):
    options = {"exclude_padding_from_average": True} if kind == "avg_pool" else {}
    package = make_package(
        lambda x: getattr(mb, kind)(
            x=x, kernel_sizes=[2], pad_type="custom", pad=[2, 0], **options
        ),
        x=(1, 1, 3),
    )
    with pytest.raises(UnsupportedModelError, match=rf"{kind} .*outside the input"):
        ReferenceRunner(package)


def test_ceil_mode_divides_an_edge_by_what_lies_in_the_window_as_pytorch_does():
    package = make_package(
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2], strides=[2], pad_type="valid", ceil_mode=True),
        x=(1, 1, 3),
    )
    (result,) = run(package, {"x": np.array([[[1, 3, 7]]], np.float32)}).values()
    np.testing.assert_array_equal(result, [[[2, 7]]])


MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17"])
def test_boxes_are_cut_and_resized(mode, size, target):
    # In elements; quarters are exact in fp32, so that no last bit decides what is outside.
    boxes = np.array([[1, 0.5, 3.25, 2], [0, 0, 5, 3], [0.25, -0.5, 4, 3.5]], np.float32)
    images = {}
    if target == "iOS17":
        images = {"boxes": boxes, "box_indices": np.array([1, 0, 1], np.int32)}
    else:
        images = {"roi": boxes.reshape(3, 1, 4, 1, 1)}
    if target != "iOS15":
        images["pad_value"] = np.float32(-3)
    x = draw(2, 2, 2, 6, 4)
    package = make_package(
        lambda x: mb.crop_resize(
            x=x, target_height=size, target_width=4, sampling_mode=mode, **images
        ),
        x=x.shape,
        target=target,
    )
    assert_agrees(package, {"x": x})


def test_boxes_given_at_run_time_width_first_and_scaled():
    boxes = np.array([[[[[4]], [[8]], [[12]], [[20]]]]], np.float32).reshape(1, 1, 4, 1, 1)
    package = make_package(
        lambda x, roi: mb.crop_resize(
            x=x,
            roi=roi,
            target_height=3,
            target_width=2,
            spatial_scale=0.25,
            box_coordinate_mode="CORNERS_WIDTH_FIRST",
            sampling_mode="OFFSET_CORNERS",
        ),
        x=(1, 2, 7, 5),
        roi=boxes.shape,
    )
    assert_agrees(package, {"x": draw(2, 1, 2, 7, 5), "roi": boxes})


@pytest.mark.parametrize("n_images", [1, 2])
def test_boxes_that_name_their_image(n_images):
    boxes = np.concatenate([np.zeros((3, 1), np.float32), BOXES], axis=1)
    package = make_package(
        lambda x: mb.crop_resize(
            x=x, roi=boxes.reshape(3, 1, 5, 1, 1), target_height=3, normalized_coordinates=True
        ),
        x=(n_images, 2, 6, 4),
    )
    if n_images == 1:
        assert_agrees(package, {"x": draw(2, 1, 2, 6, 4)})
    else:
        with pytest.raises(UnsupportedModelError, match="disagree about boxes"):
            ReferenceRunner(package)


def test_a_box_that_ends_before_it_starts_is_mirrored():
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    package = make_package(
        lambda x: mb.crop_resize(
            x=x,
            roi=np.array([2, 2, 1, 1], np.float32).reshape(1, 1, 4, 1, 1),
            target_height=2,
            target_width=2,
            sampling_mode="ALIGN_CORNERS",
        ),
        x=x.shape,
    )
    (result,) = run(package, {"x": x}).values()
    np.testing.assert_array_equal(result, [[[[[11, 10], [7, 6]]]]])


def test_boxes_by_centre_and_size_are_refused():
    package = make_package(
        lambda x: mb.crop_resize(
            x=x,
            roi=np.ones((1, 1, 4, 1, 1), np.float32),
            box_coordinate_mode="CENTER_SIZE_HEIGHT_FIRST",
        ),
        x=(1, 1, 4, 4),
    )
    with pytest.raises(UnsupportedModelError, match="CENTER_SIZE_HEIGHT_FIRST"):
        ReferenceRunner(package)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    sampling=st.sampled_from(["bilinear", "nearest"]),
    padding=st.sampled_from(["constant", "border", "reflection", "symmetric"]),
    coordinates=st.sampled_from(
        ["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]
    ),
    is_aligned=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_images_are_sampled_in_every_mode(
    *, lengths, sampling, padding, coordinates, is_aligned, seed
):
    scale = 6 if coordinates == "unnormalized" else 2
    places = draw(seed, 2, 3, 4, 2) * np.float32(scale)
    x = draw(seed + 1, 2, 3, *lengths)
    package = make_package(
        lambda x, places: mb.resample(
            x=x,
            coordinates=places,
            sampling_mode=sampling,
            padding_mode=padding,
            padding_value=np.float32(0.75),
            coordinates_mode=coordinates,
            align_corners=is_aligned,
        ),
        x=x.shape,
        places=places.shape,
    )
    # Positions up to 20 are known to 2e-6 in fp32, and images here are as steep as 5 an element.
    assert_agrees(package, {"x": x, "places": places}, absolute=5e-5)


def test_whole_positions_read_the_elements_themselves():
    x = draw(1, 1, 2, 4, 5)
    columns, rows = np.meshgrid(np.arange(5), np.arange(4))
    places = np.stack([columns, rows], axis=-1)[None].astype(np.int32)
    package = make_package(
        lambda x, places: mb.resample(
            x=x,
            coordinates=places,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=np.float32(0),
            coordinates_mode="unnormalized",
            align_corners=True,
        ),
        x=x.shape,
        places=(places.shape, "int32"),
    )
    (result,) = run(package, {"x": x, "places": places}).values()
    np.testing.assert_array_equal(result, x)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 2),
    c=st.integers(1, 2),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    lengths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_batches_and_space_are_exchanged_and_back(n, c, blocks, lengths, pads):
    rows, columns = blocks
    h, w = lengths[0] * rows + pads[0] * rows, lengths[1] * columns
    margins = np.array([[pads[1], rows - pads[1] % rows], [0, 0]])
    margins[0, 1] = (-pads[1]) % rows

    def build(x):
        y = mb.space_to_batch(x=x, block_shape=list(blocks), paddings=margins)
        return y, mb.batch_to_space(x=y, block_shape=list(blocks), crops=margins)

    x = draw(1, n, c, h, w)
    package = make_package(build, x=x.shape)
    assert_agrees(package, {"x": x}, absolute=0)
    *_, back = run(package, {"x": x}).values()
    np.testing.assert_array_equal(back, x)
