# SPDX-License-Identifier: BSD-3-Clause
"""Sampling of images at places that are known when the program runs: boxes, grids, transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import flags, number, static_shape, text
from convcal.runtime.translation.resizing import grid

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS", "affine_points", "crop_resize", "exact", "resample_points", "sampled"]

_FLOAT, _INT64 = 1, 7


def exact(tensor: str) -> str:
    """Hold the result of a step as it is; emulated faults round it."""
    return tensor


def crop_resize(
    graph: Graph,
    operation: Operation,
    *,
    boxes_held: Callable[[str], str] = exact,
    held: Callable[[str], str] = exact,
) -> list[str]:
    """Translate ``crop_resize``: the grid of ``resize_bilinear`` from edge to edge of each box.

    A box from s to e is an interval of e - s + 1 elements. Points outside the image have the
    value ``pad_value``, as in TensorFlow's ``crop_and_resize``. The sampling is a product with
    weights that are zero away from each point: an infinite element makes its row and column NaN.
    """
    x = operation.tensor("x")
    lengths = static_shape(x)[2:]
    corners = text(operation, "box_coordinate_mode", default="CORNERS_HEIGHT_FIRST")
    if corners not in ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST"):
        raise UnsupportedModelError(
            f"MIL leaves open where boxes in the box_coordinate_mode '{corners}' begin and end"
        )
    boxes, images = _boxes(graph, operation)
    boxes = boxes_held(boxes)
    mode = text(operation, "sampling_mode", default="DEFAULT")
    is_normalized = flags(operation, "normalized_coordinates", 1)[0]
    scale = number(operation, "spatial_scale")
    counts = static_shape(operation.outputs[0])[-2:]
    weights, outside = [], []
    for index, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        column = index if corners == "CORNERS_HEIGHT_FIRST" else 1 - index
        unit = held(graph.number(scale * (length - 1 if is_normalized else 1)))
        start, end = (
            held(
                graph.node(
                    "Mul", graph.node("Gather", boxes, graph.integers([place]), axis=1), unit
                )
            )
            for place in (column, column + 2)
        )
        places = _places_in_boxes(graph, mode, start, end, count, held=held)
        weights.append(_hats(graph, places, length))
        # The boxes' own arithmetic is fp32; a last bit does not leave the image.
        slack = length * 2.0**-21
        beyond = graph.node(
            "Or",
            graph.node("Less", places, graph.number(-slack)),
            graph.node("Greater", places, graph.number(length - 1 + slack)),
        )
        outside.append(beyond)
    source = graph.tensor(x)
    if images:
        # Boxes and channels, with one image for each box.
        source = graph.node("Gather", source, images, axis=0)
        source = graph.node("Unsqueeze", source, graph.integers([1]))
    rows = graph.node("Unsqueeze", weights[0], graph.integers([1, 2]))
    columns = graph.node("Transpose", weights[1], perm=(0, 2, 1))
    columns = graph.node("Unsqueeze", columns, graph.integers([1, 2]))
    sampled = graph.node("MatMul", graph.node("MatMul", rows, source), columns)
    is_outside = graph.node(
        "Or",
        graph.node("Unsqueeze", outside[0], graph.integers([1, 2, 4])),
        graph.node("Unsqueeze", outside[1], graph.integers([1, 2, 3])),
    )
    pad = graph.number(number(operation, "pad_value") if "pad_value" in operation.inputs else 0.0)
    padded = graph.node("Where", is_outside, pad, sampled)
    shape = graph.integers(static_shape(operation.outputs[0]))
    return [graph.node("Reshape", padded, shape, allowzero=1)]


def _boxes(graph: Graph, operation: Operation) -> tuple[str, str]:
    """Give boxes as fp32 [n, 4], and the image of each where the program says it."""
    if "boxes" in operation.inputs:
        boxes = graph.tensor(operation.tensor("boxes"))
        return boxes, graph.tensor(operation.tensor("box_indices"))
    roi = operation.tensor("roi")
    n_boxes, _, n_columns, *_ = static_shape(roi)
    boxes = graph.node(
        "Reshape", graph.tensor(roi), graph.integers((n_boxes, n_columns)), allowzero=1
    )
    if n_columns == 5:
        if static_shape(operation.tensor("x"))[0] != 1:
            raise UnsupportedModelError(
                "MIL's documentation and its shape inference disagree about boxes that name one "
                "of several images"
            )
        boxes = graph.node("Gather", boxes, graph.integers((1, 2, 3, 4)), axis=1)
    return boxes, ""


def _places_in_boxes(
    graph: Graph, mode: str, start: str, end: str, count: int, *, held: Callable[[str], str]
) -> str:
    """Give MIL's grid points in boxes from `start` to `end` ([n, 1]), as [n, count]."""
    fractions, offset = grid(mode, count)
    row = held(graph.constant(fractions.astype(np.float32)[None]))
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        # From the last to the first where a box ends before it starts.
        rest = held(graph.constant((1 - fractions).astype(np.float32)[None]))
        parts = (held(graph.node("Mul", *each)) for each in ((start, rest), (end, row)))
        return held(graph.node("Add", *parts))
    one, last = graph.number(1.0), held(graph.node("Sub", end, start))
    interval = held(graph.node("Max" if mode == "OFFSET_CORNERS" else "Add", last, one))
    scaled = held(graph.node("Mul", interval, row))
    points = held(graph.node("Add", scaled, graph.number(offset)))
    kept = graph.node("Min", graph.node("Max", points, graph.number(0.0)), last)
    return held(graph.node("Add", start, kept))


def _hats(graph: Graph, places: str, length: int) -> str:
    """Give the weights of linear interpolation at `places` [n, count], as [n, count, length]."""
    inside = graph.node("Clip", places, graph.number(0.0), graph.number(length - 1))
    elements = graph.constant(np.arange(length, dtype=np.float32))
    column = graph.node("Unsqueeze", inside, graph.integers([2]))
    distance = graph.node("Abs", graph.node("Sub", column, elements))
    return graph.node("Relu", graph.node("Sub", graph.number(1.0), distance))


def resample(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``resample``; the nearest of two elements equally near is the even one."""
    return sampled(graph, operation, resample_points(graph, operation))


def resample_points(graph: Graph, operation: Operation) -> str:
    """Give the points of ``resample`` as [n, count, 2]."""
    coordinates = operation.tensor("coordinates")
    n, height, width, _ = static_shape(coordinates)
    tensor = graph.tensor(coordinates)
    if element_type(coordinates) != _FLOAT:
        tensor = graph.node("Cast", tensor, to=_FLOAT)
    return graph.node("Reshape", tensor, graph.integers((n, height * width, 2)), allowzero=1)


def affine(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``affine``: places of the result and of the image both run from -1 to 1."""
    return sampled(graph, operation, affine_points(graph, operation))


def affine_points(graph: Graph, operation: Operation) -> str:
    """Give the points of ``affine`` as [n, count, 2]."""
    height, width = static_shape(operation.outputs[0])[2:]
    if not flags(operation, "align_corners", 1)[0]:
        raise UnsupportedModelError("align_corners=False, which MIL does not define for affine")
    if 1 in (height, width):
        raise UnsupportedModelError("a result of one row or column has no places from -1 to 1")
    n = static_shape(operation.tensor("x"))[0]
    rows, columns = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    grid = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1).astype(np.float32)
    matrix = graph.tensor(operation.tensor("transform_matrix"))
    matrices = graph.node("Reshape", matrix, graph.integers((-1, 2, 3)))
    points = graph.node("MatMul", matrices, graph.constant(grid))
    points = graph.node("Transpose", points, perm=(0, 2, 1))
    shape = graph.integers((n, height * width, 2))
    return graph.node("Expand", points, shape)


def sampled(
    graph: Graph, operation: Operation, points: str, *, held: Callable[[str], str] = exact
) -> list[str]:
    """Sample images at points [n, count, 2], each (x, y), in the operation's own coordinates.

    Every step from them to positions in the image is held as `held` does.
    """
    x = operation.tensor("x")
    n, c, height, width = static_shape(x)
    padding = text(operation, "padding_mode", default="constant").lower()
    sampling = text(operation, "sampling_mode", default="bilinear").lower()
    if sampling not in ("bilinear", "nearest"):
        raise UnsupportedModelError(f"the sampling_mode '{sampling}' is not one of MIL's")
    rows, columns = (
        _neighbours(graph, _positions(graph, operation, points, index, length, held=held), sampling)
        for index, length in ((1, height), (0, width))
    )
    # Per image, pixels by channels.
    pixels = graph.node(
        "Reshape",
        graph.node("Transpose", graph.tensor(x), perm=(0, 2, 3, 1)),
        graph.integers((n, height * width, c)),
        allowzero=1,
    )
    value = None
    if padding == "constant":
        value = graph.number(number(operation, "padding_value"))
    total = ""
    last = graph.integers([-1])
    for row, row_weight in rows:
        for column, column_weight in columns:
            sample = _pixel(graph, pixels, (row, column), lengths=(height, width), pad=value)
            if row_weight:
                weight = graph.node("Mul", row_weight, column_weight)
                sample = graph.node("Mul", sample, graph.node("Unsqueeze", weight, last))
            total = graph.node("Add", total, sample) if total else sample
    moved = graph.node("Transpose", total, perm=(0, 2, 1))
    shape = graph.integers(static_shape(operation.outputs[0]))
    return [graph.node("Reshape", moved, shape, allowzero=1)]


def _positions(
    graph: Graph,
    operation: Operation,
    points: str,
    index: int,
    length: int,
    *,
    held: Callable[[str], str],
) -> str:
    """Give one coordinate of points as positions between elements, kept where the pads say."""
    mode = text(operation, "coordinates_mode", default="normalized_minus_one_to_one").lower()
    is_aligned = flags(operation, "align_corners", 1)[0]
    position = graph.node("Gather", points, graph.constant(np.array(index)), axis=2)
    # In elements of the image: (coordinate + offset) * factor - shift.
    if mode == "normalized_minus_one_to_one":
        position = held(graph.node("Add", position, graph.number(1.0)))
        position = _scaled(graph, position, length, held=held, is_aligned=is_aligned, span=2.0)
    elif mode == "normalized_zero_to_one":
        position = _scaled(graph, position, length, held=held, is_aligned=is_aligned, span=1.0)
    elif mode != "unnormalized":
        raise UnsupportedModelError(f"the coordinates_mode '{mode}' is not one of MIL's")
    padding = text(operation, "padding_mode", default="constant").lower()
    low, high = graph.number(0.0), graph.number(length - 1)
    if padding == "constant":
        # Two positions outside, both neighbours are pads.
        low, high = graph.number(-2.0), graph.number(length + 1)
    elif padding == "reflection":
        # About the centres of the first and the last element.
        position = held(_folded(graph, position, length - 1))
    elif padding == "symmetric":
        # About their outer edges, half an element away.
        half = graph.number(0.5)
        moved = held(graph.node("Add", position, half))
        position = held(graph.node("Sub", held(_folded(graph, moved, length)), half))
    elif padding != "border":
        raise UnsupportedModelError(f"the padding_mode '{padding}' is not one of MIL's")
    return graph.node("Clip", position, low, high)


def _scaled(
    graph: Graph,
    position: str,
    length: int,
    *,
    held: Callable[[str], str],
    is_aligned: bool,
    span: float,
) -> str:
    """Map 0 to `span` to the centres of the first and last element, or to their outer edges."""
    factor = held(graph.number((length - 1 if is_aligned else length) / span))
    position = held(graph.node("Mul", position, factor))
    return position if is_aligned else held(graph.node("Sub", position, graph.number(0.5)))


def _folded(graph: Graph, position: str, span: int) -> str:
    """Reflect positions about 0 and `span` until they lie between."""
    if span == 0:
        return graph.node("Mul", position, graph.number(0.0))
    period = graph.node("Mod", graph.node("Abs", position), graph.number(2.0 * span), fmod=1)
    return graph.node("Min", period, graph.node("Sub", graph.number(2.0 * span), period))


def _neighbours(graph: Graph, position: str, sampling: str) -> list[tuple[str, str]]:
    """Give the elements to read for each position, with their weights ('' for all of it)."""
    if sampling == "nearest":
        return [(graph.node("Round", position), "")]
    below, above = graph.node("Floor", position), graph.node("Ceil", position)
    weight = graph.node("Sub", position, below)
    return [(below, graph.node("Sub", graph.number(1.0), weight)), (above, weight)]


def _pixel(
    graph: Graph,
    pixels: str,
    place: tuple[str, str],
    *,
    lengths: tuple[int, int],
    pad: str | None,
) -> str:
    """Read pixels at whole rows and columns [n, count]; outside there is the pad, if any."""
    inside = []
    whole = []
    for position, length in zip(place, lengths, strict=True):
        kept = graph.node("Clip", position, graph.number(0.0), graph.number(length - 1))
        inside.append(graph.node("Equal", kept, position))
        whole.append(graph.node("Cast", kept, to=_INT64))
    rows = graph.node("Mul", whole[0], graph.constant(np.array(lengths[1], np.int64)))
    index = graph.node("Add", rows, whole[1])
    last = graph.integers([-1])
    sample = graph.node("GatherND", pixels, graph.node("Unsqueeze", index, last), batch_dims=1)
    if pad is None:
        return sample
    is_inside = graph.node("Unsqueeze", graph.node("And", *inside), last)
    return graph.node("Where", is_inside, sample, pad)


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "affine": affine,
    "crop_resize": crop_resize,
    "resample": resample,
}
