# SPDX-License-Identifier: BSD-3-Clause
"""A read-only view of one function of an ML Program, free of coremltools' own classes.

coremltools' ``milproto`` reader fills in default parameters, infers types and shapes, and folds
what is constant; this module copies its result into plain data. Protobuf messages go in, tuples
and NumPy arrays come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.coreml._coremltools import load_coremltools
from convcal.coreml.blocks import walk_blocks
from convcal.coreml.compression import DECOMPRESSIONS
from convcal.coreml.describe import default_function, function_description
from convcal.coreml.mapping import mapped_weights
from convcal.coreml.weights import spilled
from convcal.errors import ConvcalError, InputError, UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.coreml.package import Package

__all__ = ["Operation", "Program", "Value", "list_operations", "load_program"]

# coremltools' names of element types, as NumPy's where NumPy has them.
_DTYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of a program, or what is seen as one.

    A list is seen as a tensor with its axis in front, a state as the tensor in it, a classifier's
    table of probabilities as a vector in the order of the classes.

    Parameters
    ----------
    name : str
        Its name in the package.
    dtype : str
        NumPy's name of its element type (``"float32"``, ``"float16"``, ``"int32"``, ``"bool"``,
        ``"int8"``, …), ``"str"`` for text.
    shape : tuple of int or None
        None stands for a length that is known only when the program runs.
    constant : ndarray, optional
        What it holds, read-only, where that does not depend on the inputs.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    constant: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation of a program.

    Parameters
    ----------
    type, name : str
        Such as ``"conv_transpose"`` and ``"upsample_1"``.
    inputs : mapping of str to Value or tuple of Value
        By parameter name, defaults included; absent parameters are absent.
    outputs : tuple of Value
        Its results, in order.
    blocks : tuple of Program
        What it runs on a condition or again and again; these use tensors from outside, too.
    """

    type: str
    name: str
    inputs: Mapping[str, Value | tuple[Value, ...]]
    outputs: tuple[Value, ...]
    blocks: tuple[Program, ...] = ()

    @property
    def values(self) -> tuple[Value, ...]:
        """What it takes, parameter by parameter, constants too; its blocks may take more."""
        arguments = self.inputs.values()
        return tuple(
            value
            for argument in arguments
            for value in ((argument,) if isinstance(argument, Value) else argument)
        )

    @property
    def is_folded(self) -> bool:
        """Whether every result is a constant, so that nothing is left to compute."""
        return bool(self.outputs) and all(value.constant is not None for value in self.outputs)

    def tensor(self, name: str) -> Value:
        """Give the input `name`, a single tensor.

        Raises
        ------
        UnsupportedModelError
            If the operation has no such input.
        """
        value = self.inputs.get(name)
        if not isinstance(value, Value):
            raise UnsupportedModelError(f"{self} has no tensor '{name}'")
        return value

    def constant(self, name: str) -> NDArray[Any] | None:
        """Give the constant that the parameter `name` holds; None if it is absent.

        Raises
        ------
        UnsupportedModelError
            If the parameter is computed when the program runs.
        """
        value = self.inputs.get(name)
        if value is None:
            return None
        if not isinstance(value, Value) or value.constant is None:
            raise UnsupportedModelError(f"the parameter '{name}' is computed at run time")
        return value.constant

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Give the parameter `name` as integers; None if it is absent."""
        constant = self.constant(name)
        return None if constant is None else tuple(int(item) for item in np.ravel(constant))

    def __str__(self) -> str:
        return f"{self.type} '{self.name}'"


@dataclass(frozen=True, eq=False)
class Program:
    """One function of an ML Program, or a block of one of its operations.

    Parameters
    ----------
    inputs, outputs : tuple of Value
        What it takes and gives, in the program's order.
    operations : tuple of Operation
        In the order in which they run; constants are not among them.
    states : tuple of Value
        What it keeps from one run to the next.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    states: tuple[Value, ...] = ()

    def walk(self, inside: str = "") -> Iterator[tuple[Operation, str]]:
        """Give every operation, blocks included, with the name of the one whose block it is in."""
        for operation in self.operations:
            yield operation, inside
            for block in operation.blocks:
                yield from block.walk(operation.name)


def load_program(
    package: Package,
    *,
    function: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Program:
    """Read one function of a package's ML Program.

    Parameters
    ----------
    package : convcal.coreml.package.Package
        A package that holds an ML Program.
    function : str, optional
        Which function; by default the package's default, usually ``"main"``.
    input_shapes : mapping of str to sequence of int, optional
        Shapes to infer the program for; of inputs whose shape is flexible they fill in the
        lengths that are open, of others they are ignored.

    Returns
    -------
    Program
        The view. Constants of the weight file are read when they are looked at: the file must not
        change as long as the program is in use.

    Raises
    ------
    InputError
        If there is no such function, the program is not consistent (types that do not match, a
        weight file that is missing or truncated), or it does not take inputs of these shapes.
    UnsupportedModelError
        If coremltools cannot read some construct of it.
    """
    load_coremltools()
    from coremltools.converters.mil.frontend.milproto.load import (  # noqa: TID251 - after the door
        load_mil_proto,
    )

    name = _named(package, function)
    spec = package.spec
    _check_operations(package, name)
    message = type(spec.mlProgram)()
    message.version = spec.mlProgram.version
    message.functions[name].CopyFrom(spec.mlProgram.functions[name])
    function_message = message.functions[name]
    outputs = function_message.block_specializations[function_message.opset].outputs
    is_fixed = _fix_input_shapes(function_message, input_shapes or {})
    try:
        with mapped_weights(package):
            loaded = load_mil_proto(message, spec.specificationVersion, str(package.weights_dir))
        return _with_outputs(_view(loaded.functions[name]), outputs)
    except ConvcalError:
        raise
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"coremltools cannot read the program of '{package.path}': {_said(error)}; "
            "convcal handles what coremltools can read: convert the model again without it"
        ) from error
    except Exception as error:  # coremltools raises whatever its own parsing trips over
        if is_fixed:
            raise InputError(
                f"the program of '{package.path}' does not take inputs of the shapes "
                f"{dict(input_shapes or {})}: {_said(error)}; choose others that its "
                "description allows"
            ) from error
        raise InputError(
            f"the program of '{package.path}' (function '{name}') is not consistent: "
            f"{_said(error)}; convert the model again, or copy the whole package again"
        ) from error


def list_operations(package: Package, *, function: str | None = None) -> list[tuple[str, str]]:
    """List type and name of every operation of a function, nested blocks included.

    Read from the message alone, so that it works for programs that coremltools cannot load.

    Raises
    ------
    InputError
        If there is no such function.
    """
    message = package.spec.mlProgram.functions[_named(package, function)]
    return [
        (operation.type, _name_of(operation))
        for block in walk_blocks(message.block_specializations[message.opset])
        for operation in block.operations
    ]


def _named(package: Package, function: str | None) -> str:
    name = default_function(package) if function is None else function
    function_description(package, name)
    return name


def _name_of(operation: Any) -> str:
    names = [output.name for output in operation.outputs]
    if "name" in operation.attributes:  # asking a protobuf map for an absent key would add it
        value = operation.attributes["name"].immediateValue
        names = [*value.tensor.strings.values, *names]
    return next(iter(names), "")


def _fix_input_shapes(function: Any, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Fill in the lengths that a function leaves open; say whether there were any."""
    is_fixed = False
    for named in function.inputs:
        dimensions = named.type.tensorType.dimensions
        lengths = shapes.get(named.name, ())
        if len(lengths) == len(dimensions):
            for dimension, length in zip(dimensions, lengths, strict=True):
                if not dimension.HasField("constant"):
                    dimension.constant.size = int(length)
                    is_fixed = True
    return is_fixed


def _check_operations(package: Package, function: str) -> None:
    """Refuse operations that coremltools does not know, before it stumbles over the first."""
    from coremltools.converters.mil import Builder  # noqa: TID251 - after the door

    unknown: dict[str, str] = {}
    for kind, name in list_operations(package, function=function):
        # coremltools reads write_state as an operation of another name.
        if kind != "write_state" and not hasattr(Builder, kind):
            unknown.setdefault(kind, name)
    if unknown:
        listing = ", ".join(f"{kind} (such as '{name}')" for kind, name in sorted(unknown.items()))
        raise UnsupportedModelError(
            f"'{package.path}' has operations that this coremltools does not know: {listing}; "
            "upgrade coremltools, or convert the model again without them"
        )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _view(function: Any) -> Program:
    values: dict[int, Value] = {}
    view = _view_block(function, tuple(function.inputs.values()), values)
    taken: dict[bool, list[Value]] = {False: [], True: []}
    for variable, value in zip(function.inputs.values(), view.inputs, strict=True):
        taken[_is_state(variable)].append(value)
    return replace(view, inputs=tuple(taken[False]), states=tuple(taken[True]))


def _with_outputs(program: Program, names: Sequence[str]) -> Program:
    """Give the outputs the names that they have in the package.

    coremltools reads the update of a state and all reads right behind it as one tensor, under the
    name of the last one.
    """
    outputs, added = [], []
    for value, name in zip(program.outputs, names, strict=True):
        if value.name == name:
            outputs.append(value)
        else:
            outputs.append(Value(name, value.dtype, value.shape))
            added.append(Operation("identity", name, {"x": value}, (outputs[-1],)))
    return replace(program, outputs=tuple(outputs), operations=(*program.operations, *added))


def _view_block(block: Any, variables: Sequence[Any], values: dict[int, Value]) -> Program:
    def value_of(variable: Any) -> Value:
        if id(variable) not in values:
            values[id(variable)] = _value(variable)
        return values[id(variable)]

    inputs = tuple(value_of(variable) for variable in variables)
    operations = []
    for operation in block.operations:
        if operation.op_type == "const":
            continue
        arguments: dict[str, Value | tuple[Value, ...]] = {}
        for name, argument in operation.inputs.items():
            if isinstance(argument, (list, tuple)):
                arguments[name] = tuple(value_of(each) for each in argument)
            elif argument is not None:
                arguments[name] = value_of(argument)
        if operation.op_type in DECOMPRESSIONS:
            constants = {
                name: value.constant
                for name, value in arguments.items()
                if isinstance(value, Value) and value.constant is not None
            }
            results = DECOMPRESSIONS[operation.op_type](constants)
            for variable, array in zip(operation.outputs, results, strict=True):
                values[id(variable)] = _value(variable, spilled(array))
        outputs = tuple(value_of(variable) for variable in operation.outputs)
        blocks = tuple(_view_block(each, each.inputs, values) for each in operation.blocks)
        operations.append(Operation(operation.op_type, operation.name, arguments, outputs, blocks))
    return Program(inputs, tuple(value_of(each) for each in block.outputs), tuple(operations))


def _value(variable: Any, array: NDArray[Any] | None = None) -> Value:
    constant = None
    if array is None and variable.val is not None:
        array = np.asarray(variable.val)
    if array is not None:
        constant = array.view()
        constant.flags.writeable = False
    dtype, lengths = _tensor_type(variable.sym_type)
    shape = tuple(_length(length) for length in lengths)
    return Value(variable.name, _dtype_name(dtype), shape, constant)


def _is_state(variable: Any) -> bool:
    from coremltools.converters.mil.mil import types  # noqa: TID251 - after the door

    return bool(types.is_state(variable.sym_type))


def _tensor_type(symbolic: Any) -> tuple[Any, tuple[Any, ...]]:
    """Give the element type and the shape of what is seen as a tensor."""
    from coremltools.converters.mil.mil import types  # noqa: TID251 - after the door

    if types.is_state(symbolic):
        return _tensor_type(symbolic.wrapped_type())
    if types.is_list(symbolic):
        element, length, is_dynamic = symbolic.T
        dtype, lengths = _tensor_type(element)
        return dtype, (None if is_dynamic else length, *lengths)
    if types.is_dict(symbolic):  # MIL types its values double, and makes them from fp32
        return types.fp32, (None,)
    if types.is_tensor(symbolic):
        return symbolic.get_primitive(), tuple(symbolic.get_shape())
    return symbolic, ()


def _dtype_name(dtype: Any) -> str:
    from coremltools.converters.mil.mil import types  # noqa: TID251 - after the door

    name = str(types.builtin_to_string(dtype))
    return _DTYPES.get(name, name)


def _length(length: Any) -> int | None:
    return int(length) if isinstance(length, (int, np.integer)) else None
