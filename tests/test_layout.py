# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from convcal.errors import InputError
from convcal.layout import Layout, OutputAxes


@pytest.mark.parametrize(
    ("array", "layout"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), Layout(0, 1)),
        (np.zeros((1, 1000), np.float16), Layout(0, 1)),
        (np.zeros(1000, np.float32), Layout(None, 0)),
        (np.zeros((), np.float32), Layout(None, None)),
        (np.zeros((8, 8, 3), np.uint8), Layout(None, 2)),
        (np.zeros((8, 8), np.uint8), Layout(None, None)),
    ],
)
def test_the_usual_layout_is_guessed(array, layout):
    assert Layout.of(array) == layout
    assert layout.canonical(array).ndim == 2 + len(layout.spatial_shape(array.shape))


@pytest.mark.parametrize(
    ("array", "kind", "layout"),
    [
        (np.zeros((8, 8), np.float16), "image", Layout(None, None)),
        (np.zeros((8, 8, 3), np.float16), "image", Layout(None, 2)),
        (np.zeros((8, 8, 3), np.uint8), "tensor", Layout(0, 1)),
        (np.zeros((8, 8), np.uint8), "tensor", Layout(0, 1)),
    ],
)
def test_what_the_model_says_counts_more_than_the_dtype(array, kind, layout):
    assert Layout.of(array, kind=kind) == layout
    assert OutputAxes().layout("y", array, kind=kind) == layout
    assert OutputAxes(channel={"y": 1}).layout("y", array, kind=kind).channel_axis == 1


def test_canonical_puts_batch_and_channels_first():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    view = Layout(batch_axis=3, channel_axis=1).canonical(array)
    assert view.shape == (5, 3, 2, 4)
    assert view[4, 2, 1, 3] == array[1, 2, 3, 4]
    assert Layout(None, None).canonical(array).shape == (1, 1, 2, 3, 4, 5)
    assert Layout(0, None).canonical(array).shape == (2, 1, 3, 4, 5)
    assert Layout(None, 1).canonical(array).shape == (1, 3, 2, 4, 5)


@pytest.mark.parametrize("layout", [Layout(0, 0), Layout(3, 1), Layout(0, -1)])
def test_axes_that_do_not_exist_are_refused(layout):
    with pytest.raises(InputError, match=r"do not fit the shape \(1, 2, 3\)"):
        layout.canonical(np.zeros((1, 2, 3)))
