# SPDX-License-Identifier: BSD-3-Clause
"""Draw cases of every fault: content, sizes and parameters, each from a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convcal.datasets import RESAMPLINGS, make_pair
from convcal.estimation.rounding import rounding_level
from convcal.faults import FAULTS, ArrayFault, Compose


@dataclass(frozen=True)
class Case:
    """One drawn case: what is right is decided from this alone."""

    content: str
    reference: np.ndarray
    observed: np.ndarray
    label: str
    n_fitted: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def n_axes(self) -> int:
        """Count the spatial axes."""
        return self.reference.ndim - 2

    @property
    def level(self) -> float:
        """Give the fitted part's residual in units of what a faithful fp16 network may leave."""
        ref = self.reference[: self.n_fitted].astype(np.float64)
        obs = self.observed[: self.n_fitted].astype(np.float64)
        tolerance = rounding_level(ref, dtypes=(self.observed.dtype,)).tolerance
        with np.errstate(invalid="ignore", over="ignore"):
            square = np.square(ref - obs)
        return _level(square, tolerance)

    @property
    def level_after_lines(self) -> float:
        """Give the level once each channel has the gain and bias of least squares."""
        ref = self.reference[: self.n_fitted].astype(np.float64)
        tolerance = rounding_level(ref, dtypes=(self.observed.dtype,)).tolerance
        square = np.empty_like(ref)
        for channel in range(ref.shape[1]):
            obs = self.observed[: self.n_fitted, channel].astype(np.float64)
            gain, bias = np.polyfit(obs.ravel(), ref[:, channel].ravel(), 1)
            square[:, channel] = np.square(ref[:, channel] - gain * obs - bias)
        return _level(square, tolerance)


def _level(square: np.ndarray, tolerance: np.ndarray) -> float:
    axes = (0, *range(2, square.ndim))
    relative = np.sqrt(square.mean(axis=axes)) / np.maximum(tolerance, 1e-300)
    return float(max(np.sqrt(np.mean(relative**2)), relative.max() / 2))


def _shape(
    rng: np.random.Generator, axes: Sequence[int] = (1, 1, 2, 2, 2, 2, 3)
) -> tuple[int, ...]:
    n_axes = int(rng.choice(axes))
    low, high = {1: (48, 129), 2: (32, 81), 3: (16, 23)}[n_axes]
    return tuple(int(size) for size in rng.integers(low, high, n_axes))


def _reference(
    rng: np.random.Generator,
    content: str,
    *,
    shape: tuple[int, ...] | None = None,
    least_channels: int = 1,
) -> tuple[np.ndarray, int]:
    """Draw outputs and how many of them are fitted."""
    shape = _shape(rng) if shape is None else shape
    n_fitted = int(rng.integers(4, 9))
    pair = make_pair(
        shape,
        content=content,
        n_samples=2 * n_fitted,
        n_channels=int(rng.integers(least_channels, 4)),
        seed=int(rng.integers(2**31)),
    )
    return pair.reference, n_fitted


def _case(
    content: str,
    reference: np.ndarray,
    n_fitted: int,
    fault: ArrayFault,
    *,
    dtype: type = np.float16,
    **facts: Any,
) -> Case:
    """Let every sample be a prediction of its own."""
    with np.errstate(over="ignore"):
        given = reference.astype(dtype)
    observed = np.concatenate([fault.apply(given[n : n + 1]) for n in range(len(given))])
    return Case(content, reference, observed, f"{fault} {given.shape}", n_fitted, facts)


def _dtype(rng: np.random.Generator) -> type:
    return (np.float16, np.float32)[int(rng.integers(2))]


def _moves(rng: np.random.Generator, shape: Sequence[int], content: str) -> tuple[int, ...]:
    """Draw whole displacements within the search, not all 0; on stripes, across them."""
    while True:
        moves = [int(rng.integers(-min(4, n // 8), min(4, n // 8) + 1)) for n in shape]
        if content == "stripes":
            moves[:-1] = [0] * (len(shape) - 1)
        if any(moves):
            return tuple(moves)


def draw_int_shift(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `int-shift`."""
    reference, n = _reference(rng, content)
    moves = _moves(rng, reference.shape[2:], content)
    fill = str(rng.choice(["edge", "zero", "wrap", "random"]))
    return _case(content, reference, n, FAULTS["int-shift"](displacement=moves, fill=fill))


def draw_window(rng: np.random.Generator, content: str, *, whole: bool) -> Case:
    """Let new content enter at the border, as under a wrong crop."""
    shape = _shape(rng)
    n_channels = int(rng.integers(1, 4))
    n_fitted = int(rng.integers(4, 9))
    moves: Sequence[float] = _moves(rng, shape, content)
    if not whole:
        away = rng.uniform(0.1, 0.9, len(shape)) * (np.array(moves) != 0)
        moves = [float(m) for m in np.array(moves) - np.sign(moves) * away]
    resampling = "fourier" if whole else str(rng.choice(RESAMPLINGS))
    pair = make_pair(
        shape,
        shift=[-m for m in moves],
        content=content,
        n_samples=2 * n_fitted,
        n_channels=n_channels,
        resampling=resampling,
        seed=int(rng.integers(2**31)),
    )
    label = f"window {tuple(moves)} {resampling} {pair.observed.shape}"
    return Case(content, pair.reference, pair.observed, label, n_fitted)


def draw_frac_shift(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `frac-shift`."""
    reference, n = _reference(rng, content)
    moves = np.array(_moves(rng, reference.shape[2:], content), dtype=float)
    moves -= np.sign(moves) * rng.uniform(0.1, 0.9, len(moves))
    return _case(content, reference, n, FAULTS["frac-shift"](displacement=tuple(moves.round(3))))


def _scale_shape(rng: np.random.Generator) -> tuple[int, ...]:
    n_axes = int(rng.choice((1, 2, 2)))
    return tuple(
        int(size) for size in rng.integers(*((96, 257) if n_axes == 1 else (64, 97)), n_axes)
    )


def _growth(rng: np.random.Generator, shape: tuple[int, ...]) -> list[float]:
    return [float(rng.choice((-1, 1)) * rng.uniform(0.3, 2) / (size - 1)) for size in shape]


def draw_scale_corner(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `scale-corner`."""
    shape = _scale_shape(rng)
    reference, n = _reference(rng, content, shape=shape)
    corner = tuple(str(c) for c in rng.choice(["start", "end"], len(shape)))
    fault = FAULTS["scale-corner"](growth=tuple(_growth(rng, shape)), corner=corner)
    return _case(content, reference, n, fault)


def draw_scale_centre(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `scale-centre`."""
    shape = _scale_shape(rng)
    reference, n = _reference(rng, content, shape=shape)
    fault = FAULTS["scale-centre"](ratio=tuple(1 + g for g in _growth(rng, shape)))
    return _case(content, reference, n, fault)


def draw_grid(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `grid-quant`."""
    n_axes = int(rng.choice((1, 2, 2)))
    shape = tuple(
        int(s) for s in rng.integers(*((128, 1025) if n_axes == 1 else (96, 129)), n_axes)
    )
    reference, n = _reference(rng, content, shape=shape)
    return _case(
        content, reference, n, FAULTS["grid-quant"](mode=str(rng.choice(["stored", "all"])))
    )


def draw_row_stride(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `row-stride`."""
    dtype = _dtype(rng)
    reference, n = _reference(rng, content, least_channels=2)
    fault = FAULTS["row-stride"](fill=str(rng.choice(["zero", "random"])))
    return _case(content, reference, n, fault, dtype=dtype)


def draw_flat_offset(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `flat-offset`."""
    reference, n = _reference(rng, content)
    width = reference.shape[-1]
    reach = width // 5
    amount = int(rng.choice((-1, 1)) * rng.integers(1, reach + 1))
    if reference.ndim > 3 and rng.random() < 0.5:
        amount += int(rng.integers(-3, 4)) * width
    fault = FAULTS["flat-offset"](displacement=amount, fill=str(rng.choice(["zero", "random"])))
    return _case(content, reference, n, fault)


def draw_stride_collapse(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `stride-collapse`."""
    reference, n = _reference(rng, content)
    fault = FAULTS["stride-collapse"](stride=(int(rng.integers(2, 5)),))
    return _case(content, reference, n, fault)


def draw_channel_affine(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `channel-affine`."""
    reference, n = _reference(rng, content)
    gain = float(rng.choice((rng.uniform(0.3, 0.98), rng.uniform(1.02, 3.5))))
    bias = float(reference.std() * rng.choice((0.0, rng.uniform(-1, 1))))
    fault = FAULTS["channel-affine"](gain=gain, bias=bias, seed=int(rng.integers(1000)))
    return _case(content, reference, n, fault)


def draw_channel_dead(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `channel-dead`."""
    reference, n = _reference(rng, content, least_channels=2)
    n_channels = reference.shape[1]
    dead = rng.permutation(n_channels)[: int(rng.integers(1, max(2, n_channels // 2 + 1)))]
    value = float(rng.choice((0.0, rng.normal())))
    fault = FAULTS["channel-dead"](channels=tuple(int(c) for c in dead), value=value)
    return _case(content, reference, n, fault, dead=dead)


def draw_edge_gain(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `edge-gain`."""
    reference, n = _reference(rng, content)
    width = int(rng.integers(1, 4))
    gain = float(rng.choice((0.0, 0.25, 0.5, 0.75, 2.0)))
    side = str(rng.choice(["both", "start", "end"]))
    fault = FAULTS["edge-gain"](width=(width,), gain=gain, side=side)
    return _case(content, reference, n, fault, width=width)


def draw_last_elem(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `last-elem`."""
    reference, n = _reference(rng, content)
    error = float(rng.choice((-1, 1)) * rng.uniform(0.3, 3) * reference.std())
    return _case(content, reference, n, FAULTS["last-elem"](error=error))


def draw_saturate(rng: np.random.Generator, content: str) -> Case:
    """Let up to a tenth of the values lie up to 20 % (or as far as they go) beyond the limit."""
    reference, n = _reference(rng, content)
    limit = float(rng.choice((4094.0, 32752.0, 65504.0)))
    size = np.abs(reference[:n])
    largest, inner = float(size.max()), float(np.quantile(size, 1 - rng.uniform(0.005, 0.1)))
    factor = limit / max(inner, largest / (1 + rng.uniform(0.01, 0.2)))
    if (size * factor > limit).sum() < 8:
        factor = limit / float(np.sort(size.ravel())[-9])
    reference = (reference * factor).astype(np.float32)
    fault = FAULTS["saturate"](limit=limit, to=str(rng.choice(["clamp", "inf", "zero"])))
    return _case(content, reference, n, fault, dtype=np.float32)


def draw_cliff(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `cliff`."""
    reference, n = _reference(rng, content)
    values = reference[:n]
    threshold = float(np.quantile(values, rng.uniform(0.6, 0.98)))
    if (values > threshold).sum() < 8:
        threshold = float(np.sort(values.ravel())[-9])
    low, high = float(values.min()), float(values.max())
    value = float(rng.choice((0.0, rng.uniform(low, high))))
    fault = FAULTS["cliff"](threshold=threshold, value=value)
    return _case(content, reference, n, fault, threshold=threshold, value=value)


def draw_lut_bias(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `lut-bias`."""
    reference, n = _reference(rng, content)
    # Spread over the table, as the arguments of an activation are.
    reference = (reference * (rng.uniform(1, 3) / reference.std())).astype(np.float32)
    function = str(rng.choice(["sigmoid", "tanh", "gelu", "swish"]))
    fault = FAULTS["lut-bias"](function=function, knots=int(rng.choice((9, 17, 33))))
    return _case(content, reference, n, fault)


def draw_flush(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `flush`."""
    reference, n = _reference(rng, content)
    reference = (reference / reference.std() * 2.0 ** rng.uniform(-14, 0)).astype(np.float32)
    return _case(content, reference, n, FAULTS["flush"]())


def draw_fp16_round(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `fp16-round`."""
    reference, n = _reference(rng, content)
    return _case(content, reference, n, FAULTS["fp16-round"](), dtype=_dtype(rng))


def draw_noise(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `noise`."""
    reference, n = _reference(rng, content)
    relative = float(np.exp(rng.uniform(math.log(0.001), math.log(0.04))))
    case = _case(content, reference, n, FAULTS["noise"](relative=relative))
    spread = reference.std(axis=(0, *range(2, reference.ndim)))
    rms = np.sqrt(np.square(reference).mean(axis=(0, *range(2, reference.ndim))))
    case.facts["share"] = float((relative * rms / np.maximum(spread, 1e-30)).max())
    return case


def draw_garbage(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `garbage`."""
    reference, n = _reference(rng, content)
    return _case(content, reference, n, FAULTS["garbage"](strength=float(rng.uniform(1, 2))))


def draw_prefix_only(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `prefix-only`."""
    reference, n = _reference(rng, content)
    along = str(rng.choice(["flat", "last"]))
    most = reference.shape[-1] if along == "last" else reference[0].size
    length = int(rng.integers(3, most // 2))
    return _case(content, reference, n, FAULTS["prefix-only"](length=length, along=along))


def draw_compose(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of `compose`."""
    reference, n = _reference(rng, content)
    moves = _moves(rng, reference.shape[2:], content)
    gain, bias = float(rng.uniform(0.8, 1.25)), float(rng.uniform(-0.2, 0.2) * reference.std())
    fault = Compose(
        [
            FAULTS["int-shift"](displacement=moves),
            FAULTS["channel-affine"](gain=gain, bias=bias, seed=int(rng.integers(1000))),
            FAULTS["fp16-round"](),
        ]
    )
    return _case(content, reference, n, fault)


def draw_channel_order(rng: np.random.Generator, content: str) -> Case:
    """Draw a case of channels in another order."""
    reference, n = _reference(rng, content, least_channels=2)
    order = np.arange(reference.shape[1])
    while (order == np.arange(len(order))).all():
        order = rng.permutation(len(order))
    observed = reference[:, order].astype(np.float16)
    return Case(content, reference, observed, f"order {order} {observed.shape}", n)
