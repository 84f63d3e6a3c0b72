# SPDX-License-Identifier: BSD-3-Clause
"""The corrections that are tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.arithmetic import Resampling, correct, rows_found, sinc_taps
from convcal.estimation.affine import AffineFit, fit_affine
from convcal.estimation.arrays import BUDGET, choose_part
from convcal.estimation.interpolation import (
    Filter,
    axis_filter,
    filter_margins,
    fit_filters,
    tap_count,
)
from convcal.estimation.registration import Registration
from convcal.estimation.rounding import RoundingLevel
from convcal.estimation.standard import MAD_TO_SIGMA
from convcal.filters import SincFilter

__all__ = [
    "Candidate",
    "Data",
    "fit_behind",
    "inside",
    "propose",
    "scaled",
    "separated",
]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Of one channel's squared error at a given shift; the rest may be what the taps leave.
_LEAST_CHANNEL_SHARE = 0.02
_SIGMAS = 3.0
# Share of variance that observed and reference must have in common for a gain to mean anything.
_LEAST_COMMON = 0.25
# Share of the power of white noise that fitted taps keep, of what a windowed sinc does.
_LEAST_POWER = 0.6
# Values that taps are fitted to: a dozen numbers need no more.
_TAP_VALUES = 2**18


@dataclass(frozen=True, eq=False)
class Data:
    """What corrections are fitted to.

    Attributes
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
        The reference is NaN where it is held out.
    valid : ndarray of bool or None
        Observed values that count.
    level : RoundingLevel
    is_robust : bool
        Fit gain and bias so that gross outliers do not count.
    """

    reference: Array
    observed: Array
    valid: Mask | None
    level: RoundingLevel
    is_robust: bool


@dataclass(frozen=True, eq=False)
class Candidate:
    """One correction: what is done along each axis, then gain and bias per channel.

    Attributes
    ----------
    model : str
        One of `convcal.words.MODELS`.
    shift : tuple of float
    filters : tuple of Filter
    gain, bias : ndarray of float64, shape (C,)
    resampling : tuple of (Resampling or None), or None
        Along axes that are scaled, what takes the place of the filter.
    rows : (int, int) or None
        Length and stride of rows that were read as if they followed each other.
    has_fitted_taps : bool
    """

    model: str
    shift: tuple[float, ...]
    filters: tuple[Filter, ...]
    gain: Array
    bias: Array
    resampling: tuple[Resampling | None, ...] | None = None
    rows: tuple[int, int] | None = None
    has_fitted_taps: bool = False

    def margins(self, spatial: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Give the positions at the start and end of each axis without a full source."""
        margins = list(filter_margins(self.filters))
        for axis, step in enumerate(self.resampling or ()):
            if step is not None:
                first, taps = sinc_taps(spatial[axis], step)
                outside = (first < 0, first + taps.shape[1] > spatial[axis])
                margins[axis] = (int(outside[0].sum()), int(outside[1].sum()))
        if self.rows is not None:
            n_rows = spatial[-2] if len(spatial) > 1 else 1
            start, end = margins[-2]
            margins[-2] = start, end + n_rows - rows_found(n_rows, *self.rows)
        return tuple(margins)

    def apply(self, observed: NDArray[Any]) -> NDArray[Any]:
        """Correct an array (N, C, *spatial) as the post-processor does, in its own dtype."""
        return correct(
            observed,
            filters=self.filters,
            gain=self.gain.tolist(),
            bias=self.bias.tolist(),
            resampling=self.resampling,
            rows=self.rows,
        )

    def moved(self, mask: Mask, shape: tuple[int, ...]) -> Mask:
        """Move a mask of observed positions to where their values go, the edge repeated.

        Parameters
        ----------
        mask : ndarray of bool
            Broadcast to `shape`.
        shape : tuple of int
            (N, C, *spatial).

        Returns
        -------
        ndarray of bool
            True where the nearest position that a corrected value is taken from is true.
        """
        moved = np.broadcast_to(mask, shape)
        if self.rows is not None:
            ones, zeros = (1.0,) * shape[1], (0.0,) * shape[1]
            still = ((0, (1.0,)),) * (len(shape) - 2)
            moved = moved.astype(np.uint8)
            moved = correct(moved, filters=still, gain=ones, bias=zeros, rows=self.rows) > 0
        steps = self.resampling or (None,) * len(self.shift)
        for axis, (pixels, step) in enumerate(zip(self.shift, steps, strict=True), start=2):
            positions = np.arange(shape[axis])
            if step is None:
                source = positions - round(pixels)
            else:
                scale, origin, shift = step[:3]
                source = np.rint(origin + scale * (positions - origin) - shift).astype(np.int64)
            moved = np.take(moved, np.clip(source, 0, shape[axis] - 1), axis=axis)
        return np.asarray(moved)

    @property
    def moves(self) -> bool:
        """Whether it does anything but scale and offset values."""
        return any(self.shift) or self.resampling is not None or self.rows is not None

    def touches(self) -> Mask:
        """Tell which channels it changes."""
        if self.moves:
            return np.ones(len(self.gain), dtype=bool)
        touched: Mask = (self.gain != 1) | (self.bias != 0)
        return touched

    def refitted(self, data: Data) -> Candidate:
        """Give the same correction with gains, biases and taps that come from other data."""
        result = self
        if self.has_fitted_taps:
            result = replace(result, filters=_fitted_filters(result, data))
        changed = (self.gain != 1) | (self.bias != 0)
        if not changed.any():
            return result
        fit, moved = fit_behind(result, data)
        fitted = changed & ~fit.is_constant
        # A gain of 1 stays 1; its bias is the mean of what is left.
        gain = np.where(fitted & (self.gain != 1), fit.gain, self.gain)
        bias = np.where(fitted, fit.bias, self.bias)
        for channel in np.flatnonzero(fitted & (self.gain == 1)):
            bias[channel] = _offset(moved.reference[:, channel], moved.observed[:, channel])
        return replace(result, gain=gain, bias=bias)


def propose(data: Data, *, registration: Registration | None, model: str) -> list[Candidate]:
    """Fit the candidates.

    Parameters
    ----------
    data : Data
    registration : Registration or None
        None without spatial axes.
    model : str
        ``auto``, or one of `convcal.words.MODELS`, which is then tried against identity alone.

    Returns
    -------
    list of Candidate
        Identity first.
    """
    spatial = data.reference.shape[2:]
    n_channels = data.reference.shape[1]
    ones, nothing = np.ones(n_channels), np.zeros(n_channels)

    def plain(name: str, shift: tuple[float, ...]) -> Candidate:
        filters = tuple(
            axis_filter(s, n_taps=tap_count(size) or 2)
            for s, size in zip(shift, spatial, strict=True)
        )
        return Candidate(name, shift, filters, ones, nothing)

    geometries = [plain("identity", (0.0,) * len(spatial))]
    if registration is not None:
        whole = tuple(float(s) for s in registration.whole_shift)
        if any(whole):
            geometries.append(plain("shift", whole))
        if not all(registration.is_whole):
            fine = tuple(
                s if tap_count(size) else w
                for s, w, size in zip(registration.shift, whole, spatial, strict=True)
            )
            if fine != whole and any(s != round(s) for s in fine):
                geometries.append(plain("subpixel-shift", fine))
    candidates = [c for geometry in geometries for c in _with_affine(geometry, data)]
    if model != "auto":
        candidates = [c for c in candidates if c.model in {"identity", model}]
    return candidates


def scaled(
    growth: Sequence[float],
    fixed_point: Sequence[float],
    shift: Sequence[float],
    data: Data,
) -> list[Candidate]:
    """Give the corrections of a displacement that grows with position.

    Parameters
    ----------
    growth : sequence of float
        By how many pixels the shift changes from the first position of each axis to the last; 0
        where it does not.
    fixed_point : sequence of float
        Where it is 0; of no account along axes without growth.
    shift : sequence of float
        Along axes without growth.
    data : Data
    """
    spatial = data.reference.shape[2:]
    resampling: list[Resampling | None] = []
    filters: list[Filter] = []
    shifts: list[float] = []
    for pixels, fixed, constant, size in zip(growth, fixed_point, shift, spatial, strict=True):
        if pixels:
            sinc = SincFilter.for_size(size)
            resampling.append((1 - pixels / (size - 1), fixed, 0.0, sinc.n_taps, sinc.beta))
            shifts.append(0.0)
            filters.append((0, (1.0,)))
        else:
            nearest = float(round(constant))
            fine = constant if abs(constant - nearest) > 0.02 and tap_count(size) else nearest
            resampling.append(None)
            shifts.append(fine)
            filters.append(axis_filter(fine, n_taps=tap_count(size) or 2))
    n_channels = data.reference.shape[1]
    geometry = Candidate(
        "scale",
        tuple(shifts),
        tuple(filters),
        np.ones(n_channels),
        np.zeros(n_channels),
        resampling=tuple(resampling),
    )
    return [c for c in _with_affine(geometry, data) if not c.has_fitted_taps]


def separated(stride: int, data: Data) -> list[Candidate]:
    """Give the correction of rows that were read as if they followed each other."""
    spatial = data.reference.shape[2:]
    geometry = Candidate(
        "row-stride",
        (0.0,) * len(spatial),
        ((0, (1.0,)),) * len(spatial),
        np.ones(1),
        np.zeros(1),
        rows=(spatial[-1], stride),
    )
    return _with_affine(geometry, data)


def _with_affine(geometry: Candidate, data: Data) -> list[Candidate]:
    """Give a geometry, the same with gain and bias where they matter, and with fitted taps.

    Nothing where its margins are all of an axis.
    """
    spatial = data.reference.shape[2:]
    if any(
        sum(ends) >= size for ends, size in zip(geometry.margins(spatial), spatial, strict=True)
    ):
        return []
    fit, moved = fit_behind(geometry, data)
    gain, bias = _material(fit, moved.reference, moved.observed, moved.valid, data.level)
    is_affine = bool((gain != 1).any() or (bias != 0).any())
    candidates = [geometry]
    label = "affine" if geometry.model == "identity" else f"{geometry.model}-affine"
    if is_affine:
        candidates.append(replace(geometry, model=label, gain=gain, bias=bias))
    if any(len(taps) > 1 for _, taps in geometry.filters):
        filters = _fitted_filters(candidates[-1], data)
        # Taps that take less of what they are given smooth noise away, and move nothing better.
        powers = [
            [sum(tap**2 for tap in taps) for _, taps in each]
            for each in (filters, geometry.filters)
        ]
        if all(mine > _LEAST_POWER * its for mine, its in zip(*powers, strict=True)):
            candidates.append(replace(candidates[-1], filters=filters, has_fitted_taps=True))
    return candidates


def fit_behind(candidate: Candidate, data: Data) -> tuple[AffineFit, Data]:
    """Fit gain and bias behind a candidate's geometry, inside its margins.

    Returns
    -------
    AffineFit
    Data
        What it was fitted to.
    """
    spatial = data.reference.shape[2:]
    ones, nothing = np.ones(len(candidate.gain)), np.zeros(len(candidate.gain))
    window = inside(candidate.margins(spatial), spatial)
    valid = data.valid
    if valid is not None:
        valid = candidate.moved(valid, data.reference.shape)[window]
    moved = replace(candidate, gain=ones, bias=nothing).apply(data.observed)[window]
    part = replace(data, reference=data.reference[window], observed=moved, valid=valid)
    fit = fit_affine(
        part.reference,
        part.observed,
        valid=part.valid,
        # Three roundings: less signal than that cannot tell a gain.
        least_signal=3 * data.level.single,
        robust=data.is_robust,
    )
    return fit, part


def _fitted_filters(candidate: Candidate, data: Data) -> tuple[Filter, ...]:
    """Fit the taps of a candidate, every channel in units of what it leaves."""
    ref, obs = data.reference, data.observed
    if ref.size > _TAP_VALUES:
        kept = np.linspace(0, len(ref) - 1, max(1, len(ref) * _TAP_VALUES // ref.size))
        chosen = kept.round().astype(int)
        ref, obs = ref[chosen], obs[chosen]
    if ref.size > BUDGET:
        part = choose_part(ref, n_values=_TAP_VALUES, shift=(0,) * (ref.ndim - 2)).reference
        ref, obs = ref[part], obs[part]
    column = (1, -1) + (1,) * (ref.ndim - 2)
    good = np.isfinite(ref) & np.isfinite(obs)
    obs = np.where(np.isfinite(obs), obs, 0.0)
    changed = obs * candidate.gain.reshape(column) + candidate.bias.reshape(column)
    target = np.where(good, ref, changed)
    spatial = ref.shape[2:]
    window = inside(candidate.margins(spatial), spatial)
    left = np.where(good, target - candidate.apply(obs), 0.0)[window]
    axes = (0, *range(2, ref.ndim))
    spread = np.sqrt(np.square(left).mean(axis=axes)) if left.size else np.ones(ref.shape[1])
    spread = np.hypot(spread, data.level.single)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1.0), 0.0).reshape(column)
    middle = target.mean(axis=axes, keepdims=True)
    return fit_filters(
        (target - middle) * scale,
        (changed - middle) * scale,
        candidate.filters,
        noise=1e-3,
    )


def _offset(ref: Array, obs: Array) -> float:
    """Give the mean of the difference, or its median where outliers make the mean."""
    error = (ref - obs)[np.isfinite(ref) & np.isfinite(obs)]
    if not error.size:
        return 0.0
    middle = float(np.median(error))
    return middle if _is_skewed(error, middle) else float(np.mean(error))


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
            g, b = 1.0, _offset(ref, obs)
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
    bulk = MAD_TO_SIGMA * float(np.median(np.abs(error - median)))
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
