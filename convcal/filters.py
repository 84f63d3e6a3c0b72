# SPDX-License-Identifier: BSD-3-Clause
"""Which neighbours along one spatial axis make up a corrected value."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any

from convcal.errors import InputError
from convcal.records import Record

__all__ = ["MAX_OFFSET", "AxisFilter", "SincFilter", "read_filter"]

MAX_TAPS = 64
MAX_OFFSET = 2**24
MAX_BETA = 50.0
"""Bounds on what a calibration file may ask for; far above anything that is ever fitted."""

_KERNEL = "kaiser-sinc"


@dataclass(frozen=True)
class AxisFilter:
    """The same neighbours at every position.

    ``corrected[i] = sum over k of taps[k] * observed[i + offset + k]``, with the edge value
    repeated past the ends.

    Parameters
    ----------
    offset : int
        Where the first tap lies, in pixels from the corrected position.
    taps : tuple of float
        The weights. A whole-pixel shift ``s`` is ``AxisFilter(-s, (1.0,))``.

    Raises
    ------
    InputError
        If there is no tap or more than 64, or a number is not finite or out of range.
    """

    offset: int = 0
    taps: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not 1 <= len(self.taps) <= MAX_TAPS:
            raise InputError(f"a filter has {len(self.taps)} taps; 1 to {MAX_TAPS} are accepted")
        if not all(math.isfinite(tap) for tap in self.taps):
            raise InputError(f"the taps {self.taps} are not all finite")
        if abs(self.offset) > MAX_OFFSET:
            raise InputError(f"the offset {self.offset} is beyond {MAX_OFFSET} pixels")

    @property
    def is_whole(self) -> bool:
        """Whether it copies values without arithmetic."""
        return self.taps == (1.0,)

    @property
    def margins(self) -> tuple[int, int]:
        """How many positions at the start and at the end lack a source."""
        return max(0, -self.offset), max(0, self.offset + len(self.taps) - 1)

    def reaches(self, shift: float) -> bool:
        """Whether the position that a shift looks for lies on the taps; on the only one exactly."""
        return self.offset <= -shift <= self.offset + len(self.taps) - 1

    def to_dict(self) -> dict[str, Any]:
        """Give the filter as it stands in a calibration file."""
        return {"offset": self.offset, "taps": list(self.taps)}


@dataclass(frozen=True)
class SincFilter:
    """A windowed sinc on an axis that is scaled, where every position has its own taps.

    Position ``p`` of the observed output is ``sum over k of taps[k] * observed[first + k]``, with
    ``first = floor(p) - n_taps / 2 + 1``, ``d = first + k - p``, and taps
    ``sinc(d) * I0(beta * sqrt(1 - (2 d / n_taps)^2))`` over the sum of all (`sinc_taps` in
    ``convcal.arithmetic``). The edge value is repeated past the ends. There is no low pass: a
    scale above 1 undoes a stretch, and what was stretched holds nothing that could alias.

    Parameters
    ----------
    n_taps : int
        Even.
    beta : float
        Shape of the Kaiser window.

    Raises
    ------
    InputError
        If the number of taps is odd or not within 2 to 64, or beta not within 0 to 50.
    """

    n_taps: int = 12
    beta: float = 6.0

    def __post_init__(self) -> None:
        if not 2 <= self.n_taps <= MAX_TAPS or self.n_taps % 2:
            raise InputError(
                f"a sinc has {self.n_taps} taps; even numbers from 2 to {MAX_TAPS} are accepted"
            )
        if not 0 <= self.beta <= MAX_BETA:
            raise InputError(f"the beta of a sinc is {self.beta}; 0 to {MAX_BETA:g} are accepted")

    @classmethod
    def for_size(cls, size: int) -> SincFilter:
        """Choose how many taps an axis of `size` pixels can afford: 12, fewer below 48."""
        return cls(min(12, max(2, size // 8 * 2)))

    def margins(
        self, size: int, *, scale: float, origin: float, shift: float, n_found: int
    ) -> tuple[int, int]:
        """Count the positions at the start and at the end that lack a part of their source.

        Parameters
        ----------
        size : int
            How many positions the axis has.
        scale, origin, shift : float
            Position ``i`` is taken from ``origin + scale * (i - origin) - shift``.
        n_found : int
            How many positions of the observed output are real, from the first one on.

        Returns
        -------
        start, end : int
            At most `size` each.
        """

        def first(position: int) -> int:
            return math.floor(origin + scale * (position - origin) - shift) - self.n_taps // 2 + 1

        # The source grows with the position, so that bisection finds where it enters and leaves.
        start = bisect.bisect_left(range(size), 0, key=first)
        end = size - bisect.bisect_left(range(size), n_found - self.n_taps + 1, key=first)
        return start, end

    def to_dict(self) -> dict[str, Any]:
        """Give the filter as it stands in a calibration file."""
        return {"kernel": _KERNEL, "n_taps": self.n_taps, "beta": self.beta}


def read_filter(record: Record) -> AxisFilter | SincFilter:
    """Read a filter from a calibration file.

    Parameters
    ----------
    record : Record
        What `to_dict` of either kind gives.

    Returns
    -------
    AxisFilter or SincFilter

    Raises
    ------
    InputError
        If a key is missing, or a value cannot be used.
    """
    if "kernel" not in record:
        return AxisFilter(record.whole("offset"), record.numbers("taps"))
    if record.value("kernel") != _KERNEL:
        raise InputError(f"'kernel' is {record.value('kernel')!r}; '{_KERNEL}' is accepted")
    return SincFilter(record.whole("n_taps"), record.number("beta"))
