# SPDX-License-Identifier: BSD-3-Clause
"""The choice among corrections by data that were not fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.candidates import Candidate, Data, inside, moved_mask
from convcal.estimation.splitting import Fold, Split
from convcal.words import MODELS

__all__ = ["Choice", "Trial", "choose", "corrected_without"]

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


def fold_data(data: Data, fold: Fold) -> Data:
    """Give the part of the data that a fold fits."""
    reference = data.reference[fold.train]
    if fold.train_mask is not None:
        reference = np.where(fold.train_mask, reference, np.nan)
    return Data(
        reference,
        data.observed[fold.train],
        None if data.valid is None else data.valid[fold.train],
        data.level,
        data.is_robust,
    )


def corrected_without(
    candidate: Candidate, data: Data, split: Split, *, given: NDArray[Any]
) -> NDArray[Any]:
    """Correct every value by a candidate that was fitted without it.

    Parameters
    ----------
    candidate : Candidate
    data : Data
        All of it.
    split : Split
    given : ndarray, shape (N, C, *spatial)
        What is corrected.

    Returns
    -------
    ndarray
        Of the shape and dtype of `given`.
    """
    result = np.array(given)
    for fold in split.folds:
        part = candidate.refitted(fold_data(data, fold)).apply(given[fold.held])
        if fold.held_mask is None:
            result[fold.held] = part
        else:
            result[fold.held] = np.where(fold.held_mask, part, result[fold.held])
    return result


def choose(
    candidates: list[Candidate],
    data: Data,
    split: Split,
    *,
    labels: NDArray[np.int64],
) -> Choice:
    """Choose the simplest candidate within one standard error of the best, by cross-validation.

    Parameters
    ----------
    candidates : list of Candidate
        Identity first; fitted to all data.
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
    reference, level = data.reference, data.level
    n_samples, n_channels, *sizes = reference.shape
    spatial = tuple(sizes)
    margins = [candidate.margins(spatial) for candidate in candidates]
    common = tuple(
        (max(m[a][0] for m in margins), max(m[a][1] for m in margins)) for a in range(len(spatial))
    )
    window = inside(common, spatial)
    ref = reference[window]
    counted = np.isfinite(ref)
    errors = []
    for candidate in candidates:
        corrected = corrected_without(candidate, data, split, given=data.observed)[window]
        counted &= np.isfinite(corrected)
        if data.valid is not None:
            counted &= moved_mask(data.valid, candidate.shift, reference.shape)[window]
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
