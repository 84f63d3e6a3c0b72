# SPDX-License-Identifier: BSD-3-Clause
"""Pairs of outputs whose error is known, to test estimators with and to learn from.

The pairs are not circular: both outputs are windows cut out of one larger scene, so that new
content enters at the borders as it does on a device. Fractions of a pixel are made by resampling
the larger scene in the Fourier domain, so that the truth holds to round-off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from convcal.errors import InputError

__all__ = ["CONTENTS", "Content", "Pair", "make_pair"]

Content = Literal["white", "pink", "smooth", "blobs", "edges", "stripes", "lattice"]

CONTENTS: tuple[Content, ...] = get_args(Content)
"""The kinds of content that `make_pair` draws."""

_PERIOD = 8  # of the lattice, in pixels
_SURROUND = 16  # pixels of scene around the window, beyond the shift


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference and an observed output, and the correction that leads from one to the other.

    ``reference[n, c, i] = gain[c] * observed[n, c, i - shift] + bias[c]`` wherever ``i - shift``
    lies inside, but for noise and rounding.

    Attributes
    ----------
    reference : ndarray of float32, shape (N, C, *spatial)
    observed : ndarray, shape (N, C, *spatial)
    shift : tuple of float
        Pixels per spatial axis; the displacement of the observed content is ``-shift``.
    gain, bias : tuple of float
        One per channel.
    """

    reference: NDArray[np.float32]
    observed: NDArray[np.floating]
    shift: tuple[float, ...]
    gain: tuple[float, ...]
    bias: tuple[float, ...]


def make_pair(
    shape: Sequence[int],
    *,
    shift: float | Sequence[float] = 0.0,
    n_samples: int = 8,
    n_channels: int = 3,
    content: Content = "pink",
    gain: float | Sequence[float] = 1.0,
    bias: float | Sequence[float] = 0.0,
    snr_db: float | None = None,
    dtype: DTypeLike = np.float16,
    seed: int = 0,
) -> Pair:
    """Make a pair of outputs with a known shift, gain and bias.

    Parameters
    ----------
    shape : sequence of int
        One to three spatial sizes.
    shift : float or sequence of float
        The correction's shift in pixels, one for all axes or one per axis.
    n_samples, n_channels : int
        How many of each; every plane is drawn anew.
    content : str
        ``white`` (all frequencies alike), ``pink`` (power falls like that of pictures),
        ``smooth`` (nothing finer than some 12 pixels), ``blobs`` (sparse, on nothing), ``edges``
        (flat areas), ``stripes`` (constant along every axis but the last), ``lattice`` (repeats
        every 8 pixels along every axis). Unit variance each, but for blobs, with unit peaks.
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
        If a parameter has the wrong length or range; the message names it.

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
    if n_samples < 1 or n_channels < 1:
        raise InputError(
            f"n_samples is {n_samples} and n_channels {n_channels}; each must be at least 1"
        )
    shifts = _spread("shift", shift, len(spatial))
    gains = _spread("gain", gain, n_channels)
    biases = _spread("bias", bias, n_channels)
    if not all(gains):
        raise InputError(f"gain is {gains}; a gain of zero has no observed output")

    rng = np.random.default_rng(seed)
    around = [_SURROUND + math.ceil(abs(pixels)) for pixels in shifts]
    scene_shape = tuple(
        _scene_size(size + 2 * extra, content) for size, extra in zip(spatial, around, strict=True)
    )
    scene = np.stack(
        [
            np.stack([_draw(rng, scene_shape, content) for _ in range(n_channels)])
            for _ in range(n_samples)
        ]
    )
    reference = _window(scene, around, spatial)
    moved, whole = _resample(scene, shifts)
    origin = [extra + pixels for extra, pixels in zip(around, whole, strict=True)]
    column = (1, n_channels) + (1,) * len(spatial)
    observed = _window(moved, origin, spatial) - np.reshape(biases, column)
    observed = observed / np.reshape(gains, column)
    if snr_db is not None:
        axes = tuple(range(2, observed.ndim))
        level = observed.std(axis=axes, keepdims=True) * 10 ** (-snr_db / 20)
        observed = observed + level * rng.standard_normal(observed.shape)
    return Pair(
        reference=reference.astype(np.float32),
        observed=observed.astype(dtype),
        shift=shifts,
        gain=gains,
        bias=biases,
    )


def _spread(name: str, value: float | Sequence[float], count: int) -> tuple[float, ...]:
    """Give `count` floats from one or from as many."""
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if values.shape not in {(1,), (count,)} or not np.isfinite(values).all():
        raise InputError(f"{name} is {value!r}; accepted are one finite number or {count}")
    return tuple(float(v) for v in np.broadcast_to(values, (count,)))


def _scene_size(least: int, content: Content) -> int:
    """Choose a size that the Fourier domain can shift exactly.

    Odd sizes have no Nyquist term, which has no fractional shift. A lattice needs a multiple of
    its period instead, and has nothing at Nyquist.
    """
    return -(-least // _PERIOD) * _PERIOD if content == "lattice" else least + 1 - least % 2


def _window(
    scene: NDArray[np.float64], origin: Sequence[int], size: Sequence[int]
) -> NDArray[np.float64]:
    cut = tuple(slice(o, o + s) for o, s in zip(origin, size, strict=True))
    return scene[(slice(None), slice(None), *cut)]


def _resample(
    scene: NDArray[np.float64], shifts: Sequence[float]
) -> tuple[NDArray[np.float64], list[int]]:
    """Move the scene by the fractions of the shifts; give it and the whole pixels left over."""
    moved, whole = scene, []
    for axis, pixels in enumerate(shifts, start=2):
        nearest = round(pixels)
        whole.append(nearest)
        fraction = pixels - nearest
        if fraction == 0:
            continue
        size = scene.shape[axis]
        phase = np.exp(2j * np.pi * np.fft.rfftfreq(size) * fraction)
        phase = phase.reshape((-1,) + (1,) * (scene.ndim - axis - 1))
        moved = np.fft.irfft(np.fft.rfft(moved, axis=axis) * phase, n=size, axis=axis)
    return moved, whole


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], content: Content
) -> NDArray[np.float64]:
    """Draw one plane of a scene."""
    if content == "stripes":
        return np.broadcast_to(_noise(rng, shape[-1:], falloff=0.5), shape).copy()
    if content == "lattice":
        tile = _noise(rng, (_PERIOD,) * len(shape), cutoff=0.3)
        return np.tile(tile, [size // _PERIOD for size in shape])
    if content == "white":
        return _noise(rng, shape)
    if content == "pink":
        return _noise(rng, shape, falloff=len(shape) / 2)
    if content == "smooth":
        return _noise(rng, shape, blur=4.0)
    if content == "blobs":
        points = (rng.random(shape) < 0.01) * rng.uniform(0.3, 1.0, shape)
        return _blurred(points, blur=1.5) * (1.5 * math.sqrt(2 * math.pi)) ** len(shape)
    # A blur of 0.7 pixels: edges as an anti-aliased picture has them, nothing beyond Nyquist.
    return _standard(_blurred(np.sign(_noise(rng, shape, blur=4.0)), blur=0.7))


def _frequency(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Give the length of each frequency vector, in cycles per pixel."""
    grids = np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij", sparse=True)
    return np.asarray(np.sqrt(sum(grid**2 for grid in grids)))


def _noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    falloff: float = 0.0,
    blur: float = 0.0,
    cutoff: float = math.inf,
) -> NDArray[np.float64]:
    """Draw a normal field whose amplitude falls with frequency; zero mean, unit variance."""
    frequency = _frequency(shape)
    lowest = 1 / max(shape)
    amplitude = np.maximum(frequency, lowest) ** -falloff
    amplitude = amplitude * np.exp(-2 * (np.pi * frequency * blur) ** 2) * (frequency <= cutoff)
    spectrum = np.fft.fftn(rng.standard_normal(shape)) * amplitude
    return _standard(np.fft.ifftn(spectrum).real)


def _blurred(plane: NDArray[np.float64], *, blur: float) -> NDArray[np.float64]:
    transfer = np.exp(-2 * (np.pi * _frequency(plane.shape) * blur) ** 2)
    blurred: NDArray[np.float64] = np.fft.ifftn(np.fft.fftn(plane) * transfer).real
    return blurred


def _standard(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = plane.std()
    standard: NDArray[np.float64] = (plane - plane.mean()) / (spread if spread > 0 else 1.0)
    return standard
