# SPDX-License-Identifier: BSD-3-Clause
"""Parts of a program, from tensors that are given to tensors that are wanted.

Where a tensor is both, it is computed from what is given before it, and what comes after it is
computed from what is given for it: so all operations of a program are run at once, each on inputs
of its own (teacher forcing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.coreml.program import Operation, Program, Value
from convcal.diagnosis.outline import Outline, values_of
from convcal.errors import UnsupportedModelError
from convcal.runtime.execution import ExecutableProgram
from convcal.runtime.translation import translate

__all__ = ["Computation", "in_precision", "part", "unrunnable"]

# Of results that are held at a time; larger ones are computed one after the other.
_BYTES_AT_A_TIME = 1 << 29

Argument = Value | tuple[Value, ...]


def part(outline: Outline, *, given: Collection[Value], wanted: Iterable[Value]) -> Program:
    """Cut the part out of a program that computes some of its tensors from others.

    Parameters
    ----------
    outline : Outline
        The program.
    given : collection of Value
        Where to stop; the program's inputs are given always.
    wanted : iterable of Value
        What to compute.

    Returns
    -------
    Program
        Its inputs are those of the given tensors that are needed, under their own names.
    """
    program = outline.program
    known = {*given, *program.inputs}
    wanted = tuple(wanted)
    made = {value: each for each in program.operations for value in each.outputs}
    needed: set[Operation] = set()
    used: set[Value] = set()
    waiting = [made[value] for value in wanted if value in made]
    while waiting:
        operation = waiting.pop()
        if operation in needed:
            continue
        needed.add(operation)
        for value in values_of(operation):
            if value in known:
                used.add(value)
            elif value in made and value.constant is None:
                waiting.append(made[value])
    used.update(value for value in wanted if value in program.inputs)
    fed = {
        value: value if value in program.inputs else replace(value)
        for value in outline.tensors
        if value in used
    }
    operations = tuple(_with_values(each, fed) for each in program.operations if each in needed)
    return Program(tuple(fed.values()), wanted, operations)


def in_precision(program: Program, dtype: str) -> Program:
    """Give a program another floating-point type throughout.

    Constants are rounded to it, but for single numbers that it cannot hold: an epsilon may be 0
    in fp16.

    Parameters
    ----------
    program : Program
        Of fp32 or fp16 tensors, or both.
    dtype : {"float16", "float32"}
        The type of its tensors afterwards.
    """
    return _retyped(program, dtype, {})


class Computation:
    """Tensors of a program, computed from others on the reference runtime.

    Parameters
    ----------
    outline : Outline
        The program.
    given : collection of Value
        Tensors that are given, besides the program's inputs.
    wanted : iterable of Value
        Tensors to compute.
    dtype : str, optional
        The floating-point type to compute in; by default that of the program.

    Attributes
    ----------
    needed : tuple of str
        Names of the tensors that `run` takes.
    """

    def __init__(
        self,
        outline: Outline,
        *,
        given: Collection[Value] = (),
        wanted: Iterable[Value],
        dtype: str | None = None,
    ) -> None:
        self._parts = []
        for group in _groups(wanted):
            program = part(outline, given=given, wanted=group)
            if dtype is not None:
                program = in_precision(program, dtype)
            self._parts.append((ExecutableProgram(program, where="a part of it"), program.inputs))
        names = (value.name for _, inputs in self._parts for value in inputs)
        self.needed = tuple(dict.fromkeys(names))

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Give the wanted tensors, name and array, for one sample."""
        for executable, inputs in self._parts:
            fed = {value.name: _shaped(tensors[value.name], value) for value in inputs}
            yield from executable.run(fed).items()


def unrunnable(outline: Outline) -> frozenset[Operation]:
    """Give the operations that the reference runtime does not have."""
    try:
        translate(part(outline, given=(), wanted=_computed(outline.operations)))
    except UnsupportedModelError:
        return frozenset(each for each in outline.operations if not _is_runnable(outline, each))
    return frozenset()


def _is_runnable(outline: Outline, operation: Operation) -> bool:
    try:
        wanted = _computed([operation])
        translate(part(outline, given=outline.operands(operation), wanted=wanted))
    except UnsupportedModelError:
        return False
    return True


def _computed(operations: Iterable[Operation]) -> list[Value]:
    return [value for each in operations for value in each.outputs if value.constant is None]


def _groups(wanted: Iterable[Value]) -> Iterator[list[Value]]:
    """Divide tensors into groups of bounded size."""
    group: list[Value] = []
    size = 0
    for value in wanted:
        n_bytes = 4 * math.prod(length or 1 for length in value.shape)
        if group and size + n_bytes > _BYTES_AT_A_TIME:
            yield group
            group, size = [], 0
        group.append(value)
        size += n_bytes
    if group:
        yield group


def _shaped(array: NDArray[Any], value: Value) -> NDArray[Any]:
    """Give an array the shape of the tensor that it stands for: the same elements in order."""
    if array.shape == value.shape or None in value.shape:
        return array
    return array.reshape([length or 1 for length in value.shape])


def _retyped(program: Program, dtype: str, known: dict[Value, Value]) -> Program:
    def of(value: Value) -> Value:
        if value.dtype not in ("float16", "float32"):
            return value
        if value not in known:
            constant = value.constant
            if constant is not None:
                with np.errstate(over="ignore"):
                    rounded = constant.astype(dtype)
                if constant.size > 1 or np.isclose(rounded, constant, rtol=1e-3, atol=0.0).all():
                    constant = rounded
            known[value] = replace(value, dtype=dtype, constant=constant)
        return known[value]

    operations = tuple(
        replace(
            each,
            inputs={name: _mapped(argument, of) for name, argument in each.inputs.items()},
            outputs=tuple(of(value) for value in each.outputs),
            blocks=tuple(_retyped(block, dtype, known) for block in each.blocks),
        )
        for each in program.operations
    )
    return Program(
        tuple(of(value) for value in program.inputs),
        tuple(of(value) for value in program.outputs),
        operations,
    )


def _with_values(operation: Operation, values: Mapping[Value, Value]) -> Operation:
    """Let an operation, and its blocks, use other values in the place of some."""

    def of(value: Value) -> Value:
        return values.get(value, value)

    return replace(
        operation,
        inputs={name: _mapped(argument, of) for name, argument in operation.inputs.items()},
        blocks=tuple(
            Program(
                block.inputs,
                tuple(of(value) for value in block.outputs),
                tuple(_with_values(each, values) for each in block.operations),
            )
            for block in operation.blocks
        ),
    )


def _mapped(argument: Argument, of: Callable[[Value], Value]) -> Argument:
    return tuple(of(each) for each in argument) if isinstance(argument, tuple) else of(argument)
