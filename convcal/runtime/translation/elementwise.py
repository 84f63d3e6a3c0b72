# SPDX-License-Identifier: BSD-3-Clause
"""Operations that act on every element by itself, activations included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import number, static_shape

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def cast(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``cast``: to integers truncates, to bool asks for non-zero."""
    x, result = operation.tensor("x"), operation.outputs[0]
    tensor = graph.tensor(x)
    if element_type(x) == element_type(result):
        return [graph.node("Identity", tensor)]
    return [graph.node("Cast", tensor, to=element_type(result))]


def unary(kind: str, graph: Graph, operation: Operation) -> list[str]:
    """Translate an operation of one tensor without parameters."""
    return [graph.node(kind, graph.tensor(operation.tensor("x")))]


def binary(kind: str, graph: Graph, operation: Operation) -> list[str]:
    """Translate an operation of two tensors that broadcast."""
    x, y = operation.tensor("x"), operation.tensor("y")
    if kind == "Div" and x.dtype == "int32":
        raise UnsupportedModelError("division of integers")
    return [graph.node(kind, graph.tensor(x), graph.tensor(y))]


def square(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``square``."""
    tensor = graph.tensor(operation.tensor("x"))
    return [graph.node("Mul", tensor, tensor)]


def clip(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``clip``: to at least alpha, then to at most beta."""
    bounds = (graph.number(number(operation, name)) for name in ("alpha", "beta"))
    return [graph.node("Clip", graph.tensor(operation.tensor("x")), *bounds)]


def relu6(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``relu6``."""
    bounds = (graph.number(0.0), graph.number(6.0))
    return [graph.node("Clip", graph.tensor(operation.tensor("x")), *bounds)]


def leaky_relu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``leaky_relu``: alpha times what is negative."""
    alpha = number(operation, "alpha")
    return [graph.node("LeakyRelu", graph.tensor(operation.tensor("x")), alpha=alpha)]


def prelu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``prelu``: what is negative times the alpha of its channel, axis 1."""
    x = operation.tensor("x")
    alpha = np.asarray(operation.constant("alpha"), np.float32)
    slope = graph.constant(alpha.reshape(-1, *(1,) * (len(static_shape(x)) - 2)))
    return [graph.node("PRelu", graph.tensor(x), slope)]


def sigmoid(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``sigmoid`` from its definition, ``1 / (1 + exp(-x))``.

    ONNX Runtime's own is right to 1e-7 absolute, which below -10 is no longer 1e-5 relative.
    """
    negated = graph.node("Neg", graph.tensor(operation.tensor("x")))
    return [
        graph.node("Reciprocal", graph.node("Add", graph.node("Exp", negated), graph.number(1.0)))
    ]


def silu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``silu``: x times its sigmoid."""
    tensor = graph.tensor(operation.tensor("x"))
    return [graph.node("Mul", tensor, *sigmoid(graph, operation))]


_UNARY = {
    "abs": "Abs",
    "exp": "Exp",
    "relu": "Relu",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_BINARY = {
    "add": "Add",
    "maximum": "Max",
    "minimum": "Min",
    "mul": "Mul",
    "real_div": "Div",
    "sub": "Sub",
}

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "cast": cast,
    "clip": clip,
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "relu6": relu6,
    "sigmoid": sigmoid,
    "silu": silu,
    "square": square,
    **{name: partial(unary, kind) for name, kind in _UNARY.items()},
    **{name: partial(binary, kind) for name, kind in _BINARY.items()},
}
