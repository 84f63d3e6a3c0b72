# SPDX-License-Identifier: BSD-3-Clause
"""Resizing and upsampling in every mode against the independent evaluator, and what is refused."""

from functools import partial

import agreement
import layer_evaluator
import numpy as np
import pytest
from agreement import run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import make_package, mb

from convcal.errors import UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner

# Sums of some terms of order 1 in fp32, each rounded to 6e-8, may cancel.
assert_agrees = partial(agreement.assert_agrees, absolute=2e-6)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("DEFAULT", 6, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", 6, [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("STRICT_ALIGN_CORNERS", 1, [0]),
    ],
)
def test_grid_points_are_those_of_the_documentation(mode, size, expected):
    package = make_package(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=1, target_size_width=size, sampling_mode=mode
        ),
        x=(1, 1, 2),
    )
    (result,) = run(package, {"x": np.array([[[0, 1]]], np.float32)}).values()
    # The documentation calls 0 and 0.33 of 6 what its own formula makes 0 and 1/6.
    np.testing.assert_allclose(result, [[expected]], rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=3, max_size=5),
    sizes=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    mode=st.sampled_from(MODES),
)
def test_bilinear_resizing_follows_the_formulas_in_every_mode(lengths, sizes, mode):
    package = make_package(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=sizes[0], target_size_width=sizes[1], sampling_mode=mode
        ),
        x=tuple(lengths),
    )
    assert_agrees(package, {"x": draw(1, *lengths)})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "size"), [(1500, 3000), (1500, 2000), (2000, 700), (700, 701)])
def test_long_axes_are_sampled_as_precisely(mode, length, size):
    package = make_package(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=2, target_size_width=size, sampling_mode=mode
        ),
        x=(1, 2, length),
    )
    # Places are right to 2**-15 of an element, and neighbours differ by up to 8 here.
    assert_agrees(package, {"x": draw(1, 1, 2, length)}, absolute=8 * 2.0**-15)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    scales=st.tuples(*[st.sampled_from([1, 2, 3, 1.5, 2.25, 0.7])] * 2),
    flags=st.sampled_from([{}, {"align_corners": False}, {"align_corners": True}])
    | st.sampled_from([{"align_corners": False, "half_pixel_centers": False}]),
)
def test_bilinear_upsampling_recomputes_its_scale(lengths, scales, flags):
    if any(int(np.floor(n * s)) < 1 for n, s in zip(lengths, scales, strict=True)):
        return
    package = make_package(
        lambda x: mb.upsample_bilinear(
            x=x,
            scale_factor_height=np.float32(scales[0]),
            scale_factor_width=np.float32(scales[1]),
            **flags,
        ),
        x=(1, 2, *lengths),
    )
    assert_agrees(package, {"x": draw(1, 1, 2, *lengths)})


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    sizes=st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_nearest_resizing_takes_the_element_below_each_centre(lengths, sizes):
    x = draw(1, 2, *lengths)
    for build, target in (
        (
            lambda x: mb.resize_nearest_neighbor(
                x=x, target_size_height=sizes[0], target_size_width=sizes[1]
            ),
            "iOS15",
        ),
        (
            lambda x: mb.resize(
                x=x,
                shape=list(sizes),
                resized_dims=np.uint32(2),
                interpolation_mode="NEAREST_NEIGHBOR",
            ),
            "iOS17",
        ),
    ):
        assert_agrees(make_package(build, x=x.shape, target=target), {"x": x}, absolute=0)


def test_nearest_resizing_agrees_with_the_example_of_coremltools():
    package = make_package(
        lambda x: mb.resize(
            x=x, shape=[3, 2], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"
        ),
        x=(1, 2, 1),
        target="iOS17",
    )
    (result,) = run(package, {"x": np.float32([[[-6.174], [9.371]]])}).values()
    expected = np.float32([[[-6.174, -6.174], [9.371, 9.371], [9.371, 9.371]]])
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("mode", ["STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS", "OFFSET_CORNERS"])
def test_the_nearest_neighbour_in_other_modes_is_right_or_refused(mode):
    for size in range(1, 9):
        package = make_package(
            lambda x: mb.resize(
                x=x,
                shape=[size],  # noqa: B023 - called at once
                resized_dims=np.uint32(1),
                interpolation_mode="NEAREST_NEIGHBOR",
                sampling_mode=mode,
            ),
            x=(2, 4),
            target="iOS17",
        )
        points = [layer_evaluator.grid_point(mode, i, 4, size) for i in range(size)]
        if any(abs(point % 1 - 0.5) < 1e-9 for point in points):
            with pytest.raises(UnsupportedModelError, match="in the middle of two"):
                ReferenceRunner(package)
        else:
            assert_agrees(package, {"x": draw(0, 2, 4)}, absolute=0)


def test_upsampling_whose_scale_and_lengths_disagree_is_refused():
    package = make_package(
        lambda x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=np.float32(1), scale_factor_width=np.float32(1.4)
        ),
        x=(1, 1, 7),
    )
    with pytest.raises(UnsupportedModelError, match=r"scale_factor_width 1\.4 makes 7 positions 9"):
        ReferenceRunner(package)


def test_interpolated_integers_are_refused():
    package = make_package(
        lambda x: mb.resize(x=x, shape=[5], resized_dims=np.uint32(1)),
        x=((2, 3), "int32"),
        target="iOS17",
    )
    with pytest.raises(UnsupportedModelError, match="interpolation between values of type int32"):
        ReferenceRunner(package)
