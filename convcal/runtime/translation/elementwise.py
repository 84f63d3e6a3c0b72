# SPDX-License-Identifier: BSD-3-Clause
"""The common operations that act on every element by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type
from convcal.runtime.translation.parameters import number

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS", "binary", "unary"]

_FLOAT, _INT32 = 1, 6


def cast(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``cast``: to integers truncates, to bool asks for non-zero.

    Small integers are the last bits of int32 ones.
    """
    x, result = operation.tensor("x"), operation.outputs[0]
    tensor = graph.tensor(x)
    if element_type(x) == element_type(result):
        return [graph.node("Identity", tensor)]
    if element_type(x) == _FLOAT and result.dtype in ("int8", "uint8", "int16", "uint16"):
        tensor = graph.node("Cast", tensor, to=_INT32)
    return [graph.node("Cast", tensor, to=element_type(result))]


def unary(kind: str, graph: Graph, operation: Operation) -> list[str]:
    """Translate an operation of one tensor without parameters."""
    return [graph.node(kind, graph.tensor(operation.tensor("x")))]


def binary(kind: str, graph: Graph, operation: Operation) -> list[str]:
    """Translate an operation of two tensors that broadcast."""
    x, y = operation.tensor("x"), operation.tensor("y")
    if kind == "Div" and x.dtype == "int32":
        raise UnsupportedModelError(
            "division of integers: MIL types the quotient an integer, but folds it to a fraction"
        )
    return [graph.node(kind, graph.tensor(x), graph.tensor(y))]


def square(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``square``."""
    tensor = graph.tensor(operation.tensor("x"))
    return [graph.node("Mul", tensor, tensor)]


def clip(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``clip``: to at least alpha, then to at most beta."""
    bounds = (graph.number(number(operation, name)) for name in ("alpha", "beta"))
    return [graph.node("Clip", graph.tensor(operation.tensor("x")), *bounds)]


_UNARY = {
    "abs": "Abs",
    "exp": "Exp",
    "sqrt": "Sqrt",
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
    "square": square,
    **{name: partial(unary, kind) for name, kind in _UNARY.items()},
    **{name: partial(binary, kind) for name, kind in _BINARY.items()},
}
