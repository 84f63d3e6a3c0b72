# SPDX-License-Identifier: BSD-3-Clause
"""What is known of all outputs after some of the samples: bounded, mergeable, storable."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from convcal.assessment import FitOptions, assess_statistics
from convcal.calibration import OutputCalibration
from convcal.errors import InputError
from convcal.estimation.statistics import OutputStatistics
from convcal.layout import Layout, excess, without_excess
from convcal.pairs import OutputPair

__all__ = ["FitState", "as_text", "from_text"]

_HEADER = "state"


@dataclass
class _OutputState:
    """One output: its statistics, and what its arrays are.

    Parameters
    ----------
    statistics : OutputStatistics
        Of all samples so far.
    layout : Layout
        What the axes of a single output are.
    shape : tuple of int
        (channels, *space).
    dtype : str
        Of the observed output.
    crop : tuple of (int, int)
        What the observed output has too much at the ends of each spatial axis.
    """

    statistics: OutputStatistics
    layout: Layout
    shape: tuple[int, ...]
    dtype: str
    crop: tuple[tuple[int, int], ...]


class FitState:
    """The statistics of all outputs of two models over some of the samples.

    Parameters
    ----------
    options : FitOptions
        How the fit is done.

    Attributes
    ----------
    n_samples : int
        How many samples went in.
    """

    def __init__(self, options: FitOptions) -> None:
        self._options = options
        self._outputs: dict[str, _OutputState] = {}
        self.n_samples = 0

    def update(self, batch: Mapping[str, OutputPair], *, n_samples: int) -> None:
        """Add the outputs of some samples.

        Parameters
        ----------
        batch : mapping of str to OutputPair
            All outputs, of the same shapes as before.
        n_samples : int
            How many samples they are of.
        """
        for name, pair in batch.items():
            shape = pair.reference.shape[1:]
            if name not in self._outputs:
                dtype = pair.observed.dtype.name
                statistics = OutputStatistics(max_shift=self._options.max_shift)
                crop = excess(pair.reference.shape, pair.observed.shape)
                self._outputs[name] = _OutputState(statistics, pair.layout, shape, dtype, crop)
            observed = without_excess(pair.observed, pair.reference.shape)
            with _named(name):
                self._outputs[name].statistics.update(pair.reference, observed)
        self.n_samples += n_samples

    def merge(self, other: FitState) -> None:
        """Add what another state holds; neither shares samples with the other.

        Raises
        ------
        InputError
            If the outputs of the two differ.
        """
        if not self._outputs:
            self._outputs, self.n_samples = other._outputs, other.n_samples
            return
        if self._outputs.keys() != other._outputs.keys():
            raise InputError(
                f"the outputs are {', '.join(self._outputs)} and those that are to be added "
                f"{', '.join(other._outputs) or 'none'}; only states of the same can be merged"
            )
        for name, output in self._outputs.items():
            added = other._outputs[name]
            if (output.shape, output.dtype, output.crop) != (added.shape, added.dtype, added.crop):
                raise InputError(
                    f"output '{name}' changes its shape or dtype with the sample: {output.dtype} "
                    f"{output.shape} and {added.dtype} {added.shape}; use samples of one size"
                )
            with _named(name):
                output.statistics.merge(added.statistics)
        self.n_samples += other.n_samples

    def assess(self) -> dict[str, OutputCalibration]:
        """Find out what is wrong with every output, and what corrects it.

        Raises
        ------
        InputError
            If the arrays cannot be used; the message names the output.
        """
        outputs = {}
        for name, output in self._outputs.items():
            with _named(name):
                outputs[name] = assess_statistics(
                    output.statistics,
                    layout=output.layout,
                    dtype=output.dtype,
                    options=self._options,
                    crop=output.crop,
                )
        return outputs

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Give everything as plain arrays, to be stored."""
        header: dict[str, Any] = {"n_samples": self.n_samples, "outputs": []}
        arrays = {}
        for index, (name, output) in enumerate(self._outputs.items()):
            header["outputs"].append(
                {
                    "name": name,
                    "batch_axis": output.layout.batch_axis,
                    "channel_axis": output.layout.channel_axis,
                    "shape": list(output.shape),
                    "dtype": output.dtype,
                    "crop": [list(ends) for ends in output.crop],
                }
            )
            for key, array in output.statistics.to_arrays().items():
                arrays[f"{index}/{key}"] = array
        return {_HEADER: as_text(header), **arrays}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]], options: FitOptions) -> Self:
        """Read what `to_arrays` gave, trusting nothing in it.

        Raises
        ------
        InputError
            If it is not that.
        """
        state = cls(options)
        try:
            header = from_text(arrays[_HEADER])
            state.n_samples = header["n_samples"]
            if not _is_count(state.n_samples):
                raise ValueError(f"'n_samples' is {state.n_samples!r}")
            for index, record in enumerate(header["outputs"]):
                prefix = f"{index}/"
                own = {
                    key.removeprefix(prefix): array
                    for key, array in arrays.items()
                    if key.startswith(prefix)
                }
                state._outputs[str(record["name"])] = _read_output(record, own)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the state of a fit cannot be read: {error}") from error
        return state

    def to_bytes(self) -> bytes:
        """Give everything as the content of a ``.npz`` file."""
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **self.to_arrays())
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, options: FitOptions) -> Self:
        """Read what `to_bytes` gave."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls.from_arrays(arrays, options)


def _read_output(
    record: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]
) -> _OutputState:
    """Read one output, and refuse with ValueError what contradicts its statistics."""
    statistics = OutputStatistics.from_arrays(arrays)
    shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
    axes = record["batch_axis"], record["channel_axis"]
    crop = tuple((start, end) for start, end in record["crop"])
    # Statistics hold as float64 what is wider.
    is_held = (dtype.kind == "f" and dtype.itemsize > 8) or dtype == statistics.dtypes[1]
    if not (
        all(axis is None or _is_count(axis) for axis in axes)
        and all(_is_count(end) for ends in crop for end in ends)
        and shape == statistics.sample_shape
        and len(crop) == len(shape) - 1
        and is_held
    ):
        raise ValueError(f"the output {record['name']!r} contradicts its statistics")
    return _OutputState(statistics, Layout(*axes), shape, dtype.name, crop)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the output in what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"output '{name}': {error}") from None


def as_text(record: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Give a JSON object as an array of one text, which needs no pickling."""
    return np.array(json.dumps(record))


def from_text(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Read what `as_text` gave.

    Raises
    ------
    ValueError
        If it is no JSON object.
    """
    record = json.loads(str(array))
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object was expected, not {type(record).__name__}")  # noqa: TRY004
    return record
