# SPDX-License-Identifier: BSD-3-Clause
"""Faults of operations: they act inside the network, `convcal.runtime` does what they say.

In their descriptions (D) marks what a source documents, (I) what is inferred from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from convcal.faults.base import Fault

__all__ = [
    "CropOrigin",
    "Fp16Epsilon",
    "Fp16Grid",
    "Fp16Index",
    "Fp16Scale",
    "LutActivation",
    "SliceSaturate",
    "StrideOne",
]


@dataclass(frozen=True)
class CropOrigin(Fault):
    """The crop of a transposed convolution begins at the wrong place.

    Acts inside the network, on the un-cropped result of a ``conv_transpose``: the border that
    comes into view is the real content of that tensor. Only operations that devices are
    reported to get wrong are touched: those with pads that differ between front and back on
    some axis, or with an ``output_shape`` other than what pads, stride and kernel give. On
    these, the origin moves on every axis.

    Parameters
    ----------
    variant : {"zero", "half", "swapped", "symmetric"}
        Of P positions to be cropped in all, p in front and q at the back, per axis:

        - ``zero``: the crop begins at 0, as if the pads were ignored;
        - ``half``: at floor(P/2), as if they were split evenly;
        - ``swapped``: at q, as if front and back were exchanged;
        - ``symmetric``: at max(p, q), which is cropped at the back too; zeros fill up the length.
    precision : {"fp16", "all"}
        Whether only operations whose result is typed fp16 are touched, or fp32 ones too.

    Notes
    -----
    A shift undoes it away from the border; of ``symmetric``, where p is the larger, only the tail
    is lost.

    References
    ----------
    apple/coremltools #2324 (D: fp16, asymmetric pads, a shifted output) and #2281 (D: fp32,
    ``output_shape``, compute units that differ); microsoft/onnxruntime #21416 (D: asymmetric pads
    are right on the CPU alone). The origins are (I): of pads [1, 0], ``zero``, ``half`` and
    ``swapped`` all give the shift that is reported, ``symmetric`` does not.
    """

    name = "crop-origin"
    variant: Literal["zero", "half", "swapped", "symmetric"] = "zero"
    precision: Literal["fp16", "all"] = "fp16"

    def _check(self) -> None:
        self._require_choice("variant", "zero", "half", "swapped", "symmetric")
        self._require_choice("precision", "fp16", "all")


@dataclass(frozen=True)
class StrideOne(Fault):
    """A transposed convolution is computed with a stride of 1; zeros fill up the length.

    Touches every ``conv_transpose`` with a larger stride; pads are cropped as they should be.

    Notes
    -----
    No correction undoes it: neighbours have been added up. `StrideCollapse` is what can be said of
    it from an output alone.

    References
    ----------
    pytorch #82711 (D: MPS on macOS 12.5; of ones, kernel 2, stride 2: [1, 2, 1, 0] instead of
    [1, 1, 1, 1]), microsoft/onnxruntime #32506 (D: [1, 2, 0, 0, 0, 0] instead of
    [1, 0, 2, 0, 0, 0]). That the stride is taken for 1 is (I), and gives both.
    """

    name = "stride-one"


@dataclass(frozen=True)
class Fp16Index(Fault):
    """A transposed convolution finds the inputs of each position by arithmetic in fp16.

    Touches every ``conv_transpose`` whose un-cropped result is kept beyond position 2048 of some
    axis. What position i has from a tap comes from the input ``(i - tap) / stride``, with each step
    rounded to fp16, if that is a whole number. Up to 2048 all indices are right; beyond, they are
    rounded to multiples of 2, 4, ….

    Notes
    -----
    No correction undoes it from there on; before, the output is right.

    References
    ----------
    microsoft/onnxruntime #28976 (D: a WebGPU shader, wrong from about position 2048 on, whatever
    the data). That sums and quotients are rounded to nearest even is (I).
    """

    name = "fp16-index"


@dataclass(frozen=True)
class Fp16Scale(Fault):
    """A resize finds its places by a constant that is held in fp16: a scale about a corner.

    Touches ``resize_bilinear``, ``resize``, ``upsample_bilinear`` and those to the nearest
    neighbour. The position u of the result is taken for ``u * (1 + d)``, where d is the relative
    error of the constant, per axis of N positions.

    Parameters
    ----------
    constant : {"step", "ratio"}
        Which number is held in fp16: 1 / (N - 1), or N / (N - 1).
    corner : tuple of {"start", "end"}
        Where u counts from on each spatial axis; a single one holds for all.

    Notes
    -----
    ``scale = 1 / (1 + d)`` about the corner undoes it, but for what lies beyond the edge.

    References
    ----------
    microsoft/onnxruntime #21170 (D: Core ML, no shift at the bottom left, almost a pixel at the top
    right, ``corner=end/start``; not seen up to 1024 pixels, plain at 2048). The operation, and that
    a constant is held in fp16, are (I): ``step`` gives the pixel for N = 2048, 0.001 for 1024.
    """

    name = "fp16-scale"
    constant: Literal["step", "ratio"] = "step"
    corner: tuple[str, ...] = ("start",)

    def _check(self) -> None:
        self._require_choice("constant", "step", "ratio")
        self._require_choice("corner", "start", "end")

    def growth(self, size: int) -> float:
        """Give d for an axis of `size` positions of the result."""
        if size < 2:
            return 0.0
        exact = (1 if self.constant == "step" else size) / (size - 1)
        return float(np.float16(exact)) / exact - 1.0

    def positions(self, shape: tuple[int, ...]) -> tuple[NDArray[Any], ...]:
        """Give the positions that those of a result of this spatial shape are taken for."""
        result: list[NDArray[Any]] = []
        for size, corner in zip(shape, self._per_axis(self.corner, len(shape)), strict=True):
            distance = np.arange(size) * (1.0 + self.growth(size))
            result.append(distance if corner == "start" else (size - 1) - distance[::-1])
        return tuple(result)


@dataclass(frozen=True)
class Fp16Grid(Fault):
    """The coordinates at which an image is sampled are held in fp16.

    Touches ``resample``, ``affine`` and ``crop_resize``.

    Parameters
    ----------
    mode : {"stored", "all"}
        ``stored``: the coordinates (of ``crop_resize``: its boxes) are rounded, nothing else.
        ``all``: every step from them to positions in the image is rounded, too.

    Notes
    -----
    No correction undoes it: the error is a sawtooth in the coordinate. `GridQuant` is what can be
    said of it from an output alone.

    References
    ----------
    apple/coremltools #2068 (D: a discrepancy in fp16), pytorch #94816 (D: CUDA, 3799 becomes 3798),
    pytorch/vision #9029 (D: 1024 x 1024 positions, 16,398 distinct coordinates), hzwer/RIFE #188
    (D: wrong from about 2000 on). Which steps are rounded is (I).
    """

    name = "fp16-grid"
    mode: Literal["stored", "all"] = "stored"

    def _check(self) -> None:
        self._require_choice("mode", "stored", "all")


@dataclass(frozen=True)
class Fp16Epsilon(Fault):
    """The epsilon of a normalisation is held in fp16.

    Touches ``batch_norm``, ``instance_norm``, ``layer_norm`` and ``l2_norm`` where that changes
    their epsilon.

    Parameters
    ----------
    subnormals : {"zero", "keep"}
        What becomes of an epsilon below 2**-14, the smallest normal fp16 number: 1e-5 is zero, or
        the nearest fp16 number. Below 3e-8 it is zero in any case.

    Notes
    -----
    Of ``batch_norm``, gain and bias per channel undo it: the gain of a vanished epsilon is
    ``sqrt((variance + epsilon) / variance)``, 3.32 for 1e-6 and 1e-5. No correction undoes it of
    the others, whose statistics are those of the sample.

    References
    ----------
    apple/coreai-torch #54 (D: constants of batch normalisation in fp16); sbryngelson/ANEForge #263
    (D: on the Neural Engine the root of 0 + 1e-6 is 0, of 0 + 6e-5 it is not). That the epsilon of
    a fused normalisation fares alike is (I).
    """

    name = "fp16-epsilon"
    subnormals: Literal["zero", "keep"] = "zero"

    def _check(self) -> None:
        self._require_choice("subnormals", "zero", "keep")

    def held(self, epsilon: float) -> float:
        """Give what an epsilon becomes."""
        if self.subnormals == "zero" and abs(epsilon) < 2.0**-14:
            return 0.0
        return float(np.float16(epsilon))


@dataclass(frozen=True)
class SliceSaturate(Fault):
    """A slice that begins inside the last axis takes large values to infinity.

    Touches ``slice_by_index`` and ``slice_by_size`` whose begin along the last axis is known and
    not 0.

    Parameters
    ----------
    limit : float
        The largest magnitude that survives.

    Notes
    -----
    No correction undoes it at the values that are lost; the others are right.

    References
    ----------
    sbryngelson/ane-guide, chapters 3 and 19 (D: the Neural Engines of M1 and A14 multiply by 16 on
    the way, so that 4094 survives and 4096 does not; those from A15 on do not).
    """

    name = "slice-saturate"
    limit: float = 4094.0

    def _check(self) -> None:
        self._require("limit", "greater than 0", accepted=self.limit > 0)


@dataclass(frozen=True)
class LutActivation(Fault):
    """Activations are looked up in a table, linear between its knots.

    The table is exact at its knots, evenly spaced from -reach to reach, and linear between them;
    beyond, there is no error.

    Parameters
    ----------
    functions : tuple of str, optional
        The types of the operations that it touches; by default all of `tabulated`.
    knots : int
        How many, at least 2.
    reach : float
        The largest argument in the table.

    Notes
    -----
    Gain and bias undo the part of it that is linear in the result, no more. `LutBias` is what can
    be said of it from an output alone.

    References
    ----------
    sbryngelson/ane-guide, chapter 3 (D: 33 knots, linear between; sigmoid is off by up to 0.0034,
    tanh 0.0017, gelu 0.0059, sine, cosine and arc tangent by 0.04 to 0.12). The even spacing, the
    reach and exact knots are (I): the error is the reach squared times the largest curvature over
    8192, for 33 knots: by default 0.0030 of the sigmoid, 0.025 of gelu. gelu(0) is -0.0005 there
    and 0 here.
    """

    name = "lut-activation"
    tabulated: ClassVar = ("atan", "cos", "erf", "gelu", "sigmoid", "silu", "sin", "tanh")
    functions: tuple[str, ...] | None = None
    knots: int = 33
    reach: float = 8.0

    def _check(self) -> None:
        if self.functions is not None:
            self._require_choice("functions", *self.tabulated)
        self._require("knots", "from 2 to 65536", accepted=2 <= self.knots <= 2**16)
        accepted = bool(np.isfinite(self.reach)) and self.reach > 0
        self._require("reach", "a finite number greater than 0", accepted=accepted)
