# SPDX-License-Identifier: BSD-3-Clause
"""What the verdict is given from, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.addressing import find_row_stride
from convcal.estimation.arrays import BUDGET, Samples, choose_part, sample_runs
from convcal.estimation.candidates import Candidate, inside
from convcal.estimation.registration import Registration
from convcal.estimation.rounding import ROUNDINGS, RoundingLevel, fp16_step
from convcal.estimation.selection import Choice
from convcal.estimation.splitting import Split
from convcal.estimation.standard import standardised
from convcal.estimation.structure import (
    BlockShifts,
    Growth,
    find_block_shifts,
    find_growth,
    neighbour_correlation,
)
from convcal.estimation.validity import Validity
from convcal.estimation.warping import Warp, find_warp

__all__ = ["Facts"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A value that is off by more tolerances than this is wrong by itself: the tolerance is a root mean
# square, and a faithful network's errors are at most normal.
_WRONG = 4.0
# Of the reference's range: flat areas of drawn edges and letters vary by 0.002 of it.
_FLAT = 0.005


@dataclass(frozen=True, eq=False)
class Facts:
    """The two outputs, what was fitted to them, and what that leaves.

    Attributes
    ----------
    reference, observed : ndarray of float64, shape (N, C, *spatial)
    corrected : ndarray of float64, shape (N, C, *spatial)
        The observed output, every value corrected by what was fitted without it.
    split, choice, registration, validity, level, limits
        Of the estimate.
    findings : dict
        What the rules find out on their way, JSON-ready.
    """

    reference: Array
    observed: Array
    corrected: Array
    split: Split
    choice: Choice
    registration: Registration | None
    validity: Validity
    level: RoundingLevel
    limits: tuple[int, ...]
    findings: dict[str, object] = field(default_factory=dict)

    @property
    def candidate(self) -> Candidate:
        """The correction that was chosen."""
        return self.choice.chosen.candidate

    @property
    def identity(self) -> Candidate:
        """The correction that does nothing."""
        return self.choice.trials[0].candidate

    @property
    def is_corrected(self) -> bool:
        """Tell whether a correction was chosen."""
        return self.candidate.model != "identity"

    @property
    def window(self) -> tuple[slice, ...]:
        """What lies inside the margins of the chosen candidate."""
        spatial = self.reference.shape[2:]
        return inside(self.candidate.margins(spatial), spatial)

    @cached_property
    def samples(self) -> slice:
        """Evenly spaced samples of about `BUDGET` values, by which buffers are looked at."""
        n_samples = len(self.reference)
        kept = max(1, min(n_samples, BUDGET // self.reference[0].size))
        return slice(None, None, -(-n_samples // kept))

    @cached_property
    def planes(self) -> tuple[Samples | slice, ...]:
        """Evenly spaced samples, two at least, and channels, by which neighbours are looked at."""
        spatial = self.reference.shape[2:]
        part = choose_part(
            self.reference,
            n_values=BUDGET,
            shift=(0,) * len(spatial),
            least=spatial,
            least_samples=2,
            thin_channels=True,
        )
        return part.reference[:2]

    @cached_property
    def level_before(self) -> float:
        """Residual of the identity, in units of the tolerance."""
        return self.in_tolerances(_difference(self.reference, self.observed))

    @cached_property
    def level_after(self) -> float:
        """Residual of the chosen candidate inside its margins, in units of the tolerance."""
        return self.in_tolerances(self._left_of(self.corrected))

    @cached_property
    def n_lost(self) -> int:
        """Count values, over all samples, that are not finite where the reference is."""
        is_lost = np.isfinite(self.reference[self.window]) & ~np.isfinite(
            self.corrected[self.window]
        )
        return int(is_lost.sum())

    @cached_property
    def clean_residual(self) -> Array:
        """Residual of the chosen candidate inside its margins, NaN where clipped values enter."""
        corrected = self.corrected
        if self.validity.observed is not None:
            valid = np.where(self.validity.observed, self.observed, np.nan)
            corrected = self.choice.chosen.fit.correct(valid, self.split)
        return self._left_of(corrected)

    def _left_of(self, corrected: Array) -> Array:
        return _difference(self.reference[self.window], corrected[self.window])

    @cached_property
    def neighbour_correlation(self) -> float:
        """Correlation of neighbours in the clean residual, by some planes."""
        return neighbour_correlation(self.clean_residual[self.planes])

    @cached_property
    def share_clipped(self) -> float:
        """Share of the observed values that are not finite or stand at a limit."""
        n_clipped = self.validity.saturated.sum() + self.validity.nonfinite_observed.sum()
        return float(n_clipped) / self.observed.size

    @cached_property
    def is_clipped(self) -> Mask:
        """Tell which observed values are not finite, or stand at a limit that cut something off.

        Flat areas, whose values the reference repeats less exactly, pass for clipped: there the
        reference's values of the same rank are flat too.
        """
        clipped = ~np.isfinite(self.observed)
        for channel, ends in enumerate(self.validity.saturation_limits):
            if not ends:
                continue
            ref = self.reference[:, channel]
            ref = np.sort(ref[np.isfinite(ref)])
            seen = self.observed[:, channel][np.isfinite(self.observed[:, channel])]
            for end in ends:
                near = np.abs(self.observed[:, channel] - end) <= 2 * fp16_step(np.array(end))
                count = min(max(int(near.sum()), 1), ref.size)
                is_low = end - seen.min() < seen.max() - end
                ranked = ref[:count] if is_low else ref[-count:]
                base = ranked[-1] if is_low else ranked[0]
                if abs(float(np.median(ranked)) - base) > _FLAT * float(np.ptp(ref)):
                    clipped[:, channel] |= near
        return clipped

    @cached_property
    def share_lost(self) -> float:
        """Share of the values that are clipped and that the chosen candidate does not make right.

        0 where most of the clipped ones are right.
        """
        is_clipped = self.is_clipped
        if not is_clipped.any():
            return 0.0
        is_clipped = self.candidate.moved(is_clipped, is_clipped.shape)
        with np.errstate(invalid="ignore"):
            is_off = ~(np.abs(self.reference - self.corrected) <= self.allowance)
        is_clipped, lost = is_clipped[self.window], (is_clipped & is_off)[self.window]
        return float(lost.mean()) if lost.sum() > is_clipped.sum() / 2 else 0.0

    @cached_property
    def allowance(self) -> Array:
        """Error beyond which a single value is wrong, shape (N, C, *spatial).

        In channels whose values differ much in size, the larger ones are rounded to larger steps
        than the channel's mean tells.
        """
        tolerance = self.level.tolerance.reshape(1, -1, *(1,) * (self.reference.ndim - 2))
        allowance = np.empty_like(self.reference)
        for run in sample_runs(allowance.shape):
            step = ROUNDINGS / np.sqrt(12) * fp16_step(self.reference[run])
            allowance[run] = _WRONG * np.maximum(tolerance, step)
        return allowance

    @cached_property
    def is_wrong(self) -> Mask:
        """Tell which observed values are wrong by themselves, or not finite where they should be.

        Shape (N, C, *spatial).
        """
        wrong = np.isfinite(self.reference)
        for run in sample_runs(wrong.shape):
            off = np.abs(_difference(self.observed[run], self.reference[run]))
            wrong[run] &= ~(off <= self.allowance[run])
        return wrong

    def level_without(self, left_out: Mask, *, is_corrected: bool = False) -> float:
        """Give the residual without some values, in units of the tolerance."""
        residual = _difference(self.reference, self.corrected if is_corrected else self.observed)
        window = self.window if is_corrected else ()
        return self.in_tolerances(np.where(left_out, np.nan, residual)[window])

    @cached_property
    def has_signal(self) -> Mask:
        """Tell in which channels the reference varies by more than rounding."""
        signal: Mask = _spread(self.reference) > 3 * self.level.single
        return signal

    @cached_property
    def is_flat(self) -> Mask:
        """Tell which observed channels are constant."""
        flat: Mask = _spread(self.observed) == 0
        return flat

    @cached_property
    def related(self) -> float:
        """Share of variance that the two have in common, at the best shift."""
        if self.registration is not None:
            return 1 - self.registration.unexplained
        ref, obs = (
            standardised(array, np.isfinite(array))[0] for array in (self.reference, self.observed)
        )
        return float(np.median(np.square((ref * obs).mean(axis=0))))

    def in_tolerances(self, residual: Array) -> float:
        """Give a residual in units of the tolerance: of all, or half of the worst channel's."""
        axes = (0, *range(2, residual.ndim))
        squares, count = np.zeros((2, residual.shape[1]))
        for run in sample_runs(residual.shape) if residual.size else []:
            finite = np.isfinite(residual[run])
            squares += np.square(np.where(finite, residual[run], 0.0)).sum(axis=axes)
            count += finite.sum(axis=axes)
        rms = np.sqrt(squares / np.maximum(count, 1))
        # An output that is zero throughout has no rounding: any difference is beyond it.
        tolerance = np.where(
            self.level.tolerance > 0, self.level.tolerance, np.finfo(np.float64).tiny
        )
        relative = rms / tolerance
        return float(max(np.sqrt(np.mean(relative**2)), relative.max() / 2))

    @cached_property
    def row_stride(self) -> int | None:
        """The stride of rows that were read as if they followed each other."""
        return find_row_stride(self.reference[self.samples], self.observed[self.samples])

    def warp(self) -> Warp | None:
        """Find out whether every position is displaced by an amount of its own, once corrected."""
        reference, corrected = self.reference[self.planes], self.corrected[self.planes]
        if not (np.isfinite(reference).all() and np.isfinite(corrected).all()):
            return None
        ref, _, spread = standardised(reference, None)
        column = (1, -1) + (1,) * (ref.ndim - 2)
        return find_warp(ref, ref + (corrected - reference) / spread.reshape(column))

    def growth(self, least: tuple[float, ...]) -> Growth | None:
        """Find out whether the shift grows with position, by `least` pixels over each axis."""
        return find_growth(self.block_shifts, least=least)

    @cached_property
    def block_shifts(self) -> BlockShifts:
        """The shifts of blocks by themselves."""
        ref, _, spread = standardised(self.reference, self.validity.reference)
        # Clipped values do not count, but zeros in their place would put edges there.
        finite = np.isfinite(self.observed)
        obs, _, _ = standardised(self.observed, None if finite.all() else finite)
        return find_block_shifts(
            ref,
            obs,
            limits=self.limits,
            floor=np.square(self.level.single / spread),
            valid_reference=self.validity.reference,
            valid_observed=self.validity.observed,
        )


def _spread(array: Array) -> Array:
    """Give each channel's standard deviation over its finite values; 0 where it has none."""
    result = np.zeros(array.shape[1])
    for channel in range(array.shape[1]):
        values = array[:, channel]
        values = values[np.isfinite(values)]
        if values.size:
            result[channel] = float(values.std()) if np.ptp(values) > 0 else 0.0
    return result


def _difference(reference: Array, other: Array) -> Array:
    with np.errstate(invalid="ignore"):  # inf - inf: not finite, not counted
        return np.asarray(reference - other)
