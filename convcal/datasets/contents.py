# SPDX-License-Identifier: BSD-3-Clause
"""Scenes: what outputs show.

Every scene is periodic, so that the Fourier domain can sample it anywhere. Sizes of what it shows
are in pixels; a scene may have several samples per pixel. Hard edges are softened to what the
samples can hold, not the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Literal, get_args

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convcal.datasets.fields import blurred, noise, standard

__all__ = ["CONTENTS", "Content", "draw_scene", "scene_size"]

Content = Literal[
    "white",
    "pink",
    "smooth",
    "blobs",
    "edges",
    "stripes",
    "lattice",
    "text",
    "relief",
    "sound",
    "features",
    "mask",
    "logits",
    "constant",
]

CONTENTS: tuple[Content, ...] = get_args(Content)
"""The kinds of content that `make_pair` draws."""

_PERIOD = 8  # of the lattice, in pixels
_SOFT = 0.7  # samples of blur: edges as an anti-aliased picture has them, nothing beyond Nyquist


def scene_size(least: int, content: Content, *, per_pixel: int = 1) -> int:
    """Choose a size in samples that the Fourier domain can shift exactly.

    Odd sizes have no Nyquist term, which has no fractional shift. A lattice needs a multiple of
    its period instead, and has nothing at Nyquist. Of several samples per pixel, whose means are
    taken, Nyquist is averaged out: any size will do that is fast to transform.

    Parameters
    ----------
    least : int
        In pixels.
    content : str
    per_pixel : int
    """
    if content == "lattice":
        return -(-least // _PERIOD) * _PERIOD * per_pixel
    if per_pixel > 1:
        return int(scipy.fft.next_fast_len(least * per_pixel, real=True))
    return least + 1 - least % 2


def draw_scene(
    rng: np.random.Generator, shape: tuple[int, ...], content: Content, *, per_pixel: int = 1
) -> NDArray[np.float64]:
    """Draw one plane of a scene.

    Parameters
    ----------
    rng : Generator
    shape : tuple of int
        In samples.
    content : str
        One of `CONTENTS`.
    per_pixel : int
        Samples per pixel, along every axis.
    """
    return _DRAWERS[content](rng, shape, per_pixel)


def _white(rng: np.random.Generator, shape: tuple[int, ...], _: int) -> NDArray[np.float64]:
    return noise(rng, shape)


def _pink(rng: np.random.Generator, shape: tuple[int, ...], _: int) -> NDArray[np.float64]:
    return noise(rng, shape, falloff=len(shape) / 2)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    return noise(rng, shape, blur=4.0 * fine)


def _blobs(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    blur, density = 1.5 * fine, 0.01 / fine ** len(shape)
    points = (rng.random(shape) < density) * rng.uniform(0.3, 1.0, shape)
    return blurred(points, blur=blur) * (blur * math.sqrt(2 * math.pi)) ** len(shape)


def _edges(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    return standard(blurred(np.sign(noise(rng, shape, blur=4.0 * fine)), blur=_SOFT))


def _stripes(rng: np.random.Generator, shape: tuple[int, ...], _: int) -> NDArray[np.float64]:
    return np.broadcast_to(noise(rng, shape[-1:], falloff=0.5), shape).copy()


def _lattice(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    period = _PERIOD * fine
    tile = noise(rng, (period,) * len(shape), cutoff=0.3 / fine)
    return np.tile(tile, [size // period for size in shape])


def _text(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    """Draw glyphs of three strokes along the axes, in cells, a fifth of which stay blank.

    In 1-D the strokes are crossed: bars.
    """
    n_axes = len(shape)
    cell = np.array([12] * (n_axes - 1) + [8]) * fine
    glyph = cell - 2 * fine
    counts = np.maximum(np.array(shape) // cell, 1)
    corners = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
    corners = corners.reshape(-1, n_axes)
    corners = corners[rng.random(len(corners)) > 0.2] * cell
    corners = np.repeat(corners, 3, axis=0)
    direction = rng.integers(0, n_axes, len(corners))
    along = direction[:, np.newaxis] == np.arange(n_axes) if n_axes > 1 else False
    # Strokes are one or two pixels wide, and half to all of a glyph long.
    width = rng.integers(1, 3, (len(corners), 1)) * fine
    length = rng.integers(glyph // 2, glyph + 1, corners.shape)
    extent = np.where(along, length, width)
    lower = corners + np.floor(rng.random(corners.shape) * (glyph - extent + 1)).astype(int)
    ink = _painted(shape, lower, lower + extent)
    return 1 - blurred(ink, blur=_SOFT)


def _painted(
    shape: tuple[int, ...], lower: NDArray[np.intp], upper: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Give 1 inside any of the boxes and 0 elsewhere, from the signs of their corners summed up."""
    marks = np.zeros([size + 1 for size in shape], np.int32)
    for ends in product((False, True), repeat=len(shape)):
        index = np.minimum(np.where(ends, upper, lower), shape)
        np.add.at(marks, tuple(index.T), (-1) ** sum(ends))
    for axis in range(len(shape)):
        np.cumsum(marks, axis=axis, out=marks)
    return (marks[tuple(slice(size) for size in shape)] > 0).astype(np.float64)


def _relief(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    """Draw a texture of 0.1 on waves of 0.35 that are as long as the scene, at 10."""
    relief = 10 + 0.1 * noise(rng, shape, blur=1.5 * fine)
    for axis, size in enumerate(shape):
        wave = np.cos(2 * np.pi * (np.arange(size) / size + rng.random()))
        relief += 0.5 * np.expand_dims(wave, tuple(range(1, len(shape) - axis)))
    return relief


def _sound(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    """Draw sound in 1-D, otherwise its spectrogram: time on the last axis, pitch before it."""
    scene = np.zeros(shape)
    pixels = [size / fine for size in shape]
    per_event = 120 if len(shape) == 1 else 400 * 8 ** (len(shape) - 2)
    for _ in range(max(3, round(math.prod(pixels) / per_event))):
        decay = min(rng.uniform(40, 160) if len(shape) == 1 else rng.uniform(8, 24), pixels[-1] / 5)
        time = np.arange(math.floor(min(6 * decay, pixels[-1]) * fine)) / fine
        is_voiced = rng.random() < 0.7
        # An attack of some two pixels; bursts last a quarter as long.
        envelope = (1 - np.exp(-time)) ** 2 * np.exp(-time / (decay if is_voiced else decay / 4))
        if len(shape) == 1:
            event = envelope * (_voice(rng, time) if is_voiced else rng.standard_normal(len(time)))
        else:
            event = (
                _partials(rng, pixels[:-1], fine, is_voiced=is_voiced)[..., np.newaxis] * envelope
            )
        event *= rng.uniform(0.3, 1.0)
        starts = [rng.integers(size) for size in shape]
        where = [
            (start + np.arange(extent)) % size
            for start, extent, size in zip(starts, event.shape, shape, strict=True)
        ]
        scene[np.ix_(*where)] += event
    return standard(blurred(scene, blur=_SOFT * fine))


def _voice(rng: np.random.Generator, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give up to eight harmonics of a pitch, none above 0.4 cycles per pixel."""
    pitch = rng.uniform(0.01, 0.06)
    n_harmonics = min(8, int(0.4 / pitch))
    order = np.arange(1, n_harmonics + 1)[:, np.newaxis]
    phase = rng.random((n_harmonics, 1))
    harmonics = np.sin(2 * np.pi * (order * pitch * time + phase)) / order
    return np.asarray(harmonics.sum(axis=0))


def _partials(
    rng: np.random.Generator, pixels: list[float], fine: int, *, is_voiced: bool
) -> NDArray[np.float64]:
    """Give what one event looks like over pitch: ridges or noise, under a bell on every axis."""
    bells = []
    for axis, size in enumerate(pixels):
        width = min(12.0 if axis == len(pixels) - 1 else 3.0, size / 6)
        position = np.arange(math.floor(min(6 * width, size) * fine)) / fine - 3 * width
        bells.append(np.exp(-((position / width) ** 2) / 2))
    if is_voiced:
        position = np.arange(len(bells[-1])) / fine
        ridges = 0.5 + 0.5 * np.cos(2 * np.pi * (position / rng.uniform(4, 10) + rng.random()))
        bells[-1] = bells[-1] * ridges**2
    else:
        bells[-1] = bells[-1] * rng.standard_normal(len(bells[-1]))
    partials = bells[0]
    for bell in bells[1:]:
        partials = partials[..., np.newaxis] * bell
    return partials


def _features(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    active = np.maximum(noise(rng, shape, blur=2.0 * fine) - 0.8, 0)
    soft = np.maximum(blurred(active, blur=_SOFT), 0)
    return np.asarray(soft / (soft.std() or 1.0))


def _mask(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(8 * noise(rng, shape, blur=4.0 * fine)))


def _logits(rng: np.random.Generator, shape: tuple[int, ...], fine: int) -> NDArray[np.float64]:
    regions = np.tanh(10 * noise(rng, shape, blur=5.0 * fine))
    return 12 * regions - 6 + 3 * noise(rng, shape, blur=6.0 * fine)


def _constant(_: np.random.Generator, shape: tuple[int, ...], __: int) -> NDArray[np.float64]:
    return np.ones(shape)


_DRAWERS: dict[Content, Callable[[np.random.Generator, tuple[int, ...], int], NDArray[np.float64]]]
_DRAWERS = {
    "white": _white,
    "pink": _pink,
    "smooth": _smooth,
    "blobs": _blobs,
    "edges": _edges,
    "stripes": _stripes,
    "lattice": _lattice,
    "text": _text,
    "relief": _relief,
    "sound": _sound,
    "features": _features,
    "mask": _mask,
    "logits": _logits,
    "constant": _constant,
}
