# SPDX-License-Identifier: BSD-3-Clause
"""The arrays that are compared: which are accepted, and a part of those that are many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcal.errors import InputError

__all__ = ["check_arrays", "check_limits", "thinned"]

_LARGEST = 1e140
"""The sum of the squares of 1e28 such values is still a float64."""


def check_arrays(reference: ArrayLike, observed: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give both outputs as arrays (N, C, *spatial) that can be compared, or raise InputError."""
    arrays = []
    for name, given in (("reference", reference), ("observed", observed)):
        array = np.asarray(given)
        if array.dtype.kind not in "fiub":
            raise InputError(
                f"the {name} output has dtype {array.dtype}; accepted are real floating-point and "
                "integer arrays"
            )
        if array.dtype.itemsize >= 8 and array.dtype.kind == "f":
            largest = np.abs(array[np.isfinite(array)]).max(initial=0)
            if largest > _LARGEST:
                raise InputError(
                    f"the {name} output has values as large as {largest:.3g}; accepted are values "
                    f"up to {_LARGEST:g}, whose squares can be summed, and infinities, which are "
                    "left out"
                )
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
        if (
            values.dtype.kind not in "iu"
            or values.min() < 0
            or values.shape
            not in {
                (1,),
                (len(spatial),),
            }
        ):
            raise InputError(
                f"max_shift is {max_shift!r}; accepted are one whole number of at least 0 or "
                f"{len(spatial)}, one per spatial axis"
            )
        wanted = tuple(int(v) for v in np.broadcast_to(values, (len(spatial),)))
    return tuple(min(limit, size - 1) for limit, size in zip(wanted, spatial, strict=True))


def thinned(
    reference: NDArray[Any], observed: NDArray[Any], *, n_values: int, limits: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give about `n_values` values of each of two stacks (N, C, *spatial).

    Evenly spaced samples first; where one is too many, a window of it: the one whose reference
    varies most, at least four times as wide as the largest shift.
    """
    n_samples, n_channels, *spatial = reference.shape
    per_sample = math.prod(reference.shape[1:])
    if reference.size <= n_values:
        return reference, observed
    kept = max(1, n_values // per_sample)
    if kept < n_samples:
        chosen = np.linspace(0, n_samples - 1, kept).round().astype(int)
        reference, observed = reference[chosen], observed[chosen]
    if per_sample <= n_values:
        return reference, observed
    side = (n_values / n_channels) ** (1 / len(spatial))
    sizes = [
        min(size, max(math.ceil(side), 4 * limit + 32))
        for size, limit in zip(spatial, limits, strict=True)
    ]
    best: tuple[float, tuple[slice, ...]] | None = None
    for index in np.ndindex(*(size // wanted for size, wanted in zip(spatial, sizes, strict=True))):
        cut = tuple(
            slice(i * wanted, (i + 1) * wanted) for i, wanted in zip(index, sizes, strict=True)
        )
        part = reference[(slice(None), slice(None), *cut)]
        every = (slice(None), slice(None), *(slice(None, None, 8) for _ in sizes))
        spread = float(part[every].astype(np.float64).std())
        if best is None or spread > best[0]:
            best = spread, cut
    if best is None:
        return reference, observed
    where = (slice(None), slice(None), *best[1])
    return reference[where], observed[where]
