# SPDX-License-Identifier: BSD-3-Clause
"""All faults by name, and the texts they are written as."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from convcal.errors import InputError
from convcal.faults.base import KINDS, Fault
from convcal.faults.composition import Compose
from convcal.faults.gains import ChannelAffine, ChannelDead, EdgeGain, LastElem
from convcal.faults.geometry import FracShift, GridQuant, IntShift, ScaleCentre, ScaleCorner
from convcal.faults.memory import FlatOffset, Overlong, RowStride, StrideCollapse
from convcal.faults.noise import Garbage, Noise, PrefixOnly
from convcal.faults.operations import (
    CropOrigin,
    Fp16Epsilon,
    Fp16Grid,
    Fp16Index,
    Fp16Scale,
    LutActivation,
    SliceSaturate,
    StrideOne,
)
from convcal.faults.profiles import PROFILES
from convcal.faults.values import Cliff, Flush, Fp16Round, LutBias, Saturate

__all__ = ["FAULTS", "parse_fault"]

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        CropOrigin,
        StrideOne,
        Fp16Index,
        Fp16Scale,
        Fp16Grid,
        Fp16Epsilon,
        SliceSaturate,
        LutActivation,
        IntShift,
        FracShift,
        ScaleCorner,
        ScaleCentre,
        GridQuant,
        RowStride,
        FlatOffset,
        Overlong,
        StrideCollapse,
        ChannelAffine,
        ChannelDead,
        EdgeGain,
        LastElem,
        Saturate,
        Cliff,
        LutBias,
        Flush,
        Fp16Round,
        Noise,
        Garbage,
        PrefixOnly,
    )
}
"""Every fault that has a name, by its name; a `Compose` has none."""

_READERS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "int | None": int,
    "tuple[int, ...]": lambda text: tuple(int(part) for part in text.split("/")),
    "tuple[float, ...]": lambda text: tuple(float(part) for part in text.split("/")),
    "tuple[str, ...]": lambda text: tuple(text.split("/")),
    "tuple[str, ...] | None": lambda text: tuple(text.split("/")),
}
# A plus sign that leads to a name: not that of 1e+06, nor that of =+inf.
_JOINT = re.compile(r"(?<![=/])\+(?=\s*[a-z])")


def parse_fault(text: str) -> Fault:
    """Read a fault from its text.

    Parameters
    ----------
    text : str
        ``NAME`` or ``NAME:key=value,…``; parameters that are not given have their defaults.
        Several of these, joined by ``+``, are one composition. Or the name of one of `PROFILES`.

    Returns
    -------
    Fault
        With ``parse_fault(str(fault)) == fault``.

    Raises
    ------
    InputError
        If there is no such fault or parameter (the message lists those that there are), a value
        is not accepted, or a fault inside the network is part of a composition.

    Examples
    --------
    >>> parse_fault("crop-origin:variant=half")
    CropOrigin(at=None, variant='half', precision='fp16')
    >>> str(parse_fault("frac-shift:displacement=0.5/-0.25"))
    'frac-shift:displacement=0.5/-0.25'
    >>> parse_fault("int-shift:displacement=2,at=conv_3/conv_4").places
    ('conv_3', 'conv_4')
    >>> parse_fault("flush+fp16-round").faults[0]
    Flush(at=None, on=None, threshold=6.103515625e-05)
    """
    parts = [_single(part) for part in _JOINT.split(text)]
    # Compose itself refuses those that are not of arrays.
    return parts[0] if len(parts) == 1 else Compose(parts)  # type: ignore[arg-type]


def _single(text: str) -> Fault:
    name, _, rest = text.strip().partition(":")
    if name in PROFILES and not rest:
        return PROFILES[name]
    if name not in FAULTS:
        known = ", ".join((*sorted(FAULTS), *PROFILES))
        if name in PROFILES:
            raise InputError(f"the profile '{name}' has no parameters; give its name alone")
        raise InputError(f"there is no fault '{name}'; the faults are {known}")
    fields = FAULTS[name].parameters()
    values: dict[str, Any] = {}
    for item in rest.split(",") if rest else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise InputError(f"the fault {name} has no parameter '{key}'; its parameters: {known}")
        if not equals or key in values:
            raise InputError(f"the fault '{text}' must give '{key}' once, as {key}=VALUE")
        values[key] = _read(name, key, value, kind=fields[key])
    return FAULTS[name](**values)


def _read(name: str, key: str, value: str, *, kind: str) -> Any:
    try:
        return _READERS.get(kind, str)(value)
    except ValueError as error:
        raise InputError(
            f"the fault {name} has {key}='{value}'; it must be {KINDS[kind]}"
        ) from error
