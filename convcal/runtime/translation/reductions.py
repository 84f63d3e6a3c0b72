# SPDX-License-Identifier: BSD-3-Clause
"""Reductions, along given axes or all of them.

fp16 is summed in fp32. Sums of integers wrap around as int32 does; where the result need not be
whole it is computed in float64 and truncated, as MIL's folding of constants does. Of a product
that int32 does not hold, MIL says nothing; here it is the nearest number that int32 holds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import flags

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_UINT8, _INT32, _INT64, _BOOL, _DOUBLE = 2, 6, 7, 9, 11


def reduction(kind: str, graph: Graph, operation: Operation) -> list[str]:
    """Translate a reduction along any number of axes."""
    x = operation.tensor("x")
    axes = operation.integers("axes")
    if axes is not None and not axes:
        raise UnsupportedModelError("an empty list of axes, which ONNX takes for all axes")
    tensor = graph.tensor(x)
    if x.dtype == "int32":
        return [_of_integers(kind, graph, tensor, operation)]
    result = _reduced(kind, graph, tensor, operation)
    if kind in ("ReduceMax", "ReduceMin"):
        is_undefined = _reduced("ReduceMax", graph, _undefined(graph, tensor), operation)
        is_undefined = graph.node("Cast", is_undefined, to=_BOOL)
        result = graph.node("Where", is_undefined, graph.number(np.nan), result)
    return [result]


def argument(kind: str, graph: Graph, operation: Operation) -> list[str]:
    """Translate ``reduce_argmax`` or ``reduce_argmin``: the first of ties, or the first NaN."""
    x = operation.tensor("x")
    axis = (operation.integers("axis") or (-1,))[0]
    keepdims = int(flags(operation, "keep_dims", 1)[0])
    tensor = graph.tensor(x)
    index = graph.node(kind, tensor, axis=axis, keepdims=keepdims)
    if x.dtype != "int32":
        mask = _undefined(graph, tensor)
        is_undefined = graph.node("ReduceMax", mask, graph.integers([axis]), keepdims=keepdims)
        first = graph.node("ArgMax", mask, axis=axis, keepdims=keepdims)
        is_undefined = graph.node("Cast", is_undefined, to=_BOOL)
        index = graph.node("Where", is_undefined, first, index)
    return [graph.node("Cast", index, to=element_type(operation.outputs[0]))]


def _of_integers(kind: str, graph: Graph, tensor: str, operation: Operation) -> str:
    """Add a reduction of int32 whose result is int32."""
    if kind in ("ReduceMax", "ReduceMin", "ReduceProd"):
        return _reduced(kind, graph, tensor, operation)
    if kind in ("ReduceSum", "ReduceL1", "ReduceSumSquare"):
        if kind == "ReduceL1":
            tensor = graph.node("Abs", tensor)
        elif kind == "ReduceSumSquare":
            tensor = graph.node("Mul", tensor, tensor)
        # ONNX Runtime's sums of int32 saturate; narrowing an int64 wraps around.
        kind, wide = "ReduceSum", graph.node("Cast", tensor, to=_INT64)
    else:
        wide = graph.node("Cast", tensor, to=_DOUBLE)
    return graph.node("Cast", _reduced(kind, graph, wide, operation), to=_INT32)


def _reduced(kind: str, graph: Graph, tensor: str, operation: Operation) -> str:
    axes = operation.integers("axes")
    inputs = [tensor] if axes is None else [tensor, graph.integers(axes)]
    return graph.node(kind, *inputs, keepdims=int(flags(operation, "keep_dims", 1)[0]))


def _undefined(graph: Graph, tensor: str) -> str:
    """Add where a tensor is NaN, as 0 and 1; ONNX Runtime's extrema pass over NaN."""
    return graph.node("Cast", graph.node("IsNaN", tensor), to=_UINT8)


_REDUCTIONS = {
    "reduce_l1_norm": "ReduceL1",
    "reduce_l2_norm": "ReduceL2",
    "reduce_log_sum": "ReduceLogSum",
    "reduce_log_sum_exp": "ReduceLogSumExp",
    "reduce_max": "ReduceMax",
    "reduce_mean": "ReduceMean",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
    "reduce_sum_square": "ReduceSumSquare",
}

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "reduce_argmax": partial(argument, "ArgMax"),
    "reduce_argmin": partial(argument, "ArgMin"),
    **{name: partial(reduction, kind) for name, kind in _REDUCTIONS.items()},
}
