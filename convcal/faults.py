# SPDX-License-Identifier: BSD-3-Clause
"""The documented faults of devices, to emulate them where there is no such device.

A fault has a name and parameters, written ``NAME`` or ``NAME:key=value,key=value`` (what
``--emulate`` takes); values per spatial axis are separated by slashes. Faults of arrays act on
an output and are plain transforms, here. Faults of operations act inside the network: here are
their parameters, in `convcal.runtime` is what they do.
"""

from __future__ import annotations

import dataclasses
import zlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from convcal.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "FAULTS",
    "ArrayFault",
    "ChannelAffine",
    "CropOrigin",
    "Fault",
    "IntShift",
    "Noise",
    "RowStride",
    "Saturate",
    "ScaleCorner",
    "parse_fault",
]


@dataclass(frozen=True)
class Fault:
    """A known way in which hardware distorts outputs, with its parameters.

    ``str(fault)`` gives the text that `parse_fault` takes.
    """

    name: ClassVar[str]

    def __str__(self) -> str:
        given = (
            f"{field.name}={_text(value)}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        )
        return ":".join(part for part in (self.name, ",".join(given)) if part)

    def _require(self, name: str, what: str, *, accepted: bool) -> None:
        if not accepted:
            raise InputError(
                f"the fault {self.name} has {name}={_text(getattr(self, name))}; it must be {what}"
            )


@dataclass(frozen=True)
class ArrayFault(Fault):
    """A fault that acts on an output, whatever the network."""

    def apply(
        self, y: NDArray[Any], *, channel_axis: int | None = 1, batch_axis: int | None = 0
    ) -> NDArray[Any]:
        """Distort an output.

        Parameters
        ----------
        y : ndarray
            The output; it is left as it is.
        channel_axis, batch_axis : int or None
            The axes of `y` that are not spatial.

        Returns
        -------
        ndarray
            Of the shape and dtype of `y`. Values that are computed are rounded to fp16 first,
            as a device would hold them; values that are only moved are not. Those of integer
            outputs are rounded and clamped.

        Raises
        ------
        InputError
            If `y` is neither of a floating nor of an integer dtype, has no such axis, or has
            another number of spatial axes than the parameters are for.
        """
        y = np.asarray(y)
        if y.dtype.kind not in "fiu":
            raise InputError(f"the fault {self.name} needs numbers; the output is of {y.dtype}")
        others = {}
        for role, axis in (("channel", channel_axis), ("batch", batch_axis)):
            if axis is not None:
                if not -y.ndim <= axis < y.ndim:
                    raise InputError(
                        f"the output of shape {y.shape} has no {role} axis {axis}; "
                        f"pass {role}_axis=None if it has none"
                    )
                others[role] = axis % y.ndim
        spatial = tuple(axis for axis in range(y.ndim) if axis not in others.values())
        return self._distort(y, others.get("channel"), spatial)

    @abstractmethod
    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]: ...


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

    def __post_init__(self) -> None:
        self._require("variant", "zero or half", accepted=self.variant in ("zero", "half"))
        self._require("precision", "fp16 or all", accepted=self.precision in ("fp16", "all"))


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

    References
    ----------
    apple/coremltools #1901 (average pooling off by a factor of 49); apple/coreai-torch #54
    (constants of batch normalisation held in fp16).
    """

    name = "channel-affine"
    gain: float = 1.0
    bias: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        self._require("gain", "a finite number", accepted=bool(np.isfinite(self.gain)))
        self._require("bias", "a finite number", accepted=bool(np.isfinite(self.bias)))
        _require_seed(self, self.seed)

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
        return _as_device(values * gain.reshape(shape) + bias.reshape(shape), y.dtype)


@dataclass(frozen=True)
class IntShift(ArrayFault):
    """The content sits some whole positions too far: ``y[i] = y[i - displacement]``.

    Parameters
    ----------
    displacement : tuple of int
        Per spatial axis; a single one holds for all. The shift that undoes it is its negative.
    fill : {"edge", "zero", "wrap"}
        What positions hold whose content would come from outside.

    References
    ----------
    ARM-software/ComputeLibrary #331, google-ai-edge/LiteRT #9272.
    """

    name = "int-shift"
    displacement: tuple[int, ...] = (1,)
    fill: Literal["edge", "zero", "wrap"] = "edge"

    def __post_init__(self) -> None:
        self._require("displacement", "given", accepted=bool(self.displacement))
        accepted = self.fill in ("edge", "zero", "wrap")
        self._require("fill", "edge, zero or wrap", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        amounts = _per_axis(self, self.displacement, len(spatial))
        for axis, amount in zip(spatial, amounts, strict=True):
            length = y.shape[axis]
            source = np.arange(length) - amount
            if self.fill == "wrap":
                source %= max(length, 1)
            moved = np.take(y, np.clip(source, 0, max(length - 1, 0)), axis=axis)
            if self.fill == "zero":
                inside = np.expand_dims(
                    (source >= 0) & (source < length), tuple(range(1, y.ndim - axis))
                )
                moved = np.where(inside, moved, np.zeros((), y.dtype))
            y = moved
        return y.copy() if not spatial else y


@dataclass(frozen=True)
class ScaleCorner(ArrayFault):
    """The displacement grows from the first element on: ``y(u) = y((1 + d) u)``, linear.

    Parameters
    ----------
    d : tuple of float
        Relative growth per spatial axis, between -0.5 and 0.5; a single one holds for all.

    References
    ----------
    microsoft/onnxruntime #21170: no shift at one corner, almost a pixel at the other, from about
    1024 pixels on. Coordinates held in fp16 are wrong by up to 2**-11 of themselves.
    """

    name = "scale-corner"
    d: tuple[float, ...] = (2.0**-11,)

    def __post_init__(self) -> None:
        accepted = bool(self.d) and all(abs(each) <= 0.5 for each in self.d)
        self._require("d", "between -0.5 and 0.5", accepted=accepted)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel
        values = y.astype(np.float64)
        growths = _per_axis(self, self.d, len(spatial))
        for axis, growth in zip(spatial, growths, strict=True):
            last = max(y.shape[axis] - 1, 0)
            position = np.clip(np.arange(y.shape[axis]) * (1.0 + growth), 0, last)
            below = np.floor(position).astype(int)
            weight = np.expand_dims(position - below, tuple(range(1, y.ndim - axis)))
            above = np.take(values, np.minimum(below + 1, last), axis=axis)
            values = (1.0 - weight) * np.take(values, below, axis=axis) + weight * above
        return _as_device(values, y.dtype)


@dataclass(frozen=True)
class RowStride(ArrayFault):
    """A buffer with padded rows is read as if it had none, so that rows are sheared.

    Each row occupies a multiple of 64 bytes, ``64 * ceil(width * itemsize / 64)``; the reader
    takes the elements one after the other. The padding holds zeros, the last rows are lost.
    Rows that fill their bytes are read rightly.

    References
    ----------
    apple/coremltools #1893, microsoft/onnxruntime #21416.
    """

    name = "row-stride"

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        if not y.ndim or not y.size:
            return y.copy()
        width, itemsize = y.shape[-1], y.dtype.itemsize
        stride = -(-width * itemsize // 64) * 64 // itemsize
        buffer = np.zeros((y.size // width, stride), y.dtype)
        buffer[:, :width] = y.reshape(-1, width)
        return buffer.ravel()[: y.size].reshape(y.shape).copy()


@dataclass(frozen=True)
class Saturate(ArrayFault):
    """Values beyond a limit are lost.

    Parameters
    ----------
    limit : float
        The largest magnitude that survives.
    to : {"clamp", "inf", "zero"}
        What becomes of larger ones.

    References
    ----------
    65504 is the largest fp16 number; sbryngelson/ane-guide measured limits of 32768 (sums of
    products) and 4094 (crops along the width) on Neural Engines.
    """

    name = "saturate"
    limit: float = 65504.0
    to: Literal["clamp", "inf", "zero"] = "clamp"

    def __post_init__(self) -> None:
        self._require("limit", "greater than 0", accepted=self.limit > 0)
        self._require("to", "clamp, inf or zero", accepted=self.to in ("clamp", "inf", "zero"))

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        values = y.astype(np.float64)
        level = {"clamp": self.limit, "inf": np.inf, "zero": 0.0}[self.to]
        values = np.where(np.abs(values) > self.limit, np.copysign(level, values), values)
        return _as(values, y.dtype)


@dataclass(frozen=True)
class Noise(ArrayFault):
    """Every value is off by a random factor: ``y = fp16(y * (1 + relative * e))``, e normal.

    Parameters
    ----------
    relative : float
        Standard deviation of the relative error.
    seed : int
        Of the draw, which depends on the values of the output too: other samples, other noise.

    References
    ----------
    apple/coremltools #2625 sees 0.001 to 0.04.
    """

    name = "noise"
    relative: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        accepted = bool(np.isfinite(self.relative)) and self.relative >= 0
        self._require("relative", "a finite number, at least 0", accepted=accepted)
        _require_seed(self, self.seed)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        del channel, spatial
        generator = np.random.default_rng([self.seed, zlib.crc32(y.tobytes())])
        factor = 1.0 + self.relative * generator.standard_normal(y.shape)
        return _as_device(y.astype(np.float64) * factor, y.dtype)


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (CropOrigin, ChannelAffine, IntShift, ScaleCorner, RowStride, Saturate, Noise)
}

_READERS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "int | None": int,
    "tuple[int, ...]": lambda text: tuple(int(part) for part in text.split("/")),
    "tuple[float, ...]": lambda text: tuple(float(part) for part in text.split("/")),
}
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "int | None": "a whole number",
    "tuple[int, ...]": "whole numbers separated by slashes",
    "tuple[float, ...]": "numbers separated by slashes",
}


def parse_fault(text: str) -> Fault:
    """Read a fault from its text.

    Parameters
    ----------
    text : str
        ``NAME`` or ``NAME:key=value,…``; parameters that are not given have their defaults.

    Returns
    -------
    Fault
        With ``parse_fault(str(fault)) == fault``.

    Raises
    ------
    InputError
        If there is no such fault or parameter (the message lists those that there are), or a
        value is not accepted.

    Examples
    --------
    >>> parse_fault("crop-origin:variant=half")
    CropOrigin(variant='half', precision='fp16')
    >>> str(parse_fault("int-shift:displacement=2/-2"))
    'int-shift:displacement=2/-2,fill=edge'
    """
    name, _, rest = text.strip().partition(":")
    if name not in FAULTS:
        known = ", ".join(sorted(FAULTS))
        raise InputError(f"there is no fault '{name}'; the faults are {known}")
    fields = {field.name: str(field.type) for field in dataclasses.fields(FAULTS[name])}
    values: dict[str, Any] = {}
    for item in rest.split(",") if rest else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise InputError(f"the fault {name} has no parameter '{key}'; its parameters: {known}")
        if not equals or key in values:
            raise InputError(f"the fault '{text}' must give '{key}' once, as {key}=VALUE")
        values[key] = _read(name, key, value, kind=fields[key])
    return FAULTS[name](**values)


def _read(name: str, key: str, value: str, *, kind: str) -> Any:
    try:
        return _READERS.get(kind, str)(value)
    except ValueError as error:
        raise InputError(
            f"the fault {name} has {key}='{value}'; it must be {_KINDS[kind]}"
        ) from error


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(_text(each) for each in value)
    return repr(value) if isinstance(value, float) else str(value)


def _require_seed(fault: Fault, seed: int | None) -> None:
    fault._require("seed", "at least 0", accepted=seed is None or seed >= 0)  # noqa: SLF001


def _per_axis(fault: Fault, values: tuple[Any, ...], n_axes: int) -> tuple[Any, ...]:
    if len(values) == 1:
        return values * n_axes
    if len(values) != n_axes:
        raise InputError(
            f"the fault '{fault}' is for {len(values)} spatial axes, the output has {n_axes}"
        )
    return values


def _as_device(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round computed values to fp16, then give them the dtype of the output."""
    with np.errstate(over="ignore"):  # to infinity, as the device does
        return _as(values.astype(np.float16), dtype)


def _as(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        return np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max).astype(dtype)
