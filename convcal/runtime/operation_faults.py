# SPDX-License-Identifier: BSD-3-Clause
"""What the faults of operations do: the operation as the device computes it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml.program import Value
from convcal.faults import (
    CropOrigin,
    Fault,
    Fp16Epsilon,
    Fp16Grid,
    Fp16Index,
    Fp16Scale,
    LutActivation,
    SliceSaturate,
    StrideOne,
)
from convcal.runtime.translation.parameters import flags, number, static_shape
from convcal.runtime.translation.resizing import RESIZES
from convcal.runtime.translation.sampling import (
    affine_points,
    crop_resize,
    exact,
    resample_points,
    sampled,
)
from convcal.runtime.translation.transposed_convolution import (
    Crop,
    crop_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation
    from convcal.runtime.translation.graph import Graph

    Translate = Callable[[Graph, Operation], list[str]]

__all__ = ["EmulatedFault", "operation_faults"]

_INT64 = 7


@dataclass(frozen=True)
class EmulatedFault:
    """A fault of operations at work.

    Parameters
    ----------
    fault : Fault
        Its parameters.
    """

    fault: Fault

    def translate(
        self, graph: Graph, operation: Operation, translate: Translate
    ) -> list[str] | None:
        """Translate an operation as the device computes it; None where the fault is not seen."""
        types, faulty = _TRANSLATIONS[type(self.fault)]
        if operation.type not in types or not self._is_here(operation):
            return None
        return faulty(self.fault, graph, operation, translate)

    def _is_here(self, operation: Operation) -> bool:
        names = {operation.name, *(value.name for value in operation.outputs)}
        return not self.fault.places or not names.isdisjoint(self.fault.places)


def operation_faults(faults: Iterable[Fault]) -> list[EmulatedFault]:
    """Give the faults of operations among these, ready for the translator.

    Whatever their order, a crop is decided on before the stride, and that before the indices.
    """
    order = list(_TRANSLATIONS)
    ours = [fault for fault in faults if type(fault) in order]
    return [EmulatedFault(fault) for fault in sorted(ours, key=lambda f: order.index(type(f)))]


def _crop_origin(
    fault: CropOrigin, graph: Graph, operation: Operation, translate: Translate
) -> list[str] | None:
    if fault.precision == "fp16" and operation.outputs[0].dtype != "float16":
        return None
    crop = crop_of(operation)
    if crop.is_regular:
        return None
    fronts, backs = crop.begin, _backs(crop)
    if fault.variant == "symmetric":
        larger = tuple(max(pair) for pair in zip(fronts, backs, strict=True))
        if larger == fronts == backs:
            return None
        return _cropped(graph, operation, crop, translate, begin=larger, end=larger)
    begin = {
        "zero": (0,) * len(fronts),
        "half": tuple(max(0, f - n) // 2 for f, n in zip(crop.full, crop.size, strict=True)),
        "swapped": backs,
    }[fault.variant]
    if begin == fronts:
        return None
    return translate(graph, _recropped(operation, begin=begin, size=crop.size))


def _backs(crop: Crop) -> tuple[int, ...]:
    """Give how many positions are cropped at the back, per spatial axis."""
    return tuple(
        max(0, full - size - front)
        for full, size, front in zip(crop.full, crop.size, crop.begin, strict=True)
    )


def _recropped(operation: Operation, *, begin: tuple[int, ...], size: tuple[int, ...]) -> Operation:
    """Give the same ``conv_transpose``, keeping so many positions from there on."""
    pads = [pad for front in begin for pad in (front, 0)]
    changes = {
        "pad_type": np.array("custom"),
        "pad": np.array(pads, np.int32),
        "output_shape": np.array([*operation.outputs[0].shape[:2], *size], np.int32),
    }
    return _changed(operation, changes)


def _cropped(
    graph: Graph,
    operation: Operation,
    crop: Crop,
    translate: Translate,
    *,
    begin: tuple[int, ...],
    end: tuple[int, ...],
) -> list[str]:
    """Crop so many positions in front and at the back; zeros fill up the length."""
    kept = tuple(
        min(size, max(0, full - front - back))
        for full, size, front, back in zip(crop.full, crop.size, begin, end, strict=True)
    )
    (result,) = translate(graph, _recropped(operation, begin=begin, size=kept))
    tails = (size - length for size, length in zip(crop.size, kept, strict=True))
    pads = graph.integers((0,) * (2 + len(kept)) + (0, 0, *tails))
    return [graph.node("Pad", result, pads)]


def _stride_one(
    _: StrideOne, graph: Graph, operation: Operation, translate: Translate
) -> list[str] | None:
    crop = crop_of(operation)
    kernel = static_shape(operation.tensor("weight"))[2:]
    strides = operation.integers("strides") or (1,) * len(kernel)
    if all(stride == 1 for stride in strides):
        return None
    lengths = static_shape(operation.tensor("x"))[2:]
    shorter = tuple(
        full - (length - 1) * (stride - 1)
        for full, length, stride in zip(crop.full, lengths, strides, strict=True)
    )
    changed = _changed(operation, {"strides": np.ones(len(kernel), np.int32)})
    narrow = dataclasses.replace(crop, full=shorter)
    return _cropped(graph, changed, narrow, translate, begin=crop.begin, end=_backs(crop))


def _fp16_index(
    _: Fp16Index, graph: Graph, operation: Operation, _translate: Translate
) -> list[str] | None:
    crop = crop_of(operation)
    # Every whole number up to 2048 is one of fp16.
    if all(front + size <= 2049 for front, size in zip(crop.begin, crop.size, strict=True)):
        return None
    weight = operation.tensor("weight")
    n_inputs, n_outputs, *kernel = static_shape(weight)
    rank = len(kernel)
    lengths = static_shape(operation.tensor("x"))[2:]
    strides = operation.integers("strides") or (1,) * rank
    dilations = operation.integers("dilations") or (1,) * rank
    groups = (operation.integers("groups") or (1,))[0]
    # As ONNX's Conv wants them: per group, outputs by inputs.
    taps = graph.node(
        "Reshape",
        graph.node(
            "Transpose",
            graph.node(
                "Reshape",
                graph.tensor(weight),
                graph.integers((groups, n_inputs // groups, n_outputs, *kernel)),
            ),
            perm=(0, 2, 1, *range(3, 3 + rank)),
        ),
        graph.integers((groups * n_outputs, n_inputs // groups, *kernel)),
    )
    sources = [
        _sources(*lengths_of_axis, stride=stride, kernel=taps_of_axis, dilation=dilation)
        for lengths_of_axis, stride, taps_of_axis, dilation in zip(
            zip(lengths, crop.size, crop.begin, strict=True),
            strides,
            kernel,
            dilations,
            strict=True,
        )
    ]
    total = ""
    axes = graph.integers(range(2, 2 + rank))
    for tap in itertools.product(*(range(count) for count in kernel)):
        tensor = graph.tensor(operation.tensor("x"))
        for axis, index in enumerate(tap):
            places, inside = sources[axis][0][index], sources[axis][1][index]
            tensor = graph.node("Gather", tensor, graph.constant(places), axis=2 + axis)
            column = inside.astype(np.float32).reshape(-1, *(1,) * (rank - 1 - axis))
            # Not a product: what is not there may be infinite.
            tensor = graph.node("Where", graph.constant(column > 0), tensor, graph.number(0.0))
        one = graph.node(
            "Slice",
            taps,
            graph.integers(tap),
            graph.integers([index + 1 for index in tap]),
            axes,
        )
        part = graph.node("Conv", tensor, one, kernel_shape=(1,) * rank, group=groups)
        total = graph.node("Add", total, part) if total else part
    if "bias" in operation.inputs:
        bias = np.asarray(operation.constant("bias"), np.float32)
        total = graph.node("Add", total, graph.constant(bias.reshape(-1, *(1,) * rank)))
    return [total]


def _sources(
    length: int, size: int, begin: int, *, stride: int, kernel: int, dilation: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Give the input of each tap (rows) and output position (columns), and whether there is one.

    All arithmetic is that of a shader in fp16: a corner, plus the tap, over the stride.
    """
    reach = (kernel - 1) * dilation
    corners = (np.arange(size) + begin - reach).astype(np.float16)
    offsets = (reach - np.arange(kernel) * dilation).astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):  # positions beyond 65504 are nowhere
        places = ((corners + offsets[:, np.newaxis]) / np.float16(stride)).astype(np.float64)
        inside = (places >= 0) & (places < length) & (places == np.floor(places))
    return np.where(inside, places, 0).astype(np.int64), inside


def _fp16_scale(
    fault: Fp16Scale, graph: Graph, operation: Operation, _translate: Translate
) -> list[str] | None:
    n_axes = (operation.integers("resized_dims") or (2,))[0]
    counts = static_shape(operation.outputs[0])
    counts = counts[len(counts) - n_axes :]
    if not any(fault.growth(count) for count in counts):
        return None
    return RESIZES[operation.type](graph, operation, positions=fault.positions(counts))


def _fp16_grid(
    fault: Fp16Grid, graph: Graph, operation: Operation, _translate: Translate
) -> list[str] | None:
    stored = next(
        (operation.tensor(n) for n in ("coordinates", "boxes", "roi") if n in operation.inputs),
        None,
    )
    if fault.mode == "stored" and stored is not None and stored.dtype == "float16":
        return None
    if operation.type == "crop_resize":
        held = graph.rounded if fault.mode == "all" else exact
        return crop_resize(graph, operation, boxes_held=graph.rounded, held=held)
    points_of = affine_points if operation.type == "affine" else resample_points
    points = graph.rounded(points_of(graph, operation))
    held = graph.rounded if fault.mode == "all" else exact
    return sampled(graph, operation, points, held=held)


def _fp16_epsilon(
    fault: Fp16Epsilon, graph: Graph, operation: Operation, translate: Translate
) -> list[str] | None:
    epsilon = number(operation, "epsilon")
    held = fault.held(epsilon)
    if held == epsilon:
        return None
    return translate(graph, _changed(operation, {"epsilon": np.array(held, np.float32)}))


def _slice_saturate(
    fault: SliceSaturate, graph: Graph, operation: Operation, translate: Translate
) -> list[str] | None:
    x, begin = operation.tensor("x"), operation.tensor("begin")
    rank = len(x.shape)
    if begin.constant is None or not rank or x.dtype not in ("float16", "float32"):
        return None
    is_open = operation.type == "slice_by_index" and flags(operation, "begin_mask", rank)[-1]
    if is_open or int(np.ravel(begin.constant)[-1]) in (0, -(x.shape[-1] or 0)):
        return None
    (tensor,) = translate(graph, operation)
    is_lost = graph.node("Greater", graph.node("Abs", tensor), graph.number(fault.limit))
    infinite = graph.node("Mul", graph.node("Sign", tensor), graph.number(np.inf))
    return [graph.node("Where", is_lost, infinite, tensor)]


def _lut_activation(
    fault: LutActivation, graph: Graph, operation: Operation, translate: Translate
) -> list[str] | None:
    if fault.functions is not None and operation.type not in fault.functions:
        return None
    knots = np.linspace(-fault.reach, fault.reach, fault.knots, dtype=np.float32)
    (table,) = translate(graph, _changed(operation, {"x": knots}))
    (beyond,) = translate(graph, operation)
    x = graph.tensor(operation.tensor("x"))
    is_inside = graph.node("Less", graph.node("Abs", x), graph.number(fault.reach))
    # NaN is not inside, and has no segment.
    argument = graph.node("Where", is_inside, x, graph.number(0.0))
    step = 2 * fault.reach / (fault.knots - 1)
    moved = graph.node("Add", argument, graph.number(fault.reach))
    position = graph.node("Div", moved, graph.number(step))
    last = graph.number(fault.knots - 2)
    segment = graph.node("Clip", graph.node("Floor", position), graph.number(0.0), last)
    below = graph.node("Cast", segment, to=_INT64)
    above = graph.node("Add", below, graph.constant(np.array(1, np.int64)))
    start, end = (graph.node("Gather", table, index, axis=0) for index in (below, above))
    fraction = graph.node("Sub", position, segment)
    rise = graph.node("Mul", graph.node("Sub", end, start), fraction)
    return [graph.node("Where", is_inside, graph.node("Add", start, rise), beyond)]


def _changed(operation: Operation, parameters: Mapping[str, NDArray[Any]]) -> Operation:
    """Give the same operation with other constants for some of its parameters."""
    values = {
        name: Value(name, array.dtype.name, array.shape, array)
        for name, array in parameters.items()
    }
    return dataclasses.replace(operation, inputs={**operation.inputs, **values})


_TRANSPOSED = frozenset({"conv_transpose"})
_TRANSLATIONS: dict[
    type[Fault],
    tuple[frozenset[str], Callable[[Any, Graph, Operation, Translate], list[str] | None]],
] = {
    CropOrigin: (_TRANSPOSED, _crop_origin),
    StrideOne: (_TRANSPOSED, _stride_one),
    Fp16Index: (_TRANSPOSED, _fp16_index),
    Fp16Scale: (frozenset(RESIZES), _fp16_scale),
    Fp16Grid: (frozenset({"affine", "crop_resize", "resample"}), _fp16_grid),
    Fp16Epsilon: (
        frozenset({"batch_norm", "instance_norm", "l2_norm", "layer_norm"}),
        _fp16_epsilon,
    ),
    SliceSaturate: (frozenset({"slice_by_index", "slice_by_size"}), _slice_saturate),
    LutActivation: (frozenset(LutActivation.tabulated), _lut_activation),
}
"""By fault: the types of the operations that it touches, and how these are translated."""
