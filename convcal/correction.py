# SPDX-License-Identifier: BSD-3-Clause
"""The fitted parameters that make one output of a model right again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from convcal.arithmetic import Resampling, correct, missing_axis, rows_found
from convcal.errors import ConvcalWarning, InputError
from convcal.filters import MAX_OFFSET, AxisFilter, SincFilter, read_filter
from convcal.records import Record
from convcal.words import PRECISIONS

__all__ = ["AxisFilter", "Correction", "Precision", "SincFilter"]

Precision = Literal["float32", "output"]

_DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64")

FP16_LARGEST = float(np.finfo(np.float16).max)

MAX_SIZE = 2**31 - 1
SCALES = (0.5, 2.0)
"""Bounds on what a calibration file may ask for; far beyond anything that is ever fitted."""


@dataclass(frozen=True)
class Correction:
    """Shift, scale, gain and bias of one output; crop and row stride where it was read wrongly.

    ``corrected[n, c, i] = gain[c] * observed[n, c, origin + scale * (i - origin) - shift]
    + bias[c]``, after rows have been put right and ends have been cropped.

    Parameters
    ----------
    spatial_shape : tuple of int
        The sizes of the spatial axes it was fitted on, in the order of the axes; of the reference,
        where `crop` makes a difference. It applies to other sizes too.
    dtype : str
        The dtype of the output it was fitted on.
    shift : tuple of float
        What registers observed to reference, in pixels per spatial axis; positive moves the
        content to larger indices (the sign of scikit-image's ``phase_cross_correlation``).
        Zeros by default.
    filters : tuple of AxisFilter or SincFilter
        How the shift is carried out, one per spatial axis: a `SincFilter` on axes that are scaled,
        an `AxisFilter` on the others. By default sincs and whole-pixel filters.
    gain, bias : tuple of float
        One per channel; a single one where `channel_axis` is None.
    batch_axis, channel_axis : int or None
        Which axes of the output are not spatial.
    scale, origin : tuple of float
        Per spatial axis, by what factor the observed content is stretched, from 0.5 to 2, and the
        position that stays in place; 1 and 0 where it is not, the default.
    crop : tuple of (int, int)
        Per spatial axis, how many positions at the start and at the end of the observed output are
        dropped, always and before anything is moved: the corrected output is smaller by these.
        Zeros by default. An output that has the sizes of `spatial_shape` already is not too long
        any more, and is refused.
    row_stride : int or None
        How far apart, in values, the rows (the last axis) lie in the buffer that was read as if
        they followed each other. Each sample, an index of the batch axis, has a buffer of its own.
        Rows of which nothing was read repeat the last one that was, and count as margin. Rows must
        keep their length.

    Raises
    ------
    InputError
        If numbers are not finite or out of range, lengths disagree, a fractional shift has no
        filter, the filters carry out another shift, or the rows that `row_stride` loses are whole
        channels.
    """

    spatial_shape: tuple[int, ...]
    dtype: str = "float32"
    shift: tuple[float, ...] = ()
    filters: tuple[AxisFilter | SincFilter, ...] = ()
    gain: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)
    batch_axis: int | None = 0
    channel_axis: int | None = 1
    scale: tuple[float, ...] = ()
    origin: tuple[float, ...] = ()
    crop: tuple[tuple[int, int], ...] = ()
    row_stride: int | None = None
    border: str = field(default="replicate", init=False)

    def __post_init__(self) -> None:
        n_spatial = len(self.spatial_shape)
        defaults = {"shift": 0.0, "scale": 1.0, "origin": 0.0, "crop": (0, 0)}
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, (value,) * n_spatial)
        # Plain numbers, whatever they were computed with: they go into files and source text.
        object.__setattr__(self, "scale", tuple(float(value) for value in self.scale))
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))
        object.__setattr__(self, "crop", tuple((int(start), int(end)) for start, end in self.crop))
        if not self.filters:
            axes = list(zip(self.spatial_shape, self.shift, self.scale, strict=False))
            if not all(scale != 1 or float(shift).is_integer() for _, shift, scale in axes):
                raise InputError(f"the shift {self.shift} is not whole; give its filters too")
            filters = (
                AxisFilter(-round(shift)) if scale == 1 else SincFilter.for_size(size)
                for size, shift, scale in axes
            )
            object.__setattr__(self, "filters", tuple(filters))
        self._check_lengths(n_spatial)
        self._check_axes(n_spatial)
        for axis in range(n_spatial):
            self._check_axis(axis)
        if self.row_stride is not None:
            self._check_rows(n_spatial, self.row_stride)

    def _check_lengths(self, n_spatial: int) -> None:
        if n_spatial > 3 or not all(1 <= size <= MAX_SIZE for size in self.spatial_shape):
            raise InputError(
                f"the spatial shape is {self.spatial_shape}; up to 3 positive sizes are accepted"
            )
        if len(self.shift) != n_spatial or len(self.filters) != n_spatial:
            raise InputError(
                f"there are {n_spatial} spatial axes, {len(self.shift)} shifts and "
                f"{len(self.filters)} filters; one each per axis is needed"
            )
        if not len(self.scale) == len(self.origin) == len(self.crop) == n_spatial:
            raise InputError(
                f"there are {n_spatial} spatial axes, {len(self.scale)} scales, {len(self.origin)} "
                f"origins and {len(self.crop)} crops; one each per axis is needed"
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

    def _check_axes(self, n_spatial: int) -> None:
        axes = [axis for axis in (self.batch_axis, self.channel_axis) if axis is not None]
        n_axes = n_spatial + len(axes)
        if len(set(axes)) != len(axes) or any(not 0 <= axis < n_axes for axis in axes):
            raise InputError(
                f"batch axis {self.batch_axis} and channel axis {self.channel_axis} do not fit "
                f"an output with {n_axes} axes; different axes from 0 to {n_axes - 1} are accepted"
            )
        if self.dtype not in _DTYPES:
            raise InputError(f"the dtype is '{self.dtype}'; {', '.join(_DTYPES)} are accepted")

    def _check_axis(self, axis: int) -> None:
        """Refuse what contradicts itself or is out of range on one spatial axis."""
        shift, scale, origin = self.shift[axis], self.scale[axis], self.origin[axis]
        start, end = self.crop[axis]
        if not (0 <= start <= MAX_OFFSET and 0 <= end <= MAX_OFFSET):
            raise InputError(
                f"the crop of spatial axis {axis} is {self.crop[axis]}; at each end 0 to "
                f"{MAX_OFFSET} positions are accepted"
            )
        used = self.filters[axis]
        if scale == 1:
            if isinstance(used, SincFilter):
                raise InputError(
                    f"spatial axis {axis} has the scale 1 and a sinc filter; give it an AxisFilter"
                )
            if origin != 0:
                raise InputError(
                    f"'origin' is {origin} on spatial axis {axis}, where nothing is scaled; give 0"
                )
            if not used.reaches(shift):
                raise InputError(
                    f"the shift {shift} is not what a filter of {len(used.taps)} taps "
                    f"from offset {used.offset} carries out"
                )
            return
        if not SCALES[0] <= scale <= SCALES[1]:
            raise InputError(
                f"'scale' is {scale} on spatial axis {axis}; {SCALES[0]} to {SCALES[1]} is accepted"
            )
        if not (abs(origin) <= MAX_OFFSET and abs(shift) <= MAX_OFFSET):
            raise InputError(
                f"the origin {origin} or the shift {shift} of spatial axis {axis} is beyond "
                f"{MAX_OFFSET} pixels"
            )
        if not isinstance(used, SincFilter):
            raise InputError(
                f"spatial axis {axis} has the scale {scale} and the taps of an axis without; "
                "give it a SincFilter"
            )

    def _check_rows(self, n_spatial: int, row_stride: int) -> None:
        """Refuse a row stride where what was never read is more than rows at the end."""
        n_axes = n_spatial + (self.batch_axis is not None) + (self.channel_axis is not None)
        channels_last = self.channel_axis is not None and self.channel_axis >= n_axes - 2
        if n_spatial < 2 or channels_last or self.batch_axis not in (0, None):
            raise InputError(
                f"a row stride needs an output whose last two axes are spatial, and a batch axis, "
                f"if any, in front (there are {n_spatial} spatial axes, batch axis "
                f"{self.batch_axis}, channel axis {self.channel_axis}); record the outputs again, "
                "with their strides (MLMultiArray.strides)"
            )
        depth = self._observed_size(0) if n_spatial == 3 else 1
        if self.n_channels != 1 or depth != 1:
            raise InputError(
                f"a row stride with {self.n_channels} channels and {depth} planes means that whole "
                "channels or planes were never read, and no correction brings these back; record "
                "the outputs again, with their strides (MLMultiArray.strides)"
            )
        length = self._observed_size(-1)
        if not length < row_stride <= MAX_SIZE:
            raise InputError(
                f"the row stride is {row_stride}, and rows have {length} values; more than that "
                "is needed"
            )

    def _observed_size(self, axis: int) -> int:
        return self.spatial_shape[axis] + sum(self.crop[axis])

    @property
    def n_channels(self) -> int:
        """How many channels have a gain and a bias; 1 where there is no channel axis."""
        return len(self.gain)

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Per spatial axis, how many positions at the start and at the end lack a source.

        For outputs of `spatial_shape`; on axes that are scaled, and where there is a row stride,
        other sizes have other margins, which `valid_region` knows.
        """
        return self._margins(self.spatial_shape)

    def _margins(self, spatial_shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        lost = [0] * len(spatial_shape)
        if self.row_stride is not None:
            n_rows, length = (spatial_shape[axis] + sum(self.crop[axis]) for axis in (-2, -1))
            n_lost = n_rows - rows_found(n_rows, length, self.row_stride)
            lost[-2] = max(0, n_lost - self.crop[-2][1])
        margins = []
        for axis, (size, used) in enumerate(zip(spatial_shape, self.filters, strict=True)):
            if isinstance(used, SincFilter):
                pair = used.margins(
                    size,
                    scale=self.scale[axis],
                    origin=self.origin[axis],
                    shift=self.shift[axis],
                    n_found=size - lost[axis],
                )
            else:
                start, _ = used.margins
                pair = (start, max(0, lost[axis] + used.offset + len(used.taps) - 1))
            margins.append(pair)
        return tuple(margins)

    @property
    def is_identity(self) -> bool:
        """Whether applying it changes nothing."""
        return not (
            self.has_shift
            or self.has_gain
            or self.has_bias
            or self.has_crop
            or self.row_stride is not None
        )

    @property
    def has_shift(self) -> bool:
        """Whether any axis is moved, filtered or scaled."""
        return any(used != AxisFilter() for used in self.filters)

    @property
    def has_scale(self) -> bool:
        """Whether any axis is scaled."""
        return any(value != 1 for value in self.scale)

    @property
    def has_crop(self) -> bool:
        """Whether any end is dropped, so that the corrected output has another shape."""
        return any(any(pair) for pair in self.crop)

    @property
    def has_gain(self) -> bool:
        """Whether any gain differs from 1."""
        return any(value != 1 for value in self.gain)

    @property
    def has_bias(self) -> bool:
        """Whether any bias differs from 0."""
        return any(value != 0 for value in self.bias)

    def valid_region(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Index of the positions inside the margins, for a corrected output of a given shape.

        Parameters
        ----------
        shape : tuple of int
            The shape of a corrected output, with or without its batch axis.

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
        sizes = tuple(size for axis, size in zip(axes, shape, strict=True) if axis not in others)
        margins = iter(self._margins(sizes))
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
            The spatial axes may have any size; with a crop, any but that of the right output.
        precision : {'float32', 'output'}
            The dtype to compute in: float32, or that of `observed`.
        out : ndarray, optional
            Receives the result; of its shape and dtype.

        Returns
        -------
        ndarray
            The corrected output, of the dtype of `observed` and of its shape less the crop.

        Raises
        ------
        InputError
            If the array or `out` does not fit the correction.

        Warns
        -----
        ConvcalWarning
            If an fp16 output cannot hold what corrected values come to, and they become infinite.
        """
        if precision not in PRECISIONS:
            raise InputError(f"precision is '{precision}'; 'float32' or 'output' is accepted")
        overflows: list[str] = []
        try:
            with np.errstate(call=lambda kind, _: overflows.append(kind)):
                result = correct(
                    observed, **self.as_arguments(), precision=precision, out=out, overflow="call"
                )
        except ValueError as error:
            raise InputError(str(error)) from None
        if overflows and result.dtype == np.float16:
            warnings.warn(
                f"{np.isinf(result).sum()} corrected values are beyond {FP16_LARGEST:.0f}, the "
                "largest fp16 number, and became infinite; pass the outputs as float32 arrays",
                ConvcalWarning,
                stacklevel=2,
            )
        return result

    def as_arguments(self) -> dict[str, Any]:
        """Give the keyword arguments of `convcal.arithmetic.correct`, as plain Python values."""
        arguments: dict[str, Any] = {
            "filters": tuple(
                (0, (1.0,)) if isinstance(used, SincFilter) else (used.offset, used.taps)
                for used in self.filters
            ),
            "gain": self.gain,
            "bias": self.bias,
            "batch_axis": self.batch_axis,
            "channel_axis": self.channel_axis,
        }
        if self.has_scale:
            arguments["resampling"] = self.resampling
        if self.has_crop:
            arguments["crop"] = self.crop
            arguments["right_shape"] = self.spatial_shape
        if self.row_stride is not None:
            arguments["rows"] = (self._observed_size(-1), self.row_stride)
        return arguments

    @property
    def resampling(self) -> tuple[Resampling | None, ...]:
        """Per spatial axis, what `convcal.arithmetic.sinc_taps` takes; None where not scaled."""
        return tuple(
            (scale, origin, shift, used.n_taps, used.beta) if isinstance(used, SincFilter) else None
            for scale, origin, shift, used in zip(
                self.scale, self.origin, self.shift, self.filters, strict=True
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the correction as it stands in a calibration file."""
        record = {
            "shift": list(self.shift),
            "scale": list(self.scale),
            "origin": list(self.origin),
            "gain": list(self.gain),
            "bias": list(self.bias),
            "border": self.border,
            "interpolation": {"axes": [used.to_dict() for used in self.filters]},
            "margins": [list(pair) for pair in self.margins],
            "batch_axis": self.batch_axis,
            "channel_axis": self.channel_axis,
            "spatial_shape": list(self.spatial_shape),
            "dtype": self.dtype,
        }
        if self.has_crop:
            record["crop"] = [list(pair) for pair in self.crop]
        if self.row_stride is not None:
            record["row_stride"] = self.row_stride
        return record

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
        reader = Record(record)
        if reader.value("border") != "replicate":
            raise InputError(f"'border' is {reader.value('border')!r}; 'replicate' is accepted")
        axes = reader.nested("interpolation").records("axes")
        correction = cls(
            shift=reader.numbers("shift"),
            filters=tuple(read_filter(axis) for axis in axes),
            gain=reader.numbers("gain"),
            bias=reader.numbers("bias"),
            batch_axis=reader.axis("batch_axis"),
            channel_axis=reader.axis("channel_axis"),
            spatial_shape=reader.wholes("spatial_shape"),
            dtype=str(reader.value("dtype")),
            scale=reader.numbers("scale"),
            origin=reader.numbers("origin"),
            crop=reader.pairs("crop") if "crop" in reader else (),
            row_stride=reader.whole("row_stride") if "row_stride" in reader else None,
        )
        if [list(pair) for pair in correction.margins] != reader.value("margins"):
            raise InputError(
                f"'margins' is {reader.value('margins')}, but the filters give {correction.margins}"
            )
        return correction
