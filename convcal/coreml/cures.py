# SPDX-License-Identifier: BSD-3-Clause
r"""Say the same with other operations: what a known fault touches, in a form that none touches.

A transposed convolution with stride s, dilation d and kernel w of k taps first makes the
un-cropped result

.. math:: full[i] = \sum_j \sum_t x[j] w[t] \quad\text{where } j s + t d = i

of length (L - 1) s + (k - 1) d + 1, and keeps a window of it. Where that window begins is what
devices get wrong (``convcal.coreml.crop`` has the rule that is followed here). The three rewrites
of it are exact in exact arithmetic, each axis alone:

* ``explicit-crop``: the un-cropped result, without pads and ``output_shape``, and a slice of it.
* ``zero-insertion``: s - 1 zeros behind every position of x, and an ordinary convolution with the
  flipped kernel, whose pads take the place of the crop.
* ``subpixel``: the positions of the result that leave the same remainder r by s, counted from the
  first one that is kept, are an ordinary convolution of x with the taps for which t d leaves that
  remainder; one convolution makes all of them, as channels, which are then interleaved.

In the last two the crop in front lies in the pads and the phases, so that nothing is ever sliced
but a rest at the back. ``OperationList.crop_ends`` slices on the axis that no fault touches.

``fp32-island`` casts what an operation takes to fp32 and what it gives back to fp16. What one
island gives another takes as it is, not rounded. The Neural Engine computes in fp16 only, so that
the operation runs elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml.crop import crop_of
from convcal.coreml.describe import UNKNOWN_LENGTH
from convcal.coreml.operations import OperationList, Tensor
from convcal.coreml.parameters import static_shape
from convcal.coreml.program import Value
from convcal.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation

__all__ = ["BUILDERS", "Site", "is_candidate"]

# 1 GiB of fp32; more than any transposed convolution that runs on a phone.
_MOST_WEIGHTS = 1 << 28


@dataclass(frozen=True)
class Site:
    """An operation that is to be rewritten.

    Parameters
    ----------
    operation : Operation
        Its view, with the parameters; flexible lengths have their default.
    message : MIL_pb2.Operation
        Its message.
    tensors : mapping of str to Tensor
        By name all tensors of the function, as the messages type them.
    weights : mapping of str to ndarray
        By parameter constants in fp32 that take the place of its own, for ``fp32-island``.
    wide : mapping of str to str
        By the name of an fp16 tensor that of the fp32 tensor that it was rounded from, where an
        island gives it; ``fp32-island`` takes that one and adds those that it makes.
    """

    operation: Operation
    message: Any
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, NDArray[Any]]
    wide: MutableMapping[str, str]

    def input(self, parameter: str) -> Tensor:
        """Give the tensor that a parameter names."""
        (binding,) = self.message.inputs[parameter].arguments
        return self.tensors[binding.name]

    @property
    def results(self) -> list[Tensor]:
        """The tensors that it gives."""
        return [self.tensors[value.name] for value in self.message.outputs]


@dataclass(frozen=True)
class _Axis:
    """A spatial axis of a transposed convolution: what is read, and what is cropped."""

    length: int  # of the input; may be unknown
    stride: int
    taps: int
    dilation: int
    front: int
    back: int  # negative: so many positions past the un-cropped result

    @property
    def excess(self) -> int:
        """By how much the result is longer than the input times the stride."""
        return (self.taps - 1) * self.dilation + 1 - self.stride - self.front - self.back

    @property
    def full(self) -> int:
        """The length of the un-cropped result."""
        if self.length == UNKNOWN_LENGTH:
            return UNKNOWN_LENGTH
        return (self.length - 1) * self.stride + (self.taps - 1) * self.dilation + 1


def _axes(site: Site) -> list[_Axis]:
    """Give the axes of a ``conv_transpose``; refuse what cannot be rewritten."""
    operation = site.operation
    if operation.type != "conv_transpose":
        raise UnsupportedModelError("it is no conv_transpose; 'fp32-island' is for any operation")
    crop = crop_of(operation)
    lengths = site.input("x").shape[2:]
    if UNKNOWN_LENGTH in lengths and "output_shape" in operation.inputs:
        raise UnsupportedModelError("it has an output_shape, and its input has a flexible shape")
    if any(begin >= full for begin, full in zip(crop.begin, crop.full, strict=True)):
        raise UnsupportedModelError(
            f"its result begins at {crop.begin}, past the un-cropped one of {crop.full}"
        )
    kernel = static_shape(operation.tensor("weight"))[2:]
    rank = len(kernel)
    strides = operation.integers("strides") or (1,) * rank
    dilations = operation.integers("dilations") or (1,) * rank
    return [
        _Axis(*each)
        for each in zip(lengths, strides, kernel, dilations, crop.begin, crop.back, strict=True)
    ]


def _bias(operation: Operation) -> NDArray[Any] | None:
    return operation.constant("bias")


def _grouped_weight(operation: Operation, axes: Sequence[_Axis]) -> NDArray[Any]:
    """Give the weights as (group, output channel, input channel, kernel…)."""
    weight = operation.constant("weight")
    groups = _groups(operation)
    n_in = static_shape(operation.tensor("x"))[1]
    if weight is None or groups < 1 or weight.shape[0] != n_in or n_in % groups:
        raise UnsupportedModelError(
            f"its weights do not fit {n_in} input channels in {groups} groups"
        )
    by_group = weight.reshape(groups, -1, weight.shape[1], *(axis.taps for axis in axes))
    return np.swapaxes(by_group, 1, 2)


def _groups(operation: Operation) -> int:
    return (operation.integers("groups") or (1,))[0]


def explicit_crop(operations: OperationList, site: Site) -> list[Tensor]:
    """Build the un-cropped result and a crop of it; weights and bias stay where they are."""
    axes = _axes(site)
    operation, (result,) = site.operation, site.results
    rank = len(axes)
    if not any(axis.front or axis.back for axis in axes) and "output_shape" not in operation.inputs:
        raise UnsupportedModelError("it crops nothing")
    tails = [(0, max(0, -axis.back)) for axis in axes]
    bias = _bias(operation) if any(map(any, tails)) else None
    without = ["output_shape"] if bias is None else ["output_shape", "bias"]
    shape = (*result.shape[:2], *(axis.full for axis in axes))
    (x,) = operations.repeat(
        site.message,
        results=[(shape, result.dtype)],
        without=without,
        constants={"pad_type": "valid", "pad": np.zeros(2 * rank, np.int32)},
    )
    amounts = [(axis.front, max(0, axis.back)) for axis in axes]
    x = operations.crop_ends(x, amounts=[(0, 0), (0, 0), *amounts])
    x = operations.pad_zeros(x, pads=tails)
    if bias is not None:  # past the un-cropped result there is the bias alone
        x = operations.add(x, bias.reshape(-1, *[1] * rank))
    return [x]


def zero_insertion(operations: OperationList, site: Site) -> list[Tensor]:
    """Build the input with zeros inserted, and an ordinary convolution of it."""
    axes = _axes(site)
    operation, x = site.operation, site.input("x")
    weight = _grouped_weight(operation, axes)
    # Where more is cropped in front than the kernel reaches, taps of zero stand for the rest.
    extended = [
        max(axis.taps, -(-axis.front // axis.dilation) + 1 if axis.front else 1) for axis in axes
    ]
    _check_size(math.prod(weight.shape[:3]) * math.prod(extended))
    more = [(0, n - axis.taps) for n, axis in zip(extended, axes, strict=True)]
    weight = np.pad(weight, [(0, 0)] * 3 + more)
    weight = np.flip(weight, axis=tuple(range(3, 3 + len(axes))))
    pads, rests = [], []
    for n, axis in zip(extended, axes, strict=True):
        # The zeros behind the last position belong to what the convolution reads.
        back = axis.excess + axis.front
        pads.append(((n - 1) * axis.dilation - axis.front, max(0, back)))
        rests.append((0, max(0, -back)))
    y = operations.conv(
        _spread(operations, x, axes),
        weight=np.ascontiguousarray(weight.reshape(-1, *weight.shape[2:])),
        bias=_bias(operation),
        pads=pads,
        dilations=[axis.dilation for axis in axes],
        groups=_groups(operation),
    )
    return [operations.crop_ends(y, amounts=[(0, 0), (0, 0), *rests])]


def _spread(operations: OperationList, x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Put stride - 1 zeros behind every position, one axis after the other.

    Each axis is seen as one of rank 4: what is before it, itself, an axis of length 1 that is
    padded, and what is behind it.
    """
    shape = list(x.shape)
    for number, axis in enumerate(axes, start=2):
        if axis.stride == 1:
            continue
        view = (_product(shape[:number]), shape[number], 1, _product(shape[number + 1 :]))
        x = operations.reshape(x, shape=view)
        x = operations.pad_zeros(x, pads=[(0, axis.stride - 1), (0, 0)])
        shape[number] = _product([shape[number], axis.stride])
    return operations.reshape(x, shape=tuple(shape))


def subpixel(operations: OperationList, site: Site) -> list[Tensor]:
    """Build one ordinary convolution for all phases, and interleave them."""
    axes = _axes(site)
    operation, x = site.operation, site.input("x")
    strides = tuple(axis.stride for axis in axes)
    if len(set(strides)) > 1:
        raise UnsupportedModelError(
            f"its strides {strides} differ, and 'subpixel' needs equal ones; use 'zero-insertion'"
        )
    stride = strides[0]
    by_phase, pads, rests = [], [], []
    for axis in axes:
        phase, offset = _phases(axis)
        last = max(int(offset.max()), 0)
        first = int(offset.min())
        # The result has ceil(excess / stride) more blocks than the input has positions; where the
        # convolution makes more, the rest is cut off at the back.
        blocks = max(-(-axis.excess // stride), first)
        pads.append((last, blocks - first))
        rests.append((0, blocks * stride - axis.excess))
        by_phase.append((phase, last - offset, last - first + 1))
    weight = _phase_weight(_grouped_weight(operation, axes), by_phase, stride)
    bias = _bias(operation)
    y = operations.conv(
        x,
        weight=weight,
        bias=None if bias is None else np.repeat(bias, stride ** len(axes)),
        pads=pads,
        dilations=[1] * len(axes),
        groups=_groups(operation),
    )
    y = _interleaved(operations, y, n_axes=len(axes), stride=stride)
    return [operations.crop_ends(y, amounts=[(0, 0), (0, 0), *rests])]


def _phases(axis: _Axis) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Say for every tap which phase it belongs to, and by how many positions it looks back."""
    reach = np.arange(axis.taps) * axis.dilation - axis.front
    return reach % axis.stride, reach // axis.stride


def _phase_weight(
    weight: NDArray[Any],
    by_phase: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], int]],
    stride: int,
) -> NDArray[Any]:
    """Give every tap to its phase: weights of (output channel and phases, input channel, …)."""
    rank = len(by_phase)
    groups, n_out, n_in = weight.shape[:3]
    places: list[NDArray[np.int64]] = []
    shape: list[int] = []
    for number, (phase, position, n_taps) in enumerate(by_phase):
        along = [1] * rank
        along[number] = -1
        places += [phase.reshape(along), position.reshape(along)]
        shape += [stride, n_taps]
    _check_size(math.prod(shape) * math.prod(weight.shape[:3]))
    spread = np.zeros((*shape, groups, n_out, n_in), weight.dtype)
    spread[tuple(places)] = np.moveaxis(weight, (0, 1, 2), (-3, -2, -1))
    phases, taps = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    ordered = spread.transpose(2 * rank, 2 * rank + 1, *phases, 2 * rank + 2, *taps)
    kernel = [n_taps for _, _, n_taps in by_phase]
    return np.ascontiguousarray(ordered.reshape(groups * n_out * stride**rank, n_in, *kernel))


def _interleaved(operations: OperationList, y: Tensor, *, n_axes: int, stride: int) -> Tensor:
    """Turn channels (c, phase of each axis) into positions."""
    if stride == 1:
        return y
    if n_axes == 2:
        return operations.pixel_shuffle(y, factor=stride)
    n, channels, *lengths = y.shape
    kept = channels // stride**n_axes
    for number in reversed(range(n_axes)):  # the phase of the last axis is the innermost
        before = _product([n, kept, *[stride] * number])
        between, length = _product(lengths[:number]), lengths[number]
        after = _product(lengths[number + 1 :])
        if number == 0:
            shape: tuple[int, ...] = (before, stride, length, after)
            permutation = [0, 2, 1, 3]
        else:
            shape = (before, stride, between, length, after)
            permutation = [0, 2, 3, 1, 4]
        if after == 1:
            shape, permutation = shape[:-1], permutation[:-1]
        y = operations.transpose(operations.reshape(y, shape=shape), permutation=permutation)
        lengths[number] = _product([length, stride])
    return operations.reshape(y, shape=(n, kept, *lengths))


def _product(lengths: Sequence[int]) -> int:
    return UNKNOWN_LENGTH if UNKNOWN_LENGTH in lengths else math.prod(lengths)


def _check_size(n_weights: int) -> None:
    if n_weights > _MOST_WEIGHTS:
        raise UnsupportedModelError(
            f"that would take {n_weights} weights, and at most {_MOST_WEIGHTS} are written; use "
            "'explicit-crop'"
        )


def fp32_island(operations: OperationList, site: Site) -> list[Tensor]:
    """Build the operation in fp32, casts around it; constants in fp16 are widened."""
    operation, message = site.operation, site.message
    if reason := _no_island(operation):
        raise UnsupportedModelError(reason)
    replaced: dict[str, list[str]] = {}
    wide = dict(site.wide)  # what is taken twice is cast once
    for parameter in sorted(message.inputs):
        argument = operation.inputs.get(parameter, ())
        values = (argument,) if isinstance(argument, Value) else argument
        if not any(value.dtype == "float16" for value in values):
            continue
        names = []
        for value in values:
            if value.name not in wide:
                wide[value.name] = _widened(operations, site, parameter, value)
            names.append(wide[value.name])
        replaced[parameter] = names
    results = [
        (tensor.shape, "float32" if tensor.dtype == "float16" else tensor.dtype)
        for tensor in site.results
    ]
    made = operations.repeat(message, results=results, tensors=replaced)
    site.wide.update(
        (result.name, tensor.name)
        for tensor, result in zip(made, site.results, strict=True)
        if tensor.dtype != result.dtype
    )
    return [
        operations.cast(tensor, dtype=result.dtype)
        for tensor, result in zip(made, site.results, strict=True)
    ]


def _no_island(operation: Operation) -> str:
    """Say why an operation cannot be computed in fp32; nothing if it can."""
    if operation.is_folded:
        return "it makes a constant"
    if not any(value.dtype == "float16" for value in operation.outputs):
        return "it gives nothing in fp16"
    kind = operation.type
    # The precision of these is a parameter, that of a state, or drawn with the values.
    is_bound = kind in ("cast", "classify", "identity") or "state" in kind or "list" in kind
    if is_bound or operation.blocks or kind.startswith(("random_", "constexpr_")):
        return f"a '{kind}' cannot compute in another precision"
    takes_fp16 = any(value.dtype == "float16" for value in operation.values)
    return "" if takes_fp16 else "it takes nothing in fp16"


def is_candidate(strategy: str, operation: Operation) -> bool:
    """Whether a strategy is made for an operation of this kind, though it may refuse this one."""
    if strategy == "fp32-island":
        return not _no_island(operation)
    return operation.type == "conv_transpose"


def _widened(operations: OperationList, site: Site, parameter: str, value: Value) -> str:
    if value.dtype != "float16":
        return value.name
    if value.constant is None:
        return operations.cast(site.tensors[value.name], dtype="float32").name
    array = site.weights.get(parameter, value.constant)
    return operations.constant(parameter, np.asarray(array, np.float32))


BUILDERS: Mapping[str, Callable[[OperationList, Site], list[Tensor]]] = {
    "explicit-crop": explicit_crop,
    "zero-insertion": zero_insertion,
    "subpixel": subpixel,
    "fp32-island": fp32_island,
}
"""By the name of the strategy what builds the operations; they give the new results in order."""
