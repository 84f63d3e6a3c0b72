# SPDX-License-Identifier: BSD-3-Clause
"""The arrays that are compared: which are accepted, and a part of those that are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcal.errors import InputError

__all__ = [
    "BUDGET",
    "Part",
    "Samples",
    "check_arrays",
    "check_limits",
    "choose_part",
    "sample_runs",
]

BUDGET = 2**22
"""Values per role that are looked at, or kept, together: 32 MiB in float64. At 10 dB a sixteenth of
them places a shift within a few 1e-4 pixels (benchmarks/registration.py)."""

_LARGEST = 1e75
"""The product of four such values is still a float64. What is smaller than the inverse counts as
zero, so that ratios of squares are float64s too."""


def check_arrays(reference: ArrayLike, observed: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give both outputs as arrays (N, C, *spatial) that can be compared, or raise InputError."""
    arrays = []
    for name, given in (("reference", reference), ("observed", observed)):
        if isinstance(given, np.ma.MaskedArray):
            raise InputError(
                f"the {name} output is a masked array, whose mask would be lost; accepted are "
                "plain arrays, with NaN where a value does not count: array.filled(numpy.nan)"
            )
        try:
            array = np.asarray(given)
        except ValueError as error:
            raise InputError(f"the {name} output cannot be read as an array: {error}") from error
        if array.dtype.kind not in "fiub":
            raise InputError(
                f"the {name} output has dtype {array.dtype}; accepted are real floating-point and "
                "integer arrays"
            )
        if array.dtype.itemsize >= 8 and array.dtype.kind == "f":
            size = np.abs(array)
            largest = size[np.isfinite(array)].max(initial=0)
            if largest > _LARGEST:
                raise InputError(
                    f"the {name} output has values as large as {largest:.3g}; accepted are values "
                    f"up to {_LARGEST:g}, whose squares can be summed, and infinities, which are "
                    "left out"
                )
            is_tiny = (size < 1 / _LARGEST) & (size != 0)
            if is_tiny.any():
                array = np.where(is_tiny, array.dtype.type(0), array)
        arrays.append(array)
    ref, obs = arrays
    if ref.shape != obs.shape:
        raise InputError(
            f"the reference has shape {ref.shape} and the observed output {obs.shape}; they must "
            "be the same: compare outputs of the same name, for the same samples"
        )
    if not 2 <= ref.ndim <= 5:
        raise InputError(
            f"the outputs have shape {ref.shape}, rank {ref.ndim}; accepted are arrays "
            "(samples, channels) with none to three spatial axes, rank 2 to 5"
        )
    if ref.size == 0:
        raise InputError(f"the outputs have shape {ref.shape}, which is empty; give some values")
    return ref, obs


def check_limits(
    max_shift: int | Sequence[int] | None, spatial: tuple[int, ...]
) -> tuple[int, ...]:
    """Give the largest shift to search along each axis, below its size, or raise InputError."""
    if max_shift is None:
        wanted = tuple(min(32, max(1, size // 4, min(4, size // 2))) for size in spatial)
    else:
        values = np.atleast_1d(np.asarray(max_shift))
        is_per_axis = values.shape in {(1,), (len(spatial),)}
        if values.dtype.kind not in "iu" or values.min() < 0 or not is_per_axis:
            raise InputError(
                f"max_shift is {max_shift!r}; accepted are one whole number of at least 0 or "
                f"{len(spatial)}, one per spatial axis"
            )
        wanted = tuple(int(v) for v in np.broadcast_to(values, (len(spatial),)))
    return tuple(min(limit, size - 1) for limit, size in zip(wanted, spatial, strict=True))


def sample_runs(shape: tuple[int, ...]) -> list[slice]:
    """Divide samples (N, C, *spatial) into runs of at most `BUDGET` values, or of one sample."""
    n_samples, step = shape[0], max(1, BUDGET // math.prod(shape[1:]))
    return [slice(i, min(i + step, n_samples)) for i in range(0, n_samples, step)]


Samples = slice | NDArray[np.intp]


_HOLDS = 0.05  # of the largest spread: a sample of less says next to nothing


@dataclass(frozen=True)
class Part:
    """Which values of two stacks are looked at.

    Attributes
    ----------
    reference, observed : tuple of slice, the first perhaps an ndarray of int
        Of each stack, so that a whole-pixel shift between them is gone.
    channels : slice
    """

    reference: tuple[Samples | slice, ...]
    observed: tuple[Samples | slice, ...]
    channels: slice


def choose_part(
    reference: NDArray[Any],
    *,
    n_values: int,
    shift: Sequence[int],
    least: Sequence[int] | None = None,
    least_samples: int = 1,
    thin_channels: bool = False,
) -> Part:
    """Choose about `n_values` values of each of two stacks (N, C, *spatial).

    Evenly spaced samples first, of those that vary; then channels; where the least number of them
    is too many, a window: the one whose reference varies most.

    Parameters
    ----------
    reference : ndarray, shape (N, C, *spatial)
    n_values : int
    shift : sequence of int
        What is cut from the overlap that this leaves; the other stack has its shape.
    least : sequence of int or None
        Smallest sizes of a window, 32 by default.
    least_samples : int
        Samples to look at, where there are as many, before any is looked at beyond a window.
    thin_channels : bool
        Whether channels may be left out too.
    """
    if reference.size <= n_values and not any(shift):
        everything = (slice(None),) * reference.ndim
        return Part(everything, everything, slice(None))
    n_samples, n_channels, *spatial = reference.shape
    overlap = [(max(0, s), min(n, n + s)) for s, n in zip(shift, spatial, strict=True)]
    lengths = [max(stop - begin, 1) for begin, stop in overlap]
    smallest = [
        min(size, length)
        for size, length in zip(least or [32] * len(spatial), lengths, strict=True)
    ]
    per_sample = n_values / min(least_samples, n_samples)
    sizes = _window(lengths, smallest, per_sample / (1 if thin_channels else n_channels))
    per_plane = math.prod(sizes)
    channels = slice(None)
    if thin_channels:
        kept = max(1, min(n_channels, int(per_sample) // per_plane))
        channels = slice(None, None, -(-n_channels // kept))
        n_channels = len(range(n_channels)[channels])
    kept = max(least_samples, n_values // (per_plane * n_channels))
    kept = min(n_samples, kept)
    samples = _spaced(reference[:, channels], kept)
    window = [slice(*ends) for ends in overlap]
    if sizes != lengths:
        window = _most_varied(reference[samples, channels], overlap, sizes)
    moved = [slice(w.start - s, w.stop - s) for w, s in zip(window, shift, strict=True)]
    return Part((samples, channels, *window), (samples, channels, *moved), channels)


def _spaced(reference: NDArray[Any], kept: int) -> Samples:
    """Choose about so many samples, evenly spaced, past those that hold next to nothing."""
    n_samples = len(reference)
    if kept >= n_samples:
        return slice(None)
    steps = (max(1, size // n) for size, n in zip(reference.shape[1:], (4, 8, 8, 8), strict=False))
    thin = reference[(slice(None), *(slice(None, None, step) for step in steps))]
    thin = np.where(np.isfinite(thin), thin, 0).astype(np.float64)
    spread = thin.std(axis=tuple(range(2, thin.ndim))).mean(axis=1)
    varied = np.flatnonzero(spread >= _HOLDS * spread.max())
    step = -(-len(varied) // kept)
    return slice(None, None, step) if len(varied) == n_samples else varied[::step]


def _window(lengths: list[int], smallest: list[int], n_values: float) -> list[int]:
    """Give sizes of about `n_values` together, alike but where an axis is shorter."""
    sizes = list(lengths)
    for done, axis in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        side = n_values ** (1 / (len(lengths) - done))
        sizes[axis] = min(lengths[axis], max(smallest[axis], math.ceil(side)))
        n_values /= sizes[axis]
    return sizes


def _most_varied(
    reference: NDArray[Any], overlap: list[tuple[int, int]], sizes: list[int]
) -> list[slice]:
    best: tuple[float, list[slice]] | None = None
    # The last window ends where the overlap does: no corner goes unseen.
    starts = [
        [*range(begin, stop - size, size), stop - size]
        for (begin, stop), size in zip(overlap, sizes, strict=True)
    ]
    thin = (
        slice(None, None, max(1, len(reference) // 2)),
        slice(None, None, max(1, reference.shape[1] // 4)),
    )
    steps = [max(1, size // 16) for size in sizes]
    for corner in product(*starts):
        cut = [slice(begin, begin + size) for begin, size in zip(corner, sizes, strict=True)]
        every = [slice(c.start, c.stop, step) for c, step in zip(cut, steps, strict=True)]
        values = reference[(*thin, *every)].astype(np.float64)
        values = values[np.isfinite(values)]
        spread = float(values.std()) if values.size else 0.0
        if best is None or spread > best[0]:
            best = spread, cut
    return [slice(*ends) for ends in overlap] if best is None else best[1]
