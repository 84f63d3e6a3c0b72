# SPDX-License-Identifier: BSD-3-Clause
"""Faults that take every value to another one, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convcal.faults.base import ArrayFault, as_device, as_dtype

__all__ = ["Cliff", "Flush", "Fp16Round", "LutBias", "Saturate"]


@dataclass(frozen=True)
class Saturate(ArrayFault):
    """Values beyond a limit are lost.

    Parameters
    ----------
    limit : float
        The largest magnitude that survives.
    to : {"clamp", "inf", "zero"}
        What becomes of larger ones.
    nan : {"keep", "inf"}
        Whether NaN stays, or becomes plus infinity.

    Notes
    -----
    No correction undoes it at the values that are lost; the others are right.

    References
    ----------
    65504 is the largest fp16 number. sbryngelson/ane-guide measured on Neural Engines that sums
    of products are lost from 32768 on (the largest fp16 number below is 32752), that crops along
    the width take magnitudes above 4094 to infinity, and that NaN becomes plus infinity.
    apple/coremltools #1380 saw an overflow become zeros.
    """

    name = "saturate"
    limit: float = 65504.0
    to: Literal["clamp", "inf", "zero"] = "clamp"
    nan: Literal["keep", "inf"] = "keep"

    def _check(self) -> None:
        self._require("limit", "greater than 0", accepted=self.limit > 0)
        self._require_choice("to", "clamp", "inf", "zero")
        self._require_choice("nan", "keep", "inf")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        values = y.astype(np.float64)
        level = {"clamp": self.limit, "inf": np.inf, "zero": 0.0}[self.to]
        values = np.where(np.abs(values) > self.limit, np.copysign(level, values), values)
        if self.nan == "inf":
            values = np.where(np.isnan(values), np.inf, values)
        return as_dtype(values, y.dtype)


@dataclass(frozen=True)
class Cliff(ArrayFault):
    """Values above a threshold take a wrong branch: ``y = value where y > threshold``.

    Parameters
    ----------
    threshold : float
        Of the output.
    value : float
        What becomes of larger values.

    Notes
    -----
    No correction undoes it above the threshold; below, all is right.

    References
    ----------
    apple/coremltools #2687 (softplus is 0 beyond 10.4, where it equals its argument to fp16),
    #2690 (logsumexp of 32 is 0 from an argument of 7.63 on), #2729 (11.09).
    """

    name = "cliff"
    threshold: float = 10.4
    value: float = 0.0

    def _check(self) -> None:
        self._require_finite("threshold")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        return np.where(y > self.threshold, as_device(np.array(self.value), y.dtype), y)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the form with tanh: it differs from the exact one by less than a table does."""
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


_ACTIVATIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "gelu": _gelu,
    "swish": lambda x: x * _sigmoid(x),
}


@dataclass(frozen=True)
class LutBias(ArrayFault):
    """Values carry the error of an activation that is looked up in a table.

    ``y = fp16(y + table(y) - function(y))``. The table is exact at `knots` arguments, evenly
    spaced from -reach to reach, and linear between them; beyond, there is no error. The values of
    the output are taken for the arguments of the activation: what is modelled is an error that
    depends on the value alone, with the size and the form of such a table's, not the activation.

    Parameters
    ----------
    function : {"sigmoid", "tanh", "gelu", "swish"}
    knots : int
        How many, at least 2.
    reach : float
        The largest argument in the table.

    Notes
    -----
    Gain and bias undo the part of it that is linear in the value, no more.

    References
    ----------
    sbryngelson/ane-guide measured tables of 33 knots on Neural Engines, sigmoid off by up to
    0.0034. Here that is 0.0030. Their tables are not exact at the knots either: gelu(0) is
    -0.0005 there and 0 here.
    """

    name = "lut-bias"
    function: Literal["sigmoid", "tanh", "gelu", "swish"] = "sigmoid"
    knots: int = 33
    reach: float = 8.0

    def _check(self) -> None:
        self._require_choice("function", *_ACTIVATIONS)
        self._require("knots", "from 2 to 65536", accepted=2 <= self.knots <= 2**16)
        accepted = bool(np.isfinite(self.reach)) and self.reach > 0
        self._require("reach", "a finite number greater than 0", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        function = _ACTIVATIONS[self.function]
        arguments = np.linspace(-self.reach, self.reach, self.knots)
        values = y.astype(np.float64)
        inside = np.clip(np.nan_to_num(values), -self.reach, self.reach)
        error = np.interp(inside, arguments, function(arguments)) - function(inside)
        error = np.where(np.abs(values) < self.reach, error, 0.0)
        return as_device(values + error, y.dtype)


@dataclass(frozen=True)
class Flush(ArrayFault):
    """Small values become zero: ``y = 0 where abs(y) < threshold``.

    Parameters
    ----------
    threshold : float
        The default, 2**-14, is the smallest normal fp16 number.

    Notes
    -----
    No correction undoes it, and few need one.

    References
    ----------
    sbryngelson/ane-guide: matrix products on an M1 flush subnormal numbers.
    """

    name = "flush"
    threshold: float = 2.0**-14

    def _check(self) -> None:
        accepted = bool(np.isfinite(self.threshold)) and self.threshold >= 0
        self._require("threshold", "a finite number, at least 0", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        # Not abs, which has no positive form of the least integer.
        is_small = (y > -self.threshold) & (y < self.threshold)
        return np.where(is_small, np.zeros((), y.dtype), y)


@dataclass(frozen=True)
class Fp16Round(ArrayFault):
    """Every value is rounded to fp16, and to infinity beyond its range.

    Notes
    -----
    Nothing is to be undone: the verdict on it is ``identical``.

    References
    ----------
    hollance/neural-engine: the Neural Engine holds all in fp16.
    """

    name = "fp16-round"

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        return as_device(y.astype(np.float64), y.dtype)
