# SPDX-License-Identifier: BSD-3-Clause
"""Quantisation of tensors to 8-bit integers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.graph import element_type

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]

_FLOAT = 1


def quantize(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``quantize``: ``clip(round(input / scale) + zero_point)``, ties to even."""
    result = operation.outputs[0]
    limits = np.iinfo(result.dtype)
    scaled = graph.node(
        "Div", graph.tensor(operation.tensor("input")), _factor(graph, operation, "scale")
    )
    shifted = graph.node("Round", scaled)
    if "zero_point" in operation.inputs:
        shifted = graph.node("Add", shifted, _factor(graph, operation, "zero_point"))
    bounds = (graph.number(float(limit)) for limit in (limits.min, limits.max))
    return [graph.node("Cast", graph.node("Clip", shifted, *bounds), to=element_type(result))]


def dequantize(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``dequantize``: ``scale * (input - zero_point)``."""
    numbers = graph.node("Cast", graph.tensor(operation.tensor("input")), to=_FLOAT)
    if "zero_point" in operation.inputs:
        numbers = graph.node("Sub", numbers, _factor(graph, operation, "zero_point"))
    return [graph.node("Mul", numbers, _factor(graph, operation, "scale"))]


def _factor(graph: Graph, operation: Operation, name: str) -> str:
    """Give a parameter, a number or one per position of an axis, such that it broadcasts."""
    constant = operation.constant(name)
    if constant is None:
        raise UnsupportedModelError(f"the parameter '{name}' is missing")
    numbers = np.asarray(constant, np.float32)
    if numbers.ndim:
        axis = (operation.integers("axis") or (0,))[0]
        column = [1] * len(operation.tensor("input").shape)
        column[axis] = -1
        numbers = numbers.reshape(column)
    return graph.constant(numbers)


OPERATIONS = {"dequantize": dequantize, "quantize": quantize}
