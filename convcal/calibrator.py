# SPDX-License-Identifier: BSD-3-Clause
"""The correction of one output as a scikit-learn estimator over arrays."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from convcal.assessment import FitOptions, assess_statistics
from convcal.calibration import OutputCalibration
from convcal.correction import Correction
from convcal.errors import InputError
from convcal.estimation import OutputStatistics, measure
from convcal.layout import Layout, excess, without_excess

__all__ = ["OutputCalibrator"]


class OutputCalibrator(BaseEstimator):  # type: ignore[misc]
    """Estimate shift, gain and bias between two sets of outputs, and apply them.

    ``corrected[n, c, i] = gain[c] * observed[n, c, i - shift] + bias[c]``

    `fit` takes all samples at once. `partial_fit` takes a batch at a time and keeps no more than
    bounded statistics of them, and `merge` joins the statistics of two calibrators: samples in any
    order, in batches of any size and from any number of workers give the same answer.

    Parameters
    ----------
    max_shift : int, optional
        How far the search goes, in pixels per spatial axis; by default a quarter of the size, at
        least 4 and at most 32.
    model : str
        Which corrections are considered; ``'auto'`` chooses on held-out samples.
    holdout : float
        The share of the samples that is held out at a time and decides; each is held out once, and
        what is emitted is fitted to all. With fewer than 4 samples, of blocks of positions.
    robust : bool
        Fit gain and bias so that gross outliers do not count.
    data_range : float, optional
        The peak of the PSNR; by default the range of the reference.
    batch_axis, channel_axis : int or None
        What the axes of the arrays are; all others are spatial, up to three.

    Attributes
    ----------
    correction_ : Correction
        What `transform` applies; the identity unless it improved held-out samples beyond doubt.
    shift_ : ndarray of shape (n_spatial,)
        In pixels; what must be applied to observed to register it to reference.
    gain_, bias_ : ndarray of shape (n_channels,)
        Per channel; a single one without a channel axis.
    scale_, origin_ : ndarray of shape (n_spatial,)
        By what factor the observed content is stretched, and the position that stays in place; 1
        and 0 where nothing is scaled.
    crop_ : tuple of (int, int)
        Per spatial axis, how many positions at the start and at the end of the observed outputs
        are dropped.
    row_stride_ : int or None
        How far apart, in values, rows lie that were read as if they followed each other.
    margins_ : tuple of (int, int)
        Per spatial axis, how many positions at the start and at the end have no source.
    verdict_, reason_, family_ : str
        What kind of error it is, and why.
    evidence_, metrics_ : dict
        What the verdict rests on; errors before and after, on held-out samples.
    n_samples_seen_ : int
        How many samples were given.
    statistics_ : OutputStatistics
        What is kept of them.
    calibration_ : OutputCalibration
        What the others come from.

    See Also
    --------
    convcal.fit : The same over two models and a calibration set.

    Notes
    -----
    Up to 4 million values per role all samples are kept, and the answer is that of all at once.
    Beyond, a subsample chosen by content decides and proves, and gain and bias of a whole-pixel
    correction come from all samples, see `convcal.estimation.estimate_statistics`.

    `fit` computes the fitted attributes at once, `partial_fit` and `merge` when one of them is
    next asked for, with the parameters that held at the last batch.

    Examples
    --------
    >>> import numpy as np
    >>> from convcal import OutputCalibrator
    >>> scene = np.random.default_rng(0).normal(size=(8, 1, 66, 64)).astype(np.float32)
    >>> reference, observed = scene[:, :, 2:], 1.25 * scene[:, :, :-2]
    >>> calibrator = OutputCalibrator().fit(reference, observed)
    >>> calibrator.verdict_
    'correctable'
    >>> calibrator.shift_
    array([-2.,  0.])
    >>> calibrator.gain_.round(4)
    array([0.8])
    """

    def __init__(
        self,
        *,
        max_shift: int | None = None,
        model: str = "auto",
        holdout: float = 0.25,
        robust: bool = False,
        data_range: float | None = None,
        batch_axis: int | None = 0,
        channel_axis: int | None = 1,
    ) -> None:
        self.max_shift = max_shift
        self.model = model
        self.holdout = holdout
        self.robust = robust
        self.data_range = data_range
        self.batch_axis = batch_axis
        self.channel_axis = channel_axis

    def fit(self, reference: np.ndarray[Any, Any], observed: np.ndarray[Any, Any]) -> Self:
        """Estimate the correction.

        Parameters
        ----------
        reference, observed : ndarray
            The trusted outputs and the ones to be corrected, of the same shape or the latter too
            long at the ends of spatial axes; by default (N, C, *space). Never written to.

        Returns
        -------
        OutputCalibrator
            Itself.

        Raises
        ------
        InputError
            If the shapes differ, do not fit the axes, or the arrays are empty or of a dtype
            that has no arithmetic.
        """
        fresh = clone(self).partial_fit(reference, observed)
        # What is wrong with the data is said here, and nothing has changed.
        calibration = fresh.calibration_
        self._refresh(fresh.statistics_, self._options(), fresh._crop)  # noqa: SLF001
        self.calibration_ = calibration
        return self

    def partial_fit(self, reference: np.ndarray[Any, Any], observed: np.ndarray[Any, Any]) -> Self:
        """Take in another batch of samples.

        Parameters
        ----------
        reference, observed : ndarray
            As for `fit`; with the channels, spatial sizes and dtypes of the batches before.

        Returns
        -------
        OutputCalibrator
            Itself. All samples since the last `fit` (which counts as a first batch) count alike.

        Raises
        ------
        InputError
            As for `fit`, or if the batch does not go with those before; it is not taken in then.
        """
        options = self._options()
        reference, observed = np.asarray(reference), np.asarray(observed)
        layout = Layout(self.batch_axis, self.channel_axis)
        statistics = self.__dict__.get("statistics_") or OutputStatistics(max_shift=self.max_shift)
        self._check_unchanged(statistics)
        reference, observed = layout.canonical(reference), layout.canonical(observed)
        crop = excess(reference.shape, observed.shape)
        if statistics.n_samples and crop != self._crop:
            raise InputError(
                f"the observed batch is too long by {crop} at the ends of its axes and those "
                f"before by {self._crop}; keep one shape, or start again with 'fit'"
            )
        statistics.update(reference, without_excess(observed, reference.shape))
        return self._refresh(statistics, options, crop)

    def merge(self, other: OutputCalibrator) -> Self:
        """Take in all samples that another calibrator has seen.

        Parameters
        ----------
        other : OutputCalibrator
            With the same parameters; not changed. One that has seen no sample adds none.

        Returns
        -------
        OutputCalibrator
            Itself, as if it had been given the other's samples.

        Raises
        ------
        InputError
            If parameters, shapes or dtypes differ.
        """
        if not isinstance(other, OutputCalibrator):
            raise InputError(
                f"the other is of type {type(other).__name__}; accepted is an OutputCalibrator"
            )
        mine, theirs = self.get_params(), other.get_params()
        if mine != theirs:
            differing = [key for key in mine if mine[key] != theirs[key]]
            ours, others = ({key: side[key] for key in differing} for side in (mine, theirs))
            raise InputError(
                f"the parameters differ, {ours} here and {others} in the other; only calibrators "
                "with the same can be merged"
            )
        if not other.__sklearn_is_fitted__():
            return self
        options = self._options()
        statistics = self.__dict__.get("statistics_") or OutputStatistics(max_shift=self.max_shift)
        self._check_unchanged(statistics)
        crop = other._crop
        if statistics.n_samples and crop != self._crop:
            raise InputError(
                f"the observed samples are too long by {self._crop} at the ends of their axes and "
                f"the other's by {crop}; only calibrators of one shape can be merged"
            )
        return self._refresh(statistics.merge(other.statistics_), options, crop)

    def __sklearn_is_fitted__(self) -> bool:
        return "statistics_" in self.__dict__

    @cached_property
    def calibration_(self) -> OutputCalibration:
        """Verdict, correction, evidence and metrics as one record."""
        check_is_fitted(self)
        return assess_statistics(
            self.statistics_,
            layout=self._layout,
            dtype=self.statistics_.dtypes[1].name,
            options=self._fitted_options,
            crop=self._crop,
        )

    @property
    def n_samples_seen_(self) -> int:
        """How many samples were given."""
        check_is_fitted(self)
        return int(self.statistics_.n_samples)

    @property
    def correction_(self) -> Correction:
        """What `transform` applies."""
        return self.calibration_.correction

    @property
    def shift_(self) -> np.ndarray[Any, Any]:
        """In pixels, per spatial axis."""
        return np.array(self.correction_.shift)

    @property
    def gain_(self) -> np.ndarray[Any, Any]:
        """Per channel."""
        return np.array(self.correction_.gain)

    @property
    def bias_(self) -> np.ndarray[Any, Any]:
        """Per channel."""
        return np.array(self.correction_.bias)

    @property
    def scale_(self) -> np.ndarray[Any, Any]:
        """By what factor the observed content is stretched, per spatial axis; 1 where it is not."""
        return np.array(self.correction_.scale)

    @property
    def origin_(self) -> np.ndarray[Any, Any]:
        """The position that a scale leaves in place, per spatial axis; 0 where there is none."""
        return np.array(self.correction_.origin)

    @property
    def crop_(self) -> tuple[tuple[int, int], ...]:
        """Per spatial axis, how many positions at the start and at the end are dropped."""
        return self.correction_.crop

    @property
    def row_stride_(self) -> int | None:
        """How far apart, in values, rows lie that were read as if they followed each other."""
        return self.correction_.row_stride

    @property
    def margins_(self) -> tuple[tuple[int, int], ...]:
        """Per spatial axis, how many positions at the start and at the end have no source."""
        return self.correction_.margins

    @property
    def verdict_(self) -> str:
        """What kind of answer it is."""
        return self.calibration_.verdict

    @property
    def reason_(self) -> str:
        """Why, in a sentence with numbers."""
        return self.calibration_.reason

    @property
    def family_(self) -> str:
        """The kind of error."""
        return self.calibration_.family

    @property
    def evidence_(self) -> dict[str, Any]:
        """What the verdict rests on."""
        return self.calibration_.evidence

    @property
    def metrics_(self) -> dict[str, Any]:
        """Errors before and after, on held-out samples."""
        return self.calibration_.metrics

    def _options(self) -> FitOptions:
        return FitOptions(
            max_shift=self.max_shift,
            model=self.model,
            holdout=self.holdout,
            robust=self.robust,
            data_range=self.data_range,
        )

    def _check_unchanged(self, statistics: OutputStatistics) -> None:
        """Raise where parameters that the statistics rest on were set anew between two batches."""
        if statistics.n_samples == 0:
            return
        now = (self.max_shift, Layout(self.batch_axis, self.channel_axis))
        before = (self._fitted_options.max_shift, self._layout)
        if now != before:
            raise InputError(
                f"max_shift and axes are {now} and were {before} for the batches before; "
                "keep them, or start again with 'fit'"
            )

    def _refresh(
        self,
        statistics: OutputStatistics,
        options: FitOptions,
        crop: tuple[tuple[int, int], ...],
    ) -> Self:
        """Set the statistics, and forget what was fitted to fewer samples."""
        self.statistics_ = statistics
        self._fitted_options = options
        self._crop = crop
        self._layout = Layout(self.batch_axis, self.channel_axis)
        self.__dict__.pop("calibration_", None)
        return self

    def transform(self, observed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Correct outputs.

        Parameters
        ----------
        observed : ndarray
            Outputs with the axes of those that were fitted; never written to.

        Returns
        -------
        ndarray
            The corrected outputs, of the same dtype, and of the same shape less what is cropped.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        InputError
            If the array does not fit the correction.
        """
        return self.correction_.apply(np.asarray(observed))

    def score(self, reference: np.ndarray[Any, Any], observed: np.ndarray[Any, Any]) -> float:
        """Give the signal-to-noise ratio of the corrected outputs inside the margins.

        Parameters
        ----------
        reference, observed : ndarray
            Paired outputs.

        Returns
        -------
        float
            ``10 log10(sum reference^2 / sum (reference - corrected)^2)`` in dB; higher is
            better, infinite where they are equal. Minus infinity where a corrected value is not
            finite and the reference is; NaN where no value of the reference is finite.
        """
        corrected = self.transform(observed)
        region = self.correction_.valid_region(corrected.shape)
        right, given = np.asarray(reference)[region], corrected[region]
        counts = np.isfinite(right)
        if not counts.any():
            return math.nan
        if not np.isfinite(given[counts]).all():
            return -math.inf
        return float(measure(right, given).snr_db)
