# SPDX-License-Identifier: BSD-3-Clause
"""Pooling: MIL's pads, and the windows that ``ceil_mode`` adds, become ONNX's explicit pads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.convolution import explicit_pads
from convcal.runtime.translation.parameters import flags, static_shape, text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS"]


@dataclass(frozen=True)
class _Windows:
    """Where the windows of a pooling lie, per spatial axis.

    Parameters
    ----------
    lengths, kernel, strides : tuple of int
        Of the input, of a window, and between windows.
    fronts, backs : tuple of int
        Pads that the program asks for.
    counts : tuple of int
        Number of windows.
    """

    lengths: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    fronts: tuple[int, ...]
    backs: tuple[int, ...]
    counts: tuple[int, ...]

    def covered(self, axis: int, *, pads: bool) -> NDArray[np.float64]:
        """Count the positions in each window along an axis, with or without those of the pads."""
        start = np.arange(self.counts[axis]) * self.strides[axis] - self.fronts[axis]
        low, high = 0, self.lengths[axis]
        if pads:
            low, high = low - self.fronts[axis], high + self.backs[axis]
        end = np.minimum(start + self.kernel[axis], high)
        covered: NDArray[np.float64] = np.maximum(end - np.maximum(start, low), 0) * 1.0
        return covered

    def pooled(self, graph: Graph, kind: str, tensor: str, *, filler: float) -> str:
        """Add the pooling `kind` over these windows, whatever lies outside the input."""
        # As far as the last window reaches: in front of the end of the input with a wide stride.
        backs = tuple(
            max(0, (count - 1) * stride + size - length - front)
            for count, stride, size, length, front in zip(
                self.counts, self.strides, self.kernel, self.lengths, self.fronts, strict=True
            )
        )
        pads = (*self.fronts, *backs)
        if any(amount >= size for amount, size in zip(pads, 2 * self.kernel, strict=True)):
            # ONNX Runtime pools with smaller pads only.
            given = graph.integers((0, 0, *self.fronts, 0, 0, *backs))
            tensor = graph.node("Pad", tensor, given, graph.number(filler))
            pads = (0,) * len(pads)
        options = {"count_include_pad": 1} if kind == "AveragePool" else {}
        return graph.node(
            kind, tensor, kernel_shape=self.kernel, strides=self.strides, pads=pads, **options
        )


def avg_pool(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``avg_pool``: the sum over each window, by the number of positions in it.

    Pads count unless ``exclude_padding_from_average`` says otherwise. What ``ceil_mode`` reaches
    beyond the pads never counts: MIL's documentation refers to PyTorch's mode, which does so.
    """
    windows = _windows(operation)
    counts_pads = not flags(operation, "exclude_padding_from_average", 1)[0]
    tensor = graph.tensor(operation.tensor("x"))
    result = windows.pooled(graph, "AveragePool", tensor, filler=0.0)
    gain = np.ones((1, 1))
    for axis, size in enumerate(windows.kernel):
        covered = windows.covered(axis, pads=counts_pads)
        if covered.min() == 0:
            raise UnsupportedModelError("a window lies outside the input: its average is 0 / 0")
        gain = gain[..., None] * (size / covered)
    if np.all(gain == 1):
        return [result]
    return [graph.node("Mul", result, graph.constant(gain.astype(np.float32)))]


def max_pool(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``max_pool``; pads are smaller than any number.

    ONNX Runtime passes over NaN, and may give the lowest finite fp32 number for a window of -inf.
    """
    windows = _windows(operation)
    for axis in range(len(windows.kernel)):
        if windows.covered(axis, pads=False).min() == 0:
            raise UnsupportedModelError("a window lies outside the input: it has no maximum")
    tensor = graph.tensor(operation.tensor("x"))
    return [windows.pooled(graph, "MaxPool", tensor, filler=-np.inf)]


def l2_pool(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``l2_pool``: the root of the sum of the squares in each window."""
    tensor = graph.tensor(operation.tensor("x"))
    return [_windows(operation).pooled(graph, "LpPool", tensor, filler=0.0)]


def _windows(operation: Operation) -> _Windows:
    kernel = operation.integers("kernel_sizes") or ()
    rank = len(kernel)
    strides = operation.integers("strides") or (1,) * rank
    if flags(operation, "ceil_mode", 1)[0]:
        pad_type = text(operation, "pad_type", default="valid")
        if pad_type not in ("valid", "custom"):
            raise UnsupportedModelError(f"ceil_mode with the pad_type '{pad_type}'")
    fronts, backs = explicit_pads(operation, kernel, strides, (1,) * rank)
    lengths = static_shape(operation.tensor("x"))[2:]
    counts = static_shape(operation.outputs[0])[2:]
    return _Windows(lengths, kernel, strides, fronts, backs, counts)


OPERATIONS: dict[str, Callable[[Graph, Operation], list[str]]] = {
    "avg_pool": avg_pool,
    "l2_pool": l2_pool,
    "max_pool": max_pool,
}
