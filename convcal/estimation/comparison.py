# SPDX-License-Identifier: BSD-3-Clause
"""Two stacks in a band, compared at any shift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.band import (
    BandFilter,
    Block,
    apply_adjoint,
    apply_blocks,
    filter_blocks,
)
from convcal.estimation.prediction import border_variances, predictors

__all__ = ["Fields", "ShiftProblem"]

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fields:
    """The moved reference, its slopes, and what it leaves of the observed stack.

    Attributes
    ----------
    values : ndarray, shape (2 + n_free, N, C, *size)
        Times the square roots of the weights.
    one : ndarray, shape (*size) or (N, C, *size)
        Those roots.
    slope : ndarray of float64, shape (C,)
        Share of the reference that was taken from the observed stack: what is left of it is small,
        and so is its round-off.
    """

    values: Floats
    one: Floats
    slope: Array

    def products(self, cut: tuple[slice, ...] = ()) -> Array:
        """Give the products of one, moved reference, slopes and observed, shape (N, C, k, k)."""
        values, one = self.values, self.one
        if cut:
            values, one = (
                values[(slice(None),) * 3 + cut],
                one[(slice(None),) * (one.ndim - len(cut)) + cut],
            )
        k, n_samples, n_channels = values.shape[:3]
        planes = values.reshape(k, n_samples, n_channels, -1).transpose(1, 2, 0, 3)
        flat = one.reshape(*one.shape[: one.ndim - values.ndim + 3], -1)
        products = np.empty((n_samples, n_channels, k + 1, k + 1))
        products[:, :, 1:, 1:] = planes @ planes.swapaxes(2, 3)
        if flat.ndim == 1:
            products[:, :, 0, 1:] = planes @ flat
        else:
            products[:, :, 0, 1:] = (planes @ flat[..., None])[..., 0]
        products[:, :, 1:, 0] = products[:, :, 0, 1:]
        products[:, :, 0, 0] = np.square(flat).sum(axis=-1, dtype=np.float64)
        share = self.slope[:, None]
        products[:, :, -1] += share * products[:, :, 1]
        products[:, :, :, -1] += share * products[:, :, :, 1]
        return products

    def gram(self) -> Array:
        """Give the products of all samples together, shape (C, k, k)."""
        return np.asarray(self.products().sum(axis=0))


@dataclass(frozen=True)
class WeightMeans:
    """Weighted means over the positions.

    Attributes
    ----------
    weight : float
        Of the weight: the share of white noise's variance that a weighted sum has per weight.
    border : float
        Of the variance of what is predicted wrongly.
    weighted_border : float
        Of weight times that: what the weighted sum has of it.
    """

    weight: float
    border: float
    weighted_border: float


class ShiftProblem:
    """Two stacks and a band, ready to be compared at any shift.

    Parameters
    ----------
    reference, observed : ndarray of float64 or float32, shape (N, C, *spatial)
        Mean 0 and variance about 1 per channel, registered to within about a pixel.
    free : sequence of int
        The spatial axes to refine.
    start : sequence of float, one per spatial axis
        About where the optimum lies; whole numbers along the other axes.
    band : float
        Highest frequency to use, as a share of the Nyquist frequency.
    valid : ndarray of bool, shape (N, C, *spatial), or None
        Observed positions that count.

    Notes
    -----
    The reference is moved, since it has the less noise, and compared with the observed stack on
    all positions whose source lies inside. What the filters need from beyond the borders is
    predicted; positions are weighted by how far the prediction may be wrong against the residual,
    axis by axis, so that the weights are factors of the filters' rows.
    """

    def __init__(
        self,
        reference: Floats,
        observed: Floats,
        *,
        free: Sequence[int],
        start: Sequence[float] | Array,
        band: float = 1.0,
        valid: Mask | None = None,
    ) -> None:
        spatial = reference.shape[2:]
        self.free = tuple(free)
        self.shape = reference.shape[:2]
        self.window = [
            (max(0, math.ceil(-s)), min(n - 1, math.floor(n - 1 - s)) + 1)
            for s, n in zip(start, spatial, strict=True)
        ]
        for axis, (begin, stop) in enumerate(self.window):
            if axis not in self.free:
                moved = round(start[axis])
                before = (slice(None),) * (axis + 2)
                reference = reference[(*before, slice(begin + moved, stop + moved))]
                observed = observed[(*before, slice(begin, stop))]
        self.reference = np.ascontiguousarray(reference)
        self.filters = [BandFilter(_reach(size), band) for size in spatial]
        found = predictors(
            (reference, observed),
            axes=self.free,
            widths=[self.filters[axis].reach + 2 for axis in self.free],
        )
        self.predictors = {axis: pair[0] for axis, pair in zip(self.free, found, strict=True)}
        self.noise_gain = 1.0
        self.border: dict[int, Array] = {}
        self.low_pass: dict[int, list[Block]] = {}
        field = np.ascontiguousarray(observed)
        for axis, pair in zip(self.free, found, strict=True):
            size, window = spatial[axis], self.window[axis]
            moved, (taps, _) = self.filters[axis].taps(start[axis])
            rest, still = self.filters[axis].taps(0.0)
            self.noise_gain *= float(still[0] @ still[0])
            wrong = border_variances(
                np.array([taps, taps[::-1], still[0]]),
                np.array([pair[0].error, pair[0].error, pair[1].error]),
            )
            border = np.zeros(window[1] - window[0])
            for first, head, tail in ((moved, wrong[0], wrong[1]), (rest, wrong[2], wrong[2])):
                _add_near(border, head, -(window[0] + first))
                _add_near(border[::-1], tail, window[1] - 1 + first + len(taps) - size)
            self.border[axis] = border
            self.low_pass[axis] = filter_blocks(
                still[:1],
                first=rest,
                size=size,
                window=window,
                predictor=pair[1],
                dtype=field.dtype,
            )
            field = self._filtered(field, self.low_pass[axis], axis)
        self.observed = field
        self.size = tuple(stop - begin for begin, stop in self.window)
        self.valid = None
        if valid is not None:
            cut = tuple(slice(begin, stop) for begin, stop in self.window)
            self.valid = valid[(slice(None), slice(None), *cut)]

    @property
    def least_noise(self) -> float:
        """Give the least noise against which a quarter of the positions still counts."""
        share = 0.25 ** (1 / len(self.border))
        return max(float(np.sort(b)[int(share * len(b))]) for b in self.border.values())

    def inside(self, noise: float) -> tuple[tuple[slice, ...], float]:
        """Give the middle, where predictions add less than a quarter to a noise, or little.

        Returns
        -------
        cut : tuple of slice
        most : float
            What they add there at most.
        """
        cut, most = [slice(None)] * len(self.size), 0.0
        for axis, border in self.border.items():
            limit = max(noise / 4, float(np.sort(border)[len(border) // 4]))
            kept = np.flatnonzero(border <= limit)
            cut[axis] = slice(int(kept[0]), int(kept[-1]) + 1)
            most += float(border[cut[axis]].max())
        return tuple(cut), most

    def weight_means(self, noise: float) -> WeightMeans:
        """Give means over the positions, weighted as for a noise."""
        weights = {axis: np.square(root) for axis, root in self._weights(noise).items()}
        own, mean, wrong = 1.0, 0.0, 0.0
        for axis, weight in weights.items():
            whole, square = float(weight.sum()), float(weight @ weight)
            mean += float(weight @ self.border[axis]) / whole
            wrong += float((weight * weight) @ self.border[axis]) / square
            own *= square / whole
        return WeightMeans(own, mean, own * wrong)

    def fields(self, shift: Array, *, noise: float, slope: Array) -> Fields:
        """Give the fields at a shift.

        Parameters
        ----------
        shift : ndarray of float64, shape (n_axes,)
        noise : float
            Variance of the residual, against which predictions are weighed.
        slope : ndarray of float64, shape (C,)
            Share of the reference to take from the observed stack.
        """
        dtype = self.reference.dtype
        values = np.empty((2 + len(self.free), *self.shape, *self.size), dtype)
        stack = self.reference[None]
        weights = self._weights(noise)
        for count, axis in enumerate(self.free, start=1):
            first, taps = self.filters[axis].taps(shift[axis])
            blocks = filter_blocks(
                taps,
                first=first,
                size=stack.shape[axis + 3],
                window=self.window[axis],
                predictor=self.predictors[axis],
                weights=weights[axis],
                dtype=dtype,
            )
            shape = list(stack.shape)
            shape[0], shape[axis + 3] = count + 1, len(weights[axis])
            is_last = count == len(self.free)
            filtered = values[: count + 1] if is_last else np.empty(shape, dtype)
            apply_blocks(stack, blocks, filter_=0, axis=axis + 3, out=filtered[:count])
            apply_blocks(stack[0], blocks, filter_=1, axis=axis + 2, out=filtered[count])
            stack = filtered
        column = (1, -1, *(1,) * len(self.size))
        roots = self._outer(weights).astype(dtype)
        rest = values[-1]
        np.multiply(self.observed, roots, out=rest)
        if slope.any():
            rest -= values[0] * slope.astype(dtype).reshape(column)
        roots = np.broadcast_to(roots, self.size)
        if self.valid is not None:
            values *= self.valid
            roots = roots * self.valid
        return Fields(values, np.ascontiguousarray(roots), slope)

    def weigh_anew(self, fields: Fields, *, before: float, noise: float) -> Fields:
        """Give the fields with the weights of another noise, in the place of what they were."""
        ratio = self._outer(self._weights(noise)) / self._outer(self._weights(before))
        ratio = ratio.astype(fields.values.dtype)
        values, one = fields.values, fields.one
        values *= ratio
        return Fields(values, one * ratio, fields.slope)

    def _weights(self, noise: float) -> dict[int, Array]:
        """Give the roots of the weights along each axis, the largest of which is 1."""
        return {
            axis: np.sqrt((noise + border.min()) / (noise + border))
            for axis, border in self.border.items()
        }

    def _outer(self, weights: dict[int, Array]) -> Array:
        """Give their product at each position, with one position along axes that have none."""
        n_axes = len(self.size)
        product: Array = np.ones(())
        for axis, own in weights.items():
            product = product * own.reshape((-1,) + (1,) * (n_axes - 1 - axis))
        return product

    def pull(self, fields: Fields, to_score: Array) -> Array:
        """Give the covariance of the score for white noise of variance 1 in the observed stack.

        The low-pass filter correlates the noise of neighbours; the score is a sum over the noise
        itself, with what the filter's adjoint makes of the slopes.

        Parameters
        ----------
        fields : Fields
        to_score : ndarray of float64, shape (C, n_free, k)
            Turns fields into what multiplies the residual; the last column is zero.

        Returns
        -------
        ndarray of float64, shape (n_free, n_free)
        """
        dtype = fields.values.dtype
        size, n_free = self.size, len(self.free)
        scale = float(np.abs(to_score).max())
        basis = (to_score / scale).astype(dtype)
        planes = fields.values[:-1].reshape(1 + n_free, *self.shape, -1).transpose(1, 2, 0, 3)
        roots = fields.one.reshape(*fields.one.shape[: fields.one.ndim - len(size)], 1, -1)
        slopes = basis[:, :, 1:-1] @ planes
        slopes += basis[:, :, :1] * roots
        slopes *= roots
        field: Floats = slopes.reshape(*self.shape, n_free, *size)
        for axis, blocks in self.low_pass.items():
            field = apply_adjoint(field, blocks, axis=axis + 3, size=self.reference.shape[axis + 2])
        flat = field.reshape(*self.shape, n_free, -1)
        total = (flat @ flat.swapaxes(2, 3)).sum(axis=(0, 1), dtype=np.float64)
        return np.asarray(total * scale**2)

    def _filtered(self, array: Floats, blocks: list[Block], axis: int) -> Floats:
        begin, stop = self.window[axis]
        shape = list(array.shape)
        shape[axis + 2] = stop - begin
        out = np.empty(shape, array.dtype)
        apply_blocks(array, blocks, filter_=0, axis=axis + 2, out=out)
        return out


def _add_near(border: Array, variances: Array, count: int) -> None:
    """Add to the first positions, of which that one has `count` taps outside, the next one less."""
    if count > 0:
        near = variances[count - 1 :: -1][: len(border)]
        border[: len(near)] += near


def _reach(size: int) -> int:
    """Choose how far a filter reaches: further is a wider band, and more to predict."""
    return min(16, max(6, size // 2))
