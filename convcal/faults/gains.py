# SPDX-License-Identifier: BSD-3-Clause
"""Faults of gain and bias: of channels, of the border, of one element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convcal.errors import InputError
from convcal.faults.base import ArrayFault, as_device

__all__ = ["ChannelAffine", "ChannelDead", "EdgeGain", "LastElem"]


@dataclass(frozen=True)
class ChannelAffine(ArrayFault):
    """Every channel is scaled and offset: ``y[c] = fp16(gain[c] * y[c] + bias[c])``.

    Parameters
    ----------
    gain, bias : float
        The factor and the offset. Without a seed, of every channel. With one, the centres:
        channel c has ``1 + (gain - 1) * u[c]`` and ``bias * v[c]``, u and v drawn uniformly
        from [0.5, 1.5], the same for channel c however many channels there are.
    seed : int, optional
        Of the draw.

    Notes
    -----
    The correction's gain ``1 / gain[c]`` and bias ``-bias[c] / gain[c]`` undo it, unless the
    gain is 0 or values overflow.

    References
    ----------
    apple/coremltools #1901 (average pooling off by a factor of 49); apple/coreai-torch #54
    (constants of batch normalisation held in fp16). If the eps of a normalisation vanishes, the
    gain is ``sqrt((variance + eps) / variance)``: 3.32 for 1e-6 and 1e-5.
    """

    name = "channel-affine"
    gain: float = 1.0
    bias: float = 0.0
    seed: int | None = None

    def _check(self) -> None:
        self._require_finite("gain")
        self._require_finite("bias")

    def coefficients(self, n_channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the gains and the biases of `n_channels` channels."""
        draw = np.ones((n_channels, 2))
        if self.seed is not None:
            draw = np.random.default_rng(self.seed).uniform(0.5, 1.5, (n_channels, 2))
        return 1.0 + (self.gain - 1.0) * draw[:, 0], self.bias * draw[:, 1]

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del spatial
        shape = [1] * y.ndim
        if channel is not None:
            shape[channel] = y.shape[channel]
        gain, bias = self.coefficients(1 if channel is None else y.shape[channel])
        values = y.astype(np.float64)
        return as_device(values * gain.reshape(shape) + bias.reshape(shape), y.dtype)


@dataclass(frozen=True)
class ChannelDead(ArrayFault):
    """Some channels are constant, whatever the input.

    Parameters
    ----------
    channels : tuple of int
        Which, from 0 on. An output without a channel axis is channel 0.
    value : float
        What they hold.

    Notes
    -----
    No correction undoes it; the other channels are right.

    References
    ----------
    apple/coreai-torch #54 (a variance beyond fp16 makes the channel zero), pytorch #129207.
    """

    name = "channel-dead"
    channels: tuple[int, ...] = (0,)
    value: float = 0.0

    def _check(self) -> None:
        accepted = bool(self.channels) and all(each >= 0 for each in self.channels)
        self._require("channels", "at least 0", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del spatial
        n_channels = 1 if channel is None else y.shape[channel]
        if max(self.channels) >= n_channels:
            raise InputError(
                f"the fault '{self}' is for channel {max(self.channels)}, "
                f"the output has {n_channels}, counted from 0"
            )
        value = as_device(np.array(self.value), y.dtype)
        if channel is None:
            return np.full_like(y, value)
        result = y.copy()
        np.moveaxis(result, channel, 0)[list(self.channels)] = value
        return result


@dataclass(frozen=True)
class EdgeGain(ArrayFault):
    """Values near the border are scaled: by `gain` at an edge, by ``gain**2`` at a corner.

    With n spatial axes the corner has ``gain**n``. The interior is right.

    Parameters
    ----------
    width : tuple of int
        How many positions per spatial axis; a single one holds for all.
    gain : float
        The factor, once for every axis on which the position is near the border.
    side : {"both", "start", "end"}
        Which ends of the axes.

    Notes
    -----
    No gain of ours undoes it: it depends on the position, not on the channel.

    References
    ----------
    apple/coremltools #2772, #2844 (average pooling with ``ceil_mode`` divides the last window by
    too much: width 1, gain 1/2, side end); kornia #4073 (both sides).
    """

    name = "edge-gain"
    width: tuple[int, ...] = (1,)
    gain: float = 0.5
    side: Literal["both", "start", "end"] = "both"

    def _check(self) -> None:
        accepted = bool(self.width) and all(each >= 0 for each in self.width)
        self._require("width", "at least 0", accepted=accepted)
        self._require_finite("gain")
        self._require_choice("side", "both", "start", "end")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        power = np.zeros((1,) * y.ndim)
        for axis, width in zip(spatial, self._per_axis(self.width, len(spatial)), strict=True):
            position = np.arange(y.shape[axis])
            near = np.zeros(y.shape[axis], bool)
            if self.side != "end":
                near |= position < width
            if self.side != "start":
                near |= position >= y.shape[axis] - width
            power = power + np.expand_dims(near, tuple(range(1, y.ndim - axis)))
        scaled = as_device(y.astype(np.float64) * self.gain**power, y.dtype)
        return np.where(power > 0, scaled, y)


@dataclass(frozen=True)
class LastElem(ArrayFault):
    """The last position along all spatial axes is wrong, in every sample and channel.

    ``y[..., -1, -1] = fp16(y[..., -1, -1] + error)``. An output without spatial axes is right.

    Parameters
    ----------
    error : float
        What is added.

    Notes
    -----
    No correction undoes it; all other positions are right.

    References
    ----------
    apple/coremltools #2515.
    """

    name = "last-elem"
    error: float = 1.0

    def _check(self) -> None:
        self._require_finite("error")

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        result = y.copy()
        if spatial and y.size:
            last = tuple(-1 if axis in spatial else slice(None) for axis in range(y.ndim))
            wrong = np.asarray(y[last]).astype(np.float64) + self.error
            result[last] = as_device(wrong, y.dtype)
        return result
