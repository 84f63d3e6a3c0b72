# SPDX-License-Identifier: BSD-3-Clause
"""Resizing of images by MIL's formulas.

Where a resized image is sampled follows from MIL's formulas, in float64 while translating. ONNX's
``Resize`` lacks some of MIL's coordinate modes, and finds its places in fp32: it is used where it
finds the same places. Elsewhere the graph gathers the two neighbours along each axis and weighs
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import flags, number, static_shape, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

    Positions = Sequence[NDArray[Any]] | None

__all__ = ["OPERATIONS", "RESIZES", "grid"]

_FLOAT = 1
# Grid points this near to the middle of two elements are there but for float64's last bits.
_TIE = 1e-9
# ONNX's coordinate transformations by MIL's mode; it has none for OFFSET_CORNERS.
_TRANSFORMATIONS = {
    "STRICT_ALIGN_CORNERS": "align_corners",
    "ALIGN_CORNERS": "align_corners",
    "DEFAULT": "asymmetric",
    "UNALIGN_CORNERS": "half_pixel",
}
# In elements; of white noise, whose neighbours differ by about its own size, as much of a value.
_PLACE_TOLERANCE = 2.0**-15


def upsample_nearest_neighbor(
    graph: Graph, operation: Operation, *, positions: Positions = None
) -> list[str]:
    """Translate ``upsample_nearest_neighbor``: result i is element floor(i / scale)."""
    lengths = static_shape(operation.tensor("x"))[-2:]
    counts = static_shape(operation.outputs[0])[-2:]
    names = ("scale_factor_height", "scale_factor_width")
    for name, length, count in zip(names, lengths, counts, strict=True):
        scale = number(operation, name)
        # coremltools states scales up to 1e-4 of a position too large, so that they round down.
        by_scale = np.floor(np.arange(count) / scale + 1e-3)
        if np.any(by_scale != _nearest_in_front(length, count, np.arange(count))):
            raise UnsupportedModelError(
                f"{name} {scale:g} makes {length} positions {count}: whether the scale or the "
                "lengths choose the neighbours, which differ here, MIL leaves open"
            )
    return _interpolated(graph, operation, 2, _nearest_in_front, positions)


def resize_nearest_neighbor(
    graph: Graph, operation: Operation, *, positions: Positions = None
) -> list[str]:
    """Translate ``resize_nearest_neighbor``: the element below the centre of each result.

    MIL prints no formula; this is TensorFlow's with half-pixel centres.
    """
    return _interpolated(graph, operation, 2, _nearest_to_centre, positions)


def upsample_bilinear(
    graph: Graph, operation: Operation, *, positions: Positions = None
) -> list[str]:
    """Translate ``upsample_bilinear``, whose scales are those of the lengths, as MIL says."""
    is_aligned = flags(operation, "align_corners", 1)[0]
    halves = operation.constant("half_pixel_centers")
    has_half_pixels = not is_aligned if halves is None else bool(halves.item())
    if is_aligned and has_half_pixels:
        raise UnsupportedModelError("align_corners and half_pixel_centers exclude each other")
    if is_aligned:
        return _bilinear(graph, operation, "STRICT_ALIGN_CORNERS", positions)
    mode = "UNALIGN_CORNERS" if has_half_pixels else "DEFAULT"
    return _bilinear(graph, operation, mode, positions)


def resize_bilinear(
    graph: Graph, operation: Operation, *, positions: Positions = None
) -> list[str]:
    """Translate ``resize_bilinear`` in each of its modes."""
    mode = text(operation, "sampling_mode", default="DEFAULT")
    return _bilinear(graph, operation, mode, positions)


def resize(graph: Graph, operation: Operation, *, positions: Positions = None) -> list[str]:
    """Translate ``resize`` of the last axes, to the nearest neighbour or linearly."""
    mode = text(operation, "sampling_mode", default="DEFAULT")
    interpolation = text(operation, "interpolation_mode", default="LINEAR")
    n_axes = (operation.integers("resized_dims") or (0,))[0]
    if interpolation == "LINEAR":
        return _bilinear(graph, operation, mode, positions, n_axes=n_axes)
    if mode == "DEFAULT":
        return _interpolated(graph, operation, n_axes, _nearest_to_centre, positions)
    return _interpolated(graph, operation, n_axes, partial(_nearest_place, mode), positions)


def _nearest_in_front(length: int, count: int, points: NDArray[Any]) -> NDArray[np.float64]:
    """Give the element at or in front of the beginning of each result: floor(i length / count)."""
    return np.floor(points * length / count)


def _nearest_place(mode: str, length: int, count: int, points: NDArray[Any]) -> NDArray[np.float64]:
    """Give the element nearest to each grid point."""
    exact = _places(mode, length, count, points)
    if np.any(np.abs(exact - np.floor(exact) - 0.5) < _TIE):
        raise UnsupportedModelError(
            f"the nearest neighbour in the mode '{mode}' from {length} to {count} "
            "positions is in the middle of two, and MIL leaves open which it is"
        )
    return np.rint(exact)


def _nearest_to_centre(length: int, count: int, points: NDArray[Any]) -> NDArray[np.float64]:
    """Give the element below the centre of each result: floor((i + 1/2) length / count).

    MIL prints no formula; this is TensorFlow's with half-pixel centres, which coremltools converts
    to ``resize_nearest_neighbor`` and to ``resize`` in the mode ``DEFAULT``.
    """
    return np.floor((2 * points + 1) * length / (2 * count))


def grid(
    mode: str, count: int, points: NDArray[Any] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Give MIL's grid of `count` points as fractions of an interval, and what is added to all.

    Or give, of this grid, other `points`, which may lie between and beyond.
    """
    points = np.arange(count, dtype=np.float64) if points is None else points
    if mode == "ALIGN_CORNERS" and count == 1:
        return np.full(len(points), 0.5), 0.0
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return points / max(1, count - 1), 0.0
    if mode == "DEFAULT":
        return points / count, 0.0
    if mode == "OFFSET_CORNERS":
        return (points + 0.5) / count, 0.0
    if mode == "UNALIGN_CORNERS":
        return (points + 0.5) / count, -0.5
    raise UnsupportedModelError(f"the sampling_mode '{mode}' is not one of MIL's")


def _places(mode: str, length: int, count: int, points: NDArray[Any]) -> NDArray[np.float64]:
    """Give where each result lies in an axis of `length` elements, from 0 to length - 1."""
    fractions, offset = grid(mode, count, points)
    interval = {"OFFSET_CORNERS": max(1, length - 1), "DEFAULT": length, "UNALIGN_CORNERS": length}
    return np.clip(fractions * interval.get(mode, length - 1) + offset, 0, length - 1)


def _bilinear(
    graph: Graph, operation: Operation, mode: str, positions: Positions, *, n_axes: int = 2
) -> list[str]:
    x = operation.tensor("x")
    if element_type(x) != _FLOAT:
        raise UnsupportedModelError(f"interpolation between values of type {x.dtype}")
    return _interpolated(
        graph,
        operation,
        n_axes,
        partial(_places, mode),
        positions,
        transformation=_TRANSFORMATIONS.get(mode, ""),
    )


def _interpolated(
    graph: Graph,
    operation: Operation,
    n_axes: int,
    places_of: Callable[[int, int, NDArray[Any]], NDArray[np.float64]],
    positions: Positions,
    *,
    transformation: str = "",
) -> list[str]:
    """Sample the last axes, each at the places that its lengths before and after make.

    By ONNX's ``Resize`` with the coordinate `transformation`, if there is one that finds them.
    Where `positions` are given, result i of an axis is taken for the i-th of them.
    """
    x = operation.tensor("x")
    lengths, counts = static_shape(x), static_shape(operation.outputs[0])
    tensor, rank = graph.tensor(x), len(lengths)
    axes = range(rank - n_axes, rank)
    points = [np.arange(counts[axis]) for axis in axes] if positions is None else positions
    places = {
        axis: np.clip(places_of(lengths[axis], counts[axis], each), 0, lengths[axis] - 1)
        for axis, each in zip(axes, points, strict=True)
    }
    is_nearest = all(np.array_equal(each, np.floor(each)) for each in places.values())
    transformation = "asymmetric" if is_nearest else transformation
    if (
        n_axes == 2  # ONNX Runtime interpolates planes
        and transformation
        and all(
            _finds(transformation, each, lengths[axis], is_nearest=is_nearest)
            for axis, each in places.items()
        )
    ):
        planes = graph.integers((1, math.prod(lengths[:-2]), *lengths[-2:]))
        resized = graph.node(
            "Resize",
            graph.node("Reshape", tensor, planes, allowzero=1),
            "",
            "",
            graph.integers((1, math.prod(lengths[:-2]), *counts[-2:])),
            mode="nearest" if is_nearest else "linear",
            coordinate_transformation_mode=transformation,
            nearest_mode="floor",
        )
        return [graph.node("Reshape", resized, graph.integers(counts), allowzero=1)]
    for axis, each in places.items():
        if not np.array_equal(each, np.arange(lengths[axis])):
            tensor = _sampled_axis(graph, tensor, each, n_behind=rank - 1 - axis)
    return [graph.node("Identity", tensor)]


def _finds(
    transformation: str, places: NDArray[np.float64], length: int, *, is_nearest: bool
) -> bool:
    """Say whether ONNX Runtime, which computes places in fp32, finds these."""
    count, points = np.float32(len(places)), np.arange(len(places), dtype=np.float32)
    scale = count / np.float32(length)
    if transformation == "align_corners":
        found = points * np.float32(length - 1) / np.maximum(np.float32(1), count - np.float32(1))
    elif transformation == "half_pixel":
        found = (points + np.float32(0.5)) / scale - np.float32(0.5)
    else:
        found = points / scale
    found = np.clip(found, 0, length - 1)
    if is_nearest:
        return np.array_equal(np.floor(found), places)
    return bool(np.all(np.abs(found - places) <= _PLACE_TOLERANCE))


def _sampled_axis(graph: Graph, tensor: str, places: NDArray[np.float64], *, n_behind: int) -> str:
    """Sample the axis that has `n_behind` ones behind it, linearly between two elements."""
    axis = -1 - n_behind
    below, above = np.floor(places), np.ceil(places)
    result = graph.node("Gather", tensor, graph.constant(below.astype(np.int64)), axis=axis)
    weight = places - below
    if not np.any(weight):
        return result
    other = graph.node("Gather", tensor, graph.constant(above.astype(np.int64)), axis=axis)
    column = weight.reshape(-1, *(1,) * n_behind)
    return graph.node(
        "Add",
        graph.node("Mul", result, graph.constant((1 - column).astype(np.float32))),
        graph.node("Mul", other, graph.constant(column.astype(np.float32))),
    )


RESIZES: dict[str, Callable[..., list[str]]] = {
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
"""They take `positions`, too: those that the results along each axis are taken for."""

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {**RESIZES}
