# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of windows on one scene."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from convcal.datasets.contents import CONTENTS, Content, draw_scene, scene_size
from convcal.datasets.sampling import Positions, fourier_samples, linear_samples
from convcal.errors import InputError

__all__ = ["RESAMPLINGS", "Pair", "Resampling", "make_pair"]

Resampling = Literal["fourier", "area", "bilinear"]

RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)
"""The ways in which `make_pair` makes fractions of a pixel."""

_SURROUND = 16  # pixels of scene around the window, beyond what moves
_MOST_GAIN, _MOST_NOISE_DB = 1e30, 300  # beyond, nothing of the scene would be left
_MOST_SHIFT = 2**16  # what moves is drawn too
_FINE = 4  # samples of the scene per pixel that is a mean over an area


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference and an observed output, and the correction that leads from one to the other.

    ``reference[n, c, i] = gain[c] * observed[n, c, origin + scale * (i - origin) - shift] +
    bias[c]`` wherever that position lies inside, but for noise, rounding and, unless the pair was
    resampled in the Fourier domain, resampling.

    Attributes
    ----------
    reference : ndarray of float32, shape (N, C, *spatial)
    observed : ndarray, shape (N, C, *spatial)
    shift : tuple of float
        Pixels per spatial axis; the displacement of the observed content is ``-shift`` where
        there is no scale.
    gain, bias : tuple of float
        One per channel.
    scale, origin : tuple of float
        Per spatial axis: the factor, 1 where the displacement does not grow, and the position
        that it leaves in place.
    """

    reference: NDArray[np.float32]
    observed: NDArray[np.floating]
    shift: tuple[float, ...]
    gain: tuple[float, ...]
    bias: tuple[float, ...]
    scale: tuple[float, ...]
    origin: tuple[float, ...]


def make_pair(
    shape: Sequence[int],
    *,
    shift: float | Sequence[float] = 0.0,
    scale: float | Sequence[float] = 1.0,
    origin: float | Sequence[float] = 0.0,
    n_samples: int | None = None,
    n_channels: int | None = None,
    content: Content = "pink",
    scene: ArrayLike | None = None,
    resampling: Resampling = "fourier",
    gain: float | Sequence[float] = 1.0,
    bias: float | Sequence[float] = 0.0,
    snr_db: float | None = None,
    dtype: DTypeLike = np.float16,
    seed: int = 0,
) -> Pair:
    """Make a pair of outputs with a known shift, scale, gain and bias.

    Parameters
    ----------
    shape : sequence of int
        One to three spatial sizes.
    shift : float or sequence of float
        The correction's shift in pixels, one for all axes or one per axis.
    scale, origin : float or sequence of float
        The correction's scale, from 0.5 to 2, and the position, in pixels, that it leaves in
        place. Over `size` pixels the displacement grows by ``(scale - 1) * (size - 1)``.
    n_samples, n_channels : int, optional
        How many of each, 8 and 3 if not given; every plane is drawn anew. Those of the scene, if
        there is one.
    content : str
        What is drawn where no scene is given. ``white`` (all frequencies alike), ``pink`` (power
        falls like that of pictures), ``smooth`` (nothing finer than some 12 pixels), ``blobs``
        (sparse, on nothing), ``edges`` (flat areas), ``stripes`` (constant along every axis but
        the last), ``lattice`` (repeats every 8 pixels along every axis), ``sound`` (decaying
        harmonics and bursts of noise; with several axes, their spectrogram), ``features`` (a
        feature map after ReLU: sparse, not negative): these have unit variance, but for blobs,
        with unit peaks. ``text`` (strokes, 0 on 1), ``relief`` (faint, on waves as long as the
        scene, about 10), ``mask`` (from 0 to 1, mostly at the ends), ``logits`` (some -25 to 15,
        smooth regions with sharp boundaries), ``constant`` (1).
    scene : array_like of shape (N, C, *spatial), optional
        Real content instead, as pictures: both outputs are windows of it, at a place that depends
        on the seed. It must be larger than `shape` by what moves and 16 pixels on every side.
    resampling : {"fourier", "area", "bilinear"}
        How fractions of a pixel are made. ``fourier``: exactly, content being band-limited.
        ``area``: every pixel, of the reference too, is the mean over its box of a scene that is 4
        times finer, as a renderer or a sensor gives it: neither is band-limited, both alias.
        ``bilinear``: the observed output is interpolated linearly, which blurs. The scene that
        is given must be 4 times larger for ``area``.
    gain, bias : float or sequence of float
        The correction's gain and bias, one for all channels or one per channel.
    snr_db : float or None
        Adds white noise to the observed output, this many decibels below the variance of each
        plane. None adds none.
    dtype : dtype
        What the observed output is rounded to; the reference is float32.
    seed : int
        Of NumPy's default generator.

    Returns
    -------
    Pair

    Raises
    ------
    InputError
        If a parameter has the wrong length or range, or the scene is too small; the message
        names it.

    Notes
    -----
    A scene that is drawn is periodic, one that is given goes on mirrored; either lies beyond the
    surroundings of the window. Where the scale is not 1, the Fourier series is summed at each
    position, exact to 1e-11. Where it is below 1, the observed pixels lie farther apart than
    the reference's, and frequencies above ``scale / 2`` cycles per pixel alias.

    Examples
    --------
    >>> pair = make_pair((64, 64), shift=(0.25, -1), gain=1.01)
    >>> pair.observed.shape, pair.observed.dtype, pair.shift
    ((8, 3, 64, 64), dtype('float16'), (0.25, -1.0))
    """
    spatial = tuple(int(size) for size in shape)
    if not 1 <= len(spatial) <= 3 or min(spatial) < 1:
        raise InputError(f"shape is {spatial}; accepted are one to three sizes of at least 1")
    if content not in CONTENTS:
        raise InputError(f"content is {content!r}; accepted are {', '.join(CONTENTS)}")
    if resampling not in RESAMPLINGS:
        raise InputError(f"resampling is {resampling!r}; accepted are {', '.join(RESAMPLINGS)}")
    shifts = _spread("shift", shift, len(spatial))
    scales = _spread("scale", scale, len(spatial))
    origins = _spread("origin", origin, len(spatial))
    if not all(0.5 <= each <= 2 for each in scales):
        raise InputError(f"scale is {scales}; accepted are numbers from 0.5 to 2")
    given = None if scene is None else _given_scene(scene, len(spatial))
    n_samples = _count("n_samples", n_samples, 8 if given is None else len(given), given)
    n_channels = _count("n_channels", n_channels, 3 if given is None else given.shape[1], given)
    gains = _spread("gain", gain, n_channels)
    biases = _spread("bias", bias, n_channels)
    if not all(gains):
        raise InputError(f"gain is {gains}; a gain of zero has no observed output")
    if not all(1 / _MOST_GAIN <= abs(each) <= _MOST_GAIN for each in gains):
        raise InputError(f"gain is {gains}; accepted sizes are up to {_MOST_GAIN} and its inverse")
    if not all(abs(each) <= _MOST_SHIFT for each in shifts):
        raise InputError(f"shift is {shifts}; accepted are up to {_MOST_SHIFT} pixels")
    if snr_db is not None and not snr_db >= -_MOST_NOISE_DB:
        raise InputError(f"snr_db is {snr_db}; it must be at least -{_MOST_NOISE_DB}")
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be at least 0")

    rng = np.random.default_rng(seed)
    fine = _FINE if resampling == "area" else 1
    axes = tuple(
        _Axis(size, move, factor, fixed)
        for size, move, factor, fixed in zip(spatial, shifts, scales, origins, strict=True)
    )
    if given is None:
        shown = _drawn(rng, axes, content, fine=fine, n_samples=n_samples, n_channels=n_channels)
    else:
        shown = iter(_cut(rng, given, axes, fine=fine))
    windows = [
        _sampled(each, axes, resampling, is_periodic=given is None, fine=fine) for each in shown
    ]
    reference = np.stack([first for first, _ in windows])
    column = (1, n_channels) + (1,) * len(spatial)
    observed = np.stack([second for _, second in windows]) - np.reshape(biases, column)
    observed = observed / np.reshape(gains, column)
    if snr_db is not None:
        planes = tuple(range(2, observed.ndim))
        level = observed.std(axis=planes, keepdims=True) * 10 ** (-snr_db / 20)
        observed = observed + level * rng.standard_normal(observed.shape)
    with np.errstate(over="ignore"):  # what is too large for the dtype is infinite in it
        rounded = observed.astype(dtype)
    return Pair(
        reference=reference.astype(np.float32),
        observed=rounded,
        shift=shifts,
        gain=gains,
        bias=biases,
        scale=scales,
        origin=origins,
    )


@dataclass(frozen=True)
class _Axis:
    """One axis of the window, and the correction along it. All in pixels."""

    size: int
    shift: float
    scale: float
    origin: float

    @property
    def first(self) -> float:
        """Where the first observed pixel lies, counted from the first of the reference."""
        return self.shift / self.scale + self.origin * (1 - 1 / self.scale)

    @property
    def surround(self) -> int:
        """What the scene needs on both sides of the window."""
        last = self.first + (self.size - 1) / self.scale
        return _SURROUND + math.ceil(max(abs(self.first), abs(last - (self.size - 1))))

    def reference(self, fine: int) -> Positions:
        """Give the centres of the reference's pixels, in samples of a scene."""
        return Positions(fine * self.surround + (fine - 1) / 2, fine, self.size)

    def observed(self, fine: int) -> Positions:
        """Give the centres of the observed pixels, in samples of a scene."""
        first = fine * (self.surround + self.first) + (fine - 1) / 2
        return Positions(first, fine / self.scale, self.size)


def _sampled(
    scene: NDArray[np.float64],
    axes: Sequence[_Axis],
    resampling: Resampling,
    *,
    fine: int,
    is_periodic: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give both windows on a scene of shape (C, *spatial)."""
    reference = observed = scene
    for number, axis in enumerate(axes, start=1):
        here, there = axis.reference(fine), axis.observed(fine)
        widths = (here.step, there.step) if resampling == "area" else (0.0, 0.0)
        reference = fourier_samples(
            reference, number, here, width=widths[0], is_periodic=is_periodic
        )
        if resampling == "bilinear":
            observed = linear_samples(observed, number, there)
        else:
            observed = fourier_samples(
                observed, number, there, width=widths[1], is_periodic=is_periodic
            )
    return reference, observed


def _drawn(
    rng: np.random.Generator,
    axes: Sequence[_Axis],
    content: Content,
    *,
    fine: int,
    n_samples: int,
    n_channels: int,
) -> Iterator[NDArray[np.float64]]:
    """Draw the scene of each sample, one at a time: they may be large."""
    shape = tuple(
        scene_size(axis.size + 2 * axis.surround, content, per_pixel=fine) for axis in axes
    )
    for _ in range(n_samples):
        yield np.stack([draw_scene(rng, shape, content, per_pixel=fine) for _ in range(n_channels)])


def _cut(
    rng: np.random.Generator, scene: NDArray[np.float64], axes: Sequence[_Axis], *, fine: int
) -> NDArray[np.float64]:
    """Cut the window and its surroundings out of a scene, somewhere."""
    needed = tuple(fine * (axis.size + 2 * axis.surround) for axis in axes)
    spare = [have - need for have, need in zip(scene.shape[2:], needed, strict=True)]
    if min(spare) < 0:
        finer = f", {fine} samples per pixel" if fine > 1 else ""
        raise InputError(
            f"the scene has {scene.shape[2:]} positions; a window of "
            f"{tuple(axis.size for axis in axes)}, what moves and {_SURROUND} pixels around it "
            f"need {needed}{finer}: pass a larger scene or a smaller shape"
        )
    place = [int(rng.integers(each + 1)) for each in spare]
    cut = tuple(slice(p, p + need) for p, need in zip(place, needed, strict=True))
    return scene[(slice(None), slice(None), *cut)]


def _given_scene(scene: ArrayLike, n_axes: int) -> NDArray[np.float64]:
    array = np.asarray(scene)
    if array.dtype.kind not in "fiu" or array.ndim != 2 + n_axes or not array.size:
        raise InputError(
            f"the scene is of shape {array.shape} and {array.dtype}; accepted are numbers with "
            f"the axes samples, channels and {n_axes} of space"
        )
    if not np.isfinite(array).all():
        raise InputError("the scene holds NaN or infinities; finite numbers are accepted")
    return array.astype(np.float64)


def _count(name: str, value: int | None, usual: int, scene: NDArray[np.float64] | None) -> int:
    if value is not None and value < 1:
        raise InputError(f"{name} is {value}; it must be at least 1")
    if scene is not None and value not in (None, usual):
        raise InputError(f"{name} is {value}, but the scene has {usual}; leave it out")
    return usual if value is None else value


def _spread(name: str, value: float | Sequence[float], count: int) -> tuple[float, ...]:
    """Give `count` floats from one or from as many."""
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if values.shape not in {(1,), (count,)} or not np.isfinite(values).all():
        raise InputError(f"{name} is {value!r}; accepted are one finite number or {count}")
    return tuple(float(v) for v in np.broadcast_to(values, (count,)))
