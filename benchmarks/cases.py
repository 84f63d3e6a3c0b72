# SPDX-License-Identifier: BSD-3-Clause
"""Seeded pairs with a known shift, and what an estimator makes of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcal.datasets import CONTENTS, Resampling, make_pair
from convcal.estimation import estimate

__all__ = [
    "KINDS",
    "MISS",
    "REFUSED",
    "Case",
    "Drawn",
    "Outcome",
    "Row",
    "draw",
    "draw_clean",
    "estimated",
    "moves",
    "noise_level",
    "spread_over",
    "worst",
]

Array = NDArray[np.float64]

MISS = 0.5
"""An error above this, in pixels, is a miss."""

REFUSED = ("constant", "lattice", "stripes")
"""Contents that do not determine a shift, on one axis at least."""

KINDS = (*(content for content in CONTENTS if content not in REFUSED), "photographs")
"""Contents that determine a shift on every axis; photographs have two of them."""

_PICTURES = Path(__file__).parents[1] / "calibration_data" / "pictures"


@dataclass(frozen=True)
class Case:
    """One pair of outputs.

    Attributes
    ----------
    shape : tuple of int
        Spatial.
    shift : tuple of float
        The truth, in pixels, one per axis.
    content : str
        One of `convcal.datasets.CONTENTS`, or ``photographs``: as many of the pictures in
        ``calibration_data`` as there are planes.
    n_samples, n_channels : int
    snr_db : float or None
        Variance of the clean observed channel over that of the white noise added to it.
    resampling : str
    scale, origin : float
        As in `make_pair`.
    seed : int
    """

    shape: tuple[int, ...]
    shift: tuple[float, ...]
    content: str = "pink"
    n_samples: int = 1
    n_channels: int = 3
    snr_db: float | None = None
    resampling: Resampling = "fourier"
    scale: float = 1.0
    origin: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        size = "x".join(str(n) for n in self.shape)
        return f"{self.content} {size}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Drawn:
    """A pair as an estimator gets it: float32 and fp16, with the truth."""

    reference: NDArray[np.float32]
    observed: NDArray[np.float16]
    gain: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class Outcome:
    """What `convcal.estimation.estimate` says about one case.

    Attributes
    ----------
    case : Case
    error : ndarray of float64, shape (n_axes,)
        Found less true, in pixels.
    standard_error : ndarray of float64, shape (n_axes,)
        As claimed.
    is_whole, is_refused, is_covered : ndarray of bool, shape (n_axes,)
        Called whole; called not identifiable; truth within the 95 % interval.
    gain_covered, bias_covered : ndarray of bool, shape (C,)
        Truth within the 95 % interval; empty where none is given.
    n_ambiguous : int
        Other shifts that are said to fit equally well.
    band : float
    """

    case: Case
    error: Array
    standard_error: Array
    is_whole: NDArray[np.bool_]
    is_refused: NDArray[np.bool_]
    is_covered: NDArray[np.bool_]
    gain_covered: NDArray[np.bool_]
    bias_covered: NDArray[np.bool_]
    n_ambiguous: int
    band: float

    @property
    def size(self) -> float:
        """The error along the axis where it is largest."""
        return float(np.abs(self.error).max())

    @property
    def is_miss(self) -> bool:
        """Whether it is off by more than half a pixel, or was refused."""
        return self.size > MISS or bool(self.is_refused.any())


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, and what was wanted.

    Attributes
    ----------
    name, figure, target : str
    is_met : bool or None
        None where there is no target.
    worst : str
        The case to look at.
    """

    name: str
    figure: str
    target: str = ""
    is_met: bool | None = None
    worst: str = ""


def moves(seed: int, n_axes: int, *, largest: float = 4.0, is_whole: bool = False) -> Any:
    """Draw a shift of up to `largest` pixels, fractional or whole."""
    rng = np.random.default_rng((seed, 2))
    shift = rng.uniform(-largest, largest, n_axes)
    return tuple(float(round(s)) if is_whole else float(s) for s in shift)


def draw(case: Case) -> Drawn:
    """Draw a case: noise of one variance per channel, then rounding to fp16."""
    reference, clean, gain, bias = draw_clean(case)
    observed = clean
    if case.snr_db is not None:
        column = (1, -1) + (1,) * len(case.shape)
        level = noise_level(clean, case.snr_db).reshape(column)
        rng = np.random.default_rng((case.seed, 1))
        observed = clean + level * rng.standard_normal(clean.shape)
    return Drawn(reference, observed.astype(np.float16), gain, bias)


def draw_clean(case: Case) -> tuple[NDArray[np.float32], Array, Array, Array]:
    """Give reference, observed before noise and rounding, gain and bias."""
    rng = np.random.default_rng((case.seed, 3))
    gain = rng.uniform(0.8, 1.25, case.n_channels)
    bias = rng.uniform(-0.5, 0.5, case.n_channels)
    is_drawn = case.content != "photographs"
    given: dict[str, Any] = (
        {"content": case.content, "n_samples": case.n_samples, "n_channels": case.n_channels}
        if is_drawn
        else {"scene": _photographs(case)}
    )
    pair = make_pair(
        case.shape,
        shift=case.shift,
        scale=case.scale,
        origin=case.origin,
        resampling=case.resampling,
        gain=gain,
        bias=bias,
        dtype=np.float64,
        seed=case.seed,
        **given,
    )
    return pair.reference, np.asarray(pair.observed, dtype=np.float64), gain, bias


def noise_level(clean: Array, snr_db: float) -> Array:
    """Give the standard deviation of the noise of each channel, shape (C,)."""
    axes = (0, *range(2, clean.ndim))
    return np.asarray(clean.std(axis=axes) * 10 ** (-snr_db / 20))


def estimated(case: Case, drawn: Drawn | None = None, **options: Any) -> Outcome:
    """Draw a case, estimate its shift, and compare."""
    drawn = draw(case) if drawn is None else drawn
    result = estimate(drawn.reference, drawn.observed, **options)
    found, channels = (result.evidence[name] for name in ("registration", "channels"))
    truth = np.array(case.shift)
    shift = np.array(found["shift"])
    return Outcome(
        case=case,
        error=shift - truth,
        standard_error=np.array(found["standard_error"], dtype=np.float64),
        is_whole=np.array(found["is_whole"]),
        is_refused=~np.array(found["is_identifiable"]),
        is_covered=_within(found["interval"], truth),
        gain_covered=_within(channels.get("gain_interval"), drawn.gain),
        bias_covered=_within(channels.get("bias_interval"), drawn.bias),
        n_ambiguous=len(found["ambiguous_shifts"]),
        band=float(found["band"]),
    )


def _within(intervals: Any, truth: Array) -> NDArray[np.bool_]:
    if not intervals or None in intervals:
        return np.zeros(0, dtype=bool)
    low, high = np.array(intervals, dtype=np.float64).T
    return np.asarray((low <= truth) & (truth <= high))


def spread_over(kinds: Sequence[str], case: Case, *, per_kind: int, first: int = 0) -> list[Case]:
    """Give `per_kind` cases of each content, every one with a shift of its own."""
    return [
        replace(case, content=kind, shift=moves(seed, len(case.shape)), seed=seed)
        for k, kind in enumerate(kinds)
        for seed in range(first + k * 1000, first + k * 1000 + per_kind)
    ]


def worst(outcomes: Iterable[Outcome]) -> str:
    """Name the case with the largest error."""
    found = max(outcomes, key=lambda outcome: outcome.size)
    told = ", ".join(f"{e:+.4f}" for e in found.error)
    return f"{found.case}: off by ({told}) px"


def _photographs(case: Case) -> Array:
    """Stack crops of pictures, as many as planes, each its own variance."""
    pictures = _pictures()
    if case.resampling == "area":
        pictures = [p for p in pictures if min(p.shape) >= 420]
    rng = np.random.default_rng((case.seed, 4))
    count = case.n_samples * case.n_channels
    order = rng.permutation(len(pictures))
    chosen = [pictures[order[k % len(pictures)]] for k in range(count)]
    size = np.min([p.shape for p in chosen], axis=0)
    scene = np.stack([p[: size[0], : size[1]] for p in chosen])
    return scene.reshape(case.n_samples, case.n_channels, *size)


@functools.cache
def _pictures() -> list[Array]:
    from PIL import Image

    return [
        np.asarray(Image.open(path), dtype=np.float64) / 255
        for path in sorted(_PICTURES.glob("*/high/*.png"))
    ]
