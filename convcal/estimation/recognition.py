# SPDX-License-Identifier: BSD-3-Clause
"""Rules that name errors with a structure of their own.

Each gives a judgement where it recognises one, else None. `convcal.estimation.verdict` puts them
in order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from convcal.estimation.addressing import (
    find_channel_order,
    find_collapse,
    find_flat_offset,
)
from convcal.estimation.facts import Facts
from convcal.estimation.judgement import Judgement, conclude, helps, refuse, unit
from convcal.estimation.places import find_edge, find_elements, find_prefix
from convcal.estimation.thresholds import Threshold, find_threshold, value_dependence
from convcal.words import AXES

__all__ = [
    "channel_order",
    "dead_channels",
    "flat_offset",
    "prefix",
    "row_stride",
    "stride_collapse",
    "tabulated",
    "threshold",
    "warp",
    "wrong_places",
]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Neighbours in the residual, sorted by value, correlate more than this where the value decides.
_OF_VALUE = 0.8


def wrong_places(facts: Facts) -> Judgement | None:
    """Name what is right but for the border, or but for an element."""
    if not facts.is_wrong.any() or facts.reference.ndim < 3:
        return None
    elements = find_elements(facts.is_wrong)
    if elements is not None:
        spoilt = _positions(facts.is_wrong)
        if facts.level_without(spoilt) > 1:
            return None
        facts.findings["elements"] = [list(position) for position in elements]
        places = ", ".join(str(position) for position in elements)
        share = float(facts.is_wrong.sum() / (spoilt.sum() * math.prod(facts.reference.shape[:2])))
        return refuse(
            facts,
            "not-correctable",
            "element",
            f"only the values at {places} are wrong, in {share:.0%} of the planes; all others "
            "differ by rounding only: leave these out, or compute them from their neighbours",
        )
    edge = find_edge(facts.reference, facts.observed, facts.is_wrong, allowance=facts.allowance)
    if edge is None or facts.level_without(_positions(facts.is_wrong)) > 1:
        return None
    facts.findings["edge"] = {"width": edge.width, "sides": [list(s) for s in edge.sides]}
    names = AXES[len(facts.limits)]
    sides = ", ".join(names[axis][1 if end == "start" else 2] for axis, end in edge.sides)
    by = "" if math.isnan(edge.gain) else f" (observed over reference there: {edge.gain:.3g})"
    return refuse(
        facts,
        "not-correctable",
        "edge",
        f"only values within {edge.width} {unit(facts.limits)} of the border are wrong{by}, at "
        f"the {sides}; the interior differs by rounding only: pad the input and crop the output, "
        "or keep the operation that pads in fp32",
    )


def _positions(is_wrong: Mask) -> Mask:
    """Tell which positions are wrong in any plane, shape (1, 1, *spatial)."""
    positions: Mask = np.asarray(is_wrong.any(axis=(0, 1), keepdims=True))
    return positions


def threshold(facts: Facts) -> Judgement | None:
    """Name what is right but for the values beyond a threshold."""
    if not facts.is_wrong.any() or facts.is_flat.all():
        return None
    found = find_threshold(
        facts.reference, facts.observed, facts.is_wrong, allowance=facts.allowance
    )
    if found is None or facts.level_without(facts.is_wrong) > 1:
        return None
    facts.findings["threshold"] = found.threshold
    family = {"limit": "saturation"}.get(found.kind, found.kind)
    next_step = {
        "limit": "scale down before the operation that overflows and up after it",
        "cliff": "the operation takes a wrong branch there: rewrite it so that its argument stays "
        "small, or keep it in fp32",
        "flush": "scale up before the operation that loses them and down after it",
    }[found.kind]
    return refuse(
        facts,
        "not-correctable",
        family,
        f"{_in_words(found)} ({found.share:.2%} of the values); the rest differs by rounding "
        f"only: {next_step}",
    )


def _in_words(found: Threshold) -> str:
    """Say where the reference has which values, and what became of them."""
    became = f"{found.value:.6g}" if math.isfinite(found.value) else "not finite"
    if found.kind == "flush":
        side = f"within {found.threshold:.6g} of 0"
    else:
        side = f"{found.threshold:.6g} or {'more' if found.threshold > 0 else 'less'}"
    text = f"where the reference is {side}, the observed output is {became}"
    return text if found.other is None else f"{text}; {_in_words(found.other)}"


def dead_channels(facts: Facts) -> Judgement | None:
    """Name channels without content where the others are right, or become so."""
    dead = facts.is_flat & facts.has_signal
    if not dead.any():
        return None
    left_out = dead.reshape(1, -1, *(1,) * (facts.reference.ndim - 2))
    names = np.flatnonzero(dead).tolist()
    lost = f"channels {names} are constant in the observed output where the reference is not"
    if facts.level_without(left_out) <= 1:
        return refuse(
            facts,
            "not-correctable",
            "dead-channel",
            f"{lost}: their content is lost; the others differ by rounding only; look for a "
            "constant that fp16 cannot hold (a variance above 65504)",
        )
    if not facts.is_corrected or facts.level_without(left_out, is_corrected=True) > 1:
        return None
    reason = f"{helps(facts.choice.chosen, facts.level_after)}; {lost}: their content is lost"
    return conclude(facts, "partly-correctable", "dead-channel", reason, facts.candidate)


def channel_order(facts: Facts) -> Judgement | None:
    """Name channels that are right and in another order."""
    order = find_channel_order(facts.reference, facts.observed)
    if order is None:
        return None
    facts.findings["channel_order"] = order
    return refuse(
        facts,
        "not-correctable",
        "channel-order",
        f"the observed channels are the reference's in another order: {order} hold what the "
        "reference has in 0, 1, …; put them in order where the outputs are read",
    )


def stride_collapse(facts: Facts) -> Judgement | None:
    """Name content that is crowded together, with zeros behind."""
    if facts.reference.ndim < 3:
        return None
    tails = find_collapse(facts.reference, facts.observed, least=3 * facts.level.single)
    if tails is None:
        return None
    filled = tuple(slice(None) if tail is None else slice(tail) for tail in (None, None, *tails))
    if facts.in_tolerances((facts.reference - facts.observed)[filled]) <= 1:
        return None
    facts.findings["zero_from"] = tails
    spatial = facts.reference.shape[2:]
    where = ", ".join(
        f"from {noun} {tail} of {size} on"
        for (noun, _, _), tail, size in zip(AXES[len(spatial)], tails, spatial, strict=True)
        if tail is not None
    )
    return refuse(
        facts,
        "not-correctable",
        "stride-collapse",
        f"the observed output is 0 {where}, and what is before is not the reference: the stride "
        "of a transposed convolution was taken for 1; write it as an insertion of zeros and a "
        "convolution",
    )


def flat_offset(facts: Facts) -> Judgement | None:
    """Name a buffer that is read from the wrong element on; a shift may correct most of it."""
    if facts.registration is None:
        return None
    if any(s != round(s) for s in facts.candidate.shift):
        return None
    offset = find_flat_offset(
        facts.reference[facts.samples],
        facts.observed[facts.samples],
        shift=facts.registration.whole_shift,
        is_searched=facts.level_after > 1,
        tolerance=facts.level.tolerance,
    )
    if offset is None:
        return None
    facts.findings["flat_offset"] = offset
    reason = (
        f"each sample's buffer is read beginning {abs(offset)} "
        f"element{'s' if abs(offset) != 1 else ''} too {'early' if offset > 0 else 'late'}: what "
        "comes into view are the ends of other rows; "
        "read it from its own offset"
    )
    if not facts.is_corrected or not any(facts.candidate.shift):
        return refuse(facts, "not-correctable", "flat-offset", reason)
    reason = f"{helps(facts.choice.chosen, facts.level_after)}; {reason}"
    is_solved = facts.level_after <= 1 and not facts.n_lost
    verdict = "correctable" if is_solved else "partly-correctable"
    return conclude(facts, verdict, "flat-offset", reason, facts.candidate)


def row_stride(facts: Facts) -> Judgement | None:
    """Name rows that are sheared by the padding between them."""
    if facts.registration is None or facts.candidate.rows is not None:
        return None
    stride = facts.row_stride
    if stride is None:
        return None
    facts.findings["row_stride"] = stride
    return refuse(
        facts,
        "not-correctable",
        "row-stride",
        f"rows of {facts.reference.shape[-1]} values were read from a buffer whose rows are "
        f"{stride} values apart, each row sheared further than the last; read the output "
        "through its strides",
    )


def warp(facts: Facts) -> Judgement | None:
    """Name a grid whose positions are displaced by amounts of their own."""
    if facts.registration is None or any(facts.candidate.shift) or facts.level_after <= 1:
        return None
    warp = facts.warp()
    if warp is None:
        return None
    facts.findings["warp"] = list(warp.largest)
    axis = int(np.argmax(warp.largest))
    reason = (
        f"{AXES[len(warp.largest)][axis][0]}s are displaced by amounts of their own, "
        f"{warp.largest[axis]:.2g} {unit(warp.largest)} (rms) about any line, which explains "
        f"{warp.explained:.0%} of the squared error of other samples: coordinates held in fp16; "
        "keep the grid in fp32 or relative to the position, or tile the input"
    )
    if not facts.is_corrected:
        return refuse(facts, "not-correctable", "grid", reason)
    reason = f"{helps(facts.choice.chosen, facts.level_after)}; {reason}"
    return conclude(facts, "partly-correctable", "grid", reason, facts.candidate)


def prefix(facts: Facts) -> Judgement | None:
    """Name what is right up to an element and wrong from there on."""
    if any(facts.candidate.shift):
        return None
    prefix = find_prefix(facts.is_wrong)
    if prefix is None:
        return None
    facts.findings["prefix"] = {"length": prefix.length, "along": prefix.along}
    where = "along the last axis" if prefix.along == "last" else "of each sample's buffer"
    return refuse(
        facts,
        "not-correctable",
        "prefix",
        f"the first {prefix.length} elements {where} are right and {prefix.share:.0%} of those "
        "that follow are wrong: the operation fails from there on; keep it in fp32 or rewrite it",
    )


def _without_line(values: Array, corrected: Array) -> Array:
    """Give each channel's residual without its line of least squares over the values."""
    with np.errstate(invalid="ignore"):  # inf - inf
        left = values - corrected
    for channel in range(values.shape[1]):
        good = np.isfinite(values[:, channel]) & np.isfinite(left[:, channel])
        x, y = values[:, channel][good], left[:, channel][good]
        if x.size < 3 or np.ptp(x) == 0:
            continue
        x, y = x - x.mean(), y - y.mean()
        left[:, channel][good] = y - float(x @ y) / float(x @ x) * x
    return left


def tabulated(facts: Facts) -> Judgement | None:
    """Name an error that is a function of the value."""
    if any(facts.candidate.shift) or facts.level_after <= 1:
        return None
    residual = _without_line(facts.reference, facts.corrected)
    if facts.in_tolerances(residual) <= 1:
        return None  # gain and bias, were they proven
    dependence = value_dependence(facts.reference, residual)
    facts.findings["value_dependence"] = dependence
    if dependence < _OF_VALUE:
        return None
    reason = (
        f"what is left is a function of the value (neighbours by value correlate by "
        f"{dependence:.2f}), as of a look-up table; compose the activation of exact operations"
    )
    if not facts.is_corrected:
        return refuse(facts, "not-correctable", "tabulated", reason)
    reason = f"{helps(facts.choice.chosen, facts.level_after)}; {reason}"
    return conclude(facts, "partly-correctable", "tabulated", reason, facts.candidate)
