# SPDX-License-Identifier: BSD-3-Clause
"""Which steps are wrong: the walk over a program, in one run or in a few.

Every step is judged by what the reference computes from the *observed* tensors before it. So the
errors of earlier steps do not matter: drift does not add up, operations that amplify or decide do
not carry a fault on, and faults are independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.coreml.program import Value
from convcal.diagnosis.comparing import Comparison, Programs, Triple, joined
from convcal.diagnosis.journal import Journal
from convcal.diagnosis.judging import Judgement, Levels, judge, measure_levels
from convcal.diagnosis.segments import Computation
from convcal.diagnosis.tracing import Tracer

__all__ = ["Found", "Samples", "Search", "search"]

Array = NDArray[Any]
Tensors = Mapping[str, Array]
Tell = Callable[[str, int, int], None]

# Of what is held of one sample: the observed tensor, the expected one, and that in fp16.
_COPIES = 3
# Values of a step that are judged together; more samples are left out.
_MOST_VALUES = 1 << 22
# Over many operations a fault may fade: a part is looked into where it is this far off already.
_SUSPICIOUS = Levels(3.0, 12.0, 0.0)


@dataclass(frozen=True)
class Samples:
    """What both models run on.

    Attributes
    ----------
    names : tuple of str
    arrays : callable
        Gives the samples of some indices, as the models take them.
    tensors : callable
        Gives a sample as the programs take it.
    """

    names: tuple[str, ...]
    arrays: Callable[[Sequence[int]], Iterator[Tensors]]
    tensors: Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Found:
    """A step that is wrong.

    Attributes
    ----------
    step : str
    judgement : Judgement
    cause : str
        See `convcal.diagnosis.record.Culprit`.
    """

    step: str
    judgement: Judgement
    cause: str


@dataclass
class Search:
    """What the walk came to.

    Attributes
    ----------
    culprits : list of Found
        In the program's order.
    alone : dict of str to Levels
        The steps that were judged by themselves.
    together : dict of str to Levels
        Outputs, and steps if all were looked at, computed by the reference from the inputs.
    n_runs : int
        How often the observed model was run over the samples.
    """

    culprits: list[Found] = field(default_factory=list)
    alone: dict[str, Levels] = field(default_factory=dict)
    together: dict[str, Levels] = field(default_factory=dict)
    n_runs: int = 0


def search(
    programs: Programs,
    tracer: Tracer,
    samples: Samples,
    *,
    memory: int,
    is_complete: bool,
    journal: Journal,
    tell: Tell,
) -> Search:
    """Find the steps that are wrong.

    Parameters
    ----------
    programs : Programs
    tracer : Tracer
        Runs the observed model.
    samples : Samples
    memory : int
        Bytes that tensors of one sample may take. Where all of them fit, and can be looked at in
        one run, one run shows which steps are wrong, and another one how. Otherwise the program
        is halved: about log2 of the number of steps runs.
    is_complete : bool
        Whether to find all; otherwise the first one.
    journal : Journal
        Keeps what was measured.
    tell : callable
        Called with what is done, how much of it and of how much.

    Returns
    -------
    Search
    """
    walk = _Walk(programs, tracer, samples, is_complete=is_complete, journal=journal, tell=tell)
    n_bytes = sum(_COPIES * _bytes(programs.value(step)) for step in programs.steps)
    n_tensors = len(programs.pairs)
    if n_bytes <= memory and (tracer.most is None or n_tensors <= tracer.most):
        walk.at_once()
    else:
        walk.by_halves()
    return walk.search


class _Walk:
    """One search."""

    def __init__(
        self,
        programs: Programs,
        tracer: Tracer,
        samples: Samples,
        *,
        is_complete: bool,
        journal: Journal,
        tell: Tell,
    ) -> None:
        self._programs = programs
        self._tracer = tracer
        self._samples = samples
        self._is_complete = is_complete
        self._journal = journal
        self._tell = tell
        self._steps = programs.judgeable
        self._passed_over = [step for step in programs.steps if step not in set(self._steps)]
        self.search = Search()

    def at_once(self) -> None:
        """Look at all steps in one run, and then at those that are wrong."""
        programs = self._programs
        alone = Comparison(programs, given=tuple(programs.pairs), steps=self._steps)
        comparisons = {"alone": alone}
        if not programs.unrunnable:
            comparisons["together"] = Comparison(programs, given=(), steps=programs.outputs)
        levels = self._measured("everything", comparisons)
        self.search.alone = levels["alone"]
        self.search.together = levels.get("together", {})
        suspects = [step for step in self._steps if levels["alone"][step].is_wrong]
        for step in suspects:
            self._judge(step)
            if self.search.culprits and not self._is_complete:
                return
        if not self.search.culprits and any(e.is_wrong for e in self.search.together.values()):
            drift = Comparison(programs, given=(), steps=programs.steps)
            self.search.together = self._measured("drift", {"together": drift})["together"]

    def by_halves(self) -> None:
        """Halve the program until the steps that are wrong are left."""
        steps = self._steps
        ends = [step for step in self._programs.outputs if step in set(steps)]
        if not self._programs.unrunnable:
            whole = Comparison(self._programs, given=(), steps=ends)
            self.search.together = self._measured("outputs", {"together": whole})["together"]
            if not any(_is_suspicious(each) for each in self.search.together.values()):
                return
        self._halve(0, len(steps), is_known=True)

    def _halve(self, start: int, end: int, *, is_known: bool) -> None:
        """Find what is wrong among some steps; `is_known` that something is."""
        if not is_known and not self._is_off(start, end):
            return
        if end - start == 1:
            self._judge(self._steps[start])
            return
        middle = (start + end) // 2
        n_before = len(self.search.culprits)
        is_first_off = self._is_off(start, middle)
        if is_first_off:
            self._halve(start, middle, is_known=True)
        if len(self.search.culprits) > n_before and not self._is_complete:
            return
        self._halve(middle, end, is_known=is_known and not is_first_off)

    def _is_off(self, start: int, end: int) -> bool:
        """Tell whether the reference, from what is seen at one cut, misses what is at another."""
        programs = self._programs
        before = self._at_cut(start)
        # What cannot be run is not walked through either: its results are taken as they are.
        given = {programs.value(step) for step in (*before, *self._passed_over)}
        wanted = [step for step in self._at_cut(end) if step not in set(before)]
        if not wanted:
            return False
        comparison = Comparison(programs, given=given, steps=wanted)
        levels = self._measured(f"{start} to {end}", {"part": comparison})["part"]
        return any(_is_suspicious(each) for each in levels.values())

    def _at_cut(self, position: int) -> list[str]:
        """Give the steps before a position that later ones, or the model's outputs, need."""
        programs = self._programs
        needed = {programs.value(step) for step in programs.outputs}
        for step in (*self._steps[position:], *self._passed_over):
            needed |= programs.sources[step]
        return [step for step in self._steps[:position] if programs.value(step) in needed]

    def _judge(self, step: str) -> None:
        """Look at one step by itself, all samples together."""
        programs = self._programs
        value = programs.value(step)
        comparison = Comparison(programs, given=tuple(programs.pairs), steps=[step])
        clean = self._clean(step)
        names = dict.fromkeys((*comparison.names, *(clean[1] if clean else ())))
        n_samples = max(1, min(len(self._samples.names), _MOST_VALUES // max(1, _size(value))))
        triples: list[Triple] = []
        faithful: list[Array] = []
        self.search.n_runs += 1
        for _, sample, found in self._traced(tuple(names), range(n_samples)):
            triples += [triple for _, triple in comparison.triples(found, sample)]
            if clean is not None:
                fed = {**found, **sample}
                faithful += [dict(clean[0].run(fed))[value.name]]
        triple = joined(triples)
        levels = _levels_of(triple)
        self.search.alone[step] = levels
        judgement = judge(triple.expected, triple.rounded, triple.observed, levels=levels)
        if judgement.is_wrong:
            cause = "unknown"
            if faithful:
                cause = _cause(triple, [programs.shown(step, array) for array in faithful])
            if programs.is_handed_out(step):
                cause = "device"
            self.search.culprits.append(Found(step, judgement, cause))

    def _clean(self, step: str) -> tuple[Computation, tuple[str, ...]] | None:
        """Give what computes a step as the observed program says, if that can be run."""
        programs = self._programs
        if not programs.unrunnable_observed.isdisjoint(programs.operations[step][0]):
            return None
        clean = Computation(
            programs.observed, given=tuple(programs.pairs), wanted=[programs.value(step)]
        )
        inputs = {each.name for each in programs.observed.program.inputs}
        return clean, tuple(name for name in clean.needed if name not in inputs)

    def _measured(
        self, run: str, comparisons: Mapping[str, Comparison]
    ) -> dict[str, dict[str, Levels]]:
        """Run all samples once, and give the levels of each comparison by step."""
        names = self._samples.names
        missing = [
            index
            for index, sample in enumerate(names)
            if any(self._journal.known(f"{run}/{key}", sample) is None for key in comparisons)
        ]
        looked_at = dict.fromkeys(name for each in comparisons.values() for name in each.names)
        self.search.n_runs += 1
        if missing:
            for index, sample, found in self._traced(tuple(looked_at), missing):
                for key, comparison in comparisons.items():
                    levels = {
                        step: _levels_of(triple)
                        for step, triple in comparison.triples(found, sample)
                    }
                    self._journal.add(f"{run}/{key}", names[index], levels)
        result: dict[str, dict[str, Levels]] = {}
        for key in comparisons:
            worst: dict[str, Levels] = {}
            for name in names:
                for step, each in (self._journal.known(f"{run}/{key}", name) or {}).items():
                    worst[step] = worst[step].joined(each) if step in worst else each
            result[key] = worst
        return result

    def _traced(
        self, names: Sequence[str], indices: Sequence[int]
    ) -> Iterator[tuple[int, Tensors, Tensors]]:
        """Run some samples; give their index, inputs and tensors."""
        run, n = self.search.n_runs, len(indices)
        samples = list(self._samples.arrays(indices))
        for done, found in enumerate(self._tracer.trace(names, samples)):
            yield indices[done], self._samples.tensors(samples[done]), found
            self._tell(f"run {run}", done + 1, n)


def _levels_of(triple: Triple) -> Levels:
    """Measure how far a tensor is off; infinitely where its shape is another one."""
    if triple.expected.shape != triple.observed.shape:
        return Levels(math.inf, math.inf, 1.0)
    return measure_levels(triple.expected, triple.rounded, triple.observed)


def _cause(triple: Triple, faithful: Sequence[Array]) -> str:
    """Tell the program from the device, by what the observed program should have given."""
    together = np.concatenate([np.ravel(array) for array in faithful])
    if triple.expected.shape != triple.observed.shape:
        return "program" if together.size == triple.observed.size else "device"
    with np.errstate(over="ignore", invalid="ignore"):
        clean = together.reshape(triple.expected.shape).astype(np.float64)
        rounded = clean + (triple.rounded.astype(np.float64) - triple.expected)
    return "device" if measure_levels(clean, rounded, triple.observed).is_wrong else "program"


def _is_suspicious(levels: Levels) -> bool:
    return levels.rms > _SUSPICIOUS.rms or levels.worst > _SUSPICIOUS.worst


def _size(value: Value) -> int:
    return math.prod(length or 1 for length in value.shape)


def _bytes(value: Value) -> int:
    return 4 * _size(value)
