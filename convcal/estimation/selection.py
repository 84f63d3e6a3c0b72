# SPDX-License-Identifier: BSD-3-Clause
"""The choice among corrections by data that were not fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.arithmetic import correct
from convcal.estimation.affine import AffineFit, fit_affine
from convcal.estimation.interpolation import (
    Filter,
    axis_filter,
    filter_margins,
    tap_count,
)
from convcal.estimation.registration import Registration
from convcal.estimation.rounding import RoundingLevel
from convcal.words import MODELS

__all__ = ["MODELS", "Candidate", "Choice", "Trial", "choose", "inside", "propose"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A correction has to take away a fifth of the squared error. Shift and gain fitted to what they
# cannot describe take away less: a half-pixel shift of white noise 0 %, a scale of one pixel over
# the field 5 %, a ramp of 0.43 pixels to both sides 10 %.
_LEAST_SHARE = 0.2
# Of one channel's squared error at a given shift; the rest may be what the taps leave.
_LEAST_CHANNEL_SHARE = 0.02
# "Beyond doubt": improvement over samples or blocks against its standard error.
_SIGMAS = 3.0
_LEAST_UNITS = 3
# Share of variance that observed and reference must have in common for a gain to mean anything.
_LEAST_COMMON = 0.25


@dataclass(frozen=True, eq=False)
class Candidate:
    """One correction: filters per axis, gain and bias per channel."""

    model: str
    shift: tuple[float, ...]
    filters: tuple[Filter, ...]
    gain: Array
    bias: Array

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Positions at the start and end of each axis without a full source."""
        return filter_margins(self.filters)

    def apply(self, observed: NDArray[Any]) -> NDArray[Any]:
        """Correct an array (N, C, *spatial) as the post-processor does, in its own dtype."""
        return correct(
            observed, filters=self.filters, gain=self.gain.tolist(), bias=self.bias.tolist()
        )

    def touches(self) -> Mask:
        """Tell which channels it changes."""
        if any(self.shift):
            return np.ones(len(self.gain), dtype=bool)
        touched: Mask = (self.gain != 1) | (self.bias != 0)
        return touched


@dataclass(frozen=True, eq=False)
class Trial:
    """How a candidate did on held-out data.

    Attributes
    ----------
    candidate : Candidate
    rmse : float
        Root mean square over channels of error against identity's, on common positions.
    share : float
        Part of the squared error of the channels it touches that it takes away.
    sigmas : float
        Its improvement over its standard error over samples and blocks, or what the ratio of
        the errors is worth as a likelihood, whichever is more.
    n_units : float
        Effective number of samples and blocks that carry the error.
    is_admissible : bool
        Better than identity beyond doubt.
    """

    candidate: Candidate
    rmse: float
    share: float
    sigmas: float
    n_units: float
    is_admissible: bool


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen candidate among the trials."""

    chosen: Trial
    trials: tuple[Trial, ...]


def propose(
    reference: Array,
    observed: Array,
    *,
    registration: Registration | None,
    level: RoundingLevel,
    valid: Mask | None,
    robust: bool,
    model: str,
) -> tuple[list[Candidate], AffineFit]:
    """Fit the candidates.

    Parameters
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        The part to fit.
    registration : Registration or None
        None without spatial axes.
    level : RoundingLevel
    valid : ndarray of bool or None
        Positions of `observed` and `reference` alike to use, see `_valid_after`.
    robust : bool
    model : str
        ``auto``, or one of `MODELS`, which is then tried against identity alone.

    Returns
    -------
    list of Candidate
        Identity first.
    AffineFit
        At the last geometry tried, with the standard errors.
    """
    spatial = reference.shape[2:]
    n_channels = reference.shape[1]
    zero = (0.0,) * len(spatial)
    geometries: list[tuple[str, tuple[float, ...]]] = [("", zero)]
    if registration is not None:
        whole = tuple(float(s) for s in registration.whole_shift)
        if any(whole):
            geometries.append(("shift", whole))
        if not all(registration.is_whole):
            fine = tuple(
                s if tap_count(size) else w
                for s, w, size in zip(registration.shift, whole, spatial, strict=True)
            )
            if fine != whole and any(s != round(s) for s in fine):
                geometries.append(("subpixel-shift", fine))
    ones, nothing = np.ones(n_channels), np.zeros(n_channels)
    candidates: list[Candidate] = []
    fits: list[AffineFit] = []
    for name, shift in geometries:
        filters = tuple(
            axis_filter(s, n_taps=tap_count(size) or 2)
            for s, size in zip(shift, spatial, strict=True)
        )
        plain = Candidate(name or "identity", shift, filters, ones, nothing)
        candidates.append(plain)
        window = inside(plain.margins, spatial)
        moved = plain.apply(observed)[window]
        mask = None if valid is None else _valid_after(valid, shift, reference.shape)[window]
        fit = fit_affine(
            reference[window],
            moved,
            valid=mask,
            # Three roundings: less signal than that cannot tell a gain.
            least_signal=3 * level.single,
            robust=robust,
        )
        fits.append(fit)
        gain, bias = _material(fit, reference[window], moved, mask, level)
        if (gain != 1).any() or (bias != 0).any():
            label = f"{name}-affine" if name else "affine"
            candidates.append(Candidate(label, shift, filters, gain, bias))
    if model != "auto":
        candidates = [c for c in candidates if c.model in {"identity", model}]
    return candidates, fits[-1]


def _material(
    fit: AffineFit, reference: Array, moved: Array, mask: Mask | None, level: RoundingLevel
) -> tuple[Array, Array]:
    """Keep gain and bias of the channels where they are real and matter."""
    gain, bias = np.ones(len(fit.gain)), np.zeros(len(fit.gain))
    for channel in range(len(gain)):
        if fit.is_constant[channel] or fit.n_values[channel] < 8:
            continue
        ref, obs = reference[:, channel], moved[:, channel]
        good = np.isfinite(ref) & np.isfinite(obs)
        if mask is not None:
            good &= np.broadcast_to(mask, reference.shape)[:, channel]
        ref, obs = ref[good], obs[good]
        g, b = float(fit.gain[channel]), float(fit.bias[channel])
        # Noise in the observed values pulls the gain to zero and leaves the opposite regression
        # alone. If one lies between the two, the gain is that noise.
        ends = sorted((g, float(fit.inverse_gain[channel])))
        slack = _SIGMAS * float(fit.gain_error[channel])
        wide = slack * abs(float(fit.inverse_gain[channel]) / g) if g else math.inf
        low, high = (slack, wide) if ends[0] == g else (wide, slack)
        if ends[0] - low <= 1 <= ends[1] + high:
            g, b = 1.0, float(np.median(ref - obs) if ref.size else 0.0)
            b = float(np.mean(ref - obs)) if not _is_skewed(ref - obs, b) else b
            spread = float((ref - obs).std()) / math.sqrt(max(ref.size, 1))
            if abs(b) <= max(_SIGMAS * spread, level.material[channel]):
                continue
        # Nothing in common: a gain near 0 and the mean for a bias halve the squared error of any
        # garbage, and correct nothing. (The ratio of the two gains is the share in common.)
        elif abs(g) < _LEAST_COMMON * abs(ends[0] + ends[1] - g):
            continue
        change = float(np.sqrt(np.mean(((g - 1) * obs + b) ** 2)))
        if change <= level.material[channel]:
            continue
        before, after = np.sum((ref - obs) ** 2), np.sum((ref - g * obs - b) ** 2)
        if not np.isfinite(before) or after > (1 - _LEAST_CHANNEL_SHARE) * before:
            before, after = np.median(np.abs(ref - obs)), np.median(np.abs(ref - g * obs - b))
            # Gross outliers hide the improvement from the squares, not from the median.
            if after > 0.5 * before:
                continue
        gain[channel], bias[channel] = g, b
    return gain, bias


def _is_skewed(error: Array, median: float) -> bool:
    """Tell whether outliers, not the bulk, make the mean."""
    bulk = float(np.median(np.abs(error - median))) * 1.4826
    return bool(abs(float(error.mean()) - median) > bulk)


def inside(margins: Sequence[tuple[int, int]], spatial: tuple[int, ...]) -> tuple[slice, ...]:
    """Give the slices of the valid region of arrays (N, C, *spatial)."""
    return (
        slice(None),
        slice(None),
        *(
            slice(start, max(start, n - end))
            for (start, end), n in zip(margins, spatial, strict=True)
        ),
    )


def _valid_after(valid: Mask, shift: tuple[float, ...], shape: tuple[int, ...]) -> Mask:
    """Give the mask of observed positions, moved to the nearest whole pixel."""
    moved = np.broadcast_to(valid, shape)
    for axis, pixels in enumerate(shift, start=2):
        source = np.clip(np.arange(shape[axis]) - round(pixels), 0, shape[axis] - 1)
        moved = np.take(moved, source, axis=axis)
    return np.asarray(moved)


def choose(
    candidates: list[Candidate],
    reference: Array,
    observed: Array,
    *,
    level: RoundingLevel,
    valid: Mask | None,
    held: Mask | None,
    labels: NDArray[np.int64],
) -> Choice:
    """Choose the simplest candidate within one standard error of the best.

    Parameters
    ----------
    candidates : list of Candidate
        Identity first.
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        Held-out data.
    level : RoundingLevel
    valid : ndarray of bool or None
        Observed values that count.
    held : ndarray of bool, shape (*spatial), or None
        Positions that are held out; None for all.
    labels : ndarray of int64, shape (*spatial)
        Blocks that are compared in pairs, together with samples.

    Returns
    -------
    Choice
        Identity unless another is better beyond doubt.
    """
    n_samples, n_channels, *sizes = reference.shape
    spatial = tuple(sizes)
    common = tuple(
        (max(c.margins[a][0] for c in candidates), max(c.margins[a][1] for c in candidates))
        for a in range(len(spatial))
    )
    window = inside(common, spatial)
    ref = reference[window]
    counted = np.isfinite(ref)
    if held is not None:
        counted &= held[window[2:]]
    errors = []
    for candidate in candidates:
        corrected = candidate.apply(observed)[window]
        counted &= np.isfinite(corrected)
        if valid is not None:
            counted &= _valid_after(valid, candidate.shift, observed.shape)[window]
        with np.errstate(invalid="ignore"):
            errors.append(np.where(counted, ref - corrected, 0.0))
    part = np.ascontiguousarray(np.broadcast_to(labels, spatial)[window[2:]]).ravel()
    n_labels = int(np.max(labels)) + 1
    unit = (np.arange(n_samples)[:, None] * n_labels + part).ravel()
    sums = np.zeros((len(candidates), n_channels, n_samples * n_labels))
    for k, error in enumerate(errors):
        kept = np.where(counted, np.square(error), 0.0)
        for channel in range(n_channels):
            sums[k, channel] = np.bincount(
                unit, weights=kept[:, channel].ravel(), minlength=sums.shape[2]
            )
    n_unit = np.bincount(unit, weights=counted.sum(axis=1).ravel(), minlength=sums.shape[2])
    sums = sums[:, :, n_unit > 0]
    n_channel = np.maximum(counted.sum(axis=(0, *range(2, ref.ndim))), 1)
    # Each channel in units of its own error before, so that units and a junk channel do not decide.
    norm = sums[0].sum(axis=1) + n_channel * level.single**2
    sums = sums / norm[None, :, None]

    trials = []
    for k, candidate in enumerate(candidates):
        touched = candidate.touches()
        gain = float((sums[0] - sums[k])[touched].sum())
        before = float(sums[0][touched].sum())
        share = gain / before if before > 0 else 0.0
        sigmas, n_units = _sigmas(sums[0][touched].sum(axis=0), sums[k][touched].sum(axis=0))
        trials.append(
            Trial(
                candidate,
                rmse=math.sqrt(float(sums[k].sum()) / n_channels),
                share=share,
                sigmas=sigmas,
                n_units=n_units,
                is_admissible=k > 0 and share >= _LEAST_SHARE and sigmas >= _SIGMAS,
            )
        )
    admissible = [k for k, trial in enumerate(trials) if trial.is_admissible]
    if not admissible:
        return Choice(trials[0], tuple(trials))
    best = min(admissible, key=lambda k: trials[k].rmse)
    for k in sorted(admissible, key=lambda k: MODELS.index(candidates[k].model)):
        loss = (sums[k] - sums[best]).sum(axis=0)
        spread = float(loss.std(ddof=1)) * math.sqrt(loss.size) if loss.size > 1 else 0.0
        if float(loss.sum()) <= spread or k == best:
            return Choice(trials[k], tuple(trials))
    return Choice(trials[best], tuple(trials))


def _sigmas(before: Array, after: Array) -> tuple[float, float]:
    """Give how sure an improvement is, and on how many units' error it rests.

    The paired difference over its standard error is not fair to a correction that takes away
    everything: the error itself differs from unit to unit, so that few units never get far. The
    likelihood ratio of two normal models with one value per unit, sqrt(units * log(before /
    after)), is; units are counted as far as they carry the error.
    """
    gains = before - after
    power = float(np.square(before).sum())
    n_units = float(before.sum()) ** 2 / power if power > 0 else 0.0
    if gains.size < _LEAST_UNITS or n_units < _LEAST_UNITS or gains.sum() <= 0:
        return 0.0, n_units
    error = float(gains.std(ddof=1)) * math.sqrt(gains.size)
    paired = float(gains.sum()) / error if error > 0 else math.inf
    left = float(after.sum())
    ratio = math.sqrt(n_units * math.log(float(before.sum()) / left)) if left > 0 else math.inf
    return max(paired, ratio), n_units
