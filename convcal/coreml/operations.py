# SPDX-License-Identifier: BSD-3-Clause
"""Build operations of an ML Program as protobuf messages.

Every operation has the form of the iOS 15 operation set, which all later ones accept (but for one
parameter of ``gather``), and every constant is an immediate value, so that neither the deployment
target nor the weight file changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml._coremltools import load_message_types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["OperationList", "Tensor"]

_DATA_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "bool": "BOOL"}
_CAST_NAMES = {"float32": "fp32", "float16": "fp16", "int32": "int32"}


@dataclass(frozen=True)
class Tensor:
    """A value inside a program: its name, its shape and its NumPy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


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

    Attributes
    ----------
    messages : list of MIL_pb2.Operation
        What was built.
    """

    def __init__(self, prefix: str, taken: set[str], *, opset: str = "CoreML5") -> None:
        self.messages: list[Any] = []
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
        """View the same values, in the same order, in another shape."""
        if x.shape == shape:
            return x
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
        n_kept = len(x.shape) - len(pads)
        shape = list(x.shape)
        for axis, (before, after) in enumerate(pads, start=n_kept):
            shape[axis] += before + after
        return self._append(
            "pad",
            x,
            tuple(shape),
            constants={
                "pad": _integers([width for pair in pads for width in pair]),
                "mode": "replicate",
                "constant_val": np.zeros((), x.dtype),
            },
        )

    def crop(self, x: Tensor, *, begin: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        """Keep a window of `x` that begins at `begin` and has the given shape."""
        end = [first + size for first, size in zip(begin, shape, strict=True)]
        return self._append(
            "slice_by_index",
            x,
            shape,
            constants={"begin": _integers(begin), "end": _integers(end)},
        )

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
        return result

    def _constant(self, name: str, value: NDArray[Any] | str) -> str:
        name = self._unique(name)
        operation = self._mil.Operation(type="const")
        message = self._value(value)
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
            message.tensorType.dimensions.add().constant.size = size
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


def _integers(values: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(values, np.int32)
