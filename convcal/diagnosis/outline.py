# SPDX-License-Identifier: BSD-3-Clause
"""A program as a graph of the tensors that mean something.

Casts between floating-point types, and identities, hold what their input holds: they are names
of the same tensor. What depends on no input is a constant, and what no output needs is dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from convcal.coreml.program import Operation, Program, Value

__all__ = ["Outline", "values_of"]

_FLOATS = ("float16", "float32", "float64")
_NUMBERS = (*_FLOATS, "int32", "bool", "int8", "uint8", "int16", "uint16")


class Outline:
    """The live operations of a program, and what their tensors depend on.

    Parameters
    ----------
    program : Program
        A function of a package.

    Attributes
    ----------
    operations : tuple of Operation
        In an order in which they can be computed; without aliases, constants and dead code.
    tensors : tuple of Value
        The inputs, what the operations compute, in that order, and outputs that are constants.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._producers = {
            value: operation for operation in program.operations for value in operation.outputs
        }
        alive = self._alive()
        self.operations = tuple(
            operation
            for operation in program.operations
            if operation in alive and not operation.is_folded and not _is_alias(operation)
        )
        made = (value for operation in self.operations for value in operation.outputs)
        fixed = dict.fromkeys(value for value in program.outputs if value.constant is not None)
        every = (*program.inputs, *made, *fixed)
        self.tensors = tuple(value for value in every if value.dtype in _NUMBERS)

    @cached_property
    def outputs(self) -> dict[str, Value]:
        """What the program gives, by the names of its outputs; what holds no numbers is not."""
        named = {value.name: self.origin(value) for value in self.program.outputs}
        return {name: value for name, value in named.items() if value in self.positions}

    @cached_property
    def positions(self) -> dict[Value, int]:
        """Where each tensor comes in `tensors`."""
        return {value: position for position, value in enumerate(self.tensors)}

    @cached_property
    def consumers(self) -> dict[Value, list[Operation]]:
        """Which operations use each tensor."""
        found: dict[Value, list[Operation]] = {value: [] for value in self.tensors}
        for operation in self.operations:
            for value in dict.fromkeys(self.operands(operation)):
                found[value].append(operation)
        return found

    def producer(self, value: Value) -> Operation | None:
        """Give the operation that computes a tensor; None for inputs."""
        return self._producers.get(value)

    def origin(self, value: Value) -> Value:
        """Give the tensor that a value is another name of; itself if it is none."""
        operation = self._producers.get(value)
        while operation is not None and value.constant is None and _is_alias(operation):
            value = operation.tensor("x")
            operation = self._producers.get(value)
        return value

    def operands(self, operation: Operation) -> list[Value]:
        """Give the tensors that an operation computes from, in order; constants are left out."""
        return [self.origin(value) for value in values_of(operation) if self._is_computed(value)]

    def _is_computed(self, value: Value) -> bool:
        return value.constant is None and self.origin(value) in self.positions

    def _alive(self) -> set[Operation]:
        alive: set[Operation] = set()
        waiting = list(self.program.outputs)
        while waiting:
            operation = self._producers.get(waiting.pop())
            if operation is not None and operation not in alive:
                alive.add(operation)
                waiting.extend(values_of(operation))
        return alive


def values_of(operation: Operation) -> Iterator[Value]:
    """Give all values that an operation uses, those that its blocks take from outside too."""
    yield from operation.values
    for block in operation.blocks:
        inner = set(block.inputs)
        for nested in block.operations:
            yield from (value for value in values_of(nested) if value not in inner)
            inner.update(nested.outputs)
        yield from (value for value in block.outputs if value not in inner)


def _is_alias(operation: Operation) -> bool:
    """Tell whether an operation gives its input, but for the precision."""
    if operation.type == "identity":
        return True
    return operation.type == "cast" and (
        operation.outputs[0].dtype == operation.tensor("x").dtype
        or {operation.outputs[0].dtype, operation.tensor("x").dtype} <= set(_FLOATS)
    )
