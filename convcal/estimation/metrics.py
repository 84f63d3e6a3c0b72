# SPDX-License-Identifier: BSD-3-Clause
"""How far a candidate output is from the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcal.errors import InputError
from convcal.estimation.arrays import BUDGET, sample_runs

__all__ = ["Metrics", "default_range", "measure", "measure_channels"]


@dataclass(frozen=True)
class Metrics:
    """Errors of one output against its reference.

    Attributes
    ----------
    max_abs_error, mean_abs_error, rmse : float
        In the output's units; 0 when there is no value.
    snr_db : float
        ``10 log10(sum reference**2 / sum (reference - candidate)**2)``; infinite without error,
        minus infinite where the reference is all zero and the candidate is not.
    psnr_db : float
        ``20 log10(data_range / rmse)``; infinite without error, minus infinite where `data_range`
        is 0 and there is an error.
    data_range : float
        The peak that `psnr_db` refers to.
    cosine : float
        Between the two as vectors; 1 where both are all zero, 0 where one is.
    n_values, n_excluded : int
        Positions measured, and positions left out because a value was not finite.
    """

    max_abs_error: float
    mean_abs_error: float
    rmse: float
    snr_db: float
    psnr_db: float
    data_range: float
    cosine: float
    n_values: int
    n_excluded: int

    def to_dict(self) -> dict[str, float | int | str]:
        """Give the fields as JSON has them: infinities are the strings "inf" and "-inf"."""
        return {name: _json_number(value) for name, value in asdict(self).items()}


def default_range(reference: NDArray[np.generic]) -> float:
    """Give the peak that a PSNR refers to where none is stated.

    Parameters
    ----------
    reference : ndarray
        The trusted values.

    Returns
    -------
    float
        All that the dtype can hold for integers of up to 16 bits; otherwise the largest less the
        least finite value, 0 where there is none.
    """
    if reference.dtype.kind in "iu" and reference.dtype.itemsize <= 2:
        return float(2 ** (8 * reference.dtype.itemsize) - 1)
    finite = reference[np.isfinite(reference)].astype(np.float64)
    return float(np.ptp(finite)) if finite.size else 0.0


def measure(
    reference: ArrayLike,
    candidate: ArrayLike,
    *,
    data_range: float | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Metrics:
    """Measure how far a candidate is from the reference, over all positions at once.

    Parameters
    ----------
    reference, candidate : array_like
        Of one shape, any rank, real.
    data_range : float, optional
        Peak for the PSNR, finite and not negative; `default_range` by default.
    mask : ndarray of bool or None
        True where to measure; broadcast to the arrays. Positions outside it are not counted.

    Returns
    -------
    Metrics
        Without any finite position: no error, SNR and PSNR infinite, cosine 1, `n_values` 0.

    Raises
    ------
    InputError
        If the shapes differ.

    Notes
    -----
    Sums run over every element (not over the first axis alone) in float64, of values divided by
    the largest one, so that no square overflows; over large arrays part by part.

    Examples
    --------
    >>> round(measure([3.0, 4.0], [3.0, 4.5], data_range=5).rmse, 6)
    0.353553
    """
    ref, cand = np.asarray(reference), np.asarray(candidate)
    if ref.shape != cand.shape:
        raise InputError(
            f"the reference has shape {ref.shape} and the candidate {cand.shape}; "
            "they must be the same"
        )
    if data_range is None:
        data_range = default_range(ref)
    if mask is not None:
        wanted = np.broadcast_to(mask, ref.shape)
        ref, cand = ref[wanted], cand[wanted]
    parts = [_Part.of(ref[place], cand[place]) for place in _places(ref.shape)]
    parts = [part for part in parts if part.n_values]
    n_values = sum(part.n_values for part in parts)
    n_excluded = ref.size - n_values
    if n_values == 0:
        return Metrics(0.0, 0.0, 0.0, math.inf, math.inf, float(data_range), 1.0, 0, n_excluded)
    norm_error, norm_ref, norm_cand = (
        _norm(np.array([part.norms[k] for part in parts])) for k in range(3)
    )
    rmse = norm_error / math.sqrt(n_values)
    cosine = 1.0 if norm_ref == norm_cand == 0 else 0.0
    if norm_ref > 0 and norm_cand > 0:
        cosine = sum(
            part.cosine * (part.norms[1] / norm_ref) * (part.norms[2] / norm_cand) for part in parts
        )
    return Metrics(
        max_abs_error=max(part.largest_error for part in parts),
        mean_abs_error=sum(part.sum_error for part in parts) / n_values,
        rmse=rmse,
        snr_db=_decibels(norm_ref / math.sqrt(n_values), rmse),
        psnr_db=_decibels(float(data_range), rmse),
        data_range=float(data_range),
        cosine=min(1.0, max(-1.0, cosine)),
        n_values=n_values,
        n_excluded=n_excluded,
    )


@dataclass(frozen=True)
class _Part:
    """What is summed over some of the values, those that are finite in both.

    Attributes
    ----------
    n_values : int
    largest_error, sum_error : float
    norms : tuple of float
        Of error, reference and candidate.
    cosine : float
        0 where one of them is all zero.
    """

    n_values: int
    largest_error: float
    sum_error: float
    norms: tuple[float, float, float]
    cosine: float

    @classmethod
    def of(cls, reference: NDArray[Any], candidate: NDArray[Any]) -> _Part:
        ref, cand = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
        finite = np.isfinite(ref) & np.isfinite(cand)
        if not finite.all():
            ref, cand = ref[finite], cand[finite]
        if not ref.size:
            return cls(0, 0.0, 0.0, (0.0, 0.0, 0.0), 0.0)
        error = np.abs(ref - cand)
        norms = _norm(error), _norm(ref), _norm(cand)
        cosine = 0.0
        if norms[1] > 0 and norms[2] > 0:
            cosine = float(np.dot(ref / norms[1], cand / norms[2]))
        return cls(ref.size, float(error.max()), float(error.sum()), norms, cosine)


def measure_channels(
    reference: NDArray[np.generic],
    candidate: NDArray[np.generic],
    *,
    data_range: float,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[Metrics, ...]:
    """Measure each channel by itself.

    Parameters
    ----------
    reference, candidate : ndarray
        Of one shape, the channels on axis 1.
    data_range, mask
        As for `measure`.

    Returns
    -------
    tuple of Metrics
        One per channel.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise InputError(
            f"the reference has shape {reference.shape} and the candidate {candidate.shape}; "
            "they must be the same"
        )
    ref = np.moveaxis(reference, 1, 0)
    cand = np.moveaxis(candidate, 1, 0)
    masks: list[NDArray[np.bool_] | None] = [None] * len(ref)
    if mask is not None:
        wanted = np.moveaxis(np.broadcast_to(mask, reference.shape), 1, 0)
        masks = list(wanted)
    return tuple(
        measure(r, c, data_range=data_range, mask=m)
        for r, c, m in zip(ref, cand, masks, strict=True)
    )


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Divide an array into parts of at most `BUDGET` values."""
    if math.prod(shape) <= BUDGET:
        yield ()
    elif math.prod(shape[1:]) <= BUDGET:
        yield from ((run,) for run in sample_runs(shape))
    else:
        yield from ((i, *place) for i in range(shape[0]) for place in _places(shape[1:]))


def _norm(values: NDArray[np.float64]) -> float:
    """Give the Euclidean norm; values up to the largest double do not overflow."""
    largest = float(np.abs(values).max())
    if largest == 0:
        return 0.0
    return largest * math.sqrt(float(np.square(values / largest).sum()))


def _decibels(signal: float, error: float) -> float:
    if error == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 20 * (math.log10(signal) - math.log10(error))


def _json_number(value: float) -> float | int | str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
