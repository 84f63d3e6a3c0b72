# SPDX-License-Identifier: BSD-3-Clause
"""Lists, as loops fill them: one tensor each, with the list's axis in front.

Elements that were never written are zero; lengths of theirs that only the program's run tells are 1
until something is written. A list of dynamic length begins with its initial length and grows to
what is written to it. An index that is negative or, but for writing to a list of dynamic length,
beyond the end is an error of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Value
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

# Beyond the end of every list.
_OUTSIDE = 2**31 - 1
_INT32 = 6


def make_list(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``make_list``: zeros."""
    made = operation.outputs[0]
    element = [1 if length is None else length for length in made.shape[1:]]
    length = graph.node(
        "Reshape", graph.int64(operation.tensor("init_length")), graph.integers([1])
    )
    shape = graph.node("Concat", length, graph.integers(element), axis=0)
    return [graph.node("Expand", _zero(graph, made), shape)]


def list_length(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``list_length``."""
    lengths = graph.node("Shape", graph.tensor(operation.tensor("ls")), end=1)
    return [graph.node("Cast", graph.node("Squeeze", lengths), to=_INT32)]


def list_write(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``list_write``: one element."""
    value = graph.tensor(operation.tensor("value"))
    updates = graph.node("Unsqueeze", value, graph.integers([0]))
    return [_written(graph, operation, operation.tensor("index"), updates)]


def list_scatter(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``list_scatter``: several elements; of two in one place the last stays."""
    updates = graph.tensor(operation.tensor("value"))
    return [_written(graph, operation, operation.tensor("indices"), updates)]


def list_read(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``list_read``: one element."""
    index = _index(graph, operation.tensor("index"))
    return [graph.node("Gather", graph.tensor(operation.tensor("ls")), index, axis=0)]


def list_gather(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``list_gather``: several elements, along a new axis."""
    indices = _index(graph, operation.tensor("indices"))
    return [graph.node("Gather", graph.tensor(operation.tensor("ls")), indices, axis=0)]


def _written(graph: Graph, operation: Operation, indices: Value, updates: str) -> str:
    made = operation.outputs[0]
    tensor = graph.tensor(operation.tensor("ls"))
    if None in made.shape[1:]:  # stretch zeros of length 1; all else has the shape already
        element = graph.node("Shape", updates, start=1)
        shape = graph.node("Concat", graph.integers([1]), element, axis=0)
        tensor = graph.node("Expand", tensor, shape)
    if made.shape[0] is None:
        tensor = _grown(graph, tensor, made, graph.int64(indices))
    column = graph.integers([-1, *[1] * (len(made.shape) - 1)])
    places = graph.node("Reshape", _index(graph, indices), column)
    places = graph.node("Expand", places, graph.node("Shape", updates))
    return graph.node("ScatterElements", tensor, places, updates, axis=0)


def _grown(graph: Graph, tensor: str, made: Value, indices: str) -> str:
    """Append zeros up to the greatest index."""
    flat = graph.node("Reshape", indices, graph.integers([-1]))
    greatest = graph.node("ReduceMax", flat, graph.integers([0]), keepdims=1)
    wanted = graph.node("Add", greatest, graph.integers([1]))
    lacking = graph.node("Sub", wanted, graph.node("Shape", tensor, end=1))
    lacking = graph.node("Max", lacking, graph.integers([0]))
    shape = graph.node("Concat", lacking, graph.node("Shape", tensor, start=1), axis=0)
    return graph.node("Concat", tensor, graph.node("Expand", _zero(graph, made), shape), axis=0)


def _index(graph: Graph, value: Value) -> str:
    """Give indices as int64, such that ONNX Runtime refuses negative ones."""
    if value.constant is not None and np.any(value.constant < 0):
        raise UnsupportedModelError(f"it has the negative index {np.min(value.constant)}")
    tensor = graph.int64(value)
    if value.constant is not None:
        return tensor
    zero, outside = (graph.constant(np.array(number, np.int64)) for number in (0, _OUTSIDE))
    return graph.node("Where", graph.node("Less", tensor, zero), outside, tensor)


def _zero(graph: Graph, made: Value) -> str:
    return graph.node("Cast", graph.number(0.0), to=element_type(made))


OPERATIONS = {
    "list_gather": list_gather,
    "list_length": list_length,
    "list_read": list_read,
    "list_scatter": list_scatter,
    "list_write": list_write,
    "make_list": make_list,
}
