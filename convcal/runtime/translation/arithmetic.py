# SPDX-License-Identifier: BSD-3-Clause
"""Arithmetic and elementary functions beyond the common ones.

Floats follow IEEE 754. Integers divide as MIL's folding of constants does: quotients are rounded
down, a remainder has the sign of the divisor, and both are 0 where the divisor is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.elementwise import binary, unary
from convcal.runtime.translation.parameters import number

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_INT32, _INT64 = 6, 7


def exp2(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``exp2``, two to the power of x."""
    x = operation.tensor("x")
    if x.dtype == "int32":
        raise UnsupportedModelError(
            "a power of 2 of integers: MIL types it an integer, but folds it to a fraction"
        )
    return [graph.node("Pow", graph.number(2.0), graph.tensor(x))]


def inverse(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``inverse``: one over x + epsilon."""
    return [graph.node("Reciprocal", _raised(graph, operation))]


def log(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``log``, of x + epsilon."""
    return [graph.node("Log", _raised(graph, operation))]


def rsqrt(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``rsqrt``: one over the root of x + epsilon."""
    return [graph.node("Reciprocal", graph.node("Sqrt", _raised(graph, operation)))]


def threshold(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``threshold``: x, at least alpha."""
    bounds = (graph.tensor(operation.tensor(name)) for name in ("x", "alpha"))
    return [graph.node("Max", *bounds)]


def power(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``pow``; of integers only with known exponents that are not negative.

    A power that int32 does not hold is undefined, here as in MIL.
    """
    exponent = operation.tensor("y")
    if exponent.dtype == "int32" and (exponent.constant is None or np.any(exponent.constant < 0)):
        raise UnsupportedModelError(
            "a power of integers whose exponents are negative or computed at run time"
        )
    return binary("Pow", graph, operation)


def mod(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``mod``: the remainder that has the sign of the divisor, as in Python."""
    x, y = (graph.tensor(operation.tensor(name)) for name in ("x", "y"))
    if operation.tensor("x").dtype == "int32":
        x, y, is_zero = _wide(graph, x, y)
        remainder = graph.node("Mod", x, y)
        return [_narrow(graph, remainder, is_zero)]
    remainder, is_opposite = _remainder(graph, x, y)
    return [graph.node("Where", is_opposite, graph.node("Add", remainder, y), remainder)]


def floor_div(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``floor_div``: the quotient rounded down.

    The fp32 quotient may round up to a whole number that the true one stays below (1 / 0.1), so
    the floor is taken from the exact remainder: ``(x - fmod(x, y)) / y`` is whole but for its own
    rounding.
    """
    x, y = (graph.tensor(operation.tensor(name)) for name in ("x", "y"))
    if operation.tensor("x").dtype == "int32":
        x, y, is_zero = _wide(graph, x, y)
        multiple = graph.node("Sub", x, graph.node("Mod", x, y))
        return [_narrow(graph, graph.node("Div", multiple, y), is_zero)]
    remainder, is_opposite = _remainder(graph, x, y)
    truncated = graph.node("Round", graph.node("Div", graph.node("Sub", x, remainder), y))
    one_less = graph.node("Sub", truncated, graph.number(1.0))
    quotient = graph.node("Where", is_opposite, one_less, truncated)
    # Over zero there is no remainder; the quotient is infinite, or undefined.
    is_zero = graph.node("Equal", y, graph.number(0.0))
    return [graph.node("Where", is_zero, graph.node("Div", x, y), quotient)]


def _raised(graph: Graph, operation: Operation) -> str:
    """Add ``x + epsilon``."""
    epsilon = graph.number(number(operation, "epsilon"))
    return graph.node("Add", graph.tensor(operation.tensor("x")), epsilon)


def _remainder(graph: Graph, x: str, y: str) -> tuple[str, str]:
    """Add C's ``fmod``, which is exact, and whether it is non-zero and of the other sign than y."""
    remainder = graph.node("Mod", x, y, fmod=1)
    signs = (graph.node("Sign", tensor) for tensor in (remainder, y))
    return remainder, graph.node("Less", graph.node("Mul", *signs), graph.number(0.0))


def _wide(graph: Graph, x: str, y: str) -> tuple[str, str, str]:
    """Widen integers, for -2**31 / -1; give a divisor without zeros, and where there were any.

    ONNX Runtime ends the process when it divides an integer by zero.
    """
    x, y = (graph.node("Cast", tensor, to=_INT64) for tensor in (x, y))
    is_zero = graph.node("Equal", y, graph.constant(np.array(0, np.int64)))
    return x, graph.node("Where", is_zero, graph.constant(np.array(1, np.int64)), y), is_zero


def _narrow(graph: Graph, tensor: str, is_zero: str) -> str:
    """Put zeros where the divisor was zero, and go back to int32."""
    return graph.node(
        "Cast",
        graph.node("Where", is_zero, graph.constant(np.array(0, np.int64)), tensor),
        to=_INT32,
    )


_UNARY = {
    "acos": "Acos",
    "asin": "Asin",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "floor": "Floor",
    "round": "Round",  # ties go to the even number in both
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "tan": "Tan",
}

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "exp2": exp2,
    "floor_div": floor_div,
    "inverse": inverse,
    "log": log,
    "mod": mod,
    "pow": power,
    "rsqrt": rsqrt,
    "threshold": threshold,
    **{name: partial(unary, kind) for name, kind in _UNARY.items()},
}
