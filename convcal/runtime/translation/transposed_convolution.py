# SPDX-License-Identifier: BSD-3-Clause
"""Transposed convolution: the un-cropped result, and the crop of it that MIL asks for.

The crop is worked out apart because MIL leaves open which part of the un-cropped result an
``output_shape`` keeps, and because devices are known to keep the wrong one
(apple/coremltools #2324, #2281): emulated faults move the crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convcal.coreml.crop import Crop, crop_of
from convcal.runtime.translation.parameters import static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS", "Crop", "crop_of", "cropped_conv_transpose"]


def cropped_conv_transpose(graph: Graph, operation: Operation, crop: Crop) -> list[str]:
    """Translate ``conv_transpose`` so that it keeps the part `crop` of the un-cropped result."""
    weight = operation.tensor("weight")
    rank = len(crop.full)
    ends = tuple(start + length for start, length in zip(crop.begin, crop.size, strict=True))
    bounds = tuple(zip(crop.begin, ends, crop.full, strict=True))
    bias = operation.inputs.get("bias")
    inputs = [graph.tensor(operation.tensor("x")), graph.tensor(weight)]
    options = {
        "kernel_shape": static_shape(weight)[2:],
        "strides": operation.integers("strides") or (1,) * rank,
        "dilations": operation.integers("dilations") or (1,) * rank,
        "group": (operation.integers("groups") or (1,))[0],
    }
    if all(0 <= start < end <= full for start, end, full in bounds):
        if bias is not None:
            inputs.append(graph.tensor(operation.tensor("bias")))
        backs = (full - end for _, end, full in bounds)
        return [graph.node("ConvTranspose", *inputs, **options, pads=(*crop.begin, *backs))]
    result = graph.node("ConvTranspose", *inputs, **options)
    axes = range(2, 2 + rank)
    result = graph.node(
        "Slice", result, graph.integers(crop.begin), graph.integers(ends), graph.integers(axes)
    )
    # The slice keeps what there is, possibly nothing; the tail beyond it is made here.
    tails = tuple(
        length - max(0, min(end, full) - min(start, full))
        for start, end, full, length in zip(crop.begin, ends, crop.full, crop.size, strict=True)
    )
    if any(tails):
        result = graph.node("Pad", result, graph.integers((0,) * (2 + rank) + (0, 0, *tails)))
    if bias is not None:
        column = np.asarray(operation.constant("bias"), np.float32).reshape(-1, *(1,) * rank)
        result = graph.node("Add", result, graph.constant(column))
    return [result]


def conv_transpose(graph: Graph, operation: Operation) -> list[str]:
    """Translate ``conv_transpose``, 1-D to 3-D, with every way of saying what to keep.

    ``custom`` keeps what begins at the pad in front; ``valid`` all, and the centre if
    ``output_shape`` makes it shorter; ``same`` the centre. What lies beyond the un-cropped result
    is the bias alone.
    """
    crop = crop_of(operation)
    valid = text(operation, "pad_type", default="valid") == "valid"
    if valid and any(crop.begin):
        graph.warnings.append(
            f"the {operation} has pad_type 'valid' and an output_shape that is shorter than the "
            f"un-cropped result ({crop.size} of {crop.full}); Core ML's compute units do not agree "
            "on the part to keep (apple/coremltools #2281): the reference runtime keeps the centre"
        )
    return cropped_conv_transpose(graph, operation, crop)


OPERATIONS = {"conv_transpose": conv_transpose}
