# SPDX-License-Identifier: BSD-3-Clause
"""Faults without structure: noise and garbage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convcal.faults.base import ArrayFault, as_device, moments

__all__ = ["Garbage", "Noise", "PrefixOnly"]


@dataclass(frozen=True)
class Noise(ArrayFault):
    """Every value is off by a random factor: ``y = fp16(y * (1 + relative * e))``, e normal.

    Parameters
    ----------
    relative : float
        Standard deviation of the relative error.
    seed : int
        Of the draw, which depends on the values of the output too: other samples, other noise.

    Notes
    -----
    No correction undoes it.

    References
    ----------
    apple/coremltools #2625 sees 0.001 to 0.04.
    """

    name = "noise"
    relative: float = 0.01
    seed: int = 0

    def _check(self) -> None:
        accepted = bool(np.isfinite(self.relative)) and self.relative >= 0
        self._require("relative", "a finite number, at least 0", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        factor = 1.0 + self.relative * self._generator(y).standard_normal(y.shape)
        return as_device(y.astype(np.float64) * factor, y.dtype)


@dataclass(frozen=True)
class Garbage(ArrayFault):
    """An error as large as the output is added: ``y = fp16(y + strength * std(y) * e)``, e normal.

    Parameters
    ----------
    strength : float
        Standard deviation of the error, in standard deviations of the output.
    seed : int
        Of the draw, which depends on the values of the output too.

    Notes
    -----
    No correction undoes it.

    References
    ----------
    john-rocky/coreai-model-zoo #18: transposed convolutions with kernels of at least 8 or strides
    of at least 16. When a device does that is a matter of the operation; here it is done always.
    """

    name = "garbage"
    strength: float = 1.0
    seed: int = 0

    def _check(self) -> None:
        accepted = bool(np.isfinite(self.strength)) and self.strength >= 0
        self._require("strength", "a finite number, at least 0", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        error = self.strength * moments(y)[1] * self._generator(y).standard_normal(y.shape)
        return as_device(y.astype(np.float64) + error, y.dtype)


@dataclass(frozen=True)
class PrefixOnly(ArrayFault):
    """The first elements are exact, the others are as `Garbage` makes them.

    Parameters
    ----------
    length : int
        How many are exact.
    along : {"flat", "last"}
        Whether they are counted in the flat buffer or along the last axis.
    seed : int
        Of the draw, which depends on the values of the output too.

    Notes
    -----
    No correction undoes it. Short outputs look right.

    References
    ----------
    john-rocky/coreai-model-zoo #18: of 1920 samples of sound, the first 4 are exact to the bit.
    """

    name = "prefix-only"
    _is_of_buffer = True
    length: int = 4
    along: Literal["flat", "last"] = "last"
    seed: int = 0

    def _check(self) -> None:
        self._require("length", "at least 0", accepted=self.length >= 0)
        self._require_choice("along", "flat", "last")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        result = np.asarray(Garbage(seed=self.seed)._distort(y, channel, spatial))  # noqa: SLF001 - of our kind
        if self.along == "flat" or not y.ndim:
            result.flat[: self.length] = y.flat[: self.length]
        else:
            result[..., : self.length] = y[..., : self.length]
        return result
