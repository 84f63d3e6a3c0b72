# SPDX-License-Identifier: BSD-3-Clause
"""Faults of where elements lie: strides, offsets and lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convcal.faults.base import ArrayFault, as_device, filling

__all__ = ["FlatOffset", "Overlong", "RowStride", "StrideCollapse"]


@dataclass(frozen=True)
class RowStride(ArrayFault):
    """A buffer with padded rows is read as if it had none, so that rows are sheared.

    Each row occupies a multiple of 64 bytes, ``64 * ceil(width * itemsize / 64)``; the reader
    takes the elements one after the other. The last rows of each sample are lost. Rows that fill
    their bytes are read rightly.

    Parameters
    ----------
    fill : {"zero", "random"}
        What the padding holds. Random values are normal, with the mean and the spread of the
        output.
    seed : int
        Of the random fill.

    Notes
    -----
    No shift undoes it: row r is sheared by r times the padding. Reading the buffer through its
    strides does; from the output alone, only the rows that are still in it come back.

    References
    ----------
    apple/coremltools #1893, microsoft/onnxruntime #21416.
    """

    name = "row-stride"
    _is_of_buffer = True
    fill: Literal["zero", "random"] = "zero"
    seed: int = 0

    def _check(self) -> None:
        self._require_choice("fill", "zero", "random")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        if not y.ndim or not y.size:
            return y.copy()
        width, itemsize = y.shape[-1], y.dtype.itemsize
        stride = -(-width * itemsize // 64) * 64 // itemsize
        buffer = filling(self.fill, (y.size // width, stride), y, self._generator(y))
        buffer[:, :width] = y.reshape(-1, width)
        return buffer.ravel()[: y.size].reshape(y.shape).copy()


@dataclass(frozen=True)
class FlatOffset(ArrayFault):
    """A buffer is read from the wrong element on: ``y.flat[i] = y.flat[i - displacement]``.

    Parameters
    ----------
    displacement : int
        How many elements too far the content sits in the flat buffer of a sample, channels and all.
    fill : {"zero", "random"}
        What comes into view at the end of the buffer. Random values are normal, with the mean
        and the spread of the output.
    seed : int
        Of the random fill.

    Notes
    -----
    Where the displacement is that of whole rows, it is one of rows, ``displacement / width``,
    and the shift of the other sign undoes it away from the border, but for the channels that
    content crossed into. Otherwise no correction does.

    References
    ----------
    pytorch #105801, #101507, #180984, #124591: the offset of a view taken for 0, which displaces
    by that offset.
    """

    name = "flat-offset"
    _is_of_buffer = True
    displacement: int = 1
    fill: Literal["zero", "random"] = "zero"
    seed: int = 0

    def _check(self) -> None:
        self._require_choice("fill", "zero", "random")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        result = filling(self.fill, (y.size,), y, self._generator(y))
        amount = max(-y.size, min(self.displacement, y.size))
        result[max(amount, 0) : y.size + min(amount, 0)] = y.ravel()[
            max(-amount, 0) : y.size - max(amount, 0)
        ]
        return result.reshape(y.shape)


@dataclass(frozen=True)
class Overlong(ArrayFault):
    """The output is right and has a tail that should not be there: its shape grows.

    Parameters
    ----------
    tail : tuple of int
        How many positions too many per spatial axis, at its end; a single one holds for all.
    fill : {"zero", "random"}
        What the tail holds. Random values are normal, with the mean and the spread of the output.
    seed : int
        Of the random fill.

    Notes
    -----
    Cropping the tail undoes it fully.

    References
    ----------
    apple/coreai-torch #57 and coremltools' PyTorch frontend: an ``output_padding`` op above the
    padding p of a transposed convolution. With stride s and n = op - p, the tail is n (s - 1) in
    the one and n (s - 2) - p in the other: for kernel 4, s 8, p 1, op 7, length 107 or 100
    instead of 65.
    """

    name = "overlong"
    tail: tuple[int, ...] = (1,)
    fill: Literal["zero", "random"] = "zero"
    seed: int = 0

    def _check(self) -> None:
        accepted = bool(self.tail) and all(0 <= each <= 2**16 for each in self.tail)
        self._require("tail", "from 0 to 65536", accepted=accepted)
        self._require_choice("fill", "zero", "random")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        shape = list(y.shape)
        for axis, more in zip(spatial, self._per_axis(self.tail, len(spatial)), strict=True):
            shape[axis] += more
        result = filling(self.fill, tuple(shape), y, self._generator(y))
        result[tuple(slice(size) for size in y.shape)] = y
        return result


@dataclass(frozen=True)
class StrideCollapse(ArrayFault):
    """A transposed convolution takes its stride for 1; the rest of the output is zero.

    The output is cut into blocks of `stride` positions, and block i is added up at i, not at
    ``i * stride``. That is what happens to a kernel no longer than the stride, without pads and
    bias, for then a block is what one input gave. Longer kernels overlap: the array alone cannot
    tell what they would give.

    Parameters
    ----------
    stride : tuple of int
        Per spatial axis, at least 1; a single one holds for all.

    Notes
    -----
    No correction undoes it.

    References
    ----------
    pytorch #82711 (of ones, kernel 2, stride 2: [1, 2, 1, 0] instead of [1, 1, 1, 1]),
    microsoft/onnxruntime #32506.
    """

    name = "stride-collapse"
    stride: tuple[int, ...] = (2,)

    def _check(self) -> None:
        accepted = bool(self.stride) and all(each >= 1 for each in self.stride)
        self._require("stride", "at least 1", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        values = y.astype(np.float64)
        for axis, stride in zip(spatial, self._per_axis(self.stride, len(spatial)), strict=True):
            rows = np.moveaxis(values, axis, 0)
            collapsed = np.zeros_like(rows)
            for offset in range(min(stride, len(rows))):
                taken = rows[offset::stride]
                # A last block that is not whole may reach beyond the end: that is cropped.
                collapsed[offset : offset + len(taken)] += taken[: len(rows) - offset]
            values = np.moveaxis(collapsed, 0, axis)
        return as_device(values, y.dtype)
