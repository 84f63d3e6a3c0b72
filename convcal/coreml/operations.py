# SPDX-License-Identifier: BSD-3-Clause
"""Build operations of an ML Program as protobuf messages.

Every operation has the form of the iOS 15 operation set, which all later ones accept (but for one
parameter of ``gather``), so that the deployment target stays. Constants are immediate values, which
leaves the weight file alone, unless a file for large ones is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml._coremltools import load_message_types
from convcal.coreml.blocks import walk_blocks
from convcal.coreml.describe import UNKNOWN_LENGTH
from convcal.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from convcal.coreml.weights import WeightTail

__all__ = ["LargeConstants", "OperationList", "Tensor", "all_names", "unique_name"]

_DATA_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "bool": "BOOL"}
_CAST_NAMES = {"float32": "fp32", "float16": "fp16", "int32": "int32"}
# coremltools puts constants of so many elements into the weight file.
_LARGE = 10


@dataclass(frozen=True)
class Tensor:
    """A value inside a program: its name, its shape and its NumPy dtype.

    Lengths that are known only when the program runs are `UNKNOWN_LENGTH`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LargeConstants:
    """Where constants too large for the program itself go.

    Parameters
    ----------
    name : str
        What the program calls its weight file.
    tail : WeightTail
        What is to be appended to it.
    """

    name: str
    tail: WeightTail


class OperationList:
    """Operations in the order in which they run, each with the constants that it needs.

    Parameters
    ----------
    prefix : str
        What every new name begins with.
    taken : set of str
        Names in use; new ones are added.
    opset : str
        The operation set of the block that they are for, ``"CoreML5"`` (iOS 15) or later.
    file : LargeConstants, optional
        Where large constants go; by default all are immediate values.

    Attributes
    ----------
    messages : list of MIL_pb2.Operation
        What was built.
    tensors : list of Tensor
        What the operations make, constants left out.
    """

    def __init__(
        self,
        prefix: str,
        taken: set[str],
        *,
        opset: str = "CoreML5",
        file: LargeConstants | None = None,
    ) -> None:
        self.messages: list[Any] = []
        self.tensors: list[Tensor] = []
        self._file = file
        # Of iOS 17 and later; ONNX Runtime found it required there, whatever MIL's documentation
        # says (microsoft/onnxruntime pull request 28478), and earlier sets do not know it.
        self._validates_indices = opset not in ("CoreML5", "CoreML6")
        self._prefix = prefix
        self._taken = taken
        _, self._mil = load_message_types()

    def cast(self, x: Tensor, *, dtype: str) -> Tensor:
        """Convert to float32, float16 or int32; nothing is built if that is the dtype."""
        if x.dtype == dtype:
            return x
        return self._append(
            "cast", x, x.shape, dtype=dtype, constants={"dtype": _CAST_NAMES[dtype]}
        )

    def reshape(self, x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
        """View the same values, in the same order, in another shape.

        Raises
        ------
        UnsupportedModelError
            If the shape has two or more lengths that are known only when the program runs.
        """
        if x.shape == shape:
            return x
        if shape.count(UNKNOWN_LENGTH) > 1:
            raise UnsupportedModelError(
                f"'{x.name}' would have to be reshaped along several flexible axes at once"
            )
        return self._append("reshape", x, shape, constants={"shape": _integers(shape)})

    def transpose(self, x: Tensor, *, permutation: Sequence[int]) -> Tensor:
        """Reorder axes: axis ``i`` of the result is axis ``permutation[i]`` of `x`."""
        shape = tuple(x.shape[axis] for axis in permutation)
        return self._append("transpose", x, shape, constants={"perm": _integers(permutation)})

    def pad_edges(self, x: Tensor, *, pads: Sequence[tuple[int, int]]) -> Tensor:
        """Repeat the edge values outward.

        Parameters
        ----------
        x : Tensor
            The input.
        pads : sequence of (int, int)
            Before and after, for each of the last axes. Core ML repeats edges on the last two axes
            only ("padding for more than two dimensions only supports `constant` mode"; measured on
            the device in coremltools pull request 2701), by at most the length of the axis.
        """
        return self._pad(x, pads, mode="replicate")

    def pad_zeros(self, x: Tensor, *, pads: Sequence[tuple[int, int]]) -> Tensor:
        """Add zeros before and after, for each of the last axes."""
        return self._pad(x, pads, mode="constant") if any(map(any, pads)) else x

    def _pad(self, x: Tensor, pads: Sequence[tuple[int, int]], *, mode: str) -> Tensor:
        n_kept = len(x.shape) - len(pads)
        shape = [
            *x.shape[:n_kept],
            *(_longer(n, sum(p)) for n, p in zip(x.shape[n_kept:], pads, strict=True)),
        ]
        return self._append(
            "pad",
            x,
            tuple(shape),
            constants={
                "pad": _integers([width for pair in pads for width in pair]),
                "mode": mode,
                "constant_val": np.zeros((), x.dtype),
            },
        )

    def crop_ends(self, x: Tensor, *, amounts: Sequence[tuple[int, int]]) -> Tensor:
        """Leave out positions in front and at the back of each axis, of any length.

        In float16 nothing is ever left out in front along the width: on the Neural Engines of
        A14, M1 and M2 such a slice saturates values beyond about 4094. A tensor of rank 3 or less
        is seen as one whose width is 1; others are turned, so that rows are left out.
        """
        if not any(map(any, amounts)):
            return x
        shape = tuple(_longer(n, -sum(pair)) for n, pair in zip(x.shape, amounts, strict=True))
        rank = len(shape)
        if x.dtype == "float32" or amounts[-1][0] == 0:
            return self._crop_ends(x, amounts, shape)
        if rank <= 3:
            column = self._crop_ends(
                self.reshape(x, shape=(*x.shape, 1)), [*amounts, (0, 0)], (*shape, 1)
            )
            return self.reshape(column, shape=shape)
        swap = [*range(rank - 2), rank - 1, rank - 2]
        front, back = amounts[-1]
        x = self.crop_ends(x, amounts=[*amounts[:-1], (0, back)])
        turned = self._crop_ends(
            self.transpose(x, permutation=swap),
            [(0, 0)] * (rank - 2) + [(front, 0), (0, 0)],
            tuple(shape[axis] for axis in swap),
        )
        return self.transpose(turned, permutation=swap)

    def _crop_ends(
        self, x: Tensor, amounts: Sequence[tuple[int, int]], shape: tuple[int, ...]
    ) -> Tensor:
        constants = {
            "begin": _integers([front for front, _ in amounts]),
            "end": _integers(
                [
                    -back if size == UNKNOWN_LENGTH else front + size
                    for (front, back), size in zip(amounts, shape, strict=True)
                ]
            ),
        }
        if UNKNOWN_LENGTH in shape:  # there an end of 0 would be the first position
            constants["end_mask"] = np.asarray([back == 0 for _, back in amounts])
        return self._append("slice_by_index", x, shape, constants=constants)

    def pixel_shuffle(self, x: Tensor, *, factor: int) -> Tensor:
        """Interleave blocks of ``factor**2`` channels into rows and columns, rank 4."""
        n, channels, height, width = x.shape
        shape = (n, channels // factor**2, _times(height, factor), _times(width, factor))
        constants = {"upscale_factor": np.asarray(factor, np.int32)}
        return self._append("pixel_shuffle", x, shape, constants=constants)

    def conv(
        self,
        x: Tensor,
        *,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        pads: Sequence[tuple[int, int]],
        dilations: Sequence[int],
        groups: int,
    ) -> Tensor:
        """Convolve with stride 1.

        Parameters
        ----------
        x : Tensor
            Of rank 3 to 5: batch, channels, space.
        weight : ndarray
            (output channels, input channels of a group, kernel…).
        bias : ndarray, optional
            One value per output channel.
        pads : sequence of (int, int)
            Zeros in front and at the back, per spatial axis.
        dilations : sequence of int
            Per spatial axis.
        groups : int
            How many groups of channels there are.
        """
        kernel = weight.shape[2:]
        spatial = (
            _longer(size, sum(pair) - (taps - 1) * dilation)
            for size, pair, taps, dilation in zip(x.shape[2:], pads, kernel, dilations, strict=True)
        )
        constants: dict[str, NDArray[Any] | str] = {
            "weight": weight,
            "strides": _integers([1] * len(kernel)),
            "pad_type": "custom",
            "pad": _integers([width for pair in pads for width in pair]),
            "dilations": _integers(dilations),
            "groups": np.asarray(groups, np.int32),
        }
        if bias is not None:
            constants["bias"] = bias
        return self._append("conv", x, (x.shape[0], weight.shape[0], *spatial), constants=constants)

    def repeat(
        self,
        operation: Any,
        *,
        results: Sequence[tuple[tuple[int, ...], str]],
        without: Sequence[str] = (),
        constants: Mapping[str, NDArray[Any] | str] | None = None,
        tensors: Mapping[str, Sequence[str]] | None = None,
    ) -> list[Tensor]:
        """Copy an operation that gives one or several tensors, with other inputs.

        Parameters
        ----------
        operation : MIL_pb2.Operation
            What is copied; it has no blocks.
        results : sequence of (tuple of int, str)
            Shape and dtype of each result.
        without : sequence of str
            Parameters to leave out.
        constants : mapping of str to ndarray or str, optional
            Parameters to give a new constant.
        tensors : mapping of str to sequence of str, optional
            Parameters to give other tensors, by name.
        """
        copy = self._mil.Operation()
        copy.CopyFrom(operation)
        names = [self._fresh(operation.type) for _ in results]
        given = {key: list(each) for key, each in (tensors or {}).items()}
        for parameter, value in (constants or {}).items():
            given[parameter] = [self._constant(f"{names[0]}_{parameter}", value)]
        for parameter in (*without, *given):
            if parameter in copy.inputs:
                del copy.inputs[parameter]
        for parameter, each in given.items():
            for name in each:
                copy.inputs[parameter].arguments.add(name=name)
        del copy.outputs[:]
        made = [Tensor(name, *each) for name, each in zip(names, results, strict=True)]
        for tensor in made:
            copy.outputs.add(name=tensor.name, type=self._type(tensor.dtype, tensor.shape))
        copy.attributes["name"].CopyFrom(self._value(names[0]))
        self.messages.append(copy)
        self.tensors += made
        return made

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant; give its name, which is `name` where that is free."""
        return self._constant(f"{self._prefix}_{name}", values)

    def filter_axis(self, x: Tensor, *, axis: int, taps: Sequence[float]) -> Tensor:
        """Sum windows of `x` along one axis, weighted by taps, for each channel alone.

        Parameters
        ----------
        x : Tensor
            Of rank 3 or 4, channels on axis 1.
        axis : int
            2 or 3.
        taps : sequence of float
            ``result[i] = sum over k of taps[k] * x[i + k]``.
        """
        n_channels = x.shape[1]
        n_spatial = len(x.shape) - 2
        kernel = [1] * n_spatial
        kernel[axis - 2] = len(taps)
        weight = np.broadcast_to(
            np.asarray(taps, x.dtype).reshape(kernel), (n_channels, 1, *kernel)
        )
        shape = list(x.shape)
        shape[axis] -= len(taps) - 1
        return self._append(
            "conv",
            x,
            tuple(shape),
            constants={
                "weight": weight,
                "strides": _integers([1] * n_spatial),
                "pad_type": "valid",
                "pad": _integers([0] * (2 * n_spatial)),
                "dilations": _integers([1] * n_spatial),
                "groups": np.asarray(n_channels, np.int32),
            },
        )

    def gather(self, x: Tensor, *, axis: int, indices: NDArray[Any]) -> Tensor:
        """Pick positions along one axis: ``result[i] = x[indices[i]]``, all within the axis."""
        shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
        constants = {"indices": indices.astype(np.int32), "axis": np.asarray(axis, np.int32)}
        if self._validates_indices:
            constants["validate_indices"] = np.asarray(False)
        return self._append("gather", x, shape, constants=constants)

    def sum(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two tensors of the same shape."""
        return self._append("add", x, x.shape, constants={}, others={"y": y})

    def multiply(self, x: Tensor, values: NDArray[Any]) -> Tensor:
        """Multiply by a constant that broadcasts to the shape of `x`."""
        return self._append("mul", x, x.shape, constants={"y": values.astype(x.dtype)})

    def add(self, x: Tensor, values: NDArray[Any]) -> Tensor:
        """Add a constant that broadcasts to the shape of `x`."""
        return self._append("add", x, x.shape, constants={"y": values.astype(x.dtype)})

    def _append(
        self,
        kind: str,
        x: Tensor,
        shape: tuple[int, ...],
        *,
        constants: Mapping[str, NDArray[Any] | str],
        dtype: str | None = None,
        others: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        result = Tensor(self._fresh(kind), shape, x.dtype if dtype is None else dtype)
        names = {
            parameter: self._constant(f"{result.name}_{parameter}", value)
            for parameter, value in constants.items()
        }
        operation = self._mil.Operation(type=kind)
        tensors = {key: tensor.name for key, tensor in (others or {}).items()}
        for parameter, name in {"x": x.name, **tensors, **names}.items():
            operation.inputs[parameter].arguments.add(name=name)
        operation.outputs.add(name=result.name, type=self._type(result.dtype, result.shape))
        operation.attributes["name"].CopyFrom(self._value(result.name))
        self.messages.append(operation)
        self.tensors.append(result)
        return result

    def _constant(self, name: str, value: NDArray[Any] | str) -> str:
        name = self._unique(name)
        operation = self._mil.Operation(type="const")
        stored = self._stored(value)
        message = self._value(value) if stored is None else stored
        operation.outputs.add(name=name, type=message.type)
        operation.attributes["val"].CopyFrom(message)
        operation.attributes["name"].CopyFrom(self._value(name))
        self.messages.append(operation)
        return name

    def _fresh(self, kind: str) -> str:
        return self._unique(f"{self._prefix}_{kind}")

    def _unique(self, name: str) -> str:
        return unique_name(name, self._taken)

    def _type(self, dtype: str, shape: Sequence[int]) -> Any:
        message = self._mil.ValueType()
        data_type = "STRING" if dtype == "str" else _DATA_TYPES[dtype]
        message.tensorType.dataType = self._mil.DataType.Value(data_type)
        message.tensorType.rank = len(shape)
        for size in shape:
            dimension = message.tensorType.dimensions.add()
            if size == UNKNOWN_LENGTH:
                dimension.unknown.variadic = False
            else:
                dimension.constant.size = size
        return message

    def _stored(self, value: NDArray[Any] | str) -> Any:
        """Put a constant into the weight file; None if it is not for there."""
        file = self._file
        if file is None or isinstance(value, str) or value.dtype.kind != "f" or value.size < _LARGE:
            return None
        message = self._mil.Value(type=self._type(value.dtype.name, value.shape))
        message.blobFileValue.fileName = file.name
        message.blobFileValue.offset = file.tail.append(value)
        return message

    def _value(self, value: NDArray[Any] | str) -> Any:
        if isinstance(value, str):
            message = self._mil.Value(type=self._type("str", ()))
            message.immediateValue.tensor.strings.values.append(value)
            return message
        message = self._mil.Value(type=self._type(value.dtype.name, value.shape))
        tensor = message.immediateValue.tensor
        if value.dtype == np.float16:  # the format has no half-precision numbers, only bytes
            tensor.bytes.values = value.astype("<f2").tobytes()
        elif value.dtype == np.float32:
            tensor.floats.values.extend(value.ravel().tolist())
        elif value.dtype == np.bool_:
            tensor.bools.values.extend(value.ravel().tolist())
        else:
            tensor.ints.values.extend(value.ravel().tolist())
        return message


def unique_name(name: str, taken: set[str]) -> str:
    """Give `name`, or `name` with the first free number behind it, and mark it as taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def all_names(program: Any) -> Iterator[str]:
    """Give every name that a program uses, for tensors and for operations; some come twice."""
    for function in program.functions.values():
        yield from (value.name for value in function.inputs)
        for specialization in function.block_specializations.values():
            for block in walk_blocks(specialization):
                yield from _names_in(block)


def _names_in(block: Any) -> Iterator[str]:
    yield from (value.name for value in block.inputs)
    yield from block.outputs
    for operation in block.operations:
        yield from (value.name for value in operation.outputs)
        if "name" in operation.attributes:  # reading a missing key would add it
            yield from operation.attributes["name"].immediateValue.tensor.strings.values


def _longer(length: int, by: int) -> int:
    return length if length == UNKNOWN_LENGTH else length + by


def _times(length: int, factor: int) -> int:
    return length if length == UNKNOWN_LENGTH else length * factor


def _integers(values: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(values, np.int32)
