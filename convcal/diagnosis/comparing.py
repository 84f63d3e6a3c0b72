# SPDX-License-Identifier: BSD-3-Clause
"""Observed tensors against what the reference computes from the observed ones before them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.coreml.program import Operation, Value
from convcal.diagnosis.judging import as_batch
from convcal.diagnosis.outline import Outline
from convcal.diagnosis.segments import Computation, part, unrunnable
from convcal.model_description import ModelDescription
from convcal.runtime.samples import from_tensor, to_tensor

__all__ = ["Comparison", "Programs", "Triple", "joined"]

Array = NDArray[Any]
Tensors = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Triple:
    """A tensor as the reference computes it, the same in fp16, and as it was observed.

    Attributes
    ----------
    expected, rounded, observed : ndarray, shape (N, C, *spatial)
        Of one shape, unless the observed tensor has another number of elements.
    """

    expected: Array
    rounded: Array
    observed: Array

    @classmethod
    def of(cls, expected: Array, rounded: Array, observed: Array) -> Triple:
        """Bring tensors of one number of elements into the shape of the observed one."""
        if expected.size == observed.size:
            expected, rounded = (each.reshape(observed.shape) for each in (expected, rounded))
        return cls(as_batch(expected), as_batch(rounded), as_batch(observed))


class Programs:
    """Two programs whose tensors are paired.

    Parameters
    ----------
    reference, observed : Outline
    pairs : dict of Value to Value
        From observed to reference tensors, in the observed order.
    description : ModelDescription
        The inputs and outputs of both.

    Attributes
    ----------
    steps : tuple of str
        The observed tensors that are judged, by what they are called where they are looked at: an
        output by its own name. An output that the program goes on to use comes twice, as the
        tensor and as what is handed out. All outputs are among them, and judged by the
        reference's output of that name, whatever the tensors are paired with.
    """

    def __init__(
        self,
        reference: Outline,
        observed: Outline,
        pairs: Mapping[Value, Value],
        description: ModelDescription,
    ) -> None:
        self.reference, self.observed = reference, observed
        self.pairs = dict(pairs)
        self.description = description
        self._outputs: dict[Value, list[str]] = {}
        for name, value in observed.outputs.items():
            if name in description.output_names and name in reference.outputs:
                self._outputs.setdefault(value, []).append(name)
        self._values: dict[str, Value] = {}
        for value in observed.tensors:
            if value not in self.pairs and value not in self._outputs:
                continue
            names = self._outputs.get(value, [])
            if value not in observed.program.inputs:
                names = [name for name in names if name != value.name]
                if value.name in self._outputs.get(value, []) or (
                    value in self.pairs and (not names or observed.consumers[value])
                ):
                    names.insert(0, value.name)
            self._values |= dict.fromkeys(names, value)
        self.steps = tuple(self._values)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the model, but for those that hold no numbers."""
        return tuple(name for names in self._outputs.values() for name in names)

    @cached_property
    def unrunnable(self) -> frozenset[Operation]:
        """Operations of the reference that the reference runtime does not have."""
        return unrunnable(self.reference)

    @cached_property
    def unrunnable_observed(self) -> frozenset[Operation]:
        """The same of the observed program."""
        return unrunnable(self.observed)

    def value(self, step: str) -> Value:
        """Give the observed tensor of a step."""
        return self._values[step]

    def partner(self, step: str) -> Value:
        """Give the reference's tensor that says what a step should hold."""
        if step in self.outputs:
            return self.reference.outputs[step]
        return self.pairs[self._values[step]]

    def is_handed_out(self, step: str) -> bool:
        """Tell whether a step is an output whose tensor is judged by itself, too."""
        value = self._values[step]
        return (
            step != value.name
            and value.name in self._values
            and self.partner(step) is self.partner(value.name)
        )

    @cached_property
    def operations(self) -> dict[str, tuple[tuple[Operation, ...], tuple[Operation, ...]]]:
        """By step the observed and the reference operations behind it, up to other pairs."""
        sides = (
            (self.observed, set(self.pairs), self.value),
            (self.reference, set(self.pairs.values()), self.partner),
        )
        found = {}
        for step in self.steps:
            both = []
            for outline, stops, wanted in sides:
                program = part(outline, given=stops, wanted=[wanted(step)])
                names = {operation.name for operation in program.operations}
                both.append(tuple(each for each in outline.operations if each.name in names))
            found[step] = (both[0], both[1])
        return found

    @cached_property
    def sources(self) -> dict[str, frozenset[Value]]:
        """By step the observed tensors from which the reference computes it."""
        partners = {reference: observed for observed, reference in self.pairs.items()}
        names = {reference.name: observed for reference, observed in partners.items()}
        return {
            step: frozenset(
                names[fed.name]
                for fed in part(self.reference, given=partners, wanted=[self.partner(step)]).inputs
                if fed.name in names
            )
            for step in self.steps
        }

    @cached_property
    def judgeable(self) -> tuple[str, ...]:
        """The steps that the reference runtime can judge."""
        return tuple(
            step for step in self.steps if self.unrunnable.isdisjoint(self.operations[step][1])
        )

    def shown(self, step: str, array: Array) -> Array:
        """Give what a caller of the model sees of a tensor: pictures are rounded and clamped."""
        if step in self.description.output_names:
            feature = self.description.output(step)
            if feature.kind == "image":
                return to_tensor(from_tensor(array, feature), feature)
        return array

    def seen(self, step: str, found: Tensors) -> Array:
        """Give a step's observed tensor out of what a run gave."""
        if step in self.description.output_names:
            return to_tensor(found[step], self.description.output(step))
        return found[step]


class Comparison:
    """Some steps, each computed by the reference from observed tensors.

    Parameters
    ----------
    programs : Programs
    given : collection of Value
        The observed tensors to start from, besides the inputs; a step that is among them is
        computed from those before it.
    steps : sequence of str
        What to compare.

    Attributes
    ----------
    names : tuple of str
        The tensors to look at.
    """

    def __init__(
        self, programs: Programs, *, given: Collection[Value], steps: Sequence[str]
    ) -> None:
        self._programs = programs
        self._steps = tuple(steps)
        pairs = programs.pairs
        stops = {pairs[value] for value in given if value in pairs}
        wanted = tuple(dict.fromkeys(programs.partner(step) for step in steps))
        self._computations = [
            Computation(programs.reference, given=stops, wanted=wanted, dtype=dtype)
            for dtype in (None, "float16")
        ]
        inputs = {value.name for value in programs.observed.program.inputs}
        partners = {other.name: one.name for one, other in pairs.items()}
        self._fed = {
            name: partners[name] for name in self._computations[0].needed if name not in inputs
        }
        self._inside = {
            step: programs.value(step).name
            for step in steps
            if programs.is_handed_out(step) and programs.value(step) in given
        }
        names = (*self._fed.values(), *self._inside.values(), *steps)
        self.names = tuple(dict.fromkeys(names))

    def triples(self, found: Tensors, sample: Tensors) -> Iterator[tuple[str, Triple]]:
        """Give the steps of one sample, as they are computed.

        Parameters
        ----------
        found : dict of str to ndarray
            What a run with `names` in view gave.
        sample : dict of str to ndarray
            The inputs, as tensors.
        """
        programs = self._programs
        fed = {**sample, **{name: found[seen] for name, seen in self._fed.items()}}
        steps: dict[str, list[str]] = {}
        for step in self._steps:
            steps.setdefault(programs.partner(step).name, []).append(step)
        runs = [computation.run(fed) for computation in self._computations]
        for (name, expected), (_, rounded) in zip(*runs, strict=True):
            for step in steps[name]:
                if step in self._inside:
                    inside = found[self._inside[step]]
                    with np.errstate(over="ignore"):
                        both = (inside.astype(expected.dtype), inside)
                else:
                    both = (expected, rounded)
                wanted, half = (programs.shown(step, each) for each in both)
                yield step, Triple.of(wanted, half, programs.seen(step, found))


def joined(triples: Sequence[Triple]) -> Triple:
    """Put samples together, along the batch."""
    arrays = (
        [getattr(each, role) for each in triples] for role in ("expected", "rounded", "observed")
    )
    return Triple(*(np.concatenate(list(each)) for each in arrays))
