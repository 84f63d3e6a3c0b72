# SPDX-License-Identifier: BSD-3-Clause
"""Samples against a model's description, and pictures against the tensors that programs see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convcal.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convcal.model_description import Feature, ModelDescription

__all__ = ["checked_sample", "default_array", "from_tensor", "tensor_shape", "to_tensor"]


def checked_sample(
    sample: Mapping[str, NDArray[Any]], description: ModelDescription
) -> dict[str, NDArray[Any]]:
    """Check a sample against a model's inputs.

    Parameters
    ----------
    sample : mapping of str to array
        One array per input; optional ones may be missing.
    description : ModelDescription
        Says what the inputs are.

    Returns
    -------
    dict of str to ndarray
        The given arrays in the order and of the dtypes of the inputs. Floating arrays are rounded
        to the input's floating dtype; integer arrays become its integer dtype if they fit.

    Raises
    ------
    InputError
        If a name, a shape or a dtype does not match.
    """
    unknown = sorted(set(sample) - set(description.input_names))
    missing = [
        feature.name
        for feature in description.inputs
        if feature.name not in sample and feature.default is None
    ]
    if unknown or missing:
        wrong = [f"lacks '{name}'" for name in missing] + [f"has '{name}'" for name in unknown]
        raise InputError(
            f"the sample does not match the model: it {' and '.join(wrong)}; the model takes "
            f"{', '.join(str(feature) for feature in description.inputs)}"
        )
    return {
        feature.name: _checked(np.asarray(sample[feature.name]), feature)
        for feature in description.inputs
        if feature.name in sample
    }


def default_array(feature: Feature) -> NDArray[Any]:
    """Give what an optional input is where a sample lacks it."""
    return np.full(feature.shape, feature.default, feature.dtype)


def _checked(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    if not feature.accepts(array.shape):
        raise InputError(
            f"the array for the input {feature} has the shape {array.shape}; "
            f"it must be {feature.accepted}"
        )
    wanted = np.dtype(feature.dtype)
    if array.dtype == wanted:
        return array
    if wanted.kind == "f" and array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # fp16 inputs overflow to infinity, as on a device
            return array.astype(wanted)
    if wanted.kind in "iu" and array.dtype.kind in "iu":
        limits = np.iinfo(wanted)
        if limits.min <= int(array.min()) and int(array.max()) <= limits.max:
            return array.astype(wanted)
    kind = {"f": "floating-point numbers", "i": "whole numbers", "u": "whole numbers"}
    raise InputError(
        f"the array for the input {feature} is of dtype {array.dtype}; it must hold "
        f"{kind.get(wanted.kind, 'values')} that {wanted} can represent: convert it with "
        f".astype('{wanted}')"
    )


def tensor_shape(feature: Feature) -> tuple[int, ...]:
    """Give the shape of the tensor that the program sees for an array of the feature's shape."""
    if feature.kind == "tensor":
        return feature.shape
    channels = feature.shape[2] if len(feature.shape) == 3 else 1
    return (1, channels, *feature.shape[:2])


def to_tensor(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    """Give the tensor that the program sees: of pictures (1, C, H, W), channels as it wants."""
    if feature.kind == "tensor":
        return array
    if array.ndim == 2:
        return array[np.newaxis, np.newaxis]
    planes = np.moveaxis(array, 2, 0)[np.newaxis]
    return planes[:, ::-1] if feature.colour == "BGR" else planes


def from_tensor(tensor: NDArray[Any], feature: Feature) -> NDArray[Any]:
    """Give the array that a caller sees of an output: pictures as (H, W, 3) RGB or (H, W).

    Pictures of uint8 are rounded to nearest and clamped to 0…255; NaN becomes 0.

    Raises
    ------
    InputError
        If the program gives a picture in a shape other than (1, C, H, W).
    """
    dtype = np.dtype(feature.dtype)
    if feature.kind == "tensor":
        return tensor.astype(dtype)
    channels = 1 if feature.layout == "HW" else 3
    if tensor.ndim != 4 or tensor.shape[:2] != (1, channels):
        raise InputError(
            f"the program gives the picture {feature} in the shape {tensor.shape}; "
            f"it must be (1, {channels}, height, width)"
        )
    planes = tensor[0, ::-1] if feature.colour == "BGR" else tensor[0]
    picture = planes[0] if channels == 1 else np.moveaxis(planes, 0, 2)
    if dtype.kind != "u":
        return picture.astype(dtype)
    clamped = np.clip(np.rint(np.nan_to_num(picture, nan=0.0)), 0, 255)
    return np.ascontiguousarray(clamped.astype(dtype))
