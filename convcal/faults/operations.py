# SPDX-License-Identifier: BSD-3-Clause
"""Faults of operations: they act inside the network, `convcal.runtime` does what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convcal.faults.base import Fault

__all__ = ["CropOrigin"]


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
    variant : {"zero", "half"}
        Where the crop begins instead: at 0, as if the pads were ignored; or at floor(P/2), as
        if the P positions to be cropped in all were split evenly.
    precision : {"fp16", "all"}
        Whether only operations whose result is typed fp16 are touched, or fp32 ones too.

    References
    ----------
    apple/coremltools #2324 (fp16, asymmetric pads) and #2281 (fp32, ``output_shape``);
    microsoft/onnxruntime #21416. What they show fits an origin of 0; floor(P/2) is the other
    reading, which they do not rule out.
    """

    name = "crop-origin"
    variant: Literal["zero", "half"] = "zero"
    precision: Literal["fp16", "all"] = "fp16"

    def _check(self) -> None:
        self._require_choice("variant", "zero", "half")
        self._require_choice("precision", "fp16", "all")
