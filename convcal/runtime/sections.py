# SPDX-License-Identifier: BSD-3-Clause
"""A program with faults of arrays inside: it runs section by section, up to each fault's place."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml.program import Program
from convcal.errors import InputError
from convcal.faults import ArrayFault
from convcal.runtime.execution import ExecutableProgram
from convcal.runtime.operation_faults import EmulatedFault, operation_faults
from convcal.runtime.translation import NO_TENSORS, OPERATIONS, find_value, nearest, translate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.program import Operation, Value
    from convcal.faults import Fault
    from convcal.runtime.faults import Distortion

__all__ = ["SectionedProgram"]

_FLOATING = ("float16", "float32")


class SectionedProgram:
    """A program, ready to run on the CPU, with the faults inside emulated.

    It is cut behind every operation whose result a fault of arrays distorts. Each section runs
    by itself; the next one is given the distorted tensor. Without such faults there is one section.
    ONNX Runtime fuses operations within a section only, so that where it is cut, fp32 results can
    differ in their last bits.

    Parameters
    ----------
    program : Program
        A function of a package.
    distortion : Distortion
        The faults: those of arrays with a place, and those of operations, act here; the others
        are passed over.
    outputs : sequence of str
        Tensors that `run` gives besides the program's outputs, distorted where they are.
    threads : int, optional
        How many threads an operation may use; by default as many as there are cores.
    where : str
        What errors call the program.

    Raises
    ------
    InputError
        If `outputs` or a fault names something that the program does not have, or a fault of
        arrays something that is no floating tensor or lies inside a block of an operation.
    UnsupportedModelError
        If the program has operations that are not translated.
    UnavailableError
        If onnx or onnxruntime is not installed.
    RunnerError
        If ONNX Runtime does not take the translation.
    """

    def __init__(
        self,
        program: Program,
        *,
        distortion: Distortion,
        outputs: Sequence[str] = (),
        threads: int | None = None,
        where: str = "the program",
    ) -> None:
        self._distortion = distortion
        self._faults = _by_value(program, distortion.faults)
        self._values = {value.name: value for value in self._faults}
        extra = [find_value(program, name) for name in outputs]
        # Of an output that nothing can compute with (a label), the runtime gives nothing.
        self._wanted = tuple(dict.fromkeys(value.name for value in (*program.outputs, *extra)))
        if self._faults:
            translate(program)  # so that what cannot be translated is listed for all sections
        self._operation_faults = operation_faults(distortion.faults)
        self._sections = [
            ExecutableProgram(
                section,
                faults=self._operation_faults,
                threads=threads,
                where=where,
            )
            for section in _sections(program, extra, self._faults)
        ]
        distortion.note(each.fault for each in self.faulted)

    @property
    def sections(self) -> tuple[ExecutableProgram, ...]:
        """What runs, one after the other."""
        return tuple(self._sections)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about how the program was understood."""
        each = (section.translation.warnings for section in self._sections)
        return tuple(dict.fromkeys(warning for warnings in each for warning in warnings))

    @property
    def faulted(self) -> frozenset[EmulatedFault]:
        """The faults of operations that act on some operation."""
        acting = set().union(*(section.translation.faulted for section in self._sections))
        return frozenset(each for each in self._operation_faults if each in acting)

    def run(
        self,
        tensors: Mapping[str, NDArray[Any]],
        *,
        states: MutableMapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run once, as `ExecutableProgram.run` does, with the faults.

        Raises
        ------
        RunnerError
            As there.
        InputError
            If a fault gives a tensor another shape than the program says.
        """
        known = self._distorted(tensors)
        kept = dict(states or {})  # each section goes on from what the one before it left
        for section in self._sections:
            results = section.run(known, states=kept)
            made = {name: array for name, array in results.items() if name not in known}
            known |= results | self._distorted(made)
        if states is not None:
            states.update(kept)
        return {name: known[name] for name in self._wanted if name in known}

    def _distorted(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        result = dict(arrays)
        for name in arrays.keys() & self._values.keys():
            value = self._values[name]
            with np.errstate(over="ignore"):  # an input that fp16 cannot hold is infinite
                array = arrays[name].astype(value.dtype, copy=False)
            for fault in self._faults[value]:
                array = self._distortion.distort(array, fault, kind="tensor")
                if array.shape != arrays[name].shape:
                    raise InputError(
                        f"the fault '{fault}' gives the tensor '{name}' the shape {array.shape}, "
                        f"and the program says {arrays[name].shape}; inside the network, faults "
                        "that keep the shape are accepted: emulate this one on the outputs"
                    )
            result[name] = array
        return result


def _by_value(program: Program, faults: Iterable[Fault]) -> dict[Value, list[ArrayFault]]:
    """Give the faults of arrays by the tensor that they distort, each in their order."""
    made: dict[str, tuple[Value, ...]] = {value.name: (value,) for value in program.inputs}
    made |= {operation.name: operation.outputs for operation in program.operations}
    # A tensor comes before an operation of that name.
    made |= {value.name: (value,) for each in program.operations for value in each.outputs}
    nested = {
        name: operation
        for operation in program.operations
        for block in operation.blocks
        for name in _names(block)
    }
    result: dict[Value, list[ArrayFault]] = {}
    for fault in faults:
        if isinstance(fault, ArrayFault) and fault.on is not None:
            for value in _results(program, fault):
                result.setdefault(value, []).append(fault)
        for name in fault.places:
            if name not in made and not (name in nested and not isinstance(fault, ArrayFault)):
                raise _unknown(fault, name, made, nested)
            if isinstance(fault, ArrayFault):
                for value in made[name]:
                    _check_place(fault, value)
                    result.setdefault(value, []).append(fault)
    return result


def _results(program: Program, fault: ArrayFault) -> Iterator[Value]:
    """Give the floating results of all operations of the types that a fault acts on."""
    types = fault.on or ()
    unknown = [each for each in types if each not in OPERATIONS]
    if unknown:
        raise InputError(
            f"the fault '{fault}' is to act on results of '{unknown[0]}', of which the reference "
            f"runtime knows nothing; the types of operations are {', '.join(sorted(OPERATIONS))}"
        )
    for operation in program.operations:
        for block in operation.blocks:
            for nested, _ in block.walk():
                if nested.type in types:
                    raise _unreachable(fault, nested.name, operation)
        if operation.type in types:
            for value in operation.outputs:
                if value.constant is None and value.dtype in _FLOATING:
                    yield value


def _names(block: Program) -> Iterator[str]:
    """Give the names of all operations and tensors of a block, nested ones included."""
    yield from (value.name for value in block.inputs)
    for operation, _ in block.walk():
        yield operation.name
        yield from (value.name for value in operation.outputs)
        for nested in operation.blocks:
            yield from (value.name for value in nested.inputs)


def _unknown(
    fault: Fault, name: str, made: Iterable[str], nested: Mapping[str, Operation]
) -> InputError:
    if name in nested:
        return _unreachable(fault, name, nested[name])
    return InputError(
        f"the fault '{fault}' is to act at '{name}', and the program has no such tensor or "
        f"operation; it has {nearest(name, list(made))}"
    )


def _unreachable(fault: Fault, name: str, outside: Operation) -> InputError:
    return InputError(
        f"the fault '{fault}' is to act at '{name}', which lies inside the {outside}; "
        "faults of arrays act on tensors outside of blocks: name those with at=NAME"
    )


def _check_place(fault: ArrayFault, value: Value) -> None:
    wrong = ""
    if value.constant is not None:
        wrong = "does not depend on the inputs"
    elif value.dtype not in _FLOATING:
        wrong = f"is of type {value.dtype}"
    if wrong:
        raise InputError(
            f"the fault '{fault}' is to act at the tensor '{value.name}', which {wrong}; "
            "computed tensors of float16 and float32 are accepted"
        )


def _sections(
    program: Program, extra: Sequence[Value], distorted: Iterable[Value]
) -> Iterator[Program]:
    """Cut the program behind the operations that make the distorted tensors."""
    wanted = dict.fromkeys((*program.outputs, *extra))
    made_by = {
        value: index
        for index, operation in enumerate(program.operations)
        for value in operation.outputs
    }
    cuts = sorted({made_by[value] + 1 for value in distorted if value in made_by})
    bounds = [0, *cuts, *({len(program.operations)} - set(cuts))]
    parts = [program.operations[start:end] for start, end in itertools.pairwise(bounds)]
    if len(parts) == 1:
        yield replace(program, outputs=tuple(wanted))
        return
    # What is asked for and made by no operation, as a state, comes from the last section.
    rest = [value for value in wanted if value not in made_by]
    for index, part in enumerate(parts):
        made = {value for operation in part for value in operation.outputs}
        later = {value for each in parts[index + 1 :] for value in _used(each)}
        given = [
            value for value in made_by if value in made and (value in wanted or value in later)
        ]
        is_last = index == len(parts) - 1
        outputs = (*given, *(rest if is_last else ()))
        taken = dict.fromkeys((*_used(part), *(rest if is_last else ())))
        inputs = [
            value
            for value in taken
            if value not in made and (value in made_by or value in program.inputs)
        ]
        states = tuple(value for value in taken if value in program.states)
        # What gives nothing may still update a state.
        if states or any(value.dtype not in NO_TENSORS for value in outputs):
            yield Program(tuple(inputs), outputs, tuple(part), states)


def _used(operations: Iterable[Operation]) -> Iterator[Value]:
    """Give the tensors that operations use, inside their blocks too."""
    for operation in operations:
        yield from operation.values
        for block in operation.blocks:
            yield from block.outputs
            yield from _used(block.operations)
