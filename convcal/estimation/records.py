# SPDX-License-Identifier: BSD-3-Clause
"""Statistics as plain arrays: written as such, and read with nothing trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.errors import InputError
from convcal.estimation.counts import ChannelCounts
from convcal.estimation.moments import OverlapMoments

__all__ = ["ArrayRecord", "Header", "as_header"]

FORMAT = "convcal.statistics"
VERSION = 1
_COUNTS = ("minimum", "maximum", "n_nonfinite", "n_left_out", "n_different")
_MOMENTS = ("n_planes", "pivot", "mean", "comoment")
_MAX_HEADER = 2**16  # characters; one has about 200
_MAX_INTEGER = 2**53
# Values are up to 1e75, means lie between them, and no sum is of more than 1e30 squares.
_MOST_MEAN, _MOST_MOMENT = 1e76, 1e182


def as_header(fields: Mapping[str, Any]) -> NDArray[np.str_]:
    """Give the fields as one JSON text in an array."""
    return np.array(json.dumps({"format": FORMAT, "version": VERSION, **fields}))


def as_arrays(counts: ChannelCounts, moments: OverlapMoments) -> dict[str, NDArray[Any]]:
    """Give copies of the arrays of counts and moments, by name."""
    return {
        **{name: getattr(counts, name).copy() for name in _COUNTS},
        **{name: getattr(moments, name).copy() for name in _MOMENTS},
    }


@dataclass(frozen=True)
class Header:
    """The JSON part of a record; every field is checked when it is asked for."""

    fields: Mapping[str, Any]

    def integer(self, name: str, *, least: int) -> int:
        """Give a field that is a whole number."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"'{name}' of the statistics is {value!r}; a whole number is accepted")
        if not least <= value <= _MAX_INTEGER:
            raise InputError(
                f"'{name}' of the statistics is {value}; {least} to {_MAX_INTEGER} are accepted"
            )
        return value

    def integers(self, name: str, *, least: int) -> int | tuple[int, ...] | None:
        """Give a field that is a whole number, a list of them, or null."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            return self.integer(name, least=least)
        if not 1 <= len(value) <= 3:
            raise InputError(
                f"'{name}' of the statistics has {len(value)} numbers; 1 to 3 are accepted"
            )
        return tuple(Header({name: part}).integer(name, least=least) for part in value)

    def shape(self, name: str) -> tuple[int, ...]:
        """Give the shape of a sample, (C, *spatial)."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not 1 <= len(value) <= 4:
            raise InputError(
                f"'{name}' of the statistics is {value!r}; channels and up to three sizes are "
                "accepted"
            )
        return tuple(Header({name: part}).integer(name, least=1) for part in value)

    def dtypes(self, name: str) -> tuple[np.dtype[Any], ...]:
        """Give the dtypes of reference and observed, in this machine's byte order."""
        value = self.fields.get(name)
        if not isinstance(value, list) or len(value) != 2:
            raise InputError(f"'{name}' of the statistics is {value!r}; two dtypes are accepted")
        dtypes = []
        for text in value:
            try:
                dtype = np.dtype(text) if isinstance(text, str) else None
            except (TypeError, ValueError, SyntaxError):
                dtype = None
            if dtype is None or dtype.kind not in "fiub" or dtype.itemsize > 8:
                raise InputError(
                    f"'{name}' of the statistics holds {text!r}; real floating-point and integer "
                    "dtypes are accepted"
                )
            dtypes.append(dtype.newbyteorder("="))
        return tuple(dtypes)


@dataclass(frozen=True)
class ArrayRecord:
    """Arrays by name, as they come from a file."""

    arrays: Mapping[str, Any]

    def header(self) -> Header:
        """Read the header.

        Raises
        ------
        InputError
            If it is no JSON object of this format and of a version that can be read.
        """
        array = np.asarray(self._get("header"))
        if array.dtype.kind != "U" or array.ndim or array.dtype.itemsize > 4 * _MAX_HEADER:
            raise InputError(
                f"the header of the statistics has dtype {array.dtype} and shape {array.shape}; "
                "one text is accepted"
            )
        try:
            fields = json.loads(str(array))
        except (ValueError, RecursionError) as error:
            raise InputError(f"the header of the statistics is not JSON ({error})") from error
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise InputError(f'the header of the statistics has no "format": "{FORMAT}"')
        version = Header(fields).integer("version", least=1)
        if version > VERSION:
            raise InputError(
                f"the statistics have version {version} and this convcal reads up to {VERSION}; "
                "update convcal"
            )
        return Header(fields)

    def take(
        self, name: str, *, dtype: np.dtype[Any], shape: tuple[int | None, ...]
    ) -> NDArray[Any]:
        """Give an array of one dtype and shape; None stands for any size."""
        array = np.asarray(self._get(name))
        is_right = len(array.shape) == len(shape) and all(
            want in (None, size) for want, size in zip(shape, array.shape, strict=True)
        )
        if array.dtype.newbyteorder("=") != dtype or not is_right:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(
                f"'{name}' of the statistics has dtype {array.dtype} and shape {array.shape}; "
                f"{dtype} and ({wanted}) are accepted"
            )
        return array.astype(dtype, copy=False)

    def counts(self, like: ChannelCounts, *, n_samples: int, n_values: int) -> ChannelCounts:
        """Read ranges and counts of `n_samples` samples with `n_values` positions per channel.

        Raises
        ------
        InputError
            If there cannot be so many, or a range is none.
        """
        values = {
            name: self.take(
                name, dtype=getattr(like, name).dtype, shape=getattr(like, name).shape
            ).copy()
            for name in _COUNTS
        }
        for name, most in (
            ("n_nonfinite", n_samples * n_values),
            ("n_left_out", n_samples),
            ("n_different", n_samples * n_values),
        ):
            low, high = int(values[name].min()), int(values[name].max())
            if low < 0 or high > most:
                raise InputError(
                    f"'{name}' of the statistics has values from {low} to {high}; 0 to {most} are "
                    "accepted"
                )
        minimum, maximum = values["minimum"], values["maximum"]
        is_empty = (minimum == np.inf) & (maximum == -np.inf)
        is_range = (minimum <= maximum) & np.isfinite(minimum) & np.isfinite(maximum)
        if not (is_empty | is_range).all():
            raise InputError(
                "'minimum' and 'maximum' of the statistics are no ranges; finite numbers in "
                "order are accepted, or inf and -inf where there is none"
            )
        return ChannelCounts(**values)

    def moments(
        self, like: OverlapMoments, *, n_samples: int, n_left_out: NDArray[np.int64]
    ) -> OverlapMoments:
        """Read the moments of `n_samples` samples, of the sizes of other moments.

        Raises
        ------
        InputError
            If they are not finite, or no moments of so many samples.
        """
        n_planes = self.take("n_planes", dtype=np.dtype(np.int64), shape=like.n_planes.shape)
        # A sample that is not in the subsample is in the moments or was left out of them.
        if ((n_planes > n_samples) | (n_planes < n_samples - n_left_out) | (n_planes < 0)).any():
            raise InputError(
                f"'n_planes' of the statistics is {n_planes.tolist()[:8]}, which contradicts "
                f"{n_samples} samples outside the subsample, {n_left_out.tolist()[:8]} of all "
                "left out"
            )
        pivot, mean, comoment = (
            self.take(name, dtype=np.dtype(np.float64), shape=array.shape)
            for name, array in (
                ("pivot", like.pivot),
                ("mean", like.mean),
                ("comoment", like.comoment),
            )
        )
        for name, array in (("pivot", pivot), ("mean", mean), ("comoment", comoment)):
            largest = _MOST_MOMENT if name == "comoment" else _MOST_MEAN
            if not (np.abs(array) <= largest).all():
                raise InputError(
                    f"'{name}' of the statistics has values that are not finite or above "
                    f"{largest:g}"
                )
            if array[:, n_planes == 0].any():
                raise InputError(f"'{name}' of the statistics is not 0 where nothing was counted")
        if (comoment[:2] < 0).any():
            raise InputError("'comoment' of the statistics has negative sums of squares")
        return OverlapMoments(
            spatial=like.spatial,
            limits=like.limits,
            n_planes=n_planes.copy(),
            pivot=pivot.copy(),
            mean=mean.copy(),
            comoment=comoment.copy(),
        )

    def _get(self, name: str) -> Any:
        if name not in self.arrays:
            raise InputError(f"the statistics have no array '{name}'; give what 'to_arrays' gave")
        return self.arrays[name]
