# SPDX-License-Identifier: BSD-3-Clause
"""Which tensors of two programs are the same, whatever they are called.

Values decide where they can: on a clean run of both programs a tensor and its partner agree to
what fp16 rounding leaves, and tensors that are not partners hardly ever do. That finds partners
across whatever a converter inserts, fuses, splits, folds or reorders. Structure decides where
values cannot: among tensors that hold the same, for constants and for few values, and beyond a
difference between the programs (a converter's fault). There operations of the same type on
partners, with the same weights, or before partners, are paired, and the values after them are
computed anew from the observed program's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.coreml.program import Operation, Value
from convcal.diagnosis.outline import Outline

__all__ = ["CLOSE", "Matching", "Prints", "deviation", "fingerprint", "match"]

Array = NDArray[Any]
Prints = Mapping[Value, Array]
Rerun = Callable[[Mapping[Value, Value]], Prints]
"""From pairs of a reference's tensor and the observed one to be put in its place to the prints."""

# Of the spread: the outputs of the suite of networks are off by 0.001 in fp16, and values that are
# unrelated by 1.4 in the mean.
AGREE = 0.1
"""Up to which deviation tensors of two free runs may be the same."""
CLOSE = 0.01
"""The same where both are computed from the same values by a few operations."""
# Deviations of the best candidates within this factor, or below this share of the spread, do not
# tell them apart: fp16 rounds so much at random.
_ALIKE = 3.0
_ROUNDED = 3e-3
# So few values may agree by chance: 16 normal ones within 0.1 of the spread in 1e-20 of cases.
_FEW = 16
_SHOWN = 1024
_GLANCED = 64
_MOST_ROUNDS = 12
_SAME_WEIGHTS = 0.01


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of tensors of an observed and a reference program.

    Attributes
    ----------
    pairs : dict of Value to Value
        From observed to reference tensors, in the order of the observed program; inputs first.
    unmatched : tuple of Operation
        Observed operations none of whose results has a partner.
    bridged : frozenset of Value
        Observed tensors that were paired by structure alone, their values being different.
    """

    pairs: dict[Value, Value]
    unmatched: tuple[Operation, ...]
    bridged: frozenset[Value]

    @classmethod
    def of(
        cls, pairs: Mapping[Value, Value], observed: Outline, *, bridged: Iterable[Value]
    ) -> Matching:
        """Put pairs in the order of the observed program, and say what they leave out."""
        ordered = {value: pairs[value] for value in observed.tensors if value in pairs}
        unmatched = tuple(
            operation
            for operation in observed.operations
            if not any(value in ordered for value in operation.outputs)
        )
        return cls(ordered, unmatched, frozenset(bridged))


def fingerprint(array: Array) -> Array:
    """Give some values of a tensor, at the same positions whatever its shape."""
    flat = np.ravel(array)
    if flat.size > _SHOWN:
        flat = flat[np.random.default_rng(flat.size).integers(0, flat.size, _SHOWN)]
    return flat.astype(np.float64)


def deviation(reference: Array, observed: Array) -> float:
    """Give the difference of two fingerprints over the spread; NaN where there is no spread."""
    is_finite = np.isfinite(reference) & np.isfinite(observed)
    if is_finite.sum() < max(2, 0.5 * reference.size):
        return float("nan")
    ref, obs = reference[is_finite], observed[is_finite]
    spread = float(ref.std())
    if spread <= 1e-6 * float(np.abs(ref).max(initial=0.0)) or spread == 0:
        return float("nan")
    return float(np.sqrt(np.mean(np.square(ref - obs)))) / spread


def match(
    reference: Outline,
    observed: Outline,
    *,
    reference_prints: Prints,
    observed_prints: Prints,
    rerun: Rerun,
) -> Matching:
    """Pair the tensors of two programs.

    Parameters
    ----------
    reference, observed : Outline
        The programs; their inputs and outputs have the same names.
    reference_prints, observed_prints : mapping of Value to ndarray
        Fingerprints of a clean run of each; tensors without one are paired by structure.
    rerun : callable
        Gives the reference's prints again, some of its tensors replaced by observed ones.

    Returns
    -------
    Matching
        No tensor of either program is in two pairs, and no pair contradicts the order of another.
    """
    matcher = _Matcher(reference, observed, reference_prints, observed_prints)
    matcher.pair_ends()
    for _ in range(_MOST_ROUNDS):
        matcher.pair_by_values()
        bridges = matcher.bridge()
        if not bridges:
            break
        if any(value in observed_prints for value in bridges):
            matcher.see(rerun({matcher.pairs[value]: value for value in matcher.bridged}))
    return matcher.result()


class _Matcher:
    """The pairs so far."""

    def __init__(
        self,
        reference: Outline,
        observed: Outline,
        reference_prints: Prints,
        observed_prints: Prints,
    ) -> None:
        self._reference, self._observed = reference, observed
        self.prints: dict[Value, Array] = {}
        self._spreads: dict[Value, float] = {}
        self._observed_prints = observed_prints
        self.pairs: dict[Value, Value] = {}
        self._taken: dict[Value, Value] = {}
        self.bridged: set[Value] = set()
        self._ancestors = {outline: _ancestors(outline) for outline in (reference, observed)}
        self._buckets: dict[tuple[str, int | None], list[Value]] = {}
        for value in reference.tensors:
            self._buckets.setdefault(_bucket(value), []).append(value)
        self.see(reference_prints)

    def see(self, prints: Prints) -> None:
        """Take fingerprints of the reference, in the place of those that are known."""
        self.prints.update(prints)
        with np.errstate(invalid="ignore", over="ignore"):
            self._spreads.update((value, float(each.std())) for value, each in prints.items())

    def pair(self, observed: Value, reference: Value) -> None:
        self.pairs[observed] = reference
        self._taken[reference] = observed

    def pair_ends(self) -> None:
        """Pair inputs and outputs by their names, which are the contract of the models."""
        for part in (
            lambda outline: {value.name: value for value in outline.program.inputs},
            lambda outline: outline.outputs,
        ):
            references = part(self._reference)
            for name, value in part(self._observed).items():
                partner = references.get(name)
                if partner is not None and self._is_free(value, partner):
                    self.pair(value, partner)

    def pair_by_values(self) -> None:
        for value in self._observed.tensors:
            found = self._observed_prints.get(value)
            if value in self.pairs or found is None:
                continue
            bounds = self._bounds(value)
            candidates = [
                candidate
                for candidate in self._buckets.get(_bucket(value), ())
                if candidate in self.prints
                and self.prints[candidate].shape == found.shape
                and self._fits(value, candidate, bounds)
            ]
            deviations = {
                candidate: off
                for candidate in self._near(found, candidates)
                if (off := deviation(self.prints[candidate], found)) <= AGREE
            }
            if not deviations:
                continue
            least = max(_ALIKE * min(deviations.values()), _ROUNDED)
            alike = [each for each, off in deviations.items() if off <= least]
            best = min(alike, key=lambda each: self._strangeness(value, each, deviations[each]))
            if found.size >= _FEW or self._follows(value, best):
                self.pair(value, best)

    def bridge(self) -> list[Value]:
        """Pair by structure what values do not; only the first of each path, while they do."""
        new: list[Value] = []
        behind: set[Value] = set()
        for operation in self._observed.operations:
            operands = self._observed.operands(operation)
            is_behind = any(value in behind for value in operands)
            partner = self._partner(operation)
            for index, value in enumerate(operation.outputs):
                if is_behind:
                    behind.add(value)
                if value in self.pairs or value not in self._observed.positions:
                    continue
                # Behind a bridge values are to be compared anew first, where there are any.
                if is_behind and value in self._observed_prints:
                    continue
                if partner is None or not self._is_free(value, partner.outputs[index]):
                    continue
                candidate = partner.outputs[index]
                differs = self._differs(value, candidate)
                if differs and self._leads_right(value):
                    continue  # another way to the same: what comes after it agrees
                self.pair(value, candidate)
                new.append(value)
                if differs:
                    self.bridged.add(value)
                    behind.add(value)
        return new

    def result(self) -> Matching:
        return Matching.of(self.pairs, self._observed, bridged=self.bridged)

    def _differs(self, value: Value, candidate: Value) -> bool:
        """Tell whether the values of two tensors are known not to be the same."""
        reference, observed = self.prints.get(candidate), self._observed_prints.get(value)
        if reference is None or observed is None:
            return False
        if reference.shape != observed.shape:
            return True
        off = deviation(reference, observed)
        if np.isnan(off):
            return not np.allclose(reference, observed, rtol=1e-2, equal_nan=True)
        return off > AGREE

    def _leads_right(self, value: Value) -> bool:
        """Tell whether all that is computed from a tensor is paired, and no further off.

        What it is computed from tells how far off values are so far.
        """
        producer = self._observed.producer(value)
        before = self._observed.operands(producer) if producer is not None else []
        limit = max([CLOSE, *(_ALIKE * self._off(each) for each in before if each in self.pairs)])
        results = [
            result
            for consumer in self._observed.consumers[value]
            for result in consumer.outputs
            if result in self._observed.positions
        ]
        return bool(results) and all(
            result in self.pairs and self._off(result) <= limit for result in results
        )

    def _off(self, value: Value) -> float:
        """Give how far a tensor is off its partner; 0 where that is not known."""
        reference, observed = self.prints.get(self.pairs[value]), self._observed_prints.get(value)
        if reference is None or observed is None:
            return 0.0
        if reference.shape != observed.shape:
            return math.inf
        off = deviation(reference, observed)
        return 0.0 if math.isnan(off) else off

    def _near(self, found: Array, candidates: list[Value]) -> list[Value]:
        """Leave out the candidates that a few values tell apart: there may be hundreds."""
        step = -(-found.size // _GLANCED)
        if step == 1 or not candidates:
            return candidates
        glance = np.stack([self.prints[candidate][::step] for candidate in candidates])
        spread = np.array([self._spreads[candidate] for candidate in candidates])
        with np.errstate(invalid="ignore"):
            error = np.abs(glance - found[::step])
            # More than half of all errors are below 1.42 times their rms, whatever they are.
            limit = 1.42 * AGREE * spread
            is_near = np.median(np.where(np.isnan(error), 0.0, error), axis=1) <= limit
        is_near |= ~np.isfinite(spread)
        return [candidate for candidate, near in zip(candidates, is_near, strict=True) if near]

    def _is_free(self, value: Value, candidate: Value) -> bool:
        """Tell whether a pair is possible: both free, of one kind, in the order of the others."""
        return self._fits(value, candidate, self._bounds(value))

    def _fits(self, value: Value, candidate: Value, bounds: tuple[int, int]) -> bool:
        if value in self.pairs or candidate in self._taken or _kind(value) != _kind(candidate):
            return False
        too_early, too_late = bounds
        place = self._reference.positions[candidate]
        return not (
            too_early >> place & 1 or self._ancestors[self._reference][candidate] & too_late
        )

    def _bounds(self, value: Value) -> tuple[int, int]:
        """Give what must not be the partner, and what must not come before it, as bits.

        Partners of what comes before the value, with all before these, are too early; partners
        of what comes after it are too late.
        """
        too_early = too_late = 0
        before = self._ancestors[self._observed][value]
        position = self._observed.positions[value]
        for one, other in self.pairs.items():
            if before >> self._observed.positions[one] & 1:
                too_early |= self._ancestors[self._reference][other]
            if self._ancestors[self._observed][one] >> position & 1:
                too_late |= 1 << self._reference.positions[other]
        return too_early, too_late

    def _strangeness(self, value: Value, candidate: Value, off: float) -> tuple[Any, ...]:
        """Order candidates that hold the same: the likeliest first."""
        ours, theirs = self._observed.producer(value), self._reference.producer(candidate)
        is_same = ours is not None and theirs is not None and ours.type == theirs.type
        return (
            not (is_same and self._follows(value, candidate)),
            not is_same,
            value.shape != candidate.shape,
            off > _ROUNDED,
            self._reference.positions[candidate],
        )

    def _follows(self, value: Value, candidate: Value) -> bool:
        """Tell whether both are computed from partners, and from nothing else."""
        ours, theirs = self._observed.producer(value), self._reference.producer(candidate)
        if ours is None or theirs is None:
            return False
        wanted = [self.pairs.get(each) for each in self._observed.operands(ours)]
        if None in wanted:
            return False
        places = self._reference.positions
        given = self._reference.operands(theirs)
        return sorted(places[each] for each in wanted if each is not None) == sorted(
            places[each] for each in given
        )

    def _partner(self, operation: Operation) -> Operation | None:
        """Find the operation of the reference that an observed one is by structure."""
        if not operation.outputs or not any(
            value in self._observed.positions and value not in self.pairs
            for value in operation.outputs
        ):
            return None
        free = [
            each
            for each in self._reference.operations
            if _is_like(operation, each)
            and all(
                one not in self._observed.positions or self._is_free(one, other)
                for one, other in zip(operation.outputs, each.outputs, strict=True)
                if one not in self.pairs
            )
        ]
        follows = [each for each in free if self._follows(operation.outputs[0], each.outputs[0])]
        same = [each for each in free if each.type == operation.type]
        weighted = [each for each in same if _has_same_weights(operation, each)]
        for candidates in (
            [each for each in follows if each in weighted],
            weighted,
            [each for each in follows if each.type == operation.type],
            [each for each in same if self._leads_to_partners(operation, each)],
            follows,
        ):
            if len(candidates) == 1:
                return candidates[0]
        return None

    def _leads_to_partners(self, ours: Operation, theirs: Operation) -> bool:
        """Tell whether operations that are paired already use both at the same place."""
        for consumer in self._observed.consumers.get(ours.outputs[0], ()):
            partner = self.pairs.get(consumer.outputs[0])
            other = None if partner is None else self._reference.producer(partner)
            if other is None or other.type != consumer.type:
                continue
            one, two = self._observed.operands(consumer), self._reference.operands(other)
            if len(one) == len(two) and any(
                a is ours.outputs[0] and b is theirs.outputs[0]
                for a, b in zip(one, two, strict=True)
            ):
                return True
        return False


def _ancestors(outline: Outline) -> dict[Value, int]:
    """Give what each tensor depends on, itself included, as bits at the positions of tensors."""
    found: dict[Value, int] = {value: 1 << n for value, n in outline.positions.items()}
    for operation in outline.operations:
        mask = 0
        for value in outline.operands(operation):
            mask |= found[value]
        for value in operation.outputs:
            if value in found:
                found[value] |= mask
    return found


def _kind(value: Value) -> str:
    return "float" if value.dtype.startswith("float") else "whole"


def _bucket(value: Value) -> tuple[str, int | None]:
    """Give what partners have in common: the kind, and the number of elements if it is known."""
    size = None if None in value.shape else math.prod(n for n in value.shape if n is not None)
    return _kind(value), size


def _is_like(ours: Operation, theirs: Operation) -> bool:
    return len(ours.outputs) == len(theirs.outputs) and all(
        a.shape == b.shape and _kind(a) == _kind(b)
        for a, b in zip(ours.outputs, theirs.outputs, strict=True)
    )


def _has_same_weights(ours: Operation, theirs: Operation) -> bool:
    """Tell whether two operations have weights, and the same but for rounding."""
    one, two = _weights(ours), _weights(theirs)
    return (
        bool(one)
        and one.keys() == two.keys()
        and all(
            one[name].shape == two[name].shape
            and _are_close(two[name].astype(np.float64), one[name].astype(np.float64))
            for name in one
        )
    )


def _weights(operation: Operation) -> dict[str, Array]:
    return {
        name: value.constant
        for name, value in operation.inputs.items()
        if isinstance(value, Value)
        and value.constant is not None
        and value.constant.size >= _FEW
        and value.constant.dtype.kind == "f"
    }


def _are_close(reference: Array, observed: Array) -> bool:
    size = float(np.sqrt(np.mean(np.square(reference))))
    difference = float(np.sqrt(np.mean(np.square(reference - observed))))
    return difference <= _SAME_WEIGHTS * size
