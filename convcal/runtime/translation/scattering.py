# SPDX-License-Identifier: BSD-3-Clause
"""Scattering: updates put to, or combined with, what is at an index.

All go through ONNX's ScatterElements, whose updates ONNX Runtime applies one after the other: where
an index is there twice, sums are exact and the last of two replacements stays.
Indices are judged as in gathering.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.gathering import index_depth, indices_of
from convcal.runtime.translation.parameters import static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_REDUCTIONS = {
    "update": "none",
    "add": "add",
    "sub": "add",
    "mul": "mul",
    "div": "mul",
    "max": "max",
    "min": "min",
}
_OUTSIDE = 2**31 - 1


def scatter(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``scatter``: whole slices, at a vector of indices along one axis."""
    data = operation.tensor("data")
    axis = (operation.integers("axis") or (0,))[0] % len(data.shape)
    indices = indices_of(graph, operation, [data.shape[axis]])
    updates = graph.tensor(operation.tensor("updates"))
    column = [1] * len(data.shape)
    column[axis] = -1
    indices = graph.node("Reshape", indices, graph.integers(column))
    indices = graph.node("Expand", indices, graph.node("Shape", updates))
    return [_combined(graph, operation, graph.tensor(data), indices, updates, axis=axis)]


def scatter_along_axis(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``scatter_along_axis``: an index for every element of the updates."""
    data = operation.tensor("data")
    axis = (operation.integers("axis") or (0,))[0] % len(data.shape)
    indices = indices_of(graph, operation, [data.shape[axis]])
    updates = graph.tensor(operation.tensor("updates"))
    return [_combined(graph, operation, graph.tensor(data), indices, updates, axis=axis)]


def scatter_nd(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``scatter_nd``: the last axis of the indices holds positions."""
    lengths = static_shape(operation.tensor("data"))
    depth = index_depth(operation)
    indexed, rest = lengths[:depth], math.prod(lengths[depth:])
    # As rows (positions, rest), and one number per position. How many positions there are may be
    # known only when the program runs, as where `non_zero` gives them.
    indices = indices_of(graph, operation, indexed)
    indices = graph.node("Reshape", indices, graph.integers([-1, depth]))
    ends = graph.integers(indexed)
    wrapped = graph.node(
        "Where",
        graph.node("Less", indices, graph.integers([0])),
        graph.node("Add", indices, ends),
        indices,
    )
    is_outside = graph.node(
        "Or",
        graph.node("Less", wrapped, graph.integers([0])),
        graph.node("GreaterOrEqual", wrapped, ends),
    )
    steps = graph.integers([math.prod(indexed[i + 1 :]) for i in range(depth)])
    # One component outside makes the whole position so, whatever the sum would be.
    terms = graph.node(
        "Where", is_outside, graph.integers([_OUTSIDE]), graph.node("Mul", wrapped, steps)
    )
    rows = graph.node("ReduceSum", terms, graph.integers([1]), keepdims=1)
    rows = graph.node("Expand", rows, graph.integers([1, rest]))
    updates = graph.node(
        "Reshape", graph.tensor(operation.tensor("updates")), graph.integers([-1, rest])
    )
    data = graph.node(
        "Reshape",
        graph.tensor(operation.tensor("data")),
        graph.integers([math.prod(indexed), rest]),
    )
    result = _combined(graph, operation, data, rows, updates, axis=0)
    return [graph.node("Reshape", result, graph.integers(lengths))]


def _combined(
    graph: Graph, operation: Operation, data: str, indices: str, updates: str, *, axis: int
) -> str:
    mode = text(operation, "mode", default="add")
    if mode not in _REDUCTIONS:
        raise UnsupportedModelError(f"the mode '{mode}' is not one of MIL's")
    options = {"axis": axis, "reduction": _REDUCTIONS[mode]}
    if mode == "sub":
        updates = graph.node("Neg", updates)
    if mode == "div":
        if operation.tensor("data").dtype == "int32":
            raise UnsupportedModelError("division of integers")
        ones = graph.node("Expand", graph.number(1.0), graph.node("Shape", data))
        divisors = graph.node("ScatterElements", ones, indices, updates, **options)
        return graph.node("Div", data, divisors)
    return graph.node("ScatterElements", data, indices, updates, **options)


OPERATIONS = {
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
}
