# SPDX-License-Identifier: BSD-3-Clause
"""Operations that move elements and change none: slices, joins, permutations, reshapes.

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


def identity(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``identity``."""
    return [graph.node("Identity", graph.tensor(operation.tensor("x")))]


def reshape(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``reshape``, ``expand_dims`` and ``squeeze``, whose result shape MIL inferred."""
    shape = graph.integers(static_shape(operation.outputs[0]))
    # allowzero: a length of 0 is one, and does not ask for the input's.
    return [graph.node("Reshape", graph.tensor(operation.tensor("x")), shape, allowzero=1)]


def transpose(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``transpose``; negative axes count from the end."""
    rank = len(static_shape(operation.tensor("x")))
    perm = [axis % rank for axis in operation.integers("perm") or ()]
    return [graph.node("Transpose", graph.tensor(operation.tensor("x")), perm=perm)]


def slice_by_index(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``slice_by_index``, NumPy's slicing with masks."""
    lengths = static_shape(operation.tensor("x"))
    rank = len(lengths)
    steps = operation.integers("stride") or (1,) * rank
    squeezed = flags(operation, "squeeze_mask", rank)
    begin_masks, end_masks = (
        flags(operation, "begin_mask", rank),
        flags(operation, "end_mask", rank),
    )
    starts, stops = [], []
    for axis, (begin, end) in enumerate(
        zip(operation.integers("begin") or (), operation.integers("end") or (), strict=True)
    ):
        length = lengths[axis]
        if squeezed[axis]:
            start = 0 if begin_masks[axis] else begin % length
            starts.append(start)
            stops.append(start + 1)
            continue
        chosen = slice(
            None if begin_masks[axis] else begin, None if end_masks[axis] else end, steps[axis]
        )
        start, stop, _ = chosen.indices(length)
        starts.append(start)
        # Running down to the first element, the stop is before it: -1 would mean the last one.
        stops.append(-length - 1 if stop < 0 else stop)
    strides = [1 if squeeze else step for step, squeeze in zip(steps, squeezed, strict=True)]
    result = graph.node(
        "Slice",
        graph.tensor(operation.tensor("x")),
        graph.integers(starts),
        graph.integers(stops),
        graph.integers(range(rank)),
        graph.integers(strides),
    )
    axes = [axis for axis, squeeze in enumerate(squeezed) if squeeze]
    return [graph.node("Squeeze", result, graph.integers(axes)) if axes else result]


def slice_by_size(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``slice_by_size``; the result's shape says how far it runs."""
    lengths = static_shape(operation.tensor("x"))
    sizes = static_shape(operation.outputs[0])
    begins = operation.integers("begin") or ()
    starts = [
        begin + length if begin < 0 else begin
        for begin, length in zip(begins, lengths, strict=True)
    ]
    stops = [start + size for start, size in zip(starts, sizes, strict=True)]
    return [
        graph.node(
            "Slice",
            graph.tensor(operation.tensor("x")),
            graph.integers(starts),
            graph.integers(stops),
            graph.integers(range(len(lengths))),
        )
    ]


def gather(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``gather`` along one axis; negative indices count from the end in both formats."""
    if (operation.integers("batch_dims") or (0,))[0] != 0:
        raise UnsupportedModelError("it gathers per index of its first axes (batch_dims)")
    axis = (operation.integers("axis") or (0,))[0]
    indices = graph.tensor(operation.tensor("indices"))
    return [graph.node("Gather", graph.tensor(operation.tensor("x")), indices, axis=axis)]


def concat(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``concat``, end to end or interleaved."""
    values = operation.inputs["values"]
    parts = values if isinstance(values, tuple) else (values,)
    tensors = [graph.tensor(part) for part in parts]
    shape = static_shape(operation.outputs[0])
    axis = (operation.integers("axis") or (0,))[0] % len(shape)
    if flags(operation, "interleave", 1)[0]:
        # Interleaving is joining along a new axis behind the old one, and merging the two.
        behind = graph.integers([axis + 1])
        tensors = [graph.node("Unsqueeze", tensor, behind) for tensor in tensors]
        joined = graph.node("Concat", *tensors, axis=axis + 1)
        return [graph.node("Reshape", joined, graph.integers(shape))]
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
    "gather": gather,
    "identity": identity,
    "reshape": reshape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": reshape,
    "transpose": transpose,
}
