# SPDX-License-Identifier: BSD-3-Clause
"""The documented faults of devices, to emulate them where there is no such device.

A fault has a name and parameters, written ``NAME`` or ``NAME:key=value,key=value`` (what
``--emulate`` takes); values per spatial axis are separated by slashes. Faults of arrays act on
an output and are plain transforms, here; ``+`` joins several. Faults of operations act inside
the network: here are their parameters, in `convcal.runtime` is what they do. Profiles are all
faults that are documented for one device.
"""

from convcal.faults.base import ArrayFault, Fault
from convcal.faults.catalogue import FAULTS, parse_fault
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
from convcal.faults.profiles import PROFILES, Profile, expanded
from convcal.faults.values import Cliff, Flush, Fp16Round, LutBias, Saturate

__all__ = [
    "FAULTS",
    "PROFILES",
    "ArrayFault",
    "ChannelAffine",
    "ChannelDead",
    "Cliff",
    "Compose",
    "CropOrigin",
    "EdgeGain",
    "Fault",
    "FlatOffset",
    "Flush",
    "Fp16Epsilon",
    "Fp16Grid",
    "Fp16Index",
    "Fp16Round",
    "Fp16Scale",
    "FracShift",
    "Garbage",
    "GridQuant",
    "IntShift",
    "LastElem",
    "LutActivation",
    "LutBias",
    "Noise",
    "Overlong",
    "PrefixOnly",
    "Profile",
    "RowStride",
    "Saturate",
    "ScaleCentre",
    "ScaleCorner",
    "SliceSaturate",
    "StrideCollapse",
    "StrideOne",
    "expanded",
    "parse_fault",
]
