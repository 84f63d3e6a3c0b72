# SPDX-License-Identifier: BSD-3-Clause
"""The correction of one output as a scikit-learn estimator over arrays."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from convcal.assessment import FitOptions, assess
from convcal.correction import Correction
from convcal.errors import InputError
from convcal.estimation.metrics import measure
from convcal.layout import Layout

__all__ = ["OutputCalibrator"]


class OutputCalibrator(BaseEstimator):  # type: ignore[misc]
    """Estimate shift, gain and bias between two sets of outputs, and apply them.

    ``corrected[n, c, i] = gain[c] * observed[n, c, i - shift] + bias[c]``

    Parameters
    ----------
    max_shift : int, optional
        How far the search goes, in pixels per spatial axis; by default a quarter of the size and
        at most 32.
    model : str
        Which corrections are considered; ``'auto'`` chooses on held-out samples.
    holdout : float
        The share of the samples that is kept from fitting and decides. With a single sample the
        split is made over its blocks.
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
    margins_ : tuple of (int, int)
        Per spatial axis, how many positions at the start and at the end have no source.
    verdict_, reason_, family_ : str
        What kind of error it is, and why.
    evidence_, metrics_ : dict
        What the verdict rests on; errors before and after, on held-out samples.
    n_samples_seen_ : int
        How many samples were given.

    See Also
    --------
    convcal.fit : The same over two models and a calibration set.

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
            The trusted outputs and the ones to be corrected, of the same shape; by default
            (N, C, *space). Never written to.

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
        reference, observed = np.asarray(reference), np.asarray(observed)
        if reference.shape != observed.shape:
            raise InputError(
                f"reference has shape {reference.shape} and observed {observed.shape}; "
                "they must be the same"
            )
        layout = Layout(self.batch_axis, self.channel_axis)
        result = assess(
            layout.canonical(reference),
            layout.canonical(observed),
            layout=layout,
            dtype=observed.dtype.name,
            options=FitOptions(
                max_shift=self.max_shift,
                model=self.model,
                holdout=self.holdout,
                robust=self.robust,
                data_range=self.data_range,
            ),
        )
        self.correction_ = result.correction
        self.shift_ = np.array(result.correction.shift)
        self.gain_ = np.array(result.correction.gain)
        self.bias_ = np.array(result.correction.bias)
        self.margins_ = result.correction.margins
        self.verdict_ = result.verdict
        self.reason_ = result.reason
        self.family_ = result.family
        self.evidence_ = result.evidence
        self.metrics_ = result.metrics
        self.n_samples_seen_ = 1 if self.batch_axis is None else observed.shape[self.batch_axis]
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
            The corrected outputs, of the same shape and dtype.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        InputError
            If the array does not fit the correction.
        """
        check_is_fitted(self)
        correction: Correction = self.correction_
        return correction.apply(np.asarray(observed))

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
            better, infinite where they are equal.
        """
        corrected = self.transform(observed)
        region = self.correction_.valid_region(corrected.shape)
        return float(measure(np.asarray(reference)[region], corrected[region]).snr_db)
