# SPDX-License-Identifier: BSD-3-Clause
"""What is kept of the samples of one output: bounded, mergeable, in any order."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcal.errors import InputError
from convcal.estimation.arrays import BUDGET, check_arrays, check_limits
from convcal.estimation.counts import ChannelCounts
from convcal.estimation.moments import OverlapMoments, pool_moments
from convcal.estimation.records import ArrayRecord, as_arrays, as_header

__all__ = ["OutputStatistics"]

# Fewer than 4 samples could not be split into those that are fitted and those that decide. More
# than 65536 of outputs of a few values cost more to keep (100 bytes each) than they tell.
_LEAST_SAMPLES, _MOST_SAMPLES = 4, 2**16
_DIGEST_BYTES = 16


@dataclass(slots=True)
class _Sample:
    """One sample that is kept, and how often it came."""

    count: int
    reference: NDArray[Any]
    observed: NDArray[Any]


@dataclass(slots=True)
class _State:
    """What the first batch decides, and what is summed."""

    shape: tuple[int, ...]
    dtypes: tuple[np.dtype[Any], ...]
    capacity: int
    counts: ChannelCounts
    outside: OverlapMoments


class OutputStatistics:
    """Sums and a subsample of the paired samples of one output.

    They take any number of samples, in batches of any size and in any order, and merge: all give
    the same, the moments but for round-off. Arrays that are given are copied as far as they are
    kept, and never written to.

    Parameters
    ----------
    max_shift : int, sequence of int, or None
        Largest shift looked at, as for `convcal.estimation.estimate`.
    budget : int
        How many values are kept of each role.

    Attributes
    ----------
    max_shift : int, tuple of int, or None
    budget : int
    n_samples : int
        How many samples came, each as often as it came.

    Raises
    ------
    InputError
        If a parameter cannot be used.

    Notes
    -----
    Two parts are kept:

    - The *subsample*: whole samples in their own dtype, those K of all different samples whose
      content has the smallest digests (blake2b of both arrays), each with its count. K is
      `budget` over the values of a sample, at least 4 and at most 65536. Which samples these are
      depends on nothing but the set of samples.
    - The *moments* of all the other samples, per channel and whole-pixel shift
      (`OverlapMoments`). A sample enters them when it is turned away from the subsample or
      crowded out of it, once for each time it came. `moments` adds those of the subsample.

    With C channels, S values per sample and role, b bytes per value, D the product of 2 m + 1
    over the axes (m the largest shift), the state takes ``8 C (3 + 5 D)`` bytes for the moments,
    ``64 C`` for counts and ranges, and for each of at most K samples the bytes of two arrays of S
    values and 24 more. No number of samples makes it larger.

    Examples
    --------
    >>> from convcal.datasets import make_pair
    >>> pair = make_pair((32, 32), shift=(-2, 1), gain=1.25, seed=1)
    >>> first = OutputStatistics().update(pair.reference[:3], pair.observed[:3])
    >>> rest = OutputStatistics().update(pair.reference[3:], pair.observed[3:])
    >>> fit = first.merge(rest).moments().affine((-2, 1))
    >>> first.n_samples, fit.gain.round(3).tolist()
    (8, [1.25, 1.25, 1.25])
    """

    def __init__(
        self, *, max_shift: int | Sequence[int] | None = None, budget: int = BUDGET
    ) -> None:
        # Any spatial shape will do: what is wrong with the numbers themselves is said here.
        n_axes = 1 if max_shift is None else max(1, np.size(max_shift))
        check_limits(max_shift, (1,) * n_axes)
        if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 1:
            raise InputError(f"budget is {budget!r}; accepted is a whole number of at least 1")
        self.max_shift: int | tuple[int, ...] | None = None
        if max_shift is not None:
            sizes = tuple(int(m) for m in np.atleast_1d(np.asarray(max_shift)))
            self.max_shift = sizes[0] if np.ndim(max_shift) == 0 else sizes
        self.budget = int(budget)
        self.n_samples = 0
        self._state: _State | None = None
        self._kept: dict[bytes, _Sample] = {}
        self._heap: list[int] = []  # digests as negative numbers: the largest is on top

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Channels and spatial sizes, (C, *spatial)."""
        return self._opened.shape

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        """Dtypes of reference and observed, in this machine's byte order."""
        return self._opened.dtypes

    @property
    def limits(self) -> tuple[int, ...]:
        """Largest shift per spatial axis."""
        return self._opened.outside.limits

    @property
    def capacity(self) -> int:
        """How many different samples are kept at most."""
        return self._opened.capacity

    @property
    def counts(self) -> ChannelCounts:
        """Ranges and counts over all samples."""
        return self._opened.counts

    @property
    def is_complete(self) -> bool:
        """Whether the subsample holds every sample, as often as it came."""
        return self.n_samples <= self._opened.capacity

    @property
    def nbytes(self) -> int:
        """Bytes held, by the formula in the notes of the class; 0 before the first sample."""
        if self._state is None:
            return 0
        per_sample = _DIGEST_BYTES + 8
        samples = sum(
            s.reference.nbytes + s.observed.nbytes + per_sample for s in self._kept.values()
        )
        return self._state.counts.nbytes + self._state.outside.nbytes + samples

    def update(self, reference: ArrayLike, observed: ArrayLike) -> Self:
        """Take in a batch of samples.

        Parameters
        ----------
        reference, observed : array_like, shape (N, C, *spatial)
            Paired outputs; of one shape, real, and of the channels, spatial sizes and dtypes of
            the batches before.

        Returns
        -------
        OutputStatistics
            Itself.

        Raises
        ------
        InputError
            If the arrays cannot be used; nothing of them is taken in then.
        """
        ref, obs = (_plain(array) for array in check_arrays(reference, observed))
        state = self._open(ref.shape[1:], (ref.dtype, obs.dtype))
        state.counts = state.counts.pooled(ChannelCounts.of(ref, obs))
        self.n_samples += len(ref)
        samples = (_Sample(1, r, o) for r, o in zip(ref, obs, strict=True))
        self._take_in((_digest(s.reference, s.observed), s) for s in samples)
        return self

    def merge(self, other: OutputStatistics) -> Self:
        """Take in all that other statistics of the same output hold.

        Parameters
        ----------
        other : OutputStatistics
            With the same parameters; not changed.

        Returns
        -------
        OutputStatistics
            Itself, as if it had been updated with the other's samples.

        Raises
        ------
        InputError
            If parameters, shapes or dtypes differ.
        """
        if not isinstance(other, OutputStatistics):
            raise InputError(
                f"the other is of type {type(other).__name__}; accepted is OutputStatistics"
            )
        mine, its = (self.max_shift, self.budget), (other.max_shift, other.budget)
        if mine != its:
            raise InputError(
                f"these statistics have max_shift and budget {mine} and the others {its}; only "
                "statistics with the same parameters can be merged"
            )
        if other._state is None:
            return self
        state = self._open(other._state.shape, other._state.dtypes)
        state.counts = state.counts.pooled(other._state.counts)
        state.outside = state.outside.pooled(other._state.outside)
        self.n_samples += other.n_samples
        self._take_in(
            [(d, _Sample(s.count, s.reference, s.observed)) for d, s in other._kept.items()]
        )
        return self

    def subsample(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Give the samples that are kept, in the order of their digests.

        Returns
        -------
        reference, observed : ndarray, shape (n, C, *spatial)
            Every sample, as often as it came, where `is_complete`; otherwise each that is kept,
            once. New arrays.
        """
        _ = self._opened
        kept = [self._kept[digest] for digest in sorted(self._kept)]
        reference = np.stack([sample.reference for sample in kept])
        observed = np.stack([sample.observed for sample in kept])
        if self.is_complete and len(kept) < self.n_samples:
            times = [sample.count for sample in kept]
            reference, observed = (np.repeat(a, times, axis=0) for a in (reference, observed))
        return reference, observed

    def moments(self) -> OverlapMoments:
        """Give the moments over all samples.

        Returns
        -------
        OverlapMoments
        """
        outside = self._opened.outside
        kept = [self._kept[digest] for digest in sorted(self._kept)]
        return outside.pooled(self._moments_of(kept))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Give all that is held as plain arrays, for `numpy.savez` without pickling.

        Returns
        -------
        dict of str to ndarray
            Numbers, and under ``header`` one JSON text. `from_arrays` reads back every bit.
        """
        state = self._state
        header = {
            "max_shift": self.max_shift,
            "budget": self.budget,
            "n_samples": self.n_samples,
            "shape": state and state.shape,
            "dtypes": state and [dtype.str for dtype in state.dtypes],
        }
        if state is None:
            return {"header": as_header(header)}
        kept = [self._kept[digest] for digest in sorted(self._kept)]
        return {
            "header": as_header(header),
            "count": np.array([sample.count for sample in kept], dtype=np.int64),
            "reference": np.stack([sample.reference for sample in kept]),
            "observed": np.stack([sample.observed for sample in kept]),
            **as_arrays(state.counts, state.outside),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `to_arrays` gives, trusting nothing in it.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            As an ``.npz`` file holds it.

        Returns
        -------
        OutputStatistics

        Raises
        ------
        InputError
            If an array is missing, or has another dtype or shape than the header says, or holds
            what no statistics can.
        """
        record = ArrayRecord(arrays)
        header = record.header()
        max_shift = header.integers("max_shift", least=0)
        budget = header.integer("budget", least=1)
        statistics = cls(max_shift=max_shift, budget=budget)
        n_samples = header.integer("n_samples", least=0)
        if n_samples == 0:
            return statistics
        shape, dtypes = header.shape("shape"), header.dtypes("dtypes")
        # Before memory is taken by what the header says.
        for name, dtype in zip(("reference", "observed"), dtypes, strict=True):
            record.take(name, dtype=dtype, shape=(None, *shape))
        n_shifts = (2 * m + 1 for m in check_limits(max_shift, shape[1:]))
        record.take("mean", dtype=np.dtype(np.float64), shape=(2, shape[0], *n_shifts))
        state = statistics._open(shape, dtypes)
        statistics.n_samples = n_samples
        statistics._read_samples(record)
        n_kept = sum(sample.count for sample in statistics._kept.values())
        n_values = math.prod(state.shape[1:])
        state.counts = record.counts(state.counts, n_samples=n_samples, n_values=n_values)
        state.outside = record.moments(
            state.outside, n_samples=n_samples - n_kept, n_left_out=state.counts.n_left_out
        )
        return statistics

    def _read_samples(self, record: ArrayRecord) -> None:
        count = record.take("count", dtype=np.dtype(np.int64), shape=(None,))
        if not 1 <= len(count) <= self.capacity or count.min() < 1:
            raise InputError(
                f"the statistics keep {len(count)} samples; accepted are 1 to {self.capacity}, "
                "each with a count of at least 1"
            )
        n_kept = sum(int(n) for n in count)
        if n_kept > self.n_samples or (n_kept < self.n_samples and len(count) < self.capacity):
            raise InputError(
                f"the statistics keep {n_kept} of {self.n_samples} samples; as many as came, or "
                f"{self.capacity} different ones, were to be kept"
            )
        pair = [
            record.take(name, dtype=dtype, shape=(len(count), *self.sample_shape))
            for name, dtype in zip(("reference", "observed"), self.dtypes, strict=True)
        ]
        check_arrays(*pair)
        digests = [_digest(r, o) for r, o in zip(*pair, strict=True)]
        if digests != sorted(set(digests)):
            raise InputError(
                "the samples of the statistics are not in the order of their digests, each once; "
                "give what 'to_arrays' gave"
            )
        self._take_in(
            (digest, _Sample(int(n), r, o))
            for digest, n, r, o in zip(digests, count, *pair, strict=True)
        )

    @property
    def _opened(self) -> _State:
        if self._state is None:
            raise InputError("the statistics hold no sample yet; update them first")
        return self._state

    def _open(self, shape: tuple[int, ...], dtypes: tuple[np.dtype[Any], ...]) -> _State:
        """Take the shape and dtypes of the first batch, and accept no others later."""
        if self._state is None:
            limits = check_limits(self.max_shift, shape[1:])
            fitting = min(self.budget // math.prod(shape), _MOST_SAMPLES)
            self._state = _State(
                shape=shape,
                dtypes=dtypes,
                capacity=max(_LEAST_SAMPLES, fitting),
                counts=ChannelCounts.empty(shape[0]),
                outside=OverlapMoments.empty(shape[0], shape[1:], limits=limits),
            )
        if shape != self._state.shape:
            raise InputError(
                f"the samples have shape {shape} and those before {self._state.shape}; all "
                "samples of an output must have the same"
            )
        if dtypes != self._state.dtypes:
            given, before = (" and ".join(map(str, pair)) for pair in (dtypes, self._state.dtypes))
            raise InputError(
                f"reference and observed have dtypes {given}, and before they had {before}; all "
                "samples of an output must have the same"
            )
        return self._state

    def _take_in(self, samples: Iterable[tuple[bytes, _Sample]]) -> None:
        """Keep the samples with the smallest digests, and pool the moments of the others."""
        state = self._opened
        rejected: list[_Sample] = []
        per_pool = max(1, BUDGET // math.prod(state.shape))
        for digest, sample in samples:
            out = self._keep(digest, sample)
            if out is not None:
                rejected.append(out)
            if len(rejected) == per_pool:
                state.outside = state.outside.pooled(self._moments_of(rejected))
                rejected = []
        if rejected:
            state.outside = state.outside.pooled(self._moments_of(rejected))

    def _keep(self, digest: bytes, sample: _Sample) -> _Sample | None:
        """Keep a sample if its digest is among the smallest; give the one that is not kept."""
        if digest in self._kept:
            self._kept[digest].count += sample.count
            return None
        is_full = len(self._kept) >= self.capacity
        if is_full and -int.from_bytes(digest, "big") < self._heap[0]:
            return sample
        own = (np.array(array, order="C") for array in (sample.reference, sample.observed))
        self._kept[digest] = _Sample(sample.count, *own)
        if not is_full:
            heapq.heappush(self._heap, -int.from_bytes(digest, "big"))
            return None
        largest = -heapq.heappushpop(self._heap, -int.from_bytes(digest, "big"))
        return self._kept.pop(largest.to_bytes(_DIGEST_BYTES, "big"))

    def _moments_of(self, samples: list[_Sample]) -> OverlapMoments:
        return pool_moments(
            np.stack([sample.reference for sample in samples]),
            np.stack([sample.observed for sample in samples]),
            limits=self.limits,
            weights=np.array([sample.count for sample in samples], dtype=np.int64),
        )


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Give an array in this machine's byte order, and what is wider than float64 as float64."""
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return array.astype(dtype, copy=False)


def _digest(reference: NDArray[Any], observed: NDArray[Any]) -> bytes:
    """Give sixteen bytes that tell samples apart by their content alone."""
    content = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"convcal.sample")
    for array in (reference, observed):
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        content.update(f"{little.dtype.str}{array.shape}".encode())
        content.update(np.ascontiguousarray(little).data)
    return content.digest()
