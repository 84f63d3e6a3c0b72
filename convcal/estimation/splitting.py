# SPDX-License-Identifier: BSD-3-Clause
"""Which part of the data is fitted and which part decides."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Split", "split_samples", "unit_labels"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_LEAST_SAMPLES = 4


@dataclass(frozen=True, eq=False)
class Split:
    """A division of the data.

    Attributes
    ----------
    kind : str
        ``samples`` or, where there are fewer than 4, ``blocks`` of positions.
    train, held : ndarray of int64
        Indices of samples; with ``blocks``, all of them in both.
    train_mask, held_mask : ndarray of bool, shape (*spatial), or None
        Positions, with ``blocks``.
    """

    kind: Literal["samples", "blocks"]
    train: NDArray[np.int64]
    held: NDArray[np.int64]
    train_mask: Mask | None = None
    held_mask: Mask | None = None


def split_samples(reference: Array, observed: Array, *, holdout: float) -> Split:
    """Divide the data in two.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    holdout : float
        Share held out, between 0 and 1.

    Returns
    -------
    Split
        The same for the same data, in whatever order the samples come: they are ordered by a
        digest of their content, which also spreads the choice over the set.
    """
    n_samples = len(reference)
    digests = [
        hashlib.blake2b(
            np.ascontiguousarray(observed[n]).tobytes(),
            key=hashlib.blake2b(
                np.ascontiguousarray(reference[n]).tobytes(), digest_size=16
            ).digest(),
            digest_size=16,
        ).digest()
        for n in range(n_samples)
    ]
    order = np.array(sorted(range(n_samples), key=lambda n: digests[n]), dtype=np.int64)
    spatial = reference.shape[2:]
    if n_samples >= _LEAST_SAMPLES or (not spatial and n_samples > 1):
        n_held = min(n_samples - 1, max(1, round(n_samples * holdout)))
        return Split("samples", train=order[n_held:], held=order[:n_held])
    labels = _block_indices(spatial, per_axis=16 if len(spatial) == 1 else 8)
    every = max(2, round(1 / holdout))
    # The weights 1, 2, 3 step differently along each axis, so that no row of blocks is left out.
    phase = np.asarray(
        sum(weight * label for weight, label in enumerate(labels, start=1)), dtype=np.int64
    )
    held = np.broadcast_to(phase % every == 1, spatial)
    return Split("blocks", train=order, held=order, train_mask=~held, held_mask=held)


def unit_labels(spatial: tuple[int, ...], *, n_samples: int) -> NDArray[np.int64]:
    """Label the blocks whose errors are compared in pairs, with the samples at least 16.

    Returns
    -------
    ndarray of int64, shape (*spatial)
    """
    if not spatial:
        return np.zeros((), dtype=np.int64)
    wanted = max(1.0, 24 / n_samples)
    per_axis = int(np.ceil(wanted ** (1 / len(spatial))))
    labels = _block_indices(spatial, per_axis=per_axis)
    total = np.zeros(spatial, dtype=np.int64)
    for label in labels:
        total = total * per_axis + label
    return total


def _block_indices(spatial: tuple[int, ...], *, per_axis: int) -> list[NDArray[np.int64]]:
    """Give for each axis which of its blocks a position is in, ready to broadcast."""
    indices = []
    for axis, size in enumerate(spatial):
        count = min(per_axis, size)
        index = np.arange(size) * count // size
        indices.append(index.reshape([-1 if a == axis else 1 for a in range(len(spatial))]))
    return indices
