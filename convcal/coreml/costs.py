# SPDX-License-Identifier: BSD-3-Clause
"""What operations cost: how many there are, what they multiply, and what they move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convcal.coreml.parameters import static_shape
from convcal.coreml.program import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convcal.coreml.program import Operation

__all__ = ["Cost", "cost_of"]

_ITEM_SIZES = {"float16": 2, "float32": 4, "int32": 4, "bool": 1, "int8": 1, "uint8": 1}
# They give the same values in the same order.
_VIEWS = frozenset({"reshape", "expand_dims", "squeeze", "identity"})


@dataclass(frozen=True)
class Cost:
    """The cost of operations for one prediction.

    Parameters
    ----------
    operations : int
        How many there are; constants are none.
    multiply_adds : int
        Of convolutions, transposed convolutions and matrix products; other operations count as
        none.
    bytes_moved : int
        Of all tensors and constants that the operations read, and all that they write. Operations
        that only give a tensor another shape move nothing.
    """

    operations: int
    multiply_adds: int
    bytes_moved: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.operations + other.operations,
            self.multiply_adds + other.multiply_adds,
            self.bytes_moved + other.bytes_moved,
        )


def cost_of(operations: Iterable[Operation]) -> Cost:
    """Add up what operations cost.

    Parameters
    ----------
    operations : iterable of Operation
        Of a program whose shapes are known.

    Raises
    ------
    UnsupportedModelError
        If a shape depends on the values of the inputs.
    """
    total = Cost(0, 0, 0)
    for operation in operations:
        total += Cost(1, _multiply_adds(operation), _bytes_moved(operation))
    return total


def _multiply_adds(operation: Operation) -> int:
    if operation.type in ("conv", "conv_transpose"):
        x, weight = (static_shape(operation.tensor(name)) for name in ("x", "weight"))
        (y,) = (static_shape(value) for value in operation.outputs)
        # Each weight meets every position of the result, or, transposed, of the input.
        positions = y if operation.type == "conv" else x
        return positions[0] * math.prod(positions[2:]) * math.prod(weight)
    if operation.type in ("linear", "matmul"):
        x = static_shape(operation.tensor("x"))
        shared = x[-1]
        if operation.type == "matmul" and bool(operation.constant("transpose_x")):
            shared = x[-2]
        return math.prod(static_shape(operation.outputs[0])) * shared
    return 0


def _bytes_moved(operation: Operation) -> int:
    if operation.type in _VIEWS:
        return 0
    return sum(_size(value) for value in (*operation.values, *operation.outputs))


def _size(value: Value) -> int:
    if value.dtype not in _ITEM_SIZES:
        return 0  # text, lists of tensors
    if value.constant is not None:  # strides, pads and axes are part of the operation
        return value.constant.nbytes if value.constant.dtype.kind == "f" else 0
    return math.prod(static_shape(value)) * _ITEM_SIZES[value.dtype]
