# SPDX-License-Identifier: BSD-3-Clause
"""Operations that make tensors, or choose their elements by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import flags, static_shape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Value
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_FLOAT, _INT32, _INT64, _BOOL = 1, 6, 7, 9


def shape(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``shape``."""
    lengths = graph.node("Shape", graph.tensor(operation.tensor("x")))
    return [graph.node("Cast", lengths, to=_INT32)]


def fill(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``fill``: one value in a shape that is computed when the program runs."""
    lengths = graph.int64(operation.tensor("shape"))
    return [graph.node("Expand", graph.tensor(operation.tensor("value")), lengths)]


def fill_like(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``fill_like``: one value in the shape of another tensor."""
    lengths = graph.node("Shape", graph.tensor(operation.tensor("ref_tensor")))
    return [graph.node("Expand", graph.tensor(operation.tensor("value")), lengths)]


def tile(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``tile``."""
    repeats = graph.int64(operation.tensor("reps"))
    return [graph.node("Tile", graph.tensor(operation.tensor("x")), repeats)]


def range_1d(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``range_1d``.

    Floats are ``start + i * step``: ONNX Runtime's own adds step after step, and its errors.
    """
    bounds = [operation.tensor(name) for name in ("start", "end", "step")]
    start, end, step = (graph.tensor(bound) for bound in bounds)
    if bounds[0].dtype == "int32":
        return [graph.node("Range", start, end, step)]
    count = graph.node("Ceil", graph.node("Div", graph.node("Sub", end, start), step))
    count = graph.node("Cast", count, to=_INT64)
    zero, one = (graph.constant(np.array(number, np.int64)) for number in (0, 1))
    numbers = graph.node("Cast", graph.node("Range", zero, count, one), to=_FLOAT)
    return [graph.node("Add", graph.node("Mul", numbers, step), start)]


def one_hot(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``one_hot``; an index that is no position, as a negative one, has no hot one."""
    indices, result = operation.tensor("indices"), operation.outputs[0]
    rank = len(result.shape)
    given = operation.integers("axis")
    axis = (-1 if given is None else given[0]) % rank
    size = operation.tensor("one_hot_vector_size")
    zero, one = (graph.constant(np.array(number, np.int64)) for number in (0, 1))
    positions = graph.node("Range", zero, graph.int64(size), one)
    column = graph.integers([-1 if i == axis else 1 for i in range(rank)])
    is_hot = graph.node(
        "Equal",
        graph.node("Unsqueeze", graph.int64(indices), graph.integers([axis])),
        graph.node("Reshape", positions, column),
    )
    on, off = (graph.tensor(operation.tensor(name)) for name in ("on_value", "off_value"))
    return [_chosen(graph, is_hot, on, off, result)]


def band_part(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``band_part``: zero outside a band about the diagonal of the last two axes."""
    x = operation.tensor("x")
    rows, columns = (length or 0 for length in x.shape[-2:])
    if None in x.shape[-2:]:
        static_shape(x)  # refuses, and says why
    bounds = (operation.integers(name) for name in ("lower", "upper"))
    lower, upper = (-1 if bound is None else bound[0] for bound in bounds)
    below = np.arange(rows)[:, None] - np.arange(columns)
    inside = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    zero = graph.node("Cast", graph.number(0.0), to=element_type(x))
    return [_chosen(graph, graph.constant(inside), graph.tensor(x), zero, x)]


def _chosen(graph: Graph, condition: str, a: str, b: str, result: Value) -> str:
    """Choose per element; ONNX Runtime does so for fp32 and int32."""
    kind = element_type(result)
    if kind in (_FLOAT, _INT32):
        return graph.node("Where", condition, a, b)
    widened = (graph.node("Cast", tensor, to=_INT32) for tensor in (a, b))
    return graph.node("Cast", graph.node("Where", condition, *widened), to=kind)


def non_zero(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``non_zero``: positions in the order of the elements, one per row."""
    x = operation.tensor("x")
    tensor = graph.tensor(x)
    if element_type(x) not in (_FLOAT, _INT32, _BOOL):
        tensor = graph.node("Cast", tensor, to=_INT32)
    columns = graph.node("Transpose", graph.node("NonZero", tensor), perm=[1, 0])
    return [graph.node("Cast", columns, to=_INT32)]


def cumsum(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``cumsum``."""
    axis = (operation.integers("axis") or (0,))[0]
    modes = {name: int(flags(operation, name, 1)[0]) for name in ("exclusive", "reverse")}
    where = graph.constant(np.array(axis, np.int64))
    return [graph.node("CumSum", graph.tensor(operation.tensor("x")), where, **modes)]


def classify(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``classify``: the probabilities as a vector; the label is no tensor."""
    probabilities = graph.tensor(operation.tensor("probabilities"))
    return ["", graph.node("Reshape", probabilities, graph.integers([-1]))]


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "band_part": band_part,
    "classify": classify,
    "cumsum": cumsum,
    "fill": fill,
    "fill_like": fill_like,
    "non_zero": non_zero,
    "one_hot": one_hot,
    "range_1d": range_1d,
    "shape": shape,
    "tile": tile,
}
