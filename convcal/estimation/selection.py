# SPDX-License-Identifier: BSD-3-Clause
"""The choice among corrections by data that were not fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.arrays import sample_runs
from convcal.estimation.candidates import Candidate, Data, inside
from convcal.estimation.splitting import Fold, Split
from convcal.words import MODELS

__all__ = ["Choice", "CrossFit", "Trial", "choose", "cross_fit"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A correction has to take away a fifth of the squared error. Shift and gain fitted to what they
# cannot describe take away less: a half-pixel shift of white noise 0 %, a scale of one pixel over
# the field 5 %, a ramp of 0.43 pixels to both sides 10 %.
_LEAST_SHARE = 0.2
# "Beyond doubt": improvement over samples or blocks against its standard error.
_SIGMAS = 3.0
_LEAST_UNITS = 3


@dataclass(frozen=True, eq=False)
class CrossFit:
    """A candidate, and what it is once refitted without each fold.

    Attributes
    ----------
    candidate : Candidate
        Fitted to all data.
    without : tuple of Candidate
        One per fold, fitted to what the fold does not hold out.
    """

    candidate: Candidate
    without: tuple[Candidate, ...]

    def correct(self, given: NDArray[Any], split: Split) -> NDArray[Any]:
        """Correct every value by the candidate that was fitted without it.

        Parameters
        ----------
        given : ndarray, shape (N, C, *spatial)
        split : Split

        Returns
        -------
        ndarray
            Of the shape and dtype of `given`.
        """
        result = np.empty_like(given)
        for run in sample_runs(given.shape):
            result[run] = self.correct_run(given, split, run)
        return result

    def correct_run(self, given: NDArray[Any], split: Split, run: slice) -> NDArray[Any]:
        """Correct a run of the samples alone."""
        part = given[run]
        result = np.array(part)
        for fold, candidate in zip(split.folds, self.without, strict=True):
            held = fold.held[slice(*np.searchsorted(fold.held, (run.start, run.stop)))] - run.start
            if not held.size:
                continue
            corrected = candidate.apply(part[held])
            if fold.held_mask is None:
                result[held] = corrected
            else:
                result[held] = np.where(fold.held_mask, corrected, result[held])
        return result


@dataclass(frozen=True, eq=False)
class Trial:
    """How a candidate did on held-out data.

    Attributes
    ----------
    fit : CrossFit
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

    fit: CrossFit
    rmse: float
    share: float
    sigmas: float
    n_units: float
    is_admissible: bool

    @property
    def candidate(self) -> Candidate:
        """The candidate, fitted to all data."""
        return self.fit.candidate


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen candidate among the trials."""

    chosen: Trial
    trials: tuple[Trial, ...]


def cross_fit(candidates: list[Candidate], data: Data, split: Split) -> list[CrossFit]:
    """Refit candidates without each fold.

    Parameters
    ----------
    candidates : list of Candidate
        Fitted to all data.
    data : Data
        All of it.
    split : Split
    """
    refits = []
    for fold in split.folds:
        rest = _without(data, fold)
        refits.append([candidate.refitted(rest) for candidate in candidates])
    return [
        CrossFit(c, each) for c, each in zip(candidates, zip(*refits, strict=True), strict=True)
    ]


def _without(data: Data, fold: Fold) -> Data:
    """Give the part of the data that a fold fits."""
    reference = data.reference[fold.train]
    if fold.train_mask is not None:
        reference = np.where(fold.train_mask, reference, np.nan)
    return replace(
        data,
        reference=reference,
        observed=data.observed[fold.train],
        valid=None if data.valid is None else data.valid[fold.train],
    )


def choose(
    fits: list[CrossFit],
    data: Data,
    split: Split,
    *,
    labels: NDArray[np.int64],
) -> Choice:
    """Choose the simplest candidate within one standard error of the best, by cross-validation.

    Parameters
    ----------
    fits : list of CrossFit
        Identity first.
    data : Data
        All of it.
    split : Split
        Each fold judges candidates that are fitted to the others.
    labels : ndarray of int64, shape (*spatial)
        Blocks that are compared in pairs, together with samples.

    Returns
    -------
    Choice
        Identity unless another is better beyond doubt.
    """
    candidates = [fit.candidate for fit in fits]
    reference, level = data.reference, data.level
    n_samples, n_channels, *sizes = reference.shape
    spatial = tuple(sizes)
    margins = [candidate.margins(spatial) for candidate in candidates]
    common = tuple(
        (max(m[a][0] for m in margins), max(m[a][1] for m in margins)) for a in range(len(spatial))
    )
    window = inside(common, spatial)
    part = np.ascontiguousarray(np.broadcast_to(labels, spatial)[window[2:]]).ravel()
    n_labels = int(np.max(labels)) + 1
    sums = np.zeros((len(candidates), n_channels, n_samples * n_labels))
    n_unit, n_channel = np.zeros(n_samples * n_labels), np.zeros(n_channels, dtype=np.int64)
    for run in sample_runs(reference.shape):
        units = slice(run.start * n_labels, run.stop * n_labels)
        n_units = units.stop - units.start
        unit = (np.arange(run.stop - run.start)[:, None] * n_labels + part).ravel()
        ref = reference[run][window]
        counted = np.isfinite(ref)
        errors = []
        for fit in fits:
            corrected = fit.correct_run(data.observed, split, run)[window]
            counted &= np.isfinite(corrected)
            if data.valid is not None:
                valid = data.valid[run]
                counted &= fit.candidate.moved(valid, valid.shape)[window]
            with np.errstate(invalid="ignore"):  # inf - inf
                errors.append(ref - corrected)
        for k, error in enumerate(errors):
            squares = np.square(np.where(counted, error, 0.0))
            for channel in range(n_channels):
                sums[k, channel, units] = np.bincount(
                    unit, weights=squares[:, channel].ravel(), minlength=n_units
                )
        n_unit[units] = np.bincount(unit, weights=counted.sum(axis=1).ravel(), minlength=n_units)
        n_channel += counted.sum(axis=(0, *range(2, ref.ndim)))
    sums = sums[:, :, n_unit > 0]
    n_channel = np.maximum(n_channel, 1)
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
                fits[k],
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
