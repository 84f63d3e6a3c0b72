# SPDX-License-Identifier: BSD-3-Clause
"""Assess one output: from paired arrays to a verdict and a correction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from convcal.calibration import OutputCalibration, Verdict
from convcal.correction import AxisFilter, Correction, SincFilter
from convcal.errors import InputError
from convcal.estimation import Estimate, OutputStatistics, estimate, estimate_statistics
from convcal.layout import Layout, excess, without_excess
from convcal.records import is_number
from convcal.words import MODELS

__all__ = ["FitOptions", "assess", "assess_statistics"]


@dataclass(frozen=True)
class FitOptions:
    """How corrections are fitted.

    Parameters
    ----------
    max_shift : int, optional
        How far the search goes, in pixels per spatial axis; by default a quarter of the size,
        at least 4 and at most 32.
    model : str
        Which correction is considered, one of `convcal.words.MODELS`; ``'auto'`` chooses on
        held-out samples.
    holdout : float
        The share of the samples that is held out at a time and decides, above 0 and at most 0.5;
        each is held out once, and what is emitted is fitted to all.
    robust : bool
        Fit gain and bias so that gross outliers do not count.
    data_range : float, optional
        The peak of the PSNR; by default the range of the reference.

    Raises
    ------
    InputError
        If one of them cannot be used; said here, because running models may take minutes.
    """

    max_shift: int | None = None
    model: str = "auto"
    holdout: float = 0.25
    robust: bool = False
    data_range: float | None = None

    def __post_init__(self) -> None:
        if self.model not in ("auto", *MODELS):
            raise InputError(
                f"model is {self.model!r}; {', '.join(('auto', *MODELS))} are accepted"
            )
        if not is_number(self.holdout) or not 0 < self.holdout <= 0.5:
            raise InputError(
                f"holdout is {self.holdout!r}; a share above 0 and at most 0.5 is accepted"
            )
        if not isinstance(self.robust, bool | np.bool_):
            raise InputError(f"robust is {self.robust!r}; True or False is accepted")
        try:
            limits = np.atleast_1d(0 if self.max_shift is None else self.max_shift)
        except ValueError:  # nested sequences of unequal lengths
            limits = np.empty(0)
        if limits.dtype.kind not in "iu" or limits.size == 0 or limits.min() < 0:
            raise InputError(
                f"max_shift is {self.max_shift!r}; whole numbers of at least 0 are accepted"
            )
        if self.data_range is not None and (
            not is_number(self.data_range) or not 0 < self.data_range < np.inf
        ):
            raise InputError(
                f"data_range is {self.data_range!r}; a finite number above 0 is accepted"
            )


def assess(
    reference: np.ndarray[Any, Any],
    observed: np.ndarray[Any, Any],
    *,
    layout: Layout,
    dtype: str,
    options: FitOptions | None = None,
) -> OutputCalibration:
    """Find out what is wrong with one output, and what corrects it.

    Parameters
    ----------
    reference, observed : ndarray
        Paired outputs, (N, channels, *space), of the same shape, or the observed ones longer.
    layout : Layout
        What the axes of the output are where the correction will be applied.
    dtype : str
        The observed output's dtype there.
    options : FitOptions, optional
        How to fit.

    Returns
    -------
    OutputCalibration
        With the identity unless a correction improves held-out samples beyond doubt. Integer
        outputs that are not images are labels: compared, never corrected.

    Raises
    ------
    InputError
        If the arrays do not fit each other or cannot be used.
    """
    crop = excess(reference.shape, observed.shape)
    observed = without_excess(observed, reference.shape)
    if _is_labels(dtype):
        n_different = int(np.count_nonzero(reference != observed))
        share = n_different / reference.size if reference.size else 0.0
        return _of_labels(share, reference.shape[1:], layout=layout, dtype=dtype)
    options = options or FitOptions()
    result = estimate(
        reference,
        observed,
        max_shift=options.max_shift,
        model=options.model,
        holdout=options.holdout,
        robust=options.robust,
        data_range=options.data_range,
    )
    assessed = _of_estimate(result, reference.shape[2:], layout=layout, dtype=dtype)
    return _cropped(assessed, crop) if any(end for _, end in crop) else assessed


def assess_statistics(
    statistics: OutputStatistics,
    *,
    layout: Layout,
    dtype: str,
    options: FitOptions | None = None,
    crop: tuple[tuple[int, int], ...] = (),
) -> OutputCalibration:
    """Find out what is wrong with one output, and what corrects it, from its statistics.

    Parameters
    ----------
    statistics : OutputStatistics
        Of paired outputs, (N, channels, *space).
    layout : Layout
        What the axes of the output are where the correction will be applied.
    dtype : str
        The observed output's dtype there.
    options : FitOptions, optional
        How to fit; how far the search goes is up to the statistics, and may only be repeated.

    Returns
    -------
    OutputCalibration
        As `assess` gives it for the same samples where the statistics keep them all; see
        `convcal.estimation.estimate_statistics` for more.

    Raises
    ------
    InputError
        If there is no sample, or the options contradict the statistics.
    """
    n_channels, *spatial = statistics.sample_shape
    options = options or FitOptions()
    asked = OutputStatistics(max_shift=options.max_shift).max_shift
    if asked not in (None, statistics.max_shift):
        raise InputError(
            f"max_shift is {options.max_shift} and the statistics were made with "
            f"{statistics.max_shift}; give the same, or make them again"
        )
    if _is_labels(dtype):
        n_values = statistics.n_samples * math.prod((n_channels, *spatial))
        share = int(statistics.counts.n_different.sum()) / n_values
        return _of_labels(share, (n_channels, *spatial), layout=layout, dtype=dtype)
    result = estimate_statistics(
        statistics,
        model=options.model,
        holdout=options.holdout,
        robust=options.robust,
        data_range=options.data_range,
    )
    assessed = _of_estimate(result, tuple(spatial), layout=layout, dtype=dtype)
    return _cropped(assessed, crop) if any(end for _, end in crop) else assessed


def _cropped(assessed: OutputCalibration, crop: tuple[tuple[int, int], ...]) -> OutputCalibration:
    """Give what was found about an output that is too long, once its ends are dropped."""
    lengths = ", ".join(str(end) for _, end in crop)
    reason = (
        f"the observed output is too long by ({lengths}); without these ends: {assessed.reason}"
    )
    if assessed.verdict.startswith("not-"):
        return replace(assessed, reason=reason)
    is_all = assessed.verdict == "identical"
    return replace(
        assessed,
        verdict="correctable" if is_all else assessed.verdict,
        family="length" if is_all else assessed.family,
        reason=reason,
        correction=replace(assessed.correction, crop=crop),
    )


def _is_labels(dtype: str) -> bool:
    """Tell whether values of a dtype are labels or indices: integers, but not of an image."""
    return np.dtype(dtype).kind in "iub" and dtype != "uint8"


def _of_estimate(
    result: Estimate, spatial: tuple[int, ...], *, layout: Layout, dtype: str
) -> OutputCalibration:
    steps = result.resampling or (None,) * len(spatial)
    return OutputCalibration(
        verdict=cast("Verdict", result.verdict),
        reason=result.reason,
        family=result.family,
        correction=Correction(
            spatial_shape=tuple(spatial),
            dtype=dtype,
            shift=result.shift,
            filters=tuple(
                AxisFilter(offset, tuple(taps)) if step is None else SincFilter(step[3], step[4])
                for (offset, taps), step in zip(result.filters, steps, strict=True)
            ),
            scale=tuple(1.0 if step is None else step[0] for step in steps),
            origin=tuple(0.0 if step is None else step[1] for step in steps),
            row_stride=None if result.rows is None else result.rows[1],
            gain=result.gain,
            bias=result.bias,
            batch_axis=layout.batch_axis,
            channel_axis=layout.channel_axis,
        ),
        evidence=dict(result.evidence),
        metrics=_metrics(result),
    )


def _metrics(result: Estimate) -> dict[str, Any]:
    return {
        "before": result.metrics_before.to_dict(),
        "after": result.metrics_after.to_dict(),
        "before_full": result.metrics_before_full.to_dict(),
        "after_full": result.metrics_after_full.to_dict(),
        "before_channels": [metrics.to_dict() for metrics in result.channel_metrics_before],
        "after_channels": [metrics.to_dict() for metrics in result.channel_metrics_after],
    }


def _of_labels(
    share: float, shape: tuple[int, ...], *, layout: Layout, dtype: str
) -> OutputCalibration:
    n_channels = shape[0] if layout.channel_axis is not None else 1
    return OutputCalibration(
        verdict="identical" if share == 0 else "not-correctable",
        reason=f"{dtype} values are labels or indices; {share:.3%} of them differ"
        + ("" if share == 0 else ", and no shift, gain or bias can mend a label"),
        family="identical" if share == 0 else "labels",
        correction=Correction(
            spatial_shape=tuple(shape[1:])[:3],
            dtype=dtype,
            gain=(1.0,) * n_channels,
            bias=(0.0,) * n_channels,
            batch_axis=layout.batch_axis,
            channel_axis=layout.channel_axis,
        ),
        evidence={"share_different": share},
    )
