# SPDX-License-Identifier: BSD-3-Clause
"""The fitted parameters that make one output of a model right again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from convcal.arithmetic import correct, missing_axis
from convcal.errors import InputError
from convcal.words import PRECISIONS

__all__ = ["AxisFilter", "Correction", "Precision"]

Precision = Literal["float32", "output"]

_DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64")
MAX_TAPS = 64
MAX_OFFSET = 2**24
"""Bounds on what a calibration file may ask for; far above anything that is ever fitted."""


@dataclass(frozen=True)
class AxisFilter:
    """Which neighbours along one spatial axis make up a corrected value.

    ``corrected[i] = sum over k of taps[k] * observed[i + offset + k]``, with the edge value
    repeated past the ends.

    Parameters
    ----------
    offset : int
        Where the first tap lies, in pixels from the corrected position.
    taps : tuple of float
        The weights. A whole-pixel shift ``s`` is ``AxisFilter(-s, (1.0,))``.

    Raises
    ------
    InputError
        If there is no tap or more than 64, or a number is not finite or out of range.
    """

    offset: int = 0
    taps: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not 1 <= len(self.taps) <= MAX_TAPS:
            raise InputError(f"a filter has {len(self.taps)} taps; 1 to {MAX_TAPS} are accepted")
        if not all(math.isfinite(tap) for tap in self.taps):
            raise InputError(f"the taps {self.taps} are not all finite")
        if abs(self.offset) > MAX_OFFSET:
            raise InputError(f"the offset {self.offset} is beyond {MAX_OFFSET} pixels")

    @property
    def is_whole(self) -> bool:
        """Whether it copies values without arithmetic."""
        return self.taps == (1.0,)

    @property
    def margins(self) -> tuple[int, int]:
        """How many positions at the start and at the end lack a source."""
        return max(0, -self.offset), max(0, self.offset + len(self.taps) - 1)

    def reaches(self, shift: float) -> bool:
        """Whether the position that a shift looks for lies on the taps; on the only one exactly."""
        return self.offset <= -shift <= self.offset + len(self.taps) - 1


@dataclass(frozen=True)
class Correction:
    """Shift, gain and bias of one output.

    ``corrected[n, c, i] = gain[c] * observed[n, c, i - shift] + bias[c]``

    Parameters
    ----------
    spatial_shape : tuple of int
        The sizes of the spatial axes it was fitted on, in the order of the axes. It applies to
        other sizes too.
    dtype : str
        The dtype of the output it was fitted on.
    shift : tuple of float
        What registers observed to reference, in pixels per spatial axis; positive moves the
        content to larger indices (the sign of scikit-image's ``phase_cross_correlation``).
        Zeros by default.
    filters : tuple of AxisFilter
        How the shift is carried out, one per spatial axis. Whole-pixel filters by default.
    gain, bias : tuple of float
        One per channel; a single one where `channel_axis` is None.
    batch_axis, channel_axis : int or None
        Which axes of the output are not spatial.

    Raises
    ------
    InputError
        If numbers are not finite, lengths disagree, a fractional shift has no filter, or the
        filters carry out another shift.
    """

    spatial_shape: tuple[int, ...]
    dtype: str = "float32"
    shift: tuple[float, ...] = ()
    filters: tuple[AxisFilter, ...] = ()
    gain: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)
    batch_axis: int | None = 0
    channel_axis: int | None = 1
    border: str = field(default="replicate", init=False)

    def __post_init__(self) -> None:
        n_spatial = len(self.spatial_shape)
        if not self.shift:
            object.__setattr__(self, "shift", (0.0,) * n_spatial)
        if not self.filters:
            if not all(float(value).is_integer() for value in self.shift):
                raise InputError(f"the shift {self.shift} is not whole; give its filters too")
            object.__setattr__(
                self, "filters", tuple(AxisFilter(-round(value)) for value in self.shift)
            )
        self._check(n_spatial)

    def _check(self, n_spatial: int) -> None:
        if n_spatial > 3 or any(size < 1 for size in self.spatial_shape):
            raise InputError(
                f"the spatial shape is {self.spatial_shape}; up to 3 positive sizes are accepted"
            )
        if len(self.shift) != n_spatial or len(self.filters) != n_spatial:
            raise InputError(
                f"there are {n_spatial} spatial axes, {len(self.shift)} shifts and "
                f"{len(self.filters)} filters; one each per axis is needed"
            )
        if len(self.gain) != len(self.bias) or not self.gain:
            raise InputError(
                f"there are {len(self.gain)} gains and {len(self.bias)} biases; "
                "one of each per channel is needed"
            )
        if self.channel_axis is None and len(self.gain) != 1:
            raise InputError(f"there are {len(self.gain)} gains, but no channel axis; give one")
        numbers = (*self.shift, *self.gain, *self.bias)
        if not all(math.isfinite(number) for number in numbers):
            raise InputError("shift, gain and bias must be finite")
        for shift, axis_filter in zip(self.shift, self.filters, strict=True):
            if not axis_filter.reaches(shift):
                raise InputError(
                    f"the shift {shift} is not what a filter of {len(axis_filter.taps)} taps "
                    f"from offset {axis_filter.offset} carries out"
                )
        axes = [axis for axis in (self.batch_axis, self.channel_axis) if axis is not None]
        n_axes = n_spatial + len(axes)
        if len(set(axes)) != len(axes) or any(not 0 <= axis < n_axes for axis in axes):
            raise InputError(
                f"batch axis {self.batch_axis} and channel axis {self.channel_axis} do not fit "
                f"an output with {n_axes} axes; different axes from 0 to {n_axes - 1} are accepted"
            )
        if self.dtype not in _DTYPES:
            raise InputError(f"the dtype is '{self.dtype}'; {', '.join(_DTYPES)} are accepted")

    @property
    def n_channels(self) -> int:
        """How many channels have a gain and a bias; 1 where there is no channel axis."""
        return len(self.gain)

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Per spatial axis, how many positions at the start and at the end lack a source."""
        return tuple(axis_filter.margins for axis_filter in self.filters)

    @property
    def is_identity(self) -> bool:
        """Whether applying it changes nothing."""
        return not self.has_shift and not self.has_gain and not self.has_bias

    @property
    def has_shift(self) -> bool:
        """Whether any axis is moved or filtered."""
        return any(axis_filter != AxisFilter() for axis_filter in self.filters)

    @property
    def has_gain(self) -> bool:
        """Whether any gain differs from 1."""
        return any(value != 1 for value in self.gain)

    @property
    def has_bias(self) -> bool:
        """Whether any bias differs from 0."""
        return any(value != 0 for value in self.bias)

    def valid_region(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Index of the positions inside the margins, for an output of a given shape.

        Parameters
        ----------
        shape : tuple of int
            The shape of an output, with or without its batch axis.

        Returns
        -------
        tuple of slice
            One per axis of `shape`; empty where the margins leave nothing.

        Raises
        ------
        InputError
            If the shape has another number of axes.
        """
        others = (self.batch_axis, self.channel_axis)
        n_axes = len(self.filters) + sum(axis is not None for axis in others)
        missing = missing_axis(len(shape), n_axes, self.batch_axis)
        axes = [axis for axis in range(n_axes) if axis != missing]
        if len(shape) != len(axes):
            raise InputError(f"the shape is {shape}; {n_axes} axes are expected")
        margins = iter(self.margins)
        region = []
        for axis, size in zip(axes, shape, strict=True):
            start, end = (0, 0) if axis in others else next(margins)
            region.append(slice(min(start, size), max(size - end, min(start, size))))
        return tuple(region)

    def apply(
        self,
        observed: np.ndarray[Any, Any],
        *,
        precision: Precision = "float32",
        out: np.ndarray[Any, Any] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Correct one array.

        Parameters
        ----------
        observed : ndarray
            An output of the observed model, with or without its batch axis; never written to.
            The spatial axes may have any size.
        precision : {'float32', 'output'}
            The dtype to compute in: float32, or that of `observed`.
        out : ndarray, optional
            Receives the result; same shape and dtype as `observed`.

        Returns
        -------
        ndarray
            The corrected output, same shape and dtype as `observed`.

        Raises
        ------
        InputError
            If the array or `out` does not fit the correction.
        """
        if precision not in PRECISIONS:
            raise InputError(f"precision is '{precision}'; 'float32' or 'output' is accepted")
        try:
            return correct(
                observed,
                filters=self.as_arguments()["filters"],
                gain=self.gain,
                bias=self.bias,
                batch_axis=self.batch_axis,
                channel_axis=self.channel_axis,
                precision=precision,
                out=out,
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def as_arguments(self) -> dict[str, Any]:
        """Give the keyword arguments of `convcal.arithmetic.correct`, as plain Python values."""
        return {
            "filters": tuple((f.offset, f.taps) for f in self.filters),
            "gain": self.gain,
            "bias": self.bias,
            "batch_axis": self.batch_axis,
            "channel_axis": self.channel_axis,
        }

    def to_dict(self) -> dict[str, Any]:
        """Give the correction as it stands in a calibration file."""
        n_spatial = len(self.spatial_shape)
        return {
            "shift": list(self.shift),
            "scale": [1.0] * n_spatial,
            "origin": [0.0] * n_spatial,
            "gain": list(self.gain),
            "bias": list(self.bias),
            "border": self.border,
            "interpolation": {
                "axes": [{"offset": f.offset, "taps": list(f.taps)} for f in self.filters]
            },
            "margins": [list(pair) for pair in self.margins],
            "batch_axis": self.batch_axis,
            "channel_axis": self.channel_axis,
            "spatial_shape": list(self.spatial_shape),
            "dtype": self.dtype,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Correction:
        """Read a correction from a calibration file, trusting nothing in it.

        Parameters
        ----------
        record : mapping
            What `to_dict` gives.

        Returns
        -------
        Correction

        Raises
        ------
        InputError
            If a key is missing, a value has the wrong type, or the values contradict each other.
        """
        reader = _RecordReader(record)
        n_spatial = len(reader.numbers("spatial_shape", whole=True))
        if reader.numbers("scale") != (1.0,) * n_spatial:
            raise InputError("'scale' is not 1 on every axis, which this version cannot apply")
        if reader.numbers("origin") != (0.0,) * n_spatial:
            raise InputError("'origin' is not 0 on every axis, as it is where nothing is scaled")
        if reader.value("border") != "replicate":
            raise InputError(f"'border' is {reader.value('border')!r}; 'replicate' is accepted")
        axes = reader.nested("interpolation").records("axes")
        correction = cls(
            shift=reader.numbers("shift"),
            filters=tuple(AxisFilter(axis.whole("offset"), axis.numbers("taps")) for axis in axes),
            gain=reader.numbers("gain"),
            bias=reader.numbers("bias"),
            batch_axis=reader.axis("batch_axis"),
            channel_axis=reader.axis("channel_axis"),
            spatial_shape=tuple(int(size) for size in reader.numbers("spatial_shape", whole=True)),
            dtype=str(reader.value("dtype")),
        )
        if [list(pair) for pair in correction.margins] != reader.value("margins"):
            raise InputError(
                f"'margins' is {reader.value('margins')}, but the filters give {correction.margins}"
            )
        return correction


class _RecordReader:
    """Typed access to a JSON object that nobody vouches for."""

    def __init__(self, record: object) -> None:
        if not isinstance(record, Mapping):
            raise InputError(f"an object was expected, not {type(record).__name__}")
        self._record = record

    def value(self, key: str) -> Any:
        if key not in self._record:
            raise InputError(f"'{key}' is missing")
        return self._record[key]

    def numbers(self, key: str, *, whole: bool = False) -> tuple[float, ...]:
        values = self.value(key)
        kinds = (int,) if whole else (int, float)
        if not isinstance(values, list) or any(
            isinstance(value, bool) or not isinstance(value, kinds) for value in values
        ):
            raise InputError(f"'{key}' must be a list of {'whole ' if whole else ''}numbers")
        try:
            return tuple(float(value) for value in values)
        except OverflowError:
            raise InputError(f"'{key}' has a number beyond float64") from None

    def whole(self, key: str) -> int:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"'{key}' must be a whole number, not {value!r}")
        return value

    def axis(self, key: str) -> int | None:
        return None if self.value(key) is None else self.whole(key)

    def nested(self, key: str) -> _RecordReader:
        try:
            return _RecordReader(self.value(key))
        except InputError as error:
            raise InputError(f"'{key}': {error}") from None

    def records(self, key: str) -> list[_RecordReader]:
        values = self.value(key)
        if not isinstance(values, list):
            raise InputError(f"'{key}' must be a list")
        return [_RecordReader(value) for value in values]
