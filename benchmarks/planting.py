# SPDX-License-Identifier: BSD-3-Clause
"""Faults for a tensor inside a network: parameters that show on what it holds, from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convcal.coreml.crop import crop_of
from convcal.coreml.program import Operation
from convcal.faults import FAULTS, Fault

Array = np.ndarray[Any, Any]
# ruff: noqa: ARG001, ARG005 - all draws, and all exceptions, are called alike
Draw = Callable[[np.random.Generator, Array], Fault | None]
"""From a generator and the clean tensor, (N, C, *space), to a fault; None where it has no place."""


def _spatial(values: Array) -> tuple[int, ...]:
    return values.shape[2:]


def _moves(rng: np.random.Generator, values: Array) -> list[int] | None:
    """Draw whole displacements of axes that are long enough, not all 0."""
    most = [min(3, size // 8) for size in _spatial(values)]
    if not any(most):
        return None
    while True:
        moves = [int(rng.integers(-each, each + 1)) for each in most]
        if any(moves):
            return moves


def int_shift(rng: np.random.Generator, values: Array) -> Fault | None:
    """Move by whole pixels, up to three."""
    moves = _moves(rng, values)
    fill = str(rng.choice(["edge", "zero", "random"]))
    return moves and FAULTS["int-shift"](displacement=tuple(moves), fill=fill)


def _is_smooth(values: Array) -> bool:
    """Tell whether neighbours along every axis are related: what is between them has a meaning."""
    for axis, size in enumerate(_spatial(values), start=2):
        if size < 2:
            continue
        centred = values.astype(np.float64) - values.mean(
            axis=tuple(range(2, values.ndim)), keepdims=True, dtype=np.float64
        )
        first = np.take(centred, range(size - 1), axis)
        second = np.take(centred, range(1, size), axis)
        power = float(np.sum(np.square(centred)))
        if not power or float(np.sum(first * second)) < 0.5 * power:
            return False
    return True


def crop_origin(rng: np.random.Generator, values: Array) -> Fault | None:
    """Let the crop of a transposed convolution begin at 0."""
    return FAULTS["crop-origin"](variant="zero")


def frac_shift(rng: np.random.Generator, values: Array) -> Fault | None:
    """Move by a fraction of a pixel, as a resize with the wrong alignment."""
    moves = _moves(rng, values)
    if not moves or not _is_smooth(values):
        return None
    parts = [np.sign(move) * rng.uniform(0.2, 0.8) for move in moves]
    return FAULTS["frac-shift"](displacement=tuple(float(round(each, 3)) for each in parts))


def _growth(rng: np.random.Generator, values: Array) -> list[float] | None:
    if not _spatial(values) or min(_spatial(values)) < 24 or not _is_smooth(values):
        return None
    return [float(rng.choice((-1, 1)) * rng.uniform(0.8, 2) / (n - 1)) for n in _spatial(values)]


def scale_corner(rng: np.random.Generator, values: Array) -> Fault | None:
    """Stretch about a corner by one or two pixels over the axis."""
    growth = _growth(rng, values)
    return growth and FAULTS["scale-corner"](growth=tuple(growth))


def scale_centre(rng: np.random.Generator, values: Array) -> Fault | None:
    """Stretch about the centre as much."""
    growth = _growth(rng, values)
    return growth and FAULTS["scale-centre"](ratio=tuple(1 + each for each in growth))


def row_stride(rng: np.random.Generator, values: Array) -> Fault | None:
    """Read rows without their padding; there must be some, and rows."""
    if values.ndim < 3 or values.shape[-1] < 8 or (values.shape[-1] * 2) % 64 == 0:
        return None
    if values[0, ..., 0].size < 4:
        return None
    return FAULTS["row-stride"](fill=str(rng.choice(["zero", "random"])))


def flat_offset(rng: np.random.Generator, values: Array) -> Fault | None:
    """Begin to read some elements too early or too late."""
    if values.ndim < 3 or values.shape[-1] < 16:
        return None
    reach = min(6, values.shape[-1] // 5)
    return FAULTS["flat-offset"](
        displacement=int(rng.choice((-1, 1)) * rng.integers(1, reach + 1)), fill="random"
    )


def stride_collapse(rng: np.random.Generator, values: Array) -> Fault | None:
    """Crowd the content together."""
    if not _spatial(values) or min(_spatial(values)) < 8:
        return None
    return FAULTS["stride-collapse"](stride=(2,))


def channel_affine(rng: np.random.Generator, values: Array) -> Fault | None:
    """Give every channel a gain and a bias of its own."""
    gain = float(rng.choice((rng.uniform(0.4, 0.95), rng.uniform(1.05, 3.0))))
    bias = float(values.astype(np.float64).std() * rng.choice((0.0, rng.uniform(-0.5, 0.5))))
    return FAULTS["channel-affine"](gain=gain, bias=bias)


def channel_dead(rng: np.random.Generator, values: Array) -> Fault | None:
    """Kill some channels that live."""
    alive = np.flatnonzero(np.ptp(values, axis=(0, *range(2, values.ndim))) > 0)
    if values.shape[1] < 2 or len(alive) < 2:
        return None
    dead = rng.permutation(alive)[: int(rng.integers(1, max(2, len(alive) // 4)))]
    return FAULTS["channel-dead"](channels=tuple(sorted(int(each) for each in dead)))


def edge_gain(rng: np.random.Generator, values: Array) -> Fault | None:
    """Spoil the border."""
    if not _spatial(values) or min(_spatial(values)) < 10:
        return None
    return FAULTS["edge-gain"](
        width=(int(rng.integers(1, 3)),),
        gain=float(rng.choice((0.25, 0.5, 2.0))),
        side=str(rng.choice(["both", "start", "end"])),
    )


def last_element(rng: np.random.Generator, values: Array) -> Fault | None:
    """Spoil the last element."""
    error = float(rng.choice((-1, 1)) * rng.uniform(0.5, 3) * values.astype(np.float64).std())
    return FAULTS["last-elem"](error=error) if error else None


def saturate(rng: np.random.Generator, values: Array) -> Fault | None:
    """Clip the largest values."""
    size = np.unique(np.abs(values.astype(np.float64)))
    if size.size < 50:
        return None
    limit = float(np.quantile(size, rng.uniform(0.8, 0.97)))
    return FAULTS["saturate"](limit=limit, to=str(rng.choice(["clamp", "inf"])))


def cliff(rng: np.random.Generator, values: Array) -> Fault | None:
    """Take the wrong branch above a threshold."""
    known = np.unique(values.astype(np.float64))
    if known.size < 50:
        return None
    threshold = float(np.quantile(known, rng.uniform(0.7, 0.95)))
    return FAULTS["cliff"](threshold=threshold, value=0.0) if threshold > 0 else None


def noise(rng: np.random.Generator, values: Array) -> Fault | None:
    """Add noise that fp16 does not explain."""
    return FAULTS["noise"](relative=float(rng.uniform(0.03, 0.2)), seed=int(rng.integers(1000)))


def garbage(rng: np.random.Generator, values: Array) -> Fault | None:
    """Add noise as large as the content."""
    return FAULTS["garbage"](strength=float(rng.uniform(1, 2)), seed=int(rng.integers(1000)))


def prefix_only(rng: np.random.Generator, values: Array) -> Fault | None:
    """Let only the first elements be right."""
    if values.ndim < 3 or values[0].size < 64:
        return None
    length = int(rng.integers(values[0].size // 8, values[0].size // 2))
    return FAULTS["prefix-only"](length=length, along="flat", seed=int(rng.integers(1000)))


@dataclass(frozen=True)
class Otherwise:
    """Where another family is right too, for what the tensor and the fault are.

    Parameters
    ----------
    when : str
    holds : callable
        Tells it from the clean tensor, (N, C, *space), and the fault.
    families : tuple of str
    """

    when: str
    holds: Callable[[Array, Any], bool]
    families: tuple[str, ...]


ONE_POSITION = Otherwise(
    "one position per channel: an element is a channel",
    lambda values, fault: values[0, 0].size == 1,
    ("affine",),
)
ONE_WIDE = Otherwise(
    "one position wide, in 1-D: an edge is an element",
    lambda values, fault: values.ndim == 3 and fault.width == (1,),
    ("element",),
)

ONE_ROW = Otherwise(
    "one channel of one row: there is no other row to come from",
    lambda values, fault: values.ndim == 3 and values.shape[1] == 1,
    ("shift",),
)


@dataclass(frozen=True)
class Planted:
    """A fault that is planted, and which family is right.

    Parameters
    ----------
    name : str
        The fault's.
    draw : callable
    families : tuple of str
        Those that are right everywhere.
    exceptions : tuple of Otherwise
    acts_on : callable
        Tells on which operations it acts.
    """

    name: str
    draw: Draw
    families: tuple[str, ...]
    exceptions: tuple[Otherwise, ...] = ()
    acts_on: Callable[[Operation], bool] = lambda operation: True

    def right(self, values: Array, fault: Fault) -> tuple[str, ...]:
        """Give the families that are right for a tensor and a fault."""
        others = (each for each in self.exceptions if each.holds(values, fault))
        return self.families + tuple(family for each in others for family in each.families)


def _has_uneven_crop(operation: Operation) -> bool:
    """Tell whether a crop does not begin at 0, and is one that devices get wrong."""
    if operation.type != "conv_transpose":
        return False
    crop = crop_of(operation)
    return not crop.is_regular and any(crop.begin)


PLANTED = (
    Planted("crop-origin", crop_origin, ("shift",), acts_on=_has_uneven_crop),
    Planted("int-shift", int_shift, ("shift",)),
    Planted("frac-shift", frac_shift, ("sub-pixel-shift",)),
    Planted("scale-corner", scale_corner, ("scale",)),
    Planted("scale-centre", scale_centre, ("scale",)),
    Planted("row-stride", row_stride, ("row-stride",)),
    Planted("flat-offset", flat_offset, ("flat-offset",), (ONE_ROW,)),
    Planted("stride-collapse", stride_collapse, ("stride-collapse",)),
    Planted("channel-affine", channel_affine, ("affine",)),
    Planted("channel-dead", channel_dead, ("dead-channel",)),
    Planted("edge-gain", edge_gain, ("edge",), (ONE_WIDE,)),
    Planted("last-elem", last_element, ("element",), (ONE_POSITION,)),
    Planted("saturate", saturate, ("saturation",)),
    Planted("cliff", cliff, ("cliff",)),
    Planted("noise", noise, ("noise", "unstructured")),
    Planted("garbage", garbage, ("unstructured",)),
    Planted("prefix-only", prefix_only, ("prefix",)),
)
