# SPDX-License-Identifier: BSD-3-Clause
"""Order along an axis: reversal, sorting, the largest and smallest elements.

Of equal elements the one with the lower index comes first; MIL leaves that open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import flags

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Value
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_FAR = 2**31 - 1
_INT32 = 6


def reverse(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``reverse``, of the given axes or all."""
    x = operation.tensor("x")
    axes = operation.integers("axes")
    if axes is None:
        axes = tuple(range(len(x.shape)))
    tensor = graph.tensor(x)
    if not axes:
        return [graph.node("Identity", tensor)]
    count = len(axes)
    bounds = ([-1] * count, [-_FAR] * count, axes, [-1] * count)
    return [graph.node("Slice", tensor, *(graph.integers(bound) for bound in bounds))]


def reverse_sequence(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``reverse_sequence``: of each entry of a batch, as many as its length says."""
    x = operation.tensor("x")
    rank = len(x.shape)
    batch = (operation.integers("batch_axis") or (0,))[0] % rank
    sequence = (operation.integers("seq_axis") or (0,))[0] % rank
    if batch == sequence:
        raise UnsupportedModelError("its seq_axis is its batch_axis")
    perm = [batch, sequence, *(axis for axis in range(rank) if axis not in (batch, sequence))]
    moved = graph.node("Transpose", graph.tensor(x), perm=perm)
    lengths = graph.int64(operation.tensor("lengths"))
    result = graph.node("ReverseSequence", moved, lengths, batch_axis=0, time_axis=1)
    return [graph.node("Transpose", result, perm=[perm.index(axis) for axis in range(rank)])]


def argsort(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``argsort``."""
    x = operation.tensor("x")
    axis = operation.integers("axis")
    _, indices = _sorted(graph, operation, x, -1 if axis is None else axis[0], None)
    return [graph.node("Cast", indices, to=element_type(operation.outputs[0]))]


def topk(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``topk``; sorted where MIL promises no order, too."""
    x = operation.tensor("x")
    axis = operation.integers("axis")
    count = (operation.integers("k") or (1,))[0]
    if count < 0:
        raise UnsupportedModelError("coremltools infers no shape for a k of -1, all elements")
    values, indices = _sorted(graph, operation, x, -1 if axis is None else axis[0], count)
    if element_type(x) not in _SORTABLE:
        values = graph.node("Cast", values, to=element_type(x))
    results = [values]
    if len(operation.outputs) > 1:
        results.append(graph.node("Cast", indices, to=element_type(operation.outputs[1])))
    return results


def _sorted(
    graph: Graph, operation: Operation, x: Value, axis: int, count: int | None
) -> tuple[str, str]:
    """Sort; give the first `count` values, or all, and where they were."""
    ascending = flags(operation, "ascending", 1)[0]
    tensor = graph.tensor(x)
    if element_type(x) not in _SORTABLE:
        tensor = graph.node("Cast", tensor, to=_INT32)
    if count is None:
        shape = graph.node("Shape", tensor)
        k = graph.node("Gather", shape, graph.integers([axis % len(x.shape)]))
    else:
        k = graph.integers([count])
    options = {"axis": axis, "largest": int(not ascending), "sorted": 1}
    values, indices = graph.split_node("TopK", tensor, k, n_outputs=2, **options)
    return values, indices


# What ONNX Runtime sorts: fp32 and int32.
_SORTABLE = (1, _INT32)

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "argsort": argsort,
    "reverse": reverse,
    "reverse_sequence": reverse_sequence,
    "topk": topk,
}
