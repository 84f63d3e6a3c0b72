# SPDX-License-Identifier: BSD-3-Clause
"""Words and numbers as people read them; names from models are not trusted."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convcal.words import AXES

if TYPE_CHECKING:
    from convcal.correction import Correction
    from convcal.layout import Layout

__all__ = [
    "describe_axes",
    "describe_channels",
    "describe_crop",
    "describe_displacement",
    "describe_margins",
    "describe_scale",
    "in_flags",
    "n_samples",
    "number",
    "plain",
    "printable",
]

LONGEST_NAME = 48
MOST_CHANNELS = 8
"""So many changed channels are named one by one."""
_TOO_FAR = {
    "sample": ("late", "early"),
    "plane": ("far back", "far to the front"),
    "row": ("far down", "far up"),
    "column": ("far right", "far left"),
}
"""What content is too much of when it is displaced by + and by - along an axis."""


def plain(text: str) -> str:
    """Escape what a terminal would act on: control, format and surrogate characters.

    Newlines and tabs stay; `printable` escapes them too.
    """
    return "".join(
        character if character in "\n\t" or not _acts(character) else _escape(character)
        for character in text
    )


def printable(name: str) -> str:
    """Give a name from a model on one line, escaped, its middle cut out where it is very long."""
    text = "".join(_escape(character) if _acts(character) else character for character in name)
    if len(text) <= LONGEST_NAME:
        return text
    half = (LONGEST_NAME - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _acts(character: str) -> bool:
    # Control, format (which turns the direction of text), surrogates, line and paragraph ends.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def in_flags(message: str) -> str:
    """Leave out of a message what a flag is called in Python, as in '--append (append=True)'."""
    return re.sub(r"(--[a-z-]+(?: [A-Z]+)?) \([a-z_]+=\w*\)", r"\1", message)


def n_samples(names: Sequence[str]) -> str:
    """Say how many samples there are."""
    return f"{len(names)} sample{'s' if len(names) != 1 else ''}"


def number(value: float | str, *, digits: int = 4) -> str:
    """Give a metric in few digits; infinities may be text, as in a calibration file."""
    if isinstance(value, str):
        value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}g}"


def describe_axes(shape: Sequence[int], layout: Layout) -> str:
    """Say what the axes of an output are taken for.

    Parameters
    ----------
    shape : sequence of int
        Of one sample's output.
    layout : Layout
        Which of its axes are batch and channels.

    Returns
    -------
    str
        As ``'1 batch, 3 channels, 64 rows, 48 columns'``.
    """
    names = iter(AXES.get(len(layout.spatial_shape(shape)), ()))
    parts = []
    for axis, size in enumerate(shape):
        if axis == layout.batch_axis:
            noun = "batch"
        elif axis == layout.channel_axis:
            noun = "channel" if size == 1 else "channels"
        else:
            name = next(names, ("position", "", ""))[0]
            noun = name if size == 1 else f"{name}s"
        parts.append(f"{size} {noun}")
    return ", ".join(parts) or "a single value"


def describe_displacement(correction: Correction) -> str:
    """Say in words where the observed content sits.

    Parameters
    ----------
    correction : Correction
        With a shift that is not zero.

    Returns
    -------
    str
        As ``'the observed content sits 4 px too far down and 4 px too far right'``; a shift of
        -4 undoes a displacement of +4. The axes are called as in `convcal.words.AXES`.
    """
    names = AXES[len(correction.shift)]
    parts = []
    for (noun, _, _), shift in zip(names, correction.shift, strict=True):
        if shift:
            amount = abs(shift)
            unit = "px" if len(names) > 1 else noun if amount == 1 else f"{noun}s"
            forward, backward = _TOO_FAR[noun]
            parts.append(f"{amount:.5g} {unit} too {forward if shift < 0 else backward}")
    return "the observed content sits " + " and ".join(parts)


def describe_margins(correction: Correction) -> str:
    """Say per spatial axis how many positions at the start and the end have no source.

    Parameters
    ----------
    correction : Correction
        Of up to three spatial axes.

    Returns
    -------
    str
        In 2-D as ``'0 rows at the top and 4 at the bottom, 0 columns at the left and 4 at the
        right'``; axes without margins are left out.
    """
    return _ends(correction.margins)


def describe_crop(correction: Correction) -> str:
    """Say how many positions are dropped at which ends, in the words of `describe_margins`."""
    return _ends(correction.crop)


def _ends(pairs: Sequence[tuple[int, int]]) -> str:
    parts = []
    for (unit, first, last), (start, end) in zip(AXES[len(pairs)], pairs, strict=True):
        if start or end:
            plural = "s" if start != 1 else ""
            parts.append(f"{start} {unit}{plural} at the {first} and {end} at the {last}")
    return ", ".join(parts)


def describe_scale(correction: Correction) -> list[str]:
    """Say how far the observed content is stretched.

    Parameters
    ----------
    correction : Correction
        Of up to three spatial axes.

    Returns
    -------
    list of str
        A line per axis that is scaled, as ``'scale 1.0005 about column 0: the observed content is
        stretched by 0.5 px over 1024 columns'``; a scale below 1 undoes a squeeze.
    """
    lines = []
    for (unit, _, _), size, scale, origin in zip(
        AXES[len(correction.scale)],
        correction.spatial_shape,
        correction.scale,
        correction.origin,
        strict=True,
    ):
        if scale != 1:
            lines.append(
                f"scale {scale:.7g} about {unit} {origin:.5g}: the observed content is "
                f"{'stretched' if scale > 1 else 'squeezed'} by {abs(scale - 1) * size:.3g} "
                f"{'samples' if len(correction.scale) == 1 else 'px'} over {size} {unit}s"
            )
    return lines


def describe_channels(correction: Correction) -> list[str]:
    """Say what becomes of the channels.

    Parameters
    ----------
    correction : Correction
        Of any number of channels.

    Returns
    -------
    list of str
        A line per channel that is changed, as ``'channel 1: gain 0.8696, bias -0.0435'``, channels
        counted from 0; where more than `MOST_CHANNELS` are, the least and the most of all.
    """
    names = [
        name
        for name, is_used in (("gain", correction.has_gain), ("bias", correction.has_bias))
        if is_used
    ]
    values = {name: getattr(correction, name) for name in names}
    changed = [
        channel
        for channel in range(correction.n_channels)
        if (correction.gain[channel], correction.bias[channel]) != (1.0, 0.0)
    ]
    if len(changed) > MOST_CHANNELS:
        return [f"{name} {_range(values[name])}" for name in names]
    lines = []
    for channel in changed:
        words = ", ".join(f"{name} {values[name][channel]:.5g}" for name in names)
        lines.append(words if correction.n_channels == 1 else f"channel {channel}: {words}")
    return lines


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if low == high:
        return f"{low:.5g}"
    return f"{low:.5g} to {high:.5g} over {len(values)} channels"
