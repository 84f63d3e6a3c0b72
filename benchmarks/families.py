# SPDX-License-Identifier: BSD-3-Clause
"""Count how often each fault is named rightly, and whether corrections keep their word.

    python benchmarks/families.py                       # 4 cases per fault, under a minute
    python benchmarks/families.py --full                # 100 per fault
    python benchmarks/families.py --full --write-docs   # ... and write docs/families.md
    python benchmarks/families.py --fault cliff --full  # one fault alone, each failure in a line

Every case draws content, sizes and the fault's parameters from its own seed, estimates from half
of the samples, and tries the emitted correction on the other half, which the estimate never saw.
The exit code is 1 where a fault is named rightly in less than 95 of 100 cases, faithful fp16 is
corrected, or a correction makes fresh samples worse beyond its standard error.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convcal.arithmetic import correct
from convcal.datasets import CONTENTS, RESAMPLINGS, make_pair
from convcal.estimation import Estimate, estimate
from convcal.estimation.rounding import rounding_level
from convcal.faults import FAULTS, ArrayFault, Compose

DOCS = pathlib.Path(__file__).parent.parent / "docs" / "families.md"
MARKS = ("<!-- benchmarks/families.py writes what follows -->", "<!-- to here -->")
WANTED = 0.95
# A residual of one tolerance is rounding by definition; held-out data may show a little less.
ROUNDING_UP_TO = 1.25
SHOWN = tuple(content for content in CONTENTS if content != "constant")


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


Draw = Callable[[np.random.Generator, str], Case]


@dataclass(frozen=True)
class Otherwise:
    """Where another family is right too, or instead."""

    when: str
    holds: Callable[[Case], bool]
    families: tuple[str, ...]
    instead: bool = False


@dataclass(frozen=True)
class Row:
    """One fault, how its cases are drawn, and which family is right."""

    name: str
    family: str
    draw: Draw
    drawn: str
    exceptions: tuple[Otherwise, ...] = ()
    contents: tuple[str, ...] = SHOWN

    def right(self, case: Case) -> tuple[str, ...]:
        """Give the families that are right for a case."""
        families = (self.family,)
        for other in (*self.exceptions, INVISIBLE):
            if other.holds(case):
                if other.instead:
                    return other.families
                families += other.families
        return families


# How the cases are drawn


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


def _int_shift(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    moves = _moves(rng, reference.shape[2:], content)
    fill = str(rng.choice(["edge", "zero", "wrap", "random"]))
    return _case(content, reference, n, FAULTS["int-shift"](displacement=moves, fill=fill))


def _window(rng: np.random.Generator, content: str, *, whole: bool) -> Case:
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


def _frac_shift(rng: np.random.Generator, content: str) -> Case:
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


def _scale_corner(rng: np.random.Generator, content: str) -> Case:
    shape = _scale_shape(rng)
    reference, n = _reference(rng, content, shape=shape)
    corner = tuple(str(c) for c in rng.choice(["start", "end"], len(shape)))
    fault = FAULTS["scale-corner"](growth=tuple(_growth(rng, shape)), corner=corner)
    return _case(content, reference, n, fault)


def _scale_centre(rng: np.random.Generator, content: str) -> Case:
    shape = _scale_shape(rng)
    reference, n = _reference(rng, content, shape=shape)
    fault = FAULTS["scale-centre"](ratio=tuple(1 + g for g in _growth(rng, shape)))
    return _case(content, reference, n, fault)


def _grid(rng: np.random.Generator, content: str) -> Case:
    n_axes = int(rng.choice((1, 2, 2)))
    shape = tuple(
        int(s) for s in rng.integers(*((128, 1025) if n_axes == 1 else (96, 129)), n_axes)
    )
    reference, n = _reference(rng, content, shape=shape)
    return _case(
        content, reference, n, FAULTS["grid-quant"](mode=str(rng.choice(["stored", "all"])))
    )


def _row_stride(rng: np.random.Generator, content: str) -> Case:
    dtype = _dtype(rng)
    reference, n = _reference(rng, content, least_channels=2)
    fault = FAULTS["row-stride"](fill=str(rng.choice(["zero", "random"])))
    return _case(content, reference, n, fault, dtype=dtype)


def _flat_offset(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    width = reference.shape[-1]
    reach = width // 5
    amount = int(rng.choice((-1, 1)) * rng.integers(1, reach + 1))
    if reference.ndim > 3 and rng.random() < 0.5:
        amount += int(rng.integers(-3, 4)) * width
    fault = FAULTS["flat-offset"](displacement=amount, fill=str(rng.choice(["zero", "random"])))
    return _case(content, reference, n, fault)


def _stride_collapse(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    fault = FAULTS["stride-collapse"](stride=(int(rng.integers(2, 5)),))
    return _case(content, reference, n, fault)


def _channel_affine(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    gain = float(rng.choice((rng.uniform(0.3, 0.98), rng.uniform(1.02, 3.5))))
    bias = float(reference.std() * rng.choice((0.0, rng.uniform(-1, 1))))
    fault = FAULTS["channel-affine"](gain=gain, bias=bias, seed=int(rng.integers(1000)))
    return _case(content, reference, n, fault)


def _channel_dead(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content, least_channels=2)
    n_channels = reference.shape[1]
    dead = rng.permutation(n_channels)[: int(rng.integers(1, max(2, n_channels // 2 + 1)))]
    value = float(rng.choice((0.0, rng.normal())))
    fault = FAULTS["channel-dead"](channels=tuple(int(c) for c in dead), value=value)
    return _case(content, reference, n, fault, dead=dead)


def _edge_gain(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    width = int(rng.integers(1, 4))
    gain = float(rng.choice((0.0, 0.25, 0.5, 0.75, 2.0)))
    side = str(rng.choice(["both", "start", "end"]))
    fault = FAULTS["edge-gain"](width=(width,), gain=gain, side=side)
    return _case(content, reference, n, fault, width=width)


def _last_elem(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    error = float(rng.choice((-1, 1)) * rng.uniform(0.3, 3) * reference.std())
    return _case(content, reference, n, FAULTS["last-elem"](error=error))


def _saturate(rng: np.random.Generator, content: str) -> Case:
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


def _cliff(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    values = reference[:n]
    threshold = float(np.quantile(values, rng.uniform(0.6, 0.98)))
    if (values > threshold).sum() < 8:
        threshold = float(np.sort(values.ravel())[-9])
    low, high = float(values.min()), float(values.max())
    value = float(rng.choice((0.0, rng.uniform(low, high))))
    fault = FAULTS["cliff"](threshold=threshold, value=value)
    return _case(content, reference, n, fault, threshold=threshold, value=value)


def _lut_bias(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    # Spread over the table, as the arguments of an activation are.
    reference = (reference * (rng.uniform(1, 3) / reference.std())).astype(np.float32)
    function = str(rng.choice(["sigmoid", "tanh", "gelu", "swish"]))
    fault = FAULTS["lut-bias"](function=function, knots=int(rng.choice((9, 17, 33))))
    return _case(content, reference, n, fault)


def _flush(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    reference = (reference / reference.std() * 2.0 ** rng.uniform(-14, 0)).astype(np.float32)
    return _case(content, reference, n, FAULTS["flush"]())


def _fp16_round(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    return _case(content, reference, n, FAULTS["fp16-round"](), dtype=_dtype(rng))


def _noise(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    relative = float(np.exp(rng.uniform(math.log(0.001), math.log(0.04))))
    case = _case(content, reference, n, FAULTS["noise"](relative=relative))
    spread = reference.std(axis=(0, *range(2, reference.ndim)))
    rms = np.sqrt(np.square(reference).mean(axis=(0, *range(2, reference.ndim))))
    case.facts["share"] = float((relative * rms / np.maximum(spread, 1e-30)).max())
    return case


def _garbage(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    return _case(content, reference, n, FAULTS["garbage"](strength=float(rng.uniform(1, 2))))


def _prefix_only(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content)
    along = str(rng.choice(["flat", "last"]))
    most = reference.shape[-1] if along == "last" else reference[0].size
    length = int(rng.integers(3, most // 2))
    return _case(content, reference, n, FAULTS["prefix-only"](length=length, along=along))


def _compose(rng: np.random.Generator, content: str) -> Case:
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


def _channel_order(rng: np.random.Generator, content: str) -> Case:
    reference, n = _reference(rng, content, least_channels=2)
    order = np.arange(reference.shape[1])
    while (order == np.arange(len(order))).all():
        order = rng.permutation(len(order))
    observed = reference[:, order].astype(np.float16)
    return Case(content, reference, observed, f"order {order} {observed.shape}", n)


# What is right

INVISIBLE = Otherwise(
    f"up to {ROUNDING_UP_TO} times what a faithful fp16 network may leave",
    lambda case: case.level <= ROUNDING_UP_TO,
    ("rounding", "identical"),
)
REPEATS = Otherwise(
    "a lattice, every axis at least 32 long: it repeats within the search",
    lambda case: case.content == "lattice" and min(case.reference.shape[2:]) >= 32,
    ("periodic",),
    instead=True,
)
MAY_REPEAT = Otherwise("a lattice", lambda case: case.content == "lattice", ("periodic",))

ROWS: tuple[Row, ...] = (
    Row("int-shift", "shift", _int_shift, "up to 4 px per axis, all fills", (REPEATS, MAY_REPEAT)),
    Row(
        "crop",
        "shift",
        lambda rng, content: _window(rng, content, whole=True),
        "as int-shift, but new content enters",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "frac-shift",
        "sub-pixel-shift",
        _frac_shift,
        "0.1 to 3.9 px per axis",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "window",
        "sub-pixel-shift",
        lambda rng, content: _window(rng, content, whole=False),
        "as frac-shift, but new content enters; band-limited, by areas or linear",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "channel-affine",
        "affine",
        _channel_affine,
        "gain 0.3 to 3.5, bias up to the spread",
        (MAY_REPEAT,),
    ),
    Row(
        "compose",
        "shift",
        _compose,
        "int-shift + channel-affine + fp16-round",
        (REPEATS, MAY_REPEAT),
    ),
    Row(
        "scale-corner",
        "scale",
        _scale_corner,
        "0.3 to 2 px over 64 to 256 positions",
        (MAY_REPEAT,),
    ),
    Row(
        "scale-centre",
        "scale",
        _scale_centre,
        "0.3 to 2 px over 64 to 256 positions",
        (MAY_REPEAT,),
    ),
    Row("grid-quant", "grid", _grid, "both modes, 96 to 1024 positions", (MAY_REPEAT,)),
    Row("row-stride", "row-stride", _row_stride, "both fills, float16 and float32"),
    Row(
        "flat-offset",
        "flat-offset",
        _flat_offset,
        "up to a fifth of a row and 3 rows",
        (
            Otherwise(
                "one channel of sound: there is no other row to come from",
                lambda case: case.n_axes == 1 and case.reference.shape[1] == 1,
                ("shift",),
            ),
            Otherwise(
                "stripes, whose rows are all alike",
                lambda case: case.content == "stripes",
                ("shift",),
            ),
            MAY_REPEAT,
        ),
    ),
    Row("stride-collapse", "stride-collapse", _stride_collapse, "stride 2 to 4"),
    Row("channel-dead", "dead-channel", _channel_dead, "up to half of the channels"),
    Row("channel-order", "channel-order", _channel_order, "any other order"),
    Row(
        "edge-gain",
        "edge",
        _edge_gain,
        "width 1 to 3, gain 0 to 2, all sides",
        (
            Otherwise(
                "one position wide, in 1-D",
                lambda case: case.n_axes == 1 and case.facts["width"] == 1,
                ("element",),
            ),
        ),
    ),
    Row(
        "last-elem",
        "element",
        _last_elem,
        "0.3 to 3 times the spread",
    ),
    Row("saturate", "saturation", _saturate, "1 to 20 % beyond each limit, all ways"),
    Row("cliff", "cliff", _cliff, "2 to 40 % of the values beyond the threshold"),
    Row(
        "lut-bias",
        "tabulated",
        _lut_bias,
        "9 to 33 knots, values spread over the table",
        (
            Otherwise(
                f"gain and bias leave up to {ROUNDING_UP_TO} times that of a faithful network",
                lambda case: case.level_after_lines <= ROUNDING_UP_TO,
                ("affine",),
            ),
        ),
    ),
    Row("flush", "flush", _flush, "outputs of 2**-14 to 1"),
    Row("fp16-round", "rounding", _fp16_round, "nothing else", contents=SHOWN),
    Row(
        "noise",
        "noise",
        _noise,
        "0.1 to 4 %",
        (
            Otherwise(
                "a third of the reference's spread or more",
                lambda case: case.facts["share"] > 1 / 3,
                ("unstructured",),
            ),
        ),
    ),
    Row("garbage", "unstructured", _garbage, "1 to 2 times the output's spread"),
    Row("prefix-only", "prefix", _prefix_only, "3 elements to half of all"),
    Row("(any)", "constant", _compose, "constant content", contents=("constant",)),
)


# Counting


@dataclass
class Count:
    """What became of the cases of one fault."""

    row: Row
    n_cases: int = 0
    n_right: int = 0
    n_invisible: int = 0
    n_corrected: int = 0
    n_worse: int = 0
    wrong: Counter[str] = field(default_factory=Counter)


def made_worse(case: Case, result: Estimate) -> bool:
    """Tell whether the correction makes fresh samples worse, beyond the standard error."""
    ref = case.reference[case.n_fitted :].astype(np.float64)
    obs = case.observed[case.n_fitted :]
    corrected = correct(
        obs,
        filters=result.filters,
        gain=result.gain,
        bias=result.bias,
        resampling=result.resampling,
        rows=result.rows,
    )
    window = tuple(
        slice(start, size - end)
        for (start, end), size in zip(result.margins, ref.shape[2:], strict=True)
    )
    window = (slice(None), slice(None), *window)
    errors = []
    for array in (obs, corrected):
        with np.errstate(invalid="ignore"):
            error = np.square(ref[window] - array[window].astype(np.float64))
        finite = np.isfinite(error)
        kept = np.where(finite, error, 0.0).reshape(len(ref), -1)
        errors.append(kept.sum(axis=1) / np.maximum(finite.reshape(len(ref), -1).sum(axis=1), 1))
    loss = errors[1] - errors[0]
    return bool(loss.mean() > 2 * loss.std(ddof=1) / math.sqrt(len(loss)) and loss.mean() > 0)


def run(row: Row, n_cases: int, *, is_verbose: bool) -> Count:
    """Draw, estimate and count the cases of one fault."""
    count = Count(row)
    for number in range(n_cases):
        rng = np.random.default_rng([zlib.crc32(row.name.encode()), number])
        content = row.contents[number % len(row.contents)]
        case = row.draw(rng, content)
        result = estimate(case.reference[: case.n_fitted], case.observed[: case.n_fitted])
        right = row.right(case)
        count.n_cases += 1
        count.n_invisible += row.family not in right or INVISIBLE.holds(case)
        is_right = result.family in right
        count.n_right += is_right
        is_worse = False
        if result.model != "identity":
            count.n_corrected += 1
            is_worse = made_worse(case, result)
            count.n_worse += is_worse
        if not is_right:
            count.wrong[result.family] += 1
        if is_verbose and (is_worse or not is_right):
            worse = " MADE WORSE" if is_worse else ""
            print(
                f"  {number} {content} {case.label} level {case.level:.3g}: {result.verdict} "
                f"{result.family}, not {'/'.join(right)}{worse}: {result.reason}"
            )
    return count


def table(counts: Sequence[Count]) -> str:
    """Give the counts as tables in Markdown."""
    lines = [
        "| fault | drawn | right family | named rightly | wrong names | corrected | made worse |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        row = count.row
        wrong = ", ".join(f"{name} {n}" for name, n in count.wrong.most_common()) or "-"
        lines.append(
            f"| `{row.name}` | {row.drawn} | `{row.family}` | {count.n_right} of {count.n_cases} | "
            f"{wrong} | {count.n_corrected} | {count.n_worse} |"
        )
    n_cases = sum(count.n_cases for count in counts)
    n_corrected = sum(count.n_corrected for count in counts)
    n_worse = sum(count.n_worse for count in counts)
    lines += [
        "",
        f"Of {n_cases} cases {n_corrected} were corrected, which made {n_worse} of them worse.",
        "",
        "| fault | where | right too, or instead |",
        "|---|---|---|",
        f"| all | {INVISIBLE.when} | {_names(INVISIBLE)} |",
    ]
    lines += [
        f"| `{row.name}` | {other.when} | {_names(other)}{', instead' if other.instead else ''} |"
        for row in ROWS
        for other in row.exceptions
    ]
    return "\n".join(lines)


def _names(other: Otherwise) -> str:
    return ", ".join(f"`{family}`" for family in other.families)


def failures(counts: Sequence[Count]) -> list[str]:
    """Say what falls short of issue 3."""
    found = []
    for count in counts:
        # Of a few cases one may be wrong: 95 of 100 allow five.
        if count.n_cases - count.n_right > max(1.0, (1 - WANTED) * count.n_cases + 1e-9):
            found.append(f"{count.row.name}: {count.n_right} of {count.n_cases} named rightly")
        if count.n_worse:
            found.append(f"{count.row.name}: {count.n_worse} corrections made fresh samples worse")
        if count.row.name == "fp16-round" and count.n_corrected:
            found.append(f"faithful fp16 was corrected in {count.n_corrected} cases")
    return found


def write_docs(counts: Sequence[Count]) -> None:
    """Put the tables between their marks."""
    before, start, rest = DOCS.read_text("utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    DOCS.write_text(f"{before}{start}\n{table(counts)}\n{end}{after}", "utf-8")


def main() -> int:
    """Run, print and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="100 cases per fault instead of 4")
    parser.add_argument("--cases", type=int, help="so many cases per fault")
    parser.add_argument("--fault", action="append", help="this one alone (may be repeated)")
    parser.add_argument("--verbose", action="store_true", help="print each failure")
    parser.add_argument("--write-docs", action="store_true", help="write the tables into docs/")
    options = parser.parse_args()
    n_cases = options.cases or (100 if options.full else 4)
    start = time.perf_counter()
    counts = []
    for row in ROWS:
        if options.fault and row.name not in options.fault:
            continue
        is_verbose = options.verbose or bool(options.fault)
        counts.append(run(row, n_cases, is_verbose=is_verbose))
        last = counts[-1]
        print(
            f"{row.name:16} {last.n_right:3} of {last.n_cases} named {row.family}; "
            f"wrong: {dict(last.wrong)}; corrected {last.n_corrected}, worse {last.n_worse}",
            flush=True,
        )
    print(f"{time.perf_counter() - start:.0f} s")
    if options.write_docs:
        write_docs(counts)
    wrong = failures(counts)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
