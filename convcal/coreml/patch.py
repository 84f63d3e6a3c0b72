# SPDX-License-Identifier: BSD-3-Clause
"""Append corrections to the outputs of an ML Program, by surgery on its protobuf messages.

The tensor that was the output gets a new name, everything inside the program that used it goes on
doing so, and operations at the end of the program make the corrected tensor under the old name.
Nothing else changes: no operation, no weight, no description, no specification version. (Reloading
and saving a program through coremltools renames outputs, loses metadata and image types, and fails
on programs of several functions.)

How the operations carry out ``convcal.arithmetic``, and why so:

* One ``pad`` and one ``slice_by_index`` move up to two axes at once. Core ML repeats edges on the
  last two axes only, so that other axes are brought there by ``reshape``, which copies nothing.
* A fractional shift is a depthwise ``conv`` without padding, over what ``pad`` and slice left.
  Edge values that are repeated first and filtered then are what is filtered first and repeated
  then, so one ``pad`` for both axes is exact.
* On the Neural Engines of A14, M1 and M2 a slice that does not begin at 0 along the width saturates
  values beyond about 4094. The Neural Engine computes float16 only, so float32 arithmetic (the
  default) never meets this. In float16 such a slice is taken along the height, of a view or between
  two transpositions: exact for every value. A one-hot ``conv`` would do without a slice, but makes
  NaN of the neighbours of an infinity and loses the sign of zero.
* A scale, on request only, is ``gather`` once per tap with constant indices, times a constant
  weight per position, and summed: the arithmetic of the post-processor, bit for bit, for `n_taps`
  multiply-adds per value and ``2 n_taps n`` constants per axis of size `n`. A ``matmul`` with a
  banded matrix costs ``n`` and ``n^2``, sums in an order of its own, and makes NaN of a whole line
  where one value of it is not finite. ``resample``, ``crop_resize`` and ``resize_bilinear``
  interpolate linearly, compute coordinates in float16 on some devices (a whole pixel off beyond
  1024) and differ between chips.
* No ``conv_transpose`` and no resampling operation, since these have faults of their own.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from convcal.arithmetic import Resampling, sinc_taps
from convcal.coreml._coremltools import load_message_types
from convcal.coreml.describe import (
    UNKNOWN_LENGTH,
    describe,
    function_description,
    tensor_dtype,
    tensor_shape,
)
from convcal.coreml.operations import OperationList, Tensor, all_names, unique_name
from convcal.correction import Correction, Precision
from convcal.errors import InputError, UnsupportedModelError
from convcal.filters import AxisFilter, SincFilter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convcal.coreml.package import Package

__all__ = ["PATCH_KEY", "append_corrections", "patched_outputs"]

PATCH_KEY = "convcal.patch"
"""The user metadata of a patched package: per output, the name of its uncorrected tensor."""

_PATCH_VERSION = 1
_IDENTITY = AxisFilter()


def append_corrections(
    package: Package,
    corrections: Mapping[str, Correction],
    *,
    precision: Precision = "float32",
    allow_scale: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Package:
    """Correct outputs of a package.

    Parameters
    ----------
    package : Package
        The observed model; it is not changed.
    corrections : mapping of str to Correction
        By the name of the output. Outputs with the identity, and those not named, keep every byte.
        In a package of several functions each function that has the output is corrected.
    precision : {'float32', 'output'}
        The dtype to compute in: float32 (the result is cast back), or the output's own.
    allow_scale : bool
        Accept corrections that scale an axis, with ``gather`` operations, which the Neural Engine
        may leave to the CPU or the GPU.
    metadata : mapping of str to str, optional
        Added to the user metadata of the model.

    Returns
    -------
    Package
        With the same weights, and a specification of its own. `package` itself if every
        correction is the identity.

    Raises
    ------
    InputError
        If an output does not exist, has another shape or dtype than the correction or than its
        description says, is moved by its whole length, or was corrected before; if a correction
        scales an axis and `allow_scale` is false, crops, or separates rows.
    UnsupportedModelError
        If an output is an image, has a flexible shape, or is an input passed through.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision is '{precision}'; 'float32' or 'output' is accepted")
    _check_names(package, corrections)
    active = {name: item for name, item in corrections.items() if not item.is_identity}
    if not active:
        return package
    for output, correction in active.items():
        _check_kind(package, output, correction, allow_scale=allow_scale)
    model, _ = load_message_types()
    spec = model.Model()
    spec.CopyFrom(package.spec)
    taken = set(all_names(spec.mlProgram))
    uncorrected = {name: unique_name(f"{name}__uncorrected", taken) for name in active}
    for output, correction in active.items():
        for function_name, function in spec.mlProgram.functions.items():
            description = function_description(package, function_name)
            feature = next((item for item in description.output if item.name == output), None)
            if feature is None:
                continue
            where = _where(package, output, function_name)
            _check_feature(feature, where)
            stated = describe(package, function=function_name).output(output)
            for opset, block in function.block_specializations.items():
                made = _output_type(function, block, output, where=where)
                source = _tensor(made, uncorrected[output], where=where)
                if (source.shape, source.dtype) != (stated.shape, stated.dtype):
                    raise InputError(
                        f"{where} is described as {stated}, but the program makes {source.dtype} "
                        f"of shape {source.shape}; export the package again"
                    )
                fitting = _fitted(correction, source, where=where)
                operations = OperationList(f"{output}__correction", taken, opset=opset)
                _build(operations, source, fitting, precision=precision)
                _rename_uses(block, output, uncorrected[output], where=where)
                operations.messages[-1].outputs[0].name = output
                block.operations.extend(operations.messages)
    record = {**patched_outputs(package), **uncorrected}
    user_defined = spec.description.metadata.userDefined
    user_defined.update(metadata or {})
    user_defined[PATCH_KEY] = json.dumps(
        {"version": _PATCH_VERSION, "uncorrected": record}, sort_keys=True
    )
    return package.with_spec(spec)


def patched_outputs(package: Package) -> dict[str, str]:
    """Give the outputs that convcal has corrected before, with the names of their old tensors.

    Raises
    ------
    InputError
        If the package says so in a form that this version does not know.
    """
    text = package.spec.description.metadata.userDefined.get(PATCH_KEY, "")
    if not text:
        return {}
    try:
        record = json.loads(text)
        if record["version"] != _PATCH_VERSION:
            raise ValueError(record["version"])
        return {str(name): str(tensor) for name, tensor in record["uncorrected"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"'{package.path}' was corrected by another version of convcal (its user metadata "
            f"'{PATCH_KEY}' reads {text[:80]!r}); use the uncorrected package, or update convcal"
        ) from error


def _check_names(package: Package, corrections: Mapping[str, Correction]) -> None:
    names = {
        feature.name
        for function in package.spec.mlProgram.functions
        for feature in function_description(package, function).output
    }
    before = patched_outputs(package)
    for name in corrections:
        if name not in names:
            raise InputError(
                f"the model '{package.path}' has no output '{name}'; its outputs are "
                f"{sorted(names)}. Use the package that was observed in the calibration"
            )
        if name in before:
            raise InputError(
                f"the output '{name}' of '{package.path}' was corrected by convcal before; use the "
                "package as it was before that"
            )


def _check_kind(
    package: Package, output: str, correction: Correction, *, allow_scale: bool
) -> None:
    """Refuse what belongs to the post-processor, and what is done on request only."""
    where = f"the output '{output}' of '{package.path}'"
    if correction.has_crop or correction.row_stride is not None:
        what = "changes its shape" if correction.has_crop else "puts its rows right"
        raise InputError(
            f"the correction of {where} {what}, which a package cannot do: it belongs to the "
            "post-processor; write one with --to python (export_python)"
        )
    if correction.has_scale and not allow_scale:
        costs = ", ".join(
            f"{used.n_taps} multiply-adds per value and {2 * used.n_taps * size} constants along "
            f"spatial axis {axis} of {size}"
            for axis, (size, used) in enumerate(
                zip(correction.spatial_shape, correction.filters, strict=True)
            )
            if isinstance(used, SincFilter)
        )
        raise InputError(
            f"the correction of {where} scales an axis, which takes 'gather' operations that the "
            f"Neural Engine may not run ({costs}); accept that with --allow-scale "
            "(allow_scale=True), or correct the output with the post-processor (--to python)"
        )


def _where(package: Package, output: str, function: str) -> str:
    several = len(package.spec.mlProgram.functions) > 1
    return f"the output '{output}' of '{package.path}'" + (
        f" (function '{function}')" if several else ""
    )


def _check_feature(feature: Any, where: str) -> None:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        raise UnsupportedModelError(
            f"{where} is an image, and convcal appends corrections to array outputs; correct it "
            "with the post-processor (--to python), or convert the model with an array output"
        )
    if kind != "multiArrayType":
        raise UnsupportedModelError(
            f"{where} is of type '{kind}', and convcal appends corrections to array outputs"
        )
    if feature.type.multiArrayType.WhichOneof("ShapeFlexibility") is not None:
        raise _flexible(where)


def _flexible(where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where} has a flexible shape, and convcal appends corrections to outputs of a fixed "
        "shape; correct it with the post-processor (--to python), which takes any shape, or "
        "convert the model with a fixed input shape"
    )


def _output_type(function: Any, block: Any, output: str, *, where: str) -> Any:
    """Give the type of the tensor that an output is."""
    if output not in block.outputs:
        raise InputError(
            f"{where} is described, but the program does not return it (it returns "
            f"{sorted(block.outputs)}); export the package again"
        )
    for operation in block.operations:
        for value in operation.outputs:
            if value.name == output:
                return value.type
    if any(value.name == output for value in function.inputs):
        raise UnsupportedModelError(
            f"{where} is an input passed through under its own name, which cannot be corrected "
            "inside the model; correct it with the post-processor (--to python)"
        )
    raise InputError(f"{where} is made by no operation of the program; export the package again")


def _tensor(value_type: Any, name: str, *, where: str) -> Tensor:
    """Give the tensor that an output is, under its new name."""
    dtype = tensor_dtype(value_type)
    shape = tensor_shape(value_type)
    if UNKNOWN_LENGTH in shape:
        raise _flexible(where)
    if dtype not in ("float32", "float16"):
        raise UnsupportedModelError(
            f"{where} has dtype {dtype}, and convcal corrects float32 and float16 outputs in a "
            "package; correct it with the post-processor (--to python)"
        )
    return Tensor(name, shape, dtype)


def _fitted(correction: Correction, tensor: Tensor, *, where: str) -> Correction:
    """Check that a correction fits a tensor; as for arrays, the batch axis may be missing."""
    batch, channels = correction.batch_axis, correction.channel_axis
    n_spatial = len(correction.filters)
    rank = len(tensor.shape)
    if batch is not None and rank == n_spatial + (channels is not None):
        if channels is not None and channels > batch:
            channels -= 1
        correction = replace(correction, batch_axis=None, channel_axis=channels)
    axes = _spatial_axes(rank, correction)
    n_axes = n_spatial + (correction.batch_axis is not None) + (channels is not None)
    if rank != n_axes:
        raise _misfit(where, tensor, correction)
    n_channels = 1 if channels is None else tensor.shape[channels]
    spatial_shape = tuple(tensor.shape[axis] for axis in axes)
    # The dtype may differ: an app records float16 outputs as float32.
    if spatial_shape != tuple(correction.spatial_shape) or n_channels != correction.n_channels:
        raise _misfit(where, tensor, correction)
    for axis, axis_filter in zip(axes, correction.filters, strict=True):
        if isinstance(axis_filter, SincFilter):
            continue
        if max(axis_filter.margins) >= tensor.shape[axis]:
            raise InputError(
                f"{where} has {tensor.shape[axis]} positions on axis {axis}, and the correction "
                f"reaches {max(axis_filter.margins)} past its end, where nothing is left; correct "
                "it with the post-processor (--to python)"
            )
    return correction


def _misfit(where: str, tensor: Tensor, correction: Correction) -> InputError:
    return InputError(
        f"{where} has shape {tensor.shape}, and the correction was fitted with spatial axes of "
        f"{tuple(correction.spatial_shape)} and {correction.n_channels} channels (batch axis "
        f"{correction.batch_axis}, channel axis {correction.channel_axis}); use the package that "
        "was observed in the calibration"
    )


def _spatial_axes(rank: int, correction: Correction) -> list[int]:
    return [
        axis for axis in range(rank) if axis not in (correction.batch_axis, correction.channel_axis)
    ]


def _build(
    operations: OperationList, source: Tensor, correction: Correction, *, precision: Precision
) -> None:
    compute = "float32" if precision == "float32" else source.dtype
    rank = len(source.shape)
    view: tuple[int, ...]
    x = operations.cast(source, dtype=compute)
    axes = _spatial_axes(rank, correction)
    filters = {
        axis: used
        for axis, used in zip(axes, correction.filters, strict=True)
        if isinstance(used, AxisFilter)
    }
    for axis in range(rank - 2):
        if filters.get(axis, _IDENTITY) != _IDENTITY:
            shape = source.shape
            view = (1, math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
            x = _move(operations, operations.reshape(x, shape=view), {2: filters[axis]})
    last = {
        axis: filters[axis]
        for axis in range(max(rank - 2, 0), rank)
        if filters.get(axis, _IDENTITY) != _IDENTITY
    }
    if last:
        view = _view(source.shape, last)
        shift = len(view) - rank
        x = operations.reshape(x, shape=view)
        x = _move(operations, x, {axis + shift: item for axis, item in last.items()})
    x = operations.reshape(x, shape=source.shape)
    for axis, resampling in zip(axes, correction.resampling, strict=True):
        if resampling is not None:
            x = _resample(operations, x, axis, resampling)
    along_channels = [1] * rank
    if correction.channel_axis is not None:
        along_channels[correction.channel_axis] = correction.n_channels
    if correction.has_gain:
        x = operations.multiply(x, np.asarray(correction.gain, compute).reshape(along_channels))
    if correction.has_bias:
        x = operations.add(x, np.asarray(correction.bias, compute).reshape(along_channels))
    operations.cast(x, dtype=source.dtype)


def _view(shape: tuple[int, ...], last: Mapping[int, AxisFilter]) -> tuple[int, ...]:
    """Give the shape in which the last two axes can be moved: as it is, or legal for ``conv``."""
    rank = len(shape)
    whole = all(item.is_whole for item in last.values())
    if whole or rank == 4 or (rank == 3 and set(last) == {2}):
        return shape
    tail = shape[-2:] if rank > 1 else (1, *shape)
    if rank <= 3:
        return (1, *((1,) if rank < 3 else shape[:1]), *tail)
    return (shape[0], math.prod(shape[1:-2]), *tail)


def _move(operations: OperationList, x: Tensor, filters: Mapping[int, AxisFilter]) -> Tensor:
    """Shift and filter along axes of `x`, all of them among its last two."""
    rank = len(x.shape)
    begin = [0] * rank
    pads = [(0, 0)] * min(rank, 2)
    shape = list(x.shape)
    for axis, item in filters.items():
        before, after = item.margins
        pads[axis - rank] = (before, after)
        begin[axis] = item.offset + before
        shape[axis] += len(item.taps) - 1
    if any(pad != (0, 0) for pad in pads):
        x = operations.pad_edges(x, pads=pads)
    if x.shape != tuple(shape):
        x = operations.crop_ends(
            x,
            amounts=[
                (first, length - first - size)
                for first, length, size in zip(begin, x.shape, shape, strict=True)
            ],
        )
    for axis, item in filters.items():
        if not item.is_whole:
            x = operations.filter_axis(x, axis=axis, taps=item.taps)
    return x


def _resample(operations: OperationList, x: Tensor, axis: int, resampling: Resampling) -> Tensor:
    """Interpolate along one axis where every position has its own taps."""
    size = x.shape[axis]
    first, taps = sinc_taps(size, resampling)
    along = [1] * len(x.shape)
    along[axis] = size
    total: Tensor | None = None
    for k in range(taps.shape[1]):
        picked = operations.gather(x, axis=axis, indices=np.clip(first + k, 0, size - 1))
        weighted = operations.multiply(picked, taps[:, k].reshape(along))
        total = weighted if total is None else operations.sum(total, weighted)
    return x if total is None else total


def _rename_uses(block: Any, old: str, new: str, *, where: str) -> None:
    """Rename a top-level tensor where it is made and used; not in the list of what is returned."""
    for operation in block.operations:
        for value in operation.outputs:
            if value.name == old:
                value.name = new
        _rename_arguments(operation, old, new, where=where)


def _rename_arguments(operation: Any, old: str, new: str, *, where: str) -> None:
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.name == old:
                binding.name = new
    for inner in operation.blocks:
        made = [*inner.inputs, *(value for item in inner.operations for value in item.outputs)]
        if any(value.name == old for value in made):
            raise UnsupportedModelError(
                f"{where} shares its name with a tensor inside a '{operation.type}' operation; "
                "convert the model again with coremltools"
            )
        inner.outputs[:] = [new if name == old else name for name in inner.outputs]
        for item in inner.operations:
            _rename_arguments(item, old, new, where=where)
