# SPDX-License-Identifier: BSD-3-Clause
"""Pair the tensors of two programs on clean runs, and see that the pairs hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.coreml.program import Operation, Value
from convcal.diagnosis.matching import CLOSE, Matching, Prints, deviation, fingerprint, match
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.segments import Computation, unrunnable

__all__ = ["pair_programs"]

Array = NDArray[Any]
Tensors = Mapping[str, Array]


class _Side:
    """One of the two programs, on some samples."""

    def __init__(self, outline: Outline, samples: Sequence[Tensors]) -> None:
        self.outline = outline
        self._samples = samples
        self.reached = _reached(outline, unrunnable(outline))

    def prints(
        self, given: Mapping[Value, Sequence[Array]] | None = None, wanted: Sequence[Value] = ()
    ) -> dict[Value, Array]:
        """Give fingerprints of tensors, by default of all that can be computed."""
        given = given or {}
        wanted = wanted or [each for each in self.outline.tensors if each in self.reached]
        computation = Computation(self.outline, given=given, wanted=wanted)
        parts: dict[str, list[Array]] = {value.name: [] for value in wanted}
        for index, sample in enumerate(self._samples):
            forced = {value.name: arrays[index] for value, arrays in given.items()}
            for name, array in computation.run({**sample, **forced}):
                parts[name].append(fingerprint(array))
        return {value: np.concatenate(parts[value.name]) for value in wanted if parts[value.name]}

    def arrays(self, wanted: Sequence[Value]) -> dict[Value, list[Array]]:
        """Compute some tensors."""
        computation = Computation(self.outline, wanted=wanted)
        runs = [dict(computation.run(sample)) for sample in self._samples]
        return {value: [run[value.name] for run in runs] for value in wanted}


def pair_programs(reference: Outline, observed: Outline, samples: Sequence[Tensors]) -> Matching:
    """Pair the tensors of two programs.

    Parameters
    ----------
    reference, observed : Outline
        The programs.
    samples : sequence of dict
        What both take, as tensors; one or two are enough.

    Returns
    -------
    Matching
        A pair on which both programs, from the same values, do not agree stands only where
        leaving it out does not explain that.
    """
    ours, theirs = _Side(observed, samples), _Side(reference, samples)

    def rerun(pairs: Mapping[Value, Value]) -> Prints:
        known = ours.arrays([value for value in pairs.values() if value in ours.reached])
        return theirs.prints({one: known[other] for one, other in pairs.items() if other in known})

    found = match(
        reference,
        observed,
        reference_prints=theirs.prints(),
        observed_prints=ours.prints(),
        rerun=rerun,
    )
    return _without_false(found, ours, theirs)


def _without_false(found: Matching, ours: _Side, theirs: _Side) -> Matching:
    """Leave out the pairs whose absence explains why the programs differ around them."""
    pairs = dict(found.pairs)
    ends = {*ours.outline.program.inputs, *ours.outline.outputs.values()}
    for value in sorted(found.bridged - ends, key=ours.outline.positions.__getitem__):
        behind = [
            result
            for consumer in ours.outline.consumers[value]
            for result in consumer.outputs
            if result in pairs
        ]
        if not behind or value not in ours.reached:
            continue
        fewer = {one: other for one, other in pairs.items() if one is not value}
        if _agree(fewer, behind, ours, theirs):
            pairs = fewer
    return Matching.of(pairs, ours.outline, bridged=found.bridged & pairs.keys())


def _agree(
    pairs: Mapping[Value, Value], wanted: Sequence[Value], ours: _Side, theirs: _Side
) -> bool:
    """Tell whether the reference computes some tensors right from the observed ones before."""
    known = ours.arrays([one for one in pairs if one in ours.reached])
    given = {pairs[one]: arrays for one, arrays in known.items()}
    predicted = theirs.prints(given, [pairs[value] for value in wanted])
    return all(
        deviation(
            predicted[pairs[value]],
            np.concatenate([fingerprint(array) for array in known[value]]),
        )
        <= CLOSE
        for value in wanted
    )


def _reached(outline: Outline, stops: frozenset[Operation]) -> frozenset[Value]:
    """Give the tensors that can be computed from the inputs without some operations."""
    reached = set(outline.program.inputs)
    for operation in outline.operations:
        if operation not in stops and reached.issuperset(outline.operands(operation)):
            reached.update(operation.outputs)
    return frozenset(reached)
