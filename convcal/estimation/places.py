# SPDX-License-Identifier: BSD-3-Clause
"""Where an output is wrong, if it is right everywhere else: at the border, at an element, behind.

All take a mask of the values that are wrong beyond what rounding may leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["Edge", "Prefix", "find_edge", "find_elements", "find_prefix"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# How probable it may be that what is found is chance: of positions at the border, of right values
# in a row.
_CHANCE_EDGE = 1e-2
_CHANCE_PREFIX = 1e-5
# Of a border; what reaches further in comes of no padding.
_WIDEST = 16


@dataclass(frozen=True)
class Edge:
    """A border that is wrong around an interior that is right.

    Attributes
    ----------
    width : int
        Positions from the border on within which all that is wrong lies.
    sides : tuple of (int, str)
        Spatial axis and ``start`` or ``end``.
    gain : float
        Median of observed over reference where they differ.
    """

    width: int
    sides: tuple[tuple[int, str], ...]
    gain: float


@dataclass(frozen=True)
class Prefix:
    """A beginning that is right, with what follows wrong.

    Attributes
    ----------
    length : int
        Elements that are right.
    along : str
        ``last``: of the last axis; ``flat``: of each sample's flat buffer.
    share : float
        Of what follows, how much is wrong.
    """

    length: int
    along: str
    share: float


def find_elements(is_wrong: Mask) -> list[tuple[int, ...]] | None:
    """Find a position, or very few, that are wrong in most planes, the rest being right.

    Parameters
    ----------
    is_wrong : ndarray of bool, shape (N, C, *spatial)

    Returns
    -------
    list of tuple of int, or None
        The positions. None where there are more than one in 200 (and more than one), or they are
        right in half of the planes, or in half of the samples.

    References
    ----------
    apple/coremltools #2515: the last element of an output.
    """
    spatial = is_wrong.shape[2:]
    n_positions = math.prod(spatial)
    if n_positions < 4:
        return None
    per_position = is_wrong.mean(axis=(0, 1))
    found = np.argwhere(per_position > 0)
    if not 0 < len(found) <= max(1, min(4, n_positions // 200)):
        return None
    if per_position[per_position > 0].min() <= 0.5:
        return None
    return [tuple(int(p) for p in position) for position in found]


def find_edge(
    reference: Array, observed: Array, is_wrong: Mask, *, allowance: Array
) -> Edge | None:
    """Find whether all that is wrong lies at the border.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    is_wrong : ndarray of bool, shape (N, C, *spatial)
    allowance : ndarray of float64, shape (N, C, *spatial)
        Beyond which a value is wrong.

    Returns
    -------
    Edge or None
        None where the wrong positions reach in by more than 16 or a quarter of an axis, do not
        reach the border, are too few to exclude chance, or are right in half of the samples that
        have something there.

    References
    ----------
    apple/coremltools #2772, #2844 (average pooling), kornia #4073.
    """
    spatial = is_wrong.shape[2:]
    # An axis of one position has no border that differs from the rest.
    long = [axis for axis, size in enumerate(spatial) if size > 1]
    if not long or not is_wrong.any():
        return None
    is_spoilt = np.asarray(is_wrong.any(axis=(0, 1)))
    depth = np.full(spatial, max(spatial))
    for axis in long:
        place = np.arange(spatial[axis])
        from_border = np.minimum(place, spatial[axis] - 1 - place)
        depth = np.minimum(depth, np.expand_dims(from_border, _others(axis, len(spatial))))
    width = int(depth[is_spoilt].max()) + 1
    if width > _WIDEST or any(width > spatial[axis] // 4 for axis in long):
        return None
    if not is_spoilt[depth == 0].any():
        return None
    sides = []
    explained = np.zeros(spatial, dtype=bool)
    for axis, end in product(long, ("start", "end")):
        strip = _strip(spatial, axis, end, width)
        alone = strip.copy()
        for other in long:
            if other != axis:
                for side in ("start", "end"):
                    alone &= ~_strip(spatial, other, side, width)
        if is_spoilt[alone].mean() > 0.1:
            sides.append((axis, end))
            explained |= strip
    if not sides or (is_spoilt & ~explained).any():
        return None
    if float(explained.mean()) ** int(is_spoilt.sum()) > _CHANCE_EDGE:
        return None
    axes = tuple(range(1, is_wrong.ndim))
    has_content = ((np.abs(reference) > 2 * allowance) & explained).any(axis=axes)
    if is_wrong.any(axis=axes).sum() <= has_content.sum() / 2:
        return None
    divisible = is_wrong & (np.abs(reference) > allowance) & np.isfinite(observed)
    ratio = observed[divisible] / reference[divisible]
    return Edge(width, tuple(sides), float(np.median(ratio)) if ratio.size else math.nan)


def _others(axis: int, n_axes: int) -> tuple[int, ...]:
    return tuple(a for a in range(n_axes) if a != axis)


def _strip(spatial: tuple[int, ...], axis: int, end: str, width: int) -> Mask:
    place = np.arange(spatial[axis])
    near = place < width if end == "start" else place >= spatial[axis] - width
    return np.broadcast_to(np.expand_dims(near, _others(axis, len(spatial))), spatial).copy()


def find_prefix(is_wrong: Mask) -> Prefix | None:
    """Find whether the first elements are right and those that follow are not.

    Parameters
    ----------
    is_wrong : ndarray of bool, shape (N, C, *spatial)

    Returns
    -------
    Prefix or None
        None where what follows is right for a third, or begins to be wrong little by little, or
        where so many right ones in a row may be chance.

    References
    ----------
    john-rocky/coreai-model-zoo #18: of 1920 samples of sound the first 4 are exact.
    """
    if is_wrong.ndim < 3:
        return None
    size = is_wrong.shape[-1]
    # Each column of the last axis, then each element of a sample's buffer.
    for along, table in (
        ("last", np.moveaxis(is_wrong, -1, 0).reshape(size, -1)),
        ("flat", is_wrong.reshape(len(is_wrong), -1).T),
    ):
        wrong = np.asarray(table.any(axis=1))
        if not wrong.any():
            return None
        length = int(np.argmax(wrong))
        n_behind = len(wrong) - length
        if length < 2 or n_behind < 8:
            continue
        behind = table[length:].mean(axis=1)
        share = float(behind.mean())
        # What begins is sharp, and goes on to the end.
        pieces = [float(piece.mean()) for piece in np.array_split(behind, min(8, n_behind))]
        chance = (1 - share) ** (length * table.shape[1])
        if share > 0.4 and min(pieces) > 0.6 * share and chance < _CHANCE_PREFIX:
            return Prefix(length, along, share)
    return None
