# SPDX-License-Identifier: BSD-3-Clause
"""Parameters of operations, checked, in the form in which they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convcal.errors import UnsupportedModelError

if TYPE_CHECKING:
    from convcal.coreml.program import Operation, Value

__all__ = ["flags", "number", "static_shape", "text"]


def static_shape(value: Value) -> tuple[int, ...]:
    """Give the shape of a tensor; refuse one that is known only when the program runs.

    Raises
    ------
    UnsupportedModelError
        If a length depends on the values of the inputs.
    """
    lengths = tuple(length for length in value.shape if length is not None)
    if len(lengths) != len(value.shape):
        raise UnsupportedModelError(
            f"the shape of '{value.name}' depends on the values of the inputs"
        )
    return lengths


def text(operation: Operation, name: str, *, default: str) -> str:
    """Give a parameter that holds text."""
    constant = operation.constant(name)
    return default if constant is None else str(constant.item())


def number(operation: Operation, name: str) -> float:
    """Give a parameter that holds one number, fp16 or fp32.

    Raises
    ------
    UnsupportedModelError
        If it is absent; coremltools fills in the defaults that there are.
    """
    constant = operation.constant(name)
    if constant is None:
        raise UnsupportedModelError(f"the parameter '{name}' is missing")
    return float(constant.item())


def flags(operation: Operation, name: str, count: int) -> tuple[bool, ...]:
    """Give a mask; all false if it is absent."""
    constant = operation.constant(name)
    return (
        (False,) * count if constant is None else tuple(bool(item) for item in np.ravel(constant))
    )
