# SPDX-License-Identifier: BSD-3-Clause
"""Errors that depend on the value alone, wherever it stands: limits, cliffs, tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.rounding import two_fp16_steps

__all__ = ["Threshold", "find_threshold", "value_dependence"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Fewer wrong values than this may be anything.
_LEAST_WRONG = 4
_LEAST_PAIRS = 24
# No limit of a device is known below: 4094 is the least (sbryngelson/ane-guide).
_LEAST_LIMIT = 2048.0
_GLANCE = 2**18  # values that tell most outputs from one with a threshold, about


@dataclass(frozen=True)
class Threshold:
    """Values on one side of a threshold that became one value, all others being right.

    Attributes
    ----------
    kind : str
        ``limit`` (they stay at it, overflow, or are zeroed on both sides of zero), ``cliff``
        (they become another value) or ``flush`` (what is small becomes 0).
    threshold : float
        The wrong reference value nearest to the right ones.
    value : float
        What they became; not finite where they overflowed.
    share : float
        Of all values, how many lie beyond.
    other : Threshold or None
        What holds below zero, where something does on both sides of it.
    """

    kind: Literal["limit", "cliff", "flush"]
    threshold: float
    value: float
    share: float
    other: Threshold | None = None


def find_threshold(
    reference: Array, observed: Array, is_wrong: Mask, *, allowance: Array
) -> Threshold | None:
    """Find whether every value beyond a threshold became the same, and no other is wrong.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    is_wrong : ndarray of bool, shape (N, C, *spatial)
        Beyond what rounding may leave.
    allowance : ndarray of float64, shape (N, C, *spatial)
        Beyond which a value is wrong.

    Returns
    -------
    Threshold or None
        None where fewer than 4 values are wrong.

    Notes
    -----
    Zeros in the place of large positive values alone are told from a limit by the size: below
    2048 no device is known to have one.

    References
    ----------
    apple/coremltools #1380 (overflow gives zeros), #2687, #2690 (softplus and logsumexp are 0
    beyond a threshold), sbryngelson/ane-guide (limits, flushed subnormal numbers).
    """
    good = np.isfinite(reference)
    wrong = is_wrong & good
    if wrong.sum() < _LEAST_WRONG or not _may_be_one(reference, observed, wrong):
        return None
    ref, obs, slack = reference[good], observed[good], allowance[good]
    bad = wrong[good]
    above, below = bad & (ref > 0), bad & (ref < 0)
    if (obs[bad] == 0).all():
        largest = float(np.abs(ref[bad]).max())
        inside = np.abs(ref) <= largest
        near = np.abs(ref) < largest - slack
        if (obs[near] == 0).all() and (~bad & ~inside).any():
            return Threshold("flush", largest, 0.0, float(inside.mean()))
    up = _side(ref, obs, slack, bad, sign=1.0)
    if up is not None:
        return up
    down = _side(ref, obs, slack, bad, sign=-1.0)
    if down is not None:
        return down
    if above.any() and below.any():
        high = _side(ref, obs, slack, above, sign=1.0, is_alone=False)
        low = _side(ref, obs, slack, below, sign=-1.0, is_alone=False)
        if high is not None and low is not None:
            is_one = math.isfinite(high.value) and abs(high.value - low.value) <= float(slack.max())
            kind: Literal["limit", "cliff"] = "cliff" if is_one and high.value != 0 else "limit"
            if "cliff" in {high.kind, low.kind} and high.value != 0:
                kind = "cliff"
            share = high.share + low.share
            return Threshold(kind, high.threshold, high.value, share, other=low)
    return None


def _may_be_one(reference: Array, observed: Array, wrong: Mask) -> bool:
    """Tell, by evenly spaced values, whether all wrong ones on either side of 0 may be the same."""
    every = max(1, wrong.size // _GLANCE)
    ref, obs = (array.ravel()[::every] for array in (reference, observed))
    bad = wrong.ravel()[::every]
    for side in (bad & (ref > 0), bad & (ref < 0)):
        became = obs[side]
        finite = np.isfinite(became)
        if not finite.any():
            continue
        # Each is within two steps of a median that is not known here.
        if not finite.all() or np.ptp(became) > 2 * two_fp16_steps(float(np.abs(became).max())):
            return False
    return True


def _side(
    ref: Array, obs: Array, slack: Array, bad: Mask, *, sign: float, is_alone: bool = True
) -> Threshold | None:
    """Find whether all beyond the least wrong value, on one side, became one value."""
    start = float((sign * ref[bad]).min())
    beyond = sign * ref >= start
    # Of a function of the value, not most of what is beyond is right.
    if beyond.all() or 2 * bad.sum() < beyond.sum():
        return None
    became = obs[bad]
    finite = np.isfinite(became)
    # Within what rounds alike there, some may have stayed below the threshold.
    deep = beyond & (sign * ref > start + slack)
    if not finite.any():
        is_one = not np.isfinite(obs[deep]).any()
        value = float(became[0])
    elif finite.all():
        value = float(np.median(became))
        step = two_fp16_steps(value)
        is_one = bool(
            (np.abs(became - value) <= step).all() and (np.abs(obs[deep] - value) <= step).all()
        )
    else:
        return None
    if not is_one:
        return None
    share = float(beyond.mean())
    if not math.isfinite(value):
        return Threshold("limit", sign * start, value, share)
    kept = float((sign * obs[~beyond & np.isfinite(obs)]).max(initial=-math.inf))
    margin = float(slack[bad].max())
    is_limit = kept - margin <= sign * value <= start + margin
    is_zeroed = value == 0 and start >= _LEAST_LIMIT
    both = not is_alone and value == 0
    return Threshold(
        "limit" if is_limit or is_zeroed or both else "cliff", sign * start, value, share
    )


def value_dependence(reference: Array, residual: Array, *, n_values: int = 2**15) -> float:
    """Tell how far a residual is a function of the value.

    Parameters
    ----------
    reference, residual : ndarray of float64, shape (N, C, *spatial)
    n_values : int
        About how many values are used at most, evenly spaced.

    Returns
    -------
    float
        Correlation of neighbours in the residual once it is sorted by the reference's values: 1
        for a smooth function, 0 for what has nothing to do with the value, or where there are
        too few to tell. Neighbours of one plane do not count: where the content repeats, so does
        the residual.

    Notes
    -----
    One minus half of von Neumann's ratio of the mean square successive difference to the
    variance (1941, Annals of Mathematical Statistics 12), which needs no bins.
    """
    good = (np.isfinite(reference) & np.isfinite(residual)).ravel()
    every = max(1, int(good.sum()) // n_values)
    chosen = np.flatnonzero(good)[::every]
    plane = chosen // max(1, math.prod(reference.shape[2:]))
    order = np.argsort(reference.ravel()[chosen], kind="stable")
    left, plane = residual.ravel()[chosen][order], plane[order]
    pairs = plane[1:] != plane[:-1]
    if pairs.sum() < _LEAST_PAIRS:
        return 0.0
    first, second = left[:-1][pairs], left[1:][pairs]
    both = np.concatenate([first, second])
    power = float(np.square(both - both.mean()).mean())
    return 1 - float(np.square(second - first).mean()) / (2 * power) if power > 0 else 0.0
