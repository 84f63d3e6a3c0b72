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
    is_integer = x.dtype == "int32"
    if is_integer and kind in _FRACTIONAL:
        tensor = graph.node("Cast", tensor, to=_DOUBLE)
    if kind in _OTHERS:
        result = _reduced(_OTHERS[kind], graph, tensor, operation)
        if kind in ("reduce_max", "reduce_min") and not is_integer:
            is_undefined = _reduced("ReduceMax", graph, _undefined(graph, tensor), operation)
            is_undefined = graph.node("Cast", is_undefined, to=_BOOL)
            result = graph.node("Where", is_undefined, graph.number(np.nan), result)
    else:
        result = _function_of_sum(kind, graph, tensor, operation)
    return [graph.node("Cast", result, to=_INT32) if is_integer else result]


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


def _function_of_sum(kind: str, graph: Graph, tensor: str, operation: Operation) -> str:
    """Add a reduction that is a sum of terms, or a function of it.

    ONNX Runtime's own operators of squares add one after the other, in which many terms lose
    precision; its ReduceSum keeps partial sums.
    """
    if kind == "reduce_l1_norm":
        tensor = graph.node("Abs", tensor)
    elif kind in ("reduce_l2_norm", "reduce_sum_square"):
        tensor = graph.node("Mul", tensor, tensor)
    if operation.tensor("x").dtype == "int32" and kind not in _FRACTIONAL:
        # Sums of int32 saturate; narrowing an int64 wraps around.
        tensor = graph.node("Cast", tensor, to=_INT64)
    total = _reduced("ReduceSum", graph, tensor, operation)
    if kind == "reduce_l2_norm":
        return graph.node("Sqrt", total)
    return graph.node("Log", total) if kind == "reduce_log_sum" else total


def _reduced(kind: str, graph: Graph, tensor: str, operation: Operation) -> str:
    axes = operation.integers("axes")
    inputs = [tensor] if axes is None else [tensor, graph.integers(axes)]
    return graph.node(kind, *inputs, keepdims=int(flags(operation, "keep_dims", 1)[0]))


def _undefined(graph: Graph, tensor: str) -> str:
    """Add where a tensor is NaN, as 0 and 1; ONNX Runtime's extrema pass over NaN."""
    return graph.node("Cast", graph.node("IsNaN", tensor), to=_UINT8)


_OTHERS = {
    "reduce_log_sum_exp": "ReduceLogSumExp",
    "reduce_max": "ReduceMax",
    "reduce_mean": "ReduceMean",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}
_FUNCTIONS_OF_SUMS = (
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_log_sum",
    "reduce_sum",
    "reduce_sum_square",
)
# Of integers, these need not be whole.
_FRACTIONAL = ("reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_mean")

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "reduce_argmax": partial(argument, "ArgMax"),
    "reduce_argmin": partial(argument, "ArgMin"),
    **{kind: partial(reduction, kind) for kind in (*_FUNCTIONS_OF_SUMS, *_OTHERS)},
}
