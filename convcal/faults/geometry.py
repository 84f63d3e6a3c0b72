# SPDX-License-Identifier: BSD-3-Clause
"""Faults that move or warp the content of an output.

`displacement` says how many pixels the observed content sits too far, per spatial axis. The
corrections that undo these faults are written with the words of `convcal.Correction`:
``corrected[i] = observed[origin + scale * (i - origin) - shift]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convcal.faults.base import ArrayFault, as_device, filling

__all__ = ["FracShift", "GridQuant", "IntShift", "ScaleCentre", "ScaleCorner"]


@dataclass(frozen=True)
class IntShift(ArrayFault):
    """The content sits some whole positions too far: ``y[i] = y[i - displacement]``.

    Parameters
    ----------
    displacement : tuple of int
        Per spatial axis; a single one holds for all.
    fill : {"edge", "zero", "wrap", "random"}
        What positions hold whose content would come from outside. Random values are normal,
        with the mean and the spread of the output.
    seed : int
        Of the random fill.

    Notes
    -----
    ``shift = -displacement`` undoes it, but for the border: what was moved out is lost.

    References
    ----------
    google-ai-edge/LiteRT #9272 (one row, zeros); ARM-software/ComputeLibrary #331 (opposite
    signs on the two axes). It is also what `CropOrigin` looks like away from the border.
    """

    name = "int-shift"
    displacement: tuple[int, ...] = (1,)
    fill: Literal["edge", "zero", "wrap", "random"] = "edge"
    seed: int = 0

    def _check(self) -> None:
        accepted = bool(self.displacement) and all(abs(d) < 2**31 for d in self.displacement)
        self._require("displacement", "given, and below 2**31", accepted=accepted)
        self._require_choice("fill", "edge", "zero", "wrap", "random")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        amounts = self._per_axis(self.displacement, len(spatial))
        moved = y.copy()
        inside = np.ones((1,) * y.ndim, bool)
        for axis, amount in zip(spatial, amounts, strict=True):
            length = y.shape[axis]
            source = np.arange(length) - amount
            if self.fill == "wrap":
                source %= max(length, 1)
            here = (source >= 0) & (source < length)
            inside = inside & np.expand_dims(here, tuple(range(1, y.ndim - axis)))
            moved = np.take(moved, np.clip(source, 0, max(length - 1, 0)), axis=axis)
        if self.fill in {"zero", "random"}:
            beyond = filling(self.fill, y.shape, y, self._generator(y))
            moved = np.where(inside, moved, beyond)
        return moved


@dataclass(frozen=True)
class FracShift(ArrayFault):
    """The content sits fractions of a pixel too far, by linear interpolation.

    ``y(u) = y(u - displacement)``; positions outside take the value of the edge.

    Parameters
    ----------
    displacement : tuple of float
        Per spatial axis, in pixels; a single one holds for all.

    Notes
    -----
    ``shift = -displacement`` undoes it as far as the linear interpolation left something: at
    half a pixel it weakens the frequency f (cycles per pixel) by ``cos(pi f)``, the finest
    detail entirely.

    References
    ----------
    A resize by the factor f, asymmetric instead of half-pixel: ``-(f - 1) / 2``, so -0.5 where it
    doubles (MIL documentation of ``resize_bilinear``; apple/coremltools #673, #774, #1198, #1230).
    """

    name = "frac-shift"
    displacement: tuple[float, ...] = (-0.5,)

    def _check(self) -> None:
        self._require_finite("displacement")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        amounts = self._per_axis(self.displacement, len(spatial))
        positions = [
            np.arange(y.shape[axis]) - amount for axis, amount in zip(spatial, amounts, strict=True)
        ]
        return _interpolated(y, spatial, positions)


@dataclass(frozen=True)
class ScaleCorner(ArrayFault):
    """The displacement grows from one corner on: ``y(u) = y((1 + growth) u)``, linear.

    u counts from the corner; positions outside take the value of the edge.

    Parameters
    ----------
    growth : tuple of float
        Relative growth per spatial axis, between -0.5 and 0.5; a single one holds for all. Where
        it is positive, content sits too near to the corner.
    corner : tuple of {"start", "end"}
        Which end of each spatial axis stays in place; a single one holds for all.

    Notes
    -----
    ``scale = 1 / (1 + growth)`` undoes it, about the origin 0 (start) or size - 1 (end), with no
    shift. Where the growth is negative, what lies farther than ``(size - 1) * (1 + growth)`` from
    the corner is lost.

    References
    ----------
    microsoft/onnxruntime #21170: no shift at the bottom left, almost a pixel at the top right
    (``corner=end/start``), from about 1024 pixels on. Coordinates held in fp16 are wrong by up
    to 2**-11 of themselves.
    """

    name = "scale-corner"
    growth: tuple[float, ...] = (2.0**-11,)
    corner: tuple[str, ...] = ("start",)

    def _check(self) -> None:
        accepted = bool(self.growth) and all(abs(each) <= 0.5 for each in self.growth)
        self._require("growth", "between -0.5 and 0.5", accepted=accepted)
        self._require_choice("corner", "start", "end")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        growths = self._per_axis(self.growth, len(spatial))
        corners = self._per_axis(self.corner, len(spatial))
        positions = []
        for axis, growth, corner in zip(spatial, growths, corners, strict=True):
            distance = np.arange(y.shape[axis])
            if corner == "start":
                positions.append(distance * (1.0 + growth))
            else:
                positions.append((y.shape[axis] - 1) - distance[::-1] * (1.0 + growth))
        return _interpolated(y, spatial, positions)


@dataclass(frozen=True)
class ScaleCentre(ArrayFault):
    """The displacement grows from the centre on: ``y(u) = y(c + ratio (u - c))``, linear.

    c is the centre, (size - 1) / 2; positions outside take the value of the edge.

    Parameters
    ----------
    ratio : tuple of float
        Per spatial axis, between 0.5 and 2; a single one holds for all.

    Notes
    -----
    ``scale = 1 / ratio`` undoes it, about the origin c, with no shift. Where the ratio is below 1,
    both ends are lost.

    References
    ----------
    A resize with aligned corners instead of half-pixel centres: by the factor f to M pixels, the
    ratio is (M - f) / (M - 1) (MIL documentation of ``resize_bilinear``; apple/coremltools
    #1230). The default is near that of f = 2 and M = 64.
    """

    name = "scale-centre"
    ratio: tuple[float, ...] = (0.984375,)

    def _check(self) -> None:
        accepted = bool(self.ratio) and all(0.5 <= each <= 2 for each in self.ratio)
        self._require("ratio", "between 0.5 and 2", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        ratios = self._per_axis(self.ratio, len(spatial))
        positions = []
        for axis, ratio in zip(spatial, ratios, strict=True):
            centre = (y.shape[axis] - 1) / 2
            positions.append(centre + ratio * (np.arange(y.shape[axis]) - centre))
        return _interpolated(y, spatial, positions)


@dataclass(frozen=True)
class GridQuant(ArrayFault):
    """The output is sampled on a grid whose normalised coordinates are held in fp16.

    ``y(u) = y(q(u))``, linear, where q takes the position u to x = 2 u / (size - 1) - 1, from
    -1 to 1, rounds it to fp16 and goes back. The error is a sawtooth.

    Parameters
    ----------
    mode : {"stored", "all"}
        ``stored``: x alone is fp16, so that positions are off by up to 0.125 px of 1024, 0.25 of
        2048, 0.47 of 3840. ``all``: the way back is computed in fp16 too, every step rounded:
        0.5 px of 1024, 1 of 1920, 3 of 3840.

    Notes
    -----
    No correction undoes it: the error is neither a shift nor a scale, and where neighbours are
    sampled at the same position, content is lost. Below some 200 pixels little changes.

    References
    ----------
    apple/coremltools #2068, pytorch #94816, pytorch/vision #9029, hzwer/RIFE #188.
    """

    name = "grid-quant"
    mode: Literal["stored", "all"] = "stored"

    def _check(self) -> None:
        self._require_choice("mode", "stored", "all")

    def positions(self, size: int) -> NDArray[np.float64]:
        """Give the positions, in pixels, at which an axis of this size is sampled."""
        if size < 2:
            return np.zeros(size)
        half = (size - 1) / 2
        stored = _half(np.arange(size) / half - 1)
        if self.mode == "stored":
            return (stored + 1) * half
        return _half(_half(stored + 1) * _half(np.float64(half)))

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        return _interpolated(y, spatial, [self.positions(y.shape[axis]) for axis in spatial])


def _half(values: Any) -> NDArray[np.float64]:
    return np.asarray(values).astype(np.float16).astype(np.float64)


def _interpolated(
    y: NDArray[Any], spatial: tuple[int, ...], positions: list[NDArray[np.float64]]
) -> NDArray[Any]:
    """Sample an output at positions along its spatial axes, linearly, the edge repeated."""
    values = y.astype(np.float64)
    for axis, wanted in zip(spatial, positions, strict=True):
        last = max(y.shape[axis] - 1, 0)
        position = np.clip(wanted, 0, last)
        below = np.floor(position).astype(int)
        weight = np.expand_dims(position - below, tuple(range(1, y.ndim - axis)))
        first = np.take(values, below, axis=axis)
        second = np.take(values, np.minimum(below + 1, last), axis=axis)
        # What has no weight has no say, were it infinite.
        values = np.where(weight == 0, first, (1.0 - weight) * first + weight * second)
    return as_device(values, y.dtype)
