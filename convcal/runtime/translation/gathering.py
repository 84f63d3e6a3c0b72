# SPDX-License-Identifier: BSD-3-Clause
"""Gathering: elements, slices and vectors picked by index.

Until iOS16 a negative index counts from the end; from iOS17, where operations have a parameter
``validate_indices``, it is out of bounds. MIL leaves open what an index out of bounds gives unless
it is validated. Here it is an error always: of the translation where the indices are constant, of
the run otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import static_shape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS", "index_depth", "indices_of"]

# Beyond the end of every axis.
_OUTSIDE = 2**31 - 1


def indices_of(graph: Graph, operation: Operation, lengths: Sequence[int | None]) -> str:
    """Give the parameter ``indices`` as int64, such that ONNX Runtime refuses wrong ones.

    Parameters
    ----------
    graph : Graph
        Where nodes are added.
    operation : Operation
        It has the parameter.
    lengths : sequence of int or None
        How many positions there are, one number for all indices or one per component.

    Raises
    ------
    UnsupportedModelError
        If the indices are constant and some are out of bounds.
    """
    value = operation.tensor("indices")
    allows_negative = "validate_indices" not in operation.inputs
    if value.constant is not None:
        indices = np.asarray(value.constant, np.int64)
        for component, length in enumerate(lengths):
            part = indices[..., component] if len(lengths) > 1 else indices
            if length is None:
                low, high = (-_OUTSIDE if allows_negative else 0), _OUTSIDE
            else:
                low, high = (-length if allows_negative else 0), length
            wrong = part[(part < low) | (part >= high)]
            if wrong.size:
                raise UnsupportedModelError(
                    f"it has the index {wrong.flat[0]}, which is not from {low} to {high - 1}"
                )
        return graph.constant(indices, name=value.name)
    tensor = graph.int64(value)
    if allows_negative:
        return tensor
    is_negative = graph.node("Less", tensor, graph.integers([0]))
    safe = graph.node("Where", is_negative, graph.integers([_OUTSIDE]), tensor)
    # A vector of one makes a scalar a vector; the shape is the indices' own.
    return safe if value.shape else graph.node("Squeeze", safe)


def index_depth(operation: Operation) -> int:
    """Give how many axes each position in the parameter ``indices`` names: its last length.

    Raises
    ------
    UnsupportedModelError
        If that is known only when the program runs.
    """
    indices = operation.tensor("indices")
    depth = indices.shape[-1]
    return static_shape(indices)[-1] if depth is None else depth


def gather(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``gather`` along one axis, of all or, with ``batch_dims``, of its own part each."""
    x = operation.tensor("x")
    axis = (operation.integers("axis") or (0,))[0] % len(x.shape)
    batch_dims = (operation.integers("batch_dims") or (0,))[0]
    indices = indices_of(graph, operation, [x.shape[axis]])
    if batch_dims == 0:
        return [graph.node("Gather", graph.tensor(x), indices, axis=axis)]
    if not 0 < batch_dims <= axis:
        raise UnsupportedModelError(f"batch_dims is {batch_dims}, not from 0 to the axis, {axis}")
    lengths, picked = static_shape(x), static_shape(operation.tensor("indices"))[batch_dims:]
    # As (batch, between, axis, behind), with an index for every element of the result.
    batch, between = math.prod(lengths[:batch_dims]), math.prod(lengths[batch_dims:axis])
    count, behind = math.prod(picked), math.prod(lengths[axis + 1 :])
    data = graph.node(
        "Reshape", graph.tensor(x), graph.integers([batch, between, lengths[axis], behind])
    )
    indices = graph.node("Reshape", indices, graph.integers([batch, 1, count, 1]))
    indices = graph.node("Expand", indices, graph.integers([batch, between, count, behind]))
    result = graph.node("GatherElements", data, indices, axis=2)
    return [graph.node("Reshape", result, graph.integers(static_shape(operation.outputs[0])))]


def gather_along_axis(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``gather_along_axis``: an index for every element of the result."""
    x = operation.tensor("x")
    axis = (operation.integers("axis") or (0,))[0] % len(x.shape)
    indices = indices_of(graph, operation, [x.shape[axis]])
    return [graph.node("GatherElements", graph.tensor(x), indices, axis=axis)]


def gather_nd(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``gather_nd``: the last axis of the indices holds positions."""
    x = operation.tensor("x")
    batch_dims = (operation.integers("batch_dims") or (0,))[0]
    depth = index_depth(operation)
    indices = indices_of(graph, operation, x.shape[batch_dims : batch_dims + depth])
    return [graph.node("GatherND", graph.tensor(x), indices, batch_dims=batch_dims)]


OPERATIONS = {
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
}
