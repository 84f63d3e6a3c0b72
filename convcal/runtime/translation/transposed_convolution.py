# SPDX-License-Identifier: BSD-3-Clause
"""Transposed convolution: the un-cropped result, and the crop of it that MIL asks for.

The crop is worked out apart because MIL leaves open which part of the un-cropped result an
``output_shape`` keeps, and because devices are known to keep the wrong one
(apple/coremltools #2324, #2281): emulated faults move the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError
from convcal.runtime.translation.parameters import static_shape, text

if TYPE_CHECKING:
    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

__all__ = ["OPERATIONS", "Crop", "crop_of", "cropped_conv_transpose"]


@dataclass(frozen=True)
class Crop:
    """Which part of the un-cropped result a transposed convolution keeps, per spatial axis.

    Parameters
    ----------
    full : tuple of int
        Lengths of the un-cropped result, ``(length - 1) * stride + (kernel - 1) * dilation + 1``.
    size : tuple of int
        Lengths of the result.
    begin : tuple of int
        Where the result begins in the un-cropped one. Positions past its end hold the bias
        alone (zero without one), as those of PyTorch's ``output_padding`` do.
    is_regular : bool
        Whether the pads are equal in front and at the back on every axis, and the result is as
        long as pads, strides and kernel make it: the case that no device is known to get wrong.
    """

    full: tuple[int, ...]
    size: tuple[int, ...]
    begin: tuple[int, ...]
    is_regular: bool


def crop_of(operation: Operation) -> Crop:
    """Work out which part of the un-cropped result a ``conv_transpose`` keeps.

    Notes
    -----
    With P the un-cropped length less that of the result, at least 0, the result begins

    - ``custom``: at the pad in front, whatever ``output_shape`` says;
    - ``valid``: at 0, and at floor(P/2) if ``output_shape`` makes it shorter, as in ONNX;
    - ``same``: at floor(P/2) (``same_lower``: ceil), with ``length * stride`` positions unless
      ``output_shape`` says otherwise: the transpose of a ``same`` convolution.

    Raises
    ------
    UnsupportedModelError
        If the lengths are not known before the program runs, or the ``pad_type`` is unknown.
    """
    lengths = static_shape(operation.tensor("x"))[2:]
    kernel = static_shape(operation.tensor("weight"))[2:]
    rank = len(kernel)
    strides = operation.integers("strides") or (1,) * rank
    dilations = operation.integers("dilations") or (1,) * rank
    full = tuple(
        (length - 1) * stride + (taps - 1) * dilation + 1
        for length, stride, taps, dilation in zip(lengths, strides, kernel, dilations, strict=True)
    )
    pad_type = text(operation, "pad_type", default="valid")
    fronts = backs = (0,) * rank
    natural = full
    if pad_type == "custom":
        pads = operation.integers("pad") or (0,) * (2 * rank)
        fronts, backs = pads[0::2], pads[1::2]
        natural = tuple(f - p - q for f, p, q in zip(full, fronts, backs, strict=True))
    elif pad_type in ("same", "same_lower"):
        natural = tuple(length * s for length, s in zip(lengths, strides, strict=True))
    elif pad_type != "valid":
        raise UnsupportedModelError(f"the pad_type '{pad_type}' is not one of MIL's")

    shape = operation.integers("output_shape")
    size = natural if shape is None else shape[2:]
    surplus = tuple(max(0, f - n) for f, n in zip(full, size, strict=True))
    if pad_type == "custom":
        begin = fronts
    elif pad_type == "same_lower":
        begin = tuple(p - p // 2 for p in surplus)
    else:
        begin = tuple(p // 2 for p in surplus)
    return Crop(full, size, begin, is_regular=fronts == backs and size == natural)


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
    """Translate ``conv_transpose``, 1-D to 3-D, with every way of saying what to keep."""
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
