# SPDX-License-Identifier: BSD-3-Clause
"""How a tensor differs from what it should be, given what it was computed from.

The measure is what fp16 makes of the same operations: the reference's own, from the same inputs,
with every result and every weight rounded to fp16. A device that accumulates in fp16 is noisier
than that, up to about ten times; what is further off is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation import Estimate, estimate
from convcal.estimation.rounding import fp16_step, rounding_level
from convcal.layout import Layout

__all__ = ["NOISY", "Judgement", "Levels", "as_batch", "judge", "measure_levels"]

Array = NDArray[np.float64]

NOISY = 10.0
"""How many times the noise of a faithful fp16 computation a device may be off by."""
# Single values: the largest of many normal errors lies near four times their rms.
_SINGLE = 4 * NOISY
# As of two roundings that tip either way.
_IDENTICAL = 1.5
_MOST_AXES = 3
_UNTOLD = ("constant", "too-few-data", "periodic", "rounding", "identical")
_EXPLAINED = 0.9
_FEW = 64


@dataclass(frozen=True)
class Levels:
    """How far a tensor is off, in units of the noise of fp16.

    Attributes
    ----------
    rms : float
        Of the worst channel; infinite where values are not finite that should be.
    worst : float
        Of the worst value.
    relative : float
        The rms error over the rms of the expected values.
    """

    rms: float
    worst: float
    relative: float

    @property
    def is_wrong(self) -> bool:
        """Whether it is off by more than a noisy device is."""
        return self.rms > NOISY or self.worst > _SINGLE

    @property
    def state(self) -> str:
        """``identical`` (no further off than faithful fp16 is), ``precision-noise``, ``wrong``."""
        if self.is_wrong:
            return "wrong"
        return "identical" if self.rms <= _IDENTICAL else "precision-noise"

    def joined(self, other: Levels) -> Levels:
        """Give the worse of both."""
        return Levels(
            max(self.rms, other.rms),
            max(self.worst, other.worst),
            max(self.relative, other.relative),
        )


@dataclass(frozen=True)
class Judgement:
    """What is wrong with a tensor.

    Attributes
    ----------
    family : str
        ``identical``, ``precision-noise``, ``length``, or a family of
        `convcal.estimation.Estimate`.
    reason : str
        One sentence, with the numbers.
    levels : Levels
    evidence : dict
        JSON-ready: verdict, shift, gain and so on of the estimate.
    """

    family: str
    reason: str
    levels: Levels
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def is_wrong(self) -> bool:
        """Whether it is a fault."""
        return self.family not in ("identical", "precision-noise")


def as_batch(array: NDArray[Any]) -> NDArray[Any]:
    """View a tensor as (batch, channels, *space), with three axes of space at most."""
    if array.ndim == 0:
        return array.reshape(1, 1)
    batch = Layout.of(array).canonical(array)
    if batch.ndim > 2 + _MOST_AXES:
        batch = batch.reshape(*batch.shape[: 1 + _MOST_AXES], -1)
    return batch


def measure_levels(expected: NDArray[Any], rounded: NDArray[Any], observed: NDArray[Any]) -> Levels:
    """Compare a tensor with what was expected.

    Parameters
    ----------
    expected, rounded, observed : ndarray, shape (N, C, *spatial)
        What the reference computes in fp32 and in fp16, and what was observed.

    Returns
    -------
    Levels
        0 of tensors that hold nothing.
    """
    if not expected.size:
        return Levels(0.0, 0.0, 0.0)
    if expected.dtype.kind != "f":
        return _levels_of_wholes(expected, rounded, observed)
    ref, half, obs = (array.astype(np.float64) for array in (expected, rounded, observed))
    is_finite = np.isfinite(ref)
    if (is_finite & ~np.isfinite(obs)).any() or _is_invented(ref, half, obs).any():
        return Levels(math.inf, math.inf, 1.0)
    known = np.where(is_finite, ref, 0.0)
    error = np.where(is_finite, obs, 0.0) - known
    if np.array_equal(half, obs):  # as the reference in fp16, to the last bit
        return Levels(1.0, 1.0, _relative(known, error))
    axes = (0, *range(2, ref.ndim))
    column = (1, -1, *(1,) * (ref.ndim - 2))
    off = np.abs(np.where(is_finite & np.isfinite(half), half, known) - known)
    noise = np.sqrt(np.mean(np.square(off), axis=axes))
    tiny = np.finfo(np.float64).tiny
    single = rounding_level(known, dtypes=(np.float16, np.float16)).single
    noise = np.maximum(np.maximum(noise, single), tiny)
    rms = np.sqrt(np.mean(np.square(error), axis=axes))
    allowed = np.maximum(noise.reshape(column), fp16_step(known) / math.sqrt(12))
    worst = np.abs(error) / np.maximum(allowed, off)
    return Levels(float((rms / noise).max()), float(worst.max()), _relative(known, error))


def _is_invented(expected: Array, rounded: Array, observed: Array) -> NDArray[np.bool_]:
    """Tell where a number is observed and there is none to have, in fp32 and fp16 alike.

    The largest numbers of fp16 stand for infinities, as in the masks of attention.
    """
    is_none = ~np.isfinite(expected) & ~np.isfinite(rounded) & np.isfinite(observed)
    is_like_infinity = np.isinf(expected) & (np.abs(observed) >= np.finfo(np.float16).max)
    found: NDArray[np.bool_] = is_none & ~(
        is_like_infinity & (np.sign(observed) == np.sign(expected))
    )
    return found


def _relative(expected: Array, error: Array) -> float:
    """Give the size of an error over that of the expected values; 1 where these are 0."""
    size, off = (float(np.sqrt(np.mean(np.square(array)))) for array in (expected, error))
    return off / size if size else float(off > 0)


def _levels_of_wholes(
    expected: NDArray[Any], rounded: NDArray[Any], observed: NDArray[Any]
) -> Levels:
    """Count values that differ; fp16 may tip some, and a tie may tip either way."""
    wrong = float(np.mean(expected != observed))
    tipped = float(np.mean(expected != rounded))
    level = 0.0 if not wrong else 1.0 if wrong <= 0.01 else NOISY * wrong / max(0.01, 4 * tipped)
    return Levels(level, level, wrong)


def judge(
    expected: NDArray[Any], rounded: NDArray[Any], observed: NDArray[Any], *, levels: Levels
) -> Judgement:
    """Say in which way a tensor is wrong.

    Parameters
    ----------
    expected, rounded, observed : ndarray, shape (N, C, *spatial)
        As for `measure_levels`, all samples together.
    levels : Levels
        What `measure_levels` gives of them.

    Returns
    -------
    Judgement
        With the family that the estimate recognises.
    """
    if not levels.is_wrong:
        return _noise(levels)
    ref = expected.astype(np.float32) if expected.dtype.kind != "f" else expected
    obs = observed.astype(np.float32) if observed.dtype.kind != "f" else observed
    if obs.shape != ref.shape:
        # Only what is too long in space can be cropped.
        is_longer = obs.ndim == ref.ndim and all(
            has == wanted or (axis > 1 and has > wanted)
            for axis, (has, wanted) in enumerate(zip(obs.shape, ref.shape, strict=True))
        )
        reason = (
            f"it has the shape {obs.shape}, and {ref.shape} is expected (samples, channels, space)"
        )
        return Judgement("length" if is_longer else "unstructured", reason, levels)
    told = _told(ref, obs)
    if told.family in _UNTOLD:
        return _by_values(ref, rounded, obs, levels, told)
    # What moves beyond the edge leaves channels of few values without any.
    family = "shift" if told.family == "dead-channel" and any(told.shift) else told.family
    return Judgement(family, told.reason, levels, _evidence(told))


def _told(ref: NDArray[Any], obs: NDArray[Any]) -> Estimate:
    """Estimate; where that tells nothing, estimate from another side."""
    told = estimate(ref, obs)
    if told.family == "affine" and told.verdict != "correctable":
        left = (told.metrics_after_full.rmse / told.metrics_before_full.rmse) ** 2
        # Lines through a few values explain some of any error.
        if left > 1 - _EXPLAINED or ref[:, 0].size < _FEW:
            return replace(told, family="too-few-data")
    if told.family in _UNTOLD and ref.shape[1] > 1:
        # Of few values, or values without space, the channels may stand for space.
        flat = (len(ref), 1, -1)
        other = estimate(ref.reshape(flat), obs.reshape(flat))
        if other.family not in (*_UNTOLD, "noise", "unstructured", "affine"):
            return other
    if told.family == "prefix" and ref.ndim > 3:
        # The edge that a shift repeats may be right, and is no beginning of a buffer.
        found = told.evidence["findings"]["prefix"]
        n_rows = -(-found["length"] // ref.shape[-1])
        if found["along"] != "last" and n_rows <= ref.shape[2] // 2:
            other = estimate(ref[:, :, n_rows:], obs[:, :, n_rows:])
            if other.family not in (*_UNTOLD, "noise", "unstructured", "prefix"):
                return other
    return told


def _noise(levels: Levels) -> Judgement:
    if levels.state == "identical":
        return Judgement("identical", "no more than fp16 rounds off", levels)
    return Judgement(
        "precision-noise",
        f"{levels.rms:.3g} times what fp16 rounds off in the worst channel, less than {NOISY:g}",
        levels,
    )


def _by_values(
    expected: NDArray[Any],
    rounded: NDArray[Any],
    observed: NDArray[Any],
    levels: Levels,
    told: Estimate,
) -> Judgement:
    """Judge what is too little, or too close, for the estimate."""
    evidence = _evidence(told)
    if told.family in ("rounding", "identical") and levels.worst <= _SINGLE:
        return Judgement(
            "precision-noise",
            f"{levels.rms:.3g} times what fp16 rounds off in the worst channel, and {told.reason}",
            levels,
            evidence,
        )
    ref, obs = expected.astype(np.float64), observed.astype(np.float64)
    is_invented = _is_invented(ref, rounded.astype(np.float64), obs)
    if is_invented.any():
        reason = f"{is_invented.mean():.2%} of the values are numbers, and should not be finite"
        return Judgement("non-finite", reason, levels, evidence)
    is_lost = np.isfinite(ref) & ~np.isfinite(obs)
    if is_lost.any():
        reason = f"{is_lost.mean():.2%} of the values are not finite, and should be"
        return Judgement("saturation", reason, levels, evidence)
    axes = (0, *range(2, ref.ndim))
    varies = np.ptp(ref, axis=axes) > 0
    dead = varies & (np.ptp(obs, axis=axes) == 0)
    if dead.any() and not dead.all():
        names = np.flatnonzero(dead).tolist()
        reason = f"channels {names} are constant, and should not be"
        return Judgement("dead-channel", reason, levels, evidence)
    error = obs - ref
    is_wrong = np.abs(error) > _SINGLE * np.maximum(
        np.abs(rounded.astype(np.float64) - ref), fp16_step(ref) / math.sqrt(12)
    )
    positions = is_wrong.any(axis=0)
    if positions.sum() == 1 and positions.size > 2:
        place = [int(i) for i in np.argwhere(positions)[0]]
        reason = f"only the value at {place} of each sample is wrong"
        return Judgement("element", reason, levels, evidence)
    gain, bias, explained = _line(ref, obs)
    if explained >= 0.99:
        reason = (
            f"{gain:.6g} times the expected value and {bias:.6g} explain {explained:.1%} of the "
            "squared error"
        )
        return Judgement("affine", reason, levels, {**evidence, "gain": gain, "bias": bias})
    return Judgement(
        "unstructured",
        f"{levels.rms:.3g} times what fp16 rounds off in the worst channel; {told.reason}",
        levels,
        evidence,
    )


def _line(ref: Array, obs: Array) -> tuple[float, float, float]:
    """Fit one line to all values: gain, bias, and the share of the squared error it explains."""
    x, y = ref.ravel(), obs.ravel()
    error = float(np.sum(np.square(y - x)))
    if np.ptp(x) == 0 or error == 0 or x.size < 8:
        offset = float(np.mean(y - x))
        left = float(np.sum(np.square(y - x - offset)))
        share = 1 - left / error if error and x.size > 2 else 0.0
        return 1.0, offset, share
    gain, bias = (float(each) for each in np.polyfit(x, y, 1))
    return gain, bias, 1 - float(np.sum(np.square(y - gain * x - bias))) / error


def _evidence(told: Estimate) -> dict[str, Any]:
    """Give what a correction would be, as far as there is one."""
    found: dict[str, Any] = {"verdict": told.verdict}
    if any(told.shift):
        found["shift"] = list(told.shift)
    if told.model != "identity":
        found["model"] = told.model
        found["gain"] = list(told.gain)
        found["bias"] = list(told.bias)
    if told.rows is not None:
        found["rows"] = list(told.rows)
    return found
