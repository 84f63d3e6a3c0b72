# SPDX-License-Identifier: BSD-3-Clause
"""From two outputs to a verdict, a correction and its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from convcal.arithmetic import Resampling
from convcal.errors import InputError
from convcal.estimation.arrays import BUDGET, check_arrays, check_limits, choose_part, sample_runs
from convcal.estimation.candidates import (
    Candidate,
    Data,
    fit_behind,
    inside,
    propose,
    scaled,
    separated,
)
from convcal.estimation.evidence import gather_evidence
from convcal.estimation.facts import Facts
from convcal.estimation.interpolation import Filter
from convcal.estimation.judgement import Judgement
from convcal.estimation.metrics import Metrics, default_range, measure, measure_channels
from convcal.estimation.outliers import find_outliers
from convcal.estimation.registration import Registration, register
from convcal.estimation.rounding import RoundingLevel, rounding_level
from convcal.estimation.selection import Choice, CrossFit, choose, cross_fit
from convcal.estimation.splitting import Split, content_order, split_samples, unit_labels
from convcal.estimation.standard import clipped, standardised
from convcal.estimation.structure import CLEAR_GROWTH
from convcal.estimation.validity import Validity, find_valid
from convcal.estimation.verdict import judge
from convcal.records import is_number
from convcal.words import MODELS

__all__ = ["Estimate", "estimate"]

Array = NDArray[np.float64]

# Samples that the registration looks at, if only at windows of them: of fewer, each may be empty.
_LEAST_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class Estimate:
    """What is wrong with an observed output and what corrects it.

    ``corrected[n, c, i] = gain[c] * (sum over k of taps[k] * observed[n, c, i + offset + k]) +
    bias[c]``, one filter or resampling per spatial axis, the border replicated, once rows have
    been put right.

    Attributes
    ----------
    verdict : str
        ``identical``, ``correctable``, ``partly-correctable``, ``not-correctable`` or
        ``not-identifiable``; all but the second and third carry the identity.
    reason : str
        One sentence, with the numbers that decided.
    family : str
        The kind of error: ``identical``, ``rounding``, ``shift``, ``sub-pixel-shift``,
        ``affine``, ``scale``, ``grid``, ``row-stride``, ``flat-offset``, ``stride-collapse``,
        ``channel-order``, ``dead-channel``, ``edge``, ``element``, ``saturation``, ``cliff``,
        ``flush``, ``tabulated``, ``prefix``, ``noise``, ``unstructured``, ``periodic``,
        ``constant``, ``too-few-data`` or ``non-finite``.
    model : str
        The chosen one of `convcal.words.MODELS`.
    shift : tuple of float
        Pixels per spatial axis.
    filters : tuple of (int, tuple of float)
        Offset and taps per spatial axis.
    resampling : tuple of (Resampling or None), or None
        Per spatial axis, scale, origin, shift, number of taps and beta where it is scaled.
    rows : (int, int) or None
        Length and stride of rows that were read as if they followed each other.
    gain, bias : tuple of float
        One per channel.
    margins : tuple of (int, int)
        Positions at the start and end of each axis without a full source.
    evidence : dict
        JSON-ready.
    metrics_before, metrics_after : Metrics
        Inside the margins; after what the post-processor gives, in the dtype of the observed
        output, every value corrected by what was fitted without it.
    metrics_before_full, metrics_after_full : Metrics
        The same over the whole output.
    channel_metrics_before, channel_metrics_after : tuple of Metrics
        As `metrics_before` and `metrics_after`, per channel.
    """

    verdict: str
    reason: str
    family: str
    model: str
    shift: tuple[float, ...]
    filters: tuple[Filter, ...]
    resampling: tuple[Resampling | None, ...] | None
    rows: tuple[int, int] | None
    gain: tuple[float, ...]
    bias: tuple[float, ...]
    margins: tuple[tuple[int, int], ...]
    evidence: dict[str, Any] = field(repr=False)
    metrics_before: Metrics = field(repr=False)
    metrics_after: Metrics = field(repr=False)
    metrics_before_full: Metrics = field(repr=False)
    metrics_after_full: Metrics = field(repr=False)
    channel_metrics_before: tuple[Metrics, ...] = field(repr=False)
    channel_metrics_after: tuple[Metrics, ...] = field(repr=False)


def estimate(
    reference: ArrayLike,
    observed: ArrayLike,
    *,
    max_shift: int | Sequence[int] | None = None,
    model: str = "auto",
    holdout: float = 0.25,
    robust: bool = False,
    data_range: float | None = None,
) -> Estimate:
    """Estimate what is wrong with an observed output and whether it can be corrected.

    Parameters
    ----------
    reference, observed : array_like, shape (N, C, *spatial)
        Trusted outputs and the ones to be corrected: N samples, C channels, none to three
        spatial axes; of one shape, real. They are not written to. Values below 1e-75 in size count
        as zero, and those above 1e75 are refused.
    max_shift : int, sequence of int, or None
        Largest shift searched, per axis or for all. None: a quarter of the size, at least 4
        pixels (half of the smallest sizes) and at most 32.
    model : str
        ``auto``, or the one of `convcal.words.MODELS` to consider; it is still emitted only if it
        is better than identity beyond doubt.
    holdout : float
        Share of the samples that is held out at a time, above 0 and at most 0.5: one over the
        number of folds of the cross-validation. With fewer than 4 samples the folds are of blocks
        of positions instead.
    robust : bool
        Fit gain and bias by a method that gross outliers cannot move.
    data_range : float or None
        Peak for the PSNR. None: 255 for uint8 (the type's range for other integers of 8 or 16
        bits), else the range of the finite reference.

    Returns
    -------
    Estimate
        The same for the same samples in any order. Too few values to prove anything, or a
        reference without signal, give ``not-identifiable``.

    Raises
    ------
    InputError
        If the arrays or a parameter cannot be used; the message names it.

    Notes
    -----
    Up to 2**22 values of a role are looked at together, all but for fitted taps. Of larger outputs
    some things are seen by a part, chosen by content alone:

    - the shift, its errors and what else is under ``registration`` in the evidence, and the
      intervals of gain and bias: by about 2**22 values, of evenly spaced samples and, where eight
      of them are more, of windows on these, those where the reference varies most;
    - fitted taps: of any output by evenly spaced samples of 2**18 values, one at least; where one
      has more than 2**22, by such a window;
    - rows or a buffer that were read from the wrong element: by evenly spaced samples of as many
      values, one at least;
    - positions displaced by amounts of their own, and whether neighbours are related in what is
      left: by whole planes of as many values, from two samples at least.

    All else is of all values, sample by sample where they are many: gain and bias, the choice,
    outliers, clipped values, the levels before and after, and the metrics. Time and memory grow
    with the number of values; for any number of samples there is `OutputStatistics`.

    Examples
    --------
    >>> from convcal.datasets import make_pair
    >>> pair = make_pair((64, 64), shift=(-4, 2), seed=1)
    >>> result = estimate(pair.reference, pair.observed)
    >>> result.verdict, result.family, result.shift
    ('correctable', 'shift', (-4.0, 2.0))
    """
    ref_given, obs_given = check_arrays(reference, observed)
    spatial = ref_given.shape[2:]
    limits = check_limits(max_shift, spatial)
    if model != "auto" and model not in MODELS:
        raise InputError(f"model is {model!r}; accepted are 'auto', {', '.join(map(repr, MODELS))}")
    if not is_number(holdout) or not 0 < holdout <= 0.5:
        raise InputError(f"holdout is {holdout!r}; accepted is a share above 0 and at most 0.5")
    peak = _check_range(data_range, ref_given)
    # The products are small and many: a second thread of the BLAS only spins between them.
    with threadpool_limits(1, user_api="blas"):
        return _estimate(
            ref_given,
            obs_given,
            limits=limits,
            model=model,
            holdout=holdout,
            robust=robust,
            peak=peak,
        )


def _estimate(
    ref_given: NDArray[Any],
    obs_given: NDArray[Any],
    *,
    limits: tuple[int, ...],
    model: str,
    holdout: float,
    robust: bool,
    peak: float,
) -> Estimate:
    spatial = ref_given.shape[2:]
    dtypes = (ref_given.dtype, obs_given.dtype)
    order = content_order(ref_given, obs_given)
    obs_given = obs_given[order]
    ref, obs = ref_given[order].astype(np.float64), obs_given.astype(np.float64)

    level = rounding_level(ref, dtypes=dtypes)
    validity = find_valid(ref, obs)
    split = split_samples(ref.shape, holdout=holdout)
    found = _Registered()
    if spatial:
        # Outliers pull the first registration: what is far off even so is left out, the rest is
        # found closer to the next one, and the last one is without them.
        for draw_in, slack in ((robust, 0.5), (False, 0.1), (False, None)):
            found = _register(
                ref, obs, validity=validity, limits=limits, level=level, robust=draw_in, slack=slack
            )
            if found.outliers is None and not draw_in:
                break
            if found.outliers is not None:
                validity = validity.leaving_out(found.outliers)
    registration = found.registration
    data = Data(ref, obs, validity.observed, level, robust)
    candidates = propose(data, registration=registration, model=model)
    fits = cross_fit(candidates, data, split)
    choice, judgement = _judged(
        fits, data, split, model=model, registration=registration, validity=validity, limits=limits
    )
    chosen = judgement.candidate
    # What the post-processor gives: in the output's own dtype, its roundings included.
    given = obs_given.astype(np.uint8) if obs_given.dtype.kind == "b" else obs_given
    corrected = given
    if judgement.is_corrected:
        corrected = choice.chosen.fit.correct(given, split)
    margins = chosen.margins(spatial)
    window = inside(margins, spatial)
    cut_ref, cut = ref[window], (given[window], corrected[window])
    before, after = (measure(cut_ref, x, data_range=peak) for x in cut)
    before_full, after_full = (measure(ref, x, data_range=peak) for x in (given, corrected))
    before_channels, after_channels = (measure_channels(cut_ref, x, data_range=peak) for x in cut)
    return Estimate(
        verdict=judgement.verdict,
        reason=judgement.reason,
        family=judgement.family,
        model=chosen.model,
        shift=chosen.shift,
        filters=chosen.filters,
        resampling=chosen.resampling,
        rows=chosen.rows,
        gain=tuple(float(g) for g in chosen.gain),
        bias=tuple(float(b) for b in chosen.bias),
        margins=margins,
        evidence=gather_evidence(
            split=split,
            choice=choice,
            registration=registration,
            line=found.line,
            validity=validity,
            level=level,
            fit=fit_behind(choice.chosen.candidate, data)[0],
            judgement=judgement,
            limits=limits,
        ),
        metrics_before=before,
        metrics_after=after,
        metrics_before_full=before_full,
        metrics_after_full=after_full,
        channel_metrics_before=before_channels,
        channel_metrics_after=after_channels,
    )


def _judged(
    fits: list[CrossFit],
    data: Data,
    split: Split,
    *,
    model: str,
    registration: Registration | None,
    validity: Validity,
    limits: tuple[int, ...],
) -> tuple[Choice, Judgement]:
    """Choose among the candidates, and those that the facts call for, and give the verdict."""
    labels = unit_labels(data.reference.shape[2:], n_samples=len(data.reference))

    def facts_of(choice: Choice) -> Facts:
        return Facts(
            reference=data.reference,
            observed=data.observed,
            corrected=choice.chosen.fit.correct(data.observed, split),
            split=split,
            choice=choice,
            registration=registration,
            validity=validity,
            level=data.level,
            limits=limits,
        )

    choice = choose(fits, data, split, labels=labels)
    facts = facts_of(choice)
    structured = _structured(facts, data, model=model)
    if structured:
        fits = [*fits, *cross_fit(structured, data, split)]
        choice = choose(fits, data, split, labels=labels)
        facts = facts_of(choice)
    return choice, judge(facts)


def _structured(facts: Facts, data: Data, *, model: str) -> list[Candidate]:
    """Give the corrections of a scale or a row stride, where what is left calls for them."""
    if facts.registration is None or facts.level_after <= 1 or not facts.has_signal.any():
        return []
    found: list[Candidate] = []
    if facts.row_stride is not None:
        if data.reference[0, ..., 0, 0].size == 1 and data.reference.ndim > 3:
            found = separated(facts.row_stride, data)
    else:
        growth = facts.growth((CLEAR_GROWTH,) * len(facts.limits))
        if growth is not None:
            found = scaled(growth.growth, growth.fixed_point, growth.shift, data)
    return [c for c in found if model in {"auto", c.model}]


def _check_range(data_range: float | None, reference: NDArray[np.generic]) -> float:
    if data_range is not None:
        if not is_number(data_range) or not 0 < data_range < np.inf:
            raise InputError(f"data_range is {data_range!r}; accepted is a finite number above 0")
        return float(data_range)
    return default_range(reference)


@dataclass(frozen=True, eq=False)
class _Registered:
    """A registration, gain and bias with their errors, and the values that contradict both."""

    registration: Registration | None = None
    line: tuple[Array, Array, Array, Array] | None = None
    outliers: NDArray[np.bool_] | None = None


def _register(
    ref: Array,
    obs: Array,
    *,
    validity: Validity,
    limits: tuple[int, ...],
    level: RoundingLevel,
    robust: bool,
    slack: float | None,
) -> _Registered:
    """Register a part of both outputs, in units of each channel's spread; look for outliers.

    They are looked for, with a slack, among all values. A robust registration draws gross values
    in before it looks; whether they are outliers is judged by what they were.
    """
    part = choose_part(
        ref,
        n_values=BUDGET,
        shift=(0,) * len(limits),
        least=[3 * limit + 32 for limit in limits],
        least_samples=_LEAST_SAMPLES,
    ).reference
    masks = [
        None if mask is None else mask[part] for mask in (validity.reference, validity.observed)
    ]
    (standard_ref, *ref_unit), (standard_obs, *obs_unit) = (
        standardised(clipped(array[part], mask) if robust else array[part], mask)
        for array, mask in zip((ref, obs), masks, strict=True)
    )
    floor = np.square(level.single / ref_unit[1])
    found = register(
        standard_ref,
        standard_obs,
        limits=limits,
        floor=floor,
        valid_reference=masks[0],
        valid_observed=masks[1],
    )
    if found.line is None:
        return _Registered(found)
    outliers = None
    if slack is not None:
        column = (1, -1) + (1,) * (ref.ndim - 2)
        is_flat = ~standard_ref.any(axis=(0, *range(2, ref.ndim)))
        ref_scale = np.where(is_flat, 0.0, 1 / ref_unit[1]).reshape(column)
        for run in sample_runs(ref.shape):
            valid = [
                None if mask is None else mask[run]
                for mask in (validity.reference, validity.observed)
            ]
            own = clipped(ref[run], valid[0]) if robust else ref[run]
            own = (own - ref_unit[0].reshape(column)) * ref_scale
            gross = find_outliers(
                own if valid[0] is None else np.where(valid[0], own, 0.0),
                (obs[run] - obs_unit[0].reshape(column)) / obs_unit[1].reshape(column),
                shift=found.raw_shift,
                line=None if robust else found.line,
                floor=floor,
                masks=(valid[0], valid[1]),
                slack=slack,
            )
            if gross is not None:
                if outliers is None:
                    outliers = np.zeros(ref.shape, dtype=bool)
                outliers[run] = gross
    line = found.line.gains((ref_unit[0], ref_unit[1]), (obs_unit[0], obs_unit[1]))
    return _Registered(found, line, outliers)
