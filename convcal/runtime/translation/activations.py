# SPDX-License-Identifier: BSD-3-Clause
"""Activations.

Where ONNX's own operator loses relative precision in a tail or near zero, the translation goes
another way to the same formula.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.elementwise import unary
from convcal.runtime.translation.parameters import number, static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


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
    slope = _per_channel(graph, operation, "alpha")
    return [graph.node("PRelu", graph.tensor(operation.tensor("x")), slope)]


def sigmoid(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``sigmoid``."""
    return [_sigmoid(graph, graph.tensor(operation.tensor("x")))]


def silu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``silu``: x times its sigmoid."""
    tensor = graph.tensor(operation.tensor("x"))
    return [graph.node("Mul", tensor, _sigmoid(graph, tensor))]


def clamped_relu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``clamped_relu``: ``leaky_relu``, to at most beta."""
    beta = graph.number(number(operation, "beta"))
    return [graph.node("Min", *leaky_relu(graph, operation), beta)]


def elu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``elu``: alpha times ``exp(x) - 1`` of what is negative."""
    tensor = graph.tensor(operation.tensor("x"))
    negative = graph.node("Min", tensor, graph.number(0.0))
    # exp(x) - 1 = tanh(x / 2) (exp(x) + 1), which cancels nowhere.
    half = graph.node("Tanh", graph.node("Mul", negative, graph.number(0.5)))
    one_more = graph.node("Add", graph.node("Exp", negative), graph.number(1.0))
    alpha = graph.number(number(operation, "alpha"))
    bent = graph.node("Mul", graph.node("Mul", half, one_more), alpha)
    return [graph.node("Add", graph.node("Relu", tensor), bent)]


def gelu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``gelu`` in its three modes.

    The exact one takes ``1 + erf`` in fp32, so that below -3 its error is 1e-7 of x, no longer of
    the result.
    """
    tensor = graph.tensor(operation.tensor("x"))
    mode = text(operation, "mode", default="EXACT")
    if mode == "EXACT":
        # In these steps ONNX Runtime sees one operation.
        erf = graph.node("Erf", graph.node("Div", tensor, graph.number(np.sqrt(2))))
        product = graph.node("Mul", tensor, graph.node("Add", erf, graph.number(1.0)))
        return [graph.node("Mul", product, graph.number(0.5))]
    if mode == "SIGMOID_APPROXIMATION":
        slope = graph.node("Mul", tensor, graph.number(1.702))
    elif mode == "TANH_APPROXIMATION":
        # (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel.
        squared = graph.node("Mul", tensor, tensor)
        factor = graph.node("Mul", squared, graph.number(0.044715 * np.sqrt(8 / np.pi)))
        factor = graph.node("Add", factor, graph.number(np.sqrt(8 / np.pi)))
        slope = graph.node("Mul", tensor, factor)
    else:
        raise UnsupportedModelError(f"the mode '{mode}' is not one of MIL's")
    return [graph.node("Mul", tensor, _sigmoid(graph, slope))]


def linear_activation(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``linear_activation``: alpha times x, plus beta."""
    alpha, beta = (graph.number(number(operation, name)) for name in ("alpha", "beta"))
    scaled = graph.node("Mul", graph.tensor(operation.tensor("x")), alpha)
    return [graph.node("Add", scaled, beta)]


def sigmoid_hard(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``sigmoid_hard``: ``linear_activation``, clipped to 0 … 1."""
    bounds = (graph.number(0.0), graph.number(1.0))
    return [graph.node("Clip", *linear_activation(graph, operation), *bounds)]


def scaled_tanh(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``scaled_tanh``: alpha times the tanh of beta times x."""
    alpha, beta = (graph.number(number(operation, name)) for name in ("alpha", "beta"))
    scaled = graph.node("Mul", graph.tensor(operation.tensor("x")), beta)
    return [graph.node("Mul", graph.node("Tanh", scaled), alpha)]


def softplus(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``softplus``."""
    return [_softplus(graph, graph.tensor(operation.tensor("x")))]


def softplus_parametric(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``softplus_parametric``: alpha times the softplus of beta times x, per channel."""
    x = operation.tensor("x")
    alpha, beta = (_per_channel(graph, operation, name) for name in ("alpha", "beta"))
    return [graph.node("Mul", _softplus(graph, graph.node("Mul", graph.tensor(x), beta)), alpha)]


def thresholded_relu(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``thresholded_relu``, which keeps alpha itself where ONNX's does not."""
    tensor = graph.tensor(operation.tensor("x"))
    is_less = graph.node("Less", tensor, graph.number(number(operation, "alpha")))
    return [graph.node("Where", is_less, graph.number(0.0), tensor)]


def softmax(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``softmax`` along one axis."""
    axis = (operation.integers("axis") or (-1,))[0]
    return [graph.node("Softmax", graph.tensor(operation.tensor("x")), axis=axis)]


def _per_channel(graph: Graph, operation: Operation, name: str) -> str:
    """Add a parameter that has one number per channel, axis 1, so that it broadcasts."""
    constant = np.asarray(operation.constant(name), np.float32)
    rank = len(static_shape(operation.tensor("x")))
    return graph.constant(constant.reshape(-1, *(1,) * (rank - 2)))


def _sigmoid(graph: Graph, tensor: str) -> str:
    """Add ``1 / (1 + exp(-x))``.

    ONNX Runtime's own is right to 1e-7 absolute, which below -10 is no longer 1e-5 relative.
    """
    exponential = graph.node("Exp", graph.node("Neg", tensor))
    return graph.node("Reciprocal", graph.node("Add", exponential, graph.number(1.0)))


def _softplus(graph: Graph, tensor: str) -> str:
    """Add ``max(x, 0) + log(1 + e)``, where ``e = exp(-|x|)``.

    What rounding takes from ``w = 1 + e`` is given back to the logarithm to first order, so that
    it keeps its relative precision however small e is: ``log(w) + (e - (w - 1)) / w``.
    """
    small = graph.node("Exp", graph.node("Neg", graph.node("Abs", tensor)))
    one = graph.number(1.0)
    above = graph.node("Add", small, one)
    lost = graph.node("Sub", small, graph.node("Sub", above, one))
    logarithm = graph.node("Add", graph.node("Log", above), graph.node("Div", lost, above))
    return graph.node("Add", graph.node("Relu", tensor), logarithm)


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": partial(unary, "Relu"),
    "relu6": relu6,
    "scaled_tanh": scaled_tanh,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softplus_parametric": softplus_parametric,
    "softsign": partial(unary, "Softsign"),
    "tanh": partial(unary, "Tanh"),
    "thresholded_relu": thresholded_relu,
}
