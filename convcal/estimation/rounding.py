# SPDX-License-Identifier: BSD-3-Clause
"""How much fp16 rounding alone lets an output differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from convcal.estimation.arrays import sample_runs

__all__ = ["ROUNDINGS", "RoundingLevel", "fp16_step", "rounding_level", "two_fp16_steps"]

Array = NDArray[np.float64]

# A faithful fp16 network rounds at every layer, its weights too, not only at the output: one
# rounding leaves 73 dB, 3, 8 and 15 layers of 3x3 convolutions with ReLU and rounded weights leave
# 62 to 67, 56 to 62 and 50 to 63 dB (benchmarks/estimation.py). coreai-onnx measured faithful
# conversions at 57 dB and above and puts its floor at 50 dB. 20 roundings' worth is 73 - 26 =
# 47 dB.
ROUNDINGS = 20.0
"""How many roundings of the output a faithful fp16 network may be off by."""
# Weights rounded to fp16 change the gain of a channel systematically: in those networks by up to
# 6e-4, in one channel of 180 by 1.2e-3. One rounding is 1.4e-4 to 2.8e-4 of the rms, by where the
# values lie between powers of two, and 6 of them 0.9e-3 to 1.7e-3: a gain of 1.002 is above that.
_MATERIAL = 6.0


@dataclass(frozen=True, eq=False)
class RoundingLevel:
    """Root mean squares, per channel, in the output's units.

    Attributes
    ----------
    single : ndarray of float64, shape (C,)
        Error of rounding the reference once (to fp16, or to the integers of the output's dtype).
    tolerance : ndarray of float64, shape (C,)
        Error up to which a residual is no more than a faithful fp16 network leaves.
    material : ndarray of float64, shape (C,)
        Change below which a correction is not worth the name.
    """

    single: Array
    tolerance: Array
    material: Array


def fp16_step(values: Array) -> Array:
    """Give the distance of neighbouring fp16 numbers at each value; that at 0 where not finite."""
    finite = np.where(np.isfinite(values), values, 0.0)
    _, exponent = np.frexp(finite)
    # 11 significant bits; below 2**-14, and at 0, whose exponent says nothing, 2**-24.
    step: Array = np.ldexp(1.0, np.where(finite == 0, -13, np.maximum(exponent, -13)) - 11)
    return step


def two_fp16_steps(value: float) -> float:
    """Give how far apart roundings of one finite value may lie, also of one beyond the range."""
    return 2 * float(np.spacing(np.float16(min(abs(value), 60000.0))))


def rounding_level(reference: Array, *, dtypes: tuple[DTypeLike, ...]) -> RoundingLevel:
    """Predict the error that fp16 rounding leaves in each channel.

    Parameters
    ----------
    reference : ndarray of float64, shape (N, C, *spatial)
        Non-finite values are left out.
    dtypes : tuple of dtype
        Of both outputs as given; integers are rounded to whole steps.

    Returns
    -------
    RoundingLevel
        Channels of (almost) nothing get a tenth of the channels' mean level, since what they
        hold was summed from values of that size.
    """
    axes = (0, *range(2, reference.ndim))
    squares = np.zeros(reference.shape[1])
    for run in sample_runs(reference.shape):
        squares += np.square(fp16_step(reference[run])).sum(axis=axes)
    single = np.sqrt(squares / (reference.size // len(squares)) / 12)
    single = np.maximum(single, 0.1 * np.sqrt(np.mean(single**2)))
    is_integer = any(np.issubdtype(np.dtype(dtype), np.integer) for dtype in dtypes)
    # Both are rounded to integers, and rounding may tip either way: up to one step apart.
    steps = 0.75 if is_integer else 0.0
    return RoundingLevel(
        single=np.hypot(single, steps / np.sqrt(12)),
        tolerance=np.hypot(ROUNDINGS * single, steps),
        material=np.hypot(_MATERIAL * single, 0.1 * steps),
    )
