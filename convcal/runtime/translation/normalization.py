# SPDX-License-Identifier: BSD-3-Clause
"""Normalisations; statistics and sums are taken in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import number, static_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


def batch_norm(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``batch_norm``, by the mean and the variance of each channel, axis 1.

    The mean is subtracted first: merged into the offset, as ONNX Runtime does it, a large one
    would cancel.
    """
    shape = _ranked(operation, 3, 5)
    channels = [length if axis == 1 else 1 for axis, length in enumerate(shape)]
    mean, variance = (operation.constant(name) for name in ("mean", "variance"))
    if mean is None or variance is None:
        raise UnsupportedModelError("mean or variance is missing")
    gamma = operation.constant("gamma")
    scale = 1 / np.sqrt(np.asarray(variance, np.float64) + number(operation, "epsilon"))
    scale = scale if gamma is None else gamma * scale
    tensor = graph.tensor(operation.tensor("x"))
    # An addition is merged into a convolution that comes before, a subtraction is not.
    centred = graph.node("Add", tensor, _constant(graph, -mean, channels))
    scaled = graph.node("Mul", centred, _constant(graph, scale, channels))
    return [_shifted(graph, operation, scaled, channels)]


def instance_norm(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``instance_norm``, of each channel of each sample."""
    shape = _ranked(operation, 3, 4)
    channels = [length if axis == 1 else 1 for axis, length in enumerate(shape)]
    return [_standardized(graph, operation, range(2, len(shape)), channels)]


def layer_norm(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``layer_norm``, along any axes."""
    shape = static_shape(operation.tensor("x"))
    given = operation.integers("axes")
    axes = sorted(axis % len(shape) for axis in (range(len(shape)) if given is None else given))
    if not axes:
        raise UnsupportedModelError("an empty list of axes, which ONNX takes for all axes")
    parameters = [length if axis in axes else 1 for axis, length in enumerate(shape)]
    return [_standardized(graph, operation, axes, parameters)]


def l2_norm(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``l2_norm``: x over the root of the sum of squares along the last three axes."""
    tensor = graph.tensor(operation.tensor("x"))
    squares = graph.node("Mul", tensor, tensor)
    total = graph.node("ReduceSum", squares, graph.integers([-3, -2, -1]), keepdims=1)
    raised = graph.node("Add", total, graph.number(number(operation, "epsilon")))
    return [graph.node("Div", tensor, graph.node("Sqrt", raised))]


def local_response_norm(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``local_response_norm``, across an odd number of neighbouring channels."""
    shape = _ranked(operation, 3, 4)
    size = (operation.integers("size") or (0,))[0]
    if size < 1 or size % 2 == 0:
        raise UnsupportedModelError(
            f"the size {size}; MIL says which channels are neighbours for odd ones only"
        )
    tensor = graph.tensor(operation.tensor("x"))
    # ONNX Runtime's LRN takes pictures only.
    picture = graph.integers([*shape, *(1,) * (4 - len(shape))])
    result = graph.node(
        "LRN",
        graph.node("Reshape", tensor, picture, allowzero=1),
        size=size,
        alpha=number(operation, "alpha"),
        beta=number(operation, "beta"),
        bias=number(operation, "k"),
    )
    return [graph.node("Reshape", result, graph.integers(shape), allowzero=1)]


def _standardized(
    graph: Graph, operation: Operation, axes: Sequence[int], parameters: Sequence[int]
) -> str:
    """Add ``gamma (x - mean) / sqrt(variance + epsilon) + beta``.

    The variance is of the centred values. ONNX Runtime's own operators take it from the mean of
    the squares, which cancels when the mean is large.
    """
    along = graph.integers(tuple(axes))
    tensor = graph.tensor(operation.tensor("x"))
    centred = graph.node("Sub", tensor, graph.node("ReduceMean", tensor, along, keepdims=1))
    variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), along, keepdims=1)
    raised = graph.node("Add", variance, graph.number(number(operation, "epsilon")))
    result = graph.node("Div", centred, graph.node("Sqrt", raised))
    gamma = operation.constant("gamma")
    if gamma is not None:
        result = graph.node("Mul", result, _constant(graph, gamma, parameters))
    return _shifted(graph, operation, result, parameters)


def _shifted(graph: Graph, operation: Operation, tensor: str, shape: Sequence[int]) -> str:
    beta = operation.constant("beta")
    return tensor if beta is None else graph.node("Add", tensor, _constant(graph, beta, shape))


def _constant(graph: Graph, array: NDArray[np.floating], shape: Sequence[int]) -> str:
    """Add a parameter in a shape that broadcasts against x."""
    if array.size != np.prod(shape):
        raise UnsupportedModelError(
            f"a parameter of shape {array.shape} does not fit what is normalised, {tuple(shape)}"
        )
    return graph.constant(np.asarray(array, np.float32).reshape(shape))


def _ranked(operation: Operation, least: int, most: int) -> tuple[int, ...]:
    shape = static_shape(operation.tensor("x"))
    if not least <= len(shape) <= most:
        raise UnsupportedModelError(
            f"an input of rank {len(shape)}; MIL defines it for ranks {least} to {most}"
        )
    return shape


OPERATIONS = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
}
