# SPDX-License-Identifier: BSD-3-Clause
"""Say what a package takes and gives, from its description, without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convcal.coreml._coremltools import load_message_types
from convcal.errors import InputError, UnsupportedModelError
from convcal.model_description import Feature, ModelDescription

if TYPE_CHECKING:
    from convcal.coreml.package import Package

__all__ = [
    "UNKNOWN_LENGTH",
    "default_function",
    "describe",
    "function_description",
    "tensor_dtype",
    "tensor_shape",
]

UNKNOWN_LENGTH = -1
"""Stands in a shape for a length that the package leaves open."""

# Names of MultiArray and tensor element types, as NumPy's.
_DTYPES = {
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "DOUBLE": "float64",
    "FLOAT64": "float64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
# Core ML hands out a grey float16 image as a one-channel picture too.
_COLOURS = {
    "RGB": ("RGB", "uint8"),
    "BGR": ("BGR", "uint8"),
    "GRAYSCALE": ("GRAYSCALE", "uint8"),
    "GRAYSCALE_FLOAT16": ("GRAYSCALE", "float16"),
}


def describe(package: Package, *, function: str | None = None) -> ModelDescription:
    """List the inputs and outputs of a package.

    Parameters
    ----------
    package : Package
        As `convcal.coreml.package.read_package` gives it.
    function : str, optional
        Of a package with several functions, which; by default the one that the package names.

    Returns
    -------
    ModelDescription
        In the package's order. Outputs that are no arrays (the class label and the table of
        probabilities of a classifier) are left out, since nothing can be corrected in them.
        Lengths that the package leaves open are `UNKNOWN_LENGTH`.

    Raises
    ------
    InputError
        If there is no such function.
    UnsupportedModelError
        If an input is neither an array nor an image.
    """
    name = default_function(package) if function is None else function
    description = function_description(package, name)
    inner = package.spec.mlProgram.functions[name]
    inputs = []
    for feature in description.input:
        described = _feature(package, feature, inner)
        if described is None:
            raise UnsupportedModelError(
                f"the input '{feature.name}' of '{package.path}' is of type "
                f"'{feature.type.WhichOneof('Type')}', and convcal feeds arrays and images"
            )
        inputs.append(described)
    outputs = [_feature(package, feature, inner) for feature in description.output]
    return ModelDescription(
        inputs=tuple(inputs), outputs=tuple(feature for feature in outputs if feature is not None)
    )


def default_function(package: Package) -> str:
    """Name the function that Core ML runs when none is asked for."""
    description = package.spec.description
    if description.functions:
        return str(description.defaultFunctionName or description.functions[0].name)
    functions = package.spec.mlProgram.functions
    return "main" if "main" in functions else str(min(functions))


def function_description(package: Package, function: str) -> Any:
    """Find the description of one function: a message with fields ``input`` and ``output``.

    Raises
    ------
    InputError
        If there is no such function; the message lists those that there are.
    """
    description = package.spec.description
    for candidate in description.functions:
        if candidate.name == function:
            return candidate
    if not description.functions and function in package.spec.mlProgram.functions:
        return description
    names = sorted(package.spec.mlProgram.functions)
    raise InputError(f"'{package.path}' has no function '{function}'; its functions are {names}")


def _feature(package: Package, feature: Any, function: Any) -> Feature | None:
    """Describe one feature; None for those that are neither array nor image."""
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        return _image(feature)
    if kind != "multiArrayType":
        return None
    array = feature.type.multiArrayType
    number = array.dataType
    names = {value: name for name, value in array.ArrayDataType.items()}
    dtype = _DTYPES.get(names.get(number, ""))
    if dtype is None:
        raise InputError(
            f"'{feature.name}' of '{package.path}' has the unknown element type {number}; "
            "convert the model again with coremltools"
        )
    shape = tuple(array.shape)
    flexible = _is_flexible(array)
    if not shape:
        # coremltools states no shape for outputs that depend on a flexible input.
        shape = _tensor_shape(feature.name, function)
        flexible = UNKNOWN_LENGTH in shape
    return Feature(name=feature.name, kind="tensor", shape=shape, dtype=dtype, is_flexible=flexible)


def _image(feature: Any) -> Feature:
    image = feature.type.imageType
    names = {value: name for name, value in image.ColorSpace.items()}
    colour, dtype = _COLOURS.get(names.get(image.colorSpace, ""), ("RGB", "uint8"))
    size = (image.height, image.width)
    shape = size if colour == "GRAYSCALE" else (*size, 3)
    return Feature(
        name=feature.name,
        kind="image",
        shape=shape,
        dtype=dtype,
        is_flexible=image.WhichOneof("SizeFlexibility") is not None,
        colour=colour,
        layout="HW" if colour == "GRAYSCALE" else "HWC",
    )


def _is_flexible(array: Any) -> bool:
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "enumeratedShapes":
        return len(array.enumeratedShapes.shapes) > 1
    if flexibility == "shapeRange":
        return any(size.lowerBound != size.upperBound for size in array.shapeRange.sizeRanges)
    return False


def _tensor_shape(name: str, function: Any) -> tuple[int, ...]:
    """Give the shape of a top-level tensor of a function as the program types it."""
    block = function.block_specializations[function.opset]
    values = [*function.inputs]
    for operation in block.operations:
        values += operation.outputs
    for value in reversed(values):
        if value.name == name:
            return tensor_shape(value.type)
    return ()


def tensor_shape(value_type: Any) -> tuple[int, ...]:
    """Give the shape of a ``MIL_pb2.ValueType``; open lengths are `UNKNOWN_LENGTH`."""
    return tuple(
        dimension.constant.size if dimension.HasField("constant") else UNKNOWN_LENGTH
        for dimension in value_type.tensorType.dimensions
    )


def tensor_dtype(value_type: Any) -> str:
    """Give the element type of a ``MIL_pb2.ValueType`` in lower case; a number if it is unknown."""
    _, mil = load_message_types()
    number = value_type.tensorType.dataType
    entry = mil.DataType.DESCRIPTOR.values_by_number.get(number)
    return str(number) if entry is None else str(entry.name).lower()
