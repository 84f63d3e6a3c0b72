# SPDX-License-Identifier: BSD-3-Clause
"""Paired outputs of the reference and the observed model, from runs or from a capture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convcal.errors import InputError
from convcal.layout import Layout, OutputAxes, excess
from convcal.pair_sources import (
    Data,
    Model,
    Outputs,
    PairSource,
    Progress,
    open_captured,
    open_models,
)
from convcal.words import TIMEOUT

__all__ = [
    "Axes",
    "OutputPair",
    "PairJoiner",
    "Pairs",
    "read_pairs",
    "record_pairs",
]

Axes = Mapping[str, Layout] | OutputAxes
"""The layouts of outputs whose axes are not the usual ones."""
BATCH_VALUES = 1 << 20
BATCH_SAMPLES = 64
"""A batch ends at so many values of both models, or so many samples; it has at least one."""


@dataclass(frozen=True)
class OutputPair:
    """One output of both models for all samples.

    Parameters
    ----------
    reference, observed : ndarray
        (N, channels, *space), in the dtypes of the models; the observed ones may be longer.
    layout : Layout
        What the axes of a single output are.
    """

    reference: np.ndarray[Any, Any]
    observed: np.ndarray[Any, Any]
    layout: Layout


@dataclass(frozen=True)
class Pairs:
    """All outputs of both models for all samples, and where they come from."""

    outputs: dict[str, OutputPair]
    provenance: dict[str, Any]


def record_pairs(
    reference: Model,
    observed: Model,
    data: Data,
    *,
    runtime: str = "auto",
    reference_compute_units: str = "all",
    observed_compute_units: str = "all",
    function: str | None = None,
    emulate: Sequence[str] = (),
    timeout: float = TIMEOUT,
    axes: Axes | None = None,
    progress: Progress | None = None,
) -> Pairs:
    """Run both models on a calibration set.

    Parameters
    ----------
    reference, observed : path or Runner
        Packages to open, or anything with a `Runner`'s methods. Runners stay open.
    data : path or iterable of samples
        The calibration set, as `convcal.data.open_samples` takes it.
    runtime : {'auto', 'coreml', 'reference'}
        Where packages run.
    reference_compute_units, observed_compute_units : str
        On Core ML, for each of the two.
    function : str, optional
        Of packages with several functions, which; by default the one that each names.
    emulate : sequence of str
        Faults that act on the observed model.
    timeout : float
        Seconds that Core ML may take for loading a model, or for one sample.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where the layout is not the usual one.
    progress : callable, optional
        Told of every sample.

    Returns
    -------
    Pairs

    Raises
    ------
    InputError
        If the models do not match each other or the data, or outputs change their shape.
    """
    with open_models(
        reference,
        observed,
        data,
        runtime=runtime,
        reference_compute_units=reference_compute_units,
        observed_compute_units=observed_compute_units,
        function=function,
        emulate=emulate,
        timeout=timeout,
    ) as source:
        return _all_pairs(source, axes, progress)


def read_pairs(path: str | os.PathLike[str], *, axes: Axes | None = None) -> Pairs:
    """Read both roles of a capture.

    Parameters
    ----------
    path : path
        A capture that holds both roles.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where the layout is not the usual one.

    Returns
    -------
    Pairs

    Raises
    ------
    InputError
        If it is no capture, a role is missing, or the roles do not match.

    Warns
    -----
    ConvcalWarning
        If the roles were recorded from different data, under the same names of samples.
    """
    return _all_pairs(open_captured(path), axes, None)


def _all_pairs(source: PairSource, axes: Axes | None, progress: Progress | None) -> Pairs:
    joiner = PairJoiner(source, axes)
    recorded = []
    for done, pair in enumerate(source.read(0, len(source.samples)), start=1):
        recorded.append(pair)
        if progress:
            progress(done, len(source.samples))
    return Pairs(joiner.join(recorded), source.provenance)


class PairJoiner:
    """Joins the outputs of samples to arrays (N, channels, *space).

    Parameters
    ----------
    source : PairSource
        Where they come from.
    axes : mapping of str to Layout, or OutputAxes, optional
        By output name, where the layout is not the usual one.

    Raises
    ------
    InputError
        If `axes` names an output that there is not.
    """

    def __init__(self, source: PairSource, axes: Axes | None) -> None:
        unknown = sorted(set(axes or {}) - set(source.kinds))
        if unknown:
            raise InputError(
                f"there is no output {unknown}; the outputs are {sorted(source.kinds)}"
            )
        self._kinds = source.kinds
        self._axes = axes
        self._shapes: dict[tuple[str, str], tuple[int, ...]] = {}

    def batches(
        self, pairs: Iterable[tuple[Outputs, Outputs]]
    ) -> Iterator[tuple[int, dict[str, OutputPair]]]:
        """Join what a source gives, a few samples at a time.

        Yields
        ------
        (int, dict of str to OutputPair)
            How many samples there are, and what `join` makes of them.

        Raises
        ------
        InputError
            As `join` does.
        """
        batch: list[tuple[Outputs, Outputs]] = []
        n_values = 0
        for pair in pairs:
            batch.append(pair)
            n_values += sum(array.size for outputs in pair for array in outputs.values())
            if n_values >= BATCH_VALUES or len(batch) == BATCH_SAMPLES:
                yield len(batch), self.join(batch)
                batch, n_values = [], 0
        if batch:
            yield len(batch), self.join(batch)

    def join(self, pairs: Sequence[tuple[Outputs, Outputs]]) -> dict[str, OutputPair]:
        """Join the outputs of some samples.

        Parameters
        ----------
        pairs : sequence of pairs of mappings
            Per sample the outputs of the reference and of the observed model; at least one.

        Returns
        -------
        dict of str to OutputPair
            In the model's order.

        Raises
        ------
        InputError
            If an output changes its shape, here or since an earlier call, the two models' shapes
            differ, or its axes do not fit it.
        """
        return {
            name: self._join(
                name,
                [reference[name] for reference, _ in pairs],
                [observed[name] for _, observed in pairs],
                kind=kind,
            )
            for name, kind in self._kinds.items()
        }

    def _join(
        self,
        name: str,
        reference: list[np.ndarray[Any, Any]],
        observed: list[np.ndarray[Any, Any]],
        *,
        kind: str | None,
    ) -> OutputPair:
        for role, arrays in (("reference", reference), ("observed", observed)):
            first = self._shapes.setdefault((role, name), arrays[0].shape)
            shapes = sorted({first, *(array.shape for array in arrays)})
            if len(shapes) > 1:
                raise InputError(
                    f"output '{name}' of the {role} changes its shape with the sample: {shapes}; "
                    "use samples of one size"
                )
        if isinstance(self._axes, OutputAxes):
            layout = self._axes.layout(name, observed[0], kind=kind)
        else:
            layout = (self._axes or {}).get(name) or Layout.of(observed[0], kind=kind)
        try:
            pair = OutputPair(
                np.concatenate([layout.canonical(array) for array in reference]),
                np.concatenate([layout.canonical(array) for array in observed]),
                layout,
            )
            excess(pair.reference.shape, pair.observed.shape)  # raises where they do not fit
        except InputError as error:
            raise InputError(f"output '{name}': {error}") from None
        return pair
