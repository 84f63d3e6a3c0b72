# SPDX-License-Identifier: BSD-3-Clause
"""Check one array against the model input that it is for, and bring it to the input's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convcal.data.arrays import listing
from convcal.data.npy import is_plain
from convcal.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from convcal.model_description import Feature, ModelDescription

__all__ = ["as_input", "check_dtype", "check_names", "check_shape", "count_samples"]


def count_samples(shape: tuple[int, ...], own_shape: tuple[int, ...]) -> int | None:
    """Tell how many samples an array holds whose samples have `own_shape`.

    The first rule that fits decides:

    1. the same shape: one sample;
    2. one more axis in front: as many samples as it is long, e.g. (24, 1, 3, 8) for (1, 3, 8);
    3. the same but for the first axis, where `own_shape` has a batch of 1: as many samples as
       the first axis is long, e.g. (24, 3, 8) for (1, 3, 8).

    Returns
    -------
    int or None
        The number of samples in cases 2 and 3; None in case 1.

    Raises
    ------
    ValueError
        If no rule fits.
    """
    if shape == own_shape:
        return None
    if shape[1:] == own_shape and len(shape) == len(own_shape) + 1:
        return shape[0]
    if len(shape) == len(own_shape) and own_shape[:1] == (1,) and shape[1:] == own_shape[1:]:
        return shape[0]
    raise ValueError(f"shape {shape} holds no samples of shape {own_shape}")


def check_names(names: Collection[str], description: ModelDescription, *, where: str) -> None:
    """Check that there is an array for every input of the model that needs one, and no other.

    Raises
    ------
    InputError
        If one is missing, or one is there that the model does not know.
    """
    missing = [
        feature.name
        for feature in description.inputs
        if feature.name not in names and feature.default is None
    ]
    unknown = [name for name in names if name not in description.input_names]
    if missing or unknown:
        parts = [
            f"lacks input {listing(missing)}" if missing else "",
            f"holds {listing(unknown)}, which the model does not take" if unknown else "",
        ]
        inputs = ", ".join(str(feature) for feature in description.inputs)
        msg = f"{where} {' and '.join(part for part in parts if part)}; the model takes {inputs}"
        raise InputError(msg)


def check_shape(shape: tuple[int, ...], feature: Feature, *, where: str) -> None:
    """Check the shape of one sample.

    Raises
    ------
    InputError
        If it does not fit.
    """
    if feature.accepts(shape):
        return
    msg = f"{where} has shape {shape}; one sample of input {feature} has shape {feature.accepted}"
    if feature.is_flexible:
        msg += ", and N samples of one shape have one more axis in front"
    elif feature.kind == "tensor":
        msg += f", and N samples have {_of_many(feature.shape)}"
        if feature.shape[:1] == (1,):
            msg += f" or {_of_many(feature.shape[1:])}"
    raise InputError(msg)


def _of_many(shape: tuple[int, ...]) -> str:
    return f"({', '.join(('N', *map(str, shape)))}{'' if shape else ','})"


def check_dtype(dtype: np.dtype[np.generic], feature: Feature, *, where: str) -> None:
    """Check that values of a dtype can be brought to the input's.

    Floats are rounded to the input's precision and integers may become floats; nothing becomes
    an integer but integers, and uint8 (images) takes uint8 only.

    Raises
    ------
    InputError
        If they cannot.
    """
    if feature.dtype == "uint8":
        is_fit, accepted = dtype == np.uint8, "uint8, 0 to 255"
    elif feature.dtype.startswith("float"):
        is_fit, accepted = is_plain(dtype), "floats and integers"
    else:
        is_fit, accepted = is_plain(dtype) and dtype.kind in "iub", "integers"
    if not is_fit:
        raise InputError(f"{where} has dtype {dtype}; input {feature} accepts {accepted}")


def as_input(values: object, feature: Feature, *, where: str) -> NDArray[np.generic]:
    """Check one sample's array and bring it to the input's dtype.

    Parameters
    ----------
    values : array_like
        In the shape of one sample; not changed.
    feature : Feature
        The input.
    where : str
        What to call the array in messages.

    Returns
    -------
    numpy.ndarray
        A C-contiguous copy in the input's dtype. Infinities are kept (masks have them).

    Raises
    ------
    InputError
        If shape or dtype do not fit, or a value is NaN or beyond the range of the dtype.
    """
    try:
        given = np.asarray(values)
    # Nested lists of unequal length; tensors that need gradients or lie on a GPU.
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{where} is no array ({error})") from error
    check_dtype(given.dtype, feature, where=where)
    check_shape(given.shape, feature, where=where)
    if given.dtype.kind == "f" and (n_nan := int(np.count_nonzero(np.isnan(given)))):
        raise InputError(f"{where} holds {n_nan} NaN among {given.size} values; mend the data")
    # An overflow is looked for below, with a message that says what and where.
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.array(given, dtype=feature.dtype, order="C")
    if cast.dtype != given.dtype and not np.can_cast(given.dtype, cast.dtype, "safe"):
        is_lost = np.isinf(cast) & np.isfinite(given) if cast.dtype.kind == "f" else cast != given
        if is_lost.any():
            value = given[is_lost].flat[0]
            msg = f"{where} holds {value}, beyond the range of {cast.dtype} that {feature} takes"
            raise InputError(msg)
    return cast
