# SPDX-License-Identifier: BSD-3-Clause
"""Which part of the data is fitted and which part decides."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fold", "Split", "content_order", "split_samples", "unit_labels"]

Mask = NDArray[np.bool_]

_LEAST_SAMPLES = 4
_MOST_FOLDS = 2**31


@dataclass(frozen=True, eq=False)
class Fold:
    """A division of the data in two.

    Attributes
    ----------
    train, held : ndarray of int64
        Indices of the samples that are fitted and of those that judge; where blocks are divided,
        all of them in both.
    train_mask, held_mask : ndarray of bool, shape (*spatial), or None
        Positions, where blocks are divided.
    """

    train: NDArray[np.int64]
    held: NDArray[np.int64]
    train_mask: Mask | None = None
    held_mask: Mask | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """The divisions of the data for cross-validation.

    Attributes
    ----------
    kind : str
        ``samples`` or, where there are fewer than 4, ``blocks`` of positions.
    folds : tuple of Fold
        Every sample, or block, is held out in one of them.
    """

    kind: Literal["samples", "blocks"]
    folds: tuple[Fold, ...]


def content_order(reference: NDArray[Any], observed: NDArray[Any]) -> NDArray[np.int64]:
    """Order samples by a digest of what they hold, so that no result depends on how they came."""

    def digest(n: int) -> bytes:
        key = hashlib.blake2b(np.ascontiguousarray(reference[n]).tobytes(), digest_size=16)
        content = np.ascontiguousarray(observed[n]).tobytes()
        return hashlib.blake2b(content, key=key.digest(), digest_size=16).digest()

    digests = [digest(n) for n in range(len(reference))]
    return np.array(sorted(range(len(reference)), key=digests.__getitem__), dtype=np.int64)


def split_samples(shape: tuple[int, ...], *, holdout: float) -> Split:
    """Divide the data into folds.

    Parameters
    ----------
    shape : tuple of int
        (N, C, *spatial); the samples are in the order of `content_order`, which spreads each fold
        over the set.
    holdout : float
        Share held out at a time, between 0 and 1: one over the number of folds, about.

    Returns
    -------
    Split
    """
    n_samples, spatial = shape[0], shape[2:]
    order = np.arange(n_samples)
    # More folds than there are samples or blocks change nothing.
    n_folds = max(2, round(min(1 / float(holdout), _MOST_FOLDS)))
    if n_samples >= _LEAST_SAMPLES or (not spatial and n_samples > 1):
        fold_of = np.arange(n_samples) % min(n_folds, n_samples)
        return Split(
            "samples",
            tuple(
                Fold(train=order[fold_of != f], held=order[fold_of == f])
                for f in range(min(n_folds, n_samples))
            ),
        )
    labels = _block_indices(spatial, per_axis=16 if len(spatial) == 1 else 8)
    # The weights 1, 2, 3 step differently along each axis, so that no row of blocks is left out.
    phase = np.asarray(
        sum(weight * label for weight, label in enumerate(labels, start=1)), dtype=np.int64
    )
    fold_of = np.broadcast_to((phase - 1) % n_folds, spatial)
    folds = []
    for f in np.unique(fold_of):
        held = fold_of == f
        if not held.all():
            folds.append(Fold(train=order, held=order, train_mask=~held, held_mask=held))
    if not folds:
        everything = np.ones(spatial, dtype=bool)
        folds = [Fold(train=order, held=order, train_mask=everything, held_mask=everything)]
    return Split("blocks", tuple(folds))


def unit_labels(spatial: tuple[int, ...], *, n_samples: int) -> NDArray[np.int64]:
    """Label the blocks whose errors are compared in pairs, with the samples at least 24.

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
