# SPDX-License-Identifier: BSD-3-Clause
"""Slices, and tensors with a slice of theirs replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import flags, static_shape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_FAR = 2**31 - 1


def slice_by_index(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``slice_by_index``, NumPy's slicing with masks."""
    return [_sliced(graph, operation, graph.tensor(operation.tensor("x")))]


def slice_update(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``slice_update``: what the slice says is replaced, the rest stays."""
    x, update = operation.tensor("x"), operation.tensor("update")
    lengths = static_shape(x)
    # The same slice of the elements' numbers says which ones to replace.
    numbers = np.arange(math.prod(lengths), dtype=np.int64).reshape(lengths)
    chosen = _sliced(graph, operation, graph.constant(numbers))
    flat = graph.integers([-1])
    result = graph.node(
        "ScatterElements",
        graph.node("Reshape", graph.tensor(x), flat),
        graph.node("Reshape", chosen, flat),
        graph.node("Reshape", graph.tensor(update), flat),
        axis=0,
    )
    return [graph.node("Reshape", result, graph.integers(lengths))]


def _sliced(graph: Graph, operation: Operation, tensor: str) -> str:
    """Slice a tensor that has the shape of the operation's `x`."""
    rank = len(operation.tensor("x").shape)
    steps = operation.integers("stride") or (1,) * rank
    squeezed = flags(operation, "squeeze_mask", rank)
    strides = [1 if squeeze else step for step, squeeze in zip(steps, squeezed, strict=True)]
    x, begin, end = (operation.tensor(name) for name in ("x", "begin", "end"))
    if None in x.shape or begin.constant is None or end.constant is None:
        starts, stops = _bounds_at_run_time(graph, operation, strides, squeezed)
    else:
        starts, stops = (graph.integers(each) for each in _known(operation, steps, squeezed))
    axes = graph.integers(range(rank))
    result = graph.node("Slice", tensor, starts, stops, axes, graph.integers(strides))
    removed = [axis for axis, squeeze in enumerate(squeezed) if squeeze]
    return graph.node("Squeeze", result, graph.integers(removed)) if removed else result


def _known(
    operation: Operation, steps: Sequence[int], squeezed: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Give begins and ends where all is known, free of masks and of numbers from the end."""
    lengths = static_shape(operation.tensor("x"))
    begin_masks, end_masks = (
        flags(operation, name, len(lengths)) for name in ("begin_mask", "end_mask")
    )
    part = operation.tensor("update") if "update" in operation.inputs else operation.outputs[0]
    stated = iter(part.shape)
    starts, stops = [], []
    for axis, (begin, end) in enumerate(
        zip(operation.integers("begin") or (), operation.integers("end") or (), strict=True)
    ):
        length = lengths[axis]
        if squeezed[axis]:
            if not begin_masks[axis] and not -length <= begin < length:
                raise UnsupportedModelError(f"it takes position {begin} of an axis of {length}")
            start = 0 if begin_masks[axis] else begin % length
            starts.append(start)
            stops.append(start + 1)
            continue
        chosen = slice(
            None if begin_masks[axis] else begin, None if end_masks[axis] else end, steps[axis]
        )
        start, stop, step = chosen.indices(length)
        count, expected = len(range(start, stop, step)), next(stated)
        if expected not in (None, count):
            raise UnsupportedModelError(
                f"MIL's shape inference counts {expected} positions in the slice from {begin} to "
                f"{end} of an axis of {length}, NumPy {count}"
            )
        starts.append(start)
        # Running down to the first element, the stop is before it: -1 would mean the last one.
        stops.append(-length - 1 if stop < 0 else stop)
    return starts, stops


def _bounds_at_run_time(
    graph: Graph, operation: Operation, strides: Sequence[int], squeezed: Sequence[bool]
) -> tuple[str, str]:
    """Give begins and ends that are computed when the program runs, as ONNX takes them."""
    rank = len(strides)
    begins, ends = (graph.int64(operation.tensor(name)) for name in ("begin", "end"))
    begin_masks, end_masks = (flags(operation, name, rank) for name in ("begin_mask", "end_mask"))
    open_begins = [0 if step > 0 else _FAR for step in strides]
    open_ends = [_FAR if step > 0 else -_FAR for step in strides]
    starts = graph.node(
        "Where", graph.constant(np.array(begin_masks)), graph.integers(open_begins), begins
    )
    # One element; behind the last one, -1, there is no position 0.
    next_ones = graph.node("Add", starts, graph.integers([1]))
    is_last = graph.node("Equal", starts, graph.integers([-1]))
    next_ones = graph.node("Where", is_last, graph.integers([_FAR]), next_ones)
    stops = graph.node(
        "Where", graph.constant(np.array(end_masks)), graph.integers(open_ends), ends
    )
    return starts, graph.node("Where", graph.constant(np.array(squeezed)), next_ones, stops)


def slice_by_size(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``slice_by_size``, from its begin as far as its size says; -1 is to the end."""
    x, begin, size = (operation.tensor(name) for name in ("x", "begin", "size"))
    begins = operation.integers("begin") if begin.constant is not None else None
    if begins is not None and None not in x.shape and size.constant is not None:
        lengths, sizes = static_shape(x), operation.integers("size") or ()
        known = [b + n if b < 0 else b for b, n in zip(begins, lengths, strict=True)]
        ends = [
            n if count == -1 else b + count
            for b, n, count in zip(known, lengths, sizes, strict=True)
        ]
        for b, end, n in zip(known, ends, lengths, strict=True):
            if not 0 <= b <= end <= n:
                raise UnsupportedModelError(f"it takes positions {b} to {end} of an axis of {n}")
        starts, stops = graph.integers(known), graph.integers(ends)
    else:
        starts = graph.int64(begin)
        lengths_now = graph.node("Shape", graph.tensor(x))
        starts = graph.node(
            "Where",
            graph.node("Less", starts, graph.integers([0])),
            graph.node("Add", starts, lengths_now),
            starts,
        )
        sizes_now = graph.int64(size)
        stops = graph.node(
            "Where",
            graph.node("Equal", sizes_now, graph.integers([-1])),
            lengths_now,
            graph.node("Add", starts, sizes_now),
        )
    result = graph.node("Slice", graph.tensor(x), starts, stops)
    if None in operation.outputs[0].shape:
        return [result]
    # ONNX would cut short what runs over the end; then the shape is another, an error.
    return [graph.node("Reshape", result, graph.integers(static_shape(operation.outputs[0])))]


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
}
