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
    return [graph.node(kind, *(graph.tensor(operation.tensor(name)) for name in ("x", "y")))]


def real_div(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``real_div``."""
    if operation.tensor("x").dtype == "int32":
        raise UnsupportedModelError(
            "division of integers: MIL types the quotient an integer, but folds it to a fraction"
        )
    return binary("Div", graph, operation)


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
    "sub": "Sub",
}

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "cast": cast,
    "clip": clip,
    "real_div": real_div,
    "square": square,
    **{name: partial(unary, kind) for name, kind in _UNARY.items()},
    **{name: partial(binary, kind) for name, kind in _BINARY.items()},
}
