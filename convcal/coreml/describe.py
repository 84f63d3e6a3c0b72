# SPDX-License-Identifier: BSD-3-Clause
"""Say what a package takes and gives, from its description, without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

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
_Limits = tuple[tuple[int, int | None], ...]
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
        In the package's order. A classifier's table of probabilities is described as a vector in
        the order of its labels; other outputs that are no arrays (the class label) are left out.
        Lengths that the package leaves open are `UNKNOWN_LENGTH`.

    Raises
    ------
    InputError
        If there is no such function.
    UnsupportedModelError
        If an input is neither an array nor an image, or no output is anything of that kind.
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
    given = (_feature(package, feature, inner) for feature in description.output)
    outputs = tuple(feature for feature in given if feature is not None)
    if description.output and not outputs:
        kinds = [f"'{each.name}' ({each.type.WhichOneof('Type')})" for each in description.output]
        raise UnsupportedModelError(
            f"'{package.path}' gives {', '.join(kinds)}, and convcal compares arrays and images; "
            "convert the model with an array among its outputs"
        )
    return ModelDescription(
        inputs=tuple(inputs),
        outputs=outputs,
        states=tuple(_state(package, feature) for feature in description.state),
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
    """Describe one feature; None for those that are no arrays, images or probabilities."""
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        return _image(feature)
    if kind == "dictionaryType":
        return _probabilities(feature, function)
    if kind != "multiArrayType":
        return None
    array = feature.type.multiArrayType
    shape = tuple(array.shape)
    allowed = _allowed_shapes(array)
    flexible = _is_open(allowed)
    if not shape:
        # coremltools states no shape for outputs that depend on a flexible input.
        shape = _tensor_shape(feature.name, function)
        flexible = UNKNOWN_LENGTH in shape
    if any(len(limits) != len(shape) for limits in allowed):
        raise InputError(
            f"'{feature.name}' of '{package.path}' has the shape {shape}, and its flexible shapes "
            "have another number of axes; convert the model again with coremltools"
        )
    dtype = _element_type(package, feature.name, array)
    return Feature(
        name=feature.name,
        kind="tensor",
        shape=shape,
        dtype=dtype,
        is_flexible=flexible,
        allowed=allowed if flexible else (),
        default=_default(feature.type, dtype),
    )


def _element_type(package: Package, name: str, array: Any) -> str:
    number = array.dataType
    names = {value: name for name, value in array.ArrayDataType.items()}
    dtype = _DTYPES.get(names.get(number, ""))
    if dtype is None:
        raise InputError(
            f"'{name}' of '{package.path}' has the unknown element type {number}; "
            "convert the model again with coremltools"
        )
    return dtype


def _default(feature_type: Any, dtype: str) -> float | None:
    """Give what fills an optional array; None where nothing is stated that its dtype can hold."""
    stated = feature_type.multiArrayType.WhichOneof("defaultOptionalValue")
    if not feature_type.isOptional or stated is None:
        return None
    value = float(getattr(feature_type.multiArrayType, stated))
    if dtype.startswith("float"):
        return value
    limits = np.iinfo(dtype)
    return value if value.is_integer() and limits.min <= value <= limits.max else None


def _state(package: Package, feature: Any) -> Feature:
    array = feature.type.stateType.arrayType
    return Feature(
        name=feature.name,
        kind="tensor",
        shape=tuple(array.shape),
        dtype=_element_type(package, feature.name, array),
    )


def _probabilities(feature: Any, function: Any) -> Feature | None:
    """Describe a classifier's table; None where the program does not say what its classes are."""
    operations = function.block_specializations[function.opset].operations
    for operation in operations:
        names = [output.name for output in operation.outputs]
        if operation.type != "classify" or feature.name not in names:
            continue
        bindings = operation.inputs["classes"].arguments
        if len(bindings) != 1 or bindings[0].WhichOneof("binding") != "value":
            return None
        labels = _labels(bindings[0].value)
        # Typed double, and always made from fp32 (MIL's classify).
        return Feature(feature.name, "tensor", (len(labels),), "float32", labels=labels)
    return None


def _labels(value: Any) -> tuple[str | int, ...]:
    labels: list[str | int] = []
    for each in value.immediateValue.list.values:
        tensor = each.immediateValue.tensor
        labels += (*tensor.strings.values, *tensor.longInts.values, *tensor.ints.values)
    return tuple(labels)


def _image(feature: Any) -> Feature:
    image = feature.type.imageType
    names = {value: name for name, value in image.ColorSpace.items()}
    colour, dtype = _COLOURS.get(names.get(image.colorSpace, ""), ("RGB", "uint8"))
    size = (image.height, image.width)
    shape = size if colour == "GRAYSCALE" else (*size, 3)
    rest = ((3, 3),) * (len(shape) - 2)
    allowed = tuple((*limits, *rest) for limits in _allowed_sizes(image))
    flexible = _is_open(allowed)
    return Feature(
        name=feature.name,
        kind="image",
        shape=shape,
        dtype=dtype,
        is_flexible=flexible,
        colour=colour,
        layout="HW" if colour == "GRAYSCALE" else "HWC",
        allowed=allowed if flexible else (),
    )


def _allowed_shapes(array: Any) -> tuple[_Limits, ...]:
    """Give the shapes that an array may have besides its default; empty where none is stated."""
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "enumeratedShapes":
        shapes = {tuple(each.shape) for each in array.enumeratedShapes.shapes}
        return tuple(_exactly(shape) for shape in sorted(shapes))
    if flexibility == "shapeRange":
        return (tuple(_limits(size) for size in array.shapeRange.sizeRanges),)
    return ()


def _allowed_sizes(image: Any) -> tuple[_Limits, ...]:
    """Give the heights and widths that an image may have; empty where none is stated."""
    flexibility = image.WhichOneof("SizeFlexibility")
    if flexibility == "enumeratedSizes":
        sizes = {(each.height, each.width) for each in image.enumeratedSizes.sizes}
        return tuple(_exactly(size) for size in sorted(sizes))
    if flexibility == "imageSizeRange":
        ranges = image.imageSizeRange
        return ((_limits(ranges.heightRange), _limits(ranges.widthRange)),)
    return ()


def _exactly(shape: tuple[int, ...]) -> _Limits:
    return tuple((int(length), int(length)) for length in shape)


def _limits(size: Any) -> tuple[int, int | None]:
    return int(size.lowerBound), None if size.upperBound < 0 else int(size.upperBound)


def _is_open(allowed: tuple[_Limits, ...]) -> bool:
    return len(allowed) > 1 or any(low != high for limits in allowed for low, high in limits)


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
