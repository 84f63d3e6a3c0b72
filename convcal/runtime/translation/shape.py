# SPDX-License-Identifier: BSD-3-Clause
"""Operations that move elements and change none: joins, permutations, reshapes.

Their results need no rounding, because their inputs had it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import flags, static_shape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_FAR = 2**31 - 1


def identity(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``identity``."""
    return [graph.node("Identity", graph.tensor(operation.tensor("x")))]


def reshape(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``reshape`` and its kin: the elements in their order, in another shape."""
    tensor = graph.tensor(operation.tensor("x"))
    lengths = operation.outputs[0].shape
    if lengths.count(None) > 1:
        return [graph.node("Reshape", tensor, _shape_at_run_time(graph, operation))]
    # The number of elements says what the one unknown length is.
    shape = graph.integers([-1 if length is None else length for length in lengths])
    # allowzero: a length of 0 is one, and does not ask for the input's.
    return [graph.node("Reshape", tensor, shape, allowzero=1)]


def _shape_at_run_time(graph: Graph, operation: Operation) -> str:
    """Give the shape that is computed when the program runs, without the zeros in it.

    A zero asks for the length of the input that is as far from the last one, and for 1 where
    there is none (iOS17). Until iOS16 the ranks are equal where there are zeros: the same.
    """
    if "shape" not in operation.inputs:
        raise UnsupportedModelError("it changes the rank of a tensor of unknown lengths")
    (rank,) = static_shape(operation.tensor("shape"))
    shape = graph.int64(operation.tensor("shape"))
    given = graph.node("Shape", graph.tensor(operation.tensor("x")))
    aligned = graph.node("Concat", graph.integers([1] * rank), given, axis=0)
    # The last `rank` of them.
    aligned = graph.node("Slice", aligned, graph.integers([-rank]), graph.integers([_FAR]))
    is_zero = graph.node("Equal", shape, graph.integers([0]))
    return graph.node("Where", is_zero, aligned, shape)


def transpose(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``transpose``; negative axes count from the end."""
    rank = len(operation.tensor("x").shape)
    perm = [axis % rank for axis in operation.integers("perm") or ()]
    return [graph.node("Transpose", graph.tensor(operation.tensor("x")), perm=perm)]


def concat(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``concat``, end to end or interleaved."""
    values = operation.inputs["values"]
    parts = values if isinstance(values, tuple) else (values,)
    tensors = [graph.tensor(part) for part in parts]
    if not parts[0].shape:  # numbers, which MIL joins to a vector
        tensors = [graph.node("Reshape", tensor, graph.integers([1])) for tensor in tensors]
    axis = (operation.integers("axis") or (0,))[0] % len(operation.outputs[0].shape)
    if flags(operation, "interleave", 1)[0]:
        # Interleaving is joining along a new axis behind the old one, and merging the two.
        behind = graph.integers([axis + 1])
        tensors = [graph.node("Unsqueeze", tensor, behind) for tensor in tensors]
        joined = graph.node("Concat", *tensors, axis=axis + 1)
        return [graph.node("Reshape", joined, graph.integers(static_shape(operation.outputs[0])))]
    return [graph.node("Concat", *tensors, axis=axis)]


def stack(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``stack``: join along a new axis."""
    values = operation.inputs["values"]
    parts = values if isinstance(values, tuple) else (values,)
    axis = (operation.integers("axis") or (0,))[0] % len(operation.outputs[0].shape)
    new = graph.integers([axis])
    tensors = [graph.node("Unsqueeze", graph.tensor(part), new) for part in parts]
    return [graph.node("Concat", *tensors, axis=axis)]


def split(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``split``; the results' shapes say where."""
    axis = (operation.integers("axis") or (0,))[0]
    sizes = graph.integers([static_shape(result)[axis] for result in operation.outputs])
    tensor = graph.tensor(operation.tensor("x"))
    return graph.split_node("Split", tensor, sizes, n_outputs=len(operation.outputs), axis=axis)


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "concat": concat,
    "expand_dims": reshape,
    "flatten2d": reshape,
    "identity": identity,
    "reshape": reshape,
    "split": split,
    "squeeze": reshape,
    "stack": stack,
    "transpose": transpose,
}
