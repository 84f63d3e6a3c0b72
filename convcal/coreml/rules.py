# SPDX-License-Identifier: BSD-3-Clause
"""The operations that are known to go wrong on some device, as a table of rules.

To add a rule, write its condition, a function of one operation that gives words for what matched
or None, and a row of `RULES`. Every row names its public source. None was measured by us. Faults
of other stacks than Core ML and Core AI (PyTorch MPS, LiteRT, WebGPU) have no row: a package does
not run there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from convcal.coreml.crop import crop_of
from convcal.coreml.parameters import flags, number, static_shape, text
from convcal.coreml.program import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from convcal.coreml.program import Operation

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True)
class Rule:
    """A fault that devices are reported to have, and the operations that it touches.

    Parameters
    ----------
    fault : str
        Its identifier in convcal's catalogue of faults, as ``"A1"``.
    title : str
        What goes wrong.
    operations : tuple of str
        Types of operations; empty where any may match.
    condition : callable
        Takes an operation, whose shapes are known, and gives words for what of it matches, or
        None.
    level : {"fault", "risk"}
        A fault shows whatever the data are; whether a risk does depends on the values, on sizes
        beyond those reported, or on the chip.
    devices : str
        Where it was reported.
    sources : tuple of str
        Public reports.
    cure : str
        What to do.
    strategies : tuple of str
        Those of `convcal.rewrite` that cure it, the smallest change first.
    """

    fault: str
    title: str
    operations: tuple[str, ...]
    condition: Callable[[Operation], str | None]
    level: Literal["fault", "risk"]
    devices: str
    sources: tuple[str, ...]
    cure: str
    strategies: tuple[str, ...] = ()

    def match(self, operation: Operation) -> str | None:
        """Give words for what of the operation matches; None where the rule does not hold.

        Raises
        ------
        UnsupportedModelError
            If that depends on the values of the inputs.
        """
        if self.operations and operation.type not in self.operations:
            return None
        return self.condition(operation)


def _is_fp16(operation: Operation) -> bool:
    return any(value.dtype == "float16" for value in operation.outputs)


def _in_fp16(operation: Operation) -> str | None:
    return "computes in fp16" if _is_fp16(operation) else None


def _per_axis(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))


def _unequal_pads(operation: Operation) -> str | None:
    """Words for pads that differ in front and at the back."""
    pads = operation.integers("pad") or ()
    if text(operation, "pad_type", default="valid") != "custom" or pads[0::2] == pads[1::2]:
        return None
    return f"pads in front {_per_axis(pads[0::2])}, at the back {_per_axis(pads[1::2])}"


def _unequal_pads_in_fp16(operation: Operation) -> str | None:
    return _unequal_pads(operation) if _is_fp16(operation) else None


def _unequal_pads_in_fp32(operation: Operation) -> str | None:
    return None if _is_fp16(operation) else _unequal_pads(operation)


def _same_pads(operation: Operation) -> str | None:
    pad_type = text(operation, "pad_type", default="valid")
    return f"pad_type '{pad_type}'" if pad_type in ("same", "same_lower") else None


def _unnatural_shape(operation: Operation) -> str | None:
    crop = crop_of(operation)
    if crop.size == crop.natural:
        return None
    return (
        f"output_shape {_per_axis(crop.size)}, where pads, strides and kernel make "
        f"{_per_axis(crop.natural)}"
    )


def _tail(operation: Operation) -> str | None:
    """Words for an output that goes on where no product of input and kernel is left."""
    crop = crop_of(operation)
    tails = tuple(max(0, -back) for back in crop.back)
    if not any(tails):
        return None
    return f"{_per_axis(tails)} positions past the un-cropped result, as output_padding leaves them"


def _long_kernel(operation: Operation) -> str | None:
    kernel = static_shape(operation.tensor("weight"))[2:]
    strides = operation.integers("strides") or (1,)
    if max(kernel, default=1) < 8 and max(strides) < 16:
        return None
    return f"kernel {_per_axis(kernel)}, strides {_per_axis(strides)}"


def _large_stride(operation: Operation) -> str | None:
    strides = operation.integers("strides") or (1,)
    return f"strides {_per_axis(strides)}" if max(strides) > 10 else None


def _mixed_kernel(operation: Operation) -> str | None:
    """Words for the shape of the report: several channels, stride, pads, an uneven kernel."""
    kernel = static_shape(operation.tensor("weight"))[2:]
    strides = operation.integers("strides") or (1,)
    is_padded = text(operation, "pad_type", default="valid") != "valid"
    if static_shape(operation.tensor("x"))[1] == 1 or max(strides) == 1 or not is_padded:
        return None
    if len({taps % 2 for taps in kernel}) == 1:
        return None
    return f"kernel {_per_axis(kernel)}, strides {_per_axis(strides)}, padded"


def _weights_as_input(operation: Operation) -> str | None:
    is_constant = operation.tensor("weight").constant is not None
    return None if is_constant else "weights that are computed when the program runs"


def _same_lower_1d(operation: Operation) -> str | None:
    if text(operation, "pad_type", default="valid") != "same_lower":
        return None
    return "pad_type 'same_lower' in 1-D" if len(operation.tensor("x").shape) == 3 else None


def _ceil_mode(operation: Operation) -> str | None:
    return "ceil_mode" if flags(operation, "ceil_mode", 1)[0] else None


def _fractional_nearest(operation: Operation) -> str | None:
    factors = [number(operation, f"scale_factor_{axis}") for axis in ("height", "width")]
    if all(factor == int(factor) for factor in factors):
        return None
    return f"scale factors {factors[0]:g} and {factors[1]:g}"


def _always(operation: Operation) -> str | None:
    del operation  # its type says it
    return "is used"


def _beyond_1024(operation: Operation) -> str | None:
    """Words for coordinates that fp16 holds no better than to a pixel or so."""
    if not _is_fp16(operation):
        return None
    lengths = static_shape(operation.tensor("x"))[-2:] + static_shape(operation.outputs[0])[-2:]
    return f"coordinates up to {max(lengths)} in fp16" if max(lengths) > 1024 else None


def _coarse_coordinates(operation: Operation) -> str | None:
    coordinates = operation.inputs.get("coordinates")
    is_half = isinstance(coordinates, Value) and coordinates.dtype == "float16"
    if not is_half and not _is_fp16(operation):
        return None
    longest = max(static_shape(operation.tensor("x"))[-2:])
    return f"coordinates in fp16 over {longest} positions" if longest >= 512 else None


def _unnormalized(operation: Operation) -> str | None:
    mode = text(operation, "coordinates_mode", default="")
    return "coordinates_mode 'unnormalized'" if mode == "unnormalized" else None


def _inner_width(operation: Operation) -> str | None:
    """Words for a window of the width that does not begin at 0."""
    if not _is_fp16(operation):
        return None
    width = static_shape(operation.tensor("x"))[-1:]
    if operation.type == "crop":
        begin = (operation.integers("crop_width") or (0,))[0]
    elif not width:
        return None
    else:
        begin = (operation.integers("begin") or (0,))[-1]
        rank = len(operation.tensor("x").shape)
        if operation.type == "slice_by_index" and flags(operation, "begin_mask", rank)[-1]:
            begin = 0
        begin += width[0] if begin < 0 else 0
    return f"a slice of the width that begins at {begin}" if begin else None


def _not_finite(operation: Operation) -> str | None:
    lost = [name for name, values in _halves(operation) if np.isinf(values).any()]
    return f"infinite in fp16: {', '.join(lost)}" if lost else None


def _halves(operation: Operation) -> Iterator[tuple[str, NDArray[Any]]]:
    """Give the constants that an operation holds in fp16."""
    for name, argument in operation.inputs.items():
        for value in (argument,) if isinstance(argument, Value) else argument:
            if value.constant is not None and value.constant.dtype == np.float16:
                yield name, value.constant


def _infinite_variance(operation: Operation) -> str | None:
    variance = operation.constant("variance")
    dead = 0 if variance is None else int(np.isinf(variance).sum())
    return f"variances beyond fp16 in {dead} channels" if dead else None


def _lost_epsilon(operation: Operation) -> str | None:
    """Words for the gain that a channel gets where an epsilon that is subnormal is flushed."""
    variance = operation.constant("variance")
    if not _is_fp16(operation) or variance is None or not variance.size:
        return None
    epsilon = number(operation, "epsilon")
    smallest = float(variance.min())
    if epsilon >= float(np.finfo(np.float16).smallest_normal) or smallest < 0:
        return None
    if smallest == 0:
        return f"a variance of 0 beside the epsilon {epsilon:.3g}, which is subnormal in fp16"
    gain = float(np.sqrt((smallest + epsilon) / smallest))
    if gain < 1.005:
        return None
    return f"the epsilon {epsilon:.3g} is subnormal in fp16; a channel gets the gain {gain:.3g}"


def _wide_batch(operation: Operation) -> str | None:
    batch = static_shape(operation.tensor("query"))[0]
    return f"a batch of {batch}" if batch >= 10 else None


_CROPS = ("explicit-crop", "zero-insertion", "subpixel")
_NO_TRANSPOSE = ("zero-insertion", "subpixel")
_ISLAND = ("fp32-island",)
_ANE_GUIDE = "sbryngelson/ane-guide"

RULES: tuple[Rule, ...] = (
    Rule(
        "A1",
        "the crop of a transposed convolution begins at the wrong place; the output is displaced",
        ("conv_transpose",),
        _unequal_pads_in_fp16,
        "fault",
        "M1, macOS 14.3, all compute units",
        ("apple/coremltools #2324", "microsoft/onnxruntime #21416"),
        "crop explicitly, use an ordinary convolution, or compute this operation in fp32",
        (*_CROPS, *_ISLAND),
    ),
    Rule(
        "A2",
        "compute units keep different parts of the un-cropped result; the output is displaced",
        ("conv_transpose",),
        _unnatural_shape,
        "fault",
        "macOS, CPU against all compute units, fp32 too",
        ("apple/coremltools #2281", "microsoft/onnxruntime #21416"),
        "crop explicitly, or use an ordinary convolution",
        _CROPS,
    ),
    Rule(
        "A3",
        "unequal pads are right on the CPU; of other devices in fp32 the reports differ",
        ("conv_transpose",),
        _unequal_pads_in_fp32,
        "risk",
        "macOS, GPU; but right on M1, macOS 14.3",
        ("microsoft/onnxruntime #21416", "apple/coremltools #2324"),
        "crop explicitly, or use an ordinary convolution",
        _CROPS,
    ),
    Rule(
        "A3",
        "pads that Core ML derives itself are not trusted by other users of Core ML",
        ("conv_transpose",),
        _same_pads,
        "risk",
        "macOS",
        ("microsoft/onnxruntime #21416",),
        "crop explicitly, or use an ordinary convolution",
        _CROPS,
    ),
    Rule(
        "A4",
        "an output_padding that Core ML does not know; the end of the output is not what PyTorch's "
        "is, or the length differs",
        ("conv_transpose",),
        _tail,
        "risk",
        "any: made by the conversion",
        ("apple/coremltools #1946", "apple/coreai-torch #57"),
        "compare the output's shape with PyTorch's; pad explicitly",
        _CROPS,
    ),
    Rule(
        "A6",
        "long kernels and large strides give unstructured errors",
        ("conv_transpose",),
        _long_kernel,
        "risk",
        "Core AI 0.4, CPU, fp32",
        ("john-rocky/coreai-model-zoo #18",),
        "use an ordinary convolution, or the GPU",
        _NO_TRANSPOSE,
    ),
    Rule(
        "A9",
        "a large stride cannot be split into factors; the model does not load, or differs by chip",
        ("conv", "conv_transpose"),
        _large_stride,
        "risk",
        "iOS, iPad, Neural Engine",
        ("apple/coremltools #2450", "apple/coremltools #2173"),
        "use an ordinary convolution, or keep the Neural Engine out",
        _NO_TRANSPOSE,
    ),
    Rule(
        "B2",
        "the last element of each channel is wrong",
        ("conv",),
        _mixed_kernel,
        "risk",
        "ML Programs; device not stated",
        ("apple/coremltools #2515",),
        "pad explicitly before a convolution without pads",
    ),
    Rule(
        "B3",
        "1-D pooling with pad_type same_lower is wrong",
        ("avg_pool", "max_pool", "l2_pool"),
        _same_lower_1d,
        "fault",
        "macOS; rdar98852008",
        ("coremltools, expected failures of its tests",),
        "pad explicitly before a pooling without pads",
    ),
    Rule(
        "B4",
        "windows at the edge are divided by the full size; the border is too small",
        ("avg_pool",),
        _ceil_mode,
        "fault",
        "device not stated",
        ("apple/coremltools #2772", "apple/coremltools #2844"),
        "pad explicitly before a pooling without ceil_mode",
    ),
    Rule(
        "C1",
        "nearest neighbours at fractional factors are wrong",
        ("upsample_nearest_neighbor",),
        _fractional_nearest,
        "fault",
        "macOS, GPU; rdar97398448",
        ("coremltools, expected failures of its tests",),
        "resize by a whole factor, or run on the CPU",
    ),
    Rule(
        "C1",
        "crop_resize is wrong",
        ("crop_resize",),
        _always,
        "risk",
        "macOS, GPU; fp16 out of bounds; rdar97398582, rdar98749492",
        ("coremltools, expected failures of its tests",),
        "compute this operation in fp32 on the CPU",
        _ISLAND,
    ),
    Rule(
        "C2",
        "resizing is done in different ways by chips, which round differently",
        ("resize_bilinear", "upsample_bilinear", "crop_resize", "resample"),
        _in_fp16,
        "risk",
        "Neural Engine, M1 against A14 and M2",
        (_ANE_GUIDE,),
        "compute this operation in fp32",
        _ISLAND,
    ),
    Rule(
        "C3",
        "the displacement grows with the position, up to a pixel",
        ("resize_bilinear", "upsample_bilinear", "crop_resize", "resample", "affine"),
        _beyond_1024,
        "risk",
        "macOS, GPU or Neural Engine; flexible shapes",
        ("microsoft/onnxruntime #21170",),
        "compute this operation in fp32, or work on tiles of at most 1024 pixels",
        _ISLAND,
    ),
    Rule(
        "C4",
        "sampling coordinates are too coarse",
        ("resample",),
        _coarse_coordinates,
        "risk",
        "any that computes coordinates in fp16",
        ("apple/coremltools #2068", "apple/coremltools #1875"),
        "compute in fp32 the coordinates too, from their first operation on; or use smaller tiles",
    ),
    Rule(
        "C4",
        "coordinates that are not normalised are mistaken",
        ("resample",),
        _unnormalized,
        "fault",
        "macOS 14",
        ("apple/coremltools #2752",),
        "normalise to [-1, 1] with align_corners",
    ),
    Rule(
        "E1",
        "values beyond about 4094 become infinite",
        ("slice_by_index", "slice_by_size", "crop"),
        _inner_width,
        "risk",
        "Neural Engine of A14, M1 and M2",
        (_ANE_GUIDE,),
        "slice the height instead, or compute this operation in fp32",
        _ISLAND,
    ),
    Rule(
        "E1",
        "a constant overflows in fp16",
        (),
        _not_finite,
        "risk",
        "any that computes in fp16",
        ("apple/coremltools #2110", "apple/coremltools #1671"),
        "convert with a smaller constant, or compute this operation in fp32 with the weights of "
        "the fp32 package (--weights-from)",
        _ISLAND,
    ),
    Rule(
        "E2",
        "softplus is 0 above 10.4",
        ("softplus", "softplus_parametric"),
        _in_fp16,
        "risk",
        "Neural Engine",
        ("apple/coremltools #2687",),
        "compute this operation in fp32",
        _ISLAND,
    ),
    Rule(
        "E2",
        "logsumexp is 0 above log(65504 / n)",
        ("reduce_log_sum_exp",),
        _in_fp16,
        "risk",
        "device not stated",
        ("apple/coremltools #2690",),
        "subtract the maximum first, or compute this operation in fp32",
        _ISLAND,
    ),
    Rule(
        "E3",
        "the function is a table of few knots; values are biased by up to 0.003",
        ("sigmoid", "gelu", "silu"),
        _in_fp16,
        "risk",
        "Neural Engine",
        (_ANE_GUIDE,),
        "compute this operation in fp32 where that matters",
        _ISLAND,
    ),
    Rule(
        "E3",
        "the function is a table of few knots; values are off by 0.04 to 0.12",
        ("sin", "cos", "atan"),
        _in_fp16,
        "risk",
        "Neural Engine",
        (_ANE_GUIDE,),
        "compute this operation in fp32",
        _ISLAND,
    ),
    Rule(
        "E4",
        "channels whose variance is beyond fp16 are constant",
        ("batch_norm",),
        _infinite_variance,
        "fault",
        "any that computes in fp16",
        ("apple/coreai-torch #54",),
        "fold the normalisation before the conversion, or compute this operation in fp32 with the "
        "weights of the fp32 package (--weights-from)",
        _ISLAND,
    ),
    Rule(
        "E4",
        "channels of small variance get another gain where the epsilon is flushed",
        ("batch_norm",),
        _lost_epsilon,
        "risk",
        "any that flushes subnormals",
        ("apple/coreai-torch #54", "pytorch #84962"),
        "fold the normalisation before the conversion, or compute this operation in fp32",
        _ISLAND,
    ),
    Rule(
        "E6",
        "fused attention is wrong for ten or more samples",
        ("scaled_dot_product_attention",),
        _wide_batch,
        "fault",
        "macOS, GPU",
        ("apple/coremltools #2650",),
        "run smaller batches, or convert for a target before iOS 18",
    ),
    Rule(
        "E6",
        "weights that are an input are mistaken",
        ("conv",),
        _weights_as_input,
        "risk",
        "macOS; rdar97398343",
        ("coremltools, expected failures of its tests",),
        "make the weights constants",
    ),
    Rule(
        "E6",
        "an operation that is inexact in fp16",
        ("layer_norm", "non_maximum_suppression"),
        _in_fp16,
        "risk",
        "macOS, GPU; rdar80662357, rdar103891349",
        ("coremltools, expected failures of its tests",),
        "compute this operation in fp32",
        _ISLAND,
    ),
)
"""All rules, in the order of the catalogue."""
