# SPDX-License-Identifier: BSD-3-Clause
"""Weights that a program stores compressed, made dense.

MIL's ``constexpr_*`` operations say how: of constants they make constants. What they compute is
rounded once, to the type of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Arrays = Mapping[str, Array]

__all__ = ["DECOMPRESSIONS"]


def _affine(inputs: Arrays) -> list[Array]:
    """``scale * (quantized_data - zero_point)``, with numbers or vectors along an axis."""
    data, scale = inputs["quantized_data"], inputs["scale"]
    column = [1] * data.ndim
    column[int(inputs["axis"])] = -1
    factors = [each.reshape(column if each.ndim else ()) for each in (scale, inputs["zero_point"])]
    return [_shifted_and_scaled(data, *factors, dtype=scale.dtype)]


def _cast(inputs: Arrays) -> list[Array]:
    return [inputs["source_val"].astype(np.float32)]


def _lut_to_dense(inputs: Arrays) -> list[Array]:
    """Look up indices: packed into bytes with one table (iOS16), or in one table per block."""
    indices, lut = inputs["indices"], inputs["lut"]
    if "shape" in inputs:
        shape = tuple(int(length) for length in inputs["shape"])
        n_bits = lut.size.bit_length() - 1
        count = int(np.prod(shape))
        bits = np.unpackbits(indices, bitorder="little", count=n_bits * count)
        numbers = np.zeros(count, np.uint8)
        for bit in range(n_bits):  # the lowest one first
            numbers |= bits[bit::n_bits] << bit
        return [lut[numbers].reshape(shape)]
    return [_looked_up(indices, lut, inputs.get("vector_axis"))]


def _looked_up(indices: Array, lut: Array, vector_axis: Array | None) -> Array:
    """Replace each index by its entry, a number or a vector along an axis, of its block's table."""
    table = np.ix_(
        *(
            np.arange(length) // (length // count)
            for length, count in zip(indices.shape, lut.shape, strict=False)
        )
    )
    vectors: Array = lut[(*table, indices.astype(np.int64))]
    if vectors.shape[-1] == 1 or vector_axis is None:
        numbers: Array = vectors[..., 0]
        return numbers
    axis = int(vector_axis) % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= vectors.shape[-1]
    return np.moveaxis(vectors, -1, axis + 1).reshape(shape)


def _sparse_to_dense(inputs: Arrays) -> list[Array]:
    """Put what is not zero where a mask says: one bit per element, in bytes until iOS17."""
    mask = inputs["mask"]
    if "shape" in inputs:
        shape = tuple(int(length) for length in inputs["shape"])
        mask = np.unpackbits(mask, bitorder="little", count=int(np.prod(shape))).reshape(shape)
    return [_spread(inputs["nonzero_data"], mask)]


def _blockwise(inputs: Arrays) -> list[Array]:
    """``scale * (data - offset)``, with one scale and offset per block."""
    data, scale = inputs["data"], inputs["scale"]
    scales, offsets = (_per_element(inputs.get(name), data) for name in ("scale", "offset"))
    return [_shifted_and_scaled(data, scales, offsets, dtype=scale.dtype)]


def _lut_to_sparse(inputs: Arrays) -> list[Array]:
    mask, axis = inputs["indices_mask"], inputs.get("vector_axis")
    lut = inputs["lut"]
    dense = _looked_up(_spread(inputs["indices_nonzero_data"], mask), lut, axis)
    if axis is not None:
        mask = np.repeat(mask, lut.shape[-1], axis=int(axis))
    return [mask, dense[mask != 0]]


def _sparse_blockwise(inputs: Arrays) -> list[Array]:
    mask = inputs["data_mask"]
    dense = {**inputs, "data": _spread(inputs["nonzero_data"], mask)}
    return [mask, _blockwise(dense)[0][mask != 0]]


def _spread(values: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask != 0] = values
    return dense


def _per_element(factors: Array | None, data: Array) -> Array | None:
    if factors is None:
        return None
    for axis, (length, count) in enumerate(zip(data.shape, factors.shape, strict=True)):
        factors = np.repeat(factors, length // count, axis=axis)
    return factors


def _shifted_and_scaled(
    data: Array, scale: Array | None, offset: Array | None, *, dtype: np.dtype[Any]
) -> Array:
    # In fp32 differences of 8-bit integers are exact, and so are products of two fp16 numbers.
    numbers = data.astype(np.float32)
    if offset is not None:
        numbers -= offset.astype(np.float32)
    if scale is not None:
        numbers *= scale.astype(np.float32)
    with np.errstate(over="ignore"):  # to infinity
        return numbers.astype(dtype)


# From the constant inputs to the results, which are constants too.
DECOMPRESSIONS: Mapping[str, Callable[[Arrays], list[Array]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
