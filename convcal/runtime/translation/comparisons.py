# SPDX-License-Identifier: BSD-3-Clause
"""Comparisons, logic, and the choice between two tensors.

Nothing here needs rounding: the results are bool, or elements that are rounded already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from convcal.runtime.translation.elementwise import binary, unary

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def not_equal(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``not_equal``, which holds of NaN."""
    return [graph.node("Not", *binary("Equal", graph, operation))]


def select(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``select``: a where the condition holds, else b; all three broadcast."""
    condition, a, b = (graph.tensor(operation.tensor(name)) for name in ("cond", "a", "b"))
    if operation.outputs[0].dtype == "bool":  # of which ONNX Runtime has no Where
        chosen = graph.node("And", condition, a)
        return [graph.node("Or", chosen, graph.node("And", graph.node("Not", condition), b))]
    return [graph.node("Where", condition, a, b)]


_BINARY = {
    "equal": "Equal",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}

OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "logical_not": partial(unary, "Not"),
    "not_equal": not_equal,
    "select": select,
    **{name: partial(binary, kind) for name, kind in _BINARY.items()},
}
