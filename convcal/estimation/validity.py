# SPDX-License-Identifier: BSD-3-Clause
"""Which values can be trusted: finite ones that were not clipped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.rounding import two_fp16_steps

__all__ = ["Validity", "find_valid"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The largest fp16 value; what lies at or beyond it in an fp16 output was clipped or overflowed.
_FP16_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False)
class Validity:
    """Masks of usable values, and how many are not.

    Attributes
    ----------
    reference, observed : ndarray of bool or None
        Shape (N, C, *spatial); None where every value is usable.
    nonfinite_reference, nonfinite_observed : ndarray of int64, shape (C,)
    outliers : ndarray of int64, shape (C,)
        Observed values that nothing explains, left out.
    saturated : ndarray of int64, shape (C,)
        Observed values at a limit where the reference goes on.
    saturation_limits : tuple of tuple of float
        Per channel, the values at which the observed output was clipped.
    """

    reference: Mask | None
    observed: Mask | None
    nonfinite_reference: NDArray[np.int64]
    nonfinite_observed: NDArray[np.int64]
    outliers: NDArray[np.int64]
    saturated: NDArray[np.int64]
    saturation_limits: tuple[tuple[float, ...], ...]

    def leaving_out(self, outliers: Mask) -> Validity:
        """Give the same without observed values that nothing explains."""
        axes = (0, *range(2, outliers.ndim))
        return replace(
            self,
            observed=~outliers if self.observed is None else self.observed & ~outliers,
            outliers=self.outliers + outliers.sum(axis=axes),
        )


def find_valid(reference: Array, observed: Array) -> Validity:
    """Find the values that can be used.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)

    Returns
    -------
    Validity

    Notes
    -----
    A limit is where the observed channel repeats its extreme value (within two fp16 steps) far
    more often than the reference repeats its own: zeros behind a ReLU and the ends of an 8-bit
    picture are repeated in both and stay.
    """
    finite_reference, finite_observed = np.isfinite(reference), np.isfinite(observed)
    axes = (0, *range(2, reference.ndim))
    saturated = np.zeros(observed.shape, dtype=bool)
    limits: list[tuple[float, ...]] = []
    for channel in range(observed.shape[1]):
        ref = reference[:, channel][finite_reference[:, channel]]
        obs = observed[:, channel]
        ends = _limits(ref, obs[finite_observed[:, channel]])
        limits.append(tuple(end for end, _ in ends))
        for end, tolerance in ends:
            saturated[:, channel] |= np.abs(obs - end) <= tolerance
    valid_observed = finite_observed & ~saturated
    return Validity(
        reference=None if finite_reference.all() else finite_reference,
        observed=None if valid_observed.all() else valid_observed,
        nonfinite_reference=(~finite_reference).sum(axis=axes),
        nonfinite_observed=(~finite_observed).sum(axis=axes),
        outliers=np.zeros(observed.shape[1], dtype=np.int64),
        saturated=saturated.sum(axis=axes),
        saturation_limits=tuple(limits),
    )


def _limits(ref: Array, obs: Array) -> list[tuple[float, float]]:
    """Give the clipped ends of one channel, each with the tolerance around it."""
    if obs.size == 0 or ref.size == 0 or np.ptp(obs) == 0 or np.ptp(ref) == 0:
        return []
    ends = []
    for sign in (1.0, -1.0):
        top_ref, top_obs = float(np.max(sign * ref)), float(np.max(sign * obs))
        near_ref, near_obs = two_fp16_steps(top_ref), two_fp16_steps(top_obs)
        # Coarse steps repeat every value: then so much of the reference counts as one.
        below = sign * obs[sign * obs < top_obs - near_obs]
        step = (top_obs - float(below.max(initial=-np.inf))) * float(ref.std() / obs.std())
        n_ref = int((sign * ref >= top_ref - max(near_ref, step)).sum())
        n_obs = int((sign * obs >= top_obs - near_obs).sum())
        # 6 of the same: in 8 values of a smooth crest two or three may round alike.
        is_repeated = n_obs >= max(6, 4 * n_ref, obs.size // 2000)
        is_overflow = top_obs >= _FP16_LARGEST and top_ref > top_obs
        if is_repeated or is_overflow:
            ends.append((sign * top_obs, near_obs))
    return ends
