# SPDX-License-Identifier: BSD-3-Clause
"""Means and co-moments of two stacks on the overlap of every whole-pixel shift, ready to merge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convcal.estimation.affine import AffineFit
from convcal.estimation.lines import LineSums
from convcal.estimation.overlap import (
    ShiftScores,
    crop_shifts,
    overlap_sizes,
    overlap_sums,
    padded_shape,
    scores_of,
)

__all__ = ["OverlapMoments", "ShiftMoments", "pool_moments"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CHUNK = 2**20
"""Padded values that are transformed at once: 8 MiB, and as much for each spectrum."""


@dataclass(frozen=True, eq=False)
class ShiftMoments:
    """Moments of each channel on the overlap that one whole-pixel shift leaves.

    Attributes
    ----------
    n_values : ndarray of int64, shape (C,)
        Positions on the overlap, over all planes.
    mean_reference, mean_observed : ndarray of float64, shape (C,)
        0 where there is no value.
    s_rr, s_oo, s_ro : ndarray of float64, shape (C,)
        Sums of products of the deviations from the means.
    """

    n_values: NDArray[np.int64]
    mean_reference: Array
    mean_observed: Array
    s_rr: Array
    s_oo: Array
    s_ro: Array


@dataclass(frozen=True, eq=False)
class OverlapMoments:
    """Moments of each channel on the overlap of every whole-pixel shift up to a limit.

    Attributes
    ----------
    spatial, limits : tuple of int
        Size and largest shift per axis.
    n_planes : ndarray of int64, shape (C,)
        Planes (of one sample and one channel) that count.
    pivot : ndarray of float64, shape (2, C)
        A value near each channel's mean, of 24 significant bits, so that the difference of two
        pivots is exact; reference first.
    mean : ndarray of float64, shape (2, C, 2 m0 + 1, …)
        Means on the overlap, less the pivot.
    comoment : ndarray of float64, shape (3, C, 2 m0 + 1, …)
        Sums of products of deviations from the means: of reference with itself, of observed with
        itself, of both.

    Notes
    -----
    Two sets of moments are pooled by the formulas of Chan, Golub and LeVeque 1983 ("Algorithms
    for computing the sample variance", The American Statistician 37(3)), in any order and
    grouping to round-off. The pivot makes that round-off relative to the spread, not to the
    offset (benchmarks/registration.py pools 200 shards at offset 1e4).
    """

    spatial: tuple[int, ...]
    limits: tuple[int, ...]
    n_planes: NDArray[np.int64]
    pivot: Array
    mean: Array
    comoment: Array

    @classmethod
    def empty(cls, n_channels: int, spatial: tuple[int, ...], *, limits: tuple[int, ...]) -> Self:
        """Give the moments of no sample."""
        shape = (n_channels, *(2 * limit + 1 for limit in limits))
        return cls(
            spatial=spatial,
            limits=limits,
            n_planes=np.zeros(n_channels, dtype=np.int64),
            pivot=np.zeros((2, n_channels)),
            mean=np.zeros((2, *shape)),
            comoment=np.zeros((3, *shape)),
        )

    @property
    def nbytes(self) -> int:
        """Bytes held: 8 C (3 + 5 D), with D the product of 2 m + 1 over the axes."""
        return sum(a.nbytes for a in (self.n_planes, self.pivot, self.mean, self.comoment))

    def pooled(self, other: OverlapMoments) -> OverlapMoments:
        """Give the moments of both sets of samples, which must be of one shape and one limit."""
        column = (-1,) + (1,) * len(self.limits)
        n_self, n_other = (m.n_planes.astype(np.float64) for m in (self, other))
        n_planes = np.maximum(n_self + n_other, 1)
        pivot = np.where(self.n_planes > 0, self.pivot, other.pivot)
        # Nothing counts in an empty channel, whatever its pivot.
        start = np.where(self.n_planes > 0, other.pivot - self.pivot, 0.0)
        delta = (other.mean - self.mean) + start.reshape(2, *column)
        share = (n_other / n_planes).reshape(column)
        weight = (n_self * (n_other / n_planes)).reshape(column) * overlap_sizes(
            self.spatial, self.limits
        )
        products = np.stack([delta[0] * delta[0], delta[1] * delta[1], delta[0] * delta[1]])
        return OverlapMoments(
            spatial=self.spatial,
            limits=self.limits,
            n_planes=self.n_planes + other.n_planes,
            pivot=pivot,
            mean=self.mean + delta * share,
            comoment=self.comoment + other.comoment + products * weight,
        )

    def at(self, shift: tuple[int, ...]) -> ShiftMoments:
        """Give the moments at one shift within the limits."""
        index = tuple(s + m for s, m in zip(shift, self.limits, strict=True))
        size = int(overlap_sizes(self.spatial, self.limits)[index])
        here: Any = (slice(None), slice(None), *index)
        means = self.pivot + self.mean[here]
        s_rr, s_oo, s_ro = self.comoment[here]
        return ShiftMoments(
            n_values=self.n_planes * size,
            mean_reference=means[0],
            mean_observed=means[1],
            s_rr=s_rr,
            s_oo=s_oo,
            s_ro=s_ro,
        )

    def affine(self, shift: tuple[int, ...]) -> AffineFit:
        """Fit gain and bias of each channel at one shift, by least squares.

        Parameters
        ----------
        shift : tuple of int
            Whole pixels per axis, within the limits.

        Returns
        -------
        AffineFit
            A residual below 1e-7 of the spread is lost in the round-off of the difference of two
            sums.
        """
        here = self.at(shift)
        sums = LineSums.of_moments(
            here.n_values.astype(np.float64),
            here.mean_reference,
            here.mean_observed,
            reference=here.s_rr,
            product=here.s_ro,
            observed=here.s_oo,
        )
        return AffineFit.of(sums, has_signal=sums.has_signal(0.0), n_values=here.n_values)

    def rmse(self, shift: tuple[int, ...], *, gain: Array, bias: Array) -> Array:
        """Give what a correction leaves on the overlap of a shift, root mean square per channel.

        Returns
        -------
        ndarray of float64, shape (C,)
            0 without values.
        """
        here = self.at(shift)
        return np.sqrt(_squared_error(here, gain, bias) / np.maximum(here.n_values, 1))

    def scores(self, *, rounding: Array) -> ShiftScores:
        """Score every whole-pixel shift by what gain and bias per channel leave on the overlap.

        Parameters
        ----------
        rounding : ndarray of float64, shape (C,)
            Error that rounding alone leaves, root mean square in the output's units
            (`RoundingLevel.single`); keeps the logarithm finite.

        Returns
        -------
        ShiftScores
            As `score_shifts` gives it for all the samples at once, standardised.
        """
        column = (-1,) + (1,) * len(self.limits)
        n = self.n_planes.reshape(column) * overlap_sizes(self.spatial, self.limits)
        n = np.asarray(n, dtype=np.float64)
        count = np.maximum(n, 1)
        whole = self.at((0,) * len(self.limits))
        n_whole = np.maximum(whole.n_values, 1)
        scales = []
        for mean, square in ((whole.mean_reference, whole.s_rr), (whole.mean_observed, whole.s_oo)):
            spread = np.sqrt(square / n_whole)
            is_flat = (spread <= 1e-12 * np.abs(mean)) | (spread == 0)
            scales.append(np.where(is_flat, 0.0, 1 / np.where(is_flat, 1.0, spread)))
        scale_r, scale_o = (scale.reshape(column) for scale in scales)
        # One factor after the other: the square of the scale of tiny values is no float64.
        var_r = self.comoment[0] / count * scale_r * scale_r
        var_o = self.comoment[1] / count * scale_o * scale_o
        covariance = self.comoment[2] / count * scale_r * scale_o
        floor = np.square(rounding * np.where(scales[0] > 0, scales[0], 1.0))
        return scores_of(n, var_r, var_o, covariance, floor=floor, limits=self.limits)


def pool_moments(
    reference: NDArray[Any],
    observed: NDArray[Any],
    *,
    limits: tuple[int, ...],
    weights: NDArray[np.int64] | None = None,
) -> OverlapMoments:
    """Pool the moments of a batch of samples.

    Parameters
    ----------
    reference, observed : ndarray, shape (N, C, *spatial)
        Of one shape and any real dtype; not written to. A plane with a value that is not finite,
        in either array, does not count.
    limits : tuple of int
        Largest shift per axis, less than the size.
    weights : ndarray of int64, shape (N,), or None
        How many times each sample counts; once by default.

    Returns
    -------
    OverlapMoments

    Notes
    -----
    Products at all shifts at once by FFT of the zero-padded planes, less the pivot, in float64;
    the rest by the sums of the whole less those of the borders that the shift leaves out. At
    shift 0 all are summed directly. The FFT's error is round-off of the whole plane's power.
    """
    n_channels, *sizes = reference.shape[1:]
    spatial = tuple(sizes)
    axes = tuple(range(2, reference.ndim))
    is_kept = np.isfinite(reference).all(axis=axes) & np.isfinite(observed).all(axis=axes)
    times = np.ones(len(reference), dtype=np.int64) if weights is None else weights
    counts = times[:, np.newaxis] * is_kept
    n_planes = counts.sum(axis=0)
    pivot = np.stack([_short(_means(array, counts)) for array in (reference, observed)])
    padded = padded_shape(spatial, limits)
    per_block = max(1, min(n_channels, _CHUNK // math.prod(padded)))
    blocks = [slice(c, c + per_block) for c in range(0, n_channels, per_block)]
    sums = np.concatenate(
        [
            _sums_about(
                reference[:, block],
                observed[:, block],
                counts[:, block].astype(np.float64),
                pivot=pivot[:, block],
                padded=padded,
                limits=limits,
            )
            for block in blocks
        ],
        axis=1,
    )
    n_values = n_planes.reshape(-1, *(1,) * len(limits)) * overlap_sizes(spatial, limits)
    mean = sums[:2] / np.maximum(n_values, 1)
    comoment = sums[2:] - n_values * np.stack(
        [mean[0] * mean[0], mean[1] * mean[1], mean[0] * mean[1]]
    )
    # Sums of squares, but for the round-off of the borders taken off.
    comoment[:2] = np.maximum(comoment[:2], 0.0)
    return OverlapMoments(
        spatial=spatial,
        limits=limits,
        n_planes=n_planes,
        pivot=pivot,
        mean=mean,
        comoment=comoment,
    )


def _means(array: NDArray[Any], counts: NDArray[np.int64]) -> Array:
    """Give the mean of each channel's planes that count; 0 without any."""
    with np.errstate(invalid="ignore"):  # inf - inf, in planes that do not count
        means = array.mean(axis=tuple(range(2, array.ndim)), dtype=np.float64)
    total = (np.where(counts > 0, means, 0.0) * counts).sum(axis=0)
    return np.asarray(total / np.maximum(counts.sum(axis=0), 1))


def _short(values: Array) -> Array:
    """Round to 24 significant bits."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, 24)), exponent - 24))


def _sums_about(
    reference: NDArray[Any],
    observed: NDArray[Any],
    counts: Array,
    *,
    pivot: Array,
    padded: tuple[int, ...],
    limits: tuple[int, ...],
) -> Array:
    """Sum r, o, r r, o o and r o, each less its pivot, over the overlap of every shift."""
    n_samples, n_channels, *sizes = reference.shape
    column = (-1,) + (1,) * len(sizes)
    axes = tuple(range(2, reference.ndim))
    per_chunk = max(1, _CHUNK // (n_channels * math.prod(padded)))
    images = [np.zeros((n_channels, *sizes)) for _ in range(4)]
    direct = np.zeros(n_channels)
    spectrum: Any = 0.0
    for start in range(0, n_samples, per_chunk):
        part = slice(start, start + per_chunk)
        count = counts[part].reshape(-1, n_channels, *column[1:])
        ref, obs = (
            np.where(count > 0, array[part].astype(np.float64) - middle.reshape(column), 0.0)
            for array, middle in ((reference, pivot[0]), (observed, pivot[1]))
        )
        ref_times, obs_times = ref * count, obs * count
        products = (ref_times, obs_times, ref_times * ref, obs_times * obs)
        images = [
            image + values.sum(axis=0) for image, values in zip(images, products, strict=True)
        ]
        direct += (ref_times * obs).sum(axis=(0, *axes))
        if any(limits):
            transform = scipy.fft.rfftn(ref_times, padded, axes=axes)
            transform *= scipy.fft.rfftn(obs, padded, axes=axes).conj()
            spectrum = spectrum + transform.sum(axis=0)
    sums = np.empty((5, n_channels, *(2 * limit + 1 for limit in limits)))
    sums[:4] = overlap_sums(np.stack(images), limits)
    sums[1:4:2] = np.flip(sums[1:4:2], axis=axes)  # of the observed
    if any(limits):
        cross = scipy.fft.irfftn(spectrum, padded, axes=tuple(a - 1 for a in axes))
        sums[4] = crop_shifts(cross, limits)
    centre: Any = (4, slice(None), *limits)
    sums[centre] = direct
    return sums


def _squared_error(here: ShiftMoments, gain: Array, bias: Array) -> Array:
    scatter = here.s_rr - 2 * gain * here.s_ro + gain**2 * here.s_oo
    offset = here.mean_reference - gain * here.mean_observed - bias
    return np.asarray(np.maximum(scatter, 0.0) + here.n_values * offset**2)
