# SPDX-License-Identifier: BSD-3-Clause
"""Matrix products: ``matmul``, ``linear``, ``einsum`` and attention.

Sums of products are accumulated in fp32, and what the program types fp16 is rounded once, at the
result of the whole operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import flags, static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Value
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def matmul(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``matmul``, with transposes and NumPy's broadcasting."""
    x, y = operation.tensor("x"), operation.tensor("y")
    _same_kind(x, y)
    n_batch_axes = len(static_shape(y)) - 2
    if len(static_shape(x)) == 1 and n_batch_axes > 0:
        batch = static_shape(y)[:n_batch_axes]
        if static_shape(operation.outputs[0])[:n_batch_axes] != batch:
            raise UnsupportedModelError(
                "MIL's documentation and its shape inference disagree about a vector times a "
                f"batch of matrices {static_shape(y)}"
            )
    tensors = (
        _transposed(graph, value) if flags(operation, flag, 1)[0] else graph.tensor(value)
        for value, flag in ((x, "transpose_x"), (y, "transpose_y"))
    )
    return [graph.node("MatMul", *tensors)]


def linear(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``linear``: x times the transposed weight, plus the bias."""
    x, weight = operation.tensor("x"), operation.tensor("weight")
    _same_kind(x, weight)
    product = graph.node("MatMul", graph.tensor(x), _transposed(graph, weight))
    if "bias" not in operation.inputs:
        return [product]
    bias = operation.tensor("bias")
    _same_kind(x, bias)
    return [graph.node("Add", product, graph.tensor(bias))]


def einsum(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``einsum``, of which MIL has ``bchw,bwhu->bchu`` and the same without a batch."""
    values = operation.inputs["values"]
    if not isinstance(values, tuple):
        raise UnsupportedModelError("it has one operand; MIL's einsum has two")
    rank = len(static_shape(values[0]))
    equation = text(operation, "equation", default="")
    if len(equation.split(",", maxsplit=1)[0]) != rank:
        raise UnsupportedModelError(
            f"the equation '{equation}' is not one of tensors of {rank} axes"
        )
    # Products of matrices whose rows are the third axis from the end, and whose columns the last.
    swapped = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
    tensors = [graph.node("Transpose", graph.tensor(each), perm=swapped) for each in values]
    return [graph.node("Transpose", graph.node("MatMul", *tensors), perm=swapped)]


def scaled_dot_product_attention(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``scaled_dot_product_attention``: softmax(q k' / sqrt(E) + mask) v.

    A mask of bool says where to attend; a row that may attend nowhere is NaN, as in MIL.
    """
    query, key = operation.tensor("query"), operation.tensor("key")
    scale = graph.number(1 / math.sqrt(static_shape(query)[-1]))
    scaled = graph.node("Mul", graph.tensor(query), scale)
    scores = graph.node("MatMul", scaled, _transposed(graph, key))
    if "attn_mask" in operation.inputs:
        mask = operation.tensor("attn_mask")
        shape = (*static_shape(query)[:-1], static_shape(key)[-2])
        if np.broadcast_shapes(shape, static_shape(mask)) != shape:
            raise UnsupportedModelError(
                f"the mask of shape {static_shape(mask)} is larger than the scores {shape}"
            )
        addend = graph.tensor(mask)
        if mask.dtype == "bool":
            addend = graph.node("Where", addend, graph.number(0.0), graph.number(-math.inf))
        scores = graph.node("Add", scores, addend)
    weights = graph.node("Softmax", scores, axis=-1)
    return [graph.node("MatMul", weights, graph.tensor(operation.tensor("value")))]


def _transposed(graph: Graph, value: Value) -> str:
    """Exchange the last two axes, of a constant right here."""
    if value.constant is not None:
        return graph.constant(np.swapaxes(value.constant, -1, -2), name=value.name)
    rank = len(static_shape(value))
    return graph.node("Transpose", graph.tensor(value), perm=[*range(rank - 2), rank - 1, rank - 2])


def _same_kind(first: Value, second: Value) -> None:
    """Refuse products of integers and fractions, whose type ONNX does not have."""
    if element_type(first) != element_type(second):
        raise UnsupportedModelError(f"products of {first.dtype} and {second.dtype}")


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
