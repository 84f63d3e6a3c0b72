# SPDX-License-Identifier: BSD-3-Clause
"""How exact an unbiased estimate of the shift can be at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from cases import Case, Outcome, draw_clean, noise_level
from numpy.typing import NDArray

__all__ = ["bound", "ratio"]

Array = NDArray[np.float64]

_DELTA = 1e-3  # of the central difference, in pixels: exact to some 1e-6 of the slope


def bound(case: Case) -> Array:
    """Give the Cramér-Rao bound on the standard deviation of the shift.

    Parameters
    ----------
    case : Case
        With noise, and with a shift that is not whole: across a whole shift the scene would be
        another one.

    Returns
    -------
    ndarray of float64, shape (n_axes,)
        Pixels.

    Raises
    ------
    ValueError
        If the case has no noise or a whole shift.

    Notes
    -----
    The data are the observed values whose source lies inside the reference, ``y = slope[c] *
    f[n, c](i + shift) + level[c] + noise`` with white noise of known variance per channel; shift,
    slopes and levels are unknown. What slope and level could explain of the derivatives with
    respect to the shift is taken off (the Schur complement of the information), the rest is the
    information on the shift (Robinson and Milanfar 2004). The derivatives are those of the clean
    observed values themselves, drawn again at a shift a little larger and smaller.
    """
    if case.snr_db is None or any(s == round(s) for s in case.shift):
        raise ValueError("the bound needs noise and a shift that is not whole")
    clean = draw_clean(case)[1]
    inside = _overlap(case)
    level = noise_level(clean, case.snr_db)
    values = _by_channel(clean[inside])
    centred = values - values.mean(axis=1, keepdims=True)
    power = np.square(centred).sum(axis=1, keepdims=True)
    slopes = []
    for axis in range(len(case.shape)):
        ahead, behind = (draw_clean(_moved(case, axis, d))[1][inside] for d in (_DELTA, -_DELTA))
        slope = _by_channel(ahead - behind) / (2 * _DELTA)
        slope -= slope.mean(axis=1, keepdims=True)
        slope -= (slope * centred).sum(axis=1, keepdims=True) / power * centred
        slopes.append(slope / level[:, None])
    stack = np.array([slope.ravel() for slope in slopes])
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(stack @ stack.T))))


def ratio(outcomes: Sequence[Outcome]) -> float:
    """Give the root mean square of the errors, each in units of its bound; misses apart."""
    parts = [o.error / bound(o.case) for o in outcomes if not o.is_miss]
    return float(np.sqrt(np.mean(np.square(parts)))) if parts else math.inf


def _overlap(case: Case) -> tuple[slice, ...]:
    """Take the positions i for which ``i + shift`` lies between the first and the last."""
    return (
        slice(None),
        slice(None),
        *(
            slice(max(0, math.ceil(-s)), min(n - 1, math.floor(n - 1 - s)) + 1)
            for s, n in zip(case.shift, case.shape, strict=True)
        ),
    )


def _by_channel(array: Array) -> Array:
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _moved(case: Case, axis: int, pixels: float) -> Case:
    shift = list(case.shift)
    shift[axis] += pixels
    return replace(case, shift=tuple(shift))
