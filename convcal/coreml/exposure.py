# SPDX-License-Identifier: BSD-3-Clause
"""Let a package give tensors of its program as outputs, by surgery on its protobuf messages.

Core ML gives the outputs of a model and nothing else. The tensors that are asked for join them;
types that no output can have (booleans; fp16 before iOS 16) are cast first. All else stays as it
is. That a tensor is an output can change what Core ML fuses, and where it runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convcal.coreml._coremltools import load_message_types
from convcal.coreml.describe import (
    UNKNOWN_LENGTH,
    default_function,
    function_description,
    tensor_dtype,
    tensor_shape,
)
from convcal.coreml.operations import OperationList, Tensor
from convcal.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from convcal.coreml.package import Package

__all__ = ["expose"]

_FEATURE_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32"}
# iOS 16: the first specification whose outputs may be fp16.
_FP16_OUTPUTS = 7


def expose(
    package: Package, names: Sequence[str], *, function: str | None = None
) -> tuple[Package, dict[str, str]]:
    """Add tensors of a program to its outputs.

    Parameters
    ----------
    package : Package
        It is not changed.
    names : sequence of str
        Tensors of its program, outside of nested blocks.
    function : str, optional
        Of a package with several functions, which; by default the one that the package names.

    Returns
    -------
    package : Package
        With the same weights, and a specification of its own.
    outputs : dict of str to str
        Under which name the package gives each tensor.

    Raises
    ------
    InputError
        If there is no such function or tensor.
    UnsupportedModelError
        If a tensor is of a type, or of an open shape, that no output can have.
    """
    model, _ = load_message_types()
    spec = model.Model()
    spec.CopyFrom(package.spec)
    name = default_function(package) if function is None else function
    description = function_description(package.with_spec(spec), name)
    program = spec.mlProgram.functions[name]
    block = program.block_specializations[program.opset]
    values = {value.name: value.type for each in block.operations for value in each.outputs}
    inputs = [value.name for value in program.inputs]
    operations = OperationList("exposed", {*values, *inputs}, opset=program.opset)
    outputs: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name in block.outputs:
            outputs[name] = name
            continue
        if name not in values:
            raise InputError(
                f"the program of '{package.path}' computes no tensor '{name}' outside of nested "
                "blocks"
            )
        tensor = Tensor(name, tensor_shape(values[name]), tensor_dtype(values[name]))
        result = operations.cast(tensor, dtype=_wanted(package, tensor))
        outputs[name] = result.name
        block.outputs.append(result.name)
        feature = description.output.add(name=result.name).type.multiArrayType
        feature.dataType = feature.ArrayDataType.Value(_FEATURE_TYPES[result.dtype])
        feature.shape.extend(result.shape or (1,))
    block.operations.extend(operations.messages)
    return package.with_spec(spec), outputs


def _wanted(package: Package, tensor: Tensor) -> str:
    """Give the type of an output that holds a tensor."""
    dtype = tensor.dtype
    if dtype == "bool":
        dtype = "int32"
    elif dtype == "float16" and package.spec.specificationVersion < _FP16_OUTPUTS:
        dtype = "float32"
    if dtype not in _FEATURE_TYPES or UNKNOWN_LENGTH in tensor.shape:
        raise UnsupportedModelError(
            f"the tensor '{tensor.name}' of '{package.path}' is {tensor.dtype} of shape "
            f"{tensor.shape}, which Core ML does not give as an output"
        )
    return dtype
