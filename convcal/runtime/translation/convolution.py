# SPDX-License-Identifier: BSD-3-Clause
"""Convolution: MIL's pads, given or to be derived, become ONNX's explicit ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS", "explicit_pads"]


def conv(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``conv``, 1-D to 3-D, with groups, strides and dilations."""
    x = operation.tensor("x")
    kernel = static_shape(operation.tensor("weight"))[2:]
    rank = len(kernel)
    strides = operation.integers("strides") or (1,) * rank
    dilations = operation.integers("dilations") or (1,) * rank
    fronts, backs = explicit_pads(operation, kernel, strides, dilations)
    inputs = [graph.tensor(x), graph.tensor(operation.tensor("weight"))]
    if "bias" in operation.inputs:
        inputs.append(graph.tensor(operation.tensor("bias")))
    result = graph.node(
        "Conv",
        *inputs,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        group=(operation.integers("groups") or (1,))[0],
        pads=(*fronts, *backs),
    )
    return [result]


def explicit_pads(
    operation: Operation,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the pads in front and at the back, per spatial axis.

    ``same`` keeps ``ceil(length / stride)`` positions, and an odd total puts the extra one at the
    back (``same_lower``: in front). MIL's documentation also prints a formula in which the pads
    depend on the kernel alone; its shape inference, and the TensorFlow conversions that ``same``
    exists for, follow the rule implemented here.
    """
    rank = len(kernel)
    pad_type = text(operation, "pad_type", default="valid")
    if pad_type == "valid":
        return (0,) * rank, (0,) * rank
    if pad_type == "custom":
        pads = operation.integers("pad") or (0,) * (2 * rank)
        return pads[0::2], pads[1::2]
    if pad_type not in ("same", "same_lower"):
        raise UnsupportedModelError(f"the pad_type '{pad_type}' is not one of MIL's")
    lengths = static_shape(operation.tensor("x"))[2:]
    totals = tuple(
        max(0, (-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length)
        for length, size, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True)
    )
    smaller = tuple(total // 2 for total in totals)
    larger = tuple(total - total // 2 for total in totals)
    return (smaller, larger) if pad_type == "same" else (larger, smaller)


OPERATIONS = {"conv": conv}
