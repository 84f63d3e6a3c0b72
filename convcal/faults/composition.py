# SPDX-License-Identifier: BSD-3-Clause
"""Several faults, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from convcal.errors import InputError
from convcal.faults.base import ArrayFault

__all__ = ["Compose"]


@dataclass(frozen=True)
class Compose(ArrayFault):
    """Several faults of arrays at once and at one place, in their order.

    Its text is that of its parts, joined by a plus sign; its place is theirs.

    Parameters
    ----------
    faults : sequence of ArrayFault
        At least two, which act at the same place. Compositions among them are taken apart.

    Notes
    -----
    What undoes the parts, in reverse order, undoes the whole. A fault inside the network comes
    before all of these: on the command line, give ``--emulate`` once for it and once for the rest.

    Examples
    --------
    >>> from convcal.faults import ChannelAffine, IntShift
    >>> str(Compose([IntShift(displacement=(2,)), ChannelAffine(gain=1.5)]))
    'int-shift:displacement=2,fill=edge,seed=0+channel-affine:gain=1.5,bias=0.0'
    """

    name = "compose"
    faults: Sequence[ArrayFault]
    at: str | None = field(init=False, default=None)
    on: tuple[str, ...] | None = field(init=False, default=None)

    def _check(self) -> None:
        parts: list[ArrayFault] = []
        for fault in self.faults:
            if not isinstance(fault, ArrayFault):
                raise InputError(
                    f"'{fault}' is not a fault of arrays; only these can be composed: those "
                    "inside the network are given beside, as another --emulate"
                )
            parts += fault.faults if isinstance(fault, Compose) else [fault]
        if len(parts) < 2:
            raise InputError(f"a composition of {len(parts)} faults; at least two are accepted")
        for part in parts:
            if (part.at, part.on) != (parts[0].at, parts[0].on):
                raise InputError(
                    f"'{part}' does not act where '{parts[0]}' does; the parts of a composition "
                    "act at one place: give the others beside, as another --emulate"
                )
        object.__setattr__(self, "faults", tuple(parts))
        object.__setattr__(self, "at", parts[0].at)
        object.__setattr__(self, "on", parts[0].on)

    def __str__(self) -> str:
        return "+".join(str(fault) for fault in self.faults)

    def _distort(
        self, y: NDArray[Any], channel: int | None, spatial: tuple[int, ...]
    ) -> NDArray[Any]:
        for fault in self.faults:
            y = fault._distort(y, channel, spatial)  # noqa: SLF001 - of our kind
        return y
